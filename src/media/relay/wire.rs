//! One port of ours: a socket, and another beside it once the first is connected to its peer. Layer: shell.
//!
//! The kernel finds the way to the peer once for a connected socket, and not for each packet. What others send to the port comes to its twin, which
//! is not connected: a peer whose address changes is heard there.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};

use socket2::SockRef;

use super::super::ports;

/// The sockets of a port.
#[derive(Debug)]
pub(super) struct Wire {
    socket: UdpSocket,
    /// Whom it is connected to, and the twin that hears all others.
    connected: Option<(SocketAddr, UdpSocket)>,
}

impl Wire {
    pub(super) fn new(socket: UdpSocket) -> Self {
        Self { socket, connected: None }
    }

    /// Binds the port. A former owner's process may still be closing its sockets: then it fails.
    pub(super) fn bind(local: SocketAddr) -> io::Result<Self> {
        Ok(Self::new(ports::bind(local)?))
    }

    /// How many descriptors it has.
    pub(super) fn sockets(&self) -> usize {
        1 + usize::from(self.connected.is_some())
    }

    /// One of the two: what epoll watches.
    pub(super) fn socket(&self, twin: bool) -> Option<BorrowedFd<'_>> {
        self.of(twin).map(AsFd::as_fd)
    }

    fn of(&self, twin: bool) -> Option<&UdpSocket> {
        match (twin, &self.connected) {
            (false, _) => Some(&self.socket),
            (true, Some((_, twin))) => Some(twin),
            (true, None) => None,
        }
    }

    /// Reads a datagram; none if there is none, as after an error that a former one has come back with.
    pub(super) fn receive(&self, twin: bool, buffer: &mut [u8]) -> Option<(usize, SocketAddr)> {
        self.of(twin)?.recv_from(buffer).ok()
    }

    /// Sends a datagram; tells whether it has gone.
    pub(super) fn send(&self, packet: &[u8], to: SocketAddr) -> bool {
        if self.connected.as_ref().is_none_or(|(peer, _)| *peer != to) {
            return self.socket.send_to(packet, to).is_ok();
        }
        match self.socket.send(packet) {
            Ok(_) => true,
            // It has told that a former one found nobody, and sent nothing.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => self.socket.send(packet).is_ok(),
            Err(_) => false,
        }
    }

    /// Whether it is connected to somebody else than this one, or to nobody.
    pub(super) fn is_apart(&self, peer: SocketAddr) -> bool {
        self.connected.as_ref().is_none_or(|(connected, _)| *connected != peer)
    }

    /// Connects the port to a peer; tells whether there is a twin to watch that wasn't there. After an error it is as it was.
    pub(super) fn connect(&mut self, local: SocketAddr, peer: SocketAddr) -> io::Result<bool> {
        if let Some((connected, _)) = &mut self.connected {
            self.socket.connect(peer)?;
            *connected = peer;
            return Ok(false);
        }
        // The twin may bind the port for as long as both say that it may: no others' socket is let in, and none of ours where one is another's.
        SockRef::from(&self.socket).set_reuse_address(true)?;
        let twin = ports::bind_beside(local);
        SockRef::from(&self.socket).set_reuse_address(false)?;
        let twin = twin?;
        SockRef::from(&twin).set_reuse_address(false)?;
        self.socket.connect(peer)?;
        self.connected = Some((peer, twin));
        Ok(true)
    }
}

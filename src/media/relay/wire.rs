//! One port of ours: a socket, and another beside it once the first is connected to its peer. Layer: shell.
//!
//! The kernel finds the way to the peer once for a connected socket, and not for each packet. What others send to the port comes to its twin, which
//! is not connected: a peer whose address changes is heard there.

use std::cell::Cell;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};

use socket2::SockRef;

use super::super::ports;

/// So many datagrams of a new twin are read before what comes to the socket then: no more can have come between the two.
const BETWEEN: u8 = 64;

/// The sockets of a port.
#[derive(Debug)]
pub(super) struct Wire {
    socket: UdpSocket,
    /// Whom it is connected to, and the twin that hears all others.
    connected: Option<(SocketAddr, UdpSocket)>,
    /// How many the twin may still have that came before those of the socket.
    between: Cell<u8>,
}

impl Wire {
    /// What it sends is marked by this code point (RFC 2474).
    pub(super) fn new(socket: UdpSocket, dscp: u8) -> Self {
        // A mark that can't be set costs no call its sound.
        if let Err(error) = mark(&socket, dscp) {
            tracing::warn!(%error, dscp, "media are not marked");
        }
        Self { socket, connected: None, between: Cell::new(0) }
    }

    /// Binds the port. A former owner's process may still be closing its sockets: then it fails.
    pub(super) fn bind(local: SocketAddr, dscp: u8) -> io::Result<Self> {
        Ok(Self::new(ports::bind(local)?, dscp))
    }

    /// How many descriptors it has.
    pub(super) fn sockets(&self) -> usize {
        1 + usize::from(self.connected.is_some())
    }

    /// What epoll watches.
    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// What it watches besides, if the port is connected.
    pub(super) fn twin(&self) -> Option<BorrowedFd<'_>> {
        self.connected.as_ref().map(|(_, twin)| twin.as_fd())
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
        if !twin && self.between.get() > 0 {
            self.between.set(self.between.get() - 1);
            if let Some(earlier) = self.of(true).and_then(|twin| twin.recv_from(buffer).ok()) {
                return Some(earlier);
            }
            self.between.set(0);
        }
        self.of(twin)?.recv_from(buffer).ok()
    }

    /// Sends a datagram; tells whether it has gone.
    pub(super) fn send(&self, packet: &[u8], to: SocketAddr) -> bool {
        let send = || match self.is_apart(to) {
            true => self.socket.send_to(packet, to),
            false => self.socket.send(packet),
        };
        match send() {
            Ok(_) => true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            // A connected socket tells of a former one that found nobody, and sends nothing.
            Err(_) => send().is_ok(),
        }
    }

    /// Whether something waits at the socket.
    pub(super) fn waits(&self) -> bool {
        self.socket.peek(&mut [0]).is_ok()
    }

    /// Whether it is connected to somebody else than this one, or to nobody.
    pub(super) fn is_apart(&self, peer: SocketAddr) -> bool {
        self.connected.as_ref().is_none_or(|(connected, _)| *connected != peer)
    }

    /// Connects the port to a peer; if it wasn't connected, it gets a twin that `watch` has read. After an error it is as it was.
    ///
    /// The twin is bound after the socket and closed after it: the kernel looks for early demultiplexing at the one that was bound last, and would not
    /// forward the packets of an address that has gone if that one were connected (ADR 17).
    pub(super) fn connect(
        &mut self,
        local: SocketAddr,
        peer: SocketAddr,
        watch: impl FnOnce(BorrowedFd<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        if let Some((connected, _)) = &mut self.connected {
            self.socket.connect(peer)?;
            *connected = peer;
            return Ok(());
        }
        // For as long as it takes the port may be bound by who says so too, and not longer: whether somebody has it is how a port is found free.
        SockRef::from(&self.socket).set_reuse_address(true)?;
        let twin = ports::bind_beside(local);
        SockRef::from(&self.socket).set_reuse_address(false)?;
        let twin = twin?;
        SockRef::from(&twin).set_reuse_address(false)?;
        watch(twin.as_fd())?;
        self.socket.connect(peer)?;
        self.connected = Some((peer, twin));
        self.between.set(BETWEEN);
        Ok(())
    }

    /// It is one socket again, which hears everybody. What the twin has not been read of is lost.
    pub(super) fn disconnect(&mut self) -> io::Result<()> {
        rustix::net::connect_unspec(&self.socket)?;
        self.connected = None;
        Ok(())
    }
}

/// The code point is the upper six bits of the octet; the others are of the network (RFC 3168).
fn mark(socket: &UdpSocket, dscp: u8) -> io::Result<()> {
    let octet = u32::from(dscp) << 2;
    match (octet, socket.local_addr()?) {
        (0, _) => Ok(()),
        (_, SocketAddr::V4(_)) => SockRef::from(socket).set_tos_v4(octet),
        (_, SocketAddr::V6(_)) => SockRef::from(socket).set_tclass_v6(octet),
    }
}

//! One port of ours: a socket, and another beside it once the first is connected to its peer. Layer: shell.
//!
//! The kernel finds the way to the peer once for a connected socket, and not for each packet. What others send to the port comes to its twin, which
//! is not connected: a peer whose address changes is heard there.
//!
//! ```text
//!  one socket ──▶ a twin: what comes goes there, and the socket is read until nothing waits ──▶ connected: what the twin has had is read first
//! ```

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};

use socket2::SockRef;

use super::super::ports;

/// So many datagrams of a twin are read before what comes to the socket once it is connected: no more can have come between the two.
const BETWEEN: u8 = 64;

/// The sockets of a port.
#[derive(Debug)]
pub(super) struct Wire {
    socket: UdpSocket,
    beside: Option<Beside>,
}

/// What hears those whom the socket doesn't.
#[derive(Debug)]
struct Beside {
    twin: UdpSocket,
    /// Whom the socket is, or will be, connected to.
    peer: SocketAddr,
    is_connected: bool,
    /// So many the twin may still have that came before those of the socket.
    between: u8,
}

impl Wire {
    /// What it sends is marked by this code point (RFC 2474).
    pub(super) fn new(socket: UdpSocket, dscp: u8) -> Self {
        // A mark that can't be set costs no call its sound.
        if let Err(error) = mark(&socket, dscp) {
            tracing::warn!(%error, dscp, "media are not marked");
        }
        Self { socket, beside: None }
    }

    /// Binds the port. A former owner's process may still be closing its sockets: then it fails.
    pub(super) fn bind(local: SocketAddr, dscp: u8) -> io::Result<Self> {
        Ok(Self::new(ports::bind(local)?, dscp))
    }

    /// How many descriptors it has.
    pub(super) fn sockets(&self) -> usize {
        1 + usize::from(self.beside.is_some())
    }

    /// What epoll watches.
    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// What it watches besides, if there is one.
    pub(super) fn twin(&self) -> Option<BorrowedFd<'_>> {
        self.beside.as_ref().map(|beside| beside.twin.as_fd())
    }

    /// Reads a datagram of either socket, in the order in which they came; none if there is none, as after an error that a former one has come back with.
    pub(super) fn receive(&mut self, twin: bool, buffer: &mut [u8]) -> Option<(usize, SocketAddr)> {
        let Self { socket, beside } = self;
        match beside {
            Some(Beside { twin, peer, is_connected, between }) if !*is_connected => {
                if let Ok(earlier) = socket.recv_from(buffer) {
                    return Some(earlier);
                }
                // After an error it is tried with the next.
                (*is_connected, *between) = (socket.connect(*peer).is_ok(), BETWEEN);
                twin.recv_from(buffer).ok()
            }
            Some(Beside { twin: beside, between, .. }) if !twin && *between > 0 => {
                *between -= 1;
                if let Ok(earlier) = beside.recv_from(buffer) {
                    return Some(earlier);
                }
                *between = 0;
                socket.recv_from(buffer).ok()
            }
            Some(Beside { twin: beside, .. }) if twin => beside.recv_from(buffer).ok(),
            None if twin => None,
            Some(_) | None => socket.recv_from(buffer).ok(),
        }
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

    /// Whether it is connected to somebody else than this one, or to nobody.
    pub(super) fn is_apart(&self, peer: SocketAddr) -> bool {
        self.beside.as_ref().is_none_or(|beside| !beside.is_connected || beside.peer != peer)
    }

    /// Connects the port to a peer, as soon as what waits has been read; if it wasn't connected, it gets a twin that `watch` has read. After an error it is as
    /// it was.
    ///
    /// The twin is bound after the socket and closed after it: the kernel looks for early demultiplexing at the one that was bound last, and would not
    /// forward the packets of an address that has gone if that one were connected (ADR 17).
    pub(super) fn connect(
        &mut self,
        local: SocketAddr,
        peer: SocketAddr,
        watch: impl FnOnce(BorrowedFd<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        if let Some(beside) = &mut self.beside {
            if beside.is_connected {
                self.socket.connect(peer)?;
            }
            beside.peer = peer;
            return Ok(());
        }
        // For as long as it takes the port may be bound by who says so too, and not longer: whether somebody has it is how a port is found free.
        SockRef::from(&self.socket).set_reuse_address(true)?;
        let twin = ports::bind_beside(local);
        SockRef::from(&self.socket).set_reuse_address(false)?;
        let twin = twin?;
        SockRef::from(&twin).set_reuse_address(false)?;
        watch(twin.as_fd())?;
        self.beside = Some(Beside { twin, peer, is_connected: false, between: 0 });
        Ok(())
    }

    /// It is one socket again, which hears everybody. What the twin has not been read of is lost.
    pub(super) fn disconnect(&mut self) -> io::Result<()> {
        rustix::net::connect_unspec(&self.socket)?;
        self.beside = None;
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

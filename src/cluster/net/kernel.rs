//! The kernel's sockets, by numbers that a dying process gives up first. Layer: shell.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::FutureExt;
use mio::net::UdpSocket;
use mio::{Events, Interest, Poll, Token};
pub use tokio::net::{TcpListener, TcpStream};

use crate::cluster::descriptor;
use crate::cluster::priority::before_others;

const WAKE: Token = Token(0);
const SOCKET: Token = Token(1);

/// Listens for peers.
pub async fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address).await?.into_std()?;
    TcpListener::from_std(descriptor::high(listener))
}

/// Connects to a peer.
pub async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    ours(TcpStream::connect(address).await?)
}

/// Takes the next connection of a peer.
pub async fn accept(listener: &TcpListener) -> io::Result<TcpStream> {
    ours(listener.accept().await?.0)
}

/// A connection as the wire wants it: nothing waits to be sent with more, and a peer's death shows at once.
fn ours(stream: TcpStream) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    TcpStream::from_std(descriptor::high(stream.into_std()?))
}

/// A socket for datagrams, for a thread that does nothing but read it.
pub struct Datagrams {
    poll: Poll,
    events: Events,
    socket: UdpSocket,
}

/// Wakes whoever waits in [`Datagrams::wait`].
pub struct Waker(mio::Waker);

impl Waker {
    /// Now.
    pub fn wake(&self) {
        // It wakes by itself in a moment.
        let _ = self.0.wake();
    }
}

impl Datagrams {
    /// Binds `address`.
    pub fn bind(address: SocketAddr) -> io::Result<(Self, Waker)> {
        let poll = Poll::new()?;
        let waker = mio::Waker::new(poll.registry(), WAKE)?;
        let socket = std::net::UdpSocket::bind(address)?;
        socket.set_nonblocking(true)?;
        let mut socket = UdpSocket::from_std(descriptor::high(socket));
        poll.registry().register(&mut socket, SOCKET, Interest::READABLE)?;
        Ok((Self { poll, events: Events::with_capacity(8), socket }, Waker(waker)))
    }

    /// Waits until something comes, somebody wakes it, which it says, or so much time has passed. Blocks, and is never pending.
    pub async fn wait(&mut self, at_most: Duration) -> io::Result<bool> {
        match self.poll.poll(&mut self.events, Some(at_most)) {
            Ok(()) => Ok(self.events.iter().any(|event| event.token() == WAKE)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The next datagram, if there is one.
    pub fn recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.socket.recv_from(buffer)
    }

    /// Sends a datagram.
    pub fn send_to(&self, datagram: &[u8], to: SocketAddr) -> io::Result<usize> {
        self.socket.send_to(datagram, to)
    }
}

/// Runs what waits in [`Datagrams::wait`] alone, in a thread of its own that a busy machine doesn't keep waiting.
pub fn run_before_others(name: &str, what: impl Future<Output = ()> + Send + 'static) -> io::Result<()> {
    let run = move || {
        before_others();
        what.now_or_never();
    };
    std::thread::Builder::new().name(name.into()).spawn(run).map(drop)
}

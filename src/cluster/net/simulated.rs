//! Sockets of turmoil's network. Layer: shell, in tests.
//!
//! turmoil says *refused* of each connection whose first packet is lost, and the engine takes that for death. So whoever is
//! refused here asks the [`kernel`] of the other host, over the same network: only its word counts.

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::Notify;
use turmoil::net::UdpSocket;
pub use turmoil::net::{TcpListener, TcpStream};

/// Where a host's kernel answers.
const KERNEL: u16 = 1;

/// A host has one address, and turmoil binds no other.
fn here(address: SocketAddr) -> SocketAddr {
    (Ipv4Addr::UNSPECIFIED, address.port()).into()
}

/// Listens for peers.
pub async fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(here(address)).await
}

/// Connects to a peer.
pub async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    loop {
        match TcpStream::connect(address).await {
            // Lost, or it came before somebody listened: TCP tries again.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused && !refuses(address).await? => {}
            connected => return connected,
        }
    }
}

/// Whether the host at `address` lives and nobody listens there; a host that says nothing is waited for.
async fn refuses(address: SocketAddr) -> io::Result<bool> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    socket.send_to(&address.port().to_be_bytes(), (address.ip(), KERNEL)).await?;
    let mut answer = [0];
    socket.recv_from(&mut answer).await?;
    Ok(answer == [0])
}

/// Says to whoever asks whether somebody listens, as long as the host has power.
pub async fn kernel() -> io::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, KERNEL)).await?;
    loop {
        let mut port = [0; 2];
        let (_, from) = socket.recv_from(&mut port).await?;
        let is_free = TcpListener::bind((Ipv4Addr::UNSPECIFIED, u16::from_be_bytes(port))).await.is_ok();
        socket.send_to(&[u8::from(!is_free)], from).await?;
    }
}

/// Takes the next connection of a peer.
pub async fn accept(listener: &TcpListener) -> io::Result<TcpStream> {
    Ok(listener.accept().await?.0)
}

/// A socket for datagrams, for a task that does nothing but read it.
pub struct Datagrams {
    socket: UdpSocket,
    woken: Arc<Notify>,
}

/// Wakes whoever waits in [`Datagrams::wait`].
pub struct Waker(Arc<Notify>);

impl Waker {
    /// Now.
    pub fn wake(&self) {
        self.0.notify_one();
    }
}

impl Datagrams {
    /// Binds `address`.
    pub fn bind(address: SocketAddr) -> io::Result<(Self, Waker)> {
        let socket = UdpSocket::bind(here(address)).now_or_never().ok_or(io::ErrorKind::WouldBlock)??;
        let woken = Arc::new(Notify::new());
        Ok((Self { socket, woken: woken.clone() }, Waker(woken)))
    }

    /// Waits until something comes, somebody wakes it, which it says, or so much time has passed.
    pub async fn wait(&mut self, at_most: Duration) -> io::Result<bool> {
        tokio::select! {
            biased;
            () = self.woken.notified() => Ok(true),
            readable = self.socket.readable() => readable.map(|()| false),
            () = tokio::time::sleep(at_most) => Ok(false),
        }
    }

    /// The next datagram, if there is one.
    pub fn recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.socket.try_recv_from(buffer)
    }

    /// Sends a datagram.
    pub fn send_to(&self, datagram: &[u8], to: SocketAddr) -> io::Result<usize> {
        self.socket.try_send_to(datagram, to)
    }
}

/// Runs what waits in [`Datagrams::wait`] alone. Time stands still while anybody has something to do: nobody is kept waiting.
pub fn run_before_others(_: &str, what: impl Future<Output = ()> + Send + 'static) -> io::Result<()> {
    tokio::spawn(what);
    Ok(())
}

//! SIP over a connection (RFC 3261 §18): a task reads messages from it and writes those that are for it. Layer: shell.
//!
//! A connection holds little while it is silent, since most are. It ends when its peer leaves, when what it sends is no SIP, when it
//! doesn't read, when a message that was begun doesn't get whole, when nobody on it proves soon to be a user, or after a registration's
//! time without a word. What a connection
//! loses when it ends is said again by whoever said it, on the one that the phone makes next ([`super::comeback`]).

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use super::services::Services;
use super::{router, transport, websocket};
use crate::clock;
use crate::fence::Fence;
use crate::ids::VnodeId;
use crate::sip::dialog::Flow;
use crate::sip::framing::{Frame, Framer};
use crate::sip::guard::Outcome;
use crate::sip::headers::Transport;

/// A connection of ours must be there within this.
const DIAL: Duration = Duration::from_secs(2);
/// The first message must come within this, and one that was begun must get whole.
pub(super) const WHOLE: Duration = Duration::from_secs(10);
/// Somebody on it must prove to be a user within this.
const STRANGER: Duration = Duration::from_secs(60);
/// A peer must read within this what it is sent.
const WRITE: Duration = Duration::from_secs(5);
/// So long a phone may be silent beyond its registration.
const MARGIN: Duration = Duration::from_secs(60);
/// A peer that is silent is asked this often, by TCP itself, whether it is there, and given up after that many times.
const PROBE: Duration = Duration::from_secs(30);
const PROBES: u32 = 4;
/// After an error of accept, as when descriptors have run out.
const PAUSE: Duration = Duration::from_millis(100);
/// Read at once.
const READ: usize = 8192;

/// Accepts a vnode's connections, for ever.
pub async fn accept(
    services: Arc<Services>,
    vnode: VnodeId,
    transport: Transport,
    local: SocketAddr,
    listener: Arc<TcpListener>,
) {
    loop {
        let (stream, remote) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%vnode, %error, "a connection was not accepted");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        if !services.hears(transport, remote) {
            metrics::counter!("tandem_sip_unheard_total").increment(1);
            continue;
        }
        if let Err(error) = prepare(&stream) {
            tracing::debug!(%vnode, %error, "a connection that has ended already");
            continue;
        }
        let flow = Flow { vnode, transport, local, remote, connection: rand::random_range(1..=u32::MAX) };
        let served = services.clone();
        transport::connect(&services, flow, |place, out| async move {
            let ended = begin(&served, flow, stream, out).await;
            match ended {
                Ended::NoSip | Ended::NoTls | Ended::TooSlow => served.learn(transport, remote, Outcome::Rubbish),
                // Free to users.
                Ended::ByPeer | Ended::Stranger | Ended::Idle | Ended::Fenced | Ended::Unreached => {
                    served.learn(transport, remote, Outcome::Nothing)
                }
            }
            tracing::debug!(%vnode, %remote, ended = ended.as_str(), "connection");
            metrics::counter!("tandem_sip_connections_ended_total", "why" => ended.as_str()).increment(1);
            drop(place);
        });
    }
}

/// Connects to a server, or to a phone that listens. What is for it waits meanwhile.
pub fn dial(services: &Arc<Services>, flow: Flow) {
    let served = services.clone();
    transport::connect(services, flow, |place, out| async move {
        let ended = Box::pin(call(&served, flow, out)).await;
        tracing::debug!(vnode = %flow.vnode, remote = %flow.remote, ended = ended.as_str(), "connection of ours");
        metrics::counter!("tandem_sip_connections_ended_total", "why" => ended.as_str()).increment(1);
        drop(place);
    });
}

async fn call(services: &Arc<Services>, flow: Flow, out: mpsc::Receiver<Bytes>) -> Ended {
    let stream = match timeout(DIAL, reach(flow)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::info!(vnode = %flow.vnode, remote = %flow.remote, %error, "no connection");
            return Ended::Unreached;
        }
        Err(_) => return Ended::Unreached,
    };
    services.learn(flow.transport, flow.remote, Outcome::Welcome);
    if flow.transport != Transport::Tls {
        return Box::pin(carry(services, flow, stream, out)).await;
    }
    let name = services.elsewhere.name_of(&services.config, flow.vnode, flow.remote).await;
    let (Some(tls), Some(name)) = (&services.tls, name.and_then(|name| ServerName::try_from(name).ok())) else {
        return Ended::NoTls;
    };
    match timeout(WHOLE, Box::pin(tls.connector.connect(name, stream))).await {
        Ok(Ok(stream)) => Box::pin(carry(services, flow, stream, out)).await,
        Ok(Err(error)) => {
            tracing::warn!(vnode = %flow.vnode, remote = %flow.remote, %error, "no TLS with a server");
            Ended::NoTls
        }
        Err(_) => Ended::TooSlow,
    }
}

/// A connection from the vnode's address. One that is refused is refused; anything else may be over in a moment, as when the address has
/// just come.
async fn reach(flow: Flow) -> io::Result<TcpStream> {
    loop {
        let socket = if flow.remote.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        let connected = match socket.bind(SocketAddr::new(flow.local.ip(), 0)) {
            Ok(()) => socket.connect(flow.remote).await,
            Err(error) => Err(error),
        };
        match connected {
            Ok(stream) => {
                prepare(&stream)?;
                return Ok(stream);
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Err(error),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// What a transport's connections begin with, and then what all of them do. Boxed: one is as large as it must be.
async fn begin(services: &Arc<Services>, flow: Flow, stream: TcpStream, out: mpsc::Receiver<Bytes>) -> Ended {
    match flow.transport {
        Transport::Udp | Transport::Tcp => Box::pin(carry(services, flow, stream, out)).await,
        Transport::Ws => Box::pin(websocket::carry(services, flow, stream, out)).await,
        Transport::Tls | Transport::Wss => {
            let Some(tls) = &services.tls else { return Ended::NoTls };
            let stream = match timeout(WHOLE, Box::pin(tls.acceptor.accept(stream))).await {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => {
                    tracing::debug!(vnode = %flow.vnode, %error, "no TLS");
                    return Ended::NoTls;
                }
                Err(_) => return Ended::TooSlow,
            };
            let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
            if let Some(peer) = shown.and_then(|certificate| services.peer_with(certificate)) {
                services.sockets.identify(&flow, peer);
            }
            if flow.transport == Transport::Tls {
                Box::pin(carry(services, flow, stream, out)).await
            } else {
                Box::pin(websocket::carry(services, flow, stream, out)).await
            }
        }
    }
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new().with_time(PROBE).with_interval(PROBE).with_retries(PROBES);
    socket.set_tcp_keepalive(&keepalive)?;
    // Its end is heard at once, and nothing of it is left here to speak up after the address has moved.
    socket.set_linger(Some(Duration::ZERO))
}

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    ByPeer,
    NoSip,
    NoTls,
    TooSlow,
    Stranger,
    Idle,
    /// Its vnode is, or may be, another node's.
    Fenced,
    /// There was none: nobody is there.
    Unreached,
}

impl Ended {
    fn as_str(self) -> &'static str {
        match self {
            Self::ByPeer => "peer",
            Self::NoSip => "no_sip",
            Self::NoTls => "no_tls",
            Self::TooSlow => "too_slow",
            Self::Stranger => "stranger",
            Self::Idle => "idle",
            Self::Fenced => "fenced",
            Self::Unreached => "unreached",
        }
    }
}

/// Reads and writes until it ends.
async fn carry<S: AsyncRead + AsyncWrite + Unpin>(
    services: &Arc<Services>,
    flow: Flow,
    mut stream: S,
    mut out: mpsc::Receiver<Bytes>,
) -> Ended {
    let fence = services.fence(flow.vnode);
    let mut framer = Framer::default();
    // Whom we have called speaks when asked.
    let mut whole_by = Some(Instant::now() + WHOLE).filter(|_| !flow.is_dialed());
    let mut patience = Patience::new(services);
    if flow.is_dialed() {
        patience.stranger = None;
    }
    loop {
        tokio::select! {
            read = poll_fn(|context| poll_read(context, &mut stream, &mut framer)) => {
                if !read.is_ok_and(|length| length > 0) {
                    return Ended::ByPeer;
                }
                let mut whole = false;
                loop {
                    match framer.next_frame() {
                        Ok(Some(Frame::Message(bytes))) => route(services, flow, &bytes),
                        Ok(Some(Frame::Ping)) => {
                            if let Err(ended) = write(&mut stream, &fence, b"\r\n").await {
                                return ended;
                            }
                        }
                        Ok(Some(Frame::Pong)) => {}
                        Ok(None) => break,
                        Err(error) => {
                            tracing::debug!(vnode = %flow.vnode, %error, "no SIP");
                            return Ended::NoSip;
                        }
                    }
                    whole = true;
                }
                if whole {
                    patience.heard(services);
                }
                whole_by = match (framer.is_midway(), whole) {
                    (false, true) => None,
                    (true, true) => Some(Instant::now() + WHOLE),
                    (true, false) => whole_by.or_else(|| Some(Instant::now() + WHOLE)),
                    (false, false) => whole_by,
                };
                framer.shrink();
            }
            bytes = out.recv() => {
                let Some(bytes) = bytes else { return Ended::ByPeer };
                if let Err(ended) = write(&mut stream, &fence, &bytes).await {
                    return ended;
                }
            }
            () = sleep_until(whole_by.unwrap_or(patience.until()).min(patience.until())) => {
                if whole_by.is_some_and(|by| by <= Instant::now()) {
                    return Ended::TooSlow;
                }
                if let Some(ended) = patience.ended(services, flow) {
                    return ended;
                }
            }
        }
    }
}

/// How long a connection is kept.
pub(super) struct Patience {
    /// Until somebody must have proved to be a user; none when somebody has.
    stranger: Option<Instant>,
    idle: Instant,
}

impl Patience {
    pub(super) fn new(services: &Services) -> Self {
        Self { stranger: Some(Instant::now() + STRANGER), idle: idle_at(services) }
    }

    /// A message came.
    pub(super) fn heard(&mut self, services: &Services) {
        self.idle = idle_at(services);
    }

    /// When to ask whether it has ended.
    pub(super) fn until(&self) -> Instant {
        self.stranger.map_or(self.idle, |stranger| stranger.min(self.idle))
    }

    /// Whether it has.
    pub(super) fn ended(&mut self, services: &Services, flow: Flow) -> Option<Ended> {
        let now = Instant::now();
        if self.stranger.take_if(|until| *until <= now).is_some() && services.is_stranger(flow.remote) {
            return Some(Ended::Stranger);
        }
        (self.idle <= now).then_some(Ended::Idle)
    }
}

fn idle_at(services: &Services) -> Instant {
    Instant::now() + Duration::from_secs(services.config.registration.max.into()) + MARGIN
}

/// Reads what is there into a buffer on the stack: a silent connection has none.
fn poll_read<S: AsyncRead + Unpin>(
    context: &mut std::task::Context<'_>,
    stream: &mut S,
    framer: &mut Framer,
) -> std::task::Poll<io::Result<usize>> {
    let mut room = [MaybeUninit::uninit(); READ];
    let mut buffer = ReadBuf::uninit(&mut room);
    Pin::new(stream).poll_read(context, &mut buffer).map_ok(|()| {
        framer.push(buffer.filled());
        buffer.filled().len()
    })
}

async fn write<S: AsyncWrite + Unpin>(stream: &mut S, fence: &Fence, bytes: &[u8]) -> Result<(), Ended> {
    let all = async {
        stream.write_all(bytes).await?;
        stream.flush().await
    };
    written(fence, all).await
}

/// Carries a write out, unless the vnode may be another node's by now: what waited here for long may not be said any more.
pub(super) async fn written<E>(fence: &Fence, writing: impl Future<Output = Result<(), E>>) -> Result<(), Ended> {
    if !fence.may_send(clock::uptime()) {
        return Err(Ended::Fenced);
    }
    match timeout(WRITE, writing).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(Ended::ByPeer),
        Err(_) => Err(Ended::TooSlow),
    }
}

/// No message may end its connection by a fault of ours.
pub(super) fn route(services: &Arc<Services>, flow: Flow, bytes: &Bytes) {
    if !services.hears(flow.transport, flow.remote) {
        metrics::counter!("tandem_sip_unheard_total").increment(1);
        return;
    }
    let routed = std::panic::catch_unwind(AssertUnwindSafe(|| router::arrived(services, flow, bytes)));
    if routed.is_err() {
        metrics::counter!("tandem_actor_restarts_total", "actor" => "edge").increment(1);
        tracing::error!(vnode = %flow.vnode, "a message caused a panic and was dropped");
    }
}

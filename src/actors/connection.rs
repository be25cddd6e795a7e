//! SIP over a connection (RFC 3261 §18): a task reads messages from it and writes those that are for it. Layer: shell.
//!
//! A connection holds little while it is silent, since most are. It ends when its peer leaves, when what it sends is no SIP, when it
//! doesn't read, when a message that was begun doesn't get whole, or after a registration's time without a word. What a connection
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
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use super::services::Services;
use super::{router, transport, websocket};
use crate::ids::VnodeId;
use crate::sip::dialog::Flow;
use crate::sip::framing::{Frame, Framer};
use crate::sip::guard::Outcome;
use crate::sip::headers::Transport;

/// The first message must come within this, and one that was begun must get whole.
pub(super) const WHOLE: Duration = Duration::from_secs(10);
/// A peer must read within this what it is sent.
pub(super) const WRITE: Duration = Duration::from_secs(5);
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
        if !services.hears(remote) {
            metrics::counter!("tandem_sip_unheard_total").increment(1);
            continue;
        }
        if let Err(error) = prepare(&stream) {
            tracing::debug!(%vnode, %error, "a connection that has ended already");
            continue;
        }
        let flow = Flow { vnode, transport, local, remote };
        let served = services.clone();
        transport::connect(&services, flow, |place, out| async move {
            let ended = begin(&served, flow, stream, out).await;
            if matches!(ended, Ended::NoSip | Ended::NoTls | Ended::TooSlow) {
                served.learn(flow.remote, Outcome::Rubbish);
            }
            tracing::debug!(%vnode, %remote, ended = ended.as_str(), "connection");
            metrics::counter!("tandem_sip_connections_ended_total", "why" => ended.as_str()).increment(1);
            drop(place);
        });
    }
}

/// What a transport's connections begin with, and then what all of them do. Boxed: one is as large as it must be.
async fn begin(services: &Arc<Services>, flow: Flow, stream: TcpStream, out: mpsc::Receiver<Bytes>) -> Ended {
    match flow.transport {
        Transport::Udp | Transport::Tcp => Box::pin(carry(services, flow, stream, out)).await,
        Transport::Ws => Box::pin(websocket::carry(services, flow, stream, out)).await,
        Transport::Tls | Transport::Wss => {
            let Some(acceptor) = &services.tls else { return Ended::NoTls };
            let stream = match timeout(WHOLE, Box::pin(acceptor.accept(stream))).await {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => {
                    tracing::debug!(vnode = %flow.vnode, %error, "no TLS");
                    return Ended::NoTls;
                }
                Err(_) => return Ended::TooSlow,
            };
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
    Idle,
}

impl Ended {
    fn as_str(self) -> &'static str {
        match self {
            Self::ByPeer => "peer",
            Self::NoSip => "no_sip",
            Self::NoTls => "no_tls",
            Self::TooSlow => "too_slow",
            Self::Idle => "idle",
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
    let idle = idle(services);
    let mut framer = Framer::default();
    let mut whole_by = Some(Instant::now() + WHOLE);
    let mut idle_at = Instant::now() + idle;
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
                            if !write(&mut stream, b"\r\n").await {
                                return Ended::TooSlow;
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
                    idle_at = Instant::now() + idle;
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
                if !write(&mut stream, &bytes).await {
                    return Ended::TooSlow;
                }
            }
            () = sleep_until(whole_by.unwrap_or(idle_at)) => {
                return if whole_by.is_some() { Ended::TooSlow } else { Ended::Idle };
            }
        }
    }
}

/// How long a connection may be silent.
pub(super) fn idle(services: &Services) -> Duration {
    Duration::from_secs(services.config.registration.max.into()) + MARGIN
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

async fn write<S: AsyncWrite + Unpin>(stream: &mut S, bytes: &[u8]) -> bool {
    let all = async {
        stream.write_all(bytes).await?;
        stream.flush().await
    };
    timeout(WRITE, all).await.is_ok_and(|written| written.is_ok())
}

/// No message may end its connection by a fault of ours.
pub(super) fn route(services: &Arc<Services>, flow: Flow, bytes: &Bytes) {
    if !services.hears(flow.remote) {
        metrics::counter!("tandem_sip_unheard_total").increment(1);
        return;
    }
    let routed = std::panic::catch_unwind(AssertUnwindSafe(|| router::arrived(services, flow, bytes)));
    if routed.is_err() {
        metrics::counter!("tandem_actor_restarts_total", "actor" => "edge").increment(1);
        tracing::error!(vnode = %flow.vnode, "a message caused a panic and was dropped");
    }
}

//! The edge of one vnode: SIP's sockets on its address. Layer: shell.
//!
//! Binding is taking (`address.mode = "loopback"`): a former owner that is still closing makes us wait, and
//! never are two bound at once. The sockets are bound first and read last: what comes in while the vnode's actors are made
//! waits in the kernel. What is read is routed where it is read; nothing queues here. Whoever ends the edge
//! closes its sockets and connections ([`super::transport::Sockets::close`]).

use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use ractor_cluster::RactorMessage;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, UdpSocket};

use super::services::Services;
use super::{connection, router};
use crate::clock;
use crate::config::{Config, Sip};
use crate::ids::VnodeId;
use crate::sip::dialog::Flow;
use crate::sip::guard::Outcome;
use crate::sip::headers::Transport;
use crate::sip::stun;

/// How soon an address that is still taken is tried again.
const REBIND: Duration = Duration::from_millis(2);
/// After so many attempts somebody should hear of it.
const ATTEMPTS_BEFORE_WARNING: u32 = 1000;
/// Room for a burst of calls between two turns of the reader.
const BUFFER: usize = 4 << 20;
/// The longest datagram there can be.
const DATAGRAM: usize = 65_536;
/// So many connections wait to be accepted: phones come back together.
const BACKLOG: i32 = 4096;

/// What an edge is told.
#[derive(RactorMessage, Debug)]
pub enum EdgeMsg {
    /// Itself: bind, and again if that fails.
    Bind {
        /// How often it has failed.
        attempt: u32,
    },
    /// The vnode: its actors are there, so read.
    Read,
}

/// What it is made with.
pub struct Start {
    /// The node's.
    pub services: Arc<Services>,
    /// Whose.
    pub vnode: VnodeId,
}

/// The actor.
pub struct EdgeActor;

/// What it has.
pub struct Running {
    start: Start,
    /// Not bound yet.
    missing: Vec<(Transport, SocketAddr)>,
    /// Bound, and read by nobody yet.
    bound: Vec<Bound>,
    reads: bool,
}

/// A socket that is bound.
enum Bound {
    Datagrams(SocketAddr, Arc<UdpSocket>),
    Connections(Transport, SocketAddr, Arc<TcpListener>),
}

impl Actor for EdgeActor {
    type Msg = EdgeMsg;
    type State = Running;
    type Arguments = Start;

    async fn pre_start(&self, myself: ActorRef<EdgeMsg>, start: Start) -> Result<Running, ActorProcessingErr> {
        let missing = sockets(&start.services.config, start.vnode);
        if missing.is_empty() {
            return Err("a vnode without an address".into());
        }
        let mut running = Running { start, missing, bound: Vec::new(), reads: false };
        running.bind(&myself, 0);
        Ok(running)
    }

    async fn handle(&self, myself: ActorRef<EdgeMsg>, message: EdgeMsg, running: &mut Running) -> Result<(), ActorProcessingErr> {
        match message {
            EdgeMsg::Bind { attempt } => running.bind(&myself, attempt),
            EdgeMsg::Read => {
                running.reads = true;
                running.read();
            }
        }
        Ok(())
    }
}

/// Where a vnode listens, and for what.
fn sockets(config: &Config, vnode: VnodeId) -> Vec<(Transport, SocketAddr)> {
    let Sip { port, ws_port, tls, .. } = &config.sip;
    let (tls_port, wss_port) = tls.as_ref().map_or((0, 0), |tls| (tls.port, tls.wss_port));
    let all = [
        (Transport::Udp, *port),
        (Transport::Tcp, *port),
        (Transport::Ws, *ws_port),
        (Transport::Tls, tls_port),
        (Transport::Wss, wss_port),
    ];
    let wanted = all.into_iter().filter(|(_, port)| *port != 0);
    let ips = move || config.addresses_of(vnode).into_iter().flat_map(|ips| ips.all());
    wanted
        .flat_map(|(transport, port)| ips().map(move |ip| (transport, SocketAddr::new(ip, config.port_of(vnode, port)))))
        .collect()
}

impl Running {
    fn bind(&mut self, myself: &ActorRef<EdgeMsg>, attempt: u32) {
        let (services, vnode) = (&self.start.services, self.start.vnode);
        let bound = &mut self.bound;
        self.missing.retain(|(transport, address)| match bind(*transport, *address) {
            Ok(socket) => {
                if let Bound::Datagrams(address, socket) = &socket {
                    services.sockets.bound(vnode, *address, socket.clone());
                }
                bound.push(socket);
                false
            }
            Err(error) => {
                if attempt % ATTEMPTS_BEFORE_WARNING == ATTEMPTS_BEFORE_WARNING - 1 {
                    tracing::warn!(%vnode, %transport, %address, %error, "the address is still taken");
                }
                true
            }
        });
        if !self.missing.is_empty() {
            myself.send_after(REBIND, move || EdgeMsg::Bind { attempt: attempt.saturating_add(1) });
        }
        self.read();
    }

    fn read(&mut self) {
        if !self.reads {
            return;
        }
        let (services, vnode) = (&self.start.services, self.start.vnode);
        for socket in self.bound.drain(..) {
            let reader = match socket {
                Bound::Datagrams(address, socket) => tokio::spawn(read(services.clone(), vnode, address, socket)),
                Bound::Connections(transport, address, listener) => {
                    tokio::spawn(connection::accept(services.clone(), vnode, transport, address, listener))
                }
            };
            services.sockets.reads(vnode, reader);
        }
        if self.missing.is_empty() {
            services.sockets.complete(vnode);
            tracing::debug!(%vnode, "listening");
        }
    }
}

fn bind(transport: Transport, address: SocketAddr) -> std::io::Result<Bound> {
    let datagrams = transport == Transport::Udp;
    let (kind, protocol) = if datagrams { (Type::DGRAM, Protocol::UDP) } else { (Type::STREAM, Protocol::TCP) };
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    socket.set_nonblocking(true)?;
    // The address may come after the socket.
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
        socket.set_freebind_v6(true)?;
    } else {
        socket.set_freebind_v4(true)?;
    }
    if datagrams {
        // The kernel gives what its limits allow.
        let _ = socket.set_recv_buffer_size(BUFFER);
        let _ = socket.set_send_buffer_size(BUFFER);
        socket.bind(&address.into())?;
        return Ok(Bound::Datagrams(address, Arc::new(UdpSocket::from_std(socket.into())?)));
    }
    // What is left of a former owner's connections is in nobody's way; one that listens still is.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(Bound::Connections(transport, address, Arc::new(TcpListener::from_std(socket.into())?)))
}

async fn read(services: Arc<Services>, vnode: VnodeId, local: SocketAddr, socket: Arc<UdpSocket>) {
    let mut buffer = vec![0; DATAGRAM];
    loop {
        // ICMP errors of earlier sends come up here; they are about one phone and not about the socket.
        let Ok((length, remote)) = socket.recv_from(&mut buffer).await else { continue };
        if !services.hears(Transport::Udp, remote) {
            metrics::counter!("tandem_sip_unheard_total").increment(1);
            continue;
        }
        let bytes = Bytes::copy_from_slice(&buffer[..length]);
        if stun::is_stun(&bytes) {
            // RFC 5626 §8: where the phone is seen is what keeps its NAT's mapping, and tells it of another.
            if let Some(answer) = stun::answer(&bytes, remote).filter(|_| services.fence(vnode).may_send(clock::uptime())) {
                let _ = socket.try_send_to(&answer, remote);
            }
            services.learn(Transport::Udp, remote, Outcome::Keepalive);
            continue;
        }
        let flow = Flow { vnode, transport: Transport::Udp, local, remote, connection: 0 };
        // No datagram may stop the reading of the next.
        let routed = std::panic::catch_unwind(AssertUnwindSafe(|| router::arrived(&services, flow, &bytes)));
        if routed.is_err() {
            metrics::counter!("tandem_actor_restarts_total", "actor" => "edge").increment(1);
            tracing::error!(%vnode, "a datagram caused a panic and was dropped");
        }
    }
}

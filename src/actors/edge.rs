//! The edge of one vnode: SIP's sockets on its address (UDP now). Layer: shell.
//!
//! Binding is taking (`address.mode = "loopback"`): a former owner that is still closing makes us wait, and
//! never are two bound at once. The sockets are bound first and read last: what comes in while the vnode's actors are made
//! waits in the kernel. What is read is routed where it is read; nothing queues here. Whoever ends the edge
//! closes its socket ([`super::transport::Sockets::close`]).

use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use ractor_cluster::RactorMessage;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

use super::router;
use super::services::Services;
use crate::ids::VnodeId;
use crate::sip::dialog::Flow;
use crate::sip::headers::Transport;

/// How soon an address that is still taken is tried again.
const REBIND: Duration = Duration::from_millis(2);
/// After so many attempts somebody should hear of it.
const ATTEMPTS_BEFORE_WARNING: u32 = 1000;
/// Room for a burst of calls between two turns of the reader.
const BUFFER: usize = 4 << 20;
/// The longest datagram there can be.
const DATAGRAM: usize = 65_536;

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
    address: SocketAddr,
    bound: bool,
    reads: bool,
}

impl Actor for EdgeActor {
    type Msg = EdgeMsg;
    type State = Running;
    type Arguments = Start;

    async fn pre_start(&self, myself: ActorRef<EdgeMsg>, start: Start) -> Result<Running, ActorProcessingErr> {
        let address = start.services.config.sip_address_of(start.vnode).ok_or("a vnode without an address")?;
        let mut running = Running { start, address, bound: false, reads: false };
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

impl Running {
    fn bind(&mut self, myself: &ActorRef<EdgeMsg>, attempt: u32) {
        let (services, vnode) = (&self.start.services, self.start.vnode);
        match bind(self.address) {
            Ok(socket) => {
                services.sockets.bound(vnode, socket);
                self.bound = true;
                self.read();
            }
            Err(error) => {
                if attempt % ATTEMPTS_BEFORE_WARNING == ATTEMPTS_BEFORE_WARNING - 1 {
                    tracing::warn!(%vnode, address = %self.address, %error, "the address is still taken");
                }
                myself.send_after(REBIND, move || EdgeMsg::Bind { attempt: attempt.saturating_add(1) });
            }
        }
    }

    fn read(&self) {
        if self.bound && self.reads {
            let (services, vnode, address) = (&self.start.services, self.start.vnode, self.address);
            services.sockets.read(vnode, |socket| tokio::spawn(read(services.clone(), vnode, address, socket)));
            tracing::debug!(%vnode, %address, "listening");
        }
    }
}

fn bind(address: SocketAddr) -> std::io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    // The kernel gives what its limits allow.
    let _ = socket.set_recv_buffer_size(BUFFER);
    let _ = socket.set_send_buffer_size(BUFFER);
    // The address may come after the socket.
    if address.is_ipv6() {
        socket.set_freebind_v6(true)?
    } else {
        socket.set_freebind_v4(true)?
    }
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.into())
}

async fn read(services: Arc<Services>, vnode: VnodeId, local: SocketAddr, socket: Arc<UdpSocket>) {
    let mut buffer = vec![0; DATAGRAM];
    loop {
        // ICMP errors of earlier sends come up here; they are about one phone and not about the socket.
        let Ok((length, remote)) = socket.recv_from(&mut buffer).await else { continue };
        let bytes = Bytes::copy_from_slice(&buffer[..length]);
        let flow = Flow { vnode, transport: Transport::Udp, local, remote };
        // No datagram may stop the reading of the next.
        let routed = std::panic::catch_unwind(AssertUnwindSafe(|| router::arrived(&services, flow, &bytes)));
        if routed.is_err() {
            metrics::counter!("tandem_actor_restarts_total", "actor" => "edge").increment(1);
            tracing::error!(%vnode, "a datagram caused a panic and was dropped");
        }
    }
}

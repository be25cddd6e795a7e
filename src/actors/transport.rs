//! SIP's way out: by the socket of the flow's vnode or a connection to it, or through the node that holds them. Layer: shell.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::connection;
use super::gateway::Parcel;
use super::services::{self, Services};
use crate::clock;
use crate::fence::Fence;
use crate::ids::VnodeId;
use crate::sip::dialog::Flow;
use crate::sip::encode::encode;
use crate::sip::guard;
use crate::sip::headers::Transport;
use crate::sip::message::{Message, Response};

/// At most this many connections a vnode.
const MAX_CONNECTIONS: usize = 60_000;
/// At most this many messages wait for a peer that reads slowly; what is more is lost, and the connection with it if nothing of it is
/// read for long.
const QUEUE: usize = 512;

/// The sockets and connections of the vnodes that are here.
#[derive(Debug, Default)]
pub struct Sockets {
    open: RwLock<HashMap<VnodeId, Open>>,
}

#[derive(Debug, Default)]
struct Open {
    /// One for each family of addresses.
    udp: Vec<(SocketAddr, Arc<UdpSocket>)>,
    /// Those who read or accept.
    readers: Vec<JoinHandle<()>>,
    /// All of the vnode's sockets are bound and read.
    complete: bool,
    connections: HashMap<Peer, Connection>,
    /// How many of them come from one source.
    sources: HashMap<IpAddr, usize>,
}

/// The other end of a connection; ours is the vnode's. And whether we have made it: its port may be the peer's for both.
type Peer = (Transport, SocketAddr, bool);

fn key(flow: &Flow) -> Peer {
    (flow.transport, flow.remote, flow.is_dialed())
}

/// One connection: what is for it, and who carries it there.
#[derive(Debug)]
struct Connection {
    /// As in its [`Flow`].
    id: u32,
    /// Whose place it is: those that we make one after another have one number.
    serial: u64,
    /// Full when the peer doesn't read.
    out: mpsc::Sender<Bytes>,
    /// Who has proved to be at the other end, by a certificate.
    peer: Option<Arc<services::Peer>>,
    task: JoinHandle<()>,
}

/// A connection's place among the others, as long as its task lives.
pub struct Place {
    services: Arc<Services>,
    flow: Flow,
    serial: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.services.sockets.disconnected(&self.flow, self.serial);
        self.services.repeats.ended(&self.flow);
        connections(self.flow.transport).decrement(1);
    }
}

fn connections(transport: Transport) -> metrics::Gauge {
    metrics::gauge!("tandem_sip_connections", "transport" => transport.as_str())
}

impl Sockets {
    /// A UDP socket of a vnode's is bound there: what its actors say leaves, what comes in waits.
    pub fn bound(&self, vnode: VnodeId, local: SocketAddr, socket: Arc<UdpSocket>) {
        self.write().entry(vnode).or_default().udp.push((local, socket));
    }

    /// Somebody reads, or accepts, for a vnode; ends with [`Sockets::close`].
    pub fn reads(&self, vnode: VnodeId, reader: JoinHandle<()>) {
        self.write().entry(vnode).or_default().readers.push(reader);
    }

    /// All of a vnode's sockets are bound and read.
    pub fn complete(&self, vnode: VnodeId) {
        self.write().entry(vnode).or_default().complete = true;
    }

    fn disconnected(&self, flow: &Flow, serial: u64) {
        let mut all = self.write();
        let Some(open) = all.get_mut(&flow.vnode) else { return };
        // Another may have its place by now.
        if open.connection(flow).is_some_and(|connection| connection.serial == serial) {
            open.connections.remove(&key(flow));
            open.leave(flow.remote.ip());
        }
    }

    /// Closes a vnode's sockets and connections; when this returns nothing is read from them any more.
    pub async fn close(&self, vnode: VnodeId) {
        let Some(Open { udp, readers, connections, .. }) = self.write().remove(&vnode) else { return };
        drop(udp);
        let carriers = connections.into_values().map(|connection| connection.task);
        let tasks: Vec<_> = readers.into_iter().chain(carriers).collect();
        for task in &tasks {
            task.abort();
        }
        for task in tasks {
            let _ = task.await;
        }
    }

    /// Whether a vnode's sockets are all open here and read.
    pub fn is_read(&self, vnode: VnodeId) -> bool {
        self.read().get(&vnode).is_some_and(|open| open.complete)
    }

    /// Whether a flow's connection is here; none when its vnode's sockets aren't.
    pub fn has(&self, flow: &Flow) -> Option<bool> {
        Some(self.read().get(&flow.vnode)?.connection(flow).is_some())
    }

    /// Whoever is at the other end of a flow's connection has proved to be this peer.
    pub fn identify(&self, flow: &Flow, peer: Arc<services::Peer>) {
        let mut all = self.write();
        let connection = all.get_mut(&flow.vnode).and_then(|open| open.connections.get_mut(&key(flow)));
        if let Some(connection) = connection.filter(|connection| connection.id == flow.connection) {
            connection.peer = Some(peer);
        }
    }

    /// Who has proved to be there.
    pub fn peer_of(&self, flow: &Flow) -> Option<Arc<services::Peer>> {
        if !flow.transport.is_reliable() {
            return None;
        }
        self.read().get(&flow.vnode)?.connection(flow)?.peer.clone()
    }

    /// How many connections are here.
    pub fn connections(&self) -> usize {
        self.read().values().map(|open| open.connections.len()).sum()
    }

    /// Sends by a flow if its vnode's sockets are here; whether it left.
    fn send(&self, flow: &Flow, fence: &Fence, bytes: &Bytes) -> Option<bool> {
        let all = self.read();
        let open = all.get(&flow.vnode)?;
        if !fence.may_send(clock::uptime()) {
            return Some(false);
        }
        if flow.transport == Transport::Udp {
            let reaches = |(local, _): &&(SocketAddr, _)| local.is_ipv4() == flow.remote.is_ipv4();
            let (_, socket) = open.udp.iter().find(reaches)?;
            return Some(socket.try_send_to(bytes, flow.remote).is_ok());
        }
        Some(open.connection(flow).is_some_and(|connection| connection.out.try_send(bytes.clone()).is_ok()))
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<VnodeId, Open>> {
        self.open.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<VnodeId, Open>> {
        self.open.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    /// A flow's connection.
    fn connection(&self, flow: &Flow) -> Option<&Connection> {
        self.connections.get(&key(flow)).filter(|connection| connection.id == flow.connection)
    }

    /// One connection less from there.
    fn leave(&mut self, source: IpAddr) {
        if let Entry::Occupied(mut count) = self.sources.entry(guard::source(source)) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

/// Sends a message by a flow. False when it is known that it didn't leave.
pub fn send(services: &Arc<Services>, flow: Flow, message: &Message) -> bool {
    send_bytes(services, flow, encode(message), true)
}

/// Sends a response by a flow: by the connection that its request came by, or to where its Via wants it (RFC 3261 §18.2.2).
pub fn respond(services: &Arc<Services>, flow: Flow, response: Response) {
    let flow = flow.of_answer(&response.headers);
    send(services, flow, &Message::Response(response));
}

/// Sends bytes by a flow; `onward` lets another node do it. What can't be sent now is lost, as on any network: false when that is known.
pub fn send_bytes(services: &Arc<Services>, flow: Flow, bytes: Bytes, onward: bool) -> bool {
    let fence = services.fence(flow.vnode);
    if flow.is_dialed() && services.sockets.has(&flow) == Some(false) && fence.may_send(clock::uptime()) {
        connection::dial(services, flow);
    }
    let sent = match services.sockets.send(&flow, &fence, &bytes) {
        Some(sent) => sent,
        None if onward => match services.cluster.owner_of(flow.vnode).filter(|owner| *owner != services.node) {
            Some(owner) => services.gateways.send(services, owner, &Parcel::Send { flow: flow.into(), bytes: bytes.clone() }),
            None => false,
        },
        None => false,
    };
    if sent && flow.transport.is_reliable() {
        services.repeats.answered(&flow, &bytes);
    }
    if !sent {
        metrics::counter!("tandem_sip_unsent_total").increment(1);
    }
    sent
}

/// Takes a connection in: `carry` gets its place and what is to leave by it, and runs until it ends. It isn't started when there are
/// too many, or too many from there, or the vnode has left.
pub fn connect<F: Future<Output = ()> + Send + 'static>(
    services: &Arc<Services>,
    flow: Flow,
    carry: impl FnOnce(Place, mpsc::Receiver<Bytes>) -> F,
) {
    let most = if services.trusts(flow.remote.ip()) { MAX_CONNECTIONS } else { services.config.guard.connections };
    let mut all = services.sockets.write();
    let fits = |open: &&mut Open| {
        let from_there = open.sources.get(&guard::source(flow.remote.ip())).copied().unwrap_or(0);
        open.connections.len() < MAX_CONNECTIONS && (from_there < most || flow.is_dialed())
    };
    let Some(open) = all.get_mut(&flow.vnode).filter(fits) else {
        metrics::counter!("tandem_sip_connections_refused_total").increment(1);
        return;
    };
    // Two who had something to say at once.
    if flow.is_dialed() && open.connection(&flow).is_some_and(|connection| !connection.out.is_closed()) {
        return;
    }
    static SERIAL: AtomicU64 = AtomicU64::new(0);
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    let (out, waiting) = mpsc::channel(QUEUE);
    connections(flow.transport).increment(1);
    // It can't end before it is in: it would have to take itself out.
    let task = tokio::spawn(carry(Place { services: services.clone(), flow, serial }, waiting));
    let connection = Connection { id: flow.connection, serial, out, peer: None, task };
    match open.connections.insert(key(&flow), connection) {
        // Its task finds another in its place.
        Some(former) => former.task.abort(),
        None => *open.sources.entry(guard::source(flow.remote.ip())).or_default() += 1,
    }
}

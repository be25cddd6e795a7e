//! The actor link: one gateway a node, and ractor_cluster between them, in mutual TLS. Layer: shell.
//!
//! Only gateways are seen from other nodes; everything else stays at home. Between two nodes the one with the
//! lower number connects, and connects again for ever. A peer that the Raft wire doesn't find up is sent
//! nothing, so that no queue grows toward it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ractor::{Actor, ActorProcessingErr, ActorRef, ActorStatus, RpcReplyPort, call_t, pg};
use ractor_cluster::node::NodeConnectionMode;
use ractor_cluster::{
    IncomingEncryptionMode, NetworkStream, NodeServer, NodeServerMessage, RactorClusterMessage, client_connect_enc,
};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use super::call::CallMsg;
use super::calls::{self, Errand};
use super::figures::LegFigures;
use super::notifiers::NotifiersMsg;
use super::seen::SightingParcel;
use super::services::Services;
use super::{lookup, recording, router, seen, transport};
use crate::cluster::state::records::FlowRecord;
use crate::cluster::tls::NodeTls;
use crate::cluster::wire::Reach;
use crate::ids::{Aor, CallId, NodeId, VnodeId};
use crate::sip::StatusCode;
use crate::sip::b2bua::EndedBy;

/// How often we look whether a link must be made again.
const LOOK: Duration = Duration::from_millis(200);
/// How long making one may take, handshake included.
const CONNECT: Duration = Duration::from_secs(2);
/// How long another node may take to answer.
pub const ASK: Duration = Duration::from_millis(500);

/// Something for another node.
#[derive(Debug, Serialize, Deserialize)]
pub enum Parcel {
    /// A datagram that came here and belongs to a vnode of yours.
    Packet {
        /// The vnode whose actors must see it.
        vnode: VnodeId,
        /// How it came.
        flow: FlowRecord,
        /// Its user is known already.
        authenticated: bool,
        /// As it came.
        bytes: Bytes,
    },
    /// Send this by a flow of yours.
    Send {
        /// Which.
        flow: FlowRecord,
        /// What.
        bytes: Bytes,
    },
    /// What a call is to a user whose watchers you have.
    Sighting {
        /// The user's vnode.
        home: VnodeId,
        /// Who.
        aor: Aor,
        /// What.
        sighting: SightingParcel,
    },
    /// A vnode is open here.
    Opened {
        /// Which.
        vnode: VnodeId,
    },
    /// What has been measured of calls of a vnode that is here.
    Figures {
        /// Which.
        vnode: VnodeId,
        /// Of the caller's leg and of the callee's.
        calls: Vec<(CallId, LegFigures)>,
    },
}

/// A question to another node.
#[derive(Debug, Serialize, Deserialize)]
pub enum Question {
    /// The bindings of an AoR, from its owner.
    Bindings {
        /// Whose vnode.
        vnode: VnodeId,
        /// Which.
        aor: Aor,
    },
    /// Whether a flow's connection is at one of your vnodes.
    Connected {
        /// Which.
        flow: FlowRecord,
    },
    /// End a call of yours.
    HangUp {
        /// Which.
        call: CallId,
    },
    /// Record a call of yours from now on, or don't.
    Record {
        /// Which.
        call: CallId,
        /// Whether.
        on: bool,
    },
    /// Calls of a vnode of yours that are up, in order: as many as go into one answer.
    Calls {
        /// Which.
        vnode: VnodeId,
        /// Those after this one.
        after: Option<CallId>,
    },
    /// The bindings of a vnode of yours, in order: as many as go into one answer.
    AllBindings {
        /// Which.
        vnode: VnodeId,
        /// Those after this one's.
        after: Option<Aor>,
    },
    /// What calls of a vnode of yours are to these users.
    Seen {
        /// Which.
        vnode: VnodeId,
        /// Whom.
        users: Vec<Aor>,
    },
}

/// The answer.
#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    /// An encoded list of binding records; empty when there are none.
    Bindings(Bytes),
    /// Whether it is.
    Connected(bool),
    /// Whether the call was there.
    HungUp(bool),
    /// The same.
    Done(bool),
    /// Encoded call records; empty when there are no more.
    Calls(Vec<(CallId, Bytes)>),
    /// Encoded lists of binding records; empty when there are no more.
    AllBindings(Vec<(Aor, Bytes)>),
    /// What they are.
    Seen(Vec<(Aor, SightingParcel)>),
}

/// What a gateway is told. MessagePack inside.
#[derive(RactorClusterMessage)]
pub enum GatewayMsg {
    /// A [`Parcel`].
    Deliver(Vec<u8>),
    /// A [`Question`], its [`Answer`].
    #[rpc]
    Ask(Vec<u8>, RpcReplyPort<Vec<u8>>),
}

/// The way to the others.
#[derive(Debug, Default)]
pub struct Gateways;

fn group(node: NodeId) -> String {
    format!("tandem/gateway/{node}")
}

impl Gateways {
    fn of(services: &Services, node: NodeId) -> Option<ActorRef<GatewayMsg>> {
        let reach = services.cluster.reach(node)?;
        if !matches!(*reach.borrow(), Reach::Up(_)) {
            return None;
        }
        pg::get_members(&group(node)).into_iter().next().map(ActorRef::from)
    }

    /// Whether the link to a node is up as this node sees it; the other node may see it later.
    pub fn is_linked(node: NodeId) -> bool {
        !pg::get_members(&group(node)).is_empty()
    }

    /// Sends something; false when the node can't be reached.
    pub fn send(&self, services: &Services, node: NodeId, parcel: &Parcel) -> bool {
        let Ok(bytes) = rmp_serde::to_vec_named(parcel) else { return false };
        Self::of(services, node).is_some_and(|gateway| gateway.cast(GatewayMsg::Deliver(bytes)).is_ok())
    }

    /// Asks something; `None` when there is no answer within [`ASK`].
    pub async fn ask(&self, services: &Services, node: NodeId, question: &Question) -> Option<Answer> {
        let gateway = Self::of(services, node)?;
        let bytes = rmp_serde::to_vec_named(question).ok()?;
        let answer = call_t!(gateway, GatewayMsg::Ask, u64::try_from(ASK.as_millis()).unwrap_or(u64::MAX), bytes).ok()?;
        rmp_serde::from_slice(&answer).ok()
    }
}

/// The gateway of this node.
pub struct Gateway {
    /// What it serves.
    pub services: Arc<Services>,
}

impl Actor for Gateway {
    type Msg = GatewayMsg;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<GatewayMsg>, (): ()) -> Result<(), ActorProcessingErr> {
        pg::join(group(self.services.node), vec![myself.get_cell()]);
        Ok(())
    }

    async fn handle(&self, _: ActorRef<GatewayMsg>, message: GatewayMsg, (): &mut ()) -> Result<(), ActorProcessingErr> {
        match message {
            GatewayMsg::Deliver(bytes) => match rmp_serde::from_slice(&bytes) {
                Ok(Parcel::Packet { vnode, flow, authenticated, bytes }) => {
                    if let Ok(flow) = flow.try_into() {
                        router::forwarded(&self.services, vnode, flow, &bytes, authenticated);
                    }
                }
                Ok(Parcel::Send { flow, bytes }) => {
                    if let Ok(flow) = flow.try_into() {
                        transport::send_bytes(&self.services, flow, bytes, false);
                    }
                }
                Ok(Parcel::Sighting { home, aor, sighting }) => {
                    if let Some(open) = self.services.vnode(home) {
                        let _ = open.notifiers.cast(NotifiersMsg::Sighting(aor, sighting.into()));
                    }
                }
                Ok(Parcel::Opened { vnode }) => seen::heard_opened(&self.services, vnode),
                Ok(Parcel::Figures { vnode, calls }) => self.services.told.hear(&self.services, vnode, calls),
                // Of a later release, perhaps.
                Err(error) => tracing::debug!(%error, "a parcel that this release can't read"),
            },
            GatewayMsg::Ask(bytes, reply) => {
                let answer = match rmp_serde::from_slice(&bytes) {
                    Ok(Question::Bindings { vnode, aor }) => Answer::Bindings(local_bindings(&self.services, vnode, &aor)),
                    Ok(Question::Connected { flow }) => {
                        match flow.try_into().ok().and_then(|flow| self.services.sockets.has(&flow)) {
                            Some(connected) => Answer::Connected(connected),
                            // Its vnode is not here any more: whoever asks asks again.
                            None => return Ok(()),
                        }
                    }
                    Ok(Question::Calls { vnode, after }) => lookup::answer_calls(&self.services, vnode, after),
                    Ok(Question::AllBindings { vnode, after }) => lookup::answer_bindings(&self.services, vnode, after),
                    Ok(Question::Seen { vnode, users }) => {
                        let services = self.services.clone();
                        // All its calls are looked at: nobody else waits for that.
                        tokio::spawn(async move {
                            // Who has them no more doesn't say that there are none: whoever asks asks again.
                            let Some((found, _)) = seen::of_vnode(&services, vnode, &users).await else { return };
                            let found = found.into_iter().map(|(aor, sighting)| (aor, sighting.into())).collect();
                            if let Ok(answer) = rmp_serde::to_vec_named(&Answer::Seen(found)) {
                                let _ = reply.send(answer);
                            }
                        });
                        return Ok(());
                    }
                    Ok(Question::Record { call, on }) => Answer::Done(recording::record_here(&self.services, call, on)),
                    Ok(Question::HangUp { call }) => Answer::HungUp(hang_up_here(&self.services, call)),
                    Err(_) => return Ok(()),
                };
                let _ = reply.send(rmp_serde::to_vec_named(&answer)?);
            }
        }
        Ok(())
    }
}

/// The bindings as the local replica has them, if there is one.
pub fn local_bindings(services: &Services, vnode: VnodeId, aor: &Aor) -> Bytes {
    lookup::here(services, vnode, |state| state.bindings(aor).cloned()).flatten().unwrap_or_default()
}

/// Ends a call that is here.
pub fn hang_up_here(services: &Services, call: CallId) -> bool {
    let hang_up = CallMsg::HangUp { status: StatusCode::TEMPORARILY_UNAVAILABLE, by: EndedBy::Operator };
    calls::tell(services, call, Errand::Call(hang_up)).is_ok()
}

/// Where the links are, and what they show.
pub struct LinkSettings {
    /// Where this node listens.
    pub listen: SocketAddr,
    /// The certificates.
    pub tls: NodeTls,
}

/// Listens for the other nodes' links, and makes ours. The link's end is the node's: it has no other restart.
pub async fn link(
    services: &Arc<Services>,
    settings: LinkSettings,
    supervisor: ractor::ActorCell,
) -> Result<(), ActorProcessingErr> {
    let LinkSettings { listen, tls } = settings;
    let listener = TcpListener::bind(listen).await?;
    // ractor_cluster's own listener waits for each handshake in turn, without a deadline: ours takes its place, and
    // its own gets a port that nobody is told of.
    let server = NodeServer::new(
        0,
        services.config.cluster.secret.0.clone(),
        services.node.to_string(),
        listen.ip().to_string(),
        Some(IncomingEncryptionMode::Tls(tls.acceptor.clone())),
        Some(NodeConnectionMode::Isolated),
    );
    let server = server.with_listen_addr(std::net::Ipv4Addr::LOCALHOST.into());
    let (server, _) = Actor::spawn_linked(None, server, (), supervisor).await?;
    tokio::spawn(accept(listener, server.clone(), tls.clone()));
    tokio::spawn(follow(services.clone(), server, tls));
    Ok(())
}

/// Keeps a link to each member, as they come and go.
async fn follow(services: Arc<Services>, server: ActorRef<NodeServerMessage>, tls: NodeTls) {
    let mut members = services.cluster.members();
    let mut kept: BTreeMap<NodeId, (SocketAddr, tokio::task::JoinHandle<()>)> = BTreeMap::new();
    loop {
        let now = members.borrow_and_update().clone();
        let addresses = now.iter().filter(|(peer, _)| **peer != services.node).map(|(peer, member)| (*peer, member.actors));
        let addresses: BTreeMap<NodeId, SocketAddr> = addresses.collect();
        let gone: Vec<NodeId> =
            kept.iter().filter(|(peer, (address, _))| addresses.get(peer) != Some(address)).map(|(peer, _)| *peer).collect();
        for peer in gone {
            if let Some((_, keeping)) = kept.remove(&peer) {
                keeping.abort();
            }
            end_session(&server, peer).await;
        }
        for (peer, address) in addresses {
            kept.entry(peer)
                .or_insert_with(|| (address, tokio::spawn(keep(services.clone(), server.clone(), peer, address, tls.clone()))));
        }
        if members.changed().await.is_err() || server.get_status() >= ActorStatus::Stopping {
            return;
        }
    }
}

/// Takes the others' connections, for ever; a slow handshake holds nobody up.
async fn accept(listener: TcpListener, server: ActorRef<NodeServerMessage>, tls: NodeTls) {
    while server.get_status() < ActorStatus::Stopping {
        let Ok(Ok((stream, peer_addr))) = tokio::time::timeout(LOOK, listener.accept()).await else { continue };
        let (server, tls) = (server.clone(), tls.clone());
        tokio::spawn(async move {
            let _ = stream.set_nodelay(true);
            let Ok(local_addr) = stream.local_addr() else { return };
            if let Ok(Ok(stream)) = tokio::time::timeout(CONNECT, tls.acceptor.accept(stream)).await {
                let stream = Box::new(NetworkStream::TlsServer { peer_addr, local_addr, stream });
                let _ = server.cast(NodeServerMessage::ConnectionOpened { stream, is_server: true });
            }
        });
    }
}

/// Keeps the link to one peer: makes it (the lower number does), and ends it when the peer is not to be reached, since
/// ractor_cluster doesn't notice by itself.
async fn keep(services: Arc<Services>, server: ActorRef<NodeServerMessage>, peer: NodeId, address: SocketAddr, tls: NodeTls) {
    let Some(mut reach) = services.cluster.reach(peer) else { return };
    let mut alone_since = tokio::time::Instant::now();
    while server.get_status() < ActorStatus::Stopping {
        let up = matches!(*reach.borrow_and_update(), Reach::Up(_));
        let linked = Gateways::is_linked(peer);
        if !up || linked {
            alone_since = tokio::time::Instant::now();
        }
        match (up, linked) {
            (true, false) if services.node < peer => connect(&server, peer, address, &tls).await,
            // The peer may take for a link what is none here: it makes another when this one ends.
            (true, false) if alone_since.elapsed() > CONNECT * 2 => {
                end_session(&server, peer).await;
                alone_since = tokio::time::Instant::now();
            }
            (false, true) => end_session(&server, peer).await,
            (true | false, _) => {}
        }
        let _ = tokio::time::timeout(LOOK, reach.changed()).await;
    }
}

async fn connect(server: &ActorRef<NodeServerMessage>, peer: NodeId, address: SocketAddr, tls: &NodeTls) {
    let connecting = client_connect_enc(server, address, tls.connector.clone(), NodeTls::server_name());
    match tokio::time::timeout(CONNECT, connecting).await {
        Ok(Ok(())) => {
            // The handshake goes on by itself.
            let deadline = tokio::time::Instant::now() + CONNECT;
            while !Gateways::is_linked(peer) && tokio::time::Instant::now() < deadline {
                tokio::time::sleep(LOOK / 10).await;
            }
        }
        Ok(Err(error)) => tracing::debug!(%peer, %error, "actor link"),
        Err(_) => tracing::debug!(%peer, "actor link: no answer"),
    }
}

async fn end_session(server: &ActorRef<NodeServerMessage>, peer: NodeId) {
    let millis = u64::try_from(ASK.as_millis()).unwrap_or(u64::MAX);
    let Ok(sessions) = call_t!(server, NodeServerMessage::GetSessions, millis) else { return };
    let name = peer.to_string();
    for session in sessions.into_values() {
        let theirs =
            session.peer_name.as_ref().is_some_and(|known| known.name == name || known.name.starts_with(&format!("{name}@")));
        if theirs {
            tracing::info!(%peer, "ending the actor link to a peer that doesn't answer");
            session.actor.stop(None);
        }
    }
}

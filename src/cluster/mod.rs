//! The cluster engine: Raft groups over the nodes, their wire, their storage, who owns what. Layer: shell.
//!
//! One group for meta, one for each vnode. [`Cluster`] is the handle: it proposes, reads the local replica,
//! and tells by [`Cluster::ownership`] which vnodes this node must act for. It knows nothing of SIP.
//!
//! ```text
//!  propose ─▶ raft (leader) ─▶ wire ─▶ followers ─▶ majority ─▶ apply ─▶ reply
//!                 └─ lease ─▶ owner ─▶ Ownership ─▶ the vnode's actors
//! ```

pub mod address;
pub mod balance;
pub mod beats;
#[cfg(not(feature = "simulated"))]
mod descriptor;
pub mod election;
pub mod lease;
mod links;
pub mod membership;
pub mod net;
pub mod owner;
mod priority;
pub mod raft;
pub mod recovery;
mod serve;
pub mod state;
pub mod storage;
pub mod tls;
mod upkeep;
pub mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use openraft::ReadPolicy;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::metrics::RaftMetrics;
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::families::Families;
use crate::fence::{Fence, Pass};
use crate::ids::{NodeId, VnodeId};
use address::{Addresses, Mover};
use beats::Beats;
use links::Links;
pub use owner::Ownership;
use raft::log::Log;
use raft::machine::Machine;
pub use raft::machine::Touched;
use raft::network::Network;
use raft::{GroupId, Raft, TypeConfig};
use serve::Server;
use state::placement::{Replicas, plan};
use state::{Command, GroupState, Member, MetaCommand, MetaState, Reply, VnodeCommand, VnodeState};
use storage::{Place, Seal, Storage, StorageError};
use tls::NodeTls;
use wire::{Hello, Kind, Outline, Reach, WireError};

/// How long a proposal may take before its promise is refused.
pub const COMMIT_DEADLINE: Duration = Duration::from_secs(2);
/// How long a look at meta's leader may take: a phone waits longer than an election does.
const FRESH_DEADLINE: Duration = Duration::from_secs(2);
/// The pause before a proposal is tried again at a group that has no leader at the moment.
const RETRY: Duration = Duration::from_millis(2);

/// What a node must know to take part.
pub struct Settings {
    /// This node.
    pub node: NodeId,
    /// Where every node is, this one included: those that found a cluster together, or those by which this one finds it.
    pub members: BTreeMap<NodeId, Member>,
    /// The vnodes, and the node each is at home on.
    pub vnodes: BTreeMap<VnodeId, NodeId>,
    /// So many nodes hold each vnode's records, if there are so many.
    pub replicas: usize,
    /// Their addresses.
    pub addresses: BTreeMap<VnodeId, Families>,
    /// What moves them.
    pub mover: Mover,
    /// Where to store.
    pub dir: PathBuf,
    /// What does it.
    pub storage: Place,
    /// The links' certificates.
    pub tls: NodeTls,
    /// What signs the beats: the same on all nodes.
    pub secret: Vec<u8>,
}

/// Why the cluster could not be joined.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Storage.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The port for the Raft wire.
    #[error("cannot listen on {address} for the other nodes")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The process that holds the addresses.
    #[error("the guard of the addresses does not start")]
    Guard(#[source] std::io::Error),
    /// openraft would not start.
    #[error("group {0} did not start: {1}")]
    Raft(u16, String),
    /// The members don't hold this node.
    #[error("node {0} is not among the members")]
    NotAMember(NodeId),
}

/// Why something was not committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Another node leads the group.
    #[error("another node owns it")]
    NotOwner,
    /// Not enough nodes answer.
    #[error("no majority of the nodes is reachable")]
    NoMajority,
    /// It may or may not be committed later.
    #[error("it was not committed in time")]
    Late,
    /// There is no such vnode.
    #[error("there is no such group")]
    NoSuchGroup,
}

/// One Raft group as this node has it.
pub struct Group {
    /// Its number.
    pub id: GroupId,
    /// openraft's handle.
    pub raft: Raft,
    /// The local replica.
    pub machine: Machine,
    /// Its log.
    pub log: Log,
}

impl Group {
    /// openraft's view of the moment.
    pub fn metrics(&self) -> RaftMetrics<TypeConfig> {
        self.raft.metrics().borrow_watched().clone()
    }

    /// What a replica must have applied to have all that was committed when this was called; none when this node doesn't
    /// lead, or no majority says so in time.
    async fn read_index(&self, within: Duration) -> Option<u64> {
        let asked = tokio::time::timeout(within, self.raft.get_read_linearizer(ReadPolicy::ReadIndex)).await;
        Some(asked.ok()?.ok()?.read_log_id().index())
    }

    /// The term that this node leads in.
    fn leads(&self) -> Option<u64> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        (metrics.state.is_leader() && metrics.current_leader == Some(metrics.id)).then_some(metrics.current_term)
    }

    /// The term that it is in.
    fn term(&self) -> u64 {
        self.raft.metrics().borrow_watched().current_term
    }

    /// Who votes: two sets while that changes.
    fn voters(&self) -> Vec<BTreeSet<NodeId>> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let configs = metrics.membership_config.membership().get_joint_config();
        configs.iter().map(|voters| voters.iter().copied().map(NodeId).collect()).collect()
    }

    /// Who hears its log, voters and learners.
    fn nodes(&self) -> BTreeSet<NodeId> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        metrics.membership_config.membership().nodes().map(|(node, _)| NodeId(*node)).collect()
    }

    /// How far another node is known to have the log of a group that this node leads.
    fn matched(&self, node: NodeId) -> Option<u64> {
        self.metrics().replication?.get(&node.0)?.as_ref().map(|id| id.index())
    }

    /// Whether a node votes.
    fn has_voter(&self, node: NodeId) -> bool {
        self.voters().iter().any(|voters| voters.contains(&node))
    }

    /// Who leads, as far as this node knows.
    pub fn leader(&self) -> Option<NodeId> {
        self.metrics().current_leader.map(NodeId)
    }
}

/// When a look at meta's leader began, and whether it ended well.
#[derive(Clone, Copy)]
struct Look {
    began: Instant,
    caught_up: bool,
}

/// The handle. Cheap to share; one a node.
pub struct Cluster {
    node: NodeId,
    homes: BTreeMap<VnodeId, NodeId>,
    /// The members by the configuration.
    configured: BTreeMap<NodeId, Member>,
    /// What they make of the vnodes at first.
    first_plan: Replicas,
    replicas: usize,
    outline: Outline,
    /// The members as they are known now.
    members: watch::Sender<BTreeMap<NodeId, Member>>,
    tls: NodeTls,
    server: Arc<Server>,
    groups: Arc<BTreeMap<GroupId, Group>>,
    links: Arc<Links>,
    /// Some peer has died.
    refused: tokio::sync::Notify,
    storage: Arc<Storage>,
    life: Arc<recovery::Life>,
    beats: Arc<Beats>,
    fences: BTreeMap<VnodeId, Fence>,
    addresses: Arc<Addresses>,
    owners: BTreeMap<VnodeId, Arc<owner::Owner>>,
    stopping: AtomicBool,
    broken: watch::Sender<bool>,
    /// The last look at meta's leader.
    meta_look: tokio::sync::Mutex<Option<Look>>,
}

impl Cluster {
    /// Opens the storage, starts the groups and the links, and everything that keeps them going.
    pub async fn start(settings: Settings) -> Result<Arc<Self>, StartError> {
        let Settings { node, members, vnodes, replicas, addresses, mover, dir, storage, tls, secret } = settings;
        let listen = members.get(&node).ok_or(StartError::NotAMember(node))?.raft;
        let outline = outline(&members, &vnodes, &addresses);
        let seal = Seal::new(&secret, b"storage");
        let storage = blocking(move || Storage::open(&dir, &storage, seal)).await?;
        // Everything is read before any group runs: one that can't be read, since a later release wrote it, ends the start alone.
        let mut kept = Vec::new();
        for id in std::iter::once(GroupId::META).chain(vnodes.keys().map(|vnode| GroupId(vnode.0))) {
            kept.push(Kept::open(id, &storage).await?);
        }
        let cannot_listen = |source| StartError::Listen { address: listen, source };
        let listener = net::listen(listen).await.map_err(cannot_listen)?;
        let fences: BTreeMap<VnodeId, Fence> = vnodes.keys().map(|vnode| (*vnode, Fence::default())).collect();
        let fenced = |(vnode, ips): (VnodeId, Families)| Some((vnode, (ips, fences.get(&vnode)?.clone())));
        let addresses = Addresses::start(mover, addresses.into_iter().filter_map(fenced).collect()).map_err(StartError::Guard)?;
        let beats = Beats::start(node, listen, &secret, fences.clone(), addresses.clone()).map_err(cannot_listen)?;
        let life = Arc::new(recovery::Life::new(node, beats.life(), storage.memory(), outline));
        let server = Arc::new(Server::new(node, life.clone(), beats.clone()));
        let links: Arc<Links> = Arc::default();
        let mut groups = BTreeMap::new();
        for kept in kept {
            groups.insert(kept.id, kept.start(node, &links).await?);
        }
        let groups = Arc::new(groups);
        server.open(groups.clone());
        beats.serve(groups.clone());
        tokio::spawn(wire::accept(listener, tls.clone(), server.clone()));
        let nodes = members.keys().copied().collect();
        let first_plan = plan(&vnodes.iter().map(|(vnode, home)| (*vnode, vec![*home])).collect(), &nodes, replicas);
        let owners = vnodes.keys().map(|vnode| (*vnode, Arc::new(owner::Owner::new()))).collect();
        let cluster = Arc::new(Self {
            node,
            homes: vnodes,
            configured: members,
            first_plan,
            replicas,
            outline,
            members: watch::Sender::new(BTreeMap::new()),
            tls,
            server,
            groups,
            links,
            refused: tokio::sync::Notify::new(),
            storage,
            life,
            beats,
            fences,
            addresses,
            owners,
            stopping: AtomicBool::new(false),
            broken: watch::Sender::new(false),
            meta_look: tokio::sync::Mutex::new(None),
        });
        membership::connect(&cluster);
        tokio::spawn(membership::run(cluster.clone()));
        tokio::spawn(recovery::run(cluster.clone()));
        tokio::spawn(election::run(cluster.clone()));
        for vnode in cluster.vnodes() {
            tokio::spawn(owner::run(cluster.clone(), vnode));
        }
        for id in cluster.groups.keys() {
            tokio::spawn(cluster.clone().watch(*id));
            tokio::spawn(upkeep::run(cluster.clone(), *id));
        }
        tokio::spawn(balance::run(cluster.clone()));
        Ok(cluster)
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// All vnodes, in order.
    pub fn vnodes(&self) -> Vec<VnodeId> {
        self.homes.keys().copied().collect()
    }

    /// The node that a vnode is at home on: the one that an operator chose, or the first of those that hold it.
    pub fn home(&self, vnode: VnodeId) -> Option<NodeId> {
        self.read_meta(|meta| meta.home(vnode)).or_else(|| self.holders(vnode).first().copied())
    }

    /// Every node, in order.
    pub fn nodes(&self) -> Vec<NodeId> {
        self.members.borrow().keys().copied().collect()
    }

    /// Every node and where it is; changes wake the receiver.
    pub fn members(&self) -> watch::Receiver<BTreeMap<NodeId, Member>> {
        self.members.subscribe()
    }

    /// Whether a peer means by the cluster what this node means.
    pub fn agrees(&self, hello: &Hello) -> bool {
        hello.outline.is_none_or(|outline| outline.vnodes == self.outline.vnodes)
    }

    /// Whether nothing should be on this node, or move to it.
    pub fn is_draining(&self) -> bool {
        self.life.is_draining()
    }

    /// Every other node, and how it looks from here.
    pub fn peers(&self) -> BTreeMap<NodeId, Reach> {
        self.links.all().into_iter().map(|(node, link)| (node, *link.reach().borrow())).collect()
    }

    /// How one peer looks; changes wake the receiver.
    pub fn reach(&self, peer: NodeId) -> Option<watch::Receiver<Reach>> {
        self.links.get(peer).map(|link| link.reach())
    }

    /// Who owns a vnode, as far as this node knows.
    pub fn owner_of(&self, vnode: VnodeId) -> Option<NodeId> {
        let group = self.group(vnode)?;
        // Who doesn't hear its log hears its owner's beats.
        if self.holds(vnode) { group.leader() } else { self.beats.leader(group.id) }
    }

    /// Whether and how this node must act for a vnode.
    pub fn ownership(&self, vnode: VnodeId) -> Option<watch::Receiver<Ownership>> {
        self.owners.get(&vnode).map(|owner| owner.ownership())
    }

    /// What brings addresses here, and takes them away.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// What whoever sends for a vnode has to ask.
    pub fn fence(&self, vnode: VnodeId) -> Option<Fence> {
        self.fences.get(&vnode).cloned()
    }

    /// The vnode's actors say whether its sockets are open: the address moves only after they are closed.
    pub fn sockets_open(&self, vnode: VnodeId, open: bool) {
        if !open && let Some(fence) = self.fences.get(&vnode) {
            fence.pass(Pass::Shut);
        }
        self.beats.sockets_open(GroupId(vnode.0), open);
        if let Some(owner) = self.owners.get(&vnode) {
            owner.sockets_open(open);
        }
    }

    /// Whether this node has caught up with every group since it started.
    pub fn is_ready(&self) -> bool {
        self.life.is_ready()
    }

    /// Reads the local replica of a vnode.
    pub fn read<R>(&self, vnode: VnodeId, read: impl FnOnce(&VnodeState) -> R) -> Option<R> {
        let group = self.group(vnode)?;
        match &*group.machine.read() {
            GroupState::Vnode(state) => Some(read(state)),
            GroupState::Meta(_) => None,
        }
    }

    /// The calls of a vnode whose records may have changed here since this was asked last.
    pub fn touched(&self, vnode: VnodeId) -> Touched {
        self.group(vnode).map_or(Touched::All, |group| group.machine.touched())
    }

    /// Reads the local replica of meta.
    pub fn read_meta<R>(&self, read: impl FnOnce(&MetaState) -> R) -> R {
        let empty = MetaState::default();
        match self.groups.get(&GroupId::META) {
            Some(group) => match &*group.machine.read() {
                GroupState::Meta(state) => read(state),
                GroupState::Vnode(_) => read(&empty),
            },
            None => read(&empty),
        }
    }

    /// Waits until the local replica of meta has what its leader had when this was called: nobody is turned away
    /// because a replica lags. False when no leader could be asked, or the replica stayed behind. Those who wait at
    /// once share one look.
    pub async fn catch_up_meta(&self) -> bool {
        let asked = Instant::now();
        let mut last = self.meta_look.lock().await;
        if let Some(look) = last.filter(|look| look.began > asked) {
            return look.caught_up;
        }
        let began = Instant::now();
        let caught_up = tokio::time::timeout(FRESH_DEADLINE, self.look_at_meta()).await.unwrap_or(false);
        *last = Some(Look { began, caught_up });
        caught_up
    }

    async fn look_at_meta(&self) -> bool {
        let Some(group) = self.groups.get(&GroupId::META) else { return false };
        let target = loop {
            match self.progress(group, FRESH_DEADLINE).await {
                Some(target) => break target,
                None => tokio::time::sleep(RETRY * 5).await,
            }
        };
        group.machine.applied().wait_for(|applied| *applied >= target).await.is_ok()
    }

    /// How far a replica of a group must be to have all that was committed when this was called; none when there is no
    /// leader that a majority follows.
    async fn progress(&self, group: &Group, within: Duration) -> Option<u64> {
        match group.leader()? {
            leader if leader == self.node => group.read_index(within).await,
            leader => self.links.get(leader)?.call::<(), u64>(Kind::Progress, group.id, &(), within).await.ok(),
        }
    }

    /// Changes whenever something was applied to the vnode's replica here.
    pub fn applied(&self, vnode: VnodeId) -> Option<watch::Receiver<u64>> {
        self.group(vnode).map(|group| group.machine.applied())
    }

    /// Commits a command to a vnode that this node owns.
    pub async fn propose(&self, vnode: VnodeId, command: VnodeCommand) -> Result<Reply, ProposeError> {
        let owner = self.owners.get(&vnode).ok_or(ProposeError::NoSuchGroup)?;
        match owner.now() {
            Ownership::Owner { .. } => {}
            Ownership::Custodian => return Err(ProposeError::NoMajority),
            Ownership::None => return Err(ProposeError::NotOwner),
        }
        let group = self.group(vnode).ok_or(ProposeError::NoSuchGroup)?;
        let started = Instant::now();
        let result = write_here(group, Command::Vnode(command), COMMIT_DEADLINE).await;
        metrics::histogram!("tandem_commit_seconds").record(started.elapsed().as_secs_f64());
        result.map_err(|error| match error {
            WriteError::Elsewhere => ProposeError::NotOwner,
            WriteError::Late => ProposeError::Late,
        })
    }

    /// Commits a command to meta, wherever its leader is.
    pub async fn propose_meta(&self, command: MetaCommand) -> Result<Reply, ProposeError> {
        let group = self.groups.get(&GroupId::META).ok_or(ProposeError::NoSuchGroup)?;
        let deadline = Instant::now() + COMMIT_DEADLINE;
        let command = Command::Meta(command);
        let mut last = ProposeError::NoMajority;
        while Instant::now() < deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            let leader = group.leader();
            let result = if leader == Some(self.node) {
                write_here(group, command.clone(), left).await.map_err(|error| match error {
                    WriteError::Elsewhere => ProposeError::NotOwner,
                    WriteError::Late => ProposeError::Late,
                })
            } else if let Some(link) = leader.and_then(|leader| self.links.get(leader)) {
                link.call(Kind::Propose, GroupId::META, &command, left).await.map_err(|error| match error {
                    WireError::Unreachable | WireError::Full => ProposeError::NoMajority,
                    WireError::Refused => ProposeError::NotOwner,
                    WireError::Late => ProposeError::Late,
                })
            } else {
                Err(ProposeError::NoMajority)
            };
            match result {
                Ok(reply) => return Ok(reply),
                Err(error) => last = error,
            }
            tokio::time::sleep(RETRY * 5).await;
        }
        Err(last)
    }

    /// Waits until a group has ended that should not have: its storage failed, say.
    pub async fn broken(&self) {
        let mut broken = self.broken.subscribe();
        if broken.wait_for(|broken| *broken).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Watches a group for its end.
    async fn watch(self: Arc<Self>, id: GroupId) {
        let Some(group) = self.groups.get(&id) else { return };
        let mut metrics = group.raft.metrics();
        loop {
            let failed = metrics.borrow_watched().running_state.is_err();
            if failed || metrics.changed().await.is_err() {
                if !self.is_stopping() {
                    tracing::error!(group = id.0, "the group has ended");
                    self.broken.send_replace(true);
                }
                return;
            }
        }
    }

    /// Hands every vnode over and brings the storage to rest. The sockets must be closed already.
    pub async fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        balance::hand_everything_over(self).await;
        for group in self.groups.values() {
            let _ = tokio::time::timeout(Duration::from_secs(2), group.raft.shutdown()).await;
        }
        self.beats.stop();
        let addresses = self.addresses.clone();
        let _ = tokio::task::spawn_blocking(move || addresses.stop()).await;
        let storage = self.storage.clone();
        let _ = tokio::task::spawn_blocking(move || storage.close()).await;
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    fn group(&self, vnode: VnodeId) -> Option<&Group> {
        self.groups.get(&GroupId(vnode.0)).filter(|group| group.id != GroupId::META)
    }

    /// Whether enough nodes answer to commit anything to meta.
    pub fn has_majority(&self) -> bool {
        self.groups.get(&GroupId::META).is_some_and(|meta| self.reaches_majority(meta))
    }

    /// Whether enough nodes answer to commit anything to a vnode, if that is known here.
    pub fn may_commit(&self, vnode: VnodeId) -> bool {
        !self.holds(vnode) || self.group(vnode).is_some_and(|group| self.reaches_majority(group))
    }

    fn reaches_majority(&self, group: &Group) -> bool {
        let up = |node: &NodeId| *node == self.node || matches!(self.links.reach(*node), Reach::Up(_));
        let voters = group.voters();
        !voters.is_empty() && voters.iter().all(|voters| voters.iter().filter(|node| up(node)).count() > voters.len() / 2)
    }
}

/// What this configuration says of the cluster.
fn outline(
    members: &BTreeMap<NodeId, Member>,
    vnodes: &BTreeMap<VnodeId, NodeId>,
    addresses: &BTreeMap<VnodeId, Families>,
) -> Outline {
    let hash = |text: String| {
        let digest = Sha256::digest(text.as_bytes());
        u64::from_be_bytes(digest[..8].try_into().unwrap_or_default())
    };
    let ips = |vnode: &VnodeId| addresses.get(vnode).map(|ips| ips.all().collect::<Vec<_>>()).unwrap_or_default();
    let table: Vec<_> = vnodes.keys().map(|vnode| (vnode.0, ips(vnode).first().copied())).collect();
    // Said by itself: a release that knows one address of a vnode says what is above.
    let others: Vec<_> = vnodes.keys().flat_map(|vnode| ips(vnode).into_iter().skip(1).map(|ip| (vnode.0, ip))).collect();
    let others = if others.is_empty() { String::new() } else { format!("{others:?}") };
    let who: Vec<_> = members.keys().map(|node| node.0).collect();
    Outline { vnodes: hash(format!("{table:?}{others}")), members: hash(format!("{who:?} {vnodes:?}")) }
}

/// What the storage has kept of one group.
struct Kept {
    id: GroupId,
    log: Log,
    machine: Machine,
}

impl Kept {
    async fn open(id: GroupId, storage: &Arc<Storage>) -> Result<Self, StorageError> {
        let empty =
            if id == GroupId::META { GroupState::Meta(MetaState::default()) } else { GroupState::Vnode(VnodeState::default()) };
        let storage = storage.clone();
        let open = move || {
            let log = Log::open(id, storage.clone())?;
            Ok(Self { id, log, machine: Machine::open(id, storage, empty)? })
        };
        blocking(open).await
    }

    async fn start(self, node: NodeId, links: &Arc<Links>) -> Result<Group, StartError> {
        let Self { id, log, machine } = self;
        let network = Network { group: id, links: links.clone() };
        let raft = Raft::new(node.0, raft::config(), network, log.clone(), machine.clone())
            .await
            .map_err(|error| StartError::Raft(id.0, error.to_string()))?;
        Ok(Group { id, raft, machine, log })
    }
}

/// Waits for what blocks, off the runtime's own threads.
#[cfg(not(feature = "simulated"))]
async fn blocking<R: Send + 'static>(work: impl FnOnce() -> R + Send + 'static) -> R {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime ends, and everything with it.
            Err(_) => std::future::pending().await,
        },
    }
}

/// Another thread would come back when it likes, and no run would be like the one before.
#[cfg(feature = "simulated")]
async fn blocking<R: Send + 'static>(work: impl FnOnce() -> R + Send + 'static) -> R {
    work()
}

/// Why a write at this node's replica failed.
enum WriteError {
    Elsewhere,
    Late,
}

/// Writes at the local leader; waits out the moments after an election and under overload in which openraft
/// says that nobody leads.
async fn write_here(group: &Group, command: Command, within: Duration) -> Result<Reply, WriteError> {
    let deadline = Instant::now() + within;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match tokio::time::timeout(left, group.raft.client_write(command.clone())).await {
            Ok(Ok(response)) => return Ok(response.data),
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to)))) => match to.leader_id {
                Some(leader) if leader != group.metrics().id => return Err(WriteError::Elsewhere),
                _ => tokio::time::sleep(RETRY).await,
            },
            Ok(Err(_)) => return Err(WriteError::Elsewhere),
            Err(_) => return Err(WriteError::Late),
        }
    }
}

#[cfg(test)]
mod tests;

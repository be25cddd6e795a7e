//! Coming into the cluster. Layer: shell.
//!
//! A node that may have forgotten what it acknowledged (an empty disk, a machine that stopped without
//! warning) neither votes nor stands until a leader has caught it up that no other node has deposed. Only when every member is in that
//! state do they begin: all blank founds a cluster, some doubtful starts again from the longest log.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use openraft::EmptyNode;

use super::raft::GroupId;
use super::state::placement::meta_voters;
use super::wire::{Hello, Kind, Memory, Outline, Reach};
use super::{Cluster, Group};
use crate::clock;
use crate::ids::{NodeId, VnodeId};

/// How often we look whether we have caught up.
const LOOK: Duration = Duration::from_millis(50);
/// How long an answer may take: the one who is asked has to ask others in its turn, and links may be slow.
const ASK: Duration = Duration::from_millis(500);

/// What this process knows of its own past.
pub struct Life {
    node: NodeId,
    outline: Outline,
    process: u64,
    memory: Mutex<Memory>,
    may_vote: AtomicBool,
    ready: AtomicBool,
    /// It reaches no majority: who hears it may not be heard by it.
    alone: AtomicBool,
    /// An operator wants nothing to be here.
    drained: AtomicBool,
    stopping: AtomicBool,
}

impl Life {
    /// A process that has just begun, with a disk that remembers this much.
    pub fn new(node: NodeId, process: u64, memory: Memory, outline: Outline) -> Self {
        Self {
            node,
            outline,
            process,
            memory: Mutex::new(memory),
            may_vote: AtomicBool::new(memory == Memory::Whole),
            ready: AtomicBool::new(false),
            alone: AtomicBool::new(false),
            drained: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
        }
    }

    /// Whether this node may vote.
    pub fn may_vote(&self) -> bool {
        self.may_vote.load(Ordering::Relaxed)
    }

    /// Whether it has caught up with every group.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    /// A peer said this. While we are starting, the time of those who are there is ours: what they have promised until then ends then.
    pub fn heard(&self, hello: &Hello) {
        let theirs = hello.now.filter(|_| hello.ready && !self.is_ready());
        if let Some(ahead_ms) = theirs.and_then(clock::follow) {
            tracing::warn!(peer = %hello.node, ahead_ms, "this machine's clock is not the cluster's");
        }
    }

    /// Whether nothing should be here, or move here.
    pub fn is_draining(&self) -> bool {
        self.drained.load(Ordering::Relaxed) || self.stopping.load(Ordering::Relaxed)
    }

    /// It reaches no majority, or does again.
    pub fn alone(&self, alone: bool) {
        self.alone.store(alone, Ordering::Relaxed);
    }

    /// An operator wants nothing to be here, or takes that back.
    pub fn drain(&self, drain: bool) {
        self.drained.store(drain, Ordering::Relaxed);
    }

    /// This process is about to end.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// What the peers hear.
    pub fn hello(&self) -> Hello {
        let (ready, draining) = (self.is_ready() && !self.alone.load(Ordering::Relaxed), self.is_draining());
        let (memory, now, outline) = (self.memory(), Some(clock::now()), Some(self.outline));
        Hello { node: self.node, memory, ready, draining, life: self.process, now, outline }
    }

    /// It may have forgotten what it said.
    #[cfg(test)]
    pub fn forget(&self) {
        self.may_vote.store(false, Ordering::Relaxed);
    }

    fn memory(&self) -> Memory {
        *self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn caught_up(&self) {
        *self.memory.lock().unwrap_or_else(PoisonError::into_inner) = Memory::Whole;
        self.may_vote.store(true, Ordering::Relaxed);
        self.ready.store(true, Ordering::Relaxed);
    }
}

/// Brings this node from its start to *ready*.
pub async fn run(cluster: Arc<Cluster>) {
    tracing::info!(memory = ?cluster.life.memory(), "starting");
    let mut founded = false;
    let mut done = BTreeSet::new();
    loop {
        if !founded && cluster.life.memory() != Memory::Whole && all_have_forgotten(&cluster) {
            founded = true;
            begin_together(&cluster).await;
        }
        if has_caught_up(&cluster, &mut done).await {
            break;
        }
        tokio::time::sleep(LOOK).await;
    }
    // Before anybody hears that we are ready: nothing must come to a node that is being drained.
    cluster.life.drain(cluster.read_meta(|meta| meta.is_drained(cluster.node)));
    cluster.life.caught_up();
    cluster.storage.caught_up();
    tracing::info!("ready");
}

/// Whether everybody is here who could remember, and none is sure of its memory: whoever votes in some group, as far as this node
/// knows, or else the members of the configuration, which must be the same for all that found a cluster.
fn all_have_forgotten(cluster: &Cluster) -> bool {
    let voters: BTreeSet<NodeId> = cluster.groups.values().flat_map(Group::voters).flatten().collect();
    let founds = voters.is_empty();
    let mut all = if founds { cluster.configured.keys().copied().collect() } else { voters };
    all.remove(&cluster.node);
    all.into_iter().all(|node| match cluster.links.reach(node) {
        Reach::Up(hello) => hello.memory != Memory::Whole && (!founds || hello.outline == Some(cluster.outline)),
        Reach::Unknown | Reach::Refused | Reach::Silent => false,
    })
}

async fn begin_together(cluster: &Cluster) {
    let memories = cluster.peers().into_values().map(|reach| match reach {
        Reach::Up(hello) => hello.memory,
        Reach::Unknown | Reach::Refused | Reach::Silent => Memory::Whole,
    });
    let nobody_knows_anything = cluster.life.memory() == Memory::Blank && memories.into_iter().all(|m| m == Memory::Blank);
    if cluster.life.memory() == Memory::Blank && !nobody_knows_anything {
        // Somebody has a log, if a doubtful one: the blank ones wait for it.
        return;
    }
    cluster.life.may_vote.store(true, Ordering::Relaxed);
    if !nobody_knows_anything {
        tracing::warn!("every member's memory is doubtful: starting again from the longest log");
        return;
    }
    let members: BTreeSet<NodeId> = cluster.configured.keys().copied().collect();
    let first = members.first().copied();
    for group in cluster.groups.values() {
        let holders = cluster.holders(VnodeId(group.id.0));
        let (founder, voters) = match holders.first() {
            Some(home) => (Some(*home), holders),
            None => (first, meta_voters(&BTreeSet::new(), &members).into_iter().collect()),
        };
        if founder == Some(cluster.node) {
            tracing::info!(group = group.id.0, "founding");
            let voters: BTreeMap<u64, EmptyNode> = voters.iter().map(|node| (node.0, EmptyNode::default())).collect();
            if let Err(error) = group.raft.initialize(voters).await {
                tracing::warn!(group = group.id.0, %error, "founding failed");
            }
        }
    }
}

/// Whether this node has applied, at some time since it started, all that the leader of each group that it is to hold had when it was asked:
/// of meta, which says which those are, first. Groups that it has caught up with are kept in `done`; from then on it forgets nothing
/// of them, so they need not be asked again, however long the others take.
async fn has_caught_up(cluster: &Cluster, done: &mut BTreeSet<GroupId>) -> bool {
    let meta = ask_all(cluster, done, |group| group.id == GroupId::META).await;
    meta && cluster.is_member()
        && ask_all(cluster, done, |group| group.id != GroupId::META && cluster.is_placed_here(group)).await
}

/// Asks about those groups that aren't done, all at once.
async fn ask_all(cluster: &Cluster, done: &mut BTreeSet<GroupId>, which: impl Fn(&Group) -> bool) -> bool {
    let open: Vec<_> = cluster.groups.values().filter(|group| which(group) && !done.contains(&group.id)).collect();
    let caught_up = join_all(open.iter().map(|group| has_caught_up_with(cluster, group))).await;
    done.extend(open.iter().zip(&caught_up).filter(|(_, caught_up)| **caught_up).map(|(group, _)| group.id));
    caught_up.iter().all(|caught_up| *caught_up)
}

async fn has_caught_up_with(cluster: &Cluster, group: &Group) -> bool {
    let target = cluster.progress(group, ASK).await;
    let applied = group.metrics().last_applied.map(|id| id.index());
    if target.is_none() || applied < target {
        tracing::debug!(group = group.id.0, ?target, ?applied, leader = ?group.leader(), "not caught up");
        return false;
    }
    cluster.life.memory() == Memory::Whole || is_latest(cluster, group).await
}

/// Whether no node that answers knows of a later term than this one. A node that has forgotten its vote may hear first from
/// the leader that the vote deposed: caught up by that one, it would help it to commit beside the other.
async fn is_latest(cluster: &Cluster, group: &Group) -> bool {
    for (_, link) in cluster.links.all().into_iter().filter(|(_, link)| matches!(*link.reach().borrow(), Reach::Up(_))) {
        let term = link.call::<(), u64>(Kind::Term, group.id, &(), ASK).await;
        if term.is_ok_and(|term| term > group.metrics().current_term) || term.is_err() {
            return false;
        }
    }
    true
}

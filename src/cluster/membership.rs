//! Nodes come and go: each leader brings its group to where the shape in meta wants it, step by step. Layer: shell.
//!
//! ```text
//!  Reshape (an operator's) ─▶ links and beats follow
//!     each vnode's leader:  learners ─▶ caught up ─▶ held with their majority too ─▶ joint voters ─▶ voters ─▶ Placed
//!     meta's leader:        learners, voters; a leaving node that holds nothing is taken out
//! ```
//!
//! Every step begins from what is, so whoever leads next goes on, and a shape may be followed by another before it is in place. Joining
//! waits all the same: one change at a time. Leaving doesn't, since who is to leave may be what everything waits for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use openraft::{ChangeMembers, EmptyNode};

use super::balance::{hand_over, is_close};
use super::lease::LEASE;
use super::raft::{GroupId, HEARTBEAT};
use super::state::placement::{Replicas, meta_voters, plan};
use super::state::{Member, MetaCommand, Reply, Shape};
use super::wire::{Link, Reach};
use super::{Cluster, Group, ProposeError, election};
use crate::ids::{NodeId, VnodeId};

/// How often we look.
const LOOK: Duration = Duration::from_millis(50);
/// How long one change of a group's membership may take before it is begun again.
const CHANGE: Duration = Duration::from_secs(5);
/// How long a change waits for the one before.
const SETTLE: Duration = Duration::from_secs(2);
/// How long a new voter may take to promise what its leader must hold.
const HOLD: Duration = Duration::from_secs(1);

/// Why the membership was not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReshapeError {
    /// The change before is not in place yet.
    #[error("a change of the membership is under way")]
    Busy,
    /// Its addresses are others.
    #[error("node {0} is a member already, with other addresses")]
    Exists(u64),
    /// There is no such member.
    #[error("there is no such node")]
    NoSuchNode,
    /// Nobody would be left.
    #[error("the last node can't leave")]
    Last,
    /// The cluster has not said yet who its nodes are.
    #[error("a node of an earlier release is there: the membership changes when all run this one")]
    NotYet,
    /// It was not committed.
    #[error(transparent)]
    Propose(#[from] ProposeError),
}

impl Cluster {
    /// Makes a node one of the cluster's; its share of the vnodes comes to it. Nothing happens if it is one.
    pub async fn join(&self, node: NodeId, member: Member) -> Result<(), ReshapeError> {
        self.begin().await?;
        let is_new = |known: Option<&Member>| match known {
            Some(known) if *known == member => Ok(false),
            Some(_) => Err(ReshapeError::Exists(node.0)),
            None => Ok(true),
        };
        if !self.read_meta(|meta| is_new(meta.shape().members.get(&node)))? {
            return Ok(());
        }
        let (after, mut shape) = self.shape_to_change().await?;
        if is_new(shape.members.get(&node))? {
            shape.members.insert(node, member);
            self.reshape(after, shape).await?;
        }
        Ok(())
    }

    /// Makes a node leave: others take over what it holds, and then it is a member no more.
    pub async fn leave(&self, node: NodeId) -> Result<(), ReshapeError> {
        self.begin().await?;
        let (after, mut shape) = self.read_meta(|meta| (meta.shapes(), meta.shape().clone()));
        let member = shape.members.get_mut(&node).ok_or(ReshapeError::NoSuchNode)?;
        if std::mem::replace(&mut member.leaving, true) {
            return Ok(());
        }
        if shape.members.values().all(|member| member.leaving) {
            return Err(ReshapeError::Last);
        }
        self.reshape(after, shape).await
    }

    /// Makes a node one of those that hold a vnode, if it isn't.
    pub async fn hold(&self, vnode: VnodeId, node: NodeId) -> Result<(), ReshapeError> {
        if self.holders(vnode).contains(&node) {
            return Ok(());
        }
        self.begin().await?;
        let (after, mut shape) = self.shape_to_change().await?;
        if let Some(held) = shape.replicas.get_mut(&vnode) {
            let count = held.len();
            held.insert(0, node);
            held.truncate(count);
        }
        self.commit_shape(after, shape).await
    }

    /// Reads what is committed. A cluster says its first shape when all its nodes understand it; if some are not there, only when
    /// somebody wants another: one that comes back with an earlier release will have to be of this one first.
    async fn begin(&self) -> Result<(), ReshapeError> {
        self.catch_up_meta().await;
        if self.read_meta(|meta| meta.shapes() > 0) {
            return Ok(());
        }
        if self.peers().values().any(|reach| matches!(reach, Reach::Up(hello) if hello.outline.is_none())) {
            return Err(ReshapeError::NotYet);
        }
        match self.commit_shape(0, self.first_shape()).await {
            // Somebody else may have been first.
            Ok(()) | Err(ReshapeError::Busy) => drop(self.catch_up_meta().await),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// What the configuration says.
    fn first_shape(&self) -> Shape {
        Shape { members: self.configured.clone(), replicas: self.first_plan.clone() }
    }

    /// The shape, when everything is as it says; and how often it had changed.
    async fn shape_to_change(&self) -> Result<(u64, Shape), ReshapeError> {
        let meta = self.groups.get(&GroupId::META).ok_or(ReshapeError::Busy)?;
        let mut applied = meta.machine.applied();
        let settled = applied.wait_for(|_| self.read_meta(|meta| meta.is_settled()));
        let _ = tokio::time::timeout(SETTLE, settled).await;
        self.read_meta(|meta| meta.is_settled().then(|| (meta.shapes(), meta.shape().clone()))).ok_or(ReshapeError::Busy)
    }

    async fn reshape(&self, after: u64, mut shape: Shape) -> Result<(), ReshapeError> {
        let stay = shape.members.iter().filter(|(_, member)| !member.leaving).map(|(node, _)| *node).collect();
        shape.replicas = plan(&shape.replicas, &stay, self.replicas);
        self.commit_shape(after, shape).await
    }

    async fn commit_shape(&self, after: u64, shape: Shape) -> Result<(), ReshapeError> {
        match self.propose_meta(MetaCommand::Reshape { after, shape }).await? {
            Reply::Done => Ok(()),
            Reply::Outdated | Reply::Exists | Reply::NotFound | Reply::WrongGroup => Err(ReshapeError::Busy),
        }
    }

    /// Who shall hold a vnode's records, its home first.
    pub fn holders(&self, vnode: VnodeId) -> Vec<NodeId> {
        let said = self.read_meta(|meta| meta.shape().replicas.get(&vnode).cloned());
        said.unwrap_or_else(|| self.first_plan.get(&vnode).cloned().unwrap_or_default())
    }

    /// Whether what this node has of a vnode is what its owner has, but for a moment: only then may it answer for it.
    pub fn holds(&self, vnode: VnodeId) -> bool {
        let placed = self.read_meta(|meta| meta.placed(vnode).map(|placed| placed.contains(&self.node)));
        placed.unwrap_or_else(|| self.group(vnode).is_some_and(|group| group.has_voter(self.node)))
    }

    /// Whether this node has a group's records, or is about to.
    pub(super) fn is_placed_here(&self, group: &Group) -> bool {
        let vnode = VnodeId(group.id.0);
        let placed = || self.read_meta(|meta| meta.placed(vnode).is_some_and(|placed| placed.contains(&self.node)));
        group.id == GroupId::META || self.holders(vnode).contains(&self.node) || placed()
    }

    /// Whether this node is one of the cluster's, as far as it knows.
    pub fn is_member(&self) -> bool {
        self.read_meta(|meta| meta.shapes() == 0 || meta.shape().members.contains_key(&self.node))
    }

    /// Every node, this one included, and where it is: as meta says, or else the configuration.
    fn current_members(&self) -> BTreeMap<NodeId, Member> {
        let said = self.read_meta(|meta| meta.shape().members.clone());
        if said.is_empty() { self.configured.clone() } else { said }
    }
}

/// Makes links and beats follow the members. The link to one that has left stays until it has heard so ([`let_go`]).
pub(super) fn connect(cluster: &Arc<Cluster>) {
    let members = cluster.current_members();
    let changed = cluster.members.send_if_modified(|known| {
        let changed = *known != members;
        known.clone_from(&members);
        changed
    });
    let mut peers: BTreeMap<_, _> =
        members.iter().filter(|(node, _)| **node != cluster.node).map(|(node, member)| (*node, member.raft)).collect();
    if changed {
        cluster.beats.set_peers(peers.clone());
    }
    let hears = cluster.groups.get(&GroupId::META).map(Group::nodes).unwrap_or_default();
    peers.extend(cluster.links.addresses().into_iter().filter(|(peer, _)| hears.contains(peer) && !members.contains_key(peer)));
    cluster.links.set(&peers, |peer, address| {
        let link = Link::start(peer, address, cluster.tls.clone(), cluster.server.clone());
        tokio::spawn(election::watch(cluster.clone(), peer, link.clone()));
        link
    });
}

/// Brings every group that this node leads to where the shape wants it, for ever.
pub(super) async fn run(cluster: Arc<Cluster>) {
    let Some(meta) = cluster.groups.get(&GroupId::META) else { return };
    let mut said = meta.machine.applied();
    while !cluster.is_stopping() {
        let _ = tokio::time::timeout(LOOK, said.changed()).await;
        connect(&cluster);
        cluster.life.alone(!cluster.has_majority());
        if !cluster.is_ready() {
            continue;
        }
        if meta.leads().is_some() {
            look_after_meta(&cluster, meta).await;
        }
        if cluster.read_meta(|meta| meta.shapes() == 0) {
            continue;
        }
        for group in cluster.groups.values().filter(|group| group.id != GroupId::META) {
            if cluster.owners.get(&VnodeId(group.id.0)).is_some_and(|owner| owner.now().is_active()) {
                place(&cluster, group).await;
            }
        }
    }
}

/// The first shape, meta's own voters, and the end of those who leave.
async fn look_after_meta(cluster: &Cluster, meta: &Group) {
    if cluster.read_meta(|meta| meta.shapes() == 0) {
        let all_understand = cluster.peers().values().all(|reach| matches!(reach, Reach::Up(hello) if hello.outline.is_some()));
        if all_understand {
            let _ = cluster.commit_shape(0, cluster.first_shape()).await;
        }
        return;
    }
    let (after, shape) = cluster.read_meta(|meta| (meta.shapes(), meta.shape().clone()));
    let all: BTreeSet<NodeId> = shape.members.keys().copied().collect();
    let stay: BTreeSet<NodeId> = shape.members.iter().filter(|(_, member)| !member.leaving).map(|(node, _)| *node).collect();
    let voters: BTreeSet<NodeId> = meta.voters().into_iter().flatten().collect();
    let wanted = meta_voters(&voters, &stay);
    let known = meta.nodes();
    // Whoever leaves is to hear that it has left, if it is there.
    let hears = |node: &&NodeId| stay.contains(node) || matches!(cluster.links.reach(**node), Reach::Up(_));
    if !add_learners(cluster, meta, all.difference(&known).filter(hears)).await {
        return;
    }
    let ready = |node: &NodeId| voters.contains(node) || is_close(meta, *node);
    if meta.voters() != [wanted.clone()] && wanted.iter().all(ready) {
        if wanted.contains(&cluster.node) {
            change_voters(cluster, meta, &wanted).await;
        } else if let Some(heir) = wanted.iter().find(|node| voters.contains(node) && is_close(meta, **node)) {
            hand_over(cluster, meta, *heir).await;
        } else {
            let with_us: BTreeSet<NodeId> = wanted.iter().copied().chain([cluster.node]).collect();
            if meta.voters() != [with_us.clone()] {
                change_voters(cluster, meta, &with_us).await;
            }
        }
        return;
    }
    let_go(cluster, meta, &known - &all).await;
    // Whoever leaves is gone when nobody counts on it any more.
    let placed = |vnode: &VnodeId| cluster.read_meta(|meta| meta.placed(*vnode).cloned()).unwrap_or_default();
    let counted: BTreeSet<NodeId> = shape.replicas.keys().flat_map(placed).chain(meta.voters().into_iter().flatten()).collect();
    let left: Vec<NodeId> = all.difference(&stay).filter(|node| !counted.contains(node)).copied().collect();
    if !left.is_empty() && is_in_place(cluster, &shape.replicas) {
        let mut shape = shape;
        shape.members.retain(|node, _| !left.contains(node));
        tracing::info!(?left, "nodes have left");
        let _ = cluster.commit_shape(after, shape).await;
    }
}

fn is_in_place(cluster: &Cluster, replicas: &Replicas) -> bool {
    let is_placed = |(vnode, wanted): (&VnodeId, &Vec<NodeId>)| {
        cluster.read_meta(|meta| meta.placed(*vnode).cloned()) == Some(wanted.iter().copied().collect())
    };
    replicas.iter().all(is_placed)
}

/// Brings a vnode's group, which this node owns, a step nearer to where it shall be.
async fn place(cluster: &Cluster, group: &Group) {
    if group.leads().is_none() {
        return;
    }
    let vnode = VnodeId(group.id.0);
    let wanted: BTreeSet<NodeId> = cluster.holders(vnode).into_iter().collect();
    let said = cluster.read_meta(|meta| meta.placed(vnode).cloned());
    if group.voters() == [wanted.clone()] {
        remove_nodes(group, group.nodes().difference(&wanted)).await;
        if said.as_ref() != Some(&wanted) {
            let _ = cluster.propose_meta(MetaCommand::Placed { vnode, replicas: wanted }).await;
        }
        return;
    }
    let voters: BTreeSet<NodeId> = group.voters().into_iter().flatten().collect();
    if !add_learners(cluster, group, wanted.difference(&group.nodes())).await {
        return;
    }
    if !wanted.iter().all(|node| *node == cluster.node || is_close(group, *node) || is_dead_voter(cluster, &voters, *node)) {
        return;
    }
    // Whoever is about to lose its records must not answer from them any more.
    let stays: BTreeSet<NodeId> = voters.intersection(&wanted).copied().collect();
    if said.is_none_or(|said| !said.is_subset(&stays)) {
        let _ = cluster.propose_meta(MetaCommand::Placed { vnode, replicas: stays }).await;
    }
    // Its owner stays with it until another has it (`super::balance` sees to that).
    let target: BTreeSet<NodeId> = wanted.into_iter().chain([cluster.node]).collect();
    if group.voters() != [target.clone()] {
        change_voters(cluster, group, &target).await;
    }
}

fn is_dead_voter(cluster: &Cluster, voters: &BTreeSet<NodeId>, node: NodeId) -> bool {
    voters.contains(&node) && !matches!(cluster.links.reach(node), Reach::Up(_))
}

/// Lets nodes hear a group's log; false when one can't be reached, or means something else by the cluster.
async fn add_learners(cluster: &Cluster, group: &Group, nodes: impl Iterator<Item = &NodeId>) -> bool {
    for node in nodes {
        match cluster.links.reach(*node) {
            Reach::Up(hello) if cluster.agrees(&hello) => {}
            Reach::Up(_) => {
                tracing::error!(%node, "its configuration has other vnodes than this node's: it can't hold any");
                return false;
            }
            Reach::Unknown | Reach::Refused | Reach::Silent => return false,
        }
        tracing::info!(group = group.id.0, %node, "comes to hold it");
        let adding = group.raft.add_learner(node.0, EmptyNode::default(), false);
        if !matches!(tokio::time::timeout(CHANGE, adding).await, Ok(Ok(_))) {
            return false;
        }
    }
    true
}

/// Has those forgotten who have left. Whoever is there hears first that it has left, and would else believe for ever to be a member:
/// the entry reaches it, and the heartbeat after that says that it is committed.
async fn let_go(cluster: &Cluster, meta: &Group, left: BTreeSet<NodeId>) {
    if left.is_empty() {
        return;
    }
    let said = *meta.machine.applied().borrow();
    let has_it = |node: &NodeId| meta.matched(*node).is_some_and(|matched| matched >= said);
    if left.iter().all(|node| has_it(node) || !matches!(cluster.links.reach(*node), Reach::Up(_))) {
        tokio::time::sleep(Duration::from_millis(2 * HEARTBEAT)).await;
        remove_nodes(meta, left.iter()).await;
    }
}

/// Has those forgotten that hear a group's log and shall not any more.
async fn remove_nodes(group: &Group, nodes: impl Iterator<Item = &NodeId>) {
    let nodes: BTreeSet<u64> = nodes.map(|node| node.0).collect();
    if !nodes.is_empty() {
        let _ = tokio::time::timeout(CHANGE, group.raft.change_membership(ChangeMembers::RemoveNodes(nodes), false)).await;
    }
}

/// Changes who votes. Nothing is held any more by the old voters alone when the new ones begin to count: else those could elect another
/// while the lease that the old ones gave goes on.
async fn change_voters(cluster: &Cluster, group: &Group, voters: &BTreeSet<NodeId>) {
    cluster.beats.hold_with(group.id, Some(voters.clone()));
    tokio::time::sleep(LEASE).await;
    let held = async {
        let mut echoes = cluster.beats.echoes();
        let held = |_: &u64| group.leads().is_none_or(|term| cluster.beats.held_until(group, term).is_some());
        let _ = echoes.wait_for(held).await;
    };
    if tokio::time::timeout(HOLD, held).await.is_ok() && group.leads().is_some() {
        tracing::info!(group = group.id.0, ?voters, "these vote from now on");
        let voters: BTreeSet<u64> = voters.iter().map(|node| node.0).collect();
        let changing = group.raft.change_membership(ChangeMembers::ReplaceAllVoters(voters), false);
        match tokio::time::timeout(CHANGE, changing).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(group = group.id.0, %error, "the voters did not change"),
            Err(_) => tracing::warn!(group = group.id.0, "the voters did not change in time"),
        }
    }
    cluster.beats.hold_with(group.id, None);
}

//! Vnodes go home: leadership is moved to the node that a vnode is at home on, when that node is there and
//! has caught up; or to another one, when the node that has it is being drained. Layer: shell.
//!
//! A move is: the sockets close here, leadership goes over (1-3 ms), the successor opens them. In this
//! order, so that no two nodes ever answer for an address.

use std::sync::Arc;
use std::time::Duration;

use super::raft::GroupId;
use super::wire::{HELLO, Reach};
use super::{Cluster, Group};
use crate::ids::{NodeId, VnodeId};

/// How often we look.
const LOOK: Duration = Duration::from_millis(200);
/// How long closing the sockets may take.
const CLOSE: Duration = Duration::from_secs(2);
/// How long Raft's transfer may take.
const TRANSFER: Duration = Duration::from_secs(1);
/// How long the voters may take to hear that a vnode is let go.
const RELEASE: Duration = Duration::from_millis(200);
/// How long handing everything over may take.
const DRAIN: Duration = Duration::from_secs(3);
/// The pause before what couldn't be handed over is tried again.
const AGAIN: Duration = Duration::from_millis(20);
/// A home that is further behind than this has to catch up first.
const CLOSE_BEHIND: u64 = 16;

/// Sends vnodes to where they belong, one at a time, for ever.
pub async fn run(cluster: Arc<Cluster>) {
    let Some(mut wishes) = cluster.groups.get(&GroupId::META).map(|meta| meta.machine.applied()) else { return };
    loop {
        // An operator may have said something.
        let _ = tokio::time::timeout(LOOK, wishes.changed()).await;
        if cluster.is_stopping() {
            return;
        }
        cluster.life.drain(cluster.read_meta(|meta| meta.is_drained(cluster.node)));
        for vnode in cluster.vnodes() {
            let owns = cluster.owners.get(&vnode).is_some_and(|owner| owner.now().is_active());
            if let Some(node) = wanted(&cluster, vnode).filter(|_| owns) {
                move_to(&cluster, vnode, node).await;
            }
        }
    }
}

/// The other node on which a vnode of ours should be, and can be.
fn wanted(cluster: &Cluster, vnode: VnodeId) -> Option<NodeId> {
    let home = cluster.home(vnode).filter(|home| *home != cluster.node && may_take(cluster, vnode, *home));
    let leaves = cluster.is_draining() || !cluster.holders(vnode).contains(&cluster.node);
    home.or_else(|| if leaves { heir(cluster, vnode) } else { None })
}

/// Who takes what this node must not keep: turn about, so that the load is shared.
fn heir(cluster: &Cluster, vnode: VnodeId) -> Option<NodeId> {
    let peers = cluster.links.peers();
    let turn = usize::from(vnode.0) / (peers.len() + 1);
    let mut heirs: Vec<NodeId> = peers.into_iter().filter(|peer| may_take(cluster, vnode, *peer)).collect();
    let turn = turn % heirs.len().max(1);
    heirs.rotate_left(turn);
    heirs.first().copied()
}

/// Hands everything that this node owns to whoever can take it, as long as a drain may take.
pub async fn hand_everything_over(cluster: &Cluster) {
    cluster.life.stop();
    // The others must have heard it, or they would send home what we send away.
    tokio::time::sleep(HELLO * 2).await;
    let deadline = tokio::time::Instant::now() + DRAIN;
    while tokio::time::Instant::now() < deadline {
        let led: Vec<VnodeId> =
            cluster.vnodes().into_iter().filter(|vnode| cluster.owner_of(*vnode) == Some(cluster.node)).collect();
        if led.is_empty() || !cluster.links.peers().into_iter().any(|peer| is_well(cluster, peer)) {
            return;
        }
        for vnode in led {
            if let Some(heir) = heir(cluster, vnode) {
                move_to(cluster, vnode, heir).await;
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
}

fn is_well(cluster: &Cluster, node: NodeId) -> bool {
    matches!(cluster.links.reach(node), Reach::Up(hello) if hello.ready && !hello.draining && cluster.agrees(&hello))
}

fn may_take(cluster: &Cluster, vnode: VnodeId, node: NodeId) -> bool {
    let Some(group) = cluster.group(vnode) else { return false };
    let shall = cluster.holders(vnode).contains(&node) && group.voters().iter().all(|voters| voters.contains(&node));
    shall && is_well(cluster, node) && is_close(group, node)
}

/// Whether a follower, or a learner, of a group that this node leads has nearly all of it.
pub(super) fn is_close(group: &Group, node: NodeId) -> bool {
    group.matched(node).is_some_and(|matched| matched + CLOSE_BEHIND >= group.metrics().last_log_index.unwrap_or(0))
}

/// Moves one vnode. If the move fails, this node goes on owning it.
pub async fn move_to(cluster: &Cluster, vnode: VnodeId, node: NodeId) {
    let (Some(group), Some(owner)) = (cluster.group(vnode), cluster.owners.get(&vnode)) else { return };
    tracing::info!(%vnode, to = %node, "moving");
    if owner.release(true, CLOSE).await {
        hand_over(cluster, group, node).await;
    }
    owner.release(false, CLOSE).await;
}

/// Hands the leadership of a group over, for which nothing may be sent here any more.
pub(super) async fn hand_over(cluster: &Cluster, group: &Group, node: NodeId) {
    if let Some(term) = group.leads() {
        let deadline = tokio::time::Instant::now() + TRANSFER;
        cluster.beats.hand_over(group.id, term, node);
        if let_go(cluster, group, node).await && group.raft.trigger().transfer_leader(node.0).await.is_ok() {
            while group.leader() != Some(node) && tokio::time::Instant::now() < deadline {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }
    cluster.beats.keep(group.id);
}

/// Waits until the successor and a majority know that their promises are void: else they would refuse to elect it.
async fn let_go(cluster: &Cluster, group: &Group, successor: NodeId) -> bool {
    let mut echoes = cluster.beats.echoes();
    let knows = |node: &NodeId| *node == cluster.node || cluster.beats.has_heard_release(group.id, *node);
    let known = || {
        let majority = group.voters().iter().all(|voters| voters.iter().filter(|node| knows(node)).count() > voters.len() / 2);
        majority && knows(&successor)
    };
    tokio::time::timeout(RELEASE, echoes.wait_for(|_| known())).await.is_ok()
}

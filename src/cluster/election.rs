//! Who stands for election, and when: the detector. Layer: shell.
//!
//! *Refused is dead, silence is not.* A leader whose kernel refuses connections is succeeded at once; one that is only silent
//! when this node's promise to it has ended ([`super::lease`]). Raft's own timers start nothing. Whoever stands has asked the
//! others first, so that a node that nobody would elect doesn't disturb them with a new term.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use openraft::raft::{TransferLeaderRequest, TransferLeaderResponse};
use tokio::time::Instant;

use super::beats::Beats;
use super::raft::{GroupId, TypeConfig};
use super::wire::{Hello, Kind, Link, Reach};
use super::{Cluster, Group};
use crate::ids::NodeId;

/// How often we look whether a group has a leader.
const LOOK: Duration = Duration::from_millis(10);
/// The second of the survivors stands when the first has not won after this, the third after twice as long.
const SECOND: Duration = Duration::from_millis(60);
/// A successor that was named stands by itself when it has not been told to for this long.
const NAMED: Duration = Duration::from_millis(30);
/// How often one that waits looks whether somebody has won.
const GLANCE: Duration = Duration::from_millis(2);
/// How long the others may take to say whether they would vote for us.
const ASK: Duration = Duration::from_millis(100);
/// Whatever an attempt waits for, another begins after this.
const ATTEMPT: Duration = Duration::from_secs(1);
/// How long an election may take before it is tried again.
const ELECTION: Duration = Duration::from_millis(100);

/// Looks after all groups, for ever.
pub async fn run(cluster: Arc<Cluster>) {
    let standing: Arc<Mutex<BTreeSet<GroupId>>> = Arc::default();
    loop {
        let _ = tokio::time::timeout(LOOK, cluster.refused.notified()).await;
        if cluster.is_stopping() {
            return;
        }
        if !cluster.life.may_vote() {
            continue;
        }
        for group in cluster.groups.values().filter(|group| !has_leader(&cluster, group) && group.has_voter(cluster.node)) {
            if lock(&standing).insert(group.id) {
                let (cluster, standing, id) = (cluster.clone(), standing.clone(), group.id);
                tokio::spawn(async move {
                    if let Some(group) = cluster.groups.get(&id) {
                        let _ = tokio::time::timeout(ATTEMPT, succeed(&cluster, group)).await;
                    }
                    lock(&standing).remove(&id);
                });
            }
        }
    }
}

/// Watches one peer for its death, as long as there is a link to it.
pub(super) async fn watch(cluster: Arc<Cluster>, peer: NodeId, link: Arc<Link>) {
    let mut reach = link.reach();
    let dies = async {
        while reach.changed().await.is_ok() {
            cluster.life.alone(!cluster.has_majority());
            if *reach.borrow_and_update() == Reach::Refused {
                cluster.beats.void(peer);
                cluster.refused.notify_one();
            }
        }
    };
    tokio::select! {
        () = dies => {}
        () = link.closed() => {}
    }
}

fn has_leader(cluster: &Cluster, group: &Group) -> bool {
    // A promise to oneself is no leader yet: that of a successor, whose predecessor's word may have been lost.
    group.leads().is_some() || cluster.beats.leader(group.id).is_some_and(|leader| leader != cluster.node)
}

/// Waits for this node's turn, and stands if nobody has won by then.
async fn succeed(cluster: &Cluster, group: &Group) {
    let named = cluster.beats.leader(group.id) == Some(cluster.node);
    let rank = heirs(cluster, group).iter().position(|node| *node == cluster.node).unwrap_or(0);
    // Whoever comes first asks, is voted for, and says so: over a slow link the others wait for that too.
    let far = cluster.beats.round_trip();
    let wait = if named { NAMED + far } else { (SECOND + far * 3) * u32::try_from(rank).unwrap_or(u32::MAX) };
    let turn = Instant::now() + wait;
    while Instant::now() < turn {
        tokio::time::sleep(GLANCE).await;
        if has_leader(cluster, group) {
            return;
        }
    }
    if !may_win(cluster, group).await || has_leader(cluster, group) || !stand(cluster, group).await {
        return;
    }
    metrics::counter!("tandem_elections_total").increment(1);
    tracing::info!(group = group.id.0, rank, "standing for election");
    let deadline = Instant::now() + ELECTION + far * 2;
    while !has_leader(cluster, group) && Instant::now() < deadline {
        tokio::time::sleep(GLANCE).await;
    }
}

/// The nodes that can succeed, in the order in which they stand; it turns with the group, so that load spreads.
fn heirs(cluster: &Cluster, group: &Group) -> Vec<NodeId> {
    let voters = group.voters();
    let can = |node: &NodeId, reach: &Reach| {
        // While nobody is ready, all are alike.
        let fit = |hello: &Hello| (hello.ready || !cluster.life.is_ready()) && !hello.draining;
        let votes = voters.iter().any(|voters| voters.contains(node));
        votes && matches!(reach, Reach::Up(hello) if fit(hello)) && cluster.beats.is_heard(*node)
    };
    let peers = cluster.peers().into_iter().filter(|(node, reach)| can(node, reach)).map(|(node, _)| node);
    let mut alive: Vec<NodeId> = peers.chain([cluster.node]).collect();
    alive.sort_unstable();
    let turn = usize::from(group.id.0) / (cluster.links.peers().len() + 1) % alive.len().max(1);
    alive.rotate_left(turn);
    alive
}

/// Whether a majority of the voters would vote for this node now.
async fn may_win(cluster: &Cluster, group: &Group) -> bool {
    if !cluster.beats.may_vote(group.id, cluster.node) {
        return false;
    }
    let Ok(last) = group.raft.with_raft_state(|state| state.log_ids.last().copied()).await else { return false };
    let (question, far) = ((cluster.node, last), cluster.beats.round_trip());
    let voters = group.voters();
    let links = cluster.links.all().into_iter().filter(|(node, _)| voters.iter().any(|voters| voters.contains(node)));
    let mut asked: FuturesUnordered<_> = links
        .map(|(node, link)| async move {
            (node, link.call::<_, bool>(Kind::May, group.id, &question, ASK + far * 2).await.unwrap_or(false))
        })
        .collect();
    let mut yes = BTreeSet::from([cluster.node]);
    let won = |yes: &BTreeSet<NodeId>| voters.iter().all(|voters| voters.intersection(yes).count() > voters.len() / 2);
    while !won(&yes) {
        match asked.next().await {
            Some((node, true)) => drop(yes.insert(node)),
            Some((_, false)) => {}
            None => return false,
        }
    }
    true
}

/// Raft's own way past a lease: the leader said itself that we shall lead. Its lease is over, so we say it. False if nothing comes of
/// it: this node's vote is promised, or Raft knows better by now.
async fn stand(cluster: &Cluster, group: &Group) -> bool {
    let Ok(vote) = group.raft.with_raft_state(|state| *state.vote_ref()).await else { return false };
    let term = vote.leader_id.term + 1;
    let won_before = vote.leader_id.node_id == cluster.node.0 && !vote.committed;
    let request = TransferLeaderRequest::new(vote, cluster.node.0, None);
    match stand_after(&cluster.beats, group, cluster.node, request).await {
        Some(Ok(())) => true,
        // A leader that was killed and is back: openraft has taken its victory back in memory and not on disk, and refuses since the
        // two differ. They agree after any other vote, and nobody else may be able to win: its log can be the longest.
        Some(Err(_)) if won_before && cluster.beats.pledge(group.id, cluster.node, term) => {
            let stands = group.raft.trigger().elect(false).await.is_ok();
            has_stood(&cluster.beats, group, cluster.node, term).await;
            stands
        }
        Some(Err(_)) | None => false,
    }
}

/// Has this node stand when `request` says so and the leader that it comes from is the one that Raft knows here. To stand is to vote:
/// none if this node's vote is promised.
pub(super) async fn stand_after(
    beats: &Beats,
    group: &Group,
    node: NodeId,
    request: TransferLeaderRequest<TypeConfig>,
) -> Option<TransferLeaderResponse<TypeConfig>> {
    let term = request.from_leader().leader_id.term + 1;
    if !beats.pledge(group.id, node, term) {
        return None;
    }
    let answer = group.raft.handle_transfer_leader(request).await.ok();
    has_stood(beats, group, node, term).await;
    answer
}

/// Makes what is pledged what has come of it. Raft takes one thing after the other, so it has stood by now if it does at all; whoever has
/// not, because it leads already, must not go on as if its own vote were another's.
async fn has_stood(beats: &Beats, group: &Group, node: NodeId, term: u64) {
    let Ok(vote) = group.raft.with_raft_state(|state| *state.vote_ref()).await else { return };
    if vote.leader_id.term < term {
        beats.unpledge(group.id, term, vote.leader_id.term);
    } else if vote.leader_id.node_id == node.0 {
        beats.pledge(group.id, node, vote.leader_id.term);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Nothing is left half done under this lock, so a panic elsewhere doesn't spoil it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

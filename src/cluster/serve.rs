//! What peers ask of this node, answered. Layer: shell.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use openraft::alias::LogIdOf;
use openraft::raft::{AppendEntriesRequest, TransferLeaderRequest, VoteRequest};
use tokio::sync::mpsc;

use super::beats::Beats;
use super::raft::GroupId;
use super::raft::network::SnapshotRpc;
use super::raft::types::TypeConfig;
use super::recovery::Life;
use super::state::Command;
use super::wire::{Answer, Hello, Kind, Serve};
use super::{Group, election, write_here};
use crate::ids::NodeId;

/// At most this many appends of a group wait to be taken.
const APPENDS: usize = 1024;
/// A proposal or a question for the leader is given up after this.
const FORWARDED: Duration = Duration::from_secs(2);

/// The wire's other side.
pub(super) struct Server {
    node: NodeId,
    life: Arc<Life>,
    beats: Arc<Beats>,
    groups: OnceLock<Arc<BTreeMap<GroupId, Group>>>,
    appends: OnceLock<BTreeMap<GroupId, mpsc::Sender<(Bytes, Answer)>>>,
}

impl Server {
    /// Refuses everything until [`Server::open`].
    pub(super) fn new(node: NodeId, life: Arc<Life>, beats: Arc<Beats>) -> Self {
        Self { node, life, beats, groups: OnceLock::new(), appends: OnceLock::new() }
    }

    /// Begins to serve these groups. A group's appends go through one queue, since openraft wants them in order.
    pub(super) fn open(&self, groups: Arc<BTreeMap<GroupId, Group>>) {
        let appends = groups.keys().map(|id| {
            let (queue, mut waiting) = mpsc::channel::<(Bytes, Answer)>(APPENDS);
            let (groups, id) = (groups.clone(), *id);
            tokio::spawn(async move {
                while let Some((body, answer)) = waiting.recv().await {
                    let Some(group) = groups.get(&id) else { return };
                    let Ok(rpc) = rmp_serde::from_slice::<AppendEntriesRequest<TypeConfig>>(&body) else {
                        answer.send::<()>(None);
                        continue;
                    };
                    answer.send(group.raft.append_entries(rpc).await.ok().as_ref());
                }
            });
            (id, queue)
        });
        let _ = self.appends.set(appends.collect());
        let _ = self.groups.set(groups);
    }
}

impl Serve for Server {
    fn serve(self: &Arc<Self>, kind: Kind, group: GroupId, body: Bytes, answer: Answer) {
        if kind == Kind::Append {
            match self.appends.get().and_then(|queues| queues.get(&group)) {
                Some(queue) => {
                    // A full queue loses the append; the leader sends it again.
                    let _ = queue.try_send((body, answer));
                }
                None => answer.send::<()>(None),
            }
            return;
        }
        let this = self.clone();
        tokio::spawn(async move {
            let Some(group) = this.groups.get().and_then(|groups| groups.get(&group)) else {
                return answer.send::<()>(None);
            };
            this.answer(kind, group, &body, answer).await;
        });
    }

    fn hello(&self) -> Hello {
        self.life.hello()
    }

    fn heard(&self, hello: &Hello) {
        self.beats.knows(hello.node, hello.life);
        self.life.heard(hello);
    }
}

impl Server {
    async fn answer(&self, kind: Kind, group: &Group, body: &[u8], answer: Answer) {
        let raft = &group.raft;
        match kind {
            Kind::Append | Kind::Hello => answer.send::<()>(None),
            // A node that may have forgotten what it said must not be asked for its opinion.
            Kind::Vote | Kind::PreVote | Kind::May | Kind::Transfer if !self.life.may_vote() => answer.send::<()>(None),
            Kind::Vote => {
                let Ok(rpc) = rmp_serde::from_slice::<VoteRequest<TypeConfig>>(body) else { return answer.send::<()>(None) };
                let (candidate, term) = (NodeId(rpc.vote.leader_id.node_id), rpc.vote.leader_id.term);
                if !self.beats.pledge(group.id, candidate, term) {
                    return answer.send::<()>(None);
                }
                let response = raft.vote(rpc).await.ok();
                if let Some(response) = response.as_ref().filter(|response| !response.vote_granted) {
                    self.beats.unpledge(group.id, term, response.vote.leader_id.term);
                }
                answer.send(response.as_ref());
            }
            Kind::PreVote => {
                let Ok(rpc) = rmp_serde::from_slice::<VoteRequest<TypeConfig>>(body) else { return answer.send::<()>(None) };
                answer.send(raft.pre_vote(rpc).await.ok().as_ref());
            }
            Kind::May => {
                let Ok((candidate, last)) = rmp_serde::from_slice::<(NodeId, Option<LogIdOf<TypeConfig>>)>(body) else {
                    return answer.send::<()>(None);
                };
                let own = raft.with_raft_state(|state| state.log_ids.last().copied()).await;
                let behind = own.is_ok_and(|own| last < own);
                answer.send(Some(&(!behind && self.beats.may_vote(group.id, candidate))));
            }
            Kind::Snapshot => {
                let Ok((vote, meta, data)) = rmp_serde::from_slice::<SnapshotRpc>(body) else { return answer.send::<()>(None) };
                let snapshot = openraft::alias::SnapshotOf::<TypeConfig, _> { meta, snapshot: data.into_vec() };
                answer.send(raft.install_full_snapshot(vote, snapshot).await.ok().as_ref());
            }
            Kind::Transfer => {
                let Ok(rpc) = rmp_serde::from_slice::<TransferLeaderRequest<TypeConfig>>(body) else {
                    return answer.send::<()>(None);
                };
                let answered = if *rpc.to_node_id() == self.node.0 {
                    election::stand_after(&self.beats, group, self.node, rpc).await
                } else {
                    raft.handle_transfer_leader(rpc).await.ok()
                };
                answer.send(answered.as_ref());
            }
            Kind::Propose => {
                let Ok(command) = rmp_serde::from_slice::<Command>(body) else { return answer.send::<()>(None) };
                answer.send(write_here(group, command, FORWARDED).await.ok().as_ref());
            }
            Kind::Term => answer.send(Some(&group.metrics().current_term)),
            Kind::Progress => answer.send(group.read_index(FORWARDED).await.as_ref()),
        }
    }
}

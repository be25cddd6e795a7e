//! What the meta group holds: users, CDRs, the members, and where the vnodes are and shall be. Layer: pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::Reply;
use super::placement::Replicas;
use super::records::{CdrRecord, UserRecord};
use crate::ids::{Aor, CallId, NodeId, VnodeId};

/// This many CDRs are kept; the oldest go first. Sinks that keep them for ever are the accounting issue's.
pub const MAX_CDRS: usize = 100_000;

/// Where the other nodes reach a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its Raft wire: TCP, and UDP for the beats.
    pub raft: SocketAddr,
    /// Its actor link.
    pub actors: SocketAddr,
    /// It is to leave when others hold what it holds.
    pub leaving: bool,
}

/// Who the nodes are, and which of them hold what.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// The nodes.
    pub members: BTreeMap<NodeId, Member>,
    /// Who shall hold each vnode's records, its home first.
    pub replicas: Replicas,
}

/// A change of the meta state. Variants are added, never changed: an older entry must replay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MetaCommand {
    /// Makes a user, or replaces one if `replace`.
    PutUser {
        /// Who.
        aor: Aor,
        /// Its credentials.
        user: UserRecord,
        /// Whether it may be there already.
        replace: bool,
    },
    /// Several at once, replacing those that are there: an import.
    PutUsers {
        /// Who, and the credentials.
        users: Vec<(Aor, UserRecord)>,
    },
    /// Removes a user.
    DeleteUser {
        /// Who.
        aor: Aor,
    },
    /// CDRs from a vnode's outbox; one that is there already is left as it is.
    StoreCdrs {
        /// Which.
        cdrs: Vec<CdrRecord>,
    },
    /// An operator wants a vnode at home on another node, or where the configuration says.
    MoveVnode {
        /// Which.
        vnode: VnodeId,
        /// Where; none takes an earlier wish back.
        home: Option<NodeId>,
    },
    /// An operator wants nothing to be on a node, or takes that back.
    DrainNode {
        /// Which.
        node: NodeId,
        /// Whether nothing shall be there.
        drain: bool,
    },
    /// The nodes, and who holds what, shall be these.
    Reshape {
        /// How often that had changed when this was thought of.
        after: u64,
        /// What shall be.
        shape: Shape,
    },
    /// These nodes hold a vnode's records.
    Placed {
        /// Which.
        vnode: VnodeId,
        /// Who.
        replicas: BTreeSet<NodeId>,
    },
}

impl MetaCommand {
    /// For logs and counters.
    pub fn name(&self) -> &'static str {
        match self {
            Self::PutUser { .. } => "put_user",
            Self::PutUsers { .. } => "put_users",
            Self::DeleteUser { .. } => "delete_user",
            Self::StoreCdrs { .. } => "store_cdrs",
            Self::MoveVnode { .. } => "move_vnode",
            Self::DrainNode { .. } => "drain_node",
            Self::Reshape { .. } => "reshape",
            Self::Placed { .. } => "placed",
        }
    }
}

/// The state.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetaState {
    users: BTreeMap<Aor, UserRecord>,
    cdrs: BTreeMap<u64, CdrRecord>,
    cdr_of: BTreeMap<CallId, u64>,
    next_cdr: u64,
    #[serde(default)]
    homes: BTreeMap<VnodeId, NodeId>,
    #[serde(default)]
    drained: BTreeSet<NodeId>,
    #[serde(default)]
    shape: Shape,
    #[serde(default)]
    shapes: u64,
    #[serde(default)]
    placed: BTreeMap<VnodeId, BTreeSet<NodeId>>,
}

impl MetaState {
    /// Applies one committed command; every replica ends in the same state.
    pub fn apply(&mut self, command: &MetaCommand) -> Reply {
        match command {
            MetaCommand::PutUser { aor, user, replace } => {
                if !replace && self.users.contains_key(aor) {
                    return Reply::Exists;
                }
                self.put_user(aor, user);
                Reply::Done
            }
            MetaCommand::PutUsers { users } => {
                users.iter().for_each(|(aor, user)| self.put_user(aor, user));
                Reply::Done
            }
            MetaCommand::DeleteUser { aor } => {
                if self.users.remove(aor).is_some() {
                    Reply::Done
                } else {
                    Reply::NotFound
                }
            }
            MetaCommand::StoreCdrs { cdrs } => {
                for cdr in cdrs {
                    self.store_cdr(cdr);
                }
                Reply::Done
            }
            MetaCommand::MoveVnode { vnode, home: Some(home) } => {
                self.homes.insert(*vnode, *home);
                Reply::Done
            }
            MetaCommand::MoveVnode { vnode, home: None } => {
                self.homes.remove(vnode);
                Reply::Done
            }
            MetaCommand::DrainNode { node, drain: true } => {
                self.drained.insert(*node);
                Reply::Done
            }
            MetaCommand::DrainNode { node, drain: false } => {
                self.drained.remove(node);
                Reply::Done
            }
            MetaCommand::Reshape { after, .. } if *after != self.shapes => Reply::Outdated,
            MetaCommand::Reshape { shape, .. } => {
                self.shapes += 1;
                self.shape = shape.clone();
                // What was wanted of nodes that are none any more is wanted no longer.
                let Shape { members, replicas } = shape;
                self.homes.retain(|vnode, home| replicas.get(vnode).is_none_or(|held| held.contains(home)));
                self.drained.retain(|node| members.contains_key(node));
                Reply::Done
            }
            MetaCommand::Placed { vnode, replicas } => {
                self.placed.insert(*vnode, replicas.clone());
                Reply::Done
            }
        }
    }

    fn store_cdr(&mut self, cdr: &CdrRecord) {
        if self.cdr_of.contains_key(&cdr.call) {
            return;
        }
        self.cdr_of.insert(cdr.call, self.next_cdr);
        self.cdrs.insert(self.next_cdr, cdr.clone());
        self.next_cdr += 1;
        while self.cdrs.len() > MAX_CDRS {
            if let Some((_, oldest)) = self.cdrs.pop_first() {
                self.cdr_of.remove(&oldest.call);
            }
        }
    }

    /// Where an operator wants a vnode to be at home.
    pub fn home(&self, vnode: VnodeId) -> Option<NodeId> {
        self.homes.get(&vnode).copied()
    }

    /// Whether an operator wants nothing to be on a node.
    pub fn is_drained(&self, node: NodeId) -> bool {
        self.drained.contains(&node)
    }

    /// The nodes, and who shall hold what: empty in a cluster that has not said yet.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// How often the shape has changed.
    pub fn shapes(&self) -> u64 {
        self.shapes
    }

    /// The nodes that hold a vnode's records: none when nobody has said yet.
    pub fn placed(&self, vnode: VnodeId) -> Option<&BTreeSet<NodeId>> {
        self.placed.get(&vnode)
    }

    /// Whether there is a shape, and everything is as it says.
    pub fn is_settled(&self) -> bool {
        let is_placed = |(vnode, wanted): (&VnodeId, &Vec<NodeId>)| {
            self.placed.get(vnode).is_some_and(|placed| *placed == wanted.iter().copied().collect())
        };
        self.shapes > 0 && self.shape.replicas.iter().all(is_placed) && self.shape.members.values().all(|member| !member.leaving)
    }

    /// One that says nothing of what it was told before keeps that.
    fn put_user(&mut self, aor: &Aor, user: &UserRecord) {
        let former = self.users.get(aor);
        let srtp = user.srtp.or_else(|| former?.srtp);
        let record = user.record.or_else(|| former?.record);
        self.users.insert(aor.clone(), UserRecord { srtp, record, ..user.clone() });
    }

    /// One user.
    pub fn user(&self, aor: &Aor) -> Option<&UserRecord> {
        self.users.get(aor)
    }

    /// All users, in order.
    pub fn users(&self) -> impl Iterator<Item = (&Aor, &UserRecord)> {
        self.users.iter()
    }

    /// All CDRs, the newest first, with the number under which each was stored.
    pub fn cdrs(&self) -> impl Iterator<Item = (u64, &CdrRecord)> {
        self.cdrs.iter().rev().map(|(number, cdr)| (*number, cdr))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::config::SrtpPolicy;

    fn cdr(call: u128) -> CdrRecord {
        CdrRecord {
            call: CallId(call),
            caller: String::new(),
            callee: String::new(),
            created: Timestamp(0),
            answered: None,
            ended: Timestamp(0),
            status: 200,
            ended_by: "caller".into(),
            recorded: false,
            legs: None,
        }
    }

    #[test]
    fn a_cdr_shipped_twice_is_stored_once() {
        let mut state = MetaState::default();
        for _ in 0..2 {
            state.apply(&MetaCommand::StoreCdrs { cdrs: vec![cdr(1), cdr(2)] });
        }
        assert_eq!(state.cdrs().map(|(_, cdr)| cdr.call.0).collect::<Vec<_>>(), [2, 1]);
    }

    #[test]
    fn what_operators_want_can_be_taken_back() {
        let mut state = MetaState::default();
        let (vnode, node) = (VnodeId(1), NodeId(2));
        state.apply(&MetaCommand::MoveVnode { vnode, home: Some(node) });
        state.apply(&MetaCommand::DrainNode { node, drain: true });
        assert_eq!((state.home(vnode), state.is_drained(node)), (Some(node), true));
        state.apply(&MetaCommand::MoveVnode { vnode, home: None });
        state.apply(&MetaCommand::DrainNode { node, drain: false });
        assert_eq!(state, MetaState::default());
    }

    #[test]
    fn a_shape_is_changed_by_whoever_knows_the_last_and_forgets_who_is_gone() {
        let mut state = MetaState::default();
        let member = Member { raft: ([127, 0, 0, 1], 1).into(), actors: ([127, 0, 0, 1], 2).into(), leaving: false };
        let shape = |nodes: &[u64]| Shape {
            members: nodes.iter().map(|node| (NodeId(*node), member)).collect(),
            replicas: BTreeMap::from([(VnodeId(1), nodes.iter().copied().map(NodeId).collect())]),
        };
        let reshape = |after, nodes: &[u64]| MetaCommand::Reshape { after, shape: shape(nodes) };
        assert_eq!(state.apply(&reshape(0, &[1, 2])), Reply::Done);
        assert_eq!(state.apply(&reshape(0, &[1])), Reply::Outdated);
        assert!(!state.is_settled());
        let placed = BTreeSet::from([NodeId(1), NodeId(2)]);
        state.apply(&MetaCommand::Placed { vnode: VnodeId(1), replicas: placed });
        assert!(state.is_settled());
        state.apply(&MetaCommand::MoveVnode { vnode: VnodeId(1), home: Some(NodeId(2)) });
        state.apply(&MetaCommand::DrainNode { node: NodeId(2), drain: true });
        assert_eq!(state.apply(&reshape(1, &[1, 3])), Reply::Done);
        assert_eq!((state.home(VnodeId(1)), state.is_drained(NodeId(2)), state.shapes()), (None, false, 2));
    }

    #[test]
    fn users_are_made_once_and_replaced_on_purpose() {
        let mut state = MetaState::default();
        let user = |md5: &str| UserRecord { ha1_md5: md5.into(), ha1_sha256: String::new(), srtp: None, record: None };
        let put = |md5: &str, replace| MetaCommand::PutUser { aor: Aor::new("a", "x"), user: user(md5), replace };
        assert_eq!(state.apply(&put("1", false)), Reply::Done);
        assert_eq!(state.apply(&put("2", false)), Reply::Exists);
        assert_eq!(state.user(&Aor::new("a", "x")).unwrap().ha1_md5, "1");
        assert_eq!(state.apply(&put("2", true)), Reply::Done);
        assert_eq!(state.user(&Aor::new("a", "x")).unwrap().ha1_md5, "2");
        // Who changes a password takes no policy back without a word.
        for (srtp, then) in
            [(None, None), (Some(SrtpPolicy::Require), Some(SrtpPolicy::Require)), (None, Some(SrtpPolicy::Require))]
        {
            let user = UserRecord { srtp, ..user("3") };
            let (aor, users) = (Aor::new("a", "x"), vec![(Aor::new("a", "x"), user.clone())]);
            state.apply(&MetaCommand::PutUser { aor: aor.clone(), user, replace: true });
            assert_eq!(state.user(&aor).unwrap().srtp, then);
            state.apply(&MetaCommand::PutUsers { users });
            assert_eq!(state.user(&aor).unwrap().srtp, then);
        }
        assert_eq!(state.apply(&MetaCommand::DeleteUser { aor: Aor::new("a", "x") }), Reply::Done);
        assert_eq!(state.apply(&MetaCommand::DeleteUser { aor: Aor::new("a", "x") }), Reply::NotFound);
    }
}

//! What the meta group holds: users, CDRs, and where operators want the vnodes. Layer: pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::Reply;
use super::records::{CdrRecord, UserRecord};
use crate::ids::{Aor, CallId, NodeId, VnodeId};

/// This many CDRs are kept; the oldest go first. Sinks that keep them for ever are the accounting issue's.
pub const MAX_CDRS: usize = 100_000;

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
}

impl MetaState {
    /// Applies one committed command; every replica ends in the same state.
    pub fn apply(&mut self, command: &MetaCommand) -> Reply {
        match command {
            MetaCommand::PutUser { aor, user, replace } => {
                if !replace && self.users.contains_key(aor) {
                    return Reply::Exists;
                }
                self.users.insert(aor.clone(), user.clone());
                Reply::Done
            }
            MetaCommand::PutUsers { users } => {
                self.users.extend(users.iter().cloned());
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
    fn users_are_made_once_and_replaced_on_purpose() {
        let mut state = MetaState::default();
        let user = |md5: &str| UserRecord { ha1_md5: md5.into(), ha1_sha256: String::new() };
        let put = |md5: &str, replace| MetaCommand::PutUser { aor: Aor::new("a", "x"), user: user(md5), replace };
        assert_eq!(state.apply(&put("1", false)), Reply::Done);
        assert_eq!(state.apply(&put("2", false)), Reply::Exists);
        assert_eq!(state.user(&Aor::new("a", "x")).unwrap().ha1_md5, "1");
        assert_eq!(state.apply(&put("2", true)), Reply::Done);
        assert_eq!(state.user(&Aor::new("a", "x")).unwrap().ha1_md5, "2");
        assert_eq!(state.apply(&MetaCommand::DeleteUser { aor: Aor::new("a", "x") }), Reply::Done);
        assert_eq!(state.apply(&MetaCommand::DeleteUser { aor: Aor::new("a", "x") }), Reply::NotFound);
    }
}

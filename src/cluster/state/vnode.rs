//! What a vnode's group holds: its calls, the bindings of its addresses-of-record and who watches them, CDRs on their way to meta.
//! Layer: pure.
//!
//! Invariant: a CDR enters the outbox in the very entry that ends its call, and once.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::Reply;
use super::records::CdrRecord;
use crate::ids::{Aor, CallId};

/// A change of a vnode's state. Variants are added, never changed: an older entry must replay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum VnodeCommand {
    /// The call is as its record says.
    PutCall {
        /// Which.
        call: CallId,
        /// An encoded [`super::records::CallRecord`].
        record: Bytes,
    },
    /// The call is over: its last record, and its CDR.
    EndCall {
        /// Which.
        call: CallId,
        /// As in `PutCall`; it stays until `ForgetCall`, to answer what is repeated.
        record: Bytes,
        /// For the outbox.
        cdr: CdrRecord,
    },
    /// Nothing of the call is needed any more.
    ForgetCall {
        /// Which.
        call: CallId,
    },
    /// All bindings of an address-of-record; an empty record removes it.
    PutBindings {
        /// Whose.
        aor: Aor,
        /// An encoded list of [`super::records::BindingRecord`].
        record: Bytes,
    },
    /// These CDRs are in meta.
    CdrsShipped {
        /// Of these calls.
        calls: Vec<CallId>,
    },
    /// Who watches an address-of-record, and what has been published of it; an empty record removes it.
    PutWatched {
        /// Whom.
        aor: Aor,
        /// An encoded [`super::records::WatchedRecord`].
        record: Bytes,
    },
}

impl VnodeCommand {
    /// For logs and counters.
    pub fn name(&self) -> &'static str {
        match self {
            Self::PutCall { .. } => "put_call",
            Self::EndCall { .. } => "end_call",
            Self::ForgetCall { .. } => "forget_call",
            Self::PutBindings { .. } => "put_bindings",
            Self::CdrsShipped { .. } => "cdrs_shipped",
            Self::PutWatched { .. } => "put_watched",
        }
    }

    /// The call that it is about.
    pub fn call(&self) -> Option<CallId> {
        match self {
            Self::PutCall { call, .. } | Self::EndCall { call, .. } | Self::ForgetCall { call } => Some(*call),
            Self::PutBindings { .. } | Self::CdrsShipped { .. } | Self::PutWatched { .. } => None,
        }
    }
}

/// The state.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VnodeState {
    calls: BTreeMap<CallId, CallEntry>,
    bindings: BTreeMap<Aor, Bytes>,
    outbox: BTreeMap<CallId, CdrRecord>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    watched: BTreeMap<Aor, Bytes>,
}

/// A call in the state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallEntry {
    /// The encoded record.
    pub record: Bytes,
    /// It has ended and lingers.
    pub ended: bool,
}

impl VnodeState {
    /// Applies one committed command; every replica ends in the same state.
    pub fn apply(&mut self, command: &VnodeCommand) -> Reply {
        match command {
            VnodeCommand::PutCall { call, record } => {
                let ended = self.calls.get(call).is_some_and(|entry| entry.ended);
                self.calls.insert(*call, CallEntry { record: record.clone(), ended });
                Reply::Done
            }
            VnodeCommand::EndCall { call, record, cdr } => {
                let before = self.calls.insert(*call, CallEntry { record: record.clone(), ended: true });
                // Ending what has ended must not make a second CDR.
                if before.is_some_and(|entry| entry.ended) {
                    return Reply::Exists;
                }
                self.outbox.insert(*call, cdr.clone());
                Reply::Done
            }
            VnodeCommand::ForgetCall { call } => found(self.calls.remove(call).is_some()),
            VnodeCommand::PutBindings { aor, record } if record.is_empty() => found(self.bindings.remove(aor).is_some()),
            VnodeCommand::PutBindings { aor, record } => {
                self.bindings.insert(aor.clone(), record.clone());
                Reply::Done
            }
            VnodeCommand::PutWatched { aor, record } if record.is_empty() => found(self.watched.remove(aor).is_some()),
            VnodeCommand::PutWatched { aor, record } => {
                self.watched.insert(aor.clone(), record.clone());
                Reply::Done
            }
            VnodeCommand::CdrsShipped { calls } => {
                for call in calls {
                    self.outbox.remove(call);
                }
                Reply::Done
            }
        }
    }

    /// Every call, ended ones that linger included.
    pub fn calls(&self) -> impl Iterator<Item = (&CallId, &CallEntry)> {
        self.calls.iter()
    }

    /// The calls from one on, in order.
    pub fn calls_from(&self, from: Bound<CallId>) -> impl Iterator<Item = (&CallId, &CallEntry)> {
        self.calls.range((from, Bound::Unbounded))
    }

    /// One call.
    pub fn call(&self, call: CallId) -> Option<&CallEntry> {
        self.calls.get(&call)
    }

    /// The encoded bindings of an address-of-record.
    pub fn bindings(&self, aor: &Aor) -> Option<&Bytes> {
        self.bindings.get(aor)
    }

    /// How many addresses-of-record have bindings.
    pub fn bindings_len(&self) -> usize {
        self.bindings.len()
    }

    /// Every address-of-record with its encoded bindings.
    pub fn all_bindings(&self) -> impl Iterator<Item = (&Aor, &Bytes)> {
        self.bindings.iter()
    }

    /// The same from one on, in order.
    pub fn bindings_from(&self, from: Bound<&Aor>) -> impl Iterator<Item = (&Aor, &Bytes)> {
        self.bindings.range::<Aor, _>((from, Bound::Unbounded))
    }

    /// Who watches an address-of-record, encoded.
    pub fn watched(&self, aor: &Aor) -> Option<&Bytes> {
        self.watched.get(aor)
    }

    /// Every address-of-record that is watched, or of which something is published.
    pub fn all_watched(&self) -> impl Iterator<Item = (&Aor, &Bytes)> {
        self.watched.iter()
    }

    /// The CDRs that meta doesn't have yet, at most `limit`.
    pub fn outbox(&self, limit: usize) -> Vec<CdrRecord> {
        self.outbox.values().take(limit).cloned().collect()
    }
}

fn found(was_there: bool) -> Reply {
    if was_there { Reply::Done } else { Reply::NotFound }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;

    fn cdr(call: u128) -> CdrRecord {
        CdrRecord {
            call: CallId(call),
            caller: "a@x".into(),
            callee: "b@x".into(),
            created: Timestamp(1),
            answered: None,
            ended: Timestamp(2),
            status: 486,
            ended_by: "callee".into(),
            recorded: false,
            legs: None,
        }
    }

    fn end(call: u128) -> VnodeCommand {
        VnodeCommand::EndCall { call: CallId(call), record: Bytes::from_static(b"r"), cdr: cdr(call) }
    }

    #[test]
    fn a_call_has_one_cdr_however_often_it_ends() {
        let mut state = VnodeState::default();
        assert_eq!(state.apply(&end(1)), Reply::Done);
        assert_eq!(state.apply(&end(1)), Reply::Exists);
        assert_eq!(state.outbox(10).len(), 1);
        // An ended call that is put again (its BYE was answered) stays ended.
        state.apply(&VnodeCommand::PutCall { call: CallId(1), record: Bytes::from_static(b"s") });
        state.apply(&VnodeCommand::CdrsShipped { calls: vec![CallId(1)] });
        assert_eq!(state.apply(&end(1)), Reply::Exists);
        assert!(state.outbox(10).is_empty());
        assert_eq!(state.apply(&VnodeCommand::ForgetCall { call: CallId(1) }), Reply::Done);
        assert_eq!(state.calls().count(), 0);
    }

    #[test]
    fn bindings_are_put_whole_and_removed_by_nothing() {
        let mut state = VnodeState::default();
        let aor = Aor::new("a", "x");
        let put = |record: &'static [u8]| VnodeCommand::PutBindings { aor: aor.clone(), record: Bytes::from_static(record) };
        state.apply(&put(b"one"));
        assert_eq!(state.bindings(&aor).unwrap(), "one".as_bytes());
        assert_eq!(state.apply(&put(b"")), Reply::Done);
        assert_eq!(state.apply(&put(b"")), Reply::NotFound);
        assert!(state.bindings(&aor).is_none());
    }
}

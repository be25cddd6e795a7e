//! The types that openraft is told about. Layer: shell.

use crate::cluster::state::{Command, Reply};

openraft::declare_raft_types!(
    /// Every group has the same types; what is inside a command tells them apart.
    pub TypeConfig:
        D = Command,
        R = Reply,
        NodeId = u64,
        Node = openraft::EmptyNode,
        AsyncRuntime = Runtime,
);

/// What openraft's tasks run on.
#[cfg(not(feature = "simulated"))]
pub type Runtime = openraft::impls::TokioRuntime;
/// The same, and its dice are thrown again as they fell before.
#[cfg(feature = "simulated")]
pub type Runtime = openraft::rt::deterministic_rng::DeterministicRng<openraft::impls::TokioRuntime>;

/// A snapshot is a group's whole state, encoded.
pub type SnapshotData = Vec<u8>;
/// One group.
pub type Raft = openraft::Raft<TypeConfig, super::machine::Machine>;

/// A group's number on the wire and on disk: 0 is meta, a vnode's is its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct GroupId(pub u16);

impl GroupId {
    /// The meta group.
    pub const META: Self = Self(0);
}

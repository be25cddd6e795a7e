//! The replicated state, pure: commands, and what applying them does. Layer: pure.
//!
//! `apply` is deterministic: no clock, no randomness, ordered maps. Commands are append-only: a variant that
//! stood in a log once is never changed. Records are opaque bytes here ([`records`] says what is in them),
//! so that replicating one is copying a pointer.

pub mod dense;
pub mod meta;
pub mod placement;
pub mod quality;
pub mod records;
pub mod vnode;

use serde::{Deserialize, Serialize};

pub use meta::{Member, MetaCommand, MetaState, Shape};
pub use vnode::{VnodeCommand, VnodeState};

/// One entry of a group's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// For a vnode's group.
    Vnode(VnodeCommand),
    /// For the meta group.
    Meta(MetaCommand),
}

/// What a command's proposer is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// It is so now.
    Done,
    /// What it wanted to change isn't there.
    NotFound,
    /// What it wanted to make is there.
    Exists,
    /// It belongs to another kind of group.
    WrongGroup,
    /// Somebody else has changed it meanwhile.
    Outdated,
}

/// The state of one group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum GroupState {
    /// A vnode's calls and registrations.
    Vnode(VnodeState),
    /// What outlives everything: users, CDRs.
    Meta(MetaState),
}

impl GroupState {
    /// Applies one committed command.
    pub fn apply(&mut self, command: &Command) -> Reply {
        match (self, command) {
            (Self::Vnode(state), Command::Vnode(command)) => state.apply(command),
            (Self::Meta(state), Command::Meta(command)) => state.apply(command),
            (Self::Vnode(_), Command::Meta(_)) | (Self::Meta(_), Command::Vnode(_)) => Reply::WrongGroup,
        }
    }
}

impl std::fmt::Display for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Vnode(command) => write!(f, "{}", command.name()),
            Self::Meta(command) => write!(f, "{}", command.name()),
        }
    }
}

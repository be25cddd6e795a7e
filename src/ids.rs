//! The names of things: nodes, vnodes, calls, legs, addresses-of-record. Layer: ground.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// One machine (one process) of the cluster; Raft's node id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(pub u64);

/// One unit of ownership: a Raft group, a service address and the actors behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct VnodeId(pub u16);

/// One call: 128 random bits, so that it can stand in tokens that must be unguessable.
/// It is the call's trace id too.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CallId(pub u128);

/// One leg of a call: 0 is the caller's, 1 and up are the callees' branches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LegId(pub u8);

impl LegId {
    /// The caller's leg.
    pub const CALLER: Self = Self(0);
    /// The callee's leg.
    pub const CALLEE: Self = Self(1);
}

/// An address-of-record in canonical form: `user@domain`, the domain in lower case (RFC 3261 §10.3 step 5).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Aor(String);

impl Aor {
    /// Joins `user` and `domain`; the user part is case-sensitive, the domain is not.
    pub fn new(user: &str, domain: &str) -> Self {
        Self(format!("{user}@{}", domain.to_ascii_lowercase()))
    }

    /// The part before the last `@`.
    pub fn user(&self) -> &str {
        self.0.rsplit_once('@').map_or(self.0.as_str(), |(user, _)| user)
    }

    /// The part after the last `@`.
    pub fn domain(&self) -> &str {
        self.0.rsplit_once('@').map_or("", |(_, domain)| domain)
    }

    /// `user@domain`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The vnode that holds this AoR's bindings: the same on every node for the life of the cluster,
    /// so the hash (FNV-1a) is spelled out here and never taken from a library that may change it.
    pub fn vnode(&self, vnodes: &[VnodeId]) -> Option<VnodeId> {
        let hash = self
            .0
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
        let count = u64::try_from(vnodes.len()).ok().filter(|count| *count > 0)?;
        vnodes.get(usize::try_from((hash >> 16) % count).ok()?).copied()
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}", self.0)
    }
}

impl fmt::Display for VnodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}", self.0)
    }
}

impl fmt::Display for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CallId({self})")
    }
}

impl FromStr for CallId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u128::from_str_radix(text, 16).map(Self)
    }
}

impl fmt::Display for LegId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "l{}", self.0)
    }
}

impl fmt::Display for Aor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_aor_keeps_the_case_of_its_user_only() {
        let aor = Aor::new("Alice", "Example.COM");
        assert_eq!(aor.as_str(), "Alice@example.com");
        assert_eq!((aor.user(), aor.domain()), ("Alice", "example.com"));
    }

    /// The hash is part of the stored format: a change would orphan every binding.
    #[test]
    fn aors_stay_on_their_vnode_and_spread_over_all() {
        let vnodes: Vec<_> = (1..=6).map(VnodeId).collect();
        assert_eq!(Aor::new("1001", "tandem.test").vnode(&vnodes), Some(VnodeId(2)));
        let mut seen = std::collections::BTreeMap::new();
        for n in 0..6000 {
            *seen.entry(Aor::new(&format!("u{n:06}"), "x").vnode(&vnodes)).or_insert(0) += 1;
        }
        assert!(seen.len() == 6 && seen.values().all(|n| (800..1200).contains(n)), "{seen:?}");
    }
}

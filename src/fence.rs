//! What keeps a node that has lost a vnode from speaking for it. Layer: ground.
//!
//! Whoever sends by a vnode's sockets asks first: one atomic load. A process that was frozen and wakes up is told no before
//! anything else in it knows how long it was away.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use crate::clock::Uptime;

/// Who may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Pass {
    /// Nobody.
    Shut = 0,
    /// Its owner, or its keeper when nobody else can own it, as long as the lease lasts.
    Lease = 1,
    /// Anybody.
    Open = 2,
}

/// One vnode's fence. Clones are the same fence.
#[derive(Debug, Clone, Default)]
pub struct Fence(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    pass: AtomicU8,
    until: AtomicU64,
}

impl Fence {
    /// A fence that lets everything pass: for what no vnode stands behind.
    pub fn open() -> Self {
        let fence = Self::default();
        fence.pass(Pass::Open);
        fence
    }

    /// Says who may send from now on.
    pub fn pass(&self, pass: Pass) {
        self.0.pass.store(pass as u8, Ordering::Release);
    }

    /// The lease was made longer; it never gets shorter.
    pub fn extend(&self, until: Uptime) {
        self.0.until.fetch_max(until.0, Ordering::AcqRel);
    }

    /// Until when it lets anything pass, if nothing is said in between.
    pub fn until(&self) -> Uptime {
        match self.0.pass.load(Ordering::Acquire) {
            pass if pass == Pass::Lease as u8 => Uptime(self.0.until.load(Ordering::Acquire)),
            pass if pass == Pass::Open as u8 => Uptime(u64::MAX),
            _ => Uptime(0),
        }
    }

    /// Whether anything may be sent at this moment.
    pub fn may_send(&self, now: Uptime) -> bool {
        now < self.until()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_passes_until_it_ends() {
        let fence = Fence::default();
        assert!(!fence.may_send(Uptime(0)));
        fence.extend(Uptime(100));
        assert!(!fence.may_send(Uptime(0)), "a lease alone makes no owner");
        fence.pass(Pass::Lease);
        fence.extend(Uptime(90));
        assert!(fence.may_send(Uptime(99)) && !fence.may_send(Uptime(100)));
        fence.pass(Pass::Open);
        assert!(fence.may_send(Uptime(100)));
        fence.pass(Pass::Shut);
        assert!(!fence.may_send(Uptime(0)));
    }
}

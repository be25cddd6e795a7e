//! Sockets for the calls of vnodes that are at other nodes, ready before their end. Layer: shell.
//!
//! An address that moves can be bound before it comes (`IP_FREEBIND`). So whoever may have to go on with a call has its ports
//! open already: a takeover makes no system call for each of them, and what comes before the relay looks waits in the kernel.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use smallvec::SmallVec;

use super::ports::Pair;
use crate::ids::{CallId, VnodeId};

/// A pair is an end of a stream; each has two sockets.
type Pairs = SmallVec<[(SocketAddr, Pair); 2]>;

/// The sockets of one vnode's calls.
#[derive(Debug, Default)]
pub struct Ready {
    calls: HashMap<CallId, Pairs>,
    /// Calls that don't have all of theirs.
    lacking: HashSet<CallId>,
    /// Every call has been looked at once.
    whole: bool,
    /// Somebody looks at some at this moment.
    looking: bool,
}

impl Ready {
    /// Whether every call has its sockets here.
    pub fn is_complete(&self) -> bool {
        self.whole && !self.looking && self.lacking.is_empty()
    }

    /// The sockets of one end of a call, if they are here; its RTP is at `local`.
    pub fn take(&mut self, call: CallId, local: SocketAddr) -> Option<Pair> {
        let pairs = self.calls.get_mut(&call)?;
        let at = pairs.iter().position(|(own, _)| *own == local)?;
        Some(pairs.swap_remove(at).1)
    }

    fn sockets(&self) -> usize {
        self.calls.values().map(|pairs| pairs.len() * 2).sum()
    }
}

/// The sockets of all vnodes that are elsewhere.
#[derive(Debug, Default)]
pub struct Standby {
    vnodes: Mutex<HashMap<VnodeId, Ready>>,
    sockets: AtomicUsize,
}

impl Standby {
    /// A vnode is at another node from now on.
    pub fn begin(&self, vnode: VnodeId) {
        self.vnodes().entry(vnode).or_default();
    }

    /// It comes here: what stands by is whoever's that opens it.
    pub fn end(&self, vnode: VnodeId) -> Ready {
        let ready = self.vnodes().remove(&vnode).unwrap_or_default();
        self.sockets.fetch_sub(ready.sockets(), Ordering::Relaxed);
        ready
    }

    /// Nothing of a vnode's has to be here.
    pub fn forget(&self, vnode: VnodeId) {
        if let Some(ready) = self.vnodes().get_mut(&vnode) {
            self.sockets.fetch_sub(ready.sockets(), Ordering::Relaxed);
            *ready = Ready::default();
        }
    }

    /// Somebody is about to look at some calls of a vnode; tells whether all of them have been looked at before. None if it is here,
    /// or somebody does already.
    pub fn look(&self, vnode: VnodeId) -> Option<bool> {
        let mut vnodes = self.vnodes();
        let ready = vnodes.get_mut(&vnode).filter(|ready| !ready.looking)?;
        ready.looking = true;
        Some(ready.whole)
    }

    /// All has been looked at that was to be: every call (then the rest goes), or some.
    pub fn looked(&self, vnode: VnodeId, all: Option<&HashSet<CallId>>) {
        if let Some(ready) = self.vnodes().get_mut(&vnode) {
            ready.looking = false;
            if let Some(all) = all {
                ready.whole = true;
                ready.lacking.retain(|call| all.contains(call));
                let before = ready.sockets();
                ready.calls.retain(|call, _| all.contains(call));
                self.sockets.fetch_sub(before - ready.sockets(), Ordering::Relaxed);
            }
        }
    }

    /// Makes a call's sockets those at `locals`, none if it has ended. Binds nothing unless there is `room`.
    pub fn keep(&self, vnode: VnodeId, call: CallId, locals: impl IntoIterator<Item = SocketAddr>, room: bool) {
        let mut vnodes = self.vnodes();
        let Some(ready) = vnodes.get_mut(&vnode) else { return };
        let mut had = ready.calls.remove(&call).unwrap_or_default();
        self.sockets.fetch_sub(had.len() * 2, Ordering::Relaxed);
        let (mut pairs, mut lacks) = (Pairs::new(), false);
        for local in locals {
            let pair = match had.iter().position(|(own, _)| *own == local) {
                Some(at) => Some(had.swap_remove(at).1),
                None if room => Pair::bind(local).ok(),
                None => None,
            };
            lacks |= pair.is_none();
            pairs.extend(pair.map(|pair| (local, pair)));
        }
        if lacks {
            ready.lacking.insert(call);
        } else {
            ready.lacking.remove(&call);
        }
        if !pairs.is_empty() {
            self.sockets.fetch_add(pairs.len() * 2, Ordering::Relaxed);
            ready.calls.insert(call, pairs);
        }
    }

    /// Closes at least so many, wherever: they are needed for calls that are here.
    pub fn shed(&self, sockets: usize) {
        let mut vnodes = self.vnodes();
        let mut shed = 0;
        for ready in vnodes.values_mut() {
            let calls: Vec<CallId> = ready.calls.keys().copied().collect();
            for call in calls {
                if shed >= sockets {
                    break;
                }
                shed += ready.calls.remove(&call).map_or(0, |pairs| pairs.len() * 2);
                ready.lacking.insert(call);
            }
        }
        self.sockets.fetch_sub(shed, Ordering::Relaxed);
    }

    /// How many stand by.
    pub fn sockets(&self) -> usize {
        self.sockets.load(Ordering::Relaxed)
    }

    fn vnodes(&self) -> MutexGuard<'_, HashMap<VnodeId, Ready>> {
        // A panic under this lock costs sockets that would have been ready, and nothing else.
        self.vnodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    const VNODE: VnodeId = VnodeId(1);

    fn local(port: u16) -> SocketAddr {
        SocketAddr::new("127.0.0.7".parse().unwrap(), port)
    }

    #[test]
    fn sockets_stand_by_until_their_vnode_comes_or_their_call_ends() {
        let standby = Standby::default();
        standby.keep(VNODE, CallId(1), [local(22_000)], true);
        assert_eq!(standby.sockets(), 0, "a vnode that is here has none");
        standby.begin(VNODE);
        assert_eq!(standby.look(VNODE), Some(false));
        assert_eq!(standby.look(VNODE), None, "one at a time");
        standby.keep(VNODE, CallId(1), [local(22_000), local(22_002)], true);
        standby.keep(VNODE, CallId(2), [local(22_004)], true);
        standby.looked(VNODE, Some(&HashSet::from([CallId(1)])));
        assert_eq!(standby.sockets(), 4, "the second is none of its calls");
        drop(UdpSocket::bind(local(22_004)).unwrap());
        // A stream more, and one less.
        standby.keep(VNODE, CallId(1), [local(22_002), local(22_006)], true);
        drop(UdpSocket::bind(local(22_000)).unwrap());
        assert!(UdpSocket::bind(local(22_003)).is_err());
        let mut ready = standby.end(VNODE);
        assert!(ready.is_complete());
        assert_eq!(standby.sockets(), 0);
        assert_eq!(ready.take(CallId(1), local(22_006)).unwrap().rtp.local_addr().unwrap(), local(22_006));
        assert!(ready.take(CallId(1), local(22_006)).is_none());
    }

    #[test]
    fn whoever_lacks_a_socket_is_not_complete() {
        let standby = Standby::default();
        let ends = |standby: &Standby| {
            let ready = standby.end(VNODE);
            standby.begin(VNODE);
            ready.is_complete()
        };
        standby.begin(VNODE);
        assert!(!ends(&standby), "nobody has looked");
        let kept = |room: bool| {
            standby.look(VNODE);
            standby.keep(VNODE, CallId(1), [local(22_100)], room);
            standby.looked(VNODE, Some(&HashSet::from([CallId(1)])));
        };
        kept(false);
        assert!(!ends(&standby), "no room");
        kept(true);
        standby.shed(1);
        assert_eq!(standby.sockets(), 0);
        assert!(!ends(&standby), "shed");
        let taken = UdpSocket::bind(local(22_101)).unwrap();
        kept(true);
        assert!(!ends(&standby), "another's");
        drop(taken);
        kept(true);
        standby.look(VNODE);
        assert!(!ends(&standby), "somebody looks");
        kept(true);
        assert!(ends(&standby));
    }
}

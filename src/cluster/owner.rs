//! Who acts for a vnode: fencing by lease. Layer: shell.
//!
//! ```text
//!  None ──leads, has applied all, lease good──▶ Owner ──lease lost or other leader──▶ None
//!  None ──too few others live to elect anybody (refused, so dead)──▶ Custodian ──▶ None
//! ```
//!
//! The lease is that of [`super::lease`]; the [`Fence`] stops what is sent at its very end, this loop gives the sockets up. A
//! **custodian** keeps the address of a vnode while most nodes are known to be dead: calls go on, new promises get 503;
//! nobody else could own it. It keeps it by a lease too, from the moment at which they were last known to be: they may live again while it is
//! frozen, and wait for longer before they elect anybody.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use openraft::ReadPolicy;
use openraft::async_runtime::watch::WatchReceiver;
use tokio::sync::watch;

use super::lease::LEASE;
use super::wire::Reach;
use super::{Cluster, Group, ProposeError};
use crate::clock::Uptime;
use crate::fence::{Fence, Pass};
use crate::ids::{NodeId, VnodeId};

/// How often the lease is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// A new leader must have applied everything before it owns; this is how long one attempt may take.
const CATCH_UP: Duration = Duration::from_millis(500);

/// What this node is to a vnode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ownership {
    /// Nothing: its sockets must be closed.
    None,
    /// Its owner. `epoch` is Raft's term and only grows.
    Owner {
        /// Raft's term.
        epoch: u64,
    },
    /// Its keeper while there is no majority: calls go on, nothing can be committed.
    Custodian,
}

impl Ownership {
    /// Whether the sockets should be open.
    pub fn is_active(self) -> bool {
        self != Self::None
    }
}

/// One vnode's ownership here.
pub struct Owner {
    ownership: watch::Sender<Ownership>,
    open: watch::Sender<bool>,
    /// While true the vnode is being handed over: it is not owned whatever Raft says.
    released: watch::Sender<bool>,
}

impl Default for Owner {
    fn default() -> Self {
        Self::new()
    }
}

impl Owner {
    /// Not owned.
    pub fn new() -> Self {
        Self {
            ownership: watch::Sender::new(Ownership::None),
            open: watch::Sender::new(false),
            released: watch::Sender::new(false),
        }
    }

    /// For the vnode's actors.
    pub fn ownership(&self) -> watch::Receiver<Ownership> {
        self.ownership.subscribe()
    }

    /// At this moment.
    pub fn now(&self) -> Ownership {
        *self.ownership.borrow()
    }

    /// The actors say so.
    pub fn sockets_open(&self, open: bool) {
        self.open.send_replace(open);
    }

    /// Gives the vnode up (or takes that back); returns when its sockets are closed.
    pub async fn release(&self, release: bool, within: Duration) -> bool {
        self.released.send_replace(release);
        if !release {
            return true;
        }
        // The owner's loop has to see it first, then the actors.
        let mut ownership = self.ownership.subscribe();
        let mut open = self.open.subscribe();
        let closed = async {
            let given_up = ownership.wait_for(|ownership| !ownership.is_active()).await.is_ok();
            given_up && open.wait_for(|open| !*open).await.is_ok()
        };
        tokio::time::timeout(within, closed).await.unwrap_or(false)
    }
}

/// Keeps one vnode's ownership true, for ever.
pub async fn run(cluster: Arc<Cluster>, vnode: VnodeId) {
    let (Some(group), Some(owner)) = (cluster.group(vnode), cluster.owners.get(&vnode)) else { return };
    let Some(fence) = cluster.fence(vnode) else { return };
    let mut metrics = group.raft.metrics();
    let mut released = owner.released.subscribe();
    let mut gained = cluster.beats.gained();
    let mut led = None;
    let mut was_in_a_cluster = false;
    loop {
        if led != group.leads() {
            led = group.leads();
            // The voters should hear of it at once.
            cluster.beats.kick();
        }
        let (now, kept_until) = look(&cluster, group, owner, &mut was_in_a_cluster).await;
        fence.extend(kept_until);
        // What is handed over in peace sounds until its sockets are closed, by the lease that goes on so long. A custodian has none
        // that goes on.
        let sounds = *owner.released.borrow() && *owner.open.borrow() && owner.now() != Ownership::Custodian;
        if !sounds {
            set(&fence, now);
        }
        cluster.addresses.renew();
        let before = owner.ownership.send_replace(now);
        if before != now {
            tracing::info!(%vnode, from = ?before, to = ?now, "ownership");
            metrics::counter!("tandem_ownership_changes_total").increment(1);
        }
        tokio::select! {
            changed = metrics.changed() => if changed.is_err() {
                // Raft has stopped: nothing is owned any more.
                set(&fence, Ownership::None);
                owner.ownership.send_replace(Ownership::None);
                return;
            },
            _ = gained.changed() => {}
            _ = released.changed() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

fn set(fence: &Fence, ownership: Ownership) {
    fence.pass(match ownership {
        Ownership::None => Pass::Shut,
        Ownership::Owner { .. } | Ownership::Custodian => Pass::Lease,
    });
}

/// What this node is to the vnode, and until when it may keep it if it is its custodian.
async fn look(cluster: &Cluster, group: &Group, owner: &Owner, was_in_a_cluster: &mut bool) -> (Ownership, Uptime) {
    *was_in_a_cluster |= cluster.is_ready();
    let nothing = (Ownership::None, Uptime::default());
    if *owner.released.borrow() {
        return nothing;
    }
    if let Some(epoch) = group.leads().filter(|term| cluster.beats.held_until(group, *term).is_some()) {
        if owner.now() == (Ownership::Owner { epoch }) || has_applied_everything(group).await.is_ok() {
            return (Ownership::Owner { epoch }, Uptime::default());
        }
        return nothing;
    }
    match may_keep(cluster, group).filter(|_| *was_in_a_cluster) {
        Some(until) => (Ownership::Custodian, until),
        None => nothing,
    }
}

/// Until when this node may keep the address: so many voters are known to be dead that nobody can be elected, and it is the one of the others
/// that keeps it, who led last, or else the first of them. Who isn't sure that all others think alike doesn't. The dead may have begun to
/// live again when they were last refused, and wait for a [`GRANT`](super::lease::GRANT) before they elect anybody; a [`LEASE`] is shorter.
fn may_keep(cluster: &Cluster, group: &Group) -> Option<Uptime> {
    let voters = group.voters();
    let others = || voters.iter().flatten().filter(|node| **node != cluster.node);
    let dead: BTreeMap<NodeId, Uptime> = others().filter_map(|node| Some((*node, cluster.links.refused(*node)?))).collect();
    let perhaps_alive = |node: &NodeId| !dead.contains_key(node);
    let elects = |voters: &BTreeSet<NodeId>| voters.iter().filter(|node| perhaps_alive(node)).count() > voters.len() / 2;
    if !cluster.is_placed_here(group) || !group.has_voter(cluster.node) || voters.iter().all(elects) {
        return None;
    }
    let keeps = match group.leader().filter(perhaps_alive) {
        Some(leader) => leader == cluster.node,
        None => {
            let mut living = others().filter(|node| perhaps_alive(node));
            living.all(|node| *node > cluster.node && matches!(cluster.links.reach(*node), Reach::Up(_)))
        }
    };
    keeps.then(|| dead.values().min().copied().unwrap_or_default() + LEASE)
}

/// A read index proves that this node still leads and has applied all that was ever committed.
async fn has_applied_everything(group: &Group) -> Result<(), ProposeError> {
    let read = group.raft.ensure_linearizable(ReadPolicy::ReadIndex);
    match tokio::time::timeout(CATCH_UP, read).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(_)) => Err(ProposeError::NotOwner),
        Err(_) => Err(ProposeError::Late),
    }
}

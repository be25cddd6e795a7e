//! Media stand by for the calls of other nodes: the relay has their sockets and knows where everything goes, and the fence is shut.
//! Layer: shell.
//!
//! An address that moves can be bound before it comes (`IP_FREEBIND`). So a takeover has nothing to do for the sound of a call: when
//! the lease opens the fence and the address is here, packets pass.
//!
//! The actor looks ten times a second at the records that have changed. What is not ready when a node dies is made ready then.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use nix::sys::resource::{Resource, getrlimit};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use ractor_cluster::RactorMessage;
use smallvec::SmallVec;

use super::calls::Known;
use super::media::tell_relay;
use super::records;
use super::services::Services;
use crate::cluster::Touched;
use crate::ids::{CallId, VnodeId};
use crate::media::relay::Counters;

/// How often it looks.
const LOOK: Duration = Duration::from_millis(100);
/// So many descriptors are left to the calls that are here, and to everything else.
const ROOM: usize = 2048;
/// So many calls that nobody has looked at yet a new owner looks at before it begins.
const FEW: usize = 64;

/// A call of another node.
#[derive(Debug)]
pub struct Stands {
    /// What its next owner has to know.
    pub known: Known,
    /// Our RTP ports; RTCP's are above them.
    pub ports: SmallVec<[u16; 2]>,
    /// What passes its legs, if it has media.
    pub counters: Option<[Arc<Counters>; 2]>,
}

/// The calls of one vnode that is elsewhere.
#[derive(Debug, Default)]
pub struct Standing {
    /// Those that are in the relay, and those that have no media.
    pub calls: HashMap<CallId, Stands>,
    /// Those that should be and aren't: there were not enough descriptors.
    lacking: HashSet<CallId>,
    /// Those that this release can't read.
    unreadable: HashSet<CallId>,
    /// Every call has been looked at once.
    whole: bool,
    /// Somebody looks at some at this moment: which look that is.
    looking: Option<u64>,
}

impl Standing {
    /// Whether nothing is left to do for any call.
    pub fn is_complete(&self) -> bool {
        self.whole && self.looking.is_none() && self.lacking.is_empty() && self.unreadable.is_empty()
    }

    fn sockets(&self) -> usize {
        self.calls.values().map(|call| call.ports.len() * 2).sum()
    }
}

/// The calls of all vnodes that are elsewhere.
#[derive(Debug, Default)]
pub struct Standby {
    vnodes: Mutex<HashMap<VnodeId, Standing>>,
    /// How often somebody has looked.
    looks: AtomicU64,
}

impl Standby {
    /// A vnode is at another node from now on; the relay may still have these calls of it.
    pub fn begin(&self, vnode: VnodeId, calls: Vec<CallId>) {
        let stands =
            |call| Stands { known: Known { call, quiet: false, deadline: None }, ports: SmallVec::new(), counters: None };
        let mut vnodes = self.vnodes();
        let standing = vnodes.entry(vnode).or_default();
        standing.whole = false;
        for call in calls {
            standing.calls.entry(call).or_insert_with(|| stands(call));
        }
    }

    /// How many sockets stand by.
    pub fn sockets(&self) -> usize {
        self.vnodes().values().map(Standing::sockets).sum()
    }

    /// Somebody is about to look at some calls of a vnode. None if it is here, or somebody does already.
    fn look(&self, vnode: VnodeId) -> Option<Look<'_>> {
        let mut vnodes = self.vnodes();
        let standing = vnodes.get_mut(&vnode).filter(|standing| standing.looking.is_none())?;
        let number = self.looks.fetch_add(1, Ordering::Relaxed);
        standing.looking = Some(number);
        let was_whole = std::mem::replace(&mut standing.whole, false);
        let lacking = standing.lacking.iter().take(FEW).copied().collect();
        Some(Look { standby: self, vnode, number, was_whole, lacking })
    }

    /// That is done; if it was all of them, what is none of them goes.
    fn looked(&self, services: &Services, look: &Look<'_>, all: Option<&HashSet<CallId>>) {
        let mut vnodes = self.vnodes();
        let Some(standing) = look.of(&mut vnodes) else { return };
        standing.whole = true;
        if let Some(all) = all {
            standing.lacking.retain(|call| all.contains(call));
            standing.unreadable.retain(|call| all.contains(call));
            standing.calls.retain(|call, _| {
                let is = all.contains(call);
                if !is {
                    services.relay.close(*call);
                }
                is
            });
        }
    }

    /// Has the relay know a call as its record says, if there are so many sockets left as it takes more. What is said here is said
    /// before whatever an owner says, since that one takes the vnode first.
    fn keep(&self, services: &Services, look: &Look<'_>, call: CallId, record: Option<&[u8]>, room: &mut usize) {
        let vnode = look.vnode;
        let glance = match (record, services.site_of(vnode)) {
            (Some(record), Some(site)) => records::glance(call, record, site).ok().map(|glance| (glance, site)),
            _ => None,
        };
        let mut vnodes = self.vnodes();
        let Some(standing) = look.of(&mut vnodes) else { return };
        let before = standing.calls.remove(&call);
        let was_there = before.is_some();
        let Some((glance, site)) = glance else {
            if was_there {
                services.relay.close(call);
            }
            standing.lacking.remove(&call);
            match record {
                // Whoever opens the vnode says what is wrong with it.
                Some(_) => standing.unreadable.insert(call),
                None => standing.unreadable.remove(&call),
            };
            return;
        };
        standing.unreadable.remove(&call);
        let (had_ports, had) = before.map(|call| (call.ports.len(), call.counters)).unwrap_or_default();
        let mut ports: SmallVec<[u16; 2]> = match glance.ended {
            true => SmallVec::new(),
            false => glance.media.ports().into_iter().collect(),
        };
        let more = ports.len().saturating_sub(had_ports) * 2;
        if more > *room {
            standing.lacking.insert(call);
            ports.clear();
        } else {
            standing.lacking.remove(&call);
            *room -= more;
        }
        let mut counters = None;
        if !ports.is_empty() {
            let ours = had.unwrap_or_default();
            tell_relay(services, vnode, call, &glance.media, ours.clone());
            counters = Some(ours);
        } else if was_there {
            services.relay.close(call);
        }
        let known = Known::new(call, &glance, site);
        standing.calls.insert(call, Stands { known, ports, counters });
    }

    /// Closes at least so many sockets, whoever's: they are needed for calls that are here.
    fn shed(&self, services: &Services, sockets: usize) {
        let mut shed = 0;
        for standing in self.vnodes().values_mut() {
            for (call, stands) in &mut standing.calls {
                if shed >= sockets {
                    return;
                }
                if !stands.ports.is_empty() {
                    shed += stands.ports.len() * 2;
                    stands.ports.clear();
                    standing.lacking.insert(*call);
                    services.relay.close(*call);
                }
            }
        }
    }

    /// Nothing of a vnode's has to be here.
    fn forget(&self, services: &Services, vnode: VnodeId) {
        if let Some(standing) = self.vnodes().get_mut(&vnode) {
            for call in standing.calls.keys() {
                services.relay.close(*call);
            }
            *standing = Standing::default();
        }
    }

    fn vnodes(&self) -> MutexGuard<'_, HashMap<VnodeId, Standing>> {
        // A panic under this lock costs media that would have been ready, and nothing else.
        self.vnodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody looks at calls of a vnode. Unless it comes to its end ([`Standby::looked`]) all of them have to be looked at again.
struct Look<'a> {
    standby: &'a Standby,
    vnode: VnodeId,
    number: u64,
    /// All of them had been looked at.
    was_whole: bool,
    /// Some of those that lacked descriptors.
    lacking: Vec<CallId>,
}

impl Look<'_> {
    /// What it looks at, if that is still there: the vnode may have been here in between.
    fn of<'a>(&self, vnodes: &'a mut HashMap<VnodeId, Standing>) -> Option<&'a mut Standing> {
        vnodes.get_mut(&self.vnode).filter(|standing| standing.looking == Some(self.number))
    }
}

impl Drop for Look<'_> {
    fn drop(&mut self) {
        if let Some(standing) = self.of(&mut self.standby.vnodes()) {
            standing.looking = None;
        }
    }
}

/// What it is told.
#[derive(RactorMessage, Debug)]
pub enum StandbyMsg {
    /// Itself: look.
    Look,
}

/// The actor.
pub struct StandbyActor;

impl Actor for StandbyActor {
    type Msg = StandbyMsg;
    type State = Arc<Services>;
    type Arguments = Arc<Services>;

    async fn pre_start(
        &self,
        myself: ActorRef<StandbyMsg>,
        services: Arc<Services>,
    ) -> Result<Arc<Services>, ActorProcessingErr> {
        myself.cast(StandbyMsg::Look)?;
        Ok(services)
    }

    async fn handle(
        &self,
        myself: ActorRef<StandbyMsg>,
        StandbyMsg::Look: StandbyMsg,
        services: &mut Arc<Services>,
    ) -> Result<(), ActorProcessingErr> {
        let all = services.clone();
        tokio::task::spawn_blocking(move || look(&all)).await?;
        myself.send_after(LOOK, || StandbyMsg::Look);
        Ok(())
    }
}

fn look(services: &Services) {
    let Some(standby) = &services.standby else { return };
    for vnode in services.cluster.vnodes() {
        if services.cluster.holds(vnode) {
            catch_up(services, standby, vnode, usize::MAX);
        } else {
            standby.forget(services, vnode);
        }
    }
    let (used, most) = (used(services, standby), most());
    if used > most {
        standby.shed(services, used - most);
    }
}

/// How many sockets there are whose number has no other bound, and will be when the relay has done what it was told.
fn used(services: &Services, standby: &Standby) -> usize {
    services.relay.open_sockets().max(standby.sockets() + services.ports_in_use()) + services.sockets.connections()
}

/// How many media sockets there may be.
fn most() -> usize {
    let soft = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
    usize::try_from(soft).unwrap_or(usize::MAX).saturating_sub(ROOM)
}

/// What a vnode's new owner begins with; whatever it says to the relay comes after what was said here. Nothing stands by where binding
/// an address is taking it.
pub fn take(services: &Services, vnode: VnodeId) -> Standing {
    let Some(standby) = &services.standby else { return Standing::default() };
    catch_up(services, standby, vnode, FEW);
    standby.vnodes().remove(&vnode).unwrap_or_default()
}

/// Looks at the calls of a vnode that have changed, unless they are more than so many.
fn catch_up(services: &Services, standby: &Standby, vnode: VnodeId, most_calls: usize) {
    let Some(look) = standby.look(vnode) else { return };
    let touched = match services.cluster.touched(vnode) {
        Touched::These(calls) if look.was_whole => Some(calls),
        Touched::These(_) | Touched::All => None,
    };
    if touched.as_ref().map_or(usize::MAX, |calls| calls.len()) > most_calls {
        return;
    }
    let mut room = most().saturating_sub(used(services, standby));
    match touched {
        Some(mut calls) => {
            // There may be room by now.
            calls.extend(&look.lacking);
            for call in calls {
                let record = services.cluster.read(vnode, |state| state.call(call).map(|entry| entry.record.clone()));
                standby.keep(services, &look, call, record.flatten().as_deref(), &mut room);
            }
            standby.looked(services, &look, None);
        }
        None => {
            let all = services.cluster.read(vnode, |state| {
                state.calls().map(|(call, entry)| (*call, entry.record.clone())).collect::<Vec<(CallId, Bytes)>>()
            });
            let all = all.unwrap_or_default();
            for (call, record) in &all {
                standby.keep(services, &look, *call, Some(record), &mut room);
            }
            standby.looked(services, &look, Some(&all.iter().map(|(call, _)| *call).collect()));
        }
    }
}

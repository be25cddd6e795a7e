//! The actor that keeps sockets ready for the calls of other nodes ([`crate::media::standby`]). Layer: shell.
//!
//! It looks ten times a second at the records that have changed. What is not ready when a node dies is bound then.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use ractor_cluster::RactorMessage;

use super::records;
use super::services::Services;
use crate::cluster::Touched;
use crate::ids::{CallId, LegId, VnodeId};
use crate::media::standby::Ready;

/// How often it looks.
const LOOK: Duration = Duration::from_millis(100);
/// So many descriptors are left to the calls that are here, and to everything else.
const ROOM: usize = 2048;
/// So many calls that nobody has looked at yet a new owner looks at before it begins.
const FEW: usize = 64;

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
            catch_up(services, vnode, usize::MAX);
        } else {
            standby.forget(vnode);
        }
    }
    let most = room();
    let used = services.relay.open_sockets() + standby.sockets();
    if used > most {
        standby.shed(used - most);
    }
}

/// How many sockets there may be, those of calls that are here included.
fn room() -> usize {
    let soft = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
    usize::try_from(soft).unwrap_or(usize::MAX).saturating_sub(ROOM)
}

/// What a vnode's new owner begins with. Nothing stands by where binding an address is taking it.
pub fn take(services: &Services, vnode: VnodeId) -> Ready {
    let Some(standby) = &services.standby else { return Ready::default() };
    catch_up(services, vnode, FEW);
    standby.end(vnode)
}

/// Looks at the calls of a vnode that have changed, unless they are more than so many.
fn catch_up(services: &Services, vnode: VnodeId, most: usize) {
    let Some(standby) = &services.standby else { return };
    let Some(was_whole) = standby.look(vnode) else { return };
    let touched = match services.cluster.touched(vnode) {
        Touched::These(calls) if was_whole => Some(calls),
        Touched::These(_) | Touched::All => None,
    };
    if touched.as_ref().map_or(usize::MAX, |calls| calls.len()) > most {
        // It goes on being looked at, as far as anybody can tell: it is not complete.
        return;
    }
    let most = room();
    let keep = |call: CallId, record: Option<&[u8]>| {
        let room = services.relay.open_sockets() + standby.sockets() < most;
        standby.keep(vnode, call, record.map(|record| locals(services, vnode, call, record)).unwrap_or_default(), room);
    };
    match touched {
        Some(calls) => {
            for call in calls {
                let record = services.cluster.read(vnode, |state| state.call(call).map(|entry| entry.record.clone())).flatten();
                keep(call, record.as_deref());
            }
            standby.looked(vnode, None);
        }
        None => {
            let all = |state: &crate::cluster::state::VnodeState| {
                state.calls().map(|(call, entry)| (*call, entry.record.clone())).collect::<Vec<_>>()
            };
            let records = services.cluster.read(vnode, all).unwrap_or_default();
            for (call, record) in &records {
                keep(*call, Some(record));
            }
            standby.looked(vnode, Some(&records.iter().map(|(call, _)| *call).collect::<HashSet<_>>()));
        }
    }
}

/// Where the RTP of a call arrives that goes on.
fn locals(services: &Services, vnode: VnodeId, call: CallId, record: &[u8]) -> Vec<SocketAddr> {
    let glance = services.site_of(vnode).and_then(|site| records::glance(call, record, site).ok());
    let Some(glance) = glance.filter(|glance| !glance.ended) else { return Vec::new() };
    let plans = [LegId::CALLER, LegId::CALLEE].into_iter().flat_map(|leg| glance.media.plan(usize::from(leg.0)));
    plans.flatten().map(|plan| plan.local).collect()
}

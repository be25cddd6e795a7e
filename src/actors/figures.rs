//! What has been measured of calls is told to the nodes that hold their records, every few seconds, so that a killed owner takes little of it along.
//! Layer: shell.
//!
//! It is in no log: what is lost of it is lost. What a record says is what was so at the call's last commit; whichever of the two has heard more is right.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use ractor_cluster::RactorMessage;
use serde::Deserialize;

use super::gateway::Parcel;
use super::quality::{figures_of, figures_record};
use super::services::Services;
use crate::cluster::state::VnodeState;
use crate::cluster::state::records::decode;
use crate::ids::{CallId, VnodeId};
use crate::media::core::quality::Figures;

/// How often it is told.
const PERIOD: Duration = Duration::from_secs(5);
/// So many calls go into one parcel.
const PAGE: usize = 256;

/// A call's legs, as they are told and as they are stored.
pub type LegFigures = [Vec<u64>; 2];

/// What other nodes have told of their calls. No more of them than there are records here.
#[derive(Debug, Default)]
pub struct Told {
    calls: Mutex<HashMap<CallId, (VnodeId, [Figures; 2])>>,
}

impl Told {
    /// Another node says what it has measured.
    pub fn hear(&self, services: &Services, vnode: VnodeId, told: Vec<(CallId, LegFigures)>) {
        services.cluster.read(vnode, |state| {
            let told = told.into_iter().filter(|(call, _)| is_live(state, *call));
            for (call, legs) in told {
                let legs = self.later(call, &legs.each_ref().map(|figures| figures_of(figures)));
                self.calls().insert(call, (vnode, legs));
            }
        });
    }

    /// What is known of a call of others: what its record says, or what was told since.
    pub fn later(&self, call: CallId, recorded: &[Figures; 2]) -> [Figures; 2] {
        let told = self.calls().get(&call).map_or(*recorded, |(_, told)| *told);
        // Of a phone that says nothing it is known that it is missed, and what it hears.
        let heard = |figures: &Figures| (figures.expected, figures.reports, figures.missed);
        [0, 1].map(|leg| if heard(&told[leg]) > heard(&recorded[leg]) { told[leg] } else { recorded[leg] })
    }

    fn forget_the_ended(&self, services: &Services) {
        for vnode in services.cluster.vnodes() {
            let kept = |state: &VnodeState| self.calls().retain(|call, (of, _)| *of != vnode || is_live(state, *call));
            if services.cluster.read(vnode, kept).is_none() {
                self.calls().retain(|_, (of, _)| *of != vnode);
            }
        }
    }

    fn calls(&self) -> MutexGuard<'_, HashMap<CallId, (VnodeId, [Figures; 2])>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_live(state: &VnodeState, call: CallId) -> bool {
    state.call(call).is_some_and(|entry| !entry.ended)
}

/// Of a record nothing but its figures.
#[derive(Deserialize)]
struct Measured {
    media: MeasuredMedia,
}

#[derive(Deserialize)]
struct MeasuredMedia {
    #[serde(default)]
    figures: LegFigures,
}

/// What has been measured of a call of ours, by us and before.
fn measured(services: &Services, vnode: VnodeId, call: CallId, is_ours: bool) -> Option<(CallId, LegFigures)> {
    let counters = services.directory.counters(call)?;
    if counters.iter().all(|leg| leg.gauge.here().is_nothing()) {
        return None;
    }
    if counters.iter().any(|leg| !leg.gauge.has_begun()) {
        // One that has slept since it came here: nobody has looked at its record. If that may be another's by now it isn't what was before us.
        if !is_ours {
            return None;
        }
        let record = services.cluster.read(vnode, |state| state.call(call).map(|entry| entry.record.clone())).flatten()?;
        let Measured { media } = decode(&record).ok()?;
        let before = services.told.later(call, &media.figures.each_ref().map(|figures| figures_of(figures)));
        counters.iter().zip(&before).for_each(|(leg, before)| leg.gauge.begins_after(before));
    }
    Some((call, counters.each_ref().map(|leg| figures_record(&leg.gauge.with(&Figures::default())))))
}

/// Tells those who hold a vnode what has been measured here of its calls; it is ours still, or was until now.
pub fn tell(services: &Services, vnode: VnodeId, is_ours: bool) {
    let calls = services.directory.of_vnode(vnode);
    let figures: Vec<_> = calls.into_iter().filter_map(|call| measured(services, vnode, call, is_ours)).collect();
    let holders: Vec<_> = services.cluster.holders(vnode).into_iter().filter(|node| *node != services.node).collect();
    for page in figures.chunks(PAGE) {
        let parcel = Parcel::Figures { vnode, calls: page.to_vec() };
        for holder in &holders {
            services.gateways.send(services, *holder, &parcel);
        }
    }
}

/// The actors of a vnode's calls end here, and others may be made: what has been measured so far is told to them.
pub fn keep(services: &Services, vnode: VnodeId) {
    let calls = services.directory.of_vnode(vnode);
    let figures = calls.into_iter().filter_map(|call| measured(services, vnode, call, false)).collect();
    services.told.hear(services, vnode, figures);
}

/// What it is told.
#[derive(RactorMessage, Debug)]
pub enum FiguresMsg {
    /// Itself: tell.
    Tell,
}

/// The actor.
pub struct FiguresActor;

impl Actor for FiguresActor {
    type Msg = FiguresMsg;
    type State = Arc<Services>;
    type Arguments = Arc<Services>;

    async fn pre_start(
        &self,
        myself: ActorRef<FiguresMsg>,
        services: Arc<Services>,
    ) -> Result<Arc<Services>, ActorProcessingErr> {
        myself.send_after(PERIOD, || FiguresMsg::Tell);
        Ok(services)
    }

    async fn handle(
        &self,
        myself: ActorRef<FiguresMsg>,
        FiguresMsg::Tell: FiguresMsg,
        services: &mut Arc<Services>,
    ) -> Result<(), ActorProcessingErr> {
        let all = services.clone();
        let told = tokio::task::spawn_blocking(move || {
            all.cluster.vnodes().into_iter().filter(|vnode| all.owns(*vnode)).for_each(|vnode| tell(&all, vnode, true));
            all.told.forget_the_ended(&all);
        });
        told.await?;
        myself.send_after(PERIOD, || FiguresMsg::Tell);
        Ok(())
    }
}

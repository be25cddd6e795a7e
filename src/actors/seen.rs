//! What calls are to their users, for those who watch them: said by a call's owner when it changes, and found in the records when it may
//! not have been said. Layer: shell.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::gateway::{Answer, Parcel, Question};
use super::lookup;
use super::notifiers::NotifiersMsg;
use super::records::{self, Site};
use super::services::Services;
use crate::clock::{self, Timestamp};
use crate::cluster::state::VnodeState;
use crate::cluster::state::records::{CallUsers, decode};
use crate::ids::{Aor, CallId, VnodeId};
use crate::sip::events::{Role, Seen, Stage};

/// What a call is to a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    /// The call's vnode.
    pub vnode: VnodeId,
    /// Which.
    pub call: CallId,
    /// What the user is in it.
    pub role: Role,
    /// How far it is, and who is at the other end; nothing when it is over.
    pub is: Option<(Stage, Option<String>)>,
}

/// The same for another node.
#[derive(Debug, Serialize, Deserialize)]
#[allow(missing_docs, reason = "as in Sighting")]
pub struct SightingParcel {
    pub vnode: VnodeId,
    pub call: CallId,
    pub initiator: bool,
    /// `trying`, `early` or `confirmed`.
    pub stage: Option<String>,
    pub remote: Option<String>,
}

impl From<Sighting> for SightingParcel {
    fn from(Sighting { vnode, call, role, is }: Sighting) -> Self {
        let (stage, remote) = is.map_or((None, None), |(stage, remote)| (Some(stage.as_str().to_owned()), remote));
        Self { vnode, call, initiator: role == Role::Initiator, stage, remote }
    }
}

impl From<SightingParcel> for Sighting {
    fn from(parcel: SightingParcel) -> Self {
        let SightingParcel { vnode, call, initiator, stage, remote } = parcel;
        let role = if initiator { Role::Initiator } else { Role::Recipient };
        // One that this release doesn't know is some call.
        let known = |text: String| {
            [Stage::Trying, Stage::Early, Stage::Confirmed]
                .into_iter()
                .find(|stage| stage.as_str() == text)
                .unwrap_or(Stage::Confirmed)
        };
        Self { vnode, call, role, is: stage.map(|text| (known(text), remote)) }
    }
}

/// All that a look has found.
#[derive(Debug)]
pub struct Found {
    /// For whom it was looked.
    pub users: Vec<Aor>,
    /// The vnodes of which all is here.
    pub vnodes: Vec<VnodeId>,
    /// The vnodes that could not be looked at.
    pub missing: Vec<VnodeId>,
    /// Their calls.
    pub sightings: Vec<(Aor, Sighting)>,
    /// When it was looked.
    pub begun: Timestamp,
    /// How long that has taken here.
    pub took: Duration,
}

/// A call's owner: the call was `before` to its users, and is `now`.
pub fn announce(services: &Services, vnode: VnodeId, before: &[(Aor, Seen)], now: &[(Aor, Seen)]) {
    let same = |one: &(Aor, Seen), other: &(Aor, Seen)| one.0 == other.0 && one.1.role == other.1.role;
    let over = before.iter().filter(|then| !now.iter().any(|now| same(then, now))).map(|(aor, seen)| (aor, seen, None));
    let new = now.iter().filter(|now| !before.contains(now));
    let new = new.map(|(aor, seen)| (aor, seen, Some((seen.stage, seen.remote.clone()))));
    for (aor, seen, is) in over.chain(new) {
        tell(services, aor, Sighting { vnode, call: seen.call, role: seen.role, is });
    }
}

/// To whoever has the user's watchers, if there are any.
fn tell(services: &Services, aor: &Aor, sighting: Sighting) {
    let Some(home) = aor.vnode(&services.cluster.vnodes()) else { return };
    if lookup::here(services, home, |state| state.watched(aor).is_none()) == Some(true) {
        return;
    }
    if let Some(open) = services.vnode(home) {
        let _ = open.notifiers.cast(NotifiersMsg::Sighting(aor.clone(), sighting));
    } else if let Some(owner) = services.cluster.owner_of(home).filter(|owner| *owner != services.node) {
        let parcel = Parcel::Sighting { home, aor: aor.clone(), sighting: sighting.into() };
        services.gateways.send(services, owner, &parcel);
    }
}

/// A vnode is open here: all who have watchers look what its calls are.
pub fn opened(services: &Services, vnode: VnodeId) {
    heard_opened(services, vnode);
    let members: Vec<_> = services.cluster.members().borrow().keys().copied().collect();
    for node in members.into_iter().filter(|node| *node != services.node) {
        services.gateways.send(services, node, &Parcel::Opened { vnode });
    }
}

/// The same, said by another node.
pub fn heard_opened(services: &Services, vnode: VnodeId) {
    for home in services.cluster.vnodes() {
        if let Some(open) = services.vnode(home) {
            let _ = open.notifiers.cast(NotifiersMsg::Opened(vnode));
        }
    }
}

/// Looks for the calls of users, at all vnodes.
pub async fn look(services: &Arc<Services>, users: Vec<Aor>, begun: Timestamp) -> Found {
    let all = services.cluster.vnodes();
    let looks = all.iter().map(|vnode| look_at(services, *vnode, &users));
    let (mut sightings, mut vnodes, mut missing, mut took) = (Vec::new(), Vec::new(), Vec::new(), Duration::ZERO);
    for (vnode, found) in all.iter().zip(futures_util::future::join_all(looks).await) {
        match found {
            Some((found, here)) => {
                vnodes.push(*vnode);
                sightings.extend(found);
                took += here;
            }
            None => missing.push(*vnode),
        }
    }
    Found { users, vnodes, missing, sightings, begun, took }
}

/// The calls of users at a vnode, wherever its records are, and how long looking has taken here.
async fn look_at(services: &Arc<Services>, vnode: VnodeId, users: &[Aor]) -> Option<(Vec<(Aor, Sighting)>, Duration)> {
    if let Some(here) = of_vnode(services, vnode, users).await {
        return Some(here);
    }
    let owner = services.cluster.owner_of(vnode).filter(|owner| *owner != services.node)?;
    match services.gateways.ask(services, owner, &Question::Seen { vnode, users: users.to_vec() }).await? {
        Answer::Seen(parcels) => {
            Some((parcels.into_iter().map(|(aor, parcel)| (aor, Sighting::from(parcel))).collect(), Duration::ZERO))
        }
        Answer::Bindings(_)
        | Answer::Connected(_)
        | Answer::HungUp(_)
        | Answer::Done(_)
        | Answer::Calls(_)
        | Answer::AllBindings(_) => None,
    }
}

/// The calls of users at a vnode whose records are here, and how long looking has taken.
pub async fn of_vnode(services: &Arc<Services>, vnode: VnodeId, users: &[Aor]) -> Option<(Vec<(Aor, Sighting)>, Duration)> {
    let live = |state: &VnodeState| {
        state.calls().filter(|(_, entry)| !entry.ended).map(|(_, entry)| entry.record.clone()).collect::<Vec<_>>()
    };
    let records = lookup::here(services, vnode, live)?;
    let site = Site { moves: false, ..services.site_of(vnode)? };
    let users: HashSet<Aor> = users.iter().cloned().collect();
    let find = move || {
        let begin = clock::uptime();
        let found = records.iter().flat_map(|record| in_record(record, site, vnode, &users)).collect();
        (found, clock::uptime().since(begin))
    };
    tokio::task::spawn_blocking(find).await.ok()
}

fn in_record(record: &Bytes, site: Site, vnode: VnodeId, users: &HashSet<Aor>) -> Vec<(Aor, Sighting)> {
    let Ok(of) = decode::<CallUsers>(record) else { return Vec::new() };
    let named = |name: &str| name.rsplit_once('@').is_some_and(|(user, domain)| users.contains(&Aor::new(user, domain)));
    let is_phone = of.legs.iter().filter_map(|leg| leg.phone.as_ref()).any(|phone| users.contains(&phone.aor));
    if !is_phone && !named(&of.caller) && !named(&of.callee) {
        return Vec::new();
    }
    let Ok((state, _)) = records::restore(record, site) else { return Vec::new() };
    let seen = state.seen().into_iter().filter(|(aor, _)| users.contains(aor));
    seen.map(|(aor, Seen { call, role, stage, remote })| (aor, Sighting { vnode, call, role, is: Some((stage, remote)) }))
        .collect()
}

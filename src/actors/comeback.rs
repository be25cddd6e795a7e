//! Phones whose connection has ended come back by another: after a takeover all of a vnode's do. Layer: shell.
//!
//! What a call has open on a leg whose connection has ended waits for its phone: the call looks from time to time whether the phone has
//! registered by another flow, and goes on there ([`CallInput::Rebind`](crate::sip::b2bua::CallInput)). It looks at the records and nobody
//! tells it: a call that has nothing open needs no word, and ten thousand phones that come back at once wake nobody.

use std::sync::Arc;
use std::time::Duration;

use ractor::ActorRef;

use super::call::CallMsg;
use super::elsewhere::dialed;
use super::gateway::{Answer, Question};
use super::services::Services;
use super::{lookup, records};
use crate::clock;
use crate::ids::LegId;
use crate::sip::Uri;
use crate::sip::b2bua::CallLeg;
use crate::sip::dialog::Flow;
use crate::sip::registrar::Phone;

/// How often a call looks on whose legs something is open.
pub const LOOK: Duration = Duration::from_millis(250);

/// Whether a leg's phone may come back by another flow: it is registered, and reached by a connection.
pub fn may_come_back(leg: &CallLeg) -> bool {
    leg.phone.is_some() && leg.dialog.flow.transport.is_reliable()
}

/// Looks, and tells the call if the leg's connection has ended, and by which flow its phone has come back.
pub fn look(services: &Arc<Services>, call: &ActorRef<CallMsg>, leg: LegId, state: &CallLeg) {
    let Some(phone) = state.phone.clone().filter(|_| may_come_back(state)) else { return };
    let (flow, target) = (state.dialog.flow, state.dialog.remote_target.clone());
    let (services, call) = (services.clone(), call.clone());
    tokio::spawn(async move {
        if let Some(found) = back(&services, &phone, flow, &target).await {
            // A call that has ended meanwhile waits for nobody.
            let _ = call.cast(CallMsg::CameBack(leg, found));
        }
    });
}

/// By which flow a phone has come back that was reached by `flow` and gave the contact `target`, or that it hasn't; nothing while its
/// connection is there, as far as can be found out.
pub async fn back(services: &Services, phone: &Phone, flow: Flow, target: &str) -> Option<Option<Flow>> {
    if is_connected(services, flow).await != Some(false) {
        return None;
    }
    // We make it again as soon as there is something to say.
    if flow.is_dialed() {
        return services.fence(flow.vnode).may_send(clock::uptime()).then_some(None);
    }
    let found = way(services, phone, flow, target).await.or_else(|| way_to_peer(services, flow, target));
    Some(match found {
        // One that has ended as well is no way.
        Some(flow) if flow.transport.is_reliable() && !flow.is_dialed() && is_connected(services, flow).await != Some(true) => {
            None
        }
        found => found,
    })
}

/// The way to a server that had come by a connection and listens: we make the next one (RFC 3261 §18.1.1). Only to a peer, and only where it was.
fn way_to_peer(services: &Services, flow: Flow, target: &str) -> Option<Flow> {
    services.peer_at(flow.remote.ip())?;
    let server = flow.listens_at(&Uri::parse(&target.into()).ok()?)?;
    dialed(&services.config, flow.vnode, flow.transport, server)
}

/// Whether a flow's connection is there, if that can be found out.
async fn is_connected(services: &Services, flow: Flow) -> Option<bool> {
    if let Some(here) = services.sockets.has(&flow) {
        return Some(here);
    }
    let owner = services.cluster.owner_of(flow.vnode).filter(|owner| *owner != services.node)?;
    match services.gateways.ask(services, owner, &Question::Connected { flow: flow.into() }).await? {
        Answer::Connected(connected) => Some(connected),
        Answer::Bindings(_)
        | Answer::HungUp(_)
        | Answer::Done(_)
        | Answer::Calls(_)
        | Answer::AllBindings(_)
        | Answer::Seen(_) => None,
    }
}

async fn way(services: &Services, phone: &Phone, flow: Flow, target: &str) -> Option<Flow> {
    let home = phone.aor.vnode(&services.cluster.vnodes())?;
    let record = match lookup::here(services, home, |state| state.bindings(&phone.aor).cloned()) {
        Some(record) => record.unwrap_or_default(),
        None => {
            let owner = services.cluster.owner_of(home).filter(|owner| *owner != services.node)?;
            let question = Question::Bindings { vnode: home, aor: phone.aor.clone() };
            match services.gateways.ask(services, owner, &question).await? {
                Answer::Bindings(record) => record,
                Answer::Connected(_)
                | Answer::HungUp(_)
                | Answer::Done(_)
                | Answer::Calls(_)
                | Answer::AllBindings(_)
                | Answer::Seen(_) => {
                    return None;
                }
            }
        }
    };
    phone.way(&records::decode_bindings(&record).ok()?, flow, target, clock::now())
}

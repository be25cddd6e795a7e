//! Keys of a telephone that come by INFO (`application/dtmf-relay`, `application/dtmf`): where the other phone knows events they go to it as those
//! (RFC 4733), and else as they came. Layer: shell.

use super::call_media::CallMedia;
use crate::ids::LegId;
use crate::media::core::dtmf::Signal;
use crate::media::relay::Relay;
use crate::sip::Method;
use crate::sip::b2bua::{CallInput, CallState};
use crate::sip::leg::LegEvent;

/// The types of their bodies.
const KINDS: [&str; 2] = ["application/dtmf-relay", "application/dtmf"];

/// What a call is told of a leg's event.
pub(super) fn input(media: &CallMedia, state: Option<&CallState>, leg: LegId, event: LegEvent) -> CallInput {
    let is_key = state.is_some_and(|state| is_key(media, state, leg, &event));
    if is_key { CallInput::Keyed(leg, event) } else { CallInput::Leg(leg, event) }
}

/// Whether an event brings a key that becomes one of RFC 4733's.
fn is_key(media: &CallMedia, state: &CallState, leg: LegId, event: &LegEvent) -> bool {
    let LegEvent::Request(_, request, _) = event else { return false };
    let talks = |leg: LegId| state.has_leg(leg) && state.talks(state.leg(leg));
    // Who is on hold says nothing that a key could take the place of.
    let before = media.session().before.as_ref();
    let held = before.map_or(media.session().held, |before| before.held);
    let sounds = || held == [false; 2] && before.is_none_or(|before| !before.instead);
    request.method == Method::Info
        && request.headers.content_type().is_some_and(|kind| KINDS.contains(&kind.as_str()))
        && talks(leg)
        && state.peer(leg).is_some_and(talks)
        && sounds()
        && Signal::parse(&request.body).is_some()
        && media.session().press(state.side(leg)).is_some()
}

/// Has a leg's key go to the other phone, in the place of what its own says next.
pub(super) fn press(relay: &Relay, media: &CallMedia, state: Option<&CallState>, leg: LegId, info: &[u8]) {
    let Some(state) = state else { return };
    let side = state.side(leg);
    if let (Some(signal), Some((stream, rules))) = (Signal::parse(info), media.session().press(side)) {
        relay.press(state.id, if side == 0 { LegId::CALLER } else { LegId::CALLEE }, stream, rules, signal);
    }
}

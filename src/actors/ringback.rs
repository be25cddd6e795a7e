//! A phone rings without a word of its own: its caller may hear that from us, as early media (RFC 3960). Layer: shell.
//!
//! Not a caller who wants or has got reliable answers (RFC 3262): what it is told first is the answer, and what the phone says in the end would count for
//! nothing.

use super::call_media::CallMedia;
use crate::ids::LegId;
use crate::sip::b2bua::{CallState, StageIn};
use crate::sip::message::{Headers, Response};
use crate::sip::{Method, Name, StatusCode};

/// Whether an answer of a leg's is one that says no more than that it rings, and its caller may hear that from us.
pub(super) fn may_be_heard(media: &CallMedia, state: &CallState, leg: LegId, response: &Response) -> bool {
    let rings = response.status == StatusCode::RINGING && response.body.is_empty() && response.headers.get(&Name::RSeq).is_none();
    let is_first = response.headers.cseq().is_ok_and(|cseq| cseq.method == Method::Invite);
    let is_called = state.answered.is_none() && state.branches().any(|branch| branch.id == leg);
    let offered = state.leg(leg).out.as_ref().is_some_and(|out| !out.late_offer);
    if !(rings && is_first && is_called && offered) {
        return false;
    }
    state.leg(state.first).inbound.as_ref().is_some_and(|inbound| {
        let is_silent = match &inbound.stage {
            StageIn::Pending | StageIn::Progress(_, None) => true,
            // It rings on, and is told nothing else.
            StageIn::Progress(_, Some(_)) => media.session().rings(),
            StageIn::Answered(_) | StageIn::Rejected(_) => false,
        };
        is_silent && inbound.reliable.is_none() && !wants_reliable(&inbound.request.headers)
    })
}

fn wants_reliable(headers: &Headers) -> bool {
    headers.list(&Name::Require).any(|tag| tag.eq_ignore_ascii_case("100rel"))
}

/// The same answer, with what the caller hears it by.
pub(super) fn ring(media: &mut CallMedia, state: &CallState, mut response: Response) -> Response {
    let stage = state.leg(state.first).inbound.as_ref().map(|inbound| &inbound.stage);
    let known = match stage {
        Some(StageIn::Progress(_, Some(body))) => Some(body.bytes.clone()),
        Some(StageIn::Pending | StageIn::Progress(_, None) | StageIn::Answered(_) | StageIn::Rejected(_)) | None => None,
    };
    let Some(body) = known.or_else(|| media.ring()) else { return response };
    response.status = StatusCode::SESSION_PROGRESS;
    response.with_body("application/sdp", body)
}

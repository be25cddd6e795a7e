//! Calls that take the place of others, and callees that are known by our own Contact: what phones say to each other in a transfer (RFC 3515,
//! RFC 3891) names legs of ours. Layer: shell.
//!
//! A REFER goes through to the other side, which calls by itself; so what it says means something only here, where both dialogs of each call
//! are known.

use super::lookup;
use super::records::{self, Site};
use super::services::Services;
use crate::ids::Aor;
use crate::sip::StatusCode;
use crate::sip::b2bua::{CallState, Replaced};
use crate::sip::replaces::Replaces;
use crate::sip::token::Token;

/// Finds the dialog that an INVITE is to take the place of (RFC 3891 §3); the error is what it is answered.
pub fn replaced(services: &Services, header: &str) -> Result<Replaced, StatusCode> {
    let wanted = Replaces::parse(header).ok_or(StatusCode::BAD_REQUEST)?;
    let token = wanted.leg().ok_or(StatusCode::CALL_DOES_NOT_EXIST)?;
    state_of(services, token).ok_or(StatusCode::CALL_DOES_NOT_EXIST)?.replaced(token.leg, &wanted)
}

/// The user whom a phone means by our Contact: the one at the other end of its call.
pub fn user_behind(services: &Services, token: Token) -> Option<Aor> {
    let state = state_of(services, token)?;
    state.user_of(state.peer(token.leg)?)
}

fn state_of(services: &Services, token: Token) -> Option<CallState> {
    let record =
        lookup::here(services, token.vnode, |state| state.call(token.call).map(|entry| entry.record.clone())).flatten()?;
    // Where its owner is, and not where we would be.
    let (state, _) = records::restore(&record, Site { moves: false, ..services.site_of(token.vnode)? }).ok()?;
    state.has_leg(token.leg).then_some(state)
}

//! Calls that take the place of others, and callees that are known by our own Contact: what phones say to each other in a transfer (RFC 3515,
//! RFC 3891) names legs of ours. Layer: shell.
//!
//! A REFER goes through to the other side, which calls by itself; so what it says means something only here, where both dialogs of each call
//! are known.

use super::lookup;
use super::records::{self, Site};
use super::services::Services;
use crate::ids::Aor;
use crate::sip::b2bua::{CallState, Target};
use crate::sip::replaces::Replaces;
use crate::sip::token::Token;
use crate::sip::{StatusCode, Text};

/// The phone whose dialog is to be replaced, as its own user is called.
pub struct Replaced {
    /// It alone is called.
    pub target: Target,
    /// Its user.
    pub aor: Aor,
    /// How the phone names the dialog.
    pub replaces: Replaces,
}

/// Finds the dialog that an INVITE is to take the place of (RFC 3891 §3); the error is what it is answered.
pub fn replaced(services: &Services, header: &str) -> Result<Replaced, StatusCode> {
    let wanted = Replaces::parse(header).ok_or(StatusCode::BAD_REQUEST)?;
    let (token, other_tag) = wanted.leg().ok_or(StatusCode::CALL_DOES_NOT_EXIST)?;
    let state = state_of(services, token).ok_or(StatusCode::CALL_DOES_NOT_EXIST)?;
    let dialog = &state.leg(token.leg).dialog;
    if *dialog.call_id != *wanted.call_id || dialog.remote_tag.as_deref() != Some(other_tag) {
        return Err(StatusCode::CALL_DOES_NOT_EXIST);
    }
    if state.ended.is_some() {
        return Err(StatusCode::DECLINE);
    }
    if wanted.early_only && state.answered.is_some() {
        return Err(StatusCode::BUSY_HERE);
    }
    let peer = state.peer(token.leg).ok_or(StatusCode::CALL_DOES_NOT_EXIST)?;
    let aor = state.user_of(peer).ok_or(StatusCode::CALL_DOES_NOT_EXIST)?;
    let leg = state.leg(peer);
    let dialog = &leg.dialog;
    let to_tag = dialog.remote_tag.as_ref().ok_or(StatusCode::CALL_DOES_NOT_EXIST)?.to_string();
    let replaces = Replaces {
        call_id: dialog.call_id.to_string(),
        to_tag,
        from_tag: dialog.local_tag.to_string(),
        early_only: wanted.early_only,
    };
    let target = Target {
        contact: dialog.remote_target.clone(),
        path: dialog.route_set.iter().map(|route| Text::from(route.to_string())).collect(),
        flow: dialog.flow,
        long: None,
        phone: leg.phone.clone(),
        q: 1000,
    };
    Ok(Replaced { target, aor, replaces })
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

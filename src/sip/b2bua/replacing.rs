//! A call that is to be taken over by another, for one of its two phones (RFC 3891). Layer: pure.

use super::{CallState, Target};
use crate::ids::{Aor, LegId};
use crate::sip::replaces::Replaces;
use crate::sip::{StatusCode, Text};

/// The phone whose dialog is to be replaced, as its own user is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replaced {
    /// It alone is called.
    pub target: Target,
    /// Its user.
    pub aor: Aor,
}

impl CallState {
    /// Whom an INVITE calls that names the dialog of this leg: the phone at the other side. The error is what it is answered (RFC 3891 §3).
    pub fn replaced(&self, leg: LegId, wanted: &Replaces) -> Result<Replaced, StatusCode> {
        let none = StatusCode::CALL_DOES_NOT_EXIST;
        if !self.has_leg(leg) {
            return Err(none);
        }
        let named = &self.leg(leg).dialog;
        let names = [&wanted.to_tag, &wanted.from_tag].map(String::as_str);
        let tags = [Some(&*named.local_tag), named.remote_tag.as_deref()].map(Option::unwrap_or_default);
        if *named.call_id != *wanted.call_id || (names != tags && names != [tags[1], tags[0]]) {
            return Err(none);
        }
        if self.ended.is_some() {
            return Err(StatusCode::DECLINE);
        }
        if wanted.early_only && self.answered.is_some() {
            return Err(StatusCode::BUSY_HERE);
        }
        let peer = self.peer(leg).filter(|peer| !self.leg(*peer).gone).ok_or(none)?;
        let aor = self.user_of(peer).ok_or(none)?;
        let theirs = self.leg(peer);
        let dialog = &theirs.dialog;
        let replaces = Replaces {
            call_id: dialog.call_id.to_string(),
            to_tag: dialog.remote_tag.as_ref().ok_or(none)?.to_string(),
            from_tag: dialog.local_tag.to_string(),
            early_only: wanted.early_only,
        };
        let target = Target {
            contact: dialog.remote_target.clone(),
            path: dialog.route_set.iter().map(|route| Text::from(route.to_string())).collect(),
            flow: dialog.flow,
            long: None,
            phone: theirs.phone.clone(),
            q: 1000,
            replaces: Some(replaces),
        };
        Ok(Replaced { target, aor })
    }
}

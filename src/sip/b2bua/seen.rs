//! What a call is to its users, for those who watch them (RFC 4235). Layer: pure.

use super::{CallState, StageIn, StageOut};
use crate::ids::{Aor, LegId};
use crate::sip::events::{Role, Seen, Stage};
use crate::sip::headers::NameAddr;

impl CallState {
    /// What the call is to each of its users; nothing when it is over.
    pub fn seen(&self) -> Vec<(Aor, Seen)> {
        let mut all: Vec<(Aor, Seen)> = Vec::new();
        if self.ended.is_some() {
            return all;
        }
        let mut see = |aor: Aor, role, stage, remote: Option<String>| {
            // A user that has several phones has one call.
            match all.iter_mut().find(|(own, seen)| *own == aor && seen.role == role) {
                Some((_, seen)) => seen.stage = seen.stage.max(stage),
                None => all.push((aor, Seen { call: self.id, role, stage, remote })),
            }
        };
        if let Some(caller) = self.user_of(self.first).filter(|_| !self.leg(self.first).gone) {
            let progress = self.leg(self.first).inbound.as_ref().map(|inbound| &inbound.stage);
            let stage = match progress {
                _ if self.answered.is_some() => Stage::Confirmed,
                Some(StageIn::Progress(..)) => Stage::Early,
                Some(StageIn::Pending | StageIn::Answered(_) | StageIn::Rejected(_)) | None => Stage::Trying,
            };
            see(caller, Role::Initiator, stage, Some(self.shown_callee()));
        }
        // Those who are called for a transfer are called by who is transferred.
        let caller = self.transferee().unwrap_or(self.first);
        let taken = self.referral.as_ref().and_then(|referral| referral.taken.as_ref()).map(|taken| taken.leg);
        for leg in self.legs.iter().filter(|leg| leg.id != self.first && !leg.gone) {
            let rings = leg.is_ringing() && self.may_take(leg.id);
            let (stage, caller) = match leg.out.as_ref().map(|out| out.stage) {
                _ if taken == Some(leg.id) => (Stage::Confirmed, caller),
                _ if self.answered.is_some() && self.answerer == Some(leg.id) => (Stage::Confirmed, self.first),
                Some(StageOut::Proceeding) if rings => (Stage::Early, caller),
                Some(StageOut::Calling) if rings => (Stage::Trying, caller),
                Some(_) | None => continue,
            };
            if let Some(callee) = self.user_of(leg.id) {
                see(callee, Role::Recipient, stage, self.shown_to_callees(caller));
            }
        }
        all
    }

    /// The user of a leg: as registered, or as called or calling.
    pub fn user_of(&self, leg: LegId) -> Option<Aor> {
        if let Some(phone) = &self.leg(leg).phone {
            return Some(phone.aor.clone());
        }
        let name = if leg == LegId::CALLER { &self.caller } else { &self.callee };
        let (user, domain) = name.rsplit_once('@')?;
        Some(Aor::new(user, domain))
    }

    /// Who is called: whoever has the call, once somebody has.
    fn shown_callee(&self) -> String {
        let answerer = self.answerer.and_then(|answerer| self.user_of(answerer));
        answerer.map_or_else(|| self.callee.clone(), |aor| aor.to_string())
    }

    /// Who calls, as callees are shown it; nobody if that is wished.
    fn shown_to_callees(&self, caller: LegId) -> Option<String> {
        if self.is_private(caller) {
            return None;
        }
        let from = NameAddr::parse(&self.shown_as(caller), "From").ok();
        let said = from.and_then(|from| Some(format!("{}@{}", from.uri.user_text()?, from.uri.host_text())));
        Some(said.unwrap_or_else(|| self.caller.clone()))
    }
}

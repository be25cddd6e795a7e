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
        if let Some(caller) = self.user_of(LegId::CALLER) {
            let progress = self.leg(LegId::CALLER).inbound.as_ref().map(|inbound| &inbound.stage);
            let stage = match progress {
                _ if self.answered.is_some() => Stage::Confirmed,
                Some(StageIn::Progress(..)) => Stage::Early,
                Some(StageIn::Pending | StageIn::Answered(_) | StageIn::Rejected(_)) | None => Stage::Trying,
            };
            see(caller, Role::Initiator, stage, Some(self.callee.clone()));
        }
        for branch in self.branches() {
            let stage = match branch.out.as_ref().map(|out| out.stage) {
                _ if self.answered.is_some() && self.answerer == Some(branch.id) => Stage::Confirmed,
                Some(StageOut::Proceeding) if branch.is_ringing() && self.answered.is_none() => Stage::Early,
                Some(StageOut::Calling) if branch.is_ringing() && self.answered.is_none() => Stage::Trying,
                Some(_) | None => continue,
            };
            if let Some(callee) = self.user_of(branch.id) {
                see(callee, Role::Recipient, stage, self.shown_caller());
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

    /// Who calls, as callees are shown it; nobody if that is wished.
    fn shown_caller(&self) -> Option<String> {
        if self.shown.is_some() {
            return None;
        }
        let from = NameAddr::parse(&self.leg(LegId::CALLER).dialog.remote, "From").ok();
        let said = from.and_then(|from| Some(format!("{}@{}", from.uri.user_text()?, from.uri.host_text())));
        Some(said.unwrap_or_else(|| self.caller.clone()))
    }
}

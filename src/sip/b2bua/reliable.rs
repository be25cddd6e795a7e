//! Provisional answers that must come through (RFC 3262), and what may be changed while it rings (RFC 3311). Layer: pure.
//!
//! ```text
//!  callee ──18x, its RSeq──▶ commit ──18x, RSeq of ours──▶ caller
//!         ◀────PRACK─────────  │    ◀───────PRACK────────  │ until then it is repeated, and what comes next waits
//! ```
//!
//! Each side has its own: a caller is told reliably if it insists, or if it can and its callee did. What has been described
//! reliably is agreed upon: the 200 need not say it, and either side may offer something else at once.
//!
//! A new owner doesn't know which of a callee's answers were acknowledged: it acknowledges what is repeated, which is at worst refused
//! with 481.

use super::state::{Reliable, Updated};
use super::{Body, Call, CallLeg, CallState, Effect, InviteIn, StageIn, StageOut, Step, respond};
use crate::ids::LegId;
use crate::sip::dialog::Flow;
use crate::sip::headers::tag_of;
use crate::sip::leg::{LegCommand, TxKey};
use crate::sip::message::{Headers, Request, Response};
use crate::sip::{Method, Name, StatusCode, Text};

/// The extension.
const TAG: &str = "100rel";
/// RFC 3262 §3: what the first number of ours is at most.
const MOST_FIRST: u32 = i32::MAX as u32;
/// So many reliable answers of a phone are acknowledged: more of them are no phone's doing.
const MOST_PRACKS: u8 = 64;

/// The last reliable answer of a phone that we have acknowledged. Not stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pracked {
    /// Of which of the dialogs that the INVITE may have made.
    tag: String,
    rseq: u32,
    /// How many there were.
    count: u8,
}

/// What the caller can see of how its call comes on.
enum Shown {
    /// Nothing new.
    Nothing,
    /// It waits for a PRACK.
    Later,
    /// This is to be said.
    Now,
}

fn has_tag(headers: &Headers, name: &Name) -> bool {
    headers.list(name).any(|tag| tag.eq_ignore_ascii_case(TAG))
}

/// Whether an INVITE of ours says that we can do it.
pub(super) fn is_reliable(invite: &Request) -> bool {
    has_tag(&invite.headers, &Name::Supported)
}

/// Whether it can't be done without.
pub(super) fn wants_reliable(headers: &Headers) -> bool {
    has_tag(headers, &Name::Require)
}

/// The number of a reliable answer (RFC 3262 §4).
fn rseq_of(response: &Response) -> Option<u32> {
    let number = response.headers.number(&Name::RSeq, "RSeq").ok().flatten()?;
    has_tag(&response.headers, &Name::Require).then_some(number)
}

/// What a PRACK acknowledges: the answer's number, and its request's (RFC 3262 §7.2).
fn rack_of(request: &Request) -> Option<(u32, u32)> {
    let text = request.headers.text(&Name::RAck)?;
    let mut parts = text.split_ascii_whitespace();
    let (rseq, cseq) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    (parts.next() == Some("INVITE") && parts.next().is_none()).then_some((rseq, cseq))
}

/// What our INVITEs say that we can do. An offer that comes in a reliable answer we couldn't answer in a PRACK: its answer is the caller's
/// ACK. And of several phones' answers one holds, and which is known when one of them takes the call.
pub(super) fn supported(body: Option<&Body>, sole: bool) -> &'static str {
    if body.is_some() && sole { "replaces, 100rel" } else { "replaces" }
}

impl InviteIn {
    /// The headers of a provisional answer that is repeated until it is acknowledged.
    pub(super) fn number(&self, response: &mut Response) {
        if let (StageIn::Progress(..), Some(reliable)) = (&self.stage, &self.reliable) {
            response.headers.push_text(Name::Require, TAG);
            response.headers.push_text(Name::RSeq, reliable.rseq.to_string());
        }
    }

    /// Whether its caller has said that it has heard the last answer.
    pub(super) fn is_heard(&self) -> bool {
        matches!(self.stage, StageIn::Progress(..)) && self.reliable.as_ref().is_some_and(|reliable| reliable.acked)
    }

    /// RFC 3262 §5: whether offer and answer are both through, and the next offer may come.
    fn is_described(&self) -> bool {
        self.is_pending() && self.reliable.as_ref().is_some_and(|reliable| reliable.described.is_some())
    }
}

impl CallLeg {
    /// The same of a phone that is called.
    fn is_described(&self) -> bool {
        self.early.is_some() && self.out.as_ref().is_some_and(|out| out.stage == StageOut::Proceeding)
    }
}

impl CallState {
    /// To whom an offer goes that comes before the answer (RFC 3311 §5.1): to nobody while another is open on either side.
    pub fn takes_early_offer(&self, leg: LegId) -> Option<LegId> {
        let other = self.peer(leg).filter(|_| self.answered.is_none() && self.ended.is_none())?;
        let callee = self.leg(if leg == self.first { other } else { leg });
        let caller = self.leg(self.first).inbound.as_ref()?;
        let agreed = caller.is_described() && callee.is_described();
        (agreed && self.leg(other).speaks.update && !self.has_open_offer()).then_some(other)
    }
}

impl Call {
    /// Whether a provisional answer is to be made nothing of: it came before, or others before it did not (RFC 3262 §4).
    pub(super) fn is_out_of_turn(&self, leg: LegId, response: &Response) -> bool {
        let this = self.state.leg(leg);
        let (Some((tag, rseq)), Some(last)) = (self.asks_for_prack(leg, response), &this.pracked) else { return false };
        last.count >= MOST_PRACKS || (last.tag == tag && rseq.checked_sub(1) != Some(last.rseq))
    }

    /// The dialog and number of an answer that we have to acknowledge.
    fn asks_for_prack(&self, leg: LegId, response: &Response) -> Option<(String, u32)> {
        let offered = self.state.leg(leg).out.as_ref().is_some_and(|out| !out.late_offer);
        let to = response.headers.text(&Name::To)?;
        Some((tag_of(&to)?.to_owned(), rseq_of(response).filter(|_| offered)?))
    }

    /// Our PRACK, if the phone asks for one.
    pub(super) fn prack(&mut self, leg: LegId, response: &Response, body: Option<&Body>) -> Option<Effect> {
        let (tag, rseq) = self.asks_for_prack(leg, response)?;
        let number = response.headers.cseq().ok()?.number;
        let this = self.state.leg_mut(leg);
        let count = this.pracked.as_ref().map_or(0, |last| last.count).saturating_add(1);
        let another = this.pracked.as_ref().is_some_and(|last| last.tag != tag);
        this.pracked = Some(Pracked { tag, rseq, count });
        // RFC 3261 §13.2.1: of a phone the first is the answer, whatever comes after it; behind a proxy there may be another phone.
        if this.early.is_none() || another && body.is_some() {
            this.early = body.cloned();
        }
        let mut prack = self.dialog_request(leg, Method::Prack);
        prack.headers.push_text(Name::RAck, format!("{rseq} {number} INVITE"));
        Some(Effect::Leg(leg, LegCommand::Send(prack, self.state.leg(leg).dialog.flow)))
    }

    /// The call has come so far; gives what its caller is told now, and whether there is anything to commit.
    pub(super) fn show(&mut self, stage: StageIn, reliably: bool) -> (Option<Effect>, bool) {
        match self.take_stage(stage, reliably) {
            Shown::Nothing => (None, false),
            Shown::Later => (None, true),
            Shown::Now => (self.inbound_response(self.state.first), true),
        }
    }

    fn take_stage(&mut self, stage: StageIn, reliably: bool) -> Shown {
        // Of several phones' descriptions one holds, and which is not known yet.
        let sole = self.state.is_sole();
        let late_offer = self.state.branches().any(|leg| leg.out.as_ref().is_some_and(|out| out.late_offer));
        let first = self.incarnation % MOST_FIRST + 1;
        let Some(inbound) = &mut self.state.leg_mut(self.state.first).inbound else { return Shown::Nothing };
        let must = has_tag(&inbound.request.headers, &Name::Require);
        let can = must || has_tag(&inbound.request.headers, &Name::Supported);
        let is_reliable = inbound.reliable.is_some() || must || (can && reliably && sole && !late_offer);
        let stage = match stage {
            // RFC 3262 §5: the first would have to bring the offer, which comes with the 200.
            StageIn::Progress(..) if is_reliable && late_offer => return Shown::Nothing,
            StageIn::Progress(status, body) => StageIn::Progress(status, body.filter(|_| !is_reliable || sole)),
            // RFC 3262 §5: what has been described is not described again.
            StageIn::Answered(body) if inbound.reliable.as_ref().is_some_and(|said| said.described == body) => {
                StageIn::Answered(None)
            }
            StageIn::Pending | StageIn::Answered(_) | StageIn::Rejected(_) => stage,
        };
        let waits = inbound.reliable.as_ref().and_then(|reliable| reliable.next.as_ref());
        if !inbound.is_pending() || *waits.unwrap_or(&inbound.stage) == stage {
            return Shown::Nothing;
        }
        let describes = matches!(&inbound.stage, StageIn::Progress(_, Some(_)));
        let provisional = matches!(stage, StageIn::Progress(..));
        // RFC 3262 §3: one at a time, and no 2xx before what was described has been heard.
        if let Some(reliable) = inbound.reliable.as_mut().filter(|reliable| !reliable.acked && (provisional || describes)) {
            reliable.next = Some(stage);
            return Shown::Later;
        }
        if let (StageIn::Progress(_, body), true) = (&stage, is_reliable) {
            let last = inbound.reliable.take();
            let rseq = last.as_ref().map_or(first, |last| last.rseq.saturating_add(1));
            let described = last.and_then(|last| last.described).or_else(|| body.clone());
            inbound.reliable = Some(Reliable { rseq, acked: false, described, next: None });
        }
        inbound.stage = stage;
        Shown::Now
    }

    /// A phone has heard a provisional answer (RFC 3262 §3); it may offer something else with that.
    pub(super) fn pracked(&mut self, leg: LegId, key: TxKey, request: Request, came_by: Flow) -> Step {
        let rack = rack_of(&request);
        let takes = self.state.takes_early_offer(leg);
        let heard = self.state.leg_mut(leg).inbound.as_mut().and_then(|inbound| {
            let number = inbound.request.headers.cseq().ok()?.number;
            let reliable = inbound.reliable.as_mut()?;
            (!reliable.acked && rack == Some((reliable.rseq, number))).then_some(reliable)
        });
        let Some(reliable) = heard else {
            // RFC 3262 §3: it may have been overtaken by the answer.
            let late = rack.is_some() && rack == self.state.leg(leg).unheard;
            let status = if late { StatusCode::OK } else { StatusCode::CALL_DOES_NOT_EXIST };
            return respond(leg, key, &request, status);
        };
        reliable.acked = true;
        let next = reliable.next.take();
        let mut then = Vec::new();
        // A description that can't be used has been taken out, but not that there was one.
        let offers = !request.body.is_empty() || request.headers.get(&Name::ContentType).is_some();
        match takes.filter(|_| !request.body.is_empty()) {
            _ if !offers => {
                self.state.leg_mut(leg).updated = Updated::by(&request, None);
                then.push(Effect::Leg(leg, LegCommand::Respond(key, request.response(StatusCode::OK, None))));
            }
            Some(other) => then.push(self.send_offer(leg, other, request, came_by)),
            None => {
                let refused = request.response(StatusCode::NOT_ACCEPTABLE_HERE, None);
                then.push(Effect::Leg(leg, LegCommand::Respond(key, refused)));
            }
        }
        if let Some(next) = next {
            then.extend(self.show(next, true).0);
        }
        self.put(then)
    }

    /// Whether the caller hasn't said that it has heard what it was told.
    pub(super) fn is_unheard(&self) -> bool {
        let inbound = self.state.leg(self.state.first).inbound.as_ref();
        inbound.and_then(|inbound| inbound.reliable.as_ref()).is_some_and(|reliable| !reliable.acked)
    }

    /// The caller has acknowledged the answer, and what came before perhaps not yet.
    pub(super) fn remember_unheard(&mut self, leg: LegId) {
        let inbound = self.state.leg(leg).inbound.as_ref();
        let unheard = inbound.and_then(|inbound| {
            let reliable = inbound.reliable.as_ref().filter(|reliable| !reliable.acked)?;
            Some((reliable.rseq, inbound.request.headers.cseq().ok()?.number))
        });
        self.state.leg_mut(leg).unheard = unheard;
    }

    /// What a phone has said of itself with a provisional answer.
    pub(super) fn learn(&mut self, leg: LegId, headers: &Headers) {
        let update = headers.list(&Name::Allow).any(|method: Text| &*method == "UPDATE");
        self.state.leg_mut(leg).speaks.update |= update;
    }
}

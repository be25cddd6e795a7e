//! The end of a call. Layer: pure.

use super::{Call, CallLeg, Effect, EndedBy, Ending, Mutation, Relay, StageIn, StageOut, Step};
use crate::clock::Timestamp;
use crate::ids::LegId;
use crate::sip::leg::LegCommand;
use crate::sip::{Method, StatusCode};

impl Call {
    /// Ends the call once: CDR and state are one entry; then everybody who is still on it is told.
    pub(super) fn end(&mut self, status: StatusCode, by: EndedBy, now: Timestamp, mut then: Vec<Effect>) -> Step {
        if self.state.ended.is_some() {
            return Step::free(then);
        }
        self.state.ended = Some(Ending { at: now, status, by });
        // Whoever waits for an answer to something that no longer matters gets it.
        for relay in std::mem::take(&mut self.state.relays) {
            if relay.answer.is_none() && self.state.has_leg(relay.from) && !self.state.leg(relay.from).gone {
                then.push(relay.terminated());
            }
        }
        self.state.waiting.clear();
        self.state.locating.clear();
        for leg in self.state.leg_ids() {
            then.extend(self.end_leg(leg, status));
        }
        self.state.referral = None;
        then.push(Effect::CloseMedia);
        let cdr = self.state.cdr();
        Step::promise(Mutation::End(self.record(), Box::new(cdr)), then)
    }

    fn end_leg(&mut self, leg: LegId, status: StatusCode) -> Vec<Effect> {
        let refers = self.state.referral.as_ref().is_some_and(|referral| referral.by == leg);
        let talks = refers || self.has_taken(leg) || self.state.is_seated(leg);
        let this = self.state.leg_mut(leg);
        if let Some(inbound) = &mut this.inbound
            && inbound.is_pending()
        {
            inbound.stage = StageIn::Rejected(status);
            return self.inbound_response(leg).into_iter().collect();
        }
        if this.out.as_ref().is_some_and(|out| out.stage == StageOut::Refused) {
            return Vec::new();
        }
        if let Some(out) = &mut this.out
            && out.stage != StageOut::AckWaits
        {
            out.stage = StageOut::Cancelling;
            return vec![Effect::Leg(leg, LegCommand::Cancel)];
        }
        this.inbound = None;
        let waits = this.out.take();
        let established = talks && this.dialog.remote_tag.is_some() && self.state.answered.is_some();
        if !established || self.state.leg(leg).gone || self.state.leg(leg).bye.is_some() {
            return Vec::new();
        }
        // RFC 3261 §13.2.2.4: a 2xx is acknowledged, whatever follows.
        let acknowledge = waits.map(|out| self.acknowledge(leg, &out.request, None));
        acknowledge.into_iter().chain([self.bye(leg)]).collect()
    }

    pub(super) fn bye(&mut self, leg: LegId) -> Effect {
        let bye = self.dialog_request(leg, Method::Bye);
        let this = self.state.leg_mut(leg);
        this.bye = Some(bye.clone());
        Effect::Leg(leg, LegCommand::Send(bye, this.dialog.flow))
    }

    /// A BYE of ours has its answer, or gets none any more.
    pub(super) fn hung_up(&mut self, leg: LegId) -> Step {
        self.state.leg_mut(leg).bye = None;
        if self.state.ended.is_some() {
            return self.settle();
        }
        if self.state.answerer.is_none() {
            // It counts as one that has refused.
            return self.put(Vec::new());
        }
        // It had answered too late.
        let then = self.drop_legs(|own| own.id == leg);
        self.put(then)
    }

    /// What a leg has asked that is over, or was asked: whoever waits for an answer gets one.
    pub(super) fn drop_relays(&mut self, leg: LegId) -> Vec<Effect> {
        let open = |relay: &mut Relay| relay.from == leg || relay.to == leg;
        self.state.relays.extract_if(.., open).map(|relay| relay.terminated()).collect()
    }

    /// What who leaves has asked, or was asked. An offer of its that is open on the other side is taken back: until that has its answer, no other may
    /// be made there.
    pub(super) fn abandon_relays(&mut self, leg: LegId) -> Vec<Effect> {
        let open = |relay: &Relay| relay.from == leg && relay.is_offer() && relay.answer.is_none();
        let mut then = Vec::new();
        for relay in self.state.relays.iter_mut().filter(|relay| open(relay) && !relay.cancelled) {
            relay.cancelled = true;
            then.push(Effect::Leg(relay.to, LegCommand::Cancel));
        }
        let over = |relay: &mut Relay| (relay.from == leg || relay.to == leg) && !open(relay);
        then.extend(self.state.relays.extract_if(.., over).map(|relay| relay.terminated()));
        then
    }

    /// Legs that are over while the call goes on: whoever waits for an answer from them, or is one of them, gets one.
    pub(super) fn drop_legs(&mut self, over: impl Fn(&CallLeg) -> bool) -> Vec<Effect> {
        let gone: Vec<LegId> = self.state.legs.iter().filter(|leg| over(leg)).map(|leg| leg.id).collect();
        if !gone.is_empty() {
            self.state.last = self.state.last_leg();
        }
        self.state.legs.retain(|leg| !gone.contains(&leg.id));
        let open = |relay: &mut Relay| gone.contains(&relay.from) || gone.contains(&relay.to);
        self.state.relays.extract_if(.., open).map(|relay| relay.terminated()).collect()
    }
}

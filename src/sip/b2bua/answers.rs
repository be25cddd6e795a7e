//! What phones answer. Layer: pure.

use super::state::Updated;
use super::{Body, Call, Effect, EndedBy, Relay, StageIn, StageOut, Step, dialog_response};
use crate::clock::Timestamp;
use crate::ids::LegId;
use crate::sip::headers::tag_of;
use crate::sip::leg::{LegCommand, TxKey};
use crate::sip::message::{Request, Response};
use crate::sip::status::Class;
use crate::sip::{Method, Name, StatusCode};

/// So many dialogs that a phone's proxy makes beside the leg's own are hung up on; more of them are no phone's doing.
const MAX_FORKS: u8 = 8;

impl Call {
    pub(super) fn response(&mut self, leg: LegId, response: Response, now: Timestamp) -> Step {
        let Ok(cseq) = response.headers.cseq() else { return Step::default() };
        let number = |request: &Request| request.headers.cseq().ok() == Some(cseq.clone());
        if self.state.leg(leg).out.as_ref().is_some_and(|out| number(&out.request)) {
            return self.first_response(leg, response, now);
        }
        if self.state.ended.is_none() && self.state.leg(leg).reinvite.as_ref().is_some_and(number) {
            if self.state.asks_to_talk(leg, cseq.number) {
                return self.transferee_answers(leg, &response, now);
            }
            return self.anchored(leg, &response, now);
        }
        if self.state.leg(leg).refreshing.as_ref().is_some_and(number) {
            return self.refreshed(leg, &response, now);
        }
        if let Some(at) = self.state.relays.iter().position(|relay| relay.to == leg && number(&relay.onward)) {
            return self.relayed_response(leg, at, response, now);
        }
        if self.state.leg(leg).bye.as_ref().is_some_and(number) {
            if !response.status.is_final() {
                return Step::default();
            }
            return self.hung_up(leg);
        }
        if response.status.is_final()
            && let Some(step) = self.has_told_referrer(leg, number)
        {
            return step;
        }
        // A 2xx that a former owner acknowledged, and whose ACK was lost (RFC 3261 §13.2.2.4).
        if cseq.method == Method::Invite && response.status.class() == Class::Success {
            if self.is_of_a_fork(leg, &response) {
                return self.hang_up_on_fork(leg, &response);
            }
            let said = self.state.leg(leg).acknowledged.as_ref().filter(|said| said.cseq == cseq.number);
            let answer = said.map(|said| said.body.clone());
            return Step::free(vec![self.acknowledge_number(leg, cseq.number, answer)]);
        }
        // A failure that nobody waits for any more: its sender repeats it until it is acknowledged.
        if cseq.method == Method::Invite && response.status.class() > Class::Success {
            return Step::free(vec![Effect::Leg(leg, LegCommand::Acknowledge)]);
        }
        Step::default()
    }

    /// An answer to the call's first INVITE.
    fn first_response(&mut self, leg: LegId, response: Response, now: Timestamp) -> Step {
        let body = Body::of(&response.headers, &response.body);
        let others = self.state.answerer.is_some_and(|answerer| answerer != leg) && !self.is_referred_to(leg);
        if self.state.ended.is_none() && self.has_taken(leg) {
            // Repeated while the transferee is asked, for whose answer our ACK waits.
            return if self.is_of_a_fork(leg, &response) { self.hang_up_on_fork(leg, &response) } else { Step::default() };
        }
        if self.state.ended.is_some() || others {
            return self.response_too_late(leg, &response);
        }
        match response.status.class() {
            Class::Provisional => self.progress(leg, &response, body),
            Class::Success => self.answer(leg, &response, body, now),
            Class::Redirect | Class::Failure => self.refused(leg, &response, now),
        }
    }

    fn progress(&mut self, leg: LegId, response: &Response, body: Option<Body>) -> Step {
        if self.is_out_of_turn(leg, response) {
            return Step::default();
        }
        self.state.leg_mut(leg).dialog.on_invite_response(response);
        match &mut self.state.leg_mut(leg).out {
            // Somebody else has the turn now, or it was given up: what follows from that has followed.
            Some(out) if matches!(out.stage, StageOut::Cancelling | StageOut::Refused) => return Step::default(),
            Some(out) => out.stage = StageOut::Proceeding,
            None => {}
        }
        // A 199 or an unknown one says no more than 183 does.
        let status = if response.status.code() < 180 || response.status.code() == 199 {
            StatusCode::SESSION_PROGRESS
        } else {
            response.status
        };
        self.learn(leg, &response.headers);
        if self.is_referred_to(leg) {
            return self.referred_rings(status);
        }
        let prack = self.prack(leg, response, body.as_ref());
        // Who hears one phone already needs no word that another rings too.
        let hears = body.is_none()
            && self.state.branches().count() > 1
            && self
                .state
                .leg(self.state.first)
                .inbound
                .as_ref()
                .is_some_and(|inbound| matches!(inbound.stage, StageIn::Progress(_, Some(_))));
        let reliably = prack.is_some();
        let (shown, new) = if hears { (None, false) } else { self.show(StageIn::Progress(status, body), reliably) };
        // It is acknowledged when it is held: what it has described is not said again.
        if new || reliably { self.put(prack.into_iter().chain(shown).collect()) } else { Step::default() }
    }

    fn answer(&mut self, leg: LegId, response: &Response, body: Option<Body>, now: Timestamp) -> Step {
        if self.state.leg(leg).bye.is_some() {
            // It has taken the call before with what could not be used, and is being hung up on.
            return if self.is_of_a_fork(leg, response) {
                self.hang_up_on_fork(leg, response)
            } else {
                let number = response.headers.cseq().map_or(1, |cseq| cseq.number);
                Step::free(vec![self.acknowledge_number(leg, number, None)])
            };
        }
        if self.is_referred_to(leg) {
            // While another offer is open nobody can be asked; it says so again.
            let waits = self.state.has_open_offer();
            return if waits { Step::default() } else { self.referred_answers(leg, response, body, now) };
        }
        if self.state.answered.is_some() {
            if self.is_of_a_fork(leg, response) {
                return self.hang_up_on_fork(leg, response);
            }
            // Repeated while the caller's ACK is awaited, which ours waits for.
            return Step::default();
        }
        self.state.leg_mut(leg).dialog.on_invite_response(response);
        let body = self.state.leg_mut(leg).early.take().filter(|_| body.is_none()).or(body);
        self.state.leg_mut(leg).pracked = None;
        self.state.answered = Some(now);
        self.state.answerer = Some(leg);
        // It may have been given up, and takes the call all the same.
        self.state.leg_mut(leg).refused = None;
        self.timer_of_client(leg, &response.headers, now);
        if let Some(inbound) = self.state.leg(self.state.first).inbound.clone() {
            self.timer_of_server(self.state.first, &inbound.request, now);
        }
        let mut then = self.cancel_others(Some(leg));
        // With a late offer the caller's ACK holds the answer, and ours waits for it.
        let late_offer = self.state.leg(leg).out.as_ref().is_some_and(|out| out.late_offer);
        if late_offer {
            if let Some(out) = &mut self.state.leg_mut(leg).out {
                out.stage = StageOut::AckWaits;
            }
        } else if let Some(out) = self.state.leg_mut(leg).out.take() {
            then.push(self.acknowledge(leg, &out.request, None));
        }
        then.extend(self.show(StageIn::Answered(body), true).0);
        self.put(then)
    }

    /// The call was over, or somebody else's, before this phone knew: a 2xx is acknowledged and hung up (RFC 3261 §9.1).
    fn response_too_late(&mut self, leg: LegId, response: &Response) -> Step {
        if !response.status.is_final() {
            return Step::default();
        }
        if response.status.class() != Class::Success {
            let acknowledge = Effect::Leg(leg, LegCommand::Acknowledge);
            if self.state.ended.is_some() {
                return Step::free(vec![acknowledge]);
            }
            // It lost, and has heard it.
            let mut then = vec![acknowledge];
            then.extend(self.drop_legs(|own| own.id == leg));
            return self.put(then);
        }
        let Some(out) = self.state.leg_mut(leg).out.take() else { return Step::default() };
        self.state.leg_mut(leg).dialog.on_invite_response(response);
        let ack = self.acknowledge(leg, &out.request, None);
        let bye = self.bye(leg);
        self.put(vec![ack, bye])
    }

    /// Whether a 2xx is of another dialog than the leg's: a proxy on the way to the phone has forked.
    pub(super) fn is_of_a_fork(&self, leg: LegId, response: &Response) -> bool {
        let tag = response.headers.text(&Name::To).and_then(|to| tag_of(&to).map(str::to_owned));
        tag.is_some() && tag.as_deref() != self.state.leg(leg).dialog.remote_tag.as_deref()
    }

    /// One dialog a leg is all that we want: another that is made is acknowledged and hung up on (RFC 3261 §13.2.2.4).
    pub(super) fn hang_up_on_fork(&mut self, leg: LegId, response: &Response) -> Step {
        let this = self.state.leg_mut(leg);
        if this.forks >= MAX_FORKS {
            return Step::default();
        }
        this.forks += 1;
        let mut dialog = this.dialog.clone();
        dialog.on_invite_response(response);
        let number = response.headers.cseq().map_or(1, |cseq| cseq.number);
        let messages = [dialog.ack(number), dialog.request(Method::Bye)];
        let send = messages.into_iter().map(|mut message| {
            self.stamp(leg, &mut message);
            Effect::Leg(leg, LegCommand::Send(message, dialog.flow))
        });
        Step::free(send.collect())
    }

    fn relayed_response(&mut self, leg: LegId, at: usize, response: Response, now: Timestamp) -> Step {
        if !response.status.is_final() {
            return Step::default();
        }
        let (asker, is_offer) = (self.state.relays[at].from, self.state.relays[at].is_offer());
        let is_invite = self.state.relays[at].onward.method == Method::Invite;
        if is_offer && self.state.relays[at].answer.is_some() {
            return Step::default();
        }
        let key = TxKey::of(&self.state.relays[at].request);
        if is_offer && self.state.leg(asker).gone && response.status.class() == Class::Success {
            // It has left meanwhile.
            let relay = self.state.relays.remove(at);
            self.state.leg_mut(leg).dialog.retarget(&response.headers);
            let acknowledge = is_invite.then(|| self.acknowledge(leg, &relay.onward, None));
            return self.put([relay.terminated()].into_iter().chain(acknowledge).collect());
        }
        if is_offer && response.status.class() == Class::Success {
            let dialog = &mut self.state.leg_mut(leg).dialog;
            dialog.retarget(&response.headers);
            self.state.relays[at].answer = Some(Body::of(&response.headers, &response.body));
            let relay = self.state.relays[at].clone();
            if is_invite {
                self.timer_of_client(leg, &response.headers, now);
                self.timer_of_server(asker, &relay.request, now);
            }
            let mut then = Vec::new();
            if Updated::may_be_by(&relay.request.method) {
                // Nothing more comes of it: an UPDATE has no ACK (RFC 3311 §5).
                self.state.relays.remove(at);
                self.state.leg_mut(asker).updated = Updated::by(&relay.request, relay.answer.clone().flatten());
            }
            if is_invite && !relay.late_offer {
                then.push(self.acknowledge(leg, &relay.onward, None));
            }
            then.push(self.relay_answer(&relay));
            return self.put(then);
        }
        let relay = self.state.relays.remove(at);
        let mut answer = relay.request.response(response.status, None);
        answer.headers.copy(&response.headers, &Name::RetryAfter);
        if relay.request.method == Method::Refer && response.status.class() == Class::Success {
            // RFC 3515 §2.2: it makes a subscription.
            answer = dialog_response(&relay.request, response.status, &self.state.leg(asker).dialog, None);
        }
        if let Some(body) = Body::of(&response.headers, &response.body) {
            answer = answer.with_body(&body.content_type, body.bytes);
        }
        let mut effects = vec![Effect::Leg(asker, LegCommand::Respond(key, answer))];
        if is_invite {
            effects.push(Effect::Leg(leg, LegCommand::Acknowledge));
        }
        // RFC 3261 §12.2.1.2: the peer doesn't know the dialog any more.
        let dialog_gone = [StatusCode::CALL_DOES_NOT_EXIST, StatusCode::REQUEST_TIMEOUT].contains(&response.status);
        // RFC 6665 §4.1.3: that is said of the subscription.
        let of_a_subscription = matches!(relay.request.method, Method::Notify | Method::Refer);
        // While it rings, its INVITE's own answer says whether it is there.
        if dialog_gone && !of_a_subscription && self.state.answered.is_some() {
            self.state.leg_mut(leg).gone = true;
            return self.end(StatusCode::CALL_DOES_NOT_EXIST, EndedBy::System, now, effects);
        }
        if is_offer {
            return self.put(effects);
        }
        if relay.request.method == Method::Refer {
            if [StatusCode::METHOD_NOT_ALLOWED, StatusCode::NOT_IMPLEMENTED].contains(&response.status) {
                return self.carry_out(&relay, now);
            }
            if response.status.class() == Class::Success {
                self.state.leg_mut(asker).updated = Updated::by(&relay.request, None);
            }
            return self.put(effects);
        }
        self.is_over(&relay);
        Step::free(effects)
    }

    pub(super) fn no_response(&mut self, leg: LegId, request: &Request, now: Timestamp) -> Step {
        let same = |own: &Request| own.headers.get(&Name::Via) == request.headers.get(&Name::Via);
        if self.state.leg(leg).bye.as_ref().is_some_and(same) {
            return self.hung_up(leg);
        }
        if let Some(step) = self.has_told_referrer(leg, same) {
            return step;
        }
        if self.state.ended.is_some() {
            self.state.leg_mut(leg).out = None;
            return self.settle();
        }
        if self.state.leg(leg).refreshing.as_ref().is_some_and(same) {
            // RFC 4028 §10: as 408.
            self.state.leg_mut(leg).refreshing = None;
            return self.end(StatusCode::REQUEST_TIMEOUT, EndedBy::System, now, Vec::new());
        }
        if self.state.leg(leg).out.as_ref().is_some_and(|out| same(&out.request)) {
            return self.unreachable(leg, now);
        }
        if self.state.leg(leg).reinvite.as_ref().is_some_and(same) {
            // RFC 3261 §12.2.1.2: a peer that answers nothing has left the dialog.
            self.state.leg_mut(leg).reinvite = None;
            return self.end(StatusCode::REQUEST_TIMEOUT, EndedBy::System, now, Vec::new());
        }
        let Some(at) = self.state.relays.iter().position(|relay| same(&relay.onward)) else { return Step::default() };
        let relay = self.state.relays.remove(at);
        if relay.is_offer() && relay.cancelled {
            return self.put(vec![relay.terminated()]);
        }
        let answer = relay.request.response(StatusCode::REQUEST_TIMEOUT, None);
        let effect = Effect::Leg(relay.from, LegCommand::Respond(TxKey::of(&relay.request), answer));
        if relay.is_offer() && self.state.answered.is_none() {
            return self.put(vec![effect]);
        }
        if relay.is_offer() {
            // RFC 3261 §12.2.1.2: a peer that answers nothing has left the dialog.
            return self.end(StatusCode::REQUEST_TIMEOUT, EndedBy::System, now, vec![effect]);
        }
        if relay.request.method == Method::Refer {
            return self.put(vec![effect]);
        }
        self.is_over(&relay);
        Step::free(vec![effect])
    }

    /// What was only passed on is over without a commit: it must not come back when one fails.
    fn is_over(&mut self, relay: &Relay) {
        self.committed.relays.retain(|other| other.onward != relay.onward);
    }
}

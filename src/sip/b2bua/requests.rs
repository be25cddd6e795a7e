//! What phones ask of a call. Layer: pure.

use super::state::{Referred, Updated};
use super::timer::too_often;
use super::{
    ALLOW, Body, Call, CallLeg, Effect, EndedBy, InviteIn, Relay, StageIn, Step, cancel_response, dialog_response, respond,
    respond_with, set_body, trying, unavailable, without_body,
};
use crate::clock::Timestamp;
use crate::ids::LegId;
use crate::sip::dialog::{DialogError, Flow};
use crate::sip::leg::{LegCommand, TxKey};
use crate::sip::message::Request;
use crate::sip::uri::param;
use crate::sip::{Method, Name, StatusCode};

/// So many REFERs of a call are remembered: the last ones.
const MAX_REFERRED: usize = 4;

/// A Subscription-State with what counts of it (RFC 6665 §8.4). Toward who has sent the REFER we say it: some phones have it wrong, and others read
/// nothing that has it wrong.
fn subscription_state(said: &str) -> String {
    let (state, params) = said.split_once(';').unwrap_or((said, ""));
    if state.trim().eq_ignore_ascii_case("terminated") {
        return "terminated;reason=noresource".into();
    }
    let expires = param(params, "expires").and_then(|expires| expires.parse::<u32>().ok());
    expires.map_or_else(|| "active".into(), |expires| format!("active;expires={expires}"))
}

impl Call {
    /// What there is to say to a request that is out of order, or of a leg that has gone.
    fn is_answered_at_once(&mut self, leg: LegId, key: &TxKey, request: &Request) -> Option<Step> {
        let is_first = self.state.leg(leg).inbound.as_ref().is_some_and(|inbound| inbound.key == *key);
        if is_first {
            // The INVITE that made this call, told again by a leg that was made anew.
            return Some(Step::default());
        }
        match self.state.leg_mut(leg).dialog.accept(request) {
            Ok(()) => self.state.leg_mut(leg).updated = None,
            Err(DialogError::OutOfOrder) if self.was_answered(leg, request) => {
                return Some(self.answer_again(leg, key.clone(), request));
            }
            // A BYE come again because a former owner's 200 was lost.
            Err(DialogError::OutOfOrder) if self.state.has_left(leg) && request.method == Method::Bye => {}
            Err(error) => return Some(respond(leg, key.clone(), request, error.into())),
        }
        self.state.has_left(leg).then(|| {
            let status = if request.method == Method::Bye { StatusCode::OK } else { StatusCode::CALL_DOES_NOT_EXIST };
            respond(leg, key.clone(), request, status)
        })
    }

    /// A key goes to the other phone with its media: nobody there is asked.
    pub(super) fn keyed(&mut self, leg: LegId, key: TxKey, request: &Request) -> Step {
        self.is_answered_at_once(leg, &key, request).unwrap_or_else(|| {
            let answer = Effect::Leg(leg, LegCommand::Respond(key, request.response(StatusCode::OK, None)));
            Step::free(vec![answer, Effect::Press(leg, request.body.clone())])
        })
    }

    #[allow(clippy::wildcard_enum_match_arm, reason = "every other method is treated alike")]
    pub(super) fn request(&mut self, leg: LegId, key: TxKey, request: Request, flow: Flow, now: Timestamp) -> Step {
        if let Some(answered) = self.is_answered_at_once(leg, &key, &request) {
            return answered;
        }
        if let Some(least) = too_often(&request, self.state.session) {
            let refused = request.response(StatusCode::SESSION_INTERVAL_TOO_SMALL, None).with(Name::MinSe, least.to_string());
            return respond_with(leg, key, refused);
        }
        match request.method {
            // RFC 5589 §6.1: who has been told that its transfer is under way may go.
            Method::Bye if self.state.referral.as_ref().is_some_and(|own| own.by == leg && !own.is_over()) => {
                self.state.leg_mut(leg).gone = true;
                self.state.referral.iter_mut().for_each(|own| own.notify = None);
                let mut then = vec![Effect::Leg(leg, LegCommand::Respond(key, request.response(StatusCode::OK, None)))];
                then.extend(self.abandon_relays(leg));
                self.put(then)
            }
            Method::Bye if self.has_taken(leg) => {
                let answer = Effect::Leg(leg, LegCommand::Respond(key, request.response(StatusCode::OK, None)));
                self.taker_hung_up(leg, answer, now)
            }
            Method::Bye if !self.state.is_seated(leg) => self.branch_hung_up(leg, key, &request, now),
            Method::Bye => {
                let answer = Effect::Leg(leg, LegCommand::Respond(key, request.response(StatusCode::OK, None)));
                let by = if leg == self.state.first { EndedBy::Caller } else { EndedBy::Callee };
                self.state.leg_mut(leg).gone = true;
                self.end(StatusCode::REQUEST_TERMINATED, by, now, vec![answer])
            }
            Method::Update if request.body.is_empty() => self.refreshed_by_phone(leg, key, &request, now),
            Method::Invite | Method::Update => self.reinvite(leg, key, request, flow, now),
            Method::Prack => self.pracked(leg, key, request, flow),
            Method::Refer => self.refer(leg, key, request, flow),
            Method::Notify => self.notify(leg, key, request, flow),
            Method::Info | Method::Message => self.relay(leg, key, request, flow),
            Method::Options => respond_with(leg, key, request.response(StatusCode::OK, None).with(Name::Allow, ALLOW)),
            Method::Other(_) => respond_with(leg, key, request.response(StatusCode::NOT_IMPLEMENTED, None)),
            _ => {
                let refused = request.response(StatusCode::METHOD_NOT_ALLOWED, None).with(Name::Allow, ALLOW);
                respond_with(leg, key, refused)
            }
        }
    }

    /// A re-INVITE goes through to the other side (RFC 3261 §14).
    fn reinvite(&mut self, leg: LegId, key: TxKey, request: Request, came_by: Flow, now: Timestamp) -> Step {
        let heard = self.state.leg(self.state.first).inbound.as_ref().is_some_and(InviteIn::is_heard);
        let early = self.state.takes_early_offer(leg).filter(|_| heard && request.method == Method::Update);
        if let Some(other) = early {
            let send = self.send_offer(leg, other, request, came_by);
            return self.put(vec![send]);
        }
        let busy = self.state.relays.iter().find(|relay| relay.is_offer());
        if self.state.legs.iter().any(CallLeg::is_asked) || self.state.referral.as_ref().is_some_and(|own| own.taken.is_some()) {
            // RFC 3261 §14.2: one of ours is open.
            return respond(leg, key, &request, StatusCode::REQUEST_PENDING);
        }
        if let Some(busy) = busy {
            let status = if busy.from == leg { StatusCode::SERVER_INTERNAL_ERROR } else { StatusCode::REQUEST_PENDING };
            let mut response = request.response(status, None);
            if busy.from == leg {
                response = response.with(Name::RetryAfter, "1");
            }
            return respond_with(leg, key, response);
        }
        if self.state.answered.is_none() || self.state.leg(leg).inbound.is_some() {
            // RFC 3261 §14.2: an INVITE of the peer's is still open.
            return respond_with(leg, key, request.response(StatusCode::SERVER_INTERNAL_ERROR, None).with(Name::RetryAfter, "1"));
        }
        let Some(other) = self.state.peer(leg) else { return respond(leg, key, &request, StatusCode::CALL_DOES_NOT_EXIST) };
        if self.state.leg(other).gone {
            // Who has referred it has left, and another may take that place.
            let pending = Effect::Leg(leg, LegCommand::Respond(key, request.response(StatusCode::REQUEST_PENDING, None)));
            self.still_there(leg, now);
            return self.put(vec![pending]);
        }
        let refused = Effect::Leg(leg, LegCommand::Respond(key.clone(), unavailable(&request)));
        let is_invite = request.method == Method::Invite;
        let trying = Some(Effect::Leg(leg, LegCommand::Respond(key, trying(&request)))).filter(|_| is_invite);
        let send = self.send_offer(leg, other, request, came_by);
        self.put(trying.into_iter().chain([send]).collect()).or_else(vec![refused])
    }

    /// An offer goes through to the other side.
    pub(super) fn send_offer(&mut self, leg: LegId, other: LegId, request: Request, came_by: Flow) -> Effect {
        // The phone may have moved: this is where it is now.
        self.state.leg_mut(leg).dialog.flow = came_by;
        self.state.leg_mut(leg).dialog.retarget(&request.headers);
        let body = Body::of(&request.headers, &request.body);
        let early = self.state.answered.is_none();
        let mut onward = self.dialog_request(other, if early { Method::Update } else { Method::Invite });
        onward.headers.push_text(Name::Allow, ALLOW);
        if !early {
            self.ask_for_timer(other, &mut onward);
        }
        set_body(&mut onward, body.as_ref());
        let flow = self.state.leg(other).dialog.flow;
        self.state.relays.push(Relay {
            from: leg,
            came_by,
            request: without_body(request),
            onward: onward.clone(),
            to: other,
            answer: None,
            late_offer: body.is_none(),
            cancelled: false,
        });
        Effect::Leg(other, LegCommand::Send(onward, flow))
    }

    /// An UPDATE without a description is between the phone and us (RFC 4028 §9).
    fn refreshed_by_phone(&mut self, leg: LegId, key: TxKey, request: &Request, now: Timestamp) -> Step {
        self.state.leg_mut(leg).dialog.retarget(&request.headers);
        if self.state.talks(self.state.leg(leg)) {
            self.timer_of_server(leg, request, now);
        }
        self.state.leg_mut(leg).updated = Updated::by(request, None);
        let mut answer = dialog_response(request, StatusCode::OK, &self.state.leg(leg).dialog, None);
        self.tell_timer(leg, &mut answer);
        self.put(vec![Effect::Leg(leg, LegCommand::Respond(key, answer))])
    }

    /// Whether a request is the UPDATE, PRACK or REFER that was accepted last, come again because a former owner's answer was lost.
    fn was_answered(&self, leg: LegId, request: &Request) -> bool {
        let number = request.headers.cseq().map_or(0, |cseq| cseq.number);
        Updated::may_be_by(&request.method)
            && self.state.ended.is_none()
            && self.state.leg(leg).updated.as_ref().is_some_and(|updated| updated.cseq == number)
    }

    fn answer_again(&self, leg: LegId, key: TxKey, request: &Request) -> Step {
        let this = self.state.leg(leg);
        let body = this.updated.as_ref().and_then(|updated| updated.body.as_ref());
        let status = if request.method == Method::Refer { StatusCode::ACCEPTED } else { StatusCode::OK };
        let mut answer = dialog_response(request, status, &this.dialog, body);
        if request.method == Method::Update {
            self.tell_timer(leg, &mut answer);
        }
        respond_with(leg, key, answer)
    }

    /// A REFER goes through (RFC 3515): the other phone calls by itself. Only who talks sends the other away, and from where it is.
    fn refer(&mut self, leg: LegId, key: TxKey, request: Request, came_by: Flow) -> Step {
        let this = self.state.leg(leg);
        if request.headers.all(&Name::ReferTo).count() != 1 {
            return respond(leg, key, &request, StatusCode::BAD_REQUEST);
        }
        if !self.state.talks(this) || came_by.remote.ip() != this.dialog.flow.remote.ip() {
            return respond(leg, key, &request, StatusCode::FORBIDDEN);
        }
        self.relay(leg, key, request, came_by)
    }

    /// What has become of a REFER goes back to who sent it, with the number that this one gave it (RFC 3515 §2.4.6).
    fn notify(&mut self, leg: LegId, key: TxKey, mut request: Request, came_by: Flow) -> Step {
        let event = request.headers.text(&Name::Event).unwrap_or_default();
        let number = param(event.split_once(';').map_or("", |(_, params)| params), "id").and_then(|id| id.parse::<u32>().ok());
        let mut referred = self.state.referred.iter().rev().filter(|referred| referred.to == leg);
        let Some(referred) = referred.find(|referred| number.is_none_or(|number| number == referred.onward)) else {
            return respond(leg, key, &request, StatusCode::CALL_DOES_NOT_EXIST);
        };
        if number.is_some() {
            request.headers.set(Name::Event, format!("refer;id={}", referred.asked));
        }
        let state = request.headers.text(&Name::SubscriptionState);
        request.headers.set(Name::SubscriptionState, subscription_state(state.as_deref().unwrap_or_default()));
        self.relay(leg, key, request, came_by)
    }

    /// A request that changes nothing here goes through; losing one in a takeover is losing a packet.
    fn relay(&mut self, leg: LegId, key: TxKey, request: Request, came_by: Flow) -> Step {
        let is_there = |leg: &CallLeg| leg.dialog.remote_tag.is_some() && !leg.gone;
        let Some(other) = self.state.peer(leg).filter(|other| is_there(self.state.leg(*other))) else {
            return respond(leg, key, &request, StatusCode::TEMPORARILY_UNAVAILABLE);
        };
        let is_refer = request.method == Method::Refer;
        let mut onward = self.dialog_request(other, request.method.clone());
        for (name, value) in request.headers.iter() {
            let claims = matches!(name, Name::Other(other) if other.eq_ignore_ascii_case("Remote-Party-ID"));
            let of_the_body = matches!(name, Name::ContentType | Name::ContentDisposition);
            let of_events = matches!(name, Name::Event | Name::SubscriptionState | Name::ReferTo);
            // RFC 4488: without it there is a subscription, as its sender sees from our answer.
            let of_none = matches!(name, Name::Other(other) if other.eq_ignore_ascii_case("Refer-Sub"));
            if !claims && !of_none && (of_the_body || of_events || matches!(name, Name::Other(_))) {
                onward.headers.push(name.clone(), value.clone());
            }
        }
        onward.body = request.body.clone();
        if is_refer {
            // Who refers is who has proved to be there (RFC 3892 §2), not who it says.
            let by = self.state.leg(leg).phone.as_ref().filter(|_| !self.state.is_private(leg));
            let by = by.map(|phone| format!("<sip:{}>", phone.aor));
            by.into_iter().for_each(|by| onward.headers.push_text(Name::ReferredBy, by));
            let number = |request: &Request| request.headers.cseq().map_or(0, |cseq| cseq.number);
            let (onward, asked) = (number(&onward), number(&request));
            self.state.referred.push(Referred { to: other, onward, asked });
            let more = self.state.referred.len().saturating_sub(MAX_REFERRED);
            self.state.referred.drain(..more);
        }
        let flow = self.state.leg(other).dialog.flow;
        self.state.relays.push(Relay {
            from: leg,
            came_by,
            request: without_body(request),
            onward: onward.clone(),
            to: other,
            answer: None,
            late_offer: false,
            cancelled: false,
        });
        let send = vec![Effect::Leg(other, LegCommand::Send(onward, flow))];
        let spent = self.state.leg(other).dialog.local_cseq > self.state.leg(other).reserved;
        // Done twice it would make two calls: a new owner has to know that it is on its way.
        if spent || is_refer { self.put(send) } else { Step::free(send) }
    }

    pub(super) fn cancelled(&mut self, leg: LegId, invite: TxKey, cancel: TxKey, now: Timestamp) -> Step {
        let waiting = self.state.leg(leg).inbound.as_ref().filter(|inbound| inbound.key == invite && inbound.is_pending());
        if let Some(inbound) = waiting {
            let answer = cancel_response(&inbound.request, &self.state.leg(leg).dialog.local_tag);
            let answer = Effect::Leg(leg, LegCommand::Respond(cancel, answer));
            return self.end(StatusCode::REQUEST_TERMINATED, EndedBy::Caller, now, vec![answer]);
        }
        let relay = self.state.relays.iter_mut().find(|relay| relay.from == leg && TxKey::of(&relay.request) == invite);
        let Some(relay) = relay else {
            // Too late: the final answer is on its way. The CANCEL is answered all the same (RFC 3261 §9.2).
            let crossed = self.state.leg(leg).inbound.as_ref().filter(|inbound| inbound.key == invite);
            let answer = crossed.map(|inbound| cancel_response(&inbound.request, &self.state.leg(leg).dialog.local_tag));
            return Step::free(answer.map(|answer| Effect::Leg(leg, LegCommand::Respond(cancel, answer))).into_iter().collect());
        };
        relay.cancelled = true;
        let (request, onward) = (relay.request.clone(), Effect::Leg(relay.to, LegCommand::Cancel));
        let answer = cancel_response(&request, &self.state.leg(leg).dialog.local_tag);
        self.put(vec![Effect::Leg(leg, LegCommand::Respond(cancel, answer)), onward])
    }

    pub(super) fn acked(&mut self, leg: LegId, ack: &Request) -> Step {
        if self.state.ended.is_some() {
            return Step::default();
        }
        let number = ack.headers.cseq().map_or(0, |cseq| cseq.number);
        let body = Body::of(&ack.headers, &ack.body);
        let answered = |inbound: &InviteIn| matches!(inbound.stage, StageIn::Answered(_));
        if self.state.leg(leg).inbound.as_ref().is_some_and(answered) {
            let Some(other) = self.state.peer(leg) else { return Step::default() };
            self.remember_unheard(leg);
            self.state.leg_mut(leg).inbound = None;
            let waiting = self.state.leg_mut(other).out.take();
            let then = waiting.map(|out| self.acknowledge(other, &out.request, body)).into_iter().collect();
            return self.put(then);
        }
        let relay = self.state.relays.iter().position(|relay| {
            relay.from == leg && relay.answer.is_some() && relay.request.headers.cseq().is_ok_and(|cseq| cseq.number == number)
        });
        let Some(at) = relay else { return Step::default() };
        let relay = self.state.relays.remove(at);
        let then = if relay.late_offer { vec![self.acknowledge(relay.to, &relay.onward, body)] } else { Vec::new() };
        self.put(then)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_a_subscription_is_said_rightly() {
        for (said, shown) in [
            ("terminated;reason=reason=noresource", "terminated;reason=noresource"),
            ("Terminated", "terminated;reason=noresource"),
            ("active;expires=60", "active;expires=60"),
            ("active; expires=\"60", "active"),
            ("pending", "active"),
            ("", "active"),
        ] {
            assert_eq!(subscription_state(said), shown, "{said}");
        }
    }
}

//! A call between two legs: a back-to-back user agent (RFC 7092's "signalling/media-plane" kind). Layer: pure.
//!
//! ```text
//!  invite ─▶ Inviting ──18x──▶ Ringing ──2xx──▶ Answered ──BYE──▶ Ended ──settled──▶ forgotten
//!               └─────┬──────────┴─ failure, CANCEL, no answer ─────▶ ▲
//! ```
//!
//! The call owns both dialogs and all that must survive ([`CallState`]); its legs ([`super::leg::Leg`]) own the
//! transactions. Every answer is a [`Step`]: what a phone gets to see leaves only after the state behind it is
//! committed. An ended call is forgotten as soon as both sides have heard its end ([`CallState::is_settled`]): a new owner
//! has nothing to say to phones that have heard it all. One that was refused lingers ([`LINGER`]), to acknowledge what its
//! callee repeats.
//!
//! Invariants: one [`Mutation::End`] (so one CDR) per call; a call that failed to commit goes back to what was
//! committed last ([`Call::roll_back`]).

mod anchor;
mod rebind;
mod resume;
mod state;

use std::time::Duration;

use bytes::Bytes;

use super::dialog::{Dialog, DialogError, Flow};
use super::headers::{HeaderError, Transport};
use super::leg::{LegCommand, LegEvent, TxKey};
use super::message::{Request, Response};
use super::registrar::Phone;
use super::status::Class;
use super::step;
use super::token::Token;
use super::{Method, Name, StatusCode, Text};
use crate::clock::Timestamp;
use crate::ids::{CallId, LegId, VnodeId};
pub use state::{Body, CallLeg, CallState, Cdr, EndedBy, Ending, InviteIn, InviteOut, Relay, StageIn, StageOut, deadline};

/// What a call's [`Step`] commits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mutation {
    /// The call is as this says.
    Put(Box<CallState>),
    /// The call is over, and this is its CDR: one entry.
    End(Box<CallState>, Box<Cdr>),
    /// Nothing of the call is needed any more.
    Forget(CallId),
}

/// What a call wants done.
#[allow(clippy::large_enum_variant, reason = "nearly all are the large one")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Tell this leg.
    Leg(LegId, LegCommand),
    /// The media may go: the call is over.
    CloseMedia,
    /// The actors may go too.
    Close,
}

/// A call's answer to one input.
pub type Step = step::Step<Mutation, Effect>;

/// What a call is told.
#[allow(clippy::large_enum_variant, reason = "nearly all are the large one")]
#[derive(Debug, Clone)]
pub enum CallInput {
    /// A leg's event.
    Leg(LegId, LegEvent),
    /// Somebody who is no phone ends the call: an operator, or tandem itself.
    HangUp {
        /// What a caller who is still waiting gets.
        status: StatusCode,
        /// Who it was, for the CDR.
        by: EndedBy,
    },
    /// The deadline has passed.
    Timeout,
    /// A leg's phone has come back by this flow.
    Rebind(LegId, Flow),
    /// Ask a leg ([`CallState::movable`]) to come to where we are now, with this description; none if there is none to give.
    Anchor(LegId, Option<Body>),
}

/// A new call: the INVITE, and where to.
#[derive(Debug, Clone)]
pub struct NewCall {
    /// The call's name: 128 random bits.
    pub id: CallId,
    /// Whose it is.
    pub vnode: VnodeId,
    /// The caller's INVITE.
    pub invite: Request,
    /// By what flow it came.
    pub from: Flow,
    /// The callee's contact.
    pub target: Text,
    /// The proxies on the way to it, as Route values (RFC 3327 §5.3).
    pub path: Vec<Text>,
    /// How to reach it.
    pub to: Flow,
    /// Who caller and callee are, as registered phones.
    pub phones: [Option<Phone>; 2],
    /// The body for the callee: the caller's, made over by the media plane.
    pub body: Option<Body>,
    /// Who calls whom, as the CDR says it.
    pub caller: String,
    /// See `caller`.
    pub callee: String,
}

/// How long a callee may ring (the proxies' Timer C is at least 3 minutes: RFC 3261 §16.6 step 11).
pub const RING_TIMEOUT: Duration = Duration::from_secs(180);
/// How long an ended call answers what is repeated: 64·T1, and room for a takeover.
pub const LINGER: Duration = Duration::from_secs(40);
/// So many CSeq numbers are committed at once.
pub const CSEQ_BLOCK: u32 = 32;
/// What in-dialog requests may be.
pub const ALLOW: &str = "INVITE, ACK, CANCEL, BYE, OPTIONS, INFO, MESSAGE";

/// The machine.
#[derive(Debug)]
pub struct Call {
    state: CallState,
    committed: CallState,
    incarnation: u32,
    branches: u32,
    /// The CSeq numbers that the committed record lets each leg use: a new owner goes on behind them.
    reserved: [u32; 2],
    /// The same in the mutation that is on its way.
    asked: [u32; 2],
}

impl Call {
    /// Takes an INVITE on. `incarnation` is random: it keeps this actor's branches apart from its successors'.
    pub fn new(call: NewCall, incarnation: u32, now: Timestamp) -> Result<(Self, Step), HeaderError> {
        let caller_token = Token { vnode: call.vnode, call: call.id, leg: LegId::CALLER };
        let callee_token = Token { leg: LegId::CALLEE, ..caller_token };
        let caller =
            Dialog::of_server(&call.invite, Text::from(caller_token.to_string()), contact(&caller_token, &call.from), call.from)?;
        let callee = Dialog::of_client(
            Text::from(format!("{}.{}", call.id, LegId::CALLEE.0)),
            caller.remote.clone(),
            Text::from(callee_token.to_string()),
            caller.local.clone(),
            call.target.clone(),
            contact(&callee_token, &call.to),
            call.to,
        );
        let state = CallState::new(&call, caller, callee, now);
        let mut this = Self { committed: state.clone(), state, incarnation, branches: 0, reserved: [0; 2], asked: [0; 2] };
        let invite = this.first_invite(&call);
        let key = TxKey::of(&call.invite);
        let refused = unavailable(&call.invite);
        let late_offer = call.body.is_none();
        let leg = this.state.leg_mut(LegId::CALLEE);
        leg.out = Some(InviteOut { request: invite.clone(), stage: StageOut::Calling, late_offer });
        let send = Effect::Leg(LegId::CALLEE, LegCommand::Send(invite, call.to));
        let trying = Effect::Leg(LegId::CALLER, LegCommand::Respond(key.clone(), trying(&call.invite)));
        let step = this.put(vec![trying, send]).or_else(vec![
            Effect::Leg(LegId::CALLER, LegCommand::Respond(key, refused)),
            Effect::CloseMedia,
            Effect::Close,
        ]);
        Ok((this, step))
    }

    #[allow(clippy::wildcard_enum_match_arm, reason = "the others are ours to set")]
    fn first_invite(&mut self, call: &NewCall) -> Request {
        let mut invite = self.dialog_request(LegId::CALLEE, Method::Invite);
        for route in &call.path {
            invite.headers.push_text(Name::Route, route);
        }
        // RFC 3261 §16.6 step 3: a B2BUA that doesn't count lets two of them play tennis for ever.
        let hops = call.invite.headers.max_forwards().unwrap_or(70).saturating_sub(1);
        invite.headers.set(Name::MaxForwards, hops.to_string());
        for (name, value) in call.invite.headers.iter() {
            let passes = match name {
                // Who calls is what From says, which was checked; a caller's other claims are not.
                Name::Other(other) => !other.eq_ignore_ascii_case("Remote-Party-ID"),
                Name::Subject | Name::Priority | Name::AlertInfo | Name::CallInfo | Name::Privacy => true,
                _ => false,
            };
            if passes {
                invite.headers.push(name.clone(), value.clone());
            }
        }
        invite.headers.push_text(Name::Allow, ALLOW);
        set_body(&mut invite, call.body.as_ref());
        invite
    }

    /// All that survives.
    pub fn state(&self) -> &CallState {
        &self.state
    }

    /// The last step was committed.
    pub fn committed(&mut self) {
        self.committed = self.state.clone();
        self.reserved = self.asked;
    }

    /// The last step could not be committed: nothing of it has happened.
    pub fn roll_back(&mut self) {
        let spent = std::mem::replace(&mut self.state, self.committed.clone());
        // Numbers are not given back: some may have left with requests that commit nothing.
        for (leg, spent) in self.state.legs.iter_mut().zip(&spent.legs) {
            leg.dialog.local_cseq = spent.dialog.local_cseq;
        }
        self.asked = self.reserved;
    }

    /// The state once more: something beside it has changed that is kept with it.
    pub fn again(&mut self) -> Step {
        self.put(Vec::new())
    }

    /// When [`CallInput::Timeout`] is due.
    pub fn deadline(&self) -> Option<Timestamp> {
        self.state.deadline()
    }

    /// Advances by one input.
    pub fn handle(&mut self, input: CallInput, now: Timestamp) -> Step {
        match input {
            CallInput::Leg(leg, event) if self.state.has_leg(leg) => self.leg_event(leg, event, now),
            CallInput::Leg(..) => Step::default(),
            CallInput::HangUp { status, by } => self.end(status, by, now, Vec::new()),
            CallInput::Timeout => self.timeout(now),
            CallInput::Rebind(leg, flow) if self.state.has_leg(leg) => self.rebind(leg, flow),
            CallInput::Rebind(..) => Step::default(),
            CallInput::Anchor(leg, body) if self.state.movable(now) == Some(leg) => self.anchor(leg, body),
            CallInput::Anchor(..) => Step::default(),
        }
    }

    fn timeout(&mut self, now: Timestamp) -> Step {
        for leg in &mut self.state.legs {
            leg.not_before = leg.not_before.filter(|at| now < *at);
        }
        let own = deadline(self.state.created, self.state.answered, self.state.ended.map(|ending| ending.at));
        if own.is_none_or(|at| now < at) {
            return Step::default();
        }
        if self.state.ended.is_some() {
            return self.forget();
        }
        self.end(StatusCode::REQUEST_TIMEOUT, EndedBy::System, now, Vec::new())
    }

    /// What a call does that has one thing less to wait for.
    fn settle(&self) -> Step {
        if self.state.is_settled() { self.forget() } else { Step::default() }
    }

    fn forget(&self) -> Step {
        Step::promise(Mutation::Forget(self.state.id), vec![Effect::Close])
    }

    fn leg_event(&mut self, leg: LegId, event: LegEvent, now: Timestamp) -> Step {
        match event {
            LegEvent::Request(key, request, flow) => {
                let came_back = self.comes_back(leg, &request, flow);
                let step = self.request(leg, key, request, flow, now);
                if came_back { self.and_rebind(leg, flow, step) } else { step }
            }
            LegEvent::Cancelled { invite, cancel } => self.cancelled(leg, invite, cancel, now),
            LegEvent::Acked(ack) => self.acked(leg, &ack),
            LegEvent::Response(response) => self.response(leg, response, now),
            LegEvent::NoResponse(request) => self.no_response(leg, &request, now),
            LegEvent::NoAck if self.state.ended.is_none() => {
                self.end(StatusCode::REQUEST_TIMEOUT, EndedBy::System, now, Vec::new())
            }
            LegEvent::NoAck => Step::default(),
        }
    }

    // --- what phones ask ---

    #[allow(clippy::wildcard_enum_match_arm, reason = "every other method is treated alike")]
    fn request(&mut self, leg: LegId, key: TxKey, request: Request, flow: Flow, now: Timestamp) -> Step {
        let is_first = self.state.leg(leg).inbound.as_ref().is_some_and(|inbound| inbound.key == key);
        if is_first {
            // The INVITE that made this call, told again by a leg that was made anew.
            return Step::default();
        }
        match self.state.leg_mut(leg).dialog.accept(&request) {
            Ok(()) => {}
            // The BYE that ended the call, come again because a former owner's 200 was lost.
            Err(DialogError::OutOfOrder) if self.state.ended.is_some() && request.method == Method::Bye => {}
            Err(error) => return respond(leg, key, &request, error.into()),
        }
        if self.state.ended.is_some() {
            let status = if request.method == Method::Bye { StatusCode::OK } else { StatusCode::CALL_DOES_NOT_EXIST };
            return respond(leg, key, &request, status);
        }
        match request.method {
            Method::Bye => {
                let answer = Effect::Leg(leg, LegCommand::Respond(key, request.response(StatusCode::OK, None)));
                let by = if leg == LegId::CALLER { EndedBy::Caller } else { EndedBy::Callee };
                self.state.leg_mut(leg).gone = true;
                self.end(StatusCode::REQUEST_TERMINATED, by, now, vec![answer])
            }
            Method::Invite => self.reinvite(leg, key, request, flow),
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
    fn reinvite(&mut self, leg: LegId, key: TxKey, request: Request, came_by: Flow) -> Step {
        let other = leg.other();
        let busy = self.state.relays.iter().find(|relay| relay.is_invite());
        if self.state.legs.iter().any(|leg| leg.reinvite.is_some()) {
            // RFC 3261 §14.2: one of ours is open.
            return respond(leg, key, &request, StatusCode::REQUEST_PENDING);
        }
        if self.state.answered.is_none() || self.state.leg(leg).inbound.is_some() {
            // RFC 3261 §14.2: an INVITE of the peer's is still open.
            return respond_with(leg, key, request.response(StatusCode::SERVER_INTERNAL_ERROR, None).with(Name::RetryAfter, "1"));
        }
        if let Some(busy) = busy {
            let status = if busy.from == leg { StatusCode::SERVER_INTERNAL_ERROR } else { StatusCode::REQUEST_PENDING };
            let mut response = request.response(status, None);
            if busy.from == leg {
                response = response.with(Name::RetryAfter, "1");
            }
            return respond_with(leg, key, response);
        }
        let refused = Effect::Leg(leg, LegCommand::Respond(key.clone(), unavailable(&request)));
        let trying = Effect::Leg(leg, LegCommand::Respond(key, trying(&request)));
        // The phone may have moved: this is where it is now.
        self.state.leg_mut(leg).dialog.flow = came_by;
        self.state.leg_mut(leg).dialog.retarget(&request.headers);
        let body = Body::of(&request.headers, &request.body);
        let mut onward = self.dialog_request(other, Method::Invite);
        onward.headers.push_text(Name::Allow, ALLOW);
        set_body(&mut onward, body.as_ref());
        let flow = self.state.leg(other).dialog.flow;
        self.state.relays.push(Relay {
            from: leg,
            came_by,
            request: without_body(request),
            onward: onward.clone(),
            answer: None,
            late_offer: body.is_none(),
        });
        self.put(vec![trying, Effect::Leg(other, LegCommand::Send(onward, flow))]).or_else(vec![refused])
    }

    /// A request that changes nothing here goes through; losing one in a takeover is losing a packet.
    fn relay(&mut self, leg: LegId, key: TxKey, request: Request, came_by: Flow) -> Step {
        let other = leg.other();
        if self.state.leg(other).dialog.remote_tag.is_none() {
            return respond(leg, key, &request, StatusCode::TEMPORARILY_UNAVAILABLE);
        }
        let mut onward = self.dialog_request(other, request.method.clone());
        for (name, value) in request.headers.iter() {
            if matches!(name, Name::Other(_) | Name::ContentType | Name::ContentDisposition) {
                onward.headers.push(name.clone(), value.clone());
            }
        }
        onward.body = request.body.clone();
        let flow = self.state.leg(other).dialog.flow;
        let relay =
            Relay { from: leg, came_by, request: without_body(request), onward: onward.clone(), answer: None, late_offer: false };
        self.state.relays.push(relay);
        let send = vec![Effect::Leg(other, LegCommand::Send(onward, flow))];
        let spent = self.state.leg(other).dialog.local_cseq > self.reserved[usize::from(other.0)];
        if spent { self.put(send) } else { Step::free(send) }
    }

    fn cancelled(&mut self, leg: LegId, invite: TxKey, cancel: TxKey, now: Timestamp) -> Step {
        let waiting = self.state.leg(leg).inbound.as_ref().filter(|inbound| inbound.key == invite && inbound.is_pending());
        if let Some(inbound) = waiting {
            let answer = cancel_response(&inbound.request, &self.state.leg(leg).dialog.local_tag);
            let answer = Effect::Leg(leg, LegCommand::Respond(cancel, answer));
            return self.end(StatusCode::REQUEST_TERMINATED, EndedBy::Caller, now, vec![answer]);
        }
        let Some(relay) = self.state.relays.iter().find(|relay| relay.from == leg && TxKey::of(&relay.request) == invite) else {
            // Too late: the final answer is on its way. The CANCEL is answered all the same (RFC 3261 §9.2).
            let crossed = self.state.leg(leg).inbound.as_ref().filter(|inbound| inbound.key == invite);
            let answer = crossed.map(|inbound| cancel_response(&inbound.request, &self.state.leg(leg).dialog.local_tag));
            return Step::free(answer.map(|answer| Effect::Leg(leg, LegCommand::Respond(cancel, answer))).into_iter().collect());
        };
        let answer = cancel_response(&relay.request, &self.state.leg(leg).dialog.local_tag);
        Step::free(vec![Effect::Leg(leg, LegCommand::Respond(cancel, answer)), Effect::Leg(leg.other(), LegCommand::Cancel)])
    }

    fn acked(&mut self, leg: LegId, ack: &Request) -> Step {
        if self.state.ended.is_some() {
            return Step::default();
        }
        let number = ack.headers.cseq().map_or(0, |cseq| cseq.number);
        let body = Body::of(&ack.headers, &ack.body);
        let other = leg.other();
        let answered = |inbound: &InviteIn| matches!(inbound.stage, StageIn::Answered(_));
        if self.state.leg(leg).inbound.as_ref().is_some_and(answered) {
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
        let then = if relay.late_offer { vec![self.acknowledge(other, &relay.onward, body)] } else { Vec::new() };
        self.put(then)
    }

    // --- what phones answer ---

    fn response(&mut self, leg: LegId, response: Response, now: Timestamp) -> Step {
        let Ok(cseq) = response.headers.cseq() else { return Step::default() };
        let number = |request: &Request| request.headers.cseq().ok() == Some(cseq.clone());
        if self.state.leg(leg).out.as_ref().is_some_and(|out| number(&out.request)) {
            return self.first_response(leg, response, now);
        }
        if self.state.ended.is_none() && self.state.leg(leg).reinvite.as_ref().is_some_and(number) {
            return self.anchored(leg, &response, now);
        }
        if let Some(at) = self.state.relays.iter().position(|relay| relay.from == leg.other() && number(&relay.onward)) {
            return self.relayed_response(leg, at, response, now);
        }
        if self.state.leg(leg).bye.as_ref().is_some_and(number) {
            if !response.status.is_final() {
                return Step::default();
            }
            self.state.leg_mut(leg).bye = None;
            return self.settle();
        }
        // A 2xx that a former owner acknowledged, and whose ACK was lost (RFC 3261 §13.2.2.4).
        if cseq.method == Method::Invite && response.status.class() == Class::Success {
            return Step::free(vec![self.acknowledge_number(leg, cseq.number, None)]);
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
        if self.state.ended.is_some() {
            return self.response_after_end(leg, &response);
        }
        match response.status.class() {
            Class::Provisional => self.progress(leg, &response, body),
            Class::Success => self.answer(leg, &response, body, now),
            Class::Redirect | Class::Failure => {
                if let Some(out) = &mut self.state.leg_mut(leg).out {
                    out.stage = StageOut::Refused;
                }
                let acknowledge = Effect::Leg(leg, LegCommand::Acknowledge);
                self.end(caller_status(response.status), EndedBy::Callee, now, vec![acknowledge])
            }
        }
    }

    fn progress(&mut self, leg: LegId, response: &Response, body: Option<Body>) -> Step {
        let caller = leg.other();
        self.state.leg_mut(leg).dialog.on_invite_response(response);
        if let Some(out) = &mut self.state.leg_mut(leg).out {
            out.stage = StageOut::Proceeding;
        }
        // A 199 or an unknown one says no more than 183 does.
        let status = if response.status.code() < 180 || response.status.code() == 199 {
            StatusCode::SESSION_PROGRESS
        } else {
            response.status
        };
        let Some(inbound) = &mut self.state.leg_mut(caller).inbound else { return Step::default() };
        let stage = StageIn::Progress(status, body);
        if !inbound.is_pending() || inbound.stage == stage {
            return Step::default();
        }
        inbound.stage = stage;
        let respond = self.inbound_response(caller);
        self.put(respond.into_iter().collect())
    }

    fn answer(&mut self, leg: LegId, response: &Response, body: Option<Body>, now: Timestamp) -> Step {
        if self.state.answered.is_some() {
            // Repeated while the caller's ACK is awaited, which ours waits for.
            return Step::default();
        }
        let caller = leg.other();
        self.state.leg_mut(leg).dialog.on_invite_response(response);
        self.state.answered = Some(now);
        let mut then = Vec::new();
        // With a late offer the caller's ACK holds the answer, and ours waits for it.
        let late_offer = self.state.leg(leg).out.as_ref().is_some_and(|out| out.late_offer);
        if late_offer {
            if let Some(out) = &mut self.state.leg_mut(leg).out {
                out.stage = StageOut::AckWaits;
            }
        } else if let Some(out) = self.state.leg_mut(leg).out.take() {
            then.push(self.acknowledge(leg, &out.request, None));
        }
        if let Some(inbound) = &mut self.state.leg_mut(caller).inbound {
            inbound.stage = StageIn::Answered(body);
        }
        then.extend(self.inbound_response(caller));
        self.put(then)
    }

    /// The call was over before the callee knew: a 2xx is acknowledged and hung up (RFC 3261 §9.1).
    fn response_after_end(&mut self, leg: LegId, response: &Response) -> Step {
        if !response.status.is_final() {
            return Step::default();
        }
        if response.status.class() != Class::Success {
            return Step::free(vec![Effect::Leg(leg, LegCommand::Acknowledge)]);
        }
        let Some(out) = self.state.leg_mut(leg).out.take() else { return Step::default() };
        self.state.leg_mut(leg).dialog.on_invite_response(response);
        let ack = self.acknowledge(leg, &out.request, None);
        let bye = self.bye(leg);
        self.put(vec![ack, bye])
    }

    fn relayed_response(&mut self, leg: LegId, at: usize, response: Response, now: Timestamp) -> Step {
        if !response.status.is_final() {
            return Step::default();
        }
        let (asker, is_invite) = (self.state.relays[at].from, self.state.relays[at].is_invite());
        if is_invite && self.state.relays[at].answer.is_some() {
            return Step::default();
        }
        let key = TxKey::of(&self.state.relays[at].request);
        if is_invite && response.status.class() == Class::Success {
            let dialog = &mut self.state.leg_mut(leg).dialog;
            dialog.retarget(&response.headers);
            self.state.relays[at].answer = Some(Body::of(&response.headers, &response.body));
            let relay = self.state.relays[at].clone();
            let mut then = Vec::new();
            if !relay.late_offer {
                then.push(self.acknowledge(leg, &relay.onward, None));
            }
            then.push(self.relay_answer(&relay));
            return self.put(then);
        }
        let relay = self.state.relays.remove(at);
        let mut answer = relay.request.response(response.status, None);
        answer.headers.copy(&response.headers, &Name::RetryAfter);
        if let Some(body) = Body::of(&response.headers, &response.body) {
            answer = answer.with_body(&body.content_type, body.bytes);
        }
        let mut effects = vec![Effect::Leg(asker, LegCommand::Respond(key, answer))];
        if is_invite {
            effects.push(Effect::Leg(leg, LegCommand::Acknowledge));
        }
        // RFC 3261 §12.2.1.2: the peer doesn't know the dialog any more.
        let dialog_gone = [StatusCode::CALL_DOES_NOT_EXIST, StatusCode::REQUEST_TIMEOUT].contains(&response.status);
        if dialog_gone {
            self.state.leg_mut(leg).gone = true;
            return self.end(StatusCode::CALL_DOES_NOT_EXIST, EndedBy::System, now, effects);
        }
        if is_invite { self.put(effects) } else { Step::free(effects) }
    }

    fn no_response(&mut self, leg: LegId, request: &Request, now: Timestamp) -> Step {
        let same = |own: &Request| own.headers.get(&Name::Via) == request.headers.get(&Name::Via);
        if self.state.leg(leg).bye.as_ref().is_some_and(same) {
            self.state.leg_mut(leg).bye = None;
            return self.settle();
        }
        if self.state.ended.is_some() {
            self.state.leg_mut(leg).out = None;
            return self.settle();
        }
        if self.state.leg(leg).out.as_ref().is_some_and(|out| same(&out.request)) {
            self.state.leg_mut(leg).out = None;
            return self.end(StatusCode::REQUEST_TIMEOUT, EndedBy::System, now, Vec::new());
        }
        if self.state.leg(leg).reinvite.as_ref().is_some_and(same) {
            // RFC 3261 §12.2.1.2: a peer that answers nothing has left the dialog.
            self.state.leg_mut(leg).reinvite = None;
            return self.end(StatusCode::REQUEST_TIMEOUT, EndedBy::System, now, Vec::new());
        }
        let Some(at) = self.state.relays.iter().position(|relay| same(&relay.onward)) else { return Step::default() };
        let relay = self.state.relays.remove(at);
        let answer = relay.request.response(StatusCode::REQUEST_TIMEOUT, None);
        let effect = Effect::Leg(relay.from, LegCommand::Respond(TxKey::of(&relay.request), answer));
        if relay.is_invite() {
            // RFC 3261 §12.2.1.2: a peer that answers nothing has left the dialog.
            return self.end(StatusCode::REQUEST_TIMEOUT, EndedBy::System, now, vec![effect]);
        }
        Step::free(vec![effect])
    }

    // --- the end ---

    /// Ends the call once: CDR and state are one entry; then everybody who is still on it is told.
    fn end(&mut self, status: StatusCode, by: EndedBy, now: Timestamp, mut then: Vec<Effect>) -> Step {
        if self.state.ended.is_some() {
            return Step::free(then);
        }
        self.state.ended = Some(Ending { at: now, status, by });
        // Whoever waits for an answer to something that no longer matters gets it.
        for relay in std::mem::take(&mut self.state.relays) {
            if relay.answer.is_none() && !self.state.leg(relay.from).gone {
                let answer = relay.request.response(StatusCode::REQUEST_TERMINATED, None);
                then.push(Effect::Leg(relay.from, LegCommand::Respond(TxKey::of(&relay.request), answer)));
            }
        }
        for leg in [LegId::CALLER, LegId::CALLEE] {
            then.extend(self.end_leg(leg, status));
        }
        then.push(Effect::CloseMedia);
        let cdr = self.state.cdr();
        Step::promise(Mutation::End(self.record(), Box::new(cdr)), then)
    }

    fn end_leg(&mut self, leg: LegId, status: StatusCode) -> Option<Effect> {
        let this = self.state.leg_mut(leg);
        if let Some(inbound) = &mut this.inbound
            && inbound.is_pending()
        {
            inbound.stage = StageIn::Rejected(status);
            return self.inbound_response(leg);
        }
        if this.out.as_ref().is_some_and(|out| out.stage == StageOut::Refused) {
            return None;
        }
        if let Some(out) = &mut this.out
            && out.stage != StageOut::AckWaits
        {
            out.stage = StageOut::Cancelling;
            return Some(Effect::Leg(leg, LegCommand::Cancel));
        }
        this.inbound = None;
        this.out = None;
        let established = this.dialog.remote_tag.is_some() && self.state.answered.is_some();
        (established && !self.state.leg(leg).gone).then(|| self.bye(leg))
    }

    fn bye(&mut self, leg: LegId) -> Effect {
        let bye = self.dialog_request(leg, Method::Bye);
        let this = self.state.leg_mut(leg);
        this.bye = Some(bye.clone());
        Effect::Leg(leg, LegCommand::Send(bye, this.dialog.flow))
    }

    // --- messages ---

    fn put(&mut self, then: Vec<Effect>) -> Step {
        Step::promise(Mutation::Put(self.record()), then)
    }

    /// The state as it is committed. It says that all numbers of a block are used, so that requests in between
    /// need no commit of their own (RFC 3261 §12.2.1.1 lets CSeq grow by more than one). What is only passed on is left
    /// out: a new owner must not say it twice.
    fn record(&mut self) -> Box<CallState> {
        let mut record = self.state.clone();
        record.relays.retain(Relay::is_invite);
        for (at, leg) in record.legs.iter_mut().enumerate() {
            let used = leg.dialog.local_cseq;
            self.asked[at] = if used > self.reserved[at] { used + CSEQ_BLOCK } else { self.reserved[at] };
            leg.dialog.local_cseq = self.asked[at];
        }
        Box::new(record)
    }

    /// A request in this leg's dialog, with a Via of ours.
    fn dialog_request(&mut self, leg: LegId, method: Method) -> Request {
        let mut request = self.state.leg_mut(leg).dialog.request(method);
        self.stamp(leg, &mut request);
        request
    }

    fn stamp(&mut self, leg: LegId, request: &mut Request) {
        self.branches += 1;
        let branch = self.state.token(leg).branch(self.incarnation, self.branches);
        let flow = self.state.leg(leg).dialog.flow;
        request.headers.push_front(Name::Via, format!("SIP/2.0/{} {};branch={branch};rport", flow.transport, flow.local));
    }

    fn acknowledge(&mut self, leg: LegId, invite: &Request, body: Option<Body>) -> Effect {
        let number = invite.headers.cseq().map_or(1, |cseq| cseq.number);
        self.acknowledge_number(leg, number, body)
    }

    fn acknowledge_number(&mut self, leg: LegId, number: u32, body: Option<Body>) -> Effect {
        let mut ack = self.state.leg(leg).dialog.ack(number);
        self.stamp(leg, &mut ack);
        set_body(&mut ack, body.as_ref());
        Effect::Leg(leg, LegCommand::Send(ack, self.state.leg(leg).dialog.flow))
    }

    /// What the caller's INVITE is answered with at the stage it has reached.
    fn inbound_response(&self, leg: LegId) -> Option<Effect> {
        let this = self.state.leg(leg);
        let inbound = this.inbound.as_ref()?;
        let (status, body) = match &inbound.stage {
            StageIn::Pending => return None,
            StageIn::Progress(status, body) => (*status, body.as_ref()),
            StageIn::Answered(body) => (StatusCode::OK, body.as_ref()),
            StageIn::Rejected(status) => (*status, None),
        };
        let response = dialog_response(&inbound.request, status, &this.dialog, body);
        Some(Effect::Leg(leg, LegCommand::Respond(inbound.key.clone(), response)))
    }

    /// The 200 for a re-INVITE that the other side has accepted.
    fn relay_answer(&self, relay: &Relay) -> Effect {
        let body = relay.answer.clone().flatten();
        let dialog = &self.state.leg(relay.from).dialog;
        let response = dialog_response(&relay.request, StatusCode::OK, dialog, body.as_ref());
        Effect::Leg(relay.from, LegCommand::Respond(TxKey::of(&relay.request), response))
    }
}

impl LegId {
    /// The other one of a two-leg call.
    #[must_use]
    pub fn other(self) -> Self {
        if self == Self::CALLER { Self::CALLEE } else { Self::CALLER }
    }
}

/// `sip:<token>@<our address>`: a request that is sent there finds its way by itself. What isn't UDP is named (RFC 3261 §19.1.1).
fn contact(token: &Token, flow: &Flow) -> Text {
    let transport = match flow.transport {
        Transport::Udp => "",
        Transport::Tcp => ";transport=tcp",
        Transport::Tls => ";transport=tls",
        Transport::Ws | Transport::Wss => ";transport=ws",
    };
    Text::from(format!("sip:{token}@{}{transport}", flow.local))
}

/// A response that makes or keeps a dialog (RFC 3261 §12.1.1).
fn dialog_response(request: &Request, status: StatusCode, dialog: &Dialog, body: Option<&Body>) -> Response {
    let mut response = request.response(status, Some(&dialog.local_tag));
    if status.class() == Class::Provisional || status.class() == Class::Success {
        response.headers.copy(&request.headers, &Name::RecordRoute);
        response.headers.push_text(Name::Contact, format!("<{}>", dialog.contact));
        response.headers.push_text(Name::Allow, ALLOW);
    }
    match body {
        Some(body) => response.with_body(&body.content_type, body.bytes.clone()),
        None => response,
    }
}

/// The 200 for a CANCEL; it has the INVITE's Via, so the INVITE is enough to build it (RFC 3261 §9.1).
fn cancel_response(invite: &Request, to_tag: &str) -> Response {
    let mut response = invite.response(StatusCode::OK, Some(to_tag));
    let number = invite.headers.cseq().map_or(1, |cseq| cseq.number);
    response.headers.set(Name::CSeq, format!("{number} CANCEL"));
    response
}

/// The 100 leaves after the commit too: it stops the retransmissions that would bring a lost INVITE back.
fn trying(request: &Request) -> Response {
    request.response(StatusCode::TRYING, None)
}

/// 503 with the time to try again (RFC 3261 §21.5.4).
fn unavailable(request: &Request) -> Response {
    crate::sip::endpoint::stateless(request, StatusCode::SERVICE_UNAVAILABLE).with(Name::RetryAfter, "5")
}

fn respond(leg: LegId, key: TxKey, request: &Request, status: StatusCode) -> Step {
    respond_with(leg, key, request.response(status, None))
}

fn respond_with(leg: LegId, key: TxKey, response: Response) -> Step {
    Step::free(vec![Effect::Leg(leg, LegCommand::Respond(key, response))])
}

/// What the caller hears of the callee's refusal: redirects and challenges are between us and the callee.
fn caller_status(status: StatusCode) -> StatusCode {
    match status.code() {
        300..=399 => StatusCode::TEMPORARILY_UNAVAILABLE,
        401 | 407 => StatusCode::SERVER_INTERNAL_ERROR,
        _ => status,
    }
}

fn set_body(request: &mut Request, body: Option<&Body>) {
    if let Some(body) = body {
        request.headers.set(Name::ContentType, &body.content_type);
        request.body = body.bytes.clone();
    }
}

fn without_body(mut request: Request) -> Request {
    request.body = Bytes::new();
    request.headers.remove(&Name::ContentType);
    request
}

#[cfg(test)]
mod tests;

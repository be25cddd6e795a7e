//! A call between two legs: a back-to-back user agent (RFC 7092's "signalling/media-plane" kind). Layer: pure.
//!
//! ```text
//!  invite ─▶ Inviting ──18x──▶ Ringing ──2xx──▶ Answered ──BYE──▶ Ended ──settled──▶ forgotten
//!               └─────┬──────────┴─ failure, CANCEL, no answer ─────▶ ▲
//! ```
//!
//! Until somebody answers there are as many legs beside the caller's as phones are called (`fork`); then those two talk.
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
mod answers;
mod ending;
mod fork;
mod rebind;
mod referral;
mod reliable;
mod replacing;
mod requests;
mod resume;
mod seen;
mod state;
mod timer;

use std::time::Duration;

use bytes::Bytes;

use super::dialog::{Dialog, Flow};
use super::headers::HeaderError;
use super::leg::{LegCommand, LegEvent, TxKey};
use super::message::{Request, Response};
use super::registrar::Phone;
use super::status::Class;
use super::step;
use super::token::Token;
use super::{Method, Name, StatusCode, Text};
use crate::clock::Timestamp;
use crate::ids::{CallId, LegId, VnodeId};
pub use referral::{Referral, Taken};
pub use replacing::Replaced;
pub use state::{
    Acknowledged, Body, CallLeg, CallState, Cdr, EndedBy, Ending, InviteIn, InviteOut, Referred, Relay, Reliable, StageIn,
    StageOut, Target, Updated, deadline,
};
pub use timer::{SessionPolicy, SessionTimer, Speaks};

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
    /// Find out whom these contacts mean ([`CallInput::Located`]): somebody sends the caller on to them.
    Locate(Vec<Text>),
    /// The key that this INFO of a leg's says goes to the other side with its media.
    Press(LegId, Bytes),
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
    /// The same, but an INFO says a key that goes to the other side with its media ([`Effect::Press`]).
    Keyed(LegId, LegEvent),
    /// Somebody who is no phone ends the call: an operator, or tandem itself.
    HangUp {
        /// What a caller who is still waiting gets.
        status: StatusCode,
        /// Who it was, for the CDR.
        by: EndedBy,
    },
    /// The deadline has passed.
    Timeout,
    /// The contacts of [`Effect::Locate`] mean these: as many as could be found.
    Located {
        /// The contacts.
        contacts: Vec<Text>,
        /// Whom they mean.
        targets: Vec<Target>,
    },
    /// A leg's answer to an INVITE, whose description can't be used.
    Unusable(LegId, Box<Response>),
    /// A leg's phone has come back by this flow.
    Rebind(LegId, Flow),
    /// Ask a leg ([`CallState::movable`]) to come to where we are now, with this description; none if there is none to give.
    Anchor(LegId, Option<Body>),
    /// Refresh a leg ([`CallState::refreshable`]), with what it was told last if that is kept.
    Refresh(LegId, Option<Body>),
}

/// Why an INVITE is not taken on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NewCallError {
    /// A header could not be read.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// The session would be refreshed too often (RFC 4028 §9): this is the least interval, in seconds.
    #[error("the session interval is less than {0} s")]
    TooOften(u32),
    /// It may not go to anybody (RFC 5393 §5.3.3).
    #[error("Max-Breadth is 0")]
    NoBreadth,
}

impl NewCallError {
    /// What the caller gets.
    pub fn response(&self, invite: &Request) -> Response {
        match self {
            Self::Header(_) => super::endpoint::stateless(invite, StatusCode::BAD_REQUEST),
            Self::NoBreadth => super::endpoint::stateless(invite, StatusCode::MAX_BREADTH_EXCEEDED),
            Self::TooOften(least) => {
                super::endpoint::stateless(invite, StatusCode::SESSION_INTERVAL_TOO_SMALL).with(Name::MinSe, least.to_string())
            }
        }
    }
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
    /// How long sessions last; none for ever.
    pub session: Option<SessionPolicy>,
    /// Who the caller is, as a registered phone.
    pub phone: Option<Phone>,
    /// Whom to call: the highest q first, and all of the same q at once. One at least.
    pub targets: Vec<Target>,
    /// The body for the callee: the caller's, made over by the media plane.
    pub body: Option<Body>,
    /// Who calls whom, as the CDR says it.
    pub caller: String,
    /// The INVITE is of a peer whose word on who calls is taken.
    pub trusted: bool,
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
pub const ALLOW: &str = "INVITE, ACK, CANCEL, BYE, PRACK, OPTIONS, INFO, MESSAGE, UPDATE, REFER, NOTIFY";

/// The machine.
#[derive(Debug)]
pub struct Call {
    state: CallState,
    committed: CallState,
    incarnation: u32,
    branches: u32,
}

impl Call {
    /// Takes an INVITE on. `incarnation` is random: it keeps this actor's branches apart from its successors'.
    pub fn new(call: NewCall, incarnation: u32, now: Timestamp) -> Result<(Self, Step), NewCallError> {
        if let Some(least) = timer::too_often(&call.invite, call.session) {
            return Err(NewCallError::TooOften(least));
        }
        if fork::breadth_of(&call.invite) == Some(0) {
            return Err(NewCallError::NoBreadth);
        }
        let token = Token { vnode: call.vnode, call: call.id, leg: LegId::CALLER };
        let caller = Dialog::of_server(&call.invite, Text::from(token.to_string()), call.from.contact(&token), call.from)?;
        let state = CallState::new(&call, caller, now);
        let mut this = Self { committed: state.clone(), state, incarnation, branches: 0 };
        let key = TxKey::of(&call.invite);
        let refused = unavailable(&call.invite);
        let mut then = vec![Effect::Leg(LegId::CALLER, LegCommand::Respond(key.clone(), trying(&call.invite)))];
        let onward = fork::Onward::of(&call);
        this.state.shown.clone_from(&onward.from);
        then.extend(this.call_next(&onward, now));
        let step = this.put(then).or_else(vec![
            Effect::Leg(LegId::CALLER, LegCommand::Respond(key, refused)),
            Effect::CloseMedia,
            Effect::Close,
        ]);
        Ok((this, step))
    }

    /// All that survives.
    pub fn state(&self) -> &CallState {
        &self.state
    }

    /// The last step was committed.
    pub fn committed(&mut self) {
        self.state.legs.iter_mut().for_each(|leg| leg.reserved = leg.asked);
        self.committed = self.state.clone();
    }

    /// The last step could not be committed: nothing of it has happened.
    pub fn roll_back(&mut self) {
        let spent = std::mem::replace(&mut self.state, self.committed.clone());
        // Numbers are not given back: some may have left with requests that commit nothing.
        for leg in &mut self.state.legs {
            if let Some(spent) = spent.legs.iter().find(|spent| spent.id == leg.id) {
                leg.dialog.local_cseq = spent.dialog.local_cseq;
            }
            leg.asked = leg.reserved;
        }
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
            CallInput::Leg(leg, event) if self.state.has_leg(leg) => self.leg_event(leg, event, false, now),
            CallInput::Keyed(leg, event) if self.state.has_leg(leg) => self.leg_event(leg, event, true, now),
            CallInput::Leg(leg, event) | CallInput::Keyed(leg, event) => Self::leg_is_over(leg, event),
            CallInput::HangUp { status, by } => self.end(status, by, now, Vec::new()),
            CallInput::Timeout => self.timeout(now),
            CallInput::Located { contacts, targets } => self.located(&contacts, targets, now),
            CallInput::Unusable(leg, response) => self.unusable(leg, &response, now),
            CallInput::Rebind(leg, flow) if self.state.has_leg(leg) => self.rebind(leg, flow),
            CallInput::Rebind(..) => Step::default(),
            CallInput::Anchor(leg, body) if self.state.movable(now) == Some(leg) => self.anchor(leg, body),
            CallInput::Anchor(..) => Step::default(),
            CallInput::Refresh(leg, body) if self.state.refreshable(now) == Some(leg) => self.refresh(leg, body),
            CallInput::Refresh(..) => Step::default(),
        }
    }

    /// A phone that lost the call says something: it is no part of it any more.
    fn leg_is_over(leg: LegId, event: LegEvent) -> Step {
        if let LegEvent::Response(response) = &event
            && response.status.class() > Class::Success
        {
            // Else it would be repeated.
            return Step::free(vec![Effect::Leg(leg, LegCommand::Acknowledge)]);
        }
        let LegEvent::Request(key, request, _) = event else { return Step::default() };
        let status = if request.method == Method::Bye { StatusCode::OK } else { StatusCode::CALL_DOES_NOT_EXIST };
        respond(leg, key, &request, status)
    }

    fn timeout(&mut self, now: Timestamp) -> Step {
        for leg in &mut self.state.legs {
            leg.not_before = leg.not_before.filter(|at| now < *at);
        }
        if let Some((leg, _)) = self.state.silent().filter(|(_, at)| *at <= now) {
            return self.is_silent(leg, now);
        }
        if self.state.next_at().is_some_and(|at| at <= now) {
            return self.give_others_a_turn(now);
        }
        if self.state.referral.as_ref().and_then(Referral::deadline).is_some_and(|at| at <= now) {
            return self.referral_is_late(now);
        }
        if let Some(asks) = self.ask_transferee(now) {
            return self.put(vec![asks]);
        }
        if self.is_overdue(now) {
            // RFC 4028 §10: the phone is gone, or the way to it.
            return self.end(StatusCode::REQUEST_TIMEOUT, EndedBy::System, now, Vec::new());
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

    fn leg_event(&mut self, leg: LegId, event: LegEvent, keyed: bool, now: Timestamp) -> Step {
        match event {
            LegEvent::Request(key, request, flow) => {
                let came_back = self.comes_back(leg, &request, flow);
                let step = match keyed {
                    true => self.keyed(leg, key, &request),
                    false => self.request(leg, key, request, flow, now),
                };
                if came_back { self.and_rebind(leg, flow, step) } else { step }
            }
            LegEvent::Cancelled { invite, cancel } => self.cancelled(leg, invite, cancel, now),
            LegEvent::Acked(ack) => self.acked(leg, &ack),
            LegEvent::Response(response) => self.response(leg, response, now),
            LegEvent::Trying => {
                // Nothing that anybody is told: no commit, and nothing to go back to.
                self.state.leg_mut(leg).tries = true;
                self.committed.legs.iter_mut().filter(|own| own.id == leg).for_each(|own| own.tries = true);
                Step::default()
            }
            LegEvent::NoResponse(request) => self.no_response(leg, &request, now),
            LegEvent::NoAck if self.state.ended.is_none() => {
                self.end(StatusCode::REQUEST_TIMEOUT, EndedBy::System, now, Vec::new())
            }
            // RFC 3262 §3.
            LegEvent::NoPrack if self.state.ended.is_none() && self.is_unheard() => {
                self.end(StatusCode::SERVER_TIME_OUT, EndedBy::System, now, Vec::new())
            }
            LegEvent::NoAck | LegEvent::NoPrack => Step::default(),
        }
    }

    // --- messages ---

    fn put(&mut self, then: Vec<Effect>) -> Step {
        Step::promise(Mutation::Put(self.record()), then)
    }

    /// The state as it is committed. It says that all numbers of a block are used, so that requests in between
    /// need no commit of their own (RFC 3261 §12.2.1.1 lets CSeq grow by more than one). What is only passed on is left
    /// out: a new owner must not say it twice. A REFER it says as it was said: done twice it would make two calls.
    fn record(&mut self) -> Box<CallState> {
        let mut record = self.state.clone();
        record.relays.retain(|relay| relay.is_offer() || relay.request.method == Method::Refer);
        for (leg, kept) in self.state.legs.iter_mut().zip(&mut record.legs) {
            let used = leg.dialog.local_cseq;
            leg.asked = if used > leg.reserved { used + CSEQ_BLOCK } else { leg.reserved };
            kept.dialog.local_cseq = leg.asked;
        }
        Box::new(record)
    }

    /// A request in this leg's dialog, with a Via of ours.
    fn dialog_request(&mut self, leg: LegId, method: Method) -> Request {
        if method == Method::Invite {
            self.state.leg_mut(leg).acknowledged = None;
        }
        let mut request = self.state.leg_mut(leg).dialog.request(method);
        self.stamp(leg, &mut request);
        request
    }

    fn stamp(&mut self, leg: LegId, request: &mut Request) {
        self.branches += 1;
        let branch = self.state.token(leg).branch(self.incarnation, self.branches);
        let flow = self.state.leg(leg).dialog.flow;
        request.headers.push_front(Name::Via, flow.via(&branch));
    }

    fn acknowledge(&mut self, leg: LegId, invite: &Request, body: Option<Body>) -> Effect {
        let number = invite.headers.cseq().map_or(1, |cseq| cseq.number);
        self.state.leg_mut(leg).acknowledged = body.clone().map(|body| Acknowledged { cseq: number, body });
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
        let mut response = dialog_response(&inbound.request, status, &this.dialog, body);
        inbound.number(&mut response);
        if matches!(inbound.stage, StageIn::Answered(_)) {
            self.tell_timer(leg, &mut response);
        }
        Some(Effect::Leg(leg, LegCommand::Respond(inbound.key.clone(), response)))
    }

    /// The 200 for a re-INVITE that the other side has accepted.
    fn relay_answer(&self, relay: &Relay) -> Effect {
        let body = relay.answer.clone().flatten();
        let dialog = &self.state.leg(relay.from).dialog;
        let mut response = dialog_response(&relay.request, StatusCode::OK, dialog, body.as_ref());
        if relay.onward.method == Method::Invite {
            self.tell_timer(relay.from, &mut response);
        }
        Effect::Leg(relay.from, LegCommand::Respond(TxKey::of(&relay.request), response))
    }
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
        // RFC 5626 §5.3: 430 is what proxies say to each other.
        300..=399 | 430 => StatusCode::TEMPORARILY_UNAVAILABLE,
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

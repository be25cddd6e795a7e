//! Whom a call rings: all contacts of the highest q at once, then those of the next (RFC 3261 §16.5 to §16.7, with the caller's part
//! played by us). Layer: pure.
//!
//! ```text
//!  called ──2xx──▶ it is the callee; the others are cancelled
//!    ├── 3xx ─────▶ where it sends the caller is found out, and called
//!    ├── failure ─▶ when all have failed, or rung for too long: the next, or the end with the best of the failures
//!    └── 6xx ─────▶ the end
//! ```

use std::time::Duration;

use super::referral::Referral;
use super::reliable::{is_reliable, supported, wants_reliable};
use super::timer::{MOST, least_of};
use super::{
    ALLOW, Body, Call, CallLeg, CallState, Effect, EndedBy, InviteOut, NewCall, StageOut, Step, Target, caller_status, set_body,
};
use crate::clock::Timestamp;
use crate::ids::{Aor, LegId};
use crate::sip::dialog::{Dialog, Flow};
use crate::sip::encode::encode_request;
use crate::sip::headers::{NameAddr, SessionExpires};
use crate::sip::identity::Identity;
use crate::sip::leg::{LegCommand, TxKey};
use crate::sip::locate::SILENT;
use crate::sip::message::{Request, Response};
use crate::sip::registrar::{Phone, thousandths};
use crate::sip::status::Class;
use crate::sip::uri::Uri;
use crate::sip::{Method, Name, StatusCode, Text};

/// So many are called at most, one after the other and at once: what a call may cost (RFC 5393 §5 is about this).
pub(super) const MAX_TARGETS: usize = 24;
/// Of a caller who doesn't say otherwise (RFC 5393 §5.3.3.1).
const BREADTH: u32 = 60;
/// A call is sent on so often at most.
const MAX_REDIRECTS: usize = 5;
/// The longest request that is sent as a datagram, unless there is no other way (RFC 3261 §18.1.1).
const LONGEST_DATAGRAM: usize = 1300;
/// How long those who are called may ring while others wait for their turn.
pub(super) const TURN: Duration = Duration::from_secs(20);

/// What has become of a phone that is called by another of its flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum OtherFlow {
    /// There is none, or it leads nowhere.
    None,
    /// It rings, or is being cancelled.
    Open,
    /// The phone has said no: it isn't asked again.
    Refused,
}

/// RFC 5626 §4.1: the instance is the phone.
fn is_same_phone(one: Option<&Phone>, other: Option<&Phone>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => one.instance.is_some() && one == other,
        (Some(_) | None, _) => false,
    }
}

impl CallState {
    /// Those who have the next turn: of the highest q, and of each phone one flow (RFC 5626 §7).
    pub(super) fn take_next(&mut self) -> Vec<Target> {
        let mut next: Vec<Target> = Vec::new();
        let mut over = false;
        for target in std::mem::take(&mut self.waiting) {
            let phone = target.phone.as_ref();
            let rings = next.iter().any(|other| is_same_phone(other.phone.as_ref(), phone));
            over |= next.first().is_some_and(|first| first.q != target.q);
            match self.other_flow(phone) {
                OtherFlow::Refused => {}
                OtherFlow::None if !over && !rings => next.push(target),
                OtherFlow::None | OtherFlow::Open => self.waiting.push(target),
            }
        }
        next
    }

    /// What has become of a phone by another of its flows (RFC 5626 §7).
    fn other_flow(&self, phone: Option<&Phone>) -> OtherFlow {
        let flows = self.branches().filter(|leg| is_same_phone(leg.phone.as_ref(), phone));
        let of = |leg: &CallLeg| match leg.refused {
            None => OtherFlow::Open,
            Some(StatusCode::REQUEST_TIMEOUT | StatusCode::FLOW_FAILED) => OtherFlow::None,
            // RFC 3263 §4.3: the next server may take it.
            Some(StatusCode::SERVICE_UNAVAILABLE) if leg.phone.as_ref().is_some_and(Phone::is_elsewhere) => OtherFlow::None,
            Some(_) => OtherFlow::Refused,
        };
        flows.map(of).max().unwrap_or(OtherFlow::None)
    }

    /// Whether all that are called, or wait to be, are one: another's description can't come after theirs.
    pub(super) fn is_sole(&self) -> bool {
        let waiting = self.waiting.iter().map(|target| target.phone.as_ref());
        let mut all = self.branches().map(|leg| leg.phone.as_ref()).chain(waiting);
        let first = all.next();
        first.is_none_or(|first| all.all(|other| is_same_phone(first, other)))
    }

    /// Whether somebody is called who may take the call, or take it over.
    fn is_open(&self) -> bool {
        self.ended.is_none() && self.referral.as_ref().map_or(self.answered.is_none(), Referral::is_open)
    }

    /// When those who wait have their turn although others ring.
    pub fn next_at(&self) -> Option<Timestamp> {
        let has_turn = |target: &Target| self.other_flow(target.phone.as_ref()) == OtherFlow::None;
        let begins = self.is_ringing() && self.is_open();
        let waits = begins && self.waiting.iter().any(has_turn);
        waits.then(|| self.called + TURN)
    }

    /// Who has said nothing at all, not even 100, when there is another way to try, and since when it is too late.
    pub(super) fn silent(&self) -> Option<(LegId, Timestamp)> {
        let calls = |leg: &CallLeg| {
            leg.refused.is_none() && !leg.tries && leg.out.as_ref().is_some_and(|out| out.stage == StageOut::Calling)
        };
        let datagram = |leg: &CallLeg| leg.out.as_ref().is_some_and(|out| out.datagram.is_some());
        let waits = |leg: &CallLeg| self.waiting.iter().any(|target| is_same_phone(target.phone.as_ref(), leg.phone.as_ref()));
        let server = |leg: &CallLeg| leg.phone.as_ref().is_some_and(Phone::is_elsewhere);
        let open = self.is_open();
        let silent = self.branches().find(|leg| open && calls(leg) && (server(leg) && waits(leg) || datagram(leg)))?;
        Some((silent.id, self.called + SILENT))
    }

    /// What the caller is told of those who all refused (RFC 3261 §16.7 step 6): what says most.
    pub(super) fn best_refusal(&self) -> StatusCode {
        let rank = |status: &StatusCode| match status.code() {
            600.. => 0,
            415 | 420 | 484 | 488 => 1,
            486 => 2,
            // We have cancelled it ourselves.
            487 => 8,
            480 => 4,
            408 => 6,
            400..=499 => 3,
            500..=599 => 7,
            _ => 5,
        };
        let best = self.branches().filter_map(|leg| leg.refused).min_by_key(rank);
        best.filter(|status| *status != StatusCode::REQUEST_TERMINATED).map_or(StatusCode::TEMPORARILY_UNAVAILABLE, caller_status)
    }
}

/// What every phone that is called gets.
pub(super) struct Onward {
    headers: Vec<(Name, bytes::Bytes)>,
    /// Who can't replace the dialog that is to be replaced doesn't get the call (RFC 3891 §6.1).
    must_replace: bool,
    body: Option<Body>,
    /// What it says as From.
    pub(super) from: Option<Text>,
}

impl Onward {
    #[allow(clippy::wildcard_enum_match_arm, reason = "the others are ours to set")]
    pub(super) fn of(call: &NewCall) -> Self {
        // RFC 3261 §16.6 step 3: a B2BUA that doesn't count lets two of them play tennis for ever.
        let hops = call.invite.headers.max_forwards().unwrap_or(70).saturating_sub(1);
        let mut headers = vec![(Name::MaxForwards, bytes::Bytes::from(hops.to_string()))];
        let Identity { from, asserted } = Identity::of(&call.invite, &call.caller, call.trusted);
        let private = asserted.is_none();
        headers.extend(asserted.map(|asserted| (Name::PAssertedIdentity, asserted.into_bytes())));
        for (name, value) in call.invite.headers.iter() {
            let passes = match name {
                Name::Priority | Name::AlertInfo | Name::Privacy => true,
                // RFC 3323 §4.1: they may tell who it is.
                Name::Subject | Name::CallInfo => !private,
                // Who calls is what From says, which was checked; a caller's other claims are not.
                Name::Other(other) => !private && !other.eq_ignore_ascii_case("Remote-Party-ID"),
                Name::Diversion | Name::HistoryInfo => call.trusted,
                _ => false,
            };
            if passes {
                headers.push((name.clone(), value.clone()));
            }
        }
        let must_replace = call.invite.headers.list(&Name::Require).any(|tag| tag.eq_ignore_ascii_case("replaces"));
        let referred = call.invite.headers.all(&Name::ReferredBy).filter(|_| call.trusted && !private);
        headers.extend(referred.map(|value| (Name::ReferredBy, value.clone())));
        headers.push((Name::Allow, bytes::Bytes::from_static(ALLOW.as_bytes())));
        Self { headers, must_replace, body: call.body.clone(), from }
    }

    /// What those get who are called for a transfer: who it is that calls, and by whose wish (RFC 3892 §2). They are to offer.
    pub(super) fn of_referral(transferee: Option<Aor>, by: Option<Aor>, must_replace: bool) -> Self {
        let mut headers = vec![(Name::MaxForwards, bytes::Bytes::from_static(b"70"))];
        let say = |aor: Aor| bytes::Bytes::from(format!("<sip:{aor}>"));
        headers.extend(transferee.map(|aor| (Name::PAssertedIdentity, say(aor))));
        headers.extend(by.map(|aor| (Name::ReferredBy, say(aor))));
        headers.push((Name::Allow, bytes::Bytes::from_static(ALLOW.as_bytes())));
        Self { headers, must_replace, body: None, from: None }
    }

    /// What those got who were called before, but for what we have said of who sent them on.
    #[allow(clippy::wildcard_enum_match_arm, reason = "the others are as they are")]
    fn again(sent: &Request, diverted: &[String]) -> Self {
        let of_the_leg = [
            Name::Via,
            Name::Route,
            Name::From,
            Name::To,
            Name::CallId,
            Name::CSeq,
            Name::Contact,
            Name::MaxBreadth,
            Name::Replaces,
            Name::Require,
        ];
        let of_the_body_and_timer = [Name::ContentType, Name::Supported, Name::SessionExpires, Name::MinSe];
        let own = |name: &Name| of_the_leg.contains(name) || of_the_body_and_timer.contains(name);
        let ours = |name: &Name, value: &bytes::Bytes| match name {
            Name::Diversion => diverted.iter().any(|aor| diversion(aor).as_bytes() == value),
            Name::HistoryInfo => diverted.first().is_some_and(|aor| value.starts_with(first_of_history(aor).as_bytes())),
            _ => own(name),
        };
        let headers = sent.headers.iter().filter(|(name, value)| !ours(name, value));
        let headers = headers.map(|(name, value)| (name.clone(), value.clone()));
        let body = Body::of(&sent.headers, &sent.body);
        Self { headers: headers.collect(), must_replace: false, body, from: None }
    }
}

/// How many an INVITE may become (RFC 5393 §5.3.3); one that can't be read says nothing.
pub(super) fn breadth_of(invite: &Request) -> Option<u32> {
    invite.headers.number(&Name::MaxBreadth, "Max-Breadth").ok().flatten()
}

/// What a phone is told of each who has sent the caller on, the last first (RFC 5806 §6).
fn diversion(aor: &str) -> String {
    format!("<sip:{aor}>;reason=deflection;counter=1")
}

/// And where it has been told so (RFC 7044 §9).
fn first_of_history(aor: &str) -> String {
    format!("<sip:{aor}?Reason=SIP%3Bcause%3D302>;index=1")
}

/// Tells a phone that its user was not who was called first.
fn say_diverted(invite: &mut Request, diverted: &[String], last: &str) {
    let former: Vec<_> = invite.headers.all(&Name::Diversion).cloned().collect();
    invite.headers.remove(&Name::Diversion);
    for aor in diverted.iter().rev() {
        invite.headers.push_text(Name::Diversion, diversion(aor));
    }
    for value in former {
        invite.headers.push(Name::Diversion, value);
    }
    // A peer's own history goes on with numbers that are its own.
    if let ([first, others @ ..], None) = (diverted, invite.headers.get(&Name::HistoryInfo)) {
        let (mut history, mut index) = (first_of_history(first), String::from("1"));
        for (aor, more) in others.iter().map(|aor| (aor.as_str(), "?Reason=SIP%3Bcause%3D302")).chain([(last, "")]) {
            history.push_str(&format!(", <sip:{aor}{more}>;index={index}.1;mp={index}"));
            index.push_str(".1");
        }
        invite.headers.push_text(Name::HistoryInfo, history);
    }
}

impl Call {
    /// Calls those who are next; nobody if nobody waits.
    pub(super) fn call_next(&mut self, onward: &Onward, now: Timestamp) -> Vec<Effect> {
        let sole = self.state.is_sole();
        let mut next = self.state.take_next();
        if !next.is_empty() {
            self.state.called = now;
        }
        // RFC 5393 §5.3.3: what the call may become is shared out among those who ring, and those who may not be called at once are called
        // one after another.
        let held = self.state.branches().filter(|leg| leg.is_ringing()).filter_map(|leg| breadth_of(&leg.out.as_ref()?.request));
        let breadth = self.state.breadth.unwrap_or(BREADTH).saturating_sub(held.sum()).max(1);
        let more = next.split_off(next.len().min(usize::try_from(breadth).unwrap_or(usize::MAX)));
        self.state.waiting.splice(0..0, more);
        let each = u32::try_from(next.len()).map_or(1, |all| breadth / all.max(1));
        let each = Some(each).filter(|_| self.state.breadth.is_some() || next.len() > 1);
        next.into_iter().map(|target| self.call_one(target, onward, each, sole)).collect()
    }

    fn call_one(&mut self, target: Target, onward: &Onward, breadth: Option<u32>, sole: bool) -> Effect {
        let leg = self.state.next_leg();
        let token = self.state.token(leg);
        let caller = &self.state.leg(self.state.first).dialog;
        let (from, to) = match (&self.state.referral, self.state.transferee()) {
            (Some(referral), Some(transferee)) => {
                // Who is meant by a Contact of ours has a better name.
                let aor = target.phone.as_ref().map(|phone| Text::from(format!("<sip:{}>", phone.aor)));
                (self.state.shown_as(transferee), aor.unwrap_or_else(|| referral.to.clone()))
            }
            (Some(_) | None, _) => (self.state.shown_as(self.state.first), caller.local.clone()),
        };
        let dialog = Dialog::of_client(
            Text::from(format!("{}.{}", self.state.id, leg.0)),
            from,
            Text::from(token.to_string()),
            to,
            target.contact.clone(),
            target.flow.contact(&token),
            target.flow,
        );
        self.state.add_leg(leg, dialog, target.phone.clone());
        let mut invite = self.invite_for(leg, &target, onward, (breadth, sole));
        let mut datagram = None;
        if let Some(long) = target.long.filter(|_| encode_request(&invite).len() > LONGEST_DATAGRAM) {
            datagram = Some(target.flow);
            self.go_by(leg, long);
            invite = self.invite_for(leg, &target, onward, (breadth, sole));
        }
        self.send_invite(leg, invite, onward.body.is_none(), datagram)
    }

    /// A leg that has said nothing yet goes another way.
    fn go_by(&mut self, leg: LegId, flow: Flow) {
        let token = self.state.token(leg);
        let dialog = &mut self.state.leg_mut(leg).dialog;
        (dialog.flow, dialog.contact) = (flow, flow.contact(&token));
    }

    fn invite_for(&mut self, leg: LegId, target: &Target, onward: &Onward, (breadth, sole): (Option<u32>, bool)) -> Request {
        let mut invite = self.first_invite(leg, &target.path, onward, sole);
        if let Some(replaces) = &target.replaces {
            invite.headers.push_text(Name::Replaces, replaces.to_string());
            if onward.must_replace {
                invite.headers.push_text(Name::Require, "replaces");
            }
        }
        if let Some(breadth) = breadth {
            invite.headers.push_text(Name::MaxBreadth, breadth.to_string());
        }
        let last = self.state.leg(leg).phone.as_ref().map(|phone| phone.aor.to_string());
        if let Some(last) = last.filter(|aor| *aor != self.state.callee && self.state.referral.is_none()) {
            say_diverted(&mut invite, &self.state.diverted, &last);
        }
        invite
    }

    fn send_invite(&mut self, leg: LegId, invite: Request, late_offer: bool, datagram: Option<Flow>) -> Effect {
        let this = self.state.leg_mut(leg);
        this.out = Some(InviteOut { request: invite.clone(), stage: StageOut::Calling, late_offer, datagram });
        Effect::Leg(leg, LegCommand::Send(invite, this.dialog.flow))
    }

    /// A phone doesn't ring but reliably (RFC 3262 §3): it is called once more.
    fn asked_unreliably(&mut self, leg: LegId, response: &Response) -> Option<Effect> {
        let out = self.state.leg(leg).out.clone()?;
        let rings = matches!(out.stage, StageOut::Calling | StageOut::Proceeding);
        if !rings || out.late_offer || is_reliable(&out.request) || !wants_reliable(&response.headers) {
            return None;
        }
        let invite = self.same_invite(leg, &out.request, true);
        Some(self.send_invite(leg, invite, out.late_offer, out.datagram))
    }

    /// There is no connection for what is too long for a datagram (RFC 3261 §18.1.1), or nobody speaks SIP on it: it goes as one all the
    /// same.
    fn as_datagram(&mut self, leg: LegId) -> Option<Effect> {
        let out = self.state.leg(leg).out.clone().filter(|out| out.stage == StageOut::Calling)?;
        let flow = out.datagram?;
        self.go_by(leg, flow);
        let invite = self.same_invite(leg, &out.request, is_reliable(&out.request));
        Some(self.send_invite(leg, invite, out.late_offer, None))
    }

    /// A leg's INVITE once more, as another transaction.
    fn same_invite(&mut self, leg: LegId, sent: &Request, reliably: bool) -> Request {
        let route: Vec<Text> = sent.headers.list(&Name::Route).collect();
        let mut invite = self.first_invite(leg, &route, &Onward::again(sent, &[]), reliably);
        invite.headers.copy(&sent.headers, &Name::MaxBreadth);
        invite.headers.copy(&sent.headers, &Name::Replaces);
        invite.headers.copy(&sent.headers, &Name::Require);
        invite
    }

    fn first_invite(&mut self, leg: LegId, path: &[Text], onward: &Onward, sole: bool) -> Request {
        let mut invite = self.dialog_request(leg, Method::Invite);
        for route in path {
            invite.headers.push_text(Name::Route, route);
        }
        for (name, value) in &onward.headers {
            if *name == Name::MaxForwards {
                invite.headers.replace_first(&Name::MaxForwards, value.clone());
            } else {
                invite.headers.push(name.clone(), value.clone());
            }
        }
        invite.headers.push_text(Name::Supported, supported(onward.body.as_ref(), sole));
        self.ask_for_timer(leg, &mut invite);
        set_body(&mut invite, onward.body.as_ref());
        invite
    }

    /// A phone doesn't take the call.
    #[allow(clippy::wildcard_enum_match_arm, reason = "every other status is treated alike")]
    pub(super) fn refused(&mut self, leg: LegId, response: &Response, now: Timestamp) -> Step {
        let acknowledge = Effect::Leg(leg, LegCommand::Acknowledge);
        let again = match response.status {
            StatusCode::SESSION_INTERVAL_TOO_SMALL => self.asked_too_often(leg, response),
            StatusCode::EXTENSION_REQUIRED => self.asked_unreliably(leg, response),
            StatusCode::FLOW_FAILED => self.as_datagram(leg),
            _ => None,
        };
        if let Some(again) = again {
            return self.put(vec![acknowledge, again]);
        }
        let this = self.state.leg_mut(leg);
        if this.refused.is_some() {
            // Said again, or given up: what follows from it has followed.
            return Step::free(vec![acknowledge]);
        }
        this.refused = Some(response.status);
        if let Some(out) = &mut this.out {
            out.stage = StageOut::Refused;
        }
        // RFC 3261 §21.6: nobody else of theirs would say anything else.
        if response.status.code() >= 600 {
            if self.is_referred_to(leg) {
                return self.referral_fails(response.status, vec![acknowledge], now);
            }
            return self.end(response.status, EndedBy::Callee, now, vec![acknowledge]);
        }
        let mut then = vec![acknowledge];
        then.extend(self.drop_relays(leg));
        if response.status.class() == Class::Redirect {
            then.extend(self.sent_on(leg, response));
        }
        self.one_less(then, now)
    }

    /// A phone doesn't want to be refreshed so often (RFC 4028 §7.3): it is called once more.
    fn asked_too_often(&mut self, leg: LegId, response: &Response) -> Option<Effect> {
        let least = least_of(&response.headers).filter(|_| response.status == StatusCode::SESSION_INTERVAL_TOO_SMALL)?;
        let out = self.state.leg(leg).out.clone()?;
        let rings = matches!(out.stage, StageOut::Calling | StageOut::Proceeding);
        // Once: the first request in its dialog has the first number.
        if !rings || out.request.headers.cseq().ok()?.number > 1 {
            return None;
        }
        let asked = out.request.headers.text(&Name::SessionExpires).and_then(|text| SessionExpires::parse(&text))?.interval;
        if least <= asked || least > MOST {
            return None;
        }
        let mut invite = self.same_invite(leg, &out.request, is_reliable(&out.request));
        invite.headers.set(Name::SessionExpires, least.to_string());
        invite.headers.set(Name::MinSe, least.to_string());
        Some(self.send_invite(leg, invite, out.late_offer, out.datagram))
    }

    /// Nothing came back from a phone (RFC 3261 §16.7: that counts as 408).
    pub(super) fn unreachable(&mut self, leg: LegId, now: Timestamp) -> Step {
        if self.state.answerer.is_some() && !self.is_referred_to(leg) {
            let then = self.drop_legs(|own| own.id == leg);
            return self.put(then);
        }
        self.give_up_on(leg, StatusCode::REQUEST_TIMEOUT, Vec::new(), now)
    }

    /// Somebody says nothing: there is another way, or the next server of the domain has its turn. Should it answer after all, it has the
    /// call.
    pub(super) fn is_silent(&mut self, leg: LegId, now: Timestamp) -> Step {
        if let Some(again) = self.as_datagram(leg) {
            self.state.called = now;
            return self.put(vec![again]);
        }
        let this = self.state.leg_mut(leg);
        this.refused = Some(StatusCode::REQUEST_TIMEOUT);
        if let Some(out) = &mut this.out {
            out.stage = StageOut::Cancelling;
        }
        self.one_less(vec![Effect::Leg(leg, LegCommand::Cancel)], now)
    }

    /// A phone that has not got the call hangs up in the dialog that it has with us: that is its own end, and nobody else's.
    pub(super) fn branch_hung_up(&mut self, leg: LegId, key: TxKey, request: &Request, now: Timestamp) -> Step {
        let answer = Effect::Leg(leg, LegCommand::Respond(key, request.response(StatusCode::OK, None)));
        if self.state.answerer.is_none() || self.is_referred_to(leg) {
            let cancel = Effect::Leg(leg, LegCommand::Cancel);
            return self.give_up_on(leg, StatusCode::TEMPORARILY_UNAVAILABLE, vec![answer, cancel], now);
        }
        if self.state.leg(leg).out.is_some() {
            // Its INVITE is being cancelled: the leg is over with the answer to that.
            return Step::free(vec![answer]);
        }
        // Who has referred another, and goes, need not be told what has come of it.
        self.state.referral.take_if(|referral| referral.by == leg);
        let mut then = vec![answer];
        then.extend(self.drop_legs(|own| own.id == leg));
        self.put(then)
    }

    /// A phone is not waited for any more; it counts as one that has said this, unless it has said something itself.
    fn give_up_on(&mut self, leg: LegId, status: StatusCode, mut then: Vec<Effect>, now: Timestamp) -> Step {
        let this = self.state.leg_mut(leg);
        if this.refused.is_some() {
            return Step::free(then);
        }
        this.refused = Some(status);
        if let Some(out) = &mut this.out {
            out.stage = StageOut::Refused;
        }
        then.extend(self.drop_relays(leg));
        self.one_less(then, now)
    }

    /// A phone takes the call with a description that can't be used: it is acknowledged and hung up on, as one that has refused.
    pub(super) fn unusable(&mut self, leg: LegId, response: &Response, now: Timestamp) -> Step {
        let number = response.headers.cseq().ok();
        if self.state.answerer == Some(leg) && self.state.leg(leg).out.is_none() && self.is_of_a_fork(leg, response) {
            return self.hang_up_on_fork(leg, response);
        }
        let may_take = self.state.answerer.is_none() || self.is_referred_to(leg);
        let decides = may_take && self.state.ended.is_none() && self.state.has_leg(leg);
        let out = self.state.legs.iter().find(|own| decides && own.id == leg).and_then(|own| own.out.as_ref());
        let Some(out) = out.filter(|out| out.request.headers.cseq().ok() == number) else {
            return self.end(StatusCode::NOT_ACCEPTABLE_HERE, EndedBy::System, now, Vec::new());
        };
        let invite = out.request.clone();
        if self.state.leg(leg).refused == Some(StatusCode::NOT_ACCEPTABLE_HERE) {
            // Said again.
            return Step::free(vec![self.acknowledge(leg, &invite, None)]);
        }
        self.state.leg_mut(leg).dialog.on_invite_response(response);
        let then = vec![self.acknowledge(leg, &invite, None), self.bye(leg)];
        // What it said before, or was held to have said, doesn't count any more.
        self.state.leg_mut(leg).refused = None;
        self.give_up_on(leg, StatusCode::NOT_ACCEPTABLE_HERE, then, now)
    }

    /// Takes the contacts of a 3xx (RFC 3261 §8.1.3.4), the best first; each is gone to once.
    fn sent_on(&mut self, leg: LegId, response: &Response) -> Option<Effect> {
        if self.state.redirects >= MAX_REDIRECTS {
            return None;
        }
        self.state.redirects += 1;
        let by = self.state.leg(leg).phone.as_ref().map_or_else(|| self.state.callee.clone(), |phone| phone.aor.to_string());
        if self.state.diverted.last() != Some(&by) {
            self.state.diverted.push(by);
        }
        let mut contacts = response.headers.contacts().unwrap_or_default();
        contacts.sort_by_key(|contact| std::cmp::Reverse(thousandths(contact.param("q"))));
        let known =
            |uri: &Text| self.state.locating.contains(uri) || self.state.branches().any(|leg| leg.dialog.remote_target == *uri);
        // Who is redirected doesn't take the place of another call.
        let bare = |contact: NameAddr| Text::from(Uri { headers: Text::from_static(""), ..contact.uri }.to_string());
        let new = contacts.into_iter().map(bare).filter(|uri| !known(uri));
        let new: Vec<Text> = new.take(MAX_TARGETS).collect();
        self.state.locating.extend(new.iter().cloned());
        (!new.is_empty()).then_some(Effect::Locate(new))
    }

    /// One phone less that may take the call: others may ring, wait, or have to be found.
    fn one_less(&mut self, mut then: Vec<Effect>, now: Timestamp) -> Step {
        if self.state.is_ringing() || !self.state.locating.is_empty() {
            return self.put(then);
        }
        then.extend(self.call_those_who_wait(now));
        // Who still waits has another flow that is being cancelled, and may yet be the one to try.
        if self.state.is_ringing() || !self.state.waiting.is_empty() {
            return self.put(then);
        }
        let best = self.state.best_refusal();
        if self.state.referral.is_some() {
            return self.referral_fails(best, then, now);
        }
        let by = if best == StatusCode::REQUEST_TIMEOUT { EndedBy::System } else { EndedBy::Callee };
        self.end(best, by, now, then)
    }

    fn call_those_who_wait(&mut self, now: Timestamp) -> Vec<Effect> {
        if self.state.referral.is_some() && self.state.branches().next().is_none() {
            return self.call_referred(now);
        }
        let sent =
            self.state.branches().find_map(|leg| leg.out.as_ref()).map(|out| Onward::again(&out.request, &self.state.diverted));
        // A call of which nothing is left that was sent has nothing to send.
        sent.map(|onward| self.call_next(&onward, now)).unwrap_or_default()
    }

    /// Where the caller was sent on to.
    pub(super) fn located(&mut self, contacts: &[Text], targets: Vec<Target>, now: Timestamp) -> Step {
        // What isn't looked for any more was found by another owner, or somebody has answered meanwhile.
        if !self.state.locating.iter().any(|contact| contacts.contains(contact)) {
            return Step::default();
        }
        self.state.locating.retain(|contact| !contacts.contains(contact));
        let room = MAX_TARGETS.saturating_sub(self.state.branches().count() + self.state.waiting.len());
        // They come instead of the one who has sent the caller there: before those who wait, whose turn this isn't.
        let found = targets.into_iter().take(room).collect();
        let others = std::mem::replace(&mut self.state.waiting, found);
        let then = self.call_those_who_wait(now);
        self.state.waiting.extend(others);
        self.one_less(then, now)
    }

    /// They have rung for long enough: those who wait have their turn.
    pub(super) fn give_others_a_turn(&mut self, now: Timestamp) -> Step {
        let mut then = self.cancel_ringing(None);
        then.extend(self.call_those_who_wait(now));
        self.put(then)
    }

    /// Nobody else is called any more but who takes the call.
    pub(super) fn cancel_others(&mut self, taken: Option<LegId>) -> Vec<Effect> {
        self.state.waiting.clear();
        self.state.locating.clear();
        let mut then = self.cancel_ringing(taken);
        then.extend(self.drop_legs(|leg| leg.refused.is_some() && leg.bye.is_none()));
        then
    }

    /// Those who ring are cancelled, but for one.
    fn cancel_ringing(&mut self, but: Option<LegId>) -> Vec<Effect> {
        let first = self.state.first;
        let ringing = self.state.legs.iter_mut().filter(|leg| leg.id != first && Some(leg.id) != but && leg.is_ringing());
        let cancel = |leg: &mut CallLeg| {
            leg.out.iter_mut().for_each(|out| out.stage = StageOut::Cancelling);
            Effect::Leg(leg.id, LegCommand::Cancel)
        };
        ringing.map(cancel).collect()
    }
}

//! Session timers (RFC 4028), a leg at a time: whether both ends of a dialog are still there. Layer: pure.
//!
//! ```text
//!  answered ──half of the interval──▶ refresh ──2xx──▶ answered
//!     │                                  └─ 408, 481 ─▶ the end
//!     └── the other end refreshes, and hasn't in time ─▶ the end
//! ```
//!
//! A phone that can refreshes itself, since it knows best; else we do, by UPDATE, or by a re-INVITE with what it was told last. One that knows
//! nothing of timers is asked by OPTIONS whether it is there.
//!
//! Invariant: refreshing changes nothing but the time, so one that is lost with an owner is done again by the next.

use std::time::Duration;

use super::{ALLOW, Body, Call, Effect, EndedBy, Step, set_body};
use crate::clock::Timestamp;
use crate::ids::LegId;
use crate::sip::headers::{Refresher, SessionExpires};
use crate::sip::leg::LegCommand;
use crate::sip::message::{Headers, Request, Response};
use crate::sip::status::Class;
use crate::sip::{Method, Name, StatusCode};

/// A phone that could do nothing for us at the moment is asked again after this (RFC 3261 §14.1 has 2.1 to 4 s for the owner of the
/// Call-ID, which we are on one leg, and up to 2 s for the other), and after twice as long each time that it still can't.
const AGAIN: Duration = Duration::from_millis(2100);
/// It is doubled so often at most.
const MOST_DOUBLINGS: u32 = 5;
/// The longest session interval that a phone may want, in seconds.
pub(super) const MOST: u32 = 24 * 3600;

/// How long sessions last without a refresh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionPolicy {
    /// What we ask for, in seconds.
    pub expires: u32,
    /// Who asks for less gets 422, in seconds (RFC 4028 §5: 90 at least).
    pub min: u32,
}

/// A leg's timer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionTimer {
    /// Seconds.
    pub interval: u32,
    /// Whether we refresh, and not the phone.
    pub ours: bool,
    /// When it was refreshed.
    pub since: Timestamp,
}

impl SessionTimer {
    /// When something has to be done: our refresh, or the end for want of the phone's (RFC 4028 §10).
    pub fn due(&self) -> Timestamp {
        let seconds = if self.ours { self.interval / 2 } else { self.interval - (self.interval / 3).min(32) };
        self.since + Duration::from_secs(seconds.into())
    }
}

/// What a phone has said that it understands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Speaks {
    /// UPDATE (RFC 3311).
    pub update: bool,
    /// Session timers.
    pub timer: bool,
}

impl Speaks {
    /// What a message says of its sender.
    pub(super) fn of(headers: &Headers) -> Self {
        let update = headers.list(&Name::Allow).any(|method| &*method == "UPDATE");
        let timer = [Name::Supported, Name::Require].iter().any(|name| headers.list(name).any(|tag| &*tag == "timer"));
        Self { update, timer }
    }
}

/// Whether a caller wants to be asked more often than we like (RFC 4028 §9); gives how often at most.
pub(super) fn too_often(invite: &Request, policy: Option<SessionPolicy>) -> Option<u32> {
    let asks = [Method::Invite, Method::Update].contains(&invite.method);
    let wanted = expires_of(&invite.headers).filter(|_| asks)?.interval;
    policy.filter(|policy| wanted < policy.min && Speaks::of(&invite.headers).timer).map(|policy| policy.min)
}

/// What a message says of the least interval, in seconds.
pub(super) fn least_of(headers: &Headers) -> Option<u32> {
    headers.number(&Name::MinSe, "Min-SE").ok().flatten()
}

fn expires_of(headers: &Headers) -> Option<SessionExpires> {
    SessionExpires::parse(&headers.text(&Name::SessionExpires)?)
}

impl Call {
    /// What our INVITEs and UPDATEs say of timers.
    pub(super) fn ask_for_timer(&self, leg: LegId, request: &mut Request) {
        let Some(policy) = self.state.session else { return };
        let timer = self.state.leg(leg).timer;
        let interval = timer.map_or(policy.expires, |timer| timer.interval);
        // A refresh keeps who refreshes (RFC 4028 §7.4).
        let refresher = timer.map(|timer| if timer.ours { Refresher::Uac } else { Refresher::Uas });
        request.headers.push_text(Name::Supported, "timer");
        request.headers.push_text(Name::SessionExpires, SessionExpires { interval, refresher }.to_string());
        request.headers.push_text(Name::MinSe, policy.min.to_string());
    }

    /// A phone's INVITE or UPDATE is answered: its timer begins, or begins again (RFC 4028 §9).
    pub(super) fn timer_of_server(&mut self, leg: LegId, request: &Request, now: Timestamp) {
        let Some(policy) = self.state.session else { return };
        let (speaks, wanted) = (Speaks::of(&request.headers), expires_of(&request.headers));
        // RFC 4028 §9: never less than its Min-SE.
        let most = policy.expires.max(policy.min).max(least_of(&request.headers).unwrap_or(0).min(MOST));
        let interval = wanted.map_or(most, |wanted| wanted.interval.clamp(policy.min, most));
        let ours = !speaks.timer || wanted.and_then(|wanted| wanted.refresher) == Some(Refresher::Uas);
        let this = self.state.leg_mut(leg);
        // Not every request says what its sender understands; an UPDATE says it by itself.
        let update = this.speaks.update || speaks.update || request.method == Method::Update;
        this.speaks = Speaks { update, timer: this.speaks.timer || speaks.timer };
        this.put_off = 0;
        this.timer = Some(SessionTimer { interval, ours, since: now });
    }

    /// A phone has answered an INVITE or UPDATE of ours (RFC 4028 §7.2).
    pub(super) fn timer_of_client(&mut self, leg: LegId, response: &Headers, now: Timestamp) {
        self.state.leg_mut(leg).put_off = 0;
        let Some(policy) = self.state.session else { return };
        let (speaks, told) = (Speaks::of(response), expires_of(response));
        let this = self.state.leg_mut(leg);
        // Not every answer says what its sender understands.
        let known = this.speaks;
        this.speaks = Speaks { update: known.update || speaks.update, timer: known.timer || speaks.timer || told.is_some() };
        let interval = told.map_or(policy.expires, |told| told.interval.max(policy.min));
        let ours = told.and_then(|told| told.refresher) != Some(Refresher::Uas);
        this.timer = Some(SessionTimer { interval, ours, since: now });
    }

    /// What the 200 to a phone's INVITE or UPDATE says of its timer.
    pub(super) fn tell_timer(&self, leg: LegId, response: &mut Response) {
        let this = self.state.leg(leg);
        let Some(timer) = this.timer.filter(|_| this.speaks.timer) else { return };
        let refresher = Some(if timer.ours { Refresher::Uas } else { Refresher::Uac });
        response.headers.push_text(Name::SessionExpires, SessionExpires { interval: timer.interval, refresher }.to_string());
        // RFC 4028 §9: who has to refresh must know that it has to.
        response.headers.push_text(if timer.ours { Name::Supported } else { Name::Require }, "timer");
    }

    /// Refreshes a leg, with what it was told last if it has to be a re-INVITE.
    pub(super) fn refresh(&mut self, leg: LegId, body: Option<Body>) -> Step {
        let Speaks { update, timer } = self.state.leg(leg).speaks;
        let flow = self.state.leg(leg).dialog.flow;
        let method = match (update, timer, &body) {
            (true, _, _) => Method::Update,
            (false, true, Some(_)) => Method::Invite,
            (false, _, _) => Method::Options,
        };
        let mut request = self.dialog_request(leg, method.clone());
        request.headers.push_text(Name::Allow, ALLOW);
        if method != Method::Options {
            self.ask_for_timer(leg, &mut request);
        }
        if method == Method::Invite {
            set_body(&mut request, body.as_ref());
            self.state.leg_mut(leg).reinvite = Some(request.clone());
            return self.put(vec![Effect::Leg(leg, LegCommand::Send(request, flow))]);
        }
        self.state.leg_mut(leg).refreshing = Some(request.clone());
        let send = vec![Effect::Leg(leg, LegCommand::Send(request, flow))];
        let spent = self.state.leg(leg).dialog.local_cseq > self.state.leg(leg).reserved;
        if spent { self.put(send) } else { Step::free(send) }
    }

    /// The answer to a refresh that is no INVITE.
    #[allow(clippy::wildcard_enum_match_arm, reason = "every other status is treated alike")]
    pub(super) fn refreshed(&mut self, leg: LegId, response: &Response, now: Timestamp) -> Step {
        if !response.status.is_final() {
            return Step::default();
        }
        let Some(request) = self.state.leg_mut(leg).refreshing.take() else { return Step::default() };
        let success = response.status.class() == Class::Success;
        match response.status {
            StatusCode::CALL_DOES_NOT_EXIST | StatusCode::REQUEST_TIMEOUT => {
                self.state.leg_mut(leg).gone = true;
                self.end(StatusCode::CALL_DOES_NOT_EXIST, EndedBy::System, now, Vec::new())
            }
            // It has something of its own open.
            StatusCode::REQUEST_PENDING | StatusCode::SERVER_INTERNAL_ERROR => {
                // Nothing is committed, so nothing may come back when a commit fails.
                self.committed.legs.iter_mut().filter(|own| own.id == leg).for_each(|own| own.refreshing = None);
                self.put_off(leg, now);
                Step::default()
            }
            StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED if request.method == Method::Update => {
                // It is there, and will be asked otherwise.
                self.state.leg_mut(leg).speaks.update = false;
                self.put(Vec::new())
            }
            StatusCode::SESSION_INTERVAL_TOO_SMALL => {
                self.refresh_less_often(leg, response);
                self.put_off(leg, now);
                self.put(Vec::new())
            }
            _ if success && request.method == Method::Update => {
                self.timer_of_client(leg, &response.headers, now);
                self.put(Vec::new())
            }
            // Whatever it says, it is there.
            _ => {
                self.still_there(leg, now);
                self.put(Vec::new())
            }
        }
    }

    /// A phone can't be asked now: later.
    pub(super) fn put_off(&mut self, leg: LegId, now: Timestamp) {
        let this = self.state.leg_mut(leg);
        this.not_before = Some(now + AGAIN * (1 << this.put_off.min(MOST_DOUBLINGS)));
        this.put_off += 1;
    }

    /// A phone's 422 says how often at most it wants to be refreshed (RFC 4028 §7.3).
    pub(super) fn refresh_less_often(&mut self, leg: LegId, response: &Response) {
        let wanted = least_of(&response.headers).filter(|wanted| *wanted <= MOST);
        if let (Some(timer), Some(wanted)) = (&mut self.state.leg_mut(leg).timer, wanted) {
            timer.interval = timer.interval.max(wanted);
        }
    }

    /// The phone has shown that it is there.
    pub(super) fn still_there(&mut self, leg: LegId, now: Timestamp) {
        let this = self.state.leg_mut(leg);
        this.put_off = 0;
        if let Some(timer) = &mut this.timer {
            timer.since = now;
        }
    }

    /// A phone that is to refresh, and hasn't in time.
    pub(super) fn is_overdue(&self, now: Timestamp) -> bool {
        let overdue = |timer: SessionTimer| !timer.ours && timer.due() <= now;
        self.state.legs.iter().any(|leg| self.state.talks(leg) && leg.timer.is_some_and(overdue))
    }
}

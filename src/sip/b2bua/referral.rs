//! A transfer that we carry out for a phone that can't (RFC 3515). Layer: pure.
//!
//! ```text
//!  REFER ─▶ who is meant is found out ─▶ they ring ──2xx, an offer──▶ the transferee is asked ──2xx──▶ they talk; the transferor goes
//!                     └─────── nobody ───────┴─── nobody takes it ──────────┴─ it won't ─▶ all is as it was
//! ```
//!
//! Who is called gets an INVITE without an offer, and the transferee its offer as a re-INVITE: RFC 3725's flow I with two who talk already. The
//! transferor, who may hang up as soon as its REFER was accepted, is told how it goes by NOTIFYs.
//!
//! Once the transferee is asked, what becomes of it is what it says: who has taken the call may have hung up meanwhile, and then the call is over.

use std::time::Duration;

use super::fork::{MAX_TARGETS, Onward};
use super::state::Updated;
use super::{ALLOW, Body, Call, CallState, Effect, EndedBy, RING_TIMEOUT, Relay, StageOut, Step, dialog_response, set_body};
use crate::clock::Timestamp;
use crate::ids::LegId;
use crate::sip::headers::NameAddr;
use crate::sip::leg::{LegCommand, TxKey};
use crate::sip::message::{Request, Response};
use crate::sip::status::Class;
use crate::sip::uri::{Scheme, Uri};
use crate::sip::{Method, Name, StatusCode, Text};

/// A transfer that is being carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Referral {
    /// The transferor's leg.
    pub by: LegId,
    /// The number of its REFER, which NOTIFYs name.
    pub asked: u32,
    /// Who is meant, as the transferor says it.
    pub to: Text,
    /// Who is called doesn't get the call but instead of one that it has.
    pub must_replace: bool,
    /// Legs with higher numbers are those of who is called.
    pub after: LegId,
    /// When it was accepted.
    pub begun: Timestamp,
    /// How it goes, or what has come of it.
    pub now: StatusCode,
    /// What the transferor was told last.
    pub said: Option<StatusCode>,
    /// The NOTIFY that says so, until it has its answer: one after another, or they could come in another order.
    pub notify: Option<Request>,
    /// Who takes the call: the transferee is to say whether it talks with them.
    pub taken: Option<Taken>,
}

/// Who takes the call for which another was referred.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// Their leg.
    pub leg: LegId,
    /// Their offer, as the transferee gets it.
    pub offer: Body,
    /// By when the transferee is to have said something.
    pub until: Timestamp,
    /// The number of the re-INVITE by which it is asked.
    pub asked: Option<u32>,
    /// That has taken too long, and is cancelled.
    pub cancelled: bool,
}

/// How long who has taken the call waits for our ACK (RFC 3261 §13.3.1.4: 64·T1).
const PATIENCE: Duration = Duration::from_secs(32);
/// A call has numbers for so many legs; a transfer needs some of them.
#[allow(clippy::cast_possible_truncation, reason = "24")]
const LAST_LEG: LegId = LegId(u8::MAX - MAX_TARGETS as u8);

impl Referral {
    /// When it has taken too long.
    pub(super) fn deadline(&self) -> Option<Timestamp> {
        match &self.taken {
            Some(taken) => Some(taken.until).filter(|_| !taken.cancelled),
            None => self.is_open().then(|| self.begun + RING_TIMEOUT),
        }
    }

    /// Whether it has come about, or won't.
    pub(super) fn is_over(&self) -> bool {
        self.now.is_final()
    }

    /// Whether anybody may still take the call.
    pub(super) fn is_open(&self) -> bool {
        self.taken.is_none() && !self.is_over()
    }
}

impl CallState {
    /// Who is transferred.
    pub(super) fn transferee(&self) -> Option<LegId> {
        self.peer(self.referral.as_ref().filter(|own| !own.is_over())?.by)
    }

    /// Whether a leg, while it rings, may take the call.
    pub(super) fn may_take(&self, leg: LegId) -> bool {
        let referred = self.referral.as_ref().is_some_and(|referral| referral.is_open() && leg > referral.after);
        referred || self.answered.is_none()
    }

    /// Whether with this response a phone takes the call for which another was referred. While another offer is open it can't: then it says so
    /// again.
    pub fn is_taken_by(&self, leg: LegId, response: &Response) -> bool {
        let open = self.referral.as_ref().is_some_and(|referral| referral.is_open() && leg > referral.after);
        let out = self.leg(leg).out.as_ref().filter(|out| out.late_offer);
        open && !self.has_open_offer()
            && self.leg(leg).bye.is_none()
            && response.status.class() == Class::Success
            && out.is_some_and(|out| out.request.headers.cseq() == response.headers.cseq())
    }

    /// Whether with this response a transferee says that it talks with who has taken the call.
    pub fn comes_about(&self, leg: LegId, response: &Response) -> bool {
        let number = response.headers.cseq().map_or(0, |cseq| cseq.number);
        response.status.class() == Class::Success && self.asks_to_talk(leg, number)
    }

    /// Whether by the re-INVITE of this number a transferee is asked to talk with who has taken the call.
    pub(super) fn asks_to_talk(&self, leg: LegId, number: u32) -> bool {
        let taken = self.referral.as_ref().and_then(|referral| referral.taken.as_ref());
        taken.is_some_and(|taken| taken.asked == Some(number)) && self.transferee() == Some(leg)
    }

    /// The transferee that is to be asked, and since when: as soon as nothing else is open there.
    pub(super) fn to_be_asked(&self) -> Option<(LegId, Timestamp)> {
        self.referral.as_ref()?.taken.as_ref().filter(|taken| taken.asked.is_none())?;
        let this = self.leg(self.transferee()?);
        let open = this.inbound.is_some() || this.out.is_some() || self.has_open_offer();
        (!open).then(|| (this.id, this.not_before.unwrap_or(self.created)))
    }
}

/// A phone has an INVITE of its own open, and soon hasn't; or it is refreshed too often.
fn is_busy(status: StatusCode) -> bool {
    [StatusCode::REQUEST_PENDING, StatusCode::SERVER_INTERNAL_ERROR, StatusCode::SESSION_INTERVAL_TOO_SMALL].contains(&status)
}

impl Call {
    /// A transferee says that it can't: it is done for it.
    pub(super) fn carry_out(&mut self, relay: &Relay, now: Timestamp) -> Step {
        let (by, key) = (relay.from, TxKey::of(&relay.request));
        self.state.referred.retain(|referred| referred.to != relay.to);
        let value = relay.request.headers.text(&Name::ReferTo).unwrap_or_default();
        let refused = |status| Effect::Leg(by, LegCommand::Respond(key.clone(), relay.request.response(status, None)));
        // Whoever is to be called otherwise than by an INVITE isn't called.
        let invites = |name: &NameAddr| name.uri.param("method").is_none_or(|method| method.eq_ignore_ascii_case("INVITE"));
        let Some(wanted) = NameAddr::parse(&value, "Refer-To").ok().filter(invites) else {
            return self.put(vec![refused(StatusCode::BAD_REQUEST)]);
        };
        if !matches!(wanted.uri.scheme, Scheme::Sip | Scheme::Tel) {
            return self.put(vec![refused(StatusCode::UNSUPPORTED_URI_SCHEME)]);
        }
        if self.state.referral.is_some() || !self.state.is_talking() {
            return self.put(vec![refused(StatusCode::REQUEST_PENDING)]);
        }
        if self.state.last_leg() > LAST_LEG {
            return self.put(vec![refused(StatusCode::DECLINE)]);
        }
        let uri = Text::from(wanted.uri.to_string());
        // RFC 5589 §6: the transferor says whether it is to be an attended transfer, or none.
        let must_replace = wanted
            .uri
            .header("Require")
            .is_some_and(|tags| tags.split(',').any(|tag| tag.trim().eq_ignore_ascii_case("replaces")));
        let bare = Uri { headers: Text::from_static(""), ..wanted.uri };
        self.state.referral = Some(Referral {
            by,
            asked: relay.request.headers.cseq().map_or(0, |cseq| cseq.number),
            to: Text::from(format!("<{bare}>")),
            must_replace,
            after: self.state.last_leg(),
            begun: now,
            now: StatusCode::TRYING,
            said: None,
            notify: None,
            taken: None,
        });
        self.state.redirects = 0;
        self.state.leg_mut(by).updated = Updated::by(&relay.request, None);
        self.state.locating = vec![uri.clone()];
        let accepted = dialog_response(&relay.request, StatusCode::ACCEPTED, &self.state.leg(by).dialog, None);
        let accepted = Effect::Leg(by, LegCommand::Respond(key, accepted));
        // RFC 3515 §2.4.4: at once.
        let notify = self.notify_referrer();
        self.put([accepted].into_iter().chain(notify).chain([Effect::Locate(vec![uri])]).collect())
    }

    /// Calls those who were found first.
    pub(super) fn call_referred(&mut self, now: Timestamp) -> Vec<Effect> {
        let Some(transferee) = self.state.transferee() else { return Vec::new() };
        let user = |leg: LegId| self.state.user_of(leg);
        let Some(referral) = &self.state.referral else { return Vec::new() };
        let shown = |leg: LegId| user(leg).filter(|_| !self.state.is_private(leg));
        let onward = Onward::of_referral(shown(transferee), shown(referral.by), referral.must_replace);
        self.call_next(&onward, now)
    }

    /// A NOTIFY of how it goes (RFC 3515 §2.4.5), if there is something new and the last one was heard; none for who has gone.
    fn notify_referrer(&mut self) -> Option<Effect> {
        let Referral { by, asked, now, said, notify, .. } = self.state.referral.as_ref()?;
        let (by, asked, now) = (*by, *asked, *now);
        if notify.is_some() || *said == Some(now) || self.state.leg(by).gone {
            return None;
        }
        let mut notify = self.dialog_request(by, Method::Notify);
        notify.headers.push_text(Name::Event, format!("refer;id={asked}"));
        let active = || format!("active;expires={}", RING_TIMEOUT.as_secs());
        let state = if now.is_final() { "terminated;reason=noresource".to_owned() } else { active() };
        notify.headers.push_text(Name::SubscriptionState, state);
        let bytes = format!("SIP/2.0 {} {}\r\n", now.code(), now.reason()).into();
        set_body(&mut notify, Some(&Body { content_type: Text::from_static("message/sipfrag;version=2.0"), bytes }));
        let referral = self.state.referral.as_mut()?;
        (referral.said, referral.notify) = (Some(now), Some(notify.clone()));
        Some(Effect::Leg(by, LegCommand::Send(notify, self.state.leg(by).dialog.flow)))
    }

    /// What follows when the transferor has heard how it goes, or doesn't answer: it hears more, or goes.
    pub(super) fn has_told_referrer(&mut self, leg: LegId, said: impl Fn(&Request) -> bool) -> Option<Step> {
        let referral = self.state.referral.as_mut().filter(|referral| referral.by == leg)?;
        referral.notify.take_if(|notify| said(notify))?;
        let over = referral.is_over() && referral.said == Some(referral.now);
        let mut then: Vec<Effect> = self.notify_referrer().into_iter().collect();
        if over {
            self.state.referral = None;
            then.extend((!self.state.is_seated(leg)).then(|| self.bye(leg)));
        }
        Some(self.put(then))
    }

    /// Whether a leg is of who is called, and may take the call.
    pub(super) fn is_referred_to(&self, leg: LegId) -> bool {
        self.state.referral.as_ref().is_some_and(|referral| referral.is_open() && leg > referral.after)
    }

    /// Whether a leg's phone has taken the call, and waits for the transferee.
    pub(super) fn has_taken(&self, leg: LegId) -> bool {
        self.state.referral.as_ref().and_then(|referral| referral.taken.as_ref()).is_some_and(|taken| taken.leg == leg)
    }

    /// Who has taken the call hangs up before it has heard of the transferee.
    pub(super) fn taker_hung_up(&mut self, leg: LegId, answer: Effect, now: Timestamp) -> Step {
        self.state.leg_mut(leg).gone = true;
        let asked = self.state.referral.as_ref().and_then(|referral| referral.taken.as_ref()?.asked).is_some();
        if asked { self.put(vec![answer]) } else { self.referral_fails(StatusCode::TEMPORARILY_UNAVAILABLE, vec![answer], now) }
    }

    /// Somebody rings.
    pub(super) fn referred_rings(&mut self, status: StatusCode) -> Step {
        if let Some(referral) = &mut self.state.referral {
            referral.now = referral.now.max(status);
        }
        let notify = self.notify_referrer();
        self.put(notify.into_iter().collect())
    }

    /// Somebody takes the call, with an offer: the transferee is asked.
    pub(super) fn referred_answers(&mut self, leg: LegId, response: &Response, offer: Option<Body>, now: Timestamp) -> Step {
        let Some(offer) = offer else { return self.unusable(leg, response, now) };
        self.state.leg_mut(leg).dialog.on_invite_response(response);
        self.state.leg_mut(leg).refused = None;
        self.timer_of_client(leg, &response.headers, now);
        let mut then = self.cancel_others(Some(leg));
        if let Some(out) = &mut self.state.leg_mut(leg).out {
            out.stage = StageOut::AckWaits;
        }
        if let Some(referral) = &mut self.state.referral {
            referral.taken = Some(Taken { leg, offer, until: now + PATIENCE, asked: None, cancelled: false });
        }
        then.extend(self.ask_transferee(now));
        self.put(then)
    }

    /// Tells the transferee whom it talks with from now on, if it can be asked.
    pub(super) fn ask_transferee(&mut self, now: Timestamp) -> Option<Effect> {
        let (transferee, _) = self.state.to_be_asked().filter(|(_, at)| *at <= now)?;
        let mut invite = self.dialog_request(transferee, Method::Invite);
        let taken = self.state.referral.as_mut()?.taken.as_mut()?;
        taken.asked = invite.headers.cseq().ok().map(|cseq| cseq.number);
        let offer = taken.offer.clone();
        invite.headers.push_text(Name::Allow, ALLOW);
        self.ask_for_timer(transferee, &mut invite);
        set_body(&mut invite, Some(&offer));
        let this = self.state.leg_mut(transferee);
        this.reinvite = Some(invite.clone());
        Some(Effect::Leg(transferee, LegCommand::Send(invite, this.dialog.flow)))
    }

    /// A transfer has taken too long.
    pub(super) fn referral_is_late(&mut self, now: Timestamp) -> Step {
        let transferee = self.state.transferee();
        let taken = self.state.referral.as_mut().and_then(|referral| referral.taken.as_mut());
        match (taken.filter(|taken| taken.asked.is_some()), transferee) {
            // What it says to that holds.
            (Some(taken), Some(transferee)) => {
                taken.cancelled = true;
                self.put(vec![Effect::Leg(transferee, LegCommand::Cancel)])
            }
            (Some(_) | None, _) => self.referral_fails(StatusCode::REQUEST_TIMEOUT, Vec::new(), now),
        }
    }

    /// The transferee has said whether it talks with who has taken the call.
    #[allow(clippy::wildcard_enum_match_arm, reason = "every other status is treated alike")]
    pub(super) fn transferee_answers(&mut self, leg: LegId, response: &Response, now: Timestamp) -> Step {
        if !response.status.is_final() {
            return Step::default();
        }
        let Some(invite) = self.state.leg_mut(leg).reinvite.take() else { return Step::default() };
        let acknowledge = Effect::Leg(leg, LegCommand::Acknowledge);
        match response.status {
            status if status.class() == Class::Success => self.transferred(leg, &invite, response, now),
            StatusCode::CALL_DOES_NOT_EXIST | StatusCode::REQUEST_TIMEOUT => {
                self.state.leg_mut(leg).gone = true;
                self.end(StatusCode::CALL_DOES_NOT_EXIST, EndedBy::System, now, vec![acknowledge])
            }
            status if is_busy(status) && self.may_ask_again() => {
                let taken = self.state.referral.as_mut().and_then(|referral| referral.taken.as_mut());
                taken.into_iter().for_each(|taken| taken.asked = None);
                self.refresh_less_often(leg, response);
                self.put_off(leg, now);
                self.put(vec![acknowledge])
            }
            status => {
                self.still_there(leg, now);
                self.referral_fails(status, vec![acknowledge], now)
            }
        }
    }

    /// Whether who has taken the call still waits for the transferee, and for long enough.
    fn may_ask_again(&self) -> bool {
        let taken = self.state.referral.as_ref().and_then(|referral| referral.taken.as_ref());
        taken.is_some_and(|taken| !taken.cancelled && !self.state.leg(taken.leg).gone)
    }

    /// The transferee talks with who has taken the call; the transferor goes.
    fn transferred(&mut self, transferee: LegId, invite: &Request, response: &Response, now: Timestamp) -> Step {
        self.state.leg_mut(transferee).dialog.retarget(&response.headers);
        self.timer_of_client(transferee, &response.headers, now);
        let mut then = vec![self.acknowledge(transferee, invite, None)];
        let answer = Body::of(&response.headers, &response.body);
        let Some(referral) = &mut self.state.referral else { return Step::default() };
        let (by, Some(Taken { leg: taken, .. })) = (referral.by, referral.taken.take()) else { return Step::default() };
        referral.now = StatusCode::OK;
        let is_caller = self.state.first == by;
        if is_caller {
            self.state.first = taken;
        } else {
            self.state.answerer = Some(taken);
        }
        let out = self.state.leg_mut(taken).out.take();
        if self.state.leg(taken).gone {
            let ended = if is_caller { EndedBy::Caller } else { EndedBy::Callee };
            return self.end(StatusCode::REQUEST_TERMINATED, ended, now, then);
        }
        then.extend(out.map(|out| self.acknowledge(taken, &out.request, answer)));
        then.extend(self.drop_relays(by));
        if self.state.leg(by).gone {
            self.state.referral = None;
            then.extend(self.drop_legs(|leg| leg.id == by));
        }
        then.extend(self.notify_referrer());
        self.put(then)
    }

    /// Nothing comes of it: those who talked talk on. A transferor who has gone already has left nobody to talk with.
    pub(super) fn referral_fails(&mut self, status: StatusCode, mut then: Vec<Effect>, now: Timestamp) -> Step {
        let Some(Referral { by, taken, now: outcome, .. }) = &mut self.state.referral else { return self.put(then) };
        *outcome = status;
        let (by, taken) = (*by, taken.take());
        if let Some(Taken { leg, .. }) = taken {
            let out = self.state.leg_mut(leg).out.take();
            if self.state.leg(leg).gone {
                then.extend(self.drop_legs(|own| own.id == leg));
            } else if let Some(out) = out {
                then.push(self.acknowledge(leg, &out.request, None));
                then.push(self.bye(leg));
            }
        }
        if self.state.leg(by).gone {
            let ended = if by == self.state.first { EndedBy::Caller } else { EndedBy::Callee };
            return self.end(status, ended, now, then);
        }
        then.extend(self.cancel_others(None));
        then.extend(self.notify_referrer());
        self.put(then)
    }
}

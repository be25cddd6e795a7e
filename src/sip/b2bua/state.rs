//! All of a call that must survive: what is committed, and what a new owner goes on from. Layer: pure.

use std::net::SocketAddr;

use bytes::Bytes;

use super::fork::MAX_TARGETS;
use super::referral::Referral;
use super::reliable::Pracked;
use super::timer::{SessionPolicy, SessionTimer, Speaks};
use super::{Effect, LINGER, NewCall, RING_TIMEOUT, without_body};
use crate::clock::Timestamp;
use crate::families::Families;
use crate::ids::{Aor, CallId, LegId, VnodeId};
use crate::sip::dialog::{Dialog, Flow};
use crate::sip::leg::{LegCommand, TxKey};
use crate::sip::message::{Headers, Request};
use crate::sip::registrar::Phone;
use crate::sip::replaces::Replaces;
use crate::sip::token::Token;
use crate::sip::{Method, Name, StatusCode, Text};

/// A call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallState {
    /// Its name.
    pub id: CallId,
    /// Whose it is.
    pub vnode: VnodeId,
    /// Who calls.
    pub caller: String,
    /// Who is called.
    pub callee: String,
    /// What callees see as From; none for what the caller says.
    pub shown: Option<Text>,
    /// When the INVITE came.
    pub created: Timestamp,
    /// When the callee answered.
    pub answered: Option<Timestamp>,
    /// When and how it ended.
    pub ended: Option<Ending>,
    /// The caller's leg, then one for each phone that is called, by their numbers.
    pub legs: Vec<CallLeg>,
    /// The highest number of a leg that is no more: none is used again, since phones know it.
    pub last: LegId,
    /// The leg in the caller's place: the caller's, until a transfer gives it to another.
    pub first: LegId,
    /// The leg that has answered, or has its place.
    pub answerer: Option<LegId>,
    /// Who is called when those who are called now have all refused, the best first.
    pub waiting: Vec<Target>,
    /// When those who are called now were.
    pub called: Timestamp,
    /// Contacts that the caller is sent on to, and that have to be found ([`super::Effect::Locate`]).
    pub locating: Vec<Text>,
    /// How long sessions last; none for ever.
    pub session: Option<SessionPolicy>,
    /// How often that has happened.
    pub redirects: usize,
    /// How many INVITEs the call may become at once, all over the network, if its caller says so (RFC 5393 §5).
    pub breadth: Option<u32>,
    /// Who has sent the caller on, one after another.
    pub diverted: Vec<String>,
    /// The transfer that we carry out.
    pub referral: Option<Referral>,
    /// The last REFERs that went through.
    pub referred: Vec<Referred>,
    /// In-dialog requests on their way from one side to the other.
    pub relays: Vec<Relay>,
}

/// A REFER that went through: what NOTIFYs call it, on one side and on the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Referred {
    /// Who was referred.
    pub to: LegId,
    /// Its CSeq there.
    pub onward: u32,
    /// Its CSeq as it came.
    pub asked: u32,
}

/// A phone that may be called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Its contact.
    pub contact: Text,
    /// The proxies on the way to it, as Route values (RFC 3327 §5.3).
    pub path: Vec<Text>,
    /// How to reach it.
    pub flow: Flow,
    /// How to reach it with what is too long for a datagram (RFC 3261 §18.1.1).
    pub long: Option<Flow>,
    /// Who it is, if it is registered, or of another domain.
    pub phone: Option<Phone>,
    /// Thousandths of q: the higher is called first.
    pub q: u16,
    /// The dialog of the phone's that the call takes the place of (RFC 3891).
    pub replaces: Option<Replaces>,
}

impl Target {
    /// Whether somebody who was called may send a caller to this dialog (RFC 3891) by a 3xx or a transfer: who is none of our own users may cost
    /// money, and whoever calls such a one has to be allowed to. `is_a_peers` tells whether a user is another server.
    pub fn may_be_sent_to(&self, is_a_peers: impl Fn(&Aor) -> bool) -> bool {
        self.phone.as_ref().is_some_and(|phone| !phone.is_elsewhere() && !is_a_peers(&phone.aor))
    }
}

/// One leg: its dialog, and what is open on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallLeg {
    /// Its number, which its token has.
    pub id: LegId,
    /// The dialog.
    pub dialog: Dialog,
    /// The phone's INVITE that made the call, until its ACK.
    pub inbound: Option<InviteIn>,
    /// Our INVITE that made the leg, until it has its final answer (and that its ACK).
    pub out: Option<InviteOut>,
    /// Our BYE, until it has its answer.
    pub bye: Option<Request>,
    /// Who the phone is, if it is registered.
    pub phone: Option<Phone>,
    /// What it said instead of taking the call; 408 when it said nothing.
    pub refused: Option<StatusCode>,
    /// The phone has hung up or doesn't know the dialog: no BYE is owed.
    pub gone: bool,
    /// Our re-INVITE that asks the phone to come to another address of ours, until it has its final answer.
    pub reinvite: Option<Request>,
    /// Its session timer, from its answer on.
    pub timer: Option<SessionTimer>,
    /// What it understands.
    pub speaks: Speaks,
    /// Our UPDATE or OPTIONS that refreshes it, until it has its answer. Not stored: it would be sent again.
    pub refreshing: Option<Request>,
    /// The phone knows an address that is not ours any more. Not stored: whoever reads the record sees it.
    pub moved: bool,
    /// It is not asked before this: it had something else to do. Not stored.
    pub not_before: Option<Timestamp>,
    /// How often in a row that was so. Not stored.
    pub put_off: u32,
    /// How many forks of its own have been hung up on, behind a proxy of its. Not stored.
    pub forks: u8,
    /// Its last request, if that was an UPDATE, PRACK or REFER that was accepted: one whose answer was lost with an owner is answered by the
    /// next.
    pub updated: Option<Updated>,
    /// What it has described reliably before it answered: its 200 need not say it again.
    pub early: Option<Body>,
    /// The answer that our last ACK brought it: it goes with the next too, if its 200 comes again.
    pub acknowledged: Option<Acknowledged>,
    /// It has said 100. Not stored.
    pub tries: bool,
    /// What was said to it reliably and was not acknowledged before the call was answered: its number, and its request's. Not stored.
    pub unheard: Option<(u32, u32)>,
    /// The last of its reliable answers. Not stored.
    pub pracked: Option<Pracked>,
    /// The CSeq numbers that the committed record lets it use: a new owner goes on behind them. Not stored.
    pub reserved: u32,
    /// The same in the mutation that is on its way. Not stored.
    pub asked: u32,
}

/// An INVITE that came to us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InviteIn {
    /// Its transaction.
    pub key: TxKey,
    /// The INVITE, without its body.
    pub request: Request,
    /// By what flow it came.
    pub came_by: Flow,
    /// How far it is answered.
    pub stage: StageIn,
    /// Its provisional answers are said reliably, this one the last.
    pub reliable: Option<Reliable>,
}

/// A provisional answer that must come through (RFC 3262).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reliable {
    /// Its number.
    pub rseq: u32,
    /// Its PRACK has come.
    pub acked: bool,
    /// What was described reliably, first.
    pub described: Option<Body>,
    /// What is to be said next, when its PRACK has come.
    pub next: Option<StageIn>,
}

/// How far an INVITE to us is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StageIn {
    /// 100 at most.
    Pending,
    /// This provisional answer, with this body.
    Progress(StatusCode, Option<Body>),
    /// 200 with this body; waits for the ACK.
    Answered(Option<Body>),
    /// This final failure.
    Rejected(StatusCode),
}

/// An INVITE of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InviteOut {
    /// The INVITE.
    pub request: Request,
    /// How far it got.
    pub stage: StageOut,
    /// It had no offer: the answer comes with the caller's ACK.
    pub late_offer: bool,
    /// It was too long for a datagram: this is where it goes if there is no other way (RFC 3261 §18.1.1).
    pub datagram: Option<Flow>,
}

/// How far an INVITE of ours got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StageOut {
    /// Nothing came back yet.
    Calling,
    /// A provisional answer came.
    Proceeding,
    /// It is to be cancelled.
    Cancelling,
    /// 200 came; our ACK waits for the caller's.
    AckWaits,
    /// A failure came; it is acknowledged as often as it is repeated.
    Refused,
}

/// An in-dialog request that goes from one leg to the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relay {
    /// Whose request it is.
    pub from: LegId,
    /// The flow of that leg.
    pub came_by: Flow,
    /// The request, without its body.
    pub request: Request,
    /// Our request to the other side.
    pub onward: Request,
    /// The leg that it went to.
    pub to: LegId,
    /// A 2xx came to a re-INVITE, with this body; it waits for the ACK.
    pub answer: Option<Option<Body>>,
    /// The re-INVITE had no offer.
    pub late_offer: bool,
    /// Whoever asked wants no answer any more.
    pub cancelled: bool,
}

/// An UPDATE, PRACK or REFER that was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Updated {
    /// Its number.
    pub cseq: u32,
    /// What it was answered with.
    pub body: Option<Body>,
}

/// An answer that went with an ACK (RFC 3261 §13.2.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acknowledged {
    /// The number of the INVITE.
    pub cseq: u32,
    /// The answer.
    pub body: Body,
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ending {
    /// When.
    pub at: Timestamp,
    /// What a caller who was waiting got; 487 for an ordinary hang-up.
    pub status: StatusCode,
    /// Who ended it.
    pub by: EndedBy,
}

/// Who ended a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndedBy {
    /// The caller hung up or cancelled.
    Caller,
    /// The callee hung up or refused.
    Callee,
    /// tandem: nobody answered, or a side was gone.
    System,
    /// An operator, by the API.
    Operator,
}

/// What accounting gets of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "as in CallState")]
pub struct Cdr {
    pub call: CallId,
    pub caller: String,
    pub callee: String,
    pub created: Timestamp,
    pub answered: Option<Timestamp>,
    pub ended: Timestamp,
    pub status: StatusCode,
    pub by: EndedBy,
}

/// A body and its type.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Body {
    pub content_type: Text,
    pub bytes: Bytes,
}

impl Body {
    /// The body of a message, if it has one.
    pub fn of(headers: &Headers, bytes: &Bytes) -> Option<Self> {
        let content_type = headers.text(&Name::ContentType).unwrap_or_else(|| Text::from_static("application/sdp"));
        (!bytes.is_empty()).then(|| Self { content_type, bytes: bytes.clone() })
    }
}

impl InviteIn {
    /// Whether it has no final answer.
    pub fn is_pending(&self) -> bool {
        matches!(self.stage, StageIn::Pending | StageIn::Progress(..))
    }
}

impl Updated {
    /// An UPDATE, PRACK or REFER and its answer; nothing of another request, whose ACK says that the answer has come.
    pub(super) fn by(request: &Request, body: Option<Body>) -> Option<Self> {
        let number = request.headers.cseq().ok()?.number;
        Self::may_be_by(&request.method).then_some(Self { cseq: number, body })
    }

    /// Whether nothing but its answer says that such a request was accepted.
    pub(super) fn may_be_by(method: &Method) -> bool {
        matches!(method, Method::Update | Method::Prack | Method::Refer)
    }
}

impl Relay {
    /// Whether a description is on offer to the other side: by a re-INVITE, or an UPDATE before the call is answered.
    pub fn is_offer(&self) -> bool {
        matches!(self.onward.method, Method::Invite | Method::Update)
    }

    /// Its answer when nothing comes of it any more.
    pub(super) fn terminated(&self) -> Effect {
        let answer = self.request.response(StatusCode::REQUEST_TERMINATED, None);
        Effect::Leg(self.from, LegCommand::Respond(TxKey::of(&self.request), answer))
    }
}

/// When a call with these times wants to be told that time has passed: it rings for too long, or has lingered.
pub fn deadline(created: Timestamp, answered: Option<Timestamp>, ended: Option<Timestamp>) -> Option<Timestamp> {
    match (ended, answered) {
        (Some(at), _) => Some(at + LINGER),
        (None, None) => Some(created + RING_TIMEOUT),
        (None, Some(_)) => None,
    }
}

impl CallLeg {
    fn new(id: LegId, dialog: Dialog, phone: Option<Phone>) -> Self {
        Self {
            id,
            dialog,
            inbound: None,
            out: None,
            bye: None,
            phone,
            refused: None,
            gone: false,
            reinvite: None,
            timer: None,
            speaks: Speaks::default(),
            refreshing: None,
            moved: false,
            not_before: None,
            put_off: 0,
            forks: 0,
            updated: None,
            early: None,
            acknowledged: None,
            tries: false,
            unheard: None,
            pracked: None,
            reserved: 0,
            asked: 0,
        }
    }

    /// A re-INVITE or UPDATE of ours is open on it.
    pub(super) fn is_asked(&self) -> bool {
        self.reinvite.is_some() || self.refreshing.as_ref().is_some_and(|own| own.method == Method::Update)
    }

    /// It may still take the call.
    pub(super) fn is_ringing(&self) -> bool {
        self.out.as_ref().is_some_and(|out| matches!(out.stage, StageOut::Calling | StageOut::Proceeding))
    }
}

impl CallState {
    pub(super) fn new(call: &NewCall, caller: Dialog, now: Timestamp) -> Self {
        let mut waiting = call.targets.clone();
        waiting.truncate(MAX_TARGETS);
        waiting.sort_by_key(|target| std::cmp::Reverse(target.q));
        let mut caller = CallLeg::new(LegId::CALLER, caller, call.phone.clone());
        caller.speaks.update = Speaks::of(&call.invite.headers).update;
        caller.inbound = Some(InviteIn {
            key: TxKey::of(&call.invite),
            request: without_body(call.invite.clone()),
            came_by: call.from,
            stage: StageIn::Pending,
            reliable: None,
        });
        Self {
            id: call.id,
            vnode: call.vnode,
            caller: call.caller.clone(),
            callee: call.callee.clone(),
            shown: None,
            created: now,
            answered: None,
            ended: None,
            legs: vec![caller],
            last: LegId::CALLER,
            first: LegId::CALLER,
            answerer: None,
            waiting,
            called: now,
            locating: Vec::new(),
            session: call.session,
            redirects: 0,
            breadth: super::fork::breadth_of(&call.invite),
            diverted: Vec::new(),
            referral: None,
            referred: Vec::new(),
            relays: Vec::new(),
        }
    }

    /// Whether the call has this leg.
    pub fn has_leg(&self, leg: LegId) -> bool {
        self.legs.iter().any(|own| own.id == leg)
    }

    /// One leg; callers have checked [`CallState::has_leg`].
    pub fn leg(&self, leg: LegId) -> &CallLeg {
        self.legs.iter().find(|own| own.id == leg).expect("callers have checked that it is there")
    }

    pub(super) fn leg_mut(&mut self, leg: LegId) -> &mut CallLeg {
        self.legs.iter_mut().find(|own| own.id == leg).expect("callers have checked that it is there")
    }

    /// The numbers of all legs.
    pub fn leg_ids(&self) -> Vec<LegId> {
        self.legs.iter().map(|leg| leg.id).collect()
    }

    /// The legs of those who were called.
    pub fn branches(&self) -> impl Iterator<Item = &CallLeg> {
        // In a transfer nobody is called but for that.
        let after = self.referral.as_ref().map_or(LegId::CALLER, |referral| referral.after);
        self.legs.iter().filter(move |leg| leg.id > after && leg.id != self.first)
    }

    /// Who is at the other end of what is said on a leg: for the caller the one who has answered, or the only one who may; for those
    /// the caller, unless another has answered.
    pub fn peer(&self, leg: LegId) -> Option<LegId> {
        let mut open = self.branches().filter(|branch| branch.refused.is_none());
        let only = open.next().filter(|_| open.next().is_none()).map(|branch| branch.id);
        let callee = self.answerer.or(only);
        if leg == self.first { callee } else { Some(self.first).filter(|_| self.answerer.is_none_or(|answerer| answerer == leg)) }
    }

    /// The highest number that a leg has or had.
    pub(super) fn last_leg(&self) -> LegId {
        self.legs.iter().map(|leg| leg.id).fold(self.last, LegId::max)
    }

    pub(super) fn next_leg(&self) -> LegId {
        LegId(self.last_leg().0 + 1)
    }

    /// Whether nothing more comes of a leg.
    pub(super) fn has_left(&self, leg: LegId) -> bool {
        self.ended.is_some() || self.leg(leg).gone
    }

    /// Whether a leg is one of the two that talk, or are to.
    pub fn is_seated(&self, leg: LegId) -> bool {
        leg == self.first || self.answerer == Some(leg)
    }

    /// Whether who is at a leg wishes not to be named.
    pub(super) fn is_private(&self, leg: LegId) -> bool {
        leg == LegId::CALLER && self.shown.is_some()
    }

    /// What is said as From of who is at a leg.
    pub(super) fn shown_as(&self, leg: LegId) -> Text {
        let remote = || self.leg(leg).dialog.remote.clone();
        match (leg, self.user_of(leg)) {
            (LegId::CALLER, _) => self.shown.clone().unwrap_or_else(remote),
            (_, Some(aor)) => Text::from(format!("<sip:{aor}>")),
            (_, None) => remote(),
        }
    }

    /// The side of the media that a leg is on: whoever is called is on the other one from the caller, or on that of whom it is to replace.
    pub fn side(&self, leg: LegId) -> usize {
        let replaced = self.referral.as_ref().filter(|own| leg > own.after && !own.is_over()).map_or(leg, |own| own.by);
        usize::from(replaced != self.first)
    }

    pub(super) fn add_leg(&mut self, id: LegId, dialog: Dialog, phone: Option<Phone>) {
        self.legs.push(CallLeg::new(id, dialog, phone));
    }

    /// Whether anybody may still take the call.
    pub fn is_ringing(&self) -> bool {
        self.branches().any(CallLeg::is_ringing)
    }

    /// Whether the call is over, and nobody has to be told any more.
    pub fn is_settled(&self) -> bool {
        let done = |leg: &CallLeg| leg.bye.is_none() && leg.inbound.is_none() && leg.out.is_none();
        self.ended.is_some() && self.relays.is_empty() && self.legs.iter().all(done)
    }

    /// Whether nothing is open, and nobody waits to hear anything: until a phone says something, or the deadline passes, the
    /// record is all there is to the call.
    pub fn is_quiet(&self) -> bool {
        self.can_sleep() && self.legs.iter().all(|leg| leg.inbound.is_none())
    }

    /// Whether a call whose legs are at rest ([`super::super::leg::Leg::is_at_rest`]) has nothing more to do. The caller who was
    /// refused has heard it then, which the record doesn't say.
    pub fn can_sleep(&self) -> bool {
        let refused = |out: &InviteOut| out.stage == StageOut::Refused;
        let rejected = |inbound: &InviteIn| matches!(inbound.stage, StageIn::Rejected(_));
        let done = |leg: &CallLeg| {
            leg.bye.is_none() && leg.inbound.as_ref().is_none_or(rejected) && leg.out.as_ref().is_none_or(refused)
        };
        let here = |leg: &CallLeg| leg.reinvite.is_none() && !leg.moved && leg.not_before.is_none();
        let begun = self.answered.is_some() || self.ended.is_some();
        begun && self.relays.is_empty() && self.referral.is_none() && self.legs.iter().all(|leg| done(leg) && here(leg))
    }

    /// The vnode is at another address than when this was stored. What its phones knew of the former one is no way to us any more:
    /// those who have answered are to be asked to come along ([`super::CallInput::Anchor`]). A re-INVITE that did so already spoke of an
    /// address that is gone.
    pub fn move_to(&mut self, ips: Families, port: u16) {
        let (vnode, ended) = (self.vnode, self.ended.is_some());
        let mut moves = false;
        // Who can't be reached from here at all stays where it is.
        let moved = |former: SocketAddr| ips.toward(former.ip()).map_or(former, |ip| SocketAddr::new(ip, port));
        for leg in &mut self.legs {
            let flow = &mut leg.dialog.flow;
            if flow.vnode != vnode {
                continue;
            }
            let local = moved(flow.local);
            if flow.local != local {
                moves = true;
                flow.local = local;
                leg.reinvite = None;
            }
            let token = Token { vnode, call: self.id, leg: leg.id };
            leg.moved = !ended && leg.reinvite.is_none() && leg.dialog.contact != leg.dialog.flow.contact(&token);
            if let Some(inbound) = &mut leg.inbound {
                inbound.came_by.local = moved(inbound.came_by.local);
            }
        }
        for relay in self.relays.iter_mut().filter(|relay| relay.came_by.vnode == vnode) {
            relay.came_by.local = moved(relay.came_by.local);
        }
        // What a transferee was told leads nowhere now: nothing comes of that transfer.
        if let Some(taken) = self.referral.as_mut().and_then(|referral| referral.taken.as_mut()).filter(|_| moves) {
            (taken.asked, taken.until, taken.cancelled) = (None, self.created, false);
        }
    }

    /// A leg that can be asked to come along now: nothing else is open on it.
    pub fn movable(&self, now: Timestamp) -> Option<LegId> {
        let free = |leg: &CallLeg| {
            leg.moved && leg.not_before.is_none_or(|at| at <= now) && leg.inbound.is_none() && leg.out.is_none() && !leg.gone
        };
        let decides = self.referral.as_ref().is_some_and(|referral| referral.taken.is_some());
        let established = self.is_talking() && !decides && !self.relays.iter().any(Relay::is_offer);
        let talks = |leg: &CallLeg| self.is_seated(leg.id);
        self.legs.iter().find(|leg| established && talks(leg) && free(leg)).map(|leg| leg.id)
    }

    /// Whether an offer has no answer yet, a phone's or ours.
    pub(super) fn has_open_offer(&self) -> bool {
        self.relays.iter().any(Relay::is_offer) || self.legs.iter().any(CallLeg::is_asked)
    }

    /// Whether what a response describes is an offer: its INVITE had none.
    pub fn offers(&self, leg: LegId, response: &Headers) -> bool {
        let cseq = response.cseq().ok();
        let out = self.leg(leg).out.as_ref().filter(|out| out.request.headers.cseq().ok() == cseq);
        let relay = self.relays.iter().find(|relay| relay.to == leg && relay.onward.headers.cseq().ok() == cseq);
        out.map(|out| out.late_offer).or(relay.map(|relay| relay.late_offer)).unwrap_or(false)
    }

    /// Whether a response is to a re-INVITE of our own, by which a leg was told again what it was told.
    pub fn answers_us(&self, leg: LegId, response: &Headers) -> bool {
        let cseq = response.cseq();
        let own = self.leg(leg).reinvite.as_ref().is_some_and(|own| own.headers.cseq() == cseq);
        own && !self.asks_to_talk(leg, cseq.map_or(0, |cseq| cseq.number))
    }

    /// Whether a request has been passed on, and waits for its answer.
    pub fn passes_on(&self, request: &TxKey) -> bool {
        self.relays.iter().any(|relay| TxKey::of(&relay.request) == *request)
    }

    /// Whether an offer may still be refused that has been taken on.
    pub fn may_be_refused(&self) -> bool {
        let waits = |relay: &Relay| relay.is_offer() && relay.answer.is_none();
        self.relays.iter().any(waits) || self.referral.as_ref().is_some_and(|referral| referral.taken.is_some())
    }

    /// Whether two sides have a session.
    pub fn is_talking(&self) -> bool {
        self.answered.is_some() && self.ended.is_none()
    }

    /// A leg that we have to refresh now: nothing else is open on it.
    pub fn refreshable(&self, now: Timestamp) -> Option<LegId> {
        let due = |leg: &CallLeg| {
            leg.timer.is_some_and(|timer| timer.ours && timer.due() <= now) && leg.not_before.is_none_or(|at| at <= now)
        };
        self.legs.iter().find(|leg| due(leg) && self.can_refresh(leg)).map(|leg| leg.id)
    }

    /// Whether a leg could be refreshed: what is open on it comes first.
    fn can_refresh(&self, leg: &CallLeg) -> bool {
        let open = leg.inbound.is_some() || leg.out.is_some() || leg.reinvite.is_some() || leg.refreshing.is_some();
        self.talks(leg) && !open && !self.relays.iter().any(Relay::is_offer)
    }

    /// Whether a leg is one of the two that have a session, and hasn't left.
    pub fn talks(&self, leg: &CallLeg) -> bool {
        self.is_talking() && self.is_seated(leg.id) && !leg.gone
    }

    /// Who is on a side of the media: the caller, or whoever has answered.
    pub fn peer_of_side(&self, side: LegId) -> Option<LegId> {
        if side == LegId::CALLER { Some(self.first) } else { self.answerer }.filter(|leg| self.has_leg(*leg))
    }

    /// Whether a leg can be refreshed only by telling it again what it was told.
    pub fn must_be_told_again(&self, leg: LegId) -> bool {
        let this = self.leg(leg);
        this.timer.is_some_and(|timer| timer.ours) && this.speaks.timer && !this.speaks.update
    }

    /// When the call wants to be told that time has passed.
    pub fn deadline(&self) -> Option<Timestamp> {
        let own = deadline(self.created, self.answered, self.ended.map(|ending| ending.at));
        let asks = self.legs.iter().filter_map(|leg| leg.not_before);
        // A refresh that has to wait is looked for again after whatever ends what it waits for.
        let timers = self.legs.iter().filter(|leg| self.talks(leg)).filter_map(|leg| {
            let timer = leg.timer.filter(|timer| !timer.ours || self.can_refresh(leg))?;
            Some(timer.due().max(leg.not_before.filter(|_| timer.ours).unwrap_or(Timestamp(0))))
        });
        let transfer = self.referral.as_ref().and_then(Referral::deadline);
        own.into_iter()
            .chain(transfer)
            .chain(self.to_be_asked().map(|(_, at)| at))
            .chain(asks)
            .chain(timers)
            .chain(self.next_at())
            .chain(self.silent().map(|(_, at)| at))
            .min()
    }

    /// Whether the other side's answer will come with this leg's ACK (RFC 3261 §13.2.1, a late offer).
    pub fn awaits_answer_of(&self, leg: LegId) -> bool {
        let waits = |peer: LegId| self.leg(peer).out.as_ref().is_some_and(|out| out.stage == StageOut::AckWaits);
        let first = self.peer(leg).is_some_and(waits);
        first || self.relays.iter().any(|relay| relay.from == leg && relay.late_offer && relay.answer.is_some())
    }

    /// The call as over, and its CDR: for one that nobody can carry on.
    pub fn given_up(mut self, now: Timestamp) -> (Self, Cdr) {
        self.ended = Some(Ending { at: now, status: StatusCode::SERVER_INTERNAL_ERROR, by: EndedBy::System });
        let cdr = self.cdr();
        (self, cdr)
    }

    /// The token of a leg.
    pub fn token(&self, leg: LegId) -> Token {
        Token { vnode: self.vnode, call: self.id, leg }
    }

    pub(super) fn cdr(&self) -> Cdr {
        let ending = self.ended.unwrap_or(Ending { at: self.created, status: StatusCode::OK, by: EndedBy::System });
        Cdr {
            call: self.id,
            caller: self.caller.clone(),
            callee: self.callee.clone(),
            created: self.created,
            answered: self.answered,
            ended: ending.at,
            status: if self.answered.is_some() { StatusCode::OK } else { ending.status },
            by: ending.by,
        }
    }
}

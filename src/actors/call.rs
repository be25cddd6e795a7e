//! The actor of one call: runs [`crate::sip::b2bua::Call`], commits its steps, and supervises its legs.
//! Layer: shell.
//!
//! It takes one input at a time and waits for the commit in between, so what a phone sees is always what the
//! cluster remembers. When it fails, [`super::calls`] makes it again from its record.
//!
//! A call on which nothing is open goes to sleep: its actors end, and the record is what is left until somebody has something
//! for it. First nothing more is handed to its actors ([`super::directory::Directory::set_resting`]), then its dialogs, which
//! have read all that they had by then, say whether they rest; if one doesn't, the call stays awake.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SupervisionEvent};
use ractor_cluster::RactorMessage;
use tracing::Instrument;

use super::alarm::Alarm;
use super::call_media::{CallMedia, Part};
use super::calls::CallsMsg;
use super::comeback;
use super::descriptions::{self, Refused, is_sdp};
use super::dialog::{self, DialogActor, DialogMsg};
use super::keys;
use super::media_leg::{self, Learned, MediaLegMsg};
use super::quality;
use super::recording;
use super::records;
use super::router;
use super::seen;
use super::services::Services;
use super::supervise::Budget;
use super::transport;
use super::unsaid::{Unsaid, asks_for_an_answer, take_back, unavailable};
use crate::clock::{self, Timestamp};
use crate::cluster::ProposeError;
use crate::ids::{Aor, CallId, LegId, VnodeId};
use crate::media::core::{Policy, Session};
use crate::media::ports::PortPool;
use crate::sip::b2bua::{Body, Call, CallInput, CallLeg, CallState, Effect, EndedBy, Mutation, NewCall, Step, Target};
use crate::sip::dialog::Flow;
use crate::sip::endpoint;
use crate::sip::events::Seen;
use crate::sip::leg::{LegCommand, LegEvent};
use crate::sip::message::{Request, Response};
use crate::sip::registrar::Phone;
use crate::sip::{StatusCode, Text};

/// At most this many inputs wait for a commit.
const MAX_UNSAID: usize = 32;
/// How soon a deadline is tried again whose commit failed.
const AGAIN: Duration = Duration::from_secs(1);
/// The two sides of the media: the caller's, and that of whoever is called.
const SIDES: [LegId; 2] = [LegId::CALLER, LegId::CALLEE];

/// What a call is told.
#[derive(RactorMessage, Debug)]
pub enum CallMsg {
    /// A dialog's event.
    Leg(LegId, Box<LegEvent>),
    /// A media leg: what is known of one of its streams (`m=` lines).
    Learned(LegId, usize, Learned),
    /// The relay: nothing has passed for the timeout.
    MediaIdle,
    /// Somebody who is no phone ends it.
    HangUp {
        /// What a caller who still waits gets.
        status: StatusCode,
        /// For the CDR.
        by: EndedBy,
    },
    /// Somebody who is no phone: its sound is kept from now on, or not.
    Record(bool),
    /// Whom the contacts mean that somebody sent the caller on to.
    Located {
        /// The contacts.
        contacts: Vec<Text>,
        /// Whom they mean.
        targets: Vec<Target>,
    },
    /// A dialog: something it said did not leave.
    Unsent(LegId),
    /// A look at the registrations: a leg's connection has ended, and its phone has come back by this flow, or not yet.
    CameBack(LegId, Option<Flow>),
    /// A dialog has nothing open at the moment.
    AtRest(LegId),
    /// A dialog's answer to [`DialogMsg::Rest`].
    Rests {
        /// Whose.
        leg: LegId,
        /// To which attempt.
        attempt: u32,
        /// Nothing is open there.
        rests: bool,
    },
    /// The alarm.
    Due,
    /// A test: fail here and now.
    #[cfg(test)]
    Panic,
}

/// A call that an INVITE begins.
#[derive(Debug)]
pub struct Incoming {
    /// The INVITE.
    pub invite: Request,
    /// How it came.
    pub flow: Flow,
    /// Whom it may reach.
    pub targets: Vec<Target>,
    /// Who calls whom, for the CDR.
    pub caller: String,
    /// See `caller`.
    pub callee: String,
    /// Who the caller is, as a registered phone.
    pub phone: Phone,
    /// It is a peer whose word on who calls is taken.
    pub trusted: bool,
}

/// How a call's actor begins.
#[derive(Debug)]
pub enum Begin {
    /// With an INVITE.
    New(Box<Incoming>),
    /// From its record.
    Resume(Box<CallState>, Session),
    /// From its record, to end it: it has failed too often.
    Bury(Box<CallState>, Session),
}

/// What it is made with.
pub struct Start {
    /// The node's.
    pub services: Arc<Services>,
    /// Which.
    pub id: CallId,
    /// Whose.
    pub vnode: VnodeId,
    /// Its supervisor.
    pub calls: ActorRef<CallsMsg>,
    /// The vnode's ports.
    pub ports: Arc<PortPool>,
    /// How.
    pub begin: Begin,
}

/// The actor.
pub struct CallActor;

/// What it has.
pub struct Running {
    services: Arc<Services>,
    id: CallId,
    vnode: VnodeId,
    calls: ActorRef<CallsMsg>,
    span: tracing::Span,
    /// `None` until the INVITE is taken on.
    core: Option<Call>,
    incoming: Option<Box<Incoming>>,
    media: CallMedia,
    legs: BTreeMap<LegId, Leg>,
    media_legs: [ActorRef<MediaLegMsg>; 2],
    media_budgets: [Budget; 2],
    alarm: Alarm,
    /// After a commit that failed: when the next attempt may be.
    not_before: Option<Timestamp>,
    /// What waits for that attempt.
    unsaid: VecDeque<Unsaid>,
    /// When to look whether phones have come back that something waits for.
    look_at: Option<Timestamp>,
    /// What it is to its users, as their watchers know.
    seen: Vec<(Aor, Seen)>,
    /// On the way to sleep.
    resting: bool,
    /// How often it has been on that way.
    attempts: u32,
}

/// A leg's actor.
struct Leg {
    dialog: ActorRef<DialogMsg>,
    budget: Budget,
    /// Nothing is open there, as far as is known.
    at_rest: bool,
    /// It has agreed to sleep.
    rests: bool,
}

impl Actor for CallActor {
    type Msg = CallMsg;
    type State = Running;
    type Arguments = Start;

    async fn pre_start(&self, myself: ActorRef<CallMsg>, start: Start) -> Result<Running, ActorProcessingErr> {
        let Start { services, id, vnode, calls, ports, begin } = start;
        let span = tracing::info_span!("call", call_id = %id, trace_id = %id, %vnode);
        let mut media_legs = Vec::new();
        for side in SIDES {
            let media = media_leg::spawn(&services, &myself, (vnode, id), side).await?;
            services.directory.set_media(id, side, media.clone());
            media_legs.push(media);
        }
        services.directory.set_call(id, myself.clone());
        let site = services.site_of(vnode).ok_or("a vnode without an address")?;
        let session = Session { keeps: site.moves, ..Session::new(site.ips, records::media_id(id)) };
        let two = "two legs were made above";
        let mut running = Running {
            services,
            id,
            vnode,
            calls,
            span,
            core: None,
            incoming: None,
            media: CallMedia::new(id, session, ports.clone()),
            legs: BTreeMap::new(),
            media_legs: media_legs.try_into().map_err(|_| two)?,
            media_budgets: Default::default(),
            alarm: Alarm::default(),
            not_before: None,
            unsaid: VecDeque::new(),
            look_at: None,
            seen: Vec::new(),
            resting: false,
            attempts: 0,
        };
        match begin {
            Begin::New(incoming) => {
                running.make_leg(&myself, LegId::CALLER).await?;
                let first = DialogMsg::Request(Box::new(incoming.invite.clone()), incoming.flow);
                running.incoming = Some(incoming);
                running.leg(LegId::CALLER).ok_or("the caller's leg was made above")?.dialog.cast(first)?;
            }
            Begin::Resume(state, media) => Box::pin(running.resume(&myself, *state, CallMedia::new(id, media, ports))).await,
            Begin::Bury(state, media) => {
                Box::pin(running.resume(&myself, *state, CallMedia::new(id, media, ports))).await;
                myself.cast(CallMsg::HangUp { status: StatusCode::SERVER_INTERNAL_ERROR, by: EndedBy::System })?;
            }
        }
        running.set_alarm(&myself);
        Ok(running)
    }

    async fn handle(&self, myself: ActorRef<CallMsg>, message: CallMsg, running: &mut Running) -> Result<(), ActorProcessingErr> {
        let span = running.span.clone();
        // Boxed: a call that waits for its next message holds no room for the handling of one.
        Box::pin(async {
            match message {
                CallMsg::Leg(leg, event) => running.leg_event(&myself, leg, *event).await,
                CallMsg::Learned(leg, stream, what) => running.learned(&myself, leg, stream, what).await,
                CallMsg::MediaIdle => running.media_idle(&myself).await,
                CallMsg::Record(on) => running.record(&myself, on).await,
                CallMsg::HangUp { status, by } => running.hang_up(&myself, status, by).await,
                CallMsg::Located { contacts, targets } => running.say(&myself, Unsaid::Located(contacts, targets)).await,
                CallMsg::Unsent(leg) => running.look(&myself, leg),
                CallMsg::CameBack(leg, flow) => running.came_back(&myself, leg, flow).await,
                CallMsg::AtRest(leg) => running.leg(leg).into_iter().for_each(|leg| leg.at_rest = true),
                CallMsg::Rests { leg, attempt, rests } => running.rests(leg, attempt, rests),
                CallMsg::Due => running.due(&myself).await,
                #[cfg(test)]
                CallMsg::Panic => panic!("a test asked for it"),
            }
            running.anchor(&myself).await;
            running.refresh(&myself).await;
            running.set_alarm(&myself);
            running.sleep_if_quiet(&myself);
        })
        .instrument(span)
        .await;
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<CallMsg>,
        event: SupervisionEvent,
        running: &mut Running,
    ) -> Result<(), ActorProcessingErr> {
        if let SupervisionEvent::ActorFailed(child, error) = event {
            let span = running.span.clone();
            running.stay_awake();
            Box::pin(running.child_failed(&myself, &child, &error)).instrument(span).await?;
            running.set_alarm(&myself);
        }
        Ok(())
    }
}

async fn spawn_dialog(
    services: &Arc<Services>,
    call: &ActorRef<CallMsg>,
    leg: LegId,
) -> Result<ActorRef<DialogMsg>, ActorProcessingErr> {
    let start = dialog::Start { services: services.clone(), call: call.clone(), leg };
    Ok(Actor::spawn_linked(None, DialogActor, start, call.get_cell()).await?.0)
}

impl Running {
    fn leg(&mut self, leg: LegId) -> Option<&mut Leg> {
        self.legs.get_mut(&leg)
    }

    /// Makes a leg's actor, and tells the directory.
    async fn make_leg(&mut self, myself: &ActorRef<CallMsg>, leg: LegId) -> Result<(), ActorProcessingErr> {
        let dialog = spawn_dialog(&self.services, myself, leg).await?;
        self.services.directory.set_dialog(self.id, leg, dialog.clone());
        let budget = self.legs.remove(&leg).map(|leg| leg.budget).unwrap_or_default();
        self.legs.insert(leg, Leg { dialog, budget, at_rest: true, rests: false });
        Ok(())
    }

    /// Makes the actors of legs that have none yet.
    async fn make_legs(&mut self, myself: &ActorRef<CallMsg>) {
        let all = self.core.as_ref().map(|core| core.state().leg_ids()).unwrap_or_default();
        for leg in all.into_iter().filter(|leg| !self.legs.contains_key(leg)).collect::<Vec<_>>() {
            if let Err(error) = self.make_leg(myself, leg).await {
                // What it has to say is not said: its phone is not there, as far as the call knows.
                tracing::error!(%leg, %error, "a leg's actor did not start");
            }
        }
    }

    fn set_alarm(&mut self, myself: &ActorRef<CallMsg>) {
        let deadline = self.core.as_ref().and_then(Call::deadline);
        // What couldn't be committed is still due, and isn't tried in a loop.
        let deadline = deadline.map(|at| self.not_before.map_or(at, |earliest| at.max(earliest)));
        let waits = !self.unsaid.is_empty() || self.movable().is_some();
        let retry = self.not_before.filter(|_| waits);
        let looks = self.core.as_ref().is_some_and(|core| {
            let waits = |leg: &CallLeg| self.legs.get(&leg.id).is_some_and(|actor| !actor.at_rest);
            core.state().legs.iter().any(|leg| waits(leg) && comeback::may_come_back(leg))
        });
        self.look_at = looks.then(|| self.look_at.unwrap_or_else(|| clock::now() + comeback::LOOK));
        let deadline = deadline.into_iter().chain(retry).chain(self.look_at).min();
        self.alarm.set(myself, deadline, || CallMsg::Due);
    }

    async fn resume(&mut self, myself: &ActorRef<CallMsg>, state: CallState, media: CallMedia) {
        let ended = state.ended.is_some();
        self.media = media;
        for leg in &state.legs {
            self.media.reaches(state.side(leg.id), leg.dialog.flow.remote.ip());
        }
        self.seen = state.seen();
        let (core, effects) = Call::resume(state, rand::random());
        self.core = Some(core);
        if ended {
            // The one who committed the end may not have come to close them.
            self.services.relay.close(self.id);
            self.media.release();
        }
        self.tell_relay(true);
        self.make_legs(myself).await;
        self.perform(myself, effects).await;
        self.anchor(myself).await;
    }

    /// Asks the phones to come along whose vnode has come to another address, as far as they can be asked now.
    async fn anchor(&mut self, myself: &ActorRef<CallMsg>) {
        while let Some(leg) = self.movable().filter(|_| self.not_before.is_none_or(|at| at <= clock::now())) {
            let content_type = Text::from_static("application/sdp");
            let body = self.media.tell_again(self.side(leg)).map(|bytes| Body { content_type, bytes });
            tracing::info!(%leg, "asks the phone to come along");
            metrics::counter!("tandem_reanchored_total").increment(1);
            self.input(myself, CallInput::Anchor(leg, body)).await;
        }
    }

    /// Refreshes the sessions that are ours to refresh (RFC 4028).
    async fn refresh(&mut self, myself: &ActorRef<CallMsg>) {
        while let Some(leg) = self.core.as_ref().and_then(|core| core.state().refreshable(clock::now()))
            && self.not_before.is_none_or(|at| at <= clock::now())
        {
            let content_type = Text::from_static("application/sdp");
            let body = self.media.told(self.side(leg)).map(|bytes| Body { content_type, bytes });
            self.input(myself, CallInput::Refresh(leg, body)).await;
        }
    }

    /// Looks whether the phone of a leg has come back by another flow.
    fn look(&mut self, myself: &ActorRef<CallMsg>, leg: LegId) {
        self.leg(leg).into_iter().for_each(|leg| leg.at_rest = false);
        if let Some(core) = self.core.as_ref().filter(|core| core.state().has_leg(leg)) {
            comeback::look(&self.services, myself, leg, core.state().leg(leg));
        }
    }

    async fn came_back(&mut self, myself: &ActorRef<CallMsg>, leg: LegId, flow: Option<Flow>) {
        match (flow, self.legs.get(&leg)) {
            (Some(flow), _) => drop(self.input(myself, CallInput::Rebind(leg, flow)).await),
            (None, Some(actor)) => {
                let state = self.core.as_ref().map(Call::state).filter(|state| state.has_leg(leg));
                let dialed = state.map(|state| state.leg(leg).dialog.flow).filter(Flow::is_dialed);
                drop(actor.dialog.cast(DialogMsg::Lost(dialed)));
            }
            (None, None) => {}
        }
    }

    fn side(&self, leg: LegId) -> usize {
        self.core.as_ref().map_or(0, |core| core.state().side(leg))
    }

    fn movable(&self) -> Option<LegId> {
        self.core.as_ref()?.state().movable(clock::now())
    }

    // --- sleep ---

    /// Whether nothing is open as far as the call itself knows.
    fn is_quiet(&self) -> bool {
        // Who is in a handshake has its first half in an actor.
        let agrees = SIDES.iter().any(|side| self.media.session().awaits_keys(usize::from(side.0)));
        let rests = self.core.as_ref().is_some_and(|core| core.state().can_sleep());
        rests && !agrees && self.unsaid.is_empty() && self.not_before.is_none()
    }

    /// Goes one step further toward sleep, or not.
    fn sleep_if_quiet(&mut self, myself: &ActorRef<CallMsg>) {
        if !self.is_quiet() || !self.legs.values().all(|leg| leg.at_rest) {
            return self.stay_awake();
        }
        if !self.resting {
            self.resting = true;
            self.attempts += 1;
            self.services.directory.set_resting(self.id, true);
            for leg in self.legs.values_mut() {
                leg.rests = false;
                let _ = leg.dialog.cast(DialogMsg::Rest { attempt: self.attempts });
            }
        } else if self.legs.values().all(|leg| leg.rests) {
            tracing::debug!("asleep");
            myself.stop(None);
        }
    }

    fn rests(&mut self, leg: LegId, attempt: u32, rests: bool) {
        // An answer to an attempt that came to nothing says nothing about this one.
        let counts = self.resting && attempt == self.attempts;
        if let Some(leg) = self.leg(leg) {
            leg.at_rest &= rests;
            leg.rests = rests && counts;
        }
    }

    fn stay_awake(&mut self) {
        if std::mem::take(&mut self.resting) {
            self.services.directory.set_resting(self.id, false);
            let _ = self.calls.cast(CallsMsg::StaysAwake(self.id));
        }
    }

    // --- inputs ---

    async fn leg_event(&mut self, myself: &ActorRef<CallMsg>, leg: LegId, event: LegEvent) {
        self.leg(leg).into_iter().for_each(|leg| leg.at_rest = false);
        if self.core.is_none() {
            if let LegEvent::Request(_, invite, _) = event {
                self.begin(myself, invite).await;
            }
            return;
        }
        self.say(myself, Unsaid::Event(leg, event)).await;
    }

    async fn hang_up(&mut self, myself: &ActorRef<CallMsg>, status: StatusCode, by: EndedBy) {
        self.say(myself, Unsaid::HangUp(status, by)).await;
    }

    /// The alarm: first what waits for a commit, then the deadline.
    async fn due(&mut self, myself: &ActorRef<CallMsg>) {
        for unsaid in std::mem::take(&mut self.unsaid) {
            self.say(myself, unsaid).await;
        }
        if self.look_at.take_if(|at| *at <= clock::now()).is_some() {
            let open: Vec<_> = self.legs.iter().filter(|(_, leg)| !leg.at_rest).map(|(leg, _)| *leg).collect();
            open.into_iter().for_each(|leg| self.look(myself, leg));
        }
        self.input(myself, CallInput::Timeout).await;
    }

    /// Feeds the core something that nobody says twice: when its commit fails it waits here for the next attempt.
    async fn say(&mut self, myself: &ActorRef<CallMsg>, unsaid: Unsaid) {
        let again = unsaid.is_said_once().then(|| unsaid.clone());
        let committed = match unsaid {
            Unsaid::Event(leg, event) => self.event(myself, leg, event).await,
            Unsaid::HangUp(status, by) => self.input(myself, CallInput::HangUp { status, by }).await,
            Unsaid::Located(contacts, targets) => self.input(myself, CallInput::Located { contacts, targets }).await,
        };
        if !committed && self.unsaid.len() < MAX_UNSAID {
            self.unsaid.extend(again);
        }
    }

    async fn event(&mut self, myself: &ActorRef<CallMsg>, leg: LegId, event: LegEvent) -> bool {
        let asked = asks_for_an_answer(&event).map(|(key, request)| (key.clone(), request.clone()));
        let offer = descriptions::offer_in(&event).cloned();
        let before = self.media.checkpoint();
        let translated = match self.core.as_ref().map(Call::state) {
            Some(state) => {
                descriptions::treat(&mut self.media, &self.services, state, leg);
                descriptions::translate(&mut self.media, state, leg, event)
            }
            None => Ok(event),
        };
        match translated {
            Ok(event) => {
                let input = keys::input(&self.media, self.core.as_ref().map(Call::state), leg, event);
                let step = self.core.as_mut().map(|core| core.handle(input, clock::now()));
                let Some(mut step) = step else { return true };
                let state = self.core.as_ref().map(Call::state).filter(|_| step.commit.is_some());
                if !state.is_some_and(|state| descriptions::is_made_of(state, offer.as_ref())) {
                    // The core made nothing of it, so neither does the media plane.
                    self.media.restore(before);
                }
                // What can't be committed isn't promised, and whoever asked is told (design, *The one rule*).
                if let Some((key, request)) = asked.filter(|_| step.commit.is_some() && step.otherwise.is_empty()) {
                    step.otherwise.push(Effect::Leg(leg, LegCommand::Respond(key, unavailable(&request))));
                }
                self.advance(myself, step).await
            }
            Err(Refused::Request(key, response)) => {
                self.tell(leg, LegCommand::Respond(key, *response));
                true
            }
            Err(Refused::Answer(response)) => self.input(myself, CallInput::Unusable(leg, response)).await,
            // What everything waited for is unusable. Its sender is hung up on.
            Err(Refused::Ack) => {
                let end = CallInput::HangUp { status: StatusCode::NOT_ACCEPTABLE_HERE, by: EndedBy::System };
                self.input(myself, end).await
            }
        }
    }

    async fn input(&mut self, myself: &ActorRef<CallMsg>, input: CallInput) -> bool {
        match self.core.as_mut().map(|core| core.handle(input, clock::now())) {
            Some(step) => self.advance(myself, step).await,
            None => true,
        }
    }

    /// Takes the INVITE on.
    async fn begin(&mut self, myself: &ActorRef<CallMsg>, invite: Request) {
        let Some(incoming) = self.incoming.take() else { return };
        let Incoming { flow, targets, caller, callee, phone, trusted, .. } = *incoming;
        self.media.reaches(0, flow.remote.ip());
        self.media.reaches(1, targets.first().map_or(flow, |target| target.flow).remote.ip());
        let called = targets.first().map(|target| (target.phone.as_ref(), target.flow.transport));
        let policies = [Some((Some(&phone), flow.transport)), called]
            .map(|phone| phone.map_or(Policy::default(), |(phone, by)| descriptions::policy(&self.services, phone, by)));
        self.media.treats(policies, [false; 2], [Some(flow.remote.ip()), None]);
        self.media.may_code(&self.services.config.media);
        let body = match Body::of(&invite.headers, &invite.body) {
            Some(body) if is_sdp(&invite.headers) => match self.media.translate(0, Part::Offer, &body.bytes) {
                Ok(bytes) => Some(Body { bytes, ..body }),
                Err(error) => {
                    tracing::info!(%error, "an offer that can't be taken");
                    return self.refuse(myself, flow, endpoint::stateless(&invite, StatusCode::NOT_ACCEPTABLE_HERE));
                }
            },
            Some(_) => return self.refuse(myself, flow, endpoint::stateless(&invite, StatusCode::UNSUPPORTED_MEDIA_TYPE)),
            None => None,
        };
        let new = NewCall {
            id: self.id,
            vnode: self.vnode,
            invite: invite.clone(),
            from: flow,
            session: self.services.session,
            phone: Some(phone),
            targets,
            body,
            caller,
            trusted,
            callee,
        };
        match Call::new(new, rand::random(), clock::now()) {
            Ok((core, step)) => {
                self.core = Some(core);
                tracing::info!("call begins");
                metrics::counter!("tandem_calls_total").increment(1);
                if !self.advance(myself, step).await {
                    tokio::spawn(take_back(self.services.clone(), self.vnode, self.id));
                }
            }
            Err(error) => self.refuse(myself, flow, error.response(&invite)),
        }
    }

    /// Answers without a call, the same way each time (RFC 3261 §8.2.7).
    fn refuse(&mut self, myself: &ActorRef<CallMsg>, flow: Flow, response: Response) {
        transport::respond(&self.services, flow, response);
        self.media.roll_back();
        self.close(myself);
    }

    async fn learned(&mut self, myself: &ActorRef<CallMsg>, leg: LegId, stream: usize, what: Learned) {
        let Some(core) = self.core.as_mut().filter(|core| core.state().ended.is_none()) else { return };
        if let Learned::Stuck { number } = what {
            // Whoever is asked for something already is found stuck again after that.
            let asked = core.state().peer_of_side(leg).filter(|seated| core.may_be_told_again(*seated));
            if let Some(seated) = asked.filter(|_| self.media.renew(usize::from(leg.0), stream, number)) {
                tracing::info!(%leg, "a handshake was lost: its phone is asked for another");
                core.tell_again(seated);
            }
            return;
        }
        if self.media.learn(leg, stream, what) {
            // Without the commit a next owner begins with what is known so far: no promise hangs on it.
            let step = core.again();
            self.advance(myself, step).await;
        }
    }

    async fn record(&mut self, myself: &ActorRef<CallMsg>, on: bool) {
        let Some(core) = self.core.as_mut().filter(|core| core.state().ended.is_none()) else { return };
        self.media.record(on);
        let step = core.again();
        self.advance(myself, step).await;
    }

    async fn media_idle(&mut self, myself: &ActorRef<CallMsg>) {
        if self.media.session().is_silent_on_purpose() {
            return;
        }
        tracing::info!("no media: ending the call");
        metrics::counter!("tandem_media_timeouts_total").increment(1);
        self.hang_up(myself, StatusCode::REQUEST_TIMEOUT, EndedBy::System).await;
    }

    // --- steps ---

    /// Commits, then performs. Tells whether it was committed.
    async fn advance(&mut self, myself: &ActorRef<CallMsg>, step: Step) -> bool {
        let Step { commit, then, otherwise } = step;
        self.make_legs(myself).await;
        let Some(mutation) = commit else {
            // That one more phone rings is not worth a commit.
            self.announce();
            self.perform(myself, then).await;
            return true;
        };
        if let Some(core) = &self.core {
            let state = core.state();
            quality::measure(&mut self.media, &self.services, state);
            descriptions::certify(&mut self.media, &self.services, state, &then);
            let again = |side| state.peer_of_side(side).is_some_and(|leg| state.must_be_told_again(leg));
            self.media.keep_told(SIDES.map(again));
            descriptions::settle(&mut self.media, state);
            recording::begin(&mut self.media, &self.services, state);
        }
        let command = records::command(&mutation, self.media.session());
        match self.services.cluster.propose(self.vnode, command).await {
            Ok(_) => {
                self.not_before = None;
                self.tell_log(&mutation);
                if let Some(core) = &mut self.core {
                    core.committed();
                }
                self.announce();
                self.tell_relay(false);
                self.media.committed();
                self.perform(myself, then).await;
                true
            }
            Err(error) => {
                tracing::warn!(%error, "not committed");
                self.not_before = Some(clock::now() + AGAIN);
                metrics::counter!("tandem_uncommitted_total").increment(1);
                if let Some(core) = &mut self.core {
                    core.roll_back();
                }
                self.media.roll_back();
                // The vnode is on its way to another node: nothing is said here, and the phone repeats it there.
                let silent = error == ProposeError::NotOwner;
                let said = otherwise.into_iter().filter(|effect| !silent || !matches!(effect, Effect::Leg(..)));
                self.perform(myself, said.collect()).await;
                false
            }
        }
    }

    /// Tells those who watch its users what the call is now.
    fn announce(&mut self) {
        let Some(now) = self.core.as_ref().map(|core| core.state().seen()).filter(|now| *now != self.seen) else { return };
        seen::announce(&self.services, self.vnode, &self.seen, &now);
        self.seen = now;
    }

    fn tell_log(&self, mutation: &Mutation) {
        match mutation {
            Mutation::Put(state) => tracing::debug!(answered = state.answered.is_some(), "committed"),
            Mutation::End(_, cdr) => {
                let answered = cdr.answered.is_some();
                tracing::info!(status = cdr.status.code(), by = records::ended_by(cdr.by), answered, "call ended");
                quality::ended(cdr, self.media.session());
            }
            Mutation::Forget(_) => tracing::debug!("forgotten"),
        }
    }

    async fn perform(&mut self, myself: &ActorRef<CallMsg>, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Leg(leg, command) => {
                    let state = self.core.as_ref().map(Call::state);
                    let command = descriptions::toward(self.media.session(), &self.services, state, (leg, command));
                    self.tell(leg, command);
                }
                Effect::Locate(contacts) => router::locate(&self.services, self.vnode, contacts, myself.clone()),
                Effect::Press(leg, info) => {
                    keys::press(&self.services.relay, &self.media, self.core.as_ref().map(Call::state), leg, &info);
                }
                Effect::CloseMedia => {
                    // First those who may still have something to tell the relay, then the relay.
                    for media in &self.media_legs {
                        let _ = media.stop_and_wait(None, None).await;
                    }
                    self.services.relay.close(self.id);
                    self.media.release();
                }
                Effect::Close => self.close(myself),
            }
        }
    }

    fn tell(&mut self, leg: LegId, command: LegCommand) {
        if let Some(leg) = self.leg(leg) {
            leg.at_rest = false;
            // A dialog that has just failed is made anew, and told then.
            let _ = leg.dialog.cast(DialogMsg::Command(Box::new(command)));
        }
    }

    fn tell_relay(&mut self, again: bool) {
        for side in SIDES {
            if let Some(wants) = self.media.wants(side, again) {
                let _ = self.media_legs[usize::from(side.0)].cast(MediaLegMsg::Apply(wants));
            }
        }
    }

    fn close(&mut self, myself: &ActorRef<CallMsg>) {
        if self.core.as_ref().is_some_and(|core| core.state().ended.is_some()) {
            self.services.directory.remember_end(self.id, clock::now());
        }
        self.services.directory.remove(self.id);
        myself.stop(None);
    }

    // --- supervision ---

    async fn child_failed(
        &mut self,
        myself: &ActorRef<CallMsg>,
        child: &ActorCell,
        error: &ActorProcessingErr,
    ) -> Result<(), ActorProcessingErr> {
        let failed = child.get_id();
        let known = self.legs.iter().find(|(_, leg)| leg.dialog.get_id() == failed).map(|(leg, _)| *leg);
        if let Some(leg) = known {
            tracing::error!(%leg, %error, "dialog failed");
            metrics::counter!("tandem_actor_restarts_total", "actor" => "dialog").increment(1);
            self.make_leg(myself, leg).await?;
            if self.leg(leg).is_some_and(|leg| leg.budget.failed(clock::now())) {
                let core = self.core.as_mut().filter(|core| core.state().has_leg(leg));
                let open = core.map(|core| core.remake_leg(leg)).unwrap_or_default();
                self.perform(myself, open).await;
            } else {
                self.give_up(myself).await;
            }
        }
        for (at, side) in SIDES.into_iter().enumerate() {
            if self.media_legs[at].get_id() == failed {
                tracing::error!(leg = %side, %error, "media leg failed");
                metrics::counter!("tandem_actor_restarts_total", "actor" => "media_leg").increment(1);
                self.media_legs[at] = media_leg::spawn(&self.services, myself, (self.vnode, self.id), side).await?;
                self.services.directory.set_media(self.id, side, self.media_legs[at].clone());
                if self.media_budgets[at].failed(clock::now()) {
                    self.tell_relay(true);
                } else {
                    self.give_up(myself).await;
                }
            }
        }
        Ok(())
    }

    /// What keeps failing ends its own call, properly.
    async fn give_up(&mut self, myself: &ActorRef<CallMsg>) {
        tracing::error!("failed too often: ending the call");
        metrics::counter!("tandem_calls_given_up_total").increment(1);
        self.hang_up(myself, StatusCode::SERVER_INTERNAL_ERROR, EndedBy::System).await;
    }
}

//! The users of one vnode who are watched: an actor for each to whose watchers something is on its way. Layer: shell.
//!
//! What the calls of those users are is not stored: they are calls of any vnode's, whose owners say when one is something else to its users
//! ([`super::seen`]). What was missed is found by looking: when somebody begins to watch, and when an owner dies.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use ractor_cluster::RactorMessage;

use super::alarm::Alarm;
use super::notifier::{self, NotifierActor, NotifierMsg, Report};
use super::registration::unavailable;
use super::seen::{self, Found, Sighting};
use super::services::Services;
use super::{gateway, records, transport, watched};
use crate::clock::{self, Timestamp};
use crate::ids::{Aor, CallId, VnodeId};
use crate::sip::dialog::Flow;
use crate::sip::endpoint;
use crate::sip::events::{Input, Package, Role, Seen};
use crate::sip::message::{Message, Request};
use crate::sip::registrar::Phone;
use crate::sip::{Method, StatusCode};

/// So many users' watchers are told anew at once after a takeover, and how often.
const RENEWED: usize = 20;
const RENEW: Duration = Duration::from_millis(50);
/// At most so much waits for one user.
const WAITING: usize = 64;
/// When it is looked for calls after somebody began to watch them, or their owner has changed: what was on its way then has come.
const LOOKS: [Duration; 2] = [Duration::from_millis(300), Duration::from_secs(4)];
/// A call that was seen so recently may be newer than the records that don't have it.
const RECENT: Duration = Duration::from_secs(2);
/// Looking takes at most one part in so many of a core, but is done after this all the same.
const SHARE: u32 = 10;
const PATIENCE: Duration = Duration::from_secs(5);
/// And it is looked now and then whatever was said: a word between nodes may be lost.
const ANYWAY: Duration = Duration::from_secs(60);

/// What it is told.
#[derive(RactorMessage, Debug)]
pub enum NotifiersMsg {
    /// The router: a SUBSCRIBE or PUBLISH of somebody who may, and who its phone is.
    Asked(Aor, Box<Request>, Flow, Option<Phone>),
    /// The router: a request or an answer with a subscription's token.
    Within(CallId, Box<Message>, Flow),
    /// A registration: there is something else to say of a user.
    Changed(Aor, BTreeSet<Package>),
    /// A call's owner: what the call is to a user.
    Sighting(Aor, Sighting),
    /// A vnode has an owner again: some of what its calls are may not have been said.
    Opened(VnodeId),
    /// A look has found these.
    Found(Found),
    /// A user's actor has done something.
    Done {
        /// Whose.
        aor: Aor,
        /// It was asked to.
        asked: bool,
        /// What it was asked to begin.
        begins: Option<CallId>,
        /// How things are.
        report: Report,
    },
    /// The clock.
    Due,
}

/// What it is made with.
#[derive(Clone)]
pub struct Start {
    /// The node's.
    pub services: Arc<Services>,
    /// Whose.
    pub vnode: VnodeId,
}

/// The actor.
pub struct NotifiersActor;

/// What it has.
pub struct Running {
    start: Start,
    users: BTreeMap<Aor, User>,
    subscriptions: HashMap<CallId, Aor>,
    awake: HashMap<Aor, Awake>,
    /// When something ends of users who sleep.
    deadlines: BTreeSet<(Timestamp, Aor)>,
    /// Whose watchers are told anew.
    renewing: VecDeque<Aor>,
    /// The next of them; they wait until it is known what calls there are.
    renew_at: Option<Timestamp>,
    /// When what is looked for.
    looks: BTreeSet<(Timestamp, Look)>,
    /// Somebody looks.
    looking: bool,
    /// And nobody before this.
    not_before: Timestamp,
    /// Since when it is here.
    opened: Timestamp,
    alarm: Alarm,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Look {
    /// For the calls of this user.
    User(Aor),
    /// For the calls of this vnode.
    Vnode(VnodeId),
    /// For all of them.
    All,
}

/// A user who is watched.
#[derive(Default)]
struct User {
    report: Report,
    /// Its calls, and when each was seen.
    calls: Arc<Vec<Seen>>,
    seen: HashMap<(CallId, Role), (VnodeId, Timestamp)>,
}

struct Awake {
    actor: ActorRef<NotifierMsg>,
    waiting: usize,
}

impl Actor for NotifiersActor {
    type Msg = NotifiersMsg;
    type State = Running;
    type Arguments = Start;

    async fn pre_start(&self, myself: ActorRef<NotifiersMsg>, start: Start) -> Result<Running, ActorProcessingErr> {
        let mut running = Running {
            start,
            users: BTreeMap::new(),
            subscriptions: HashMap::new(),
            awake: HashMap::new(),
            deadlines: BTreeSet::new(),
            renewing: VecDeque::new(),
            renew_at: None,
            looks: BTreeSet::new(),
            looking: false,
            not_before: Timestamp(0),
            opened: clock::now(),
            alarm: Alarm::default(),
        };
        running.go_on();
        running.set_alarm(&myself);
        Ok(running)
    }

    async fn handle(
        &self,
        myself: ActorRef<NotifiersMsg>,
        message: NotifiersMsg,
        running: &mut Running,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            NotifiersMsg::Asked(aor, request, flow, phone) => running.asked(&myself, aor, *request, flow, phone).await?,
            NotifiersMsg::Within(id, message, flow) => running.within(&myself, id, *message, flow).await?,
            NotifiersMsg::Changed(aor, packages) => {
                if running.users.contains_key(&aor) {
                    running.input(&myself, &aor, Input::Changed(packages)).await?;
                }
            }
            NotifiersMsg::Sighting(aor, sighting) => running.sighted(&myself, aor, sighting).await?,
            NotifiersMsg::Opened(vnode) => running.look_later(Look::Vnode(vnode)),
            NotifiersMsg::Found(found) => running.found(&myself, found).await?,
            NotifiersMsg::Done { aor, asked, begins, report } => running.done(aor, asked, begins, report),
            NotifiersMsg::Due => running.due(&myself).await?,
        }
        running.set_alarm(&myself);
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<NotifiersMsg>,
        event: SupervisionEvent,
        running: &mut Running,
    ) -> Result<(), ActorProcessingErr> {
        if let SupervisionEvent::ActorFailed(child, error) = event {
            // The phone's next repetition finds a new one.
            tracing::error!(vnode = %running.start.vnode, %error, "notifier failed");
            metrics::counter!("tandem_actor_restarts_total", "actor" => "notifier").increment(1);
            running.awake.retain(|_, awake| awake.actor.get_id() != child.get_id());
            running.set_alarm(&myself);
        }
        Ok(())
    }
}

impl Running {
    /// Who watches by the records.
    fn go_on(&mut self) {
        let Start { services, vnode } = &self.start;
        let all = services
            .cluster
            .read(*vnode, |state| state.all_watched().map(|(aor, record)| (aor.clone(), record.clone())).collect::<Vec<_>>());
        let now = clock::now();
        for (aor, record) in all.unwrap_or_default() {
            let watched = match watched::restore(&record) {
                Ok(watched) => watched,
                Err(error) => {
                    // Left as it is: a later release may read it.
                    tracing::error!(%vnode, %error, "watchers that can't be restored");
                    continue;
                }
            };
            let bindings = records::decode_bindings(&gateway::local_bindings(services, *vnode, &aor)).unwrap_or_default();
            let binding = notifier::binding_deadline(&watched, &bindings, now);
            let report = Report {
                quiet: true,
                subscriptions: watched.subscriptions.iter().map(|own| own.id).collect::<BTreeSet<_>>(),
                deadline: watched.deadline().into_iter().chain(binding).min(),
                calls: watched.wants(Package::Dialog),
            };
            self.subscriptions.extend(report.subscriptions.iter().map(|id| (*id, aor.clone())));
            if report.calls {
                self.looks.insert((now, Look::User(aor.clone())));
            }
            self.deadlines.extend(report.deadline.map(|at| (at, aor.clone())));
            self.renewing.push_back(aor.clone());
            self.users.insert(aor, User { report, ..User::default() });
        }
        self.renew_at = Some(now).filter(|_| self.looks.is_empty());
        self.looks.insert((now + ANYWAY, Look::All));
        if !self.users.is_empty() {
            tracing::info!(%vnode, users = self.users.len(), subscriptions = self.subscriptions.len(), "watchers go on");
        }
    }

    fn set_alarm(&mut self, myself: &ActorRef<NotifiersMsg>) {
        let ends = self.deadlines.first().map(|(at, _)| *at);
        let looks = self.looks.first().map(|(at, _)| (*at).max(self.not_before)).filter(|_| !self.looking);
        let renews = self.renew_at.filter(|_| !self.renewing.is_empty());
        self.alarm.set(myself, ends.into_iter().chain(looks).chain(renews).min(), || NotifiersMsg::Due);
    }

    async fn due(&mut self, myself: &ActorRef<NotifiersMsg>) -> Result<(), ActorProcessingErr> {
        let now = clock::now();
        while let Some((at, aor)) = self.deadlines.first().filter(|(at, _)| *at <= now).cloned() {
            self.deadlines.remove(&(at, aor.clone()));
            // It says when the next is.
            let calls = self.calls_of(&aor);
            self.tell(myself, &aor, NotifierMsg::Due(calls)).await?;
        }
        if !self.looking && now >= self.not_before && self.looks.first().is_some_and(|(at, _)| *at <= now) {
            self.look(myself, now);
        }
        if self.renew_at.is_some_and(|at| at <= now) {
            self.renew_at = Some(now + RENEW);
            for aor in self.renewing.drain(..self.renewing.len().min(RENEWED)).collect::<Vec<_>>() {
                self.input(myself, &aor, Input::Changed(Package::ALL.into())).await?;
            }
        }
        Ok(())
    }

    // --- what comes ---

    async fn asked(
        &mut self,
        myself: &ActorRef<NotifiersMsg>,
        aor: Aor,
        request: Request,
        flow: Flow,
        phone: Option<Phone>,
    ) -> Result<(), ActorProcessingErr> {
        if self.is_busy(&aor) {
            transport::respond(&self.start.services, flow, unavailable(&request));
            return Ok(());
        }
        let input = if request.method == Method::Publish {
            Input::Publish(request, flow, rand::random())
        } else {
            let id = CallId(rand::random());
            // Before its NOTIFY is answered.
            self.subscriptions.insert(id, aor.clone());
            self.users.entry(aor.clone()).or_default();
            Input::Subscribe { request, flow, id, phone }
        };
        self.input(myself, &aor, input).await
    }

    async fn within(
        &mut self,
        myself: &ActorRef<NotifiersMsg>,
        id: CallId,
        message: Message,
        flow: Flow,
    ) -> Result<(), ActorProcessingErr> {
        match (message, self.subscriptions.get(&id).cloned()) {
            (Message::Response(response), Some(aor)) => self.input(myself, &aor, Input::Response(id, response)).await,
            (Message::Request(request), _) if request.method == Method::Ack => Ok(()),
            (Message::Request(request), Some(aor)) if self.is_busy(&aor) => {
                transport::respond(&self.start.services, flow, unavailable(&request));
                Ok(())
            }
            (Message::Request(request), Some(aor)) => self.input(myself, &aor, Input::Within(id, request, flow)).await,
            (Message::Request(request), None) => {
                let none = endpoint::stateless(&request, StatusCode::CALL_DOES_NOT_EXIST);
                transport::respond(&self.start.services, flow, none);
                Ok(())
            }
            (Message::Response(_), None) => Ok(()),
        }
    }

    async fn input(&mut self, myself: &ActorRef<NotifiersMsg>, aor: &Aor, input: Input) -> Result<(), ActorProcessingErr> {
        let calls = self.calls_of(aor);
        self.tell(myself, aor, NotifierMsg::Input(input, calls)).await
    }

    /// Whether enough waits for a user already.
    fn is_busy(&self, aor: &Aor) -> bool {
        self.awake.get(aor).is_some_and(|awake| awake.waiting >= WAITING)
    }

    fn calls_of(&self, aor: &Aor) -> Arc<Vec<Seen>> {
        self.users.get(aor).map(|user| user.calls.clone()).unwrap_or_default()
    }

    /// Tells the user's actor, which is made if it sleeps.
    async fn tell(&mut self, myself: &ActorRef<NotifiersMsg>, aor: &Aor, message: NotifierMsg) -> Result<(), ActorProcessingErr> {
        if !self.awake.contains_key(aor) {
            let Start { services, vnode } = self.start.clone();
            let start = notifier::Start { services, vnode, aor: aor.clone(), notifiers: myself.clone() };
            match Actor::spawn_linked(None, NotifierActor, start, myself.get_cell()).await {
                Ok((actor, _)) => drop(self.awake.insert(aor.clone(), Awake { actor, waiting: 0 })),
                Err(error) => {
                    // Its record is left as it is: a later release may read it.
                    tracing::error!(vnode = %self.start.vnode, %error, "a notifier did not start");
                    self.refuse(message);
                    return Ok(());
                }
            }
        }
        if let Some(awake) = self.awake.get_mut(aor) {
            awake.waiting += 1;
            let _ = awake.actor.cast(message);
        }
        Ok(())
    }

    /// Whoever asked is told that it can't be done.
    fn refuse(&mut self, message: NotifierMsg) {
        let NotifierMsg::Input(input, _) = message else { return };
        if let Input::Subscribe { id, .. } = &input {
            self.subscriptions.remove(id);
        }
        let (Input::Subscribe { request, flow, .. } | Input::Within(_, request, flow) | Input::Publish(request, flow, _)) = input
        else {
            return;
        };
        let failed = endpoint::stateless(&request, StatusCode::SERVER_INTERNAL_ERROR);
        transport::respond(&self.start.services, flow, failed);
    }

    fn done(&mut self, aor: Aor, asked: bool, begins: Option<CallId>, report: Report) {
        let mut sleeps = !self.awake.contains_key(&aor);
        if let Some(awake) = self.awake.get_mut(&aor) {
            awake.waiting -= usize::from(asked && awake.waiting > 0);
            if awake.waiting == 0 && report.quiet {
                awake.actor.stop(None);
                self.awake.remove(&aor);
                sleeps = true;
            }
        }
        let user = self.users.entry(aor.clone()).or_default();
        let former = std::mem::replace(&mut user.report, report);
        let report = &user.report;
        // Those whose SUBSCRIBE still waits are in neither.
        let over = former.subscriptions.iter().chain(&begins).filter(|id| !report.subscriptions.contains(id));
        for id in over {
            self.subscriptions.remove(id);
        }
        self.subscriptions.extend(report.subscriptions.iter().map(|id| (*id, aor.clone())));
        if let Some(at) = former.deadline {
            self.deadlines.remove(&(at, aor.clone()));
        }
        self.deadlines.extend(report.deadline.map(|at| (at, aor.clone())));
        let (watches, watched) = (report.calls, former.calls);
        let is_over = sleeps && report.subscriptions.is_empty() && report.deadline.is_none();
        if !watches {
            user.calls = Arc::default();
            user.seen.clear();
        }
        if is_over {
            self.users.remove(&aor);
        } else if watches && !watched {
            self.look_later(Look::User(aor));
        }
    }

    // --- calls ---

    /// A call is something else to a user than before, or is over.
    async fn sighted(&mut self, myself: &ActorRef<NotifiersMsg>, aor: Aor, sighting: Sighting) -> Result<(), ActorProcessingErr> {
        let Some(user) = self.users.get_mut(&aor).filter(|user| user.report.calls) else { return Ok(()) };
        if user.see(sighting, clock::now()) {
            self.input(myself, &aor, Input::Changed(BTreeSet::from([Package::Dialog]))).await?;
        }
        Ok(())
    }

    fn look_later(&mut self, look: Look) {
        let now = clock::now();
        self.looks.extend(LOOKS.map(|after| (now + after, look.clone())));
    }

    /// Looks for all that is due, in one go.
    fn look(&mut self, myself: &ActorRef<NotifiersMsg>, now: Timestamp) {
        let (mut users, mut all) = (BTreeSet::new(), false);
        while let Some((_, look)) = self.looks.first().filter(|(at, _)| *at <= now).cloned() {
            self.looks.pop_first();
            match look {
                Look::User(aor) => drop(users.insert(aor)),
                Look::Vnode(_) => all = true,
                Look::All => {
                    all = true;
                    self.looks.insert((now + ANYWAY, Look::All));
                }
            }
        }
        let watched = |(aor, user): (&Aor, &User)| (user.report.calls && (all || users.contains(aor))).then(|| aor.clone());
        let users: Vec<Aor> = self.users.iter().filter_map(watched).collect();
        if users.is_empty() {
            self.renew_at.get_or_insert(now);
            return;
        }
        self.looking = true;
        let (services, myself) = (self.start.services.clone(), myself.clone());
        tokio::spawn(async move {
            let found = seen::look(&services, users, now).await;
            let _ = myself.cast(NotifiersMsg::Found(found));
        });
    }

    async fn found(&mut self, myself: &ActorRef<NotifiersMsg>, found: Found) -> Result<(), ActorProcessingErr> {
        self.looking = false;
        let now = clock::now();
        self.not_before = now + (found.took * SHARE).min(PATIENCE);
        let Found { users, vnodes, missing, sightings, begun, .. } = found;
        // Who is told anew is told of all calls, unless some don't come.
        if missing.is_empty() || now >= self.opened + LOOKS[1] {
            self.renew_at.get_or_insert(now);
        }
        self.looks.extend(missing.into_iter().map(|vnode| (now + RECENT, Look::Vnode(vnode))));
        let mut by_user: HashMap<Aor, Vec<Sighting>> = HashMap::new();
        for (aor, sighting) in sightings {
            by_user.entry(aor).or_default().push(sighting);
        }
        for aor in users {
            let Some(user) = self.users.get_mut(&aor).filter(|user| user.report.calls) else { continue };
            let sightings = by_user.remove(&aor).unwrap_or_default();
            if user.compare(&vnodes, sightings, begun) {
                self.input(myself, &aor, Input::Changed(BTreeSet::from([Package::Dialog]))).await?;
            }
        }
        Ok(())
    }
}

impl User {
    /// Takes in what a call is, as its owner says; tells whether that is something new.
    fn see(&mut self, sighting: Sighting, now: Timestamp) -> bool {
        let Sighting { vnode, call, role, is } = sighting;
        // That it is over stays known for a while, for a look that doesn't know yet.
        self.seen.insert((call, role), (vnode, now));
        let known = self.calls.iter().position(|seen| (seen.call, seen.role) == (call, role));
        let is = is.map(|(stage, remote)| Seen { call, role, stage, remote });
        match (known, is) {
            (Some(at), Some(is)) if self.calls[at] == is => false,
            (Some(at), Some(is)) => {
                Arc::make_mut(&mut self.calls)[at] = is;
                true
            }
            (Some(at), None) => {
                Arc::make_mut(&mut self.calls).remove(at);
                true
            }
            (None, Some(is)) => {
                Arc::make_mut(&mut self.calls).push(is);
                true
            }
            (None, None) => false,
        }
    }

    /// Takes in all that a look has found, which began at `begun`, of these vnodes; tells whether that is something new. What an owner has
    /// said since, or just before, is newer than the records may have been.
    fn compare(&mut self, vnodes: &[VnodeId], sightings: Vec<Sighting>, begun: Timestamp) -> bool {
        let there: BTreeSet<_> = sightings.iter().map(|sighting| (sighting.call, sighting.role)).collect();
        let lives = |key: &(CallId, Role)| self.calls.iter().any(|seen| (seen.call, seen.role) == *key);
        let gone = |(key, (vnode, _)): (&(CallId, Role), &(VnodeId, Timestamp))| {
            let over = vnodes.contains(vnode) && !there.contains(key) && lives(key);
            over.then_some(Sighting { vnode: *vnode, call: key.0, role: key.1, is: None })
        };
        let gone: Vec<Sighting> = self.seen.iter().filter_map(gone).collect();
        let mut changes = false;
        for sighting in sightings.into_iter().chain(gone) {
            let key = (sighting.call, sighting.role);
            if self.seen.get(&key).is_none_or(|(_, at)| *at + RECENT <= begun) {
                changes |= self.see(sighting, begun);
            }
        }
        let (calls, seen) = (&self.calls, &mut self.seen);
        let lives = |key: &(CallId, Role)| calls.iter().any(|seen| (seen.call, seen.role) == *key);
        seen.retain(|key, (_, at)| lives(key) || *at + RECENT > begun);
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::events::Stage;

    const CALL: CallId = CallId(7);

    fn sighting(vnode: u16, is: Option<Stage>) -> Sighting {
        let is = is.map(|stage| (stage, None));
        Sighting { vnode: VnodeId(vnode), call: CALL, role: Role::Initiator, is }
    }

    #[test]
    fn a_call_is_what_its_owner_says() {
        let mut user = User::default();
        let now = Timestamp(1_000);
        for (is, changes) in [
            (Some(Stage::Early), true),
            (Some(Stage::Early), false),
            (Some(Stage::Confirmed), true),
            (None, true),
            (None, false),
            // It is called again in the same call.
            (Some(Stage::Trying), true),
            (None, true),
        ] {
            assert_eq!(user.see(sighting(1, is), now), changes, "{is:?}");
        }
        // A look that began before that knows less.
        assert!(!user.compare(&[VnodeId(1)], vec![sighting(1, Some(Stage::Trying))], now + RECENT / 2));
        assert!(user.calls.is_empty());
    }

    #[test]
    fn what_was_missed_is_found_by_looking() {
        let mut user = User::default();
        let now = Timestamp(100_000);
        let (later, last) = (now + RECENT, now + RECENT * 2);
        assert!(user.compare(&[VnodeId(1)], vec![sighting(1, Some(Stage::Early))], now));
        assert!(!user.compare(&[VnodeId(2)], vec![], later), "another vnode's says nothing of it");
        assert!(!user.compare(&[VnodeId(1)], vec![], now + RECENT / 2), "the records may be older");
        assert!(user.compare(&[VnodeId(1)], vec![sighting(1, Some(Stage::Confirmed))], later));
        assert!(user.compare(&[VnodeId(1)], vec![], last), "it is over");
        assert!(user.calls.is_empty());
        user.compare(&[VnodeId(1)], vec![], last + RECENT);
        assert!(user.seen.is_empty(), "and forgotten");
    }
}

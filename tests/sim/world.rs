//! One call between two phones, the owner that carries it, and the owners that come after.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use rand::RngExt;
use tandem::actors::records::Site;
use tandem::clock::Timestamp;
use tandem::ids::{CallId, LegId, VnodeId};
use tandem::sip::b2bua::{Body, CSEQ_BLOCK, Call, CallInput, CallState, Effect, Mutation, NewCall, Step, Target};
use tandem::sip::dialog::Flow;
use tandem::sip::headers::Transport;
use tandem::sip::leg::{Leg, LegCommand, LegInput, LegOutput};
use tandem::sip::transaction::Timers;
use tandem::sip::{Message, Method, Name, Request, StatusCode, encode, endpoint};

use crate::fate::{Blow, Fate, Point};
use crate::log::{Log, address};
use crate::phone::Phone;

const TICK: Duration = Duration::from_millis(100);
/// How long a dead owner's successor takes.
const TAKEOVER: Duration = Duration::from_millis(300);
/// How long after a takeover a phone has made its connection again, and registered by it.
const RECONNECTED: Duration = Duration::from_millis(600);
/// A run's length: the last thing that may be repeated has been, and what lingers is gone.
const RUN: Duration = Duration::from_secs(160);
/// How long the callee lets it ring.
const RING: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Story {
    CallerHangsUp,
    CalleeHangsUp,
    BothHangUp,
    CallerCancels,
    CancelCrosses,
    CalleeIsBusy,
    CallerHolds,
    /// The same by UPDATE.
    CallerUpdates,
    /// It rings reliably, its callee describes itself while it does, and the caller offers something else.
    Reliable,
    /// The same, but that its caller knows nothing of such things.
    ReliableCallee,
    /// The call sleeps before it is held, and before it ends.
    LongTalk,
    /// Two phones ring, and one is picked up.
    Forked,
    /// Two phones ring, and both are picked up at once.
    ForkedRace,
    /// One phone is busy, then another is called.
    Serial,
    /// Held, and hung up, by phones on connections: these end with their owner, and the phones make others.
    Connections,
    /// The callee refers the caller to another, who is called by us: the caller's phone can't.
    Transferred,
    /// The same by the caller, of the callee.
    CallerTransfers,
    /// Its owner dies, and nobody after it has its address: the phones have to come along.
    ComesAlong,
}

impl Story {
    /// Those that an address takes along which moves.
    pub const ALL: [Self; 16] = [
        Self::CallerHangsUp,
        Self::CalleeHangsUp,
        Self::BothHangUp,
        Self::CallerCancels,
        Self::CancelCrosses,
        Self::CalleeIsBusy,
        Self::CallerHolds,
        Self::CallerUpdates,
        Self::Reliable,
        Self::ReliableCallee,
        Self::LongTalk,
        Self::Forked,
        Self::ForkedRace,
        Self::Serial,
        Self::Transferred,
        Self::CallerTransfers,
    ];

    /// Whether somebody else is called after a while.
    fn is_transfer(self) -> bool {
        matches!(self, Self::Transferred | Self::CallerTransfers)
    }

    /// Whether the callee has two phones.
    fn is_forked(self) -> bool {
        matches!(self, Self::Forked | Self::ForkedRace | Self::Serial)
    }
}

/// A build in which a rule of the house is broken: the simulator must find each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// What a phone may see leaves before its commit.
    PromisesFirst,
    /// A commit counts as soon as one node has it.
    CommitsAlone,
    /// An owner that has lost its vnode goes on speaking.
    NoFence,
    /// An ended call's media stays open.
    Leaks,
    /// A new owner counts on from the numbers that were used, not from those that may have been.
    CountsAgain,
    /// The end of a call and its CDR are two entries.
    LosesCdrs,
    /// What a phone has described while it rang is not kept.
    ForgetsEarly,
}

impl Broken {
    pub const ALL: [Self; 7] = [
        Self::PromisesFirst,
        Self::CommitsAlone,
        Self::NoFence,
        Self::Leaks,
        Self::CountsAgain,
        Self::LosesCdrs,
        Self::ForgetsEarly,
    ];
}

struct Owner {
    call: Option<Call>,
    legs: BTreeMap<LegId, Leg>,
    /// Ports are open; they close when the process dies.
    media: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Toward {
    Us,
    Phone,
}

pub struct World {
    start: Timestamp,
    now: Timestamp,
    /// How often the address has changed.
    moved: u8,
    story: Story,
    seed: Option<u64>,
    fate: Fate,
    points: usize,
    owner: Option<Owner>,
    /// The one that was deposed last.
    former: Option<Owner>,
    next_owner: Option<Timestamp>,
    log: Log,
    /// The log without its last entry, which nobody else has.
    alone: Option<Log>,
    /// The caller's, then the callee's.
    phones: Vec<Phone>,
    /// What is on its way: when it arrives, which phone it is from or for.
    network: BTreeMap<(Timestamp, u64), (Toward, usize, Message)>,
    packets: u64,
    /// The ports of the phones' ends, while they are connected.
    connections: [Option<u16>; 2],
    /// How often each has made its connection.
    connected: u16,
    /// When they make them again.
    reconnect: Option<Timestamp>,
    incarnation: u32,
    calls: u128,
    broken: Option<Broken>,
    /// How often a call went to sleep.
    pub slept: usize,
    trace: Vec<String>,
}

/// While the phones are asked to come along: only what is up then is promised to go on.
const MOVES: [Duration; 2] = [Duration::from_secs(15), Duration::from_secs(39)];

fn remote(phone: usize) -> SocketAddr {
    format!("10.0.0.{}:5060", phone + 1).parse().unwrap()
}

impl World {
    pub fn new(story: Story, fate: Fate) -> Self {
        let now = Timestamp(1_000_000);
        let mut phones = vec![Phone::new("a", "10.0.0.1", now), Phone::new("b", "10.0.0.2", now)];
        if story.is_forked() || story.is_transfer() {
            phones.push(Phone::new("c", "10.0.0.3", now));
        }
        for phone in &mut phones {
            phone.connected = story == Story::Connections;
            phone.reliable = matches!(story, Story::Reliable | Story::ReliableCallee);
        }
        phones[0].reliable &= story != Story::ReliableCallee;
        Self {
            start: now,
            now,
            moved: 0,
            story,
            seed: None,
            fate,
            points: 0,
            owner: Some(Owner::new()),
            former: None,
            next_owner: None,
            log: Log::default(),
            alone: None,
            phones,
            network: BTreeMap::new(),
            packets: 0,
            connections: [Some(5060); 2],
            connected: 0,
            reconnect: None,
            incarnation: 1,
            calls: 0,
            broken: None,
            slept: 0,
            trace: Vec::new(),
        }
    }

    /// The same in a build that is broken.
    pub fn broken(self, broken: Broken) -> Self {
        Self { broken: Some(broken), ..self }
    }

    fn is(&self, broken: Broken) -> bool {
        self.broken == Some(broken)
    }

    /// The schedule of a seed.
    pub fn random(seed: u64) -> Self {
        let (fate, mut dice) = Fate::random(seed);
        let story = Story::ALL[dice.random_range(0..Story::ALL.len())];
        Self { seed: Some(seed), ..Self::new(story, fate) }
    }

    /// Whether a phone has seen this.
    pub fn saw(&self, phone: usize, what: &str) -> bool {
        self.phones[phone].saw.iter().any(|seen| seen == what)
    }

    /// How many points were passed.
    pub fn points(&self) -> usize {
        self.points
    }

    /// True when the owner is no more.
    fn struck(&mut self, point: Point) -> bool {
        let elapsed = self.now.since(self.start);
        if self.story == Story::ComesAlong && !(MOVES[0]..MOVES[1]).contains(&elapsed) {
            return self.owner.is_none();
        }
        self.points += 1;
        if let Some(blow) = self.fate.at(point) {
            self.trace.push(format!("{} {blow:?} at {point:?}", self.now));
            if let Some(log) = self.alone.take() {
                self.log = log;
            }
            self.former = self.owner.take().filter(|_| blow == Blow::Deposed);
            let takes_over = if blow == Blow::Dies { self.now + TAKEOVER } else { self.now };
            self.next_owner = Some(takes_over);
            if self.story == Story::Connections {
                // Whatever is on its way goes with the connections.
                self.network.clear();
                self.connections = [None; 2];
                self.reconnect = Some(takes_over + RECONNECTED);
            }
        }
        self.owner.is_none()
    }

    /// Says something to a phone, if it is at the other end of this flow.
    fn post_by(&mut self, flow: Flow, message: &Message) {
        let Some(phone) = (0..self.phones.len()).find(|phone| flow.remote.ip() == remote(*phone).ip()) else { return };
        if self.story != Story::Connections || self.connections[phone] == Some(flow.remote.port()) {
            self.post(Toward::Phone, phone, message);
        }
    }

    fn post(&mut self, toward: Toward, phone: usize, message: &Message) {
        if self.story == Story::Connections {
            if self.connections[phone].is_some() {
                self.packets += 1;
                self.network.insert((self.now + TICK, self.packets), (toward, phone, message.clone()));
            }
            return;
        }
        for delay in self.fate.arrivals(TICK) {
            self.packets += 1;
            self.network.insert((self.now + delay, self.packets), (toward, phone, message.clone()));
        }
    }

    fn site(&self) -> Site {
        Site { moves: self.story == Story::ComesAlong, ..Site::of(address(self.moved)) }
    }

    fn flow(&self, phone: usize) -> Flow {
        let (local, remote) = (address(self.moved), remote(phone));
        let mut flow = Flow { vnode: VnodeId(1), transport: Transport::Udp, local, remote, connection: 0 };
        if self.story == Story::Connections {
            flow.transport = Transport::Tcp;
            flow.remote.set_port(self.connections[phone].unwrap_or(0));
        }
        flow
    }

    /// The phones make their connections again, and what waits for them is brought there.
    fn reconnect(&mut self) {
        if self.owner.is_some() && self.reconnect.take_if(|at| *at <= self.now).is_some() {
            self.connected += 1;
            self.connections = [Some(5060 + self.connected); 2];
            self.trace.push(format!("{} the phones have made their connections again", self.now));
            self.phones.iter_mut().for_each(Phone::reconnects);
        }
        for (leg, at) in [(LegId::CALLER, 0), (LegId::CALLEE, 1)] {
            let busy = |owner: &&Owner| owner.legs.get(&leg).is_some_and(|leg| !leg.is_at_rest());
            let Some(owner) = self.owner.as_ref().filter(busy) else { continue };
            let call = owner.call.as_ref().filter(|call| call.state().has_leg(leg));
            let elsewhere = call.is_some_and(|call| call.state().leg(leg).dialog.flow != self.flow(at));
            if elsewhere && self.connections[at].is_some() {
                self.call_input(CallInput::Rebind(leg, self.flow(at)));
            }
        }
    }

    /// Whether a phone sends something to where we are: its requests go to our Contact, its answers to the Via.
    fn is_for_us(&self, message: &Message) -> bool {
        let here = address(self.moved).to_string();
        match message {
            Message::Request(request) => !request.uri.contains("@127.") || request.uri.contains(&here),
            Message::Response(response) => {
                response.headers.get(&Name::Via).is_some_and(|via| String::from_utf8_lossy(via).contains(&here))
            }
        }
    }

    // --- our side ---

    fn arrives(&mut self, from: usize, message: &Message) {
        if self.owner.is_none() || !self.is_for_us(message) {
            return;
        }
        let flow = self.flow(from);
        // Through the wire form, so that nothing is passed on that could not be.
        match endpoint::datagram(&encode::encode(message), flow.remote) {
            endpoint::Arrival::Leg(token, message) => {
                let here = self.wakes(token.call);
                match message {
                    Message::Request(request) if here => self.leg_input(token.leg, LegInput::Request(request, flow)),
                    Message::Response(response) if here => self.leg_input(token.leg, LegInput::Response(response)),
                    Message::Request(request) if request.method != Method::Ack => {
                        let gone = endpoint::stateless(&request, StatusCode::CALL_DOES_NOT_EXIST);
                        self.post(Toward::Phone, from, &Message::Response(gone));
                    }
                    _ => {}
                }
            }
            endpoint::Arrival::Invite(request) => self.invite(from, request),
            endpoint::Arrival::Cancel(request) => {
                if self.owner.as_ref().is_some_and(|owner| owner.call.is_some()) {
                    self.leg_input(LegId::CALLER, LegInput::Request(request, flow));
                } else {
                    let gone = endpoint::stateless(&request, StatusCode::CALL_DOES_NOT_EXIST);
                    self.post(Toward::Phone, from, &Message::Response(gone));
                }
            }
            other => panic!("{other:?}"),
        }
    }

    fn target(&self, phone: usize) -> Target {
        Target {
            contact: format!("sip:{}@{}", if phone == 1 { "b" } else { "c" }, remote(phone)).into(),
            path: Vec::new(),
            flow: self.flow(phone),
            long: None,
            phone: None,
            q: if self.story == Story::Serial && phone > 1 { 500 } else { 1000 },
            replaces: None,
        }
    }

    fn invite(&mut self, from: usize, request: Request) {
        let flow = self.flow(from);
        let called = if self.story.is_transfer() { 2 } else { self.phones.len() };
        let targets = (1..called).map(|phone| self.target(phone)).collect();
        let Some(owner) = &mut self.owner else { return };
        if owner.call.is_some() {
            return self.leg_input(LegId::CALLER, LegInput::Request(request, flow));
        }
        self.calls += 1;
        // The call is the leg's first event.
        owner.leg(LegId::CALLER).handle(LegInput::Request(request.clone(), flow), self.now, &mut Vec::new());
        let new = NewCall {
            id: CallId(self.calls),
            vnode: VnodeId(1),
            body: Body::of(&request.headers, &request.body),
            invite: request,
            from: flow,
            session: None,
            phone: None,
            targets,
            caller: "a@x".into(),
            trusted: false,
            callee: "b@x".into(),
        };
        let (call, step) = Call::new(new, self.incarnation, self.now).unwrap();
        owner.call = Some(call);
        owner.media = true;
        self.perform(step);
    }

    fn leg_input(&mut self, leg: LegId, input: LegInput) {
        let mut out = Vec::new();
        let Some(owner) = &mut self.owner else { return };
        owner.leg(leg).handle(input, self.now, &mut out);
        for output in out {
            match output {
                LegOutput::Send(message, flow) => {
                    if self.struck(Point::Sends) {
                        return;
                    }
                    self.trace.push(format!("{} to {}: {}", self.now, flow.remote, first_line(&message)));
                    self.post_by(flow, &message);
                }
                LegOutput::Event(event) => self.call_input(CallInput::Leg(leg, event)),
            }
        }
    }

    fn call_input(&mut self, input: CallInput) {
        let now = self.now;
        let Some(call) = self.owner.as_mut().and_then(|owner| owner.call.as_mut()) else { return };
        let step = call.handle(input, now);
        self.perform(step);
    }

    fn perform(&mut self, mut step: Step) {
        if self.is(Broken::PromisesFirst) {
            let first = std::mem::take(&mut step.then);
            self.effects(first);
        }
        if let Some(mutation) = &step.commit {
            if self.struck(Point::Asked) {
                if self.is(Broken::NoFence) {
                    self.former_speaks_on(step.then);
                }
                return;
            }
            let before = self.log.clone();
            let (first, second) = match mutation {
                Mutation::End(state, _) if self.is(Broken::LosesCdrs) => (Mutation::Put(state.clone()), Some(mutation)),
                _ => (mutation.clone(), None),
            };
            self.log.commit(&first);
            self.alone = Some(before).filter(|_| self.is(Broken::CommitsAlone));
            if self.struck(Point::Held) {
                return;
            }
            if let Some(second) = second {
                self.log.commit(second);
            }
            if let Some(call) = self.owner.as_mut().and_then(|owner| owner.call.as_mut()) {
                call.committed();
            }
        }
        self.effects(step.then);
    }

    fn effects(&mut self, effects: Vec<Effect>) {
        let leaks = self.is(Broken::Leaks);
        let referred: Vec<_> = self.story.is_transfer().then(|| self.target(2)).into_iter().collect();
        for effect in effects {
            match (effect, &mut self.owner) {
                (_, None) => return,
                (Effect::Leg(leg, command), _) => self.command(leg, command),
                (Effect::Press(..), _) => {}
                (Effect::CloseMedia, Some(owner)) => owner.media = leaks,
                (Effect::Locate(contacts), _) => self.call_input(CallInput::Located { contacts, targets: referred.clone() }),
                (Effect::Close, Some(owner)) => *owner = Owner { media: leaks, ..Owner::new() },
            }
        }
    }

    /// What an owner says that doesn't know that it is none.
    fn former_speaks_on(&mut self, effects: Vec<Effect>) {
        let Some(mut owner) = self.former.take() else { return };
        for effect in effects {
            let Effect::Leg(leg, command) = effect else { continue };
            let mut out = Vec::new();
            owner.leg(leg).handle(LegInput::Command(command), self.now, &mut out);
            for output in out {
                if let LegOutput::Send(message, flow) = output {
                    self.post_by(flow, &message);
                }
            }
        }
    }

    // --- sleep ---

    /// A call on which nothing is open goes to sleep at once: a new one is made from its record when something comes.
    fn sleep_if_quiet(&mut self) {
        let Some(owner) = &mut self.owner else { return };
        let quiet = owner.call.as_ref().is_some_and(|call| call.state().can_sleep());
        if quiet && owner.legs.values().all(Leg::is_at_rest) {
            *owner = Owner { media: owner.media, ..Owner::new() };
            self.slept += 1;
            self.trace.push(format!("{} falls asleep", self.now));
        }
    }

    /// Whether a call is here, and awake now.
    fn wakes(&mut self, id: CallId) -> bool {
        let Some(owner) = &self.owner else { return false };
        if owner.call.is_some() {
            return owner.call.as_ref().is_some_and(|call| call.state().id == id);
        }
        let Some(record) = self.log.calls(self.site()).pop().filter(|record| record.id == id) else { return false };
        self.trace.push(format!("{} wakes", self.now));
        self.make_from(record);
        true
    }

    fn make_from(&mut self, mut record: CallState) {
        self.incarnation += 1;
        if self.is(Broken::CountsAgain) {
            for leg in &mut record.legs {
                leg.dialog.local_cseq = leg.dialog.local_cseq.saturating_sub(CSEQ_BLOCK);
            }
        }
        if self.is(Broken::ForgetsEarly) {
            record.legs.iter_mut().for_each(|leg| leg.early = None);
        }
        let (call, effects) = Call::resume(record, self.incarnation);
        if let Some(owner) = &mut self.owner {
            owner.media |= call.state().ended.is_none();
            owner.call = Some(call);
        }
        self.perform(Step::free(effects));
        self.anchor();
    }

    /// Asks the phones to come along that don't know where we are.
    fn anchor(&mut self) {
        let movable = |world: &Self| world.owner.as_ref()?.call.as_ref()?.state().movable(world.now);
        while let Some(leg) = movable(self) {
            let body = Body { content_type: "application/sdp".into(), bytes: "where we are".into() };
            self.call_input(CallInput::Anchor(leg, Some(body)));
        }
    }

    fn command(&mut self, leg: LegId, command: LegCommand) {
        self.leg_input(leg, LegInput::Command(command));
    }

    fn take_over(&mut self) {
        self.next_owner = None;
        self.trace.push(format!("{} takes over", self.now));
        self.owner = Some(Owner::new());
        self.moved += u8::from(self.story == Story::ComesAlong);
        let mut calls = self.log.calls(self.site());
        assert!(calls.len() <= 1, "one call was made, not {}", calls.len());
        let Some(record) = calls.pop() else { return };
        if record.is_quiet() {
            if let Some(owner) = &mut self.owner {
                owner.media = record.ended.is_none();
            }
            return;
        }
        self.make_from(record);
    }

    fn our_timers(&mut self) {
        if self.next_owner.is_some_and(|at| self.now >= at) {
            self.take_over();
        }
        let legs: Vec<LegId> = self.owner.iter().flat_map(|owner| owner.legs.keys().copied()).collect();
        for leg in legs {
            let due = self.owner.as_ref().and_then(|owner| owner.legs.get(&leg)?.deadline());
            if due.is_some_and(|at| at <= self.now) {
                self.leg_input(leg, LegInput::Timeout);
            }
        }
        let due = self.owner.as_ref().and_then(|owner| owner.call.as_ref()).and_then(Call::deadline);
        if due.is_some_and(|at| at <= self.now) {
            self.call_input(CallInput::Timeout);
        }
        // What sleeps has lingered long enough.
        let asleep = self.owner.as_ref().is_some_and(|owner| owner.call.is_none());
        if let Some(record) = self.log.calls(self.site()).pop().filter(|_| asleep)
            && record.deadline().is_some_and(|at| at <= self.now)
        {
            self.log.commit(&Mutation::Forget(record.id));
        }
        self.anchor();
        if self.story == Story::Connections {
            self.reconnect();
        }
        self.sleep_if_quiet();
    }

    // --- the phones' users ---

    fn users_act(&mut self, elapsed: Duration) {
        let now = self.now;
        let span = if matches!(self.story, Story::Reliable | Story::ReliableCallee) { 5 * RING } else { RING };
        let rang = |phone: &Phone| phone.rings_at.is_some_and(|at| now.since(at) >= span);
        let after = |seconds: u64| elapsed >= Duration::from_secs(seconds);
        let [a, b, more @ ..] = &mut self.phones[..] else { panic!("two phones at least") };
        match self.story {
            Story::CallerCancels => {}
            Story::CalleeIsBusy | Story::Serial if rang(b) => b.pick_up(StatusCode::BUSY_HERE),
            _ if rang(b) => b.pick_up(StatusCode::OK),
            _ => {}
        }
        for phone in more.iter_mut().filter(|phone| self.story != Story::Forked && rang(phone)) {
            phone.pick_up(StatusCode::OK);
        }
        match self.story {
            Story::Reliable if elapsed == 3 * RING => a.update_early(),
            Story::CallerHangsUp
            | Story::Reliable
            | Story::ReliableCallee
            | Story::Forked
            | Story::ForkedRace
            | Story::Serial
                if after(12) =>
            {
                a.hang_up()
            }
            Story::CalleeHangsUp if after(12) => b.hang_up(),
            Story::BothHangUp if after(12) => {
                a.hang_up();
                b.hang_up();
            }
            Story::CallerCancels if after(2) => a.cancel(),
            // What comes too late is a call that the caller hangs up.
            Story::CancelCrosses if elapsed >= RING => {
                a.cancel();
                if after(20) {
                    a.hang_up();
                }
            }
            Story::CallerHolds if elapsed == Duration::from_secs(6) && a.up => a.hold(),
            Story::CallerUpdates if elapsed == Duration::from_secs(6) && a.up => a.update(),
            Story::CallerHolds | Story::CallerUpdates if after(24) => a.hang_up(),
            Story::LongTalk if elapsed == Duration::from_secs(45) && a.up => a.hold(),
            Story::LongTalk if after(90) => b.hang_up(),
            Story::Connections if elapsed == Duration::from_secs(6) && a.up => a.hold(),
            Story::Connections if after(24) => b.hang_up(),
            Story::Transferred if elapsed == Duration::from_secs(6) && b.up => b.refer(),
            Story::CallerTransfers if elapsed == Duration::from_secs(6) && a.up => a.refer(),
            Story::Transferred if after(24) => a.hang_up(),
            Story::CallerTransfers if after(24) => b.hang_up(),
            Story::ComesAlong if elapsed == MOVES[0] => {
                self.owner = None;
                self.next_owner = Some(self.now + TAKEOVER);
            }
            Story::ComesAlong if after(40) => b.hang_up(),
            _ => {}
        }
    }

    pub fn run(mut self) -> Self {
        self.phones[0].call();
        loop {
            self.deliver();
            self.now = self.now + TICK;
            let elapsed = self.now.since(self.start);
            if elapsed >= RUN {
                return self;
            }
            self.our_timers();
            for phone in &mut self.phones {
                phone.tick(self.now);
            }
            self.users_act(elapsed);
        }
    }

    /// Everything that has arrived by now, and what it brings about.
    fn deliver(&mut self) {
        loop {
            for phone in 0..self.phones.len() {
                for message in self.phones[phone].sent() {
                    self.trace.push(format!("{} from {phone}: {}", self.now, first_line(&message)));
                    self.post(Toward::Us, phone, &message);
                }
            }
            let Some(entry) = self.network.first_entry().filter(|entry| entry.key().0 <= self.now) else { return };
            let (toward, phone, message) = entry.remove();
            match toward {
                Toward::Us => self.arrives(phone, &message),
                Toward::Phone => self.phones[phone].receive(message),
            }
        }
    }

    // --- what must be true in the end ---

    pub fn check(&self) {
        let holds = |promise: &str, held: bool| {
            assert!(held, "{promise}: {:?}, seed {:?}, {:?}\n{}", self.story, self.seed, self.fate, self.trace.join("\n"));
        };
        let [a, b, more @ ..] = &self.phones[..] else { panic!("two phones at least") };
        let cdrs = &self.log.cdrs;
        let owner = self.owner.as_ref();
        holds("one CDR", cdrs.len() == 1);
        holds("the media is closed", owner.is_some_and(|owner| !owner.media));
        holds("no actor is left", owner.is_some_and(|owner| owner.call.is_none()));
        holds("no record is left", self.log.calls(self.site()).is_empty());
        // Every copy of an INVITE may be lost that is cancelled after a second.
        let cancelled =
            matches!(self.story, Story::CallerCancels | Story::CancelCrosses | Story::ForkedRace) && self.seed.is_some();
        holds("the callee was called once", b.distinct_invites == 1 || (cancelled && b.distinct_invites == 0));
        holds("nobody waits for anything", self.phones.iter().all(Phone::is_quiet));
        holds("no phone had to give up", self.phones.iter().all(|phone| !phone.gave_up));
        holds("CSeq only grows", self.phones.iter().all(|phone| !phone.number_again));
        holds("all know that it is over", self.phones.iter().all(|phone| phone.down || phone.distinct_invites == 0) && a.down);
        // Every copy of an INVITE may be lost to a phone that is cancelled after a second.
        let called = |phone: &Phone| phone.distinct_invites == 1 || (self.seed.is_some() && phone.distinct_invites == 0);
        holds("each phone was called once", more.iter().all(called));
        match self.story {
            Story::CallerCancels | Story::CalleeIsBusy => holds("nobody talked", !a.up && !b.up && cdrs[0].answered.is_none()),
            // Who was first is the network's to say; the CDR must say what the phones have seen.
            Story::ForkedRace => holds("somebody talked", a.up && (b.up || more[0].up) && cdrs[0].answered.is_some()),
            Story::Serial => holds("the other phone talked", a.up && !b.up && more[0].up && cdrs[0].answered.is_some()),
            Story::CancelCrosses => holds("the CDR is true", !a.up || cdrs[0].answered.is_some()),
            _ => holds("both talked", a.up && b.up && cdrs[0].answered.is_some()),
        }
        // RFC 3262 §5: the 200 says nothing that was said before.
        holds("the caller knows how its callee describes itself", !a.up || a.described);
        if self.story.is_transfer() && self.seed.is_none() {
            let (goes, stays) = if self.story == Story::Transferred { (b, a) } else { (a, b) };
            let saw = |phone: &Phone, what: &str| phone.saw.iter().any(|seen| seen == what);
            holds("who was referred talked with the third", more[0].up && saw(stays, "INVITE") && saw(&more[0], "ACK"));
            holds("the third heard how the other describes itself", !more[0].unanswered);
            holds("who has referred was told, and hung up on", saw(goes, "NOTIFY") && saw(goes, "BYE"));
            holds("they hung up on each other", saw(&more[0], "BYE") && !saw(stays, "BYE"));
        }
        if self.story == Story::ComesAlong {
            holds("both came along", [a, b].iter().all(|phone| phone.saw.iter().filter(|seen| *seen == "INVITE").count() >= 1));
        }
        if matches!(self.story, Story::CallerHolds | Story::CallerUpdates | Story::LongTalk | Story::Connections)
            && self.seed.is_none()
        {
            let refused = a.saw.iter().any(|seen| seen.ends_with(" UPDATE") && !seen.starts_with("200"));
            holds("no UPDATE was refused", !refused);
            holds("held", b.saw.iter().filter(|seen| *seen == "INVITE").count() >= 2);
        }
    }
}

impl Owner {
    fn new() -> Self {
        Self { call: None, legs: BTreeMap::new(), media: false }
    }

    fn leg(&mut self, leg: LegId) -> &mut Leg {
        self.legs.entry(leg).or_insert_with(|| Leg::new(Timers::RFC))
    }
}

fn first_line(message: &Message) -> String {
    match message {
        Message::Request(request) => format!("{} {}", request.method, request.headers.cseq().map_or(0, |cseq| cseq.number)),
        Message::Response(response) => {
            format!(
                "{} {}",
                response.status,
                response.headers.cseq().map_or_else(|_| String::new(), |cseq| cseq.method.to_string())
            )
        }
    }
}

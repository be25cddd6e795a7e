//! One phone that watches one user, the owner that tells it, and the owners that come after.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tandem::actors::watched;
use tandem::clock::Timestamp;
use tandem::cluster::state::VnodeState;
use tandem::ids::{Aor, CallId, VnodeId};
use tandem::sip::dialog::Flow;
use tandem::sip::events::{Input, LEG, Lifetimes, Notifier, Output, Package, Role, Seen, Sources, Stage, document};
use tandem::sip::headers::Transport;
use tandem::sip::message::{Message, Request, Response};
use tandem::sip::token::Token;
use tandem::sip::transaction::{Client, ClientInput, ClientOutput, Timers};
use tandem::sip::{Method, Name, StatusCode, encode, parse};

use crate::fate::{Blow, Fate, Point};

const TICK: Duration = Duration::from_millis(100);
const TAKEOVER: Duration = Duration::from_millis(300);
const RUN: Duration = Duration::from_secs(120);
const BEGIN: Timestamp = Timestamp(1_000_000);
/// How long a subscription lasts; the phone renews it in time.
const LIFETIMES: Lifetimes = Lifetimes { min: Duration::from_secs(10), max: Duration::from_secs(30) };

/// What of the rules is broken on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// What was prepared leaves without its commit.
    PromisesFirst,
    /// A successor tells nobody how things are.
    SilentSuccessor,
}

impl Broken {
    pub const ALL: [Self; 2] = [Self::PromisesFirst, Self::SilentSuccessor];
}

/// What happens, and when.
const SCRIPT: [(u64, Event); 8] = [
    (0, Event::Subscribe),
    (1_500, Event::Call(Stage::Early)),
    (1_600, Event::Call(Stage::Confirmed)),
    (6_000, Event::HangUp),
    (15_000, Event::Subscribe),
    (15_100, Event::Call(Stage::Early)),
    (30_000, Event::Subscribe),
    // Nobody asks after this.
    (110_000, Event::Call(Stage::Confirmed)),
];
const UNSUBSCRIBE: u64 = 45_000;

#[derive(Debug, Clone, Copy)]
enum Event {
    /// The phone subscribes, or renews its subscription.
    Subscribe,
    Call(Stage),
    HangUp,
}

/// The phone.
#[derive(Default)]
struct Phone {
    /// Its dialog: what it calls it, and where it is.
    dialog: Option<(String, String)>,
    call_ids: u32,
    cseq: u32,
    asking: Option<Client>,
    wants: bool,
    /// By dialog: the last NOTIFY's number, and what it said.
    heard: BTreeMap<String, (u32, Vec<u8>)>,
    /// The last that it was told.
    told: Option<(Vec<u8>, String)>,
}

pub struct Watch {
    phone: Phone,
    owner: Option<Notifier>,
    owners: u32,
    replica: VnodeState,
    calls: Vec<Seen>,
    now: Timestamp,
    comes: Option<Timestamp>,
    /// On their way: when they arrive, whether at the phone.
    packets: BTreeMap<(Timestamp, u64), (bool, Message)>,
    sent: u64,
    fate: Fate,
    points: usize,
    broken: Option<Broken>,
    /// Which commit is refused.
    refused: Option<usize>,
    commits: usize,
    leaves: bool,
}

fn flow() -> Flow {
    let (local, remote) = ("192.0.2.1:5060".parse().unwrap(), "192.0.2.7:5061".parse().unwrap());
    Flow { vnode: VnodeId(1), transport: Transport::Udp, local, remote, connection: 0 }
}

fn aor() -> Aor {
    Aor::new("b", "x")
}

impl Watch {
    /// `leaves`: the phone says that it wants to know nothing more.
    pub fn new(fate: Fate, leaves: bool) -> Self {
        let mut this = Self {
            phone: Phone::default(),
            owner: None,
            owners: 0,
            replica: VnodeState::default(),
            calls: Vec::new(),
            now: BEGIN,
            comes: None,
            packets: BTreeMap::new(),
            sent: 0,
            fate,
            points: 0,
            broken: None,
            refused: None,
            commits: 0,
            leaves,
        };
        this.take_over();
        this
    }

    pub fn random(seed: u64) -> Self {
        let (fate, _) = Fate::random(seed);
        Self::new(fate, seed.is_multiple_of(3))
    }

    pub fn broken(mut self, broken: Broken) -> Self {
        self.broken = Some(broken);
        self
    }

    /// There is no majority for one of the commits.
    pub fn refusing(mut self, commit: usize) -> Self {
        self.refused = Some(commit);
        self
    }

    pub fn commits(&self) -> usize {
        self.commits
    }

    pub fn points(&self) -> usize {
        self.points
    }

    pub fn run(mut self) -> Self {
        while self.now.since(BEGIN) < RUN {
            let at = u64::try_from(self.now.since(BEGIN).as_millis()).unwrap();
            for (_, event) in SCRIPT.iter().filter(|(when, _)| *when == at) {
                self.event(*event);
            }
            if self.leaves && at == UNSUBSCRIBE {
                self.phone.wants = false;
                self.ask(0);
            } else if !self.leaves && at > UNSUBSCRIBE && at.is_multiple_of(15_000) {
                self.event(Event::Subscribe);
            }
            if self.comes.take_if(|at| *at <= self.now).is_some() {
                self.take_over();
            }
            while let Some((key, _)) = self.packets.first_key_value().filter(|((at, _), _)| *at <= self.now) {
                let key = *key;
                let (to_phone, message) = self.packets.remove(&key).unwrap();
                if to_phone { self.phone_hears(message) } else { self.owner_hears(message) }
            }
            self.tick_phone();
            for turn in 0.. {
                if self.owner.as_ref().and_then(Notifier::deadline).is_none_or(|at| at > self.now) {
                    break;
                }
                assert!(turn < 10, "its deadline doesn't come nearer: {:?}", self.owner);
                self.tell(Input::Timeout);
            }
            self.now = self.now + TICK;
        }
        self
    }

    /// What must be so in the end, whatever has happened.
    pub fn check(&self) {
        let record = self.replica.watched(&aor()).cloned().unwrap_or_default();
        let watched = watched::restore(&record).unwrap();
        let owner = self.owner.as_ref().expect("there is an owner in the end");
        assert!(owner.is_quiet(), "nothing is on its way in the end");
        assert_eq!(*owner.state(), watched, "the owner is as the record");
        if self.leaves {
            assert!(watched.is_empty(), "who wants to know no more is forgotten");
            return;
        }
        let dialog = self.phone.dialog.as_ref().expect("the phone is subscribed in the end");
        let ours = watched.subscriptions.iter().find(|own| *own.dialog.call_id == *dialog.0);
        assert!(ours.is_some(), "the phone's subscription is there");
        let (_, said) = &self.phone.heard[&dialog.0];
        assert_eq!(without_version(said), without_version(&self.truth()), "the phone knows how things are");
        assert!(self.phone.told.as_ref().is_some_and(|(_, state)| state.starts_with("active")));
    }

    fn truth(&self) -> Vec<u8> {
        let aor = aor();
        let sources = Sources { aor: &aor, bindings: &[], calls: &self.calls };
        document(Package::Dialog, &watched::restore(&[]).unwrap(), sources, 0, self.now).to_vec()
    }

    fn event(&mut self, event: Event) {
        let changed = match event {
            Event::Subscribe => {
                self.phone.wants = true;
                return self.ask(30);
            }
            Event::Call(stage) => vec![Seen { call: CallId(1), role: Role::Recipient, stage, remote: Some("a@x".into()) }],
            Event::HangUp => Vec::new(),
        };
        self.calls = changed;
        self.tell(Input::Changed(BTreeSet::from([Package::Dialog])));
    }

    // --- the owner ---

    fn take_over(&mut self) {
        let record = self.replica.watched(&aor()).cloned().unwrap_or_default();
        self.owners += 1;
        let state = watched::restore(&record).unwrap();
        self.owner = Some(Notifier::new(VnodeId(1), state, LIFETIMES, Timers::RFC, self.owners));
        if self.broken != Some(Broken::SilentSuccessor) {
            self.tell(Input::Changed(Package::ALL.into()));
        }
    }

    fn dies(&mut self) {
        self.owner = None;
        self.comes = Some(self.now + TAKEOVER);
    }

    fn at(&mut self, point: Point) -> Option<Blow> {
        self.points += 1;
        self.fate.at(point)
    }

    fn tell(&mut self, input: Input) {
        let (aor, calls) = (aor(), self.calls.clone());
        let sources = Sources { aor: &aor, bindings: &[], calls: &calls };
        let Some(owner) = self.owner.as_mut() else { return };
        let step = owner.handle(input, sources, self.now);
        let mut outputs = step.then;
        if let Some(state) = step.commit {
            let early = self.broken == Some(Broken::PromisesFirst);
            if early {
                let now = self.now;
                outputs.extend(self.owner.as_mut().unwrap().committed(now));
                for output in std::mem::take(&mut outputs) {
                    self.send(output);
                }
            }
            match self.at(Point::Asked) {
                Some(Blow::Dies) => return self.dies(),
                // It hears that it is none any more, and says nothing.
                Some(Blow::Deposed) => return self.take_over(),
                None => {}
            }
            self.commits += 1;
            if self.refused == Some(self.commits) {
                let now = self.now;
                self.owner.as_mut().unwrap().roll_back(now);
                return step.otherwise.into_iter().for_each(|output| self.send(output));
            }
            self.replica.apply(&watched::command(&aor, &state));
            match self.at(Point::Held) {
                Some(Blow::Dies) => return self.dies(),
                Some(Blow::Deposed) => return self.take_over(),
                None => {}
            }
            if !early {
                let now = self.now;
                outputs.extend(self.owner.as_mut().unwrap().committed(now));
            }
        } else {
            let now = self.now;
            outputs.extend(self.owner.as_mut().unwrap().leave(now));
        }
        for output in outputs {
            if self.at(Point::Sends).is_some() {
                return self.dies();
            }
            self.send(output);
        }
    }

    fn send(&mut self, output: Output) {
        match output {
            Output::Respond(response, _) => self.packet(true, Message::Response(response)),
            Output::Send(_, request, _) => self.packet(true, Message::Request(request)),
            Output::Look(..) => {}
        }
    }

    fn owner_hears(&mut self, message: Message) {
        match message {
            Message::Response(response) => {
                let token = response.headers.top_via().unwrap().branch().and_then(Token::from_branch).unwrap();
                self.tell(Input::Response(token.call, response));
            }
            Message::Request(request) => {
                let token = request.headers.to().unwrap().tag().and_then(|tag| tag.parse::<Token>().ok());
                let input = match token {
                    Some(token) => {
                        assert_eq!(token.leg, LEG);
                        Input::Within(token.call, request, flow())
                    }
                    None => {
                        let id = CallId(u128::from(self.sent) + 1000);
                        Input::Subscribe { request, flow: flow(), id, phone: None }
                    }
                };
                self.tell(input);
            }
        }
    }

    // --- the phone ---

    fn ask(&mut self, seconds: u32) {
        let phone = &mut self.phone;
        phone.cseq += 1;
        if phone.dialog.is_none() && phone.asking.is_none() {
            phone.call_ids += 1;
        }
        let (call_id, to) = match &phone.dialog {
            Some((call_id, tag)) => (call_id.clone(), format!("<sip:b@x>;tag={tag}")),
            None => (format!("c{}", phone.call_ids), "<sip:b@x>".into()),
        };
        let text = format!(
            "SUBSCRIBE sip:b@x SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK{}\r\nFrom: <sip:w@x>;tag=w\r\nTo: {to}\r\n\
             Call-ID: {call_id}\r\nCSeq: {} SUBSCRIBE\r\nContact: <sip:w@192.0.2.7:5061>\r\nEvent: dialog\r\n\
             Expires: {seconds}\r\n\r\n",
            phone.cseq, phone.cseq
        );
        let Message::Request(request) = parse::datagram(&text.into()).unwrap() else { unreachable!() };
        let mut out = Vec::new();
        phone.asking = Some(Client::start(request, false, Timers::RFC, self.now, &mut out));
        self.asked(out);
    }

    fn asked(&mut self, outputs: Vec<ClientOutput>) {
        for output in outputs {
            match output {
                ClientOutput::Send(request) => self.packet(false, Message::Request(request)),
                ClientOutput::Deliver(response) => self.answered(&response),
                ClientOutput::Terminated(_) => self.phone.asking = None,
            }
        }
    }

    fn answered(&mut self, response: &Response) {
        if !response.status.is_final() {
            return;
        }
        let call_id = response.headers.call_id().unwrap().to_string();
        match response.status {
            StatusCode::OK if self.phone.wants => {
                self.phone.dialog = Some((call_id, response.headers.to().unwrap().tag().unwrap().to_owned()));
            }
            StatusCode::OK => self.phone.dialog = None,
            // RFC 6665 §4.1.2.2: another subscription.
            _ => {
                self.phone.dialog = None;
                self.phone.asking = None;
                if self.phone.wants {
                    self.ask(30);
                }
            }
        }
    }

    fn tick_phone(&mut self) {
        let Some(asking) = self.phone.asking.as_mut().filter(|asking| asking.deadline().is_some_and(|at| at <= self.now)) else {
            return;
        };
        let mut out = Vec::new();
        asking.handle(ClientInput::Timeout, self.now, &mut out);
        self.asked(out);
    }

    fn phone_hears(&mut self, message: Message) {
        match message {
            Message::Response(response) => {
                let Some(asking) = self.phone.asking.as_mut() else { return };
                if asking.request().headers.cseq().unwrap() != response.headers.cseq().unwrap() {
                    return;
                }
                let mut out = Vec::new();
                asking.handle(ClientInput::Received(response), self.now, &mut out);
                self.asked(out);
            }
            Message::Request(request) => {
                assert_eq!(request.method, Method::Notify);
                let status = self.notified(&request);
                self.packet(false, Message::Response(request.response(status, None)));
            }
        }
    }

    fn notified(&mut self, request: &Request) -> StatusCode {
        let call_id = request.headers.call_id().unwrap().to_string();
        let current = self.phone.dialog.as_ref().map_or(format!("c{}", self.phone.call_ids), |(call_id, _)| call_id.clone());
        if call_id != current {
            return StatusCode::CALL_DOES_NOT_EXIST;
        }
        // A phone learns its dialog from whatever comes first (RFC 6665 §4.4.1).
        let tag = request.headers.from().unwrap().tag().unwrap().to_owned();
        let state = request.headers.text(&Name::SubscriptionState).unwrap().to_string();
        let number = request.headers.cseq().unwrap().number;
        if let Some((last, said)) = self.phone.heard.get(&call_id) {
            if number == *last {
                assert_eq!(*said, request.body.to_vec(), "one number says one thing");
                return StatusCode::OK;
            }
            if number < *last {
                // Late on its way; who sends it must not go on from there.
                return StatusCode::SERVER_INTERNAL_ERROR;
            }
        }
        self.phone.heard.insert(call_id.clone(), (number, request.body.to_vec()));
        self.phone.told = Some((request.body.to_vec(), state.clone()));
        if self.phone.wants && state.starts_with("active") {
            self.phone.dialog = Some((call_id, tag));
        } else if state.starts_with("terminated") {
            self.phone.dialog = None;
            if self.phone.wants {
                self.phone.asking = None;
                self.ask(30);
            }
        }
        StatusCode::OK
    }

    fn packet(&mut self, to_phone: bool, message: Message) {
        // As it is on the wire.
        let bytes = encode::encode(&message);
        let message = parse::datagram(&bytes).expect("what we say can be read");
        for after in self.fate.arrivals(TICK) {
            self.sent += 1;
            self.packets.insert((self.now + after, self.sent), (to_phone, message.clone()));
        }
    }
}

fn without_version(document: &[u8]) -> String {
    let text = String::from_utf8_lossy(document);
    let Some((before, after)) = text.split_once(" version=\"") else { return text.into_owned() };
    // The XML declaration has one too.
    let rest = after.split_once(" version=\"").map_or(after, |(_, rest)| rest);
    format!("{before}{}", rest.split_once('"').map_or("", |(_, rest)| rest))
}

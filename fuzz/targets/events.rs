//! Who watches a user: phones that say anything, calls that come and go, and an owner that may die at any time.
//!
//! Whatever was said: once everything has expired nobody watches any more, and nothing is on its way.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use tandem::actors::watched;
use tandem::clock::Timestamp;
use tandem::cluster::state::VnodeCommand;
use tandem::ids::{Aor, CallId, VnodeId};
use tandem::sip::Method;
use tandem::sip::endpoint::{self, Arrival};
use tandem::sip::events::{
    Input, LEG, Lifetimes, MAX_PUBLICATIONS, MAX_SUBSCRIPTIONS, Notifier, Output, Package, Role, Seen, Sources, Stage, Watched,
    event_of,
};
use tandem::sip::message::Message;
use tandem::sip::registrar::Phone;
use tandem::sip::token::Token;
use tandem::sip::transaction::Timers;

use super::flow;

const ORDERS: usize = 48;
const MOST: usize = 64;
const LIFETIMES: Lifetimes = Lifetimes { min: Duration::from_secs(60), max: Duration::from_secs(3600) };
/// Everything has expired by then, and everybody has been told.
const END: Duration = Duration::from_secs(8000);
const VNODE: VnodeId = VnodeId(1);

struct World {
    now: Timestamp,
    aor: Aor,
    notifier: Notifier,
    committed: Watched,
    calls: Vec<Seen>,
    begun: u128,
    fails: bool,
    incarnation: u32,
    /// The branch and the number of what was sent last.
    sent: (String, String),
}

/// Orders, with a 0 between them: `s` a message (`@` in it is the token of the last subscription but as many as the byte after `s` says, `%` an `@`, `!` the
/// branch of what was sent last, `#` its number), `p` a PUBLISH, `c` a call comes or goes, `u` its NOTIFY could not leave, `b` a phone is back, `x` the owner
/// dies, `n` the next commit fails, `t` time.
pub fn events(input: &[u8]) {
    let mut world = World {
        now: Timestamp(1_700_000_000_000),
        aor: Aor::new("b", "x"),
        notifier: notifier(Watched::default(), 1),
        committed: Watched::default(),
        calls: Vec::new(),
        begun: 0,
        fails: false,
        incarnation: 1,
        sent: Default::default(),
    };
    for order in input.split(|byte| *byte == 0).take(ORDERS) {
        let Some((what, rest)) = order.split_first() else { continue };
        let first = rest.first().copied().unwrap_or(0);
        let last = |world: &World| CallId(world.begun.saturating_sub(u128::from(first % 4)));
        match what {
            b's' | b'S' => {
                let text = String::from_utf8_lossy(rest.get(1..).unwrap_or_default()).into_owned();
                world.arrives(&text, last(&world), what.is_ascii_uppercase());
            }
            b'c' => world.call(first),
            b'u' => world.input(Input::Unsent(last(&world))),
            b'b' => world.input(Input::Back(last(&world), (first & 4 != 0).then(|| flow(2, true)))),
            b'k' => world.input(Input::Connected(last(&world))),
            b'x' => world.dies(),
            b'n' => world.fails = true,
            b't' => world.wait(Duration::from_millis(500 << (first % 16))),
            _ => {}
        }
    }
    world.fails = false;
    world.wait(END);
    assert!(world.committed.is_empty(), "nobody watches for ever: {:?}", world.committed);
    assert!(world.notifier.is_quiet() && world.notifier.deadline().is_none(), "nothing is on its way");
}

fn notifier(state: Watched, incarnation: u32) -> Notifier {
    Notifier::new(VNODE, state, LIFETIMES, Timers::RFC, incarnation)
}

impl World {
    fn arrives(&mut self, text: &str, id: CallId, connected: bool) {
        let token = Token { vnode: VNODE, call: id, leg: LEG };
        let text = text.replace('@', &token.to_string()).replace('!', &self.sent.0).replace('#', &self.sent.1).replace('%', "@");
        let flow = flow(1, connected);
        match endpoint::datagram(&Bytes::from(text), flow.remote) {
            Arrival::Leg(token, Message::Request(request)) if token.leg == LEG => {
                self.input(Input::Within(token.call, request, flow));
            }
            Arrival::Leg(token, Message::Response(response)) if token.leg == LEG => {
                self.input(Input::Response(token.call, response));
            }
            Arrival::Event(request) if request.method == Method::Publish => {
                self.begun += 1;
                let tag = u64::try_from(self.begun).unwrap();
                self.input(Input::Publish(request, flow, tag));
            }
            Arrival::Event(request) => {
                self.begun += 1;
                let phone = Some(Phone { aor: Aor::new("w", "x"), instance: Some("i".into()) });
                let rejected = event_of(&request.headers).is_none() && self.begun.is_multiple_of(2);
                let id = CallId(self.begun);
                self.input(match rejected {
                    true => Input::Rejected(id, request, flow),
                    false => Input::Subscribe { request, flow, id, phone },
                });
            }
            Arrival::Leg(..)
            | Arrival::Invite(_)
            | Arrival::Cancel(_)
            | Arrival::Register(_)
            | Arrival::Message(_)
            | Arrival::Options(_)
            | Arrival::Answer(..)
            | Arrival::Drop(_) => {}
        }
    }

    fn call(&mut self, which: u8) {
        let id = CallId(u128::from(which % 8));
        match self.calls.iter().position(|seen| seen.call == id) {
            Some(at) => drop(self.calls.remove(at)),
            None => {
                let remote = Some(format!("sip:{which}&<x"));
                self.calls.push(Seen { call: id, role: Role::Initiator, stage: Stage::Early, remote });
            }
        }
        self.input(Input::Changed(BTreeSet::from([Package::Dialog, Package::Presence])));
    }

    fn dies(&mut self) {
        self.incarnation += 1;
        self.notifier = notifier(self.committed.clone(), self.incarnation);
        // Whoever takes over doesn't know what has been told.
        self.input(Input::Changed(BTreeSet::from(Package::ALL)));
    }

    fn wait(&mut self, span: Duration) {
        let end = self.now + span;
        let mut turns = 0;
        while let Some(due) = self.notifier.deadline().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.input(Input::Timeout);
            turns += 1;
            assert!(turns < 50_000, "its timers go round and round");
        }
        self.now = end;
    }

    fn input(&mut self, input: Input) {
        let sources = Sources { aor: &self.aor, bindings: &[], calls: &self.calls };
        let step = self.notifier.handle(input, sources, self.now);
        let mut outputs = step.then;
        match step.commit {
            None => outputs.extend(self.notifier.leave(self.now)),
            Some(_) if std::mem::take(&mut self.fails) => {
                self.notifier.roll_back(self.now);
                outputs = step.otherwise;
            }
            Some(state) => {
                let VnodeCommand::PutWatched { record, .. } = watched::command(&self.aor, &state) else { unreachable!() };
                assert_eq!(watched::restore(&record).expect("what was written is read"), state);
                assert!(state.subscriptions.len() <= MAX_SUBSCRIPTIONS && state.publications.len() <= MAX_PUBLICATIONS);
                self.committed = state;
                outputs.extend(self.notifier.committed(self.now));
            }
        }
        assert!(outputs.len() < MAX_SUBSCRIPTIONS + MOST);
        for output in outputs {
            if let Output::Send(_, request, _) = output {
                let via = request.headers.top_via().ok();
                let branch = via.and_then(|via| via.branch().map(str::to_owned)).unwrap_or_default();
                self.sent = (branch, request.headers.cseq().map_or(0, |cseq| cseq.number).to_string());
            }
        }
    }
}

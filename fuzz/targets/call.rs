//! A whole call, whose phones say anything, and whose owner may die at any time.
//!
//! Whatever was said: when an operator hangs up, the call ends, once, and nothing of it is left.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use tandem::actors::records::{self, Site};
use tandem::clock::Timestamp;
use tandem::cluster::state::{VnodeCommand, VnodeState};
use tandem::ids::{CallId, LegId, VnodeId};
use tandem::media::core::Session;
use tandem::sip::StatusCode;
use tandem::sip::b2bua::{Body, Call, CallInput, Effect, EndedBy, Mutation, NewCall, SessionPolicy, Step, Target};
use tandem::sip::endpoint::{self, Arrival};
use tandem::sip::leg::{Leg, LegInput, LegOutput};
use tandem::sip::message::{Message, Request};
use tandem::sip::token::Token;
use tandem::sip::transaction::Timers;

use super::flow;

const ID: CallId = CallId(7);
const ORDERS: usize = 48;
/// Phones that may be called, the caller among them.
const PHONES: u8 = 3;
const MOST: usize = 256;
/// After this nothing is left of a call that was hung up.
const END: Duration = Duration::from_secs(400);

struct World {
    now: Timestamp,
    call: Option<Call>,
    legs: BTreeMap<LegId, Leg>,
    state: VnodeState,
    cdrs: usize,
    begun: bool,
    fails: bool,
    /// One phone is called, and not all.
    alone: bool,
    incarnation: u32,
    said: usize,
    /// The branch of what a leg sent last.
    branches: [String; PHONES as usize + 3],
}

/// Orders, with a 0 between them: `0`, `1`, `2` a message from a phone (`@0` in it is a leg's tag, `!1` the branch of what a leg sent
/// last), `x` the owner dies, `n` the next commit fails, `o` the call is to one phone alone, `r` a phone has come back, `h` an operator hangs up, `t` time.
pub fn b2bua(input: &[u8]) {
    let mut world = World {
        now: Timestamp(1_700_000_000_000),
        call: None,
        legs: BTreeMap::new(),
        state: VnodeState::default(),
        cdrs: 0,
        begun: false,
        fails: false,
        alone: false,
        incarnation: 1,
        said: 0,
        branches: Default::default(),
    };
    for order in input.split(|byte| *byte == 0).take(ORDERS) {
        let Some((what, rest)) = order.split_first() else { continue };
        match what {
            b'0'..=b'2' => world.arrives(what - b'0', &String::from_utf8_lossy(rest)),
            b'x' => world.dies(),
            b'n' => world.fails = true,
            b'o' => world.alone = true,
            b'r' => {
                let phone = rest.first().copied().unwrap_or(0) % PHONES;
                world.input(CallInput::Rebind(LegId(phone), flow(phone, true)));
            }
            b'h' => world.hang_up(),
            b't' => world.wait(Duration::from_millis(500 * u64::from(rest.first().copied().unwrap_or(1)))),
            _ => {}
        }
    }
    world.fails = false;
    world.hang_up();
    world.wait(END);
    if world.begun {
        assert_eq!(world.cdrs, 1, "one CDR");
        assert!(world.state.calls().next().is_none(), "nothing is left of it");
        assert!(world.legs.values().all(|leg| leg.deadline().is_none()), "nothing is repeated any more");
    }
}

impl World {
    fn arrives(&mut self, phone: u8, text: &str) {
        let mut text = text.to_owned();
        for leg in 0..PHONES {
            let token = Token { vnode: VnodeId(1), call: ID, leg: LegId(leg) };
            text = text.replace(&format!("@{leg}"), &token.to_string());
            text = text.replace(&format!("!{leg}"), &self.branches[usize::from(leg)]);
        }
        let flow = flow(phone, false);
        match endpoint::datagram(&Bytes::from(text), flow.remote) {
            Arrival::Leg(token, message) if token.call == ID && self.wakes() => {
                let input = match message {
                    Message::Request(request) => LegInput::Request(request, flow),
                    Message::Response(response) => LegInput::Response(response),
                };
                // A leg that the call doesn't have has no dialog.
                if self.call.as_ref().is_some_and(|call| call.state().has_leg(token.leg)) {
                    self.leg(token.leg, input);
                }
            }
            Arrival::Invite(request) => self.invite(request),
            Arrival::Cancel(request) if self.wakes() => self.leg(LegId::CALLER, LegInput::Request(request, flow)),
            Arrival::Answer(..)
            | Arrival::Drop(_)
            | Arrival::Register(_)
            | Arrival::Options(_)
            | Arrival::Message(_)
            | Arrival::Event(_)
            | Arrival::Leg(..)
            | Arrival::Cancel(_) => {}
        }
    }

    fn invite(&mut self, request: Request) {
        let from = flow(0, false);
        if self.begun {
            if self.wakes() {
                self.leg(LegId::CALLER, LegInput::Request(request, from));
            }
            return;
        }
        self.legs.entry(LegId::CALLER).or_insert_with(|| Leg::new(Timers::RFC)).handle(
            LegInput::Request(request.clone(), from),
            self.now,
            &mut Vec::new(),
        );
        let targets = (1..if self.alone { 2 } else { PHONES }).map(|phone| Target {
            contact: format!("sip:{phone}@198.51.100.{phone}").into(),
            path: Vec::new(),
            flow: flow(phone, false),
            long: None,
            phone: None,
            q: 1000,
            replaces: None,
        });
        let new = NewCall {
            id: ID,
            vnode: VnodeId(1),
            body: Body::of(&request.headers, &request.body),
            invite: request,
            from,
            session: Some(SessionPolicy { expires: 1800, min: 90 }),
            phone: None,
            targets: targets.collect(),
            caller: "a@x".into(),
            trusted: false,
            callee: "b@x".into(),
        };
        match Call::new(new, self.incarnation, self.now) {
            Ok((call, step)) => {
                self.call = Some(call);
                self.perform(step);
                self.begun = self.state.calls().next().is_some();
            }
            Err(_) => self.legs.clear(),
        }
    }

    /// Whether the call is here; one that sleeps is woken.
    fn wakes(&mut self) -> bool {
        if self.call.is_none() {
            let site = Site::of(flow(0, false).local);
            let Some(record) = self.state.calls().next().map(|(_, entry)| entry.record.clone()) else { return false };
            let (state, _) = records::restore(&record, site).expect("what was written is read");
            self.incarnation += 1;
            let (call, effects) = Call::resume(state, self.incarnation);
            self.call = Some(call);
            self.effects(effects);
        }
        self.call.is_some()
    }

    fn dies(&mut self) {
        self.call = None;
        self.legs.clear();
        self.wakes();
    }

    fn hang_up(&mut self) {
        if self.wakes() {
            self.input(CallInput::HangUp { status: StatusCode::SERVICE_UNAVAILABLE, by: EndedBy::Operator });
        }
    }

    fn wait(&mut self, span: Duration) {
        let end = self.now + span;
        let mut turns = 0;
        loop {
            let legs = self.legs.iter().filter_map(|(id, leg)| Some((leg.deadline()?, Some(*id))));
            let call = self.call.as_ref().and_then(|call| Some((call.deadline()?, None)));
            let Some((due, leg)) = legs.chain(call).min_by_key(|(due, _)| *due).filter(|(due, _)| *due <= end) else { break };
            self.now = self.now.max(due);
            match leg {
                Some(leg) => self.leg(leg, LegInput::Timeout),
                None => self.input(CallInput::Timeout),
            }
            turns += 1;
            assert!(turns < 20_000, "its timers go round and round");
        }
        self.now = end;
    }

    fn leg(&mut self, id: LegId, input: LegInput) {
        let mut out = Vec::new();
        self.legs.entry(id).or_insert_with(|| Leg::new(Timers::RFC)).handle(input, self.now, &mut out);
        for output in out {
            match output {
                LegOutput::Send(message, _) => {
                    self.said += 1;
                    assert!(self.said < 20_000, "it doesn't stop speaking");
                    if let Message::Request(request) = &message
                        && let Ok(via) = request.headers.top_via()
                        && let Some(branch) = self.branches.get_mut(usize::from(id.0))
                    {
                        *branch = via.branch().unwrap_or_default().to_owned();
                    }
                }
                LegOutput::Event(event) => self.input(CallInput::Leg(id, event)),
            }
        }
    }

    fn input(&mut self, input: CallInput) {
        let now = self.now;
        let Some(call) = &mut self.call else { return };
        let step = call.handle(input, now);
        self.perform(step);
    }

    fn perform(&mut self, step: Step) {
        let Step { commit, then, otherwise } = step;
        assert!(then.len() < MOST, "{then:?}");
        let Some(mutation) = commit else { return self.effects(then) };
        if std::mem::take(&mut self.fails) {
            if let Some(call) = &mut self.call {
                call.roll_back();
            }
            return self.effects(otherwise);
        }
        self.cdrs += usize::from(matches!(mutation, Mutation::End(..)));
        let session = Session::new(flow(0, false).local.ip().into(), records::media_id(ID));
        let command = records::command(&mutation, &session);
        if let VnodeCommand::PutCall { record, .. } | VnodeCommand::EndCall { record, .. } = &command {
            let (read, _) = records::restore(record, Site::of(flow(0, false).local)).expect("what was written is read");
            let written = match &mutation {
                Mutation::Put(state) | Mutation::End(state, _) => state,
                Mutation::Forget(_) => unreachable!(),
            };
            assert_eq!(read.is_quiet(), written.is_quiet());
        }
        self.state.apply(&command);
        if let Some(call) = &mut self.call {
            call.committed();
        }
        self.effects(then);
    }

    fn effects(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Leg(leg, command) => self.leg(leg, LegInput::Command(command)),
                Effect::Locate(contacts) => self.input(CallInput::Located { contacts, targets: Vec::new() }),
                Effect::CloseMedia | Effect::Press(..) => {}
                Effect::Close => {
                    self.call = None;
                    self.legs.clear();
                }
            }
        }
    }
}

//! Two phones, one call, and a process that dies at every point of it. What is committed survives; the rest
//! is gone; the phones go on as RFC 3261 makes them.

#![allow(clippy::wildcard_enum_match_arm, reason = "a test names what it is about")]

use std::collections::VecDeque;

use super::*;
use crate::sip::headers::Transport;
use crate::sip::leg::{Leg, LegInput, LegOutput};
use crate::sip::message::Message;
use crate::sip::transaction::Timers;
use crate::sip::{encode, endpoint, parse};

const TICK: Duration = Duration::from_millis(100);
/// How long a successor takes.
const TAKEOVER: Duration = Duration::from_millis(300);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Story {
    CallerHangsUp,
    CalleeHangsUp,
    CallerCancels,
    CalleeIsBusy,
    CallerHolds,
}

/// A phone: it repeats its requests until they are answered and its 2xx until they are acknowledged.
#[derive(Debug, Default)]
struct Phone {
    name: &'static str,
    /// The request that waits for an answer, and when it is sent again.
    open: Option<(Request, Timestamp, Duration)>,
    /// The final answer to an INVITE that waits for its ACK.
    answer: Option<(Response, Timestamp, Duration)>,
    /// Every request that was answered, with the answer: repeated requests get it again.
    answered: Vec<(String, Response)>,
    invite: Option<Request>,
    peer: Option<(Text, Text)>,
    saw: Vec<String>,
    rings_at: Option<Timestamp>,
    up: bool,
    down: bool,
    distinct_invites: usize,
}

struct World {
    now: Timestamp,
    story: Story,
    process: Option<Process>,
    reborn_at: Option<Timestamp>,
    record: Option<CallState>,
    cdrs: Vec<Cdr>,
    phones: [Phone; 2],
    to_us: VecDeque<(usize, Message)>,
    to_phones: VecDeque<(usize, Message)>,
    /// The process dies when this many points have been passed.
    cut: Option<usize>,
    points: usize,
    incarnation: u32,
    calls: u128,
}

struct Process {
    call: Option<Call>,
    legs: [Leg; 2],
    /// Ports are open; they close when the process dies.
    media: bool,
}

impl Process {
    fn new() -> Self {
        Self { call: None, legs: [Leg::new(Timers::RFC), Leg::new(Timers::RFC)], media: false }
    }
}

fn flow(phone: usize) -> Flow {
    Flow {
        vnode: VnodeId(1),
        transport: Transport::Udp,
        local: "127.0.0.11:5060".parse().unwrap(),
        remote: format!("10.0.0.{}:5060", phone + 1).parse().unwrap(),
    }
}

fn text_request(text: String) -> Request {
    match parse::datagram(&text.into()).unwrap() {
        Message::Request(request) => request,
        Message::Response(_) => unreachable!(),
    }
}

impl World {
    fn new(story: Story, cut: Option<usize>) -> Self {
        Self {
            now: Timestamp(1_000_000),
            story,
            process: Some(Process::new()),
            reborn_at: None,
            record: None,
            cdrs: Vec::new(),
            phones: [Phone { name: "a", ..Phone::default() }, Phone { name: "b", ..Phone::default() }],
            to_us: VecDeque::new(),
            to_phones: VecDeque::new(),
            cut,
            points: 0,
            incarnation: 1,
            calls: 0,
        }
    }

    /// A point at which the process may die. True when it did.
    fn dies_here(&mut self) -> bool {
        self.points += 1;
        if self.cut == Some(self.points) {
            self.process = None;
            self.to_us.clear();
            self.reborn_at = Some(self.now + TAKEOVER);
            return true;
        }
        self.process.is_none()
    }

    // --- our side ---

    fn deliver_to_us(&mut self, from: usize, message: Message) {
        if self.process.is_none() {
            return;
        }
        // Through the wire form, so that nothing is passed on that could not be.
        match endpoint::datagram(&encode::encode(&message), flow(from).remote) {
            endpoint::Arrival::Leg(token, message) => {
                let alive = self.process.as_ref().and_then(|p| p.call.as_ref()).is_some_and(|c| c.state().id == token.call);
                match message {
                    _ if alive => self.leg_input(token.leg, input_of(message, from)),
                    Message::Request(request) if request.method != Method::Ack => {
                        let gone = endpoint::stateless(&request, StatusCode::CALL_DOES_NOT_EXIST);
                        self.to_phones.push_back((from, Message::Response(gone)));
                    }
                    _ => {}
                }
            }
            endpoint::Arrival::Invite(request) => self.invite(from, request),
            endpoint::Arrival::Cancel(request) => {
                if self.process.as_ref().is_some_and(|p| p.call.is_some()) {
                    self.leg_input(LegId::CALLER, LegInput::Request(request, flow(from)));
                }
            }
            other => panic!("{other:?}"),
        }
    }

    fn invite(&mut self, from: usize, request: Request) {
        let known = self.process.as_ref().is_some_and(|p| p.call.is_some());
        if known {
            return self.leg_input(LegId::CALLER, LegInput::Request(request, flow(from)));
        }
        self.calls += 1;
        let mut ignored = Vec::new();
        let process = self.process.as_mut().unwrap();
        process.legs[0].handle(LegInput::Request(request.clone(), flow(from)), self.now, &mut ignored);
        let new = NewCall {
            id: CallId(self.calls),
            vnode: VnodeId(1),
            body: Body::of(&request.headers, &request.body),
            invite: request,
            from: flow(from),
            target: "sip:b@10.0.0.2:5060".into(),
            to: flow(1),
            caller: "a@x".into(),
            callee: "b@x".into(),
        };
        let (call, step) = Call::new(new, self.incarnation, self.now).unwrap();
        process.call = Some(call);
        process.media = true;
        self.perform_leg_outputs(LegId::CALLER, ignored, true);
        self.perform(step);
    }

    fn leg_input(&mut self, leg: LegId, input: LegInput) {
        let mut out = Vec::new();
        let Some(process) = &mut self.process else { return };
        process.legs[usize::from(leg.0)].handle(input, self.now, &mut out);
        self.perform_leg_outputs(leg, out, false);
    }

    fn perform_leg_outputs(&mut self, leg: LegId, outputs: Vec<LegOutput>, only_sends: bool) {
        for output in outputs {
            match output {
                LegOutput::Send(message, flow) => {
                    if self.dies_here() {
                        return;
                    }
                    let phone = if flow.remote == super::tests::flow(0).remote { 0 } else { 1 };
                    self.to_phones.push_back((phone, message));
                }
                LegOutput::Event(_) if only_sends => {}
                LegOutput::Event(event) => self.call_input(CallInput::Leg(leg, event)),
            }
        }
    }

    fn call_input(&mut self, input: CallInput) {
        let now = self.now;
        let Some(call) = self.process.as_mut().and_then(|p| p.call.as_mut()) else { return };
        let step = call.handle(input, now);
        self.perform(step);
    }

    fn perform(&mut self, step: Step) {
        if let Some(mutation) = step.commit {
            if self.dies_here() {
                return;
            }
            match mutation {
                Mutation::Put(state) => self.record = Some(*state),
                Mutation::End(state, cdr) => {
                    self.record = Some(*state);
                    self.cdrs.push(*cdr);
                }
                Mutation::Forget(_) => self.record = None,
            }
            if self.dies_here() {
                return;
            }
            self.process.as_mut().unwrap().call.as_mut().unwrap().committed();
        }
        for effect in step.then {
            match effect {
                Effect::Leg(leg, command) => self.leg_input(leg, LegInput::Command(command)),
                Effect::CloseMedia => self.process.as_mut().unwrap().media = false,
                Effect::Close => self.process = Some(Process::new()),
            }
            if self.process.is_none() {
                return;
            }
        }
    }

    fn take_over(&mut self) {
        self.reborn_at = None;
        self.incarnation += 1;
        self.process = Some(Process::new());
        let Some(record) = self.record.clone() else { return };
        let (call, effects) = Call::resume(record, self.incarnation);
        let process = self.process.as_mut().unwrap();
        process.media = call.state().ended.is_none();
        process.call = Some(call);
        self.perform(Step::free(effects));
    }

    // --- the phones' side ---

    fn send(&mut self, phone: usize, request: Request) {
        if request.method != Method::Ack {
            self.phones[phone].open = Some((request.clone(), self.now + Timers::RFC.t1, Timers::RFC.t1));
        }
        self.to_us.push_back((phone, Message::Request(request)));
    }

    fn phone_request(&self, phone: usize, method: &str, cseq: u32, body: &str) -> Request {
        let this = &self.phones[phone];
        let (target, to) = this.peer.clone().unwrap_or(("sip:b@x".into(), "<sip:b@x>".into()));
        let (from, call_id) = match &this.invite {
            Some(invite) if phone == 1 => {
                (format!("{};tag=b", invite.headers.text(&Name::To).unwrap()), invite.headers.call_id().unwrap().to_string())
            }
            _ => ("<sip:a@x>;tag=a".to_owned(), "a-call".to_owned()),
        };
        text_request(format!(
            "{method} {target} SIP/2.0\r\nVia: SIP/2.0/UDP 10.0.0.{};branch=z9hG4bK{}{method}{cseq}\r\nFrom: {from}\r\nTo: {to}\r\n\
             Call-ID: {call_id}\r\nCSeq: {cseq} {method}\r\nContact: <sip:{}@10.0.0.{}:5060>\r\nContent-Length: {}\r\n\r\n{body}",
            phone + 1,
            this.name,
            this.name,
            phone + 1,
            body.len()
        ))
    }

    fn deliver_to_phone(&mut self, phone: usize, message: Message) {
        match message {
            Message::Request(request) => self.phone_gets_request(phone, request),
            Message::Response(response) => self.phone_gets_response(phone, &response),
        }
    }

    fn phone_gets_request(&mut self, phone: usize, request: Request) {
        let key = format!("{} {}", TxKey::of(&request).0, request.method);
        let known = self.phones[phone].answered.iter().find(|(own, _)| *own == key).map(|(_, response)| response.clone());
        if let Some(response) = known {
            self.to_us.push_back((phone, Message::Response(response)));
            return;
        }
        self.phones[phone].saw.push(request.method.to_string());
        let answer = match request.method {
            Method::Ack => {
                self.phones[phone].answer = None;
                return;
            }
            Method::Invite => {
                let again = self.phones[phone].invite.is_some();
                if !again {
                    self.phones[phone].distinct_invites += 1;
                    self.phones[phone].rings_at = Some(self.now);
                    let contact = request.headers.contacts().unwrap()[0].uri.to_string();
                    let from = request.headers.text(&Name::From).unwrap();
                    self.phones[phone].peer = Some((contact.into(), from));
                    self.phones[phone].invite = Some(request.clone());
                    ringing(&request)
                } else {
                    let ok = ok(&request, phone);
                    self.phones[phone].answer = Some((ok.clone(), self.now + Timers::RFC.t1, Timers::RFC.t1));
                    ok
                }
            }
            Method::Cancel => {
                let invite = self.phones[phone].invite.clone().unwrap();
                self.phones[phone].rings_at = None;
                self.phones[phone].down = true;
                let terminated = invite.response(StatusCode::REQUEST_TERMINATED, Some("b"));
                self.phones[phone].answer = Some((terminated.clone(), self.now + Timers::RFC.t1, Timers::RFC.t1));
                self.to_us.push_back((phone, Message::Response(terminated)));
                request.response(StatusCode::OK, Some("b"))
            }
            Method::Bye => {
                self.phones[phone].down = true;
                self.phones[phone].answer = None;
                request.response(StatusCode::OK, None)
            }
            ref other => panic!("{other}"),
        };
        self.phones[phone].answered.push((key, answer.clone()));
        self.to_us.push_back((phone, Message::Response(answer)));
    }

    fn phone_gets_response(&mut self, phone: usize, response: &Response) {
        let cseq = response.headers.cseq().unwrap();
        self.phones[phone].saw.push(format!("{} {}", response.status, cseq.method));
        let open = self.phones[phone].open.as_ref().is_some_and(|(request, ..)| request.headers.cseq() == Ok(cseq.clone()));
        if open && (response.status.is_final() || cseq.method == Method::Invite) {
            self.phones[phone].open = None;
        }
        if cseq.method == Method::Invite && response.status.is_final() {
            let success = response.status.class() == Class::Success;
            if success {
                let contact = response.headers.contacts().unwrap()[0].uri.to_string();
                self.phones[phone].peer = Some((contact.into(), response.headers.text(&Name::To).unwrap()));
                self.phones[phone].up = true;
            } else if cseq.number == 1 {
                self.phones[phone].down = true;
            }
            let mut ack = self.phone_request(phone, "ACK", cseq.number, "");
            if !success {
                // RFC 3261 §17.1.1.3: an ACK for a failure has its INVITE's branch.
                ack.headers.replace_first(&Name::To, response.headers.get(&Name::To).unwrap().clone());
                ack.headers.replace_first(&Name::Via, format!("SIP/2.0/UDP 10.0.0.1;branch=z9hG4bKaINVITE{}", cseq.number));
            }
            self.send(phone, ack);
        }
        if cseq.method == Method::Bye && response.status.is_final() {
            self.phones[phone].down = true;
        }
    }

    fn phones_act(&mut self, elapsed: Duration) {
        for phone in 0..2 {
            if let Some((request, at, gap)) = self.phones[phone].open.clone()
                && self.now >= at
            {
                let gap = (gap * 2).min(Timers::RFC.t2);
                self.phones[phone].open = Some((request.clone(), self.now + gap, gap));
                self.to_us.push_back((phone, Message::Request(request)));
            }
            if let Some((response, at, gap)) = self.phones[phone].answer.clone()
                && self.now >= at
            {
                let gap = (gap * 2).min(Timers::RFC.t2);
                self.phones[phone].answer = Some((response.clone(), self.now + gap, gap));
                self.to_us.push_back((phone, Message::Response(response)));
            }
        }
        let rang_for = self.phones[1].rings_at.map(|at| self.now.since(at));
        if rang_for >= Some(Duration::from_millis(1000)) && self.story != Story::CallerCancels {
            self.phones[1].rings_at = None;
            let invite = self.phones[1].invite.clone().unwrap();
            let answer = if self.story == Story::CalleeIsBusy {
                self.phones[1].down = true;
                invite.response(StatusCode::BUSY_HERE, Some("b"))
            } else {
                self.phones[1].up = true;
                ok(&invite, 1)
            };
            let key = format!("{} INVITE", TxKey::of(&invite).0);
            self.phones[1].answered.retain(|(own, _)| *own != key);
            self.phones[1].answered.push((key, answer.clone()));
            self.phones[1].answer = Some((answer.clone(), self.now + Timers::RFC.t1, Timers::RFC.t1));
            self.to_us.push_back((1, Message::Response(answer)));
        }
        let seconds = |n: u64| elapsed == Duration::from_secs(n);
        match self.story {
            Story::CallerHangsUp if seconds(12) => self.hang_up(0),
            Story::CalleeHangsUp if seconds(12) => self.hang_up(1),
            Story::CallerCancels if seconds(2) => {
                let mut cancel = self.phone_request(0, "CANCEL", 1, "");
                cancel.headers.replace_first(&Name::Via, "SIP/2.0/UDP 10.0.0.1;branch=z9hG4bKaINVITE1");
                self.send(0, cancel);
            }
            Story::CallerHolds if seconds(6) => {
                let hold = self.phone_request(0, "INVITE", 2, "hold");
                self.send(0, hold);
            }
            Story::CallerHolds if seconds(24) => self.hang_up(0),
            _ => {}
        }
    }

    fn hang_up(&mut self, phone: usize) {
        let bye = self.phone_request(phone, "BYE", 10, "");
        self.send(phone, bye);
    }

    fn run(mut self) -> Self {
        let start = self.now;
        let invite = self.phone_request(0, "INVITE", 1, "offer");
        self.send(0, invite);
        let mut elapsed = Duration::ZERO;
        while elapsed < Duration::from_secs(140) {
            loop {
                if let Some((phone, message)) = self.to_phones.pop_front() {
                    self.deliver_to_phone(phone, message);
                } else if let Some((phone, message)) = self.to_us.pop_front() {
                    self.deliver_to_us(phone, message);
                } else {
                    break;
                }
            }
            self.now = self.now + TICK;
            elapsed = self.now.since(start);
            if self.reborn_at.is_some_and(|at| self.now >= at) {
                self.take_over();
            }
            for leg in [LegId::CALLER, LegId::CALLEE] {
                let due = self.process.as_ref().and_then(|p| p.legs[usize::from(leg.0)].deadline());
                if due.is_some_and(|at| at <= self.now) {
                    self.leg_input(leg, LegInput::Timeout);
                }
            }
            let due = self.process.as_ref().and_then(|p| p.call.as_ref()).and_then(Call::deadline);
            if due.is_some_and(|at| at <= self.now) {
                self.call_input(CallInput::Timeout);
            }
            self.phones_act(elapsed);
        }
        self
    }

    fn check(&self) {
        let story = (self.story, self.cut, &self.phones[0].saw, &self.phones[1].saw);
        assert_eq!(self.cdrs.len(), 1, "one CDR: {story:?}");
        assert!(!self.process.as_ref().unwrap().media, "the media is closed: {story:?}");
        assert!(self.record.is_none(), "nothing is left: {story:?}");
        assert_eq!(self.phones[1].distinct_invites, 1, "the callee was called once: {story:?}");
        for phone in &self.phones {
            assert!(phone.open.is_none() && phone.answer.is_none(), "{} has nothing open: {story:?}", phone.name);
            assert!(phone.down, "{} knows that it is over: {story:?}", phone.name);
        }
        let talks = !matches!(self.story, Story::CallerCancels | Story::CalleeIsBusy);
        assert_eq!((self.phones[0].up, self.phones[1].up), (talks, talks), "{story:?}");
        assert_eq!(self.cdrs[0].answered.is_some(), talks, "{story:?}");
        if self.story == Story::CallerHolds {
            assert!(self.phones[1].saw.iter().filter(|seen| *seen == "INVITE").count() >= 2, "held: {story:?}");
        }
    }
}

fn input_of(message: Message, from: usize) -> LegInput {
    match message {
        Message::Request(request) => LegInput::Request(request, flow(from)),
        Message::Response(response) => LegInput::Response(response),
    }
}

fn ringing(invite: &Request) -> Response {
    invite.response(StatusCode::RINGING, Some("b")).with(Name::Contact, "<sip:b@10.0.0.2:5060>")
}

fn ok(invite: &Request, phone: usize) -> Response {
    let tag = if phone == 0 { "a" } else { "b" };
    let response = invite.response(StatusCode::OK, Some(tag)).with(Name::Contact, "<sip:b@10.0.0.2:5060>");
    response.with_body("application/sdp", Bytes::from_static(b"answer"))
}

fn cut_everywhere(story: Story) {
    let whole = World::new(story, None).run();
    whole.check();
    assert!(whole.points > 8, "the story has points to be cut at");
    for cut in 1..=whole.points {
        World::new(story, Some(cut)).run().check();
    }
}

#[test]
fn a_call_survives_death_at_every_point_when_the_caller_hangs_up() {
    cut_everywhere(Story::CallerHangsUp);
}

#[test]
fn a_call_survives_death_at_every_point_when_the_callee_hangs_up() {
    cut_everywhere(Story::CalleeHangsUp);
}

#[test]
fn a_cancelled_call_ends_as_it_should_whenever_we_die() {
    cut_everywhere(Story::CallerCancels);
}

#[test]
fn a_refused_call_ends_as_it_should_whenever_we_die() {
    cut_everywhere(Story::CalleeIsBusy);
}

#[test]
fn a_hold_finishes_or_goes_on_whenever_we_die() {
    cut_everywhere(Story::CallerHolds);
}

/// The order is the rule: nothing leaves before what is behind it is held.
#[test]
fn no_promise_leaves_without_its_commit() {
    let mut world = World::new(Story::CallerHangsUp, None);
    let invite = world.phone_request(0, "INVITE", 1, "offer");
    let new = NewCall {
        id: CallId(1),
        vnode: VnodeId(1),
        body: None,
        invite: invite.clone(),
        from: flow(0),
        target: "sip:b@10.0.0.2".into(),
        to: flow(1),
        caller: String::new(),
        callee: String::new(),
    };
    let (mut call, step) = Call::new(new, 1, world.now).unwrap();
    assert!(matches!(step.commit, Some(Mutation::Put(_))));
    call.committed();
    let sent = call.state().leg(LegId::CALLEE).out.clone().unwrap().request;
    for (status, commits) in [(180, true), (180, false), (183, true), (200, true)] {
        let response = sent.response(StatusCode::new(status).unwrap(), Some("b")).with(Name::Contact, "<sip:b@10.0.0.2>");
        let step = call.handle(CallInput::Leg(LegId::CALLEE, LegEvent::Response(response)), world.now);
        assert_eq!(step.commit.is_some(), commits, "{status}");
        assert!(commits || step.then.is_empty(), "{status}");
        call.committed();
    }
    world.story = Story::CalleeHangsUp;
    let step = call.handle(CallInput::HangUp { status: StatusCode::OK, by: EndedBy::Operator }, world.now);
    assert!(matches!(step.commit, Some(Mutation::End(..))));
    call.roll_back();
    assert!(call.state().ended.is_none(), "what was not committed has not happened");
}

/// An established call, committed.
fn established() -> (Call, World) {
    let world = World::new(Story::CallerHangsUp, None);
    let invite = world.phone_request(0, "INVITE", 1, "offer");
    let new = NewCall {
        id: CallId(1),
        vnode: VnodeId(1),
        body: Body::of(&invite.headers, &invite.body),
        invite: invite.clone(),
        from: flow(0),
        target: "sip:b@10.0.0.2".into(),
        to: flow(1),
        caller: String::new(),
        callee: String::new(),
    };
    let (mut call, _) = Call::new(new, 1, world.now).unwrap();
    call.committed();
    let sent = call.state().leg(LegId::CALLEE).out.clone().unwrap().request;
    let _ = call.handle(CallInput::Leg(LegId::CALLEE, LegEvent::Response(ok(&sent, 1))), world.now);
    call.committed();
    let ack = in_dialog(&call, "ACK", 1);
    let _ = call.handle(CallInput::Leg(LegId::CALLER, LegEvent::Acked(ack)), world.now);
    call.committed();
    (call, world)
}

/// A request of the caller's.
fn in_dialog(call: &Call, method: &str, cseq: u32) -> Request {
    let dialog = &call.state().leg(LegId::CALLER).dialog;
    text_request(format!(
        "{method} sip:x SIP/2.0\r\nVia: SIP/2.0/UDP 10.0.0.1;branch=z9hG4bK{method}{cseq}\r\nFrom: {};tag={}\r\nTo: {};tag={}\r\n\
         Call-ID: {}\r\nCSeq: {cseq} {method}\r\nContact: <sip:a@10.0.0.1:5060>\r\n\r\n",
        dialog.remote,
        dialog.remote_tag.clone().unwrap_or_default(),
        dialog.local,
        dialog.local_tag,
        dialog.call_id
    ))
}

fn ask(call: &mut Call, request: Request, flow: Flow, now: Timestamp) -> Step {
    let key = TxKey::of(&request);
    call.handle(CallInput::Leg(LegId::CALLER, LegEvent::Request(key, request, flow)), now)
}

fn sent_cseq(step: &Step) -> u32 {
    let sent = step.then.iter().find_map(|effect| match effect {
        Effect::Leg(LegId::CALLEE, LegCommand::Send(request, _)) => request.headers.cseq().ok(),
        _ => None,
    });
    sent.expect("a request to the callee").number
}

/// Numbers of requests that commit nothing are not used again by a later owner, however often the call moves.
#[test]
fn cseq_numbers_only_grow_over_takeovers() {
    let (mut call, world) = established();
    let (mut last, mut theirs, mut free) = (1, 1, 0);
    for _ in 0..3 {
        for _ in 0..CSEQ_BLOCK + 8 {
            theirs += 1;
            let info = in_dialog(&call, "INFO", theirs);
            let step = ask(&mut call, info, flow(0), world.now);
            let number = sent_cseq(&step);
            assert!(number > last, "{number} after {last}");
            last = number;
            match step.commit {
                Some(_) => call.committed(),
                None => free += 1,
            }
        }
        // What a new owner gets is what was committed last, not what is in memory.
        let Step { commit: Some(Mutation::Put(record)), .. } = call.again() else { panic!("a state to commit") };
        let mut record = *record;
        for (leg, reserved) in record.legs.iter_mut().zip(call.reserved) {
            leg.dialog.local_cseq = reserved;
        }
        assert!(record.relays.is_empty(), "a new owner says nothing twice");
        (call, _) = Call::resume(record, 2);
    }
    assert!(free > 3 * CSEQ_BLOCK / 2, "most of them need no commit");
    let bye = in_dialog(&call, "BYE", theirs + 1);
    assert!(sent_cseq(&ask(&mut call, bye, flow(0), world.now)) > last);
}

/// A phone that comes back from another address is answered and called there from then on.
#[test]
fn a_dialog_follows_its_phone() {
    let (mut call, world) = established();
    let moved = Flow { remote: "192.0.2.9:777".parse().unwrap(), ..flow(0) };
    let reinvite = in_dialog(&call, "INVITE", 2);
    let step = ask(&mut call, reinvite, moved, world.now);
    assert!(step.commit.is_some());
    assert_eq!(call.state().leg(LegId::CALLER).dialog.flow, moved);
}

/// Else the next owner would hang up on everybody once more.
#[test]
fn a_call_whose_end_everybody_knows_is_forgotten() {
    let (mut call, world) = established();
    let bye = in_dialog(&call, "BYE", 2);
    let step = ask(&mut call, bye, flow(0), world.now);
    assert!(matches!(step.commit, Some(Mutation::End(..))));
    call.committed();
    let ours = call.state().leg(LegId::CALLEE).bye.clone().unwrap();
    let answered = CallInput::Leg(LegId::CALLEE, LegEvent::Response(ours.response(StatusCode::OK, None)));
    assert_eq!(call.handle(answered, world.now), Step::promise(Mutation::Forget(call.state().id), vec![Effect::Close]));
}

/// RFC 3261 §9.2: a CANCEL is answered even when it comes too late.
#[test]
fn a_cancel_that_crosses_the_answer_is_answered() {
    let world = World::new(Story::CallerHangsUp, None);
    let invite = world.phone_request(0, "INVITE", 1, "offer");
    let key = TxKey::of(&invite);
    let new = NewCall {
        id: CallId(1),
        vnode: VnodeId(1),
        body: None,
        invite,
        from: flow(0),
        target: "sip:b@10.0.0.2".into(),
        to: flow(1),
        caller: String::new(),
        callee: String::new(),
    };
    let (mut call, _) = Call::new(new, 1, world.now).unwrap();
    let sent = call.state().leg(LegId::CALLEE).out.clone().unwrap().request;
    let _ = call.handle(CallInput::Leg(LegId::CALLEE, LegEvent::Response(ok(&sent, 1))), world.now);
    let cancelled = LegEvent::Cancelled { invite: key.clone(), cancel: key };
    let step = call.handle(CallInput::Leg(LegId::CALLER, cancelled), world.now);
    assert!(
        matches!(&step.then[..], [Effect::Leg(LegId::CALLER, LegCommand::Respond(_, answer))] if answer.status == StatusCode::OK)
    );
    assert!(call.state().ended.is_none());
}

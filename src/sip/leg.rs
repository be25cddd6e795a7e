//! One leg's side of the wire: its transactions, and the 2xx and ACK that are nobody's (RFC 3261 §13.3.1.4,
//! §17). Layer: pure.
//!
//! The leg swallows what is repeated and repeats what may be lost, so that the call above sees each thing
//! once. It decides nothing about calls, and holds nothing that must survive: a new owner makes a new leg,
//! and the call tells it what is still open ([`LegCommand::Accept`], [`LegCommand::Adopt`]).
//!
//! ```text
//!  wire ──Request/Response──▶ Leg ──LegEvent──▶ call
//!  wire ◀──────Send────────── Leg ◀─LegCommand── call
//! ```

use super::dialog::Flow;
use super::headers::Via;
use super::message::{Message, Request, Response};
use super::status::Class;
use super::transaction::{
    Cause, Client, ClientInput, ClientOutput, InviteClient, InviteServer, Server, ServerInput, ServerOutput, Timers,
};
use super::{Method, Name, StatusCode, Text};
use crate::clock::Timestamp;
use std::time::Duration;

/// At most this many transactions of a kind are open on a leg; a peer that asks for more is answered 503.
pub const MAX_TRANSACTIONS: usize = 16;

/// At most this many requests are remembered on a leg, answered ones that linger included.
pub const MAX_LINGERING: usize = 64;

/// At most this many ACKs are remembered on a leg; who repeats a 2xx whose ACK isn't gets it from the call.
pub const MAX_ACKS: usize = 16;

/// What makes two requests the same transaction (RFC 3261 §17.2.3): branch and sent-by. ACK and CANCEL share
/// their INVITE's key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TxKey(pub Text);

impl TxKey {
    /// The key of a request; branches from before RFC 3261 are told apart by the dialog instead.
    pub fn of(request: &Request) -> Self {
        let headers = &request.headers;
        let key = match headers.top_via() {
            Ok(via) if via.branch().is_some_and(|branch| branch.len() > Via::COOKIE.len() && branch.starts_with(Via::COOKIE)) => {
                format!("{}|{}|{}", via.branch().unwrap_or(""), via.host, via.port.unwrap_or(5060))
            }
            _ => {
                let from = headers.text(&Name::From).unwrap_or_default();
                let cseq = headers.cseq().map_or(0, |cseq| cseq.number);
                format!("{}|{}|{cseq}", headers.text(&Name::CallId).unwrap_or_default(), from)
            }
        };
        Self(Text::from(key))
    }
}

/// What a leg is told.
#[derive(Debug, Clone)]
pub enum LegInput {
    /// A request came by this flow.
    Request(Request, Flow),
    /// A response came.
    Response(Response),
    /// The call wants something.
    Command(LegCommand),
    /// The deadline has passed.
    Timeout,
}

/// What the call wants from a leg.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LegCommand {
    /// Answer the request with this key. A 2xx to INVITE is repeated until its ACK comes, a provisional answer with RSeq until its PRACK is
    /// answered.
    Respond(TxKey, Response),
    /// Send a request of ours by this flow; an ACK is remembered for repeated 2xx.
    Send(Request, Flow),
    /// Cancel our INVITE, as soon as that is allowed.
    Cancel,
    /// Acknowledge the failure of our INVITE: what follows from it is committed.
    Acknowledge,
    /// Take up the server transaction of a request that came before this leg was made.
    Accept(Request, Flow),
    /// Take up the client transaction of an INVITE that a former owner sent and that is being worked on.
    Adopt(Request, Flow),
    /// The phone is at the end of another flow now: what is open goes on there.
    Rebind(Flow),
    /// There is no way to the phone: an INVITE that it has said nothing to fails (RFC 5626 §5.3).
    FlowFailed,
}

/// What a leg tells the call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LegEvent {
    /// A new request, CANCEL and ACK for failures excepted, and the flow by which it came.
    Request(TxKey, Request, Flow),
    /// A CANCEL for the INVITE with `invite`; answer `cancel`.
    Cancelled {
        /// The key of the INVITE, which has no final answer yet.
        invite: TxKey,
        /// The CANCEL to be answered.
        cancel: TxKey,
    },
    /// The ACK for a 2xx of ours.
    Acked(Request),
    /// A response to a request of ours; 100 is left out.
    Response(Response),
    /// An INVITE of ours is being worked on: the first 100.
    Trying,
    /// A request of ours had no answer in time.
    NoResponse(Request),
    /// A 2xx of ours was never acknowledged.
    NoAck,
    /// Nor was a provisional answer of ours that should have been (RFC 3262 §3).
    NoPrack,
}

/// What the shell must do, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LegOutput {
    /// Send by this flow.
    Send(Message, Flow),
    /// Tell the call.
    Event(LegEvent),
}

/// The machine.
#[derive(Debug)]
pub struct Leg {
    timers: Timers,
    invites_in: Vec<ServerTx<InviteServer>>,
    requests_in: Vec<ServerTx<Server>>,
    invites_out: Vec<InviteTx>,
    requests_out: Vec<(Client, Flow)>,
    answers: Vec<Answer>,
    acks: Vec<(u32, Request, Flow)>,
}

#[derive(Debug)]
struct ServerTx<M> {
    key: TxKey,
    method: Method,
    flow: Flow,
    cseq: u32,
    /// Of a PRACK: the number that it acknowledges (RFC 3262 §7.2).
    rack: Option<u32>,
    machine: M,
}

#[derive(Debug)]
struct InviteTx {
    machine: InviteClient,
    flow: Flow,
    cancel: Cancel,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cancel {
    No,
    /// Wanted, but no provisional response came yet (RFC 3261 §9.1).
    Wanted,
    Sent,
}

/// A 2xx that waits for its ACK (RFC 3261 §13.3.1.4), or a provisional answer that waits for its PRACK (RFC 3262 §3).
#[derive(Debug)]
struct Answer {
    key: TxKey,
    /// The number of a provisional one.
    rseq: Option<u32>,
    cseq: u32,
    response: Response,
    flow: Flow,
    gap: Duration,
    resend: Timestamp,
    give_up: Timestamp,
}

impl Leg {
    /// A leg with nothing open.
    pub fn new(timers: Timers) -> Self {
        Self {
            timers,
            invites_in: Vec::new(),
            requests_in: Vec::new(),
            invites_out: Vec::new(),
            requests_out: Vec::new(),
            answers: Vec::new(),
            acks: Vec::new(),
        }
    }

    /// When [`LegInput::Timeout`] is due.
    pub fn deadline(&self) -> Option<Timestamp> {
        let invites_in = self.invites_in.iter().filter_map(|tx| tx.machine.deadline());
        let requests_in = self.requests_in.iter().filter_map(|tx| tx.machine.deadline());
        let invites_out = self.invites_out.iter().filter_map(|tx| tx.machine.deadline());
        let requests_out = self.requests_out.iter().filter_map(|(machine, _)| machine.deadline());
        let answers = self.answers.iter().map(|answer| answer.resend.min(answer.give_up));
        invites_in.chain(requests_in).chain(invites_out).chain(requests_out).chain(answers).min()
    }

    /// Whether a leg made anew would do as well: nothing is open, and what lingers is told again by the call
    /// ([`LegCommand::Adopt`]).
    pub fn is_at_rest(&self) -> bool {
        let all_final = self.invites_out.iter().all(|tx| !tx.machine.is_pending());
        all_final
            && self.invites_in.is_empty()
            && self.requests_in.is_empty()
            && self.requests_out.is_empty()
            && self.answers.is_empty()
    }

    /// Advances by one input.
    pub fn handle(&mut self, input: LegInput, now: Timestamp, out: &mut Vec<LegOutput>) {
        match input {
            LegInput::Request(request, flow) => self.request(request, flow, now, out),
            LegInput::Response(response) => self.response(response, now, out),
            LegInput::Command(command) => self.command(command, now, out),
            LegInput::Timeout => self.timeout(now, out),
        }
    }

    #[allow(clippy::wildcard_enum_match_arm, reason = "every other method is treated alike")]
    fn request(&mut self, request: Request, flow: Flow, now: Timestamp, out: &mut Vec<LegOutput>) {
        let key = TxKey::of(&request);
        match request.method {
            Method::Ack => self.ack(&key, request, now, out),
            Method::Invite => {
                if let Some(tx) = self.invites_in.iter_mut().find(|tx| tx.key == key) {
                    feed_server(&mut tx.machine, tx.flow, ServerInput::Retransmit, now, out);
                } else if self.invites_in.len() >= MAX_TRANSACTIONS {
                    refuse(&request, flow, out);
                } else {
                    // No 100 yet: it would stop the phone's retransmissions, which are all that is left of the
                    // INVITE if we die before the call is committed.
                    self.open_invite(&request, key.clone(), flow);
                    out.push(LegOutput::Event(LegEvent::Request(key, request, flow)));
                }
            }
            Method::Cancel => self.cancel_received(key, request, flow, now, out),
            _ => {
                let known = self.requests_in.iter_mut().find(|tx| tx.key == key && tx.method == request.method);
                if let Some(tx) = known {
                    feed_server(&mut tx.machine, tx.flow, ServerInput::Retransmit, now, out);
                } else if self.is_full(&request.method) {
                    refuse(&request, flow, out);
                } else {
                    self.open_request(&request, key.clone(), flow);
                    out.push(LegOutput::Event(LegEvent::Request(key, request, flow)));
                }
            }
        }
    }

    /// Whether one more request is too much. A phone may always hang up.
    fn is_full(&self, method: &Method) -> bool {
        let open = self.requests_in.iter().filter(|tx| tx.machine.is_open()).count();
        *method != Method::Bye && open >= MAX_TRANSACTIONS
    }

    fn open_invite(&mut self, request: &Request, key: TxKey, flow: Flow) {
        self.invites_in.push(ServerTx {
            key,
            method: Method::Invite,
            flow: flow.of_answer(&request.headers),
            cseq: cseq(&request.headers),
            rack: None,
            machine: InviteServer::new(flow.transport.is_reliable(), self.timers),
        });
    }

    fn open_request(&mut self, request: &Request, key: TxKey, flow: Flow) {
        // What is answered lingers for repetitions (Timer J): the oldest goes when there are too many.
        if self.requests_in.len() >= MAX_LINGERING
            && let Some(at) = self.requests_in.iter().position(|tx| !tx.machine.is_open())
        {
            self.requests_in.remove(at);
        }
        self.requests_in.push(ServerTx {
            key,
            method: request.method.clone(),
            flow: flow.of_answer(&request.headers),
            cseq: cseq(&request.headers),
            rack: request.headers.text(&Name::RAck).and_then(|rack| rack.split_ascii_whitespace().next()?.parse().ok()),
            machine: Server::new(flow.transport.is_reliable(), self.timers),
        });
    }

    /// An ACK ends the resending of a 2xx, or belongs to a failure (RFC 3261 §17.2.1).
    fn ack(&mut self, key: &TxKey, request: Request, now: Timestamp, out: &mut Vec<LegOutput>) {
        let number = cseq(&request.headers);
        let failed = self.invites_in.iter_mut().find(|tx| tx.key == *key && !tx.machine.is_pending());
        if let Some(tx) = failed
            && !self.answers.iter().any(|answer| answer.key == *key)
        {
            feed_server(&mut tx.machine, tx.flow, ServerInput::Ack, now, out);
            return;
        }
        self.answers.retain(|answer| answer.cseq != number);
        out.push(LegOutput::Event(LegEvent::Acked(request)));
    }

    /// RFC 3261 §9.2: an INVITE without a final answer is cancelled by the call; any other CANCEL changes nothing.
    fn cancel_received(&mut self, key: TxKey, request: Request, flow: Flow, now: Timestamp, out: &mut Vec<LegOutput>) {
        if let Some(tx) = self.requests_in.iter_mut().find(|tx| tx.key == key && tx.method == Method::Cancel) {
            feed_server(&mut tx.machine, tx.flow, ServerInput::Retransmit, now, out);
            return;
        }
        self.open_request(&request, key.clone(), flow);
        match self.invites_in.iter().find(|tx| tx.key == key) {
            Some(tx) if tx.machine.is_pending() => {
                out.push(LegOutput::Event(LegEvent::Cancelled { invite: key.clone(), cancel: cancel_key(&key) }));
            }
            Some(_) => self.respond(&cancel_key(&key), request.response(StatusCode::OK, None), now, out),
            None => {
                let response = request.response(StatusCode::CALL_DOES_NOT_EXIST, None);
                self.respond(&cancel_key(&key), response, now, out);
            }
        }
    }

    fn response(&mut self, response: Response, now: Timestamp, out: &mut Vec<LegOutput>) {
        let Ok(via) = response.headers.top_via() else { return };
        let Ok(number) = response.headers.cseq() else { return };
        let branch = via.branch().unwrap_or("");
        if number.method == Method::Invite {
            if let Some(at) = self.invites_out.iter().position(|tx| branch_of(tx.machine.request()) == branch) {
                self.feed_invite(at, ClientInput::Received(response), now, out);
            } else if response.status.class() == Class::Success {
                // Its transaction is another owner's: the call knows whether to acknowledge it.
                self.answered(response, out);
            }
            return;
        }
        let mine = |machine: &Client| branch_of(machine.request()) == branch && machine.request().method == number.method;
        if let Some(at) = self.requests_out.iter().position(|(machine, _)| mine(machine)) {
            self.feed_client(at, ClientInput::Received(response), now, out);
        }
    }

    /// A 2xx to an INVITE of ours: the first goes up, a repeated one gets its ACK again (RFC 3261 §13.2.2.4).
    fn answered(&mut self, response: Response, out: &mut Vec<LegOutput>) {
        let number = cseq(&response.headers);
        let theirs = to_tag(&response.headers);
        let known = self.acks.iter().find(|(acked, ack, _)| *acked == number && to_tag(&ack.headers) == theirs);
        match known {
            Some((_, ack, flow)) => out.push(LegOutput::Send(Message::Request(ack.clone()), *flow)),
            None => out.push(LegOutput::Event(LegEvent::Response(response))),
        }
    }

    #[allow(clippy::wildcard_enum_match_arm, reason = "every other method is treated alike")]
    fn command(&mut self, command: LegCommand, now: Timestamp, out: &mut Vec<LegOutput>) {
        match command {
            LegCommand::Respond(key, response) => self.respond(&key, response, now, out),
            LegCommand::Send(request, flow) => self.send(request, flow, now, out),
            LegCommand::Cancel => {
                for tx in &mut self.invites_out {
                    if tx.machine.is_pending() && tx.cancel == Cancel::No {
                        tx.cancel = Cancel::Wanted;
                    }
                }
                self.cancel_what_may_be(now, out);
            }
            LegCommand::Acknowledge => {
                for at in (0..self.invites_out.len()).rev() {
                    self.feed_invite(at, ClientInput::Acknowledge, now, out);
                }
            }
            LegCommand::Accept(request, flow) => {
                let key = TxKey::of(&request);
                match request.method {
                    Method::Invite => self.open_invite(&request, key, flow),
                    _ => self.open_request(&request, key, flow),
                }
            }
            LegCommand::Adopt(request, flow) => {
                let mut unsent = Vec::new();
                let reliable = flow.transport.is_reliable();
                let mut machine = InviteClient::start(request.clone(), reliable, self.timers, now, &mut unsent);
                // Its provisional response came to the former owner; without this it would be sent again.
                let ringing = request.response(StatusCode::TRYING, None);
                machine.handle(ClientInput::Received(ringing), now, &mut unsent);
                self.invites_out.push(InviteTx { machine, flow, cancel: Cancel::No });
                // Nobody repeats on a connection what the former owner may have missed: asked again, the phone does (§17.2.1).
                if reliable {
                    out.push(LegOutput::Send(Message::Request(request), flow));
                }
            }
            LegCommand::Rebind(flow) => self.rebind(flow, now, out),
            LegCommand::FlowFailed => {
                // Nobody has said so who would have to be acknowledged.
                let unsaid = |tx: &mut InviteTx| tx.machine.is_pending() && !tx.machine.is_proceeding();
                for tx in self.invites_out.extract_if(.., unsaid) {
                    let failed = tx.machine.request().response(StatusCode::FLOW_FAILED, None);
                    out.push(LegOutput::Event(LegEvent::Response(failed)));
                }
            }
        }
    }

    /// What went by the former flow may not have come, and a connection loses without a word: all that is open is said once more. To
    /// a phone that has heard it, it is a repetition.
    fn rebind(&mut self, to: Flow, now: Timestamp, out: &mut Vec<LegOutput>) {
        for InviteTx { machine, flow, cancel } in &mut self.invites_out {
            *flow = to;
            if machine.is_pending() {
                out.push(LegOutput::Send(Message::Request(machine.request().clone()), to));
                // To a phone that has forgotten it this is a new INVITE.
                let cancels = |own: &Client| {
                    own.is_pending()
                        && own.request().method == Method::Cancel
                        && branch_of(own.request()) == branch_of(machine.request())
                };
                if *cancel == Cancel::Sent && !self.requests_out.iter().any(|(own, _)| cancels(own)) {
                    *cancel = Cancel::Wanted;
                }
            }
        }
        for (machine, flow) in &mut self.requests_out {
            *flow = to;
            if machine.is_pending() {
                out.push(LegOutput::Send(Message::Request(machine.request().clone()), to));
            }
        }
        for (_, _, flow) in &mut self.acks {
            *flow = to;
        }
        // Answers to datagrams go where their requests came from.
        for tx in self.invites_in.iter_mut().filter(|tx| tx.flow.transport.is_reliable()) {
            tx.flow = to;
            feed_server(&mut tx.machine, to, ServerInput::Retransmit, now, out);
        }
        for tx in self.requests_in.iter_mut().filter(|tx| tx.flow.transport.is_reliable()) {
            tx.flow = to;
            feed_server(&mut tx.machine, to, ServerInput::Retransmit, now, out);
        }
        for answer in self.answers.iter_mut().filter(|answer| answer.flow.transport.is_reliable()) {
            answer.flow = to;
            out.push(LegOutput::Send(Message::Response(answer.response.clone()), to));
        }
        self.cancel_what_may_be(now, out);
    }

    #[allow(clippy::wildcard_enum_match_arm, reason = "every other method is treated alike")]
    fn send(&mut self, request: Request, flow: Flow, now: Timestamp, out: &mut Vec<LegOutput>) {
        let reliable = flow.transport.is_reliable();
        let mut sent = Vec::new();
        match request.method {
            Method::Ack => {
                let number = cseq(&request.headers);
                let to = to_tag(&request.headers);
                self.acks.retain(|(acked, ack, _)| {
                    acked.saturating_add(4) > number && (*acked != number || to_tag(&ack.headers) != to)
                });
                if self.acks.len() >= MAX_ACKS {
                    self.acks.remove(0);
                }
                self.acks.push((number, request.clone(), flow));
                out.push(LegOutput::Send(Message::Request(request), flow));
            }
            Method::Invite => {
                let machine = InviteClient::start(request, reliable, self.timers, now, &mut sent);
                self.invites_out.push(InviteTx { machine, flow, cancel: Cancel::No });
            }
            _ => {
                let machine = Client::start(request, reliable, self.timers, now, &mut sent);
                self.requests_out.push((machine, flow));
            }
        }
        for output in sent {
            if let ClientOutput::Send(request) = output {
                out.push(LegOutput::Send(Message::Request(request), flow));
            }
        }
    }

    fn respond(&mut self, key: &TxKey, response: Response, now: Timestamp, out: &mut Vec<LegOutput>) {
        if let Some(tx) = self.invites_in.iter_mut().find(|tx| tx.key == *key) {
            let answers = response.status.class() == Class::Success;
            let provisional = !response.status.is_final();
            let rseq = response.headers.number(&Name::RSeq, "RSeq").ok().flatten().filter(|_| provisional);
            // What follows takes the place of what came before.
            if !provisional || rseq.is_some() {
                self.answers.retain(|answer| answer.key != *key || answer.rseq.is_none());
            }
            if rseq.is_some() || answers && !self.answers.iter().any(|answer| answer.key == *key) {
                self.answers.push(Answer {
                    key: key.clone(),
                    rseq,
                    cseq: tx.cseq,
                    response: response.clone(),
                    flow: tx.flow,
                    gap: self.timers.t1,
                    resend: now + self.timers.t1,
                    give_up: now + self.timers.give_up(),
                });
            }
            feed_server(&mut tx.machine, tx.flow, ServerInput::Respond(response), now, out);
        } else if let Some(tx) = self.requests_in.iter_mut().find(|tx| request_key(tx) == *key) {
            if tx.method == Method::Bye && response.status.class() == Class::Success {
                // Who hangs up has heard the answer, or wants none any more.
                self.answers.clear();
            }
            // Whatever becomes of what a PRACK offers: what it acknowledges has been heard.
            if tx.method == Method::Prack && response.status.is_final() && response.status != StatusCode::CALL_DOES_NOT_EXIST {
                let heard = tx.rack;
                self.answers.retain(|answer| answer.rseq.is_none() || answer.rseq != heard);
            }
            feed_server(&mut tx.machine, tx.flow, ServerInput::Respond(response), now, out);
        }
    }

    fn timeout(&mut self, now: Timestamp, out: &mut Vec<LegOutput>) {
        for tx in &mut self.invites_in {
            if tx.machine.deadline().is_some_and(|at| at <= now) {
                feed_server(&mut tx.machine, tx.flow, ServerInput::Timeout, now, out);
            }
        }
        for tx in &mut self.requests_in {
            if tx.machine.deadline().is_some_and(|at| at <= now) {
                feed_server(&mut tx.machine, tx.flow, ServerInput::Timeout, now, out);
            }
        }
        // A machine without a deadline that is neither open nor pending is over.
        self.invites_in.retain(|tx| tx.machine.is_pending() || tx.machine.deadline().is_some());
        self.requests_in.retain(|tx| tx.machine.is_open() || tx.machine.deadline().is_some());
        for at in (0..self.invites_out.len()).rev() {
            if self.invites_out[at].machine.deadline().is_some_and(|due| due <= now) {
                self.feed_invite(at, ClientInput::Timeout, now, out);
            }
        }
        for at in (0..self.requests_out.len()).rev() {
            if self.requests_out[at].0.deadline().is_some_and(|due| due <= now) {
                self.feed_client(at, ClientInput::Timeout, now, out);
            }
        }
        self.resend_answers(now, out);
    }

    /// RFC 3261 §13.3.1.4: T1, doubling up to T2, for 64·T1. A provisional answer's knows no T2 (RFC 3262 §3).
    fn resend_answers(&mut self, now: Timestamp, out: &mut Vec<LegOutput>) {
        let t2 = self.timers.t2;
        self.answers.retain_mut(|answer| {
            if now >= answer.give_up {
                out.push(LegOutput::Event(if answer.rseq.is_some() { LegEvent::NoPrack } else { LegEvent::NoAck }));
                return false;
            }
            if now >= answer.resend {
                answer.gap = if answer.rseq.is_some() { answer.gap * 2 } else { (answer.gap * 2).min(t2) };
                answer.resend = now + answer.gap;
                out.push(LegOutput::Send(Message::Response(answer.response.clone()), answer.flow));
            }
            true
        });
    }

    fn feed_invite(&mut self, at: usize, input: ClientInput, now: Timestamp, out: &mut Vec<LegOutput>) {
        let tx = &mut self.invites_out[at];
        let (flow, mut outputs) = (tx.flow, Vec::new());
        tx.machine.handle(input, now, &mut outputs);
        for output in outputs {
            match output {
                ClientOutput::Send(request) => out.push(LegOutput::Send(Message::Request(request), flow)),
                ClientOutput::Deliver(response) if response.status == StatusCode::TRYING => {
                    out.push(LegOutput::Event(LegEvent::Trying));
                }
                ClientOutput::Deliver(response) if response.status.class() == Class::Success => self.answered(response, out),
                ClientOutput::Deliver(response) => out.push(LegOutput::Event(LegEvent::Response(response))),
                ClientOutput::Terminated(cause) => {
                    let tx = self.invites_out.remove(at);
                    if cause == Cause::NoResponse {
                        out.push(LegOutput::Event(LegEvent::NoResponse(tx.machine.request().clone())));
                    }
                    return;
                }
            }
        }
        self.cancel_what_may_be(now, out);
    }

    fn feed_client(&mut self, at: usize, input: ClientInput, now: Timestamp, out: &mut Vec<LegOutput>) {
        let (machine, flow) = &mut self.requests_out[at];
        let (flow, mut outputs) = (*flow, Vec::new());
        machine.handle(input, now, &mut outputs);
        for output in outputs {
            match output {
                ClientOutput::Send(request) => out.push(LegOutput::Send(Message::Request(request), flow)),
                ClientOutput::Deliver(response) => {
                    // The answer to a CANCEL says nothing: the INVITE's own answer does.
                    let cancels = self.requests_out[at].0.request().method == Method::Cancel;
                    if !cancels && response.status.is_final() {
                        out.push(LegOutput::Event(LegEvent::Response(response)));
                    }
                }
                ClientOutput::Terminated(cause) => {
                    let (machine, _) = self.requests_out.remove(at);
                    if cause == Cause::NoResponse && machine.request().method != Method::Cancel {
                        out.push(LegOutput::Event(LegEvent::NoResponse(machine.request().clone())));
                    }
                    return;
                }
            }
        }
    }

    fn cancel_what_may_be(&mut self, now: Timestamp, out: &mut Vec<LegOutput>) {
        let mut cancels = Vec::new();
        for tx in &mut self.invites_out {
            if tx.cancel == Cancel::Wanted && tx.machine.is_proceeding() {
                tx.cancel = Cancel::Sent;
                cancels.push((tx.machine.cancel(now), tx.flow));
            }
        }
        for (cancel, flow) in cancels {
            self.send(cancel, flow, now, out);
        }
    }
}

/// The key under which the answer to a CANCEL is given: its INVITE has the plain one.
fn cancel_key(key: &TxKey) -> TxKey {
    TxKey(Text::from(format!("{}|CANCEL", key.0)))
}

fn request_key<M>(tx: &ServerTx<M>) -> TxKey {
    if tx.method == Method::Cancel { cancel_key(&tx.key) } else { tx.key.clone() }
}

fn cseq(headers: &super::Headers) -> u32 {
    headers.cseq().map_or(0, |cseq| cseq.number)
}

fn to_tag(headers: &super::Headers) -> Option<String> {
    headers.text(&Name::To).and_then(|to| super::headers::tag_of(&to).map(str::to_owned))
}

fn branch_of(request: &Request) -> String {
    request.headers.top_via().ok().and_then(|via| via.branch().map(str::to_owned)).unwrap_or_default()
}

fn refuse(request: &Request, flow: Flow, out: &mut Vec<LegOutput>) {
    let response = request.response(StatusCode::SERVICE_UNAVAILABLE, None).with(Name::RetryAfter, "5");
    out.push(LegOutput::Send(Message::Response(response), flow.of_answer(&request.headers)));
}

trait ServerMachine {
    fn step(&mut self, input: ServerInput, now: Timestamp, out: &mut Vec<ServerOutput>);
}

impl ServerMachine for InviteServer {
    fn step(&mut self, input: ServerInput, now: Timestamp, out: &mut Vec<ServerOutput>) {
        self.handle(input, now, out);
    }
}

impl ServerMachine for Server {
    fn step(&mut self, input: ServerInput, now: Timestamp, out: &mut Vec<ServerOutput>) {
        self.handle(input, now, out);
    }
}

fn feed_server(machine: &mut impl ServerMachine, flow: Flow, input: ServerInput, now: Timestamp, out: &mut Vec<LegOutput>) {
    let mut outputs = Vec::new();
    machine.step(input, now, &mut outputs);
    for output in outputs {
        match output {
            ServerOutput::Send(response) => out.push(LegOutput::Send(Message::Response(response), flow)),
            // The peer that never acknowledged a failure is gone; the call has ended already.
            ServerOutput::Terminated(Cause::Done | Cause::NoResponse | Cause::NoAck) => {}
        }
    }
}

#[cfg(test)]
mod tests;

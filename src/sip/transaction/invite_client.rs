//! INVITE client transaction (RFC 3261 §17.1.1, with RFC 6026's Accepted state). Layer: pure.
//!
//! ```text
//!  INVITE ─▶ Calling ──1xx──▶ Proceeding ──2xx──▶ Accepted ──Timer M──▶ Terminated
//!               │                  └──3xx–6xx──▶ Completed ──Timer D──▶ ▲
//!               └────────── Timer B: no answer at all, nor after CANCEL ─┘
//! ```
//!
//! Each 2xx is delivered, the repeated ones too: they want their ACK again, and only the user has it.
//! A failure is acknowledged here, but only when the user says so: until its consequence is committed the
//! peer had better go on repeating it, to whoever owns the call by then.
//! Invariant: nothing is emitted after [`ClientOutput::Terminated`].

use std::time::Duration;

use super::{Cause, ClientInput, ClientOutput, Timers};
use crate::clock::Timestamp;
use crate::sip::headers::CSeq;
use crate::sip::status::Class;
use crate::sip::{Headers, Method, Name, Request, Response};

/// Timer D over UDP: at least 32 s (RFC 3261 §17.1.1.2).
const TIMER_D: Duration = Duration::from_secs(32);

/// The machine. [`InviteClient::start`] sends the INVITE.
#[derive(Debug, Clone)]
pub struct InviteClient {
    state: State,
    reliable: bool,
    timers: Timers,
    request: Request,
    failure: Option<Response>,
    acknowledged: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Timer A runs at `resend`, Timer B at `give_up`.
    Calling {
        gap: Duration,
        resend: Option<Timestamp>,
        give_up: Timestamp,
    },
    Proceeding {
        /// Since it was cancelled (RFC 3261 §9.1).
        give_up: Option<Timestamp>,
    },
    /// Timer D.
    Completed {
        until: Timestamp,
    },
    /// Timer M.
    Accepted {
        until: Timestamp,
    },
    Terminated,
}

impl InviteClient {
    /// Sends the INVITE and waits.
    pub fn start(request: Request, reliable: bool, timers: Timers, now: Timestamp, out: &mut Vec<ClientOutput>) -> Self {
        out.push(ClientOutput::Send(request.clone()));
        let resend = (!reliable).then(|| now + timers.t1);
        let state = State::Calling { gap: timers.t1, resend, give_up: now + timers.give_up() };
        Self { state, reliable, timers, request, failure: None, acknowledged: false }
    }

    /// The INVITE.
    pub fn request(&self) -> &Request {
        &self.request
    }

    /// Whether a provisional response came and no final one: only then a CANCEL may be sent (RFC 3261 §9.1).
    pub fn is_proceeding(&self) -> bool {
        matches!(self.state, State::Proceeding { .. })
    }

    /// Whether no final response came.
    pub fn is_pending(&self) -> bool {
        matches!(self.state, State::Calling { .. } | State::Proceeding { .. })
    }

    /// When [`ClientInput::Timeout`] is due.
    pub fn deadline(&self) -> Option<Timestamp> {
        match self.state {
            State::Calling { resend, give_up, .. } => Some(resend.map_or(give_up, |at| at.min(give_up))),
            State::Completed { until } | State::Accepted { until } => Some(until),
            State::Proceeding { give_up } => give_up,
            State::Terminated => None,
        }
    }

    /// Advances by one input.
    pub fn handle(&mut self, input: ClientInput, now: Timestamp, out: &mut Vec<ClientOutput>) {
        match (self.state, input) {
            (State::Terminated, _) => {}
            (State::Calling { .. } | State::Proceeding { .. }, ClientInput::Received(response)) => {
                self.received(response, now, out);
            }
            (State::Completed { .. }, ClientInput::Received(response)) => {
                if matches!(response.status.class(), Class::Failure | Class::Redirect) {
                    let again =
                        if self.acknowledged { ClientOutput::Send(self.ack(&response)) } else { ClientOutput::Deliver(response) };
                    out.push(again);
                }
            }
            (State::Completed { .. }, ClientInput::Acknowledge) => {
                self.acknowledged = true;
                out.extend(self.failure.take().map(|response| ClientOutput::Send(self.ack(&response))));
            }
            (State::Accepted { .. }, ClientInput::Received(response)) => {
                if response.status.class() == Class::Success {
                    out.push(ClientOutput::Deliver(response));
                }
            }
            (State::Calling { give_up, .. } | State::Proceeding { give_up: Some(give_up) }, ClientInput::Timeout)
                if now >= give_up =>
            {
                self.end(Cause::NoResponse, out);
            }
            (State::Calling { gap, resend: Some(at), give_up }, ClientInput::Timeout) if now >= at => {
                let gap = gap * 2;
                self.state = State::Calling { gap, resend: Some(now + gap), give_up };
                out.push(ClientOutput::Send(self.request.clone()));
            }
            (State::Completed { until } | State::Accepted { until }, ClientInput::Timeout) if now >= until => {
                self.end(Cause::Done, out);
            }
            // A timeout that came early or late; nothing there to acknowledge.
            (_, ClientInput::Timeout | ClientInput::Acknowledge) => {}
        }
    }

    fn received(&mut self, response: Response, now: Timestamp, out: &mut Vec<ClientOutput>) {
        match response.status.class() {
            Class::Provisional => {
                if !self.is_proceeding() {
                    self.state = State::Proceeding { give_up: None };
                }
            }
            Class::Success => self.state = State::Accepted { until: now + self.timers.give_up() },
            Class::Redirect | Class::Failure => {
                self.failure = Some(response.clone());
                // Nothing is repeated over a reliable transport, but the ACK has yet to leave.
                let linger = if self.reliable { self.timers.t4 } else { TIMER_D };
                self.state = State::Completed { until: now + linger };
            }
        }
        out.push(ClientOutput::Deliver(response));
    }

    /// The ACK for a final failure (RFC 3261 §17.1.1.3): the INVITE's branch, the response's To.
    fn ack(&self, response: &Response) -> Request {
        let mut ack = self.sibling(Method::Ack);
        if let Some(to) = response.headers.get(&Name::To) {
            ack.headers.replace_first(&Name::To, to.clone());
        }
        ack
    }

    /// The CANCEL for this INVITE. When nothing comes of it for 64·T1, the INVITE is over (RFC 3261 §9.1).
    pub fn cancel(&mut self, now: Timestamp) -> Request {
        if let State::Proceeding { give_up } = &mut self.state {
            *give_up = Some(now + self.timers.give_up());
        }
        self.sibling(Method::Cancel)
    }

    /// A request that shares the INVITE's branch, dialog and number.
    fn sibling(&self, method: Method) -> Request {
        let mut headers = Headers::with_capacity(8);
        if let Some(via) = self.request.headers.get(&Name::Via) {
            headers.push(Name::Via, via.clone());
        }
        headers.push_text(Name::MaxForwards, "70");
        for name in [Name::Route, Name::From, Name::To, Name::CallId] {
            headers.copy(&self.request.headers, &name);
        }
        let number = self.request.headers.cseq().map_or(1, |CSeq { number, .. }| number);
        headers.push_text(Name::CSeq, format!("{number} {method}"));
        Request { method, uri: self.request.uri.clone(), headers, body: bytes::Bytes::new() }
    }

    fn end(&mut self, cause: Cause, out: &mut Vec<ClientOutput>) {
        self.state = State::Terminated;
        out.push(ClientOutput::Terminated(cause));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::transaction::tests::{drive, request, response};

    /// RFC 3261 §17.1.1.2, timers A and B.
    #[test]
    fn an_unanswered_invite_is_resent_with_doubling_gaps_for_64_t1() {
        let mut out = Vec::new();
        let mut machine = InviteClient::start(request("INVITE"), false, Timers::RFC, Timestamp(0), &mut out);
        let (sent, ended) = drive(
            Timestamp(0),
            |now, out| {
                machine.handle(ClientInput::Timeout, now, out);
                machine.deadline()
            },
            |output| matches!(output, ClientOutput::Terminated(Cause::NoResponse)),
        );
        assert_eq!(sent, [500, 1500, 3500, 7500, 15_500, 31_500]);
        assert_eq!(ended, Some(32_000));
    }

    #[test]
    fn a_failure_is_delivered_until_it_may_be_acknowledged_and_then_acknowledged_each_time() {
        let mut out = Vec::new();
        let mut machine = InviteClient::start(request("INVITE"), false, Timers::RFC, Timestamp(0), &mut out);
        out.clear();
        for at in [1, 2] {
            machine.handle(ClientInput::Received(response(486)), Timestamp(at), &mut out);
        }
        machine.handle(ClientInput::Acknowledge, Timestamp(3), &mut out);
        machine.handle(ClientInput::Received(response(486)), Timestamp(4), &mut out);
        let shapes: Vec<_> = out
            .iter()
            .map(|output| match output {
                ClientOutput::Send(request) => request.method.as_str(),
                ClientOutput::Deliver(_) => "deliver",
                ClientOutput::Terminated(_) => "end",
            })
            .collect();
        assert_eq!(shapes, ["deliver", "deliver", "ACK", "ACK"]);
        let ClientOutput::Send(ack) = &out[2] else { unreachable!() };
        assert_eq!(ack.headers.get(&Name::Via), request("INVITE").headers.get(&Name::Via));
        assert_eq!(&ack.headers.get(&Name::CSeq).unwrap()[..], b"7 ACK");
        assert_eq!(&ack.headers.get(&Name::To).unwrap()[..], b"<sip:b@x>;tag=remote");
    }

    #[test]
    fn each_2xx_reaches_the_user() {
        let mut out = Vec::new();
        let mut machine = InviteClient::start(request("INVITE"), false, Timers::RFC, Timestamp(0), &mut out);
        machine.handle(ClientInput::Received(response(180)), Timestamp(1), &mut out);
        assert!(machine.is_proceeding() && machine.deadline().is_none());
        out.clear();
        machine.handle(ClientInput::Received(response(200)), Timestamp(2), &mut out);
        machine.handle(ClientInput::Received(response(200)), Timestamp(3), &mut out);
        assert_eq!(out, [ClientOutput::Deliver(response(200)), ClientOutput::Deliver(response(200))]);
    }
}

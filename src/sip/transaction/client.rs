//! Non-INVITE client transaction (RFC 3261 §17.1.2). Layer: pure.
//!
//! ```text
//!  request ─▶ Trying ──1xx──▶ Proceeding ──final──▶ Completed ──Timer K──▶ Terminated
//!                └───────┬─────────┴── Timer F: no final answer ───────────▶ ▲
//! ```
//!
//! Invariant: nothing is emitted after [`ClientOutput::Terminated`].

use std::time::Duration;

use super::{Cause, ClientInput, ClientOutput, Timers};
use crate::clock::Timestamp;
use crate::sip::Request;

/// The machine. [`Client::start`] sends the request.
#[derive(Debug, Clone)]
pub struct Client {
    state: State,
    reliable: bool,
    timers: Timers,
    request: Request,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Timer E runs at `resend`, Timer F at `give_up`.
    Open {
        gap: Duration,
        proceeding: bool,
        resend: Option<Timestamp>,
        give_up: Timestamp,
    },
    Completed {
        until: Timestamp,
    },
    Terminated,
}

impl Client {
    /// Sends the request and waits.
    pub fn start(request: Request, reliable: bool, timers: Timers, now: Timestamp, out: &mut Vec<ClientOutput>) -> Self {
        out.push(ClientOutput::Send(request.clone()));
        let resend = (!reliable).then(|| now + timers.t1);
        let state = State::Open { gap: timers.t1, proceeding: false, resend, give_up: now + timers.give_up() };
        Self { state, reliable, timers, request }
    }

    /// The request.
    pub fn request(&self) -> &Request {
        &self.request
    }

    /// Whether no final answer has come yet.
    pub fn is_pending(&self) -> bool {
        matches!(self.state, State::Open { .. })
    }

    /// When [`ClientInput::Timeout`] is due.
    pub fn deadline(&self) -> Option<Timestamp> {
        match self.state {
            State::Open { resend, give_up, .. } => Some(resend.map_or(give_up, |at| at.min(give_up))),
            State::Completed { until } => Some(until),
            State::Terminated => None,
        }
    }

    /// Advances by one input.
    pub fn handle(&mut self, input: ClientInput, now: Timestamp, out: &mut Vec<ClientOutput>) {
        match (self.state, input) {
            (State::Open { gap, resend, give_up, .. }, ClientInput::Received(response)) => {
                self.state = if response.status.is_final() {
                    // Timer K.
                    let linger = if self.reliable { Duration::ZERO } else { self.timers.t4 };
                    State::Completed { until: now + linger }
                } else {
                    State::Open { gap, proceeding: true, resend, give_up }
                };
                out.push(ClientOutput::Deliver(response));
            }
            (State::Open { give_up, .. }, ClientInput::Timeout) if now >= give_up => self.end(Cause::NoResponse, out),
            (State::Open { gap, proceeding, resend: Some(at), give_up }, ClientInput::Timeout) if now >= at => {
                let gap = if proceeding { self.timers.t2 } else { (gap * 2).min(self.timers.t2) };
                self.state = State::Open { gap, proceeding, resend: Some(now + gap), give_up };
                out.push(ClientOutput::Send(self.request.clone()));
            }
            (State::Completed { until }, ClientInput::Timeout) if now >= until => self.end(Cause::Done, out),
            // Repeated final answers, timeouts that came early or late; only INVITEs are acknowledged.
            (_, ClientInput::Received(_) | ClientInput::Timeout | ClientInput::Acknowledge) => {}
        }
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

    /// RFC 3261 §17.1.2.2, timers E and F.
    #[test]
    fn an_unanswered_request_is_resent_up_to_t2_for_64_t1() {
        let mut out = Vec::new();
        let mut machine = Client::start(request("BYE"), false, Timers::RFC, Timestamp(0), &mut out);
        let (sent, ended) = drive(
            Timestamp(0),
            |now, out| {
                machine.handle(ClientInput::Timeout, now, out);
                machine.deadline()
            },
            |output| matches!(output, ClientOutput::Terminated(Cause::NoResponse)),
        );
        assert_eq!(sent[..5], [500, 1500, 3500, 7500, 11_500]);
        assert_eq!(ended, Some(32_000));
    }

    #[test]
    fn a_final_answer_is_delivered_once() {
        let mut out = Vec::new();
        let mut machine = Client::start(request("BYE"), false, Timers::RFC, Timestamp(0), &mut out);
        out.clear();
        for at in [1, 2] {
            machine.handle(ClientInput::Received(response(200)), Timestamp(at), &mut out);
        }
        assert_eq!(out, [ClientOutput::Deliver(response(200))]);
        machine.handle(ClientInput::Timeout, Timestamp(5001), &mut out);
        assert_eq!(out.last(), Some(&ClientOutput::Terminated(Cause::Done)));
    }
}

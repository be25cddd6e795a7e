//! Non-INVITE server transaction (RFC 3261 §17.2.2). Layer: pure.
//!
//! ```text
//!  request ─▶ Trying ──1xx──▶ Proceeding ──final──▶ Completed ──Timer J──▶ Terminated
//!                └───────────────final───────────────▶ ▲
//! ```
//!
//! Invariant: nothing is emitted after [`ServerOutput::Terminated`].

use super::{Cause, ServerInput, ServerOutput, Timers};
use crate::clock::Timestamp;
use crate::sip::Response;

/// The machine. It is born with its request, in Trying.
#[derive(Debug, Clone)]
pub struct Server {
    state: State,
    reliable: bool,
    timers: Timers,
    last: Option<Response>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Trying and Proceeding differ only in whether there is something to resend.
    Open,
    Completed {
        until: Timestamp,
    },
    Terminated,
}

impl Server {
    /// A transaction whose request has just come.
    pub fn new(reliable: bool, timers: Timers) -> Self {
        Self { state: State::Open, reliable, timers, last: None }
    }

    /// Whether the request has no final answer yet.
    pub fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// When [`ServerInput::Timeout`] is due.
    pub fn deadline(&self) -> Option<Timestamp> {
        match self.state {
            State::Completed { until } => Some(until),
            State::Open | State::Terminated => None,
        }
    }

    /// Advances by one input.
    pub fn handle(&mut self, input: ServerInput, now: Timestamp, out: &mut Vec<ServerOutput>) {
        match (self.state, input) {
            (State::Open, ServerInput::Respond(response)) => {
                if response.status.is_final() {
                    // Timer J: the peer may still ask again over UDP.
                    let linger = if self.reliable { std::time::Duration::ZERO } else { self.timers.give_up() };
                    self.state = State::Completed { until: now + linger };
                }
                self.last = Some(response.clone());
                out.push(ServerOutput::Send(response));
            }
            (State::Open | State::Completed { .. }, ServerInput::Retransmit) => {
                out.extend(self.last.clone().map(ServerOutput::Send));
            }
            (State::Completed { until }, ServerInput::Timeout) if now >= until => {
                self.state = State::Terminated;
                out.push(ServerOutput::Terminated(Cause::Done));
            }
            // An ACK belongs to INVITE only; the rest is early, late or repeated.
            (_, ServerInput::Ack | ServerInput::Timeout | ServerInput::Retransmit | ServerInput::Respond(_)) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::transaction::tests::response;

    #[test]
    fn a_request_repeated_gets_the_same_answer_until_timer_j() {
        let mut machine = Server::new(false, Timers::RFC);
        let mut out = Vec::new();
        machine.handle(ServerInput::Retransmit, Timestamp(0), &mut out);
        assert!(out.is_empty(), "nothing was answered yet");
        machine.handle(ServerInput::Respond(response(200)), Timestamp(1), &mut out);
        machine.handle(ServerInput::Respond(response(500)), Timestamp(2), &mut out);
        machine.handle(ServerInput::Retransmit, Timestamp(3), &mut out);
        assert_eq!(out, [ServerOutput::Send(response(200)), ServerOutput::Send(response(200))]);
        machine.handle(ServerInput::Timeout, Timestamp(32_001), &mut out);
        assert_eq!(out.last(), Some(&ServerOutput::Terminated(Cause::Done)));
    }
}

//! INVITE server transaction (RFC 3261 §17.2.1, with RFC 6026's Accepted state). Layer: pure.
//!
//! ```text
//!  INVITE ─▶ Proceeding ──2xx──▶ Accepted ─────────Timer L──▶ Terminated
//!               └──3xx–6xx──▶ Completed ──ACK──▶ Confirmed ──Timer I──▶ ▲
//!                                 └─────── Timer H: no ACK came ────────┘
//! ```
//!
//! Invariant: nothing is emitted after [`ServerOutput::Terminated`].

use std::time::Duration;

use super::{Cause, ServerInput, ServerOutput, Timers};
use crate::clock::Timestamp;
use crate::sip::Response;
use crate::sip::status::Class;

/// The machine. It is born with its INVITE, in Proceeding.
#[derive(Debug, Clone)]
pub struct InviteServer {
    state: State,
    reliable: bool,
    timers: Timers,
    last: Option<Response>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Proceeding,
    /// Timer G runs at `resend`, Timer H at `give_up`.
    Completed {
        gap: Duration,
        resend: Option<Timestamp>,
        give_up: Timestamp,
    },
    /// Timer I.
    Confirmed {
        until: Timestamp,
    },
    /// Timer L.
    Accepted {
        until: Timestamp,
    },
    Terminated,
}

impl InviteServer {
    /// A transaction whose INVITE has just come.
    pub fn new(reliable: bool, timers: Timers) -> Self {
        Self { state: State::Proceeding, reliable, timers, last: None }
    }

    /// When [`ServerInput::Timeout`] is due.
    pub fn deadline(&self) -> Option<Timestamp> {
        match self.state {
            State::Proceeding | State::Terminated => None,
            State::Completed { resend, give_up, .. } => Some(resend.map_or(give_up, |at| at.min(give_up))),
            State::Confirmed { until } | State::Accepted { until } => Some(until),
        }
    }

    /// Whether no final answer was given yet.
    pub fn is_pending(&self) -> bool {
        self.state == State::Proceeding
    }

    /// Advances by one input.
    pub fn handle(&mut self, input: ServerInput, now: Timestamp, out: &mut Vec<ServerOutput>) {
        match (self.state, input) {
            (State::Terminated, _) => {}
            (State::Proceeding, ServerInput::Respond(response)) => self.respond(response, now, out),
            // RFC 6026 §7.1: the user resends a 2xx; this machine only stays to swallow the INVITE's retransmissions.
            (State::Accepted { .. }, ServerInput::Respond(response)) => {
                if response.status.class() == Class::Success {
                    out.push(ServerOutput::Send(response));
                }
            }
            (State::Proceeding | State::Completed { .. }, ServerInput::Retransmit) => {
                out.extend(self.last.clone().map(ServerOutput::Send));
            }
            (State::Completed { .. }, ServerInput::Ack) => {
                // Timer I: T4 for late ACKs over UDP, nothing over a reliable transport.
                let linger = if self.reliable { Duration::ZERO } else { self.timers.t4 };
                self.state = State::Confirmed { until: now + linger };
            }
            (State::Completed { give_up, .. }, ServerInput::Timeout) if now >= give_up => self.end(Cause::NoAck, out),
            (State::Completed { gap, resend: Some(at), give_up }, ServerInput::Timeout) if now >= at => {
                let gap = (gap * 2).min(self.timers.t2);
                self.state = State::Completed { gap, resend: Some(now + gap), give_up };
                out.extend(self.last.clone().map(ServerOutput::Send));
            }
            (State::Confirmed { until } | State::Accepted { until }, ServerInput::Timeout) if now >= until => {
                self.end(Cause::Done, out);
            }
            // Ordinary on a lossy network: early or late timeouts, repeated packets, a second final answer.
            (_, ServerInput::Timeout | ServerInput::Retransmit | ServerInput::Ack | ServerInput::Respond(_)) => {}
        }
    }

    fn respond(&mut self, response: Response, now: Timestamp, out: &mut Vec<ServerOutput>) {
        match response.status.class() {
            Class::Provisional => self.last = Some(response.clone()),
            Class::Success => self.state = State::Accepted { until: now + self.timers.give_up() },
            Class::Redirect | Class::Failure => {
                self.last = Some(response.clone());
                self.state = State::Completed {
                    gap: self.timers.t1,
                    resend: (!self.reliable).then(|| now + self.timers.t1),
                    give_up: now + self.timers.give_up(),
                };
            }
        }
        out.push(ServerOutput::Send(response));
    }

    fn end(&mut self, cause: Cause, out: &mut Vec<ServerOutput>) {
        self.state = State::Terminated;
        out.push(ServerOutput::Terminated(cause));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::transaction::tests::{drive, response};

    /// RFC 3261 §17.2.1, timers G and H: resent with a doubling gap up to T2, given up after 64·T1.
    #[test]
    fn unacknowledged_answer_is_resent_then_given_up() {
        let mut machine = InviteServer::new(false, Timers::RFC);
        let mut out = Vec::new();
        machine.handle(ServerInput::Respond(response(486)), Timestamp(0), &mut out);
        let (sent, ended) = drive(
            Timestamp(0),
            |now, out| {
                machine.handle(ServerInput::Timeout, now, out);
                machine.deadline()
            },
            |output| matches!(output, ServerOutput::Terminated(Cause::NoAck)),
        );
        assert_eq!(sent[..5], [500, 1500, 3500, 7500, 11_500]);
        assert_eq!(ended, Some(32_000));
    }

    #[test]
    fn a_2xx_is_left_to_the_user_and_swallows_retransmissions() {
        let mut machine = InviteServer::new(false, Timers::RFC);
        let mut out = Vec::new();
        machine.handle(ServerInput::Respond(response(180)), Timestamp(0), &mut out);
        machine.handle(ServerInput::Retransmit, Timestamp(1), &mut out);
        assert_eq!(out, [ServerOutput::Send(response(180)), ServerOutput::Send(response(180))]);
        out.clear();
        machine.handle(ServerInput::Respond(response(200)), Timestamp(2), &mut out);
        machine.handle(ServerInput::Retransmit, Timestamp(3), &mut out);
        assert_eq!(out, [ServerOutput::Send(response(200))]);
        assert_eq!(machine.deadline(), Some(Timestamp(32_002)));
    }

    #[test]
    fn an_ack_stops_the_resending_at_once_over_tcp() {
        let mut machine = InviteServer::new(true, Timers::RFC);
        let mut out = Vec::new();
        machine.handle(ServerInput::Respond(response(404)), Timestamp(0), &mut out);
        assert_eq!(machine.deadline(), Some(Timestamp(32_000)));
        machine.handle(ServerInput::Ack, Timestamp(5), &mut out);
        machine.handle(ServerInput::Timeout, Timestamp(5), &mut out);
        assert_eq!(out.last(), Some(&ServerOutput::Terminated(Cause::Done)));
    }
}

//! The four transactions (RFC 3261 §17, RFC 6026), each a machine without a clock. Layer: pure.
//!
//! Every machine works alike: `handle` advances by one input and appends what the caller must do, in
//! order; `deadline` says when `Input::Timeout` is due. Late timeouts and repeated packets are ordinary.

mod client;
mod invite_client;
mod invite_server;
mod server;

use std::time::Duration;

pub use client::Client;
pub use invite_client::InviteClient;
pub use invite_server::InviteServer;
pub use server::Server;

use super::{Request, Response};

/// The base timers (RFC 3261 §17.1.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timers {
    /// Estimate of the round trip.
    pub t1: Duration,
    /// The longest gap between retransmissions of a non-INVITE request and of a 2xx.
    pub t2: Duration,
    /// How long a message may stay in the network.
    pub t4: Duration,
}

impl Timers {
    /// The RFC's own values.
    pub const RFC: Self = Self { t1: Duration::from_millis(500), t2: Duration::from_secs(4), t4: Duration::from_secs(5) };

    /// 64·T1: how long anything is tried.
    pub fn give_up(&self) -> Duration {
        self.t1 * 64
    }
}

/// Why a transaction came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// It ran its course.
    Done,
    /// No final response came in time (Timers B and F).
    NoResponse,
    /// No ACK came in time (Timer H).
    NoAck,
}

/// What a server transaction is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerInput {
    /// The peer sent the same request again.
    Retransmit,
    /// An ACK for this INVITE's final failure.
    Ack,
    /// The user answers.
    Respond(Response),
    /// The deadline has passed.
    Timeout,
}

/// What a server transaction wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerOutput {
    /// Send this to where the request came from.
    Send(Response),
    /// The transaction is over.
    Terminated(Cause),
}

/// What a client transaction is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientInput {
    /// A response with this transaction's branch.
    Received(Response),
    /// The user has taken a failure of its INVITE in: it may be acknowledged.
    Acknowledge,
    /// The deadline has passed.
    Timeout,
}

/// What a client transaction wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientOutput {
    /// Send this (again).
    Send(Request),
    /// Give this to the user.
    Deliver(Response),
    /// The transaction is over.
    Terminated(Cause),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::sip::message::Message;
    use crate::sip::parse;

    /// Fires each deadline in turn; gives the times of sending and of the end (the first output `is_end` likes).
    pub(super) fn drive<O>(
        start: Timestamp,
        mut step: impl FnMut(Timestamp, &mut Vec<O>) -> Option<Timestamp>,
        is_end: impl Fn(&O) -> bool,
    ) -> (Vec<u64>, Option<u64>) {
        let mut out = Vec::new();
        let mut next = step(start, &mut out);
        assert!(out.is_empty(), "a timeout before its time does nothing");
        let (mut sent, mut ended) = (Vec::new(), None);
        while let Some(at) = next {
            next = step(at, &mut out);
            for output in out.drain(..) {
                if is_end(&output) { ended = Some(at.0) } else { sent.push(at.0) }
            }
        }
        (sent, ended)
    }

    pub(super) fn request(method: &str) -> Request {
        let text = format!(
            "{method} sip:b@x SIP/2.0\r\nVia: SIP/2.0/UDP a;branch=z9hG4bK1\r\nFrom: <sip:a@x>;tag=local\r\n\
             To: <sip:b@x>\r\nCall-ID: c\r\nCSeq: 7 {method}\r\n\r\n"
        );
        match parse::datagram(&text.into()).unwrap() {
            Message::Request(request) => request,
            Message::Response(_) => unreachable!(),
        }
    }

    pub(super) fn response(code: u16) -> Response {
        request("INVITE").response(crate::sip::StatusCode::new(code).unwrap(), Some("remote"))
    }
}

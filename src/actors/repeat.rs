//! What a phone asks by a connection, asked again until it is answered. Layer: shell.
//!
//! On UDP a phone repeats its requests until somebody answers, and that is what carries it over a takeover: what the former owner had
//! taken and not committed is asked again. On a connection it asks once (RFC 3261 §17.1.2.2), and the connection may be at another vnode
//! than the call or the registration: it outlives the owner that took the request. So the node that has the connection repeats for it, at
//! the pace of a phone (§17.1.1.2, §17.1.2.2); whoever has the request already knows a repetition when it sees one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use memchr::memmem;

use super::connection::route;
use super::services::Services;
use crate::clock::{self, Uptime};
use crate::sip::dialog::Flow;
use crate::sip::message::Request;
use crate::sip::transaction::Timers;
use crate::sip::{Method, Text};

/// How often we look what is due.
const LOOK: Duration = Duration::from_millis(100);
/// At most so many requests of one connection are repeated, and so many in all; the others are asked once.
const MAX_OF_ONE: usize = 32;
const MAX: usize = 16_384;

/// The requests that wait for an answer.
#[derive(Debug, Default)]
pub struct Repeats {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    waiting: HashMap<Flow, Vec<Asked>>,
    count: usize,
}

#[derive(Debug)]
struct Asked {
    branch: Text,
    method: Method,
    bytes: Bytes,
    due: Uptime,
    gap: Duration,
    until: Uptime,
}

impl Repeats {
    /// A request came by a connection; an ACK is answered by nothing.
    pub fn asked(&self, timers: Timers, flow: Flow, request: &Request, bytes: &Bytes, now: Uptime) {
        if !flow.transport.is_reliable() || request.method == Method::Ack {
            return;
        }
        let Some(branch) = request.headers.top_via().ok().and_then(|via| via.branch().map(Text::from)) else { return };
        let mut inner = self.inner();
        let full = inner.count >= MAX;
        let of_flow = inner.waiting.entry(flow).or_default();
        let known = of_flow.iter().any(|asked| asked.branch == branch && asked.method == request.method);
        if full || known || of_flow.len() >= MAX_OF_ONE {
            return;
        }
        let method = request.method.clone();
        of_flow.push(Asked {
            branch,
            method,
            bytes: bytes.clone(),
            due: now + timers.t1,
            gap: timers.t1,
            until: now + timers.give_up(),
        });
        inner.count += 1;
    }

    /// A message leaves by a connection: if it is an answer, what it answers waits no longer.
    pub fn answered(&self, flow: &Flow, bytes: &[u8]) {
        if !bytes.starts_with(b"SIP/2.0 ") {
            return;
        }
        let mut inner = self.inner();
        let Some(of_flow) = inner.waiting.get_mut(flow) else { return };
        let before = of_flow.len();
        of_flow.retain(|asked| !answers(bytes, asked));
        let (gone, empty) = (before - of_flow.len(), of_flow.is_empty());
        if empty {
            inner.waiting.remove(flow);
        }
        inner.count -= gone;
    }

    /// A connection has ended: nobody waits there.
    pub fn ended(&self, flow: &Flow) {
        let mut inner = self.inner();
        let gone = inner.waiting.remove(flow).map_or(0, |of_flow| of_flow.len());
        inner.count -= gone;
    }

    /// What is to be asked again now.
    fn due(&self, timers: Timers, now: Uptime) -> Vec<(Flow, Bytes)> {
        let mut due = Vec::new();
        let mut inner = self.inner();
        let mut count = 0;
        inner.waiting.retain(|flow, of_flow| {
            of_flow.retain_mut(|asked| {
                if asked.due <= now {
                    asked.gap = (asked.gap * 2).min(timers.t2);
                    asked.due = now + asked.gap;
                    due.push((*flow, asked.bytes.clone()));
                }
                now < asked.until
            });
            count += of_flow.len();
            !of_flow.is_empty()
        });
        inner.count = count;
        due
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether this response is to that request (RFC 3261 §17.1.3).
fn answers(response: &[u8], asked: &Asked) -> bool {
    let head = memmem::find(response, b"\r\n\r\n").map_or(response, |end| &response[..end]);
    let line = memmem::find(head, b"\r\nCSeq: ").map(|at| &head[at + 8..]);
    let method = line.and_then(|line| line.split(|byte| *byte == b'\r').next()?.rsplit(|byte| *byte == b' ').next());
    method == Some(asked.method.as_str().as_bytes()) && memmem::find(head, asked.branch.as_bytes()).is_some()
}

/// Repeats, for ever.
pub async fn run(services: Arc<Services>) {
    let mut look = tokio::time::interval(LOOK);
    loop {
        look.tick().await;
        for (flow, bytes) in services.repeats.due(services.timers, clock::uptime()) {
            metrics::counter!("tandem_sip_repeated_total").increment(1);
            route(&services, flow, &bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::VnodeId;
    use crate::sip::headers::Transport;
    use crate::sip::message::Message;
    use crate::sip::{StatusCode, encode, parse};

    fn request(method: &str, branch: &str) -> (Request, Bytes) {
        let text = format!(
            "{method} sip:a@x SIP/2.0\r\nVia: SIP/2.0/TCP h;branch=z9hG4bK{branch}\r\nFrom: <sip:b@x>;tag=1\r\nTo: <sip:a@x>\r\n\
             Call-ID: c\r\nCSeq: 1 {method}\r\nContent-Length: 0\r\n\r\n"
        );
        let bytes = Bytes::from(text);
        match parse::datagram(&bytes).unwrap() {
            Message::Request(request) => (request, bytes),
            Message::Response(_) => unreachable!(),
        }
    }

    fn flow(connection: u32) -> Flow {
        let (local, remote) = ("192.0.2.1:5060".parse().unwrap(), "192.0.2.7:40000".parse().unwrap());
        Flow { vnode: VnodeId(1), transport: Transport::Tcp, local, remote, connection }
    }

    #[test]
    fn a_request_is_repeated_until_it_is_answered() {
        let (repeats, timers) = (Repeats::default(), Timers::RFC);
        let at = |millis: u64| Uptime(0) + Duration::from_millis(millis);
        let (invite, invite_bytes) = request("INVITE", "1");
        let (cancel, cancel_bytes) = request("CANCEL", "1");
        for _ in 0..2 {
            repeats.asked(timers, flow(1), &invite, &invite_bytes, at(0));
        }
        repeats.asked(timers, flow(1), &cancel, &cancel_bytes, at(0));
        repeats.asked(timers, flow(2), &invite, &invite_bytes, at(0));
        repeats.asked(timers, flow(2), &request("ACK", "2").0, &Bytes::new(), at(0));
        assert_eq!(repeats.due(timers, at(400)).len(), 0);
        assert_eq!(repeats.due(timers, at(500)).len(), 3);
        assert_eq!(repeats.due(timers, at(1400)).len(), 0);
        let trying = encode::encode(&Message::Response(invite.response(StatusCode::TRYING, None)));
        repeats.answered(&flow(1), &trying);
        let mut due = repeats.due(timers, at(1500));
        due.sort_by_key(|(flow, _)| flow.connection);
        assert_eq!(due, [(flow(1), cancel_bytes), (flow(2), invite_bytes)]);
        repeats.answered(&flow(1), &encode::encode(&Message::Response(cancel.response(StatusCode::OK, None))));
        repeats.ended(&flow(2));
        assert_eq!(repeats.due(timers, at(9000)).len(), 0);
        let held = || {
            let inner = repeats.inner();
            (inner.count, inner.waiting.len())
        };
        assert_eq!(held(), (0, 0));
        repeats.asked(timers, flow(1), &invite, &trying, at(9000));
        repeats.due(timers, at(41_000));
        assert_eq!(held(), (0, 0));
    }
}

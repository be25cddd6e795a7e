//! One leg: its transactions, told anything in any order.
//!
//! An input is a row of orders with a 0 between them; the first byte says which.

use std::time::Duration;

use bytes::Bytes;
use tandem::clock::Timestamp;
use tandem::sip::leg::{Leg, LegCommand, LegEvent, LegInput, LegOutput, TxKey};
use tandem::sip::message::{Message, Request, Response};
use tandem::sip::transaction::Timers;
use tandem::sip::{StatusCode, parse};

use super::flow;

/// More than any step has a reason to say.
const MOST: usize = 64;
/// More than any phone says to one leg of one call.
const ORDERS: usize = 64;
/// Everything that is repeated has been given up by then.
const END: Duration = Duration::from_secs(200);

struct World {
    leg: Leg,
    now: Timestamp,
    asked: Vec<(TxKey, Request)>,
    /// The last that we sent.
    branch: String,
}

/// Orders: `q` and `Q` a message by datagram or connection (`!` in it is the branch of what we sent last), `s` a request to send, `r` an
/// answer to what was asked last, `k` cancel, `a` acknowledge, `b` another way, `f` no way, `t` time.
pub fn transactions(input: &[u8]) {
    let mut world =
        World { leg: Leg::new(Timers::RFC), now: Timestamp(1_700_000_000_000), asked: Vec::new(), branch: String::new() };
    for order in input.split(|byte| *byte == 0).take(ORDERS) {
        let Some((what, rest)) = order.split_first() else { continue };
        let connected = what.is_ascii_uppercase();
        match what {
            b'q' | b'Q' => match read(&String::from_utf8_lossy(rest).replace('!', &world.branch)) {
                Some(Message::Request(request)) => world.tell(LegInput::Request(request, flow(1, connected))),
                Some(Message::Response(response)) => world.tell(LegInput::Response(response)),
                None => {}
            },
            b's' | b'S' => {
                if let Some(Message::Request(request)) = read(&String::from_utf8_lossy(rest)) {
                    world.tell(LegInput::Command(LegCommand::Send(request, flow(1, connected))));
                }
            }
            b'r' => {
                let status = rest.first().map_or(200, |byte| 100 + u16::from(*byte) * 2);
                if let (Some((key, request)), Some(status)) = (world.asked.last().cloned(), StatusCode::new(status)) {
                    world.respond(key, request.response(status, Some("t")));
                }
            }
            b'k' => world.tell(LegInput::Command(LegCommand::Cancel)),
            b'a' => world.tell(LegInput::Command(LegCommand::Acknowledge)),
            b'b' | b'B' => world.tell(LegInput::Command(LegCommand::Rebind(flow(2, connected)))),
            b'f' => world.tell(LegInput::Command(LegCommand::FlowFailed)),
            b't' => world.wait(Duration::from_millis(200 * u64::from(rest.first().copied().unwrap_or(1)))),
            _ => {}
        }
    }
    world.wait(END);
}

fn read(text: &str) -> Option<Message> {
    parse::datagram(&Bytes::copy_from_slice(text.as_bytes())).ok()
}

impl World {
    fn respond(&mut self, key: TxKey, response: Response) {
        self.tell(LegInput::Command(LegCommand::Respond(key, response)));
    }

    fn wait(&mut self, span: Duration) {
        let end = self.now + span;
        let mut turns = 0;
        while let Some(due) = self.leg.deadline().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.tell(LegInput::Timeout);
            turns += 1;
            assert!(turns < 10_000, "its timers go round and round");
        }
        self.now = end;
    }

    fn tell(&mut self, input: LegInput) {
        let mut out = Vec::new();
        self.leg.handle(input, self.now, &mut out);
        assert!(out.len() < MOST, "{out:?}");
        for output in out {
            match output {
                LegOutput::Send(Message::Request(request), _) => {
                    let via = request.headers.top_via().ok();
                    self.branch = via.and_then(|via| via.branch().map(str::to_owned)).unwrap_or_default();
                }
                LegOutput::Event(LegEvent::Request(key, request, _)) => self.asked.push((key, request)),
                LegOutput::Send(..) | LegOutput::Event(_) => {}
            }
        }
    }
}

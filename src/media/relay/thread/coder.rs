//! Packets that are made over on their way: what a thread does beside forwarding. Layer: shell.

use std::time::Duration;

use super::{DATAGRAM, Thread, count};
use crate::clock::{self, Uptime};
use crate::media::core::negotiation::Rule;
use crate::media::core::sound::Quality;
use crate::media::core::srtp::MOST_ADDED;
use crate::media::core::translator::Translator;

/// So many packets of one port are made over in a second: who sends more of them would have the others wait.
const MOST_A_SECOND: u32 = 250;
const SECOND: Duration = Duration::from_secs(1);

/// What becomes of the packets that come to a port.
#[derive(Default)]
pub(super) struct Coder {
    rules: Vec<Rule>,
    /// Made by the first packet: who stands by hears none.
    translator: Option<Box<Translator>>,
    /// When the second began, and so many packets it has had.
    second: (Uptime, u32),
    /// Something is missing, and may have to be made up.
    waits: bool,
}

impl Coder {
    /// As an actor wants it. By the same rules it goes on where it is.
    pub(super) fn set(&mut self, rules: Vec<Rule>) {
        if self.rules != rules {
            (self.rules, self.translator) = (rules, None);
        }
    }

    /// Nothing is made over: packets pass as they are.
    pub(super) fn passes(&self) -> bool {
        self.rules.is_empty()
    }

    /// Nobody is heard here for now.
    pub(super) fn forget(&mut self) {
        self.translator = None;
    }

    fn may(&mut self, now: Uptime) -> bool {
        if now.since(self.second.0) >= SECOND {
            self.second = (now, 0);
        }
        self.second.1 += 1;
        self.second.1 <= MOST_A_SECOND
    }

    fn take(&mut self, quality: Quality) -> Box<Translator> {
        self.translator.take().unwrap_or_else(|| Box::new(Translator::new(&self.rules, quality)))
    }
}

impl Thread {
    /// Makes a packet that has come to an end over, and passes on what it becomes.
    pub(super) fn translate(&mut self, at: usize, packet: &[u8], now: Uptime) {
        let quality = self.quality;
        let Some(end) = self.ends[at].as_mut() else { return };
        if !end.coder.may(now) {
            return count(&end.counters.dropped, 1);
        }
        let mut translator = end.coder.take(quality);
        let to = end.partner;
        let useful = translator.hear(packet, now, |packet| self.pass_on_made(to, packet));
        self.put_back(at, translator);
        if let Some(end) = self.ends[at].as_mut().filter(|_| !useful) {
            count(&end.counters.dropped, 1);
        }
        // Others may have something to send that takes less time.
        std::thread::yield_now();
    }

    /// What is missing for too long is made up. Gives how long there is until the next.
    pub(super) fn fill_gaps(&mut self) -> Option<Duration> {
        let mut next = None;
        for _ in 0..self.gaps.len() {
            let now = clock::uptime();
            let at = self.gaps.pop_front()?;
            // Its place may be another's by now.
            let Some(end) = self.ends[at].as_mut().filter(|end| end.coder.waits) else { continue };
            end.coder.waits = false;
            let Some(mut translator) = end.coder.translator.take() else { continue };
            if !end.fence.may_send(now) {
                continue;
            }
            let to = end.partner;
            translator.wake(now, |packet| self.pass_on_made(to, packet));
            let due = translator.due().map(|due| due.since(now));
            next = [next, due].into_iter().flatten().min();
            self.put_back(at, translator);
        }
        next
    }

    fn put_back(&mut self, at: usize, translator: Box<Translator>) {
        let Some(end) = self.ends[at].as_mut() else { return };
        if translator.due().is_some() && !std::mem::replace(&mut end.coder.waits, true) {
            self.gaps.push_back(at);
        }
        end.coder.translator = Some(translator);
    }

    fn pass_on_made(&mut self, to: Option<usize>, packet: &[u8]) {
        // What protects it is written behind it.
        let mut buffer = [0; DATAGRAM + MOST_ADDED];
        let Some(to) = to.filter(|_| packet.len() <= DATAGRAM) else { return };
        buffer[..packet.len()].copy_from_slice(packet);
        self.pass_on(to, &mut buffer, packet.len());
    }
}

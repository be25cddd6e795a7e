//! Packets that are made over on their way: what a thread does beside forwarding. Layer: shell.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::{DATAGRAM, Thread, count};
use crate::clock::{self, Uptime};
use crate::ids::{CallId, LegId};
use crate::media::core::dtmf::Signal;
use crate::media::core::negotiation::{How, Rules};
use crate::media::core::rtcp::Sender;
use crate::media::core::sound::Quality;
use crate::media::core::srtp::MOST_ADDED;
use crate::media::core::translator::Translator;

/// So many packets of one port are made over in a second: who sends more of them would have the others wait.
const MOST_A_SECOND: u32 = 250;
const SECOND: Duration = Duration::from_secs(1);
/// A key waits for sound while so many packets of something else come.
const STRANGE: u8 = 50;

/// What becomes of the packets that come to a port.
#[derive(Default)]
pub(super) struct Coder {
    rules: Rules,
    /// Where they pass as they are, and a key is on its way.
    press: Option<Rules>,
    /// Packets since, before any sound, that no rule knows.
    strange: u8,
    /// Made by the first packet: who stands by hears none.
    translator: Option<Box<Translator>>,
    /// When the second began, and so many packets it has had.
    second: (Uptime, u32),
    /// Something is missing, and may have to be made up.
    waits: bool,
}

impl Coder {
    /// As an actor wants it. By the same rules it goes on where it is.
    pub(super) fn set(&mut self, rules: Rules) {
        if self.rules != rules {
            (self.rules, self.press, self.translator) = (rules, None, None);
        }
    }

    /// A key takes the place of what comes next. Tells whether there is room for it.
    fn press(&mut self, rules: Rules, signal: Signal, quality: Quality) -> bool {
        let Some(events) = rules.events.filter(|_| !rules.rules.is_empty()) else { return false };
        if self.rules.rules.is_empty() && self.press.as_ref() != Some(&rules) {
            (self.press, self.translator, self.strange) = (Some(rules), None, 0);
        }
        let mut translator = self.take(quality);
        let has_room = translator.press(signal, events);
        self.translator = Some(translator);
        has_room
    }

    /// Nothing is made over: packets pass as they are.
    pub(super) fn passes(&self) -> bool {
        self.rules.rules.is_empty() && self.press.is_none()
    }

    /// Of sound that is coded anew between two clocks: what the phone's times are by, and what they are made over to.
    pub(super) fn clocks(&self) -> Option<(u32, u32)> {
        self.rules.rules.iter().find_map(|rule| match rule.how {
            How::Code(from, to) => Some((from.clock(), to.clock())).filter(|(from, to)| from != to),
            How::Pass | How::Events(..) | How::Tone(..) | How::Listen(..) => None,
        })
    }

    /// What a sender report of the phone's is to say of what its sound becomes.
    pub(super) fn made_over(&self, sender: Sender) -> Sender {
        match (&self.translator, self.clocks()) {
            (Some(translator), _) => translator.made_over(sender),
            (None, Some((from, to))) if from > to => Sender { time: sender.time / (from / to), ..sender },
            (None, Some((from, to))) => Sender { time: sender.time.wrapping_mul(to / from), ..sender },
            (None, None) => sender,
        }
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
        self.translator.take().unwrap_or_else(|| {
            let translator = Translator::new(&self.press.as_ref().unwrap_or(&self.rules).rules, quality);
            Box::new(match self.rules.events {
                Some((payload_type, clock)) => translator.with_events(payload_type, clock),
                None => translator,
            })
        })
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
        let (to, presses, knows) = (end.partner, end.coder.press.is_some(), translator.knows(packet));
        if presses && !knows {
            // For the sake of a key nothing is lost that passes else; and nothing waits where the phone has come to say something else altogether.
            end.coder.strange = end.coder.strange.saturating_add(1);
            if translator.has_begun() || end.coder.strange < STRANGE {
                self.put_back(at, translator)
            } else {
                end.coder.press = None
            }
            return self.pass_on_made(to, packet);
        }
        if !translator.has_begun() && self.is_restored(to) {
            translator.pass_over(packet);
            self.put_back(at, translator);
            return if presses {
                self.pass_on_made(to, packet)
            };
        }
        let heard = catch_unwind(AssertUnwindSafe(|| translator.hear(packet, now, |packet| self.pass_on_made(to, packet))));
        // A codec that fails on something costs one source a frame.
        let useful = heard.as_ref().is_ok_and(|useful| *useful);
        if heard.is_ok() {
            self.put_back(at, translator);
        }
        if let Some(end) = self.ends[at].as_mut().filter(|_| !useful) {
            count(&end.counters.dropped, 1);
        }
        // Others may have something to send that takes less time.
        std::thread::yield_now();
    }

    /// A key of a leg's phone that nothing in its packets says.
    pub(super) fn press(&mut self, (call, leg, stream): (CallId, LegId, usize), rules: Rules, signal: Signal) {
        let Some(session) = self.calls.get(&call) else { return };
        let Some([rtp, _]) = session.legs[usize::from(leg.0 != 0)].get(stream).copied().flatten() else { return };
        let quality = self.quality;
        if let Some(end) = self.ends[rtp].as_mut().filter(|end| end.fence.may_send(clock::uptime()))
            && !end.coder.press(rules, signal, quality)
        {
            count(&end.counters.dropped, 1);
        }
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
            let woken = catch_unwind(AssertUnwindSafe(|| translator.wake(now, |packet| self.pass_on_made(to, packet))));
            if woken.is_ok() {
                let due = translator.due().map(|due| due.since(now));
                next = [next, due].into_iter().flatten().min();
                self.put_back(at, translator);
            }
        }
        next
    }

    /// Whether a former owner may have sent something by the keys that an end has.
    fn is_restored(&self, to: Option<usize>) -> bool {
        to.and_then(|to| self.ends[to].as_ref()).is_some_and(|end| end.shield.is_restored())
    }

    fn put_back(&mut self, at: usize, translator: Box<Translator>) {
        let Some(end) = self.ends[at].as_mut() else { return };
        if translator.due().is_some() && !std::mem::replace(&mut end.coder.waits, true) {
            self.gaps.push_back(at);
        }
        end.coder.translator = Some(translator).filter(|translator| {
            let is_over = end.coder.press.is_some() && translator.is_idle() && translator.due().is_none();
            end.coder.press.take_if(|_| is_over);
            !is_over
        });
    }

    fn pass_on_made(&mut self, to: Option<usize>, packet: &[u8]) {
        // What protects it is written behind it.
        let mut buffer = [0; DATAGRAM + MOST_ADDED];
        let Some(to) = to.filter(|_| packet.len() <= DATAGRAM) else { return };
        // It has taken a while: the call may be another's by now.
        if !self.ends[to].as_ref().is_some_and(|end| end.fence.may_send(clock::uptime())) {
            return;
        }
        buffer[..packet.len()].copy_from_slice(packet);
        self.pass_on(to, &mut buffer, packet.len());
    }
}

//! The packets of one side of a stream, made over for the other (RFC 3550 §7.2). Layer: pure.
//!
//! ```text
//!  in order ───────────────────────▶ made over, with its own source, sequence number and time
//!  ahead of others ──▶ held ──▶ those come, or 40 ms pass: what is missing is made up
//!  behind others, or once more ──▶ nothing
//! ```
//!
//! A packet in order waits for nothing: what its way has done to its time is for the other phone to smooth, which has to do that anyway. So there is one
//! packet out for one in, by the same number, and who takes the call over goes on with the next.
//!
//! Invariant: no sequence number of a source is sent twice, and they only grow.

mod telephone;

use std::collections::VecDeque;
use std::time::Duration;

use super::codec::g711::Law;
use super::dtmf::{Detector, Event, Signal};
use super::formats::Codec;
use super::keys::Keys;
use super::negotiation::{How, Rule};
use super::rtcp::Sender;
use super::sound::{Lane, Quality, Sound};
use crate::clock::Uptime;
use telephone::Saying;

/// How long what is ahead waits for what is missing.
pub const WAIT: Duration = Duration::from_millis(40);
/// So many packets are held, and so many are made up in a row.
const HELD: usize = 5;
/// A source whose numbers are so far from where it was has begun anew; and one that is behind so often in a row, each after the other.
const FAR: u16 = 1000;
const BEHIND: u8 = 10;
/// The longest packet that is made over, and that is made.
const MOST: usize = 1500;
const HEADER: usize = 12;
/// Keys that are pressed and not told yet.
const PRESSED: usize = 16;

/// One direction of a stream.
pub struct Translator {
    rules: Vec<(Rule, Option<Lane>)>,
    source: Option<Source>,
    /// What is ahead; buffers are used again and again.
    held: Vec<Held>,
    spare: Vec<Box<[u8]>>,
    out: Box<[u8]>,
    /// Of sound that is coded anew.
    clocks: Option<(u32, u32)>,
    /// Those that go to the other phone as events, and whether they are looked for in sound.
    keys: Option<Keys>,
    listens: bool,
    /// What is heard in sound.
    detector: Box<Detector>,
    /// The event that is being said as sound.
    saying: Option<Saying>,
    /// What the phone has pressed, once it is over: for whoever is told by INFO.
    pressed: VecDeque<Signal>,
    /// Packets of sound that were made, and octets in them.
    made: (u64, u64),
}

/// Where a source is.
#[derive(Debug, Clone, Copy)]
struct Source {
    ssrc: u32,
    /// The number that is to come.
    next: u16,
    /// Of the last packet: when it was, how long in its own ticks, and by which rule.
    time: u32,
    step: u32,
    rule: usize,
    /// The next of those that are behind, and how many there were in a row.
    behind: (u16, u8),
    /// Packets before the next were never seen: what lies between it and the last says nothing of how long one is.
    gap: bool,
    /// Times that were, without their bounds: they can't be divided otherwise.
    extended: u64,
    /// The first that is ahead came then.
    waits: Option<Uptime>,
    /// The last event whose end was told.
    told: Option<u32>,
}

struct Held {
    sequence: u16,
    length: usize,
    packet: Box<[u8]>,
}

/// What a packet is.
#[derive(Clone, Copy)]
struct Header {
    marker: bool,
    sequence: u16,
    time: u32,
    ssrc: u32,
    rule: usize,
    /// Where its payload is.
    payload: (usize, usize),
}

impl Translator {
    /// By these rules.
    pub fn new(rules: &[Rule], quality: Quality) -> Self {
        let lane = |rule: &Rule| match rule.how {
            How::Code(from, to) => Lane::new(from, to, quality),
            How::Pass | How::Events(..) | How::Tone(..) | How::Listen(..) => None,
        };
        let buffer = || vec![0; MOST].into_boxed_slice();
        Self {
            rules: rules.iter().map(|rule| (*rule, lane(rule))).collect(),
            source: None,
            held: Vec::with_capacity(HELD),
            spare: (0..HELD).map(|_| buffer()).collect(),
            out: buffer(),
            clocks: rules.iter().find_map(|rule| match rule.how {
                How::Code(from, to) => Some((from.clock(), to.clock())),
                How::Pass | How::Events(..) | How::Tone(..) | How::Listen(..) => None,
            }),
            keys: None,
            listens: false,
            detector: Box::default(),
            saying: None,
            pressed: VecDeque::with_capacity(PRESSED),
            made: (0, 0),
        }
    }

    /// Keys go to the other phone as events of this payload type and clock.
    #[must_use]
    pub fn with_events(mut self, payload_type: u8, clock: u32) -> Self {
        (self.keys, self.listens) = (Some(Keys::new(payload_type, clock)), true);
        self
    }

    /// A key that nothing in the packets says is to go to the other phone, as an event of this payload type and clock. Tells whether there is room for it.
    pub fn press(&mut self, Signal { key, duration }: Signal, (payload_type, clock): (u8, u32)) -> bool {
        // The other phone may have given events another number since.
        self.keys.take_if(|keys| keys.is_idle() && !self.listens && (keys.payload_type, keys.clock()) != (payload_type, clock));
        self.keys.get_or_insert_with(|| Keys::new(payload_type, clock)).press(key, Some(duration))
    }

    /// No key waits or is down.
    pub fn is_idle(&self) -> bool {
        self.keys.as_ref().is_none_or(Keys::is_idle)
    }

    /// The next of the keys that the phone has pressed.
    pub fn pressed(&mut self) -> Option<Signal> {
        self.pressed.pop_front()
    }

    /// Takes a packet, and gives what is to be sent. Tells whether it was of any use.
    pub fn hear(&mut self, packet: &[u8], now: Uptime, mut send: impl FnMut(&[u8])) -> bool {
        let Some(header) = self.parse(packet) else { return false };
        let source = match &mut self.source {
            Some(source) if source.ssrc == header.ssrc && is_near(header.sequence, source.next) => source,
            Some(_) | None => self.begin(&header),
        };
        let ahead = header.sequence.wrapping_sub(source.next);
        match ahead {
            0 => {
                self.make(&header, packet, &mut send);
                self.go_on(&mut send);
            }
            1..FAR => {
                source.waits.get_or_insert(now);
                if self.held.iter().any(|held| held.sequence == header.sequence) {
                    return false;
                }
                if self.held.len() == HELD || usize::from(ahead) > HELD {
                    // What is missing won't come any more.
                    self.skip(&mut send);
                    return self.hear_after(packet, now, &mut send);
                }
                return self.hold(&header, packet);
            }
            _ => {
                let (next, count) = source.behind;
                let count = if header.sequence == next { count + 1 } else { 1 };
                source.behind = (header.sequence.wrapping_add(1), count);
                if count < BEHIND {
                    return false;
                }
                self.begin(&header);
                self.make(&header, packet, &mut send);
            }
        }
        true
    }

    /// A packet that a former owner may have sent already, or made up: nothing is sent with its number, and what comes after it goes on.
    pub fn pass_over(&mut self, packet: &[u8]) {
        if let Some(header) = self.parse(packet) {
            self.begin(&header).next = header.sequence.wrapping_add(1);
        }
    }

    /// Whether it has a rule for a packet.
    pub fn knows(&self, packet: &[u8]) -> bool {
        self.parse(packet).is_some()
    }

    /// Whether it has heard anything that it has a rule for.
    pub fn has_begun(&self) -> bool {
        self.source.is_some()
    }

    /// What a sender report says of what its sender's packets become: times are by the other clock, and there are as many octets as there would be if all
    /// packets were as long as those that were made here.
    pub fn made_over(&self, sender: Sender) -> Sender {
        let (Some((from, to)), source) = (self.clocks, self.source.filter(|source| source.ssrc == sender.ssrc)) else {
            return sender;
        };
        let (packets, octets) = self.made;
        #[allow(clippy::cast_possible_truncation, reason = "as counts of octets are")]
        let octets =
            u64::from(sender.packets).wrapping_mul(octets).checked_div(packets).map_or(sender.octets, |octets| octets as u32);
        let time = match (from <= to, source) {
            (true, _) => sender.time.wrapping_mul(to / from.max(1)),
            (false, Some(source)) => shrunk(source.at(sender.time), from / to.max(1)),
            (false, None) => sender.time / (from / to.max(1)),
        };
        Sender { time, octets, ..sender }
    }

    /// When [`Translator::wake`] has something to do.
    pub fn due(&self) -> Option<Uptime> {
        self.source.and_then(|source| source.waits).map(|since| since + WAIT)
    }

    /// Time has passed.
    pub fn wake(&mut self, now: Uptime, mut send: impl FnMut(&[u8])) {
        while self.due().is_some_and(|due| due <= now) {
            self.skip(&mut send);
        }
    }

    /// After a gap that is given up: in order now, ahead of yet another, or far away.
    fn hear_after(&mut self, packet: &[u8], now: Uptime, send: &mut dyn FnMut(&[u8])) -> bool {
        let (Some(header), Some(source)) = (self.parse(packet), &mut self.source) else { return false };
        match usize::from(header.sequence.wrapping_sub(source.next)) {
            0 => {
                self.make(&header, packet, send);
                self.go_on(send);
                true
            }
            ahead if ahead <= HELD && self.held.len() < HELD => {
                source.waits.get_or_insert(now);
                self.hold(&header, packet)
            }
            ahead if ahead >= FAR.into() => false,
            _ => {
                while !self.held.is_empty() {
                    self.skip(send);
                }
                let rule = self.source.as_ref().map_or(0, |source| source.rule);
                let source = self.begin_at(&header);
                source.rule = rule;
                self.make(&header, packet, send);
                true
            }
        }
    }

    fn parse(&self, packet: &[u8]) -> Option<Header> {
        let fixed: &[u8; HEADER] = packet.first_chunk().filter(|fixed| fixed[0] >> 6 == 2 && packet.len() <= MOST)?;
        let mut begin = HEADER + 4 * usize::from(fixed[0] & 0xf);
        if fixed[0] & 0x10 != 0 {
            let words: &[u8; 4] = packet.get(begin..)?.first_chunk()?;
            begin += 4 + 4 * usize::from(u16::from_be_bytes([words[2], words[3]]));
        }
        let padding = if fixed[0] & 0x20 != 0 { usize::from(*packet.last()?) } else { 0 };
        let end = packet.len().checked_sub(padding).filter(|end| *end >= begin)?;
        let rule = self.rules.iter().position(|(rule, _)| rule.from == fixed[1] & 0x7f)?;
        Some(Header {
            marker: fixed[1] & 0x80 != 0,
            sequence: u16::from_be_bytes([fixed[2], fixed[3]]),
            time: u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]),
            ssrc: u32::from_be_bytes([fixed[8], fixed[9], fixed[10], fixed[11]]),
            rule,
            payload: (begin, end),
        })
    }

    /// Another source, or one that has begun anew.
    fn begin(&mut self, header: &Header) -> &mut Source {
        self.spare.extend(self.held.drain(..).map(|held| held.packet));
        (self.source, self.saying) = (None, None);
        // Their times were the former's.
        self.keys.iter_mut().for_each(Keys::begin_anew);
        self.begin_at(header)
    }

    fn begin_at(&mut self, header: &Header) -> &mut Source {
        let extended =
            self.source.filter(|source| source.ssrc == header.ssrc).map_or(u64::from(header.time), |source| source.extended);
        let Header { sequence, time, ssrc, rule, .. } = *header;
        self.source.insert(Source {
            ssrc,
            next: sequence,
            time,
            step: 0,
            rule,
            extended,
            behind: (0, 0),
            gap: true,
            waits: None,
            told: None,
        })
    }

    fn hold(&mut self, header: &Header, packet: &[u8]) -> bool {
        if self.held.iter().any(|held| held.sequence == header.sequence) {
            return false;
        }
        let Some(mut buffer) = self.spare.pop() else { return false };
        buffer[..packet.len()].copy_from_slice(packet);
        self.held.push(Held { sequence: header.sequence, length: packet.len(), packet: buffer });
        true
    }

    /// The one that comes next of those that are held.
    fn first(&self) -> Option<usize> {
        let next = self.source?.next;
        let distance = |held: &Held| held.sequence.wrapping_sub(next);
        self.held.iter().enumerate().min_by_key(|(_, held)| distance(held)).map(|(at, _)| at)
    }

    /// Those that are in order now.
    fn go_on(&mut self, send: &mut dyn FnMut(&[u8])) {
        while let Some(at) = self.first() {
            if self.source.is_none_or(|source| source.next != self.held[at].sequence) {
                return;
            }
            let held = self.held.swap_remove(at);
            self.make_held(held, send);
        }
        if let Some(source) = &mut self.source {
            source.waits = None;
        }
    }

    /// What is missing before the first that is held is made up.
    fn skip(&mut self, send: &mut dyn FnMut(&[u8])) {
        let Some(at) = self.first() else {
            self.source.iter_mut().for_each(|source| source.waits = None);
            return;
        };
        let waits = self.source.and_then(|source| source.waits);
        let held = self.held.swap_remove(at);
        self.make_up(&held, send);
        if let Some(source) = &mut self.source {
            (source.next, source.gap) = (held.sequence, true);
        }
        self.make_held(held, send);
        self.go_on(send);
        // Those behind another gap have waited already.
        if let Some(source) = self.source.as_mut().filter(|_| !self.held.is_empty()) {
            source.waits = waits;
        }
    }

    fn make_held(&mut self, Held { length, packet, .. }: Held, send: &mut dyn FnMut(&[u8])) {
        if let Some(header) = self.parse(&packet[..length]) {
            self.make(&header, &packet[..length], send);
        }
        self.spare.push(packet);
    }

    /// Only what was sound from end to end: nobody misses what wasn't said.
    fn make_up(&mut self, before: &Held, send: &mut dyn FnMut(&[u8])) {
        let packet = &before.packet[..before.length];
        let Some((header, source)) = self.parse(packet).zip(self.source) else { return };
        let lost = header.sequence.wrapping_sub(source.next);
        let is_whole = header.time == source.time.wrapping_add(source.step.wrapping_mul(u32::from(lost) + 1));
        if !is_whole || header.rule != source.rule || source.step == 0 || usize::from(lost) > HELD {
            return;
        }
        for number in 1..=lost {
            let made = Header {
                marker: false,
                sequence: source.next.wrapping_add(number - 1),
                time: source.time.wrapping_add(source.step.wrapping_mul(number.into())),
                ..header
            };
            // Opus may have the last one in the next.
            let payload = &packet[header.payload.0..header.payload.1];
            self.code(&made, if number == lost { Sound::Before(payload) } else { Sound::Lost }, send);
        }
    }

    fn make(&mut self, header: &Header, packet: &[u8], send: &mut dyn FnMut(&[u8])) {
        let payload = &packet[header.payload.0..header.payload.1];
        let rule = self.rules[header.rule].0;
        match rule.how {
            _ if rule.clock.is_some() && self.make_way(header, send) => {}
            How::Listen(law) => {
                self.listen(law, payload);
                if !self.say_key(header, send) {
                    self.pass(rule, packet, send);
                }
            }
            How::Pass => {
                if rule.clock.is_none() || !self.say_key(header, send) {
                    self.pass(rule, packet, send);
                }
            }
            How::Tone(clock, law) => {
                if let Some(event) = Event::parse(payload) {
                    self.hear_event(header, event, clock);
                    self.say_tone(header, event, (clock, law), rule.to, send);
                }
            }
            How::Code(from, _) => {
                match from {
                    Codec::Pcmu if self.listens => self.listen(Law::Mu, payload),
                    Codec::Pcma if self.listens => self.listen(Law::A, payload),
                    Codec::Pcmu | Codec::Pcma | Codec::G722 | Codec::Opus => {}
                }
                // It says nothing meanwhile, and is all the same ready for what comes after.
                if !self.say_key(header, send) {
                    self.code(header, Sound::Heard(payload), send);
                }
            }
            How::Events(from, to) => {
                if let Some(event) = Event::parse(payload) {
                    self.hear_event(header, event, from);
                    let (sound, other) = self.clocks.unwrap_or((from, to));
                    let time = self.time(header, sound, other);
                    self.out[HEADER..HEADER + 4].copy_from_slice(&event.by_clock(from, to).write());
                    self.send(header, rule.to, time, 4, send);
                }
            }
        }
        if let Some(source) = &mut self.source {
            let step = header.time.wrapping_sub(source.time);
            // From one to the next, of the same kind, without a pause.
            let most = rule.clock.unwrap_or(48_000) / 8;
            let is_next = source.rule == header.rule && (1..=most).contains(&step) && !source.gap;
            (source.gap, source.behind) = (false, (0, 0));
            source.step = if is_next { step } else { source.step };
            (source.time, source.rule, source.next) = (header.time, header.rule, header.sequence.wrapping_add(1));
        }
    }

    fn pass(&mut self, rule: Rule, packet: &[u8], send: &mut dyn FnMut(&[u8])) {
        self.out[..packet.len()].copy_from_slice(packet);
        self.out[1] = packet[1] & 0x80 | rule.to;
        send(&self.out[..packet.len()]);
    }

    fn code(&mut self, header: &Header, sound: Sound<'_>, send: &mut dyn FnMut(&[u8])) {
        let (rule, lane) = &mut self.rules[header.rule];
        let (How::Code(from, to), payload_type) = (rule.how, rule.to) else { return };
        let Some(made) = lane.as_mut().and_then(|lane| lane.make(sound, &mut self.out[HEADER..])) else { return };
        let time = self.time(header, from.clock(), to.clock()).wrapping_sub(made.early);
        self.made = (self.made.0 + 1, self.made.1 + made.length as u64);
        self.send(header, payload_type, time, made.length, send);
    }

    fn send(&mut self, header: &Header, payload_type: u8, time: u32, length: usize, send: &mut dyn FnMut(&[u8])) {
        let out = &mut self.out;
        out[0] = 0x80;
        out[1] = u8::from(header.marker) << 7 | payload_type;
        out[2..4].copy_from_slice(&header.sequence.to_be_bytes());
        out[4..8].copy_from_slice(&time.to_be_bytes());
        out[8..12].copy_from_slice(&header.ssrc.to_be_bytes());
        send(&out[..HEADER + length]);
    }

    /// By another clock. Times that grow by a factor wrap where they should; those that shrink need to know how often theirs have.
    fn time(&mut self, header: &Header, from: u32, to: u32) -> u32 {
        if from <= to {
            return header.time.wrapping_mul(to / from.max(1));
        }
        let Some(source) = &mut self.source else { return header.time / (from / to.max(1)) };
        source.extended = source.at(header.time);
        shrunk(source.extended, from / to.max(1))
    }
}

impl Source {
    /// A time near the last one, without its bound.
    fn at(&self, time: u32) -> u64 {
        #[allow(clippy::cast_possible_truncation, reason = "its lower half")]
        let step = time.wrapping_sub(self.extended as u32).cast_signed();
        self.extended.wrapping_add_signed(step.into())
    }
}

/// By a clock that is slower by a factor.
#[allow(clippy::cast_possible_truncation, reason = "as timestamps are")]
fn shrunk(extended: u64, factor: u32) -> u32 {
    (extended / u64::from(factor)) as u32
}

/// Whether a number may be of the same run.
fn is_near(sequence: u16, next: u16) -> bool {
    let ahead = sequence.wrapping_sub(next);
    !(FAR..=u16::MAX - FAR).contains(&ahead)
}

#[cfg(test)]
mod tests;

//! One direction of a stream, packet by packet. Layer: pure.
//!
//! Invariant: nothing that comes takes memory.

use std::time::Duration;

use super::super::rtcp::{Report, Said, Sender};
use super::{Coding, Figures, Hearing};
use crate::clock::Uptime;

/// A phone that is missed for so long is said to be, and so is one that has sent nothing but digital silence.
pub const QUIET: Duration = Duration::from_secs(10);
/// Who was heard within this time speaks.
pub const SPEAKING: Duration = Duration::from_secs(2);
/// RFC 3550 A.1: a number that is further ahead is of a source that has begun anew, if the next one follows it.
const MOST_AHEAD: u16 = 3000;
/// So many numbers behind the highest are known to have come or not.
const WINDOW: u16 = 64;
/// One packet in so many is looked into for digital silence.
const SAMPLED: u64 = 50;
/// Sender reports that went to the phone, and that it may still speak of.
const PASSED: usize = 4;
/// No answer takes longer.
const LONGEST_TRIP: Duration = Duration::from_secs(30);
/// A phone may say that it has had a report for so much longer than it has: clocks aren't that good.
const EARLY: u64 = 5000;
/// The least that an RTP packet has.
const HEADER: usize = 12;

/// One direction: what comes from a phone, and what that says of what goes to it.
#[derive(Debug, Default)]
pub struct Meter {
    hearing: Hearing,
    figures: Figures,
    source: Option<Source>,
    /// When it was heard last.
    heard: Option<Uptime>,
    /// What it says of time is by this clock.
    clock: u32,
    /// What has come since there was nothing but digital silence.
    quiet: Option<Uptime>,
    /// Since when the other phone speaks, and this one is not heard.
    missed: Option<Uptime>,
    /// When sender reports went to the phone.
    passed: [(u32, Uptime); PASSED],
    passes: usize,
}

/// Who sends.
#[derive(Debug)]
struct Source {
    ssrc: u32,
    /// The highest number, and which of those behind it have come, the last in the lowest bit.
    highest: u16,
    window: u64,
    /// What follows a number that was too far away.
    stray: Option<u16>,
    /// Of the last packet of sound.
    last: Option<Last>,
    payload: u8,
    coding: Coding,
    clock: u32,
    /// Microseconds in a tick, in 65536ths.
    tick: u64,
    /// RFC 3550 A.8, in sixteenths of a tick.
    jitter: u64,
}

#[derive(Debug, Clone, Copy)]
struct Last {
    time: u32,
    transit: u32,
}

impl Meter {
    /// How what comes is coded.
    pub fn set(&mut self, hearing: &Hearing) {
        if self.hearing != *hearing {
            self.hearing = hearing.clone();
            // The next packet asks anew.
            self.source.iter_mut().for_each(|source| source.payload = u8::MAX);
        }
    }

    /// Nobody is heard here for now: who comes then begins anew, and what was measured stays.
    pub fn forget(&mut self) {
        (self.source, self.heard, self.quiet, self.missed) = (None, None, None, None);
        (self.figures.is_silent, self.figures.is_missed) = (0, 0);
    }

    /// What there is so far.
    pub fn figures(&self) -> &Figures {
        &self.figures
    }

    /// Whether the phone speaks.
    pub fn speaks(&self, now: Uptime) -> bool {
        self.heard.is_some_and(|heard| now.since(heard) < SPEAKING)
    }

    /// A packet of the phone's sound. Tells whether there has been nothing but digital silence for so long that it is to be said.
    pub fn hear(&mut self, packet: &[u8], now: Uptime) -> bool {
        let Some(fixed) = packet.first_chunk::<HEADER>().filter(|fixed| fixed[0] >> 6 == 2) else { return false };
        let (payload, sequence) = (fixed[1] & 0x7f, u16::from_be_bytes([fixed[2], fixed[3]]));
        let [.., a, b, c, d, e, f, g, h] = *fixed;
        let (time, ssrc) = (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]));
        self.heard = Some(now);
        let source = match &mut self.source {
            Some(source) if source.ssrc == ssrc => source,
            source => {
                // Its first packet is what is expected of it.
                (self.figures.received, self.figures.expected) = (self.figures.received + 1, self.figures.expected + 1);
                source.insert(Source::new(ssrc, sequence))
            }
        };
        if !source.count(sequence, &mut self.figures) {
            return false;
        }
        if source.payload != payload {
            source.is_coded(payload, self.hearing.of(payload));
        }
        let coding = source.coding;
        if !matches!(coding, Coding::Events | Coding::Noise) {
            self.figures.coding = coding;
            if source.clock > 0 {
                self.clock = source.clock;
                source.time(time, now, &mut self.figures);
            }
        }
        self.figures.received.is_multiple_of(SAMPLED) && self.listen(coding, packet, now)
    }

    /// Looks for digital silence where that is easily seen. Tells whether it has lasted long enough to be said.
    fn listen(&mut self, coding: Coding, packet: &[u8], now: Uptime) -> bool {
        let nothing: [u8; 2] = match coding {
            Coding::Pcmu => [0xff, 0x7f],
            Coding::Pcma => [0xd5, 0x55],
            Coding::G722 | Coding::Opus | Coding::G723 | Coding::G729 | Coding::Events | Coding::Noise | Coding::Other => {
                (self.quiet, self.figures.is_silent) = (None, 0);
                return false;
            }
        };
        // Of what stands before the sound only a list of sources has a length of its own here: what has more looks like sound.
        let sound = packet.get(HEADER + 4 * usize::from(packet[0] & 0xf)..).unwrap_or_default();
        if sound.is_empty() || !sound.iter().all(|octet| nothing.contains(octet)) {
            (self.quiet, self.figures.is_silent) = (None, 0);
            return false;
        }
        let since = *self.quiet.get_or_insert(now);
        let is_news = self.figures.is_silent == 0 && now.since(since) >= QUIET;
        if is_news {
            (self.figures.silent, self.figures.is_silent) = (self.figures.silent + 1, 1);
        }
        is_news
    }

    /// The phone is missed at this moment, or it isn't. Tells whether it has been for so long that it is to be said.
    pub fn miss(&mut self, is_missed: bool, now: Uptime) -> bool {
        if !is_missed {
            (self.missed, self.figures.is_missed) = (None, 0);
            return false;
        }
        let since = *self.missed.get_or_insert(now);
        let is_news = self.figures.is_missed == 0 && now.since(since) >= QUIET;
        if is_news {
            (self.figures.missed, self.figures.is_missed) = (self.figures.missed + 1, 1);
        }
        is_news
    }

    /// The other phone's sender report goes to this one.
    pub fn passes(&mut self, Sender { ntp, .. }: Sender, now: Uptime) {
        self.passed[self.passes % PASSED] = (ntp, now);
        self.passes += 1;
    }

    /// The phone says something.
    pub fn told(&mut self, said: Said, now: Uptime) {
        match said {
            Said::Sends(_) => {}
            Said::Hears(report) => self.hears(report, now),
            Said::Sounds(voip) => {
                self.figures.far_mos = voip.mos.map_or(self.figures.far_mos, u64::from);
                self.figures.far_trip_ms =
                    Some(u64::from(voip.trip)).filter(|trip| *trip > 0).unwrap_or(self.figures.far_trip_ms);
            }
        }
    }

    fn hears(&mut self, Report { fraction, jitter, last, delay, .. }: Report, now: Uptime) {
        let figures = &mut self.figures;
        // Both ways are by one clock, also where one of the two is made over.
        let clock = if self.clock > 0 { self.clock } else { 8000 };
        figures.reports += 1;
        figures.far_lost_sum += u64::from(fraction);
        // More than a second is nobody's.
        let jitter = (u64::from(jitter) * 1_000_000 / u64::from(clock)).min(1_000_000);
        figures.far_jitter_sum = figures.far_jitter_sum.saturating_add(jitter);
        // RFC 3550 §6.4.1: what of it was ours is the way there and back.
        let passed = self.passed.iter().take(self.passes).find(|(ntp, _)| *ntp == last && last != 0);
        let Some((_, sent)) = passed else { return };
        let (elapsed, delay) = (now.0.saturating_sub(sent.0), u64::from(delay) * 15_625 / 1024);
        if delay > elapsed + EARLY || now.since(*sent) > LONGEST_TRIP {
            return;
        }
        let trip = elapsed.saturating_sub(delay).max(1);
        figures.trip = trip;
        figures.trip_sum += trip;
        figures.trips += 1;
        figures.trip_most = figures.trip_most.max(trip);
    }
}

impl Source {
    fn new(ssrc: u32, sequence: u16) -> Self {
        Self {
            ssrc,
            highest: sequence,
            window: 0,
            stray: None,
            last: None,
            payload: u8::MAX,
            coding: Coding::Other,
            clock: 0,
            tick: 0,
            jitter: 0,
        }
    }

    /// Counts a packet of the source (RFC 3550 A.1, A.3). Tells whether it has not come before.
    fn count(&mut self, sequence: u16, figures: &mut Figures) -> bool {
        let ahead = sequence.wrapping_sub(self.highest);
        let behind = self.highest.wrapping_sub(sequence);
        match (ahead, behind) {
            (0, _) => {
                // The first of all was counted when the source was met.
                let is_first = self.window == 0;
                self.window |= 1;
                return is_first;
            }
            (1..MOST_AHEAD, _) => {
                self.window = self.window.checked_shl(ahead.into()).unwrap_or(0) | 1;
                self.highest = sequence;
                figures.expected += u64::from(ahead);
                figures.gaps += u64::from(ahead > 1);
            }
            (_, 1..WINDOW) => {
                let bit = 1 << behind;
                if self.window & bit != 0 {
                    return false;
                }
                self.window |= bit;
                // What was before the first is expected as soon as it comes.
                if figures.received >= figures.expected {
                    figures.expected += 1;
                }
            }
            // Nobody knows any more, but there is more than one such packet only if it has begun anew.
            _ if self.stray == Some(sequence) => {
                *self = Self { window: 1, ..Self::new(self.ssrc, sequence) };
                figures.expected += 2;
                figures.received += 1;
            }
            _ => {
                self.stray = Some(sequence.wrapping_add(1));
                return false;
            }
        }
        self.stray = None;
        figures.received += 1;
        true
    }

    fn is_coded(&mut self, payload: u8, (coding, clock): (Coding, u32)) {
        if self.clock != clock && clock > 0 {
            (self.last, self.jitter) = (None, 0);
            self.tick = (1_000_000 << 16) / u64::from(clock);
        }
        (self.payload, self.coding, self.clock) = (payload, coding, clock);
    }

    /// RFC 3550 A.8.
    fn time(&mut self, time: u32, now: Uptime, figures: &mut Figures) {
        let (seconds, rest, clock) = (now.0 / 1_000_000, now.0 % 1_000_000, u64::from(self.clock));
        #[allow(clippy::cast_possible_truncation, reason = "as timestamps are")]
        let arrival = seconds.wrapping_mul(clock).wrapping_add(rest * clock / 1_000_000) as u32;
        let transit = arrival.wrapping_sub(time);
        let last = self.last.replace(Last { time, transit });
        // Two of one time were one until they were sent.
        let Some(last) = last.filter(|last| last.time != time) else { return };
        let step = u64::from(transit.wrapping_sub(last.transit).cast_signed().unsigned_abs());
        // A source whose clock jumps has begun anew.
        if step > u64::from(self.clock) * 4 {
            return;
        }
        self.jitter = self.jitter + step - ((self.jitter + 8) >> 4);
        let jitter = ((self.jitter >> 4) * self.tick) >> 16;
        figures.jitter = jitter;
        figures.jitter_sum += jitter;
        figures.jitters += 1;
        figures.jitter_most = figures.jitter_most.max(jitter);
    }
}

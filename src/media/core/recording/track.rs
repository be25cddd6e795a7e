//! One side of a call: its packets become samples at their places. Layer: pure.
//!
//! A packet's place is that of the one before it and what lies between their times; where a source begins, or its time means nothing, it is when the
//! packet came. So who has kept it, and by which clock, moves nothing.

use std::sync::Arc;

use super::Why;
use super::rtp::Rtp;
use crate::media::core::formats::Codec;
use crate::media::core::sound::{Ear, MOST_SAMPLES, Sound};

/// So many packets that are missing are made up; from so many on it is said that they are.
const MADE_UP: u16 = 3;
const TOLD: u16 = 5;
/// A time is believed that is so many milliseconds at most from when its packet came.
const FAR: i64 = 2000;
/// A number may be so far behind and be late; else its source has begun anew.
const LATE: u16 = 1000;
/// Late by so many milliseconds at most.
const NEAR: i64 = 60_000;

/// One side.
pub(super) struct Track {
    /// Samples in a millisecond.
    rate: u8,
    ears: Vec<(Codec, Ear)>,
    source: Option<Source>,
}

struct Source {
    ssrc: u32,
    /// The number that is to come.
    next: u16,
    /// The last packet's time, by which clock, where it is, and where its sound ends.
    time: u32,
    codec: Codec,
    at: i64,
    end: i64,
    life: Arc<str>,
}

/// A packet.
#[derive(Clone, Copy)]
pub(super) struct Heard<'a> {
    pub(super) rtp: Rtp<'a>,
    pub(super) codec: Codec,
    pub(super) life: &'a Arc<str>,
    /// Where it would be by when it came.
    pub(super) came: i64,
    /// It is known how the clock of this life is to be read.
    pub(super) is_set: bool,
}

/// What became of it.
#[derive(Default)]
pub(super) struct Placed {
    /// What is missing before it, in samples, and why.
    pub(super) gap: Option<(i64, i64, Why)>,
    /// By how much the clock of its life is to be set.
    pub(super) set: Option<i64>,
}

impl Track {
    pub(super) fn new(rate: u8) -> Self {
        Self { rate, ears: Vec::new(), source: None }
    }

    /// A packet that says nothing that could be placed: those after it miss nothing.
    pub(super) fn pass_over(&mut self, rtp: Rtp<'_>) {
        if let Some(source) = self.source.as_mut().filter(|source| source.ssrc == rtp.ssrc)
            && rtp.sequence.wrapping_sub(source.next) < LATE
        {
            source.next = rtp.sequence.wrapping_add(1);
        }
    }

    /// Places what a packet says.
    pub(super) fn hear(&mut self, heard: Heard<'_>, mut write: impl FnMut(i64, &[i16])) -> Placed {
        let Heard { rtp, codec, life, .. } = heard;
        let mut placed = Placed::default();
        let former = self.source.take_if(|source| source.ssrc == rtp.ssrc);
        let mut at = heard.came;
        if let Some(source) = former {
            let ahead = rtp.sequence.wrapping_sub(source.next);
            // Numbers come round: after a long pause the same is no late one.
            let is_near = (heard.came - source.end).abs() <= NEAR * i64::from(self.rate);
            if ahead > u16::MAX - LATE && is_near {
                self.source = Some(source);
                return placed;
            }
            if let Some(by_time) = self.by_time(&source, &heard) {
                at = by_time;
                if *source.life != **life && !heard.is_set {
                    placed.set = Some(by_time - heard.came);
                }
            }
            if source.codec == codec && (1..=MADE_UP).contains(&ahead) && source.end < at {
                self.make_up(codec, ahead, source.end, rtp.payload, &mut write);
            }
            if *source.life != **life {
                placed.gap = Some((source.end, at.max(source.end), Why::Takeover));
            } else if ahead >= TOLD && at > source.end {
                placed.gap = Some((source.end, at, Why::Missing));
            }
        } else {
            self.ears.clear();
        }
        let mut samples = [0; MOST_SAMPLES];
        let count = self.ear(codec).and_then(|ear| ear.hear(Sound::Heard(rtp.payload), &mut samples)).unwrap_or(0);
        write(at, &samples[..count]);
        let end = at + i64::try_from(count).unwrap_or(0);
        let next = rtp.sequence.wrapping_add(1);
        self.source = Some(Source { ssrc: rtp.ssrc, next, time: rtp.time, codec, at, end, life: life.clone() });
        placed
    }

    fn by_time(&self, source: &Source, heard: &Heard<'_>) -> Option<i64> {
        let clock = i64::from(heard.codec.clock());
        if source.codec.clock() != heard.codec.clock() {
            return None;
        }
        let rate = i64::from(self.rate);
        let ticks = i64::from(heard.rtp.time.wrapping_sub(source.time).cast_signed());
        let at = source.at + ticks * rate * 1000 / clock;
        Some(at).filter(|at| (at - heard.came).abs() <= FAR * rate)
    }

    fn make_up(&mut self, codec: Codec, lost: u16, mut at: i64, next: &[u8], write: &mut dyn FnMut(i64, &[i16])) {
        let Some(ear) = self.ear(codec) else { return };
        let mut samples = [0; MOST_SAMPLES];
        for number in 1..=lost {
            let sound = if number == lost { Sound::Before(next) } else { Sound::Lost };
            let count = ear.hear(sound, &mut samples).unwrap_or(0);
            write(at, &samples[..count]);
            at += i64::try_from(count).unwrap_or(0);
        }
    }

    fn ear(&mut self, codec: Codec) -> Option<&mut Ear> {
        let known = self.ears.iter().position(|(of, _)| *of == codec);
        let at = match known {
            Some(at) => at,
            None => {
                self.ears.push((codec, Ear::new(codec, self.rate)?));
                self.ears.len() - 1
            }
        };
        Some(&mut self.ears[at].1)
    }
}

//! Chunks of a call become two tracks beside each other, and what is missing is said. Layer: pure.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::rtp::Rtp;
use super::segment::{Chunk, Said};
use super::track::{Heard, Track};
use crate::clock::Timestamp;
use crate::media::core::formats::Codec;

/// So many milliseconds at the end of a part wait for the next: what belongs between them may be there.
const HELD: u64 = 1000;
/// And so many behind what comes nothing is written yet: a place may be so far from where its packet came.
const BEHIND: i64 = 5000;
/// So many milliseconds are looked at at once.
const SLICE: u64 = 10_000;
/// And so many may a place be ahead of what is written: whatever says so is wrong.
const MOST_AHEAD: i64 = 60_000;
/// So many gaps are told.
const GAPS: usize = 10_000;

/// Why something is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Why {
    /// The call's owner died, or gave it to another.
    Takeover,
    /// It was lost on its way, or was not to be recorded.
    Missing,
}

/// What is missing of a side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// 0 is the caller's.
    pub side: u8,
    /// In milliseconds since the recording begins.
    pub from: u64,
    /// The same.
    pub until: u64,
    /// Why.
    pub why: Why,
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = if self.side == 0 { "caller" } else { "callee" };
        let why = match self.why {
            Why::Takeover => "takeover",
            Why::Missing => "missing",
        };
        write!(f, "{side}: {} ms, {why}", self.until - self.from)
    }
}

/// The two tracks.
pub struct Composition {
    begin: Timestamp,
    /// Samples in a millisecond.
    rate: u8,
    tracks: [Track; 2],
    /// What isn't written yet of each, from `written` on.
    ahead: [Vec<i16>; 2],
    written: i64,
    /// How the clock of each life is to be read: so many samples later.
    clocks: BTreeMap<Arc<str>, i64>,
    held: Vec<Kept>,
    gaps: Vec<Gap>,
    unheard: u64,
}

/// A packet, and by what it is understood.
struct Kept {
    said: Said,
    codec: Option<Option<Codec>>,
    life: Arc<str>,
}

/// What a source has said.
struct Run<'a> {
    ssrc: u32,
    /// Of the last, without its bounds.
    number: u64,
    packets: Vec<(u64, Rtp<'a>, &'a Kept)>,
}

/// How many samples a millisecond of these needs: 8 or 16.
pub fn rate_of(chunks: &[Chunk]) -> u8 {
    let codecs = chunks.iter().flat_map(|chunk| chunk.said.iter().filter_map(|said| codec_of(chunk, said)?));
    let is_wide = |codec| match codec {
        Codec::G722 | Codec::Opus => true,
        Codec::Pcmu | Codec::Pcma => false,
    };
    if codecs.into_iter().any(is_wide) { 16 } else { 8 }
}

/// None if nobody knows; and none in it if it is no sound.
fn codec_of(chunk: &Chunk, said: &Said) -> Option<Option<Codec>> {
    let kind = said.packet.get(1)? & 0x7f;
    chunk.formats.get(usize::from(said.side))?.iter().find(|(number, _)| *number == kind).map(|(_, codec)| *codec)
}

impl Composition {
    /// From this moment on, by so many samples a millisecond (8 or 16).
    pub fn new(begin: Timestamp, rate: u8) -> Self {
        Self {
            begin,
            rate,
            tracks: [Track::new(rate), Track::new(rate)],
            ahead: [Vec::new(), Vec::new()],
            written: 0,
            clocks: BTreeMap::new(),
            held: Vec::new(),
            gaps: Vec::new(),
            unheard: 0,
        }
    }

    /// Takes what comes next, in the order of its beginning, and writes what is whole by then: a sample of the caller, one of the callee.
    pub fn hear<E>(&mut self, chunks: Vec<Chunk>, mut write: impl FnMut(&[i16]) -> Result<(), E>) -> Result<(), E> {
        for mut chunk in chunks {
            for said in std::mem::take(&mut chunk.said) {
                let codec = codec_of(&chunk, &said);
                self.held.push(Kept { said, codec, life: chunk.life.clone() });
            }
        }
        let until = self.held.iter().map(|kept| kept.said.at.0).max().unwrap_or(0).saturating_sub(HELD);
        self.place(until, &mut write)
    }

    /// Writes the rest. Gives what is missing, in its order, and how many packets nobody here could understand.
    pub fn end<E>(mut self, mut write: impl FnMut(&[i16]) -> Result<(), E>) -> Result<(Vec<Gap>, u64), E> {
        self.place(u64::MAX, &mut write)?;
        let end = self.ahead.iter().map(Vec::len).max().unwrap_or(0);
        self.write(self.written + i64::try_from(end).unwrap_or(0), &mut write)?;
        self.gaps.sort_by_key(|gap| (gap.from, gap.side));
        Ok((self.gaps, self.unheard))
    }

    fn place<E>(&mut self, until: u64, write: &mut impl FnMut(&[i16]) -> Result<(), E>) -> Result<(), E> {
        self.held.sort_by_key(|kept| kept.said.at);
        while let Some(first) = self.held.first().map(|kept| kept.said.at.0).filter(|first| *first <= until) {
            let late = self.clocks.values().copied().min().unwrap_or(0).min(0);
            self.write(self.came(Timestamp(first), late) - BEHIND * i64::from(self.rate), write)?;
            let until = until.min(first + SLICE);
            let count = self.held.partition_point(|kept| kept.said.at.0 <= until);
            let slice: Vec<_> = self.held.drain(..count).collect();
            for side in 0..2 {
                self.place_side(side, &slice);
            }
        }
        Ok(())
    }

    /// Each source's packets in their order.
    fn place_side(&mut self, side: u8, slice: &[Kept]) {
        let mut sources: Vec<Run<'_>> = Vec::new();
        for kept in slice.iter().filter(|kept| kept.said.side == side) {
            let Some(rtp) = Rtp::parse(&kept.said.packet) else { continue };
            let number = u64::from(rtp.sequence);
            let known = sources.iter().position(|run| run.ssrc == rtp.ssrc);
            let at = known.unwrap_or_else(|| {
                // Those that are earlier have room below.
                sources.push(Run { ssrc: rtp.ssrc, number: number + (1 << 32), packets: Vec::new() });
                sources.len() - 1
            });
            let run = &mut sources[at];
            #[allow(clippy::cast_possible_truncation, reason = "its lower half")]
            let step = rtp.sequence.wrapping_sub(run.number as u16).cast_signed();
            run.number = run.number.saturating_add_signed(step.into());
            run.packets.push((run.number, rtp, kept));
        }
        for Run { mut packets, .. } in sources {
            packets.sort_by_key(|(number, ..)| *number);
            packets.into_iter().for_each(|(_, rtp, kept)| self.place_one(side, rtp, kept));
        }
    }

    fn place_one(&mut self, side: u8, rtp: Rtp<'_>, kept: &Kept) {
        let Some(Some(codec)) = kept.codec else {
            self.unheard += u64::from(kept.codec.is_none());
            return self.tracks[usize::from(side)].pass_over(rtp);
        };
        let is_set = self.clocks.is_empty() || self.clocks.contains_key(&kept.life);
        let late = self.clocks.get(&kept.life).copied().unwrap_or(0);
        let heard = Heard { rtp, codec, life: &kept.life, came: self.came(kept.said.at, late), is_set };
        let (written, most) = (self.written, MOST_AHEAD * i64::from(self.rate));
        let ahead = &mut self.ahead[usize::from(side)];
        let placed = self.tracks[usize::from(side)].hear(heard, |at, samples| lay(ahead, at - written, samples, most));
        if self.clocks.is_empty() {
            self.clocks.insert(kept.life.clone(), 0);
        }
        if let Some(set) = placed.set {
            self.clocks.insert(kept.life.clone(), set);
        }
        if let Some((from, until, why)) = placed.gap.filter(|_| self.gaps.len() < GAPS) {
            let ms = |at: i64| u64::try_from(at / i64::from(self.rate)).unwrap_or(0);
            self.gaps.push(Gap { side, from: ms(from), until: ms(until), why });
        }
    }

    /// Where something is by when it came.
    fn came(&self, at: Timestamp, late: i64) -> i64 {
        let ms = i64::try_from(at.0).unwrap_or(i64::MAX).saturating_sub(i64::try_from(self.begin.0).unwrap_or(0));
        ms.saturating_mul(self.rate.into()).saturating_add(late)
    }

    fn write<E>(&mut self, until: i64, write: &mut impl FnMut(&[i16]) -> Result<(), E>) -> Result<(), E> {
        let second = usize::from(self.rate) * 1000;
        while self.written < until {
            let count = usize::try_from(until - self.written).unwrap_or(second).min(second);
            let [caller, callee] = &self.ahead;
            let at = |track: &Vec<i16>, at: usize| track.get(at).copied().unwrap_or(0);
            let both: Vec<_> = (0..count).flat_map(|frame| [at(caller, frame), at(callee, frame)]).collect();
            write(&both)?;
            self.ahead.iter_mut().for_each(|track| drop(track.drain(..count.min(track.len()))));
            self.written += i64::try_from(count).unwrap_or(0);
        }
        Ok(())
    }
}

/// Lays samples on a track that begins at 0; what is before that is written already.
fn lay(track: &mut Vec<i16>, at: i64, samples: &[i16], most: i64) {
    let before = usize::try_from(-at).unwrap_or(0).min(samples.len());
    let samples = &samples[before..];
    let (Ok(at), true) = (usize::try_from(at.max(0)), at <= most && !samples.is_empty()) else { return };
    let end = at + samples.len();
    if track.len() < end {
        track.resize(end, 0);
    }
    track[at..end].copy_from_slice(samples);
}

#[cfg(test)]
mod tests;

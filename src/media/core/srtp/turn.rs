//! How far the numbers of one source have come: RFC 3711 §3.3.1 and §3.3.2. Layer: pure.

use serde::{Deserialize, Serialize};

/// An index has 48 bits: the rollover counter, and the sequence number.
const INDEXES: u64 = 1 << 48;
const TURN: u64 = 1 << 16;
/// A next owner is told where a source is whenever it has come so far.
const QUARTER: u64 = TURN / 4;
/// SRTCP's index has 31 bits.
const RTCP_INDEXES: u32 = 1 << 31;

/// Where a source was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The source.
    pub ssrc: u32,
    /// The highest index that it has had: the rollover counter, and below it the sequence number.
    pub index: u64,
}

/// The indices that have been: the highest, and which of those below it.
#[derive(Debug, Clone, Copy, Default)]
struct Window {
    highest: Option<u64>,
    /// Bit n: the highest less n.
    seen: u128,
}

impl Window {
    fn is_new(&self, index: u64) -> bool {
        match self.highest {
            Some(highest) if index <= highest => {
                let back = highest - index;
                back < u64::from(u128::BITS) && self.seen >> back & 1 == 0
            }
            Some(_) | None => true,
        }
    }

    fn take(&mut self, index: u64) {
        match self.highest {
            Some(highest) if index <= highest => self.seen |= 1 << (highest - index).min(127),
            Some(highest) => {
                let shift = u32::try_from(index - highest).unwrap_or(u128::BITS);
                self.seen = self.seen.checked_shl(shift).unwrap_or(0) | 1;
                self.highest = Some(index);
            }
            None => (self.highest, self.seen) = (Some(index), 1),
        }
    }

    /// All up to this one have been.
    fn advance(&mut self, index: u64) {
        if self.highest.is_none_or(|highest| highest < index) {
            *self = Self { highest: Some(index), seen: u128::MAX };
        }
    }
}

/// One source in one direction.
#[derive(Debug, Clone)]
pub(super) struct Turn {
    ssrc: u32,
    rtp: Window,
    rtcp: Window,
    /// A packet of it was opened here: its rollover counter is known, and not what a former owner said.
    is_sure: bool,
}

impl Turn {
    /// A source that was there, if anybody knows that.
    pub(super) fn new(ssrc: u32, index: Option<u64>) -> Self {
        let mut rtp = Window::default();
        if let Some(index) = index {
            rtp.advance(index);
        }
        Self { ssrc, rtp, rtcp: Window::default(), is_sure: false }
    }

    pub(super) fn ssrc(&self) -> u32 {
        self.ssrc
    }

    pub(super) fn mark(&self) -> Option<Mark> {
        self.rtp.highest.map(|index| Mark { ssrc: self.ssrc, index })
    }

    pub(super) fn advance(&mut self, index: u64) {
        self.rtp.advance(index);
    }

    /// The index of a sequence number: the one next to the highest so far (RFC 3711 appendix A).
    pub(super) fn guess(&self, sequence: u16) -> u64 {
        let sequence = u64::from(sequence);
        let Some(highest) = self.rtp.highest else { return sequence };
        let here = highest / TURN * TURN + sequence;
        match here {
            _ if here + TURN / 2 < highest => here + TURN,
            _ if here > highest + TURN / 2 => here.checked_sub(TURN).unwrap_or(here),
            _ => here,
        }
    }

    /// The indices that a sequence number may have. As long as nothing was opened here, it may be a turn further than a former owner has said, or the peer
    /// have begun anew.
    pub(super) fn guesses(&self, sequence: u16) -> impl Iterator<Item = u64> + use<> {
        let best = self.guess(sequence);
        let others = [Some(best + TURN), Some(u64::from(sequence))];
        let is_sure = self.is_sure;
        [Some(best)].into_iter().chain(others.into_iter().filter(move |other| !is_sure && *other != Some(best))).flatten()
    }

    pub(super) fn is_new(&self, index: u64) -> bool {
        self.rtp.is_new(index)
    }

    /// One with this index passes. Gives where the source is if it has come further than a next owner may know; none at all when there are no more.
    pub(super) fn take(&mut self, index: u64) -> Option<Option<Mark>> {
        if index >= INDEXES {
            return None;
        }
        let before = self.rtp.highest;
        self.rtp.take(index);
        self.is_sure = true;
        // Who knows nothing takes the next sequence number for the index: soon it may be too small.
        let crossed = before.map_or(index >= TURN / 2, |before| before / QUARTER < index / QUARTER);
        Some(Some(Mark { ssrc: self.ssrc, index }).filter(|_| crossed))
    }

    pub(super) fn next_rtcp(&mut self, floor: u32) -> Option<u32> {
        let next = self.rtcp.highest.map_or(0, |highest| highest + 1).max(u64::from(floor));
        let next = u32::try_from(next).ok().filter(|next| *next < RTCP_INDEXES)?;
        self.rtcp.take(u64::from(next));
        Some(next)
    }

    pub(super) fn is_new_rtcp(&self, index: u32) -> bool {
        self.rtcp.is_new(u64::from(index))
    }

    pub(super) fn take_rtcp(&mut self, index: u32) {
        self.rtcp.take(u64::from(index));
    }
}

//! How far the numbers of one source have come: RFC 3711 §3.3.1 and §3.3.2. Layer: pure.

use serde::{Deserialize, Serialize};

/// An index has 48 bits: the rollover counter, and the sequence number.
const INDEXES: u64 = 1 << 48;
const TURN: u64 = 1 << 16;
/// A next owner is told where a source is whenever it has come so far.
const QUARTER: u64 = TURN / 4;

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
    /// The highest is what a former owner said: more may have been.
    is_told: bool,
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
                if std::mem::take(&mut self.is_told) {
                    self.seen = u128::MAX;
                }
                self.highest = Some(index);
            }
            None => (self.highest, self.seen) = (Some(index), 1),
        }
    }

    /// All up to this one have been. Tells whether that is news.
    fn advance(&mut self, index: u64) -> bool {
        let is_news = self.highest.is_none_or(|highest| highest < index);
        if is_news {
            *self = Self { highest: Some(index), seen: u128::MAX, is_told: true };
        }
        is_news
    }
}

/// One source in one direction.
#[derive(Debug, Clone)]
pub(super) struct Turn {
    ssrc: u32,
    rtp: Window,
    /// Of what comes.
    rtcp: Window,
    /// A packet of it was opened here: its rollover counter is known, and not what a former owner said.
    is_sure: bool,
    /// How far it is known to whoever comes next to have come.
    told: Option<u64>,
}

impl Turn {
    /// A source that was there, if anybody knows that.
    pub(super) fn new(ssrc: u32, index: Option<u64>) -> Self {
        let mut rtp = Window::default();
        if let Some(index) = index {
            rtp.advance(index);
        }
        Self { ssrc, rtp, rtcp: Window::default(), is_sure: false, told: index }
    }

    pub(super) fn ssrc(&self) -> u32 {
        self.ssrc
    }

    pub(super) fn mark(&self) -> Option<Mark> {
        self.rtp.highest.map(|index| Mark { ssrc: self.ssrc, index })
    }

    pub(super) fn advance(&mut self, index: u64) {
        if self.rtp.advance(index) {
            (self.is_sure, self.told) = (false, Some(index));
        }
    }

    /// Where it is, if that is further than a next owner may know: then he would guess wrong before long.
    pub(super) fn news(&mut self) -> Option<Mark> {
        let mark = self.mark()?;
        let is_news = match self.told {
            Some(told) => told / QUARTER < mark.index / QUARTER,
            // Who knows nothing takes a sequence number for the index.
            None => mark.index >= TURN / 2,
        };
        is_news.then(|| {
            self.told = Some(mark.index);
            mark
        })
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

    /// The indices that a sequence number may have. As long as nothing was opened here, it may be a turn further than a former owner has said.
    pub(super) fn guesses(&self, sequence: u16) -> impl Iterator<Item = u64> + use<> {
        let best = self.guess(sequence);
        [Some(best), Some(best + TURN).filter(|_| !self.is_sure)].into_iter().flatten()
    }

    pub(super) fn is_new(&self, index: u64) -> bool {
        self.rtp.is_new(index)
    }

    /// One with this index passes; not when there are no more.
    pub(super) fn take(&mut self, index: u64) -> bool {
        if index >= INDEXES {
            return false;
        }
        self.rtp.take(index);
        self.is_sure = true;
        true
    }

    pub(super) fn is_new_rtcp(&self, index: u32) -> bool {
        self.rtcp.is_new(u64::from(index))
    }

    pub(super) fn take_rtcp(&mut self, index: u32) {
        self.rtcp.take(u64::from(index));
    }
}

//! SRTP and SRTCP (RFC 3711; AES-256: RFC 6188; GCM: RFC 7714): what of a packet is secret, and who wrote it. Layer: pure.
//!
//! A [`Context`] is one direction of one end: what the peer's packets are opened by, or what ours are sealed by. It has one master key, and a turn
//! for each source (SSRC). What a next owner has to know of it is where each source was: [`Mark`], told each quarter of a turn of its sequence numbers,
//! so that the rollover counter can't be mistaken.
//!
//! Invariant: no index is used twice with one key, whatever is given to [`Context::protect`]: a packet that would is refused.

mod keys;
mod turn;

use std::fmt;

pub use keys::{MasterKey, Suite};
pub use turn::Mark;

use keys::SessionKeys;
use turn::Turn;

/// What protection adds to a packet at most: a tag, and the index of SRTCP.
pub const MOST_ADDED: usize = 20;
/// Sources of one direction that are known at once; the one that was heard least recently gives way.
const SOURCES: usize = 8;
/// So many others are remembered by where they were.
const MARKS: usize = 64;
/// RTP's header without what may follow it, and RTCP's first words.
const RTP_HEADER: usize = 12;
const RTCP_HEADER: usize = 8;
/// The bit that says that SRTCP is encrypted.
const ENCRYPTED: u32 = 1 << 31;
/// SRTCP's index has 31 bits.
const RTCP_INDEXES: u32 = 1 << 31;
/// SRTCP that comes quicker than its floor rises may be so far ahead of it.
pub const RTCP_AHEAD: u32 = 500;

/// Why a packet is not passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SrtpError {
    /// It is no RTP, or no RTCP, or the buffer has no room for what is added.
    #[error("not a packet")]
    Malformed,
    /// Its tag isn't right: another key, or another's packet.
    #[error("not authentic")]
    Forged,
    /// There was one of this index, or it is too old to tell.
    #[error("a packet of this index has been")]
    Replayed,
    /// The key has been used as often as it may be (RFC 3711 §9.2).
    #[error("the key is used up")]
    UsedUp,
}

/// Whether a datagram on a port that has both is RTCP (RFC 5761 §4).
pub fn is_rtcp(packet: &[u8]) -> bool {
    packet.get(1).is_some_and(|kind| (192..=223).contains(kind))
}

/// One direction of one end.
pub struct Context {
    suite: Suite,
    keys: SessionKeys,
    rtcp_keys: SessionKeys,
    /// The one that was heard last is the first.
    turns: Vec<Turn>,
    /// Where sources were that others have displaced, or that former owners knew; the last is the first.
    marks: Vec<Mark>,
    /// The next index of SRTCP of ours, whosever it is.
    next_rtcp: u32,
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Context({:?})", self.suite)
    }
}

impl Context {
    /// A direction with this master key.
    pub fn new(key: &MasterKey) -> Self {
        let (suite, [keys, rtcp_keys]) = (key.suite(), SessionKeys::derive(key));
        Self { suite, keys, rtcp_keys, turns: Vec::with_capacity(SOURCES), marks: Vec::with_capacity(MARKS), next_rtcp: 0 }
    }

    /// Goes on where a former owner was, as far as that isn't known better here.
    pub fn advance(&mut self, marks: &[Mark]) {
        for mark in marks.iter().take(SOURCES) {
            match self.turns.iter_mut().find(|turn| turn.ssrc() == mark.ssrc) {
                Some(turn) => turn.advance(mark.index),
                None => match self.marks.iter_mut().find(|known| known.ssrc == mark.ssrc) {
                    Some(known) => known.index = known.index.max(mark.index),
                    None => self.remember(*mark),
                },
            }
        }
    }

    /// Where one of its sources is that has come further than a next owner may know; he is told, or will be when it comes a quarter further.
    pub fn news(&mut self) -> Option<Mark> {
        self.turns.iter_mut().find_map(Turn::news)
    }

    /// Protects the RTP packet in the first `length` bytes of `buffer`; gives its new length. The index is that which the receiver will think it is.
    pub fn protect(&mut self, buffer: &mut [u8], length: usize) -> Result<usize, SrtpError> {
        let packet = buffer.get(..length).ok_or(SrtpError::Malformed)?;
        let (header, sequence, ssrc) = rtp_header(packet)?;
        if buffer.len() < length + self.suite.tag() {
            return Err(SrtpError::Malformed);
        }
        // Where a source was that is forgotten could not be told when it comes again.
        let is_known = self.turns.iter().any(|turn| turn.ssrc() == ssrc) || self.marks.iter().any(|mark| mark.ssrc == ssrc);
        if !is_known && self.turns.len() + self.marks.len() >= SOURCES + MARKS {
            return Err(SrtpError::UsedUp);
        }
        let turn = self.turn_of(ssrc);
        let index = turn.guess(sequence);
        if !turn.is_new(index) {
            return Err(SrtpError::Replayed);
        }
        // RFC 3711 §9.2: 2^48 packets.
        if !turn.take(index) {
            return Err(SrtpError::UsedUp);
        }
        Ok(self.keys.seal_rtp(buffer, header, length, ssrc, index))
    }

    /// Opens the SRTP packet in `buffer`; gives its new length. After an error the buffer's content is of no use.
    pub fn unprotect(&mut self, buffer: &mut [u8]) -> Result<usize, SrtpError> {
        let (header, sequence, ssrc) = rtp_header(buffer)?;
        if buffer.len() < header + self.suite.tag() {
            return Err(SrtpError::Malformed);
        }
        let at = self.turns.iter().position(|turn| turn.ssrc() == ssrc);
        // A source that isn't authentic takes no place of another's.
        let turn = match at {
            Some(at) => self.turns[at].clone(),
            None => self.new_turn(ssrc),
        };
        let mut last = SrtpError::Forged;
        for index in turn.guesses(sequence) {
            if !turn.is_new(index) {
                last = SrtpError::Replayed;
                continue;
            }
            if let Some(length) = self.keys.open_rtp(buffer, header, ssrc, index) {
                return if self.turn_of(ssrc).take(index) { Ok(length) } else { Err(SrtpError::UsedUp) };
            }
            last = SrtpError::Forged;
        }
        Err(last)
    }

    /// Protects the RTCP packet in the first `length` bytes of `buffer`. Its index is `floor` at least, what no former owner has come to; and
    /// [`RTCP_AHEAD`] more at most.
    pub fn protect_rtcp(&mut self, buffer: &mut [u8], length: usize, floor: u32) -> Result<usize, SrtpError> {
        let packet = buffer.get(..length).ok_or(SrtpError::Malformed)?;
        let ssrc = rtcp_ssrc(packet)?;
        if buffer.len() < length + MOST_ADDED {
            return Err(SrtpError::Malformed);
        }
        let index = self.next_rtcp.max(floor);
        if index >= RTCP_INDEXES || index > floor.saturating_add(RTCP_AHEAD) {
            return Err(SrtpError::UsedUp);
        }
        self.next_rtcp = index + 1;
        Ok(self.rtcp_keys.seal_rtcp(buffer, length, ssrc, index))
    }

    /// Opens the SRTCP packet in `buffer`; gives its new length.
    pub fn unprotect_rtcp(&mut self, buffer: &mut [u8]) -> Result<usize, SrtpError> {
        let ssrc = rtcp_ssrc(buffer)?;
        let (length, trailer) = self.rtcp_keys.rtcp_trailer(buffer).ok_or(SrtpError::Malformed)?;
        if trailer & ENCRYPTED == 0 {
            return Err(SrtpError::Malformed);
        }
        let index = trailer & !ENCRYPTED;
        let known = self.turns.iter().find(|turn| turn.ssrc() == ssrc);
        if known.is_some_and(|turn| !turn.is_new_rtcp(index)) {
            return Err(SrtpError::Replayed);
        }
        if !self.rtcp_keys.open_rtcp(buffer, length, ssrc, trailer) {
            return Err(SrtpError::Forged);
        }
        self.turn_of(ssrc).take_rtcp(index);
        Ok(length)
    }

    /// A source that wasn't heard here yet.
    fn new_turn(&self, ssrc: u32) -> Turn {
        Turn::new(ssrc, self.marks.iter().find(|mark| mark.ssrc == ssrc).map(|mark| mark.index))
    }

    /// The turn of a source; it is made if there is none.
    fn turn_of(&mut self, ssrc: u32) -> &mut Turn {
        match self.turns.iter().position(|turn| turn.ssrc() == ssrc) {
            Some(0) => {}
            Some(at) => self.turns[..=at].rotate_right(1),
            None => {
                let turn = self.new_turn(ssrc);
                self.marks.retain(|known| known.ssrc != ssrc);
                if self.turns.len() >= SOURCES
                    && let Some(mark) = self.turns.pop().and_then(|turn| turn.mark())
                {
                    self.remember(mark);
                }
                self.turns.insert(0, turn);
            }
        }
        &mut self.turns[0]
    }

    /// Should it come again, it goes on.
    fn remember(&mut self, mark: Mark) {
        self.marks.truncate(MARKS - 1);
        self.marks.insert(0, mark);
    }
}

/// Of an RTP packet: how long its header is, its sequence number and its source.
fn rtp_header(packet: &[u8]) -> Result<(usize, u16, u32), SrtpError> {
    let fixed: &[u8; RTP_HEADER] = packet.first_chunk().ok_or(SrtpError::Malformed)?;
    if fixed[0] >> 6 != 2 {
        return Err(SrtpError::Malformed);
    }
    let mut header = RTP_HEADER + 4 * usize::from(fixed[0] & 0xf);
    if fixed[0] & 0x10 != 0 {
        let words = packet.get(header + 2..header + 4).ok_or(SrtpError::Malformed)?;
        header += 4 + 4 * usize::from(u16::from_be_bytes([words[0], words[1]]));
    }
    if header > packet.len() {
        return Err(SrtpError::Malformed);
    }
    Ok((header, u16::from_be_bytes([fixed[2], fixed[3]]), u32::from_be_bytes([fixed[8], fixed[9], fixed[10], fixed[11]])))
}

fn rtcp_ssrc(packet: &[u8]) -> Result<u32, SrtpError> {
    let fixed: &[u8; RTCP_HEADER] = packet.first_chunk().ok_or(SrtpError::Malformed)?;
    if fixed[0] >> 6 != 2 {
        return Err(SrtpError::Malformed);
    }
    Ok(u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]))
}

#[cfg(test)]
mod tests;

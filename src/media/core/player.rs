//! Music or a ringing tone toward one phone: RTP packets of 20 ms, by an explicit time. Layer: pure.
//!
//! Times go on from those of the other phone: some phones hear nothing that is behind what they have heard, whoever's it is (baresip 1.0). How they go by the
//! wall clock is in the record, so that those of the next owner go on too.
//!
//! A player has a source of its own (SSRC), a random one, so that nothing of it has to be known to whoever takes the call over: he has another, and an
//! SRTP index is never used twice. Its sequence numbers begin in the lower half of theirs, as RFC 3711 §3.3.1 wants of who is told no rollover counter.
//! It keeps its numbers over as many holds as there are.
//!
//! All players of a node are due at the same moments, and where the music is goes by the wall clock: a next owner plays on from there.
//!
//! Whose place it takes counts more: while packets of the other phone pass, and for [`GIVES_WAY`] after, nothing is played.

use std::time::Duration;

use super::formats::Codec;
use super::sound::melody::{FRAMES_A_SECOND, Melody};
use crate::clock::{Timestamp, Uptime};

/// A packet has so much.
const FRAME: Duration = Duration::from_millis(FRAME_MS);
const FRAME_MS: u64 = 1000 / FRAMES_A_SECOND as u64;
const FRAME_US: u64 = 1000 * FRAME_MS;
/// Music begins so long after the last packet of the other phone.
pub const GIVES_WAY: Duration = Duration::from_millis(200);
/// Who wakes up late makes so many packets at once at most; what was before is skipped.
const MOST_AT_ONCE: u32 = 3;
/// RTP's header (RFC 3550 §5.1).
pub const HEADER: usize = 12;
/// The lower half of the sequence numbers.
const LOWER_HALF: u16 = 0x7fff;

/// What there may be to be heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tune {
    /// While the other holds.
    HoldMusic,
    /// While the other rings.
    Ringback,
}

/// What a phone is to hear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Music {
    /// This one.
    pub tune: Tune,
    /// As the phone can hear it.
    pub codec: Codec,
    /// By which payload type.
    pub payload: u8,
    /// How its times go, as a former owner has begun them ([`Music::time`]).
    pub offset: Option<u32>,
}

impl Music {
    /// The time of a moment, if they go so.
    pub fn time(&self, wall: Timestamp, offset: u32) -> u32 {
        self.ticks(wall).wrapping_add(offset)
    }

    /// How they go if a moment has this time.
    pub fn offset(&self, wall: Timestamp, time: u32) -> u32 {
        time.wrapping_sub(self.ticks(wall))
    }

    #[allow(clippy::cast_possible_truncation, reason = "its lower half, as times are")]
    fn ticks(&self, wall: Timestamp) -> u32 {
        wall.0.wrapping_mul(u64::from(self.codec.clock() / 1000)) as u32
    }

    fn is_same(&self, other: &Self) -> bool {
        (self.tune, self.codec, self.payload) == (other.tune, other.codec, other.payload)
    }
}

/// Where a source begins, all of it random.
#[derive(Debug, Clone, Copy)]
pub struct Source {
    /// SSRC.
    pub ssrc: u32,
    /// The first sequence number, whose highest bit doesn't count.
    pub sequence: u16,
}

/// One source.
#[derive(Debug)]
pub struct Player {
    source: Source,
    music: Option<Music>,
    /// The next packet's moment, a multiple of a frame.
    due: Uptime,
    /// A moment, and its time.
    time: (Uptime, u32),
    has_played: bool,
    /// So many frames the wall clock is before the uptime.
    ahead: u64,
    /// The other phone has said something.
    is_spoken_over: bool,
    /// The next packet is the first after a pause.
    begins: bool,
}

impl Player {
    /// It plays nothing yet.
    pub fn new(source: Source) -> Self {
        let source = Source { sequence: source.sequence & LOWER_HALF, ..source };
        Self {
            source,
            music: None,
            due: Uptime(0),
            time: (Uptime(0), 0),
            has_played: false,
            ahead: 0,
            is_spoken_over: false,
            begins: true,
        }
    }

    /// Whether that would be something else than it plays.
    pub fn is_new(&self, music: &Music) -> bool {
        self.music.is_none_or(|own| !own.is_same(music))
    }

    /// Whether it has ever played.
    pub fn has_played(&self) -> bool {
        self.has_played
    }

    /// What it is to play from now on, and which time this moment has, if that isn't as before.
    pub fn set(&mut self, music: Option<Music>, now: Uptime, wall: Timestamp, time: Option<u32>) {
        if let Some(time) = time {
            self.time = (Uptime(now.0 / FRAME_US * FRAME_US), time);
        }
        if music.map_or(self.music.is_some(), |music| self.is_new(&music)) {
            self.music = music;
            self.ahead = (wall.0 / FRAME_MS).wrapping_sub(now.0 / FRAME_US);
            self.pause(now);
        }
    }

    /// Another packet passes to the same phone.
    pub fn give_way(&mut self) {
        self.is_spoken_over = true;
    }

    /// What it plays.
    pub fn tune(&self) -> Option<Tune> {
        self.music.map(|music| music.tune)
    }

    /// When it is to be woken; not at all if it plays nothing.
    pub fn due(&self) -> Option<Uptime> {
        self.music.map(|_| self.due)
    }

    /// Makes what is due, as packets in the first octets of `buffer`; `send` is told how long each is.
    pub fn wake(&mut self, now: Uptime, melody: &Melody, buffer: &mut [u8], mut send: impl FnMut(&mut [u8], usize)) {
        let Some(music) = self.music.filter(|_| self.due <= now) else { return };
        if std::mem::take(&mut self.is_spoken_over) {
            return self.pause(now);
        }
        if now.since(self.due) >= FRAME * MOST_AT_ONCE {
            // It was away: it goes on where the music is by now.
            self.due = Uptime(now.0 / FRAME_US * FRAME_US);
        }
        while self.due <= now {
            let frame = melody.frame(music.codec, self.ahead.wrapping_add(self.due.0 / FRAME_US));
            let Some(packet) = buffer.get_mut(..HEADER + frame.len()) else { return };
            self.write_header(music, packet);
            packet[HEADER..].copy_from_slice(frame);
            self.due = self.due + FRAME;
            send(buffer, HEADER + frame.len());
        }
    }

    fn pause(&mut self, now: Uptime) {
        self.due = Uptime((now + GIVES_WAY).0.next_multiple_of(FRAME_US));
        (self.begins, self.is_spoken_over) = (true, false);
    }

    fn write_header(&mut self, Music { codec, payload, .. }: Music, packet: &mut [u8]) {
        let Source { ssrc, sequence } = &mut self.source;
        if std::mem::replace(&mut self.has_played, true) {
            *sequence = sequence.wrapping_add(1);
        }
        let (since, begin) = self.time;
        #[allow(clippy::cast_possible_truncation, reason = "its lower half, as times are")]
        let frames = (self.due.0.saturating_sub(since.0) / FRAME_US) as u32;
        let time = begin.wrapping_add(frames.wrapping_mul(codec.clock() / FRAMES_A_SECOND));
        let marker = if std::mem::take(&mut self.begins) { 0x80 } else { 0 };
        packet[..2].copy_from_slice(&[0x80, marker | payload & 0x7f]);
        packet[2..4].copy_from_slice(&sequence.to_be_bytes());
        packet[4..8].copy_from_slice(&time.to_be_bytes());
        packet[8..HEADER].copy_from_slice(&ssrc.to_be_bytes());
    }
}

#[cfg(test)]
mod tests;

//! The keys of a telephone in their three forms: events (RFC 4733), tones (ITU-T Q.23, Q.24), and the bodies of INFO. Layer: pure.
//!
//! ```text
//!  telephone-event ──▶ Event ──┐            ┌──▶ Event ──▶ telephone-event
//!  sound ──▶ Detector ─────────┼──▶  Key ───┼──▶ Tone ──▶ sound
//!  INFO ──▶ Signal ────────────┘            └──▶ Signal ──▶ INFO
//! ```

use std::f32::consts::TAU;
use std::fmt;
use std::time::Duration;

/// Samples in a second, where tones are looked for.
const RATE: u32 = 8000;
/// Samples that are looked at together: 12.75 ms, so that there are two whole ones in any 40 ms.
const BLOCK: usize = 102;
const HALF: f32 = 51.0;
/// So many blocks in a row are a key, and so many without it are its end.
const BLOCKS: u8 = 2;
/// Q.23, in hertz.
const LOW: [f32; 4] = [697.0, 770.0, 852.0, 941.0];
const HIGH: [f32; 4] = [1209.0, 1336.0, 1477.0, 1633.0];
/// The keys by row and column.
const KEYS: [[u8; 4]; 4] = [[1, 2, 3, 12], [4, 5, 6, 13], [7, 8, 9, 14], [10, 0, 11, 15]];
/// The peak of 0 dBm0 in 16 bits, by G.711.
const ZERO: f32 = 22_800.0;
/// Less than this is nothing, in dBm0 for each of the two; and so much louder at most may the lower, or the higher, be (Q.24).
const LEAST: f32 = -36.0;
const TWIST: [f32; 2] = [4.0, 8.0];
/// So much weaker are the others of a group, in decibels.
const APART: f32 = 8.0;
/// This part of all that is heard is those two.
const SHARE: f32 = 0.75;

/// One of the sixteen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key(u8);

impl Key {
    /// By its number in RFC 4733 §3.2.
    pub fn new(event: u8) -> Option<Self> {
        (event < 16).then_some(Self(event))
    }

    /// By what is on it.
    pub fn of(sign: char) -> Option<Self> {
        let at = "0123456789*#ABCD".find(sign.to_ascii_uppercase())?;
        u8::try_from(at).ok().map(Self)
    }

    /// See [`Key::new`].
    pub fn event(self) -> u8 {
        self.0
    }

    fn frequencies(self) -> [f32; 2] {
        let of = |row: usize, column: usize| (KEYS[row][column] == self.0).then(|| [LOW[row], HIGH[column]]);
        (0..16).find_map(|place| of(place / 4, place % 4)).unwrap_or([LOW[0], HIGH[0]])
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&"0123456789*#ABCD"[usize::from(self.0)..=usize::from(self.0)], f)
    }
}

/// The payload of a `telephone-event` (RFC 4733 §2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// Which; keys are the first sixteen.
    pub event: u8,
    /// It is over.
    pub end: bool,
    /// How many decibels below 0 dBm0.
    pub volume: u8,
    /// So far, by the format's clock.
    pub duration: u16,
}

impl Event {
    /// Reads it.
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let [event, flags, high, low] = *payload.first_chunk()?;
        Some(Self { event, end: flags & 0x80 != 0, volume: flags & 0x3f, duration: u16::from_be_bytes([high, low]) })
    }

    /// Writes it.
    pub fn write(self) -> [u8; 4] {
        let [high, low] = self.duration.to_be_bytes();
        [self.event, u8::from(self.end) << 7 | self.volume & 0x3f, high, low]
    }

    /// The same by another clock. What is too long for its field lasts as long as it can (§2.5.1.3).
    pub fn by_clock(self, from: u32, to: u32) -> Self {
        let duration = u64::from(self.duration) * u64::from(to) / u64::from(from.max(1));
        Self { duration: u16::try_from(duration).unwrap_or(u16::MAX), ..self }
    }
}

/// The tone of a key.
#[derive(Debug, Clone)]
pub struct Tone {
    /// In turns: so much a sample, and where they are.
    steps: [f32; 2],
    turns: [f32; 2],
    peaks: [f32; 2],
}

impl Tone {
    /// At this many samples a second, so many decibels below 0 dBm0 for both together.
    pub fn new(key: Key, rate: u32, volume: u8) -> Self {
        // Each of two has half of the power; the higher is a little louder, since lines take more of it (Q.23: 2 dB).
        let peak = |more: f32| ZERO * decibels(-f32::from(volume.clamp(3, 36)) - 3.0 + more);
        let rate = u16::try_from(rate).map_or(8000.0, f32::from);
        Self { steps: key.frequencies().map(|frequency| frequency / rate), turns: [0.0; 2], peaks: [peak(-1.0), peak(1.0)] }
    }

    /// Goes on.
    pub fn fill(&mut self, samples: &mut [i16]) {
        for sample in samples {
            let mut sum = 0.0;
            for ((turn, step), peak) in self.turns.iter_mut().zip(self.steps).zip(self.peaks) {
                sum += peak * (*turn * TAU).sin();
                *turn = (*turn + step).fract();
            }
            *sample = rounded(sum);
        }
    }
}

/// What is heard in sound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// A key is down. It was so a block before.
    Down(Key),
    /// It is up, after so long.
    Up(Key, Duration),
}

/// Hears keys in sound at 8 kHz.
#[derive(Debug, Clone)]
pub struct Detector {
    /// Of each frequency.
    filters: [Filter; 8],
    power: f32,
    samples: usize,
    /// What the last blocks were, and how many.
    last: (Option<Key>, u8),
    /// The key that is down, and for how many blocks.
    down: Option<(Key, u32)>,
}

/// Goertzel's: one frequency's part of a block.
#[derive(Debug, Clone, Copy, Default)]
struct Filter {
    factor: f32,
    last: [f32; 2],
}

impl Filter {
    fn new(frequency: f32) -> Self {
        Self { factor: 2.0 * (TAU * frequency / 8000.0).cos(), last: [0.0; 2] }
    }

    fn hear(&mut self, sample: f32) {
        self.last = [sample + self.factor * self.last[0] - self.last[1], self.last[0]];
    }

    /// The square of the peak of a sine of that frequency.
    fn take(&mut self) -> f32 {
        let [last, before] = std::mem::take(&mut self.last);
        let power = last * last + before * before - self.factor * last * before;
        power / (HALF * HALF)
    }
}

impl Default for Detector {
    fn default() -> Self {
        let mut frequencies = LOW.into_iter().chain(HIGH);
        let filters = [(); 8].map(|()| Filter::new(frequencies.next().unwrap_or_default()));
        Self { filters, power: 0.0, samples: 0, last: (None, 0), down: None }
    }
}

impl Detector {
    /// Takes samples and gives what is heard in them: at most one thing a block.
    pub fn hear(&mut self, samples: &[i16], mut heard: impl FnMut(Heard)) {
        for sample in samples {
            let sample = f32::from(*sample);
            self.power += sample * sample;
            self.filters.iter_mut().for_each(|filter| filter.hear(sample));
            self.samples += 1;
            if self.samples == BLOCK {
                let key = self.look();
                (self.samples, self.power) = (0, 0.0);
                if let Some(change) = self.change(key) {
                    heard(change);
                }
            }
        }
    }

    /// The key of a block.
    fn look(&mut self) -> Option<Key> {
        let mut peaks = self.filters.iter_mut().map(Filter::take);
        let groups = [(); 2].map(|()| [(); 4].map(|()| peaks.next().unwrap_or_default()));
        let [(row, low), (column, high)] = groups.map(|group| {
            let strongest = group.into_iter().enumerate().max_by(|a, b| a.1.total_cmp(&b.1));
            strongest.unwrap_or_default()
        });
        let least = ZERO * decibels(LEAST);
        let is_loud = low.min(high) > least * least;
        let [more_low, more_high] = TWIST.map(|twist| decibels(twist).powi(2));
        let is_even = low < high * more_low && high < low * more_high;
        let apart = decibels(-APART).powi(2);
        let is_alone = |group: [f32; 4], peak: f32| group.iter().filter(|other| **other > peak * apart).count() == 1;
        // A sine's power is half of its peak's square.
        let is_all = (low + high) * HALF > SHARE * self.power;
        let is_key = is_loud && is_even && is_alone(groups[0], low) && is_alone(groups[1], high) && is_all;
        is_key.then(|| Key(KEYS[row][column]))
    }

    fn change(&mut self, key: Option<Key>) -> Option<Heard> {
        let count = if self.last.0 == key { self.last.1.saturating_add(1) } else { 1 };
        self.last = (key, count);
        if let Some((_, blocks)) = &mut self.down {
            *blocks += 1;
        }
        match (self.down, key) {
            (Some((down, _)), Some(key)) if down == key => None,
            (Some((down, blocks)), _) if count >= BLOCKS => {
                self.down = key.map(|key| (key, BLOCKS.into()));
                // Another that follows at once is told a block later.
                self.last = if key.is_some() { (key, BLOCKS - 1) } else { self.last };
                self.down = None;
                Some(Heard::Up(down, time(blocks.saturating_sub(u32::from(BLOCKS)))))
            }
            (None, Some(key)) if count >= BLOCKS => {
                self.down = Some((key, BLOCKS.into()));
                Some(Heard::Down(key))
            }
            (Some(_) | None, _) => None,
        }
    }
}

/// A key in the body of an INFO: `application/dtmf-relay`, or `application/dtmf` (only its sign).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signal {
    /// Which.
    pub key: Key,
    /// For how long.
    pub duration: Duration,
}

impl Signal {
    /// How long a key is down if nobody says so.
    pub const USUAL: Duration = Duration::from_millis(160);
    /// Nobody presses longer.
    const MOST_MS: u64 = 5000;

    /// Reads a body, of either type.
    pub fn parse(body: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(body).ok()?;
        let value = |name: &str| {
            text.lines().find_map(|line| {
                let (known, value) = line.split_once('=')?;
                known.trim().eq_ignore_ascii_case(name).then(|| value.trim())
            })
        };
        let sign = value("Signal").unwrap_or_else(|| text.trim());
        let key = match sign.parse::<u8>() {
            // Some say a sign's number.
            Ok(event @ 10..) => Key::new(event),
            Ok(_) | Err(_) => sign.chars().next().filter(|_| sign.chars().count() == 1).and_then(Key::of),
        }?;
        let duration = value("Duration").and_then(|duration| duration.parse().ok());
        Some(Self { key, duration: duration.map_or(Self::USUAL, |ms: u64| Duration::from_millis(ms.clamp(40, Self::MOST_MS))) })
    }

    /// Writes `application/dtmf-relay`.
    pub fn write(self) -> String {
        format!("Signal={}\r\nDuration={}\r\n", self.key, self.duration.as_millis())
    }
}

fn time(blocks: u32) -> Duration {
    Duration::from_secs(1) * blocks * u32::try_from(BLOCK).unwrap_or(u32::MAX) / RATE
}

/// As a factor of peaks.
fn decibels(decibels: f32) -> f32 {
    10_f32.powf(decibels / 20.0)
}

fn rounded(value: f32) -> i16 {
    #[allow(clippy::cast_possible_truncation, reason = "it is within bounds")]
    let value = value.clamp(-32_768.0, 32_767.0).round() as i16;
    value
}

#[cfg(test)]
mod tests;

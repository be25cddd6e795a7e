//! Sound between two codecs: octets in, octets out. Layer: pure.
//!
//! Between them it is L16 at the lower of the two rates that there is something to hear by: Opus is decoded and encoded at 8 kHz beside G.711, and at 16 kHz
//! beside G.722.

pub mod melody;

use ropus::{Application, Bitrate, Channels, DecodeMode};

use super::codec::conceal::Concealer;
use super::codec::g711::Law;
use super::codec::g722;
use super::codec::halfband::{Doubler, Halver};
use super::formats::Codec;

/// The longest packet is of 120 ms (RFC 6716 §2.1.4), at 16 kHz.
pub const MOST_SAMPLES: usize = 1920;
/// What Opus may have in one packet, in half milliseconds, without those below 5 ms.
const FRAMES: [usize; 8] = [240, 200, 160, 120, 80, 40, 20, 10];

/// How Opus is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quality {
    /// 0 to 10 (RFC 6716 §2.1.5).
    pub complexity: u8,
    /// Bits a second.
    pub bitrate: u32,
}

impl Default for Quality {
    fn default() -> Self {
        Self { complexity: 5, bitrate: 24_000 }
    }
}

/// What there is to be made over.
#[derive(Debug, Clone, Copy)]
pub enum Sound<'a> {
    /// A packet's payload.
    Heard(&'a [u8]),
    /// One that was lost, before one that may say something of it.
    Before(&'a [u8]),
    /// One that was lost.
    Lost,
}

/// What was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Made {
    /// Octets.
    pub length: usize,
    /// So many ticks of the new clock its first sample is before that of what it was made of: what the frame before had no room for.
    pub early: u32,
}

/// From one codec to another.
pub struct Lane {
    ear: Ear,
    encoder: Encoder,
}

/// From a codec to samples.
pub struct Ear {
    decoder: Decoder,
    between: Between,
    /// Samples of the last packet.
    last: usize,
}

enum Decoder {
    Law(Law, Box<Concealer>),
    G722(Box<g722::Decoder>, Box<Concealer>),
    Opus(Box<ropus::Decoder>),
}

enum Between {
    Same,
    Double(Doubler),
    Halve(Halver),
}

enum Encoder {
    Law(Law),
    G722(Box<g722::Encoder>),
    Opus(Box<Opus>),
}

struct Opus {
    encoder: ropus::Encoder,
    per_ms: usize,
    waiting: [i16; MOST_SAMPLES],
    count: usize,
}

impl Lane {
    /// None if a codec can't be made.
    pub fn new(from: Codec, to: Codec, quality: Quality) -> Option<Self> {
        let rate = |codec, other| match (codec, other) {
            (Codec::Pcmu | Codec::Pcma, _) | (Codec::Opus, Codec::Pcmu | Codec::Pcma) => 8,
            (Codec::G722, _) | (Codec::Opus, Codec::G722 | Codec::Opus) => 16,
        };
        let (heard, said) = (rate(from, to), rate(to, from));
        Some(Self { ear: Ear::between(from, heard, said)?, encoder: Encoder::new(to, said, quality)? })
    }

    /// Makes a payload; none if there is nothing to send.
    pub fn make(&mut self, sound: Sound<'_>, octets: &mut [u8]) -> Option<Made> {
        let mut samples = [0; MOST_SAMPLES];
        let count = self.ear.hear(sound, &mut samples)?;
        self.encoder.encode(&samples[..count], octets)
    }
}

impl Ear {
    /// Gives samples of so many thousand a second, 8 or 16. None if the codec can't be made.
    pub fn new(codec: Codec, rate: u8) -> Option<Self> {
        let own = match codec {
            Codec::Pcmu | Codec::Pcma => 8,
            Codec::G722 => 16,
            Codec::Opus => rate,
        };
        Self::between(codec, own, rate)
    }

    fn between(codec: Codec, heard: u8, said: u8) -> Option<Self> {
        let between = match heard.cmp(&said) {
            std::cmp::Ordering::Equal => Between::Same,
            std::cmp::Ordering::Less => Between::Double(Doubler::default()),
            std::cmp::Ordering::Greater => Between::Halve(Halver::default()),
        };
        let concealer = || Box::new(Concealer::new(usize::from(heard)));
        let decoder = match codec {
            Codec::Pcmu => Decoder::Law(Law::Mu, concealer()),
            Codec::Pcma => Decoder::Law(Law::A, concealer()),
            Codec::G722 => Decoder::G722(Box::default(), concealer()),
            Codec::Opus => Decoder::Opus(Box::new(ropus::Decoder::new(u32::from(heard) * 1000, Channels::Mono).ok()?)),
        };
        Some(Self { decoder, between, last: usize::from(heard) * 20 })
    }

    /// Gives how many samples there are; none if the payload is nobody's.
    pub fn hear(&mut self, sound: Sound<'_>, samples: &mut [i16; MOST_SAMPLES]) -> Option<usize> {
        if let Between::Same = self.between {
            self.last = self.decoder.decode(sound, samples, self.last)?;
            return Some(self.last);
        }
        let mut heard = [0; MOST_SAMPLES];
        self.last = self.decoder.decode(sound, &mut heard, self.last)?;
        let heard = &heard[..self.last];
        Some(match &mut self.between {
            Between::Same => 0,
            Between::Double(doubler) => doubler.double(heard, samples),
            Between::Halve(halver) => halver.halve(heard, samples),
        })
    }
}

impl Decoder {
    /// Gives how many samples there are; none if the payload is nobody's.
    fn decode(&mut self, sound: Sound<'_>, samples: &mut [i16; MOST_SAMPLES], last: usize) -> Option<usize> {
        let (payload, concealer) = match (&mut *self, sound) {
            (Self::Opus(decoder), Sound::Heard(payload)) if !payload.is_empty() => {
                return decoder.decode(payload, samples, DecodeMode::Normal).ok();
            }
            (Self::Opus(decoder), Sound::Before(payload)) if !payload.is_empty() => {
                return decoder.decode(payload, &mut samples[..last], DecodeMode::Fec).ok();
            }
            (Self::Opus(decoder), _) => return decoder.decode(&[], &mut samples[..last], DecodeMode::Normal).ok(),
            (Self::Law(_, concealer) | Self::G722(_, concealer), Sound::Heard(payload)) => (payload, concealer),
            (Self::Law(_, concealer) | Self::G722(_, concealer), Sound::Before(_) | Sound::Lost) => {
                concealer.lost(&mut samples[..last]);
                return Some(last);
            }
        };
        // Longer than 120 ms is no packet of anybody's.
        let most = MOST_SAMPLES / 2;
        let payload = Some(payload).filter(|payload| (1..=most).contains(&payload.len()))?;
        let _ = concealer;
        let count = match self {
            Self::Law(law, concealer) => {
                let count = law.decode(payload, samples);
                concealer.good(&mut samples[..count]);
                count
            }
            Self::G722(decoder, concealer) => {
                let count = decoder.decode(payload, samples);
                concealer.good(&mut samples[..count]);
                count
            }
            Self::Opus(_) => return None,
        };
        Some(count)
    }
}

impl Encoder {
    /// Of samples at so many kHz: at 8 for G.711, at 16 for G.722.
    fn new(codec: Codec, rate: u8, quality: Quality) -> Option<Self> {
        Some(match codec {
            Codec::Pcmu => Self::Law(Law::Mu),
            Codec::Pcma => Self::Law(Law::A),
            Codec::G722 => Self::G722(Box::default()),
            Codec::Opus => Self::Opus(Box::new(Opus::new(rate, quality)?)),
        })
    }

    fn encode(&mut self, samples: &[i16], octets: &mut [u8]) -> Option<Made> {
        match self {
            Self::Law(law) => Some(Made { length: law.encode(samples, octets), early: 0 }),
            Self::G722(encoder) => Some(Made { length: encoder.encode(samples, octets), early: 0 }),
            Self::Opus(opus) => opus.encode(samples, octets),
        }
    }
}

impl Opus {
    fn new(rate: u8, quality: Quality) -> Option<Self> {
        let builder = ropus::Encoder::builder(u32::from(rate) * 1000, Channels::Mono, Application::Voip);
        let encoder = builder.bitrate(Bitrate::Bits(quality.bitrate)).complexity(quality.complexity).build().ok()?;
        Some(Self { encoder, per_ms: rate.into(), waiting: [0; MOST_SAMPLES], count: 0 })
    }

    /// As much as goes into a frame; the rest waits for the next.
    fn encode(&mut self, samples: &[i16], octets: &mut [u8]) -> Option<Made> {
        let waited = self.count;
        let all = waited + samples.len();
        if all > MOST_SAMPLES {
            self.count = 0;
            return None;
        }
        self.waiting[waited..all].copy_from_slice(samples);
        let size = |halves: &usize| halves * self.per_ms / 2;
        let Some(frame) = FRAMES.iter().map(size).find(|frame| *frame <= all) else {
            self.count = all;
            return None;
        };
        let length = self.encoder.encode(&self.waiting[..frame], octets).ok();
        self.waiting.copy_within(frame..all, 0);
        self.count = all - frame;
        let early = u32::try_from(waited * 48 / self.per_ms).unwrap_or(0);
        Some(Made { length: length?, early })
    }
}

#[cfg(test)]
mod tests;

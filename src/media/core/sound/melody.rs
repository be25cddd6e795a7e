//! A recording, coded once for all who hear it, in frames of 20 ms. Layer: pure.
//!
//! It is heard over and over, so its last second is what each coder has heard before its first frame.

use super::super::codec::halfband::Halver;
use super::{Encoder, Quality};
use crate::media::core::formats::Codec;

/// A recording's samples in a second.
pub const RATE: u32 = 16_000;
/// A frame has so many in a second.
pub const FRAMES_A_SECOND: u32 = 50;
/// Samples of a frame.
const FRAME: usize = (RATE / FRAMES_A_SECOND) as usize;
/// The longest that Opus makes of 20 ms (RFC 6716 §3.2.1).
const LONGEST: usize = 1275;

/// In one codec.
#[derive(Debug, Default)]
struct Frames {
    octets: Vec<u8>,
    /// Where each begins.
    begins: Vec<usize>,
}

/// In all of them.
#[derive(Debug)]
pub struct Melody {
    frames: [Frames; Codec::ALL.len()],
}

impl Melody {
    /// Of samples at [`RATE`]. What is less than a frame at its end goes; none if there is nothing else, or a codec can't be made.
    pub fn new(samples: &[i16], quality: Quality) -> Option<Self> {
        if samples.len() < FRAME {
            return None;
        }
        let mut frames = <[Frames; Codec::ALL.len()]>::default();
        for codec in Codec::ALL {
            frames[place(codec)] = Frames::new(samples, codec, quality)?;
        }
        Some(Self { frames })
    }

    /// One of its frames; after the last comes the first.
    pub fn frame(&self, codec: Codec, number: u64) -> &[u8] {
        let Frames { octets, begins } = &self.frames[place(codec)];
        let at = usize::try_from(number % begins.len() as u64).unwrap_or(0);
        &octets[begins[at]..begins.get(at + 1).copied().unwrap_or(octets.len())]
    }

    /// How many it has.
    pub fn count(&self) -> usize {
        self.frames[0].begins.len()
    }
}

fn place(codec: Codec) -> usize {
    match codec {
        Codec::Pcmu => 0,
        Codec::Pcma => 1,
        Codec::G722 => 2,
        Codec::Opus => 3,
    }
}

impl Frames {
    fn new(samples: &[i16], codec: Codec, quality: Quality) -> Option<Self> {
        let is_narrow = matches!(codec, Codec::Pcmu | Codec::Pcma);
        let mut encoder = Encoder::new(codec, if is_narrow { 8 } else { 16 }, quality)?;
        let mut halver = Halver::default();
        let mut coded = [0; LONGEST];
        let mut narrow = [0; FRAME / 2];
        let mut code = |frame: &[i16], into: &mut Self| {
            let samples = match is_narrow {
                true => {
                    halver.halve(frame, &mut narrow);
                    &narrow[..]
                }
                false => frame,
            };
            let made = encoder.encode(samples, &mut coded)?;
            into.begins.push(into.octets.len());
            into.octets.extend_from_slice(&coded[..made.length]);
            Some(())
        };
        let mut heard_before = Self::default();
        let count = samples.len() / FRAME;
        for frame in samples.chunks_exact(FRAME).skip(count.saturating_sub(FRAMES_A_SECOND as usize)) {
            code(frame, &mut heard_before)?;
        }
        let mut frames = Self::default();
        for frame in samples.chunks_exact(FRAME) {
            code(frame, &mut frames)?;
        }
        Some(frames)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Lane, MOST_SAMPLES, Sound};
    use super::*;

    /// A whole number of waves, so that the last joins the first.
    fn tone(frequency: f64, count: usize) -> Vec<i16> {
        #[allow(clippy::cast_possible_truncation, reason = "it is a sample")]
        let sample = |at: usize| ((at as f64 / 16_000.0 * frequency * std::f64::consts::TAU).sin() * 10_000.0) as i16;
        (0..count).map(sample).collect()
    }

    #[test]
    fn it_is_heard_in_each_codec_and_begins_again_without_a_seam() {
        let melody = Melody::new(&tone(500.0, 16_000), Quality::default()).unwrap();
        assert_eq!(melody.count(), 50);
        for (codec, length) in [(Codec::Pcmu, 160), (Codec::Pcma, 160), (Codec::G722, 160), (Codec::Opus, 1)] {
            // All of it as A-law: what is decoded is what a phone hears.
            let other = if codec == Codec::Pcma { Codec::Pcmu } else { Codec::Pcma };
            let law = if other == Codec::Pcma { super::super::Law::A } else { super::super::Law::Mu };
            let mut lane = Lane::new(codec, other, Quality::default()).unwrap();
            let (mut octets, mut samples, mut heard) = ([0; MOST_SAMPLES], [0; MOST_SAMPLES], Vec::new());
            for number in 0..150 {
                let frame = melody.frame(codec, number);
                assert!(frame.len() >= length && (codec == Codec::Opus || frame.len() == length));
                let made = lane.make(Sound::Heard(frame), &mut octets).unwrap();
                assert_eq!(made.length, 160);
                law.decode(&octets[..160], &mut samples);
                heard.extend_from_slice(&samples[..160]);
            }
            // Each wave is like the one before, wherever a frame ends: 16 samples at 8 kHz.
            let waves = heard[1600..].chunks_exact(16).zip(heard[1616..].chunks_exact(16));
            for (at, (a, b)) in waves.enumerate() {
                let apart: i32 = a.iter().zip(b).map(|(a, b)| (i32::from(*a) - i32::from(*b)).abs()).max().unwrap();
                assert!(apart < 2500, "{codec:?} at {at}: {apart}");
            }
            assert!(heard[1600..].iter().map(|sample| sample.abs()).max().unwrap() > 7000, "{codec:?}");
        }
    }

    #[test]
    fn less_than_a_frame_is_none() {
        assert!(Melody::new(&tone(500.0, 319), Quality::default()).is_none());
        assert_eq!(Melody::new(&tone(500.0, 639), Quality::default()).unwrap().count(), 1);
    }
}

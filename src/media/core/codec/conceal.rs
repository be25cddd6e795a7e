//! What is heard in place of a lost packet of G.711 or G.722: the last pitch again and again, and softer (as ITU-T G.711 appendix I does). Layer: pure.
//!
//! Opus conceals for itself.

/// What is remembered, in sixteenths of a millisecond at 16 kHz: 45 ms.
const MEMORY: usize = 720;
/// Pitches are looked for from 400 Hz down to 66 Hz.
const SHORTEST_MS: f32 = 2.5;
/// So much is compared, and joined, in samples for each kHz.
const JOIN: usize = 4;
/// After so many lost milliseconds it gets softer, and after so many more there is nothing.
const STEADY_MS: usize = 10;
const FADING_MS: usize = 60;

/// Of one source.
#[derive(Debug, Clone)]
pub struct Concealer {
    /// Samples in a millisecond.
    per_ms: usize,
    last: [i16; MEMORY],
    /// Samples that were lost in a row, and how long a pitch was before.
    lost: usize,
    pitch: usize,
}

impl Concealer {
    /// At 8 or 16 samples in a millisecond.
    pub fn new(per_ms: usize) -> Self {
        Self { per_ms: per_ms.clamp(8, 16), last: [0; MEMORY], lost: 0, pitch: 0 }
    }

    /// Samples have come. The first after a loss are joined to what was made up.
    pub fn good(&mut self, samples: &mut [i16]) {
        if self.lost > 0 {
            let join = (JOIN * self.per_ms).min(samples.len());
            for (at, sample) in samples[..join].iter_mut().enumerate() {
                let made = self.made(self.lost + at);
                *sample = mixed(made, *sample, at, join);
            }
            self.lost = 0;
        }
        self.remember(samples);
    }

    /// Makes samples up.
    pub fn lost(&mut self, samples: &mut [i16]) {
        if self.lost == 0 {
            self.pitch = self.find_pitch();
            self.soften();
        }
        for (at, sample) in samples.iter_mut().enumerate() {
            *sample = self.made(self.lost + at);
        }
        self.lost = self.lost.saturating_add(samples.len());
    }

    /// One of those that were lost.
    fn made(&self, at: usize) -> i16 {
        let steady = STEADY_MS * self.per_ms;
        let fading = FADING_MS * self.per_ms;
        let left = fading.saturating_sub(at.saturating_sub(steady));
        let sample = self.last[MEMORY - self.pitch.max(1) + at % self.pitch.max(1)];
        mixed(0, sample, left, fading)
    }

    /// The end of a pitch becomes what was before its begin, so that it can be said twice.
    fn soften(&mut self) {
        let join = (self.pitch / 4).min(MEMORY - self.pitch);
        for at in 0..join {
            let end = MEMORY - join + at;
            self.last[end] = mixed(self.last[end], self.last[end - self.pitch], at, join);
        }
    }

    fn remember(&mut self, samples: &[i16]) {
        let new = &samples[samples.len().saturating_sub(MEMORY)..];
        self.last.copy_within(new.len().., 0);
        self.last[MEMORY - new.len()..].copy_from_slice(new);
    }

    /// The distance at which what was heard last is most like what was before.
    fn find_pitch(&self) -> usize {
        let window = 16 * self.per_ms;
        let recent = &self.last[MEMORY - window..];
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a few samples")]
        let shortest = (SHORTEST_MS * self.per_ms as f32) as usize;
        let longest = 15 * self.per_ms;
        let likeness = |distance: usize| {
            let before = &self.last[MEMORY - window - distance..MEMORY - distance];
            let (mut product, mut power) = (0.0_f32, 1.0_f32);
            for (a, b) in recent.iter().zip(before).step_by(self.per_ms / 8) {
                let (a, b) = (f32::from(*a), f32::from(*b));
                product += a * b;
                power += b * b;
            }
            product / power.sqrt()
        };
        let best = (shortest..=longest).map(|distance| (likeness(distance), distance)).max_by(|a, b| a.0.total_cmp(&b.0));
        best.map_or(longest, |(_, distance)| distance)
    }
}

/// Of `from` and `to`, by so many parts of `all` the latter.
fn mixed(from: i16, to: i16, part: usize, all: usize) -> i16 {
    let [part, all] = [part, all.max(1)].map(|count| i32::try_from(count).unwrap_or(i32::MAX));
    let value = (i32::from(from) * (all - part) + i32::from(to) * part) / all;
    i16::try_from(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn speech(rate: usize) -> Vec<i16> {
        let bytes = std::fs::read(format!("{}/tests/data/sound/speech{}.pcm", env!("CARGO_MANIFEST_DIR"), rate)).unwrap();
        bytes.chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect()
    }

    fn power(samples: &[i16]) -> f64 {
        samples.iter().map(|sample| f64::from(*sample).powi(2)).sum::<f64>() / samples.len() as f64
    }

    /// A lost packet in ten is as loud as it was, more or less.
    #[test]
    fn what_is_made_up_is_as_loud_as_speech() {
        for rate in [8, 16] {
            let (mut concealer, mut differences) = (Concealer::new(rate), Vec::new());
            for (at, frame) in speech(rate).chunks_exact(20 * rate).enumerate() {
                let mut heard = frame.to_vec();
                match at % 10 {
                    9 if power(frame) > 1e5 => {
                        concealer.lost(&mut heard);
                        differences.push(10.0 * (power(&heard) / power(frame)).log10());
                    }
                    _ => concealer.good(&mut heard),
                }
            }
            differences.sort_by(f64::total_cmp);
            let count = differences.len();
            assert!(count > 5 && differences[count / 2].abs() < 3.0 && differences[count / 4] > -6.0, "{rate}: {differences:?}");
        }
    }

    /// What is the same all the time is made up as it is.
    #[test]
    fn a_tone_goes_on() {
        let tone: Vec<i16> =
            (0..800).map(|at| if at % 40 < 20 { 1000 } else { -1000 } + i16::try_from(at % 40 * 10).unwrap()).collect();
        let mut concealer = Concealer::new(8);
        concealer.good(&mut tone[..640].to_vec());
        let mut made = [0; 160];
        concealer.lost(&mut made);
        assert_eq!(concealer.pitch % 40, 0);
        for (at, (made, said)) in made.iter().zip(&tone[640..]).enumerate() {
            assert!(at >= 80 && (i32::from(*made) * i32::from(*said) >= 0) || made == said, "{at}: {made} {said}");
        }
    }

    #[test]
    fn a_long_loss_ends_in_silence() {
        let mut concealer = Concealer::new(8);
        concealer.good(&mut [10_000; 160]);
        let mut samples = [0; 160];
        for _ in 0..5 {
            concealer.lost(&mut samples);
        }
        assert_eq!(samples, [0; 160]);
        concealer.good(&mut samples);
        // Nothing was heard yet, or too much at once.
        Concealer::new(16).lost(&mut [0; 3000]);
        Concealer::new(16).good(&mut [i16::MIN; 3000]);
        Concealer::new(8).good(&mut []);
    }
}

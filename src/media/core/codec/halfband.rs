//! Twice as many samples, or half as many: 8 kHz and 16 kHz (G.711 and G.722). Opus is decoded and encoded at either. Layer: pure.
//!
//! One half-band filter of 59 taps, of which every other is nothing: flat to 3.4 kHz (0.01 dB), and 64 dB down from 4.6 kHz on. It delays by 1.9 ms.

/// One side of the filter, from its middle outwards, in 2^-15: those taps that aren't nothing. The middle is a half.
const TAPS: [i32; 15] = [10_396, -3382, 1932, -1281, 901, -648, 468, -336, 236, -162, 107, -67, 39, -21, 9];
/// Samples that are remembered.
const MEMORY: usize = 2 * TAPS.len();

/// From 8 kHz to 16 kHz.
#[derive(Debug, Clone, Default)]
pub struct Doubler {
    last: [i32; MEMORY],
}

impl Doubler {
    /// Two samples for each; gives how many there are.
    pub fn double(&mut self, samples: &[i16], out: &mut [i16]) -> usize {
        let mut count = 0;
        for (new, pair) in samples.iter().zip(out.chunks_exact_mut(2)) {
            self.last.copy_within(1.., 0);
            self.last[MEMORY - 1] = (*new).into();
            let between = rounded(sides(&self.last), 14);
            pair.copy_from_slice(&[rounded(self.last[TAPS.len() - 1], 0), between]);
            count += 2;
        }
        count
    }
}

/// From 16 kHz to 8 kHz.
#[derive(Debug, Clone, Default)]
pub struct Halver {
    last: [i32; MEMORY],
    /// The other phase, which goes through the middle alone.
    straight: [i32; TAPS.len()],
}

impl Halver {
    /// One sample for each two; gives how many there are.
    pub fn halve(&mut self, samples: &[i16], out: &mut [i16]) -> usize {
        let mut count = 0;
        for (pair, out) in samples.chunks_exact(2).zip(out) {
            self.straight.copy_within(1.., 0);
            self.straight[TAPS.len() - 1] = pair[0].into();
            self.last.copy_within(1.., 0);
            self.last[MEMORY - 1] = pair[1].into();
            *out = rounded(sides(&self.last) + (self.straight[0] << 14), 15);
            count += 1;
        }
        count
    }
}

/// What both sides of the filter make, without its middle.
fn sides(last: &[i32; MEMORY]) -> i32 {
    let (before, after) = last.split_at(TAPS.len());
    before.iter().rev().zip(after).zip(TAPS).map(|((before, after), tap)| (before + after) * tap).sum()
}

/// A number that has so many bits behind the point.
fn rounded(value: i32, bits: u32) -> i16 {
    let value = (value + ((1 << bits) >> 1)) >> bits;
    i16::try_from(value.clamp(i16::MIN.into(), i16::MAX.into())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tone(rate: f64, frequency: f64, count: usize) -> Vec<i16> {
        #[allow(clippy::cast_possible_truncation, reason = "it is a sample")]
        let sample = |at: usize| ((at as f64) / rate * frequency * std::f64::consts::TAU).sin().mul_add(10_000.0, 0.0) as i16;
        (0..count).map(sample).collect()
    }

    /// In decibels of [`tone`]'s.
    fn level(samples: &[i16]) -> f64 {
        let power: f64 = samples.iter().map(|sample| f64::from(*sample).powi(2)).sum();
        10.0 * (power / samples.len() as f64 / 5e7).log10()
    }

    #[test]
    fn speech_stays_and_what_would_be_mirrored_goes() {
        let mut out = vec![0; 16_000];
        for frequency in [300.0, 1000.0, 2500.0, 3400.0] {
            assert_eq!(Halver::default().halve(&tone(16_000.0, frequency, 16_000), &mut out), 8000);
            assert!(level(&out[100..8000]).abs() < 0.05, "{frequency}");
            assert_eq!(Doubler::default().double(&tone(8000.0, frequency, 8000), &mut out), 16_000);
            assert!(level(&out[100..]).abs() < 0.05, "{frequency}");
        }
        for frequency in [4600.0, 6000.0, 7500.0] {
            Halver::default().halve(&tone(16_000.0, frequency, 16_000), &mut out);
            assert!(level(&out[100..8000]) < -60.0, "{frequency}");
        }
    }

    #[test]
    fn the_loudest_stays_within_bounds() {
        let mut out = [0; 4000];
        for sample in [i16::MIN, i16::MAX] {
            Doubler::default().double(&[sample; 1000], &mut out);
            Halver::default().halve(&[sample; 1000], &mut out);
            let square: Vec<i16> = (0..1000).map(|at| if at / 3 % 2 == 0 { sample } else { !sample }).collect();
            Doubler::default().double(&square, &mut out);
            Halver::default().halve(&square, &mut out);
        }
    }

    /// What is divided over calls makes the same as in one.
    #[test]
    fn frames_join_without_a_seam() {
        let samples = tone(8000.0, 700.0, 480);
        let (mut whole, mut parts) = ([0; 960], [0; 960]);
        Doubler::default().double(&samples, &mut whole);
        let mut doubler = Doubler::default();
        samples.chunks(160).zip(parts.chunks_mut(320)).for_each(|(samples, out)| assert_eq!(doubler.double(samples, out), 320));
        assert_eq!(whole, parts);
    }
}

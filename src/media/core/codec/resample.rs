//! A recording at another rate, all of it at once: for files, not for talk. Layer: pure.
//!
//! A windowed sinc, whose taps are made once for each place that a new sample can have between two old ones.

/// So many zeros of the sinc are on each side of its middle.
const ZEROS: f64 = 16.0;
/// Of the lower of the two rates, what passes.
const PASSES: f64 = 0.94;

/// `samples` of `from` a second as so many of `to`.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "samples are cut to their bounds, and places are far below 2^52"
)]
pub fn resample(samples: &[i16], from: u32, to: u32) -> Vec<i16> {
    if from == to || from == 0 || to == 0 {
        return samples.to_vec();
    }
    let common = gcd(from, to);
    let (up, down) = ((to / common) as usize, (from / common) as usize);
    // In old samples: what passes is below half of the lower rate.
    let cutoff = PASSES * f64::from(to.min(from)) / f64::from(from);
    let half = (ZEROS / cutoff).ceil() as usize;
    let phases: Vec<Vec<f64>> = (0..up).map(|phase| taps(phase as f64 / up as f64, half, cutoff)).collect();
    let sample = |number: usize| {
        let (whole, phase) = (number * down / up, number * down % up);
        let first = whole as isize + 1 - half as isize;
        let of = |(at, tap): (usize, &f64)| {
            let sample = usize::try_from(first + at as isize).ok().and_then(|at| samples.get(at));
            sample.map_or(0.0, |sample| f64::from(*sample) * tap)
        };
        let sum: f64 = phases[phase].iter().enumerate().map(of).sum();
        sum.round().clamp(i16::MIN.into(), i16::MAX.into()) as i16
    };
    (0..samples.len() * up / down).map(sample).collect()
}

/// Of the old samples around a new one, which is so far behind the middle one.
#[allow(clippy::cast_precision_loss, reason = "some hundreds")]
fn taps(behind: f64, half: usize, cutoff: f64) -> Vec<f64> {
    let tap = |at: usize| {
        let x = at as f64 + 1.0 - half as f64 - behind;
        let angle = std::f64::consts::PI * x * cutoff;
        let sinc = if angle.abs() < 1e-9 { 1.0 } else { angle.sin() / angle };
        // Hann's window.
        let window = 0.5 + 0.5 * (std::f64::consts::PI * (x / half as f64).clamp(-1.0, 1.0)).cos();
        sinc * window
    };
    let taps: Vec<f64> = (0..2 * half).map(tap).collect();
    // What is the same all the time stays the same.
    let sum: f64 = taps.iter().sum();
    taps.into_iter().map(|tap| tap / sum).collect()
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tone(rate: f64, frequency: f64, count: usize) -> Vec<i16> {
        #[allow(clippy::cast_possible_truncation, reason = "it is a sample")]
        let sample = |at: usize| ((at as f64 / rate * frequency * std::f64::consts::TAU).sin() * 10_000.0) as i16;
        (0..count).map(sample).collect()
    }

    #[test]
    fn a_tone_is_the_same_at_another_rate() {
        for (from, count) in [(8000, 8000), (11_025, 11_025), (44_100, 44_100), (48_000, 48_000)] {
            let made = resample(&tone(from.into(), 1000.0, count), from, 16_000);
            assert_eq!(made.len(), 16_000);
            for (made, other) in made.iter().zip(tone(16_000.0, 1000.0, 16_000)).skip(200).take(15_600) {
                assert!((i32::from(*made) - i32::from(other)).abs() < 60, "{from}: {made} {other}");
            }
        }
        assert_eq!(resample(&[1, 2, 3], 16_000, 16_000), [1, 2, 3]);
        assert!(resample(&[], 48_000, 16_000).is_empty());
    }

    /// What there is no room for is not heard as something else.
    #[test]
    fn what_is_too_high_is_gone() {
        let made = resample(&tone(48_000.0, 9500.0, 48_000), 48_000, 16_000);
        assert!(made[200..15_800].iter().all(|sample| sample.abs() < 30));
        assert_eq!(resample(&[i16::MIN; 999], 48_000, 16_000)[100..200], [i16::MIN; 100]);
    }
}

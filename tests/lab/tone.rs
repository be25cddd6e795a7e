//! Which tone is in a recording?

use std::path::Path;

/// What is looked at once.
const WINDOW_MS: usize = 100;

/// For each tenth of a second of a recording (16-bit PCM in a WAV file): whether `hz` is what sounds.
pub fn heard(path: &Path, hz: f64) -> Vec<bool> {
    heard_in(path, 0, hz)
}

/// The same of one of its channels.
pub fn heard_in(path: &Path, channel: usize, hz: f64) -> Vec<bool> {
    let bytes = std::fs::read(path).unwrap();
    let (rate, channels, samples) = wav(&bytes);
    let mono: Vec<f64> = samples.chunks(channels).map(|frame| f64::from(frame[channel])).collect();
    windows(&mono, rate, hz)
}

/// The same of samples.
pub fn heard_of(samples: &[i16], rate: usize, hz: f64) -> Vec<bool> {
    windows(&samples.iter().map(|sample| f64::from(*sample)).collect::<Vec<_>>(), rate, hz)
}

fn windows(samples: &[f64], rate: usize, hz: f64) -> Vec<bool> {
    samples.chunks_exact(rate * WINDOW_MS / 1000).map(|window| share(window, hz, rate) > 0.5).collect()
}

/// How much of a window's energy is at one frequency (Goertzel).
fn share(window: &[f64], hz: f64, rate: usize) -> f64 {
    let energy: f64 = window.iter().map(|x| x * x).sum();
    // Below this is silence, digital or comfort noise.
    if energy / (window.len() as f64) < 100.0 * 100.0 {
        return 0.0;
    }
    let coefficient = 2.0 * (2.0 * std::f64::consts::PI * hz / rate as f64).cos();
    let (mut s1, mut s2) = (0.0, 0.0);
    for x in window {
        (s1, s2) = (x + coefficient * s1 - s2, s1);
    }
    let power = s1 * s1 + s2 * s2 - coefficient * s1 * s2;
    2.0 * power / (window.len() as f64 * energy)
}

/// Rate, channels and samples. The sizes in the header may be those of a file that was never closed.
fn wav(bytes: &[u8]) -> (usize, usize, Vec<i16>) {
    let number = |at: usize, size: usize| bytes[at..at + size].iter().rev().fold(0_usize, |n, byte| n << 8 | usize::from(*byte));
    assert_eq!((&bytes[..4], &bytes[8..12]), (&b"RIFF"[..], &b"WAVE"[..]), "a WAV file");
    let (mut at, mut format) = (12, (8000, 1));
    while at + 8 <= bytes.len() {
        let size = number(at + 4, 4);
        match &bytes[at..at + 4] {
            b"fmt " => format = (number(at + 12, 4), number(at + 10, 2)),
            b"data" => {
                let end = if size == 0 { bytes.len() } else { (at + 8 + size).min(bytes.len()) };
                let samples = bytes[at + 8..end].chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]]));
                return (format.0, format.1, samples.collect());
            }
            _ => {}
        }
        at += 8 + size + size % 2;
    }
    panic!("a WAV file without data");
}

#[test]
fn a_tone_is_told_from_another_and_from_silence() {
    let rate = 8000;
    let tone = |hz: f64| -> Vec<f64> {
        (0..800).map(|n| 9000.0 * (2.0 * std::f64::consts::PI * hz * f64::from(n) / 8000.0).sin()).collect()
    };
    assert!(
        share(&tone(440.0), 440.0, rate) > 0.9 && share(&tone(880.0), 440.0, rate) < 0.1 && share(&[0.0; 800], 440.0, rate) < 0.1
    );
}

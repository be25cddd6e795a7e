use super::*;

fn pcm(name: &str) -> Vec<i16> {
    let bytes = std::fs::read(format!("{}/tests/data/sound/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    bytes.chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect()
}

/// The keys that are heard, in frames as packets have them.
fn heard(samples: &[i16]) -> (String, Vec<u128>) {
    let (mut detector, mut keys, mut times) = (Detector::default(), String::new(), Vec::new());
    for frame in samples.chunks(160) {
        detector.hear(frame, |heard| match heard {
            Heard::Down(key) => keys.push_str(&key.to_string()),
            Heard::Up(_, time) => times.push(time.as_millis()),
        });
    }
    (keys, times)
}

const ALL: &str = "0123456789*#ABCD";

/// Each key for so long, and then as long nothing.
fn dialled(down: usize, up: usize, volume: u8, change: impl Fn(usize, f32) -> f32) -> Vec<i16> {
    let mut samples = Vec::new();
    for sign in ALL.chars() {
        let mut tone = vec![0; down * 8];
        Tone::new(Key::of(sign).unwrap(), 8000, volume).fill(&mut tone);
        samples.extend(tone);
        samples.extend(vec![0; up * 8]);
    }
    samples.iter().enumerate().map(|(at, sample)| rounded(change(at, f32::from(*sample)))).collect()
}

/// Noise, the same each time.
fn noise(at: usize) -> f32 {
    let mut value = (at as u64).wrapping_add(0x9E37_79B9_7F4A_7C15).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    value = (value ^ value >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    f32::from(u16::try_from((value ^ value >> 31) & 0xffff).unwrap()) / 32_768.0 - 1.0
}

/// Q.24: 40 ms, from -3 to -25 dBm0, and in noise 15 dB below.
#[test]
fn keys_are_heard_as_short_and_soft_as_they_may_be() {
    for volume in [3, 10, 25, 30] {
        for (down, up) in [(40, 40), (50, 30), (100, 100), (1000, 50)] {
            assert_eq!(heard(&dialled(down, up, volume, |_, sample| sample)).0, ALL, "{volume} {down} {up}");
            // Uniform noise has a third of its peak's square.
            let peak = ZERO * decibels(-f32::from(volume) - 15.0) * 1.22;
            assert_eq!(
                heard(&dialled(down, up, volume, |at, sample| sample + peak * noise(at))).0,
                ALL,
                "{volume} {down} {up}: noise"
            );
        }
    }
    let times = heard(&dialled(100, 100, 10, |_, sample| sample)).1;
    assert!(times.len() == 16 && times.iter().all(|time| (85..=115).contains(time)), "{times:?}");
}

/// Q.24: what is too short is no key, and a gap that is too short is none.
#[test]
fn what_is_too_short_is_nothing() {
    assert_eq!(heard(&dialled(12, 50, 10, |_, sample| sample)).0, "");
    let with_gaps = dialled(500, 50, 10, |at, sample| if at % 1600 < 40 { 0.0 } else { sample });
    assert_eq!(heard(&with_gaps).0, ALL);
}

/// Of sox: other phases, a twist of 6 dB, 1.5 % too high, and by A-law. Of spandsp: its own generator.
#[test]
fn recorded_digits_are_heard() {
    for name in
        ["dtmf-sox.pcm", "dtmf-sox-twist.pcm", "dtmf-sox-high.pcm", "dtmf-sox-alaw.pcm", "dtmf-spandsp.pcm", "dtmf-opus.pcm"]
    {
        assert_eq!(heard(&pcm(name)).0, ALL, "{name}");
    }
}

/// Nobody who speaks presses keys, nor does a phone that rings.
#[test]
fn speech_is_no_key() {
    for name in ["speech8.pcm", "ringback8.pcm", "busy8.pcm"] {
        assert_eq!(heard(&pcm(name)).0, "", "{name}");
    }
    let mut loud: Vec<_> = (0..80_000).map(|at| rounded(20_000.0 * noise(at))).collect();
    assert_eq!(heard(&loud).0, "");
    // One frequency alone, any of them.
    for frequency in 300_u16..3400 {
        let step = f32::from(frequency) / 8000.0;
        let mut turn = 0.0_f32;
        for sample in &mut loud[..800] {
            turn = (turn + step).fract();
            *sample = rounded(10_000.0 * (turn * TAU).sin());
        }
        assert_eq!(heard(&loud[..800]).0, "", "{frequency}");
    }
}

#[test]
fn events_are_as_rfc_4733_has_them() {
    let payload = [9, 0x80 | 10, 0x03, 0x20];
    let event = Event::parse(&payload).unwrap();
    assert_eq!(event, Event { event: 9, end: true, volume: 10, duration: 800 });
    assert_eq!(event.write(), payload);
    assert_eq!(event.by_clock(8000, 48_000).duration, 4800);
    assert_eq!(event.by_clock(48_000, 8000).duration, 133);
    assert_eq!(Event { duration: 60_000, ..event }.by_clock(8000, 48_000).duration, u16::MAX);
    assert_eq!(Event::parse(&payload[..3]), None);
}

#[test]
fn an_info_says_which_key() {
    let key = |sign, ms| Some(Signal { key: Key::of(sign).unwrap(), duration: Duration::from_millis(ms) });
    for (body, expected) in [
        ("Signal=5\r\nDuration=100\r\n", key('5', 100)),
        ("Signal= *\r\nDuration= 250", key('*', 250)),
        ("signal=11\r\nduration=1", key('#', 40)),
        ("Signal=d", key('D', 160)),
        ("7", key('7', 160)),
        ("#\r\n", key('#', 160)),
        ("Signal=16", None),
        ("Signal=\r\nDuration=100", None),
        ("Signal=55", None),
        ("", None),
        ("Signal=3\r\nDuration=99999999999999999999", key('3', 160)),
    ] {
        assert_eq!(Signal::parse(body.as_bytes()), expected, "{body:?}");
    }
    assert_eq!(Signal::parse(b"\xff"), None);
    let signal = Signal::parse(b"Signal=0\r\nDuration=80").unwrap();
    assert_eq!(Signal::parse(signal.write().as_bytes()), Some(signal));
}

use super::*;

fn file(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/tests/data/sound/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn pcm(bytes: &[u8]) -> Vec<i16> {
    bytes.chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect()
}

/// How far what is heard is from what a reference decoder makes of the same, in decibels.
fn snr(reference: &[i16], heard: &[i16]) -> f64 {
    assert_eq!(reference.len(), heard.len());
    let (mut signal, mut noise) = (0.0, 0.0);
    for (known, heard) in reference.iter().zip(heard) {
        signal += f64::from(*known).powi(2);
        noise += (f64::from(*known) - f64::from(*heard)).powi(2);
    }
    10.0 * (signal / noise).log10()
}

/// Speech by libopus 1.3.1 (24 kbit/s, with what mends losses in it): its packets, a length before each, and what its decoder makes of them.
#[test]
fn opus_is_heard_as_the_reference_hears_it() {
    let coded = file("speech16.opus");
    for (rate, name) in [(16, "speech16.opus.pcm"), (8, "speech16.opus8.pcm")] {
        let (mut ear, mut heard) = (Ear::new(Codec::Opus, rate).unwrap(), Vec::new());
        let (mut rest, mut samples) = (&coded[..], [0; MOST_SAMPLES]);
        while let Some((length, more)) = rest.split_first_chunk() {
            let (packet, more) = more.split_at(u16::from_be_bytes(*length).into());
            let count = ear.hear(Sound::Heard(packet), &mut samples).unwrap();
            heard.extend(&samples[..count]);
            rest = more;
        }
        let snr = snr(&pcm(&file(name)), &heard);
        println!("Opus at {rate} kHz: SNR {snr:.1} dB");
        assert!(snr >= 60.0, "{snr}");
    }
}

/// What we code the reference's way is heard at both rates as it was said: the filters between them take nothing away that G.711 has.
#[test]
fn a_tone_stays_what_it_is_from_each_codec_to_each_rate() {
    for codec in Codec::ALL {
        for rate in [8_u8, 16] {
            let own: u8 = if matches!(codec, Codec::G722 | Codec::Opus) { 16 } else { 8 };
            #[allow(clippy::cast_possible_truncation, reason = "it fits")]
            let tone: Vec<i16> = (0..usize::from(own) * 1000)
                .map(|n| (9000.0 * (2.0 * std::f64::consts::PI * 440.0 * n as f64 / f64::from(own) / 1000.0).sin()) as i16)
                .collect();
            let mut encoder = Encoder::new(codec, own, Quality::default()).unwrap();
            let (mut ear, mut heard) = (Ear::new(codec, rate).unwrap(), Vec::<i16>::new());
            let (mut octets, mut samples) = ([0; 1500], [0; MOST_SAMPLES]);
            for frame in tone.chunks(usize::from(own) * 20) {
                let made = encoder.encode(frame, &mut octets).unwrap();
                let count = ear.hear(Sound::Heard(&octets[..made.length]), &mut samples).unwrap();
                heard.extend(&samples[..count]);
            }
            let turns = heard.windows(2).skip(1600).filter(|pair| (pair[0] < 0) != (pair[1] < 0)).count();
            let hz = turns * usize::from(rate) * 500 / (heard.len() - 1601);
            assert_eq!(heard.len(), usize::from(rate) * 1000, "{codec:?} at {rate}");
            assert!((435..=445).contains(&hz), "{codec:?} at {rate}: {hz} Hz");
        }
    }
}

//! A phone that is on hold hears the music of the configuration, and a caller while it rings the ringing tone; both again when the owner is killed.

use std::path::Path;
use std::time::Duration;

use super::protection::treat;
use crate::lab::baresip::Baresip;
use crate::lab::cluster::Cluster;
use crate::lab::{call, net, tone};

const PCMU: &str = "PCMU/8000/1";
const OPUS: &str = "opus/48000/2";
/// What the music sounds like, and what the holder does.
const MUSIC: f64 = 1200.0;
const TALK: f64 = 440.0;
/// In tenths of a second: music begins 0.2 s after the last sound, a takeover takes some more, and phones have buffers.
const MISSING: usize = 12;

fn write_music(path: &Path) {
    let spec = hound::WavSpec { channels: 2, sample_rate: 48_000, bits_per_sample: 16, sample_format: hound::SampleFormat::Int };
    let mut writer = hound::WavWriter::create(path, spec).unwrap();
    for at in 0..48_000 {
        #[allow(clippy::cast_possible_truncation, reason = "it is a sample")]
        let sample = ((f64::from(at) / 48_000.0 * MUSIC * std::f64::consts::TAU).sin() * 9000.0) as i16;
        (0..2).for_each(|_| writer.write_sample(sample).unwrap());
    }
    writer.finalize().unwrap();
}

/// The first phone holds; node 2 owns the call and is killed meanwhile.
fn music_goes_on(codec: &'static str, by: &'static str) {
    let dir = tempfile::tempdir().unwrap();
    let music = dir.path().join("music.wav");
    write_music(&music);
    net::run(3, async |net| {
        let users = (1..=2).map(|n| (format!("u{n:04}"), format!("pu{n:04}"))).collect();
        let mut cluster = Cluster::at_with(&net, users, |config| config.media.hold_music = Some(music.clone())).await;
        let phone = |n: usize, codec, by| {
            let (user, password) = &cluster.users[n];
            Baresip::coding(codec, by, user, password, cluster.sip_of(2 - n), 440 * (u32::from(n > 0) + 1))
        };
        treat(&cluster, ["allow", if by.is_empty() { "allow" } else { "require" }]).await;
        let (mut a, b) = (phone(0, PCMU, ""), phone(1, codec, by));
        a.dial(&cluster.users[1].0.clone());
        b.wait_for("CALL_ESTABLISHED");
        let some_time = || tokio::time::sleep(Duration::from_millis(2500));
        some_time().await;
        a.holds();
        some_time().await;
        cluster.kill(2);
        some_time().await;
        a.goes_on();
        some_time().await;
        assert!(!a.saw("CALL_CLOSED") && !b.saw("CALL_CLOSED"));
        a.hang_up();
        a.wait_for("CALL_CLOSED");
        b.wait_for("CALL_CLOSED");
        let [talk, music] = [TALK, MUSIC].map(|hz| tone::heard(&b.recording(), hz));
        let count = |heard: &[bool]| heard.iter().filter(|heard| **heard).count();
        let (first, last) = (music.iter().position(|heard| *heard), music.iter().rposition(|heard| *heard));
        let (first, last) = first.zip(last).unwrap_or_else(|| panic!("no music: {talk:?}"));
        assert!(count(&music) + MISSING >= 50 && count(&music) <= 53, "{music:?}");
        assert!(count(&talk[..first]) >= 15 && count(&talk[last..]) >= 15, "{talk:?}");
        // It is there at the end of the hold, and not only at its beginning.
        assert!(music[last - 5..last].iter().all(|heard| *heard), "{music:?}");
    });
}

#[test]
fn a_phone_on_hold_hears_music_again_when_the_owner_is_killed() {
    music_goes_on(PCMU, "");
}

/// Sealed, and made of the same file.
#[test]
fn a_phone_with_opus_and_keys_on_hold_hears_music_again_when_the_owner_is_killed() {
    music_goes_on(OPUS, "srtp-mand");
}

#[test]
fn a_caller_hears_the_ringing_tone_again_when_the_owner_is_killed() {
    const RINGS: Duration = Duration::from_millis(5000);
    let dir = tempfile::tempdir().unwrap();
    let ringing = dir.path().join("ringing.wav");
    write_music(&ringing);
    net::run(3, async |net| {
        let users = (1..=2).map(|n| (format!("u{n:04}"), format!("pu{n:04}"))).collect();
        let mut cluster = Cluster::at_with(&net, users, |config| config.media.ringback = Some(ringing.clone())).await;
        let (user, password) = &cluster.users[0];
        let mut a = Baresip::coding(PCMU, "", user, password, cluster.sip_of(2), 440);
        let (mut b, _media) = call::phone(&cluster, 1, 1).await;
        b.register().await.unwrap();
        a.begins_to_call(&cluster.users[1].0.clone());
        let (answered, ()) = tokio::join!(
            async {
                let ringing = b.ring(RINGS).await?;
                b.pick_up(&ringing).await
            },
            async {
                tokio::time::sleep(RINGS / 2).await;
                cluster.kill(2);
            }
        );
        answered.unwrap();
        a.wait_for("CALL_ESTABLISHED");
        // What is heard then is the phone, which says nothing.
        tokio::time::sleep(Duration::from_millis(1000)).await;
        let (ended, ()) = tokio::join!(b.wait_for_bye(), async { a.hang_up() });
        ended.unwrap();
        a.wait_for("CALL_CLOSED");
        // The next owner describes it again, and the phone begins another recording.
        let heard: Vec<_> = a.recordings().iter().map(|file| tone::heard(file, MUSIC)).collect();
        let counts: Vec<_> = heard.iter().map(|heard| heard.iter().filter(|heard| **heard).count()).collect();
        let [before, after] = counts[..] else { panic!("{heard:?}") };
        assert!(before >= 15 && after >= 10, "{heard:?}");
        assert!(before + after + MISSING >= 50 && before + after <= 52, "{heard:?}");
    });
}

//! A phone that is on hold hears the music of the configuration, and a caller while it rings the ringing tone; both again when the owner is killed.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tandem::config::Codec;
use tandem::media::core::codec::g711::Law;
use tandem::media::core::sound::{Lane, MOST_SAMPLES, Quality, Sound};
use tokio::net::UdpSocket;

use crate::lab::baresip::Baresip;
use crate::lab::cluster::Cluster;
use crate::lab::{call, net, tone};

const PCMU: &str = "PCMU/8000/1";
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

/// What a phone has heard: of each packet its source, its time, and its sound at 8 kHz.
type Packet = (u32, u32, Vec<i16>);

/// Hears all that comes in a codec; ends with the talk.
async fn hear(media: UdpSocket, codec: Codec, heard: Arc<Mutex<Vec<Packet>>>) {
    let mut lane = (codec != Codec::Pcmu).then(|| Lane::new(codec, Codec::Pcmu, Quality::default()).unwrap());
    let (mut buffer, mut octets) = ([0; 2000], [0; MOST_SAMPLES]);
    while let Ok(length) = media.recv(&mut buffer).await {
        let word = |at: usize| u32::from_be_bytes(buffer[at..at + 4].try_into().unwrap());
        let payload = &buffer[12..length];
        let law = match lane.as_mut().map(|lane| lane.make(Sound::Heard(payload), &mut octets)) {
            Some(made) => &octets[..made.unwrap().length],
            None => payload,
        };
        let mut samples = vec![0; law.len()];
        Law::Mu.decode(law, &mut samples);
        heard.lock().unwrap().push((word(8), word(4), samples));
    }
}

/// The first phone, a baresip, holds; node 2 owns the call and is killed meanwhile. The other is built in: a baresip records no more after a hold.
fn music_goes_on(codec: Codec, number: u8) {
    let dir = tempfile::tempdir().unwrap();
    let music = dir.path().join("music.wav");
    write_music(&music);
    net::run(3, async |net| {
        let users = (1..=2).map(|n| (format!("u{n:04}"), format!("pu{n:04}"))).collect();
        let mut cluster = Cluster::at_with(&net, users, |config| config.media.hold_music = Some(music.clone())).await;
        let (user, password) = &cluster.users[0];
        let mut a = Baresip::coding(PCMU, "", user, password, cluster.sip_of(2), 440);
        let (mut b, media) = call::phone(&cluster, 1, 1).await;
        b.speaks(number, codec.name());
        b.register().await.unwrap();
        a.begins_to_call(&cluster.users[1].0.clone());
        b.answer().await.unwrap();
        let heard = Arc::<Mutex<Vec<Packet>>>::default();
        let hears = tokio::spawn(hear(media, codec, heard.clone()));
        let some_time = Duration::from_millis(2500);
        b.stay(some_time).await.unwrap();
        let talks = b.sdp();
        a.holds();
        b.describes(format!("{talks}a=recvonly\r\n"));
        b.stay(some_time).await.unwrap();
        cluster.kill(2);
        b.stay(some_time).await.unwrap();
        a.goes_on();
        b.describes(talks);
        b.stay(some_time).await.unwrap();
        assert!(!a.saw("CALL_CLOSED"));
        let (ended, ()) = tokio::join!(b.wait_for_bye(), async { a.hang_up() });
        ended.unwrap();
        hears.abort();
        let heard = heard.lock().unwrap();
        let sound: Vec<i16> = heard.iter().flat_map(|packet| packet.2.iter().copied()).collect();
        let [talk, music] = [TALK, MUSIC].map(|hz| tone::heard_of(&sound, 8000, hz));
        let count = |heard: &[bool]| heard.iter().filter(|heard| **heard).count();
        let (first, last) = (music.iter().position(|heard| *heard), music.iter().rposition(|heard| *heard));
        let (first, last) = first.zip(last).unwrap_or_else(|| panic!("no music: {talk:?}"));
        assert!(count(&music) + MISSING >= 50 && count(&music) <= 53, "{music:?}");
        assert!(count(&talk[..first]) >= 15 && count(&talk[last..]) >= 15, "{talk:?}");
        // Both owners have a source of their own, and its times go on from those before.
        let turns: Vec<_> = heard.windows(2).filter(|pair| pair[0].0 != pair[1].0).collect();
        assert_eq!(turns.len(), 3, "{:x?}", turns.iter().map(|pair| (pair[0].0, pair[1].0)).collect::<Vec<_>>());
        for pair in &turns[..2] {
            let later = pair[1].1.wrapping_sub(pair[0].1);
            assert!((1..3 * codec.clock()).contains(&later), "{later}");
        }
        assert_eq!(turns[0][0].0, turns[2][1].0, "the holder is back");
    });
}

#[test]
fn a_phone_on_hold_hears_music_again_when_the_owner_is_killed() {
    music_goes_on(Codec::Pcmu, 0);
}

/// Made of the same file.
#[test]
fn a_phone_with_opus_on_hold_hears_music_again_when_the_owner_is_killed() {
    music_goes_on(Codec::Opus, 99);
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

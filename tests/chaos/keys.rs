//! Keys of a telephone reach each phone as it knows them: as events (RFC 4733), in its sound, by INFO.

use std::time::Duration;

use tandem::cli::demo::phone::Phone;
use tandem::media::core::codec::g711::Law;
use tandem::media::core::dtmf::{Detector, Heard, Key, Tone};
use tandem::sip::Method;
use tokio::net::UdpSocket;
use tokio::time::{interval, timeout};

use crate::lab::baresip::Baresip;
use crate::lab::call;
use crate::lab::cluster::{Cluster, PATIENCE};
use crate::lab::until;

const FRAME: usize = 160;

/// A phone that knows no events, and what it says: frames of 20 ms.
struct Plain {
    media: UdpSocket,
    relay: std::net::SocketAddr,
    sequence: u16,
}

impl Plain {
    /// Says each frame when it is due, and gives the keys that it hears meanwhile.
    async fn talks(&mut self, frames: impl IntoIterator<Item = [i16; FRAME]>) -> String {
        let (mut detector, mut keys) = (Detector::default(), String::new());
        let mut due = interval(Duration::from_millis(20));
        let mut buffer = [0; 999];
        for frame in frames {
            let mut packet = vec![0x80, 0];
            packet.extend(self.sequence.to_be_bytes());
            packet.extend((u32::from(self.sequence) * 160).to_be_bytes());
            packet.extend([9; 4]);
            let mut octets = [0; FRAME];
            Law::Mu.encode(&frame, &mut octets);
            packet.extend(octets);
            self.sequence = self.sequence.wrapping_add(1);
            due.tick().await;
            self.media.send_to(&packet, self.relay).await.unwrap();
            while let Ok(length) = self.media.try_recv(&mut buffer) {
                assert_eq!(buffer[1] & 0x7f, 0, "it knows nothing else");
                let mut samples = [0; 999];
                let count = Law::Mu.decode(&buffer[12..length], &mut samples);
                detector.hear(&samples[..count], |heard| {
                    if let Heard::Down(key) = heard {
                        keys.push_str(&key.to_string())
                    }
                });
            }
        }
        keys
    }
}

fn tone(key: char) -> impl Iterator<Item = [i16; FRAME]> {
    let mut tone = Tone::new(Key::of(key).unwrap(), 8000, 10);
    let silence = std::iter::repeat_n([0; FRAME], 10);
    let sound = std::iter::repeat_with(move || {
        let mut frame = [0; FRAME];
        tone.fill(&mut frame);
        frame
    });
    sound.take(5).chain(silence)
}

fn silence(frames: usize) -> impl Iterator<Item = [i16; FRAME]> {
    std::iter::repeat_n([0; FRAME], frames)
}

async fn info(phone: &mut Phone, key: char) {
    let body = format!("Signal={key}\r\nDuration=100\r\n");
    let told = phone.ask_within_with(Method::Info, "Content-Type: application/dtmf-relay\r\n", &body).await.unwrap();
    assert_eq!(told.status.code(), 200);
}

/// baresip knows events; the built-in phone knows none, and goes on hearing and being heard by the next owner.
#[tokio::test(flavor = "multi_thread")]
async fn keys_reach_a_phone_as_it_knows_them() {
    let mut cluster = Cluster::start(2);
    let (user, password) = &cluster.users[1];
    let mut there = Baresip::start(user, password, cluster.sip_of(1), 440);
    let (mut here, media) = call::phone(&cluster, 0, 2).await;
    let relay = here.call(&cluster.users[1].0).await.unwrap();
    let mut plain = Plain { media, relay, sequence: 1 };
    for dies in [false, true] {
        if dies {
            cluster.kill(2);
            until("another owns it", PATIENCE, || async {
                cluster.api(1).get("/v1/calls").await.unwrap()["calls"][0]["owner"] != 2
            })
            .await;
        }
        there.forget();
        plain.talks(silence(20)).await;
        // In its sound, and by INFO.
        plain.talks(tone('7')).await;
        let (told, _) = tokio::join!(timeout(PATIENCE, info(&mut here, '#')), plain.talks(silence(50)));
        told.unwrap();
        there.wait_for("CALL_DTMF_END");
        let keys = there.log();
        let times = |key: char| keys.matches(&format!("received event: '{key}' (end=1)")).count();
        assert_eq!(['7', '#'].map(times), [1 + usize::from(dies); 2], "{keys}");
        // The other way: events become sound.
        there.sends_keys("4");
        let heard = plain.talks(silence(60)).await;
        assert_eq!(heard, "4");
    }
    here.hang_up().await.unwrap();
}

//! Music toward phones on hold.

use super::*;
use crate::media::core::formats::Codec;
use crate::media::core::player::{GIVES_WAY, Music, Tune};

const MUSIC: Music = Music { tune: Tune::HoldMusic, codec: Codec::Pcma, payload: 8, offset: None };

/// A second, whose frames are each another, coded.
fn sounds() -> Sounds {
    let spec = hound::WavSpec { channels: 1, sample_rate: 16_000, bits_per_sample: 16, sample_format: hound::SampleFormat::Int };
    let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
    let mut writer = hound::WavWriter::create(&path, spec).unwrap();
    (0..16_000).for_each(|at| writer.write_sample(i16::try_from(at / 320 * 300 - 7000).unwrap()).unwrap());
    writer.finalize().unwrap();
    let sounds = Sounds::load(Some(&path), None, Quality::default()).unwrap();
    wait_until(|| sounds.of(Tune::HoldMusic).is_some());
    sounds
}

fn world() -> World {
    let (relay, events) = Relay::start(1, None, 46, Quality::default(), sounds()).unwrap();
    World { relay, events, counters: Arc::default(), fence: Fence::open() }
}

impl World {
    fn hears(&self, leg: LegId, port: u16, remote: &UdpSocket, shield: Shield, music: Option<Music>) {
        let plan = LegPlan { music, shield, ..plan(port, remote.local_addr().ok()) };
        self.relay.apply(CALL, leg, vec![Some(Want { plan, sockets: None })], self.counters.clone(), self.fence.clone());
    }
}

/// Payload type with the marker, sequence number, source, and the first octet of what is in it.
type Heard = (u8, u16, u32, u8);

fn heard(phone: &UdpSocket) -> Heard {
    let mut buffer = [0; 999];
    let length = phone.recv(&mut buffer).unwrap();
    assert_eq!(length, 172);
    let source = u32::from_be_bytes(buffer[8..12].try_into().unwrap());
    (buffer[1], u16::from_be_bytes([buffer[2], buffer[3]]), source, buffer[100])
}

fn said(sequence: u16) -> Vec<u8> {
    let mut packet = vec![0x80, 8];
    packet.extend(sequence.to_be_bytes());
    packet.extend([0; 4]);
    packet.extend([7; 4]);
    packet.extend([0xd5; 160]);
    packet
}

#[test]
fn a_phone_on_hold_hears_music_until_the_other_is_back() {
    let world = world();
    let (alice, bob) = (phone(), phone());
    world.hears(LegId::CALLER, 21_860, &alice, Shield::Plain, None);
    world.hears(LegId::CALLEE, 21_862, &bob, Shield::Plain, None);
    wait_until(|| world.relay.open_sockets() == 4);
    alice.send_to(&said(1), local(21_860)).unwrap();
    assert_eq!(heard(&bob).2, 0x0707_0707);
    // It holds: the other hears music, by a source of its own, each 20 ms.
    world.hears(LegId::CALLEE, 21_862, &bob, Shield::Plain, Some(MUSIC));
    let began = clock::uptime();
    let music: Vec<_> = (0..60).map(|_| heard(&bob)).collect();
    let took = clock::uptime().since(began);
    assert!(took >= Duration::from_millis(1170), "{took:?}");
    let (first, source) = (music[0].1, music[0].2);
    assert!(source != 0x0707_0707 && music[0].0 == 0x88 && first < 0x8000);
    for (at, heard) in music.iter().enumerate().skip(1) {
        assert_eq!((heard.0, heard.1, heard.2), (8, first + u16::try_from(at).unwrap(), source));
        assert_ne!(heard.3, music[at - 1].3, "a frame after the other");
    }
    // It is of a second; who is late leaves frames out.
    assert!(music[50..].iter().any(|late| music[..15].iter().any(|early| early.3 == late.3)), "over and over");
    // The other has something to say all the same.
    let (mut longest, mut sent) = (Duration::ZERO, clock::uptime());
    for number in 2..30 {
        alice.send_to(&said(number), local(21_860)).unwrap();
        std::thread::sleep(Duration::from_millis(10));
        let now = clock::uptime();
        (longest, sent) = (longest.max(now.since(sent)), now);
    }
    let mut spoken = Vec::new();
    while spoken.last().is_none_or(|heard: &Heard| heard.1 != 29 || heard.2 != 0x0707_0707) {
        spoken.push(heard(&bob));
    }
    let of_music = spoken.iter().filter(|heard| heard.2 == source).count();
    // Those that were on their way, and those that a gap of ours made room for.
    let most = 3 + usize::try_from(longest.as_millis() / 20).unwrap();
    assert!(of_music <= most, "{of_music}");
    let paused = clock::uptime();
    let next = heard(&bob);
    assert!(clock::uptime().since(paused) + Duration::from_millis(25) > GIVES_WAY);
    assert_eq!((next.0, next.1, next.2), (0x88, first + 60 + u16::try_from(of_music).unwrap(), source));
    // The hold ends, and nothing else is heard; the next one goes on by the same source.
    world.hears(LegId::CALLEE, 21_862, &bob, Shield::Plain, None);
    alice.send_to(&said(30), local(21_860)).unwrap();
    let mut last = next.1;
    loop {
        match heard(&bob) {
            (_, number, 0x0707_0707, _) => break assert_eq!(number, 30),
            (_, number, _, _) => last = number,
        }
    }
    bob.set_nonblocking(true).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    while let Ok(length) = bob.recv(&mut [0; 999]) {
        assert_eq!(length, 172);
        last += 1;
    }
    bob.set_nonblocking(false).unwrap();
    world.hears(LegId::CALLEE, 21_862, &bob, Shield::Plain, Some(MUSIC));
    let again = heard(&bob);
    assert!(again.2 == source && (1..=2).contains(&(again.1 - last)), "{again:?} after {last}");
    world.relay.close(CALL);
    wait_until(|| world.relay.open_sockets() == 0);
}

/// Who stands by says nothing; when the call is its, it plays by a source that the former owner has not had, and the phone can open that.
#[test]
fn whoever_takes_the_call_over_plays_on_by_another_source() {
    let key = |secret: &[u8]| MasterKey::of_secret(Suite::AesCm128HmacSha1_80, secret);
    let (theirs, ours) = (key(b"bob's"), key(b"ours"));
    let bob = phone();
    let mut hears = Context::new(&ours);
    let (mut sources, mut places) = (Vec::new(), Vec::new());
    for owner in 0..2 {
        let mut world = world();
        let fence = Fence::default();
        world.fence = fence.clone();
        let port = 21_870 + 10 * owner;
        let keys = Keys {
            theirs: theirs.clone(),
            ours: ours.clone(),
            marks: Default::default(),
            since: clock::now(),
            restored: owner > 0,
        };
        world.hears(LegId::CALLER, port, &phone(), Shield::Plain, None);
        world.hears(LegId::CALLEE, port + 2, &bob, Shield::Srtp(Box::new(keys)), Some(MUSIC));
        wait_until(|| world.relay.open_sockets() == 4);
        bob.set_read_timeout(Some(Duration::from_millis(400))).unwrap();
        assert!(bob.recv(&mut [0; 9]).is_err(), "it stands by");
        bob.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        fence.pass(crate::fence::Pass::Open);
        let mut buffer = [0; 999];
        for _ in 0..20 {
            let length = bob.recv(&mut buffer).unwrap();
            let wall = clock::now();
            let opened = hears.unprotect(&mut buffer[..length]).unwrap();
            assert_eq!(opened, 172);
            sources.push(buffer[8..12].to_vec());
            places.push((wall.0 / 20, buffer[100]));
        }
    }
    sources.dedup();
    assert_eq!(sources.len(), 2);
    // Each moment of the wall clock has its frame, whoever plays: to two frames.
    let sounds = sounds();
    let coded: Vec<u8> = (0..50).map(|number| sounds.of(Tune::HoldMusic).unwrap().frame(Codec::Pcma, number)[88]).collect();
    for (moment, octet) in places {
        assert!((moment - 2..=moment + 1).any(|near| coded[usize::try_from(near % 50).unwrap()] == octet), "{moment} {octet}");
    }
}

use super::super::sound::Quality;
use super::*;

const MUSIC: Music = Music { tune: Tune::HoldMusic, codec: Codec::Pcma, payload: 8, offset: None };

/// Each of its frames is another.
fn melody(frames: usize) -> Melody {
    let samples: Vec<i16> = (0..frames * 320).map(|at| i16::try_from(at / 320 * 37 % 100 * 160).unwrap() - 8000).collect();
    Melody::new(&samples, Quality::default()).unwrap()
}

fn ms(ms: u64) -> Uptime {
    Uptime(7_000_000 + ms * 1000)
}

fn player() -> Player {
    Player::new(Source { ssrc: 0x0102_0304, sequence: 0xffff })
}

/// Of the first moment.
const FIRST: u32 = u32::MAX - 100;

/// After so many milliseconds.
fn ticked(ms: u32) -> u32 {
    FIRST.wrapping_add(8 * ms)
}

/// Marker and payload type, sequence number, timestamp, payload.
type Packet = (u8, u16, u32, Vec<u8>);

fn wake(player: &mut Player, now: Uptime, melody: &Melody) -> Vec<Packet> {
    let (mut buffer, mut heard) = ([0; 2000], Vec::new());
    player.wake(now, melody, &mut buffer, |buffer, length| {
        assert_eq!((buffer[0], &buffer[8..12]), (0x80, &[1, 2, 3, 4][..]));
        let time = u32::from_be_bytes(buffer[4..8].try_into().unwrap());
        let sequence = u16::from_be_bytes([buffer[2], buffer[3]]);
        heard.push((buffer[1], sequence, time, buffer[HEADER..length].to_vec()));
    });
    heard
}

/// As a shell does, to the millisecond.
fn run(player: &mut Player, from: u64, until: u64, melody: &Melody) -> Vec<Packet> {
    (from..until).flat_map(|at| wake(player, ms(at), melody)).collect()
}

#[test]
fn it_plays_a_packet_each_twenty_milliseconds_over_and_over() {
    let (mut player, melody) = (player(), melody(7));
    assert_eq!(player.due(), None);
    player.set(Some(MUSIC), ms(1), Timestamp(1_000_001), Some(FIRST));
    assert_eq!(player.due(), Some(ms(220)), "whoever is silent may have something to say yet");
    let heard = run(&mut player, 1, 520, &melody);
    assert_eq!(heard.len(), 15);
    for (at, (kind, sequence, time, payload)) in heard.iter().enumerate() {
        assert_eq!(*kind, if at == 0 { 0x88 } else { 8 });
        assert_eq!(*sequence, 0x7fff + u16::try_from(at).unwrap(), "in the lower half");
        assert_eq!(*time, ticked(220 + 20 * u32::try_from(at).unwrap()));
        assert_eq!(payload, melody.frame(Codec::Pcma, (1_000_220 / 20) + at as u64));
    }
    player.set(Some(Music { offset: Some(7), ..MUSIC }), ms(520), Timestamp(0), None);
    assert_eq!(run(&mut player, 520, 560, &melody).len(), 2, "that is no news");
    player.set(None, ms(560), Timestamp(0), None);
    assert_eq!((player.due(), run(&mut player, 560, 999, &melody).len()), (None, 0));
}

#[test]
fn the_other_phone_is_heard_alone_while_it_speaks_and_numbers_go_on() {
    let (mut player, melody) = (player(), melody(100));
    player.set(Some(MUSIC), ms(0), Timestamp(0), Some(FIRST));
    assert_eq!(run(&mut player, 0, 300, &melody).len(), 5);
    // A packet each 20 ms.
    for at in 300..600 {
        if at % 20 == 5 {
            player.give_way();
        }
        assert!(at < 320 || wake(&mut player, ms(at), &melody).is_empty(), "{at}");
    }
    let heard = run(&mut player, 600, 1000, &melody);
    let (kind, sequence, time, payload) = &heard[0];
    // It speaks until 585, is noticed at 600 at the latest, and 200 ms later it is over.
    assert_eq!((*kind, *sequence), (0x88, 0x7fff + 5));
    let frames = 200 / 20 - heard.len() as u64 + (1000 - 200) / 20;
    assert_eq!(*time, ticked(20 * u32::try_from(frames).unwrap()), "as much as was silent");
    assert_eq!(payload, melody.frame(Codec::Pcma, frames), "and where the music is by then");
}

#[test]
fn who_wakes_up_late_goes_on_where_the_music_is() {
    let (mut player, melody) = (player(), melody(100));
    player.set(Some(MUSIC), ms(0), Timestamp(0), Some(FIRST));
    assert_eq!(wake(&mut player, ms(200), &melody).len(), 1);
    assert_eq!(wake(&mut player, ms(265), &melody).len(), 3, "a little late");
    let heard = wake(&mut player, ms(50_001), &melody);
    assert_eq!(heard.len(), 1);
    assert_eq!((heard[0].1, heard[0].2), (0x7fff + 4, ticked(50_000)));
    assert_eq!(heard[0].3, melody.frame(Codec::Pcma, 2500));
    assert_eq!(player.due(), Some(ms(50_020)));
}

/// The next owner has another source, and the same wall clock.
#[test]
fn a_next_owner_plays_on_from_where_it_would_be() {
    let melody = melody(100);
    let mut before = player();
    before.set(Some(MUSIC), ms(0), Timestamp(5_000_000), Some(FIRST));
    let offset = MUSIC.offset(Timestamp(5_000_000), FIRST);
    let heard = run(&mut before, 0, 1000, &melody);
    let mut after = player();
    // Its machine started at another time.
    let begins = MUSIC.time(Timestamp(5_000_400), offset);
    assert_eq!(begins, ticked(400));
    after.set(Some(MUSIC), Uptime(123_456_789), Timestamp(5_000_400), Some(begins));
    let mut next = Vec::new();
    for at in 0..400 {
        next.extend(wake(&mut after, Uptime(123_456_789 + at * 1000), &melody));
    }
    let place = heard.iter().position(|packet| packet.3 == next[0].3).unwrap();
    // 5,000,600 is 400 ms after the first; to a frame.
    assert!((20..=22).contains(&place), "{place}");
    assert!(heard[place..].iter().zip(&next).all(|(a, b)| a.3 == b.3));
    assert!(next[0].2.wrapping_sub(ticked(580)) <= 40 * 8, "and its times go on");
}

#[test]
fn another_codec_has_another_clock() {
    let (mut player, melody) = (player(), melody(10));
    player.set(Some(Music { codec: Codec::Opus, payload: 111, ..MUSIC }), ms(0), Timestamp(0), None);
    let heard = run(&mut player, 0, 300, &melody);
    assert_eq!((heard[0].0, heard[1].0), (0x80 | 111, 111));
    assert_eq!(heard[1].2.wrapping_sub(heard[0].2), 960);
}

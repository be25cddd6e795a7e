use std::convert::Infallible;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::ids::CallId;
use crate::media::core::recording::segment::Kinds;
use crate::media::core::recording::{About, Segment};

const BEGIN: u64 = 1_000_000;

/// 20 ms of a µ-law square wave of 8000 / `period` Hz.
fn said(side: u8, number: u16, period: usize, at: u64) -> Said {
    let mut packet = vec![0x80, 0];
    packet.extend(number.to_be_bytes());
    packet.extend((u32::from(number) * 160).to_be_bytes());
    packet.extend([side; 4]);
    packet.extend((0..160).map(|n| if n % period < period / 2 { 0x90 } else { 0x10 }));
    Said { side, at: Timestamp(BEGIN + at), packet: Bytes::from(packet) }
}

fn formats(more: &[(u8, Option<Codec>)]) -> Arc<[Kinds; 2]> {
    let mut all = vec![(0, Some(Codec::Pcmu)), (101, None)];
    all.extend(more);
    Arc::new([all.clone(), all])
}

fn chunk(life: &str, said: Vec<Said>) -> Chunk {
    let about = About { call: CallId(1), created: Timestamp(BEGIN), caller: "a".into(), callee: "b".into() };
    Chunk { about: about.into(), life: life.into(), formats: formats(&[]), said }
}

/// Both tracks, and what is missing.
fn compose(parts: Vec<Vec<Chunk>>) -> ([Vec<i16>; 2], Vec<Gap>, u64) {
    let mut composition = Composition::new(Timestamp(BEGIN), rate_of(&parts[0]));
    let mut sound: Vec<i16> = Vec::new();
    let mut write = |samples: &[i16]| {
        sound.extend(samples);
        Ok::<_, Infallible>(())
    };
    for part in parts {
        composition.hear(part, &mut write).unwrap();
    }
    let (gaps, unheard) = composition.end(&mut write).unwrap();
    let track = |side: usize| sound.iter().skip(side).step_by(2).copied().collect();
    ([track(0), track(1)], gaps, unheard)
}

/// How often a track changes its sign in a second, between these milliseconds.
fn pitch(track: &[i16], ms: std::ops::Range<usize>) -> usize {
    let part = &track[ms.start * 8..ms.end * 8];
    part.windows(2).filter(|pair| (pair[0] < 0) != (pair[1] < 0)).count() * 500 / (ms.end - ms.start)
}

#[test]
fn each_side_has_its_channel() {
    let both = |n: u16| [said(0, n, 16, u64::from(n) * 20), said(1, 500 + n, 8, u64::from(n) * 20 + 7)];
    let ([caller, callee], gaps, unheard) = compose(vec![vec![chunk("a", (0..50).flat_map(both).collect())]]);
    assert_eq!((caller.len(), callee.len(), gaps.len(), unheard), (8000 + 56, 8000 + 56, 0, 0));
    assert!((490..=510).contains(&pitch(&caller, 0..1000)), "{}", pitch(&caller, 0..1000));
    assert!((990..=1010).contains(&pitch(&callee, 10..1000)), "{}", pitch(&callee, 10..1000));
    assert!(callee[..56].iter().all(|sample| *sample == 0));
}

/// Whatever is said twice, late or in another order is heard once, at its place.
#[test]
fn nothing_is_heard_twice_or_elsewhere() {
    let all: Vec<_> = (0..400).map(|n| said(0, n, 16, u64::from(n) * 20)).collect();
    let plain = compose(vec![vec![chunk("a", all.clone())]]);
    let mut shuffled = all.clone();
    shuffled.iter_mut().enumerate().for_each(|(n, said)| said.at.0 += (n as u64 * 7919) % 50);
    // The first says where all are.
    shuffled[0].at = all[0].at;
    let (first, second) = shuffled.split_at(210);
    let parts = vec![
        vec![chunk("a", first.to_vec()), chunk("a", first[100..].to_vec())],
        vec![chunk("a", first[150..].to_vec())],
        vec![chunk("a", second.to_vec())],
    ];
    let parts = parts.into_iter().map(|part| Segment::decode(&Segment::new(part).encode()).unwrap().chunks).collect();
    let (tracks, gaps, _) = compose(parts);
    assert_eq!((tracks[0].len(), gaps), (plain.0[0].len(), Vec::new()));
    assert!(tracks == plain.0);
}

/// The next owner's clock is another: the phone's times say where its packets are.
#[test]
fn what_a_takeover_has_cost_is_marked_to_the_packet() {
    let by = |life: &str, numbers: std::ops::Range<u16>, late: u64| {
        let both = |n: u16| [said(0, n, 16, u64::from(n) * 20 + late), said(1, n, 8, u64::from(n) * 20 + late + 3)];
        chunk(life, numbers.flat_map(both).collect())
    };
    let ([caller, callee], gaps, _) = compose(vec![vec![by("1-n1", 0..100, 0)], vec![by("2-n2", 105..200, 700)]]);
    assert_eq!((caller.len(), callee.len()), (200 * 160 + 24, 200 * 160 + 24));
    let gap = |side: u8, from| Gap { side, from, until: from + 100, why: Why::Takeover };
    assert_eq!(gaps, [gap(0, 2000), gap(1, 2003)]);
    assert!(caller[16_000..16_800].iter().all(|sample| *sample == 0));
    assert!((490..=510).contains(&pitch(&caller, 2100..4000)));
    assert!((990..=1010).contains(&pitch(&callee, 2110..4000)));
    // Who loses nothing at all is marked too.
    let (_, gaps, _) = compose(vec![vec![by("1-n1", 0..100, 0)], vec![by("2-n2", 100..120, 40)]]);
    assert_eq!(gaps.iter().map(|gap| gap.until - gap.from).collect::<Vec<_>>(), [0, 0]);
}

#[test]
fn a_few_lost_packets_are_made_up_and_more_are_missing() {
    let without = |lost: std::ops::Range<u16>| {
        let all = (0..100).filter(|n| !lost.contains(n)).map(|n| said(0, n, 16, u64::from(n) * 20));
        compose(vec![vec![chunk("a", all.collect())]])
    };
    let (tracks, gaps, _) = without(50..52);
    assert!(gaps.is_empty() && pitch(&tracks[0], 1000..1040) > 300, "{gaps:?} {}", pitch(&tracks[0], 1000..1040));
    let (tracks, gaps, _) = without(50..80);
    assert_eq!(gaps, [Gap { side: 0, from: 1000, until: 1600, why: Why::Missing }]);
    assert_eq!(pitch(&tracks[0], 1001..1600), 0);
    assert_eq!(tracks[0].len(), 16_000);
}

/// A source that begins anew, or jumps, is where its packets came; an hour of silence costs no memory.
#[test]
fn who_jumps_is_where_he_came() {
    let mut all: Vec<_> = (0..50).map(|n| said(0, n, 16, u64::from(n) * 20)).collect();
    all.extend((0..50).map(|n| said(0, 30_000 + n, 16, 3_600_000 + u64::from(n) * 20)));
    let (tracks, _, _) = compose(vec![vec![chunk("a", all)]]);
    assert_eq!(tracks[0].len(), (3_600_000 + 1000) * 8);
    assert!((490..=510).contains(&pitch(&tracks[0], 3_600_000..3_601_000)));
    assert_eq!(pitch(&tracks[0], 1001..3_600_000), 0);
}

/// A phone whose clock stands still for a moment lags behind from then on; a key is no gap; and a pause may be as long as numbers need to come round.
#[test]
fn what_lags_is_whole_and_what_is_no_sound_is_no_gap() {
    let mut all: Vec<_> = (0..100).map(|n| said(0, n, 16, u64::from(n) * 20)).collect();
    all.extend((100..2000).map(|n| said(0, n, 16, u64::from(n) * 20 + 1500)));
    let (tracks, gaps, _) = compose(vec![vec![chunk("a", all)]]);
    assert_eq!((tracks[0].len(), gaps), (2000 * 160, Vec::new()));
    assert!((490..=510).contains(&pitch(&tracks[0], 0..40_000)));
    let key = |n: u16| {
        let mut said = said(0, n, 16, u64::from(n) * 20);
        said.packet = Bytes::from([&[0x80, 101], &said.packet[2..16]].concat());
        said
    };
    let all = (0..100).map(|n| if (40..55).contains(&n) { key(n) } else { said(0, n, 16, u64::from(n) * 20) });
    let (tracks, gaps, unheard) = compose(vec![vec![chunk("a", all.collect())]]);
    assert_eq!((tracks[0].len(), gaps, unheard), (16_000, Vec::new(), 0));
    let mut all: Vec<_> = (0..100).map(|n| said(0, n, 16, u64::from(n) * 20)).collect();
    all.extend((0..100).map(|n| said(0, 65_100_u16.wrapping_add(n), 16, 1_302_000 + u64::from(n) * 20)));
    let (tracks, ..) = compose(vec![vec![chunk("a", all)]]);
    assert!((490..=510).contains(&pitch(&tracks[0], 1_302_100..1_303_900)), "{}", tracks[0].len());
}

#[test]
fn what_nobody_understands_is_counted() {
    let mut strange = said(0, 5, 16, 100);
    strange.packet = Bytes::from([&[0x80, 18], &strange.packet[2..]].concat());
    let (tracks, _, unheard) = compose(vec![vec![chunk("a", vec![said(0, 4, 16, 80), strange])]]);
    assert_eq!((tracks[0].len(), unheard), ((80 + 20) * 8, 1));
}

proptest! {
    #[test]
    fn nothing_panics(
        packets in proptest::collection::vec((0..3_u8, 0..100_000_u64, proptest::collection::vec(any::<u8>(), 0..40)), 0..20),
    ) {
        let said = packets.into_iter().map(|(side, at, mut packet)| {
            if let Some(first) = packet.first_mut() {
                *first = 0x80;
            }
            Said { side, at: Timestamp(BEGIN + at), packet: packet.into() }
        });
        let mut chunk = chunk("a", said.collect());
        chunk.formats = formats(&[(1, Some(Codec::G722)), (2, Some(Codec::Opus))]);
        let (tracks, ..) = compose(vec![vec![chunk]]);
        prop_assert!(tracks[0].len() <= 200_000 * 16);
    }
}

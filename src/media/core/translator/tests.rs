use super::*;
use crate::media::core::codec::g711::Law;
use crate::media::core::dtmf::{Detector, Event, Heard, Key, Signal, Tone};
use crate::media::core::formats::Codec;

const SSRC: u32 = 0x1234_5678;

fn packet(payload_type: u8, sequence: u16, time: u32, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x80, payload_type];
    packet.extend(sequence.to_be_bytes());
    packet.extend(time.to_be_bytes());
    packet.extend(SSRC.to_be_bytes());
    packet.extend(payload);
    packet
}

fn rule(from: u8, to: u8, how: How) -> Rule {
    let clock = match how {
        How::Code(from, _) => Some(from.clock()),
        How::Pass | How::Listen(_) => Some(8000),
        How::Events(..) | How::Tone(..) => None,
    };
    Rule { from, to, how, clock }
}

/// Of what was sent: payload type, number, time, payload.
fn parts(packet: &[u8]) -> (u8, u16, u32, &[u8]) {
    let word = |at: usize| u32::from_be_bytes(packet[at..at + 4].try_into().unwrap());
    assert_eq!(word(8), SSRC);
    (packet[1] & 0x7f, u16::from_be_bytes([packet[2], packet[3]]), word(4), &packet[12..])
}

struct World {
    translator: Translator,
    now: Uptime,
    sent: Vec<Vec<u8>>,
}

impl World {
    fn new(rules: &[Rule]) -> Self {
        Self { translator: Translator::new(rules, Quality::default()), now: Uptime::default(), sent: Vec::new() }
    }

    fn hear(&mut self, packet: &[u8]) -> bool {
        self.translator.hear(packet, self.now, |packet| self.sent.push(packet.to_vec()))
    }

    fn pass(&mut self, ms: u64) {
        self.now = self.now + Duration::from_millis(ms);
        self.translator.wake(self.now, |packet| self.sent.push(packet.to_vec()));
    }

    fn numbers(&self) -> Vec<u16> {
        self.sent.iter().map(|packet| parts(packet).1).collect()
    }
}

const PCMU_PCMA: Rule = Rule { from: 0, to: 8, how: How::Code(Codec::Pcmu, Codec::Pcma), clock: Some(8000) };

#[test]
fn a_packet_is_made_over_with_its_own_number_and_time() {
    let mut world = World::new(&[PCMU_PCMA, rule(101, 96, How::Pass)]);
    for number in 0..5_u16 {
        let sequence = number.wrapping_sub(2);
        assert!(world.hear(&packet(0, sequence, u32::from(number) * 160, &[0xff; 160])));
        let (payload_type, sent, time, payload) = parts(world.sent.last().unwrap());
        assert_eq!((payload_type, sent, time, payload), (8, sequence, u32::from(number) * 160, &[0xd5; 160][..]));
    }
    assert!(world.hear(&packet(101, 3, 640, &[1, 2, 3, 4])));
    assert_eq!(parts(world.sent.last().unwrap()), (96, 3, 640, &[1, 2, 3, 4][..]));
    assert!(!world.hear(&packet(13, 4, 640, &[1])) && !world.hear(&[0x80; 11]) && !world.hear(&[]));
}

#[test]
fn order_is_restored_and_nothing_is_said_twice() {
    let mut world = World::new(&[PCMU_PCMA]);
    for number in [10_u16, 12, 11, 11, 13, 9, 16, 15, 14] {
        world.hear(&packet(0, number, u32::from(number) * 160, &[0xff; 160]));
    }
    assert_eq!(world.numbers(), [10, 11, 12, 13, 14, 15, 16]);
    assert_eq!(world.translator.due(), None);
}

#[test]
fn what_is_lost_is_made_up_in_time() {
    let mut world = World::new(&[PCMU_PCMA]);
    for number in [1_u16, 2, 5, 6] {
        world.hear(&packet(0, number, u32::from(number) * 160, &[0x90; 160]));
    }
    world.pass(39);
    assert_eq!(world.numbers(), [1, 2]);
    world.pass(1);
    assert_eq!(world.numbers(), [1, 2, 3, 4, 5, 6]);
    let (_, _, time, made) = parts(&world.sent[2]);
    assert!(time == 480 && made.len() == 160 && made.iter().all(|octet| *octet != 0xd5));
    // Too late.
    assert!(!world.hear(&packet(0, 3, 480, &[0x90; 160])));
    // A pause isn't made up.
    world.sent.clear();
    world.hear(&packet(0, 9, 99_999, &[0x90; 160]));
    world.pass(40);
    assert_eq!(world.numbers(), [9]);
    // More than can be made up, and another beginning.
    world.hear(&packet(0, 100, 200_000, &[0x90; 160]));
    world.hear(&packet(0, 40_000, 1, &[0x90; 160]));
    assert_eq!(world.numbers(), [9, 100, 40_000]);
}

/// RFC 3550 §7.2: times are by the clock of what is sent; 48 kHz wraps in a day, and 8 kHz goes on.
#[test]
fn times_go_by_the_other_clock() {
    let mut world = World::new(&[rule(0, 111, How::Code(Codec::Pcmu, Codec::Opus)), rule(101, 110, How::Events(8000, 48_000))]);
    let begin = u32::MAX / 6 - 200;
    for number in 0..4_u16 {
        world.hear(&packet(0, number, begin + u32::from(number) * 160, &[0xff; 160]));
    }
    let times: Vec<_> = world.sent.iter().map(|packet| parts(packet).2).collect();
    assert!(times.windows(2).all(|pair| pair[1].wrapping_sub(pair[0]) == 960), "{times:?}");
    world.hear(&packet(101, 4, begin + 640, &[5, 0x8a, 3, 0x20]));
    assert_eq!(parts(&world.sent[4]), (110, 4, (begin + 640).wrapping_mul(6), &[5, 0x8a, 0x12, 0xc0][..]));

    let opus: Vec<_> = world.sent[..4].iter().map(|packet| parts(packet).3.to_vec()).collect();
    let mut world = World::new(&[rule(111, 0, How::Code(Codec::Opus, Codec::Pcmu))]);
    let begin = u32::MAX - 1000;
    for (number, payload) in (0..4_u16).zip(&opus) {
        world.hear(&packet(111, number, begin.wrapping_add(u32::from(number) * 960), payload));
    }
    let times: Vec<_> = world.sent.iter().map(|packet| parts(packet).2).collect();
    assert!(times.windows(2).all(|pair| pair[1].wrapping_sub(pair[0]) == 160), "{times:?}");
    assert!(world.sent.iter().all(|packet| parts(packet).3.len() == 160));
}

/// Packets of 30 ms aren't Opus's: 20 ms and 40 ms in turn, by as many packets.
#[test]
fn what_opus_has_no_frames_for_waits_for_the_next() {
    let mut world = World::new(&[rule(0, 111, How::Code(Codec::Pcmu, Codec::Opus))]);
    for number in 0..4_u16 {
        world.hear(&packet(0, number, u32::from(number) * 240, &[0xff; 240]));
    }
    let times: Vec<_> = world.sent.iter().map(|packet| parts(packet).2).collect();
    assert_eq!((world.numbers(), times), (vec![0, 1, 2, 3], vec![0, 960, 2880, 3840]));
}

/// Each to each: a tone is the same tone behind it, before and after a loss, and whoever takes the call over in between.
#[test]
fn a_tone_comes_through_whatever_it_is_made_into() {
    let key = Key::of('7').unwrap();
    for from in [Codec::Pcmu, Codec::Pcma, Codec::G722, Codec::Opus] {
        for to in [Codec::Pcmu, Codec::Pcma, Codec::G722, Codec::Opus] {
            if from == to {
                continue;
            }
            let [mut there, mut here, mut back] = [(Codec::Pcmu, from), (from, to), (to, Codec::Pcmu)].map(|(from, to)| {
                let how = if from == to { How::Pass } else { How::Code(from, to) };
                World::new(&[rule(0, 0, how)])
            });
            let (mut tone, mut detector, mut heard) = (Tone::new(key, 8000, 10), Detector::default(), Vec::new());
            for number in 0..50_u16 {
                let (mut samples, mut octets) = ([0; 160], [0; 160]);
                tone.fill(&mut samples);
                Law::Mu.encode(&samples, &mut octets);
                there.hear(&packet(0, number, u32::from(number) * 160, &octets));
                if number == 30 {
                    // Another owner.
                    here.translator = World::new(&[rule(0, 0, How::Code(from, to))]).translator;
                }
                there.sent.drain(..).filter(|_| number % 10 != 9).for_each(|packet| assert!(here.hear(&packet)));
                here.sent.drain(..).for_each(|packet| assert!(back.hear(&packet)));
                for world in [&mut there, &mut here, &mut back] {
                    world.pass(20);
                }
            }
            assert!(back.sent.len() >= 44, "{from:?} {to:?}: {}", back.sent.len());
            let mut last = None;
            for packet in &back.sent {
                let (_, number, _, payload) = parts(packet);
                assert!(last.is_none_or(|last| number > last), "{from:?} {to:?}");
                last = Some(number);
                let mut samples = [0; 160];
                Law::Mu.decode(payload, &mut samples);
                detector.hear(&samples, |event| heard.push(event));
            }
            let others =
                heard.iter().filter(|heard| !matches!(heard, Heard::Down(down) | Heard::Up(down, _) if *down == key)).count();
            assert!(!heard.is_empty() && others == 0 && heard.len() < 12, "{from:?} {to:?}: {heard:?}");
        }
    }
}

/// Each to each: an event becomes sound, sound an event, and both are told to whoever gets INFO.
#[test]
fn keys_come_through_in_every_form() {
    let mut there = World::new(&[rule(0, 0, How::Listen(Law::Mu)), rule(101, 0, How::Tone(8000, Law::Mu))]);
    let mut here = World::new(&[rule(0, 8, How::Code(Codec::Pcmu, Codec::Pcma))]);
    here.translator = here.translator.with_events(96, 8000);
    let mut sequence = 0;
    let mut say = |there: &mut World, payload_type, time, payload: &[u8]| {
        assert!(there.hear(&packet(payload_type, sequence, time, payload)));
        sequence += 1;
    };
    for at in 0..60_u16 {
        match at {
            10..20 => say(
                &mut there,
                101,
                1600,
                &Event { event: 7, end: at > 16, volume: 10, duration: (at.min(17) - 9) * 160 }.write(),
            ),
            _ => say(&mut there, 0, u32::from(at) * 160, &[0xff; 160]),
        }
    }
    assert_eq!(there.translator.pressed(), Some(Signal { key: Key::of('7').unwrap(), duration: Duration::from_millis(160) }));
    assert_eq!(there.translator.pressed(), None);
    for packet in &there.sent {
        assert!(parts(packet).0 == 0 && here.hear(packet));
        here.pass(20);
    }
    let signal = here.translator.pressed().unwrap();
    assert!(signal.key == Key::of('7').unwrap() && (140..180).contains(&signal.duration.as_millis()), "{signal:?}");
    let events: Vec<_> = here.sent.iter().map(|packet| parts(packet)).filter(|parts| parts.0 == 96).collect();
    let said: Vec<_> = events.iter().map(|event| Event::parse(event.3).unwrap()).collect();
    assert!(said.iter().all(|event| event.event == 7) && said.iter().filter(|event| event.end).count() == 3, "{said:?}");
    assert!(events.windows(2).all(|pair| pair[0].2 == pair[1].2 && pair[0].1 < pair[1].1));
    assert!((1100..1500).contains(&said.last().unwrap().duration), "{said:?}");
    // By INFO.
    assert!(here.translator.press(Signal::parse(b"Signal=#\r\nDuration=100").unwrap(), (96, 8000)));
    here.sent.clear();
    for at in 60..80_u32 {
        here.hear(&packet(0, sequence, at * 160, &[0xff; 160]));
        sequence += 1;
    }
    let said: Vec<_> = here
        .sent
        .iter()
        .map(|packet| parts(packet))
        .filter(|parts| parts.0 == 96)
        .map(|parts| Event::parse(parts.3).unwrap())
        .collect();
    assert_eq!(said.iter().map(|event| event.duration).collect::<Vec<_>>(), [160, 320, 480, 640, 800, 800, 800]);
    assert_eq!(here.sent.len(), 20);
}

/// A key of a phone that says it by INFO alone: it takes the place of sound that passes, by whatever clock, and then all is as before.
#[test]
fn a_key_takes_the_place_of_sound_that_passes() {
    let opus = Rule { clock: Some(48_000), ..rule(111, 111, How::Pass) };
    let coded = rule(111, 0, How::Code(Codec::Opus, Codec::Pcmu));
    for (sound, clock, out) in [(opus, 8000, 48_000), (opus, 48_000, 48_000), (coded, 8000, 8000)] {
        let mut world = World::new(&[sound]);
        let signal = Signal { key: Key::of('5').unwrap(), duration: Duration::from_millis(80) };
        let silence = [0xf8, 0xff, 0xfe];
        for at in 0..12_u16 {
            if at == 3 {
                assert!(world.translator.press(signal, (101, clock)));
            }
            assert!(world.hear(&packet(111, at, u32::from(at) * 960, &silence)));
        }
        assert!(world.translator.is_idle());
        let sent: Vec<_> = world.sent.iter().map(|packet| parts(packet)).collect();
        assert_eq!(sent.iter().map(|parts| parts.1).collect::<Vec<_>>(), (0..12).collect::<Vec<_>>());
        let of_key: Vec<_> = sent.iter().filter(|parts| parts.0 == 101).collect();
        // Four of 20 ms, the last of which ends it, and twice more.
        assert_eq!(of_key.iter().map(|parts| parts.1).collect::<Vec<_>>(), [3, 4, 5, 6, 7, 8]);
        assert!(of_key.iter().all(|parts| parts.2 == 3 * out / 50));
        let durations: Vec<_> = of_key.iter().map(|parts| u32::from(Event::parse(parts.3).unwrap().duration)).collect();
        assert_eq!(durations, [1, 2, 3, 4, 4, 4].map(|frames| frames * clock / 50));
    }
}

fn said(world: &World) -> Vec<u16> {
    world.sent.iter().map(|packet| parts(packet).1).collect()
}

fn say(world: &mut World, number: u16) -> bool {
    world.hear(&packet(0, number, u32::from(number) * 160, &[0x20; 160]))
}

/// With as many waiting as there may be, one of them comes once more.
#[test]
fn what_waits_is_not_said_twice() {
    let mut world = World::new(&[PCMU_PCMA]);
    (7..10).for_each(|number| assert!(say(&mut world, number)));
    let taken = [10, 12, 13, 14, 15, 16, 13, 17].map(|number| say(&mut world, number));
    assert_eq!(taken, [true, true, true, true, true, true, false, true]);
    world.pass(100);
    assert_eq!(said(&world), (7..18).collect::<Vec<_>>());
}

/// The same source, by numbers that were: not one of those that come late, but all from then on.
#[test]
fn a_source_may_begin_anew_behind_itself() {
    let mut world = World::new(&[PCMU_PCMA]);
    (500..510).for_each(|number| assert!(say(&mut world, number)));
    assert!(!say(&mut world, 499) && !say(&mut world, 505));
    let heard = (100..150).filter(|number| say(&mut world, *number)).count();
    assert_eq!((heard, said(&world).last()), (41, Some(&149)));
}

/// Some ways bring each packet twice.
#[test]
fn copies_are_no_source_that_begins_anew() {
    let mut world = World::new(&[PCMU_PCMA]);
    (0..60).for_each(|number| assert!(say(&mut world, number) && !say(&mut world, number)));
    assert_eq!(said(&world), (0..60).collect::<Vec<_>>());
}

/// Each second one is lost: each is made up.
#[test]
fn losses_with_one_packet_between_are_made_up() {
    let mut world = World::new(&[PCMU_PCMA]);
    (0..4).for_each(|number| assert!(say(&mut world, number)));
    for number in [5, 7, 9, 11] {
        say(&mut world, number);
        world.pass(20);
    }
    world.pass(100);
    assert_eq!(said(&world), (0..12).collect::<Vec<_>>());
}

/// What a former owner may have sent already is not sent again in other words.
#[test]
fn who_takes_over_begins_after_what_he_hears_first() {
    let mut world = World::new(&[PCMU_PCMA]);
    world.translator.pass_over(&packet(0, 7, 1120, &[0x20; 160]));
    assert!(!say(&mut world, 7) && say(&mut world, 8));
    assert_eq!(said(&world), [8]);
}

/// RFC 6716 §2.1.4: there is a packet of Opus as long as any of ours.
#[test]
fn long_packets_lose_nothing() {
    for ms in [40_u32, 60, 80, 100, 120] {
        let mut world = World::new(&[rule(0, 96, How::Code(Codec::Pcmu, Codec::Opus))]);
        let payload = vec![0x20; ms as usize * 8];
        for number in 0..6_u16 {
            assert!(world.hear(&packet(0, number, u32::from(number) * ms * 8, &payload)));
        }
        let times: Vec<_> = world.sent.iter().map(|packet| parts(packet).2).collect();
        assert_eq!(times, (0..6).map(|number| number * ms * 48).collect::<Vec<_>>(), "{ms} ms");
    }
}

/// Some phones go on with their sound while they say an event (baresip): the other hears the tone alone, in as many packets as there were of sound.
#[test]
fn sound_makes_way_for_a_tone() {
    for ends in [true, false] {
        let mut world = World::new(&[rule(0, 0, How::Pass), rule(101, 0, How::Tone(8000, Law::Mu))]);
        let mut detector = Detector::default();
        let (mut sequence, mut heard) = (0, Vec::new());
        let mut hear = |world: &mut World, kind: u8, time: u32, payload: &[u8]| {
            assert!(world.hear(&packet(kind, sequence, time, payload)));
            sequence += 1;
        };
        let noise = [0x10; 160];
        for at in 0..40_u16 {
            hear(&mut world, 0, u32::from(at) * 160, &noise);
            if (10..15).contains(&at) {
                let event = Event { event: 4, end: ends && at == 14, volume: 10, duration: (at - 9) * 160 };
                hear(&mut world, 101, 1600, &event.write());
            }
        }
        let sent = world.sent.iter().map(|packet| parts(packet));
        for (kind, _, _, payload) in sent.clone() {
            assert_eq!(kind, 0);
            let mut samples = [0; 999];
            let count = Law::Mu.decode(payload, &mut samples);
            detector.hear(&samples[..count], |key| {
                if let Heard::Down(key) = key {
                    heard.push(key)
                }
            });
        }
        assert_eq!(heard, [Key::of('4').unwrap()]);
        let is_noise = |payload: &[u8]| payload == noise;
        let made: Vec<_> = sent.clone().enumerate().filter(|(_, parts)| !is_noise(parts.3)).map(|(at, _)| at).collect();
        // Once the event is over, or nothing is heard of it any more, the sound is as before.
        assert_eq!((made[0], made.len()), (11, if ends { 5 } else { 16 }), "{made:?}");
        let times: Vec<_> = sent.map(|parts| parts.2).collect();
        assert!(times.windows(2).all(|pair| pair[0] <= pair[1]), "{times:?}");
    }
}

mod whatever_comes {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
        /// Numbers of a source are sent once, and grow; nothing panics.
        #[test]
        fn numbers_only_grow(packets in prop::collection::vec((0_u8..5, 0_u16..40, any::<u8>(), prop::collection::vec(any::<u8>(), 0..200), 0_u64..30), 1..60)) {
            let rules = [
                rule(0, 8, How::Code(Codec::Pcmu, Codec::Pcma)),
                rule(1, 0, How::Code(Codec::Opus, Codec::Pcmu)),
                rule(2, 9, How::Code(Codec::Opus, Codec::G722)),
                rule(3, 3, How::Events(48_000, 8000)),
                rule(4, 4, How::Code(Codec::G722, Codec::Opus)),
            ];
            let mut world = World::new(&rules);
            for (kind, sequence, flags, payload, ms) in packets {
                let mut packet = packet(kind, sequence, u32::from(sequence) * 160, &payload);
                if flags < 40 { packet[0] ^= flags; }
                world.hear(&packet);
                world.pass(ms);
            }
            world.pass(1000);
            prop_assert_eq!(world.translator.due(), None);
            let numbers: Vec<_> = world.sent.iter().filter(|packet| packet[8..12] == SSRC.to_be_bytes()).map(|packet| parts(packet).1).collect();
            prop_assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "{:?}", numbers);
        }
    }
}

/// RFC 3550 §7.2: the sender report of a stream goes by the clock that its sound goes by, also where that has wrapped.
#[test]
fn what_a_sender_says_of_time_is_true_of_what_is_made() {
    let sender = |time| Sender { ssrc: SSRC, ntp: 7, time, packets: 100, octets: 16_000 };
    for (from, to) in [(Codec::Opus, Codec::Pcmu), (Codec::Pcmu, Codec::Opus)] {
        let mut world = World::new(&[rule(0, 8, How::Code(from, to))]);
        let step = from.clock() / 50;
        let frame = if from == Codec::Opus { &[0xf8, 0xff, 0xfe][..] } else { &[0xff; 160] };
        let begin = u32::MAX - 5 * step;
        for number in 0..10_u16 {
            let time = begin.wrapping_add(u32::from(number) * step);
            assert!(world.hear(&packet(0, number, time, frame)));
            let said = world.translator.made_over(sender(time.wrapping_add(step)));
            let (.., made, sound) = parts(world.sent.last().unwrap());
            let ahead = said.time.wrapping_sub(made);
            // What was held back for the next frame may be more.
            assert!((to.clock() / 50..to.clock() / 25).contains(&ahead), "{ahead}");
            assert_eq!(said.ntp, 7);
            let per_packet = said.octets / 100;
            assert!(per_packet.abs_diff(u32::try_from(sound.len()).unwrap()) <= 40, "{per_packet}");
        }
        // Of another source nothing is known but its clock.
        let other = world.translator.made_over(Sender { ssrc: 1, ..sender(48_000) });
        assert_eq!(other.time, if from == Codec::Opus { 8000 } else { 288_000 });
    }
}

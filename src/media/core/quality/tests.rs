//! Streams as they come, and worse.

use std::time::Duration;

use proptest::prelude::*;

use super::super::rtcp::{Report, Said, Sender, Voip};
use super::*;
use crate::clock::Uptime;

/// A phone with PCMA, a packet each 20 ms.
struct Phone {
    meter: Meter,
    start: Uptime,
}

fn packet(payload: u8, sequence: u16, time: u32, ssrc: u32, sound: &[u8]) -> Vec<u8> {
    [&[0x80, payload], &sequence.to_be_bytes()[..], &time.to_be_bytes(), &ssrc.to_be_bytes(), sound].concat()
}

impl Phone {
    fn new() -> Self {
        Self { meter: Meter::default(), start: Uptime(77_000_000) }
    }

    /// The packet of this number, so many microseconds late.
    fn says(&mut self, number: u64, late: u64) -> &mut Self {
        let (sequence, time) = (u16::try_from(number % 65_536).unwrap(), u32::try_from(number * 160 % (1 << 32)).unwrap());
        let now = self.start + Duration::from_micros(number * 20_000 + late);
        self.meter.hear(&packet(8, sequence, time, 7, &[0x11; 160]), now);
        self
    }

    fn counts(&self) -> (u64, u64, u64) {
        let Figures { received, expected, gaps, .. } = *self.meter.figures();
        (received, expected, gaps)
    }
}

#[test]
fn what_is_missing_is_lost_and_what_comes_late_or_twice_is_not() {
    let mut phone = Phone::new();
    for number in [10, 11, 13, 12, 13, 14, 18, 19] {
        phone.says(number, 0);
    }
    // 15 to 17, in one row; and before that 12 for a moment.
    assert_eq!(phone.counts(), (7, 10, 2));
    // From before the first: it is expected as soon as it comes.
    let mut phone = Phone::new();
    phone.says(10, 0).says(9, 0).says(11, 0);
    assert_eq!(phone.counts(), (3, 3, 0));
}

#[test]
fn numbers_wrap() {
    let mut phone = Phone::new();
    for number in (65_500..200_000).filter(|number| number % 100 != 0) {
        phone.says(number, 0);
    }
    // The first and the last hundred are not whole.
    assert_eq!(phone.counts(), (133_155, 134_499, 1344));
    assert_eq!(phone.meter.figures().jitter_most, 0);
}

#[test]
fn who_begins_anew_has_lost_nothing() {
    let mut phone = Phone::new();
    for number in (0..10).chain(30_000..30_010) {
        phone.says(number, 0);
    }
    assert_eq!(phone.counts(), (19 + 1, 20, 0), "the first of the new ones was taken for a stray one until the second came");
    // A stray one costs nothing.
    phone.says(50_000, 0).says(30_010, 0).says(30_011, 0);
    assert_eq!(phone.counts(), (22, 22, 0));
    // Nobody was heard for a while.
    phone.meter.forget();
    phone.says(50_100, 0);
    assert_eq!(phone.counts(), (23, 23, 0));
    // Another source.
    let now = phone.start + Duration::from_secs(700);
    for number in 0..5 {
        phone.meter.hear(&packet(8, number, 0, 99, &[1; 160]), now);
    }
    assert_eq!(phone.counts(), (28, 28, 0));
}

/// RFC 3550 A.8: what differs by 4 ms from packet to packet, always, comes to 4 ms.
#[test]
fn jitter_is_what_the_formula_says() {
    let mut phone = Phone::new();
    for number in 0..500 {
        phone.says(number, number % 2 * 4000);
    }
    let figures = *phone.meter.figures();
    assert!((3800..=4000).contains(&figures.jitter), "{figures:?}");
    assert!(figures.jitter_ms().unwrap() > 3.5 && figures.jitter_most <= 4000);
    // A pause is none, nor is sound by another clock, nor are the packets of a key, which are all of one time.
    let hearing = [Format::named(96, "opus/48000/2", None), Format::events(8000, 101)];
    let mut known = Hearing::default();
    known.knows(&hearing);
    let mut meter = Meter::default();
    meter.set(&known);
    let mut now = Uptime(5_000_000);
    for number in 0..200_u16 {
        now = now + Duration::from_millis(if number == 100 { 5000 } else { 20 });
        let time = u32::try_from(now.0 / 1000 * 48).unwrap();
        meter.hear(&packet(96, number * 2, time, 7, &[0; 40]), now);
        meter.hear(&packet(101, number * 2 + 1, 5, 7, &[1, 0, 0, 160]), now);
    }
    let figures = meter.figures();
    assert_eq!((figures.coding, figures.jitter_most, figures.lost()), (Coding::Opus, 0, 0));
}

fn report(fraction: u8, jitter: u32, last: u32, delay: u32) -> Said {
    Said::Hears(Report { ssrc: 9, fraction, jitter, last, delay })
}

/// RFC 3550 §6.4.1's own example of a round trip: 6.125 s, of which 5.25 were the phone's.
#[test]
fn the_way_there_and_back_is_what_was_not_the_phones() {
    let mut phone = Phone::new();
    phone.says(0, 0);
    let sent = Uptime(100_000_000);
    for (ntp, at) in [(1, 0), (0xb705_2000, 0), (2, 5)] {
        phone.meter.passes(Sender { ssrc: 9, ntp, time: 0, packets: 0, octets: 0 }, sent + Duration::from_secs(at));
    }
    let now = sent + Duration::from_millis(6125);
    phone.meter.told(report(64, 80, 0xb705_2000, 5 * 65_536 + 65_536 / 4), now);
    // Of nobody's report, of one that never was, and of one that it can't have had for so long.
    for (last, delay) in [(0, 0), (77, 0), (2, 65_536 * 9)] {
        phone.meter.told(report(0, 0, last, delay), now);
    }
    let figures = *phone.meter.figures();
    assert_eq!((figures.trip, figures.trips, figures.trip_ms()), (875_000, 1, Some(875.0)));
    assert_eq!((figures.far_loss(), figures.far_jitter_ms()), (Some(0.0625), Some(2.5)));
    phone.meter.told(Said::Sounds(Voip { trip: 42, mos: Some(41) }), now);
    phone.meter.told(Said::Sounds(Voip { trip: 0, mos: None }), now);
    assert_eq!((phone.meter.figures().far_mos, phone.meter.figures().far_trip_ms), (41, 42));
}

#[test]
fn digital_silence_is_said_once() {
    let mut meter = Meter::default();
    let mut number = 0_u16;
    let mut says = |octet: u8, seconds: u16| {
        let news = (0..seconds * 50).filter(|_| {
            number += 1;
            let time = u32::from(number) * 160;
            meter.hear(&packet(8, number, time, 7, &[octet; 160]), Uptime(u64::from(number) * 20_000))
        });
        let news = news.count();
        (news, meter.figures().silent, meter.figures().is_silent)
    };
    assert_eq!(says(0xd5, 9), (0, 0, 0));
    assert_eq!(says(0xd5, 30), (1, 1, 1));
    assert_eq!(says(0x11, 2), (0, 1, 0));
    assert_eq!(says(0xd5, 30), (1, 2, 1));
}

#[test]
fn who_is_missed_is_said_once() {
    let mut meter = Meter::default();
    let mut misses = |is_missed, second: u32| meter.miss(is_missed, Uptime(u64::from(second) * 1_000_000));
    assert_eq!([1, 10, 11, 12].map(|second| misses(true, second)), [false, false, true, false]);
    assert_eq!([false, true, true].map(|is| misses(is, 30)), [false; 3]);
    assert_eq!((meter.figures().missed, meter.figures().is_missed), (1, 0));
}

#[test]
fn figures_of_several_owners_are_added_up() {
    let mut halves = [Phone::new(), Phone::new()];
    let mut whole = Phone::new();
    for number in (0..1000).filter(|number| number % 7 != 0) {
        halves[usize::from(number >= 500)].says(number, number % 2 * 2000);
        whole.says(number, number % 2 * 2000);
    }
    let both = halves[0].meter.figures().and_then(halves[1].meter.figures());
    let whole = *whole.meter.figures();
    // What was lost between them nobody has missed.
    assert_eq!((both.received, both.expected), (whole.received, whole.expected));
    assert!((both.jitter_ms().unwrap() - whole.jitter_ms().unwrap()).abs() < 0.2);
    assert_eq!(Figures::of(both.numbers()), both);
    assert_eq!(whole.and_then(&Figures::default()), whole);
    assert!((whole.loss() - 1.0 / 7.0).abs() < 0.002, "{}", whole.loss());
    let mos = whole.mos().unwrap();
    assert!((2.5..3.5).contains(&mos), "{mos}");
}

#[test]
fn names_are_read_as_they_were_written() {
    for coding in Coding::ALL {
        assert_eq!(Coding::named(coding.name()), coding);
        assert_eq!(Figures::of(Figures { coding, ..Figures::default() }.numbers()).coding, coding);
    }
    assert_eq!(Coding::named("nonsense"), Coding::Other);
}

proptest! {
    /// Nothing is heard more often than it should be, whatever comes.
    #[test]
    fn nothing_that_comes_hurts(steps in prop::collection::vec((0..4_u8, any::<u16>(), any::<u32>(), 0..50_000_u64), 0..200)) {
        let mut meter = Meter::default();
        let mut now = Uptime(1_000_000_000);
        let mut number = 65_000_u16;
        for (kind, noise, time, later) in steps {
            now = now + Duration::from_micros(later);
            number = match kind {
                0 => noise,
                1 => number.wrapping_add(noise % 5).wrapping_sub(2),
                _ => number.wrapping_add(1),
            };
            meter.hear(&packet(u8::try_from(noise % 128).unwrap(), number, time, time % 2, &[0xd5; 9]), now);
            meter.told(report(kind, time, time, time), now);
            meter.passes(Sender { ssrc: 1, ntp: time, time, packets: 0, octets: 0 }, now);
            let figures = meter.figures();
            prop_assert!(figures.received <= figures.expected, "{:?}", figures);
            prop_assert!(figures.mos().is_none_or(|mos| (1.0..=4.5).contains(&mos)));
            prop_assert!(figures.far_mos().is_none_or(|mos| (1.0..=4.5).contains(&mos)));
        }
    }

    /// What comes in another order, within what is remembered, is the same.
    #[test]
    fn order_does_not_matter(keys in prop::collection::vec(0..20_u64, 300), lost in prop::collection::hash_set(1..299_u64, 0..60)) {
        let mut order: Vec<u64> = (0..300).filter(|number| !lost.contains(number)).collect();
        let late = |number: &u64| number + keys[usize::try_from(*number).unwrap()];
        order.sort_by_key(late);
        let mut phone = Phone::new();
        for number in &order {
            phone.says(*number, 0);
        }
        let (received, expected, _) = phone.counts();
        let received_should = u64::try_from(order.len()).unwrap();
        prop_assert_eq!(received, received_should);
        // Those before the first that came count from when they come: a lost one among them is missed by nobody.
        prop_assert!(expected <= 300 && expected + 20 >= 300);
    }
}

//! What it costs to measure a packet: nanoseconds for one of sound that comes in its order, for its figures to be made known, and for a report.
//!
//! `cargo bench --bench quality`.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::cast_precision_loss, missing_docs, reason = "a bench")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use tandem::clock::Uptime;
use tandem::media::core::quality::{Hearing, Meter};
use tandem::media::core::rtcp;
use tandem::media::relay::Gauge;

const PACKETS: u32 = 5_000_000;

fn each(what: &str, mut packet: impl FnMut(u32)) {
    let mut best = f64::MAX;
    for _ in 0..5 {
        let begin = Instant::now();
        (0..PACKETS).for_each(&mut packet);
        best = best.min(begin.elapsed().as_secs_f64() * 1e9 / f64::from(PACKETS));
    }
    println!("{what:<40} {best:>6.1} ns");
}

fn main() {
    let mut meter = Meter::default();
    meter.set(&Hearing { measures: true, ..Hearing::default() });
    let mut now = Uptime(1_000_000_000);
    let mut packet = [0x11; 172];
    (packet[0], packet[1]) = (0x80, 8);
    let mut next = 0_u32;
    let mut say = |packet: &mut [u8]| {
        next = next.wrapping_add(1);
        packet[2..4].copy_from_slice(&next.to_be_bytes()[2..]);
        packet[4..8].copy_from_slice(&next.wrapping_mul(160).to_be_bytes());
        now = now + Duration::from_micros(20_000 + u64::from(next % 7) * 100);
        now
    };
    each("a packet that nobody measures", |_| {
        black_box(say(black_box(&mut packet)));
    });
    each("a packet", |_| {
        let now = say(black_box(&mut packet));
        black_box(meter.hear(&packet, now));
    });
    let gauge = Gauge::default();
    each("a packet, and its figures made known", |_| {
        let now = say(black_box(&mut packet));
        black_box(meter.hear(&packet, now));
        gauge.publish_sound(meter.figures());
    });
    let words = [7, 1 << 16, 2, 3, 4, 5, 9, 64 << 24, 9, 80, 1, 2_u32];
    let report = [&[0x81, 200, 0, 12][..], &words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<_>>()].concat();
    each("a report", |_| rtcp::read(black_box(&report), |said| meter.told(said, now)));
}

//! What is measured of packets, and what reports say of those that are made over.

use super::*;
use crate::media::core::formats::{Codec, Format};
use crate::media::core::negotiation::{How, Rule};
use crate::media::core::quality::{Coding, Figures, Hearing, QUIET};

/// One whose legs are measured apart.
struct Measured {
    world: World,
    counters: [Arc<Counters>; 2],
    phones: [UdpSocket; 2],
    port: u16,
}

/// A packet of 20 ms.
fn said(payload: u8, sequence: u16, clock: u32, sound: &[u8]) -> Vec<u8> {
    let time = u32::from(sequence) * (clock / 50);
    [&[0x80, payload], &sequence.to_be_bytes()[..], &time.to_be_bytes(), &[7; 4], sound].concat()
}

/// A sender report of that source, and a block of a report of another's.
fn report(ntp: u32, time: u32, (jitter, last, delay): (u32, u32, u32)) -> Vec<u8> {
    let [high, low] = [ntp >> 16, ntp << 16];
    let words = [0x0707_0707, high, low, time, 50, 8000, 0x0909_0909, 64 << 24, 9, jitter, last, delay];
    [&[0x81, 200, 0, 12][..], &words.iter().flat_map(|word: &u32| word.to_be_bytes()).collect::<Vec<_>>()].concat()
}

impl Measured {
    fn new(port: u16, rules: [Vec<Rule>; 2], formats: &[Format]) -> Self {
        let measured = Self { world: World::new(None), counters: Default::default(), phones: [phone(), phone()], port };
        for (leg, rules) in rules.into_iter().enumerate() {
            measured.plan(leg, rules, formats);
        }
        wait_until(|| measured.world.relay.open_sockets() == 4);
        measured
    }

    fn plan(&self, leg: usize, rules: Vec<Rule>, formats: &[Format]) {
        let mut hearing = Hearing { measures: true, misses: true, ..Hearing::default() };
        hearing.knows(formats);
        let rules = Rules { rules, events: None };
        let plan = LegPlan { rules, hearing, ..plan(self.local(leg).port(), self.phones[leg].local_addr().ok()) };
        let wants = vec![Some(Want { plan, sockets: None })];
        let leg = [LegId::CALLER, LegId::CALLEE][leg];
        self.world.relay.apply(CALL, leg, wants, self.counters[usize::from(leg.0)].clone(), self.world.fence.clone());
    }

    fn local(&self, leg: usize) -> SocketAddr {
        local(self.port + u16::try_from(leg).unwrap() * 2)
    }

    fn sends(&self, leg: usize, packet: &[u8]) {
        self.phones[leg].send_to(packet, self.local(leg)).unwrap();
    }

    fn hears(&self, leg: usize) -> Vec<u8> {
        let mut buffer = [0; 999];
        let length = self.phones[leg].recv(&mut buffer).unwrap();
        buffer[..length].to_vec()
    }

    fn here(&self, leg: usize) -> Figures {
        self.counters[leg].gauge.here()
    }
}

#[test]
fn packets_are_counted_and_reports_are_read() {
    let call = Measured::new(21_900, [vec![], vec![]], &[]);
    for sequence in (0..100).filter(|sequence| sequence % 10 != 5) {
        call.sends(0, &said(8, sequence, 8000, &[0x11; 160]));
        call.hears(1);
    }
    call.sends(1, &said(8, 0, 8000, &[0x11; 160]));
    call.hears(0);
    wait_until(|| call.here(1).received == 1);
    let Figures { coding, received, expected, gaps, missed, .. } = call.here(0);
    assert_eq!((coding, received, expected, gaps, missed), (Coding::Pcma, 90, 100, 10, 0));
    // The caller's report goes to the callee, who says a while later that it has had it for 10 ms less.
    call.sends(0, &report(0x1234_5678, 1, (0, 0, 0)));
    assert_eq!(call.hears(1), report(0x1234_5678, 1, (0, 0, 0)), "nothing is made over");
    std::thread::sleep(Duration::from_millis(50));
    call.sends(1, &report(5, 1, (80, 0x1234_5678, 65_536 * 40 / 1000)));
    call.hears(0);
    wait_until(|| call.here(1).reports == 1);
    let there = call.here(1);
    assert_eq!((there.far_loss(), there.far_jitter_ms(), there.trips), (Some(0.25), Some(10.0), 1));
    let trip = there.trip_ms().unwrap();
    assert!((9.0..500.0).contains(&trip), "{trip}");
    // Whoever counts anew begins with nothing.
    let others = Measured { counters: Default::default(), ..call };
    others.plan(0, vec![], &[]);
    others.sends(0, &said(8, 100, 8000, &[0x11; 160]));
    others.hears(1);
    wait_until(|| others.here(0).received == 1);
}

/// Of PCMU and Opus: times by six, and jitter too; octets as many as are sent.
#[test]
fn reports_go_by_the_clock_of_the_sound_that_they_are_of() {
    let rules = [(0, 107, Codec::Pcmu, Codec::Opus), (107, 0, Codec::Opus, Codec::Pcmu)]
        .map(|(from, to, is, becomes)| vec![Rule { from, to, how: How::Code(is, becomes), clock: Some(is.clock()) }]);
    let call = Measured::new(21_910, rules, &[Format::of(Codec::Opus, 107)]);
    let word = |packet: &[u8], at: usize| u32::from_be_bytes(packet[at..at + 4].try_into().unwrap());
    let (mut sequence, mut last) = (0, 0);
    // It may be on its way to another thread.
    wait_until(|| {
        call.sends(0, &said(0, sequence, 8000, &[0x11; 160]));
        sequence += 1;
        let heard = call.hears(1);
        last = word(&heard, 4);
        sequence > 5 && heard[1] == 107
    });
    let time = u32::from(sequence - 1) * 160;
    call.sends(0, &report(9, time, (80, 0, 0)));
    let heard = call.hears(1);
    assert_eq!(word(&heard, 16).abs_diff(last), word(&heard, 16).wrapping_sub(last), "its sound is not ahead of it");
    assert_eq!((word(&heard, 16), word(&heard, 40)), (time * 6, 480));
    assert!(word(&heard, 24) < 8000, "Opus is shorter");
    // The other way, with a time that has wrapped in the source's clock.
    call.sends(1, &report(9, 48_000, (480, 9, 0)));
    let heard = call.hears(0);
    assert_eq!((word(&heard, 16), word(&heard, 40)), (8000, 80));
    wait_until(|| call.here(1).trips == 1);
}

/// Only one of two is heard: it is said once, and taken back when that has changed.
#[test]
fn one_way_audio_is_said() {
    let mut call = Measured::new(21_920, [vec![], vec![]], &[]);
    let begin = clock::uptime();
    let mut sequence = 0;
    let mut said_so = |call: &mut Measured| {
        call.sends(0, &said(8, sequence, 8000, &[0x11; 160]));
        sequence += 1;
        std::thread::sleep(Duration::from_millis(20));
        std::iter::from_fn(|| call.world.events.try_recv().ok()).find(|event| matches!(event, Event::Silent { .. }))
    };
    let event = loop {
        if let Some(event) = said_so(&mut call) {
            break event;
        }
        assert!(clock::uptime().since(begin) < QUIET * 2, "it is never said");
    };
    assert_eq!(event, Event::Silent { call: CALL, leg: LegId::CALLEE, sends: false });
    assert!(clock::uptime().since(begin) >= QUIET);
    assert_eq!([0, 1].map(|leg| (call.here(leg).missed, call.here(leg).is_missed)), [(0, 0), (1, 1)]);
    let begin = clock::uptime();
    while call.here(1).is_missed > 0 {
        call.sends(1, &said(8, 0, 8000, &[0x11; 160]));
        assert_eq!(said_so(&mut call), None);
        assert!(clock::uptime().since(begin) < QUIET, "it is never taken back");
    }
    assert_eq!(call.here(1).missed, 1);
}

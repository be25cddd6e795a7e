//! Packets that are made over on their way.

use super::*;
use crate::media::core::dtmf::{Key, Signal};
use crate::media::core::formats::Codec;
use crate::media::core::negotiation::{How, Rule};

const TO_A_LAW: Rule = Rule { from: 0, to: 8, how: How::Code(Codec::Pcmu, Codec::Pcma), clock: Some(8000) };

impl World {
    /// As [`World::leg`], and what comes from there is made over.
    fn coded(&self, leg: LegId, port: u16, remote: &UdpSocket, rules: &[Rule]) {
        let rules = Rules { rules: rules.to_vec(), events: None };
        let plan = LegPlan { rules, ..plan(port, remote.local_addr().ok()) };
        self.relay.apply(CALL, leg, vec![Some(Want { plan, sockets: None })], self.counters.clone(), self.fence.clone());
    }
}

/// 20 ms of it.
fn said(sequence: u16) -> Vec<u8> {
    let mut packet = vec![0x80, 0];
    packet.extend(sequence.to_be_bytes());
    packet.extend((u32::from(sequence) * 160).to_be_bytes());
    packet.extend([7; 4]);
    packet.extend([0xd5; 160]);
    packet
}

/// Payload type and sequence number of what a phone hears next.
fn heard(phone: &UdpSocket) -> (u8, u16) {
    let mut buffer = [0; 999];
    let length = phone.recv(&mut buffer).unwrap();
    assert_eq!(length, 172);
    (buffer[1], u16::from_be_bytes([buffer[2], buffer[3]]))
}

/// It goes to another thread, sockets and all, in the middle of the talk: one of them has a second socket by then.
#[test]
fn a_call_moves_to_where_packets_are_made_over_and_loses_none() {
    let world = World::new(None);
    let (alice, bob) = (phone(), phone());
    world.coded(LegId::CALLER, 21_700, &alice, &[]);
    world.coded(LegId::CALLEE, 21_702, &bob, &[]);
    wait_until(|| world.relay.open_sockets() == 4);
    let talk = |from: &UdpSocket, to: &UdpSocket, port, numbers: std::ops::Range<u16>| {
        for first in numbers.step_by(20) {
            let all = first..first + 20;
            all.clone().for_each(|number| {
                let _ = from.send_to(&said(number), local(port)).unwrap();
            });
            let heard: Vec<_> = all.clone().map(|_| heard(to)).collect();
            assert!(heard.iter().zip(all).all(|((_, heard), said)| *heard == said), "{heard:?}");
        }
    };
    talk(&alice, &bob, 21_700, 0..200);
    wait_until(|| world.relay.open_sockets() == 5);
    // Those that are on their way while it moves come out as they were or made over, and all in their order.
    (200..210).for_each(|number| {
        let _ = alice.send_to(&said(number), local(21_700)).unwrap();
    });
    world.coded(LegId::CALLER, 21_700, &alice, &[TO_A_LAW]);
    (210..220).for_each(|number| {
        let _ = alice.send_to(&said(number), local(21_700)).unwrap();
    });
    (200..220).for_each(|number| assert_eq!(heard(&bob).1, number));
    let mut number = 220;
    wait_until(|| {
        alice.send_to(&said(number), local(21_700)).unwrap();
        number += 1;
        heard(&bob).0 == 8
    });
    talk(&alice, &bob, 21_700, number..number + 100);
    // The other way nothing is made over.
    talk(&bob, &alice, 21_702, 0..60);
    assert_eq!(world.relay.open_ports(), 4);
    // It stays where it is.
    world.coded(LegId::CALLER, 21_700, &alice, &[]);
    world.relay.close(CALL);
    wait_until(|| world.relay.open_sockets() == 0);
    UdpSocket::bind(local(21_700)).unwrap();
}

#[test]
fn what_is_missing_is_made_up_when_it_is_late() {
    let world = World::new(None);
    let (alice, bob) = (phone(), phone());
    world.coded(LegId::CALLER, 21_720, &alice, &[TO_A_LAW]);
    world.coded(LegId::CALLEE, 21_722, &bob, &[]);
    wait_until(|| world.relay.open_sockets() == 4);
    for number in [1, 2, 3, 5] {
        alice.send_to(&said(number), local(21_720)).unwrap();
    }
    assert_eq!([(); 5].map(|()| heard(&bob)), [(8, 1), (8, 2), (8, 3), (8, 4), (8, 5)]);
    // Too late now, and no format of this call.
    for packet in [said(4), [&[0x80, 99], &said(6)[2..]].concat()] {
        alice.send_to(&packet, local(21_720)).unwrap();
    }
    wait_until(|| world.counters.dropped.load(Ordering::Relaxed) == 2);
}

/// Others are to be made over on the same thread.
#[test]
fn nobody_has_more_made_over_than_a_phone_can_say() {
    let world = World::new(None);
    let (alice, bob) = (phone(), phone());
    world.coded(LegId::CALLER, 21_740, &alice, &[TO_A_LAW]);
    world.coded(LegId::CALLEE, 21_742, &bob, &[]);
    wait_until(|| world.relay.open_sockets() == 4);
    let mut number = 0;
    wait_until(|| {
        for _ in 0..50 {
            alice.send_to(&said(number), local(21_740)).unwrap();
            number += 1;
        }
        world.counters.dropped.load(Ordering::Relaxed) > 0
    });
}

/// Sound that passes makes way for the key, and passes again.
#[test]
fn a_key_goes_to_the_other_phone_in_the_place_of_sound() {
    let world = World::new(None);
    let (alice, bob) = (phone(), phone());
    world.coded(LegId::CALLER, 21_760, &alice, &[]);
    world.coded(LegId::CALLEE, 21_762, &bob, &[]);
    wait_until(|| world.relay.open_sockets() == 4);
    alice.send_to(&said(0), local(21_760)).unwrap();
    assert_eq!(heard(&bob), (0, 0));
    let passes = Rule { how: How::Pass, to: 0, ..TO_A_LAW };
    let signal = Signal { key: Key::of('9').unwrap(), duration: Duration::from_millis(40) };
    world.relay.press(CALL, LegId::CALLER, 0, Rules { rules: vec![passes], events: Some((101, 8000)) }, signal);
    let (mut number, mut kinds) = (1, Vec::new());
    let mut buffer = [0; 999];
    // What comes before the key is pressed there passes; and what nobody has agreed on does as well, and takes nothing away.
    let strange = [&[0x80, 35], &said(0)[2..]].concat();
    for _ in 0..5 {
        alice.send_to(&strange, local(21_760)).unwrap();
        assert_eq!((bob.recv(&mut buffer).unwrap(), buffer[1]), (172, 35));
    }
    wait_until(|| {
        alice.send_to(&said(number), local(21_760)).unwrap();
        let length = bob.recv(&mut buffer).unwrap();
        assert_eq!(u16::from_be_bytes([buffer[2], buffer[3]]), number);
        number += 1;
        kinds.push((buffer[1] & 0x7f, length));
        kinds.iter().filter(|kind| kind.0 == 101).count() == 4 && kinds.last() == Some(&(0, 172))
    });
    assert!(kinds.iter().all(|kind| [(0, 172), (101, 16)].contains(kind)), "{kinds:?}");
}

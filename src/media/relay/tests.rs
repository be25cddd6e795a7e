//! Datagrams through real sockets.

mod coding;
mod music;
mod quality;

use super::*;
use std::io::IoSliceMut;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Instant;

use nix::sys::socket::sockopt::IpRecvTos;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, setsockopt};

use super::super::core::ice::{Agent, Credentials};
use super::super::core::quality::Hearing;
use super::super::core::srtp::{Context, MOST_ADDED, MasterKey, Suite};
use super::super::core::{Association, Dtls, Keyed, Keys, Secret, Shield};
use super::thread::TICK;
use crate::clock;
use crate::stun::{BINDING, FAILURE, Message, SUCCESS, USERNAME, Writer};

struct World {
    relay: Relay,
    events: mpsc::Receiver<Event>,
    counters: Arc<Counters>,
    fence: Fence,
}

const CALL: CallId = CallId(7);

fn phone() -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 8)), port)
}

/// A phone of which not more is known than where it may be.
fn plan(port: u16, remote: Option<SocketAddr>) -> LegPlan {
    LegPlan {
        recorded: false,
        local: local(port),
        remote: [remote, None],
        signalled: [None; 2],
        shield: Shield::Plain,
        dtls: None,
        rules: Rules::default(),
        music: None,
        is_other: false,
        hearing: Hearing::default(),
    }
}

impl World {
    fn new(timeout: Option<Duration>) -> Self {
        let (relay, events) = Relay::start(1, timeout, 46, Quality::default(), Sounds::default()).unwrap();
        Self { relay, events, counters: Arc::default(), fence: Fence::open() }
    }

    fn leg(&self, leg: LegId, port: u16, remote: Option<SocketAddr>) {
        let plan = plan(port, remote);
        self.relay.apply(CALL, leg, vec![Some(Want { plan, sockets: None })], self.counters.clone(), self.fence.clone());
    }

    fn latched(&mut self) -> (LegId, SocketAddr) {
        match self.events.blocking_recv().unwrap() {
            Event::Latched { leg, source, .. } => (leg, source),
            other @ (Event::CameTo { .. }
            | Event::Plays { .. }
            | Event::Dtls { .. }
            | Event::Silent { .. }
            | Event::Idle { .. }) => {
                panic!("{other:?}")
            }
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "a test waits on the real clock")]
fn wait_until(mut what: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !what() {
        assert!(Instant::now() < deadline, "it never came true");
        std::thread::yield_now();
    }
}

const RTP: [u8; 4] = [0x80, 8, 0, 1];

/// A datagram's length, where it is from, and how it is marked.
fn heard_marked(phone: &UdpSocket) -> (usize, SocketAddr, u8) {
    let (mut buffer, mut space) = ([0; 99], nix::cmsg_space!(u8));
    let mut slices = [IoSliceMut::new(&mut buffer)];
    let message = recvmsg::<SockaddrIn>(phone.as_raw_fd(), &mut slices, Some(&mut space), MsgFlags::empty()).unwrap();
    let tos =
        message.cmsgs().unwrap().find_map(|cmsg| if let ControlMessageOwned::Ipv4Tos(tos) = cmsg { Some(tos) } else { None });
    (message.bytes, SocketAddrV4::from(message.address.unwrap()).into(), tos.unwrap())
}

#[test]
fn packets_pass_and_the_peer_is_where_they_come_from() {
    let mut world = World::new(None);
    let (alice, bob) = (phone(), phone());
    // Bob's SDP names a private address; his packets come from elsewhere.
    world.leg(LegId::CALLER, 21_000, Some(alice.local_addr().unwrap()));
    world.leg(LegId::CALLEE, 21_002, Some("10.9.9.9:4".parse().unwrap()));
    wait_until(|| world.relay.open_sockets() == 4);
    bob.send_to(&RTP, local(21_002)).unwrap();
    let mut buffer = [0; 99];
    assert_eq!(alice.recv_from(&mut buffer).unwrap(), (4, local(21_000)));
    assert_eq!(world.latched(), (LegId::CALLEE, bob.local_addr().unwrap()));
    alice.send_to(&RTP, local(21_000)).unwrap();
    assert_eq!(bob.recv_from(&mut buffer).unwrap(), (4, local(21_002)));
    // A stranger can't take the stream over while Bob's packets come.
    let stranger = phone();
    bob.send_to(&RTP, local(21_002)).unwrap();
    stranger.send_to(&[0x80, 66], local(21_002)).unwrap();
    bob.send_to(&RTP, local(21_002)).unwrap();
    for _ in 0..2 {
        assert_eq!(alice.recv(&mut buffer).unwrap(), 4);
    }
    assert_eq!(world.counters.dropped.load(Ordering::Relaxed), 1);
    world.relay.close(CALL);
    wait_until(|| world.relay.open_sockets() == 0);
    UdpSocket::bind(local(21_000)).unwrap();
}

/// A fax (UDPTL, RFC 3362) where there was sound: it is found by its own datagrams, and not by what comes late of the sound.
#[test]
fn a_fax_is_where_its_datagrams_come_from() {
    let mut world = World::new(None);
    let (alice, bob, fax) = (phone(), phone(), phone());
    world.leg(LegId::CALLER, 21_010, alice.local_addr().ok());
    world.leg(LegId::CALLEE, 21_012, bob.local_addr().ok());
    let mut buffer = [0; 99];
    wait_until(|| world.relay.open_sockets() == 4);
    bob.send_to(&RTP, local(21_012)).unwrap();
    assert_eq!(alice.recv(&mut buffer).unwrap(), 4);
    let private = "10.9.9.9:4".parse().ok();
    let plan = LegPlan { is_other: true, ..plan(21_012, private) };
    world.relay.apply(CALL, LegId::CALLEE, vec![Some(Want { plan, sockets: None })], world.counters.clone(), world.fence.clone());
    bob.send_to(&RTP, local(21_012)).unwrap();
    wait_until(|| world.counters.dropped.load(Ordering::Relaxed) == 1);
    // Its sequence numbers begin at 0.
    for number in 0..3 {
        fax.send_to(&[0, number, 1, 6, 0, 0], local(21_012)).unwrap();
        assert_eq!((alice.recv(&mut buffer).unwrap(), buffer[1]), (6, number));
        bob.send_to(&RTP, local(21_012)).unwrap();
    }
    assert_eq!(world.latched(), (LegId::CALLEE, fax.local_addr().unwrap()));
    alice.send_to(&[0, 0, 1, 6, 0, 0], local(21_010)).unwrap();
    assert_eq!(fax.recv_from(&mut buffer).unwrap(), (6, local(21_012)), "alice's is still a phone's, whose peer is known");
}

/// A stream that a leg has no more, by name or by lack, is closed; one at another address is bound there, and the old one given up.
#[test]
fn what_a_leg_has_no_more_is_closed() {
    let world = World::new(None);
    let wants = |ports: &[Option<u16>]| {
        let wants = ports.iter().map(|port| port.map(|port| Want { plan: plan(port, None), sockets: None })).collect();
        world.relay.apply(CALL, LegId::CALLER, wants, world.counters.clone(), world.fence.clone());
    };
    for (ports, open) in [
        (vec![Some(21_500), Some(21_502), Some(21_504)], 6),
        (vec![Some(21_500), None, Some(21_504)], 4),
        (vec![Some(21_500)], 2),
        (vec![Some(21_504)], 2),
    ] {
        wants(&ports);
        wait_until(|| world.relay.open_sockets() == open);
    }
    wait_until(|| UdpSocket::bind(local(21_500)).is_ok());
    wait_until(|| UdpSocket::bind(local(21_504)).is_err());
}

/// Its port is connected, and another socket beside it hears who else there is.
#[test]
fn a_steady_peer_is_heard_wherever_it_goes() {
    let mut world = World::new(None);
    let (alice, bob) = (phone(), phone());
    world.leg(LegId::CALLER, 21_600, Some(alice.local_addr().unwrap()));
    world.leg(LegId::CALLEE, 21_602, Some(bob.local_addr().unwrap()));
    wait_until(|| world.relay.open_sockets() == 4);
    let mut buffer = [0; 99];
    let mut heard = |from: &UdpSocket, packet: &[u8]| {
        from.send_to(packet, local(21_602)).unwrap();
        alice.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..packet.len()], packet);
    };
    for number in 0..99 {
        heard(&bob, &[0x80, number]);
    }
    wait_until(|| world.relay.open_sockets() == 5);
    heard(&bob, &[0x80, 100]);
    setsockopt(&bob, IpRecvTos, &true).unwrap();
    alice.send_to(&RTP, local(21_600)).unwrap();
    assert_eq!(heard_marked(&bob), (4, local(21_602), 46 << 2));
    // Nobody else gets the port, and nobody else is heard: what he says comes by the other socket.
    assert!(UdpSocket::bind(local(21_602)).is_err());
    let stranger = phone();
    let dropped = || world.counters.dropped.load(Ordering::Relaxed);
    stranger.send_to(&[0x80, 66], local(21_602)).unwrap();
    wait_until(|| dropped() == 1);
    // A phone whose port is shut for a moment is sent to all the same.
    let port = bob.local_addr().unwrap();
    drop(bob);
    alice.send_to(&RTP, local(21_600)).unwrap();
    alice.send_to(&RTP, local(21_600)).unwrap();
    wait_until(|| world.counters.received.load(Ordering::Relaxed) >= 104);
    let bob = UdpSocket::bind(port).unwrap();
    bob.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    alice.send_to(&RTP, local(21_600)).unwrap();
    bob.recv(&mut [0; 9]).unwrap();
    // It is silent for long enough, and has another address then: the other socket hears it, and it is sent to there.
    let moved = phone();
    wait_until(|| {
        moved.send_to(&[0x80, 1], local(21_602)).unwrap();
        world.events.try_recv().is_ok_and(|event| matches!(event, Event::Latched { leg: LegId::CALLEE, .. }))
    });
    alice.send_to(&RTP, local(21_600)).unwrap();
    assert_eq!(moved.recv_from(&mut [0; 9]).unwrap(), (4, local(21_602)));
    world.relay.close(CALL);
    wait_until(|| world.relay.open_sockets() == 0);
    UdpSocket::bind(local(21_602)).unwrap();
}

/// A phone that protects its packets and one that doesn't; whoever takes the call over goes on where the packets are.
#[test]
fn who_has_the_key_is_the_peer() {
    let key = |secret: &[u8]| MasterKey::of_secret(Suite::AesCm128HmacSha1_80, secret);
    let (alices, ours) = (key(b"alice's"), key(b"ours"));
    let (alice, bob, stranger) = (phone(), phone(), phone());
    let wants = |world: &World, port: u16, marks: [Vec<Mark>; 2]| {
        let keys = Keys { theirs: alices.clone(), ours: ours.clone(), marks, since: clock::now(), restored: false };
        let shield = Shield::Srtp(Box::new(keys));
        let plan = LegPlan { shield, ..plan(port, None) };
        let streams = vec![Some(Want { plan, sockets: None })];
        world.relay.apply(CALL, LegId::CALLER, streams, world.counters.clone(), world.fence.clone());
        world.leg(LegId::CALLEE, port + 2, bob.local_addr().ok());
        wait_until(|| world.relay.open_sockets() == 4);
    };
    let rtp = |sequence: u16| [&[0x80, 0][..], &sequence.to_be_bytes(), &[0; 4], &[9; 4], b"sound"].concat();
    let mut sends = Context::new(&alices);
    let mut sealed = |sequence: u16| {
        let mut packet = rtp(sequence);
        packet.resize(17 + MOST_ADDED, 0);
        let length = sends.protect(&mut packet, 17).unwrap();
        packet.truncate(length);
        packet
    };
    let mut hears = Context::new(&ours);
    let mut exchange = |port: u16, sequence: u16, packet: &[u8]| {
        let mut buffer = [0; 99];
        alice.send_to(packet, local(port)).unwrap();
        let length = bob.recv(&mut buffer).unwrap();
        assert_eq!(buffer[..length], rtp(sequence));
        bob.send_to(&rtp(sequence), local(port + 2)).unwrap();
        let length = alice.recv(&mut buffer).unwrap();
        assert_ne!(buffer[12..17], *b"sound");
        let opened = hears.unprotect(&mut buffer[..length]).unwrap();
        assert_eq!(buffer[..opened], rtp(sequence));
    };
    let news = |world: &mut World| {
        let mut marks = [Vec::new(), Vec::new()];
        while marks.iter().any(Vec::is_empty) {
            if let Some(Event::CameTo { leg, ours: is_ours, key, mark, .. }) = world.events.blocking_recv() {
                assert_eq!((leg, key), (LegId::CALLER, if is_ours { ours.mark() } else { alices.mark() }));
                marks[usize::from(is_ours)].push(mark);
            }
        }
        marks
    };
    let mut world = World::new(None);
    wants(&world, 21_700, Default::default());
    // Whoever is first is not the peer if he can't sign; nor does what he says reach anybody.
    let mut forged = sealed(1);
    forged[13] ^= 1;
    for packet in [&forged[..], &rtp(1), &[0x80; 9], &[0; 40], &[]] {
        stranger.send_to(packet, local(21_700)).unwrap();
    }
    wait_until(|| world.counters.dropped.load(Ordering::Relaxed) == 5);
    let first = sealed(65_535);
    exchange(21_700, 65_535, &first);
    assert_eq!(news(&mut world).map(|marks| marks.iter().map(|mark| mark.index).collect::<Vec<_>>()), [[65_535]; 2]);
    // What is said again is not passed on again.
    alice.send_to(&first, local(21_700)).unwrap();
    wait_until(|| world.counters.dropped.load(Ordering::Relaxed) == 6);
    exchange(21_700, 0, &sealed(0));
    let marks = news(&mut world);
    assert_eq!(marks[0].last().map(|mark| mark.index), Some(65_536));
    drop(world);
    let world = World::new(None);
    wants(&world, 21_704, marks);
    exchange(21_704, 1, &sealed(1));
}

#[test]
fn nothing_passes_a_fence_that_is_shut() {
    let world = World::new(None);
    let (alice, bob) = (phone(), phone());
    world.leg(LegId::CALLER, 21_300, Some(alice.local_addr().unwrap()));
    world.leg(LegId::CALLEE, 21_302, Some(bob.local_addr().unwrap()));
    wait_until(|| world.relay.open_sockets() == 4);
    world.fence.pass(crate::fence::Pass::Lease);
    bob.send_to(&RTP, local(21_302)).unwrap();
    wait_until(|| world.counters.dropped.load(Ordering::Relaxed) == 1);
    world.fence.extend(clock::uptime() + Duration::from_secs(60));
    bob.send_to(&[0x80, 1], local(21_302)).unwrap();
    let mut buffer = [0; 9];
    assert_eq!((alice.recv(&mut buffer).unwrap(), buffer[1]), (2, 1), "the first never came");
}

#[test]
fn a_port_that_is_still_taken_is_bound_when_it_is_free() {
    let world = World::new(None);
    let former = Pair::bind(local(21_100)).unwrap();
    let alice = phone();
    world.leg(LegId::CALLER, 21_100, Some(alice.local_addr().unwrap()));
    world.leg(LegId::CALLEE, 21_102, None);
    wait_until(|| world.relay.open_sockets() == 2);
    drop(former);
    wait_until(|| world.relay.open_sockets() == 4);
    phone().send_to(&RTP, local(21_102)).unwrap();
    assert_eq!(alice.recv(&mut [0; 9]).unwrap(), 4);
}

#[test]
fn silence_is_not_told_of_what_stands_by() {
    let mut world = World::new(Some(TICK * 2));
    world.fence.pass(crate::fence::Pass::Shut);
    world.leg(LegId::CALLER, 21_400, None);
    let other = CallId(8);
    let plan = plan(21_402, None);
    let wants = vec![Some(Want { plan, sockets: None })];
    world.relay.apply(other, LegId::CALLER, wants, world.counters.clone(), Fence::open());
    for _ in 0..2 {
        assert_eq!(world.events.blocking_recv(), Some(Event::Idle { call: other }));
    }
    world.fence.pass(crate::fence::Pass::Open);
    let mut told = || (0..2).map(|_| world.events.blocking_recv()).collect::<Vec<_>>();
    assert!(told().contains(&Some(Event::Idle { call: CALL })));
}

#[test]
fn silence_is_told_until_somebody_acts() {
    let mut world = World::new(Some(Duration::from_millis(1)));
    world.leg(LegId::CALLER, 21_200, None);
    for _ in 0..2 {
        assert_eq!(world.events.blocking_recv(), Some(Event::Idle { call: CALL }));
    }
}

const SECRET: Secret = Secret { bytes: [7; 32], since: crate::clock::Timestamp(5), restored: false };

/// A browser's end.
fn web(port: u16, association: Association, shield: Shield) -> LegPlan {
    let agent = Agent { ours: [1, 0].map(|generation| Credentials::of(&SECRET, 0, 0, generation)), theirs: Some("them".into()) };
    let dtls = Dtls { secret: SECRET, association, agent: Some(agent) };
    LegPlan { shield, dtls: Some(Box::new(dtls)), ..plan(port, None) }
}

fn applied(world: &World, plan: LegPlan) {
    let streams = vec![Some(Want { plan, sockets: None })];
    world.relay.apply(CALL, LegId::CALLER, streams, world.counters.clone(), world.fence.clone());
}

/// A browser's check.
fn check(password: &str, nominates: bool) -> Vec<u8> {
    let begin = [&BINDING[..], &[0, 0], &hex::decode("2112a442b7e7a701bc34d686fa87dfae").unwrap()].concat();
    let mut buffer = [0; 200];
    let mut writer = Writer::answer(&mut buffer, BINDING, &Message::parse(&begin).unwrap());
    writer.attribute(USERNAME, format!("{}:them", Credentials::of(&SECRET, 0, 0, 1).ufrag).as_bytes());
    if nominates {
        writer.attribute(0x0025, &[]);
    }
    let length = writer.signed(password).fingerprinted().finish();
    buffer[..length].to_vec()
}

fn answered(phone: &UdpSocket) -> [u8; 2] {
    let mut buffer = [0; 200];
    let length = phone.recv(&mut buffer).unwrap();
    Message::parse(&buffer[..length]).unwrap().kind()
}

/// RFC 8445: who can't sign its checks is nobody, and the peer is where it says.
#[test]
fn a_browser_is_where_its_checks_come_from() {
    let mut world = World::new(None);
    let (here, there, bob, stranger) = (phone(), phone(), phone(), phone());
    // Its keys don't matter to this.
    applied(&world, web(21_800, Association::default(), Shield::Plain));
    world.leg(LegId::CALLEE, 21_802, bob.local_addr().ok());
    wait_until(|| world.relay.open_sockets() == 4);
    let password = Credentials::of(&SECRET, 0, 0, 1).password().to_owned();
    // Whoever comes first is heard only when he has shown who he is.
    let mut dropped = 0;
    let mut is_dropped = |world: &World, packet: &[u8]| {
        stranger.send_to(packet, local(21_800)).unwrap();
        dropped += 1;
        wait_until(|| world.counters.dropped.load(Ordering::Relaxed) == dropped);
    };
    is_dropped(&world, &RTP);
    is_dropped(&world, &[22, 254, 253, 0, 0]);
    stranger.send_to(&check("guessed", true), local(21_800)).unwrap();
    assert_eq!(answered(&stranger), FAILURE);
    is_dropped(&world, &RTP);
    here.send_to(&check(&password, false), local(21_800)).unwrap();
    assert_eq!((answered(&here), world.latched()), (SUCCESS, (LegId::CALLER, here.local_addr().unwrap())));
    let mut buffer = [0; 9];
    let mut passes = |from: &UdpSocket, to: &UdpSocket| {
        from.send_to(&RTP, local(21_800)).unwrap();
        assert_eq!(bob.recv(&mut buffer).unwrap(), 4);
        bob.send_to(&RTP, local(21_802)).unwrap();
        assert_eq!(to.recv(&mut buffer).unwrap(), 4);
    };
    passes(&here, &here);
    // It has two ways, and takes the other.
    there.send_to(&check(&password, false), local(21_800)).unwrap();
    assert_eq!(answered(&there), SUCCESS);
    passes(&there, &here);
    there.send_to(&check(&password, true), local(21_800)).unwrap();
    assert_eq!((answered(&there), world.latched()), (SUCCESS, (LegId::CALLER, there.local_addr().unwrap())));
    passes(&there, &there);
    passes(&here, &there);
    is_dropped(&world, &RTP);
    // Nothing is answered behind a fence that is shut.
    world.fence.pass(crate::fence::Pass::Lease);
    stranger.send_to(&check(&password, true), local(21_800)).unwrap();
    wait_until(|| world.counters.dropped.load(Ordering::Relaxed) == dropped + 1);
}

/// Until there are keys somebody has to hear it; then the last flight is there for who needs it, and for nobody else.
#[test]
fn a_handshake_is_handed_on_and_its_end_is_sent_when_there_are_keys() {
    let mut world = World::new(None);
    let (alice, stranger) = (phone(), phone());
    applied(&world, web(21_900, Association::default(), Shield::Closed));
    wait_until(|| world.relay.open_sockets() == 2);
    alice.send_to(&check(Credentials::of(&SECRET, 0, 0, 1).password(), true), local(21_900)).unwrap();
    assert_eq!((answered(&alice), world.latched().0), (SUCCESS, LegId::CALLER));
    let message = |kind: u8| [&[22, 254, 253, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12, kind][..], &[0; 11]].concat();
    let handed_on = |world: &mut World, kind: u8| {
        alice.send_to(&message(kind), local(21_900)).unwrap();
        let Some(Event::Dtls { leg: LegId::CALLER, stream: 0, sender: Sender::Checked, source, datagram, .. }) =
            world.events.blocking_recv()
        else {
            panic!("nothing was handed on")
        };
        assert_eq!((source, &*datagram), (alice.local_addr().unwrap(), &message(kind)[..]));
    };
    handed_on(&mut world, 1);
    handed_on(&mut world, 11);
    world.relay.send(CALL, LegId::CALLER, 0, alice.local_addr().unwrap(), vec![Bytes::from_static(b"flight 4")]);
    let mut buffer = [0; 99];
    assert_eq!(alice.recv(&mut buffer).unwrap(), 8);
    // A flood reaches nobody.
    for _ in 0..99 {
        alice.send_to(&message(11), local(21_900)).unwrap();
    }
    wait_until(|| world.counters.received.load(Ordering::Relaxed) >= 102);
    world.leg(LegId::CALLEE, 21_902, None);
    wait_until(|| world.relay.open_sockets() == 4);
    let mut count = 0;
    while world.events.try_recv().is_ok() {
        count += 1;
    }
    assert!(count < 65, "{count}");
    let key = |byte| MasterKey::new(Suite::AeadAes256Gcm, &[byte; 44]).unwrap();
    let keyed = Keyed { theirs: key(1), ours: key(2), last_flight: vec![Bytes::from_static(b"flight 6")], is_fresh: true };
    let keyed = Association { keyed: Some(keyed), ..Association::default() };
    applied(&world, web(21_900, keyed.clone(), Shield::Closed));
    // It was lost: whoever repeats his flight gets it again, and not for each datagram.
    for packet in [message(1), message(11), message(16), vec![21; 39], message(15)] {
        alice.send_to(&packet, local(21_900)).unwrap();
    }
    stranger.send_to(&message(11), local(21_900)).unwrap();
    assert_eq!(alice.recv(&mut buffer).unwrap(), 8);
    alice.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    assert!(alice.recv(&mut buffer).is_err() && world.events.try_recv().is_err());
    // Another node that has the record does as this one did.
    let other = World::new(None);
    applied(&other, web(21_904, keyed, Shield::Closed));
    wait_until(|| other.relay.open_sockets() == 2);
    alice.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    alice.send_to(&check(Credentials::of(&SECRET, 0, 0, 1).password(), true), local(21_904)).unwrap();
    assert_eq!(answered(&alice), SUCCESS);
    alice.send_to(&message(11), local(21_904)).unwrap();
    assert_eq!((alice.recv(&mut buffer).unwrap(), &buffer[..8]), (8, &b"flight 6"[..]));
}

/// RFC 5761: one phone has RTCP on RTP's port, and the other one above it; calls that come and go beside them hear nothing of it.
#[test]
fn rtcp_finds_its_port_on_each_side() {
    let world = World::new(None);
    let (alice, bob, bobs_rtcp) = (phone(), phone(), phone());
    let remote = [bob.local_addr().ok(), bobs_rtcp.local_addr().ok()];
    let plan = LegPlan { remote, signalled: remote, ..plan(21_952, None) };
    let streams = vec![Some(Want { plan, sockets: None })];
    world.relay.apply(CALL, LegId::CALLEE, streams, world.counters.clone(), world.fence.clone());
    applied(&world, web(21_950, Association::default(), Shield::Plain));
    wait_until(|| world.relay.open_sockets() == 4);
    alice.send_to(&check(Credentials::of(&SECRET, 0, 0, 1).password(), true), local(21_950)).unwrap();
    assert_eq!(answered(&alice), SUCCESS);
    let rtcp = [0x80, 200, 0, 1, 0, 0, 0, 9];
    let mut buffer = [0; 99];
    for _ in 0..2 {
        alice.send_to(&RTP, local(21_950)).unwrap();
        alice.send_to(&rtcp, local(21_950)).unwrap();
        assert_eq!((bob.recv_from(&mut buffer).unwrap(), buffer[1]), ((4, local(21_952)), 8));
        assert_eq!((bobs_rtcp.recv_from(&mut buffer).unwrap(), buffer[1]), ((8, local(21_953)), 200));
        bob.send_to(&RTP, local(21_952)).unwrap();
        assert_eq!(alice.recv_from(&mut buffer).unwrap(), (4, local(21_950)));
        bobs_rtcp.send_to(&rtcp, local(21_953)).unwrap();
        assert_eq!(alice.recv_from(&mut buffer).unwrap(), (8, local(21_950)));
    }
    // The browser's side goes, and its places are another's.
    world.relay.apply(CALL, LegId::CALLER, vec![None], world.counters.clone(), world.fence.clone());
    wait_until(|| world.relay.open_sockets() == 2);
    let other = CallId(8);
    let plan =
        LegPlan { local: local(21_956), remote: [alice.local_addr().ok(); 2], ..web(0, Association::default(), Shield::Plain) };
    let streams = vec![Some(Want { plan: LegPlan { dtls: None, ..plan }, sockets: None })];
    world.relay.apply(other, LegId::CALLER, streams, Arc::default(), world.fence.clone());
    wait_until(|| world.relay.open_sockets() == 4);
    let dropped = world.counters.dropped.load(Ordering::Relaxed);
    bob.send_to(&RTP, local(21_952)).unwrap();
    bobs_rtcp.send_to(&rtcp, local(21_953)).unwrap();
    wait_until(|| world.counters.received.load(Ordering::Relaxed) >= 11);
    alice.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert!(alice.recv(&mut buffer).is_err() && world.counters.dropped.load(Ordering::Relaxed) == dropped);
}

//! The relay: threads that own the sockets of all calls and forward datagrams between their two ends.
//! Layer: shell.
//!
//! ```text
//!  caller ──▶ socket (leg 0) ─┐      ┌─ socket (leg 0) ──▶ caller
//!                             └▶ ⇄ ◀─┘
//!  callee ◀── socket (leg 1) ─┘      └─ socket (leg 1) ◀── callee
//! ```
//!
//! A call lives on one thread. Actors say what a leg needs ([`Relay::apply`]), which may be said twice;
//! the relay says where packets come from ([`Event::Latched`]) and when there are none ([`Event::Idle`]).
//!
//! Who the peer of a port is says [`Latch`](super::core::Latch); packets from others are dropped and counted.

mod shield;
mod thread;
mod wire;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use futures_util::future::join_all;
use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::sync::mpsc;

use super::core::LegPlan;
use super::core::srtp::Mark;
use super::ports::Pair;
use crate::fence::Fence;
use crate::ids::{CallId, LegId};

/// At most this many commands wait for a thread.
const COMMANDS: usize = 16 << 10;
/// At most this many events wait to be read.
const EVENTS: usize = 16 << 10;
/// How long [`Relay::settle`] waits for a thread.
const SETTLE: Duration = Duration::from_millis(500);

/// What the relay tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A leg's packets come from here.
    Latched {
        /// Which call.
        call: CallId,
        /// Which leg.
        leg: LegId,
        /// Which `m=` line.
        stream: usize,
        /// RTCP, not RTP.
        rtcp: bool,
        /// From where.
        source: SocketAddr,
    },
    /// A source of a protected stream has come so far: who takes the call over should know.
    CameTo {
        /// Which call.
        call: CallId,
        /// Which leg.
        leg: LegId,
        /// Which `m=` line.
        stream: usize,
        /// It is in what goes to the leg's phone, and not in what comes from it.
        ours: bool,
        /// By which key ([`MasterKey::mark`](super::core::srtp::MasterKey::mark)).
        key: u64,
        /// How far.
        mark: Mark,
    },
    /// Nothing came on any leg of a call for the relay's timeout.
    Idle {
        /// Which call.
        call: CallId,
    },
}

/// What passed a leg; read by anybody, written by one thread.
#[derive(Debug, Default)]
pub struct Counters {
    /// Datagrams from the phone.
    pub received: AtomicU64,
    /// Bytes in them.
    pub received_bytes: AtomicU64,
    /// Datagrams to the phone.
    pub sent: AtomicU64,
    /// Datagrams that nobody was there for, or from a stranger.
    pub dropped: AtomicU64,
}

/// One end of one stream, as an actor wants it.
#[derive(Debug)]
pub struct Want {
    /// Addresses.
    pub plan: LegPlan,
    /// Sockets that are bound already; else the relay binds them, as often as it takes.
    pub sockets: Option<Pair>,
}

enum Command {
    Apply { call: CallId, leg: LegId, streams: Vec<Option<Want>>, counters: Arc<Counters>, fence: Fence },
    Close { call: CallId },
    Settle { done: tokio::sync::oneshot::Sender<()> },
}

/// The handle.
#[derive(Debug)]
pub struct Relay {
    workers: Vec<Worker>,
    open: Arc<Open>,
    running: Arc<AtomicBool>,
}

/// What the threads have open.
#[derive(Debug, Default)]
struct Open {
    ports: AtomicUsize,
    /// A port whose peer is steady has two.
    sockets: AtomicUsize,
}

#[derive(Debug)]
struct Worker {
    commands: SyncSender<Command>,
    bell: Arc<EventFd>,
    /// The thread has been told that there are commands, and hasn't looked yet.
    told: Arc<AtomicBool>,
}

impl Worker {
    /// Waits when the thread is far behind: commands are few for each call.
    fn tell(&self, command: Command) {
        if self.commands.send(command).is_ok() && !self.told.swap(true, Ordering::AcqRel) {
            let _ = self.bell.write(1);
        }
    }
}

impl Relay {
    /// Starts `workers` threads. A call without packets for `timeout` is reported idle; what is sent is marked by `dscp` (RFC 2474).
    pub fn start(workers: usize, timeout: Option<Duration>, dscp: u8) -> io::Result<(Self, mpsc::Receiver<Event>)> {
        let (events, receiver) = mpsc::channel(EVENTS);
        let open = Arc::<Open>::default();
        let running = Arc::new(AtomicBool::new(true));
        let start = |number: usize| {
            let bell = Arc::new(EventFd::from_value_and_flags(0, EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?);
            let (commands, queue) = sync_channel(COMMANDS);
            let told = Arc::new(AtomicBool::new(false));
            let inbox = thread::Inbox { bell: bell.clone(), queue, told: told.clone(), running: running.clone() };
            let thread = thread::Thread::new(inbox, events.clone(), timeout, dscp, open.clone())?;
            std::thread::Builder::new().name(format!("media{number}")).spawn(move || thread.run())?;
            Ok::<_, io::Error>(Worker { commands, bell, told })
        };
        let workers = (0..workers.max(1)).map(start).collect::<io::Result<_>>()?;
        Ok((Self { workers, open, running }, receiver))
    }

    /// Makes a leg's sockets and addresses as wanted; saying the same twice changes nothing. Nothing is sent that `fence`
    /// doesn't let pass.
    pub fn apply(&self, call: CallId, leg: LegId, streams: Vec<Option<Want>>, counters: Arc<Counters>, fence: Fence) {
        self.tell(call, Command::Apply { call, leg, streams, counters, fence });
    }

    /// Closes all sockets of a call.
    pub fn close(&self, call: CallId) {
        self.tell(call, Command::Close { call });
    }

    /// Waits until everything that was said before is done and what had come has been passed on, or half a second has passed. A thread whose sockets
    /// are never all empty has done enough after a twentieth of a second.
    pub async fn settle(&self) {
        let settled = self.workers.iter().map(|worker| {
            let (done, settled) = tokio::sync::oneshot::channel();
            worker.tell(Command::Settle { done });
            tokio::time::timeout(SETTLE, settled)
        });
        join_all(settled).await;
    }

    /// How many ports are open.
    pub fn open_ports(&self) -> usize {
        self.open.ports.load(Ordering::Relaxed)
    }

    /// How many sockets are open.
    pub fn open_sockets(&self) -> usize {
        self.open.sockets.load(Ordering::Relaxed)
    }

    fn tell(&self, call: CallId, command: Command) {
        self.workers[usize::try_from(call.0 % self.workers.len() as u128).unwrap_or(0)].tell(command);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.running.store(false, Ordering::Relaxed);
        for worker in &self.workers {
            let _ = worker.bell.write(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::IoSliceMut;
    use std::net::{IpAddr, Ipv4Addr, SocketAddrV4, UdpSocket};
    use std::os::fd::AsRawFd;
    use std::time::Instant;

    use nix::sys::socket::sockopt::IpRecvTos;
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, setsockopt};

    use super::super::core::srtp::{Context, MOST_ADDED, MasterKey, Suite};
    use super::super::core::{Keys, Shield};
    use super::thread::TICK;
    use crate::clock;

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

    impl World {
        fn new(timeout: Option<Duration>) -> Self {
            let (relay, events) = Relay::start(1, timeout, 46).unwrap();
            Self { relay, events, counters: Arc::default(), fence: Fence::open() }
        }

        fn leg(&self, leg: LegId, port: u16, remote: Option<SocketAddr>) {
            let plan = LegPlan { local: local(port), remote: [remote, None], signalled: [None; 2], shield: Shield::Plain };
            self.relay.apply(CALL, leg, vec![Some(Want { plan, sockets: None })], self.counters.clone(), self.fence.clone());
        }

        fn latched(&mut self) -> (LegId, SocketAddr) {
            match self.events.blocking_recv().unwrap() {
                Event::Latched { leg, source, .. } => (leg, source),
                other @ (Event::CameTo { .. } | Event::Idle { .. }) => panic!("{other:?}"),
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

    /// A stream that a leg has no more, by name or by lack, is closed; one at another address is bound there, and the old one given up.
    #[test]
    fn what_a_leg_has_no_more_is_closed() {
        let world = World::new(None);
        let wants = |ports: &[Option<u16>]| {
            let plan = |port| LegPlan { local: local(port), remote: [None; 2], signalled: [None; 2], shield: Shield::Plain };
            let wants = ports.iter().map(|port| port.map(|port| Want { plan: plan(port), sockets: None })).collect();
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
            let plan = LegPlan { local: local(port), remote: [None; 2], signalled: [None; 2], shield };
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
        let plan = LegPlan { local: local(21_402), remote: [None; 2], signalled: [None; 2], shield: Shield::Plain };
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
}

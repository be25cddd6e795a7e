//! Phones that send packets to a relay and look at what comes back: few sockets and two threads for all of them.

use std::io::{IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::cmsg_space;
use nix::sys::socket::sockopt::{RcvBufForce, ReceiveTimestampns};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg, setsockopt};
use nix::sys::time::TimeSpec;
use tandem::media::core::srtp::{Context, MOST_ADDED, MasterKey};

/// Sockets of each side's phones.
const SOCKETS: usize = 4;
/// A stream has a packet in every so manyth tick of a millisecond, unless something else is said.
pub const TICKS: usize = 20;
const TICK: Duration = Duration::from_millis(1);
/// RTP's header, and 20 ms of PCMU.
const PACKET: usize = 172;
const BATCH: usize = 64;
/// Packets that are sent at once: each bears the time of the first.
const AT_ONCE: usize = 4;
/// How often phones look at what has come: who is woken by each packet would have the relay pay for it.
const LOOK: Duration = Duration::from_micros(500);
/// What is on its way when the time is over still counts.
const LATE: Duration = Duration::from_millis(200);

/// A call: where its phones are, and where the relay's ports toward them.
#[derive(Debug, Clone)]
pub struct Session {
    pub phones: [SocketAddr; 2],
    pub relay: [SocketAddr; 2],
    /// By what each phone protects what it says, and the relay what it says to it.
    pub keys: [Option<[MasterKey; 2]>; 2],
}

/// The calls of a relay, whose streams go on from one run to the next.
pub struct Calls {
    pub sessions: Vec<Session>,
    /// By stream: of who speaks and of who hears.
    ends: [Mutex<Vec<Option<Context>>>; 2],
    sequence: AtomicU64,
    /// A stream has a packet in every so manyth tick.
    pub ticks: usize,
}

impl Calls {
    pub fn new(sessions: Vec<Session>) -> Self {
        let context = |session: &Session, side: usize, of: usize| session.keys[side].as_ref().map(|keys| Context::new(&keys[of]));
        let speak = sessions.iter().flat_map(|session| [context(session, 0, 0), context(session, 1, 0)]).collect();
        // A stream is heard by the other side.
        let hear = sessions.iter().flat_map(|session| [context(session, 1, 1), context(session, 0, 1)]).collect();
        Self { sessions, ends: [Mutex::new(speak), Mutex::new(hear)], sequence: AtomicU64::new(1), ticks: TICKS }
    }
}

/// What was measured.
#[derive(Debug, Clone, Copy, Default)]
pub struct Figure {
    /// CPU seconds of the relay.
    pub cpu: f64,
    pub delivered: u64,
    pub lost: u64,
    /// From phone to phone, microseconds.
    pub p50: f64,
    pub p99: f64,
}

/// The phones.
pub struct Phones {
    pub sockets: [Vec<UdpSocket>; 2],
}

impl Phones {
    /// At an address of this host.
    pub fn at(ip: IpAddr) -> Self {
        let socket = |_| {
            let socket = UdpSocket::bind((ip, 0)).unwrap();
            socket.set_nonblocking(true).unwrap();
            setsockopt(&socket, RcvBufForce, &(16 << 20)).unwrap();
            setsockopt(&socket, ReceiveTimestampns, &true).unwrap();
            socket
        };
        Self { sockets: [(0..SOCKETS).map(socket).collect(), (0..SOCKETS).map(socket).collect()] }
    }

    /// Where the phones of call `n` are.
    pub fn pair(&self, n: usize) -> [SocketAddr; 2] {
        [0, 1].map(|side| self.sockets[side][socket_of(n)].local_addr().unwrap())
    }
}

/// Which of a side's sockets call `n` has: those of one tick are spread over all.
pub fn socket_of(n: usize) -> usize {
    n / (TICKS / 2) % SOCKETS
}

/// Nanoseconds since 1970, as the kernel says when a packet came.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64
}

/// Has all calls' phones talk for `warm` and `span`, and gives what was measured in the latter. `cpu` tells the relay's CPU seconds so far.
pub fn run(phones: &Phones, calls: &Calls, warm: Duration, span: Duration, cpu: impl Fn() -> f64) -> Figure {
    let (stop, sent, mark) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(u64::MAX));
    let counts_from = |tick: u32, due: usize| {
        let ticks = (warm + span).as_millis() as u32;
        if TICK * tick >= warm && tick < ticks {
            let _ = mark.compare_exchange(u64::MAX, now(), Ordering::Relaxed, Ordering::Relaxed);
            sent.fetch_add(due as u64, Ordering::Relaxed);
        }
        tick < ticks
    };
    std::thread::scope(|scope| {
        let ears = scope.spawn(|| lateness(phones, &calls.ends[1], &stop, &mark));
        let mouths = scope.spawn(|| speak(phones, calls, counts_from));
        std::thread::sleep(warm);
        let before = cpu();
        mouths.join().unwrap();
        let used = cpu() - before;
        std::thread::sleep(LATE);
        stop.store(true, Ordering::Relaxed);
        let mut late = ears.join().unwrap();
        late.sort_unstable();
        let at = |share: f64| late.get((late.len() as f64 * share) as usize).map_or(f64::NAN, |ns| *ns as f64 / 1e3);
        let delivered = late.len() as u64;
        Figure { cpu: used, delivered, lost: sent.load(Ordering::Relaxed).saturating_sub(delivered), p50: at(0.5), p99: at(0.99) }
    })
}

/// Sends every stream's packets when they are due, for as long as `goes_on`: it is told of each tick, and how many packets are due in it. What can't be
/// sent is lost.
pub fn speak(phones: &Phones, calls: &Calls, mut goes_on: impl FnMut(u32, usize) -> bool) {
    // By tick, by socket: what is to be sent where.
    let mut plan: Vec<[Vec<(u32, SocketAddr)>; 2 * SOCKETS]> = (0..calls.ticks).map(|_| Default::default()).collect();
    for (n, session) in calls.sessions.iter().enumerate() {
        for side in 0..2 {
            let stream = 2 * n + side;
            plan[stream % calls.ticks][side * SOCKETS + socket_of(n)].push((stream as u32, session.relay[side]));
        }
    }
    let mut headers = MultiHeaders::<SockaddrIn>::preallocate(AT_ONCE, None);
    let mut ends = calls.ends[0].lock().unwrap();
    let (first, begin) = (calls.sequence.load(Ordering::Relaxed), Instant::now());
    for tick in 0.. {
        std::thread::sleep((begin + TICK * tick).saturating_duration_since(Instant::now()));
        let (sequence, due) = (first + u64::from(tick) / calls.ticks as u64, &plan[tick as usize % calls.ticks]);
        if !goes_on(tick, due.iter().map(Vec::len).sum()) {
            return calls.sequence.store(sequence + 1, Ordering::Relaxed);
        }
        for (socket, due) in due.iter().enumerate() {
            let fd = phones.sockets[socket / SOCKETS][socket % SOCKETS].as_raw_fd();
            for due in due.chunks(AT_ONCE) {
                let packets: Vec<_> = due
                    .iter()
                    .map(|(stream, _)| protected(packet(*stream, sequence as u16), ends[*stream as usize].as_mut()))
                    .collect();
                let slices: Vec<_> = packets.iter().map(|(packet, length)| [IoSlice::new(&packet[..*length])]).collect();
                let to = due.iter().map(|(_, to)| match to {
                    SocketAddr::V4(to) => Some(SockaddrIn::from(*to)),
                    SocketAddr::V6(_) => None,
                });
                let _ = sendmmsg(fd, &mut headers, &slices, to.collect::<Vec<_>>(), [], MsgFlags::empty());
            }
        }
    }
}

fn packet(stream: u32, sequence: u16) -> [u8; PACKET] {
    let mut packet = [0xd5; PACKET];
    packet[..2].copy_from_slice(&[0x80, 0]);
    packet[2..4].copy_from_slice(&sequence.to_be_bytes());
    packet[4..8].copy_from_slice(&(u32::from(sequence) * 160).to_be_bytes());
    packet[8..12].copy_from_slice(&stream.to_be_bytes());
    packet[12..20].copy_from_slice(&now().to_be_bytes());
    packet
}

/// With room for what protects it.
type Sent = ([u8; PACKET + MOST_ADDED], usize);

fn protected(plain: [u8; PACKET], by: Option<&mut Context>) -> Sent {
    let mut packet = [0; PACKET + MOST_ADDED];
    packet[..PACKET].copy_from_slice(&plain);
    let length = by.map_or(PACKET, |context| context.protect(&mut packet, PACKET).unwrap());
    (packet, length)
}

/// How long each packet that counts was on its way, nanoseconds. Those bear a time of `mark` or later.
fn lateness(phones: &Phones, ends: &Mutex<Vec<Option<Context>>>, stop: &AtomicBool, mark: &AtomicU64) -> Vec<u64> {
    let mut late = Vec::with_capacity(1 << 20);
    let mut ends = ends.lock().unwrap();
    hear(
        phones,
        stop,
        LOOK,
        |_| {},
        |stream, packet, at| {
            let length = match ends.get_mut(stream).and_then(Option::as_mut) {
                // What can't be opened is lost.
                Some(context) => context.unprotect(packet).unwrap_or(0),
                None => packet.len(),
            };
            if length == PACKET {
                let sent = u64::from_be_bytes(packet[12..20].try_into().unwrap());
                if sent >= mark.load(Ordering::Relaxed) {
                    late.push(at.saturating_sub(sent));
                }
            }
        },
    );
    late
}

/// Reads what comes, every so often, until it is to stop: whose packet, and when it came by the kernel's clock ([`now`]). `all_until` is told the time
/// before which all has been read.
pub fn hear(
    phones: &Phones,
    stop: &AtomicBool,
    every: Duration,
    mut all_until: impl FnMut(u64),
    mut heard: impl FnMut(usize, &mut [u8], u64),
) {
    let mut headers = MultiHeaders::<SockaddrIn>::preallocate(BATCH, Some(cmsg_space!(TimeSpec)));
    let mut buffers = [[0; 256]; BATCH];
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(every);
        let looked = now();
        for socket in phones.sockets.iter().flatten() {
            loop {
                let mut slices = buffers.each_mut().map(|buffer| [IoSliceMut::new(buffer)]);
                let Ok(messages) = recvmmsg(socket.as_raw_fd(), &mut headers, slices.iter_mut(), MsgFlags::MSG_DONTWAIT, None)
                else {
                    break;
                };
                let arrived: Vec<_> = messages
                    .map(|message| {
                        let at = message.cmsgs().unwrap().find_map(|cmsg| match cmsg {
                            ControlMessageOwned::ScmTimestampns(at) => {
                                Some(at.tv_sec() as u64 * 1_000_000_000 + at.tv_nsec() as u64)
                            }
                            _ => None,
                        });
                        (message.bytes, at.unwrap())
                    })
                    .collect();
                for (buffer, (length, at)) in buffers.iter_mut().zip(&arrived) {
                    let stream = u32::from_be_bytes(buffer[8..12].try_into().unwrap()) as usize;
                    heard(stream, &mut buffer[..*length], *at);
                }
                if arrived.len() < BATCH {
                    break;
                }
            }
        }
        all_until(looked);
    }
}

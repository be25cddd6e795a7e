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
//! Whoever sends to a port first, or after [`RELEARN`] of silence, is the peer (RFC 4961); packets from
//! others are dropped and counted, except from the very address that the SDP named.

use std::collections::{HashMap, VecDeque};
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token, Waker};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, SockaddrIn6, recvmmsg};
use smallvec::SmallVec;
use tokio::sync::mpsc;

use super::core::LegPlan;
use super::ports::{self, Pair};
use crate::clock;
use crate::fence::Fence;
use crate::ids::{CallId, LegId};

/// A peer's packets must have stopped for this long before another source is believed.
pub const RELEARN: Duration = Duration::from_millis(1000);
/// At most this many commands wait for a thread.
const COMMANDS: usize = 16 << 10;
/// At most this many events wait to be read.
const EVENTS: usize = 16 << 10;
/// Sockets that are looked at in one turn.
const EVENTS_AT_ONCE: usize = 1024;
/// Datagrams read at once.
const BATCH: usize = 16;
/// So many batches a socket has in one turn: nobody's flood may keep the others waiting.
const BATCHES: usize = 4;
/// How long [`Relay::settle`] waits for a thread.
const SETTLE: Duration = Duration::from_millis(500);
/// The longest datagram that is carried.
const DATAGRAM: usize = 2048;
/// How often a thread looks for silence, and tries again to bind what was taken.
const TICK: Duration = Duration::from_millis(250);
/// So many commands, and so many attempts to bind what was taken, a thread makes between two looks at its sockets.
const TURN: usize = 32;
/// How soon a thread tries again to bind a port of a call that it takes over.
const REBIND: Duration = Duration::from_millis(5);

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
    open: Arc<AtomicUsize>,
    running: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Worker {
    commands: SyncSender<Command>,
    waker: Arc<Waker>,
    /// The thread has been told that there are commands, and hasn't looked yet.
    told: Arc<AtomicBool>,
}

impl Worker {
    /// Waits when the thread is far behind: commands are few for each call.
    fn tell(&self, command: Command) {
        if self.commands.send(command).is_ok() && !self.told.swap(true, Ordering::AcqRel) {
            let _ = self.waker.wake();
        }
    }
}

impl Relay {
    /// Starts `workers` threads. A call without packets for `timeout` is reported idle.
    pub fn start(workers: usize, timeout: Option<Duration>) -> io::Result<(Self, mpsc::Receiver<Event>)> {
        let (events, receiver) = mpsc::channel(EVENTS);
        let open = Arc::new(AtomicUsize::new(0));
        let running = Arc::new(AtomicBool::new(true));
        let start = |number: usize| {
            let poll = Poll::new()?;
            let waker = Arc::new(Waker::new(poll.registry(), WAKE)?);
            let (commands, queue) = sync_channel(COMMANDS);
            let told = Arc::new(AtomicBool::new(false));
            let thread = Thread {
                poll,
                queue,
                told: told.clone(),
                events: events.clone(),
                timeout,
                open: open.clone(),
                running: running.clone(),
                ends: Vec::new(),
                free: Vec::new(),
                calls: HashMap::new(),
                unbound: Default::default(),
                more: Vec::new(),
                settling: Vec::new(),
            };
            std::thread::Builder::new().name(format!("media{number}")).spawn(move || thread.run())?;
            Ok::<_, io::Error>(Worker { commands, waker, told })
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

    /// Waits until everything that was said before is done and what had come has been passed on (of each socket as much as it has in
    /// one turn), or half a second has passed.
    pub async fn settle(&self) {
        for worker in &self.workers {
            let (done, settled) = tokio::sync::oneshot::channel();
            worker.tell(Command::Settle { done });
            let _ = tokio::time::timeout(SETTLE, settled).await;
        }
    }

    /// How many sockets are open.
    pub fn open_sockets(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    fn tell(&self, call: CallId, command: Command) {
        self.workers[usize::try_from(call.0 % self.workers.len() as u128).unwrap_or(0)].tell(command);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.running.store(false, Ordering::Relaxed);
        for worker in &self.workers {
            let _ = worker.waker.wake();
        }
    }
}

const WAKE: Token = Token(usize::MAX);

/// One socket.
struct End {
    socket: Option<mio::net::UdpSocket>,
    local: SocketAddr,
    call: CallId,
    leg: LegId,
    stream: usize,
    rtcp: bool,
    /// The end of the other leg that gets what comes here.
    partner: Option<usize>,
    remote: Option<SocketAddr>,
    /// `remote` was learned from packets (else it is what the SDP says).
    learned: bool,
    /// The last packet from `remote`.
    heard: Option<Instant>,
    counters: Arc<Counters>,
    /// Of the vnode that the socket's address is.
    fence: Fence,
}

struct Session {
    /// By leg, by stream: RTP and RTCP.
    legs: [Vec<Option<[usize; 2]>>; 2],
    /// The last packet on any leg, or when its lack was told.
    heard: Instant,
    /// Of its vnode.
    fence: Fence,
}

struct Thread {
    poll: Poll,
    queue: Receiver<Command>,
    told: Arc<AtomicBool>,
    events: mpsc::Sender<Event>,
    timeout: Option<Duration>,
    open: Arc<AtomicUsize>,
    running: Arc<AtomicBool>,
    ends: Vec<Option<End>>,
    free: Vec<usize>,
    calls: HashMap<CallId, Session>,
    /// Ends that have no socket yet: those of RTP, which are tried first, and those of RTCP.
    unbound: [VecDeque<usize>; 2],
    /// Ends whose sockets were not empty when their turn was over.
    more: Vec<usize>,
    /// Who waits until all sockets have had a turn.
    settling: Vec<tokio::sync::oneshot::Sender<()>>,
}

/// What a batch of datagrams is read into.
struct Batch {
    buffers: Box<[[u8; DATAGRAM]; BATCH]>,
    v4: MultiHeaders<SockaddrIn>,
    v6: MultiHeaders<SockaddrIn6>,
}

impl Thread {
    #[allow(clippy::disallowed_methods, reason = "a thread of its own: it reads the clock once a turn")]
    fn run(mut self) {
        let mut events = Events::with_capacity(EVENTS_AT_ONCE);
        let mut ticked = Instant::now();
        let mut busy = false;
        let mut batch = Batch {
            buffers: Box::new([[0; DATAGRAM]; BATCH]),
            v4: MultiHeaders::preallocate(BATCH, None),
            v6: MultiHeaders::preallocate(BATCH, None),
        };
        while self.running.load(Ordering::Relaxed) {
            let pause =
                match (self.more.is_empty() && self.settling.is_empty() && !busy, self.unbound.iter().all(VecDeque::is_empty)) {
                    (false, _) => Duration::ZERO,
                    (true, true) => TICK,
                    (true, false) => REBIND,
                };
            match self.poll.poll(&mut events, Some(pause)) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    tracing::error!(%error, "media thread cannot poll");
                    return;
                }
            }
            // Those who come now wait for the next turn: this one's sockets were looked at before.
            let settling = std::mem::take(&mut self.settling);
            let now = Instant::now();
            match self.take_commands(now) {
                Some(more) => busy = more,
                None => return,
            }
            for at in std::mem::take(&mut self.more) {
                self.forward(at, &mut batch, now);
            }
            for event in &events {
                if event.token() != WAKE {
                    self.forward(event.token().0, &mut batch, now);
                }
            }
            // Every socket has had a turn; unless as many as fit were not all.
            if events.iter().count() < EVENTS_AT_ONCE {
                for done in settling {
                    let _ = done.send(());
                }
            } else {
                self.settling.extend(settling);
            }
            busy |= self.bind_again(busy);
            if now.duration_since(ticked) >= TICK {
                ticked = now;
                self.look_for_silence(now);
            }
        }
    }

    /// Takes a turn's commands, and tells whether there may be more; `None` when nobody is left to command.
    fn take_commands(&mut self, now: Instant) -> Option<bool> {
        // Before looking: whoever says something from here on wakes the thread again.
        self.told.swap(false, Ordering::AcqRel);
        for _ in 0..TURN {
            match self.queue.try_recv() {
                Ok(Command::Apply { call, leg, streams, counters, fence }) => {
                    self.apply(call, leg, streams, &counters, &fence, now);
                }
                Ok(Command::Close { call }) => self.close(call),
                Ok(Command::Settle { done }) => self.settling.push(done),
                Err(TryRecvError::Empty) => return Some(false),
                Err(TryRecvError::Disconnected) => return None,
            }
        }
        Some(true)
    }

    fn apply(
        &mut self,
        call: CallId,
        leg: LegId,
        streams: Vec<Option<Want>>,
        counters: &Arc<Counters>,
        fence: &Fence,
        now: Instant,
    ) {
        if streams.iter().all(Option::is_none) && !self.calls.contains_key(&call) {
            return;
        }
        let (side, wanted) = (usize::from(leg.0 != 0), streams.len());
        let new = || Session { legs: [Vec::new(), Vec::new()], heard: now, fence: fence.clone() };
        let mut ends = std::mem::take(&mut self.calls.entry(call).or_insert_with(new).legs[side]);
        for (stream, want) in streams.into_iter().enumerate() {
            if ends.len() <= stream {
                ends.push(None);
            }
            let Some(want) = want else {
                // It was the stream of another phone, which has gone.
                ends[stream].take().into_iter().flatten().for_each(|at| self.remove(at));
                continue;
            };
            if let Some(former) = ends[stream].take_if(|pair| self.is_elsewhere(pair[0], want.plan.local)) {
                former.into_iter().for_each(|at| self.remove(at));
            }
            let pair = *ends[stream].get_or_insert_with(|| {
                let (rtp, rtcp) = want.sockets.map_or((None, None), |pair| (Some(pair.rtp), Some(pair.rtcp)));
                let above = SocketAddr::new(want.plan.local.ip(), want.plan.local.port().saturating_add(1));
                let end = |local, rtcp| End {
                    socket: None,
                    local,
                    call,
                    leg,
                    stream,
                    rtcp,
                    partner: None,
                    remote: None,
                    learned: false,
                    heard: None,
                    counters: counters.clone(),
                    fence: fence.clone(),
                };
                [self.add(end(want.plan.local, false), rtp), self.add(end(above, true), rtcp)]
            });
            for (component, at) in pair.into_iter().enumerate() {
                let Some(end) = self.ends[at].as_mut() else { continue };
                end.counters = counters.clone();
                let (remote, learned) = (want.plan.remote[component], want.plan.latched[component]);
                if end.remote != remote {
                    // What was learned here a moment ago stays until the signalled address changes.
                    end.remote = remote;
                    end.heard = None;
                }
                end.learned = learned;
            }
        }
        for at in ends.split_off(wanted).into_iter().flatten().flatten() {
            self.remove(at);
        }
        if let Some(session) = self.calls.get_mut(&call) {
            session.legs[side] = ends;
            let [a, b] = &session.legs;
            for (a, b) in a.iter().zip(b) {
                let (Some(a), Some(b)) = (a, b) else { continue };
                for (a, b) in a.iter().zip(b) {
                    if let Some(end) = &mut self.ends[*a] {
                        end.partner = Some(*b);
                    }
                    if let Some(end) = &mut self.ends[*b] {
                        end.partner = Some(*a);
                    }
                }
            }
        }
    }

    fn add(&mut self, end: End, socket: Option<UdpSocket>) -> usize {
        let at = self.free.pop().unwrap_or_else(|| {
            self.ends.push(None);
            self.ends.len() - 1
        });
        let rtcp = end.rtcp;
        self.ends[at] = Some(end);
        // RTCP waits until every call has its sound.
        if !self.give_socket(at, socket) && (rtcp || !self.bind(at)) {
            self.unbound[usize::from(rtcp)].push_back(at);
        }
        at
    }

    /// Tells whether it was worth while: then there may be more. While commands wait, RTP alone is tried.
    fn bind_again(&mut self, busy: bool) -> bool {
        let mut bound = false;
        for (queue, most) in [(0, usize::MAX), (1, if busy { 0 } else { TURN })] {
            for _ in 0..self.unbound[queue].len().min(most) {
                let Some(at) = self.unbound[queue].pop_front() else { break };
                // A call may have been closed meanwhile, and its place be another's.
                let waits = self.ends[at].as_ref().is_some_and(|end| end.socket.is_none());
                if waits && self.bind(at) {
                    // RTCP has time, and everything else at a takeover has not.
                    bound |= queue == 0;
                } else if waits {
                    self.unbound[queue].push_back(at);
                }
            }
        }
        bound
    }

    /// A former owner's process may still be closing its sockets: then it fails, and is tried again.
    fn bind(&mut self, at: usize) -> bool {
        let local = self.ends[at].as_ref().map(|end| end.local);
        local.is_some_and(|local| self.give_socket(at, ports::bind(local).ok()))
    }

    fn give_socket(&mut self, at: usize, socket: Option<UdpSocket>) -> bool {
        let (Some(end), Some(socket)) = (self.ends[at].as_mut(), socket) else { return false };
        let mut socket = mio::net::UdpSocket::from_std(socket);
        if self.poll.registry().register(&mut socket, Token(at), Interest::READABLE).is_err() {
            return false;
        }
        end.socket = Some(socket);
        self.open.fetch_add(1, Ordering::Relaxed);
        true
    }

    fn close(&mut self, call: CallId) {
        let Some(session) = self.calls.remove(&call) else { return };
        for at in session.legs.into_iter().flatten().flatten().flatten() {
            self.remove(at);
        }
    }

    fn remove(&mut self, at: usize) {
        let Some(end) = self.ends[at].take() else { return };
        // Its place may be another call's soon.
        if let Some(partner) = end.partner.and_then(|partner| self.ends[partner].as_mut()) {
            partner.partner = None;
        }
        if let Some(mut socket) = end.socket {
            let _ = self.poll.registry().deregister(&mut socket);
            self.open.fetch_sub(1, Ordering::Relaxed);
        }
        self.free.push(at);
    }

    /// Whether an end is at another address of ours than it is to be: its phone has turned out to be of the other family.
    fn is_elsewhere(&self, at: usize, local: SocketAddr) -> bool {
        self.ends[at].as_ref().is_some_and(|end| end.local != local)
    }

    /// Reads a socket empty and passes on what may pass.
    fn forward(&mut self, at: usize, batch: &mut Batch, now: Instant) {
        for _ in 0..BATCHES {
            let Some(end) = self.ends.get(at).and_then(Option::as_ref) else { return };
            let Some(fd) = end.socket.as_ref().map(mio::net::UdpSocket::as_raw_fd) else { return };
            let v6 = end.local.is_ipv6();
            let received = if v6 {
                receive(fd, &mut batch.v6, &mut batch.buffers, |address| SocketAddrV6::from(address).into())
            } else {
                receive(fd, &mut batch.v4, &mut batch.buffers, |address| SocketAddrV4::from(address).into())
            };
            let Ok(received) = received else { return };
            // What has come while this process was frozen belongs to another by now.
            let Some(end) = self.ends.get(at).and_then(Option::as_ref) else { return };
            if !end.fence.may_send(clock::uptime()) {
                end.counters.dropped.fetch_add(received.len() as u64, Ordering::Relaxed);
                if received.len() < BATCH {
                    return;
                }
                // Nothing stays in the socket: it would teach a later owner where somebody was.
                continue;
            }
            for (buffer, (length, source)) in batch.buffers.iter().zip(&received) {
                self.pass(at, &buffer[..*length], *source, now);
            }
            // Fewer than there was room for: the socket is empty, and the next packet wakes us.
            if received.len() < BATCH {
                return;
            }
        }
        self.more.push(at);
    }

    fn pass(&mut self, at: usize, packet: &[u8], source: SocketAddr, now: Instant) {
        let Some(end) = self.ends[at].as_mut() else { return };
        end.counters.received.fetch_add(1, Ordering::Relaxed);
        end.counters.received_bytes.fetch_add(packet.len() as u64, Ordering::Relaxed);
        if end.remote != Some(source) {
            let silent = end.heard.is_none_or(|heard| now.duration_since(heard) > RELEARN);
            // RFC 3550 §5.1: version 2. What isn't RTP or RTCP teaches nothing.
            let is_rtp = packet.first().is_some_and(|byte| byte >> 6 == 2);
            if !silent || !is_rtp {
                end.counters.dropped.fetch_add(1, Ordering::Relaxed);
                return;
            }
            end.remote = Some(source);
            end.learned = true;
            let latched = Event::Latched { call: end.call, leg: end.leg, stream: end.stream, rtcp: end.rtcp, source };
            // A full queue loses the news, not the latch: it is only what a next owner would begin with.
            let _ = self.events.try_send(latched);
        }
        end.heard = Some(now);
        let (call, partner) = (end.call, end.partner);
        if let Some(session) = self.calls.get_mut(&call) {
            session.heard = now;
        }
        let Some(partner) = partner.and_then(|partner| self.ends[partner].as_ref()) else { return };
        let (Some(socket), Some(remote)) = (&partner.socket, partner.remote) else {
            partner.counters.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        };
        match socket.send_to(packet, remote) {
            Ok(_) => partner.counters.sent.fetch_add(1, Ordering::Relaxed),
            Err(_) => partner.counters.dropped.fetch_add(1, Ordering::Relaxed),
        };
    }

    fn look_for_silence(&mut self, now: Instant) {
        let Some(timeout) = self.timeout else { return };
        let uptime = clock::uptime();
        for (call, session) in &mut self.calls {
            if !session.fence.may_send(uptime) {
                // It stands by: its packets are at another node.
                session.heard = now;
            } else if now.duration_since(session.heard) > timeout {
                // Told again after as long: whoever heard it may have been unable to act.
                session.heard = now;
                let _ = self.events.try_send(Event::Idle { call: *call });
            }
        }
    }
}

type Received = SmallVec<[(usize, SocketAddr); BATCH]>;

fn receive<S>(
    fd: i32,
    headers: &mut MultiHeaders<S>,
    buffers: &mut [[u8; DATAGRAM]; BATCH],
    address: impl Fn(S) -> SocketAddr,
) -> Result<Received, Errno>
where
    S: nix::sys::socket::SockaddrLike + Copy,
{
    let mut slices = buffers.each_mut().map(|buffer| [IoSliceMut::new(buffer)]);
    let messages = recvmmsg(fd, headers, slices.iter_mut(), MsgFlags::MSG_DONTWAIT, None)?;
    Ok(messages.filter_map(|message| Some((message.bytes, address(message.address?)))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{IpAddr, Ipv4Addr};

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
            let (relay, events) = Relay::start(1, timeout).unwrap();
            Self { relay, events, counters: Arc::default(), fence: Fence::open() }
        }

        fn leg(&self, leg: LegId, port: u16, remote: Option<SocketAddr>) {
            let plan = LegPlan { local: local(port), remote: [remote, None], latched: [false; 2] };
            self.relay.apply(CALL, leg, vec![Some(Want { plan, sockets: None })], self.counters.clone(), self.fence.clone());
        }

        fn latched(&mut self) -> (LegId, SocketAddr) {
            match self.events.blocking_recv().unwrap() {
                Event::Latched { leg, source, .. } => (leg, source),
                Event::Idle { .. } => panic!("idle"),
            }
        }
    }

    #[allow(clippy::disallowed_methods, reason = "a test waits on the real clock")]
    fn wait_until(what: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(5);
        while !what() {
            assert!(Instant::now() < deadline, "it never came true");
            std::thread::yield_now();
        }
    }

    const RTP: [u8; 4] = [0x80, 8, 0, 1];

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
            let plan = |port| LegPlan { local: local(port), remote: [None; 2], latched: [false; 2] };
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
        let plan = LegPlan { local: local(21_402), remote: [None; 2], latched: [false; 2] };
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

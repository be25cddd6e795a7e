//! A thread of the relay: the ends of its calls, and the datagrams that pass between them. Layer: shell.
//!
//! Nothing that is done for a packet takes a lock or memory. Each socket that has something to read has one datagram read in a turn, however many
//! wait: nobody's flood keeps the others waiting.

mod coder;
mod guests;
mod measure;
mod players;

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::EventFd;
use nix::sys::resource::{Resource, getrlimit};
use tokio::sync::{mpsc, oneshot};

use super::dtls::{Association, Heard, Kind};
use super::shield::Shield;
use super::tape::{self, Tape, Taped};
use super::wire::Wire;
use super::{Command, Counters, Event, Open, Sender, Want, Worker};
use crate::clock::{self, Uptime};
use crate::fence::Fence;
use crate::ids::{CallId, LegId};
use crate::media::core::ice::{ANSWER, Check};
use crate::media::core::player::Player;
use crate::media::core::quality::{Hearing, Meter};
use crate::media::core::sound::Quality;
use crate::media::core::srtp::{MOST_ADDED, is_rtcp};
use crate::media::core::{Dtls, From, Latch};
use crate::media::sounds::Sounds;

pub(super) use guests::Moved;

/// Sockets that are looked at in one turn.
const EVENTS_AT_ONCE: usize = 1024;
/// The longest datagram that is carried.
const DATAGRAM: usize = 2048;
/// How often a thread looks for silence, and tries again to bind what was taken.
pub(super) const TICK: Duration = Duration::from_millis(250);
/// In every so manyth tick it is told how far protected sources have come, one of each direction: more seldom than any phone's packets could have it.
const TELLS: u32 = 4;
/// So many commands, and so many attempts to bind what was taken, a thread makes between two looks at its sockets.
const TURN: usize = 32;
/// How soon a thread tries again to bind a port of a call that it takes over.
const REBIND: Duration = Duration::from_millis(5);
/// Who settles waits for so long at most: a flood has no end, and a host that has lost an address forwards what comes for it for 200 ms.
const SETTLING: Duration = Duration::from_millis(50);
/// So many packets of one peer in a row are worth a socket that is connected to it, and a second one; and so many are connected in a turn.
const STEADY: u32 = 50;
const CONNECTED_AT_ONCE: usize = 4;
/// Where a peer's checks have moved it is told so often at most.
const MOVES: Duration = Duration::from_secs(1);
/// What epoll can wait for at least: it knows no less than a millisecond.
const SHORTEST: Duration = Duration::from_millis(1);
/// So many second sockets are given up in a tick.
const GIVEN_UP_AT_ONCE: usize = 256;

/// What epoll says of the bell that the handle rings.
const BELL: u64 = u64::MAX;

/// Where a thread hears from the handle.
pub(super) struct Inbox {
    pub(super) bell: Arc<EventFd>,
    pub(super) queue: Receiver<Command>,
    /// The bell was rung, and the thread hasn't looked yet.
    pub(super) told: Arc<AtomicBool>,
    pub(super) running: Arc<AtomicBool>,
}

/// One port.
struct End {
    wire: Option<Wire>,
    local: SocketAddr,
    call: CallId,
    leg: LegId,
    stream: usize,
    rtcp: bool,
    /// The end of the other leg that gets what comes here.
    partner: Option<usize>,
    /// Who gets the RTCP that comes here.
    rtcp_to: RtcpTo,
    /// Of RTP; RTCP's end has that of its neighbour.
    shield: Shield,
    /// The same.
    association: Option<Box<Association>>,
    /// The ends of RTP and of RTCP, of which this is one.
    pair: [usize; 2],
    peer: Latch,
    /// Of RTP: what becomes of what comes here.
    coder: coder::Coder,
    /// Of RTP: what is to be measured, and what has been.
    hearing: Hearing,
    meter: Option<Box<Meter>>,
    /// Of RTP: what the phone hears while the other one holds.
    player: Option<Box<Player>>,
    /// Of RTP: the time in the last packet that passed to the phone.
    passed: Option<u32>,
    /// What comes is neither RTP nor RTCP.
    is_other: bool,
    /// Of RTP: what comes is kept.
    recorded: bool,
    /// When it was told that checks have moved the peer, and whether they have since.
    moved: (Uptime, bool),
    /// Packets of the peer's in a row.
    steady: u32,
    counters: Arc<Counters>,
    /// Of the vnode that the port's address is.
    fence: Fence,
}

impl End {
    /// What a next owner should know by now. A full queue loses it; the next is told in a quarter of a turn.
    fn tell(&mut self, events: &mpsc::Sender<Event>, now: Uptime) {
        if let Some(source) = self.peer.remote().filter(|_| self.moved.1) {
            self.moved = (now, false);
            let _ = events.try_send(self.latched(source));
        }
        for (way, news) in self.shield.news().into_iter().enumerate() {
            let Some((key, mark)) = news else { continue };
            let _ =
                events.try_send(Event::CameTo { call: self.call, leg: self.leg, stream: self.stream, ours: way == 1, key, mark });
        }
    }

    /// As an actor wants it.
    fn associate(&mut self, plan: Option<Dtls>) {
        match (&mut self.association, plan) {
            (Some(association), Some(plan)) => association.set(plan),
            (association, plan) => *association = plan.map(|plan| Box::new(Association::new(plan))),
        }
    }

    /// Sends something that the other phone hasn't said.
    fn reply(&self, datagram: &[u8], to: SocketAddr) {
        let sent = self.wire.as_ref().is_some_and(|wire| wire.send(datagram, to));
        count(if sent { &self.counters.sent } else { &self.counters.dropped }, 1);
    }

    /// What is no media comes to a port with an association.
    fn hear_other(&mut self, datagram: &[u8], source: SocketAddr, now: Uptime, events: &mpsc::Sender<Event>) {
        let Some(association) = &mut self.association else { return };
        let mut answer = [0; ANSWER];
        match Kind::of(datagram) {
            Kind::Stun => match association.check(datagram, source, &mut answer) {
                Check::Valid { length, nominates } => {
                    let moved = self.peer.check(source, nominates, now);
                    self.reply(&answer[..length], source);
                    if moved {
                        self.steady = 0;
                        // Each is a commit: nobody's changes of mind are worth more than one a second.
                        self.moved.1 = true;
                        if now.since(self.moved.0) >= MOVES {
                            self.tell(events, now);
                        }
                    }
                }
                Check::Refused { length } => self.reply(&answer[..length], source),
                Check::Dropped => count(&self.counters.dropped, 1),
            },
            // Without ICE whoever would be heard may be the phone; the keys will show it.
            Kind::Dtls if self.peer.would_hear(source, !association.has_ice(), now) => {
                let sender = match association.has_ice() {
                    true => Sender::Checked,
                    false if self.peer.is_known(source) => Sender::Known,
                    false => Sender::Anybody,
                };
                match association.hear(datagram, sender != Sender::Anybody, now) {
                    Heard::Repeat(flight) => {
                        let flight = flight.to_vec();
                        flight.iter().for_each(|datagram| self.reply(datagram, source));
                    }
                    Heard::HandOn => {
                        let (call, leg, stream) = (self.call, self.leg, self.stream);
                        let dtls = Event::Dtls { call, leg, stream, source, sender, datagram: datagram.into() };
                        let _ = events.try_send(dtls);
                    }
                    Heard::Nothing => count(&self.counters.dropped, 1),
                }
            }
            Kind::Dtls | Kind::Media | Kind::Other => count(&self.counters.dropped, 1),
        }
    }

    fn latched(&self, source: SocketAddr) -> Event {
        Event::Latched { call: self.call, leg: self.leg, stream: self.stream, rtcp: self.rtcp, source }
    }

    /// RTCP comes too seldom to be worth it.
    fn may_be_connected(&self) -> bool {
        let wire = self.wire.as_ref().filter(|_| !self.rtcp);
        wire.zip(self.peer.remote()).is_some_and(|(wire, peer)| wire.is_apart(peer))
    }
}

/// Where RTCP goes that has come on RTP's port.
#[derive(Clone, Copy, PartialEq, Eq)]
enum RtcpTo {
    /// Where RTP goes.
    Partner,
    /// To this end: the phone there has it on a port of its own.
    Other(usize),
    /// Nowhere: the phone there has no keys for it.
    Nobody,
}

struct Session {
    /// By leg, by stream: RTP and RTCP.
    legs: [Vec<Option<[usize; 2]>>; 2],
    /// When its silence began, or was told last.
    since: Uptime,
    /// Of its vnode.
    fence: Fence,
}

pub(super) struct Thread {
    epoll: Epoll,
    inbox: Inbox,
    events: mpsc::Sender<Event>,
    timeout: Option<Duration>,
    dscp: u8,
    open: Arc<Open>,
    /// No second sockets while so many are open.
    spare: usize,
    ends: Vec<Option<End>>,
    free: Vec<usize>,
    calls: HashMap<CallId, Session>,
    /// Ends that have no socket yet: those of RTP, which are tried first, and those of RTCP.
    unbound: [VecDeque<usize>; 2],
    /// Ends whose peers are steady.
    steady: VecDeque<usize>,
    /// Where calls go that are made over; none if it is here.
    coder: Option<Arc<Worker>>,
    /// Those that are there.
    guests: HashSet<CallId>,
    /// How it is done here.
    quality: Quality,
    /// Ends of which something is missing that may have to be made up.
    gaps: VecDeque<usize>,
    /// What there is to be played, and to whom.
    sounds: Sounds,
    players: players::Players,
    /// Who waits until all sockets have been read, and until when at most.
    settling: Vec<(Uptime, oneshot::Sender<()>)>,
    tape: Tape,
}

impl Thread {
    pub(super) fn new(
        inbox: Inbox,
        events: mpsc::Sender<Event>,
        timeout: Option<Duration>,
        (dscp, quality, sounds): (u8, Quality, Sounds),
        open: Arc<Open>,
        coder: Option<Arc<Worker>>,
        tape: mpsc::Sender<Vec<Taped>>,
    ) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        // Each time it is rung, and nobody reads it: what is rung while commands are taken would be read away.
        epoll.add(&inbox.bell, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, BELL))?;
        Ok(Self {
            epoll,
            inbox,
            events,
            timeout,
            dscp,
            open,
            spare: descriptors() / 2,
            ends: Vec::new(),
            free: Vec::new(),
            calls: HashMap::new(),
            unbound: Default::default(),
            steady: VecDeque::new(),
            coder,
            guests: HashSet::new(),
            quality,
            gaps: VecDeque::new(),
            sounds,
            players: players::Players::default(),
            settling: Vec::new(),
            tape: Tape::new(tape),
        })
    }

    /// Until the handle is gone.
    pub(super) fn run(mut self) {
        let mut events = vec![EpollEvent::empty(); EVENTS_AT_ONCE];
        // What protects a packet is written behind it.
        let mut buffer = [0; DATAGRAM + MOST_ADDED];
        let (mut ticked, mut ticks) = (clock::uptime(), 0_u32);
        let mut busy = false;
        let mut gap = None;
        while self.inbox.running.load(Ordering::Relaxed) {
            let unbound = self.unbound.iter().any(|ends| !ends.is_empty());
            let pause = match busy || !self.settling.is_empty() {
                true => Duration::ZERO,
                false if unbound => REBIND,
                false if !self.tape.is_empty() => tape::EVERY,
                false => gap.map_or(TICK, |gap: Duration| TICK.min(gap + SHORTEST)),
            };
            let count = match self.epoll.wait(&mut events, EpollTimeout::try_from(pause).unwrap_or(EpollTimeout::ZERO)) {
                Ok(count) => count,
                Err(Errno::EINTR) => continue,
                Err(error) => {
                    tracing::error!(%error, "media thread cannot poll");
                    return;
                }
            };
            let now = clock::uptime();
            // Those who come now wait for the next turn: this one's sockets were looked at before.
            let settling = std::mem::take(&mut self.settling);
            match self.take_commands(now) {
                Some(more) => busy = more,
                None => return,
            }
            let mut heard = false;
            for event in &events[..count] {
                if event.data() != BELL {
                    heard = true;
                    self.hear(event.data(), &mut buffer);
                }
            }
            for (until, done) in settling {
                if heard && now < until {
                    self.settling.push((until, done));
                } else {
                    let _ = done.send(());
                }
            }
            gap = if self.gaps.is_empty() { None } else { self.fill_gaps() };
            self.tape.hand_over(now);
            gap = [gap, self.play()].into_iter().flatten().min();
            busy |= self.bind_again(busy);
            self.connect_the_steady();
            if now.since(ticked) >= TICK {
                ticked = now;
                self.look_for_silence(now);
                if ticks.is_multiple_of(TELLS) {
                    self.ends.iter_mut().flatten().for_each(|end| end.tell(&self.events, now));
                    self.look_for_the_missed(now);
                }
                ticks += 1;
                self.rest(now);
            }
        }
    }

    /// Takes a turn's commands, and tells whether there may be more; `None` when nobody is left to command.
    fn take_commands(&mut self, now: Uptime) -> Option<bool> {
        // Before looking: whoever says something from here on rings again.
        self.inbox.told.swap(false, Ordering::AcqRel);
        for _ in 0..TURN {
            match self.inbox.queue.try_recv().map(|command| self.forward(command)) {
                Ok(None) => {}
                Ok(Some(Command::Apply { call, leg, streams, counters, fence })) => {
                    self.apply(call, leg, streams, &counters, &fence, now);
                }
                Ok(Some(Command::Close { call })) => self.close(call),
                Ok(Some(Command::Send { call, leg, stream, to, datagrams })) => self.send(call, leg, stream, to, &datagrams),
                Ok(Some(Command::Press { call, leg, stream, rules, signal })) => self.press((call, leg, stream), rules, signal),
                Ok(Some(Command::TakeIn(moved))) => self.take_in(*moved),
                Ok(Some(Command::Settle { done })) => self.settling.push((now + SETTLING, done)),
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
        now: Uptime,
    ) {
        if streams.iter().all(Option::is_none) && !self.calls.contains_key(&call) {
            return;
        }
        let (side, wanted) = (usize::from(leg.0 != 0), streams.len());
        let new = || Session { legs: [Vec::new(), Vec::new()], since: now, fence: fence.clone() };
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
                    wire: None,
                    local,
                    call,
                    leg,
                    stream,
                    rtcp,
                    partner: None,
                    rtcp_to: RtcpTo::Partner,
                    shield: Shield::Plain,
                    association: None,
                    pair: [0; 2],
                    peer: Latch::default(),
                    coder: coder::Coder::default(),
                    hearing: Hearing::default(),
                    meter: None,
                    player: None,
                    passed: None,
                    is_other: want.plan.is_other,
                    recorded: false,
                    moved: Default::default(),
                    steady: 0,
                    counters: counters.clone(),
                    fence: fence.clone(),
                };
                [self.add(end(want.plan.local, false), rtp), self.add(end(above, true), rtcp)]
            });
            let has_ice = want.plan.dtls.as_ref().is_some_and(|dtls| dtls.agent.is_some());
            if let Some(end) = self.ends[pair[0]].as_mut() {
                end.shield.set(want.plan.shield);
                end.associate(want.plan.dtls.map(|dtls| *dtls));
                end.coder.set(want.plan.rules);
                end.recorded = want.plan.recorded;
                end.set_hearing(want.plan.hearing, counters);
            }
            self.set_music(pair[0], want.plan.music);
            for (component, at) in pair.into_iter().enumerate() {
                let Some(end) = self.ends[at].as_mut() else { continue };
                end.counters = counters.clone();
                end.pair = pair;
                if std::mem::replace(&mut end.is_other, want.plan.is_other) != want.plan.is_other {
                    // Where packets of the former kind came from says nothing.
                    end.peer = Latch::default();
                }
                let has_ice = has_ice && component == 0;
                if end.peer.tell(want.plan.signalled[component], want.plan.remote[component], has_ice) {
                    end.steady = 0;
                }
            }
        }
        for at in ends.split_off(wanted).into_iter().flatten().flatten() {
            self.remove(at);
        }
        if let Some(session) = self.calls.get_mut(&call) {
            session.legs[side] = ends;
            self.join_all(call);
        }
    }

    /// The ends of a call's two legs are each other's.
    fn join_all(&mut self, call: CallId) {
        let Some(Session { legs: [a, b], .. }) = self.calls.get(&call) else { return };
        let joined: Vec<_> = a.iter().zip(b).filter_map(|(a, b)| Some(((*a)?, (*b)?))).collect();
        for (a, b) in joined {
            self.join(a, b);
            self.join(b, a);
        }
    }

    /// What comes to the ports of one end goes to those of the other.
    fn join(&mut self, [rtp, rtcp]: [usize; 2], to: [usize; 2]) {
        let association = |at: usize| self.ends[at].as_ref().and_then(|end| end.association.as_ref());
        let is_muxed = |at: usize| association(at).is_some_and(|association| association.is_muxed());
        // RFC 5764 §3: beside RTP it would have keys of its own, of another handshake.
        let has_none = association(to[0]).is_some_and(|association| association.is_certain() && !association.is_muxed());
        let toward_rtcp = if is_muxed(to[0]) { to[0] } else { to[1] };
        let rtcp_to = match is_muxed(rtp) {
            true if has_none => RtcpTo::Nobody,
            true if toward_rtcp != to[0] => RtcpTo::Other(toward_rtcp),
            true | false => RtcpTo::Partner,
        };
        if let Some(end) = &mut self.ends[rtp] {
            (end.partner, end.rtcp_to) = (Some(to[0]), rtcp_to);
        }
        if let Some(end) = &mut self.ends[rtcp] {
            end.partner = (!has_none).then_some(toward_rtcp);
        }
    }

    /// Datagrams of somebody else than the other phone.
    fn send(&mut self, call: CallId, leg: LegId, stream: usize, to: SocketAddr, datagrams: &[bytes::Bytes]) {
        // The time is asked for here: this process may have been frozen since the turn began.
        let Some(session) = self.calls.get(&call).filter(|session| session.fence.may_send(clock::uptime())) else { return };
        let Some([rtp, _]) = session.legs[usize::from(leg.0 != 0)].get(stream).copied().flatten() else { return };
        if let Some(end) = &self.ends[rtp] {
            datagrams.iter().for_each(|datagram| end.reply(datagram, to));
        }
    }

    fn add(&mut self, end: End, socket: Option<UdpSocket>) -> usize {
        let rtcp = end.rtcp;
        let at = self.place(end);
        // RTCP waits until every call has its sound.
        if !self.give(at, socket.map(|socket| Wire::new(socket, self.dscp))) && (rtcp || !self.bind(at)) {
            self.unbound[usize::from(rtcp)].push_back(at);
        }
        at
    }

    fn place(&mut self, end: End) -> usize {
        let at = self.free.pop().unwrap_or_else(|| {
            self.ends.push(None);
            self.ends.len() - 1
        });
        self.ends[at] = Some(end);
        at
    }

    /// Tells whether it was worth while: then there may be more. While commands wait, RTP alone is tried.
    fn bind_again(&mut self, busy: bool) -> bool {
        let mut bound = false;
        for (queue, most) in [(0, usize::MAX), (1, if busy { 0 } else { TURN })] {
            for _ in 0..self.unbound[queue].len().min(most) {
                let Some(at) = self.unbound[queue].pop_front() else { break };
                // A call may have been closed meanwhile, and its place be another's.
                let waits = self.ends[at].as_ref().is_some_and(|end| end.wire.is_none());
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

    fn bind(&mut self, at: usize) -> bool {
        let local = self.ends[at].as_ref().map(|end| end.local);
        local.is_some_and(|local| self.give(at, Wire::bind(local, self.dscp).ok()))
    }

    fn give(&mut self, at: usize, wire: Option<Wire>) -> bool {
        let (Some(end), Some(wire)) = (self.ends[at].as_mut(), wire) else { return false };
        if self.epoll.add(wire.socket(), event(at, false)).is_err() {
            return false;
        }
        self.open.ports.fetch_add(1, Ordering::Relaxed);
        self.open.sockets.fetch_add(wire.sockets(), Ordering::Relaxed);
        end.wire = Some(wire);
        true
    }

    /// A few of those whose peers are steady are connected to them, while there are descriptors to spare.
    fn connect_the_steady(&mut self) {
        for _ in 0..CONNECTED_AT_ONCE {
            let Some(at) = self.steady.pop_front() else { return };
            if self.open.sockets.load(Ordering::Relaxed) >= self.spare {
                continue;
            }
            // Its place may be another's by now, or its peer be at another place.
            let Some(end) = self.ends[at].as_mut().filter(|end| end.steady >= STEADY && end.may_be_connected()) else { continue };
            let (Some(wire), Some(peer)) = (end.wire.as_mut(), end.peer.remote()) else { continue };
            let before = wire.sockets();
            let watch = |twin: BorrowedFd<'_>| self.epoll.add(twin, event(at, true)).map_err(io::Error::from);
            // After an error, as when the address is away, it goes on as before, for a little more of the kernel's time, and is tried again.
            if let Err(error) = wire.connect(end.local, peer, watch) {
                tracing::debug!(%error, "a port stays unconnected");
            }
            self.open.sockets.fetch_add(wire.sockets() - before, Ordering::Relaxed);
        }
    }

    /// What stands by has heard nobody, and needs no second sockets; nor has anybody else some when descriptors get scarce.
    fn rest(&mut self, now: Uptime) {
        let mut left = GIVEN_UP_AT_ONCE;
        for end in self.ends.iter_mut().flatten() {
            let stands_by = !end.fence.may_send(now);
            if stands_by {
                end.peer.forget();
                end.coder.forget();
                end.meter.iter_mut().for_each(|meter| meter.forget());
                end.steady = 0;
            }
            let is_scarce = self.open.sockets.load(Ordering::Relaxed) >= self.spare;
            let Some(wire) = end.wire.as_mut().filter(|wire| wire.sockets() > 1 && (stands_by || is_scarce) && left > 0) else {
                continue;
            };
            left -= 1;
            match wire.disconnect() {
                Ok(()) => drop(self.open.sockets.fetch_sub(1, Ordering::Relaxed)),
                Err(error) => tracing::debug!(%error, "a port stays connected"),
            }
        }
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
        let pair = end.partner.and_then(|partner| self.ends[partner].as_ref()).map(|partner| partner.pair);
        for at in pair.into_iter().flatten() {
            if let Some(partner) = self.ends[at].as_mut() {
                (partner.partner, partner.rtcp_to) = (None, RtcpTo::Partner);
            }
        }
        // Sockets that are closed are watched no more.
        if let Some(wire) = end.wire {
            self.open.ports.fetch_sub(1, Ordering::Relaxed);
            self.open.sockets.fetch_sub(wire.sockets(), Ordering::Relaxed);
        }
        self.free.push(at);
    }

    /// Whether an end is at another address of ours than it is to be: its phone has turned out to be of the other family.
    fn is_elsewhere(&self, at: usize, local: SocketAddr) -> bool {
        self.ends[at].as_ref().is_some_and(|end| end.local != local)
    }

    /// Reads a datagram and passes it on if it may pass.
    fn hear(&mut self, key: u64, buffer: &mut [u8; DATAGRAM + MOST_ADDED]) {
        let (at, twin) = (usize::try_from(key >> 1).unwrap_or(usize::MAX), key & 1 == 1);
        let Some(end) = self.ends.get_mut(at).and_then(Option::as_mut) else { return };
        let received = end.wire.as_mut().and_then(|wire| wire.receive(twin, &mut buffer[..DATAGRAM]));
        let Some((mut length, source)) = received else { return };
        // After reading: what has come while this process was frozen belongs to another by now. It is read all the same, since it would teach a
        // later owner where somebody was.
        let now = clock::uptime();
        if !end.fence.may_send(now) {
            count(&end.counters.dropped, 1);
            return;
        }
        count(&end.counters.received, 1);
        count(&end.counters.received_bytes, length as u64);
        if end.association.is_some() && Kind::of(&buffer[..length]) != Kind::Media {
            return end.hear_other(&buffer[..length], source, now, &self.events);
        }
        // RFC 3550 §5.1: version 2. Where another kind is agreed on, that is what comes late of the sound before it.
        let is_media = length > 0 && (buffer[0] >> 6 == 2) != end.is_other;
        let (rtp, rtcp) = (end.pair[0], end.rtcp);
        if !end.peer.would_hear(source, is_media, now) {
            count(&end.counters.dropped, 1);
            return;
        }
        // Who can't sign is nobody, wherever he is.
        match self.open(rtp, rtcp, &mut buffer[..length]) {
            Some(opened) => length = opened,
            None => return,
        }
        let Some(end) = self.ends[at].as_mut() else { return };
        match end.peer.hear(source, is_media, now) {
            From::Peer => {
                end.steady = end.steady.saturating_add(1);
                if end.steady.is_multiple_of(STEADY) && end.may_be_connected() {
                    self.steady.push_back(at);
                }
            }
            From::NewPeer => {
                end.steady = 1;
                // A full queue loses the news, not the latch: it is only what a next owner would begin with.
                let _ = self.events.try_send(end.latched(source));
            }
            From::Aside => {}
            From::Stranger => return,
        }
        if end.recorded && !is_rtcp(&buffer[..length]) {
            self.tape.take(end.call, u8::from(end.leg.0 != 0), now, &buffer[..length]);
        }
        self.measure(at, &mut buffer[..length], now);
        let Some(end) = self.ends[at].as_ref() else { return };
        if !end.coder.passes() && !is_rtcp(&buffer[..length]) {
            return self.translate(at, &buffer[..length], now);
        }
        let to = match end.rtcp_to {
            RtcpTo::Partner => end.partner,
            RtcpTo::Other(_) | RtcpTo::Nobody if !is_rtcp(&buffer[..length]) => end.partner,
            RtcpTo::Other(other) => Some(other),
            RtcpTo::Nobody => None,
        };
        if let Some(to) = to {
            self.pass_on(to, buffer, length);
        }
    }

    /// Opens a packet by the shield of an end; gives how long it is then.
    fn open(&mut self, at: usize, rtcp: bool, packet: &mut [u8]) -> Option<usize> {
        let end = self.ends.get_mut(at)?.as_mut()?;
        let opened = end.shield.open(packet, rtcp);
        if opened.is_err() {
            count(&end.counters.dropped, 1);
        }
        opened.ok()
    }

    /// Sends a packet to the phone of an end.
    fn pass_on(&mut self, at: usize, buffer: &mut [u8], length: usize) {
        let Some((rtp, rtcp)) = self.ends[at].as_ref().map(|end| (end.pair[0], end.rtcp)) else { return };
        let Some(end) = self.ends[rtp].as_mut() else { return };
        end.passes(&buffer[..length], rtcp);
        let sealed = end.shield.seal(buffer, length, rtcp);
        let Some(end) = self.ends[at].as_ref() else { return };
        let sent = match (&end.wire, end.peer.remote(), sealed) {
            (Some(wire), Some(remote), Ok(length)) => wire.send(&buffer[..length], remote),
            _ => false,
        };
        count(if sent { &end.counters.sent } else { &end.counters.dropped }, 1);
    }

    fn look_for_silence(&mut self, now: Uptime) {
        let Some(timeout) = self.timeout else { return };
        for (call, session) in &mut self.calls {
            let ends = session.legs.iter().flatten().flatten().flatten();
            let heard = ends.filter_map(|at| self.ends[*at].as_ref()?.peer.heard()).max();
            session.since = session.since.max(heard.unwrap_or_default());
            if !session.fence.may_send(now) {
                // It stands by: its packets are at another node.
                session.since = now;
            } else if now.since(session.since) > timeout {
                // Told again after as long: whoever heard it may have been unable to act.
                session.since = now;
                let _ = self.events.try_send(Event::Idle { call: *call });
            }
        }
    }
}

/// What epoll is to say when there is something to read.
fn event(at: usize, twin: bool) -> EpollEvent {
    EpollEvent::new(EpollFlags::EPOLLIN, (at as u64) << 1 | u64::from(twin))
}

/// How many descriptors this process may have.
fn descriptors() -> usize {
    let soft = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
    usize::try_from(soft).unwrap_or(usize::MAX)
}

/// Counts on: nobody else does.
fn count(counter: &AtomicU64, more: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
}

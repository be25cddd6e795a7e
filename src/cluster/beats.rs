//! Beats: a thread of its own, by which nodes keep their leases whatever else keeps them busy. Layer: shell.
//!
//! ```text
//!  datagram   tag (16 bytes of HMAC-SHA256 by the cluster's secret) │ MessagePack
//! ```
//!
//! UDP on the port of the Raft wire: one that is lost costs a [`BEAT`] and holds up no other. A peer's beats count only if its
//! process is the one that said so over mutual TLS ([`Beats::knows`]), so that nobody can play old ones again. The rules are
//! in [`super::lease`].

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use tokio::sync::watch;

use super::Group;
use super::address::Addresses;
use super::lease::{BEAT, Beat, Echo, Leases, Release, Term};
use super::net::{self, Datagrams, Waker};
use super::raft::GroupId;
use crate::clock::{self, Uptime};
use crate::fence::Fence;
use crate::ids::{NodeId, VnodeId};

/// The tag in front of a datagram.
const TAG: usize = 16;
/// The longest datagram.
const DATAGRAM: usize = 65_507;
/// A node whose tasks have not had a turn for this long is no owner, whatever this thread can still say.
const STUCK: Duration = Duration::from_secs(2);
/// How often the tasks tell that they have had a turn.
const PULSE: Duration = Duration::from_millis(100);
/// How often the guard hears how long it may hold what it holds.
const RENEW: Duration = Duration::from_millis(10);
/// So many datagrams are read in one turn: nobody's flood may keep this thread from beating, or the machine from anything else.
const TURN: usize = 256;
/// What the key is made for.
const PURPOSE: &[u8] = b"tandem beats 1";

#[derive(Debug, Serialize, Deserialize)]
enum Packet {
    Beat(Beat),
    Echo(Echo),
}

/// The handle.
pub struct Beats {
    leases: Mutex<Leases>,
    life: u64,
    waker: Waker,
    peers: Mutex<BTreeMap<NodeId, SocketAddr>>,
    lives: Mutex<BTreeMap<NodeId, u64>>,
    groups: OnceLock<Arc<BTreeMap<GroupId, Group>>>,
    fences: BTreeMap<VnodeId, Fence>,
    addresses: Arc<Addresses>,
    /// Led by this node and to be kept to itself: a move is on its way.
    withheld: Mutex<BTreeSet<GroupId>>,
    /// Who is about to vote, where a membership changes: nothing is held without a majority of them either.
    joining: Mutex<BTreeMap<GroupId, BTreeSet<NodeId>>>,
    /// Whose sockets are open here.
    open: Mutex<BTreeSet<GroupId>>,
    /// Grows whenever something is held that was not held before.
    gained: watch::Sender<u64>,
    /// Grows with every echo.
    echoes: watch::Sender<u64>,
    pulse: AtomicU64,
    running: AtomicBool,
}

/// What the thread has.
struct Thread {
    beats: Arc<Beats>,
    socket: Datagrams,
    key: Hmac<Sha256>,
    held: BTreeSet<(GroupId, Term)>,
    /// When the guard heard last how long it may hold what it holds.
    renewed: Uptime,
}

impl Beats {
    /// Binds `listen` and starts the thread. It leads nothing until it has heard of the groups.
    pub fn start(
        node: NodeId,
        listen: SocketAddr,
        secret: &[u8],
        fences: BTreeMap<VnodeId, Fence>,
        addresses: Arc<Addresses>,
    ) -> io::Result<Arc<Self>> {
        let (socket, waker) = Datagrams::bind(listen)?;
        let life = rand::random();
        let beats = Arc::new(Self {
            leases: Mutex::new(Leases::new(node, life, clock::uptime())),
            life,
            waker,
            peers: Mutex::default(),
            lives: Mutex::default(),
            groups: OnceLock::new(),
            fences,
            addresses,
            withheld: Mutex::default(),
            joining: Mutex::default(),
            open: Mutex::default(),
            gained: watch::Sender::new(0),
            echoes: watch::Sender::new(0),
            pulse: AtomicU64::new(clock::uptime().0),
            running: AtomicBool::new(true),
        });
        let renewed = clock::uptime();
        let thread = Thread { beats: beats.clone(), socket, key: key(secret), held: BTreeSet::new(), renewed };
        net::run_before_others("beats", thread.run())?;
        let pulsing = Arc::downgrade(&beats);
        tokio::spawn(async move {
            while let Some(beats) = pulsing.upgrade().filter(|beats| beats.running.load(Ordering::Relaxed)) {
                beats.pulse.store(clock::uptime().0, Ordering::Relaxed);
                drop(beats);
                tokio::time::sleep(PULSE).await;
            }
        });
        Ok(beats)
    }

    /// From now on these groups are spoken for.
    pub(super) fn serve(&self, groups: Arc<BTreeMap<GroupId, Group>>) {
        let _ = self.groups.set(groups);
        self.kick();
    }

    /// From now on these are the peers.
    pub fn set_peers(&self, peers: BTreeMap<NodeId, SocketAddr>) {
        *lock(&self.peers) = peers;
        self.kick();
    }

    /// Ends the thread: this node holds nothing any more.
    pub fn stop(&self) {
        self.running.store(false, Ordering::Relaxed);
        self.kick();
    }

    /// This process, among all that this node has had.
    pub fn life(&self) -> u64 {
        self.life
    }

    /// A peer has said over mutual TLS which process it is.
    pub fn knows(&self, peer: NodeId, life: u64) {
        lock(&self.lives).insert(peer, life);
    }

    /// A beat at once: something has changed.
    pub fn kick(&self) {
        // It beats anyway in a moment.
        self.waker.wake();
    }

    /// Until when this node owns a group that it leads in `term`.
    pub(super) fn held_until(&self, group: &Group, term: Term) -> Option<Uptime> {
        let now = clock::uptime();
        let voters = self.voters(group);
        lock(&self.leases).held_until(now, group.id, term, &voters).filter(|until| *until > now)
    }

    /// From now on a group that this node leads is held only with a majority of these nodes too, which are to be its voters; until
    /// that is taken back. What was held before without them is over after a [`super::lease::LEASE`].
    pub fn hold_with(&self, group: GroupId, voters: Option<BTreeSet<NodeId>>) {
        let mut joining = lock(&self.joining);
        match voters {
            Some(voters) => drop(joining.insert(group, voters)),
            None => drop(joining.remove(&group)),
        }
    }

    /// Whose majorities hold a group.
    fn voters(&self, group: &Group) -> Vec<BTreeSet<NodeId>> {
        let mut voters = group.voters();
        voters.extend(lock(&self.joining).get(&group.id).cloned());
        voters
    }

    /// Changes when something is held that was not.
    pub fn gained(&self) -> watch::Receiver<u64> {
        self.gained.subscribe()
    }

    /// Changes with every echo.
    pub fn echoes(&self) -> watch::Receiver<u64> {
        self.echoes.subscribe()
    }

    /// A vnode's sockets are open here, or closed.
    pub fn sockets_open(&self, group: GroupId, open: bool) {
        let mut all = lock(&self.open);
        if open {
            all.insert(group);
        } else {
            all.remove(&group);
        }
    }

    /// Lets a group go that this node leads, for a successor. Its sockets are closed.
    pub fn hand_over(&self, group: GroupId, term: Term, successor: NodeId) {
        lock(&self.withheld).insert(group);
        lock(&self.leases).release(clock::uptime(), Release { group, term, successor: Some(successor) });
        self.kick();
    }

    /// The move is over, or has come to nothing: what this node leads it owns again.
    pub fn keep(&self, group: GroupId) {
        lock(&self.withheld).remove(&group);
        self.kick();
    }

    /// Whether a peer knows that a group was let go.
    pub fn has_heard_release(&self, group: GroupId, peer: NodeId) -> bool {
        lock(&self.leases).has_heard_release(group, peer)
    }

    /// Whether this node may help `candidate` to lead a group.
    pub fn may_vote(&self, group: GroupId, candidate: NodeId) -> bool {
        lock(&self.leases).may_vote(clock::uptime(), group, candidate)
    }

    /// As [`Beats::may_vote`]; and if so this node follows no leader of an earlier term any more.
    pub fn pledge(&self, group: GroupId, candidate: NodeId, term: Term) -> bool {
        let mut leases = lock(&self.leases);
        let may = leases.may_vote(clock::uptime(), group, candidate);
        if may {
            leases.pledge(group, term);
        }
        may
    }

    /// The vote that was pledged for a term was not given: `term` is where the group is.
    pub fn unpledge(&self, group: GroupId, pledged: Term, term: Term) {
        lock(&self.leases).unpledge(group, pledged, term);
    }

    /// The leader that this node has promised to follow, or itself.
    pub fn leader(&self, group: GroupId) -> Option<NodeId> {
        lock(&self.leases).leader(clock::uptime(), group)
    }

    /// A peer's process is known to be dead.
    pub fn void(&self, peer: NodeId) {
        lock(&self.lives).remove(&peer);
        lock(&self.leases).void(peer);
    }

    /// How long a word and its answer take to the slowest of the peers that are there.
    pub fn round_trip(&self) -> Duration {
        lock(&self.leases).round_trip(clock::uptime())
    }

    /// Whether a peer was heard a moment ago.
    pub fn is_heard(&self, peer: NodeId) -> bool {
        lock(&self.leases).is_heard(clock::uptime(), peer)
    }
}

fn key(secret: &[u8]) -> Hmac<Sha256> {
    let mut derive = <Hmac<Sha256> as KeyInit>::new_from_slice(secret).expect("HMAC takes keys of any length");
    derive.update(PURPOSE);
    <Hmac<Sha256> as KeyInit>::new_from_slice(&derive.finalize().into_bytes()).expect("HMAC takes keys of any length")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing is left half done under these locks, so a panic elsewhere doesn't spoil them.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Thread {
    /// Waits for nothing but its socket.
    async fn run(mut self) {
        let mut buffer = vec![0; DATAGRAM];
        let mut next = clock::uptime();
        while self.beats.running.load(Ordering::Relaxed) {
            let kicked = match self.socket.wait(next.since(clock::uptime())).await {
                Ok(kicked) => kicked,
                Err(error) => {
                    tracing::error!(%error, "the beats cannot poll");
                    return;
                }
            };
            self.read(&mut buffer);
            if kicked || clock::uptime() >= next {
                self.beat();
                next = clock::uptime() + BEAT;
            }
            self.count();
        }
        lock(&self.beats.leases).beat(clock::uptime(), Vec::new());
    }

    fn read(&mut self, buffer: &mut [u8]) {
        // Errors are of datagrams that were sent: a peer that isn't there. Whatever comes, the next beat is not kept waiting.
        for _ in 0..TURN {
            let (length, from) = match self.socket.recv_from(buffer) {
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => continue,
            };
            let Some(packet) = self.open(&buffer[..length]) else { continue };
            let now = clock::uptime();
            match packet {
                Packet::Beat(beat) => {
                    let known = lock(&self.beats.lives).get(&beat.from) == Some(&beat.life);
                    let groups = self.beats.groups.get();
                    let term_of = |id| groups.and_then(|groups| groups.get(&id)).map_or(0, Group::term);
                    let echo = if known { lock(&self.beats.leases).heard(now, &beat, term_of) } else { None };
                    if let Some(echo) = echo {
                        self.send(&Packet::Echo(echo), from);
                    }
                }
                Packet::Echo(echo) => {
                    lock(&self.beats.leases).echoed(now, &echo);
                    self.beats.echoes.send_modify(|count| *count += 1);
                }
            }
        }
    }

    /// Says what is led. What can't be held any more is let go, so that the others needn't wait.
    fn beat(&self) {
        let now = clock::uptime();
        let mut leads = Vec::new();
        let awake = now.since(Uptime(self.beats.pulse.load(Ordering::Relaxed))) < STUCK;
        let mut leases = lock(&self.beats.leases);
        for group in self.beats.groups.get().into_iter().flat_map(|groups| groups.values()) {
            let Some(term) = group.leads() else { continue };
            let voters = self.beats.voters(group);
            let withheld = lock(&self.beats.withheld).contains(&group.id);
            if awake && !withheld && leases.hears_majority(now, &voters) {
                leads.push((group.id, term));
            } else if !lock(&self.beats.open).contains(&group.id)
                && leases.held_until(now, group.id, term, &voters).is_none_or(|until| until <= now)
            {
                leases.release(now, Release { group: group.id, term, successor: None });
            }
        }
        let beat = Packet::Beat(leases.beat(now, leads));
        drop(leases);
        let peers: Vec<_> = lock(&self.beats.peers).values().copied().collect();
        for address in peers {
            self.send(&beat, address);
        }
    }

    /// Brings the fences up to date, and tells of what was gained.
    fn count(&mut self) {
        let now = clock::uptime();
        let mut held = BTreeSet::new();
        for group in self.beats.groups.get().into_iter().flat_map(|groups| groups.values()) {
            let Some(term) = group.leads() else { continue };
            let voters = self.beats.voters(group);
            let until = lock(&self.beats.leases).held_until(now, group.id, term, &voters);
            let Some(until) = until.filter(|until| *until > now) else { continue };
            if let Some(fence) = self.beats.fences.get(&VnodeId(group.id.0)) {
                fence.extend(until);
            }
            held.insert((group.id, term));
        }
        if !held.is_subset(&self.held) {
            self.beats.gained.send_modify(|count| *count += 1);
        }
        self.held = held;
        if now.since(self.renewed) >= RENEW {
            self.renewed = now;
            self.beats.addresses.renew();
        }
    }

    fn send(&self, packet: &Packet, to: SocketAddr) {
        let Ok(body) = rmp_serde::to_vec(packet) else { return };
        let mut mac = self.key.clone();
        mac.update(&body);
        let mut datagram = mac.finalize().into_bytes()[..TAG].to_vec();
        datagram.extend_from_slice(&body);
        // What is lost comes again.
        let _ = self.socket.send_to(&datagram, to);
    }

    fn open(&self, datagram: &[u8]) -> Option<Packet> {
        let (tag, body) = datagram.split_at_checked(TAG)?;
        let mut mac = self.key.clone();
        mac.update(body);
        mac.verify_truncated_left(tag).ok()?;
        rmp_serde::from_slice(body).ok()
    }
}

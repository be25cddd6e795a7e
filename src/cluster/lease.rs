//! Leases and promises: until when a leader owns what it leads, and when a voter may help another. Layer: shell; time is an
//! argument.
//!
//! ```text
//!  leader   beat: I lead v2 in term 5 ──▶ voter    promises for GRANT from its arrival: no vote for anybody else
//!           ◀── echo: for v2 I am yours             (once it has voted for a later term it says so no more)
//!  lease: LEASE from the sending of the latest beat that a majority has echoed
//! ```
//!
//! Two majorities share a voter. Whoever wins an election got that voter's vote after its promise had ended, and a lease ends
//! before the promises that it rests on: the old owner has stopped before there is a new one. Votes and promises meet here, in one
//! place under one lock; Raft's own timers decide nothing (`docs/decisions/0010`).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::raft::types::GroupId;
use crate::clock::Uptime;
use crate::ids::NodeId;

/// How often a node says what it leads.
pub const BEAT: Duration = Duration::from_millis(20);
/// How long a leader owns what it leads, from the sending of what a majority echoed.
pub const LEASE: Duration = Duration::from_millis(200);
/// How long a voter helps nobody else, from its hearing. The difference is for clocks that run apart, and for the moment
/// that it takes to take an address away.
pub const GRANT: Duration = Duration::from_millis(220);
/// So many beats can be waiting for their echoes.
const SENT: usize = 64;
/// So many lives of a peer are remembered.
const FORMER: usize = 16;

/// Raft's term.
pub type Term = u64;

/// What a node says of itself every [`BEAT`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beat {
    /// Who.
    pub from: NodeId,
    /// Which of its processes.
    pub life: u64,
    /// Grows with each.
    pub number: u64,
    /// What it leads.
    pub leads: Vec<(GroupId, Term)>,
    /// What it led and has let go.
    pub released: Vec<Release>,
}

/// A leader's last word about a group: what was promised to it about this is void.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// Which.
    pub group: GroupId,
    /// The term that it led in.
    pub term: Term,
    /// Who is to lead it; nobody else stands for as long as a promise lasts.
    pub successor: Option<NodeId>,
}

/// The answer to a beat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Echo {
    /// Who answers.
    pub from: NodeId,
    /// The beat's.
    pub life: u64,
    /// The beat's.
    pub number: u64,
    /// Where this node follows the one that asks.
    pub follows: Vec<GroupId>,
}

#[derive(Debug, Clone, Copy)]
struct Promise {
    to: NodeId,
    term: Term,
    until: Uptime,
}

#[derive(Debug, Default)]
struct Peer {
    life: u64,
    /// Of the latest beat that came.
    number: u64,
    /// The same of lives before: what is still on its way of one that is over must not bring those of the next once more.
    former: VecDeque<(u64, u64)>,
    heard: Option<Uptime>,
    /// Of the latest beat that it echoed.
    echoed: u64,
    /// When the latest beat that it echoed was sent.
    echoed_sent: Option<Uptime>,
    /// How long a beat and its echo take, smoothed; none before the first.
    round_trip: Option<Duration>,
    /// By group: the term that it follows us in, and when the beat was sent.
    follows: BTreeMap<GroupId, (Term, Uptime)>,
}

#[derive(Debug)]
struct Sent {
    number: u64,
    at: Uptime,
    leads: Vec<(GroupId, Term)>,
}

/// One node's leases and promises.
#[derive(Debug)]
pub struct Leases {
    node: NodeId,
    life: u64,
    started: Uptime,
    number: u64,
    sent: VecDeque<Sent>,
    peers: BTreeMap<NodeId, Peer>,
    promises: BTreeMap<GroupId, Promise>,
    /// No leader of an earlier term is followed any more.
    pledges: BTreeMap<GroupId, Term>,
    /// What this node led and has let go, and the first beat that says so.
    released: BTreeMap<GroupId, (Release, u64)>,
    /// By group: echoes of earlier beats count for nothing, since what they promised was given back.
    floors: BTreeMap<GroupId, u64>,
}

impl Leases {
    /// A process that has just begun. What it promised in an earlier life it doesn't know: it votes for nobody until all that
    /// has ended.
    pub fn new(node: NodeId, life: u64, started: Uptime) -> Self {
        Self {
            node,
            life,
            started,
            number: 0,
            sent: VecDeque::new(),
            peers: BTreeMap::new(),
            promises: BTreeMap::new(),
            pledges: BTreeMap::new(),
            released: BTreeMap::new(),
            floors: BTreeMap::new(),
        }
    }

    /// The next beat, which says that this node leads these groups.
    pub fn beat(&mut self, now: Uptime, leads: Vec<(GroupId, Term)>) -> Beat {
        self.number += 1;
        self.released.retain(|group, (release, _)| leads.iter().all(|led| led != &(*group, release.term)));
        for (group, term) in &leads {
            // Its own voter is bound like any other.
            if self.pledged(*group) <= *term {
                self.promises.insert(*group, Promise { to: self.node, term: *term, until: now + GRANT });
            }
        }
        self.sent.push_back(Sent { number: self.number, at: now, leads: leads.clone() });
        if self.sent.len() > SENT {
            self.sent.pop_front();
        }
        let released = self.released.values().map(|(release, _)| *release).collect();
        Beat { from: self.node, life: self.life, number: self.number, leads, released }
    }

    /// Takes a peer's beat; `term_of` says which term a group is in here. None when the beat is older than one that came before.
    pub fn heard(&mut self, now: Uptime, beat: &Beat, term_of: impl Fn(GroupId) -> Term) -> Option<Echo> {
        let peer = self.peers.entry(beat.from).or_default();
        if peer.life != beat.life {
            let mut former = std::mem::take(&mut peer.former);
            let known = former.iter().find(|(life, _)| *life == beat.life).map_or(0, |(_, number)| *number);
            former.retain(|(life, _)| *life != beat.life);
            former.push_back((peer.life, peer.number));
            if former.len() > FORMER {
                former.pop_front();
            }
            *peer = Peer { life: beat.life, number: known, former, ..Peer::default() };
        }
        if beat.number <= peer.number {
            return None;
        }
        peer.number = beat.number;
        peer.heard = Some(now);
        for release in &beat.released {
            self.let_go(now, beat.from, *release);
        }
        let mut follows = Vec::with_capacity(beat.leads.len());
        for (group, term) in &beat.leads {
            let pledged = self.pledged(*group);
            let later = self.promises.get(group).is_some_and(|promise| promise.term > *term);
            if *term >= pledged.max(term_of(*group)) && !later {
                self.promises.insert(*group, Promise { to: beat.from, term: *term, until: now + GRANT });
                follows.push(*group);
            }
        }
        Some(Echo { from: self.node, life: beat.life, number: beat.number, follows })
    }

    /// Takes a peer's answer to one of our beats.
    pub fn echoed(&mut self, now: Uptime, echo: &Echo) {
        if echo.life != self.life {
            return;
        }
        let Some(sent) = self.sent.iter().find(|sent| sent.number == echo.number) else { return };
        let peer = self.peers.entry(echo.from).or_default();
        peer.echoed = peer.echoed.max(echo.number);
        peer.echoed_sent = peer.echoed_sent.max(Some(sent.at));
        // Longer than a lease takes no link, but what waited for one: for a neighbour to be found, or a process to go on.
        let took = now.since(sent.at);
        if took < LEASE {
            // RFC 6298's gain.
            peer.round_trip = peer.round_trip.map_or(took, |smoothed| (smoothed * 7 + took) / 8).into();
        }
        for (group, term) in &sent.leads {
            let given_back = self.floors.get(group).is_some_and(|floor| sent.number < *floor);
            if echo.follows.contains(group) && !given_back {
                let follows = peer.follows.entry(*group).or_insert((*term, sent.at));
                *follows = (*follows).max((*term, sent.at));
            }
        }
    }

    /// Until when this node, which leads a group in `term`, owns it. There may be two sets of voters while a membership changes;
    /// each must agree.
    pub fn held_until(&self, now: Uptime, group: GroupId, term: Term, voters: &[BTreeSet<NodeId>]) -> Option<Uptime> {
        let follows = |node: &NodeId| {
            if *node == self.node {
                return (self.pledged(group) <= term).then_some(now);
            }
            let (followed, sent) = *self.peers.get(node)?.follows.get(&group)?;
            (followed == term).then_some(sent)
        };
        self.quorum(voters, follows).map(|sent| sent + LEASE)
    }

    /// How long a beat and its echo take to the slowest of the peers that are heard.
    pub fn round_trip(&self, now: Uptime) -> Duration {
        let heard = self.peers.values().filter(|peer| peer.heard.is_some_and(|heard| now.since(heard) < GRANT));
        heard.filter_map(|peer| peer.round_trip).max().unwrap_or_default()
    }

    /// Whether a majority has answered lately, whatever it said.
    pub fn hears_majority(&self, now: Uptime, voters: &[BTreeSet<NodeId>]) -> bool {
        let answered = |node: &NodeId| if *node == self.node { Some(now) } else { self.peers.get(node)?.echoed_sent };
        let answered = self.quorum(voters, answered);
        answered.is_some_and(|sent| now.since(sent) < LEASE)
    }

    /// The latest moment that a majority of each set has reached.
    fn quorum(&self, voters: &[BTreeSet<NodeId>], reached: impl Fn(&NodeId) -> Option<Uptime>) -> Option<Uptime> {
        let one = |voters: &BTreeSet<NodeId>| {
            let mut all: Vec<Uptime> = voters.iter().filter_map(&reached).collect();
            all.sort_unstable_by(|a, b| b.cmp(a));
            all.get(voters.len() / 2).copied()
        };
        voters.iter().map(one).min().flatten()
    }

    fn let_go(&mut self, now: Uptime, former: NodeId, release: Release) {
        let Release { group, term, successor } = release;
        if self.promises.get(&group).is_some_and(|promise| promise.to == former && promise.term <= term) {
            match successor {
                Some(to) => drop(self.promises.insert(group, Promise { to, term, until: now + GRANT })),
                None => drop(self.promises.remove(&group)),
            }
        }
    }

    /// Lets a group go, for which nothing may be sent any more: the next beats tell the voters that they are free, or to
    /// wait for a successor.
    pub fn release(&mut self, now: Uptime, release: Release) {
        let group = release.group;
        if self.released.get(&group).is_none_or(|(released, _)| released.term < release.term) {
            self.released.insert(group, (release, self.number + 1));
        }
        self.floors.insert(group, self.number + 1);
        for peer in self.peers.values_mut() {
            peer.follows.remove(&group);
        }
        self.let_go(now, self.node, release);
    }

    /// Whether a peer has heard that a group was let go.
    pub fn has_heard_release(&self, group: GroupId, peer: NodeId) -> bool {
        let heard = |(_, first): &(Release, u64)| self.peers.get(&peer).is_some_and(|peer| peer.echoed >= *first);
        self.released.get(&group).is_some_and(heard)
    }

    /// Whether this node may help `candidate` to lead a group.
    pub fn may_vote(&self, now: Uptime, group: GroupId, candidate: NodeId) -> bool {
        let free = |promise: &Promise| promise.to == candidate || promise.until <= now;
        now.since(self.started) >= GRANT && self.promises.get(&group).is_none_or(free)
    }

    fn pledged(&self, group: GroupId) -> Term {
        self.pledges.get(&group).copied().unwrap_or(0)
    }

    /// This node is about to vote in `term`: leaders of earlier terms are not followed any more.
    pub fn pledge(&mut self, group: GroupId, term: Term) {
        let pledged = self.pledges.entry(group).or_default();
        *pledged = term.max(*pledged);
    }

    /// The vote that was pledged for a term was not given: `term` is where the group is. What has been pledged since stands.
    pub fn unpledge(&mut self, group: GroupId, pledged: Term, term: Term) {
        if self.pledged(group) == pledged {
            self.pledges.insert(group, term);
        }
    }

    /// The leader that this node has promised to follow.
    pub fn leader(&self, now: Uptime, group: GroupId) -> Option<NodeId> {
        self.promises.get(&group).filter(|promise| promise.until > now).map(|promise| promise.to)
    }

    /// A peer's process is known to be dead: nothing that was promised to it binds any more.
    pub fn void(&mut self, peer: NodeId) {
        self.promises.retain(|_, promise| promise.to != peer);
        self.peers.remove(&peer);
    }

    /// Whether a peer was heard within the time of a promise.
    pub fn is_heard(&self, now: Uptime, peer: NodeId) -> bool {
        self.peers.get(&peer).and_then(|peer| peer.heard).is_some_and(|heard| now.since(heard) < GRANT)
    }
}

#[cfg(test)]
mod tests;

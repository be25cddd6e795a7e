//! Nodes that beat, freeze, die, stand and move over a network that loses, delays and reorders: never are there two owners.

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;

const GROUP: GroupId = GroupId(7);
const MS: u64 = 1000;

enum Message {
    Beat(Beat),
    Echo(Echo),
    Ask {
        term: Term,
        from: u64,
    },
    Vote {
        term: Term,
        from: u64,
    },
    /// The leader of an earlier term wants its successor to stand.
    Stand {
        term: Term,
    },
}

struct Node {
    id: u64,
    leases: Leases,
    /// What outlives the process: Raft's term, and whom it voted for in it.
    term: Term,
    voted: Option<u64>,
    leads: bool,
    votes: BTreeSet<u64>,
    frozen_until: u64,
    /// Nothing may be sent for the vnode before a move is over.
    moving: bool,
}

struct World {
    rng: StdRng,
    now: u64,
    nodes: Vec<Node>,
    wire: Vec<(u64, u64, Message)>,
    /// From, to, until: cut.
    cuts: Vec<(u64, u64, u64)>,
    voters: Vec<BTreeSet<NodeId>>,
    owned: u64,
}

impl World {
    fn new(seed: u64, count: u64) -> Self {
        let node = |id| Node {
            id,
            leases: Leases::new(NodeId(id), id, Uptime(0)),
            term: 0,
            voted: None,
            leads: false,
            votes: BTreeSet::new(),
            frozen_until: 0,
            moving: false,
        };
        Self {
            rng: StdRng::seed_from_u64(seed),
            now: 1000 * MS,
            nodes: (0..count).map(node).collect(),
            wire: Vec::new(),
            cuts: Vec::new(),
            voters: vec![(0..count).map(NodeId).collect()],
            owned: 0,
        }
    }

    fn send(&mut self, from: u64, to: u64, message: Message) {
        if self.rng.random_ratio(1, 20) || self.cuts.iter().any(|(a, b, until)| (*a, *b) == (from, to) && *until > self.now) {
            return;
        }
        let delay =
            if self.rng.random_ratio(1, 10) { self.rng.random_range(0..500 * MS) } else { self.rng.random_range(0..3 * MS) };
        self.wire.push((self.now + delay, to, message));
    }

    fn others(&self, id: u64) -> Vec<u64> {
        (0..self.nodes.len() as u64).filter(|other| *other != id).collect()
    }

    fn owns(&self, node: &Node) -> bool {
        let held = node.leases.held_until(Uptime(self.now), GROUP, node.term, &self.voters);
        node.leads && !node.moving && held.is_some_and(|until| until.0 > self.now)
    }

    /// The fence: what the lease allowed when it was last looked at, a frozen node included.
    fn check(&mut self) {
        let owners: Vec<u64> = self.nodes.iter().filter(|node| self.owns(node)).map(|node| node.id).collect();
        assert!(owners.len() < 2, "at {} ms: {owners:?}", self.now / MS);
        self.owned += owners.len() as u64;
    }

    fn follow(&mut self, at: usize, term: Term) {
        let node = &mut self.nodes[at];
        if term > node.term {
            (node.term, node.voted, node.leads) = (term, None, false);
        }
    }

    fn take(&mut self, to: u64, message: Message) {
        let at = usize::try_from(to).unwrap();
        let now = Uptime(self.now);
        match message {
            Message::Beat(beat) => {
                let term = self.nodes[at].term;
                let echo = self.nodes[at].leases.heard(now, &beat, |_| term);
                if let Some(echo) = echo {
                    // An append goes with it: who follows is in the leader's term.
                    if let Some((_, term)) = beat.leads.first().filter(|_| !echo.follows.is_empty()) {
                        self.follow(at, *term);
                    }
                    self.send(to, beat.from.0, Message::Echo(echo));
                }
            }
            Message::Echo(echo) => self.nodes[at].leases.echoed(now, &echo),
            Message::Ask { term, from } => {
                let node = &mut self.nodes[at];
                if !node.leases.may_vote(now, GROUP, NodeId(from)) {
                    return;
                }
                node.leases.pledge(GROUP, term);
                let pledged = term;
                if term > node.term || (term == node.term && node.voted.is_none_or(|voted| voted == from)) {
                    if term > node.term {
                        (node.term, node.leads) = (term, false);
                    }
                    node.voted = Some(from);
                    self.send(to, from, Message::Vote { term, from: to });
                } else {
                    let term = node.term;
                    node.leases.unpledge(GROUP, pledged, term);
                }
            }
            Message::Vote { term, from } => {
                let majority = self.nodes.len() / 2 + 1;
                let node = &mut self.nodes[at];
                let stands = term == node.term && node.voted == Some(to) && node.votes.contains(&to);
                if stands && node.votes.insert(from) && node.votes.len() >= majority {
                    (node.leads, node.moving) = (true, false);
                }
            }
            Message::Stand { term } => {
                if self.nodes[at].term == term {
                    self.stand(at);
                }
            }
        }
    }

    fn stand(&mut self, at: usize) {
        let now = Uptime(self.now);
        let node = &mut self.nodes[at];
        let id = node.id;
        if node.leads || !node.leases.may_vote(now, GROUP, NodeId(id)) {
            return;
        }
        node.term += 1;
        node.leases.pledge(GROUP, node.term);
        (node.voted, node.votes) = (Some(id), BTreeSet::from([id]));
        let term = node.term;
        for to in self.others(id) {
            self.send(id, to, Message::Ask { term, from: id });
        }
    }

    fn disturb(&mut self) {
        let count = self.nodes.len() as u64;
        let (a, b) = (self.rng.random_range(0..count), self.rng.random_range(0..count));
        let until = self.now + self.rng.random_range(0..1500 * MS);
        let at = usize::try_from(a).unwrap();
        match self.rng.random_range(0..5) {
            0 => self.nodes[at].frozen_until = until,
            1 => self.cuts.push((a, b, until)),
            2 => self.cuts.extend(self.others(a).into_iter().flat_map(|b| [(a, b, until), (b, a, until)])),
            3 => {
                // It dies, and is there again at once: what it had promised it doesn't know.
                let life = self.rng.random();
                let node = &mut self.nodes[at];
                node.leases = Leases::new(NodeId(a), life, Uptime(self.now));
                (node.leads, node.votes) = (false, BTreeSet::new());
            }
            _ => {
                // It is asked to hand over what it leads; the sockets are closed, then the voters hear of it.
                let node = &mut self.nodes[at];
                if node.leads && !node.moving && a != b {
                    node.moving = true;
                    let term = node.term;
                    node.leases.release(Uptime(self.now), Release { group: GROUP, term, successor: Some(NodeId(b)) });
                    self.send(a, b, Message::Stand { term });
                }
            }
        }
    }

    fn step(&mut self) {
        self.now += self.rng.random_range(0..8 * MS);
        let (mut due, mut later) = (Vec::new(), Vec::new());
        for (at, to, message) in std::mem::take(&mut self.wire) {
            let frozen = self.nodes[usize::try_from(to).unwrap()].frozen_until > self.now;
            if at <= self.now && !frozen { due.push((to, message)) } else { later.push((at, to, message)) }
        }
        self.wire = later;
        while !due.is_empty() {
            let (to, message) = due.swap_remove(self.rng.random_range(0..due.len()));
            self.take(to, message);
            self.check();
        }
        for at in 0..self.nodes.len() {
            let now = Uptime(self.now);
            if self.nodes[at].frozen_until > self.now {
                continue;
            }
            if self.rng.random_ratio(1, 3) {
                let node = &mut self.nodes[at];
                let hears = node.leases.hears_majority(now, &self.voters);
                let leads = if node.leads && !node.moving && hears { vec![(GROUP, node.term)] } else { Vec::new() };
                if node.leads && !hears && !self.owns(&self.nodes[at]) {
                    let term = self.nodes[at].term;
                    self.nodes[at].leases.release(now, Release { group: GROUP, term, successor: None });
                }
                let beat = self.nodes[at].leases.beat(now, leads);
                let id = self.nodes[at].id;
                for to in self.others(id) {
                    self.send(id, to, Message::Beat(beat.clone()));
                }
            }
            if self.nodes[at].leases.leader(now, GROUP).is_none() && self.rng.random_ratio(1, 10) {
                self.stand(at);
            }
            // A move that came to nothing.
            if self.nodes[at].moving && self.rng.random_ratio(1, 50) {
                self.nodes[at].moving = false;
            }
        }
        self.check();
        if self.rng.random_ratio(1, 60) {
            self.disturb();
        }
    }
}

proptest! {
    #[test]
    fn never_are_there_two_owners(seed: u64, five: bool) {
        prop_assert!(owned(seed, five) > 1000, "there is an owner most of the time");
    }
}

/// How often there was an owner.
fn owned(seed: u64, five: bool) -> u64 {
    let mut world = World::new(seed, if five { 5 } else { 3 });
    for _ in 0..4000 {
        world.step();
    }
    world.owned
}

/// Beats of a process that was over came among those of the next when their hearer thawed.
#[test]
fn nor_were_there_where_there_have_been() {
    owned(17_425_700_867_883_558_688, false);
}

fn leases() -> (Leases, Leases, Vec<BTreeSet<NodeId>>) {
    let new = |id| Leases::new(NodeId(id), id, Uptime(0));
    (new(1), new(2), vec![(1..=3).map(NodeId).collect()])
}

fn ms(ms: u64) -> Uptime {
    Uptime(ms * MS)
}

#[test]
fn a_lease_runs_from_the_sending_and_a_promise_from_the_hearing() {
    let (mut leader, mut voter, voters) = leases();
    let beat = leader.beat(ms(1000), vec![(GROUP, 5)]);
    let echo = voter.heard(ms(1030), &beat, |_| 5).unwrap();
    leader.echoed(ms(1060), &echo);
    assert_eq!(leader.held_until(ms(1060), GROUP, 5, &voters), Some(ms(1200)));
    assert_eq!(leader.held_until(ms(1060), GROUP, 6, &voters), None);
    assert!(!voter.may_vote(ms(1249), GROUP, NodeId(3)) && voter.may_vote(ms(1250), GROUP, NodeId(3)));
    assert!(!leader.may_vote(ms(1219), GROUP, NodeId(3)), "its own voter is bound too");
    assert_eq!(voter.heard(ms(1031), &beat, |_| 5), None, "the same beat again");
}

#[test]
fn who_has_voted_for_a_later_term_follows_no_earlier_one() {
    let (mut leader, mut voter, _) = leases();
    voter.pledge(GROUP, 6);
    let follows = |voter: &mut Leases, beat: &Beat| voter.heard(ms(1000), beat, |_| 0).unwrap().follows;
    assert_eq!(follows(&mut voter, &leader.beat(ms(1000), vec![(GROUP, 5)])), []);
    // Nor does a leader count its own voter that has gone over.
    let alone = [BTreeSet::from([NodeId(1)])];
    assert!(leader.held_until(ms(1000), GROUP, 5, &alone).is_some());
    leader.pledge(GROUP, 6);
    assert!(leader.held_until(ms(1000), GROUP, 5, &alone).is_none());
    leader.unpledge(GROUP, 6, 5);
    // The vote was refused after all.
    voter.pledge(GROUP, 7);
    voter.unpledge(GROUP, 6, 5);
    assert_eq!(follows(&mut voter, &leader.beat(ms(1000), vec![(GROUP, 5)])), [], "another vote has been pledged since");
    voter.unpledge(GROUP, 7, 5);
    assert_eq!(follows(&mut voter, &leader.beat(ms(1000), vec![(GROUP, 5)])), [GROUP]);
}

#[test]
fn what_is_let_go_is_free_at_once_and_late_echoes_bring_nothing_back() {
    let (mut leader, mut voter, voters) = leases();
    let beat = leader.beat(ms(1000), vec![(GROUP, 5)]);
    let echo = voter.heard(ms(1000), &beat, |_| 5).unwrap();
    leader.release(ms(1000), Release { group: GROUP, term: 5, successor: None });
    assert!(!leader.has_heard_release(GROUP, NodeId(2)));
    let beat = leader.beat(ms(1001), Vec::new());
    let heard = voter.heard(ms(1001), &beat, |_| 5).unwrap();
    leader.echoed(ms(1001), &heard);
    assert!(leader.has_heard_release(GROUP, NodeId(2)) && voter.may_vote(ms(1001), GROUP, NodeId(3)));
    leader.beat(ms(1002), vec![(GROUP, 5)]);
    leader.echoed(ms(1003), &echo);
    assert_eq!(leader.held_until(ms(1003), GROUP, 5, &voters), None);
}

/// A datagram of a process that is over comes among those of the next, which come in any order: what was let go and has been taken again stays taken.
#[test]
fn a_former_life_brings_nothing_back() {
    let (mut former, mut voter, _) = leases();
    let mut leader = Leases::new(NodeId(1), 9, Uptime(0));
    let late = former.beat(ms(999), Vec::new());
    leader.beat(ms(1000), vec![(GROUP, 5)]);
    leader.release(ms(1001), Release { group: GROUP, term: 5, successor: Some(NodeId(3)) });
    let released = leader.beat(ms(1001), Vec::new());
    let taken = leader.beat(ms(1002), vec![(GROUP, 5)]);
    assert!(voter.heard(ms(1003), &taken, |_| 5).is_some());
    voter.heard(ms(1004), &late, |_| 5);
    assert_eq!(voter.heard(ms(1005), &released, |_| 5), None);
    assert!(!voter.may_vote(ms(1006), GROUP, NodeId(3)) && voter.leader(ms(1006), GROUP) == Some(NodeId(1)));
}

#[test]
fn nobody_stands_before_the_successor() {
    let (mut leader, mut voter, _) = leases();
    let beat = leader.beat(ms(1000), vec![(GROUP, 5)]);
    voter.heard(ms(1000), &beat, |_| 5).unwrap();
    leader.release(ms(1001), Release { group: GROUP, term: 5, successor: Some(NodeId(3)) });
    voter.heard(ms(1001), &leader.beat(ms(1001), Vec::new()), |_| 5).unwrap();
    for node in [&leader, &voter] {
        assert!(node.may_vote(ms(1002), GROUP, NodeId(3)) && !node.may_vote(ms(1002), GROUP, NodeId(2)));
        assert_eq!(node.leader(ms(1002), GROUP), Some(NodeId(3)));
        assert!(node.may_vote(ms(1222), GROUP, NodeId(2)), "not for ever");
    }
}

#[test]
fn a_process_that_has_just_begun_votes_for_nobody() {
    let (_, voter, _) = leases();
    assert!(!voter.may_vote(ms(219), GROUP, NodeId(3)) && voter.may_vote(ms(220), GROUP, NodeId(3)));
}

#[test]
fn the_dead_bind_nobody() {
    let (mut leader, mut voter, _) = leases();
    let beat = leader.beat(ms(1000), vec![(GROUP, 5)]);
    assert!(voter.heard(ms(1000), &beat, |_| 5).is_some() && voter.is_heard(ms(1100), NodeId(1)));
    voter.void(NodeId(1));
    assert!(voter.may_vote(ms(1001), GROUP, NodeId(3)) && !voter.is_heard(ms(1001), NodeId(1)));
    assert_eq!(voter.leader(ms(1001), GROUP), None);
}

/// Who stands waits for the slowest that is there, and not for who is gone.
#[test]
fn a_round_trip_is_the_slowest_that_is_heard() {
    let (mut leader, mut voter, _) = leases();
    for at in [1000, 1020] {
        let beat = leader.beat(ms(at), Vec::new());
        let echo = voter.heard(ms(at + 10), &beat, |_| 5).unwrap();
        leader.heard(ms(at + 20), &voter.beat(ms(at + 10), Vec::new()), |_| 5);
        leader.echoed(ms(at + 30), &echo);
    }
    assert_eq!(leader.round_trip(ms(1050)), Duration::from_millis(30));
    assert_eq!(leader.round_trip(ms(1300)), Duration::ZERO);
}

/// While a membership changes, a lease wants a majority of the old voters and one of the new.
#[test]
fn a_lease_wants_both_majorities() {
    let (mut leader, mut voter, _) = leases();
    let voters = |range: std::ops::RangeInclusive<u64>| range.map(NodeId).collect::<BTreeSet<_>>();
    let beat = leader.beat(ms(1000), vec![(GROUP, 5)]);
    leader.echoed(ms(1000), &voter.heard(ms(1000), &beat, |_| 5).unwrap());
    assert!(leader.held_until(ms(1001), GROUP, 5, &[voters(1..=3)]).is_some());
    assert!(leader.held_until(ms(1001), GROUP, 5, &[voters(1..=3), voters(1..=5)]).is_none());
}

#[test]
fn a_node_alone_is_its_own_majority() {
    let (leader, ..) = leases();
    assert_eq!(leader.held_until(ms(1), GROUP, 1, &[]), None, "without voters there is none");
    assert_eq!(leader.held_until(ms(1), GROUP, 1, &[[NodeId(1)].into()]), Some(ms(201)));
}

//! What happens to a cluster, and when: all of it drawn from one seed.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// The nodes that found the cluster, by their place.
pub const FOUNDERS: usize = 3;
/// And one that may join it.
pub const NODES: usize = FOUNDERS + 1;
/// So many faults strike at most.
const STRIKES: usize = 8;
/// Within this time.
const WINDOW: Duration = Duration::from_secs(6);

#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// The process dies; its kernel refuses whoever knocks, and its storage brings everything to the platter.
    Kill(usize),
    /// The machine stops: silence, and what was not on the platter is gone.
    PowerLoss(usize),
    /// Nobody hears this node, and it hears nobody.
    CutOff(usize),
    /// Two nodes don't hear each other.
    Cut(usize, usize),
    /// The second doesn't hear the first.
    CutOneWay(usize, usize),
    /// What two nodes say to each other comes when this ends.
    Hold(usize, usize),
    /// What two nodes say to each other takes up to so long.
    Slow(usize, usize, Duration),
    /// Some of what two nodes say to each other is lost; a connection that loses something is broken.
    Lossy(usize, usize),
}

#[derive(Debug, Clone, Copy)]
pub struct Strike {
    /// After the cluster is well.
    pub at: Duration,
    pub fault: Fault,
    pub lasts: Duration,
}

/// What an operator wants, and goes on wanting until it is so.
#[derive(Debug, Clone, Copy)]
pub enum Wish {
    /// The node that is none of the founders is a member.
    Join,
    /// A node is none any more.
    Leave(usize),
}

#[derive(Debug)]
pub struct Schedule {
    pub strikes: Vec<Strike>,
    /// When, after the cluster is well, and what; each when the one before has come true.
    pub wishes: Vec<(Duration, Wish)>,
}

impl Schedule {
    pub fn random(seed: u64) -> Self {
        let mut dice = StdRng::seed_from_u64(seed);
        let joins = dice.random_bool(0.5);
        let nodes = if joins { NODES } else { FOUNDERS };
        let strikes = dice.random_range(1..=STRIKES);
        let mut strikes: Vec<Strike> = (0..strikes).map(|_| Strike::random(nodes, &mut dice)).collect();
        strikes.sort_by_key(|strike| strike.at);
        let mut wishes = Vec::new();
        if joins {
            let join = WINDOW.mul_f64(dice.random::<f64>() * 0.7);
            wishes.push((join, Wish::Join));
            if dice.random_bool(0.7) {
                wishes.push((join + WINDOW.mul_f64(dice.random::<f64>() * 0.5), Wish::Leave(dice.random_range(0..NODES))));
            }
        }
        Self { strikes, wishes }
    }
}

impl Strike {
    fn random(nodes: usize, dice: &mut StdRng) -> Self {
        let one = dice.random_range(0..nodes);
        let other = (one + dice.random_range(1..nodes)) % nodes;
        let fault = match dice.random_range(0..10) {
            0 | 1 => Fault::Kill(one),
            2 => Fault::PowerLoss(one),
            3 | 4 => Fault::CutOff(one),
            5 => Fault::Cut(one, other),
            6 => Fault::CutOneWay(one, other),
            7 => Fault::Hold(one, other),
            8 => Fault::Slow(one, other, Duration::from_millis(dice.random_range(20..400))),
            _ => Fault::Lossy(one, other),
        };
        // Most are about as long as a lease, some longer than any patience.
        let longest = if dice.random_bool(0.6) { 400 } else { 3000 };
        Self { at: WINDOW.mul_f64(dice.random()), fault, lasts: Duration::from_millis(dice.random_range(10..longest)) }
    }
}

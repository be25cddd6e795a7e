//! What happens to a cluster, and when: all of it drawn from one seed.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// The nodes, by their place.
pub const NODES: usize = 3;
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

#[derive(Debug)]
pub struct Schedule(pub Vec<Strike>);

impl Schedule {
    pub fn random(seed: u64) -> Self {
        let mut dice = StdRng::seed_from_u64(seed);
        let strikes = dice.random_range(1..=STRIKES);
        let mut all: Vec<Strike> = (0..strikes).map(|_| Strike::random(&mut dice)).collect();
        all.sort_by_key(|strike| strike.at);
        Self(all)
    }
}

impl Strike {
    fn random(dice: &mut StdRng) -> Self {
        let one = dice.random_range(0..NODES);
        let other = (one + dice.random_range(1..NODES)) % NODES;
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

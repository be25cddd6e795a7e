//! What happens to an owner at a point, and to a packet on its way.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// A place in a run at which something may happen to the owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// A commit is asked for, and nobody else has it.
    Asked,
    /// A majority has it, and the owner doesn't know.
    Held,
    /// A message is about to leave.
    Sends,
}

/// What happens to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blow {
    /// The process dies; a successor comes after the takeover.
    Dies,
    /// It loses its vnode, and hears so in place of its commit; a successor is there at once.
    Deposed,
}

/// A run's misfortunes.
#[derive(Debug)]
pub enum Fate {
    /// These blows: each so many points after the one before.
    Planned { blows: Vec<(Blow, usize)>, passed: usize },
    /// Whatever the dice say.
    Random { dice: Box<StdRng>, blow: f64, left: u32, loss: f64, delay: u64 },
}

impl Fate {
    pub fn none() -> Self {
        Self::Planned { blows: Vec::new(), passed: 0 }
    }

    pub fn strikes(blow: Blow, at: usize) -> Self {
        Self::Planned { blows: vec![(blow, at)], passed: 0 }
    }

    pub fn strikes_twice(first: usize, later: usize) -> Self {
        Self::Planned { blows: vec![(Blow::Dies, first), (Blow::Dies, later)], passed: 0 }
    }

    /// A schedule's own misfortunes, and its dice.
    pub fn random(seed: u64) -> (Self, StdRng) {
        let mut dice = StdRng::seed_from_u64(seed);
        let mut own = StdRng::seed_from_u64(dice.random());
        let fate = Self::Random {
            blow: own.random_range(0.0..0.08),
            left: own.random_range(0..5),
            loss: if own.random_bool(0.5) { 0.0 } else { own.random_range(0.0..0.12) },
            delay: own.random_range(0..4),
            dice: Box::new(own),
        };
        (fate, dice)
    }

    /// What happens at this point. A blow between two sends is always a death: what is told there needs no commit.
    pub fn at(&mut self, point: Point) -> Option<Blow> {
        match self {
            Self::Planned { blows, passed } => {
                *passed += 1;
                let (blow, at) = *blows.first()?;
                if *passed < at {
                    return None;
                }
                blows.remove(0);
                *passed = 0;
                Some(if point == Point::Sends { Blow::Dies } else { blow })
            }
            Self::Random { dice, blow, left, .. } => {
                if *left == 0 || !dice.random_bool(*blow) {
                    return None;
                }
                *left -= 1;
                Some(if point == Point::Sends || dice.random_bool(0.5) { Blow::Dies } else { Blow::Deposed })
            }
        }
    }

    /// When the copies of a packet arrive, counted from now.
    pub fn arrivals(&mut self, tick: Duration) -> Vec<Duration> {
        let Self::Random { dice, loss, delay, .. } = self else { return vec![Duration::ZERO] };
        let copies = if dice.random_bool(*loss) { 0 } else { 1 + usize::from(dice.random_bool(*loss / 4.0)) };
        (0..copies).map(|_| tick * u32::try_from(dice.random_range(0..=*delay)).unwrap()).collect()
    }
}

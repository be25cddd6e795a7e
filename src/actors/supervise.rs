//! How often a child may fail: a budget for each, not one for all. Layer: shell.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::Timestamp;

/// So many restarts within [`WITHIN`]; the next failure gives the child up.
pub const RESTARTS: usize = 3;
/// See [`RESTARTS`].
pub const WITHIN: Duration = Duration::from_secs(10);

/// One child's budget.
#[derive(Debug, Default, Clone)]
pub struct Budget {
    failures: VecDeque<Timestamp>,
}

impl Budget {
    /// The child has failed; tells whether it may be started again.
    pub fn failed(&mut self, now: Timestamp) -> bool {
        while self.failures.front().is_some_and(|at| now.since(*at) > WITHIN) {
            self.failures.pop_front();
        }
        self.failures.push_back(now);
        self.failures.len() <= RESTARTS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fourth_failure_in_ten_seconds_is_the_last() {
        let mut budget = Budget::default();
        let at = |seconds: u64| Timestamp(seconds * 1000);
        assert_eq!([0, 1, 2, 3].map(|second| budget.failed(at(second))), [true, true, true, false]);
        let mut slow = Budget::default();
        assert!((0..100).all(|n| slow.failed(at(n * 4))));
    }
}

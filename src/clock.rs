//! Time as the pure parts see it, and the one place that reads it. Layer: ground.
//!
//! A [`Timestamp`] is comparable between nodes (records carry deadlines) and never steps back within a
//! process: the wall clock is read once, and the monotonic clock carries it on. A clock that is stepped
//! by an hour therefore moves nothing in a running node; one that starts takes the time of those who are there ([`follow`]), since
//! records carry deadlines and must not end sooner because they are read elsewhere. An [`Uptime`] is for leases: it goes on while the machine is
//! suspended, so that whoever wakes up knows how long it was away.

use std::fmt;
use std::ops::{Add, Sub};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use source::own;
pub use source::uptime;

/// Microseconds since this machine started, its suspensions included. Never comparable between machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Uptime(pub u64);

impl Uptime {
    /// The time since `earlier`; zero when `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Uptime {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_micros()).unwrap_or(u64::MAX)))
    }
}

/// Milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// The time since `earlier`; zero when `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for Timestamp {
    type Output = Self;

    fn sub(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}", self.0 / 1000, self.0 % 1000)
    }
}

/// A clock that is off by less is as good as another.
const TOLERANCE: u64 = 1000;
/// By how many milliseconds the cluster's time is ahead of this machine's.
static AHEAD: AtomicI64 = AtomicI64::new(0);

/// The present moment. For shells only: the pure parts take it as an argument.
pub fn now() -> Timestamp {
    Timestamp(own().0.saturating_add_signed(AHEAD.load(Ordering::Relaxed)))
}

/// Takes the time of somebody whose records we are to carry on; gives by how many milliseconds it is ahead, if it is worth
/// saying. For a node that starts: in one that acts for anybody time never steps.
pub fn follow(theirs: Timestamp) -> Option<i64> {
    if theirs.0.abs_diff(now().0) <= TOLERANCE {
        return None;
    }
    let ahead = theirs.0.checked_signed_diff(own().0)?;
    AHEAD.store(ahead, Ordering::Relaxed);
    Some(ahead)
}

/// The instant on the runtime's clock that `at` stands for; the past is now.
#[allow(clippy::disallowed_methods, reason = "the one place that reads the clocks")]
pub fn instant_of(at: Timestamp) -> tokio::time::Instant {
    tokio::time::Instant::now() + at.since(now())
}

/// The machine's clocks.
#[cfg(not(feature = "simulated"))]
mod source {
    use std::sync::OnceLock;
    use std::time::{Instant, SystemTime, UNIX_EPOCH};

    use nix::time::{ClockId, clock_gettime};

    use super::{Duration, Timestamp, Uptime};

    /// The present moment, for leases. For shells only.
    pub fn uptime() -> Uptime {
        // Every Linux has this clock; without it no lease would ever hold, which is the safe side.
        clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Uptime(u64::MAX), |now| Uptime::default() + Duration::from(now))
    }

    #[allow(clippy::disallowed_methods, reason = "the one place that reads the clocks")]
    pub(super) fn own() -> Timestamp {
        static ANCHOR: OnceLock<(Timestamp, Instant)> = OnceLock::new();
        let (wall, at) = ANCHOR.get_or_init(|| {
            let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            (Timestamp::default() + wall, Instant::now())
        });
        *wall + at.elapsed()
    }
}

/// The clock of turmoil's network.
#[cfg(feature = "simulated")]
mod source {
    use super::{Timestamp, Uptime};

    /// The present moment, for leases. For shells only.
    pub fn uptime() -> Uptime {
        Uptime::default() + turmoil::sim_elapsed().expect("only simulated nodes ask")
    }

    pub(super) fn own() -> Timestamp {
        Timestamp::default() + turmoil::since_epoch().expect("only simulated nodes ask")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each test is a process of its own: nobody else's time moves.
    #[test]
    fn whoever_starts_takes_the_time_of_the_others() {
        let own = now();
        assert_eq!(follow(own + Duration::from_millis(500)), None);
        let ahead = follow(own + Duration::from_secs(3600)).unwrap();
        assert!((3_590_000..=3_600_000).contains(&ahead), "{ahead}");
        assert!(now().since(own) >= Duration::from_secs(3590));
        assert!(follow(own - Duration::from_secs(3600)).unwrap() < -3_590_000);
        assert!(now() < own);
    }
}

//! Time as the pure parts see it, and the one place that reads it. Layer: ground.
//!
//! A [`Timestamp`] is comparable between nodes (records carry deadlines) and never steps back within a
//! process: the wall clock is read once, and the monotonic clock carries it on. A clock that is stepped
//! by an hour therefore moves nothing in a running node. An [`Uptime`] is for leases: it goes on while the machine is
//! suspended, so that whoever wakes up knows how long it was away.

use std::fmt;
use std::ops::{Add, Sub};
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

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

/// The present moment, for leases. For shells only.
pub fn uptime() -> Uptime {
    // Every Linux has this clock; without it no lease would ever hold, which is the safe side.
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Uptime(u64::MAX), |now| Uptime::default() + Duration::from(now))
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

/// The present moment. For shells only: the pure parts take it as an argument.
#[allow(clippy::disallowed_methods, reason = "the one place that reads the clocks")]
pub fn now() -> Timestamp {
    static ANCHOR: OnceLock<(Timestamp, Instant)> = OnceLock::new();
    let (wall, at) = ANCHOR.get_or_init(|| {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        (Timestamp::default() + wall, Instant::now())
    });
    *wall + at.elapsed()
}

/// The instant on the runtime's clock that `at` stands for; the past is now.
#[allow(clippy::disallowed_methods, reason = "the one place that reads the clocks")]
pub fn instant_of(at: Timestamp) -> tokio::time::Instant {
    tokio::time::Instant::now() + at.since(now())
}

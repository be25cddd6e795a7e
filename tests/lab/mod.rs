//! The lab: a cluster of real processes on loopback, real phones and load, and what breaks them.
//!
//! Everything it starts ends with it, and each lab has addresses, ports and a directory of its own.

#![allow(dead_code, reason = "each test uses its part")]

pub mod baresip;
pub mod cluster;
pub mod sipp;
pub mod tone;

use std::time::{Duration, Instant};

/// Waits until something is true; fails when it takes longer than `within`.
pub async fn until<F: Future<Output = bool>>(what: &str, within: Duration, check: impl Fn() -> F) {
    let deadline = Instant::now() + within;
    while !check().await {
        assert!(Instant::now() < deadline, "{what}: not within {within:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

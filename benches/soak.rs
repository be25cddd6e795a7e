//! An hour of calls with a fault every twenty seconds: `make soak`; SECONDS, EVERY, PAIRS and SEED change it.

#![allow(clippy::unwrap_used, missing_docs, reason = "a bench")]

#[path = "../tests/lab/mod.rs"]
mod lab;

use std::time::Duration;

use lab::net;
use lab::soak::{self, Plan};

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

fn main() {
    net::run(3, async |net| {
        let plan = Plan {
            pairs: usize::try_from(number("PAIRS", 60)).unwrap(),
            span: Duration::from_secs(number("SECONDS", 3600)),
            every: Duration::from_secs(number("EVERY", 20)),
            talk: Duration::from_secs(90),
            seed: number("SEED", 1),
        };
        let broken = soak::run(net, plan).await;
        for promise in &broken {
            println!("BROKEN: {promise}");
        }
        assert!(broken.is_empty(), "{} promises are broken", broken.len());
        println!("no promise is broken");
    });
}

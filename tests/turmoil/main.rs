//! The real cluster engine, three nodes of it and one more that joins, in turmoil's network and by its clock: openraft, wire and
//! TLS, beats, leases, elections, moves, membership and recovery are what runs in production; sockets, time and disks are
//! simulated. Layer: test.
//!
//! ```text
//!  schedule (a seed): kills, power losses, cuts both ways and one way, holds, delays, losses, a node joins, one leaves ─▶ heal
//!  at each virtual millisecond: nobody owns what another owns      at the end: an owner each, and every commit everywhere
//! ```
//!
//! What fails prints its seed: `make turmoil SEED=n` runs that schedule again (`docs/decisions/0014` says how exactly).

#![allow(clippy::unwrap_used, missing_docs, unreachable_pub, reason = "a test")]
#![allow(clippy::wildcard_enum_match_arm, reason = "a test names what it is about")]

mod node;
mod schedule;
mod world;

use std::sync::Mutex;
use std::time::Duration;

use schedule::{Fault, Schedule, Strike};
use world::World;

/// Random schedules, unless SCHEDULES says otherwise.
const SCHEDULES: u64 = 20;

/// What tasks of the engine have panicked with: tokio keeps that to itself.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// RUST_LOG shows what the nodes say, at which virtual moment.
fn listen() {
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_timer(Moment).with_ansi(false).try_init();
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        PANICS.lock().unwrap().push(panic.to_string());
        usual(panic);
    }));
}

struct Moment;

impl tracing_subscriber::fmt::time::FormatTime for Moment {
    fn format_time(&self, to: &mut tracing_subscriber::fmt::format::Writer<'_>) -> std::fmt::Result {
        write!(to, "{:>10.3?}", turmoil::sim_elapsed().unwrap_or_default())
    }
}

/// Everything that the engine promises its users, under whatever the schedules bring.
#[test]
fn no_schedule_breaks_a_promise() {
    if let Some(seed) = number("SEED") {
        return run(seed);
    }
    for seed in 0..number("SCHEDULES").unwrap_or(SCHEDULES) {
        println!("{}", alone(seed));
    }
}

fn run(seed: u64) {
    listen();
    let mut world = World::new(seed);
    let schedule = Schedule::random(seed);
    let ran = world.run(&schedule).and_then(|story| match PANICS.lock().unwrap().first() {
        Some(panic) => Err(format!("a task panicked: {panic}")),
        None => Ok(story),
    });
    match ran {
        Ok(story) => println!("schedule {seed}: {story}"),
        Err(wrong) => {
            world.tell();
            panic!("schedule {seed} breaks a promise: {wrong}; run it again: make turmoil SEED={seed}\n{schedule:#?}");
        }
    }
}

/// Runs a schedule in a process of its own, as whoever replays it will: what ran before in a process leaves its traces.
fn alone(seed: u64) -> String {
    let mut this = std::process::Command::new(std::env::current_exe().unwrap());
    let ran =
        this.args(["--exact", "no_schedule_breaks_a_promise", "--nocapture"]).env("SEED", seed.to_string()).output().unwrap();
    let told = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{told}{}", String::from_utf8_lossy(&ran.stderr));
    told.lines().find(|line| line.starts_with("schedule")).unwrap().to_owned()
}

/// One node is away for long, and the owner of a vnode dies with entries in its log that nobody else has: of the two that are
/// left only it can be elected.
#[test]
fn a_killed_owner_with_the_longest_log_is_elected_again() {
    let at = Duration::from_millis;
    let strike = |from, fault, lasts| Strike { at: at(from), fault, lasts: at(lasts) };
    let mut world = World::new(1);
    let schedule = [strike(0, Fault::Kill(2), 10_000), strike(1000, Fault::CutOff(1), 150), strike(1100, Fault::Kill(1), 100)];
    world.begin(&schedule).unwrap();
    world.owner_within(tandem::ids::VnodeId(2), at(3000)).unwrap();
}

/// What a seed has found can be looked at: it gives the same run, to the millisecond. Only where tokio's own dice are seeded too.
#[cfg(tokio_unstable)]
#[test]
fn a_seed_gives_the_same_run() {
    assert_eq!(alone(5), alone(5));
}

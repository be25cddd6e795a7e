//! What a packet costs the relay: CPU seconds for a million, beside rtpengine in user space and the least that a relay of sockets can cost, in one
//! run; what it adds to the packet's way, and what is lost.
//!
//! `cargo bench --bench media`. 2,000 streams of 50 packets a second, both ways of 1,000 calls. The floor is a program that does nothing but read a
//! packet from a connected socket, when epoll says that there is one, and send it on by another. All relays have as many threads; what one takes
//! without any packet is measured before and taken off. STREAMS says how many, REPEATS how often.
//!
//! On loopback whoever sends pays for the kernel's work on both sides, so what it takes to find a socket is in nobody's figure. All phones have the same
//! few addresses: the ways there are always known, and what a connected socket saves is less than elsewhere.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs, unreachable_pub, reason = "a bench")]
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::wildcard_enum_match_arm, reason = "a bench")]

#[path = "media/floor.rs"]
mod floor;
#[path = "../tests/lab/mod.rs"]
mod lab;
#[path = "media/rtpengine.rs"]
mod rtpengine;
#[path = "media/streams.rs"]
mod streams;

use std::time::Duration;

use tandem::cli::demo::phone::Phone;

use lab::cluster::{Cluster, DOMAIN};
use lab::cpu;
use streams::{Figure, Phones, Session};

/// How long packets are counted, and how long they flow before.
const SPAN: Duration = Duration::from_secs(5);
const WARM: Duration = Duration::from_secs(3);
/// Calls are set up so many at once.
const AT_ONCE: usize = 20;
/// Threads of each relay.
const THREADS: usize = 2;
const FLOOR: &str = "the floor: connected sockets";
const PEER: &str = "rtpengine in user space";
/// What a relay takes without packets is measured for so long.
const IDLE: Duration = Duration::from_secs(3);

fn number(name: &str, or: usize) -> usize {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(or)
}

fn main() {
    if floor::is_asked_for() {
        return floor::run();
    }
    let (calls, repeats) = (number("STREAMS", 2000) / 2, number("REPEATS", 3));
    println!(
        "{} streams of 50 packets/s          CPU s for a million packets (each run)   idle CPU/s   lost  p50 us  p99 us",
        calls * 2
    );
    let phones = Phones::new();
    let straight = (0..calls).map(|n| phones.pair(n)).map(|[a, b]| Session { phones: [a, b], relay: [b, a] }).collect();
    let (floor, through_floor) = floor::Floor::start(&phones, calls);
    let mut relays = vec![
        Relay { name: "no relay", sessions: straight, pids: Vec::new() },
        Relay { name: FLOOR, sessions: through_floor, pids: vec![floor.pid()] },
    ];
    let peer = rtpengine::Rtpengine::start();
    match &peer {
        Some(peer) => {
            let sessions = (0..calls).map(|n| peer.session(n, phones.pair(n))).collect();
            relays.push(Relay { name: PEER, sessions, pids: vec![peer.pid()] });
        }
        None => eprintln!("rtpengine is not installed: no peer"),
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let cluster = Cluster::of(1, calls);
    let (sessions, _phones) = runtime.block_on(set_up(&cluster, &phones, calls));
    relays.push(Relay { name: "tandem", sessions, pids: cluster.pids().to_vec() });
    compare(&phones, &relays, repeats);
}

/// A relay, and the calls that go through it.
struct Relay {
    name: &'static str,
    sessions: Vec<Session>,
    pids: Vec<i32>,
}

/// Measures relays in turn, and says how the last stands to the floor and to the peer: by the median of what it was in each turn, since a machine's
/// pace is another in the next.
fn compare(phones: &Phones, relays: &[Relay], repeats: usize) {
    let idle = |relay: &Relay| {
        // It has seen every stream by then, and done what it does about a new one.
        streams::run(phones, &relay.sessions, WARM, Duration::ZERO, || 0.0);
        let before = cpu(&relay.pids);
        std::thread::sleep(IDLE);
        (cpu(&relay.pids) - before) / IDLE.as_secs_f64()
    };
    let idle: Vec<f64> = relays.iter().map(idle).collect();
    let mut all: Vec<Vec<(f64, Figure)>> = vec![Vec::new(); relays.len()];
    for _ in 0..repeats {
        for ((relay, idle), figures) in relays.iter().zip(&idle).zip(&mut all) {
            let figure = streams::run(phones, &relay.sessions, WARM, SPAN, || cpu(&relay.pids));
            figures.push(((figure.cpu - idle * SPAN.as_secs_f64()) * 1e6 / figure.delivered.max(1) as f64, figure));
        }
    }
    for ((relay, idle), figures) in relays.iter().zip(idle).zip(&all) {
        let each = figures.iter().map(|(cost, _)| format!("{cost:.2}")).collect::<Vec<_>>().join(" ");
        let lost: u64 = figures.iter().map(|(_, figure)| figure.lost).sum();
        let of = |what: fn(&Figure) -> f64| median(figures.iter().map(|(_, figure)| what(figure)));
        let cost = median(figures.iter().map(|(cost, _)| *cost));
        let (p50, p99) = (of(|figure| figure.p50), of(|figure| figure.p99));
        println!("{:<30} {cost:>6.2} ({each:<20}) {idle:>14.3} {lost:>9} {p50:>7.0} {p99:>7.0}", relay.name);
    }
    let Some(ours) = all.last() else { return };
    for (other, theirs) in relays.iter().zip(&all).filter(|(other, _)| [FLOOR, PEER].contains(&other.name)) {
        let ratio = median(ours.iter().zip(theirs).map(|((ours, _), (theirs, _))| ours / theirs));
        println!("tandem / {:<28} {ratio:.2}", other.name);
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Has phones call each other through a node. The calls last as long as the phones.
async fn set_up(cluster: &Cluster, phones: &Phones, calls: usize) -> (Vec<Session>, Vec<Phone>) {
    let server = cluster.sip_of(1);
    let (mut sessions, mut talking) = (Vec::new(), Vec::new());
    for first in (0..calls).step_by(AT_ONCE) {
        let some = (first..calls.min(first + AT_ONCE)).map(|n| {
            let ((user, password), [a, b]) = (cluster.users[n].clone(), phones.pair(n));
            tokio::spawn(async move {
                let mut caller = Phone::new(&user, &password, DOMAIN, server, a).await.unwrap();
                let mut callee = Phone::new(&user, &password, DOMAIN, server, b).await.unwrap();
                callee.register().await.unwrap();
                let (called, answered) = tokio::join!(caller.call(&user), callee.answer());
                (Session { phones: [a, b], relay: [called.unwrap(), answered.unwrap()] }, [caller, callee])
            })
        });
        for one in some.collect::<Vec<_>>() {
            let (session, pair) = one.await.unwrap();
            sessions.push(session);
            talking.extend(pair);
        }
    }
    (sessions, talking)
}

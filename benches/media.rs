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
    let straight: Vec<_> = (0..calls).map(|n| phones.pair(n)).map(|[a, b]| Session { phones: [a, b], relay: [b, a] }).collect();
    row("no relay", &phones, &straight, &[], repeats, &[]);
    let floor = {
        let (floor, sessions) = floor::Floor::start(&phones, calls);
        row("the floor: connected sockets", &phones, &sessions, &[floor.pid()], repeats, &[])
    };
    let peer = rtpengine::Rtpengine::start().map(|rtpengine| {
        let sessions = (0..calls).map(|n| rtpengine.session(n, phones.pair(n))).collect::<Vec<_>>();
        row("rtpengine in user space", &phones, &sessions, &[rtpengine.pid()], repeats, &[("the floor", floor)])
    });
    if peer.is_none() {
        eprintln!("rtpengine is not installed: no peer");
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let cluster = Cluster::of(1, calls);
    let (sessions, _phones) = runtime.block_on(set_up(&cluster, &phones, calls));
    let others: Vec<_> = peer.map(|peer| ("rtpengine", peer)).into_iter().chain([("the floor", floor)]).collect();
    row("tandem", &phones, &sessions, cluster.pids(), repeats, &others);
}

/// Measures a relay, and says how it stands to others; gives the median of CPU seconds for a million packets.
fn row(name: &str, phones: &Phones, sessions: &[Session], pids: &[i32], repeats: usize, others: &[(&str, f64)]) -> f64 {
    // It has seen every stream by then, and done what it does about a new one.
    streams::run(phones, sessions, WARM, Duration::ZERO, || 0.0);
    let before = cpu(pids);
    std::thread::sleep(IDLE);
    let idle = (cpu(pids) - before) / IDLE.as_secs_f64();
    let mut all: Vec<(f64, Figure)> = (0..repeats)
        .map(|_| {
            let figure = streams::run(phones, sessions, WARM, SPAN, || cpu(pids));
            ((figure.cpu - idle * SPAN.as_secs_f64()) * 1e6 / figure.delivered.max(1) as f64, figure)
        })
        .collect();
    let each = all.iter().map(|(cost, _)| format!("{cost:.2}")).collect::<Vec<_>>().join(" ");
    let lost: u64 = all.iter().map(|(_, figure)| figure.lost).sum();
    all.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    let (median, figure) = all[all.len() / 2];
    let ratios: String = others.iter().map(|(other, cost)| format!("  {:.2} of {other}'s", median / cost)).collect();
    println!("{name:<30} {median:>6.2} ({each:<20}) {idle:>14.3} {lost:>9} {:>7.0} {:>7.0}{ratios}", figure.p50, figure.p99);
    median
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

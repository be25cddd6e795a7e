//! What a packet costs the relay: CPU seconds for a million, beside rtpengine in user space and the least that a relay of sockets can cost, in one
//! run; what it adds to the packet's way, and what is lost.
//!
//! `cargo bench --bench media`. 2,000 streams of 50 packets a second, both ways of 1,000 calls. The floor is a program that does nothing but read a
//! packet from a connected socket, when epoll says that there is one, and send it on by another. STREAMS says how many, REPEATS how often.

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

fn number(name: &str, or: usize) -> usize {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(or)
}

fn main() {
    if floor::is_asked_for() {
        return floor::run();
    }
    let (calls, repeats) = (number("STREAMS", 2000) / 2, number("REPEATS", 3));
    println!("{} streams of 50 packets/s    CPU s a million packets (each run)    lost  p50 us  p99 us", calls * 2);
    let phones = Phones::new();
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
    let mut all = Vec::new();
    let mut last = Figure::default();
    for repeat in 0..repeats {
        let warm = if repeat == 0 { WARM } else { Duration::from_secs(1) };
        let figure = streams::run(phones, sessions, warm, SPAN, || cpu(pids));
        all.push(figure.cpu * 1e6 / figure.delivered.max(1) as f64);
        last = Figure { lost: last.lost + figure.lost, ..figure };
    }
    let each = all.iter().map(|cost| format!("{cost:.2}")).collect::<Vec<_>>().join(" ");
    all.sort_by(f64::total_cmp);
    let median = all[all.len() / 2];
    let ratios: String = others.iter().map(|(other, cost)| format!("  {:.2} of {other}'s", median / cost)).collect();
    println!("{name:<30} {median:>6.2} ({each:<20}) {:>8} {:>7.0} {:>7.0}{ratios}", last.lost, last.p50, last.p99);
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

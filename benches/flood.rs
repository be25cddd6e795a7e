//! What a flood from one source does to the calls of others: their setup times, quiet and under 20,000 packets a second of rubbish, INVITEs
//! and REGISTERs, in one run.
//!
//! `cargo bench --bench flood`. Callers, callees, flood and three nodes share the machine.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs, unreachable_pub, reason = "a bench")]
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a length")]

#[path = "../tests/lab/mod.rs"]
mod lab;

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lab::cluster::{Cluster, DOMAIN};
use lab::sipp::{Line, Load, Sipp};
use lab::{SIP, address};

/// Calls a second, for so many calls.
const RATE: usize = 20;
const CALLS: usize = 600;
const TALK: u64 = 1000;
const USERS: usize = 50;
/// Packets a second.
const FLOOD: u64 = 20_000;

#[tokio::main]
async fn main() {
    let cluster = Cluster::start(USERS);
    let users = &cluster.users;
    let callee = Sipp::waiting("callee");
    let line = |n: usize, last: String| Line { user: &users[n].0, password: &users[n].1, last };
    let registering: Vec<_> = (0..USERS).map(|n| line(n, callee.contact())).collect();
    let load = Load { calls: USERS, per_second: 50, talk: 0 };
    let registered = Sipp::toward(cluster.sip_of(1), "register", &registering, &load).done().await;
    assert_eq!(registered.failed, 0, "{registered:?}");
    let calling: Vec<_> = (0..USERS).map(|n| line(n, users[(n + 1) % USERS].0.clone())).collect();
    let load = Load { calls: CALLS, per_second: RATE, talk: TALK };
    println!("setup of {CALLS} calls at {RATE}/s      p50 ms   p99 ms   worst  failed");
    let mut p99s = Vec::new();
    for name in ["quiet", "quiet again", "under a flood"] {
        let flood = (name == "under a flood").then(|| Flood::begin(cluster.sip_of(2)));
        let mut caller = Sipp::toward(cluster.sip_of(2), "caller", &calling, &load);
        while caller.is_running() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let sent = flood.map(Flood::end);
        let (counts, mut setups) = (caller.counts(), caller.setups());
        setups.sort_by(f64::total_cmp);
        let at =
            |share: f64| setups.get(((setups.len() as f64 * share) as usize).min(setups.len() - 1)).copied().unwrap_or(f64::NAN);
        println!("{name:<28} {:>8.2} {:>8.2} {:>8.2} {:>7}", at(0.5), at(0.99), at(1.0), counts.failed);
        if let Some((sent, seconds)) = sent {
            println!("{sent} packets in {seconds:.0} s: {:.0}/s", sent as f64 / seconds);
        }
        assert_eq!((counts.succeeded, counts.failed), (CALLS as u64, 0), "{counts:?}");
        p99s.push(at(0.99));
    }
    println!("p99 under the flood / quiet: {:.2}", p99s[2] / p99s[0].max(p99s[1]));
}

/// A source that sends what leads to nothing.
struct Flood {
    ends: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: JoinHandle<()>,
    begun: Instant,
}

impl Flood {
    fn begin(target: SocketAddr) -> Self {
        let (ends, sent) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let thread = std::thread::spawn({
            let (ends, sent) = (ends.clone(), sent.clone());
            move || flood(target, &ends, &sent)
        });
        Self { ends, sent, thread, begun: Instant::now() }
    }

    fn end(self) -> (u64, f64) {
        self.ends.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        (self.sent.load(Ordering::Relaxed), self.begun.elapsed().as_secs_f64())
    }
}

fn flood(target: SocketAddr, ends: &AtomicBool, sent: &AtomicU64) {
    let socket = UdpSocket::bind((address(99), SIP)).unwrap();
    let own = socket.local_addr().unwrap();
    let begun = Instant::now();
    let mut n = 0_u64;
    while !ends.load(Ordering::Relaxed) {
        let due = u64::try_from(begun.elapsed().as_micros()).unwrap() * FLOOD / 1_000_000;
        while n < due {
            n += 1;
            let request = |method: &str| {
                format!(
                    "{method} sip:u{:04}@{DOMAIN} SIP/2.0\r\nVia: SIP/2.0/UDP {own};branch=z9hG4bK{n}\r\nMax-Forwards: 70\r\n\
                     From: <sip:x{n}@{DOMAIN}>;tag={n}\r\nTo: <sip:u{:04}@{DOMAIN}>\r\nCall-ID: {n}@flood\r\nCSeq: 1 {method}\r\n\
                     Contact: <sip:x@{own}>\r\nContent-Length: 0\r\n\r\n",
                    n % 100,
                    n % 100
                )
            };
            let packet = match n % 3 {
                0 => request("INVITE").into_bytes(),
                1 => request("REGISTER").into_bytes(),
                _ => (0..300_u64).map(|at| u8::try_from((at * 7 + n) % 251 + 3).unwrap()).collect(),
            };
            let _ = socket.send_to(&packet, target);
        }
        sent.store(n, Ordering::Relaxed);
        std::thread::sleep(Duration::from_micros(500));
    }
}

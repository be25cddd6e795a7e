//! What a packet costs the relay: CPU seconds for a million, beside rtpengine in user space and the least that a relay of sockets can cost, in one
//! run; what it adds to the packet's way, and what is lost. As it is (RTP), with keys on one side of the call, and with keys of their own on both. Then
//! what calls cost that are made over, beside their codecs alone.
//!
//! `cargo bench --bench media`. 2,000 streams of 50 packets a second, both ways of 1,000 calls. The floor is a program that does nothing but read a
//! packet from a connected socket, when epoll says that there is one, and send it on by another. All relays have as many threads; what one takes
//! without any packet is measured before and taken off. STREAMS says how many, REPEATS how often;
//! ONLY is `relay` or `coding`.
//!
//! On loopback whoever sends pays for the kernel's work on both sides, so what it takes to find a socket is in nobody's figure. All phones have the same
//! few addresses: the ways there are always known, and what a connected socket saves is less than elsewhere.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs, unreachable_pub, reason = "a bench")]
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::wildcard_enum_match_arm, reason = "a bench")]

#[path = "media/coding.rs"]
mod coding;
#[path = "media/floor.rs"]
mod floor;
#[path = "../tests/lab/mod.rs"]
mod lab;
#[path = "media/rtpengine.rs"]
mod rtpengine;
#[path = "media/streams.rs"]
mod streams;

use std::net::Ipv4Addr;
use std::ops::Range;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tandem::cli::demo::phone::{Phone, rtp_address};
use tandem::media::core::srtp::{MasterKey, Suite};

use lab::cluster::{Cluster, DOMAIN};
use lab::cpu;
use streams::{Calls, Figure, Phones, Session};

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
    let (phones, runtime) = (Phones::at(Ipv4Addr::LOCALHOST.into()), tokio::runtime::Runtime::new().unwrap());
    if std::env::var_os("ONLY").is_none_or(|only| only == "relay") {
        relay(&phones, &runtime, calls, repeats);
    }
    if std::env::var_os("ONLY").is_none_or(|only| only == "coding") {
        coding::compare(&phones, &runtime, repeats);
    }
}

fn relay(phones: &Phones, runtime: &tokio::runtime::Runtime, calls: usize, repeats: usize) {
    println!(
        "{} streams of 50 packets/s          CPU s for a million packets (each run)   idle CPU/s   lost  p50 us  p99 us",
        calls * 2
    );
    let straight = |n| phones.pair(n);
    let straight = (0..calls).map(straight).map(|[a, b]| Session { phones: [a, b], relay: [b, a], keys: [None, None] }).collect();
    let (floor, through_floor) = floor::Floor::start(phones, calls);
    let peer = rtpengine::Rtpengine::start();
    if peer.is_none() {
        eprintln!("rtpengine is not installed: no peer");
    }
    let mut before = vec![
        Relay { name: "no relay".into(), calls: Calls::new(straight), pids: Vec::new() },
        Relay { name: FLOOR.into(), calls: Calls::new(through_floor), pids: vec![floor.pid()] },
    ];
    for kind in Kind::ALL {
        // Each has a server of its own, and the machine to itself.
        let cluster = Cluster::of(1, calls);
        let (sessions, _talking) = runtime.block_on(set_up(&cluster, phones, 0..calls, kind, |_, _| ()));
        let mut relays = std::mem::take(&mut before);
        if let Some(peer) = &peer {
            let sessions = (0..calls).map(|n| peer.session(n, phones.pair(n), kind)).collect();
            relays.push(Relay { name: format!("{PEER}, {}", kind.name()), calls: Calls::new(sessions), pids: vec![peer.pid()] });
        }
        relays.push(Relay {
            name: format!("tandem, {}", kind.name()),
            calls: Calls::new(sessions),
            pids: cluster.pids().to_vec(),
        });
        compare(phones, &relays, repeats);
    }
}

/// Which sides of a call protect their media.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Plain,
    One,
    Both,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Plain, Self::One, Self::Both];

    fn name(self) -> &'static str {
        match self {
            Self::Plain => "RTP",
            Self::One => "SRTP to RTP",
            Self::Both => "SRTP to SRTP",
        }
    }

    /// By what a side of a call protects what it says: by another suite than the other, or rtpengine would pass their keys on and do nothing.
    pub fn key(self, n: usize, side: usize) -> Option<MasterKey> {
        let does = self == Self::Both || (self == Self::One && side == 0);
        let suite = if side == 0 { Suite::AesCm128HmacSha1_80 } else { Suite::AesCm128HmacSha1_32 };
        does.then(|| MasterKey::of_secret(suite, format!("{n} {side}").as_bytes()))
    }
}

/// As `a=crypto` says it, with the number that its suite has in an offer.
pub fn crypto(key: &MasterKey, offer: &str) -> String {
    let name = key.suite().name();
    let before = offer.split(&format!(" {name} ")).next().filter(|before| before.len() < offer.len());
    let number = before.map_or("1", |before| before.rsplit(':').next().unwrap());
    format!("{number} {name} inline:{}", STANDARD.encode(key.bytes()))
}

/// The key of a suite in a description.
pub fn key_in(sdp: &str, suite: Suite) -> MasterKey {
    let key = sdp.split(&format!("{} inline:", suite.name())).nth(1).unwrap_or_else(|| panic!("no key: {sdp}"));
    MasterKey::new(suite, &STANDARD.decode(key.split(['\r', '|']).next().unwrap()).unwrap()).unwrap()
}

/// A relay, and the calls that go through it.
struct Relay {
    name: String,
    calls: Calls,
    pids: Vec<i32>,
}

/// Measures relays in turn, and says how the last stands to the floor and to the peer: by the median of what it was in each turn, since a machine's
/// pace is another in the next.
fn compare(phones: &Phones, relays: &[Relay], repeats: usize) {
    let idle = |relay: &Relay| {
        // It has seen every stream by then, and done what it does about a new one.
        streams::run(phones, &relay.calls, WARM, Duration::ZERO, || 0.0);
        let before = cpu(&relay.pids);
        std::thread::sleep(IDLE);
        (cpu(&relay.pids) - before) / IDLE.as_secs_f64()
    };
    let idle: Vec<f64> = relays.iter().map(idle).collect();
    let mut all: Vec<Vec<(f64, Figure)>> = vec![Vec::new(); relays.len()];
    for _ in 0..repeats {
        for ((relay, idle), figures) in relays.iter().zip(&idle).zip(&mut all) {
            let figure = streams::run(phones, &relay.calls, WARM, SPAN, || cpu(&relay.pids));
            figures.push(((figure.cpu - idle * SPAN.as_secs_f64()) * 1e6 / figure.delivered.max(1) as f64, figure));
        }
    }
    for ((relay, idle), figures) in relays.iter().zip(idle).zip(&all) {
        let each = figures.iter().map(|(cost, _)| format!("{cost:.2}")).collect::<Vec<_>>().join(" ");
        let lost: u64 = figures.iter().map(|(_, figure)| figure.lost).sum();
        let of = |what: fn(&Figure) -> f64| median(figures.iter().map(|(_, figure)| what(figure)));
        let cost = median(figures.iter().map(|(cost, _)| *cost));
        let (p50, p99) = (of(|figure| figure.p50), of(|figure| figure.p99));
        println!("{:<42} {cost:>6.2} ({each:<20}) {idle:>14.3} {lost:>9} {p50:>7.0} {p99:>7.0}", relay.name);
    }
    let Some(ours) = all.last() else { return };
    for (other, theirs) in relays.iter().zip(&all).filter(|(other, _)| other.name == FLOOR || other.name.starts_with(PEER)) {
        let ratio = median(ours.iter().zip(theirs).map(|((ours, _), (theirs, _))| ours / theirs));
        println!("tandem / {:<33} {ratio:.2}", other.name);
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Has phones call each other through a node, made ready by `prepare`. The calls last as long as the phones.
async fn set_up(
    cluster: &Cluster,
    phones: &Phones,
    calls: Range<usize>,
    kind: Kind,
    prepare: fn(&mut Phone, usize),
) -> (Vec<Session>, Vec<Phone>) {
    let server = cluster.sip_of(1);
    let (mut sessions, mut talking) = (Vec::new(), Vec::new());
    for first in calls.clone().step_by(AT_ONCE) {
        let some = (first..calls.end.min(first + AT_ONCE)).map(|n| {
            let ((user, password), pair) = (cluster.users[n].clone(), phones.pair(n));
            tokio::spawn(async move {
                let mut caller = Phone::new(&user, &password, DOMAIN, server, pair[0]).await.unwrap();
                let mut callee = Phone::new(&user, &password, DOMAIN, server, pair[1]).await.unwrap();
                prepare(&mut caller, 0);
                prepare(&mut callee, 1);
                callee.register().await.unwrap();
                let [ours, theirs] = [0, 1].map(|side| kind.key(n, side));
                if let Some(key) = &ours {
                    caller.protects("RTP/SAVP", &format!("a=crypto:{}", crypto(key, "")));
                }
                let offer = caller.sdp();
                let rings = async {
                    let ringing = callee.ring(Duration::ZERO).await.unwrap();
                    let offer = String::from_utf8(ringing.invite().body.to_vec()).unwrap();
                    if let Some(key) = &theirs {
                        // It is offered keys that it may do without.
                        callee.protects("RTP/AVP", &format!("a=crypto:{}", crypto(key, &offer)));
                    }
                    (callee.pick_up(&ringing).await.unwrap(), offer)
                };
                let (answer, (toward_callee, offered)) = tokio::join!(caller.try_call(&user, "", &offer), rings);
                let answered = String::from_utf8(answer.unwrap().body.to_vec()).unwrap();
                let toward_caller = rtp_address(answered.as_bytes()).unwrap();
                let keys = |own: Option<MasterKey>, told: &str| own.map(|own| [own.clone(), key_in(told, own.suite())]);
                let keys = [keys(ours, &answered), keys(theirs, &offered)];
                (Session { phones: pair, relay: [toward_caller, toward_callee], keys }, [caller, callee])
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

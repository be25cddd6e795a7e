//! The gaps in the sound of a hundred calls, while the node that has them dies, freezes, is cut off, or hands them over.
//!
//! `make failover` prints the tables of `docs/failover.md`. Hosts in network namespaces, addresses that move by netlink, three
//! nodes and all phones on one machine. A gap is the time between two packets that a phone received, 20 ms when nothing happens.
//! Then a thousand calls (MANY) whose node is killed; the same as at first with addresses that stay (`address.mode = "fixed"`), and phones that follow
//! a re-INVITE; and a peer, if it is installed. CALLS, RUNS and ONLY (one of [`PARTS`]) change it; a gap of WORST milliseconds ends it and keeps the
//! nodes' logs; TELL=1 says what the survivors did when. A thousand calls of 20 ms packets leave nothing of two cores: PTIME
//! gives them longer ones, whose gaps are as much coarser.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs, unreachable_pub, reason = "a bench")]
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::wildcard_enum_match_arm, reason = "a bench")]

#[path = "../tests/lab/mod.rs"]
mod lab;
#[allow(dead_code, reason = "the other bench's part of it")]
#[path = "media/streams.rs"]
mod media;
#[path = "failover/peer.rs"]
mod peer;
#[path = "failover/streams.rs"]
mod streams;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tandem::cli::demo::phone::Phone;
use tandem::cli::demo::talk::Talk;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use lab::cluster::{Cluster, DOMAIN, PATIENCE};
use lab::net::{self, Net, Watch};
use lab::{call, cpu, machine_cpu, phones, until};
use media::{Calls, Phones, Session};
use streams::Streams;

/// What can be measured alone; `cuts` and `moves` are parts of `netlink`.
const PARTS: [&str; 6] = ["netlink", "many", "fixed", "peer", "cuts", "moves"];
/// The node that has the calls, and its vnodes.
const NODE: usize = 2;
const VNODES: [usize; 2] = [2, 5];
/// Longer than any successor takes.
const BEFORE: Duration = Duration::from_secs(1);
/// The calls have all been heard again.
const AFTER: Duration = Duration::from_secs(1);

struct Bench {
    net: Arc<Net>,
    cluster: Cluster,
    watch: Option<Watch>,
    phones: Vec<(Phone, Phone)>,
    talks: Vec<Arc<[Talk; 2]>>,
    /// Of calls that have no [`Talk`].
    streams: Option<Streams>,
    runs: usize,
    /// Phones that follow.
    following: Vec<JoinHandle<Phone>>,
    enough: watch::Sender<bool>,
}

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

fn main() -> ExitCode {
    let only = std::env::var("ONLY").ok();
    if let Some(unknown) = only.as_deref().filter(|only| !PARTS.contains(only)) {
        eprintln!("ONLY={unknown}: nothing of that name is measured; there are {}", PARTS.join(", "));
        return ExitCode::FAILURE;
    }
    net::run(3, async |net| {
        let (calls, runs) = (number("CALLS", 100), number("RUNS", 20));
        let shall = |what: &str| only.as_deref().is_none_or(|only| only == what);
        println!("{calls} calls, {} streams; {runs} faults each; milliseconds", 2 * calls);
        if only.as_deref().is_some_and(|only| ["cuts", "moves"].contains(&only)) {
            let mut bench = Bench::start(net.clone(), Cluster::at(&net, 2 * calls).await, calls, runs).await;
            bench.quiet().await;
            if shall("cuts") {
                bench.cuts().await;
            } else {
                bench.moves().await;
            }
            return;
        }
        if shall("netlink") {
            let mut bench = Bench::start(net.clone(), Cluster::at(&net, 2 * calls).await, calls, runs).await;
            println!("\n| addresses move | median | p99 | worst |\n|---|---|---|---|");
            bench.quiet().await;
            bench.kills().await;
            bench.freezes().await;
            bench.cuts().await;
            bench.moves().await;
            let (watch, sip) = (bench.watch.take().unwrap(), bench.cluster.sip.clone());
            bench.end().await;
            println!("No address was answered by two hosts at once:");
            for vnode in VNODES {
                let turns = watch.turns(sip[vnode - 1].ip());
                println!("vnode {vnode} was at {} hosts, one after another", turns.len());
            }
        }
        if shall("many") {
            let calls = number("MANY", 1000);
            let mut bench = Bench::of_many(net.clone(), Cluster::at(&net, calls).await, calls, runs).await;
            println!("\n| {} streams, addresses move | median | p99 | worst |\n|---|---|---|---|", 2 * calls);
            bench.quiet().await;
            bench.kills().await;
            bench.load().await;
            bench.end().await;
        }
        if shall("fixed") {
            let mut bench = Bench::start(net.clone(), Cluster::fixed(&net, 2 * calls).await, calls, runs).await;
            bench.follow();
            println!("\n| addresses stay, phones follow | median | p99 | worst |\n|---|---|---|---|");
            bench.quiet().await;
            bench.kills().await;
            bench.cuts().await;
            bench.stop_following().await;
            bench.end().await;
        }
        if shall("peer") {
            peer::rows(&net, calls, runs).await;
        }
    });
    ExitCode::SUCCESS
}

impl Bench {
    async fn start(net: Arc<Net>, cluster: Cluster, calls: usize, runs: usize) -> Self {
        let watch = Some(Watch::start());
        let (mut phones, mut talks) = (Vec::new(), Vec::new());
        for n in 0..calls {
            let server = cluster.sip[VNODES[n % 2] - 1];
            let (mut a, a_media) = call::phone_at(&cluster, 2 * n, server).await;
            let (mut b, b_media) = call::phone_at(&cluster, 2 * n + 1, server).await;
            b.register().await.unwrap();
            talks.push(Arc::new(call::to(&cluster.users[2 * n + 1].0, (&mut a, a_media), (&mut b, b_media)).await));
            phones.push((a, b));
        }
        tokio::time::sleep(AFTER).await;
        Self { net, cluster, watch, phones, talks, streams: None, runs, following: Vec::new(), enough: watch::Sender::new(false) }
    }

    /// The same with calls whose sound is [`Streams`], each of one user's two phones. Nobody watches the wire: that would cost more than the rest.
    async fn of_many(net: Arc<Net>, cluster: Cluster, calls: usize, runs: usize) -> Self {
        let media = Phones::at(phones().into());
        let (mut all, mut sessions) = (Vec::new(), Vec::new());
        for n in 0..calls {
            let ((user, password), server) = (&cluster.users[n], cluster.sip[VNODES[n % 2] - 1]);
            let phone = |media| Phone::new(user, password, DOMAIN, server, media);
            let pair = media.pair(n);
            let (mut a, mut b) = (phone(pair[0]).await.unwrap(), phone(pair[1]).await.unwrap());
            b.register().await.unwrap();
            let (a_to, b_to) = tokio::join!(a.call(user), b.answer());
            sessions.push(Session { phones: pair, relay: [a_to.unwrap(), b_to.unwrap()], keys: [None, None] });
            all.push((a, b));
        }
        let mut calls = Calls::new(sessions);
        calls.ticks = number("PTIME", calls.ticks);
        let streams = Some(Streams::start(media, calls));
        // Each port's peer is steady then.
        tokio::time::sleep(AFTER * 5).await;
        Self {
            net,
            cluster,
            watch: None,
            phones: all,
            talks: Vec::new(),
            streams,
            runs,
            following: Vec::new(),
            enough: watch::Sender::new(false),
        }
    }

    /// From now on the phones do what they are asked to within their calls.
    fn follow(&mut self) {
        for ((a, b), talks) in self.phones.drain(..).zip(&self.talks) {
            for (side, mut phone) in [a, b].into_iter().enumerate() {
                let (talks, mut enough) = (talks.clone(), self.enough.subscribe());
                self.following.push(tokio::spawn(async move {
                    loop {
                        tokio::select! {
                            to = phone.follow() => talks[side].turn_to(to.unwrap()),
                            _ = enough.wait_for(|enough| *enough) => return phone,
                        }
                    }
                }));
            }
        }
    }

    async fn stop_following(&mut self) {
        self.enough.send_replace(true);
        let mut phones = self.following.drain(..);
        while let (Some(a), Some(b)) = (phones.next(), phones.next()) {
            self.phones.push((a.await.unwrap(), b.await.unwrap()));
        }
    }

    fn gaps(&self) -> Vec<Duration> {
        let mut gaps: Vec<_> = self.talks.iter().flat_map(|talks| talks.iter()).map(Talk::take_gap).collect();
        gaps.extend(self.streams.iter().flat_map(Streams::take_gaps));
        let worst = Duration::from_millis(number("WORST", 60_000) as u64);
        assert!(gaps.iter().all(|gap| *gap < worst), "{:?}", gaps.iter().max());
        gaps
    }

    async fn settle(&self) -> Vec<Duration> {
        self.cluster.at_home().await;
        tokio::time::sleep(AFTER).await;
        self.gaps()
    }

    async fn quiet(&mut self) {
        self.gaps();
        tokio::time::sleep(AFTER * 5).await;
        row("nothing happens", self.gaps());
    }

    async fn kills(&mut self) {
        let (mut gaps, mut home) = (Vec::new(), Vec::new());
        for _ in 0..self.runs {
            self.gaps();
            let at = SystemTime::now();
            self.cluster.kill(NODE);
            tokio::time::sleep(BEFORE).await;
            let these = self.gaps();
            if number("TELL", 0) > 0 {
                println!("worst {:?}", these.iter().max());
                self.cluster.tell(at);
            }
            gaps.extend(these);
            self.cluster.start_again(NODE);
            home.extend(self.settle().await);
        }
        row("`kill -9` of the owner", gaps);
        row("its way home, started again", home);
    }

    async fn freezes(&mut self) {
        let (mut gaps, mut home) = (Vec::new(), Vec::new());
        for _ in 0..self.runs {
            self.gaps();
            self.cluster.freeze(NODE, true);
            tokio::time::sleep(BEFORE).await;
            gaps.extend(self.gaps());
            self.cluster.freeze(NODE, false);
            home.extend(self.settle().await);
        }
        row("the owner frozen (SIGSTOP)", gaps);
        row("its way home, thawed", home);
    }

    async fn cuts(&mut self) {
        let (mut gaps, mut home) = (Vec::new(), Vec::new());
        for _ in 0..self.runs {
            self.gaps();
            self.net.cut(NODE);
            tokio::time::sleep(BEFORE).await;
            gaps.extend(self.gaps());
            self.net.heal();
            home.extend(self.settle().await);
        }
        row("the owner's host cut off", gaps);
        row("its way home, healed", home);
    }

    /// What all of it takes of the machine.
    async fn load(&self) {
        let busy = || (cpu(self.cluster.pids()), machine_cpu());
        let (before, span) = (busy(), AFTER * 5);
        tokio::time::sleep(span).await;
        let [nodes, all] = [busy().0 - before.0, busy().1 - before.1].map(|seconds| seconds / span.as_secs_f64());
        let cores = std::thread::available_parallelism().unwrap();
        println!("While nothing happens {all:.2} of {cores} cores are busy; the nodes take {nodes:.2}.");
    }

    fn lost(&self) -> u64 {
        self.talks.iter().flat_map(|talks| talks.iter()).map(|talk| talk.heard().lost()).sum()
    }

    async fn moves(&mut self) {
        let mut gaps = Vec::new();
        let before = self.lost();
        for _ in 0..self.runs.div_ceil(2) {
            for to in [3, NODE] {
                self.gaps();
                for vnode in VNODES {
                    self.cluster.command(&["move", &vnode.to_string(), &to.to_string()]).await.unwrap();
                }
                tokio::time::sleep(AFTER).await;
                gaps.extend(self.gaps());
            }
        }
        row("planned move (`tandem move`)", gaps);
        println!("{} packets were lost in {} moves.", self.lost() - before, self.runs.div_ceil(2) * 2 * VNODES.len());
    }

    /// Every call is hung up by one of its phones, has its CDR, and nothing is left of it.
    async fn end(self) {
        let Self { cluster, phones, streams, .. } = self;
        drop(streams);
        let calls = phones.len() as u64;
        for (mut a, mut b) in phones {
            let (hung_up, ended) = tokio::join!(a.hang_up(), b.wait_for_bye());
            hung_up.and(ended).unwrap();
        }
        until("every call has its CDR and no port is open", PATIENCE, || async {
            let cdrs = cluster.count(1, "/v1/cdrs?limit=0", "total").await;
            let mut open = 0;
            for node in 1..=3 {
                open += cluster.count(node, "/v1/cluster", "media_sockets").await;
            }
            cdrs == calls && open == 0
        })
        .await;
        println!("\n{calls} calls hung up, {calls} CDRs, no port open.");
    }
}

fn row(what: &str, mut gaps: Vec<Duration>) {
    gaps.sort_unstable();
    let at = |percent: usize| gaps[(gaps.len() * percent / 100).min(gaps.len() - 1)].as_secs_f64() * 1000.0;
    println!("| {what} | {:.0} | {:.0} | {:.0} |", at(50), at(99), at(100));
}

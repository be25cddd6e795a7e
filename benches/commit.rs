//! What a commit costs: three nodes, real sockets, TLS and disks, beside a plain TCP round trip in the same run.
//!
//! `cargo bench --bench commit`. The three nodes share one process and the machine's cores.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    missing_docs,
    reason = "a bench"
)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tandem::cluster::state::{Member, VnodeCommand};
use tandem::cluster::storage::Place;
use tandem::cluster::tls::{NodeTls, development_ca};
use tandem::cluster::{Cluster, Ownership, Settings};
use tandem::ids::{CallId, NodeId, VnodeId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A call's record is about this long.
const RECORD: usize = 2500;
const VNODE: VnodeId = VnodeId(1);
const SPAN: Duration = Duration::from_secs(4);

#[tokio::main]
async fn main() {
    let dir = tempfile::tempdir().unwrap();
    let tls = development_ca(&dir.path().join("tls"), &[1, 2, 3]).unwrap();
    let mut members = BTreeMap::new();
    for node in 1..=3 {
        let raft = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        members.insert(NodeId(node), Member { raft, actors: raft, leaving: false });
    }
    let mut nodes = Vec::new();
    for (node, files) in (1..=3).zip(&tls) {
        let settings = Settings {
            addresses: BTreeMap::new(),
            mover: tandem::cluster::address::Mover::Binding,
            secret: b"the cluster's secret".to_vec(),
            storage: Place::Thread,
            node: NodeId(node),
            members: members.clone(),
            replicas: 3,
            vnodes: [(VNODE, NodeId(1))].into(),
            dir: dir.path().join(node.to_string()),
            tls: NodeTls::load(files).unwrap(),
        };
        nodes.push(Cluster::start(settings).await.unwrap());
    }
    let owner = nodes[0].clone();
    owner.ownership(VNODE).unwrap().wait_for(|ownership| matches!(ownership, Ownership::Owner { .. })).await.unwrap();
    println!("three nodes, {RECORD}-byte records      p50 us   p99 us    writes/s  CPU us a write (all nodes)");
    let mut alone = 0.0;
    for writers in [1, 16, 256] {
        let before = cpu();
        let times = write(&owner, writers).await;
        let used = (cpu() - before) / times.len() as f64 * 1e6;
        if writers == 1 {
            alone = at(&times, 0.5);
        }
        let rate = times.len() as f64 / SPAN.as_secs_f64();
        println!("{writers:>4} writers at once {:>18.0} {:>8.0} {rate:>11.0} {used:>8.0}", at(&times, 0.5), at(&times, 0.99));
    }
    let floor = round_trips().await;
    println!(
        "a TCP round trip of the same size {:>4.0} {:>8.0}   one commit alone takes {:.1} of them",
        at(&floor, 0.5),
        at(&floor, 0.99),
        alone / at(&floor, 0.5)
    );
}

async fn write(owner: &Arc<Cluster>, writers: u128) -> Vec<f64> {
    let end = Instant::now() + SPAN;
    let tasks = (0..writers).map(|writer| {
        let owner = owner.clone();
        tokio::spawn(async move {
            let record = Bytes::from(vec![7; RECORD]);
            let mut times = Vec::new();
            while Instant::now() < end {
                let begin = Instant::now();
                owner.propose(VNODE, VnodeCommand::PutCall { call: CallId(writer), record: record.clone() }).await.unwrap();
                times.push(begin.elapsed().as_secs_f64() * 1e6);
            }
            times
        })
    });
    let mut all = Vec::new();
    for task in tasks.collect::<Vec<_>>() {
        all.extend(task.await.unwrap());
    }
    all.sort_by(f64::total_cmp);
    all
}

async fn round_trips() -> Vec<f64> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut buffer = vec![0; RECORD];
        while stream.read_exact(&mut buffer).await.is_ok() {
            stream.write_all(&[1]).await.unwrap();
        }
    });
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let record = vec![7; RECORD];
    let mut times = Vec::new();
    for _ in 0..5000 {
        let begin = Instant::now();
        stream.write_all(&record).await.unwrap();
        stream.read_u8().await.unwrap();
        times.push(begin.elapsed().as_secs_f64() * 1e6);
    }
    times.sort_by(f64::total_cmp);
    times
}

fn at(times: &[f64], share: f64) -> f64 {
    let rank = (times.len() - 1) * (share * 100.0).round().max(0.0) as usize / 100;
    times[rank]
}

/// CPU seconds of this process.
fn cpu() -> f64 {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF).unwrap();
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    seconds(usage.user_time()) + seconds(usage.system_time())
}

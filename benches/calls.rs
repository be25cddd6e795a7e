//! What a basic call costs the server: CPU seconds for a thousand, one node and three, beside Kamailio in one run.
//!
//! `cargo bench --bench calls`. A call is INVITE (challenged, answered), 180, 200, ACK, 200 ms of talk, BYE, with the
//! callee looked up in the registrar. Kamailio is a proxy that keeps dialogs in its own memory and carries no media;
//! tandem is a back-to-back user agent that binds media ports, and on three nodes replicates every step.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs, unreachable_pub, reason = "a bench")]

#[path = "../tests/lab/mod.rs"]
mod lab;

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lab::cluster::Cluster;
use lab::sipp::{Line, Load, Sipp};
use lab::{SIP, cpu, own_address};

const CALLS: usize = 2000;
const RATE: usize = 50;
const TALK: u64 = 200;
const USERS: usize = 50;
/// Idle cost is measured for this long, before.
const IDLE: Duration = Duration::from_secs(3);
/// What is done later is paid for too.
const SETTLE: Duration = Duration::from_secs(2);

struct Figure {
    name: &'static str,
    /// CPU seconds for 1,000 calls, without what an idle server takes.
    cpu: f64,
    idle: f64,
    failed: u64,
    retransmissions: u64,
}

#[tokio::main]
async fn main() {
    let mut figures = Vec::new();
    match Kamailio::start() {
        Some(kamailio) => {
            let users: Vec<_> = (1..=USERS).map(|n| (format!("u{n:04}"), format!("pu{n:04}"))).collect();
            figures.push(
                measure("Kamailio, dialogs in memory", kamailio.address, &users, &[kamailio.child.id().try_into().unwrap()])
                    .await,
            );
        }
        None => eprintln!("Kamailio is not installed: no peer"),
    }
    for (name, nodes) in [("tandem, one node", 1), ("tandem, three nodes", 3)] {
        let cluster = Cluster::of(nodes, USERS);
        figures.push(measure(name, cluster.sip_of(1), &cluster.users.clone(), cluster.pids()).await);
    }
    println!("CPU seconds of the server for 1,000 calls at {RATE}/s   idle CPU/s  failed  retransmitted  ratio");
    let peer = figures.first().filter(|figure| figure.name.starts_with("Kamailio")).map(|figure| figure.cpu);
    for figure in &figures {
        let ratio = peer.map_or("-".into(), |peer| format!("{:.2}", figure.cpu / peer));
        println!(
            "{:<40} {:>9.3} {:>14.3} {:>7} {:>14} {:>6}",
            figure.name, figure.cpu, figure.idle, figure.failed, figure.retransmissions, ratio
        );
    }
}

async fn measure(name: &'static str, server: SocketAddr, users: &[(String, String)], pids: &[i32]) -> Figure {
    let callee = Sipp::waiting("callee");
    let line = |n: usize, last: String| Line { user: &users[n].0, password: &users[n].1, last };
    let registering: Vec<_> = (0..USERS).map(|n| line(n, callee.contact())).collect();
    let registered = Sipp::toward(server, "register", &registering, &Load { calls: USERS, per_second: 50, talk: 0 }).done().await;
    assert_eq!(registered.failed, 0, "{registered:?}");
    let before = cpu(pids);
    tokio::time::sleep(IDLE).await;
    let idle = (cpu(pids) - before) / IDLE.as_secs_f64();
    let calling: Vec<_> = (0..USERS).map(|n| line(n, users[(n + 1) % USERS].0.clone())).collect();
    let (before, begin) = (cpu(pids), Instant::now());
    let counts = Sipp::toward(server, "caller", &calling, &Load { calls: CALLS, per_second: RATE, talk: TALK }).done().await;
    tokio::time::sleep(SETTLE).await;
    let used = cpu(pids) - before - idle * begin.elapsed().as_secs_f64();
    Figure { name, cpu: used / (CALLS as f64 / 1000.0), idle, failed: counts.failed, retransmissions: counts.retransmissions }
}

struct Kamailio {
    child: Child,
    address: SocketAddr,
    _dir: tempfile::TempDir,
}

impl Kamailio {
    fn start() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let address = SocketAddr::from((own_address(), SIP));
        let config = include_str!("kamailio.cfg").replace("ADDRESS", &address.to_string());
        let path = dir.path().join("kamailio.cfg");
        std::fs::write(&path, config).unwrap();
        let child = Command::new("kamailio")
            .args(["-DD", "-E", "-m", "256", "-M", "16", "-f"])
            .arg(&path)
            .arg("-Y")
            .arg(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        std::thread::sleep(Duration::from_secs(2));
        Some(Self { child, address, _dir: dir })
    }
}

impl Drop for Kamailio {
    fn drop(&mut self) {
        // It ends its children when it is asked to.
        if let Ok(pid) = self.child.id().try_into() {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM);
        }
        let _ = self.child.wait();
    }
}

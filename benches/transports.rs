//! What a registration and a call cost the server over UDP, TCP and TLS, and what an idle TLS connection takes: CPU seconds for a thousand
//! and memory, one node and three, beside Kamailio in one run.
//!
//! `cargo bench --bench transports`. The phones are ours, on connections of their own. A registration is challenged and answered; a call is
//! INVITE (challenged), 180, 200, ACK, BYE. Kamailio is a proxy that carries no media. ONLY=memory measures the connections alone.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs, unreachable_pub, reason = "a bench")]

#[path = "../tests/lab/mod.rs"]
mod lab;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tandem::actors::certificates::development;
use tandem::cli::demo::phone::Phone;
use tandem::cli::demo::wire::Over;

use lab::cluster::{Cluster, DOMAIN};
use lab::{SIP, TLS, cpu, family, own_address, phones};

/// Pairs of phones that call at once, and how often each registers, and calls.
const PAIRS: usize = 20;
const REGISTERS: usize = 50;
const CALLS: usize = 25;
/// Between two of the same phone's.
const PAUSE: Duration = Duration::from_millis(100);
/// TLS connections, by each of which a user registers once; the first of them make what is made once. They come before any load: what a
/// server has freed by then it would take again, and they would seem to cost less.
const CONNECTIONS: usize = 1000;
const FIRST: usize = 500;
/// Each transport's phones, and each connection's, are other users'.
const USERS: usize = 3 * 2 * PAIRS + FIRST + CONNECTIONS;
/// Idle cost is measured for this long, before.
const IDLE: Duration = Duration::from_secs(3);
/// What is done later is paid for too.
const SETTLE: Duration = Duration::from_secs(2);

const KAMAILIO: &str = "Kamailio";

/// A server that is measured.
struct Server {
    name: &'static str,
    pids: Vec<i32>,
    sip: SocketAddr,
    ca: PathBuf,
    users: Vec<(String, String)>,
}

impl Server {
    fn address(&self, over: &Over) -> SocketAddr {
        let mut address = self.sip;
        address.set_port(if matches!(over, Over::Tls(_)) { TLS } else { SIP });
        address
    }

    async fn phone(&self, over: &Over, user: usize) -> Phone {
        let (name, password) = &self.users[user];
        let media = SocketAddr::from((phones(), 9));
        Phone::over(over.clone(), name, password, DOMAIN, self.address(over), media).await.unwrap()
    }
}

fn transports(server: &Server) -> [(&'static str, Over); 3] {
    [("UDP", Over::Udp), ("TCP", Over::Tcp), ("TLS", Over::Tls(server.ca.clone()))]
}

#[tokio::main]
async fn main() {
    let only_memory = std::env::var("ONLY").is_ok_and(|only| only == "memory");
    println!("CPU seconds of the server for a thousand                 a REGISTER  ratio    a call  ratio");
    let mut peers: Vec<[f64; 2]> = Vec::new();
    let mut memory = Vec::new();
    // Each figure of memory is a server's that has done nothing else, and does nothing after: a load would find it busy with the end of so many
    // connections.
    if let Some(kamailio) = Kamailio::start() {
        memory.push((KAMAILIO, connections(&kamailio.server()).await));
        drop(kamailio);
        if let Some(kamailio) = Kamailio::start().filter(|_| !only_memory) {
            peers = rows(&kamailio.server(), &peers).await;
        }
    } else {
        eprintln!("Kamailio, or its TLS module, is not installed: no peer");
    }
    for (name, nodes) in [("tandem, one node", 1), ("tandem, three nodes", 3)] {
        memory.push((name, connections(&of(&Cluster::of(nodes, USERS), name)).await));
        if !only_memory {
            rows(&of(&Cluster::of(nodes, USERS), name), &peers).await;
        }
    }
    println!("\nmemory of an idle TLS connection, its registration included ({CONNECTIONS} of them)    KB");
    for (name, kilobytes) in memory {
        println!("{name:<80} {kilobytes:>6.1}");
    }
}

fn of(cluster: &Cluster, name: &'static str) -> Server {
    let (pids, users) = (cluster.pids().to_vec(), cluster.users.clone());
    Server { name, pids, sip: cluster.sip_of(1), ca: cluster.ca(), users }
}

/// A line for each transport; gives its figures.
async fn rows(server: &Server, peers: &[[f64; 2]]) -> Vec<[f64; 2]> {
    let mut figures = Vec::new();
    for (at, (name, over)) in transports(server).into_iter().enumerate() {
        let figure = row(server, &over, at * 2 * PAIRS).await;
        let ratio = |what: usize| peers.get(at).map_or("-".into(), |peer| format!("{:.2}", figure[what] / peer[what]));
        println!("{:<52} {name} {:>10.3} {:>6} {:>9.3} {:>6}", server.name, figure[0], ratio(0), figure[1], ratio(1));
        figures.push(figure);
    }
    figures
}

async fn row(server: &Server, over: &Over, first: usize) -> [f64; 2] {
    let mut pairs = Vec::new();
    for n in 0..PAIRS {
        pairs.push((server.phone(over, first + 2 * n).await, server.phone(over, first + 2 * n + 1).await));
    }
    let before = cpu(&server.pids);
    tokio::time::sleep(IDLE).await;
    let idle = (cpu(&server.pids) - before) / IDLE.as_secs_f64();
    let spent = async |pairs: Vec<(Phone, Phone)>, calls: bool| {
        let (before, begin) = (cpu(&server.pids), Instant::now());
        let users = &server.users;
        let all = pairs.into_iter().enumerate().map(|(n, (mut a, mut b))| {
            let callee = users[first + 2 * n + 1].0.clone();
            tokio::spawn(async move {
                for _ in 0..if calls { CALLS } else { REGISTERS / 2 } {
                    if calls {
                        let (called, answered) = tokio::join!(a.call(&callee), b.answer());
                        called.and(answered).unwrap();
                        let (hung_up, ended) = tokio::join!(a.hang_up(), b.wait_for_bye());
                        hung_up.and(ended).unwrap();
                    } else {
                        let (one, other) = tokio::join!(a.register(), b.register());
                        one.and(other).unwrap();
                    }
                    tokio::time::sleep(PAUSE).await;
                }
                (a, b)
            })
        });
        let mut back = Vec::new();
        for pair in all.collect::<Vec<_>>() {
            back.push(pair.await.unwrap());
        }
        tokio::time::sleep(SETTLE).await;
        (cpu(&server.pids) - before - idle * begin.elapsed().as_secs_f64(), back)
    };
    let (registers, pairs) = spent(pairs, false).await;
    let (calls, _) = spent(pairs, true).await;
    [registers * 1000.0 / (PAIRS * REGISTERS) as f64, calls * 1000.0 / (PAIRS * CALLS) as f64]
}

/// Kilobytes for each of many idle TLS connections.
async fn connections(server: &Server) -> f64 {
    let over = Over::Tls(server.ca.clone());
    let mut open = Vec::new();
    let mut before = 0;
    for n in 0..FIRST + CONNECTIONS {
        if n == FIRST {
            tokio::time::sleep(SETTLE).await;
            before = memory(&server.pids);
        }
        let mut phone = server.phone(&over, 3 * 2 * PAIRS + n).await;
        phone.register().await.unwrap();
        open.push(phone);
    }
    tokio::time::sleep(SETTLE).await;
    memory(&server.pids).saturating_sub(before) as f64 / CONNECTIONS as f64 / 1024.0
}

/// What processes and their children have in memory, what they share counted once (PSS).
fn memory(pids: &[i32]) -> u64 {
    let pss = |pid: i32| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with("Pss:"));
        line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).unwrap_or(0) * 1024
    };
    family(pids).into_iter().map(pss).sum()
}

struct Kamailio {
    child: Child,
    address: SocketAddr,
    dir: tempfile::TempDir,
}

impl Kamailio {
    fn start() -> Option<Self> {
        if !Path::new("/usr/lib/x86_64-linux-gnu/kamailio/modules/tls.so").exists() {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let own = SocketAddr::from((own_address(), SIP));
        let (cert, key) = development(dir.path(), &[DOMAIN.into()], &[own.ip()]).unwrap();
        let listen = format!(
            "listen=udp:{own}\nlisten=tcp:{own}\nlisten=tls:{}:{TLS}\nenable_tls=yes\nloadmodule \"tls.so\"\n\
             modparam(\"tls\", \"tls_method\", \"TLSv1.2+\")\nmodparam(\"tls\", \"certificate\", \"{}\")\nmodparam(\"tls\", \"private_key\", \"{}\")\ntcp_max_connections=4096\n\
             tcp_connection_lifetime=3605\ntls_max_connections=4096\n",
            own.ip(),
            cert.display(),
            key.display(),
        );
        let config =
            include_str!("kamailio.cfg").replace("listen=udp:ADDRESS", &listen).replace("disable_tcp=yes", "tcp_children=2");
        // The phones keep no routes: what is in a dialog goes to where its target is.
        let (head, rest) = config.split_once("        if (loose_route())").unwrap();
        let (_, rest) = rest.split_once("sl_send_reply(\"404\", \"Not here\"); exit;").unwrap();
        let path = dir.path().join("kamailio.cfg");
        std::fs::write(&path, format!("{head}        t_relay(); exit;{rest}")).unwrap();
        let child = Command::new("kamailio")
            .args(["-DD", "-E", "-m", "512", "-M", "16", "-f"])
            .arg(&path)
            .arg("-Y")
            .arg(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        std::thread::sleep(Duration::from_secs(3));
        Some(Self { child, address: own, dir })
    }

    fn server(&self) -> Server {
        let users = (1..=USERS).map(|n| (format!("u{n:04}"), format!("pu{n:04}"))).collect();
        let pids = vec![self.child.id().try_into().unwrap()];
        Server { name: KAMAILIO, pids, sip: self.address, ca: self.dir.path().join("sip-ca.pem"), users }
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

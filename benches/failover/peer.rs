//! How operators do it today: rtpengine on two hosts, the sessions in a shared redis, an address that keepalived moves. Media only, set
//! up by rtpengine's ng protocol; the same network, phones' sound and meter as everything else here.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tandem::cli::demo::talk::Talk;
use tokio::net::UdpSocket;

use super::lab::cluster::PATIENCE;
use super::lab::net::{INTERFACE, Net, phone_address};
use super::lab::{own_address, until};
use super::{AFTER, row};

/// The programs, as Debian names them.
const PROGRAMS: [&str; 3] = ["rtpengine", "redis-server", "keepalived"];
/// rtpengine's control port.
const NG: u16 = 2223;
/// Longer than the slowest of these takes.
const DETECTED: Duration = Duration::from_secs(7);

/// Who moves the address.
#[derive(Clone, Copy)]
enum Mover {
    /// This bench, at once: what the mechanism alone costs.
    Hand,
    /// keepalived with an advertisement each so many seconds, and a check of the process each second.
    Vrrp(f64),
}

/// What happens to the host that has the address.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    Kill,
    Cut,
}

/// Prints a line for each way of moving and each fault.
pub(crate) async fn rows(net: &Net, calls: usize, runs: usize) {
    let missing: Vec<_> =
        PROGRAMS.into_iter().filter(|program| Command::new(program).arg("--version").output().is_err()).collect();
    if !missing.is_empty() {
        println!("\nNo peer: {} not installed.", missing.join(", "));
        return;
    }
    println!("\n| rtpengine, redis, keepalived | median | p99 | worst |\n|---|---|---|---|");
    let all = [
        ("process killed, address moved by hand at once", Mover::Hand, Fault::Kill),
        ("process killed, VRRP with 1 s", Mover::Vrrp(1.0), Fault::Kill),
        ("host cut off, VRRP with 1 s", Mover::Vrrp(1.0), Fault::Cut),
        ("host cut off, VRRP with 0.1 s", Mover::Vrrp(0.1), Fault::Cut),
    ];
    for (what, mover, fault) in all {
        let mut gaps = Vec::new();
        for _ in 0..runs {
            let mut peer = Peer::start(net, mover).await;
            let talks = peer.sessions(calls).await;
            tokio::time::sleep(AFTER * 2).await;
            let heard = || talks.iter().all(|talk| talk.heard().silence().is_some_and(|silence| silence < AFTER));
            assert!(heard(), "a session is not heard before anything happened");
            talks.iter().map(Talk::take_gap).for_each(drop);
            peer.strike(fault);
            tokio::time::sleep(DETECTED).await;
            assert!(heard(), "a session was lost");
            gaps.extend(talks.iter().map(Talk::take_gap));
        }
        row(what, gaps);
    }
}

/// The two hosts, and the redis of both.
struct Peer<'a> {
    net: &'a Net,
    dir: tempfile::TempDir,
    mover: Mover,
    redis: Ipv4Addr,
    engines: Vec<Child>,
    others: Vec<Child>,
}

impl<'a> Peer<'a> {
    async fn start(net: &'a Net, mover: Mover) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut peer = Self { net, dir, mover, redis: own_address(), engines: Vec::new(), others: Vec::new() };
        let (bind, keep) = (peer.redis.to_string(), peer.dir.path().to_str().unwrap().to_owned());
        let redis =
            ["--bind", &bind, "--save", "", "--appendonly", "no", "--protected-mode", "no", "--notify-keyspace-events", "KEA"];
        let mut command = Command::new("redis-server");
        let child = peer.spawn(command.args(redis).args(["--dir", &keep]), "redis");
        peer.others.push(child);
        let redis = (peer.redis, 6379);
        until("redis is there", PATIENCE, async || tokio::net::TcpStream::connect(redis).await.is_ok()).await;
        if let Mover::Hand = mover {
            peer.take(1);
        }
        for node in [1, 2] {
            net.bind_foreign_addresses(node);
            let mut command = net.command(node, "rtpengine");
            command.args(["--table=-1", "--foreground", "--log-stderr", "--log-level=4", "--port-min=20000", "--port-max=30000"]);
            command.args(["--num-threads=2", "--timeout=600", "--redis-expires=3600"]);
            command.arg(format!("--interface={}", net.vnode(1))).arg(format!("--listen-ng={}:{NG}", net.node(node)));
            command.arg(format!("--redis={}:6379/{node}", peer.redis)).arg(format!("--subscribe-keyspace={}", 3 - node));
            let child = peer.spawn(&mut command, &format!("rtpengine{node}"));
            peer.engines.push(child);
        }
        for node in [1, 2] {
            let at = SocketAddr::from((net.node(node), NG));
            until("rtpengine answers", PATIENCE, async || Ng::new(at).await.ask("d7:command4:pinge").await.is_some()).await;
        }
        if let Mover::Vrrp(every) = mover {
            for (node, priority) in [(1, 150), (2, 100)] {
                let child = peer.keepalived(node, priority, every);
                peer.others.push(child);
                until("the address is at the first", PATIENCE, async || net.has_address(1, net.vnode(1))).await;
            }
            // The second has to hear the first.
            tokio::time::sleep(AFTER * 2).await;
        }
        peer
    }

    fn spawn(&self, command: &mut Command, log: &str) -> Child {
        let log = std::fs::File::create(self.dir.path().join(log)).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
    }

    /// The address is at a host from now on, and the phones' host knows.
    fn take(&self, node: usize) {
        let vip = format!("{}/16", self.net.vnode(1));
        self.net.on(&format!("n{node}"), &["addr", "add", &vip, "dev", INTERFACE]);
        let mac = self.net.mac(&format!("n{node}")).to_string();
        let told = ["neigh", "replace", &self.net.vnode(1).to_string(), "lladdr", &mac, "nud", "reachable", "dev", INTERFACE];
        self.net.on("phones", &told);
    }

    fn give(&self, node: usize) {
        if self.net.has_address(node, self.net.vnode(1)) {
            self.net.on(&format!("n{node}"), &["addr", "del", &format!("{}/16", self.net.vnode(1)), "dev", INTERFACE]);
        }
    }

    fn keepalived(&self, node: usize, priority: u8, every: f64) -> Child {
        let (check, config) =
            (self.dir.path().join(format!("check{node}")), self.dir.path().join(format!("keepalived{node}.conf")));
        std::fs::write(&check, format!("#!/bin/sh\nkill -0 {}\n", self.engines[node - 1].id())).unwrap();
        std::fs::set_permissions(&check, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        let (check, vip) = (check.display(), self.net.vnode(1));
        let mut file = std::fs::File::create(&config).unwrap();
        write!(
            file,
            "global_defs {{\n router_id n{node}\n vrrp_garp_master_delay 0\n vrrp_garp_master_repeat 3\n script_user root\n \
             enable_script_security\n}}\n\
             vrrp_script media {{\n script \"{check}\"\n interval 1\n timeout 1\n fall 1\n rise 1\n}}\n\
             vrrp_instance V {{\n version 3\n state BACKUP\n interface {INTERFACE}\n virtual_router_id 51\n priority {priority}\n \
             advert_int {every}\n virtual_ipaddress {{ {vip}/16 }}\n track_script {{ media }}\n}}\n"
        )
        .unwrap();
        let mut command = self.net.command(node, "keepalived");
        command.args(["-n", "-l", "-D", "-f", config.to_str().unwrap()]);
        for (option, name) in [("-p", "pid"), ("-r", "vrrp")] {
            command.arg(option).arg(self.dir.path().join(format!("{name}{node}")));
        }
        self.spawn(&mut command, &format!("keepalived{node}"))
    }

    /// Sets sessions up at the first host; both sides of each talk.
    async fn sessions(&self, count: usize) -> Vec<Talk> {
        let ng = Ng::new(SocketAddr::from((self.net.node(1), NG))).await;
        let mut talks = Vec::new();
        for n in 0..count {
            let (a, b) = (media().await, media().await);
            let to_b = ng.describe("offer", n, &a).await;
            let to_a = ng.describe("answer", n, &b).await;
            talks.extend([Talk::start(a, to_a), Talk::start(b, to_b)]);
        }
        talks
    }

    fn strike(&mut self, fault: Fault) {
        match fault {
            Fault::Kill => {
                self.engines[0].kill().unwrap();
                // Until then it looks alive to who asks for its pid.
                self.engines[0].wait().unwrap();
            }
            Fault::Cut => self.net.cut(1),
        }
        if let Mover::Hand = self.mover {
            self.give(1);
            self.take(2);
        }
    }
}

impl Drop for Peer<'_> {
    fn drop(&mut self) {
        self.net.heal();
        for child in self.others.iter_mut().rev().chain(&mut self.engines) {
            // keepalived ends its own children when it is asked to.
            let _ =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id().cast_signed()), nix::sys::signal::Signal::SIGTERM);
            let _ = child.wait();
        }
        self.give(1);
        self.give(2);
    }
}

async fn media() -> UdpSocket {
    UdpSocket::bind((phone_address(1), 0)).await.unwrap()
}

/// rtpengine's control protocol: bencoded dictionaries behind a cookie, over UDP.
struct Ng {
    socket: UdpSocket,
}

impl Ng {
    async fn new(at: SocketAddr) -> Self {
        let socket = UdpSocket::bind((phone_address(1), 0)).await.unwrap();
        socket.connect(at).await.unwrap();
        Self { socket }
    }

    async fn ask(&self, what: &str) -> Option<String> {
        let cookie = rand::random::<u64>().to_string();
        self.socket.send(format!("{cookie} {what}").as_bytes()).await.ok()?;
        let mut buffer = [0; 8192];
        loop {
            let length = tokio::time::timeout(AFTER, self.socket.recv(&mut buffer)).await.ok()?.ok()?;
            let answer = String::from_utf8_lossy(&buffer[..length]);
            if let Some(answer) = answer.strip_prefix(&cookie) {
                return Some(answer.to_owned());
            }
        }
    }

    /// Describes one side of a session; gives where the other side shall send to.
    async fn describe(&self, command: &str, session: usize, own: &UdpSocket) -> SocketAddr {
        let at = own.local_addr().unwrap();
        let (ip, port) = (at.ip(), at.port());
        let sdp = format!(
            "v=0\r\no=- {port} 1 IN IP4 {ip}\r\ns=-\r\nc=IN IP4 {ip}\r\nt=0 0\r\nm=audio {port} RTP/AVP 0\r\na=ptime:20\r\n"
        );
        let mut body = "d3:ICE6:remove".to_owned();
        let mut field = |name: &str, value: &str| body.push_str(&format!("{}:{name}{}:{value}", name.len(), value.len()));
        field("call-id", &format!("session-{session}"));
        field("command", command);
        field("from-tag", "a");
        field("sdp", &sdp);
        if command == "answer" {
            field("to-tag", "b");
        }
        body.push_str("7:replacel6:origin18:session-connectionee");
        let answer = self.ask(&body).await.unwrap();
        let after = |what: &str| answer.split_once(what).and_then(|(_, rest)| rest.split([' ', '\r']).next()).map(str::to_owned);
        let there = after("c=IN IP4 ").zip(after("m=audio ")).unwrap_or_else(|| panic!("{command}: {answer}"));
        SocketAddr::new(there.0.parse().unwrap(), there.1.parse().unwrap())
    }
}

//! A network of its own: hosts in namespaces on one bridge, and what breaks it. The test itself is at the phones' host.
//!
//! ```text
//!  n1 10.99.0.1 ─┐
//!  n2 10.99.0.2 ─┼─ br0 ─ phones 10.99.1.1 … (the test)         vnodes 10.99.0.11 …
//!  n3 10.99.0.3 ─┘
//! ```
//!
//! Or the phones are at a home of their own ([`run_at_home`]), behind a router that translates addresses:
//!
//! ```text
//!  br0 ─ 10.99.2.1 nat 192.168.7.254 ─ home 192.168.7.1 … (the test)
//! ```
//!
//! Each host has an IPv6 address too: fd99::1 …, the phones' fd99::1:1; vnodes can be at fd99::11 ….

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pnet_datalink::{Channel, Config, MacAddr};

use super::wire::{self, Delay};

/// The interface of every host.
pub const INTERFACE: &str = "eth0";
/// So many addresses the phones' host has.
const PHONES: u8 = 250;

static INSIDE: AtomicBool = AtomicBool::new(false);
static AT_HOME: AtomicBool = AtomicBool::new(false);

/// Whether this test has a network of its own.
pub fn is_inside() -> bool {
    INSIDE.load(Ordering::Relaxed)
}

/// An address of the phones' host.
pub fn phone_address(last: u8) -> Ipv4Addr {
    if AT_HOME.load(Ordering::Relaxed) { Ipv4Addr::new(192, 168, 7, last) } else { Ipv4Addr::new(10, 99, 1, last) }
}

/// The IPv6 address of the phones' host.
pub const PHONES_V6: Ipv6Addr = Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 1, 1);

/// The network; it goes with the last that has it.
pub struct Net {
    name: String,
    nodes: usize,
    /// For the programs that are started at the hosts.
    environment: Mutex<Vec<(String, String)>>,
}

/// Builds a network for so many nodes, goes to its phones' host, and runs a test there.
pub fn run<F: Future<Output = ()>>(nodes: usize, test: impl FnOnce(Arc<Net>) -> F) {
    go_to(Net::new(nodes), "phones", test);
}

/// The same, and the phones are behind a NAT.
pub fn run_at_home<F: Future<Output = ()>>(nodes: usize, test: impl FnOnce(Arc<Net>) -> F) {
    let net = Net::new(nodes);
    AT_HOME.store(true, Ordering::Relaxed);
    net.home();
    go_to(net, "home", test);
}

fn go_to<F: Future<Output = ()>>(net: Net, host: &str, test: impl FnOnce(Arc<Net>) -> F) {
    let net = Arc::new(net);
    let there = File::open(format!("/run/netns/{}", net.namespace(host))).unwrap();
    setns(there, CloneFlags::CLONE_NEWNET).expect("the lab needs root");
    INSIDE.store(true, Ordering::Relaxed);
    // Its threads are begun by this one, so they are where it is.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(test(net));
}

impl Net {
    fn new(nodes: usize) -> Self {
        let net = Self { name: format!("tandem{}", std::process::id()), nodes, environment: Mutex::default() };
        net.ip(&["netns", "add", &net.namespace("switch")]);
        net.on("switch", &["link", "add", "br0", "type", "bridge", "forward_delay", "0", "stp_state", "0"]);
        net.on("switch", &["link", "set", "br0", "up"]);
        // A switch knows nothing of IP; where the kernel has it look at that all the same, each frame costs more.
        let nothing_of_ip = ["iptables", "ip6tables", "arptables"].map(|table| format!("net.bridge.bridge-nf-call-{table}=0"));
        for set in nothing_of_ip {
            net.input(&["ip", "netns", "exec", &net.namespace("switch"), "sysctl", "-eqw", &set], "");
        }
        for node in 1..=nodes {
            let v6 = Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, u16::try_from(node).unwrap());
            net.host(&format!("n{node}"), &[net.node(node)], v6);
        }
        let phones: Vec<_> = (1..=PHONES).map(phone_address).collect();
        net.host("phones", &phones, PHONES_V6);
        net.nft("table bridge faults {\n chain wire {\n type filter hook forward priority 0; policy accept;\n }\n}\n");
        net
    }

    fn host(&self, host: &str, addresses: &[Ipv4Addr], v6: Ipv6Addr) {
        let (namespace, port) = (self.namespace(host), format!("p-{host}"));
        self.ip(&["netns", "add", &namespace]);
        self.on("switch", &["link", "add", &port, "type", "veth", "peer", "name", INTERFACE, "netns", &namespace]);
        self.on("switch", &["link", "set", &port, "master", "br0", "up"]);
        self.on(host, &["link", "set", "lo", "up"]);
        self.on(host, &["link", "set", INTERFACE, "up"]);
        let lines: String = addresses.iter().map(|ip| format!("addr add {ip}/16 dev {INTERFACE}\n")).collect();
        // Nobody else has it: looking for a double would take a second.
        let lines = format!("{lines}addr add {v6}/64 dev {INTERFACE} nodad\n");
        self.input(&["ip", "-n", &namespace, "-batch", "-"], &lines);
    }

    /// A home: hosts with private addresses, all of which are seen at the one of their router.
    fn home(&self) {
        let (nat, home) = (self.namespace("nat"), self.namespace("home"));
        self.host("nat", &[Ipv4Addr::new(10, 99, 2, 1)], Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 2, 1));
        self.ip(&["netns", "add", &home]);
        self.on("nat", &["link", "add", "lan", "type", "veth", "peer", "name", INTERFACE, "netns", &home]);
        self.on("nat", &["addr", "add", "192.168.7.254/24", "dev", "lan"]);
        self.on("nat", &["link", "set", "lan", "up"]);
        self.on("home", &["link", "set", "lo", "up"]);
        self.on("home", &["link", "set", INTERFACE, "up"]);
        let lines: String = (1..=PHONES).map(|last| format!("addr add 192.168.7.{last}/24 dev {INTERFACE}\n")).collect();
        self.input(&["ip", "-n", &home, "-batch", "-"], &lines);
        self.on("home", &["route", "add", "default", "via", "192.168.7.254"]);
        let table = "table ip nat {\n chain post {\n type nat hook postrouting priority 100; policy accept;\n \
                     oifname \"eth0\" masquerade\n }\n}\n";
        self.input(&["ip", "netns", "exec", &nat, "nft", "-f", "-"], table);
        self.set_nat("net.ipv4.ip_forward", 1);
    }

    /// The router forgets from now on where datagrams belong that nobody has sent for so many seconds.
    pub fn forget_after(&self, seconds: u32) {
        self.set_nat("net.netfilter.nf_conntrack_udp_timeout", seconds);
        self.set_nat("net.netfilter.nf_conntrack_udp_timeout_stream", seconds);
    }

    fn set_nat(&self, name: &str, value: u32) {
        let set = format!("{name}={value}");
        self.input(&["ip", "netns", "exec", &self.namespace("nat"), "sysctl", "-qw", &set], "");
    }

    /// The address of a node.
    pub fn node(&self, node: usize) -> Ipv4Addr {
        Ipv4Addr::new(10, 99, 0, u8::try_from(node).unwrap())
    }

    /// The address of a vnode.
    pub fn vnode(&self, vnode: usize) -> Ipv4Addr {
        Ipv4Addr::new(10, 99, 0, 10 + u8::try_from(vnode).unwrap())
    }

    /// The IPv6 address of a vnode.
    pub fn vnode_v6(&self, vnode: u16) -> Ipv6Addr {
        Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 0x10 + vnode)
    }

    /// From now on every host has every vnode's address, and the phones' host knows by its routes which of them it is at.
    pub fn reach_vnodes_by_routes(&self) {
        for node in 1..=self.nodes {
            for vnode in 1..=2 * self.nodes {
                self.on(&format!("n{node}"), &["addr", "add", &format!("{}/32", self.vnode(vnode)), "dev", "lo"]);
            }
        }
    }

    /// What an operator would write for that (`address.command`): the routes are told that a node has an address.
    pub fn route_command(&self, node: usize) -> Vec<String> {
        let take =
            format!("[ $1 = give ] || exec ip -n {} route replace $2/32 via {}", self.namespace("phones"), self.node(node));
        ["sh", "-c", &take, "route"].map(str::to_owned).to_vec()
    }

    /// Whether a node's host has an address.
    pub fn has_address(&self, node: usize, address: Ipv4Addr) -> bool {
        let show = ["-n", &self.namespace(&format!("n{node}")), "-br", "addr", "show", INTERFACE];
        let output = Command::new("ip").args(show).output().unwrap();
        String::from_utf8_lossy(&output.stdout).split_whitespace().any(|word| word.starts_with(&format!("{address}/")))
    }

    /// Programs of a node's host may bind addresses that it doesn't have.
    pub fn bind_foreign_addresses(&self, node: usize) {
        let set = self.command(node, "sysctl").args(["-qw", "net.ipv4.ip_nonlocal_bind=1"]).status();
        assert!(set.unwrap().success(), "sysctl is there");
    }

    /// A command that runs at a node's host.
    pub fn command(&self, node: usize, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace(&format!("n{node}")), program]);
        for (name, value) in self.environment.lock().unwrap().iter() {
            command.env(name, value.replace("NODE", &node.to_string()));
        }
        command
    }

    /// The clocks of the hosts can be stepped from now on: of the programs that are started there, those of each host by a file.
    pub fn step_clocks(&self, dir: &std::path::Path) {
        let library = std::fs::read_dir("/usr/lib").unwrap().flatten();
        let library = library.map(|arch| arch.path().join("faketime/libfaketimeMT.so.1")).find(|path| path.exists());
        let library = library.expect("faketime is installed by make bootstrap");
        for node in 1..=self.nodes {
            self.step_clock(dir, node, 0);
        }
        let file = dir.join("clockNODE");
        let all = [
            ("LD_PRELOAD", library.to_str().unwrap()),
            ("FAKETIME_TIMESTAMP_FILE", file.to_str().unwrap()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            ("FAKETIME_NO_CACHE", "1"),
        ];
        *self.environment.lock().unwrap() = all.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    }

    /// A host's clock is so many seconds ahead from now on.
    pub fn step_clock(&self, dir: &std::path::Path, node: usize, seconds: i64) {
        std::fs::write(dir.join(format!("clock{node}")), format!("{seconds:+}s")).unwrap();
    }

    /// Nothing comes from a host any more, and nothing gets there.
    pub fn cut(&self, node: usize) {
        self.rule(&format!("iifname p-n{node} drop"));
        self.rule(&format!("oifname p-n{node} drop"));
    }

    /// Nothing comes from a host any more; what is sent there arrives.
    pub fn cut_from(&self, node: usize) {
        self.rule(&format!("iifname p-n{node} drop"));
    }

    /// Nothing gets to a host any more; what it sends arrives.
    pub fn cut_to(&self, node: usize) {
        self.rule(&format!("oifname p-n{node} drop"));
    }

    /// A host can't open connections any more; what others open to it works, and datagrams do.
    pub fn cut_connecting_from(&self, node: usize) {
        self.rule(&format!("iifname p-n{node} ip protocol tcp tcp flags & (syn | ack) == syn drop"));
    }

    /// Two hosts don't hear each other; everybody else hears both.
    pub fn cut_between(&self, a: usize, b: usize) {
        self.rule(&format!("iifname p-n{a} oifname p-n{b} drop"));
        self.rule(&format!("iifname p-n{b} oifname p-n{a} drop"));
    }

    /// So many of a hundred frames between nodes are lost.
    pub fn lose(&self, percent: u32) {
        self.rule(&format!("iifname \"p-n*\" oifname \"p-n*\" numgen random mod 100 < {percent} drop"));
    }

    /// From now on frames between nodes take their time.
    pub fn slow(&self, delay: Delay) {
        let nodes: Vec<_> = (1..=self.nodes).map(|node| self.node(node)).collect();
        let hosts = (1..=self.nodes).map(|node| format!("n{node}")).collect::<Vec<_>>();
        for host in hosts.iter().map(String::as_str).chain(["phones"]) {
            // What a packet socket is given must be whole: checksums and segments are the sender's to make.
            let offload = ["ip", "netns", "exec", &self.namespace(host), "ethtool", "-K", INTERFACE];
            let all = [&offload[..], &["tx", "off", "tso", "off", "gso", "off", "gro", "off"]].concat();
            assert!(Command::new(all[0]).args(&all[1..]).output().unwrap().status.success(), "{all:?}");
        }
        for host in hosts {
            let (port, wire, plug) = (format!("p-{host}"), format!("w-{host}"), format!("q-{host}"));
            // The switch's port keeps its name, by which it is cut.
            self.on("switch", &["link", "set", &port, "down"]);
            self.on("switch", &["link", "set", &port, "nomaster", "name", &wire, "up"]);
            self.on("switch", &["link", "add", &port, "type", "veth", "peer", "name", &plug]);
            self.on("switch", &["link", "set", &port, "master", "br0", "up"]);
            self.on("switch", &["link", "set", &plug, "up"]);
            wire::join(&self.namespace("switch"), (wire, self.mac(&host)), plug, nodes.clone(), delay);
        }
    }

    /// The hardware address of a host.
    pub fn mac(&self, host: &str) -> MacAddr {
        let show = ["-n", &self.namespace(host), "-br", "link", "show", INTERFACE];
        let output = Command::new("ip").args(show).output().unwrap();
        String::from_utf8_lossy(&output.stdout).split_whitespace().nth(2).unwrap().parse().unwrap()
    }

    /// The cable is pulled, or put in again: the host sees it.
    pub fn pull(&self, node: usize, pulled: bool) {
        self.on("switch", &["link", "set", &format!("p-n{node}"), if pulled { "down" } else { "up" }]);
    }

    /// All cuts and losses are over.
    pub fn heal(&self) {
        self.nft("flush chain bridge faults wire");
    }

    /// Every process of a host stops where it is, or goes on.
    pub fn freeze(&self, node: usize, freeze: bool) {
        let signal = if freeze { Signal::SIGSTOP } else { Signal::SIGCONT };
        for pid in self.pids(&format!("n{node}")) {
            let _ = kill(pid, signal);
        }
    }

    /// Power loss: every process of a host is gone at once, and whatever it held with it.
    pub fn power_off(&self, node: usize) {
        self.pull(node, true);
        for pid in self.pids(&format!("n{node}")) {
            let _ = kill(pid, Signal::SIGKILL);
        }
        self.on(&format!("n{node}"), &["addr", "flush", "dev", INTERFACE]);
    }

    /// Power is back.
    pub fn power_on(&self, node: usize) {
        self.on(&format!("n{node}"), &["addr", "add", &format!("{}/16", self.node(node)), "dev", INTERFACE]);
        self.pull(node, false);
    }

    fn pids(&self, host: &str) -> Vec<Pid> {
        let output = Command::new("ip").args(["netns", "pids", &self.namespace(host)]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).split_whitespace().map(|pid| Pid::from_raw(pid.parse().unwrap())).collect()
    }

    fn namespace(&self, host: &str) -> String {
        format!("{}-{host}", self.name)
    }

    fn rule(&self, rule: &str) {
        self.nft(&format!("add rule bridge faults wire {rule}"));
    }

    fn nft(&self, text: &str) {
        self.input(&["ip", "netns", "exec", &self.namespace("switch"), "nft", "-f", "-"], text);
    }

    /// Runs `ip` at a host.
    pub fn on(&self, host: &str, args: &[&str]) {
        self.ip(&[&["-n", &self.namespace(host)], args].concat());
    }

    fn ip(&self, args: &[&str]) {
        self.input(&[&["ip"], args].concat(), "");
    }

    fn input(&self, command: &[&str], input: &str) {
        use std::io::Write;
        let mut child = Command::new(command[0]).args(&command[1..]).stdin(Stdio::piped()).spawn().expect(command[0]);
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "{command:?} {input}");
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        let nodes = (1..=self.nodes).map(|node| format!("n{node}"));
        let home = AT_HOME.load(Ordering::Relaxed).then_some(["home", "nat"]).into_iter().flatten().map(str::to_owned);
        for host in nodes.chain(["phones".into(), "switch".into()]).chain(home) {
            if host.starts_with('n') {
                for pid in self.pids(&host) {
                    let _ = kill(pid, Signal::SIGKILL);
                }
            }
            let _ = Command::new("ip").args(["netns", "del", &self.namespace(&host)]).status();
        }
    }
}

/// Who speaks for an address, as the phones' host hears it: frames from the address, and ARP about it.
pub struct Watch {
    heard: Arc<Mutex<BTreeMap<IpAddr, Vec<Turn>>>>,
}

/// One host after another.
#[derive(Debug, Clone)]
pub struct Turn {
    pub host: MacAddr,
    pub first: Instant,
    pub last: Instant,
    pub frames: u64,
}

impl Watch {
    /// Begins to listen, and to ask who has these addresses, fifty times a second.
    pub fn asking(addresses: impl IntoIterator<Item = Ipv4Addr>) -> Self {
        let watch = Self::start();
        let addresses: Vec<_> = addresses.into_iter().collect();
        let interface = pnet_datalink::interfaces().into_iter().find(|own| own.name == INTERFACE).unwrap();
        let Channel::Ethernet(mut frames, _) = pnet_datalink::channel(&interface, Config::default()).unwrap() else {
            panic!("no Ethernet")
        };
        let (own, watched) = (interface.mac.unwrap(), Arc::downgrade(&watch.heard));
        std::thread::spawn(move || {
            while watched.upgrade().is_some() {
                for ip in &addresses {
                    let _ = frames.send_to(&who_has(own, *ip), None);
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        watch
    }

    /// Begins to listen.
    pub fn start() -> Self {
        let heard: Arc<Mutex<BTreeMap<IpAddr, Vec<Turn>>>> = Arc::default();
        let interface = pnet_datalink::interfaces().into_iter().find(|own| own.name == INTERFACE).unwrap();
        let config = Config { read_buffer_size: 4 << 20, ..Config::default() };
        let Channel::Ethernet(_, mut frames) = pnet_datalink::channel(&interface, config).unwrap() else { panic!("no Ethernet") };
        let own = interface.mac.unwrap();
        let seen = Arc::downgrade(&heard);
        std::thread::spawn(move || {
            while let (Ok(frame), Some(heard)) = (frames.next(), seen.upgrade()) {
                let Some((host, ip)) = speaker(frame).filter(|(host, _)| *host != own) else { continue };
                let now = Instant::now();
                let mut heard = heard.lock().unwrap();
                let turns = heard.entry(ip).or_default();
                match turns.last_mut().filter(|turn| turn.host == host) {
                    Some(turn) => (turn.last, turn.frames) = (now, turn.frames + 1),
                    None => turns.push(Turn { host, first: now, last: now, frames: 1 }),
                }
            }
        });
        Self { heard }
    }

    /// The hosts that spoke for an address, one turn after another.
    pub fn turns(&self, ip: impl Into<IpAddr>) -> Vec<Turn> {
        self.heard.lock().unwrap().get(&ip.into()).cloned().unwrap_or_default()
    }
}

/// An ARP request (RFC 826) of the phones' host.
fn who_has(own: MacAddr, ip: Ipv4Addr) -> Vec<u8> {
    let parts: [&[u8]; 7] = [
        &[0xff; 6],
        &own.octets(),
        &[0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1],
        &own.octets(),
        &phone_address(1).octets(),
        &[0; 6],
        &ip.octets(),
    ];
    parts.concat()
}

/// The host that sent a frame, and the address that it spoke for.
fn speaker(frame: &[u8]) -> Option<(MacAddr, IpAddr)> {
    let mac = |at: usize| Some(MacAddr::from(<[u8; 6]>::try_from(frame.get(at..at + 6)?).ok()?));
    let ip = |at: usize| Some(IpAddr::from(<[u8; 4]>::try_from(frame.get(at..at + 4)?).ok()?));
    let v6 = |at: usize| Some(IpAddr::from(<[u8; 16]>::try_from(frame.get(at..at + 16)?).ok()?));
    match frame.get(12..14)? {
        [0x08, 0x00] => Some((mac(6)?, ip(26)?)),
        [0x08, 0x06] => Some((mac(22)?, ip(28)?)),
        [0x86, 0xdd] => Some((mac(6)?, v6(22)?)),
        _ => None,
    }
}

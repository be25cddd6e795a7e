//! Three nodes, started as an operator starts them: by `tandem dev` on loopback, or each by `tandem serve` at a host of its own.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tandem::cli::dev::{at_home, import};
use tandem::cli::http::ApiClient;
use tandem::cli::layout::{Layout, User};
use tandem::config::{Address, AddressMode, Config};

use super::net::{INTERFACE, Net};
use super::{SIP, address, children, until};

/// At the hosts of a network: where a node's API and its Raft wire are; the actor link is above that.
const API: u16 = 8081;
const WIRE: u16 = 7101;
const TANDEM: &str = env!("CARGO_BIN_EXE_tandem");
pub const DOMAIN: &str = "tandem.test";
/// So long anything may take that the cluster does by itself.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub struct Cluster {
    pub dir: tempfile::TempDir,
    /// SIP's address of each vnode.
    pub sip: Vec<SocketAddr>,
    /// User and password.
    pub users: Vec<(String, String)>,
    api: Vec<SocketAddr>,
    token: String,
    dev: Option<Child>,
    net: Option<Arc<Net>>,
    pids: Vec<i32>,
    own: Vec<(usize, Child)>,
    /// The nodes that are no members.
    absent: Vec<usize>,
    /// The storage process of each node; it outlives its node by a moment.
    disks: Vec<i32>,
}

impl Cluster {
    /// Starts three nodes with so many users, and waits until they are ready.
    pub fn start(users: usize) -> Self {
        Self::of(3, users)
    }

    /// The same, by this environment.
    pub fn start_with(users: usize, environment: &[(&str, String)]) -> Self {
        Self::of_with(3, users, environment)
    }

    /// Starts so many nodes.
    pub fn of(nodes: usize, users: usize) -> Self {
        Self::of_with(nodes, users, &[])
    }

    fn of_with(nodes: usize, users: usize, environment: &[(&str, String)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let users: Vec<_> = (1..=users).map(|n| (format!("u{n:04}"), format!("pu{n:04}"))).collect();
        let file = dir.path().join("users");
        std::fs::write(&file, users.iter().map(|(user, password)| format!("{user},{password}\n")).collect::<String>()).unwrap();
        let ports = free_ports(9);
        let mut dev = Command::new(TANDEM)
            .args(["dev", "--domain", DOMAIN, "--first-address", &address(11).to_string()])
            .args(["--nodes", &nodes.to_string()])
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .arg("--dir")
            .arg(dir.path().join("dev"))
            .arg("--users")
            .arg(file)
            .args(["--api-port", &ports.to_string(), "--wire-port", &(ports + 3).to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(dev.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("tandem dev did not say ready: {line:?}"));
        assert_eq!(ready["event"], "ready");
        let pids: Vec<_> =
            ready["pids"].as_array().unwrap().iter().map(|pid| i32::try_from(pid.as_i64().unwrap()).unwrap()).collect();
        let addresses = |key: &str| ready[key].as_array().unwrap().iter().map(|a| a.as_str().unwrap().parse().unwrap()).collect();
        Self {
            sip: addresses("sip"),
            api: addresses("api"),
            token: ready["token"].as_str().unwrap().into(),
            disks: pids.iter().flat_map(|pid| children(*pid)).collect(),
            pids,
            dir,
            users,
            dev: Some(dev),
            net: None,
            own: Vec::new(),
            absent: Vec::new(),
        }
    }

    /// Starts three nodes at the hosts of a network, with so many users, and waits until they are ready. Addresses move by
    /// `address.mode = "netlink"`.
    pub async fn at(net: &Arc<Net>, users: usize) -> Self {
        Self::at_with(net, (1..=users).map(|n| (format!("u{n:04}"), format!("pu{n:04}"))).collect(), |_| {}).await
    }

    /// The same, and each vnode has an IPv6 address too.
    pub async fn of_both_families(net: &Arc<Net>, users: usize) -> Self {
        let users = (1..=users).map(|n| (format!("u{n:04}"), format!("pu{n:04}"))).collect();
        Self::at_with(net, users, |config| {
            for vnode in &mut config.cluster.vnode {
                vnode.address = vnode.address.map(|v4| v4.and(net.vnode_v6(vnode.id.0).into()).unwrap());
            }
        })
        .await
    }

    /// The same, and addresses don't move: `address.mode = "fixed"`.
    pub async fn fixed(net: &Arc<Net>, users: usize) -> Self {
        let users = (1..=users).map(|n| (format!("u{n:04}"), format!("pu{n:04}"))).collect();
        Self::at_with(net, users, |config| {
            config.address = Address { mode: AddressMode::Fixed, interface: None, command: Vec::new() };
            config.node.address = Some(net.node(usize::try_from(config.node.id.0).unwrap()).into());
            config.cluster.vnode.iter_mut().for_each(|vnode| vnode.address = None);
            (config.sip.ws_port, config.sip.tls) = (0, None);
        })
        .await
    }

    /// The same, and an operator's command moves the addresses: `address.mode = "hook"`.
    pub async fn hooked(net: &Arc<Net>, users: usize) -> Self {
        net.reach_vnodes_by_routes();
        let users = (1..=users).map(|n| (format!("u{n:04}"), format!("pu{n:04}"))).collect();
        Self::at_with(net, users, |config| {
            let command = net.route_command(usize::try_from(config.node.id.0).unwrap());
            config.address = Address { mode: AddressMode::Hook, interface: None, command };
        })
        .await
    }

    /// The same with these users, by a configuration that is changed first.
    pub async fn at_with(net: &Arc<Net>, users: Vec<(String, String)>, change: impl Fn(&mut Config)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout {
            dir: dir.path().join("dev"),
            nodes: 3,
            later: 0,
            domain: DOMAIN.into(),
            first_address: net.vnode(1),
            sip_port: SIP,
            api_port: 0,
            wire_port: 0,
        };
        let token = layout.write().unwrap();
        let api = |node: usize| SocketAddr::from((net.node(node), API));
        let mut sip = layout.sip();
        for node in 1..=3 {
            let file = layout.config_file(node);
            let mut config: Config = toml::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
            for member in &mut config.cluster.member {
                let host = net.node(usize::try_from(member.id.0).unwrap());
                (member.raft, member.actors) = ((host, WIRE).into(), (host, WIRE + 1).into());
            }
            config.address = Address { mode: AddressMode::Netlink, interface: Some(INTERFACE.into()), command: Vec::new() };
            config.api.listen = api(node.into());
            change(&mut config);
            for vnode in config.cluster.vnode.iter().filter(|vnode| vnode.home == config.node.id) {
                sip[usize::from(vnode.id.0) - 1] = config.sip_address_of(vnode.id).unwrap();
            }
            std::fs::write(&file, toml::to_string(&config).unwrap()).unwrap();
        }
        let mut cluster = Self {
            sip,
            api: (1..=3).map(api).collect(),
            token,
            disks: Vec::new(),
            pids: vec![0; 3],
            dir,
            users,
            dev: None,
            net: Some(net.clone()),
            own: Vec::new(),
            absent: Vec::new(),
        };
        for node in 1..=3 {
            cluster.start_again(node);
        }
        cluster.at_home().await;
        let of = |pid: &i32| children(*pid).into_iter().find(|child| is_storage(*child)).unwrap();
        cluster.disks = cluster.pids.iter().map(of).collect();
        let users = cluster.users.iter().map(|(name, password)| User { name: name.clone(), password: password.clone() });
        import(&cluster.api(1), &users.collect::<Vec<_>>()).await.unwrap();
        cluster
    }

    /// Starts founders on loopback, each by itself, which so many may join later.
    pub async fn growing(founders: u16, later: u16, users: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let all = founders + later;
        let ports = free_ports(all * 3);
        let layout = Layout {
            dir: dir.path().join("dev"),
            nodes: founders,
            later,
            domain: DOMAIN.into(),
            first_address: address(11),
            sip_port: SIP,
            api_port: ports,
            wire_port: ports + all,
        };
        let token = layout.write().unwrap();
        let mut cluster = Self {
            sip: layout.sip(),
            api: (1..=all).map(|node| layout.api(node)).collect(),
            token,
            disks: vec![0; all.into()],
            pids: vec![0; all.into()],
            dir,
            users: (1..=users).map(|n| (format!("u{n:04}"), format!("pu{n:04}"))).collect(),
            dev: None,
            net: None,
            own: Vec::new(),
            absent: (usize::from(founders) + 1..=all.into()).collect(),
        };
        let there: Vec<usize> = cluster.present().collect();
        for node in &there {
            cluster.start_again(*node);
        }
        cluster.at_home().await;
        for node in there {
            cluster.find_disk(node);
        }
        let users = cluster.users.iter().map(|(name, password)| User { name: name.clone(), password: password.clone() });
        import(&cluster.api(1), &users.collect::<Vec<_>>()).await.unwrap();
        cluster
    }

    /// A node that has only a configuration yet is started, and joins by another one.
    pub async fn join(&mut self, node: usize, by: usize) -> Result<String, String> {
        self.start_again(node);
        until("its API is there", PATIENCE, || async { self.api(node).get("/healthz").await.is_ok() }).await;
        // Between fork and exec it still looks like its parent.
        until("its disk is there", PATIENCE, || async { self.storage_of(node).is_some() }).await;
        self.find_disk(node);
        let config = self.dir.path().join("dev").join(format!("node{node}.toml"));
        let joined = self.command_at(by, &["join", "--config", config.to_str().unwrap()]).await;
        self.absent.retain(|absent| *absent != node);
        joined
    }

    /// A node leaves, by another one's word.
    pub async fn leave(&mut self, node: usize, by: usize) -> Result<String, String> {
        let left = self.command_at(by, &["leave", &node.to_string()]).await;
        if left.is_ok() {
            self.absent.push(node);
        }
        left
    }

    fn find_disk(&mut self, node: usize) {
        self.disks[node - 1] = self.storage_of(node).unwrap();
    }

    fn storage_of(&self, node: usize) -> Option<i32> {
        children(self.pids[node - 1]).into_iter().find(|child| is_storage(*child))
    }

    /// The members.
    pub fn present(&self) -> impl Iterator<Item = usize> + '_ {
        (1..=self.api.len()).filter(|node| !self.absent.contains(node))
    }

    /// The API of a node.
    pub fn api(&self, node: usize) -> ApiClient {
        ApiClient::new(self.api[node - 1], &self.token)
    }

    /// The CA by which phones know the cluster.
    pub fn ca(&self) -> PathBuf {
        self.dir.path().join("dev/tls/sip-ca.pem")
    }

    /// SIP's address of the first vnode that is at home on a node.
    pub fn sip_of(&self, node: usize) -> SocketAddr {
        self.sip[node - 1]
    }

    /// The same by IPv6.
    pub fn sip_v6_of(&self, node: usize) -> SocketAddr {
        let vnode = u16::try_from(node).unwrap();
        SocketAddr::from((self.net.as_ref().unwrap().vnode_v6(vnode), self.sip_of(node).port()))
    }

    /// The nodes' processes.
    pub fn pids(&self) -> &[i32] {
        &self.pids
    }

    /// What each node has in memory, in MB.
    pub fn memory(&self) -> Vec<u64> {
        self.pids.iter().map(|pid| super::memory(*pid) >> 20).collect()
    }

    /// The processes that keep what the nodes store.
    pub fn disks(&self) -> &[i32] {
        &self.disks
    }

    /// `kill -9`.
    pub fn kill(&mut self, node: usize) {
        kill(Pid::from_raw(self.pids[node - 1]), Signal::SIGKILL).unwrap();
        self.reap(node);
    }

    /// A node's process is known to have ended.
    pub fn reap(&mut self, node: usize) {
        if let Some(at) = self.own.iter().position(|(own, _)| *own == node) {
            let _ = self.own.swap_remove(at).1.wait();
        }
    }

    /// How often any node has stood for election.
    pub fn elections(&self) -> usize {
        (1..=self.pids.len()).map(|node| self.log(node).matches("standing for election").count()).sum()
    }

    /// A node's process stops where it is (what it has started goes on), or goes on.
    pub fn freeze(&self, node: usize, freeze: bool) {
        let signal = if freeze { Signal::SIGSTOP } else { Signal::SIGCONT };
        kill(Pid::from_raw(self.pids[node - 1]), signal).unwrap();
    }

    /// Asks a node to end, and waits until it has.
    pub async fn stop(&mut self, node: usize) {
        let pid = self.pids[node - 1];
        kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
        match self.own.iter().position(|(own, _)| *own == node) {
            Some(at) => drop(self.own.swap_remove(at).1.wait()),
            None => {
                let process = std::path::PathBuf::from(format!("/proc/{pid}"));
                until("the node ends", PATIENCE, || async { !process.exists() }).await;
            }
        }
    }

    /// Runs one of tandem's commands on the cluster; gives what it prints.
    pub async fn command(&self, args: &[&str]) -> Result<String, String> {
        self.command_at(1, args).await
    }

    /// The same, and one node is asked.
    pub async fn command_at(&self, node: usize, args: &[&str]) -> Result<String, String> {
        let mut command = tokio::process::Command::new(TANDEM);
        command
            .args(args)
            .args(["--api", &self.api[node - 1].to_string(), "--token-file"])
            .arg(self.dir.path().join("dev/token"));
        let output = command.output().await.unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().trim().to_owned();
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }

    /// Starts a node again that was killed.
    pub fn start_again(&mut self, node: usize) {
        let dir = self.dir.path().join("dev");
        let log = std::fs::File::options().create(true).append(true).open(dir.join(format!("node{node}.log"))).unwrap();
        let command = self.net.as_ref().map_or_else(|| Command::new(TANDEM), |net| net.command(node, TANDEM));
        let child = { command }
            .args(["serve", "--parent", &std::process::id().to_string(), "--config"])
            .arg(dir.join(format!("node{node}.toml")))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.pids[node - 1] = i32::try_from(child.id()).unwrap();
        self.own.push((node, child));
    }

    /// Every node's disk stalls, or goes on.
    pub fn stall_disks(&self, stall: bool) {
        for disk in &self.disks {
            // That of a node that was killed may have ended.
            let told = kill(Pid::from_raw(*disk), if stall { Signal::SIGSTOP } else { Signal::SIGCONT });
            assert!(told.is_ok() || !stall, "{told:?}");
        }
    }

    /// Whether the storage process that a node had at the start has ended.
    pub fn disk_is_at_rest(&self, node: usize) -> bool {
        !PathBuf::from(format!("/proc/{}", self.disks[node - 1])).exists()
    }

    /// Whether a node's process is there.
    pub fn is_running(&self, node: usize) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pids[node - 1]));
        stat.is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().starts_with(" Z"))
    }

    /// What a dead node had on its disk is gone.
    pub async fn wipe(&self, node: usize) {
        until("the disk is at rest", PATIENCE, || async { self.disk_is_at_rest(node) }).await;
        std::fs::remove_dir_all(self.data(node)).unwrap();
    }

    /// What a node has said so far.
    pub fn log(&self, node: usize) -> String {
        std::fs::read_to_string(self.dir.path().join("dev").join(format!("node{node}.log"))).unwrap()
    }

    /// Prints what each node did about the end of another, and how long after it.
    pub fn tell(&self, end: SystemTime) {
        let end = end.duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        for node in self.present() {
            for line in self.log(node).lines() {
                let line: Value = serde_json::from_str(line).unwrap();
                let after = line["time"].as_str().unwrap().parse::<f64>().unwrap() - end;
                let what = line["message"].as_str().unwrap_or_default();
                if (0.0..1.0).contains(&after) && ["peer", "standing for election", "ownership", "open"].contains(&what) {
                    let more = ["reach", "group", "vnode", "to", "stood_by", "media_ms", "address_ms", "ms"];
                    let more: Vec<_> =
                        more.iter().filter(|key| !line[**key].is_null()).map(|key| format!("{key} {}", line[*key])).collect();
                    println!("node {node} after {:.0} ms: {what} {}", after * 1000.0, more.join(" "));
                }
            }
        }
    }

    pub fn data(&self, node: usize) -> PathBuf {
        self.dir.path().join("dev").join(format!("node{node}"))
    }

    /// Waits until every node is up and every vnode at home.
    pub async fn at_home(&self) {
        until("every vnode is at home", PATIENCE, || self.is_at_home()).await;
    }

    /// Whether every node is up and every vnode at home.
    pub async fn is_at_home(&self) -> bool {
        at_home(self.present().map(|node| self.api(node))).await
    }

    /// A number that one node says of itself.
    pub async fn count(&self, node: usize, path: &str, key: &str) -> u64 {
        self.api(node).get(path).await.unwrap()[key].as_u64().unwrap()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for disk in self.disks.iter().filter(|disk| **disk != 0) {
            let _ = kill(Pid::from_raw(*disk), Signal::SIGCONT);
        }
        for (_, child) in &mut self.own {
            let _ = child.kill();
            let _ = child.wait();
        }
        if let Some(dev) = &mut self.dev {
            let _ = kill(Pid::from_raw(i32::try_from(dev.id()).unwrap()), Signal::SIGTERM);
            let _ = dev.wait();
        }
        if std::thread::panicking() {
            let kept = std::env::temp_dir().join(format!("tandem-chaos-{}", std::process::id()));
            let _ = std::fs::create_dir_all(&kept);
            for node in 1..=self.api.len() {
                let name = format!("node{node}.log");
                let _ = std::fs::copy(self.dir.path().join("dev").join(&name), kept.join(&name));
            }
            eprintln!("the nodes' logs are in {}", kept.display());
        }
    }
}

fn is_storage(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.split('\0').nth(1) == Some("storage"))
}

/// The first of `count` ports in a row that nobody uses at the moment.
fn free_ports(count: u16) -> u16 {
    let mut first = 20_000 + u16::try_from(std::process::id() % 9_000).unwrap();
    loop {
        if (first..first + count).all(|port| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            return first;
        }
        first += count;
    }
}

//! `tandem dev`: a cluster on loopback, one child process a node. Layer: program.

use std::io::Write;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use hyper::Method;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use super::EXIT_USAGE;
use super::http::ApiClient;
use super::layout::{Layout, User};

/// So long a cluster may take to be ready.
const READY: Duration = Duration::from_secs(60);
/// So long the nodes have to end in peace.
const END: Duration = Duration::from_secs(8);
/// How often we look.
const LOOK: Duration = Duration::from_millis(50);
/// So many users go in one request.
const IMPORT: usize = 5000;

/// The arguments.
#[derive(Debug, Args)]
pub struct Dev {
    /// How many nodes.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9))]
    nodes: u16,
    /// How many more may join: their configurations are written, and they are not started.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=6))]
    later: u16,
    /// Where the files go; what is there is used again.
    #[arg(long, default_value = "dev")]
    dir: PathBuf,
    /// The users' domain.
    #[arg(long, default_value = "tandem.test")]
    domain: String,
    /// Users, a line each: user,password. Without it 1001 to 1010 are made.
    #[arg(long)]
    users: Option<PathBuf>,
    /// Start a node again that has ended.
    #[arg(long)]
    restart: bool,
    /// The first vnode's address.
    #[arg(long, default_value = "127.0.0.11")]
    first_address: Ipv4Addr,
    /// SIP's port.
    #[arg(long, default_value_t = 5060)]
    sip_port: u16,
    /// The first node's API on 127.0.0.1.
    #[arg(long, default_value_t = 8081)]
    api_port: u16,
    /// The first node's Raft wire on 127.0.0.1.
    #[arg(long, default_value_t = 7101)]
    wire_port: u16,
}

impl Dev {
    /// Runs until Ctrl-C, and leaves nothing behind.
    pub async fn run(self) -> ExitCode {
        let layout = Layout {
            dir: self.dir,
            nodes: self.nodes,
            later: self.later,
            domain: self.domain,
            first_address: self.first_address,
            sip_port: self.sip_port,
            api_port: self.api_port,
            wire_port: self.wire_port,
        };
        let prepared = layout.write().and_then(|token| Ok((token, layout.users(self.users.as_deref())?)));
        let (token, users) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => {
                eprintln!("tandem: {error:#}");
                return ExitCode::from(EXIT_USAGE);
            }
        };
        match run(layout, token, &users, self.users.is_none(), self.restart).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("tandem: {error:#}");
                ExitCode::FAILURE
            }
        }
    }
}

async fn run(layout: Layout, token: String, users: &[User], show: bool, restart: bool) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut nodes = Nodes::start(layout, token)?;
    let ready = async {
        nodes.ready().await?;
        import(&nodes.api(1), users).await?;
        nodes.describe().await
    };
    let ready = tokio::select! {
        ready = ready => Some(ready),
        _ = interrupt.recv() => None,
        _ = terminate.recv() => None,
    };
    match ready {
        Some(Ok(line)) => {
            if show {
                tell_people(&nodes, users);
            }
            say(&line);
        }
        Some(Err(error)) => {
            nodes.stop().await;
            return Err(error);
        }
        None => {
            nodes.stop().await;
            return Ok(());
        }
    }
    loop {
        tokio::select! {
            (node, status) = nodes.exited() => {
                say(&json!({"event": "exited", "node": node, "status": status}));
                if restart {
                    let pid = nodes.spawn(node)?;
                    say(&json!({"event": "started", "node": node, "pid": pid}));
                }
            }
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
        }
    }
    nodes.stop().await;
    Ok(())
}

/// One line of JSON. Whoever listened may have gone: the nodes stay.
fn say(line: &Value) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn tell_people(nodes: &Nodes, users: &[User]) {
    let sip = nodes.layout.sip();
    let (tls, ws, wss) = nodes.layout.more_ports();
    eprintln!("\nThree nodes are up. Point a phone at any of these, domain {}:", nodes.layout.domain);
    eprintln!("  {}", sip.iter().map(ToString::to_string).collect::<Vec<_>>().join("  "));
    eprintln!("UDP and TCP are there, TLS at port {tls}, WebSocket at ws://…:{ws} and wss://…:{wss}; the CA is");
    eprintln!("  {}", nodes.layout.dir.join("tls/sip-ca.pem").display());
    eprintln!("Users and passwords:");
    for user in users {
        eprintln!("  {}  {}", user.name, user.password);
    }
    eprintln!("Point a browser at http://{}/openapi.json, or ask with the token:", nodes.layout.api(1));
    eprintln!("  curl -H 'Authorization: Bearer {}' http://{}/v1/cluster", nodes.token, nodes.layout.api(1));
    eprintln!("Logs are in {}. Ctrl-C ends all of it.\n", nodes.layout.dir.display());
}

/// Brings users into a cluster.
pub async fn import(api: &ApiClient, users: &[User]) -> anyhow::Result<()> {
    for some in users.chunks(IMPORT) {
        let body: Vec<Value> = some.iter().map(|user| json!({"user": user.name, "password": user.password})).collect();
        api.ask(Method::PUT, "/v1/users", Some(&body.into())).await.context("cannot import the users")?;
    }
    Ok(())
}

/// Whether every node is ready and linked to the others, and listens for all the vnodes that are at home on it.
pub async fn at_home(nodes: impl Iterator<Item = ApiClient>) -> bool {
    for api in nodes {
        if api.get("/readyz").await.is_err() {
            return false;
        }
        let Ok(cluster) = api.get("/v1/cluster").await else { return false };
        let all = |key: &str, is: &dyn Fn(&Value) -> bool| cluster[key].as_array().is_some_and(|all| all.iter().all(is));
        let home = |vnode: &Value| vnode["home"] != cluster["node"] || (vnode["here"] == "owner" && vnode["listening"] == true);
        if !all("nodes", &|node| node["linked"] == true) || !all("vnodes", &home) {
            return false;
        }
    }
    true
}

/// The child processes.
pub struct Nodes {
    /// Where they are.
    pub layout: Layout,
    /// The API's token.
    pub token: String,
    children: Vec<(u16, Option<Child>)>,
}

impl Nodes {
    /// Starts them all.
    pub fn start(layout: Layout, token: String) -> anyhow::Result<Self> {
        let mut nodes = Self { children: layout.node_ids().map(|node| (node, None)).collect(), layout, token };
        for node in nodes.layout.node_ids() {
            nodes.spawn(node)?;
        }
        Ok(nodes)
    }

    /// Starts one (again); gives its process id.
    pub fn spawn(&mut self, node: u16) -> anyhow::Result<u32> {
        let log = std::fs::File::options().create(true).append(true).open(self.layout.log_file(node))?;
        let child = Command::new(std::env::current_exe()?)
            .arg("serve")
            .arg("--config")
            .arg(self.layout.config_file(node))
            .arg("--parent")
            .arg(std::process::id().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .context("cannot start a node")?;
        let pid = child.id().context("the node has ended at once")?;
        if let Some((_, slot)) = self.children.iter_mut().find(|(id, _)| *id == node) {
            *slot = Some(child);
        }
        Ok(pid)
    }

    /// The process of a node.
    pub fn pid(&self, node: u16) -> Option<u32> {
        self.children.iter().find(|(id, _)| *id == node)?.1.as_ref()?.id()
    }

    /// The API of a node.
    pub fn api(&self, node: u16) -> ApiClient {
        ApiClient::new(self.layout.api(node), &self.token)
    }

    /// Waits until all are ready and every vnode is at home.
    pub async fn ready(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY;
        loop {
            if let Some(node) = self.ended() {
                let log = self.layout.log_file(node);
                let last = std::fs::read_to_string(&log).unwrap_or_default();
                bail!("node {node} has ended: {}", last.lines().last().unwrap_or("without a word"));
            }
            if at_home(self.layout.node_ids().map(|node| self.api(node))).await {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("the nodes are not ready after {} s; see {}", READY.as_secs(), self.layout.dir.display());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn ended(&mut self) -> Option<u16> {
        let gone = |child: &mut Child| child.try_wait().is_ok_and(|status| status.is_some());
        self.children.iter_mut().find_map(|(node, child)| child.as_mut().is_some_and(gone).then_some(*node))
    }

    /// Waits until one has ended; for ever when none is left.
    pub async fn exited(&mut self) -> (u16, String) {
        loop {
            for (node, slot) in &mut self.children {
                let status = slot.as_mut().and_then(|child| child.try_wait().ok().flatten());
                if let Some(status) = status {
                    *slot = None;
                    return (*node, status.to_string());
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The line that says where everything is.
    pub async fn describe(&self) -> anyhow::Result<Value> {
        let cluster = self.api(1).get("/v1/cluster").await?;
        let vnodes: Vec<Value> = cluster["vnodes"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|vnode| json!({"id": vnode["id"], "address": vnode["address"], "owner": vnode["owner"]}))
            .collect();
        let text = |addresses: Vec<std::net::SocketAddr>| addresses.iter().map(ToString::to_string).collect::<Vec<_>>();
        Ok(json!({
            "event": "ready",
            "sip": text(self.layout.sip()),
            "api": text(self.layout.node_ids().map(|node| self.layout.api(node)).collect()),
            "token": self.token,
            "pids": self.layout.node_ids().map(|node| self.pid(node)).collect::<Vec<_>>(),
            "vnodes": vnodes,
        }))
    }

    /// Kills a node as `kill -9` does.
    pub fn kill(&self, node: u16) -> anyhow::Result<()> {
        let pid = self.pid(node).context("the node is not running")?;
        kill(Pid::from_raw(pid.try_into()?), Signal::SIGKILL)?;
        Ok(())
    }

    /// Ends them all: in peace, or by force when that takes too long.
    pub async fn stop(&mut self) {
        for (_, child) in &self.children {
            if let Some(pid) = child.as_ref().and_then(Child::id).and_then(|pid| pid.try_into().ok()) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
            }
        }
        let deadline = Instant::now() + END;
        for (_, child) in &mut self.children {
            let Some(mut child) = child.take() else { continue };
            if tokio::time::timeout_at(deadline, child.wait()).await.is_err() {
                let _ = child.kill().await;
            }
        }
    }
}

//! `tandem move`, `drain`, `undrain`, `join`, `leave`: where the vnodes shall be, and who the nodes are. Layer: program.
//!
//! Each says what is wanted and waits until it is so. Calls go on meanwhile, and nothing is lost when the waiting ends early.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use hyper::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::http::{ApiClient, Target};
use crate::config::Config;

/// So long a wish may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// So long a node may take to come or go: all that it holds moves.
const LONG: Duration = Duration::from_secs(600);
/// How often we look.
const LOOK: Duration = Duration::from_millis(20);

/// The arguments of `move`.
#[derive(Debug, Args)]
pub struct Move {
    /// The vnode's number.
    vnode: u16,
    /// The node that it shall be at home on.
    node: u64,
    #[command(flatten)]
    target: Target,
}

/// The arguments of `drain` and `undrain`.
#[derive(Debug, Args)]
pub struct Drain {
    /// The node's number; without it the node that is asked.
    node: Option<u64>,
    #[command(flatten)]
    target: Target,
}

/// The arguments of `join`.
#[derive(Debug, Args)]
pub struct Join {
    /// The new node's configuration, which says who and where it is.
    #[arg(long)]
    config: PathBuf,
    #[command(flatten)]
    target: Target,
}

/// The arguments of `leave`.
#[derive(Debug, Args)]
pub struct Leave {
    /// The node's number.
    node: u64,
    #[command(flatten)]
    target: Target,
}

impl Join {
    /// Makes a node one of the cluster's.
    pub async fn run(self) -> ExitCode {
        told(self.carry_out().await)
    }

    async fn carry_out(&self) -> anyhow::Result<String> {
        let config = Config::load(&self.config)?;
        let id = config.node.id;
        let own = config.cluster.member.iter().find(|member| member.id == id).context("the node is no member of its cluster")?;
        let api = self.target.client()?;
        let body = json!({"raft": own.raft, "actors": own.actors});
        api.ask(Method::PUT, &format!("/v1/nodes/{}", id.0), Some(&body)).await?;
        let is_up = |cluster: &Value| all(cluster, "nodes", |node| node["id"] != id.0 || node["state"] == "up");
        let came = wait_for(&api, LONG, |cluster| cluster["settled"] == true && is_up(cluster)).await;
        came.with_context(|| format!("it has not come in yet, and is waited for (tandem leave {} ends that)", id.0))?;
        Ok(format!("node {} is a member", id.0))
    }
}

impl Leave {
    /// Makes a node leave.
    pub async fn run(self) -> ExitCode {
        told(self.carry_out().await)
    }

    async fn carry_out(&self) -> anyhow::Result<String> {
        let (api, node) = (self.target.client()?, self.node);
        api.ask(Method::DELETE, &format!("/v1/nodes/{node}"), None).await?;
        wait_for(&api, LONG, |cluster| cluster["settled"] == true && all(cluster, "nodes", |known| known["id"] != node)).await?;
        Ok(format!("node {node} has left"))
    }
}

impl Move {
    /// Moves one vnode.
    pub async fn run(self) -> ExitCode {
        told(self.carry_out().await)
    }

    async fn carry_out(&self) -> anyhow::Result<String> {
        let api = self.target.client()?;
        let (vnode, node) = (self.vnode, self.node);
        api.ask(Method::PUT, &format!("/v1/vnodes/{vnode}/home"), Some(&json!({"node": node}))).await?;
        wait(&api, |cluster| all(cluster, "vnodes", |v| v["id"] != vnode || v["owner"] == node)).await?;
        Ok(format!("vnode {vnode} is on node {node}"))
    }
}

impl Drain {
    /// Empties a node, or lets it have its vnodes again.
    pub async fn run(self, drain: bool) -> ExitCode {
        told(self.carry_out(drain).await)
    }

    async fn carry_out(&self, drain: bool) -> anyhow::Result<String> {
        let api = self.target.client()?;
        let asked = api.get("/v1/cluster").await?;
        let node = self.node.or_else(|| asked["node"].as_u64()).context("the node doesn't say who it is")?;
        let method = if drain { Method::PUT } else { Method::DELETE };
        api.ask(method, &format!("/v1/nodes/{node}/drain"), None).await?;
        if drain {
            wait(&api, |cluster| all(cluster, "vnodes", |v| v["owner"] != node && v["owner"].is_u64())).await?;
            return Ok(format!("node {node} is empty"));
        }
        wait(&api, |cluster| all(cluster, "vnodes", |v| v["home"] != node || v["owner"] == node)).await?;
        Ok(format!("node {node} has its vnodes"))
    }
}

fn all(cluster: &Value, key: &str, is: impl Fn(&Value) -> bool) -> bool {
    cluster[key].as_array().is_some_and(|all| all.iter().all(is))
}

async fn wait(api: &ApiClient, is_so: impl Fn(&Value) -> bool) -> anyhow::Result<()> {
    wait_for(api, PATIENCE, is_so).await
}

async fn wait_for(api: &ApiClient, patience: Duration, is_so: impl Fn(&Value) -> bool) -> anyhow::Result<()> {
    let deadline = Instant::now() + patience;
    while Instant::now() < deadline {
        if is_so(&api.get("/v1/cluster").await?) {
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
    bail!("it is wanted, and not so after {} s: `tandem status` shows which nodes are there", patience.as_secs())
}

fn told(result: anyhow::Result<String>) -> ExitCode {
    match result {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("tandem: {error:#}");
            ExitCode::FAILURE
        }
    }
}

//! A cluster on loopback: who listens where, and the files that say so. Layer: program.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::actors::certificates::development;
use crate::api;
use crate::cluster::tls::{TlsFiles, development_ca};
use crate::config::{self, AddressMode, Config, Digest, LogFormat, Secret, SipTls};
use crate::ids::{NodeId, VnodeId};

/// Vnodes a node: two, so that a dead node's load is shared.
const VNODES_PER_NODE: u16 = 2;

/// Where everything is.
#[derive(Debug, Clone)]
pub struct Layout {
    /// The directory for all files.
    pub dir: PathBuf,
    /// How many nodes found the cluster.
    pub nodes: u16,
    /// How many may join them later; each has two vnodes too, which are on the others until then.
    pub later: u16,
    /// The users' domain.
    pub domain: String,
    /// The first vnode's address; the others follow.
    pub first_address: Ipv4Addr,
    /// SIP's port on each.
    pub sip_port: u16,
    /// Node 1's API on 127.0.0.1; the others follow.
    pub api_port: u16,
    /// Node 1's Raft wire on 127.0.0.1; the others follow, and then the actor links.
    pub wire_port: u16,
}

/// A user, and the password before it is hashed.
#[derive(Debug, Clone)]
pub struct User {
    /// The part before the `@`.
    pub name: String,
    /// In clear.
    pub password: String,
}

impl Layout {
    /// The founders' numbers.
    pub fn node_ids(&self) -> impl Iterator<Item = u16> + use<> {
        1..=self.nodes
    }

    fn all(&self) -> u16 {
        self.nodes + self.later
    }

    /// The API of a node.
    pub fn api(&self, node: u16) -> SocketAddr {
        loopback(self.api_port + node - 1)
    }

    /// SIP's addresses, vnode by vnode.
    pub fn sip(&self) -> Vec<SocketAddr> {
        (0..self.all() * VNODES_PER_NODE).map(|n| SocketAddr::new(self.address(n), self.sip_port)).collect()
    }

    /// The ports on each for TLS, for WebSocket, and for WebSocket over TLS.
    pub fn more_ports(&self) -> (u16, u16, u16) {
        (self.sip_port + 1, self.sip_port + 6, 7443)
    }

    /// The configuration file of a node.
    pub fn config_file(&self, node: u16) -> PathBuf {
        self.dir.join(format!("node{node}.toml"))
    }

    /// The log of a node.
    pub fn log_file(&self, node: u16) -> PathBuf {
        self.dir.join(format!("node{node}.log"))
    }

    /// The token's file.
    pub fn token_file(&self) -> PathBuf {
        self.dir.join("token")
    }

    fn address(&self, n: u16) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from(u32::from(self.first_address) + u32::from(n)))
    }

    /// Writes what the nodes need, unless it is there; gives the API's token.
    pub fn write(&self) -> anyhow::Result<String> {
        std::fs::create_dir_all(&self.dir).with_context(|| format!("cannot make {}", self.dir.display()))?;
        let dir = self.dir.canonicalize()?;
        let ids: Vec<u64> = (1..=self.all()).map(u64::from).collect();
        let tls = development_ca(&dir.join("tls"), &ids)?;
        let addresses: Vec<IpAddr> = self.sip().iter().map(SocketAddr::ip).collect();
        let (cert, key) = development(&dir.join("tls"), &[self.domain.clone(), "localhost".into()], &addresses)?;
        let (port, _, wss_port) = self.more_ports();
        let phones = SipTls { port, wss_port, cert, key, ca: None, trust: None };
        let secret = api::token(&dir.join("secret")).context("cannot make the cluster's secret")?;
        let token = api::token(&dir.join("token")).context("cannot make the API's token")?;
        for (node, tls) in (1..=self.all()).zip(tls) {
            let config = self.config(&dir, node, tls, phones.clone(), &secret);
            std::fs::write(self.config_file(node), toml::to_string(&config)?)?;
        }
        Ok(token)
    }

    fn config(&self, dir: &Path, node: u16, tls: TlsFiles, phones: SipTls, secret: &str) -> Config {
        let member = |id: u16| config::Member {
            id: NodeId(id.into()),
            raft: loopback(self.wire_port + id - 1),
            actors: loopback(self.wire_port + self.all() + id - 1),
        };
        let vnode = |n: u16| config::Vnode {
            id: VnodeId(n + 1),
            address: Some(self.address(n).into()),
            home: NodeId(u64::from(n % self.nodes) + 1),
        };
        Config {
            node: config::Node { id: NodeId(node.into()), data: dir.join(format!("node{node}")), address: None },
            cluster: config::Cluster {
                secret: Secret(secret.to_owned()),
                ca: tls.ca,
                cert: tls.cert,
                key: tls.key,
                replicas: 3,
                // Who comes later knows the founders and itself.
                member: (1..=self.all()).filter(|id| *id <= self.nodes || *id == node).map(member).collect(),
                vnode: (0..self.all() * VNODES_PER_NODE).map(vnode).collect(),
            },
            address: config::Address { mode: AddressMode::Loopback, interface: None, command: Vec::new() },
            sip: config::Sip {
                aliases: Vec::new(),
                service_route: Vec::new(),
                peer: Vec::new(),
                domain: self.domain.clone(),
                port: self.sip_port,
                digest: vec![Digest::Md5],
                t1: 500,
                session_expires: 1800,
                min_se: 90,
                dns: Vec::new(),
                long_by_tcp: false,
                nat_keepalive: 25,
                ws_port: self.more_ports().1,
                tls: Some(phones),
            },
            registration: config::Registration::default(),
            guard: config::Guard::default(),
            media: config::Media::default(),
            recording: config::Recording {
                store: std::env::var("TANDEM_RECORDINGS")
                    .ok()
                    .or_else(|| Some(dir.join("recordings").to_string_lossy().into_owned())),
                ..config::Recording::default()
            },
            api: config::Api { listen: self.api(node), token_file: dir.join("token") },
            log: config::Log {
                format: LogFormat::Json,
                filter: std::env::var("TANDEM_LOG").unwrap_or_else(|_| config::DEFAULT_FILTER.into()),
            },
        }
    }

    /// The users of a file, or those of the directory, which are made on first run.
    pub fn users(&self, file: Option<&Path>) -> anyhow::Result<Vec<User>> {
        let own = self.dir.join("users.csv");
        if file.is_none() && !own.exists() {
            let line = |n: u16| format!("{n},{}\n", hex::encode(rand::random::<[u8; 5]>()));
            std::fs::write(&own, (1001..=1010).map(line).collect::<String>())?;
        }
        let path = file.unwrap_or(&own);
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        lines
            .map(|(at, line)| {
                let (name, password) =
                    line.split_once(',').with_context(|| format!("{}, line {}: not user,password", path.display(), at + 1))?;
                Ok(User { name: name.trim().to_owned(), password: password.trim().to_owned() })
            })
            .collect()
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

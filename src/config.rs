//! The configuration of one node: a TOML file, read once and checked whole. Layer: ground.
//!
//! Every key is documented in `config/tandem.toml`, which a test reads. An unknown key or a wrong value is
//! an error that says in one sentence where it is.

mod recording;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::families::Families;
use crate::ids::{NodeId, VnodeId};
pub use recording::{RecordedCalls, Recording, RecordingFormat, S3};

/// All of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "config/tandem.toml says what each key is")]
pub struct Config {
    pub node: Node,
    pub cluster: Cluster,
    pub address: Address,
    pub sip: Sip,
    #[serde(default)]
    pub registration: Registration,
    #[serde(default)]
    pub guard: Guard,
    #[serde(default)]
    pub media: Media,
    #[serde(default)]
    pub recording: Recording,
    pub api: Api,
    #[serde(default)]
    pub log: Log,
}

/// `[node]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "config/tandem.toml says what each key is")]
pub struct Node {
    pub id: NodeId,
    pub data: PathBuf,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Families>,
}

/// `[cluster]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "config/tandem.toml says what each key is")]
pub struct Cluster {
    pub secret: Secret,
    pub ca: PathBuf,
    pub cert: PathBuf,
    pub key: PathBuf,
    #[serde(default = "replicas")]
    pub replicas: u8,
    pub member: Vec<Member>,
    pub vnode: Vec<Vnode>,
}

/// `[[cluster.member]]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "config/tandem.toml says what each key is")]
pub struct Member {
    pub id: NodeId,
    pub raft: SocketAddr,
    pub actors: SocketAddr,
}

/// `[[cluster.vnode]]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "config/tandem.toml says what each key is")]
pub struct Vnode {
    pub id: VnodeId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Families>,
    pub home: NodeId,
}

/// A secret: never printed.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

/// `[address]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "config/tandem.toml says what each key is")]
pub struct Address {
    pub mode: AddressMode,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
}

/// How a vnode's address gets to its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AddressMode {
    /// Addresses of 127.0.0.0/8: binding is taking.
    Loopback,
    /// The owner puts the address on its interface and announces it.
    Netlink,
    /// An operator's command moves it.
    Hook,
    /// It doesn't: a vnode is at its owner's address, on ports of its own.
    Fixed,
}

/// `[sip]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "config/tandem.toml says what each key is")]
pub struct Sip {
    pub domain: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub service_route: Vec<String>,
    #[serde(default = "sip_port")]
    pub port: u16,
    #[serde(default = "digest")]
    pub digest: Vec<Digest>,
    #[serde(default = "t1")]
    pub t1: u16,
    #[serde(default = "ws_port")]
    pub ws_port: u16,
    #[serde(default = "session_expires")]
    pub session_expires: u32,
    #[serde(default = "min_se")]
    pub min_se: u32,
    #[serde(default = "nat_keepalive")]
    pub nat_keepalive: u16,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns: Vec<SocketAddr>,
    #[serde(default)]
    pub long_by_tcp: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<SipTls>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub peer: Vec<SipPeer>,
}

/// `[[sip.peer]]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "config/tandem.toml says what each key is")]
pub struct SipPeer {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub net: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    pub user: String,
    #[serde(default)]
    pub registers: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transport: Option<PeerTransport>,
}

impl SipPeer {
    /// One that is known by its address.
    pub fn at(net: &str, user: &str) -> Self {
        let (net, user) = (Some(net.into()), user.into());
        Self { net, certificate: None, user, registers: false, domain: None, transport: None }
    }
}

/// What is spoken with a peer's servers, whatever the DNS says of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names are the transports")]
pub enum PeerTransport {
    Udp,
    Tcp,
    Tls,
}

/// Whether the streams of a user or a peer are to be protected (RFC 3711).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SrtpPolicy {
    /// As its phone wants; it is offered keys if the other side's streams are protected.
    #[default]
    Allow,
    /// It is always offered keys, and may do without.
    Prefer,
    /// Always.
    Require,
    /// Always, and by keys that are agreed in DTLS (RFC 5763): its phone is offered that. A browser is in any case.
    Dtls,
    /// Never.
    Forbid,
}

/// What we can code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Codec {
    /// G.711, µ-law.
    Pcmu,
    /// G.711, A-law.
    Pcma,
    /// G.722 at 64 kbit/s.
    G722,
    /// RFC 6716.
    Opus,
}

impl Codec {
    /// All of them, the best first.
    pub const ALL: [Self; 4] = [Self::Opus, Self::G722, Self::Pcma, Self::Pcmu];
}

/// `[sip.tls]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "config/tandem.toml says what each key is")]
pub struct SipTls {
    #[serde(default = "tls_port")]
    pub port: u16,
    #[serde(default = "wss_port")]
    pub wss_port: u16,
    pub cert: PathBuf,
    pub key: PathBuf,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust: Option<PathBuf>,
}

/// A hash that users may prove their passwords with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are the algorithms")]
pub enum Digest {
    #[serde(rename = "MD5")]
    Md5,
    #[serde(rename = "SHA-256")]
    Sha256,
}

/// `[registration]`, in seconds
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs, reason = "config/tandem.toml says what each key is")]
pub struct Registration {
    pub min: u32,
    pub max: u32,
    pub default: u32,
    pub contacts: u8,
}

/// `[guard]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs, reason = "config/tandem.toml says what each key is")]
pub struct Guard {
    pub enabled: bool,
    pub trusted: Vec<String>,
    pub connections: usize,
}

impl Default for Guard {
    fn default() -> Self {
        Self { enabled: true, trusted: Vec::new(), connections: 2000 }
    }
}

/// `[media]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs, reason = "config/tandem.toml says what each key is")]
pub struct Media {
    pub first_port: u16,
    pub last_port: u16,
    pub workers: u16,
    pub timeout: u32,
    pub dscp: u8,
    #[serde(default)]
    pub srtp: SrtpPolicy,
    pub codecs: Vec<Codec>,
    pub opus_complexity: u8,
    pub opus_bitrate: u32,
    pub hold_music: Option<PathBuf>,
    pub ringback: Option<PathBuf>,
}

/// `[api]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "config/tandem.toml says what each key is")]
pub struct Api {
    pub listen: SocketAddr,
    pub token_file: PathBuf,
}

/// `[log]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs, reason = "config/tandem.toml says what each key is")]
pub struct Log {
    pub format: LogFormat,
    pub filter: String,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// One JSON object a line.
    Json,
    /// For people.
    Human,
}

impl Default for Registration {
    fn default() -> Self {
        Self { min: 60, max: 3600, default: 3600, contacts: 10 }
    }
}

impl Default for Media {
    fn default() -> Self {
        Self {
            first_port: 10_000,
            last_port: 29_999,
            workers: 0,
            timeout: 300,
            dscp: 46,
            srtp: SrtpPolicy::Allow,
            codecs: Codec::ALL.to_vec(),
            opus_complexity: 5,
            opus_bitrate: 24_000,
            hold_music: None,
            ringback: None,
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Auto, filter: DEFAULT_FILTER.into() }
    }
}

/// What is logged: ours from info, the libraries' only what may need somebody.
pub const DEFAULT_FILTER: &str = "info,openraft=error,ractor=warn,ractor_cluster=warn";

/// Whether it is an address, or an address, a slash and how many bits of it count.
fn is_net(text: &str) -> bool {
    let (ip, bits) = text.split_once('/').unwrap_or((text, "0"));
    ip.parse::<IpAddr>().is_ok_and(|ip| bits.parse::<u8>().is_ok_and(|bits| bits <= if ip.is_ipv4() { 32 } else { 128 }))
}

fn replicas() -> u8 {
    3
}

fn sip_port() -> u16 {
    5060
}

fn t1() -> u16 {
    500
}

fn session_expires() -> u32 {
    1800
}

fn nat_keepalive() -> u16 {
    25
}

fn min_se() -> u32 {
    90
}

fn ws_port() -> u16 {
    5066
}

fn tls_port() -> u16 {
    5061
}

fn wss_port() -> u16 {
    7443
}

fn digest() -> Vec<Digest> {
    vec![Digest::Md5]
}

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It isn't TOML, or has a key or value that it must not have.
    #[error("{}, line {line}: {message}", path.display())]
    Syntax {
        /// Which.
        path: PathBuf,
        /// Where.
        line: usize,
        /// What.
        message: String,
    },
    /// A value is of the right type and still impossible.
    #[error("{}: {key} {message}", path.display())]
    Value {
        /// Which.
        path: PathBuf,
        /// Where.
        key: &'static str,
        /// What.
        message: String,
    },
}

impl Config {
    /// Reads a file. Relative paths in it are relative to it.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let mut config = Self::parse(&text, path)?;
        let base = path.parent().unwrap_or(Path::new(".")).to_owned();
        let Self { node, cluster, sip, media, api, .. } = &mut config;
        let own = [&mut node.data, &mut cluster.ca, &mut cluster.cert, &mut cluster.key, &mut api.token_file];
        let phones = sip.tls.iter_mut().flat_map(|tls| [&mut tls.cert, &mut tls.key].into_iter().chain(&mut tls.ca));
        for file in own.into_iter().chain(phones).chain(&mut media.hold_music).chain(&mut media.ringback) {
            *file = base.join(&*file);
        }
        let store = config.recording.store.as_mut().filter(|store| !store.starts_with("s3://"));
        store.into_iter().for_each(|store| *store = base.join(&*store).to_string_lossy().into_owned());
        Ok(config)
    }

    /// Reads and checks text; `path` is for the errors.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text).map_err(|error| {
            let before = error.span().map_or("", |span| text.get(..span.start).unwrap_or(text));
            ConfigError::Syntax {
                path: path.to_owned(),
                line: before.matches('\n').count() + 1,
                message: error.message().replace('\n', ", "),
            }
        })?;
        config.check().map_err(|(key, message)| ConfigError::Value { path: path.to_owned(), key, message })?;
        Ok(config)
    }

    fn check(&self) -> Result<(), (&'static str, String)> {
        let members: BTreeSet<NodeId> = self.cluster.member.iter().map(|member| member.id).collect();
        if members.len() != self.cluster.member.len() {
            return Err(("cluster.member", "has the same id twice".into()));
        }
        if !members.contains(&self.node.id) {
            return Err(("node.id", format!("is {}, which no cluster.member has", self.node.id.0)));
        }
        let vnodes: BTreeSet<VnodeId> = self.cluster.vnode.iter().map(|vnode| vnode.id).collect();
        if vnodes.is_empty() || vnodes.len() != self.cluster.vnode.len() || vnodes.contains(&VnodeId(0)) {
            return Err(("cluster.vnode", "needs at least one, with ids from 1 up, each once".into()));
        }
        if let Some(vnode) = self.cluster.vnode.iter().find(|vnode| !members.contains(&vnode.home)) {
            return Err(("cluster.vnode.home", format!("is {}, which no cluster.member has", vnode.home.0)));
        }
        if !(1..=5).contains(&self.cluster.replicas) {
            return Err(("cluster.replicas", format!("is {}, and must be from 1 to 5", self.cluster.replicas)));
        }
        self.check_addresses()?;
        if self.cluster.secret.0.len() < 32 {
            return Err(("cluster.secret", "must have 32 characters at least".into()));
        }
        let domain = &self.sip.domain;
        if domain.is_empty() || !domain.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte)) {
            return Err(("sip.domain", format!("{domain:?} is no domain name")));
        }
        if self.sip.digest.is_empty() {
            return Err(("sip.digest", "needs at least one algorithm".into()));
        }
        if !(10..=2000).contains(&self.sip.t1) {
            return Err(("sip.t1", format!("is {}, and must be from 10 to 2000", self.sip.t1)));
        }
        self.check_peers()?;
        let is_route = |uri: &&String| {
            uri.starts_with("sip:")
                && uri.ends_with(";lr")
                && uri.bytes().all(|byte| byte.is_ascii_graphic() && !b"<>,\"".contains(&byte))
        };
        if let Some(uri) = self.sip.service_route.iter().find(|uri| !is_route(uri)) {
            return Err(("sip.service_route", format!("{uri:?} wants to be a SIP URI that ends in ;lr")));
        }
        let Sip { session_expires, min_se, .. } = self.sip;
        if min_se == 0 || (session_expires != 0 && session_expires < min_se) {
            return Err(("sip.session_expires", "wants 0 < min_se <= session_expires, or to be 0".into()));
        }
        let Registration { min, max, default, contacts } = self.registration;
        if min == 0 || !(min..=max).contains(&default) {
            return Err(("registration", "wants 0 < min <= default <= max".into()));
        }
        if contacts == 0 {
            return Err(("registration.contacts", "is 0, and nobody could register".into()));
        }
        if let Some(text) = self.guard.trusted.iter().find(|text| !is_net(text)) {
            return Err(("guard.trusted", format!("{text:?} is no address and no network")));
        }
        if self.recording.store.is_some() && self.media.codecs.is_empty() {
            // Who doesn't look at formats can't know what the packets say.
            return Err(("recording.store", "is set, and media.codecs is empty".into()));
        }
        if self.media.dscp > 63 {
            return Err(("media.dscp", format!("is {}, and must be 63 at most", self.media.dscp)));
        }
        let codecs = &self.media.codecs;
        if let Some(twice) = codecs.iter().enumerate().find(|(at, codec)| codecs[..*at].contains(codec)) {
            return Err(("media.codecs", format!("has {:?} twice", twice.1)));
        }
        for (key, file) in [("media.hold_music", &self.media.hold_music), ("media.ringback", &self.media.ringback)] {
            if file.is_some() && codecs.is_empty() {
                return Err((key, "needs some media.codecs: without, nobody is told from another by what it can hear".into()));
            }
        }
        if self.media.opus_complexity > 10 {
            return Err(("media.opus_complexity", format!("is {}, and must be 10 at most", self.media.opus_complexity)));
        }
        if !(6_000..=64_000).contains(&self.media.opus_bitrate) {
            return Err(("media.opus_bitrate", format!("is {}, and must be 6000 to 64000", self.media.opus_bitrate)));
        }
        self.check_ports()
    }

    /// SIP's ports that are in use, by their keys.
    fn sip_ports(&self) -> Vec<(&'static str, u16)> {
        let Sip { port, ws_port, tls, .. } = &self.sip;
        let tls = tls.iter().flat_map(|tls| [("sip.tls.port", tls.port), ("sip.tls.wss_port", tls.wss_port)]);
        [("sip.port", *port), ("sip.ws_port", *ws_port)].into_iter().chain(tls).filter(|(_, port)| *port != 0).collect()
    }

    fn check_ports(&self) -> Result<(), (&'static str, String)> {
        if self.sip.port == 0 {
            return Err(("sip.port", "is 0, and must be a port".into()));
        }
        let Media { first_port, last_port, .. } = self.media;
        if first_port < 1024 || last_port <= first_port {
            return Err(("media", "wants 1024 <= first_port < last_port".into()));
        }
        // Where addresses are fixed each vnode has its own, from the first up.
        let count = if self.is_fixed() { u16::try_from(self.cluster.vnode.len()).unwrap_or(u16::MAX) } else { 1 };
        let ports = self.sip_ports();
        for (at, (key, first)) in ports.iter().enumerate() {
            let Some(last) = first.checked_add(count - 1) else {
                return Err((key, format!("is {first}, and there are no ports for {count} vnodes above it")));
            };
            if last >= first_port && *first <= last_port {
                return Err(("media", format!("wants {key} outside of its ports, for each vnode")));
            }
            let shared = ports[..at].iter().find(|(_, other)| other.abs_diff(*first) < count);
            if let Some((other, _)) = shared {
                return Err((key, format!("is {first}, which leaves no room for {other}, for each vnode")));
            }
        }
        Ok(())
    }

    fn check_peers(&self) -> Result<(), (&'static str, String)> {
        for peer in &self.sip.peer {
            let is_known = peer.net.is_some() || peer.certificate.is_some() || peer.domain.is_some();
            if peer.user.is_empty() || !is_known || peer.net.as_ref().is_some_and(|net| !is_net(net)) {
                let name = peer.net.as_ref().or(peer.certificate.as_ref()).or(peer.domain.as_ref());
                let text = "wants a user, and an address or a network, the name in a certificate, or a domain";
                return Err(("sip.peer", format!("{:?} {text}", name.map_or("", String::as_str))));
            }
            if peer.certificate.is_some() && self.sip.tls.as_ref().is_none_or(|tls| tls.ca.is_none()) {
                return Err(("sip.peer", "certificate wants sip.tls.ca, which such certificates are of".into()));
            }
            if peer.transport == Some(PeerTransport::Tls) && self.sip.tls.is_none() {
                return Err(("sip.peer", "transport tls wants sip.tls".into()));
            }
            if peer.domain.as_ref().is_some_and(|domain| *domain == self.sip.domain || self.sip.aliases.contains(domain)) {
                return Err(("sip.peer", "domain is our own".into()));
            }
        }
        Ok(())
    }

    fn check_addresses(&self) -> Result<(), (&'static str, String)> {
        const KEY: &str = "cluster.vnode.address";
        if self.is_fixed() {
            return self.check_fixed();
        }
        for vnode in &self.cluster.vnode {
            let Some(address) = vnode.address else {
                return Err((KEY, format!("of vnode {} is missing, and only address.mode = \"fixed\" has none", vnode.id.0)));
            };
            if self.address.mode == AddressMode::Loopback && !address.all().all(|ip| ip.is_loopback()) {
                return Err((KEY, format!("is {address}, and address.mode = \"loopback\" takes 127.0.0.0/8 only")));
            }
            if self.address.mode != AddressMode::Loopback && address.all().any(|ip| ip.is_loopback()) {
                return Err((KEY, format!("is {address}, which only address.mode = \"loopback\" takes")));
            }
        }
        if self.node.address.is_some() {
            return Err(("node.address", "is of address.mode = \"fixed\" alone".into()));
        }
        if self.address.mode == AddressMode::Netlink && self.address.interface.as_ref().is_none_or(String::is_empty) {
            return Err(("address.interface", "is missing, and address.mode = \"netlink\" needs it".into()));
        }
        if self.address.mode == AddressMode::Hook && self.address.command.is_empty() {
            return Err(("address.command", "is missing, and address.mode = \"hook\" needs it".into()));
        }
        Ok(())
    }

    fn check_fixed(&self) -> Result<(), (&'static str, String)> {
        if self.node.address.is_none() {
            return Err(("node.address", "is missing, and address.mode = \"fixed\" needs it".into()));
        }
        if self.cluster.vnode.iter().any(|vnode| vnode.address.is_some()) {
            return Err(("cluster.vnode.address", "is set, and with address.mode = \"fixed\" vnodes are at node.address".into()));
        }
        let count = u16::try_from(self.cluster.vnode.len()).unwrap_or(u16::MAX);
        let Media { first_port, last_port, .. } = self.media;
        if (last_port - first_port) / count < 2 {
            return Err(("media", format!("has too few ports for {count} vnodes")));
        }
        Ok(())
    }

    /// Whether vnodes are at their owner's address, and move without it.
    pub fn is_fixed(&self) -> bool {
        self.address.mode == AddressMode::Fixed
    }

    /// The addresses of a vnode, while it is on this node.
    pub fn addresses_of(&self, vnode: VnodeId) -> Option<Families> {
        self.cluster.vnode.iter().find(|own| own.id == vnode).and_then(|own| own.address.or(self.node.address))
    }

    /// Where a vnode listens for SIP over UDP and TCP, by its first address, while it is on this node.
    pub fn sip_address_of(&self, vnode: VnodeId) -> Option<SocketAddr> {
        Some(SocketAddr::new(self.addresses_of(vnode)?.first(), self.port_of(vnode, self.sip.port)))
    }

    /// Where a vnode listens that somebody with this address can reach.
    pub fn listens_toward(&self, vnode: VnodeId, port: u16, there: IpAddr) -> Option<SocketAddr> {
        Some(SocketAddr::new(self.addresses_of(vnode)?.toward(there)?, self.port_of(vnode, port)))
    }

    /// A vnode's own port, where all vnodes have this one, or this one and those above it.
    pub fn port_of(&self, vnode: VnodeId, port: u16) -> u16 {
        if self.is_fixed() { port.saturating_add(self.place_of(vnode)) } else { port }
    }

    /// The first and the last of a vnode's media ports.
    pub fn media_ports_of(&self, vnode: VnodeId) -> (u16, u16) {
        let Media { first_port, last_port, .. } = self.media;
        if !self.is_fixed() {
            return (first_port, last_port);
        }
        let count = u16::try_from(self.cluster.vnode.len()).unwrap_or(u16::MAX).max(1);
        // Pairs of ports stay whole.
        let share = ((last_port - first_port) / count) & !1;
        let first = first_port + share * self.place_of(vnode);
        (first, first + share - 1)
    }

    /// A vnode's place in the list, from 0.
    fn place_of(&self, vnode: VnodeId) -> u16 {
        let place = self.cluster.vnode.iter().position(|own| own.id == vnode).unwrap_or(0);
        u16::try_from(place).unwrap_or(u16::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = include_str!("../config/tandem.toml");

    fn error(text: &str) -> String {
        Config::parse(text, Path::new("x.toml")).unwrap_err().to_string()
    }

    /// The example is complete: each key of the types stands in it, with its default where it has one.
    #[test]
    fn the_example_holds_every_key() {
        let config = Config::parse(EXAMPLE, Path::new("tandem.toml")).unwrap();
        let again = toml::Value::try_from(&config).unwrap();
        let written: toml::Value = toml::from_str(EXAMPLE).unwrap();
        assert_eq!(again, written);
    }

    #[test]
    fn vnodes_at_a_fixed_address_have_ports_of_their_own() {
        let lines = EXAMPLE.lines().filter(|line| !line.starts_with("address = \"127"));
        let text = lines.collect::<Vec<_>>().join("\n");
        let text =
            text.replace("mode = \"loopback\"", "mode = \"fixed\"").replace("id = 1   ", "address = \"192.0.2.1\"\nid = 1   ");
        assert!(error(&text).contains("sip.tls.port is 5061, which leaves no room for sip.port"));
        let text = text.replace("port = 5061", "port = 5161");
        let config = Config::parse(&text, Path::new("x.toml")).unwrap();
        assert_eq!(config.sip_address_of(VnodeId(3)), Some("192.0.2.1:5062".parse().unwrap()));
        let ranges: Vec<_> = (1..=6).map(|vnode| config.media_ports_of(VnodeId(vnode))).collect();
        assert_eq!((ranges[0], ranges[5].1 <= 29_999), ((10_000, 13_331), true));
        assert!(ranges.windows(2).all(|pair| pair[0].1 + 1 == pair[1].0), "{ranges:?}");
        assert!(error(&text.replace("address = \"192.0.2.1\"", "")).contains("node.address is missing"));
        assert!(error(&EXAMPLE.replacen("address = \"127.0.0.11\"\n", "", 1)).contains("of vnode 1 is missing"));
    }

    #[test]
    fn mistakes_are_named_in_one_sentence() {
        for (from, to, expected) in [
            ("port = 5060", "prot = 5060", "x.toml, line "),
            ("port = 5060", "port = \"x\"", "expected u16"),
            ("mode = \"loopback\"", "mode = \"magic\"", "unknown variant `magic`"),
            ("id = 1   ", "id = 9   ", "x.toml: node.id is 9, which no cluster.member has"),
            ("first_port = 10000", "first_port = 80", "x.toml: media wants"),
            ("dscp = 46", "dscp = 64", "x.toml: media.dscp is 64"),
            (
                "codecs = [\"opus\", \"g722\", \"pcma\", \"pcmu\"]",
                "hold_music = \"a.wav\"\ncodecs = []",
                "media.hold_music needs some media.codecs",
            ),
            ("[registration]", "[[sip.peer]]\nnet = \"10/8\"\nuser = \"a\"\n[registration]", "x.toml: sip.peer \"10/8\" wants"),
            ("trusted = []", "trusted = [\"10/8\"]", "x.toml: guard.trusted \"10/8\" is no address"),
            ("\"127.0.0.11\"", "[\"127.0.0.11\", \"127.0.0.21\"]", "more than one address of IPv4 or of IPv6"),
            ("\"127.0.0.11\"", "[\"127.0.0.11\", \"2001:db8::1\"]", "takes 127.0.0.0/8 only"),
            ("ws_port = 5066", "ws_port = 5061", "x.toml: sip.tls.port is 5061, which leaves no room for sip.ws_port"),
            ("wss_port = 7443", "wss_port = 12000", "x.toml: media wants sip.tls.wss_port outside"),
            ("port = 5060", "port = 0", "x.toml: sip.port is 0"),
            ("replicas = 3", "replicas = 9", "x.toml: cluster.replicas is 9"),
            ("min = 60", "min = 0", "x.toml: registration wants"),
            ("127.0.0.11", "192.0.2.1", "takes 127.0.0.0/8 only"),
            ("mode = \"loopback\"", "mode = \"netlink\"", "only address.mode = \"loopback\" takes"),
            ("domain = \"tandem.test\"", "domain = \"a b\"", "sip.domain"),
        ] {
            let text = EXAMPLE.replacen(from, to, 1);
            assert_ne!(text, EXAMPLE, "{from}");
            let message = error(&text);
            assert!(message.contains(expected) && !message.contains('\n'), "{message}");
        }
    }
}

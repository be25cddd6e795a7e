//! Other domains, which our users may call (`[[sip.peer]]` with a domain): where their servers are, by DNS (RFC 3263), and what they are
//! called when we connect to them. Layer: shell.
//!
//! A domain's servers are so many ways to one callee, the best first; the call tries one after the other. Nothing of this is in the
//! records but the addresses: whoever takes a call over connects to the same, and asks the DNS again whose they are.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{RData, RecordType};
use hickory_resolver::{Resolver, TokioResolver};
use rand::RngExt;
use tokio::time::Instant;

use crate::config::{Config, PeerTransport};
use crate::families::Families;
use crate::ids::{Aor, VnodeId};
use crate::sip::b2bua::Target;
use crate::sip::dialog::Flow;
use crate::sip::headers::Transport;
use crate::sip::locate::{First, Hop, Naptr, Service, Srv, first, in_order, itself, services, unsaid};
use crate::sip::registrar::Phone;
use crate::sip::uri::escape_user;
use crate::sip::{Text, Uri};

/// The DNS has so long, and for a question that is open then.
const PATIENCE: Duration = Duration::from_secs(6);
/// One name server has so long for one question, and is asked so often.
const QUESTION: Duration = Duration::from_secs(1);
const ATTEMPTS: usize = 2;
/// So many servers of a domain are tried.
const MAX_SERVERS: usize = 8;
/// Of so many servers it is remembered whose they are.
const MAX_NAMES: usize = 4096;

/// Who is elsewhere.
#[derive(Debug)]
pub struct Elsewhere {
    dns: Option<TokioResolver>,
    domains: Vec<Domain>,
    /// Whose servers are there.
    names: Mutex<HashMap<SocketAddr, String>>,
}

#[derive(Debug)]
struct Domain {
    name: String,
    /// What is spoken with it, if the DNS has no say in that.
    transport: Option<Transport>,
}

impl Elsewhere {
    /// As configured.
    pub fn new(config: &Config) -> Self {
        let transport = |transport| match transport {
            PeerTransport::Udp => Transport::Udp,
            PeerTransport::Tcp => Transport::Tcp,
            PeerTransport::Tls => Transport::Tls,
        };
        let domains = config.sip.peer.iter().filter_map(|peer| {
            Some(Domain { name: peer.domain.as_ref()?.to_ascii_lowercase(), transport: peer.transport.map(transport) })
        });
        let domains: Vec<_> = domains.collect();
        let dns = if domains.is_empty() { None } else { resolver(&config.sip.dns) };
        Self { dns, domains, names: Mutex::default() }
    }

    /// Whether our users may call there.
    pub fn serves(&self, domain: &str) -> bool {
        self.domain(domain).is_some()
    }

    fn domain(&self, name: &str) -> Option<&Domain> {
        self.domains.iter().find(|domain| domain.name.eq_ignore_ascii_case(name))
    }

    /// The ways from a vnode to somebody of another domain, in the order to try them.
    pub async fn targets(&self, config: &Config, vnode: VnodeId, callee: &Aor) -> Vec<Target> {
        let Some(domain) = self.domain(callee.domain()) else { return Vec::new() };
        let contact = domain.uri(callee.user());
        let servers = self.servers(config, vnode, domain).await;
        let target = |server: (Transport, SocketAddr)| {
            let flow = dialed(config, vnode, server.0, server.1)?;
            let long = Some(Transport::Tcp).filter(|_| server.0 == Transport::Udp);
            let long = long.and_then(|tcp| dialed(config, vnode, tcp, server.1));
            let phone = Some(Phone::elsewhere(callee.clone()));
            Some(Target { contact: contact.clone(), path: Vec::new(), flow, long, phone, q: 1000, replaces: None })
        };
        servers.into_iter().filter_map(target).collect()
    }

    /// What the server there has to prove that it is; it may be one that another owner has found.
    pub async fn name_of(&self, config: &Config, vnode: VnodeId, server: SocketAddr) -> Option<String> {
        if let Some(known) = self.known(server) {
            return Some(known);
        }
        for domain in &self.domains {
            let found = self.servers(config, vnode, domain).await;
            if found.iter().any(|(_, address)| *address == server) {
                return Some(domain.name.clone());
            }
        }
        None
    }

    fn known(&self, server: SocketAddr) -> Option<String> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).get(&server).cloned()
    }

    /// A domain's servers that a vnode can reach.
    async fn servers(&self, config: &Config, vnode: VnodeId, domain: &Domain) -> Vec<(Transport, SocketAddr)> {
        let Some(own) = config.addresses_of(vnode) else { return Vec::new() };
        let Some(begin) = Uri::parse(&domain.uri("x")).ok().and_then(|uri| first(&uri)) else { return Vec::new() };
        let until = Instant::now() + PATIENCE;
        let hops = match begin {
            First::Host(hop) => vec![hop],
            First::Service(service, hop) => self.hosts(&[service], hop).await,
            First::Naptr(name) => match self.naptr(&name).await {
                // What the domain wishes isn't known: TLS perhaps.
                None => Vec::new(),
                Some(found) if found.is_empty() => self.hosts(&unsaid(&name), itself(&name)).await,
                Some(found) => self.hosts(&found, itself(&name)).await,
            },
        };
        let mut servers = Vec::new();
        for hop in hops {
            // One that has been found is better than all that could be.
            if Instant::now() >= until {
                break;
            }
            for ip in self.addresses(&hop.host, own).await {
                let server = (hop.transport, SocketAddr::new(ip, hop.port));
                if servers.len() < MAX_SERVERS && !servers.contains(&server) {
                    servers.push(server);
                }
            }
        }
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if names.len() + servers.len() > MAX_NAMES {
            names.clear();
        }
        names.extend(servers.iter().map(|(_, address)| (*address, domain.name.clone())));
        servers
    }

    /// The hosts of these services; this one if it is certain that there are no records of any.
    async fn hosts(&self, services: &[Service], itself: Hop) -> Vec<Hop> {
        let (mut hops, mut none) = (Vec::new(), true);
        for service in services {
            let records = self.srv(&service.name).await;
            none &= records.as_ref().is_some_and(Vec::is_empty);
            hops.extend(in_order(service, records.unwrap_or_default(), &mut |most| rand::rng().random_range(0..=most)));
        }
        if none { vec![itself] } else { hops }
    }

    async fn naptr(&self, name: &str) -> Option<Vec<Service>> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let records = self.ask(name, RecordType::NAPTR, |data| {
            let RData::NAPTR(record) = data else { return None };
            Some(Naptr {
                order: record.order,
                preference: record.preference,
                flags: text(&record.flags),
                services: text(&record.services),
                replacement: host_of(&record.replacement.to_ascii()),
            })
        });
        records.await.map(services)
    }

    async fn srv(&self, name: &str) -> Option<Vec<Srv>> {
        let records = self.ask(name, RecordType::SRV, |data| {
            let RData::SRV(record) = data else { return None };
            Some(Srv {
                priority: record.priority,
                weight: record.weight,
                port: record.port,
                target: host_of(&record.target.to_ascii()),
            })
        });
        records.await
    }

    /// A host's addresses that we can reach: those of the family of our first address before the others.
    async fn addresses(&self, host: &str, own: Families) -> Vec<IpAddr> {
        if let Ok(ip) = host.parse() {
            return Some(ip).filter(|ip| own.toward(*ip).is_some()).into_iter().collect();
        }
        let kind = |ip: IpAddr| if ip.is_ipv4() { RecordType::A } else { RecordType::AAAA };
        let asked = own.all().map(|ip| self.ask(host, kind(ip), RData::ip_addr));
        futures_util::future::join_all(asked).await.into_iter().flatten().flatten().collect()
    }

    /// What the DNS says; none if it doesn't say.
    async fn ask<T>(&self, name: &str, kind: RecordType, read: impl Fn(&RData) -> Option<T>) -> Option<Vec<T>> {
        let dns = self.dns.as_ref()?;
        // A dot at the end: it is nobody's short name.
        match dns.lookup(format!("{}.", name.trim_end_matches('.')), kind).await {
            Ok(found) => Some(found.answers().iter().filter_map(|record| read(&record.data)).collect()),
            Err(error) if error.is_no_records_found() => Some(Vec::new()),
            Err(error) => {
                tracing::warn!(name, %kind, %error, "the DNS has no answer");
                None
            }
        }
    }
}

impl Domain {
    fn uri(&self, user: &str) -> Text {
        let transport = self.transport.map(|transport| format!(";transport={}", transport.as_str().to_ascii_lowercase()));
        Text::from(format!("sip:{}@{}{}", escape_user(user), self.name, transport.unwrap_or_default()))
    }
}

fn host_of(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

/// The way from a vnode to a server.
pub fn dialed(config: &Config, vnode: VnodeId, transport: Transport, remote: SocketAddr) -> Option<Flow> {
    let port = match transport {
        Transport::Tls => config.sip.tls.as_ref()?.port,
        Transport::Udp | Transport::Tcp | Transport::Ws | Transport::Wss => config.sip.port,
    };
    Some(Flow { vnode, transport, local: config.listens_toward(vnode, port, remote.ip())?, remote, connection: 0 })
}

/// Who asks the DNS: these servers, or those of the system.
fn resolver(servers: &[SocketAddr]) -> Option<TokioResolver> {
    let server = |address: &SocketAddr| {
        let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
            connection.port = address.port();
            connection
        });
        NameServerConfig::new(address.ip(), true, connections.into())
    };
    let builder = if servers.is_empty() {
        Resolver::builder_tokio()
    } else {
        let config = ResolverConfig::from_parts(None, Vec::new(), servers.iter().map(server).collect());
        Ok(Resolver::builder_with_config(config, TokioRuntimeProvider::default()))
    };
    let built = builder.and_then(|mut builder| {
        let options = builder.options_mut();
        (options.timeout, options.attempts) = (QUESTION, ATTEMPTS);
        builder.build()
    });
    built.inspect_err(|error| tracing::error!(%error, "no DNS: other domains are found by address alone")).ok()
}

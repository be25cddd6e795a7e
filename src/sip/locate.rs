//! Where a domain's servers are (RFC 3263): what to ask the DNS, and in which order to try what it says. Layer: pure.
//!
//! ```text
//!  sip:x@example.net ──NAPTR──▶ transports, and names to ask for ──SRV──▶ hosts and ports ──A, AAAA──▶ addresses
//! ```
//!
//! An address, a port or a transport in the URI makes the steps before it needless (§4.1, §4.2).

use std::time::Duration;

use super::headers::Transport;
use super::uri::{Host, Uri};

/// A server is given up that has said nothing for so long when its domain has another: before who asks gives up.
pub const SILENT: Duration = Duration::from_secs(4);

/// What we speak with servers.
const OURS: [Transport; 3] = [Transport::Udp, Transport::Tcp, Transport::Tls];

/// How to begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum First {
    /// It is said already: ask for the addresses of this host, unless it is one.
    Host(Hop),
    /// Ask for the SRV of this name (§4.2); without any it is the host.
    Service(Service, Hop),
    /// Ask for the NAPTR of this name (§4.1); without any for the SRV of each of [`unsaid`].
    Naptr(String),
}

/// A way to a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hop {
    /// By what.
    pub transport: Transport,
    /// A name or an address.
    pub host: String,
    /// Its port.
    pub port: u16,
}

/// A name whose SRV records say where its servers are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// What they speak.
    pub transport: Transport,
    /// As it is asked for.
    pub name: String,
}

/// A NAPTR record (RFC 3403 §4.1), as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the RFC's")]
pub struct Naptr {
    pub order: u16,
    pub preference: u16,
    pub flags: String,
    pub services: String,
    pub replacement: String,
}

/// An SRV record (RFC 2782).
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the RFC's")]
pub struct Srv {
    pub priority: u16,
    pub weight: u16,
    pub port: u16,
    pub target: String,
}

/// The port of who says none (RFC 3261 §19.1.2).
pub fn default_port(transport: Transport) -> u16 {
    if transport == Transport::Tls { 5061 } else { 5060 }
}

fn hop(transport: Transport, host: &str, port: Option<u16>) -> Hop {
    Hop { transport, host: host.to_owned(), port: port.unwrap_or(default_port(transport)) }
}

fn service(transport: Transport, domain: &str) -> Service {
    let prefix = match transport {
        Transport::Udp => "_sip._udp",
        Transport::Tls => "_sips._tcp",
        Transport::Tcp | Transport::Ws | Transport::Wss => "_sip._tcp",
    };
    Service { transport, name: format!("{prefix}.{domain}") }
}

/// How to find the servers of a URI (§4.1, §4.2); none for a transport that we don't speak with servers.
pub fn first(uri: &Uri) -> Option<First> {
    let said = uri.param("transport").map(|name| OURS.into_iter().find(|own| own.as_str().eq_ignore_ascii_case(name)));
    let transport = match said {
        Some(said) => Some(said?),
        None => None,
    };
    let host = uri.host_text();
    let is_address = matches!(uri.host, Some(Host::Ip(_)));
    Some(match (transport, uri.port) {
        (transport, port) if is_address || port.is_some() => First::Host(hop(transport.unwrap_or(Transport::Udp), &host, port)),
        (Some(transport), _) => First::Service(service(transport, &host), hop(transport, &host, None)),
        (None, _) => First::Naptr(host),
    })
}

/// The names that a domain's NAPTR records lead to, of what we speak, the best first (§4.1).
pub fn services(mut records: Vec<Naptr>) -> Vec<Service> {
    records.sort_by_key(|record| (record.order, record.preference));
    let of = |record: Naptr| {
        let transport = match record.services.to_ascii_uppercase().as_str() {
            "SIP+D2U" => Transport::Udp,
            "SIP+D2T" => Transport::Tcp,
            "SIPS+D2T" => Transport::Tls,
            _ => return None,
        };
        record.flags.eq_ignore_ascii_case("s").then_some(Service { transport, name: record.replacement })
    };
    records.into_iter().filter_map(of).collect()
}

/// What to ask for when a domain has no NAPTR records (§4.1), the best first. Its servers are not asked for TLS that nobody has spoken of.
pub fn unsaid(domain: &str) -> [Service; 2] {
    [service(Transport::Udp, domain), service(Transport::Tcp, domain)]
}

/// Where to go when a domain has none of those either: to its own address (§4.2).
pub fn itself(domain: &str) -> Hop {
    hop(Transport::Udp, domain, None)
}

/// The hosts of SRV records in the order to try them (RFC 2782): by priority, and among the same by lot, the heavier the likelier. `lot` gives
/// a random number that is at most what it is given.
pub fn in_order(service: &Service, mut records: Vec<Srv>, lot: &mut impl FnMut(u32) -> u32) -> Vec<Hop> {
    // "." means that there is no such service.
    records.retain(|record| !matches!(record.target.as_str(), "" | "."));
    let mut hops = Vec::new();
    while let Some(priority) = records.iter().map(|record| record.priority).min() {
        // Those that weigh nothing come first, so that they have a small chance.
        let mut same: Vec<Srv> = records.extract_if(.., |record| record.priority == priority).collect();
        same.sort_by_key(|record| record.weight);
        while !same.is_empty() {
            let total: u32 = same.iter().map(|record| u32::from(record.weight)).sum();
            let mut drawn = lot(total);
            let at = same.iter().position(|record| {
                let found = drawn <= u32::from(record.weight);
                drawn = drawn.saturating_sub(record.weight.into());
                found
            });
            let record = same.remove(at.unwrap_or(0));
            hops.push(Hop { transport: service.transport, host: record.target, port: record.port });
        }
    }
    hops
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    /// RFC 3263 §4.1 and §4.2, case by case.
    #[test]
    fn what_a_uri_says_need_not_be_asked() {
        let host = |transport, host: &str, port| Some(First::Host(Hop { transport, host: host.into(), port }));
        let asks = |transport, name: &str| {
            Some(First::Service(Service { transport, name: name.into() }, hop(transport, "example.net", None)))
        };
        for (uri, wanted) in [
            ("sip:x@192.0.2.7", host(Transport::Udp, "192.0.2.7", 5060)),
            ("sip:x@192.0.2.7;transport=tls", host(Transport::Tls, "192.0.2.7", 5061)),
            ("sip:x@[2001:db8::7]:5070;transport=TCP", host(Transport::Tcp, "2001:db8::7", 5070)),
            ("sip:x@example.net:5080", host(Transport::Udp, "example.net", 5080)),
            ("sip:x@example.net:5080;transport=tcp", host(Transport::Tcp, "example.net", 5080)),
            ("sip:x@example.net;transport=udp", asks(Transport::Udp, "_sip._udp.example.net")),
            ("sip:x@example.net;transport=tcp", asks(Transport::Tcp, "_sip._tcp.example.net")),
            ("sip:x@example.net;transport=tls", asks(Transport::Tls, "_sips._tcp.example.net")),
            ("sip:x@example.net;transport=sctp", None),
            ("sip:x@example.net", Some(First::Naptr("example.net".into()))),
        ] {
            assert_eq!(first(&Uri::parse(&uri.into()).unwrap()), wanted, "{uri}");
        }
    }

    #[test]
    fn of_naptr_records_those_count_that_we_can_follow() {
        let record = |order, preference, flags: &str, services: &str, replacement: &str| Naptr {
            order,
            preference,
            flags: flags.into(),
            services: services.into(),
            replacement: replacement.into(),
        };
        let found = services(vec![
            record(100, 10, "s", "SIP+D2U", "_sip._udp.example.net"),
            record(50, 60, "S", "sip+d2t", "_sip._tcp.example.net"),
            record(50, 50, "s", "SIPS+D2T", "_sips._tcp.example.net"),
            record(10, 10, "s", "SIP+D2W", "_sip._ws.example.net"),
            record(10, 10, "u", "E2U+sip", ""),
            record(10, 10, "", "SIP+D2U", "elsewhere"),
        ]);
        let of = |transport, name: &str| Service { transport, name: name.into() };
        assert_eq!(
            found,
            [
                of(Transport::Tls, "_sips._tcp.example.net"),
                of(Transport::Tcp, "_sip._tcp.example.net"),
                of(Transport::Udp, "_sip._udp.example.net")
            ]
        );
    }

    /// RFC 2782: priority decides, weight is the chance to be first among the same.
    #[test]
    fn servers_are_tried_by_priority_and_by_lot() {
        let srv = |priority, weight, target: &str| Srv { priority, weight, port: 5060, target: target.into() };
        let service = service(Transport::Udp, "example.net");
        let mut dice = StdRng::seed_from_u64(1);
        let mut lot = |most| dice.random_range(0..=most);
        let mut first = std::collections::BTreeMap::new();
        for _ in 0..4000 {
            let records = vec![srv(20, 0, "last"), srv(10, 75, "heavy"), srv(10, 25, "light"), srv(10, 0, "none")];
            let order: Vec<_> = in_order(&service, records, &mut lot).into_iter().map(|hop| hop.host).collect();
            assert_eq!((order.len(), &*order[3]), (4, "last"));
            *first.entry(order[0].clone()).or_insert(0) += 1;
        }
        assert!((2700..3200).contains(&first["heavy"]) && (800..1200).contains(&first["light"]), "{first:?}");
        assert!(first["none"] > 0);
        assert_eq!(in_order(&service, vec![srv(0, 0, ".")], &mut lot), []);
    }
}

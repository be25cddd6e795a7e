//! Via (RFC 3261 §20.42, RFC 3581). Layer: pure.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use super::HeaderError;
use crate::sip::Text;
use crate::sip::uri::{Host, param};

/// The transport of a Via, or of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are the transports")]
pub enum Transport {
    Udp,
    Tcp,
    Tls,
    Ws,
    Wss,
}

impl Transport {
    /// Reads the name in any case.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Udp, Self::Tcp, Self::Tls, Self::Ws, Self::Wss]
            .into_iter()
            .find(|transport| transport.as_str().eq_ignore_ascii_case(text))
    }

    /// The name as it stands in a Via.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
            Self::Ws => "WS",
            Self::Wss => "WSS",
        }
    }

    /// Whether the transport delivers in order and without loss, so that nothing is retransmitted.
    pub fn is_reliable(self) -> bool {
        self != Self::Udp
    }
}

/// One Via.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Via {
    /// The transport; `None` when we don't know it.
    pub transport: Option<Transport>,
    /// The sent-by host.
    pub host: Host,
    /// The sent-by port.
    pub port: Option<u16>,
    /// `;name=value` pairs.
    pub params: Text,
}

impl Via {
    /// What every branch begins with since RFC 3261 (§8.1.1.7).
    pub const COOKIE: &str = "z9hG4bK";

    /// Reads one Via.
    pub fn parse(text: &Text) -> Result<Self, HeaderError> {
        let malformed = HeaderError::Malformed("Via");
        let (protocol, rest) = split_protocol(text).ok_or(malformed.clone())?;
        let rest = rest.trim_start();
        let (sent_by, params) = rest.split_once(';').unwrap_or((rest, ""));
        let sent_by = sent_by.trim();
        // RFC 4475 §3.1.2.1: a semicolon stands before something.
        if rest.contains(';') && params.split(';').any(|param| param.trim().is_empty()) {
            return Err(malformed);
        }
        let (host, port) = Host::parse_with_port(text, sent_by).map_err(|source| HeaderError::Uri("Via", source))?;
        Ok(Self { transport: Transport::parse(protocol), host, port, params: text.slice_ref(params) })
    }

    /// The branch.
    pub fn branch(&self) -> Option<&str> {
        param(&self.params, "branch").filter(|branch| !branch.is_empty())
    }

    /// Where a response to this goes over UDP (RFC 3261 §18.2.2, RFC 3581 §4).
    pub fn response_address(&self, default_port: u16) -> Option<SocketAddr> {
        let received = param(&self.params, "received").and_then(|ip| ip.trim_matches(['[', ']']).parse().ok());
        let ip: IpAddr = match (received, &self.host) {
            (Some(ip), _) => ip,
            (None, Host::Ip(ip)) => *ip,
            (None, Host::Name(_)) => return None,
        };
        let rport = param(&self.params, "rport").and_then(|port| port.parse().ok());
        Some(SocketAddr::new(ip, rport.or(self.port).unwrap_or(default_port)))
    }

    /// The value of the topmost Via after the packet's source was written into it: `received` always,
    /// the port too when `rport` asks for it (RFC 3581 §4).
    pub fn stamped(text: &str, source: SocketAddr) -> String {
        let mut out = String::with_capacity(text.len() + 40);
        for (at, part) in text.split(';').enumerate() {
            let key = part.split('=').next().unwrap_or("").trim();
            if at > 0 && key.eq_ignore_ascii_case("received") {
                continue;
            }
            if at > 0 {
                out.push(';');
            }
            if at > 0 && key.eq_ignore_ascii_case("rport") {
                out.push_str(&format!("rport={}", source.port()));
            } else {
                out.push_str(part);
            }
        }
        out.push_str(&format!(";received={}", source.ip()));
        out
    }
}

/// `SIP / 2.0 / UDP host` → (`UDP`, ` host`); blanks around the slashes are legal.
fn split_protocol(text: &str) -> Option<(&str, &str)> {
    if let Some(rest) = text.strip_prefix("SIP/2.0/") {
        return rest.split_once([' ', '\t']);
    }
    let (name, rest) = text.split_once('/')?;
    let (version, rest) = rest.split_once('/')?;
    if !name.trim().eq_ignore_ascii_case("SIP") || version.trim() != "2.0" {
        return None;
    }
    rest.trim_start().split_once([' ', '\t'])
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn via(text: &str) -> Via {
        Via::parse(&Text::from(text)).unwrap()
    }

    #[test]
    fn answers_go_where_the_rfcs_say() {
        for (text, address) in [
            ("SIP/2.0/UDP 10.0.0.1;branch=z9hG4bKa", "10.0.0.1:5060"),
            ("SIP/2.0/UDP 10.0.0.1:5070;branch=z9hG4bKa;received=10.0.0.9", "10.0.0.9:5070"),
            ("SIP/2.0/UDP phone.invalid;rport=999;received=10.0.0.9", "10.0.0.9:999"),
            ("SIP / 2.0 / UDP [2001:db8::1]:77 ; branch=z9hG4bKa", "[2001:db8::1]:77"),
        ] {
            assert_eq!(via(text).response_address(5060), Some(address.parse().unwrap()), "{text}");
        }
        assert_eq!(via("SIP/2.0/UDP host.invalid").response_address(5060), None);
        assert!(Via::parse(&Text::from("SIP/2.0/UDP a;;branch=z9hG4bKa")).is_err());
    }

    #[test]
    fn the_source_is_stamped_and_a_lie_replaced() {
        let source = "192.0.2.1:1024".parse().unwrap();
        assert_eq!(
            Via::stamped("SIP/2.0/UDP a;rport;received=6.6.6.6;branch=z9hG4bKx", source),
            "SIP/2.0/UDP a;rport=1024;branch=z9hG4bKx;received=192.0.2.1"
        );
        assert_eq!(Via::stamped("SIP/2.0/UDP a;branch=b", source), "SIP/2.0/UDP a;branch=b;received=192.0.2.1");
    }
}

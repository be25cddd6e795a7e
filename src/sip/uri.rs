//! URIs: sip, sips and tel, and any other kept whole (RFC 3261 §19.1, RFC 3966). Layer: pure.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use super::Text;

/// A URI, its parts sharing the buffer that it was read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uri {
    /// `sip`, `sips`, `tel` or another.
    pub scheme: Scheme,
    /// The user part of a sip URI, the number of a tel URI, everything after the colon of any other;
    /// still escaped.
    pub user: Option<Text>,
    /// The password after the user; deprecated, kept.
    pub password: Option<Text>,
    /// Absent in tel and other URIs.
    pub host: Option<Host>,
    /// Absent when not given.
    pub port: Option<u16>,
    /// `;name=value` pairs, as they came, without the first semicolon.
    pub params: Text,
    /// What follows the question mark.
    pub headers: Text,
}

/// What kind of URI.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the schemes")]
pub enum Scheme {
    Sip,
    Sips,
    Tel,
    Other(Text),
}

/// A host: a name or an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// A domain name, as it came.
    Name(Text),
    /// An address; IPv6 stands in brackets on the wire.
    Ip(IpAddr),
}

/// Why a URI could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each variant says what was wrong")]
pub enum UriError {
    #[error("no scheme")]
    Scheme,
    #[error("the host is empty or has characters that no host has")]
    Host,
    #[error("the port is no number below 65536")]
    Port,
    #[error("a blank or control character inside")]
    Character,
}

/// Whether a user part, its escapes undone, can be said to others: there is nothing in it that they could take for something else.
pub fn is_plain(user: &str) -> bool {
    !user.is_empty() && user.bytes().all(|byte| byte.is_ascii_graphic() && !b"<>\"@\\".contains(&byte))
}

impl Uri {
    /// A sip URI made of its parts.
    pub fn sip(user: Option<&str>, host: Host, port: Option<u16>) -> Self {
        Self {
            scheme: Scheme::Sip,
            user: user.map(Text::from),
            password: None,
            host: Some(host),
            port,
            params: Text::new(),
            headers: Text::new(),
        }
    }

    /// Reads one URI that fills `text` (RFC 3261 §25.1).
    pub fn parse(text: &Text) -> Result<Self, UriError> {
        if text.bytes().any(|byte| byte <= b' ' || byte == 0x7f || byte == b'<' || byte == b'>') {
            return Err(UriError::Character);
        }
        let (scheme, rest) = text.split_once(':').ok_or(UriError::Scheme)?;
        let scheme = match scheme {
            s if s.eq_ignore_ascii_case("sip") => Scheme::Sip,
            s if s.eq_ignore_ascii_case("sips") => Scheme::Sips,
            s if s.eq_ignore_ascii_case("tel") => Scheme::Tel,
            s if s.is_empty() || !s.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b)) => {
                return Err(UriError::Scheme);
            }
            s => Scheme::Other(text.slice_ref(s)),
        };
        match scheme {
            Scheme::Sip | Scheme::Sips => Self::parse_sip(text, rest, scheme),
            Scheme::Tel => {
                let (number, params) = rest.split_once(';').unwrap_or((rest, ""));
                if number.is_empty() {
                    return Err(UriError::Host);
                }
                Ok(Self::opaque(scheme, text.slice_ref(number), text.slice_ref(params)))
            }
            Scheme::Other(_) => Ok(Self::opaque(scheme, text.slice_ref(rest), Text::new())),
        }
    }

    fn opaque(scheme: Scheme, user: Text, params: Text) -> Self {
        Self { scheme, user: Some(user), password: None, host: None, port: None, params, headers: Text::new() }
    }

    fn parse_sip(text: &Text, rest: &str, scheme: Scheme) -> Result<Self, UriError> {
        // The user part may hold ';' and '?', so the last '@' before any header is looked for first.
        let (userinfo, hostpart) = match rest.rsplit_once('@') {
            Some((userinfo, hostpart)) => (Some(userinfo), hostpart),
            None => (None, rest),
        };
        let (hostpart, headers) = hostpart.split_once('?').unwrap_or((hostpart, ""));
        let (hostport, params) = hostpart.split_once(';').unwrap_or((hostpart, ""));
        let (host, port) = Host::parse_with_port(text, hostport)?;
        let (user, password) = match userinfo.map(|info| info.split_once(':').map_or((info, None), |(u, p)| (u, Some(p)))) {
            Some(("", _)) => return Err(UriError::Host),
            Some((user, password)) => (Some(text.slice_ref(user)), password.map(|p| text.slice_ref(p))),
            None => (None, None),
        };
        Ok(Self {
            scheme,
            user,
            password,
            host: Some(host),
            port,
            params: text.slice_ref(params),
            headers: text.slice_ref(headers),
        })
    }

    /// The value of a parameter, or `Some("")` when it stands without one.
    pub fn param(&self, name: &str) -> Option<&str> {
        param(&self.params, name)
    }

    /// The host as it compares: names in lower case, addresses in their shortest form.
    pub fn host_text(&self) -> String {
        match &self.host {
            Some(Host::Name(name)) => name.to_ascii_lowercase(),
            Some(Host::Ip(ip)) => ip.to_string(),
            None => String::new(),
        }
    }

    /// The user part with its escapes undone (RFC 3261 §19.1.2), if that is UTF-8.
    pub fn user_text(&self) -> Option<String> {
        unescaped(self.user.as_ref()?)
    }

    /// A header of those that a request to it is to have, its escapes undone (RFC 3261 §19.1.1); none with anything in it that isn't text.
    pub fn header(&self, name: &str) -> Option<String> {
        let pairs = self.headers.split('&').filter_map(|pair| pair.split_once('='));
        let (_, value) = pairs.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name))?;
        unescaped(value).filter(|value| !value.chars().any(char::is_control))
    }

    /// Whether two URIs name the same resource for a registrar (RFC 3261 §19.1.4, without the rare
    /// comparison of URI headers).
    pub fn matches(&self, other: &Self) -> bool {
        const SIGNIFICANT: [&str; 5] = ["transport", "user", "ttl", "method", "maddr"];
        self.scheme == other.scheme
            && self.user_text() == other.user_text()
            && self.password == other.password
            && self.host_text() == other.host_text()
            && self.port == other.port
            && SIGNIFICANT.iter().all(|name| match (self.param(name), other.param(name)) {
                (Some(a), Some(b)) => a.eq_ignore_ascii_case(b),
                (None, None) => true,
                _ => false,
            })
    }
}

impl Host {
    /// Reads `host` or `host:port`; `text` is the buffer that `hostport` lies in.
    pub fn parse_with_port(text: &Text, hostport: &str) -> Result<(Self, Option<u16>), UriError> {
        let (host, port) = if let Some(rest) = hostport.strip_prefix('[') {
            let (address, after) = rest.split_once(']').ok_or(UriError::Host)?;
            // RFC 3261's grammar lets a third colon in (RFC 5118 §4.10): nobody means anything by it.
            let address: Ipv6Addr =
                address.parse().or_else(|_| address.replacen(":::", "::", 1).parse()).map_err(|_| UriError::Host)?;
            let port = match after.strip_prefix(':') {
                Some(port) => Some(port),
                None if after.is_empty() => None,
                None => return Err(UriError::Host),
            };
            (Self::Ip(address.into()), port)
        } else {
            let (host, port) = hostport.split_once(':').map_or((hostport, None), |(h, p)| (h, Some(p)));
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
            if host.is_empty() || !host.bytes().all(allowed) {
                return Err(UriError::Host);
            }
            let first_is_digit = host.as_bytes()[0].is_ascii_digit();
            match host.parse::<IpAddr>() {
                Ok(ip) if first_is_digit => (Self::Ip(ip), port),
                _ => (Self::Name(text.slice_ref(host)), port),
            }
        };
        let port = port.map(|p| p.parse().map_err(|_| UriError::Port)).transpose()?;
        Ok((host, port))
    }
}

/// Without escapes (RFC 3261 §19.1.2), if that is UTF-8.
fn unescaped(text: &str) -> Option<String> {
    if !text.contains('%') {
        return Some(text.to_string());
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        match (first, tail) {
            (b'%', [high, low, after @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                let digit = |byte: u8| u8::try_from(char::from(byte).to_digit(16).unwrap_or(0)).unwrap_or(0);
                bytes.push(digit(*high) << 4 | digit(*low));
                rest = after;
            }
            _ => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8(bytes).ok()
}

/// A user part as it is written in a URI: what may not stand there is escaped (RFC 3261 §25.1, `user`).
pub fn escape_user(user: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.!~*'()&=+$,;?/".contains(byte);
    user.bytes().fold(String::with_capacity(user.len()), |mut out, byte| {
        if plain(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
        out
    })
}

/// Finds `name` in `a=b;c;d="e"`; quotes are taken off, a name alone gives "".
pub fn param<'a>(params: &'a str, name: &str) -> Option<&'a str> {
    split_params(params).find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

/// The pairs of `a=b;c;d="e;f"`, quotes taken off.
pub fn split_params(params: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut rest = params;
    std::iter::from_fn(move || {
        loop {
            rest = rest.trim_start_matches([';', ' ', '\t']);
            if rest.is_empty() {
                return None;
            }
            let end = end_of_param(rest);
            let (one, tail) = rest.split_at(end);
            rest = tail;
            let (key, value) = one.split_once('=').unwrap_or((one, ""));
            let (key, value) = (key.trim(), value.trim());
            if !key.is_empty() {
                let unquoted = value.strip_prefix('"').and_then(|v| v.strip_suffix('"'));
                return Some((key, unquoted.unwrap_or(value)));
            }
        }
    })
}

fn end_of_param(text: &str) -> usize {
    if !text.contains('"') {
        return text.find(';').unwrap_or(text.len());
    }
    let (mut quoted, mut escaped) = (false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b';' if !quoted => return at,
            _ => {}
        }
    }
    text.len()
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Ip(IpAddr::V4(ip)) => write!(f, "{ip}"),
            Self::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]"),
        }
    }
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.scheme {
            Scheme::Sip => f.write_str("sip:")?,
            Scheme::Sips => f.write_str("sips:")?,
            Scheme::Tel => f.write_str("tel:")?,
            Scheme::Other(scheme) => write!(f, "{scheme}:")?,
        }
        if let Some(user) = &self.user {
            f.write_str(user)?;
            if let Some(password) = &self.password {
                write!(f, ":{password}")?;
            }
            if self.host.is_some() {
                f.write_str("@")?;
            }
        }
        if let Some(host) = &self.host {
            write!(f, "{host}")?;
        }
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        if !self.params.is_empty() {
            write!(f, ";{}", self.params)?;
        }
        if !self.headers.is_empty() {
            write!(f, "?{}", self.headers)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str) -> Result<Uri, UriError> {
        Uri::parse(&Text::from(text))
    }

    #[test]
    fn what_is_read_is_written_again() {
        for text in [
            "sip:alice@example.com",
            "sips:alice:secret@example.com:5061;transport=tcp",
            "sip:[2001:db8::10]:5070",
            "sip:a;b?c=d@10.0.0.1;lr",
            "sip:+1-212-555@gw;user=phone?Replaces=a%3Bb",
            "tel:+12125551212;phone-context=example.com",
            "urn:service:sos",
            "sip:example.com",
        ] {
            assert_eq!(uri(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn parts_are_where_they_belong() {
        let uri = uri("sip:al%69ce@[::1]:5062;transport=UDP;lr?Subject=x").unwrap();
        assert_eq!(uri.user_text().unwrap(), "alice");
        assert_eq!(uri.host, Some(Host::Ip("::1".parse().unwrap())));
        assert_eq!((uri.port, uri.param("Transport"), uri.param("lr")), (Some(5062), Some("UDP"), Some("")));
        assert_eq!(&*uri.headers, "Subject=x");
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "sip:", "alice", "sip:@h", "sip:a@", "sip:a@b:99999", "sip:a@[::1", "sip:a b@c", ":x", "tel:"] {
            assert!(uri(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_a_user_part_may_not_hold_is_escaped() {
        assert!(is_plain("+49(30)*1#;x=y") && ["", "a b", "a\r\nX: y", "a>", "a@b", "ä"].iter().all(|user| !is_plain(user)));
        assert_eq!(escape_user("+49(30)*1;x=y"), "+49(30)*1;x=y");
        assert_eq!(escape_user("1 SIP/2.0\r\nX: <@#"), "1%20SIP/2.0%0D%0AX%3A%20%3C%40%23");
    }

    #[test]
    fn quoted_params_hold_semicolons() {
        let all: Vec<_> = split_params(r#"+sip.instance="<urn:x;y>";reg-id=1;;ob"#).collect();
        assert_eq!(all, [("+sip.instance", "<urn:x;y>"), ("reg-id", "1"), ("ob", "")]);
    }
}

//! Who a callee is told that is calling (RFC 3323, RFC 3325). Layer: pure.
//!
//! A phone is believed that it wants privacy, and nothing else: who its user is was proved. A peer that is trusted says itself who calls,
//! and is believed.

use super::dialog::without_tag;
use super::headers::NameAddr;
use super::message::{Headers, Request};
use super::uri::{Uri, escape_user};
use super::{Name, Text};

/// What From says of whom nobody is to know (RFC 3323 §4.1.1.3).
const ANONYMOUS: &str = "\"Anonymous\" <sip:anonymous@anonymous.invalid>";

/// What callees are shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// From, without a tag; none when it is as the caller wrote it.
    pub from: Option<Text>,
    /// P-Asserted-Identity, unless the caller wants it withheld: phones are no part of what RFC 3325 §2.4 calls a trust domain.
    pub asserted: Option<Text>,
}

impl Identity {
    /// Of the caller who sent an INVITE. `user` is who its phone has proved to be; a peer that is trusted may say somebody else.
    pub fn of(invite: &Request, user: &str, trusted: bool) -> Self {
        if is_private(&invite.headers) {
            return Self { from: Some(Text::from_static(ANONYMOUS)), asserted: None };
        }
        let from = invite.headers.from().ok();
        let said = invite.headers.list(&Name::PAssertedIdentity).next();
        let said = said.filter(|said| trusted && NameAddr::parse(said, "P-Asserted-Identity").is_ok());
        let asserted = match (said, &from) {
            (Some(said), _) => said,
            (None, Some(from)) if trusted => without_tag(from),
            // What it calls itself is nothing that was proved.
            (None, _) => {
                let (name, domain) = user.rsplit_once('@').unwrap_or((user, ""));
                Text::from(format!("<sip:{}@{domain}>", escape_user(name)))
            }
        };
        Self { from: None, asserted: Some(asserted) }
    }
}

/// Whether a request's sender wants not to be known: it says so, or gives no name.
pub fn is_private(headers: &Headers) -> bool {
    let asks = headers.all(&Name::Privacy).any(|value| {
        let value = String::from_utf8_lossy(value);
        value.split([';', ',']).any(|value| ["id", "user", "header"].iter().any(|one| value.trim().eq_ignore_ascii_case(one)))
    });
    asks || headers.from().is_ok_and(|from| is_anonymous(&from.uri))
}

/// Whether a URI names nobody (RFC 3323 §4.1.1.3).
pub fn is_anonymous(uri: &Uri) -> bool {
    uri.host_text().eq_ignore_ascii_case("anonymous.invalid")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::message::Message;
    use crate::sip::parse;

    fn identity(from: &str, more: &str, trusted: bool) -> (Option<String>, Option<String>) {
        let text = format!(
            "INVITE sip:b@x SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\nFrom: {from};tag=1\r\nTo: <sip:b@x>\r\nCall-ID: c\r\n\
             CSeq: 1 INVITE\r\n{more}\r\n"
        );
        let Ok(Message::Request(invite)) = parse::datagram(&text.into()) else { unreachable!() };
        let Identity { from, asserted } = Identity::of(&invite, "1001@x", trusted);
        (from.map(|text| text.to_string()), asserted.map(|text| text.to_string()))
    }

    #[test]
    fn a_phone_is_who_it_has_proved_to_be_and_a_peer_who_it_says() {
        let boss = "P-Asserted-Identity: <sip:boss@x>\r\n";
        for (more, trusted, asserted) in [
            ("", false, "<sip:1001@x>"),
            (boss, false, "<sip:1001@x>"),
            (boss, true, "<sip:boss@x>"),
            ("", true, "\"A\" <sip:+49123@y>"),
            ("P-Asserted-Identity: rubbish\r\n", true, "\"A\" <sip:+49123@y>"),
            ("Privacy: none\r\n", false, "<sip:1001@x>"),
        ] {
            assert_eq!(identity("\"A\" <sip:+49123@y>", more, trusted), (None, Some(asserted.to_owned())), "{more} {trusted}");
        }
        assert_eq!(identity("<sip:1001@x>", "", false).1.as_deref(), Some("<sip:1001@x>"));
    }

    #[test]
    fn who_wants_privacy_is_nobody() {
        let nobody = (Some(ANONYMOUS.to_owned()), None);
        let twice = "Privacy: critical\r\nPrivacy: id\r\n";
        for more in ["Privacy: id\r\n", "Privacy: user;critical\r\n", "Privacy: header; id\r\n", twice] {
            assert_eq!(identity("\"A\" <sip:1001@x>", more, false), nobody, "{more}");
        }
        assert_eq!(identity(ANONYMOUS, "P-Asserted-Identity: <sip:1001@x>\r\n", true), nobody);
    }
}

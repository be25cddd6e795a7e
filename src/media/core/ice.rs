//! ICE-lite (RFC 8445 §2.5): the peer's checks are answered, and tell where it is; none are sent. Layer: pure.
//!
//! Nothing of it has to be remembered: the credentials are made of the call's secret, so that who takes a call over answers the next check as the
//! one before him did, and the peer's consent (RFC 7675) goes on.

use std::net::SocketAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use super::protection::Secret;
use crate::stun::{BINDING, FAILURE, MESSAGE_INTEGRITY, Message, SUCCESS, UNKNOWN_ATTRIBUTES, USERNAME, Writer};

/// No answer to a check is longer.
pub const ANSWER: usize = 96;
/// So many unknown attributes are named at most.
const NAMED: usize = 4;

const PRIORITY: u16 = 0x0024;
const USE_CANDIDATE: u16 = 0x0025;
/// ICE-CONTROLLED: the peer thinks that we nominate. It is not told otherwise, since some are confused by that, but its nominations don't count.
const ICE_CONTROLLED: u16 = 0x8029;
/// The one candidate of an end: type preference of a host, one address, component 1 (RFC 8445 §5.1.2.1).
const CANDIDATE_PRIORITY: u32 = 126 << 24 | 65_535 << 8 | 255;

/// What an end proves itself by (RFC 8445 §5.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Its name.
    pub ufrag: String,
    /// Its password.
    pub pwd: Password,
}

/// Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("hidden")
    }
}

impl Credentials {
    /// Those of an end of a call's stream; each generation has others (RFC 8445 §9).
    pub fn of(secret: &Secret, leg: usize, stream: usize, generation: u32) -> Self {
        let place = [leg, stream].map(|at| u32::try_from(at).unwrap_or(u32::MAX));
        let bytes = secret.derive("ice", &[place[0], place[1], generation]);
        // All that base64 has may stand there (RFC 8839 §5.4).
        Self { ufrag: STANDARD_NO_PAD.encode(&bytes[..6]), pwd: Password(STANDARD_NO_PAD.encode(&bytes[6..24])) }
    }

    /// As a description has it.
    pub fn password(&self) -> &str {
        &self.pwd.0
    }
}

/// The value of `a=candidate` for an end of ours.
pub fn candidate(local: SocketAddr) -> String {
    format!("1 1 udp {CANDIDATE_PRIORITY} {} {} typ host", local.ip(), local.port())
}

/// One end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    /// Ours, and those from before the last restart: the peer may not have heard of the new ones yet.
    pub ours: [Credentials; 2],
    /// The peer's name, once it has said it.
    pub theirs: Option<String>,
}

/// What becomes of a datagram that looks like STUN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// It is a check of the peer's.
    Valid {
        /// How long the answer is.
        length: usize,
        /// The peer sends from there from now on.
        nominates: bool,
    },
    /// It is told why not.
    Refused {
        /// How long the answer is.
        length: usize,
    },
    /// Nothing.
    Dropped,
}

impl Agent {
    /// Takes a check; its answer is written into `out` (RFC 8445 §7.3, RFC 8489 §9.1).
    pub fn check(&self, datagram: &[u8], source: SocketAddr, out: &mut [u8; ANSWER]) -> Check {
        let Some(request) = Message::parse(datagram).filter(|request| request.kind() == BINDING && request.has_fingerprint())
        else {
            return Check::Dropped;
        };
        let Some(Ok(name)) = request.attribute(USERNAME).map(|name| std::str::from_utf8(name.value)) else {
            return Check::Dropped;
        };
        // Who doesn't know our name isn't told that there is anybody.
        let Some((ours, theirs)) = name.split_once(':') else { return Check::Dropped };
        let Some(at) = self.ours.iter().position(|own| own.ufrag == ours) else { return Check::Dropped };
        let credentials = &self.ours[at];
        // By the former credentials it goes by a former name, too.
        if at == 0 && self.theirs.as_ref().is_some_and(|known| known != theirs) {
            return Check::Dropped;
        }
        let password = credentials.password();
        let refuse = |out: &mut [u8; ANSWER], code| Check::Refused {
            length: Writer::answer(out, FAILURE, &request).error(code).fingerprinted().finish(),
        };
        match request.is_signed_by(password) {
            None => return refuse(out, 400),
            Some(false) => return refuse(out, 401),
            Some(true) => {}
        }
        // What stands behind the signature is nobody's.
        let signed = || request.attributes().take_while(|attribute| attribute.kind != MESSAGE_INTEGRITY);
        let is_known = |kind: u16| kind >= 0x8000 || [USERNAME, PRIORITY, USE_CANDIDATE].contains(&kind);
        let mut unknown = [0; 2 * NAMED];
        let mut count = 0;
        for (place, attribute) in unknown.chunks_mut(2).zip(signed().filter(|attribute| !is_known(attribute.kind))) {
            place.copy_from_slice(&attribute.kind.to_be_bytes());
            count += 2;
        }
        if count > 0 {
            let mut writer = Writer::answer(out, FAILURE, &request);
            writer.error(420).attribute(UNKNOWN_ATTRIBUTES, &unknown[..count]).signed(password).fingerprinted();
            return Check::Refused { length: writer.finish() };
        }
        let has = |kind| signed().any(|attribute| attribute.kind == kind);
        let length = Writer::answer(out, SUCCESS, &request).mapped(source).signed(password).fingerprinted().finish();
        Check::Valid { length, nominates: has(USE_CANDIDATE) && !has(ICE_CONTROLLED) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::stun::{ERROR_CODE, XOR_MAPPED_ADDRESS};
    use proptest::prelude::*;

    const SECRET: Secret = Secret { bytes: [7; 32], since: Timestamp(5), restored: false };
    const ICE_CONTROLLING: u16 = 0x802a;

    fn agent(theirs: Option<&str>) -> Agent {
        Agent { ours: [1, 0].map(|generation| Credentials::of(&SECRET, 0, 0, generation)), theirs: theirs.map(str::to_owned) }
    }

    fn source() -> SocketAddr {
        "192.0.2.1:4000".parse().unwrap()
    }

    /// As Chromium writes it.
    fn check(name: &str, password: &str, nominates: bool, more: &[u16]) -> Vec<u8> {
        let mut begin = [&BINDING[..], &[0, 0], &hex::decode("2112a442b7e7a701bc34d686fa87dfae").unwrap()].concat();
        begin[2..4].copy_from_slice(&[0, 0]);
        let mut buffer = [0; 200];
        let mut writer = Writer::answer(&mut buffer, BINDING, &Message::parse(&begin).unwrap());
        writer.attribute(USERNAME, name.as_bytes()).attribute(0xc057, &[0; 4]).attribute(ICE_CONTROLLING, &[1; 8]);
        if nominates {
            writer.attribute(USE_CANDIDATE, &[]);
        }
        writer.attribute(PRIORITY, &[0, 0, 0, 1]);
        for kind in more {
            writer.attribute(*kind, &[0; 4]);
        }
        writer.signed(password).fingerprinted();
        let length = writer.finish();
        buffer[..length].to_vec()
    }

    #[test]
    fn a_check_by_our_name_and_password_is_the_peers() {
        let [now, former] = agent(None).ours;
        let later = Credentials::of(&SECRET, 0, 0, 2);
        let other = Credentials::of(&SECRET, 1, 0, 1);
        for (known, ours, password, theirs, nominates, answered) in [
            (None, &now, now.password(), "them", true, Some(SUCCESS)),
            (Some("them"), &now, now.password(), "them", false, Some(SUCCESS)),
            (Some("them"), &former, former.password(), "formerly", true, Some(SUCCESS)),
            (Some("them"), &now, now.password(), "others", true, None),
            (Some("them"), &now, former.password(), "them", true, Some(FAILURE)),
            (None, &later, later.password(), "them", true, None),
            (None, &other, other.password(), "them", true, None),
        ] {
            let request = check(&format!("{}:{theirs}", ours.ufrag), password, nominates, &[]);
            let mut out = [0; ANSWER];
            let (kind, length) = match agent(known).check(&request, source(), &mut out) {
                Check::Valid { length, nominates: nominated } => {
                    assert_eq!(nominated, nominates);
                    (Some(SUCCESS), length)
                }
                Check::Refused { length } => (Some(FAILURE), length),
                Check::Dropped => (None, 0),
            };
            assert_eq!(kind, answered, "{ours:?} {theirs}");
            let Some(kind) = kind else { continue };
            let answer = Message::parse(&out[..length]).unwrap();
            assert!(answer.kind() == kind && answer.has_fingerprint());
            if kind == SUCCESS {
                assert_eq!(answer.is_signed_by(password), Some(true));
                assert!(answer.attribute(XOR_MAPPED_ADDRESS).is_some());
            } else {
                assert_eq!(answer.attribute(ERROR_CODE).unwrap().value, [0, 0, 4, 1]);
            }
        }
    }

    #[test]
    fn a_check_that_asks_for_what_we_dont_know_is_told_so_and_one_that_is_mistaken_nominates_nobody() {
        let agent = agent(None);
        let name = format!("{}:them", agent.ours[0].ufrag);
        let mut out = [0; ANSWER];
        let Check::Refused { length } = agent.check(&check(&name, agent.ours[0].password(), true, &[0x7001]), source(), &mut out)
        else {
            panic!("it was taken")
        };
        let answer = Message::parse(&out[..length]).unwrap();
        assert_eq!(answer.attribute(UNKNOWN_ATTRIBUTES).unwrap().value, [0x70, 1]);
        let mistaken = agent.check(&check(&name, agent.ours[0].password(), true, &[ICE_CONTROLLED]), source(), &mut out);
        assert!(matches!(mistaken, Check::Valid { nominates: false, .. }));
    }

    proptest! {
        #[test]
        fn a_changed_check_is_not_taken(at in 0usize..200, bit in 0u8..8, noise in proptest::collection::vec(any::<u8>(), 0..200)) {
            let agent = agent(Some("them"));
            let mut request = check(&format!("{}:them", agent.ours[0].ufrag), agent.ours[0].password(), true, &[]);
            let at = at % request.len();
            request[at] ^= 1 << bit;
            let mut out = [0; ANSWER];
            for datagram in [&request, &noise] {
                let taken = matches!(agent.check(datagram, source(), &mut out), Check::Valid { .. });
                prop_assert!(!taken);
            }
        }
    }
}

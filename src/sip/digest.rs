//! Digest authentication (RFC 3261 §22, RFC 7616, RFC 8760) with nonces that need no memory. Layer: pure.
//!
//! A nonce is the time it was made and a keyed hash of time and realm, so any node checks an answer to any
//! node's challenge. Users are known by their HA1s only; a password never gets this far.

use hmac::{Hmac, KeyInit, Mac};
use md5::{Digest, Md5};
use sha2::Sha256;
use std::net::SocketAddr;
use std::time::Duration;
use subtle::ConstantTimeEq;

use super::aging::Aging;
use super::message::split_list;
use super::{Method, Text};
use crate::clock::Timestamp;

/// How long a nonce is good; after that the phone is asked again with `stale=true` and doesn't bother its user.
pub const NONCE_LIFE: Duration = Duration::from_secs(300);

/// A hash that digest may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the algorithms")]
pub enum Algorithm {
    Sha256,
    Md5,
}

impl Algorithm {
    fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "SHA-256",
            Self::Md5 => "MD5",
        }
    }

    /// The lower-case hexadecimal hash.
    pub fn hex(self, text: &str) -> String {
        match self {
            Self::Sha256 => hex::encode(Sha256::digest(text.as_bytes())),
            Self::Md5 => hex::encode(Md5::digest(text.as_bytes())),
        }
    }
}

/// What we keep of a password: the hash of `user:realm:password` in each algorithm.
#[derive(Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the algorithms")]
pub struct Ha1 {
    pub md5: String,
    pub sha256: String,
}

impl Ha1 {
    /// Hashes a password; after this it can be forgotten.
    pub fn of(user: &str, realm: &str, password: &str) -> Self {
        let text = format!("{user}:{realm}:{password}");
        Self { md5: Algorithm::Md5.hex(&text), sha256: Algorithm::Sha256.hex(&text) }
    }
}

impl std::fmt::Debug for Ha1 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ha1(hidden)")
    }
}

/// Makes and checks nonces with the cluster's secret.
#[derive(Clone)]
pub struct Nonces {
    secret: Vec<u8>,
}

impl std::fmt::Debug for Nonces {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Nonces(hidden)")
    }
}

impl Nonces {
    /// Every node of the cluster has the same `secret`.
    pub fn new(secret: &[u8]) -> Self {
        Self { secret: secret.to_vec() }
    }

    fn make(&self, realm: &str, at: Timestamp) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.secret).expect("HMAC takes a key of any length");
        mac.update(&at.0.to_be_bytes());
        mac.update(realm.as_bytes());
        let tag = mac.finalize().into_bytes();
        format!("{:016x}{}", at.0, hex::encode(&tag[..16]))
    }

    /// The age of a nonce that we made; `None` for one that we didn't.
    fn age(&self, nonce: &str, realm: &str, now: Timestamp) -> Option<Duration> {
        let made = Timestamp(u64::from_str_radix(nonce.get(..16)?, 16).ok()?);
        let ours: bool = self.make(realm, made).as_bytes().ct_eq(nonce.as_bytes()).into();
        // Another node's clock may be a little ahead.
        ours.then(|| now.since(made))
    }

    /// The values of the challenge headers, one for each algorithm, in that order: a phone takes the first one
    /// that it knows (RFC 8760 §2.4).
    pub fn challenges(&self, algorithms: &[Algorithm], realm: &str, stale: bool, now: Timestamp) -> Vec<String> {
        let nonce = self.make(realm, now);
        let stale = if stale { ", stale=true" } else { "" };
        let challenge = |algorithm: &Algorithm| {
            let name = algorithm.as_str();
            format!("Digest realm=\"{realm}\", nonce=\"{nonce}\", algorithm={name}, qop=\"auth\"{stale}")
        };
        algorithms.iter().map(challenge).collect()
    }

    /// Checks an answer against the user's hashes.
    pub fn verify(&self, answer: &Credentials, method: &Method, realm: &str, ha1: &Ha1, now: Timestamp) -> Result<(), AuthError> {
        if answer.realm != realm {
            return Err(AuthError::Wrong);
        }
        let age = self.age(&answer.nonce, realm, now).ok_or(AuthError::Stale)?;
        let algorithm = answer.algorithm.ok_or(AuthError::Wrong)?;
        let secret = match algorithm {
            Algorithm::Sha256 => &ha1.sha256,
            Algorithm::Md5 => &ha1.md5,
        };
        let ha2 = algorithm.hex(&format!("{method}:{}", answer.uri));
        let expected = match &answer.qop {
            Some(qop) => {
                let Credentials { nonce, nc, cnonce, .. } = answer;
                algorithm.hex(&format!("{secret}:{nonce}:{nc}:{cnonce}:{qop}:{ha2}"))
            }
            // RFC 2069's way; old phones still do it.
            None => algorithm.hex(&format!("{secret}:{}:{ha2}", answer.nonce)),
        };
        let right: bool = expected.as_bytes().ct_eq(answer.response.to_ascii_lowercase().as_bytes()).into();
        match (right, age <= NONCE_LIFE) {
            (true, true) => Ok(()),
            (true, false) => Err(AuthError::Stale),
            (false, _) => Err(AuthError::Wrong),
        }
    }
}

/// The answers that were accepted lately, for as long as their nonces are good. One that comes again is its phone's repetition, the same
/// bytes from the same place, or somebody else's: an answer is as good as the password to whoever has heard it. Each node
/// remembers its own.
#[derive(Debug)]
pub struct Accepted {
    seen: Aging<u128, (u128, Timestamp)>,
    /// Since when everything is remembered, and since when it will be after the next that is forgotten.
    since: [Timestamp; 2],
}

/// So many answers are remembered at most.
const ACCEPTED: usize = 1 << 18;

impl Default for Accepted {
    fn default() -> Self {
        Self::new(ACCEPTED)
    }
}

/// What tells a message from a place apart from all others.
pub fn said(bytes: &[u8], source: SocketAddr) -> u128 {
    hash(&[bytes, source.to_string().as_bytes()])
}

fn hash(parts: &[&[u8]]) -> u128 {
    let mut hash = Sha256::new();
    parts.iter().for_each(|part| hash.update(part));
    hash.finalize().first_chunk().map_or(0, |first| u128::from_be_bytes(*first))
}

impl Accepted {
    fn new(size: usize) -> Self {
        Self { seen: Aging::new(size), since: [Timestamp(0); 2] }
    }

    /// Whether a right answer is new, or came with what was [`said`] then within the time in which that may be repeated.
    pub fn is_fresh(&mut self, answer: &Credentials, said: u128, repeats: Duration, now: Timestamp) -> bool {
        let key = hash(&[answer.response.to_ascii_lowercase().as_bytes()]);
        if let Some((known, at)) = self.seen.peek(&key)
            && now.since(*at) <= NONCE_LIFE
        {
            return *known == said && now.since(*at) <= repeats;
        }
        // What came with an older nonce may have been forgotten.
        let made = answer.nonce.get(..16).and_then(|made| u64::from_str_radix(made, 16).ok());
        if Timestamp(made.unwrap_or(0)) < self.since[0] {
            return false;
        }
        if self.seen.insert(key, (said, now)) {
            self.since = [self.since[1], now];
        }
        true
    }
}

/// Why an answer was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// The nonce is old or not ours: ask again.
    #[error("the nonce is stale")]
    Stale,
    /// Another realm, an unknown algorithm, a wrong password.
    #[error("the answer is wrong")]
    Wrong,
}

/// An Authorization or Proxy-Authorization value (RFC 7616 §3.4).
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the RFC's")]
pub struct Credentials {
    pub username: String,
    pub realm: String,
    pub nonce: String,
    pub uri: String,
    pub response: String,
    /// `None` when it is one that we don't know.
    pub algorithm: Option<Algorithm>,
    /// `auth`, or absent.
    pub qop: Option<String>,
    pub nc: String,
    pub cnonce: String,
}

impl Credentials {
    /// Reads one value; `None` when it isn't digest or lacks something that it must have.
    pub fn parse(text: &Text) -> Option<Self> {
        let rest = text.get(..6).filter(|scheme| scheme.eq_ignore_ascii_case("Digest")).map(|_| &text[6..])?;
        let pairs: Vec<(&str, String)> = split_list(rest)
            .filter_map(|pair| pair.split_once('='))
            .map(|(key, value)| (key.trim(), unquote(value.trim())))
            .collect();
        let get = |name: &str| pairs.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.clone());
        let algorithm = match get("algorithm") {
            None => Some(Algorithm::Md5),
            Some(name) if name.eq_ignore_ascii_case("MD5") => Some(Algorithm::Md5),
            Some(name) if name.eq_ignore_ascii_case("SHA-256") => Some(Algorithm::Sha256),
            Some(_) => None,
        };
        let qop = get("qop");
        if qop.as_ref().is_some_and(|qop| !qop.eq_ignore_ascii_case("auth") || get("nc").is_none() || get("cnonce").is_none()) {
            return None;
        }
        Some(Self {
            username: get("username")?,
            realm: get("realm")?,
            nonce: get("nonce")?,
            uri: get("uri")?,
            response: get("response")?,
            algorithm,
            qop,
            nc: get("nc").unwrap_or_default(),
            cnonce: get("cnonce").unwrap_or_default(),
        })
    }

    /// The answer to a challenge, as a phone gives it.
    pub fn answer(challenge: &str, user: &str, password: &str, method: &Method, uri: &str, cnonce: &str) -> Option<String> {
        let rest = challenge.strip_prefix("Digest ")?;
        let get = |name: &str| {
            split_list(rest).filter_map(|pair| pair.split_once('=')).find(|(key, _)| key.trim() == name).map(|(_, v)| unquote(v))
        };
        let (realm, nonce) = (get("realm")?, get("nonce")?);
        let algorithm = if get("algorithm").as_deref() == Some("SHA-256") { Algorithm::Sha256 } else { Algorithm::Md5 };
        let ha1 = algorithm.hex(&format!("{user}:{realm}:{password}"));
        let ha2 = algorithm.hex(&format!("{method}:{uri}"));
        let response = algorithm.hex(&format!("{ha1}:{nonce}:00000001:{cnonce}:auth:{ha2}"));
        Some(format!(
            "Digest username=\"{user}\", realm=\"{realm}\", nonce=\"{nonce}\", uri=\"{uri}\", response=\"{response}\", \
             algorithm={}, qop=auth, nc=00000001, cnonce=\"{cnonce}\"",
            algorithm.as_str()
        ))
    }
}

fn unquote(text: &str) -> String {
    match text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) {
        Some(inner) => inner.replace("\\\"", "\"").replace("\\\\", "\\"),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nonces() -> Nonces {
        Nonces::new(b"cluster secret")
    }

    fn credentials(challenge: &str, password: &str) -> Credentials {
        let header = Credentials::answer(challenge, "1001", password, &Method::Register, "sip:x", "c0").unwrap();
        Credentials::parse(&Text::from(header)).unwrap()
    }

    #[test]
    fn a_right_answer_is_accepted_by_any_node_in_either_algorithm() {
        let ha1 = Ha1::of("1001", "x", "secret");
        for challenge in nonces().challenges(&[Algorithm::Sha256, Algorithm::Md5], "x", false, Timestamp(1000)) {
            let answer = credentials(&challenge, "secret");
            assert_eq!(nonces().verify(&answer, &Method::Register, "x", &ha1, Timestamp(2000)), Ok(()));
            let late = Timestamp(1001) + NONCE_LIFE;
            assert_eq!(nonces().verify(&answer, &Method::Register, "x", &ha1, late), Err(AuthError::Stale));
            let other = Nonces::new(b"another cluster");
            assert_eq!(other.verify(&answer, &Method::Register, "x", &ha1, Timestamp(2000)), Err(AuthError::Stale));
            assert_eq!(nonces().verify(&answer, &Method::Invite, "x", &ha1, Timestamp(2000)), Err(AuthError::Wrong));
            let wrong = credentials(&challenge, "guess");
            assert_eq!(nonces().verify(&wrong, &Method::Register, "x", &ha1, Timestamp(2000)), Err(AuthError::Wrong));
        }
    }

    /// RFC 7616 §3.9.1's example, both algorithms.
    #[test]
    fn the_rfcs_example_computes() {
        for (algorithm, response) in [
            (Algorithm::Md5, "8ca523f5e9506fed4657c9700eebdbec"),
            (Algorithm::Sha256, "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
        ] {
            let ha1 = algorithm.hex("Mufasa:http-auth@example.org:Circle of Life");
            let ha2 = algorithm.hex("GET:/dir/index.html");
            let nonce = "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v";
            let cnonce = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ";
            assert_eq!(algorithm.hex(&format!("{ha1}:{nonce}:00000001:{cnonce}:auth:{ha2}")), response);
        }
    }

    #[test]
    fn what_somebody_has_overheard_is_not_good_again() {
        let mut accepted = Accepted::default();
        let challenge = nonces().challenges(&[Algorithm::Md5], "x", false, Timestamp(1000)).remove(0);
        let (answer, repeats) = (credentials(&challenge, "secret"), Duration::from_secs(32));
        let [here, there] = [1, 2].map(|host| SocketAddr::from(([192, 0, 2, host], 5060)));
        let own = said(b"INVITE", here);
        let at = |seconds: u64| Timestamp(1000) + Duration::from_secs(seconds);
        assert!(accepted.is_fresh(&answer, own, repeats, at(0)));
        assert!(accepted.is_fresh(&answer, own, repeats, at(31)), "a phone repeats its request");
        assert!(!accepted.is_fresh(&answer, said(b"INVITE ", here), repeats, at(31)), "with the same answer in another request");
        assert!(!accepted.is_fresh(&answer, said(b"INVITE", there), repeats, at(31)), "the same request, from elsewhere");
        let shouted = Credentials { response: answer.response.to_ascii_uppercase(), ..answer.clone() };
        assert!(!accepted.is_fresh(&shouted, said(b"INVITE ", here), repeats, at(31)), "the same answer, written otherwise");
        assert!(!accepted.is_fresh(&answer, own, repeats, at(33)), "the same request, too late");
        let counted = Credentials { response: "0".repeat(32), ..answer };
        assert!(accepted.is_fresh(&counted, 7, repeats, at(33)), "the next count makes another answer");
    }

    #[test]
    fn what_may_have_been_forgotten_is_not_accepted() {
        let mut accepted = Accepted::new(4);
        let answer = |at: u64, number: u32| {
            let challenge = nonces().challenges(&[Algorithm::Md5], "x", false, Timestamp(at)).remove(0);
            Credentials { response: format!("{number:032}"), ..credentials(&challenge, "secret") }
        };
        let repeats = Duration::from_secs(32);
        let fresh =
            (0..8).map(|n| accepted.is_fresh(&answer(1000, n), 7, repeats, Timestamp(2000 + u64::from(n)))).collect::<Vec<_>>();
        // The young half is full at the third, and the first two are forgotten when it is full once more.
        assert_eq!(fresh, [true, true, true, true, true, false, false, false]);
        assert!(accepted.is_fresh(&answer(2100, 9), 7, repeats, Timestamp(2101)), "a newer nonce");
    }

    #[test]
    fn what_is_no_digest_is_not_read() {
        for text in [
            "",
            "Basic abc",
            "Digest username=\"a\"",
            "Digest qop=auth-int, username=\"a\", realm=\"x\", nonce=\"n\", uri=\"u\", response=\"r\"",
        ] {
            assert_eq!(Credentials::parse(&Text::from(text)), None, "{text}");
        }
    }
}

//! Who is listened to: floods and scanners are turned away before they cost anything. Layer: pure.
//!
//! Every source has some credit. What it sends that leads to nothing (rubbish, requests that have to be asked for credentials, wrong
//! passwords) costs credit; who proves to be a user gets some back. A source without any is not heard for a while, each time longer.
//! Source addresses of datagrams can be forged, so nobody who has proved to be a user from a port is unheard there, whatever comes
//! from other ports of the same address, and what came in datagrams counts against no connection.
//!
//! Bounded: so many sources are remembered, and so many ports of users; of those that nothing came from for long the oldest go.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::aging::Aging;
use super::headers::Transport;
use crate::clock::Uptime;

/// What a source begins with, and what it has at most.
const CREDIT: f64 = 1000.0;
/// What it gets a second.
const REFILL: f64 = 20.0;
/// How long a source is not heard, the first time and then.
const BANS: [Duration; 4] =
    [Duration::from_secs(10), Duration::from_secs(60), Duration::from_secs(600), Duration::from_secs(3600)];
/// After so long without a ban the next is the first again.
const FORGIVEN: Duration = Duration::from_secs(4 * 3600);
/// So many sources are remembered at most.
const SOURCES: usize = 65_536;
/// So many ports of users.
const USERS: usize = 131_072;

/// What something costs that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// No SIP, or none that can be read.
    Rubbish,
    /// Answered, and led to nothing: asked for credentials, refused, no such dialog.
    Nothing,
    /// Asks whether we are there, as phones do to keep their way open.
    Keepalive,
    /// Credentials that were wrong.
    WrongPassword,
    /// A tool that looks for what can be broken says its name.
    Scanner,
    /// A user's, or part of a call.
    Welcome,
}

impl Outcome {
    fn price(self) -> f64 {
        match self {
            Self::Rubbish => 2.0,
            Self::Nothing => 1.0,
            // Hundreds of phones may be behind one address.
            Self::Keepalive => 0.1,
            Self::WrongPassword => 20.0,
            Self::Scanner => CREDIT,
            // Who is asked first and then known has more than before.
            Self::Welcome => -4.0,
        }
    }
}

/// One source.
#[derive(Debug, Clone, Copy)]
struct Source {
    credit: f64,
    at: Uptime,
    /// How often it was banned.
    bans: usize,
    /// Until when it is not heard, the last time.
    until: Uptime,
}

/// The guard.
#[derive(Debug)]
pub struct Guard {
    /// By address, connections apart from datagrams.
    sources: Aging<(bool, IpAddr), Source>,
    users: Aging<SocketAddr, ()>,
    trusted: Vec<Net>,
}

/// Addresses that begin alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Net {
    ip: IpAddr,
    bits: u8,
}

/// Not an address, nor an address, a slash and how many bits of it count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is no address and no network")]
pub struct NoNet;

impl std::str::FromStr for Net {
    type Err = NoNet;

    fn from_str(text: &str) -> Result<Self, NoNet> {
        let (ip, bits) = text.split_once('/').map_or((text, None), |(ip, bits)| (ip, Some(bits)));
        let ip: IpAddr = ip.parse().map_err(|_| NoNet)?;
        let most = if ip.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(most), |bits| bits.parse().map_err(|_| NoNet))?;
        if bits <= most { Ok(Self { ip, bits }) } else { Err(NoNet) }
    }
}

impl Net {
    /// Whether an address is one of these.
    pub fn holds(&self, ip: IpAddr) -> bool {
        match (self.ip, ip) {
            (IpAddr::V4(own), IpAddr::V4(ip)) => {
                let shift = 32 - u32::from(self.bits);
                shift == 32 || u32::from(own) >> shift == u32::from(ip) >> shift
            }
            (IpAddr::V6(own), IpAddr::V6(ip)) => {
                let shift = 128 - u32::from(self.bits);
                shift == 128 || u128::from(own) >> shift == u128::from(ip) >> shift
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

impl Guard {
    /// Knows nobody but those who are trusted, whatever they send.
    pub fn new(trusted: Vec<Net>) -> Self {
        Self { sources: Aging::new(SOURCES), users: Aging::new(USERS), trusted }
    }

    /// Whether to read what comes from there.
    pub fn hears(&mut self, by: Transport, from: SocketAddr, now: Uptime) -> bool {
        let key = (by.is_reliable(), source(from.ip()));
        let banned = self.sources.get(&key).is_some_and(|source| now < source.until);
        !banned || self.users.get(&from).is_some()
    }

    /// Whether nobody there has proved to be a user, nor is trusted.
    pub fn is_stranger(&mut self, from: SocketAddr) -> bool {
        !self.trusts(from.ip()) && self.users.get(&from).is_none()
    }

    /// Whether whatever comes from there is good.
    pub fn trusts(&self, ip: IpAddr) -> bool {
        self.trusted.iter().any(|net| net.holds(ip))
    }

    /// What came from there led to this. Tells how long it is not heard from now on, if that begins.
    pub fn learn(&mut self, by: Transport, from: SocketAddr, outcome: Outcome, now: Uptime) -> Option<Duration> {
        if self.trusts(from.ip()) {
            return None;
        }
        match outcome {
            Outcome::Welcome => drop(self.users.insert(from, ())),
            // What users do all the time.
            Outcome::Nothing | Outcome::Keepalive if self.users.get(&from).is_some() => return None,
            Outcome::Rubbish | Outcome::Nothing | Outcome::Keepalive | Outcome::WrongPassword | Outcome::Scanner => {}
        }
        let key = (by.is_reliable(), source(from.ip()));
        let fresh = Source { credit: CREDIT, at: now, bans: 0, until: Uptime(0) };
        let mut source = self.sources.get(&key).copied().unwrap_or(fresh);
        let earned = now.since(source.at).as_secs_f64() * REFILL;
        source.credit = (source.credit + earned).min(CREDIT) - outcome.price();
        source.credit = source.credit.min(CREDIT);
        source.at = now;
        let mut ban = None;
        if source.credit < 0.0 && now >= source.until {
            if now.since(source.until) > FORGIVEN {
                source.bans = 0;
            }
            let time = BANS[source.bans.min(BANS.len() - 1)];
            (source.bans, source.until) = (source.bans + 1, now + time);
            // It has another chance then, and a shorter one.
            source.credit = CREDIT / 10.0;
            ban = Some(time);
        }
        self.sources.insert(key, source);
        ban
    }

    /// How many sources are not heard.
    pub fn banned(&self, now: Uptime) -> usize {
        self.sources.values().filter(|source| now < source.until).count()
    }
}

/// Whoever has one address of an IPv6 network has as many of it as it likes (RFC 6177).
pub fn source(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(ip) => Ipv6Addr::from(u128::from(ip) >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UDP: Transport = Transport::Udp;

    fn at(seconds: u64) -> Uptime {
        Uptime(0) + Duration::from_secs(seconds)
    }

    fn from(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    /// How many it takes until a source is banned.
    fn until_banned(guard: &mut Guard, source: SocketAddr, outcome: Outcome, now: Uptime) -> (usize, Duration) {
        for n in 1..10_000 {
            if let Some(time) = guard.learn(UDP, source, outcome, now) {
                return (n, time);
            }
        }
        panic!("never");
    }

    #[test]
    fn who_sends_rubbish_is_not_heard_and_ever_longer() {
        let mut guard = Guard::new(Vec::new());
        let flood = from("192.0.2.1:5060");
        let mut now = at(100);
        let mut times = Vec::new();
        for _ in 0..5 {
            assert!(guard.hears(UDP, flood, now));
            let (n, time) = until_banned(&mut guard, flood, Outcome::Rubbish, now);
            assert!(n <= 501, "{n}");
            assert!(
                !guard.hears(UDP, flood, now)
                    && !guard.hears(UDP, from("192.0.2.1:9"), now)
                    && guard.hears(UDP, from("192.0.2.2:5060"), now)
            );
            assert_eq!(guard.banned(now), 1);
            now = now + time;
            times.push(time.as_secs());
        }
        assert_eq!(times, [10, 60, 600, 3600, 3600]);
        now = now + FORGIVEN * 2;
        assert_eq!(until_banned(&mut guard, flood, Outcome::Rubbish, now).1, BANS[0], "it is forgiven");
    }

    #[test]
    fn who_guesses_passwords_has_fifty_guesses_and_a_scanner_none() {
        let mut guard = Guard::new(Vec::new());
        assert_eq!(until_banned(&mut guard, from("192.0.2.1:1"), Outcome::WrongPassword, at(1)).0, 51);
        assert!(until_banned(&mut guard, from("192.0.2.2:1"), Outcome::Scanner, at(1)).0 <= 2);
    }

    /// A thousand phones behind one address are asked for credentials, and prove who they are.
    #[test]
    fn an_office_behind_one_address_is_heard() {
        let mut guard = Guard::new(Vec::new());
        for n in 0..20_000_u64 {
            let phone = SocketAddr::new("192.0.2.1".parse().unwrap(), u16::try_from(1024 + n % 1000).unwrap());
            for outcome in [Outcome::Nothing, Outcome::Welcome] {
                assert_eq!(guard.learn(UDP, phone, outcome, at(1 + n / 1000)), None, "{n}");
            }
        }
    }

    /// Whoever forges a phone's address gets it banned, but not the port that it talks from.
    #[test]
    fn a_user_is_heard_whatever_else_comes_from_its_address() {
        let mut guard = Guard::new(Vec::new());
        let user = from("192.0.2.1:5060");
        guard.learn(UDP, user, Outcome::Welcome, at(1));
        until_banned(&mut guard, from("192.0.2.1:666"), Outcome::Rubbish, at(1));
        assert!(guard.hears(UDP, user, at(2)) && !guard.hears(UDP, from("192.0.2.1:666"), at(2)));
    }

    /// Hundreds of phones behind one address keep their way open, and those behind one that somebody forges can still connect.
    #[test]
    fn keepalives_and_forged_datagrams_lock_nobody_out() {
        let mut guard = Guard::new(Vec::new());
        for n in 0..200_000_u64 {
            let phone = SocketAddr::new("192.0.2.1".parse().unwrap(), u16::try_from(1024 + n % 3000).unwrap());
            assert_eq!(guard.learn(UDP, phone, Outcome::Keepalive, at(1 + n / 150)), None, "{n}");
        }
        let known = from("192.0.2.2:5060");
        guard.learn(UDP, known, Outcome::Welcome, at(1));
        for _ in 0..10_000 {
            assert_eq!(guard.learn(UDP, known, Outcome::Nothing, at(1)), None);
        }
        until_banned(&mut guard, from("192.0.2.2:1"), Outcome::Scanner, at(1));
        assert!(!guard.hears(UDP, from("192.0.2.2:2"), at(1)) && guard.hears(Transport::Tls, from("192.0.2.2:2"), at(1)));
        assert!(guard.is_stranger(from("192.0.2.2:2")) && !guard.is_stranger(known));
    }

    #[test]
    fn those_who_are_trusted_may_send_what_they_like() {
        let trusted = ["192.0.2.0/24", "2001:db8::/32", "198.51.100.7"].map(|text| text.parse().unwrap());
        let mut guard = Guard::new(trusted.to_vec());
        for source in ["192.0.2.200:1", "[2001:db8:1::2]:1", "198.51.100.7:1"] {
            assert!((0..5000).all(|_| guard.learn(UDP, from(source), Outcome::Scanner, at(1)).is_none()), "{source}");
        }
        for source in ["192.0.3.1:1", "[2001:db9::1]:1", "198.51.100.8:1"] {
            until_banned(&mut guard, from(source), Outcome::Scanner, at(1));
        }
        for text in ["", "1.2.3", "1.2.3.4/33", "::/129", "1.2.3.4/x"] {
            assert_eq!(text.parse::<Net>(), Err(NoNet), "{text}");
        }
        assert!("0.0.0.0/0".parse::<Net>().unwrap().holds("9.9.9.9".parse().unwrap()));
    }

    /// A flood from more sources than there is room for: nothing grows, and one network of IPv6 is one source.
    #[test]
    fn what_is_remembered_is_bounded() {
        let mut guard = Guard::new(Vec::new());
        for n in 0..200_000_u32 {
            guard.learn(UDP, SocketAddr::new(IpAddr::V4(n.into()), 1), Outcome::Welcome, at(1));
        }
        assert!(guard.sources.len() <= SOURCES && guard.users.len() <= USERS);
        let mut guard = Guard::new(Vec::new());
        for n in 0..100_000_u128 {
            guard.learn(UDP, SocketAddr::new(IpAddr::V6((0x2001 << 112 | n).into()), 1), Outcome::Nothing, at(1));
        }
        assert_eq!(guard.sources.len(), 1);
    }
}

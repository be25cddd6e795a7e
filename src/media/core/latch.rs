//! Who the peer of a port is: where its packets come from (symmetric RTP, RFC 4961), and not whoever sends some. Layer: pure.
//!
//! Whoever sends first, or after [`RELEARN`] of silence, is the peer. Until then a stranger's packets teach nothing, unless they come from the very
//! address that the peer's SDP names: whoever was quicker than the phone has to give way to it.
//!
//! Where the stream is something else than RTP, as a fax is (UDPTL, RFC 3362), its own datagrams teach, and what comes late of the sound before it
//! doesn't.
//!
//! With ICE (RFC 8445) a peer is where its checks come from, and sends from where it has nominated last; nobody else is heard at all.

use std::net::SocketAddr;
use std::time::Duration;

use crate::clock::Uptime;

/// A peer's packets must have stopped for this long before another source is believed.
pub const RELEARN: Duration = Duration::from_millis(1000);

/// So many sources of right checks are known at once.
const MOST_VALID: usize = 8;

/// What is known of a port's peer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Latch {
    /// What was said of it: where its SDP says that it is, and where it is as far as the actor knows.
    told: [Option<SocketAddr>; 2],
    /// Where what is for it goes.
    remote: Option<SocketAddr>,
    /// Its last packet from there.
    heard: Option<Uptime>,
    /// With ICE: where its checks came from, the latest last.
    valid: Option<Vec<SocketAddr>>,
}

/// Whose a packet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// The peer's.
    Peer,
    /// The peer's, who is there from now on.
    NewPeer,
    /// The peer's, by a path of ICE's that it hasn't chosen, or not yet.
    Aside,
    /// Anybody's.
    Stranger,
}

impl Latch {
    /// Takes what an actor says: where the SDP says that the peer is, and where it is as far as the actor knows. What packets have taught counts more,
    /// until the SDP says something else. Tells whether the peer is somewhere else now.
    pub fn tell(&mut self, signalled: Option<SocketAddr>, remote: Option<SocketAddr>, ice: bool) -> bool {
        if ice != self.valid.is_some() {
            // What was learned of it in the other way means nothing.
            let moves = self.remote != remote;
            *self = Self { told: [signalled, remote], remote, heard: None, valid: ice.then(Vec::new) };
            return moves;
        } else if self.valid.as_ref().is_some_and(|valid| !valid.is_empty()) {
            // Its checks have told more than what a record says.
            self.told = [signalled, remote];
            return false;
        }
        let told = [signalled, remote];
        let before = std::mem::replace(&mut self.told, told);
        let is_news = before != told && !(before[0] == told[0] && self.heard.is_some());
        if !is_news || self.remote == remote {
            return false;
        }
        self.remote = remote;
        self.heard = None;
        true
    }

    /// A right check of ICE's has come. Tells whether the peer is somewhere else now.
    pub fn check(&mut self, source: SocketAddr, nominates: bool, now: Uptime) -> bool {
        let Some(valid) = &mut self.valid else { return false };
        valid.retain(|known| *known != source);
        if valid.len() >= MOST_VALID {
            valid.remove(0);
        }
        valid.push(source);
        // Until it nominates one, what there is for it goes where it was heard first.
        if self.remote == Some(source) || !(nominates || self.remote.is_none()) {
            return false;
        }
        self.remote = Some(source);
        // What is on its way from where it was changes nothing.
        self.heard = Some(now);
        true
    }

    /// Whether a packet from there would be the peer's.
    pub fn would_hear(&self, source: SocketAddr, is_media: bool, now: Uptime) -> bool {
        if self.remote == Some(source) {
            return true;
        }
        let is_silent = || self.heard.is_none_or(|heard| now.since(heard) > RELEARN);
        match &self.valid {
            Some(valid) => valid.contains(&source),
            None => is_media && (is_silent() || self.told[0] == Some(source)),
        }
    }

    /// Whether the peer is known to be there, or has said so.
    pub fn is_known(&self, source: SocketAddr) -> bool {
        self.told.contains(&Some(source)) || self.remote == Some(source)
    }

    /// A packet comes. `is_media` tells whether it looks like what the stream is: what doesn't teaches nothing.
    pub fn hear(&mut self, source: SocketAddr, is_media: bool, now: Uptime) -> From {
        if self.remote == Some(source) {
            self.heard = Some(now);
            return From::Peer;
        }
        if !self.would_hear(source, is_media, now) {
            return From::Stranger;
        }
        // A path that it has chosen and that has ended.
        let is_silent = self.heard.is_none_or(|heard| now.since(heard) > RELEARN);
        if self.valid.is_some() && !(is_media && is_silent) {
            return From::Aside;
        }
        self.remote = Some(source);
        self.heard = Some(now);
        From::NewPeer
    }

    /// Its packets are another's to hear: what was heard of it here is old.
    pub fn forget(&mut self) {
        self.heard = None;
        self.valid.iter_mut().for_each(Vec::clear);
    }

    /// Where what is for the peer goes.
    pub fn remote(&self) -> Option<SocketAddr> {
        self.remote
    }

    /// When the peer was heard last.
    pub fn heard(&self) -> Option<Uptime> {
        self.heard
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    const PHONE: u16 = 1;
    const NAT: u16 = 2;
    const STRANGER: u16 = 3;

    #[test]
    fn the_peer_is_who_comes_first_and_while_it_comes() {
        let ms = |ms: u64| Uptime(1_000_000 + ms * 1000);
        let mut latch = Latch::default();
        latch.tell(Some(at(PHONE)), Some(at(PHONE)), false);
        for (source, is_media, time, from) in [
            (STRANGER, false, 0, From::Stranger),
            (NAT, true, 0, From::NewPeer),
            (NAT, false, 20, From::Peer),
            (STRANGER, true, 40, From::Stranger),
            (NAT, true, 900, From::Peer),
            (STRANGER, true, 1900, From::Stranger),
            // A stranger's packets don't keep it; nor does it need to be heard to lose it.
            (STRANGER, true, 1901, From::NewPeer),
            (NAT, true, 1902, From::Stranger),
            // Whom the SDP names is it.
            (PHONE, false, 1903, From::Stranger),
            (PHONE, true, 1904, From::NewPeer),
            (STRANGER, true, 1905, From::Stranger),
        ] {
            let before = latch.clone();
            assert_eq!(latch.hear(at(source), is_media, ms(time)), from, "{source} at {time}");
            assert_eq!(from == From::Stranger, latch == before);
        }
        assert_eq!((latch.remote(), latch.heard()), (Some(at(PHONE)), Some(ms(1904))));
    }

    #[test]
    fn what_was_learned_stays_until_something_else_is_said() {
        let mut latch = Latch::default();
        latch.tell(Some(at(PHONE)), Some(at(PHONE)), false);
        latch.hear(at(NAT), true, Uptime(1));
        let learned = (latch.remote(), latch.heard());
        latch.tell(Some(at(PHONE)), Some(at(PHONE)), false);
        assert_eq!((latch.remote(), latch.heard()), learned, "the news is on its way");
        latch.tell(Some(at(PHONE)), Some(at(NAT)), false);
        assert_eq!((latch.remote(), latch.heard()), learned, "the record says it too");
        assert!(!latch.tell(Some(at(PHONE)), Some(at(5)), false), "the record is older");
        assert_eq!((latch.remote(), latch.heard()), learned);
        assert!(latch.tell(Some(at(4)), Some(at(4)), false));
        assert_eq!((latch.remote(), latch.heard()), (Some(at(4)), None));
        // Where nothing was heard, as at who stands by, the record says it.
        latch.hear(at(4), true, Uptime(2));
        latch.forget();
        assert!(latch.tell(Some(at(4)), Some(at(5)), false) && latch.remote() == Some(at(5)));
        assert!(latch.tell(Some(at(4)), Some(at(4)), false));
        assert_eq!(latch.hear(at(NAT), true, Uptime(2)), From::NewPeer, "it has not been heard there");
    }

    /// RFC 8445 §7.3: what was chosen last counts, and who was never heard of isn't heard.
    #[test]
    fn with_ice_the_peer_is_where_its_checks_say() {
        let ms = |ms: u64| Uptime(1_000_000 + ms * 1000);
        let mut latch = Latch::default();
        latch.tell(None, Some(at(PHONE)), true);
        assert_eq!(latch.remote(), Some(at(PHONE)), "as a former owner knew");
        assert_eq!(latch.hear(at(PHONE), true, ms(0)), From::Peer);
        assert_eq!(latch.hear(at(STRANGER), true, ms(5000)), From::Stranger, "however silent it is");
        assert!(
            !latch.check(at(NAT), false, ms(5000)) && latch.check(at(4), true, ms(5000)) && !latch.check(at(4), true, ms(5000))
        );
        assert_eq!((latch.hear(at(NAT), true, ms(5010)), latch.remote()), (From::Aside, Some(at(4))), "it was on its way");
        latch.tell(None, Some(at(PHONE)), true);
        assert_eq!(latch.remote(), Some(at(4)), "the record is older");
        assert_eq!(latch.hear(at(4), true, ms(6000)), From::Peer);
        assert_eq!(latch.hear(at(NAT), true, ms(6100)), From::Aside);
        assert_eq!(
            (latch.remote(), latch.hear(at(NAT), true, ms(7001))),
            (Some(at(4)), From::NewPeer),
            "it has chosen, and says no more"
        );
        latch.forget();
        assert!(latch.tell(None, Some(at(5)), true), "another's checks have told more");
        assert_eq!(latch.hear(at(4), true, ms(9000)), From::Stranger);
        for port in 0..99 {
            latch.check(at(port), false, ms(9000));
        }
        assert_eq!(latch.valid.as_ref().map(Vec::len), Some(MOST_VALID));
    }
}

//! A call's media between two commits: the session, the ports it has taken, what the relay was told.
//! Layer: shell.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;

use crate::ids::LegId;
use crate::media::core::{LegPlan, SdpError, Session};
use crate::media::ports::{Pair, PortPool};
use crate::media::relay::Want;

/// The media.
pub struct CallMedia {
    ports: Arc<PortPool>,
    session: Session,
    committed: Session,
    /// What stood before a re-INVITE's offer, until that is answered: a refused offer changes nothing (RFC 3264 §8).
    before_offer: Option<Session>,
    /// Bound, and not yet the relay's.
    sockets: HashMap<u16, Pair>,
    /// The last description of each leg and what it was made into: a repeated one is no new version.
    described: [Option<(Bytes, Bytes)>; 2],
    applied: [Vec<Option<LegPlan>>; 2],
}

/// What [`CallMedia::restore`] goes back to.
pub struct Checkpoint {
    session: Session,
    before_offer: Option<Session>,
    described: [Option<(Bytes, Bytes)>; 2],
}

impl Drop for CallMedia {
    /// Ports that no relay and no record knows of go back, however the call's actor ended.
    fn drop(&mut self) {
        self.give_back(|_| false);
    }
}

impl CallMedia {
    /// A session that is new, or committed already.
    pub fn new(session: Session, ports: Arc<PortPool>) -> Self {
        Self {
            ports,
            committed: session.clone(),
            session,
            before_offer: None,
            sockets: HashMap::new(),
            described: [None, None],
            applied: [Vec::new(), Vec::new()],
        }
    }

    /// What to commit.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// A leg's session description, made over for the other leg.
    pub fn translate(&mut self, leg: LegId, sdp: &Bytes) -> Result<Bytes, SdpError> {
        let from = side(leg);
        if let Some((theirs, ours)) = &self.described[from]
            && theirs == sdp
        {
            return Ok(ours.clone());
        }
        let (ports, sockets) = (&self.ports, &mut self.sockets);
        let sides = self.session.sides;
        let mut take = |ip| {
            let (port, pair) = ports.take(ip)?;
            sockets.insert(port, pair);
            Some(port)
        };
        let result = self.session.describe(from, sdp, &mut take);
        // Ports that an offer took before it turned out to be unusable.
        let kept: Vec<u16> = self.session.ports().collect();
        self.give_back(|port| kept.contains(&port));
        let ours = Bytes::from(result?);
        if self.session.sides != sides {
            // What the other side has said is told to this one with another address from now on.
            self.described[1 - from] = None;
        }
        self.described[from] = Some((sdp.clone(), ours.clone()));
        Ok(ours)
    }

    /// A leg's phone is reached there.
    pub fn reaches(&mut self, leg: LegId, there: IpAddr) {
        self.session.reaches(side(leg), there);
    }

    /// What a leg was told last, once more, from where we are now.
    pub fn tell_again(&mut self, leg: LegId) -> Option<Bytes> {
        self.session.tell_again(side(leg))
    }

    /// What a leg was told last, as it was told.
    pub fn told(&self, leg: LegId) -> Option<Bytes> {
        self.session.told[side(leg)].clone()
    }

    /// Forgets what the sides were told that need not be told again.
    pub fn keep_told(&mut self, keeps: [bool; 2]) {
        for (told, keeps) in self.session.told.iter_mut().zip(keeps) {
            if !keeps && !self.session.keeps {
                *told = None;
            }
        }
    }

    /// As it is now, to go back to.
    pub fn checkpoint(&self) -> Checkpoint {
        Checkpoint { session: self.session.clone(), before_offer: self.before_offer.clone(), described: self.described.clone() }
    }

    /// Goes back: what was described since then means nothing.
    pub fn restore(&mut self, checkpoint: Checkpoint) {
        self.session = checkpoint.session;
        self.before_offer = checkpoint.before_offer;
        self.described = checkpoint.described;
        let kept: Vec<u16> = self.session.ports().collect();
        self.give_back(|port| kept.contains(&port));
    }

    /// A re-INVITE's offer: as [`CallMedia::translate`], and can be taken back.
    pub fn offer(&mut self, leg: LegId, sdp: &Bytes) -> Result<Bytes, SdpError> {
        let before = self.session.clone();
        let ours = self.translate(leg, sdp)?;
        self.before_offer = Some(before);
        Ok(ours)
    }

    /// The re-INVITE was answered.
    pub fn offer_answered(&mut self, accepted: bool) {
        let Some(before) = self.before_offer.take() else { return };
        if !accepted {
            // Versions and ports stay: both only grow.
            let former = before.told.clone();
            self.session.take_back(before);
            self.described = [None, None];
            for (at, told) in former.into_iter().enumerate() {
                if self.session.told[at] != told {
                    self.session.told[at] = told;
                    // It has seen the version of what it has refused: what still stands is told with a higher one.
                    self.session.tell_again(at);
                }
            }
        }
    }

    /// A leg's packets come from somewhere; tells whether that is worth a commit.
    pub fn latch(&mut self, leg: LegId, stream: usize, rtcp: bool, source: std::net::SocketAddr) -> bool {
        let latched = self.session.latch(usize::from(leg.0), stream, rtcp, source);
        if latched {
            // The relay knows it first.
            self.applied[usize::from(leg.0)] = self.session.plan(usize::from(leg.0));
        }
        latched
    }

    /// The session is committed.
    pub fn committed(&mut self) {
        self.committed = self.session.clone();
    }

    /// It is not, and nothing of it has happened.
    pub fn roll_back(&mut self) {
        self.session = self.committed.clone();
        self.before_offer = None;
        self.described = [None, None];
        let kept: Vec<u16> = self.session.ports().collect();
        self.give_back(|port| kept.contains(&port));
    }

    /// What the relay must be told of a leg, if it doesn't know; `again` if it is to be told anyway.
    pub fn wants(&mut self, leg: LegId, again: bool) -> Option<Vec<Option<Want>>> {
        let at = usize::from(leg.0);
        let plan = self.session.plan(at);
        if plan == self.applied[at] && !again {
            return None;
        }
        self.applied[at] = plan.clone();
        let mut want = |plan: LegPlan| {
            let bound = self.sockets.remove(&plan.local.port());
            // The phone may have turned out to be of the other family.
            let is_there = |pair: &Pair| pair.rtp.local_addr().is_ok_and(|local| local == plan.local);
            Want { plan, sockets: bound.filter(is_there) }
        };
        Some(plan.into_iter().map(|plan| plan.map(&mut want)).collect())
    }

    /// The call is over: the ports are free. The relay must have been told to close them.
    pub fn release(&mut self) {
        self.sockets.clear();
        for port in self.session.ports() {
            self.ports.give_back(port);
        }
        self.session.streams.clear();
        self.committed.streams.clear();
        self.applied = [Vec::new(), Vec::new()];
    }

    fn give_back(&mut self, keep: impl Fn(u16) -> bool) {
        let ports = &self.ports;
        self.sockets.retain(|port, _| {
            let kept = keep(*port);
            if !kept {
                ports.give_back(*port);
            }
            kept
        });
    }
}

/// The side of the media that a leg is on: whoever is called is on the other one from the caller.
fn side(leg: LegId) -> usize {
    usize::from(leg != LegId::CALLER)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sdp(version: u8, direction: &str) -> Bytes {
        let text = format!(
            "v=0\r\no=a 1 {version} IN IP4 10.0.0.1\r\ns=-\r\nc=IN IP4 10.0.0.1\r\nt=0 0\r\nm=audio 4000 RTP/AVP 8\r\na={direction}\r\n"
        );
        Bytes::from(text)
    }

    fn told(media: &CallMedia) -> String {
        String::from_utf8(media.told(LegId::CALLEE).unwrap().to_vec()).unwrap()
    }

    /// RFC 3264 §8: else the next refresh would put a phone on hold whose other side knows nothing of it.
    #[test]
    fn what_was_refused_is_not_told_again() {
        let ip: IpAddr = "127.0.0.1".parse().unwrap();
        let mut media = CallMedia::new(Session::new(ip.into(), 42), Arc::new(PortPool::new(23_100, 23_110)));
        media.translate(LegId::CALLER, &sdp(1, "sendrecv")).unwrap();
        media.translate(LegId::CALLEE, &sdp(1, "sendrecv")).unwrap();
        assert!(told(&media).contains("o=tandem 21 1 ") && told(&media).contains("sendrecv"));
        media.offer(LegId::CALLER, &sdp(2, "sendonly")).unwrap();
        assert!(told(&media).contains("o=tandem 21 2 ") && told(&media).contains("sendonly"));
        media.offer_answered(false);
        // The phone has seen the second version.
        assert!(told(&media).contains("o=tandem 21 3 ") && told(&media).contains("sendrecv"), "{}", told(&media));
    }
}

//! A call's media between two commits: the session, the ports it has taken, what the relay was told.
//! Layer: shell.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;

use super::media_leg::Learned;

use crate::clock;
use crate::config;
use crate::ids::{CallId, LegId};
use crate::media::core::quality::Figures;
use crate::media::core::{LegPlan, Policy, Recording, SdpError, Secret, Session, TakePort};
use crate::media::ports::{Pair, PortPool};
use crate::media::relay::Want;

/// The media.
pub struct CallMedia {
    call: CallId,
    ports: Arc<PortPool>,
    session: Session,
    committed: Session,
    /// Bound, and not yet the relay's.
    sockets: HashMap<u16, Pair>,
    /// The last description of each leg and what it was made into: a repeated one is no new version.
    described: [Option<Described>; 2],
    applied: [Vec<Option<LegPlan>>; 2],
    has_ringback: bool,
}

/// What [`CallMedia::restore`] goes back to.
pub struct Checkpoint {
    session: Session,
    described: [Option<Described>; 2],
}

/// What a description is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The call's first offer, or one that was asked for.
    Offer,
    /// A later one, that may be refused.
    LaterOffer,
    /// Of another phone that is to have this side.
    OfferInstead,
    /// An answer.
    Answer,
    /// One to what was told once more.
    AnswerAgain,
}

impl Part {
    fn describe(self, session: &mut Session, from: usize, sdp: &[u8], take_port: TakePort<'_>) -> Result<Vec<u8>, SdpError> {
        match self {
            Self::Offer => session.describe(from, sdp, take_port),
            Self::LaterOffer => session.offer(from, sdp, take_port),
            Self::OfferInstead => session.offer_instead(from, sdp, take_port),
            Self::Answer => session.answer(from, sdp, take_port),
            Self::AnswerAgain => session.answer_again(from, sdp, take_port),
        }
    }
}

/// A description: what it is, as it came, and what it was made into.
type Described = (Part, Bytes, Bytes);

impl Drop for CallMedia {
    /// Ports that no relay and no record knows of go back, however the call's actor ended.
    fn drop(&mut self) {
        let kept = self.committed.ports();
        self.give_back(|port| kept.contains(&port));
    }
}

impl CallMedia {
    /// A session that is new, or committed already.
    pub fn new(call: CallId, mut session: Session, ports: Arc<PortPool>) -> Self {
        if session.keys_made == 0 && !session.is_certified {
            session.secret = Secret { bytes: rand::random(), since: clock::now(), restored: false };
        }
        Self {
            call,
            ports,
            committed: session.clone(),
            session,
            sockets: HashMap::new(),
            described: [None, None],
            applied: [Vec::new(), Vec::new()],
            has_ringback: false,
        }
    }

    /// What to commit.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The description of one side (0 is the caller's), made over for the other. What comes again is no new version, unless it is one that may
    /// be taken back.
    pub fn translate(&mut self, from: usize, part: Part, sdp: &Bytes) -> Result<Bytes, SdpError> {
        let later = matches!(part, Part::LaterOffer | Part::OfferInstead);
        if let Some((known, theirs, ours)) = self.described[from].as_ref().filter(|_| !later)
            && (*known, theirs) == (part, sdp)
        {
            return Ok(ours.clone());
        }
        let (call, ports, sockets) = (self.call, &self.ports, &mut self.sockets);
        let sides = self.session.sides;
        let mut take = |ip| {
            let (port, pair) = ports.take(ip, call)?;
            sockets.insert(port, pair);
            Some(port)
        };
        let result = part.describe(&mut self.session, from, sdp, &mut take);
        // Ports that an offer took before it turned out to be unusable.
        let kept = self.session.ports();
        self.give_back(|port| kept.contains(&port));
        let ours = Bytes::from(result?);
        if self.session.sides != sides || later || part == Part::Offer {
            // What the other side has said was no answer to this, or is told with another address from now on.
            self.described[1 - from] = None;
        }
        self.described[from] = Some((part, sdp.clone(), ours.clone()));
        Ok(ours)
    }

    /// A side's phone is reached there.
    pub fn reaches(&mut self, side: usize, there: IpAddr) {
        self.session.reaches(side, there);
    }

    /// What a side was told last, once more, from where we are now.
    pub fn tell_again(&mut self, side: usize) -> Option<Bytes> {
        self.session.tell_again(side)
    }

    /// What a side was told last, as it was told.
    pub fn told(&self, side: usize) -> Option<Bytes> {
        self.session.told[side].clone()
    }

    /// Forgets what the sides were told that need not be told again.
    pub fn keep_told(&mut self, keeps: [bool; 2]) {
        let keeps = [0, 1].map(|side| keeps[side] || self.session.keeps || self.session.may_be_renewed(side));
        for (told, keeps) in self.session.told.iter_mut().zip(keeps) {
            if !keeps {
                *told = None;
            }
        }
    }

    /// As it is now, to go back to.
    pub fn checkpoint(&self) -> Checkpoint {
        Checkpoint { session: self.session.clone(), described: self.described.clone() }
    }

    /// Goes back: what was described since then means nothing.
    pub fn restore(&mut self, checkpoint: Checkpoint) {
        self.session = checkpoint.session;
        self.described = checkpoint.described;
        let kept = self.session.ports();
        self.give_back(|port| kept.contains(&port));
    }

    /// The offer was answered.
    pub fn accepted(&mut self) {
        self.session.accepted();
    }

    /// No offer waits for an answer any more: one that wasn't accepted means nothing.
    pub fn take_back(&mut self) {
        if self.session.take_back() {
            self.described = [None, None];
        }
    }

    /// What the relay has learned of a leg's stream; tells whether that is worth a commit.
    pub fn learn(&mut self, leg: LegId, stream: usize, what: Learned) -> bool {
        let at = usize::from(leg.0);
        let is_applied = self.applied[at] == self.session.plan(at);
        let news = match what {
            Learned::From { rtcp, source } => self.session.latch(at, stream, rtcp, source),
            Learned::CameTo { ours, key, mark } => self.session.come_to(at, stream, (ours, key), mark),
            Learned::HasKeys { number, certificate, keyed } => {
                return self.session.has_keys(at, stream, (number, &certificate), &keyed);
            }
            Learned::Plays { offset } => self.session.plays(at, stream, offset),
            Learned::Stuck { .. } => false,
        };
        if news && is_applied {
            // The relay knows it first.
            self.applied[at] = self.session.plan(at);
        }
        news
    }

    /// A side's phone is to be told of another certificate. Tells whether it is.
    pub fn renew(&mut self, side: usize, stream: usize, number: u32) -> bool {
        self.session.renew(side, stream, number)
    }

    /// A side's phone is offered to agree on keys in DTLS.
    pub fn certify(&mut self, side: usize) {
        self.session.certify(side);
    }

    /// One of the phones that rang at a side's place has it.
    pub fn is_settled(&mut self, side: usize) {
        self.session.is_settled(side);
    }

    /// Whether the sides' streams are to be protected, whether they have phones that agree on keys in DTLS, and where those are reached that
    /// describe themselves.
    pub fn treats(&mut self, policies: [Policy; 2], dtls: [bool; 2], reached: [Option<IpAddr>; 2]) {
        (self.session.policies, self.session.dtls, self.session.reached) = (policies, dtls, reached);
    }

    /// What a side may be offered besides what the other has, and whether it hears music on hold.
    pub fn may_code(&mut self, media: &config::Media) {
        self.session.codecs = media.codecs[..].into();
        self.session.has_music = media.hold_music.is_some();
        self.has_ringback = media.ringback.is_some();
    }

    /// What the caller is told so that it hears from us that somebody rings; none if it isn't to hear that. Of an offer that was made here: a next
    /// owner goes on with what is heard, and begins nothing.
    pub fn ring(&mut self) -> Option<Bytes> {
        let offer = self.described[0].as_ref().filter(|(part, ..)| self.has_ringback && *part == Part::Offer);
        let told = offer.map(|(_, _, told)| told.clone())?;
        self.session.ring(&told).map(Bytes::from)
    }

    /// Whether what the phones say is kept from now on.
    pub fn record(&mut self, on: bool) {
        self.session.recording = match (on, self.session.recording) {
            (true, _) => Some(Recording::On),
            (false, Some(_)) => Some(Recording::Paused),
            (false, None) => None,
        };
    }

    /// Whether they talk, and what each leg's figures are by now, of what they were at the last commit.
    pub fn measured(&mut self, is_answered: bool, figures: impl Fn(&[Figures; 2]) -> [Figures; 2]) {
        self.session.is_answered = is_answered;
        // What stands in the record counts, whatever may have been rolled back.
        self.session.figures = figures(&self.committed.figures);
    }

    /// The session is committed, and the relay knows: what isn't needed any more is free.
    pub fn committed(&mut self) {
        let former = std::mem::replace(&mut self.committed, self.session.clone());
        let kept = self.session.ports();
        self.give_back(|port| kept.contains(&port));
        // One of two phones that had a side has gone.
        former.ports().difference(&kept).for_each(|port| self.ports.give_back(*port, self.call));
    }

    /// It is not, and nothing of it has happened.
    pub fn roll_back(&mut self) {
        self.session = self.committed.clone();
        self.described = [None, None];
        let kept = self.session.ports();
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
            let sockets = bound.filter(is_there);
            Want { plan, sockets }
        };
        Some(plan.into_iter().map(|plan| plan.map(&mut want)).collect())
    }

    /// The call is over: the ports are free. The relay must have been told to close them.
    pub fn release(&mut self) {
        self.give_back(|_| false);
        for port in self.session.ports().union(&self.committed.ports()) {
            self.ports.give_back(*port, self.call);
        }
        for session in [&mut self.session, &mut self.committed] {
            session.streams.clear();
            session.before = None;
        }
        self.applied = [Vec::new(), Vec::new()];
    }

    fn give_back(&mut self, keep: impl Fn(u16) -> bool) {
        let (call, ports) = (self.call, &self.ports);
        self.sockets.retain(|port, _| {
            let kept = keep(*port);
            if !kept {
                ports.give_back(*port, call);
            }
            kept
        });
    }
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

    /// What came again is known again, but an offer is no answer.
    #[test]
    fn what_is_said_twice_is_no_new_version() {
        let ip: IpAddr = "127.0.0.1".parse().unwrap();
        let mut media = CallMedia::new(CallId(1), Session::new(ip.into(), 42), Arc::new(PortPool::new(23_170, 23_180)));
        let offer = media.translate(0, Part::Offer, &sdp(1, "sendrecv")).unwrap();
        assert_eq!(media.translate(0, Part::Offer, &sdp(1, "sendrecv")).unwrap(), offer);
        let answer = media.translate(1, Part::Answer, &sdp(1, "sendrecv")).unwrap();
        assert_eq!(media.translate(1, Part::Answer, &sdp(1, "sendrecv")).unwrap(), answer);
        assert_ne!(media.translate(1, Part::Offer, &sdp(1, "sendrecv")).unwrap(), answer);
    }

    fn told(media: &CallMedia) -> String {
        String::from_utf8(media.told(1).unwrap().to_vec()).unwrap()
    }

    /// One of two phones that have had a side goes: its ports are free as soon as that is held, and not before.
    #[test]
    fn ports_are_free_when_nobody_can_need_them_any_more() {
        let ip: IpAddr = "127.0.0.1".parse().unwrap();
        let pool = Arc::new(PortPool::new(23_140, 23_160));
        let mut media = CallMedia::new(CallId(1), Session::new(ip.into(), 42), pool.clone());
        media.translate(0, Part::Offer, &sdp(1, "sendrecv")).unwrap();
        media.translate(1, Part::Answer, &sdp(1, "sendrecv")).unwrap();
        media.committed();
        let applied = |media: &mut CallMedia| [0, 1].into_iter().for_each(|leg| drop(media.wants(LegId(leg), false)));
        applied(&mut media);
        assert_eq!(pool.used(), 2);
        for accepted in [false, true] {
            media.translate(1, Part::OfferInstead, &sdp(5, "sendrecv")).unwrap();
            // It can't be committed: nothing has happened.
            media.roll_back();
            assert_eq!(pool.used(), 2);
            media.translate(1, Part::OfferInstead, &sdp(5, "sendrecv")).unwrap();
            applied(&mut media);
            media.committed();
            assert_eq!(pool.used(), 3, "either may be needed");
            if accepted {
                media.translate(0, Part::Answer, &sdp(2, "sendrecv")).unwrap();
                media.accepted();
            } else {
                media.take_back();
            }
            // Nor can this.
            media.roll_back();
            assert_eq!(pool.used(), 3);
            if accepted {
                media.accepted()
            } else {
                media.take_back()
            }
            applied(&mut media);
            media.committed();
            assert_eq!(pool.used(), 2);
        }
        media.release();
        assert_eq!(pool.used(), 0);
    }

    /// RFC 3264 §8: else the next refresh would put a phone on hold whose other side knows nothing of it.
    #[test]
    fn what_was_refused_is_not_told_again() {
        let ip: IpAddr = "127.0.0.1".parse().unwrap();
        let mut media = CallMedia::new(CallId(1), Session::new(ip.into(), 42), Arc::new(PortPool::new(23_100, 23_110)));
        media.translate(0, Part::Offer, &sdp(1, "sendrecv")).unwrap();
        media.translate(1, Part::Answer, &sdp(1, "sendrecv")).unwrap();
        assert!(told(&media).contains("o=tandem 21 1 ") && told(&media).contains("sendrecv"));
        media.translate(0, Part::LaterOffer, &sdp(2, "sendonly")).unwrap();
        assert!(told(&media).contains("o=tandem 21 2 ") && told(&media).contains("sendonly"));
        media.take_back();
        // The phone has seen the second version.
        assert!(told(&media).contains("o=tandem 21 3 ") && told(&media).contains("sendrecv"), "{}", told(&media));
    }
}

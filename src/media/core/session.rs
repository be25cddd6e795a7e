//! The media of one call: offers and answers pass through here and come out with our addresses in them
//! (RFC 3264, RFC 4566). Layer: pure.
//!
//! Each stream (`m=` line) has two ends, the caller's and the callee's. What an end's SDP says is where we
//! send to it, until its packets come from somewhere else (symmetric RTP, RFC 4961): then we answer there.
//!
//! An end of ours is at the address of the family that its phone describes itself by (RFC 6157); until it has, at the one by which the phone is
//! reached.
//!
//! Invariant: an end's local port is given once and stays for the life of the call.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::Bytes;
use sdp_types::{Attribute, Connection, Media, Origin, Session as Sdp};

use super::protection::{Policy, Protection, ProtectionError, Secret, Shield, bring_down};
use super::srtp::Mark;
use crate::families::Families;

/// More `m=` lines than this are refused.
pub const MAX_STREAMS: usize = 8;
/// A body longer than this is refused unread.
pub const MAX_SDP: usize = 16 << 10;

/// Gives an even port that is free at this address of ours, or `None`.
pub type TakePort<'a> = &'a mut dyn FnMut(IpAddr) -> Option<u16>;

/// Why a session description was refused: 488 to whoever sent it (RFC 3261 §21.4.26).
#[derive(Debug, thiserror::Error)]
pub enum SdpError {
    /// Longer than [`MAX_SDP`].
    #[error("{0} bytes of SDP")]
    TooLong(usize),
    /// It doesn't follow the grammar.
    #[error("malformed SDP")]
    Malformed(#[from] sdp_types::ParserError),
    /// No `c=` line for a stream, or one whose address is none that we can reach, or of another family than that of the streams before.
    #[error("no usable connection address for stream {0}")]
    Connection(usize),
    /// More than [`MAX_STREAMS`].
    #[error("{0} streams")]
    TooMany(usize),
    /// No `m=` line at all.
    #[error("no streams")]
    None,
    /// All ports are in use.
    #[error("no ports are left")]
    NoPorts,
    /// By policy, or since there is no key to protect a stream by.
    #[error(transparent)]
    Protection(#[from] ProtectionError),
}

/// The media of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Our addresses.
    pub ips: Families,
    /// The one of them toward each leg.
    pub sides: [IpAddr; 2],
    /// The number in our `o=` lines.
    pub id: u64,
    /// The streams, in the order of the `m=` lines.
    pub streams: Vec<Stream>,
    /// The version in our `o=` line toward each leg.
    pub versions: [u64; 2],
    /// Whether a leg has asked for less than both directions (RFC 3264 §8.4).
    pub held: [bool; 2],
    /// Whether what each leg was told last is kept in any case, to be told again from another address.
    pub keeps: bool,
    /// What each leg was told last, if it may have to be told again.
    pub told: [Option<Bytes>; 2],
    /// How many `m=` lines each leg's dialog has: each phone has its own, and one that comes instead of another may have fewer.
    pub lines: [usize; 2],
    /// Whether each side's streams are to be protected.
    pub policies: [Policy; 2],
    /// What our keys are made of.
    pub secret: Secret,
    /// So many of them were made.
    pub keys_made: u32,
    /// What stood before an offer that has no answer yet: a refused one changes nothing (RFC 3264 §8).
    pub before: Option<Box<Before>>,
}

/// What stood before an offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Before {
    /// Whose offer it is (0 or 1).
    pub by: usize,
    /// That isn't the phone that has had this side until then: its media go on until the offer is answered.
    pub instead: bool,
    /// As in [`Session`].
    pub streams: Vec<Stream>,
    /// As in [`Session`].
    pub sides: [IpAddr; 2],
    /// As in [`Session`].
    pub held: [bool; 2],
    /// As in [`Session`].
    pub told: [Option<Bytes>; 2],
    /// As in [`Session`].
    pub lines: [usize; 2],
}

/// One stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stream {
    /// The caller's end, then the callee's.
    pub legs: [StreamLeg; 2],
}

/// One end of a stream. RTCP is on the port above, ours always, the peer's unless it says otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StreamLeg {
    /// Our RTP address toward this end.
    pub local: Option<SocketAddr>,
    /// Where it says that it listens.
    pub signalled: Option<SocketAddr>,
    /// The same for RTCP.
    pub signalled_rtcp: Option<SocketAddr>,
    /// Where its packets come from, if that is somewhere else.
    pub latched: Option<SocketAddr>,
    /// The same for RTCP.
    pub latched_rtcp: Option<SocketAddr>,
    /// How its packets are protected.
    pub protection: Protection,
}

/// What the relay must do for one end of one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LegPlan {
    /// Our RTP address; RTCP is on the port above.
    pub local: SocketAddr,
    /// Where to send RTP and RTCP.
    pub remote: [Option<SocketAddr>; 2],
    /// Where the peer says that it is.
    pub signalled: [Option<SocketAddr>; 2],
    /// How its packets are protected.
    pub shield: Shield,
}

impl Session {
    /// No streams yet.
    pub fn new(ips: Families, id: u64) -> Self {
        Self {
            ips,
            sides: [ips.first(); 2],
            // RFC 4566 §5.2 has no bound, but phones keep it in 64 signed bits.
            id: id >> 1,
            streams: Vec::new(),
            versions: [0; 2],
            held: [false; 2],
            keeps: false,
            told: [None, None],
            lines: [0; 2],
            policies: [Policy::default(); 2],
            secret: Secret::default(),
            keys_made: 0,
            before: None,
        }
    }

    /// A leg's phone is reached there; it has not described itself yet.
    pub fn reaches(&mut self, leg: usize, there: IpAddr) {
        if let Some(ip) = self.ips.toward(there).filter(|_| self.streams.is_empty()) {
            self.sides[leg] = ip;
        }
    }

    /// Our addresses toward both legs are those that the streams have.
    pub fn find_sides(&mut self) {
        find_sides(&self.streams, &mut self.sides);
        if let Some(before) = &mut self.before {
            find_sides(&before.streams, &mut before.sides);
        }
    }

    /// What a phone is told that is called there: the same as all are told, with our address of its family. None if we have but one.
    pub fn toward(&self, sdp: &[u8], there: IpAddr) -> Option<Bytes> {
        let both = self.ips.all().count() > 1;
        moved(sdp, self.ips.toward(there).filter(|_| both)?, |_| {})
    }

    /// As [`Session::describe`], of an offer that may be taken back until it is answered.
    pub fn offer(&mut self, from: usize, sdp: &[u8], take_port: TakePort<'_>) -> Result<Vec<u8>, SdpError> {
        let before = self.as_before(from, false);
        // What was offered before that is forgotten with it.
        let mut next = Self { before: None, ..self.clone() };
        let ours = next.describe(from, sdp, take_port)?;
        *self = Self { before: Some(before), ..next };
        Ok(ours)
    }

    /// The same of another phone that is to have the leg's place: at ports of its own.
    pub fn offer_instead(&mut self, from: usize, sdp: &[u8], take_port: TakePort<'_>) -> Result<Vec<u8>, SdpError> {
        let before = self.as_before(from, true);
        let mut next = Self { before: None, ..self.clone() };
        for stream in &mut next.streams {
            stream.legs[from] = StreamLeg::default();
        }
        (next.told[from], next.lines[from]) = (None, 0);
        let ours = next.describe(from, sdp, take_port)?;
        *self = Self { before: Some(before), ..next };
        Ok(ours)
    }

    fn as_before(&self, by: usize, instead: bool) -> Box<Before> {
        let Self { streams, sides, held, told, lines, .. } = self.clone();
        Box::new(Before { by, instead, streams, sides, held, told, lines })
    }

    /// The offer is answered: it counts.
    pub fn accepted(&mut self) {
        self.before = None;
    }

    /// Nothing comes of the offer: all is as it was. Tells whether there was one.
    pub fn take_back(&mut self) -> bool {
        let Some(before) = self.before.take() else { return false };
        let Before { streams, sides, held, told: former, lines, .. } = *before;
        (self.streams, self.held, self.lines) = (streams, held, lines);
        let sides = std::mem::replace(&mut self.sides, sides);
        for (leg, side) in sides.into_iter().enumerate() {
            self.come_along(leg, side);
        }
        for (leg, told) in former.into_iter().enumerate() {
            if self.told[leg] != told {
                self.told[leg] = told;
                // It has seen the version of what it has refused: what still stands is told with a higher one.
                self.tell_again(leg);
            }
        }
        true
    }

    /// Takes an offer of leg `from` (0 or 1) and gives the one for the other leg. After an error nothing has changed.
    pub fn describe(&mut self, from: usize, sdp: &[u8], take_port: TakePort<'_>) -> Result<Vec<u8>, SdpError> {
        self.pass(from, sdp, false, take_port)
    }

    /// The same of an answer.
    pub fn answer(&mut self, from: usize, sdp: &[u8], take_port: TakePort<'_>) -> Result<Vec<u8>, SdpError> {
        self.pass(from, sdp, true, take_port)
    }

    /// The same of the answer to what leg `from` was told once more ([`Session::tell_again`]): the other hears nothing of it, and still knows what it
    /// was told.
    pub fn answer_again(&mut self, from: usize, sdp: &[u8], take_port: TakePort<'_>) -> Result<Vec<u8>, SdpError> {
        let other = 1 - from;
        let (told, version, lines) = (self.told[other].clone(), self.versions[other], self.lines);
        let ours = self.answer(from, sdp, take_port)?;
        (self.told[other], self.versions[other], self.lines) = (told, version, lines);
        Ok(ours)
    }

    fn pass(&mut self, from: usize, sdp: &[u8], answers: bool, take_port: TakePort<'_>) -> Result<Vec<u8>, SdpError> {
        if sdp.len() > MAX_SDP {
            return Err(SdpError::TooLong(sdp.len()));
        }
        let mut sdp = Sdp::parse(sdp)?;
        match sdp.medias.len() {
            0 => return Err(SdpError::None),
            1..=MAX_STREAMS => {}
            count => return Err(SdpError::TooMany(count)),
        }
        let mut next = self.clone();
        bring_down(&mut sdp);
        let session_address = sdp.connection.take();
        let one_way = |attribute: &Attribute| ["sendonly", "recvonly", "inactive"].contains(&attribute.attribute.as_str());
        let mut everything = sdp.attributes.iter().chain(sdp.medias.iter().flat_map(|media| &media.attributes));
        next.held[from] = everything.any(one_way);
        let is_somewhere = |(at, media): (usize, &Media)| {
            let ip = address_of(media, session_address.as_ref()).filter(|ip| is_carried(media) && !ip.is_unspecified())?;
            Some(self.ips.toward(ip).ok_or(SdpError::Connection(at)))
        };
        if let Some(side) = sdp.medias.iter().enumerate().find_map(is_somewhere).transpose()? {
            next.sides[from] = side;
            next.come_along(from, self.sides[from]);
        }
        for (at, media) in sdp.medias.iter_mut().enumerate() {
            next.describe_stream((from, answers), at, media, session_address.as_ref(), take_port)?;
        }
        // A stream that it says nothing of it doesn't have.
        next.streams.iter_mut().skip(sdp.medias.len()).for_each(|stream| stream.legs[from].signal(None, None));
        let other = 1 - from;
        next.lines[from] = sdp.medias.len();
        if answers {
            // RFC 3264 §6: as many as the offer, whatever its sender may know from another phone.
            sdp.medias.truncate(self.lines[other]);
        } else {
            // §8: never fewer than before, whatever that was another phone's.
            let told = self.told[other].as_ref().and_then(|told| Sdp::parse(told).ok());
            for at in sdp.medias.len()..self.lines[other] {
                sdp.medias.push(declined(told.as_ref().and_then(|told| told.medias.get(at))));
            }
            next.lines[other] = sdp.medias.len();
        }
        next.versions[other] += 1;
        let (version, ip) = (next.versions[other], next.sides[other]);
        sdp.origin = origin(next.id, version, ip);
        sdp.connection = Some(Connection::from_ip_addr(ip));
        sdp.attributes.retain(is_end_to_end);
        let mut out = Vec::with_capacity(512);
        // Writing to memory fails only when memory does.
        let _ = sdp.write(&mut out);
        next.told[other] = Some(Bytes::from(out.clone()));
        *self = next;
        Ok(out)
    }

    /// What a leg was told last, once more: with the address that is ours now, and a version of its own.
    pub fn tell_again(&mut self, leg: usize) -> Option<Bytes> {
        let (id, version, ip) = (self.id, self.versions[leg] + 1, self.sides[leg]);
        let out = moved(self.told.get(leg)?.as_ref()?, ip, |sdp| sdp.origin = origin(id, version, ip))?;
        self.versions[leg] = version;
        self.told[leg] = Some(out.clone());
        Some(out)
    }

    /// What belongs to a leg is at our address toward it, if that is another than it was.
    fn come_along(&mut self, leg: usize, before: IpAddr) {
        let ip = self.sides[leg];
        if ip == before {
            return;
        }
        for local in self.streams.iter_mut().filter_map(|stream| stream.legs[leg].local.as_mut()) {
            local.set_ip(ip);
        }
        // It was told so already: who is called is told our address of its own family (`toward`).
        self.told[leg] = self.told[leg].as_ref().and_then(|told| moved(told, ip, |_| {}));
    }

    fn describe_stream(
        &mut self,
        (from, answers): (usize, bool),
        at: usize,
        media: &mut Media,
        session_address: Option<&Connection>,
        take_port: TakePort<'_>,
    ) -> Result<(), SdpError> {
        let other = 1 - from;
        if self.streams.len() <= at {
            self.streams.push(Stream::default());
        }
        let stream = &mut self.streams[at];
        media.num_ports = None;
        let ip = address_of(media, session_address);
        media.connections.clear();
        let rtcp = media.attributes.iter().find(|attribute| attribute.attribute == "rtcp").and_then(|a| a.value.clone());
        media.attributes.retain(is_end_to_end);
        // Declined (RFC 3264 §6), or of a kind that this relay doesn't carry.
        if !is_carried(media) {
            media.port = 0;
            stream.legs[from].signal(None, None);
            stream.legs[other].protection.write_profile(media);
            return Ok(());
        }
        let [policy, others] = [self.policies[from], self.policies[other]];
        if answers {
            stream.legs[from].protection.answered(media, policy)?;
        } else {
            stream.legs[from].protection.offered(media, policy)?;
            let profile = stream.legs[from].protection.profile;
            stream.legs[other].protection.will_be_offered(media, others, profile);
        }
        stream.legs[other].protection.write(media, answers, &self.secret, &mut self.keys_made);
        let ip = ip.ok_or(SdpError::Connection(at))?;
        if ip.is_unspecified() {
            // RFC 3264 §8.4: the old way to hold. The other side must see it.
            stream.legs[from].signal(None, None);
            self.held[from] = true;
            media.connections = vec![unspecified(self.sides[other])];
        } else if ip.is_ipv4() != self.sides[from].is_ipv4() {
            return Err(SdpError::Connection(at));
        } else {
            let rtp = SocketAddr::new(ip, media.port);
            let rtcp = rtcp.as_deref().and_then(|value| rtcp_address(value, ip));
            let above = media.port.checked_add(1).map(|port| SocketAddr::new(ip, port));
            stream.legs[from].signal(Some(rtp), rtcp.or(above));
        }
        for (leg, ip) in stream.legs.iter_mut().zip(self.sides) {
            if leg.local.is_none() {
                leg.local = Some(SocketAddr::new(ip, take_port(ip).ok_or(SdpError::NoPorts)?));
            }
        }
        media.port = stream.legs[other].local.map_or(0, |local| local.port());
        Ok(())
    }

    /// A leg's packets come from somewhere. Tells whether that is new to us, and not what its SDP said anyway.
    pub fn latch(&mut self, leg: usize, stream: usize, rtcp: bool, source: SocketAddr) -> bool {
        // Until a phone that is to have this side has got it, they come from the one that has it.
        let streams = match &mut self.before {
            Some(before) if before.instead && before.by == leg => &mut before.streams,
            Some(_) | None => &mut self.streams,
        };
        let Some(end) = streams.get_mut(stream).and_then(|stream| stream.legs.get_mut(leg)) else { return false };
        let (latched, signalled) = match rtcp {
            false => (&mut end.latched, end.signalled),
            true => (&mut end.latched_rtcp, end.signalled_rtcp),
        };
        let now = Some(source).filter(|_| signalled != Some(source));
        let changed = *latched != now;
        *latched = now;
        changed
    }

    /// A source of a leg's phone has come so far, or one of ours toward it, by this key. Tells whether that is news.
    pub fn come_to(&mut self, leg: usize, stream: usize, by: (bool, u64), mark: Mark) -> bool {
        let before = self.before.as_mut().map(|before| &mut before.streams);
        let mut is_news = false;
        for streams in [Some(&mut self.streams), before].into_iter().flatten() {
            let end = streams.get_mut(stream).and_then(|stream| stream.legs.get_mut(leg));
            is_news |= end.is_some_and(|end| end.protection.come_to(by, mark, &self.secret));
        }
        is_news
    }

    /// Whether no packet is nothing to wonder at: a side is on hold, or no stream is carried at all.
    pub fn is_silent_on_purpose(&self) -> bool {
        let carried = |stream: &Stream| stream.legs.iter().all(|leg| leg.signalled.is_some());
        let still = self.before.as_ref().filter(|before| before.instead);
        let (streams, held) = still.map_or((&self.streams, self.held), |before| (&before.streams, before.held));
        held.contains(&true) || !streams.iter().any(carried)
    }

    /// What the relay must do for a leg, stream by stream.
    pub fn plan(&self, leg: usize) -> Vec<Option<LegPlan>> {
        let still = self.before.as_ref().filter(|before| before.instead && before.by == leg);
        let streams = still.map_or(&self.streams, |before| &before.streams);
        let plan = |(at, stream): (usize, &Stream)| {
            let end = &stream.legs[leg];
            // By the keys that are agreed, until others are.
            let agreed = self.before.as_ref().and_then(|before| before.streams.get(at)).map(|stream| &stream.legs[leg]);
            let protection = &agreed.filter(|agreed| agreed.local.is_some()).unwrap_or(end).protection;
            Some(LegPlan {
                local: end.local?,
                remote: [end.latched.or(end.signalled), end.latched_rtcp.or(end.signalled_rtcp)],
                signalled: [end.signalled, end.signalled_rtcp],
                shield: protection.shield(&self.secret),
            })
        };
        streams.iter().enumerate().map(plan).collect()
    }

    /// Every RTP port of ours, and those that may be so again.
    pub fn ports(&self) -> BTreeSet<u16> {
        let before = self.before.iter().flat_map(|before| &before.streams);
        let all = self.streams.iter().chain(before).flat_map(|stream| &stream.legs);
        all.filter_map(|leg| leg.local).map(|local| local.port()).collect()
    }
}

impl StreamLeg {
    /// What was learned is kept as long as the signalled address stays.
    fn signal(&mut self, rtp: Option<SocketAddr>, rtcp: Option<SocketAddr>) {
        if self.signalled != rtp {
            self.signalled = rtp;
            self.latched = None;
        }
        if self.signalled_rtcp != rtcp {
            self.signalled_rtcp = rtcp;
            self.latched_rtcp = None;
        }
    }
}

fn find_sides(streams: &[Stream], sides: &mut [IpAddr; 2]) {
    for (leg, side) in sides.iter_mut().enumerate() {
        let local = streams.iter().find_map(|stream| stream.legs[leg].local);
        *side = local.map_or(*side, |local| local.ip());
    }
}

/// A stream that a phone doesn't have and another knows: of the kind that this one was told (RFC 3264 §6).
fn declined(known: Option<&Media>) -> Media {
    let text = |of: fn(&Media) -> &String, else_: &str| known.map_or_else(|| else_.to_owned(), |media| of(media).clone());
    Media {
        media: text(|media| &media.media, "audio"),
        port: 0,
        num_ports: None,
        proto: text(|media| &media.proto, "RTP/AVP"),
        fmt: text(|media| &media.fmt, "0"),
        media_title: None,
        connections: Vec::new(),
        bandwidths: Vec::new(),
        key: None,
        attributes: Vec::new(),
    }
}

/// Whether an attribute may pass: addresses of the sender's own must not.
fn is_end_to_end(attribute: &Attribute) -> bool {
    const OURS: [&str; 9] = [
        "rtcp",
        "candidate",
        "remote-candidates",
        "end-of-candidates",
        "ice-ufrag",
        "ice-pwd",
        "ice-options",
        "ice-lite",
        "ice-mismatch",
    ];
    !OURS.contains(&attribute.attribute.as_str())
}

/// Whether a stream is wanted, and of a kind that this relay carries.
fn is_carried(media: &Media) -> bool {
    let first = media.proto.split('/').next().unwrap_or("");
    media.port != 0 && ["RTP", "UDP", "udptl"].iter().any(|known| first.eq_ignore_ascii_case(known))
}

/// Where a stream's end is: what it says itself counts, and then what is said of all.
fn address_of(media: &Media, of_all: Option<&Connection>) -> Option<IpAddr> {
    Some(media.connections.first().or(of_all)?.try_address().ok()?.ip)
}

/// The `c=` line that means nowhere, in a family of addresses.
fn unspecified(like: IpAddr) -> Connection {
    Connection::from_ip_addr(if like.is_ipv4() { IpAddr::from(Ipv4Addr::UNSPECIFIED) } else { Ipv6Addr::UNSPECIFIED.into() })
}

/// RFC 3605: `port`, or `port IN IP4 address`.
fn rtcp_address(value: &str, ip: IpAddr) -> Option<SocketAddr> {
    let mut parts = value.split_ascii_whitespace();
    let port = parts.next()?.parse().ok().filter(|port| *port > 0)?;
    let ip = parts.nth(2).map_or(Some(ip), |address| address.parse().ok())?;
    Some(SocketAddr::new(ip, port))
}

/// A description with our address in it, and changed further so.
fn moved(sdp: &[u8], ip: IpAddr, change: impl FnOnce(&mut Sdp)) -> Option<Bytes> {
    let mut sdp = Sdp::parse(sdp).ok()?;
    let Origin { sess_id, sess_version, .. } = &sdp.origin;
    let (id, version) = (sess_id.parse().ok()?, *sess_version);
    sdp.origin = origin(id, version, ip);
    sdp.connection = Some(Connection::from_ip_addr(ip));
    // Those that have their own are on hold.
    sdp.medias.iter_mut().flat_map(|media| &mut media.connections).for_each(|hold| *hold = unspecified(ip));
    change(&mut sdp);
    let mut out = Vec::with_capacity(512);
    // Writing to memory fails only when memory does.
    let _ = sdp.write(&mut out);
    Some(Bytes::from(out))
}

/// Ours (RFC 4566 §5.2). It has a user name because some want to see one.
fn origin(id: u64, version: u64, ip: IpAddr) -> Origin {
    Origin { username: Some("tandem".into()), ..Origin::with_ip_addr(id, version, ip) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OFFER: &str = "v=0\r\no=alice 1 1 IN IP4 10.0.0.1\r\ns=-\r\nc=IN IP4 10.0.0.1\r\nt=0 0\r\n\
        m=audio 4000 RTP/AVP 8 101\r\na=rtpmap:101 telephone-event/8000\r\na=rtcp:4009\r\na=candidate:1 1 UDP 1 10.0.0.1 4000 typ host\r\n\
        m=video 0 RTP/AVP 96\r\n";
    const ANSWER: &str = "v=0\r\no=bob 7 7 IN IP4 10.0.0.2\r\ns=-\r\nt=0 0\r\nm=audio 6000 RTP/AVP 8\r\nc=IN IP4 10.0.0.2\r\na=sendrecv\r\nm=video 0 RTP/AVP 96\r\n";

    fn session() -> Session {
        Session::new("127.0.0.11".parse::<IpAddr>().unwrap().into(), 42)
    }

    fn describe(session: &mut Session, from: usize, sdp: &str) -> Result<String, SdpError> {
        let mut next = u16::try_from(session.ports().len()).unwrap() * 2 + 10_000;
        let mut take = |_| {
            next += 2;
            Some(next - 2)
        };
        // The caller's are offers here.
        let describe = if from == 0 { Session::describe } else { Session::answer };
        describe(session, from, sdp.as_bytes(), &mut take).map(|sdp| String::from_utf8(sdp).unwrap())
    }

    #[test]
    fn offer_and_answer_get_our_addresses() {
        let mut session = session();
        let offer = describe(&mut session, 0, OFFER).unwrap();
        for line in
            ["o=tandem 21 1 IN IP4 127.0.0.11", "c=IN IP4 127.0.0.11", "m=audio 10002 RTP/AVP 8 101", "m=video 0 RTP/AVP 96"]
        {
            assert!(offer.contains(line), "{line} in\n{offer}");
        }
        assert!(!offer.contains("candidate") && !offer.contains("a=rtcp:") && !offer.contains("10.0.0.1"), "{offer}");
        let answer = describe(&mut session, 1, ANSWER).unwrap();
        assert!(answer.contains("m=audio 10000 RTP/AVP 8\r\n") && answer.contains("a=sendrecv"), "{answer}");
        let [caller, callee] = [0, 1].map(|leg| session.plan(leg)[0].clone().unwrap());
        assert_eq!(caller.remote, ["10.0.0.1:4000", "10.0.0.1:4009"].map(|a| a.parse().ok()));
        assert_eq!(callee.remote, ["10.0.0.2:6000", "10.0.0.2:6001"].map(|a| a.parse().ok()));
        assert_eq!((caller.local.port(), callee.local.port()), (10_000, 10_002));
        assert_eq!(session.plan(0)[1], None);
    }

    #[test]
    fn a_learned_address_lasts_as_long_as_the_signalled_one() {
        let mut session = session();
        describe(&mut session, 0, OFFER).unwrap();
        assert!(!session.latch(0, 0, false, "10.0.0.1:4000".parse().unwrap()), "what the SDP said is nothing new");
        let seen = "192.0.2.1:9".parse().unwrap();
        assert!(session.latch(0, 0, false, seen) && !session.latch(0, 0, false, seen));
        describe(&mut session, 0, OFFER).unwrap();
        assert_eq!(session.plan(0)[0].as_ref().unwrap().remote[0], Some(seen));
        describe(&mut session, 0, &OFFER.replace("4000", "4002")).unwrap();
        assert_eq!(session.plan(0)[0].as_ref().unwrap().remote[0], "10.0.0.1:4002".parse().ok());
    }

    #[test]
    fn what_was_said_is_said_again_from_another_address() {
        let mut session = Session { keeps: true, ..session() };
        let offer = describe(&mut session, 0, OFFER).unwrap();
        session.sides = ["127.0.0.12".parse().unwrap(); 2];
        let again = String::from_utf8(session.tell_again(1).unwrap().to_vec()).unwrap();
        assert_eq!(
            again,
            offer
                .replace("o=tandem 21 1 IN IP4 127.0.0.11", "o=tandem 21 2 IN IP4 127.0.0.12")
                .replace("c=IN IP4 127.0.0.11", "c=IN IP4 127.0.0.12")
        );
        assert_eq!(session.tell_again(0), None, "it was told nothing yet");
    }

    #[test]
    fn an_old_style_hold_stays_one() {
        let mut session = session();
        describe(&mut session, 0, OFFER).unwrap();
        let held = describe(&mut session, 0, &OFFER.replace("c=IN IP4 10.0.0.1", "c=IN IP4 0.0.0.0")).unwrap();
        assert!(held.contains("c=IN IP4 0.0.0.0"), "{held}");
        assert_eq!(session.plan(0)[0].as_ref().unwrap().remote[0], None);
    }

    /// RFC 6157: each phone hears of us in its own family.
    #[test]
    fn a_phone_of_ipv4_talks_with_one_of_ipv6() {
        let [v4, v6]: [IpAddr; 2] = ["127.0.0.11".parse().unwrap(), "fd00::11".parse().unwrap()];
        let answer = ANSWER.replace("IP4 10.0.0.2", "IP6 fd00::2");
        let both = || Session::new(Families::from(v4).and(v6).unwrap(), 42);
        // Where the callee is was known, or only turns out; then it was told what `toward` makes of the offer.
        for known in [true, false] {
            let mut session = both();
            if known {
                session.reaches(1, "fd00::2".parse().unwrap());
            }
            let offer = describe(&mut session, 0, OFFER).unwrap();
            let offer = session.toward(offer.as_bytes(), "fd00::2".parse().unwrap()).unwrap();
            let offer = std::str::from_utf8(&offer).unwrap();
            assert!(offer.contains("o=tandem 21 1 IN IP6 fd00::11") && offer.contains("c=IN IP6 fd00::11"), "{offer}");
            let given = describe(&mut session, 1, &answer).unwrap();
            assert!(given.contains("c=IN IP4 127.0.0.11") && given.contains("m=audio 10000 "), "{given}");
            let callee = session.plan(1)[0].clone().unwrap();
            assert_eq!(callee.local, SocketAddr::new(v6, 10_002));
            assert_eq!(callee.remote[0], "[fd00::2]:6000".parse().ok());
            assert_eq!(session.told[1].as_deref(), Some(offer.as_bytes()));
            let held = describe(&mut session, 0, &OFFER.replace("c=IN IP4 10.0.0.1", "c=IN IP4 0.0.0.0")).unwrap();
            assert!(held.contains("c=IN IP6 fd00::11") && held.contains("c=IN IP6 ::\r\n"), "{held}");
            // It would come to the other family, and may not.
            let before = session.clone();
            session.offer(1, ANSWER.as_bytes(), &mut |_| None).unwrap();
            assert_eq!(session.plan(1)[0].as_ref().unwrap().local, SocketAddr::new(v4, 10_002));
            assert!(session.take_back() && !session.take_back());
            assert_eq!((session.plan(1), session.sides, &session.told[1]), (before.plan(1), before.sides, &before.told[1]));
            // What is stored are the streams.
            session.sides = [v4; 2];
            session.find_sides();
            assert_eq!(session.sides, [v4, v6]);
        }
        let mixed = answer.replace("m=video 0 RTP/AVP 96", "m=video 7000 RTP/AVP 96\r\nc=IN IP4 10.0.0.2");
        let mut session = both();
        describe(&mut session, 0, &OFFER.replace("m=video 0", "m=video 4002")).unwrap();
        assert!(describe(&mut session, 1, &mixed).is_err(), "a phone is at one place");
    }

    /// A phone that takes the place of another has streams of its own: each side sees as many as it must (RFC 3264 §6, §8).
    #[test]
    fn another_phone_gets_a_side_at_ports_of_its_own() {
        let [offer, answer] = [OFFER, ANSWER].map(|sdp| sdp.replace("m=video 0", "m=video 4002"));
        let mut session = session();
        describe(&mut session, 0, &offer).unwrap();
        let answer = answer.replace("sendrecv", "sendonly").replace("s=-\r\n", "s=-\r\nc=IN IP4 10.0.0.2\r\n");
        describe(&mut session, 1, &answer).unwrap();
        let before = session.clone();
        let new = "v=0\r\no=carol 3 3 IN IP4 10.0.0.3\r\ns=-\r\nc=IN IP4 10.0.0.3\r\nt=0 0\r\nm=audio 8000 RTP/AVP 8\r\n";
        let mut next = 10_020;
        let mut take = |_| {
            next += 2;
            Some(next)
        };
        let told = String::from_utf8(session.offer_instead(1, new.as_bytes(), &mut take).unwrap()).unwrap();
        assert!(told.contains("m=audio 10000 RTP/AVP 8\r\nm=video 0 RTP/AVP 96\r\n"), "{told}");
        // The one that has the side has it until the other one gets it.
        assert_eq!(session.plan(1), before.plan(1));
        assert!(session.latch(1, 0, false, "192.0.2.1:9".parse().unwrap()));
        assert_eq!(session.plan(1)[0].as_ref().unwrap().remote[0], "192.0.2.1:9".parse().ok());
        assert_eq!(session.ports().into_iter().collect::<Vec<_>>(), [10_000, 10_002, 10_004, 10_006, 10_022]);
        assert!(session.latch(1, 0, false, "10.0.0.2:6000".parse().unwrap()) && session.plan(1) == before.plan(1));
        assert!(session.is_silent_on_purpose(), "it is on hold");
        let mut refused = session.clone();
        assert!(refused.take_back() && !refused.take_back());
        assert_eq!((&refused.streams, refused.held, refused.ports()), (&before.streams, before.held, before.ports()));
        // It has seen the version of what it has refused.
        assert_eq!(refused.versions[0], before.versions[0] + 2);

        let answers = |session: &mut Session, from, sdp: &str| {
            String::from_utf8(session.answer(from, sdp.as_bytes(), &mut |_| None).unwrap()).unwrap()
        };
        let declines = offer.replace("m=video 4002", "m=video 0");
        let answered = answers(&mut session, 0, &declines);
        assert!(answered.contains("m=audio 10022 ") && !answered.contains("m=video"), "{answered}");
        session.accepted();
        let ports: Vec<_> = session.plan(1).iter().map(|plan| plan.as_ref().map(|plan| plan.local.port())).collect();
        assert_eq!((ports, session.held[1]), (vec![Some(10_022), None], false));
        assert_eq!(session.ports().into_iter().collect::<Vec<_>>(), [10_000, 10_004, 10_022]);
        // The same when it offers something later, by itself or asked for.
        let held = format!("{new}a=sendonly\r\n");
        for late in [false, true] {
            let offers = if late { Session::describe } else { Session::offer };
            let held = String::from_utf8(offers(&mut session, 1, held.as_bytes(), &mut |_| None).unwrap()).unwrap();
            assert!(held.contains("m=video 0 ") && held.contains("sendonly"), "{held}");
            assert!(!answers(&mut session, 0, &declines).contains("m=video"));
            session.accepted();
        }
        // Told once more what it knows, it says what it has; the other one isn't told.
        let knew = (session.told[0].clone(), session.lines);
        session.answer_again(1, new.as_bytes(), &mut |_| None).unwrap();
        assert_eq!((session.told[0].clone(), session.lines), knew);
        // It may get another.
        let more = String::from_utf8(session.offer(0, offer.as_bytes(), &mut take).unwrap()).unwrap();
        assert!(more.contains("m=video 10024 "), "{more}");
        assert!(answers(&mut session, 1, &format!("{held}m=video 0 RTP/AVP 96\r\n")).contains("m=video 0"));
    }

    /// RFC 3264 §8: what was refused leaves nothing, and an offer that is asked for has an answer of as many lines.
    #[test]
    fn a_stream_that_was_refused_is_none() {
        let one = OFFER.split("m=video").next().unwrap();
        let mut session = session();
        describe(&mut session, 0, one).unwrap();
        describe(&mut session, 1, one).unwrap();
        let ports = session.ports();
        session.offer(0, format!("{one}m=video 4002 RTP/AVP 96\r\n").as_bytes(), &mut |_| Some(10_020)).unwrap();
        assert!(session.take_back());
        assert_eq!((session.ports(), session.plan(1).len()), (ports, 1));
        assert!(!String::from_utf8(session.describe(0, one.as_bytes(), &mut |_| None).unwrap()).unwrap().contains("m=audio 0"));
        assert_eq!(describe(&mut session, 1, one).unwrap().matches("m=").count(), 1);
        // Nor is one that a description leaves out, as it may not.
        describe(&mut session, 0, &OFFER.replace("m=video 0", "m=video 4002")).unwrap();
        assert!(session.plan(0)[1].as_ref().unwrap().remote[0].is_some());
        describe(&mut session, 0, one).unwrap();
        assert_eq!(session.plan(0)[1].as_ref().unwrap().remote, [None; 2]);
    }

    #[test]
    fn what_cannot_be_relayed_is_refused_and_changes_nothing() {
        let mut session = session();
        for bad in [
            String::new(),
            "v=0\r\n".into(),
            "rubbish".into(),
            OFFER.replace("c=IN IP4 10.0.0.1\r\n", ""),
            OFFER.replace("c=IN IP4 10.0.0.1", "c=IN IP4 host.invalid"),
            OFFER.replace("c=IN IP4 10.0.0.1", "c=IN IP6 ::1"),
            format!("{OFFER}{}", "m=audio 4 RTP/AVP 0\r\n".repeat(MAX_STREAMS)),
            "x".repeat(MAX_SDP + 1),
        ] {
            assert!(describe(&mut session, 0, &bad).is_err(), "{bad}");
        }
        assert!(session.describe(0, OFFER.as_bytes(), &mut |_| None).is_err());
        assert_eq!(session, self::session());
    }

    proptest! {
        #[test]
        fn no_sdp_panics(lines in proptest::collection::vec("[vosctma]=[ -~]{0,40}", 0..12)) {
            let mut session = session();
            let _ = describe(&mut session, 0, &format!("v=0\r\no=- 1 1 IN IP4 1.1.1.1\r\ns=-\r\nt=0 0\r\n{}\r\n", lines.join("\r\n")));
        }
    }
}

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

mod directions;
mod hearing;
mod lines;
mod ringback;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use sdp_types::{Attribute, Connection, Media, Session as Sdp};
use smallvec::SmallVec;

use super::dtls::{self, Association, Dtls, Keyed, Place};
use super::formats::Codec;
use super::negotiation::{self, FormatError, Formats, Rules};
use super::player::Music;
use super::protection::{Policy, Protection, ProtectionError, Secret, Shield, bring_down, has_feedback, kind};
use super::quality::{Figures, Hearing};
use super::srtp::Mark;
use crate::families::Families;
pub use directions::Way;
use lines::{address_of, declined, has_ice, is_carried, is_end_to_end, is_rtp, moved, origin, rtcp_address, unspecified};

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
    /// The two sides have no format in common, and nothing can be made of those that they have.
    #[error(transparent)]
    Formats(#[from] FormatError),
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
    /// Whether each side has a phone that agrees on keys in DTLS, so that it is offered that.
    pub dtls: [bool; 2],
    /// Where each side's phone is reached that describes itself.
    pub reached: [Option<IpAddr>; 2],
    /// What a side may be offered besides what the other has.
    pub codecs: SmallVec<[Codec; 4]>,
    /// A phone on hold hears music, if it can.
    pub has_music: bool,
    /// What our keys are made of.
    pub secret: Secret,
    /// So many of them were made.
    pub keys_made: u32,
    /// A phone may have been told of a certificate that is made of it.
    pub is_certified: bool,
    /// Whether the call's sound is kept, if it was to be at some time.
    pub recording: Option<Recording>,
    /// They talk, as far as their signalling says.
    pub is_answered: bool,
    /// What has been measured of each leg, as was known at the last commit.
    pub figures: [Figures; 2],
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

/// Whether a call's sound is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recording {
    /// It is.
    On,
    /// It was, and isn't at the moment.
    Paused,
}

/// One stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stream {
    /// The caller's end, then the callee's.
    pub legs: [StreamLeg; 2],
    /// One of the two doesn't want it.
    pub is_declined: bool,
    /// What was said of its formats, if it is sound by RTP that may be made over.
    pub formats: Option<Arc<Formats>>,
    /// Who sends and hears, if somebody may hear music.
    pub ways: [Way; 2],
    /// Its datagrams are neither RTP nor RTCP: a fax's (UDPTL, RFC 3362), say.
    pub is_other: bool,
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
    /// How the times go of what is played to it, if something was.
    pub plays: Option<u32>,
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
    /// With a phone whose keys are agreed in DTLS.
    pub dtls: Option<Box<Dtls>>,
    /// What becomes of its packets.
    pub rules: Rules,
    /// What it hears while the other phone holds.
    pub music: Option<Music>,
    /// Its datagrams are neither RTP nor RTCP.
    pub is_other: bool,
    /// What its phone says is kept.
    pub recorded: bool,
    /// What is measured of them.
    pub hearing: Hearing,
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
            dtls: [false; 2],
            reached: [None; 2],
            codecs: SmallVec::new(),
            has_music: false,
            secret: Secret::default(),
            keys_made: 0,
            is_certified: false,
            recording: None,
            is_answered: false,
            figures: Default::default(),
            before: None,
        }
    }

    /// The one that is recorded: the first with sound.
    fn recorded(&self) -> Option<usize> {
        let is_sound = |stream: &Stream| !stream.is_declined && stream.formats.is_some();
        self.streams.iter().position(is_sound).filter(|_| self.recording == Some(Recording::On))
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

    /// What a phone is told that is called there: the same as all are told, with our address of its family, and an offer to agree on keys in DTLS if it
    /// is to have that. None if that is the same.
    pub fn toward(&self, leg: usize, sdp: &[u8], there: IpAddr, dtls: bool) -> Option<Bytes> {
        let both = self.ips.all().count() > 1;
        let ip = self.ips.toward(there).filter(|_| both || dtls)?;
        let associations = |sdp: &mut Sdp| {
            let mut said = Vec::new();
            for (at, media) in
                sdp.medias.iter_mut().enumerate().filter(|(_, media)| dtls && is_carried(media) && kind(media).is_some())
            {
                let Some(end) = self.streams.get(at).map(|stream| &stream.legs[leg]) else { continue };
                let Some(local) = end.local.map(|local| SocketAddr::new(ip, local.port())) else { continue };
                dtls::take_its_own(media);
                let association = end.protection.association.as_ref().map_or_else(Association::default, Association::anew);
                association.write(media, Place { leg, stream: at, local }, false, &self.secret);
                said.push(association);
            }
            if !said.is_empty() {
                dtls::write_of_all(&mut sdp.attributes, said.iter());
            }
        };
        moved(sdp, ip, associations)
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
        let Some(before) = self.before.take() else { return };
        for (stream, former) in self.streams.iter_mut().zip(before.streams) {
            if stream.is_other == former.is_other {
                continue;
            }
            for (end, former) in stream.legs.iter_mut().zip(former.legs) {
                // What has come since the offer was of the former kind, from where that was.
                if end.signalled != former.signalled {
                    (end.latched, end.latched_rtcp) = (None, None);
                }
            }
        }
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
        let formats: Vec<_> = self.streams.iter().map(|stream| stream.formats.clone()).collect();
        let ours = self.answer(from, sdp, take_port)?;
        (self.told[other], self.versions[other], self.lines) = (told, version, lines);
        for (stream, former) in self.streams.iter_mut().zip(formats) {
            if let Some((formats, former)) = stream.formats.as_mut().zip(former) {
                let formats = Arc::make_mut(formats);
                formats.told[other].clone_from(&former.told[other]);
                if let (Some(agreed), Some(former)) = (&mut formats.agreed, &former.agreed) {
                    agreed[other].clone_from(&former[other]);
                }
            }
        }
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
        let bundle = dtls::bundle(&sdp.attributes);
        let session_address = sdp.connection.take();
        let one_way = |attribute: &Attribute| ["sendonly", "recvonly", "inactive"].contains(&attribute.attribute.as_str());
        let of_all = sdp.attributes.iter().any(one_way);
        let is_both_ways = |media: &Media| media.attributes.iter().any(|attribute| attribute.attribute == "sendrecv");
        let is_held = |media: &Media| media.attributes.iter().any(one_way) || (of_all && !is_both_ways(media));
        let mut wanted = sdp.medias.iter().filter(|media| media.port != 0).peekable();
        next.held[from] = wanted.peek().is_some() && wanted.all(is_held);
        let is_somewhere = |(at, media): (usize, &Media)| {
            let known = || self.streams.iter().any(|stream| stream.legs[from].has_ice());
            let ip = match has_ice(media) {
                // It was told one address of ours, of the family by which it is reached, and nothing that it says changes that.
                true => self.reached[from].filter(|ip| !known() && self.ips.toward(*ip).is_some()),
                false => address_of(media, session_address.as_ref()),
            };
            let ip = ip.filter(|ip| is_carried(media) && !ip.is_unspecified())?;
            Some(self.ips.toward(ip).ok_or(SdpError::Connection(at)))
        };
        if let Some(side) = sdp.medias.iter().enumerate().find_map(is_somewhere).transpose()? {
            next.sides[from] = side;
            next.come_along(from, self.sides[from]);
        }
        for (at, media) in sdp.medias.iter_mut().enumerate() {
            next.describe_stream((from, answers), at, media, (session_address.as_ref(), bundle.as_deref()), take_port)?;
        }
        next.leave_to_music((from, answers), &mut sdp);
        // A stream that it says nothing of it doesn't have.
        for stream in next.streams.iter_mut().skip(sdp.medias.len()) {
            stream.legs[from].signal(None, None);
            stream.decline();
        }
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
        next.write_of_all([from, other], &mut sdp);
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
        let told = self.told.get(leg)?.clone()?;
        // RFC 8445 §9: a phone with ICE is quick to believe that we are elsewhere if it begins anew.
        let is_elsewhere =
            Sdp::parse(&told).ok()?.connection.and_then(|c| c.try_address().ok()).is_some_and(|there| there.ip != ip);
        for stream in self.streams.iter_mut().filter(|_| is_elsewhere) {
            stream.legs[leg].protection.association.iter_mut().for_each(Association::restart);
        }
        let out = moved(&told, ip, |sdp| {
            sdp.origin = origin(id, version, ip);
            self.write_associations(leg, sdp);
        })?;
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
        self.told[leg] = self.told[leg].as_ref().and_then(|told| moved(told, ip, |sdp| self.write_associations(leg, sdp)));
    }

    /// What a description says of a leg's associations is as they are now.
    fn write_associations(&self, leg: usize, sdp: &mut Sdp) {
        for (at, (media, stream)) in sdp.medias.iter_mut().zip(&self.streams).enumerate() {
            let end = &stream.legs[leg];
            if let (Some(association), Some(local)) = (&end.protection.association, end.local.filter(|_| media.port != 0)) {
                // It may have been told so by `toward` only.
                dtls::take_its_own(media);
                association.write(media, Place { leg, stream: at, local }, false, &self.secret);
            }
        }
        self.write_of_all([leg; 2], sdp);
    }

    /// A leg's phone is stuck in a handshake by this certificate, of which nobody here knows the keys. Tells whether it is to be told something else
    /// ([`Session::tell_again`]).
    pub fn renew(&mut self, leg: usize, stream: usize, number: u32) -> bool {
        // Who can't be told goes on as it is.
        if self.told.get(leg).is_none_or(Option::is_none) {
            return false;
        }
        let association =
            self.streams.get_mut(stream).and_then(|stream| stream.legs.get_mut(leg)?.protection.association.as_mut());
        let stuck = association.filter(|association| association.number == number && association.keyed.is_none());
        stuck.is_some_and(Association::renew)
    }

    /// A leg's phone, or one of those that ring at its place, is offered to agree on keys in DTLS ([`Session::toward`]).
    pub fn certify(&mut self, leg: usize) {
        self.is_certified = true;
        self.streams.iter_mut().for_each(|stream| stream.legs[leg].protection.offers_both());
    }

    /// One of the phones that rang at a leg's place has it.
    pub fn is_settled(&mut self, leg: usize) {
        self.streams.iter_mut().for_each(|stream| stream.legs[leg].protection.is_settled());
    }

    /// Whether a leg's phone may have to be told once more what it was told, since a handshake can be lost.
    pub fn may_be_renewed(&self, leg: usize) -> bool {
        self.streams.iter().any(|stream| stream.legs[leg].protection.offered.is_some()) || self.awaits_keys(leg)
    }

    /// Whether a phone is to agree on keys yet.
    pub fn awaits_keys(&self, leg: usize) -> bool {
        let carried = self.streams.iter().filter(|stream| !stream.is_declined);
        carried
            .filter_map(|stream| stream.legs[leg].protection.association.as_ref())
            .any(|association| association.keyed.is_none())
    }

    fn describe_stream(
        &mut self,
        (from, answers): (usize, bool),
        at: usize,
        media: &mut Media,
        (session_address, bundle): (Option<&Connection>, Option<&str>),
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
        // Declined (RFC 3264 §6), or of a kind that this relay doesn't carry.
        if !is_carried(media) {
            media.port = 0;
            stream.decline();
            media.attributes.retain(is_end_to_end);
            stream.legs[from].signal(None, None);
            stream.legs[other].protection.write_profile(media, answers);
            return Ok(());
        }
        stream.is_declined = false;
        stream.is_other = !is_rtp(media);
        let had_ice = stream.legs[from].has_ice();
        let [policy, others] = [self.policies[from], self.policies[other]];
        if answers {
            stream.legs[from].protection.answered(media, policy, bundle)?;
        } else {
            stream.legs[from].protection.offered(media, policy, bundle)?;
            let profile = stream.legs[from].protection.profile;
            let is_dtls = |stream: &Stream| stream.legs[other].protection.association.is_some();
            let is_dtls = self.dtls[other] || self.streams.iter().any(is_dtls);
            self.streams[at].legs[other].protection.will_be_offered(media, others, profile, is_dtls);
        }
        let stream = &mut self.streams[at];
        stream.legs[from].protection.feedback = has_feedback(media);
        let has_ice = stream.legs[from].has_ice();
        media.attributes.retain(is_end_to_end);
        stream.formats = match &stream.formats {
            _ if media.media != "audio" || kind(media).is_none() => None,
            // What both say passes as they say it.
            _ if !answers && self.codecs.is_empty() => None,
            former if !answers => {
                let policy = negotiation::Policy { codecs: &self.codecs, keys: true };
                let former = former.as_deref().map_or_else(Cow::default, Cow::Borrowed);
                Some(Arc::new(former.offer(from, media, policy)))
            }
            Some(formats) => Some(Arc::new(formats.answer(from, media)?)),
            None => None,
        };
        if has_ice && !had_ice {
            // What came before was no check of its.
            stream.legs[from].latched = None;
        }
        if stream.legs.iter().any(|leg| leg.protection.association.is_some()) {
            dtls::take_its_own(media);
            self.is_certified = true;
        }
        match ip.ok_or(SdpError::Connection(at)) {
            // Where the phone is its checks tell. What it says here is where it would be without ICE, and often nothing (RFC 8839 §4.2.1.1).
            _ if has_ice => stream.legs[from].signal(None, None),
            Err(nowhere) => return Err(nowhere),
            Ok(ip) if ip.is_unspecified() => {
                // RFC 3264 §8.4: the old way to hold. The other side must see it.
                stream.legs[from].signal(None, None);
                self.held[from] = true;
                if stream.legs[other].has_ice() {
                    // Who is found by ICE sees it otherwise.
                    let direction = ["sendonly", "inactive"];
                    media.attributes.retain(|attribute| attribute.attribute != "sendrecv");
                    if !media.attributes.iter().any(|attribute| direction.contains(&attribute.attribute.as_str())) {
                        media.attributes.push(Attribute { attribute: direction[0].into(), value: None });
                    }
                } else {
                    media.connections = vec![unspecified(self.sides[other])];
                }
            }
            Ok(ip) if ip.is_ipv4() != self.sides[from].is_ipv4() => return Err(SdpError::Connection(at)),
            Ok(ip) => {
                let rtp = SocketAddr::new(ip, media.port);
                let rtcp = rtcp.as_deref().and_then(|value| rtcp_address(value, ip));
                let above = media.port.checked_add(1).map(|port| SocketAddr::new(ip, port));
                stream.legs[from].signal(Some(rtp), rtcp.or(above));
            }
        }
        for (leg, ip) in stream.legs.iter_mut().zip(self.sides) {
            if leg.local.is_none() {
                leg.local = Some(SocketAddr::new(ip, take_port(ip).ok_or(SdpError::NoPorts)?));
            }
        }
        if let Some(local) = stream.legs[other].local {
            let place = Place { leg: other, stream: at, local };
            stream.legs[other].protection.write(media, place, answers, &self.secret, &mut self.keys_made);
            media.port = local.port();
        }
        Ok(())
    }

    /// What is said of all streams, where one of the two has keys that are agreed in DTLS.
    fn write_of_all(&self, [from, to]: [usize; 2], sdp: &mut Sdp) {
        let associations = |leg: usize| {
            let carried = self.streams.iter().zip(&sdp.medias).filter(|(_, media)| media.port != 0);
            carried.filter_map(move |(stream, _)| stream.legs[leg].protection.association.as_ref())
        };
        if associations(from).chain(associations(to)).next().is_some() {
            let mut attributes = std::mem::take(&mut sdp.attributes);
            dtls::write_of_all(&mut attributes, associations(to));
            sdp.attributes = attributes;
        }
    }

    /// How a key of a leg's phone goes to the other's as an event, in the first stream of sound that they have. None if that one knows no events.
    pub fn press(&self, leg: usize) -> Option<(usize, Rules)> {
        let mut streams = self.streams.iter().enumerate().filter(|(_, stream)| !stream.is_declined);
        streams.find_map(|(at, stream)| Some((at, stream.formats.as_ref()?.press(leg)?)))
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

    /// A handshake of a leg's phone has ended, by our certificate of this number and that one of its own. Tells whether that is news.
    pub fn has_keys(&mut self, leg: usize, stream: usize, (number, certificate): (u32, &[u8]), keyed: &Keyed) -> bool {
        let before = self.before.as_mut().map(|before| &mut before.streams);
        let mut is_news = false;
        for streams in [Some(&mut self.streams), before].into_iter().flatten() {
            let end = streams.get_mut(stream).and_then(|stream| stream.legs.get_mut(leg));
            is_news |= end.is_some_and(|end| end.protection.has_keys(number, certificate, keyed));
        }
        is_news
    }

    /// Whether no packet is nothing to wonder at: a side is on hold, or no stream is carried at all.
    pub fn is_silent_on_purpose(&self) -> bool {
        let is_there = |leg: &StreamLeg| leg.signalled.is_some() || leg.has_ice();
        let carried = |stream: &Stream| !stream.is_declined && stream.legs.iter().all(is_there);
        let still = self.before.as_ref().filter(|before| before.instead);
        let (streams, held) = still.map_or((&self.streams, self.held), |before| (&before.streams, before.held));
        held.contains(&true) || !streams.iter().any(carried)
    }

    /// What the relay must do for a leg, stream by stream.
    pub fn plan(&self, leg: usize) -> Vec<Option<LegPlan>> {
        let still = self.before.as_ref().filter(|before| before.instead && before.by == leg);
        let streams = still.map_or(&self.streams, |before| &before.streams);
        let recorded = self.recorded();
        let plan = |(at, stream): (usize, &Stream)| {
            let end = &stream.legs[leg];
            // By the keys that are agreed, until others are.
            let former = self.before.as_ref().and_then(|before| before.streams.get(at));
            let agreed = former.map(|stream| &stream.legs[leg]);
            let protection = &agreed.filter(|agreed| agreed.local.is_some()).unwrap_or(end).protection;
            Some(LegPlan {
                local: end.local?,
                remote: [end.latched.or(end.signalled), end.latched_rtcp.or(end.signalled_rtcp)],
                signalled: [end.signalled, end.signalled_rtcp],
                shield: protection.shield(&self.secret),
                is_other: former.filter(|former| !former.is_declined).unwrap_or(stream).is_other,
                recorded: recorded == Some(at),
                // An offer that takes it away doesn't count yet either.
                dtls: [Some(stream), former]
                    .into_iter()
                    .flatten()
                    .filter(|stream| !stream.is_declined)
                    .find_map(|stream| stream.legs[leg].dtls(leg, at, &self.secret))
                    .map(Box::new),
                // As it is agreed, until something else is.
                rules: Some(former.unwrap_or(stream))
                    .filter(|stream| !stream.is_declined)
                    .and_then(|stream| stream.formats.as_ref())
                    .map_or_else(Rules::default, |formats| formats.rules(leg)),
                hearing: self.hearing(leg, at, former.unwrap_or(stream)),
                music: former.unwrap_or(stream).music(leg),
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

impl Stream {
    fn decline(&mut self) {
        self.is_declined = true;
        self.legs.iter_mut().for_each(|leg| leg.protection.is_declined());
    }
}

impl StreamLeg {
    /// What its ends need to know of an association.
    fn dtls(&self, leg: usize, at: usize, secret: &Secret) -> Option<Dtls> {
        let provisional = || self.protection.offered.map(|_| Association::provisional());
        Some(self.protection.association.clone().or_else(provisional)?.plan(leg, at, secret))
    }

    /// Whether its phone is found by ICE.
    fn has_ice(&self) -> bool {
        self.protection.association.as_ref().is_some_and(|association| association.ice.is_some())
    }

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

#[cfg(test)]
mod tests;

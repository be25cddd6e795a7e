//! The media of one call: offers and answers pass through here and come out with our addresses in them
//! (RFC 3264, RFC 4566). Layer: pure.
//!
//! Each stream (`m=` line) has two ends, the caller's and the callee's. What an end's SDP says is where we
//! send to it, until its packets come from somewhere else (symmetric RTP, RFC 4961): then we answer there.
//!
//! Invariant: an end's local port is given once and stays for the life of the call.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use sdp_types::{Attribute, Connection, Media, Origin, Session as Sdp};

/// More `m=` lines than this are refused.
pub const MAX_STREAMS: usize = 8;
/// A body longer than this is refused unread.
pub const MAX_SDP: usize = 16 << 10;

/// Why a session description was refused: 488 to whoever sent it (RFC 3261 §21.4.26).
#[derive(Debug, thiserror::Error)]
pub enum SdpError {
    /// Longer than [`MAX_SDP`].
    #[error("{0} bytes of SDP")]
    TooLong(usize),
    /// It doesn't follow the grammar.
    #[error("malformed SDP")]
    Malformed(#[from] sdp_types::ParserError),
    /// No `c=` line for a stream, or one whose address is no IP address of our family.
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
}

/// The media of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Our address.
    pub ip: IpAddr,
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
}

/// What the relay must do for one end of one stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LegPlan {
    /// Our RTP address; RTCP is on the port above.
    pub local: SocketAddr,
    /// Where to send RTP and RTCP.
    pub remote: [Option<SocketAddr>; 2],
    /// Whether that was learned from packets, for RTP and RTCP.
    pub latched: [bool; 2],
}

impl Session {
    /// No streams yet.
    pub fn new(ip: IpAddr, id: u64) -> Self {
        // RFC 4566 §5.2 has no bound, but phones keep it in 64 signed bits.
        Self { ip, id: id >> 1, streams: Vec::new(), versions: [0; 2], held: [false; 2], keeps: false, told: [None, None] }
    }

    /// Takes an offer or answer of leg `from` (0 or 1) and gives the one for the other leg. `take_port` gives
    /// an even port of ours that is free, or `None`. After an error nothing has changed.
    pub fn describe(&mut self, from: usize, sdp: &[u8], take_port: &mut dyn FnMut() -> Option<u16>) -> Result<Vec<u8>, SdpError> {
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
        let session_address = sdp.connection.take();
        let one_way = |attribute: &Attribute| ["sendonly", "recvonly", "inactive"].contains(&attribute.attribute.as_str());
        let mut everything = sdp.attributes.iter().chain(sdp.medias.iter().flat_map(|media| &media.attributes));
        next.held[from] = everything.any(one_way);
        for (at, media) in sdp.medias.iter_mut().enumerate() {
            next.describe_stream(from, at, media, session_address.as_ref(), take_port)?;
        }
        let other = 1 - from;
        next.versions[other] += 1;
        let version = next.versions[other];
        sdp.origin = origin(next.id, version, self.ip);
        sdp.connection = Some(Connection::from_ip_addr(self.ip));
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
        let mut sdp = Sdp::parse(self.told.get(leg)?.as_ref()?).ok()?;
        self.versions[leg] += 1;
        sdp.origin = origin(self.id, self.versions[leg], self.ip);
        sdp.connection = Some(Connection::from_ip_addr(self.ip));
        let mut out = Vec::with_capacity(512);
        // Writing to memory fails only when memory does.
        let _ = sdp.write(&mut out);
        let out = Bytes::from(out);
        self.told[leg] = Some(out.clone());
        Some(out)
    }

    fn describe_stream(
        &mut self,
        from: usize,
        at: usize,
        media: &mut Media,
        session_address: Option<&Connection>,
        take_port: &mut dyn FnMut() -> Option<u16>,
    ) -> Result<(), SdpError> {
        let other = 1 - from;
        if self.streams.len() <= at {
            self.streams.push(Stream::default());
        }
        let stream = &mut self.streams[at];
        media.num_ports = None;
        let connection = std::mem::take(&mut media.connections).into_iter().next();
        let rtcp = media.attributes.iter().find(|attribute| attribute.attribute == "rtcp").and_then(|a| a.value.clone());
        media.attributes.retain(is_end_to_end);
        // Declined (RFC 3264 §6), or of a kind that this relay doesn't carry.
        if media.port == 0 || !is_datagrams(&media.proto) {
            media.port = 0;
            stream.legs[from].signal(None, None);
            return Ok(());
        }
        let address = connection.as_ref().or(session_address);
        let ip = address.and_then(|connection| connection.try_address().ok()).map(|address| address.ip);
        let ip = ip.filter(|ip| ip.is_ipv4() == self.ip.is_ipv4()).ok_or(SdpError::Connection(at))?;
        if ip.is_unspecified() {
            // RFC 3264 §8.4: the old way to hold. The other side must see it.
            stream.legs[from].signal(None, None);
            self.held[from] = true;
            media.connections = connection.into_iter().chain(session_address.cloned()).take(1).collect();
        } else {
            let rtp = SocketAddr::new(ip, media.port);
            let rtcp = rtcp.as_deref().and_then(|value| rtcp_address(value, ip));
            let above = media.port.checked_add(1).map(|port| SocketAddr::new(ip, port));
            stream.legs[from].signal(Some(rtp), rtcp.or(above));
        }
        for leg in &mut stream.legs {
            if leg.local.is_none() {
                leg.local = Some(SocketAddr::new(self.ip, take_port().ok_or(SdpError::NoPorts)?));
            }
        }
        media.port = stream.legs[other].local.map_or(0, |local| local.port());
        Ok(())
    }

    /// A leg's packets come from somewhere. Tells whether that is new to us, and not what its SDP said anyway.
    pub fn latch(&mut self, leg: usize, stream: usize, rtcp: bool, source: SocketAddr) -> bool {
        let Some(end) = self.streams.get_mut(stream).and_then(|stream| stream.legs.get_mut(leg)) else { return false };
        let (latched, signalled) = match rtcp {
            false => (&mut end.latched, end.signalled),
            true => (&mut end.latched_rtcp, end.signalled_rtcp),
        };
        let now = Some(source).filter(|_| signalled != Some(source));
        let changed = *latched != now;
        *latched = now;
        changed
    }

    /// Whether no packet is nothing to wonder at: a side is on hold, or no stream is carried at all.
    pub fn is_silent_on_purpose(&self) -> bool {
        let carried = |stream: &Stream| stream.legs.iter().all(|leg| leg.signalled.is_some());
        self.held.contains(&true) || !self.streams.iter().any(carried)
    }

    /// What the relay must do for a leg, stream by stream.
    pub fn plan(&self, leg: usize) -> Vec<Option<LegPlan>> {
        let plan = |stream: &Stream| {
            let end = &stream.legs[leg];
            Some(LegPlan {
                local: end.local?,
                remote: [end.latched.or(end.signalled), end.latched_rtcp.or(end.signalled_rtcp)],
                latched: [end.latched.is_some(), end.latched_rtcp.is_some()],
            })
        };
        self.streams.iter().map(plan).collect()
    }

    /// Every RTP port of ours.
    pub fn ports(&self) -> impl Iterator<Item = u16> {
        self.streams.iter().flat_map(|stream| &stream.legs).filter_map(|leg| leg.local).map(|local| local.port())
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

fn is_datagrams(proto: &str) -> bool {
    let first = proto.split('/').next().unwrap_or("");
    first.eq_ignore_ascii_case("RTP") || first.eq_ignore_ascii_case("UDP") || first.eq_ignore_ascii_case("udptl")
}

/// RFC 3605: `port`, or `port IN IP4 address`.
fn rtcp_address(value: &str, ip: IpAddr) -> Option<SocketAddr> {
    let mut parts = value.split_ascii_whitespace();
    let port = parts.next()?.parse().ok().filter(|port| *port > 0)?;
    let ip = parts.nth(2).map_or(Some(ip), |address| address.parse().ok())?;
    Some(SocketAddr::new(ip, port))
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
        Session::new("127.0.0.11".parse().unwrap(), 42)
    }

    fn describe(session: &mut Session, from: usize, sdp: &str) -> Result<String, SdpError> {
        let mut next = u16::try_from(session.ports().count()).unwrap() * 2 + 10_000;
        let mut take = || {
            next += 2;
            Some(next - 2)
        };
        session.describe(from, sdp.as_bytes(), &mut take).map(|sdp| String::from_utf8(sdp).unwrap())
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
        let [caller, callee] = [0, 1].map(|leg| session.plan(leg)[0].unwrap());
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
        assert_eq!(session.plan(0)[0].unwrap().remote[0], Some(seen));
        describe(&mut session, 0, &OFFER.replace("4000", "4002")).unwrap();
        assert_eq!(session.plan(0)[0].unwrap().remote[0], "10.0.0.1:4002".parse().ok());
    }

    #[test]
    fn what_was_said_is_said_again_from_another_address() {
        let mut session = Session { keeps: true, ..session() };
        let offer = describe(&mut session, 0, OFFER).unwrap();
        session.ip = "127.0.0.12".parse().unwrap();
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
        assert_eq!(session.plan(0)[0].unwrap().remote[0], None);
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
        assert!(session.describe(0, OFFER.as_bytes(), &mut || None).is_err());
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

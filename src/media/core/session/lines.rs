//! The lines of a description, read and written (RFC 4566). Layer: pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::Bytes;
use sdp_types::{Attribute, Connection, Media, Origin, Session as Sdp};

use crate::media::core::protection::{Kind, kind};

/// A stream that a phone doesn't have and another knows: of the kind that this one was told (RFC 3264 §6).
pub(super) fn declined(known: Option<&Media>) -> Media {
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
pub(super) fn is_end_to_end(attribute: &Attribute) -> bool {
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
pub(super) fn is_carried(media: &Media) -> bool {
    let first = media.proto.split('/').next().unwrap_or("");
    media.port != 0 && ["RTP", "UDP", "udptl"].iter().any(|known| first.eq_ignore_ascii_case(known))
}

/// Whether a stream that is carried is RTP, protected or not.
pub(super) fn is_rtp(media: &Media) -> bool {
    media.proto.split('/').any(|part| part.eq_ignore_ascii_case("RTP"))
}

/// Whether a stream's phone is found by ICE.
pub(super) fn has_ice(media: &Media) -> bool {
    kind(media) == Some(Kind::Dtls) && media.attributes.iter().any(|attribute| attribute.attribute == "ice-ufrag")
}

/// Where a stream's end is: what it says itself counts, and then what is said of all.
pub(super) fn address_of(media: &Media, of_all: Option<&Connection>) -> Option<IpAddr> {
    Some(media.connections.first().or(of_all)?.try_address().ok()?.ip)
}

/// The `c=` line that means nowhere, in a family of addresses.
pub(super) fn unspecified(like: IpAddr) -> Connection {
    Connection::from_ip_addr(if like.is_ipv4() { IpAddr::from(Ipv4Addr::UNSPECIFIED) } else { Ipv6Addr::UNSPECIFIED.into() })
}

/// RFC 3605: `port`, or `port IN IP4 address`.
pub(super) fn rtcp_address(value: &str, ip: IpAddr) -> Option<SocketAddr> {
    let mut parts = value.split_ascii_whitespace();
    let port = parts.next()?.parse().ok().filter(|port| *port > 0)?;
    let ip = parts.nth(2).map_or(Some(ip), |address| address.parse().ok())?;
    Some(SocketAddr::new(ip, port))
}

/// A description with our address in it, and changed further so.
pub(super) fn moved(sdp: &[u8], ip: IpAddr, change: impl FnOnce(&mut Sdp)) -> Option<Bytes> {
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
pub(super) fn origin(id: u64, version: u64, ip: IpAddr) -> Origin {
    Origin { username: Some("tandem".into()), ..Origin::with_ip_addr(id, version, ip) }
}

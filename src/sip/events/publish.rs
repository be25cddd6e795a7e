//! What somebody says of a user, for those who watch it (RFC 3903). Layer: pure.

use std::time::Duration;

use bytes::Bytes;

use super::{ALLOW_EVENTS, Lifetimes, MAX_PUBLICATIONS, Package, Watched, event_of};
use crate::clock::Timestamp;
use crate::sip::endpoint::stateless;
use crate::sip::headers::HeaderError;
use crate::sip::message::{Request, Response};
use crate::sip::{Name, StatusCode, Text};

/// One publication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// Its name (RFC 3903 §5).
    pub tag: Text,
    /// Of what.
    pub package: Package,
    /// Until when.
    pub expires: Timestamp,
    /// What is said: of the package's own type.
    pub body: Bytes,
    /// The Call-ID of the PUBLISH that has last changed it.
    pub call_id: Text,
    /// That one's CSeq: the same once more changes nothing.
    pub cseq: u32,
}

/// Why a PUBLISH is not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum PublishError {
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// Nobody publishes that.
    #[error("nothing of that kind is published")]
    Event,
    /// RFC 3903 §6 step 2.
    #[error("there is no publication of that name")]
    NoSuch,
    #[error("the interval is too brief")]
    TooBrief(u64),
    #[error("the body is of another type")]
    MediaType(Package),
    /// What begins has to say something.
    #[error("there is no body")]
    Empty,
    #[error("too much is published already")]
    TooMany,
}

impl PublishError {
    pub(super) fn response(&self, request: &Request) -> Response {
        let refused = |status| stateless(request, status);
        match self {
            Self::Header(_) | Self::Empty => refused(StatusCode::BAD_REQUEST),
            Self::Event => refused(StatusCode::BAD_EVENT).with(Name::AllowEvents, ALLOW_EVENTS),
            Self::NoSuch => refused(StatusCode::CONDITIONAL_REQUEST_FAILED),
            Self::TooBrief(least) => refused(StatusCode::INTERVAL_TOO_BRIEF).with(Name::MinExpires, least.to_string()),
            Self::MediaType(package) => refused(StatusCode::UNSUPPORTED_MEDIA_TYPE).with(Name::Accept, package.content_type()),
            Self::TooMany => refused(StatusCode::FORBIDDEN),
        }
    }
}

/// Carries a PUBLISH out. Gives its answer, and of what there is something else to say now; nothing when it changes nothing.
pub(super) fn publish(
    watched: &mut Watched,
    request: &Request,
    lifetimes: Lifetimes,
    tag: u64,
    now: Timestamp,
) -> Result<(Response, Option<Package>), PublishError> {
    let headers = &request.headers;
    let (call_id, cseq) = (headers.call_id()?, headers.cseq()?.number);
    let (package, _) = event_of(headers).filter(|(package, _)| package.is_published()).ok_or(PublishError::Event)?;
    let asked = headers.number(&Name::Expires, "Expires")?;
    let lifetime = lifetimes.grant(asked).map_err(|least| PublishError::TooBrief(least.as_secs()))?;
    let all = &mut watched.publications;
    if let Some(known) = all.iter().find(|known| known.call_id == call_id && known.cseq == cseq) {
        // The same PUBLISH again, its 200 lost.
        return Ok((accepted(request, &known.tag, known.expires.since(now)), None));
    }
    let named = headers.text(&Name::SipIfMatch);
    let known = named.map(|named| {
        let of_it = |known: &Publication| known.tag == *named.trim() && known.package == package && known.expires > now;
        all.iter().position(of_it).ok_or(PublishError::NoSuch)
    });
    let known = known.transpose()?;
    if request.body.is_empty() && known.is_none() {
        return Err(PublishError::Empty);
    }
    if !request.body.is_empty() && headers.content_type().as_deref() != Some(package.content_type()) {
        return Err(PublishError::MediaType(package));
    }
    let place = known.filter(|_| request.body.is_empty());
    let former = known.map(|at| all.remove(at));
    let changed = former.is_none() || !request.body.is_empty() || lifetime.is_zero();
    let tag =
        former.as_ref().map(|former| former.tag.clone()).filter(|_| !changed).unwrap_or_else(|| format!("{tag:016x}").into());
    let answer = accepted(request, &tag, lifetime);
    if !lifetime.is_zero() {
        if all.len() >= MAX_PUBLICATIONS {
            return Err(PublishError::TooMany);
        }
        let body =
            if request.body.is_empty() { former.map(|former| former.body).unwrap_or_default() } else { request.body.clone() };
        // What is only refreshed is no newer than it was.
        let place = place.unwrap_or(all.len());
        all.insert(place, Publication { tag, package, expires: now + lifetime, body, call_id, cseq });
    }
    Ok((answer, changed.then_some(package)))
}

fn accepted(request: &Request, tag: &str, left: Duration) -> Response {
    let seconds = left.as_millis().div_ceil(1000);
    stateless(request, StatusCode::OK).with(Name::SipEtag, tag).with(Name::Expires, seconds.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::message::Message;
    use crate::sip::parse;

    const LIFETIMES: Lifetimes = Lifetimes { min: Duration::from_secs(60), max: Duration::from_secs(3600) };
    const NOW: Timestamp = Timestamp(1_000);

    fn request(cseq: u32, extra: &str, body: &str) -> Request {
        let length = body.len();
        let text = format!(
            "PUBLISH sip:a@x SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK{cseq}\r\nFrom: <sip:a@x>;tag=1\r\nTo: <sip:a@x>\r\n\
             Call-ID: c\r\nCSeq: {cseq} PUBLISH\r\n{extra}Content-Length: {length}\r\n\r\n{body}"
        );
        let Ok(Message::Request(request)) = parse::datagram(&text.into()) else { unreachable!() };
        request
    }

    const PIDF: &str = "Event: presence\r\nContent-Type: application/pidf+xml\r\n";

    fn done(watched: &mut Watched, request: &Request, now: Timestamp) -> (u16, String, bool) {
        match publish(watched, request, LIFETIMES, u64::from(request.headers.cseq().unwrap().number), now) {
            Ok((response, changed)) => {
                let tag = response.headers.text(&Name::SipEtag).unwrap().to_string();
                (response.status.code(), tag, changed.is_some())
            }
            Err(error) => (error.response(request).status.code(), String::new(), false),
        }
    }

    #[test]
    fn a_publication_begins_is_refreshed_changed_and_ended_by_its_name() {
        let mut watched = Watched::default();
        let (code, tag, changed) = done(&mut watched, &request(1, PIDF, "<a/>"), NOW);
        assert_eq!((code, changed), (200, true));
        // Its 200 was lost.
        assert_eq!(done(&mut watched, &request(1, PIDF, "<a/>"), NOW), (200, tag.clone(), false));
        let matching = |tag: &str, more: &str| format!("Event: presence\r\nSIP-If-Match: {tag}\r\n{more}");
        let later = NOW + Duration::from_secs(30);
        assert_eq!(done(&mut watched, &request(2, &matching(&tag, ""), ""), later), (200, tag.clone(), false));
        assert_eq!(watched.publications[0].expires, later + LIFETIMES.max);
        let typed = matching(&tag, "Content-Type: application/pidf+xml\r\n");
        let (code, changed_tag, changed) = done(&mut watched, &request(3, &typed, "<b/>"), later);
        assert!(code == 200 && changed && changed_tag != tag);
        assert_eq!(&watched.publications[0].body[..], b"<b/>");
        assert_eq!(done(&mut watched, &request(4, &matching(&tag, ""), ""), later).0, 412, "that name is no more");
        let end = matching(&changed_tag, "Expires: 0\r\n");
        assert_eq!(done(&mut watched, &request(5, &end, ""), later).0, 200);
        assert!(watched.is_empty());
    }

    #[test]
    fn what_cannot_be_published_is_refused_and_changes_nothing() {
        let mut watched = Watched::default();
        for (extra, body, code) in [
            ("Event: dialog\r\nContent-Type: application/dialog-info+xml\r\n", "<a/>", 489),
            ("", "<a/>", 489),
            ("Event: presence\r\n", "", 400),
            ("Event: presence\r\nContent-Type: text/plain\r\n", "x", 415),
            ("Event: presence\r\nExpires: 59\r\nContent-Type: application/pidf+xml\r\n", "<a/>", 423),
            ("Event: presence\r\nExpires: soon\r\nContent-Type: application/pidf+xml\r\n", "<a/>", 400),
            ("Event: presence\r\nSIP-If-Match: none\r\n", "", 412),
        ] {
            assert_eq!(done(&mut watched, &request(1, extra, body), NOW).0, code, "{extra}");
            assert!(watched.is_empty());
        }
        for n in 0..20 {
            let expected = if n < 16 { 200 } else { 403 };
            assert_eq!(done(&mut watched, &request(100 + n, PIDF, "<a/>"), NOW).0, expected);
        }
    }
}

//! What a packet is and where it belongs, before anybody has state for it. Layer: pure.
//!
//! Everything that can be answered without state is answered here, the same way each time it comes
//! (RFC 3261 §8.2.7); the rest goes to the leg that its token names, or begins something new.

use std::net::SocketAddr;

use bytes::Bytes;

use super::b2bua::ALLOW;
use super::events::ALLOW_EVENTS;
use super::headers::{HeaderError, Via, tag_of};
use super::leg::TxKey;
use super::message::{Message, Request, Response};
use super::parse::{self, Defect, ParseError};
use super::token::Token;
use super::uri::{Scheme, Uri, UriError};
use super::{Method, Name, StatusCode, Text};

/// Where an arrival belongs.
#[derive(Debug)]
pub enum Arrival {
    /// To this leg.
    Leg(Token, Message),
    /// An INVITE that begins a call, or repeats one.
    Invite(Request),
    /// The CANCEL of such an INVITE.
    Cancel(Request),
    /// A REGISTER.
    Register(Request),
    /// A MESSAGE that is part of no call.
    Message(Request),
    /// A SUBSCRIBE that begins something, or a PUBLISH.
    Event(Request),
    /// An OPTIONS outside of a dialog: are you there, and what can you do? Answer [`capabilities`], if that is true.
    Options(Request),
    /// Answered already.
    Answer(Response, Why),
    /// Not to be answered.
    Drop(Why),
}

/// Why something was answered here or dropped, for the counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Why {
    Keepalive,
    Garbage,
    Malformed,
    UnsupportedVersion,
    UnsupportedScheme,
    UnsupportedMethod,
    UnsupportedExtension,
    NotAcceptable,
    TooManyHops,
    NoSuchDialog,
    StrayAck,
    StrayResponse,
    Options,
}

impl Why {
    /// The label of the counter.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Keepalive => "keepalive",
            Self::Garbage => "garbage",
            Self::Malformed => "malformed",
            Self::UnsupportedVersion => "unsupported_version",
            Self::UnsupportedScheme => "unsupported_scheme",
            Self::UnsupportedMethod => "unsupported_method",
            Self::UnsupportedExtension => "unsupported_extension",
            Self::NotAcceptable => "not_acceptable",
            Self::TooManyHops => "too_many_hops",
            Self::NoSuchDialog => "no_such_dialog",
            Self::StrayAck => "stray_ack",
            Self::StrayResponse => "stray_response",
            Self::Options => "options",
        }
    }
}

/// Reads a datagram and says where it belongs.
pub fn datagram(bytes: &Bytes, source: SocketAddr) -> Arrival {
    match parse::datagram(bytes) {
        Ok(Message::Request(request)) => {
            if !parse::speaks_our_version(bytes.trim_ascii_start()) {
                return answer(&stamp(request, source), StatusCode::VERSION_NOT_SUPPORTED, Why::UnsupportedVersion);
            }
            request_arrived(stamp(request, source))
        }
        Ok(Message::Response(response)) => response_arrived(response),
        Err(ParseError { defect: Defect::Keepalive, .. }) => Arrival::Drop(Why::Keepalive),
        Err(ParseError { request: None, .. }) => Arrival::Drop(Why::Garbage),
        Err(ParseError { request: Some(request), .. }) => malformed(stamp(*request, source)),
    }
}

/// RFC 3261 §18.2.1: the topmost Via gets the packet's source.
fn stamp(mut request: Request, source: SocketAddr) -> Request {
    if let Some(value) = request.headers.text(&Name::Via) {
        // Only the first of several in one line is the sender's own.
        let own = super::message::split_list(&value).next().unwrap_or("");
        let rest = value.trim_start().strip_prefix(own).unwrap_or("");
        let stamped = format!("{}{rest}", Via::stamped(own, source));
        request.headers.replace_first(&Name::Via, stamped);
    }
    request
}

/// What the branches of requests begin with that keep a way open, and whose answers say nothing else.
pub const KEEPALIVE: &str = "z9hG4bKkeep";

fn response_arrived(response: Response) -> Arrival {
    let via = response.headers.top_via();
    let branch = via.as_ref().ok().and_then(Via::branch).unwrap_or("");
    match Token::from_branch(branch) {
        Some(token) if response.headers.cseq().is_ok() => Arrival::Leg(token, Message::Response(response)),
        _ if branch.starts_with(KEEPALIVE) => Arrival::Drop(Why::Keepalive),
        _ => Arrival::Drop(Why::StrayResponse),
    }
}

fn request_arrived(request: Request) -> Arrival {
    let Ok(to_tag) = mandatory(&request) else { return malformed(request) };
    let is_ack = request.method == Method::Ack;
    if request.uri.contains([' ', '\t']) {
        return malformed(request);
    }
    if request.headers.max_forwards() == Ok(0) && !is_ack && request.method != Method::Options {
        return answer(&request, StatusCode::TOO_MANY_HOPS, Why::TooManyHops);
    }
    if !is_ack
        && request.method != Method::Cancel
        && let Some(refusal) = unsupported_extension(&request)
    {
        return Arrival::Answer(refusal, Why::UnsupportedExtension);
    }
    if let Some(tag) = to_tag {
        return match tag.parse::<Token>() {
            Ok(token) => Arrival::Leg(token, Message::Request(request)),
            Err(_) if is_ack => Arrival::Drop(Why::StrayAck),
            Err(_) => answer(&request, StatusCode::CALL_DOES_NOT_EXIST, Why::NoSuchDialog),
        };
    }
    match request.method {
        Method::Invite
        | Method::Register
        | Method::Cancel
        | Method::Options
        | Method::Message
        | Method::Subscribe
        | Method::Publish => first_of_its_kind(request),
        Method::Ack => Arrival::Drop(Why::StrayAck),
        // RFC 3261 §8.2.1: known but not here is 405, never heard of is 501.
        Method::Other(_) => refused_method(&request, StatusCode::NOT_IMPLEMENTED),
        Method::Bye | Method::Prack | Method::Update | Method::Info | Method::Notify => {
            answer(&request, StatusCode::CALL_DOES_NOT_EXIST, Why::NoSuchDialog)
        }
        // It is allowed, to those who talk: nobody is sent away or called by who doesn't.
        Method::Refer => answer(&request, StatusCode::FORBIDDEN, Why::NoSuchDialog),
    }
}

/// What is understood outside of dialogs besides.
const ALSO: &str = "REGISTER, SUBSCRIBE, PUBLISH";

/// Says what would not have been refused (RFC 3261 §8.2.1).
fn refused_method(request: &Request, status: StatusCode) -> Arrival {
    let response = stateless(request, status).with(Name::Allow, format!("{ALLOW}, {ALSO}"));
    Arrival::Answer(response, Why::UnsupportedMethod)
}

/// The 200 to an OPTIONS (RFC 3261 §11.2).
pub fn capabilities(request: &Request) -> Response {
    let response = request.response(StatusCode::OK, Some(&stateless_tag(request)));
    let response = response.with(Name::Allow, format!("{ALLOW}, {ALSO}")).with(Name::Accept, "application/sdp");
    response.with(Name::AllowEvents, ALLOW_EVENTS).with(Name::Supported, "100rel, replaces, timer")
}

#[allow(clippy::wildcard_enum_match_arm, reason = "every other method is treated alike")]
fn first_of_its_kind(request: Request) -> Arrival {
    match Uri::parse(&request.uri) {
        Ok(Uri { scheme: Scheme::Sip | Scheme::Sips | Scheme::Tel, .. }) => {}
        Ok(_) => return answer(&request, StatusCode::UNSUPPORTED_URI_SCHEME, Why::UnsupportedScheme),
        Err(UriError::Scheme | UriError::Host | UriError::Port | UriError::Character) => return malformed(request),
    }
    match request.method {
        // RFC 3261 §13.2.1: without Accept it is SDP.
        Method::Invite if !accepts_sdp(&request) => answer(&request, StatusCode::NOT_ACCEPTABLE, Why::NotAcceptable),
        Method::Invite => Arrival::Invite(request),
        Method::Cancel => Arrival::Cancel(request),
        Method::Options => Arrival::Options(request),
        Method::Message => Arrival::Message(request),
        Method::Subscribe | Method::Publish => Arrival::Event(request),
        // RFC 3261 §10.3: an address-of-record is a SIP or SIPS URI.
        _ if request.headers.to().is_ok_and(|to| matches!(to.uri.scheme, Scheme::Sip | Scheme::Sips)) => {
            Arrival::Register(request)
        }
        _ => malformed(request),
    }
}

/// Whether the answer to an offer may be SDP (RFC 3261 §20.1).
fn accepts_sdp(request: &Request) -> bool {
    let is_sdp = |range: Text| {
        let kind = range.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
        ["application/sdp", "application/*", "*/*"].contains(&&*kind)
    };
    request.headers.get(&Name::Accept).is_none() || request.headers.list(&Name::Accept).any(is_sdp)
}

/// Checks what every request must have (RFC 3261 §8.1.1); gives the tag of To.
fn mandatory(request: &Request) -> Result<Option<String>, HeaderError> {
    let headers = &request.headers;
    headers.top_via()?;
    let from = headers.from()?;
    let to = headers.to()?;
    headers.call_id()?;
    headers.max_forwards()?;
    if headers.cseq()?.method != request.method {
        return Err(HeaderError::Malformed("CSeq"));
    }
    // A tag is what RFC 3261 asks of From; without one there can be no dialog.
    if from.tag().is_none() && request.method == Method::Invite {
        return Err(HeaderError::Missing("From tag"));
    }
    Ok(to.tag().map(str::to_owned))
}

/// Whether an extension is understood in such a request.
fn understands(method: &Method, tag: &str) -> bool {
    let own: &[&str] = if *method == Method::Register { &["path", "outbound", "gruu"] } else { &["timer", "replaces", "100rel"] };
    own.iter().any(|own| own.eq_ignore_ascii_case(tag))
}

/// RFC 3261 §8.2.2.3: extensions that must be understood and aren't are named in the 420.
fn unsupported_extension(request: &Request) -> Option<Response> {
    let wanted: Vec<String> = [Name::Require, Name::ProxyRequire]
        .iter()
        .flat_map(|name| request.headers.list(name).map(|tag| tag.to_string()).collect::<Vec<_>>())
        .filter(|tag| !understands(&request.method, tag))
        .collect();
    if wanted.is_empty() {
        return None;
    }
    let response = request.response(StatusCode::BAD_EXTENSION, Some(&stateless_tag(request)));
    Some(response.with(Name::Unsupported, wanted.join(", ")))
}

fn malformed(request: Request) -> Arrival {
    // One whose Via can't be read is answered where it came from.
    let answerable = request.headers.get(&Name::Via).is_some() && request.method != Method::Ack;
    if answerable { answer(&request, StatusCode::BAD_REQUEST, Why::Malformed) } else { Arrival::Drop(Why::Malformed) }
}

fn answer(request: &Request, status: StatusCode, why: Why) -> Arrival {
    if request.method == Method::Ack {
        return Arrival::Drop(why);
    }
    Arrival::Answer(stateless(request, status), why)
}

/// A response that is the same each time its request comes (RFC 3261 §8.2.7).
pub fn stateless(request: &Request, status: StatusCode) -> Response {
    request.response(status, Some(&stateless_tag(request)))
}

fn stateless_tag(request: &Request) -> String {
    let hash = TxKey::of(request)
        .0
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    format!("s{hash:016x}")
}

/// What tells a caller's INVITE and its CANCEL apart from all others: they have no token yet. The second part alone is the same when an
/// INVITE came by several ways (RFC 3261 §8.2.2.2).
pub fn invite_key(request: &Request) -> (TxKey, String) {
    let from = request.headers.text(&Name::From).unwrap_or_default();
    let tag = tag_of(&from).unwrap_or("").to_owned();
    let number = request.headers.cseq().map_or(0, |cseq| cseq.number);
    let method = if request.method == Method::Cancel { &Method::Invite } else { &request.method };
    (TxKey::of(request), format!("{}|{tag}|{number} {method}", request.headers.text(&Name::CallId).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SOURCE: &str = "192.0.2.7:4444";

    fn arrive(text: &str) -> Arrival {
        datagram(&Bytes::copy_from_slice(text.as_bytes()), SOURCE.parse().unwrap())
    }

    fn with(method: &str, uri: &str, to: &str, extra: &str) -> String {
        format!(
            "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP a;rport;branch=z9hG4bK1\r\nFrom: <sip:a@x>;tag=1\r\nTo: {to}\r\n\
             Call-ID: c\r\nCSeq: 1 {method}\r\n{extra}\r\n"
        )
    }

    #[allow(clippy::wildcard_enum_match_arm, reason = "a test names what it is about")]
    fn status(text: &str) -> Option<u16> {
        match arrive(text) {
            Arrival::Answer(response, _) => Some(response.status.code()),
            _ => None,
        }
    }

    #[test]
    fn bad_requests_get_the_answer_the_rfc_asks_for() {
        for (text, code) in [
            (with("INVITE", "sip:b@x", "<sip:b@x>", "Max-Forwards: 0\r\n"), 483),
            (with("INVITE", "sip:b@x", "<sip:b@x>", "Require: foo, bar\r\n"), 420),
            (with("INVITE", "urn:x", "<sip:b@x>", ""), 416),
            (with("INVITE", "sip:b@@", "<sip:b@x>", ""), 400),
            (with("INVITE", "sip:b@x", "<sip:b@x>;tag=other", ""), 481),
            (with("BYE", "sip:b@x", "<sip:b@x>", ""), 481),
            (with("REFER", "sip:b@x", "<sip:b@x>", ""), 403),
            (with("FROB", "sip:b@x", "<sip:b@x>", ""), 501),
            (with("INVITE", "sip:b@x", "<sip:b@x>", "Max-Forwards: many\r\n"), 400),
            (with("INVITE", "sip:b@x", "<sip:b@x>", "Content-Length: 10\r\n"), 400),
            (with("INVITE", "sip:b@x", "rubbish here", ""), 400),
            (with("INVITE", "sip:b@x", "<sip:b@x>", "").replace("1 INVITE", "1 BYE"), 400),
            (with("INVITE", "sip:b@x", "<sip:b@x>", "").replace(" SIP/2.0\r\nVia", " SIP/3.0\r\nVia"), 505),
        ] {
            assert_eq!(status(&text), Some(code), "{text}");
        }
    }

    #[test]
    fn what_begins_something_is_passed_on_with_its_source() {
        let Arrival::Invite(request) = arrive(&with("INVITE", "sip:b@x", "<sip:b@x>", "")) else { panic!() };
        assert_eq!(&request.headers.text(&Name::Via).unwrap()[..], "SIP/2.0/UDP a;rport=4444;branch=z9hG4bK1;received=192.0.2.7");
        let Arrival::Options(options) = arrive(&with("OPTIONS", "sip:x", "<sip:x>", "")) else { panic!() };
        assert_eq!(capabilities(&options).status, StatusCode::OK);
        assert!(matches!(arrive(&with("REGISTER", "sip:x", "<sip:a@x>", "")), Arrival::Register(_)));
        assert!(matches!(arrive(&with("CANCEL", "sip:x", "<sip:a@x>", "")), Arrival::Cancel(_)));
        assert!(matches!(arrive(&with("ACK", "sip:x", "<sip:a@x>;tag=s1", "")), Arrival::Drop(Why::StrayAck)));
    }

    #[test]
    fn tokens_lead_to_their_leg() {
        let token = Token { vnode: crate::ids::VnodeId(3), call: crate::ids::CallId(9), leg: crate::ids::LegId::CALLEE };
        let bye = with("BYE", "sip:b@x", &format!("<sip:b@x>;tag={token}"), "");
        assert!(matches!(arrive(&bye), Arrival::Leg(found, _) if found == token));
        let response =
            format!("SIP/2.0 180 Ringing\r\nVia: SIP/2.0/UDP a;branch={}\r\nCSeq: 1 INVITE\r\n\r\n", token.branch(1, 2));
        assert!(matches!(arrive(&response), Arrival::Leg(found, _) if found == token));
        let stray = response.replace("t1-", "t9-");
        assert!(matches!(arrive(&stray), Arrival::Drop(Why::StrayResponse)));
    }

    #[test]
    fn an_answer_is_the_same_each_time() {
        let text = with("FROB", "sip:b@x", "<sip:b@x>", "");
        let (Arrival::Answer(a, _), Arrival::Answer(b, _)) = (arrive(&text), arrive(&text)) else { panic!() };
        assert_eq!(a, b);
    }

    proptest! {
        #[test]
        fn no_datagram_panics(mut text in "(INVITE|BYE|ACK|CANCEL|X) sip:[a-z@;?=]{0,12} SIP/2.0\r\n", lines in proptest::collection::vec(
            "(Via|From|To|CSeq|Call-ID|Contact|Max-Forwards|Require): [ -~]{0,30}", 0..8)) {
            for line in lines {
                text.push_str(&line);
                text.push_str("\r\n");
            }
            text.push_str("\r\n");
            arrive(&text);
        }
    }
}

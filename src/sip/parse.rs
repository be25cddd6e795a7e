//! The lexer: bytes to a message, without copying (RFC 3261 §7, §25). Layer: pure.
//!
//! It is lenient where deployed phones are odd (bare LF, blanks before a colon, folding, leading CRLF)
//! and strict where a lie would be dangerous (two Content-Lengths, a body shorter than announced).
//! A request that can't be read to its end still gives back what was read, so that it can be answered 400.

use bytes::Bytes;
use memchr::{memchr, memchr2};

use super::message::{Headers, Message, Request, Response};
use super::{Method, Name, StatusCode, Text};

/// A message is at most this long: what a UDP datagram can carry.
pub const MAX_MESSAGE: usize = 65_535;
/// A message has at most this many header lines, with a Content-Length, which is written even if it was not there.
pub const MAX_HEADERS: usize = 256;
/// A start line is at most this long.
pub const MAX_START_LINE: usize = 8_192;

/// Why bytes were not a message.
#[derive(Debug, thiserror::Error)]
#[error("{defect}")]
pub struct ParseError {
    /// What was wrong.
    pub defect: Defect,
    /// The request as far as it could be read, when its start line could.
    pub request: Option<Box<Request>>,
}

/// What was wrong with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each variant says what was wrong")]
pub enum Defect {
    #[error("nothing but line ends: a keepalive")]
    Keepalive,
    #[error("no SIP start line")]
    StartLine,
    #[error("SIP version is not 2.0")]
    Version,
    #[error("status code is not in 100 to 699")]
    Status,
    #[error("a header line without a name and a colon")]
    HeaderLine,
    #[error("no empty line after the headers")]
    Unterminated,
    #[error("more than {MAX_HEADERS} headers")]
    TooManyHeaders,
    #[error("longer than {MAX_MESSAGE} bytes")]
    TooLong,
    #[error("Content-Length is no number, or stands twice")]
    ContentLength,
    #[error("the body is shorter than Content-Length says")]
    Truncated,
    #[error("a header that may stand once stands twice")]
    Doubled,
}

impl From<Defect> for ParseError {
    fn from(defect: Defect) -> Self {
        Self { defect, request: None }
    }
}

/// Reads one datagram (RFC 3261 §18.3: what follows the body is dropped).
pub fn datagram(bytes: &Bytes) -> Result<Message, ParseError> {
    if bytes.len() > MAX_MESSAGE {
        return Err(Defect::TooLong.into());
    }
    let start = bytes.iter().position(|byte| *byte != b'\r' && *byte != b'\n').ok_or(Defect::Keepalive)?;
    let bytes = bytes.slice(start..);
    let (line, headers_at) = next_line(&bytes, 0).ok_or(Defect::StartLine)?;
    if line.len() > MAX_START_LINE {
        return Err(Defect::StartLine.into());
    }
    let line = Text::try_from(bytes.slice_ref(line.trim_ascii_end())).map_err(|_| Defect::StartLine)?;
    let mut message = start_line(&line)?;
    let result = headers_and_body(&bytes, headers_at, &mut message);
    match (result, message) {
        (Ok(()), message) => Ok(message),
        (Err(defect), Message::Request(request)) => Err(ParseError { defect, request: Some(Box::new(request)) }),
        (Err(defect), Message::Response(_)) => Err(defect.into()),
    }
}

fn start_line(line: &Text) -> Result<Message, ParseError> {
    if let Some(rest) = line.strip_prefix("SIP/") {
        let (version, rest) = rest.split_once(' ').ok_or(Defect::StartLine)?;
        if version != "2.0" {
            return Err(Defect::Version.into());
        }
        let (code, reason) = rest.split_once(' ').unwrap_or((rest, ""));
        let code = code.parse().ok().filter(|_| code.len() == 3);
        let status = code.and_then(StatusCode::new).ok_or(Defect::Status)?;
        return Ok(Message::Response(Response {
            status,
            reason: line.slice_ref(reason),
            headers: Headers::with_capacity(16),
            body: Bytes::new(),
        }));
    }
    let (method, rest) = line.split_once(' ').ok_or(Defect::StartLine)?;
    let (uri, version) = rest.rsplit_once(' ').ok_or(Defect::StartLine)?;
    if method.is_empty() || !method.bytes().all(is_token) || uri.trim().is_empty() {
        return Err(Defect::StartLine.into());
    }
    let sip_version = version.get(..4).filter(|prefix| prefix.eq_ignore_ascii_case("SIP/"));
    if sip_version.is_none() {
        return Err(Defect::StartLine.into());
    }
    let request = Request {
        method: Method::parse(&line.slice_ref(method)),
        uri: line.slice_ref(uri.trim()),
        headers: Headers::with_capacity(24),
        body: Bytes::new(),
    };
    Ok(Message::Request(request))
}

fn headers_and_body(bytes: &Bytes, mut at: usize, message: &mut Message) -> Result<(), Defect> {
    let (headers, body) = match message {
        Message::Request(request) => (&mut request.headers, &mut request.body),
        Message::Response(response) => (&mut response.headers, &mut response.body),
    };
    let mut defect = None;
    let mut content_length = None;
    loop {
        let (line, next) = next_line(bytes, at).ok_or(Defect::Unterminated)?;
        at = next;
        if line.is_empty() {
            break;
        }
        // A line that can't be read spoils the message, but the rest is read for the answer's sake.
        let Some((name, value)) = header_line(bytes, line, &mut at) else {
            defect = defect.or(Some(Defect::HeaderLine));
            continue;
        };
        if name == Name::ContentLength {
            let length = std::str::from_utf8(&value).ok().and_then(|text| text.parse::<usize>().ok());
            match (length, content_length) {
                (Some(length), None) => content_length = Some(length),
                _ => defect = defect.or(Some(Defect::ContentLength)),
            }
        } else if name.is_single() && headers.get(&name).is_some() {
            defect = defect.or(Some(Defect::Doubled));
        }
        headers.push(name, value);
        if headers.len() + usize::from(content_length.is_none()) > MAX_HEADERS {
            return Err(Defect::TooManyHeaders);
        }
    }
    let rest = bytes.len() - at;
    let length = content_length.unwrap_or(rest);
    if length > rest {
        return Err(defect.unwrap_or(Defect::Truncated));
    }
    *body = bytes.slice(at..at + length);
    // The encoder writes the length that is true.
    headers.remove(&Name::ContentLength);
    // SIP/2.0 was looked at only by its prefix, so that a 505 can be answered with all the headers.
    defect.map_or(Ok(()), Err)
}

/// Reads `Name: value`, following folds; moves `at` past the folded lines.
fn header_line(bytes: &Bytes, line: &[u8], at: &mut usize) -> Option<(Name, Bytes)> {
    let colon = memchr(b':', line)?;
    let name = line[..colon].trim_ascii_end();
    if name.is_empty() || !name.iter().copied().all(is_token) {
        return None;
    }
    let name = Name::parse(Text::try_from(bytes.slice_ref(name)).ok()?);
    let first = line[colon + 1..].trim_ascii();
    if !folds(bytes, *at) {
        return Some((name, bytes.slice_ref(first)));
    }
    // RFC 3261 §7.3.1: a line that begins with a blank goes on from the one before.
    let mut value = first.to_vec();
    while folds(bytes, *at) {
        let (line, next) = next_line(bytes, *at)?;
        *at = next;
        let line = line.trim_ascii();
        if !value.is_empty() && !line.is_empty() {
            value.push(b' ');
        }
        value.extend_from_slice(line);
    }
    Some((name, Bytes::from(value)))
}

fn folds(bytes: &Bytes, at: usize) -> bool {
    matches!(bytes.get(at), Some(b' ' | b'\t'))
}

/// The line at `at` without its end (CRLF, or LF alone), and where the next begins.
fn next_line(bytes: &Bytes, at: usize) -> Option<(&[u8], usize)> {
    let rest = bytes.get(at..)?;
    let end = memchr(b'\n', rest)?;
    let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
    Some((line, at + end + 1))
}

/// Whether a byte may stand in a token (RFC 3261 §25.1).
pub fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || memchr2(byte, byte, b"-.!%*_+`'~").is_some()
}

/// Whether the request line's version is the one we speak; a request that fails is answered 505.
pub fn speaks_our_version(start: &[u8]) -> bool {
    let line = start.split(|byte| *byte == b'\n').next().unwrap_or_default().trim_ascii_end();
    line.len() >= 7 && line[line.len() - 7..].eq_ignore_ascii_case(b"SIP/2.0")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::encode::encode;
    use proptest::prelude::*;

    fn read(text: &str) -> Result<Message, ParseError> {
        datagram(&Bytes::copy_from_slice(text.as_bytes()))
    }

    fn request(text: &str) -> Request {
        match read(text).unwrap() {
            Message::Request(request) => request,
            Message::Response(_) => panic!("a response"),
        }
    }

    #[test]
    fn odd_but_legal_spellings_are_read() {
        let request = request(
            "\r\n\r\nNEWMETHOD urn:x SIP/2.0\r\nv : SIP/2.0/UDP a;branch=z9hG4bK1,\r\n\tSIP/2.0/TCP b\r\n\
             X-Odd:   \u{e9}  \r\nSubject: a\r\n b\r\nl: 3\r\n\r\nabcdef",
        );
        assert_eq!(request.method, Method::Other(Text::from_static("NEWMETHOD")));
        assert_eq!(request.headers.list(&Name::Via).count(), 2);
        assert_eq!(&request.headers.get(&Name::Subject).unwrap()[..], b"a b");
        assert_eq!(&request.headers.get(&Name::from("x-odd")).unwrap()[..], "\u{e9}".as_bytes());
        assert_eq!(&request.body[..], b"abc");
    }

    #[test]
    fn bytes_that_are_not_utf8_are_kept() {
        let mut raw = b"OPTIONS sip:a SIP/2.0\r\nFrom: \"".to_vec();
        raw.extend([0xe9, 0xff]);
        raw.extend(b"\" <sip:b>\r\n\r\n");
        let Message::Request(request) = datagram(&Bytes::from(raw)).unwrap() else { panic!() };
        assert_eq!(&request.headers.get(&Name::From).unwrap()[..3], [b'"', 0xe9, 0xff]);
    }

    #[test]
    fn what_cannot_be_read_says_why_and_keeps_what_can_be_answered() {
        for (text, defect, answerable) in [
            ("\r\n\r\n", Defect::Keepalive, false),
            ("hello\r\n\r\n", Defect::StartLine, false),
            ("INVITE   SIP/2.0\r\n\r\n", Defect::StartLine, false),
            ("INVITE sip:a HTTP/1.1\r\n\r\n", Defect::StartLine, false),
            ("SIP/2.0 99 x\r\n\r\n", Defect::Status, false),
            ("SIP/3.0 200 x\r\n\r\n", Defect::Version, false),
            ("INVITE sip:a SIP/2.0\r\nVia: x", Defect::Unterminated, true),
            ("INVITE sip:a SIP/2.0\r\nrubbish\r\nCall-ID: 1\r\n\r\n", Defect::HeaderLine, true),
            ("INVITE sip:a SIP/2.0\r\nContent-Length: 9\r\n\r\nabc", Defect::Truncated, true),
            ("INVITE sip:a SIP/2.0\r\nContent-Length: -1\r\n\r\nabc", Defect::ContentLength, true),
            ("INVITE sip:a SIP/2.0\r\nl: 1\r\nContent-Length: 2\r\n\r\nabc", Defect::ContentLength, true),
            ("INVITE sip:a SIP/2.0\r\nFrom: a\r\nf: b\r\n\r\n", Defect::Doubled, true),
        ] {
            let error = read(text).unwrap_err();
            assert_eq!((error.defect, error.request.is_some()), (defect, answerable), "{text:?}");
        }
    }

    #[test]
    fn header_floods_are_bounded() {
        for (lines, more, fits) in [
            (MAX_HEADERS - 1, "", true),
            (MAX_HEADERS - 1, "l: 0\r\n", true),
            (MAX_HEADERS, "", false),
            (MAX_HEADERS, "l: 0\r\n", false),
        ] {
            let flood = format!("INVITE sip:a SIP/2.0\r\n{}{more}\r\n", "X: y\r\n".repeat(lines));
            match read(&flood) {
                // What was read is read again as it is written.
                Ok(message) => assert!(fits && datagram(&encode(&message)).is_ok(), "{lines} {more}"),
                Err(error) => assert!(!fits && error.defect == Defect::TooManyHeaders, "{lines} {more}: {error:?}"),
            }
        }
        assert_eq!(read(&"x".repeat(MAX_MESSAGE + 1)).unwrap_err().defect, Defect::TooLong);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = datagram(&Bytes::from(bytes));
        }

        #[test]
        fn no_message_shaped_text_panics(text in "(INVITE|SIP/2.0) [ -~]{0,20} SIP/2.0\r\n([ -~]{0,30}:?[ -~]{0,30}\r?\n){0,8}\r\n.{0,20}") {
            if let Ok(message) = read(&text) {
                // What was read is written so that it reads the same.
                let again = datagram(&crate::sip::encode::encode(&message)).unwrap();
                prop_assert_eq!(again, message);
            }
        }
    }
}

//! Where messages begin and end on a stream (RFC 3261 §18.3, RFC 5626 §3.5.1). Layer: pure.

use bytes::{Buf, Bytes, BytesMut};
use memchr::memmem;

use super::name::Name;
use super::parse::{Defect, MAX_MESSAGE, ParseError};

const CRLF: &[u8] = b"\r\n";
/// Two of them, which also end a head.
const PING: &[u8] = b"\r\n\r\n";

/// What a stream brought.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    /// A whole message, as it came: neither less nor more than its Content-Length says.
    Message(Bytes),
    /// A double CRLF, which wants a single one back (RFC 5626 §4.4.1).
    Ping,
    /// A single CRLF between messages: the answer to a ping.
    Pong,
}

/// Cuts a byte stream into messages. After an error the stream can't be trusted any more and is closed.
#[derive(Debug, Default)]
pub struct Framer {
    buffer: BytesMut,
    /// So much of the buffer holds no end of a head.
    searched: usize,
    /// How long the message is that the buffer begins with, once its head is there.
    length: Option<usize>,
}

impl Framer {
    /// Adds what was read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Takes the next frame out, if a whole one is there.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, ParseError> {
        if self.buffer.starts_with(PING) {
            self.buffer.advance(PING.len());
            return Ok(Some(Frame::Ping));
        }
        if PING.starts_with(&self.buffer) {
            // Not told apart yet: more has to come.
            return Ok(None);
        }
        if self.buffer.starts_with(CRLF) {
            self.buffer.advance(CRLF.len());
            return Ok(Some(Frame::Pong));
        }
        let length = match self.length {
            Some(length) => length,
            None => match self.measure()? {
                Some(length) => *self.length.insert(length),
                None => return Ok(None),
            },
        };
        if self.buffer.len() < length {
            return Ok(None);
        }
        (self.searched, self.length) = (0, None);
        Ok(Some(Frame::Message(self.buffer.split_to(length).freeze())))
    }

    /// How long the message is that has begun, if its head is there.
    fn measure(&mut self) -> Result<Option<usize>, ParseError> {
        let from = self.searched.saturating_sub(PING.len() - 1);
        let Some(end) = memmem::find(&self.buffer[from..], PING).map(|at| from + at + PING.len()) else {
            self.searched = self.buffer.len();
            return if self.buffer.len() > MAX_MESSAGE { Err(Defect::TooLong.into()) } else { Ok(None) };
        };
        let body = content_length(&self.buffer[..end])?;
        // The sum of what a peer says may be more than a number holds.
        if end > MAX_MESSAGE || body > MAX_MESSAGE - end {
            return Err(Defect::TooLong.into());
        }
        Ok(Some(end + body))
    }

    /// Whether a message has begun and is not whole yet: one that never gets whole is an attack (slow loris). Line ends between
    /// messages are nobody's beginning (RFC 3261 §7.5).
    pub fn is_midway(&self) -> bool {
        !PING.starts_with(&self.buffer)
    }

    /// Gives back the room that nothing is in: most connections are silent most of the time.
    pub fn shrink(&mut self) {
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
    }
}

/// On a stream the length must be said (RFC 3261 §20.14), once.
fn content_length(head: &[u8]) -> Result<usize, ParseError> {
    let mut found = None;
    for line in head.split(|byte| *byte == b'\n').skip(1) {
        let Some((name, value)) = std::str::from_utf8(line).ok().and_then(|line| line.split_once(':')) else { continue };
        if name.starts_with([' ', '\t']) || Name::parse(name.trim_end().into()) != Name::ContentLength {
            continue;
        }
        let length: usize = value.trim().parse().map_err(|_| Defect::ContentLength)?;
        if found.replace(length).is_some() {
            return Err(Defect::ContentLength.into());
        }
    }
    found.ok_or_else(|| Defect::ContentLength.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ONE: &str = "OPTIONS sip:a SIP/2.0\r\nCall-ID: 1\r\nContent-Length: 2\r\n\r\nhi";

    proptest! {
        /// However the bytes are cut, the same frames come out.
        #[test]
        fn cuts_do_not_matter(cuts in proptest::collection::vec(1usize..20, 1..60)) {
            let stream = format!("{ONE}\r\n\r\n{ONE}{ONE}");
            let mut framer = Framer::default();
            let (mut rest, mut cuts, mut frames) = (stream.as_bytes(), cuts.into_iter().cycle(), Vec::new());
            while !rest.is_empty() {
                let (now, later) = rest.split_at(cuts.next().unwrap().min(rest.len()));
                framer.push(now);
                rest = later;
                while let Some(frame) = framer.next_frame().unwrap() {
                    frames.push(matches!(frame, Frame::Message(_)));
                }
            }
            prop_assert_eq!(frames, vec![true, false, true, true]);
        }
    }

    #[test]
    fn a_stream_without_one_length_is_refused() {
        let begin = "OPTIONS sip:a SIP/2.0\r\n";
        let huge = |less: usize| format!("Content-Length: {}\r\n", usize::MAX - less);
        // With its head, one of these comes to nothing at all, and one to a byte.
        let head = begin.len() + huge(0).len() + 2;
        let wrong = ["", "Content-Length: 1\r\nl: 1\r\n", "Content-Length: x\r\n", "Content-Length: 99999999\r\n"];
        for head in wrong.map(str::to_owned).into_iter().chain([huge(0), huge(head - 1), huge(head - 2)]) {
            let mut framer = Framer::default();
            framer.push(format!("{begin}{head}\r\n").as_bytes());
            assert!(framer.next_frame().is_err(), "{head}");
        }
    }

    /// One that keeps its connection alive by single line ends is no attacker.
    #[test]
    fn line_ends_between_messages_begin_nothing() {
        let mut framer = Framer::default();
        for (bytes, midway) in [("\r", false), ("\n", false), ("OPT", true)] {
            framer.push(bytes.as_bytes());
            while framer.next_frame().unwrap().is_some() {}
            assert_eq!(framer.is_midway(), midway, "{bytes:?}");
        }
        framer.push(&ONE.as_bytes()[3..]);
        assert!(matches!(framer.next_frame(), Ok(Some(Frame::Message(_)))));
    }
}

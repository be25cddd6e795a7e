//! Where messages begin and end on a stream (RFC 3261 §18.3, RFC 5626 §3.5.1). Layer: pure.

use bytes::{Buf, Bytes, BytesMut};
use memchr::memmem;

use super::name::Name;
use super::parse::{Defect, MAX_MESSAGE, ParseError};

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
    searched: usize,
}

impl Framer {
    /// Adds what was read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Takes the next frame out, if a whole one is there.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, ParseError> {
        if self.buffer.starts_with(b"\r\n\r\n") {
            self.buffer.advance(4);
            return Ok(Some(Frame::Ping));
        }
        if self.buffer.starts_with(b"\r\n") && self.buffer.len() > 2 && self.buffer[2] != b'\r' {
            self.buffer.advance(2);
            return Ok(Some(Frame::Pong));
        }
        if self.buffer.starts_with(b"\r") {
            // Not told apart yet: more has to come.
            return if self.buffer.len() < 4 { Ok(None) } else { Err(Defect::StartLine.into()) };
        }
        let from = self.searched.saturating_sub(3);
        let Some(end) = memmem::find(&self.buffer[from..], b"\r\n\r\n").map(|at| from + at + 4) else {
            self.searched = self.buffer.len();
            return if self.buffer.len() > MAX_MESSAGE { Err(Defect::TooLong.into()) } else { Ok(None) };
        };
        self.searched = end - 1;
        let length = content_length(&self.buffer[..end])?;
        if end + length > MAX_MESSAGE {
            return Err(Defect::TooLong.into());
        }
        if self.buffer.len() < end + length {
            return Ok(None);
        }
        let whole: Bytes = self.buffer.split_to(end + length).freeze();
        self.searched = 0;
        Ok(Some(Frame::Message(whole)))
    }

    /// Whether a message has begun and is not whole yet: one that never gets whole is an attack (slow loris).
    pub fn is_midway(&self) -> bool {
        !self.buffer.is_empty()
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
        for head in ["", "Content-Length: 1\r\nl: 1\r\n", "Content-Length: x\r\n", "Content-Length: 99999999\r\n"] {
            let mut framer = Framer::default();
            framer.push(format!("OPTIONS sip:a SIP/2.0\r\n{head}\r\n").as_bytes());
            assert!(framer.next_frame().is_err(), "{head}");
        }
    }
}

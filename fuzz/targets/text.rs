//! The parsers.

use bytes::Bytes;
use tandem::sip::encode::encode;
use tandem::sip::endpoint::{self, Arrival};
use tandem::sip::framing::{Frame, Framer};
use tandem::sip::message::Message;
use tandem::sip::uri::Uri;
use tandem::sip::{Name, parse, stun};

/// A datagram: what can be read is written so that it is read again as the same, and every question about it has an answer.
pub fn message(input: &[u8]) {
    let bytes = Bytes::copy_from_slice(input);
    if let Ok(message) = parse::datagram(&bytes) {
        let written = encode(&message);
        let again = parse::datagram(&written).unwrap_or_else(|error| panic!("{error}: {written:?}"));
        assert_eq!(encode(&again), written);
        look(&message);
    }
    if let Arrival::Answer(response, _) = endpoint::datagram(&bytes, super::flow(0, false).remote) {
        let written = encode(&Message::Response(response));
        // What is twice there comes back twice.
        assert!(parse::datagram(&written).is_ok() || parse::datagram(&bytes).is_err(), "{written:?}");
    }
    let _ = stun::answer(input, super::flow(0, false).remote);
}

fn look(message: &Message) {
    let headers = message.headers();
    let _ = (headers.top_via(), headers.from(), headers.to(), headers.call_id(), headers.cseq(), headers.contacts());
    let _ = (headers.max_forwards(), headers.content_type(), headers.has_contact_star());
    for name in [Name::Contact, Name::Route, Name::RecordRoute, Name::Supported, Name::Via] {
        headers.list(&name).for_each(drop);
    }
    if let Message::Request(request) = message {
        if let Ok(uri) = Uri::parse(&request.uri) {
            let shown = uri.to_string().into();
            assert!(Uri::parse(&shown).is_ok_and(|again| again.matches(&uri)), "{shown}");
        }
        let _ = endpoint::invite_key(request);
    }
}

/// A stream that is cut somewhere is cut into the same messages anywhere else.
pub fn framing(input: &[u8]) {
    let Some((cut, stream)) = input.split_first() else { return };
    let whole = frames(stream, stream.len().max(1));
    assert_eq!(frames(stream, usize::from(*cut).max(1)), whole);
}

fn frames(stream: &[u8], piece: usize) -> Vec<Result<Frame, ()>> {
    let (mut framer, mut all) = (Framer::default(), Vec::new());
    for piece in stream.chunks(piece) {
        framer.push(piece);
        loop {
            match framer.next_frame() {
                Ok(Some(frame)) => all.push(Ok(frame)),
                Ok(None) => break,
                Err(_) => {
                    all.push(Err(()));
                    return all;
                }
            }
        }
    }
    all
}

//! STUN on SIP's port, as far as keepalives need it (RFC 5626 §8): a Binding request is told where it came from (RFC 8489). Layer: pure.

use std::net::SocketAddr;

use crate::stun::{BINDING, FAILURE, Message, SUCCESS, UNKNOWN_ATTRIBUTES, Writer};

/// USERNAME, MESSAGE-INTEGRITY, REALM, NONCE, MESSAGE-INTEGRITY-SHA256, PASSWORD-ALGORITHM, USERHASH: nobody is asked for them here.
const UNDERSTOOD: [u16; 7] = [0x0006, 0x0008, 0x0014, 0x0015, 0x001c, 0x001d, 0x001e];
/// So many unknown attributes are named at most.
const NAMED: usize = 16;
/// No answer is longer.
const ANSWER: usize = 80;

/// Whether a datagram can't be SIP and may be STUN (RFC 5626 §8: the first byte of SIP is never so small).
pub fn is_stun(datagram: &[u8]) -> bool {
    datagram.first().is_some_and(|first| *first < 2)
}

/// The answer to a Binding request; none to anything else.
pub fn answer(request: &[u8], source: SocketAddr) -> Option<Vec<u8>> {
    let request = Message::parse(request).filter(|request| request.kind() == BINDING)?;
    let unknown =
        request.attributes().map(|attribute| attribute.kind).filter(|kind| *kind < 0x8000 && !UNDERSTOOD.contains(kind));
    let unknown: Vec<u8> = unknown.take(NAMED).flat_map(u16::to_be_bytes).collect();
    let mut answer = vec![0; ANSWER];
    let length = match unknown.is_empty() {
        true => Writer::answer(&mut answer, SUCCESS, &request).mapped(source).finish(),
        // RFC 8489 §6.3.1: 420, and which they are.
        false => Writer::answer(&mut answer, FAILURE, &request).error(420).attribute(UNKNOWN_ATTRIBUTES, &unknown).finish(),
    };
    answer.truncate(length);
    Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn request(attributes: &[u8]) -> Vec<u8> {
        let transaction = hex::decode("2112a442b7e7a701bc34d686fa87dfae").unwrap();
        let length = u16::try_from(attributes.len()).unwrap().to_be_bytes();
        [&BINDING[..], &length, &transaction, attributes].concat()
    }

    /// The values of RFC 5769 §2.2 and §2.3.
    #[test]
    fn a_binding_request_is_told_where_it_came_from() {
        for (source, value) in [
            ("192.0.2.1:32853", "0001a147e112a643"),
            ("[2001:db8:1234:5678:11:2233:4455:6677]:32853", "0002a1470113a9faa5d3f179bc25f4b5bed2b9d9"),
        ] {
            let answer = answer(&request(&[]), source.parse().unwrap()).unwrap();
            assert_eq!((&answer[..2], hex::encode(&answer[24..])), (&SUCCESS[..], value.to_owned()));
            assert_eq!(answer[4..20], request(&[])[4..20]);
        }
    }

    #[test]
    fn what_must_be_understood_is_named() {
        // PRIORITY and, which may be passed over, SOFTWARE.
        let attributes = hex::decode("002400046e0001ff8022000161000000").unwrap();
        let answer = answer(&request(&attributes), "192.0.2.1:1".parse().unwrap()).unwrap();
        assert_eq!((&answer[..2], hex::encode(&answer[20..])), (&FAILURE[..], "0009000400000414000a000200240000".to_owned()));
    }

    proptest! {
        #[test]
        fn no_datagram_panics(bytes in proptest::collection::vec(any::<u8>(), 0..80), cut in 0usize..40) {
            let source = "192.0.2.1:1".parse().unwrap();
            let _ = answer(&bytes, source);
            let whole = request(&bytes);
            let _ = answer(&whole[..whole.len().saturating_sub(cut)], source);
        }
    }
}

//! STUN on SIP's port, as far as keepalives need it (RFC 5626 §8): a Binding request is told where it came from (RFC 8489). Layer: pure.

use std::net::{IpAddr, SocketAddr};

const HEADER: usize = 20;
const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const BINDING: [u8; 2] = [0x00, 0x01];
const SUCCESS: [u8; 2] = [0x01, 0x01];
const FAILURE: [u8; 2] = [0x01, 0x11];
const ERROR_CODE: u16 = 0x0009;
const UNKNOWN_ATTRIBUTES: u16 = 0x000a;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
/// USERNAME, MESSAGE-INTEGRITY, REALM, NONCE, MESSAGE-INTEGRITY-SHA256, PASSWORD-ALGORITHM, USERHASH: nobody is asked for them here.
const UNDERSTOOD: [u16; 7] = [0x0006, 0x0008, 0x0014, 0x0015, 0x001c, 0x001d, 0x001e];
/// So many unknown attributes are named at most.
const NAMED: usize = 16;

/// Whether a datagram can't be SIP and may be STUN (RFC 5626 §8: the first byte of SIP is never so small).
pub fn is_stun(datagram: &[u8]) -> bool {
    datagram.first().is_some_and(|first| *first < 2)
}

/// The answer to a Binding request; none to anything else.
pub fn answer(request: &[u8], source: SocketAddr) -> Option<Vec<u8>> {
    let length = usize::from(u16::from_be_bytes([*request.get(2)?, *request.get(3)?]));
    let whole = request.len() == HEADER + length && length % 4 == 0;
    if !whole || request[..2] != BINDING || request[4..8] != COOKIE {
        return None;
    }
    let transaction = &request[4..HEADER];
    let unknown = unknown_attributes(&request[HEADER..])?;
    let mut body = Vec::with_capacity(48);
    if unknown.is_empty() {
        attribute(&mut body, XOR_MAPPED_ADDRESS, &xored(source, transaction));
        return Some(message(SUCCESS, transaction, &body));
    }
    // RFC 8489 §6.3.1: 420, and which they are.
    attribute(&mut body, ERROR_CODE, &[0, 0, 4, 20]);
    let named: Vec<u8> = unknown.iter().take(NAMED).flat_map(|kind| kind.to_be_bytes()).collect();
    attribute(&mut body, UNKNOWN_ATTRIBUTES, &named);
    Some(message(FAILURE, transaction, &body))
}

/// The attributes that must be understood and aren't; none when they are not whole.
fn unknown_attributes(mut rest: &[u8]) -> Option<Vec<u16>> {
    let mut unknown = Vec::new();
    while !rest.is_empty() {
        let [a, b, c, d, ..] = *rest else { return None };
        let (kind, length) = (u16::from_be_bytes([a, b]), usize::from(u16::from_be_bytes([c, d])));
        if kind < 0x8000 && !UNDERSTOOD.contains(&kind) {
            unknown.push(kind);
        }
        rest = rest.get(4 + length.next_multiple_of(4)..)?;
    }
    Some(unknown)
}

/// RFC 8489 §14.2; `transaction` is the cookie and the id after it.
fn xored(source: SocketAddr, transaction: &[u8]) -> Vec<u8> {
    let mut value = vec![0, if source.is_ipv4() { 1 } else { 2 }];
    let port = source.port() ^ u16::from_be_bytes([COOKIE[0], COOKIE[1]]);
    value.extend(port.to_be_bytes());
    let xor = |bytes: &[u8]| bytes.iter().zip(transaction).map(|(byte, key)| byte ^ key).collect::<Vec<_>>();
    value.extend(match source.ip() {
        IpAddr::V4(ip) => xor(&ip.octets()),
        IpAddr::V6(ip) => xor(&ip.octets()),
    });
    value
}

fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    body.extend(kind.to_be_bytes());
    body.extend(u16::try_from(value.len()).unwrap_or(0).to_be_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

fn message(kind: [u8; 2], transaction: &[u8], body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap_or(0).to_be_bytes();
    [&kind[..], &length, transaction, body].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn request(attributes: &[u8]) -> Vec<u8> {
        let transaction = [&COOKIE[..], &hex::decode("b7e7a701bc34d686fa87dfae").unwrap()].concat();
        message(BINDING, &transaction, attributes)
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

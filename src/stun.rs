//! STUN messages (RFC 8489 §5, §14), as far as keepalives (RFC 5626 §8) and ICE (RFC 8445) need them. Layer: ground.

use std::net::{IpAddr, SocketAddr};

use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;

/// A Binding request.
pub const BINDING: [u8; 2] = [0x00, 0x01];
/// Its success response.
pub const SUCCESS: [u8; 2] = [0x01, 0x01];
/// Its error response.
pub const FAILURE: [u8; 2] = [0x01, 0x11];

/// `ufrag of who is asked:ufrag of who asks`.
pub const USERNAME: u16 = 0x0006;
/// HMAC-SHA1 of what is before it.
pub const MESSAGE_INTEGRITY: u16 = 0x0008;
/// Why not.
pub const ERROR_CODE: u16 = 0x0009;
/// Which ones weren't understood.
pub const UNKNOWN_ATTRIBUTES: u16 = 0x000a;
/// Where a request came from.
pub const XOR_MAPPED_ADDRESS: u16 = 0x0020;
/// CRC-32 of what is before it.
pub const FINGERPRINT: u16 = 0x8028;

const HEADER: usize = 20;
const ATTRIBUTE: usize = 4;
const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const HMAC_SHA1: usize = 20;
/// §14.7: so that it isn't another protocol's.
const FINGERPRINT_XOR: u32 = 0x5354_554e;

/// A message that has come.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    bytes: &'a [u8],
}

/// One of its attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// Which.
    pub kind: u16,
    /// What it says.
    pub value: &'a [u8],
    /// Where in the message it begins.
    pub at: usize,
}

impl<'a> Message<'a> {
    /// A message whose header is right and whose attributes are whole.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let length = usize::from(u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?]));
        let is_one = bytes.len() == HEADER + length && length % 4 == 0 && bytes[0] < 4 && bytes[4..8] == COOKIE;
        let message = Self { bytes };
        let mut end = HEADER;
        for attribute in message.attributes().take_while(|_| is_one) {
            end = attribute.at + ATTRIBUTE + attribute.value.len().next_multiple_of(4);
        }
        (is_one && end == bytes.len()).then_some(message)
    }

    /// Its class and method.
    pub fn kind(&self) -> [u8; 2] {
        [self.bytes[0], self.bytes[1]]
    }

    /// The cookie and the transaction's id.
    pub fn transaction(&self) -> &'a [u8] {
        &self.bytes[4..HEADER]
    }

    /// Its attributes, in their order.
    pub fn attributes(&self) -> impl Iterator<Item = Attribute<'a>> + use<'a> {
        let bytes = self.bytes;
        let mut at = HEADER;
        std::iter::from_fn(move || {
            let [a, b, c, d, ..] = *bytes.get(at..)? else { return None };
            let (kind, length) = (u16::from_be_bytes([a, b]), usize::from(u16::from_be_bytes([c, d])));
            let begin = at + ATTRIBUTE;
            // The padding must be there, too.
            let value = bytes.get(begin..begin + length.next_multiple_of(4))?.get(..length)?;
            let attribute = Attribute { kind, value, at };
            at = begin + length.next_multiple_of(4);
            Some(attribute)
        })
    }

    /// The first attribute of a kind.
    pub fn attribute(&self, kind: u16) -> Option<Attribute<'a>> {
        self.attributes().find(|attribute| attribute.kind == kind)
    }

    /// Whether it ends with a fingerprint that is right (§14.7).
    pub fn has_fingerprint(&self) -> bool {
        let Some(Attribute { value, at, .. }) = self.attributes().last().filter(|last| last.kind == FINGERPRINT) else {
            return false;
        };
        *value == fingerprint(&self.bytes[..at])
    }

    /// Whether a password has signed it (§14.5); none if nothing has.
    pub fn is_signed_by(&self, password: &str) -> Option<bool> {
        let Attribute { value, at, .. } = self.attribute(MESSAGE_INTEGRITY)?;
        Some(integrity(&self.bytes[..at], password).verify_slice(value).is_ok())
    }
}

/// A message that is being written into a buffer; what has no room in it is left out.
#[derive(Debug)]
pub struct Writer<'a> {
    buffer: &'a mut [u8],
    length: usize,
}

impl<'a> Writer<'a> {
    /// Begins an answer to a request.
    pub fn answer(buffer: &'a mut [u8], kind: [u8; 2], request: &Message<'_>) -> Self {
        let mut writer = Self { buffer, length: 0 };
        writer.put(&[kind[0], kind[1], 0, 0]);
        writer.put(request.transaction());
        writer
    }

    fn put(&mut self, bytes: &[u8]) {
        if let Some(place) = self.buffer.get_mut(self.length..self.length + bytes.len()) {
            place.copy_from_slice(bytes);
            self.length += bytes.len();
        }
    }

    /// Says how long it is, once this many bytes more are there.
    fn set_length(&mut self, more: usize) {
        let length = u16::try_from(self.length + more - HEADER).unwrap_or(0);
        if let Some(place) = self.buffer.get_mut(2..4) {
            place.copy_from_slice(&length.to_be_bytes());
        }
    }

    /// An attribute.
    pub fn attribute(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let whole = ATTRIBUTE + value.len().next_multiple_of(4);
        if self.buffer.len() >= self.length + whole {
            self.put(&kind.to_be_bytes());
            self.put(&u16::try_from(value.len()).unwrap_or(0).to_be_bytes());
            self.put(value);
            self.put(&[0; 3][..value.len().next_multiple_of(4) - value.len()]);
        }
        self
    }

    /// XOR-MAPPED-ADDRESS (§14.2).
    pub fn mapped(&mut self, source: SocketAddr) -> &mut Self {
        let mut key = [0; 16];
        key.copy_from_slice(&self.buffer[4..HEADER]);
        let mut value = [0; 20];
        value[1] = if source.is_ipv4() { 1 } else { 2 };
        value[2..4].copy_from_slice(&(source.port() ^ u16::from_be_bytes([COOKIE[0], COOKIE[1]])).to_be_bytes());
        let length = match source.ip() {
            IpAddr::V4(ip) => xor(&mut value[4..], &ip.octets(), &key),
            IpAddr::V6(ip) => xor(&mut value[4..], &ip.octets(), &key),
        };
        self.attribute(XOR_MAPPED_ADDRESS, &value[..4 + length])
    }

    /// ERROR-CODE (§14.8), without a reason.
    pub fn error(&mut self, code: u16) -> &mut Self {
        let [class, number] = [code / 100, code % 100].map(|part| u8::try_from(part).unwrap_or(0));
        self.attribute(ERROR_CODE, &[0, 0, class, number])
    }

    /// MESSAGE-INTEGRITY (§14.5).
    pub fn signed(&mut self, password: &str) -> &mut Self {
        self.set_length(ATTRIBUTE + HMAC_SHA1);
        let hmac: [u8; HMAC_SHA1] = integrity(&self.buffer[..self.length], password).finalize().into_bytes().into();
        self.attribute(MESSAGE_INTEGRITY, &hmac)
    }

    /// FINGERPRINT (§14.7), the last one.
    pub fn fingerprinted(&mut self) -> &mut Self {
        self.set_length(ATTRIBUTE + 4);
        let value = fingerprint(&self.buffer[..self.length]);
        self.attribute(FINGERPRINT, &value)
    }

    /// How long the message is.
    pub fn finish(&mut self) -> usize {
        self.set_length(0);
        self.length
    }
}

fn xor(into: &mut [u8], bytes: &[u8], key: &[u8; 16]) -> usize {
    into.iter_mut().zip(bytes.iter().zip(key)).for_each(|(place, (byte, key))| *place = byte ^ key);
    bytes.len()
}

/// The CRC of what is before the attribute; what it says of its length must count the attribute already, as it does in what has come.
fn fingerprint(before: &[u8]) -> [u8; 4] {
    (crc32fast::hash(before) ^ FINGERPRINT_XOR).to_be_bytes()
}

/// The HMAC of what is before the attribute, as if that ended the message.
fn integrity(before: &[u8], password: &str) -> Hmac<Sha1> {
    let mut mac = Hmac::<Sha1>::new_from_slice(password.as_bytes()).expect("any length is a key's");
    let length = u16::try_from((before.len() + ATTRIBUTE + HMAC_SHA1).saturating_sub(HEADER)).unwrap_or(0);
    mac.update(&before[..2]);
    mac.update(&length.to_be_bytes());
    mac.update(&before[4..]);
    mac
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 5769 §2.1 to §2.3.
    const PASSWORD: &str = "VOkJxbRl1RmTxUk/WvJxBt";
    const REQUEST: &str = "000100582112a442b7e7a701bc34d686fa87dfae802200105354554e207465737420636c69656e74002400046e0001ff80290008932ff9b151263b36\
        000600096576746a3a68367659202020000800149aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a280280004e57a3bcf";
    const V4: &str = "0101003c2112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220002000080001a147e112a643000800142b91f599fd9e90c38c74\
        89f92af9ba53f06be7d780280004c07d4c96";
    const V6: &str = "010100482112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d9\
        00080014a382954e4be67bf11784c97c8292c275bfe3ed4180280004c8fb0b4c";

    fn bytes(text: &str) -> Vec<u8> {
        hex::decode(text).unwrap()
    }

    #[test]
    fn the_vectors_of_rfc_5769() {
        for text in [REQUEST, V4, V6] {
            let bytes = bytes(text);
            let message = Message::parse(&bytes).unwrap();
            assert!(message.has_fingerprint());
            assert_eq!((message.is_signed_by(PASSWORD), message.is_signed_by("other")), (Some(true), Some(false)));
        }
        let request = bytes(REQUEST);
        let request = Message::parse(&request).unwrap();
        assert_eq!((request.kind(), request.attribute(USERNAME).unwrap().value), (BINDING, &b"evtj:h6vY"[..]));
        for (text, source) in [(V4, "192.0.2.1:32853"), (V6, "[2001:db8:1234:5678:11:2233:4455:6677]:32853")] {
            let mut buffer = [0; 200];
            let mut writer = Writer::answer(&mut buffer, SUCCESS, &request);
            // The vectors pad with blanks.
            writer.attribute(0x8022, b"test vector ");
            writer.mapped(source.parse().unwrap()).signed(PASSWORD).fingerprinted();
            let length = writer.finish();
            let ours = Message::parse(&buffer[..length]).unwrap();
            assert!(ours.has_fingerprint() && ours.is_signed_by(PASSWORD) == Some(true));
            let theirs = bytes(text);
            let mapped = |message: &Message<'_>| message.attribute(XOR_MAPPED_ADDRESS).unwrap().value.to_vec();
            assert_eq!(mapped(&ours), mapped(&Message::parse(&theirs).unwrap()));
        }
    }

    proptest! {
        #[test]
        fn no_datagram_panics_and_a_changed_one_is_not_right(at in 0usize..108, bit in 0u8..8, cut in 0usize..108) {
            let mut request = bytes(REQUEST);
            prop_assert!(Message::parse(&request[..cut]).is_none());
            request[at] ^= 1 << bit;
            let is_right = |message: &Message<'_>| message.has_fingerprint() && message.is_signed_by(PASSWORD) == Some(true);
            prop_assert!(!Message::parse(&request).is_some_and(|message| is_right(&message)));
        }

        #[test]
        fn nor_does_noise(mut noise in proptest::collection::vec(any::<u8>(), 20..80)) {
            let length = u16::try_from(noise.len() - HEADER).unwrap() & !3;
            noise.truncate(HEADER + usize::from(length));
            noise[0] &= 3;
            noise[2..4].copy_from_slice(&length.to_be_bytes());
            noise[4..8].copy_from_slice(&COOKIE);
            if let Some(message) = Message::parse(&noise) {
                let mut buffer = [0; 64];
                let _ = (message.has_fingerprint(), message.is_signed_by(PASSWORD));
                let source = "192.0.2.1:1".parse().unwrap();
                prop_assert!(Writer::answer(&mut buffer, SUCCESS, &message).mapped(source).signed("x").fingerprinted().finish() <= 64);
            }
        }
    }
}

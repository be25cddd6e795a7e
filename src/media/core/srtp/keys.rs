//! Suites, master keys, and the session keys that are made of them: RFC 3711 §4.3, RFC 4568 §6.2, RFC 6188, RFC 7714. Layer: pure.

use std::fmt;

use aes::cipher::consts::U16;
use aes::cipher::{BlockCipherEncrypt, BlockSizeUser, InnerIvInit, StreamCipher, StreamCipherCoreWrapper};
use aes::{Aes128Enc, Aes256Enc};
use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes128Gcm, Aes256Gcm};
use ctr::CtrCore;
use ctr::flavors::Ctr128BE;
use hmac::{Hmac, Mac};
use sha1::Sha1;
use sha2::Sha256;
use subtle::ConstantTimeEq;

use super::{ENCRYPTED, RTCP_HEADER};

/// SRTCP's trailer.
const INDEX: usize = 4;
const GCM_TAG: usize = 16;
const GCM_SALT: usize = 12;
const SALT: usize = 14;
/// SRTCP has the long tag in any case (RFC 4568 §6.2.2).
const LONG_TAG: usize = 10;

/// How packets are protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Suite {
    /// RFC 7714 with 256 bits.
    AeadAes256Gcm,
    /// RFC 7714 with 128 bits.
    AeadAes128Gcm,
    /// RFC 6188, tags of 80 bits.
    Aes256CmHmacSha1_80,
    /// RFC 3711, tags of 80 bits.
    AesCm128HmacSha1_80,
    /// RFC 3711, RTP's tags of 32 bits.
    AesCm128HmacSha1_32,
}

impl Suite {
    /// All, the best first.
    pub const ALL: [Self; 5] = [
        Self::AeadAes256Gcm,
        Self::AeadAes128Gcm,
        Self::Aes256CmHmacSha1_80,
        Self::AesCm128HmacSha1_80,
        Self::AesCm128HmacSha1_32,
    ];

    /// Its name in `a=crypto` (IANA's registry of SRTP crypto suites).
    pub fn name(self) -> &'static str {
        match self {
            Self::AeadAes256Gcm => "AEAD_AES_256_GCM",
            Self::AeadAes128Gcm => "AEAD_AES_128_GCM",
            Self::Aes256CmHmacSha1_80 => "AES_256_CM_HMAC_SHA1_80",
            Self::AesCm128HmacSha1_80 => "AES_CM_128_HMAC_SHA1_80",
            Self::AesCm128HmacSha1_32 => "AES_CM_128_HMAC_SHA1_32",
        }
    }

    /// The suite of this name.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|suite| suite.name().eq_ignore_ascii_case(name))
    }

    fn is_gcm(self) -> bool {
        matches!(self, Self::AeadAes256Gcm | Self::AeadAes128Gcm)
    }

    /// How long its key is, and its salt, in bytes.
    pub fn lengths(self) -> (usize, usize) {
        let key = if matches!(self, Self::AeadAes256Gcm | Self::Aes256CmHmacSha1_80) { 32 } else { 16 };
        (key, if self.is_gcm() { GCM_SALT } else { SALT })
    }

    /// What it adds to an RTP packet.
    pub fn tag(self) -> usize {
        match self {
            Self::AeadAes256Gcm | Self::AeadAes128Gcm => GCM_TAG,
            Self::Aes256CmHmacSha1_80 | Self::AesCm128HmacSha1_80 => LONG_TAG,
            Self::AesCm128HmacSha1_32 => 4,
        }
    }
}

/// A master key and its salt; never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct MasterKey {
    suite: Suite,
    /// The key, and behind it the salt.
    bytes: Vec<u8>,
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MasterKey({}, hidden)", self.suite.name())
    }
}

impl MasterKey {
    /// A key and its salt; none if they aren't as long as they must be.
    pub fn new(suite: Suite, bytes: &[u8]) -> Option<Self> {
        let (key, salt) = suite.lengths();
        (bytes.len() == key + salt).then(|| Self { suite, bytes: bytes.to_vec() })
    }

    /// A suite's key that is made of a secret: the same each time, and another for each suite.
    pub fn of_secret(suite: Suite, secret: &[u8]) -> Self {
        let (key, salt) = suite.lengths();
        let block = |number: u8| {
            let mut mac = <Hmac<Sha256> as hmac::KeyInit>::new_from_slice(secret).expect("any length is a key's");
            mac.update(suite.name().as_bytes());
            mac.update(&[number]);
            mac.finalize().into_bytes()
        };
        let bytes = [1, 2].into_iter().flat_map(block).take(key + salt).collect();
        Self { suite, bytes }
    }

    /// How it is used.
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// What tells it from another, and nobody what it is.
    pub fn mark(&self) -> u64 {
        let mut mac = <Hmac<Sha256> as hmac::KeyInit>::new_from_slice(&self.bytes).expect("any length is a key's");
        mac.update(b"mark");
        mac.finalize().into_bytes().iter().take(8).fold(0, |mark, byte| mark << 8 | u64::from(*byte))
    }

    /// The key, and behind it the salt.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

enum Cipher {
    Cm128(Box<Aes128Enc>),
    Cm256(Box<Aes256Enc>),
    Gcm128(Box<Aes128Gcm>),
    Gcm256(Box<Aes256Gcm>),
}

/// What packets of one kind are protected by.
pub(super) struct SessionKeys {
    cipher: Cipher,
    /// GCM's has two bytes less.
    salt: [u8; SALT],
    mac: Option<Hmac<Sha1>>,
    tag: usize,
}

/// RFC 3711 §4.3.3: the key stream that a label stands for.
fn derive(key: &[u8], salt: &[u8], label: u8, out: &mut [u8]) {
    // A salt that is shorter has zeros behind it (RFC 7714 §11).
    let mut iv = [0; 16];
    iv[..salt.len()].copy_from_slice(salt);
    iv[7] ^= label;
    out.fill(0);
    if let Ok(key) = <&[u8; 32]>::try_from(key) {
        apply_cm(&Aes256Enc::new(key.into()), &iv, out);
    } else if let Ok(key) = <&[u8; 16]>::try_from(key) {
        apply_cm(&Aes128Enc::new(key.into()), &iv, out);
    }
}

/// AES in counter mode.
fn apply_cm<C: BlockCipherEncrypt + BlockSizeUser<BlockSize = U16>>(cipher: &C, iv: &[u8; 16], text: &mut [u8]) {
    let core = CtrCore::<&C, Ctr128BE>::inner_iv_init(cipher, iv.into());
    StreamCipherCoreWrapper::from_core(core).apply_keystream(text);
}

impl SessionKeys {
    /// Those of RTP, and those of RTCP.
    pub(super) fn derive(master: &MasterKey) -> [Self; 2] {
        let (length, _) = master.suite.lengths();
        let (key, salt) = master.bytes.split_at(length);
        [0, 3].map(|first| {
            let (mut own, mut mac, mut own_salt) = ([0; 32], [0; 20], [0; SALT]);
            derive(key, salt, first, &mut own[..length]);
            derive(key, salt, first + 1, &mut mac);
            derive(key, salt, first + 2, &mut own_salt);
            let tag = if first == 0 { master.suite.tag() } else { master.suite.tag().max(LONG_TAG) };
            Self::new(master.suite, &own[..length], &own_salt, &mac, tag)
        })
    }

    fn new(suite: Suite, key: &[u8], salt: &[u8], mac: &[u8], tag: usize) -> Self {
        let key16 = || key.try_into().expect("a suite's key is as long as it says");
        let key32 = || key.try_into().expect("a suite's key is as long as it says");
        let cipher = match suite {
            Suite::AeadAes256Gcm => Cipher::Gcm256(Box::new(Aes256Gcm::new(key32()))),
            Suite::AeadAes128Gcm => Cipher::Gcm128(Box::new(Aes128Gcm::new(key16()))),
            Suite::Aes256CmHmacSha1_80 => Cipher::Cm256(Box::new(Aes256Enc::new(key32()))),
            Suite::AesCm128HmacSha1_80 | Suite::AesCm128HmacSha1_32 => Cipher::Cm128(Box::new(Aes128Enc::new(key16()))),
        };
        let mac = (!suite.is_gcm()).then(|| <Hmac<Sha1> as hmac::KeyInit>::new_from_slice(mac).expect("any length is a key's"));
        let mut padded = [0; SALT];
        padded[..salt.len()].copy_from_slice(salt);
        Self { cipher, salt: padded, mac, tag }
    }

    /// RFC 3711 §4.1.1.
    fn cm_iv(&self, ssrc: u32, index: u64) -> [u8; 16] {
        let mut iv = [0; 16];
        iv[..SALT].copy_from_slice(&self.salt);
        iv[4..8].iter_mut().zip(ssrc.to_be_bytes()).for_each(|(byte, with)| *byte ^= with);
        iv[8..14].iter_mut().zip(&index.to_be_bytes()[2..]).for_each(|(byte, with)| *byte ^= with);
        iv
    }

    /// RFC 7714 §8.1 and §9.1: SRTCP's index has 31 bits, and zeros before them.
    fn gcm_iv(&self, ssrc: u32, index: u64) -> [u8; GCM_SALT] {
        let mut iv = [0; GCM_SALT];
        iv[2..6].copy_from_slice(&ssrc.to_be_bytes());
        iv[6..12].copy_from_slice(&index.to_be_bytes()[2..]);
        iv.iter_mut().zip(self.salt).for_each(|(byte, with)| *byte ^= with);
        iv
    }

    fn tag_of(&self, parts: [&[u8]; 2]) -> [u8; 20] {
        let Some(mac) = &self.mac else { return [0; 20] };
        let mut mac = mac.clone();
        parts.into_iter().for_each(|part| mac.update(part));
        mac.finalize().into_bytes().into()
    }

    fn is_tag(&self, parts: [&[u8]; 2], tag: &[u8]) -> bool {
        self.tag_of(parts)[..self.tag].ct_eq(tag).into()
    }

    fn gcm_seal(&self, iv: &[u8; GCM_SALT], known: &[u8], text: &mut [u8]) -> [u8; GCM_TAG] {
        let sealed = match &self.cipher {
            Cipher::Gcm128(cipher) => cipher.encrypt_inout_detached(iv.into(), known, text.into()),
            Cipher::Gcm256(cipher) => cipher.encrypt_inout_detached(iv.into(), known, text.into()),
            Cipher::Cm128(_) | Cipher::Cm256(_) => Err(aes_gcm::Error),
        };
        sealed.map(Into::into).expect("a datagram is no longer than GCM takes")
    }

    fn gcm_open(&self, iv: &[u8; GCM_SALT], known: &[u8], text: &mut [u8], tag: &[u8; GCM_TAG]) -> bool {
        match &self.cipher {
            Cipher::Gcm128(cipher) => cipher.decrypt_inout_detached(iv.into(), known, text.into(), tag.into()).is_ok(),
            Cipher::Gcm256(cipher) => cipher.decrypt_inout_detached(iv.into(), known, text.into(), tag.into()).is_ok(),
            Cipher::Cm128(_) | Cipher::Cm256(_) => false,
        }
    }

    fn cm(&self, iv: &[u8; 16], text: &mut [u8]) {
        match &self.cipher {
            Cipher::Cm128(cipher) => apply_cm(&**cipher, iv, text),
            Cipher::Cm256(cipher) => apply_cm(&**cipher, iv, text),
            Cipher::Gcm128(_) | Cipher::Gcm256(_) => {}
        }
    }

    fn is_gcm(&self) -> bool {
        self.mac.is_none()
    }

    /// The buffer has room for the tag.
    pub(super) fn seal_rtp(&self, buffer: &mut [u8], header: usize, length: usize, ssrc: u32, index: u64) -> usize {
        let end = length + self.tag;
        if self.is_gcm() {
            let (packet, rest) = buffer.split_at_mut(length);
            let (known, text) = packet.split_at_mut(header);
            let tag = self.gcm_seal(&self.gcm_iv(ssrc, index), known, text);
            rest[..self.tag].copy_from_slice(&tag);
            return end;
        }
        self.cm(&self.cm_iv(ssrc, index), &mut buffer[header..length]);
        let tag = self.tag_of([&buffer[..length], &rollovers(index)]);
        buffer[length..end].copy_from_slice(&tag[..self.tag]);
        end
    }

    /// Gives how long the packet is without its tag, if it is right; else it is as it was.
    pub(super) fn open_rtp(&self, buffer: &mut [u8], header: usize, ssrc: u32, index: u64) -> Option<usize> {
        let length = buffer.len().checked_sub(self.tag).filter(|length| *length >= header)?;
        if self.is_gcm() {
            let (packet, tag) = buffer.split_at_mut(length);
            let (known, text) = packet.split_at_mut(header);
            let tag: &[u8; GCM_TAG] = (&*tag).try_into().ok()?;
            return self.gcm_open(&self.gcm_iv(ssrc, index), known, text, tag).then_some(length);
        }
        if !self.is_tag([&buffer[..length], &rollovers(index)], &buffer[length..]) {
            return None;
        }
        self.cm(&self.cm_iv(ssrc, index), &mut buffer[header..length]);
        Some(length)
    }

    /// The buffer has room for the tag and the index. What SRTCP adds: behind the packet its index, and behind that the tag; GCM's tag comes first.
    pub(super) fn seal_rtcp(&self, buffer: &mut [u8], length: usize, ssrc: u32, index: u32) -> usize {
        let trailer = (index | ENCRYPTED).to_be_bytes();
        if self.is_gcm() {
            let (packet, rest) = buffer.split_at_mut(length);
            let (header, text) = packet.split_at_mut(RTCP_HEADER);
            let tag = self.gcm_seal(&self.gcm_iv(ssrc, index.into()), &rtcp_known(header, trailer), text);
            rest[..GCM_TAG].copy_from_slice(&tag);
            rest[GCM_TAG..GCM_TAG + INDEX].copy_from_slice(&trailer);
            return length + GCM_TAG + INDEX;
        }
        self.cm(&self.cm_iv(ssrc, index.into()), &mut buffer[RTCP_HEADER..length]);
        buffer[length..length + INDEX].copy_from_slice(&trailer);
        let tag = self.tag_of([&buffer[..length + INDEX], &[]]);
        buffer[length + INDEX..length + INDEX + self.tag].copy_from_slice(&tag[..self.tag]);
        length + INDEX + self.tag
    }

    /// How long a packet is without what SRTCP adds, and its index with the bit that says that it is encrypted.
    pub(super) fn rtcp_trailer(&self, packet: &[u8]) -> Option<(usize, u32)> {
        let length = packet.len().checked_sub(INDEX + self.tag).filter(|length| *length >= RTCP_HEADER)?;
        let at = if self.is_gcm() { length + self.tag } else { length };
        Some((length, u32::from_be_bytes(packet.get(at..at + INDEX)?.try_into().ok()?)))
    }

    /// Whether the tag is right; then the first `length` bytes are the packet.
    pub(super) fn open_rtcp(&self, buffer: &mut [u8], length: usize, ssrc: u32, trailer: u32) -> bool {
        let index = u64::from(trailer & !ENCRYPTED);
        if self.is_gcm() {
            let (packet, rest) = buffer.split_at_mut(length);
            let Some(tag) = rest.first_chunk::<GCM_TAG>() else { return false };
            let (header, text) = packet.split_at_mut(RTCP_HEADER);
            return self.gcm_open(&self.gcm_iv(ssrc, index), &rtcp_known(header, trailer.to_be_bytes()), text, tag);
        }
        let (signed, tag) = buffer.split_at(length + INDEX);
        if !self.is_tag([signed, &[]], tag) {
            return false;
        }
        self.cm(&self.cm_iv(ssrc, index), &mut buffer[RTCP_HEADER..length]);
        true
    }
}

/// The rollover counter, as it is signed behind the packet.
fn rollovers(index: u64) -> [u8; 4] {
    let bytes = index.to_be_bytes();
    [bytes[2], bytes[3], bytes[4], bytes[5]]
}

/// What GCM signs of SRTCP in clear: the header, and the trailer.
fn rtcp_known(header: &[u8], trailer: [u8; INDEX]) -> [u8; RTCP_HEADER + INDEX] {
    let mut known = [0; RTCP_HEADER + INDEX];
    known[..RTCP_HEADER].copy_from_slice(&header[..RTCP_HEADER]);
    known[RTCP_HEADER..].copy_from_slice(&trailer);
    known
}

#[cfg(test)]
impl SessionKeys {
    /// Of keys that a vector names.
    pub(super) fn of_vector(suite: Suite, key: &[u8], salt: &[u8]) -> Self {
        Self::new(suite, key, salt, &[], GCM_TAG)
    }

    /// For the vectors of RFC 3711 appendix B.3 and RFC 6188.
    pub(super) fn derived(key: &[u8], salt: &[u8], label: u8, length: usize) -> Vec<u8> {
        let mut out = vec![0; length];
        derive(key, salt, label, &mut out);
        out
    }
}

//! What is stored is sealed: records hold keys of calls and what passwords are checked by, and disks are read by others than their node.
//! Layer: ground.
//!
//! AES-256-GCM-SIV (RFC 8452) by a key that is made of `cluster.secret`: a nonce that came twice would tell that two texts are the same, and no more.
//! What earlier releases stored in clear is read as it is.

use std::fmt;
use std::io;

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// What is sealed begins with it: no MessagePack and no dense record does.
const MARK: &[u8; 8] = b"\xc1sealed\x01";

/// What was stored can't be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it was sealed by another cluster.secret, or is broken")]
struct Unopened;

/// The cluster's key.
pub struct Seal(RandomizedNonceKey);

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seal(hidden)")
    }
}

impl Seal {
    /// By `cluster.secret`, for one kind of what is stored.
    pub fn new(secret: &[u8], what: &[u8]) -> Self {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("any length is a key's");
        mac.update(what);
        let key = mac.finalize().into_bytes();
        Self(RandomizedNonceKey::new(&AES_256_GCM_SIV, &key).expect("the key is as long as the cipher's"))
    }

    /// Seals what is to be stored.
    pub fn seal(&self, plain: &[u8]) -> io::Result<Vec<u8>> {
        let mut text = plain.to_vec();
        let nonce = self.0.seal_in_place_append_tag(Aad::from(MARK), &mut text).map_err(io::Error::other)?;
        let mut sealed = Vec::with_capacity(MARK.len() + NONCE_LEN + text.len());
        sealed.extend(MARK);
        sealed.extend(nonce.as_ref());
        sealed.append(&mut text);
        Ok(sealed)
    }

    /// Opens what was stored, which never was in clear.
    pub fn open_sealed(&self, stored: Vec<u8>) -> io::Result<Vec<u8>> {
        if !stored.starts_with(MARK) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, Unopened));
        }
        self.open(stored)
    }

    /// Opens what was stored.
    pub fn open(&self, stored: Vec<u8>) -> io::Result<Vec<u8>> {
        let Some((nonce, text)) = stored.strip_prefix(MARK).map(|sealed| sealed.split_at(NONCE_LEN.min(sealed.len()))) else {
            return Ok(stored);
        };
        let unopened = |_| io::Error::new(io::ErrorKind::InvalidData, Unopened);
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(unopened)?;
        let mut text = text.to_vec();
        let length = self.0.open_in_place(nonce, Aad::from(MARK), &mut text).map_err(unopened)?.len();
        text.truncate(length);
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_has_the_secret_reads_what_was_stored() {
        let seal = Seal::new(b"a secret", b"storage");
        let text = b"a key of a call".to_vec();
        let stored = seal.seal(&text).unwrap();
        assert_ne!(stored, seal.seal(&text).unwrap());
        assert!(!stored.windows(4).any(|window| window == b"call"));
        assert_eq!(Seal::new(b"a secret", b"storage").open(stored.clone()).unwrap(), text);
        assert_eq!(seal.open(text.clone()).unwrap(), text, "an earlier release stored it");
        assert!(seal.open_sealed(text.clone()).is_err() && seal.open_sealed(stored.clone()).is_ok());
        let refused = Seal::new(b"another", b"storage").open(stored.clone()).unwrap_err().to_string();
        assert_eq!(refused, "it was sealed by another cluster.secret, or is broken");
        for at in MARK.len()..stored.len() {
            let mut broken = stored.clone();
            broken[at] ^= 1;
            assert!(seal.open(broken).is_err());
            assert!(seal.open(stored[..at].to_vec()).is_err());
        }
    }
}

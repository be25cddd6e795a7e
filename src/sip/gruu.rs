//! Globally routable user agent URIs (RFC 5627): a name for one phone of several that share an address-of-record. Layer: pure.
//!
//! Neither kind needs a record. A public one says the instance; a temporary one has, sealed with the cluster's secret, whose it is, which
//! instance, and the Call-ID of the registration that it came from (RFC 5627 §5.1: another Call-ID ends it), so any node reads it.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use super::registrar::Binding;
use super::uri::{Uri, escape_user};
use crate::clock::Timestamp;
use crate::ids::Aor;

/// What a temporary GRUU's user part begins with.
const MARK: &str = "tgruu.";
/// Bytes of a tag, which is the nonce of the stream too.
const TAG: usize = 16;
/// Bytes of a name's hash.
const NAME: usize = 8;

/// Makes and reads GRUUs.
#[derive(Clone)]
pub struct Gruus {
    seal: [u8; 32],
    stream: [u8; 32],
}

impl std::fmt::Debug for Gruus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Gruus(hidden)")
    }
}

/// A GRUU of ours, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gruu {
    /// Whose phone it is.
    pub aor: Aor,
    which: Which,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Which {
    /// The instance, without its brackets.
    Public(String),
    Temporary {
        instance: [u8; NAME],
        call_id: [u8; NAME],
    },
}

/// A GRUU that names nobody any more, or never did (RFC 5627 §6.1: 404).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the GRUU is not valid")]
pub struct Invalid;

impl Gruus {
    /// Every node of the cluster has the same `secret`.
    pub fn new(secret: &[u8]) -> Self {
        let key = |what: &[u8]| mac(secret, &[b"gruu", what]);
        Self { seal: key(b"seal"), stream: key(b"stream") }
    }

    /// The public GRUU of an instance.
    pub fn public(aor: &Aor, instance: &str) -> String {
        format!("sip:{}@{};gr={}", escape_user(aor.user()), aor.domain(), bare(instance))
    }

    /// A temporary GRUU of an instance, like no other (RFC 5627 §5.1).
    pub fn temporary(&self, aor: &Aor, instance: &str, call_id: &str, cseq: u32, now: Timestamp) -> String {
        let mut plain = Vec::with_capacity(28 + aor.as_str().len());
        plain.extend(name(bare(instance)));
        plain.extend(name(call_id));
        plain.extend(cseq.to_be_bytes());
        plain.extend(now.0.to_be_bytes());
        plain.extend(aor.as_str().as_bytes());
        let tag: [u8; 32] = mac(&self.seal, &[&plain]);
        self.apply_stream(&tag[..TAG], &mut plain);
        format!("sip:{MARK}{}{}@{};gr", hex::encode(&tag[..TAG]), hex::encode(plain), aor.domain())
    }

    /// Reads a URI of our domain; none if it is no GRUU.
    pub fn read(&self, uri: &Uri, domain: &str) -> Option<Result<Gruu, Invalid>> {
        let gr = uri.param("gr")?;
        let user = uri.user_text()?;
        if !gr.is_empty() {
            return Some(Ok(Gruu { aor: Aor::new(&user, domain), which: Which::Public(gr.to_owned()) }));
        }
        Some(user.strip_prefix(MARK).and_then(|sealed| self.open(sealed, domain)).ok_or(Invalid))
    }

    fn open(&self, sealed: &str, domain: &str) -> Option<Gruu> {
        let bytes = hex::decode(sealed).ok().filter(|bytes| bytes.len() > TAG + 2 * NAME + 12)?;
        let (tag, sealed) = bytes.split_at(TAG);
        let mut plain = sealed.to_vec();
        self.apply_stream(tag, &mut plain);
        let right: bool = mac(&self.seal, &[&plain])[..TAG].ct_eq(tag).into();
        let aor = std::str::from_utf8(plain.get(2 * NAME + 12..)?).ok().filter(|_| right)?;
        let aor = aor.rsplit_once('@').map(|(user, _)| Aor::new(user, domain))?;
        let which =
            Which::Temporary { instance: plain[..NAME].try_into().ok()?, call_id: plain[NAME..2 * NAME].try_into().ok()? };
        Some(Gruu { aor, which })
    }

    /// The tag is the nonce: it is another for every other text, so no two share a stream.
    fn apply_stream(&self, tag: &[u8], text: &mut [u8]) {
        for (at, block) in (0_u32..).zip(text.chunks_mut(32)) {
            let stream = mac(&self.stream, &[tag, &at.to_be_bytes()]);
            block.iter_mut().zip(stream).for_each(|(byte, key)| *byte ^= key);
        }
    }
}

impl Gruu {
    /// Whether a binding is of the phone that is meant.
    pub fn is_of(&self, binding: &Binding) -> bool {
        let Some(instance) = binding.instance.as_deref().map(bare) else { return false };
        match &self.which {
            Which::Public(own) => own == instance,
            Which::Temporary { instance: own, call_id } => *own == name(instance) && *call_id == name(&binding.call_id),
        }
    }

    /// Whether it is valid although nobody is registered by it (RFC 5627 §5.3): then it is 480, else 404.
    pub fn stays(&self) -> bool {
        matches!(self.which, Which::Public(_))
    }
}

/// An instance without the brackets that it is written in (RFC 5626 §4.1).
fn bare(instance: &str) -> &str {
    instance.strip_prefix('<').and_then(|text| text.strip_suffix('>')).unwrap_or(instance)
}

fn name(text: &str) -> [u8; NAME] {
    let mut short = [0; NAME];
    short.copy_from_slice(&mac(b"gruu name", &[text.as_bytes()])[..NAME]);
    short
}

fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const INSTANCE: &str = "<urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6>";

    fn read(gruus: &Gruus, text: &str) -> Option<Result<Gruu, Invalid>> {
        gruus.read(&Uri::parse(&text.into()).unwrap(), "x.test")
    }

    #[test]
    fn both_kinds_lead_back_to_the_phone_and_only_to_it() {
        let (gruus, aor) = (Gruus::new(b"secret"), Aor::new("al ice", "x.test"));
        let public = Gruus::public(&aor, INSTANCE);
        assert_eq!(public, "sip:al%20ice@x.test;gr=urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6");
        let temporary = gruus.temporary(&aor, INSTANCE, "call", 7, Timestamp(1));
        assert_ne!(temporary, gruus.temporary(&aor, INSTANCE, "call", 7, Timestamp(2)));
        let binding = |instance: &str, call_id: &str| Binding {
            instance: Some(instance.into()),
            call_id: call_id.into(),
            ..crate::sip::registrar::tests::binding()
        };
        for gruu in [public, temporary.clone()] {
            let found = read(&gruus, &gruu).unwrap().unwrap();
            assert_eq!(found.aor, aor);
            assert!(found.is_of(&binding(INSTANCE, "call")) && !found.is_of(&binding("<urn:x>", "call")));
            assert_eq!(found.is_of(&binding(INSTANCE, "another call")), found.stays());
        }
        assert_eq!(read(&Gruus::new(b"another secret"), &temporary), Some(Err(Invalid)));
        assert_eq!(read(&gruus, "sip:alice@x.test"), None);
    }

    proptest! {
        #[test]
        fn what_is_made_up_is_not_valid(user in "tgruu\\.[0-9a-f]{0,200}") {
            prop_assert_eq!(read(&Gruus::new(b"secret"), &format!("sip:{user}@x.test;gr")), Some(Err(Invalid)));
        }
    }
}

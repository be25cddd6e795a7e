//! DTLS-SRTP with one phone, as descriptions and records have it: certificates, fingerprints, roles, and ICE beside them (RFC 5763, RFC 8842, RFC
//! 8839). Layer: pure.
//!
//! We are the server always, so that the phone has its keys only by our last flight, which waits until they can't be lost any more. Our certificates
//! are made of the call's secret: every node of the cluster has the same.

use std::fmt;
use std::net::SocketAddr;

use bytes::Bytes;
use p256::ecdsa::signature::Signer;
use p256::ecdsa::{DerSignature, SigningKey};
use p256::pkcs8::EncodePrivateKey;
use sdp_types::{Attribute, Media};
use sha2::{Digest, Sha256, Sha384, Sha512};

use super::ice::{Agent, Credentials, candidate};
use super::protection::{ProtectionError, Secret};
use super::srtp::MasterKey;

/// A call's first certificate, and the last: nobody is asked for another handshake more often.
const FIRST: u32 = 1;
const LAST: u32 = 4;
/// RFC 8839 §5.4.
const LONGEST_UFRAG: usize = 256;
const LONGEST_MID: usize = 32;
/// More fingerprints than this aren't looked at.
const MOST_PRINTS: usize = 8;
/// What a description for such a phone has from us, and not from another phone.
const WRITTEN: [&str; 10] =
    ["mid", "rtcp-mux", "ice-ufrag", "ice-pwd", "candidate", "end-of-candidates", "fingerprint", "setup", "tls-id", "crypto"];
/// What only means something on the phone's own transport, or to another browser.
const ITS_OWN: [&str; 10] = [
    "msid",
    "msid-semantic",
    "ssrc",
    "ssrc-group",
    "extmap",
    "extmap-allow-mixed",
    "rtcp-rsize",
    "rtcp-xr",
    "zrtp-hash",
    "key-mgmt",
];
const GROUP: &str = "group";
const LITE: &str = "ice-lite";

/// A certificate of a call's, and its key, which fit.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    /// X.509, in DER.
    pub certificate: Vec<u8>,
    /// PKCS#8, in DER.
    pub private_key: Vec<u8>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity(hidden)")
    }
}

/// The key as rcgen wants it: with RFC 6979's signatures, which are the same each time.
struct Fixed {
    key: SigningKey,
    public: Vec<u8>,
}

impl rcgen::PublicKeyData for Fixed {
    fn der_bytes(&self) -> &[u8] {
        &self.public
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for Fixed {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signature: DerSignature = self.key.sign(message);
        Ok(signature.as_bytes().to_vec())
    }
}

impl Identity {
    /// The certificate of this number: the same to the byte wherever the secret is known.
    pub fn of(secret: &Secret, number: u32) -> Self {
        // All but one of 2^32 are keys.
        let key = (0..).find_map(|n| p256::SecretKey::from_slice(&secret.derive("dtls key", &[number, n])[..32]).ok());
        let key = key.expect("one of 2^32 is a key");
        let private_key = key.to_pkcs8_der().expect("a key can be written").as_bytes().to_vec();
        let key = SigningKey::from(&key);
        let public = key.verifying_key().to_sec1_point(false).as_bytes().to_vec();
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, "tandem");
        params.serial_number = Some(secret.derive("dtls serial", &[number])[..16].to_vec().into());
        // Nobody looks at more than the fingerprint (RFC 5763 §5).
        params.not_before = rcgen::date_time_ymd(2024, 1, 1);
        params.not_after = rcgen::date_time_ymd(2049, 12, 31);
        let certificate = params.self_signed(&Fixed { key, public }).expect("what is written here is a certificate");
        Self { certificate: certificate.der().to_vec(), private_key }
    }

    /// What descriptions say of it.
    pub fn print(&self) -> Fingerprint {
        Fingerprint { hash: Hash::Sha256, bytes: Hash::Sha256.of(&self.certificate) }
    }
}

/// How a certificate is hashed (RFC 8122 §5); the older ones prove nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Hash {
    Sha256,
    Sha384,
    Sha512,
}

impl Hash {
    const ALL: [Self; 3] = [Self::Sha256, Self::Sha384, Self::Sha512];

    /// As descriptions and records have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha-256",
            Self::Sha384 => "sha-384",
            Self::Sha512 => "sha-512",
        }
    }

    /// The one of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|hash| hash.name().eq_ignore_ascii_case(name))
    }

    fn of(self, certificate: &[u8]) -> Vec<u8> {
        match self {
            Self::Sha256 => Sha256::digest(certificate).to_vec(),
            Self::Sha384 => Sha384::digest(certificate).to_vec(),
            Self::Sha512 => Sha512::digest(certificate).to_vec(),
        }
    }
}

/// `a=fingerprint` (RFC 8122 §5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint {
    /// By what.
    pub hash: Hash,
    /// Of the certificate.
    pub bytes: Vec<u8>,
}

impl Fingerprint {
    /// Reads the attribute's value.
    pub fn parse(value: &str) -> Option<Self> {
        let (name, hex) = value.trim().split_once(' ')?;
        let hash = Hash::named(name)?;
        let bytes = hex.trim().split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<Vec<_>, _>>().ok()?;
        (bytes.len() == hash.of(&[]).len()).then_some(Self { hash, bytes })
    }

    /// Whether it is this certificate's.
    pub fn is_of(&self, certificate: &[u8]) -> bool {
        self.hash.of(certificate) == self.bytes
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.hash.name())?;
        for (at, byte) in self.bytes.iter().enumerate() {
            write!(f, "{}{byte:02X}", if at > 0 { ":" } else { "" })?;
        }
        Ok(())
    }
}

/// One DTLS association with a phone (RFC 8842 §3), and how it is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Association {
    /// Which certificate of the call's we show.
    pub number: u32,
    /// The phone's; none until it has said them. Any of them may be its certificate's.
    pub prints: Vec<Fingerprint>,
    /// Unless it does without.
    pub ice: Option<Ice>,
    /// It has its RTCP on the same port (RFC 5761).
    pub is_muxed: bool,
    /// What its last description has: with UDP or without, with feedback (RFC 5124) or without.
    pub protocol: String,
    /// What it calls the stream (RFC 5888).
    pub mid: Option<String>,
    /// It has a BUNDLE group that begins with this stream (RFC 9143); the others of the group have transports of their own.
    pub begins_bundle: bool,
    /// The keys, once there are some.
    pub keyed: Option<Keyed>,
}

/// Its ICE.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ice {
    /// Which credentials of ours are the current ones.
    pub generation: u32,
    /// The phone's name, once it has said it.
    pub theirs: Option<String>,
}

/// What came of a handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keyed {
    /// What the phone sends by.
    pub theirs: MasterKey,
    /// What we send by.
    pub ours: MasterKey,
    /// Our last flight, for a phone that has not heard it: by it the handshake ends there.
    pub last_flight: Vec<Bytes>,
    /// They were agreed here: no other node has used them.
    pub is_fresh: bool,
}

/// What the ends of a call that have an association need to know of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dtls {
    /// What certificates are made of.
    pub secret: Secret,
    /// With the phone.
    pub association: Association,
    /// Who answers its checks.
    pub agent: Option<Agent>,
}

impl Default for Association {
    /// With a phone that has said nothing yet: it may have all that we can offer.
    fn default() -> Self {
        Self {
            number: FIRST,
            prints: Vec::new(),
            ice: Some(Ice::default()),
            is_muxed: true,
            protocol: "UDP/TLS/RTP/SAVPF".to_owned(),
            mid: None,
            begins_bundle: false,
            keyed: None,
        }
    }
}

/// Where an end is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) leg: usize,
    pub(super) stream: usize,
    pub(super) local: SocketAddr,
}

impl Association {
    /// Takes what the phone says of it. `bundle` is the first stream of its group.
    pub(super) fn take(&mut self, media: &Media, answers: bool, bundle: Option<&str>) -> Result<(), ProtectionError> {
        let values = |name: &'static str| {
            let named = media.attributes.iter().filter(move |attribute| attribute.attribute == name);
            named.filter_map(|attribute| attribute.value.as_deref())
        };
        let value = |name| values(name).next();
        let prints: Vec<_> = values("fingerprint").filter_map(Fingerprint::parse).take(MOST_PRINTS).collect();
        if prints.is_empty() {
            return Err(ProtectionError::NoKey);
        }
        // As its server we would need what no phone's certificate has, and could not wait with our last flight.
        if value("setup").is_some_and(|setup| !["active", "actpass"].iter().any(|known| setup.trim().eq_ignore_ascii_case(known)))
        {
            return Err(ProtectionError::Role);
        }
        if prints != self.prints {
            self.keyed = None;
            self.prints = prints;
        }
        let ufrag = value("ice-ufrag");
        if ufrag.is_some_and(|ufrag| ufrag.len() > LONGEST_UFRAG) {
            return Err(ProtectionError::NoKey);
        }
        let before = self.ice.take();
        self.ice = ufrag.map(|theirs| {
            let Ice { generation, theirs: known } = before.unwrap_or_default();
            // RFC 8839 §4.4.1.1: a restart is the offerer's, and has an answer by new credentials.
            let restarts = !answers && known.is_some_and(|known| known != theirs);
            Ice { generation: generation + u32::from(restarts), theirs: Some(theirs.to_owned()) }
        });
        self.is_muxed = media.attributes.iter().any(|attribute| attribute.attribute == "rtcp-mux");
        self.protocol = media.proto.to_uppercase();
        self.mid = value("mid").filter(|mid| mid.len() <= LONGEST_MID).map(str::to_owned);
        self.begins_bundle = bundle.is_some() && bundle == self.mid.as_deref();
        Ok(())
    }

    /// Writes it into what the phone is told.
    pub(super) fn write(&self, media: &mut Media, place: Place, answers: bool, secret: &Secret) {
        self.write_profile(media);
        let mut say = |name: &str, value: Option<String>| media.attributes.push(Attribute { attribute: name.into(), value });
        if let Some(mid) = &self.mid {
            say("mid", Some(mid.clone()));
        }
        if self.is_muxed || !answers {
            say("rtcp-mux", None);
        }
        if let Some(ice) = &self.ice {
            let credentials = Credentials::of(secret, place.leg, place.stream, ice.generation);
            say("ice-ufrag", Some(credentials.ufrag.clone()));
            say("ice-pwd", Some(credentials.password().to_owned()));
            say("candidate", Some(candidate(place.local)));
            say("end-of-candidates", None);
        }
        say("fingerprint", Some(Identity::of(secret, self.number).print().to_string()));
        say("setup", Some(if answers { "passive" } else { "actpass" }.to_owned()));
    }

    /// The same of a stream that isn't carried.
    pub(super) fn write_profile(&self, media: &mut Media) {
        media.attributes.retain(|attribute| !WRITTEN.contains(&attribute.attribute.as_str()));
        media.proto.clone_from(&self.protocol);
        if let Some(mid) = self.mid.as_ref().filter(|_| media.port == 0) {
            media.attributes.push(Attribute { attribute: "mid".into(), value: Some(mid.clone()) });
        }
    }

    /// Whether a certificate is the phone's.
    pub fn is_of(&self, certificate: &[u8]) -> bool {
        self.prints.iter().any(|print| print.is_of(certificate))
    }

    /// What the ends need to know of it.
    pub(super) fn plan(&self, leg: usize, stream: usize, secret: &Secret) -> Dtls {
        let credentials = |ice: &Ice| {
            [ice.generation, ice.generation.saturating_sub(1)].map(|generation| Credentials::of(secret, leg, stream, generation))
        };
        let agent = self.ice.as_ref().map(|ice| Agent { ours: credentials(ice), theirs: ice.theirs.clone() });
        Dtls { secret: *secret, association: self.clone(), agent }
    }

    /// A phone is stuck in a handshake that nobody here knows the keys of: it is to begin another, with another certificate, since it goes on with
    /// the one that it has begun otherwise, by another path. Tells whether it may.
    pub(super) fn renew(&mut self) -> bool {
        let may = self.may_be_renewed();
        if may {
            self.number += 1;
            self.keyed = None;
            self.restart();
        }
        may
    }

    /// With a phone that has said nothing, and may be one without all this, until it answers.
    pub(super) fn provisional() -> Self {
        Self { ice: None, is_muxed: false, ..Self::default() }
    }

    /// Whether a phone may be asked for another handshake.
    pub fn may_be_renewed(&self) -> bool {
        self.number < LAST
    }

    /// ICE is to begin anew.
    pub(super) fn restart(&mut self) {
        self.ice.iter_mut().for_each(|ice| ice.generation += 1);
    }

    /// It is over; the phone may begin another by the same certificate.
    pub(super) fn forget(&mut self) {
        self.keyed = None;
        self.prints.clear();
        self.restart();
    }

    /// The same with another phone.
    pub(super) fn anew(&self) -> Self {
        let ice = self.ice.as_ref().map_or(0, |ice| ice.generation);
        Self { number: self.number, ice: Some(Ice { generation: ice, theirs: None }), ..Self::default() }
    }
}

/// Takes from a stream what only means something to the phone that said it.
pub(super) fn take_its_own(media: &mut Media) {
    let its_own =
        |attribute: &Attribute| [&WRITTEN[..], &ITS_OWN].iter().any(|known| known.contains(&attribute.attribute.as_str()));
    media.attributes.retain(|attribute| !its_own(attribute));
}

/// The first stream of a description's BUNDLE group.
pub(super) fn bundle(attributes: &[Attribute]) -> Option<String> {
    let groups = attributes.iter().filter(|attribute| attribute.attribute == GROUP);
    groups
        .filter_map(|group| group.value.as_deref()?.strip_prefix("BUNDLE "))
        .find_map(|mids| mids.split(' ').next().map(str::to_owned))
}

/// What a description says of all streams, for such a phone.
pub(super) fn write_of_all<'a>(attributes: &mut Vec<Attribute>, associations: impl Iterator<Item = &'a Association> + Clone) {
    let is_of_all = |attribute: &Attribute| [GROUP, LITE].contains(&attribute.attribute.as_str());
    attributes.retain(|attribute| !is_of_all(attribute) && !ITS_OWN.contains(&attribute.attribute.as_str()));
    if associations.clone().any(|association| association.ice.is_some()) {
        attributes.push(Attribute { attribute: LITE.into(), value: None });
    }
    let begins = |association: &'a Association| association.mid.as_ref().filter(|_| association.begins_bundle);
    if let Some(mid) = associations.clone().find_map(begins) {
        attributes.push(Attribute { attribute: GROUP.into(), value: Some(format!("BUNDLE {mid}")) });
    }
}

#[cfg(test)]
mod tests;

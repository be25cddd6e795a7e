//! DTLS 1.2 as its server, up to the keys of SRTP (RFC 5764; RFC 6347). Layer: shell, since dimpl has random numbers of its own.
//!
//! ```text
//!  Deaf ──ClientHello──▶ Asked ──(cookie)──▶ Answered ──flight 5──▶ Over: Done has keys and the last flight
//!   └────────── what can't be gone on with, or the time ──────────▶ Over: an error
//! ```
//!
//! The peer is ready when it has our last flight, and no sooner: that is why it is given out in [`Done`] only, for whoever has it to see first that
//! the keys aren't lost. From then on the flight's bytes answer for the handshake ([`dealing`]): they are right whoever sends them.
//!
//! Invariants: nothing but a ClientHello reaches dimpl until it has answered one, since it would take what is left of a former association for
//! this one's; no packet of the last flight is in [`Step::send`]; after the end nothing is heard.

use std::fmt;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, UnparsedPublicKey};
use dimpl::crypto::{CryptoProvider, SignatureVerifier, aws_lc_rs as provider};
use dimpl::{
    Config, CryptoError, CryptoOperation, Dtls, DtlsCertificate, HashAlgorithm, Output, SignatureAlgorithm, SrtpProfile,
};
use x509_cert::der::Decode;
use x509_cert::der::asn1::ObjectIdentifier;

use super::core::dtls::Identity;
use super::core::srtp::{MasterKey, Suite};

/// Our packets are no longer.
const MTU: usize = 1200;
/// When a flight of ours is repeated for the first time; each time later by twice that.
const FIRST_REPEAT: Duration = Duration::from_millis(200);
/// How often it is repeated.
const REPEATS: usize = 6;
/// From the ClientHello on.
const TIME: Duration = Duration::from_secs(30);
/// No datagram of a peer's is longer: flights are cut to what a link carries.
const LONGEST: usize = 2048;
/// What one handshake may bring in all, repeated flights included, in bytes.
const MOST_HEARD: usize = 64 * 1024;
/// What waits for what comes before it, in datagrams.
const MOST_WAITING: usize = 30;

/// The headers of a record and of a handshake message.
const RECORD: usize = 13;
const MESSAGE: usize = 12;
const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;
const CERTIFICATE: u8 = 11;
const CERTIFICATE_VERIFY: u8 = 15;
const CLIENT_KEY_EXCHANGE: u8 = 16;
/// RFC 8017's rsaEncryption.
const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");

/// Why a handshake gives no keys.
#[derive(Debug, thiserror::Error)]
pub enum DtlsError {
    /// Neither this handshake nor any other is possible.
    #[error("DTLS can't be set up")]
    Setup(#[source] dimpl::Error),
    /// The peer said what we don't take, proved nothing, or fell silent. `alert` tells it, if anything does.
    #[error("the handshake failed")]
    Failed {
        /// What it failed by.
        #[source]
        why: dimpl::Error,
        /// What is to be sent.
        alert: Vec<Vec<u8>>,
    },
    /// It succeeded, and was none for SRTP, or for no profile of ours.
    #[error("no keys for SRTP were agreed on")]
    NoKeys,
    /// No handshake is as long as that.
    #[error("more came than belongs to a handshake")]
    TooMuch,
}

/// What a datagram, or the time, has brought about.
#[derive(Debug, Default)]
pub struct Step {
    /// To be sent to where the peer is, now.
    pub send: Vec<Vec<u8>>,
    /// When [`Handshake::timeout`] is due; another step may say another time.
    pub wake: Option<Instant>,
    /// It has come to its end.
    pub done: Option<Done>,
}

/// What a handshake was for.
#[derive(Debug)]
pub struct Done {
    /// What the peer sends by.
    pub theirs: MasterKey,
    /// What we send by.
    pub ours: MasterKey,
    /// The peer's certificate, DER: it has the key of it, and is nobody until its fingerprint is the one that was signalled.
    pub peer: Vec<u8>,
    /// To be sent as soon as the keys are safe, and again whenever the peer repeats its own ([`Dealing::Again`]).
    pub last_flight: Vec<Vec<u8>>,
}

/// One handshake with one peer.
pub struct Handshake {
    /// None when it is over.
    dtls: Option<Box<Dtls>>,
    /// Our ServerHello has gone.
    answered: bool,
    /// In bytes.
    heard: usize,
    /// What the peer says that its certificate is.
    peer: Vec<u8>,
    wake: Option<Instant>,
    /// Time doesn't run back.
    now: Instant,
}

impl fmt::Debug for Handshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Handshake({:?})", self.dtls)
    }
}

/// What dimpl has to say after an input.
#[derive(Default)]
struct Said {
    packets: Vec<Vec<u8>>,
    keys: Option<(SrtpProfile, Vec<u8>)>,
    connected: bool,
}

impl Handshake {
    /// Waits for a ClientHello, as long as one likes. `proved`: the peer's address is known to be its own (ICE), so that no cookie has to show it.
    pub fn new(identity: &Identity, proved: bool, now: Instant) -> Result<Self, DtlsError> {
        let config = if proved { &WITHOUT_COOKIE } else { &WITH_COOKIE };
        let config = config.as_ref().map_err(|why| DtlsError::Setup(why.clone()))?;
        let Identity { certificate, private_key } = identity.clone();
        let dtls = Dtls::new_12(Arc::clone(config), DtlsCertificate { certificate, private_key }, now);
        Ok(Self { dtls: Some(Box::new(dtls)), answered: false, heard: 0, peer: Vec::new(), wake: None, now })
    }

    /// Takes a datagram of the peer's. What is none of this handshake's changes nothing.
    pub fn take(&mut self, datagram: &[u8], now: Instant) -> Result<Step, DtlsError> {
        let belongs = match Record::of(datagram) {
            _ if datagram.len() > LONGEST => false,
            Some(record) if !self.answered => record.message == Some(CLIENT_HELLO),
            Some(record) => record.is_clients(),
            None => false,
        };
        if !belongs {
            return Ok(Step { wake: self.wake, ..Step::default() });
        }
        self.advance(Some(datagram), now)
    }

    /// Nothing came until [`Step::wake`].
    pub fn timeout(&mut self, now: Instant) -> Result<Step, DtlsError> {
        self.advance(None, now)
    }

    /// Whether the peer has been answered, and has shown before that it is where it says, if it had to.
    pub fn has_answered(&self) -> bool {
        self.answered
    }

    /// Whether there is nothing more to come of it.
    pub fn is_over(&self) -> bool {
        self.dtls.is_none()
    }

    fn advance(&mut self, datagram: Option<&[u8]>, now: Instant) -> Result<Step, DtlsError> {
        // It comes back if there is a reason to.
        let Some(mut dtls) = self.dtls.take() else { return Ok(Step::default()) };
        self.wake = None;
        self.now = self.now.max(now);
        self.heard += datagram.map_or(0, <[u8]>::len);
        if self.heard > MOST_HEARD {
            return Err(DtlsError::TooMuch);
        }
        // dimpl must know the time before it hears anything. What it sends because of the time is no part of what it answers.
        dtls.handle_timeout(self.now).map_err(|why| self.failed(&mut dtls, why))?;
        let mut send = self.said(&mut dtls).packets;
        let said = match datagram {
            Some(datagram) => {
                dtls.handle_packet(datagram).map_err(|why| self.failed(&mut dtls, why))?;
                self.said(&mut dtls)
            }
            None => Said::default(),
        };
        if said.connected {
            let (theirs, ours) = said.keys.and_then(|(profile, keys)| split(profile, &keys)).ok_or(DtlsError::NoKeys)?;
            let peer = std::mem::take(&mut self.peer);
            self.wake = None;
            return Ok(Step { send, wake: None, done: Some(Done { theirs, ours, peer, last_flight: said.packets }) });
        }
        self.answered |=
            said.packets.iter().any(|packet| Record::of(packet).is_some_and(|record| record.message == Some(SERVER_HELLO)));
        send.extend(said.packets);
        self.dtls = Some(dtls);
        Ok(Step { send, wake: self.wake, done: None })
    }

    /// All that dimpl has to say.
    fn said(&mut self, dtls: &mut Dtls) -> Said {
        // No certificate is longer than what has come: dimpl panics if it doesn't fit.
        let mut buffer = vec![0; self.heard.max(LONGEST)];
        let mut said = Said::default();
        loop {
            match dtls.poll_output(&mut buffer) {
                Output::Packet(packet) => said.packets.push(packet.to_vec()),
                Output::PeerCert(der) => self.peer = der.to_vec(),
                Output::KeyingMaterial(keys, profile) => said.keys = Some((profile, keys.to_vec())),
                Output::Connected => said.connected = true,
                Output::Timeout(at) => {
                    // Years ahead when it waits for nothing.
                    self.wake = (at <= self.now + TIME).then_some(at);
                    return said;
                }
                Output::BufferTooSmall { needed } => buffer.resize(needed, 0),
                // Of an association that is up.
                Output::ApplicationData(_) | Output::CloseNotify | _ => {}
            }
        }
    }

    /// It is over. Nothing goes out but an alert.
    fn failed(&mut self, dtls: &mut Dtls, why: dimpl::Error) -> DtlsError {
        let mut alert = self.said(dtls).packets;
        alert.retain(|packet| packet.first() == Some(&ALERT));
        self.wake = None;
        DtlsError::Failed { why, alert }
    }
}

/// RFC 5764 §4.2: the client's key, the server's, the client's salt, the server's. Gives what each of the two sends by.
fn split(profile: SrtpProfile, all: &[u8]) -> Option<(MasterKey, MasterKey)> {
    let suite = match profile {
        SrtpProfile::AEAD_AES_256_GCM => Suite::AeadAes256Gcm,
        SrtpProfile::AEAD_AES_128_GCM => Suite::AeadAes128Gcm,
        SrtpProfile::AES128_CM_SHA1_80 => Suite::AesCm128HmacSha1_80,
        _ => return None,
    };
    let (key, salt) = suite.lengths();
    if all.len() != 2 * (key + salt) {
        return None;
    }
    let (keys, salts) = all.split_at(2 * key);
    let of = |end: usize| MasterKey::new(suite, &[&keys[end * key..][..key], &salts[end * salt..][..salt]].concat());
    Some((of(0)?, of(1)?))
}

/// What a datagram's first record shows to everybody.
struct Record {
    kind: u8,
    epoch: u16,
    /// The kind of handshake message, unless it is encrypted.
    message: Option<u8>,
    /// It is its sender's first in the handshake.
    is_first: bool,
}

impl Record {
    fn of(datagram: &[u8]) -> Option<Self> {
        let (header, rest) = datagram.split_at_checked(RECORD)?;
        // RFC 6347 §4.1: DTLS 1.2, or 1.0 as long as nothing else is agreed on.
        if !matches!(header, [_, 0xfe, 0xfd | 0xff, ..]) || rest.len() < usize::from(u16::from_be_bytes([header[11], header[12]]))
        {
            return None;
        }
        let (kind, epoch) = (header[0], u16::from_be_bytes([header[3], header[4]]));
        let message = (kind == HANDSHAKE && epoch == 0 && rest.len() >= MESSAGE).then(|| rest[0]);
        Some(Self { kind, epoch, message, is_first: message.is_some() && rest[4..6] == [0, 0] })
    }

    /// Of the kind that a client sends until its handshake is done.
    fn is_clients(&self) -> bool {
        match (self.kind, self.epoch) {
            (HANDSHAKE, 0) => self.message == Some(CLIENT_HELLO) || self.is_flight_5(),
            (HANDSHAKE, 1) | (CHANGE_CIPHER_SPEC, 0) | (ALERT, 0 | 1) => true,
            _ => false,
        }
    }

    fn is_flight_5(&self) -> bool {
        matches!(self.message, Some(CERTIFICATE | CERTIFICATE_VERIFY | CLIENT_KEY_EXCHANGE))
    }
}

/// What a DTLS datagram is to those who have no handshake open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dealing {
    /// A first ClientHello: a new handshake, if a description has announced one.
    Hello,
    /// What goes on with a handshake that has begun. The peer's last flight once more says that it hasn't ours: that is sent again, by the same bytes,
    /// now and then.
    Again,
    /// Nothing to be answered: alerts, what is encrypted, what isn't DTLS.
    Nothing,
}

/// Says what a datagram is to those who have no handshake open.
pub fn dealing(datagram: &[u8]) -> Dealing {
    match Record::of(datagram) {
        // The one with a cookie is the second of its handshake.
        Some(record) if record.message == Some(CLIENT_HELLO) && record.is_first => Dealing::Hello,
        Some(record) if record.message == Some(CLIENT_HELLO) => Dealing::Again,
        Some(record) if record.is_flight_5() => Dealing::Again,
        _ => Dealing::Nothing,
    }
}

/// Sets up what all handshakes have in common, which takes a moment; the first one does it otherwise.
pub fn prepare() -> Result<(), DtlsError> {
    let ready = |config: &LazyLock<Result<Arc<Config>, dimpl::Error>>| config.as_ref().map(drop).map_err(|why| why.clone());
    ready(&WITHOUT_COOKIE).and_then(|()| ready(&WITH_COOKIE)).map_err(DtlsError::Setup)
}

/// Set up once: dimpl tests its cryptography each time.
static WITHOUT_COOKIE: LazyLock<Result<Arc<Config>, dimpl::Error>> = LazyLock::new(|| config(false));
static WITH_COOKIE: LazyLock<Result<Arc<Config>, dimpl::Error>> = LazyLock::new(|| config(true));

fn config(cookie: bool) -> Result<Arc<Config>, dimpl::Error> {
    let config = Config::builder()
        .with_crypto_provider(CryptoProvider { signature_verification: &Verifier, ..provider::default_provider() })
        .mtu(MTU)
        .use_server_cookie(cookie)
        .flight_start_rto(FIRST_REPEAT)
        .flight_retries(REPEATS)
        .handshake_timeout(TIME)
        .max_queue_rx(MOST_WAITING)
        .build()?;
    Ok(Arc::new(config))
}

/// RSA besides what dimpl verifies: softphones sign themselves RSA certificates.
#[derive(Debug)]
struct Verifier;

impl SignatureVerifier for Verifier {
    fn verify_signature(
        &self,
        certificate: &[u8],
        data: &[u8],
        signature: &[u8],
        hash: HashAlgorithm,
        algorithm: SignatureAlgorithm,
    ) -> Result<(), CryptoError> {
        if algorithm != SignatureAlgorithm::RSA {
            let others = provider::default_provider().signature_verification;
            return others.verify_signature(certificate, data, signature, hash, algorithm);
        }
        // PKCS #1 1.5, keys of 2048 bits and more.
        let how = match hash {
            HashAlgorithm::SHA256 => &RSA_PKCS1_2048_8192_SHA256,
            HashAlgorithm::SHA384 => &RSA_PKCS1_2048_8192_SHA384,
            _ => return Err(CryptoError::UnsupportedSignatureAlgorithm(algorithm)),
        };
        let certificate = x509_cert::Certificate::from_der(certificate).map_err(|_| CryptoError::CertificateParseFailed)?;
        let key = certificate.tbs_certificate().subject_public_key_info();
        if key.algorithm.oid != RSA {
            return Err(CryptoError::UnsupportedPublicKeyAlgorithm);
        }
        let key = key.subject_public_key.as_bytes().ok_or(CryptoError::InvalidSubjectPublicKey)?;
        let verified = UnparsedPublicKey::new(how, key).verify(data, signature);
        verified.map_err(|_| CryptoError::OperationFailed(CryptoOperation::VerifySignature))
    }
}

#[cfg(test)]
mod tests;

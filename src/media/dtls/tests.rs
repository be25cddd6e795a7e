//! The other end is dimpl's client; time is simulated, and the link does what a test says.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test: its time begins somewhere")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use dimpl::crypto::{Buf, HashContext, HashProvider, KeyProvider, SigningKey};
use proptest::prelude::*;

use super::*;
use crate::media::core::srtp::Context;

const LATENCY: Duration = Duration::from_millis(10);
/// How long the keys are on their way to safety.
const COMMIT: Duration = Duration::from_millis(5);

fn der(algorithm: &'static rcgen::SignatureAlgorithm, names: usize) -> (Vec<u8>, Vec<u8>) {
    let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
    let names: Vec<_> = (0..names).map(|name| format!("name-{name}.example")).collect();
    let certificate = rcgen::CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
    (certificate.der().to_vec(), key.serialize_der())
}

fn identity() -> Identity {
    let (certificate, key) = der(&rcgen::PKCS_ECDSA_P256_SHA256, 0);
    Identity { certificate, private_key: key }
}

/// What becomes of a ClientHello, on the way and in what its sender takes for sent.
type Twist = fn(&[u8]) -> Vec<u8>;

fn replaced(bytes: &[u8], what: &[u8], by: &[u8]) -> Vec<u8> {
    let at = bytes.windows(what.len()).position(|window| window == what);
    at.map_or_else(|| bytes.to_vec(), |at| [&bytes[..at], by, &bytes[at + what.len()..]].concat())
}

const USE_SRTP: [u8; 13] = [0, 14, 0, 9, 0, 6, 0, 8, 0, 7, 0, 1, 0];

/// `use_srtp` is an extension that nobody knows.
fn without_srtp(bytes: &[u8]) -> Vec<u8> {
    replaced(bytes, &USE_SRTP, &[0xfa, 0xfa, 0, 9, 0, 6, 0, 8, 0, 7, 0, 1, 0])
}

/// It has profiles that we haven't: AES128_CM_HMAC_SHA1_32, and two without encryption.
fn other_profiles(bytes: &[u8]) -> Vec<u8> {
    replaced(bytes, &USE_SRTP, &[0, 14, 0, 9, 0, 6, 0, 2, 0, 5, 0, 6, 0])
}

fn only_gcm_128(bytes: &[u8]) -> Vec<u8> {
    replaced(bytes, &USE_SRTP, &[0, 14, 0, 9, 0, 6, 0, 2, 0, 7, 0, 5, 0])
}

fn only_sha1_80(bytes: &[u8]) -> Vec<u8> {
    replaced(bytes, &USE_SRTP, &[0, 14, 0, 9, 0, 6, 0, 2, 0, 1, 0, 5, 0])
}

#[derive(Debug)]
struct TwistedHashes(Twist);
#[derive(Debug)]
struct TwistedHash(Twist, Box<dyn HashContext>);
#[derive(Debug)]
struct TwistedKeys(Twist);
#[derive(Debug)]
struct TwistedKey(Twist, Box<dyn SigningKey>);

impl HashProvider for TwistedHashes {
    fn create_hash(&self, algorithm: HashAlgorithm) -> Box<dyn HashContext> {
        Box::new(TwistedHash(self.0, provider::default_provider().hash_provider.create_hash(algorithm)))
    }
}

impl HashContext for TwistedHash {
    fn update(&mut self, data: &[u8]) {
        self.1.update(&self.0(data));
    }

    fn clone_and_finalize(&self, out: &mut Buf) {
        self.1.clone_and_finalize(out);
    }
}

impl KeyProvider for TwistedKeys {
    fn load_private_key(&self, der: &[u8]) -> Result<Box<dyn SigningKey>, CryptoError> {
        Ok(Box::new(TwistedKey(self.0, provider::default_provider().key_provider.load_private_key(der)?)))
    }
}

impl SigningKey for TwistedKey {
    fn sign(&mut self, data: &[u8], hash: HashAlgorithm, out: &mut Buf) -> Result<(), CryptoError> {
        self.1.sign(&self.0(data), hash, out)
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.1.algorithm()
    }

    fn hash_algorithm(&self) -> HashAlgorithm {
        self.1.hash_algorithm()
    }

    fn supported_hash_algorithms(&self) -> &[HashAlgorithm] {
        self.1.supported_hash_algorithms()
    }
}

/// dimpl's client has no RSA: this key says that it is one only when it signs.
#[derive(Debug)]
struct RsaKeys;
#[derive(Debug)]
struct RsaKey(aws_lc_rs::signature::RsaKeyPair, AtomicBool);

impl KeyProvider for RsaKeys {
    fn load_private_key(&self, der: &[u8]) -> Result<Box<dyn SigningKey>, CryptoError> {
        let key = aws_lc_rs::signature::RsaKeyPair::from_pkcs8(der);
        Ok(Box::new(RsaKey(key.map_err(|_| CryptoError::InvalidPrivateKey)?, AtomicBool::new(false))))
    }
}

impl SigningKey for RsaKey {
    fn sign(&mut self, data: &[u8], _: HashAlgorithm, out: &mut Buf) -> Result<(), CryptoError> {
        let mut signature = vec![0; self.0.public_modulus_len()];
        let random = aws_lc_rs::rand::SystemRandom::new();
        self.0.sign(&aws_lc_rs::signature::RSA_PKCS1_SHA256, &random, data, &mut signature).unwrap();
        out.clear();
        out.extend_from_slice(&signature);
        Ok(())
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        if self.1.load(Ordering::Relaxed) { SignatureAlgorithm::RSA } else { SignatureAlgorithm::ECDSA }
    }

    fn hash_algorithm(&self) -> HashAlgorithm {
        self.1.store(true, Ordering::Relaxed);
        HashAlgorithm::SHA256
    }

    fn supported_hash_algorithms(&self) -> &[HashAlgorithm] {
        &[HashAlgorithm::SHA256]
    }
}

/// What is special about a client.
#[derive(Clone, Copy)]
struct Kind {
    mtu: usize,
    names: usize,
    rsa: bool,
    twist: Twist,
}

const ORDINARY: Kind = Kind { mtu: 1200, names: 0, rsa: false, twist: <[u8]>::to_vec };
/// Each message is a datagram, or several.
const SMALL: Kind = Kind { mtu: 200, ..ORDINARY };

struct Client {
    dtls: Dtls,
    certificate: Vec<u8>,
    twist: Twist,
    keys: Option<(MasterKey, MasterKey)>,
    wake: Instant,
    dead: bool,
}

impl Client {
    fn new(kind: Kind, now: Instant) -> Self {
        let mut provided = provider::default_provider();
        if kind.rsa {
            provided.key_provider = &RsaKeys;
        } else {
            provided.key_provider = Box::leak(Box::new(TwistedKeys(kind.twist)));
            provided.hash_provider = Box::leak(Box::new(TwistedHashes(kind.twist)));
        }
        let config = Config::builder().with_crypto_provider(provided).mtu(kind.mtu).max_queue_tx(100);
        let config = config.flight_start_rto(Duration::from_millis(50)).flight_retries(8).build().unwrap();
        let algorithm = if kind.rsa { &rcgen::PKCS_RSA_SHA256 } else { &rcgen::PKCS_ECDSA_P256_SHA256 };
        let (certificate, private_key) = der(algorithm, kind.names);
        let identity = DtlsCertificate { certificate: certificate.clone(), private_key };
        let mut dtls = Dtls::new_12(Arc::new(config), identity, now);
        dtls.set_active(true);
        Self { dtls, certificate, twist: kind.twist, keys: None, wake: now, dead: false }
    }

    fn hear(&mut self, datagram: Option<&[u8]>, now: Instant) -> Vec<Vec<u8>> {
        let heard = self.dtls.handle_timeout(now).and_then(|()| datagram.map_or(Ok(()), |it| self.dtls.handle_packet(it)));
        self.dead |= heard.is_err();
        let (mut sent, mut buffer) = (Vec::new(), vec![0; 65536]);
        loop {
            match self.dtls.poll_output(&mut buffer) {
                Output::Packet(packet) => sent.push((self.twist)(packet)),
                Output::KeyingMaterial(keys, profile) => self.keys = split(profile, &keys),
                Output::Timeout(at) => {
                    self.wake = if self.dead { now + TIME * 10 } else { at };
                    return sent;
                }
                Output::BufferTooSmall { .. } | Output::Connected | Output::PeerCert(_) => {}
                Output::ApplicationData(_) | Output::CloseNotify | _ => {}
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum To {
    Server,
    Client,
}

/// When the copies of a packet arrive, by whom it is for and its number among those.
type Link = Box<dyn Fn(To, usize) -> Vec<Duration>>;

fn good() -> Link {
    Box::new(|_, _| vec![LATENCY])
}

/// Two ends and a link; when the handshake is done, somebody who has no more than [`Done`] stands in for the server.
struct World {
    begun: Instant,
    now: Instant,
    server: Handshake,
    client: Client,
    link: Link,
    counts: [usize; 2],
    flying: BTreeMap<(Instant, usize), (To, Vec<u8>)>,
    /// All that came to the server, and what it answered.
    heard: Vec<Vec<u8>>,
    sent: Vec<Vec<u8>>,
    done: Option<Done>,
    failed: Option<DtlsError>,
    stood_in: usize,
}

impl World {
    fn new(kind: Kind, proved: bool, link: Link) -> Self {
        let now = Instant::now();
        let (server, client) = (Handshake::new(&identity(), proved, now).unwrap(), Client::new(kind, now));
        let (flying, heard, sent) = (BTreeMap::new(), Vec::new(), Vec::new());
        let (done, failed) = (None, None);
        Self { begun: now, now, server, client, link, counts: [0; 2], flying, heard, sent, done, failed, stood_in: 0 }
    }

    fn post(&mut self, to: To, packets: Vec<Vec<u8>>, after: Duration) {
        for packet in packets {
            let number = self.counts[to as usize];
            self.counts[to as usize] += 1;
            for delay in (self.link)(to, number) {
                let place = self.flying.len() + self.counts[0] * 100 + self.counts[1] * 100;
                self.flying.insert((self.now + after + delay, place), (to, packet.clone()));
            }
        }
    }

    fn stepped(&mut self, step: Result<Step, DtlsError>) {
        match step {
            Ok(step) => {
                self.sent.extend(step.send.iter().cloned());
                self.post(To::Client, step.send, Duration::ZERO);
                if let Some(done) = step.done {
                    assert!(self.client.keys.is_none(), "ready before the keys are safe");
                    self.post(To::Client, done.last_flight.clone(), COMMIT);
                    self.done = Some(done);
                }
            }
            Err(error) => {
                if let DtlsError::Failed { alert, .. } = &error {
                    self.post(To::Client, alert.clone(), Duration::ZERO);
                }
                self.failed = Some(error);
            }
        }
    }

    fn arrive(&mut self, datagram: &[u8]) {
        self.heard.push(datagram.to_vec());
        if let (Some(done), Dealing::Again) = (&self.done, dealing(datagram)) {
            self.stood_in += 1;
            let flight = done.last_flight.clone();
            return self.post(To::Client, flight, Duration::ZERO);
        }
        let step = self.server.take(datagram, self.now);
        self.stepped(step);
    }

    /// The next thing that happens; whether anything does within a minute.
    fn happen(&mut self) -> bool {
        let arrival = self.flying.keys().next().map(|(at, _)| *at);
        let wake = self.server.wake;
        let next = [arrival, wake, Some(self.client.wake)].into_iter().flatten().min().unwrap();
        if next > self.begun + 2 * TIME {
            return false;
        }
        self.now = self.now.max(next);
        if arrival == Some(next) {
            let (_, (to, packet)) = self.flying.pop_first().unwrap();
            match to {
                To::Server => self.arrive(&packet),
                To::Client => {
                    let sent = self.client.hear(Some(&packet), self.now);
                    self.post(To::Server, sent, Duration::ZERO);
                }
            }
        } else if wake == Some(next) {
            let step = self.server.timeout(self.now);
            self.stepped(step);
        } else {
            let sent = self.client.hear(None, self.now);
            self.post(To::Server, sent, Duration::ZERO);
        }
        true
    }

    /// Goes on until the client is ready, or nothing will be.
    fn run(&mut self) -> &mut Self {
        while self.client.keys.is_none() && self.happen() {}
        self
    }

    /// Both are ready, by the same keys, and the last flight went by nobody else's hand.
    fn assert_agreed(&self, what: &str) {
        assert!(self.failed.is_none(), "{what}: {:?}", self.failed);
        let done = self.done.as_ref().unwrap_or_else(|| panic!("{what}: the server isn't done"));
        let (clients, servers) = self.client.keys.as_ref().unwrap_or_else(|| panic!("{what}: the client isn't ready"));
        assert_eq!((clients, servers), (&done.theirs, &done.ours), "{what}");
        assert_ne!(done.theirs.bytes(), done.ours.bytes(), "{what}");
        assert_eq!(done.peer, self.client.certificate, "{what}");
        assert!(!done.last_flight.is_empty(), "{what}");
        assert!(done.last_flight.iter().all(|packet| packet[0] == CHANGE_CIPHER_SPEC), "{what}");
        assert!(self.sent.iter().all(|packet| packet[0] == HANDSHAKE), "{what}: of the last flight, or an alert");
        assert!(self.sent.iter().all(|packet| packet.len() <= MTU), "{what}");
    }
}

/// A packet of a handshake message of which nothing is known but the first bytes.
fn message(kind: u8, number: u8, body: &[u8]) -> Vec<u8> {
    let length = u8::try_from(body.len()).unwrap();
    let header = [HANDSHAKE, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 77, 0, length + 12];
    [&header[..], &[kind, 0, 0, length, 0, number, 0, 0, 0, 0, 0, length], body].concat()
}

fn noise() -> Vec<Vec<u8>> {
    let stun = [&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42][..], &[7; 12]].concat();
    let srtp = [&[0x80, 0, 0, 1, 0, 0, 0, 0, 1, 2, 3, 4][..], &[9; 170]].concat();
    vec![
        vec![],
        vec![22],
        vec![0xff; 40],
        stun,
        srtp,
        [&[HANDSHAKE, 0xfe, 0xfd][..], &[0xff; 400]].concat(),
        // Data, of both epochs; an alert that is but a warning, and one that nobody can read.
        [&[23, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 9, 0, 20][..], &[5; 20]].concat(),
        [&[23, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0, 9, 0, 40][..], &[5; 40]].concat(),
        vec![ALERT, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 9, 0, 2, 1, 0],
        // Of a later epoch, of the other side, of another version, longer than any.
        [&[HANDSHAKE, 0xfe, 0xfd, 0, 2, 0, 0, 0, 0, 0, 9, 0, 40][..], &[5; 40]].concat(),
        message(SERVER_HELLO, 0, &[1; 60]),
        [&[HANDSHAKE, 3, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12, 1][..], &[0; 11]].concat(),
        [message(CLIENT_HELLO, 0, &[1; 60]), vec![0; LONGEST]].concat(),
    ]
}

#[test]
fn both_ends_have_the_same_keys_and_open_each_others_packets() {
    for proved in [true, false] {
        let mut world = World::new(ORDINARY, proved, good());
        world.run().assert_agreed("on a good link");
        assert_eq!(world.counts, if proved { [2, 2] } else { [3, 3] }, "a cookie costs a round trip");
        let done = world.done.as_ref().unwrap();
        assert_eq!(done.theirs.suite(), Suite::AeadAes256Gcm);
        let (theirs, ours) = world.client.keys.unwrap();
        for (key, others) in [(&theirs, &done.theirs), (&done.ours, &ours)] {
            let mut buffer = [&[0x80, 0, 0, 1, 0, 0, 0, 0, 1, 2, 3, 4][..], b"voice", &[0; 20]].concat();
            let length = Context::new(key).protect(&mut buffer, 17).unwrap();
            assert_eq!(Context::new(others).unprotect(&mut buffer[..length]).unwrap(), 17);
            assert_eq!(&buffer[12..17], b"voice");
        }
    }
}

/// RFC 5764 §4.2.
#[test]
fn keys_come_before_salts_and_the_clients_before_the_servers() {
    let all: Vec<u8> = (0..60).collect();
    let (theirs, ours) = split(SrtpProfile::AES128_CM_SHA1_80, &all).unwrap();
    assert_eq!(theirs.bytes(), [&all[..16], &all[32..46]].concat());
    assert_eq!(ours.bytes(), [&all[16..32], &all[46..]].concat());
    assert!(split(SrtpProfile::AES128_CM_SHA1_80, &all[1..]).is_none());
}

#[test]
fn the_profile_is_the_best_that_both_have() {
    for (twist, suite) in [(only_gcm_128 as Twist, Suite::AeadAes128Gcm), (only_sha1_80, Suite::AesCm128HmacSha1_80)] {
        // What the client makes of a profile that it didn't offer is its affair.
        let mut world = World::new(Kind { twist, ..ORDINARY }, true, good());
        world.run().assert_agreed("another profile");
        assert_eq!(world.done.as_ref().unwrap().theirs.suite(), suite);
    }
}

/// What becomes of one packet, and the link is good otherwise.
#[test]
fn each_packet_may_be_lost_or_doubled_or_late() {
    let fates: [(&str, &[u64]); 4] = [("lost", &[]), ("doubled", &[10, 10]), ("late", &[17]), ("late and doubled", &[10, 400])];
    for (kind, proved) in [(ORDINARY, true), (ORDINARY, false), (SMALL, true), (SMALL, false)] {
        let mut plain = World::new(kind, proved, good());
        let counts = plain.run().counts;
        for (to, count) in [(To::Server, counts[0]), (To::Client, counts[1])] {
            for (at, (what, fate)) in (0..count).flat_map(|at| fates.map(|fate| (at, fate))) {
                let link = move |other: To, number: usize| match fate {
                    fate if (other, number) == (to, at) => fate.iter().map(|after| Duration::from_millis(*after)).collect(),
                    _ => vec![LATENCY],
                };
                let mut world = World::new(kind, proved, Box::new(link));
                world.run().assert_agreed(&format!("packet {at} to {to:?} is {what}, mtu {}, proved {proved}", kind.mtu));
                assert!(world.now < world.begun + Duration::from_secs(3), "packet {at} to {to:?} is {what}: {:?}", world.now);
            }
        }
    }
}

#[test]
fn neighbours_may_change_places() {
    for to in [To::Server, To::Client] {
        for at in 0..12 {
            let ms = move |other, number: usize| {
                if other == to && number == at {
                    12
                } else if number == at + 1 {
                    8
                } else {
                    10
                }
            };
            let link = move |other, number| vec![Duration::from_millis(ms(other, number))];
            World::new(SMALL, true, Box::new(link)).run().assert_agreed(&format!("{at} and the next to {to:?}"));
        }
    }
}

#[test]
fn half_of_all_packets_may_be_lost() {
    for seed in 0..40_usize {
        let lost = move |to: To, number: usize| (seed * 7919 + number * 104_729 + to as usize * 31) % 97 < 35;
        let link = move |to, number| if lost(to, number) { vec![] } else { vec![LATENCY] };
        World::new(ORDINARY, seed % 2 == 0, Box::new(link)).run().assert_agreed(&format!("seed {seed}"));
    }
}

#[test]
fn who_has_the_last_flight_can_answer_for_the_handshake() {
    // The last flight is the second packet to the client; it and the next two are lost.
    let link = |to, number| if to == To::Client && (1..4).contains(&number) { vec![] } else { vec![LATENCY] };
    let mut world = World::new(ORDINARY, true, Box::new(link));
    world.run().assert_agreed("stored bytes");
    assert_eq!(world.stood_in, 3);
}

#[test]
fn nothing_is_heard_after_the_end() {
    let mut world = World::new(ORDINARY, true, good());
    while world.done.is_none() {
        assert!(world.happen());
    }
    assert!(world.server.is_over());
    let sent = world.sent.len();
    for datagram in world.heard.clone() {
        let step = world.server.take(&datagram, world.now + TIME).unwrap();
        assert!(step.send.is_empty() && step.wake.is_none() && step.done.is_none());
    }
    let step = world.server.timeout(world.now + TIME).unwrap();
    assert!(step.send.is_empty() && step.wake.is_none() && step.done.is_none());
    assert_eq!(world.sent.len(), sent);
}

/// What the timer sends isn't what answers, though both come of one step.
#[test]
fn the_last_flight_is_no_other_though_a_repeat_is_due() {
    let mut world = World::new(ORDINARY, true, good());
    while world.heard.is_empty() || world.client.dtls.protocol_version().is_none() {
        assert!(world.happen());
    }
    while !world.flying.values().any(|(to, packet)| *to == To::Server && dealing(packet) == Dealing::Again) {
        assert!(world.happen());
    }
    world.now = world.server.wake.unwrap() + LATENCY;
    let (_, (_, flight_5)) = world.flying.pop_first().unwrap();
    let step = world.server.take(&flight_5, world.now).unwrap();
    assert_eq!(step.send.len(), 1);
    assert_eq!(Record::of(&step.send[0]).unwrap().message, Some(SERVER_HELLO));
    let done = step.done.unwrap();
    assert_eq!(done.last_flight.len(), 1);
    assert_eq!(done.last_flight[0][0], CHANGE_CIPHER_SPEC);
}

#[test]
fn what_is_left_of_a_former_association_reaches_no_new_one() {
    for proved in [true, false] {
        let mut former = World::new(SMALL, proved, good());
        former.run();
        let stale: Vec<_> = former.heard.iter().filter(|datagram| !is_hello(datagram)).collect();
        assert!(stale.len() > 3);
        let mut world = World::new(SMALL, proved, good());
        let mut given = 0;
        while !world.server.answered {
            for datagram in &stale {
                let step = world.server.take(datagram, world.now).unwrap();
                assert!(step.send.is_empty() && step.done.is_none());
                given += 1;
            }
            assert!(world.happen());
        }
        assert!(given >= 2 * stale.len());
        world.run().assert_agreed("after a former association's");
    }
}

#[test]
fn what_is_no_dtls_kills_no_handshake() {
    for (kind, proved) in [(ORDINARY, true), (SMALL, false)] {
        let mut world = World::new(kind, proved, good());
        loop {
            let wake = world.server.wake;
            for datagram in noise() {
                let step = world.server.take(&datagram, world.now).unwrap();
                assert!(step.send.is_empty() && step.done.is_none(), "{datagram:?}");
                assert_eq!(step.wake, wake, "{datagram:?}");
            }
            if world.client.keys.is_some() || !world.happen() {
                break;
            }
        }
        world.assert_agreed("noise");
    }
}

fn is_hello(datagram: &[u8]) -> bool {
    Record::of(datagram).is_some_and(|record| record.message == Some(CLIENT_HELLO))
}

#[test]
fn a_client_hello_may_come_in_pieces() {
    for proved in [true, false] {
        let mut world = World::new(Kind { mtu: 100, ..ORDINARY }, proved, good());
        world.run().assert_agreed("pieces");
        let pieces = world.heard.iter().filter(|datagram| is_hello(datagram)).count();
        assert!(pieces >= if proved { 2 } else { 4 }, "{pieces}");
    }
}

#[test]
fn a_client_without_certificate_is_told() {
    let mut world = World::new(ORDINARY, true, good());
    while !world.server.answered {
        assert!(world.happen());
    }
    let error = world.server.take(&message(CERTIFICATE, 1, &[0, 0, 0]), world.now).unwrap_err();
    let DtlsError::Failed { why: dimpl::Error::CertificateError(_), alert } = error else { panic!("{error}") };
    assert_eq!(alert.len(), 1);
    assert_eq!(alert[0][13..], [2, 40]);
    assert!(world.server.is_over());
}

#[test]
fn a_handshake_without_keys_fails() {
    for twist in [without_srtp as Twist, other_profiles] {
        let mut world = World::new(Kind { twist, ..ORDINARY }, true, good());
        world.run();
        assert!(matches!(world.failed, Some(DtlsError::NoKeys)), "{:?}", world.failed);
        assert!(world.sent.iter().all(|packet| packet[0] == HANDSHAKE));
        assert!(world.client.keys.is_none());
    }
}

/// Nothing tells it from the peer's: what comes behind it may wait for what is missing.
#[test]
fn a_made_up_message_costs_the_handshake_at_most() {
    for (kind, is_agreed) in [(ORDINARY, true), (SMALL, false)] {
        let mut world = World::new(kind, true, good());
        while !world.server.answered {
            assert!(world.happen());
        }
        let made_up = world.server.take(&message(CERTIFICATE, 9, &[0; 5]), world.now).unwrap();
        assert!(made_up.send.is_empty());
        world.run();
        assert_eq!(world.failed.is_none(), is_agreed, "{:?}", world.failed);
        assert_eq!(world.client.keys.is_some(), is_agreed);
        assert!(world.sent.iter().all(|packet| packet[0] == HANDSHAKE));
    }
}

#[test]
fn another_than_the_certificates_owner_fails() {
    fn flipped(bytes: &[u8]) -> Vec<u8> {
        // Only what is signed ends with the client's key exchange.
        let mut bytes = bytes.to_vec();
        if bytes.len() > 1000 {
            bytes[20] ^= 1;
        }
        bytes
    }
    let mut world = World::new(Kind { twist: flipped, ..ORDINARY }, true, good());
    world.run();
    let failed = world.failed.unwrap();
    assert!(matches!(failed, DtlsError::Failed { why: dimpl::Error::CryptoError(_), .. }), "{failed:?}");
    assert!(world.done.is_none());
}

#[test]
fn a_peer_with_an_rsa_certificate_is_served() {
    let mut world = World::new(Kind { rsa: true, ..ORDINARY }, true, good());
    world.run().assert_agreed("RSA");
}

#[test]
fn short_rsa_keys_prove_nothing() {
    for (certificate, signature, is_right) in [(RSA_2048, SIGNED_2048, true), (RSA_1024, SIGNED_1024, false)] {
        let [certificate, signature] = [certificate, signature].map(|text| STANDARD.decode(text).unwrap());
        let verify = |data: &[u8], hash, algorithm| Verifier.verify_signature(&certificate, data, &signature, hash, algorithm);
        let (sha256, rsa) = (HashAlgorithm::SHA256, SignatureAlgorithm::RSA);
        assert_eq!(verify(b"handshake", sha256, rsa).is_ok(), is_right);
        assert!(verify(b"handshakes", sha256, rsa).is_err());
        assert!(verify(b"handshake", HashAlgorithm::SHA384, rsa).is_err());
        assert!(verify(b"handshake", sha256, SignatureAlgorithm::ECDSA).is_err());
    }
    let (ec, _) = der(&rcgen::PKCS_ECDSA_P256_SHA256, 0);
    let error = Verifier.verify_signature(&ec, b"handshake", &[0; 256], HashAlgorithm::SHA256, SignatureAlgorithm::RSA);
    assert_eq!(error, Err(CryptoError::UnsupportedPublicKeyAlgorithm));
}

#[test]
fn a_certificate_may_be_long() {
    let mut world = World::new(Kind { names: 400, ..ORDINARY }, true, good());
    world.run().assert_agreed("a long certificate");
    assert!(world.done.as_ref().unwrap().peer.len() > 3 * LONGEST);
}

#[test]
fn more_than_belongs_to_a_handshake_ends_it() {
    let mut world = World::new(ORDINARY, true, good());
    while !world.server.answered {
        assert!(world.happen());
    }
    let hello = world.heard[0].clone();
    let taken = (0..1000).take_while(|_| world.server.take(&hello, world.now).is_ok()).count();
    assert_eq!(taken, MOST_HEARD / hello.len() - 1);
    assert!(world.server.is_over());

    let mut server = Handshake::new(&identity(), true, world.now).unwrap();
    let data = [&[23, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 9, 8, 0][..], &[0; LONGEST]].concat();
    assert!(server.take(&[&hello[..], &data].concat(), world.now).unwrap().send.is_empty());
    assert_eq!(server.take(&hello, world.now).unwrap().send.len(), 1);
}

#[test]
fn a_peer_that_falls_silent_is_given_up() {
    let link = |to, number| if to == To::Server && number > 0 { vec![] } else { vec![LATENCY] };
    let mut world = World::new(ORDINARY, true, Box::new(link));
    world.run();
    assert!(matches!(world.failed, Some(DtlsError::Failed { why: dimpl::Error::Timeout(_), .. })), "{:?}", world.failed);
    assert_eq!(world.sent.len(), 1 + REPEATS);
    assert!(world.server.is_over());
}

#[test]
fn who_hears_nothing_waits_for_no_time() {
    let now = Instant::now();
    let mut server = Handshake::new(&identity(), true, now).unwrap();
    for step in [server.timeout(now + 100 * TIME).unwrap(), server.take(&[1, 2, 3], now).unwrap()] {
        assert!(step.send.is_empty() && step.wake.is_none() && step.done.is_none());
    }
    assert!(!server.is_over());
}

#[test]
fn a_datagram_is_dealt_with_by_its_first_record() {
    for kind in [ORDINARY, SMALL] {
        let mut world = World::new(kind, false, good());
        world.run();
        for datagram in &world.heard {
            // The second ClientHello has a cookie: whoever has not heard the first can't go on with it.
            let expected = match (datagram[0], datagram[4], datagram[13], datagram[18]) {
                (HANDSHAKE, 0, CLIENT_HELLO, 0) => Dealing::Hello,
                (HANDSHAKE, 0, ..) => Dealing::Again,
                _ => Dealing::Nothing,
            };
            assert_eq!(dealing(datagram), expected);
        }
        assert!(world.heard.iter().any(|datagram| dealing(datagram) == Dealing::Again));
        for datagram in world.sent.iter().chain(&world.done.as_ref().unwrap().last_flight).chain(&noise()[..12]) {
            assert_eq!(
                dealing(datagram),
                if Record::of(datagram).is_some_and(|it| it.message == Some(CERTIFICATE)) {
                    // Whose it is can't be seen; ours doesn't come to us.
                    Dealing::Again
                } else {
                    Dealing::Nothing
                }
            );
        }
        // Chromium's close_notify: an alert that nobody without the keys can read.
        let close = world.client.dtls.close().map(|()| world.client.hear(None, world.now)).unwrap();
        assert_eq!((close[0].len(), dealing(&close[0])), (39, Dealing::Nothing));
    }
}

proptest! {
    #[test]
    fn no_datagram_is_too_odd_to_be_dealt_with(bytes in prop::collection::vec(any::<u8>(), 0..100), head in 0..4_usize) {
        let heads: [&[u8]; 4] = [&[], &[HANDSHAKE, 0xfe, 0xfd], &[HANDSHAKE, 0xfe, 0xff, 0, 0], &[HANDSHAKE, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 30]];
        let datagram = [heads[head], &bytes].concat();
        dealing(&datagram);
        let now = Instant::now();
        let mut server = Handshake::new(&identity(), true, now).unwrap();
        let _ = server.take(&datagram, now);
    }

    /// It may fail by a changed byte, and end without keys; it doesn't panic, nor agree on others.
    #[test]
    fn no_changed_byte_panics(at in any::<usize>(), place in any::<usize>(), by in 1..=255_u8, small in any::<bool>(), cut in any::<bool>()) {
        let mut world = World::new(if small { SMALL } else { ORDINARY }, at % 2 == 0, good());
        let mut number = 0;
        let chosen = at % 8;
        while world.client.keys.is_none() && world.failed.is_none() && number < 60 {
            if let Some(mut entry) = world.flying.first_entry() && entry.get().0 == To::Server {
                if number % 8 == chosen {
                    let packet = &mut entry.get_mut().1;
                    let place = place % packet.len();
                    packet[place] ^= by;
                    if cut {
                        packet.truncate(place + 1);
                    }
                }
                number += 1;
            }
            if !world.happen() {
                break;
            }
        }
        if world.client.keys.is_some() {
            world.assert_agreed("a changed byte");
        }
    }

    /// Whatever the messages are that somebody makes up: no panic, and never keys.
    #[test]
    fn no_made_up_flight_panics(messages in prop::collection::vec((prop::sample::select(vec![1_u8, 11, 15, 16, 20, 2, 99]), 0..6_u8, prop::collection::vec(any::<u8>(), 0..120), 0..4_u8), 1..40)) {
        let mut world = World::new(ORDINARY, true, good());
        while !world.server.answered {
            prop_assert!(world.happen());
        }
        for (kind, number, body, how) in messages {
            let datagram = match how {
                0 | 1 => message(kind, number, &body),
                2 => [&[CHANGE_CIPHER_SPEC, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, number, 0, 1, 1][..]].concat(),
                _ => [message(kind, number, &body), vec![CHANGE_CIPHER_SPEC, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, number, 0, 1, 1], message(kind, number + 1, &body)].concat(),
            };
            if let Ok(step) = world.server.take(&datagram, world.now) {
                prop_assert!(step.done.is_none());
            }
        }
    }
}

const RSA_1024: &str = "MIIB4zCCAUygAwIBAgIBATANBgkqhkiG9w0BAQsFADAMMQowCAYDVQQDDAF0MCAXDTI2MTEyNzE5MDM1MFoYDzIwNTEwNzE5MTkwMzUwWjAMMQowCAYDVQQDDAF0MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQCdkko9Fx42ZY29Vuh0tnaAW7j07YIkexJv+1zJ88/xLB928XEVJlNCq0U6x6CqkJVJ3ZoDpZuznzHphhOIjGhklSs7vyZ4cGAmYz6F+aBKFhhd+SDF1uXaXT+aFvmUcjBVMjksD8/PAXlGBOoclAzcLQscOgnxakzhH6HfLEZqYwIDAQABo1MwUTAdBgNVHQ4EFgQUPlyQdBiUyRdWb8OUhVDnIOINYIYwHwYDVR0jBBgwFoAUPlyQdBiUyRdWb8OUhVDnIOINYIYwDwYDVR0TAQH/BAUwAwEB/zANBgkqhkiG9w0BAQsFAAOBgQB/LfZJ7SdWnWiafcur9PhCZSwxG4L+1lU4V/ZWyJHaD9ms0ng1c6ySDKAVXiU3QbammCeM5R6qnxQ35F6BdKNzRTpVWvQZ/Z68QRqfkfMUsLsuOsQ/tEf0NGqeZIuD3xj//STg+SI9IiCHhPlf0GrvxQuhTEhUVzsit7TY3u38GA==";
const SIGNED_1024: &str = "ZaAFqH3ZIah25r0bWLkrsWC9g3x+H03Ii7mATCltbaMPN6PnDQyKVpYh0A5KyFgM6A0z0QVmSQimlYFagXsAqhsSFW6VQ7a1XT2avz7zKEUPkvBb1rbud6L2ub3agLdrGvBvD/f//XuZ9hZlBI6GksdCqCeytYD5+7nf+NkKPa8=";
const RSA_2048: &str = "MIIC6DCCAdCgAwIBAgIBATANBgkqhkiG9w0BAQsFADAMMQowCAYDVQQDDAF0MCAXDTI2MTEyNzE5MDM1MFoYDzIwNTEwNzE5MTkwMzUwWjAMMQowCAYDVQQDDAF0MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAnmtbrBnUJTbS16bZU6zrLV7GS/cbKqpRPqe0j8GxhotorDBW2b+t96FrqkN7286CI9n40uxGc0XvW5r4TR/fmN9ULlgUdj1A1L8el9PK4576mbpWFn/r6JHU+yti5DDi1wgZkDmskx5mCoQaABPyh67/hb77u08BeMRipgVcCnIxZqG1XEONBb5zgyvIeFvzb2LRsGrRPtbzHCglUN16B9Mce9uNq6Xr0RijhZSAbujvRXE3JQVHunAouTjF28+SX96SDIVPgCG9Kkvb8WfOMLIBb2Wp1NuDUmAIy1klJyXg0L4zRcSNpUr5vw4cMJX4iZgHrvWMP3xXkhBEhePkdwIDAQABo1MwUTAdBgNVHQ4EFgQU5UPJpjt/2LsyCVtzyBwGbubHhRQwHwYDVR0jBBgwFoAU5UPJpjt/2LsyCVtzyBwGbubHhRQwDwYDVR0TAQH/BAUwAwEB/zANBgkqhkiG9w0BAQsFAAOCAQEAaAxzAb2YmsAhDAZlgCypgTKv8aQWhpSG+y2NYBvL6Kov9sHuSsxaIOSOB4CjUtvlham9Crfrj+xbHCcuyzynjGdZhFCyGSFiFZmVKzFuricf/VQps4pmeddpR4LY1EGqWo7//sTI+LSwW0+zdlS4vtEJA903J0JVWhms0DXpvfksK2VipMlIEmW9hGXhNGMZOKCm8plaqqtLVdh+O/yQ45OaeuOp8SQqtj3fwHzyEgPwVEmB+d93FtX/6/+tuqYZR72JcBm9j/j9FBFMrSJMJPlawq+SsMdzqsZPgXpN42iAGwXiiXj9wmjdeUJZvgeNBnx87qiXulGll7PxZTEphA==";
const SIGNED_2048: &str = "knOvOrBCx5DYIq577lHVHCkVKZmCyQi0XwMAuucmQ/7+tO6XU3K86yuZBtE3NF7bXUAUFZBGezjQoDhyZoOxP1DaB9rgHSeS4nNeSxcNeYju2lXt8Xb3Dv8KxqTgmnuLJDYFE7oRjdZfGJXYxG+G8mou25Z7hRmkiqLgrLfL9nwMvMPwbubS5Hi6emKdQi0U4iACdsI6bjV2tX7Su5//UOPhorG9T/lnl5+bDhe5LwkGhsU8LlCYJP7nTFBThdfBU74DApNzbQunTRTTPYSRmDOtJQ/30J1Vp7Oe86kEESAZOJturQOzImlpthM0iTNQnm5fb5J56DeZcbXKhv14/A==";

//! The vectors of the RFCs, and what must hold whatever comes.

use std::collections::HashSet;

use proptest::prelude::*;

use super::keys::SessionKeys;
use super::*;

fn bytes(text: &str) -> Vec<u8> {
    hex::decode(text.split_whitespace().collect::<String>()).unwrap()
}

fn key(suite: Suite) -> MasterKey {
    MasterKey::of_secret(suite, b"a secret")
}

#[test]
fn keys_are_derived_as_in_rfc_3711_b_3_and_rfc_6188_7_4() {
    let (key, salt) = (bytes("E1F97A0D3E018BE0D64FA32C06DE4139"), bytes("0EC675AD498AFEEBB6960B3AABE6"));
    for (label, expected) in [
        (0, "C61E7A93744F39EE10734AFE3FF7A087"),
        (2, "30CBBC08863D8C85D49DB34A9AE1"),
        (
            1,
            "CEBE321F6FF7716B6FD4AB49AF256A156D38BAA48F0A0ACF3C34E2359E6CDBCEE049646C43D9327AD175578EF72270986371C10C9A369AC2F94A8C5FBCDDDC256D6E919A48B610EF17C2041E474035766B68642C59BBFC2F34DB60DBDFB2",
        ),
    ] {
        let expected = bytes(expected);
        assert_eq!(SessionKeys::derived(&key, &salt, label, expected.len()), expected, "label {label}");
    }
    let (key, salt) =
        (bytes("f0f04914b513f2763a1b1fa130f10e2998f6f6e43e4309d1e622a0e332b9f1b6"), bytes("3b04803de51ee7c96423ab5b78d2"));
    for (label, expected) in [
        (0, "5ba1064e30ec51613cad926c5a28ef731ec7fb397f70a960653caf06554cd8c4"),
        (2, "fa31791685ca444a9e07c6c64e93"),
        (1, "fd9c32d39ed5fbb5a9dc96b30818454d1313dc05"),
    ] {
        let expected = bytes(expected);
        assert_eq!(SessionKeys::derived(&key, &salt, label, expected.len()), expected, "label {label}");
    }
}

/// The packet of libsrtp's own test, by the key of RFC 3711 B.3.
#[test]
fn a_packet_is_protected_by_aes_cm_as_others_do() {
    let master = bytes("E1F97A0D3E018BE0D64FA32C06DE4139 0EC675AD498AFEEBB6960B3AABE6");
    let master = MasterKey::new(Suite::AesCm128HmacSha1_80, &master).unwrap();
    let plain = bytes("800f1234 decafbad cafebabe abababab abababab abababab abababab");
    let sealed = bytes("800f1234 decafbad cafebabe 4e55dc4c e79978d8 8ca4d215 949d2402 b78d6acc 99ea179b 8dbb");
    let mut buffer = plain.clone();
    buffer.resize(plain.len() + MOST_ADDED, 0);
    let length = Context::new(&master).protect(&mut buffer, plain.len()).unwrap();
    assert_eq!(hex::encode(&buffer[..length]), hex::encode(&sealed));
    let length = Context::new(&master).unprotect(&mut buffer[..length]).unwrap();
    assert_eq!(buffer[..length], plain);
}

#[test]
fn packets_are_protected_by_gcm_as_in_rfc_7714_16_and_17() {
    let salt = bytes("51756964 2070726f 2071756f");
    let key = |length: u8| (0..length).collect::<Vec<u8>>();
    let plain = [bytes("8040f17b 8041f8d3 5501a0b2"), b"Gallia est omnis divisa in partes tres".to_vec()].concat();
    for (suite, length, sealed) in [
        (
            Suite::AeadAes128Gcm,
            16,
            "8040f17b 8041f8d3 5501a0b2 f24de3a3 fb34de6c acba861c 9d7e4bca be633bd5 0d294e6f 42a5f47a 51c7d19b 36de3adf 8833899d 7f27beb1 6a9152cf 765ee439 0cce",
        ),
        (
            Suite::AeadAes256Gcm,
            32,
            "8040f17b 8041f8d3 5501a0b2 32b1de78 a822fe12 ef9f78fa 332e33aa b1801238 9a58e2f3 b50b2a02 76ffae0f 1ba63799 b87b7aa3 db36dfff d6b0f9bb 7878d7a7 6c13",
        ),
    ] {
        let keys = SessionKeys::of_vector(suite, &key(length), &salt);
        let mut buffer = plain.clone();
        buffer.resize(plain.len() + MOST_ADDED, 0);
        let end = keys.seal_rtp(&mut buffer, RTP_HEADER, plain.len(), 0x5501_a0b2, 0xf17b);
        assert_eq!(hex::encode(&buffer[..end]), hex::encode(bytes(sealed)));
        assert_eq!(keys.open_rtp(&mut buffer[..end], RTP_HEADER, 0x5501_a0b2, 0xf17b), Some(plain.len()));
        assert_eq!(buffer[..plain.len()], plain);
    }
    let plain = bytes(
        "81c8000d 4d617273 4e545031 4e545032 52545020 0000042a 0000e930 4c756e61 deadbeef deadbeef deadbeef deadbeef deadbeef",
    );
    for (suite, length, sealed) in [
        (
            Suite::AeadAes128Gcm,
            16,
            "81c8000d 4d617273 63e94885 dcdab67c a727d766 2f6b7e99 7ff5c0f7 6c06f32d c676a5f1 730d6fda 4ce09b46 86303ded 0bb9275b c84aa458 96cf4d2f c5abf872 45d9eade 800005d4",
        ),
        (
            Suite::AeadAes256Gcm,
            32,
            "81c8000d 4d617273 d50ae4d1 f5ce5d30 4ba297e4 7d470c28 2c3ece5d bffe0a50 a2eaa5c1 110555be 8415f658 c61de047 6f1b6fad 1d1eb30c 4446839f 57ff6f6c b26ac3be 800005d4",
        ),
    ] {
        let keys = SessionKeys::of_vector(suite, &key(length), &salt);
        let mut buffer = plain.clone();
        buffer.resize(plain.len() + MOST_ADDED, 0);
        let end = keys.seal_rtcp(&mut buffer, plain.len(), 0x4d61_7273, 0x5d4);
        assert_eq!(hex::encode(&buffer[..end]), hex::encode(bytes(sealed)));
        assert_eq!(keys.rtcp_trailer(&buffer[..end]), Some((plain.len(), 0x8000_05d4)));
        assert!(keys.open_rtcp(&mut buffer[..end], plain.len(), 0x4d61_7273, 0x8000_05d4));
        assert_eq!(buffer[..plain.len()], plain);
    }
}

/// A packet of this source and number; its payload says them too.
fn packet(ssrc: u32, sequence: u16) -> Vec<u8> {
    let mut packet = vec![0x80, 0];
    packet.extend(sequence.to_be_bytes());
    packet.extend([0; 4]);
    packet.extend(ssrc.to_be_bytes());
    packet.extend([7; 20]);
    packet.extend(sequence.to_be_bytes());
    packet
}

fn sealed(context: &mut Context, packet: &[u8]) -> Result<(Vec<u8>, Option<Mark>), SrtpError> {
    let mut buffer = packet.to_vec();
    buffer.resize(packet.len() + MOST_ADDED, 0);
    let length = context.protect(&mut buffer, packet.len())?;
    buffer.truncate(length);
    Ok((buffer, context.news()))
}

fn opened(context: &mut Context, packet: &[u8]) -> Result<(Vec<u8>, Option<Mark>), SrtpError> {
    let mut buffer = packet.to_vec();
    let length = context.unprotect(&mut buffer)?;
    buffer.truncate(length);
    Ok((buffer, context.news()))
}

#[test]
fn every_suite_opens_what_it_has_sealed_and_nothing_else() {
    for suite in Suite::ALL {
        assert_eq!(Suite::of(suite.name()), Some(suite));
        let (mut ours, mut theirs) = (Context::new(&key(suite)), Context::new(&key(suite)));
        // With two contributing sources and an extension, which stay in clear.
        let mut plain = packet(1, 65_535);
        plain[0] = 0x92;
        plain.splice(12..12, [[9; 4], [8; 4], [0xbe, 0xde, 0, 1], [1; 4]].concat());
        let (there, _) = sealed(&mut ours, &plain).unwrap();
        assert_eq!(there.len(), plain.len() + suite.tag());
        assert_eq!(there[..28], plain[..28]);
        assert_ne!(there[28..plain.len()], plain[28..]);
        for at in 0..there.len() {
            let mut broken = there.clone();
            broken[at] ^= 1;
            assert!(opened(&mut theirs, &broken).is_err(), "byte {at}");
        }
        assert_eq!(opened(&mut theirs, &there).unwrap().0, plain);
        assert_eq!(opened(&mut theirs, &there).unwrap_err(), SrtpError::Replayed);
        assert_eq!(opened(&mut Context::new(&MasterKey::of_secret(suite, b"another")), &there).unwrap_err(), SrtpError::Forged);
        assert_eq!(sealed(&mut ours, &plain).unwrap_err(), SrtpError::Replayed);
        let mut rtcp = bytes("80c90001 00000001 01020304 05060708");
        let length = rtcp.len();
        rtcp.resize(length + MOST_ADDED, 0);
        let end = ours.protect_rtcp(&mut rtcp, length, 5).unwrap();
        rtcp.truncate(end);
        for at in 0..end {
            let mut broken = rtcp.clone();
            broken[at] ^= 1;
            assert!(theirs.unprotect_rtcp(&mut broken).is_err(), "byte {at}");
        }
        let mut again = rtcp.clone();
        let length = theirs.unprotect_rtcp(&mut rtcp).unwrap();
        assert_eq!(hex::encode(&rtcp[..length]), "80c90001000000010102030405060708");
        assert_eq!(theirs.unprotect_rtcp(&mut again), Err(SrtpError::Replayed));
    }
}

/// Whatever is no packet is refused, and nothing is read or written beside the buffer.
#[test]
fn what_is_no_packet_is_refused() {
    for suite in Suite::ALL {
        let mut context = Context::new(&key(suite));
        for length in 0..60 {
            for first in [0x80, 0x9f, 0x90, 0xbf, 0x00] {
                let mut buffer = vec![0xff; length];
                buffer.iter_mut().take(1).for_each(|byte| *byte = first);
                assert!(context.unprotect(&mut buffer.clone()).is_err());
                assert!(context.unprotect_rtcp(&mut buffer.clone()).is_err());
                assert!(context.protect(&mut buffer.clone(), length).is_err(), "there is no room for a tag");
                assert!(context.protect_rtcp(&mut buffer, length + 1, 0).is_err());
            }
        }
        assert_eq!((context.news(), context.turns.len()), (None, 0));
    }
}

#[test]
fn more_sources_than_are_known_at_once_go_on_where_they_were() {
    let (mut ours, mut theirs) = (Context::new(&key(Suite::AeadAes128Gcm)), Context::new(&key(Suite::AeadAes128Gcm)));
    for round in 0..9_u64 {
        for ssrc in 0..2 * u32::try_from(SOURCES).unwrap() {
            // Each has gone round once when it comes the third time.
            let sequence = u16::try_from(round * 30_000 % 65_536).unwrap();
            let (there, _) = sealed(&mut ours, &packet(ssrc, sequence)).unwrap();
            assert_eq!(opened(&mut theirs, &there).unwrap().0, packet(ssrc, sequence), "source {ssrc}, round {round}");
        }
    }
    assert_eq!((ours.turns.len(), ours.marks.len()), (SOURCES, SOURCES));
    // One that would have to be forgotten is refused; what comes is the peer's own business.
    let all = u32::try_from(SOURCES + MARKS).unwrap();
    for ssrc in 0..2 * all {
        assert_eq!(sealed(&mut ours, &packet(ssrc, 65_000)).is_ok(), ssrc < all, "{ssrc}");
        let (there, _) = sealed(&mut Context::new(&key(Suite::AeadAes128Gcm)), &packet(100 + ssrc, 1)).unwrap();
        assert!(opened(&mut theirs, &there).is_ok());
    }
    let told: Vec<_> = (0..1000).map(|ssrc| Mark { ssrc, index: 9 }).collect();
    told.chunks(4).for_each(|marks| theirs.advance(marks));
    assert_eq!((theirs.turns.len(), theirs.marks.len()), (SOURCES, MARKS));
}

/// What may have been a former owner's is nobody's, and nothing is in clear.
#[test]
fn what_may_have_been_is_not_again() {
    let key = key(Suite::AesCm128HmacSha1_80);
    let mut first = Context::new(&key);
    let sent: Vec<_> = (100..200).map(|sequence| sealed(&mut first, &packet(1, sequence)).unwrap().0).collect();
    let (mut ours, mut theirs) = (Context::new(&key), Context::new(&key));
    for context in [&mut ours, &mut theirs] {
        context.advance(&[Mark { ssrc: 1, index: 120 }]);
    }
    sealed(&mut ours, &packet(1, 190)).unwrap();
    opened(&mut theirs, &sent[90]).unwrap();
    for sequence in 100..190 {
        assert_eq!(sealed(&mut ours, &packet(1, sequence)).unwrap_err(), SrtpError::Replayed, "{sequence}");
        assert_eq!(opened(&mut theirs, &sent[usize::from(sequence) - 100]).unwrap_err(), SrtpError::Replayed);
    }
    // Two marks in a row were lost: the turn after is tried all the same.
    let mut theirs = Context::new(&key);
    opened(&mut theirs, &sent[0]).unwrap();
    theirs.advance(&[Mark { ssrc: 1, index: 40_000 }]);
    let mut far = Context::new(&key);
    far.advance(&[Mark { ssrc: 1, index: 65_536 + 39_000 }]);
    let (there, _) = sealed(&mut far, &packet(1, 39_500)).unwrap();
    assert_eq!(opened(&mut theirs, &there).unwrap().0, packet(1, 39_500));
}

#[test]
fn rtcp_is_never_far_from_its_floor() {
    let mut context = Context::new(&key(Suite::AeadAes256Gcm));
    let mut indices = Vec::new();
    for (floor, ssrc) in (0..2000_u16).map(|n| (0, u8::try_from(n % 3).unwrap())).chain([(400, 1), (5000, 2), (10, 3)]) {
        let mut buffer = [0; 60];
        buffer[..8].copy_from_slice(&[0x80, 201, 0, 1, 0, 0, 0, ssrc]);
        if let Ok(length) = context.protect_rtcp(&mut buffer, 8, floor) {
            indices.push(u32::from_be_bytes(buffer[length - 4..length].try_into().unwrap()) & !ENCRYPTED);
        }
    }
    assert_eq!(indices, (0..=RTCP_AHEAD).chain([RTCP_AHEAD + 1, 5000]).collect::<Vec<_>>());
}

proptest! {
    /// A stream of any length, with packets that are lost, come late and come twice; each end is taken over at times by one that knows the marks that
    /// were told, the last of which may have been lost. What is opened is what was sealed, and no index is sealed twice.
    #[test]
    fn a_stream_survives_its_ends(
        start in any::<u16>(),
        steps in proptest::collection::vec((0..40_u64, 0..8_000_u64), 1..120),
        suite in 0..5_usize,
    ) {
        let key = key(Suite::ALL[suite]);
        let (mut ours, mut theirs) = (Context::new(&key), Context::new(&key));
        let mut our_marks: Vec<Mark> = Vec::new();
        let (mut telling, mut told): (Option<Mark>, Option<Mark>) = (None, None);
        let mut at = u64::from(start);
        let mut texts = HashSet::new();
        let mut before: Option<(Vec<u8>, Vec<u8>)> = None;
        for (event, ahead) in steps {
            at += match event { 0..30 => 1 + ahead % 3, _ => 1 + ahead };
            let plain = packet(1, u16::try_from(at % 65_536).unwrap());
            let (there, mark) = sealed(&mut ours, &plain).unwrap();
            prop_assert!(texts.insert(there[12..].to_vec()), "an index was used twice");
            our_marks.extend(mark);
            match event {
                0 => {
                    ours = Context::new(&key);
                    our_marks.last().into_iter().for_each(|mark| ours.advance(&[*mark]));
                    our_marks.first().into_iter().for_each(|mark| ours.advance(&[*mark]));
                }
                1 => {
                    theirs = Context::new(&key);
                    told.into_iter().for_each(|mark| theirs.advance(&[mark]));
                }
                // It is lost, or comes after the next.
                2..5 => {
                    before = Some((plain, there));
                    continue;
                }
                _ => {}
            }
            let (back, mark) = opened(&mut theirs, &there).unwrap();
            prop_assert_eq!(&back, &plain);
            // What is told is known when the next packet comes.
            told = telling.or(told);
            telling = mark;
            prop_assert!(opened(&mut theirs, &there).is_err());
            if let Some((plain, late)) = before.take()
                && let Ok((back, mark)) = opened(&mut theirs, &late)
            {
                prop_assert_eq!(back, plain);
                telling = mark.or(telling);
            }
        }
    }
}

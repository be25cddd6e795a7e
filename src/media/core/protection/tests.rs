//! What both sides of a call are told, whatever they offer, answer and may.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::*;
use crate::media::core::Session;
use crate::media::core::dtls::Identity;
use crate::media::core::session::SdpError;

const KEY: &str = "WVNfX19zZW1jdGwgKCkgewkyMjA7fQp9CnVubGVz";
const OTHER_KEY: &str = "d0RmdmcmVCspeEc3QGZiNWpVLFJhQX1cfHAwJSoj";
const GCM_KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKis=";

fn sdp(proto: &str, crypto: &[&str]) -> String {
    let lines: String = crypto.iter().map(|line| format!("a=crypto:{line}\r\n")).collect();
    format!(
        "v=0\r\no=a 1 1 IN IP4 10.0.0.1\r\ns=-\r\nc=IN IP4 10.0.0.1\r\nt=0 0\r\nm=audio 4000 {proto} 8\r\n{lines}a=sendrecv\r\n"
    )
}

/// The profile, and the crypto lines by tag: suite and key.
fn said(sdp: &[u8]) -> (String, BTreeMap<u32, (String, String)>) {
    let sdp = sdp_types::Session::parse(sdp).unwrap();
    let media = &sdp.medias[0];
    let lines = media.attributes.iter().filter(|attribute| attribute.attribute == "crypto").map(|attribute| {
        let words: Vec<_> = attribute.value.as_deref().unwrap().split(' ').collect();
        (words[0].parse().unwrap(), (words[1].to_owned(), words[2].strip_prefix("inline:").unwrap().to_owned()))
    });
    (media.proto.clone(), lines.collect())
}

/// With a certificate that is said of all streams.
fn with_print(sdp: &str) -> String {
    let print = Identity::of(&Secret { bytes: [9; 32], ..Secret::default() }, 1).print();
    sdp.replace("m=audio", &format!("a=fingerprint:{print}\r\na=setup:actpass\r\nm=audio"))
}

struct Call {
    session: Session,
    next: u16,
}

impl Call {
    fn new(policies: [Policy; 2]) -> Self {
        let ip: IpAddr = "127.0.0.11".parse().unwrap();
        let secret = Secret { bytes: [7; 32], since: Timestamp(5), restored: false };
        Self { session: Session { policies, secret, ..Session::new(ip.into(), 42) }, next: 10_000 }
    }

    fn pass(&mut self, from: usize, answers: bool, sdp: &str) -> Result<Vec<u8>, SdpError> {
        let next = &mut self.next;
        let mut take = |_| {
            *next += 2;
            Some(*next - 2)
        };
        match answers {
            false => self.session.describe(from, sdp.as_bytes(), &mut take),
            true => self.session.answer(from, sdp.as_bytes(), &mut take),
        }
    }

    fn shield(&self, leg: usize) -> Shield {
        self.session.plan(leg)[0].clone().unwrap().shield
    }

    /// What a phone can tell of a key that it was told is what the relay has.
    fn is_ours(&self, leg: usize, key: &str) -> bool {
        matches!(self.shield(leg), Shield::Srtp(keys) if STANDARD.encode(keys.ours.bytes()) == key)
    }

    fn is_theirs(&self, leg: usize, key: &str) -> bool {
        matches!(self.shield(leg), Shield::Srtp(keys) if STANDARD.encode(keys.theirs.bytes()) == key)
    }
}

#[test]
fn a_side_is_offered_what_its_policy_and_the_other_side_say() {
    let secure = sdp("RTP/SAVP", &[&format!("3 AES_CM_128_HMAC_SHA1_80 inline:{KEY}|2^20|")]);
    let optional = sdp("RTP/AVP", &[&format!("3 AES_CM_128_HMAC_SHA1_80 inline:{KEY}")]);
    let plain = sdp("RTP/AVP", &[]);
    let feedback = sdp("RTP/SAVPF", &[&format!("1 AES_CM_128_HMAC_SHA1_80 inline:{KEY} WSH=64")]);
    let unknown = sdp("RTP/SAVP", &[&format!("1 F8_128_HMAC_SHA1_80 inline:{KEY}")]);
    let identified = sdp("RTP/SAVP", &[&format!("1 AES_CM_128_HMAC_SHA1_80 inline:{KEY}|2^20|1:4")]);
    let unencrypted = sdp("RTP/SAVP", &[&format!("1 AES_CM_128_HMAC_SHA1_80 inline:{KEY} UNENCRYPTED_SRTP")]);
    let without = sdp("UDP/TLS/RTP/SAVPF", &[]);
    let dtls = with_print(&without);
    let clear = with_print(&plain);
    use Policy::{Allow, Dtls, Forbid, Prefer, Require};
    for (offer, policies, expected) in [
        (&plain, [Allow, Allow], Ok(("RTP/AVP", 0))),
        (&plain, [Prefer, Prefer], Ok(("RTP/AVP", 3))),
        (&plain, [Allow, Require], Ok(("RTP/SAVP", 3))),
        (&plain, [Require, Allow], Err(ProtectionError::Missing)),
        (&optional, [Allow, Allow], Ok(("RTP/AVP", 3))),
        (&optional, [Forbid, Allow], Ok(("RTP/AVP", 0))),
        (&optional, [Require, Forbid], Ok(("RTP/AVP", 0))),
        (&secure, [Allow, Allow], Ok(("RTP/AVP", 3))),
        (&secure, [Allow, Forbid], Ok(("RTP/AVP", 0))),
        (&secure, [Require, Require], Ok(("RTP/SAVP", 3))),
        (&secure, [Forbid, Allow], Err(ProtectionError::Forbidden)),
        (&feedback, [Allow, Allow], Ok(("RTP/AVPF", 3))),
        (&unknown, [Allow, Allow], Err(ProtectionError::NoKey)),
        (&identified, [Allow, Allow], Err(ProtectionError::NoKey)),
        (&unencrypted, [Allow, Allow], Err(ProtectionError::NoKey)),
        (&without, [Allow, Allow], Err(ProtectionError::NoKey)),
        (&dtls, [Allow, Allow], Ok(("RTP/AVP", 3))),
        (&dtls, [Dtls, Forbid], Ok(("RTP/AVP", 0))),
        (&dtls, [Require, Require], Ok(("RTP/SAVP", 3))),
        (&dtls, [Forbid, Allow], Err(ProtectionError::Forbidden)),
        (&dtls.replace("actpass", "passive"), [Allow, Allow], Err(ProtectionError::Role)),
        (&secure, [Dtls, Allow], Err(ProtectionError::NoKey)),
        // A fingerprint in clear is no promise.
        (&clear, [Dtls, Allow], Err(ProtectionError::Missing)),
        (&clear, [Require, Allow], Err(ProtectionError::Missing)),
        (&clear, [Allow, Allow], Ok(("RTP/AVP", 0))),
    ] {
        let mut call = Call::new(policies);
        match (call.pass(0, false, offer), expected) {
            (Ok(onward), Ok((proto, lines))) => {
                let (told, crypto) = said(&onward);
                assert_eq!((&*told, crypto.len()), (proto, lines), "{offer} {policies:?}");
                assert!(crypto.values().all(|(_, key)| key != KEY), "a phone's key is nobody else's");
                let keys: std::collections::BTreeSet<_> = crypto.values().map(|(_, key)| key).collect();
                assert_eq!(keys.len(), crypto.len());
            }
            (Err(SdpError::Protection(error)), Err(expected)) => {
                assert_eq!(error, expected, "{offer} {policies:?}");
                assert_eq!(call.session.streams.len(), 0, "nothing has changed");
            }
            (result, expected) => panic!("{offer} {policies:?}: {result:?} and not {expected:?}"),
        }
    }
}

#[test]
fn each_side_has_keys_of_its_own_or_none() {
    let offer = sdp("RTP/SAVP", &[&format!("9 NONE inline:{KEY}"), &format!("3 AES_CM_128_HMAC_SHA1_32 inline:{KEY}")]);
    let mut call = Call::new([Policy::Allow, Policy::Allow]);
    let (_, lines) = said(&call.pass(0, false, &offer).unwrap());
    assert_eq!(
        [call.shield(0), call.shield(1)],
        [Shield::Closed, Shield::Closed],
        "nothing goes anywhere in clear before the answer"
    );
    let (gcm, ours) = &lines[&1];
    assert_eq!(gcm, "AEAD_AES_256_GCM");
    let answer = sdp("RTP/AVP", &[&format!("1 AEAD_AES_256_GCM inline:{GCM_KEY}")]);
    let (proto, answered) = said(&call.pass(1, true, &answer).unwrap());
    let (suite, key) = &answered[&3];
    assert_eq!((&*proto, answered.len(), &**suite), ("RTP/SAVP", 1, "AES_CM_128_HMAC_SHA1_32"));
    assert!(call.is_theirs(0, KEY) && call.is_ours(0, key) && call.is_theirs(1, GCM_KEY) && call.is_ours(1, ours));
    // The callee puts the call on hold: each has the keys that it had.
    let hold = answer.replace("sendrecv", "sendonly");
    let (proto, again) = said(&call.pass(1, false, &hold).unwrap());
    assert_eq!((&*proto, again.len()), ("RTP/SAVP", 1));
    assert!(call.is_ours(0, key) && again[&3].1 == *key, "it is offered what it has agreed to");
    let reply = sdp("RTP/SAVP", &[&format!("3 AES_CM_128_HMAC_SHA1_32 inline:{OTHER_KEY}")]);
    let (proto, again) = said(&call.pass(0, true, &reply).unwrap());
    assert_eq!((&*proto, &again[&1].1), ("RTP/AVP", ours));
    assert!(call.is_theirs(0, OTHER_KEY) && call.is_ours(0, key) && call.is_ours(1, ours));
}

#[test]
fn who_has_no_keys_talks_in_clear_only_where_that_is_allowed() {
    let secure = sdp("RTP/SAVP", &[&format!("1 AES_CM_128_HMAC_SHA1_80 inline:{KEY}")]);
    let plain = sdp("RTP/AVP", &[]);
    for (policy, answer, ok) in [
        (Policy::Allow, plain.clone(), true),
        (Policy::Require, plain.clone(), false),
        (Policy::Require, sdp("RTP/SAVP", &[]), false),
        // It has another number, or a suite that wasn't offered, or one of two that were not to be mixed.
        (Policy::Require, sdp("RTP/SAVP", &[&format!("1 AES_CM_128_HMAC_SHA1_80 inline:{KEY}")]), false),
        (Policy::Require, sdp("RTP/SAVP", &[&format!("2 AES_256_CM_HMAC_SHA1_80 inline:{KEY}")]), false),
        (Policy::Require, sdp("RTP/SAVP", &[&format!("2 AES_CM_128_HMAC_SHA1_80 inline:{KEY}")]), true),
        (Policy::Require, sdp("UDP/TLS/RTP/SAVP", &[]), false),
        (Policy::Dtls, plain.clone(), false),
        (Policy::Dtls, sdp("RTP/SAVP", &[&format!("2 AES_CM_128_HMAC_SHA1_80 inline:{KEY}")]), false),
        (Policy::Forbid, with_print(&sdp("UDP/TLS/RTP/SAVP", &[])), false),
        // What it was offered was made for another, as when that one has sent the caller on.
        (Policy::Allow, sdp("RTP/AVP", &[&format!("2 AES_CM_128_HMAC_SHA1_80 inline:{KEY}")]), true),
        (Policy::Forbid, plain.clone(), true),
        (Policy::Forbid, secure.clone(), false),
    ] {
        let mut call = Call::new([Policy::Allow, policy]);
        call.pass(0, false, &secure).unwrap();
        let before = call.session.clone();
        let answered = call.pass(1, true, &answer);
        assert_eq!(answered.is_ok(), ok, "{policy:?} {answer}");
        match answered {
            Ok(answered) => {
                assert_eq!(said(&answered).0, "RTP/SAVP");
                assert!(call.is_theirs(0, KEY));
                assert_eq!(call.shield(1) == Shield::Plain, answer == plain);
            }
            Err(_) => assert_eq!(call.session, before),
        }
    }
}

/// Another phone that is to have a side gets keys of its own, and if nothing comes of it the first has what it had.
#[test]
fn another_phone_has_other_keys() {
    let mut call = Call::new([Policy::Allow, Policy::Require]);
    let (_, first) = said(&call.pass(0, false, &sdp("RTP/AVP", &[])).unwrap());
    call.pass(1, true, &sdp("RTP/SAVP", &[&format!("2 AES_CM_128_HMAC_SHA1_80 inline:{KEY}")])).unwrap();
    let had = call.shield(1);
    let mut take = |_| Some(11_000);
    let instead = sdp("RTP/SAVP", &[&format!("5 AES_CM_128_HMAC_SHA1_80 inline:{OTHER_KEY}")]);
    call.session.offer_instead(1, instead.as_bytes(), &mut take).unwrap();
    assert_eq!(call.shield(1), had, "until it is answered");
    let (_, other) = said(&call.pass(0, true, &sdp("RTP/AVP", &[])).unwrap());
    assert_ne!(other[&5].1, first[&2].1);
    let mut refused = call.session.clone();
    assert!(refused.take_back());
    assert_eq!(refused.plan(1)[0].clone().unwrap().shield, had);
    call.session.accepted();
    assert!(call.is_theirs(1, OTHER_KEY) && call.is_ours(1, &other[&5].1));
}

#[test]
fn how_far_sources_have_come_is_kept_by_key() {
    let mut call = Call::new([Policy::Allow, Policy::Allow]);
    let mark = |ssrc, index| Mark { ssrc, index };
    call.pass(0, false, &sdp("RTP/SAVP", &[&format!("1 AES_CM_128_HMAC_SHA1_80 inline:{KEY}")])).unwrap();
    call.pass(1, true, &sdp("RTP/AVP", &[])).unwrap();
    let keys = |call: &Call| match call.shield(0) {
        Shield::Srtp(keys) => (keys.theirs.mark(), keys.ours.mark()),
        shield @ (Shield::Plain | Shield::Closed) => panic!("{shield:?}"),
    };
    let (theirs, ours) = keys(&call);
    assert!(!call.session.come_to(1, 0, (true, ours), mark(1, 5)), "it is in clear");
    for (one, news) in [(mark(1, 70_000), true), (mark(1, 70_000), false), (mark(1, 60_000), false), (mark(2, 9), true)] {
        assert_eq!(call.session.come_to(0, 0, (false, theirs), one), news, "{one:?}");
    }
    let (theirs, ours) = keys(&call);
    assert!(call.session.come_to(0, 0, (true, ours), mark(3, 9)));
    assert!(!call.session.come_to(0, 0, (true, theirs), mark(4, 9)), "it is by another key");
    let marks = |call: &Call| match call.shield(0) {
        Shield::Srtp(keys) => keys.marks,
        shield @ (Shield::Plain | Shield::Closed) => panic!("{shield:?}"),
    };
    assert_eq!(marks(&call), [vec![mark(2, 9), mark(1, 70_000)], vec![mark(3, 9)]]);
    // Its key is another: its sources begin anew. Ours is the same.
    call.pass(0, false, &sdp("RTP/SAVP", &[&format!("1 AES_CM_128_HMAC_SHA1_80 inline:{OTHER_KEY}")])).unwrap();
    assert_eq!(marks(&call), [vec![], vec![mark(3, 9)]]);
}

/// Who is told once more what it was told is told its own answer: it says the same again.
#[test]
fn what_is_told_again_is_agreed_again() {
    for proto in ["RTP/SAVP", "RTP/AVP"] {
        let own = sdp(proto, &[&format!("1 AES_256_CM_HMAC_SHA1_80 inline:{}", STANDARD.encode([3; 46]))]);
        let mut call = Call::new([Policy::Require, Policy::Allow]);
        call.pass(0, false, &own).unwrap();
        call.pass(1, true, &sdp("RTP/AVP", &[])).unwrap();
        let had = call.shield(0);
        let told = said(&call.session.tell_again(0).unwrap());
        assert_eq!(told.1[&1].0, "AES_256_CM_HMAC_SHA1_80");
        call.session.answer_again(0, own.as_bytes(), &mut |_| None).unwrap();
        assert_eq!(call.shield(0), had);
        // The other asks for something: this one is offered what it has, and nothing of it counts until it has answered.
        call.session.offer(1, sdp("RTP/AVP", &[]).as_bytes(), &mut |_| None).unwrap();
        assert_eq!(call.shield(0), had);
        assert_eq!(said(call.session.told[0].as_ref().unwrap()), told);
        assert!(call.pass(0, true, &sdp(proto, &[])).is_err(), "it must not do without");
        call.pass(0, true, &own).unwrap();
        call.session.accepted();
        assert_eq!(call.shield(0), had);
    }
}

/// An offer changes nothing of how what flows is protected until it is answered, and nothing at all when it is refused.
#[test]
fn an_offer_is_no_agreement() {
    let with = |key| sdp("RTP/SAVP", &[&format!("2 AES_CM_128_HMAC_SHA1_80 inline:{key}")]);
    let mut call = Call::new([Policy::Allow, Policy::Require]);
    call.pass(0, false, &with(KEY)).unwrap();
    call.pass(1, true, &with(GCM_KEY).replace("2 AES_CM_128_HMAC_SHA1_80", "1 AEAD_AES_256_GCM")).unwrap();
    let had = [call.shield(0), call.shield(1)];
    for offer in [with(OTHER_KEY), sdp("RTP/AVP", &[]), sdp("udptl", &[]), with_print(&sdp("UDP/TLS/RTP/SAVPF", &[]))] {
        call.session.offer(0, offer.as_bytes(), &mut |_| None).unwrap();
        assert_eq!([call.shield(0), call.shield(1)], had, "{offer}");
        let mark = Mark { ssrc: 9, index: 70_000 + call.session.versions[1] };
        let Shield::Srtp(keys) = had[1].clone() else { panic!("no keys") };
        assert!(call.session.come_to(1, 0, (true, keys.ours.mark()), mark));
        assert!(call.session.take_back());
        let Shield::Srtp(after) = call.shield(1) else { panic!("no keys") };
        assert_eq!(after.marks[1], [mark], "what was learned meanwhile stays");
        assert!(call.session.streams[0].legs[1].protection.marks[1].pop().is_some());
    }
}

/// A fax, and back to sound: it is protected again, by other keys.
#[test]
fn who_has_done_without_gets_other_keys() {
    let own = sdp("RTP/SAVP", &[&format!("2 AES_CM_128_HMAC_SHA1_80 inline:{KEY}")]);
    for between in ["udptl", "RTP/AVP"] {
        let mut call = Call::new([Policy::Allow, Policy::Allow]);
        call.pass(0, false, &own).unwrap();
        call.pass(1, true, &sdp("RTP/AVP", &[&format!("2 AES_CM_128_HMAC_SHA1_80 inline:{KEY}")])).unwrap();
        let had = [call.shield(0), call.shield(1)];
        call.pass(0, false, &sdp(between, &[])).unwrap();
        call.pass(1, true, &sdp(between, &[])).unwrap();
        assert_eq!([call.shield(0), call.shield(1)], [Shield::Plain, Shield::Plain]);
        let (proto, lines) = said(&call.pass(0, false, &own).unwrap());
        // Who had keys and did without them by itself isn't pressed.
        assert_eq!((&*proto, lines.len()), ("RTP/AVP", 3));
        call.pass(1, true, &sdp("RTP/AVP", &[&format!("2 AES_CM_128_HMAC_SHA1_80 inline:{KEY}")])).unwrap();
        for (leg, had) in had.into_iter().enumerate() {
            let (Shield::Srtp(had), Shield::Srtp(has)) = (had, call.shield(leg)) else { panic!("no keys") };
            assert_ne!(had.ours, has.ours);
        }
    }
}

/// Keys that are agreed in a way of which we know nothing pass, and those of our kinds go no further.
#[test]
fn other_keys_pass_where_ours_do_not_stand() {
    let text = |onward: Vec<u8>| String::from_utf8(onward).unwrap();
    let other = sdp("RTP/SAVP", &[]).replace("m=audio", "a=key-mgmt:mikey AA==\r\nm=audio");
    let mut call = Call::new([Policy::Allow, Policy::Allow]);
    let onward = text(call.pass(0, false, &other).unwrap());
    assert!(onward.contains("RTP/SAVP ") && onward.contains("a=key-mgmt:mikey AA=="), "{onward}");
    assert_eq!(call.shield(0), Shield::Plain);
    call.pass(1, true, &other).unwrap();
    // Who has to be protected is not by a fingerprint in clear, offering or answering.
    let promised = with_print(&sdp("RTP/AVP", &[]));
    let mut call = Call::new([Policy::Allow, Policy::Require]);
    let onward = text(call.pass(0, false, &promised).unwrap());
    assert!(!onward.contains("fingerprint") && !onward.contains("setup"), "{onward}");
    assert!(call.pass(1, true, &promised).is_err());
    let both = with_print(&sdp("RTP/SAVP", &[&format!("2 AES_CM_128_HMAC_SHA1_80 inline:{KEY}")]));
    let onward = text(Call::new([Policy::Allow, Policy::Allow]).pass(0, false, &both).unwrap());
    assert!(!onward.contains("fingerprint") && !onward.contains("setup") && !onward.contains(KEY), "{onward}");
}

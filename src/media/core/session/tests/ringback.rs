//! What a caller is told so that it hears from us that somebody rings.

use super::*;
use crate::media::core::player::{Music, Tune};

fn sdp(who: u8, proto: &str, formats: &str, more: &str) -> String {
    format!(
        "v=0\r\no=x 1 1 IN IP4 10.0.0.{who}\r\ns=-\r\nc=IN IP4 10.0.0.{who}\r\nt=0 0\r\nm=audio 4000 {proto} {formats}\r\n{more}"
    )
}

const OPUS: &str = "a=rtpmap:99 opus/48000/2\r\na=rtpmap:101 telephone-event/8000\r\n";

fn coding() -> Session {
    Session { codecs: [Codec::Opus, Codec::Pcma][..].into(), ..session() }
}

fn ring(session: &mut Session, told: &str) -> Option<String> {
    session.ring(told.as_bytes()).map(|told| String::from_utf8(told).unwrap())
}

#[test]
fn a_caller_hears_that_it_rings_until_the_phone_says_something_itself() {
    let mut session = coding();
    let offer = sdp(1, "RTP/AVP", "99 8 101", OPUS) + "m=video 5000 RTP/AVP 98\r\na=rtpmap:98 H264/90000\r\n";
    let told = describe(&mut session, 0, &offer).unwrap();
    let before = session.clone();
    let early = ring(&mut session, &told).unwrap();
    assert!(early.contains(" RTP/AVP 99 101\r\n") && early.contains("m=video 0 RTP/AVP 98"), "{early}");
    assert!(!early.contains("0.0.0.0") && !early.contains("a=sendonly"), "{early}");
    let music = |session: &Session| [0, 1].map(|leg| session.plan(leg)[0].as_ref().unwrap().music);
    assert_eq!(music(&session), [Some(Music { tune: Tune::Ringback, codec: Codec::Opus, payload: 99, offset: None }), None]);
    assert!(session.rings() && session.plan(1) == before.plan(1), "nobody is sent anything");
    assert_eq!(
        (session.held, session.lines, session.plan(0)[0].as_ref().unwrap().remote),
        (before.held, before.lines, before.plan(0)[0].as_ref().unwrap().remote)
    );
    // The phone takes the call, with another codec and with video.
    let answered = sdp(2, "RTP/AVP", "8", "a=sendrecv\r\n") + "m=video 6000 RTP/AVP 98\r\na=rtpmap:98 H264/90000\r\n";
    let mut other = before.clone();
    let told = [&mut session, &mut other].map(|session| describe(session, 1, &answered).unwrap());
    assert_eq!(told[0].replace(" 2 IN", " 1 IN"), told[1], "as if it had not been");
    assert_eq!((music(&session), session.rings()), ([None, None], false));
    assert_eq!([0, 1].map(|leg| session.plan(leg)), [0, 1].map(|leg| other.plan(leg)));
}

/// The answer that comes then may still have to be made over.
#[test]
fn it_changes_nothing_of_what_is_made_over() {
    let mut session = coding();
    let told = describe(&mut session, 0, &sdp(1, "RTP/AVP", "8", "")).unwrap();
    ring(&mut session, &told).unwrap();
    assert!(session.streams[0].formats.as_ref().unwrap().is_needed(), "an earlier release would not do that");
    let answer = describe(&mut session, 1, &sdp(2, "RTP/AVP", "96", "a=rtpmap:96 opus/48000/2\r\n")).unwrap();
    assert!(answer.contains("RTP/AVP 8\r\n"), "{answer}");
    assert!(!session.plan(0)[0].as_ref().unwrap().rules.rules.is_empty());
    assert!(!session.rings());
}

/// Each side is protected as it wants.
#[test]
fn a_caller_with_keys_hears_it_by_those() {
    let mut session = coding();
    let key = "a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:WVNfX19zZW1jdGwgKCkgewkyMjA7fQp9CnVubGVz\r\n";
    let told = describe(&mut session, 0, &sdp(1, "RTP/SAVP", "8", key)).unwrap();
    let phones = session.streams[0].legs[1].clone();
    let early = ring(&mut session, &told).unwrap();
    assert!(early.contains("RTP/SAVP 8\r\n") && early.contains("a=crypto:1 AES_CM_128_HMAC_SHA1_80"), "{early}");
    assert!(matches!(session.plan(0)[0].as_ref().unwrap().shield, Shield::Srtp(_)));
    assert_eq!(session.streams[0].legs[1], phones);
}

#[test]
fn without_sound_that_we_can_make_nothing_is_said() {
    let mut session = coding();
    let told = describe(&mut session, 0, &sdp(1, "RTP/AVP", "18", "")).unwrap();
    let before = session.clone();
    assert_eq!((ring(&mut session, &told), ring(&mut session, "rubbish")), (None, None));
    assert_eq!(session, before);
    // Nor to who wouldn't hear it.
    for direction in ["sendonly", "inactive"] {
        let mut session = coding();
        let told = describe(&mut session, 0, &sdp(1, "RTP/AVP", "8", &format!("a={direction}\r\n"))).unwrap();
        assert_eq!(ring(&mut session, &told), None);
    }
    // Nor when somebody has answered.
    let mut session = coding();
    let told = describe(&mut session, 0, &sdp(1, "RTP/AVP", "8", "")).unwrap();
    describe(&mut session, 1, &sdp(2, "RTP/AVP", "8", "")).unwrap();
    assert_eq!(ring(&mut session, &told), None);
}

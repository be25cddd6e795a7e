//! Who hears music while the other holds, and what the two are told of it.

use super::*;

fn sdp(who: u8, formats: &str, more: &str) -> String {
    format!(
        "v=0\r\no=x 1 1 IN IP4 10.0.0.{who}\r\ns=-\r\nc=IN IP4 10.0.0.{who}\r\nt=0 0\r\nm=audio 4000 RTP/AVP {formats}\r\n{more}"
    )
}

const OPUS: &str = "a=rtpmap:99 opus/48000/2\r\n";

fn offer(session: &mut Session, from: usize, sdp: &str) -> String {
    String::from_utf8(session.offer(from, sdp.as_bytes(), &mut |_| None).unwrap()).unwrap()
}

fn answer(session: &mut Session, from: usize, sdp: &str) -> String {
    let told = String::from_utf8(session.answer(from, sdp.as_bytes(), &mut |_| None).unwrap()).unwrap();
    session.accepted();
    told
}

/// Two phones that talk: one has PCMA, the other that and Opus.
fn talking() -> Session {
    let mut session = Session { codecs: [Codec::Opus, Codec::Pcma][..].into(), has_music: true, ..session() };
    describe(&mut session, 0, &sdp(1, "8", "")).unwrap();
    describe(&mut session, 1, &sdp(2, "8 99", OPUS)).unwrap();
    assert_eq!(music(&session), [None, None]);
    session
}

/// The payload type that each hears.
fn music(session: &Session) -> [Option<u8>; 2] {
    [0, 1].map(|leg| session.plan(leg)[0].as_ref().unwrap().music.map(|music| music.payload))
}

fn direction(told: &str) -> &str {
    let all = ["a=sendrecv", "a=sendonly", "a=recvonly", "a=inactive"];
    let mut said = told.lines().filter(|line| all.contains(line));
    let direction = said.next().map_or("sendrecv", |line| &line[2..]);
    assert_eq!(said.next(), None, "{told}");
    direction
}

#[test]
fn whoever_is_held_may_hear() {
    let nowhere = sdp(1, "8", "").replace("c=IN IP4 10.0.0.1", "c=IN IP4 0.0.0.0");
    for (held, told_other, answered, told_holder) in [
        (sdp(1, "8", "a=sendonly\r\n"), "sendonly", "recvonly", "recvonly"),
        (sdp(1, "8", "a=inactive\r\n"), "sendonly", "recvonly", "inactive"),
        (nowhere.clone(), "sendonly", "recvonly", "recvonly"),
        (nowhere + "a=inactive\r\n", "sendonly", "recvonly", "inactive"),
    ] {
        let mut session = talking();
        let told = offer(&mut session, 0, &held);
        assert_eq!(direction(&told), told_other, "{told}");
        assert!(!told.contains("0.0.0.0"), "{told}");
        assert_eq!(music(&session), [None, None], "it isn't answered");
        let mut refused = session.clone();
        assert!(refused.take_back());
        assert_eq!(music(&refused), [None, None]);
        let told = answer(&mut session, 1, &sdp(2, "99 8", &format!("{OPUS}a={answered}\r\n")));
        assert_eq!(direction(&told), told_holder, "{told}");
        assert_eq!((music(&session), session.held), ([None, Some(99)], [true, true]));
        // It asks whether the call goes on: who holds says what he must, and holds on.
        let told = offer(&mut session, 1, &sdp(2, "99", &format!("{OPUS}a=recvonly\r\n")));
        assert_eq!(direction(&told), "recvonly");
        let told = answer(&mut session, 0, &sdp(1, "8", "a=inactive\r\n"));
        assert_eq!((direction(&told), music(&session)), ("sendonly", [None, Some(99)]));
        // And the holder.
        offer(&mut session, 0, &held);
        answer(&mut session, 1, &sdp(2, "99", &format!("{OPUS}a=recvonly\r\n")));
        assert_eq!(music(&session), [None, Some(99)]);
        // It goes on.
        let told = offer(&mut session, 0, &sdp(1, "8", "a=sendrecv\r\n"));
        assert_eq!((direction(&told), music(&session)), ("sendrecv", [None, Some(99)]));
        answer(&mut session, 1, &sdp(2, "8", ""));
        assert_eq!((music(&session), session.held), ([None, None], [false, false]));
    }
}

#[test]
fn who_holds_hears_nothing_and_nobody_does_when_both_hold() {
    let mut session = talking();
    offer(&mut session, 0, &sdp(1, "8", "a=sendonly\r\n"));
    answer(&mut session, 1, &sdp(2, "8", "a=recvonly\r\n"));
    let told = offer(&mut session, 1, &sdp(2, "8", "a=inactive\r\n"));
    assert_eq!(direction(&told), "sendonly");
    let told = answer(&mut session, 0, &sdp(1, "8", "a=inactive\r\n"));
    assert_eq!((direction(&told), music(&session)), ("inactive", [None, None]));
    // The first comes back.
    offer(&mut session, 0, &sdp(1, "8", ""));
    let told = answer(&mut session, 1, &sdp(2, "8", "a=inactive\r\n"));
    assert_eq!((direction(&told), music(&session)), ("sendonly", [Some(8), None]));
}

/// A phone that only listens, or only speaks, holds nobody.
#[test]
fn one_way_is_no_hold() {
    let mut session = Session { codecs: [Codec::Pcma][..].into(), has_music: true, ..session() };
    describe(&mut session, 0, &sdp(1, "8", "a=recvonly\r\n")).unwrap();
    let told = describe(&mut session, 1, &sdp(2, "8", "a=sendonly\r\n")).unwrap();
    assert_eq!((direction(&told), music(&session)), ("sendonly", [None, None]));
    // Who can't or won't hear isn't played anything.
    let mut session = talking();
    offer(&mut session, 0, &sdp(1, "8", "a=sendonly\r\n"));
    let told = answer(&mut session, 1, &sdp(2, "8", "a=inactive\r\n"));
    assert_eq!((direction(&told), music(&session)), ("inactive", [None, None]));
}

#[test]
fn without_music_all_is_said_as_it_was() {
    let mut session = Session { has_music: false, ..talking() };
    let told = offer(&mut session, 0, &sdp(1, "8", "a=inactive\r\n"));
    assert_eq!(direction(&told), "inactive");
    answer(&mut session, 1, &sdp(2, "8", "a=inactive\r\n"));
    assert_eq!((music(&session), session.streams[0].ways), ([None, None], [Way::default(); 2]));
}

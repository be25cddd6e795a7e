//! Offers that are made longer, and what becomes of the answers.

use super::*;
use crate::media::core::negotiation::How;

fn sdp(who: u8, formats: &str) -> String {
    let fmt: Vec<_> = formats.split(',').map(|format| format.split(' ').next().unwrap()).collect();
    let maps: String = formats.split(',').map(|format| format!("a=rtpmap:{format}\r\n")).collect();
    format!(
        "v=0\r\no=x 1 1 IN IP4 10.0.0.{who}\r\ns=-\r\nc=IN IP4 10.0.0.{who}\r\nt=0 0\r\nm=audio 4000 RTP/AVP {}\r\n{maps}",
        fmt.join(" ")
    )
}

const PCMU: &str = "0 PCMU/8000";
const OPUS: &str = "107 opus/48000/2";

fn coding() -> Session {
    Session { codecs: [Codec::Opus, Codec::Pcma][..].into(), ..session() }
}

fn formats(sdp: &str) -> &str {
    sdp.lines().find_map(|line| line.strip_prefix("m=audio ")?.split_once("RTP/AVP ")).unwrap().1
}

/// What becomes of each side's packets.
fn ways(session: &Session) -> [Vec<(u8, u8)>; 2] {
    [0, 1].map(|leg| session.plan(leg)[0].as_ref().unwrap().rules.rules.iter().map(|rule| (rule.from, rule.to)).collect())
}

fn offer(session: &mut Session, from: usize, sdp: &str) -> String {
    String::from_utf8(session.offer(from, sdp.as_bytes(), &mut |_| None).unwrap()).unwrap()
}

fn answer(session: &mut Session, from: usize, sdp: &str) -> String {
    String::from_utf8(session.answer(from, sdp.as_bytes(), &mut |_| None).unwrap()).unwrap()
}

#[test]
fn phones_without_a_codec_in_common_are_told_of_one_each() {
    let mut session = coding();
    let told = describe(&mut session, 0, &sdp(1, PCMU)).unwrap();
    assert_eq!(formats(&told), "0 96 8 97");
    assert_eq!(ways(&session), [vec![], vec![]], "nobody has answered");
    let told = describe(&mut session, 1, &sdp(2, OPUS)).unwrap();
    assert_eq!(formats(&told), "0");
    assert_eq!(ways(&session), [vec![(0, 107)], vec![(107, 0), (0, 0), (96, 0), (8, 0)]]);
    assert_eq!(session.plan(0)[0].as_ref().unwrap().rules.rules[0].how, How::Code(Codec::Pcmu, Codec::Opus));

    // What is offered later counts when it is answered; what is refused never does.
    let held = format!("{}a=sendonly\r\n", sdp(2, OPUS));
    let told = offer(&mut session, 1, &held);
    assert_eq!(formats(&told), "107 8 96");
    assert_eq!(ways(&session)[0], [(0, 107)]);
    let mut refused = session.clone();
    assert!(refused.take_back());
    assert_eq!(ways(&refused), [vec![(0, 107)], vec![(107, 0), (0, 0), (96, 0), (8, 0)]]);
    assert_eq!(formats(&answer(&mut session, 0, &sdp(1, PCMU))), "107");
    session.accepted();
    assert_eq!(ways(&session), [vec![(0, 107), (107, 107), (8, 107)], vec![(107, 0)]]);

    // Both have this one.
    assert_eq!(
        formats(&offer(&mut session, 0, &sdp(1, "8 PCMA/8000,0 PCMU/8000"))),
        "8 0 96 97",
        "by the numbers that it was told first"
    );
    assert_eq!(formats(&answer(&mut session, 1, &sdp(2, "8 PCMA/8000"))), "8");
    session.accepted();
    assert_eq!(ways(&session), [vec![], vec![]]);

    // And another, to whom all of it is new.
    offer(&mut session, 0, &sdp(1, PCMU));
    let image = sdp(2, PCMU).replace("m=audio 4000 RTP/AVP 0", "m=image 4000 udptl t38");
    let told = answer(&mut session, 1, &image);
    assert!(told.contains("udptl t38"), "{told}");
    session.accepted();
    assert_eq!((ways(&session), session.streams[0].formats.clone()), ([vec![], vec![]], None));
}

/// Several ring: each answers the same offer, and the last counts.
#[test]
fn whoever_answers_last_is_understood() {
    let mut session = coding();
    describe(&mut session, 0, &sdp(1, PCMU)).unwrap();
    assert_eq!(formats(&describe(&mut session, 1, &sdp(2, OPUS)).unwrap()), "0");
    assert_eq!(formats(&describe(&mut session, 1, &sdp(3, PCMU)).unwrap()), "0");
    assert_eq!(ways(&session), [vec![], vec![]]);
    assert_eq!(formats(&describe(&mut session, 1, &sdp(2, OPUS)).unwrap()), "0");
    assert_eq!(ways(&session), [vec![(0, 107)], vec![(107, 0), (0, 0), (96, 0), (8, 0)]]);
}

/// A phone is told once more what it was told, and the other one isn't.
#[test]
fn what_is_told_again_changes_nothing() {
    for told_again in [0, 1] {
        let mut session = Session { keeps: true, ..coding() };
        describe(&mut session, 0, &sdp(1, PCMU)).unwrap();
        describe(&mut session, 1, &sdp(2, OPUS)).unwrap();
        let before = session.clone();
        session.tell_again(told_again);
        let says = if told_again == 0 { sdp(1, PCMU) } else { sdp(2, OPUS) };
        session.answer_again(told_again, says.as_bytes(), &mut |_| None).unwrap();
        assert_eq!(ways(&session), ways(&before));
        assert_eq!(session.streams[0].formats.as_ref().unwrap().told, before.streams[0].formats.as_ref().unwrap().told);
    }
}

#[test]
fn what_nobody_can_make_anything_of_is_refused() {
    let mut session = coding();
    describe(&mut session, 0, &sdp(1, PCMU)).unwrap();
    let before = session.clone();
    assert!(matches!(describe(&mut session, 1, &sdp(2, "18 G729/8000")), Err(SdpError::Formats(_))));
    assert_eq!(session, before);
    // Without codecs of ours it is none of our business.
    let mut session = self::session();
    describe(&mut session, 0, &sdp(1, PCMU)).unwrap();
    assert_eq!(formats(&describe(&mut session, 1, &sdp(2, "18 G729/8000")).unwrap()), "18");
}

/// A key that comes by INFO goes by what stands, whatever is open, and by whatever number the sound comes.
#[test]
fn a_key_goes_by_what_is_agreed() {
    let mut session = coding();
    let of = |session: &Session, leg| {
        session.press(leg).map(|(_, rules)| rules.rules.iter().map(|rule| rule.from).collect::<Vec<_>>())
    };
    describe(&mut session, 0, &sdp(1, "111 opus/48000/2,101 telephone-event/8000")).unwrap();
    assert_eq!(of(&session, 1), None, "nobody has answered");
    describe(&mut session, 1, &sdp(2, "97 opus/48000/2,101 telephone-event/8000")).unwrap();
    assert_eq!(ways(&session), [vec![], vec![]]);
    // RFC 3264 §6.1: the answerer sends by the offer's number.
    let pressed = of(&session, 1).unwrap();
    assert!([97, 111, 101].iter().all(|kind| pressed.contains(kind)), "{pressed:?}");
    assert!(session.press(1).unwrap().1.rules.iter().all(|rule| rule.from == rule.to));
    assert_eq!(session.press(0).unwrap().1.events, Some((101, 8000)));
    let held = format!("{}a=sendonly\r\n", sdp(1, "111 opus/48000/2"));
    offer(&mut session, 0, &held);
    let pressed = of(&session, 1).unwrap();
    assert!([97, 101].iter().all(|kind| pressed.contains(kind)), "{pressed:?}");
}

/// An offer that was asked for (a re-INVITE without one) has nothing before it, and changes nothing until it is answered.
#[test]
fn what_is_made_over_goes_on_until_another_answer() {
    let mut session = coding();
    describe(&mut session, 0, &sdp(1, PCMU)).unwrap();
    describe(&mut session, 1, &sdp(2, OPUS)).unwrap();
    let before = ways(&session);
    session.describe(1, sdp(2, OPUS).as_bytes(), &mut |_| None).unwrap();
    assert_eq!((ways(&session)[0][0], &ways(&session)[1]), (before[0][0], &before[1]));
    answer(&mut session, 0, &sdp(1, PCMU));
    assert_eq!(ways(&session)[0][0], (0, 107));
}

/// One of several phones that ring has no sound to offer, and another has.
#[test]
fn a_stream_that_one_phone_declines_another_may_take() {
    let mut session = coding();
    describe(&mut session, 0, &sdp(1, PCMU)).unwrap();
    describe(&mut session, 1, &sdp(2, OPUS).replace("m=audio 4000", "m=audio 0")).unwrap();
    assert_eq!(ways(&session), [vec![], vec![]]);
    assert_eq!(formats(&describe(&mut session, 1, &sdp(3, OPUS)).unwrap()), "0");
    assert_eq!(ways(&session)[0], [(0, 107)]);
}

/// A phone that sees nobody, or shows nothing, is on hold only if it doesn't talk either.
#[test]
fn a_call_is_on_hold_if_all_of_it_is() {
    let audio = sdp(1, PCMU);
    for (more, held) in [
        ("", false),
        ("a=sendonly\r\n", true),
        ("m=video 4002 RTP/AVP 97\r\na=recvonly\r\n", false),
        ("m=video 0 RTP/AVP 97\r\na=inactive\r\n", false),
        ("a=sendonly\r\nm=video 0 RTP/AVP 97\r\n", true),
        ("a=sendonly\r\nm=video 4002 RTP/AVP 97\r\na=inactive\r\n", true),
    ] {
        let mut session = coding();
        describe(&mut session, 0, &format!("{audio}{more}")).unwrap();
        assert_eq!(session.held, [held, false], "{more}");
    }
    let mut session = coding();
    describe(&mut session, 0, &audio.replace("t=0 0\r\n", "t=0 0\r\na=inactive\r\n")).unwrap();
    assert!(session.held[0]);
}

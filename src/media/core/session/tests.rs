//! What each leg is told, and where its media go.

mod coding;
mod hearing;
mod music;
mod ringback;

use super::*;
use proptest::prelude::*;

const OFFER: &str = "v=0\r\no=alice 1 1 IN IP4 10.0.0.1\r\ns=-\r\nc=IN IP4 10.0.0.1\r\nt=0 0\r\n\
    m=audio 4000 RTP/AVP 8 101\r\na=rtpmap:101 telephone-event/8000\r\na=rtcp:4009\r\na=candidate:1 1 UDP 1 10.0.0.1 4000 typ host\r\n\
    m=video 0 RTP/AVP 96\r\n";
const ANSWER: &str = "v=0\r\no=bob 7 7 IN IP4 10.0.0.2\r\ns=-\r\nt=0 0\r\nm=audio 6000 RTP/AVP 8\r\nc=IN IP4 10.0.0.2\r\na=sendrecv\r\nm=video 0 RTP/AVP 96\r\n";

fn session() -> Session {
    Session::new("127.0.0.11".parse::<IpAddr>().unwrap().into(), 42)
}

fn describe(session: &mut Session, from: usize, sdp: &str) -> Result<String, SdpError> {
    let mut next = u16::try_from(session.ports().len()).unwrap() * 2 + 10_000;
    let mut take = |_| {
        next += 2;
        Some(next - 2)
    };
    // The caller's are offers here.
    let describe = if from == 0 { Session::describe } else { Session::answer };
    describe(session, from, sdp.as_bytes(), &mut take).map(|sdp| String::from_utf8(sdp).unwrap())
}

#[test]
fn offer_and_answer_get_our_addresses() {
    let mut session = session();
    let offer = describe(&mut session, 0, OFFER).unwrap();
    for line in ["o=tandem 21 1 IN IP4 127.0.0.11", "c=IN IP4 127.0.0.11", "m=audio 10002 RTP/AVP 8 101", "m=video 0 RTP/AVP 96"]
    {
        assert!(offer.contains(line), "{line} in\n{offer}");
    }
    assert!(!offer.contains("candidate") && !offer.contains("a=rtcp:") && !offer.contains("10.0.0.1"), "{offer}");
    let answer = describe(&mut session, 1, ANSWER).unwrap();
    assert!(answer.contains("m=audio 10000 RTP/AVP 8\r\n") && answer.contains("a=sendrecv"), "{answer}");
    let [caller, callee] = [0, 1].map(|leg| session.plan(leg)[0].clone().unwrap());
    assert_eq!(caller.remote, ["10.0.0.1:4000", "10.0.0.1:4009"].map(|a| a.parse().ok()));
    assert_eq!(callee.remote, ["10.0.0.2:6000", "10.0.0.2:6001"].map(|a| a.parse().ok()));
    assert_eq!((caller.local.port(), callee.local.port()), (10_000, 10_002));
    assert_eq!(session.plan(0)[1], None);
}

#[test]
fn a_learned_address_lasts_as_long_as_the_signalled_one() {
    let mut session = session();
    describe(&mut session, 0, OFFER).unwrap();
    assert!(!session.latch(0, 0, false, "10.0.0.1:4000".parse().unwrap()), "what the SDP said is nothing new");
    let seen = "192.0.2.1:9".parse().unwrap();
    assert!(session.latch(0, 0, false, seen) && !session.latch(0, 0, false, seen));
    describe(&mut session, 0, OFFER).unwrap();
    assert_eq!(session.plan(0)[0].as_ref().unwrap().remote[0], Some(seen));
    describe(&mut session, 0, &OFFER.replace("4000", "4002")).unwrap();
    assert_eq!(session.plan(0)[0].as_ref().unwrap().remote[0], "10.0.0.1:4002".parse().ok());
}

/// A fax (T.38 over UDPTL, RFC 3362), and back to sound: what comes late of the one says nothing of where the other is.
#[test]
fn a_fax_is_where_it_says_whatever_comes_late_of_the_sound() {
    fn sdp(phone: u8, port: u16, is_fax: bool) -> String {
        let stream = if is_fax { "m=image PORT udptl t38\r\na=T38FaxVersion:0\r\n" } else { "m=audio PORT RTP/AVP 8\r\n" };
        let stream = stream.replace("PORT", &port.to_string());
        format!("v=0\r\no=- 1 1 IN IP4 10.0.0.{phone}\r\ns=-\r\nc=IN IP4 10.0.0.{phone}\r\nt=0 0\r\n{stream}")
    }
    fn remote(call: &Session, leg: usize) -> (Option<SocketAddr>, bool) {
        let plan = call.plan(leg)[0].clone().unwrap();
        (plan.remote[0], plan.is_other)
    }
    let (mut call, nat) = (session(), "192.0.2.1:9".parse().unwrap());
    describe(&mut call, 0, &sdp(1, 4000, false)).unwrap();
    describe(&mut call, 1, &sdp(2, 9000, false)).unwrap();
    for (port, is_fax) in [(5000, true), (6000, false)] {
        let [before, after] = [port - 1000, port].map(|port| format!("10.0.0.1:{port}").parse().ok());
        let offer = call.offer(0, sdp(1, port, is_fax).as_bytes(), &mut |_| None).unwrap();
        let offer = String::from_utf8(offer).unwrap();
        assert_eq!(offer.contains("m=image 10002 udptl t38\r\na=T38FaxVersion:0\r\n"), is_fax, "{offer}");
        assert_eq!(remote(&call, 0), (after, !is_fax), "until it is answered the former is heard");
        assert!(call.latch(0, 0, false, before.unwrap()));
        let mut refused = call.clone();
        assert!(refused.take_back());
        assert_eq!(remote(&refused, 0), (before, !is_fax));
        call.answer(1, sdp(2, 9000, is_fax).as_bytes(), &mut |_| None).unwrap();
        // Behind a NAT, at the port that it has had.
        assert_eq!(call.latch(1, 0, false, nat), is_fax);
        call.accepted();
        assert_eq!((remote(&call, 0), remote(&call, 1)), ((after, is_fax), (Some(nat), is_fax)));
    }
}

#[test]
fn what_was_said_is_said_again_from_another_address() {
    let mut session = Session { keeps: true, ..session() };
    let offer = describe(&mut session, 0, OFFER).unwrap();
    session.sides = ["127.0.0.12".parse().unwrap(); 2];
    let again = String::from_utf8(session.tell_again(1).unwrap().to_vec()).unwrap();
    assert_eq!(
        again,
        offer
            .replace("o=tandem 21 1 IN IP4 127.0.0.11", "o=tandem 21 2 IN IP4 127.0.0.12")
            .replace("c=IN IP4 127.0.0.11", "c=IN IP4 127.0.0.12")
    );
    assert_eq!(session.tell_again(0), None, "it was told nothing yet");
}

#[test]
fn an_old_style_hold_stays_one() {
    let mut session = session();
    describe(&mut session, 0, OFFER).unwrap();
    let held = describe(&mut session, 0, &OFFER.replace("c=IN IP4 10.0.0.1", "c=IN IP4 0.0.0.0")).unwrap();
    assert!(held.contains("c=IN IP4 0.0.0.0"), "{held}");
    assert_eq!(session.plan(0)[0].as_ref().unwrap().remote[0], None);
}

/// RFC 6157: each phone hears of us in its own family.
#[test]
fn a_phone_of_ipv4_talks_with_one_of_ipv6() {
    let [v4, v6]: [IpAddr; 2] = ["127.0.0.11".parse().unwrap(), "fd00::11".parse().unwrap()];
    let answer = ANSWER.replace("IP4 10.0.0.2", "IP6 fd00::2");
    let both = || Session::new(Families::from(v4).and(v6).unwrap(), 42);
    // Where the callee is was known, or only turns out; then it was told what `toward` makes of the offer.
    for known in [true, false] {
        let mut session = both();
        if known {
            session.reaches(1, "fd00::2".parse().unwrap());
        }
        let offer = describe(&mut session, 0, OFFER).unwrap();
        let offer = session.toward(1, offer.as_bytes(), "fd00::2".parse().unwrap(), false).unwrap();
        let offer = std::str::from_utf8(&offer).unwrap();
        assert!(offer.contains("o=tandem 21 1 IN IP6 fd00::11") && offer.contains("c=IN IP6 fd00::11"), "{offer}");
        let given = describe(&mut session, 1, &answer).unwrap();
        assert!(given.contains("c=IN IP4 127.0.0.11") && given.contains("m=audio 10000 "), "{given}");
        let callee = session.plan(1)[0].clone().unwrap();
        assert_eq!(callee.local, SocketAddr::new(v6, 10_002));
        assert_eq!(callee.remote[0], "[fd00::2]:6000".parse().ok());
        assert_eq!(session.told[1].as_deref(), Some(offer.as_bytes()));
        let held = describe(&mut session, 0, &OFFER.replace("c=IN IP4 10.0.0.1", "c=IN IP4 0.0.0.0")).unwrap();
        assert!(held.contains("c=IN IP6 fd00::11") && held.contains("c=IN IP6 ::\r\n"), "{held}");
        // It would come to the other family, and may not.
        let before = session.clone();
        session.offer(1, ANSWER.as_bytes(), &mut |_| None).unwrap();
        assert_eq!(session.plan(1)[0].as_ref().unwrap().local, SocketAddr::new(v4, 10_002));
        assert!(session.take_back() && !session.take_back());
        assert_eq!((session.plan(1), session.sides, &session.told[1]), (before.plan(1), before.sides, &before.told[1]));
        // What is stored are the streams.
        session.sides = [v4; 2];
        session.find_sides();
        assert_eq!(session.sides, [v4, v6]);
    }
    let mixed = answer.replace("m=video 0 RTP/AVP 96", "m=video 7000 RTP/AVP 96\r\nc=IN IP4 10.0.0.2");
    let mut session = both();
    describe(&mut session, 0, &OFFER.replace("m=video 0", "m=video 4002")).unwrap();
    assert!(describe(&mut session, 1, &mixed).is_err(), "a phone is at one place");
}

/// A phone that takes the place of another has streams of its own: each side sees as many as it must (RFC 3264 §6, §8).
#[test]
fn another_phone_gets_a_side_at_ports_of_its_own() {
    let [offer, answer] = [OFFER, ANSWER].map(|sdp| sdp.replace("m=video 0", "m=video 4002"));
    let mut session = session();
    describe(&mut session, 0, &offer).unwrap();
    let answer = answer.replace("sendrecv", "sendonly").replace("s=-\r\n", "s=-\r\nc=IN IP4 10.0.0.2\r\n") + "a=sendonly\r\n";
    describe(&mut session, 1, &answer).unwrap();
    let before = session.clone();
    let new = "v=0\r\no=carol 3 3 IN IP4 10.0.0.3\r\ns=-\r\nc=IN IP4 10.0.0.3\r\nt=0 0\r\nm=audio 8000 RTP/AVP 8\r\n";
    let mut next = 10_020;
    let mut take = |_| {
        next += 2;
        Some(next)
    };
    let told = String::from_utf8(session.offer_instead(1, new.as_bytes(), &mut take).unwrap()).unwrap();
    assert!(told.contains("m=audio 10000 RTP/AVP 8\r\nm=video 0 RTP/AVP 96\r\n"), "{told}");
    // The one that has the side has it until the other one gets it.
    assert_eq!(session.plan(1), before.plan(1));
    assert!(session.latch(1, 0, false, "192.0.2.1:9".parse().unwrap()));
    assert_eq!(session.plan(1)[0].as_ref().unwrap().remote[0], "192.0.2.1:9".parse().ok());
    assert_eq!(session.ports().into_iter().collect::<Vec<_>>(), [10_000, 10_002, 10_004, 10_006, 10_022]);
    assert!(session.latch(1, 0, false, "10.0.0.2:6000".parse().unwrap()) && session.plan(1) == before.plan(1));
    assert!(session.is_silent_on_purpose(), "it is on hold");
    let mut refused = session.clone();
    assert!(refused.take_back() && !refused.take_back());
    assert_eq!((&refused.streams, refused.held, refused.ports()), (&before.streams, before.held, before.ports()));
    // It has seen the version of what it has refused.
    assert_eq!(refused.versions[0], before.versions[0] + 2);

    let answers = |session: &mut Session, from, sdp: &str| {
        String::from_utf8(session.answer(from, sdp.as_bytes(), &mut |_| None).unwrap()).unwrap()
    };
    let declines = offer.replace("m=video 4002", "m=video 0");
    let answered = answers(&mut session, 0, &declines);
    assert!(answered.contains("m=audio 10022 ") && !answered.contains("m=video"), "{answered}");
    session.accepted();
    let ports: Vec<_> = session.plan(1).iter().map(|plan| plan.as_ref().map(|plan| plan.local.port())).collect();
    assert_eq!((ports, session.held[1]), (vec![Some(10_022), None], false));
    assert_eq!(session.ports().into_iter().collect::<Vec<_>>(), [10_000, 10_004, 10_022]);
    // The same when it offers something later, by itself or asked for.
    let held = format!("{new}a=sendonly\r\n");
    for late in [false, true] {
        let offers = if late { Session::describe } else { Session::offer };
        let held = String::from_utf8(offers(&mut session, 1, held.as_bytes(), &mut |_| None).unwrap()).unwrap();
        assert!(held.contains("m=video 0 ") && held.contains("sendonly"), "{held}");
        assert!(!answers(&mut session, 0, &declines).contains("m=video"));
        session.accepted();
    }
    // Told once more what it knows, it says what it has; the other one isn't told.
    let knew = (session.told[0].clone(), session.lines);
    session.answer_again(1, new.as_bytes(), &mut |_| None).unwrap();
    assert_eq!((session.told[0].clone(), session.lines), knew);
    // It may get another.
    let more = String::from_utf8(session.offer(0, offer.as_bytes(), &mut take).unwrap()).unwrap();
    assert!(more.contains("m=video 10024 "), "{more}");
    assert!(answers(&mut session, 1, &format!("{held}m=video 0 RTP/AVP 96\r\n")).contains("m=video 0"));
}

/// RFC 3264 §8: what was refused leaves nothing, and an offer that is asked for has an answer of as many lines.
#[test]
fn a_stream_that_was_refused_is_none() {
    let one = OFFER.split("m=video").next().unwrap();
    let mut session = session();
    describe(&mut session, 0, one).unwrap();
    describe(&mut session, 1, one).unwrap();
    let ports = session.ports();
    session.offer(0, format!("{one}m=video 4002 RTP/AVP 96\r\n").as_bytes(), &mut |_| Some(10_020)).unwrap();
    assert!(session.take_back());
    assert_eq!((session.ports(), session.plan(1).len()), (ports, 1));
    assert!(!String::from_utf8(session.describe(0, one.as_bytes(), &mut |_| None).unwrap()).unwrap().contains("m=audio 0"));
    assert_eq!(describe(&mut session, 1, one).unwrap().matches("m=").count(), 1);
    // Nor is one that a description leaves out, as it may not.
    describe(&mut session, 0, &OFFER.replace("m=video 0", "m=video 4002")).unwrap();
    assert!(session.plan(0)[1].as_ref().unwrap().remote[0].is_some());
    describe(&mut session, 0, one).unwrap();
    assert_eq!(session.plan(0)[1].as_ref().unwrap().remote, [None; 2]);
}

#[test]
fn what_cannot_be_relayed_is_refused_and_changes_nothing() {
    let mut session = session();
    for bad in [
        String::new(),
        "v=0\r\n".into(),
        "rubbish".into(),
        OFFER.replace("c=IN IP4 10.0.0.1\r\n", ""),
        OFFER.replace("c=IN IP4 10.0.0.1", "c=IN IP4 host.invalid"),
        OFFER.replace("c=IN IP4 10.0.0.1", "c=IN IP6 ::1"),
        format!("{OFFER}{}", "m=audio 4 RTP/AVP 0\r\n".repeat(MAX_STREAMS)),
        "x".repeat(MAX_SDP + 1),
    ] {
        assert!(describe(&mut session, 0, &bad).is_err(), "{bad}");
    }
    assert!(session.describe(0, OFFER.as_bytes(), &mut |_| None).is_err());
    assert_eq!(session, self::session());
}

proptest! {
    #[test]
    fn no_sdp_panics(lines in proptest::collection::vec("[vosctma]=[ -~]{0,40}", 0..12)) {
        let mut session = session();
        let _ = describe(&mut session, 0, &format!("v=0\r\no=- 1 1 IN IP4 1.1.1.1\r\ns=-\r\nt=0 0\r\n{}\r\n", lines.join("\r\n")));
    }
}

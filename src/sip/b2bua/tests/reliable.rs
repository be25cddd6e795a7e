//! Provisional answers that must come through, and offers that come before the answer.

use super::*;

const UPDATES: (Name, &str) = (Name::Allow, "PRACK, UPDATE");

/// A call to so many phones, whose caller says this of itself; with an offer, or without.
fn called(headers: &str, phones: usize, offers: bool) -> (Call, Vec<Request>) {
    let mut invite = invite();
    let more = text_request(format!("X sip:x SIP/2.0\r\nAllow: UPDATE\r\n{headers}\r\n")).headers;
    more.iter().for_each(|(name, value)| invite.headers.push(name.clone(), value.clone()));
    let body = Body::of(&invite.headers, &invite.body).filter(|_| offers);
    let new = NewCall {
        id: CallId(1),
        vnode: VnodeId(1),
        body,
        invite,
        from: flow(0),
        session: None,
        phone: None,
        targets: (1..=phones).map(target).collect(),
        caller: String::new(),
        trusted: false,
        callee: String::new(),
    };
    let (mut call, _) = Call::new(new, 41, NOW).unwrap();
    call.committed();
    let sent = call.state().branches().map(|leg| leg.out.clone().unwrap().request).collect();
    (call, sent)
}

/// A phone's provisional answer.
fn rings(call: &mut Call, sent: &Request, leg: LegId, status: u16, headers: &[(Name, &str)], body: &str) -> Step {
    let mut response = sent.response(StatusCode::new(status).unwrap(), Some("b")).with(Name::Contact, "<sip:b@10.0.0.2>");
    headers.iter().for_each(|(name, value)| response.headers.push_text(name.clone(), *value));
    if !body.is_empty() {
        response = response.with_body("application/sdp", Bytes::copy_from_slice(body.as_bytes()));
    }
    let step = call.handle(CallInput::Leg(leg, LegEvent::Response(response)), NOW);
    call.committed();
    step
}

fn reliably(rseq: &str) -> [(Name, &str); 3] {
    [(Name::Require, "100rel"), (Name::RSeq, rseq), UPDATES]
}

fn takes(call: &mut Call, sent: &Request, leg: LegId, body: &str) -> Step {
    let mut response = sent.response(StatusCode::OK, Some("b")).with(Name::Contact, "<sip:b@10.0.0.2>");
    if !body.is_empty() {
        response = response.with_body("application/sdp", Bytes::copy_from_slice(body.as_bytes()));
    }
    let step = call.handle(CallInput::Leg(leg, LegEvent::Response(response)), NOW);
    call.committed();
    step
}

/// What the caller is told: status, number, description.
fn caller_hears(step: &Step) -> Vec<(u16, Option<u32>, String)> {
    let told = step.then.iter().filter_map(|effect| match effect {
        Effect::Leg(LegId::CALLER, LegCommand::Respond(_, response)) => Some(response),
        _ => None,
    });
    told.map(|response| {
        let number = response.headers.number(&Name::RSeq, "RSeq").unwrap();
        assert_eq!(number.is_some(), response.headers.list(&Name::Require).any(|tag| &*tag == "100rel"));
        (response.status.code(), number, String::from_utf8(response.body.to_vec()).unwrap())
    })
    .collect()
}

/// What a phone that is called is sent: method and, of a PRACK, what it acknowledges.
fn callee_hears(step: &Step, leg: LegId) -> Vec<String> {
    let sent = step.then.iter().filter_map(|effect| match effect {
        Effect::Leg(own, LegCommand::Send(request, _)) if *own == leg => Some(request),
        _ => None,
    });
    sent.map(|request| match request.headers.text(&Name::RAck) {
        Some(rack) => format!("{} {rack}", request.method),
        None => request.method.to_string(),
    })
    .collect()
}

fn prack(call: &Call, cseq: u32, rack: &str, offer: &str) -> Request {
    let mut prack = in_dialog(call, "PRACK", cseq);
    prack.headers.push_text(Name::RAck, rack);
    prack.body = Bytes::copy_from_slice(offer.as_bytes());
    prack
}

fn said(number: u32, status: u16, body: &str) -> Vec<(u16, Option<u32>, String)> {
    vec![(status, Some(number), body.to_owned())]
}

fn plainly(status: u16, body: &str) -> Vec<(u16, Option<u32>, String)> {
    vec![(status, None, body.to_owned())]
}

/// RFC 3262 §4: a callee is acknowledged what comes in turn, once; §3: a caller gets one at a time, and the 200 after what was described.
#[test]
fn what_rings_reliably_is_acknowledged_on_both_sides() {
    let (mut call, sent) = called("Supported: 100rel\r\n", 1, true);
    let callee = LegId::CALLEE;
    assert!(sent[0].headers.list(&Name::Supported).any(|tag| &*tag == "100rel"));
    let step = rings(&mut call, &sent[0], callee, 183, &reliably("7"), "answer");
    assert!(step.commit.is_some());
    assert_eq!((caller_hears(&step), callee_hears(&step, callee)), (said(42, 183, "answer"), vec!["PRACK 7 1 INVITE".into()]));
    // Said again, and out of turn.
    for number in ["7", "9", "6"] {
        assert_eq!(rings(&mut call, &sent[0], callee, 180, &reliably(number), ""), Step::default());
    }
    // What comes next waits for the caller's PRACK.
    let step = rings(&mut call, &sent[0], callee, 180, &reliably("8"), "");
    assert_eq!((caller_hears(&step), callee_hears(&step, callee)), (vec![], vec!["PRACK 8 1 INVITE".into()]));
    // RFC 3262 §3: one that acknowledges nothing is none.
    for rack in ["41 1 INVITE", "42 2 INVITE", "42 1 UPDATE", "rubbish"] {
        let number = call.state().leg(LegId::CALLER).dialog.remote_cseq.unwrap() + 1;
        let wrong = prack(&call, number, rack, "");
        assert_eq!(caller_hears(&ask(&mut call, wrong, flow(0), NOW)), plainly(481, ""), "{rack}");
    }
    let right = prack(&call, 10, "42 1 INVITE", "");
    let step = ask(&mut call, right.clone(), flow(0), NOW);
    assert!(step.commit.is_some());
    assert_eq!(caller_hears(&step), [plainly(200, ""), said(43, 180, "")].concat());
    call.committed();
    // Its 200 may have been lost with an owner.
    assert_eq!(caller_hears(&ask(&mut call, right, flow(0), NOW)), plainly(200, ""));
    // What was described isn't described again (§5), and an answer doesn't wait for what describes nothing.
    let step = takes(&mut call, &sent[0], callee, "answer");
    assert_eq!((caller_hears(&step), callee_hears(&step, callee)), (plainly(200, ""), vec!["ACK".into()]));
}

#[test]
fn an_answer_waits_until_its_description_has_been_heard() {
    let (mut call, sent) = called("Require: 100rel\r\n", 1, true);
    // Who insists hears everything reliably.
    assert_eq!(caller_hears(&rings(&mut call, &sent[0], LegId::CALLEE, 183, &[], "early")), said(42, 183, "early"));
    let step = takes(&mut call, &sent[0], LegId::CALLEE, "answer");
    assert_eq!((caller_hears(&step), callee_hears(&step, LegId::CALLEE)), (vec![], vec!["ACK".into()]));
    let heard = prack(&call, 2, "42 1 INVITE", "");
    assert_eq!(caller_hears(&ask(&mut call, heard, flow(0), NOW)), [plainly(200, ""), plainly(200, "answer")].concat());
}

/// RFC 3262 §3: what is never heard ends the attempt.
#[test]
fn a_caller_who_never_acknowledges_gets_504() {
    let (mut call, sent) = called("Require: 100rel\r\n", 1, true);
    let _ = rings(&mut call, &sent[0], LegId::CALLEE, 180, &[], "");
    let step = call.handle(CallInput::Leg(LegId::CALLER, LegEvent::NoPrack), NOW);
    assert_eq!(caller_hears(&step), plainly(504, ""));
    assert!(matches!(step.commit, Some(Mutation::End(..))));
}

/// A caller who knows nothing of it still has to hear what its callee won't say twice.
#[test]
fn a_description_that_came_reliably_is_in_the_200_of_a_caller_who_has_not_heard_it() {
    let (mut call, sent) = called("", 1, true);
    assert_eq!(caller_hears(&rings(&mut call, &sent[0], LegId::CALLEE, 183, &reliably("1"), "answer")), plainly(183, "answer"));
    assert_eq!(caller_hears(&takes(&mut call, &sent[0], LegId::CALLEE, "")), plainly(200, "answer"));
}

/// RFC 3262 §5: of several descriptions one would hold before anybody has answered.
#[test]
fn while_several_phones_ring_nothing_is_described_for_good() {
    let (mut call, sent) = called("Supported: 100rel\r\n", 2, true);
    assert!(!sent.iter().any(|invite| invite.headers.list(&Name::Supported).any(|tag| &*tag == "100rel")));
    assert_eq!(caller_hears(&rings(&mut call, &sent[0], LegId(1), 183, &[], "one")), plainly(183, "one"));
    let (mut call, sent) = called("Require: 100rel\r\n", 2, true);
    assert_eq!(caller_hears(&rings(&mut call, &sent[0], LegId(1), 183, &[], "one")), said(42, 183, ""));
}

/// RFC 3262 §5: the offer would have to come with it.
#[test]
fn without_an_offer_nothing_is_said_reliably() {
    let (mut call, sent) = called("Require: 100rel\r\n", 1, false);
    assert!(!sent[0].headers.list(&Name::Supported).any(|tag| &*tag == "100rel"));
    assert_eq!(caller_hears(&rings(&mut call, &sent[0], LegId::CALLEE, 180, &[], "")), []);
    assert_eq!(caller_hears(&takes(&mut call, &sent[0], LegId::CALLEE, "offer")), plainly(200, "offer"));
}

/// Who has died may have acknowledged or not: it is done again. What was heard is not said again, what wasn't is.
#[test]
fn a_new_owner_goes_on_where_both_sides_are() {
    let (mut call, sent) = called("Supported: 100rel\r\n", 1, true);
    let _ = rings(&mut call, &sent[0], LegId::CALLEE, 183, &reliably("7"), "answer");
    let (mut next, effects) = Call::resume(call.state().clone(), 9);
    assert_eq!(caller_hears(&Step::free(effects)), said(42, 183, "answer"));
    let step = rings(&mut next, &sent[0], LegId::CALLEE, 183, &reliably("7"), "answer");
    assert_eq!(callee_hears(&step, LegId::CALLEE), ["PRACK 7 1 INVITE"]);
    assert_eq!(caller_hears(&step), []);
    let heard = prack(&next, 2, "42 1 INVITE", "");
    let _ = ask(&mut next, heard, flow(0), NOW);
    next.committed();
    let (_, effects) = Call::resume(next.state().clone(), 10);
    assert_eq!(caller_hears(&Step::free(effects)), []);
}

/// RFC 3311 §5.1: while it rings, as soon as both sides have described themselves for good.
#[test]
fn an_update_passes_while_it_rings() {
    let (mut call, sent) = called("Supported: 100rel\r\n", 1, true);
    let offer = |call: &Call, cseq: u32| {
        let mut update = in_dialog(call, "UPDATE", cseq);
        update.body = Bytes::from_static(b"other");
        update
    };
    let _ = rings(&mut call, &sent[0], LegId::CALLEE, 183, &reliably("7"), "answer");
    let early = offer(&call, 2);
    assert_eq!(caller_hears(&ask(&mut call, early, flow(0), NOW)), plainly(500, ""), "its description was not heard");
    let heard = prack(&call, 3, "42 1 INVITE", "");
    let _ = ask(&mut call, heard, flow(0), NOW);
    call.committed();
    let update = offer(&call, 4);
    let step = ask(&mut call, update, flow(0), NOW);
    assert!(step.commit.is_some());
    assert_eq!((caller_hears(&step), callee_hears(&step, LegId::CALLEE)), (vec![], vec!["UPDATE".into()]));
    call.committed();
    let again = offer(&call, 5);
    assert_eq!(caller_hears(&ask(&mut call, again, flow(0), NOW)), plainly(500, ""), "one at a time");
    let onward = call.state().relays[0].onward.clone();
    let answer = onward.response(StatusCode::OK, None).with_body("application/sdp", Bytes::from_static(b"taken"));
    let step = call.handle(CallInput::Leg(LegId::CALLEE, LegEvent::Response(answer)), NOW);
    assert_eq!((caller_hears(&step), callee_hears(&step, LegId::CALLEE)), (plainly(200, "taken"), vec![]));
    assert!(call.state().relays.is_empty());
}

/// RFC 3262 §5: a PRACK may bring the next offer, whose answer is in its 200; a callee that can't be asked means 488.
#[test]
fn a_prack_may_offer_something_else() {
    for (allow, taken) in [(UPDATES, true), ((Name::Allow, "PRACK"), false)] {
        let (mut call, sent) = called("Supported: 100rel\r\n", 1, true);
        let headers = [(Name::Require, "100rel"), (Name::RSeq, "7"), allow];
        let _ = rings(&mut call, &sent[0], LegId::CALLEE, 183, &headers, "answer");
        let offers = prack(&call, 2, "42 1 INVITE", "other");
        let step = ask(&mut call, offers, flow(0), NOW);
        call.committed();
        if !taken {
            assert_eq!(caller_hears(&step), plainly(488, ""));
            continue;
        }
        assert_eq!((caller_hears(&step), callee_hears(&step, LegId::CALLEE)), (vec![], vec!["UPDATE".into()]));
        let onward = call.state().relays[0].onward.clone();
        let answer = onward.response(StatusCode::OK, None).with_body("application/sdp", Bytes::from_static(b"taken"));
        let step = call.handle(CallInput::Leg(LegId::CALLEE, LegEvent::Response(answer)), NOW);
        assert_eq!(caller_hears(&step), plainly(200, "taken"));
        assert!(!callee_hears(&step, LegId::CALLEE).contains(&"ACK".to_owned()));
    }
}

/// Without it the call would be hung up on for a PRACK that was overtaken.
#[test]
fn a_prack_that_the_answer_has_overtaken_is_taken() {
    let (mut call, sent) = called("Require: 100rel\r\n", 1, true);
    let _ = rings(&mut call, &sent[0], LegId::CALLEE, 180, &[], "");
    let _ = takes(&mut call, &sent[0], LegId::CALLEE, "answer");
    let ack = in_dialog(&call, "ACK", 1);
    let _ = call.handle(CallInput::Leg(LegId::CALLER, LegEvent::Acked(ack)), NOW);
    call.committed();
    for (number, rack, status) in [(2, "42 1 INVITE", 200), (3, "43 1 INVITE", 481)] {
        let late = prack(&call, number, rack, "");
        assert_eq!(caller_hears(&ask(&mut call, late, flow(0), NOW)), plainly(status, ""));
    }
}

/// A phone that refuses the call while it is asked for something else has refused that, too, and whoever rings next goes on ringing.
#[test]
fn what_a_phone_was_asked_while_it_rang_is_over_when_it_refuses() {
    let (mut call, sent) = called("Supported: 100rel\r\n", 1, true);
    let _ = rings(&mut call, &sent[0], LegId::CALLEE, 183, &reliably("7"), "answer");
    let heard = prack(&call, 2, "42 1 INVITE", "");
    let _ = ask(&mut call, heard, flow(0), NOW);
    call.committed();
    let mut update = in_dialog(&call, "UPDATE", 3);
    update.body = Bytes::from_static(b"other");
    let _ = ask(&mut call, update, flow(0), NOW);
    call.committed();
    let onward = call.state().relays[0].onward.clone();
    let moved = sent[0].response(StatusCode::new(302).unwrap(), Some("b")).with(Name::Contact, "<sip:c@x>");
    let step = call.handle(CallInput::Leg(LegId::CALLEE, LegEvent::Response(moved)), NOW);
    call.committed();
    assert_eq!(caller_hears(&step), plainly(487, ""));
    let gone = onward.response(StatusCode::CALL_DOES_NOT_EXIST, None);
    let _ = call.handle(CallInput::Leg(LegId::CALLEE, LegEvent::Response(gone)), NOW);
    assert!(call.state().ended.is_none(), "who it was sent on to is being looked for");
}

/// Several phones are not offered it; one that must have it says so, and is asked once more.
#[test]
fn a_phone_that_rings_only_reliably_is_asked_so() {
    let (mut call, sent) = called("", 2, true);
    let mut refusal = sent[0].response(StatusCode::EXTENSION_REQUIRED, Some("b"));
    refusal.headers.push_text(Name::Require, "100rel");
    let refuse = |call: &mut Call, refusal: Response| {
        let step = call.handle(CallInput::Leg(LegId(1), LegEvent::Response(refusal)), NOW);
        call.committed();
        step
    };
    assert_eq!(callee_hears(&refuse(&mut call, refusal), LegId(1)), ["INVITE"]);
    let again = call.state().leg(LegId(1)).out.clone().unwrap().request;
    assert!(again.headers.list(&Name::Supported).any(|tag| &*tag == "100rel"));
    assert!(again.headers.cseq().unwrap().number > sent[0].headers.cseq().unwrap().number);
    // Once.
    let mut refusal = again.response(StatusCode::EXTENSION_REQUIRED, Some("b"));
    refusal.headers.push_text(Name::Require, "100rel");
    assert!(callee_hears(&refuse(&mut call, refusal), LegId(1)).is_empty());
    assert_eq!(call.state().leg(LegId(1)).refused, Some(StatusCode::EXTENSION_REQUIRED));
}

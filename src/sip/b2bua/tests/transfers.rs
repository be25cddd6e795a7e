//! Transfers that we carry out for phones that can't.

use super::*;
use crate::ids::Aor;
use crate::sip::events;

/// A phone's request in its dialog with us.
fn said(call: &Call, leg: LegId, method: &str, cseq: u32, more: &str) -> Request {
    let dialog = &call.state().leg(leg).dialog;
    text_request(format!(
        "{method} sip:x SIP/2.0\r\nVia: SIP/2.0/UDP 10.0.0.9;branch=z9hG4bK{method}{cseq}\r\nFrom: {};tag={}\r\nTo: {};tag={}\r\n\
         Call-ID: {}\r\nCSeq: {cseq} {method}\r\n{more}\r\n",
        dialog.remote,
        dialog.remote_tag.clone().unwrap_or_default(),
        dialog.local,
        dialog.local_tag,
        dialog.call_id
    ))
}

/// What follows from something, committed.
fn tell(call: &mut Call, input: CallInput) -> Vec<Effect> {
    let step = call.handle(input, NOW);
    if step.commit.is_some() {
        call.committed();
    }
    step.then
}

fn asks(call: &mut Call, leg: LegId, method: &str, more: &str) -> Vec<Effect> {
    let number = call.state().leg(leg).dialog.remote_cseq.unwrap_or(0) + 1;
    let request = said(call, leg, method, number, more);
    let flow = call.state().leg(leg).dialog.flow;
    tell(call, CallInput::Leg(leg, LegEvent::Request(TxKey::of(&request), request, flow)))
}

fn answers(call: &mut Call, leg: LegId, request: &Request, status: u16, body: Option<&'static str>) -> Vec<Effect> {
    let mut response = request.response(StatusCode::new(status).unwrap(), Some("c")).with(Name::Contact, "<sip:c@10.0.0.3>");
    if let Some(body) = body {
        response = response.with_body("application/sdp", body.into());
    }
    tell(call, CallInput::Leg(leg, LegEvent::Response(response)))
}

/// The requests that a leg is sent.
fn sent(effects: &[Effect], leg: LegId) -> Vec<&Request> {
    let request = |effect: &'_ Effect| matches!(effect, Effect::Leg(to, LegCommand::Send(..)) if *to == leg);
    let all = effects.iter().filter(|effect| request(effect));
    all.filter_map(|effect| if let Effect::Leg(_, LegCommand::Send(request, _)) = effect { Some(request) } else { None })
        .collect()
}

fn one(effects: &[Effect], leg: LegId, method: Method) -> Request {
    let [request] = sent(effects, leg)[..] else { panic!("one request to {leg}: {effects:?}") };
    assert_eq!(request.method, method);
    request.clone()
}

fn fragment(notify: &Request) -> (u16, bool) {
    let text = std::str::from_utf8(&notify.body).unwrap();
    let state = notify.headers.text(&Name::SubscriptionState).unwrap();
    (text.split(' ').nth(1).unwrap().parse().unwrap(), state.starts_with("terminated"))
}

/// A call one of whose phones has referred the other to two phones of somebody; gives their INVITEs.
fn referred(by: LegId) -> (Call, [Request; 2]) {
    let mut call = established();
    let other = call.state().peer(by).unwrap();
    let effects = asks(&mut call, by, "REFER", "Refer-To: <sip:c@x>\r\n");
    let refer = one(&effects, other, Method::Refer);
    let effects = answers(&mut call, other, &refer, 405, None);
    assert!(matches!(&effects[0], Effect::Leg(to, LegCommand::Respond(_, accepted))
        if *to == by && accepted.status == StatusCode::ACCEPTED));
    let notify = one(&effects, by, Method::Notify);
    assert_eq!(fragment(&notify), (100, false));
    assert_eq!(effects.last(), Some(&Effect::Locate(vec!["sip:c@x".into()])));
    assert_eq!(answers(&mut call, by, &notify, 200, None), []);
    let effects = tell(&mut call, CallInput::Located { contacts: vec!["sip:c@x".into()], targets: vec![target(2), target(3)] });
    let invites = [2, 3].map(|leg| one(&effects, LegId(leg), Method::Invite));
    for invite in &invites {
        assert!(invite.body.is_empty() && invite.headers.text(&Name::To).as_deref() == Some("<sip:c@x>"));
    }
    (call, invites)
}

const BOTH: [LegId; 2] = [LegId::CALLER, LegId::CALLEE];

#[test]
fn the_transferee_talks_with_who_takes_the_call() {
    for by in BOTH {
        let (mut call, [invite, _]) = referred(by);
        let (other, taken) = (call.state().peer(by).unwrap(), LegId(2));
        let effects = answers(&mut call, taken, &invite, 180, None);
        let rings = one(&effects, by, Method::Notify);
        assert_eq!(fragment(&rings), (180, false));
        // They still talk.
        assert_eq!(asks(&mut call, other, "INFO", "").len(), 1);
        let effects = answers(&mut call, taken, &invite, 200, Some("offer"));
        assert!(effects.contains(&Effect::Leg(LegId(3), LegCommand::Cancel)));
        let asked = one(&effects, other, Method::Invite);
        assert_eq!(&asked.body[..], b"offer");
        assert_eq!(answers(&mut call, taken, &invite, 200, Some("offer")), [], "said again, and our ACK has to wait");
        // It has something else to do, and is asked once more.
        assert_eq!(answers(&mut call, other, &asked, 491, None), [Effect::Leg(other, LegCommand::Acknowledge)]);
        let at = call.deadline().unwrap();
        let step = call.handle(CallInput::Timeout, at);
        call.committed();
        let asked = one(&step.then, other, Method::Invite);
        let effects = answers(&mut call, other, &asked, 200, Some("answer"));
        assert_eq!(one(&effects, other, Method::Ack).body.len(), 0);
        assert_eq!(&one(&effects, taken, Method::Ack).body[..], b"answer");
        // One after another, or the network could turn them round.
        assert_eq!(sent(&effects, by), Vec::<&Request>::new());
        let notify = one(&answers(&mut call, by, &rings, 200, None), by, Method::Notify);
        assert_eq!(fragment(&notify), (200, true));
        let bye = one(&answers(&mut call, by, &notify, 481, None), by, Method::Bye);
        assert_eq!((call.state().peer(other), call.state().peer(taken)), (Some(taken), Some(other)));
        let _ = answers(&mut call, by, &bye, 200, None);
        let _ = answers(&mut call, LegId(3), &invite, 487, None);
        assert_eq!(call.state().leg_ids().len(), 2);
        assert!(call.state().is_quiet() && call.state().referral.is_none());
        // Either hangs up on the other.
        let effects = asks(&mut call, taken, "BYE", "");
        one(&effects, other, Method::Bye);
        assert!(call.state().ended.is_some());
    }
}

#[test]
fn those_who_talk_talk_on_when_nobody_takes_the_call() {
    for by in BOTH {
        let (mut call, [first, second]) = referred(by);
        assert_eq!(sent(&answers(&mut call, LegId(2), &first, 486, None), by), Vec::<&Request>::new());
        let effects = answers(&mut call, LegId(3), &second, 480, None);
        let notify = one(&effects, by, Method::Notify);
        assert_eq!(fragment(&notify), (486, true));
        // A next owner says it again.
        let (resumed, effects) = Call::resume(call.state().clone(), 2);
        assert_eq!(one(&effects, by, Method::Notify).body, notify.body);
        call = resumed;
        let _ = answers(&mut call, by, &notify, 200, None);
        assert!(call.state().is_quiet() && call.state().ended.is_none());
        assert_eq!(call.state().leg_ids(), BOTH);
        assert_eq!(call.state().peer(by), BOTH.into_iter().find(|leg| *leg != by));
        // And may try again.
        let effects = asks(&mut call, by, "REFER", "Refer-To: <sip:d@x>\r\n");
        assert_eq!(effects.len(), 1);
    }
}

#[test]
fn a_transferor_may_go_at_once() {
    for by in BOTH {
        let (mut call, [invite, _]) = referred(by);
        let other = call.state().peer(by).unwrap();
        let effects = asks(&mut call, by, "BYE", "");
        assert!(
            matches!(&effects[..], [Effect::Leg(to, LegCommand::Respond(_, ok))] if *to == by && ok.status == StatusCode::OK)
        );
        assert!(call.state().ended.is_none());
        let mut nobody = Call::resume(call.state().clone(), 2).0;

        let effects = answers(&mut call, LegId(2), &invite, 200, Some("offer"));
        let asked = one(&effects, other, Method::Invite);
        let effects = answers(&mut call, other, &asked, 200, Some("answer"));
        assert_eq!(sent(&effects, by), Vec::<&Request>::new());
        assert!(!call.state().has_leg(by) && call.state().peer(other) == Some(LegId(2)));

        // Nobody is left to talk with.
        let effects = answers(&mut nobody, LegId(2), &invite, 603, None);
        one(&effects, other, Method::Bye);
        assert!(effects.contains(&Effect::Leg(LegId(3), LegCommand::Cancel)) && nobody.state().ended.is_some());
    }
}

/// Somebody takes the call, and the transferee is asked; gives its re-INVITE.
fn taken(call: &mut Call, by: LegId, invite: &Request) -> Request {
    let other = call.state().peer(by).unwrap();
    one(&answers(call, LegId(2), invite, 200, Some("offer")), other, Method::Invite)
}

fn is_answered(effects: &[Effect], leg: LegId, status: StatusCode) -> bool {
    effects.iter().any(
        |effect| matches!(effect, Effect::Leg(to, LegCommand::Respond(_, response)) if *to == leg && response.status == status),
    )
}

#[test]
fn a_transferee_may_not_want_to() {
    for by in BOTH {
        for goes in [false, true] {
            let (mut call, [invite, _]) = referred(by);
            let other = call.state().peer(by).unwrap();
            if goes {
                let _ = asks(&mut call, by, "BYE", "");
            }
            let asked = taken(&mut call, by, &invite);
            let effects = answers(&mut call, other, &asked, 488, None);
            let [ack, bye] = sent(&effects, LegId(2))[..] else { panic!("{effects:?}") };
            assert_eq!((&ack.method, &bye.method), (&Method::Ack, &Method::Bye));
            if goes {
                // Nobody is left to talk with.
                one(&effects, other, Method::Bye);
                assert!(sent(&effects, by).is_empty() && call.state().ended.is_some());
            } else {
                assert_eq!(fragment(&one(&effects, by, Method::Notify)), (488, true));
                assert_eq!(call.state().peer(by), Some(other));
            }
        }
    }
}

/// Once the transferee is asked, its answer decides.
#[test]
fn who_has_taken_the_call_may_hang_up_before_it_has_heard_of_the_transferee() {
    for by in BOTH {
        for (status, over) in [(200, true), (488, false), (491, false)] {
            let (mut call, [invite, _]) = referred(by);
            let other = call.state().peer(by).unwrap();
            let asked = taken(&mut call, by, &invite);
            let effects = asks(&mut call, LegId(2), "BYE", "");
            assert!(effects.len() == 1 && is_answered(&effects, LegId(2), StatusCode::OK));
            let effects = answers(&mut call, other, &asked, status, Some("answer"));
            assert_eq!((call.state().ended.is_some(), sent(&effects, LegId(2)).len()), (over, 0));
            if over {
                assert!(sent(&effects, other).iter().map(|sent| &sent.method).eq([&Method::Ack, &Method::Bye]));
                one(&effects, by, Method::Bye);
            } else {
                assert_eq!(fragment(&one(&effects, by, Method::Notify)), (status, true));
                assert!(!call.state().has_leg(LegId(2)) && call.state().peer(by) == Some(other));
            }
        }
        // It wasn't asked yet.
        let (mut call, [invite, _]) = referred(by);
        let other = call.state().peer(by).unwrap();
        let asked = taken(&mut call, by, &invite);
        let _ = answers(&mut call, other, &asked, 491, None);
        let effects = asks(&mut call, LegId(2), "BYE", "");
        assert_eq!(fragment(&one(&effects, by, Method::Notify)), (480, true));
        assert!(call.state().ended.is_none() && !call.state().has_leg(LegId(2)) && call.state().peer(by) == Some(other));
    }
}

#[test]
fn a_transferee_has_half_a_minute_to_say_something() {
    let (by, other) = (LegId::CALLEE, LegId::CALLER);
    let (mut call, [invite, _]) = referred(by);
    let asked = taken(&mut call, by, &invite);
    let late = call.deadline().unwrap();
    assert_eq!(late, NOW + Duration::from_secs(32));
    let step = call.handle(CallInput::Timeout, late);
    call.committed();
    assert_eq!(step.then, [Effect::Leg(other, LegCommand::Cancel)]);
    assert_eq!(call.deadline(), None);
    let (resumed, effects) = Call::resume(call.state().clone(), 2);
    assert_eq!(one(&effects, other, Method::Invite), asked);
    assert!(effects.contains(&Effect::Leg(other, LegCommand::Cancel)));
    // 491 has crossed it.
    for (mut call, status) in [(call, 491), (resumed, 487)] {
        let effects = answers(&mut call, other, &asked, status, None);
        assert_eq!(fragment(&one(&effects, by, Method::Notify)), (status, true));
    }
    // Or it has something else to do all the time.
    let (mut call, [invite, _]) = referred(by);
    let mut asked = taken(&mut call, by, &invite);
    let mut now = NOW;
    let effects = loop {
        let busy = asked.response(StatusCode::REQUEST_PENDING, Some("a"));
        let _ = call.handle(CallInput::Leg(other, LegEvent::Response(busy)), now);
        call.committed();
        now = call.deadline().unwrap();
        let step = call.handle(CallInput::Timeout, now);
        call.committed();
        if now >= late {
            break step.then;
        }
        asked = one(&step.then, other, Method::Invite);
    };
    assert!(sent(&effects, other).is_empty());
    assert_eq!(fragment(&one(&effects, by, Method::Notify)), (408, true));
    assert!(sent(&effects, LegId(2)).iter().map(|sent| &sent.method).eq([&Method::Ack, &Method::Bye]));
}

#[test]
fn nobody_takes_the_call_while_another_offer_is_open() {
    let (mut call, [invite, _]) = referred(LegId::CALLEE);
    let onward = one(&asks(&mut call, LegId::CALLEE, "INVITE", ""), LegId::CALLER, Method::Invite);
    assert_eq!(answers(&mut call, LegId(2), &invite, 200, Some("offer")), []);
    assert!(call.state().referral.as_ref().unwrap().taken.is_none());
    let _ = answers(&mut call, LegId::CALLER, &onward, 488, None);
    taken(&mut call, LegId::CALLEE, &invite);
}

/// What a new owner has to know of a transfer.
#[test]
fn a_next_owner_asks_the_transferee_and_says_its_answer_again() {
    let (by, other) = (LegId::CALLEE, LegId::CALLER);
    let (mut call, [invite, _]) = referred(by);
    let asked = taken(&mut call, by, &invite);
    let _ = answers(&mut call, other, &asked, 491, None);
    let mut state = call.state().clone();
    // Isn't stored.
    state.legs.iter_mut().for_each(|leg| leg.not_before = None);
    let (mut call, _) = Call::resume(state, 2);
    assert!(call.deadline().unwrap() <= NOW);
    let asked = one(&tell(&mut call, CallInput::Timeout), other, Method::Invite);
    // A refresh's answer says nothing of it.
    let mut refresh = asked.clone();
    refresh.headers.set(Name::CSeq, "999 INVITE");
    let _ = answers(&mut call, other, &refresh, 488, None);
    assert!(call.state().referral.as_ref().unwrap().taken.is_some());
    let _ = answers(&mut call, other, &asked, 200, Some("answer"));
    let (mut call, _) = Call::resume(call.state().clone(), 3);
    let ack = one(&answers(&mut call, LegId(2), &invite, 200, Some("offer")), LegId(2), Method::Ack);
    assert_eq!(&ack.body[..], b"answer");

    // Its address isn't the same any more: what was asked led to a place that is gone.
    let (mut call, [invite, _]) = referred(by);
    taken(&mut call, by, &invite);
    let _ = call.handle(CallInput::Timeout, call.deadline().unwrap());
    call.committed();
    let mut state = call.state().clone();
    state.move_to("127.0.0.12".parse::<std::net::IpAddr>().unwrap().into(), 5060);
    let (mut call, _) = Call::resume(state, 2);
    assert!(call.deadline().unwrap() <= NOW);
    assert_eq!(fragment(&one(&tell(&mut call, CallInput::Timeout), by, Method::Notify)), (408, true));
    assert_eq!(call.state().movable(NOW), Some(other));
}

#[test]
fn nothing_is_said_to_a_transferor_who_has_gone() {
    let (by, other) = (LegId::CALLEE, LegId::CALLER);
    let (mut call, _) = referred(by);
    let info = one(&asks(&mut call, other, "INFO", ""), by, Method::Info);
    let effects = asks(&mut call, by, "BYE", "");
    assert!(is_answered(&effects, other, StatusCode::REQUEST_TERMINATED) && sent(&effects, by).is_empty());
    assert_eq!(answers(&mut call, by, &info, 481, None), []);
    for (method, status) in [("INFO", StatusCode::TEMPORARILY_UNAVAILABLE), ("INVITE", StatusCode::REQUEST_PENDING)] {
        let effects = asks(&mut call, other, method, "");
        assert!(effects.len() == 1 && is_answered(&effects, other, status), "{method}: {effects:?}");
    }
    let number = call.state().leg(by).dialog.remote_cseq.unwrap();
    let again = said(&call, by, "BYE", number, "");
    let effects = tell(&mut call, CallInput::Leg(by, LegEvent::Request(TxKey::of(&again), again, flow(1))));
    assert!(is_answered(&effects, by, StatusCode::OK));
    assert!(call.state().ended.is_none());
}

/// Behind a proxy there may be several phones: who is hung up on doesn't take the call with the next one's answer.
#[test]
fn a_leg_that_is_hung_up_on_takes_nothing() {
    let (mut call, [invite, _]) = referred(LegId::CALLEE);
    let effects = answers(&mut call, LegId(2), &invite, 200, None);
    let [_, bye] = sent(&effects, LegId(2))[..] else { panic!("{effects:?}") };
    let other = invite.response(StatusCode::OK, Some("d")).with(Name::Contact, "<sip:d@10.0.0.3>");
    let other = other.with_body("application/sdp", "offer".into());
    assert!(!call.state().is_taken_by(LegId(2), &other));
    let effects = tell(&mut call, CallInput::Leg(LegId(2), LegEvent::Response(other)));
    assert!(sent(&effects, LegId(2)).iter().map(|sent| &sent.method).eq([&Method::Ack, &Method::Bye]));
    let _ = answers(&mut call, LegId(2), bye, 200, None);
    assert!(call.state().referral.as_ref().unwrap().taken.is_none());
}

#[test]
fn who_refers_and_wishes_not_to_be_named_is_not() {
    for shown in [None, Some("<sip:anonymous@x>".into())] {
        let mut call = established();
        call.state.legs[0].phone = Some(Phone { aor: Aor::new("a", "x"), instance: None });
        call.state.shown.clone_from(&shown);
        let refer = one(&asks(&mut call, LegId::CALLER, "REFER", "Refer-To: <sip:c@x>\r\n"), LegId::CALLEE, Method::Refer);
        let _ = answers(&mut call, LegId::CALLEE, &refer, 405, None);
        let effects = tell(&mut call, CallInput::Located { contacts: vec!["sip:c@x".into()], targets: vec![target(2)] });
        let invite = one(&effects, LegId(2), Method::Invite);
        for request in [refer, invite] {
            assert_eq!(request.headers.get(&Name::ReferredBy).is_some(), shown.is_none());
        }
    }
}

/// What the transferor has offered last is open at the transferee, which can't be asked before that has its answer.
#[test]
fn an_offer_of_a_transferor_who_goes_is_taken_back() {
    let (by, other) = (LegId::CALLEE, LegId::CALLER);
    for (status, acknowledged) in [(487, false), (200, true)] {
        let (mut call, [invite, _]) = referred(by);
        let onward = one(&asks(&mut call, by, "INVITE", ""), other, Method::Invite);
        let effects = asks(&mut call, by, "BYE", "");
        assert!(effects.contains(&Effect::Leg(other, LegCommand::Cancel)));
        assert_eq!(answers(&mut call, LegId(2), &invite, 200, Some("offer")), []);
        let effects = answers(&mut call, other, &onward, status, None);
        assert!(is_answered(&effects, by, StatusCode::REQUEST_TERMINATED));
        assert_eq!(sent(&effects, other).len(), usize::from(acknowledged));
        taken(&mut call, by, &invite);
    }
}

/// A phone that was called knows its leg's names: another leg has others.
#[test]
fn no_leg_gets_the_number_of_another() {
    let (mut call, [first, second]) = referred(LegId::CALLEE);
    let _ = answers(&mut call, LegId(2), &first, 486, None);
    let notify = one(&answers(&mut call, LegId(3), &second, 486, None), LegId::CALLEE, Method::Notify);
    let _ = answers(&mut call, LegId::CALLEE, &notify, 200, None);
    let (mut call, _) = Call::resume(call.state().clone(), 2);
    let refer = one(&asks(&mut call, LegId::CALLEE, "REFER", "Refer-To: <sip:c@x>\r\n"), LegId::CALLER, Method::Refer);
    let _ = answers(&mut call, LegId::CALLER, &refer, 405, None);
    let effects = tell(&mut call, CallInput::Located { contacts: vec!["sip:c@x".into()], targets: vec![target(2)] });
    one(&effects, LegId(4), Method::Invite);
}

#[test]
fn who_watches_sees_who_talks_with_whom() {
    let phone = |user: &str| Some(Phone { aor: Aor::new(user, "x"), instance: None });
    let seen = |call: &Call| -> Vec<String> {
        let line = |(aor, seen): (Aor, events::Seen)| format!("{aor} {:?} {}", seen.stage, seen.remote.unwrap_or_default());
        call.state().seen().into_iter().map(line).collect()
    };
    let (mut call, [invite, _]) = referred(LegId::CALLEE);
    for (leg, user) in call.state.legs.iter_mut().zip(["a", "b", "c", "d"]) {
        leg.phone = phone(user);
    }
    let _ = answers(&mut call, LegId(2), &invite, 180, None);
    assert_eq!(seen(&call), ["a@x Confirmed b@x", "b@x Confirmed a@x", "c@x Early a@x", "d@x Trying a@x"]);
    let asked = taken(&mut call, LegId::CALLEE, &invite);
    assert_eq!(seen(&call), ["a@x Confirmed b@x", "b@x Confirmed a@x", "c@x Confirmed a@x"]);
    let _ = asks(&mut call, LegId::CALLEE, "BYE", "");
    assert_eq!(seen(&call), ["a@x Confirmed b@x", "c@x Confirmed a@x"]);
    let _ = answers(&mut call, LegId::CALLER, &asked, 200, Some("answer"));
    assert_eq!(seen(&call), ["a@x Confirmed c@x", "c@x Confirmed a@x"]);
}

#[test]
fn nobody_is_found_or_it_takes_too_long_or_the_transferee_hangs_up() {
    let by = LegId::CALLEE;
    let mut call = established();
    let refer = one(&asks(&mut call, by, "REFER", "Refer-To: <sip:c@x>\r\n"), LegId::CALLER, Method::Refer);
    let trying = one(&answers(&mut call, LegId::CALLER, &refer, 501, None), by, Method::Notify);
    // Another has to wait.
    let refer = one(&asks(&mut call, by, "REFER", "Refer-To: <sip:d@x>\r\n"), LegId::CALLER, Method::Refer);
    let effects = answers(&mut call, LegId::CALLER, &refer, 501, None);
    assert!(matches!(&effects[..], [Effect::Leg(_, LegCommand::Respond(_, busy))] if busy.status == StatusCode::REQUEST_PENDING));
    assert_eq!(tell(&mut call, CallInput::Located { contacts: vec!["sip:c@x".into()], targets: Vec::new() }), []);
    let effects = answers(&mut call, by, &trying, 200, None);
    assert_eq!(fragment(&one(&effects, by, Method::Notify)), (480, true));

    let (mut call, _) = referred(by);
    assert_eq!(call.deadline(), Some(NOW + RING_TIMEOUT));
    let step = call.handle(CallInput::Timeout, NOW + RING_TIMEOUT);
    assert_eq!(fragment(&one(&step.then, by, Method::Notify)), (408, true));
    assert_eq!(step.then.iter().filter(|effect| matches!(effect, Effect::Leg(_, LegCommand::Cancel))).count(), 2);

    let (mut call, _) = referred(by);
    let effects = asks(&mut call, LegId::CALLER, "BYE", "");
    one(&effects, by, Method::Bye);
    assert_eq!(effects.iter().filter(|effect| matches!(effect, Effect::Leg(_, LegCommand::Cancel))).count(), 2);
    assert!(call.state().ended.is_some() && call.state().referral.is_none());
}

/// Nobody is called by a transfer or a 3xx who may cost money: the dialog of a trunk's, or of another domain's.
#[test]
fn who_is_none_of_ours_is_nobody_to_be_sent_to() {
    let [ours, peers] = ["1003", "trunk"].map(|user| Aor::new(user, "x"));
    let is_a_peers = |user: &Aor| *user == peers;
    let phone = |aor: &Aor| Phone { aor: aor.clone(), instance: None };
    for (phone, may) in
        [(Some(phone(&ours)), true), (Some(phone(&peers)), false), (Some(Phone::elsewhere(ours.clone())), false), (None, false)]
    {
        let target = Target { phone, ..target(3) };
        assert_eq!(target.may_be_sent_to(is_a_peers), may, "{target:?}");
    }
}

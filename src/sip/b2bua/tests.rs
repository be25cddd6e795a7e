//! One call's steps, one at a time. Whole calls, cut everywhere, are `tests/sim`.

#![allow(clippy::wildcard_enum_match_arm, reason = "a test names what it is about")]

use super::*;
use crate::sip::headers::Transport;
use crate::sip::message::Message;
use crate::sip::parse;
use crate::sip::replaces::Replaces;

mod branches;
mod elsewhere;
mod reliable;
mod sessions;
mod transfers;

const NOW: Timestamp = Timestamp(1_000_000);

fn flow(phone: usize) -> Flow {
    Flow {
        vnode: VnodeId(1),
        transport: Transport::Udp,
        local: "127.0.0.11:5060".parse().unwrap(),
        remote: format!("10.0.0.{}:5060", phone + 1).parse().unwrap(),
        connection: 0,
    }
}

fn text_request(text: String) -> Request {
    match parse::datagram(&text.into()).unwrap() {
        Message::Request(request) => request,
        Message::Response(_) => unreachable!(),
    }
}

/// The caller's INVITE.
fn invite() -> Request {
    text_request(
        "INVITE sip:b@x SIP/2.0\r\nVia: SIP/2.0/UDP 10.0.0.1;branch=z9hG4bK1\r\nFrom: <sip:a@x>;tag=a\r\nTo: <sip:b@x>\r\n\
         Call-ID: a-call\r\nCSeq: 1 INVITE\r\nContact: <sip:a@10.0.0.1:5060>\r\nContent-Length: 5\r\n\r\noffer"
            .into(),
    )
}

/// A phone that may be called.
fn target(phone: usize) -> Target {
    Target {
        contact: format!("sip:b@10.0.0.{}", phone + 1).into(),
        path: Vec::new(),
        flow: flow(phone),
        long: None,
        phone: None,
        q: 1000,
        replaces: None,
    }
}

/// The callee's answer.
fn ok(invite: &Request) -> Response {
    let response = invite.response(StatusCode::OK, Some("b")).with(Name::Contact, "<sip:b@10.0.0.2:5060>");
    response.with_body("application/sdp", Bytes::from_static(b"answer"))
}

/// The order is the rule: nothing leaves before what is behind it is held.
#[test]
fn no_promise_leaves_without_its_commit() {
    let invite = invite();
    let new = NewCall {
        id: CallId(1),
        vnode: VnodeId(1),
        body: None,
        invite: invite.clone(),
        from: flow(0),
        session: None,
        phone: None,
        targets: vec![target(1)],
        caller: String::new(),
        trusted: false,
        callee: String::new(),
    };
    let (mut call, step) = Call::new(new, 1, NOW).unwrap();
    assert!(matches!(step.commit, Some(Mutation::Put(_))));
    call.committed();
    let sent = call.state().leg(LegId::CALLEE).out.clone().unwrap().request;
    for (status, commits) in [(180, true), (180, false), (183, true), (200, true)] {
        let response = sent.response(StatusCode::new(status).unwrap(), Some("b")).with(Name::Contact, "<sip:b@10.0.0.2>");
        let step = call.handle(CallInput::Leg(LegId::CALLEE, LegEvent::Response(response)), NOW);
        assert_eq!(step.commit.is_some(), commits, "{status}");
        assert!(commits || step.then.is_empty(), "{status}");
        call.committed();
    }
    let step = call.handle(CallInput::HangUp { status: StatusCode::OK, by: EndedBy::Operator }, NOW);
    assert!(matches!(step.commit, Some(Mutation::End(..))));
    call.roll_back();
    assert!(call.state().ended.is_none(), "what was not committed has not happened");
}

/// An established call, committed.
fn established() -> Call {
    let invite = invite();
    let new = NewCall {
        id: CallId(1),
        vnode: VnodeId(1),
        body: Body::of(&invite.headers, &invite.body),
        invite: invite.clone(),
        from: flow(0),
        session: None,
        phone: None,
        targets: vec![target(1)],
        caller: String::new(),
        trusted: false,
        callee: String::new(),
    };
    let (mut call, _) = Call::new(new, 1, NOW).unwrap();
    call.committed();
    let sent = call.state().leg(LegId::CALLEE).out.clone().unwrap().request;
    let _ = call.handle(CallInput::Leg(LegId::CALLEE, LegEvent::Response(ok(&sent))), NOW);
    call.committed();
    let ack = in_dialog(&call, "ACK", 1);
    let _ = call.handle(CallInput::Leg(LegId::CALLER, LegEvent::Acked(ack)), NOW);
    call.committed();
    call
}

/// RFC 3261 §13.2.1: the answer to a callee's offer is in the ACK, which it asks for as often as it says 200.
#[test]
fn an_answer_that_a_callee_has_not_heard_is_said_again_by_the_next_owner() {
    let new = NewCall { targets: vec![target(1)], body: None, ..new_call(without_body(invite())) };
    let (mut call, _) = Call::new(new, 1, NOW).unwrap();
    call.committed();
    let sent = call.state().leg(LegId::CALLEE).out.clone().unwrap().request;
    let _ = call.handle(CallInput::Leg(LegId::CALLEE, LegEvent::Response(ok(&sent))), NOW);
    call.committed();
    let mut ack = in_dialog(&call, "ACK", 1);
    ack.body = Bytes::from_static(b"ours");
    let _ = call.handle(CallInput::Leg(LegId::CALLER, LegEvent::Acked(ack)), NOW);
    call.committed();
    let (mut call, _) = Call::resume(call.state().clone(), 2);
    let step = call.handle(CallInput::Leg(LegId::CALLEE, LegEvent::Response(ok(&sent))), NOW);
    assert!(
        matches!(&step.then[..], [Effect::Leg(LegId::CALLEE, LegCommand::Send(ack, _))] if ack.method == Method::Ack && &ack.body[..] == b"ours")
    );
}

/// A request of the caller's.
fn in_dialog(call: &Call, method: &str, cseq: u32) -> Request {
    let dialog = &call.state().leg(LegId::CALLER).dialog;
    text_request(format!(
        "{method} sip:x SIP/2.0\r\nVia: SIP/2.0/UDP 10.0.0.1;branch=z9hG4bK{method}{cseq}\r\nFrom: {};tag={}\r\nTo: {};tag={}\r\n\
         Call-ID: {}\r\nCSeq: {cseq} {method}\r\nContact: <sip:a@10.0.0.1:5060>\r\n\r\n",
        dialog.remote,
        dialog.remote_tag.clone().unwrap_or_default(),
        dialog.local,
        dialog.local_tag,
        dialog.call_id
    ))
}

fn ask(call: &mut Call, request: Request, flow: Flow, now: Timestamp) -> Step {
    let key = TxKey::of(&request);
    call.handle(CallInput::Leg(LegId::CALLER, LegEvent::Request(key, request, flow)), now)
}

fn sent_cseq(step: &Step) -> u32 {
    let sent = step.then.iter().find_map(|effect| match effect {
        Effect::Leg(LegId::CALLEE, LegCommand::Send(request, _)) => request.headers.cseq().ok(),
        _ => None,
    });
    sent.expect("a request to the callee").number
}

/// Numbers of requests that commit nothing are not used again by a later owner, however often the call moves.
#[test]
fn cseq_numbers_only_grow_over_takeovers() {
    let mut call = established();
    let (mut last, mut theirs, mut free) = (1, 1, 0);
    for _ in 0..3 {
        for _ in 0..CSEQ_BLOCK + 8 {
            theirs += 1;
            let info = in_dialog(&call, "INFO", theirs);
            let step = ask(&mut call, info, flow(0), NOW);
            let number = sent_cseq(&step);
            assert!(number > last, "{number} after {last}");
            last = number;
            match step.commit {
                Some(_) => call.committed(),
                None => free += 1,
            }
        }
        // What a new owner gets is what was committed last, not what is in memory.
        let Step { commit: Some(Mutation::Put(record)), .. } = call.again() else { panic!("a state to commit") };
        let mut record = *record;
        for (leg, own) in record.legs.iter_mut().zip(&call.state().legs) {
            leg.dialog.local_cseq = own.reserved;
        }
        assert!(record.relays.is_empty(), "a new owner says nothing twice");
        (call, _) = Call::resume(record, 2);
    }
    assert!(free > 3 * CSEQ_BLOCK / 2, "most of them need no commit");
    let bye = in_dialog(&call, "BYE", theirs + 1);
    assert!(sent_cseq(&ask(&mut call, bye, flow(0), NOW)) > last);
}

/// A phone that comes back from another address is answered and called there from then on.
#[test]
fn a_dialog_follows_its_phone() {
    let mut call = established();
    let moved = Flow { remote: "192.0.2.9:777".parse().unwrap(), ..flow(0) };
    let reinvite = in_dialog(&call, "INVITE", 2);
    let step = ask(&mut call, reinvite, moved, NOW);
    assert!(step.commit.is_some());
    assert_eq!(call.state().leg(LegId::CALLER).dialog.flow, moved);
}

/// Else the next owner would hang up on everybody once more.
#[test]
fn a_call_whose_end_everybody_knows_is_forgotten() {
    let mut call = established();
    let bye = in_dialog(&call, "BYE", 2);
    let step = ask(&mut call, bye, flow(0), NOW);
    assert!(matches!(step.commit, Some(Mutation::End(..))));
    call.committed();
    let ours = call.state().leg(LegId::CALLEE).bye.clone().unwrap();
    let answered = CallInput::Leg(LegId::CALLEE, LegEvent::Response(ours.response(StatusCode::OK, None)));
    assert_eq!(call.handle(answered, NOW), Step::promise(Mutation::Forget(call.state().id), vec![Effect::Close]));
}

/// RFC 3261 §9.2: a CANCEL is answered even when it comes too late.
#[test]
fn a_cancel_that_crosses_the_answer_is_answered() {
    let invite = invite();
    let key = TxKey::of(&invite);
    let new = NewCall {
        id: CallId(1),
        vnode: VnodeId(1),
        body: None,
        invite,
        from: flow(0),
        session: None,
        phone: None,
        targets: vec![target(1)],
        caller: String::new(),
        trusted: false,
        callee: String::new(),
    };
    let (mut call, _) = Call::new(new, 1, NOW).unwrap();
    let sent = call.state().leg(LegId::CALLEE).out.clone().unwrap().request;
    let _ = call.handle(CallInput::Leg(LegId::CALLEE, LegEvent::Response(ok(&sent))), NOW);
    let cancelled = LegEvent::Cancelled { invite: key.clone(), cancel: key };
    let step = call.handle(CallInput::Leg(LegId::CALLER, cancelled), NOW);
    assert!(
        matches!(&step.then[..], [Effect::Leg(LegId::CALLER, LegCommand::Respond(_, answer))] if answer.status == StatusCode::OK)
    );
    assert!(call.state().ended.is_none());
}

/// What the callee is sent that has to come along, after what it answered last.
fn asked_to_come(call: &mut Call, now: Timestamp) -> Option<Request> {
    let body = Body { content_type: "application/sdp".into(), bytes: "where we are".into() };
    let step = call.handle(CallInput::Anchor(LegId::CALLEE, Some(body)), now);
    let sent = step.then.iter().find_map(|effect| match effect {
        Effect::Leg(LegId::CALLEE, LegCommand::Send(request, _)) => Some(request.clone()),
        _ => None,
    });
    assert_eq!(step.commit.is_some(), sent.is_some());
    call.committed();
    sent
}

/// Asked to come to another address, a phone comes, comes later, stays, or is gone.
#[test]
fn a_phone_that_cannot_come_along_now_is_asked_again_and_one_that_will_not_is_left_alone() {
    let moved = || {
        let mut state = established().state().clone();
        state.move_to([127, 0, 0, 12].into(), 5060);
        Call::resume(state, 2).0
    };
    let answer = |call: &mut Call, asked: &Request, status, now| {
        let response = asked.response(StatusCode::new(status).unwrap(), None).with(Name::Contact, "<sip:b@10.0.0.2:5060>");
        let step = call.handle(CallInput::Leg(LegId::CALLEE, LegEvent::Response(response)), now);
        call.committed();
        step
    };
    for (status, again, ends) in
        [(200, false, false), (488, false, false), (491, true, false), (500, true, false), (481, false, true)]
    {
        let mut call = moved();
        // The caller comes first.
        assert_eq!(call.state().movable(NOW), Some(LegId::CALLER));
        let _ = call.handle(CallInput::Anchor(LegId::CALLER, None), NOW);
        let asked = asked_to_come(&mut call, NOW).unwrap();
        assert!(asked.headers.text(&Name::Contact).unwrap().contains("@127.0.0.12:5060"), "{asked:?}");
        // A re-INVITE of anybody's has to wait meanwhile.
        let theirs = in_dialog(&call, "INVITE", 2);
        let step = ask(&mut call, theirs, flow(0), NOW);
        assert!(
            matches!(&step.then[..], [Effect::Leg(_, LegCommand::Respond(_, glare))] if glare.status == StatusCode::REQUEST_PENDING)
        );
        let step = answer(&mut call, &asked, status, NOW);
        assert_eq!(matches!(step.commit, Some(Mutation::End(..))), ends, "{status}");
        assert_eq!(call.state().ended.is_some(), ends, "{status}");
        assert_eq!(call.state().movable(NOW), None, "{status}");
        assert_eq!(call.state().is_quiet(), !again && !ends, "{status}");
        assert_eq!(call.deadline().is_some(), again || ends, "{status}");
        if let Some(later) = call.deadline().filter(|_| again) {
            let _ = call.handle(CallInput::Timeout, later);
            let second = asked_to_come(&mut call, later).unwrap();
            assert!(second.headers.cseq().unwrap().number > asked.headers.cseq().unwrap().number);
        }
    }
}

// --- forking ---

/// A call to these phones, by their q.
fn calling(qs: &[u16]) -> Call {
    let targets = (1..).zip(qs).map(|(phone, q)| Target { q: *q, ..target(phone) }).collect();
    let (mut call, _) = Call::new(NewCall { targets, ..new_call(invite()) }, 1, NOW).unwrap();
    call.committed();
    call
}

/// A call to nobody yet.
fn new_call(invite: Request) -> NewCall {
    NewCall {
        id: CallId(1),
        vnode: VnodeId(1),
        body: Body::of(&invite.headers, &invite.body),
        invite,
        from: flow(0),
        session: None,
        phone: None,
        targets: Vec::new(),
        caller: String::new(),
        trusted: false,
        callee: String::new(),
    }
}

/// What a phone that is called answers, and what that brings about.
fn answers(call: &mut Call, leg: u8, status: u16, contact: &str) -> Step {
    let sent = call.state().leg(LegId(leg)).out.clone().unwrap().request;
    let response = sent.response(StatusCode::new(status).unwrap(), Some("b")).with(Name::Contact, contact);
    let step = call.handle(CallInput::Leg(LegId(leg), LegEvent::Response(response)), NOW);
    call.committed();
    step
}

fn called(call: &Call) -> Vec<u8> {
    call.state().branches().map(|leg| leg.id.0).collect()
}

fn told(step: &Step, leg: u8) -> Vec<&LegCommand> {
    let of = |effect| match effect {
        &Effect::Leg(own, ref command) if own == LegId(leg) => Some(command),
        _ => None,
    };
    step.then.iter().filter_map(of).collect()
}

#[test]
fn the_first_who_answers_has_the_call_and_the_others_are_cancelled() {
    let mut call = calling(&[1000, 1000, 1000]);
    assert_eq!(called(&call), [1, 2, 3]);
    let _ = answers(&mut call, 3, 486, "<sip:b@10.0.0.4>");
    let step = answers(&mut call, 2, 200, "<sip:b@10.0.0.3>");
    assert!(matches!(told(&step, 1)[..], [LegCommand::Cancel]));
    assert!(matches!(told(&step, 2)[..], [LegCommand::Send(ack, _)] if ack.method == Method::Ack));
    assert!(matches!(told(&step, 0)[..], [LegCommand::Respond(_, ok)] if ok.status == StatusCode::OK));
    assert_eq!((called(&call), call.state().peer(LegId::CALLER)), (vec![1, 2], Some(LegId(2))));
    // Its answer has crossed the CANCEL.
    let step = answers(&mut call, 1, 200, "<sip:b@10.0.0.2>");
    assert!(matches!(told(&step, 1)[..], [LegCommand::Send(ack, _), LegCommand::Send(bye, _)]
        if ack.method == Method::Ack && bye.method == Method::Bye));
    let bye = call.state().leg(LegId(1)).bye.clone().unwrap();
    let _ = call.handle(CallInput::Leg(LegId(1), LegEvent::Response(bye.response(StatusCode::OK, None))), NOW);
    assert_eq!((called(&call), call.state().ended), (vec![2], None));
    // It has no part in it any more.
    let request = in_dialog(&call, "INVITE", 9);
    let step = call.handle(CallInput::Leg(LegId(1), LegEvent::Request(TxKey::of(&request), request, flow(1))), NOW);
    assert!(matches!(told(&step, 1)[..], [LegCommand::Respond(_, gone)] if gone.status == StatusCode::CALL_DOES_NOT_EXIST));
}

#[test]
fn the_next_are_called_when_all_have_refused_or_rung_for_long() {
    let mut call = calling(&[500, 1000, 1000, 200]);
    assert_eq!(called(&call), [1, 2]);
    let contacts: Vec<_> = call.state().branches().map(|leg| leg.dialog.remote_target.to_string()).collect();
    assert_eq!(contacts, ["sip:b@10.0.0.3", "sip:b@10.0.0.4"]);
    assert_eq!(answers(&mut call, 1, 486, "<sip:x@h>").then.len(), 1, "the other still rings");
    let step = answers(&mut call, 2, 480, "<sip:x@h>");
    assert!(matches!(told(&step, 3)[..], [LegCommand::Send(invite, _)] if invite.body == Bytes::from_static(b"offer")));
    // This one rings and rings.
    let _ = answers(&mut call, 3, 180, "<sip:x@h>");
    let later = call.deadline().unwrap();
    let step = call.handle(CallInput::Timeout, later);
    call.committed();
    assert!(matches!(told(&step, 3)[..], [LegCommand::Cancel]) && matches!(told(&step, 4)[..], [LegCommand::Send(..)]));
    assert!(answers(&mut call, 3, 487, "<sip:x@h>").commit.is_some(), "the last still rings");
    let step = answers(&mut call, 4, 404, "<sip:x@h>");
    // RFC 3261 §16.7 step 6: what says most.
    assert!(matches!(told(&step, 0)[..], [LegCommand::Respond(_, busy)] if busy.status == StatusCode::BUSY_HERE));
    assert!(call.state().ended.is_some());
}

#[test]
fn a_global_failure_ends_the_call_at_once() {
    let mut call = calling(&[1000, 1000, 500]);
    let step = answers(&mut call, 1, 603, "<sip:x@h>");
    assert!(matches!(told(&step, 0)[..], [LegCommand::Respond(_, no)] if no.status.code() == 603));
    assert!(matches!(told(&step, 2)[..], [LegCommand::Cancel]));
    assert!(call.state().ended.is_some() && call.state().waiting.is_empty());
}

/// RFC 3261 §8.1.3.4: and a successor goes on finding out where.
#[test]
fn a_caller_who_is_sent_on_goes_there() {
    let mut call = calling(&[1000, 500]);
    let step = answers(&mut call, 1, 302, "<sip:c@x>, <sip:d@x>");
    let locate = Effect::Locate(vec!["sip:c@x".into(), "sip:d@x".into()]);
    assert_eq!(step.then.last(), Some(&locate));
    let (mut call, effects) = Call::resume(call.state().clone(), 2);
    assert!(effects.contains(&locate));
    let located = CallInput::Located { contacts: vec!["sip:c@x".into(), "sip:d@x".into()], targets: vec![target(7)] };
    let step = call.handle(located.clone(), NOW);
    call.committed();
    assert_eq!((told(&step, 2).len(), called(&call)), (1, vec![1, 2]));
    // Found out twice, by two owners.
    assert_eq!(call.handle(located, NOW), Step::default());
    // Nobody is there either: the one who waited.
    let step = answers(&mut call, 2, 302, "<sip:b@10.0.0.8>");
    assert!(step.then.iter().any(|effect| matches!(effect, Effect::Leg(LegId(3), LegCommand::Send(..)))), "it was there already");
}

/// RFC 5806 §6, RFC 7044 §9: the last is told of both who sent the caller on.
#[test]
fn a_phone_is_told_of_those_who_sent_its_caller_on() {
    let of = |name: &str| Some(Phone { aor: crate::ids::Aor::new(name, "x"), instance: None });
    let mut call = calling(&[1000]);
    call.state.callee = "b@x".into();
    call.state.legs[1].phone = of("b");
    let mut told = Vec::new();
    for (leg, name) in [(1, "c"), (2, "d")] {
        let _ = answers(&mut call, leg, 302, &format!("<sip:{name}@x>"));
        let contacts = vec![Text::from(format!("sip:{name}@x"))];
        let targets = vec![Target { phone: of(name), ..target(usize::from(leg) + 6) }];
        let step = call.handle(CallInput::Located { contacts, targets }, NOW);
        call.committed();
        let sent = step.then.iter().find_map(|effect| match effect {
            Effect::Leg(_, LegCommand::Send(invite, _)) => Some(invite.headers.clone()),
            _ => None,
        });
        let sent = sent.unwrap();
        let all = |name: Name| sent.all(&name).map(|value| String::from_utf8_lossy(value).into_owned()).collect::<Vec<_>>();
        told.push((all(Name::Diversion), all(Name::HistoryInfo)));
    }
    let [b, c] = ["b", "c"].map(|name| format!("<sip:{name}@x>;reason=deflection;counter=1"));
    let sent_on = "?Reason=SIP%3Bcause%3D302";
    let first = format!("<sip:b@x{sent_on}>;index=1, <sip:c@x>;index=1.1;mp=1");
    let second = format!("<sip:b@x{sent_on}>;index=1, <sip:c@x{sent_on}>;index=1.1;mp=1, <sip:d@x>;index=1.1.1;mp=1.1");
    assert_eq!(told, [(vec![b.clone()], vec![first]), (vec![c, b], vec![second])]);
}

/// RFC 5626 §7: two flows of one phone are not called at once, and not after each other when it has said no.
#[test]
fn a_phone_with_two_flows_rings_once() {
    let phone = Phone { aor: crate::ids::Aor::new("b", "x"), instance: Some("<urn:1>".into()) };
    for (status, second) in [(486, false), (430, true)] {
        let mut call = calling(&[1000]);
        call.state.waiting.push(Target { phone: Some(phone.clone()), ..target(2) });
        call.state.legs[1].phone = Some(phone.clone());
        let _ = answers(&mut call, 1, status, "<sip:x@h>");
        assert_eq!(call.state().ended.is_none(), second, "{status}");
    }
}

// --- session timers ---

const POLICY: SessionPolicy = SessionPolicy { expires: 1800, min: 90 };

/// A call whose caller and callee say this of timers.
fn timed(caller: &str, callee: &str) -> Result<(Call, Step), NewCallError> {
    let mut invite = invite();
    let mut answer = None;
    for (text, headers) in [(caller, Some(&mut invite.headers)), (callee, None)] {
        let message = text_request(format!("X sip:x SIP/2.0\r\n{text}\r\n"));
        match headers {
            Some(headers) => message.headers.iter().for_each(|(name, value)| headers.push(name.clone(), value.clone())),
            None => answer = Some(message.headers),
        }
    }
    let new = NewCall {
        id: CallId(1),
        vnode: VnodeId(1),
        body: Body::of(&invite.headers, &invite.body),
        invite,
        from: flow(0),
        session: Some(POLICY),
        phone: None,
        targets: vec![target(1)],
        caller: String::new(),
        trusted: false,
        callee: String::new(),
    };
    let (mut call, _) = Call::new(new, 1, NOW)?;
    call.committed();
    let sent = call.state().leg(LegId::CALLEE).out.clone().unwrap().request;
    assert_eq!(sent.headers.text(&Name::SessionExpires).as_deref(), Some("1800"));
    let mut response = ok(&sent);
    answer.unwrap().iter().for_each(|(name, value)| response.headers.push(name.clone(), value.clone()));
    let step = call.handle(CallInput::Leg(LegId::CALLEE, LegEvent::Response(response)), NOW);
    call.committed();
    let ack = in_dialog(&call, "ACK", 1);
    let _ = call.handle(CallInput::Leg(LegId::CALLER, LegEvent::Acked(ack)), NOW);
    call.committed();
    Ok((call, step))
}

fn seconds(call: &Call) -> u64 {
    call.deadline().unwrap().since(NOW).as_secs()
}

/// RFC 4028 §9 and §7.2: who can refreshes, as often as it wants to and we bear.
#[test]
fn a_session_is_refreshed_by_whoever_can() {
    for (caller, callee, says, due) in [
        ("", "", None, 900),
        ("Supported: timer\r\n", "Session-Expires: 1800;refresher=uas\r\n", Some("1800;refresher=uac"), 1768),
        ("Supported: timer\r\nSession-Expires: 600\r\n", "", Some("600;refresher=uac"), 568),
        ("Supported: timer\r\nSession-Expires: 600;refresher=uas\r\n", "", Some("600;refresher=uas"), 300),
        ("Supported: timer\r\n", "Session-Expires: 200;refresher=uac\r\nAllow: UPDATE\r\n", Some("1800;refresher=uac"), 100),
    ] {
        let (call, step) = timed(caller, callee).unwrap();
        let LegCommand::Respond(_, ok) = told(&step, 0)[0] else { panic!("an answer") };
        assert_eq!(ok.headers.text(&Name::SessionExpires).as_deref(), says, "{caller}{callee}");
        assert_eq!(seconds(&call), due, "{caller}{callee}");
    }
    let error = timed("Supported: timer\r\nSession-Expires: 60\r\n", "").unwrap_err();
    let refused = error.response(&invite());
    assert_eq!((refused.status.code(), refused.headers.text(&Name::MinSe).as_deref()), (422, Some("90")));
}

/// What is asked of a leg when its time has come.
fn refreshes(call: &mut Call, leg: LegId, body: Option<Body>) -> Request {
    let due = call.deadline().unwrap();
    let _ = call.handle(CallInput::Timeout, due);
    assert_eq!(call.state().refreshable(due), Some(leg));
    let step = call.handle(CallInput::Refresh(leg, body), due);
    call.committed();
    match told(&step, leg.0)[..] {
        [LegCommand::Send(request, _)] => request.clone(),
        _ => panic!("{step:?}"),
    }
}

#[test]
fn a_phone_is_asked_by_what_it_understands_and_one_that_is_gone_ends_the_call() {
    let body = || Some(Body { content_type: "application/sdp".into(), bytes: "as before".into() });
    let uas = "Session-Expires: 1800;refresher=uac\r\n";
    for (callee, method) in [("", "OPTIONS"), ("Allow: UPDATE\r\n", "UPDATE"), (uas, "INVITE")] {
        for (status, ends) in [(200, false), (481, true), (408, true)] {
            let (mut call, _) = timed("Supported: timer\r\n", callee).unwrap();
            let asked = refreshes(&mut call, LegId::CALLEE, body());
            assert_eq!(asked.method.to_string(), method);
            let due = call.state().leg(LegId::CALLEE).timer.unwrap().due();
            let response = asked.response(StatusCode::new(status).unwrap(), None).with(Name::Contact, "<sip:b@10.0.0.2>");
            let step = call.handle(CallInput::Leg(LegId::CALLEE, LegEvent::Response(response)), due);
            call.committed();
            assert_eq!(
                (matches!(step.commit, Some(Mutation::End(..))), step.commit.is_some()),
                (ends, true),
                "{method} {status}"
            );
            assert!(ends || call.state().leg(LegId::CALLEE).timer.unwrap().since == due);
        }
    }
    // It says that it knows UPDATE, and doesn't.
    let (mut call, _) = timed("Supported: timer\r\n", "Allow: UPDATE\r\n").unwrap();
    let asked = refreshes(&mut call, LegId::CALLEE, None);
    let response = asked.response(StatusCode::NOT_IMPLEMENTED, None);
    let _ = call.handle(CallInput::Leg(LegId::CALLEE, LegEvent::Response(response)), call.deadline().unwrap_or(NOW));
    call.committed();
    assert_eq!(refreshes(&mut call, LegId::CALLEE, None).method, Method::Options);
}

#[test]
fn a_phone_that_has_to_refresh_and_does_not_is_gone() {
    let (mut call, _) = timed("Supported: timer\r\nSession-Expires: 300\r\n", "").unwrap();
    let first = call.deadline().unwrap();
    let mut update = in_dialog(&call, "UPDATE", 2);
    update.headers.push_text(Name::Supported, "timer");
    update.headers.push_text(Name::SessionExpires, "300;refresher=uac");
    let step = ask(&mut call, update, flow(0), first);
    call.committed();
    assert!(matches!(told(&step, 0)[..], [LegCommand::Respond(_, ok)] if ok.status == StatusCode::OK));
    let overdue = first + Duration::from_secs(268);
    assert_eq!(call.deadline(), Some(overdue), "it has begun again");
    let step = call.handle(CallInput::Timeout, overdue);
    assert!(matches!(step.commit, Some(Mutation::End(..))));
}

/// RFC 4028 §7.3.
#[test]
fn a_callee_that_wants_to_be_asked_less_often_is_called_again() {
    let mut call = calling(&[1000]);
    call.state.session = Some(POLICY);
    call.state.legs[1].out.as_mut().unwrap().request.headers.push_text(Name::SessionExpires, "1800");
    let sent = call.state().leg(LegId::CALLEE).out.clone().unwrap().request;
    let refused = sent.response(StatusCode::SESSION_INTERVAL_TOO_SMALL, Some("b")).with(Name::MinSe, "3600");
    let step = call.handle(CallInput::Leg(LegId::CALLEE, LegEvent::Response(refused)), NOW);
    let [LegCommand::Acknowledge, LegCommand::Send(again, _)] = told(&step, 1)[..] else { panic!("{step:?}") };
    assert_eq!(again.headers.text(&Name::SessionExpires).as_deref(), Some("3600"));
    assert!(again.headers.cseq().unwrap().number > sent.headers.cseq().unwrap().number && again.body == sent.body);
}

/// RFC 3311: the other phone may not know UPDATE, and gets what it knows.
#[test]
fn an_update_with_a_description_goes_on_as_a_reinvite() {
    let mut call = established();
    let mut update = in_dialog(&call, "UPDATE", 2);
    update.body = Bytes::from_static(b"hold");
    let step = ask(&mut call, update, flow(0), NOW);
    call.committed();
    let [LegCommand::Send(invite, _)] = told(&step, 1)[..] else { panic!("{step:?}") };
    assert!(told(&step, 0).is_empty() && invite.method == Method::Invite);
    let step = call.handle(CallInput::Leg(LegId::CALLEE, LegEvent::Response(ok(invite))), NOW);
    call.committed();
    assert!(matches!(told(&step, 1)[..], [LegCommand::Send(ack, _)] if ack.method == Method::Ack));
    assert!(matches!(told(&step, 0)[..], [LegCommand::Respond(_, ok)] if ok.body == Bytes::from_static(b"answer")));
    assert!(call.state().relays.is_empty(), "an UPDATE has no ACK");
}

/// RFC 3891 §3.
#[test]
fn a_dialog_that_is_to_be_replaced_is_named_by_its_three_parts() {
    let mut call = established();
    call.state.caller = "a@x".into();
    let state = &call.state().clone();
    let dialog = &state.leg(LegId::CALLEE).dialog;
    let named = |early_only| Replaces {
        call_id: dialog.call_id.to_string(),
        to_tag: dialog.local_tag.to_string(),
        from_tag: dialog.remote_tag.as_ref().unwrap().to_string(),
        early_only,
    };
    let found = state.replaced(LegId::CALLEE, &named(false)).unwrap();
    // The phone at the other side is called, and told of the dialog as it knows it.
    let caller = state.leg(LegId::CALLER);
    assert_eq!(found.target.contact, caller.dialog.remote_target);
    let told = found.target.replaces.as_ref().unwrap();
    assert_eq!(Some(&*told.to_tag), caller.dialog.remote_tag.as_deref());
    assert_eq!((&*told.from_tag, &*told.call_id), (&*caller.dialog.local_tag, &*caller.dialog.call_id));
    let turned = Replaces { to_tag: named(false).from_tag, from_tag: named(false).to_tag, ..named(false) };
    assert_eq!(state.replaced(LegId::CALLEE, &turned).unwrap(), found);
    let refused = |state: &CallState, wanted: Replaces| state.replaced(LegId::CALLEE, &wanted).unwrap_err().code();
    assert_eq!(refused(state, Replaces { call_id: "another".into(), ..named(false) }), 481);
    assert_eq!(refused(state, Replaces { from_tag: "another".into(), ..named(false) }), 481);
    assert_eq!(state.replaced(LegId(9), &named(false)).unwrap_err().code(), 481);
    assert_eq!(refused(state, named(true)), 486);
    let _ = call.handle(CallInput::HangUp { status: StatusCode::REQUEST_TERMINATED, by: EndedBy::Operator }, NOW);
    assert_eq!(refused(call.state(), named(false)), 603);
}

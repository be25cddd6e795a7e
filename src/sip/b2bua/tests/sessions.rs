//! Refreshes that don't go well, and UPDATEs.

use super::*;

fn answered(call: &mut Call, leg: LegId, asked: &Request, status: u16, headers: &[(Name, &str)], now: Timestamp) -> Step {
    let mut response = asked.response(StatusCode::new(status).unwrap(), None).with(Name::Contact, "<sip:b@10.0.0.2:5060>");
    headers.iter().for_each(|(name, value)| response.headers.push_text(name.clone(), *value));
    let step = call.handle(CallInput::Leg(leg, LegEvent::Response(response)), now);
    call.committed();
    step
}

fn update(call: &Call, cseq: u32, headers: &str) -> Request {
    let mut update = in_dialog(call, "UPDATE", cseq);
    let more = text_request(format!("X sip:x SIP/2.0\r\n{headers}\r\n")).headers;
    more.iter().for_each(|(name, value)| update.headers.push(name.clone(), value.clone()));
    update
}

fn status_of(step: &Step) -> u16 {
    match told(step, 0)[..] {
        [LegCommand::Respond(_, response)] => response.status.code(),
        _ => panic!("{step:?}"),
    }
}

/// Asleep it would forget when to ask again, and ask at once, for ever.
#[test]
fn a_refresh_that_is_put_off_keeps_the_call_awake_and_is_put_off_longer_each_time() {
    for says in ["Allow: UPDATE\r\n", "Session-Expires: 1800;refresher=uac\r\n"] {
        let (mut call, _) = timed("Supported: timer\r\n", says).unwrap();
        let mut pauses = Vec::new();
        for status in [500, 491, 500] {
            let due = call.deadline().unwrap();
            let body = Body { content_type: "application/sdp".into(), bytes: "as before".into() };
            let asked = refreshes(&mut call, LegId::CALLEE, Some(body));
            let _ = answered(&mut call, LegId::CALLEE, &asked, status, &[], due);
            assert!(!call.state().can_sleep());
            pauses.push(call.deadline().unwrap().since(due).as_millis());
        }
        assert_eq!(pauses, [2100, 4200, 8400], "{says}");
        let due = call.deadline().unwrap();
        let asked = refreshes(&mut call, LegId::CALLEE, Some(Body { content_type: "x".into(), bytes: "y".into() }));
        let _ = answered(&mut call, LegId::CALLEE, &asked, 200, &[], due);
        assert!(call.state().can_sleep() && call.state().leg(LegId::CALLEE).put_off == 0);
    }
}

/// A deadline that has passed and brings nothing about would be a busy loop.
#[test]
fn a_refresh_waits_for_a_reinvite_without_a_deadline() {
    let (mut call, _) = timed("Supported: timer\r\n", "Allow: UPDATE\r\n").unwrap();
    let due = call.deadline().unwrap();
    let reinvite = in_dialog(&call, "INVITE", 2);
    let _ = ask(&mut call, reinvite, flow(0), due);
    call.committed();
    assert_eq!(call.state().refreshable(due), None);
    assert!(call.deadline().is_none_or(|at| at > due));
}

/// RFC 3311 §5.3: a phone whose UPDATE fails goes back to what was before, and the other side doesn't.
#[test]
fn an_update_that_was_accepted_is_accepted_again_by_the_next_owner() {
    for with_body in [true, false] {
        let mut call = established();
        let mut update = in_dialog(&call, "UPDATE", 2);
        if with_body {
            update.body = Bytes::from_static(b"hold");
        }
        let step = ask(&mut call, update.clone(), flow(0), NOW);
        call.committed();
        if let [LegCommand::Send(invite, _)] = told(&step, 1)[..] {
            let _ = call.handle(CallInput::Leg(LegId::CALLEE, LegEvent::Response(ok(invite))), NOW);
            call.committed();
        }
        let (mut call, _) = Call::resume(call.state().clone(), 2);
        let step = ask(&mut call, update.clone(), flow(0), NOW);
        let [LegCommand::Respond(_, again)] = told(&step, 0)[..] else { panic!("{step:?}") };
        assert_eq!((again.status.code(), step.then.len(), again.body.is_empty()), (200, 1, !with_body));
        // After another request nobody waits for it.
        let options = in_dialog(&call, "OPTIONS", 3);
        assert_eq!(status_of(&ask(&mut call, options, flow(0), NOW)), 200);
        assert_eq!(status_of(&ask(&mut call, update, flow(0), NOW)), 500);
    }
}

/// RFC 4028 §9: the interval must not grow.
#[test]
fn a_session_that_would_be_refreshed_too_often_is_refused_later_too() {
    let (mut call, _) = timed("", "").unwrap();
    for (cseq, method, body) in [(2, "INVITE", "sdp"), (3, "UPDATE", "sdp"), (4, "UPDATE", "")] {
        let mut request = in_dialog(&call, method, cseq);
        request.headers.push_text(Name::Supported, "timer");
        request.headers.push_text(Name::SessionExpires, "30");
        request.body = Bytes::from_static(body.as_bytes());
        assert_eq!(status_of(&ask(&mut call, request, flow(0), NOW)), 422, "{method} {body}");
    }
}

/// RFC 4028 §9: and must not be less than the phone's own least.
#[test]
fn a_session_is_no_shorter_than_its_phone_wants() {
    for (headers, says) in [
        ("Supported: timer\r\nSession-Expires: 3600\r\nMin-SE: 3600\r\n", "3600;refresher=uac"),
        ("Supported: timer\r\nSession-Expires: 3600\r\nMin-SE: 90\r\n", "1800;refresher=uac"),
        ("Supported: timer\r\nMin-SE: 2000\r\n", "2000;refresher=uac"),
    ] {
        let (_, step) = timed(headers, "").unwrap();
        let [LegCommand::Respond(_, ok)] = told(&step, 0)[..] else { panic!("{step:?}") };
        assert_eq!(ok.headers.text(&Name::SessionExpires).as_deref(), Some(says), "{headers}");
    }
}

#[test]
fn a_phone_that_sends_an_update_knows_update() {
    let (mut call, _) = timed("", "").unwrap();
    let update = update(&call, 2, "");
    assert_eq!(status_of(&ask(&mut call, update, flow(0), NOW)), 200);
    assert!(call.state().leg(LegId::CALLER).speaks.update);
    // Its next request says nothing of it.
    let (mut call, _) = timed("Allow: UPDATE\r\nSupported: timer\r\n", "").unwrap();
    let reinvite = in_dialog(&call, "INVITE", 2);
    let step = ask(&mut call, reinvite, flow(0), NOW);
    call.committed();
    let [LegCommand::Send(onward, _)] = told(&step, 1)[..] else { panic!("{step:?}") };
    let _ = call.handle(CallInput::Leg(LegId::CALLEE, LegEvent::Response(ok(onward))), NOW);
    assert_eq!(call.state().leg(LegId::CALLER).speaks, Speaks { update: true, timer: true });
}

#[test]
fn a_refresh_by_reinvite_that_is_too_frequent_refreshes_nothing() {
    let (mut call, _) = timed("Supported: timer\r\n", "Session-Expires: 1800;refresher=uac\r\n").unwrap();
    let due = call.deadline().unwrap();
    let asked = refreshes(&mut call, LegId::CALLEE, Some(Body { content_type: "x".into(), bytes: "y".into() }));
    assert_eq!(asked.method, Method::Invite);
    let _ = answered(&mut call, LegId::CALLEE, &asked, 422, &[(Name::MinSe, "3600")], due);
    let timer = call.state().leg(LegId::CALLEE).timer.unwrap();
    assert_eq!((timer.interval, timer.since), (3600, NOW));
}

/// A refresh that ends without a commit is not open again because a later commit fails.
#[test]
fn a_refresh_that_was_put_off_stays_so() {
    let (mut call, _) = timed("Supported: timer\r\n", "Allow: UPDATE\r\n").unwrap();
    let due = call.deadline().unwrap();
    let asked = refreshes(&mut call, LegId::CALLEE, None);
    let response = asked.response(StatusCode::REQUEST_PENDING, None);
    let _ = call.handle(CallInput::Leg(LegId::CALLEE, LegEvent::Response(response)), due);
    call.roll_back();
    assert_eq!(call.state().leg(LegId::CALLEE).refreshing, None);
}

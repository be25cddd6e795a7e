//! Ways to somebody: the servers of another domain, and a connection for what is too long for a datagram.

use super::*;
use crate::ids::Aor;
use crate::sip::registrar::Phone;

/// A call to these.
fn called(targets: Vec<Target>, subject: &str) -> Call {
    let mut invite = invite();
    invite.headers.push_text(Name::Subject, subject);
    let new = NewCall {
        id: CallId(1),
        vnode: VnodeId(1),
        body: Body::of(&invite.headers, &invite.body),
        invite,
        from: flow(0),
        session: None,
        phone: None,
        targets,
        caller: "a@x".into(),
        trusted: false,
        callee: "b@y".into(),
    };
    let (mut call, _) = Call::new(new, 1, NOW).unwrap();
    call.committed();
    call
}

fn server(nth: usize) -> Target {
    Target { phone: Some(Phone::elsewhere(Aor::new("b", "y"))), ..target(nth) }
}

fn says(call: &mut Call, leg: u8, status: u16, now: Timestamp) -> Step {
    let sent = call.state().leg(LegId(leg)).out.clone().unwrap().request;
    let mut response = sent.response(StatusCode::new(status).unwrap(), Some("b")).with(Name::Contact, "<sip:b@10.0.0.2>");
    if status == 200 {
        response = response.with_body("application/sdp", Bytes::from_static(b"answer"));
    }
    let step = call.handle(CallInput::Leg(LegId(leg), LegEvent::Response(response)), now);
    call.committed();
    step
}

/// To whom an INVITE goes.
fn invites(step: &Step) -> Vec<Flow> {
    let sent = step.then.iter().filter_map(|effect| match effect {
        Effect::Leg(_, LegCommand::Send(request, flow)) if request.method == Method::Invite => Some(*flow),
        _ => None,
    });
    sent.collect()
}

/// RFC 3263 §4.3: 503, 408 and no way there say nothing of the callee; any other answer is the callee's.
#[test]
fn the_next_server_is_tried_when_one_fails_and_not_when_the_callee_refuses() {
    for (status, tried) in [(503, true), (408, true), (430, true), (486, false), (404, false), (480, false), (603, false)] {
        let mut call = called(vec![server(1), server(2)], "");
        assert_eq!(call.state().branches().count(), 1, "one after the other");
        let step = says(&mut call, 1, status, NOW);
        assert_eq!(!invites(&step).is_empty(), tried, "{status}");
        assert_eq!(call.state().ended.is_some(), !tried, "{status}");
    }
    // A phone of ours that says 503 has said so.
    let phone = |nth| Target { phone: Some(Phone { aor: Aor::new("b", "x"), instance: Some("i".into()) }), ..target(nth) };
    let mut call = called(vec![phone(1), phone(2)], "");
    assert_eq!(invites(&says(&mut call, 1, 503, NOW)), []);
}

/// One that says nothing at all is not waited for as long as one that works on it.
#[test]
fn a_silent_server_gives_its_turn_away_and_may_still_answer() {
    let mut call = called(vec![server(1), server(2)], "");
    let due = call.deadline().unwrap();
    assert_eq!(due.since(NOW), Duration::from_secs(4));
    let step = call.handle(CallInput::Timeout, due);
    assert_eq!(invites(&step), [flow(2)]);
    call.committed();
    assert!(call.deadline().unwrap().since(due) > Duration::from_secs(20), "the last is waited for");
    let step = says(&mut call, 1, 200, due);
    assert!(call.state().answerer == Some(LegId(1)) && step.commit.is_some());
    // Nor is one that has said 100 hurried, and in a call that goes on elsewhere the silent one is cancelled.
    let mut call = called(vec![server(1), server(2)], "");
    let _ = call.handle(CallInput::Timeout, due);
    call.committed();
    let (_, open) = Call::resume(call.state().clone(), 9);
    assert!(open.contains(&Effect::Leg(LegId(1), LegCommand::Cancel)));
    let mut call = called(vec![server(1), server(2)], "");
    let _ = call.handle(CallInput::Leg(LegId(1), LegEvent::Trying), NOW);
    assert!(call.deadline().unwrap().since(NOW) > Duration::from_secs(20));
    let mut call = called(vec![server(1), server(2)], "");
    let _ = says(&mut call, 1, 180, NOW);
    assert!(call.deadline().unwrap().since(NOW) > Duration::from_secs(20), "one that rings is waited for");
}

/// RFC 3261 §18.1.1: by a connection, and as a datagram if there is none.
#[test]
fn what_is_too_long_for_a_datagram_goes_by_a_connection_if_it_can() {
    let long = Flow { transport: Transport::Tcp, ..flow(1) };
    let phone = Target { long: Some(long), ..target(1) };
    let text = "x".repeat(1300);
    let mut call = called(vec![phone.clone()], &text);
    let sent = call.state().leg(LegId(1)).out.clone().unwrap();
    assert_eq!((call.state().leg(LegId(1)).dialog.flow, sent.datagram), (long, Some(flow(1))));
    let contact = sent.request.headers.contacts().unwrap()[0].uri.to_string();
    assert!(contact.ends_with(";transport=tcp"), "{contact}");
    let number = |call: &Call| call.state().leg(LegId(1)).out.clone().unwrap().request.headers.cseq().unwrap().number;
    let first = number(&call);
    let step = says(&mut call, 1, 430, NOW);
    assert_eq!(invites(&step), [flow(1)]);
    assert!(number(&call) > first && !call.state().leg(LegId(1)).dialog.contact.contains("transport"));
    // Once.
    let step = says(&mut call, 1, 430, NOW);
    assert!(invites(&step).is_empty() && call.state().ended.is_some());
    for (targets, text) in [(vec![phone], ""), (vec![target(1)], text.as_str())] {
        assert_eq!(called(targets, text).state().leg(LegId(1)).dialog.flow, flow(1));
    }
}

//! What phones do that are called at the same time as others, and don't get the call.

use super::*;

/// A request of a phone's that is called.
fn from_branch(call: &Call, leg: u8, method: &str, cseq: u32) -> LegEvent {
    let dialog = &call.state().leg(LegId(leg)).dialog;
    let request = text_request(format!(
        "{method} sip:x SIP/2.0\r\nVia: SIP/2.0/UDP 10.0.0.2;branch=z9hG4bKb{leg}{method}{cseq}\r\nFrom: {};tag={}\r\nTo: {};tag={}\r\n\
         Call-ID: {}\r\nCSeq: {cseq} {method}\r\n\r\n",
        dialog.remote,
        dialog.remote_tag.clone().unwrap_or_default(),
        dialog.local,
        dialog.local_tag,
        dialog.call_id
    ));
    LegEvent::Request(TxKey::of(&request), request, flow(usize::from(leg)))
}

fn says(call: &mut Call, leg: u8, event: LegEvent) -> Step {
    let step = call.handle(CallInput::Leg(LegId(leg), event), NOW);
    call.committed();
    step
}

fn no_response(call: &mut Call, leg: u8) -> Step {
    let sent = call.state().leg(LegId(leg)).out.clone().unwrap().request;
    says(call, leg, LegEvent::NoResponse(sent))
}

fn responds(command: &LegCommand, status: u16) -> bool {
    matches!(command, LegCommand::Respond(_, response) if response.status.code() == status)
}

/// RFC 3261 §15: a BYE ends the dialog that it is sent in.
#[test]
fn a_bye_on_a_branch_that_lost_ends_that_branch_only() {
    let mut call = calling(&[1000, 1000]);
    let _ = answers(&mut call, 1, 200, "<sip:b@10.0.0.2>");
    // Its answer has crossed the CANCEL, and so does its BYE ours.
    let _ = answers(&mut call, 2, 200, "<sip:b@10.0.0.3>");
    let bye = from_branch(&call, 2, "BYE", 1);
    let step = says(&mut call, 2, bye);
    assert!(matches!(told(&step, 2)[..], [answer] if responds(answer, 200)));
    assert_eq!((step.then.len(), called(&call), call.state().ended), (1, vec![1], None));
}

#[test]
fn a_bye_while_others_ring_is_a_refusal() {
    let mut call = calling(&[1000, 1000]);
    let _ = answers(&mut call, 2, 180, "<sip:b@10.0.0.3>");
    let bye = from_branch(&call, 2, "BYE", 1);
    let step = says(&mut call, 2, bye);
    assert!(matches!(told(&step, 2)[..], [answer, LegCommand::Cancel] if responds(answer, 200)));
    assert_eq!(call.state().ended, None);
    // The end of its INVITE is no second refusal.
    assert_eq!(answers(&mut call, 2, 487, "<sip:x@h>").commit, None);
    let step = answers(&mut call, 1, 404, "<sip:x@h>");
    assert!(matches!(told(&step, 0)[..], [answer] if responds(answer, 404)));
    // Somebody else takes the call before that end: it is acknowledged all the same.
    let mut call = calling(&[1000, 1000]);
    let _ = answers(&mut call, 2, 180, "<sip:b@10.0.0.3>");
    let sent = call.state().leg(LegId(2)).out.clone().unwrap().request;
    let bye = from_branch(&call, 2, "BYE", 1);
    let _ = says(&mut call, 2, bye);
    let _ = answers(&mut call, 1, 200, "<sip:b@10.0.0.2>");
    let step = says(&mut call, 2, LegEvent::Response(sent.response(StatusCode::REQUEST_TERMINATED, Some("b"))));
    assert_eq!((called(&call), &told(&step, 2)[..]), (vec![1], &[&LegCommand::Acknowledge][..]));
}

/// The former owner may have given it up, or its answer has come just after the last moment.
#[test]
fn a_phone_that_was_given_up_can_still_take_the_call() {
    let mut call = calling(&[1000, 1000]);
    let _ = no_response(&mut call, 1);
    let _ = answers(&mut call, 2, 180, "<sip:b@10.0.0.3>");
    let step = answers(&mut call, 1, 200, "<sip:b@10.0.0.2>");
    assert!(matches!(told(&step, 2)[..], [LegCommand::Cancel]));
    assert!(matches!(told(&step, 0)[..], [answer] if responds(answer, 200)));
    assert_eq!((call.state().answerer, called(&call)), (Some(LegId(1)), vec![1, 2]));
}

#[test]
fn a_phone_that_was_given_up_does_not_ring() {
    let mut call = calling(&[1000, 1000]);
    let _ = no_response(&mut call, 1);
    let _ = answers(&mut call, 1, 180, "<sip:b@10.0.0.2>");
    let _ = answers(&mut call, 1, 486, "<sip:b@10.0.0.2>");
    let step = answers(&mut call, 2, 486, "<sip:b@10.0.0.3>");
    assert!(matches!(told(&step, 0)[..], [answer] if responds(answer, 486)));
}

/// Phones 1 and 2 are two flows of one phone; 3 is another. All have the same q.
fn with_two_flows(phones: &[usize]) -> Call {
    let mut call = calling(&[1000]);
    let phone = |instance: &str| Some(Phone { aor: crate::ids::Aor::new("b", "x"), instance: Some(instance.into()) });
    let of = |at: usize| if at < 3 { phone("<urn:1>") } else { phone("<urn:3>") };
    call.state.legs.truncate(1);
    call.state.waiting = phones.iter().map(|at| Target { phone: of(*at), ..target(*at) }).collect();
    let invite = invite();
    let onward = fork::Onward::of(&NewCall {
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
    });
    let _ = call.call_next(&onward, NOW);
    call.committed();
    call
}

/// RFC 5626 §7: a second flow is for when the first leads nowhere.
#[test]
fn a_phone_that_rings_does_not_wait_for_its_own_turn() {
    let mut call = with_two_flows(&[1, 2]);
    let _ = answers(&mut call, 1, 180, "<sip:b@10.0.0.2>");
    assert_eq!(call.deadline(), Some(NOW + RING_TIMEOUT));
    assert_eq!(call.handle(CallInput::Timeout, NOW + fork::TURN), Step::default());
}

#[test]
fn a_phone_that_has_refused_takes_nobodys_turn() {
    let mut call = with_two_flows(&[1, 2, 3]);
    assert_eq!(called(&call), [1, 2]);
    let _ = answers(&mut call, 1, 486, "<sip:x@h>");
    let _ = answers(&mut call, 2, 180, "<sip:x@h>");
    assert_eq!(call.deadline(), Some(NOW + RING_TIMEOUT));
    assert_eq!(call.handle(CallInput::Timeout, NOW + fork::TURN), Step::default());
}

#[test]
fn a_second_flow_is_called_when_the_first_leads_nowhere_even_after_its_turn() {
    let mut call = with_two_flows(&[1, 2, 3]);
    let _ = answers(&mut call, 2, 180, "<sip:x@h>");
    let mut waits = target(9);
    waits.q = 500;
    call.state.waiting.push(waits);
    // The other one's turn comes, and it is busy: the phone may still be there by its second flow.
    let turn = call.deadline().unwrap();
    let step = call.handle(CallInput::Timeout, turn);
    call.committed();
    assert_eq!((told(&step, 1).len(), told(&step, 2).len(), told(&step, 3).len()), (1, 1, 1));
    let _ = answers(&mut call, 2, 487, "<sip:x@h>");
    let _ = answers(&mut call, 3, 486, "<sip:x@h>");
    assert_eq!(call.state().ended, None);
    let step = no_response(&mut call, 1);
    assert!(matches!(told(&step, 4)[..], [LegCommand::Send(invite, _)] if &*invite.uri == "sip:b@10.0.0.3"));
}

/// RFC 3261 §12.2.1: what is answered goes back to whoever asked, however many others ring.
#[test]
fn a_request_of_a_branch_is_answered_while_others_ring() {
    let mut call = calling(&[1000, 1000]);
    let _ = answers(&mut call, 2, 183, "<sip:b@10.0.0.3>");
    let info = from_branch(&call, 2, "INFO", 1);
    let step = says(&mut call, 2, info);
    let [LegCommand::Send(onward, _)] = told(&step, 0)[..] else { panic!("{step:?}") };
    let step = says(&mut call, 0, LegEvent::Response(onward.response(StatusCode::OK, None)));
    assert!(matches!(told(&step, 2)[..], [answer] if responds(answer, 200)));
    assert!(call.state().relays.is_empty());
}

#[test]
fn a_request_of_a_branch_that_is_over_is_over_too() {
    let mut call = calling(&[1000, 1000]);
    let _ = answers(&mut call, 2, 183, "<sip:b@10.0.0.3>");
    let info = from_branch(&call, 2, "INFO", 1);
    let _ = says(&mut call, 2, info);
    let _ = answers(&mut call, 1, 200, "<sip:b@10.0.0.2>");
    let step = answers(&mut call, 2, 487, "<sip:x@h>");
    assert!(matches!(told(&step, 2)[..], [LegCommand::Acknowledge, answer] if responds(answer, 487)));
    assert!(call.state().relays.is_empty());
    let bye = in_dialog(&call, "BYE", 2);
    assert!(matches!(ask(&mut call, bye, flow(0), NOW).commit, Some(Mutation::End(..))));
}

/// One phone's nonsense is not everybody's end.
#[test]
fn an_answer_that_cannot_be_used_is_a_refusal_of_its_phones() {
    let unusable = |call: &mut Call, leg: u8| {
        let sent = call.state().leg(LegId(leg)).out.clone().unwrap().request;
        let step = call.handle(CallInput::Unusable(LegId(leg), Box::new(ok(&sent))), NOW);
        call.committed();
        step
    };
    let mut call = calling(&[1000, 1000]);
    let step = unusable(&mut call, 2);
    assert!(matches!(told(&step, 2)[..], [LegCommand::Send(ack, _), LegCommand::Send(bye, _)]
        if ack.method == Method::Ack && bye.method == Method::Bye));
    assert_eq!((step.then.len(), call.state().ended), (2, None));
    assert_eq!(unusable(&mut call, 2).then.len(), 1, "its ACK was lost");
    let bye = call.state().leg(LegId(2)).bye.clone().unwrap();
    let _ = says(&mut call, 2, LegEvent::Response(bye.response(StatusCode::OK, None)));
    let step = answers(&mut call, 1, 404, "<sip:x@h>");
    assert!(matches!(told(&step, 0)[..], [answer] if responds(answer, 488)));
    // Nobody else might take the call.
    let mut call = calling(&[1000]);
    let step = unusable(&mut call, 1);
    assert!(matches!(told(&step, 0)[..], [answer] if responds(answer, 488)));
    assert_eq!(told(&step, 1).len(), 2);
}

// --- sent on ---

fn located(call: &mut Call, contacts: &[&'static str], targets: Vec<Target>) -> Step {
    let contacts = contacts.iter().map(|contact| Text::from_static(contact)).collect();
    let step = call.handle(CallInput::Located { contacts, targets }, NOW);
    call.committed();
    step
}

#[test]
fn nobody_has_a_turn_before_it_because_somebody_is_nowhere() {
    for targets in [Vec::new(), vec![target(9)]] {
        let mut call = calling(&[1000, 1000, 500]);
        let _ = answers(&mut call, 1, 302, "<sip:c@x>");
        let found = targets.len();
        let _ = located(&mut call, &["sip:c@x"], targets);
        assert_eq!(called(&call).len(), 2 + found);
        assert_eq!(call.state().waiting.len(), 1);
    }
}

#[test]
fn everybody_is_looked_for_that_somebody_sends_the_caller_to_the_best_first() {
    let mut call = calling(&[1000, 1000]);
    let _ = answers(&mut call, 1, 302, "<sip:c@x>;q=0.3, <sip:d@x>;q=0.8");
    let step = answers(&mut call, 2, 302, "<sip:c@x>, <sip:e@x>");
    assert_eq!(step.then.last(), Some(&Effect::Locate(vec!["sip:e@x".into()])), "the others are being looked for");
    assert_eq!(call.state().locating, ["sip:d@x", "sip:c@x", "sip:e@x"]);
    let step = located(&mut call, &["sip:d@x", "sip:c@x"], Vec::new());
    assert_eq!((step.then, call.state().ended), (Vec::new(), None));
    let step = located(&mut call, &["sip:e@x"], vec![target(9)]);
    assert!(matches!(told(&step, 3)[..], [LegCommand::Send(..)]));
}

// --- what phones and proxies may say ---

/// RFC 4028 §7.3 asks for one more attempt, and not for one after the other.
#[test]
fn a_phone_is_called_less_often_once_and_only_while_it_is_called() {
    for cancelled in [false, true] {
        let mut call = calling(&[1000, 500]);
        call.state.session = Some(SessionPolicy { expires: 1800, min: 90 });
        call.state.legs[1].out.as_mut().unwrap().request.headers.push_text(Name::SessionExpires, "1800");
        let too_small = |call: &mut Call, least: &str| {
            let sent = call.state().leg(LegId(1)).out.clone().unwrap().request;
            let response = sent.response(StatusCode::SESSION_INTERVAL_TOO_SMALL, Some("b")).with(Name::MinSe, least);
            says(call, 1, LegEvent::Response(response))
        };
        if cancelled {
            let turn = call.deadline().unwrap();
            let _ = call.handle(CallInput::Timeout, turn);
            call.committed();
        } else {
            assert!(matches!(told(&too_small(&mut call, "3600"), 1)[..], [LegCommand::Acknowledge, LegCommand::Send(..)]));
        }
        assert!(matches!(told(&too_small(&mut call, "3601"), 1)[..], [LegCommand::Acknowledge]), "{cancelled}");
        assert_eq!(call.state().leg(LegId(1)).refused, Some(StatusCode::SESSION_INTERVAL_TOO_SMALL));
    }
}

/// RFC 3261 §13.2.2.4: a proxy behind the phone's registration has forked.
#[test]
fn a_second_dialog_on_one_branch_is_hung_up_on_in_itself() {
    let invite = |call: &Call| call.state().leg(LegId(1)).out.clone().unwrap().request;
    let of = |sent: &Request, tag: &str| {
        let response = sent.response(StatusCode::OK, Some(tag)).with(Name::Contact, "<sip:other@10.0.0.2:5060>");
        LegEvent::Response(response)
    };
    let mut call = calling(&[1000]);
    let sent = invite(&call);
    let _ = says(&mut call, 1, of(&sent, "one"));
    let step = says(&mut call, 1, of(&sent, "two"));
    let [LegCommand::Send(ack, _), LegCommand::Send(bye, _)] = told(&step, 1)[..] else { panic!("{step:?}") };
    assert_eq!((&ack.method, &bye.method), (&Method::Ack, &Method::Bye));
    for message in [ack, bye] {
        assert_eq!(message.headers.to().unwrap().tag(), Some("two"));
        assert_eq!(&*message.uri, "sip:other@10.0.0.2:5060");
    }
    assert_eq!(call.state().leg(LegId(1)).dialog.remote_tag.as_deref(), Some("one"));
    let hung_up = (0..100).filter(|tag| !says(&mut call, 1, of(&sent, &tag.to_string())).then.is_empty());
    assert!(hung_up.count() < 8, "more of them are no phone's doing");
}

/// RFC 3261 §9.1: the phone was cancelled, and has vanished.
#[test]
fn a_reinvite_that_was_cancelled_and_is_never_answered_ends_nothing_else() {
    let mut call = established();
    let reinvite = in_dialog(&call, "INVITE", 2);
    let key = TxKey::of(&reinvite);
    let step = ask(&mut call, reinvite, flow(0), NOW);
    call.committed();
    let [LegCommand::Send(onward, _)] = told(&step, 1)[..] else { panic!("{step:?}") };
    let step = says(&mut call, 0, LegEvent::Cancelled { invite: key.clone(), cancel: key });
    assert!(step.commit.is_some() && matches!(told(&step, 1)[..], [LegCommand::Cancel]));
    let (resumed, effects) = Call::resume(call.state().clone(), 2);
    assert!(effects.contains(&Effect::Leg(LegId(1), LegCommand::Cancel)) && resumed.state().relays.len() == 1);
    let step = says(&mut call, 1, LegEvent::NoResponse(onward.clone()));
    assert!(matches!(told(&step, 0)[..], [answer] if responds(answer, 487)));
    assert_eq!((call.state().relays.len(), call.state().ended), (0, None));
}

/// A commit that fails later doesn't bring back what nobody will answer any more.
#[test]
fn what_was_finished_without_a_commit_stays_finished() {
    let mut call = established();
    call.state.legs[1].reserved = 1;
    let info = in_dialog(&call, "INFO", 2);
    let step = ask(&mut call, info, flow(0), NOW);
    assert!(step.commit.is_some(), "it opens a block of numbers");
    call.committed();
    let [LegCommand::Send(onward, _)] = told(&step, 1)[..] else { panic!("{step:?}") };
    let answer = LegEvent::Response(onward.response(StatusCode::OK, None));
    let step = call.handle(CallInput::Leg(LegId(1), answer), NOW);
    assert!(step.commit.is_none() && told(&step, 0).len() == 1);
    call.roll_back();
    assert!(call.state().relays.is_empty());
}

/// RFC 5393 §5.3.3: what a call may become is shared out, and who may not be called at once is called later.
#[test]
fn a_call_becomes_no_more_than_it_may() {
    let begun = |breadth: &str, phones: usize| {
        let mut invite = invite();
        if !breadth.is_empty() {
            invite.headers.push_text(Name::MaxBreadth, breadth);
        }
        let new = NewCall { targets: (1..=phones).map(target).collect(), ..new_call(invite) };
        Call::new(new, 1, NOW).map(|(call, step)| {
            let shares = step.then.iter().filter_map(|effect| match effect {
                Effect::Leg(_, LegCommand::Send(invite, _)) => Some(invite.headers.number(&Name::MaxBreadth, "").unwrap()),
                _ => None,
            });
            (shares.collect::<Vec<_>>(), call)
        })
    };
    for (breadth, phones, shares) in [
        ("", 1, vec![None]),
        ("", 3, vec![Some(20); 3]),
        ("10", 1, vec![Some(10)]),
        ("10", 3, vec![Some(3); 3]),
        ("2", 3, vec![Some(1); 2]),
        ("many", 2, vec![Some(30); 2]),
    ] {
        assert_eq!(begun(breadth, phones).unwrap().0, shares, "{breadth} {phones}");
    }
    let refused = begun("0", 1).unwrap_err();
    assert_eq!(refused.response(&invite()).status.code(), 440);
    let (_, mut call) = begun("1", 2).unwrap();
    call.committed();
    let _ = answers(&mut call, 1, 486, "<sip:b@x>");
    assert_eq!(called(&call), [1, 2]);
}

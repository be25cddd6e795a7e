//! One leg, and what its phone and its call say.

use super::*;
use crate::ids::VnodeId;
use crate::sip::headers::Transport;
use crate::sip::parse;

fn request(method: &str, cseq: u32) -> Request {
    let text = format!(
        "{method} sip:x SIP/2.0\r\nVia: SIP/2.0/UDP 10.0.0.1;branch=z9hG4bK{cseq}\r\nFrom: <sip:a@x>;tag=1\r\nTo: <sip:b@x>;tag=2\r\n\
         Call-ID: c\r\nCSeq: {cseq} {method}\r\n\r\n"
    );
    match parse::datagram(&text.into()).unwrap() {
        Message::Request(request) => request,
        Message::Response(_) => unreachable!(),
    }
}

fn flow() -> Flow {
    Flow {
        vnode: VnodeId(1),
        transport: Transport::Udp,
        local: "127.0.0.11:5060".parse().unwrap(),
        remote: "10.0.0.1:5060".parse().unwrap(),
        connection: 0,
    }
}

/// Its ACK was lost with the former owner, say.
#[test]
fn who_hangs_up_is_not_answered_any_more() {
    let (mut leg, mut now) = (Leg::new(Timers::RFC), Timestamp(1_000_000));
    for (method, cseq) in [("INVITE", 1), ("BYE", 2)] {
        let request = request(method, cseq);
        let answer = LegCommand::Respond(TxKey::of(&request), request.response(StatusCode::OK, None));
        leg.handle(LegInput::Request(request, flow()), now, &mut Vec::new());
        leg.handle(LegInput::Command(answer), now, &mut Vec::new());
    }
    let mut out = Vec::new();
    while let Some(due) = leg.deadline() {
        now = due;
        leg.handle(LegInput::Timeout, now, &mut out);
    }
    assert_eq!(out, []);
}

fn invited(leg: &mut Leg, now: Timestamp) -> Request {
    let invite = request("INVITE", 1);
    leg.handle(LegInput::Command(LegCommand::Send(invite.clone(), flow())), now, &mut Vec::new());
    invite
}

/// RFC 3261 §9.1: a phone that rings, is cancelled, and has vanished.
#[test]
fn an_invite_that_is_cancelled_and_never_answered_is_over() {
    let (mut leg, mut now, mut out) = (Leg::new(Timers::RFC), Timestamp(1_000_000), Vec::new());
    let invite = invited(&mut leg, now);
    leg.handle(LegInput::Response(invite.response(StatusCode::RINGING, Some("2"))), now, &mut out);
    assert_eq!(leg.deadline(), None, "it may ring for as long as it likes");
    leg.handle(LegInput::Command(LegCommand::Cancel), now, &mut out);
    out.clear();
    while let Some(due) = leg.deadline() {
        now = due;
        leg.handle(LegInput::Timeout, now, &mut out);
    }
    let given_up = LegOutput::Event(LegEvent::NoResponse(invite));
    assert_eq!(out.iter().filter(|output| **output == given_up).count(), 1);
    assert!(leg.is_at_rest());
}

/// RFC 3261 §13.2.2.4, and a phone that makes up dialogs as it goes.
#[test]
fn the_acks_that_are_remembered_are_few() {
    let (mut leg, now) = (Leg::new(Timers::RFC), Timestamp(1_000_000));
    for number in [1, u32::MAX] {
        for tag in 0..100 {
            let mut ack = request("ACK", number);
            ack.headers.set(Name::To, format!("<sip:b@x>;tag={}", tag % 50));
            leg.handle(LegInput::Command(LegCommand::Send(ack, flow())), now, &mut Vec::new());
            assert!(leg.acks.len() <= MAX_ACKS);
        }
    }
}

/// A phone that sends digits for ever can still hang up, and what is answered is forgotten in its time.
#[test]
fn many_requests_one_after_the_other_are_all_taken() {
    let flow = flow();
    let mut leg = Leg::new(Timers::RFC);
    let mut now = Timestamp(1_000_000);
    let taken = |leg: &mut Leg, request: Request, now| {
        let mut out = Vec::new();
        leg.handle(LegInput::Request(request.clone(), flow), now, &mut out);
        let taken = matches!(&out[..], [LegOutput::Event(LegEvent::Request(..))]);
        let answer = LegCommand::Respond(TxKey::of(&request), request.response(StatusCode::OK, None));
        leg.handle(LegInput::Command(answer), now, &mut out);
        taken
    };
    for cseq in 1..200 {
        assert!(taken(&mut leg, request("INFO", cseq), now), "INFO {cseq}");
    }
    assert!(leg.requests_in.len() <= MAX_LINGERING);
    assert!(taken(&mut leg, request("BYE", 200), now));
    now = now + Timers::RFC.give_up();
    leg.handle(LegInput::Timeout, now, &mut Vec::new());
    assert_eq!((leg.requests_in.len(), leg.deadline()), (0, None));
    // Requests that nobody answers are a phone gone wild: refused, save for its BYE.
    let mut out = Vec::new();
    for cseq in 300..330 {
        leg.handle(LegInput::Request(request("INFO", cseq), flow), now, &mut out);
    }
    let refused = out.iter().filter(|output| matches!(output, LegOutput::Send(..))).count();
    assert_eq!(refused, 30 - MAX_TRANSACTIONS);
    assert!(taken(&mut leg, request("BYE", 400), now));
}

fn by_connection(connection: u32) -> Flow {
    Flow { transport: Transport::Tcp, connection, ..flow() }
}

fn told(leg: &mut Leg, command: LegCommand) -> Vec<LegOutput> {
    let mut out = Vec::new();
    leg.handle(LegInput::Command(command), Timestamp(1_000_000), &mut out);
    out
}

fn methods(out: &[LegOutput]) -> Vec<(String, u32)> {
    let sent = out.iter().filter_map(|output| match output {
        LegOutput::Send(Message::Request(request), flow) => Some((request.method.as_str().to_owned(), flow.connection)),
        LegOutput::Send(Message::Response(_), _) | LegOutput::Event(_) => None,
    });
    sent.collect()
}

/// What a phone said on a connection to a former owner is lost, and it says nothing twice unless it is asked twice.
#[test]
fn a_connection_is_asked_again_by_the_next_owner() {
    let mut leg = Leg::new(Timers::RFC);
    let adopted = told(&mut leg, LegCommand::Adopt(request("INVITE", 1), by_connection(1)));
    assert_eq!(methods(&adopted), [("INVITE".to_owned(), 1)]);
    assert_eq!(methods(&told(&mut Leg::new(Timers::RFC), LegCommand::Adopt(request("INVITE", 1), flow()))), []);
    // The phone may have heard the CANCEL, and have forgotten all of it with its connection.
    let response = request("INVITE", 1).response(StatusCode::RINGING, None);
    leg.handle(LegInput::Response(response), Timestamp(1_000_000), &mut Vec::new());
    assert_eq!(methods(&told(&mut leg, LegCommand::Cancel)), [("CANCEL".to_owned(), 1)]);
    let done = request("CANCEL", 1).response(StatusCode::OK, None);
    leg.handle(LegInput::Response(done), Timestamp(1_000_000), &mut Vec::new());
    let moved = told(&mut leg, LegCommand::Rebind(by_connection(2)));
    assert_eq!(methods(&moved), [("INVITE".to_owned(), 2), ("CANCEL".to_owned(), 2)]);
}

#[test]
fn an_invite_without_a_way_fails_unless_the_phone_has_said_something() {
    for rings in [false, true] {
        let mut leg = Leg::new(Timers::RFC);
        told(&mut leg, LegCommand::Send(request("INVITE", 1), by_connection(1)));
        if rings {
            let ringing = request("INVITE", 1).response(StatusCode::RINGING, None);
            leg.handle(LegInput::Response(ringing), Timestamp(1_000_000), &mut Vec::new());
        }
        let out = told(&mut leg, LegCommand::FlowFailed);
        let failed = |output: &LegOutput| match output {
            LegOutput::Event(LegEvent::Response(response)) => response.status == StatusCode::FLOW_FAILED,
            LegOutput::Event(_) | LegOutput::Send(..) => false,
        };
        assert_eq!(out.iter().any(failed), !rings);
    }
}

/// RFC 3262 §3: repeated with a gap that doubles, until its PRACK is answered, a final answer comes, or nobody hears it.
#[test]
fn a_reliable_provisional_answer_is_repeated_until_it_is_acknowledged() {
    let start = Timestamp(1_000_000);
    let rung = || {
        let (mut leg, invite) = (Leg::new(Timers::RFC), request("INVITE", 1));
        leg.handle(LegInput::Request(invite.clone(), flow()), start, &mut Vec::new());
        let ringing = invite.response(StatusCode::RINGING, Some("2")).with(Name::RSeq, "7");
        let ring = LegCommand::Respond(TxKey::of(&invite), ringing);
        leg.handle(LegInput::Command(ring), start, &mut Vec::new());
        (leg, invite)
    };
    let (mut leg, _) = rung();
    let (mut out, mut times) = (Vec::new(), Vec::new());
    while let Some(due) = leg.deadline() {
        leg.handle(LegInput::Timeout, due, &mut out);
        times.push(due.since(start).as_millis());
    }
    assert_eq!(times, [500, 1500, 3500, 7500, 15_500, 31_500, 32_000]);
    assert_eq!(out.pop(), Some(LegOutput::Event(LegEvent::NoPrack)));
    assert_eq!(out.len(), 6);
    let (mut leg, _) = rung();
    let mut prack = request("PRACK", 2);
    prack.headers.push_text(Name::RAck, "7 1 INVITE");
    leg.handle(LegInput::Request(prack.clone(), flow()), start, &mut Vec::new());
    let answer = |status| LegCommand::Respond(TxKey::of(&prack), prack.response(status, None));
    let mut refused = rung().0;
    refused.handle(LegInput::Request(prack.clone(), flow()), start, &mut Vec::new());
    refused.handle(LegInput::Command(answer(StatusCode::CALL_DOES_NOT_EXIST)), start, &mut Vec::new());
    assert_eq!(refused.answers.len(), 1);
    leg.handle(LegInput::Command(answer(StatusCode::OK)), start, &mut Vec::new());
    assert!(leg.answers.is_empty());
    // The PRACK of an earlier one says nothing of this one.
    let (mut leg, _) = rung();
    prack.headers.set(Name::RAck, "6 1 INVITE");
    leg.handle(LegInput::Request(prack.clone(), flow()), start, &mut Vec::new());
    let earlier = LegCommand::Respond(TxKey::of(&prack), prack.response(StatusCode::OK, None));
    leg.handle(LegInput::Command(earlier), start, &mut Vec::new());
    assert_eq!(leg.answers.len(), 1);
    let (mut leg, invite) = rung();
    let busy = LegCommand::Respond(TxKey::of(&invite), invite.response(StatusCode::BUSY_HERE, Some("2")));
    leg.handle(LegInput::Command(busy), start, &mut Vec::new());
    assert!(leg.answers.is_empty());
}

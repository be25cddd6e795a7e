//! Transfers (RFC 3515, RFC 3891): by phones, and by us for a phone that can't, which says 405 to a REFER.

use std::time::Duration;

use tokio::net::UdpSocket;

use super::tests::{DOMAIN, World, heard_more, until};
use crate::cli::demo::phone::Phone;
use crate::cli::demo::talk::Talk;
use crate::sip::message::Request;
use crate::sip::{Method, Name, StatusCode};

/// A phone is told of a transfer, and hung up on when it has come about; gives what it was told.
async fn goes(phone: &mut Phone) -> Vec<Request> {
    let mut told = Vec::new();
    loop {
        let notify = phone.take(&Method::Notify, StatusCode::OK).await.unwrap();
        assert!(notify.headers.text(&Name::Event).unwrap().starts_with("refer;id="));
        let last = notify.headers.text(&Name::SubscriptionState).unwrap().starts_with("terminated");
        told.push(notify);
        if last {
            return told;
        }
    }
}

fn said(told: &[Request]) -> Vec<String> {
    told.iter().map(|notify| String::from_utf8(notify.body.to_vec()).unwrap().split(' ').nth(1).unwrap().to_owned()).collect()
}

/// One of two phones that talk refers the other; `by_caller` tells which.
async fn transferred(n: u8, by_caller: bool) {
    let world = World::start(n).await;
    let ([a, b], [a_talk, b_talk]) = world.call().await;
    let (mut stays, mut goes_away, talk, gone) = if by_caller { (b, a, b_talk, a_talk) } else { (a, b, a_talk, b_talk) };
    let (mut c, c_media) = world.phone("1003", "secret").await;
    c.register().await.unwrap();
    let refer = format!("Refer-To: <sip:1003@{DOMAIN}>\r\n");
    let (accepted, asked) = tokio::join!(
        goes_away.ask_within_with(Method::Refer, &refer, ""),
        stays.take(&Method::Refer, StatusCode::METHOD_NOT_ALLOWED)
    );
    asked.unwrap();
    assert_eq!(accepted.unwrap().status, StatusCode::ACCEPTED);
    let answers = async {
        let ringing = c.ring(Duration::from_millis(200)).await.unwrap();
        let answered = c.pick_up(&ringing).await.unwrap();
        (ringing, answered)
    };
    let goes_away = async {
        let told = goes(&mut goes_away).await;
        goes_away.wait_for_bye().await.unwrap();
        told
    };
    let ((ringing, c_to), follows, told) = tokio::join!(answers, stays.follow(), goes_away);
    let invite = ringing.invite();
    let users = if by_caller { ["1002", "1001"] } else { ["1001", "1002"] };
    let text = |name: Name| invite.headers.text(&name).unwrap().to_string();
    assert!(text(Name::From).starts_with(&format!("<sip:{}@{DOMAIN}>", users[0])), "who talks from then on");
    assert_eq!(text(Name::To), format!("<sip:1003@{DOMAIN}>"));
    assert_eq!(text(Name::ReferredBy), format!("<sip:{}@{DOMAIN}>", users[1]));
    assert_eq!(said(&told).last().map(String::as_str), Some("200"));
    drop(gone);
    talk.turn_to(follows.unwrap());
    let talks = [talk, Talk::start(c_media, c_to)];
    heard_more(&talks).await;
    let (hung_up, ended) = tokio::join!(c.hang_up(), stays.wait_for_bye());
    hung_up.and(ended).unwrap();
    until(|| world.cdrs() == 1 && world.ports_in_use() == 0).await;
}

/// B asks C, by another of its phones, before it transfers A there.
struct Asked {
    b_too: Phone,
    c: Phone,
    media: [UdpSocket; 2],
    /// Whom A is to call, and what it says then; as in a header, and as in a URI.
    target: String,
    replaces: String,
    escaped: String,
    /// The same call as C is told of it.
    theirs: String,
}

impl Asked {
    async fn c(world: &World) -> Self {
        let (mut b_too, b_media) = world.phone("1002", "secret").await;
        b_too.set_number(2);
        let (mut c, c_media) = world.phone("1003", "secret").await;
        c.register().await.unwrap();
        let (called, answered) = tokio::join!(b_too.call("1003"), c.answer());
        called.and(answered).unwrap();
        let (target, replaces) = b_too.place().unwrap();
        let escaped = replaces.replace(';', "%3B").replace('=', "%3D");
        // Who asks names its own tag last, who is asked has it first.
        let own = c.place().unwrap().1;
        let [call_id, to_tag, from_tag] = &own.split(';').collect::<Vec<_>>()[..] else { panic!("{own}") };
        let swapped = |tag: &str| tag.split('=').nth(1).unwrap().to_owned();
        let theirs = format!("{call_id};to-tag={};from-tag={}", swapped(from_tag), swapped(to_tag));
        Self { b_too, c, media: [b_media, c_media], target, replaces, escaped, theirs }
    }
}

/// RFC 5359 §2.5: B talks to A, asks C (by another of its phones), and sends A there: C's phone is told which of its calls A's is instead of.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_is_transferred_after_a_talk() {
    let world = World::start(12).await;
    let ([mut a, mut b], _talks) = world.call().await;
    let Asked { mut b_too, mut c, media, target, replaces, escaped, theirs } = Asked::c(&world).await;
    let refer = format!("Refer-To: <{target}?Replaces={escaped}>\r\nReferred-By: <sip:1002@{DOMAIN}>\r\n");
    let (accepted, referred) =
        tokio::join!(b.ask_within_with(Method::Refer, &refer, ""), a.take(&Method::Refer, StatusCode::ACCEPTED));
    assert_eq!(accepted.unwrap().status, StatusCode::ACCEPTED);
    let referred = referred.unwrap().headers;
    assert_eq!(referred.text(&Name::ReferTo).as_deref(), Some(&*format!("<{target}?Replaces={escaped}>")));
    assert_eq!(referred.text(&Name::ReferredBy).as_deref(), Some("<sip:1002@tandem.test>"));
    let number = referred.cseq().unwrap().number;

    let (mut a_too, a_media) = world.phone("1001", "secret").await;
    let ringing = async {
        let ringing = c.ring(Duration::ZERO).await.unwrap();
        // The call that is replaced ends.
        c.hang_up().await.unwrap();
        c.pick_up(&ringing).await.unwrap();
        ringing
    };
    let more = format!("Replaces: {replaces}\r\nRequire: replaces\r\nReferred-By: <sip:1002@{DOMAIN}>\r\n");
    let sdp = a_too.sdp();
    let (called, ringing, ended) = tokio::join!(a_too.try_call(&target, &more, &sdp), ringing, b_too.wait_for_bye());
    ended.unwrap();
    let called = called.unwrap();
    assert_eq!(called.status, StatusCode::OK);
    let invite = &ringing.invite().headers;
    assert_eq!(invite.text(&Name::Replaces).as_deref(), Some(&*theirs));
    assert_eq!(invite.text(&Name::Require).as_deref(), Some("replaces"));
    // Nobody has proved it.
    assert_eq!(invite.text(&Name::ReferredBy), None);

    // As linphone 5.1 says it, which pjsip would not read.
    let notify = format!("Event: refer;id={number}\r\nSubscription-State: terminated;reason=reason=noresource\r\n");
    let (told, told_of) =
        tokio::join!(a.ask_within_with(Method::Notify, &notify, "SIP/2.0 200 OK\r\n"), b.take(&Method::Notify, StatusCode::OK));
    assert_eq!(told.unwrap().status, StatusCode::OK);
    let told_of = told_of.unwrap();
    assert_eq!(told_of.headers.text(&Name::SubscriptionState).as_deref(), Some("terminated;reason=noresource"));
    assert_eq!(&told_of.body[..], b"SIP/2.0 200 OK\r\n");
    let (hung_up, ended) = tokio::join!(b.hang_up(), a.wait_for_bye());
    hung_up.and(ended).unwrap();
    drop((a_media, media));
    let (hung_up, ended) = tokio::join!(a_too.hang_up(), c.wait_for_bye());
    hung_up.and(ended).unwrap();
    until(|| world.cdrs() == 3).await;
    // The dialog is no more.
    let gone = a_too.try_call(&target, &more, &sdp).await.unwrap();
    assert!([StatusCode::CALL_DOES_NOT_EXIST, StatusCode::DECLINE].contains(&gone.status), "{}", gone.status);
    assert_eq!(a_too.try_call("1003", "Replaces: nonsense\r\n", &sdp).await.unwrap().status, StatusCode::BAD_REQUEST);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_callee_transfers_a_caller_who_cannot() {
    transferred(25, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_transfers_a_callee_who_cannot() {
    transferred(26, true).await;
}

/// C's phone is told which of its calls this one is instead of, and those who talked talk on when it won't.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_is_transferred_after_a_talk_for_a_phone_that_cannot() {
    let world = World::start(27).await;
    let ([mut a, mut b], talks) = world.call().await;
    let Asked { mut b_too, mut c, media, target, escaped, theirs, .. } = Asked::c(&world).await;
    let refer = format!("Refer-To: <{target}?Replaces={escaped}>\r\n");

    for takes in [false, true] {
        let (accepted, asked) =
            tokio::join!(b.ask_within_with(Method::Refer, &refer, ""), a.take(&Method::Refer, StatusCode::METHOD_NOT_ALLOWED));
        asked.unwrap();
        assert_eq!(accepted.unwrap().status, StatusCode::ACCEPTED);
        if !takes {
            let (refused, told) = tokio::join!(c.refuse(StatusCode::BUSY_HERE), goes(&mut b));
            refused.unwrap();
            assert_eq!(said(&told).last().map(String::as_str), Some("486"));
            heard_more(&talks).await;
            continue;
        }
        let answers = async {
            let ringing = c.ring(Duration::ZERO).await.unwrap();
            c.hang_up().await.unwrap();
            let answered = c.pick_up(&ringing).await.unwrap();
            (ringing, answered)
        };
        let goes_away = async {
            goes(&mut b).await;
            b.wait_for_bye().await.unwrap();
        };
        let ((ringing, _), follows, (), ended) = tokio::join!(answers, a.follow(), goes_away, b_too.wait_for_bye());
        ended.unwrap();
        follows.unwrap();
        assert_eq!(ringing.invite().headers.text(&Name::Replaces).as_deref(), Some(&*theirs));
    }
    drop((talks, media));
    let (hung_up, ended) = tokio::join!(a.hang_up(), c.wait_for_bye());
    hung_up.and(ended).unwrap();
    until(|| world.cdrs() == 2 && world.ports_in_use() == 0).await;
}

/// Who is meant isn't there, or isn't ours to call.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_to_nobody_leaves_all_as_it_was() {
    let world = World::start(28).await;
    let ([mut a, mut b], talks) = world.call().await;
    for (to, status, told) in [
        ("<sip:1003@tandem.test>", StatusCode::ACCEPTED, "480"),
        ("<sip:x@elsewhere.example>", StatusCode::ACCEPTED, "480"),
        ("<sip:1003@tandem.test?Replaces=a%3Bto-tag%3Db%3Bfrom-tag%3Dc>", StatusCode::ACCEPTED, "480"),
        ("<sip:1003@tandem.test;method=BYE>", StatusCode::BAD_REQUEST, ""),
        ("<mailto:1003@tandem.test>", StatusCode::UNSUPPORTED_URI_SCHEME, ""),
    ] {
        let refer = format!("Refer-To: {to}\r\n");
        let (accepted, asked) =
            tokio::join!(b.ask_within_with(Method::Refer, &refer, ""), a.take(&Method::Refer, StatusCode::METHOD_NOT_ALLOWED));
        asked.unwrap();
        assert_eq!(accepted.unwrap().status, status, "{to}");
        if status == StatusCode::ACCEPTED {
            assert_eq!(said(&goes(&mut b).await).last().map(String::as_str), Some(told), "{to}");
        }
    }
    heard_more(&talks).await;
    let (hung_up, ended) = tokio::join!(a.hang_up(), b.wait_for_bye());
    hung_up.and(ended).unwrap();
    until(|| world.cdrs() == 1).await;
}

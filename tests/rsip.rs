//! rsip as an oracle: what it reads of a sane message, we read the same way.

#![allow(clippy::unwrap_used, missing_docs, reason = "a test")]

use bytes::Bytes;
use proptest::prelude::*;
use rsip::prelude::*;
use tandem::sip::{Message, Name, parse};

fn ours(text: &str) -> tandem::sip::Request {
    match parse::datagram(&Bytes::copy_from_slice(text.as_bytes())) {
        Ok(Message::Request(request)) => request,
        other => panic!("{other:?}\n{text}"),
    }
}

/// Compares everything that both know.
fn compare(text: &str) {
    let our = ours(text);
    let Ok(their) = rsip::Request::try_from(text) else { panic!("rsip doesn't read\n{text}") };
    assert_eq!(our.method.as_str(), their.method().to_string());
    assert_eq!(&*our.uri, their.uri().to_string());
    assert_eq!(our.body, their.body());
    assert_eq!(&*our.headers.text(&Name::CallId).unwrap(), their.call_id_header().unwrap().value());
    let cseq = their.cseq_header().unwrap().typed().unwrap();
    assert_eq!(our.headers.cseq().unwrap().number, cseq.seq);
    let (from, to) = (their.from_header().unwrap().typed().unwrap(), their.to_header().unwrap().typed().unwrap());
    assert_eq!(our.headers.from().unwrap().uri.to_string(), from.uri.to_string());
    assert_eq!(our.headers.from().unwrap().tag(), from.tag().map(|tag| tag.value()));
    assert_eq!(our.headers.to().unwrap().uri.to_string(), to.uri.to_string());
    let via = their.via_header().unwrap().typed().unwrap();
    assert_eq!(our.headers.top_via().unwrap().branch(), via.branch().map(|branch| branch.value()));
    assert_eq!(our.headers.top_via().unwrap().port, via.uri.host_with_port.port.map(|port| *port.value()));
    assert_eq!(our.headers.max_forwards().unwrap(), their.max_forwards_header().unwrap().num().unwrap());
}

#[test]
fn the_benchmarks_invite_is_read_alike() {
    compare(include_str!("../benches/invite.sip"));
}

proptest! {
    #[test]
    fn sane_requests_are_read_alike(
        method in prop::sample::select(vec!["INVITE", "BYE", "REGISTER", "OPTIONS"]),
        user in "[a-z0-9]{1,12}",
        host in "[a-z]{1,8}(\\.[a-z]{2,5}){1,3}",
        port in 1024_u16..65_000,
        branch in "z9hG4bK[A-Za-z0-9]{1,20}",
        tag in "[a-f0-9]{4,16}",
        call_id in "[A-Za-z0-9]{4,30}",
        number in 1_u32..2_000_000,
        hops in 0_u32..71,
        body in "[ -~]{0,60}",
    ) {
        compare(&format!(
            "{method} sip:{user}@{host}:{port} SIP/2.0\r\nVia: SIP/2.0/UDP {host}:{port};branch={branch}\r\nMax-Forwards: {hops}\r\n\
             From: <sip:{user}@{host}>;tag={tag}\r\nTo: <sip:other@{host}>\r\nCall-ID: {call_id}\r\nCSeq: {number} {method}\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        ));
    }
}

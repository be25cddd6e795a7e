//! The torture tests of RFC 4475 and RFC 5118: each message gets what its RFC asks for, as a datagram and on a stream.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, clippy::disallowed_methods, missing_docs, reason = "a test")]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use tandem::clock::Timestamp;
use tandem::ids::{Aor, VnodeId};
use tandem::sip::dialog::Flow;
use tandem::sip::endpoint::{self, Arrival};
use tandem::sip::framing::{Frame, Framer};
use tandem::sip::gruu::Gruus;
use tandem::sip::headers::Transport;
use tandem::sip::registrar::{Policy, Registrar};
use tandem::sip::{Name, Request};

/// What becomes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It begins a call.
    Invite,
    /// It goes to the registrar.
    Register,
    /// It is answered 200 without a dialog.
    Options,
    /// It goes to its user's phones.
    Message,
    /// It is answered with this status.
    Answer(u16),
    /// It is not answered.
    Drop,
}

use Fate::{Answer, Drop, Invite, Message, Options, Register};

/// By their sections.
const RFC4475: [(&str, &str, Fate); 49] = [
    ("3.1.1.1", "wsinv", Answer(481)),
    ("3.1.1.2", "intmeth", Answer(501)),
    ("3.1.1.3", "esc01", Invite),
    ("3.1.1.4", "escnull", Register),
    ("3.1.1.5", "esc02", Answer(501)),
    ("3.1.1.6", "lwsdisp", Options),
    ("3.1.1.7", "longreq", Invite),
    ("3.1.1.8", "dblreq", Register),
    ("3.1.1.9", "semiuri", Options),
    ("3.1.1.10", "transports", Options),
    ("3.1.1.11", "mpart01", Message),
    ("3.1.1.12", "unreason", Drop),
    ("3.1.1.13", "noreason", Drop),
    ("3.1.2.1", "badinv01", Answer(400)),
    ("3.1.2.2", "clerr", Answer(400)),
    ("3.1.2.3", "ncl", Answer(400)),
    ("3.1.2.4", "scalar02", Answer(400)),
    ("3.1.2.5", "scalarlg", Drop),
    ("3.1.2.6", "quotbal", Answer(400)),
    ("3.1.2.7", "ltgtruri", Answer(400)),
    ("3.1.2.8", "lwsruri", Answer(400)),
    ("3.1.2.9", "lwsstart", Invite),
    ("3.1.2.10", "trws", Options),
    // What it wants to be put into a header is not looked at.
    ("3.1.2.11", "escruri", Invite),
    ("3.1.2.12", "baddate", Invite),
    // Its contact is looked at when the user is known: below.
    ("3.1.2.13", "regbadct", Register),
    ("3.1.2.14", "badaspec", Answer(400)),
    // Nothing else could be meant.
    ("3.1.2.15", "baddn", Answer(400)),
    ("3.1.2.16", "badvers", Answer(505)),
    ("3.1.2.17", "mismatch01", Answer(400)),
    ("3.1.2.18", "mismatch02", Answer(400)),
    ("3.1.2.19", "bigcode", Drop),
    ("3.2.1", "badbranch", Options),
    ("3.3.1", "insuf", Answer(400)),
    ("3.3.2", "unkscm", Answer(416)),
    ("3.3.3", "novelsc", Answer(416)),
    ("3.3.4", "unksm2", Answer(400)),
    ("3.3.5", "bext01", Answer(420)),
    // Its body's type is looked at when the caller is known: node/tests.rs.
    ("3.3.6", "invut", Invite),
    ("3.3.7", "regaut01", Register),
    ("3.3.8", "multi01", Answer(400)),
    ("3.3.9", "mcl01", Answer(400)),
    ("3.3.10", "bcast", Drop),
    ("3.3.11", "zeromf", Options),
    ("3.3.12", "cparam01", Register),
    ("3.3.13", "cparam02", Register),
    ("3.3.14", "regescrt", Register),
    ("3.3.15", "sdp01", Answer(406)),
    // Without a From tag: what is older than RFC 3261 isn't taken.
    ("3.4.1", "inv2543", Answer(400)),
];

const RFC5118: [(&str, &str, Fate); 12] = [
    ("4.1", "ipv6-good", Register),
    ("4.2", "ipv6-bad", Answer(400)),
    ("4.3", "port-ambiguous", Register),
    ("4.4", "port-unambiguous", Register),
    ("4.5", "via-received-param-with-delim", Answer(481)),
    ("4.5", "via-received-param-no-delim", Options),
    ("4.6", "ipv6-in-sdp", Invite),
    ("4.7", "mult-ip-in-header", Answer(481)),
    ("4.8", "mult-ip-in-sdp", Invite),
    ("4.9", "ipv4-mapped-ipv6", Invite),
    ("4.10", "ipv6-bug-abnf-3-colons", Options),
    ("4.10", "ipv6-correct-abnf-2-colons", Options),
];

fn read(rfc: &str, name: &str) -> Bytes {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/torture").join(rfc);
    let file = if rfc == "rfc4475" { dir.join(format!("{name}.dat")) } else { dir.join(name) };
    let mut bytes = std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    if rfc == "rfc5118" {
        // The archive has lost the CR of each line.
        let text = String::from_utf8(bytes).unwrap().replace('\n', "\r\n");
        // One says more bytes than its body has.
        bytes = text.replace("Content-Length: 268", "Content-Length: 251").into_bytes();
    }
    // And some the empty line at the end, which the text of the RFCs has.
    let ends = bytes.windows(4).any(|end| end == b"\r\n\r\n");
    bytes.extend(if ends { &b""[..] } else { b"\r\n" });
    bytes.into()
}

fn arrive(bytes: &Bytes) -> Arrival {
    endpoint::datagram(bytes, "192.0.2.7:5060".parse().unwrap())
}

fn fate(arrival: &Arrival) -> Fate {
    match arrival {
        Arrival::Invite(_) => Invite,
        Arrival::Register(_) => Register,
        Arrival::Options(_) => Options,
        Arrival::Answer(response, _) => Answer(response.status.code()),
        Arrival::Drop(_) => Drop,
        Arrival::Message(_) => Message,
        Arrival::Leg(..) | Arrival::Cancel(_) | Arrival::Event(_) => panic!("none of them is of these"),
    }
}

#[test]
fn each_message_gets_what_its_rfc_asks_for() {
    let all = RFC4475.map(|(section, name, fate)| ("rfc4475", section, name, fate)).into_iter();
    let all = all.chain(RFC5118.map(|(section, name, fate)| ("rfc5118", section, name, fate)));
    let mut wrong = BTreeMap::new();
    for (rfc, section, name, expected) in all {
        let arrival = arrive(&read(rfc, name));
        if fate(&arrival) != expected {
            wrong.insert((rfc, section, name), format!("{expected:?}, not {arrival:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_message_of_the_rfcs_is_in_a_table() {
    for (rfc, count) in [("rfc4475", RFC4475.len()), ("rfc5118", RFC5118.len())] {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/torture").join(rfc);
        assert_eq!(std::fs::read_dir(dir).unwrap().count(), count);
    }
}

/// RFC 4475 §3.1.2.2, §3.1.2.3, §3.3.9: a stream whose length can't be known is closed; one whose message isn't whole waits.
#[test]
fn on_a_stream_the_length_decides() {
    let frames = |name: &str| {
        let mut framer = Framer::default();
        framer.push(&read("rfc4475", name));
        let mut frames = Vec::new();
        loop {
            match framer.next_frame() {
                Ok(Some(Frame::Message(bytes))) => frames.push(fate(&arrive(&bytes))),
                Ok(Some(Frame::Ping | Frame::Pong)) => {}
                Ok(None) => return Ok((frames, framer.is_midway())),
                Err(error) => return Err((frames, error.defect)),
            }
        }
    };
    // What was noise in a datagram is a message here; after it there is a byte more than its length says.
    let (Ok((both, _)) | Err((both, _))) = frames("dblreq").map_err(|(frames, _)| (frames, false));
    assert_eq!(both, [Register, Invite]);
    assert_eq!(frames("clerr").unwrap(), (vec![], true));
    for name in ["ncl", "mcl01", "inv2543"] {
        assert!(frames(name).unwrap_err().0.is_empty(), "{name}");
    }
}

fn request(name: &str) -> Request {
    match arrive(&read("rfc4475", name)) {
        Arrival::Register(request) => request,
        other => panic!("{other:?}"),
    }
}

fn contacts(name: &str) -> Result<Vec<String>, u16> {
    let flow = Flow {
        vnode: VnodeId(1),
        transport: Transport::Udp,
        local: "192.0.2.1:5060".parse().unwrap(),
        remote: "192.0.2.7:5060".parse().unwrap(),
        connection: 0,
    };
    let hour = Duration::from_secs(3600);
    let policy = Policy { min: Duration::from_secs(60), max: hour, default: hour, contacts: 10 };
    let request = request(name);
    let aor = Aor::new("somebody", "example.com");
    let registrar = Registrar { aor: &aor, gruus: &Gruus::new(b"secret"), policy, service_route: &[] };
    let step = registrar.register(&[], &request, flow, Timestamp(1)).map_err(|error| error.response(&request).status.code())?;
    Ok(step.then[0].headers.list(&Name::Contact).map(|contact| contact.to_string()).collect())
}

/// RFC 4475 §3.1.1.4, §3.1.2.13, §3.3.12 to §3.3.14.
#[test]
fn contacts_are_bound_as_they_are_written() {
    let of = |name| contacts(name).unwrap().join(", ");
    assert_eq!(contacts("regbadct"), Err(400));
    assert_eq!(of("escnull"), "<sip:%00@host5.example.com>;expires=3600, <sip:%00%00@host5.example.com>;expires=3600");
    assert_eq!(of("cparam01"), "<sip:+19725552222@gw1.example.net>;expires=3600");
    assert_eq!(of("cparam02"), "<sip:+19725552222@gw1.example.net;unknownparam>;expires=3600");
    assert_eq!(of("regescrt"), "<sip:user@example.com?Route=%3Csip:sip.example.com%3E>;expires=3600");
}

/// RFC 4475 §3.3.5 and RFC 3261 §8.2.2.3: what isn't understood is named. §3.1.1.2: what is, too.
#[test]
fn refusals_say_what_they_mean() {
    let answer = |name: &str| match arrive(&read("rfc4475", name)) {
        Arrival::Answer(response, _) => response.headers,
        other => panic!("{other:?}"),
    };
    let unsupported = answer("bext01").text(&Name::Unsupported).unwrap();
    assert!(unsupported.contains("nothingSupportsThisEither") && unsupported.contains("norDoAnyProxiesSupportThis"));
    assert!(answer("intmeth").text(&Name::Allow).is_some_and(|allow| allow.contains("INVITE")));
}

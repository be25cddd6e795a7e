//! What browsers and other phones are told of each other, and when what they have agreed on goes on.

use super::*;
use crate::clock::Timestamp;
use crate::media::core::protection::{Policy, Profile, Shield};
use crate::media::core::session::SdpError;
use crate::media::core::srtp::Suite;
use crate::media::core::{LegPlan, Session};

const SECRET: Secret = Secret { bytes: [7; 32], since: Timestamp(5), restored: false };

/// A phone's certificate.
fn theirs(number: u32) -> Identity {
    Identity::of(&Secret { bytes: [9; 32], ..SECRET }, number)
}

/// As Chromium describes itself; what it says of its address is of no use.
fn web(ufrag: &str, setup: &str, more: &str) -> String {
    format!(
        "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0 1\r\na=extmap-allow-mixed\r\na=msid-semantic: WMS x\r\n\
         m=audio 9 UDP/TLS/RTP/SAVPF 111 0 126\r\nc=IN IP4 0.0.0.0\r\na=rtcp:9 IN IP4 0.0.0.0\r\n\
         a=candidate:1 1 udp 2113937151 4f0.local 50000 typ host\r\na=ice-ufrag:{ufrag}\r\na=ice-pwd:0123456789012345678901\r\n\
         a=ice-options:trickle\r\na=fingerprint:{}\r\na=setup:{setup}\r\na=mid:0\r\na=extmap:1 urn:x\r\na=sendrecv\r\na=msid:a b\r\n\
         a=rtcp-mux\r\na=rtcp-rsize\r\na=rtpmap:111 opus/48000/2\r\na=rtcp-fb:111 transport-cc\r\na=rtpmap:126 telephone-event/8000\r\n\
         a=ssrc:1 cname:x\r\n{more}",
        theirs(1).print()
    )
}

fn desk(proto: &str) -> String {
    format!(
        "v=0\r\no=a 1 1 IN IP4 10.0.0.1\r\ns=-\r\nc=IN IP4 10.0.0.1\r\nt=0 0\r\nm=audio 4000 {proto} 0\r\na=rtcp-mux\r\na=sendrecv\r\n"
    )
}

struct Call {
    session: Session,
    next: u16,
}

impl Call {
    fn new(policies: [Policy; 2]) -> Self {
        let session = Session { policies, secret: SECRET, keeps: true, ..Session::new([127, 0, 0, 11].into(), 42) };
        Self { session, next: 10_000 }
    }

    fn take<'a>(next: &'a mut u16) -> impl FnMut(std::net::IpAddr) -> Option<u16> + 'a {
        move |_| {
            *next += 2;
            Some(*next - 2)
        }
    }

    fn offer(&mut self, from: usize, sdp: &str) -> Result<String, SdpError> {
        let told = self.session.describe(from, sdp.as_bytes(), &mut Self::take(&mut self.next))?;
        Ok(String::from_utf8(told).unwrap())
    }

    fn answer(&mut self, from: usize, sdp: &str) -> Result<String, SdpError> {
        let told = self.session.answer(from, sdp.as_bytes(), &mut Self::take(&mut self.next))?;
        Ok(String::from_utf8(told).unwrap())
    }

    /// What a browser is told that is called with this.
    fn toward_web(&mut self, sdp: &str) -> String {
        self.session.certify(1);
        let there = "10.0.0.2".parse().unwrap();
        String::from_utf8(self.session.toward(1, sdp.as_bytes(), there, true).unwrap().to_vec()).unwrap()
    }

    fn plan(&self, leg: usize) -> LegPlan {
        self.session.plan(leg)[0].clone().unwrap()
    }

    fn keyed(&mut self, leg: usize, number: u32) -> bool {
        let key = |byte| MasterKey::new(Suite::AeadAes256Gcm, &[byte; 44]).unwrap();
        let keyed = Keyed { theirs: key(1), ours: key(2), last_flight: vec![Bytes::from_static(b"flight")], is_fresh: true };
        self.session.has_keys(leg, 0, (number, &theirs(1).certificate), &keyed)
    }
}

fn values<'a>(sdp: &'a str, name: &str) -> Vec<&'a str> {
    sdp.lines().filter_map(|line| line.strip_prefix("a=")?.strip_prefix(name)).collect()
}

/// RFC 8839 §4.2, RFC 5763 §5, RFC 5761 §5.1.1: all that Chromium has to be told.
fn is_for_web(sdp: &str, setup: &str, port: u16, number: u32, generation: u32, leg: usize) {
    let credentials = Credentials::of(&SECRET, leg, 0, generation);
    for line in [
        "a=ice-lite".to_owned(),
        "a=rtcp-mux".to_owned(),
        format!("m=audio {port} UDP/TLS/RTP/SAVPF "),
        format!("a=ice-ufrag:{}", credentials.ufrag),
        format!("a=ice-pwd:{}", credentials.password()),
        format!("a=candidate:1 1 udp 2130706431 127.0.0.11 {port} typ host"),
        format!("a=fingerprint:{}", Identity::of(&SECRET, number).print()),
        format!("a=setup:{setup}"),
    ] {
        assert_eq!(sdp.matches(&line).count(), 1, "{line} in\n{sdp}");
    }
    assert!(!sdp.contains("crypto") && !sdp.contains("0.0.0.0"), "{sdp}");
}

fn is_for_desk(sdp: &str, proto: &str) {
    assert!(sdp.contains(&format!(" {proto} ")), "{sdp}");
    for name in ["ice-", "fingerprint", "setup", "candidate", "mid", "group", "msid", "extmap", "ssrc", "rtcp", "end-of"] {
        let found: Vec<_> = values(sdp, name).into_iter().filter(|rest| !rest.starts_with("-fb")).collect();
        assert_eq!(found, Vec::<&str>::new(), "{name} in\n{sdp}");
    }
}

#[test]
fn a_certificate_is_the_same_wherever_the_secret_is_known() {
    let [one, again, two] = [1, 1, 2].map(|number| Identity::of(&SECRET, number));
    assert_eq!((&one.certificate, &one.private_key), (&again.certificate, &again.private_key));
    assert!(one.print() != two.print() && one.print().is_of(&again.certificate) && !one.print().is_of(&two.certificate));
    // As it was in the first release that had it: a node of another one must have the same.
    assert_eq!(one.print().to_string(), FIRST_PRINT);
    assert_eq!(Fingerprint::parse(&one.print().to_string().to_lowercase().replace("sha-256", "SHA-256")), Some(one.print()));
    for bad in ["", "sha-256", "sha-256 AA:BB", "sha-1 00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF:00:11:22:33", "md5 00"] {
        assert_eq!(Fingerprint::parse(bad), None, "{bad}");
    }
}

const FIRST_PRINT: &str =
    "sha-256 DC:B8:00:C1:B6:78:6C:47:2E:52:D5:55:7F:20:37:03:B4:DB:56:B8:D0:A6:4D:2C:DD:C1:60:6A:B4:05:44:B6";

#[test]
fn a_browser_calls_a_phone_and_each_is_told_what_it_knows() {
    for (policies, offered, answered) in [
        ([Policy::Allow, Policy::Allow], "RTP/AVP", "RTP/AVP"),
        ([Policy::Require, Policy::Require], "RTP/SAVP", "RTP/SAVP"),
        ([Policy::Dtls, Policy::Forbid], "RTP/AVP", "RTP/AVP"),
    ] {
        let mut call = Call::new(policies);
        let told = call.offer(0, &web("them", "actpass", "")).unwrap();
        is_for_desk(&told, offered);
        assert_eq!(call.plan(0).shield, Shield::Closed);
        let with_keys =
            format!("{}a=crypto:2 AES_CM_128_HMAC_SHA1_80 inline:WVNfX19zZW1jdGwgKCkgewkyMjA7fQp9CnVubGVz\r\n", desk(answered));
        let answer = if policies[1] == Policy::Forbid { desk(answered) } else { with_keys };
        let answer = call.answer(1, &answer).unwrap();
        is_for_web(&answer, "passive", 10_000, 1, 0, 0);
        assert_eq!((values(&answer, "mid:"), values(&answer, "group:")), (vec!["0"], vec!["BUNDLE 0"]));
        // Nothing passes before there are keys, and where it goes only its checks tell.
        let plan = call.plan(0);
        assert_eq!((&plan.shield, plan.remote, plan.signalled), (&Shield::Closed, [None; 2], [None; 2]));
        assert!(!call.session.is_silent_on_purpose() && call.session.awaits_keys(0) && !call.session.awaits_keys(1));
        let dtls = plan.dtls.unwrap();
        assert!(dtls.association.is_muxed && dtls.association.prints == [theirs(1).print()]);
        assert_eq!(dtls.agent.unwrap().theirs.as_deref(), Some("them"));
        assert!(!call.keyed(0, 2) && call.keyed(0, 1) && !call.keyed(0, 1));
        assert!(matches!(call.plan(0).shield, Shield::Srtp(keys) if keys.ours.bytes()[0] == 2 && keys.theirs.bytes()[0] == 1));
        assert!(!call.session.awaits_keys(0));
    }
}

#[test]
fn a_phone_calls_a_browser_beside_which_another_rings() {
    for answers in ["web", "desk"] {
        let mut call = Call::new([Policy::Allow, Policy::Allow]);
        let told = call.offer(0, &desk("RTP/AVP")).unwrap();
        assert!(told.contains(" RTP/AVP 0") && told.contains("rtcp-mux"), "as it came");
        is_for_web(&call.toward_web(&told), "actpass", 10_002, 1, 0, 1);
        // Its handshake may be here before its answer.
        let early = call.plan(1);
        let dtls = early.dtls.unwrap();
        assert!(
            early.shield == Shield::Plain
                && dtls.agent.is_none()
                && !dtls.association.is_muxed
                && dtls.association.prints.is_empty()
        );
        let answer = if answers == "web" { web("them", "active", "") } else { desk("RTP/AVP") };
        let answer = call.answer(1, &answer).unwrap();
        call.session.is_settled(1);
        if answers == "web" {
            is_for_desk(&answer, "RTP/AVP");
            assert!(call.plan(1).dtls.is_some_and(|dtls| dtls.association.number == 1 && dtls.agent.is_some()));
            assert_eq!(call.plan(1).shield, Shield::Closed);
        } else {
            assert!(call.plan(1).dtls.is_none() && call.plan(1).shield == Shield::Plain);
        }
    }
}

#[test]
fn who_is_to_agree_on_keys_so_does_nothing_else() {
    let mut call = Call::new([Policy::Allow, Policy::Dtls]);
    let told = call.offer(0, &desk("RTP/AVP")).unwrap();
    call.toward_web(&told);
    for refused in [desk("RTP/AVP"), web("them", "passive", ""), web("them", "active", "").replace("fingerprint", "x")] {
        let before = call.session.clone();
        assert!(call.answer(1, &refused).is_err(), "{refused}");
        assert_eq!(call.session, before);
    }
    // Softphones have neither ICE nor RTCP beside RTP, and say their fingerprint of all streams.
    let print = theirs(1).print();
    let softphone = desk("UDP/TLS/RTP/SAVP")
        .replace("a=rtcp-mux\r\n", "")
        .replace("m=audio", &format!("a=fingerprint:{print}\r\na=setup:active\r\nm=audio"));
    call.answer(1, &softphone).unwrap();
    let plan = call.plan(1);
    assert_eq!(plan.remote[0], "10.0.0.1:4000".parse().ok());
    assert!(plan.dtls.is_some_and(|dtls| dtls.agent.is_none() && !dtls.association.is_muxed));
    // It is told in its own words from then on.
    let held = call.offer(0, &desk("RTP/AVP").replace("sendrecv", "sendonly")).unwrap();
    assert!(held.contains("UDP/TLS/RTP/SAVP ") && !held.contains("ice-") && held.contains("a=setup:actpass"), "{held}");
    assert!(call.answer(1, &desk("RTP/AVP")).is_err(), "it must not do without");
}

/// Hold, and back: the same credentials, the same certificate, the same keys.
#[test]
fn what_was_agreed_goes_on_through_later_offers() {
    let mut call = Call::new([Policy::Allow, Policy::Allow]);
    call.offer(0, &web("them", "actpass", "")).unwrap();
    call.answer(1, &desk("RTP/AVP")).unwrap();
    assert!(call.keyed(0, 1));
    let had = call.plan(0);
    let told =
        call.session.offer(0, web("them", "actpass", "").replace("sendrecv", "sendonly").as_bytes(), &mut |_| None).unwrap();
    is_for_desk(std::str::from_utf8(&told).unwrap(), "RTP/AVP");
    assert_eq!(call.plan(0), had);
    let answer = call.answer(1, &desk("RTP/AVP").replace("sendrecv", "recvonly")).unwrap();
    is_for_web(&answer, "passive", 10_000, 1, 0, 0);
    call.session.accepted();
    assert_eq!(call.plan(0), had);
    let told = call.offer(1, &desk("RTP/AVP")).unwrap();
    is_for_web(&told, "actpass", 10_000, 1, 0, 0);
    assert_eq!(values(&told, "mid:"), ["0"]);
    call.answer(0, &web("them", "active", "")).unwrap();
    assert_eq!(call.plan(0), had);
    // The browser restarts ICE: other credentials, the same keys (RFC 8445 §9).
    call.offer(0, &web("anew", "actpass", "")).unwrap();
    let answer = call.answer(1, &desk("RTP/AVP")).unwrap();
    is_for_web(&answer, "passive", 10_000, 1, 1, 0);
    let agent = call.plan(0).dtls.unwrap().agent.unwrap();
    assert_eq!(agent.ours, [1, 0].map(|generation| Credentials::of(&SECRET, 0, 0, generation)));
    assert_eq!(call.plan(0).shield, had.shield);
    // Another certificate is another phone's, as far as we know: its keys are to be agreed on.
    let other = web("anew", "actpass", "").replace(&theirs(1).print().to_string(), &theirs(2).print().to_string());
    call.offer(0, &other).unwrap();
    assert_eq!(call.plan(0).shield, Shield::Closed);
}

/// Who takes over at another address tells the browser so; whose handshake was lost is told of another certificate.
#[test]
fn a_browser_is_told_again_from_elsewhere() {
    let mut call = Call::new([Policy::Allow, Policy::Allow]);
    call.offer(0, &web("them", "actpass", "")).unwrap();
    call.answer(1, &desk("RTP/AVP")).unwrap();
    let same = String::from_utf8(call.session.tell_again(0).unwrap().to_vec()).unwrap();
    is_for_web(&same, "actpass", 10_000, 1, 0, 0);
    assert!(!call.session.renew(0, 0, 2) && call.session.renew(0, 0, 1));
    let renewed = String::from_utf8(call.session.tell_again(0).unwrap().to_vec()).unwrap();
    is_for_web(&renewed, "actpass", 10_000, 2, 1, 0);
    assert!(!call.keyed(0, 1), "of the lost one nobody has keys");
    call.session.answer_again(0, web("anew", "active", "").as_bytes(), &mut |_| None).unwrap();
    assert!(call.keyed(0, 2) && !call.session.renew(0, 0, 2));
    assert_eq!(call.plan(0).dtls.unwrap().agent.unwrap().ours[0], Credentials::of(&SECRET, 0, 0, 1));
    let shield = call.plan(0).shield;
    call.session.sides[0] = "127.0.0.12".parse().unwrap();
    call.session.streams[0].legs[0].local = "127.0.0.12:10000".parse().ok();
    let moved = String::from_utf8(call.session.tell_again(0).unwrap().to_vec()).unwrap();
    is_for_web(&moved.replace("127.0.0.12", "127.0.0.11"), "actpass", 10_000, 2, 2, 0);
    assert!(moved.contains("127.0.0.12 10000 typ host") && !moved.contains("127.0.0.11"), "{moved}");
    assert_eq!(call.plan(0).shield, shield);
}

#[test]
fn a_refused_offer_of_another_certificate_leaves_the_keys() {
    let mut call = Call::new([Policy::Allow, Policy::Allow]);
    call.offer(0, &web("them", "actpass", "")).unwrap();
    call.answer(1, &desk("RTP/AVP")).unwrap();
    assert!(call.keyed(0, 1));
    let had = call.plan(0);
    let other = web("anew", "actpass", "").replace(&theirs(1).print().to_string(), &theirs(2).print().to_string());
    call.session.offer(0, other.as_bytes(), &mut |_| None).unwrap();
    assert_eq!(call.plan(0).shield, had.shield, "until it is answered");
    assert!(call.session.take_back());
    assert_eq!(call.plan(0), had);
}

/// Each further stream has a transport of its own; one that is declined is still the stream of that name.
#[test]
fn only_the_first_stream_of_a_bundle_is_bundled() {
    let video = "m=video 9 UDP/TLS/RTP/SAVPF 96\r\nc=IN IP4 0.0.0.0\r\na=ice-ufrag:them\r\na=ice-pwd:0123456789012345678901\r\n\
        a=setup:actpass\r\na=mid:1\r\na=rtcp-mux\r\na=rtpmap:96 VP8/90000\r\n";
    let video = format!("{video}a=fingerprint:{}\r\n", theirs(1).print());
    let mut call = Call::new([Policy::Allow, Policy::Allow]);
    let told = call.offer(0, &web("them", "actpass", &video)).unwrap();
    assert!(told.contains("m=video 10006 RTP/AVP 96"), "{told}");
    let answer = call.answer(1, &format!("{}m=video 4002 RTP/AVP 96\r\n", desk("RTP/AVP"))).unwrap();
    assert_eq!((values(&answer, "group:"), values(&answer, "mid:")), (vec!["BUNDLE 0"], vec!["0", "1"]));
    let ufrags = values(&answer, "ice-ufrag:");
    assert!(ufrags.len() == 2 && ufrags[0] != ufrags[1], "{answer}");
    let answer = call.answer(1, &format!("{}m=video 0 RTP/AVP 96\r\n", desk("RTP/AVP"))).unwrap();
    assert!(answer.contains("m=video 0 UDP/TLS/RTP/SAVPF 96\r\na=mid:1\r\n"), "{answer}");
    // One that is added for a browser is of its kind.
    let mut call = Call::new([Policy::Allow, Policy::Allow]);
    call.offer(0, &web("them", "actpass", "")).unwrap();
    call.answer(1, &desk("RTP/AVP")).unwrap();
    let more = call.offer(1, &format!("{}m=video 4002 RTP/AVP 96\r\n", desk("RTP/AVP"))).unwrap();
    assert!(more.contains("m=video 10004 UDP/TLS/RTP/SAVPF 96") && values(&more, "ice-ufrag:").len() == 2, "{more}");
    assert_eq!(call.session.streams[1].legs[0].protection.profile, Profile::Dtls);
}

#[test]
fn browsers_are_told_nothing_of_each_others_transports() {
    let mut call = Call::new([Policy::Allow, Policy::Allow]);
    let told = call.offer(0, &web("one", "actpass", "")).unwrap();
    is_for_web(&call.toward_web(&told), "actpass", 10_002, 1, 0, 1);
    let answer = call.answer(1, &web("two", "active", "")).unwrap();
    is_for_web(&answer, "passive", 10_000, 1, 0, 0);
    assert!(answer.contains("opus/48000/2") && !answer.contains("4f0.local"), "{answer}");
}

/// What one phone has said while it rang means nothing to another that takes the call.
#[test]
fn who_answers_in_the_end_is_told_what_it_knows() {
    let crypto = "a=crypto:2 AES_CM_128_HMAC_SHA1_80 inline:WVNfX19zZW1jdGwgKCkgewkyMjA7fQp9CnVubGVz\r\n";
    for (policies, proto, more, shield) in [
        ([Policy::Allow, Policy::Allow], "RTP/AVP", "", Some(Shield::Plain)),
        ([Policy::Allow, Policy::Require], "RTP/SAVP", crypto, None),
    ] {
        let mut call = Call::new(policies);
        let told = call.offer(0, &desk("RTP/AVP")).unwrap();
        let keys = values(&told, "crypto:2 ").first().map(|line| (*line).to_owned());
        call.toward_web(&told);
        call.answer(1, &web("them", "active", "")).unwrap();
        assert_eq!(call.plan(1).shield, Shield::Closed);
        call.answer(1, &format!("{}{more}", desk(proto))).unwrap();
        match (call.plan(1).shield, shield) {
            (is, Some(expected)) => assert_eq!(is, expected),
            (Shield::Srtp(own), None) => {
                use base64::Engine;
                let own = base64::engine::general_purpose::STANDARD.encode(own.ours.bytes());
                assert!(keys.unwrap().ends_with(&own), "the key that it was offered");
            }
            (other, None) => panic!("{other:?}"),
        }
        // Once it has the call, it may not go back by itself; nor may one that has had something else.
        call.answer(1, &web("them", "active", "")).unwrap();
        call.session.is_settled(1);
        assert!(call.answer(1, &format!("{}{more}", desk(proto))).is_err());
        call.offer(0, &desk("RTP/AVP")).unwrap();
        assert!(call.answer(1, &format!("{}{more}", desk(proto))).is_err());
        call.answer(1, &web("them", "active", "")).unwrap();
    }
}

#[test]
fn nobody_is_taken_for_another_by_the_number_of_our_certificate() {
    let mut call = Call::new([Policy::Allow, Policy::Allow]);
    call.offer(0, &web("them", "actpass", "")).unwrap();
    call.answer(1, &desk("RTP/AVP")).unwrap();
    let key = |byte| MasterKey::new(Suite::AeadAes256Gcm, &[byte; 44]).unwrap();
    let keyed = Keyed { theirs: key(1), ours: key(2), last_flight: Vec::new(), is_fresh: true };
    assert!(!call.session.has_keys(0, 0, (1, &theirs(2).certificate), &keyed));
    assert!(call.session.awaits_keys(0) && call.session.has_keys(0, 0, (1, &theirs(1).certificate), &keyed));
}

/// Nobody waits for what is not wanted.
#[test]
fn a_declined_stream_awaits_nothing() {
    let video = format!(
        "m=video 9 UDP/TLS/RTP/SAVPF 96\r\na=ice-ufrag:them\r\na=ice-pwd:0123456789012345678901\r\na=setup:actpass\r\na=mid:1\r\na=fingerprint:{}\r\n",
        theirs(1).print()
    );
    let mut call = Call::new([Policy::Allow, Policy::Allow]);
    call.offer(0, &web("them", "actpass", &video)).unwrap();
    call.answer(1, &format!("{}m=video 0 RTP/AVP 96\r\n", desk("RTP/AVP"))).unwrap();
    assert!(call.keyed(0, 1) && !call.session.awaits_keys(0));
    let plans = call.session.plan(0);
    assert!(
        plans[0].as_ref().is_some_and(|plan| plan.dtls.is_some()) && plans[1].as_ref().is_some_and(|plan| plan.dtls.is_none())
    );
}

/// RFC 6157: a browser was told one address of ours, and what it says of its own changes nothing.
#[test]
fn a_browser_stays_in_the_family_by_which_it_is_reached() {
    let families =
        crate::families::Families::from(std::net::IpAddr::from([127, 0, 0, 11])).and("fd00::11".parse().unwrap()).unwrap();
    let mut call = Call::new([Policy::Allow, Policy::Allow]);
    call.session = Session { secret: SECRET, ..Session::new(families, 42) };
    let told = call.offer(0, &desk("RTP/AVP")).unwrap();
    call.session.certify(1);
    let toward = call.session.toward(1, told.as_bytes(), "fd00::2".parse().unwrap(), true).unwrap();
    assert!(std::str::from_utf8(&toward).unwrap().contains("fd00::11 10002 typ host"));
    call.session.reached = [None, "fd00::2".parse().ok()];
    let answer = web("them", "active", "").replace("c=IN IP4 0.0.0.0", "c=IN IP4 192.168.0.2");
    call.answer(1, &answer).unwrap();
    assert_eq!(call.plan(1).local, "[fd00::11]:10002".parse().unwrap());
    call.session.reached = [None, "10.0.0.2".parse().ok()];
    call.offer(1, &answer.replace("setup:active", "setup:actpass")).unwrap();
    assert_eq!(call.plan(1).local, "[fd00::11]:10002".parse().unwrap());
}

/// What has to be protected isn't before the phone has said how.
#[test]
fn nothing_passes_toward_who_is_to_agree_on_keys() {
    let mut call = Call::new([Policy::Allow, Policy::Dtls]);
    let told = call.offer(0, &desk("RTP/AVP")).unwrap();
    assert!(told.contains(" RTP/AVP 0") && call.plan(1).shield == Shield::Closed);
    call.toward_web(&told);
    assert_eq!(call.plan(1).shield, Shield::Closed);
    // It asks for something later, and is offered something: in its own words.
    let mut call = Call::new([Policy::Dtls, Policy::Allow]);
    call.session.dtls = [true, false];
    let told = call.offer(1, &desk("RTP/AVP")).unwrap();
    is_for_web(&told, "actpass", 10_000, 1, 0, 0);
}

/// A called browser was told what it is told by what was made of the offer for it alone: told again, it is told all of it.
#[test]
fn a_called_browser_is_told_again_as_it_was() {
    let mut call = Call::new([Policy::Prefer, Policy::Prefer]);
    let told = call.offer(0, &desk("RTP/AVP")).unwrap();
    assert!(told.contains("crypto"));
    call.toward_web(&told);
    assert!(call.session.may_be_renewed(1));
    call.answer(1, &web("them", "active", "")).unwrap();
    call.session.is_settled(1);
    assert!(call.session.may_be_renewed(1) && call.session.renew(1, 0, 1));
    let again = String::from_utf8(call.session.tell_again(1).unwrap().to_vec()).unwrap();
    is_for_web(&again, "actpass", 10_002, 2, 1, 1);
    // Who can't be told goes on as it is, and nobody is asked for ever.
    assert!(call.session.renew(1, 0, 2) && call.session.renew(1, 0, 3) && !call.session.renew(1, 0, 4));
    call.session.told[1] = None;
    call.session.streams[0].legs[1].protection.association.as_mut().unwrap().number = 2;
    assert!(!call.session.renew(1, 0, 2));
    assert!(call.keyed(1, 2) && !call.session.may_be_renewed(1));
}

/// A stream that is dropped and comes back is another: its keys are to be agreed on anew, by other credentials.
#[test]
fn a_stream_that_comes_back_has_other_keys() {
    let mut call = Call::new([Policy::Allow, Policy::Allow]);
    call.offer(0, &web("them", "actpass", "")).unwrap();
    call.answer(1, &desk("RTP/AVP")).unwrap();
    assert!(call.keyed(0, 1));
    let had = call.session.clone();
    call.session.offer(1, desk("RTP/AVP").replace("m=audio 4000", "m=audio 0").as_bytes(), &mut |_| None).unwrap();
    assert_eq!(call.plan(0).dtls, had.plan(0)[0].as_ref().unwrap().dtls, "an offer changes nothing");
    call.answer(0, &web("them", "active", "").replace("m=audio 9", "m=audio 0")).unwrap();
    call.session.accepted();
    assert!(call.plan(0).dtls.is_none() && !call.session.awaits_keys(0));
    let told = call.offer(1, &desk("RTP/AVP")).unwrap();
    is_for_web(&told, "actpass", 10_000, 1, 2, 0);
    call.answer(0, &web("anew", "active", "")).unwrap();
    assert!(call.plan(0).shield == Shield::Closed && call.session.awaits_keys(0) && call.keyed(0, 1));
}

/// RFC 3264 §6: an answer has the profile of the offer; what is no sound has none of ours.
#[test]
fn an_answer_has_the_offers_profile() {
    for proto in ["RTP/AVP", "RTP/AVPF"] {
        let mut call = Call::new([Policy::Allow, Policy::Allow]);
        let told = call.offer(0, &desk(proto)).unwrap();
        call.toward_web(&told);
        let answer = call.answer(1, &web("them", "active", "")).unwrap();
        assert!(answer.contains(&format!(" {proto} ")), "{answer}");
    }
    let mut call = Call::new([Policy::Dtls, Policy::Allow]);
    call.session.dtls = [true, false];
    call.offer(0, &web("them", "actpass", "")).unwrap();
    call.answer(1, &desk("RTP/AVP")).unwrap();
    call.offer(1, &desk("udptl")).unwrap();
    call.answer(0, &desk("udptl")).unwrap();
    assert_eq!(call.plan(0).shield, Shield::Plain);
    assert!(call.offer(1, &desk("RTP/AVP")).unwrap().contains("UDP/TLS/RTP/SAVPF"));
}

/// Phones ring: one in clear is heard before it answers, then one by DTLS, and the first takes the call.
#[test]
fn what_a_phone_says_while_it_rings_binds_no_other() {
    let mut call = Call::new([Policy::Allow, Policy::Allow]);
    let told = call.offer(0, &desk("RTP/AVP")).unwrap();
    call.toward_web(&told);
    for _ in 0..2 {
        call.answer(1, &desk("RTP/AVP")).unwrap();
        assert_eq!(call.plan(1).shield, Shield::Plain);
        assert!(call.plan(1).dtls.is_some(), "another's handshake may still come");
        call.answer(1, &web("them", "active", "")).unwrap();
        assert_eq!(call.plan(1).shield, Shield::Closed);
    }
    call.answer(1, &desk("RTP/AVP")).unwrap();
    call.session.is_settled(1);
    assert!(call.plan(1).shield == Shield::Plain && call.plan(1).dtls.is_none());
    // Nobody else was offered that.
    let mut call = Call::new([Policy::Allow, Policy::Allow]);
    call.offer(0, &desk("RTP/AVP")).unwrap();
    assert!(call.answer(1, &web("them", "active", "")).is_err());
}

//! A node alone in this process, with phones on real sockets: bad input, and actors that fail.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::net::UdpSocket;

use super::*;
use crate::actors::call::CallMsg;
use crate::actors::dialog::DialogMsg;
use crate::actors::media_leg::MediaLegMsg;
use crate::cli::demo::phone::Phone;
use crate::cli::demo::talk::Talk;
use crate::cli::layout::Layout;
use crate::cluster::state::MetaCommand;
use crate::cluster::state::records::UserRecord;
use crate::ids::{Aor, CallId, LegId};
use crate::sip::digest::{Credentials, Ha1};
use crate::sip::message::Message;
use crate::sip::{Method, Name, StatusCode};

pub(super) struct World {
    pub(super) node: Node,
    pub(super) server: SocketAddr,
    _dir: tempfile::TempDir,
}

pub(super) const DOMAIN: &str = "tandem.test";

impl World {
    /// `n` keeps the addresses of tests apart that run at once.
    pub(super) async fn start(n: u8) -> Self {
        Self::start_with(n, |_| {}).await
    }

    pub(super) async fn start_with(n: u8, change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = 30_000 + u16::from(n) * 10;
        let layout = Layout {
            dir: dir.path().to_owned(),
            nodes: 1,
            later: 0,
            domain: DOMAIN.into(),
            first_address: Ipv4Addr::new(127, 0, 77, n * 4),
            sip_port: 5060,
            api_port: port,
            wire_port: port + 1,
        };
        layout.write().unwrap();
        let mut config = Config::load(&layout.config_file(1)).unwrap();
        change(&mut config);
        let metrics = PrometheusBuilder::new().build_recorder().handle();
        let node = Node::start(config, Place::Thread, metrics).await.unwrap();
        until(|| node.services.cluster.is_ready() && node.services.vnode(crate::ids::VnodeId(1)).is_some()).await;
        for name in ["1001", "1002", "1003"] {
            let ha1 = Ha1::of(name, DOMAIN, "secret");
            let user = UserRecord { ha1_md5: ha1.md5, ha1_sha256: ha1.sha256, srtp: None, record: None };
            let put = MetaCommand::PutUser { aor: Aor::new(name, DOMAIN), user, replace: true };
            node.services.cluster.propose_meta(put).await.unwrap();
        }
        Self { node, server: layout.sip()[0], _dir: dir }
    }

    pub(super) async fn phone(&self, user: &str, password: &str) -> (Phone, UdpSocket) {
        let media = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let phone = Phone::new(user, password, DOMAIN, self.server, media.local_addr().unwrap()).await.unwrap();
        (phone, media)
    }

    /// Two phones that talk.
    pub(super) async fn call(&self) -> ([Phone; 2], [Talk; 2]) {
        let (mut a, a_media) = self.phone("1001", "secret").await;
        let (mut b, b_media) = self.phone("1002", "secret").await;
        b.register().await.unwrap();
        let (a_to, b_to) = tokio::join!(a.call("1002"), b.answer());
        let talks = [Talk::start(a_media, a_to.unwrap()), Talk::start(b_media, b_to.unwrap())];
        ([a, b], talks)
    }

    /// The one call that is up.
    pub(super) fn the_call(&self) -> CallId {
        let calls: Vec<_> =
            self.node.services.cluster.vnodes().into_iter().flat_map(|v| self.node.services.directory.of_vnode(v)).collect();
        assert_eq!(calls.len(), 1);
        calls[0]
    }

    pub(super) fn ports_in_use(&self) -> usize {
        self.node.services.ports_in_use()
    }

    pub(super) fn cdrs(&self) -> usize {
        self.node.services.cluster.read_meta(|meta| meta.cdrs().count())
    }
}

pub(super) async fn until(what: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !what() {
        assert!(tokio::time::Instant::now() < deadline, "it never came true");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(super) async fn heard_more(talks: &[Talk; 2]) {
    let before = talks.each_ref().map(|talk| talk.heard().frames());
    until(|| talks.iter().zip(before).all(|(talk, before)| talk.heard().frames() > before + 10)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_goes_through_and_leaves_nothing() {
    let world = World::start(1).await;
    let ([mut a, mut b], talks) = world.call().await;
    heard_more(&talks).await;
    assert_eq!(world.node.services.relay.open_ports(), 4);
    let (hung_up, ended) = tokio::join!(b.hang_up(), a.wait_for_bye());
    hung_up.and(ended).unwrap();
    until(|| world.node.services.relay.open_sockets() == 0 && world.node.services.ports_in_use() == 0).await;
    until(|| world.cdrs() == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_in_an_actor_ends_no_call() {
    let world = World::start(2).await;
    let ([mut a, mut b], talks) = world.call().await;
    let directory = &world.node.services.directory;
    let call = world.the_call();
    for leg in [LegId::CALLER, LegId::CALLEE] {
        let dialog = directory.dialog(call, leg).unwrap();
        dialog.cast(DialogMsg::Panic).unwrap();
        until(|| directory.dialog(call, leg).is_some_and(|now| now.get_id() != dialog.get_id())).await;
        let media = directory.media(call, leg).unwrap();
        media.cast(MediaLegMsg::Panic).unwrap();
        until(|| directory.media(call, leg).is_some_and(|now| now.get_id() != media.get_id())).await;
    }
    let actor = directory.call(call).unwrap();
    actor.cast(CallMsg::Panic).unwrap();
    until(|| directory.call(call).is_some_and(|now| now.get_id() != actor.get_id())).await;
    heard_more(&talks).await;
    assert_eq!(talks.each_ref().map(|talk| talk.heard().lost()), [0, 0]);
    let (hung_up, ended) = tokio::join!(a.hang_up(), b.wait_for_bye());
    hung_up.and(ended).unwrap();
    until(|| world.cdrs() == 1 && world.node.services.ports_in_use() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_keeps_failing_ends_its_own_call_properly() {
    let world = World::start(3).await;
    let ([mut a, mut b], _talks) = world.call().await;
    let directory = &world.node.services.directory;
    let call = world.the_call();
    for _ in 0..=crate::actors::supervise::RESTARTS {
        let dialog = directory.dialog(call, LegId::CALLEE).unwrap();
        dialog.cast(DialogMsg::Panic).unwrap();
        until(|| directory.dialog(call, LegId::CALLEE).is_none_or(|now| now.get_id() != dialog.get_id())).await;
    }
    let (one, other) = tokio::join!(a.wait_for_bye(), b.wait_for_bye());
    one.and(other).unwrap();
    until(|| world.cdrs() == 1).await;
    let by = world.node.services.cluster.read_meta(|meta| meta.cdrs().next().map(|(_, cdr)| cdr.ended_by.clone()));
    assert_eq!(by.as_deref(), Some("system"));
    // The node lives: the next call goes through.
    let (_, talks) = world.call().await;
    heard_more(&talks).await;
}

/// 64·T1, after which a transaction is forgotten, is 640 ms here.
pub(super) fn impatient(config: &mut Config) {
    config.sip.t1 = 10;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quiet_call_sleeps_and_wakes_for_whoever_wants_it() {
    let world = World::start_with(6, impatient).await;
    let directory = &world.node.services.directory;
    let ([mut a, mut b], talks) = world.call().await;
    let asleep = || directory.awake() == 0 && directory.len() == 1;
    until(asleep).await;
    heard_more(&talks).await;
    assert_eq!(world.node.services.relay.open_ports(), 4);
    // For a phone's requests, each of which it puts to sleep again; for the other side's answers.
    assert_eq!(a.ask_within(Method::Options, "").await.unwrap().status, StatusCode::OK);
    assert_eq!(directory.awake(), 1);
    until(asleep).await;
    let counted = directory.counters(world.the_call()).unwrap()[0].received.load(std::sync::atomic::Ordering::Relaxed);
    assert!(counted > 10, "what passed before is counted still");
    let other = tokio::spawn(async move { b.wait_for_bye().await });
    let sdp = a.sdp();
    assert_eq!(a.ask_within(Method::Invite, &sdp).await.unwrap().status, StatusCode::OK);
    until(asleep).await;
    // For an operator.
    assert!(crate::actors::gateway::hang_up_here(&world.node.services, world.the_call()));
    let (one, other) = tokio::join!(a.wait_for_bye(), other);
    one.and(other.unwrap()).unwrap();
    until(|| world.cdrs() == 1 && directory.is_empty() && world.node.services.ports_in_use() == 0).await;
    assert_eq!(a.repeated(), 0);
}

/// What is said in the moment of falling asleep is neither lost nor answered twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_between_waking_and_sleeping() {
    let world = World::start_with(7, impatient).await;
    let directory = &world.node.services.directory;
    let ([mut a, mut b], talks) = world.call().await;
    let mut slept = 0;
    for round in 0..12_u64 {
        let begin = tokio::time::Instant::now();
        // 64·T1 after the last answer, a little less or a little more.
        while directory.awake() > 0 && begin.elapsed() < Duration::from_micros(640_000 + round * 150) {
            tokio::task::yield_now().await;
        }
        slept += u32::from(directory.awake() == 0);
        assert_eq!(a.ask_within(Method::Options, "").await.unwrap().status, StatusCode::OK);
    }
    heard_more(&talks).await;
    let (hung_up, ended) = tokio::join!(b.hang_up(), a.wait_for_bye());
    hung_up.and(ended).unwrap();
    assert_eq!((a.repeated(), b.repeated()), (0, 0), "asleep {slept} times");
    until(|| world.cdrs() == 1 && directory.is_empty()).await;
}

/// A refused call waits for what its callee repeats, and costs no actors meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_call_lingers_asleep() {
    let world = World::start_with(8, impatient).await;
    let directory = &world.node.services.directory;
    let (mut a, _) = world.phone("1001", "secret").await;
    let (mut b, _) = world.phone("1002", "secret").await;
    b.register().await.unwrap();
    let sdp = a.sdp();
    let (answer, refused) = tokio::join!(a.try_call("1002", "", &sdp), b.refuse(StatusCode::BUSY_HERE));
    assert_eq!(answer.unwrap().status, StatusCode::BUSY_HERE);
    until(|| directory.len() == 1 && directory.awake() == 0).await;
    // Its ACK was lost, as far as the callee knows.
    let ack = b.refuse_again(&refused.unwrap().1).await.unwrap();
    assert_eq!(ack.method, Method::Ack);
    assert_eq!(world.cdrs(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_input_gets_a_clear_answer_and_harms_nobody() {
    let world = World::start(4).await;
    let ([mut a, mut b], talks) = world.call().await;
    let (mut good, _) = world.phone("1001", "secret").await;
    let (mut wrong, _) = world.phone("1001", "guess").await;
    let (mut nobody, _) = world.phone("4711", "secret").await;
    assert_eq!(wrong.try_register().await.unwrap().status, StatusCode::UNAUTHORIZED);
    assert_eq!(nobody.try_register().await.unwrap().status, StatusCode::UNAUTHORIZED);
    let sdp = good.sdp();
    for (callee, headers, sdp, status) in [
        ("1002", "", "this is no SDP", 488),
        ("1002", "", "v=0\r\no=- 1 1 IN IP4 1.1.1.1\r\ns=-\r\nt=0 0\r\nm=audio 4 RTP/AVP 0\r\n", 488),
        ("1003", "", &sdp, 480),
        ("4711", "", &sdp, 404),
        ("1002", "Require: teleport\r\n", &sdp, 420),
    ] {
        assert_eq!(good.try_call(callee, headers, sdp).await.unwrap().status.code(), status, "{callee} {headers}");
    }
    assert_eq!(wrong.try_call("1002", "", &sdp).await.unwrap().status, StatusCode::PROXY_AUTHENTICATION_REQUIRED);
    // Raw datagrams: none may stop the edge.
    let raw = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let local = raw.local_addr().unwrap();
    let with = |method: &str, more: &str| {
        format!(
            "{method} sip:1002@{DOMAIN} SIP/2.0\r\nVia: SIP/2.0/UDP {local};branch=z9hG4bK{method}{}\r\nFrom: <sip:1001@{DOMAIN}>;tag=1\r\n\
             To: <sip:1002@{DOMAIN}>\r\nCall-ID: {method}{}\r\nCSeq: 1 {method}\r\n{more}\r\n",
            more.len(),
            more.len()
        )
    };
    for (text, status) in [
        (with("INVITE", "Max-Forwards: 0\r\n"), 483),
        (with("REFER", ""), 403),
        (with("FROB", ""), 501),
        (with("BYE", ""), 481),
        (with("OPTIONS", ""), 200),
        (with("INVITE", "Content-Length: 99\r\n"), 400),
    ] {
        raw.send_to(text.as_bytes(), world.server).await.unwrap();
        let mut buffer = [0; 2000];
        let (length, _) = tokio::time::timeout(Duration::from_secs(5), raw.recv_from(&mut buffer)).await.unwrap().unwrap();
        let answer = String::from_utf8_lossy(&buffer[..length]).into_owned();
        assert!(answer.starts_with(&format!("SIP/2.0 {status} ")), "{text}\n{answer}");
    }
    for garbage in
        [vec![0; 60_000], b"\r\n\r\n".to_vec(), vec![0xff; 9], with("INVITE", "").as_bytes()[..70].to_vec(), Vec::new()]
    {
        raw.send_to(&garbage, world.server).await.unwrap();
    }
    // The call that was up all the while.
    heard_more(&talks).await;
    let (hung_up, ended) = tokio::join!(a.hang_up(), b.wait_for_bye());
    hung_up.and(ended).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registration_asks_for_a_sane_time() {
    let world = World::start(5).await;
    let (mut phone, _) = world.phone("1001", "secret").await;
    let response = phone.try_register().await.unwrap();
    assert_eq!(response.status, StatusCode::OK);
    let contact = response.headers.text(&Name::Contact).unwrap();
    assert!(contact.contains(";expires=3600") || contact.contains(";expires=3599"), "{contact}");
}

/// One copy of an INVITE rings, and what somebody has overheard opens nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invite_that_came_twice_and_credentials_that_were_overheard_are_turned_away() {
    let world = World::start(9).await;
    let (mut b, _) = world.phone("1002", "secret").await;
    b.register().await.unwrap();
    let raw = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let local = raw.local_addr().unwrap();
    let invite = |call: &str, number: u32, branch: &str, more: &str| {
        format!(
            "INVITE sip:1002@{DOMAIN} SIP/2.0\r\nVia: SIP/2.0/UDP {local};branch=z9hG4bK{branch}\r\nFrom: <sip:1001@{DOMAIN}>;tag=1\r\n\
             To: <sip:1002@{DOMAIN}>\r\nCall-ID: {call}\r\nCSeq: {number} INVITE\r\nContact: <sip:1001@{local}>\r\nMax-Forwards: 70\r\n{more}\r\n"
        )
    };
    let ask = async |text: String| {
        raw.send_to(text.as_bytes(), world.server).await.unwrap();
        let mut buffer = [0; 4000];
        let (length, _) = tokio::time::timeout(Duration::from_secs(5), raw.recv_from(&mut buffer)).await.unwrap().unwrap();
        match crate::sip::parse::datagram(&bytes::Bytes::copy_from_slice(&buffer[..length])).unwrap() {
            Message::Response(response) => response,
            Message::Request(request) => panic!("{request:?}"),
        }
    };
    let asked = ask(invite("c", 1, "1", "")).await;
    let challenge = asked.headers.text(&Name::ProxyAuthenticate).unwrap();
    let uri = format!("sip:1002@{DOMAIN}");
    let answer = Credentials::answer(&challenge, "1001", "secret", &Method::Invite, &uri, "c0").unwrap();
    let answer = format!("Proxy-Authorization: {answer}\r\n");
    assert_eq!(ask(invite("c", 2, "2", &answer)).await.status, StatusCode::TRYING);
    assert_eq!(ask(invite("c", 2, "3", &answer)).await.status, StatusCode::LOOP_DETECTED);
    let refused = ask(invite("d", 1, "4", &answer)).await;
    assert_eq!(refused.status, StatusCode::PROXY_AUTHENTICATION_REQUIRED);
    assert!(refused.headers.text(&Name::ProxyAuthenticate).unwrap().contains("stale=true"));
}

/// All phones of a user get a MESSAGE, and whoever takes it first answers for all. Who sends it is who has proved to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_reaches_a_users_phones_and_leaves_nothing() {
    let world = World::start(10).await;
    let (mut a, _) = world.phone("1001", "secret").await;
    let absent = a.send_message("1002", "", "hi").await.unwrap();
    assert_eq!(absent.status, StatusCode::TEMPORARILY_UNAVAILABLE);
    assert_eq!(a.send_message("1009", "", "hi").await.unwrap().status, StatusCode::NOT_FOUND);
    let (mut b, _) = world.phone("1002", "secret").await;
    let (mut c, _) = world.phone("1002", "secret").await;
    c.set_number(2);
    b.register().await.unwrap();
    c.register().await.unwrap();
    let claims = "P-Asserted-Identity: <sip:boss@tandem.test>\r\n";
    let busy = StatusCode::BUSY_HERE;
    let (sent, at_b, at_c) = tokio::join!(
        a.send_message("1002", claims, "hi"),
        b.take(&Method::Message, busy),
        c.take(&Method::Message, StatusCode::OK)
    );
    assert_eq!(sent.unwrap().status, StatusCode::OK);
    for got in [at_b.unwrap(), at_c.unwrap()] {
        assert_eq!(&got.body[..], b"hi");
        assert_eq!(got.headers.text(&Name::ContentType).as_deref(), Some("text/plain"));
        assert_eq!(got.headers.text(&Name::PAssertedIdentity).as_deref(), Some("<sip:1001@tandem.test>"));
    }
    let (sent, ..) =
        tokio::join!(a.send_message("1002", "", "hi"), b.take(&Method::Message, busy), c.take(&Method::Message, busy));
    assert_eq!(sent.unwrap().status, busy);
    let (mut wrong, _) = world.phone("1001", "wrong").await;
    assert_eq!(wrong.send_message("1002", "", "hi").await.unwrap().status, StatusCode::PROXY_AUTHENTICATION_REQUIRED);
    // What their transactions remember is forgotten.
    until(|| world.node.services.directory.awake() == 0).await;
    assert!(world.node.services.directory.is_empty());
}

/// What callees are told of who calls: what was proved, nobody if that is wished, and what a peer says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_calls_is_who_has_proved_it_unless_a_peer_says_so_or_nobody_is_to_know() {
    let peer = crate::config::SipPeer::at("127.0.0.2", "1003");
    let world = World::start_with(11, |config| config.sip.peer = vec![peer]).await;
    let (mut b, _) = world.phone("1002", "secret").await;
    b.register().await.unwrap();
    let at_peer = UdpSocket::bind("127.0.0.2:0").await.unwrap();
    let carrier = Phone::new("49123", "", DOMAIN, world.server, at_peer.local_addr().unwrap()).await;
    let (a, _) = world.phone("1001", "secret").await;
    let claims = "P-Asserted-Identity: <sip:+4930@carrier.test>\r\nDiversion: <sip:first@carrier.test>\r\n";
    let (own, said) = ("<sip:1001@tandem.test>", "<sip:+4930@carrier.test>");
    let mut callers = [a, carrier.unwrap()];
    for (caller, more, from, asserted, diverted) in [
        (0, claims, own, Some(own), false),
        (0, "Privacy: id\r\n", "\"Anonymous\" <sip:anonymous@anonymous.invalid>", None, false),
        (1, claims, "<sip:49123@tandem.test>", Some(said), true),
    ] {
        let sdp = callers[caller].sdp();
        let (refused, seen) = tokio::join!(callers[caller].try_call("1002", more, &sdp), b.refuse(StatusCode::new(603).unwrap()));
        assert_eq!(refused.unwrap().status.code(), 603, "{more}");
        let seen = seen.unwrap().0.headers;
        let text = |name: Name| seen.text(&name).map(|text| text.to_string());
        let shown = text(Name::From).unwrap();
        assert!(shown.starts_with(from) && shown[from.len()..].starts_with(";tag="), "{shown}");
        assert_eq!(text(Name::PAssertedIdentity).as_deref(), asserted, "{more}");
        assert_eq!(text(Name::Diversion).is_some(), diverted, "{more}");
    }
}

const LOOKED: Duration = Duration::from_secs(5);

/// A lamp (RFC 4235): who watches a user is told of its calls, and no names by which they could be taken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_watches_a_user_is_told_of_its_calls() {
    let world = World::start(14).await;
    let (mut w, _) = world.phone("1003", "secret").await;
    assert_eq!(w.subscribe("1002", "dialog", 600).await.unwrap().status, StatusCode::OK);
    let first = w.told("active").await.unwrap();
    assert!(!String::from_utf8_lossy(&first.body).contains("<dialog "));
    let (mut a, a_media) = world.phone("1001", "secret").await;
    let (mut b, b_media) = world.phone("1002", "secret").await;
    b.register().await.unwrap();
    let answers = async {
        let ringing = b.ring(Duration::from_secs(1)).await?;
        b.pick_up(&ringing).await
    };
    let (called, answered, early) = tokio::join!(a.call("1002"), answers, w.told("<state>early</state>"));
    let talks = [Talk::start(a_media, called.unwrap()), Talk::start(b_media, answered.unwrap())];
    let early = String::from_utf8(early.unwrap().body.to_vec()).unwrap();
    assert!(early.contains("direction=\"recipient\"") && early.contains("<identity>sip:1001@tandem.test</identity>"), "{early}");
    w.told("<state>confirmed</state>").await.unwrap();
    heard_more(&talks).await;
    // Who begins to watch in the middle of a call learns of it.
    let (mut late, _) = world.phone("1003", "secret").await;
    late.set_number(2);
    late.subscribe("1001", "dialog", 600).await.unwrap();
    let text = String::from_utf8(late.told("<state>confirmed</state>").await.unwrap().body.to_vec()).unwrap();
    assert!(text.contains("direction=\"initiator\""), "{text}");
    let (hung_up, ended) = tokio::join!(a.hang_up(), b.wait_for_bye());
    hung_up.and(ended).unwrap();
    w.told("state=\"full\" entity=\"sip:1002@tandem.test\">\n</dialog-info>").await.unwrap();
    late.told("entity=\"sip:1001@tandem.test\">\n</dialog-info>").await.unwrap();
    // What is told now nobody has looked for: those looks are over, and the next is in a minute.
    let (one, other) = tokio::join!(w.stay(LOOKED), late.stay(LOOKED));
    one.and(other).unwrap();
    let (called, answered, told) = tokio::join!(a.call("1002"), b.answer(), w.told("<state>confirmed</state>"));
    called.and(answered).unwrap();
    told.unwrap();
    let (hung_up, ended) = tokio::join!(a.hang_up(), b.wait_for_bye());
    hung_up.and(ended).unwrap();
    w.told("entity=\"sip:1002@tandem.test\">\n</dialog-info>").await.unwrap();
    assert_eq!(w.subscribe_again(600).await.unwrap().status, StatusCode::OK);
    assert_eq!(w.subscribe_again(0).await.unwrap().status, StatusCode::OK);
    w.told("terminated").await.unwrap();
    assert_eq!(w.subscribe_again(600).await.unwrap().status, StatusCode::CALL_DOES_NOT_EXIST);
    late.subscribe_again(0).await.unwrap();
    late.told("terminated").await.unwrap();
    let watched = || {
        world
            .node
            .services
            .cluster
            .vnodes()
            .into_iter()
            .any(|vnode| world.node.services.cluster.read(vnode, |state| state.all_watched().count() > 0).unwrap_or(false))
    };
    until(|| !watched()).await;
}

/// Presence (RFC 3856, RFC 3903), messages that wait (RFC 3842), and bindings (RFC 3680).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_is_told_how_a_user_is() {
    let world = World::start(15).await;
    let (mut w, _) = world.phone("1003", "secret").await;
    let (mut b, _) = world.phone("1002", "secret").await;
    w.subscribe("1002", "presence", 600).await.unwrap();
    w.told("<basic>closed</basic>").await.unwrap();
    b.register().await.unwrap();
    w.told("<basic>open</basic>").await.unwrap();
    let pidf = "Event: presence\r\nContent-Type: application/pidf+xml\r\nExpires: 600\r\n";
    let published = b.publish(pidf, "<presence>busy</presence>").await.unwrap();
    assert_eq!(published.status, StatusCode::OK);
    w.told("<presence>busy</presence>").await.unwrap();
    let tag = published.headers.text(&Name::SipEtag).unwrap();
    let gone = b.publish(&format!("Event: presence\r\nSIP-If-Match: {tag}\r\nExpires: 0\r\n"), "").await.unwrap();
    assert_eq!(gone.status, StatusCode::OK);
    w.told("<basic>open</basic>").await.unwrap();
    // What is only for the user itself.
    for event in ["message-summary", "reg"] {
        assert_eq!(w.subscribe("1002", event, 600).await.unwrap().status, StatusCode::FORBIDDEN, "{event}");
        assert_eq!(b.subscribe("1002", event, 600).await.unwrap().status, StatusCode::OK, "{event}");
    }
    b.told("<contact id=\"c0\" state=\"active\"").await.unwrap();
    assert_eq!(w.subscribe("1002", "weather", 600).await.unwrap().status, StatusCode::BAD_EVENT);
    assert_eq!(w.subscribe("1009", "presence", 600).await.unwrap().status, StatusCode::NOT_FOUND);
    let (mut wrong, _) = world.phone("1003", "wrong").await;
    assert_eq!(wrong.subscribe("1002", "presence", 600).await.unwrap().status, StatusCode::UNAUTHORIZED);
}

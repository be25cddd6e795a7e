//! The call flows of RFC 3665 and the service examples of RFC 5359, as phones of ours play them with a node. A test is named by its
//! section. What has servers of its own there (two proxies, an ALG, a conference) is one server here, or isn't.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::UdpSocket;

use super::tests::{DOMAIN, World, heard_more, until};
use crate::cli::demo::talk::Talk;
use crate::sip::digest::Credentials;
use crate::sip::message::{Headers, Message, Response};
use crate::sip::{Method, Name, StatusCode, parse};

/// A phone that says what it is given, word for word.
struct Script {
    socket: UdpSocket,
    server: SocketAddr,
    said: u32,
}

impl Script {
    async fn new(server: SocketAddr) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        Self { socket, server, said: 0 }
    }

    /// REGISTER with this password and these headers; gives the answers, the first of which asks who it is.
    async fn register(&mut self, password: &str, headers: &str) -> [Response; 2] {
        let asked = self.say("", headers).await;
        let challenge = asked.headers.text(&Name::WwwAuthenticate).unwrap();
        let uri = format!("sip:{DOMAIN}");
        // One that was seen before, with anything else, is no answer.
        let own = format!("cnonce{}", self.said);
        let answer = Credentials::answer(&challenge, "1001", password, &Method::Register, &uri, &own).unwrap();
        let answered = self.say(&format!("Authorization: {answer}\r\n"), headers).await;
        [asked, answered]
    }

    async fn say(&mut self, credentials: &str, headers: &str) -> Response {
        self.said += 1;
        let (n, local) = (self.said, self.socket.local_addr().unwrap());
        let text = format!(
            "REGISTER sip:{DOMAIN} SIP/2.0\r\nVia: SIP/2.0/UDP {local};branch=z9hG4bKflow{n}\r\nMax-Forwards: 70\r\n\
             From: <sip:1001@{DOMAIN}>;tag=a73kszlfl\r\nTo: <sip:1001@{DOMAIN}>\r\nCall-ID: 1j9FpLxk3uxtm8tn@biloxi.example.com\r\n\
             CSeq: {n} REGISTER\r\n{credentials}{headers}Content-Length: 0\r\n\r\n"
        );
        self.socket.send_to(text.as_bytes(), self.server).await.unwrap();
        let mut buffer = [0; 4096];
        let receive = tokio::time::timeout(Duration::from_secs(10), self.socket.recv_from(&mut buffer));
        let (length, _) = receive.await.expect("an answer").unwrap();
        match parse::datagram(&Bytes::copy_from_slice(&buffer[..length])).unwrap() {
            Message::Response(response) => response,
            Message::Request(request) => panic!("{request:?}"),
        }
    }
}

fn contacts(response: &Response) -> usize {
    response.headers.contacts().unwrap().len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rfc3665_2_registration() {
    let world = World::start(16).await;
    let mut script = Script::new(world.server).await;
    let two = "Contact: <sip:1001@client.biloxi.example.com>\r\nContact: <mailto:1001@biloxi.example.com>\r\n";
    // 2.1 Successful New Registration.
    let [asked, registered] = script.register("secret", "Contact: <sip:1001@client.biloxi.example.com>;expires=3600\r\n").await;
    assert_eq!((asked.status, registered.status), (StatusCode::UNAUTHORIZED, StatusCode::OK));
    assert_eq!(registered.headers.contacts().unwrap()[0].param("expires"), Some("3600"));
    // 2.2 Update of Contact List. Their second contact is no SIP URI, which a registrar of phones has no use for.
    assert_eq!(script.register("secret", two).await[1].status, StatusCode::FORBIDDEN);
    let [_, updated] = script.register("secret", "Contact: <sip:1001@other.biloxi.example.com>\r\n").await;
    assert_eq!((updated.status, contacts(&updated)), (StatusCode::OK, 2));
    // 2.3 Request for Current Contact List.
    let [_, current] = script.register("secret", "").await;
    assert_eq!((current.status, contacts(&current)), (StatusCode::OK, 2));
    // 2.4 Cancellation of Registration.
    let [_, cancelled] = script.register("secret", "Expires: 0\r\nContact: *\r\n").await;
    assert_eq!((cancelled.status, contacts(&cancelled)), (StatusCode::OK, 0));
    // 2.5 Unsuccessful Registration.
    let [_, refused] = script.register("wrong", "Contact: <sip:1001@client.biloxi.example.com>\r\n").await;
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
    assert!(refused.headers.get(&Name::WwwAuthenticate).is_some());
}

/// 3.1 to 3.3: it is challenged (407), rings, is answered, talked and hung up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rfc3665_3_1_successful_session_establishment() {
    let world = World::start(17).await;
    let ([mut a, mut b], talks) = world.call().await;
    heard_more(&talks).await;
    let (hung_up, ended) = tokio::join!(b.hang_up(), a.wait_for_bye());
    hung_up.and(ended).unwrap();
    until(|| world.cdrs() == 1).await;
}

fn moved_to(user: &str) -> Headers {
    let mut more = Headers::default();
    more.push_text(Name::Contact, format!("<sip:{user}@{DOMAIN}>"));
    more
}

/// 3.6: the offer is the callee's, and the caller's answer is in its ACK; the first who is asked is elsewhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rfc3665_3_6_session_via_redirect_with_sdp_in_ack() {
    let world = World::start(18).await;
    let (mut a, a_media) = world.phone("1001", "secret").await;
    let (mut b, _b_media) = world.phone("1002", "secret").await;
    let (mut c, c_media) = world.phone("1003", "secret").await;
    b.register().await.unwrap();
    c.register().await.unwrap();
    let moved = StatusCode::new(302).unwrap();
    let (called, sent_on, ringing) = tokio::join!(a.try_call("1002", "", ""), b.refuse_with(moved, moved_to("1003")), async {
        let ringing = c.ring(Duration::ZERO).await.unwrap();
        assert!(ringing.invite().body.is_empty());
        // Its offer is in the 200, the answer in the ACK.
        (c.pick_up(&ringing).await, ringing).1
    });
    sent_on.unwrap();
    let called = called.unwrap();
    assert_eq!(called.status, StatusCode::OK);
    assert!(!called.body.is_empty());
    assert_eq!(
        ringing.invite().headers.text(&Name::Diversion).as_deref(),
        Some("<sip:1002@tandem.test>;reason=deflection;counter=1")
    );
    drop((a_media, c_media));
    let (hung_up, ended) = tokio::join!(a.hang_up(), c.wait_for_bye());
    hung_up.and(ended).unwrap();
}

/// 3.7: a phone's address changes in the middle of a call.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rfc3665_3_7_session_with_reinvite() {
    let world = World::start(19).await;
    let ([mut a, mut b], [a_talk, b_talk]) = world.call().await;
    let elsewhere = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    a.set_media(elsewhere.local_addr().unwrap());
    let sdp = a.sdp();
    let (moved, ended) = tokio::join!(
        async {
            let moved = a.ask_within(Method::Invite, &sdp).await.unwrap();
            drop(a_talk);
            let to = sdp_types::Session::parse(&moved.body).unwrap();
            let port = to.medias[0].port;
            let talk = Talk::start(elsewhere, SocketAddr::new(world.server.ip(), port));
            let before = b_talk.heard().frames();
            until(|| talk.heard().frames() > 10 && b_talk.heard().frames() > before + 10).await;
            a.hang_up().await.unwrap();
            moved
        },
        b.wait_for_bye()
    );
    ended.unwrap();
    assert_eq!(moved.status, StatusCode::OK);
}

/// 3.8 to 3.11: nobody answers, who is called is busy, is not there, or doesn't want to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rfc3665_3_8_unsuccessful() {
    let world = World::start_with(20, |config| config.sip.t1 = 50).await;
    let (mut a, _) = world.phone("1001", "secret").await;
    let sdp = a.sdp();
    // Nobody there.
    assert_eq!(a.try_call("1002", "", &sdp).await.unwrap().status, StatusCode::TEMPORARILY_UNAVAILABLE);
    let (mut b, _) = world.phone("1002", "secret").await;
    b.register().await.unwrap();
    // 3.8 Unsuccessful No Answer: the caller cancels.
    let (cancelled, heard) = tokio::join!(a.call_and_cancel("1002", Duration::from_millis(200)), b.be_cancelled());
    heard.unwrap();
    assert_eq!(cancelled.unwrap().status, StatusCode::REQUEST_TERMINATED);
    // 3.9 Unsuccessful Busy, 3.11 Unsuccessful Temporarily Unavailable.
    for status in [StatusCode::BUSY_HERE, StatusCode::TEMPORARILY_UNAVAILABLE] {
        let (refused, heard) = tokio::join!(a.try_call("1002", "", &sdp), b.refuse(status));
        heard.unwrap();
        assert_eq!(refused.unwrap().status, status);
    }
    // 3.10 Unsuccessful No Response from User Agent: 64·T1 is 3.2 s here.
    assert_eq!(a.try_call("1002", "", &sdp).await.unwrap().status, StatusCode::REQUEST_TIMEOUT);
    until(|| world.cdrs() >= 4).await;
}

fn held(sdp: &str) -> String {
    format!("{sdp}a=sendonly\r\n")
}

/// 2.1 Call Hold, 2.2 Consultation Hold: B asks C while A waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rfc5359_2_1_call_hold() {
    let world = World::start(21).await;
    let ([mut a, mut b], talks) = world.call().await;
    let (hold, resume) = (held(&b.sdp()), b.sdp());
    let other = tokio::spawn(async move {
        a.wait_for_bye().await.unwrap();
    });
    let on_hold = b.ask_within(Method::Invite, &hold).await.unwrap();
    assert_eq!(on_hold.status, StatusCode::OK);
    let (mut b_too, _) = world.phone("1002", "secret").await;
    b_too.set_number(2);
    let (mut c, _) = world.phone("1003", "secret").await;
    c.register().await.unwrap();
    let (asked, answered) = tokio::join!(b_too.call("1003"), c.answer());
    asked.and(answered).unwrap();
    let (hung_up, ended) = tokio::join!(b_too.hang_up(), c.wait_for_bye());
    hung_up.and(ended).unwrap();
    assert_eq!(b.ask_within(Method::Invite, &resume).await.unwrap().status, StatusCode::OK);
    heard_more(&talks).await;
    b.hang_up().await.unwrap();
    other.await.unwrap();
    until(|| world.cdrs() == 2).await;
}

/// 2.4 Transfer, Unattended: B sends A to C, and hangs up; A calls C, and B is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rfc5359_2_4_transfer_unattended() {
    let world = World::start(22).await;
    let ([mut a, mut b], _talks) = world.call().await;
    let (mut c, _c_media) = world.phone("1003", "secret").await;
    c.register().await.unwrap();
    let refer = format!("Refer-To: <sip:1003@{DOMAIN}>\r\n");
    let (accepted, referred) =
        tokio::join!(b.ask_within_with(Method::Refer, &refer, ""), a.take(&Method::Refer, StatusCode::ACCEPTED));
    assert_eq!(accepted.unwrap().status, StatusCode::ACCEPTED);
    let referred = referred.unwrap().headers;
    let target = referred.text(&Name::ReferTo).unwrap();
    assert_eq!(&*target, format!("<sip:1003@{DOMAIN}>"));
    let number = referred.cseq().unwrap().number;
    // The call to C is a dialog of its own: the phone's other line.
    let (mut a_too, _) = world.phone("1001", "secret").await;
    a_too.set_number(2);
    let (called, answered) = tokio::join!(a_too.call("1003"), c.answer());
    called.and(answered).unwrap();
    for (state, said) in [("active", "SIP/2.0 100 Trying\r\n"), ("terminated;reason=noresource", "SIP/2.0 200 OK\r\n")] {
        let notify = format!("Event: refer;id={number}\r\nSubscription-State: {state}\r\n");
        let (told, heard) =
            tokio::join!(a.ask_within_with(Method::Notify, &notify, said), b.take(&Method::Notify, StatusCode::OK));
        assert_eq!(told.unwrap().status, StatusCode::OK);
        assert_eq!(&heard.unwrap().body[..], said.as_bytes());
    }
    let (hung_up, ended) = tokio::join!(b.hang_up(), a.wait_for_bye());
    hung_up.and(ended).unwrap();
    let (hung_up, ended) = tokio::join!(a_too.hang_up(), c.wait_for_bye());
    hung_up.and(ended).unwrap();
    until(|| world.cdrs() == 2).await;
}

/// 2.7, 2.8, 2.9 Call Forwarding: at once, when busy, and when nobody answers. It is the phone that says where to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rfc5359_2_7_call_forwarding() {
    let world = World::start(23).await;
    let (mut a, _) = world.phone("1001", "secret").await;
    let (mut b, _) = world.phone("1002", "secret").await;
    let (mut c, _) = world.phone("1003", "secret").await;
    b.register().await.unwrap();
    c.register().await.unwrap();
    for (n, thinking) in [(0, Duration::ZERO), (1, Duration::ZERO), (2, Duration::from_millis(700))] {
        b.set_thinking(thinking);
        let sdp = a.sdp();
        let status = StatusCode::new(302).unwrap();
        let (called, sent_on, answered) =
            tokio::join!(a.try_call("1002", "", &sdp), b.refuse_with(status, moved_to("1003")), c.answer());
        sent_on.unwrap();
        answered.unwrap();
        assert_eq!(called.unwrap().status, StatusCode::OK);
        let (hung_up, ended) = tokio::join!(a.hang_up(), c.wait_for_bye());
        hung_up.and(ended).unwrap();
        until(|| world.cdrs() == n + 1).await;
    }
}

/// 2.12 Find-Me: the desk is busy, the next phone takes it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rfc5359_2_12_find_me() {
    let world = World::start(24).await;
    let (mut a, _) = world.phone("1001", "secret").await;
    let (mut desk, _) = world.phone("1002", "secret").await;
    let (mut mobile, _) = world.phone("1002", "secret").await;
    mobile.set_number(2);
    mobile.set_q("0.5");
    desk.register().await.unwrap();
    mobile.register().await.unwrap();
    let (called, busy, answered) = tokio::join!(a.call("1002"), desk.refuse(StatusCode::BUSY_HERE), mobile.answer());
    busy.unwrap();
    called.and(answered).unwrap();
    let (hung_up, ended) = tokio::join!(mobile.hang_up(), a.wait_for_bye());
    hung_up.and(ended).unwrap();
    until(|| world.cdrs() == 1).await;
}

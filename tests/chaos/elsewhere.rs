//! Calls to other domains, whose servers the DNS knows (RFC 3263): by each transport, to the next server when one fails, and on while
//! their owner dies. Servers that call us by their certificates, and what is too long for a datagram.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tandem::cli::demo::talk::Talk;
use tandem::config::{PeerTransport, SipPeer};
use tandem::sip::{Method, Name, StatusCode};

use crate::lab::cluster::{Cluster, DOMAIN, PATIENCE};
use crate::lab::elsewhere::{By, Ca, Dns, Line, Says, Server};
use crate::lab::net::{self, Net};
use crate::lab::{SIP, TLS, call, own_address, until};

const CARRIER: &str = "carrier.test";
/// What is heard all along, a process killed: twice what is promised, since this is no bench.
const DEAD: Duration = Duration::from_millis(200);

fn peer(transport: Option<PeerTransport>) -> SipPeer {
    let (domain, user) = (Some(CARRIER.into()), "u0002".into());
    SipPeer { net: None, certificate: None, user, registers: false, domain, transport }
}

async fn cluster(net: &Arc<Net>, dns: &Dns, transport: Option<PeerTransport>, ca: Option<&Path>) -> Cluster {
    let users = (1..=2).map(|n| (format!("u{n:04}"), format!("pu{n:04}"))).collect();
    Cluster::at_with(net, users, |config| {
        config.sip.dns = vec![dns.address];
        config.sip.peer = vec![SipPeer { certificate: ca.map(|_| CARRIER.into()), ..peer(transport) }];
        if let Some(tls) = config.sip.tls.as_mut().filter(|_| ca.is_some()) {
            (tls.ca, tls.trust) = (ca.map(Path::to_owned), ca.map(Path::to_owned));
        }
    })
    .await
}

/// The records of a domain whose servers are these, by what they speak, the first the best.
fn records(servers: &[SocketAddr], service: &str) -> Vec<String> {
    let each = servers.iter().enumerate().flat_map(|(at, server)| {
        let (host, port) = (server.ip(), server.port());
        [format!("SRV {service}.{CARRIER} {} 1 {port} s{at}.{CARRIER}", at + 1), format!("A s{at}.{CARRIER} {host}")]
    });
    each.collect()
}

/// A user of ours calls there, the call's owner is killed, and the user hangs up.
async fn outlives(net: &Arc<Net>, cluster: Cluster, server: &Server) {
    let mut cluster = cluster;
    let (mut a, media) = call::phone(&cluster, 0, 2).await;
    let to = a.call(&format!("sip:+4930123@{CARRIER}")).await.unwrap();
    let talks = [Talk::start(media, to), server.talk()];
    until("both hear each other", PATIENCE, || async { talks.iter().all(|talk| talk.heard().frames() > 20) }).await;
    cluster.kill(2);
    a.stay(Duration::from_secs(2)).await.unwrap();
    call::heard_each_other(&talks, DEAD);
    assert_eq!(server.saw(&Method::Bye), 0);
    a.hang_up().await.unwrap();
    until("the server has heard the end", PATIENCE, || async { server.saw(&Method::Bye) == 1 }).await;
    until("one CDR", PATIENCE, || async { cluster.count(1, "/v1/cdrs", "total").await == 1 }).await;
    let cdrs = cluster.api(1).get("/v1/cdrs?limit=10").await.unwrap();
    assert_eq!(cdrs["cdrs"][0]["callee"], format!("+4930123@{CARRIER}"));
    assert_eq!((server.saw(&Method::Invite), a.went_back()), (1, 0));
    net.heal();
}

#[test]
fn a_call_by_udp_outlives_its_node() {
    net::run(3, async |net| {
        let server = Server::start(By::Udp, Says::Yes).await;
        let dns = Dns::start(&records(&[server.address], "_sip._udp")).await;
        let cluster = cluster(&net, &dns, None, None).await;
        outlives(&net, cluster, &server).await;
    });
}

#[test]
fn a_call_by_tcp_outlives_its_node() {
    net::run(3, async |net| {
        let server = Server::start(By::Tcp, Says::Yes).await;
        let mut lines = records(&[server.address], "_sip._tcp");
        lines.push(format!("NAPTR {CARRIER} 10 10 s SIP+D2T _sip._tcp.{CARRIER}"));
        lines.push(format!("NAPTR {CARRIER} 20 10 s SIP+D2U _sip._udp.{CARRIER}"));
        let dns = Dns::start(&lines).await;
        let cluster = cluster(&net, &dns, None, None).await;
        outlives(&net, cluster, &server).await;
    });
}

/// Both sides show who they are.
#[test]
fn a_call_by_tls_outlives_its_node() {
    net::run(3, async |net| {
        let ca = Ca::new(CARRIER);
        let dir = tempfile::tempdir().unwrap();
        // Our CA is made with the cluster.
        let ours = dir.path().join("ours.pem");
        let address = SocketAddr::from((own_address(), TLS));
        let dns = Dns::start(&records(&[address], "_sips._tcp")).await;
        let cluster = cluster(&net, &dns, Some(PeerTransport::Tls), Some(&ca.file())).await;
        std::fs::copy(cluster.ca(), &ours).unwrap();
        let server = Server::start_at(address, By::Tls(&ca, &ours), Says::Yes).await;
        outlives(&net, cluster, &server).await;
    });
}

/// RFC 3263 §4.3: who refuses with 503 and who says nothing are not the last.
#[test]
fn the_next_server_has_its_turn_when_one_fails() {
    net::run(3, async |net| {
        let first = Server::start(By::Udp, Says::This(StatusCode::SERVICE_UNAVAILABLE)).await;
        let second = Server::start(By::Udp, Says::Nothing).await;
        let third = Server::start(By::Udp, Says::Yes).await;
        let dns = Dns::start(&records(&[first.address, second.address, third.address], "_sip._udp")).await;
        let cluster = cluster(&net, &dns, None, None).await;
        let (mut a, _media) = call::phone(&cluster, 0, 2).await;
        a.call(&format!("sip:x@{CARRIER}")).await.unwrap();
        assert_eq!((first.saw(&Method::Invite), third.saw(&Method::Invite)), (1, 1));
        assert!(second.saw(&Method::Invite) > 1, "it was asked more than once");
        a.hang_up().await.unwrap();
    });
}

/// A server that shows the right certificate needs no password; any other does.
#[test]
fn who_shows_its_certificate_is_known_by_it() {
    net::run(3, async |net| {
        let (ca, other) = (Ca::new(CARRIER), Ca::new("other.test"));
        let dns = Dns::start(&[]).await;
        let both = tempfile::NamedTempFile::new().unwrap();
        let text = [ca.file(), other.file()].map(|file| std::fs::read_to_string(file).unwrap()).concat();
        std::fs::write(both.path(), text).unwrap();
        let cluster = cluster(&net, &dns, None, Some(both.path())).await;
        let mut server = cluster.sip_of(1);
        server.set_port(TLS);
        for (ca, shows, status) in [(&ca, true, 480), (&ca, false, 407), (&other, true, 407)] {
            let request = format!(
                "INVITE sip:u0001@{DOMAIN} SIP/2.0\r\nVia: SIP/2.0/TLS 192.0.2.9;branch=z9hG4bK{status}{shows}\r\nMax-Forwards: 70\r\n\
                 From: <sip:+49@{CARRIER}>;tag=1\r\nTo: <sip:u0001@{DOMAIN}>\r\nCall-ID: {status}{shows}{}\r\nCSeq: 1 INVITE\r\n\
                 Contact: <sip:x@192.0.2.9;transport=tls>\r\nContent-Length: 0\r\n\r\n",
                ca.file().display().to_string().len() + usize::from(shows) + usize::from(status == 480)
            );
            let response = ca.asks(server, &cluster.ca(), shows, &request).await;
            assert_eq!(response.status.code(), status, "shows: {shows}");
        }
    });
}

/// Its connection has ended with the call's owner; it listens, so we make the next one.
#[test]
fn a_server_that_has_called_is_connected_to_when_its_connection_has_ended() {
    net::run(3, async |net| {
        let own = own_address();
        let users = (1..=2).map(|n| (format!("u{n:04}"), format!("pu{n:04}"))).collect();
        let mut cluster =
            Cluster::at_with(&net, users, |config| config.sip.peer = vec![SipPeer::at(&own.to_string(), "u0001")]).await;
        let server = Server::start_at((own, SIP).into(), By::Tcp, Says::Yes).await;
        let (mut b, _media) = call::phone(&cluster, 1, 1).await;
        b.register().await.unwrap();
        let mut line = Line::to(cluster.sip_of(2), own.into()).await;
        let request = |method: &str, uri: &str, to: &str, body: &str| {
            format!(
                "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/TCP {own};branch=z9hG4bK{method}\r\nMax-Forwards: 70\r\n\
                 From: <sip:+49@{CARRIER}>;tag=1\r\nTo: {to}\r\nCall-ID: line\r\nCSeq: 1 {method}\r\n\
                 Contact: <sip:x@{own};transport=tcp>\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            )
        };
        let uri = format!("sip:u0002@{DOMAIN}");
        let sdp = format!("v=0\r\no=- 1 1 IN IP4 {own}\r\ns=-\r\nc=IN IP4 {own}\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n");
        line.say(&request("INVITE", &uri, &format!("<{uri}>"), &sdp)).await;
        let (answer, answered) = tokio::join!(line.hear(), async {
            let ringing = b.ring(Duration::from_millis(300)).await?;
            // The 200 is repeated until the server acknowledges it.
            b.pick_up(&ringing).await
        });
        answered.unwrap();
        assert_eq!(answer.status, StatusCode::OK);
        let target = answer.headers.contacts().unwrap()[0].uri.to_string();
        line.say(&request("ACK", &target, &answer.headers.text(&Name::To).unwrap(), "")).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        cluster.kill(2);
        b.hang_up().await.unwrap();
        until("the server has heard the end", PATIENCE, || async { server.saw(&Method::Bye) == 1 }).await;
        until("one CDR", PATIENCE, || async { cluster.count(1, "/v1/cdrs", "total").await == 1 }).await;
    });
}

/// RFC 3261 §18.1.1: over TCP to a phone that listens there, and as a datagram to one that doesn't.
#[test]
fn what_is_too_long_for_a_datagram_goes_over_tcp() {
    net::run(3, async |net| {
        let users = (1..=2).map(|n| (format!("u{n:04}"), format!("pu{n:04}"))).collect();
        let cluster = Cluster::at_with(&net, users, |config| config.sip.long_by_tcp = true).await;
        let (mut a, _a_media) = call::phone(&cluster, 0, 2).await;
        let (mut b, _b_media) = call::phone(&cluster, 1, 1).await;
        b.register().await.unwrap();
        let more = format!("Subject: {}\r\n", "long ".repeat(300));
        let callee = cluster.users[1].0.clone();
        let sdp = a.sdp();
        // Nobody listens.
        let (called, answered) = tokio::join!(a.try_call(&callee, &more, &sdp), b.answer());
        answered.unwrap();
        assert_eq!(called.unwrap().status, StatusCode::OK);
        let (hung_up, ended) = tokio::join!(a.hang_up(), b.wait_for_bye());
        hung_up.and(ended).unwrap();
        let listens = Server::start_at(b.address(), By::Tcp, Says::Yes).await;
        let (called, answered) = tokio::join!(a.call(&callee), b.answer());
        called.and(answered).unwrap();
        assert_eq!(listens.saw(&Method::Invite), 0, "a short one is a datagram");
        let (hung_up, ended) = tokio::join!(a.hang_up(), b.wait_for_bye());
        hung_up.and(ended).unwrap();
        assert_eq!(a.try_call(&callee, &more, &sdp).await.unwrap().status, StatusCode::OK);
        assert_eq!(listens.saw(&Method::Invite), 1);
        a.hang_up().await.unwrap();
        until("it has heard the end", PATIENCE, || async { listens.saw(&Method::Bye) == 1 }).await;
    });
}

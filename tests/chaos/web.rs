//! Browsers, which are found by ICE and agree on keys in DTLS, talk with other phones and with each other; when the owner is killed they go on, by the
//! same keys and without another handshake.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dimpl::{Config, Dtls, DtlsCertificate, Output};
use tandem::media::core::Secret;
use tandem::media::core::dtls::Identity;
use tokio::net::UdpSocket;

use crate::lab::baresip::Baresip;
use crate::lab::browser::Browser;
use crate::lab::cluster::{Cluster, PATIENCE};
use crate::lab::meter::Meter;
use crate::lab::{WSS, call, net, tone, until};

use super::protection::treat;

/// What browsers and other phones sound at.
const HZ: [u32; 2] = [440, 880];
/// So long there may be no packet after a kill, on a machine that does something else besides, and no sound: of that the one who hears it makes up for
/// a part.
const GAP: Duration = Duration::from_millis(600);

async fn browser(cluster: &Cluster, n: usize, node: usize) -> Browser {
    let (user, password) = &cluster.users[n];
    let mut server = cluster.sip_of(node);
    server.set_port(WSS);
    Browser::with_media(user, password, server, HZ[n]).await
}

fn phone(cluster: &Cluster, n: usize, node: usize, by: &str) -> Baresip {
    let (user, password) = &cluster.users[n];
    match by {
        "" => Baresip::start(user, password, cluster.sip_of(node), HZ[n]),
        by => Baresip::protected(by, user, password, cluster.sip_of(node), HZ[n]),
    }
}

/// It has had one handshake, and nothing has ever made it doubt that it is connected.
fn goes_on(browser: &Browser) {
    assert_eq!(browser.events_like("dtls"), ["dtls connecting", "dtls connected"]);
    let ice = browser.events_like("ice");
    assert!(!ice.iter().any(|state| state.contains("disconnected") || state.contains("failed")), "{ice:?}");
}

/// The first user's phone is a browser that has nothing but Opus, and the second's another that has nothing but PCMU; node 2 owns the call and is
/// killed.
async fn a_browser_talks_on_with(by: &str, policy: &str, browser_calls: bool) {
    let mut cluster = Cluster::start(2);
    treat(&cluster, ["allow", policy]).await;
    let nodes = if browser_calls { [2, 1] } else { [1, 2] };
    let web = browser(&cluster, 0, nodes[0]).await;
    let mut phone = phone(&cluster, 1, nodes[1], by);
    let meter = Meter::start();
    web.tell("codec opus");
    if browser_calls {
        web.tell(&format!("dial {}", cluster.users[1].0));
    } else {
        phone.begins_to_call(&cluster.users[0].0);
        web.wait_for("incoming").await;
        web.tell("answer");
    }
    web.wait_for("established").await;
    phone.wait_for("CALL_ESTABLISHED");
    web.hears(HZ[1]).await;
    web.watch().await;
    let calls = cluster.api(1).get("/v1/calls").await.unwrap();
    assert_eq!((&calls["total"], &calls["calls"][0]["owner"]), (&1.into(), &2.into()), "{calls}");
    meter.watch();
    cluster.kill(2);
    if browser_calls {
        web.wait_for("disconnected").await;
        web.wait_for("registered").await;
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    web.hears(HZ[1]).await;
    let gap = web.gap().await;
    assert!(gap < GAP, "{gap:?}");
    goes_on(&web);
    let gaps = meter.gaps();
    println!("gaps of a browser, which calls: {browser_calls}, and {by:?}: {gaps:?}");
    assert!(gaps.len() >= 2 && gaps.iter().all(|gap| *gap < GAP) && meter.goes_on(GAP), "{:?}", meter.all());
    web.tell("hangup");
    phone.wait_for("CALL_CLOSED");
    let heard = tone::heard(&phone.recording(), HZ[0].into());
    let good = heard.iter().filter(|good| **good).count();
    assert!(heard.len() >= 25 && good + 12 >= heard.len(), "{heard:?}");
    assert!(heard[heard.len() - 8..heard.len() - 3].iter().all(|good| *good), "{heard:?}");
    until("one CDR and no port", PATIENCE, || async {
        let (ports, cdrs) = (cluster.count(1, "/v1/cluster", "media_ports").await, cluster.count(1, "/v1/cdrs", "total").await);
        (ports, cdrs) == (0, 1)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_calls_a_phone_without_keys() {
    a_browser_talks_on_with("", "allow", true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_without_keys_calls_a_browser() {
    a_browser_talks_on_with("", "allow", false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_calls_a_phone_with_keys_in_its_descriptions() {
    a_browser_talks_on_with("srtp-mand", "require", true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_with_keys_in_its_descriptions_calls_a_browser() {
    a_browser_talks_on_with("srtp-mand", "require", false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_calls_a_phone_that_agrees_on_keys_as_it_does() {
    a_browser_talks_on_with("dtls_srtp", "dtls", true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_that_agrees_on_keys_as_it_does_calls_a_browser() {
    a_browser_talks_on_with("dtls_srtp", "dtls", false).await;
}

/// By Opus, which passes.
#[tokio::test(flavor = "multi_thread")]
async fn browsers_talk_with_each_other() {
    let mut cluster = Cluster::start(2);
    let (caller, callee) = tokio::join!(browser(&cluster, 0, 2), browser(&cluster, 1, 1));
    let meter = Meter::start();
    caller.tell("codec opus");
    callee.tell("codec opus");
    caller.tell(&format!("dial {}", cluster.users[1].0));
    callee.wait_for("incoming").await;
    callee.tell("answer");
    tokio::join!(caller.wait_for("established"), callee.wait_for("established"));
    tokio::join!(caller.hears(HZ[1]), callee.hears(HZ[0]));
    caller.watch().await;
    callee.watch().await;
    meter.watch();
    cluster.kill(2);
    caller.wait_for("disconnected").await;
    caller.wait_for("registered").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    tokio::join!(caller.hears(HZ[1]), callee.hears(HZ[0]));
    let gaps = [caller.gap().await, callee.gap().await];
    println!("gaps of browsers: {:?}", meter.gaps());
    assert!(gaps.iter().all(|gap| *gap < GAP), "{gaps:?}");
    goes_on(&caller);
    goes_on(&callee);
    callee.tell("hangup");
    tokio::join!(caller.wait_for("ended"), callee.wait_for("ended"));
}

/// The browser's node is another: it has rung there, and hears of the next owner when it answers.
#[tokio::test(flavor = "multi_thread")]
async fn a_browser_that_rings_when_the_owner_dies_is_answered_by_the_next() {
    let mut cluster = Cluster::start(2);
    let web = browser(&cluster, 0, 1).await;
    let mut phone = phone(&cluster, 1, 2, "");
    web.tell("codec PCMU");
    phone.begins_to_call(&cluster.users[0].0);
    web.wait_for("incoming").await;
    cluster.kill(2);
    until("another owns it", PATIENCE, || async {
        let calls = cluster.api(1).get("/v1/calls").await.unwrap();
        calls["total"] == 1 && calls["calls"][0]["owner"] != 2
    })
    .await;
    web.tell("answer");
    web.wait_for("established").await;
    phone.wait_for("CALL_ESTABLISHED");
    web.hears(HZ[1]).await;
    goes_on(&web);
    tokio::time::sleep(Duration::from_secs(2)).await;
    web.tell("hangup");
    phone.wait_for("CALL_CLOSED");
    let heard = tone::heard(&phone.recording(), HZ[0].into());
    assert!(heard.len() >= 15 && heard.iter().filter(|good| **good).count() + 5 >= heard.len(), "{heard:?}");
}

/// A process that is frozen owns nothing any more when it wakes: the browser's checks are answered by one node at a time.
#[test]
fn a_browser_talks_on_when_the_owner_freezes() {
    net::run(3, async |net| {
        let cluster = Cluster::at(&net, 2).await;
        let web = browser(&cluster, 0, 1).await;
        let mut phone = phone(&cluster, 1, 2, "");
        web.tell("codec PCMU");
        phone.begins_to_call(&cluster.users[0].0);
        web.wait_for("incoming").await;
        web.tell("answer");
        web.wait_for("established").await;
        web.hears(HZ[1]).await;
        cluster.freeze(2, true);
        tokio::time::sleep(Duration::from_secs(3)).await;
        web.watch().await;
        cluster.freeze(2, false);
        tokio::time::sleep(Duration::from_secs(2)).await;
        web.hears(HZ[1]).await;
        let gap = web.gap().await;
        assert!(gap < GAP, "{gap:?}");
        goes_on(&web);
        web.tell("hangup");
        phone.wait_for("CALL_CLOSED");
    });
}

/// The client's half of a handshake.
struct Client {
    dtls: Dtls,
    media: Arc<UdpSocket>,
    rtp: std::net::SocketAddr,
}

impl Client {
    fn new(identity: &Identity, media: Arc<UdpSocket>, rtp: std::net::SocketAddr) -> Self {
        let Identity { certificate, private_key } = identity.clone();
        let config = Arc::new(Config::builder().build().unwrap());
        let mut dtls = Dtls::new_12(config, DtlsCertificate { certificate, private_key }, Instant::now());
        dtls.set_active(true);
        Self { dtls, media, rtp }
    }

    /// What it has to say after a datagram, and whether it has keys.
    #[allow(clippy::wildcard_enum_match_arm, reason = "dimpl may say more")]
    fn hear(&mut self, datagram: Option<&[u8]>) -> (Vec<Vec<u8>>, bool) {
        self.dtls.handle_timeout(Instant::now()).unwrap();
        if let Some(datagram) = datagram {
            self.dtls.handle_packet(datagram).unwrap();
        }
        let (mut said, mut has_keys, mut buffer) = (Vec::new(), false, vec![0; 4096]);
        loop {
            match self.dtls.poll_output(&mut buffer) {
                Output::Packet(packet) => said.push(packet.to_vec()),
                Output::KeyingMaterial(..) => has_keys = true,
                Output::Timeout(_) => return (said, has_keys),
                _ => {}
            }
        }
    }

    async fn say(&self, said: &[Vec<u8>]) {
        for datagram in said {
            self.media.send_to(datagram, self.rtp).await.unwrap();
        }
    }

    /// Talks until it has said so many flights, or has keys. Gives the last one, which it hasn't said.
    async fn talk(&mut self, flights: usize) -> (Vec<Vec<u8>>, bool) {
        let (mut said, mut has_keys) = self.hear(None);
        let mut count = 0;
        let mut buffer = [0; 2048];
        while count < flights && !has_keys {
            self.say(&said).await;
            count += 1;
            said.clear();
            while said.is_empty() && !has_keys {
                let heard = tokio::time::timeout(Duration::from_secs(2), self.media.recv_from(&mut buffer)).await;
                let length = heard.map(|heard| heard.unwrap().0).unwrap_or(0);
                let more = self.hear((length > 0).then(|| &buffer[..length]));
                said.extend(more.0);
                has_keys |= more.1;
            }
        }
        (said, has_keys)
    }
}

/// The owner has answered the first half of a phone's handshake, and dies before the second: nobody else knows that half. The phone is asked for another
/// handshake, and has keys by that.
async fn a_lost_handshake_is_begun_anew(calls: bool) {
    let mut cluster = Cluster::start(2);
    let ((mut a, a_media), (mut b, b_media)) = (call::phone(&cluster, 0, 2).await, call::phone(&cluster, 1, 1).await);
    b.register().await.unwrap();
    let identity = Identity::of(&Secret { bytes: [9; 32], ..Secret::default() }, 1);
    let lines = format!("a=fingerprint:{}\r\na=setup:{}", identity.print(), if calls { "actpass" } else { "active" });
    let callee = cluster.users[1].0.clone();
    if calls {
        a.protects("UDP/TLS/RTP/SAVP", &lines);
    } else {
        treat(&cluster, ["allow", "dtls"]).await;
        b.protects("UDP/TLS/RTP/SAVPF", &lines);
    }
    let (a_rtp, b_rtp) = tokio::join!(a.call(&callee), b.answer());
    let (a_rtp, b_rtp) = (a_rtp.unwrap(), b_rtp.unwrap());
    let (phone, media, rtp) = if calls { (&mut a, a_media, a_rtp) } else { (&mut b, b_media, b_rtp) };
    let media = Arc::new(media);
    // ClientHello, and that with the cookie: its third flight waits.
    let mut client = Client::new(&identity, media.clone(), rtp);
    let (flight, has_keys) = client.talk(2).await;
    assert!(!flight.is_empty() && !has_keys);
    cluster.kill(2);
    let repeats = async {
        loop {
            client.say(&flight).await;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let rtp = tokio::select! {
        rtp = phone.follow() => rtp.unwrap(),
        () = repeats => unreachable!(),
    };
    while media.try_recv(&mut [0; 2048]).is_ok() {}
    let mut client = Client::new(&identity, media.clone(), rtp);
    let (_, has_keys) = client.talk(9).await;
    assert!(has_keys, "it has another handshake");
    assert_eq!(cluster.count(1, "/v1/calls", "total").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_whose_handshake_is_lost_is_asked_for_another() {
    a_lost_handshake_is_begun_anew(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callee_whose_handshake_is_lost_is_asked_for_another() {
    a_lost_handshake_is_begun_anew(false).await;
}

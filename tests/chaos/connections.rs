//! Phones on connections: these die with their owner, and the calls don't. A phone that comes back on a new connection gets its calls'
//! requests there.
//!
//! A phone whose host's kernel lives hears of the end at once; one whose server is cut off hears nothing, and is tickled by the next
//! owner.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tandem::cli::demo::phone::Phone;
use tandem::cli::demo::talk::Talk;
use tandem::cli::demo::wire::Over;
use tandem::ids::{Aor, VnodeId};

use crate::lab::baresip::Baresip;
use crate::lab::browser::Browser;
use crate::lab::cluster::{Cluster, DOMAIN, PATIENCE};
use crate::lab::linphone::Linphone;
use crate::lab::net::{self, Net, Watch};
use crate::lab::{SIP, TLS, WSS, call, until};

/// What the promise allows when a process dies, and when it is only silent; twice that, since this is no bench. Sound needs no
/// connection.
const DEAD: Duration = Duration::from_millis(200);
const SILENT: Duration = Duration::from_millis(660);
/// The vnodes whose home is node 2.
const NODE_2: [u16; 2] = [2, 5];
/// A successor has taken over by then, and the phones have come back.
const BACK: Duration = Duration::from_secs(3);

/// Two phones on connections, both of them with connections to node 2.
struct Case {
    cluster: Cluster,
    watch: Watch,
    a: Phone,
    b: Phone,
    talks: [Talk; 2],
}

impl Case {
    async fn talking(net: &Arc<Net>, over: fn(&Cluster) -> [Over; 2]) -> Self {
        let cluster = Cluster::at(net, 2).await;
        let (over, server) = (over(&cluster), cluster.sip_of(2));
        Self::between(cluster, over, [server, server]).await
    }

    async fn between(cluster: Cluster, [a_over, b_over]: [Over; 2], servers: [SocketAddr; 2]) -> Self {
        let watch = Watch::start();
        let (mut a, a_media) = call::connected_at(&cluster, &a_over, 0, servers[0]).await;
        let (mut b, b_media) = call::connected_at(&cluster, &b_over, 1, servers[1]).await;
        a.register().await.unwrap();
        b.register().await.unwrap();
        let talks = call::between(&cluster, (&mut a, a_media), (&mut b, b_media)).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        Self { cluster, watch, a, b, talks }
    }

    /// Both have come back, have talked all along, and one hangs up on the other.
    async fn ends_well(mut self, by_caller: bool, gap: Duration) {
        let (a, b) = tokio::join!(self.a.stay(BACK), self.b.stay(BACK));
        a.and(b).unwrap();
        assert_eq!((self.a.reconnected(), self.b.reconnected()), (1, 1));
        call::heard_each_other(&self.talks, gap);
        let (a, b) = (&mut self.a, &mut self.b);
        let (one, other) = if by_caller { (a, b) } else { (b, a) };
        let (hung_up, ended) = tokio::join!(one.hang_up(), other.wait_for_bye());
        hung_up.and(ended).unwrap();
        leaves_nothing(&self.cluster).await;
        let turns = self.watch.turns(self.cluster.sip_of(2).ip());
        assert_eq!(turns.len(), 2, "out, and not back: {turns:?}");
    }
}

async fn leaves_nothing(cluster: &Cluster) {
    until("one CDR, no socket, two registrations", PATIENCE, || async {
        let sockets =
            cluster.count(1, "/v1/cluster", "media_sockets").await + cluster.count(3, "/v1/cluster", "media_sockets").await;
        cluster.count(1, "/v1/cdrs", "total").await == 1 && sockets == 0
    })
    .await;
    assert_eq!(cluster.count(1, "/v1/registrations", "total").await, 2);
}

/// One phone of each family, both with connections to a node whose host is cut off; then they come back, and talk on.
#[test]
fn a_call_over_tcp_between_phones_of_both_families_goes_on_when_the_host_is_cut_off() {
    net::run(3, async |net| {
        let cluster = Cluster::of_both_families(&net, 2).await;
        let servers = [cluster.sip_of(2), cluster.sip_v6_of(2)];
        let case = Case::between(cluster, [Over::Tcp, Over::Tcp], servers).await;
        net.cut(2);
        case.ends_well(false, SILENT).await;
    });
}

fn tcp(_: &Cluster) -> [Over; 2] {
    [Over::Tcp, Over::Tcp]
}

fn tls_and_wss(cluster: &Cluster) -> [Over; 2] {
    [Over::Tls(cluster.ca()), Over::Wss(cluster.ca())]
}

fn killed(over: fn(&Cluster) -> [Over; 2]) {
    net::run(3, async |net| {
        let mut case = Case::talking(&net, over).await;
        case.cluster.kill(2);
        case.ends_well(true, DEAD).await;
    });
}

fn cut_off(over: fn(&Cluster) -> [Over; 2]) {
    net::run(3, async |net| {
        let case = Case::talking(&net, over).await;
        net.cut(2);
        case.ends_well(false, SILENT).await;
    });
}

#[test]
fn a_call_over_tcp_goes_on_when_the_process_is_killed() {
    killed(tcp);
}

#[test]
fn a_call_over_tcp_goes_on_when_the_host_is_cut_off() {
    cut_off(tcp);
}

#[test]
fn a_call_over_tls_and_wss_goes_on_when_the_process_is_killed() {
    killed(tls_and_wss);
}

#[test]
fn a_call_over_tls_and_wss_goes_on_when_the_host_is_cut_off() {
    cut_off(tls_and_wss);
}

/// The callee's phone is told of the call once more, on its new connection, and its answer comes to the caller's.
#[test]
fn a_call_rings_on_when_the_process_is_killed() {
    net::run(3, async |net| {
        let mut cluster = Cluster::at(&net, 2).await;
        let callee = cluster.users[1].0.clone();
        let (mut a, a_media) = call::connected(&cluster, &Over::Tcp, 0, 2).await;
        let (mut b, b_media) = call::connected(&cluster, &Over::Wss(cluster.ca()), 1, 2).await;
        a.register().await.unwrap();
        b.register().await.unwrap();
        let dies = async {
            tokio::time::sleep(Duration::from_millis(700)).await;
            cluster.kill(2);
        };
        let answers = async {
            let ringing = b.ring(BACK).await?;
            b.pick_up(&ringing).await
        };
        let (called, answered, ()) = tokio::join!(a.call(&callee), answers, dies);
        let talks = [Talk::start(a_media, called.unwrap()), Talk::start(b_media, answered.unwrap())];
        assert_eq!((a.reconnected(), b.reconnected()), (1, 1));
        tokio::time::sleep(Duration::from_millis(500)).await;
        call::heard_each_other(&talks, Duration::from_millis(200));
        let (hung_up, ended) = tokio::join!(b.hang_up(), a.wait_for_bye());
        hung_up.and(ended).unwrap();
        leaves_nothing(&cluster).await;
    });
}

/// A phone asks once on its connection, which is at another node than its registrar; that has frozen, and takes what it is told with it.
#[test]
fn a_phone_registers_while_its_registrar_dies() {
    net::run(3, async |net| {
        let cluster = Cluster::at(&net, 8).await;
        let vnodes: Vec<_> = (1..=6).map(VnodeId).collect();
        let at_node_2 = |user: usize| {
            let home = Aor::new(&cluster.users[user].0, DOMAIN).vnode(&vnodes);
            home.is_some_and(|home| NODE_2.contains(&home.0))
        };
        let mut phones = Vec::new();
        for user in (0..8).filter(|user| at_node_2(*user)) {
            phones.push(call::connected(&cluster, &Over::Tcp, user, 1).await.0);
        }
        assert!(!phones.is_empty(), "some user's registrar is at node 2");
        cluster.freeze(2, true);
        for phone in &mut phones {
            phone.register().await.unwrap();
        }
        cluster.freeze(2, false);
        let registered = phones.len() as u64;
        until("they are registered", PATIENCE, async || cluster.count(1, "/v1/registrations", "total").await == registered).await;
    });
}

/// JsSIP, whose call outlives the node that both its connections were at.
#[tokio::test(flavor = "multi_thread")]
async fn browsers_call_each_other_over_wss_and_their_node_dies() {
    let mut cluster = Cluster::start(2);
    let mut server = cluster.sip_of(2);
    server.set_port(WSS);
    let [a, b] = [0, 1].map(|user| cluster.users[user].clone());
    let (caller, callee) = tokio::join!(Browser::start(&a.0, &a.1, server), Browser::start(&b.0, &b.1, server));
    caller.tell(&format!("dial {}", b.0));
    callee.wait_for("incoming").await;
    callee.tell("answer");
    tokio::join!(caller.wait_for("established"), callee.wait_for("established"));
    cluster.kill(2);
    for phone in [&caller, &callee] {
        phone.wait_for("disconnected").await;
        phone.wait_for("registered").await;
    }
    callee.tell("hangup");
    tokio::join!(caller.wait_for("ended"), callee.wait_for("ended"));
    until("one CDR", PATIENCE, || async { cluster.count(1, "/v1/cdrs", "total").await == 1 }).await;
}

/// A browser and a phone that has never heard of WebSockets, by each of the phone's transports.
#[tokio::test(flavor = "multi_thread")]
async fn a_browser_and_other_phones_call_each_other() {
    const TRANSPORTS: [(&str, u16); 3] = [("udp", SIP), ("tcp", SIP), ("tls", TLS)];
    let cluster = Cluster::start(1 + TRANSPORTS.len());
    let users = cluster.users.clone();
    let server = |node: usize, port| SocketAddr::new(cluster.sip_of(node).ip(), port);
    let browser = Browser::start(&users[0].0, &users[0].1, server(2, WSS)).await;
    for ((transport, port), (user, password)) in TRANSPORTS.into_iter().zip(&users[1..]) {
        let mut phone = Baresip::by(transport, user, password, server(1, port), 440);
        browser.tell(&format!("dial {user}"));
        browser.wait_for("established").await;
        phone.wait_for("CALL_ESTABLISHED");
        browser.tell("hangup");
        phone.wait_for("CALL_CLOSED");
        phone.forget();
        phone.begins_to_call(&users[0].0);
        browser.wait_for("incoming").await;
        browser.tell("answer");
        browser.wait_for("established").await;
        phone.wait_for("CALL_ESTABLISHED");
        phone.hang_up();
        browser.wait_for("ended").await;
    }
    let calls = 2 * TRANSPORTS.len() as u64;
    until("their CDRs", PATIENCE, || async { cluster.count(1, "/v1/cdrs", "total").await == calls }).await;
}

/// linphone, and a phone of others.
#[tokio::test(flavor = "multi_thread")]
async fn linphone_and_baresip_call_each_other() {
    let cluster = Cluster::start(4);
    let users = cluster.users.clone();
    let server = |node: usize, port| SocketAddr::new(cluster.sip_of(node).ip(), port);
    let mut other = Baresip::start(&users[0].0, &users[0].1, server(2, SIP), 440);
    for ((transport, port), (user, password)) in [("udp", SIP), ("tcp", SIP), ("tls", TLS)].into_iter().zip(&users[1..]) {
        let mut linphone = Linphone::by(transport, user, password, server(1, port));
        linphone.dial(&users[0].0);
        linphone.hang_up();
        other.wait_for("CALL_CLOSED");
        linphone.wait_for_the_end();
        other.dial(user);
        linphone.wait_until_it_talks();
        other.hang_up();
        linphone.wait_for_the_end();
        other.forget();
    }
    until("their CDRs", PATIENCE, || async { cluster.count(1, "/v1/cdrs", "total").await == 6 }).await;
}

/// Real phones, each transport of each family of addresses to each.
#[test]
fn phones_call_each_other_by_every_transport() {
    net::run(3, async |net| {
        let ways = || [false, true].into_iter().flat_map(|v6| ["udp", "tcp", "tls"].map(|transport| (transport, v6)));
        let cluster = Cluster::of_both_families(&net, ways().count()).await;
        let users = cluster.users.clone();
        let server = |transport: &str, v6: bool| {
            let node = if transport == "tcp" { 2 } else { 1 };
            let mut server = if v6 { cluster.sip_v6_of(node) } else { cluster.sip_of(node) };
            server.set_port(if transport == "tls" { TLS } else { SIP });
            server
        };
        let mut phones: Vec<_> = ways()
            .zip(&users)
            .map(|((transport, v6), (user, password))| Baresip::by(transport, user, password, server(transport, v6), 440))
            .collect();
        let mut calls = 0;
        for caller in 0..phones.len() {
            for callee in (0..phones.len()).filter(|callee| *callee != caller) {
                phones[caller].dial(&users[callee].0);
                phones[callee].wait_for("CALL_ESTABLISHED");
                phones[callee].hang_up();
                for phone in [caller, callee] {
                    phones[phone].wait_for("CALL_CLOSED");
                    phones[phone].forget();
                }
                calls += 1;
            }
        }
        until("their CDRs", PATIENCE, || async { cluster.count(1, "/v1/cdrs", "total").await == calls }).await;
        let registrations = cluster.api(1).get("/v1/registrations").await.unwrap();
        let flows = registrations["registrations"].as_array().unwrap().iter().map(|one| one["flow"].as_str().unwrap().to_owned());
        let mut flows: Vec<_> = flows.map(|flow| (flow.contains('['), flow.split(' ').next().unwrap().to_owned())).collect();
        flows.sort();
        let all: Vec<_> = ["TCP", "TLS", "UDP"].map(str::to_owned).into();
        assert_eq!(
            flows,
            [false, true].into_iter().flat_map(|v6| all.iter().map(move |one| (v6, one.clone()))).collect::<Vec<_>>()
        );
    });
}

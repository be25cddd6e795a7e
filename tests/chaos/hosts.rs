//! Hosts of their own, on one link: killed, frozen, cut off on either side. Whatever it is, a call goes on, nobody is answered
//! for twice, and who comes back finds itself fenced.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tandem::cli::demo::phone::Phone;
use tandem::cli::demo::talk::Talk;

use crate::lab::cluster::{Cluster, PATIENCE};
use crate::lab::net::{self, Net, Watch};
use crate::lab::wire::Delay;
use crate::lab::{Busy, call, until};

/// What the promise allows when a process dies, and when it is only silent; twice that, since this is no bench.
const DEAD: Duration = Duration::from_millis(200);
const SILENT: Duration = Duration::from_millis(660);
/// What the promise allows a planned move, three times that.
const MOVED: Duration = Duration::from_millis(120);

/// A call at home on node 2, and everybody who looks.
struct Case {
    net: Arc<Net>,
    cluster: Cluster,
    watch: Watch,
    phones: (Phone, Phone),
    talks: [Talk; 2],
    address: IpAddr,
}

impl Case {
    async fn start(net: Arc<Net>) -> Self {
        let watch = Watch::asking((1..=6).map(|vnode| net.vnode(vnode)));
        Self::watched(net, watch).await
    }

    async fn watched(net: Arc<Net>, watch: Watch) -> Self {
        let cluster = Cluster::at(&net, 2).await;
        Self::on(net, cluster, watch).await
    }

    async fn on(net: Arc<Net>, cluster: Cluster, watch: Watch) -> Self {
        let (mut a, a_media) = call::phone(&cluster, 0, 2).await;
        let (mut b, b_media) = call::phone(&cluster, 1, 1).await;
        a.register().await.unwrap();
        b.register().await.unwrap();
        let talks = call::between(&cluster, (&mut a, a_media), (&mut b, b_media)).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let address = cluster.sip_of(2).ip();
        Self { net, cluster, watch, phones: (a, b), talks, address }
    }

    /// The call has gone to another host and back; both phones and everybody else saw one host at a time.
    async fn ends_well(self, gap: Duration) {
        let Self { cluster, watch, phones: (mut a, mut b), talks, address, net } = self;
        until("it has been elsewhere", PATIENCE, || async { watch.turns(address).len() > 1 }).await;
        cluster.at_home().await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        call::heard_each_other(&talks, gap);
        let (hung_up, ended) = tokio::join!(a.hang_up(), b.wait_for_bye());
        hung_up.and(ended).unwrap();
        let turns = watch.turns(address);
        let hosts: Vec<_> = turns.iter().map(|turn| turn.host).collect();
        assert!(hosts.len() == 3 && hosts[0] == hosts[2], "out and home again: {turns:?}");
        for vnode in 1..=6 {
            let turns = watch.turns(net.vnode(vnode));
            assert!(turns.len() <= 3, "vnode {vnode}: {turns:?}");
        }
        until("one CDR", PATIENCE, || async { cluster.count(1, "/v1/cdrs", "total").await == 1 }).await;
        assert_eq!(cluster.count(1, "/v1/registrations", "total").await, 2);
    }
}

/// After this a successor has surely begun.
async fn a_while() {
    tokio::time::sleep(Duration::from_secs(2)).await;
}

#[test]
fn a_process_is_killed() {
    net::run(3, async |net| {
        let mut case = Case::start(net).await;
        let killed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        case.cluster.kill(2);
        a_while().await;
        // The media stood by: there was nothing to do for the sound.
        let opened = [1, 3].map(|node| case.cluster.log(node)).join("");
        let opened = opened.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()).filter(|line| {
            line["message"] == "open" && line["time"].as_str().unwrap().parse::<f64>().unwrap() > killed.as_secs_f64()
        });
        let opened: Vec<_> = opened.map(|line| (line["vnode"].clone(), line["stood_by"].clone())).collect();
        assert!(opened.contains(&("v2".into(), true.into())), "{opened:?}");
        case.cluster.start_again(2);
        case.ends_well(DEAD).await;
    });
}

#[test]
fn a_vnode_moves_twenty_times() {
    net::run(3, async |net| {
        let case = Case::start(net).await;
        for node in ["3", "1", "3", "1", "2"].repeat(4) {
            case.cluster.command(&["move", "2", node]).await.unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let turns = case.watch.turns(case.address);
        assert_eq!(turns.len(), 21, "each host speaks for it in its turn: {turns:?}");
        call::heard_each_other(&case.talks, MOVED);
        // What comes late is forwarded; a few may be lost on a busy machine, in all twenty moves.
        let lost: Vec<_> = case.talks.iter().map(|talk| talk.heard().lost()).collect();
        assert!(lost.iter().all(|lost| *lost <= 2), "{lost:?} packets");
    });
}

#[test]
fn a_process_freezes_and_thaws() {
    net::run(3, async |net| {
        let case = Case::start(net).await;
        case.cluster.freeze(2, true);
        a_while().await;
        case.cluster.freeze(2, false);
        case.ends_well(SILENT).await;
    });
}

#[test]
fn a_host_is_cut_off_and_comes_back() {
    net::run(3, async |net| {
        let case = Case::start(net).await;
        case.net.cut(2);
        a_while().await;
        case.net.heal();
        case.ends_well(SILENT).await;
    });
}

#[test]
fn a_cable_is_pulled_and_put_in_again() {
    net::run(3, async |net| {
        let case = Case::start(net).await;
        case.net.pull(2, true);
        a_while().await;
        case.net.pull(2, false);
        case.ends_well(SILENT).await;
    });
}

/// What a node wanted to send while its kernel looked for the phones behind a cable that was out isn't sent when it is in again:
/// another speaks by then.
#[test]
fn what_waits_for_a_cable_is_not_sent_late() {
    net::run(3, async |net| {
        let case = Case::start(net).await;
        case.cluster.freeze(2, true);
        tokio::time::sleep(Duration::from_millis(50)).await;
        case.net.pull(2, true);
        // It finds what the phones have said meanwhile, and its lease goes on for a moment.
        case.cluster.freeze(2, false);
        a_while().await;
        case.net.pull(2, false);
        case.ends_well(SILENT).await;
    });
}

#[test]
fn a_host_is_not_heard_any_more() {
    net::run(3, async |net| {
        let case = Case::start(net).await;
        case.net.cut_from(2);
        a_while().await;
        case.net.heal();
        case.ends_well(SILENT).await;
    });
}

#[test]
fn a_host_hears_nothing_any_more() {
    net::run(3, async |net| {
        let case = Case::start(net).await;
        case.net.cut_to(2);
        a_while().await;
        case.net.heal();
        case.ends_well(SILENT).await;
    });
}

/// Its guard is frozen too: its kernel still answers who asks, until the address ends there by itself. It says nothing unasked, and
/// the successor's announcements see to it that nobody asks.
#[test]
fn a_host_freezes_whole_and_thaws() {
    net::run(3, async |net| {
        let case = Case::watched(net, Watch::start()).await;
        case.net.freeze(2, true);
        a_while().await;
        case.net.freeze(2, false);
        case.ends_well(SILENT).await;
    });
}

/// It may have forgotten what it said last, and is caught up before it has a voice again.
#[test]
fn a_host_loses_power_and_comes_back() {
    net::run(3, async |net| {
        let mut case = Case::start(net).await;
        case.net.power_off(2);
        case.cluster.reap(2);
        a_while().await;
        case.net.power_on(2);
        case.cluster.start_again(2);
        case.ends_well(SILENT).await;
    });
}

/// It is heard, and its own connections don't come about: nobody could elect it, so nothing comes home to it yet.
#[test]
fn who_is_heard_and_reaches_nobody_takes_nothing_over() {
    net::run(3, async |net| {
        let case = Case::start(net).await;
        case.net.cut(2);
        a_while().await;
        case.net.heal();
        case.net.cut_connecting_from(2);
        a_while().await;
        let hosts: Vec<_> = case.watch.turns(case.address).iter().map(|turn| turn.host).collect();
        assert!(hosts.len() == 2 && hosts[1] != case.net.mac("n2"), "it has not come home: {hosts:?}");
        case.net.heal();
        case.ends_well(SILENT).await;
    });
}

#[test]
fn two_hosts_lose_sight_of_each_other_and_nobody_minds() {
    net::run(3, async |net| {
        let case = Case::start(net).await;
        let before = case.cluster.elections();
        case.net.cut_between(2, 3);
        a_while().await;
        case.net.heal();
        a_while().await;
        assert_eq!(case.cluster.elections(), before, "both have a majority without each other");
        assert_eq!(case.watch.turns(case.address).len(), 1);
        call::heard_each_other(&case.talks, MOVED);
    });
}

/// The same by IPv6: neighbours hear an advertisement, signalling and media go on.
#[test]
fn a_process_is_killed_that_has_ipv6_addresses() {
    net::run(3, async |net| {
        let users = vec![("u0001".into(), "pu0001".into()), ("u0002".into(), "pu0002".into())];
        let cluster = Cluster::at_with(&net, users, |config| {
            for vnode in &mut config.cluster.vnode {
                vnode.address = Some(net.vnode_v6(vnode.id.0).into());
            }
        });
        let mut case = Case::on(net.clone(), cluster.await, Watch::start()).await;
        case.cluster.kill(2);
        tokio::time::sleep(Duration::from_secs(1)).await;
        case.cluster.start_again(2);
        case.ends_well(DEAD).await;
    });
}

/// An operator's command moves the addresses. Nobody takes them away from the dead, whose kernel answers to them still.
#[test]
fn a_process_is_killed_and_a_command_moves_the_address() {
    net::run(3, async |net| {
        let mut case = Case::on(net.clone(), Cluster::hooked(&net, 2).await, Watch::start()).await;
        case.cluster.kill(2);
        a_while().await;
        case.cluster.start_again(2);
        case.ends_well(DEAD).await;
    });
}

/// Nor from the frozen: what came to it meanwhile is still there when it thaws, and its fence is all that keeps it silent.
#[test]
fn a_process_freezes_and_a_command_moves_the_address() {
    net::run(3, async |net| {
        let case = Case::on(net.clone(), Cluster::hooked(&net, 2).await, Watch::start()).await;
        case.cluster.freeze(2, true);
        a_while().await;
        case.cluster.freeze(2, false);
        case.ends_well(SILENT).await;
    });
}

/// Who keeps a vnode because all others are dead freezes, and they come back: they wait until it holds nothing any more, and it finds itself
/// fenced.
#[test]
fn a_custodian_freezes_while_the_others_come_back() {
    net::run(3, async |net| {
        let mut case = Case::start(net).await;
        case.cluster.kill(1);
        case.cluster.kill(3);
        until("node 2 keeps its vnodes", PATIENCE, || async {
            let cluster = case.cluster.api(2).get("/v1/cluster").await.unwrap();
            cluster["vnodes"].as_array().unwrap().iter().all(|vnode| vnode["here"] == "custodian")
        })
        .await;
        case.cluster.freeze(2, true);
        case.cluster.start_again(1);
        case.cluster.start_again(3);
        until("another has its vnode", PATIENCE, || async { case.watch.turns(case.address).len() > 1 }).await;
        a_while().await;
        case.cluster.freeze(2, false);
        let Case { net, cluster, watch, phones: (mut a, mut b), talks, address } = case;
        cluster.at_home().await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(talks.iter().all(|talk| talk.heard().silence().is_some_and(|silence| silence < MOVED)), "the call goes on");
        let (hung_up, ended) = tokio::join!(a.hang_up(), b.wait_for_bye());
        hung_up.and(ended).unwrap();
        let turns = watch.turns(address);
        let hosts: Vec<_> = turns.iter().map(|turn| turn.host).collect();
        assert!(hosts.len() == 3 && hosts[0] == hosts[2], "out and home again: {turns:?}");
        for vnode in 1..=6 {
            // At home, with node 2, with whoever was elected, and home again.
            let turns = watch.turns(net.vnode(vnode));
            assert!(turns.len() <= 4, "vnode {vnode}: {turns:?}");
        }
        until("one CDR", PATIENCE, || async { cluster.count(1, "/v1/cdrs", "total").await == 1 }).await;
    });
}

/// Twenty frames in a hundred between the nodes: replication is slower, calls begin and end, nothing moves.
#[test]
fn a_lossy_link_moves_nothing() {
    net::run(3, async |net| {
        let case = Case::start(net).await;
        let before = case.cluster.elections();
        case.net.lose(20);
        let Case { cluster, phones: (mut a, mut b), talks, .. } = case;
        for _ in 0..5 {
            let (hung_up, ended) = tokio::join!(a.hang_up(), b.wait_for_bye());
            hung_up.and(ended).unwrap();
            let (called, answered) = tokio::join!(a.call(&cluster.users[1].0), b.answer());
            called.and(answered).unwrap();
        }
        drop(talks);
        assert_eq!(cluster.elections(), before, "nobody was taken for dead");
        case.net.heal();
        let (hung_up, ended) = tokio::join!(a.hang_up(), b.wait_for_bye());
        hung_up.and(ended).unwrap();
        until("six CDRs", PATIENCE, || async { cluster.count(1, "/v1/cdrs", "total").await == 6 }).await;
    });
}

/// 10 to 30 ms each way between the nodes: everything takes longer, nothing moves, and a death is noticed as soon.
#[test]
fn a_slow_link_moves_nothing_and_a_death_is_survived_on_it() {
    net::run(3, async |net| {
        let mut case = Case::start(net).await;
        case.net.slow(Delay { least: Duration::from_millis(10), jitter: Duration::from_millis(20) });
        tokio::time::sleep(Duration::from_secs(2)).await;
        let before = case.cluster.elections();
        let [a, b] = &mut case.talks;
        a.take_gap();
        b.take_gap();
        tokio::time::sleep(Duration::from_secs(5)).await;
        call::heard_each_other(&case.talks, MOVED);
        assert_eq!(case.cluster.elections(), before, "nobody was taken for dead");
        case.cluster.kill(2);
        tokio::time::sleep(Duration::from_secs(1)).await;
        case.cluster.start_again(2);
        // To notice, to ask, to vote, to promise and to commit: each crosses the link, and crosses it back.
        case.ends_well(DEAD + Duration::from_millis(30) * 14).await;
    });
}

/// Two busy loops a core: beats come through, and nobody is taken for dead. `make busy` does it for an hour.
#[test]
fn a_busy_machine_makes_no_elections() {
    let seconds = std::env::var("BUSY_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(20);
    net::run(3, async |net| {
        let case = Case::start(net).await;
        let before = case.cluster.elections();
        let busy = Busy::two_a_core();
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        drop(busy);
        let needless = case.cluster.elections() - before;
        println!("{needless} elections in {seconds} s, two busy loops a core");
        assert!(needless * 3600 <= usize::try_from(seconds).unwrap(), "{needless}");
        assert!(case.watch.turns(case.address).len() <= 1 + 2 * needless);
    });
}

/// Power loss of all at once: registrations and calls are those of the longest log, and the calls can be hung up.
#[test]
fn all_hosts_lose_power_at_once() {
    net::run(3, async |net| {
        let case = Case::start(net).await;
        let Case { net, mut cluster, phones: (mut a, mut b), talks, .. } = case;
        tokio::time::sleep(Duration::from_secs(1)).await;
        for node in 1..=3 {
            net.power_off(node);
            cluster.reap(node);
        }
        for node in 1..=3 {
            net.power_on(node);
            cluster.start_again(node);
        }
        cluster.at_home().await;
        assert_eq!(cluster.count(1, "/v1/registrations", "total").await, 2);
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(talks.iter().all(|talk| talk.heard().silence().is_some_and(|silence| silence < MOVED)), "the call goes on");
        let (hung_up, ended) = tokio::join!(a.hang_up(), b.wait_for_bye());
        hung_up.and(ended).unwrap();
        until("one CDR", PATIENCE, || async { cluster.count(1, "/v1/cdrs", "total").await == 1 }).await;
    });
}

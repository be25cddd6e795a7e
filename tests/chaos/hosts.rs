//! Hosts of their own, on one link: killed, frozen, cut off on either side. Whatever it is, a call goes on, nobody is answered
//! for twice, and who comes back finds itself fenced.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tandem::cli::demo::phone::Phone;
use tandem::cli::demo::talk::Talk;

use crate::lab::cluster::{Cluster, PATIENCE};
use crate::lab::net::{self, Net, Watch};
use crate::lab::{call, until};

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
        let cluster = Cluster::at(&net, 2).await;
        let watch = Watch::start();
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
        case.cluster.kill(2);
        a_while().await;
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
        assert!(case.talks.iter().all(|talk| talk.heard().lost() <= 20 * 2), "two packets a move");
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

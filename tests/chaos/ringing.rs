//! A call that rings while something is lost, and is answered afterwards: every loss that an established call lives through
//! (`hosts`, `comeback`) is one that a ringing call lives through.

use std::sync::Arc;
use std::time::Duration;

use tandem::cli::demo::phone::Phone;
use tandem::cli::demo::talk::Talk;
use tokio::net::UdpSocket;

use crate::lab::cluster::{Cluster, PATIENCE};
use crate::lab::net::{self, Net, Watch};
use crate::lab::wire::Delay;
use crate::lab::{Busy, call, until};

/// When it is struck, and when it is answered.
const STRUCK: Duration = Duration::from_millis(700);
const ANSWERED: Duration = Duration::from_millis(2500);
/// Both are heard again within this.
const HEARD: Duration = Duration::from_millis(500);

/// Who has the call when it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// Who had it before.
    Same,
    /// Somebody else.
    Other,
    /// Whoever.
    Any,
}

/// A call rings at node 2 while something happens, is answered, and goes its way.
async fn rings_on(net: Arc<Net>, then: Then, fault: impl AsyncFnOnce(&Net, &mut Cluster)) {
    let cluster = Cluster::at(&net, 2).await;
    rings_on_in(cluster, net, then, fault).await;
}

async fn rings_on_in(cluster: Cluster, net: Arc<Net>, then: Then, fault: impl AsyncFnOnce(&Net, &mut Cluster)) {
    let phones = [call::phone(&cluster, 0, 2).await, call::phone(&cluster, 1, 1).await];
    rings_between(phones, cluster, net, then, fault).await;
}

async fn rings_between(
    phones: [(Phone, UdpSocket); 2],
    mut cluster: Cluster,
    net: Arc<Net>,
    then: Then,
    fault: impl AsyncFnOnce(&Net, &mut Cluster),
) {
    let watch = Watch::start();
    let [(mut a, a_media), (mut b, b_media)] = phones;
    b.register().await.unwrap();
    let callee = cluster.users[1].0.clone();
    let address = cluster.sip_of(2).ip();
    let (called, answered, ()) = tokio::join!(
        a.call(&callee),
        async {
            let ringing = b.ring(ANSWERED).await?;
            b.pick_up(&ringing).await
        },
        async {
            tokio::time::sleep(STRUCK).await;
            fault(&net, &mut cluster).await;
        }
    );
    let talks = [Talk::start(a_media, called.unwrap()), Talk::start(b_media, answered.unwrap())];
    let hosts = watch.turns(address).len();
    match then {
        Then::Same => assert_eq!(hosts, 1, "it was answered where it began"),
        Then::Other => assert_eq!(hosts, 2, "it was answered elsewhere"),
        Then::Any => {}
    }
    tokio::time::sleep(HEARD).await;
    call::heard_each_other(&talks, HEARD);
    let (hung_up, ended) = tokio::join!(b.hang_up(), a.wait_for_bye());
    hung_up.and(ended).unwrap();
    net.heal();
    until("one CDR", PATIENCE, || async { cluster.count(1, "/v1/cdrs", "total").await == 1 }).await;
    assert_eq!(a.went_back() + b.went_back(), 0);
    // What is frozen can't be ended.
    net.freeze(2, false);
}

#[test]
fn the_process_is_killed() {
    net::run(3, async |net| rings_on(net, Then::Other, async |_, cluster| cluster.kill(2)).await);
}

/// What the callee says of itself while it rings it says once: the 200 has no description (RFC 3262 §5).
#[test]
fn the_process_is_killed_while_phones_ring_reliably() {
    net::run(3, async |net| {
        let cluster = Cluster::at(&net, 2).await;
        let mut phones = [call::phone(&cluster, 0, 2).await, call::phone(&cluster, 1, 1).await];
        phones.iter_mut().for_each(|(phone, _)| phone.set_reliable());
        rings_between(phones, cluster, net, Then::Other, async |_, cluster| cluster.kill(2)).await;
    });
}

#[test]
fn a_follower_is_killed() {
    net::run(3, async |net| rings_on(net, Then::Same, async |_, cluster| cluster.kill(3)).await);
}

#[test]
fn the_process_freezes() {
    net::run(3, async |net| rings_on(net, Then::Other, async |_, cluster| cluster.freeze(2, true)).await);
}

#[test]
fn the_host_freezes_whole() {
    net::run(3, async |net| rings_on(net, Then::Other, async |net, _| net.freeze(2, true)).await);
}

#[test]
fn the_host_is_cut_off() {
    net::run(3, async |net| rings_on(net, Then::Other, async |net, _| net.cut(2)).await);
}

#[test]
fn the_host_is_not_heard_any_more() {
    net::run(3, async |net| rings_on(net, Then::Other, async |net, _| net.cut_from(2)).await);
}

#[test]
fn the_host_hears_nothing_any_more() {
    net::run(3, async |net| rings_on(net, Then::Other, async |net, _| net.cut_to(2)).await);
}

#[test]
fn the_machine_is_as_busy_as_it_can_be() {
    net::run(3, async |net| {
        let mut busy = Vec::new();
        rings_on(net, Then::Same, async |_, _| busy = Busy::two_a_core()).await;
        drop(busy);
    });
}

#[test]
fn the_cable_is_pulled() {
    net::run(3, async |net| rings_on(net, Then::Other, async |net, _| net.pull(2, true)).await);
}

#[test]
fn two_hosts_lose_sight_of_each_other() {
    net::run(3, async |net| rings_on(net, Then::Same, async |net, _| net.cut_between(2, 3)).await);
}

#[test]
fn a_fifth_of_the_frames_between_nodes_is_lost() {
    net::run(3, async |net| rings_on(net, Then::Same, async |net, _| net.lose(20)).await);
}

/// 10 to 30 ms each way between the nodes, and a death.
#[test]
fn the_process_is_killed_and_links_are_slow() {
    net::run(3, async |net| {
        let cluster = Cluster::at(&net, 2).await;
        net.slow(Delay { least: Duration::from_millis(10), jitter: Duration::from_millis(20) });
        tokio::time::sleep(Duration::from_secs(2)).await;
        cluster.at_home().await;
        rings_on_in(cluster, net, Then::Other, async |_, cluster| cluster.kill(2)).await;
    });
}

#[test]
fn the_process_is_killed_while_another_catches_up() {
    net::run(3, async |net| {
        let mut cluster = Cluster::at(&net, 2).await;
        cluster.kill(3);
        tokio::time::sleep(Duration::from_secs(1)).await;
        rings_on_in(cluster, net, Then::Any, async |_, cluster| {
            cluster.start_again(3);
            cluster.kill(2);
        })
        .await;
    });
}

#[test]
fn the_host_loses_power() {
    net::run(3, async |net| {
        rings_on(net, Then::Other, async |net, cluster| {
            net.power_off(2);
            cluster.reap(2);
        })
        .await;
    });
}

#[test]
fn all_hosts_lose_power() {
    net::run(3, async |net| {
        rings_on(net, Then::Any, async |net, cluster| {
            for node in 1..=3 {
                net.power_off(node);
                cluster.reap(node);
            }
            for node in 1..=3 {
                net.power_on(node);
                cluster.start_again(node);
            }
        })
        .await;
    });
}

/// The answer is a new promise: it waits until there is a majority again.
#[test]
fn two_nodes_are_killed_and_one_comes_back() {
    net::run(3, async |net| {
        rings_on(net, Then::Same, async |_, cluster| {
            cluster.kill(1);
            cluster.kill(3);
            // It is answered meanwhile.
            tokio::time::sleep(ANSWERED).await;
            cluster.start_again(1);
        })
        .await;
    });
}

#[test]
fn every_disk_stalls() {
    net::run(3, async |net| {
        rings_on(net, Then::Other, async |_, cluster| {
            cluster.stall_disks(true);
            cluster.kill(2);
            // It is answered meanwhile.
            tokio::time::sleep(ANSWERED).await;
            cluster.stall_disks(false);
        })
        .await;
    });
}

#[test]
fn clocks_are_stepped_by_hours() {
    net::run(3, async |net| {
        let clocks = tempfile::tempdir().unwrap();
        net.step_clocks(clocks.path());
        rings_on(net, Then::Same, async |net, _| {
            net.step_clock(clocks.path(), 2, 3600);
            net.step_clock(clocks.path(), 3, -3600);
        })
        .await;
    });
}

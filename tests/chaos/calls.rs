//! An established call goes on: same dialog, same media, and either side can hang up.

use std::net::SocketAddr;
use std::time::Duration;

use crate::lab::baresip::Baresip;
use crate::lab::cluster::{Cluster, PATIENCE};
use crate::lab::{net, tone, until};

const TALK: Duration = Duration::from_secs(2);
/// Of a call of four seconds, in tenths: what may be missing at its begin, its end and at the takeover.
pub const MISSING: usize = 8;
/// The same where the phones have to be asked to come along: a second more.
pub const MISSING_FIXED: usize = MISSING + 10;

async fn two_phones_talk_on(cluster: Cluster, caller_hangs_up: bool, fault: impl AsyncFnOnce(&mut Cluster)) {
    miss_at_most(MISSING, cluster, caller_hangs_up, fault).await;
}

async fn miss_at_most(missing: usize, cluster: Cluster, caller_hangs_up: bool, fault: impl AsyncFnOnce(&mut Cluster)) {
    let servers = [cluster.sip_of(2), cluster.sip_of(1)];
    phones_miss_at_most(missing, servers, cluster, caller_hangs_up, fault).await;
}

/// The call is at home on node 2, by which the caller is registered; the callee is by another.
async fn phones_miss_at_most(
    missing: usize,
    servers: [SocketAddr; 2],
    cluster: Cluster,
    caller_hangs_up: bool,
    fault: impl AsyncFnOnce(&mut Cluster),
) {
    let users = cluster.users.clone();
    let a = Baresip::start(&users[0].0, &users[0].1, servers[0], 440);
    let b = Baresip::start(&users[1].0, &users[1].1, servers[1], 880);
    these_talk_on(missing, [a, b], cluster, caller_hangs_up, fault).await;
}

/// The first calls the second; they sound at 440 and 880 Hz. Gives them back when the call is over.
pub async fn these_talk_on(
    missing: usize,
    [mut a, mut b]: [Baresip; 2],
    mut cluster: Cluster,
    caller_hangs_up: bool,
    fault: impl AsyncFnOnce(&mut Cluster),
) -> [Baresip; 2] {
    a.dial(&cluster.users[1].0.clone());
    b.wait_for("CALL_ESTABLISHED");
    tokio::time::sleep(TALK).await;
    let calls = cluster.api(1).get("/v1/calls").await.unwrap();
    assert_eq!((&calls["total"], &calls["calls"][0]["owner"]), (&1.into(), &2.into()), "{calls}");
    fault(&mut cluster).await;
    tokio::time::sleep(TALK).await;
    assert!(!a.saw("CALL_CLOSED") && !b.saw("CALL_CLOSED"));
    if caller_hangs_up {
        a.hang_up()
    } else {
        b.hang_up()
    }
    a.wait_for("CALL_CLOSED");
    b.wait_for("CALL_CLOSED");
    for (phone, hz) in [(&a, 880.0), (&b, 440.0)] {
        let heard = tone::heard(&phone.recording(), hz);
        let good = heard.iter().filter(|good| **good).count();
        assert!(heard.len() >= 35 && good + missing >= heard.len(), "{hz} Hz: {heard:?}");
        // It is there at the end, and not only at the beginning.
        assert!(heard[heard.len() - 8..heard.len() - 3].iter().all(|good| *good), "{hz} Hz: {heard:?}");
    }
    until("one CDR and no port", PATIENCE, || async {
        let (one, three) =
            (cluster.count(1, "/v1/cluster", "media_ports").await, cluster.count(3, "/v1/cluster", "media_sockets").await);
        let cdrs = cluster.api(1).get("/v1/cdrs").await.unwrap();
        one + three == 0 && cdrs["total"] == 1 && cdrs["cdrs"][0]["ended_by"] == if caller_hangs_up { "caller" } else { "callee" }
    })
    .await;
    [a, b]
}

#[tokio::test(flavor = "multi_thread")]
async fn two_phones_talk_on_when_the_owner_is_killed_and_the_caller_hangs_up() {
    two_phones_talk_on(Cluster::start(2), true, async |cluster| cluster.kill(2)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_phones_talk_on_when_the_owner_is_killed_and_the_callee_hangs_up() {
    two_phones_talk_on(Cluster::start(2), false, async |cluster| cluster.kill(2)).await;
}

#[test]
fn two_phones_talk_on_when_the_owner_freezes() {
    net::run(3, async |net| two_phones_talk_on(Cluster::at(&net, 2).await, true, async |cluster| cluster.freeze(2, true)).await);
}

#[test]
fn two_phones_talk_on_when_the_owners_host_is_cut_off() {
    net::run(3, async |net| two_phones_talk_on(Cluster::at(&net, 2).await, false, async |_| net.cut(2)).await);
}

/// By IPv6.
#[test]
fn two_phones_talk_on_when_the_owner_is_killed_that_has_ipv6_addresses() {
    net::run(3, async |net| {
        let users = (1..=2).map(|n| (format!("u{n:04}"), format!("pu{n:04}"))).collect();
        let cluster = Cluster::at_with(&net, users, |config| {
            for vnode in &mut config.cluster.vnode {
                vnode.address = Some(net.vnode_v6(vnode.id.0).into());
            }
        });
        two_phones_talk_on(cluster.await, true, async |cluster| cluster.kill(2)).await;
    });
}

/// One of each family, either calls the other.
#[test]
fn two_phones_of_both_families_talk_on_when_the_owner_is_killed() {
    net::run(3, async |net| {
        let cluster = Cluster::of_both_families(&net, 2).await;
        let servers = [cluster.sip_of(2), cluster.sip_v6_of(1)];
        phones_miss_at_most(MISSING, servers, cluster, true, async |cluster| cluster.kill(2)).await;
    });
}

#[test]
fn two_phones_of_both_families_talk_on_when_the_owners_host_is_cut_off() {
    net::run(3, async |net| {
        let cluster = Cluster::of_both_families(&net, 2).await;
        let servers = [cluster.sip_v6_of(2), cluster.sip_of(1)];
        phones_miss_at_most(MISSING, servers, cluster, false, async |_| net.cut(2)).await;
    });
}

#[test]
fn two_phones_come_along_when_the_owner_is_killed_and_addresses_are_fixed() {
    net::run(3, async |net| {
        miss_at_most(MISSING_FIXED, Cluster::fixed(&net, 2).await, true, async |cluster| cluster.kill(2)).await;
    });
}

#[test]
fn two_phones_come_along_when_the_owners_host_is_cut_off_and_addresses_are_fixed() {
    net::run(3, async |net| miss_at_most(MISSING_FIXED, Cluster::fixed(&net, 2).await, false, async |_| net.cut(2)).await);
}

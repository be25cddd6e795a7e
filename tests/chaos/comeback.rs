//! A dead node comes back, with its disk or without: it catches up, takes its vnodes home, and no call notices.

use std::time::Duration;

use crate::lab::cluster::{Cluster, PATIENCE};
use crate::lab::{call, until};

/// The longest that a call may be without sound, over the death and the way home: what the promise allows a takeover.
const GAP: Duration = Duration::from_millis(300);

async fn comes_back(empty_handed: bool) {
    let mut cluster = Cluster::start(2);
    let (mut a, a_media) = call::phone(&cluster, 0, 2).await;
    let (mut b, b_media) = call::phone(&cluster, 1, 1).await;
    a.register().await.unwrap();
    b.register().await.unwrap();
    let talks = call::between(&cluster, (&mut a, a_media), (&mut b, b_media)).await;
    cluster.kill(2);
    if empty_handed {
        cluster.wipe(2).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    cluster.start_again(2);
    cluster.at_home().await;
    let calls = cluster.api(2).get("/v1/calls").await.unwrap();
    assert_eq!((&calls["total"], &calls["calls"][0]["owner"]), (&1.into(), &2.into()), "{calls}");
    tokio::time::sleep(Duration::from_secs(1)).await;
    call::heard_each_other(&talks, GAP);
    let (hung_up, ended) = tokio::join!(b.hang_up(), a.wait_for_bye());
    hung_up.and(ended).unwrap();
    until("one CDR", PATIENCE, || async { cluster.count(2, "/v1/cdrs", "total").await == 1 }).await;
    // What came back remembers: registrations and users are there.
    assert_eq!(cluster.count(2, "/v1/registrations", "total").await, 2);
    assert_eq!(cluster.count(2, "/v1/users", "total").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_comes_back_with_its_disk() {
    comes_back(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_comes_back_empty_handed() {
    comes_back(true).await;
}

/// One is on its way back, and not ready, when another dies.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_dies_while_another_catches_up() {
    let mut cluster = Cluster::start(2);
    let (mut a, a_media) = call::phone(&cluster, 0, 2).await;
    let (mut b, b_media) = call::phone(&cluster, 1, 1).await;
    b.register().await.unwrap();
    cluster.kill(3);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let talks = call::between(&cluster, (&mut a, a_media), (&mut b, b_media)).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    cluster.start_again(3);
    cluster.kill(2);
    tokio::time::sleep(Duration::from_secs(1)).await;
    call::heard_each_other(&talks, GAP * 2);
    let (hung_up, ended) = tokio::join!(b.hang_up(), a.wait_for_bye());
    hung_up.and(ended).unwrap();
    until("one CDR", PATIENCE, || async { cluster.count(1, "/v1/cdrs", "total").await == 1 }).await;
}

//! What is planned costs a packet or two: moves, drains, restarts one after another.

use std::time::Duration;

use tandem::cli::demo::talk::Talk;

use crate::lab::cluster::{Cluster, PATIENCE};
use crate::lab::load::{self, Running};
use crate::lab::sipp::Load;
use crate::lab::{call, until};

/// The longest that a stream may be silent over a planned move: what the promise allows a death.
const GAP: Duration = Duration::from_millis(100);
/// So many packets of a stream may a move cost.
const LOST: u64 = 2;

fn unnoticed(talks: &[Talk; 2], moves: u64) {
    call::heard_each_other(talks, GAP);
    for heard in talks.iter().map(Talk::heard) {
        assert!(heard.lost() <= LOST * moves, "{} packets lost by {moves} moves", heard.lost());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_moves_about_and_a_drained_node_is_empty() {
    let mut cluster = Cluster::start(2);
    let (mut a, a_media) = call::phone(&cluster, 0, 2).await;
    let (mut b, b_media) = call::phone(&cluster, 1, 1).await;
    b.register().await.unwrap();
    let talks = call::between(&cluster, (&mut a, a_media), (&mut b, b_media)).await;
    for node in ["3", "1", "2", "1", "3", "2"] {
        assert_eq!(cluster.command(&["move", "2", node]).await, Ok(format!("vnode 2 is on node {node}")));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    unnoticed(&talks, 6);
    assert_eq!(cluster.command(&["drain", "2"]).await, Ok("node 2 is empty".into()));
    let ready = cluster.api(2).get("/readyz").await.map_err(|error| error.to_string());
    assert!(ready.unwrap_err().contains("being drained"));
    let calls = cluster.api(2).get("/v1/calls").await.unwrap();
    assert!(calls["total"] == 1 && calls["calls"][0]["owner"] != 2, "{calls}");
    // It stays empty over its own restart: nothing comes to it, not even for a moment.
    cluster.stop(2).await;
    let before = cluster.log(2).len();
    cluster.start_again(2);
    until("node 2 is back", PATIENCE, || async { cluster.log(2)[before..].contains("\"message\":\"ready\"") }).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let since = cluster.log(2)[before..].to_owned();
    assert!(!since.contains("\"message\":\"ownership\""), "{since}");
    assert_eq!(cluster.command(&["undrain", "2"]).await, Ok("node 2 has its vnodes".into()));
    cluster.at_home().await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    unnoticed(&talks, 8);
    let (hung_up, ended) = tokio::join!(a.hang_up(), b.wait_for_bye());
    hung_up.and(ended).unwrap();
    assert!(cluster.command(&["move", "2", "9"]).await.unwrap_err().contains("no such node"));
    assert!(cluster.command(&["move", "77", "1"]).await.unwrap_err().contains("no such vnode"));
    until("one CDR", PATIENCE, || async { cluster.count(1, "/v1/cdrs", "total").await == 1 }).await;
}

/// `make upgrade-test`: what an operator does with a new release.
#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_restart_one_after_another_under_load() {
    let load = Load { calls: 400, per_second: 20, talk: 2000 };
    let Running { mut cluster, caller, callee: _callee } = load::start(load).await;
    let (mut a, a_media) = call::phone(&cluster, 0, 2).await;
    let (mut b, b_media) = call::phone(&cluster, 1, 1).await;
    b.register().await.unwrap();
    let talks = call::between(&cluster, (&mut a, a_media), (&mut b, b_media)).await;
    for node in 1..=3 {
        cluster.stop(node).await;
        cluster.start_again(node);
        cluster.at_home().await;
    }
    let counts = caller.done().await;
    assert_eq!((counts.succeeded, counts.failed), (load.calls as u64, 0), "{counts:?}");
    // The vnode of their call left its home once, and came back once; it may have had to leave its refuge too.
    unnoticed(&talks, 4);
    let (hung_up, ended) = tokio::join!(b.hang_up(), a.wait_for_bye());
    hung_up.and(ended).unwrap();
    load::settled(&cluster, load.calls as u64 + 1).await;
}

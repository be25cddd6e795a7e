//! Twenty calls a second for a minute, with and without a death in between.

use std::time::Duration;

use crate::lab::load::{Running, settled, start};
use crate::lab::sipp::Load;

const CALLS: usize = 1200;
const MINUTE: Load = Load { calls: CALLS, per_second: 20, talk: 3000 };

#[tokio::test(flavor = "multi_thread")]
async fn twenty_calls_a_second_for_a_minute() {
    let Running { cluster, caller, callee: _callee } = start(MINUTE).await;
    let counts = caller.done().await;
    assert_eq!((counts.succeeded, counts.failed, counts.retransmissions), (CALLS as u64, 0, 0), "{counts:?}");
    settled(&cluster, CALLS as u64).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_calls_a_second_while_their_node_dies_and_comes_back() {
    let Running { mut cluster, caller, callee: _callee } = start(MINUTE).await;
    tokio::time::sleep(Duration::from_secs(15)).await;
    // The node by which all of them come in.
    cluster.kill(2);
    tokio::time::sleep(Duration::from_secs(10)).await;
    cluster.start_again(2);
    cluster.at_home().await;
    let counts = caller.done().await;
    assert_eq!((counts.succeeded, counts.failed), (CALLS as u64, 0), "{counts:?}");
    settled(&cluster, CALLS as u64).await;
}

/// Every call of one kind or another is cut somewhere, again and again, and what has ended is not told to phones anew.
#[tokio::test(flavor = "multi_thread")]
async fn sixty_calls_a_second_while_their_node_dies_six_times() {
    let load = Load { calls: 60 * 20, per_second: 60, talk: 500 };
    let Running { mut cluster, caller, callee } = start(load).await;
    for _ in 0..6 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        cluster.kill(2);
        tokio::time::sleep(Duration::from_secs(1)).await;
        cluster.start_again(2);
        cluster.at_home().await;
    }
    let counts = caller.done().await;
    assert_eq!((counts.succeeded, counts.failed), (load.calls as u64, 0), "{counts:?}");
    settled(&cluster, load.calls as u64).await;
    // A death repeats what may have been lost with it, and that is a handful of messages.
    let repeated = callee.counts().retransmissions;
    assert!(repeated < load.calls as u64 / 10, "{repeated} repetitions at the callees");
}

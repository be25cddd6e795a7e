//! Twenty calls a second for a minute, with and without a death in between.

use std::time::Duration;

use crate::lab::cluster::{Cluster, PATIENCE};
use crate::lab::sipp::{Line, Load, Sipp};
use crate::lab::until;

const CALLS: usize = 1200;
const MINUTE: Load = Load { calls: CALLS, per_second: 20, talk: 3000 };
const USERS: usize = 100;

struct Running {
    cluster: Cluster,
    caller: Sipp,
    callee: Sipp,
}

async fn start(load: Load) -> Running {
    let cluster = Cluster::start(USERS);
    let callee = Sipp::waiting("callee");
    let line = |n: usize, last: String| Line { user: &cluster.users[n].0, password: &cluster.users[n].1, last };
    let registering: Vec<_> = (0..USERS).map(|n| line(n, callee.contact())).collect();
    let register = Load { calls: USERS, per_second: 100, talk: 0 };
    let registered = Sipp::toward(cluster.sip_of(1), "register", &registering, &register).done().await;
    assert_eq!((registered.succeeded, registered.failed), (USERS as u64, 0), "{registered:?}");
    let calling: Vec<_> = (0..USERS).map(|n| line(n, cluster.users[(n + 1) % USERS].0.clone())).collect();
    let caller = Sipp::toward(cluster.sip_of(2), "caller", &calling, &load);
    Running { cluster, caller, callee }
}

/// Every call has its CDR, and nothing is left of it.
async fn settled(cluster: &Cluster, cdrs: u64) {
    until("every call has its CDR and no port is open", PATIENCE, || async {
        let mut ports = 0;
        for node in 1..=3 {
            ports += cluster.count(node, "/v1/cluster", "media_sockets").await
                + cluster.count(node, "/v1/cluster", "media_ports").await;
        }
        ports == 0 && cluster.count(1, "/v1/cdrs?limit=0", "total").await == cdrs
    })
    .await;
}

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

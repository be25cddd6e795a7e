//! Twenty calls a second for a minute, with and without a death in between.

use std::time::Duration;

use crate::lab::cluster::{Cluster, PATIENCE};
use crate::lab::sipp::{Line, Load, Sipp, free_udp_port};
use crate::lab::until;

const CALLS: usize = 1200;
const TALK: u64 = 3000;
const USERS: usize = 100;

struct Running {
    cluster: Cluster,
    caller: Sipp,
    _callee: Sipp,
}

async fn start() -> Running {
    let cluster = Cluster::start(USERS);
    let contact = free_udp_port();
    let callee = Sipp::waiting(contact, "callee");
    let line = |n: usize, last: String| Line { user: &cluster.users[n].0, password: &cluster.users[n].1, last };
    let registering: Vec<_> = (0..USERS).map(|n| line(n, format!("127.0.0.1:{contact}"))).collect();
    let register = Load { calls: USERS, per_second: 100, talk: 0 };
    let registered = Sipp::toward(cluster.sip_of(1), "register", &registering, &register).done().await;
    assert_eq!((registered.succeeded, registered.failed), (USERS as u64, 0), "{registered:?}");
    let calling: Vec<_> = (0..USERS).map(|n| line(n, cluster.users[(n + 1) % USERS].0.clone())).collect();
    let load = Load { calls: CALLS, per_second: 20, talk: TALK };
    let caller = Sipp::toward(cluster.sip_of(2), "caller", &calling, &load);
    Running { cluster, caller, _callee: callee }
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
    let Running { cluster, caller, _callee } = start().await;
    let counts = caller.done().await;
    assert_eq!((counts.succeeded, counts.failed, counts.retransmissions), (CALLS as u64, 0, 0), "{counts:?}");
    settled(&cluster, CALLS as u64).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_calls_a_second_while_their_node_dies_and_comes_back() {
    let Running { mut cluster, caller, _callee } = start().await;
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

//! Many calls at once: each is challenged, answered, talked and hung up.

use super::cluster::{Cluster, PATIENCE};
use super::sipp::{Line, Load, Sipp};
use super::until;

const USERS: usize = 100;
/// The first users are left to the phones of the test.
const FIRST: usize = 2;

/// A cluster under load.
pub struct Running {
    pub cluster: Cluster,
    pub caller: Sipp,
    pub callee: Sipp,
}

/// Starts three nodes, registers everybody, and begins to call.
pub async fn start(load: Load) -> Running {
    start_on(Cluster::start(FIRST + USERS), load).await
}

/// So many users a cluster under load needs.
pub const ALL_USERS: usize = FIRST + USERS;

/// Registers everybody, and begins to call.
pub async fn start_on(cluster: Cluster, load: Load) -> Running {
    let users = &cluster.users[FIRST..];
    let callee = Sipp::waiting("callee");
    let line = |n: usize, last: String| Line { user: &users[n].0, password: &users[n].1, last };
    let registering: Vec<_> = (0..USERS).map(|n| line(n, callee.contact())).collect();
    let register = Load { calls: USERS, per_second: 100, talk: 0 };
    let registered = Sipp::toward(cluster.sip_of(1), "register", &registering, &register).done().await;
    assert_eq!((registered.succeeded, registered.failed), (USERS as u64, 0), "{registered:?}");
    let calling: Vec<_> = (0..USERS).map(|n| line(n, users[(n + 1) % USERS].0.clone())).collect();
    let caller = Sipp::toward(cluster.sip_of(2), "caller", &calling, &load);
    Running { cluster, caller, callee }
}

/// Every call has its CDR, and nothing is left of it.
pub async fn settled(cluster: &Cluster, cdrs: u64) {
    until("every call has its CDR and no port is open", PATIENCE, || async {
        let mut ports = 0;
        for node in cluster.present() {
            ports += cluster.count(node, "/v1/cluster", "media_sockets").await
                + cluster.count(node, "/v1/cluster", "media_ports").await;
        }
        ports == 0 && cluster.count(cluster.present().next().unwrap(), "/v1/cdrs?limit=0", "total").await == cdrs
    })
    .await;
}

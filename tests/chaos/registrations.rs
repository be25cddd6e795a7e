//! Every registration that was answered 200 is still there: no phone has to register again.

use crate::lab::cluster::Cluster;
use crate::lab::sipp::{Line, Load, Sipp};

const USERS: usize = 1000;

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_registrations_outlive_any_node() {
    let mut cluster = Cluster::start(USERS);
    let busy = Sipp::waiting("busy");
    let users = cluster.users.clone();
    let lines = |last: &dyn Fn(usize) -> String| -> Vec<Line<'_>> {
        users.iter().enumerate().map(|(n, (user, password))| Line { user, password, last: last(n) }).collect()
    };
    let register = Load { calls: USERS, per_second: 200, talk: 0 };
    let registered = Sipp::toward(cluster.sip_of(1), "register", &lines(&|_| busy.contact()), &register).done().await;
    assert_eq!((registered.succeeded, registered.failed), (USERS as u64, 0), "{registered:?}");
    for victim in 1..=3 {
        cluster.kill(victim);
        // Each is called by another; the way in is a node that lives.
        let way_in = cluster.sip_of(victim % 3 + 1);
        let knock = Load { calls: USERS, per_second: 100, talk: 0 };
        let reached = Sipp::toward(way_in, "knock", &lines(&|n| users[(n + 1) % USERS].0.clone()), &knock).done().await;
        assert_eq!((reached.succeeded, reached.failed), (USERS as u64, 0), "node {victim} killed: {reached:?}");
        cluster.start_again(victim);
        cluster.at_home().await;
    }
    assert_eq!(cluster.count(3, "/v1/registrations?limit=0", "total").await, USERS as u64);
}

//! Nodes come and go, and no call notices: growth, departure, and a new node in the place of a dead one.

use std::collections::BTreeMap;
use std::time::Duration;

use hyper::Method;
use serde_json::Value;

use crate::lab::cluster::{Cluster, PATIENCE};
use crate::lab::load::{self, ALL_USERS, Running};
use crate::lab::sipp::Load;
use crate::lab::{call, until};

/// The longest that a stream may be silent when something is planned, and when a node is killed.
const GAP: Duration = Duration::from_millis(150);

/// How many vnodes each node is home of, and of how many it holds the records.
async fn shares(cluster: &Cluster, ask: usize) -> BTreeMap<u64, (usize, usize)> {
    let api = cluster.api(ask);
    until("the node has heard it all", PATIENCE, || async { api.get("/v1/cluster").await.unwrap()["settled"] == true }).await;
    let all = api.get("/v1/cluster").await.unwrap();
    let mut shares = BTreeMap::new();
    let numbers = |value: &Value| value.as_array().unwrap().iter().map(|node| node.as_u64().unwrap()).collect::<Vec<_>>();
    for vnode in all["vnodes"].as_array().unwrap() {
        let (held, wanted) = (numbers(&vnode["held_by"]), numbers(&vnode["replicas"]));
        assert_eq!(held.len(), wanted.len(), "{vnode}");
        assert_eq!((&vnode["home"], &vnode["owner"]), (&wanted[0].into(), &wanted[0].into()), "{vnode}");
        shares.entry(wanted[0]).or_insert((0, 0)).0 += 1;
        for node in held {
            shares.entry(node).or_insert((0, 0)).1 += 1;
        }
    }
    shares
}

async fn sees_all(cluster: &Cluster, registrations: u64) {
    for node in cluster.present() {
        until("every node sees every registration", PATIENCE, || async {
            let seen = cluster.api(node).get("/v1/registrations?limit=0").await;
            seen.is_ok_and(|seen| seen["total"] == registrations)
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_node_becomes_three_and_five_under_calls_and_its_founder_leaves() {
    let load = Load { calls: 900, per_second: 15, talk: 2000 };
    let Running { mut cluster, caller, callee: _callee } = load::start_on(Cluster::growing(1, 4, ALL_USERS).await, load).await;
    let (mut a, a_media) = call::phone(&cluster, 0, 2).await;
    let (mut b, b_media) = call::phone(&cluster, 1, 1).await;
    b.register().await.unwrap();
    let talks = call::between(&cluster, (&mut a, a_media), (&mut b, b_media)).await;
    for node in 2..=5 {
        assert_eq!(cluster.join(node, node - 1).await, Ok(format!("node {node} is a member")));
        cluster.at_home().await;
    }
    // Ten vnodes, three replicas each, five nodes.
    assert_eq!(shares(&cluster, 3).await, (1..=5).map(|node| (node, (2, 6))).collect());
    sees_all(&cluster, ALL_USERS as u64 - 1).await;
    assert_eq!(cluster.leave(1, 2).await, Ok("node 1 has left".into()));
    cluster.at_home().await;
    // Its word reaches the one that has left last of all.
    let knows =
        async || cluster.api(1).get("/readyz").await.is_err_and(|error| error.to_string().contains("none of the cluster's"));
    until("it knows that it has left", PATIENCE, knows).await;
    cluster.stop(1).await;
    cluster.kill(5);
    let counts = caller.done().await;
    assert_eq!((counts.succeeded, counts.failed), (load.calls as u64, 0), "{counts:?}");
    call::heard_each_other(&talks, GAP);
    cluster.start_again(5);
    cluster.at_home().await;
    assert!(shares(&cluster, 4).await.values().all(|(homes, held)| (2..=3).contains(homes) && (7..=8).contains(held)));
    sees_all(&cluster, ALL_USERS as u64 - 1).await;
    let (hung_up, ended) = tokio::join!(b.hang_up(), a.wait_for_bye());
    hung_up.and(ended).unwrap();
    load::settled(&cluster, load.calls as u64 + 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_node_takes_a_dead_ones_place() {
    let mut cluster = Cluster::growing(3, 1, 2).await;
    let (mut a, a_media) = call::phone(&cluster, 0, 2).await;
    let (mut b, b_media) = call::phone(&cluster, 1, 1).await;
    a.register().await.unwrap();
    b.register().await.unwrap();
    let talks = call::between(&cluster, (&mut a, a_media), (&mut b, b_media)).await;
    assert!(cluster.command(&["leave", "7"]).await.unwrap_err().contains("no such node"));
    cluster.kill(3);
    assert_eq!(cluster.join(4, 2).await, Ok("node 4 is a member".into()));
    assert_eq!(cluster.leave(3, 4).await, Ok("node 3 has left".into()));
    cluster.at_home().await;
    // The dead one comes back with all that it knew, and is nobody.
    cluster.start_again(3);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(cluster.api(3).get("/readyz").await.is_err());
    assert!(!cluster.log(3).rsplit("\"message\":\"starting\"").next().unwrap().contains("\"message\":\"ownership\""));
    // Two of the three that there are now are enough.
    cluster.kill(2);
    tokio::time::sleep(Duration::from_secs(1)).await;
    call::heard_each_other(&talks, GAP);
    let (hung_up, ended) = tokio::join!(b.hang_up(), a.wait_for_bye());
    hung_up.and(ended).unwrap();
    until("one CDR", PATIENCE, || async { cluster.count(4, "/v1/cdrs", "total").await == 1 }).await;
    assert_eq!(cluster.count(4, "/v1/registrations", "total").await, 2);
}

/// It is known, and dies before anything has come to it: who waits for it is let go, and another can come.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_dies_on_its_way_in_can_be_let_go() {
    let mut cluster = Cluster::growing(3, 2, 1).await;
    let (mut a, _media) = call::phone(&cluster, 0, 2).await;
    a.register().await.unwrap();
    // It never says a word: nobody can tell it from one that has just died.
    let joining = serde_json::json!({ "raft": "127.0.0.1:1", "actors": "127.0.0.1:2" });
    cluster.api(1).ask(Method::PUT, "/v1/nodes/4", Some(&joining)).await.unwrap();
    until("they wait for it", PATIENCE, || async { cluster.api(2).get("/v1/cluster").await.unwrap()["settled"] == false }).await;
    let busy = cluster.api(3).ask(Method::PUT, "/v1/nodes/5", Some(&joining)).await.unwrap_err().to_string();
    assert!(busy.contains("under way"), "{busy}");
    assert_eq!(cluster.command_at(2, &["leave", "4"]).await, Ok("node 4 has left".into()));
    assert_eq!(cluster.join(5, 3).await, Ok("node 5 is a member".into()));
    cluster.at_home().await;
    assert_eq!(shares(&cluster, 5).await.keys().copied().collect::<Vec<_>>(), [1, 2, 3, 5]);
    sees_all(&cluster, 1).await;
}

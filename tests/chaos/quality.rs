//! What is measured of a call is of all its owners, also when one of them is killed.

use std::time::Duration;

use serde_json::Value;

use crate::lab::baresip::Baresip;
use crate::lab::cluster::{Cluster, PATIENCE};
use crate::lab::until;

/// So many packets of each phone another node has heard of before the owner is killed: four seconds of them.
const TOLD: u64 = 200;
const TALK: Duration = Duration::from_secs(3);
/// What the next owner has heard by then at least.
const MORE: u64 = 100;

/// Packets from the caller and from the callee, of a call or of its CDR.
fn received(call: &Value) -> [u64; 2] {
    [0, 1].map(|leg| call["legs"][leg]["received"].as_u64().unwrap_or(0))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_has_the_figures_of_both_its_owners() {
    let mut cluster = Cluster::start(2);
    let phone = |n: usize| {
        let (user, password) = &cluster.users[n];
        Baresip::start(user, password, cluster.sip_of(2 - n), 440)
    };
    let [mut a, b] = [phone(0), phone(1)];
    a.dial(&cluster.users[1].0.clone());
    b.wait_for("CALL_ESTABLISHED");
    // Node 2 owns the call, and tells the others.
    let api = cluster.api(1);
    let the_call = async || api.get("/v1/calls").await.unwrap()["calls"][0].clone();
    until("node 1 has heard of them", PATIENCE, || async { received(&the_call().await).iter().all(|heard| *heard >= TOLD) })
        .await;
    let told = the_call().await;
    assert_eq!(told["owner"], 2, "{told}");
    cluster.kill(2);
    until("another owner", PATIENCE, || async { [1, 3].map(Value::from).contains(&the_call().await["owner"]) }).await;
    tokio::time::sleep(TALK).await;
    a.hang_up();
    a.wait_for("CALL_CLOSED");
    b.wait_for("CALL_CLOSED");
    until("one CDR", PATIENCE, || async { cluster.count(1, "/v1/cdrs", "total").await == 1 }).await;
    let cdr = api.get("/v1/cdrs").await.unwrap()["cdrs"][0].clone();
    println!("{cdr:#}");
    for (leg, (told, heard)) in received(&told).into_iter().zip(received(&cdr)).enumerate() {
        assert!(heard >= told + MORE, "{told} were told, {heard} accounted: {cdr}");
        // No more than there can have been in the time.
        let most = cdr["talked_ms"].as_u64().unwrap() / 20 + 50;
        assert!(heard <= most, "{heard} of {most}: {cdr}");
        assert!(cdr["legs"][leg]["mos"].as_f64() > Some(3.5), "{cdr}");
        assert_eq!(cdr["legs"][leg]["one_way"], 0, "{cdr}");
    }
}

//! With a majority gone new promises are refused, calls go on, and service resumes by itself.

use std::time::Duration;

use tandem::sip::{Name, Response, StatusCode};

use crate::lab::cluster::{Cluster, PATIENCE};
use crate::lab::{call, until};

fn is_503(response: &Response) -> bool {
    response.status == StatusCode::SERVICE_UNAVAILABLE && response.headers.get(&Name::RetryAfter).is_some()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_new_promises_are_refused_and_calls_go_on() {
    let mut cluster = Cluster::start(3);
    let callee = cluster.users[1].0.clone();
    let (mut a, a_media) = call::phone(&cluster, 0, 1).await;
    let (mut b, b_media) = call::phone(&cluster, 1, 1).await;
    b.register().await.unwrap();
    let talks = call::between(&cluster, (&mut a, a_media), (&mut b, b_media)).await;
    cluster.kill(2);
    cluster.kill(3);
    until("node 1 keeps its vnodes", PATIENCE, || async {
        let cluster = cluster.api(1).get("/v1/cluster").await.unwrap();
        cluster["vnodes"].as_array().unwrap().iter().all(|vnode| vnode["here"] == "custodian")
    })
    .await;
    assert!(cluster.api(1).get("/readyz").await.is_err());
    let (mut c, _) = call::phone(&cluster, 2, 1).await;
    let registered = c.try_register().await.unwrap();
    assert!(is_503(&registered), "{registered:?}");
    let sdp = c.sdp();
    let called = c.try_call(&callee, "", &sdp).await.unwrap();
    assert!(is_503(&called), "{called:?}");
    // Whose password seems to be wrong may have got a new one that this node has not heard of.
    cluster.users[2].1.push_str(" or not");
    let (mut wrong, _) = call::phone(&cluster, 2, 1).await;
    let registered = wrong.try_register().await.unwrap();
    assert!(is_503(&registered), "{registered:?}");
    cluster.users[2].1.truncate("pu0003".len());
    let before = talks.each_ref().map(|talk| talk.heard().frames());
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(talks.iter().zip(before).all(|(talk, before)| talk.heard().frames() > before + 15), "the call goes on");
    cluster.start_again(2);
    until("service resumes", PATIENCE, || async { cluster.api(1).get("/readyz").await.is_ok() }).await;
    until("registrations are taken again", PATIENCE, || async {
        let (mut c, _) = call::phone(&cluster, 2, 1).await;
        c.try_register().await.is_ok_and(|response| response.status == StatusCode::OK)
    })
    .await;
    let (hung_up, ended) = tokio::join!(a.hang_up(), b.wait_for_bye());
    hung_up.and(ended).unwrap();
    until("one CDR", PATIENCE, || async { cluster.count(1, "/v1/cdrs", "total").await == 1 }).await;
}

//! Clocks that are stepped by hours: nothing that runs notices, and a node that starts with a wrong one ends nobody's promise.

use std::time::Duration;

use crate::lab::cluster::Cluster;
use crate::lab::net::{self, Watch};
use crate::lab::{call, until};

const GAP: Duration = Duration::from_millis(200);
const HOUR: i64 = 3600;

#[test]
fn clocks_are_stepped_by_hours() {
    net::run(3, async |net| {
        let clocks = tempfile::tempdir().unwrap();
        net.step_clocks(clocks.path());
        let mut cluster = Cluster::at(&net, 2).await;
        let watch = Watch::start();
        let (mut a, a_media) = call::phone(&cluster, 0, 2).await;
        let (mut b, b_media) = call::phone(&cluster, 1, 1).await;
        a.register().await.unwrap();
        b.register().await.unwrap();
        let talks = call::between(&cluster, (&mut a, a_media), (&mut b, b_media)).await;
        let elections = cluster.elections();
        // Forward on one node, back on another, while they run.
        net.step_clock(clocks.path(), 2, HOUR);
        net.step_clock(clocks.path(), 3, -HOUR);
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!((cluster.elections(), watch.turns(cluster.sip_of(2).ip()).len()), (elections, 1));
        // A node starts two hours ahead: registrations of an hour are not over because it has them.
        net.step_clock(clocks.path(), 2, 2 * HOUR);
        cluster.kill(2);
        until("somebody else has the calls", GAP * 10, || async { watch.turns(cluster.sip_of(2).ip()).len() == 2 }).await;
        cluster.start_again(2);
        cluster.at_home().await;
        assert!(cluster.log(2).contains("this machine's clock is not the cluster's"), "the test steps clocks");
        for node in 1..=3 {
            let registrations = cluster.api(node).get("/v1/registrations").await.unwrap();
            let registrations = registrations["registrations"].as_array().unwrap();
            let left = registrations.iter().map(|one| one["expires_in"].as_u64().unwrap());
            let left: Vec<_> = left.collect();
            assert!(left.len() == 2 && left.iter().all(|seconds| (3500..=3600).contains(seconds)), "node {node}: {left:?}");
        }
        call::heard_each_other(&talks, GAP);
        let (hung_up, ended) = tokio::join!(b.hang_up(), a.wait_for_bye());
        hung_up.and(ended).unwrap();
        until("one CDR", GAP * 50, || async { cluster.count(1, "/v1/cdrs", "total").await == 1 }).await;
        let cdrs = cluster.api(1).get("/v1/cdrs").await.unwrap();
        let talked = cdrs["cdrs"][0]["talked_ms"].as_u64().unwrap();
        assert!((5_000..120_000).contains(&talked), "the CDR says {talked} ms");
    });
}

//! A disk that stalls holds nobody up: a majority's memory is what promises rest on.

use std::time::Duration;

use tandem::sip::StatusCode;

use crate::lab::cluster::{Cluster, PATIENCE};
use crate::lab::{call, until};

/// What the promise allows a takeover.
const GAP: Duration = Duration::from_millis(300);

#[tokio::test(flavor = "multi_thread")]
async fn calls_begin_move_and_end_while_every_disk_stalls() {
    let mut cluster = Cluster::start(3);
    let (mut a, a_media) = call::phone(&cluster, 0, 2).await;
    let (mut b, b_media) = call::phone(&cluster, 1, 1).await;
    b.register().await.unwrap();
    cluster.stall_disks(true);
    let (mut c, _) = call::phone(&cluster, 2, 3).await;
    assert_eq!(c.try_register().await.unwrap().status, StatusCode::OK);
    let talks = call::between(&cluster, (&mut a, a_media), (&mut b, b_media)).await;
    // Its process ends at once though its disk does not answer, and an election waits for none.
    cluster.kill(2);
    tokio::time::sleep(Duration::from_secs(1)).await;
    call::heard_each_other(&talks, GAP);
    let (hung_up, ended) = tokio::join!(b.hang_up(), a.wait_for_bye());
    hung_up.and(ended).unwrap();
    cluster.stall_disks(false);
    until("one CDR", PATIENCE, || async { cluster.count(1, "/v1/cdrs", "total").await == 1 }).await;
    cluster.start_again(2);
    cluster.at_home().await;
    assert_eq!(cluster.count(2, "/v1/registrations", "total").await, 2);
}

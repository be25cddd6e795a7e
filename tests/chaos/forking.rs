//! Several phones of one user ring, and their owner dies: they ring on, and one of them gets the call.

use std::sync::Arc;
use std::time::Duration;

use tandem::cli::demo::phone::Phone;
use tandem::cli::demo::talk::Talk;
use tandem::sip::StatusCode;
use tokio::net::UdpSocket;

use crate::lab::cluster::{Cluster, PATIENCE};
use crate::lab::net::{self, Net};
use crate::lab::{call, until};

const RINGS: Duration = Duration::from_secs(2);
const DIES: Duration = Duration::from_millis(700);
const HEARD: Duration = Duration::from_millis(500);

/// A caller that speaks to node 2, and two phones of the callee's, registered by nodes 1 and 3: one of each family of addresses.
struct Case {
    cluster: Cluster,
    callee: String,
    a: (Phone, UdpSocket),
    b: (Phone, UdpSocket),
    c: (Phone, UdpSocket),
}

impl Case {
    async fn start(net: &Arc<Net>) -> Self {
        let cluster = Cluster::of_both_families(net, 2).await;
        let mut a = call::phone(&cluster, 0, 2).await;
        let mut b = call::phone_at(&cluster, 1, cluster.sip_v6_of(1)).await;
        let mut c = call::phone(&cluster, 1, 3).await;
        c.0.set_number(2);
        for phone in [&mut a, &mut b, &mut c] {
            phone.0.register().await.unwrap();
        }
        // Who rings is who is registered as far as the caller's node has heard.
        until("the caller's node has heard of all", PATIENCE, async || cluster.count(2, "/v1/registrations", "total").await == 3)
            .await;
        Self { callee: cluster.users[1].0.clone(), cluster, a, b, c }
    }

    async fn leaves_nothing(cluster: &Cluster) {
        until("one CDR, and no socket", PATIENCE, || async {
            let (one, three) =
                (cluster.count(1, "/v1/cluster", "media_sockets").await, cluster.count(3, "/v1/cluster", "media_sockets").await);
            one + three == 0 && cluster.count(1, "/v1/cdrs", "total").await == 1
        })
        .await;
    }
}

async fn dies(cluster: &mut Cluster) {
    tokio::time::sleep(DIES).await;
    cluster.kill(2);
}

/// The first or the second of two phones that ring is picked up; the other is told.
fn picked_up(first: bool) {
    net::run(3, async |net| {
        let Case { mut cluster, callee, mut a, mut b, mut c } = Case::start(&net).await;
        if !first {
            (b, c) = (c, b);
        }
        let answers = async {
            let ringing = b.0.ring(RINGS).await?;
            b.0.pick_up(&ringing).await
        };
        let (called, answered, cancelled, ()) = tokio::join!(a.0.call(&callee), answers, c.0.be_cancelled(), dies(&mut cluster));
        cancelled.unwrap();
        let talks = [Talk::start(a.1, called.unwrap()), Talk::start(b.1, answered.unwrap())];
        tokio::time::sleep(HEARD).await;
        call::heard_each_other(&talks, HEARD);
        let (hung_up, ended) = tokio::join!(b.0.hang_up(), a.0.wait_for_bye());
        hung_up.and(ended).unwrap();
        drop(talks);
        Case::leaves_nothing(&cluster).await;
        assert_eq!(a.0.went_back() + b.0.went_back() + c.0.went_back(), 0);
    });
}

#[test]
fn one_of_two_phones_that_ring_is_picked_up_and_the_other_is_told() {
    picked_up(true);
}

#[test]
fn the_other_of_two_phones_that_ring_is_picked_up() {
    picked_up(false);
}

#[test]
fn two_phones_that_ring_are_cancelled_by_their_caller() {
    net::run(3, async |net| {
        let Case { mut cluster, callee, mut a, mut b, mut c } = Case::start(&net).await;
        let calls = a.0.call_and_cancel(&callee, RINGS);
        let (ended, one, other, ()) = tokio::join!(calls, b.0.be_cancelled(), c.0.be_cancelled(), dies(&mut cluster));
        one.and(other).unwrap();
        assert_eq!(ended.unwrap().status, StatusCode::REQUEST_TERMINATED);
        Case::leaves_nothing(&cluster).await;
    });
}

//! Phones behind a NAT: they are reached where their packets come from, and call each other whoever dies.

use std::time::Duration;

use tandem::sip::{Method, StatusCode};

use crate::lab::cluster::{Cluster, PATIENCE};
use crate::lab::{call, net, until};

/// The longest that a call may be without sound when its owner dies.
const GAP: Duration = Duration::from_millis(300);
const TAKEN: Duration = Duration::from_secs(2);
const ANSWERED: Duration = Duration::from_millis(500);
/// So soon the router forgets.
const FORGETS: u32 = 4;

#[test]
fn phones_behind_a_nat_call_each_other_and_go_on_when_the_owner_dies() {
    net::run_at_home(3, async |net| {
        let mut cluster = Cluster::at(&net, 2).await;
        let (mut a, a_media) = call::phone(&cluster, 0, 2).await;
        let (mut b, b_media) = call::phone(&cluster, 1, 1).await;
        a.register().await.unwrap();
        b.register().await.unwrap();
        let talks = call::between(&cluster, (&mut a, a_media), (&mut b, b_media)).await;
        tokio::time::sleep(TAKEN).await;
        for talk in &talks {
            talk.take_gap();
        }
        cluster.kill(2);
        let (one, other) = tokio::join!(a.stay(TAKEN), b.stay(TAKEN));
        one.and(other).unwrap();
        call::heard_each_other(&talks, GAP);
        assert_eq!(b.ask_within(Method::Options, "").await.unwrap().status, StatusCode::OK);
        let (hung_up, ended) = tokio::join!(b.hang_up(), a.wait_for_bye());
        hung_up.and(ended).unwrap();
        until("one CDR", PATIENCE, || async { cluster.count(1, "/v1/cdrs", "total").await == 1 }).await;
    });
}

/// A phone that says nothing by itself is asked often enough for its router to remember it (`sip.nat_keepalive`), by whoever owns.
#[test]
fn a_silent_phone_behind_a_nat_is_reached_after_a_while() {
    net::run_at_home(3, async |net| {
        net.forget_after(FORGETS);
        let users = (1..=2).map(|n| (format!("u{n:04}"), format!("pu{n:04}"))).collect();
        let mut cluster = Cluster::at_with(&net, users, |config| config.sip.nat_keepalive = 1).await;
        let (mut a, _) = call::phone(&cluster, 0, 2).await;
        let (mut b, _) = call::phone(&cluster, 1, 1).await;
        b.register().await.unwrap();
        for node in [1, 2, 3] {
            let asked = b.was_asked();
            b.stay(Duration::from_secs(2 * u64::from(FORGETS))).await.unwrap();
            assert!(b.was_asked() > asked);
            let callee = cluster.users[1].0.clone();
            let (called, answered) = tokio::join!(a.call(&callee), b.answer());
            called.and(answered).unwrap();
            let (hung_up, ended) = tokio::join!(a.hang_up(), b.wait_for_bye());
            hung_up.and(ended).unwrap();
            // Its answer to the BYE has come, so that nobody asks again.
            tokio::time::sleep(ANSWERED).await;
            cluster.kill(node);
            b.stay(TAKEN).await.unwrap();
            cluster.start_again(node);
            cluster.at_home().await;
        }
    });
}

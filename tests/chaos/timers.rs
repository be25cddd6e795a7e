//! Session timers (RFC 4028) are the owner's, whoever that is: a phone that has gone is noticed by the next owner too.

use std::time::{Duration, Instant};

use crate::lab::cluster::{Cluster, PATIENCE};
use crate::lab::{call, net, until};

/// Both sides are asked every half of this, in seconds.
const EXPIRES: u32 = 6;
/// RFC 3261's T1, so that what isn't answered is given up after 64 of them.
const T1: u16 = 50;

#[test]
fn a_phone_that_has_gone_is_noticed_by_the_next_owner() {
    net::run(3, async |net| {
        let users = (1..=2).map(|n| (format!("u{n:04}"), format!("pu{n:04}"))).collect();
        let mut cluster = Cluster::at_with(&net, users, |config| {
            (config.sip.session_expires, config.sip.min_se, config.sip.t1) = (EXPIRES, 2, T1);
        })
        .await;
        let (mut a, a_media) = call::phone(&cluster, 0, 2).await;
        let (mut b, b_media) = call::phone(&cluster, 1, 1).await;
        a.register().await.unwrap();
        b.register().await.unwrap();
        let talks = call::between(&cluster, (&mut a, a_media), (&mut b, b_media)).await;
        cluster.kill(2);
        // Asked more than once, and there: the call goes on.
        let twice = Duration::from_secs(EXPIRES.into());
        let (one, other) = tokio::join!(a.stay(twice), b.stay(twice));
        one.and(other).unwrap();
        assert!(a.was_asked() >= 1 && b.was_asked() >= 1, "{} and {}", a.was_asked(), b.was_asked());
        drop(b);
        let gone = Instant::now();
        a.wait_for_bye().await.unwrap();
        let noticed = gone.elapsed();
        assert!(noticed < twice + Duration::from_millis(64 * u64::from(T1)) * 2, "{noticed:?}");
        drop(talks);
        until("one CDR", PATIENCE, || async { cluster.count(1, "/v1/cdrs", "total").await == 1 }).await;
    });
}

//! Transfers that we carry out, since the transferee's phone can't: the owner dies while the third phone rings, and while the transferee is
//! asked to talk with it. The simulator cuts the same story at every point.

use std::time::Duration;

use tandem::cli::demo::talk::Talk;
use tandem::sip::{Method, Name, StatusCode};

use crate::lab::cluster::{Cluster, PATIENCE};
use crate::lab::{call, net, until};

const RINGS: Duration = Duration::from_secs(2);
const THINKS: Duration = Duration::from_secs(1);
/// Both are heard again within this.
const HEARD: Duration = Duration::from_millis(500);

/// The callee refers the caller, who can't, to a third; the owner is killed so long after the third's phone has begun to ring.
fn killed(dies: Duration) {
    net::run(3, async |net| {
        let mut cluster = Cluster::at(&net, 3).await;
        let (mut a, a_media) = call::phone(&cluster, 0, 2).await;
        let (mut b, b_media) = call::phone(&cluster, 1, 1).await;
        let (mut c, c_media) = call::phone(&cluster, 2, 3).await;
        for phone in [&mut a, &mut b, &mut c] {
            phone.register().await.unwrap();
        }
        let [a_talk, b_talk] = call::between(&cluster, (&mut a, a_media), (&mut b, b_media)).await;
        let refer = format!("Refer-To: <sip:{}@tandem.test>\r\n", cluster.users[2].0);
        let (accepted, asked) =
            tokio::join!(b.ask_within_with(Method::Refer, &refer, ""), a.take(&Method::Refer, StatusCode::METHOD_NOT_ALLOWED));
        asked.unwrap();
        assert_eq!(accepted.unwrap().status, StatusCode::ACCEPTED);
        // It is asked as soon as the third has answered, and says nothing for a while.
        a.set_thinking(THINKS);
        let answers = async {
            let ringing = c.ring(RINGS).await.unwrap();
            c.pick_up(&ringing).await.unwrap()
        };
        let goes = async {
            loop {
                let told = b.take(&Method::Notify, StatusCode::OK).await.unwrap();
                if told.headers.text(&Name::SubscriptionState).unwrap().starts_with("terminated") {
                    assert!(told.body.starts_with(b"SIP/2.0 200 "), "{told:?}");
                    break;
                }
            }
            b.wait_for_bye().await.unwrap();
        };
        let kill = async {
            tokio::time::sleep(dies).await;
            cluster.kill(2);
        };
        let (c_to, a_to, (), ()) = tokio::join!(answers, a.follow(), goes, kill);
        drop(b_talk);
        a_talk.turn_to(a_to.unwrap());
        let talks = [a_talk, Talk::start(c_media, c_to)];
        tokio::time::sleep(2 * HEARD).await;
        for talk in &talks {
            let silence = talk.heard().silence();
            assert!(silence.is_some_and(|silence| silence < HEARD), "{silence:?}");
        }
        let (hung_up, ended) = tokio::join!(c.hang_up(), a.wait_for_bye());
        hung_up.and(ended).unwrap();
        drop(talks);
        until("one CDR, no socket", PATIENCE, || async {
            let sockets =
                cluster.count(1, "/v1/cluster", "media_sockets").await + cluster.count(3, "/v1/cluster", "media_sockets").await;
            cluster.count(1, "/v1/cdrs", "total").await == 1 && sockets == 0
        })
        .await;
        assert_eq!(a.went_back() + b.went_back() + c.went_back(), 0);
    });
}

#[test]
fn while_the_third_phone_rings() {
    killed(RINGS / 2);
}

#[test]
fn while_the_transferee_is_asked() {
    killed(RINGS + THINKS / 2);
}

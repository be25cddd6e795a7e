//! `kill -9` in the middle of something: whatever a call is at, both phones see it end the same.
//!
//! A phone that thinks for a second before it answers holds the call in a state; the owner dies in the middle of that second. The
//! simulator (`tests/sim`) cuts the same stories at every point; here the sockets, processes and timers are real.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tandem::cli::demo::phone::Phone;
use tandem::cli::demo::talk::Talk;
use tandem::sip::{Method, StatusCode};
use tokio::net::UdpSocket;

use crate::lab::cluster::{Cluster, PATIENCE};
use crate::lab::net::{self, Net, Watch};
use crate::lab::{call, until};

const THINKS: Duration = Duration::from_millis(1000);
const MEANWHILE: Duration = Duration::from_millis(500);
/// A successor has taken over by then.
const TAKEN: Duration = Duration::from_secs(2);
/// Both are heard again within this.
const HEARD: Duration = Duration::from_millis(500);

/// Two phones; the caller speaks to node 2, the callee is registered by node 1.
struct Case {
    cluster: Cluster,
    watch: Watch,
    a: Phone,
    b: Phone,
    media: Option<[UdpSocket; 2]>,
    talks: Option<[Talk; 2]>,
    callee: String,
    address: IpAddr,
}

impl Case {
    async fn start(net: &Arc<Net>) -> Self {
        let cluster = Cluster::at(net, 2).await;
        let watch = Watch::start();
        let (mut a, a_media) = call::phone(&cluster, 0, 2).await;
        let (mut b, b_media) = call::phone(&cluster, 1, 1).await;
        a.register().await.unwrap();
        b.register().await.unwrap();
        let (callee, address) = (cluster.users[1].0.clone(), cluster.sip_of(2).ip());
        Self { cluster, watch, a, b, media: Some([a_media, b_media]), talks: None, callee, address }
    }

    /// The same, and they talk.
    async fn talking(net: &Arc<Net>) -> Self {
        let mut case = Self::start(net).await;
        let (called, answered) = tokio::join!(case.a.call(&case.callee), case.b.answer());
        case.talk(called.unwrap(), answered.unwrap());
        tokio::time::sleep(HEARD).await;
        case
    }

    fn talk(&mut self, a_to: std::net::SocketAddr, b_to: std::net::SocketAddr) {
        let [a, b] = self.media.take().unwrap();
        self.talks = Some([Talk::start(a, a_to), Talk::start(b, b_to)]);
    }

    /// Both hear each other.
    async fn is_heard(&self) {
        tokio::time::sleep(HEARD).await;
        for talk in self.talks.as_ref().unwrap() {
            let silence = talk.heard().silence();
            assert!(silence.is_some_and(|silence| silence < HEARD / 2), "{silence:?}");
        }
    }

    /// It was hung up, or never came about: one CDR with this status, no port is open, and nothing went back.
    async fn leaves_nothing(self, status: StatusCode) {
        let Self { cluster, watch, a, b, talks, address, .. } = self;
        drop(talks);
        until("one CDR and no socket", PATIENCE, || async {
            let sockets =
                cluster.count(1, "/v1/cluster", "media_sockets").await + cluster.count(3, "/v1/cluster", "media_sockets").await;
            cluster.count(1, "/v1/cdrs", "total").await == 1 && sockets == 0
        })
        .await;
        let cdrs = cluster.api(1).get("/v1/cdrs").await.unwrap();
        assert_eq!(cdrs["cdrs"][0]["status"], status.code(), "{cdrs}");
        assert_eq!(a.went_back() + b.went_back(), 0);
        let turns = watch.turns(address);
        assert_eq!(turns.len(), 2, "the owner was killed: {turns:?}");
    }

    /// Hung up by either side.
    async fn ends(mut self, by_caller: bool) {
        let (a, b) = (&mut self.a, &mut self.b);
        let (one, other) = if by_caller { (a, b) } else { (b, a) };
        let (hung_up, ended) = tokio::join!(one.hang_up(), other.wait_for_bye());
        hung_up.and(ended).unwrap();
        self.leaves_nothing(StatusCode::OK).await;
    }
}

/// The owner is killed after a while.
async fn die(cluster: &mut Cluster, after: Duration) {
    tokio::time::sleep(after).await;
    cluster.kill(2);
}

/// Its INVITE finds nobody, is said again, and finds the next owner.
#[test]
fn before_an_invite_arrives() {
    net::run(3, async |net| {
        let mut case = Case::start(&net).await;
        case.cluster.kill(2);
        let (called, answered) = tokio::join!(case.a.call(&case.callee), case.b.answer());
        case.talk(called.unwrap(), answered.unwrap());
        case.is_heard().await;
        case.ends(true).await;
    });
}

/// The callee has the INVITE and has said nothing yet.
#[test]
fn before_it_rings_and_the_callee_is_busy() {
    net::run(3, async |net| {
        let mut case = Case::start(&net).await;
        case.b.set_thinking(THINKS);
        let sdp = case.a.sdp();
        let (answer, refused, ()) = tokio::join!(
            case.a.try_call(&case.callee, "", &sdp),
            case.b.refuse(StatusCode::BUSY_HERE),
            die(&mut case.cluster, MEANWHILE)
        );
        refused.unwrap();
        assert_eq!(answer.unwrap().status, StatusCode::BUSY_HERE);
        case.leaves_nothing(StatusCode::BUSY_HERE).await;
    });
}

/// A phone sends the other one elsewhere (RFC 3515), and has no answer yet: done twice it would make two calls.
#[test]
fn while_a_transfer_is_on_its_way() {
    net::run(3, async |net| {
        let mut case = Case::talking(&net).await;
        case.a.set_thinking(THINKS);
        let refer = "Refer-To: <sip:u0003@tandem.test>\r\n";
        let (accepted, referred, ()) = tokio::join!(
            case.b.ask_within_with(Method::Refer, refer, ""),
            case.a.take(&Method::Refer, StatusCode::ACCEPTED),
            die(&mut case.cluster, MEANWHILE)
        );
        assert_eq!(accepted.unwrap().status, StatusCode::ACCEPTED);
        let number = referred.unwrap().headers.cseq().unwrap();
        while let Ok(again) = tokio::time::timeout(TAKEN, case.a.take(&Method::Refer, StatusCode::ACCEPTED)).await {
            assert_eq!(again.unwrap().headers.cseq().unwrap(), number, "it is the same one");
        }
        case.is_heard().await;
        case.ends(false).await;
    });
}

/// Nothing of a MESSAGE is kept: its sender says it again, and the phone that has had it gets it once more from the next owner.
#[test]
fn before_a_message_is_answered() {
    net::run(3, async |net| {
        let mut case = Case::start(&net).await;
        case.b.set_thinking(THINKS);
        let (a, b, callee) = (&mut case.a, &mut case.b, &case.callee);
        let sends = async { tokio::join!(a.send_message(callee, "", "hi"), die(&mut case.cluster, MEANWHILE)).0 };
        let mut branches = BTreeSet::new();
        // The first owner may say it twice before it dies.
        let takes = async {
            loop {
                let taken = b.take(&Method::Message, StatusCode::OK).await.unwrap();
                assert_eq!(&taken.body[..], b"hi");
                branches.insert(taken.headers.top_via().unwrap().branch().map(str::to_owned));
            }
        };
        tokio::select! {
            sent = sends => assert_eq!(sent.unwrap().status, StatusCode::OK),
            () = takes => unreachable!("it goes on for ever"),
        }
        assert_eq!(branches.len(), 2, "once from each owner");
    });
}

/// The caller has hung up; the callee has been told, and has not said that it has heard.
#[test]
fn while_a_cancel_is_on_its_way() {
    net::run(3, async |net| {
        let mut case = Case::start(&net).await;
        case.b.set_thinking(THINKS);
        let (answer, cancelled, ()) = tokio::join!(
            case.a.call_and_cancel(&case.callee, MEANWHILE),
            case.b.be_cancelled(),
            die(&mut case.cluster, MEANWHILE * 2)
        );
        cancelled.unwrap();
        assert_eq!(answer.unwrap().status, StatusCode::REQUEST_TERMINATED);
        case.leaves_nothing(StatusCode::REQUEST_TERMINATED).await;
    });
}

/// The CANCEL finds nobody, is said again, and finds the next owner.
#[test]
fn before_a_cancel_arrives() {
    net::run(3, async |net| {
        let mut case = Case::start(&net).await;
        let (answer, cancelled, ()) = tokio::join!(
            case.a.call_and_cancel(&case.callee, MEANWHILE),
            case.b.be_cancelled(),
            die(&mut case.cluster, MEANWHILE - Duration::from_millis(30))
        );
        cancelled.unwrap();
        assert_eq!(answer.unwrap().status, StatusCode::REQUEST_TERMINATED);
        case.leaves_nothing(StatusCode::REQUEST_TERMINATED).await;
    });
}

/// The caller has its 200 and has not acknowledged it: the next owner says it again until it has the ACK.
#[test]
fn before_an_answer_is_acknowledged() {
    net::run(3, async |net| {
        let mut case = Case::start(&net).await;
        let (cluster, a, callee) = (&mut case.cluster, &mut case.a, case.callee.clone());
        let (called, answered) = tokio::join!(
            async {
                let called = a.call_without_ack(&callee).await?;
                cluster.kill(2);
                tokio::time::sleep(TAKEN).await;
                a.acknowledge().await?;
                anyhow::Ok(called)
            },
            case.b.answer()
        );
        case.talk(called.unwrap(), answered.unwrap());
        case.is_heard().await;
        case.ends(false).await;
    });
}

fn held(sdp: &str) -> String {
    format!("{}a=sendonly\r\n", sdp.replace("o=- 1 1", "o=- 1 2"))
}

fn resumed(sdp: &str) -> String {
    sdp.replace("o=- 1 1", "o=- 1 3")
}

/// The callee has the re-INVITE and thinks.
fn held_by(method: Method) {
    net::run(3, async |net| {
        let mut case = Case::talking(&net).await;
        case.b.set_thinking(THINKS);
        let (hold, resume) = (held(&case.a.sdp()), resumed(&case.a.sdp()));
        let (answer, stayed, ()) =
            tokio::join!(case.a.ask_within(method, &hold), case.b.stay(TAKEN * 2), die(&mut case.cluster, MEANWHILE));
        stayed.unwrap();
        assert_eq!(answer.unwrap().status, StatusCode::OK);
        case.b.set_thinking(Duration::ZERO);
        let (answer, stayed) = tokio::join!(case.a.ask_within(Method::Invite, &resume), case.b.stay(HEARD));
        stayed.unwrap();
        assert_eq!(answer.unwrap().status, StatusCode::OK);
        case.is_heard().await;
        case.ends(true).await;
    });
}

#[test]
fn while_a_call_is_put_on_hold() {
    held_by(Method::Invite);
}

#[test]
fn while_a_call_is_put_on_hold_by_update() {
    held_by(Method::Update);
}

#[test]
fn while_a_call_is_held() {
    net::run(3, async |net| {
        let mut case = Case::talking(&net).await;
        let (hold, resume) = (held(&case.a.sdp()), resumed(&case.a.sdp()));
        let (answer, stayed) = tokio::join!(case.a.ask_within(Method::Invite, &hold), case.b.stay(HEARD));
        stayed.unwrap();
        assert_eq!(answer.unwrap().status, StatusCode::OK);
        case.cluster.kill(2);
        let (one, other) = tokio::join!(case.a.stay(TAKEN), case.b.stay(TAKEN));
        one.and(other).unwrap();
        let (answer, stayed) = tokio::join!(case.a.ask_within(Method::Invite, &resume), case.b.stay(HEARD));
        stayed.unwrap();
        assert_eq!(answer.unwrap().status, StatusCode::OK);
        case.is_heard().await;
        case.ends(false).await;
    });
}

/// The other side has the BYE and thinks.
#[test]
fn while_a_call_is_hung_up() {
    net::run(3, async |net| {
        let mut case = Case::talking(&net).await;
        case.b.set_thinking(THINKS);
        let (hung_up, ended, ()) = tokio::join!(case.a.hang_up(), case.b.wait_for_bye(), die(&mut case.cluster, MEANWHILE));
        hung_up.and(ended).unwrap();
        case.leaves_nothing(StatusCode::OK).await;
    });
}

/// The BYE finds nobody, is said again, and finds the next owner; and so does a REGISTER.
#[test]
fn before_a_bye_and_a_register_arrive() {
    net::run(3, async |net| {
        let mut case = Case::talking(&net).await;
        case.cluster.kill(2);
        let a = &mut case.a;
        let (hung_up, ended) = tokio::join!(
            async {
                a.hang_up().await?;
                a.register().await
            },
            case.b.wait_for_bye()
        );
        hung_up.and(ended).unwrap();
        assert_eq!(case.cluster.count(1, "/v1/registrations", "total").await, 2);
        case.leaves_nothing(StatusCode::OK).await;
    });
}

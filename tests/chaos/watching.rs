//! Who watches a user knows how things are, whoever dies: the owner of the user's records, or that of its calls.

use std::sync::Arc;
use std::time::Duration;

use tandem::cli::demo::phone::Phone;
use tandem::cli::demo::wire::Over;
use tandem::sip::StatusCode;
use tokio::net::UdpSocket;

use crate::lab::call;
use crate::lab::cluster::Cluster;
use crate::lab::net::{self, Net};

/// A successor has taken over by then, and has told everybody.
const TAKEN: Duration = Duration::from_secs(3);
const NO_CALLS: &str = "\">\n</dialog-info>";

/// The caller, whom it calls, and who watches that one. The users' records are at vnodes by their names; all phones speak to node 1, but
/// for the caller, whose calls are node 2's.
struct Case {
    cluster: Cluster,
    a: (Phone, UdpSocket),
    b: (Phone, UdpSocket),
    w: Phone,
    callee: String,
}

impl Case {
    async fn start(net: &Arc<Net>, over: Over) -> Self {
        let cluster = Cluster::at(net, 3).await;
        let a = call::phone(&cluster, 0, 2).await;
        let mut b = call::phone(&cluster, 1, 1).await;
        b.0.register().await.unwrap();
        let over = if matches!(over, Over::Tls(_)) { Over::Tls(cluster.ca()) } else { over };
        let (mut w, _) = call::connected(&cluster, &over, 2, 1).await;
        w.register().await.unwrap();
        let callee = cluster.users[1].0.clone();
        assert_eq!(w.subscribe(&callee, "dialog", 3600).await.unwrap().status, StatusCode::OK);
        w.told(NO_CALLS).await.unwrap();
        Self { cluster, a, b, w, callee }
    }

    async fn call(&mut self) {
        let (a, b) = (&mut self.a.0, &mut self.b.0);
        let (called, answered) = tokio::join!(a.call(&self.callee), b.answer());
        called.and(answered).unwrap();
        self.w.told("<state>confirmed</state>").await.unwrap();
    }

    async fn hang_up(&mut self) {
        let (hung_up, ended) = tokio::join!(self.a.0.hang_up(), self.b.0.wait_for_bye());
        hung_up.and(ended).unwrap();
    }

    /// It is told what happens, can renew its subscription, and end it.
    async fn goes_on(mut self) {
        self.call().await;
        self.hang_up().await;
        self.w.told(NO_CALLS).await.unwrap();
        assert_eq!(self.w.subscribe_again(3600).await.unwrap().status, StatusCode::OK);
        assert_eq!(self.w.subscribe_again(0).await.unwrap().status, StatusCode::OK);
        self.w.told("terminated").await.unwrap();
    }
}

/// Each node dies in turn and comes back: whoever has the user's records, its calls, or the watcher's connection is among them.
fn every_owner_dies(over: Over) {
    net::run(3, async |net| {
        let mut case = Case::start(&net, over).await;
        for node in [1, 2, 3] {
            case.call().await;
            case.cluster.kill(node);
            let (one, other, third) = tokio::join!(case.a.0.stay(TAKEN), case.b.0.stay(TAKEN), case.w.stay(TAKEN));
            one.and(other).and(third).unwrap();
            case.hang_up().await;
            case.w.told(NO_CALLS).await.unwrap();
            case.cluster.start_again(node);
            case.cluster.at_home().await;
            case.w.stay(TAKEN).await.unwrap();
        }
        case.goes_on().await;
    });
}

#[test]
fn who_watches_is_told_what_happens_whoever_dies() {
    every_owner_dies(Over::Udp);
}

#[test]
fn who_watches_by_tls_is_told_what_happens_whoever_dies() {
    every_owner_dies(Over::Tls(std::path::PathBuf::new()));
}

/// The owner of the call dies in the moment in which the call ends: nobody may have said so.
#[test]
fn the_end_of_a_call_is_told_by_whoever_comes_after() {
    net::run(3, async |net| {
        let mut case = Case::start(&net, Over::Tcp).await;
        case.call().await;
        let (a, b) = (&mut case.a.0, &mut case.b.0);
        case.cluster.kill(2);
        let (hung_up, ended) = tokio::join!(a.hang_up(), b.wait_for_bye());
        hung_up.and(ended).unwrap();
        case.w.told(NO_CALLS).await.unwrap();
        case.goes_on().await;
    });
}

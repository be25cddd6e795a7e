//! Phones that protect their media (SRTP, by keys in their descriptions) talk with those that don't and with each other, and go on when the owner is
//! killed: by the same keys.

use std::process::Command;

use hyper::Method;
use serde_json::{Value, json};

use crate::lab::baresip::Baresip;
use crate::lab::cluster::{Cluster, PATIENCE};
use crate::lab::meter::Meter;
use crate::lab::{net, until};

use super::calls::{MISSING, MISSING_FIXED, these_talk_on};

/// Has users' media protected as this says.
pub async fn treat(cluster: &Cluster, policies: [&str; 2]) {
    for ((user, password), srtp) in cluster.users.iter().zip(policies) {
        change(cluster, user, &json!({"password": password, "srtp": srtp})).await;
    }
}

/// Changes a user, and waits until each node knows: whoever asks another one in the same moment may be told what was so before.
pub async fn change(cluster: &Cluster, user: &str, wanted: &Value) {
    let path = format!("/v1/users/{user}");
    cluster.api(1).ask(Method::PUT, &path, Some(wanted)).await.unwrap();
    let all = wanted.as_object().unwrap().iter().filter(|(key, _)| *key != "password");
    for (key, value) in all {
        for node in 1..=3 {
            until("the user on each node", PATIENCE, || async { cluster.api(node).get(&path).await.unwrap()[key] == *value })
                .await;
        }
    }
}

/// The caller is by node 2, whose call it is and who dies.
fn phone(cluster: &Cluster, n: usize, by: &str) -> Baresip {
    let (user, password) = &cluster.users[n];
    let (server, tone) = (cluster.sip_of(2 - n), 440 * (u32::from(n > 0) + 1));
    match by {
        "" => Baresip::start(user, password, server, tone),
        by => Baresip::protected(by, user, password, server, tone),
    }
}

async fn talk_on(by: [&str; 2], policies: [&str; 2]) {
    talk_on_in(Cluster::start(2), MISSING, by, policies).await;
}

async fn talk_on_in(cluster: Cluster, missing: usize, by: [&str; 2], policies: [&str; 2]) {
    treat(&cluster, policies).await;
    let phones = [phone(&cluster, 0, by[0]), phone(&cluster, 1, by[1])];
    let meter = Meter::start();
    let kill = async |cluster: &mut Cluster| {
        meter.watch();
        cluster.kill(2);
    };
    let phones = these_talk_on(missing, phones, cluster, true, kill).await;
    // In a lab of its own network there is nothing to overhear.
    println!("gaps of {by:?}: {:?}", meter.gaps());
    for (phone, by) in phones.iter().zip(by) {
        let says = if by == "dtls_srtp" { "DTLS-SRTP" } else { "SRTP is Enabled" };
        assert_eq!(phone.log().contains(says), !by.is_empty(), "{}", phone.log());
    }
}

/// They are told again what they were told, their own answer among it, and agree to it again.
#[test]
fn phones_with_keys_come_along_when_addresses_are_fixed() {
    net::run(3, async |net| {
        let cluster = Cluster::fixed(&net, 2).await;
        talk_on_in(cluster, MISSING_FIXED, ["srtp-mand", "srtp-mand"], ["allow", "require"]).await;
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_that_must_have_keys_talks_with_one_that_has_none() {
    talk_on(["srtp-mand", ""], ["allow", "allow"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_that_has_no_keys_talks_with_one_that_must_have_them() {
    talk_on(["", "srtp-mand"], ["allow", "require"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn phones_with_keys_talk_by_keys_of_their_own() {
    talk_on(["srtp-mand", "srtp-mand"], ["require", "require"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn phones_that_may_have_keys_have_them() {
    talk_on(["srtp", "srtp"], ["prefer", "prefer"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_that_agrees_on_keys_in_dtls_talks_with_one_that_has_none() {
    talk_on(["dtls_srtp", ""], ["dtls", "allow"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_that_has_no_keys_talks_with_one_that_agrees_on_them_in_dtls() {
    talk_on(["", "dtls_srtp"], ["allow", "dtls"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_with_keys_talks_with_one_that_agrees_on_them_in_dtls() {
    talk_on(["srtp-mand", "dtls_srtp"], ["require", "dtls"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn phones_agree_on_keys_in_dtls_each_for_itself() {
    talk_on(["dtls_srtp", "dtls_srtp"], ["dtls", "dtls"]).await;
}

/// Who has to be protected and isn't gets 488; nobody's phone rings.
#[tokio::test(flavor = "multi_thread")]
async fn who_has_to_have_keys_and_has_none_does_not_call() {
    let cluster = Cluster::start(2);
    treat(&cluster, ["require", "allow"]).await;
    let (mut a, b) = (phone(&cluster, 0, ""), phone(&cluster, 1, ""));
    a.begins_to_call(&cluster.users[1].0);
    a.wait_for("CALL_CLOSED");
    assert!(a.log().contains("488"), "{}", a.log());
    assert!(!b.saw("CALL_INCOMING"));
}

/// No user is found on a disk, nor what a password is checked by. (Records of calls are packed before they are sealed: looking for keys would find
/// nothing in any case.)
#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_tells_nothing() {
    let cluster = Cluster::start(2);
    // Before the phones: another node hears of it a moment later.
    treat(&cluster, ["allow", "require"]).await;
    let (mut a, b) = (phone(&cluster, 0, "srtp-mand"), phone(&cluster, 1, "srtp-mand"));
    a.dial(&cluster.users[1].0);
    b.wait_for("CALL_ESTABLISHED");
    let stored = |text: &str| {
        let output = Command::new("grep").args(["-r", "-a", "-l", text]).arg(cluster.data(2)).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert_ne!(stored("sealed"), "", "there is something to look through");
    for text in ["ha1_md5", &cluster.users[0].0] {
        assert_eq!(stored(text), "", "{text}");
    }
}

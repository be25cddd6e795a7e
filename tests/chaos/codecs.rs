//! Phones that have no codec in common talk with each other, and go on when the owner is killed: whoever takes the call over makes the same of their
//! packets. Browsers with Opus and phones with PCMU are in `web`.

use crate::lab::baresip::Baresip;
use crate::lab::cluster::Cluster;
use crate::lab::meter::Meter;

use super::calls::{MISSING, these_talk_on};
use super::protection::treat;

const PCMU: &str = "PCMU/8000/1";
const PCMA: &str = "PCMA/8000/1";
const G722: &str = "G722/16000/1";
const OPUS: &str = "opus/48000/2";

/// Each phone's codec and what it protects its media by; node 2 owns the call and is killed.
async fn talk_on(has: [(&str, &str); 2], policies: [&str; 2]) {
    let cluster = Cluster::start(2);
    treat(&cluster, policies).await;
    let phone = |n: usize| {
        let ((codec, by), (user, password)) = (has[n], &cluster.users[n]);
        Baresip::coding(codec, by, user, password, cluster.sip_of(2 - n), 440 * (u32::from(n > 0) + 1))
    };
    let phones = [phone(0), phone(1)];
    let meter = Meter::start();
    let kill = async |cluster: &mut Cluster| {
        meter.watch();
        cluster.kill(2);
    };
    let phones = these_talk_on(MISSING, phones, cluster, true, kill).await;
    println!("gaps of {has:?}: {:?}", meter.gaps());
    for (phone, (codec, _)) in phones.iter().zip(has) {
        let log = phone.log().to_lowercase();
        assert!(log.contains(&codec.split('/').next().unwrap().to_lowercase()), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_with_pcmu_calls_one_with_opus() {
    talk_on([(PCMU, ""), (OPUS, "")], ["allow", "allow"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_with_opus_calls_one_with_g722() {
    talk_on([(OPUS, ""), (G722, "")], ["allow", "allow"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_with_g722_calls_one_with_pcma() {
    talk_on([(G722, ""), (PCMA, "")], ["allow", "allow"]).await;
}

/// Opened, made over, and protected by other keys.
#[tokio::test(flavor = "multi_thread")]
async fn phones_with_keys_and_without_a_codec_in_common_talk() {
    talk_on([(OPUS, "srtp-mand"), (PCMU, "dtls_srtp")], ["require", "dtls"]).await;
}

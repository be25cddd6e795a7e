//! What phones say is in a file when their call is over, a channel a side, whoever owned it; and what is missing is marked.

use std::path::PathBuf;
use std::time::Duration;

use hyper::Method;
use serde_json::{Value, json};

use crate::lab::baresip::Baresip;
use crate::lab::cluster::{Cluster, PATIENCE};
use crate::lab::s3::S3;
use crate::lab::{tone, until};

use super::protection::{change, treat};

/// What may be lost of the sound when the owner dies, in milliseconds.
const LOST: u64 = 1000;

async fn ask(cluster: &Cluster, method: Method, path: &str, body: Option<&Value>) -> Value {
    cluster.api(1).ask(method, path, body).await.unwrap()
}

/// The users' calls are recorded.
async fn record(cluster: &Cluster) {
    for (user, password) in &cluster.users {
        change(cluster, user, &json!({"password": password, "record": true})).await;
    }
}

/// What the only recording is, once it is there, and its name.
async fn recording(cluster: &Cluster) -> (Value, String) {
    let cdrs = cluster.api(1).get("/v1/cdrs").await.unwrap();
    let name = cdrs["cdrs"][0]["recording"].as_str().unwrap().to_owned();
    let path = format!("/v1/recordings/{name}");
    until("the recording", PATIENCE, || async { cluster.api(1).get(&path).await.is_ok() }).await;
    let (day, call) = name.split_once('/').unwrap();
    let all = cluster.api(3).get(&format!("/v1/recordings?day={day}")).await.unwrap();
    assert_eq!(all["calls"], json!([call]));
    (cluster.api(1).get(&path).await.unwrap(), name)
}

/// Two tones in, two tones out; and the gap is marked.
fn is_whole(made: &Value, file: &PathBuf) {
    assert_eq!(made["owners"], 2, "{made}");
    let gaps = made["gaps"].as_array().unwrap();
    let mut sides: Vec<_> = gaps.iter().map(|gap| (gap["side"].as_u64().unwrap(), gap["why"].as_str().unwrap())).collect();
    sides.sort_unstable();
    assert_eq!(sides, [(0, "takeover"), (1, "takeover")], "{made}");
    let lost: Vec<_> = gaps.iter().map(|gap| gap["until"].as_u64().unwrap() - gap["from"].as_u64().unwrap()).collect();
    println!("lost of the sound: {lost:?} ms");
    assert!(lost.iter().all(|lost| *lost <= LOST), "{made}");
    for (channel, hz) in [(0, 440.0), (1, 880.0)] {
        let heard = tone::heard_in(file, channel, hz);
        let good = heard.iter().filter(|good| **good).count();
        // At most what is lost, and a tenth at each end.
        assert!(heard.len() >= 35 && good + 12 >= heard.len(), "{hz} Hz: {heard:?}");
        assert!(heard[heard.len() - 8..heard.len() - 3].iter().all(|good| *good), "{hz} Hz: {heard:?}");
        let other = tone::heard_in(file, channel, 1320.0 - hz);
        assert!(!other.contains(&true), "it is in the wrong channel");
    }
    let wav = std::fs::read(file).unwrap();
    let marks: Vec<_> =
        ["caller: ", "callee: "].map(|side| wav.windows(8).filter(|text| *text == side.as_bytes()).count()).into();
    assert_eq!(marks, [1, 1], "the marks in the file");
}

fn phones(cluster: &Cluster) -> [Baresip; 2] {
    let phone = |n: usize, hz| Baresip::start(&cluster.users[n].0, &cluster.users[n].1, cluster.sip_of(2 - n), hz);
    [phone(0, 440), phone(1, 880)]
}

/// These end their call; the cluster is still there.
async fn talk_on(cluster: Cluster, phones: [Baresip; 2], fault: impl AsyncFnOnce(&mut Cluster)) -> Cluster {
    let (mut cluster, [mut a, b]) = (cluster, phones);
    a.dial(&cluster.users[1].0.clone());
    b.wait_for("CALL_ESTABLISHED");
    tokio::time::sleep(Duration::from_secs(2)).await;
    fault(&mut cluster).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    a.hang_up();
    b.wait_for("CALL_CLOSED");
    until("a CDR", PATIENCE, || async { cluster.api(1).get("/v1/cdrs").await.unwrap()["total"] == 1 }).await;
    cluster
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recording_in_a_directory_goes_on_when_the_owner_is_killed() {
    let cluster = Cluster::start(2);
    record(&cluster).await;
    let phones = phones(&cluster);
    let cluster = talk_on(cluster, phones, async |cluster| cluster.kill(2)).await;
    let (made, name) = recording(&cluster).await;
    let kept = cluster.dir.path().join("dev/recordings");
    is_whole(&made, &kept.join(format!("recordings/{name}.wav")));
    // It goes, and that is written down.
    ask(&cluster, Method::DELETE, &format!("/v1/recordings/{name}"), None).await;
    assert!(cluster.api(3).get(&format!("/v1/recordings/{name}")).await.is_err());
    let audit: Vec<_> = std::fs::read_dir(kept.join("audit")).unwrap().flatten().collect();
    let lines: Vec<_> = audit.iter().flat_map(|day| std::fs::read_dir(day.path()).unwrap().flatten()).collect();
    assert_eq!(lines.len(), 1);
    until("nothing is left", PATIENCE, || async { !kept.join("open").exists() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recording_in_a_bucket_goes_on_when_the_owner_is_killed() {
    let s3 = S3::start("calls").await;
    let mut environment = s3.environment();
    environment.push(("TANDEM_RECORDINGS", "s3://calls/of/tandem".into()));
    let cluster = Cluster::start_with(2, &environment);
    record(&cluster).await;
    let phones = phones(&cluster);
    let cluster = talk_on(cluster, phones, async |cluster| cluster.kill(2)).await;
    let (made, name) = recording(&cluster).await;
    is_whole(&made, &s3.file("calls", &format!("of/tandem/recordings/{name}.wav")));
}

/// Somebody asks for it in the middle of a call, at another node; what phones protect is kept as it is heard; and what isn't to be kept is missing.
#[tokio::test(flavor = "multi_thread")]
async fn a_recording_is_begun_paused_and_gone_on_with() {
    let cluster = Cluster::start(2);
    treat(&cluster, ["require", "dtls"]).await;
    let phone = |n: usize, codec, by| {
        let (user, password) = &cluster.users[n];
        Baresip::coding(codec, by, user, password, cluster.sip_of(2 - n), 440 * (u32::from(n > 0) + 1))
    };
    let phones = [phone(0, "opus/48000/2", "srtp-mand"), phone(1, "PCMU/8000/1", "dtls_srtp")];
    let cluster = talk_on(cluster, phones, async |cluster| {
        let calls = cluster.api(1).get("/v1/calls").await.unwrap();
        let path = format!("/v1/calls/{}", calls["calls"][0]["id"].as_str().unwrap());
        let is = async |state: &str| {
            until(state, PATIENCE, || async { cluster.api(1).get(&path).await.unwrap()["recording"] == state }).await;
        };
        let recording = format!("{path}/recording");
        assert!(cluster.api(1).ask(Method::DELETE, &recording, None).await.is_err(), "it isn't recorded");
        ask(cluster, Method::POST, &recording, None).await;
        is("on").await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        ask(cluster, Method::DELETE, &recording, None).await;
        is("paused").await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        ask(cluster, Method::POST, &recording, None).await;
        is("on").await;
    })
    .await;
    let (made, name) = recording(&cluster).await;
    let file = cluster.dir.path().join(format!("dev/recordings/recordings/{name}.wav"));
    assert_eq!((&made["owners"], &made["rate"], &made["unheard"]), (&1.into(), &16_000.into(), &0.into()), "{made}");
    for (channel, hz) in [(0, 440.0), (1, 880.0)] {
        let heard = tone::heard_in(&file, channel, hz);
        let silent = heard.iter().filter(|good| !**good).count();
        assert!((8..=14).contains(&silent) && heard.len() >= 35, "{hz} Hz: {heard:?}");
    }
    let gaps = made["gaps"].as_array().unwrap();
    assert_eq!(gaps.iter().filter(|gap| gap["why"] == "missing").count(), 2, "{made}");
}

/// Its vnode goes to another node and comes home: it stays one recording, and all of it is there.
#[tokio::test(flavor = "multi_thread")]
async fn a_recording_goes_along_with_its_call() {
    let cluster = Cluster::start(2);
    record(&cluster).await;
    let phones = phones(&cluster);
    let cluster = talk_on(cluster, phones, async |cluster| {
        let calls = cluster.api(1).get("/v1/calls").await.unwrap();
        let vnode = calls["calls"][0]["vnode"].to_string();
        for node in ["3", "2"] {
            assert_eq!(cluster.command(&["move", &vnode, node]).await, Ok(format!("vnode {vnode} is on node {node}")));
            // Long enough for a former owner to compose what isn't his any more.
            tokio::time::sleep(Duration::from_secs(3)).await;
        }
    })
    .await;
    let (made, name) = recording(&cluster).await;
    let file = cluster.dir.path().join(format!("dev/recordings/recordings/{name}.wav"));
    assert_eq!(made["owners"], 3, "{made}");
    for gap in made["gaps"].as_array().unwrap() {
        assert!(gap["why"] == "takeover" && gap["until"].as_u64().unwrap() - gap["from"].as_u64().unwrap() <= 100, "{made}");
    }
    for (channel, hz) in [(0, 440.0), (1, 880.0)] {
        let heard = tone::heard_in(&file, channel, hz);
        let good = heard.iter().filter(|good| **good).count();
        assert!(heard.len() >= 95 && good + 4 >= heard.len(), "{hz} Hz: {heard:?}");
    }
}

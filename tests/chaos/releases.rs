//! What a node of one release has stored, a node of the next can read; what a later one has stored is refused, and left as it is.
//!
//! `tests/releases/N` holds the logs of a cluster, and the states that followed from them: 1 has plain records, 2 dense ones (ADR 20), 3 watchers (ADR 22). `RECORD=tests/releases/N` with
//! this test's name writes those of today.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use openraft::EntryPayload;
use openraft::alias::EntryOf;
use serde_bytes::ByteBuf;
use tandem::actors::records::{Site, restore};
use tandem::actors::watched;
use tandem::cluster::raft::GroupId;
use tandem::cluster::raft::types::TypeConfig;
use tandem::cluster::state::records::{self, BindingRecord};
use tandem::cluster::state::{GroupState, MetaState, VnodeState};
use tandem::cluster::storage::{Change, Place, Seal, Storage};
use tandem::sip::StatusCode;

use crate::lab::cluster::{Cluster, PATIENCE};
use crate::lab::{call, until};

const GROUPS: u16 = 7;

/// A group's encoded log, and the encoded state that follows from it.
struct Recorded {
    log: Vec<Vec<u8>>,
    state: Vec<u8>,
}

type Release = BTreeMap<u16, Recorded>;

/// Three nodes that have seen everything; what node 1 has stored of it.
async fn today(cluster: &mut Cluster) -> Release {
    let (mut a, a_media) = call::phone(cluster, 0, 2).await;
    let (mut b, b_media) = call::phone(cluster, 1, 1).await;
    let (mut c, c_media) = call::phone(cluster, 2, 3).await;
    a.register().await.unwrap();
    b.register().await.unwrap();
    let talks = call::between(cluster, (&mut a, a_media), (&mut b, b_media)).await;
    drop(talks);
    let (hung_up, ended) = tokio::join!(a.hang_up(), b.wait_for_bye());
    hung_up.and(ended).unwrap();
    until("its CDR", PATIENCE, || async { cluster.count(1, "/v1/cdrs", "total").await == 1 }).await;
    let pidf = "Event: presence\r\nContent-Type: application/pidf+xml\r\n";
    let watches = [a.subscribe(&cluster.users[1].0, "dialog", 3600).await, a.publish(pidf, "<presence/>").await];
    assert!(watches.into_iter().all(|answer| answer.unwrap().status == StatusCode::OK));
    let again = tokio::net::UdpSocket::bind((crate::lab::phones(), 0)).await.unwrap();
    let _live = call::between(cluster, (&mut c, c_media), (&mut b, again)).await;
    for command in [&["move", "2", "3"][..], &["drain", "3"], &["undrain", "3"]] {
        cluster.command(command).await.unwrap();
    }
    cluster.stop(1).await;
    let storage = open(cluster).await;
    let release = (0..GROUPS).map(|group| {
        let log: Vec<Vec<u8>> =
            storage.log(GroupId(group)).unwrap().entries.into_iter().map(|(_, bytes)| bytes.into_vec()).collect();
        let state = rmp_serde::to_vec_named(&replay(group, &log)).unwrap();
        (group, Recorded { log, state })
    });
    let release = release.collect();
    storage.close();
    release
}

/// Node 1's storage, as soon as the process that had it has ended.
async fn open(cluster: &Cluster) -> Arc<Storage> {
    let dir = cluster.data(1);
    let secret = std::fs::read_to_string(dir.with_file_name("secret")).unwrap();
    tokio::task::spawn_blocking(move || Storage::open(&dir, &Place::Thread, Seal::new(secret.as_bytes(), b"storage")).unwrap())
        .await
        .unwrap()
}

fn replay(group: u16, log: &[Vec<u8>]) -> GroupState {
    let mut state = if group == 0 { GroupState::Meta(MetaState::default()) } else { GroupState::Vnode(VnodeState::default()) };
    for bytes in log {
        let entry: EntryOf<TypeConfig> = rmp_serde::from_slice(bytes).unwrap();
        if let EntryPayload::Normal(command) = entry.payload {
            state.apply(&command);
        }
    }
    state
}

/// Each log leads to its state, and everything in the states can be read.
/// Gives how many subscriptions and publications there are.
fn check(release: &Release) -> [usize; 2] {
    let (mut users, mut cdrs, mut calls, mut bindings) = (0, 0, 0, 0);
    let mut watching = [0, 0];
    for (group, recorded) in release {
        let state: GroupState = rmp_serde::from_slice(&recorded.state).unwrap();
        assert_eq!(replay(*group, &recorded.log), state, "group {group}");
        match state {
            GroupState::Meta(meta) => (users, cdrs) = (meta.users().count(), meta.cdrs().count()),
            GroupState::Vnode(vnode) => {
                for (_, call) in vnode.calls() {
                    restore(&call.record, Site::of((Ipv4Addr::LOCALHOST, 5060).into())).unwrap();
                    calls += 1;
                }
                for (_, record) in vnode.all_bindings() {
                    bindings += records::decode::<Vec<BindingRecord>>(record).unwrap().len();
                }
                for (_, record) in vnode.all_watched() {
                    let watched = watched::restore(record).unwrap();
                    watching = [watching[0] + watched.subscriptions.len(), watching[1] + watched.publications.len()];
                }
            }
        }
    }
    assert!(
        users == 3 && cdrs == 1 && calls > 0 && bindings == 2,
        "{users} users, {cdrs} CDRs, {calls} calls, {bindings} bindings"
    );
    watching
}

fn write(dir: &Path, release: &Release) {
    std::fs::create_dir_all(dir).unwrap();
    for (group, Recorded { log, state }) in release {
        let log: Vec<ByteBuf> = log.iter().cloned().map(ByteBuf::from).collect();
        std::fs::write(dir.join(format!("group-{group}.log")), rmp_serde::to_vec(&log).unwrap()).unwrap();
        std::fs::write(dir.join(format!("group-{group}.state")), state).unwrap();
    }
}

fn read(dir: &Path) -> Release {
    let one = |group: u16| {
        let file = |kind: &str| std::fs::read(dir.join(format!("group-{group}.{kind}"))).unwrap();
        let log: Vec<ByteBuf> = rmp_serde::from_slice(&file("log")).unwrap();
        (group, Recorded { log: log.into_iter().map(ByteBuf::into_vec).collect(), state: file("state") })
    };
    (0..GROUPS).map(one).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_release_is_read_and_a_later_one_is_refused() {
    let recorded = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/releases");
    let mut cluster = Cluster::start(3);
    let release = today(&mut cluster).await;
    assert_eq!(check(&release), [1, 1]);
    if let Ok(dir) = std::env::var("RECORD") {
        write(&Path::new(env!("CARGO_MANIFEST_DIR")).join(dir), &release);
    }
    let mut releases = 0;
    for dir in std::fs::read_dir(recorded).unwrap() {
        check(&read(&dir.unwrap().path()));
        releases += 1;
    }
    assert!(releases > 0, "one release at least is recorded");

    // A command that this release doesn't know, at the end of a log.
    let (group, known) = release
        .iter()
        .flat_map(|(group, recorded)| recorded.log.iter().map(|entry| (*group, entry.clone())))
        .find(|(_, entry)| entry.windows(11).any(|name| name == b"PutBindings"))
        .expect("somebody has registered");
    let at = known.windows(11).position(|name| name == b"PutBindings").unwrap();
    let mut unknown = known;
    unknown[at..at + 11].copy_from_slice(b"SetBindings");
    let storage = open(&cluster).await;
    let last = storage.log(GroupId(group)).unwrap().entries.last().unwrap().0;
    storage.write(Change::Append { group, entries: vec![(last + 1, ByteBuf::from(unknown.clone()))] }).unwrap();
    storage.close();
    drop(storage);
    let config = cluster.data(1).with_extension("toml");
    let serve = Command::new(env!("CARGO_BIN_EXE_tandem")).args(["serve", "--config"]).arg(config).output().unwrap();
    let said = String::from_utf8_lossy(&serve.stderr).into_owned();
    let last_words = said.lines().last().unwrap_or_default().to_owned();
    assert!(!serve.status.success(), "it starts all the same");
    assert!(last_words.starts_with("tandem: ") && last_words.contains("the log") && last_words.contains("SetBindings"), "{said}");
    let storage = open(&cluster).await;
    assert_eq!(storage.log(GroupId(group)).unwrap().entries.last().unwrap(), &(last + 1, ByteBuf::from(unknown)), "as it was");
    storage.close();
    // The others have gone on meanwhile.
    tokio::time::timeout(Duration::from_secs(5), async {
        let (mut d, _) = call::phone(&cluster, 0, 2).await;
        d.register().await.unwrap();
    })
    .await
    .unwrap();
}

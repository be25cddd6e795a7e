//! The recorder with a store in memory: everything but the relay, the records and the network.

use std::sync::atomic::{AtomicBool, Ordering};

use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::throttle::{ThrottleConfig, ThrottledStore};
use object_store::{ObjectStore, ObjectStoreExt};
use tokio::time::sleep;

use super::*;
use crate::clock::{self, Timestamp, Uptime};
use crate::config::Secret;
use crate::media::core::codec::g711::Law;
use crate::media::core::formats::Codec;
use crate::media::core::recording::Why;

const VNODE: VnodeId = VnodeId(3);
const CALL: CallId = CallId(0xabc);

/// What the records say.
#[derive(Default)]
struct Says {
    owned: AtomicBool,
    over: AtomicBool,
    /// The phones have agreed on something that can't be decoded here.
    changed: AtomicBool,
    created: Timestamp,
}

impl Ask for Says {
    fn owned(&self) -> Vec<VnodeId> {
        self.owned.load(Ordering::Relaxed).then_some(VNODE).into_iter().collect()
    }

    fn look(&self, call: CallId, known: Option<&Known>) -> Look {
        if !self.owned.load(Ordering::Relaxed) {
            return Look::Elsewhere;
        }
        if call != CALL || self.over.load(Ordering::Relaxed) {
            return Look::Over;
        }
        let changed = self.changed.load(Ordering::Relaxed);
        let record = Bytes::from(vec![u8::from(changed)]);
        if known.is_some_and(|known| known.record == record) {
            return Look::Same;
        }
        let about = About { call, created: self.created, caller: "sip:a@x".into(), callee: "sip:b@x".into() };
        let sides = || if changed { Vec::new() } else { vec![(0, Some(Codec::Pcmu))] };
        let formats = Arc::new([sides(), sides()]);
        Look::Changed(Box::new(Known { vnode: VNODE, about: about.into(), formats, record }))
    }

    fn is_live(&self, _: VnodeId, _: CallId) -> bool {
        !self.over.load(Ordering::Relaxed)
    }

    fn tidies(&self) -> bool {
        false
    }
}

/// A node that records.
struct Node {
    says: Arc<Says>,
    taped: mpsc::Sender<Vec<Taped>>,
    recorder: Recorder,
    _scratch: tempfile::TempDir,
}

impl Node {
    fn start(number: u64, store: &Arc<dyn ObjectStore>, created: Timestamp, format: RecordingFormat) -> Self {
        let says = Arc::new(Says { owned: true.into(), over: false.into(), changed: false.into(), created });
        let (taped, receiver) = mpsc::channel(1024);
        let scratch = tempfile::tempdir().unwrap();
        let settings = Settings { node: NodeId(number), format, keep_days: 0, scratch: scratch.path().into() };
        let recorder = Recorder::start(shelf(store), says.clone(), receiver, settings);
        Self { says, taped, recorder, _scratch: scratch }
    }

    /// Both phones have said so many packets, one every 20 ms since the call was made.
    async fn hears(&self, numbers: std::ops::Range<u16>) {
        for number in numbers {
            let ago = clock::now().since(self.says.created + Duration::from_millis(20) * u32::from(number));
            let at = Uptime(clock::uptime().0 - u64::try_from(ago.as_micros()).unwrap());
            let lot = [(0, 20), (1, 10)].map(|(side, period)| Taped { call: CALL, side, at, packet: said(number, side, period) });
            self.taped.send(lot.into()).await.unwrap();
        }
    }

    /// It dies without a word.
    fn die(self) {
        drop(self.recorder);
    }
}

/// Before all that is said.
fn begun() -> Timestamp {
    clock::now() - Duration::from_secs(4)
}

fn shelf(store: &Arc<dyn ObjectStore>) -> Shelf {
    Shelf::new(store.clone(), &Secret("a secret".into()))
}

/// 20 ms of a tone of 8000 / `period` Hz.
fn said(number: u16, side: u8, period: usize) -> Bytes {
    let mut packet = vec![0x80, 0];
    packet.extend(number.to_be_bytes());
    packet.extend((u32::from(number) * 160).to_be_bytes());
    packet.extend([side; 4]);
    let samples: Vec<i16> = (0..160).map(|n| if n % period < period / 2 { 5000 } else { -5000 }).collect();
    let mut octets = [0; 160];
    Law::Mu.encode(&samples, &mut octets);
    packet.extend(octets);
    packet.into()
}

async fn names(store: &Arc<dyn ObjectStore>, below: &str) -> Vec<String> {
    shelf(store).below(&Path::from(below)).await.unwrap().iter().map(Path::to_string).collect()
}

/// Waits until something is so of what the store holds.
async fn until(store: &Arc<dyn ObjectStore>, below: &str, is_so: impl Fn(&[String]) -> bool) -> Vec<String> {
    loop {
        let names = names(store, below).await;
        if is_so(&names) {
            return names;
        }
        sleep(Duration::from_millis(20)).await;
    }
}

async fn made(store: &Arc<dyn ObjectStore>) -> (Made, Vec<u8>) {
    let names = until(store, "recordings", |names| names.iter().any(|name| name.ends_with(".json"))).await;
    let day = names[0].split('/').nth(1).unwrap().to_owned();
    let made: Made = serde_json::from_slice(&shelf(store).made(&day, CALL).await.unwrap().unwrap()).unwrap();
    let sound = shelf(store).file(&day, &made.file).await.unwrap().unwrap().bytes().await.unwrap();
    (made, sound.to_vec())
}

/// How often a channel of a WAV file changes its sign in a second.
fn pitch(wav: &[u8], channel: usize) -> usize {
    let samples: Vec<_> =
        wav[44..].chunks_exact(4).map(|frame| i16::from_le_bytes([frame[2 * channel], frame[2 * channel + 1]])).collect();
    samples.windows(2).filter(|pair| (pair[0] < 0) != (pair[1] < 0)).count() * 4000 / samples.len()
}

#[tokio::test]
async fn a_call_becomes_a_file_and_leaves_nothing() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let node = Node::start(1, &store, begun(), RecordingFormat::Wav);
    node.hears(0..100).await;
    let journals = until(&store, "open", |names| !names.is_empty()).await;
    assert!(journals.iter().all(|name| name.starts_with("open/v3/journal/")), "{journals:?}");
    // What lies there tells nobody anything.
    let journal = store.get(&Path::from(&*journals[0])).await.unwrap().bytes().await.unwrap();
    assert!(!journal.windows(7).any(|window| window == b"sip:a@x"));
    node.says.over.store(true, Ordering::Relaxed);
    let (made, wav) = made(&store).await;
    assert_eq!((made.length, made.gaps.len(), made.owners, made.rate), (2000, 0, 1, 8000));
    assert_eq!((made.caller.as_str(), wav.len()), ("sip:a@x", 44 + 2000 * 8 * 4));
    assert_eq!((pitch(&wav, 0), pitch(&wav, 1)), (399, 799));
    until(&store, "open", <[_]>::is_empty).await;
}

/// The next owner finds what the former has written, and nothing is lost but what that one still held.
#[tokio::test]
async fn who_takes_a_call_over_goes_on_with_its_recording() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let created = begun();
    let former = Node::start(1, &store, created, RecordingFormat::Wav);
    former.hears(0..50).await;
    until(&store, "open/v3/journal", |names| !names.is_empty()).await;
    former.die();
    let next = Node::start(2, &store, created, RecordingFormat::Wav);
    next.hears(54..100).await;
    until(&store, "open/v3/journal", |names| names.iter().any(|name| name.contains("-n2-"))).await;
    next.says.over.store(true, Ordering::Relaxed);
    let (made, wav) = made(&store).await;
    assert_eq!((made.length, made.owners, wav.starts_with(b"RIFF")), (2000, 2, true));
    let gaps: Vec<_> = made.gaps.iter().map(|gap| (gap.side, gap.from, gap.until - gap.from, gap.why)).collect();
    assert_eq!(gaps, [(0, 1000, 80, Why::Takeover), (1, 1000, 80, Why::Takeover)]);
    until(&store, "open", <[_]>::is_empty).await;
}

/// Whoever dies before it is composed leaves that to whoever owns the vnode then; and a late part of what is composed changes nothing.
#[tokio::test]
async fn what_is_over_is_composed_by_whoever_comes_next_and_once() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let created = begun();
    let former = Node::start(1, &store, created, RecordingFormat::Wav);
    former.hears(0..50).await;
    until(&store, "open/v3/journal", |names| !names.is_empty()).await;
    let late = names(&store, "open/v3/journal").await[0].clone();
    let late = store.get(&Path::from(late)).await.unwrap().bytes().await.unwrap();
    former.die();
    let next = Node::start(2, &store, created, RecordingFormat::Wav);
    next.says.over.store(true, Ordering::Relaxed);
    let (first, _) = made(&store).await;
    assert_eq!((first.length, first.owners), (1000, 1));
    next.die();
    store.put(&Path::from("open/v3/journal/0000000000001-n1-00000009"), late.into()).await.unwrap();
    let third = Node::start(3, &store, created, RecordingFormat::Wav);
    third.says.over.store(true, Ordering::Relaxed);
    until(&store, "open", <[_]>::is_empty).await;
    assert_eq!(made(&store).await.0, first);
    third.die();
}

/// A vnode that goes home takes its calls' recordings with it.
#[tokio::test]
async fn who_gives_a_call_away_leaves_all_that_it_has_heard() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let created = begun();
    let former = Node::start(1, &store, created, RecordingFormat::Wav);
    former.hears(0..50).await;
    until(&store, "open/v3/journal", |names| !names.is_empty()).await;
    former.hears(50..60).await;
    former.says.owned.store(false, Ordering::Relaxed);
    let next = Node::start(2, &store, created, RecordingFormat::Wav);
    next.hears(60..100).await;
    until(&store, "open/v3", |names| names.len() > 2).await;
    former.recorder.stop().await;
    next.says.over.store(true, Ordering::Relaxed);
    let (made, _) = made(&store).await;
    assert_eq!((made.length, made.owners), (2000, 2));
    assert_eq!(made.gaps.iter().map(|gap| gap.until - gap.from).collect::<Vec<_>>(), [0, 0]);
}

/// Numbers mean something else from some moment on: what was heard before is understood as it was meant.
#[tokio::test]
async fn what_was_said_by_other_formats_is_heard_by_those() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let node = Node::start(1, &store, begun(), RecordingFormat::Wav);
    node.hears(0..50).await;
    until(&store, "open/v3/journal", |names| !names.is_empty()).await;
    node.says.changed.store(true, Ordering::Relaxed);
    sleep(Duration::from_millis(500)).await;
    node.hears(50..60).await;
    node.says.over.store(true, Ordering::Relaxed);
    let (made, wav) = made(&store).await;
    assert_eq!((made.length, made.unheard), (1000, 20));
    assert_eq!((pitch(&wav, 0), pitch(&wav, 1)), (399, 799));
}

/// What nobody can open is put aside, and the rest is a recording.
#[tokio::test]
async fn a_part_that_is_broken_takes_nothing_else_with_it() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let created = begun();
    let former = Node::start(1, &store, created, RecordingFormat::Wav);
    former.hears(0..50).await;
    until(&store, "open/v3/journal", |names| !names.is_empty()).await;
    former.die();
    store.put(&Path::from("open/v3/journal/0000000000001-n1-00000009"), "rubbish".into()).await.unwrap();
    let next = Node::start(2, &store, created, RecordingFormat::Wav);
    next.says.over.store(true, Ordering::Relaxed);
    assert_eq!(made(&store).await.0.length, 1000);
    until(&store, "open", <[_]>::is_empty).await;
    assert_eq!(names(&store, "broken").await, ["broken/open/v3/journal/0000000000001-n1-00000009"]);
    next.die();
}

/// A store that does not answer costs memory, and no sound.
#[tokio::test]
async fn what_is_said_while_the_store_is_slow_is_kept() {
    let slow = ThrottleConfig { wait_put_per_call: Duration::from_millis(700), ..ThrottleConfig::default() };
    let store: Arc<dyn ObjectStore> = Arc::new(ThrottledStore::new(InMemory::new(), slow));
    let node = Node::start(1, &store, begun(), RecordingFormat::Wav);
    node.hears(0..40).await;
    // In the middle of a request.
    sleep(Duration::from_millis(500)).await;
    node.hears(40..100).await;
    node.says.over.store(true, Ordering::Relaxed);
    assert_eq!(made(&store).await.0.length, 2000);
}

#[tokio::test]
async fn ogg_is_as_long_as_it_says() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let node = Node::start(1, &store, begun(), RecordingFormat::Ogg);
    node.hears(0..101).await;
    until(&store, "open/v3/journal", |names| !names.is_empty()).await;
    node.says.over.store(true, Ordering::Relaxed);
    let (made, bytes) = made(&store).await;
    assert!(made.file.ends_with(".ogg"));
    let mut reader = ogg::PacketReader::new(std::io::Cursor::new(bytes));
    let mut packets = Vec::new();
    while let Some(packet) = reader.read_packet().unwrap() {
        packets.push(packet);
    }
    assert!(packets[0].data.starts_with(b"OpusHead\x01\x02") && packets[1].data.starts_with(b"OpusTags"));
    assert_eq!((packets.len(), packets.last().unwrap().absgp_page()), (2 + 101, 101 * 960));
    let mut decoder = ropus::Decoder::new(48_000, ropus::Channels::Stereo).unwrap();
    let mut samples = vec![0; 2 * 960];
    let sound: Vec<i16> = packets[2..]
        .iter()
        .flat_map(|packet| {
            let count = decoder.decode(&packet.data, &mut samples, ropus::DecodeMode::Normal).unwrap();
            samples[..2 * count].to_vec()
        })
        .collect();
    let turns = |channel: usize| {
        let track: Vec<_> = sound.iter().skip(channel).step_by(2).skip(4800).collect();
        track.windows(2).filter(|pair| (*pair[0] < 0) != (*pair[1] < 0)).count() * 24_000 / track.len()
    };
    assert!((380..=420).contains(&turns(0)) && (760..=840).contains(&turns(1)), "{} {}", turns(0), turns(1));
}

#[tokio::test]
async fn what_is_deleted_is_written_down() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let now = Timestamp(1_795_824_000_000);
    for (day, call) in [("2026-10-01", CallId(1)), ("2026-11-20", CallId(2)), ("2026-11-28", CallId(3))] {
        for ending in ["json", "wav"] {
            store.put(&shelf::recording(day, call, ending), "x".into()).await.unwrap();
        }
    }
    let shelf = shelf(&store);
    retention::tidy(&shelf, 0, now).await.unwrap();
    assert_eq!(names(&store, "recordings").await.len(), 6);
    retention::tidy(&shelf, 8, now).await.unwrap();
    assert_eq!(names(&store, "recordings").await.len(), 4);
    assert!(delete(&shelf, "2026-11-28", CallId(3), "api", now).await.unwrap());
    assert!(!delete(&shelf, "2026-11-28", CallId(3), "api", now).await.unwrap());
    let written = names(&store, "audit").await;
    let mut lines = Vec::new();
    for name in &written {
        let bytes = store.get(&Path::from(&**name)).await.unwrap().bytes().await.unwrap();
        let line: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        lines.push(format!(
            "{} {} {}",
            line["day"].as_str().unwrap(),
            &line["call"].as_str().unwrap()[31..],
            line["by"].as_str().unwrap()
        ));
    }
    lines.sort();
    assert_eq!(lines, ["2026-10-01 1 recording.keep_days", "2026-11-28 3 api"]);
}

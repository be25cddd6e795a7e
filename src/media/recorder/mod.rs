//! Keeps what the phones of recorded calls say (docs/decisions/0031). Layer: shell.
//!
//! ```text
//!  relay's threads ──▶ packets ──▶ this task ──every 400 ms──▶ a journal of each vnode ─┐ sealed,
//!                                      └──every half minute──▶ a part of each call ─────┤ in the store
//!  a call is over ──▶ the composer: all parts of it, whoever wrote them ──▶ one file ◀──┘
//! ```
//!
//! It asks the records which calls there are, what they are of, and whether they are over ([`Ask`]); nobody tells it. So it knows of a call that was taken
//! over as soon as its first packet comes. What a former owner has left in its journals the next one makes parts of, and whoever owns a vnode composes
//! what is over of it: all that is to be done is in the store, and may be done twice.
//!
//! Invariants: nothing waits for the store but this task; what it holds is bounded, and what it loses is counted.

mod composer;
mod retention;
mod sheet;
mod shelf;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::core::formats::Codec;
use super::core::recording::{About, Chunk, Said, Segment};
use super::relay::Taped;
use crate::clock::{self, Timestamp};
use crate::config::RecordingFormat;
use crate::ids::{CallId, NodeId, VnodeId};
pub use composer::Made;
use composer::{Composer, Job, Over};
pub use retention::{Deleted, delete};
pub use shelf::{Shelf, ShelfError};

/// How much sound a node takes with it when it dies.
const JOURNAL: Duration = Duration::from_millis(400);
/// How long a journal is read by whoever takes a vnode over.
const PART: Duration = Duration::from_secs(30);
/// How often it is looked for what nobody has composed yet.
const SWEEP: Duration = Duration::from_secs(30);
/// Who stops waits for the store no longer.
const STOP: Duration = Duration::from_secs(2);
/// So many octets of packets are held for the store; what comes then is lost.
const HELD: usize = 256 << 20;
/// From so many on parts are written, however young they are.
const FULL: usize = 64 << 20;
/// So many journals are written at once.
const AT_ONCE: usize = 8;

/// What the records say of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// Nothing but what they have said before.
    Same,
    /// This.
    Changed(Box<Known>),
    /// It is over.
    Over,
    /// It isn't this node's.
    Elsewhere,
}

/// What is known of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// Its vnode.
    pub vnode: VnodeId,
    /// What it is.
    pub about: Arc<About>,
    /// What the numbers of each side's packets mean.
    pub formats: [Vec<(u8, Codec)>; 2],
    /// What all that was read from.
    pub record: Bytes,
}

/// Whoever has the records.
pub trait Ask: Send + Sync + 'static {
    /// The vnodes that are this node's.
    fn owned(&self) -> Vec<VnodeId>;
    /// What there is to say of a call of which this record is known.
    fn look(&self, call: CallId, known: Option<&Bytes>) -> Look;
    /// Whether a call of a vnode of this node's goes on.
    fn is_live(&self, vnode: VnodeId, call: CallId) -> bool;
    /// Whether this node is the one that looks after what is kept.
    fn tidies(&self) -> bool;
}

/// How it is done.
#[derive(Debug, Clone)]
pub struct Settings {
    /// This node.
    pub node: NodeId,
    /// What a recording is in the end.
    pub format: RecordingFormat,
    /// Recordings are deleted after so many days; 0 is never.
    pub keep_days: u32,
    /// Where files are on their way.
    pub scratch: std::path::PathBuf,
}

/// A running recorder.
#[derive(Debug)]
pub struct Recorder {
    keeper: JoinHandle<()>,
    composer: JoinHandle<()>,
    stop: Option<oneshot::Sender<()>>,
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.keeper.abort();
        self.composer.abort();
    }
}

impl Recorder {
    /// Keeps what the relay tapes.
    pub fn start(shelf: Shelf, ask: Arc<dyn Ask>, taped: mpsc::Receiver<Vec<Taped>>, settings: Settings) -> Self {
        let open = Arc::default();
        let (jobs, todo) = mpsc::channel(composer::JOBS);
        let composer = Composer::new(shelf.clone(), ask.clone(), Arc::clone(&open), settings.clone());
        let composer = tokio::spawn(composer.run(todo));
        let keeper = Keeper {
            shelf,
            ask,
            node: settings.node,
            jobs,
            open,
            calls: HashMap::new(),
            vnodes: BTreeMap::new(),
            held: 0,
            swept: clock::now(),
        };
        let (stop, stops) = oneshot::channel();
        Self { keeper: tokio::spawn(keeper.run(taped, stops)), composer, stop: Some(stop) }
    }

    /// Ends once what was said is in the store, or [`STOP`] has passed: the next owners go on with it.
    pub async fn stop(mut self) {
        drop(self.stop.take());
        let _ = timeout(STOP, &mut self.keeper).await;
    }
}

/// Calls of which something is held here.
type Open = Arc<Mutex<HashSet<CallId>>>;

struct Keeper {
    shelf: Shelf,
    ask: Arc<dyn Ask>,
    node: NodeId,
    jobs: mpsc::Sender<Job>,
    open: Open,
    calls: HashMap<CallId, Call>,
    vnodes: BTreeMap<VnodeId, Journal>,
    /// Octets.
    held: usize,
    swept: Timestamp,
}

struct Call {
    known: Known,
    /// In no journal yet, and in some.
    fresh: Vec<Said>,
    kept: Vec<Said>,
    octets: usize,
}

/// Of one vnode, by this owner.
struct Journal {
    life: Arc<str>,
    number: u64,
    /// Those that are not in parts yet.
    written: Vec<object_store::path::Path>,
    /// When parts were made last.
    since: Timestamp,
}

impl Call {
    fn chunk(&self, life: &Arc<str>, said: Vec<Said>) -> Chunk {
        Chunk { about: self.known.about.clone(), life: life.clone(), formats: self.known.formats.clone(), said }
    }
}

impl Keeper {
    async fn run(mut self, mut taped: mpsc::Receiver<Vec<Taped>>, mut stops: oneshot::Receiver<()>) {
        let mut beat = interval(JOURNAL);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                batch = taped.recv() => match batch {
                    Some(batch) => self.take(batch),
                    None => return,
                },
                _ = beat.tick() => self.beat().await,
                _ = &mut stops => {
                    while let Ok(batch) = taped.try_recv() {
                        self.take(batch);
                    }
                    return self.write_journals(clock::now()).await;
                }
            }
        }
    }

    fn take(&mut self, batch: Vec<Taped>) {
        let (now, up) = (clock::now(), clock::uptime());
        for Taped { call, side, at, packet } in batch {
            if self.held + packet.len() > HELD {
                metrics::counter!("tandem_recording_lost_packets_total").increment(1);
                continue;
            }
            if !self.calls.contains_key(&call) {
                let Look::Changed(known) = self.ask.look(call, None) else { continue };
                self.open().insert(call);
                self.calls.insert(call, Call { known: *known, fresh: Vec::new(), kept: Vec::new(), octets: 0 });
            }
            let Some(call) = self.calls.get_mut(&call) else { continue };
            call.octets += packet.len();
            self.held += packet.len();
            call.fresh.push(Said { side, at: now - up.since(at), packet });
        }
    }

    fn open(&self) -> std::sync::MutexGuard<'_, HashSet<CallId>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn beat(&mut self) {
        let now = clock::now();
        let owned: Vec<_> = self.ask.owned();
        let (over, elsewhere) = self.look();
        for vnode in &owned {
            if !self.vnodes.contains_key(vnode) {
                self.vnodes.insert(*vnode, Journal::new(self.node, now));
                self.tell(Job::TakeOver(*vnode, self.life(*vnode)));
            }
        }
        self.write_journals(now).await;
        let is_full = self.held > FULL;
        let due: Vec<_> = self.vnodes.iter().filter(|(_, journal)| is_full || now.since(journal.since) >= PART).collect();
        let due: Vec<_> = due.into_iter().map(|(vnode, _)| *vnode).collect();
        for vnode in due {
            self.make_parts(vnode, now).await;
        }
        for call in over {
            self.finish(call).await;
        }
        for call in elsewhere {
            // What it has said here is in a journal, which the next owner reads.
            if self.calls.get(&call).is_some_and(|call| call.fresh.is_empty()) {
                self.forget(call);
            }
        }
        for vnode in self.idle(&owned) {
            self.make_parts(vnode, now).await;
        }
        let calls = &self.calls;
        self.vnodes.retain(|vnode, _| owned.contains(vnode) || calls.values().any(|call| call.known.vnode == *vnode));
        if now.since(self.swept) >= SWEEP {
            self.swept = now;
            owned.iter().for_each(|vnode| self.tell(Job::TakeOver(*vnode, self.life(*vnode))));
            if self.ask.tidies() {
                self.tell(Job::Tidy);
            }
        }
        metrics::gauge!("tandem_recording_calls").set(u32::try_from(self.calls.len()).unwrap_or(u32::MAX));
        metrics::gauge!("tandem_recording_held_bytes").set(u32::try_from(self.held).unwrap_or(u32::MAX));
    }

    fn tell(&self, job: Job) {
        // A full queue is looked at again by the next sweep.
        let _ = self.jobs.try_send(job);
    }

    fn life(&self, vnode: VnodeId) -> Arc<str> {
        self.vnodes.get(&vnode).map_or_else(|| Arc::from(""), |journal| journal.life.clone())
    }

    /// What has become of the calls: which are over, and which are no more ours.
    fn look(&mut self) -> (Vec<CallId>, Vec<CallId>) {
        let (mut over, mut elsewhere) = (Vec::new(), Vec::new());
        for (id, call) in &mut self.calls {
            match self.ask.look(*id, Some(&call.known.record)) {
                Look::Same => {}
                Look::Changed(known) => call.known = *known,
                Look::Over => over.push(*id),
                Look::Elsewhere => elsewhere.push(*id),
            }
        }
        (over, elsewhere)
    }

    async fn write_journals(&mut self, now: Timestamp) {
        let mut chunks: BTreeMap<VnodeId, Vec<Chunk>> = BTreeMap::new();
        for call in self.calls.values().filter(|call| !call.fresh.is_empty()) {
            let vnode = call.known.vnode;
            let journal = self.vnodes.entry(vnode).or_insert_with(|| Journal::new(self.node, now));
            chunks.entry(vnode).or_default().push(call.chunk(&journal.life, call.fresh.clone()));
        }
        let mut writes = Vec::new();
        for (vnode, chunks) in chunks {
            let Some(journal) = self.vnodes.get_mut(&vnode) else { continue };
            let path = shelf::journals(vnode).join(format!("{}-{:08}", journal.life, journal.number));
            // Written in part, perhaps: its number isn't used again.
            journal.number += 1;
            let shelf = self.shelf.clone();
            writes.push(async move {
                let written = shelf.put_segment(&path, &Segment::new(chunks)).await;
                (vnode, path, written)
            });
        }
        let mut writes = writes.into_iter();
        loop {
            let some: Vec<_> = writes.by_ref().take(AT_ONCE).collect();
            if some.is_empty() {
                return;
            }
            for (vnode, path, written) in futures_util::future::join_all(some).await {
                match written {
                    Ok(()) => {
                        self.vnodes.get_mut(&vnode).into_iter().for_each(|journal| journal.written.push(path.clone()));
                        let of_vnode = self.calls.values_mut().filter(|call| call.known.vnode == vnode);
                        of_vnode.for_each(|call| call.kept.append(&mut call.fresh));
                    }
                    Err(error) => complain(&error),
                }
            }
        }
    }

    /// Vnodes whose journals nobody needs any more: a next owner's are his.
    fn idle(&self, owned: &[VnodeId]) -> Vec<VnodeId> {
        let is_idle = |vnode: &VnodeId| owned.contains(vnode) && self.calls.values().all(|call| call.known.vnode != *vnode);
        let written = self.vnodes.iter().filter(|(_, journal)| !journal.written.is_empty());
        written.map(|(vnode, _)| *vnode).filter(is_idle).collect()
    }

    /// What the journals of a vnode hold is written by call, and then they are not needed any more.
    async fn make_parts(&mut self, vnode: VnodeId, now: Timestamp) {
        let calls: Vec<_> = self.calls.iter().filter(|(_, call)| call.known.vnode == vnode).map(|(id, _)| *id).collect();
        for call in calls {
            if !self.make_part(call).await {
                return;
            }
        }
        let Some(journal) = self.vnodes.get_mut(&vnode) else { return };
        journal.since = now;
        for path in std::mem::take(&mut journal.written) {
            // Left where it is it costs the next owner a look.
            if let Err(error) = self.shelf.delete(&path).await {
                complain(&error);
            }
        }
    }

    async fn make_part(&mut self, id: CallId) -> bool {
        let Some(call) = self.calls.get_mut(&id) else { return true };
        let Some(first) = call.kept.iter().map(|said| said.at).min() else { return true };
        let vnode = call.known.vnode;
        let Some(journal) = self.vnodes.get_mut(&vnode) else { return true };
        let path = shelf::parts(vnode, id).join(format!("{:013}-{}-{:08}", first.0, journal.life, journal.number));
        journal.number += 1;
        let chunk = call.chunk(&journal.life, call.kept.clone());
        match self.shelf.put_segment(&path, &Segment::new(vec![chunk])).await {
            Ok(()) => {
                let octets: usize = call.kept.drain(..).map(|said| said.packet.len()).sum();
                call.octets -= octets;
                self.held -= octets;
                true
            }
            Err(error) => {
                complain(&error);
                false
            }
        }
    }

    /// A call is over: once all of it is there it is composed.
    async fn finish(&mut self, id: CallId) {
        let is_written = self.calls.get(&id).is_none_or(|call| call.fresh.is_empty()) && self.make_part(id).await;
        let Some(vnode) = self.calls.get(&id).map(|call| call.known.vnode).filter(|_| is_written) else { return };
        self.forget(id);
        let life = self.life(vnode);
        self.tell(Job::Compose(Over { vnode, call: id, life, not_before: clock::now() + composer::GRACE }));
    }

    fn forget(&mut self, id: CallId) {
        self.held -= self.calls.remove(&id).map_or(0, |call| call.octets);
        self.open().remove(&id);
    }
}

impl Journal {
    fn new(node: NodeId, now: Timestamp) -> Self {
        Self { life: format!("{:013}-{node}", now.0).into(), number: 0, written: Vec::new(), since: now }
    }
}

fn complain(error: &ShelfError) {
    metrics::counter!("tandem_recording_store_errors_total").increment(1);
    tracing::warn!(%error, "a recording waits for its store");
}

#[cfg(test)]
mod tests;

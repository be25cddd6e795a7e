//! Takes what is said, and has it written. Layer: shell.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use object_store::path::Path;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval};

use super::composer::{GRACE, Job, Over};
use super::filer::Files;
use super::{Ask, Known, Look, Open, Shelf, complain, shelf};
use crate::clock::{self, Timestamp};
use crate::ids::{CallId, NodeId, VnodeId};
use crate::media::core::recording::segment::Kinds;
use crate::media::core::recording::{Chunk, Said, Segment};
use crate::media::relay::Taped;

/// How much sound a node takes with it when it dies.
const JOURNAL: Duration = Duration::from_millis(400);
/// How long a journal is read by whoever takes a vnode over.
const PART: Duration = Duration::from_secs(30);
/// How often it is looked for what nobody has composed yet.
const SWEEP: Duration = Duration::from_secs(30);
/// So many octets of packets are held for the store; what comes then is lost.
const HELD: usize = 256 << 20;
/// What a packet costs besides.
const BESIDES: usize = 64;
/// From so many on parts are written, however young they are.
const FULL: usize = 64 << 20;
/// An object is of so many octets, or one call's more.
const PIECE: usize = 4 << 20;
/// So many journals are written at once.
const AT_ONCE: usize = 8;

/// See [`super`].
pub(super) struct Keeper {
    shelf: Shelf,
    ask: Arc<dyn Ask>,
    node: NodeId,
    open: Open,
    jobs: mpsc::Sender<Job>,
    files: mpsc::UnboundedSender<Files>,
    filed: mpsc::UnboundedReceiver<usize>,
    calls: HashMap<CallId, Call>,
    vnodes: BTreeMap<VnodeId, Journal>,
    /// Octets, those that are on their way into parts among them.
    held: usize,
    swept: Timestamp,
}

struct Call {
    known: Known,
    /// In no journal yet, and in some.
    fresh: Vec<Heard>,
    kept: Vec<Heard>,
    /// It was over, or somebody else's, when it was looked at last: what was on its way then has come by now.
    ends: bool,
}

/// A packet, by what its number meant when it came.
type Heard = (Arc<[Kinds; 2]>, Said);

/// What goes into one object.
struct Piece {
    vnode: VnodeId,
    octets: usize,
    calls: Vec<(CallId, Vec<Heard>)>,
}

/// Of one vnode, by this owner.
struct Journal {
    life: Arc<str>,
    number: u64,
    /// Those that are not in parts yet.
    written: Vec<Path>,
    /// When parts were made last.
    since: Timestamp,
}

impl Journal {
    fn new(node: NodeId, now: Timestamp) -> Self {
        Self { life: format!("{:013}-{node}", now.0).into(), number: 0, written: Vec::new(), since: now }
    }

    /// A name that isn't used again, whatever becomes of what it names.
    fn next(&mut self) -> String {
        self.number += 1;
        format!("{}-{:08}", self.life, self.number)
    }
}

fn octets(heard: &[Heard]) -> usize {
    heard.iter().map(|(_, said)| said.packet.len() + BESIDES).sum()
}

impl Call {
    fn new(known: Known) -> Self {
        Self { known, fresh: Vec::new(), kept: Vec::new(), ends: false }
    }

    /// A chunk for each meaning that numbers had.
    fn chunks(&self, life: &Arc<str>, heard: &[Heard]) -> Vec<Chunk> {
        let runs = heard.chunk_by(|(a, _), (b, _)| Arc::ptr_eq(a, b));
        let chunk = |run: &[Heard]| Chunk {
            about: self.known.about.clone(),
            life: life.clone(),
            formats: run[0].0.clone(),
            said: run.iter().map(|(_, said)| said.clone()).collect(),
        };
        runs.map(chunk).collect()
    }

    fn knows(&self, side: u8, packet: &[u8]) -> bool {
        let kind = packet.get(1).map(|kind| kind & 0x7f);
        self.known.formats.get(usize::from(side)).is_some_and(|kinds| kinds.iter().any(|(number, _)| Some(*number) == kind))
    }
}

impl Keeper {
    pub(super) fn new(
        shelf: Shelf,
        ask: Arc<dyn Ask>,
        node: NodeId,
        open: Open,
        (jobs, files, filed): (mpsc::Sender<Job>, mpsc::UnboundedSender<Files>, mpsc::UnboundedReceiver<usize>),
    ) -> Self {
        let (calls, vnodes) = (HashMap::new(), BTreeMap::new());
        Self { shelf, ask, node, open, jobs, files, filed, calls, vnodes, held: 0, swept: clock::now() }
    }

    pub(super) async fn run(mut self, mut taped: mpsc::Receiver<Vec<Taped>>, mut stops: oneshot::Receiver<()>) {
        let mut beat = interval(JOURNAL);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                lot = taped.recv() => match lot {
                    Some(lot) => self.take(lot),
                    None => return,
                },
                Some(octets) = self.filed.recv() => self.held -= octets,
                _ = beat.tick() => {
                    self.take_all(&mut taped);
                    self.beat().await;
                }
                _ = &mut stops => {
                    self.take_all(&mut taped);
                    return self.write_journals(clock::now()).await;
                }
            }
        }
    }

    fn take_all(&mut self, taped: &mut mpsc::Receiver<Vec<Taped>>) {
        while let Ok(lot) = taped.try_recv() {
            self.take(lot);
        }
    }

    fn take(&mut self, lot: Vec<Taped>) {
        let (now, up) = (clock::now(), clock::uptime());
        let mut looked = HashSet::new();
        for Taped { call: id, side, at, packet } in lot {
            if self.held + packet.len() > HELD {
                metrics::counter!("tandem_recording_lost_packets_total").increment(1);
                continue;
            }
            let known = self.calls.get(&id);
            // What it doesn't know may have been agreed on since.
            if known.is_none_or(|call| !call.knows(side, &packet)) && looked.insert(id) {
                let look = self.ask.look(id, known.map(|call| &call.known));
                match (look, self.calls.get_mut(&id)) {
                    (Look::Changed(now), Some(call)) => call.known = *now,
                    (Look::Changed(now), None) => {
                        self.open().insert(id);
                        self.calls.insert(id, Call::new(*now));
                    }
                    (Look::Same | Look::Over | Look::Elsewhere, _) => {}
                }
            }
            // Nobody's: it comes late for a call that is over.
            let Some(call) = self.calls.get_mut(&id) else { continue };
            let heard = (call.known.formats.clone(), Said { side, at: now - up.since(at), packet });
            self.held += octets(std::slice::from_ref(&heard));
            call.fresh.push(heard);
        }
    }

    fn open(&self) -> MutexGuard<'_, HashSet<CallId>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn beat(&mut self) {
        let now = clock::now();
        let (over, elsewhere) = self.look();
        // After the calls: whatever became somebody else's meanwhile is left to him.
        let owned = self.ask.owned();
        for vnode in &owned {
            if !self.vnodes.contains_key(vnode) {
                self.vnodes.insert(*vnode, Journal::new(self.node, now));
                self.tell(Job::TakeOver(*vnode, self.life(*vnode)));
            }
        }
        self.write_journals(now).await;
        self.let_go(&elsewhere, now);
        self.finish(&over);
        let is_full = self.held > FULL;
        let is_due = |vnode: &VnodeId, journal: &Journal| {
            let is_idle = !journal.written.is_empty() && self.calls.values().all(|call| call.known.vnode != *vnode);
            owned.contains(vnode) && (is_full || is_idle || now.since(journal.since) >= PART)
        };
        let due: Vec<_> = self.vnodes.iter().filter(|(vnode, journal)| is_due(vnode, journal)).map(|(vnode, _)| *vnode).collect();
        due.into_iter().for_each(|vnode| self.make_parts(vnode, now));
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

    /// What has become of the calls: which have been over for a beat, and which have been somebody else's for one.
    fn look(&mut self) -> (Vec<CallId>, Vec<CallId>) {
        let (mut over, mut elsewhere) = (Vec::new(), Vec::new());
        for (id, call) in &mut self.calls {
            let ends = match self.ask.look(*id, Some(&call.known)) {
                Look::Same => None,
                Look::Changed(known) => {
                    call.known = *known;
                    None
                }
                Look::Over => Some(&mut over),
                Look::Elsewhere => Some(&mut elsewhere),
            };
            let ended = std::mem::replace(&mut call.ends, ends.is_some());
            if let Some(ends) = ends.filter(|_| ended) {
                ends.push(*id);
            }
        }
        (over, elsewhere)
    }

    /// What isn't in the store yet is written, vnode by vnode; what can't be is fresh still.
    async fn write_journals(&mut self, now: Timestamp) {
        let mut pieces: Vec<Piece> = Vec::new();
        for (id, call) in self.calls.iter_mut().filter(|(_, call)| !call.fresh.is_empty()) {
            let (vnode, fresh) = (call.known.vnode, std::mem::take(&mut call.fresh));
            let size = octets(&fresh);
            match pieces.iter_mut().find(|piece| piece.vnode == vnode && piece.octets + size <= PIECE) {
                Some(piece) => {
                    piece.octets += size;
                    piece.calls.push((*id, fresh));
                }
                None => pieces.push(Piece { vnode, octets: size, calls: vec![(*id, fresh)] }),
            }
        }
        let mut writes = Vec::new();
        for Piece { vnode, calls, .. } in pieces {
            let journal = self.vnodes.entry(vnode).or_insert_with(|| Journal::new(self.node, now));
            let path = shelf::journals(vnode).join(journal.next());
            let life = journal.life.clone();
            // It may be there even if we hear nothing of it.
            journal.written.push(path.clone());
            let chunk = |(id, heard): &(CallId, Vec<Heard>)| self.calls.get(id).map(|call| call.chunks(&life, heard));
            let segment = Segment::new(calls.iter().filter_map(chunk).flatten().collect());
            let shelf = self.shelf.clone();
            writes.push(async move { (calls, shelf.put_segment(&path, segment).await) });
        }
        let mut written = stream::iter(writes).buffer_unordered(AT_ONCE);
        while let Some((calls, written)) = written.next().await {
            if let Err(error) = &written {
                complain(error);
            }
            for (id, mut heard) in calls {
                let Some(call) = self.calls.get_mut(&id) else { continue };
                let to = if written.is_ok() { &mut call.kept } else { &mut call.fresh };
                to.append(&mut heard);
            }
        }
    }

    /// What the journals of a vnode hold is written by call, and then they are not needed any more.
    fn make_parts(&mut self, vnode: VnodeId, now: Timestamp) {
        let calls: Vec<_> = self.calls.iter().filter(|(_, call)| call.known.vnode == vnode).map(|(id, _)| *id).collect();
        let mut files = Files { parts: Vec::new(), journals: Vec::new(), over: Vec::new(), octets: 0 };
        calls.into_iter().for_each(|call| self.make_part(call, &mut files));
        let Some(journal) = self.vnodes.get_mut(&vnode) else { return };
        journal.since = now;
        files.journals = std::mem::take(&mut journal.written);
        // Its other end is there as long as this one is.
        let _ = self.files.send(files);
    }

    fn make_part(&mut self, id: CallId, files: &mut Files) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        let kept = std::mem::take(&mut call.kept);
        let Some(first) = kept.iter().map(|(_, said)| said.at).min() else { return };
        let vnode = call.known.vnode;
        let Some(journal) = self.vnodes.get_mut(&vnode) else { return };
        let path = shelf::parts(vnode, id).join(format!("{:013}-{}", first.0, journal.next()));
        files.octets += octets(&kept);
        files.parts.push((path, Segment::new(call.chunks(&journal.life, &kept))));
    }

    /// Once all of these is there they are composed.
    fn finish(&mut self, over: &[CallId]) {
        for id in over {
            let Some(call) = self.calls.get(id).filter(|call| call.fresh.is_empty()) else { continue };
            let vnode = call.known.vnode;
            let mut files = Files { parts: Vec::new(), journals: Vec::new(), over: Vec::new(), octets: 0 };
            self.make_part(*id, &mut files);
            let one = Over { vnode, call: *id, life: self.life(vnode), not_before: clock::now() + GRACE };
            files.over.push(one);
            self.forget(*id);
            let _ = self.files.send(files);
        }
    }

    /// What these have said here is in journals, which are the next owner's from now on.
    fn let_go(&mut self, elsewhere: &[CallId], now: Timestamp) {
        for id in elsewhere {
            let Some(call) = self.calls.get(id).filter(|call| call.fresh.is_empty()) else { continue };
            let vnode = call.known.vnode;
            self.forget(*id);
            // Were the vnode this node's again, it would find them as it finds a stranger's.
            if let Some(journal) = self.vnodes.get_mut(&vnode) {
                *journal = Journal { number: journal.number, ..Journal::new(self.node, now) };
            }
        }
    }

    fn forget(&mut self, id: CallId) {
        if let Some(call) = self.calls.remove(&id) {
            self.held -= octets(&call.fresh) + octets(&call.kept);
        }
        self.open().remove(&id);
    }
}

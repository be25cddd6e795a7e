//! What a node keeps on its disk: sled, and a journal that covers what sled is behind. Layer: shell.
//!
//! Two kinds of durability (design, *Storage*; ADR 0004):
//! - **platter**: votes and all of meta. Acknowledged when it would survive a power loss.
//! - **page cache**: the log of a vnode's group. Acknowledged when it would survive the death of this process;
//!   a majority holds it in memory, and sled has it on the platter within [`FLUSH`].
//!
//! sled buffers inside the process, so alone it would forget the last moments at a `kill -9`. Hence the
//! journal: plain appends to one of two files, dropped when sled has flushed what they say. One thread does
//! everything that may block; nobody who answers phones ever waits for it, save for meta.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::raft::types::GroupId;
use super::wire::Memory;

/// How far sled may be behind.
pub const FLUSH: Duration = Duration::from_millis(200);
/// A longer entry in the journal is rubbish.
const MAX_ENTRY: u32 = 256 << 20;

/// A change of what is stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Change {
    /// Entries of a group's log.
    Append {
        /// Which group.
        group: u16,
        /// Index and encoded entry.
        entries: Vec<(u64, ByteBuf)>,
    },
    /// Everything from this index on is gone.
    Truncate {
        /// Which group.
        group: u16,
        /// The first that goes.
        from: u64,
    },
    /// Everything up to this index is gone; `id` is the encoded id of the last.
    Purge {
        /// Which group.
        group: u16,
        /// The last that goes.
        upto: u64,
        /// Encoded.
        id: ByteBuf,
    },
    /// A value by name: votes, snapshots.
    Put {
        /// Which group.
        group: u16,
        /// Which value.
        name: String,
        /// Encoded.
        value: ByteBuf,
    },
}

/// Why storage failed.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The directory or a file in it.
    #[error("cannot use {}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// sled.
    #[error("the database failed")]
    Sled(#[from] sled::Error),
}

/// What was stored of a group.
#[derive(Debug, Default)]
pub struct Stored {
    /// Index and encoded entry, in order.
    pub entries: Vec<(u64, Vec<u8>)>,
    /// The encoded id of the last purged entry.
    pub purged: Option<Vec<u8>>,
}

/// The node's disk.
pub struct Storage {
    db: sled::Db,
    gathered: Arc<Mutex<Gathered>>,
    journal: Arc<Mutex<Journal>>,
    queue: Sender<Job>,
    memory: Memory,
}

enum Job {
    /// Already in the journal; for sled, some time.
    Later(Change),
    /// To the platter, then tell.
    Now(Change, Box<dyn FnOnce(io::Result<()>) + Send>),
    /// The node has caught up: from now on its memory is whole.
    CaughtUp,
    /// Everything to the platter, and the mark that this stop was a clean one.
    Close(Sender<()>),
}

/// Two files that take turns. Each begins with its number, the higher one is the newer; both stay open, so that
/// a process without a free descriptor can still write.
struct Journal {
    files: [File; 2],
    current: usize,
    number: u64,
    /// The other file still holds what sled has not flushed.
    old_counts: bool,
}

impl Storage {
    /// Opens what is in `dir`, or begins anew there.
    pub fn open(dir: &Path) -> Result<Arc<Self>, StorageError> {
        let of = |source| StorageError::Io { path: dir.to_owned(), source };
        std::fs::create_dir_all(dir).map_err(of)?;
        let db = sled::Config::new().path(dir.join("sled")).flush_every_ms(None).cache_capacity(64 << 20).open()?;
        let platter = File::open(dir.join("sled").join("db")).map_err(of)?;
        let blank = db.open_tree("values")?.is_empty();
        let (journal, writes) = Journal::open(dir).map_err(of)?;
        let mut gathered = Gathered::default();
        for write in writes {
            gathered.take(&db, write)?;
        }
        gathered.write(&db)?;
        let memory = memory(&db, blank)?;
        flush(&db, &platter).map_err(of)?;
        // What was replayed is in sled: both files begin anew.
        let journal = Arc::new(Mutex::new(journal.begin_anew().map_err(of)?));
        let (queue, jobs) = channel();
        let gathered: Arc<Mutex<Gathered>> = Arc::default();
        let thread = Writer { db: db.clone(), gathered: gathered.clone(), platter, journal: journal.clone() };
        std::thread::Builder::new().name("storage".into()).spawn(move || thread.run(&jobs)).map_err(of)?;
        Ok(Arc::new(Self { db, gathered, journal, queue, memory }))
    }

    /// What the disk remembers.
    pub fn memory(&self) -> Memory {
        self.memory
    }

    /// Stores so that it survives this process; returns when it does.
    pub fn write(&self, change: Change) -> io::Result<()> {
        let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        journal.append(&change)?;
        // Under the journal's lock: sled gets the writes in the order in which the journal has them.
        self.queue.send(Job::Later(change)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    /// Stores so that it survives a power loss, then calls `done` from the storage thread.
    pub fn write_to_platter(&self, change: Change, done: impl FnOnce(io::Result<()>) + Send + 'static) {
        if let Err(error) = self.queue.send(Job::Now(change, Box::new(done))) {
            let Job::Now(_, done) = error.0 else { return };
            done(Err(io::ErrorKind::BrokenPipe.into()));
        }
    }

    /// Reads a value.
    pub fn value(&self, group: GroupId, name: &str) -> Result<Option<Vec<u8>>, StorageError> {
        let key = value_key(group.0, name);
        let gathered = self.gathered.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = gathered.values.get(&key) {
            return Ok(value.as_ref().map(|value| value.to_vec()));
        }
        drop(gathered);
        Ok(self.db.open_tree("values")?.get(key)?.map(|value| value.to_vec()))
    }

    /// Reads a group's log.
    pub fn log(&self, group: GroupId) -> Result<Stored, StorageError> {
        let mut stored = Stored { purged: self.value(group, "purged")?, ..Stored::default() };
        for entry in self.db.open_tree("log")?.scan_prefix(group.0.to_be_bytes()) {
            let (key, value) = entry?;
            let index = key.get(2..10).and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes);
            stored.entries.extend(index.map(|index| (index, value.to_vec())));
        }
        Ok(stored)
    }

    /// A leader has caught this node up: what its disk says is all that it ever acknowledged.
    pub fn caught_up(&self) {
        // A node that dies before this is done has to be caught up once more, and that is all.
        let _ = self.queue.send(Job::CaughtUp);
    }

    /// Brings everything to the platter and marks the stop as a clean one. Blocks.
    pub fn close(&self) {
        let (sender, done) = channel();
        if self.queue.send(Job::Close(sender)).is_ok() {
            let _ = done.recv_timeout(Duration::from_secs(10));
        }
    }
}

/// What sled is to be told with the next flush: one batch costs it much less than each change by itself.
#[derive(Default)]
struct Gathered {
    log: BTreeMap<[u8; 10], Option<ByteBuf>>,
    values: BTreeMap<Vec<u8>, Option<ByteBuf>>,
}

impl Gathered {
    fn take(&mut self, db: &sled::Db, change: Change) -> Result<(), sled::Error> {
        match change {
            Change::Append { group, entries } => {
                self.log.extend(entries.into_iter().map(|(index, entry)| (log_key(group, index), Some(entry))));
            }
            Change::Truncate { group, from } => self.remove(db, log_key(group, from)..=log_key(group, u64::MAX))?,
            Change::Purge { group, upto, id } => {
                self.values.insert(value_key(group, "purged"), Some(id));
                self.remove(db, log_key(group, 0)..=log_key(group, upto))?;
            }
            Change::Put { group, name, value } => {
                self.values.insert(value_key(group, &name), Some(value));
            }
        }
        Ok(())
    }

    /// Removes what is gathered and what sled has.
    fn remove(&mut self, db: &sled::Db, keys: RangeInclusive<[u8; 10]>) -> Result<(), sled::Error> {
        for (_, entry) in self.log.range_mut(keys.clone()) {
            *entry = None;
        }
        for key in db.open_tree("log")?.range(keys).keys() {
            let key: Result<[u8; 10], _> = key?.as_ref().try_into();
            self.log.extend(key.ok().map(|key| (key, None)));
        }
        Ok(())
    }

    /// Tells sled, and forgets it; what fails stays for the next time.
    fn write(&mut self, db: &sled::Db) -> Result<(), sled::Error> {
        db.open_tree("log")?.apply_batch(batch(&self.log))?;
        self.log.clear();
        db.open_tree("values")?.apply_batch(batch(&self.values))?;
        self.values.clear();
        Ok(())
    }
}

fn batch<K: AsRef<[u8]>>(changes: &BTreeMap<K, Option<ByteBuf>>) -> sled::Batch {
    let mut batch = sled::Batch::default();
    for (key, value) in changes {
        match value {
            Some(value) => batch.insert(key.as_ref(), value.as_slice()),
            None => batch.remove(key.as_ref()),
        }
    }
    batch
}

struct Writer {
    db: sled::Db,
    gathered: Arc<Mutex<Gathered>>,
    platter: File,
    journal: Arc<Mutex<Journal>>,
}

impl Writer {
    #[allow(clippy::disallowed_methods, reason = "a thread of its own, off the runtime")]
    fn run(self, jobs: &Receiver<Job>) {
        let mut flushed = Instant::now();
        let mut dirty = false;
        loop {
            let wait = FLUSH.saturating_sub(flushed.elapsed());
            let job = match jobs.recv_timeout(wait) {
                Ok(job) => Some(job),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let mut urgent = Vec::new();
            let mut closing = None;
            for job in job.into_iter().chain(std::iter::from_fn(|| jobs.try_recv().ok()).take(1024)) {
                dirty = true;
                match job {
                    Job::Later(change) => self.gather(change),
                    Job::Now(change, done) => {
                        self.gather(change);
                        urgent.push(done);
                    }
                    Job::CaughtUp => self.mark(|values| values.remove("memory")),
                    Job::Close(done) => {
                        self.mark(|values| values.insert("clean", b"yes"));
                        closing = Some(done);
                    }
                }
            }
            if dirty && (!urgent.is_empty() || closing.is_some() || flushed.elapsed() >= FLUSH) {
                let result = self.flush(jobs);
                flushed = Instant::now();
                dirty = false;
                for done in urgent {
                    done(result.as_ref().copied().map_err(|error| io::Error::from(error.kind())));
                }
            } else if !dirty {
                flushed = Instant::now();
            }
            if let Some(done) = closing {
                let _ = done.send(());
                return;
            }
        }
    }

    fn mark(&self, mark: impl FnOnce(&sled::Tree) -> sled::Result<Option<sled::IVec>>) {
        if let Err(error) = self.db.open_tree("values").and_then(|values| mark(&values)) {
            metrics::counter!("tandem_storage_errors_total").increment(1);
            tracing::error!(%error, "storage");
        }
    }

    fn gather(&self, change: Change) {
        let taken = self.gathered.lock().unwrap_or_else(PoisonError::into_inner).take(&self.db, change);
        if let Err(error) = taken {
            metrics::counter!("tandem_storage_errors_total").increment(1);
            tracing::error!(%error, "storage");
        }
    }

    /// Flushes sled; what stood in the journal before that is then there twice, and is dropped.
    fn flush(&self, jobs: &Receiver<Job>) -> io::Result<()> {
        let (behind, turned) = {
            let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
            // With the lock held nothing is added: whatever the old file says is in sled or in the queue.
            let mut rest = Vec::new();
            while let Ok(job) = jobs.try_recv() {
                rest.push(job);
            }
            (rest, journal.turn())
        };
        let mut urgent = Vec::new();
        let mut closing = Vec::new();
        for job in behind {
            match job {
                Job::Later(change) => self.gather(change),
                Job::Now(change, done) => {
                    self.gather(change);
                    urgent.push(done);
                }
                Job::CaughtUp => self.mark(|values| values.remove("memory")),
                Job::Close(done) => {
                    self.mark(|values| values.insert("clean", b"yes"));
                    closing.push(done);
                }
            }
        }
        let written = self.gathered.lock().unwrap_or_else(PoisonError::into_inner).write(&self.db);
        let result = written.map_err(io::Error::other).and_then(|()| flush(&self.db, &self.platter));
        for done in urgent {
            done(result.as_ref().copied().map_err(|error| io::Error::from(error.kind())));
        }
        for done in closing {
            let _ = done.send(());
        }
        result?;
        // What is on the platter is there, whatever becomes of the journal: a file that can't be dropped is only
        // replayed in vain.
        let dropped = turned.and_then(|()| self.journal.lock().unwrap_or_else(PoisonError::into_inner).drop_old());
        if let Err(error) = dropped {
            metrics::counter!("tandem_storage_errors_total").increment(1);
            tracing::error!(%error, "the journal can't turn");
        }
        Ok(())
    }
}

impl Journal {
    fn path(dir: &Path, at: usize) -> PathBuf {
        dir.join(format!("journal.{at}"))
    }

    /// Opens both files; gives what they say, the older one first.
    fn open(dir: &Path) -> io::Result<(Self, Vec<Change>)> {
        let open = |at| File::options().create(true).truncate(false).read(true).write(true).open(Self::path(dir, at));
        let mut files = [open(0)?, open(1)?];
        let [a, b] = &mut files;
        let mut said = [(0, Self::read(a)?), (1, Self::read(b)?)];
        said.sort_by_key(|(_, (number, _))| *number);
        let [(_, (_, older)), (current, (number, newer))] = said;
        Ok((Self { files, current, number, old_counts: true }, older.into_iter().chain(newer).collect()))
    }

    /// Empties both, the older one first: the newer one alone may be replayed over all that came after.
    fn begin_anew(mut self) -> io::Result<Self> {
        self.drop_old()?;
        self.turn()?;
        self.drop_old()?;
        Ok(self)
    }

    fn append(&mut self, write: &Change) -> io::Result<()> {
        let body = super::wire::encode(write);
        let mut frame = Vec::with_capacity(body.len() + 8);
        frame.extend(u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes());
        frame.extend(crc32fast::hash(&body).to_be_bytes());
        frame.extend(body);
        self.files[self.current].write_all(&frame)
    }

    /// Goes on in the other file, unless a flush that failed left something in it.
    fn turn(&mut self) -> io::Result<()> {
        if self.old_counts {
            return Ok(());
        }
        let next = 1 - self.current;
        let file = &mut self.files[next];
        file.set_len(0)?;
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&(self.number + 1).to_be_bytes())?;
        self.number += 1;
        self.current = next;
        self.old_counts = true;
        Ok(())
    }

    fn drop_old(&mut self) -> io::Result<()> {
        self.files[1 - self.current].set_len(0)?;
        self.old_counts = false;
        Ok(())
    }

    /// A file's number, and everything up to the first entry that is not whole.
    fn read(file: &mut File) -> io::Result<(u64, Vec<Change>)> {
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(0))?;
        file.read_to_end(&mut bytes)?;
        let Some((number, bytes)) = bytes.split_at_checked(8) else { return Ok((0, Vec::new())) };
        let number = u64::from_be_bytes(number.try_into().unwrap_or_default());
        let (mut writes, mut rest) = (Vec::new(), bytes);
        while let Some((head, after)) = rest.split_at_checked(8) {
            let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
            let sum = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
            if length > MAX_ENTRY {
                break;
            }
            let Some((body, next)) = after.split_at_checked(length as usize) else { break };
            let Some(write) = (crc32fast::hash(body) == sum).then(|| rmp_serde::from_slice(body).ok()).flatten() else { break };
            writes.push(write);
            rest = next;
        }
        Ok((number, writes))
    }
}

fn log_key(group: u16, index: u64) -> [u8; 10] {
    let mut key = [0; 10];
    key[..2].copy_from_slice(&group.to_be_bytes());
    key[2..].copy_from_slice(&index.to_be_bytes());
    key
}

fn value_key(group: u16, name: &str) -> Vec<u8> {
    format!("group-{group}-{name}").into_bytes()
}

/// sled's own flush ends in sync_file_range, which a power loss doesn't respect.
fn flush(db: &sled::Db, platter: &File) -> io::Result<()> {
    db.flush().map_err(io::Error::other)?;
    platter.sync_data()
}

/// What this disk remembers: all, if the last process stopped cleanly or only the process died. What is not whole
/// stays so, however often the process starts, until [`Storage::caught_up`].
fn memory(db: &sled::Db, blank: bool) -> Result<Memory, StorageError> {
    let values = db.open_tree("values")?;
    let boot = std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let same_boot = values.get("boot")?.is_some_and(|stored| stored == boot);
    let clean = values.remove("clean")?.is_some();
    values.insert("boot", boot)?;
    let before = values.get("memory")?;
    let memory = match before.as_deref() {
        Some(b"blank") => Memory::Blank,
        Some(_) => Memory::Doubtful,
        None if blank => Memory::Blank,
        None if clean || same_boot => Memory::Whole,
        None => Memory::Doubtful,
    };
    match memory {
        Memory::Blank => values.insert("memory", b"blank")?,
        Memory::Doubtful => values.insert("memory", b"doubtful")?,
        Memory::Whole => None,
    };
    Ok(memory)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(index: u64) -> Change {
        Change::Append { group: 1, entries: vec![(index, ByteBuf::from(vec![7; 3]))] }
    }

    fn indexes(storage: &Storage) -> Vec<u64> {
        storage.log(GroupId(1)).unwrap().entries.into_iter().map(|(index, _)| index).collect()
    }

    /// A kill -9 as the files see it: they are copied while the process goes on, and opened elsewhere.
    #[test]
    fn nothing_that_was_written_is_forgotten_when_the_process_dies() {
        let (alive, after) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let storage = Storage::open(alive.path()).unwrap();
        assert_eq!(storage.memory(), Memory::Blank);
        for index in 1..=50 {
            storage.write(append(index)).unwrap();
        }
        storage.write(Change::Truncate { group: 1, from: 41 }).unwrap();
        // Only the journal is sure to be there: sled may have written nothing yet.
        for name in ["journal.0", "journal.1"] {
            let _ = std::fs::copy(alive.path().join(name), after.path().join(name));
        }
        let reborn = Storage::open(after.path()).unwrap();
        assert_eq!(indexes(&reborn), (1..=40).collect::<Vec<_>>());
    }

    #[test]
    fn a_torn_entry_ends_the_journal_and_nothing_before_it_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(dir.path()).unwrap().0.begin_anew().unwrap();
        journal.append(&append(1)).unwrap();
        journal.append(&append(2)).unwrap();
        let file = &journal.files[journal.current];
        file.set_len(file.metadata().unwrap().len() - 1).unwrap();
        assert_eq!(Journal::open(dir.path()).unwrap().1.len(), 1);
    }

    /// A process that dies between the turn and the flush leaves both files: the older one comes first, whichever
    /// of the two it is.
    #[test]
    fn the_older_file_is_replayed_first() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(dir.path()).unwrap().0.begin_anew().unwrap();
        for turn in 0..4 {
            journal.append(&append(turn)).unwrap();
            journal.turn().unwrap();
            journal.append(&append(turn + 100)).unwrap();
            let indexes = Journal::open(dir.path()).unwrap().1.into_iter().map(|write| match write {
                Change::Append { entries, .. } => entries[0].0,
                Change::Truncate { .. } | Change::Purge { .. } | Change::Put { .. } => panic!("nobody wrote that"),
            });
            let expected: &[u64] = if turn == 0 { &[0, 100] } else { &[turn + 99, turn, turn + 100] };
            assert_eq!(indexes.collect::<Vec<_>>(), expected);
            journal.drop_old().unwrap();
        }
    }

    /// An empty disk that was started once and not caught up is no memory, even if the machine never stopped.
    #[test]
    fn a_blank_disk_stays_blank_until_it_was_caught_up() {
        let dir = tempfile::tempdir().unwrap();
        let start = |caught_up: bool| {
            let storage = reopen(dir.path());
            if caught_up {
                storage.caught_up();
            }
            storage.close();
            storage.memory()
        };
        assert_eq!([false, true, true].map(start), [Memory::Blank, Memory::Blank, Memory::Whole]);
    }

    /// sled lets its lock go when its last thread has: a moment after the drop.
    fn reopen(dir: &Path) -> Arc<Storage> {
        let open = |_| {
            let opened = Storage::open(dir).ok();
            if opened.is_none() {
                std::thread::park_timeout(Duration::from_millis(20));
            }
            opened
        };
        (0..100).find_map(open).unwrap()
    }

    #[test]
    fn what_is_on_the_platter_is_read_after_a_clean_stop() {
        let dir = tempfile::tempdir().unwrap();
        let storage = Storage::open(dir.path()).unwrap();
        let (sender, done) = channel();
        let put = Change::Put { group: 1, name: "vote".into(), value: ByteBuf::from(b"7".to_vec()) };
        storage.write_to_platter(put, move |result| sender.send(result.is_ok()).unwrap());
        assert_eq!(done.recv_timeout(Duration::from_secs(5)), Ok(true));
        storage.write(append(1)).unwrap();
        storage.write(Change::Purge { group: 1, upto: 1, id: ByteBuf::from(b"id".to_vec()) }).unwrap();
        storage.write(append(2)).unwrap();
        storage.caught_up();
        storage.close();
        drop(storage);
        let again = reopen(dir.path());
        assert_eq!((again.memory(), indexes(&again)), (Memory::Whole, vec![2]));
        assert_eq!(again.value(GroupId(1), "vote").unwrap().as_deref(), Some(&b"7"[..]));
        assert_eq!(again.log(GroupId(1)).unwrap().purged.as_deref(), Some(&b"id"[..]));
    }
}

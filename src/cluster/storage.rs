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

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::raft::types::GroupId;
use super::wire::Memory;

/// How far sled may be behind.
pub const FLUSH: Duration = Duration::from_millis(200);
/// A longer entry in the journal is rubbish.
const MAX_ENTRY: u32 = 64 << 20;

/// A change of what is stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Change {
    /// Entries of a group's log.
    Append {
        /// Which group.
        group: u16,
        /// Index and encoded entry.
        entries: Vec<(u64, serde_bytes::ByteBuf)>,
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
        id: serde_bytes::ByteBuf,
    },
    /// A value by name: votes, snapshots.
    Put {
        /// Which group.
        group: u16,
        /// Which value.
        name: String,
        /// Encoded.
        value: serde_bytes::ByteBuf,
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
    journal: Arc<Mutex<Journal>>,
    queue: Sender<Job>,
    memory: Memory,
}

enum Job {
    /// Already in the journal; for sled, some time.
    Later(Change),
    /// To the platter, then tell.
    Now(Change, Box<dyn FnOnce(io::Result<()>) + Send>),
    /// Everything to the platter, and the mark that this stop was a clean one.
    Close(Sender<()>),
}

struct Journal {
    dir: PathBuf,
    file: File,
    generation: bool,
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
        for generation in [false, true] {
            for write in Journal::read(&Journal::path(dir, generation)).map_err(of)? {
                apply(&db, &write)?;
            }
        }
        let memory = memory(&db, blank)?;
        flush(&db, &platter).map_err(of)?;
        // What was replayed is in sled: both files begin anew.
        for generation in [false, true] {
            File::create(Journal::path(dir, generation)).map_err(of)?;
        }
        let file = File::create(Journal::path(dir, false)).map_err(of)?;
        let journal = Arc::new(Mutex::new(Journal { dir: dir.to_owned(), file, generation: false, old_counts: false }));
        let (queue, jobs) = channel();
        let thread = Writer { db: db.clone(), platter, journal: journal.clone() };
        std::thread::Builder::new().name("storage".into()).spawn(move || thread.run(&jobs)).map_err(of)?;
        Ok(Arc::new(Self { db, journal, queue, memory }))
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
        Ok(self.db.open_tree("values")?.get(value_key(group.0, name))?.map(|value| value.to_vec()))
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

    /// Brings everything to the platter and marks the stop as a clean one. Blocks.
    pub fn close(&self) {
        let (sender, done) = channel();
        if self.queue.send(Job::Close(sender)).is_ok() {
            let _ = done.recv_timeout(Duration::from_secs(10));
        }
    }
}

struct Writer {
    db: sled::Db,
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
                    Job::Later(write) => self.apply(&write),
                    Job::Now(write, done) => {
                        self.apply(&write);
                        urgent.push(done);
                    }
                    Job::Close(done) => {
                        let marked = self.db.open_tree("values").and_then(|tree| tree.insert("clean", b"yes"));
                        closing = marked.is_ok().then_some(done);
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

    fn apply(&self, write: &Change) {
        if let Err(error) = apply(&self.db, write) {
            metrics::counter!("tandem_storage_errors_total").increment(1);
            tracing::error!(%error, "storage");
        }
    }

    /// Flushes sled; what stood in the journal before that is then there twice, and is dropped.
    fn flush(&self, jobs: &Receiver<Job>) -> io::Result<()> {
        let behind = {
            let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
            // With the lock held nothing is added: whatever the old file says is in sled or in the queue.
            let mut rest = Vec::new();
            while let Ok(job) = jobs.try_recv() {
                rest.push(job);
            }
            journal.turn()?;
            rest
        };
        let mut urgent = Vec::new();
        for job in behind {
            match job {
                Job::Later(write) => self.apply(&write),
                Job::Now(write, done) => {
                    self.apply(&write);
                    urgent.push(done);
                }
                Job::Close(done) => {
                    let _ = done.send(());
                }
            }
        }
        let result = flush(&self.db, &self.platter);
        for done in urgent {
            done(result.as_ref().copied().map_err(|error| io::Error::from(error.kind())));
        }
        result?;
        self.journal.lock().unwrap_or_else(PoisonError::into_inner).drop_old()
    }
}

impl Journal {
    fn path(dir: &Path, generation: bool) -> PathBuf {
        dir.join(if generation { "journal.1" } else { "journal.0" })
    }

    fn append(&mut self, write: &Change) -> io::Result<()> {
        let body = super::wire::encode(write);
        let mut frame = Vec::with_capacity(body.len() + 8);
        frame.extend(u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes());
        frame.extend(crc32fast::hash(&body).to_be_bytes());
        frame.extend(body);
        self.file.write_all(&frame)
    }

    /// Goes on in the other file, unless a flush that failed left something in it.
    fn turn(&mut self) -> io::Result<()> {
        if self.old_counts {
            return Ok(());
        }
        self.old_counts = true;
        self.file = File::create(Self::path(&self.dir, !self.generation))?;
        self.generation = !self.generation;
        Ok(())
    }

    fn drop_old(&mut self) -> io::Result<()> {
        File::create(Self::path(&self.dir, !self.generation))?;
        self.old_counts = false;
        Ok(())
    }

    /// Everything up to the first entry that is not whole.
    fn read(path: &Path) -> io::Result<Vec<Change>> {
        let mut bytes = Vec::new();
        match File::open(path) {
            Ok(mut file) => file.read_to_end(&mut bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let (mut writes, mut rest) = (Vec::new(), &bytes[..]);
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
        Ok(writes)
    }
}

fn apply(db: &sled::Db, write: &Change) -> Result<(), sled::Error> {
    let (log, values) = (db.open_tree("log")?, db.open_tree("values")?);
    let mut batch = sled::Batch::default();
    match write {
        Change::Append { group, entries } => {
            for (index, entry) in entries {
                batch.insert(log_key(*group, *index).to_vec(), entry.as_slice());
            }
            log.apply_batch(batch)
        }
        Change::Truncate { group, from } => {
            for key in log.range(log_key(*group, *from)..=log_key(*group, u64::MAX)).keys() {
                batch.remove(key?);
            }
            log.apply_batch(batch)
        }
        Change::Purge { group, upto, id } => {
            values.insert(value_key(*group, "purged"), id.as_slice())?;
            for key in log.range(log_key(*group, 0)..=log_key(*group, *upto)).keys() {
                batch.remove(key?);
            }
            log.apply_batch(batch)
        }
        Change::Put { group, name, value } => values.insert(value_key(*group, name), value.as_slice()).map(drop),
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

/// What this disk remembers: all, if the last process stopped cleanly or only the process died.
fn memory(db: &sled::Db, blank: bool) -> Result<Memory, StorageError> {
    let values = db.open_tree("values")?;
    let boot = std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let same_boot = values.get("boot")?.is_some_and(|stored| stored == boot);
    let clean = values.remove("clean")?.is_some();
    values.insert("boot", boot)?;
    Ok(match (blank, clean || same_boot) {
        (true, _) => Memory::Blank,
        (false, true) => Memory::Whole,
        (false, false) => Memory::Doubtful,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(index: u64) -> Change {
        Change::Append { group: 1, entries: vec![(index, serde_bytes::ByteBuf::from(vec![index as u8; 3]))] }
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
        let path = Journal::path(dir.path(), false);
        let mut journal =
            Journal { dir: dir.path().to_owned(), file: File::create(&path).unwrap(), generation: false, old_counts: false };
        journal.append(&append(1)).unwrap();
        journal.append(&append(2)).unwrap();
        let length = std::fs::metadata(&path).unwrap().len();
        File::options().write(true).open(&path).unwrap().set_len(length - 1).unwrap();
        assert_eq!(Journal::read(&path).unwrap().len(), 1);
    }

    #[test]
    fn what_is_on_the_platter_is_read_after_a_clean_stop() {
        let dir = tempfile::tempdir().unwrap();
        let storage = Storage::open(dir.path()).unwrap();
        let (sender, done) = channel();
        let put = Change::Put { group: 1, name: "vote".into(), value: serde_bytes::ByteBuf::from(b"7".to_vec()) };
        storage.write_to_platter(put, move |result| sender.send(result.is_ok()).unwrap());
        assert_eq!(done.recv_timeout(Duration::from_secs(5)), Ok(true));
        storage.write(append(1)).unwrap();
        storage.write(Change::Purge { group: 1, upto: 1, id: serde_bytes::ByteBuf::from(b"id".to_vec()) }).unwrap();
        storage.write(append(2)).unwrap();
        storage.close();
        drop(storage);
        // sled lets its lock go when its last thread has: a moment after the drop.
        let again = (0..100)
            .find_map(|_| {
                let opened = Storage::open(dir.path()).ok();
                if opened.is_none() {
                    std::thread::park_timeout(Duration::from_millis(20));
                }
                opened
            })
            .unwrap();
        assert_eq!((again.memory(), indexes(&again)), (Memory::Whole, vec![2]));
        assert_eq!(again.value(GroupId(1), "vote").unwrap().as_deref(), Some(&b"7"[..]));
        assert_eq!(again.log(GroupId(1)).unwrap().purged.as_deref(), Some(&b"id"[..]));
    }
}

//! The storage process: sled, told by the node over a pipe. Layer: shell.
//!
//! Changes are gathered and told to sled in one batch with each flush, which costs it much less than each by itself. When
//! the pipe ends, by `Close` or because the node has died, everything that was in it is brought to the platter, and
//! only then the mark is set that this memory is whole: a start that doesn't find the mark may have forgotten something.
//! Whatever was in the pipe counts as kept, so a change that can't be read or taken costs the mark too.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read, Write};
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use serde_bytes::ByteBuf;

use super::super::wire::Memory;
use super::{Ask, Change, Ends, OPEN, Stored, Tell, read_frame, write_frame};

/// How far sled may be behind.
pub const FLUSH: Duration = Duration::from_millis(200);
/// So many changes may wait for a disk that stalls, half a gigabyte of calls; behind that the pipe fills, and the node waits.
const QUEUE: usize = 1 << 18;
/// So many are taken between two looks at the clock.
const BATCH: usize = 1024;
/// How soon a database is tried again that its former process has not let go.
const AGAIN: Duration = Duration::from_millis(5);

/// Serves one node until its pipe ends, and everything is on the platter.
pub fn serve(dir: &Path, asks: impl Read + Send + 'static, answers: impl Write) {
    let mut answers = answers;
    let opened = Disk::open(dir).and_then(|(disk, memory)| {
        let (sender, queue) = sync_channel(QUEUE);
        std::thread::Builder::new().name("pipe".into()).spawn(move || read(asks, &sender))?;
        Ok((disk, memory, queue))
    });
    match opened {
        Ok((disk, memory, queue)) => {
            if write_frame(&mut answers, &Tell::Opened(memory)).is_ok() {
                disk.run(&queue, &mut answers);
            }
        }
        // Whoever started us is told, or is gone.
        Err(error) => drop(write_frame(&mut answers, &Tell::Failed(error.to_string()))),
    }
}

/// Takes what is in the pipe to its end, so that it is nowhere but here.
fn read(mut asks: impl Read, queue: &SyncSender<io::Result<Ask>>) {
    while let Some(ask) = read_frame(&mut asks).transpose() {
        let last = matches!(ask, Ok(Ask::Close) | Err(_));
        if queue.send(ask).is_err() || last {
            return;
        }
    }
}

struct Disk {
    db: sled::Db,
    log: sled::Tree,
    values: sled::Tree,
    platter: File,
    gathered: Gathered,
    /// Large values that are not whole.
    pieces: HashMap<(u16, String), Vec<u8>>,
    /// A change is lost that its node counts as kept.
    lost: bool,
}

/// What sled is to be told with the next flush.
#[derive(Default)]
struct Gathered {
    log: BTreeMap<[u8; 10], Option<ByteBuf>>,
    values: BTreeMap<Vec<u8>, Option<ByteBuf>>,
}

impl Disk {
    fn open(dir: &Path) -> io::Result<(Self, Memory)> {
        std::fs::create_dir_all(dir)?;
        let db = open_sled(&dir.join("sled"))?;
        let platter = File::open(dir.join("sled").join("db"))?;
        let log = db.open_tree("log").map_err(io::Error::other)?;
        let values = db.open_tree("values").map_err(io::Error::other)?;
        let memory = memory(&values)?;
        let disk = Self { db, log, values, platter, gathered: Gathered::default(), pieces: HashMap::new(), lost: false };
        // Before anything is acknowledged the platter knows that it is not whole any more.
        disk.flush()?;
        Ok((disk, memory))
    }

    #[allow(clippy::disallowed_methods, reason = "a process of its own")]
    fn run(mut self, queue: &Receiver<io::Result<Ask>>, answers: &mut impl Write) {
        let mut flushed = Instant::now();
        let mut dirty = false;
        loop {
            let ask = match queue.recv_timeout(FLUSH.saturating_sub(flushed.elapsed())) {
                Ok(ask) => Some(ask),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return self.end(answers),
            };
            let mut urgent = Vec::new();
            for ask in ask.into_iter().chain(std::iter::from_fn(|| queue.try_recv().ok()).take(BATCH)) {
                let told = match ask {
                    Ok(Ask::Write(change)) => {
                        dirty = true;
                        self.keep(change)
                    }
                    Ok(Ask::Sync(id, change)) => {
                        urgent.push(id);
                        self.keep(change)
                    }
                    Ok(Ask::Value(id, group, name)) => {
                        let value = self.value(group, &name).map_err(|error| error.to_string());
                        tell(answers, &Tell::Value(id, value));
                        Ok(())
                    }
                    Ok(Ask::Log(id, group)) => {
                        let log = self.stored(group).map_err(|error| error.to_string());
                        tell(answers, &Tell::Log(id, log));
                        Ok(())
                    }
                    Ok(Ask::CaughtUp) => self.values.remove("memory").map(drop).map_err(io::Error::other),
                    Ok(Ask::Close) => {
                        self.end(answers);
                        return tell(answers, &Tell::Closed);
                    }
                    // What follows can't be told from rubbish: the node hears the pipe break, and ends.
                    Err(error) => {
                        self.lost = true;
                        Err(error)
                    }
                };
                complain(answers, told);
            }
            if !urgent.is_empty() || (dirty && flushed.elapsed() >= FLUSH) {
                let result = self.write_back();
                (flushed, dirty) = (Instant::now(), result.is_err());
                for id in urgent {
                    tell(answers, &Tell::Synced(id, result.as_ref().copied().map_err(ToString::to_string)));
                }
                complain(answers, result);
            } else if !dirty {
                flushed = Instant::now();
            }
        }
    }

    /// Everything to the platter, and the mark that nothing is missing.
    fn end(mut self, answers: &mut impl Write) {
        let ended = self.write_back().and_then(|()| {
            if self.lost {
                return Ok(());
            }
            self.values.insert(ENDED, b"yes").map_err(io::Error::other)?;
            self.flush()
        });
        complain(answers, ended);
    }

    fn keep(&mut self, change: Change) -> io::Result<()> {
        let taken = self.take(change);
        self.lost |= taken.is_err();
        taken
    }

    fn take(&mut self, change: Change) -> io::Result<()> {
        match change {
            Change::Append { group, entries } => {
                self.gathered.log.extend(entries.into_iter().map(|(index, entry)| (log_key(group, index), Some(entry))));
                Ok(())
            }
            Change::Truncate { group, from } => self.remove(log_key(group, from)..=log_key(group, u64::MAX)),
            Change::Purge { group, upto, id } => {
                self.gathered.values.insert(value_key(group, "purged"), Some(id));
                self.remove(log_key(group, 0)..=log_key(group, upto))
            }
            Change::Put { group, name, value } => {
                self.gathered.values.insert(value_key(group, &name), Some(value));
                Ok(())
            }
            Change::Piece { group, name, piece, ends: Ends { first, last } } => {
                let key = (group, name);
                let value = self.pieces.entry(key.clone()).or_default();
                if first {
                    value.clear();
                }
                value.extend_from_slice(&piece);
                if last && let Some(value) = self.pieces.remove(&key) {
                    self.gathered.values.insert(value_key(key.0, &key.1), Some(ByteBuf::from(value)));
                }
                Ok(())
            }
        }
    }

    /// Removes what is gathered and what sled has.
    fn remove(&mut self, keys: RangeInclusive<[u8; 10]>) -> io::Result<()> {
        for (_, entry) in self.gathered.log.range_mut(keys.clone()) {
            *entry = None;
        }
        for key in self.log.range(keys).keys() {
            let key: Result<[u8; 10], _> = key.map_err(io::Error::other)?.as_ref().try_into();
            self.gathered.log.extend(key.ok().map(|key| (key, None)));
        }
        Ok(())
    }

    fn value(&self, group: u16, name: &str) -> io::Result<Option<ByteBuf>> {
        let key = value_key(group, name);
        match self.gathered.values.get(&key) {
            Some(value) => Ok(value.clone()),
            None => Ok(self.values.get(key).map_err(io::Error::other)?.map(|value| ByteBuf::from(value.to_vec()))),
        }
    }

    /// A group's log; it is asked for once, before anything is gathered.
    fn stored(&mut self, group: u16) -> io::Result<Stored> {
        self.write_back()?;
        let mut stored = Stored { purged: self.value(group, "purged")?, ..Stored::default() };
        for entry in self.log.scan_prefix(group.to_be_bytes()) {
            let (key, value) = entry.map_err(io::Error::other)?;
            let index = key.get(2..10).and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes);
            stored.entries.extend(index.map(|index| (index, ByteBuf::from(value.to_vec()))));
        }
        Ok(stored)
    }

    /// Tells sled what is gathered, and brings it to the platter; what fails stays for the next time.
    fn write_back(&mut self) -> io::Result<()> {
        self.log.apply_batch(batch(&self.gathered.log)).map_err(io::Error::other)?;
        self.gathered.log.clear();
        self.values.apply_batch(batch(&self.gathered.values)).map_err(io::Error::other)?;
        self.gathered.values.clear();
        self.flush()
    }

    /// sled's own flush ends in sync_file_range, which a power loss doesn't respect.
    fn flush(&self) -> io::Result<()> {
        self.db.flush().map_err(io::Error::other)?;
        self.platter.sync_data()
    }
}

/// Answers, unless the node is gone.
fn tell(answers: &mut impl Write, answer: &Tell) {
    let _ = write_frame(answers, answer);
}

fn complain(answers: &mut impl Write, result: io::Result<()>) {
    if let Err(error) = result {
        tell(answers, &Tell::Error(error.to_string()));
    }
}

/// Opens the database; a former process may still be bringing its last changes to the platter.
#[allow(clippy::disallowed_methods, reason = "a process of its own")]
fn open_sled(path: &Path) -> io::Result<sled::Db> {
    let config = sled::Config::new().path(path).flush_every_ms(None).cache_capacity(64 << 20);
    let began = Instant::now();
    loop {
        match config.open() {
            // The lock is flock's: whoever has it would block us.
            Err(sled::Error::Io(error)) if error.to_string().contains("could not acquire lock") && began.elapsed() < OPEN => {
                std::thread::sleep(AGAIN);
            }
            opened => return opened.map_err(io::Error::other),
        }
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

fn log_key(group: u16, index: u64) -> [u8; 10] {
    let mut key = [0; 10];
    key[..2].copy_from_slice(&group.to_be_bytes());
    key[2..].copy_from_slice(&index.to_be_bytes());
    key
}

fn value_key(group: u16, name: &str) -> Vec<u8> {
    format!("group-{group}-{name}").into_bytes()
}

/// How things are stored; a disk without it is blank.
const FORMAT: &[u8] = b"3";
/// As it is, but for what is sealed (ADR 28).
const UNSEALED: &[u8] = b"2";
/// There as long as nothing runs and nothing is missing.
const ENDED: &str = "ended";

/// What this disk remembers: all, if the last storage process came to its end. What is not whole stays so, however often
/// it is opened, until `CaughtUp`.
fn memory(values: &sled::Tree) -> io::Result<Memory> {
    let format = values.get("format").map_err(io::Error::other)?;
    if format.as_deref().is_some_and(|format| ![FORMAT, UNSEALED].contains(&format)) {
        return Err(io::Error::other("it is in the format of another release"));
    }
    recall(values, format.is_none()).map_err(io::Error::other)
}

fn recall(values: &sled::Tree, blank: bool) -> Result<Memory, sled::Error> {
    values.insert("format", FORMAT)?;
    let ended = values.remove(ENDED)?.is_some();
    let memory = match values.get("memory")?.as_deref() {
        Some(b"blank") => Memory::Blank,
        Some(_) => Memory::Doubtful,
        None if blank => Memory::Blank,
        None if ended => Memory::Whole,
        None => Memory::Doubtful,
    };
    match memory {
        Memory::Blank => values.insert("memory", b"blank")?,
        Memory::Doubtful => values.insert("memory", b"doubtful")?,
        Memory::Whole => None,
    };
    Ok(memory)
}

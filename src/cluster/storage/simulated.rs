//! A disk in memory that outlives the node which writes to it: what is on the platter, and what is not there yet. Layer: shell,
//! in tests.
//!
//! It stands for the storage process and the disk behind it: the frames are real, the answers come at once, and a test says how the
//! node came to its end.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

use serde_bytes::ByteBuf;

use super::disk::FLUSH;
use super::{Ask, Change, Ends, Storage, Stored, Tell, Waiting, lock, read_frame, take};
use crate::clock::{self, Uptime};
use crate::cluster::wire::Memory;

/// One machine's disk. Clones are the same disk.
#[derive(Debug, Clone, Default)]
pub struct Disk(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    /// What a power loss leaves.
    platter: Kept,
    /// What the node believes to be there.
    told: Kept,
    /// When the first change was told that is not on the platter.
    dirty: Option<Uptime>,
}

#[derive(Debug, Clone, Default)]
struct Kept {
    log: BTreeMap<(u16, u64), ByteBuf>,
    values: BTreeMap<(u16, String), ByteBuf>,
    pieces: BTreeMap<(u16, String), Vec<u8>>,
    formatted: bool,
    /// Its node was never caught up.
    blank: bool,
    /// Its node is not sure of it.
    doubtful: bool,
    /// The last storage process came to its end.
    ended: bool,
}

impl Disk {
    /// The node's process was killed: its storage brings everything to the platter all the same.
    pub fn process_died(&self) {
        let mut inner = lock(&self.0);
        inner.told.ended = true;
        inner.flush();
    }

    /// The machine stopped at `now`: what was told lately is lost.
    pub fn power_failed(&self, now: Uptime) {
        let mut inner = lock(&self.0);
        inner.flush_if_due(now);
        inner.told = inner.platter.clone();
        inner.dirty = None;
    }

    pub(super) fn open(&self) -> Arc<Storage> {
        let memory = lock(&self.0).recall();
        let waiting = Arc::new(Mutex::new(Some(HashMap::new())));
        let pipe = Pipe { disk: self.clone(), waiting: waiting.clone() };
        Arc::new(Storage {
            pipe: Mutex::new(Box::new(pipe)),
            waiting,
            next: AtomicU64::new(1),
            memory,
            seal: None,
            ended: Mutex::new(channel().1),
            child: Mutex::new(None),
        })
    }
}

impl Inner {
    fn flush(&mut self) {
        self.platter = self.told.clone();
        self.dirty = None;
    }

    fn flush_if_due(&mut self, now: Uptime) {
        if self.dirty.is_some_and(|since| now.since(since) >= FLUSH) {
            self.flush();
        }
    }

    /// As `disk::recall`.
    fn recall(&mut self) -> Memory {
        let kept = &mut self.told;
        let memory = match (kept.formatted, kept.ended) {
            (false, _) => Memory::Blank,
            (true, _) if kept.blank => Memory::Blank,
            (true, true) if !kept.doubtful => Memory::Whole,
            (true, _) => Memory::Doubtful,
        };
        (kept.blank, kept.doubtful) = (memory == Memory::Blank, memory == Memory::Doubtful);
        (kept.formatted, kept.ended) = (true, false);
        self.flush();
        memory
    }

    fn answer(&mut self, ask: Ask) -> Option<Tell> {
        match ask {
            Ask::Write(change) => {
                let now = clock::uptime();
                self.flush_if_due(now);
                self.dirty.get_or_insert(now);
                self.told.take(change);
                None
            }
            Ask::Sync(id, change) => {
                self.told.take(change);
                self.flush();
                Some(Tell::Synced(id, Ok(())))
            }
            Ask::Value(id, group, name) => Some(Tell::Value(id, Ok(self.told.values.get(&(group, name)).cloned()))),
            Ask::Log(id, group) => Some(Tell::Log(id, Ok(self.told.stored(group)))),
            Ask::CaughtUp => {
                (self.told.blank, self.told.doubtful) = (false, false);
                self.flush();
                None
            }
            Ask::Close => {
                self.told.ended = true;
                self.flush();
                Some(Tell::Closed)
            }
        }
    }
}

impl Kept {
    fn take(&mut self, change: Change) {
        match change {
            Change::Append { group, entries } => {
                self.log.extend(entries.into_iter().map(|(index, entry)| ((group, index), entry)));
            }
            Change::Truncate { group, from } => self.log.retain(|(of, index), _| *of != group || *index < from),
            Change::Purge { group, upto, id } => {
                self.values.insert((group, "purged".into()), id);
                self.log.retain(|(of, index), _| *of != group || *index > upto);
            }
            Change::Put { group, name, value } => drop(self.values.insert((group, name), value)),
            Change::Piece { group, name, piece, ends: Ends { first, last } } => {
                let value = self.pieces.entry((group, name.clone())).or_default();
                if first {
                    value.clear();
                }
                value.extend_from_slice(&piece);
                if last && let Some(value) = self.pieces.remove(&(group, name.clone())) {
                    self.values.insert((group, name), ByteBuf::from(value));
                }
            }
        }
    }

    fn stored(&self, group: u16) -> Stored {
        let of_group = self.log.range((group, 0)..=(group, u64::MAX));
        let entries = of_group.map(|((_, index), entry)| (*index, entry.clone())).collect();
        Stored { entries, purged: self.values.get(&(group, "purged".into())).cloned() }
    }
}

/// The node's end of the pipe, and the storage process behind it.
struct Pipe {
    disk: Disk,
    waiting: Arc<Mutex<Option<HashMap<u64, Waiting>>>>,
}

impl Write for Pipe {
    /// Frames are written whole.
    fn write(&mut self, frame: &[u8]) -> io::Result<usize> {
        let ask = read_frame::<Ask>(&mut &*frame)?.ok_or(io::ErrorKind::InvalidData)?;
        let answer = lock(&self.disk.0).answer(ask);
        if let Some(answer) = answer {
            take(answer, &self.waiting);
        }
        Ok(frame.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

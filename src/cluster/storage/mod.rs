//! What a node keeps on its disk, and the process that keeps it. Layer: shell.
//!
//! ```text
//!  node ──changes──▶ pipe ──▶ storage process ──200 ms──▶ sled ──▶ platter
//!  node ◀──answers── pipe ◀──
//! ```
//!
//! Two kinds of durability (design, *Storage*; ADR 0009):
//! - **platter**: all of meta. Acknowledged when it would survive a power loss.
//! - **pipe**: the votes and the log of a vnode's group. Acknowledged when it is in the pipe, for what is there
//!   outlives this process: the storage process reads on to the end, whatever became of us. A majority holds it
//!   in memory, and sled has it on the platter within [`disk::FLUSH`].
//!
//! A thread that waits for a disk can't be killed, and a process can't end before its last thread: with its disk in
//! the same process, a killed node would keep its sockets, and look alive, for as long as the disk takes. Nobody here
//! ever waits for a disk, save those who write to meta.

pub mod disk;
#[cfg(feature = "simulated")]
pub mod simulated;

use std::collections::HashMap;
use std::io::{self, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::fcntl::{FcntlArg, fcntl};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

pub use crate::seal::Seal;

use super::raft::types::GroupId;
use super::wire::{Memory, encode};

/// A longer frame is rubbish.
const MAX_FRAME: u32 = 1 << 30;
/// A large value goes in pieces of this size, so that nobody waits long behind it.
const PIECE: usize = 64 << 10;
/// The pipe holds this much while the storage process is busy.
const PIPE: i32 = 1 << 20;
/// The storage process may wait this long for its predecessor, which is bringing the last changes to the platter.
pub(super) const OPEN: Duration = Duration::from_secs(60);
/// A node that ends waits this long for its disk.
const CLOSE: Duration = Duration::from_secs(3);
/// An answer that only needs reading may take this long.
const ANSWER: Duration = Duration::from_secs(60);

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
    /// A value by name: votes.
    Put {
        /// Which group.
        group: u16,
        /// Which value.
        name: String,
        /// Encoded.
        value: ByteBuf,
    },
    /// A piece of a large value: snapshots. It is put when the last one is there.
    Piece {
        /// Which group.
        group: u16,
        /// Which value.
        name: String,
        /// The next bytes of it.
        piece: ByteBuf,
        /// The first piece of a value, the last of it, both or neither.
        ends: Ends,
    },
}

/// Where in its value a piece stands.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Ends {
    /// Nothing comes before it.
    pub first: bool,
    /// Nothing comes after it.
    pub last: bool,
}

/// What the node asks of its storage.
#[derive(Debug, Serialize, Deserialize)]
enum Ask {
    /// Store this.
    Write(Change),
    /// Store this on the platter, and say so.
    Sync(u64, Change),
    /// Read a value.
    Value(u64, u16, String),
    /// Read a group's log.
    Log(u64, u16),
    /// The node's memory is whole from now on.
    CaughtUp,
    /// Bring everything to the platter, say so, and end.
    Close,
}

/// What the storage answers.
#[derive(Debug, Serialize, Deserialize)]
enum Tell {
    /// It is open, and this is what it remembers.
    Opened(Memory),
    /// It can't be opened.
    Failed(String),
    /// Something went wrong that nobody waits for.
    Error(String),
    Synced(u64, Result<(), String>),
    Value(u64, Result<Option<ByteBuf>, String>),
    Log(u64, Result<Stored, String>),
    Closed,
}

/// What was stored of a group.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Stored {
    /// Index and encoded entry, in order.
    pub entries: Vec<(u64, ByteBuf)>,
    /// The encoded id of the last purged entry.
    pub purged: Option<ByteBuf>,
}

/// Why storage failed.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The storage process or its pipe.
    #[error("the storage of {} did not start", dir.display())]
    Start {
        /// Whose.
        dir: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The directory or what is in it.
    #[error("cannot use {}: {why}", dir.display())]
    Open {
        /// Which.
        dir: PathBuf,
        /// As the storage process says it.
        why: String,
    },
    /// What was read is not what was written.
    #[error("cannot read {what} of group {group}")]
    Unreadable {
        /// The vote, the log, the snapshot.
        what: &'static str,
        /// Whose.
        group: u16,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Where the storage runs.
#[derive(Debug, Clone)]
pub enum Place {
    /// In a process of its own: this program, called as `PROGRAM storage --dir DIR`.
    Process(PathBuf),
    /// In a thread of this process: for tests, which are killed all at once.
    Thread,
    /// In a disk that a test has in memory.
    #[cfg(feature = "simulated")]
    Simulated(simulated::Disk),
}

type Waiting = Box<dyn FnOnce(io::Result<Tell>) + Send>;

/// The node's side of its storage.
pub struct Storage {
    pipe: Mutex<Pipe>,
    waiting: Arc<Mutex<Option<HashMap<u64, Waiting>>>>,
    next: AtomicU64,
    memory: Memory,
    seal: Option<Seal>,
    /// Says nothing, and ends with the storage.
    ended: Mutex<Receiver<()>>,
    child: Mutex<Option<Child>>,
}

impl Storage {
    /// Opens what is in `dir`, or begins anew there; entries of the log and snapshots are sealed. Blocks.
    pub fn open(dir: &Path, place: &Place, seal: Seal) -> Result<Arc<Self>, StorageError> {
        let of = |source| StorageError::Start { dir: dir.to_owned(), source };
        let (pipe, mut answers, child) = match place {
            Place::Process(program) => in_a_process(program, dir),
            Place::Thread => in_a_thread(dir).map(|(pipe, answers)| (pipe, answers, None)),
            #[cfg(feature = "simulated")]
            Place::Simulated(disk) => return Ok(disk.open()),
        }
        .map_err(of)?;
        let memory = match read_frame(&mut answers).map_err(of)? {
            Some(Tell::Opened(memory)) => memory,
            Some(Tell::Failed(why)) => return Err(StorageError::Open { dir: dir.to_owned(), why }),
            Some(_) | None => return Err(of(io::ErrorKind::UnexpectedEof.into())),
        };
        let waiting = Arc::new(Mutex::new(Some(HashMap::new())));
        let (listener, (ends, ended)) = (waiting.clone(), channel());
        let listening = move || {
            listen(answers, &listener);
            drop(ends);
        };
        std::thread::Builder::new().name("storage".into()).spawn(listening).map_err(of)?;
        Ok(Arc::new(Self {
            pipe: Mutex::new(pipe),
            waiting,
            next: AtomicU64::new(1),
            memory,
            seal: Some(seal),
            ended: Mutex::new(ended),
            child: Mutex::new(child),
        }))
    }

    /// What the disk remembers.
    pub fn memory(&self) -> Memory {
        self.memory
    }

    /// Stores so that it survives this process; returns when it does.
    pub fn write(&self, change: Change) -> io::Result<()> {
        self.say(&Ask::Write(self.sealed(change)?))
    }

    /// Stores a large value as [`Storage::write`] does. Blocks for about as long as copying it takes.
    pub fn write_large(&self, group: GroupId, name: &str, value: &[u8]) -> io::Result<()> {
        let value = self.seal.as_ref().map_or_else(|| Ok(value.to_vec()), |seal| seal.seal(value))?;
        let mut pieces = value.chunks(PIECE).peekable();
        let mut first = true;
        loop {
            let piece = ByteBuf::from(pieces.next().unwrap_or_default());
            let ends = Ends { first, last: pieces.peek().is_none() };
            let last = ends.last;
            self.write(Change::Piece { group: group.0, name: name.to_owned(), piece, ends })?;
            first = false;
            if last {
                return Ok(());
            }
        }
    }

    /// Stores so that it survives a power loss, then calls `done` from the storage thread.
    pub fn write_to_platter(&self, change: Change, done: impl FnOnce(io::Result<()>) + Send + 'static) {
        let change = match self.sealed(change) {
            Ok(change) => change,
            Err(error) => return done(Err(error)),
        };
        self.ask(
            |id| Ask::Sync(id, change),
            move |answer| {
                done(answer.and_then(|answer| {
                    let Tell::Synced(_, result) = answer else { return Err(io::ErrorKind::InvalidData.into()) };
                    result.map_err(io::Error::other)
                }));
            },
        );
    }

    /// Reads a value. Blocks.
    pub fn value(&self, group: GroupId, name: &str) -> io::Result<Option<Vec<u8>>> {
        let answer = self.wait_for(|id| Ask::Value(id, group.0, name.to_owned()))?;
        let Tell::Value(_, value) = answer else { return Err(io::ErrorKind::InvalidData.into()) };
        value.map_err(io::Error::other)?.map(|value| self.opened(value)).transpose()
    }

    /// Reads a group's log. Blocks.
    pub fn log(&self, group: GroupId) -> io::Result<Stored> {
        let Tell::Log(_, log) = self.wait_for(|id| Ask::Log(id, group.0))? else { return Err(io::ErrorKind::InvalidData.into()) };
        let mut log = log.map_err(io::Error::other)?;
        for (_, entry) in &mut log.entries {
            *entry = ByteBuf::from(self.opened(std::mem::take(entry))?);
        }
        Ok(log)
    }

    /// The same change, with its entries sealed.
    fn sealed(&self, change: Change) -> io::Result<Change> {
        match (change, &self.seal) {
            (Change::Append { group, entries }, Some(seal)) => {
                let sealed = |(index, entry): (u64, ByteBuf)| Ok((index, ByteBuf::from(seal.seal(&entry)?)));
                Ok(Change::Append { group, entries: entries.into_iter().map(sealed).collect::<io::Result<_>>()? })
            }
            (change, _) => Ok(change),
        }
    }

    fn opened(&self, stored: ByteBuf) -> io::Result<Vec<u8>> {
        self.seal.as_ref().map_or_else(|| Ok(stored.to_vec()), |seal| seal.open(stored.to_vec()))
    }

    /// A leader has caught this node up: what its disk says is all that it ever acknowledged.
    pub fn caught_up(&self) {
        // A node that dies before this is done has to be caught up once more, and that is all.
        let _ = self.say(&Ask::CaughtUp);
    }

    /// Brings everything to the platter and ends the storage. Blocks, but not for longer than three seconds: a process that
    /// has a slow disk to wait for ends after us.
    pub fn close(&self) {
        let _ = self.say(&Ask::Close);
        let ended = lock(&self.ended).recv_timeout(CLOSE) == Err(RecvTimeoutError::Disconnected);
        if let Some(mut child) = lock(&self.child).take().filter(|_| ended) {
            let _ = child.wait();
        }
    }

    fn say(&self, ask: &Ask) -> io::Result<()> {
        write_frame(&mut *lock(&self.pipe), ask)
    }

    fn ask(&self, ask: impl FnOnce(u64) -> Ask, then: impl FnOnce(io::Result<Tell>) + Send + 'static) {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let gone = match lock(&self.waiting).as_mut() {
            Some(waiting) => {
                waiting.insert(id, Box::new(then));
                None
            }
            None => Some(then),
        };
        if let Some(then) = gone {
            return then(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if let Err(error) = self.say(&ask(id)) {
            let waiting = lock(&self.waiting).as_mut().and_then(|waiting| waiting.remove(&id));
            if let Some(then) = waiting {
                then(Err(error));
            }
        }
    }

    fn wait_for(&self, ask: impl FnOnce(u64) -> Ask) -> io::Result<Tell> {
        let (sender, answer): (_, Receiver<io::Result<Tell>>) = channel();
        self.ask(ask, move |answer| drop(sender.send(answer)));
        answer.recv_timeout(ANSWER).map_err(io::Error::other)?
    }
}

type Pipe = Box<dyn Write + Send>;
type Answers = Box<dyn Read + Send>;

fn in_a_process(program: &Path, dir: &Path) -> io::Result<(Pipe, Answers, Option<Child>)> {
    let mut child = Command::new(program)
        .arg("storage")
        .arg("--dir")
        .arg(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // Ctrl-C on a terminal is for the node: its storage ends after it.
        .process_group(0)
        .spawn()?;
    let (Some(pipe), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(io::ErrorKind::BrokenPipe.into());
    };
    // A smaller pipe works too.
    let _ = fcntl(&pipe, FcntlArg::F_SETPIPE_SZ(PIPE));
    Ok((Box::new(pipe), Box::new(BufReader::with_capacity(PIECE, answers)), Some(child)))
}

fn in_a_thread(dir: &Path) -> io::Result<(Pipe, Answers)> {
    let (pipe, asks) = UnixStream::pair()?;
    let (told, answers) = UnixStream::pair()?;
    let (dir, asks) = (dir.to_owned(), BufReader::with_capacity(PIECE, asks));
    std::thread::Builder::new().name("disk".into()).spawn(move || disk::serve(&dir, asks, told))?;
    Ok((Box::new(pipe), Box::new(BufReader::with_capacity(PIECE, answers))))
}

/// Takes the answers to those who wait for them, until there are no more.
fn listen(mut answers: Answers, waiting: &Mutex<Option<HashMap<u64, Waiting>>>) {
    while let Ok(Some(answer)) = read_frame::<Tell>(&mut answers) {
        if matches!(answer, Tell::Closed) {
            break;
        }
        take(answer, waiting);
    }
    for then in lock(waiting).take().into_iter().flatten().map(|(_, then)| then) {
        then(Err(io::ErrorKind::BrokenPipe.into()));
    }
}

/// Takes one answer to whoever waits for it.
fn take(answer: Tell, waiting: &Mutex<Option<HashMap<u64, Waiting>>>) {
    let id = match &answer {
        Tell::Synced(id, _) | Tell::Value(id, _) | Tell::Log(id, _) => *id,
        Tell::Error(error) => {
            metrics::counter!("tandem_storage_errors_total").increment(1);
            tracing::error!(%error, "storage");
            return;
        }
        Tell::Opened(_) | Tell::Failed(_) | Tell::Closed => return,
    };
    let then = lock(waiting).as_mut().and_then(|waiting| waiting.remove(&id));
    if let Some(then) = then {
        then(Ok(answer));
    }
}

fn write_frame<T: Serialize>(writer: &mut (impl Write + ?Sized), value: &T) -> io::Result<()> {
    let body = encode(value);
    let length = u32::try_from(body.len()).ok().filter(|length| *length <= MAX_FRAME).ok_or(io::ErrorKind::InvalidInput)?;
    let mut frame = Vec::with_capacity(body.len() + 4);
    frame.extend(length.to_be_bytes());
    frame.extend(body);
    writer.write_all(&frame)
}

/// The next frame; none at the end, even in the middle of a frame: its writer died, and had promised nothing.
fn read_frame<T: DeserializeOwned>(reader: &mut impl Read) -> io::Result<Option<T>> {
    let whole = |result: io::Result<()>| match result {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    };
    let mut length = [0; 4];
    if !whole(reader.read_exact(&mut length))? {
        return Ok(None);
    }
    let length = u32::from_be_bytes(length);
    if length > MAX_FRAME {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut body = vec![0; length as usize];
    if !whole(reader.read_exact(&mut body))? {
        return Ok(None);
    }
    rmp_serde::from_slice(&body).map(Some).map_err(io::Error::other)
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing is left half done under these locks, so a panic elsewhere doesn't spoil them.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;

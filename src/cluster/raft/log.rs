//! A group's log for openraft: in memory, with [`Storage`] behind it. Layer: shell.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::OptionalSend;
use openraft::alias::{EntryOf, LogIdOf, VoteOf};
use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use serde_bytes::ByteBuf;
use tokio::sync::oneshot;

use super::types::{GroupId, TypeConfig};
use crate::cluster::storage::{Change, Storage, StorageError};
use crate::cluster::wire::encode;

/// The log of one group.
#[derive(Clone)]
pub struct Log {
    group: GroupId,
    storage: Arc<Storage>,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    /// Each with the bytes that it takes when it is encoded.
    entries: BTreeMap<u64, (EntryOf<TypeConfig>, usize)>,
    bytes: usize,
    purged: Option<LogIdOf<TypeConfig>>,
    vote: Option<VoteOf<TypeConfig>>,
}

impl Log {
    /// Reads what is stored.
    pub fn open(group: GroupId, storage: Arc<Storage>) -> Result<Self, StorageError> {
        let unreadable = |what: &'static str| move |source| StorageError::Unreadable { what, group: group.0, source };
        let stored = storage.log(group).map_err(unreadable("the log"))?;
        let mut inner = Inner::default();
        if let Some(bytes) = stored.purged {
            inner.purged = Some(decode(&bytes).map_err(unreadable("the log"))?);
        }
        if let Some(bytes) = storage.value(group, "vote").map_err(unreadable("the vote"))? {
            inner.vote = Some(decode(&bytes).map_err(unreadable("the vote"))?);
        }
        for (index, bytes) in stored.entries {
            let entry = decode(&bytes).map_err(unreadable("the log"))?;
            inner.put(index, entry, bytes.len());
        }
        Ok(Self { group, storage, inner: Arc::new(Mutex::new(inner)) })
    }

    /// The bytes of all entries that are kept, as they are encoded.
    pub fn bytes(&self) -> usize {
        self.inner().bytes
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn put(&mut self, index: u64, entry: EntryOf<TypeConfig>, bytes: usize) {
        self.bytes += bytes;
        if let Some((_, before)) = self.entries.insert(index, (entry, bytes)) {
            self.bytes -= before;
        }
    }

    fn count(&mut self) {
        self.bytes = self.entries.values().map(|(_, bytes)| bytes).sum();
    }
}

fn decode<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    rmp_serde::from_slice(bytes).map_err(io::Error::other)
}

impl RaftLogReader<TypeConfig> for Log {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> io::Result<Vec<EntryOf<TypeConfig>>> {
        Ok(self.inner().entries.range(range).map(|(_, (entry, _))| entry.clone()).collect())
    }

    async fn read_vote(&mut self) -> io::Result<Option<VoteOf<TypeConfig>>> {
        Ok(self.inner().vote)
    }
}

impl RaftLogStorage<TypeConfig> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let inner = self.inner();
        let last = inner.entries.values().next_back().map(|(entry, _)| entry.log_id()).or(inner.purged);
        Ok(LogState { last_purged_log_id: inner.purged, last_log_id: last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    /// A vote is as lasting as what follows from it. A node that may have forgotten one doesn't vote before it has caught up
    /// (`cluster/recovery.rs`), so a vnode's election waits for no disk.
    async fn save_vote(&mut self, vote: &VoteOf<TypeConfig>) -> io::Result<()> {
        let put = Change::Put { group: self.group.0, name: "vote".into(), value: ByteBuf::from(encode(vote)) };
        if self.group == GroupId::META {
            let (sender, done) = oneshot::channel();
            self.storage.write_to_platter(put, move |result| drop(sender.send(result)));
            done.await.map_err(io::Error::other)??;
        } else {
            self.storage.write(put)?;
        }
        self.inner().vote = Some(*vote);
        Ok(())
    }

    async fn append<I>(&mut self, entries: I, flushed: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = EntryOf<TypeConfig>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut stored = Vec::new();
        {
            let mut inner = self.inner();
            for entry in entries {
                let bytes = encode(&entry);
                let index = entry.index();
                inner.put(index, entry, bytes.len());
                stored.push((index, ByteBuf::from(bytes)));
            }
        }
        let append = Change::Append { group: self.group.0, entries: stored };
        if self.group == GroupId::META {
            self.storage.write_to_platter(append, move |result| flushed.io_completed(result));
        } else {
            flushed.io_completed(self.storage.write(append));
        }
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogIdOf<TypeConfig>>) -> io::Result<()> {
        let from = last.map_or(0, |id| id.index() + 1);
        {
            let mut inner = self.inner();
            inner.entries.split_off(&from);
            inner.count();
        }
        self.storage.write(Change::Truncate { group: self.group.0, from })
    }

    async fn purge(&mut self, id: LogIdOf<TypeConfig>) -> io::Result<()> {
        {
            let mut inner = self.inner();
            let kept = inner.entries.split_off(&(id.index() + 1));
            inner.entries = kept;
            inner.count();
            inner.purged = Some(id);
        }
        self.storage.write(Change::Purge { group: self.group.0, upto: id.index(), id: ByteBuf::from(encode(&id)) })
    }
}

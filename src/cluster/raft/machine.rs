//! A group's state machine for openraft: applies commands to a [`GroupState`] that anybody may read. Layer: shell.

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

use futures_util::{Stream, TryStreamExt};
use openraft::alias::{LogIdOf, SnapshotMetaOf, SnapshotOf, StoredMembershipOf};
use openraft::entry::RaftEntry;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use tokio::sync::watch;

use super::types::{GroupId, SnapshotData, TypeConfig};
use crate::cluster::blocking;
use crate::cluster::state::{Command, GroupState, Reply};
use crate::cluster::storage::{Storage, StorageError};
use crate::cluster::wire::encode;
use crate::ids::CallId;

/// More calls than this are all.
const TOUCHED: usize = 16 << 10;

/// The calls whose records may have changed since somebody asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Touched {
    /// Any.
    All,
    /// These alone.
    These(BTreeSet<CallId>),
}

/// One group's state; clones share it.
#[derive(Clone)]
pub struct Machine {
    group: GroupId,
    storage: Arc<Storage>,
    state: Arc<RwLock<GroupState>>,
    position: Arc<Mutex<Position>>,
    applied: Arc<watch::Sender<u64>>,
    touched: Arc<Mutex<Touched>>,
    /// The bytes of the last snapshot.
    snapshot: Arc<AtomicUsize>,
}

#[derive(Clone, Default, Serialize, Deserialize)]
struct Position {
    applied: Option<LogIdOf<TypeConfig>>,
    membership: StoredMembershipOf<TypeConfig>,
}

#[derive(Serialize, Deserialize)]
struct StoredSnapshot {
    meta: SnapshotMetaOf<TypeConfig>,
    state: ByteBuf,
}

impl Machine {
    /// Begins with the last snapshot, or with `empty`.
    pub fn open(group: GroupId, storage: Arc<Storage>, empty: GroupState) -> Result<Self, StorageError> {
        let mut state = empty;
        let mut position = Position::default();
        let mut snapshot = 0;
        let unreadable = |source| StorageError::Unreadable { what: "the snapshot", group: group.0, source };
        if let Some(bytes) = storage.value(group, "snapshot").map_err(unreadable)? {
            let stored: StoredSnapshot = decode(&bytes).map_err(unreadable)?;
            snapshot = stored.state.len();
            state = decode(&stored.state).map_err(unreadable)?;
            position = Position { applied: stored.meta.last_log_id, membership: stored.meta.last_membership };
        }
        Ok(Self {
            group,
            storage,
            state: Arc::new(RwLock::new(state)),
            position: Arc::new(Mutex::new(position)),
            applied: Arc::new(watch::Sender::new(0)),
            // Until somebody asks nothing has to be remembered.
            touched: Arc::new(Mutex::new(Touched::All)),
            snapshot: Arc::new(AtomicUsize::new(snapshot)),
        })
    }

    /// The state as it is here.
    pub fn read(&self) -> RwLockReadGuard<'_, GroupState> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes whenever something was applied.
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    /// The calls that have been touched since this was asked last.
    pub fn touched(&self) -> Touched {
        std::mem::replace(&mut *self.all_touched(), Touched::These(BTreeSet::new()))
    }

    fn touch(&self, command: &Command) {
        let Command::Vnode(command) = command else { return };
        let mut touched = self.all_touched();
        if let (Touched::These(calls), Some(call)) = (&mut *touched, command.call()) {
            calls.insert(call);
            if calls.len() > TOUCHED {
                *touched = Touched::All;
            }
        }
    }

    fn all_touched(&self) -> std::sync::MutexGuard<'_, Touched> {
        self.touched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bytes of the last snapshot.
    pub fn snapshot_bytes(&self) -> usize {
        self.snapshot.load(Ordering::Relaxed)
    }

    fn position(&self) -> std::sync::MutexGuard<'_, Position> {
        self.position.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn decode<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    rmp_serde::from_slice(bytes).map_err(io::Error::other)
}

impl RaftSnapshotBuilder<TypeConfig> for Machine {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf<TypeConfig, SnapshotData>> {
        // Position and state are changed together under the state's lock.
        let (state, position) = {
            let state = self.read();
            (state.clone(), self.position().clone())
        };
        let meta = SnapshotMetaOf::<TypeConfig> { last_log_id: position.applied, last_membership: position.membership };
        let data = blocking(move || encode(&state)).await;
        let data = self.keep(&meta, data).await?;
        Ok(SnapshotOf::<TypeConfig, SnapshotData> { meta, snapshot: data })
    }
}

impl Machine {
    /// Stores a snapshot, and gives its state back.
    async fn keep(&self, meta: &SnapshotMetaOf<TypeConfig>, data: SnapshotData) -> io::Result<SnapshotData> {
        let (storage, group) = (self.storage.clone(), self.group);
        self.snapshot.store(data.len(), Ordering::Relaxed);
        let stored = StoredSnapshot { meta: meta.clone(), state: ByteBuf::from(data) };
        blocking(move || storage.write_large(group, "snapshot", &encode(&stored)).map(|()| stored.state.into_vec())).await
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> io::Result<(Option<LogIdOf<TypeConfig>>, StoredMembershipOf<TypeConfig>)> {
        let position = self.position();
        Ok((position.applied, position.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            let id = entry.log_id();
            let reply = {
                let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
                let mut position = self.position();
                position.applied = Some(id);
                match entry.payload {
                    EntryPayload::Normal(command) => {
                        self.touch(&command);
                        state.apply(&command)
                    }
                    EntryPayload::Membership(membership) => {
                        position.membership = StoredMembershipOf::<TypeConfig>::new(Some(id), membership);
                        Reply::Done
                    }
                    EntryPayload::Blank => Reply::Done,
                }
            };
            if let Some(responder) = responder {
                responder.send(reply);
            }
            self.applied.send_replace(id.index());
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMetaOf<TypeConfig>, data: SnapshotData) -> io::Result<()> {
        let installed = decode(&data)?;
        {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            *state = installed;
            *self.all_touched() = Touched::All;
            *self.position() = Position { applied: meta.last_log_id, membership: meta.last_membership.clone() };
        }
        self.applied.send_replace(meta.last_log_id.map_or(0, |id| id.index()));
        self.keep(meta, data).await.map(drop)
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<SnapshotOf<TypeConfig, SnapshotData>>> {
        let (storage, group) = (self.storage.clone(), self.group);
        let Some(bytes) = blocking(move || storage.value(group, "snapshot")).await? else { return Ok(None) };
        let stored: StoredSnapshot = decode(&bytes)?;
        Ok(Some(SnapshotOf::<TypeConfig, SnapshotData> { meta: stored.meta, snapshot: stored.state.into_vec() }))
    }
}

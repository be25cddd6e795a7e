//! Raft's RPCs over the wire, out and in. Layer: shell.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use openraft::alias::{SnapshotMetaOf, SnapshotOf, VoteOf};
use openraft::base::{BoxFuture, BoxStream};
use openraft::entry::RaftEntry;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{EmptyNode, OptionalSend};

use super::types::{GroupId, SnapshotData, TypeConfig};
use crate::cluster::links::Links;
use crate::cluster::wire::{Kind, WireError, encode};
use crate::ids::NodeId;

/// So many appends of a group may be on their way to a peer at once.
const PIPELINE: usize = 16;

/// An append is waited for at least this long, longer than openraft would (a heartbeat's interval): a slow link is no dead one, and
/// a dead one's answers end with its connection.
const APPEND: Duration = Duration::from_secs(1);

/// Makes a group's connections to its peers.
#[derive(Clone)]
pub struct Network {
    /// The group.
    pub group: GroupId,
    /// Our links to the peers.
    pub links: Arc<Links>,
}

/// A group's way to one peer.
pub struct Connection {
    group: GroupId,
    peer: NodeId,
    /// Where its link is found, which may be made later than this, and again.
    links: Arc<Links>,
}

type RpcResult<T> = Result<T, RPCError<TypeConfig>>;

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Connection;

    async fn new_client(&mut self, target: u64, _: &EmptyNode) -> Connection {
        Connection { group: self.group, peer: NodeId(target), links: self.links.clone() }
    }
}

fn rpc_error(error: WireError) -> RPCError<TypeConfig> {
    match error {
        WireError::Unreachable => RPCError::Unreachable(Unreachable::new(&error)),
        WireError::Full | WireError::Late | WireError::Refused => RPCError::Network(NetworkError::new(&error)),
    }
}

impl Connection {
    async fn call<T, R>(&self, kind: Kind, body: &T, deadline: Duration) -> Result<R, WireError>
    where
        T: serde::Serialize,
        R: serde::de::DeserializeOwned,
    {
        self.links.get(self.peer).ok_or(WireError::Unreachable)?.call(kind, self.group, body, deadline).await
    }
}

impl RaftNetworkV2<TypeConfig> for Connection {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> RpcResult<AppendEntriesResponse<TypeConfig>> {
        self.call(Kind::Append, &rpc, option.hard_ttl()).await.map_err(rpc_error)
    }

    /// Appends are begun in order and answered in order, several at a time.
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, RpcResult<BoxStream<'s, RpcResult<StreamAppendResult<TypeConfig>>>>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        let (links, peer, group, deadline) = (self.links.clone(), self.peer, self.group, option.hard_ttl().max(APPEND));
        let answers = input.map(move |rpc| {
            let before = rpc.prev_log_id;
            let last = rpc.entries.last().map(RaftEntry::log_id).or(before);
            let link = links.get(peer);
            let begun = link.as_ref().ok_or(WireError::Unreachable).and_then(|l| l.begin(Kind::Append, group, &encode(&rpc)));
            async move {
                let (id, answer) = begun.map_err(rpc_error)?;
                let link = link.ok_or_else(|| rpc_error(WireError::Unreachable))?;
                let response: AppendEntriesResponse<TypeConfig> = link.finish(id, answer, deadline).await.map_err(rpc_error)?;
                Ok(response.into_stream_result(before, last))
            }
        });
        let answers: BoxStream<'s, _> = Box::pin(answers.buffered(PIPELINE));
        Box::pin(async move { Ok(answers) })
    }

    async fn vote(&mut self, rpc: VoteRequest<TypeConfig>, option: RPCOption) -> RpcResult<VoteResponse<TypeConfig>> {
        self.call(Kind::Vote, &rpc, option.hard_ttl()).await.map_err(rpc_error)
    }

    async fn pre_vote(&mut self, rpc: VoteRequest<TypeConfig>, option: RPCOption) -> RpcResult<VoteResponse<TypeConfig>> {
        self.call(Kind::PreVote, &rpc, option.hard_ttl()).await.map_err(rpc_error)
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<TypeConfig>,
        snapshot: SnapshotOf<TypeConfig, SnapshotData>,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let body: SnapshotRpc = (vote, snapshot.meta, serde_bytes::ByteBuf::from(snapshot.snapshot));
        self.call(Kind::Snapshot, &body, option.hard_ttl())
            .await
            .map_err(|error| StreamingError::Unreachable(Unreachable::new(&error)))
    }

    async fn transfer_leader(
        &mut self,
        rpc: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> RpcResult<TransferLeaderResponse<TypeConfig>> {
        self.call(Kind::Transfer, &rpc, option.hard_ttl()).await.map_err(rpc_error)
    }
}

/// A snapshot on its way: vote, meta, state.
pub type SnapshotRpc = (VoteOf<TypeConfig>, SnapshotMetaOf<TypeConfig>, serde_bytes::ByteBuf);

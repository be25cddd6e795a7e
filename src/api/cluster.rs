//! `/v1/cluster`: the nodes and the vnodes as this node sees them, and where operators want them.

use std::net::SocketAddr;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Api;
use super::problem::{Body, Problem};
use crate::actors::gateway::Gateways;
use crate::actors::standby::Standby;
use crate::cluster::Ownership;
use crate::cluster::state::{Member, MetaCommand};
use crate::cluster::wire::Reach;
use crate::ids::{NodeId, VnodeId};

#[derive(Serialize, ToSchema)]
pub(super) struct ClusterView {
    /// The node that answers.
    node: u64,
    /// Whether the nodes hold what they shall: while they don't, a node has joined or leaves.
    settled: bool,
    nodes: Vec<NodeView>,
    vnodes: Vec<VnodeView>,
    /// Calls that this node carries, ended ones that linger included.
    calls: usize,
    /// Those of them that have actors: the others have nothing open, and sleep.
    calls_awake: usize,
    /// Ports on which this node hears and sends media: their sockets, but for the second that a port has whose peer is steady.
    media_sockets: usize,
    /// Sockets that stand by for calls of other nodes.
    standby_sockets: usize,
    /// Media ports that calls of this node hold.
    media_ports: usize,
}

#[derive(Serialize, ToSchema)]
struct NodeView {
    id: u64,
    /// `up`, `draining`, `catching_up`, `refused` (no process there), `silent`, `unknown`, or `misconfigured` (it has other vnodes).
    state: &'static str,
    /// It leaves as soon as others hold what it holds.
    leaving: bool,
    /// Whether what belongs to it can be passed on to it.
    linked: bool,
}

#[derive(Serialize, ToSchema)]
struct VnodeView {
    id: u16,
    /// Where phones reach it.
    address: String,
    /// Its address of the other family, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    other_address: Option<String>,
    /// The node that owns it; none while there is an election.
    owner: Option<u64>,
    /// The node that it is at home on.
    home: Option<u64>,
    /// The nodes that shall hold its records, its home first.
    replicas: Vec<u64>,
    /// The nodes that hold them.
    held_by: Vec<u64>,
    /// What this node is to it: `owner`, `custodian` or `none`.
    here: &'static str,
    /// Whether its address is open on this node.
    listening: bool,
}

/// The nodes and the vnodes
#[utoipa::path(get, path = "/v1/cluster", responses((status = OK, body = ClusterView)))]
pub(super) async fn show(State(api): State<Api>) -> Json<ClusterView> {
    let services = &api.services;
    let cluster = &services.cluster;
    let state = match (cluster.is_draining(), cluster.is_ready()) {
        (true, _) => "draining",
        (false, true) => "up",
        (false, false) => "catching_up",
    };
    let leaving = |node: NodeId| cluster.read_meta(|meta| meta.shape().members.get(&node).is_some_and(|member| member.leaving));
    let own = NodeView { id: services.node.0, state, linked: true, leaving: leaving(services.node) };
    let others = cluster.peers().into_iter().map(|(node, reach)| NodeView {
        id: node.0,
        linked: Gateways::is_linked(node),
        leaving: leaving(node),
        state: match reach {
            Reach::Up(hello) if !cluster.agrees(&hello) => "misconfigured",
            Reach::Up(hello) if hello.draining => "draining",
            Reach::Up(hello) if hello.ready => "up",
            Reach::Up(_) => "catching_up",
            Reach::Refused => "refused",
            Reach::Silent => "silent",
            Reach::Unknown => "unknown",
        },
    });
    let mut nodes: Vec<_> = others.chain([own]).collect();
    nodes.sort_by_key(|node| node.id);
    let vnodes = cluster.vnodes().into_iter().map(|vnode| VnodeView {
        id: vnode.0,
        address: services.config.sip_address_of(vnode).map(|address| address.to_string()).unwrap_or_default(),
        other_address: services.config.addresses_of(vnode).and_then(|ips| ips.all().nth(1)).map(|ip| ip.to_string()),
        owner: cluster.owner_of(vnode).map(|node| node.0),
        home: cluster.home(vnode).map(|node| node.0),
        replicas: cluster.holders(vnode).into_iter().map(|node| node.0).collect(),
        held_by: cluster.read_meta(|meta| meta.placed(vnode).into_iter().flatten().map(|node| node.0).collect()),
        here: match cluster.ownership(vnode).map(|ownership| *ownership.borrow()) {
            Some(Ownership::Owner { .. }) => "owner",
            Some(Ownership::Custodian) => "custodian",
            Some(Ownership::None) | None => "none",
        },
        listening: services.sockets.is_read(vnode),
    });
    let standby_sockets = services.standby.as_ref().map_or(0, Standby::sockets);
    Json(ClusterView {
        node: services.node.0,
        settled: cluster.read_meta(|meta| meta.is_settled()),
        nodes,
        vnodes: vnodes.collect(),
        calls: services.directory.len(),
        calls_awake: services.directory.awake(),
        media_sockets: services.relay.open_ports().saturating_sub(standby_sockets),
        standby_sockets,
        media_ports: services.ports_in_use(),
    })
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Home {
    /// The node that the vnode shall be at home on.
    node: u64,
}

/// Moves a vnode to another node, which is its home from then on; its calls go on
#[utoipa::path(put, path = "/v1/vnodes/{vnode}/home", params(("vnode" = u16, Path, description = "The vnode's number")),
    request_body = Home, responses((status = ACCEPTED), (status = NOT_FOUND, body = super::problem::ProblemView)))]
pub(super) async fn move_vnode(
    State(api): State<Api>,
    Path(vnode): Path<u16>,
    Body(home): Body<Home>,
) -> Result<StatusCode, Problem> {
    let (vnode, home) = (known_vnode(&api, vnode)?, known_node(&api, home.node)?);
    api.services.cluster.hold(vnode, home).await?;
    wish(&api, MetaCommand::MoveVnode { vnode, home: Some(home) }).await
}

/// Sends a vnode back to the node that the configuration says
#[utoipa::path(delete, path = "/v1/vnodes/{vnode}/home", params(("vnode" = u16, Path, description = "The vnode's number")),
    responses((status = ACCEPTED), (status = NOT_FOUND, body = super::problem::ProblemView)))]
pub(super) async fn move_vnode_back(State(api): State<Api>, Path(vnode): Path<u16>) -> Result<StatusCode, Problem> {
    wish(&api, MetaCommand::MoveVnode { vnode: known_vnode(&api, vnode)?, home: None }).await
}

/// Empties a node: its vnodes move to the others, and none comes until that is taken back
#[utoipa::path(put, path = "/v1/nodes/{node}/drain", params(("node" = u64, Path, description = "The node's number")),
    responses((status = ACCEPTED), (status = NOT_FOUND, body = super::problem::ProblemView)))]
pub(super) async fn drain(State(api): State<Api>, Path(node): Path<u64>) -> Result<StatusCode, Problem> {
    wish(&api, MetaCommand::DrainNode { node: known_node(&api, node)?, drain: true }).await
}

/// Lets a node have its vnodes again
#[utoipa::path(delete, path = "/v1/nodes/{node}/drain", params(("node" = u64, Path, description = "The node's number")),
    responses((status = ACCEPTED), (status = NOT_FOUND, body = super::problem::ProblemView)))]
pub(super) async fn undrain(State(api): State<Api>, Path(node): Path<u64>) -> Result<StatusCode, Problem> {
    wish(&api, MetaCommand::DrainNode { node: known_node(&api, node)?, drain: false }).await
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Joining {
    /// Where the others reach its Raft wire, `address:port`.
    #[schema(value_type = String)]
    raft: SocketAddr,
    /// Where they reach its actor link.
    #[schema(value_type = String)]
    actors: SocketAddr,
}

/// Makes a node one of the cluster's; its share of the vnodes comes to it
#[utoipa::path(put, path = "/v1/nodes/{node}", params(("node" = u64, Path, description = "The node's number")), request_body = Joining,
    responses((status = ACCEPTED), (status = CONFLICT, body = super::problem::ProblemView)))]
pub(super) async fn join(
    State(api): State<Api>,
    Path(node): Path<u64>,
    Body(joining): Body<Joining>,
) -> Result<StatusCode, Problem> {
    let Joining { raft, actors } = joining;
    api.services.cluster.join(NodeId(node), Member { raft, actors, leaving: false }).await?;
    Ok(StatusCode::ACCEPTED)
}

/// Makes a node leave, dead or alive: others take over what it holds, and then it is a member no more
#[utoipa::path(delete, path = "/v1/nodes/{node}", params(("node" = u64, Path, description = "The node's number")),
    responses((status = ACCEPTED), (status = NOT_FOUND, body = super::problem::ProblemView), (status = CONFLICT, body = super::problem::ProblemView)))]
pub(super) async fn leave(State(api): State<Api>, Path(node): Path<u64>) -> Result<StatusCode, Problem> {
    api.services.cluster.leave(NodeId(node)).await?;
    Ok(StatusCode::ACCEPTED)
}

fn known_node(api: &Api, node: u64) -> Result<NodeId, Problem> {
    let known = api.services.cluster.nodes().into_iter().find(|known| known.0 == node);
    known.ok_or_else(|| Problem::not_found("node"))
}

fn known_vnode(api: &Api, vnode: u16) -> Result<VnodeId, Problem> {
    let known = api.services.cluster.vnodes().into_iter().find(|known| known.0 == vnode);
    known.ok_or_else(|| Problem::not_found("vnode"))
}

/// Says what is wanted; the owners act on it as soon as they hear it.
async fn wish(api: &Api, command: MetaCommand) -> Result<StatusCode, Problem> {
    api.services.cluster.propose_meta(command).await?;
    Ok(StatusCode::ACCEPTED)
}

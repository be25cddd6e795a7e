//! `/v1/cluster`: the nodes and the vnodes as this node sees them.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;
use crate::actors::gateway::Gateways;
use crate::cluster::Ownership;
use crate::cluster::wire::Reach;

#[derive(Serialize, ToSchema)]
pub(super) struct ClusterView {
    /// The node that answers.
    node: u64,
    nodes: Vec<NodeView>,
    vnodes: Vec<VnodeView>,
    /// Calls whose actors are on this node, ended ones that linger included.
    calls: usize,
    /// Media sockets open on this node.
    media_sockets: usize,
    /// Media ports that calls of this node hold.
    media_ports: usize,
}

#[derive(Serialize, ToSchema)]
struct NodeView {
    id: u64,
    /// `up`, `catching_up`, `refused` (no process there), `silent` or `unknown`.
    state: &'static str,
    /// Whether what belongs to it can be passed on to it.
    linked: bool,
}

#[derive(Serialize, ToSchema)]
struct VnodeView {
    id: u16,
    /// Where phones reach it.
    address: String,
    /// The node that owns it; none while there is an election.
    owner: Option<u64>,
    /// The node that it is at home on.
    home: Option<u64>,
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
    let own = NodeView { id: services.node.0, state: if cluster.is_ready() { "up" } else { "catching_up" }, linked: true };
    let others = cluster.peers().into_iter().map(|(node, reach)| NodeView {
        id: node.0,
        linked: Gateways::is_linked(node),
        state: match reach {
            Reach::Up(beat) if beat.ready => "up",
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
        owner: cluster.owner_of(vnode).map(|node| node.0),
        home: cluster.home(vnode).map(|node| node.0),
        here: match cluster.ownership(vnode).map(|ownership| *ownership.borrow()) {
            Some(Ownership::Owner { .. }) => "owner",
            Some(Ownership::Custodian) => "custodian",
            Some(Ownership::None) | None => "none",
        },
        listening: services.sockets.is_read(vnode),
    });
    Json(ClusterView {
        node: services.node.0,
        nodes,
        vnodes: vnodes.collect(),
        calls: services.directory.len(),
        media_sockets: services.relay.open_sockets(),
        media_ports: services.ports_in_use(),
    })
}

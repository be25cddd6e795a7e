//! Whether the process lives, whether it may be given work, and what it counts.

use axum::extract::State;
use axum::http::StatusCode;

use super::Api;
use super::problem::Problem;
use crate::actors::standby::Standby;

pub(super) async fn live() -> &'static str {
    "ok\n"
}

/// Ready: caught up with every group, a majority answers, and nobody wants the node empty.
pub(super) async fn ready(State(api): State<Api>) -> Result<&'static str, Problem> {
    let cluster = &api.services.cluster;
    if cluster.is_draining() {
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "This node is being drained."));
    }
    if !cluster.is_member() {
        return Err(Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "This node is none of the cluster's: it has left, or `tandem join` is missing.",
        ));
    }
    match (cluster.is_ready(), cluster.has_majority()) {
        (true, true) => Ok("ready\n"),
        (false, _) => Err(Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "This node is still catching up; one that is new waits for `tandem join`.",
        )),
        (true, false) => Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "No majority of the nodes is reachable.")),
    }
}

pub(super) async fn metrics(State(api): State<Api>) -> String {
    #[allow(clippy::cast_precision_loss, reason = "gauges are floats, and these are small")]
    let gauge = |name: &'static str, value: usize| metrics::gauge!(name).set(value as f64);
    gauge("tandem_calls", api.services.directory.len());
    gauge("tandem_calls_awake", api.services.directory.awake());
    let standby = api.services.standby.as_ref().map_or(0, Standby::sockets);
    gauge("tandem_media_sockets", api.services.relay.open_ports().saturating_sub(standby));
    gauge("tandem_standby_sockets", standby);
    gauge("tandem_media_ports", api.services.ports_in_use());
    api.metrics.render()
}

//! Logs are kept short: a group whose log has outgrown its state takes a snapshot. Layer: shell.
//!
//! By bytes and not by entries: what a node holds is then bounded by what its calls and registrations are, however long it runs,
//! and a large state is not written again and again for a few changes.

use std::sync::Arc;
use std::time::Duration;

use super::Cluster;
use super::raft::{GroupId, KEPT};

/// How often we look.
const LOOK: Duration = Duration::from_secs(1);
/// A log of fewer bytes is never cut.
const SHORT: usize = 1 << 20;

/// Keeps one group's log short, for ever.
pub(super) async fn run(cluster: Arc<Cluster>, id: GroupId) {
    let Some(group) = cluster.groups.get(&id) else { return };
    while !cluster.is_stopping() {
        tokio::time::sleep(LOOK).await;
        let metrics = group.metrics();
        let index = |id: Option<openraft::alias::LogIdOf<super::TypeConfig>>| id.map_or(0, |id| id.index());
        // Only what a snapshot brings beyond the last one can be cut.
        let new = index(metrics.last_applied).saturating_sub(index(metrics.snapshot));
        if group.log.bytes() > SHORT.max(group.machine.snapshot_bytes()) && new > KEPT {
            // One that is being made already is as good.
            let _ = group.raft.trigger().snapshot().await;
        }
    }
}

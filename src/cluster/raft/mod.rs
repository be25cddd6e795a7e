//! openraft, behind one module: types, log, state machine, network. Layer: shell.

pub mod log;
pub mod machine;
pub mod network;
pub mod types;

use std::sync::Arc;

use openraft::{Config, SnapshotPolicy};

pub use types::{GroupId, Raft, TypeConfig};

/// Milliseconds. How often a leader says what is committed when nothing else is to be said.
pub const HEARTBEAT: u64 = 100;
/// Milliseconds. Elections are started by [`super::election`] alone; a leader takes no writes when no majority has answered
/// for the latter.
pub const ELECTION: (u64, u64) = (300, 600);

/// So many entries that are in a snapshot stay in the log, for followers that are a little behind.
pub const KEPT: u64 = 1_000;

/// The same for every group.
pub fn config() -> Arc<Config> {
    let config = Config {
        cluster_name: "tandem".into(),
        heartbeat_interval: HEARTBEAT,
        election_timeout_min: ELECTION.0,
        election_timeout_max: ELECTION.1,
        enable_elect: false,
        enable_pre_vote: Some(true),
        // A leader that comes back must ask: its followers may have chosen another.
        enable_leader_restore: Some(false),
        // A node that lost its disk comes back under its old name.
        allow_log_reversion: Some(true),
        // `super::upkeep` says when.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: KEPT,
        purge_batch_size: 512,
        replication_lag_threshold: 20_000,
        install_snapshot_timeout: 10_000,
        ..Config::default()
    };
    Arc::new(config.validate().expect("the configuration is a constant, and valid"))
}

//! openraft, behind one module: types, log, state machine, network. Layer: shell.

pub mod log;
pub mod machine;
pub mod network;
pub mod types;

use std::sync::Arc;

use openraft::{Config, SnapshotPolicy};

pub use types::{GroupId, Raft, TypeConfig};

/// Times in milliseconds. A voter refuses for `ELECTION.1` after its leader's last word, so a leader whose
/// last majority was [`super::owner::LEASE`] ago has stopped long before anybody else can be one.
pub const HEARTBEAT: u64 = 100;
/// See [`HEARTBEAT`].
pub const ELECTION: (u64, u64) = (300, 600);

/// The same for every group.
pub fn config() -> Arc<Config> {
    let config = Config {
        cluster_name: "tandem".into(),
        heartbeat_interval: HEARTBEAT,
        election_timeout_min: ELECTION.0,
        election_timeout_max: ELECTION.1,
        enable_pre_vote: Some(true),
        // A leader that comes back must ask: its followers may have chosen another.
        enable_leader_restore: Some(false),
        // A node that lost its disk comes back under its old name.
        allow_log_reversion: Some(true),
        snapshot_policy: SnapshotPolicy::LogsSinceLast(20_000),
        max_in_snapshot_log_to_keep: 2_000,
        purge_batch_size: 512,
        replication_lag_threshold: 20_000,
        install_snapshot_timeout: 10_000,
        ..Config::default()
    };
    Arc::new(config.validate().expect("the configuration is a constant, and valid"))
}

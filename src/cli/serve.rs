//! `tandem serve`: one node in the foreground. Layer: program.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use tokio::signal::unix::{SignalKind, signal};

use super::EXIT_USAGE;
use crate::config::Config;
use crate::node::Node;
use crate::telemetry;

/// The arguments.
#[derive(Debug, Args)]
pub struct Serve {
    /// The node's configuration; config/tandem.toml shows every key.
    #[arg(long)]
    config: PathBuf,
    /// End with this process (which must be the parent).
    #[arg(long, hide = true)]
    parent: Option<i32>,
}

impl Serve {
    /// Runs until SIGINT or SIGTERM, then hands everything over.
    pub async fn run(self) -> ExitCode {
        let config = match Config::load(&self.config) {
            Ok(config) => config,
            Err(error) => {
                eprintln!("tandem: {error}");
                return ExitCode::from(EXIT_USAGE);
            }
        };
        if let Some(parent) = self.parent {
            let tied = prctl::set_pdeathsig(Signal::SIGTERM);
            // It may have ended before we said so.
            if tied.is_err() || nix::unistd::getppid().as_raw() != parent {
                eprintln!("tandem: process {parent} is not the parent");
                return ExitCode::FAILURE;
            }
        }
        let metrics = match telemetry::log(&config.log).and_then(|()| telemetry::metrics()) {
            Ok(metrics) => metrics,
            Err(error) => {
                eprintln!("tandem: {}: {error}", self.config.display());
                return ExitCode::from(EXIT_USAGE);
            }
        };
        match serve(config, metrics).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("tandem: {error:#}");
                ExitCode::FAILURE
            }
        }
    }
}

async fn serve(config: Config, metrics: metrics_exporter_prometheus::PrometheusHandle) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let node = Node::start(config, metrics).await?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    tracing::info!("stopping");
    node.stop().await;
    tracing::info!("stopped");
    Ok(())
}

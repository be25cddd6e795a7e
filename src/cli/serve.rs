//! `tandem serve`: one node in the foreground. Layer: program.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use tokio::signal::unix::{SignalKind, signal};

use super::EXIT_USAGE;
use crate::cluster::storage::Place;
use crate::config::Config;
use crate::node::Node;
use crate::telemetry;

/// The exit code of a node that can't go on (sysexits' EX_SOFTWARE).
const EXIT_BROKEN: i32 = 70;

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
        raise_descriptor_limit();
        match serve(config, metrics).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("tandem: {error:#}");
                ExitCode::FAILURE
            }
        }
    }
}

/// A call takes four sockets, and two more when it goes well: as many descriptors as the system lets us have.
fn raise_descriptor_limit() {
    let most = std::fs::read_to_string("/proc/sys/fs/nr_open").ok().and_then(|text| text.trim().parse().ok());
    let raise = |limit| setrlimit(Resource::RLIMIT_NOFILE, limit, limit);
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        // Only the privileged may go beyond the hard limit.
        .and_then(|(_, hard)| most.map_or(Err(Errno::EINVAL), raise).or_else(|_| raise(hard)));
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

async fn serve(config: Config, metrics: metrics_exporter_prometheus::PrometheusHandle) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let storage = Place::Process(std::env::current_exe().context("cannot find this program's file")?);
    let mut node = Node::start(config, storage, metrics).await?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        // Others take its calls over: half a node would only be in their way.
        () = node.broken() => std::process::exit(EXIT_BROKEN),
    }
    tracing::info!("stopping");
    node.stop().await;
    tracing::info!("stopped");
    Ok(())
}

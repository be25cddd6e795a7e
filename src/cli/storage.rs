//! `tandem storage`: what `tandem serve` starts to keep its disk. Layer: program.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use crate::cluster::storage::disk;

/// The arguments.
#[derive(Debug, Args)]
pub struct Storage {
    /// The node's directory.
    #[arg(long)]
    dir: PathBuf,
}

impl Storage {
    /// Runs until its node has ended, and everything that the node said is on the disk.
    pub async fn run(self) -> ExitCode {
        // Who ends the node with a signal to all of its processes must not end this one before it.
        let ignored = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()].map(signal);
        let served = tokio::task::spawn_blocking(move || {
            // Without the standard streams' buffers, which wait for ends of lines.
            let asks = File::from(io::stdin().as_fd().try_clone_to_owned()?);
            let answers = File::from(io::stdout().as_fd().try_clone_to_owned()?);
            disk::serve(&self.dir, io::BufReader::new(asks), answers);
            Ok::<_, io::Error>(())
        });
        let served = served.await;
        drop(ignored);
        if matches!(served, Ok(Ok(()))) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

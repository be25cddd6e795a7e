//! `tandem guard`: what `tandem serve` starts to hold its addresses. Layer: program.

use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::process::ExitCode;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use crate::cluster::address::guard;

/// The arguments.
#[derive(Debug, Args)]
pub struct Guard {
    /// The interface that the addresses are put on.
    #[arg(long)]
    interface: String,
    /// The vnodes' addresses: none of them is held at the start.
    #[arg(long)]
    address: Vec<IpAddr>,
    /// An earlier guard may have left the interface forwarding.
    #[arg(long)]
    stop_forwarding: bool,
}

impl Guard {
    /// Runs until its node has ended.
    pub async fn run(self) -> ExitCode {
        // Who ends the node with a signal to all of its processes must not end this one before it.
        let ignored = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()].map(signal);
        let served = tokio::task::spawn_blocking(move || {
            // Without the standard streams' buffers, which wait for ends of lines.
            let asks = File::from(io::stdin().as_fd().try_clone_to_owned()?);
            let answers = File::from(io::stdout().as_fd().try_clone_to_owned()?);
            guard::run(&self.interface, &self.address, self.stop_forwarding, asks, answers)
        });
        let served = served.await;
        drop(ignored);
        match served {
            Ok(Ok(())) => ExitCode::SUCCESS,
            Ok(Err(error)) => {
                eprintln!("tandem: the guard cannot work: {error}");
                ExitCode::FAILURE
            }
            Err(_) => ExitCode::FAILURE,
        }
    }
}

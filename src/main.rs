//! The program. Layer: program.

use std::process::ExitCode;

use clap::Parser;
use tandem::cli::{Cli, Command};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[tokio::main]
async fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Serve(serve) => serve.run().await,
        Command::Dev(dev) => dev.run().await,
        Command::Demo(demo) => demo.run().await,
        Command::Move(to) => to.run().await,
        Command::Drain(drain) => drain.run(true).await,
        Command::Undrain(drain) => drain.run(false).await,
        Command::Join(join) => join.run().await,
        Command::Leave(leave) => leave.run().await,
        Command::Status(status) => status.run().await,
        Command::Storage(storage) => storage.run().await,
        Command::Guard(guard) => guard.run().await,
    }
}

//! The program's commands. Layer: program.

pub mod demo;
pub mod dev;
pub mod guard;
pub mod http;
pub mod layout;
pub mod moves;
pub mod serve;
pub mod status;
pub mod storage;

use clap::{Parser, Subcommand};

/// A VoIP server platform that does not drop calls.
#[derive(Debug, Parser)]
#[command(name = "tandem", version, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run one node.
    Serve(serve::Serve),
    /// Run a whole cluster on this machine's loopback, one process a node.
    Dev(dev::Dev),
    /// Let two built-in phones talk, kill the node that owns their call, and show that it goes on.
    Demo(demo::Demo),
    /// Move a vnode to another node, its calls with it.
    Move(moves::Move),
    /// Empty a node: its vnodes move to the others, their calls with them.
    Drain(moves::Drain),
    /// Let a node have its vnodes again.
    Undrain(moves::Drain),
    /// Make a node one of the cluster's: it runs already, and gets its share.
    Join(moves::Join),
    /// Make a node leave, dead or alive: others take over what it holds.
    Leave(moves::Leave),
    /// Show the nodes, the vnodes and who owns them.
    Status(status::Status),
    /// Keep a node's disk: `serve` starts this.
    #[command(hide = true)]
    Storage(storage::Storage),
    /// Hold a node's addresses: `serve` starts this.
    #[command(hide = true)]
    Guard(guard::Guard),
}

/// The exit code of a command that was told something impossible.
pub const EXIT_USAGE: u8 = 2;

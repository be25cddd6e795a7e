//! The sockets of the Raft wire and of the beats. Layer: shell.
//!
//! The kernel's; or with the feature `simulated` those of turmoil's network, in which `tests/turmoil` runs this engine
//! (`docs/decisions/0014`).

#[cfg(not(feature = "simulated"))]
mod kernel;
#[cfg(feature = "simulated")]
mod simulated;

#[cfg(not(feature = "simulated"))]
pub use kernel::{Datagrams, TcpListener, TcpStream, Waker, accept, connect, listen, run_before_others};
#[cfg(feature = "simulated")]
pub use simulated::{Datagrams, TcpListener, TcpStream, Waker, accept, connect, kernel, listen, run_before_others};

//! What random input must not hurt. The fuzzer calls these with what it makes up, `tests/fuzz.rs` with what it has found.

#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    clippy::unwrap_used,
    missing_docs,
    reason = "each of the fuzzer's programs uses one"
)]

mod call;
mod events;
mod leg;
mod media;
mod packets;
mod text;

pub use call::b2bua;
pub use events::events;
pub use leg::transactions;
pub use media::sdp;
pub use packets::packets;
pub use text::{framing, message};

use std::net::SocketAddr;

use tandem::ids::VnodeId;
use tandem::sip::dialog::Flow;
use tandem::sip::headers::Transport;

/// The way to a phone: the caller is 0.
fn flow(phone: u8, connected: bool) -> Flow {
    let (local, remote) = (SocketAddr::from(([192, 0, 2, 1], 5060)), SocketAddr::from(([198, 51, 100, phone], 5060)));
    let transport = if connected { Transport::Tcp } else { Transport::Udp };
    Flow { vnode: VnodeId(1), transport, local, remote, connection: u32::from(connected) }
}

//! The media plane: offer/answer and ports (pure, in [`core`]), and the relay's threads. Layer: shell.
//!
//! Packets never pass through a mailbox: workers own the sockets and forward by a table that actors change by
//! messages. Media knows SDP and never SIP.

pub mod core;
pub mod dtls;
pub mod ports;
pub mod recorder;
pub mod relay;
pub mod sounds;

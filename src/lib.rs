//! tandem: a VoIP server platform that does not drop calls.
//!
//! `docs/ARCHITECTURE.md` is the map. Imports point down only; `tests/layers.rs` checks it.

pub mod actors;
pub mod api;
pub mod cli;
pub mod clock;
pub mod cluster;
pub mod config;
pub mod families;
pub mod fence;
pub mod ids;
pub mod media;
pub mod node;
pub mod seal;
pub mod sip;
pub mod stun;
pub mod telemetry;

//! tandem: a VoIP server platform that does not drop calls.
//!
//! `docs/ARCHITECTURE.md` is the map. Imports point down only; `tests/layers.rs` checks it.

pub mod actors;
pub mod clock;
pub mod config;
pub mod cluster;
pub mod ids;
pub mod media;
pub mod sip;

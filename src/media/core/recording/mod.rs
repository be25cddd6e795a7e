//! What is kept of a call's sound: packets first, a file in the end. Layer: pure.
//!
//! ```text
//!  packets as they came, opened ──▶ chunks (a call's) ──▶ segments (a vnode's), sealed, in the store
//!  all chunks of a call, whoever wrote them ──▶ two tracks ──▶ one file, a channel a side
//! ```
//!
//! Nothing is decoded while a call is up: whoever takes it over goes on with the packets of the same phones, and by their numbers and times it is known
//! to the millisecond what is missing. A packet may be kept twice; it is heard once.

pub mod composition;
pub mod rtp;
pub mod segment;
mod track;
pub mod wav;

pub use composition::{Composition, Gap, Why};
pub use segment::{About, Chunk, Said, Segment, SegmentError};

//! The pure half of the media plane: what the SDPs of a call mean for its relay. Layer: pure.

pub mod dtls;
pub mod ice;
pub mod latch;
pub mod protection;
pub mod session;
pub mod srtp;

pub use dtls::{Association, Dtls, Keyed};
pub use latch::{From, Latch};
pub use protection::{Keys, Policy, Protection, Secret, Shield};
pub use session::{Before, LegPlan, SdpError, Session, Stream, StreamLeg, TakePort};

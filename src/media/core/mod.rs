//! The pure half of the media plane: what the SDPs of a call mean for its relay. Layer: pure.

pub mod codec;
pub mod dtls;
pub mod dtmf;
pub mod formats;
pub mod ice;
pub mod keys;
pub mod latch;
pub mod negotiation;
pub mod player;
pub mod protection;
pub mod quality;
pub mod recording;
pub mod rtcp;
pub mod session;
pub mod sound;
pub mod srtp;
pub mod translator;

pub use dtls::{Association, Dtls, Keyed};
pub use latch::{From, Latch};
pub use protection::{Keys, Policy, Protection, Secret, Shield};
pub use session::{Before, LegPlan, Recording, SdpError, Session, Stream, StreamLeg, TakePort, Way};

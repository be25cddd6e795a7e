//! SIP, pure: messages, transactions, dialogs, the B2BUA, the registrar, digest, tokens. Layer: pure.
//!
//! Nothing here has a socket, a clock, a task or a random source: time and random bytes are arguments.
//! A body is bytes; what is inside it is `media`'s business.

mod aging;
pub mod b2bua;
pub mod dialog;
pub mod digest;
pub mod encode;
pub mod endpoint;
pub mod events;
pub mod framing;
pub mod gruu;
pub mod guard;
pub mod headers;
pub mod identity;
pub mod leg;
pub mod locate;
pub mod message;
pub mod method;
pub mod name;
pub mod pager;
pub mod parse;
pub mod redial;
pub mod registrar;
pub mod replaces;
pub mod status;
pub mod step;
pub mod stun;
pub mod token;
pub mod transaction;
pub mod uri;

/// UTF-8 text that shares the buffer it was read from.
pub type Text = bytestring::ByteString;

pub use message::{Headers, Message, Request, Response};
pub use method::Method;
pub use name::Name;
pub use status::StatusCode;
pub use uri::Uri;

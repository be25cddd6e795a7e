//! The shells around the pure parts: the supervision tree of one node. Layer: shell.
//!
//! ```text
//!  node ── gateway                 the actor link's near end
//!       ── media                   the relay's events
//!       ── standby                 media of the calls of other nodes
//!       ── vnode × n  ── edge      the sockets of the address, their connections
//!                     ── registrar ── registration (one per AoR, while it has something to do)
//!                     ── calls     ── call ── dialog × legs, media leg × legs
//!                     ── pager     MESSAGEs outside of calls
//!                     ── notifiers ── notifier (one per user who is watched, while a NOTIFY is on its way)
//!                     ── outbox    CDRs on their way to meta
//! ```
//!
//! A panic in an actor is caught by its supervisor, which starts it again from its record; what keeps failing
//! ([`supervise::Budget`]) ends one call and never a node. What several actors share is in [`services::Services`].

pub mod alarm;
mod association;
pub mod call;
pub mod call_media;
pub mod calls;
pub mod certificates;
pub mod comeback;
pub mod connection;
pub mod descriptions;
pub mod dialog;
pub mod directory;
pub mod edge;
pub mod elsewhere;
pub mod figures;
pub mod gateway;
pub mod keepalive;
mod keys;
pub mod lookup;
pub mod media;
pub mod media_leg;
pub mod media_records;
pub mod node;
pub mod notifier;
pub mod notifiers;
pub mod outbox;
pub mod pager;
pub mod quality;
pub mod recording;
pub mod records;
pub mod registrar;
pub mod registration;
pub mod repeat;
mod ringback;
pub mod router;
pub mod seen;
pub mod services;
pub mod standby;
pub mod supervise;
pub mod tickle;
pub mod transfer;
pub mod transport;
pub mod unsaid;
pub mod vnode;
pub mod watched;
pub mod websocket;

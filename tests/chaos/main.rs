//! What tandem promises, with real processes killed under real phones. One file for each promise.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs, unreachable_pub, reason = "a test")]

#[path = "../lab/mod.rs"]
mod lab;

mod calls;
mod clock;
mod codecs;
mod comeback;
mod connections;
mod disk;
mod elsewhere;
mod fax;
mod forking;
mod hosts;
mod keys;
mod load;
mod majority;
mod membership;
mod moves;
mod nat;
mod peers;
mod protection;
mod quality;
mod recordings;
mod registrations;
mod releases;
mod ringing;
mod soak;
mod sounds;
mod states;
mod timers;
mod transfers;
mod watching;
mod web;

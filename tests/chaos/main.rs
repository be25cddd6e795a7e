//! What tandem promises, with real processes killed under real phones. One file for each promise.

#[path = "../lab/mod.rs"]
mod lab;

mod calls;
mod comeback;
mod load;
mod majority;
mod registrations;

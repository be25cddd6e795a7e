//! Keeps what the phones of recorded calls say (docs/decisions/0031). Layer: shell.
//!
//! ```text
//!  relay's threads ──▶ packets ──▶ keeper ──every 400 ms──▶ a journal of each vnode ─────┐ sealed,
//!                                    └─▶ filer ──every half minute──▶ a part of each call ─┤ in the store
//!  a call is over ──▶ composer: all parts of it, whoever wrote them ──▶ one file ◀─────────┘
//! ```
//!
//! It asks the records which calls there are, what they are of, and whether they are over ([`Ask`]); nobody tells it. So it knows of a call that was taken
//! over as soon as its first packet comes. What a former owner has left in its journals the next one makes parts of, and whoever owns a vnode composes
//! what is over of it: all that is to be done is in the store, and may be done twice.
//!
//! Invariants: nothing waits for the store but these tasks; what they hold is bounded, and what they lose is counted. A journal goes only when all that is
//! in it is in parts.

mod composer;
mod filer;
mod keeper;
mod retention;
mod sheet;
mod shelf;

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::core::recording::About;
use super::core::recording::segment::Kinds;
use super::relay::Taped;
use crate::config::RecordingFormat;
use crate::ids::{CallId, NodeId, VnodeId};
use composer::Composer;
pub use composer::Made;
use filer::Filer;
use keeper::Keeper;
pub use retention::{Deleted, delete};
pub use shelf::{Shelf, ShelfError};

/// Who stops waits for the store no longer.
const STOP: Duration = Duration::from_secs(2);

/// What the records say of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// Nothing but what they have said before.
    Same,
    /// This.
    Changed(Box<Known>),
    /// It is over.
    Over,
    /// It isn't this node's.
    Elsewhere,
}

/// What is known of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// Its vnode.
    pub vnode: VnodeId,
    /// What it is.
    pub about: Arc<About>,
    /// What the numbers of each side's packets mean.
    pub formats: Arc<[Kinds; 2]>,
    /// What all that was read from.
    pub record: Bytes,
}

/// Whoever has the records.
pub trait Ask: Send + Sync + 'static {
    /// The vnodes that are this node's.
    fn owned(&self) -> Vec<VnodeId>;
    /// What there is to say of a call of which this is known.
    fn look(&self, call: CallId, known: Option<&Known>) -> Look;
    /// Whether a call of a vnode of this node's goes on.
    fn is_live(&self, vnode: VnodeId, call: CallId) -> bool;
    /// Whether this node is the one that looks after what is kept.
    fn tidies(&self) -> bool;
}

/// How it is done.
#[derive(Debug, Clone)]
pub struct Settings {
    /// This node.
    pub node: NodeId,
    /// What a recording is in the end.
    pub format: RecordingFormat,
    /// Recordings are deleted after so many days; 0 is never.
    pub keep_days: u32,
    /// Where files are on their way.
    pub scratch: std::path::PathBuf,
}

/// A running recorder.
#[derive(Debug)]
pub struct Recorder {
    keeper: JoinHandle<()>,
    others: [JoinHandle<()>; 2],
    stop: Option<oneshot::Sender<()>>,
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.keeper.abort();
        self.others.iter().for_each(JoinHandle::abort);
    }
}

impl Recorder {
    /// Keeps what the relay tapes.
    pub fn start(shelf: Shelf, ask: Arc<dyn Ask>, taped: mpsc::Receiver<Vec<Taped>>, settings: Settings) -> Self {
        let open = Open::default();
        let (jobs, todo) = mpsc::channel(composer::JOBS);
        // As many as there are calls, and of as many octets as the keeper may hold.
        let (file, to_file) = mpsc::unbounded_channel();
        let (filed, is_filed) = mpsc::unbounded_channel();
        let filer = Filer { shelf: shelf.clone(), jobs: jobs.clone(), filed };
        let keeper = Keeper::new(shelf.clone(), ask.clone(), settings.node, open.clone(), (jobs, file, is_filed));
        let composer = Composer::new(shelf, ask, open, settings);
        let (stop, stops) = oneshot::channel();
        Self {
            keeper: tokio::spawn(keeper.run(taped, stops)),
            others: [tokio::spawn(filer.run(to_file)), tokio::spawn(composer.run(todo))],
            stop: Some(stop),
        }
    }

    /// Ends once what was said is in the store, or two seconds have passed: the next owners go on with it.
    pub async fn stop(mut self) {
        drop(self.stop.take());
        let _ = timeout(STOP, &mut self.keeper).await;
    }
}

/// Calls of which something is held here.
type Open = Arc<Mutex<HashSet<CallId>>>;

fn complain(error: &ShelfError) {
    metrics::counter!("tandem_recording_store_errors_total").increment(1);
    tracing::warn!(%error, "a recording waits for its store");
}

#[cfg(test)]
mod tests;

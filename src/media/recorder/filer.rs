//! Writes what calls have said into parts of their own, and then takes the journals away that it was in. Layer: shell.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use object_store::path::Path;
use tokio::sync::mpsc;

use super::complain;
use super::composer::{Job, Over};
use super::shelf::Shelf;
use crate::media::core::recording::Segment;

/// So many requests are made at once.
const AT_ONCE: usize = 8;
/// How soon something is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// What is to be written.
#[derive(Debug)]
pub(super) struct Files {
    /// The parts.
    pub(super) parts: Vec<(Path, Segment)>,
    /// The journals that nobody needs then.
    pub(super) journals: Vec<Path>,
    /// Calls that are over then.
    pub(super) over: Vec<Over>,
    /// So many octets of packets.
    pub(super) octets: usize,
}

/// The filer.
pub(super) struct Filer {
    pub(super) shelf: Shelf,
    pub(super) jobs: mpsc::Sender<Job>,
    /// Who holds the octets until they are written.
    pub(super) filed: mpsc::UnboundedSender<usize>,
}

impl Filer {
    pub(super) async fn run(self, mut files: mpsc::UnboundedReceiver<Files>) {
        while let Some(Files { parts, journals, over, octets }) = files.recv().await {
            stream::iter(&parts).for_each_concurrent(AT_ONCE, |(path, segment)| self.put(path, segment)).await;
            let _ = self.filed.send(octets);
            for one in over {
                // A full queue is looked at again by the next sweep.
                let _ = self.jobs.try_send(Job::Compose(one));
            }
            stream::iter(&journals).for_each_concurrent(AT_ONCE, |path| self.delete(path)).await;
        }
    }

    /// As often as it takes: until then it is in journals.
    async fn put(&self, path: &Path, segment: &Segment) {
        while let Err(error) = self.shelf.put_segment(path, segment.clone()).await {
            complain(&error);
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Left where it is, it costs the next owner a look.
    async fn delete(&self, path: &Path) {
        if let Err(error) = self.shelf.delete(path).await {
            complain(&error);
        }
    }
}

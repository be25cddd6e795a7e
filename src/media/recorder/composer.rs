//! Makes files of what is over, and parts of what former owners have left. Layer: shell.
//!
//! One thing at a time: a node that has much to compose takes a core for it, and no more.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::sheet::Sheet;
use super::shelf::{self, Shelf, ShelfError};
use super::{Ask, Open, Settings, complain, retention};
use crate::clock::{self, Timestamp};
use crate::config::RecordingFormat;
use crate::ids::{CallId, VnodeId};
use crate::media::core::recording::composition::rate_of;
use crate::media::core::recording::{About, Chunk, Composition, Gap, Segment};

/// So much waits to be done; the rest is found by the next sweep.
pub(super) const JOBS: usize = 4096;
/// A call that is over is composed after that: what another node still held may have come.
pub(super) const GRACE: Duration = Duration::from_secs(2);

/// Something to be done.
#[derive(Debug)]
pub(super) enum Job {
    /// A vnode is this node's, whose own life this is: what others have left of it, and what is over.
    TakeOver(VnodeId, Arc<str>),
    /// A call is over.
    Compose(Over),
    /// What is too old goes.
    Tidy,
}

/// A call that is over.
#[derive(Debug)]
pub(super) struct Over {
    pub(super) vnode: VnodeId,
    pub(super) call: CallId,
    /// This owner's.
    pub(super) life: Arc<str>,
    /// By then all that others have of it is in the store.
    pub(super) not_before: Timestamp,
}

/// Once each; more than there is room for is found again.
fn put(over: &mut VecDeque<Over>, one: Over) {
    if over.len() < JOBS && over.iter().all(|known| known.call != one.call) {
        over.push_back(one);
    }
}

async fn wait(until: Option<tokio::time::Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until).await,
        None => std::future::pending().await,
    }
}

/// What a recording is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    /// Which call.
    pub call: String,
    /// Who called whom.
    pub caller: String,
    /// See `caller`.
    pub callee: String,
    /// When the sound begins, in milliseconds since 1970 (UTC).
    pub begins: u64,
    /// How long it is, in milliseconds.
    pub length: u64,
    /// The name of its file, beside this one.
    pub file: String,
    /// How many frames there are in a second.
    pub rate: u32,
    /// What is missing.
    pub gaps: Vec<Gap>,
    /// How many packets were in formats that can't be decoded here.
    pub unheard: u64,
    /// How many owners the call has had.
    pub owners: usize,
}

/// The composer.
pub(super) struct Composer {
    shelf: Shelf,
    ask: Arc<dyn Ask>,
    open: Open,
    settings: Settings,
}

impl Composer {
    pub(super) fn new(shelf: Shelf, ask: Arc<dyn Ask>, open: Open, settings: Settings) -> Self {
        Self { shelf, ask, open, settings }
    }

    pub(super) async fn run(self, mut todo: mpsc::Receiver<Job>) {
        // What a former life has left there is of nobody's use.
        let _ = std::fs::remove_dir_all(&self.settings.scratch);
        if let Err(error) = std::fs::create_dir_all(&self.settings.scratch) {
            complain(&ShelfError::File(error));
        }
        let mut over = VecDeque::new();
        loop {
            let next = over.front().map(|over: &Over| clock::instant_of(over.not_before));
            let done = tokio::select! {
                job = todo.recv() => match job {
                    Some(Job::TakeOver(vnode, life)) => self.take_over(vnode, &life, &mut over).await,
                    Some(Job::Compose(one)) => {
                        put(&mut over, one);
                        Ok(())
                    }
                    Some(Job::Tidy) => retention::tidy(&self.shelf, self.settings.keep_days, clock::now()).await,
                    None => return,
                },
                () = wait(next) => match over.pop_front() {
                    Some(Over { vnode, call, life, .. }) => self.finish(vnode, call, &life).await,
                    None => Ok(()),
                },
            };
            // Whatever it is, the next sweep finds it.
            if let Err(error) = done {
                complain(&error);
            }
        }
    }

    async fn finish(&self, vnode: VnodeId, call: CallId, life: &str) -> Result<(), ShelfError> {
        // Whoever has the vnode now sees to it.
        if !self.ask.owned().contains(&vnode) || self.ask.is_live(vnode, call) {
            return Ok(());
        }
        self.salvage(vnode, life).await?;
        self.compose(vnode, call).await
    }

    async fn take_over(&self, vnode: VnodeId, life: &Arc<str>, over: &mut VecDeque<Over>) -> Result<(), ShelfError> {
        self.salvage(vnode, life).await?;
        for name in self.shelf.within(&shelf::open(vnode)).await? {
            let Ok(call) = name.parse::<CallId>() else { continue };
            let is_open = self.open.lock().unwrap_or_else(PoisonError::into_inner).contains(&call);
            if !is_open && !self.ask.is_live(vnode, call) {
                put(over, Over { vnode, call, life: life.clone(), not_before: clock::now() + GRACE });
            }
        }
        Ok(())
    }

    /// What former owners' journals hold becomes parts of calls.
    async fn salvage(&self, vnode: VnodeId, life: &str) -> Result<(), ShelfError> {
        let all = self.shelf.below(&shelf::journals(vnode)).await?;
        let is_own =
            |path: &Path| path.filename().and_then(|name| name.strip_prefix(life)).is_some_and(|rest| rest.starts_with('-'));
        let left: Vec<_> = all.into_iter().filter(|path| !is_own(path)).collect();
        for path in left {
            // Somebody else may have done it. What can't be read now can be later: nothing is composed without it.
            let Some(segment) = self.shelf.segment(&path).await? else { continue };
            let name = path.filename().unwrap_or_default();
            for (number, chunk) in segment.chunks.into_iter().enumerate() {
                let Some(first) = chunk.said.iter().map(|said| said.at).min() else { continue };
                // The same names whoever does it, however often.
                let part = shelf::parts(vnode, chunk.about.call).join(format!("{:013}-{name}-{number}", first.0));
                self.shelf.put_segment(&part, Segment::new(vec![chunk])).await?;
            }
            self.shelf.delete(&path).await?;
        }
        Ok(())
    }

    /// Makes a file of all that there is of a call.
    async fn compose(&self, vnode: VnodeId, call: CallId) -> Result<(), ShelfError> {
        let mut parts = self.shelf.below(&shelf::parts(vnode, call)).await?;
        parts.sort_by_cached_key(order);
        let mut rest = parts.iter();
        let Some(first) = self.next(&mut rest).await? else { return Ok(()) };
        let Some(about) = first.first().map(|chunk| chunk.about.clone()) else { return Ok(()) };
        let day = about.day();
        let what = shelf::recording(&day, call, "json");
        // What comes after it was composed adds nothing: it is of somebody who has been late for more than GRACE.
        if !self.shelf.has(&what).await? {
            let made = self.make(&about, &day, first, rest).await?;
            let text = serde_json::to_vec_pretty(&made).map_err(|error| ShelfError::File(error.into()))?;
            self.shelf.create(&what, Bytes::from(text)).await?;
            metrics::counter!("tandem_recordings_total").increment(1);
            tracing::info!(call_id = %call, gaps = made.gaps.len(), "recorded");
        }
        for part in &parts {
            self.shelf.delete(part).await?;
        }
        Ok(())
    }

    /// The next part that can be read.
    async fn next(&self, parts: &mut std::slice::Iter<'_, Path>) -> Result<Option<Vec<Chunk>>, ShelfError> {
        for path in parts {
            if let Some(segment) = self.shelf.segment(path).await? {
                return Ok(Some(segment.chunks));
            }
        }
        Ok(None)
    }

    async fn make(
        &self,
        about: &About,
        day: &str,
        first: Vec<Chunk>,
        mut rest: std::slice::Iter<'_, Path>,
    ) -> Result<Made, ShelfError> {
        let begins = first.iter().flat_map(|chunk| &chunk.said).map(|said| said.at).min().unwrap_or(about.created);
        let rate = rate_of(&first);
        let ending = match self.settings.format {
            RecordingFormat::Wav => "wav",
            RecordingFormat::Ogg => "ogg",
        };
        let scratch = Scratch(self.settings.scratch.join(format!("{}.{ending}", about.call)));
        let sheet = Sheet::new(&scratch.0, self.settings.format, rate).map_err(ShelfError::File)?;
        let mut work = (Composition::new(begins, rate), sheet);
        let mut lives = std::collections::BTreeSet::new();
        let mut next = Some(first);
        while let Some(chunks) = next {
            lives.extend(chunks.iter().map(|chunk| chunk.life.clone()));
            work = blocking(move || {
                let (composition, sheet) = &mut work;
                composition.hear(chunks, |sound| sheet.write(sound))?;
                Ok(work)
            })
            .await?;
            next = self.next(&mut rest).await?;
        }
        let (file, frames, gaps, unheard) = blocking(move || {
            let (composition, mut sheet) = work;
            let (gaps, unheard) = composition.end(|sound| sheet.write(sound))?;
            let (file, frames) = sheet.end(&gaps)?;
            Ok((file, frames, gaps, unheard))
        })
        .await?;
        self.shelf.put_file(&shelf::recording(day, about.call, ending), file).await?;
        Ok(Made {
            call: about.call.to_string(),
            caller: about.caller.clone(),
            callee: about.callee.clone(),
            begins: begins.0,
            length: frames / u64::from(rate),
            file: format!("{}.{ending}", about.call),
            rate: u32::from(rate) * 1000,
            gaps,
            unheard,
            owners: lives.len(),
        })
    }
}

/// A file that goes when nobody has it any more.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Parts are in order by the owner and then by their begin: two owners' clocks may differ, and who came after whom their names say.
fn order(part: &Path) -> (String, String) {
    let name = part.filename().unwrap_or_default();
    let (first, rest) = name.split_once('-').unwrap_or((name, ""));
    let life: Vec<_> = rest.splitn(3, '-').take(2).collect();
    (life.join("-"), first.to_owned())
}

async fn blocking<R: Send + 'static>(work: impl FnOnce() -> io::Result<R> + Send + 'static) -> Result<R, ShelfError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(ShelfError::File)
}

//! Where recordings are: a directory that all nodes share, or a bucket of an S3 server. Layer: shell.
//!
//! ```text
//!  open/v3/journal/LIFE-00000007        everything that a vnode's owner has heard in the last 400 ms, sealed
//!  open/v3/CALL/1795824000123-LIFE-…    what it has heard of one call in the last half minute, sealed
//!  recordings/2026-11-28/CALL.wav       the sound
//!  recordings/2026-11-28/CALL.json      what it is of; it is there last, and once
//!  audit/2026-11-28/…json               what was deleted, by whom
//!  broken/open/…                        what can't be read
//! ```

use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{BackoffConfig, ClientOptions, GetResult, ObjectStore, ObjectStoreExt, PutMode, PutOptions, RetryConfig};

use crate::config::{Recording, Secret};
use crate::ids::{CallId, VnodeId};
use crate::media::core::recording::{Segment, SegmentError};
use crate::seal::Seal;

/// A request to the store takes no longer; and nothing is tried for longer than that, since whoever waits tries again anyway. A whole file may take longer.
const REQUEST: Duration = Duration::from_secs(10);
const FILE: Duration = Duration::from_secs(3600);
const RETRIES: usize = 2;
/// What the key for what isn't a recording yet is made for.
const SEALED_FOR: &[u8] = b"recordings";

/// What is wrong with the store.
#[derive(Debug, thiserror::Error)]
pub enum ShelfError {
    /// It can't be reached, or has refused something.
    #[error("the store of the recordings: {0}")]
    Store(#[from] object_store::Error),
    /// Its directory can't be made.
    #[error("the directory of the recordings")]
    Directory(#[source] std::io::Error),
    /// What it holds can't be opened.
    #[error("something in the store can't be opened")]
    Seal(#[source] std::io::Error),
    /// What it holds is none of ours.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// A file on the way.
    #[error("a file on its way to the store")]
    File(#[source] std::io::Error),
}

/// The store.
#[derive(Clone)]
pub struct Shelf {
    store: Arc<dyn ObjectStore>,
    /// The same, with more patience.
    files: Arc<dyn ObjectStore>,
    seal: Arc<Seal>,
}

impl Shelf {
    /// As it is configured; none if it isn't. What isn't a recording yet is sealed by `secret`.
    pub fn open(config: &Recording, secret: &Secret) -> Result<Option<Self>, ShelfError> {
        let Some(place) = &config.store else { return Ok(None) };
        let Some(bucket) = place.strip_prefix("s3://") else {
            std::fs::create_dir_all(place).map_err(ShelfError::Directory)?;
            let directory = LocalFileSystem::new_with_prefix(FilePath::new(place))?.with_automatic_cleanup(true);
            return Ok(Some(Self::new(Arc::new(directory), secret)));
        };
        let (store, files) = (bucket_of(bucket, config, REQUEST)?, bucket_of(bucket, config, FILE)?);
        Ok(Some(Self { files, ..Self::new(store, secret) }))
    }

    /// Of a store.
    pub fn new(store: Arc<dyn ObjectStore>, secret: &Secret) -> Self {
        Self { files: store.clone(), store, seal: Arc::new(Seal::new(secret.0.as_bytes(), SEALED_FOR)) }
    }

    /// Keeps a segment.
    pub(super) async fn put_segment(&self, path: &Path, segment: Segment) -> Result<(), ShelfError> {
        let seal = self.seal.clone();
        // Some megabytes, perhaps.
        let sealed = blocking(move || seal.seal(&segment.encode())).await.map_err(ShelfError::Seal)?;
        self.store.put(path, sealed.into()).await?;
        Ok(())
    }

    /// Reads one; none if it isn't there. One that nobody will ever be able to read is put aside.
    pub(super) async fn segment(&self, path: &Path) -> Result<Option<Segment>, ShelfError> {
        let Some(found) = self.get(&self.store, path).await? else { return Ok(None) };
        let sealed = found.bytes().await?;
        let (seal, text) = (self.seal.clone(), sealed.clone());
        let opened = blocking(move || seal.open_sealed(text.into())).await.map_err(ShelfError::Seal);
        match opened.and_then(|text| Ok(Segment::decode(&text)?)) {
            Ok(segment) => Ok(Some(segment)),
            Err(error @ (ShelfError::Seal(_) | ShelfError::Segment(SegmentError::Malformed(_)))) => {
                tracing::error!(%error, path = %path, "a part of a recording can't be read");
                metrics::counter!("tandem_recording_broken_total").increment(1);
                self.store
                    .put(&Path::from_iter([Path::from("broken").as_ref(), path.as_ref()].join("/").split('/')), sealed.into())
                    .await?;
                self.delete(path).await?;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Keeps something that nobody may write twice. Tells whether it wasn't there.
    pub(super) async fn create(&self, path: &Path, bytes: Bytes) -> Result<bool, ShelfError> {
        let once = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.store.put_opts(path, bytes.into(), once).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether something is there.
    pub(super) async fn has(&self, path: &Path) -> Result<bool, ShelfError> {
        match self.store.head(path).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes something, if it is there.
    async fn get(&self, store: &Arc<dyn ObjectStore>, path: &Path) -> Result<Option<GetResult>, ShelfError> {
        match store.get(path).await {
            Ok(found) => Ok(Some(found)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Gives something away; what isn't there is gone already.
    pub(super) async fn delete(&self, path: &Path) -> Result<(), ShelfError> {
        match self.store.delete(path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// What is below a path, in the order of its names.
    pub(super) async fn below(&self, path: &Path) -> Result<Vec<Path>, ShelfError> {
        let mut all: Vec<_> = self.store.list(Some(path)).map_ok(|found| found.location).try_collect().await?;
        all.sort();
        Ok(all)
    }

    /// The names of what is right below a path and has something below it.
    pub(super) async fn within(&self, path: &Path) -> Result<Vec<String>, ShelfError> {
        let found = self.store.list_with_delimiter(Some(path)).await?;
        Ok(found.common_prefixes.iter().filter_map(|path| path.filename().map(str::to_owned)).collect())
    }

    /// The recordings of a day, in the order of their names.
    pub async fn calls_of(&self, in_day: &str) -> Result<Vec<CallId>, ShelfError> {
        let all = self.below(&day(in_day)).await?;
        Ok(all.iter().filter_map(|path| path.filename()?.strip_suffix(".json")?.parse().ok()).collect())
    }

    /// What a recording is of; none if there is none.
    pub async fn made(&self, in_day: &str, call: CallId) -> Result<Option<Bytes>, ShelfError> {
        match self.get(&self.store, &recording(in_day, call, "json")).await? {
            Some(found) => Ok(Some(found.bytes().await?)),
            None => Ok(None),
        }
    }

    /// The file beside it.
    pub async fn file(&self, in_day: &str, name: &str) -> Result<Option<GetResult>, ShelfError> {
        self.get(&self.files, &day(in_day).join(name)).await
    }

    /// Brings a file there.
    pub(super) async fn put_file(&self, path: &Path, file: std::fs::File) -> Result<(), ShelfError> {
        let mut file = tokio::fs::File::from_std(file);
        let mut writer = object_store::buffered::BufWriter::new(self.files.clone(), path.clone());
        tokio::io::copy(&mut file, &mut writer).await.map_err(ShelfError::File)?;
        tokio::io::AsyncWriteExt::shutdown(&mut writer).await.map_err(ShelfError::File)
    }
}

async fn blocking<R: Send + 'static>(work: impl FnOnce() -> std::io::Result<R> + Send + 'static) -> std::io::Result<R> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(std::io::Error::other(error)))
}

fn bucket_of(place: &str, config: &Recording, patience: Duration) -> Result<Arc<dyn ObjectStore>, ShelfError> {
    let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
    let s3 = &config.s3;
    // What isn't configured is as the environment has it, or the machine's role.
    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(bucket)
        .with_client_options(ClientOptions::new().with_connect_timeout(REQUEST).with_timeout(patience).with_allow_http(true))
        .with_retry(RetryConfig { max_retries: RETRIES, retry_timeout: patience, backoff: BackoffConfig::default() });
    if let Some(region) = &s3.region {
        builder = builder.with_region(region);
    }
    if let Some(endpoint) = &s3.endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    if let (Some(id), Some(key)) = (&s3.key_id, &s3.key) {
        builder = builder.with_access_key_id(id).with_secret_access_key(&key.0);
    }
    let store = builder.build()?;
    Ok(match prefix.trim_matches('/') {
        "" => Arc::new(store),
        prefix => Arc::new(PrefixStore::new(store, prefix)),
    })
}

/// Where the journals of a vnode's owners are.
pub(super) fn journals(vnode: VnodeId) -> Path {
    Path::from_iter(["open".to_owned(), vnode.to_string(), JOURNAL.to_owned()])
}

/// Where the parts of calls are.
pub(super) fn open(vnode: VnodeId) -> Path {
    Path::from_iter(["open".to_owned(), vnode.to_string()])
}

/// Where the parts of a call are.
pub(super) fn parts(vnode: VnodeId, call: CallId) -> Path {
    open(vnode).join(call.to_string())
}

/// What is no call among them.
pub(super) const JOURNAL: &str = "journal";

/// Where recordings of a day are.
pub(super) fn day(day: &str) -> Path {
    Path::from_iter(["recordings", day])
}

/// A recording's sound, or what it is of, by the ending of its name.
pub(super) fn recording(in_day: &str, call: CallId, ending: &str) -> Path {
    day(in_day).join(format!("{call}.{ending}"))
}

/// Where the recordings are.
pub(super) fn recordings() -> Path {
    Path::from("recordings")
}

/// Where it is written down that something was deleted.
pub(super) fn audit(in_day: &str, name: &str) -> Path {
    Path::from_iter(["audit", in_day]).join(format!("{name}.json"))
}

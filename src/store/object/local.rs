//! An S3 store over a directory: what the embedded endpoint serves, and a bucket of it as an [`ObjectStore`](super::ObjectStore).
//!
//! What lives here: [`Local`], the store with S3's own verbs (the wire is `protocol/s3`); [`Bucket`], one bucket behind
//! the seam that the rest of the gateway uses. Beside it: `index` (the database of names and versions, the only SQL outside
//! of `store/meta`), `files` (immutable files of bytes), `intake` (a body on its way in), `extent`, `digest`, and one file per
//! group of verbs: `buckets`, `write`, `read`, `listing`, `multipart`.
//!
//! On disk, format 1:
//! ```text
//! index.db            SQLite: buckets, object versions, uploads, parts, files (schema in `index/schema.rs`)
//! data/BBBBBB/IIIIIIIII   one immutable file of bytes, named by its id in hexadecimal, never by a key; B = I / 4096
//! lock                held by the process that serves the directory
//! ```
//! An object is bytes inside the index (up to [`INLINE_BYTES_MAX`]) or a list of extents of files, so that copies, part
//! copies and completed uploads share bytes instead of writing them again. Files count the extents that name them.
//!
//! Invariants:
//! - A file is written once, flushed with its directory entry, and only then named by an index transaction. The transaction
//!   is the only commit point (`synchronous = FULL`): what was acknowledged survives power loss, and a crash leaves at most
//!   files that nothing names; those have ids of the last run and are removed at the next start.
//! - Ids come from blocks that are reserved durably before use, so a name is never used twice.
//! - All changes go through one writer task, which judges preconditions: a condition and its write are atomic. It commits
//!   what queued up during the last commit in one transaction.
//! - A file that nothing names any more is removed after the readers that were under way have ended.
//! - An id grows with each version of a key: the latest version is the one with the highest id.
//!
//! Lock order: none is held while another is taken, and none across an await.

mod bucket;
mod buckets;
mod digest;
mod extent;
mod files;
mod garbage;
mod index;
mod intake;
mod listing;
mod multipart;
mod name;
mod read;
mod types;
mod write;

use std::path::Path;
use std::sync::Arc;

pub use bucket::Bucket;
pub use digest::{Algorithm, Checksums};
pub use intake::{Content, Expected, Intake};
pub use listing::{KeyPage, KeyQuery, Version, VersionPage, VersionQuery};
pub use multipart::{Begin, Complete, NamedPart, PartInfo, UploadInfo, UploadPage, UploadQuery};
pub use read::{ByteStream, Conditions, Opened, RangeSpec};
pub use types::{
    BucketInfo, Deleted, Headers, MetadataDirective, ObjectInfo, Requirement, Source, Stored, VersionId, Versioning,
};
pub use write::{Copy, Put};

use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::base::clock::Clock;
use files::Files;
use garbage::Garbage;
use index::Index;

/// The largest object that lives inside the index, in bytes.
pub const INLINE_BYTES_MAX: usize = 4096;
/// The largest body of one PUT, part or copy, in bytes (S3: 5 GiB).
pub const BODY_BYTES_MAX: u64 = 5 << 30;
/// The smallest part but the last, in bytes (S3: 5 MiB).
pub const PART_BYTES_MIN: u64 = 5 << 20;
/// The most parts of an upload (S3: 10,000).
pub const PARTS_MAX: u32 = 10_000;
/// The `Content-Type` of objects that were put without one, as on S3.
pub const CONTENT_TYPE_DEFAULT: &str = "binary/octet-stream";

/// A store of buckets in a directory.
pub struct Local {
    index: Index,
    files: Arc<Files>,
    garbage: Arc<Garbage>,
    clock: Arc<dyn Clock>,
    reaper: Mutex<Option<JoinHandle<()>>>,
    stop: CancellationToken,
    /// A store that is dropped without being closed stops its tasks, too.
    _stop_on_drop: DropGuard,
}

impl Local {
    /// Opens the store in `dir`, creating it where it is absent, and removes what a crash has left.
    ///
    /// # Errors
    /// Where the directory cannot be used, another process serves it, or its index is damaged or of a later format.
    pub async fn open(dir: &Path, clock: Arc<dyn Clock>) -> Result<Arc<Self>, LocalError> {
        let lock = files::lock(dir)?;
        let garbage = Arc::new(Garbage::default());
        let (index, start) = Index::open(dir, garbage.clone()).await?;
        let files = Files::open(dir, lock, index.clone(), garbage.clone(), &start).await?;
        let stop = CancellationToken::new();
        let reaper = Mutex::new(Some(tokio::spawn(files.clone().reaper(stop.clone()))));
        let _stop_on_drop = stop.clone().drop_guard();
        Ok(Arc::new(Self { index, files, garbage, clock, reaper, stop, _stop_on_drop }))
    }

    /// Waits for the changes under way and closes the store. Later calls fail.
    pub async fn close(&self) {
        self.stop.cancel();
        let reaper = self.reaper.lock().take();
        if let Some(reaper) = reaper {
            // One that panicked left its work to the next start.
            let _ = reaper.await;
        }
        if let Err(error) = self.files.reap().await {
            tracing::warn!(%error, "files of deleted objects are left to the next start");
        }
        self.index.close().await;
    }

    /// Now, in whole seconds, as S3 keeps times; nanoseconds since the Unix epoch.
    fn now_ns(&self) -> i64 {
        const SECOND_NS: i64 = 1_000_000_000;
        self.clock.now_ns().div_euclid(SECOND_NS) * SECOND_NS
    }
}

/// Why a request was refused, in S3's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LocalError {
    /// The bucket does not exist.
    #[error("no such bucket: {0}")]
    NoSuchBucket(String),
    /// The bucket exists already.
    #[error("the bucket exists already: {0}")]
    BucketExists(String),
    /// The bucket has objects, versions or uploads.
    #[error("the bucket is not empty")]
    BucketNotEmpty,
    /// S3's naming rules forbid the name.
    #[error("not a bucket name: {0}")]
    InvalidBucketName(String),
    /// The key is empty or longer than 1,024 bytes.
    #[error("a key has 1 to 1,024 bytes")]
    InvalidKey,
    /// The key has no object; `marker` where its latest version is a delete marker.
    #[error("no such key")]
    NoSuchKey {
        /// The latest version is a delete marker.
        marker: bool,
    },
    /// The key has no such version.
    #[error("no such version")]
    NoSuchVersion,
    /// The version is a delete marker and has no bytes.
    #[error("the version is a delete marker")]
    IsMarker,
    /// No such multipart upload.
    #[error("no such multipart upload")]
    NoSuchUpload,
    /// A part was never sent, or has another ETag.
    #[error("part {0} was not sent, or has another ETag")]
    InvalidPart(u32),
    /// The parts are not in ascending order.
    #[error("the parts are not in ascending order")]
    InvalidPartOrder,
    /// A part that is not the last is below [`PART_BYTES_MIN`].
    #[error("part {0} is smaller than 5 MiB and is not the last")]
    EntityTooSmall(u32),
    /// The body is above [`BODY_BYTES_MAX`].
    #[error("the body is larger than 5 GiB")]
    EntityTooLarge,
    /// User metadata is above 2 KiB.
    #[error("user metadata is larger than 2 KiB")]
    MetadataTooLarge,
    /// The body is not what its length says.
    #[error("the body ended early")]
    IncompleteBody,
    /// The body is not what its checksum says.
    #[error("the body does not match its {0}")]
    BadDigest(&'static str),
    /// A copy of an object to itself that changes nothing.
    #[error("a copy of an object to itself must change its metadata or storage class")]
    CopyToItself,
    /// The source of a copy was replaced or removed meanwhile (409).
    #[error("the source of the copy changed meanwhile")]
    SourceChanged,
    /// A condition of the request does not hold (412).
    #[error("a condition of the request does not hold")]
    PreconditionFailed,
    /// The reader has these bytes already (304).
    #[error("not modified")]
    NotModified,
    /// The range begins at or past the end of the object, which has so many bytes.
    #[error("the range is not in the object of {0} bytes")]
    InvalidRange(u64),
    /// A field of the request makes no sense.
    #[error("{0}")]
    InvalidArgument(String),
    /// Tags that S3 does not allow.
    #[error("{0}")]
    InvalidTag(String),
    /// Not built.
    #[error("not implemented: {0}")]
    NotImplemented(&'static str),
    /// The disk or the index failed before the change; nothing happened.
    #[error("the store's disk failed: {0}")]
    Disk(String),
    /// The commit failed: the change may or may not be there after a restart.
    #[error("the index failed in a commit: {0}")]
    CommitUnknown(String),
    /// The index or a file is not what was written.
    #[error("the store is damaged: {0}")]
    Damaged(String),
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

impl From<std::io::Error> for LocalError {
    fn from(error: std::io::Error) -> Self {
        Self::Disk(error.to_string())
    }
}

#[cfg(test)]
mod tests;

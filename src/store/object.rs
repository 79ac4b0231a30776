//! A bucket as a seam: [`ObjectStore`] is one bucket, whoever serves it.
//!
//! What lives here: the trait, its requests and answers, its errors. Beside it: `object/s3.rs` (any S3, through
//! `aws-sdk-s3`), `object/local.rs` (the embedded endpoint's directory), `object/memory.rs`; `object/layer.rs`, which says how
//! decorators wrap a bucket and in which order, and the decorators `object/{retry,limit,meter,fault}.rs`; and
//! `object/probe.rs`, which finds out what an endpoint honours.
//!
//! Invariants:
//! - Every call is idempotent, or guarded by a [`Precondition`], or says by [`ObjectError::outcome`] that it may have
//!   happened although it failed. Nobody retries a guarded write blindly: who gets an unknown outcome asks by `head`.
//! - Deleting what is absent is `Ok`. A listing is ordered by the bytes of its keys.
//! - A read pins the ETag that it is based on where the caller has one.
//! - No implementation retries by itself; [`retry`] does, for all of them.

#[cfg(test)]
pub(crate) mod conformance;
pub mod fault;
pub mod layer;
pub mod limit;
pub mod local;
pub mod memory;
pub mod meter;
pub mod probe;
pub mod retry;
pub mod s3;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

/// S3's limit for a key, in bytes.
pub const KEY_BYTES_MAX: usize = 1024;

/// S3's limit for user metadata, names and values together, in bytes.
pub const METADATA_BYTES_MAX: usize = 2048;

/// Refuses a key that S3 cannot hold.
///
/// # Errors
/// `Invalid`.
pub fn check_key(key: &str) -> Result<(), ObjectError> {
    match key.len() {
        1..=KEY_BYTES_MAX => Ok(()),
        0 => Err(ObjectError::Invalid("an empty key".into())),
        bytes => Err(ObjectError::Invalid(format!("a key of {bytes} bytes (S3 takes {KEY_BYTES_MAX})"))),
    }
}

/// An entity tag without its quotes. Opaque: it is compared, never computed.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct ETag(pub String);

impl fmt::Debug for ETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ETag({})", self.0)
    }
}

/// What a write requires of the object that is there (RFC 9110 §13.1; S3 "conditional writes").
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Precondition {
    /// Overwrite whatever is there.
    #[default]
    None,
    /// `If-None-Match: *`: no object has this key.
    Absent,
    /// `If-Match`: the object has this ETag.
    Matches(ETag),
}

/// Everything about an object that is written with it and is not its bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Attributes {
    /// `Content-Type`; `None` leaves the endpoint's default.
    pub content_type: Option<String>,
    /// User metadata, names in lower case without the `x-amz-meta-` prefix. At most 2 KiB in all.
    pub metadata: BTreeMap<String, String>,
    /// `x-amz-storage-class`, in S3's spelling; `None` is the bucket's default.
    pub storage_class: Option<String>,
    /// Canned ACL, in S3's spelling.
    pub acl: Option<String>,
    /// `x-amz-server-side-encryption`, in S3's spelling (`AES256`, `aws:kms`, `aws:kms:dsse`).
    pub encryption: Option<String>,
    /// The KMS key of `encryption`.
    pub kms_key: Option<String>,
}

/// A body to send, as a rope of slices that are never copied on the way.
#[derive(Clone, Debug, Default)]
pub struct Body(pub Vec<Bytes>);

impl Body {
    /// The body's length in bytes.
    pub fn len(&self) -> u64 {
        self.0.iter().map(|slice| slice.len() as u64).sum()
    }

    /// Whether the body has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The whole body as one slice; copies only where there is more than one.
    pub fn into_bytes(mut self) -> Bytes {
        match self.0.len() {
            0 => Bytes::new(),
            1 => self.0.remove(0),
            _ => self.0.concat().into(),
        }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self(vec![bytes])
    }
}

/// An object's attributes as `HEAD` tells them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Length in bytes.
    pub size_bytes: u64,
    /// ETag of the bytes.
    pub etag: Option<ETag>,
    /// Version id, where the bucket has versions.
    pub version: Option<String>,
    /// `Last-Modified`, nanoseconds since the Unix epoch (S3 keeps whole seconds).
    pub modified_ns: i64,
    /// What was written with the object.
    pub attributes: Attributes,
    /// `x-amz-restore`, verbatim, for an object of an archive class.
    pub restore: Option<String>,
}

/// One object of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The whole key.
    pub key: String,
    /// Length in bytes.
    pub size_bytes: u64,
    /// ETag of the bytes.
    pub etag: ETag,
    /// `LastModified`, nanoseconds since the Unix epoch.
    pub modified_ns: i64,
    /// Storage class, where it is told.
    pub storage_class: Option<String>,
}

/// What to list.
#[derive(Clone, Debug, Default)]
pub struct ListRequest {
    /// Only keys that begin with this.
    pub prefix: String,
    /// Fold keys that contain this after the prefix into `prefixes`.
    pub delimiter: Option<String>,
    /// Only keys (and prefixes) after this one, in byte order. Ignored where `token` is set.
    pub start_after: Option<String>,
    /// `next` of the page before.
    pub token: Option<String>,
    /// At most so many keys and prefixes; 0 stands for the endpoint's default (1,000).
    pub limit: u32,
}

/// One page of a listing.
#[derive(Clone, Debug, Default)]
pub struct ListPage {
    /// Objects, ordered by key.
    pub objects: Vec<Listed>,
    /// Folded prefixes, ordered, each ending with the delimiter.
    pub prefixes: Vec<String>,
    /// The token of the next page; `None` on the last.
    pub next: Option<String>,
}

/// An object that is read by a server-side copy, pinned to what the caller believes it to be.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct CopySource {
    /// Its key, in the same bucket.
    pub key: String,
    /// `x-amz-copy-source-if-match`.
    pub etag: Option<ETag>,
    /// A version of it, else the latest.
    pub version: Option<String>,
}

/// What a write made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The new object's ETag.
    pub etag: ETag,
    /// Its version, where the bucket has versions.
    pub version: Option<String>,
}

/// A multipart upload's id, as the endpoint gave it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UploadId(pub String);

/// A part that was sent or copied: its number (1 to 10,000) and ETag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// 1 to 10,000; the object is the parts in the order of their numbers.
    pub number: u32,
    /// As the endpoint gave it.
    pub etag: ETag,
}

/// A multipart upload that is neither completed nor aborted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingUpload {
    /// The key that it would write.
    pub key: String,
    /// Its id.
    pub upload: UploadId,
    /// When it was begun, nanoseconds since the Unix epoch; 0 where it is not told.
    pub initiated_ns: i64,
}

/// What an endpoint does, as declared by an implementation or found by [`probe`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// PUT, copy-free writes and multipart completion honour `If-None-Match: *` and `If-Match`.
    pub conditional_put: bool,
    /// DELETE honours `If-Match`, and DeleteObjects the ETags of its keys.
    pub conditional_delete: bool,
    /// CopyObject honours `If-None-Match` and `If-Match` on its target.
    pub conditional_copy: bool,
    /// `UploadPartCopy` works, and honours the ETag that its source is pinned to.
    pub part_copy: bool,
    /// The bucket keeps versions.
    pub versioned: bool,
    /// The smallest part but the last, in bytes (S3: 5 MiB).
    pub part_bytes_min: u64,
    /// The largest part, and the largest object of one PUT or one CopyObject, in bytes (S3: 5 GiB).
    pub part_bytes_max: u64,
    /// The most parts of one upload (S3: 10,000).
    pub parts_max: u32,
    /// The largest object in bytes (S3: 48.8 TiB).
    pub object_bytes_max: u64,
}

impl Capabilities {
    /// AWS S3 itself.
    pub const AWS: Self = Self {
        conditional_put: true,
        conditional_delete: true,
        conditional_copy: true,
        part_copy: true,
        versioned: false,
        part_bytes_min: 5 << 20,
        part_bytes_max: 5 << 30,
        parts_max: 10_000,
        object_bytes_max: 10_000 * (5 << 30),
    };
}

/// One bucket.
///
/// Keys are the bucket's whole keys (a share's prefix is its engine's business). Every method is bounded in time by
/// its implementation; `get` returns at most what `range` names, so its memory is the caller's choice.
#[async_trait]
pub trait ObjectStore: Send + Sync + 'static {
    /// What this bucket's endpoint does.
    fn capabilities(&self) -> Capabilities;

    /// Returns once [`Self::capabilities`] says what the endpoint does rather than what is feared. Who writes over what others may have written
    /// waits for it; an error says why it is not known, and asking again tries again.
    async fn ready(&self) -> Result<(), ObjectError> {
        Ok(())
    }

    /// `HeadObject`.
    async fn head(&self, key: &str) -> Result<Head, ObjectError>;

    /// `GetObject`: the bytes of `range` (all, where `None`), and the object's attributes. A range past the end is cut
    /// short; one that begins at or past the end gives no bytes. With `expect`, `PreconditionFailed` where the object
    /// has another ETag.
    async fn get(&self, key: &str, range: Option<Range<u64>>, expect: Option<&ETag>) -> Result<(Head, Bytes), ObjectError>;

    /// `PutObject`. `Matches` where nothing is there is `PreconditionFailed`.
    async fn put(
        &self,
        key: &str,
        body: Body,
        attributes: &Attributes,
        precondition: &Precondition,
    ) -> Result<Written, ObjectError>;

    /// `CopyObject` in the bucket. `attributes: None` keeps the source's metadata and content type, while storage class, ACL
    /// and encryption become the bucket's defaults (so S3 does it), and is `Invalid` in place; `Some` replaces all of them.
    /// `PreconditionFailed` where source or target are not what was expected; `NotFound` where the source is gone.
    async fn copy(
        &self,
        source: &CopySource,
        key: &str,
        attributes: Option<&Attributes>,
        precondition: &Precondition,
    ) -> Result<Written, ObjectError>;

    /// `DeleteObject`. Absent is `Ok`; with `expect`, `PreconditionFailed` where the object has another ETag.
    async fn delete(&self, key: &str, expect: Option<&ETag>) -> Result<(), ObjectError>;

    /// `DeleteObjects`, at most 1,000 keys, each with the ETag that it must have where one is given and honoured.
    /// Returns the keys that were not deleted and why.
    async fn delete_many(&self, keys: &[(String, Option<ETag>)]) -> Result<Vec<(String, ObjectError)>, ObjectError>;

    /// `ListObjectsV2`.
    async fn list(&self, request: &ListRequest) -> Result<ListPage, ObjectError>;

    /// `CreateMultipartUpload`.
    async fn multipart_begin(&self, key: &str, attributes: &Attributes) -> Result<UploadId, ObjectError>;

    /// `UploadPart`.
    async fn multipart_part(&self, key: &str, upload: &UploadId, number: u32, body: Body) -> Result<Part, ObjectError>;

    /// `UploadPartCopy`: `range` of the source. AWS refuses ranges of sources below 5 MiB.
    async fn multipart_copy(
        &self,
        key: &str,
        upload: &UploadId,
        number: u32,
        source: &CopySource,
        range: Range<u64>,
    ) -> Result<Part, ObjectError>;

    /// `CompleteMultipartUpload`. `parts` are ordered by number.
    async fn multipart_commit(
        &self,
        key: &str,
        upload: &UploadId,
        parts: &[Part],
        precondition: &Precondition,
    ) -> Result<Written, ObjectError>;

    /// `AbortMultipartUpload`. Unknown is `Ok`.
    async fn multipart_abort(&self, key: &str, upload: &UploadId) -> Result<(), ObjectError>;

    /// `ListMultipartUploads` below a prefix, all pages, at most 10,000.
    async fn multipart_list(&self, prefix: &str) -> Result<Vec<PendingUpload>, ObjectError>;
}

/// Whether a request that failed may have taken effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It did not happen.
    Refused,
    /// The answer was lost, or does not tell.
    Unknown,
}

/// Why a request failed, by what the caller does next.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ObjectError {
    /// No such object (or the source of a copy is gone).
    #[error("no such object")]
    NotFound,
    /// No such bucket: the configuration is wrong, or somebody removed it.
    #[error("no such bucket: {0}")]
    NoSuchBucket(String),
    /// No such multipart upload: it was completed, aborted, or never was.
    #[error("no such multipart upload")]
    NoSuchUpload,
    /// 412: the object is not what the precondition says.
    #[error("the object is not what the request expected (412)")]
    PreconditionFailed,
    /// 409: another conditional write is under way; ask by `head`, then try again.
    #[error("a conflicting request is under way (409)")]
    Conflict,
    /// The object is in an archive class and has to be restored first (`InvalidObjectState`).
    #[error("the object is archived and must be restored first")]
    Archived,
    /// No permission, maybe for this key alone: somebody must act.
    #[error("access denied: {0}")]
    Denied(String),
    /// The endpoint does not take these credentials for anything at all: somebody must act.
    #[error("the credentials are refused: {0}")]
    Credentials(String),
    /// 503 SlowDown and the like: later, and slower.
    #[error("the endpoint asks to slow down")]
    SlowDown,
    /// No answer, a broken connection, a 5xx: later. `Unknown` where a write may have happened.
    #[error("the endpoint is not available: {reason}")]
    Unavailable {
        /// What was seen.
        reason: String,
        /// Whether the request may have taken effect.
        outcome: Outcome,
    },
    /// The answer is not what was sent for: a checksum or a length is off.
    #[error("the endpoint's answer is damaged: {0}")]
    Corrupt(String),
    /// The request can never succeed as it is (a key too long, a part too small).
    #[error("the endpoint refuses the request: {0}")]
    Invalid(String),
    /// The endpoint lacks the operation.
    #[error("the endpoint does not support this: {0}")]
    Unsupported(String),
}

impl ObjectError {
    /// Whether the request may have taken effect.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Unavailable { outcome, .. } => *outcome,
            // A 412 or 409 may be the answer to a retry of a write whose first answer was lost.
            Self::PreconditionFailed | Self::Conflict | Self::NoSuchUpload => Outcome::Unknown,
            _ => Outcome::Refused,
        }
    }

    /// Whether the same request may succeed later without anybody acting.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::SlowDown | Self::Unavailable { .. } | Self::Conflict | Self::Corrupt(_))
    }
}

/// A bucket that is shared by many owners.
pub type SharedStore = Arc<dyn ObjectStore>;

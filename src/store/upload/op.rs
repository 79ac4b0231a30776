//! Operations: what may happen to a key of a bucket, and how that ends.
//!
//! What lives here: [`Op`], [`Expected`], [`Done`]. An operation is part of what a job's row keeps while it is under way (`upload/pending.rs`), as JSON:
//! a new field needs a default.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::pending;
use crate::base::id::{BlobId, Seq};
use crate::store::object::{Attributes, CopySource, ETag, Head};

/// What the bucket is expected to have at a key that we write or delete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expected {
    /// Nothing.
    Absent,
    /// This object.
    Object(ETag),
    /// Whatever is there may go (an operator said so; never by default).
    Anything,
}

/// One operation on a bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// A blob's bytes become the object. Freezes a generation; sends it in one PUT, or in parts with unchanged ranges copied
    /// from `base` where that is smaller.
    PutBlob {
        /// At.
        key: String,
        /// What.
        blob: BlobId,
        /// With; the mark is added.
        attributes: Attributes,
        /// Instead of.
        expected: Expected,
        /// The object that the blob's remote ranges are in, to copy parts from.
        base: Option<CopySource>,
        /// The digest of the content that `base` at `key` has: equal content is not sent again, but copied in place with the new attributes. That
        /// is a write like others: where the object is not the one that is known, the bytes are sent, or are a conflict.
        unless_digest: Option<Vec<u8>>,
    },
    /// What the planner makes of ranges of a generation that it holds frozen becomes an object (a segment of a volume or a tape): see [`Planner::make`](super::Planner::make).
    /// Sent in one PUT.
    PutMade {
        /// At. The same key with other bytes is another operation.
        key: String,
        /// Whose bytes.
        blob: BlobId,
        /// The generation's number.
        generation: Seq,
        /// The most that is made, in bytes: for so many there is room in memory before anything is made.
        bytes_max: u64,
        /// With; the mark is added.
        attributes: Attributes,
        /// Instead of.
        expected: Expected,
    },
    /// A small body that the planner made (a symlink's target, a directory's marker, a link group).
    PutBytes {
        /// At.
        key: String,
        /// What.
        #[serde(with = "pending::body")]
        body: Bytes,
        /// With; the mark is added.
        attributes: Attributes,
        /// Instead of.
        expected: Expected,
    },
    /// A server-side copy, also in place to change attributes.
    Copy {
        /// From.
        source: CopySource,
        /// Its length in bytes (above the endpoint's limit it is copied in parts).
        size_bytes: u64,
        /// To.
        key: String,
        /// `None` keeps the source's.
        attributes: Option<Attributes>,
        /// Instead of.
        expected: Expected,
    },
    /// The object goes.
    Delete {
        /// Which.
        key: String,
        /// Which it is expected to be.
        expected: Expected,
    },
}

impl Op {
    /// The key that it writes or deletes.
    pub fn target(&self) -> &str {
        match self {
            Self::PutBlob { key, .. }
            | Self::PutMade { key, .. }
            | Self::PutBytes { key, .. }
            | Self::Copy { key, .. }
            | Self::Delete { key, .. } => key,
        }
    }

    /// The keys that it reads.
    pub fn sources(&self) -> Vec<&str> {
        match self {
            Self::PutBlob { base: Some(source), .. } | Self::Copy { source, .. } => vec![&source.key],
            _ => Vec::new(),
        }
    }

    /// What is expected at its key.
    pub(super) fn expected(&self) -> &Expected {
        match self {
            Self::PutBlob { expected, .. }
            | Self::PutMade { expected, .. }
            | Self::PutBytes { expected, .. }
            | Self::Copy { expected, .. }
            | Self::Delete { expected, .. } => expected,
        }
    }

    /// Whether nothing is left at its key.
    pub(super) fn is_delete(&self) -> bool {
        matches!(self, Self::Delete { .. })
    }
}

/// How an operation ended, when it did.
#[derive(Clone, Debug)]
pub enum Done {
    /// The object is in S3.
    Written {
        /// Its ETag.
        etag: ETag,
        /// Its version.
        version: Option<String>,
        /// Its length in bytes.
        size_bytes: u64,
        /// For `PutBlob` and `PutMade`: the generation's number.
        through: Seq,
        /// For `PutBlob` and `PutMade`: the digest of its content, where it was computed.
        digest: Option<Vec<u8>>,
    },
    /// The object is gone (or was).
    Deleted,
    /// Another object is there than was expected: `None`, nothing is. Nothing was changed.
    Conflict(Option<Box<Head>>),
    /// The source of a copy, or the base of the parts, is gone or another object now.
    SourceChanged,
}

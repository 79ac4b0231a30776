//! Batches: the one way to change names and blobs together.
//!
//! What lives here: [`Batch`] and [`BlobChange`]. `blob/apply.rs` does what they say.
//!
//! Invariant: a batch is one atomic batch of the log, so after a crash all of it is there or nothing.

use std::ops::Range;

use bytes::Bytes;

use super::jobs::JobChange;
use crate::base::id::{BlobId, OwnerId, Seq};
use crate::store::meta::{Change, Key, Row};

/// Changes that happen together or not at all: rows, new blobs, lengths, removals, clean-through. One atomic batch of the log.
#[derive(Default)]
pub struct Batch {
    /// Row changes, one `Name` record.
    pub changes: Vec<Change>,
    /// Blob changes, one record each.
    pub blobs: Vec<BlobChange>,
    /// Edits of job rows, by subject. They are made to the latest rows.
    pub jobs: Vec<(u64, JobChange)>,
}

/// A change of a blob that is not data.
#[derive(Clone, Debug)]
pub enum BlobChange {
    /// A new blob: empty `source` and 0 length for one without remote bytes. `id` is from [`BlobStore::new_blob_id`](super::BlobStore::new_blob_id).
    Create {
        /// Its id.
        id: BlobId,
        /// Whose.
        owner: OwnerId,
        /// Length in bytes, all of it remote.
        len_bytes: u64,
        /// As the layout encodes it.
        source: Bytes,
    },
    /// Truncate or extend.
    SetLength {
        /// Which.
        id: BlobId,
        /// To, in bytes.
        len_bytes: u64,
    },
    /// The range reads as zeros.
    Discard {
        /// Which.
        id: BlobId,
        /// What; cut at the length.
        range: Range<u64>,
    },
    /// All of it is gone; generations of it stay readable until they are dropped.
    Remove {
        /// Which.
        id: BlobId,
    },
    /// S3 has everything up to `through`, and more precisely has it as `source`.
    CleanThrough {
        /// Which.
        id: BlobId,
        /// The generation's number.
        through: Seq,
        /// The generation's length: what S3 now has.
        len_bytes: u64,
        /// As the layout encodes it.
        source: Bytes,
    },
    /// The same bytes are elsewhere too (the object was copied to another key). Nothing, where the blob reads from another source by now.
    Rebase {
        /// Which.
        id: BlobId,
        /// The source that it is to read from no more.
        instead_of: Bytes,
        /// As the layout encodes it.
        source: Bytes,
    },
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a row's after-image.
    pub fn put(&mut self, row: Row) -> &mut Self {
        self.changes.push(Change::Put(row));
        self
    }

    /// Removes a row.
    pub fn drop(&mut self, key: Key) -> &mut Self {
        self.changes.push(Change::Drop(key));
        self
    }

    /// Adds a blob change.
    pub fn blob(&mut self, change: BlobChange) -> &mut Self {
        self.blobs.push(change);
        self
    }

    /// Adds an edit of a job's row.
    pub fn job(&mut self, subject: u64, change: JobChange) -> &mut Self {
        self.jobs.push((subject, change));
        self
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.blobs.is_empty() && self.jobs.is_empty()
    }

    /// Adds all of another.
    pub fn extend(&mut self, other: Self) {
        self.changes.extend(other.changes);
        self.blobs.extend(other.blobs);
        self.jobs.extend(other.jobs);
    }
}

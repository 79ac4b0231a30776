//! The metadata: SQLite as the log's indexed checkpoint of names and states.
//!
//! What lives here: [`Meta`], the row types (`meta/rows.rs`), their codec for the log (`meta/codec.rs`), the overlay of
//! what is not applied yet (`meta/overlay.rs`), and two back ends: `meta/sqlite.rs` (sqlx; the only SQL of the program)
//! and `meta/memory.rs` (for simulated worlds; it forgets, at a simulated power loss, what a real database may forget).
//!
//! How a change gets in: its maker encodes [`Change`]s into a `Name` record of the log, appends it, and hands the changes
//! to [`Meta::stage`] with the record's number, in the order of the numbers. From then on every read sees them. Later
//! [`Meta::apply`] writes everything staged up to a number, together with pages, blob rows and the checkpoint, in one
//! transaction.
//!
//! Invariants:
//! 1. Reads see what is staged, at once, by point and by range; a change is never half seen.
//! 2. What is staged and not applied is pinned in memory. What is applied is cached (moka) and may be evicted, and is read
//!    again from the database: a warm point read is synchronous and never touches SQLite.
//! 3. `applied_seq` and the checkpoint are stored in the transaction that applies; the caller made the log durable up to
//!    there before. Staging a number at or below `applied_seq` does nothing, so replay is idempotent.
//! 4. Read transactions never span an await of the caller.
//! 5. A database that is damaged or of a newer version is refused, with what to do, and never written to.

pub mod rows;

use std::path::PathBuf;

use crate::base::id::{BlobId, NodeId, OwnerId, Seq};
use crate::store::log::Position;
pub use rows::*;

/// One row set to its after-image, or gone. Encoded by `codec.rs`, which carries a version.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Insert or replace by key.
    Put(Row),
    /// Remove by key; absent is fine.
    Drop(Key),
}

/// Everything that one transaction makes the database know.
#[derive(Clone, Debug, Default)]
pub struct Checkpoint {
    /// Where the log's replay starts from now on.
    pub position: Position,
    /// Apply everything staged up to this number.
    pub applied: Seq,
    /// Blob rows that changed since the last checkpoint; `None` removes the row and all pages.
    pub blobs: Vec<(BlobId, Option<BlobRow>)>,
    /// Pages of extent maps that changed; `None` removes the page.
    pub pages: Vec<(BlobId, u64, Option<Vec<u8>>)>,
}

/// Where the database is.
#[derive(Clone, Debug)]
pub enum Place {
    /// A file (and its `-wal`, `-shm`).
    File(PathBuf),
    /// In memory, for simulated worlds.
    Memory(std::sync::Arc<MemoryDatabase>),
}

/// The database of a simulated world: outlives the [`Meta`]s that are opened on it. `crash(seed)` makes it forget any
/// suffix of the transactions since the last durable one.
#[derive(Debug, Default)]
pub struct MemoryDatabase {
    _private: (),
}

/// Why the metadata refused.
#[derive(Clone, Debug, thiserror::Error)]
pub enum MetaError {
    /// The database cannot be used as it is; what to do is in the words. Nothing was changed.
    #[error("{0}")]
    Refused(String),
    /// The disk is full or fails.
    #[error("the metadata database failed: {0}")]
    Failed(String),
}

/// The metadata. Shared by reference.
pub struct Meta {
    _private: (),
}

#[allow(unused_variables, clippy::unused_async)]
impl Meta {
    /// Opens, or creates with its migrations.
    ///
    /// # Errors
    /// `Refused`, `Failed`.
    pub async fn open(place: Place) -> Result<Self, MetaError> {
        todo!()
    }

    /// The checkpoint's position, the number up to which changes are applied.
    pub fn checkpoint(&self) -> (Position, Seq) {
        todo!()
    }

    /// Makes changes visible. `seq` is higher than at any call before (else: at or below `applied_seq`, nothing happens).
    pub fn stage(&self, seq: Seq, changes: Vec<Change>) {
        todo!()
    }

    /// How many bytes are pinned by staged changes (about).
    pub fn staged_bytes(&self) -> u64 {
        todo!()
    }

    /// One transaction. With `durable`, returns when it survives power loss; then everything before does too.
    ///
    /// # Errors
    /// `Failed`: nothing of it is applied, everything stays staged.
    pub async fn apply(&self, checkpoint: Checkpoint, durable: bool) -> Result<(), MetaError> {
        todo!()
    }

    /// A point read from the overlay or the cache. `None`: not in memory, ask [`Self::get`].
    pub fn try_get(&self, key: &Key) -> Option<Option<Row>> {
        todo!()
    }

    /// A point read.
    ///
    /// # Errors
    /// `Failed`.
    pub async fn get(&self, key: &Key) -> Result<Option<Row>, MetaError> {
        todo!()
    }

    /// Entries of a directory with a cookie above `after`, ordered by cookie, at most `limit`.
    ///
    /// # Errors
    /// `Failed`.
    pub async fn entries(&self, parent: NodeId, after: u64, limit: usize) -> Result<Vec<EntryRow>, MetaError> {
        todo!()
    }

    /// Entries (names) of a node, at most `limit`: more than one for hard links.
    ///
    /// # Errors
    /// `Failed`.
    pub async fn names_of(&self, node: NodeId, limit: usize) -> Result<Vec<EntryRow>, MetaError> {
        todo!()
    }

    /// Objects that belong to a node.
    ///
    /// # Errors
    /// `Failed`.
    pub async fn objects_of(&self, node: NodeId) -> Result<Vec<ObjectRow>, MetaError> {
        todo!()
    }

    /// Objects of an owner whose key is at or after `from` and begins with `prefix`, ordered by key, at most `limit`.
    ///
    /// # Errors
    /// `Failed`.
    pub async fn objects(&self, owner: OwnerId, prefix: &str, from: &str, limit: usize) -> Result<Vec<ObjectRow>, MetaError> {
        todo!()
    }

    /// All jobs of the upload queue, ordered by `since_ns`. Called at start, and by `status`.
    ///
    /// # Errors
    /// `Failed`.
    pub async fn jobs(&self, owner: OwnerId) -> Result<Vec<JobRow>, MetaError> {
        todo!()
    }

    /// All moves of an owner (background renames of directories), oldest first.
    ///
    /// # Errors
    /// `Failed`.
    pub async fn moves(&self, owner: OwnerId) -> Result<Vec<MoveRow>, MetaError> {
        todo!()
    }

    /// Extended attributes of a node, ordered by name.
    ///
    /// # Errors
    /// `Failed`.
    pub async fn xattrs(&self, node: NodeId) -> Result<Vec<XattrRow>, MetaError> {
        todo!()
    }

    /// Nodes of an owner that have no name any more but are not removed yet (they were open when the gateway died).
    ///
    /// # Errors
    /// `Failed`.
    pub async fn orphans(&self, owner: OwnerId) -> Result<Vec<NodeRow>, MetaError> {
        todo!()
    }

    /// All owners.
    ///
    /// # Errors
    /// `Failed`.
    pub async fn owners(&self) -> Result<Vec<OwnerRow>, MetaError> {
        todo!()
    }

    /// Node and object counts of an owner, for `statfs` and `status`.
    ///
    /// # Errors
    /// `Failed`.
    pub async fn counts(&self, owner: OwnerId) -> Result<Counts, MetaError> {
        todo!()
    }

    /// A blob's row as of the last checkpoint. Blob rows and pages are not staged: the blob store holds what is newer.
    ///
    /// # Errors
    /// `Failed`.
    pub async fn blob(&self, blob: BlobId) -> Result<Option<BlobRow>, MetaError> {
        todo!()
    }

    /// One page of a blob's extent map as of the last checkpoint.
    ///
    /// # Errors
    /// `Failed`.
    pub async fn page(&self, blob: BlobId, page: u64) -> Result<Option<Vec<u8>>, MetaError> {
        todo!()
    }

    /// Blob rows with dirty bytes as of the last checkpoint, at most `limit` with an id above `after`.
    ///
    /// # Errors
    /// `Failed`.
    pub async fn dirty_blobs(&self, after: BlobId, limit: usize) -> Result<Vec<(BlobId, BlobRow)>, MetaError> {
        todo!()
    }

    /// All blob ids above `after` with rows, at most `limit`: for the accounting at start and `check`.
    ///
    /// # Errors
    /// `Failed`.
    pub async fn blobs(&self, after: BlobId, limit: usize) -> Result<Vec<(BlobId, BlobRow)>, MetaError> {
        todo!()
    }
}

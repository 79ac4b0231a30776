//! The seam between [`Meta`](super::Meta) and what keeps its rows: SQLite, or memory in simulated worlds.
//!
//! What a back end promises: every read sees one moment between transactions; a read that begins after `apply` returned
//! sees what it applied; a transaction is applied whole or not at all, also over a crash; `durable` covers all before it.

use std::sync::Arc;

use async_trait::async_trait;

use super::horizon::Highest;
use super::order::{Place, Range};
use super::tally::Tallies;
use super::{BlobRow, Checkpoint, Key, MetaError, Position, Row};
use crate::base::id::{BlobId, Seq};

/// A row set (or `None`: gone) by its key.
pub(super) type Staged = (Key, Option<Arc<Row>>);

/// What a database knows when it is opened.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    pub position: Position,
    pub applied: Seq,
    pub tallies: Tallies,
    pub highest: Highest,
}

/// Keeps rows.
#[async_trait]
pub(super) trait Backend: Send + Sync + 'static {
    /// One transaction: `changes` (each key once), then the checkpoint. Returns how much each owner has after it.
    async fn apply(&self, changes: &[Staged], checkpoint: &Checkpoint, durable: bool) -> Result<Tallies, MetaError>;

    async fn get(&self, key: &Key) -> Result<Option<Row>, MetaError>;

    /// The rows of a range at or after `from`, in its order, at most `limit`.
    async fn range(&self, range: &Range, from: &Place, limit: usize) -> Result<Vec<Arc<Row>>, MetaError>;

    async fn blob(&self, blob: BlobId) -> Result<Option<BlobRow>, MetaError>;

    async fn page(&self, blob: BlobId, page: u64) -> Result<Option<Vec<u8>>, MetaError>;

    /// Blob rows with an id above `after`, in the order of ids, at most `limit`.
    async fn blobs(&self, after: BlobId, limit: usize, only_dirty: bool) -> Result<Vec<(BlobId, BlobRow)>, MetaError>;

    /// `Some` where the disk has too little room to go on writing for long: until so many bytes are free.
    fn below_floor(&self) -> Option<u64>;

    /// Looks through everything for damage.
    async fn check(&self) -> Result<(), MetaError>;

    /// Everything is written and closed; later calls may fail.
    async fn close(&self);
}

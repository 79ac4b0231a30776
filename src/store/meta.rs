//! The metadata: SQLite as the log's indexed checkpoint of names and states.
//!
//! What lives here: [`Meta`], the row types (`meta/rows.rs`), their codec for the log (`meta/codec.rs`), the overlay of
//! what is not applied yet (`meta/overlay.rs`), the cache of what is (`meta/cache.rs`), what the database need not be asked
//! (`meta/horizon.rs`), reads of many rows in order (`meta/range.rs`), and two back ends: `meta/sqlite.rs` (sqlx; the only SQL of the program)
//! and `meta/memory.rs` (for simulated worlds; it forgets, at a simulated power loss, what a real database may forget).
//!
//! How a change gets in: its maker encodes [`Change`]s into a `Name` record of the log, appends it, and hands the changes
//! to [`Meta::stage`] with the record's number, in the order of the numbers. From then on every read sees them. Later
//! [`Meta::apply`] writes everything staged up to a number, together with pages, blob rows and the checkpoint, in one
//! transaction.
//!
//! Invariants:
//! 1. Reads see what is staged, at once, by point and by range; a change is never half seen.
//! 2. What is staged and not applied is pinned in memory. What is applied is cached (quick_cache) and may be evicted, and is read
//!    again from the database: a warm point read is synchronous and never touches SQLite.
//! 3. `applied_seq` and the checkpoint are stored in the transaction that applies; the caller made the log durable up to
//!    there before. Staging a number at or below `applied_seq` does nothing, so replay is idempotent.
//! 4. Read transactions never span an await of the caller.
//! 5. A database that is damaged or of a newer version is refused, with what to do, and never written to.

pub mod codec;
pub mod rows;

mod backend;
mod ballast;
mod cache;
mod horizon;
mod memory;
mod order;
mod overlay;
mod range;
mod sqlite;
mod tally;

#[cfg(test)]
mod arbitrary;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::RwLock;

use crate::base::id::{BlobId, OwnerId, Position, Seq};
use backend::{Backend, Loaded, Staged};
use cache::RowCache;
use horizon::Horizon;
pub use memory::MemoryDatabase;
use overlay::{DROP_KEYS_MAX, Overlay};
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
    Memory(Arc<MemoryDatabase>),
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

/// What a point read told, and when.
#[derive(Clone, Debug)]
pub struct Stored {
    epoch: u64,
    row: Option<Row>,
}

/// The metadata. Shared by reference.
///
/// Lock order: `applying`, then `overlay`, then what the back end has of its own.
pub struct Meta {
    backend: Arc<dyn Backend>,
    /// Held through an apply: one at a time.
    applying: tokio::sync::Mutex<()>,
    overlay: RwLock<Overlay>,
    cache: RowCache,
    /// The applied checkpoint's position.
    position: RwLock<Position>,
    /// See [`Self::is_below_floor`].
    below_floor: AtomicBool,
}

impl Meta {
    /// Opens, or creates with its migrations.
    ///
    /// # Errors
    /// `Refused`, `Failed`.
    pub async fn open(place: Place) -> Result<Self, MetaError> {
        let (backend, loaded): (Arc<dyn Backend>, Loaded) = match place {
            Place::File(path) => {
                let (database, loaded) = sqlite::Database::open(&path).await?;
                (Arc::new(database), loaded)
            }
            Place::Memory(database) => {
                let loaded = database.load();
                (database, loaded)
            }
        };
        Ok(Self::new(backend, loaded))
    }

    fn new(backend: Arc<dyn Backend>, loaded: Loaded) -> Self {
        Self {
            backend,
            applying: tokio::sync::Mutex::new(()),
            overlay: RwLock::new(Overlay::new(loaded.applied, loaded.tallies, Horizon::new(loaded.highest))),
            cache: RowCache::new(),
            position: RwLock::new(loaded.position),
            below_floor: AtomicBool::new(false),
        }
    }

    /// The checkpoint's position, the number up to which changes are applied.
    pub fn checkpoint(&self) -> (Position, Seq) {
        let overlay = self.overlay.read();
        (*self.position.read(), overlay.applied)
    }

    /// Makes changes visible. `seq` is higher than at any call before (else: at or below `applied_seq`, nothing happens).
    /// Replay may come in any order, and twice: the highest number of a row wins, a number that is staged stays as it is.
    pub fn stage(&self, seq: Seq, changes: Vec<Change>) {
        let staged = changes.into_iter().map(|change| match change {
            Change::Put(row) => (row.key(), Some(Arc::new(row))),
            Change::Drop(key) => (key, None),
        });
        let batch: overlay::Batch = staged.collect::<Vec<Staged>>().into();
        self.overlay.write().stage(seq, batch, |key| self.cache.get(key).flatten());
    }

    /// How many bytes are pinned by staged changes (about).
    pub fn staged_bytes(&self) -> u64 {
        self.overlay.read().bytes()
    }

    /// One transaction. With `durable`, returns when it survives power loss; then everything before does too.
    ///
    /// # Errors
    /// `Failed`: nothing of it is applied, everything stays staged.
    pub async fn apply(&self, checkpoint: Checkpoint, durable: bool) -> Result<(), MetaError> {
        let _one = self.applying.lock().await;
        let mut checkpoint = checkpoint;
        let batches = {
            let overlay = self.overlay.read();
            checkpoint.applied = checkpoint.applied.max(overlay.applied);
            overlay.batches(checkpoint.applied)
        };
        let changes = overlay::fold(&batches);
        self.overlay.write().horizon.raise(changes.iter().filter_map(|(_, row)| row.as_deref()), &checkpoint);
        let counted = self.backend.apply(&changes, &checkpoint, durable).await?;
        {
            let mut overlay = self.overlay.write();
            overlay.committed(checkpoint.applied);
            *self.position.write() = checkpoint.position;
        }
        for portion in changes.chunks(DROP_KEYS_MAX) {
            let mut overlay = self.overlay.write();
            for (key, row) in portion {
                self.cache.applied(key, row.clone());
                overlay.drop_applied(key, row.as_ref());
            }
        }
        self.overlay.write().counted(counted);
        Ok(())
    }

    /// A point read from the overlay or the cache. `None`: not in memory, ask [`Self::get`].
    pub fn try_get(&self, key: &Key) -> Option<Option<Row>> {
        let row = self.in_memory(key)?;
        Some(row.as_deref().cloned())
    }

    /// As [`Self::try_get`], without a copy of the row.
    pub fn in_memory(&self, key: &Key) -> Option<Option<Arc<Row>>> {
        let overlay = self.overlay.read();
        match overlay.get(key) {
            Some(staged) => Some(staged.cloned()),
            None if overlay.horizon.is_beyond(key) => Some(None),
            None => {
                drop(overlay);
                self.cache.get(key)
            }
        }
    }

    /// A point read.
    ///
    /// # Errors
    /// `Failed`.
    pub async fn get(&self, key: &Key) -> Result<Option<Row>, MetaError> {
        loop {
            let epoch = self.overlay.read().epoch;
            if let Some(row) = self.try_get(key) {
                return Ok(row);
            }
            let row = self.backend.get(key).await?.map(Arc::new);
            let overlay = self.overlay.read();
            if overlay.epoch == epoch {
                if let Some(staged) = overlay.get(key) {
                    return Ok(staged.map(|row| Row::clone(row)));
                }
                self.cache.insert(key.clone(), row.clone());
                return Ok(row.as_deref().cloned());
            }
        }
    }

    /// A point read whose answer can be brought up to date later, without waiting: see [`Self::latest`].
    ///
    /// # Errors
    /// `Failed`.
    pub async fn load(&self, key: &Key) -> Result<Stored, MetaError> {
        loop {
            let epoch = self.overlay.read().epoch;
            let row = self.get(key).await?;
            if self.overlay.read().epoch == epoch {
                return Ok(Stored { epoch, row });
            }
        }
    }

    /// The latest row of a key that was read before. `None`: it has to be read again.
    pub fn latest(&self, key: &Key, stored: &Stored) -> Option<Option<Row>> {
        // One look at the overlay for both: what was read in this epoch is the database's as long as nothing is staged.
        let overlay = self.overlay.read();
        match overlay.get(key) {
            Some(staged) => Some(staged.map(|row| Row::clone(row))),
            None => (overlay.epoch == stored.epoch).then(|| stored.row.clone()),
        }
    }

    /// Node and object counts of an owner, for `statfs` and `status`. Exact for what is applied; a staged row that
    /// replaces one which was not in memory counts as new until it is applied.
    ///
    /// # Errors
    /// `Failed`.
    #[allow(clippy::unused_async, reason = "a back end may have to count")]
    pub async fn counts(&self, owner: OwnerId) -> Result<Counts, MetaError> {
        Ok(self.overlay.read().counts(owner))
    }

    /// A blob's row as of the last checkpoint. Blob rows and pages are not staged: the blob store holds what is newer.
    ///
    /// # Errors
    /// `Failed`.
    pub async fn blob(&self, blob: BlobId) -> Result<Option<BlobRow>, MetaError> {
        if self.overlay.read().horizon.is_blob_beyond(blob) {
            return Ok(None);
        }
        self.backend.blob(blob).await
    }

    /// One page of a blob's extent map as of the last checkpoint.
    ///
    /// # Errors
    /// `Failed`.
    pub async fn page(&self, blob: BlobId, page: u64) -> Result<Option<Vec<u8>>, MetaError> {
        if self.overlay.read().horizon.is_blob_beyond(blob) {
            return Ok(None);
        }
        self.backend.page(blob, page).await
    }

    /// Blob rows with dirty bytes as of the last checkpoint, at most `limit` with an id above `after`.
    ///
    /// # Errors
    /// `Failed`.
    pub async fn dirty_blobs(&self, after: BlobId, limit: usize) -> Result<Vec<(BlobId, BlobRow)>, MetaError> {
        self.backend.blobs(after, limit, true).await
    }

    /// All blob ids above `after` with rows, at most `limit`: for the accounting at start and `check`.
    ///
    /// # Errors
    /// `Failed`.
    pub async fn blobs(&self, after: BlobId, limit: usize) -> Result<Vec<(BlobId, BlobRow)>, MetaError> {
        self.backend.blobs(after, limit, false).await
    }

    /// Looks at the disk, which may take a moment: `Some` where it has so little room that nothing more should be taken on until so many
    /// bytes are free. What it found is what [`Self::is_below_floor`] says from then on.
    pub fn look_at_disk(&self) -> Option<u64> {
        let wanted_bytes = self.backend.below_floor();
        self.below_floor.store(wanted_bytes.is_some(), Ordering::Relaxed);
        wanted_bytes
    }

    /// Whether the disk had too little room when somebody last looked.
    pub fn is_below_floor(&self) -> bool {
        self.below_floor.load(Ordering::Relaxed)
    }

    /// Looks through the whole database for damage, which a start does only where that is quick.
    ///
    /// # Errors
    /// `Refused` where there is any; `Failed`.
    pub async fn check(&self) -> Result<(), MetaError> {
        self.backend.check().await
    }

    /// Closes the database, so that the next start need not look for damage. What is staged is not applied.
    pub async fn close(&self) {
        let _one = self.applying.lock().await;
        self.backend.close().await;
    }
}

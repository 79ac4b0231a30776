//! Which blobs and pages are in memory: loading them from the metadata, and forgetting them within `memory_bytes`.
//!
//! Invariants: a blob is in the table once; nobody loads a row or a page while another does; what changed since the last
//! checkpoint, what a checkpoint under way stores, and what has generations is never forgotten.

use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::RwLock;

use super::map::Extent;
use super::page::{self, HEAD_PAGE, Head};
use super::state::{Blob, State};
use super::{BlobError, BlobStore};
use crate::base::id::{BlobId, IdMap, OwnerId};
use crate::store::meta::{BlobRow, MetaError};

/// Parts of the table with a lock each.
const SHARDS: usize = 64;
/// What a loaded blob takes besides extents, in bytes (about).
const BLOB_BYTES: u64 = 640;

/// All loaded blobs.
pub struct Table {
    shards: Vec<Shard>,
    /// How many blobs.
    len: AtomicUsize,
}

#[derive(Default)]
struct Shard {
    blobs: RwLock<IdMap<BlobId, Arc<Blob>>>,
    loading: tokio::sync::Mutex<()>,
}

impl Table {
    pub fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| Shard::default()).collect(), len: AtomicUsize::new(0) }
    }

    fn shard(&self, id: BlobId) -> &Shard {
        &self.shards[(id.0 % SHARDS as u64) as usize]
    }

    /// A loaded blob, removed or not.
    pub fn get(&self, id: BlobId) -> Option<Arc<Blob>> {
        self.shard(id).blobs.read().get(&id).cloned()
    }

    /// Adds a blob, unless it is there. Returns the one that is there then.
    pub fn insert(&self, blob: Arc<Blob>) -> Arc<Blob> {
        let mut blobs = self.shard(blob.id).blobs.write();
        let entry = blobs.entry(blob.id);
        if matches!(entry, Entry::Vacant(_)) {
            self.len.fetch_add(1, Ordering::Relaxed);
        }
        entry.or_insert(blob).clone()
    }

    /// Forgets a blob if nobody uses it and `may` agrees.
    pub fn forget(&self, id: BlobId, may: impl FnOnce(&State) -> bool) {
        let mut blobs = self.shard(id).blobs.write();
        if let Some(blob) = blobs.get(&id)
            && Arc::strong_count(blob) == 1
            && may(&blob.state.lock())
        {
            blobs.remove(&id);
            self.len.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn ids(&self, shard: usize) -> Vec<BlobId> {
        self.shards[shard].blobs.read().keys().copied().collect()
    }
}

fn damaged(what: &str, id: BlobId) -> BlobError {
    BlobError::Meta(MetaError::Failed(format!("the {what} of blob {id} is damaged in the database")))
}

impl BlobStore {
    /// A blob that is not removed.
    pub(super) async fn blob(&self, id: BlobId) -> Result<Arc<Blob>, BlobError> {
        let blob = match self.table.get(id) {
            Some(blob) => blob,
            None => self.load_blob(id).await?,
        };
        if blob.state.lock().removed {
            return Err(BlobError::NotFound);
        }
        blob.recent.store(true, Ordering::Relaxed);
        Ok(blob)
    }

    async fn load_blob(&self, id: BlobId) -> Result<Arc<Blob>, BlobError> {
        let _loading = self.table.shard(id).loading.lock().await;
        if let Some(blob) = self.table.get(id) {
            return Ok(blob);
        }
        let row: BlobRow = self.meta.blob(id).await?.ok_or(BlobError::NotFound)?;
        let head = match self.meta.page(id, HEAD_PAGE).await? {
            Some(bytes) => page::decode_head(&bytes).ok_or_else(|| damaged("head", id))?,
            None => Head::default(),
        };
        let blob = Blob::new(id, State::load(row, head));
        self.evict_if_needed();
        Ok(self.table.insert(blob))
    }

    /// See [`BlobStore::set_hint`].
    pub(super) fn note_name(&self, id: BlobId, name: &[u8]) {
        let Some(blob) = self.table.get(id) else { return };
        let owner = {
            let _barrier = self.barrier.read();
            let mut state = blob.state.lock();
            if state.removed || state.row().hint == name {
                return;
            }
            self.change(id, &mut state, |state, _| state.set_hint(name));
            state.row().owner
        };
        *blob.name.lock() = Some((owner, name.to_vec()));
    }

    /// The name for the log's footers. The log asks while it appends: no lock of a blob's state is taken.
    pub(super) fn name_of(&self, id: BlobId) -> Option<(OwnerId, Vec<u8>)> {
        self.table.get(id)?.name.lock().clone()
    }

    /// Loads pages of a blob that are not in memory.
    pub(super) async fn load_pages(&self, blob: &Blob, pages: &[u64]) -> Result<(), BlobError> {
        if pages.is_empty() {
            return Ok(());
        }
        self.evict_if_needed();
        let _loading = blob.loading.lock().await;
        for &number in pages {
            if blob.state.lock().missing_page(number) {
                let map = match self.meta.page(blob.id, number).await? {
                    Some(bytes) => page::decode_page(number, &bytes).ok_or_else(|| damaged("extent map", blob.id))?,
                    None => return Err(damaged("extent map", blob.id)),
                };
                self.count_extents(map.len() as i64);
                blob.state.lock().put_page(number, map);
            }
        }
        Ok(())
    }

    /// Extents more (or fewer) in memory.
    pub(super) fn count_extents(&self, more: i64) {
        self.memory.fetch_add(more * size_of::<Extent>() as i64, Ordering::Relaxed);
    }

    /// Whether blobs and extents take more memory than they may.
    pub(super) fn is_memory_full(&self) -> bool {
        self.is_memory_full_by(1)
    }

    /// Whether they take more than so many times that.
    pub(super) fn is_memory_full_by(&self, factor: u64) -> bool {
        let blobs = self.table.len.load(Ordering::Relaxed) as u64 * BLOB_BYTES;
        u64::try_from(self.memory.load(Ordering::Relaxed)).unwrap_or(0) + blobs
            > self.settings.memory_bytes.saturating_mul(factor)
    }

    /// Forgets what was not used lately, in at most two rounds. What does not help is not tried again before the next checkpoint.
    fn evict_if_needed(&self) {
        if !self.is_memory_full() || self.eviction_waits.load(Ordering::Relaxed) {
            return;
        }
        for shard in (0..SHARDS).chain(0..SHARDS) {
            for id in self.table.ids(shard) {
                self.evict_one(id);
            }
            if !self.is_memory_full() {
                return;
            }
        }
        self.eviction_waits.store(true, Ordering::Relaxed);
        self.checkpoint_wanted.notify_one();
    }

    /// What was pinned until now may go.
    pub(super) fn evict_after_checkpoint(&self) {
        self.eviction_waits.store(false, Ordering::Relaxed);
        self.evict_if_needed();
    }

    /// One round over everything.
    #[cfg(test)]
    pub(super) fn evict_round(&self) {
        for id in (0..SHARDS).flat_map(|shard| self.table.ids(shard)) {
            self.evict_one(id);
        }
    }

    fn evict_one(&self, id: BlobId) {
        let Some(blob) = self.table.get(id) else { return };
        if blob.recent.swap(false, Ordering::Relaxed) {
            return;
        }
        let forgotten = blob.state.lock().evict_pages();
        self.count_extents(-(forgotten as i64));
        drop(blob);
        self.table.forget(id, State::is_evictable);
    }
}

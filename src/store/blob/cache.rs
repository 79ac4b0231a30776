//! Which blobs and pages are in memory: loading them from the metadata, and forgetting them within `memory_bytes`.
//!
//! Invariants: a blob is in the table once; nobody loads a row or a page while another does; what changed since the last
//! checkpoint, what a checkpoint under way stores, and what has generations is never forgotten.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::RwLock;

use super::map::Extent;
use super::page::{self, HEAD_PAGE, Head};
use super::state::{Blob, State};
use super::{BlobError, BlobStore};
use crate::base::id::{BlobId, OwnerId};
use crate::store::meta::{BlobRow, MetaError};

/// Parts of the table with a lock each.
const SHARDS: usize = 64;
/// What a loaded blob takes besides extents, in bytes (about).
const BLOB_BYTES: u64 = 640;

/// All loaded blobs.
pub struct Table {
    shards: Vec<Shard>,
}

#[derive(Default)]
struct Shard {
    blobs: RwLock<HashMap<BlobId, Arc<Blob>>>,
    loading: tokio::sync::Mutex<()>,
}

impl Table {
    pub fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| Shard::default()).collect() }
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
        self.shard(blob.id).blobs.write().entry(blob.id).or_insert(blob).clone()
    }

    /// Forgets a blob if nobody uses it and `may` agrees.
    pub fn forget(&self, id: BlobId, may: impl FnOnce(&State) -> bool) {
        let mut blobs = self.shard(id).blobs.write();
        if let Some(blob) = blobs.get(&id)
            && Arc::strong_count(blob) == 1
            && may(&blob.state.lock())
        {
            blobs.remove(&id);
        }
    }

    fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.blobs.read().len()).sum()
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
                self.extents.fetch_add(map.len() as i64, Ordering::Relaxed);
                blob.state.lock().put_page(number, map);
            }
        }
        Ok(())
    }

    /// About how much memory blobs and extents take, in bytes.
    fn memory_bytes(&self) -> u64 {
        let extents = u64::try_from(self.extents.load(Ordering::Relaxed)).unwrap_or(0);
        extents * size_of::<Extent>() as u64 + self.table.len() as u64 * BLOB_BYTES
    }

    /// Forgets what was not used lately until three quarters of the memory are in use: at most two rounds.
    pub(super) fn evict_if_needed(&self) {
        if self.memory_bytes() <= self.settings.memory_bytes {
            return;
        }
        let enough = self.settings.memory_bytes / 4 * 3;
        for shard in (0..SHARDS).chain(0..SHARDS) {
            for id in self.table.ids(shard) {
                self.evict_one(id);
            }
            if self.memory_bytes() <= enough {
                return;
            }
        }
    }

    fn evict_one(&self, id: BlobId) {
        let Some(blob) = self.table.get(id) else { return };
        if blob.recent.swap(false, Ordering::Relaxed) {
            return;
        }
        let forgotten = blob.state.lock().evict_pages();
        self.extents.fetch_sub(forgotten as i64, Ordering::Relaxed);
        drop(blob);
        self.table.forget(id, State::is_evictable);
    }
}

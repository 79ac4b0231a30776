//! Frozen generations: what an upload reads while writers go on.
//!
//! What lives here: [`Generation`], and how a blob is frozen and thawed. A generation costs nothing until somebody overwrites: then what was there is kept for it aside ([`super::kept`]).
//! Reading it is reading what is kept, and else the blob, which has the same bytes there.

use std::collections::hash_map::Entry;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::plan::Held;
use super::state::{Blob, State};
use super::{BlobError, BlobStore};
use crate::base::id::{BlobId, Seq};

/// Frozen bytes of a blob: those with numbers up to `seq`, whatever is written afterwards. Dropping it lets them go.
pub struct Generation {
    /// Everything up to this number.
    pub seq: Seq,
    /// Length in bytes.
    pub len_bytes: u64,
    /// `BlobInfo::modified_ns` then.
    pub modified_ns: i64,
    /// What S3 had then.
    pub source: Bytes,
    pub(super) id: u64,
    changed: Vec<Range<u64>>,
    store: Arc<BlobStore>,
    blob: Arc<Blob>,
}

impl Generation {
    /// The bytes of a range, cut at the length; fetched where they are remote.
    ///
    /// # Errors
    /// As [`BlobStore::read`].
    pub async fn read(&self, range: Range<u64>) -> Result<Vec<Bytes>, BlobError> {
        let range = range.start.min(self.len_bytes)..range.end.min(self.len_bytes);
        let plan = |state: &mut State| state.plan_frozen(self.id, range.clone());
        self.store.read_planned(&self.blob, plan).await
    }

    /// Where the stretches of a range are, cut at the length.
    ///
    /// # Errors
    /// `Meta`.
    pub async fn stretches(&self, range: Range<u64>) -> Result<Vec<(Range<u64>, Held)>, BlobError> {
        let range = range.start.min(self.len_bytes)..range.end.min(self.len_bytes);
        self.store.stretches_planned(&self.blob, range.start, |state| state.plan_frozen(self.id, range.clone())).await
    }

    /// The ranges, ordered and merged, that differ from what `source` has: dirty bytes, holes, and what lies past the remote
    /// length. The rest may be copied server-side.
    ///
    /// # Errors
    /// `Meta`.
    pub async fn changed(&self) -> Result<Vec<Range<u64>>, BlobError> {
        Ok(self.changed.clone())
    }
}

impl BlobStore {
    /// See [`BlobStore::freeze`].
    pub(super) async fn freeze_blob(self: &Arc<Self>, id: BlobId) -> Result<Generation, BlobError> {
        let blob = self.blob(id).await?;
        let generation = loop {
            let missing = match self.try_freeze(&blob)? {
                Ok(generation) => break generation,
                Err(missing) => missing,
            };
            self.load_pages(&blob, &missing).await?;
        };
        // If this fails the generation is dropped, and with that ends.
        self.log.commit().await?;
        Ok(generation)
    }

    fn try_freeze(self: &Arc<Self>, blob: &Arc<Blob>) -> Result<Result<Generation, Vec<u64>>, BlobError> {
        let _barrier = self.barrier.read();
        let mut state = blob.state.lock();
        if state.removed {
            return Err(BlobError::NotFound);
        }
        let missing = state.missing_dirty();
        if !missing.is_empty() {
            return Ok(Err(missing));
        }
        let id = self.next_generation.fetch_add(1, Ordering::Relaxed);
        let info = state.info();
        state.freeze(id);
        *self.frozen.lock().entry(blob.id).or_default() += 1;
        Ok(Ok(Generation {
            seq: info.modified_seq.max(info.clean_through),
            len_bytes: info.len_bytes,
            modified_ns: info.modified_ns,
            source: info.source,
            id,
            changed: state.changed(),
            store: self.clone(),
            blob: blob.clone(),
        }))
    }

    fn thaw(&self, blob: &Blob, id: u64) {
        {
            let mut state = blob.state.lock();
            let mut delta = state.delta();
            state.thaw(id, &mut delta);
            self.accounts.lock().book(&delta);
        }
        self.tell_space();
        let mut frozen = self.frozen.lock();
        if let Entry::Occupied(mut count) = frozen.entry(blob.id) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        self.store.thaw(&self.blob, self.id);
    }
}

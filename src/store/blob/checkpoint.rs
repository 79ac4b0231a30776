//! Checkpoints: what the log says up to a position, written into the metadata in one transaction.
//!
//! The picture is taken under the barrier's write side, in which nothing is appended and no map changes: dirty rows and
//! pages are shared then, copied only if somebody changes them meanwhile. The log is committed up to the position before the
//! metadata hears of it (invariant 6 of [`super`]). Until the transaction is done, what it stores stays in memory.
//!
//! After a flush failed, the log has written what was not durable to other places ([`crate::store::log::Log::resolve`]);
//! the maps follow here, under the same barrier, before the picture is taken.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::page::{self, HEAD_PAGE, Ledger};
use super::state::{Blob, Image};
use super::{BlobError, BlobStore};
use crate::base::id::{BlobId, Seq};
use crate::store::log::{LogError, LogId, Position};
use crate::store::meta::{Checkpoint, MetaError};

/// Where the accounts are stored: the blob and the page.
pub(super) const ACCOUNTS: (BlobId, u64) = (BlobId(0), 0);
/// Where the log's id is stored.
pub(super) const LOG_ID: (BlobId, u64) = (BlobId(0), 1);

/// From so many bytes of staged rows on their writers wait for a checkpoint.
pub(super) const BEHIND_BYTES: u64 = if cfg!(test) { 1 << 20 } else { 64 << 20 };
/// Where checkpoints fail, writers wait when maps take so many times the memory that they may.
const BEHIND_FACTOR: u64 = 2;
/// The longest that they wait.
const BEHIND_WAIT_MAX: Duration = Duration::from_secs(10);

/// Everything as it was at one moment.
struct Picture {
    /// The log's, from before the rest was looked at.
    verifier: u64,
    position: Position,
    applied: Seq,
    log: LogId,
    ledger: Ledger,
    images: Vec<(Arc<Blob>, Image)>,
}

/// Blobs whose picture is being stored. If that ends without success, also because nobody waits for it any more, what the
/// picture has is dirty again.
struct Flight<'a> {
    store: &'a BlobStore,
    blobs: Vec<Arc<Blob>>,
    stored: bool,
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.store.landed(std::mem::take(&mut self.blobs), self.stored);
    }
}

impl BlobStore {
    /// Makes a checkpoint. With `durable` it survives power loss.
    pub(super) async fn make_checkpoint(&self, durable: bool) -> Result<(), BlobError> {
        let made = self.try_checkpoint(durable).await;
        *self.checkpoint_failure.lock() = made.as_ref().err().map(ToString::to_string);
        if made.is_ok() {
            // Who waits in `keep_up` looks again.
            self.tell_space();
        }
        made
    }

    async fn try_checkpoint(&self, durable: bool) -> Result<(), BlobError> {
        let _one = self.checkpointing.lock().await;
        let picture = self.take_picture();
        let verifier = picture.verifier;
        let (checkpoint, blobs) = picture.into_checkpoint();
        let mut flight = Flight { store: self, blobs, stored: false };
        self.log.commit().await?;
        if self.log.verifier() != verifier {
            // A flush failed since the picture was taken: what it names was written again elsewhere.
            return Err(LogError::Flush("a flush failed while a checkpoint was made".to_owned()).into());
        }
        self.meta.apply(checkpoint, durable).await?;
        flight.stored = true;
        drop(flight);
        self.changes.store(0, Ordering::Relaxed);
        self.evict_after_checkpoint();
        Ok(())
    }

    /// Holds up a writer while more is pinned in memory than may be, since checkpoints fail or take long.
    pub(super) async fn keep_up(&self, deadline: Instant) -> Result<(), BlobError> {
        if !self.is_behind() {
            return Ok(());
        }
        let deadline = deadline.min(Instant::now() + BEHIND_WAIT_MAX);
        loop {
            let mut space = self.space.subscribe();
            if !self.is_behind() {
                return Ok(());
            }
            self.checkpoint_wanted.notify_one();
            if Self::wait_a_while(&mut space, deadline).await.is_err() {
                let failure = self.checkpoint_failure.lock().clone();
                let reason = failure.unwrap_or_else(|| "it does not keep up".to_owned());
                return Err(MetaError::Failed(format!("too many changes wait for the database: {reason}")).into());
            }
        }
    }

    fn is_behind(&self) -> bool {
        let maps = self.is_memory_full_by(BEHIND_FACTOR) && self.checkpoint_failure.lock().is_some();
        maps || self.meta.staged_bytes() > BEHIND_BYTES
    }

    fn take_picture(&self) -> Picture {
        let _barrier = self.barrier.write();
        let verifier = self.log.verifier();
        self.follow_log();
        let dirty = std::mem::take(&mut *self.dirty.lock());
        let blobs = dirty.into_iter().filter_map(|id| self.table.get(id));
        let image = |blob: Arc<Blob>| {
            let image = blob.state.lock().image();
            (blob, image)
        };
        let images = blobs.map(image).collect();
        let (position, applied) = (self.log.written(), self.log.last_seq());
        Picture { verifier, position, applied, log: self.log.id(), ledger: self.accounts.lock().ledger(), images }
    }

    /// The transaction is done, or failed.
    fn landed(&self, blobs: Vec<Arc<Blob>>, stored: bool) {
        for blob in blobs {
            let _barrier = self.barrier.read();
            let mut state = blob.state.lock();
            state.landed(stored);
            if !stored && !state.listed {
                state.listed = true;
                self.dirty.lock().insert(blob.id);
            }
            let gone = state.removed && state.is_evictable();
            let id = blob.id;
            drop(state);
            drop(blob);
            if gone {
                self.table.forget(id, |state| state.removed && state.is_evictable());
            }
        }
    }

    /// Lets the maps name the places to which the log moved what a failed flush endangered. Nothing is appended meanwhile.
    pub(super) fn follow_log(&self) {
        let verifier = self.log.verifier();
        if self.followed.swap(verifier, Ordering::AcqRel) == verifier {
            return;
        }
        // What was not durable is above the last checkpoint, so only blobs that changed since are concerned, and frozen ones.
        let ids: BTreeSet<BlobId> = self.dirty.lock().iter().copied().chain(self.frozen.lock().keys().copied()).collect();
        for id in ids {
            let Some(blob) = self.table.get(id) else { continue };
            let mut state = blob.state.lock();
            self.change(id, &mut state, |state, delta| state.follow(|location| self.log.resolve(location), delta));
        }
    }
}

impl Picture {
    fn into_checkpoint(self) -> (Checkpoint, Vec<Arc<Blob>>) {
        let mut checkpoint = Checkpoint { position: self.position, applied: self.applied, ..Checkpoint::default() };
        checkpoint.pages.push((ACCOUNTS.0, ACCOUNTS.1, Some(page::encode_ledger(&self.ledger))));
        checkpoint.pages.push((LOG_ID.0, LOG_ID.1, Some(self.log.to_vec())));
        let mut blobs = Vec::with_capacity(self.images.len());
        for (blob, image) in self.images {
            if image.row.is_some() {
                checkpoint.pages.push((blob.id, HEAD_PAGE, Some(page::encode_head(&image.head))));
            }
            for (number, map) in image.pages {
                checkpoint.pages.push((blob.id, number, map.map(|map| page::encode_page(number, &map))));
            }
            checkpoint.blobs.push((blob.id, image.row));
            blobs.push(blob);
        }
        (checkpoint, blobs)
    }
}

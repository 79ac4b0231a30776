//! Blobs: mutable bytes under files, volumes and tapes; cached, logged and written back.
//!
//! What lives here: [`BlobStore`], which owns the log, the metadata's staging and every blob's extent map; [`Layout`], how a blob's bytes are
//! found in S3. `blob/batch.rs` has [`Batch`], the one way to change names and blobs together; `blob/freeze.rs` [`Generation`], frozen bytes
//! for an upload. Pure: `blob/map.rs` is the extent map, `blob/kept.rs` what a generation keeps aside, `blob/page.rs` what a
//! checkpoint stores of both blob and map, `blob/record.rs` bodies in the log, `blob/portion.rs` who may have how many dirty
//! bytes, `blob/read_ahead.rs`; `blob/pressure.rs` says who should upload sooner. `blob/state.rs` is one blob and what each record does to it; `blob/cache.rs` which blobs and
//! pages are in memory. One file per verb: `blob/{write,apply,jobs,read,fetch,freeze,detach,checkpoint,reclaim,recover,salvage}.rs`.
//!
//! The extent map says for every byte of a blob where it is: in the log (an extent with location and number), a hole (zeros),
//! or, where no extent covers it, in S3 below `remote_len_bytes` and zero from there on. A byte in the log is dirty iff its
//! number is above the blob's clean-through; clean ones may be dropped. Maps are paged by [`PAGE_SPAN_BYTES`] of blob offset;
//! pages and rows that changed since the last checkpoint are pinned, others are evicted within `memory_bytes`.
//!
//! Invariants:
//! 1. *Acknowledged is recoverable*: a write that returned survives the process; after `sync` it survives power loss.
//! 2. The map changes under the blob's lock in the order of the numbers, after the record is in the log.
//! 3. A byte is taken from the record with the highest number that covers it, in the map, and in any replay.
//! 4. A generation never changes: what is overwritten while it is frozen is kept for it aside, and its segments stay.
//! 5. No dirty byte and no byte of a generation is ever dropped; reclaim moves them, or chooses another victim.
//! 6. A checkpoint names only what is durable in the log, and a segment is freed only after a durable checkpoint that no
//!    longer names it. What a checkpoint does not cover is replayed.
//! 7. What a source has is given up only for another source with the same bytes (`Rebase`, where the blob still reads from the old one), for what was
//!    uploaded (`CleanThrough`), or by [`BlobStore::detach`], which keeps every byte that is here.
//! 8. A clean byte that turns out damaged is fetched again; a dirty one is [`BlobError::Damaged`], reported, and the rest of
//!    the blob stays readable.
//!
//! Lock order: the checkpoint barrier (read side: whoever changes a map; write side: a checkpoint, briefly) → the names lock → one
//! blob's lock (two blobs: by id) → the table, the accounts, the jobs that were asked for, the log. No lock is held across an await, a request to S3, or the database.

mod accounts;
mod apply;
mod batch;
mod cache;
mod checkpoint;
mod delta;
mod detach;
mod fetch;
mod freeze;
mod heat;
mod ids;
pub mod jobs;
mod kept;
mod map;
mod page;
mod plan;
mod portion;
mod pressure;
mod read;
mod read_ahead;
mod reclaim;
mod record;
mod recover;
pub mod salvage;
mod state;
mod tasks;
#[cfg(test)]
mod tests;
mod write;

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64};
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use crate::base::clock::Clock;
use crate::base::disk::Disk;
use crate::base::id::{BlobId, NodeId, OwnerId, Seq};
use crate::store::log::{self, LogError, Position};
use crate::store::meta::{Meta, MetaError};
use crate::store::object::ObjectError;
pub use batch::{Batch, BlobChange};
pub use freeze::Generation;
pub use plan::Held;

/// How much blob offset one page of an extent map spans, in bytes. Small in tests, so that a small blob has several.
pub const PAGE_SPAN_BYTES: u64 = if cfg!(test) { 64 << 10 } else { 4 << 20 };

/// How a blob's bytes are found in S3: whole (files), log (volumes), reel (tapes). One per owner, given by its engine.
#[async_trait]
pub trait Layout: Send + Sync + 'static {
    /// The bytes of `range` of the blob whose remote part is described by `source` (as the layout encoded it). Exactly as long as the range.
    ///
    /// # Errors
    /// `Changed` where what `source` pins is no longer there as it was.
    async fn fetch(&self, blob: BlobId, source: &[u8], range: Range<u64>) -> Result<Bytes, FetchError>;

    /// What is fetched at least, aligned, in bytes: a power of two, always the same. Large where a request costs more than the bytes that nobody asked for.
    fn block_bytes(&self) -> u64 {
        1 << 20
    }

    /// Whether zeroes that were fetched are remembered as holes, which take no room in the log: for what is mostly empty, as a thin disk is.
    fn is_thin(&self) -> bool {
        false
    }
}

/// Why bytes could not be fetched.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FetchError {
    /// The object was replaced or removed by somebody: its owner must look again.
    #[error("the object in S3 is no longer the one that was known")]
    Changed,
    /// The endpoint failed.
    #[error(transparent)]
    Object(#[from] ObjectError),
}

/// Why a blob refused.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The owner's portion of dirty bytes, or the cache, stayed full for as long as the caller would wait.
    #[error("no space: the cache is full of bytes that are not uploaded yet")]
    NoSpace,
    /// Never written, or removed.
    #[error("no such blob")]
    NotFound,
    /// Bytes that only this gateway had are damaged.
    #[error("bytes {0:?} are damaged on the cache disk and were not in S3 yet")]
    Damaged(Range<u64>),
    /// Fetching failed.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// Past 2^63 - 1.
    #[error("a blob cannot be that long")]
    TooLong,
    /// The log failed.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The metadata failed.
    #[error(transparent)]
    Meta(#[from] MetaError),
}

/// Plain values of the blob store.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The log's.
    pub log: log::Settings,
    /// For extent maps, in bytes (256 MiB by default).
    pub memory_bytes: u64,
    /// How often a checkpoint is made where nothing asks for one earlier.
    pub checkpoint_interval: Duration,
    /// The longest that a write waits at the limit before [`BlobError::NoSpace`] (`cache.wait`).
    pub wait: Duration,
}

/// How much of the dirty bytes an owner may have, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Portion {
    /// Always its own: the maxima of others never eat into it.
    pub guaranteed_bytes: u64,
    /// Never more. Past 80 % of it writers are slowed in proportion.
    pub maximum_bytes: u64,
}

/// What the blob store knows of a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobInfo {
    /// Length in bytes.
    pub len_bytes: u64,
    /// When bytes or length last changed, nanoseconds since the Unix epoch.
    pub modified_ns: i64,
    /// The number of that change.
    pub modified_seq: Seq,
    /// S3 has everything up to this number.
    pub clean_through: Seq,
    /// What S3 has, as the layout encoded it; empty: nothing.
    pub source: Bytes,
    /// Some of its dirty bytes were lost to damage.
    pub damaged: bool,
    /// Bytes that occupy the log or S3, for `st_blocks` (holes do not count); about.
    pub allocated_bytes: u64,
}

impl BlobInfo {
    /// Whether S3 lacks something of it.
    pub fn is_dirty(&self) -> bool {
        self.modified_seq > self.clean_through
    }
}

/// How long a write waits where there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// `Settings::wait`.
    Default,
    /// At most so long (NFS, SCSI), then `NoSpace`.
    AtMost(Duration),
}

/// One owner's bytes, for `status` and metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OwnerUsage {
    /// Bytes in the log that S3 does not have.
    pub dirty_bytes: u64,
    /// Since when the oldest of them waits (about), nanoseconds since the Unix epoch; 0: none.
    pub oldest_dirty_ns: i64,
    /// Its portion.
    pub maximum_bytes: u64,
}

/// What a start found and repaired; its `damage` lines are for an operator.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Records replayed.
    pub records: u64,
    /// In words, each naming the segment or the blob.
    pub damage: Vec<String>,
}

/// Every blob of the gateway.
pub struct BlobStore {
    /// For tasks that must not keep it alive.
    weak: Weak<Self>,
    log: log::Log,
    meta: Arc<Meta>,
    clock: Arc<dyn Clock>,
    settings: Settings,
    body_bytes_max: usize,
    layouts: RwLock<HashMap<OwnerId, Arc<dyn Layout>>>,
    /// The number that the last owner got from this process.
    last_owner: tokio::sync::Mutex<u32>,
    node_ids: ids::Ids,
    blob_ids: ids::Ids,
    table: cache::Table,
    /// What extents take in memory, in bytes (about).
    memory: AtomicI64,
    /// Evicting did not help; a checkpoint may.
    eviction_waits: AtomicBool,
    accounts: Mutex<accounts::Accounts>,
    /// See the lock order.
    barrier: RwLock<()>,
    /// Names are staged in the order of their numbers.
    names: Mutex<()>,
    /// The number of the last `Ask` of each job, in this life.
    asked: Mutex<HashMap<(OwnerId, u64), Seq>>,
    /// Blobs that changed since the last checkpoint.
    dirty: Mutex<HashSet<BlobId>>,
    /// Blobs with generations, and how many.
    frozen: Mutex<HashMap<BlobId, usize>>,
    next_generation: AtomicU64,
    /// The log's verifier when the maps last followed it.
    followed: AtomicU64,
    checkpointing: tokio::sync::Mutex<()>,
    checkpoint_wanted: Arc<Notify>,
    reclaiming: tokio::sync::Mutex<()>,
    reclaim_wanted: Arc<Notify>,
    reads_want_room: AtomicBool,
    /// Somebody found no room since reclaim last looked.
    log_was_full: AtomicBool,
    /// Segments with bytes that can neither be read nor dropped, by slot and life, and when that was found.
    stuck: Mutex<HashMap<(u32, u32), tokio::time::Instant>>,
    heat: heat::Heat,
    fetches: fetch::Fetches,
    /// Counts whenever something became free that somebody may wait for.
    space: watch::Sender<u64>,
    pressure: pressure::Pressure,
    /// Changes since the last checkpoint, about.
    changes: AtomicU64,
    /// Why the last checkpoint failed; `None`: it did not.
    checkpoint_failure: Mutex<Option<String>>,
    tasks: Mutex<JoinSet<()>>,
}

impl BlobStore {
    /// Opens log and metadata, replays, makes a checkpoint, and starts the checkpoint, reclaim and flush tasks (on the current
    /// runtime, until [`Self::close`]).
    ///
    /// # Errors
    /// `Log(Refused)`, `Meta(Refused)` with what to do; nothing was changed then.
    pub async fn open(
        disk: Arc<dyn Disk>,
        meta: Arc<Meta>,
        clock: Arc<dyn Clock>,
        settings: Settings,
    ) -> Result<(Arc<Self>, Report), BlobError> {
        recover::open(disk, meta, clock, settings).await
    }

    /// Says whose bytes are how fetched and how many may be dirty. Before that, remote bytes of the owner cannot be read.
    pub fn register(&self, owner: OwnerId, layout: Arc<dyn Layout>, portion: Portion) {
        self.layouts.write().insert(owner, layout);
        self.accounts.lock().set_portion(owner, portion);
        self.tell_space();
    }

    /// Changes how many bytes of an owner may be dirty.
    pub fn set_portion(&self, owner: OwnerId, portion: Portion) {
        self.accounts.lock().set_portion(owner, portion);
        self.tell_space();
    }

    /// The last name of a blob, for the log's footers (`tidegate check --salvage`). Remembered from the next checkpoint on.
    pub fn set_hint(&self, blob: BlobId, name: &[u8]) {
        self.note_name(blob, name);
    }

    /// The metadata, for reads.
    pub fn meta(&self) -> &Arc<Meta> {
        &self.meta
    }

    /// The log's clock.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// A node id that was never given before.
    ///
    /// # Errors
    /// `Log`: the high-water mark could not be made durable.
    pub async fn new_node_id(&self) -> Result<NodeId, BlobError> {
        self.new_id(&self.node_ids).await.map(NodeId)
    }

    /// An owner's number that nobody else has or gets, whoever asks at the same time. Its row makes it last.
    ///
    /// # Errors
    /// `Meta`.
    pub async fn new_owner_id(&self) -> Result<OwnerId, BlobError> {
        self.next_owner().await
    }

    /// A blob id that was never given before.
    ///
    /// # Errors
    /// As `new_node_id`.
    pub async fn new_blob_id(&self) -> Result<BlobId, BlobError> {
        self.new_id(&self.blob_ids).await.map(BlobId)
    }

    /// Applies a batch: on return it is visible and survives the process; call [`Self::sync`] for power loss.
    /// A batch of names and tombstones goes through on a full cache.
    ///
    /// # Errors
    /// `NotFound` where a blob is unknown, `Log`, `Meta`: nothing of the batch happened.
    pub async fn apply(&self, owner: OwnerId, batch: Batch) -> Result<Seq, BlobError> {
        self.apply_batch(owner, batch).await
    }

    /// Writes `data` at `offset`, extending the blob where it ends. Several records where it is long: each is atomic.
    ///
    /// # Errors
    /// `NoSpace` after `patience`, `NotFound`, `TooLong`, `Log`.
    pub async fn write(&self, blob: BlobId, offset: u64, data: Bytes, patience: Patience) -> Result<BlobInfo, BlobError> {
        self.write_at(blob, offset, data, patience).await
    }

    /// As `write`, at the end of the blob as it is then (atomic append). Returns the offset that it got.
    ///
    /// # Errors
    /// As `write`.
    pub async fn append(&self, blob: BlobId, data: Bytes, patience: Patience) -> Result<(u64, BlobInfo), BlobError> {
        self.append_at_end(blob, data, patience).await
    }

    /// The bytes of a range, cut at the length: slices that together are the range. Remote bytes are fetched and cached,
    /// with read-ahead where reads follow each other.
    ///
    /// # Errors
    /// `NotFound`, `Fetch`, `Damaged`, `Log`.
    pub async fn read(&self, blob: BlobId, range: Range<u64>) -> Result<Vec<Bytes>, BlobError> {
        self.read_range(blob, range).await
    }

    /// As `read` where nothing has to be awaited (map in memory, bytes in the log); `None` otherwise.
    pub fn try_read(&self, blob: BlobId, range: Range<u64>) -> Option<Result<Vec<Bytes>, BlobError>> {
        self.try_read_range(blob, range)
    }

    /// A hint that a range will be read: what only S3 has of it is fetched, as far as the log has room and not too much is being fetched. Returns at once.
    pub fn prefetch(&self, blob: BlobId, range: Range<u64>) {
        self.prefetch_range(blob, range);
    }

    /// Length, times, state.
    ///
    /// # Errors
    /// `NotFound`, `Meta`.
    pub async fn info(&self, blob: BlobId) -> Result<BlobInfo, BlobError> {
        Ok(self.blob(blob).await?.state.lock().info())
    }

    /// As `info` where the row is in memory.
    pub fn try_info(&self, blob: BlobId) -> Option<BlobInfo> {
        let blob = self.table.get(blob)?;
        let state = blob.state.lock();
        (!state.removed).then(|| state.info())
    }

    /// Where data is, from `offset` on: the first range that is not a hole (`None`: only holes up to the end). Remote bytes count as data.
    ///
    /// # Errors
    /// `NotFound`, `Meta`.
    pub async fn next_data(&self, blob: BlobId, offset: u64) -> Result<Option<Range<u64>>, BlobError> {
        self.find_data(blob, offset).await
    }

    /// Where the stretches of a range are, cut at the length: in the log, in S3, nowhere.
    ///
    /// # Errors
    /// `NotFound`, `Meta`.
    pub async fn stretches(&self, blob: BlobId, range: Range<u64>) -> Result<Vec<(Range<u64>, Held)>, BlobError> {
        self.find_stretches(blob, range).await
    }

    /// Bytes of the blob that occupy the log or S3, for `st_blocks` (holes do not count); about.
    ///
    /// # Errors
    /// `NotFound`, `Meta`.
    pub async fn allocated_bytes(&self, blob: BlobId) -> Result<u64, BlobError> {
        Ok(self.blob(blob).await?.state.lock().allocated_bytes())
    }

    /// What `source` has of the blob is gone for good: what of it is in the cache is the blob's own from now on (dirty), what is not reads as
    /// zeros; those ranges are returned, ordered and merged. What is written meanwhile stays. Nothing, where the blob reads from another source by now.
    ///
    /// # Errors
    /// As [`Self::write`]; what was done until then stays done.
    pub async fn detach(&self, blob: BlobId, source: &Bytes, patience: Patience) -> Result<Vec<Range<u64>>, BlobError> {
        self.detach_from(blob, source, patience).await
    }

    /// Everything that was written or applied before this call is durable here (group commit).
    ///
    /// # Errors
    /// `Log(Flush)`.
    pub async fn sync(&self) -> Result<Position, BlobError> {
        Ok(self.log.commit().await?)
    }

    /// Freezes a blob for an upload. Durable first: the log is committed up to the generation's number.
    ///
    /// # Errors
    /// `NotFound`, `Log`, `Meta`.
    pub async fn freeze(self: &Arc<Self>, blob: BlobId) -> Result<Generation, BlobError> {
        self.freeze_blob(blob).await
    }

    /// Drops the clean bytes of a blob from the cache (evict), for tests and `tidegate check`.
    ///
    /// # Errors
    /// `NotFound`, `Meta`.
    pub async fn evict(&self, blob: BlobId) -> Result<(), BlobError> {
        self.evict_clean(blob).await
    }

    /// An owner's bytes.
    pub fn usage(&self, owner: OwnerId) -> OwnerUsage {
        self.accounts.lock().usage(owner)
    }

    /// The log's.
    pub fn log_usage(&self) -> log::Usage {
        self.log.usage()
    }

    /// See [`log::Log::verifier`].
    pub fn verifier(&self) -> u64 {
        self.log.verifier()
    }

    /// Told, now and again, while the owner is past 80 % of its portion, its writer finds the log full, or the log is short
    /// and nobody else has more beyond what it is guaranteed: publish open files, upload sooner.
    pub fn pressure(&self, owner: OwnerId) -> watch::Receiver<u64> {
        self.pressure.subscribe(owner)
    }

    /// Why the last checkpoint failed, if it did: from then on changes wait in memory and in the log.
    pub fn checkpoint_failure(&self) -> Option<String> {
        self.checkpoint_failure.lock().clone()
    }

    /// Makes a checkpoint now.
    ///
    /// # Errors
    /// `Log`, `Meta`.
    pub async fn checkpoint(&self) -> Result<(), BlobError> {
        self.make_checkpoint(true).await
    }

    /// Ends the tasks, syncs, makes a last checkpoint.
    ///
    /// # Errors
    /// `Log`, `Meta`.
    pub async fn close(&self) -> Result<(), BlobError> {
        self.tasks.lock().abort_all();
        self.log.commit().await?;
        self.make_checkpoint(true).await
    }
}

//! A cached volume: a disk whose bytes are in the log while they are new, and in S3.
//!
//! What lives here: [`CachedVolume`] and its [`Settings`]; the disk itself is `cached/device.rs`, what goes to S3 and when `cached/upload.rs`, snapshots
//! `cached/snapshot.rs`, how a volume comes to be on a gateway `cached/attach.rs`, and what clones need `cached/clone.rs`. `cached/work.rs` sends several objects
//! at a time, `cached/clean.rs` rewrites segments that are mostly dead, `cached/collect.rs` finds what nothing names.
//!
//! The bytes are one blob, a little longer than the disk ([`PAD_BYTES`]): so a discard never reaches its end, which a blob would take for a truncation. All
//! of it is remote from the beginning; what S3 has nothing for is zeroes.
//!
//! Invariants:
//! 1. What a write acknowledged is in the log, and after a flush durable there. It goes to S3 as whole generations of the blob, one after the other: S3
//!    always has a consistent prefix.
//! 2. The map in S3 is told of a generation before the blob may drop its bytes.
//! 3. A volume that somebody else attached is changed by nobody here: neither its bytes nor its objects.

mod attach;
mod clean;
mod clone;
mod collect;
mod device;
mod snapshot;
#[cfg(test)]
mod tests;
mod upload;
mod work;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use super::local::{Local, Snapshot};
use super::manifest::State;
use super::names::{Names, ObjectName, VolumeId};
use super::remote::Remote;
use crate::base::id::{BlobId, OwnerId};
use crate::store::blob::jobs::JobChange;
use crate::store::blob::{self, BlobStore, Generation};
use crate::store::object::SharedStore;
use crate::store::upload::Uploader;
pub use attach::{AttachError, Create, Home};
use clean::Cleaning;
pub use collect::Collection;
pub use snapshot::SnapshotError;
use work::{Dealt, Work};

/// What a blob is longer than its disk, in bytes.
const PAD_BYTES: u64 = 4096;
/// The job of a volume that decides.
const SUBJECT: u64 = 1;

/// Plain values of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How old what is new may get before it is uploaded.
    pub upload_interval: Duration,
    /// New bytes that are uploaded at once.
    pub batch_bytes: u64,
    /// Segments since the last checkpoint that call for another.
    pub checkpoint_segments: u64,
    /// How long a write waits for room before it is told to come again.
    pub patience: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            upload_interval: Duration::from_secs(10),
            batch_bytes: 32 << 20,
            checkpoint_segments: 256,
            patience: Duration::from_secs(10),
        }
    }
}

/// See the module.
pub struct CachedVolume {
    /// For tasks that must not keep it alive.
    weak: Weak<Self>,
    owner: OwnerId,
    blob: BlobId,
    /// Of a logical block.
    block_bytes: u32,
    blobs: Arc<BlobStore>,
    uploader: Arc<Uploader>,
    bucket: SharedStore,
    names: Names,
    remote: Arc<Remote>,
    settings: Settings,
    local: Mutex<Local>,
    /// What `local` becomes when the batch that has its row is applied.
    staged: Mutex<Option<Local>>,
    snapshots: Mutex<Vec<Snapshot>>,
    /// Held while the list of snapshots is changed.
    listing: tokio::sync::Mutex<()>,
    work: Mutex<Work>,
    dealt: Mutex<Dealt>,
    cleaning: Mutex<Cleaning>,
    /// Snapshots that were frozen and wait for their turn, with the time.
    queue: Mutex<VecDeque<(Generation, VolumeId, i64)>>,
    /// A job is open, or is being asked for.
    asked: AtomicBool,
    /// What is new goes to S3 without waiting for its age.
    hurried: AtomicBool,
    /// Bytes that were written since the last generation was frozen.
    written_bytes: AtomicU64,
    /// When that was, nanoseconds since the Unix epoch.
    frozen_ns: AtomicU64,
    /// The lower half of the next number.
    next_number: AtomicU64,
    len_bytes: AtomicU64,
    is_fenced: AtomicBool,
    write_cache: AtomicBool,
    /// Held for reading by writes, and alone by what must not be divided by them.
    exclusive: tokio::sync::RwLock<()>,
}

impl CachedVolume {
    /// Which volume it is.
    pub fn id(&self) -> VolumeId {
        self.local.lock().manifest.volume
    }

    /// Its name.
    pub fn name(&self) -> String {
        self.local.lock().manifest.name.clone()
    }

    /// Its owner among the gateway's.
    pub fn owner(&self) -> OwnerId {
        self.owner
    }

    /// What S3 has: the recovery point.
    pub fn recovery_point(&self) -> State {
        self.local.lock().manifest.state.clone()
    }

    /// Whether another gateway attached it.
    pub fn is_fenced(&self) -> bool {
        self.is_fenced.load(Ordering::Relaxed)
    }

    /// Its bytes here.
    pub fn usage(&self) -> blob::OwnerUsage {
        self.blobs.usage(self.owner)
    }

    /// The next name that nothing has yet.
    fn next_name(&self) -> ObjectName {
        let local = self.local.lock();
        let number = u64::from(local.life) << 32 | self.next_number.load(Ordering::Relaxed);
        ObjectName { volume: local.manifest.volume, epoch: local.manifest.epoch, number }
    }

    /// Names from [`Self::next_name`] on are taken.
    fn take_names(&self, count: u64) {
        self.next_number.fetch_add(count, Ordering::Relaxed);
    }

    /// What is new goes to S3 now.
    pub async fn hurry(&self) {
        self.hurried.store(true, Ordering::Relaxed);
        self.ask(0).await;
    }

    /// Something is new: there is a job for it.
    async fn note_written(&self, bytes: u64) {
        let written = self.written_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let is_enough = written >= self.settings.batch_bytes && !self.hurried.swap(true, Ordering::Relaxed);
        if is_enough || !self.asked.swap(true, Ordering::Relaxed) {
            let wait = if is_enough { Duration::ZERO } else { self.settings.upload_interval };
            let due = self.now_ns().saturating_add(i64::try_from(wait.as_nanos()).unwrap_or(i64::MAX));
            self.ask(due).await;
        }
    }

    async fn ask(&self, not_before_ns: i64) {
        self.asked.store(true, Ordering::Relaxed);
        let mut batch = blob::Batch::new();
        batch.job(SUBJECT, JobChange::Ask { not_before_ns });
        if let Err(error) = self.blobs.apply(self.owner, batch).await {
            // The next write asks again.
            self.asked.store(false, Ordering::Relaxed);
            tracing::warn!(volume = %self.name(), %error, "an upload could not be asked for");
            return;
        }
        self.uploader.wake(self.owner, SUBJECT, not_before_ns);
    }

    fn now_ns(&self) -> i64 {
        self.blobs.clock().now_ns()
    }

    /// What is new is in S3 when this returns `true`; `false`: not within `limit`.
    pub async fn drain(&self, limit: Option<Duration>) -> bool {
        let Ok(info) = self.blobs.info(self.blob).await else { return false };
        self.hurry().await;
        let is_in = |_| self.local.lock().manifest.state.generation >= info.modified_seq.0;
        self.uploader.drain(self.owner, limit, &is_in).await
    }
}

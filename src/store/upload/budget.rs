//! What uploads may hold in memory, and what they count.
//!
//! Invariant: bodies in memory are at most the uploader's `memory_bytes`, and those of one owner at most half of it, so that an owner whose
//! endpoint hangs leaves room for others. A permit is held from before the bytes are read until the request has ended, never longer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};

/// What one permit stands for, in bytes.
const UNIT_BYTES: u64 = 1024;

/// Memory of one owner, as part of everybody's.
pub(super) struct Budget {
    everybody: Arc<Semaphore>,
    own: Semaphore,
    own_units: u32,
}

/// The right to hold a body in memory.
pub(super) struct Room<'a> {
    _own: Option<SemaphorePermit<'a>>,
    _everybody: Option<SemaphorePermit<'a>>,
}

/// A semaphore for all owners together.
pub(super) fn everybody(memory_bytes: u64) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(units(memory_bytes) as usize))
}

fn units(bytes: u64) -> u32 {
    // A semaphore's permits fit 29 bits on small machines; 2^28 KiB are 256 GiB.
    u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX).clamp(1, 1 << 28)
}

impl Budget {
    /// Half of `memory_bytes` for one owner.
    pub(super) fn new(everybody: Arc<Semaphore>, memory_bytes: u64) -> Self {
        let own_units = (units(memory_bytes) / 2).max(1);
        Self { everybody, own: Semaphore::new(own_units as usize), own_units }
    }

    /// Waits for room for a body. One that is larger than all the owner's room gets all of it.
    pub(super) async fn take(&self, bytes: u64) -> Room<'_> {
        let units = units(bytes).min(self.own_units);
        // Neither semaphore is ever closed.
        let own = self.own.acquire_many(units).await.ok();
        let everybody = self.everybody.acquire_many(units).await.ok();
        Room { _own: own, _everybody: everybody }
    }
}

/// How far a body is.
#[derive(Debug, Default)]
pub(super) struct Progress {
    sent_bytes: AtomicU64,
    total_bytes: AtomicU64,
}

impl Progress {
    /// A body of `total_bytes` begins, with `sent_bytes` of it there already.
    pub(super) fn begin(&self, sent_bytes: u64, total_bytes: u64) {
        self.sent_bytes.store(sent_bytes, Ordering::Relaxed);
        self.total_bytes.store(total_bytes, Ordering::Relaxed);
    }

    /// So many more bytes are there.
    pub(super) fn add(&self, bytes: u64) {
        self.sent_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Sent and whole length, in bytes.
    pub(super) fn get(&self) -> (u64, u64) {
        (self.sent_bytes.load(Ordering::Relaxed), self.total_bytes.load(Ordering::Relaxed))
    }
}

/// Operations by kind, here and in the metrics.
#[derive(Default)]
pub(super) struct Counts(Mutex<BTreeMap<&'static str, u64>>);

impl Counts {
    /// One more of a kind.
    pub(super) fn add(&self, kind: &'static str) {
        *self.0.lock().entry(kind).or_default() += 1;
        metrics::counter!("tidegate_upload_operations_total", "kind" => kind).increment(1);
    }

    /// All so far.
    pub(super) fn all(&self) -> BTreeMap<&'static str, u64> {
        self.0.lock().clone()
    }
}

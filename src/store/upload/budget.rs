//! What uploads may hold in memory, how far each is, and what they count.
//!
//! Invariant: bodies in memory are at most the uploader's `memory_bytes` (see [`Pool`] for those who have none yet), and an owner never has
//! more than it leaves free, so that owners whose endpoints hang leave room for others. Bytes are taken before they are read and held
//! until the request has ended, never longer.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::run::Failure;
use crate::base::id::OwnerId;
use crate::base::pool::{Pool, Taken};

/// Memory of one owner, as part of everybody's.
pub(super) struct Budget {
    everybody: Arc<Pool>,
    owner: OwnerId,
}

impl Budget {
    /// The part of `owner`.
    pub(super) fn new(everybody: Arc<Pool>, owner: OwnerId) -> Self {
        Self { everybody, owner }
    }

    /// Waits for room for a body. One that is larger than all the owner's room gets all of it.
    pub(super) async fn take(&self, bytes: u64) -> Taken {
        self.everybody.take(self.owner, bytes).await
    }
}

/// How far a body is, and whether anybody still wants it.
#[derive(Debug, Default)]
pub(super) struct Progress {
    sent_bytes: AtomicU64,
    total_bytes: AtomicU64,
    /// The job was woken since the attempt began.
    pub(super) woken: Notify,
    cut: CancellationToken,
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

    /// The attempt is to end: nobody wants what it sends.
    pub(super) fn cut(&self) {
        self.cut.cancel();
    }

    /// A wait for the endpoint, or for room, as long as somebody wants what is sent. Not for what changes anything here.
    pub(super) async fn unless_cut<T>(&self, wait: impl Future<Output = T>) -> Result<T, Failure> {
        tokio::select! {
            biased;
            ended = wait => Ok(ended),
            () = self.cut.cancelled() => {
                Err(Failure { text: "given up: what was sent is not wanted any more".into(), endpoint: false, suspect: None })
            }
        }
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

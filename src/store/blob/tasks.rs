//! The store's tasks: periodic checkpoints, flushes, and reclaim. Each ends with the store.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::BlobStore;

/// How long acknowledged bytes may wait for a flush that nobody asked for.
const FLUSH_INTERVAL: Duration = Duration::from_secs(5);
/// How often reclaim looks by itself.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// Rounds of reclaim in a row.
const ROUNDS_MAX: usize = 64;

impl BlobStore {
    /// Starts them.
    pub(super) fn start_tasks(self: &Arc<Self>) {
        let weak = Arc::downgrade(self);
        let mut tasks = self.tasks.lock();
        tasks.spawn(checkpoints(weak.clone(), self.settings.checkpoint_interval));
        tasks.spawn(flushes(weak.clone()));
        tasks.spawn(reclaims(weak));
    }
}

async fn checkpoints(store: Weak<BlobStore>, interval: Duration) {
    let Some(wanted) = store.upgrade().map(|store| store.checkpoint_wanted.clone()) else { return };
    loop {
        let _ = tokio::time::timeout(interval, wanted.notified()).await;
        let Some(store) = store.upgrade() else { return };
        if store.dirty.lock().is_empty() && store.meta.staged_bytes() == 0 {
            continue;
        }
        if let Err(error) = store.make_checkpoint(false).await {
            tracing::error!(%error, "a checkpoint failed; it is tried again");
        }
    }
}

async fn flushes(store: Weak<BlobStore>) {
    loop {
        tokio::time::sleep(FLUSH_INTERVAL).await;
        let Some(store) = store.upgrade() else { return };
        if store.log.usage().unflushed_bytes > 0
            && let Err(error) = store.log.commit().await
        {
            tracing::error!(%error, "a flush failed");
        }
    }
}

async fn reclaims(store: Weak<BlobStore>) {
    let Some(wanted) = store.upgrade().map(|store| store.reclaim_wanted.clone()) else { return };
    loop {
        let asked = tokio::time::timeout(LOOK_INTERVAL, wanted.notified()).await.is_ok();
        let Some(store) = store.upgrade() else { return };
        if !asked && !store.is_low() {
            continue;
        }
        for _ in 0..ROUNDS_MAX {
            match store.reclaim().await {
                Ok(0) => break,
                Ok(_) if !store.is_low() => break,
                Ok(_) => {}
                Err(error) => {
                    tracing::error!(%error, "reclaiming the cache failed; it is tried again");
                    break;
                }
            }
        }
        store.reads_want_room.store(false, Ordering::Relaxed);
        if store.is_low() {
            store.press_heaviest();
        }
    }
}

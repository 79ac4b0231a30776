//! Access times: kept in memory as `relatime` does, written to the row rarely, and never a reason to ask or tell S3 anything.
//!
//! Invariant: losing them at a crash is harmless; at most [`PENDING_MAX`] wait.

use parking_lot::Mutex;

use crate::base::id::{IdMap, NodeId};
use crate::store::blob::Batch;
use crate::store::meta::{NodeRow, Row};

use super::share::Share;

/// Access times that wait for a row.
const PENDING_MAX: usize = 4096;

/// An access time is new where it is older than a change, or than a day (Linux: `relatime_need_update`).
const DAY_NS: i64 = 24 * 3600 * 1_000_000_000;

/// Access times that are newer than their rows.
#[derive(Default)]
pub(super) struct AccessTimes(Mutex<IdMap<NodeId, i64>>);

impl AccessTimes {
    /// The access time of a row: the newer one.
    pub(super) fn of(&self, row: &NodeRow) -> i64 {
        self.0.lock().get(&row.node).map_or(row.atime_ns, |pending| row.atime_ns.max(*pending))
    }

    /// Somebody set it, or the node is gone.
    pub(super) fn forget(&self, node: NodeId) {
        self.0.lock().remove(&node);
    }
}

impl Share {
    /// The node was read. `mtime_ns`, `ctime_ns` are its own as they are now.
    pub(super) fn accessed(&self, row: &NodeRow, mtime_ns: i64, ctime_ns: i64) {
        if self.is_read_only() {
            return;
        }
        let now = self.now_ns();
        let atime = self.atimes.of(row);
        if atime > mtime_ns && atime > ctime_ns && now < atime.saturating_add(DAY_NS) {
            return;
        }
        let mut pending = self.atimes.0.lock();
        if pending.len() < PENDING_MAX || pending.contains_key(&row.node) {
            pending.insert(row.node, now);
        }
        self.changes.count(&[row.node]);
    }

    /// Writes what waits to the rows. Best effort.
    pub(super) async fn flush_atimes(&self) {
        let pending: Vec<NodeId> = self.atimes.0.lock().keys().copied().collect();
        for node in pending {
            let _guard = self.guards.lock(&[node]).await;
            if let Ok(mut row) = self.node(node).await {
                row.atime_ns = self.atimes.of(&row);
                let mut batch = Batch::new();
                batch.put(Row::Node(row));
                if self.blobs.apply(self.owner, batch).await.is_err() {
                    return;
                }
            }
            self.atimes.forget(node);
        }
    }
}

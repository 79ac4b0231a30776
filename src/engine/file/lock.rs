//! Taking locks: waiting for them, for no longer than the caller lives.
//!
//! Invariant: a request that waits is in the queue exactly as long as its future lives.

use std::time::Duration;

use parking_lot::Mutex;

use crate::base::id::NodeId;
use crate::engine::file::{Caller, Lock, LockKind, LockOwner, VfsError};

use super::locks::{Locks, Outcome};
use super::share::Share;
use super::watch::{EndsBy, watched};

/// Locks held and waited for in a share.
const LOCKS_MAX: usize = 65_536;

/// All locks of a share.
#[derive(Default)]
pub(super) struct LockTable(Mutex<Locks>);

/// A request in the queue.
struct Queued<'a> {
    table: &'a LockTable,
    node: NodeId,
    ticket: u64,
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.table.0.lock().leave(self.node, self.ticket);
    }
}

impl LockTable {
    /// Waits until the lock is taken.
    async fn wait(&self, node: NodeId, lock: &Lock) -> Result<(), VfsError> {
        let (ticket, changed) = self.0.lock().queue(node, lock);
        let _queued = Queued { table: self, node, ticket };
        loop {
            let mut notified = std::pin::pin!(changed.notified());
            notified.as_mut().enable();
            let outcome = self.0.lock().take(node, lock, Some(ticket));
            match outcome {
                Outcome::Taken => return Ok(()),
                Outcome::Deadlock => return Err(VfsError::Deadlock),
                Outcome::Blocked => notified.await,
            }
        }
    }
}

impl Share {
    pub(super) async fn do_lock(&self, who: &Caller, node: NodeId, lock: &Lock, wait: Option<Duration>) -> Result<(), VfsError> {
        if lock.range.start >= lock.range.end {
            return Err(VfsError::Invalid);
        }
        if lock.kind != LockKind::Unlock {
            self.node(node).await?;
            if self.locks.0.lock().count() >= LOCKS_MAX {
                return Err(VfsError::NoSpace);
            }
        }
        let Some(limit) = wait.filter(|_| lock.kind != LockKind::Unlock) else {
            let outcome = self.locks.0.lock().take(node, lock, None);
            return if outcome == Outcome::Taken { Ok(()) } else { Err(VfsError::WouldBlock) };
        };
        match watched(who, Some(limit), EndsBy::Signal, self.locks.wait(node, lock)).await {
            Ok(outcome) => outcome,
            Err(VfsError::Unavailable(_)) => Err(VfsError::WouldBlock),
            Err(error) => Err(error),
        }
    }

    pub(super) fn do_test_lock(&self, node: NodeId, lock: &Lock) -> Option<Lock> {
        self.locks.0.lock().test(node, lock)
    }

    pub(super) fn do_release_locks(&self, node: NodeId, owner: &LockOwner) {
        self.locks.0.lock().release(node, owner);
    }
}

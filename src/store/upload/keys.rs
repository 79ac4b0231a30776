//! The order on keys: who may touch a key of the bucket now.
//!
//! What lives here: [`KeyLocks`], a queue per key, and [`KeyGuard`], a place in those queues.
//!
//! Invariants:
//! - First come, first served on each key. Neighbouring reads go together; a write goes alone.
//! - A caller enters the queues of all its keys in one step, so two callers are in the same order in every queue that they
//!   share, and nobody waits in a circle.
//! - Dropping a guard, or a future that still waits for one, leaves all queues.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// The keys of one owner that are in use or waited for.
#[derive(Default)]
pub(super) struct KeyLocks {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    next_ticket: u64,
    queues: HashMap<String, VecDeque<Turn>>,
    waiting: HashMap<u64, Waiting>,
}

/// A place in the queue of one key.
struct Turn {
    ticket: u64,
    write: bool,
    granted: bool,
}

/// A caller that has not got all its keys yet.
struct Waiting {
    missing: usize,
    granted: oneshot::Sender<()>,
}

/// The right to write one key and to read others, until it is dropped.
pub(super) struct KeyGuard {
    locks: Arc<KeyLocks>,
    ticket: u64,
    keys: Vec<String>,
}

impl KeyLocks {
    /// Waits until `write` may be written and all of `reads` may be read.
    pub(super) async fn lock(self: &Arc<Self>, write: &str, reads: &[&str]) -> KeyGuard {
        let (guard, granted) = self.enter(write, reads);
        // The sender lives in `waiting` until it is used or the guard is dropped, and the guard is ours.
        let _ = granted.await;
        guard
    }

    /// Whether an operation that writes this key is running or waiting for its turn.
    pub(super) fn is_written(&self, key: &str) -> bool {
        self.inner.lock().queues.get(key).is_some_and(|queue| queue.iter().any(|turn| turn.write))
    }

    fn enter(self: &Arc<Self>, write: &str, reads: &[&str]) -> (KeyGuard, oneshot::Receiver<()>) {
        let mut keys = vec![write.to_owned()];
        for read in reads {
            if !keys.iter().any(|key| key == read) {
                keys.push((*read).to_owned());
            }
        }
        let (sender, receiver) = oneshot::channel();
        let mut inner = self.inner.lock();
        inner.next_ticket += 1;
        let ticket = inner.next_ticket;
        for (index, key) in keys.iter().enumerate() {
            let turn = Turn { ticket, write: index == 0, granted: false };
            inner.queues.entry(key.clone()).or_default().push_back(turn);
        }
        inner.waiting.insert(ticket, Waiting { missing: keys.len(), granted: sender });
        for key in &keys {
            inner.promote(key);
        }
        drop(inner);
        (KeyGuard { locks: Arc::clone(self), ticket, keys }, receiver)
    }
}

impl Inner {
    /// Grants the key to everybody whose turn it is.
    fn promote(&mut self, key: &str) {
        let Some(queue) = self.queues.get_mut(key) else { return };
        let mut grants = Vec::new();
        for (index, turn) in queue.iter_mut().enumerate() {
            if turn.write && index > 0 {
                break;
            }
            if !turn.granted {
                turn.granted = true;
                grants.push(turn.ticket);
            }
            if turn.write {
                break;
            }
        }
        for ticket in grants {
            self.grant(ticket);
        }
    }

    fn grant(&mut self, ticket: u64) {
        let Some(waiting) = self.waiting.get_mut(&ticket) else { return };
        waiting.missing -= 1;
        if waiting.missing == 0
            && let Some(waiting) = self.waiting.remove(&ticket)
        {
            let _ = waiting.granted.send(());
        }
    }
}

impl KeyGuard {
    /// Whether somebody waits for one of these keys.
    pub(super) fn is_wanted(&self) -> bool {
        let inner = self.locks.inner.lock();
        self.keys.iter().any(|key| inner.queues.get(key).is_some_and(|queue| queue.iter().any(|turn| !turn.granted)))
    }
}

impl Drop for KeyGuard {
    fn drop(&mut self) {
        let mut inner = self.locks.inner.lock();
        inner.waiting.remove(&self.ticket);
        for key in &self.keys {
            if let Some(queue) = inner.queues.get_mut(key) {
                queue.retain(|turn| turn.ticket != self.ticket);
                if queue.is_empty() {
                    inner.queues.remove(key);
                }
            }
            inner.promote(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn log_when_locked(locks: Arc<KeyLocks>, log: Arc<Mutex<Vec<u32>>>, id: u32, write: &str, reads: &[&str]) {
        let guard = locks.lock(write, reads).await;
        log.lock().push(id);
        tokio::time::sleep(Duration::from_millis(10)).await;
        drop(guard);
    }

    #[tokio::test(start_paused = true)]
    async fn writes_of_one_key_go_one_by_one_in_the_order_of_asking() {
        let (locks, log) = (Arc::new(KeyLocks::default()), Arc::new(Mutex::new(Vec::new())));
        let start = tokio::time::Instant::now();
        let tasks: Vec<_> = (0..5)
            .map(|id| {
                tokio::spawn({
                    let (locks, log) = (locks.clone(), log.clone());
                    async move { log_when_locked(locks, log, id, "k", &[]).await }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*log.lock(), [0, 1, 2, 3, 4]);
        assert_eq!(start.elapsed(), Duration::from_millis(50));
        assert!(locks.inner.lock().queues.is_empty() && locks.inner.lock().waiting.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn reads_share_and_a_write_waits_for_them() {
        let locks = Arc::new(KeyLocks::default());
        let first = locks.lock("a", &["source"]).await;
        let second = locks.lock("b", &["source"]).await;
        let mut write = Box::pin(locks.lock("source", &[]));
        assert!(futures_util::poll!(&mut write).is_pending());
        assert!(first.is_wanted() && locks.is_written("source"));
        // Who comes after the write waits behind it, read or not.
        let mut late = Box::pin(locks.lock("c", &["source"]));
        assert!(futures_util::poll!(&mut late).is_pending());
        drop(first);
        assert!(futures_util::poll!(&mut write).is_pending());
        drop(second);
        let write = write.await;
        assert!(futures_util::poll!(&mut late).is_pending());
        drop(write);
        assert!(!late.await.is_wanted());
    }

    #[tokio::test(start_paused = true)]
    async fn a_swap_of_two_keys_does_not_deadlock_and_a_dropped_wait_leaves_no_trace() {
        let locks = Arc::new(KeyLocks::default());
        let held = locks.lock("a", &["b"]).await;
        let mut swap = Box::pin(locks.lock("b", &["a"]));
        let mut third = Box::pin(locks.lock("a", &["b", "a"]));
        assert!(futures_util::poll!(&mut swap).is_pending());
        assert!(futures_util::poll!(&mut third).is_pending());
        drop(swap);
        drop(held);
        drop(third.await);
        assert!(locks.inner.lock().queues.is_empty());
    }
}

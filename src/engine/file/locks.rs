//! Locks as a state: who holds which bytes, who waits for whom. Pure; `lock.rs` waits.
//!
//! Invariants:
//! - What one owner holds of a node does not overlap, and neighbours of one kind are one range.
//! - Two owners overlap only where both are shared.
//! - A waiting request is passed only by owners who hold something of the node already, so nobody starves and nobody who holds
//!   something waits behind who waits for it.
//! - Byte-range and whole-file locks (`flock`) never meet. Whole-file locks are not looked at for deadlocks, as in Linux.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use tokio::sync::Notify;

use crate::base::id::NodeId;
use crate::base::range::intersect;
use crate::engine::file::{Lock, LockKind, LockOwner, Origin};

/// Who an owner is; its process is only told.
type Owner = (Origin, u64);

fn id(owner: &LockOwner) -> Owner {
    (owner.origin, owner.owner)
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Taken,
    /// Somebody else has it, or came first.
    Blocked,
    /// Waiting would be for ever.
    Deadlock,
}

/// The locks of one node.
#[derive(Default)]
struct NodeLocks {
    held: Vec<Lock>,
    /// In the order of arrival, by ticket.
    waiting: Vec<(u64, Lock)>,
    changed: Arc<Notify>,
}

impl NodeLocks {
    /// What stands in the way of a lock.
    fn conflict<'a>(&'a self, lock: &'a Lock) -> impl Iterator<Item = &'a Lock> {
        self.held.iter().filter(move |held| conflicts(held, lock))
    }

    fn holds_any(&self, owner: Owner, flock: bool) -> bool {
        self.held.iter().any(|held| id(&held.owner) == owner && held.flock == flock)
    }

    /// Who a request has to wait for: holders, and who waits before it.
    fn blockers(&self, lock: &Lock, ticket: Option<u64>) -> Vec<Owner> {
        let mut owners: Vec<Owner> = self.conflict(lock).map(|held| id(&held.owner)).collect();
        if let Some(ticket) = ticket
            && !self.holds_any(id(&lock.owner), lock.flock)
        {
            let before = self.waiting.iter().take_while(|(other, _)| *other != ticket);
            owners.extend(before.filter(|(_, other)| conflicts(other, lock)).map(|(_, other)| id(&other.owner)));
        }
        owners
    }

    fn count(&self) -> usize {
        self.held.len() + self.waiting.len()
    }

    /// Whether the lock could be had, and now is.
    fn take(&mut self, lock: &Lock, ticket: Option<u64>) -> bool {
        let changes = |held: &Lock| held.flock && id(&held.owner) == id(&lock.owner) && held.kind != lock.kind;
        if lock.flock && self.held.iter().any(changes) {
            // A whole-file lock is given up before it is changed (flock(2)).
            self.set(&Lock { kind: LockKind::Unlock, ..lock.clone() });
            self.changed.notify_waiters();
        }
        let free = lock.kind == LockKind::Unlock || self.blockers(lock, ticket).is_empty();
        if free {
            self.set(lock);
            self.changed.notify_waiters();
        }
        free
    }

    /// Sets, changes or gives up a range of an owner that nobody stands in the way of.
    fn set(&mut self, lock: &Lock) {
        let mine = |held: &Lock| id(&held.owner) == id(&lock.owner) && held.flock == lock.flock;
        let mut after = Vec::with_capacity(self.held.len() + 2);
        let mut new = lock.clone();
        for held in self.held.drain(..) {
            if !mine(&held) {
                after.push(held);
            } else if held.kind == new.kind && held.range.start <= new.range.end && new.range.start <= held.range.end {
                new.range = held.range.start.min(new.range.start)..held.range.end.max(new.range.end);
            } else if intersect(&held.range, &lock.range).is_some() {
                after.extend(rest(&held, &lock.range));
            } else {
                after.push(held);
            }
        }
        if new.kind != LockKind::Unlock {
            after.push(new);
        }
        self.held = after;
    }
}

/// Whether both cannot be at once.
fn conflicts(a: &Lock, b: &Lock) -> bool {
    a.flock == b.flock
        && id(&a.owner) != id(&b.owner)
        && (a.kind == LockKind::Exclusive || b.kind == LockKind::Exclusive)
        && intersect(&a.range, &b.range).is_some()
}

/// What is left of a lock without a range: nothing, one or two pieces.
fn rest(held: &Lock, range: &Range<u64>) -> impl Iterator<Item = Lock> + use<> {
    let pieces = [held.range.start..range.start.min(held.range.end), range.end.max(held.range.start)..held.range.end];
    let held = held.clone();
    pieces.into_iter().filter(|piece| piece.start < piece.end).map(move |range| Lock { range, ..held.clone() })
}

/// All locks of a share.
#[derive(Default)]
pub(super) struct Locks {
    nodes: HashMap<NodeId, NodeLocks>,
    tickets: u64,
    /// Held and waiting, over all nodes.
    count: usize,
}

impl Locks {
    /// Locks that are held or waited for.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Changes the locks of a node, counts, and forgets a node without any.
    fn with<R>(&mut self, node: NodeId, change: impl FnOnce(&mut NodeLocks) -> R) -> R {
        let locks = self.nodes.entry(node).or_default();
        let before = locks.count();
        let result = change(locks);
        let after = locks.count();
        self.count = self.count + after - before;
        if after == 0 {
            self.nodes.remove(&node);
        }
        result
    }

    /// Takes a lock if it can be had now; with a ticket, on behalf of a request that waits.
    pub(super) fn take(&mut self, node: NodeId, lock: &Lock, ticket: Option<u64>) -> Outcome {
        let taken = self.with(node, |locks| locks.take(lock, ticket));
        if taken {
            Outcome::Taken
        } else if !lock.flock && ticket.is_some() && self.is_circle(node, lock, ticket) {
            Outcome::Deadlock
        } else {
            Outcome::Blocked
        }
    }

    /// What stands in the way of a lock, if anything.
    pub(super) fn test(&self, node: NodeId, lock: &Lock) -> Option<Lock> {
        self.nodes.get(&node)?.conflict(lock).next().cloned()
    }

    /// Queues a request; its ticket, and what to wait on.
    pub(super) fn queue(&mut self, node: NodeId, lock: &Lock) -> (u64, Arc<Notify>) {
        self.tickets += 1;
        let ticket = self.tickets;
        let changed = self.with(node, |locks| {
            locks.waiting.push((ticket, lock.clone()));
            locks.changed.clone()
        });
        (ticket, changed)
    }

    /// A request waits no longer.
    pub(super) fn leave(&mut self, node: NodeId, ticket: u64) {
        self.with(node, |locks| {
            locks.waiting.retain(|(other, _)| *other != ticket);
            locks.changed.notify_waiters();
        });
    }

    /// Everything of an owner on a node.
    pub(super) fn release(&mut self, node: NodeId, owner: &LockOwner) {
        if self.nodes.contains_key(&node) {
            self.with(node, |locks| {
                locks.held.retain(|held| id(&held.owner) != id(owner));
                locks.changed.notify_waiters();
            });
        }
    }

    /// Whether somebody whom this request waits for waits, in the end, for its owner.
    fn is_circle(&self, node: NodeId, lock: &Lock, ticket: Option<u64>) -> bool {
        let start = id(&lock.owner);
        let mut todo = self.nodes.get(&node).map(|locks| locks.blockers(lock, ticket)).unwrap_or_default();
        let mut seen = HashSet::new();
        while let Some(owner) = todo.pop() {
            if owner == start {
                return true;
            }
            if seen.insert(owner) {
                todo.extend(self.waits_for(owner));
            }
        }
        false
    }

    /// Whom an owner waits for, with all its requests.
    fn waits_for(&self, owner: Owner) -> Vec<Owner> {
        let requests =
            self.nodes.values().flat_map(|locks| locks.waiting.iter().map(move |(ticket, lock)| (locks, *ticket, lock)));
        let mine = requests.filter(|(_, _, lock)| id(&lock.owner) == owner && !lock.flock);
        mine.flat_map(|(locks, ticket, lock)| locks.blockers(lock, Some(ticket))).collect()
    }
}

#[cfg(test)]
mod tests;

//! Who is who among the clients' lock owners, what they may hold, and who waits.
//!
//! Invariants: an owner (client, its `oh`, its `svid`) has one number as long as it may hold something; everything is bounded.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::base::id::NodeId;
use crate::engine::file::{HandleId, LockOwner, Vfs};
use crate::protocol::nfs::ORIGIN;

use super::blocked::Key;

/// Owner and file pairs, requests that wait, share modes: each at most so many.
const ENTRIES_MAX: usize = 65_536;

/// An owner as clients name it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::protocol::nfs) struct Owner {
    pub(super) client: String,
    pub(super) oh: Vec<u8>,
    pub(super) svid: u32,
}

/// A file on which an owner may hold something.
#[derive(Clone)]
pub(super) struct Held {
    pub(super) export: u64,
    pub(super) node: NodeId,
    pub(super) vfs: Arc<dyn Vfs>,
}

type ShareKey = (String, Vec<u8>, u64, NodeId);
pub(super) type OpenShare = (Arc<dyn Vfs>, HandleId);

/// What a client held.
#[derive(Default)]
pub(super) struct Gone {
    pub(super) locks: Vec<(LockOwner, Held)>,
    pub(super) shares: Vec<OpenShare>,
}

/// A request that waits, or has its lock and its client does not know yet.
struct Waiting {
    stop: CancellationToken,
    is_granted: bool,
}

#[derive(Default)]
struct Inner {
    numbers: HashMap<Owner, u64>,
    owners: HashMap<u64, Owner>,
    held: HashMap<(u64, u64, NodeId), Held>,
    waiting: HashMap<Key, Waiting>,
    shares: HashMap<ShareKey, OpenShare>,
}

/// See the module.
#[derive(Default)]
pub(in crate::protocol::nfs) struct Table {
    next: AtomicU64,
    inner: Mutex<Inner>,
}

fn lock_owner(number: u64) -> LockOwner {
    LockOwner { origin: ORIGIN, owner: number, pid: 0 }
}

impl Table {
    /// The number of an owner that has one.
    pub(super) fn number(&self, owner: &Owner) -> Option<LockOwner> {
        self.inner.lock().numbers.get(owner).copied().map(lock_owner)
    }

    /// The owner of a number of ours.
    pub(super) fn owner(&self, number: &LockOwner) -> Option<Owner> {
        if number.origin != ORIGIN {
            return None;
        }
        self.inner.lock().owners.get(&number.owner).cloned()
    }

    /// Notes that an owner may hold something of a file from now on. `None`: there are too many.
    pub(super) fn hold(&self, owner: &Owner, held: Held) -> Option<LockOwner> {
        let mut inner = self.inner.lock();
        if inner.held.len() >= ENTRIES_MAX {
            return None;
        }
        let number = match inner.numbers.get(owner) {
            Some(number) => *number,
            None => {
                let number = self.next.fetch_add(1, Ordering::Relaxed) + 1;
                inner.numbers.insert(owner.clone(), number);
                inner.owners.insert(number, owner.clone());
                number
            }
        };
        inner.held.insert((number, held.export, held.node), held);
        Some(lock_owner(number))
    }

    /// The owner holds nothing of a file any more. Whether that was the last of its client.
    pub(super) fn let_go(&self, owner: LockOwner, export: u64, node: NodeId) -> bool {
        let mut inner = self.inner.lock();
        inner.held.remove(&(owner.owner, export, node));
        if inner.held.keys().any(|(number, ..)| *number == owner.owner) {
            return false;
        }
        let Some(gone) = inner.owners.remove(&owner.owner) else { return false };
        inner.numbers.remove(&gone);
        !inner.numbers.keys().any(|other| other.client == gone.client)
            && !inner.shares.keys().any(|(client, ..)| *client == gone.client)
    }

    /// Everything of a client, which is forgotten.
    pub(super) fn forget_client(&self, client: &str) -> Gone {
        let mut inner = self.inner.lock();
        let numbers: HashSet<u64> =
            inner.numbers.iter().filter(|(owner, _)| owner.client == client).map(|(_, number)| *number).collect();
        inner.numbers.retain(|owner, _| owner.client != client);
        inner.owners.retain(|_, owner| owner.client != client);
        inner.waiting.retain(|key, waiting| {
            let is_gone = numbers.contains(&key.owner);
            if is_gone {
                waiting.stop.cancel();
            }
            !is_gone
        });
        let locks = inner.held.extract_if(|(number, ..), _| numbers.contains(number));
        let locks = locks.map(|((number, ..), held)| (lock_owner(number), held)).collect();
        let shares = inner.shares.extract_if(|(other, ..), _| other == client).map(|(_, open)| open).collect();
        Gone { locks, shares }
    }

    /// Notes a request that waits; `None` where it waits already, or too many do.
    pub(super) fn begin_waiting(&self, key: &Key) -> Option<CancellationToken> {
        let mut inner = self.inner.lock();
        if inner.waiting.contains_key(key) || inner.waiting.len() >= ENTRIES_MAX {
            return None;
        }
        let stop = CancellationToken::new();
        inner.waiting.insert(key.clone(), Waiting { stop: stop.clone(), is_granted: false });
        Some(stop)
    }

    /// A request that waits is over, if there is one.
    pub(super) fn stop_waiting(&self, key: &Key) {
        if let Some(waiting) = self.inner.lock().waiting.remove(key) {
            waiting.stop.cancel();
        }
    }

    /// A request that waited has its lock; its client is to be told.
    pub(super) fn granted(&self, key: &Key) {
        if let Some(waiting) = self.inner.lock().waiting.get_mut(key) {
            waiting.is_granted = true;
        }
    }

    /// A request that waits is given up. Whether it is: one that has its lock is to be unlocked instead.
    pub(super) fn cancel(&self, key: &Key) -> bool {
        let mut inner = self.inner.lock();
        if inner.waiting.get(key).is_some_and(|waiting| waiting.is_granted) {
            return false;
        }
        if let Some(waiting) = inner.waiting.remove(key) {
            waiting.stop.cancel();
        }
        true
    }

    /// Requests of an owner for bytes of a range are given up.
    pub(super) fn stop_waiting_within(&self, export: u64, node: NodeId, owner: LockOwner, range: &Range<u64>) {
        self.inner.lock().waiting.retain(|key, waiting| {
            let is_within = key.is_of(export, node, owner) && range.start <= key.range.0 && key.range.1 <= range.end;
            if is_within {
                waiting.stop.cancel();
            }
            !is_within
        });
    }

    /// Keeps an open that stands for a share mode; the one before comes back, or this one where there are too many.
    pub(super) fn put_share(&self, key: ShareKey, open: OpenShare) -> Result<Option<OpenShare>, OpenShare> {
        let mut inner = self.inner.lock();
        if inner.shares.len() >= ENTRIES_MAX {
            return Err(open);
        }
        Ok(inner.shares.insert(key, open))
    }

    pub(super) fn take_share(&self, key: &ShareKey) -> Option<OpenShare> {
        self.inner.lock().shares.remove(key)
    }
}

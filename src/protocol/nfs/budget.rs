//! What clients may make the server hold: connections, and bytes of requests and replies under way.
//!
//! Invariants:
//! - Bytes under way are bounded per client address and in all; a client that is slow to send or to read uses up its own share only.
//! - Above the limit of connections, the one that has been idle the longest goes: of the same address first. A client whose idle connection
//!   was closed opens another without noticing (RFC 5531 says nothing of it, every client does it after a restart of a server).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::base::purse::{self, Held, Purse};

/// The most that is held at a time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Connections of all clients.
    pub(super) connections: usize,
    /// Connections of one address.
    pub(super) connections_of_address: usize,
    /// Bytes of requests and replies under way, of all clients.
    pub(super) bytes: usize,
    /// Of one address.
    pub(super) bytes_of_address: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 4096, connections_of_address: 512, bytes: 512 << 20, bytes_of_address: 96 << 20 }
    }
}

impl Limits {
    /// The usual ones, within half of the descriptors that this process may have: the other half is for the cache, S3 and other front ends.
    pub(super) fn of_process() -> Self {
        let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let half = usize::try_from(files.unwrap_or(u64::MAX) / 2).unwrap_or(usize::MAX);
        let usual = Self::default();
        let connections = usual.connections.min(half).max(1);
        Self { connections, connections_of_address: usual.connections_of_address.min(connections.div_ceil(2)), ..usual }
    }
}

/// A connection as the budget sees it.
pub(super) struct Session {
    id: u64,
    pub(super) address: IpAddr,
    purse: Purse,
    /// Calls that are not answered.
    pub(super) busy: AtomicUsize,
    /// When the last call came, milliseconds since the server's start.
    active_ms: AtomicU64,
    /// Cancelled to make room for another connection.
    pub(super) evicted: CancellationToken,
    budget: Weak<Budget>,
}

#[derive(Default)]
struct Table {
    next: u64,
    sessions: HashMap<u64, Arc<Session>>,
    addresses: HashMap<IpAddr, (usize, Purse)>,
}

/// See the module.
pub(super) struct Budget {
    limits: Limits,
    start: Instant,
    all: Arc<Semaphore>,
    table: Mutex<Table>,
}

/// Keeps a connection counted; ends with it.
pub(super) struct Admitted(pub(super) Arc<Session>);

impl Budget {
    pub(super) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self { limits, start: Instant::now(), all: purse::all(limits.bytes), table: Mutex::default() })
    }

    /// Connections that are open.
    pub(super) fn connections(&self) -> usize {
        self.table.lock().sessions.len()
    }

    /// Addresses with a connection.
    pub(super) fn addresses(&self) -> Vec<IpAddr> {
        self.table.lock().addresses.keys().copied().collect()
    }

    /// Lets a connection in; another may have to go for it. `None`: all of them are busy.
    pub(super) fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Admitted> {
        let mut table = self.table.lock();
        let of_address = table.addresses.get(&address).map_or(0, |(count, _)| *count);
        if of_address >= self.limits.connections_of_address {
            evict(&mut table, |session| session.address == address)?;
        } else if table.sessions.len() >= self.limits.connections {
            evict(&mut table, |_| true)?;
        }
        let bytes_max = self.limits.bytes_of_address;
        let (count, purse) = table.addresses.entry(address).or_insert_with(|| (0, Purse::new(&self.all, bytes_max)));
        *count += 1;
        let purse = purse.clone();
        table.next += 1;
        let session = Arc::new(Session {
            id: table.next,
            address,
            purse,
            busy: AtomicUsize::new(0),
            active_ms: AtomicU64::new(self.now_ms()),
            evicted: CancellationToken::new(),
            budget: Arc::downgrade(self),
        });
        table.sessions.insert(session.id, session.clone());
        Some(Admitted(session))
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// Ends the connection that has been idle the longest, of those that `which` takes.
fn evict(table: &mut Table, which: impl Fn(&Session) -> bool) -> Option<()> {
    let idle = table.sessions.values().filter(|session| session.busy.load(Ordering::Relaxed) == 0 && which(session));
    let oldest = idle.min_by_key(|session| session.active_ms.load(Ordering::Relaxed))?.clone();
    oldest.evicted.cancel();
    forget(table, &oldest);
    Some(())
}

fn forget(table: &mut Table, session: &Session) {
    if table.sessions.remove(&session.id).is_some()
        && let Some((count, _)) = table.addresses.get_mut(&session.address)
    {
        *count -= 1;
        if *count == 0 {
            table.addresses.remove(&session.address);
        }
    }
}

impl Session {
    /// Notes that a call came.
    pub(super) fn is_active(&self) {
        if let Some(budget) = self.budget.upgrade() {
            self.active_ms.store(budget.now_ms(), Ordering::Relaxed);
        }
    }

    /// Waits until so many bytes may be held.
    pub(super) async fn hold(&self, bytes: usize) -> Option<Held> {
        self.purse.clone().hold(bytes).await
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        if let Some(budget) = self.0.budget.upgrade() {
            forget(&mut budget.table.lock(), &self.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn the_longest_idle_connection_goes_of_the_same_address_first() {
        let limits = Limits { connections: 3, connections_of_address: 2, ..Limits::default() };
        let budget = Budget::new(limits);
        let admit = |last| budget.admit(address(last)).unwrap();
        let other = admit(2);
        let (first, second) = (admit(1), admit(1));
        for (session, at) in [(&other, 1), (&first, 2), (&second, 3)] {
            session.0.active_ms.store(at, Ordering::Relaxed);
        }
        let third = admit(1);
        third.0.active_ms.store(4, Ordering::Relaxed);
        assert!(first.0.evicted.is_cancelled() && !other.0.evicted.is_cancelled());
        drop(first);
        assert_eq!(budget.connections(), 3);
        let new = admit(3);
        assert!(other.0.evicted.is_cancelled());
        for session in [&second, &third, &new] {
            session.0.busy.store(1, Ordering::Relaxed);
        }
        assert!(budget.admit(address(1)).is_none() && budget.admit(address(4)).is_none());
        drop((second, third, new, other));
        assert_eq!((budget.connections(), budget.addresses().len()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn one_address_holds_no_more_than_its_share() {
        let budget = Budget::new(Limits { bytes: 4096, bytes_of_address: 2048, ..Limits::default() });
        let greedy = budget.admit(address(1)).unwrap();
        let held = greedy.0.hold(2048).await.unwrap();
        let waits = std::time::Duration::from_secs(1);
        assert!(tokio::time::timeout(waits, greedy.0.hold(1)).await.is_err());
        let other = budget.admit(address(2)).unwrap();
        assert!(tokio::time::timeout(waits, other.0.hold(2048)).await.unwrap().is_some());
        drop(held);
        assert!(tokio::time::timeout(waits, greedy.0.hold(1)).await.unwrap().is_some());
    }
}

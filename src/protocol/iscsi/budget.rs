//! What initiators may make the server hold: logins under way, sessions, and the data of commands.
//!
//! Invariants:
//! - Data of commands is bounded per connection and in all. An initiator that is slow to send or to take uses up its own share only; what
//!   it was not granted is not asked for (R2T), and not read from the unit.
//! - A login costs nobody else's: above a limit the oldest goes, of the same address first. Sessions are not touched by logins.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::base::purse::{self, Purse};

/// The most that is held at a time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Logins under way, of all addresses.
    pub(super) logins: usize,
    /// Of one address.
    pub(super) logins_of_address: usize,
    /// Sessions.
    pub(super) sessions: usize,
    /// Data of commands, in bytes.
    pub(super) bytes: usize,
    /// Of one connection.
    pub(super) bytes_of_connection: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { logins: 256, logins_of_address: 64, sessions: 1024, bytes: 512 << 20, bytes_of_connection: 64 << 20 }
    }
}

#[derive(Debug)]
struct Waiting {
    id: u64,
    address: IpAddr,
    evicted: CancellationToken,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    /// Oldest first.
    logins: VecDeque<Waiting>,
    sessions: usize,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Budget {
    limits: Limits,
    all: Arc<Semaphore>,
    table: Mutex<Table>,
}

/// A login that is counted, until dropped.
pub(super) struct Knock {
    budget: Arc<Budget>,
    id: u64,
    /// Cancelled to make room for another.
    pub(super) evicted: CancellationToken,
}

/// A session that is counted, until dropped.
pub(super) struct Seat(Arc<Budget>);

impl Budget {
    pub(super) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self { limits, all: purse::all(limits.bytes), table: Mutex::default() })
    }

    /// A connection begins its login; another login may have to go for it.
    pub(super) fn knock(self: &Arc<Self>, address: IpAddr) -> Knock {
        let mut table = self.table.lock();
        let of_address = table.logins.iter().filter(|login| login.address == address).count();
        let oldest = if of_address >= self.limits.logins_of_address {
            table.logins.iter().position(|login| login.address == address)
        } else {
            (table.logins.len() >= self.limits.logins).then_some(0)
        };
        if let Some(login) = oldest.and_then(|oldest| table.logins.remove(oldest)) {
            login.evicted.cancel();
        }
        table.next += 1;
        let (id, evicted) = (table.next, CancellationToken::new());
        table.logins.push_back(Waiting { id, address, evicted: evicted.clone() });
        Knock { budget: self.clone(), id, evicted }
    }

    /// A place for a session, where there is one.
    pub(super) fn seat(self: &Arc<Self>) -> Option<Seat> {
        let mut table = self.table.lock();
        if table.sessions >= self.limits.sessions {
            return None;
        }
        table.sessions += 1;
        Some(Seat(self.clone()))
    }

    pub(super) fn purse(&self) -> Purse {
        Purse::new(&self.all, self.limits.bytes_of_connection)
    }

    /// Logins under way, and sessions.
    pub(super) fn counts(&self) -> (usize, usize) {
        let table = self.table.lock();
        (table.logins.len(), table.sessions)
    }
}

impl Drop for Knock {
    fn drop(&mut self) {
        self.budget.table.lock().logins.retain(|login| login.id != self.id);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.table.lock().sessions -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_login_goes_of_the_same_address_first() {
        let budget = Budget::new(Limits { logins: 3, logins_of_address: 2, ..Limits::default() });
        let knock = |last: u8| budget.knock(IpAddr::from([10, 0, 0, last]));
        let (other, first, second) = (knock(2), knock(1), knock(1));
        let third = knock(1);
        assert!(first.evicted.is_cancelled() && !other.evicted.is_cancelled());
        let fourth = knock(3);
        assert!(other.evicted.is_cancelled());
        assert_eq!(budget.counts(), (3, 0));
        drop((other, first, second, third, fourth));
        assert_eq!(budget.counts(), (0, 0));
    }

    #[test]
    fn sessions_are_bounded() {
        let budget = Budget::new(Limits { sessions: 1, ..Limits::default() });
        let seat = budget.seat().unwrap();
        assert!(budget.seat().is_none());
        drop(seat);
        assert!(budget.seat().is_some());
    }

    #[test]
    fn one_connection_holds_no_more_than_its_share() {
        let budget = Budget::new(Limits { bytes: 4096, bytes_of_connection: 2048, ..Limits::default() });
        let (greedy, other) = (budget.purse(), budget.purse());
        let held = greedy.try_hold(1 << 30).unwrap();
        assert!(greedy.try_hold(1).is_none());
        assert!(other.try_hold(2048).is_some());
        drop(held);
        assert!(greedy.try_hold(2048).is_some());
    }
}

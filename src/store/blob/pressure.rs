//! Who is told that it should upload sooner.
//!
//! Invariants: an owner is told of its own shortage only: that another's bucket is dead is no reason to publish this one's open files.
//! Told at most once an interval each, so that a writer who waits costs nothing.

use std::collections::HashMap;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Duration, Instant};

use super::BlobStore;
use crate::base::id::OwnerId;

/// An owner is told at most so often.
const INTERVAL: Duration = Duration::from_millis(100);

/// Everybody who may be told.
#[derive(Default)]
pub(super) struct Pressure(Mutex<HashMap<OwnerId, Told>>);

struct Told {
    /// Counts.
    sender: watch::Sender<u64>,
    at: Option<Instant>,
}

impl Default for Told {
    fn default() -> Self {
        Self { sender: watch::Sender::new(0), at: None }
    }
}

impl Pressure {
    /// See [`BlobStore::pressure`].
    pub fn subscribe(&self, owner: OwnerId) -> watch::Receiver<u64> {
        self.0.lock().entry(owner).or_default().sender.subscribe()
    }

    /// Tells an owner.
    pub fn tell(&self, owner: OwnerId) {
        let mut owners = self.0.lock();
        let told = owners.entry(owner).or_default();
        if told.at.is_none_or(|at| at.elapsed() >= INTERVAL) {
            told.at = Some(Instant::now());
            told.sender.send_modify(|count| *count = count.wrapping_add(1));
        }
    }
}

impl BlobStore {
    /// The log is short: who has most dirty bytes beyond what it is guaranteed is told.
    pub(super) fn press_heaviest(&self) {
        let heaviest = self.accounts.lock().heaviest();
        if let Some(owner) = heaviest {
            self.pressure.tell(owner);
        }
    }
}

//! Heads of large records that were read lately, so that the next read of one is a single read of the disk.
//!
//! Invariants: at most [`HEADS_MAX`] of at most 1.2 KB each; the newer of two whose places fall together stays. A head never changes, and its
//! place names the life of its segment: what is here is right for ever.

use std::hash::BuildHasher;
use std::sync::Arc;

use parking_lot::Mutex;

use super::Location;
use super::format::RecordHeader;

/// Heads that are kept.
const HEADS_MAX: usize = 4096;

/// A record's header and table, verified. They never change, so who has them once need not read them again.
pub struct Head {
    pub header: RecordHeader,
    pub bytes: Box<[u8]>,
}

type Slot = Mutex<Option<(Location, Arc<Head>)>>;

/// See the module.
pub struct Heads {
    slots: Box<[Slot]>,
    hasher: foldhash::fast::RandomState,
}

impl Heads {
    /// An empty store of heads.
    pub fn new() -> Self {
        Self { slots: (0..HEADS_MAX).map(|_| Mutex::default()).collect(), hasher: foldhash::fast::RandomState::default() }
    }

    fn slot(&self, place: Location) -> &Slot {
        &self.slots[self.hasher.hash_one(place) as usize % HEADS_MAX]
    }

    /// The head of the record at a place.
    pub fn get(&self, place: Location) -> Option<Arc<Head>> {
        self.slot(place).lock().as_ref().filter(|(kept, _)| *kept == place).map(|(_, head)| head.clone())
    }

    /// Keeps one.
    pub fn insert(&self, place: Location, head: Arc<Head>) {
        *self.slot(place).lock() = Some((place, head));
    }
}

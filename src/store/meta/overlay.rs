//! What is staged and not applied, and the rules by which it, the cache and the database are one.
//!
//! Staged batches are kept as they came, by number, so that an apply up to any number writes what stood there at that
//! number; an index over them gives the latest row of each key, and its places in the range orders.
//!
//! Invariants:
//! 1. *Epochs.* An apply commits in the database, then raises `epoch`, then drops what it applied from the overlay. So
//!    what a reader took from the database after it saw an epoch is, while that epoch stands and for keys that are not
//!    staged, the latest: everything dropped in this or an earlier epoch was committed before the reader began.
//! 2. A row goes from the overlay into the cache, and a row read from the database goes into the cache, only under the
//!    overlay's lock and by rule 1. So a cached row whose key is not staged is never stale.
//! 3. The lock is held for memory work only, in portions of [`DROP_KEYS_MAX`] where an apply drops much.

use std::collections::BTreeMap;
use std::collections::hash_map::{Entry, HashMap};
use std::sync::Arc;

use super::backend::Staged;
use super::horizon::Horizon;
use super::order::{Place, Places, Range};
use super::rows::{Counts, Key, Row};
use super::tally::Tallies;
use crate::base::id::{OwnerId, Seq};

/// How many keys are dropped under one hold of the lock.
pub(super) const DROP_KEYS_MAX: usize = 128;

/// The changes of one sequence number, each key once.
pub(super) type Batch = Arc<[Staged]>;

/// The latest of a key.
#[derive(Debug)]
struct Slot {
    seq: Seq,
    row: Option<Arc<Row>>,
    /// The row that the database had when the key was staged, as far as memory knew; for the counts alone.
    before: Option<Arc<Row>>,
}

/// See the file's header.
#[derive(Debug, Default)]
pub(super) struct Overlay {
    /// Raised when an apply has committed.
    pub epoch: u64,
    /// Everything up to here is in the database.
    pub applied: Seq,
    batches: BTreeMap<Seq, (u64, Batch)>,
    bytes: u64,
    latest: HashMap<Key, Slot>,
    places: Places,
    /// What the database counts.
    counted: Tallies,
    /// What the overlay adds to that.
    staged: Tallies,
    /// What the database cannot know.
    pub horizon: Horizon,
}

impl Overlay {
    pub fn new(applied: Seq, counted: Tallies, horizon: Horizon) -> Self {
        Self { applied, counted, horizon, ..Self::default() }
    }

    /// Adds a batch. `cached` tells the row that the database has, where that is known.
    pub fn stage(&mut self, seq: Seq, batch: Batch, cached: impl Fn(&Key) -> Option<Arc<Row>>) {
        if seq <= self.applied || self.batches.contains_key(&seq) {
            return;
        }
        let mut bytes = 0;
        for (key, row) in batch.iter() {
            bytes += change_bytes(key, row.as_deref());
            row.as_deref().into_iter().for_each(|row| self.horizon.staged(row));
            self.set(seq, key, row.clone(), &cached);
        }
        self.bytes += bytes;
        self.batches.insert(seq, (bytes, batch));
    }

    fn set(&mut self, seq: Seq, key: &Key, row: Option<Arc<Row>>, cached: impl Fn(&Key) -> Option<Arc<Row>>) {
        let old = match self.latest.entry(key.clone()) {
            Entry::Occupied(mut slot) => {
                if slot.get().seq > seq {
                    return;
                }
                slot.get_mut().seq = seq;
                let old = std::mem::replace(&mut slot.get_mut().row, row.clone());
                if let Some(old) = &old {
                    self.places.remove(old);
                }
                old
            }
            Entry::Vacant(slot) => {
                let before = cached(key);
                slot.insert(Slot { seq, row: row.clone(), before: before.clone() });
                before
            }
        };
        if let Some(row) = &row {
            self.places.insert(row);
        }
        self.staged.replace(old.as_deref(), row.as_deref());
    }

    /// The latest of a key: `None` where it is not staged.
    pub fn get(&self, key: &Key) -> Option<Option<&Arc<Row>>> {
        self.latest.get(key).map(|slot| slot.row.as_ref())
    }

    /// About how many bytes are pinned.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How much an owner has.
    pub fn counts(&self, owner: OwnerId) -> Counts {
        self.counted.sum(&self.staged, owner)
    }

    /// The batches up to a number, oldest first.
    pub fn batches(&self, through: Seq) -> Vec<Batch> {
        self.batches.range(..=through).map(|(_, (_, batch))| batch.clone()).collect()
    }

    /// The database has committed everything up to `applied`.
    pub fn committed(&mut self, applied: Seq) {
        self.epoch += 1;
        self.applied = self.applied.max(applied);
        let staged = self.batches.split_off(&Seq(applied.0.saturating_add(1)));
        let applied = std::mem::replace(&mut self.batches, staged);
        self.bytes -= applied.values().map(|(bytes, _)| bytes).sum::<u64>();
    }

    /// Takes a key out whose latest is applied; `false` where a newer one is staged. `stored` is the database's row now.
    pub fn drop_applied(&mut self, key: &Key, stored: Option<&Arc<Row>>) -> bool {
        let Entry::Occupied(mut slot) = self.latest.entry(key.clone()) else { return false };
        let before = std::mem::replace(&mut slot.get_mut().before, stored.cloned());
        self.counted.replace(before.as_deref(), stored.map(AsRef::as_ref));
        self.staged.replace(stored.map(AsRef::as_ref), before.as_deref());
        if slot.get().seq > self.applied {
            return false;
        }
        if let Some(row) = slot.remove().row {
            self.places.remove(&row);
        }
        true
    }

    /// What the database counts now that all that was applied is dropped.
    pub fn counted(&mut self, counted: Tallies) {
        self.counted = counted;
    }

    /// Merges what the database has of a range at or after `from` (`stored`, in order; `more`: it may have more after
    /// those) with what is staged. `None`: too little was read to tell the first `limit` rows.
    pub fn merge(&self, range: &Range, from: &Place, stored: &[Arc<Row>], more: bool, limit: usize) -> Option<Vec<Arc<Row>>> {
        let horizon = if more { stored.last().and_then(|row| range.place(row)) } else { None };
        let mut staged = self
            .places
            .scan(range, from)
            .take_while(|place| horizon.as_ref().is_none_or(|horizon| *place <= horizon))
            .filter_map(|place| Some((place, self.latest.get(&place.key())?.row.as_ref()?)))
            .peekable();
        let unstaged = stored.iter().filter(|row| !self.latest.contains_key(&row.key()));
        let mut merged = Vec::with_capacity(stored.len().min(limit));
        for row in unstaged {
            let place = range.place(row);
            while let Some((_, row)) = staged.next_if(|(staged, _)| Some(*staged) < place.as_ref()) {
                merged.push(row.clone());
            }
            merged.push(row.clone());
            if merged.len() >= limit {
                break;
            }
        }
        let missing = limit.saturating_sub(merged.len());
        merged.extend(staged.take(missing).map(|(_, row)| row.clone()));
        merged.truncate(limit);
        (merged.len() == limit || !more).then_some(merged)
    }
}

/// About what a staged change costs in memory: itself, its slot, its places.
fn change_bytes(key: &Key, row: Option<&Row>) -> u64 {
    (2 * key.heap_bytes() + 300 + row.map_or(0, |row| 200 + 2 * row.heap_bytes())) as u64
}

/// The last change of each key in batches that are given oldest first, in the order of keys.
pub(super) fn fold(batches: &[Batch]) -> Vec<Staged> {
    let mut last: BTreeMap<&Key, &Option<Arc<Row>>> = BTreeMap::new();
    for (key, row) in batches.iter().flat_map(|batch| batch.iter()) {
        last.insert(key, row);
    }
    last.into_iter().map(|(key, row)| (key.clone(), row.clone())).collect()
}

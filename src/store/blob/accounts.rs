//! Who has how many bytes of the log: live bytes per segment (for reclaim) and dirty bytes per owner (for portions).
//!
//! Invariants: changed only together with the maps, under the blob's lock and the checkpoint barrier, so that a checkpoint
//! stores accounts ([`Ledger`]) that agree with its maps; kept bytes and reservations are of this process only.
//! Nothing is decided by the accounts alone that would lose data: reclaim looks at the maps.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::delta::Delta;
use super::page::Ledger;
use super::portion::{self, Claim};
use super::{OwnerUsage, Portion};
use crate::base::id::{BlobId, OwnerId};

/// See the module.
#[derive(Debug, Default)]
pub struct Accounts {
    ledger: Ledger,
    /// Bytes that only generations still have, by slot and life.
    kept: BTreeMap<(u32, u32), u64>,
    /// Every owner that the ledger has, and those with a portion.
    owners: BTreeMap<OwnerId, Owner>,
    /// What all owners together may have.
    capacity_bytes: u64,
}

#[derive(Debug, Default)]
struct Owner {
    kept_bytes: u64,
    reserved_bytes: u64,
    portion: Option<Portion>,
    /// Blobs with dirty bytes, and about since when.
    since: BTreeSet<(i64, BlobId)>,
    /// The same by blob.
    dirty: BTreeMap<BlobId, i64>,
}

fn add(sum: &mut u64, more: i64) {
    debug_assert!(sum.checked_add_signed(more).is_some(), "accounts: {sum} {more}");
    *sum = sum.saturating_add_signed(more);
}

impl Accounts {
    /// The accounts of the last checkpoint.
    pub fn new(ledger: Ledger, capacity_bytes: u64) -> Self {
        let owners = ledger.owners.keys().map(|owner| (*owner, Owner::default())).collect();
        Self { ledger, capacity_bytes, owners, ..Self::default() }
    }

    /// What a checkpoint stores.
    pub fn ledger(&self) -> Ledger {
        self.ledger.clone()
    }

    /// Books a change. Says whether dirty bytes became fewer.
    pub fn book(&mut self, delta: &Delta) -> bool {
        let (mut dirty, mut kept) = (0, 0);
        for (key, [more_dirty, more_clean, more_kept]) in &delta.segments {
            if *more_dirty != 0 || *more_clean != 0 {
                let live = self.ledger.segments.entry(*key).or_default();
                add(&mut live.dirty_bytes, *more_dirty);
                add(&mut live.clean_bytes, *more_clean);
                if live.dirty_bytes == 0 && live.clean_bytes == 0 {
                    self.ledger.segments.remove(key);
                }
            }
            if *more_kept != 0 {
                let sum = self.kept.entry(*key).or_default();
                add(sum, *more_kept);
                if *sum == 0 {
                    self.kept.remove(key);
                }
            }
            dirty += more_dirty;
            kept += more_kept;
        }
        if dirty != 0 {
            self.owners.entry(delta.owner).or_default();
            add(self.ledger.owners.entry(delta.owner).or_default(), dirty);
        }
        if kept != 0 {
            add(&mut self.owners.entry(delta.owner).or_default().kept_bytes, kept);
        }
        dirty + kept < 0
    }

    /// A blob is dirty since then, nanoseconds since the Unix epoch; 0: it is not.
    pub fn since(&mut self, owner: OwnerId, blob: BlobId, since_ns: i64) {
        let account = self.owners.entry(owner).or_default();
        if let Some(before) = account.dirty.remove(&blob) {
            account.since.remove(&(before, blob));
        }
        if since_ns != 0 {
            account.dirty.insert(blob, since_ns);
            account.since.insert((since_ns, blob));
        }
    }

    /// Bytes of a segment that are live: dirty or kept, and clean.
    pub fn live(&self, slot: u32, life: u32) -> (u64, u64) {
        let live = self.ledger.segments.get(&(slot, life)).copied().unwrap_or_default();
        (live.dirty_bytes + self.kept.get(&(slot, life)).copied().unwrap_or(0), live.clean_bytes)
    }

    /// Sets an owner's portion.
    pub fn set_portion(&mut self, owner: OwnerId, portion: Portion) {
        self.owners.entry(owner).or_default().portion = Some(portion);
    }

    /// See [`OwnerUsage`].
    pub fn usage(&self, owner: OwnerId) -> OwnerUsage {
        let account = self.owners.get(&owner);
        OwnerUsage {
            dirty_bytes: self.used(owner) - account.map_or(0, |account| account.reserved_bytes),
            oldest_dirty_ns: account.and_then(|account| account.since.first()).map_or(0, |(since, _)| *since),
            maximum_bytes: self.portion(owner).maximum_bytes.min(self.capacity_bytes),
        }
    }

    /// Asks for `bytes` more: how long to be slow first, or `None`: not now.
    pub fn reserve(&mut self, owner: OwnerId, bytes: u64) -> Option<Duration> {
        let delay = portion::admit(&self.claim(owner), self.others(owner), self.capacity_bytes, bytes)?;
        self.owners.entry(owner).or_default().reserved_bytes += bytes;
        Some(delay)
    }

    /// Whether an owner should be told to upload sooner.
    pub fn is_pressed(&self, owner: OwnerId) -> bool {
        portion::is_pressed(&self.claim(owner), self.others(owner), self.capacity_bytes)
    }

    /// Who has most beyond what it is guaranteed, if anybody has.
    pub fn heaviest(&self) -> Option<OwnerId> {
        let beyond = |owner: OwnerId| self.used(owner).saturating_sub(self.portion(owner).guaranteed_bytes);
        let owners = self.owners.keys().map(|owner| (beyond(*owner), *owner));
        owners.filter(|(bytes, _)| *bytes > 0).max().map(|(_, owner)| owner)
    }

    /// Gives a reservation back: the bytes are booked, or were not written.
    pub fn release(&mut self, owner: OwnerId, bytes: u64) {
        let reserved = &mut self.owners.entry(owner).or_default().reserved_bytes;
        *reserved = reserved.saturating_sub(bytes);
    }

    fn portion(&self, owner: OwnerId) -> Portion {
        let given = self.owners.get(&owner).and_then(|account| account.portion);
        given.unwrap_or(Portion { guaranteed_bytes: 0, maximum_bytes: u64::MAX })
    }

    fn used(&self, owner: OwnerId) -> u64 {
        let dirty = self.ledger.owners.get(&owner).copied().unwrap_or(0);
        dirty + self.owners.get(&owner).map_or(0, |account| account.kept_bytes + account.reserved_bytes)
    }

    fn claim(&self, owner: OwnerId) -> Claim {
        Claim { used_bytes: self.used(owner), portion: self.portion(owner) }
    }

    /// What the other owners have or are guaranteed.
    fn others(&self, owner: OwnerId) -> u64 {
        let others = self.owners.keys().copied().filter(|other| *other != owner);
        others.map(|other| self.used(other).max(self.portion(other).guaranteed_bytes)).sum()
    }
}

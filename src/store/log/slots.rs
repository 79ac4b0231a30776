//! Which segment files there are, which of them are in use, and who may take a free one (invariants 7 and 8).
//!
//! Invariant: as far as the disk has room, [`RESERVED`] free files exist at any time before a writer takes one, so that the
//! reserve is disk space and not a promise.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use crate::base::disk::{Disk, DiskFile};
use crate::store::log::segment::{Segment, file_name};
use crate::store::log::{Class, LogError, Position};

/// Segments that [`Class::Write`] leaves: two for moving, one for names.
pub const RESERVED: usize = 3;

/// Segments that a start may use above the size: what it writes again takes two at most, and the flush of that may fail too.
const BEYOND: u32 = 4;

/// A segment in use.
pub struct Used {
    pub segment: Arc<Segment>,
    pub sealed: bool,
    /// What it holds is written again elsewhere, since a flush of it failed.
    pub retired: bool,
    /// Offset of its end; the whole file where it is not known.
    pub tail: u32,
    /// The caller gave it back, but moved records that lie here are still asked for by their old place.
    pub free_later: bool,
}

impl Used {
    pub fn end(&self) -> Position {
        self.segment.position(self.tail)
    }
}

/// All slots.
pub struct Slots {
    disk: Arc<dyn Disk>,
    segment_bytes: u64,
    limit: u32,
    used: BTreeMap<u32, Used>,
    /// Files that exist and are not in use.
    free: BTreeMap<u32, Arc<dyn DiskFile>>,
    /// Files that are left alone until the next start.
    quarantined: Vec<u32>,
    /// Segments of the read head that were freed: it may take as many again.
    read_credit: u32,
    may_exceed: bool,
}

impl Slots {
    pub fn new(disk: Arc<dyn Disk>, size_bytes: u64, segment_bytes: u64) -> Self {
        let limit = u32::try_from(size_bytes / segment_bytes).unwrap_or(u32::MAX).max(1);
        let (used, free) = (BTreeMap::new(), BTreeMap::new());
        Self { disk, segment_bytes, limit, used, free, quarantined: Vec::new(), read_credit: 0, may_exceed: false }
    }

    pub fn segment_bytes(&self) -> u64 {
        self.segment_bytes
    }

    /// Segments that the size allows.
    pub fn limit(&self) -> u32 {
        self.limit
    }

    pub fn get_mut(&mut self, slot: u32) -> Option<&mut Used> {
        self.used.get_mut(&slot)
    }

    pub fn used(&self) -> impl Iterator<Item = &Used> {
        self.used.values()
    }

    pub fn insert(&mut self, used: Used) {
        self.used.insert(used.segment.slot(), used);
    }

    /// A segment is not in use after all; its file is somebody else's care.
    pub fn forget(&mut self, slot: u32) {
        self.used.remove(&slot);
    }

    pub fn quarantine(&mut self, slot: u32) {
        self.quarantined.push(slot);
    }

    /// Segments that could be taken.
    pub fn free_count(&self) -> usize {
        self.free.len() + self.absent()
    }

    /// Segments that the size allows and that have no file yet.
    fn absent(&self) -> usize {
        (self.limit as usize).saturating_sub(self.used.len() + self.free.len() + self.quarantined.len())
    }

    /// Puts a file that is not in use among the free ones, or removes it where it is of no use.
    pub fn add_free(&mut self, slot: u32, file: Arc<dyn DiskFile>) {
        let fits = file.len_bytes().is_ok_and(|len| len == self.segment_bytes);
        // Where the size was made smaller, the reserve is kept until there is room for it below the new size.
        let within = slot < self.limit && self.used.len() + self.free.len() < self.limit as usize;
        let wanted = within || self.free.len() < RESERVED;
        if fits && wanted {
            self.free.insert(slot, file);
        } else if let Err(error) = self.disk.remove(&file_name(slot)) {
            tracing::warn!(slot, %error, "cannot remove a segment file that is not needed any more");
        }
    }

    /// Creates files until the reserve exists, as far as the disk has room.
    pub fn fill_reserve(&mut self) -> io::Result<()> {
        while self.free.len() < RESERVED && self.absent() > 0 {
            match self.create(self.limit) {
                Ok((slot, file)) => drop(self.free.insert(slot, file)),
                Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                    tracing::warn!("no room on the cache disk for the log's reserve");
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Makes a file in the first slot below `limit` that has none.
    fn create(&self, limit: u32) -> io::Result<(u32, Arc<dyn DiskFile>)> {
        let taken = |slot: &u32| self.used.contains_key(slot) || self.free.contains_key(slot) || self.quarantined.contains(slot);
        let slot = (0..limit).find(|slot| !taken(slot)).ok_or(io::ErrorKind::StorageFull)?;
        Ok((slot, self.disk.create(&file_name(slot), self.segment_bytes)?))
    }

    /// How many free segments `class` must leave.
    pub fn reserve(class: Class) -> usize {
        match class {
            Class::Write => RESERVED,
            Class::Name => RESERVED - 1,
            Class::Move => 0,
        }
    }

    /// Whether a writer of `class` may use what is left of a segment that `opened_for` opened: not where that ate into its reserve.
    pub fn may_share(&self, class: Class, opened_for: Class) -> bool {
        let rank = |class| RESERVED - Self::reserve(class);
        rank(class) >= rank(opened_for) || self.free_count() >= Self::reserve(class)
    }

    /// How many segments [`Class::Write`] may still take.
    pub fn writable(&self) -> usize {
        self.free_count().saturating_sub(RESERVED)
    }

    /// Whether [`Class::Move`] may use more than the size allows, where nothing is free (invariant 9).
    pub fn set_may_exceed(&mut self, may_exceed: bool) {
        self.may_exceed = may_exceed;
    }

    /// Takes a free file for the write head.
    pub fn take(&mut self, class: Class) -> Result<(u32, Arc<dyn DiskFile>), LogError> {
        match self.take_above(Self::reserve(class)) {
            Err(LogError::Full) if self.may_exceed && class == Class::Move => {
                let made = self.create(self.limit.saturating_add(BEYOND));
                made.map_err(|error| if error.kind() == io::ErrorKind::StorageFull { LogError::Full } else { error.into() })
            }
            taken => taken,
        }
    }

    /// Takes a free file for the read head.
    pub fn take_for_reads(&mut self) -> Result<(u32, Arc<dyn DiskFile>), LogError> {
        let plenty = self.free_count() > self.limit as usize / 4;
        if !plenty && self.read_credit == 0 {
            return Err(LogError::Full);
        }
        let taken = self.take_above(RESERVED + 1)?;
        self.read_credit = self.read_credit.saturating_sub(1);
        Ok(taken)
    }

    fn take_above(&mut self, reserve: usize) -> Result<(u32, Arc<dyn DiskFile>), LogError> {
        if self.free_count() <= reserve {
            return Err(LogError::Full);
        }
        if self.free.len() <= reserve {
            match self.create(self.limit) {
                Ok(made) => return Ok(made),
                Err(error) if error.kind() == io::ErrorKind::StorageFull => return Err(LogError::Full),
                Err(error) => return Err(error.into()),
            }
        }
        self.free.pop_first().ok_or(LogError::Full)
    }

    /// Gives back a file that was taken and not used.
    pub fn put_back(&mut self, slot: u32, file: Arc<dyn DiskFile>) {
        self.free.insert(slot, file);
    }

    /// Ends a segment's life.
    pub fn release(&mut self, slot: u32) {
        let Some(used) = self.used.remove(&slot) else { return };
        if used.segment.header.read_head {
            self.read_credit += 1;
        }
        self.add_free(slot, used.segment.file.clone());
    }
}

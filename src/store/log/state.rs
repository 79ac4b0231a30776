//! What the log knows while it runs: [`Inner`], behind the log's one mutex, and what is shared beside it.
//!
//! Lock order: the read head → [`Inner`] → the table of segments → the redirects. None is held across an await; only the
//! mutex of `Inner` and of the read head are held across a write to the disk, none across a flush (but at the start and after a failed write).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use crate::base::disk::Disk;
use crate::base::id::Seq;
use crate::store::log::fetched::Fetched;
use crate::store::log::heads::Heads;
use crate::store::log::segment::Segment;
use crate::store::log::slots::Slots;
use crate::store::log::write::{Head, Summed};
use crate::store::log::{Location, LogError, LogId, Names, Position, Scanned};

/// A batch that is in the file and not flushed: kept to be written again where the flush fails.
pub struct Unflushed {
    pub batch: Vec<Summed>,
    pub seqs: Vec<Seq>,
    pub locations: Vec<Location>,
    pub end: Position,
    pub bytes: u64,
}

/// Everything behind the log's mutex.
pub struct Inner {
    pub slots: Slots,
    pub log_id: LogId,
    pub table: Arc<RwLock<BTreeMap<u32, Arc<Segment>>>>,
    pub write: Option<Head>,
    pub next_ordinal: u64,
    pub last_seq: Seq,
    /// The end of what is appended.
    pub written: Position,
    /// The end of what is durable.
    pub durable: Position,
    /// Segments of the write head with bytes that no flush has covered, in order.
    pub unsynced: Vec<Arc<Segment>>,
    pub unflushed: VecDeque<Unflushed>,
    pub unflushed_bytes: u64,
    /// From here on `room` waits.
    pub unflushed_bytes_max: u64,
    /// A flush is under way.
    pub flushing: bool,
    /// How many flushes failed, where the log was durable up to at the last of them, and what the disk said.
    pub failures: u64,
    pub failed_from: Position,
    pub failure: String,
    /// What is in `unflushed` could not be written elsewhere yet; nothing may be appended before it is.
    pub stranded: bool,
    /// Of what is in `unflushed` some is of an earlier process, which may have made it durable, and said so. Until a flush succeeds.
    pub may_be_durable: bool,
    pub verifier: u64,
    pub names: Option<Names>,
    pub arena: Vec<u8>,
}

/// Where a record went that a failed flush made us write again.
#[derive(Clone)]
pub struct Redirect {
    pub to: Location,
    /// What a scan of the old segment says of it.
    pub scanned: Scanned,
}

/// Redirects by slot and offset of the old place. Empty unless a flush failed.
#[derive(Default)]
pub struct Redirects {
    any: AtomicBool,
    map: RwLock<BTreeMap<(u32, u32), Redirect>>,
}

impl Redirects {
    /// Where the record named by `location` is now.
    pub fn resolve(&self, mut location: Location) -> Location {
        if !self.any.load(Ordering::Acquire) {
            return location;
        }
        let map = self.map.read();
        while let Some(next) = map.get(&(location.slot, location.offset_bytes)) {
            if next.scanned.location.life != location.life || next.to == location {
                break;
            }
            location = next.to;
        }
        location
    }

    pub fn insert(&self, redirect: Redirect) {
        let from = redirect.scanned.location;
        self.map.write().insert((from.slot, from.offset_bytes), redirect);
        self.any.store(true, Ordering::Release);
    }

    /// The records of a slot that are elsewhere now.
    pub fn of_slot(&self, slot: u32) -> Vec<Scanned> {
        let map = self.map.read();
        map.range((slot, 0)..=(slot, u32::MAX)).map(|(_, redirect)| redirect.scanned.clone()).collect()
    }

    /// Forgets those of a slot that is freed.
    pub fn forget(&self, slot: u32) {
        if self.any.load(Ordering::Acquire) {
            self.map.write().retain(|(from, _), _| *from != slot);
        }
    }

    /// Whether a record is still asked for here by its old place.
    pub fn point_to(&self, slot: u32) -> bool {
        self.any.load(Ordering::Acquire) && self.map.read().values().any(|redirect| redirect.to.slot == slot)
    }
}

/// What the handle of the log and its background flushes share.
pub struct Shared {
    pub disk: Arc<dyn Disk>,
    pub inner: Mutex<Inner>,
    pub read_head: Mutex<Option<Head>>,
    pub table: Arc<RwLock<BTreeMap<u32, Arc<Segment>>>>,
    pub redirects: Redirects,
    /// Heads of records that were read lately.
    pub heads: Heads,
    /// Bodies that were put into the read head lately.
    pub fetched: Fetched,
    /// A flush ended.
    pub flushed: Notify,
}

impl Shared {
    /// The segment that a location names, if it still lives that life.
    pub fn segment(&self, location: Location) -> Result<Arc<Segment>, LogError> {
        let found = self.table.read().get(&location.slot).cloned();
        found.filter(|segment| segment.short_life() == location.life).ok_or_else(|| LogError::Corrupt {
            slot: location.slot,
            offset_bytes: location.offset_bytes,
            reason: "the segment is gone or lives another life".into(),
        })
    }
}

//! One blob in memory: its row, the pages of its map that are loaded, and what each kind of record does to them.
//!
//! Everything here is synchronous and happens under the blob's lock. Writers and replay call the same functions in the
//! same order, so that a replay ends where the writers were.
//!
//! Invariants:
//! 1. Every extent lies below `len_bytes`, every clean one below `remote_len_bytes`; `remote_len_bytes <= len_bytes`.
//! 2. A page that `directory` names and `pages` lacks is in the metadata as it was; who changes a range has its pages loaded.
//! 3. What a change displaces is kept for each generation that is frozen and still had it, before it is gone.
//! 4. `Delta` tells the accounts of every byte of the log that became live, dead, dirty or clean.
//! 5. `cuts` has, for every number that an upload may be through with, the smallest length since: what a truncation took
//!    after the freeze does not come back when S3 gets the frozen bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use parking_lot::Mutex;

use super::kept::{Kept, KeptPlace};
use super::map::{Extent, ExtentMap, Piece, Place};
use super::page::{Cut, Head};
use super::read_ahead::ReadAhead;
use super::{BlobInfo, PAGE_SPAN_BYTES};
use crate::base::id::{BlobId, OwnerId, Seq};
use crate::store::log::Location;
use crate::store::meta::BlobRow;

/// `BlobRow::flags`: some dirty bytes were lost to damage.
pub const FLAG_DAMAGED: u64 = 1;
/// At most so many pages get holes when S3 first has a sparse range; a larger one is left to S3's zeros.
const HOLE_PAGES_MAX: u64 = 1_024;
/// Truncations that are told apart.
const CUTS_MAX: usize = 64;

/// A blob that is loaded.
pub struct Blob {
    /// Its id.
    pub id: BlobId,
    /// Everything of it.
    pub state: Mutex<State>,
    /// Held while pages are loaded, so that nobody puts an older page over a newer one.
    pub loading: tokio::sync::Mutex<()>,
    /// Held by an append of several records.
    pub appending: tokio::sync::Mutex<()>,
    /// Used since the evictor last looked.
    pub recent: AtomicBool,
    /// Owner and last name, where there is one: apart from the state, since the log asks for it.
    pub name: Mutex<Option<(OwnerId, Vec<u8>)>>,
}

impl Blob {
    /// Around a state.
    pub fn new(id: BlobId, state: State) -> Arc<Self> {
        let name = (!state.row.hint.is_empty()).then(|| (state.row.owner, state.row.hint.clone()));
        Arc::new(Self {
            id,
            name: Mutex::new(name),
            state: Mutex::new(state),
            loading: tokio::sync::Mutex::new(()),
            appending: tokio::sync::Mutex::new(()),
            recent: AtomicBool::new(true),
        })
    }
}

/// A generation that is frozen.
#[derive(Debug)]
pub struct Frozen {
    /// To find it again.
    pub id: u64,
    /// Its length in bytes: nothing beyond is kept.
    pub len_bytes: u64,
    /// What the blob no longer has.
    pub kept: Kept,
}

/// What a change did to the log's live bytes.
#[derive(Debug, Default)]
pub struct Delta {
    /// Whose bytes.
    pub owner: OwnerId,
    /// Slot and life; dirty, clean and kept bytes more (or fewer).
    pub segments: Vec<((u32, u32), [i64; 3])>,
    /// Extents in memory more (or fewer).
    pub extents: i64,
}

impl Delta {
    /// Dirty bytes more.
    pub fn dirty(&mut self, at: Location, bytes: i64) {
        self.add(at, [bytes, 0, 0]);
    }

    /// Clean bytes more.
    pub fn clean(&mut self, at: Location, bytes: i64) {
        self.add(at, [0, bytes, 0]);
    }

    /// Kept bytes more.
    pub fn kept(&mut self, at: Location, bytes: i64) {
        self.add(at, [0, 0, bytes]);
    }

    fn add(&mut self, at: Location, more: [i64; 3]) {
        let key = (at.slot, at.life);
        match self.segments.last_mut() {
            Some((last, sums)) if *last == key => sums.iter_mut().zip(more).for_each(|(sum, more)| *sum += more),
            _ => self.segments.push((key, more)),
        }
    }
}

/// What a checkpoint takes of a blob.
pub struct Image {
    /// `None`: it is gone.
    pub row: Option<BlobRow>,
    /// Its head, and the pages that changed; `None`: empty now.
    pub head: Head,
    /// See `head`.
    pub pages: Vec<(u64, Option<Arc<ExtentMap>>)>,
}

/// See the module.
pub struct State {
    /// Without `source`.
    row: BlobRow,
    /// See [`BlobInfo::source`].
    pub source: Bytes,
    /// Changes whenever remote bytes may be elsewhere than before.
    pub source_epoch: u64,
    /// Removed: only generations still read it.
    pub removed: bool,
    /// Loaded pages that are not empty.
    pages: BTreeMap<u64, Arc<ExtentMap>>,
    /// All pages that are not empty, with a number that none of its extents exceeds.
    directory: BTreeMap<u64, Seq>,
    cuts: Vec<Cut>,
    /// A generation may have been frozen since the last cut.
    frozen_since_cut: bool,
    /// Below this number cuts are not told apart any more.
    blurred: Seq,
    allocated_bytes: u64,
    /// See [`Head::dirty_since_ns`].
    pub dirty_since_ns: i64,
    /// Changed since the last checkpoint.
    dirty_pages: BTreeSet<u64>,
    /// In a checkpoint that is under way.
    flight_pages: BTreeSet<u64>,
    in_flight: bool,
    /// Changed since the last checkpoint; the store has it on its list.
    pub listed: bool,
    /// Frozen generations.
    pub generations: Vec<Frozen>,
    /// Where sequential reads are.
    pub ahead: ReadAhead,
}

/// The pages that a range touches, and its part in each.
fn pages_of(range: &Range<u64>) -> impl Iterator<Item = (u64, Range<u64>)> + use<> {
    let range = range.clone();
    let last = if range.start < range.end { (range.end - 1) / PAGE_SPAN_BYTES + 1 } else { range.start / PAGE_SPAN_BYTES };
    (range.start / PAGE_SPAN_BYTES..last).map(move |page| {
        let start = page * PAGE_SPAN_BYTES;
        (page, range.start.max(start)..range.end.min(start + PAGE_SPAN_BYTES))
    })
}

/// The numbers of the pages that a range touches.
fn page_numbers(range: &Range<u64>) -> Range<u64> {
    range.start / PAGE_SPAN_BYTES..range.end.div_ceil(PAGE_SPAN_BYTES).max(range.start / PAGE_SPAN_BYTES)
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Life of a blob: made, loaded, stored.
impl State {
    /// A new blob whose first `len_bytes` are in S3 as `source` says.
    pub fn create(owner: OwnerId, len_bytes: u64, source: Bytes, seq: Seq, time_ns: i64) -> Self {
        let remote_len_bytes = if source.is_empty() { 0 } else { len_bytes };
        let row = BlobRow {
            owner,
            len_bytes,
            remote_len_bytes,
            // What S3 has is the whole blob, so it begins clean; one that S3 has nothing of begins dirty.
            clean_through: if source.is_empty() { Seq(0) } else { seq },
            modified_seq: seq,
            modified_ns: time_ns,
            len_seq: seq,
            ..BlobRow::default()
        };
        let dirty_since_ns = if source.is_empty() { time_ns } else { 0 };
        let head = Head { allocated_bytes: remote_len_bytes, dirty_since_ns, ..Head::default() };
        let mut state = Self::load(BlobRow { source: source.to_vec(), ..row }, head);
        state.frozen_since_cut = false;
        state
    }

    /// A blob as of the last checkpoint, no page loaded.
    pub fn load(mut row: BlobRow, head: Head) -> Self {
        let source = Bytes::from(std::mem::take(&mut row.source));
        let seq_max = |dirty| if dirty { Seq(u64::MAX) } else { Seq(0) };
        Self {
            row,
            source,
            source_epoch: 0,
            removed: false,
            pages: BTreeMap::new(),
            directory: head.pages.into_iter().map(|(page, dirty)| (page, seq_max(dirty))).collect(),
            cuts: head.cuts,
            frozen_since_cut: true,
            blurred: head.blurred,
            allocated_bytes: head.allocated_bytes,
            dirty_since_ns: head.dirty_since_ns,
            dirty_pages: BTreeSet::new(),
            flight_pages: BTreeSet::new(),
            in_flight: false,
            listed: false,
            generations: Vec::new(),
            ahead: ReadAhead::default(),
        }
    }

    /// What a checkpoint stores; from here on it is in flight.
    pub fn image(&mut self) -> Image {
        self.listed = false;
        self.in_flight = true;
        self.flight_pages = std::mem::take(&mut self.dirty_pages);
        if self.removed {
            return Image { row: None, head: Head::default(), pages: Vec::new() };
        }
        let clean = self.row.clean_through;
        let head = Head {
            allocated_bytes: self.allocated_bytes,
            dirty_since_ns: self.dirty_since_ns,
            cuts: self.cuts.clone(),
            blurred: self.blurred,
            pages: self.directory.iter().map(|(&page, &seq_max)| (page, seq_max > clean)).collect(),
        };
        let pages = self.flight_pages.iter().map(|page| (*page, self.pages.get(page).cloned())).collect();
        Image { row: Some(BlobRow { source: self.source.to_vec(), ..self.row.clone() }), head, pages }
    }

    /// The checkpoint under way is stored, or failed: then its pages are dirty again.
    pub fn landed(&mut self, stored: bool) {
        self.in_flight = false;
        let pages = std::mem::take(&mut self.flight_pages);
        if !stored {
            self.dirty_pages.extend(pages);
        }
    }

    /// Whether nothing of it would be lost if it were loaded anew.
    pub fn is_evictable(&self) -> bool {
        !self.listed && !self.in_flight && self.generations.is_empty()
    }

    /// Forgets loaded pages that a checkpoint has. Returns how many extents.
    pub fn evict_pages(&mut self) -> usize {
        let pinned = |page: &u64| self.dirty_pages.contains(page) || self.flight_pages.contains(page);
        let before = self.extents();
        let (keep, _): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(&mut self.pages).into_iter().partition(|(page, _)| pinned(page));
        self.pages = keep;
        before - self.extents()
    }

    /// Extents in memory.
    pub fn extents(&self) -> usize {
        self.pages.values().map(|map| map.len()).sum()
    }

    /// Pages that the range touches, that exist and are not loaded.
    pub fn missing(&self, range: &Range<u64>) -> Vec<u64> {
        let numbers = page_numbers(range);
        let named = self.directory.range(numbers).map(|(page, _)| *page);
        named.filter(|page| !self.pages.contains_key(page)).collect()
    }

    /// As `missing`, of pages that may have dirty extents, anywhere.
    pub fn missing_dirty(&self) -> Vec<u64> {
        let named = self.directory.iter().filter(|(_, seq_max)| **seq_max > self.row.clean_through);
        named.map(|(page, _)| *page).filter(|page| !self.pages.contains_key(page)).collect()
    }

    /// As `missing`, of pages that `clean_through` looks at.
    pub fn missing_for_clean(&self, len_bytes: u64) -> Vec<u64> {
        let mut missing = self.missing_dirty();
        missing.extend(self.missing(&(len_bytes.min(self.row.remote_len_bytes)..self.row.remote_len_bytes)));
        missing
    }

    /// Whether a page exists and is not loaded.
    pub fn missing_page(&self, page: u64) -> bool {
        self.directory.contains_key(&page) && !self.pages.contains_key(&page)
    }

    /// A page was read from the metadata.
    pub fn put_page(&mut self, page: u64, map: ExtentMap) {
        if map.is_empty() {
            self.directory.remove(&page);
        } else if self.directory.contains_key(&page) && !self.pages.contains_key(&page) {
            self.directory.insert(page, map.seq_max());
            self.pages.insert(page, Arc::new(map));
        }
    }
}

/// What it is.
impl State {
    /// For a change that is about to happen.
    pub fn delta(&self) -> Delta {
        Delta { owner: self.row.owner, ..Delta::default() }
    }

    /// See [`BlobInfo`].
    pub fn info(&self) -> BlobInfo {
        BlobInfo {
            len_bytes: self.row.len_bytes,
            modified_ns: self.row.modified_ns,
            modified_seq: self.row.modified_seq,
            clean_through: self.row.clean_through,
            source: self.source.clone(),
            damaged: self.row.flags & FLAG_DAMAGED != 0,
        }
    }

    /// The row, without its source.
    pub fn row(&self) -> &BlobRow {
        &self.row
    }

    /// Some dirty bytes are lost.
    pub fn set_damaged(&mut self) {
        self.row.flags |= FLAG_DAMAGED;
    }

    /// The last name.
    pub fn set_hint(&mut self, hint: &[u8]) {
        self.row.hint = hint.to_vec();
    }

    /// See [`Head::allocated_bytes`].
    pub fn allocated_bytes(&self) -> u64 {
        self.allocated_bytes
    }

    /// Whether S3 lacks an extent.
    pub fn is_dirty(&self, extent: &Extent) -> bool {
        extent.seq > self.row.clean_through
    }

    /// Whether an extent may be dropped: S3 has its bytes, and a gap says so.
    pub fn is_droppable(&self, extent: &Extent) -> bool {
        !self.is_dirty(extent) && extent.end() <= self.row.remote_len_bytes
    }

    /// The stretches of a range in order; gaps are as long as they can be. Its pages are loaded.
    pub fn pieces(&self, range: Range<u64>) -> Vec<Piece> {
        debug_assert!(self.missing(&range).is_empty());
        let mut pieces = Vec::new();
        let mut at = range.start;
        for (&page, map) in self.pages.range(page_numbers(&range)) {
            let start = (page * PAGE_SPAN_BYTES).max(range.start);
            let end = (page * PAGE_SPAN_BYTES + PAGE_SPAN_BYTES).min(range.end);
            for piece in map.pieces(start..end) {
                if let Piece::Extent(extent) = piece {
                    if at < extent.offset {
                        pieces.push(Piece::Gap(at, extent.offset));
                    }
                    at = extent.end();
                    pieces.push(piece);
                }
            }
        }
        if at < range.end {
            pieces.push(Piece::Gap(at, range.end));
        }
        pieces
    }

    /// Extents of a range, in order.
    pub fn extents_in(&self, range: Range<u64>) -> impl Iterator<Item = Extent> {
        self.pieces(range).into_iter().filter_map(|piece| match piece {
            Piece::Extent(extent) => Some(extent),
            Piece::Gap(..) => None,
        })
    }

    /// The ranges that differ from what S3 has: dirty extents, and gaps past the remote length. Pages with dirty extents are loaded.
    pub fn changed(&self) -> Vec<Range<u64>> {
        let mut changed: Vec<Range<u64>> = Vec::new();
        let mut add = |range: Range<u64>| match changed.last_mut() {
            Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
            _ if range.start < range.end => changed.push(range),
            _ => {}
        };
        let tail = self.row.remote_len_bytes;
        for (page, _) in self.directory.iter().filter(|(_, seq_max)| **seq_max > self.row.clean_through) {
            for extent in self.pages.get(page).into_iter().flat_map(|map| map.iter()) {
                if self.is_dirty(extent) && extent.offset < tail {
                    add(extent.offset..extent.end().min(tail));
                }
            }
        }
        add(tail..self.row.len_bytes);
        changed
    }

    /// Bytes of a range that are data.
    fn allocated_in(&self, range: &Range<u64>) -> u64 {
        let remote = self.row.remote_len_bytes;
        let mut bytes = range.end.min(remote).saturating_sub(range.start.min(remote));
        for (_, map) in self.pages.range(page_numbers(range)) {
            for piece in map.pieces(range.clone()) {
                let Piece::Extent(extent) = piece else { continue };
                let below = extent.end().min(remote).saturating_sub(extent.offset);
                match extent.place {
                    Place::Log { .. } => bytes += extent.len - below,
                    Place::Hole => bytes -= below,
                }
            }
        }
        bytes
    }
}

/// What records do.
impl State {
    /// `Data`: the bytes of `offset..offset + len` are in the record at `location`.
    pub fn write(&mut self, seq: Seq, location: Location, offset: u64, len: u64, time_ns: i64, delta: &mut Delta) {
        let range = offset..offset + len;
        self.allocated_bytes = (self.allocated_bytes + len).saturating_sub(self.allocated_in(&range));
        self.replace(range.clone(), seq, Some(Place::Log { location, skip_bytes: 0 }), delta);
        delta.dirty(location, signed(len));
        if range.end > self.row.len_bytes {
            self.row.len_bytes = range.end;
            self.row.len_seq = seq;
        }
        self.touch(seq, time_ns);
    }

    /// `SetLength`.
    pub fn set_length(&mut self, seq: Seq, len_bytes: u64, time_ns: i64, delta: &mut Delta) {
        if len_bytes < self.row.len_bytes {
            self.cut(seq, len_bytes, delta);
        }
        self.row.len_bytes = len_bytes;
        self.row.len_seq = seq;
        self.touch(seq, time_ns);
    }

    /// `Discard`.
    pub fn discard(&mut self, seq: Seq, range: Range<u64>, time_ns: i64, delta: &mut Delta) {
        let range = range.start..range.end.min(self.row.len_bytes);
        if range.start >= range.end {
            return;
        }
        if range.end == self.row.len_bytes {
            self.cut(seq, range.start, delta);
        } else {
            self.allocated_bytes = self.allocated_bytes.saturating_sub(self.allocated_in(&range));
            let remote = self.row.remote_len_bytes;
            for piece in self.pieces(range) {
                // A gap past what S3 has is zeros already.
                let part = match piece {
                    Piece::Extent(extent) => extent.range(),
                    Piece::Gap(from, to) => from..to.min(remote),
                };
                self.replace(part, seq, Some(Place::Hole), delta);
            }
        }
        self.touch(seq, time_ns);
    }

    /// `RemoveBlob`.
    pub fn remove(&mut self, delta: &mut Delta) {
        self.replace(0..self.row.len_bytes, Seq(u64::MAX), None, delta);
        self.removed = true;
        self.source_epoch += 1;
        self.dirty_since_ns = 0;
        self.dirty_pages.clear();
    }

    /// `CleanThrough`: S3 has what was frozen at `through`, `len_bytes` of it, as `source`.
    pub fn clean_through(&mut self, through: Seq, len_bytes: u64, source: Bytes, delta: &mut Delta) {
        if through < self.row.clean_through {
            return;
        }
        if through < self.blurred {
            // Too many cuts ago to say which bytes of it are still ours: what was remote is elsewhere, the rest stays dirty.
            return self.rebase(source);
        }
        self.count_clean(through, delta);
        let kept = self.cuts.iter().filter(|cut| cut.seq > through).map(|cut| cut.len_bytes).min();
        self.cuts.retain(|cut| cut.seq > through);
        self.row.clean_through = through;
        self.set_remote_len(through, len_bytes.min(kept.unwrap_or(u64::MAX)).min(self.row.len_bytes), delta);
        self.rebase(source);
        self.dirty_since_ns = if self.row.modified_seq > through { self.row.modified_ns } else { 0 };
    }

    /// The same remote bytes are elsewhere.
    pub fn rebase(&mut self, source: Bytes) {
        self.source = source;
        self.source_epoch += 1;
    }

    /// What is dirty up to `through` is clean from now on.
    fn count_clean(&mut self, through: Seq, delta: &mut Delta) {
        let old = self.row.clean_through;
        let dirty: Vec<u64> = self.directory.iter().filter(|(_, seq_max)| **seq_max > old).map(|(page, _)| *page).collect();
        for page in dirty {
            let Some(map) = self.pages.get(&page) else { continue };
            for extent in map.iter().filter(|extent| extent.seq > old && extent.seq <= through) {
                if let Some(location) = extent.location() {
                    delta.dirty(location, -signed(extent.len));
                    delta.clean(location, signed(extent.len));
                }
            }
            self.directory.insert(page, map.seq_max());
        }
    }

    /// S3 has zeros where there is a gap between the old remote length and the new one: said by holes where they are few.
    fn set_remote_len(&mut self, seq: Seq, remote: u64, delta: &mut Delta) {
        let old = std::mem::replace(&mut self.row.remote_len_bytes, remote);
        let (grown, shrunk) = (old..remote.max(old), remote..old.max(remote));
        let few = page_numbers(&grown).count() as u64 <= HOLE_PAGES_MAX;
        for piece in self.pieces(grown) {
            match piece {
                Piece::Gap(from, to) if few => self.put(from..to, seq, Place::Hole, delta),
                Piece::Gap(from, to) => self.allocated_bytes += to - from,
                Piece::Extent(_) => {}
            }
        }
        for piece in self.pieces(shrunk) {
            if let Piece::Gap(from, to) = piece {
                self.allocated_bytes = self.allocated_bytes.saturating_sub(to - from);
            }
        }
    }

    /// All from `len_bytes` on reads as zeros, whatever S3 has or is about to get.
    fn cut(&mut self, seq: Seq, len_bytes: u64, delta: &mut Delta) {
        let range = len_bytes..self.row.len_bytes;
        self.allocated_bytes = self.allocated_bytes.saturating_sub(self.allocated_in(&range));
        self.replace(range, seq, None, delta);
        self.row.remote_len_bytes = self.row.remote_len_bytes.min(len_bytes);
        let before = self.cuts.len();
        self.cuts.retain(|cut| cut.len_bytes < len_bytes);
        // After a smaller cut without a freeze between them, no upload can be through with a number that tells them apart.
        if self.cuts.is_empty() || self.cuts.len() < before || self.frozen_since_cut {
            self.cuts.push(Cut { seq, len_bytes });
            self.frozen_since_cut = false;
        }
        if self.cuts.len() > CUTS_MAX {
            self.cuts[1].len_bytes = self.cuts[0].len_bytes;
            self.cuts.remove(0);
            self.blurred = self.cuts[0].seq;
        }
    }

    fn touch(&mut self, seq: Seq, time_ns: i64) {
        if self.dirty_since_ns == 0 {
            self.dirty_since_ns = time_ns;
        }
        self.row.modified_seq = seq;
        self.row.modified_ns = time_ns;
    }
}

/// What only changes where bytes are.
impl State {
    /// Fetched bytes of a range are in the record at `location`, which begins at `base`. Only gaps take them.
    pub fn put_fetched(&mut self, range: Range<u64>, location: Location, base: u64, delta: &mut Delta) {
        let seq = self.row.clean_through;
        for (from, to) in self.remote_gaps(range) {
            let skip_bytes = u32::try_from(from - base).unwrap_or(u32::MAX);
            self.put(from..to, seq, Place::Log { location, skip_bytes }, delta);
            delta.clean(location, signed(to - from));
        }
    }

    /// The gaps of a range that are bytes in S3.
    pub fn remote_gaps(&self, range: Range<u64>) -> Vec<(u64, u64)> {
        let end = range.end.min(self.row.remote_len_bytes);
        let pieces = self.pieces(range.start..end.max(range.start));
        pieces.into_iter().filter_map(|piece| if let Piece::Gap(from, to) = piece { Some((from, to)) } else { None }).collect()
    }

    /// Drops the droppable extents of a range, all of them or those of one record. Returns how many bytes.
    pub fn drop_clean(&mut self, range: Range<u64>, at: Option<Location>, delta: &mut Delta) -> u64 {
        let mut dropped = 0;
        let extents: Vec<Extent> = self.extents_in(range).collect();
        for extent in extents {
            let Some(location) = extent.location() else { continue };
            if self.is_droppable(&extent) && at.is_none_or(|at| at == location) {
                delta.clean(location, -signed(extent.len));
                self.change_page(extent.offset / PAGE_SPAN_BYTES, delta, |map| {
                    map.remove(&extent.range());
                });
                dropped += extent.len;
            }
        }
        dropped
    }

    /// Extents of a range for which `is_it` holds are in the record at `to` now, which begins at `base`.
    pub fn relocate(&mut self, range: Range<u64>, is_it: impl Fn(&Extent) -> bool, to: Location, base: u64, delta: &mut Delta) {
        let extents: Vec<Extent> = self.extents_in(range).filter(|extent| is_it(extent)).collect();
        for extent in extents {
            let Some(from) = extent.location() else { continue };
            let bytes = signed(extent.len);
            if self.is_dirty(&extent) {
                delta.dirty(from, -bytes);
                delta.dirty(to, bytes);
            } else {
                delta.clean(from, -bytes);
                delta.clean(to, bytes);
            }
            let skip_bytes = u32::try_from(extent.offset - base).unwrap_or(u32::MAX);
            self.put(extent.range(), extent.seq, Place::Log { location: to, skip_bytes }, delta);
        }
    }

    /// As `relocate`, of what generations keep: the stretches of a range that are at `from`.
    pub fn relocate_kept(&mut self, range: Range<u64>, from: Location, to: Location, base: u64, delta: &mut Delta) {
        for frozen in &mut self.generations {
            let moved = signed(frozen.kept.relocate(range.clone(), from, to, base));
            delta.kept(from, -moved);
            delta.kept(to, moved);
        }
    }

    /// Every location is what `resolve` says of it now.
    pub fn follow(&mut self, resolve: impl Fn(Location) -> Location, delta: &mut Delta) {
        let extents: Vec<Extent> = self.pages.values().flat_map(|map| map.iter().copied()).collect();
        for extent in extents {
            let Place::Log { location, skip_bytes } = extent.place else { continue };
            let to = resolve(location);
            if to != location {
                let base = extent.offset - u64::from(skip_bytes).min(extent.offset);
                self.relocate(extent.range(), |_| true, to, base, delta);
            }
        }
        for frozen in &mut self.generations {
            for (range, location, skip_bytes) in frozen.kept.places() {
                let to = resolve(location);
                if to != location {
                    let moved = signed(frozen.kept.relocate(range.clone(), location, to, range.start - u64::from(skip_bytes)));
                    delta.kept(location, -moved);
                    delta.kept(to, moved);
                }
            }
        }
    }

    /// A generation begins: everything as it is now.
    pub fn freeze(&mut self, id: u64) {
        self.frozen_since_cut = true;
        self.generations.push(Frozen { id, len_bytes: self.row.len_bytes, kept: Kept::default() });
    }

    /// A generation ends.
    pub fn thaw(&mut self, id: u64, delta: &mut Delta) {
        let (gone, rest) = std::mem::take(&mut self.generations).into_iter().partition(|frozen| frozen.id == id);
        self.generations = rest;
        let gone: Vec<Frozen> = gone;
        for (range, location, _) in gone.iter().flat_map(|frozen| frozen.kept.places()) {
            delta.kept(location, -signed(range.end - range.start));
        }
    }

    /// Puts an extent (or nothing) over a range; what was there is kept for generations, and is dead.
    fn replace(&mut self, range: Range<u64>, seq: Seq, place: Option<Place>, delta: &mut Delta) {
        self.keep_aside(&range, delta);
        if place.is_none() {
            let extents: Vec<Extent> = self.extents_in(range.clone()).collect();
            self.dead(&extents, delta);
            let pages: Vec<u64> = self.pages.range(page_numbers(&range)).map(|(page, _)| *page).collect();
            for page in pages {
                self.change_page(page, delta, |map| {
                    map.remove(&range);
                });
            }
        } else if let Some(place) = place {
            let whole = Extent { offset: range.start, len: range.end.saturating_sub(range.start), seq, place };
            for (page, part) in pages_of(&range) {
                let mut displaced = Vec::new();
                self.change_page(page, delta, |map| displaced = map.insert(whole.slice(part)));
                self.dead(&displaced, delta);
            }
        }
    }

    /// Puts an extent over what says the same.
    fn put(&mut self, range: Range<u64>, seq: Seq, place: Place, delta: &mut Delta) {
        let whole = Extent { offset: range.start, len: range.end.saturating_sub(range.start), seq, place };
        for (page, part) in pages_of(&range) {
            self.change_page(page, delta, |map| {
                map.insert(whole.slice(part));
            });
        }
    }

    /// Extents that are no longer in the map.
    fn dead(&self, extents: &[Extent], delta: &mut Delta) {
        for extent in extents {
            match extent.location() {
                Some(location) if self.is_dirty(extent) => delta.dirty(location, -signed(extent.len)),
                Some(location) => delta.clean(location, -signed(extent.len)),
                None => {}
            }
        }
    }

    /// Changes a page, which is loaded or empty.
    fn change_page(&mut self, page: u64, delta: &mut Delta, change: impl FnOnce(&mut ExtentMap)) {
        debug_assert!(self.pages.contains_key(&page) || !self.directory.contains_key(&page), "page {page} is not loaded");
        let map = Arc::make_mut(self.pages.entry(page).or_default());
        let before = signed(map.len() as u64);
        change(map);
        delta.extents += signed(map.len() as u64) - before;
        self.dirty_pages.insert(page);
        if map.is_empty() {
            self.pages.remove(&page);
            self.directory.remove(&page);
        } else {
            self.directory.insert(page, map.seq_max());
        }
    }

    /// Keeps what a range has now for every generation that has it and does not keep it yet.
    fn keep_aside(&mut self, range: &Range<u64>, delta: &mut Delta) {
        if self.generations.is_empty() {
            return;
        }
        let remote = self.row.remote_len_bytes;
        let mut generations = std::mem::take(&mut self.generations);
        for frozen in &mut generations {
            let end = range.end.min(frozen.len_bytes).max(range.start);
            for missing in frozen.kept.missing(range.start..end) {
                for piece in self.pieces(missing) {
                    match piece {
                        Piece::Extent(extent) => {
                            if let Some(location) = extent.location() {
                                delta.kept(location, signed(extent.len));
                            }
                            frozen.kept.keep(extent.range(), KeptPlace::Local(extent.place));
                        }
                        Piece::Gap(from, to) => {
                            let middle = remote.clamp(from, to);
                            if from < middle {
                                frozen.kept.keep(from..middle, KeptPlace::Remote(self.source.clone()));
                            }
                            if middle < to {
                                frozen.kept.keep(middle..to, KeptPlace::Local(Place::Hole));
                            }
                        }
                    }
                }
            }
        }
        self.generations = generations;
    }
}

//! One blob in memory: its row, the pages of its map that are loaded, and what each kind of record does to them.
//!
//! `state/change.rs` has the records, `state/place.rs` what only changes where bytes are, `state/stored.rs` what of it is in memory and what in the metadata. Everything here is synchronous and happens under the blob's lock. Writers and replay call the same functions in the
//! same order, so that a replay ends where the writers were.
//!
//! Invariants:
//! 1. Every extent lies below `len_bytes`, every clean one below `remote_len_bytes`; `remote_len_bytes <= len_bytes`.
//! 2. A page that `directory` names and `pages` lacks is in the metadata as it was; who changes a range has its pages loaded.
//! 3. What a change displaces is kept for each generation that is frozen and still had it, before it is gone.
//! 4. `Delta` tells the accounts of every byte of the log that became live, dead, dirty or clean.
//! 5. `cuts` has, for every number that an upload may be through with, the smallest length since: what a truncation took
//!    after the freeze does not come back when S3 gets the frozen bytes.

mod change;
mod place;
mod stored;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use parking_lot::Mutex;

use super::delta::{Delta, signed};
use super::kept::Kept;
use super::map::{Extent, ExtentMap, Piece, Place};
use super::page::Cut;
use super::read_ahead::ReadAhead;
use super::{BlobInfo, PAGE_SPAN_BYTES};
use crate::base::id::{BlobId, OwnerId, Seq};
use crate::store::meta::BlobRow;
pub use stored::Image;

/// `BlobRow::flags`: some dirty bytes were lost to damage.
pub const FLAG_DAMAGED: u64 = 1;

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
            allocated_bytes: self.allocated_bytes,
        }
    }

    /// The row, without its source.
    pub fn row(&self) -> &BlobRow {
        &self.row
    }

    /// Whether some dirty bytes are lost.
    pub fn set_damaged(&mut self, is_damaged: bool) {
        self.row.flags = self.row.flags & !FLAG_DAMAGED | if is_damaged { FLAG_DAMAGED } else { 0 };
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

    /// The part of an extent that is all of a range, where its page is in memory.
    pub fn whole(&self, range: &Range<u64>) -> Option<Extent> {
        let page = range.start / PAGE_SPAN_BYTES;
        if range.is_empty() || (range.end - 1) / PAGE_SPAN_BYTES != page {
            return None;
        }
        self.pages.get(&page)?.whole(range)
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

/// How pages change.
impl State {
    /// Puts an extent over what says the same.
    fn put(&mut self, range: Range<u64>, seq: Seq, place: Place, delta: &mut Delta) {
        let whole = Extent { offset: range.start, len: range.end.saturating_sub(range.start), seq, place };
        for (page, part) in pages_of(&range) {
            self.change_page(page, seq, delta, |map| {
                map.insert(whole.slice(part));
            });
        }
    }

    /// Changes a page, which is loaded or empty, by extents with numbers up to `seq`.
    fn change_page(&mut self, page: u64, seq: Seq, delta: &mut Delta, change: impl FnOnce(&mut ExtentMap)) {
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
            let seq_max = self.directory.entry(page).or_default();
            *seq_max = seq.max(*seq_max);
        }
    }
}

//! What only changes where a blob's bytes are: fetched, dropped, moved, frozen.

use std::ops::Range;

use super::{Frozen, State};
use crate::base::id::Seq;
use crate::store::blob::PAGE_SPAN_BYTES;
use crate::store::blob::delta::{Delta, signed};
use crate::store::blob::kept::Kept;
use crate::store::blob::map::{Extent, Piece, Place};
use crate::store::log::Location;

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

    /// Fetched bytes of a range are zeros: known, without a record.
    pub fn put_fetched_zeros(&mut self, range: Range<u64>, delta: &mut Delta) {
        let seq = self.row.clean_through;
        for (from, to) in self.remote_gaps(range) {
            self.put(from..to, seq, Place::Hole, delta);
            self.allocated_bytes = self.allocated_bytes.saturating_sub(to - from);
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
                self.change_page(extent.offset / PAGE_SPAN_BYTES, Seq(0), delta, |map| {
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

    /// In a replay nobody says when generations were frozen: one may have been before any record, and its upload may follow.
    pub fn expect_frozen(&mut self) {
        self.frozen_since_cut = true;
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
}

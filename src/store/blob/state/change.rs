//! What each kind of record does to a blob, when it is written and when it is replayed.

use std::ops::Range;

use bytes::Bytes;

use super::{State, page_numbers, pages_of};
use crate::base::id::Seq;
use crate::store::blob::delta::{Delta, signed};
use crate::store::blob::kept::KeptPlace;
use crate::store::blob::map::{Extent, Piece, Place};
use crate::store::blob::page::Cut;
use crate::store::log::Location;

/// At most so many pages get holes when S3 first has a sparse range; a larger one is left to S3's zeros.
const HOLE_PAGES_MAX: u64 = 1_024;
/// Truncations that are told apart.
const CUTS_MAX: usize = 64;

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
        // All that was frozen could be read: what was lost before is overwritten, or cut off.
        self.set_damaged(false);
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
    /// Puts an extent (or nothing) over a range; what was there is kept for generations, and is dead.
    fn replace(&mut self, range: Range<u64>, seq: Seq, place: Option<Place>, delta: &mut Delta) {
        self.keep_aside(&range, delta);
        if place.is_none() {
            let extents: Vec<Extent> = self.extents_in(range.clone()).collect();
            self.dead(&extents, delta);
            let pages: Vec<u64> = self.pages.range(page_numbers(&range)).map(|(page, _)| *page).collect();
            for page in pages {
                self.change_page(page, Seq(0), delta, |map| {
                    map.remove(&range);
                });
            }
        } else if let Some(place) = place {
            let whole = Extent { offset: range.start, len: range.end.saturating_sub(range.start), seq, place };
            for (page, part) in pages_of(&range) {
                let mut displaced = Vec::new();
                self.change_page(page, seq, delta, |map| displaced = map.insert(whole.slice(part)));
                self.dead(&displaced, delta);
            }
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

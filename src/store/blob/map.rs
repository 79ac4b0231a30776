//! The extent map: which record of the log has which bytes of a blob. Pure; one map is one page of a blob.
//!
//! Invariants:
//! 1. Extents are ordered by offset, do not overlap, and none is empty.
//! 2. `insert` takes the higher number per byte, so the order of insertions does not matter. Of equal numbers the later
//!    insertion wins: it is the same bytes at another place.
//! 3. Neighbours that continue each other (same number, same record, adjoining bytes) are one extent.
//!
//! What no extent covers is a *gap*: what it means is the blob's row's business.

use std::ops::Range;

use crate::base::id::Seq;
use crate::store::log::Location;

/// Where the bytes of an extent are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a record of the log.
    Log {
        /// The record.
        location: Location,
        /// The extent's first byte in the record's body, in bytes.
        skip_bytes: u32,
    },
    /// Nowhere: zeros.
    Hole,
}

/// A range of a blob whose bytes have one number and one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First byte in the blob.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
    /// The number of the change that made it.
    pub seq: Seq,
    /// Where the bytes are.
    pub place: Place,
}

impl Extent {
    /// One past its last byte.
    pub fn end(&self) -> u64 {
        self.offset + self.len
    }

    /// Its range in the blob.
    pub fn range(&self) -> Range<u64> {
        self.offset..self.end()
    }

    /// Whether it is bytes in the log.
    pub fn location(&self) -> Option<Location> {
        match self.place {
            Place::Log { location, .. } => Some(location),
            Place::Hole => None,
        }
    }

    /// The part of it in `range`, which must lie inside.
    pub fn slice(&self, range: Range<u64>) -> Self {
        debug_assert!(self.offset <= range.start && range.end <= self.end() && range.start < range.end);
        let place = match self.place {
            Place::Log { location, skip_bytes } => {
                // A body is at most 1 MiB, so what is skipped in it fits.
                let skip_bytes = skip_bytes + u32::try_from(range.start - self.offset).unwrap_or(u32::MAX);
                Place::Log { location, skip_bytes }
            }
            Place::Hole => Place::Hole,
        };
        Self { offset: range.start, len: range.end - range.start, seq: self.seq, place }
    }

    /// Whether `next` continues it, so that both are one.
    fn continues(&self, next: &Self) -> bool {
        self.end() == next.offset
            && self.seq == next.seq
            && match (self.place, next.place) {
                (Place::Hole, Place::Hole) => true,
                (Place::Log { location: a, skip_bytes: skip_a }, Place::Log { location: b, skip_bytes: skip_b }) => {
                    a == b && u64::from(skip_a) + self.len == u64::from(skip_b)
                }
                _ => false,
            }
    }
}

/// A stretch of a range that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Covered, cut to the range.
    Extent(Extent),
    /// Not covered: from, to.
    Gap(u64, u64),
}

impl Piece {
    /// One past its last byte.
    pub fn end(&self) -> u64 {
        match self {
            Self::Extent(extent) => extent.end(),
            Self::Gap(_, to) => *to,
        }
    }
}

/// Ordered extents that do not overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExtentMap {
    extents: Vec<Extent>,
}

impl ExtentMap {
    /// How many extents.
    pub fn len(&self) -> usize {
        self.extents.len()
    }

    /// Whether nothing is covered.
    pub fn is_empty(&self) -> bool {
        self.extents.is_empty()
    }

    /// All extents in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Extent> {
        self.extents.iter()
    }

    /// The part of an extent that is all of `range`.
    pub fn whole(&self, range: &Range<u64>) -> Option<Extent> {
        let first = self.extents.partition_point(|extent| extent.end() <= range.start);
        let extent = self.extents.get(first)?;
        (extent.offset <= range.start && range.end <= extent.end()).then(|| extent.slice(range.clone()))
    }

    /// Indices of the extents that share a byte with `range`.
    fn overlapping(&self, range: &Range<u64>) -> Range<usize> {
        let first = self.extents.partition_point(|extent| extent.end() <= range.start);
        let last = first + self.extents[first..].partition_point(|extent| extent.offset < range.end);
        first..last
    }

    /// Inserts by the rule of the highest number. Returns the pieces of older extents that lost.
    pub fn insert(&mut self, new: Extent) -> Vec<Extent> {
        if new.len == 0 {
            return Vec::new();
        }
        let indices = self.overlapping(&new.range());
        let mut merged = Vec::with_capacity(indices.len() * 2 + 1);
        let mut displaced = Vec::new();
        let mut at = new.offset;
        for old in &self.extents[indices.clone()] {
            let common = old.offset.max(new.offset)..old.end().min(new.end());
            if old.offset < common.start {
                push(&mut merged, old.slice(old.offset..common.start));
            }
            if at < common.start {
                push(&mut merged, new.slice(at..common.start));
            }
            if old.seq > new.seq {
                push(&mut merged, old.slice(common.clone()));
            } else {
                displaced.push(old.slice(common.clone()));
                push(&mut merged, new.slice(common.clone()));
            }
            at = common.end;
            if common.end < old.end() {
                push(&mut merged, old.slice(common.end..old.end()));
            }
        }
        if at < new.end() {
            push(&mut merged, new.slice(at..new.end()));
        }
        self.splice(indices, merged);
        displaced
    }

    /// Uncovers a range. Returns what covered it.
    pub fn remove(&mut self, range: &Range<u64>) -> Vec<Extent> {
        let indices = self.overlapping(range);
        if range.start >= range.end || indices.is_empty() {
            return Vec::new();
        }
        let mut rest = Vec::with_capacity(2);
        let mut removed = Vec::with_capacity(indices.len());
        for old in &self.extents[indices.clone()] {
            let common = old.offset.max(range.start)..old.end().min(range.end);
            if old.offset < common.start {
                rest.push(old.slice(old.offset..common.start));
            }
            if common.end < old.end() {
                rest.push(old.slice(common.end..old.end()));
            }
            removed.push(old.slice(common));
        }
        self.extents.splice(indices, rest);
        removed
    }

    /// The stretches of `range` in order, gaps included.
    pub fn pieces(&self, range: Range<u64>) -> Pieces<'_> {
        let indices = self.overlapping(&range);
        Pieces { extents: &self.extents[indices], at: range.start, end: range.end }
    }

    /// The highest number in it; 0 where it is empty.
    pub fn seq_max(&self) -> Seq {
        self.extents.iter().map(|extent| extent.seq).max().unwrap_or_default()
    }

    /// Puts `merged` in the place of `indices`, joined with the neighbours that it continues.
    fn splice(&mut self, mut indices: Range<usize>, mut merged: Vec<Extent>) {
        if let (Some(before), Some(first)) = (indices.start.checked_sub(1), merged.first_mut())
            && self.extents[before].continues(first)
        {
            first.len += self.extents[before].len;
            first.offset = self.extents[before].offset;
            first.place = self.extents[before].place;
            indices.start = before;
        }
        if let (Some(after), Some(last)) = (self.extents.get(indices.end), merged.last_mut())
            && last.continues(after)
        {
            last.len += after.len;
            indices.end += 1;
        }
        self.extents.splice(indices, merged);
    }
}

impl FromIterator<Extent> for ExtentMap {
    fn from_iter<I: IntoIterator<Item = Extent>>(extents: I) -> Self {
        let mut map = Self::default();
        for extent in extents {
            map.insert(extent);
        }
        map
    }
}

/// Appends an extent, joined with the last where it continues that.
fn push(extents: &mut Vec<Extent>, next: Extent) {
    match extents.last_mut() {
        Some(last) if last.continues(&next) => last.len += next.len,
        _ => extents.push(next),
    }
}

/// See [`ExtentMap::pieces`].
pub struct Pieces<'a> {
    extents: &'a [Extent],
    at: u64,
    end: u64,
}

impl Iterator for Pieces<'_> {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        if self.at >= self.end {
            return None;
        }
        let start = self.at;
        match self.extents.split_first() {
            Some((next, rest)) if next.offset <= start => {
                self.at = next.end().min(self.end);
                self.extents = rest;
                Some(Piece::Extent(next.slice(start..self.at)))
            }
            Some((next, _)) => {
                self.at = next.offset.min(self.end);
                Some(Piece::Gap(start, self.at))
            }
            None => {
                self.at = self.end;
                Some(Piece::Gap(start, self.end))
            }
        }
    }
}

#[cfg(test)]
mod tests;

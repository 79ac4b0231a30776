//! What a frozen generation keeps aside: the bytes that its blob no longer has, as they were.
//!
//! Invariants: pieces do not overlap; a byte is kept once, when it is first displaced, and never changes afterwards
//! (only where it is in the log does, when reclaim moves it). What is not kept is still what the blob has.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;

use super::map::Place;
use crate::store::log::Location;

/// Where kept bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeptPlace {
    /// In the log, or nowhere (zeros).
    Local(Place),
    /// In S3, as this source says; at the offset that they have in the blob.
    Remote(Bytes),
}

/// Kept ranges.
#[derive(Debug, Default)]
pub struct Kept {
    /// Start → end and place.
    pieces: BTreeMap<u64, (u64, KeptPlace)>,
}

impl Kept {
    /// The stretches of `range`, in order: kept ones with their place, the others with `None`.
    pub fn pieces(&self, range: Range<u64>) -> Vec<(Range<u64>, Option<KeptPlace>)> {
        let mut found = Vec::new();
        let mut at = range.start;
        let from = self.pieces.range(..=range.start).next_back().map_or(range.start, |(&start, _)| start);
        for (&start, (end, place)) in self.pieces.range(from..range.end.max(from)) {
            let common = start.max(range.start)..(*end).min(range.end);
            if common.start >= common.end {
                continue;
            }
            if at < common.start {
                found.push((at..common.start, None));
            }
            at = common.end;
            found.push((common.clone(), Some(slice(start, place, common.start))));
        }
        if at < range.end {
            found.push((at..range.end, None));
        }
        found
    }

    /// The stretches of `range` that are not kept yet.
    pub fn missing(&self, range: Range<u64>) -> Vec<Range<u64>> {
        self.pieces(range).into_iter().filter_map(|(range, place)| place.is_none().then_some(range)).collect()
    }

    /// Keeps a range that is not kept yet.
    pub fn keep(&mut self, range: Range<u64>, place: KeptPlace) {
        debug_assert_eq!(self.missing(range.clone()), vec![range.clone()]);
        self.pieces.insert(range.start, (range.end, place));
    }

    /// Every piece that is in the log: its range, its record, and its first byte in that.
    pub fn places(&self) -> Vec<(Range<u64>, Location, u32)> {
        let in_log = |(start, (end, place)): (&u64, &(u64, KeptPlace))| match place {
            KeptPlace::Local(Place::Log { location, skip_bytes }) => Some((*start..*end, *location, *skip_bytes)),
            _ => None,
        };
        self.pieces.iter().filter_map(in_log).collect()
    }

    /// The stretches of `range` that are in the record at `location`.
    pub fn at(&self, range: Range<u64>, location: Location) -> Vec<(Range<u64>, u32)> {
        let in_record = |(range, place): (Range<u64>, Option<KeptPlace>)| match place {
            Some(KeptPlace::Local(Place::Log { location: at, skip_bytes })) if at == location => Some((range, skip_bytes)),
            _ => None,
        };
        self.pieces(range).into_iter().filter_map(in_record).collect()
    }

    /// What of `range` is in the record at `from` is in the record at `to` now, whose body begins at blob offset
    /// `base`. Returns how many bytes.
    pub fn relocate(&mut self, range: Range<u64>, from: Location, to: Location, base: u64) -> u64 {
        let mut moved = 0;
        for (part, _) in self.at(range, from) {
            self.split(part.start);
            self.split(part.end);
            if let Some((end, place)) = self.pieces.get_mut(&part.start) {
                debug_assert_eq!(*end, part.end);
                let skip_bytes = u32::try_from(part.start - base).unwrap_or(u32::MAX);
                *place = KeptPlace::Local(Place::Log { location: to, skip_bytes });
                moved += part.end - part.start;
            }
        }
        moved
    }

    /// Cuts the piece that has `at` inside in two.
    fn split(&mut self, at: u64) {
        let Some((&start, (end, place))) = self.pieces.range_mut(..at).next_back() else { return };
        if *end > at {
            let tail = (*end, slice(start, place, at));
            *end = at;
            self.pieces.insert(at, tail);
        }
    }
}

/// The place of a piece that begins at `start`, from `at` on.
fn slice(start: u64, place: &KeptPlace, at: u64) -> KeptPlace {
    match place {
        KeptPlace::Local(Place::Log { location, skip_bytes }) => KeptPlace::Local(Place::Log {
            location: *location,
            skip_bytes: skip_bytes + u32::try_from(at - start).unwrap_or(u32::MAX),
        }),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset_bytes: u32) -> Location {
        Location { slot: 0, life: 0, offset_bytes }
    }

    fn log(offset_bytes: u32, skip_bytes: u32) -> KeptPlace {
        KeptPlace::Local(Place::Log { location: at(offset_bytes), skip_bytes })
    }

    #[test]
    fn keeps_slices_and_moves() {
        let mut kept = Kept::default();
        kept.keep(10..20, log(1, 5));
        kept.keep(30..40, KeptPlace::Remote(Bytes::from_static(b"s")));
        assert_eq!(kept.missing(0..50), vec![0..10, 20..30, 40..50]);
        assert_eq!(kept.pieces(12..15), vec![(12..15, Some(log(1, 7)))]);
        assert_eq!(kept.relocate(12..15, at(1), at(2), 12), 3);
        assert_eq!(kept.pieces(10..20), vec![(10..12, Some(log(1, 5))), (12..15, Some(log(2, 0))), (15..20, Some(log(1, 10)))]);
        assert_eq!(kept.places().iter().map(|(range, _, _)| range.end - range.start).sum::<u64>(), 10);
        assert_eq!(kept.pieces(20..20), vec![]);
    }
}

//! Half-open byte ranges, as offsets in a blob, a file or an object.

use std::ops::Range;

/// The bytes `start..end`, both in bytes.
pub type ByteRange = Range<u64>;

/// The common part of two ranges; `None` where they share no byte.
pub fn intersect(a: &ByteRange, b: &ByteRange) -> Option<ByteRange> {
    let start = a.start.max(b.start);
    let end = a.end.min(b.end);
    (start < end).then_some(start..end)
}

/// The length of a range in bytes; 0 where it is empty or inverted.
pub fn len(range: &ByteRange) -> u64 {
    range.end.saturating_sub(range.start)
}

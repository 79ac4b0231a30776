//! How an object is cut into parts: which ranges are sent, which are copied from the object before. Pure.
//!
//! Invariants of a plan:
//! - Its parts are adjacent and cover `0..len_bytes` exactly; a copied part lies outside every changed range and below
//!   `base_bytes`.
//! - Every part but the last has at least `part_bytes_min` bytes; there are at most `parts_max` of them.
//! - The same limits and ranges give the same plan, so that a restart can go on with it.
//!
//! A change of a few bytes costs one part of `part_bytes_min`: it is widened into its unchanged neighbours, no further.

use std::ops::Range;

use crate::base::range;

/// What bounds a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The smallest part but the last, in bytes.
    pub part_bytes_min: u64,
    /// The largest part, in bytes.
    pub part_bytes_max: u64,
    /// The most parts.
    pub parts_max: u64,
    /// The size of a part that is sent, in bytes; grows where there would be too many.
    pub sent_bytes: u64,
    /// The size of a part that is copied, in bytes; grows likewise.
    pub copied_bytes: u64,
}

/// One part.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PlannedPart {
    /// Which bytes of the object.
    pub range: Range<u64>,
    /// Copied from the same range of the base, instead of sent.
    pub copied: bool,
}

/// Cuts an object of `len_bytes` into parts. `changed` is ordered and merged; `base_bytes` is the length of the object to
/// copy from, 0 for none. `None` where the object cannot be that long.
pub fn plan(len_bytes: u64, changed: &[Range<u64>], base_bytes: u64, limits: Limits) -> Option<Vec<PlannedPart>> {
    let mut limits = Limits { sent_bytes: limits.sent_bytes.max(limits.part_bytes_min), ..limits };
    let mut copied_min = limits.part_bytes_min;
    loop {
        let parts = split(widen(segments(len_bytes, changed, base_bytes, copied_min), limits.part_bytes_min), limits);
        let largest = parts.iter().map(|part| range::len(&part.range)).max().unwrap_or(0);
        if largest > limits.part_bytes_max {
            return None;
        }
        if parts.len() as u64 <= limits.parts_max {
            return Some(parts);
        }
        // Too many: larger parts, and short unchanged ranges are sent with their neighbours. This ends with one sent range.
        limits.sent_bytes = limits.sent_bytes.saturating_mul(2);
        limits.copied_bytes = limits.copied_bytes.saturating_mul(2).min((limits.part_bytes_max / 2).max(1));
        copied_min = copied_min.saturating_mul(2);
    }
}

/// Bytes that a plan sends.
#[cfg(test)]
pub fn sent_bytes(parts: &[PlannedPart]) -> u64 {
    parts.iter().filter(|part| !part.copied).map(|part| range::len(&part.range)).sum()
}

/// Alternating sent and copied ranges. A copied range is at least `copied_min` long, or the object's end.
fn segments(len_bytes: u64, changed: &[Range<u64>], base_bytes: u64, copied_min: u64) -> Vec<PlannedPart> {
    let base_bytes = base_bytes.min(len_bytes);
    let mut segments = Vec::new();
    let mut at = 0;
    for change in changed.iter().cloned().chain(std::iter::once(base_bytes..len_bytes)) {
        let change = change.start.clamp(at, len_bytes)..change.end.min(len_bytes);
        let kept = at..change.start.min(base_bytes).max(at);
        if range::len(&kept) >= copied_min || (kept.end == len_bytes && range::len(&kept) > 0) {
            push(&mut segments, kept, true);
        } else {
            push(&mut segments, kept, false);
        }
        at = segments.last().map_or(0, |last: &PlannedPart| last.range.end);
        push(&mut segments, at..change.end.max(at), false);
        at = at.max(change.end);
    }
    segments
}

/// Appends a range, joined to the one before where both are sent.
fn push(segments: &mut Vec<PlannedPart>, range: Range<u64>, copied: bool) {
    if range.start >= range.end {
        return;
    }
    match segments.last_mut() {
        Some(last) if last.copied == copied => last.range.end = range.end,
        _ => segments.push(PlannedPart { range, copied }),
    }
}

/// Widens sent ranges that are too short for a part into the copied range behind them, or in front of them.
fn widen(segments: Vec<PlannedPart>, min: u64) -> Vec<PlannedPart> {
    let len_bytes = segments.last().map_or(0, |last| last.range.end);
    let mut out: Vec<PlannedPart> = Vec::with_capacity(segments.len());
    for mut segment in segments {
        if let Some(last) = out.last_mut().filter(|last| !last.copied) {
            if !segment.copied {
                last.range.end = segment.range.end;
                continue;
            }
            let missing = min.saturating_sub(range::len(&last.range));
            let rest = range::len(&segment.range).saturating_sub(missing);
            let whole = segment.range.end == len_bytes || rest >= min;
            if missing > 0 && (!whole || rest == 0) {
                last.range.end = segment.range.end;
                continue;
            }
            last.range.end += missing;
            segment.range.start += missing;
        }
        out.push(segment);
    }
    out
}

/// Cuts segments into parts: all of one size, the last of a segment up to twice that (the object's last: what is left).
fn split(segments: Vec<PlannedPart>, limits: Limits) -> Vec<PlannedPart> {
    let len_bytes = segments.last().map_or(0, |last| last.range.end);
    let mut parts = Vec::new();
    for PlannedPart { range, copied } in segments {
        let size = if copied { limits.copied_bytes.max(limits.part_bytes_min) } else { limits.sent_bytes };
        let mut at = range.start;
        while at < range.end {
            let left = range.end - at;
            let take = if left <= size || (left < size.saturating_mul(2) && range.end < len_bytes) { left } else { size };
            parts.push(PlannedPart { range: at..at + take, copied });
            at += take;
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;
    const AWS: Limits = Limits {
        part_bytes_min: 5 * MIB,
        part_bytes_max: 5 << 30,
        parts_max: 10_000,
        sent_bytes: 8 * MIB,
        copied_bytes: 256 * MIB,
    };

    #[test]
    #[expect(clippy::single_range_in_vec_init, reason = "one changed range is meant")]
    fn four_kibibytes_in_a_gibibyte_send_one_smallest_part() {
        for at in [0, 4096, 5 * MIB, 300 * MIB + 123, (1 << 30) - 4096] {
            let parts = plan(1 << 30, &[at..at + 4096], 1 << 30, AWS).unwrap();
            assert!(sent_bytes(&parts) <= 10 * MIB, "{at}: {}", sent_bytes(&parts));
            assert!(parts.len() <= 8, "{at}: {}", parts.len());
        }
    }

    #[test]
    #[expect(clippy::single_range_in_vec_init, reason = "one changed range is meant")]
    fn new_content_is_cut_into_equal_parts() {
        let parts = plan(20 * MIB, &[0..20 * MIB], 0, AWS).unwrap();
        let lengths: Vec<u64> = parts.iter().map(|part| range::len(&part.range)).collect();
        assert_eq!(lengths, [8 * MIB, 8 * MIB, 4 * MIB]);
        assert!(plan(1 << 40, &[0..1 << 40], 0, AWS).unwrap().len() <= 10_000);
        assert_eq!(plan(60 << 40, &[0..60 << 40], 0, AWS), None);
    }

    #[test]
    fn a_tail_past_the_base_is_sent() {
        let parts = plan(40 * MIB, &[], 30 * MIB, AWS).unwrap();
        assert_eq!(parts[0], PlannedPart { range: 0..30 * MIB, copied: true });
        assert_eq!(sent_bytes(&parts), 10 * MIB);
    }

    proptest! {
        #[test]
        fn plans_hold_their_invariants(
            len in 1_u64..5_000,
            base in 0_u64..6_000,
            changes in prop::collection::vec((0_u64..5_000, 1_u64..300), 0..20),
            parts_max in 8_u64..64,
        ) {
            let limits = Limits { part_bytes_min: 50, part_bytes_max: 5_000, parts_max, sent_bytes: 80, copied_bytes: 400 };
            let mut changed = vec![false; usize::try_from(len).unwrap()];
            for (start, length) in changes {
                for byte in start..(start + length).min(len) {
                    changed[usize::try_from(byte).unwrap()] = true;
                }
            }
            let mut ranges: Vec<Range<u64>> = Vec::new();
            for (at, _) in changed.iter().enumerate().filter(|(_, changed)| **changed) {
                let at = at as u64;
                match ranges.last_mut() {
                    Some(last) if last.end == at => last.end += 1,
                    _ => ranges.push(at..at + 1),
                }
            }
            let parts = plan(len, &ranges, base, limits).unwrap();
            prop_assert!(parts.len() as u64 <= parts_max);
            let mut at = 0;
            for (index, part) in parts.iter().enumerate() {
                prop_assert_eq!(part.range.start, at);
                at = part.range.end;
                prop_assert!(index + 1 == parts.len() || range::len(&part.range) >= limits.part_bytes_min);
                if part.copied {
                    prop_assert!(part.range.end <= base);
                    prop_assert!(changed[part.range.start as usize..part.range.end as usize].iter().all(|changed| !changed));
                }
            }
            prop_assert_eq!(at, len);
        }
    }
}

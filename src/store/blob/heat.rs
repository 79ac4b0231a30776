//! What of the cached clean bytes is read again and again, so that reclaim keeps it.
//!
//! A stretch of a segment is warm when it was read, and hot when it was read again in a later period: one scan makes
//! nothing hot. Only this process remembers it, and only for a life of a segment.

use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::RwLock;

use crate::base::id::IdMap;
use crate::store::log::Location;

/// What is told apart, in bytes.
const STRETCH_BYTES: u32 = 64 << 10;
/// The bit that says hot; the others are the period of the last read.
const HOT: u32 = 1 << 31;

/// See the module.
#[derive(Debug, Default)]
pub struct Heat {
    segments: RwLock<IdMap<(u32, u32), Vec<AtomicU32>>>,
    period: AtomicU32,
}

impl Heat {
    /// The record at a location was read.
    pub fn touch(&self, at: Location) {
        let key = (at.slot, at.life);
        let stretch = (at.offset_bytes / STRETCH_BYTES) as usize;
        let period = self.period.load(Ordering::Relaxed) & !HOT;
        if let Some(mark) = self.segments.read().get(&key).and_then(|marks| marks.get(stretch)) {
            let old = mark.load(Ordering::Relaxed);
            let is_again = old != 0 && old & !HOT != period + 1;
            let hot = if is_again { HOT } else { old & HOT };
            mark.store((period + 1) | hot, Ordering::Relaxed);
            return;
        }
        let mut segments = self.segments.write();
        let marks = segments.entry(key).or_default();
        if marks.len() <= stretch {
            marks.resize_with(stretch + 1, AtomicU32::default);
        }
        marks[stretch].store(period + 1, Ordering::Relaxed);
    }

    /// Whether the record at a location is hot.
    pub fn is_hot(&self, at: Location) -> bool {
        let stretch = (at.offset_bytes / STRETCH_BYTES) as usize;
        let segments = self.segments.read();
        let mark = segments.get(&(at.slot, at.life)).and_then(|marks| marks.get(stretch));
        mark.is_some_and(|mark| mark.load(Ordering::Relaxed) & HOT != 0)
    }

    /// When a segment was last read (a period), and how many of its bytes are hot, about.
    pub fn of(&self, slot: u32, life: u32) -> (u32, u64) {
        let segments = self.segments.read();
        let Some(marks) = segments.get(&(slot, life)) else { return (0, 0) };
        let marks = marks.iter().map(|mark| mark.load(Ordering::Relaxed));
        marks.fold((0, 0), |(last, hot), mark| {
            (last.max(mark & !HOT), hot + u64::from(mark & HOT != 0) * u64::from(STRETCH_BYTES))
        })
    }

    /// A segment is gone.
    pub fn forget(&self, slot: u32, life: u32) {
        self.segments.write().remove(&(slot, life));
    }

    /// A new period begins.
    pub fn tick(&self) {
        self.period.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_scan_makes_nothing_hot() {
        let heat = Heat::default();
        let at = |offset_bytes| Location { slot: 1, life: 1, offset_bytes };
        for offset in (0..1 << 20).step_by(4096) {
            heat.touch(at(offset));
        }
        assert_eq!(heat.of(1, 1), (1, 0));
        heat.tick();
        heat.touch(at(70_000));
        assert!(heat.is_hot(at(65_536)) && !heat.is_hot(at(0)));
        assert_eq!(heat.of(1, 1), (2, 65_536));
        heat.forget(1, 1);
        assert!(!heat.is_hot(at(65_536)));
    }
}

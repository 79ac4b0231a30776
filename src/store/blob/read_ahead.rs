//! Whether somebody reads a blob from front to back, and how far ahead it pays to fetch. Pure.

use std::ops::Range;

/// How far a read may lie from where the last one ended and still count as its successor, in bytes. A kernel sends its own
/// read-ahead in several requests at once, and they arrive in any order.
const NEAR_BYTES: u64 = 2 << 20;
/// The first window, in bytes.
const WINDOW_MIN_BYTES: u64 = 1 << 20;
/// The largest window, in bytes.
const WINDOW_MAX_BYTES: u64 = 16 << 20;

/// The sequential reader of a blob, if there is one.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReadAhead {
    /// Where the last read ended.
    next: u64,
    /// How far ahead; 0: reads do not follow each other.
    window_bytes: u64,
    /// Fetched or being fetched up to here.
    until: u64,
}

impl ReadAhead {
    /// A read of `range`: what to fetch ahead of it now, if anything.
    pub fn on_read(&mut self, range: &Range<u64>) -> Option<Range<u64>> {
        let near = range.start <= self.next.saturating_add(NEAR_BYTES) && range.end.saturating_add(NEAR_BYTES) >= self.next;
        if !near || self.next == 0 {
            *self = Self { next: range.end, window_bytes: 0, until: range.end };
            return None;
        }
        if range.end <= self.next {
            return None;
        }
        self.next = range.end;
        if self.window_bytes > 0 && self.until > range.end + self.window_bytes / 4 * 3 {
            return None;
        }
        self.window_bytes = (self.window_bytes * 2).clamp(WINDOW_MIN_BYTES, WINDOW_MAX_BYTES);
        let ahead = self.until.max(range.end)..range.end + self.window_bytes;
        self.until = self.until.max(ahead.end);
        (ahead.start < ahead.end).then_some(ahead)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_grow_while_reads_follow_each_other() {
        let mut ahead = ReadAhead::default();
        let step = 128 << 10;
        let mut fetched = 0;
        let mut windows = Vec::new();
        for index in 0..400 {
            if let Some(range) = ahead.on_read(&(index * step..(index + 1) * step)) {
                assert!(range.start >= fetched, "nothing is asked for twice");
                fetched = range.end;
                windows.push(range.end - (index + 1) * step);
            }
        }
        assert_eq!(windows[..5], [1 << 20, 2 << 20, 4 << 20, 8 << 20, 16 << 20]);
        assert!(windows.iter().all(|window| *window <= WINDOW_MAX_BYTES));
    }

    #[test]
    fn random_reads_fetch_nothing_ahead() {
        let mut ahead = ReadAhead::default();
        for offset in [0, 500, 90, 4_000, 17] {
            let offset = offset << 20;
            assert_eq!(ahead.on_read(&(offset..offset + 4096)), None);
        }
    }

    #[test]
    fn requests_that_overtake_each_other_are_still_one_reader() {
        let (mut ahead, step) = (ReadAhead::default(), 128 << 10);
        let mut fetched = 0;
        for pair in 0..200 {
            for index in [pair * 2 + 1, pair * 2] {
                if let Some(range) = ahead.on_read(&(index * step..(index + 1) * step)) {
                    assert!(range.start >= fetched, "nothing is asked for twice");
                    fetched = range.end;
                }
            }
        }
        assert!(fetched >= 400 * step + WINDOW_MAX_BYTES / 2, "the window grew to its full size: {fetched}");
    }
}

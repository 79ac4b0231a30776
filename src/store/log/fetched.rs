//! Bodies that were just put into the read head, in memory for a moment: what is fetched ahead is mostly read at once, and then needs no disk.
//!
//! Invariants: at most [`BYTES_MAX`] and [`BODIES_MAX`]; the oldest go first, and a body goes when as many bytes of it were read as it has, so that its
//! memory serves the next. A body is found by the place of its record, which names its life: it never changes.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;

use super::Location;

/// Bodies that are kept, in bytes: twice what is fetched ahead of one reader.
const BYTES_MAX: u64 = 32 << 20;
/// And how many of them: they are looked through one by one.
const BODIES_MAX: usize = 64;
/// For so long, unless nothing is fetched any more.
const TIME: Duration = Duration::from_secs(2);

/// See the module.
#[derive(Default)]
pub struct Fetched(Mutex<Bodies>);

#[derive(Default)]
struct Bodies {
    /// The oldest first.
    bodies: VecDeque<Kept>,
    bytes: u64,
}

struct Kept {
    at: Location,
    since: Instant,
    body: Bytes,
    /// How much of it is still to be read, in bytes.
    unread_bytes: usize,
}

impl Fetched {
    /// Keeps a body.
    pub fn insert(&self, at: Location, body: Bytes) {
        let since = Instant::now();
        let mut inner = self.0.lock();
        inner.bytes += body.len() as u64;
        inner.bodies.push_back(Kept { at, since, unread_bytes: body.len(), body });
        while inner.bodies.front().is_some_and(|oldest| {
            inner.bytes > BYTES_MAX || inner.bodies.len() > BODIES_MAX || since.saturating_duration_since(oldest.since) > TIME
        }) {
            inner.remove(0);
        }
    }

    /// A part of a body that is kept.
    pub fn read(&self, at: Location, range: Range<usize>) -> Option<Bytes> {
        let mut inner = self.0.lock();
        let index = inner.bodies.iter().position(|kept| kept.at == at)?;
        let kept = &mut inner.bodies[index];
        let part = (range.end <= kept.body.len()).then(|| kept.body.slice(range))?;
        kept.unread_bytes = kept.unread_bytes.saturating_sub(part.len());
        if kept.unread_bytes == 0 {
            inner.remove(index);
        }
        Some(part)
    }
}

impl Bodies {
    fn remove(&mut self, index: usize) {
        if let Some(kept) = self.bodies.remove(index) {
            self.bytes -= kept.body.len() as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset_bytes: u32) -> Location {
        Location { slot: 1, life: 1, offset_bytes }
    }

    #[test]
    fn bodies_go_when_they_are_read_and_the_oldest_first() {
        let fetched = Fetched::default();
        fetched.insert(at(0), Bytes::from_static(b"0123456789"));
        assert_eq!(fetched.read(at(1), 0..1), None);
        assert_eq!(fetched.read(at(0), 5..11), None, "longer than the body");
        assert_eq!(fetched.read(at(0), 5..10).as_deref(), Some(&b"56789"[..]));
        assert_eq!(fetched.read(at(0), 0..5).as_deref(), Some(&b"01234"[..]));
        assert_eq!(fetched.read(at(0), 0..5), None, "it was read");
        for offset in 0..100 {
            fetched.insert(at(offset), Bytes::from_static(b"small"));
        }
        assert_eq!((fetched.read(at(35), 0..1), fetched.read(at(36), 0..1).is_some()), (None, true));
        for offset in 100..140 {
            fetched.insert(at(offset), vec![0; 1 << 20].into());
        }
        assert_eq!((fetched.read(at(107), 0..1), fetched.read(at(108), 0..1).is_some()), (None, true));
        assert_eq!(fetched.0.lock().bytes, BYTES_MAX);
    }
}

//! What a change of a map means for the log's live bytes; booked by [`super::accounts`].

use crate::base::id::OwnerId;
use crate::store::log::Location;

/// What a change did to the log's live bytes.
#[derive(Debug, Default)]
pub struct Delta {
    /// Whose bytes.
    pub owner: OwnerId,
    /// Slot and life; dirty, clean and kept bytes more (or fewer).
    pub segments: Vec<((u32, u32), [i64; 3])>,
    /// Extents in memory more (or fewer).
    pub extents: i64,
}

impl Delta {
    /// Dirty bytes more.
    pub fn dirty(&mut self, at: Location, bytes: i64) {
        self.add(at, [bytes, 0, 0]);
    }

    /// Clean bytes more.
    pub fn clean(&mut self, at: Location, bytes: i64) {
        self.add(at, [0, bytes, 0]);
    }

    /// Kept bytes more.
    pub fn kept(&mut self, at: Location, bytes: i64) {
        self.add(at, [0, 0, bytes]);
    }

    fn add(&mut self, at: Location, more: [i64; 3]) {
        let key = (at.slot, at.life);
        match self.segments.last_mut() {
            Some((last, sums)) if *last == key => sums.iter_mut().zip(more).for_each(|(sum, more)| *sum += more),
            _ => self.segments.push((key, more)),
        }
    }
}

/// A length as a difference.
pub fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

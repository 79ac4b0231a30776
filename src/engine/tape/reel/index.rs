//! An index: the frames of a run of objects, so that a number or a filemark is found without walking.
//!
//! Invariant: an index that is taken lists frames whose sizes a reel can have, and ends where the reel's bytes can.

use super::frame::FRAME_BYTES;
use super::{Damage, array};
use crate::engine::tape::RECORD_BYTES_MAX;

/// Objects that one index lists.
pub const INDEX_ENTRIES_MAX: usize = 4096;
const FIXED_BYTES: usize = 32;
const IS_FILEMARK: u32 = 1 << 31;

/// See the module. What it lists is adjacent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// The number of the first object.
    pub first: u64,
    /// Filemarks before it.
    pub filemarks: u64,
    /// Where its frame is in the reel, in bytes.
    pub place: u64,
    /// Where the index before is; 0: there is none.
    pub previous: u64,
    entries: Vec<u32>,
    /// Filemarks among them, and bytes of all their frames: asked for at every command.
    all: (u64, u64),
}

impl Index {
    /// One that lists nothing yet.
    pub fn new(first: u64, filemarks: u64, place: u64, previous: u64) -> Self {
        Self { first, filemarks, place, previous, entries: Vec::new(), all: (0, 0) }
    }

    /// Objects that it lists.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it lists nothing.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds an object with a frame of so many bytes.
    pub fn push(&mut self, is_filemark: bool, frame_bytes: u64) {
        self.entries.push(frame_bytes as u32 | if is_filemark { IS_FILEMARK } else { 0 });
        self.all = (self.all.0 + u64::from(is_filemark), self.all.1 + frame_bytes);
    }

    /// Keeps the first objects only.
    pub fn truncate(&mut self, len: usize) {
        self.all = (self.filemarks_among(len), self.bytes_of(len));
        self.entries.truncate(len);
    }

    /// Whether an object is a filemark, and the bytes of its frame.
    pub fn get(&self, at: usize) -> Option<(bool, u64)> {
        self.entries.get(at).map(|entry| (entry & IS_FILEMARK != 0, u64::from(entry & !IS_FILEMARK)))
    }

    /// Filemarks among the first `len` objects.
    pub fn filemarks_among(&self, len: usize) -> u64 {
        if len >= self.entries.len() {
            return self.all.0;
        }
        self.entries.iter().take(len).filter(|entry| **entry & IS_FILEMARK != 0).count() as u64
    }

    /// Bytes of the frames of the first `len` objects.
    pub fn bytes_of(&self, len: usize) -> u64 {
        if len >= self.entries.len() {
            return self.all.1;
        }
        self.entries.iter().take(len).map(|entry| u64::from(entry & !IS_FILEMARK)).sum()
    }

    /// Which object is the `filemark`th filemark of those that are listed.
    pub fn filemark(&self, filemark: u64) -> Option<usize> {
        let marks = self.entries.iter().enumerate().filter(|(_, entry)| **entry & IS_FILEMARK != 0);
        marks.map(|(at, _)| at).nth(usize::try_from(filemark).ok()?)
    }

    /// The payload of its frame.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(FIXED_BYTES + 4 * self.entries.len());
        for number in [self.first, self.filemarks, self.place, self.previous] {
            bytes.extend(number.to_le_bytes());
        }
        for entry in &self.entries {
            bytes.extend(entry.to_le_bytes());
        }
        bytes
    }

    /// From the payload of its frame.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, Damage> {
        let rest = bytes.len().checked_sub(FIXED_BYTES).ok_or(Damage::Short)?;
        if rest % 4 != 0 || rest / 4 > INDEX_ENTRIES_MAX || rest == 0 {
            return Err(Damage::Field(FIXED_BYTES));
        }
        let number = |at: usize| u64::from_le_bytes(array(bytes, at));
        let (first, filemarks, place, previous) = (number(0), number(8), number(16), number(24));
        if filemarks > first {
            return Err(Damage::Field(8));
        }
        if previous >= place {
            return Err(Damage::Field(24));
        }
        let entries: Vec<u32> = bytes[FIXED_BYTES..].chunks_exact(4).map(|entry| u32::from_le_bytes(array(entry, 0))).collect();
        let is_possible = |entry: &u32| {
            let frame_bytes = (entry & !IS_FILEMARK) as usize;
            if entry & IS_FILEMARK != 0 {
                frame_bytes == FRAME_BYTES
            } else {
                frame_bytes > FRAME_BYTES && frame_bytes <= FRAME_BYTES + RECORD_BYTES_MAX
            }
        };
        if let Some(wrong) = entries.iter().position(|entry| !is_possible(entry)) {
            return Err(Damage::Field(FIXED_BYTES + 4 * wrong));
        }
        let marks = entries.iter().filter(|entry| **entry & IS_FILEMARK != 0).count() as u64;
        let all = (marks, entries.iter().map(|entry| u64::from(entry & !IS_FILEMARK)).sum());
        let index = Self { first, filemarks, place, previous, entries, all };
        let has_room =
            first.checked_add(index.len() as u64).is_some() && place.checked_add(index.bytes_of(index.len())).is_some();
        if has_room { Ok(index) } else { Err(Damage::Field(0)) }
    }
}

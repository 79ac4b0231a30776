//! Where an object's bytes are: a list of ranges of immutable files, and its form in the index.
//!
//! Invariants: no extent is empty; neighbours that touch in the same file are one extent.

use super::LocalError;

/// A range of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The file's id.
    pub file: u64,
    /// First byte in the file.
    pub offset: u64,
    /// Length in bytes.
    pub len_bytes: u64,
}

/// An object's extents, in the order of its bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extents(Vec<Extent>);

const ENCODED_BYTES: usize = 24;

impl Extents {
    /// The whole of one file.
    pub fn whole(file: u64, len_bytes: u64) -> Self {
        let mut extents = Self::default();
        extents.push(Extent { file, offset: 0, len_bytes });
        extents
    }

    /// Appends an extent, merged with the last where they touch.
    pub fn push(&mut self, extent: Extent) {
        if extent.len_bytes == 0 {
            return;
        }
        match self.0.last_mut() {
            Some(last) if last.file == extent.file && last.offset + last.len_bytes == extent.offset => {
                last.len_bytes += extent.len_bytes;
            }
            _ => self.0.push(extent),
        }
    }

    /// Appends all of `other`.
    pub fn append(&mut self, other: &Self) {
        for extent in &other.0 {
            self.push(*extent);
        }
    }

    /// The extents in order.
    pub fn iter(&self) -> impl Iterator<Item = &Extent> {
        self.0.iter()
    }

    /// How many extents there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The length of all in bytes.
    pub fn len_bytes(&self) -> u64 {
        self.0.iter().map(|extent| extent.len_bytes).sum()
    }

    /// The part `start..end` of the object, in bytes.
    pub fn slice(&self, start: u64, end: u64) -> Self {
        let mut out = Self::default();
        let mut at = 0;
        for extent in &self.0 {
            let from = start.max(at);
            let to = end.min(at + extent.len_bytes);
            if from < to {
                out.push(Extent { file: extent.file, offset: extent.offset + (from - at), len_bytes: to - from });
            }
            at += extent.len_bytes;
        }
        out
    }

    /// Each file with the number of extents that name it.
    pub fn references(&self) -> Vec<(u64, i64)> {
        let mut files: Vec<u64> = self.0.iter().map(|extent| extent.file).collect();
        files.sort_unstable();
        files.chunk_by(|a, b| a == b).map(|run| (run[0], run.len() as i64)).collect()
    }

    /// The form in the index: file, offset and length of each, as little-endian `u64`.
    pub fn encode(&self) -> Vec<u8> {
        let numbers = self.0.iter().flat_map(|extent| [extent.file, extent.offset, extent.len_bytes]);
        numbers.flat_map(u64::to_le_bytes).collect()
    }

    /// Reads [`Self::encode`]'s form.
    pub fn decode(bytes: &[u8]) -> Result<Self, LocalError> {
        let (extents, rest) = bytes.as_chunks::<ENCODED_BYTES>();
        if !rest.is_empty() {
            return Err(LocalError::Damaged("an extent list is cut".into()));
        }
        let number = |extent: &[u8; ENCODED_BYTES], at: usize| {
            let mut raw = [0; 8];
            raw.copy_from_slice(&extent[at..at + 8]);
            u64::from_le_bytes(raw)
        };
        let read = |extent| Extent { file: number(extent, 0), offset: number(extent, 8), len_bytes: number(extent, 16) };
        Ok(Self(extents.iter().map(read).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Extents {
        let mut extents = Extents::whole(1, 10);
        extents.push(Extent { file: 2, offset: 5, len_bytes: 5 });
        extents.push(Extent { file: 1, offset: 0, len_bytes: 3 });
        extents
    }

    #[test]
    fn touching_extents_merge() {
        let mut extents = sample().slice(0, 4);
        extents.append(&sample().slice(4, 18));
        assert_eq!(extents, sample());
        assert_eq!(extents.references(), [(1, 2), (2, 1)]);
    }

    #[test]
    fn a_slice_cuts_both_ends() {
        let slice = sample().slice(8, 16);
        let want = [(1, 8, 2), (2, 5, 5), (1, 0, 1)];
        let got: Vec<_> = slice.iter().map(|e| (e.file, e.offset, e.len_bytes)).collect();
        assert_eq!(got, want);
        assert_eq!(slice.len_bytes(), 8);
        assert_eq!(sample().slice(18, 30).count(), 0);
    }

    #[test]
    fn encoding_round_trips_and_a_cut_list_is_damage() {
        let bytes = sample().encode();
        assert_eq!(Extents::decode(&bytes), Ok(sample()));
        assert!(Extents::decode(&bytes[1..]).is_err());
    }
}

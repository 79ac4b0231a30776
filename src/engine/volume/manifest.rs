//! What a volume is now, as S3 has it: the manifest, and snapshots. JSON, format version 1.
//!
//! What lives here: [`Manifest`], [`SnapshotRecord`], [`State`] (what both name), [`Run`].
//!
//! Invariants:
//! - The manifest is the one object of a volume that is ever replaced, and only by compare-and-swap: who replaces it was the last to attach the
//!   volume, so a gateway that was cut off changes nothing. What it does not name is not part of the volume.
//! - A state names a consistent prefix of what was written: a generation, whole.
//! - It is small whatever the volume's size: segments since the checkpoint are named by runs of numbers.

use serde::{Deserialize, Serialize};

use super::names::{ObjectName, VolumeId};
use super::segment::SegmentError;

/// The version that is written.
const FORMAT: u32 = 1;

/// Segments with consecutive numbers, in the order in which they were written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// The first.
    pub first: ObjectName,
    /// How many.
    pub count: u64,
}

/// A volume's bytes as of a generation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The number of the last change that it has, in the numbers of the gateway that has the volume; 0 where that has written nothing yet.
    pub generation: u64,
    /// The length in bytes.
    pub len_bytes: u64,
    /// When the generation was frozen: the recovery point, nanoseconds since the Unix epoch.
    pub at_ns: i64,
    /// Where the map is; `None`: all of it is in `since`.
    pub checkpoint: Option<ObjectName>,
    /// Segments since the checkpoint, the oldest first.
    pub since: Vec<Run>,
}

/// What a volume is now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Of this document: 1.
    pub format: u32,
    /// Which volume.
    pub volume: VolumeId,
    /// As its users call it.
    pub name: String,
    /// Bytes of a logical block.
    pub block_bytes: u32,
    /// How often it was attached: whoever writes with a lower one was cut off.
    pub epoch: u64,
    /// The gateway that attached it; empty: none has it.
    pub gateway: String,
    /// Its bytes.
    pub state: State,
}

/// A state that is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRecord {
    /// Of this document: 1.
    pub format: u32,
    /// Which snapshot.
    pub snapshot: VolumeId,
    /// Of which volume.
    pub volume: VolumeId,
    /// The volume's name then.
    pub name: String,
    /// Bytes of a logical block.
    pub block_bytes: u32,
    /// What its user wrote.
    pub description: String,
    /// Its bytes.
    pub state: State,
}

impl State {
    /// A segment was written.
    pub fn push(&mut self, name: ObjectName) {
        match self.since.last_mut() {
            Some(Run { first, count })
                if first.volume == name.volume && first.epoch == name.epoch && first.number + *count == name.number =>
            {
                *count += 1;
            }
            _ => self.since.push(Run { first: name, count: 1 }),
        }
    }

    /// The segments since the checkpoint, the oldest first.
    pub fn segments_since(&self) -> impl Iterator<Item = ObjectName> + '_ {
        self.since.iter().flat_map(|run| (0..run.count).map(|at| ObjectName { number: run.first.number + at, ..run.first }))
    }

    /// How many these are.
    pub fn since_count(&self) -> u64 {
        self.since.iter().map(|run| run.count).sum()
    }
}

impl Manifest {
    /// Of a volume of zeroes, that nobody has.
    pub fn new(volume: VolumeId, name: &str, len_bytes: u64, block_bytes: u32) -> Self {
        let state = State { len_bytes, ..State::default() };
        Self { format: FORMAT, volume, name: name.to_owned(), block_bytes, epoch: 0, gateway: String::new(), state }
    }

    /// As it is written down.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).unwrap_or_default()
    }

    /// # Errors
    /// `NotASegment`, `Newer`.
    pub fn decode(bytes: &[u8]) -> Result<Self, SegmentError> {
        decode(bytes)
    }
}

impl SnapshotRecord {
    /// Of a volume's state.
    pub fn new(snapshot: VolumeId, of: &Manifest, description: &str, state: State) -> Self {
        let (name, description) = (of.name.clone(), description.to_owned());
        Self { format: FORMAT, snapshot, volume: of.volume, name, block_bytes: of.block_bytes, description, state }
    }

    /// As it is written down.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).unwrap_or_default()
    }

    /// # Errors
    /// `NotASegment`, `Newer`.
    pub fn decode(bytes: &[u8]) -> Result<Self, SegmentError> {
        decode(bytes)
    }
}

fn decode<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> Result<T, SegmentError> {
    #[derive(Deserialize)]
    struct Versioned {
        format: u32,
    }
    let Versioned { format } = serde_json::from_slice(bytes).map_err(|_| SegmentError::NotASegment)?;
    if format > FORMAT {
        return Err(SegmentError::Newer(format));
    }
    serde_json::from_slice(bytes).map_err(|_| SegmentError::NotASegment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_named_by_runs() {
        let volume = VolumeId([1; 16]);
        let name = |epoch, number| ObjectName { volume, epoch, number };
        let mut state = State::default();
        for number in [4, 5, 6, 8, 9] {
            state.push(name(1, number));
        }
        state.push(name(2, 10));
        assert_eq!(state.since.len(), 3);
        let all: Vec<_> = state.segments_since().map(|name| (name.epoch, name.number)).collect();
        assert_eq!(all, [(1, 4), (1, 5), (1, 6), (1, 8), (1, 9), (2, 10)]);
        assert_eq!(state.since_count(), 6);
    }

    #[test]
    fn the_documents_are_as_they_were() {
        let volume = VolumeId([1; 16]);
        let mut manifest = Manifest::new(volume, "db", 1 << 30, 512);
        manifest.state.push(ObjectName { volume, epoch: 1, number: 2 });
        let id = "01".repeat(16);
        let golden = format!(
            r#"{{"format":1,"volume":"{id}","name":"db","block_bytes":512,"epoch":0,"gateway":"","state":{{"generation":0,"len_bytes":1073741824,"at_ns":0,"checkpoint":null,"since":[{{"first":{{"volume":"{id}","epoch":1,"number":2}},"count":1}}]}}}}"#
        );
        assert_eq!(serde_json::to_string(&manifest).unwrap(), golden);
        assert_eq!(Manifest::decode(&manifest.encode()), Ok(manifest.clone()));
        let snapshot = SnapshotRecord::new(VolumeId([2; 16]), &manifest, "before the upgrade", manifest.state.clone());
        assert_eq!(SnapshotRecord::decode(&snapshot.encode()), Ok(snapshot));
        assert_eq!(Manifest::decode(br#"{"format":2}"#), Err(SegmentError::Newer(2)));
        assert_eq!(Manifest::decode(b"<html>"), Err(SegmentError::NotASegment));
    }
}

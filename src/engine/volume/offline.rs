//! A volume straight from a bucket, without a gateway: looked at, verified, read from end to end.
//!
//! Invariant: nothing in the bucket is changed, so it may be used beside the gateway that has the volume; what that publishes meanwhile is not seen.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;

use super::AttachError;
use super::manifest::{Manifest, SnapshotRecord, State};
use super::map::PAGE_SPAN_BYTES;
use super::names::{Names, ObjectName, VolumeId};
use super::remote::{Remote, damaged};
use crate::store::blob::FetchError;
use crate::store::object::{ObjectError, SharedStore};

/// What is read at a time, in bytes.
const STEP_BYTES: u64 = 4 << 20;

/// A state of a volume.
pub struct Offline {
    manifest: Manifest,
    state: State,
    remote: Remote,
}

/// What a state is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Inspection {
    /// The volume's id.
    pub volume: String,
    /// Its name.
    pub name: String,
    /// Its length in bytes.
    pub len_bytes: u64,
    /// Bytes of a logical block.
    pub block_bytes: u32,
    /// How often it was attached.
    pub epoch: u64,
    /// The gateway that has it; empty: none.
    pub gateway: String,
    /// The moment that it is of, nanoseconds since the Unix epoch.
    pub at_ns: i64,
    /// Bytes of it that are not zeroes for want of anything.
    pub mapped_bytes: u64,
    /// Stretches that the map tells apart.
    pub pieces: u64,
    /// Segments that have something of it.
    pub segments: u64,
    /// Bytes of these that it needs, as they are stored.
    pub stored_bytes: u64,
    /// Segments since the last checkpoint of the map.
    pub since_checkpoint: u64,
}

impl Offline {
    /// What S3 has of a volume now, or one of its snapshots.
    ///
    /// # Errors
    /// `Missing`, `NoSnapshot`, `Object`, `Fetch`.
    pub async fn open(
        bucket: SharedStore,
        prefix: &str,
        volume: VolumeId,
        snapshot: Option<VolumeId>,
    ) -> Result<Self, AttachError> {
        let names = Names::new(prefix);
        let read = async |key: String, missing: AttachError| match bucket.get(&key, None, None).await {
            Ok((_, bytes)) => Ok((key, bytes)),
            Err(ObjectError::NotFound) => Err(missing),
            Err(error) => Err(error.into()),
        };
        let (key, bytes) = read(names.manifest(volume), AttachError::Missing(volume)).await?;
        let manifest = Manifest::decode(&bytes).map_err(|error| damaged(&key, &error))?;
        let state = match snapshot {
            None => manifest.state.clone(),
            Some(snapshot) => {
                let missing = AttachError::NoSnapshot(volume, snapshot);
                let (key, bytes) = read(names.snapshot(volume, snapshot), missing).await?;
                SnapshotRecord::decode(&bytes).map_err(|error| damaged(&key, &error))?.state
            }
        };
        let remote = Remote::new(bucket.clone(), names, volume, state.clone());
        Ok(Self { manifest, state, remote })
    }

    /// Its length in bytes.
    pub fn len_bytes(&self) -> u64 {
        self.state.len_bytes
    }

    /// Parts of the volume, in order, of which each is looked at by itself.
    fn parts(&self, step: u64) -> impl Iterator<Item = Range<u64>> + use<> {
        let end = self.state.len_bytes;
        (0..end.div_ceil(step)).map(move |part| part * step..end.min((part + 1) * step))
    }

    /// What it is made of; by the map alone.
    ///
    /// # Errors
    /// What loading the map says.
    pub async fn inspect(&self) -> Result<Inspection, FetchError> {
        let mut inspection = Inspection {
            volume: self.manifest.volume.to_string(),
            name: self.manifest.name.clone(),
            len_bytes: self.state.len_bytes,
            block_bytes: self.manifest.block_bytes,
            epoch: self.manifest.epoch,
            gateway: self.manifest.gateway.clone(),
            at_ns: self.state.at_ns,
            since_checkpoint: self.state.since_count(),
            ..Inspection::default()
        };
        let mut segments: BTreeMap<ObjectName, u64> = BTreeMap::new();
        for part in self.parts(PAGE_SPAN_BYTES) {
            let mut last = None;
            for piece in self.remote.pieces(part).await? {
                inspection.pieces += 1;
                inspection.mapped_bytes += piece.range.end - piece.range.start;
                let Some(stored) = piece.frame.stored.as_ref().map(|stored| stored.range.clone()) else { continue };
                // Pieces of one frame follow each other, unless others lie between.
                if last.replace((piece.segment, stored.clone())) != Some((piece.segment, stored.clone())) {
                    *segments.entry(piece.segment).or_default() += stored.end - stored.start;
                }
            }
        }
        inspection.segments = segments.len() as u64;
        inspection.stored_bytes = segments.values().sum();
        Ok(inspection)
    }

    /// Reads and verifies everything. Returns what is not as it should be: ranges of the volume, and why.
    ///
    /// # Errors
    /// Where the endpoint does not answer.
    pub async fn verify(&self, mut progress: impl FnMut(u64)) -> Result<Vec<(Range<u64>, String)>, FetchError> {
        let mut faults = Vec::new();
        for part in self.parts(STEP_BYTES) {
            match self.remote.read(part.clone()).await {
                Ok(_) => {}
                Err(FetchError::Object(error)) if error.is_transient() && !matches!(error, ObjectError::Corrupt(_)) => {
                    return Err(error.into());
                }
                Err(error) => faults.push((part.clone(), error.to_string())),
            }
            progress(part.end);
        }
        Ok(faults)
    }

    /// Reads everything that is not zeroes, in order, and hands it out with its place.
    ///
    /// # Errors
    /// What reading says.
    pub async fn export<E: From<FetchError>>(&self, mut out: impl FnMut(u64, Bytes) -> Result<(), E>) -> Result<(), E> {
        for part in self.parts(STEP_BYTES) {
            let pieces = self.remote.pieces(part.clone()).await?;
            let (Some(first), Some(last)) = (pieces.first(), pieces.last()) else { continue };
            let range = first.range.start..last.range.end;
            out(range.start, self.remote.read(range).await?)?;
        }
        Ok(())
    }
}

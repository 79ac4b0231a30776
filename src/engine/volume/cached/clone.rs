//! Clones: volumes that name segments of others, and the pins that keep these there.
//!
//! A clone *pins* what it reads before it is there, by a snapshot record with its own id in every volume that it has bytes of. Whoever removes objects of a
//! volume looks for snapshot records after it published what no longer names them; so a pin that was there while the volume still named them is enough.

use std::collections::BTreeSet;

use super::attach::{AttachError, Home, absent};
use crate::engine::volume::listing;
use crate::engine::volume::manifest::{SnapshotRecord, State};
use crate::engine::volume::named::objects_of;
use crate::engine::volume::names::VolumeId;
use crate::engine::volume::remote::damaged;
use crate::store::object::{Attributes, Body, Precondition};

/// The description of a clone's pin.
pub(super) fn clone_note(clone: VolumeId) -> String {
    format!("clone {clone}")
}

/// How often a pin is tried while the volume that is cloned is written to.
const PINS_MAX: usize = 20;

impl Home {
    /// Volumes that a state has bytes of, without `volume` itself.
    pub(super) async fn origins(&self, volume: VolumeId, state: &State) -> Result<BTreeSet<VolumeId>, AttachError> {
        let objects = objects_of(&self.bucket, &self.names(), state).await?;
        Ok(objects.into_iter().map(|(_, name)| name.volume).filter(|origin| *origin != volume).collect())
    }

    /// The snapshot records that a volume has in the bucket.
    pub(super) async fn pins_of(&self, volume: VolumeId) -> Result<Vec<VolumeId>, AttachError> {
        let keys = listing::keys(&self.bucket, &format!("{}snapshots/", self.names().volume(volume))).await?;
        Ok(keys.iter().filter_map(|key| key.rsplit('/').next()?.parse().ok()).collect())
    }

    /// A state of a volume that cannot go away, since `clone` says that it needs it.
    pub(super) async fn pinned(&self, from: VolumeId, snapshot: Option<VolumeId>, clone: VolumeId) -> Result<State, AttachError> {
        for _ in 0..PINS_MAX {
            let (manifest, etag) = self.manifest(from).await?;
            let state = match snapshot {
                Some(snapshot) => self.snapshot_state(from, snapshot).await?,
                None => manifest.state.clone(),
            };
            let record = SnapshotRecord::new(clone, &manifest, &clone_note(clone), state.clone());
            let origins = self.origins(clone, &state).await?.into_iter().chain([from]).collect::<BTreeSet<_>>();
            for origin in &origins {
                let key = self.names().snapshot(*origin, clone);
                self.bucket.put(&key, Body(vec![record.encode().into()]), &Attributes::default(), &Precondition::None).await?;
            }
            // What was there when the pin was may be relied on: whoever removes something looks for pins after it published what no longer names it.
            let is_good = match snapshot {
                Some(snapshot) => self.bucket.head(&self.names().snapshot(from, snapshot)).await.is_ok(),
                None => self.manifest(from).await?.1 == etag,
            };
            if is_good {
                return Ok(state);
            }
        }
        Err(AttachError::Raced)
    }

    async fn snapshot_state(&self, from: VolumeId, snapshot: VolumeId) -> Result<State, AttachError> {
        let key = self.names().snapshot(from, snapshot);
        let missing = || AttachError::NoSnapshot(from, snapshot);
        let (_, bytes) = self.bucket.get(&key, None, None).await.map_err(|error| absent(error, missing()))?;
        Ok(SnapshotRecord::decode(&bytes).map_err(|error| damaged(&key, &error))?.state)
    }
}

//! Snapshots of a cached volume: a generation that is frozen at once, and kept in S3 by a name.
//!
//! Invariants: a snapshot has what was written before it was asked for, and nothing that was written after it was acknowledged. It is PENDING until it is in S3
//! and lost with the process until then (ERROR at the next start), since what is frozen is in memory. An object that a snapshot names is never removed.

use std::collections::BTreeSet;

use super::CachedVolume;
use crate::base::id::OwnerId;
use crate::engine::volume::listing;
use crate::engine::volume::local::{Snapshot, SnapshotStatus};
use crate::engine::volume::manifest::{SnapshotRecord, State};
use crate::engine::volume::named::objects_of;
use crate::engine::volume::names::{Object, VolumeId};
use crate::engine::volume::remote::damaged;
use crate::store::blob::{Batch, BlobError, FetchError};
use crate::store::object::{ObjectError, Outcome};

/// Why a snapshot could not be made or removed.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// There is none of that id.
    #[error("the volume has no snapshot {0}; `tidegate volume snapshot list` shows those that it has")]
    Missing(VolumeId),
    /// It is on its way.
    #[error("the snapshot {0} is not in S3 yet; wait until it is COMPLETED")]
    Pending(VolumeId),
    /// The volume is somebody else's.
    #[error("another gateway attached this volume")]
    Fenced,
    /// The gateway's own bytes.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// The bucket.
    #[error(transparent)]
    Fetch(#[from] FetchError),
}

impl CachedVolume {
    /// Takes a snapshot of what is on the volume now. Returns when it cannot change any more; it is in S3 later.
    ///
    /// # Errors
    /// See [`SnapshotError`].
    pub async fn snapshot(&self, description: &str) -> Result<Snapshot, SnapshotError> {
        if self.is_fenced() {
            return Err(SnapshotError::Fenced);
        }
        let (snapshot, created_ns) = (VolumeId::random(), self.now_ns());
        let taken =
            Snapshot { snapshot, description: description.to_owned(), created_ns, status: SnapshotStatus::Pending, state: None };
        let _listing = self.listing.lock().await;
        let generation = {
            // Between two writes, so that it is a moment in the order that the initiator saw.
            let _alone = self.exclusive.write().await;
            self.blobs.freeze(self.blob).await?
        };
        let mut all: Vec<VolumeId> = self.snapshots.lock().iter().map(|known| known.snapshot).collect();
        all.push(snapshot);
        let mut batch = Batch::new();
        batch.put(taken.row(self.owner)).put(Snapshot::list_row(self.owner, &all));
        self.blobs.apply(self.owner, batch).await?;
        self.blobs.sync().await?;
        self.snapshots.lock().push(taken.clone());
        self.queue.lock().push_back((generation, snapshot, created_ns));
        self.hurry().await;
        Ok(taken)
    }

    /// All snapshots of the volume that were taken here, the oldest first.
    pub fn snapshots(&self) -> Vec<Snapshot> {
        self.snapshots.lock().clone()
    }

    /// Removes a snapshot. What only it had is removed from the bucket too.
    ///
    /// # Errors
    /// See [`SnapshotError`].
    pub async fn delete_snapshot(&self, snapshot: VolumeId) -> Result<(), SnapshotError> {
        let _listing = self.listing.lock().await;
        let known = self.snapshots.lock().iter().find(|known| known.snapshot == snapshot).cloned();
        let known = known.ok_or(SnapshotError::Missing(snapshot))?;
        if known.status == SnapshotStatus::Pending {
            return Err(SnapshotError::Pending(snapshot));
        }
        let key = self.names.snapshot(self.id(), snapshot);
        self.bucket.delete(&key, None).await.map_err(FetchError::from)?;
        let rest: Vec<VolumeId> = self.snapshots.lock().iter().map(|known| known.snapshot).filter(|id| *id != snapshot).collect();
        let mut batch = Batch::new();
        batch.drop(Snapshot::key(self.owner, snapshot)).put(Snapshot::list_row(self.owner, &rest));
        self.blobs.apply(self.owner, batch).await?;
        self.snapshots.lock().retain(|known| known.snapshot != snapshot);
        if let Some(state) = known.state {
            let objects = objects_of(&self.bucket, &self.names, &state).await?;
            self.remove_unless_kept(objects.into_iter().collect()).await?;
            // What it kept from being rewritten it keeps no more.
            self.cleaning.lock().something_died();
            self.ask(0).await;
        }
        Ok(())
    }

    /// The generation of a snapshot was published as `state`.
    pub(super) fn snapshot_published(&self, snapshot: VolumeId, state: &State, batch: &mut Batch) {
        self.edit_snapshot(snapshot, batch, |known| known.state = Some(state.clone()));
    }

    /// A snapshot's object is in S3.
    pub(super) fn snapshot_written(&self, key: &str, batch: &mut Batch) {
        let id = key.rsplit('/').next().and_then(|id| id.parse().ok());
        if let Some(id) = id {
            self.edit_snapshot(id, batch, |known| known.status = SnapshotStatus::Completed);
        }
    }

    fn edit_snapshot(&self, snapshot: VolumeId, batch: &mut Batch, edit: impl FnOnce(&mut Snapshot)) {
        if let Some(known) = self.snapshots.lock().iter_mut().find(|known| known.snapshot == snapshot) {
            edit(known);
            batch.put(known.row(self.owner));
        }
    }

    /// Removes objects that neither the volume nor any snapshot in the bucket names.
    pub(super) async fn remove_unless_kept(&self, objects: Vec<Object>) -> Result<(), FetchError> {
        // After a power loss this gateway must not come back to a state that still named them.
        self.blobs
            .sync()
            .await
            .map_err(|error| ObjectError::Unavailable { reason: error.to_string(), outcome: Outcome::Refused })?;
        let mut kept = BTreeSet::new();
        let mut states = self.snapshot_states().await?;
        states.push(self.recovery_point());
        // Of those that are not in the bucket yet, too.
        states.extend(self.snapshots.lock().iter().filter_map(|known| known.state.clone()));
        for state in states {
            kept.extend(objects_of(&self.bucket, &self.names, &state).await?);
        }
        let own = self.id();
        let unused = objects.into_iter().filter(|object| object.1.volume == own && !kept.contains(object));
        for (key, error) in listing::remove(&self.bucket, unused.map(|object| self.names.key(object)).collect()).await? {
            tracing::warn!(key, %error, "an object that is no longer used stays in the bucket for now");
        }
        Ok(())
    }

    /// What the snapshots in the bucket have, whoever took them.
    pub(super) async fn snapshot_states(&self) -> Result<Vec<State>, FetchError> {
        let prefix = format!("{}snapshots/", self.names.volume(self.id()));
        let mut states = Vec::new();
        for key in listing::keys(&self.bucket, &prefix).await? {
            let (_, bytes) = self.bucket.get(&key, None, None).await?;
            states.push(SnapshotRecord::decode(&bytes).map_err(|error| damaged(&key, &error))?.state);
        }
        Ok(states)
    }

    /// At a start: what was frozen is gone.
    pub(super) fn lose_pending(owner: OwnerId, snapshots: &mut [Snapshot]) -> Batch {
        let mut batch = Batch::new();
        for snapshot in snapshots.iter_mut().filter(|known| known.status == SnapshotStatus::Pending && known.state.is_none()) {
            snapshot.status = SnapshotStatus::Error;
            batch.put(snapshot.row(owner));
        }
        batch
    }
}

//! Collection: what is in the bucket and nothing names, found from the bucket alone, and removed.
//!
//! Such objects are left where a gateway was cut off with a batch on its way, where a request that was given up arrived after all, where a process ended between
//! a publication and the removal of what that left without use, or in the midst of deleting a volume.
//!
//! Invariants:
//! - What two passes at least [`PATIENCE_NS`] apart find unreferenced is removed, and nothing else: who makes a clone needs time to say so, and a day is more
//!   than anybody needs. What the first pass found is remembered durably.
//! - What a manifest, a snapshot, a clone's pin, or a batch on its way here names is referenced. One of these that cannot be read ends the pass: what it
//!   names is not known.
//! - Of a volume that another gateway may have, nothing of the epoch in force is touched: what it has on its way cannot be seen from here.
//! - One listing for a pass, over the volumes' prefix. What is kept in memory is a few dozen bytes for each object.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use serde::Serialize;

use super::CachedVolume;
use super::attach::{AttachError, Home};
use super::clone::clone_note;
use crate::base::id::OwnerId;
use crate::engine::volume::listing;
use crate::engine::volume::local::Unreferenced;
use crate::engine::volume::manifest::{Manifest, SnapshotRecord, State};
use crate::engine::volume::named::objects_below;
use crate::engine::volume::names::{Kind, Object, ObjectName, VolumeId};
use crate::engine::volume::remote::{checkpoint, damaged};
use crate::store::blob::{Batch, FetchError};
use crate::store::object::ObjectError;

/// How long something must have been found unreferenced before it is removed, in nanoseconds: a day.
pub const PATIENCE_NS: i64 = 24 * 3600 * 1_000_000_000;
/// Keys that are told one by one.
const KEYS_SHOWN: usize = 1_000;
/// Documents that are read at a time.
const REQUESTS_MAX: usize = 16;
/// How often the bucket's states are read where they change meanwhile.
const LOOKS_MAX: usize = 5;

/// What a pass found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Collection {
    /// Objects with bytes or maps of volumes.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Those that nothing names.
    pub unreferenced: u64,
    /// Their bytes.
    pub unreferenced_bytes: u64,
    /// Those of them that were found so a day before, and are removed; by a dry run: that would be.
    pub removed: u64,
    /// Their bytes.
    pub removed_bytes: u64,
    /// The keys of what nothing names, the first thousand.
    pub keys: Vec<String>,
}

/// What the listing has.
#[derive(Default)]
struct Census {
    objects: BTreeMap<Object, u64>,
    manifests: BTreeSet<VolumeId>,
    /// By volume and snapshot.
    snapshots: BTreeSet<(VolumeId, VolumeId)>,
}

/// What this gateway has of a volume.
struct Held {
    epoch: u64,
    /// What it has on its way.
    under_way: BTreeSet<Object>,
    states: Vec<State>,
}

/// What names objects.
#[derive(Default)]
struct Roots {
    named: BTreeSet<Object>,
    /// The epoch of each volume that has a manifest.
    epochs: BTreeMap<VolumeId, u64>,
    /// Pins of clones that are not there.
    idle_pins: BTreeSet<(VolumeId, VolumeId)>,
}

/// Whether an object that nothing names is certainly not about to be named. `epoch`: of the volume's manifest, `held`: of this gateway's attachment.
fn may_go(name: &ObjectName, epoch: Option<u64>, held: Option<u64>) -> bool {
    match epoch {
        None => true,
        Some(epoch) => name.epoch < epoch || (name.epoch == epoch && held == Some(epoch)),
    }
}

impl CachedVolume {
    /// What must not be taken for unreferenced. What is on its way is looked at first: from there it becomes part of the state, and of snapshots.
    fn held(&self) -> Held {
        let under_way = self.work.lock().objects().collect();
        let local = self.local.lock().clone();
        let snapshots = self.snapshots.lock().iter().filter_map(|known| known.state.clone()).collect::<Vec<_>>();
        let states = std::iter::once(local.manifest.state).chain(snapshots).collect();
        Held { epoch: local.manifest.epoch, under_way, states }
    }
}

impl Home {
    /// Looks for what nothing names, remembers it, and removes what was remembered a day ago. `volumes`: all that this gateway has here. A dry run changes
    /// nothing.
    ///
    /// # Errors
    /// See [`AttachError`]; then nothing was removed that should not be.
    pub async fn collect(&self, volumes: &[Arc<CachedVolume>], is_dry: bool) -> Result<Collection, AttachError> {
        let census = self.census().await?;
        let (roots, held) = self.roots(&census, volumes).await?;
        let names = self.names();
        let epoch_of = |name: &ObjectName| roots.epochs.get(&name.volume).copied();
        let is_idle = |(object, _): &(&Object, &u64)| {
            let held = held.get(&object.1.volume);
            !roots.named.contains(*object)
                && !held.is_some_and(|held| held.under_way.contains(*object))
                && may_go(&object.1, epoch_of(&object.1), held.map(|held| held.epoch))
        };
        let mut unreferenced: BTreeMap<String, u64> =
            census.objects.iter().filter(is_idle).map(|(object, bytes)| (names.key(*object), *bytes)).collect();
        unreferenced.extend(roots.idle_pins.iter().map(|(volume, clone)| (names.snapshot(*volume, *clone), 0)));

        let now_ns = self.blobs.clock().now_ns();
        let before = Unreferenced::load(self.blobs.meta()).await?;
        let since_ns = |key: &String| before.get(key).copied().unwrap_or(now_ns).min(now_ns);
        let due: Vec<String> = unreferenced.keys().filter(|key| now_ns - since_ns(key) >= PATIENCE_NS).cloned().collect();
        let sum = |keys: &[String]| keys.iter().filter_map(|key| unreferenced.get(key)).sum::<u64>();
        let mut found = Collection {
            objects: census.objects.len() as u64,
            bytes: census.objects.values().sum(),
            unreferenced: unreferenced.len() as u64,
            unreferenced_bytes: unreferenced.values().sum(),
            removed: due.len() as u64,
            removed_bytes: sum(&due),
            keys: unreferenced.keys().take(KEYS_SHOWN).cloned().collect(),
        };
        if is_dry {
            return Ok(found);
        }
        // After a power loss this gateway must not come back to a state that still named them.
        self.blobs.sync().await?;
        let failed = listing::remove(&self.bucket, due.clone()).await?;
        for (key, error) in &failed {
            tracing::warn!(key, %error, "an object that nothing names stays in the bucket for now");
        }
        let failed: Vec<String> = failed.into_iter().map(|(key, _)| key).collect();
        found.removed -= failed.len() as u64;
        found.removed_bytes -= sum(&failed);
        let gone: BTreeSet<String> = due.into_iter().filter(|key| !failed.contains(key)).collect();
        let rest = unreferenced.keys().filter(|key| !gone.contains(*key)).map(|key| (key.clone(), since_ns(key))).collect();
        self.remember(now_ns, rest).await?;
        Ok(found)
    }

    /// When the last pass was that was none by way of trial, nanoseconds since the Unix epoch.
    ///
    /// # Errors
    /// `Blob`.
    pub async fn last_collection_ns(&self) -> Result<Option<i64>, AttachError> {
        Ok(Unreferenced::last_pass_ns(self.blobs.meta()).await?)
    }

    async fn remember(&self, now_ns: i64, unreferenced: BTreeMap<String, i64>) -> Result<(), AttachError> {
        // A row each: a batch is one record of the log.
        for change in Unreferenced::rows(now_ns, unreferenced) {
            let mut batch = Batch::new();
            match change {
                Ok(row) => batch.put(row),
                Err(key) => batch.drop(key),
            };
            self.blobs.apply(OwnerId(0), batch).await?;
        }
        self.blobs.sync().await?;
        Ok(())
    }

    async fn census(&self) -> Result<Census, AttachError> {
        let (names, mut census) = (self.names(), Census::default());
        listing::each_page(&self.bucket, names.all(), None, |page| {
            for listed in page.objects {
                if let Some(object) = names.object(&listed.key) {
                    census.objects.insert(object, listed.size_bytes);
                    continue;
                }
                let Some((volume, kind, _)) = names.parse(&listed.key) else { continue };
                let snapshot = listed.key.rsplit('/').next().and_then(|id| id.parse().ok());
                if kind == "manifest" {
                    census.manifests.insert(volume);
                } else if let ("snapshots", Some(snapshot)) = (kind, snapshot) {
                    census.snapshots.insert((volume, snapshot));
                }
            }
        })
        .await?;
        Ok(census)
    }

    /// What names objects now, which is after the listing.
    async fn roots(
        &self,
        census: &Census,
        volumes: &[Arc<CachedVolume>],
    ) -> Result<(Roots, BTreeMap<VolumeId, Held>), AttachError> {
        let mut looks = 0;
        loop {
            let mut held = BTreeMap::new();
            for volume in volumes.iter().filter(|volume| !volume.is_fenced()) {
                held.insert(volume.id(), volume.held());
            }
            looks += 1;
            match self.look(census, &held).await {
                // A checkpoint went between its state and itself.
                Err(AttachError::Fetch(FetchError::Changed)) if looks < LOOKS_MAX => {}
                Err(AttachError::Fetch(FetchError::Changed)) => {
                    let what = "a volume or snapshot names a checkpoint that is gone: `tidegate volume verify` says which";
                    return Err(ObjectError::Corrupt(what.into()).into());
                }
                looked => return Ok((looked?, held)),
            }
        }
    }

    async fn look(&self, census: &Census, held: &BTreeMap<VolumeId, Held>) -> Result<Roots, AttachError> {
        let manifests = stream::iter(census.manifests.iter().copied()).map(|id| self.manifest_if_there(id));
        let manifests: Vec<Option<Manifest>> = manifests.buffered(REQUESTS_MAX).try_collect().await?;
        let records = stream::iter(census.snapshots.iter().copied()).map(|(volume, snapshot)| self.record(volume, snapshot));
        let records: Vec<Option<(VolumeId, SnapshotRecord)>> = records.buffered(REQUESTS_MAX).try_collect().await?;

        let mut roots = Roots::default();
        roots.epochs.extend(manifests.iter().flatten().map(|manifest| (manifest.volume, manifest.epoch)));
        for (volume, record) in records.iter().flatten() {
            let clone = record.snapshot;
            if record.description == clone_note(clone) && !roots.epochs.contains_key(&clone) {
                roots.idle_pins.insert((*volume, clone));
            }
        }
        let manifests = manifests.into_iter().flatten().map(|manifest| manifest.state);
        let records = records.into_iter().flatten().map(|(_, record)| record.state);
        let mut checkpoints = BTreeSet::new();
        for state in manifests.chain(records).chain(held.values().flat_map(|held| held.states.iter().cloned())) {
            roots.named.extend(state.segments_since().map(|name| (Kind::Segments, name)));
            checkpoints.extend(state.checkpoint);
        }
        let names = self.names();
        let loaded = stream::iter(checkpoints.iter().copied()).map(|name| checkpoint(&self.bucket, &names, name));
        let mut loaded = loaded.buffered(REQUESTS_MAX);
        while let Some(checkpoint) = loaded.try_next().await? {
            roots.named.extend(objects_below(&checkpoint));
        }
        roots.named.extend(checkpoints.iter().map(|name| (Kind::Checkpoints, *name)));
        Ok(roots)
    }

    async fn manifest_if_there(&self, volume: VolumeId) -> Result<Option<Manifest>, AttachError> {
        match self.manifest(volume).await {
            Ok((manifest, _)) => Ok(Some(manifest)),
            Err(AttachError::Missing(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A snapshot, or a clone's pin; `None` where it went since the listing.
    async fn record(&self, volume: VolumeId, snapshot: VolumeId) -> Result<Option<(VolumeId, SnapshotRecord)>, AttachError> {
        let key = self.names().snapshot(volume, snapshot);
        match self.bucket.get(&key, None, None).await {
            Ok((_, bytes)) => {
                let record = SnapshotRecord::decode(&bytes).map_err(|error| damaged(&key, &error))?;
                Ok(Some((volume, record)))
            }
            Err(ObjectError::NotFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_gateway_may_have_on_its_way_is_not_touched() {
        let name = |epoch| ObjectName { volume: VolumeId([1; 16]), epoch, number: 7 };
        assert!(may_go(&name(1), Some(2), None), "its gateway was cut off");
        assert!(!may_go(&name(2), Some(2), None), "another gateway's, now");
        assert!(!may_go(&name(2), Some(2), Some(1)), "this gateway was cut off");
        assert!(may_go(&name(2), Some(2), Some(2)), "ours, and not on its way");
        assert!(!may_go(&name(3), Some(2), Some(2)), "of an attachment that is not known yet");
        assert!(may_go(&name(3), None, None), "the volume is deleted");
    }
}

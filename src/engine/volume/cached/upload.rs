//! What of a cached volume goes to S3, and when: the planner of its one job.
//!
//! A generation goes like this: frozen; its segments, one after the other; the manifest that names them, by compare-and-swap; and in the batch that records
//! this, the blob is clean through it. Then the snapshot that it is, if it is one. Where many segments have come together since the last checkpoint, or their
//! frames are many, the map is folded into the next: objects with pages, the checkpoint, the manifest. What that left without use is removed from the bucket, unless
//! a snapshot names it.
//!
//! Invariants:
//! - One generation or fold at a time: the map does not change under a fold.
//! - What a former life of the process made for a generation that was never published is removed, by its ETag.
//! - A manifest that is another than the one that is known belongs to whoever attached the volume meanwhile: from then on nothing is changed here.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use bytes::Bytes;

use super::{CachedVolume, PAD_BYTES, SUBJECT, Work};
use crate::base::id::Seq;
use crate::engine::volume::batch::{Batch as Frozen, Fold};
use crate::engine::volume::local::{Local, Made, SnapshotStatus};
use crate::engine::volume::manifest::{Manifest, SnapshotRecord, State};
use crate::engine::volume::names::{Kind, Object, ObjectName, VolumeId};
use crate::engine::volume::segment::Segment;
use crate::store::blob::{Batch, BlobChange, BlobError, FetchError};
use crate::store::object::{Attributes, ETag, ObjectError, Outcome};
use crate::store::upload::{Done, Expected, Op, Plan, Planner};

/// Pieces over the checkpoint's pages that call for another checkpoint, at least.
const PIECES_MIN: u64 = if cfg!(test) { 500 } else { 1 << 16 };
/// And at most: they are in memory.
const PIECES_MAX: u64 = 1 << 20;

/// What the blob store keeps as its source: it only has to change with what S3 has.
fn token(state: &State) -> Bytes {
    Bytes::from(format!("{:016x}", state.generation))
}

impl CachedVolume {
    fn put_made(&self, key: String, generation: Seq, bytes_max: u64) -> Plan {
        let blob = self.local.lock().blob;
        let (attributes, expected) = (Attributes::default(), Expected::Absent);
        Plan::Run(Op::PutMade { key, blob, generation, bytes_max, attributes, expected })
    }

    fn put_manifest(&self, local: &Local, state: State) -> Plan {
        let manifest = Manifest { state, ..local.manifest.clone() };
        Plan::Run(Op::PutBytes {
            key: self.names.manifest(manifest.volume),
            body: manifest.encode().into(),
            attributes: Attributes::default(),
            expected: Expected::Object(ETag(local.etag.clone())),
        })
    }

    /// What the volume will be when a batch is published.
    fn state_of(&self, local: &Local, batch: &Frozen) -> State {
        let mut state = local.manifest.state.clone();
        state.generation = batch.generation.seq.0;
        state.len_bytes = batch.generation.len_bytes - PAD_BYTES;
        state.at_ns = batch.at_ns;
        batch.parts.iter().for_each(|part| state.push(part.name));
        state
    }

    fn is_made(local: &Local, key: &str) -> bool {
        local.made.iter().any(|made| made.key == key)
    }

    /// A snapshot whose bytes are in S3, and that is not.
    fn unwritten_snapshot(&self, local: &Local) -> Option<Plan> {
        let snapshots = self.snapshots.lock();
        let snapshot =
            snapshots.iter().find(|snapshot| snapshot.status == SnapshotStatus::Pending && snapshot.state.is_some())?;
        let record = SnapshotRecord::new(
            snapshot.snapshot,
            &local.manifest,
            &snapshot.description,
            snapshot.state.clone().unwrap_or_default(),
        );
        Some(Plan::Run(Op::PutBytes {
            key: self.names.snapshot(local.manifest.volume, snapshot.snapshot),
            body: record.encode().into(),
            attributes: Attributes::default(),
            expected: Expected::Absent,
        }))
    }

    /// Freezes what comes next; `Err`: nothing does, and why.
    async fn begin(&self, local: &Local) -> Result<Result<Work, Plan>, BlobError> {
        let queued = self.queue.lock().pop_front();
        if let Some((generation, snapshot, at_ns)) = queued {
            let batch = Frozen::new(generation, at_ns, Some(snapshot), self.next_name()).await?;
            self.take_names(batch.parts.len() as u64);
            return Ok(Ok(Work::Batch(Box::new(batch))));
        }
        let state = &local.manifest.state;
        let (over, of) = self.remote.pieces_over();
        if state.since_count() >= self.settings.checkpoint_segments || over >= (of / 4).clamp(PIECES_MIN, PIECES_MAX) {
            let fold = Fold::new(&self.remote, self.next_name()).await?;
            self.take_names(fold.packs.len() as u64 + 1);
            return Ok(Ok(Work::Fold(Box::new(fold))));
        }
        // Whoever writes from here on asks anew.
        self.asked.store(false, Ordering::SeqCst);
        let info = self.blobs.info(local.blob).await?;
        if !info.is_dirty() {
            self.hurried.store(false, Ordering::Relaxed);
            return Ok(Err(Plan::Settled));
        }
        self.asked.store(true, Ordering::SeqCst);
        let oldest = self.usage().oldest_dirty_ns.max(self.frozen_ns.load(Ordering::Relaxed) as i64);
        let due = oldest.saturating_add(i64::try_from(self.settings.upload_interval.as_nanos()).unwrap_or(i64::MAX));
        if !self.hurried.load(Ordering::Relaxed) && self.now_ns() < due {
            return Ok(Err(Plan::Wait(due)));
        }
        let at_ns = self.now_ns();
        self.hurried.store(false, Ordering::Relaxed);
        self.written_bytes.store(0, Ordering::Relaxed);
        self.frozen_ns.store(at_ns as u64, Ordering::Relaxed);
        let generation = self.blobs.freeze(local.blob).await?;
        let batch = Frozen::new(generation, at_ns, None, self.next_name()).await?;
        self.take_names(batch.parts.len() as u64);
        Ok(Ok(Work::Batch(Box::new(batch))))
    }

    fn next_of_batch(&self, local: &Local, batch: &Frozen) -> Plan {
        for part in &batch.parts {
            let key = self.names.segment(part.name);
            if !Self::is_made(local, &key) {
                return self.put_made(key, batch.generation.seq, part.bytes_max);
            }
        }
        self.put_manifest(local, self.state_of(local, batch))
    }

    fn next_of_fold(&self, local: &Local, fold: &Fold) -> Plan {
        let generation = Seq(fold.of.generation);
        for pack in &fold.packs {
            let key = self.names.pages(pack.name);
            if !Self::is_made(local, &key) {
                return self.put_made(key, generation, pack.bytes_max);
            }
        }
        let key = self.names.checkpoint(fold.name);
        if !Self::is_made(local, &key) {
            return self.put_made(key, generation, fold.checkpoint_bytes_max());
        }
        self.put_manifest(local, fold.state())
    }

    /// What the work at hand makes.
    pub(super) fn objects_of(&self, work: &Work) -> Vec<Object> {
        match work {
            Work::Nothing => Vec::new(),
            Work::Batch(batch) => batch.parts.iter().map(|part| (Kind::Segments, part.name)).collect(),
            Work::Fold(fold) => {
                let packs = fold.packs.iter().map(|pack| (Kind::Pages, pack.name));
                packs.chain([(Kind::Checkpoints, fold.name)]).collect()
            }
        }
    }

    /// The manifest is in S3: the volume is what it says.
    fn published(&self, local: &mut Local, manifest: Manifest, etag: &ETag, batch: &mut Batch) {
        let state = &manifest.state;
        if state.generation > local.manifest.state.generation {
            batch.blob(BlobChange::CleanThrough {
                id: local.blob,
                through: Seq(state.generation),
                len_bytes: state.len_bytes + PAD_BYTES,
                source: token(state),
            });
        }
        let named: Vec<String> = state.segments_since().map(|name| self.names.segment(name)).collect();
        local
            .made
            .retain(|made| !named.contains(&made.key) && !made.key.contains("/pages/") && !made.key.contains("/checkpoints/"));
        local.etag = etag.0.clone();
        local.manifest = manifest;
    }

    /// What is at the manifest's place, when it is not what we know: ours, if an answer was lost; else the volume is somebody else's now.
    async fn look_at_manifest(&self, local: &mut Local, batch: &mut Batch) -> Result<(), BlobError> {
        let key = self.names.manifest(local.manifest.volume);
        let found = match self.bucket.get(&key, None, None).await {
            Ok((head, bytes)) => Manifest::decode(&bytes).ok().zip(head.etag),
            Err(ObjectError::NotFound) => None,
            Err(error) => return Err(FetchError::from(error).into()),
        };
        match found {
            Some((manifest, etag)) if manifest.epoch == local.manifest.epoch && manifest.gateway == local.manifest.gateway => {
                self.remote.forget(manifest.state.clone());
                self.published(local, manifest, &etag, batch);
            }
            _ => {
                tracing::error!(volume = %local.manifest.name, "another gateway attached this volume, or it was deleted: it is no longer served here");
                local.is_fenced = true;
            }
        }
        Ok(())
    }

    /// Removes what nothing names any more, as far as no snapshot does. Best effort: what stays is found by a collection.
    fn remove_unused(&self, objects: Vec<Object>) {
        let Some(this) = self.weak.upgrade() else { return };
        tokio::spawn(async move {
            if let Err(error) = this.remove_unless_kept(objects).await {
                tracing::warn!(volume = %this.name(), %error, "objects that are no longer used stay in the bucket for now");
            }
        });
    }
}

#[async_trait]
impl Planner for CachedVolume {
    async fn plan(&self, _: u64) -> Result<Plan, BlobError> {
        let mut work = self.work.lock().await;
        let local = self.local.lock().clone();
        if local.is_fenced {
            return Ok(Plan::Settled);
        }
        // What an earlier life made.
        let wanted: Vec<String> = self.objects_of(&work).into_iter().map(|object| self.names.key(object)).collect();
        if let Some(made) = local.made.iter().find(|made| !wanted.contains(&made.key)) {
            return Ok(Plan::Run(Op::Delete { key: made.key.clone(), expected: Expected::Object(ETag(made.etag.clone())) }));
        }
        if let Some(plan) = self.unwritten_snapshot(&local) {
            return Ok(plan);
        }
        if matches!(*work, Work::Nothing) {
            match self.begin(&local).await? {
                Ok(begun) => *work = begun,
                Err(plan) => return Ok(plan),
            }
        }
        Ok(match &*work {
            Work::Nothing => Plan::Settled,
            Work::Batch(batch) => self.next_of_batch(&local, batch),
            Work::Fold(fold) => self.next_of_fold(&local, fold),
        })
    }

    async fn make(&self, _: u64, op: &Op) -> Result<Vec<Bytes>, BlobError> {
        let mut work = self.work.lock().await;
        let named = self.names.parse(op.target());
        let volume = self.id();
        match (&mut *work, named) {
            (Work::Batch(batch), Some((_, "segments", Some(name)))) => {
                let len_bytes = batch.generation.len_bytes - PAD_BYTES;
                batch.make(name, len_bytes).await
            }
            (Work::Fold(fold), Some((_, "pages", Some(name)))) => Ok(vec![fold.make_pack(&self.remote, name).await?.into()]),
            (Work::Fold(fold), Some((_, "checkpoints", Some(_)))) => Ok(vec![fold.checkpoint(volume).encode().into()]),
            _ => Err(BlobError::NotFound),
        }
    }

    async fn done(&self, _: u64, op: &Op, done: &Done, batch: &mut Batch) -> Result<(), BlobError> {
        let mut local = self.local.lock().clone();
        let kind = self.names.parse(op.target()).map(|(_, kind, _)| kind);
        match (op, done) {
            (Op::PutMade { key, .. }, Done::Written { etag, .. }) => {
                local.made.push(Made { key: key.clone(), etag: etag.0.clone() });
            }
            (Op::PutBytes { body, .. }, Done::Written { etag, .. }) if kind == Some("manifest") => {
                let manifest =
                    Manifest::decode(body).map_err(|error| ObjectError::Corrupt(error.to_string())).map_err(FetchError::from)?;
                self.tell_map(&manifest).await;
                self.finish_snapshot(&manifest.state, batch).await;
                self.published(&mut local, manifest, etag, batch);
            }
            (Op::PutBytes { key, .. }, Done::Written { .. }) => self.snapshot_written(key, batch),
            (Op::Delete { key, .. }, Done::Deleted | Done::Conflict(_)) => local.made.retain(|made| made.key != *key),
            (Op::PutBytes { .. }, Done::Conflict(_)) if kind == Some("manifest") => {
                self.look_at_manifest(&mut local, batch).await?
            }
            (Op::PutBytes { key, .. }, Done::Conflict(Some(_))) => self.snapshot_written(key, batch),
            (_, done) => {
                // Nobody has our keys: an object there is a fault, and trying again is all that can be done.
                let reason = format!("{} is not what it should be: {done:?}", op.target());
                return Err(FetchError::from(ObjectError::Unavailable { reason, outcome: Outcome::Refused }).into());
            }
        }
        batch.put(local.row(self.owner));
        *self.staged.lock() = Some(local);
        Ok(())
    }

    fn applied(&self, subject: u64, op: &Op, done: &Done) {
        debug_assert_eq!(subject, SUBJECT);
        let Some(local) = self.staged.lock().take() else { return };
        let is_manifest = op.target() == self.names.manifest(local.manifest.volume);
        let is_fenced = local.is_fenced;
        *self.local.lock() = local;
        if is_fenced {
            self.is_fenced.store(true, Ordering::Relaxed);
        }
        if is_manifest && matches!(done, Done::Written { .. } | Done::Conflict(_)) {
            // Planned by one task, which is here now: nobody else holds it for long.
            let work = match self.work.try_lock() {
                Ok(mut work) => std::mem::replace(&mut *work, Work::Nothing),
                Err(_) => return,
            };
            if let (Work::Fold(fold), Done::Written { .. }) = (work, done) {
                let now = fold.checkpoint(self.id());
                self.remove_unused(fold.dropped(&now));
            }
        }
    }
}

impl CachedVolume {
    /// The map is that of a manifest from now on, before the blob is told.
    async fn tell_map(&self, manifest: &Manifest) {
        let work = self.work.lock().await;
        match &*work {
            Work::Batch(batch) if batch.generation.seq.0 == manifest.state.generation => {
                let made: Vec<(ObjectName, Segment)> =
                    batch.made.iter().map(|(name, segment)| (*name, segment.clone())).collect();
                self.remote.publish(manifest.state.clone(), &made);
            }
            Work::Fold(fold) if manifest.state.checkpoint == Some(fold.name) => {
                self.remote.publish_checkpoint(manifest.state.clone(), Arc::new(fold.checkpoint(manifest.volume)));
            }
            _ => self.remote.forget(manifest.state.clone()),
        }
    }

    /// The snapshot that a published generation is: what it has is known.
    async fn finish_snapshot(&self, state: &State, batch: &mut Batch) {
        let of: Option<VolumeId> = match &*self.work.lock().await {
            Work::Batch(frozen) if frozen.generation.seq.0 == state.generation => frozen.snapshot,
            _ => None,
        };
        if let Some(of) = of {
            self.snapshot_published(of, state, batch);
        }
    }
}

//! What of a cached volume goes to S3, and when: the planner of its one job.
//!
//! A generation goes like this: frozen; its segments, several at a time (`work.rs`); the manifest that names them, by compare-and-swap; and in the batch that records
//! this, the blob is clean through it. Then the snapshot that it is, if it is one. Where many segments have come together since the last checkpoint, or their
//! frames are many, the map is folded into the next: objects with pages, the checkpoint, the manifest. What that left without use is removed from the bucket, unless
//! a snapshot names it.
//!
//! Invariants:
//! - One generation or fold at a time: the map does not change under a fold.
//! - What a former life of the process made for a generation that was never published is left to a collection: a manifest that was given up may still
//!   arrive, and name it.
//! - A manifest that is another than the one that is known belongs to whoever attached the volume meanwhile: from then on nothing is changed here.

use std::sync::atomic::Ordering;

use async_trait::async_trait;
use bytes::Bytes;

use super::work::Work;
use super::{CachedVolume, PAD_BYTES, SUBJECT};
use crate::base::id::Seq;
use crate::engine::volume::batch::Batch as Frozen;
use crate::engine::volume::local::{Local, SnapshotStatus};
use crate::engine::volume::manifest::{Manifest, SnapshotRecord, State};
use crate::engine::volume::names::{Object, VolumeId};
use crate::store::blob::{Batch, BlobChange, BlobError, FetchError, Generation};
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
    fn put_manifest(&self, local: &Local, state: State) -> Plan {
        let manifest = Manifest { state, ..local.manifest.clone() };
        Plan::Run(Op::PutBytes {
            key: self.names.manifest(manifest.volume),
            body: manifest.encode().into(),
            attributes: Attributes::default(),
            expected: Expected::Object(ETag(local.etag.clone())),
        })
    }

    /// What the volume is when the work at hand is published.
    fn state_after(local: &Local, work: &Work) -> Option<State> {
        match work {
            Work::Nothing => None,
            Work::Batch(batch) => Some(batch.state(&local.manifest.state, PAD_BYTES)),
            Work::Fold(fold) => Some(fold.state()),
        }
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

    /// Takes up what comes next; `Err`: nothing does, and why.
    async fn begin(&self, local: &Local) -> Result<Result<Work, Plan>, BlobError> {
        let queued = self.queue.lock().pop_front();
        if let Some((generation, snapshot, at_ns)) = queued {
            return Ok(Ok(self.cut(generation, at_ns, Some(snapshot)).await?));
        }
        let (over, of) = self.remote.pieces_over();
        let is_long = local.manifest.state.since_count() >= self.settings.checkpoint_segments;
        if is_long || over >= (of / 4).clamp(PIECES_MIN, PIECES_MAX) || self.cleaning.lock().wants_fold() {
            return Ok(Ok(self.fold().await?));
        }
        // Whoever writes from here on asks anew.
        self.asked.store(false, Ordering::SeqCst);
        let is_dirty = self.blobs.info(local.blob).await?.is_dirty();
        self.asked.fetch_or(is_dirty, Ordering::SeqCst);
        let oldest = self.usage().oldest_dirty_ns.max(self.frozen_ns.load(Ordering::Relaxed) as i64);
        let due = oldest.saturating_add(i64::try_from(self.settings.upload_interval.as_nanos()).unwrap_or(i64::MAX));
        let is_due = is_dirty && (self.hurried.load(Ordering::Relaxed) || self.now_ns() >= due);
        if let Some(work) = self.clean(!is_due).await {
            return Ok(Ok(work));
        }
        if !is_dirty && self.is_fold_worth_it().await {
            return Ok(Ok(self.fold().await?));
        }
        if !is_dirty {
            self.hurried.store(false, Ordering::Relaxed);
            return Ok(Err(Plan::Settled));
        }
        if !is_due {
            return Ok(Err(Plan::Wait(due)));
        }
        let at_ns = self.now_ns();
        self.hurried.store(false, Ordering::Relaxed);
        self.written_bytes.store(0, Ordering::Relaxed);
        self.frozen_ns.store(at_ns as u64, Ordering::Relaxed);
        let generation = self.blobs.freeze(local.blob).await?;
        Ok(Ok(self.cut(generation, at_ns, None).await?))
    }

    /// A generation becomes segments.
    async fn cut(&self, generation: Generation, at_ns: i64, snapshot: Option<VolumeId>) -> Result<Work, BlobError> {
        let batch = Frozen::new(generation, at_ns, snapshot, self.next_name()).await?;
        self.take_names(batch.parts.len() as u64);
        Ok(Work::Batch(batch.into()))
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
    async fn plan(&self, subject: u64) -> Result<Plan, BlobError> {
        let local = self.local.lock().clone();
        if local.is_fenced {
            return Ok(Plan::Settled);
        }
        let is_idle = matches!(*self.work.lock(), Work::Nothing);
        if subject == SUBJECT && is_idle {
            if let Some(plan) = self.unwritten_snapshot(&local) {
                return Ok(plan);
            }
            match self.begin(&local).await? {
                Ok(begun) => self.deal_out(begun).await,
                Err(plan) => return Ok(plan),
            }
        }
        let work = self.work.lock();
        if let Some(plan) = self.next_object(subject, &work) {
            return Ok(plan);
        }
        // Nothing to publish: what was at hand was given up meanwhile.
        Ok(Self::state_after(&local, &work).map_or(Plan::Wait(0), |state| self.put_manifest(&local, state)))
    }

    async fn make(&self, _: u64, op: &Op) -> Result<Vec<Bytes>, BlobError> {
        self.make_object(self.names.object(op.target())).await
    }

    async fn done(&self, _: u64, op: &Op, done: &Done, batch: &mut Batch) -> Result<(), BlobError> {
        if matches!((op, done), (Op::PutMade { .. }, Done::Written { .. }) | (Op::Delete { .. }, _)) {
            // Until the manifest names it, it is nothing: a later life makes it anew, and a collection finds this one.
            return Ok(());
        }
        let mut local = self.local.lock().clone();
        let kind = self.names.parse(op.target()).map(|(_, kind, _)| kind);
        match (op, done) {
            (Op::PutBytes { body, .. }, Done::Written { etag, .. }) if kind == Some("manifest") => {
                let manifest =
                    Manifest::decode(body).map_err(|error| ObjectError::Corrupt(error.to_string())).map_err(FetchError::from)?;
                self.tell_map(&local, &manifest, batch);
                self.published(&mut local, manifest, etag, batch);
            }
            (Op::PutBytes { key, .. }, Done::Written { .. }) => self.snapshot_written(key, batch),
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

    fn applied(&self, _: u64, op: &Op, done: &Done) {
        if let (Op::PutMade { key, .. }, Done::Written { .. }) = (op, done) {
            return self.names.object(key).into_iter().for_each(|object| self.dealt.lock().sent(object));
        }
        let Some(local) = self.staged.lock().take() else { return };
        let is_manifest = op.target() == self.names.manifest(local.manifest.volume);
        let is_fenced = local.is_fenced;
        *self.local.lock() = local;
        if is_fenced {
            self.is_fenced.store(true, Ordering::Relaxed);
        }
        if is_manifest && matches!(done, Done::Written { .. } | Done::Conflict(_)) {
            // Its objects are all sent, and only one job decides, which is here now.
            let work = std::mem::replace(&mut *self.work.lock(), Work::Nothing);
            self.dealt.lock().clear();
            self.finished(work, matches!(done, Done::Written { .. }));
        }
    }
}

impl CachedVolume {
    /// What was at hand is over; `is_published`: the volume is what it made of it.
    fn finished(&self, work: Work, is_published: bool) {
        match work {
            Work::Batch(batch) if is_published => self.cleaning.lock().batch_published(&batch),
            Work::Fold(fold) if is_published => {
                self.cleaning.lock().fold_published();
                self.remove_unused(fold.dropped(&fold.checkpoint(self.id())));
            }
            _ => {}
        }
    }

    /// The map is that of a manifest from now on, before the blob is told; and what the snapshot has that it is, if it is one, is known.
    fn tell_map(&self, local: &Local, manifest: &Manifest, batch: &mut Batch) {
        let work = self.work.lock().clone();
        let state = &manifest.state;
        if Self::state_after(local, &work).as_ref() != Some(state) {
            // Of an earlier life.
            return self.remote.forget(state.clone());
        }
        match work {
            Work::Nothing => {}
            Work::Batch(frozen) => {
                self.remote.publish(state.clone(), &frozen.made());
                if let Some(snapshot) = frozen.snapshot {
                    self.snapshot_published(snapshot, state, batch);
                }
            }
            Work::Fold(fold) => self.remote.publish_checkpoint(state.clone(), fold.checkpoint(manifest.volume)),
        }
    }
}

//! What of a cached volume is on its way to S3, and who sends it: several objects at a time.
//!
//! A volume has one job that decides ([`SUBJECT`]), and jobs that only send ([`LANES`] altogether): the objects of a batch, or of a checkpoint, are dealt out
//! among them. The manifest is sent by the first, when all objects that it names are there.
//!
//! Invariant: what is at hand changes only in the first job, and only when nothing of it is being sent: so an object belongs to what is at hand, or nobody waits
//! for it.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;

use super::{CachedVolume, PAD_BYTES, SUBJECT};
use crate::base::id::Seq;
use crate::engine::volume::batch::{Batch, Fold};
use crate::engine::volume::names::{Kind, Object};
use crate::store::blob::jobs::JobChange;
use crate::store::blob::{self, BlobError};
use crate::store::object::Attributes;
use crate::store::upload::{Expected, Op, Plan};

/// Objects of a volume that are sent at a time.
const LANES: u64 = 8;

/// How far what is at hand is.
#[derive(Debug, Default)]
pub(super) struct Dealt {
    /// Jobs that send its objects.
    lanes: u64,
    /// Objects of it that are in S3.
    sent: BTreeSet<Object>,
}

impl Dealt {
    /// An object is in S3.
    pub(super) fn sent(&mut self, object: Object) {
        self.sent.insert(object);
    }

    /// Nothing is at hand any more.
    pub(super) fn clear(&mut self) {
        self.sent.clear();
    }
}

/// What the planner is at.
#[derive(Clone)]
pub(super) enum Work {
    Nothing,
    Batch(Arc<Batch>),
    Fold(Arc<Fold>),
}

impl Work {
    /// What can be made side by side, and how long each can be, in bytes.
    fn together(&self) -> Vec<(Object, u64)> {
        match self {
            Self::Nothing => Vec::new(),
            Self::Batch(batch) => batch.parts.iter().map(|part| ((Kind::Segments, part.name), part.bytes_max)).collect(),
            Self::Fold(fold) => fold.packs.iter().map(|pack| ((Kind::Pages, pack.name), pack.bytes_max)).collect(),
        }
    }

    /// What is made of these, and how long it can be, in bytes.
    fn last(&self) -> Option<(Object, u64)> {
        match self {
            Self::Nothing | Self::Batch(_) => None,
            Self::Fold(fold) => Some(((Kind::Checkpoints, fold.name), fold.checkpoint_bytes_max())),
        }
    }

    /// All that it makes.
    pub(super) fn objects(&self) -> impl Iterator<Item = Object> {
        self.together().into_iter().chain(self.last()).map(|(object, _)| object)
    }

    /// The generation that it is of.
    fn generation(&self) -> Seq {
        match self {
            Self::Nothing => Seq(0),
            Self::Batch(batch) => batch.seq(),
            Self::Fold(fold) => Seq(fold.of.generation),
        }
    }
}

impl CachedVolume {
    /// `work` is at hand now: as many jobs as it needs are there. The first does alone what cannot be asked of others.
    pub(super) async fn deal_out(&self, work: Work) {
        *self.work.lock() = work.clone();
        let lanes = (work.together().len() as u64).clamp(1, LANES);
        let mut batch = blob::Batch::new();
        let now_ns = self.now_ns();
        for lane in SUBJECT + 1..SUBJECT + lanes {
            batch.job(lane, JobChange::Ask { not_before_ns: now_ns });
        }
        let asked = if lanes > 1 { self.blobs.apply(self.owner, batch).await.map(|_| ()) } else { Ok(()) };
        let mut dealt = self.dealt.lock();
        dealt.lanes = if asked.is_ok() { lanes } else { 1 };
        for lane in SUBJECT + 1..SUBJECT + dealt.lanes {
            self.uploader.wake(self.owner, lane, now_ns);
        }
    }

    /// What a job does next for what is at hand; `None`: every object is in S3, and the manifest is next.
    pub(super) fn next_object(&self, subject: u64, work: &Work) -> Option<Plan> {
        let dealt = self.dealt.lock();
        let lane_of = |index: usize| SUBJECT + index as u64 % dealt.lanes.max(1);
        let together = work.together();
        let mut open = together.iter().enumerate().filter(|(_, (object, _))| !dealt.sent.contains(object));
        let first = open.clone().next();
        if let Some((_, (object, bytes_max))) = open.find(|(index, _)| lane_of(*index) == subject) {
            return Some(self.put_made(*object, work.generation(), *bytes_max));
        }
        if subject != SUBJECT {
            return Some(Plan::Settled);
        }
        if let Some((index, _)) = first {
            return Some(Plan::After(lane_of(index)));
        }
        let (object, bytes_max) = work.last().filter(|(object, _)| !dealt.sent.contains(object))?;
        Some(self.put_made(object, work.generation(), bytes_max))
    }

    fn put_made(&self, object: Object, generation: Seq, bytes_max: u64) -> Plan {
        let (blob, key) = (self.blob(), self.names.key(object));
        let (attributes, expected) = (Attributes::default(), Expected::Absent);
        Plan::Run(Op::PutMade { key, blob, generation, bytes_max, attributes, expected })
    }

    /// The bytes of an object of what is at hand. No lock is held meanwhile: others make theirs.
    pub(super) async fn make_object(&self, object: Option<Object>) -> Result<Vec<Bytes>, BlobError> {
        let work = self.work.lock().clone();
        match (&work, object) {
            (Work::Batch(batch), Some((Kind::Segments, name))) => {
                let before = self.recovery_point();
                let made = batch.make(name, batch.state(&before, PAD_BYTES).len_bytes).await;
                if let (Err(error), true) = (&made, batch.is_relocation()) {
                    self.give_up(batch, error);
                }
                made
            }
            (Work::Fold(fold), Some((Kind::Pages, name))) => Ok(vec![fold.make_pack(&self.remote, name).await?.into()]),
            (Work::Fold(fold), Some((Kind::Checkpoints, _))) => Ok(vec![fold.checkpoint(self.id()).encode().into()]),
            _ => Err(BlobError::NotFound),
        }
    }

    /// Live bytes could not be read. The volume must not wait for that: what is new of it comes first.
    fn give_up(&self, relocation: &Arc<Batch>, error: &BlobError) {
        let mut work = self.work.lock();
        if matches!(&*work, Work::Batch(batch) if Arc::ptr_eq(batch, relocation)) {
            tracing::warn!(volume = %self.name(), %error, "segments that are mostly dead are not rewritten for now");
            *work = Work::Nothing;
            self.cleaning.lock().give_up();
        }
    }
}

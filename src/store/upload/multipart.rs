//! Large objects: sent and copied in parts, resumed after failures and restarts.
//!
//! What lives here: the runs of a multipart upload. `multipart/plan.rs` decides the parts, `multipart/lost.rs` ends what was begun without an answer.
//!
//! The state of an upload (its id, its object's mark, the fingerprint of its plan, the parts that are there) is kept in the job's row
//! (`pending.rs`): when the upload begins, every few seconds, and when an attempt fails. An upload is gone on with only if mark and
//! fingerprint are the same, that is: same key, attributes, generation, limits and base. Otherwise it is aborted before anything else is done for
//! the subject.
//!
//! Only uploads that a row of ours names are ever aborted, and those whose begin was never answered (`multipart/lost.rs`).

mod lost;
pub(super) mod plan;

use std::collections::HashSet;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;

use super::adopt::{self, Kin, Mark, Verdict, Write};
use super::budget::Progress;
use super::pending::UploadState as State;
use super::run::{Content, Failure, Runner, Suspect, check_length, covers, is_source_changed};
use super::{Done, Op, digest};
use crate::base::id::Seq;
use crate::base::range;
use crate::store::blob::Generation;
use crate::store::object::{Attributes, Body, CopySource, ETag, ObjectError, Part, UploadId};
use plan::{Limits, PlannedPart};

/// How often the parts that are there are written down.
const SAVE_INTERVAL: Duration = Duration::from_secs(5);

/// The size of a part that is copied, in bytes: large enough to be few, small enough to be answered in time.
const COPIED_BYTES: u64 = 256 << 20;

/// Everything about one run.
struct Job<'a> {
    subject: u64,
    op: &'a Op,
    generation: Option<&'a Generation>,
    base: Option<&'a CopySource>,
    parts: Vec<PlannedPart>,
    kin: Kin,
    mark: String,
    attributes: &'a Attributes,
}

/// Why a run stopped.
enum Stop {
    Failed(Failure),
    SourceChanged,
    NoUpload,
}

impl<E: Into<Failure>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl Runner {
    /// Uploads a generation in parts.
    #[expect(clippy::too_many_arguments, reason = "the fields of Op::PutBlob and what was made of them")]
    pub(super) async fn put_parts(
        &self,
        subject: u64,
        op: &Op,
        generation: &Generation,
        kin: Kin,
        attributes: &Attributes,
        base: Option<&CopySource>,
        unless_digest: Option<&[u8]>,
        progress: &Progress,
    ) -> Result<Done, Failure> {
        let changed = generation.changed().await?;
        let content = Content { size_bytes: generation.len_bytes, through: generation.seq, digest: None };
        if let (Some(known), Some(base), true) = (unless_digest, base, covers(generation, &changed)) {
            let digest = self.digest(generation, progress).await?;
            if known == digest {
                self.pending.abandon(self, subject, progress).await?;
                let content = Content { digest: Some(digest), ..content.clone() };
                if let Some(done) = self.put_unchanged(subject, op, base, &kin, attributes, &content, progress).await? {
                    return Ok(done);
                }
            }
        }
        let base = base.filter(|_| self.bucket.capabilities().part_copy);
        let parts = self.cut(generation.len_bytes, &changed, base.map_or(0, |_| generation.len_bytes))?;
        let mark = mark_of(&kin);
        self.run_parts(Job { subject, op, generation: Some(generation), base, parts, kin, mark, attributes }, content, progress)
            .await
    }

    /// Copies an object that is too large for one `CopyObject`.
    pub(super) async fn copy_parts(
        &self,
        subject: u64,
        op: &Op,
        source: &CopySource,
        attributes: Option<&Attributes>,
        content: Content,
        progress: &Progress,
    ) -> Result<Done, Failure> {
        let attributes = match attributes {
            Some(attributes) => attributes.clone(),
            None => match adopt::look(&*self.bucket, &source.key).await? {
                Some(head) => head.attributes,
                None => return Ok(Done::SourceChanged),
            },
        };
        let mark = Mark::new(&self.gateway, subject, Seq(0), op.target(), &attributes, format!("{source:?}").as_bytes());
        let marked = mark.on(&attributes);
        let parts = self.cut(content.size_bytes, &[], content.size_bytes)?;
        let kin = Kin::Marked { mark, known: Seq(0), copied: source.etag.clone() };
        let mark = mark_of(&kin);
        let job = Job { subject, op, generation: None, base: Some(source), parts, kin, mark, attributes: &marked };
        self.run_parts(job, content, progress).await
    }

    fn cut(&self, len_bytes: u64, changed: &[std::ops::Range<u64>], base_bytes: u64) -> Result<Vec<PlannedPart>, Failure> {
        let capabilities = self.bucket.capabilities();
        let limits = Limits {
            part_bytes_min: capabilities.part_bytes_min.max(1),
            part_bytes_max: capabilities.part_bytes_max,
            parts_max: u64::from(capabilities.parts_max),
            sent_bytes: self.settings.part_bytes,
            copied_bytes: COPIED_BYTES.min(capabilities.part_bytes_max / 2),
        };
        plan::plan(len_bytes, changed, base_bytes, limits)
            .ok_or_else(|| ObjectError::Invalid(format!("{len_bytes} bytes are too many for one object")).into())
    }

    /// The digest of a generation that is all here.
    async fn digest(&self, generation: &Generation, progress: &Progress) -> Result<Vec<u8>, Failure> {
        let step = digest::LEAF_BYTES * 4;
        let mut leaves = Vec::new();
        let mut at = 0;
        while at < generation.len_bytes {
            let end = generation.len_bytes.min(at + step);
            let _room = progress.unless_cut(self.budget.take(end - at)).await?;
            leaves.extend(digest::leaves(&progress.unless_cut(generation.read(at..end)).await??).await);
            at = end;
        }
        Ok(digest::root(&leaves))
    }

    async fn run_parts(&self, job: Job<'_>, mut content: Content, progress: &Progress) -> Result<Done, Failure> {
        let state = self.begin(&job, &content, progress).await?;
        let sent = self.send_parts(&job, state, &mut content, progress).await;
        match sent {
            Ok((upload, parts)) => self.commit(&job, &upload, &parts, content, progress).await,
            Err(Stop::SourceChanged) => {
                self.pending.abandon(self, job.subject, progress).await?;
                Ok(Done::SourceChanged)
            }
            Err(Stop::NoUpload) => self.vanished(&job, content, progress).await,
            Err(Stop::Failed(failure)) => {
                self.pending.save(self, job.subject).await?;
                Err(failure)
            }
        }
    }

    /// The upload to go on with, or a new one.
    async fn begin(&self, job: &Job<'_>, content: &Content, progress: &Progress) -> Result<State, Failure> {
        let fingerprint = fingerprint(&job.parts, job.base);
        let state = self.pending.upload(job.subject);
        if let Some(state) = state {
            if state.mark == job.mark && state.fingerprint == fingerprint {
                self.counts.add("multipart_resume");
                return Ok(state);
            }
            self.pending.abandon(self, job.subject, progress).await?;
        }
        let upload = self.begin_upload(job.subject, job.op.target(), job.attributes, progress).await?;
        let key = job.op.target().to_owned();
        let state = State { key, upload: upload.0, mark: job.mark.clone(), fingerprint, parts: Vec::new() };
        self.pending.set_upload(job.subject, state.clone());
        let intent = Suspect { op: job.op.clone(), kin: Some(job.kin.clone()), content: content.clone() };
        self.pending.intend(self, job.subject, intent).await?;
        Ok(state)
    }

    /// Sends and copies what is missing. Returns the parts in order.
    async fn send_parts(
        &self,
        job: &Job<'_>,
        state: State,
        content: &mut Content,
        progress: &Progress,
    ) -> Result<(UploadId, Vec<Part>), Stop> {
        let mut parts: Vec<Part> = state.parts.into_iter().map(|(number, etag)| Part { number, etag: ETag(etag) }).collect();
        let done: HashSet<u32> = parts.iter().map(|part| part.number).collect();
        let there = |number: u32| done.contains(&number);
        let numbered = || (1_u32..).zip(&job.parts);
        let sizes =
            |wanted: bool| numbered().filter(|(n, _)| !wanted || there(*n)).map(|(_, part)| range::len(&part.range)).sum();
        progress.begin(sizes(true), sizes(false));
        let digestible = done.is_empty()
            && job.parts.iter().all(|part| !part.copied)
            && digest::fits(job.parts.iter().map(|part| &part.range));
        let mut leaves: Vec<digest::Leaves> = vec![Vec::new(); job.parts.len()];
        let upload = UploadId(state.upload);
        let mut waiting = numbered().filter(|(number, _)| !there(*number));
        let mut running = FuturesUnordered::new();
        let mut saved = Instant::now();
        loop {
            while running.len() < self.settings.part_concurrency.max(1) {
                let Some((number, part)) = waiting.next() else { break };
                running.push(self.part(job, &upload, number, part, digestible, progress));
            }
            let Some(ended) = running.next().await else { break };
            let (part, size_bytes, its_leaves) = ended?;
            progress.add(size_bytes);
            if let Some(slot) = leaves.get_mut(part.number as usize - 1) {
                *slot = its_leaves;
            }
            self.pending.add_part(job.subject, part.number, &part.etag);
            parts.push(part);
            if saved.elapsed() >= SAVE_INTERVAL {
                self.pending.save(self, job.subject).await?;
                saved = Instant::now();
            }
        }
        drop(running);
        if digestible {
            content.digest = Some(digest::root(leaves.iter().flatten()));
        }
        parts.sort_by_key(|part| part.number);
        Ok((upload, parts))
    }

    /// Sends or copies one part.
    async fn part(
        &self,
        job: &Job<'_>,
        upload: &UploadId,
        number: u32,
        part: &PlannedPart,
        digestible: bool,
        progress: &Progress,
    ) -> Result<(Part, u64, digest::Leaves), Stop> {
        let key = job.op.target();
        let size_bytes = range::len(&part.range);
        if let (true, Some(base)) = (part.copied, job.base) {
            self.counts.add("part_copy");
            let copying = self.bucket.multipart_copy(key, upload, number, base, part.range.clone());
            return match progress.unless_cut(copying).await? {
                Ok(part) => Ok((part, size_bytes, Vec::new())),
                Err(ObjectError::NotFound | ObjectError::PreconditionFailed) => Err(Stop::SourceChanged),
                Err(ObjectError::NoSuchUpload) => Err(Stop::NoUpload),
                Err(error) => Err(error.into()),
            };
        }
        let Some(generation) = job.generation else {
            return Err(Stop::SourceChanged);
        };
        let _room = progress.unless_cut(self.budget.take(size_bytes)).await?;
        let slices = match progress.unless_cut(generation.read(part.range.clone())).await? {
            Err(error) if is_source_changed(&error) => return Err(Stop::SourceChanged),
            slices => slices?,
        };
        check_length(&slices, size_bytes)?;
        let leaves = if digestible { digest::leaves(&slices).await } else { Vec::new() };
        self.counts.add("part");
        match progress.unless_cut(self.bucket.multipart_part(key, upload, number, Body(slices))).await? {
            Ok(part) => Ok((part, size_bytes, leaves)),
            Err(ObjectError::NoSuchUpload) => Err(Stop::NoUpload),
            Err(error) => Err(error.into()),
        }
    }

    async fn commit(
        &self,
        job: &Job<'_>,
        upload: &UploadId,
        parts: &[Part],
        content: Content,
        progress: &Progress,
    ) -> Result<Done, Failure> {
        self.counts.add("multipart_commit");
        let ended = self.land(job.subject, job.op, &Write::Commit(upload, parts), job.kin.clone(), content, progress).await;
        match &ended {
            // The outcome's batch takes it from the row.
            Ok(Done::Written { .. }) => {}
            Ok(_) => self.pending.abandon(self, job.subject, progress).await?,
            Err(failure) if failure.suspect.is_none() && failure.text == ObjectError::NoSuchUpload.to_string() => {
                self.pending.forget(self, job.subject).await?;
            }
            Err(_) => self.pending.save(self, job.subject).await?,
        }
        ended
    }

    /// The upload is gone: it became the object in an earlier life, or somebody aborted it.
    async fn vanished(&self, job: &Job<'_>, content: Content, progress: &Progress) -> Result<Done, Failure> {
        let found = progress.unless_cut(adopt::look(&*self.bucket, job.op.target())).await??;
        let verdict = adopt::judge(&*self.bucket, found, job.op.expected(), &job.kin).await?;
        self.pending.forget(self, job.subject).await?;
        match verdict {
            Verdict::Ours(written) => {
                self.counts.add("adopted");
                Ok(content.written(written))
            }
            Verdict::Retry(_) | Verdict::Foreign(_) => Err(ObjectError::NoSuchUpload.into()),
        }
    }
}

fn mark_of(kin: &Kin) -> String {
    match kin {
        Kin::Marked { mark, .. } => mark.as_str().to_owned(),
        Kin::CopyOf(_) => String::new(),
    }
}

fn fingerprint(parts: &[PlannedPart], base: Option<&CopySource>) -> u32 {
    let mut sum = crc32c::crc32c(format!("{base:?}").as_bytes());
    for part in parts {
        sum = crc32c::crc32c_append(sum, &part.range.start.to_le_bytes());
        sum = crc32c::crc32c_append(sum, &part.range.end.to_le_bytes());
        sum = crc32c::crc32c_append(sum, &[u8::from(part.copied)]);
    }
    sum
}

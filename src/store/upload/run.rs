//! Runs one operation on the bucket, from its plan to a [`Done`].
//!
//! What lives here: [`Runner`], what an owner's operations share; [`Failure`]; [`Suspect`], a write whose outcome is open. Large objects go
//! through `multipart.rs`, deletes through `deletes.rs`.
//!
//! Invariants:
//! - Whatever comes from the operation's own source (a copy's source, the base of parts, remote bytes of the blob) being gone or replaced is
//!   [`Done::SourceChanged`], never a failure.
//! - Nothing is written before it is known what the endpoint does.
//! - The names and attributes that an operation writes, and the intent to write them, are durable here before its request is sent.
//! - A body has as many bytes as its generation, or is not sent.
//! - A failure that leaves the outcome open carries a [`Suspect`]; it is looked at before anything else is done for its subject.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::adopt::{self, Kin, Landed, Lost, Mark, Verdict, Write};
use super::budget::{Budget, Counts, Progress};
use super::pending::Pending;
use super::{Done, Op, Planner, Settings, digest};
use crate::base::id::{BlobId, OwnerId, Seq};
use crate::store::blob::{BlobError, BlobStore, FetchError, Generation};
use crate::store::object::{Attributes, Body, CopySource, ETag, ObjectError, SharedStore, Written};

/// What an owner's operations share.
pub(super) struct Runner {
    pub(super) owner: OwnerId,
    pub(super) gateway: String,
    pub(super) bucket: SharedStore,
    pub(super) blobs: Arc<BlobStore>,
    pub(super) settings: Settings,
    pub(super) budget: Budget,
    pub(super) counts: Arc<Counts>,
    pub(super) pending: Pending,
}

/// Why an operation did not end.
#[derive(Debug)]
pub(super) struct Failure {
    /// In words.
    pub(super) text: String,
    /// The endpoint is in trouble, not this operation alone.
    pub(super) endpoint: bool,
    /// It may have happened nevertheless.
    pub(super) suspect: Option<Box<Suspect>>,
}

/// A write or delete that may have happened.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Suspect {
    /// What was sent.
    pub(super) op: Op,
    /// How its object would be known; `None` for a delete.
    pub(super) kin: Option<Kin>,
    /// What it would have written.
    pub(super) content: Content,
}

impl Suspect {
    /// The keys that must stay as they are until the outcome is known.
    pub(super) fn claims(&self) -> Vec<&str> {
        let source = match &self.kin {
            Some(Kin::CopyOf(source)) => Some(source.key.as_str()),
            Some(Kin::Marked { .. }) | None => None,
        };
        std::iter::once(self.op.target()).chain(source).collect()
    }
}

/// What a write writes, for its [`Done`].
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Content {
    pub(super) size_bytes: u64,
    pub(super) through: Seq,
    pub(super) digest: Option<Vec<u8>>,
}

impl Content {
    /// As the outcome of the write that made `written`.
    pub(super) fn written(self, written: Written) -> Done {
        Done::Written {
            etag: written.etag,
            version: written.version,
            size_bytes: self.size_bytes,
            through: self.through,
            digest: self.digest,
        }
    }
}

impl From<ObjectError> for Failure {
    fn from(error: ObjectError) -> Self {
        // What is denied may be denied for this key alone.
        let endpoint = matches!(
            error,
            ObjectError::Unavailable { .. } | ObjectError::SlowDown | ObjectError::NoSuchBucket(_) | ObjectError::Credentials(_)
        );
        Self { text: error.to_string(), endpoint, suspect: None }
    }
}

impl From<BlobError> for Failure {
    fn from(error: BlobError) -> Self {
        match error {
            BlobError::Fetch(FetchError::Object(error)) => error.into(),
            error => Self { text: error.to_string(), endpoint: false, suspect: None },
        }
    }
}

/// Whether a read of a generation failed because its remote bytes are no longer there.
pub(super) fn is_source_changed(error: &BlobError) -> bool {
    matches!(error, BlobError::Fetch(FetchError::Changed | FetchError::Object(ObjectError::NotFound)))
}

/// A body is sent only whole: what is recorded of an object is the generation's length.
pub(super) fn check_length(slices: &[Bytes], len_bytes: u64) -> Result<(), Failure> {
    let read_bytes: u64 = slices.iter().map(|slice| slice.len() as u64).sum();
    if read_bytes == len_bytes {
        return Ok(());
    }
    Err(Failure { text: format!("{read_bytes} of {len_bytes} bytes could be read"), endpoint: false, suspect: None })
}

impl Runner {
    /// Runs anything but a delete.
    pub(super) async fn run(&self, planner: &dyn Planner, subject: u64, op: &Op, progress: &Progress) -> Result<Done, Failure> {
        // Not guarded as it may have to be, a write whose answer is lost would be done twice, or over somebody else's.
        self.bucket.ready().await?;
        match op {
            Op::PutBlob { blob, .. } => self.put_blob(subject, op, *blob, progress).await,
            Op::PutMade { blob, .. } => self.put_made(planner, subject, op, *blob, progress).await,
            Op::PutBytes { key, body, attributes, .. } => {
                self.pending.abandon(self, subject, progress).await?;
                let mark = Mark::new(&self.gateway, subject, Seq(0), key, attributes, body);
                let content = Content { size_bytes: body.len() as u64, ..Content::default() };
                self.put(
                    subject,
                    op,
                    vec![body.clone()],
                    Kin::Marked { mark: mark.clone(), known: Seq(0), copied: None },
                    &mark.on(attributes),
                    content,
                    progress,
                )
                .await
            }
            Op::Copy { source, size_bytes, key, attributes, .. } => {
                self.copy(subject, op, source, *size_bytes, key, attributes.as_ref(), progress).await
            }
            Op::Delete { .. } => Err(Failure { text: "a delete is not run alone".into(), endpoint: false, suspect: None }),
        }
    }

    /// Whether a suspect happened: what became of it.
    pub(super) async fn resolve(&self, suspect: &Suspect) -> Result<Option<Done>, Failure> {
        self.counts.add("head");
        let found = adopt::look(&*self.bucket, suspect.op.target()).await?;
        let Some(kin) = &suspect.kin else {
            return Ok(found.is_none().then_some(Done::Deleted));
        };
        match adopt::judge(&*self.bucket, found, suspect.op.expected(), kin).await? {
            Verdict::Ours(written) => {
                self.counts.add("adopted");
                Ok(Some(suspect.content.clone().written(written)))
            }
            Verdict::Retry(_) | Verdict::Foreign(_) => Ok(None),
        }
    }

    async fn put_blob(&self, subject: u64, op: &Op, blob: BlobId, progress: &Progress) -> Result<Done, Failure> {
        let Op::PutBlob { key, attributes, base, unless_digest, .. } = op else {
            return Err(Failure { text: "not an upload of a blob".into(), endpoint: false, suspect: None });
        };
        let known = self.blobs.info(blob).await?.clean_through;
        let generation = self.blobs.freeze(blob).await?;
        let mark = Mark::new(&self.gateway, subject, generation.seq, key, attributes, b"");
        let copied = base.as_ref().and_then(|base| base.etag.clone()).unwrap_or_else(|| ETag(String::new()));
        let kin = Kin::Marked { mark: mark.clone(), known, copied: Some(copied) };
        let marked = mark.on(attributes);
        if generation.len_bytes >= self.settings.multipart_threshold_bytes.max(1) {
            return self
                .put_parts(subject, op, &generation, kin, &marked, base.as_ref(), unless_digest.as_deref(), progress)
                .await;
        }
        self.pending.abandon(self, subject, progress).await?;
        progress.begin(0, generation.len_bytes);
        let _room = progress.unless_cut(self.budget.take(generation.len_bytes)).await?;
        let slices = match progress.unless_cut(generation.read(0..generation.len_bytes)).await? {
            Err(error) if is_source_changed(&error) => return Ok(Done::SourceChanged),
            slices => slices?,
        };
        check_length(&slices, generation.len_bytes)?;
        let digest = digest::root(&digest::leaves(&slices).await);
        let is_there = unless_digest.as_ref() == Some(&digest);
        let content = Content { size_bytes: generation.len_bytes, through: generation.seq, digest: Some(digest) };
        if let (true, Some(base)) = (is_there, base)
            && let Some(done) = self.put_unchanged(subject, op, base, &kin, &marked, &content, progress).await?
        {
            return Ok(done);
        }
        self.put(subject, op, slices, kin, &marked, content, progress).await
    }

    /// What the planner makes of a generation that it holds. Marks above what is known to be in S3 are of earlier lives, which did not get to know their
    /// outcome.
    async fn put_made(
        &self,
        planner: &dyn Planner,
        subject: u64,
        op: &Op,
        blob: BlobId,
        progress: &Progress,
    ) -> Result<Done, Failure> {
        let Op::PutMade { key, generation, bytes_max, attributes, .. } = op else {
            return Err(Failure { text: "not an object that is made".into(), endpoint: false, suspect: None });
        };
        let known = self.blobs.info(blob).await?.clean_through;
        self.pending.abandon(self, subject, progress).await?;
        let _room = progress.unless_cut(self.budget.take(*bytes_max)).await?;
        let slices = match planner.make(subject, op).await {
            Err(error) if is_source_changed(&error) => return Ok(Done::SourceChanged),
            slices => slices?,
        };
        let size_bytes = slices.iter().map(|slice| slice.len() as u64).sum();
        if size_bytes > *bytes_max {
            let text = format!("{size_bytes} bytes were made for {key}, and only {bytes_max} may be");
            return Err(Failure { text, endpoint: false, suspect: None });
        }
        progress.begin(0, size_bytes);
        let digest = digest::root(&digest::leaves(&slices).await);
        let mark = Mark::new(&self.gateway, subject, *generation, key, attributes, &digest);
        let marked = mark.on(attributes);
        let kin = Kin::Marked { mark, known, copied: Some(ETag(String::new())) };
        let content = Content { size_bytes, through: *generation, digest: Some(digest) };
        self.put(subject, op, slices, kin, &marked, content, progress).await
    }

    /// The object at the key has these bytes already, as far as is known: they are copied onto themselves with the new attributes. That needs the object
    /// to be the one that is known; `None`: it is not, and the bytes have to be sent.
    #[expect(clippy::too_many_arguments, reason = "the fields of Op::PutBlob and what was made of them")]
    pub(super) async fn put_unchanged(
        &self,
        subject: u64,
        op: &Op,
        base: &CopySource,
        kin: &Kin,
        attributes: &Attributes,
        content: &Content,
        progress: &Progress,
    ) -> Result<Option<Done>, Failure> {
        if base.key != op.target() || content.size_bytes > self.bucket.capabilities().part_bytes_max {
            return Ok(None);
        }
        self.counts.add("unchanged");
        match self.land(subject, op, &Write::Copy(base, Some(attributes)), kin.clone(), content.clone(), progress).await {
            Ok(done @ Done::Written { .. }) => Ok(Some(done)),
            Ok(_) => Ok(None),
            Err(failure) if failure.suspect.is_none() && !failure.endpoint => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// One `PutObject`.
    #[expect(clippy::too_many_arguments, reason = "what makes one write")]
    async fn put(
        &self,
        subject: u64,
        op: &Op,
        slices: Vec<Bytes>,
        kin: Kin,
        attributes: &Attributes,
        content: Content,
        progress: &Progress,
    ) -> Result<Done, Failure> {
        let body = Body(slices);
        self.counts.add("put");
        self.land(subject, op, &Write::Put(&body, attributes), kin, content, progress).await
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of Op::Copy")]
    async fn copy(
        &self,
        subject: u64,
        op: &Op,
        source: &CopySource,
        size_bytes: u64,
        key: &str,
        attributes: Option<&Attributes>,
        progress: &Progress,
    ) -> Result<Done, Failure> {
        let content = Content { size_bytes, ..Content::default() };
        let from = format!("{source:?}");
        if size_bytes > self.bucket.capabilities().part_bytes_max {
            return self.copy_parts(subject, op, source, attributes, content, progress).await;
        }
        self.pending.abandon(self, subject, progress).await?;
        self.counts.add("copy");
        match attributes {
            None => self.land(subject, op, &Write::Copy(source, None), Kin::CopyOf(source.clone()), content, progress).await,
            Some(attributes) => {
                let mark = Mark::new(&self.gateway, subject, Seq(0), key, attributes, from.as_bytes());
                let marked = mark.on(attributes);
                let kin = Kin::Marked { mark, known: Seq(0), copied: source.etag.clone() };
                self.land(subject, op, &Write::Copy(source, Some(&marked)), kin, content, progress).await
            }
        }
    }

    /// Makes a write happen once, and says how it ended.
    pub(super) async fn land(
        &self,
        subject: u64,
        op: &Op,
        write: &Write<'_>,
        kin: Kin,
        content: Content,
        progress: &Progress,
    ) -> Result<Done, Failure> {
        self.pending.intend(self, subject, Suspect { op: op.clone(), kin: Some(kin.clone()), content: content.clone() }).await?;
        if let Err(error) = self.blobs.sync().await {
            self.pending.retract(subject);
            return Err(error.into());
        }
        let landing = adopt::land(&*self.bucket, op.target(), write, op.expected(), &kin);
        let landed = match progress.unless_cut(landing).await {
            Ok(landed) => landed,
            Err(failure) => {
                let suspect = Some(Box::new(Suspect { op: op.clone(), kin: Some(kin), content }));
                return Err(Failure { suspect, ..failure });
            }
        };
        match landed {
            Ok(Landed::Written(written)) => Ok(content.written(written)),
            Ok(Landed::Foreign(head)) => {
                self.counts.add("conflict");
                Ok(Done::Conflict(head))
            }
            Ok(Landed::SourceChanged) => Ok(Done::SourceChanged),
            Ok(Landed::NoUpload) => Err(ObjectError::NoSuchUpload.into()),
            Err(Lost { error, unknown }) => {
                let suspect = unknown.then(|| Box::new(Suspect { op: op.clone(), kin: Some(kin), content }));
                Err(Failure { suspect, ..error.into() })
            }
        }
    }
}

/// All of a generation's changed ranges together are its whole content.
pub(super) fn covers(generation: &Generation, changed: &[std::ops::Range<u64>]) -> bool {
    matches!(changed, [all] if all.start == 0 && all.end >= generation.len_bytes)
}

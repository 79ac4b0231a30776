//! Finds out what an endpoint honours, by trying it on an object of our own. Once, before a bucket is used.
//! AWS itself is not probed: what it honours is documented, and its users' event handlers see no object of ours.
//!
//! What is asked of the endpoint, below `<prefix>.tidegate/probe/`, under names that nobody else has:
//!
//! | request | where it is honoured | where it is ignored in silence |
//! |---|---|---|
//! | PUT, `If-Match`, where nothing is | 404 or 412, nothing is made | an object is made |
//! | PUT, `If-None-Match: *`, where nothing is, then again | made, then 412 | made twice |
//! | CompleteMultipartUpload, `If-Match`, where nothing is, then abort | 404 or 412, nothing is made | an object is made |
//! | COPY, `If-Match`, to where nothing is; then of another source ETag | 404 or 412 | made |
//! | DeleteObjects with another ETag, then DELETE with another `If-Match` | 412 | gone |
//! | UploadPartCopy of it, then with another ETag, then abort | a part, then 412 | an error, or another part |
//! | PUT with a wrong checksum | 400 | made |
//!
//! Everything that was made is deleted at the end, also where a request fails in between; a bucket that keeps versions keeps those of
//! one tiny object, and one whose keys may not delete keeps the object. What fails in passing is tried again at once. An endpoint that refuses a condition as such (400, 501) does not honour it either.
//!
//! Invariant: nothing that is not below that prefix is written or deleted.

use std::future::Future;

use bytes::Bytes;

use super::s3::S3Store;
use super::{Attributes, Body, Capabilities, CopySource, ETag, ObjectError, ObjectStore, Precondition, UploadId, Written};

#[cfg(test)]
mod tests;

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What the endpoint does.
    pub capabilities: Capabilities,
    /// Whether a copy takes notice of what its source must match.
    pub pinned_copy: bool,
    /// Whether it refuses bodies whose checksum is wrong; `None` where that was not tried.
    pub checksums: Option<bool>,
}

impl Report {
    /// What is missing and what is done instead, a sentence each. To be said once, in the log.
    pub fn missing(&self) -> Vec<&'static str> {
        let found = &self.capabilities;
        let table = [
            (
                found.conditional_put,
                "the endpoint does not honour conditions on PUT and on the commit of parts (If-None-Match, If-Match): a HEAD is sent before each upload, and \
                 a foreign writer of the same key at the same moment can be overwritten unseen",
            ),
            (
                found.conditional_copy,
                "the endpoint does not honour conditions on the target of a copy: a HEAD is sent before each copy",
            ),
            (found.conditional_delete, "the endpoint does not honour conditions on DELETE: a HEAD is sent before each delete"),
            (found.part_copy, "the endpoint does not copy parts (UploadPartCopy): a changed file is always uploaded whole"),
            (
                self.pinned_copy,
                "the endpoint does not honour conditions on the source of a copy: an object that a foreign writer changes while it is \
                 renamed can arrive with the foreign bytes",
            ),
            (
                self.checksums != Some(false),
                "the endpoint does not verify checksums: what is damaged on the way is found when it is read, not when it is written",
            ),
        ];
        table.into_iter().filter(|(has, _)| !has).map(|(_, sentence)| sentence).collect()
    }
}

/// Probes an S3 bucket, and lets it act on what was found.
///
/// # Errors
/// Whatever keeps the endpoint from being used at all: it is not there, the keys are wrong, the bucket is missing or read-only.
/// Then nothing is known, and what the store believed before stays.
pub async fn adopt(store: &S3Store, prefix: &str) -> Result<Report, ObjectError> {
    if store.is_aws() {
        let capabilities = Capabilities { versioned: store.keeps_versions().await?, ..Capabilities::AWS };
        store.adopt(capabilities, false);
        return Ok(Report { capabilities, pinned_copy: true, checksums: None });
    }
    let probe = Probe::new(store, prefix);
    let found = probe.run().await;
    let checksums = match &found {
        Ok(_) => store.refuses_wrong_checksum(&probe.key("checksum")).await,
        Err(_) => Ok(false),
    };
    let tidied = probe.tidy().await;
    let report = Report { checksums: Some(checksums?), ..found? };
    tidied?;
    store.adopt(report.capabilities, report.checksums == Some(true));
    Ok(report)
}

/// Probes any store.
///
/// # Errors
/// As [`adopt`].
pub async fn run(store: &dyn ObjectStore, prefix: &str) -> Result<Report, ObjectError> {
    let probe = Probe::new(store, prefix);
    let found = probe.run().await;
    let tidied = probe.tidy().await;
    let report = found?;
    tidied.map(|()| report)
}

struct Probe<'a> {
    store: &'a dyn ObjectStore,
    /// The prefix of everything that is made.
    place: String,
}

/// How often a step is tried that fails in passing.
const TRIES: u32 = 3;

/// The names below [`Probe::place`].
const NAMES: [&str; 4] = ["absent", "object", "copy", "checksum"];

/// An ETag that no object has.
fn nobody() -> ETag {
    ETag("00000000000000000000000000000000".into())
}

/// Whether a condition that does not hold was honoured: refused by it, rather than ignored or refused as such.
fn honoured<T>(answer: Result<T, ObjectError>) -> Result<bool, ObjectError> {
    match answer {
        Ok(_) | Err(ObjectError::Unsupported(_) | ObjectError::Invalid(_)) => Ok(false),
        Err(ObjectError::PreconditionFailed | ObjectError::NotFound | ObjectError::Conflict) => Ok(true),
        Err(other) => Err(other),
    }
}

/// Takes a step that may be taken twice, again where it failed in passing.
async fn again<T, F: Future<Output = Result<T, ObjectError>>>(step: impl Fn() -> F) -> Result<T, ObjectError> {
    let mut tries = 1;
    loop {
        match step().await {
            Err(error) if error.is_transient() && tries < TRIES => tries += 1,
            ended => return ended,
        }
    }
}

impl<'a> Probe<'a> {
    fn new(store: &'a dyn ObjectStore, prefix: &str) -> Self {
        Self { store, place: format!("{prefix}.tidegate/probe/{:016x}/", fastrand::u64(..)) }
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.place)
    }

    async fn put(&self, name: &str, precondition: &Precondition) -> Result<Written, ObjectError> {
        let body = Body::from(Bytes::from_static(b"tidegate"));
        self.store.put(&self.key(name), body, &Attributes::default(), precondition).await
    }

    async fn run(&self) -> Result<Report, ObjectError> {
        let if_match = again(async || honoured(self.put("absent", &Precondition::Matches(nobody())).await)).await?;
        let (object, if_absent) = self.create().await?;
        let commit = again(|| self.commit_is_conditional()).await?;
        let conditional_copy = again(|| self.copy_is_conditional()).await?;
        let pinned_copy = again(|| self.copy_is_pinned()).await?;
        let part_copy = again(|| self.parts_are_copied()).await?;
        // Last, since it may be the end of the object.
        let conditional_delete = again(|| self.delete_is_conditional()).await?;
        let capabilities = Capabilities {
            conditional_put: if_match && if_absent && commit,
            conditional_delete,
            conditional_copy,
            part_copy,
            versioned: object.version.is_some(),
            ..Capabilities::AWS
        };
        Ok(Report { capabilities, pinned_copy, checksums: None })
    }

    /// The object of the further requests, and whether it could be created only once.
    async fn create(&self) -> Result<(Written, bool), ObjectError> {
        match self.put("object", &Precondition::Absent).await {
            Ok(object) => Ok((object, honoured(self.put("object", &Precondition::Absent).await)?)),
            Err(ObjectError::Unsupported(_) | ObjectError::Invalid(_)) => {
                Ok((self.put("object", &Precondition::None).await?, false))
            }
            Err(other) => Err(other),
        }
    }

    fn object(&self) -> CopySource {
        CopySource { key: self.key("object"), etag: None, version: None }
    }

    async fn commit_is_conditional(&self) -> Result<bool, ObjectError> {
        let key = self.key("absent");
        let upload = self.store.multipart_begin(&key, &Attributes::default()).await?;
        let committed = self.commit_unless_matched(&key, &upload).await;
        let aborted = self.store.multipart_abort(&key, &upload).await;
        // Where the commit went through there is nothing to abort, which some endpoints cannot bear.
        if !matches!(committed, Ok(false)) {
            aborted?;
        }
        committed
    }

    async fn commit_unless_matched(&self, key: &str, upload: &UploadId) -> Result<bool, ObjectError> {
        let part = self.store.multipart_part(key, upload, 1, Body::from(Bytes::from_static(b"tidegate"))).await?;
        honoured(self.store.multipart_commit(key, upload, &[part], &Precondition::Matches(nobody())).await)
    }

    async fn copy_is_conditional(&self) -> Result<bool, ObjectError> {
        let to = self.key("copy");
        let matches = Precondition::Matches(nobody());
        if !honoured(self.store.copy(&self.object(), &to, None, &matches).await)? {
            return Ok(false);
        }
        // In place, onto what is there: nothing is made where it is honoured.
        let replaced = Attributes::default();
        honoured(self.store.copy(&self.object(), &self.key("object"), Some(&replaced), &Precondition::Absent).await)
    }

    async fn copy_is_pinned(&self) -> Result<bool, ObjectError> {
        let stale = CopySource { etag: Some(nobody()), ..self.object() };
        honoured(self.store.copy(&stale, &self.key("copy"), None, &Precondition::None).await)
    }

    async fn delete_is_conditional(&self) -> Result<bool, ObjectError> {
        let key = self.key("object");
        let many = self.store.delete_many(&[(key.clone(), Some(nobody()))]).await;
        let many = many.and_then(|failed| failed.into_iter().next().map_or(Ok(()), |(_, error)| Err(error)));
        let both = async { Ok(honoured(many)? && honoured(self.store.delete(&key, Some(&nobody())).await)?) };
        // Keys that may not delete are good for writing: what they may not is said when it is asked for.
        both.await.or_else(|error| if matches!(error, ObjectError::Denied(_)) { Ok(false) } else { Err(error) })
    }

    async fn parts_are_copied(&self) -> Result<bool, ObjectError> {
        let key = self.key("copy");
        let upload = match self.store.multipart_begin(&key, &Attributes::default()).await {
            Ok(upload) => upload,
            Err(ObjectError::Unsupported(_)) => return Ok(false),
            Err(other) => return Err(other),
        };
        let copied = self.copy_part(&key, &upload).await;
        self.store.multipart_abort(&key, &upload).await?;
        copied
    }

    /// A part that is copied has the source's bytes only where the range and the pin are honoured.
    async fn copy_part(&self, key: &str, upload: &UploadId) -> Result<bool, ObjectError> {
        match self.store.multipart_copy(key, upload, 1, &self.object(), 0..4).await {
            Ok(_) => {}
            // AWS's words where the source is small; the operation is there.
            Err(ObjectError::Invalid(said)) if said.contains("byte-range copy source") => return Ok(true),
            Err(ObjectError::Unsupported(_) | ObjectError::Invalid(_)) => return Ok(false),
            Err(other) => return Err(other),
        }
        let stale = CopySource { etag: Some(nobody()), ..self.object() };
        honoured(self.store.multipart_copy(key, upload, 2, &stale, 0..4).await)
    }

    /// Deletes whatever was made; what was not made is fine.
    async fn tidy(&self) -> Result<(), ObjectError> {
        let made = NAMES.map(|name| (self.key(name), None));
        let failed = again(|| self.store.delete_many(&made)).await;
        match failed.map(|failed| failed.into_iter().next()) {
            Ok(None) | Ok(Some((_, ObjectError::Denied(_)))) | Err(ObjectError::Denied(_)) => Ok(()),
            Ok(Some((_, error))) | Err(error) => Err(error),
        }
    }
}

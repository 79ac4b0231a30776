//! Uploads that were begun and whose answer never came: nobody knows their ids, and they would be kept (and paid for) until a lifecycle rule ends them.
//!
//! A begin is in the job's row before it is sent, with its time. Where its answer was lost, the uploads at its key are listed once, at the next begin of the
//! same subject or when nothing is left to do for it, and those that can only be it are aborted: same key, no upload that a row of ours names, and
//! *initiated while the begin was under way*. Listings tell neither whose an upload is nor what metadata it has, and the endpoint's clock is not ours; so
//! its time is measured against an upload of known id in the same listing, the one that was just begun (for that, where nothing else is to be
//! begun, one is begun and aborted).
//!
//! What could be taken for ours is the upload of another gateway that began to write the same key in the same seconds. Two that write one key at one time
//! are a conflict in any case, one of them is told so, and who loses an upload begins it again: no bytes are lost by it.
//!
//! Cost: nothing where all answers came; else one listing for each key, one abort for each upload that was lost, and at most one begin and abort.
//! Where the endpoint does not allow to list or abort, what was lost is left to the lifecycle rule.

use std::collections::BTreeSet;

use crate::store::object::{Attributes, ObjectError, Outcome, PendingUpload, UploadId};
use crate::store::upload::budget::Progress;
use crate::store::upload::pending::Begin;
use crate::store::upload::run::{Failure, Runner};

/// Listings may tell whole seconds, of both uploads that are compared, and clocks wander: in nanoseconds.
const SLACK_NS: i64 = 2_000_000_000;

/// An upload whose id and begin are known, to measure the endpoint's clock by.
struct Known<'a> {
    key: &'a str,
    upload: &'a UploadId,
    sent_ns: i64,
    answered_ns: i64,
}

impl Known<'_> {
    /// Whether `other` was initiated while `begin` was under way, where `initiated_ns` is the endpoint's time of the known one.
    fn may_be(&self, initiated_ns: i64, other: &PendingUpload, begin: &Begin) -> bool {
        let since_ns = other.initiated_ns.saturating_sub(initiated_ns);
        let earliest_ns = self.sent_ns.saturating_add(since_ns);
        let latest_ns = self.answered_ns.saturating_add(since_ns);
        let ended_ns = begin.ended_ns.unwrap_or(begin.sent_ns);
        other.key == begin.key
            && latest_ns.saturating_add(SLACK_NS) >= begin.sent_ns
            && earliest_ns <= ended_ns.saturating_add(SLACK_NS)
    }
}

impl Runner {
    /// Begins an upload. One whose answer is lost is remembered; those that were lost before are ended.
    pub(super) async fn begin_upload(
        &self,
        subject: u64,
        key: &str,
        attributes: &Attributes,
        progress: &Progress,
    ) -> Result<UploadId, Failure> {
        let now_ns = || self.blobs.clock().now_ns();
        let sent_ns = now_ns();
        self.pending.add_begin(subject, key, sent_ns);
        self.pending.save(self, subject).await?;
        self.counts.add("multipart_begin");
        let failure = match progress.unless_cut(self.bucket.multipart_begin(key, attributes)).await {
            Ok(Ok(upload)) => {
                self.pending.end_begin(subject, None);
                self.end_others(subject, &Known { key, upload: &upload, sent_ns, answered_ns: now_ns() }).await;
                return Ok(upload);
            }
            Ok(Err(error)) if error.outcome() == Outcome::Refused => {
                self.pending.end_begin(subject, None);
                error.into()
            }
            Ok(Err(error)) => {
                self.pending.end_begin(subject, Some(now_ns()));
                error.into()
            }
            Err(cut) => {
                self.pending.end_begin(subject, Some(now_ns()));
                cut
            }
        };
        self.pending.save(self, subject).await?;
        Err(failure)
    }

    /// Nothing is left to do for a subject: so nothing is to be left of it.
    pub(in crate::store::upload) async fn end_lost(&self, subject: u64) -> Result<(), Failure> {
        let Some(Begin { key, .. }) = self.pending.begins(subject).into_iter().next() else { return Ok(()) };
        let upload = self.begin_upload(subject, &key, &Attributes::default(), &Progress::default()).await?;
        self.bucket.multipart_abort(&key, &upload).await?;
        if self.pending.begins(subject).is_empty() {
            return self.pending.save(self, subject).await;
        }
        let text = "uploads whose begin was not answered could not be ended".to_owned();
        Err(Failure { text, endpoint: false, suspect: None })
    }

    /// Ends what earlier begins of the subject left. What fails in passing is tried again with the next begin.
    async fn end_others(&self, subject: u64, known: &Known<'_>) {
        let begins = self.pending.begins(subject);
        if begins.is_empty() {
            return;
        }
        match self.abort_all(&begins, known).await {
            Err(error) if error.is_transient() => tracing::debug!(subject, %error, "lost uploads are ended later"),
            ended => {
                if let Err(error) = ended {
                    tracing::debug!(subject, %error, "lost uploads are left to the bucket's lifecycle rule");
                }
                self.pending.clear_begins(subject);
            }
        }
    }

    async fn abort_all(&self, begins: &[Begin], known: &Known<'_>) -> Result<(), ObjectError> {
        let keys: BTreeSet<&str> = begins.iter().map(|begin| begin.key.as_str()).chain([known.key]).collect();
        let mut listed = Vec::new();
        for key in keys {
            listed.extend(self.bucket.multipart_list(key).await?);
        }
        let is_known = |one: &&PendingUpload| one.key == known.key && one.upload == *known.upload;
        let Some(initiated_ns) = listed.iter().find(is_known).map(|one| one.initiated_ns) else { return Ok(()) };
        for other in &listed {
            let is_lost = begins.iter().any(|begin| known.may_be(initiated_ns, other, begin));
            if is_lost && other.upload != *known.upload && !self.pending.has_upload(&other.upload) {
                self.counts.add("multipart_abort");
                self.bucket.multipart_abort(&other.key, &other.upload).await?;
            }
        }
        Ok(())
    }
}

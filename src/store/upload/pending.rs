//! What is under way in the bucket for each subject, in memory and in the job's row.
//!
//! What lives here: [`Pending`]. An entry has the operation that is about to be sent (an *intent*: a [`Suspect`] from the moment that it is
//! sent until its outcome is recorded), and the multipart upload that parts are sent to.
//!
//! The intent is appended to the log before its request is sent, without waiting for a flush. That suffices: the log is replayed up to some
//! point, so after power loss either the intent is there, or no later change is either, and then the plan is the same operation again.
//!
//! Format of `JobRow::multipart`: JSON, `{"version": 1, "intent": …, "upload": …}`, or empty.

use std::collections::HashMap;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::Op;
use super::run::{Failure, Runner, Suspect};
use crate::store::blob::{Batch, BlobError};
use crate::store::meta::{JobRow, Key, Row};
use crate::store::object::{ETag, UploadId};

/// The longest body of an intent, in bytes; a longer one is sent without.
const BODY_BYTES_MAX: usize = 64 << 10;

/// Rows of one batch of intents: a batch is one record of the log, of at most a mebibyte.
const BATCH_ROWS: usize = 200;

/// A multipart upload under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct UploadState {
    /// At.
    pub(super) key: String,
    /// Its id, as the endpoint gave it.
    pub(super) upload: String,
    /// The mark that the object will carry: key, attributes and generation.
    pub(super) mark: String,
    /// Of plan and base.
    pub(super) fingerprint: u32,
    /// Numbers and ETags of the parts that are there.
    pub(super) parts: Vec<(u32, String)>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Entry {
    version: u8,
    intent: Option<Suspect>,
    upload: Option<UploadState>,
}

/// What is under way, by subject.
#[derive(Default)]
pub(super) struct Pending(Mutex<HashMap<u64, Entry>>);

impl Pending {
    /// Takes up what a job's row says. Returns the operation that was under way.
    pub(super) fn adopt(&self, subject: u64, row: &[u8]) -> Option<Suspect> {
        if row.is_empty() {
            return None;
        }
        match serde_json::from_slice::<Entry>(row) {
            Ok(entry) if entry.version == 1 => {
                let intent = entry.intent.clone();
                self.0.lock().insert(subject, entry);
                intent
            }
            _ => {
                tracing::warn!(subject, "what a job's row says to be under way cannot be read and is forgotten");
                None
            }
        }
    }

    /// As the job's row keeps it.
    pub(super) fn encoded(&self, subject: u64) -> Vec<u8> {
        let entries = self.0.lock();
        entries.get(&subject).and_then(|entry| serde_json::to_vec(entry).ok()).unwrap_or_default()
    }

    /// The multipart upload of a subject.
    pub(super) fn upload(&self, subject: u64) -> Option<UploadState> {
        self.0.lock().get(&subject).and_then(|entry| entry.upload.clone())
    }

    /// The multipart upload of a subject is now this. Not written down yet.
    pub(super) fn set_upload(&self, subject: u64, upload: UploadState) {
        let mut entries = self.0.lock();
        let entry = entries.entry(subject).or_default();
        entry.version = 1;
        entry.upload = Some(upload);
    }

    /// A part of the multipart upload of a subject is there. Not written down yet.
    pub(super) fn add_part(&self, subject: u64, number: u32, etag: &ETag) {
        if let Some(upload) = self.0.lock().get_mut(&subject).and_then(|entry| entry.upload.as_mut()) {
            upload.parts.push((number, etag.0.clone()));
        }
    }

    /// The operation that was sent and whose outcome is not recorded yet.
    pub(super) fn intent(&self, subject: u64) -> Option<Suspect> {
        self.0.lock().get(&subject).and_then(|entry| entry.intent.clone())
    }

    /// Whether anything is under way for a subject.
    pub(super) fn has(&self, subject: u64) -> bool {
        self.0.lock().contains_key(&subject)
    }

    /// As the job's row keeps it once the outcome is recorded: the intent is over, and with a write the upload too.
    pub(super) fn encoded_after(&self, subject: u64, written: bool) -> Vec<u8> {
        let upload = self.upload(subject).filter(|_| !written);
        let entry = upload.map(|upload| Entry { version: 1, intent: None, upload: Some(upload) });
        entry.and_then(|entry| serde_json::to_vec(&entry).ok()).unwrap_or_default()
    }

    /// The outcome is recorded: see [`Self::encoded_after`].
    pub(super) fn concluded(&self, subject: u64, written: bool) {
        let mut entries = self.0.lock();
        if let Some(entry) = entries.get_mut(&subject) {
            entry.intent = None;
            if written || entry.upload.is_none() {
                entries.remove(&subject);
            }
        }
    }

    /// Sets the intent in memory. Whether that is news.
    fn set_intent(&self, subject: u64, intent: Suspect) -> bool {
        if matches!(&intent.op, Op::PutBytes { body, .. } if body.len() > BODY_BYTES_MAX) {
            return false;
        }
        let mut entries = self.0.lock();
        let entry = entries.entry(subject).or_default();
        let news = entry.intent.as_ref().is_none_or(|old| old.kin != intent.kin || old.op != intent.op);
        entry.version = 1;
        entry.intent = Some(intent);
        news
    }

    /// Writes down what is about to be sent.
    pub(super) async fn intend(&self, runner: &Runner, subject: u64, intent: Suspect) -> Result<(), Failure> {
        if self.set_intent(subject, intent) { self.save(runner, subject).await } else { Ok(()) }
    }

    /// As `intend`, for many subjects in few batches.
    pub(super) async fn intend_all(&self, runner: &Runner, intents: Vec<(u64, Suspect)>) -> Result<(), BlobError> {
        let mut batch = Batch::new();
        for (subject, intent) in intents {
            if self.set_intent(subject, intent)
                && let Some(row) = self.row(runner, subject).await?
            {
                batch.put(Row::Job(row));
            }
            if batch.changes.len() >= BATCH_ROWS {
                runner.blobs.apply(runner.owner, std::mem::take(&mut batch)).await?;
            }
        }
        if !batch.changes.is_empty() {
            runner.blobs.apply(runner.owner, batch).await?;
        }
        Ok(())
    }

    /// Writes down what is under way for a subject.
    pub(super) async fn save(&self, runner: &Runner, subject: u64) -> Result<(), Failure> {
        if let Some(row) = self.row(runner, subject).await? {
            let mut batch = Batch::new();
            batch.put(Row::Job(row));
            runner.blobs.apply(runner.owner, batch).await?;
        }
        Ok(())
    }

    /// The job's row with what is under way, where it says something else.
    async fn row(&self, runner: &Runner, subject: u64) -> Result<Option<JobRow>, BlobError> {
        let Some(Row::Job(row)) = runner.blobs.meta().get(&Key::Job(runner.owner, subject)).await? else { return Ok(None) };
        let multipart = self.encoded(subject);
        Ok((row.multipart != multipart).then_some(JobRow { multipart, ..row }))
    }

    /// Aborts the multipart upload of a subject, if there is one.
    pub(super) async fn abandon(&self, runner: &Runner, subject: u64) -> Result<(), Failure> {
        let Some(state) = self.upload(subject) else { return Ok(()) };
        runner.counts.add("multipart_abort");
        runner.bucket.multipart_abort(&state.key, &UploadId(state.upload)).await?;
        self.forget(runner, subject).await
    }

    /// The multipart upload of a subject is no more.
    pub(super) async fn forget(&self, runner: &Runner, subject: u64) -> Result<(), Failure> {
        self.0.lock().remove(&subject);
        self.save(runner, subject).await
    }
}

/// A body in an intent: hexadecimal.
pub(super) mod body {
    use bytes::Bytes;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(in crate::store::upload) fn serialize<S: Serializer>(body: &Bytes, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&hex::encode(body))
    }

    pub(in crate::store::upload) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Bytes, D::Error> {
        let text = String::deserialize(from)?;
        hex::decode(text).map(Bytes::from).map_err(serde::de::Error::custom)
    }
}

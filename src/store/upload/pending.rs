//! What is under way in the bucket for each subject, in memory and in the job's row.
//!
//! What lives here: [`Pending`]. An entry has the operation that is about to be sent (an *intent*: a [`Suspect`] from the moment that it is
//! sent until its outcome is recorded), the multipart upload that parts are sent to, and the begins of uploads that were never answered.
//!
//! Invariants:
//! - An intent is durable before its request is sent (one group commit, which also makes durable what was planned from). After a power loss the
//!   plan may be another one, because people go on working: without the intent, what landed would be taken for somebody else's.
//! - While an intent is open, its key belongs to it: listings are not believed about that key, and no other subject writes it. So does the source
//!   of a copy that keeps attributes, by which alone the copy is known.
//!
//! Format of `JobRow::multipart`: JSON, `{"version": 1, "intent": …, "upload": …, "begins": […]}`, or empty.

use std::collections::{BTreeSet, HashMap};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::Op;
use super::budget::Progress;
use super::run::{Failure, Runner, Suspect};
use crate::store::blob::jobs::JobChange;
use crate::store::blob::{Batch, BlobError};
use crate::store::object::{ETag, UploadId};

/// The longest body of an intent, in bytes; a longer one is sent without.
const BODY_BYTES_MAX: usize = 64 << 10;

/// Begins without an answer that are remembered for one subject.
const BEGINS_MAX: usize = 8;

/// A request is given up in this time, in nanoseconds; for one that a death of the process cut off.
const REQUEST_NS: i64 = 60_000_000_000;

/// Rows of one batch of intents: a batch is one record of the log, of at most a mebibyte.
const BATCH_ROWS: usize = 200;

/// A begin of a multipart upload whose answer is not known. Times are this machine's, in nanoseconds since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Begin {
    /// At.
    pub(super) key: String,
    /// When it was about to be sent.
    pub(super) sent_ns: i64,
    /// When it was given up; `None` while it is under way.
    pub(super) ended_ns: Option<i64>,
}

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
    /// Begins of unknown outcome, at most `BEGINS_MAX`.
    #[serde(default)]
    begins: Vec<Begin>,
}

impl Entry {
    fn is_empty(&self) -> bool {
        self.intent.is_none() && self.upload.is_none() && self.begins.is_empty()
    }
}

/// What is under way, by subject.
#[derive(Default)]
pub(super) struct Pending(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    entries: HashMap<u64, Entry>,
    /// The keys that belong to intents, with their subjects.
    claimed: BTreeSet<(String, u64)>,
}

impl Inner {
    fn set_intent(&mut self, subject: u64, intent: Option<Suspect>) {
        let entry = self.entries.entry(subject).or_default();
        entry.version = 1;
        let claims = |intent: &Suspect| intent.claims().into_iter().map(|key| (key.to_owned(), subject)).collect::<Vec<_>>();
        for claim in entry.intent.iter().flat_map(claims) {
            self.claimed.remove(&claim);
        }
        self.claimed.extend(intent.iter().flat_map(claims));
        entry.intent = intent;
        if entry.is_empty() {
            self.entries.remove(&subject);
        }
    }

    fn intent(&self, subject: u64) -> Option<&Suspect> {
        self.entries.get(&subject).and_then(|entry| entry.intent.as_ref())
    }
}

impl Pending {
    /// Takes up what a job's row says. Returns the operation that was under way.
    pub(super) fn adopt(&self, subject: u64, row: &[u8]) -> Option<Suspect> {
        if row.is_empty() {
            return None;
        }
        match serde_json::from_slice::<Entry>(row) {
            Ok(entry) if entry.version == 1 => {
                let mut inner = self.0.lock();
                let begins = entry.begins.into_iter().map(given_up).collect();
                inner.entries.insert(subject, Entry { version: 1, intent: None, upload: entry.upload, begins });
                inner.set_intent(subject, entry.intent.clone());
                entry.intent
            }
            _ => {
                tracing::warn!(subject, "what a job's row says to be under way cannot be read and is forgotten");
                None
            }
        }
    }

    /// As the job's row keeps it.
    pub(super) fn encoded(&self, subject: u64) -> Vec<u8> {
        let inner = self.0.lock();
        inner.entries.get(&subject).and_then(|entry| serde_json::to_vec(entry).ok()).unwrap_or_default()
    }

    /// The multipart upload of a subject.
    pub(super) fn upload(&self, subject: u64) -> Option<UploadState> {
        self.0.lock().entries.get(&subject).and_then(|entry| entry.upload.clone())
    }

    /// The multipart upload of a subject is now this. Not written down yet.
    pub(super) fn set_upload(&self, subject: u64, upload: UploadState) {
        let mut inner = self.0.lock();
        let entry = inner.entries.entry(subject).or_default();
        entry.version = 1;
        entry.upload = Some(upload);
    }

    /// A part of the multipart upload of a subject is there. Not written down yet.
    pub(super) fn add_part(&self, subject: u64, number: u32, etag: &ETag) {
        if let Some(upload) = self.0.lock().entries.get_mut(&subject).and_then(|entry| entry.upload.as_mut()) {
            upload.parts.push((number, etag.0.clone()));
        }
    }

    /// The begins of uploads that were given up.
    pub(super) fn begins(&self, subject: u64) -> Vec<Begin> {
        self.0.lock().entries.get(&subject).map_or_else(Vec::new, |entry| entry.begins.clone())
    }

    /// A begin is about to be sent. Not written down yet.
    pub(super) fn add_begin(&self, subject: u64, key: &str, sent_ns: i64) {
        let mut inner = self.0.lock();
        let entry = inner.entries.entry(subject).or_default();
        entry.version = 1;
        if entry.begins.len() >= BEGINS_MAX {
            entry.begins.remove(0);
        }
        entry.begins.push(Begin { key: key.to_owned(), sent_ns, ended_ns: None });
    }

    /// The begin that was sent last was answered (`None`), or given up at this time. Not written down yet.
    pub(super) fn end_begin(&self, subject: u64, given_up_ns: Option<i64>) {
        let mut inner = self.0.lock();
        let Some(entry) = inner.entries.get_mut(&subject) else { return };
        match (given_up_ns, entry.begins.last_mut()) {
            (Some(_), Some(last)) => last.ended_ns = given_up_ns,
            (None, _) => drop(entry.begins.pop()),
            (Some(_), None) => {}
        }
        if entry.is_empty() {
            inner.entries.remove(&subject);
        }
    }

    /// What begins that were given up left is gone, or cannot be found. Not written down yet.
    pub(super) fn clear_begins(&self, subject: u64) {
        let mut inner = self.0.lock();
        let Some(entry) = inner.entries.get_mut(&subject) else { return };
        entry.begins.clear();
        if entry.is_empty() {
            inner.entries.remove(&subject);
        }
    }

    /// Whether parts are sent to an upload for any subject.
    pub(super) fn has_upload(&self, upload: &UploadId) -> bool {
        let is_it = |entry: &Entry| entry.upload.as_ref().is_some_and(|known| known.upload == upload.0);
        self.0.lock().entries.values().any(is_it)
    }

    /// The operation that was sent and whose outcome is not recorded yet.
    pub(super) fn intent(&self, subject: u64) -> Option<Suspect> {
        self.0.lock().intent(subject).cloned()
    }

    /// Another subject than `subject` that may have written `key`, or is known by what is there.
    pub(super) fn other(&self, key: &str, subject: u64) -> Option<u64> {
        let inner = self.0.lock();
        let from = (key.to_owned(), 0);
        let on_key = inner.claimed.range(from..).take_while(|(at, _)| at == key).map(|(_, subject)| *subject);
        on_key.into_iter().find(|other| *other != subject)
    }

    /// Whether an operation may have written `key`.
    pub(super) fn writes(&self, key: &str) -> bool {
        self.0.lock().claimed.range((key.to_owned(), 0)..).next().is_some_and(|(at, _)| at == key)
    }

    /// Whether an operation may have written a key that begins with `prefix`.
    pub(super) fn writes_below(&self, prefix: &str) -> bool {
        self.0.lock().claimed.range((prefix.to_owned(), 0)..).next().is_some_and(|(at, _)| at.starts_with(prefix))
    }

    /// As the job's row keeps it once the outcome is recorded: the intent is over, and with a write the upload too.
    pub(super) fn encoded_after(&self, subject: u64, written: bool) -> Vec<u8> {
        let upload = self.upload(subject).filter(|_| !written);
        let entry = Entry { version: 1, intent: None, upload, begins: self.begins(subject) };
        if entry.is_empty() { Vec::new() } else { serde_json::to_vec(&entry).unwrap_or_default() }
    }

    /// The outcome is recorded: see [`Self::encoded_after`].
    pub(super) fn concluded(&self, subject: u64, written: bool) {
        let mut inner = self.0.lock();
        if let Some(entry) = inner.entries.get_mut(&subject).filter(|_| written) {
            entry.upload = None;
        }
        inner.set_intent(subject, None);
    }

    /// The operation was not sent, or is known not to have happened. The row may still say otherwise: then it is looked for once more.
    pub(super) fn retract(&self, subject: u64) {
        self.0.lock().set_intent(subject, None);
    }

    /// Sets the intent in memory. Whether that is news.
    fn set_intent(&self, subject: u64, intent: Suspect) -> bool {
        let mut inner = self.0.lock();
        if matches!(&intent.op, Op::PutBytes { body, .. } if body.len() > BODY_BYTES_MAX) {
            inner.set_intent(subject, None);
            return false;
        }
        let news = inner.intent(subject).is_none_or(|old| old.kin != intent.kin || old.op != intent.op);
        inner.set_intent(subject, Some(intent));
        news
    }

    /// Writes down what is about to be sent.
    pub(super) async fn intend(&self, runner: &Runner, subject: u64, intent: Suspect) -> Result<(), Failure> {
        if self.set_intent(subject, intent)
            && let Err(failure) = self.save(runner, subject).await
        {
            self.retract(subject);
            return Err(failure);
        }
        Ok(())
    }

    /// As `intend`, for many subjects in few batches.
    pub(super) async fn intend_all(&self, runner: &Runner, intents: Vec<(u64, Suspect)>) -> Result<(), BlobError> {
        let mut batch = Batch::new();
        for (subject, intent) in intents {
            if self.set_intent(subject, intent) {
                batch.job(subject, JobChange::UnderWay(self.encoded(subject)));
            }
            if batch.jobs.len() >= BATCH_ROWS {
                runner.blobs.apply(runner.owner, std::mem::take(&mut batch)).await?;
            }
        }
        runner.blobs.apply(runner.owner, batch).await?;
        Ok(())
    }

    /// Writes down what is under way for a subject.
    pub(super) async fn save(&self, runner: &Runner, subject: u64) -> Result<(), Failure> {
        let mut batch = Batch::new();
        batch.job(subject, JobChange::UnderWay(self.encoded(subject)));
        runner.blobs.apply(runner.owner, batch).await?;
        Ok(())
    }

    /// Aborts the multipart upload of a subject, if there is one.
    pub(super) async fn abandon(&self, runner: &Runner, subject: u64, progress: &Progress) -> Result<(), Failure> {
        let Some(state) = self.upload(subject) else { return Ok(()) };
        runner.counts.add("multipart_abort");
        let upload = UploadId(state.upload);
        progress.unless_cut(runner.bucket.multipart_abort(&state.key, &upload)).await??;
        self.forget(runner, subject).await
    }

    /// The multipart upload of a subject is no more.
    pub(super) async fn forget(&self, runner: &Runner, subject: u64) -> Result<(), Failure> {
        self.concluded(subject, true);
        self.save(runner, subject).await
    }
}

/// A begin of an earlier life.
fn given_up(begin: Begin) -> Begin {
    Begin { ended_ns: begin.ended_ns.or(Some(begin.sent_ns.saturating_add(REQUEST_NS))), ..begin }
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

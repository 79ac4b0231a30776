//! The rule for lost answers: who made the object that is there, and what follows.
//!
//! What lives here: [`Mark`], the value of [`GENERATION_MARK`]; [`Kin`], how we know an object of ours; [`land`], one guarded
//! write that happens once, whatever is answered.
//!
//! A mark is `<gateway>-<subject>-<generation>-<digest>`: the generation's number (0 for what has no blob) and a digest of key,
//! attributes and body or source, so that the same operation has the same mark after a restart and another one never has it.
//!
//! What a HEAD decides:
//! - exactly our mark: ours, adopted;
//! - a mark of this gateway and subject that is not of an operation whose end we know: an earlier write of ours whose outcome we never learnt
//!   (the gateway died): it may be replaced, under its own ETag. One without a generation says nothing of bytes, so there the ETag must say that they are
//!   those of a copy of ours;
//! - what was expected: not written, tried again;
//! - anything else: foreign.
//!
//! A copy that keeps its source's attributes cannot carry a mark of its own. The object at its target is taken for ours if it has the
//! source's length, attributes (with their mark) and, where the ETag is that of the content, ETag: then it is the copy, whoever made it.
//!
//! An endpoint that ignores conditions gets a HEAD before each write instead. Between the two a foreign write can be lost; such endpoints
//! offer no way to exclude it.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Expected, GENERATION_MARK};
use crate::base::id::Seq;
use crate::store::object::{
    Attributes, Body, Capabilities, CopySource, ETag, Head, ObjectError, ObjectStore, Outcome, Part, Precondition, UploadId,
    Written,
};

/// How often one write is tried where answers contradict each other, before it counts as failed.
const TRIES: u32 = 4;

/// The value of [`GENERATION_MARK`] for one operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    /// `<gateway>-<subject>-`.
    family: String,
    text: String,
}

impl Mark {
    /// The mark of an operation. `content` is what tells it from others of the same generation.
    pub(super) fn new(gateway: &str, subject: u64, generation: Seq, key: &str, attributes: &Attributes, content: &[u8]) -> Self {
        let mut hash = Sha256::new();
        hash.update(key.as_bytes());
        hash.update([0]);
        hash.update(format!("{attributes:?}").as_bytes());
        hash.update([0]);
        hash.update(content);
        let digest = hex::encode(&hash.finalize()[..12]);
        let family = format!("{gateway}-{subject}-");
        Self { text: format!("{family}{generation}-{digest}"), family }
    }

    /// The attributes with the mark among them.
    pub(super) fn on(&self, attributes: &Attributes) -> Attributes {
        let mut marked = attributes.clone();
        marked.metadata.insert(GENERATION_MARK.to_owned(), self.text.clone());
        marked
    }

    /// As text.
    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    /// The generation of an object of the same family.
    fn generation_in(&self, head: &Head) -> Option<Seq> {
        let rest = head.attributes.metadata.get(GENERATION_MARK)?.strip_prefix(&self.family)?;
        rest.split('-').next()?.parse().ok().map(Seq)
    }

    fn is_on(&self, head: &Head) -> bool {
        head.attributes.metadata.get(GENERATION_MARK) == Some(&self.text)
    }
}

/// Whether an object was written by a gateway, or is a copy of one that was.
pub fn is_marked_by(gateway: &str, head: &Head) -> bool {
    let mark = head.attributes.metadata.get(GENERATION_MARK);
    mark.and_then(|mark| mark.strip_prefix(gateway)).is_some_and(|rest| rest.starts_with('-'))
}

/// How an object is known to be ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Kin {
    /// By its mark; marks of the same family above `known` are earlier writes of unknown outcome. So are those without a generation, where the object
    /// is `copied`: a mark alone proves nothing, since who keeps an object's metadata keeps it with other bytes too.
    Marked {
        /// What this operation writes.
        mark: Mark,
        /// The last generation whose upload we know of.
        known: Seq,
        /// The ETag of what its copies are made of. `None`: of nothing (it has no bytes of anybody).
        #[serde(default)]
        copied: Option<ETag>,
    },
    /// By likeness to the source of a copy that keeps attributes.
    CopyOf(CopySource),
}

/// What a HEAD means for a write.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It happened.
    Ours(Written),
    /// It did not happen, and may be tried under this condition.
    Retry(Precondition),
    /// Something else is there.
    Foreign(Option<Box<Head>>),
}

/// One write that can be guarded by a condition.
pub(super) enum Write<'a> {
    /// `PutObject`.
    Put(&'a Body, &'a Attributes),
    /// `CopyObject`.
    Copy(&'a CopySource, Option<&'a Attributes>),
    /// `CompleteMultipartUpload`.
    Commit(&'a UploadId, &'a [Part]),
}

/// How a guarded write ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Landed {
    /// The object is there, now or already.
    Written(Written),
    /// Another object is there than was expected; nothing was changed.
    Foreign(Option<Box<Head>>),
    /// The source of a copy is gone or another one.
    SourceChanged,
    /// The multipart upload is gone, and did not become the object.
    NoUpload,
}

/// Why a guarded write failed.
#[derive(Debug)]
pub(super) struct Lost {
    /// What was seen.
    pub(super) error: ObjectError,
    /// It may have happened, and nobody could be asked.
    pub(super) unknown: bool,
}

impl Write<'_> {
    fn is_guarded(&self, capabilities: &Capabilities) -> bool {
        match self {
            Self::Put(..) | Self::Commit(..) => capabilities.conditional_put,
            Self::Copy(..) => capabilities.conditional_copy,
        }
    }

    async fn send(&self, bucket: &dyn ObjectStore, key: &str, condition: &Precondition) -> Result<Written, ObjectError> {
        match self {
            Self::Put(body, attributes) => bucket.put(key, (*body).clone(), attributes, condition).await,
            Self::Copy(source, attributes) => bucket.copy(source, key, *attributes, condition).await,
            Self::Commit(upload, parts) => bucket.multipart_commit(key, upload, parts, condition).await,
        }
    }
}

/// The condition that says what is expected.
fn condition(expected: &Expected) -> Precondition {
    match expected {
        Expected::Absent => Precondition::Absent,
        Expected::Object(etag) => Precondition::Matches(etag.clone()),
        Expected::Anything => Precondition::None,
    }
}

/// The object at a key, or that there is none.
pub(super) async fn look(bucket: &dyn ObjectStore, key: &str) -> Result<Option<Head>, ObjectError> {
    match bucket.head(key).await {
        Ok(head) => Ok(Some(head)),
        Err(ObjectError::NotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Makes one write happen once.
///
/// # Errors
/// As the endpoint says; `unknown` where the outcome is open.
pub(super) async fn land(
    bucket: &dyn ObjectStore,
    key: &str,
    write: &Write<'_>,
    expected: &Expected,
    kin: &Kin,
) -> Result<Landed, Lost> {
    let guarded = write.is_guarded(&bucket.capabilities());
    let mut guard = condition(expected);
    let mut last = ObjectError::Conflict;
    for attempt in 0..TRIES {
        if !guarded && *expected != Expected::Anything && attempt == 0 {
            let found = look(bucket, key).await.map_err(|error| Lost { error, unknown: false })?;
            match judge(bucket, found, expected, kin).await.map_err(|error| Lost { error, unknown: false })? {
                Verdict::Ours(written) => return Ok(Landed::Written(written)),
                Verdict::Foreign(head) => return Ok(Landed::Foreign(head)),
                Verdict::Retry(_) => {}
            }
        }
        let sent = if guarded { &guard } else { &Precondition::None };
        let error = match write.send(bucket, key, sent).await {
            Ok(written) => return Ok(Landed::Written(written)),
            Err(error) if error.outcome() == Outcome::Refused && error_is_final(&error) => {
                return Err(Lost { error, unknown: false });
            }
            Err(error) => error,
        };
        let found = match look(bucket, key).await {
            Ok(found) => found,
            Err(_) => return Err(Lost { unknown: error.outcome() == Outcome::Unknown, error }),
        };
        let verdict = match judge(bucket, found, expected, kin).await {
            Ok(verdict) => verdict,
            Err(_) => return Err(Lost { unknown: error.outcome() == Outcome::Unknown, error }),
        };
        match (verdict, &error) {
            (Verdict::Ours(written), _) => return Ok(Landed::Written(written)),
            (Verdict::Foreign(head), _) => return Ok(Landed::Foreign(head)),
            (Verdict::Retry(_), ObjectError::NoSuchUpload) => return Ok(Landed::NoUpload),
            // It did not happen, as far as can be seen; the endpoint is in trouble, so this waits for the next attempt.
            (Verdict::Retry(_), ObjectError::Unavailable { .. }) => return Err(Lost { error, unknown: true }),
            (Verdict::Retry(next), _) => guard = next,
        }
        if let Write::Copy(source, _) = write
            && source_changed(bucket, source).await.map_err(|error| Lost { error, unknown: false })?
        {
            return Ok(Landed::SourceChanged);
        }
        last = error;
    }
    Err(Lost { error: last, unknown: false })
}

/// Whether asking by HEAD could not explain a refusal.
fn error_is_final(error: &ObjectError) -> bool {
    // A 404 answers an `If-Match` on a key that is gone, or a copy whose source is.
    !matches!(error, ObjectError::NotFound)
}

/// What the object that was found means for a write that expected `expected`.
pub(super) async fn judge(
    bucket: &dyn ObjectStore,
    found: Option<Head>,
    expected: &Expected,
    kin: &Kin,
) -> Result<Verdict, ObjectError> {
    let Some(head) = found else {
        return Ok(match expected {
            Expected::Absent => Verdict::Retry(Precondition::Absent),
            Expected::Anything => Verdict::Retry(Precondition::None),
            Expected::Object(_) => Verdict::Foreign(None),
        });
    };
    if let Some(etag) = &head.etag {
        let written = Written { etag: etag.clone(), version: head.version.clone() };
        let is_expected = *expected == Expected::Object(etag.clone());
        match kin {
            Kin::Marked { mark, .. } if mark.is_on(&head) => return Ok(Verdict::Ours(written)),
            Kin::CopyOf(source) if is_copy(bucket, &head, source).await? => return Ok(Verdict::Ours(written)),
            _ if is_expected => return Ok(Verdict::Retry(condition(expected))),
            Kin::Marked { mark, known, copied }
                if mark.generation_in(&head).is_some_and(|seq| match seq {
                    Seq(0) => copied.as_ref().is_none_or(|copied| copied == etag),
                    seq => seq > *known,
                }) =>
            {
                return Ok(Verdict::Retry(Precondition::Matches(etag.clone())));
            }
            _ => {}
        }
    }
    Ok(if *expected == Expected::Anything { Verdict::Retry(Precondition::None) } else { Verdict::Foreign(Some(Box::new(head))) })
}

/// Whether an object is a copy of `source` with its attributes.
async fn is_copy(bucket: &dyn ObjectStore, head: &Head, source: &CopySource) -> Result<bool, ObjectError> {
    let Some(origin) = look(bucket, &source.key).await? else { return Ok(false) };
    let pinned = source.etag.is_none() || source.etag == origin.etag;
    // The ETag of a multipart upload (`…-<parts>`) is not kept by a copy.
    let same_etag = |a: &ETag, b: &ETag| a == b || a.0.contains('-') || b.0.contains('-');
    let alike = head.etag.as_ref().zip(origin.etag.as_ref()).is_some_and(|(a, b)| same_etag(a, b));
    Ok(pinned && alike && head.size_bytes == origin.size_bytes && head.attributes.metadata == origin.attributes.metadata)
}

/// Whether the source of a copy is not what it was.
async fn source_changed(bucket: &dyn ObjectStore, source: &CopySource) -> Result<bool, ObjectError> {
    if source.version.is_some() {
        return Ok(false);
    }
    let found = look(bucket, &source.key).await?;
    Ok(found.is_none_or(|head| source.etag.is_some() && head.etag != source.etag))
}

//! HEAD and GET.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::BucketVersioningStatus;
use bytes::Bytes;

use super::{S3Store, errors, etag, nanoseconds, quoted, text, version};
use crate::base::buffers::Buffer;
use crate::store::object::layer::Kind;
use crate::store::object::{Attributes, ETag, Head, ObjectError, Outcome};

/// A body is gathered in a buffer of at most this length to begin with, whatever its length is said to be, in bytes.
const BUFFER_BYTES: u64 = 16 << 20;

/// [`Head`] of the answers of HEAD and GET, which have the same accessors and no trait.
macro_rules! head_of {
    ($output:expr, $size_bytes:expr) => {
        Head {
            size_bytes: $size_bytes,
            etag: etag($output.e_tag()),
            version: version($output.version_id()),
            modified_ns: nanoseconds($output.last_modified()),
            attributes: Attributes {
                content_type: $output.content_type().map(str::to_owned),
                metadata: metadata($output.metadata()),
                storage_class: $output.storage_class().map(|class| class.as_str().to_owned()),
                acl: None,
                encryption: $output.server_side_encryption().map(|name| name.as_str().to_owned()),
                kms_key: $output.ssekms_key_id().map(str::to_owned),
            },
            restore: $output.restore().map(str::to_owned),
        }
    };
}

fn metadata(sent: Option<&HashMap<String, String>>) -> BTreeMap<String, String> {
    let decoded = |(name, value): (&String, &String)| (name.to_ascii_lowercase(), text::from_header(value));
    sent.into_iter().flatten().map(decoded).collect()
}

impl S3Store {
    pub(super) async fn send_head(&self, key: &str) -> Result<Head, ObjectError> {
        let request = self.client.head_object().bucket(&self.bucket).key(key).set_request_payer(self.payer());
        let output = request.send().await.map_err(|error| errors::of(Kind::Head, &self.bucket, error))?;
        let size_bytes = length(output.content_length()).ok_or_else(|| garbled("no length"))?;
        Ok(head_of!(output, size_bytes))
    }

    /// `GetBucketVersioning`. Who may not ask is told `false`; a bucket that cannot be reached is an error.
    pub(in crate::store::object) async fn keeps_versions(&self) -> Result<bool, ObjectError> {
        let sent = async {
            let sent = self.client.get_bucket_versioning().bucket(&self.bucket).send().await;
            sent.map_err(|error| errors::of(Kind::List, &self.bucket, error))
        };
        match self.bounded(Kind::List, 0, sent).await {
            Ok(output) => Ok(output.status() == Some(&BucketVersioningStatus::Enabled)),
            Err(ObjectError::Denied(said)) if said.starts_with("AccessDenied") => Ok(false),
            Err(other) => Err(other),
        }
    }

    pub(super) async fn fetch(
        &self,
        key: &str,
        range: Option<Range<u64>>,
        expect: Option<&ETag>,
    ) -> Result<(Head, Bytes), ObjectError> {
        if range.as_ref().is_some_and(|range| range.start >= range.end) {
            return self.fetch_nothing(key, expect).await;
        }
        let bytes = range.as_ref().map(|range| range.end - range.start);
        let output = self.bounded(Kind::Get, 0, self.send_get(key, range.as_ref(), expect)).await?;
        let Some(output) = output else { return self.fetch_nothing(key, expect).await };
        let (size_bytes, body_bytes) = lengths(&output, range.as_ref())?;
        let head = head_of!(output, size_bytes);
        let body = self.bounded(Kind::Get, bytes.unwrap_or(body_bytes), gather(output.body, body_bytes)).await?;
        Ok((head, body))
    }

    /// `None` where the range begins past the end (416).
    async fn send_get(
        &self,
        key: &str,
        range: Option<&Range<u64>>,
        expect: Option<&ETag>,
    ) -> Result<Option<GetObjectOutput>, ObjectError> {
        let request = self.client.get_object().bucket(&self.bucket).key(key).set_request_payer(self.payer());
        let request = request.set_if_match(expect.map(quoted));
        let request = request.set_range(range.map(|range| format!("bytes={}-{}", range.start, range.end - 1)));
        match request.send().await {
            Ok(output) => Ok(Some(output)),
            Err(error) if error.raw_response().is_some_and(|raw| raw.status().as_u16() == 416) => Ok(None),
            Err(error) => Err(errors::of(Kind::Get, &self.bucket, error)),
        }
    }

    /// A range without bytes: what it would say besides them.
    async fn fetch_nothing(&self, key: &str, expect: Option<&ETag>) -> Result<(Head, Bytes), ObjectError> {
        let head = self.bounded(Kind::Head, 0, self.send_head(key)).await?;
        if expect.is_some() && expect != head.etag.as_ref() {
            return Err(ObjectError::PreconditionFailed);
        }
        Ok((head, Bytes::new()))
    }
}

fn length(said: Option<i64>) -> Option<u64> {
    said.and_then(|length| u64::try_from(length).ok())
}

fn garbled(what: &str) -> ObjectError {
    ObjectError::Corrupt(format!("the answer has {what}"))
}

/// The lengths of the object and of the body that follows, where both are what was asked for.
fn lengths(output: &GetObjectOutput, range: Option<&Range<u64>>) -> Result<(u64, u64), ObjectError> {
    let body_bytes = length(output.content_length()).ok_or_else(|| garbled("no length"))?;
    let Some(range) = range else { return Ok((body_bytes, body_bytes)) };
    let Some(said) = output.content_range() else {
        // The whole object: an endpoint may do so where it is what was asked for.
        let whole = range.start == 0 && body_bytes <= range.end;
        return if whole { Ok((body_bytes, body_bytes)) } else { Err(ObjectError::Unsupported("ranges of an object".into())) };
    };
    let (first, last, size_bytes) = content_range(said).ok_or_else(|| garbled("a Content-Range that cannot be read"))?;
    let expected = range.start..range.end.min(size_bytes);
    if (first..last.saturating_add(1)) != expected || body_bytes != expected.end - expected.start {
        return Err(garbled("another range than was asked for"));
    }
    Ok((size_bytes, body_bytes))
}

/// `bytes FIRST-LAST/SIZE` (RFC 9110 §14.4).
fn content_range(said: &str) -> Option<(u64, u64, u64)> {
    let (range, size_bytes) = said.strip_prefix("bytes")?.trim_start().split_once('/')?;
    let (first, last) = range.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()?, size_bytes.parse().ok()?))
}

/// The whole body, which has `expected` bytes. Copied only where it comes in more than one piece.
async fn gather(mut body: ByteStream, expected: u64) -> Result<Bytes, ObjectError> {
    let broken = |reason: String| ObjectError::Unavailable { reason, outcome: Outcome::Refused };
    let Some(first) = body.next().await else {
        return if expected == 0 { Ok(Bytes::new()) } else { Err(broken("the connection broke before the body".into())) };
    };
    let first = first.map_err(|error| damaged(&error))?;
    if first.len() as u64 == expected {
        return Ok(first);
    }
    let mut whole = Buffer::with_capacity(expected.min(BUFFER_BYTES) as usize);
    whole.extend_from_slice(&first);
    while let Some(piece) = body.next().await {
        whole.extend_from_slice(&piece.map_err(|error| damaged(&error))?);
        if whole.len() as u64 > expected {
            return Err(garbled("a longer body than it says"));
        }
    }
    if whole.len() as u64 == expected {
        return Ok(whole.freeze());
    }
    Err(broken(format!("the connection broke after {} of {expected} bytes", whole.len())))
}

fn damaged(error: &aws_sdk_s3::primitives::ByteStreamError) -> ObjectError {
    let reason = errors::chain(error);
    if reason.contains("hecksum") {
        return ObjectError::Corrupt(reason);
    }
    ObjectError::Unavailable { reason, outcome: Outcome::Refused }
}

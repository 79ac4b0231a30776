//! A bucket of any S3, through `aws-sdk-s3`.
//!
//! What lives here: [`S3Store`], the requests that need no helper of their own, and the time that each may take. Beside it:
//! `s3/connect.rs` (endpoint, region, credentials, checksums), `s3/known.rs` (what it is known to do), `s3/errors.rs` (what an answer means), `s3/read.rs`,
//! `s3/write.rs`, `s3/multipart.rs`, `s3/list.rs` (the requests), `s3/text.rs` (text that a header, a URL or XML would
//! bend).
//!
//! Invariants:
//! - One call is one request, but for those that the `meter` names; the SDK's own retries are off.
//! - Every call ends: after `answer_timeout` (`long_answer_timeout` where the endpoint itself moves bytes), plus the time that its
//!   body takes at `bytes_per_second_min`; and before, where nothing moves for `stall_timeout`.
//! - A body that is sent is a rope whose slices are never copied; a body that is fetched is never longer than was asked for.
//! - Conditions are always sent, but for those of `delete_many` where they are known not to be honoured. Whether they are is what
//!   [`Capabilities`] say, once [`probe`](super::probe) has found out; before that an endpoint that is not AWS is believed to honour
//!   nothing, and who writes waits for the answer first ([`ObjectStore::ready`]).

mod connect;
mod errors;
mod known;
mod list;
mod multipart;
mod read;
#[cfg(test)]
mod tests;
pub mod text;
mod write;

use std::future::Future;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::types::RequestPayer;
use bytes::Bytes;

pub use connect::{Credentials, Endpoint, Settings};
use known::Known;

use super::layer::Kind;
use super::{
    Attributes, Body, Capabilities, CopySource, ETag, Head, ListPage, ListRequest, ObjectError, ObjectStore, Part, PendingUpload,
    Precondition, UploadId, Written,
};

/// One bucket of an [`Endpoint`].
pub struct S3Store {
    client: Client,
    bucket: String,
    requester_pays: bool,
    /// Whether the endpoint is AWS itself, whose checksums the SDK takes care of.
    aws: bool,
    timeouts: Timeouts,
    /// What is known of the endpoint; `None` before it was probed.
    known: Known,
    /// Whether the endpoint refuses a body whose `x-amz-checksum-crc32c` is wrong.
    checksums: AtomicBool,
}

/// How long a request may take.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// Until a new connection stands.
    pub connect: Duration,
    /// A request, besides its body.
    pub answer: Duration,
    /// A request that has the endpoint move bytes: copies, and the commit of parts.
    pub long_answer: Duration,
    /// A body that does not move.
    pub stall: Duration,
    /// A body moves at least so fast, in bytes per second.
    pub bytes_per_second_min: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            answer: Duration::from_secs(30),
            long_answer: Duration::from_secs(300),
            stall: Duration::from_secs(20),
            bytes_per_second_min: 64 << 10,
        }
    }
}

impl S3Store {
    /// The bucket's name.
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// What was found out about the endpoint holds from now on.
    pub fn adopt(&self, capabilities: Capabilities, checksums: bool) {
        self.checksums.store(checksums, Ordering::Relaxed);
        self.known.learnt(capabilities);
    }

    /// What the endpoint does could not be found out now. Who waits for it hears why.
    pub fn unknown(&self, error: ObjectError) {
        self.known.failed(error);
    }

    /// Nobody will find out any more.
    pub fn leave_unknown(&self) {
        self.known.over();
    }

    /// Returns when somebody waits to hear what the endpoint does.
    pub async fn asked(&self) {
        self.known.wanted().await;
    }

    /// Whether it is AWS itself.
    pub(super) fn is_aws(&self) -> bool {
        self.aws
    }

    fn payer(&self) -> Option<RequestPayer> {
        self.requester_pays.then_some(RequestPayer::Requester)
    }

    /// Bounds a request in time; `bytes` is the length of its body, whichever way it goes.
    async fn bounded<T>(
        &self,
        kind: Kind,
        bytes: u64,
        request: impl Future<Output = Result<T, ObjectError>>,
    ) -> Result<T, ObjectError> {
        let answer = match kind {
            Kind::Copy | Kind::MultipartCopy | Kind::MultipartCommit => self.timeouts.long_answer,
            _ => self.timeouts.answer,
        };
        let limit = answer + Duration::from_secs(bytes / self.timeouts.bytes_per_second_min.max(1));
        match tokio::time::timeout(limit, request).await {
            Ok(answer) => answer,
            Err(_) => Err(ObjectError::Unavailable {
                reason: format!("no answer within {} s", limit.as_secs()),
                outcome: kind.unanswered(),
            }),
        }
    }
}

/// An ETag as S3 gives it, without its quotes.
fn etag(quoted: Option<&str>) -> Option<ETag> {
    let bare = quoted?.trim().trim_start_matches("W/").trim_matches('"');
    (!bare.is_empty()).then(|| ETag(bare.to_owned()))
}

/// An ETag as a header or XML wants it.
fn quoted(etag: &ETag) -> String {
    format!("\"{}\"", etag.0)
}

/// A version id; `null` is what a bucket without versions says.
fn version(id: Option<&str>) -> Option<String> {
    id.filter(|id| *id != "null").map(str::to_owned)
}

/// `If-Match` and `If-None-Match` of a write.
fn conditions(precondition: &Precondition) -> (Option<String>, Option<String>) {
    match precondition {
        Precondition::None => (None, None),
        Precondition::Absent => (None, Some("*".to_owned())),
        Precondition::Matches(etag) => (Some(quoted(etag)), None),
    }
}

fn nanoseconds(time: Option<&aws_sdk_s3::primitives::DateTime>) -> i64 {
    time.map_or(0, |time| i64::try_from(time.as_nanos()).unwrap_or(0))
}

#[async_trait]
impl ObjectStore for S3Store {
    fn capabilities(&self) -> Capabilities {
        const UNKNOWN: Capabilities = Capabilities {
            conditional_put: false,
            conditional_delete: false,
            conditional_copy: false,
            part_copy: false,
            ..Capabilities::AWS
        };
        self.known.get().unwrap_or(UNKNOWN)
    }

    async fn ready(&self) -> Result<(), ObjectError> {
        self.known.ready().await
    }

    async fn head(&self, key: &str) -> Result<Head, ObjectError> {
        self.bounded(Kind::Head, 0, self.send_head(key)).await
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>, expect: Option<&ETag>) -> Result<(Head, Bytes), ObjectError> {
        self.fetch(key, range, expect).await
    }

    async fn put(
        &self,
        key: &str,
        body: Body,
        attributes: &Attributes,
        precondition: &Precondition,
    ) -> Result<Written, ObjectError> {
        self.bounded(Kind::Put, body.len(), self.send_put(key, body, attributes, precondition)).await
    }

    async fn copy(
        &self,
        source: &CopySource,
        key: &str,
        attributes: Option<&Attributes>,
        precondition: &Precondition,
    ) -> Result<Written, ObjectError> {
        self.bounded(Kind::Copy, 0, self.send_copy(source, key, attributes, precondition)).await
    }

    async fn delete(&self, key: &str, expect: Option<&ETag>) -> Result<(), ObjectError> {
        self.bounded(Kind::Delete, 0, self.send_delete(key, expect)).await
    }

    async fn delete_many(&self, keys: &[(String, Option<ETag>)]) -> Result<Vec<(String, ObjectError)>, ObjectError> {
        self.bounded(Kind::DeleteMany, 0, self.send_delete_many(keys)).await
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage, ObjectError> {
        self.bounded(Kind::List, 0, self.send_list(request)).await
    }

    async fn multipart_begin(&self, key: &str, attributes: &Attributes) -> Result<UploadId, ObjectError> {
        self.bounded(Kind::MultipartBegin, 0, self.send_begin(key, attributes)).await
    }

    async fn multipart_part(&self, key: &str, upload: &UploadId, number: u32, body: Body) -> Result<Part, ObjectError> {
        self.bounded(Kind::MultipartPart, body.len(), self.send_part(key, upload, number, body)).await
    }

    async fn multipart_copy(
        &self,
        key: &str,
        upload: &UploadId,
        number: u32,
        source: &CopySource,
        range: Range<u64>,
    ) -> Result<Part, ObjectError> {
        self.bounded(Kind::MultipartCopy, 0, self.send_part_copy(key, upload, number, source, range)).await
    }

    async fn multipart_commit(
        &self,
        key: &str,
        upload: &UploadId,
        parts: &[Part],
        precondition: &Precondition,
    ) -> Result<Written, ObjectError> {
        self.bounded(Kind::MultipartCommit, 0, self.send_commit(key, upload, parts, precondition)).await
    }

    async fn multipart_abort(&self, key: &str, upload: &UploadId) -> Result<(), ObjectError> {
        self.bounded(Kind::MultipartAbort, 0, self.send_abort(key, upload)).await
    }

    async fn multipart_list(&self, prefix: &str) -> Result<Vec<PendingUpload>, ObjectError> {
        self.send_multipart_list(prefix).await
    }
}

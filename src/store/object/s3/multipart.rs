//! Multipart uploads.

use std::ops::Range;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart, ObjectCannedAcl, ServerSideEncryption, StorageClass};

use super::write::{check, metadata, stream, unmatched, with_attributes, written};
use super::{S3Store, conditions, errors, etag, quoted, text};
use crate::store::object::layer::Kind;
use crate::store::object::{Attributes, Body, CopySource, ETag, ObjectError, Outcome, Part, Precondition, UploadId, Written};

fn numbered(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

fn part(number: u32, etag: Option<ETag>) -> Result<Part, ObjectError> {
    let nameless = || ObjectError::Unavailable { reason: "the answer to a part has no ETag".into(), outcome: Outcome::Unknown };
    Ok(Part { number, etag: etag.ok_or_else(nameless)? })
}

/// Some endpoints answer a commit with all that is needed inside another root than S3's, which the SDK refuses.
fn misnamed(answer: &HttpResponse) -> Option<Written> {
    let text = std::str::from_utf8(answer.body().bytes()?).ok()?;
    if !answer.status().is_success() || text.contains("<Error>") {
        return None;
    }
    let (tag, _) = text.split_once("<ETag>")?.1.split_once("</ETag>")?;
    written(Some(&tag.replace("&quot;", "\"").replace("&#34;", "\"")), answer.headers().get("x-amz-version-id")).ok()
}

impl S3Store {
    pub(super) async fn send_begin(&self, key: &str, attributes: &Attributes) -> Result<UploadId, ObjectError> {
        check(key, Some(attributes))?;
        let request = self.client.create_multipart_upload().bucket(&self.bucket).key(key).set_request_payer(self.payer());
        let sent = with_attributes!(request, attributes).send().await;
        let output = sent.map_err(|error| errors::of(Kind::MultipartBegin, &self.bucket, error))?;
        let nameless = || ObjectError::Corrupt("the answer has no upload id".into());
        output.upload_id().map(|id| UploadId(id.to_owned())).ok_or_else(nameless)
    }

    pub(super) async fn send_part(&self, key: &str, upload: &UploadId, number: u32, body: Body) -> Result<Part, ObjectError> {
        let request = self.client.upload_part().bucket(&self.bucket).key(key).set_request_payer(self.payer());
        let request = request.upload_id(&upload.0).part_number(numbered(number));
        let request = request.content_length(i64::try_from(body.len()).unwrap_or(i64::MAX)).body(stream(body));
        let output = request.send().await.map_err(|error| errors::of(Kind::MultipartPart, &self.bucket, error))?;
        part(number, etag(output.e_tag()))
    }

    pub(super) async fn send_part_copy(
        &self,
        key: &str,
        upload: &UploadId,
        number: u32,
        source: &CopySource,
        range: Range<u64>,
    ) -> Result<Part, ObjectError> {
        if range.is_empty() {
            return Err(ObjectError::Invalid("an empty range of a part copy".into()));
        }
        let request = self.client.upload_part_copy().bucket(&self.bucket).key(key).set_request_payer(self.payer());
        let request = request.upload_id(&upload.0).part_number(numbered(number));
        let request = request.copy_source(text::copy_source(&self.bucket, &source.key, source.version.as_deref()));
        let request = request.copy_source_range(format!("bytes={}-{}", range.start, range.end - 1));
        let request = request.set_copy_source_if_match(source.etag.as_ref().map(quoted));
        let output = request.send().await.map_err(|error| errors::of(Kind::MultipartCopy, &self.bucket, error))?;
        part(number, etag(output.copy_part_result().and_then(|result| result.e_tag())))
    }

    pub(super) async fn send_commit(
        &self,
        key: &str,
        upload: &UploadId,
        parts: &[Part],
        precondition: &Precondition,
    ) -> Result<Written, ObjectError> {
        if parts.is_empty() {
            return Err(ObjectError::Invalid("a commit of no parts".into()));
        }
        let named = parts
            .iter()
            .map(|part| CompletedPart::builder().part_number(numbered(part.number)).e_tag(quoted(&part.etag)).build());
        let named = CompletedMultipartUpload::builder().set_parts(Some(named.collect())).build();
        let (if_match, if_none_match) = conditions(precondition);
        let request = self.client.complete_multipart_upload().bucket(&self.bucket).key(key).set_request_payer(self.payer());
        let request = request.upload_id(&upload.0).multipart_upload(named);
        let sent = request.set_if_match(if_match).set_if_none_match(if_none_match).send().await;
        match sent {
            Ok(output) => written(output.e_tag(), output.version_id()),
            Err(error) => match error.raw_response().and_then(misnamed) {
                Some(made) => Ok(made),
                None => Err(unmatched(errors::of(Kind::MultipartCommit, &self.bucket, error), precondition)),
            },
        }
    }

    pub(super) async fn send_abort(&self, key: &str, upload: &UploadId) -> Result<(), ObjectError> {
        let request = self.client.abort_multipart_upload().bucket(&self.bucket).key(key).set_request_payer(self.payer());
        match request.upload_id(&upload.0).send().await {
            Ok(_) => Ok(()),
            Err(error) => match errors::of(Kind::MultipartAbort, &self.bucket, error) {
                ObjectError::NoSuchUpload | ObjectError::NotFound => Ok(()),
                other => Err(other),
            },
        }
    }
}

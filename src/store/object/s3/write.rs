//! PUT, COPY and DELETE.

use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use aws_sdk_s3::types::{Delete, MetadataDirective, ObjectCannedAcl, ObjectIdentifier, ServerSideEncryption, StorageClass};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use md5::{Digest, Md5};

use super::errors::Answer;
use super::{S3Store, conditions, errors, etag, quoted, text, version};
use crate::store::object::layer::Kind;
use crate::store::object::{
    Attributes, Body, CopySource, ETag, METADATA_BYTES_MAX, ObjectError, Outcome, Precondition, Written, check_key,
};

/// A body on its way: the rope's slices, one frame each.
pub(super) struct Rope {
    slices: std::vec::IntoIter<Bytes>,
    left_bytes: u64,
}

impl http_body::Body for Rope {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let rope = self.get_mut();
        let slice = rope.slices.find(|slice| !slice.is_empty());
        rope.left_bytes -= slice.as_ref().map_or(0, |slice| slice.len() as u64);
        Poll::Ready(slice.map(|slice| Ok(Frame::data(slice))))
    }

    fn is_end_stream(&self) -> bool {
        self.left_bytes == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left_bytes)
    }
}

pub(super) fn stream(body: Body) -> ByteStream {
    let left_bytes = body.len();
    if left_bytes == 0 {
        return ByteStream::new(SdkBody::from(Bytes::new()));
    }
    ByteStream::new(SdkBody::from_body_1_x(Rope { slices: body.0.into_iter(), left_bytes }))
}

/// Sets attributes on the builders of PUT, COPY and multipart uploads, which have the same setters and no trait.
macro_rules! with_attributes {
    ($request:expr, $attributes:expr) => {{
        let attributes: &Attributes = $attributes;
        $request
            .set_content_type(attributes.content_type.clone())
            .set_metadata(Some(metadata(attributes)))
            .set_storage_class(attributes.storage_class.as_deref().map(StorageClass::from))
            .set_acl(attributes.acl.as_deref().map(ObjectCannedAcl::from))
            .set_server_side_encryption(attributes.encryption.as_deref().map(ServerSideEncryption::from))
            .set_ssekms_key_id(attributes.kms_key.clone())
    }};
}
pub(super) use with_attributes;

pub(super) fn metadata(attributes: &Attributes) -> HashMap<String, String> {
    attributes.metadata.iter().map(|(name, value)| (name.clone(), text::to_header(value))).collect()
}

/// Refuses what S3 refuses, before its body is sent; some endpoints take it and break later.
pub(super) fn check(key: &str, attributes: Option<&Attributes>) -> Result<(), ObjectError> {
    check_key(key)?;
    let headers = attributes.map(metadata).unwrap_or_default();
    let bytes: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > METADATA_BYTES_MAX {
        return Err(ObjectError::Invalid(format!("{bytes} bytes of user metadata (S3 takes {METADATA_BYTES_MAX})")));
    }
    Ok(())
}

/// What a write made, where the answer says so. A write without an ETag has happened, as what nobody knows.
pub(super) fn written(tag: Option<&str>, id: Option<&str>) -> Result<Written, ObjectError> {
    let etag = etag(tag).ok_or_else(|| ObjectError::Unavailable {
        reason: "the answer to a write has no ETag".into(),
        outcome: Outcome::Unknown,
    })?;
    Ok(Written { etag, version: version(id) })
}

/// `If-Match` on a key where nothing is gets a 404 from S3; the trait calls it what it is.
pub(super) fn unmatched(error: ObjectError, precondition: &Precondition) -> ObjectError {
    match (error, precondition) {
        (ObjectError::NotFound, Precondition::Matches(_)) => ObjectError::PreconditionFailed,
        (other, _) => other,
    }
}

fn crc32c_of(body: &Body) -> String {
    let crc = body.0.iter().fold(0, |crc, slice| crc32c::crc32c_append(crc, slice));
    BASE64.encode(crc.to_be_bytes())
}

impl S3Store {
    pub(super) async fn send_put(
        &self,
        key: &str,
        body: Body,
        attributes: &Attributes,
        precondition: &Precondition,
    ) -> Result<Written, ObjectError> {
        let checksum = self.checksums.load(Ordering::Relaxed).then(|| crc32c_of(&body));
        self.send_put_with(key, body, attributes, precondition, checksum).await
    }

    /// With a checksum of the caller's, right or wrong.
    pub(super) async fn send_put_with(
        &self,
        key: &str,
        body: Body,
        attributes: &Attributes,
        precondition: &Precondition,
        crc32c: Option<String>,
    ) -> Result<Written, ObjectError> {
        check(key, Some(attributes))?;
        let (if_match, if_none_match) = conditions(precondition);
        let request = self.client.put_object().bucket(&self.bucket).key(key).set_request_payer(self.payer());
        let request = with_attributes!(request, attributes).set_if_match(if_match).set_if_none_match(if_none_match);
        let request = request.content_length(i64::try_from(body.len()).unwrap_or(i64::MAX)).body(stream(body));
        let sent = request.set_checksum_crc32_c(crc32c).send().await;
        let output = sent.map_err(|error| unmatched(errors::of(Kind::Put, &self.bucket, error), precondition))?;
        written(output.e_tag(), output.version_id())
    }

    /// Whether a body whose checksum is wrong is refused. Where it is not, an object is left at `key`.
    pub(in crate::store::object) async fn refuses_wrong_checksum(&self, key: &str) -> Result<bool, ObjectError> {
        let body = Body::from(Bytes::from_static(b"tidegate"));
        let wrong = Some(BASE64.encode([0; 4]));
        let none = Attributes::default();
        let put = self.send_put_with(key, body, &none, &Precondition::None, wrong);
        match self.bounded(Kind::Put, 0, put).await {
            Ok(_) => Ok(false),
            Err(ObjectError::Corrupt(_) | ObjectError::Invalid(_)) => Ok(true),
            Err(ObjectError::Unsupported(_)) => Ok(false),
            Err(other) => Err(other),
        }
    }

    pub(super) async fn send_copy(
        &self,
        source: &CopySource,
        key: &str,
        attributes: Option<&Attributes>,
        precondition: &Precondition,
    ) -> Result<Written, ObjectError> {
        check(key, attributes)?;
        if attributes.is_none() && source.key == key && source.version.is_none() {
            return Err(ObjectError::Invalid("a copy onto itself that changes nothing".into()));
        }
        let (if_match, if_none_match) = conditions(precondition);
        let request = self.client.copy_object().bucket(&self.bucket).key(key).set_request_payer(self.payer());
        let request = request.copy_source(text::copy_source(&self.bucket, &source.key, source.version.as_deref()));
        let request = request.set_copy_source_if_match(source.etag.as_ref().map(quoted));
        let request = request.set_if_match(if_match).set_if_none_match(if_none_match);
        let request = match attributes {
            Some(attributes) => with_attributes!(request, attributes).metadata_directive(MetadataDirective::Replace),
            None => request.metadata_directive(MetadataDirective::Copy),
        };
        match request.send().await {
            Ok(output) => {
                let tag = output.copy_object_result().and_then(|result| result.e_tag());
                written(tag, output.version_id())
            }
            Err(error) => match errors::of(Kind::Copy, &self.bucket, error) {
                ObjectError::NotFound => Err(self.what_is_missing(source, precondition).await),
                other => Err(other),
            },
        }
    }

    /// A 404 of a copy whose target must match may be about either key; one HEAD tells.
    async fn what_is_missing(&self, source: &CopySource, precondition: &Precondition) -> ObjectError {
        let ambiguous = matches!(precondition, Precondition::Matches(_)) && source.version.is_none();
        if ambiguous && self.send_head(&source.key).await.is_ok() {
            return ObjectError::PreconditionFailed;
        }
        ObjectError::NotFound
    }

    pub(super) async fn send_delete(&self, key: &str, expect: Option<&ETag>) -> Result<(), ObjectError> {
        let request = self.client.delete_object().bucket(&self.bucket).key(key).set_request_payer(self.payer());
        match request.set_if_match(expect.map(quoted)).send().await {
            Ok(_) => Ok(()),
            Err(error) => match errors::of(Kind::Delete, &self.bucket, error) {
                ObjectError::NotFound => Ok(()),
                other => Err(other),
            },
        }
    }

    /// Keys that XML cannot hold are deleted one by one.
    pub(super) async fn send_delete_many(
        &self,
        keys: &[(String, Option<ETag>)],
    ) -> Result<Vec<(String, ObjectError)>, ObjectError> {
        if keys.len() > 1_000 {
            return Err(ObjectError::Invalid("more than 1,000 keys in one DeleteObjects".into()));
        }
        let conditional = self.known.get().is_none_or(|known| known.conditional_delete);
        let expected = |expect: &Option<ETag>| expect.clone().filter(|_| conditional);
        let (fit, unfit): (Vec<_>, Vec<_>) = keys.iter().partition(|(key, _)| text::fits_xml(key));
        let mut failed = Vec::new();
        let mut named = Vec::with_capacity(fit.len());
        for (key, expect) in fit {
            let name = ObjectIdentifier::builder().key(key).set_e_tag(expected(expect).as_ref().map(quoted));
            named.push(name.build().map_err(|error| ObjectError::Invalid(error.to_string()))?);
        }
        if !named.is_empty() {
            failed.extend(self.send_delete_objects(named).await?);
        }
        for (key, expect) in unfit {
            if let Err(error) = self.send_delete(key, expected(expect).as_ref()).await {
                failed.push((key.clone(), error));
            }
        }
        Ok(failed)
    }

    async fn send_delete_objects(&self, named: Vec<ObjectIdentifier>) -> Result<Vec<(String, ObjectError)>, ObjectError> {
        let delete = Delete::builder().set_objects(Some(named)).quiet(true);
        let delete = delete.build().map_err(|error| ObjectError::Invalid(error.to_string()))?;
        let request = self.client.delete_objects().bucket(&self.bucket).delete(delete).set_request_payer(self.payer());
        let aws = self.aws;
        // Older endpoints insist on the header that AWS's checksums have replaced.
        let request = request.customize().mutate_request(move |http| {
            if let Some(bytes) = http.body().bytes().filter(|_| !aws) {
                let digest = BASE64.encode(Md5::digest(bytes));
                http.headers_mut().insert("content-md5", digest);
            }
        });
        let output = request.send().await.map_err(|error| errors::of(Kind::DeleteMany, &self.bucket, error))?;
        let failures = output.errors().iter().filter_map(|error| {
            let (code, message) = (error.code(), error.message().unwrap_or_default());
            let answer = Answer { status: 0, code, message, region: None };
            match errors::of_answer(Kind::DeleteMany, &self.bucket, &answer) {
                ObjectError::NotFound => None,
                failure => Some((error.key().unwrap_or_default().to_owned(), failure)),
            }
        });
        Ok(failures.collect())
    }
}

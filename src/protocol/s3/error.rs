//! The one map from the store's errors to S3's codes.

use http::header::{CONTENT_RANGE, HeaderMap, HeaderName, HeaderValue};
use s3s::{S3Error, S3ErrorCode};

use crate::store::object::local::LocalError;

const DELETE_MARKER: HeaderName = HeaderName::from_static("x-amz-delete-marker");

/// S3's answer for an error of the store.
pub fn s3(error: LocalError) -> S3Error {
    let code = match &error {
        LocalError::NoSuchBucket(_) => S3ErrorCode::NoSuchBucket,
        LocalError::BucketExists(_) => S3ErrorCode::BucketAlreadyOwnedByYou,
        LocalError::BucketNotEmpty => S3ErrorCode::BucketNotEmpty,
        LocalError::InvalidBucketName(_) => S3ErrorCode::InvalidBucketName,
        LocalError::InvalidKey => S3ErrorCode::KeyTooLongError,
        LocalError::NoSuchKey { .. } => S3ErrorCode::NoSuchKey,
        LocalError::NoSuchVersion => S3ErrorCode::NoSuchVersion,
        LocalError::IsMarker => S3ErrorCode::MethodNotAllowed,
        LocalError::NoSuchUpload => S3ErrorCode::NoSuchUpload,
        LocalError::InvalidPart(_) => S3ErrorCode::InvalidPart,
        LocalError::InvalidPartOrder => S3ErrorCode::InvalidPartOrder,
        LocalError::EntityTooSmall(_) => S3ErrorCode::EntityTooSmall,
        LocalError::EntityTooLarge => S3ErrorCode::EntityTooLarge,
        LocalError::MetadataTooLarge => S3ErrorCode::MetadataTooLarge,
        LocalError::IncompleteBody => S3ErrorCode::IncompleteBody,
        LocalError::BadDigest(_) => S3ErrorCode::BadDigest,
        LocalError::CopyToItself => S3ErrorCode::InvalidRequest,
        LocalError::SourceChanged => S3ErrorCode::OperationAborted,
        LocalError::PreconditionFailed => S3ErrorCode::PreconditionFailed,
        LocalError::NotModified => S3ErrorCode::NotModified,
        LocalError::InvalidRange(_) => S3ErrorCode::InvalidRange,
        LocalError::InvalidArgument(_) => S3ErrorCode::InvalidArgument,
        LocalError::InvalidTag(_) => S3ErrorCode::InvalidTag,
        LocalError::NotImplemented(_) => S3ErrorCode::NotImplemented,
        LocalError::Closed => S3ErrorCode::ServiceUnavailable,
        LocalError::Disk(_) | LocalError::CommitUnknown(_) | LocalError::Damaged(_) => {
            tracing::error!(%error, "a request to the embedded S3 endpoint failed");
            S3ErrorCode::InternalError
        }
    };
    let headers = headers(&error);
    let mut answer = S3Error::with_message(code, error.to_string());
    if !headers.is_empty() {
        answer.set_headers(headers);
    }
    answer
}

fn headers(error: &LocalError) -> HeaderMap {
    let mut headers = HeaderMap::new();
    match error {
        LocalError::NoSuchKey { marker: true } | LocalError::IsMarker => {
            headers.insert(DELETE_MARKER, HeaderValue::from_static("true"));
        }
        LocalError::InvalidRange(size_bytes) => {
            if let Ok(value) = format!("bytes */{size_bytes}").parse() {
                headers.insert(CONTENT_RANGE, value);
            }
        }
        _ => {}
    }
    headers
}

/// An error for what is not built.
pub fn not_implemented(what: &'static str) -> S3Error {
    s3(LocalError::NotImplemented(what))
}

/// An error for a field that makes no sense.
pub fn invalid(what: &str) -> S3Error {
    s3(LocalError::InvalidArgument(what.into()))
}

//! What an answer of S3 means: its error code first, its HTTP status where there is none.

use std::error::Error;
use std::io;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use crate::store::object::layer::Kind;
use crate::store::object::{ObjectError, Outcome};

/// An error of the SDK as one of ours.
pub(super) fn of<E>(kind: Kind, bucket: &str, error: SdkError<E, HttpResponse>) -> ObjectError
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    match &error {
        SdkError::ServiceError(answer) => {
            let status = answer.raw().status().as_u16();
            let region = answer.raw().headers().get("x-amz-bucket-region").map(str::to_owned);
            let meta = answer.err().meta();
            let message = meta.message().unwrap_or_default();
            of_answer(kind, bucket, &Answer { status, code: meta.code(), message, region: region.as_deref() })
        }
        SdkError::ResponseError(answer) => {
            let status = answer.raw().status().as_u16();
            let message = chain(&error);
            match status {
                200..=299 => unanswered(kind, &format!("the answer cannot be read: {message}")),
                _ => of_answer(kind, bucket, &Answer { status, code: None, message: &message, region: None }),
            }
        }
        other => of_transport(kind, other),
    }
}

/// An error that S3 answered with.
pub(super) struct Answer<'a> {
    /// HTTP status; 0 where the error is one of a list inside an answer.
    pub(super) status: u16,
    /// S3's error code.
    pub(super) code: Option<&'a str>,
    /// S3's words.
    pub(super) message: &'a str,
    /// The region that the bucket is in, where S3 says so.
    pub(super) region: Option<&'a str>,
}

pub(super) fn of_answer(kind: Kind, bucket: &str, answer: &Answer<'_>) -> ObjectError {
    // HEAD has no body, and so no code: the SDK makes one up from the status.
    match answer.code.filter(|_| kind != Kind::Head) {
        Some(code) => of_code(kind, bucket, code, answer).unwrap_or_else(|| of_status(kind, answer)),
        None => of_status(kind, answer),
    }
}

fn of_code(kind: Kind, bucket: &str, code: &str, answer: &Answer<'_>) -> Option<ObjectError> {
    let said = || format!("{code}: {}", answer.message);
    Some(match code {
        "NoSuchKey" | "NoSuchVersion" => ObjectError::NotFound,
        "NoSuchBucket" => ObjectError::NoSuchBucket(bucket.to_owned()),
        "NoSuchUpload" => ObjectError::NoSuchUpload,
        "PreconditionFailed" => ObjectError::PreconditionFailed,
        "ConditionalRequestConflict" | "OperationAborted" => ObjectError::Conflict,
        "InvalidObjectState" | "ObjectNotInActiveTierError" => ObjectError::Archived,
        "SlowDown"
        | "ServiceUnavailable"
        | "RequestLimitExceeded"
        | "BandwidthLimitExceeded"
        | "TooManyRequests"
        | "Throttling"
        | "ThrottlingException"
        | "Busy" => ObjectError::SlowDown,
        "InternalError" => unanswered(kind, &said()),
        "RequestTimeout" => ObjectError::Unavailable { reason: said(), outcome: Outcome::Refused },
        "BadDigest" | "IncompleteBody" | "XAmzContentSHA256Mismatch" | "XAmzContentChecksumMismatch" => {
            ObjectError::Corrupt(said())
        }
        "NotImplemented" | "MethodNotAllowed" => ObjectError::Unsupported(said()),
        "PermanentRedirect" | "TemporaryRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException" => {
            elsewhere(answer, &said())
        }
        _ => {
            let credentials = credentials(code).map(|help| ObjectError::Credentials(format!("{}{help}", said())));
            return credentials.or_else(|| denied(code).map(|help| ObjectError::Denied(format!("{}{help}", said()))));
        }
    })
}

/// What to do about a refusal of S3, by code; `None` where the code is no refusal.
fn denied(code: &str) -> Option<&'static str> {
    Some(match code {
        "AccessDenied"
        | "AllAccessDisabled"
        | "InvalidSecurity"
        | "InvalidPayer"
        | "AccessPointNotOwnedByYou"
        | "Forbidden"
        | "Unauthorized" => " (see the bucket's and the user's policy)",
        code if code.starts_with("KMS.") => " (see the key's policy and state)",
        _ => return None,
    })
}

/// As [`denied`], for what is wrong whatever is asked for.
fn credentials(code: &str) -> Option<&'static str> {
    Some(match code {
        "AccountProblem" | "NotSignedUp" => " (see the account)",
        "InvalidAccessKeyId" => {
            " (the endpoint does not know this access key: check the credentials, and that the endpoint is theirs)"
        }
        "SignatureDoesNotMatch" => " (the secret key is not the access key's: check the credentials)",
        "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired" => " (renew the temporary credentials)",
        "RequestTimeTooSkewed" | "RequestExpired" => " (this machine's clock is wrong)",
        _ => return None,
    })
}

fn elsewhere(answer: &Answer<'_>, said: &str) -> ObjectError {
    match answer.region {
        Some(region) => ObjectError::Invalid(format!("the bucket is in the region {region}: set `region` under [s3] ({said})")),
        None => ObjectError::Invalid(format!("the bucket is in another region: set `region` under [s3] ({said})")),
    }
}

fn of_status(kind: Kind, answer: &Answer<'_>) -> ObjectError {
    let said = match (answer.code, answer.message) {
        (Some(code), message) => format!("{code}: {message}"),
        (None, "") => format!("HTTP status {}", answer.status),
        (None, message) => format!("HTTP status {}: {message}", answer.status),
    };
    match answer.status {
        404 => ObjectError::NotFound,
        401 | 403 => ObjectError::Denied(format!("{said} (see the credentials, and the bucket's and the user's policy)")),
        409 => ObjectError::Conflict,
        412 => ObjectError::PreconditionFailed,
        429 => ObjectError::SlowDown,
        301 | 307 | 308 => elsewhere(answer, &said),
        400 if kind == Kind::Head && answer.region.is_some() => elsewhere(answer, &said),
        408 => ObjectError::Unavailable { reason: said, outcome: Outcome::Refused },
        405 | 501 => ObjectError::Unsupported(said),
        // An answer that the SDK takes for none.
        200..=299 | 500.. => unanswered(kind, &said),
        _ => ObjectError::Invalid(said),
    }
}

fn unanswered(kind: Kind, reason: &str) -> ObjectError {
    ObjectError::Unavailable { reason: reason.to_owned(), outcome: kind.unanswered() }
}

/// An error that S3 never answered with.
fn of_transport<E: Error + 'static>(kind: Kind, error: &SdkError<E, HttpResponse>) -> ObjectError {
    let reason = chain(error);
    match error {
        SdkError::ConstructionFailure(_) => before_sending(reason),
        SdkError::DispatchFailure(failure) if failure.as_connector_error().is_some_and(|error| error.is_user()) => {
            ObjectError::Invalid(reason)
        }
        SdkError::DispatchFailure(failure) => match failure.as_connector_error() {
            Some(connector) if never_connected(connector) => ObjectError::Unavailable { reason, outcome: Outcome::Refused },
            _ if lacks_keys(&reason) => before_sending(reason),
            _ => unanswered(kind, &reason),
        },
        _ => unanswered(kind, &reason),
    }
}

/// Nothing was sent: the request cannot be made, or there are no keys to sign it with.
fn before_sending(reason: String) -> ObjectError {
    if lacks_keys(&reason) {
        return ObjectError::Credentials(format!("no usable credentials were found: {reason}"));
    }
    ObjectError::Invalid(reason)
}

/// The SDK has no type for it that is told apart by more than words.
fn lacks_keys(reason: &str) -> bool {
    ["redential", "identity", "profile file"].iter().any(|word| reason.contains(word))
}

fn never_connected(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.downcast_ref::<hyper_util::client::legacy::Error>().is_some_and(|error| error.is_connect()) {
            return true;
        }
        if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
            return true;
        }
        next = error.source();
    }
    false
}

/// An error with its causes, each once.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let cause = error.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
        next = error.source();
    }
    text
}

//! Bodies on their way in: from the connection to the store, with their checksums before or behind them.

use std::time::Duration;

use futures_util::StreamExt;
use http::HeaderMap;
use s3s::dto::StreamingBlob;
use s3s::{S3Error, S3ErrorCode, S3Result, TrailingHeaders};

use super::error::s3;
use crate::store::object::local::{Algorithm, Content, Expected, Intake};

/// How long a client may pause within a body.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// What a request says of its body.
pub struct Announced {
    /// Its length in bytes.
    pub len_bytes: Option<i64>,
    /// `Content-MD5`.
    pub md5: Option<String>,
    /// Checksums in its headers.
    pub checksums: Vec<(Algorithm, String)>,
}

fn field(algorithm: Algorithm) -> String {
    format!("x-amz-checksum-{}", algorithm.name().to_ascii_lowercase())
}

/// The algorithms that are needed: of checksums that were sent or will be, and the one that was asked for.
pub fn algorithms(announced: &Announced, headers: &HeaderMap, asked: Option<Algorithm>) -> Vec<Algorithm> {
    let trailers = headers.get_all("x-amz-trailer").iter().filter_map(|value| value.to_str().ok());
    let trailers: Vec<_> = trailers.flat_map(|value| value.split(',')).map(|name| name.trim().to_ascii_lowercase()).collect();
    let sent = |algorithm: &Algorithm| announced.checksums.iter().any(|(sent, _)| sent == algorithm);
    let wanted = |algorithm: &Algorithm| asked == Some(*algorithm) || sent(algorithm) || trailers.contains(&field(*algorithm));
    Algorithm::ALL.into_iter().filter(wanted).collect()
}

/// Receives a whole body and checks it.
pub async fn receive(
    mut intake: Intake,
    body: Option<StreamingBlob>,
    announced: Announced,
    trailers: Option<TrailingHeaders>,
) -> S3Result<Content> {
    if let Some(mut body) = body {
        loop {
            match tokio::time::timeout(PAUSE_MAX, body.next()).await {
                Ok(Some(Ok(bytes))) => intake.push(bytes).await.map_err(s3)?,
                Ok(Some(Err(error))) => return Err(broken(&*error)),
                Ok(None) => break,
                Err(_) => return Err(S3Error::new(S3ErrorCode::RequestTimeout)),
            }
        }
    }
    let len_bytes = announced.len_bytes.map(i64::cast_unsigned);
    let mut checksums = announced.checksums;
    if let Some(trailers) = trailers.and_then(|trailers| trailers.take()) {
        let sent = |algorithm| Some((algorithm, trailers.get(field(algorithm))?.to_str().ok()?.to_owned()));
        checksums.extend(Algorithm::ALL.into_iter().filter_map(sent));
    }
    intake.finish(&Expected { len_bytes, md5: announced.md5, checksums }).await.map_err(s3)
}

/// Why a body ended early. The library's errors are told apart by their text only.
fn broken(error: &(dyn std::error::Error + Send + Sync)) -> S3Error {
    let text = error.to_string();
    let code = match () {
        () if text.contains("Sha256Mismatch") => {
            // The library has no name for S3's `XAmzContentSHA256Mismatch`.
            let mut answer = S3Error::with_message(S3ErrorCode::Custom("XAmzContentSHA256Mismatch".into()), text);
            answer.set_status_code(http::StatusCode::BAD_REQUEST);
            return answer;
        }
        () if text.contains("SignatureMismatch") => S3ErrorCode::SignatureDoesNotMatch,
        () => S3ErrorCode::IncompleteBody,
    };
    S3Error::with_message(code, text)
}

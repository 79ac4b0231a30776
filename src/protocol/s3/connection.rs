//! One request on a connection: between `hyper` and `s3s`.
//!
//! Invariant: a connection on which a request's body was left unread is closed, and the answer says so. (A refusal before
//! the body: the client may wait for `100 Continue`, or be sending still.) So is one where `100 Continue` was expected and
//! there was nothing to continue with: botocore 1.4x takes the next answer on it for that one.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CONNECTION, EXPECT, HeaderValue};
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use s3s::HttpError;
use s3s::service::S3Service;

/// Answers one request.
pub async fn answer(service: S3Service, request: Request<Incoming>) -> Result<Response<s3s::Body>, HttpError> {
    let empty = request.body().is_end_stream();
    let nothing_to_continue = empty && request.headers().contains_key(EXPECT);
    let ended = Arc::new(AtomicBool::new(empty));
    let request = request.map(|inner| s3s::Body::http_body(Watched { inner, ended: ended.clone() }));
    let mut response = service.call(request).await?;
    if nothing_to_continue || !ended.load(Ordering::Relaxed) {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}

/// A body that tells when it was read to its end.
struct Watched {
    inner: Incoming,
    ended: Arc<AtomicBool>,
}

impl Body for Watched {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = Pin::new(&mut self.inner).poll_frame(context);
        if matches!(frame, Poll::Ready(None)) || self.inner.is_end_stream() {
            self.ended.store(true, Ordering::Relaxed);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

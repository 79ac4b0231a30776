//! The wire of the embedded S3 endpoint: HTTP and S3's REST API (crate `s3s`: SigV4 and presigned URLs, XML) in front of
//! [`Local`].
//!
//! What lives here: [`serve`], its [`Settings`], and the table of operations. Beside it: `buckets`, `objects`, `uploads` and
//! `listing` (what each operation does), `connection`, `body` (bodies on their way in), `convert` (S3's words to the store's and back),
//! `error` (the one map from the store's errors to S3's codes), `credentials` (the file with the keys).
//!
//! Invariants:
//! - Path-style addresses; every request is signed with the one pair of keys, or refused.
//! - Bodies stream both ways; a connection's memory does not depend on the size of an object.
//! - What is not built answers `NotImplemented` rather than pretending, encryption and access control lists included.

mod body;
mod buckets;
mod connection;
mod convert;
pub mod credentials;
mod error;
mod listing;
mod objects;
mod uploads;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use s3s::auth::{S3Auth, SecretKey};
use s3s::dto::*;
use s3s::service::S3ServiceBuilder;
use s3s::{S3, S3Request, S3Response, S3Result};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::store::object::local::Local;

/// How long a client may take to send a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// The most bytes of a request's head.
const HEAD_BYTES_MAX: usize = 128 << 10;
/// The most header fields of a request.
const HEADERS_MAX: usize = 128;
/// The pause after a connection could not be accepted (too many open files).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How the endpoint is served.
#[derive(Clone)]
pub struct Settings {
    /// The access key that requests are signed with.
    pub access_key: String,
    /// Its secret.
    pub secret_key: String,
    /// The region that buckets say they are in. Requests may be signed for any.
    pub region: String,
    /// The most connections at once; others wait to be accepted.
    pub connections_max: usize,
    /// How long requests under way may take to finish once the endpoint is told to stop.
    pub drain: Duration,
}

impl Settings {
    /// Settings with the defaults for all but the keys.
    pub fn new(access_key: &str, secret_key: &str) -> Self {
        Self {
            access_key: access_key.into(),
            secret_key: secret_key.into(),
            region: "us-east-1".into(),
            connections_max: 1024,
            drain: Duration::from_secs(10),
        }
    }
}

/// Serves `local` on `listener` until `stop`, then lets requests under way finish.
///
/// # Errors
/// None after the listener is bound; in the signature for those to come.
pub async fn serve(listener: TcpListener, local: Arc<Local>, settings: Settings, stop: CancellationToken) -> io::Result<()> {
    let mut builder = S3ServiceBuilder::new(Endpoint { local, region: settings.region.clone() });
    builder.set_auth(Keys { access: settings.access_key.clone(), secret: settings.secret_key.as_str().into() });
    let service = builder.build();
    let graceful = GracefulShutdown::new();
    let slots = Arc::new(Semaphore::new(settings.connections_max));
    let mut connections = JoinSet::new();
    while let Some((stream, slot)) = accept(&listener, &slots, &stop).await {
        let service = service.clone();
        let answer = service_fn(move |request| connection::answer(service.clone(), request));
        let connection = graceful.watch(http().serve_connection(TokioIo::new(stream), answer));
        connections.spawn(async move {
            let _slot = slot;
            if let Err(error) = connection.await {
                tracing::debug!(%error, "an S3 connection broke");
            }
        });
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    if tokio::time::timeout(settings.drain, graceful.shutdown()).await.is_err() {
        tracing::warn!("S3 requests that did not finish in time were cut off");
    }
    connections.shutdown().await;
    Ok(())
}

fn http() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(HEAD_BYTES_MAX).max_headers(HEADERS_MAX);
    builder
}

/// The next connection; `None` once it is time to stop.
async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
    stop: &CancellationToken,
) -> Option<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let next = async {
        // The semaphore is never closed.
        let slot = slots.clone().acquire_owned().await.ok()?;
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(%error, "no TCP_NODELAY");
                    }
                    return Some((stream, slot));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept an S3 connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        biased;
        () = stop.cancelled() => None,
        next = next => next,
    }
}

/// The one pair of keys.
struct Keys {
    access: String,
    secret: SecretKey,
}

#[async_trait::async_trait]
impl S3Auth for Keys {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        if access_key == self.access { Ok(self.secret.clone()) } else { Err(s3s::s3_error!(InvalidAccessKeyId)) }
    }
}

/// The store, as `s3s` calls it.
struct Endpoint {
    local: Arc<Local>,
    region: String,
}

/// The operations that are built, each by a function of the same name; all others answer `NotImplemented`.
macro_rules! operations {
    ($($module:ident :: $name:ident ($input:ident) -> $output:ident;)*) => {
        #[async_trait::async_trait]
        impl S3 for Endpoint {
            $(async fn $name(&self, request: S3Request<$input>) -> S3Result<S3Response<$output>> {
                $module::$name(self, request).await
            })*
        }
    };
}

operations! {
    buckets::create_bucket(CreateBucketInput) -> CreateBucketOutput;
    buckets::delete_bucket(DeleteBucketInput) -> DeleteBucketOutput;
    buckets::head_bucket(HeadBucketInput) -> HeadBucketOutput;
    buckets::list_buckets(ListBucketsInput) -> ListBucketsOutput;
    buckets::get_bucket_location(GetBucketLocationInput) -> GetBucketLocationOutput;
    buckets::get_bucket_versioning(GetBucketVersioningInput) -> GetBucketVersioningOutput;
    buckets::put_bucket_versioning(PutBucketVersioningInput) -> PutBucketVersioningOutput;
    listing::list_objects(ListObjectsInput) -> ListObjectsOutput;
    listing::list_objects_v2(ListObjectsV2Input) -> ListObjectsV2Output;
    listing::list_object_versions(ListObjectVersionsInput) -> ListObjectVersionsOutput;
    objects::get_object(GetObjectInput) -> GetObjectOutput;
    objects::head_object(HeadObjectInput) -> HeadObjectOutput;
    objects::get_object_attributes(GetObjectAttributesInput) -> GetObjectAttributesOutput;
    objects::put_object(PutObjectInput) -> PutObjectOutput;
    objects::copy_object(CopyObjectInput) -> CopyObjectOutput;
    objects::delete_object(DeleteObjectInput) -> DeleteObjectOutput;
    objects::delete_objects(DeleteObjectsInput) -> DeleteObjectsOutput;
    objects::get_object_tagging(GetObjectTaggingInput) -> GetObjectTaggingOutput;
    objects::put_object_tagging(PutObjectTaggingInput) -> PutObjectTaggingOutput;
    objects::delete_object_tagging(DeleteObjectTaggingInput) -> DeleteObjectTaggingOutput;
    uploads::create_multipart_upload(CreateMultipartUploadInput) -> CreateMultipartUploadOutput;
    uploads::upload_part(UploadPartInput) -> UploadPartOutput;
    uploads::upload_part_copy(UploadPartCopyInput) -> UploadPartCopyOutput;
    uploads::complete_multipart_upload(CompleteMultipartUploadInput) -> CompleteMultipartUploadOutput;
    uploads::abort_multipart_upload(AbortMultipartUploadInput) -> AbortMultipartUploadOutput;
    uploads::list_parts(ListPartsInput) -> ListPartsOutput;
    uploads::list_multipart_uploads(ListMultipartUploadsInput) -> ListMultipartUploadsOutput;
}

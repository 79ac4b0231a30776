//! How decorators wrap a bucket: a [`Layer`] is written once around *a request*, and [`layered`] puts it around all of them.
//!
//! What lives here: [`Kind`] (the requests by name), [`Request`] (what a layer may know of one), [`Answer`], [`Layer`],
//! and [`stack`], the one place that composes the layers of a running gateway:
//!
//! ```text
//!   retry     outermost: each attempt below is a request of its own
//!   limit     a slot and bytes per attempt; nobody holds a slot while a retry waits
//!   meter     counts what is really sent, and its latency without our own queueing
//!   fault     tests only: below the meter, so that a request that fails counts
//!   bucket    S3, a directory, memory
//! ```
//!
//! Invariant: a layer changes when, whether and how often a request is made, never what it asks for.

use std::future::Future;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::fault::Faults;
use super::limit::{self, Limit};
use super::meter::Meter;
use super::retry::{self, Retry};
use super::{
    Attributes, Body, Capabilities, CopySource, ETag, Head, ListPage, ListRequest, ObjectError, ObjectStore, Outcome, Part,
    PendingUpload, Precondition, SharedStore, UploadId, Written,
};

/// The requests of an [`ObjectStore`], by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "each is the method of that name")]
pub enum Kind {
    Head,
    Get,
    Put,
    Copy,
    Delete,
    DeleteMany,
    List,
    MultipartBegin,
    MultipartPart,
    MultipartCopy,
    MultipartCommit,
    MultipartAbort,
    MultipartList,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Head,
        Self::Get,
        Self::Put,
        Self::Copy,
        Self::Delete,
        Self::DeleteMany,
        Self::List,
        Self::MultipartBegin,
        Self::MultipartPart,
        Self::MultipartCopy,
        Self::MultipartCommit,
        Self::MultipartAbort,
        Self::MultipartList,
    ];

    /// Its name, as in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Head => "head",
            Self::Get => "get",
            Self::Put => "put",
            Self::Copy => "copy",
            Self::Delete => "delete",
            Self::DeleteMany => "delete_many",
            Self::List => "list",
            Self::MultipartBegin => "multipart_begin",
            Self::MultipartPart => "multipart_part",
            Self::MultipartCopy => "multipart_copy",
            Self::MultipartCommit => "multipart_commit",
            Self::MultipartAbort => "multipart_abort",
            Self::MultipartList => "multipart_list",
        }
    }

    /// Whether it changes nothing.
    pub fn reads(self) -> bool {
        matches!(self, Self::Head | Self::Get | Self::List | Self::MultipartList)
    }

    /// What a request of this kind is known to have done when no answer came.
    pub fn unanswered(self) -> Outcome {
        if self.reads() { Outcome::Refused } else { Outcome::Unknown }
    }
}

/// What a layer may know of a request.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Which.
    pub kind: Kind,
    /// The key that it reads or writes, the prefix of a listing, the first key of `delete_many`.
    pub key: &'a str,
    /// The other keys of `delete_many`.
    pub more: &'a [(String, Option<ETag>)],
    /// Bytes that are sent.
    pub up_bytes: u64,
    /// Bytes that are asked for; `None` where that is not known before the answer.
    pub down_bytes: Option<u64>,
    /// Whether making it twice does what making it once does, whatever the first answer was.
    pub repeatable: bool,
}

impl<'a> Request<'a> {
    fn new(kind: Kind, key: &'a str) -> Self {
        Self { kind, key, more: &[], up_bytes: 0, down_bytes: Some(0), repeatable: true }
    }

    fn guarded(self, guarded: bool) -> Self {
        Self { repeatable: !guarded, ..self }
    }

    fn sending(self, body: &Body) -> Self {
        Self { up_bytes: body.len(), ..self }
    }

    /// The error of this request where nobody answered.
    pub fn no_answer(&self, reason: &str) -> ObjectError {
        ObjectError::Unavailable { reason: reason.to_owned(), outcome: self.kind.unanswered() }
    }
}

/// What a layer may know of an answer.
pub trait Answer: Send {
    /// Bytes of objects in it.
    fn down_bytes(&self) -> u64 {
        0
    }

    /// Cuts its body off after `keep` bytes.
    fn truncate(&mut self, _keep: u64) {}
}

impl Answer for (Head, Bytes) {
    fn down_bytes(&self) -> u64 {
        self.1.len() as u64
    }

    fn truncate(&mut self, keep: u64) {
        self.1.truncate(usize::try_from(keep).unwrap_or(usize::MAX));
    }
}

impl Answer for () {}
impl Answer for Head {}
impl Answer for ListPage {}
impl Answer for Part {}
impl Answer for UploadId {}
impl Answer for Vec<(String, ObjectError)> {}
impl Answer for Vec<PendingUpload> {}
impl Answer for Written {}

/// Something that is done around every request.
pub trait Layer: Send + Sync + 'static {
    /// Makes the request by `call`: once, later, several times or not at all.
    fn around<T, C, F>(&self, request: Request<'_>, call: C) -> impl Future<Output = Result<T, ObjectError>> + Send
    where
        T: Answer,
        C: Fn() -> F + Send + Sync,
        F: Future<Output = Result<T, ObjectError>> + Send;
}

/// `store` with `layer` around each of its requests. The layer stays in its maker's hands too.
pub fn layered<L: Layer>(store: SharedStore, layer: Arc<L>) -> SharedStore {
    Arc::new(Layered { inner: store, layer })
}

struct Layered<L> {
    inner: SharedStore,
    layer: Arc<L>,
}

/// What the layers of a running gateway are set to.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// How failed requests are repeated.
    pub retry: retry::Settings,
    /// How much is done at a time.
    pub limit: limit::Settings,
}

/// A bucket with all its layers, and the handles of those that somebody asks or changes later.
#[derive(Clone)]
pub struct Stack {
    /// The bucket as everybody above uses it.
    pub store: SharedStore,
    /// What was sent.
    pub meter: Arc<Meter>,
    /// Concurrency and bandwidth, to change at run time.
    pub limit: Arc<Limit>,
}

/// Composes the layers in the order of this file's header. `bucket` labels its metrics.
pub fn stack(store: SharedStore, bucket: &str, settings: &Settings, faults: Option<Arc<Faults>>) -> Stack {
    let meter = Arc::new(Meter::new(bucket));
    let limit = Arc::new(Limit::new(settings.limit.clone()));
    let store = match faults {
        Some(faults) => layered(store, faults),
        None => store,
    };
    let store = layered(store, meter.clone());
    let store = layered(store, limit.clone());
    let store = layered(store, Arc::new(Retry::new(settings.retry.clone())));
    Stack { store, meter, limit }
}

#[async_trait]
impl<L: Layer> ObjectStore for Layered<L> {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn ready(&self) -> Result<(), ObjectError> {
        self.inner.ready().await
    }

    async fn head(&self, key: &str) -> Result<Head, ObjectError> {
        self.layer.around(Request::new(Kind::Head, key), || self.inner.head(key)).await
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>, expect: Option<&ETag>) -> Result<(Head, Bytes), ObjectError> {
        let down_bytes = range.as_ref().map(|range| range.end.saturating_sub(range.start));
        let request = Request { down_bytes, ..Request::new(Kind::Get, key) };
        self.layer.around(request, || self.inner.get(key, range.clone(), expect)).await
    }

    async fn put(
        &self,
        key: &str,
        body: Body,
        attributes: &Attributes,
        precondition: &Precondition,
    ) -> Result<Written, ObjectError> {
        let request = Request::new(Kind::Put, key).sending(&body).guarded(*precondition != Precondition::None);
        self.layer.around(request, || self.inner.put(key, body.clone(), attributes, precondition)).await
    }

    async fn copy(
        &self,
        source: &CopySource,
        key: &str,
        attributes: Option<&Attributes>,
        precondition: &Precondition,
    ) -> Result<Written, ObjectError> {
        // A pinned source is also the guard of a target in its own place: a copy may change the ETag.
        let in_place = source.key == key && source.etag.is_some();
        let request = Request::new(Kind::Copy, key).guarded(in_place || *precondition != Precondition::None);
        self.layer.around(request, || self.inner.copy(source, key, attributes, precondition)).await
    }

    async fn delete(&self, key: &str, expect: Option<&ETag>) -> Result<(), ObjectError> {
        let request = Request::new(Kind::Delete, key).guarded(expect.is_some());
        self.layer.around(request, || self.inner.delete(key, expect)).await
    }

    async fn delete_many(&self, keys: &[(String, Option<ETag>)]) -> Result<Vec<(String, ObjectError)>, ObjectError> {
        let first = keys.first().map_or("", |(key, _)| key.as_str());
        let guarded = keys.iter().any(|(_, expect)| expect.is_some());
        let request = Request { more: keys.get(1..).unwrap_or_default(), ..Request::new(Kind::DeleteMany, first) };
        self.layer.around(request.guarded(guarded), || self.inner.delete_many(keys)).await
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage, ObjectError> {
        self.layer.around(Request::new(Kind::List, &request.prefix), || self.inner.list(request)).await
    }

    async fn multipart_begin(&self, key: &str, attributes: &Attributes) -> Result<UploadId, ObjectError> {
        // A second upload whose first answer was lost changes no object, but who began it wants to know that there may be two.
        let request = Request::new(Kind::MultipartBegin, key).guarded(true);
        self.layer.around(request, || self.inner.multipart_begin(key, attributes)).await
    }

    async fn multipart_part(&self, key: &str, upload: &UploadId, number: u32, body: Body) -> Result<Part, ObjectError> {
        let request = Request::new(Kind::MultipartPart, key).sending(&body);
        self.layer.around(request, || self.inner.multipart_part(key, upload, number, body.clone())).await
    }

    async fn multipart_copy(
        &self,
        key: &str,
        upload: &UploadId,
        number: u32,
        source: &CopySource,
        range: Range<u64>,
    ) -> Result<Part, ObjectError> {
        let request = Request::new(Kind::MultipartCopy, key);
        self.layer.around(request, || self.inner.multipart_copy(key, upload, number, source, range.clone())).await
    }

    async fn multipart_commit(
        &self,
        key: &str,
        upload: &UploadId,
        parts: &[Part],
        precondition: &Precondition,
    ) -> Result<Written, ObjectError> {
        // Without a condition too: the second commit finds no upload and cannot tell why.
        let request = Request::new(Kind::MultipartCommit, key).guarded(true);
        self.layer.around(request, || self.inner.multipart_commit(key, upload, parts, precondition)).await
    }

    async fn multipart_abort(&self, key: &str, upload: &UploadId) -> Result<(), ObjectError> {
        self.layer.around(Request::new(Kind::MultipartAbort, key), || self.inner.multipart_abort(key, upload)).await
    }

    async fn multipart_list(&self, prefix: &str) -> Result<Vec<PendingUpload>, ObjectError> {
        self.layer.around(Request::new(Kind::MultipartList, prefix), || self.inner.multipart_list(prefix)).await
    }
}

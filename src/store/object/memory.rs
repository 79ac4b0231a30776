//! A bucket in memory, with all of S3's semantics that Tidegate relies on: the world of simulated tests.
//!
//! What lives here: [`MemoryStore`], its test accessors, and the [`ObjectStore`] over it. `memory/bucket.rs` is what a bucket
//! does (synchronous), `memory/uploads.rs` its multipart uploads, `memory/list.rs` its listings.
//!
//! Invariants:
//! - Deterministic: the same calls on the same [`Clock`] give the same keys, ETags, versions and upload ids.
//! - A call takes effect at once, wholly or not at all, and never waits: delay, loss and reordering are `fault`'s.
//! - [`Capabilities`] are not only told but lived: without `conditional_put` conditions are ignored in silence, as endpoints that
//!   lack them do; without `part_copy` it is refused; with `versioned` overwritten and deleted objects stay as versions.
//! - What S3 forgets is forgotten here: `LastModified` has whole seconds, an ACL is never read back, `STANDARD` is no class.

mod bucket;
mod list;
#[cfg(test)]
mod tests;
mod uploads;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use super::{
    Attributes, Body, Capabilities, CopySource, ETag, Head, ListPage, ListRequest, ObjectError, ObjectStore, Outcome, Part,
    PendingUpload, Precondition, UploadId, Written,
};
use crate::base::clock::{Clock, SimulatedClock};
use bucket::Bucket;
pub use bucket::{Object, Version};

/// One bucket in memory. Shared by reference; outlives the gateways that a test starts and kills on it.
pub struct MemoryStore {
    clock: Arc<dyn Clock>,
    capabilities: Capabilities,
    /// Its users do not know yet what it does.
    unknown: AtomicBool,
    bucket: Mutex<Bucket>,
}

impl Default for MemoryStore {
    /// As AWS is, at the beginning of 2025, with parts from one byte on.
    fn default() -> Self {
        let start_ns = 1_735_689_600_000_000_000;
        Self::new(Arc::new(SimulatedClock::new(start_ns)), Capabilities { part_bytes_min: 1, ..Capabilities::AWS })
    }
}

impl MemoryStore {
    /// An empty bucket that takes `LastModified` from `clock` and does what `capabilities` says.
    pub fn new(clock: Arc<dyn Clock>, capabilities: Capabilities) -> Self {
        Self { clock, capabilities, unknown: AtomicBool::new(false), bucket: Mutex::default() }
    }

    /// [`MemoryStore::default`], keeping versions.
    pub fn versioned() -> Self {
        let plain = Self::default();
        Self { capabilities: Capabilities { versioned: true, ..plain.capabilities }, ..plain }
    }

    /// From now on its users know, or do not know, what it does; that it does in any case.
    pub fn set_unknown(&self, unknown: bool) {
        self.unknown.store(unknown, Ordering::SeqCst);
    }

    /// All keys, in order.
    pub fn keys(&self) -> Vec<String> {
        self.bucket.lock().objects.keys().cloned().collect()
    }

    /// The object at `key`, outside any request.
    pub fn object(&self, key: &str) -> Option<Arc<Object>> {
        self.bucket.lock().objects.get(key).cloned()
    }

    /// Everything that was ever at `key`, oldest first; empty where the bucket keeps no versions.
    pub fn versions(&self, key: &str) -> Vec<Version> {
        self.bucket.lock().versions.get(key).cloned().unwrap_or_default()
    }

    /// The keys of multipart uploads that are neither completed nor aborted.
    pub fn pending(&self) -> Vec<String> {
        self.bucket.lock().uploads.values().map(|upload| upload.key.clone()).collect()
    }

    /// Bytes of all current objects.
    pub fn total_bytes(&self) -> u64 {
        self.bucket.lock().objects.values().map(|object| object.head.size_bytes).sum()
    }

    /// Ends a restore of an archived object: it is readable from now on. Whether it was there.
    pub fn restore(&self, key: &str) -> bool {
        self.bucket.lock().restore(key)
    }

    fn now_ns(&self) -> i64 {
        let now_ns = self.clock.now_ns();
        now_ns - now_ns.rem_euclid(1_000_000_000)
    }

    /// The condition as this bucket honours it.
    fn honoured(has: bool, precondition: &Precondition) -> Precondition {
        if has { precondition.clone() } else { Precondition::None }
    }
}

#[async_trait]
impl ObjectStore for MemoryStore {
    fn capabilities(&self) -> Capabilities {
        let plain =
            Capabilities { conditional_put: false, conditional_copy: false, conditional_delete: false, ..self.capabilities };
        if self.unknown.load(Ordering::SeqCst) { plain } else { self.capabilities }
    }

    async fn ready(&self) -> Result<(), ObjectError> {
        let reason = "it is not known yet what it can do".to_owned();
        let unknown = self.unknown.load(Ordering::SeqCst);
        if unknown { Err(ObjectError::Unavailable { reason, outcome: Outcome::Refused }) } else { Ok(()) }
    }

    async fn head(&self, key: &str) -> Result<Head, ObjectError> {
        self.bucket.lock().objects.get(key).map(|object| object.head.clone()).ok_or(ObjectError::NotFound)
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>, expect: Option<&ETag>) -> Result<(Head, Bytes), ObjectError> {
        let source = CopySource { key: key.to_owned(), etag: expect.cloned(), version: None };
        let object = self.bucket.lock().source(&source)?;
        let size_bytes = object.head.size_bytes;
        let range = range.unwrap_or(0..size_bytes);
        let start = range.start.min(size_bytes);
        let end = range.end.clamp(start, size_bytes);
        Ok((object.head.clone(), object.bytes.slice(start as usize..end as usize)))
    }

    async fn put(
        &self,
        key: &str,
        body: Body,
        attributes: &Attributes,
        precondition: &Precondition,
    ) -> Result<Written, ObjectError> {
        if body.len() > self.capabilities.part_bytes_max {
            return Err(ObjectError::Invalid("EntityTooLarge".into()));
        }
        let precondition = Self::honoured(self.capabilities.conditional_put, precondition);
        let bytes = body.into_bytes();
        let etag = bucket::etag_of(&bytes);
        let attributes = bucket::stored(attributes)?;
        let now_ns = self.now_ns();
        self.bucket.lock().write(key, bytes, etag, attributes, &precondition, now_ns, self.capabilities.versioned)
    }

    async fn copy(
        &self,
        source: &CopySource,
        key: &str,
        attributes: Option<&Attributes>,
        precondition: &Precondition,
    ) -> Result<Written, ObjectError> {
        let precondition = Self::honoured(self.capabilities.conditional_copy, precondition);
        let replaced = attributes.map(bucket::stored).transpose()?;
        let now_ns = self.now_ns();
        let mut bucket = self.bucket.lock();
        let from = bucket.source(source)?;
        if from.head.size_bytes > self.capabilities.part_bytes_max {
            return Err(ObjectError::Invalid("the source of a copy is too large".into()));
        }
        if replaced.is_none() && source.key == key && source.version.is_none() {
            return Err(ObjectError::Invalid("a copy onto itself that changes nothing".into()));
        }
        let attributes = replaced.unwrap_or_else(|| bucket::kept(&from.head.attributes));
        // A copy is one piece again: the ETag of an object of parts does not come along.
        let etag = match &from.head.etag {
            Some(etag) if !etag.0.contains('-') => etag.clone(),
            _ => bucket::etag_of(&from.bytes),
        };
        bucket.write(key, from.bytes.clone(), etag, attributes, &precondition, now_ns, self.capabilities.versioned)
    }

    async fn delete(&self, key: &str, expect: Option<&ETag>) -> Result<(), ObjectError> {
        let expect = expect.filter(|_| self.capabilities.conditional_delete);
        self.bucket.lock().delete(key, expect, self.capabilities.versioned)
    }

    async fn delete_many(&self, keys: &[(String, Option<ETag>)]) -> Result<Vec<(String, ObjectError)>, ObjectError> {
        if keys.len() > 1_000 {
            return Err(ObjectError::Invalid("more than 1,000 keys in one DeleteObjects".into()));
        }
        let mut bucket = self.bucket.lock();
        let mut failed = Vec::new();
        for (key, expect) in keys {
            let expect = expect.as_ref().filter(|_| self.capabilities.conditional_delete);
            if let Err(error) = bucket.delete(key, expect, self.capabilities.versioned) {
                failed.push((key.clone(), error));
            }
        }
        Ok(failed)
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage, ObjectError> {
        list::page(&self.bucket.lock().objects, request)
    }

    async fn multipart_begin(&self, key: &str, attributes: &Attributes) -> Result<UploadId, ObjectError> {
        let attributes = bucket::stored(attributes)?;
        let now_ns = self.now_ns();
        self.bucket.lock().begin(key, attributes, now_ns)
    }

    async fn multipart_part(&self, key: &str, upload: &UploadId, number: u32, body: Body) -> Result<Part, ObjectError> {
        self.bucket.lock().part(key, upload, number, body.into_bytes(), &self.capabilities)
    }

    async fn multipart_copy(
        &self,
        key: &str,
        upload: &UploadId,
        number: u32,
        source: &CopySource,
        range: Range<u64>,
    ) -> Result<Part, ObjectError> {
        if !self.capabilities.part_copy {
            return Err(ObjectError::Unsupported("UploadPartCopy".into()));
        }
        let mut bucket = self.bucket.lock();
        let from = bucket.source(source)?;
        if range.is_empty() || range.end > from.head.size_bytes {
            return Err(ObjectError::Invalid("the range of a part copy is not within its source".into()));
        }
        let bytes = from.bytes.slice(range.start as usize..range.end as usize);
        bucket.part(key, upload, number, bytes, &self.capabilities)
    }

    async fn multipart_commit(
        &self,
        key: &str,
        upload: &UploadId,
        parts: &[Part],
        precondition: &Precondition,
    ) -> Result<Written, ObjectError> {
        let precondition = Self::honoured(self.capabilities.conditional_put, precondition);
        let now_ns = self.now_ns();
        self.bucket.lock().commit(key, upload, parts, &precondition, now_ns, &self.capabilities)
    }

    async fn multipart_abort(&self, key: &str, upload: &UploadId) -> Result<(), ObjectError> {
        self.bucket.lock().abort(key, upload);
        Ok(())
    }

    async fn multipart_list(&self, prefix: &str) -> Result<Vec<PendingUpload>, ObjectError> {
        Ok(self.bucket.lock().pending(prefix))
    }
}

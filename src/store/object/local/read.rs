//! Reading objects: conditions (RFC 9110 §13), ranges (RFC 9110 §14), and bytes as a stream in bounded memory.

use std::fs::File;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};

use super::digest::{Algorithm, Checksums, Digester};
use super::extent::Extents;
use super::files::{Files, blocking};
use super::garbage::Reading;
use super::index::{Held, ObjectRow};
use super::types::{ObjectInfo, Source, VersionId, Versioning};
use super::{Local, LocalError};

/// The bytes that a stream reads at once.
const CHUNK_BYTES: u64 = 512 << 10;

/// An object's bytes on their way out.
pub type ByteStream = Pin<Box<dyn Stream<Item = Result<Bytes, LocalError>> + Send + Sync>>;

/// What a reader, or the source of a copy, must be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    /// `If-Match`: an ETag, or `*`.
    pub matches: Option<String>,
    /// `If-None-Match`: an ETag, or `*`.
    pub none_matches: Option<String>,
    /// `If-Modified-Since`, nanoseconds since the Unix epoch.
    pub modified_since_ns: Option<i64>,
    /// `If-Unmodified-Since`, nanoseconds since the Unix epoch.
    pub unmodified_since_ns: Option<i64>,
}

impl Conditions {
    /// Evaluates in the order of RFC 9110 §13.2.2. `NotModified` is what a reader is told; a copy makes it a 412.
    fn check(&self, etag: &str, modified_ns: i64) -> Result<(), LocalError> {
        let matches = |want: &String| want == "*" || want == etag;
        match (&self.matches, self.unmodified_since_ns) {
            (Some(want), _) if !matches(want) => return Err(LocalError::PreconditionFailed),
            (None, Some(since)) if modified_ns > since => return Err(LocalError::PreconditionFailed),
            _ => {}
        }
        match (&self.none_matches, self.modified_since_ns) {
            (Some(unwanted), _) if matches(unwanted) => Err(LocalError::NotModified),
            (None, Some(since)) if modified_ns <= since => Err(LocalError::NotModified),
            _ => Ok(()),
        }
    }
}

/// `Range: bytes=…`, one range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeSpec {
    /// From a byte to a last one (inclusive), or to the end.
    From(u64, Option<u64>),
    /// The last so many bytes.
    Last(u64),
}

impl RangeSpec {
    /// The bytes of an object of `size_bytes` that are meant.
    ///
    /// # Errors
    /// `InvalidRange` where there is none.
    pub fn resolve(self, size_bytes: u64) -> Result<Range<u64>, LocalError> {
        let range = match self {
            Self::From(start, last) => start..last.map_or(size_bytes, |last| last.saturating_add(1).min(size_bytes)),
            Self::Last(count) => size_bytes.saturating_sub(count)..size_bytes,
        };
        if range.start < range.end { Ok(range) } else { Err(LocalError::InvalidRange(size_bytes)) }
    }
}

/// An object that is being read: its files stay until this is dropped.
pub struct Opened {
    /// What it is.
    pub info: ObjectInfo,
    /// The version's row, and where its bytes are.
    pub(super) id: i64,
    pub(super) held: Held,
    files: Arc<Files>,
    /// Dropped last.
    reading: Reading,
}

impl Opened {
    /// The bytes of `range`, as a stream.
    pub fn stream(self, range: Range<u64>) -> ByteStream {
        let extents = match self.held {
            Held::Inline(bytes) => {
                let bytes = cut(&bytes, &range);
                return Box::pin(futures_util::stream::once(std::future::ready(Ok(bytes))));
            }
            Held::Files(extents) => extents.slice(range.start, range.end),
        };
        let state = State { extents, at: 0, last: None, files: self.files, _reading: self.reading };
        Box::pin(futures_util::stream::try_unfold(state, State::next))
    }

    /// The bytes of `range` at once.
    ///
    /// # Errors
    /// The disk's, or `Damaged`.
    pub async fn bytes(self, range: Range<u64>) -> Result<Bytes, LocalError> {
        match self.held {
            Held::Inline(bytes) => Ok(cut(&bytes, &range)),
            Held::Files(extents) => {
                let (files, extents, reading) = (self.files, extents.slice(range.start, range.end), self.reading);
                blocking(move || {
                    let _reading = reading;
                    files.read(&extents, &mut None)
                })
                .await
            }
        }
    }
}

fn cut(bytes: &Bytes, range: &Range<u64>) -> Bytes {
    let at = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
    bytes.slice(at(range.start)..at(range.end).max(at(range.start)))
}

struct State {
    extents: Extents,
    at: u64,
    last: Option<(u64, File)>,
    files: Arc<Files>,
    _reading: Reading,
}

impl State {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, LocalError> {
        let extents = self.extents.slice(self.at, self.at + CHUNK_BYTES);
        if extents.count() == 0 {
            return Ok(None);
        }
        blocking(move || {
            let bytes = self.files.read(&extents, &mut self.last)?;
            self.at += bytes.len() as u64;
            Ok(Some((bytes, self)))
        })
        .await
    }
}

impl Local {
    /// An object's attributes.
    ///
    /// # Errors
    /// `NoSuchBucket`, `NoSuchKey`, `NoSuchVersion`, `IsMarker`, `PreconditionFailed`, `NotModified`, or the index's.
    pub async fn head(
        &self,
        bucket: &str,
        key: &str,
        version: Option<VersionId>,
        conditions: &Conditions,
    ) -> Result<ObjectInfo, LocalError> {
        let (info, _) = self.find(bucket, key, version, conditions).await?;
        Ok(info)
    }

    /// Opens an object to read.
    ///
    /// # Errors
    /// As [`Self::head`].
    pub async fn open_object(
        &self,
        bucket: &str,
        key: &str,
        version: Option<VersionId>,
        conditions: &Conditions,
    ) -> Result<Opened, LocalError> {
        let reading = self.garbage.read();
        let (info, row) = self.find(bucket, key, version, conditions).await?;
        Ok(Opened { info, id: row.id, held: row.held, files: self.files.clone(), reading })
    }

    /// Opens the source of a copy.
    pub(super) async fn open_source(&self, source: &Source) -> Result<Opened, LocalError> {
        match self.open_object(&source.bucket, &source.key, source.version, &source.conditions).await {
            Err(LocalError::NotModified) => Err(LocalError::PreconditionFailed),
            result => result,
        }
    }

    /// Finds a version that is not a marker.
    pub(super) async fn find(
        &self,
        bucket: &str,
        key: &str,
        version: Option<VersionId>,
        conditions: &Conditions,
    ) -> Result<(ObjectInfo, ObjectRow), LocalError> {
        let bucket = self.index.bucket(bucket)?;
        let missing = if version.is_some() { LocalError::NoSuchVersion } else { LocalError::NoSuchKey { marker: false } };
        let row = self.index.find(&bucket, key, version).await?.ok_or(missing)?;
        if row.marker {
            return Err(if version.is_some() { LocalError::IsMarker } else { LocalError::NoSuchKey { marker: true } });
        }
        conditions.check(&row.etag, row.modified_ns)?;
        let info = ObjectInfo {
            size_bytes: row.size_bytes,
            etag: row.etag.clone(),
            modified_ns: row.modified_ns,
            version: (bucket.versioning != Versioning::Off).then(|| row.version()),
            headers: row.headers.clone(),
            checksums: row.checksums.clone(),
            tags: row.tags.clone(),
            parts: row.etag.split_once('-').and_then(|(_, count)| count.parse().ok()),
        };
        Ok((info, row))
    }
}

/// ETag and checksum of bytes that are kept.
pub(super) async fn digest(mut stream: ByteStream, algorithm: Option<Algorithm>) -> Result<(String, Checksums), LocalError> {
    let mut digester = Digester::new(algorithm.as_slice());
    while let Some(bytes) = stream.next().await {
        digester.update(&bytes?);
    }
    let (md5, checksums) = digester.finish();
    Ok((hex::encode(md5), checksums))
}

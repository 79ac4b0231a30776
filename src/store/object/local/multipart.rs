//! Multipart uploads.

use std::collections::BTreeMap;
use std::ops::Range;

use super::digest::{Algorithm, Checksums};
use super::index::{AbortUpload, BeginUpload, CompleteUpload, Held, Kind, NewPart, PartRow, Position, PutPart};
use super::intake::{Content, Expected};
use super::listing::{Last, PAGE_MAX, Walk};
use super::read::digest;
use super::types::{Headers, Source, Stored, VersionId};
use super::write::check_tags;
use super::{BODY_BYTES_MAX, Local, LocalError, PARTS_MAX, name};

pub use super::index::NamedPart;

/// An upload to be.
#[derive(Clone, Debug, Default)]
pub struct Begin {
    /// The bucket.
    pub bucket: String,
    /// The key of the object to be.
    pub key: String,
    /// What is kept with its bytes.
    pub headers: Headers,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// The checksum that it and its parts are to have.
    pub algorithm: Option<Algorithm>,
    /// The checksum is to be that of all bytes, instead of one of the parts' checksums.
    pub full_object: bool,
}

/// A completion.
#[derive(Clone, Debug, Default)]
pub struct Complete {
    /// The parts, ascending.
    pub parts: Vec<NamedPart>,
    /// What the object that is there must be.
    pub requirement: super::Requirement,
    /// The length that the object must have, in bytes.
    pub size_bytes: Option<u64>,
    /// Checksums that the object must have.
    pub checksums: Vec<(Algorithm, String)>,
}

/// An upload in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadInfo {
    /// The key of the object to be.
    pub key: String,
    /// The upload's id.
    pub id: String,
    /// When it was begun, nanoseconds since the Unix epoch.
    pub initiated_ns: i64,
    /// Storage class; `None` is `STANDARD`.
    pub storage_class: Option<String>,
}

/// Which uploads to list.
#[derive(Clone, Debug, Default)]
pub struct UploadQuery {
    /// Only keys that begin with this.
    pub prefix: String,
    /// Fold at the first of these after the prefix.
    pub delimiter: Option<String>,
    /// Only what comes after this key…
    pub key_marker: Option<String>,
    /// … or after this upload of it.
    pub id_marker: Option<String>,
    /// At most so many entries, up to 1,000.
    pub limit: u32,
}

/// A page of uploads.
#[derive(Clone, Debug, Default)]
pub struct UploadPage {
    /// Uploads, by key, the oldest first.
    pub uploads: Vec<UploadInfo>,
    /// Folded prefixes.
    pub prefixes: Vec<String>,
    /// Key and id markers of the next page.
    pub next: Option<(String, Option<String>)>,
}

/// A part in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartInfo {
    /// Its number.
    pub number: u32,
    /// Length in bytes.
    pub size_bytes: u64,
    /// ETag without quotes.
    pub etag: String,
    /// Nanoseconds since the Unix epoch.
    pub modified_ns: i64,
    /// Its checksums.
    pub checksums: Checksums,
}

fn upload_name(id: i64) -> String {
    format!("{id:016x}")
}

fn upload_id(name: &str) -> Result<i64, LocalError> {
    i64::from_str_radix(name, 16).map_err(|_| LocalError::NoSuchUpload)
}

fn check_number(number: u32) -> Result<(), LocalError> {
    if (1..=PARTS_MAX).contains(&number) {
        Ok(())
    } else {
        Err(LocalError::InvalidArgument(format!("part numbers are 1 to {PARTS_MAX}")))
    }
}

impl Local {
    /// Begins an upload and gives its id.
    ///
    /// # Errors
    /// `NoSuchBucket`, `InvalidKey`, `MetadataTooLarge`, `InvalidTag`, or the index's.
    pub async fn begin(&self, begin: Begin) -> Result<String, LocalError> {
        name::check_key(&begin.key)?;
        begin.headers.check()?;
        check_tags(&begin.tags)?;
        let Begin { bucket, key, headers, tags, algorithm, full_object } = begin;
        let initiated_ns = self.now_ns();
        self.index.change(BeginUpload { bucket, key, initiated_ns, headers, tags, algorithm, full_object }).await.map(upload_name)
    }

    /// The checksum that an upload's parts are to have.
    ///
    /// # Errors
    /// `NoSuchBucket`, `NoSuchUpload`, or the index's.
    pub async fn upload_algorithm(&self, bucket: &str, key: &str, upload: &str) -> Result<Option<Algorithm>, LocalError> {
        let bucket = self.index.bucket(bucket)?;
        Ok(self.index.upload(&bucket, key, upload_id(upload)?).await?.algorithm)
    }

    /// Puts a part whose bytes were received by [`Local::intake_part`].
    ///
    /// # Errors
    /// `NoSuchBucket`, `NoSuchUpload`, `InvalidArgument`, or the index's.
    pub async fn put_part(
        &self,
        bucket: &str,
        key: &str,
        upload: &str,
        number: u32,
        content: Content,
    ) -> Result<PartInfo, LocalError> {
        let Held::Files(extents) = content.held else {
            return Err(LocalError::InvalidArgument("a part is received by intake_part".into()));
        };
        let part = PartRow {
            number,
            size_bytes: content.size_bytes,
            etag: content.md5,
            modified_ns: self.now_ns(),
            checksums: content.checksums,
            extents,
        };
        self.put_part_row((bucket, key, upload), part, content.fresh, None).await
    }

    async fn put_part_row(
        &self,
        (bucket, key, upload): (&str, &str, &str),
        part: PartRow,
        fresh: Option<super::files::Fresh>,
        source: Option<i64>,
    ) -> Result<PartInfo, LocalError> {
        check_number(part.number)?;
        let info = PartInfo {
            number: part.number,
            size_bytes: part.size_bytes,
            etag: part.etag.clone(),
            modified_ns: part.modified_ns,
            checksums: part.checksums.clone(),
        };
        let new = NewPart { bucket: bucket.into(), key: key.into(), upload: upload_id(upload)?, part };
        self.index.change(PutPart { new, fresh, source }).await?;
        Ok(info)
    }

    /// Makes a part of a range of an object (all, where `None`) without writing its bytes again; tells the version that was
    /// read. The bytes are read once, for the part's ETag.
    ///
    /// # Errors
    /// As [`Local::copy`] for the source, `InvalidRange`, `NoSuchUpload`, or the index's.
    pub async fn copy_part(
        &self,
        (bucket, key, upload): (&str, &str, &str),
        number: u32,
        source: &Source,
        range: Option<Range<u64>>,
    ) -> Result<(PartInfo, Option<VersionId>), LocalError> {
        check_number(number)?;
        let algorithm = self.upload_algorithm(bucket, key, upload).await?;
        let opened = self.open_source(source).await?;
        let (size_bytes, version) = (opened.info.size_bytes, opened.info.version);
        let range = range.unwrap_or(0..size_bytes);
        if range.end > size_bytes || range.start > range.end {
            return Err(LocalError::InvalidRange(size_bytes));
        }
        if range.end - range.start > BODY_BYTES_MAX {
            return Err(LocalError::EntityTooLarge);
        }
        let part = match &opened.held {
            Held::Inline(_) => {
                let mut intake = self.intake_part(algorithm.as_slice());
                intake.push(opened.bytes(range).await?).await?;
                let content = intake.finish(&Expected::default()).await?;
                self.put_part(bucket, key, upload, number, content).await?
            }
            Held::Files(extents) => {
                let (source, extents) = (opened.id, extents.slice(range.start, range.end));
                let (etag, checksums) = digest(opened.stream(range), algorithm).await?;
                let size_bytes = extents.len_bytes();
                let part = PartRow { number, size_bytes, etag, modified_ns: self.now_ns(), checksums, extents };
                self.put_part_row((bucket, key, upload), part, None, Some(source)).await?
            }
        };
        Ok((part, version))
    }

    /// Makes the object.
    ///
    /// # Errors
    /// `NoSuchUpload`, `InvalidPart`, `InvalidPartOrder`, `EntityTooSmall`, `BadDigest`, and as [`Local::put`].
    pub async fn complete(&self, bucket: &str, key: &str, upload: &str, complete: Complete) -> Result<Stored, LocalError> {
        let change = CompleteUpload {
            bucket: bucket.into(),
            key: key.into(),
            upload: upload_id(upload)?,
            parts: complete.parts,
            requirement: complete.requirement,
            modified_ns: self.now_ns(),
            size_bytes: complete.size_bytes,
            checksums: complete.checksums,
        };
        self.index.change(change).await
    }

    /// Forgets an upload.
    ///
    /// # Errors
    /// `NoSuchBucket`, `NoSuchUpload`, or the index's.
    pub async fn abort(&self, bucket: &str, key: &str, upload: &str) -> Result<(), LocalError> {
        let upload = upload_id(upload)?;
        self.index.change(AbortUpload { bucket: bucket.into(), key: key.into(), upload }).await
    }

    /// The parts after `after`, at most `limit` (up to 1,000), and whether there are more.
    ///
    /// # Errors
    /// `NoSuchBucket`, `NoSuchUpload`, or the index's.
    pub async fn list_parts(
        &self,
        bucket: &str,
        key: &str,
        upload: &str,
        after: u32,
        limit: u32,
    ) -> Result<(Vec<PartInfo>, bool), LocalError> {
        let bucket = self.index.bucket(bucket)?;
        let row = self.index.upload(&bucket, key, upload_id(upload)?).await?;
        let limit = limit.min(PAGE_MAX);
        let parts = self.index.parts(row.id, after, limit + 1).await?;
        let more = parts.len() > limit as usize && limit > 0;
        let info = |part: PartRow| PartInfo {
            number: part.number,
            size_bytes: part.size_bytes,
            etag: part.etag,
            modified_ns: part.modified_ns,
            checksums: part.checksums,
        };
        Ok((parts.into_iter().take(limit as usize).map(info).collect(), more))
    }

    /// A page of the uploads that are under way.
    ///
    /// # Errors
    /// `NoSuchBucket`, or the index's.
    pub async fn list_uploads(&self, bucket: &str, query: &UploadQuery) -> Result<UploadPage, LocalError> {
        let bucket = self.index.bucket(bucket)?;
        let walk = Walk { kind: Kind::Uploads, bucket: &bucket, prefix: &query.prefix, delimiter: query.delimiter.as_deref() };
        let start = match (&query.key_marker, &query.id_marker) {
            (Some(key), id) if !key.is_empty() => {
                let inside = id.as_ref().filter(|id| !id.is_empty()).map(|id| upload_id(id)).transpose()?;
                Position { inside: inside.map(|id| (key.clone(), id)), ..walk.after(key) }
            }
            _ => Position::default(),
        };
        let walked = walk.run(self, start, query.limit).await?;
        let next = walked.last.map(|last| match last {
            Last::Row(row) => (row.key, Some(upload_name(row.id))),
            Last::Prefix(prefix) => (prefix, None),
        });
        let info = |row: super::index::Shown| UploadInfo {
            key: row.key,
            id: upload_name(row.id),
            initiated_ns: row.modified_ns,
            storage_class: row.class,
        };
        Ok(UploadPage { uploads: walked.rows.into_iter().map(info).collect(), prefixes: walked.prefixes, next })
    }
}

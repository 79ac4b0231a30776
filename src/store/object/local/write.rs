//! Writing objects: put, copy, delete, tags.

use std::collections::BTreeMap;

use super::digest::Algorithm;
use super::index::{DeleteObject, Held, NewObject, PutObject, Retag};
use super::intake::{Content, Expected};
use super::read::{Opened, digest};
use super::types::{Deleted, Headers, MetadataDirective, ObjectInfo, Requirement, Source, Stored, VersionId};
use super::{BODY_BYTES_MAX, Conditions, Local, LocalError, name};

/// How often a copy whose source is replaced meanwhile begins again.
const COPY_TRIES: u32 = 4;
/// S3's bounds of an object's tags: number, characters of a key, of a value.
const TAGS_MAX: (usize, usize, usize) = (10, 128, 256);

/// What is put, besides its bytes.
#[derive(Clone, Debug, Default)]
pub struct Put {
    /// The bucket.
    pub bucket: String,
    /// The key.
    pub key: String,
    /// What is kept with the bytes.
    pub headers: Headers,
    /// Tags.
    pub tags: BTreeMap<String, String>,
    /// What the object that is there must be.
    pub requirement: Requirement,
}

/// A copy to be.
#[derive(Clone, Debug)]
pub struct Copy {
    /// From where.
    pub source: Source,
    /// The target's bucket.
    pub bucket: String,
    /// The target's key.
    pub key: String,
    /// Headers of the target.
    pub directive: MetadataDirective,
    /// A storage class for the target; `None` is the default, not the source's.
    pub storage_class: Option<String>,
    /// Tags of the target; `None` copies the source's.
    pub tags: Option<BTreeMap<String, String>>,
    /// What the target must be.
    pub requirement: Requirement,
    /// A checksum that the target is to have.
    pub algorithm: Option<Algorithm>,
}

impl Copy {
    /// An old version of an object may be copied onto the latest.
    fn changes_nothing(&self, source: &Headers) -> bool {
        let itself = self.source.bucket == self.bucket && self.source.key == self.key && self.source.version.is_none();
        let same_class = self.storage_class.is_none() || self.storage_class == source.storage_class;
        itself && same_class && matches!(self.directive, MetadataDirective::Copy)
    }
}

/// Refuses tags that S3 does not allow.
pub fn check_tags(tags: &BTreeMap<String, String>) -> Result<(), LocalError> {
    let (count, key_chars, value_chars) = TAGS_MAX;
    if tags.len() > count {
        return Err(LocalError::InvalidTag(format!("an object has at most {count} tags")));
    }
    let long = |(key, value): (&String, &String)| {
        key.is_empty() || key.chars().count() > key_chars || value.chars().count() > value_chars
    };
    if tags.iter().any(long) { Err(LocalError::InvalidTag("a tag is empty or too long".into())) } else { Ok(()) }
}

impl Local {
    /// Puts an object whose bytes were received.
    ///
    /// # Errors
    /// `NoSuchBucket`, `PreconditionFailed`, `NoSuchKey` for `If-Match` where nothing is, or the index's.
    pub async fn put(&self, put: Put, content: Content) -> Result<Stored, LocalError> {
        name::check_key(&put.key)?;
        put.headers.check()?;
        check_tags(&put.tags)?;
        let object = NewObject {
            bucket: put.bucket,
            key: put.key,
            size_bytes: content.size_bytes,
            etag: content.md5,
            modified_ns: self.now_ns(),
            headers: put.headers,
            checksums: content.checksums,
            tags: put.tags,
            held: content.held,
        };
        self.put_object(object, put.requirement, content.fresh, None).await
    }

    async fn put_object(
        &self,
        object: NewObject,
        requirement: Requirement,
        fresh: Option<super::files::Fresh>,
        source: Option<i64>,
    ) -> Result<Stored, LocalError> {
        let stored = Stored {
            etag: object.etag.clone(),
            version: None,
            size_bytes: object.size_bytes,
            modified_ns: object.modified_ns,
            checksums: object.checksums.clone(),
        };
        let version = self.index.change(PutObject { object, requirement, fresh, source }).await?;
        Ok(Stored { version, ..stored })
    }

    /// Copies an object without its bytes, and tells what was copied. The target keeps the source's ETag.
    ///
    /// # Errors
    /// As [`Self::head`] for the source and [`Self::put`] for the target; a source that is not as asked is
    /// `PreconditionFailed`.
    pub async fn copy(&self, copy: &Copy) -> Result<(Stored, ObjectInfo), LocalError> {
        name::check_key(&copy.key)?;
        check_tags(copy.tags.as_ref().unwrap_or(&BTreeMap::new()))?;
        let mut last = LocalError::SourceChanged;
        for _ in 0..COPY_TRIES {
            let source = self.open_source(&copy.source).await?;
            let info = source.info.clone();
            match self.copy_opened(copy, source).await {
                Err(LocalError::SourceChanged) => last = LocalError::SourceChanged,
                result => return Ok((result?, info)),
            }
        }
        Err(last)
    }

    async fn copy_opened(&self, copy: &Copy, source: Opened) -> Result<Stored, LocalError> {
        let info = source.info.clone();
        if info.size_bytes > BODY_BYTES_MAX {
            return Err(LocalError::EntityTooLarge);
        }
        if copy.changes_nothing(&info.headers) {
            return Err(LocalError::CopyToItself);
        }
        let mut headers = match &copy.directive {
            MetadataDirective::Copy => Headers { website_redirect: None, ..info.headers },
            MetadataDirective::Replace(headers) => (**headers).clone(),
        };
        headers.storage_class = copy.storage_class.clone();
        headers.check()?;
        let (id, held) = (source.id, source.held.clone());
        let mut checksums = info.checksums;
        if let Some(algorithm) = copy.algorithm.filter(|algorithm| checksums.composite || checksums.get(*algorithm).is_none()) {
            (_, checksums) = digest(source.stream(0..info.size_bytes), Some(algorithm)).await?;
        }
        let source = matches!(held, Held::Files(_)).then_some(id);
        let object = NewObject {
            bucket: copy.bucket.clone(),
            key: copy.key.clone(),
            size_bytes: info.size_bytes,
            etag: info.etag,
            modified_ns: self.now_ns(),
            headers,
            checksums,
            tags: copy.tags.clone().unwrap_or(info.tags),
            held,
        };
        self.put_object(object, copy.requirement.clone(), None, source).await
    }

    /// Deletes an object, or one version of it. Absent is fine; `expect` is the ETag that it must have if it is there.
    ///
    /// # Errors
    /// `NoSuchBucket`, `PreconditionFailed`, or the index's.
    pub async fn delete(
        &self,
        bucket: &str,
        key: &str,
        version: Option<VersionId>,
        expect: Option<&str>,
    ) -> Result<Deleted, LocalError> {
        name::check_key(key)?;
        let (bucket, key, expect) = (bucket.to_owned(), key.to_owned(), expect.map(str::to_owned));
        self.index.change(DeleteObject { bucket, key, version, expect, now_ns: self.now_ns() }).await
    }

    /// Replaces the tags of a version, else of the latest; tells which it was.
    ///
    /// # Errors
    /// As [`Self::head`], and `InvalidTag`.
    pub async fn set_tags(
        &self,
        bucket: &str,
        key: &str,
        version: Option<VersionId>,
        tags: BTreeMap<String, String>,
    ) -> Result<Option<VersionId>, LocalError> {
        check_tags(&tags)?;
        let (info, row) = self.find(bucket, key, version, &Conditions::default()).await?;
        self.index.change(Retag { id: row.id, tags }).await?;
        Ok(info.version)
    }

    /// Puts bytes that are in memory.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub async fn put_bytes(&self, put: Put, pieces: impl IntoIterator<Item = bytes::Bytes>) -> Result<Stored, LocalError> {
        let mut intake = self.intake(&[]);
        for piece in pieces {
            intake.push(piece).await?;
        }
        let content = intake.finish(&Expected::default()).await?;
        self.put(put, content).await
    }
}

//! One bucket of the store as an [`ObjectStore`], without HTTP between.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::multipart::{Begin, Complete, NamedPart, UploadQuery};
use super::types::{Headers, MetadataDirective, ObjectInfo, Requirement, Source, Stored, VersionId, Versioning};
use super::write::{Copy, Put};
use super::{Conditions, Expected, KeyQuery, Local, LocalError, PART_BYTES_MIN, PARTS_MAX};
use crate::store::object::{
    Attributes, Body, Capabilities, CopySource, ETag, Head, ListPage, ListRequest, Listed, ObjectError, ObjectStore, Outcome,
    Part, PendingUpload, Precondition, UploadId, Written,
};

/// The most uploads that [`ObjectStore::multipart_list`] tells.
const UPLOADS_MAX: usize = 10_000;
const PAGE: u32 = 1000;

/// A bucket of a [`Local`] store.
#[derive(Clone)]
pub struct Bucket {
    local: Arc<Local>,
    name: String,
}

impl Bucket {
    /// The bucket `name`, which need not exist yet.
    pub fn new(local: Arc<Local>, name: &str) -> Self {
        Self { local, name: name.into() }
    }

    fn source(&self, source: &CopySource) -> Result<Source, LocalError> {
        Ok(Source {
            bucket: self.name.clone(),
            key: source.key.clone(),
            version: source.version.as_deref().map(str::parse::<VersionId>).transpose()?,
            conditions: matching(source.etag.as_ref()),
        })
    }
}

fn matching(etag: Option<&ETag>) -> Conditions {
    Conditions { matches: etag.map(|etag| etag.0.clone()), ..Conditions::default() }
}

fn requirement(precondition: &Precondition) -> Requirement {
    match precondition {
        Precondition::None => Requirement::default(),
        Precondition::Absent => Requirement { absent: true, matches: None },
        Precondition::Matches(etag) => Requirement { absent: false, matches: Some(etag.0.clone()) },
    }
}

fn headers(attributes: &Attributes) -> Result<Headers, LocalError> {
    if attributes.encryption.is_some() || attributes.kms_key.is_some() {
        return Err(LocalError::NotImplemented("server-side encryption"));
    }
    // One owner: these two say what is so anyway.
    if !matches!(attributes.acl.as_deref(), None | Some("private" | "bucket-owner-full-control")) {
        return Err(LocalError::NotImplemented("access control lists"));
    }
    Ok(Headers {
        content_type: attributes.content_type.clone(),
        storage_class: attributes.storage_class.clone().filter(|class| class != "STANDARD"),
        metadata: attributes.metadata.clone(),
        ..Headers::default()
    })
}

fn written(stored: Stored) -> Written {
    Written { etag: ETag(stored.etag), version: stored.version.map(|version| version.to_string()) }
}

fn head(info: ObjectInfo) -> Head {
    Head {
        size_bytes: info.size_bytes,
        etag: Some(ETag(info.etag)),
        version: info.version.map(|version| version.to_string()),
        modified_ns: info.modified_ns,
        attributes: Attributes {
            content_type: Some(info.headers.content_type.unwrap_or_else(|| super::CONTENT_TYPE_DEFAULT.into())),
            metadata: info.headers.metadata,
            storage_class: info.headers.storage_class,
            ..Attributes::default()
        },
        restore: None,
    }
}

/// A write whose target is not there, though it must be something: for the seam that is a precondition, since `NotFound`
/// is the word for a source.
fn target(error: LocalError) -> ObjectError {
    match error {
        LocalError::NoSuchKey { .. } => ObjectError::PreconditionFailed,
        error => error.into(),
    }
}

#[async_trait]
impl ObjectStore for Bucket {
    fn capabilities(&self) -> Capabilities {
        let versioned = self.local.bucket_info(&self.name).is_ok_and(|bucket| bucket.versioning != Versioning::Off);
        Capabilities { versioned, part_bytes_min: PART_BYTES_MIN, parts_max: PARTS_MAX, ..Capabilities::AWS }
    }

    async fn head(&self, key: &str) -> Result<Head, ObjectError> {
        Ok(head(self.local.head(&self.name, key, None, &Conditions::default()).await?))
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>, expect: Option<&ETag>) -> Result<(Head, Bytes), ObjectError> {
        let opened = self.local.open_object(&self.name, key, None, &matching(expect)).await?;
        let info = opened.info.clone();
        let range = range.unwrap_or(0..info.size_bytes);
        let end = range.end.min(info.size_bytes);
        let bytes = opened.bytes(range.start.min(end)..end).await?;
        Ok((head(info), bytes))
    }

    async fn put(
        &self,
        key: &str,
        body: Body,
        attributes: &Attributes,
        precondition: &Precondition,
    ) -> Result<Written, ObjectError> {
        let put = Put {
            bucket: self.name.clone(),
            key: key.into(),
            headers: headers(attributes)?,
            tags: Default::default(),
            requirement: requirement(precondition),
        };
        self.local.put_bytes(put, body.0).await.map(written).map_err(target)
    }

    async fn copy(
        &self,
        source: &CopySource,
        key: &str,
        attributes: Option<&Attributes>,
        precondition: &Precondition,
    ) -> Result<Written, ObjectError> {
        let source = self.source(source)?;
        let info = self.local.open_source(&source).await?.info;
        let directive = match attributes {
            Some(attributes) => MetadataDirective::Replace(Box::new(headers(attributes)?)),
            None => MetadataDirective::Copy,
        };
        let storage_class = match &directive {
            MetadataDirective::Copy => info.headers.storage_class,
            MetadataDirective::Replace(headers) => headers.storage_class.clone(),
        };
        let copy = Copy {
            source,
            bucket: self.name.clone(),
            key: key.into(),
            directive,
            storage_class,
            tags: None,
            requirement: requirement(precondition),
            algorithm: None,
        };
        match self.local.copy(&copy).await {
            Ok((stored, _)) => Ok(written(stored)),
            // Which of the two is missing: the target can only be, where one was asked for.
            Err(error @ LocalError::NoSuchKey { .. }) if copy.requirement.matches.is_some() => {
                let there = self.local.open_source(&copy.source).await.is_ok();
                Err(if there { target(error) } else { error.into() })
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn delete(&self, key: &str, expect: Option<&ETag>) -> Result<(), ObjectError> {
        self.local.delete(&self.name, key, None, expect.map(|etag| etag.0.as_str())).await?;
        Ok(())
    }

    async fn delete_many(&self, keys: &[(String, Option<ETag>)]) -> Result<Vec<(String, ObjectError)>, ObjectError> {
        if keys.len() > PAGE as usize {
            return Err(ObjectError::Invalid("at most 1,000 keys in one request".into()));
        }
        self.local.bucket_info(&self.name)?;
        // All at once: the index commits them together.
        let deletes = keys.iter().map(|(key, expect)| async move { (key, self.delete(key, expect.as_ref()).await) });
        let results = futures_util::future::join_all(deletes).await;
        Ok(results.into_iter().filter_map(|(key, result)| Some((key.clone(), result.err()?))).collect())
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage, ObjectError> {
        let query = KeyQuery {
            prefix: request.prefix.clone(),
            delimiter: request.delimiter.clone(),
            after: request.start_after.clone(),
            token: request.token.clone(),
            limit: if request.limit == 0 { PAGE } else { request.limit },
        };
        let page = self.local.list_keys(&self.name, &query).await?;
        let listed = |object: super::Version| Listed {
            key: object.key,
            size_bytes: object.size_bytes,
            etag: ETag(object.etag),
            modified_ns: object.modified_ns,
            storage_class: Some(object.storage_class.unwrap_or_else(|| "STANDARD".into())),
        };
        Ok(ListPage { objects: page.objects.into_iter().map(listed).collect(), prefixes: page.prefixes, next: page.next })
    }

    async fn multipart_begin(&self, key: &str, attributes: &Attributes) -> Result<UploadId, ObjectError> {
        let begin = Begin { bucket: self.name.clone(), key: key.into(), headers: headers(attributes)?, ..Begin::default() };
        Ok(UploadId(self.local.begin(begin).await?))
    }

    async fn multipart_part(&self, key: &str, upload: &UploadId, number: u32, body: Body) -> Result<Part, ObjectError> {
        let mut intake = self.local.intake_part(&[]);
        for piece in body.0 {
            intake.push(piece).await?;
        }
        let content = intake.finish(&Expected::default()).await?;
        let part = self.local.put_part(&self.name, key, &upload.0, number, content).await?;
        Ok(Part { number, etag: ETag(part.etag) })
    }

    async fn multipart_copy(
        &self,
        key: &str,
        upload: &UploadId,
        number: u32,
        source: &CopySource,
        range: Range<u64>,
    ) -> Result<Part, ObjectError> {
        let target = (self.name.as_str(), key, upload.0.as_str());
        let (part, _) = self.local.copy_part(target, number, &self.source(source)?, Some(range)).await?;
        Ok(Part { number, etag: ETag(part.etag) })
    }

    async fn multipart_commit(
        &self,
        key: &str,
        upload: &UploadId,
        parts: &[Part],
        precondition: &Precondition,
    ) -> Result<Written, ObjectError> {
        let named = |part: &Part| NamedPart { number: part.number, etag: part.etag.0.clone(), checksums: Vec::new() };
        let complete =
            Complete { parts: parts.iter().map(named).collect(), requirement: requirement(precondition), ..Complete::default() };
        self.local.complete(&self.name, key, &upload.0, complete).await.map(written).map_err(target)
    }

    async fn multipart_abort(&self, key: &str, upload: &UploadId) -> Result<(), ObjectError> {
        match self.local.abort(&self.name, key, &upload.0).await {
            Err(LocalError::NoSuchUpload) => Ok(()),
            result => Ok(result?),
        }
    }

    async fn multipart_list(&self, prefix: &str) -> Result<Vec<PendingUpload>, ObjectError> {
        let mut query = UploadQuery { prefix: prefix.into(), limit: PAGE, ..UploadQuery::default() };
        let mut pending = Vec::new();
        while pending.len() < UPLOADS_MAX {
            let page = self.local.list_uploads(&self.name, &query).await?;
            pending.extend(page.uploads.into_iter().map(|upload| PendingUpload {
                key: upload.key,
                upload: UploadId(upload.id),
                initiated_ns: upload.initiated_ns,
            }));
            let Some((key, id)) = page.next else { break };
            (query.key_marker, query.id_marker) = (Some(key), id);
        }
        Ok(pending)
    }
}

impl From<LocalError> for ObjectError {
    fn from(error: LocalError) -> Self {
        let text = error.to_string();
        let unavailable = |outcome| Self::Unavailable { reason: text.clone(), outcome };
        match error {
            LocalError::NoSuchBucket(bucket) => Self::NoSuchBucket(bucket),
            LocalError::NoSuchKey { .. } | LocalError::NoSuchVersion | LocalError::IsMarker => Self::NotFound,
            LocalError::NoSuchUpload => Self::NoSuchUpload,
            LocalError::PreconditionFailed | LocalError::NotModified => Self::PreconditionFailed,
            LocalError::SourceChanged => Self::Conflict,
            LocalError::BadDigest(_) | LocalError::IncompleteBody | LocalError::Damaged(_) => Self::Corrupt(text),
            LocalError::NotImplemented(_) => Self::Unsupported(text),
            LocalError::Disk(_) | LocalError::Closed => unavailable(Outcome::Refused),
            LocalError::CommitUnknown(_) => unavailable(Outcome::Unknown),
            LocalError::BucketExists(_)
            | LocalError::BucketNotEmpty
            | LocalError::InvalidBucketName(_)
            | LocalError::InvalidKey
            | LocalError::InvalidPart(_)
            | LocalError::InvalidPartOrder
            | LocalError::EntityTooSmall(_)
            | LocalError::EntityTooLarge
            | LocalError::MetadataTooLarge
            | LocalError::CopyToItself
            | LocalError::InvalidRange(_)
            | LocalError::InvalidArgument(_)
            | LocalError::InvalidTag(_) => Self::Invalid(text),
        }
    }
}

//! Listings of objects and versions.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result};

use super::Endpoint;
use super::buckets::owner;
use super::convert::{etag, timestamp, version};
use super::error::{invalid, s3};
use crate::store::object::local::{KeyQuery, Version, VersionQuery};

/// What S3 leaves as it is under `encoding-type=url`.
const KEPT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'*').remove(b'/').remove(b'~');

/// How names are written in an answer.
pub struct Encoding(bool);

impl Encoding {
    pub fn new(encoding: Option<&EncodingType>) -> S3Result<Self> {
        match encoding.map(EncodingType::as_str) {
            None => Ok(Self(false)),
            Some(EncodingType::URL) => Ok(Self(true)),
            Some(_) => Err(invalid("the encoding type can only be url")),
        }
    }

    pub fn name(&self, name: String) -> String {
        if self.0 { utf8_percent_encode(&name, KEPT).to_string() } else { name }
    }

    pub fn optional(&self, name: Option<String>) -> Option<String> {
        name.map(|name| self.name(name))
    }

    pub fn prefixes(&self, prefixes: Vec<String>) -> Option<Vec<CommonPrefix>> {
        let prefixes: Vec<_> = prefixes.into_iter().map(|prefix| CommonPrefix { prefix: Some(self.name(prefix)) }).collect();
        (!prefixes.is_empty()).then_some(prefixes)
    }
}

/// A page's size; S3 gives at most 1,000 whatever is asked for.
pub fn limit(asked: Option<i32>) -> S3Result<u32> {
    let asked = u32::try_from(asked.unwrap_or(1000)).map_err(|_| invalid("the size of a page is negative"))?;
    Ok(asked.min(1000))
}

fn object(version: Version, encoding: &Encoding, with_owner: bool) -> Object {
    Object {
        key: Some(encoding.name(version.key)),
        e_tag: Some(etag(&version.etag)),
        last_modified: Some(timestamp(version.modified_ns)),
        size: Some(version.size_bytes.cast_signed()),
        storage_class: Some(version.storage_class.map_or(ObjectStorageClass::from_static("STANDARD"), ObjectStorageClass::from)),
        owner: with_owner.then(owner),
        ..Object::default()
    }
}

pub async fn list_objects(endpoint: &Endpoint, request: S3Request<ListObjectsInput>) -> S3Result<S3Response<ListObjectsOutput>> {
    let input = request.input;
    let encoding = Encoding::new(input.encoding_type.as_ref())?;
    let limit = limit(input.max_keys)?;
    let query = KeyQuery {
        prefix: input.prefix.clone().unwrap_or_default(),
        delimiter: input.delimiter.clone(),
        after: input.marker.clone(),
        token: None,
        limit,
    };
    let page = endpoint.local.list_keys(&input.bucket, &query).await.map_err(s3)?;
    Ok(S3Response::new(ListObjectsOutput {
        name: Some(input.bucket),
        prefix: Some(encoding.name(query.prefix)),
        marker: Some(encoding.name(input.marker.unwrap_or_default())),
        max_keys: Some(limit.cast_signed()),
        is_truncated: Some(page.next.is_some()),
        contents: Some(page.objects.into_iter().map(|version| object(version, &encoding, true)).collect()),
        common_prefixes: encoding.prefixes(page.prefixes),
        delimiter: encoding.optional(input.delimiter),
        next_marker: encoding.optional(page.last),
        encoding_type: input.encoding_type,
        ..ListObjectsOutput::default()
    }))
}

pub async fn list_objects_v2(
    endpoint: &Endpoint,
    request: S3Request<ListObjectsV2Input>,
) -> S3Result<S3Response<ListObjectsV2Output>> {
    let input = request.input;
    let encoding = Encoding::new(input.encoding_type.as_ref())?;
    let limit = limit(input.max_keys)?;
    let query = KeyQuery {
        prefix: input.prefix.clone().unwrap_or_default(),
        delimiter: input.delimiter.clone(),
        after: input.start_after.clone(),
        token: input.continuation_token.clone(),
        limit,
    };
    let page = endpoint.local.list_keys(&input.bucket, &query).await.map_err(s3)?;
    let with_owner = input.fetch_owner == Some(true);
    let count = page.objects.len() + page.prefixes.len();
    Ok(S3Response::new(ListObjectsV2Output {
        name: Some(input.bucket),
        prefix: Some(encoding.name(query.prefix)),
        max_keys: Some(limit.cast_signed()),
        key_count: i32::try_from(count).ok(),
        continuation_token: input.continuation_token,
        is_truncated: Some(page.next.is_some()),
        next_continuation_token: page.next,
        contents: Some(page.objects.into_iter().map(|version| object(version, &encoding, with_owner)).collect()),
        common_prefixes: encoding.prefixes(page.prefixes),
        delimiter: encoding.optional(input.delimiter),
        encoding_type: input.encoding_type,
        start_after: encoding.optional(input.start_after),
        ..ListObjectsV2Output::default()
    }))
}

pub async fn list_object_versions(
    endpoint: &Endpoint,
    request: S3Request<ListObjectVersionsInput>,
) -> S3Result<S3Response<ListObjectVersionsOutput>> {
    let input = request.input;
    let encoding = Encoding::new(input.encoding_type.as_ref())?;
    let limit = limit(input.max_keys)?;
    let query = VersionQuery {
        prefix: input.prefix.clone().unwrap_or_default(),
        delimiter: input.delimiter.clone(),
        key_marker: input.key_marker.clone(),
        version_marker: version(input.version_id_marker.as_deref())?,
        limit,
    };
    let page = endpoint.local.list_versions(&input.bucket, &query).await.map_err(s3)?;
    let is_truncated = page.next.is_some();
    let (next_key, next_version) = page.next.map_or((None, None), |(key, version)| (Some(key), version));
    let (markers, versions): (Vec<_>, Vec<_>) = page.versions.into_iter().partition(|version| version.marker);
    Ok(S3Response::new(ListObjectVersionsOutput {
        common_prefixes: encoding.prefixes(page.prefixes),
        delete_markers: Some(markers.into_iter().map(|version| marker_entry(version, &encoding)).collect()),
        delimiter: encoding.optional(input.delimiter),
        encoding_type: input.encoding_type,
        is_truncated: Some(is_truncated),
        key_marker: Some(encoding.name(input.key_marker.unwrap_or_default())),
        max_keys: Some(limit.cast_signed()),
        name: Some(input.bucket),
        next_key_marker: encoding.optional(next_key),
        next_version_id_marker: next_version.map(|version| version.to_string()),
        prefix: Some(encoding.name(query.prefix)),
        version_id_marker: Some(input.version_id_marker.unwrap_or_default()),
        versions: Some(versions.into_iter().map(|version| version_entry(version, &encoding)).collect()),
        ..ListObjectVersionsOutput::default()
    }))
}

fn marker_entry(version: Version, encoding: &Encoding) -> DeleteMarkerEntry {
    DeleteMarkerEntry {
        is_latest: Some(version.latest),
        key: Some(encoding.name(version.key)),
        last_modified: Some(timestamp(version.modified_ns)),
        owner: Some(owner()),
        version_id: Some(version.version.to_string()),
    }
}

fn version_entry(version: Version, encoding: &Encoding) -> ObjectVersion {
    let class = version.storage_class.map_or(ObjectVersionStorageClass::from_static("STANDARD"), ObjectVersionStorageClass::from);
    ObjectVersion {
        e_tag: Some(etag(&version.etag)),
        is_latest: Some(version.latest),
        key: Some(encoding.name(version.key)),
        last_modified: Some(timestamp(version.modified_ns)),
        owner: Some(owner()),
        size: Some(version.size_bytes.cast_signed()),
        storage_class: Some(class),
        version_id: Some(version.version.to_string()),
        ..ObjectVersion::default()
    }
}

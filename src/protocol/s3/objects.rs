//! Operations on objects.

use std::collections::BTreeMap;

use futures_util::{StreamExt, stream};
use http::{HeaderMap, StatusCode};
use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result};

use super::Endpoint;
use super::body::{Announced, algorithms, receive};
use super::convert::{
    algorithm, checksum_type, condition, conditions, etag, metadata_headers, requirement, sent_checksums, sent_headers, source,
    storage_class, tags, tell_checksums, tell_headers, timestamp, version,
};
use super::error::{invalid, not_implemented, s3};
use crate::store::object::local::{self, Conditions, LocalError, ObjectInfo, Put, RangeSpec, Requirement};

/// Objects of one DeleteObjects that are deleted at once: the store commits them together.
const DELETES_AT_ONCE: usize = 64;
/// S3's limit of one DeleteObjects.
const DELETES_MAX: usize = 1000;

fn range(range: Option<Range>) -> Option<RangeSpec> {
    range.map(|range| match range {
        Range::Int { first, last } => RangeSpec::From(first, last),
        Range::Suffix { length } => RangeSpec::Last(length),
    })
}

/// Part numbers of GET and HEAD: an object that was put at once is its part 1.
fn check_part(part: Option<i32>, info: &ObjectInfo) -> S3Result<()> {
    match part {
        None => Ok(()),
        Some(1) if info.parts.is_none_or(|parts| parts == 1) => Ok(()),
        Some(_) => Err(not_implemented("reading one part of an object")),
    }
}

/// A 304 tells the reader which version it has (RFC 9110 §15.4.5).
async fn explain(endpoint: &Endpoint, error: LocalError, bucket: &str, key: &str) -> s3s::S3Error {
    let unmodified = error == LocalError::NotModified;
    let mut answer = s3(error);
    if unmodified && let Ok(info) = endpoint.local.head(bucket, key, None, &Conditions::default()).await {
        let mut headers = HeaderMap::new();
        if let Ok(value) = format!("\"{}\"", info.etag).parse() {
            headers.insert(http::header::ETAG, value);
        }
        answer.set_headers(headers);
    }
    answer
}

pub async fn get_object(endpoint: &Endpoint, request: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
    let input = request.input;
    let (matches, none_matches) = (input.if_match.as_ref(), input.if_none_match.as_ref());
    let conditions = conditions(matches, none_matches, input.if_modified_since.as_ref(), input.if_unmodified_since.as_ref());
    let version = version(input.version_id.as_deref())?;
    let opened = match endpoint.local.open_object(&input.bucket, &input.key, version, &conditions).await {
        Ok(opened) => opened,
        Err(error) => return Err(explain(endpoint, error, &input.bucket, &input.key).await),
    };
    let info = opened.info.clone();
    check_part(input.part_number, &info)?;
    let asked = range(input.range);
    let range = asked.map_or(Ok(0..info.size_bytes), |range| range.resolve(info.size_bytes)).map_err(s3)?;
    let mut output = GetObjectOutput {
        content_length: Some((range.end - range.start).cast_signed()),
        content_range: asked.map(|_| format!("bytes {}-{}/{}", range.start, range.end.saturating_sub(1), info.size_bytes)),
        tag_count: i32::try_from(info.tags.len()).ok().filter(|count| *count > 0),
        ..GetObjectOutput::default()
    };
    tell_headers!(output, info);
    if input.checksum_mode.is_some() && asked.is_none() {
        tell_checksums!(output, &info.checksums);
        output.checksum_type = checksum_type(&info.checksums);
    }
    output.body = Some(StreamingBlob::wrap(opened.stream(range)));
    let status = if asked.is_some() { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
    let headers = metadata_headers(&info.headers.metadata)?;
    Ok(S3Response { status: Some(status), ..S3Response::with_headers(output, headers) })
}

pub async fn head_object(endpoint: &Endpoint, request: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
    let input = request.input;
    let (matches, none_matches) = (input.if_match.as_ref(), input.if_none_match.as_ref());
    let conditions = conditions(matches, none_matches, input.if_modified_since.as_ref(), input.if_unmodified_since.as_ref());
    let version = version(input.version_id.as_deref())?;
    let info = match endpoint.local.head(&input.bucket, &input.key, version, &conditions).await {
        Ok(info) => info,
        Err(error) => return Err(explain(endpoint, error, &input.bucket, &input.key).await),
    };
    check_part(input.part_number, &info)?;
    let asked = range(input.range);
    let range = asked.map_or(Ok(0..info.size_bytes), |range| range.resolve(info.size_bytes)).map_err(s3)?;
    let mut output =
        HeadObjectOutput { content_length: Some((range.end - range.start).cast_signed()), ..HeadObjectOutput::default() };
    tell_headers!(output, info);
    if input.checksum_mode.is_some() {
        tell_checksums!(output, &info.checksums);
        output.checksum_type = checksum_type(&info.checksums);
    }
    let status = if asked.is_some() { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
    let headers = metadata_headers(&info.headers.metadata)?;
    Ok(S3Response { status: Some(status), ..S3Response::with_headers(output, headers) })
}

pub async fn get_object_attributes(
    endpoint: &Endpoint,
    request: S3Request<GetObjectAttributesInput>,
) -> S3Result<S3Response<GetObjectAttributesOutput>> {
    let input = request.input;
    let version = version(input.version_id.as_deref())?;
    let info = endpoint.local.head(&input.bucket, &input.key, version, &Conditions::default()).await.map_err(s3)?;
    // The library splits the header by fields, clients by commas.
    let asked = input.object_attributes.iter().flat_map(|asked| asked.as_str().split(','));
    let asked: Vec<_> = asked.map(str::trim).collect();
    let wanted = |name: &str| asked.contains(&name);
    let mut checksum = Checksum { checksum_type: checksum_type(&info.checksums), ..Checksum::default() };
    tell_checksums!(checksum, &info.checksums);
    let parts = info.parts.and_then(|parts| i32::try_from(parts).ok());
    let class = StorageClass::from(info.headers.storage_class.clone().unwrap_or_else(|| StorageClass::STANDARD.into()));
    Ok(S3Response::new(GetObjectAttributesOutput {
        checksum: (wanted("Checksum") && !info.checksums.values.is_empty()).then_some(checksum),
        e_tag: wanted("ETag").then(|| etag(&info.etag)),
        last_modified: Some(timestamp(info.modified_ns)),
        object_parts: parts
            .filter(|_| wanted("ObjectParts"))
            .map(|count| GetObjectAttributesParts { total_parts_count: Some(count), ..GetObjectAttributesParts::default() }),
        object_size: wanted("ObjectSize").then_some(info.size_bytes.cast_signed()),
        storage_class: wanted("StorageClass").then_some(class),
        version_id: info.version.map(|version| version.to_string()),
        ..GetObjectAttributesOutput::default()
    }))
}

/// Refuses before the body is received what would be refused after it. The store decides again.
async fn check_early(endpoint: &Endpoint, bucket: &str, key: &str, requirement: &Requirement) -> S3Result<()> {
    endpoint.local.bucket_info(bucket).map_err(s3)?;
    if *requirement == Requirement::default() {
        return Ok(());
    }
    let conditions = Conditions { matches: requirement.matches.clone(), ..Conditions::default() };
    match endpoint.local.head(bucket, key, None, &conditions).await {
        Ok(_) if requirement.absent => Err(s3(LocalError::PreconditionFailed)),
        Err(LocalError::NoSuchKey { .. }) if requirement.matches.is_none() => Ok(()),
        result => result.map(drop).map_err(s3),
    }
}

pub async fn put_object(endpoint: &Endpoint, request: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
    let (input, headers, trailers) = (request.input, request.headers, request.trailing_headers);
    if input.write_offset_bytes.is_some() {
        return Err(not_implemented("appending"));
    }
    let put = Put {
        bucket: input.bucket.clone(),
        key: input.key.clone(),
        headers: sent_headers!(input),
        tags: tags(input.tagging.as_deref())?,
        requirement: requirement(input.if_match.as_ref(), input.if_none_match.as_ref())?,
    };
    check_early(endpoint, &input.bucket, &input.key, &put.requirement).await?;
    let announced =
        Announced { len_bytes: input.content_length, md5: input.content_md5.clone(), checksums: sent_checksums!(input) };
    let asked = algorithm(input.checksum_algorithm.as_ref().map(ChecksumAlgorithm::as_str))?;
    let intake = endpoint.local.intake(&algorithms(&announced, &headers, asked));
    let content = receive(intake, input.body, announced, trailers).await?;
    let stored = endpoint.local.put(put, content).await.map_err(s3)?;
    let mut output = PutObjectOutput {
        e_tag: Some(etag(&stored.etag)),
        checksum_type: checksum_type(&stored.checksums),
        version_id: stored.version.map(|version| version.to_string()),
        ..PutObjectOutput::default()
    };
    tell_checksums!(output, &stored.checksums);
    Ok(S3Response::new(output))
}

/// Conditions on the target of a copy, which the library's request does not have.
fn target_requirement(headers: &HeaderMap) -> S3Result<Requirement> {
    let field = |name: http::header::HeaderName| match headers.get(name).map(|value| value.to_str()) {
        None => Ok(None),
        Some(Ok(text)) => text.parse::<ETagCondition>().map(Some).map_err(|_| invalid("not an ETag")),
        Some(Err(_)) => Err(invalid("not an ETag")),
    };
    requirement(field(http::header::IF_MATCH)?.as_ref(), field(http::header::IF_NONE_MATCH)?.as_ref())
}

pub async fn copy_object(endpoint: &Endpoint, request: S3Request<CopyObjectInput>) -> S3Result<S3Response<CopyObjectOutput>> {
    let (input, headers) = (request.input, request.headers);
    if input.copy_source_sse_customer_algorithm.is_some() {
        return Err(not_implemented("server-side encryption"));
    }
    let conditions = conditions(
        input.copy_source_if_match.as_ref(),
        input.copy_source_if_none_match.as_ref(),
        input.copy_source_if_modified_since.as_ref(),
        input.copy_source_if_unmodified_since.as_ref(),
    );
    let sent = sent_headers!(input);
    let directive = match input.metadata_directive.as_ref().map(MetadataDirective::as_str) {
        Some(MetadataDirective::REPLACE) => local::MetadataDirective::Replace(Box::new(sent)),
        Some(MetadataDirective::COPY) | None => local::MetadataDirective::Copy,
        Some(_) => return Err(invalid("the metadata directive is COPY or REPLACE")),
    };
    let replace_tags = input.tagging_directive.as_ref().is_some_and(|directive| directive.as_str() == TaggingDirective::REPLACE);
    let copy = local::Copy {
        source: source(&input.copy_source, conditions)?,
        bucket: input.bucket,
        key: input.key,
        directive,
        storage_class: storage_class(input.storage_class.as_ref()),
        tags: replace_tags.then(|| tags(input.tagging.as_deref())).transpose()?,
        requirement: target_requirement(&headers)?,
        algorithm: algorithm(input.checksum_algorithm.as_ref().map(ChecksumAlgorithm::as_str))?,
    };
    let (stored, from) = endpoint.local.copy(&copy).await.map_err(s3)?;
    let mut result = CopyObjectResult {
        checksum_type: checksum_type(&stored.checksums),
        e_tag: Some(etag(&stored.etag)),
        last_modified: Some(timestamp(stored.modified_ns)),
        ..CopyObjectResult::default()
    };
    tell_checksums!(result, &stored.checksums);
    Ok(S3Response::new(CopyObjectOutput {
        copy_object_result: Some(result),
        copy_source_version_id: from.version.map(|version| version.to_string()),
        version_id: stored.version.map(|version| version.to_string()),
        ..CopyObjectOutput::default()
    }))
}

pub async fn delete_object(
    endpoint: &Endpoint,
    request: S3Request<DeleteObjectInput>,
) -> S3Result<S3Response<DeleteObjectOutput>> {
    let input = request.input;
    if input.if_match_last_modified_time.is_some() || input.if_match_size.is_some() {
        return Err(not_implemented("deleting by time or size"));
    }
    let version = version(input.version_id.as_deref())?;
    let expect = condition(input.if_match.as_ref());
    let deleted = endpoint.local.delete(&input.bucket, &input.key, version, expect.as_deref()).await.map_err(s3)?;
    Ok(S3Response::new(DeleteObjectOutput {
        delete_marker: deleted.marker.then_some(true),
        version_id: deleted.version.map(|version| version.to_string()),
        ..DeleteObjectOutput::default()
    }))
}

pub async fn delete_objects(
    endpoint: &Endpoint,
    request: S3Request<DeleteObjectsInput>,
) -> S3Result<S3Response<DeleteObjectsOutput>> {
    let input = request.input;
    endpoint.local.bucket_info(&input.bucket).map_err(s3)?;
    if input.delete.objects.len() > DELETES_MAX {
        return Err(s3s::s3_error!(MalformedXML, "at most 1,000 objects"));
    }
    let quiet = input.delete.quiet == Some(true);
    let bucket = &input.bucket;
    let deletes = input.delete.objects.into_iter().map(|object| async move {
        let result = delete_one(endpoint, bucket, &object).await;
        (object, result)
    });
    let results: Vec<_> = stream::iter(deletes).buffered(DELETES_AT_ONCE).collect().await;
    let (mut deleted, mut errors) = (Vec::new(), Vec::new());
    for (object, result) in results {
        match result {
            Ok(_) if quiet => {}
            Ok(done) => deleted.push(deleted_entry(object, done)),
            Err(error) => errors.push(Error {
                code: Some(error.code().as_str().to_owned()),
                key: Some(object.key),
                message: error.message().map(str::to_owned),
                version_id: object.version_id,
            }),
        }
    }
    Ok(S3Response::new(DeleteObjectsOutput { deleted: Some(deleted), errors: Some(errors), request_charged: None }))
}

async fn delete_one(endpoint: &Endpoint, bucket: &str, object: &ObjectIdentifier) -> S3Result<local::Deleted> {
    if object.last_modified_time.is_some() || object.size.is_some() {
        return Err(not_implemented("deleting by time or size"));
    }
    let version = version(object.version_id.as_deref())?;
    let expect = object.e_tag.as_ref().map(ETag::value);
    endpoint.local.delete(bucket, &object.key, version, expect).await.map_err(s3)
}

fn deleted_entry(object: ObjectIdentifier, done: local::Deleted) -> DeletedObject {
    DeletedObject {
        delete_marker: done.marker.then_some(true),
        delete_marker_version_id: done.version.filter(|_| done.marker).map(|version| version.to_string()),
        key: Some(object.key),
        version_id: object.version_id,
    }
}

fn tag_set(tags: BTreeMap<String, String>) -> Vec<Tag> {
    tags.into_iter().map(|(key, value)| Tag { key: Some(key), value: Some(value) }).collect()
}

pub async fn get_object_tagging(
    endpoint: &Endpoint,
    request: S3Request<GetObjectTaggingInput>,
) -> S3Result<S3Response<GetObjectTaggingOutput>> {
    let input = request.input;
    let version = version(input.version_id.as_deref())?;
    let info = endpoint.local.head(&input.bucket, &input.key, version, &Conditions::default()).await.map_err(s3)?;
    let version_id = info.version.map(|version| version.to_string());
    Ok(S3Response::new(GetObjectTaggingOutput { tag_set: tag_set(info.tags), version_id }))
}

pub async fn put_object_tagging(
    endpoint: &Endpoint,
    request: S3Request<PutObjectTaggingInput>,
) -> S3Result<S3Response<PutObjectTaggingOutput>> {
    let input = request.input;
    let version = version(input.version_id.as_deref())?;
    let count = input.tagging.tag_set.len();
    let pairs = input.tagging.tag_set.into_iter().map(|tag| (tag.key.unwrap_or_default(), tag.value.unwrap_or_default()));
    let tags: BTreeMap<_, _> = pairs.collect();
    if tags.len() < count {
        return Err(s3(LocalError::InvalidTag("a tag is given twice".into())));
    }
    let version = endpoint.local.set_tags(&input.bucket, &input.key, version, tags).await.map_err(s3)?;
    Ok(S3Response::new(PutObjectTaggingOutput { version_id: version.map(|version| version.to_string()) }))
}

pub async fn delete_object_tagging(
    endpoint: &Endpoint,
    request: S3Request<DeleteObjectTaggingInput>,
) -> S3Result<S3Response<DeleteObjectTaggingOutput>> {
    let input = request.input;
    let version = version(input.version_id.as_deref())?;
    let version = endpoint.local.set_tags(&input.bucket, &input.key, version, BTreeMap::new()).await.map_err(s3)?;
    Ok(S3Response::new(DeleteObjectTaggingOutput { version_id: version.map(|version| version.to_string()) }))
}

//! Multipart uploads.

use std::ops::Range;

use s3s::dto::{
    AbortMultipartUploadInput, AbortMultipartUploadOutput, ChecksumAlgorithm, ChecksumType, CompleteMultipartUploadInput,
    CompleteMultipartUploadOutput, CompletedPart, CopyPartResult, CreateMultipartUploadInput, CreateMultipartUploadOutput, ETag,
    ListMultipartUploadsInput, ListMultipartUploadsOutput, ListPartsInput, ListPartsOutput, MultipartUpload, Part, StorageClass,
    UploadPartCopyInput, UploadPartCopyOutput, UploadPartInput, UploadPartOutput,
};
use s3s::{S3Request, S3Response, S3Result};

use super::Endpoint;
use super::body::{Announced, algorithms, receive};
use super::buckets::owner;
use super::convert::{
    algorithm, checksum_type, conditions, etag, requirement, sent_checksums, sent_headers, source, tags, tell_checksums,
    timestamp,
};
use super::error::{invalid, not_implemented, s3};
use super::listing::{Encoding, limit};
use crate::store::object::local::{Algorithm, Begin, Complete, NamedPart, PartInfo, UploadInfo, UploadQuery};

pub async fn create_multipart_upload(
    endpoint: &Endpoint,
    request: S3Request<CreateMultipartUploadInput>,
) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
    let input = request.input;
    let algorithm = algorithm(input.checksum_algorithm.as_ref().map(ChecksumAlgorithm::as_str))?;
    let full_object = match input.checksum_type.as_ref().map(ChecksumType::as_str) {
        // S3's default, by algorithm.
        None => algorithm == Some(Algorithm::Crc64Nvme),
        Some(ChecksumType::FULL_OBJECT) if algorithm.is_some_and(Algorithm::combines) => true,
        Some(ChecksumType::COMPOSITE) if algorithm != Some(Algorithm::Crc64Nvme) => false,
        Some(_) => return Err(invalid("the checksum's algorithm does not have this type")),
    };
    let begin = Begin {
        bucket: input.bucket.clone(),
        key: input.key.clone(),
        headers: sent_headers!(input),
        tags: tags(input.tagging.as_deref())?,
        algorithm,
        full_object,
    };
    let upload = endpoint.local.begin(begin).await.map_err(s3)?;
    let kind = if full_object { ChecksumType::FULL_OBJECT } else { ChecksumType::COMPOSITE };
    Ok(S3Response::new(CreateMultipartUploadOutput {
        bucket: Some(input.bucket),
        key: Some(input.key),
        upload_id: Some(upload),
        checksum_type: algorithm.map(|_| ChecksumType::from_static(kind)),
        checksum_algorithm: input.checksum_algorithm,
        ..CreateMultipartUploadOutput::default()
    }))
}

fn part_number(number: i32) -> S3Result<u32> {
    u32::try_from(number).map_err(|_| invalid("part numbers are positive"))
}

pub async fn upload_part(endpoint: &Endpoint, request: S3Request<UploadPartInput>) -> S3Result<S3Response<UploadPartOutput>> {
    let (input, headers, trailers) = (request.input, request.headers, request.trailing_headers);
    if input.sse_customer_algorithm.is_some() {
        return Err(not_implemented("server-side encryption"));
    }
    let number = part_number(input.part_number)?;
    let asked = endpoint.local.upload_algorithm(&input.bucket, &input.key, &input.upload_id).await.map_err(s3)?;
    let announced =
        Announced { len_bytes: input.content_length, md5: input.content_md5.clone(), checksums: sent_checksums!(input) };
    let intake = endpoint.local.intake_part(&algorithms(&announced, &headers, asked));
    let content = receive(intake, input.body, announced, trailers).await?;
    let part = endpoint.local.put_part(&input.bucket, &input.key, &input.upload_id, number, content).await.map_err(s3)?;
    let mut output = UploadPartOutput { e_tag: Some(etag(&part.etag)), ..UploadPartOutput::default() };
    tell_checksums!(output, &part.checksums);
    Ok(S3Response::new(output))
}

/// `x-amz-copy-source-range`: both ends are there, and the last is inclusive.
fn copy_range(text: &str) -> S3Result<Range<u64>> {
    let parse = || {
        let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
        let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
        (first <= last).then(|| Some(first..last.checked_add(1)?)).flatten()
    };
    parse().ok_or_else(|| invalid("the range of a part copy is bytes=FIRST-LAST"))
}

pub async fn upload_part_copy(
    endpoint: &Endpoint,
    request: S3Request<UploadPartCopyInput>,
) -> S3Result<S3Response<UploadPartCopyOutput>> {
    let input = request.input;
    if input.sse_customer_algorithm.is_some() || input.copy_source_sse_customer_algorithm.is_some() {
        return Err(not_implemented("server-side encryption"));
    }
    let conditions = conditions(
        input.copy_source_if_match.as_ref(),
        input.copy_source_if_none_match.as_ref(),
        input.copy_source_if_modified_since.as_ref(),
        input.copy_source_if_unmodified_since.as_ref(),
    );
    let source = source(&input.copy_source, conditions)?;
    let range = input.copy_source_range.as_deref().map(copy_range).transpose()?;
    let target = (input.bucket.as_str(), input.key.as_str(), input.upload_id.as_str());
    let number = part_number(input.part_number)?;
    let (part, version) = endpoint.local.copy_part(target, number, &source, range).await.map_err(s3)?;
    let mut result = CopyPartResult {
        e_tag: Some(etag(&part.etag)),
        last_modified: Some(timestamp(part.modified_ns)),
        ..CopyPartResult::default()
    };
    tell_checksums!(result, &part.checksums);
    Ok(S3Response::new(UploadPartCopyOutput {
        copy_part_result: Some(result),
        copy_source_version_id: version.map(|version| version.to_string()),
        ..UploadPartCopyOutput::default()
    }))
}

fn named(part: CompletedPart) -> S3Result<NamedPart> {
    let checksums = sent_checksums!(part);
    let number = part_number(part.part_number.unwrap_or_default())?;
    let etag = part.e_tag.as_ref().map(ETag::value).ok_or_else(|| invalid("a part has no ETag"))?;
    Ok(NamedPart { number, etag: etag.to_owned(), checksums })
}

pub async fn complete_multipart_upload(
    endpoint: &Endpoint,
    request: S3Request<CompleteMultipartUploadInput>,
) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
    let input = request.input;
    let checksums = sent_checksums!(input);
    let parts = input.multipart_upload.and_then(|upload| upload.parts).unwrap_or_default();
    let complete = Complete {
        parts: parts.into_iter().map(named).collect::<S3Result<_>>()?,
        requirement: requirement(input.if_match.as_ref(), input.if_none_match.as_ref())?,
        size_bytes: input.mpu_object_size.map(|size| u64::try_from(size).unwrap_or(u64::MAX)),
        checksums,
    };
    let stored = endpoint.local.complete(&input.bucket, &input.key, &input.upload_id, complete).await.map_err(s3)?;
    let mut output = CompleteMultipartUploadOutput {
        location: Some(format!("/{}/{}", input.bucket, input.key)),
        bucket: Some(input.bucket),
        key: Some(input.key),
        e_tag: Some(etag(&stored.etag)),
        checksum_type: checksum_type(&stored.checksums),
        version_id: stored.version.map(|version| version.to_string()),
        ..CompleteMultipartUploadOutput::default()
    };
    tell_checksums!(output, &stored.checksums);
    Ok(S3Response::new(output))
}

pub async fn abort_multipart_upload(
    endpoint: &Endpoint,
    request: S3Request<AbortMultipartUploadInput>,
) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
    let input = request.input;
    endpoint.local.abort(&input.bucket, &input.key, &input.upload_id).await.map_err(s3)?;
    Ok(S3Response::new(AbortMultipartUploadOutput::default()))
}

fn part_entry(info: PartInfo) -> Part {
    let mut part = Part {
        e_tag: Some(etag(&info.etag)),
        last_modified: Some(timestamp(info.modified_ns)),
        part_number: Some(info.number.cast_signed()),
        size: Some(info.size_bytes.cast_signed()),
        ..Part::default()
    };
    tell_checksums!(part, &info.checksums);
    part
}

pub async fn list_parts(endpoint: &Endpoint, request: S3Request<ListPartsInput>) -> S3Result<S3Response<ListPartsOutput>> {
    let input = request.input;
    let limit = limit(input.max_parts)?;
    let after = part_number(input.part_number_marker.unwrap_or_default())?;
    let (bucket, key, upload) = (&input.bucket, &input.key, &input.upload_id);
    let algorithm = endpoint.local.upload_algorithm(bucket, key, upload).await.map_err(s3)?;
    let (parts, more) = endpoint.local.list_parts(bucket, key, upload, after, limit).await.map_err(s3)?;
    let next = parts.last().map(|part| part.number.cast_signed()).filter(|_| more);
    Ok(S3Response::new(ListPartsOutput {
        bucket: Some(input.bucket),
        key: Some(input.key),
        upload_id: Some(input.upload_id),
        checksum_algorithm: algorithm.map(|algorithm| ChecksumAlgorithm::from_static(algorithm.name())),
        is_truncated: Some(more),
        max_parts: Some(limit.cast_signed()),
        next_part_number_marker: next,
        owner: Some(owner()),
        part_number_marker: Some(after.cast_signed()),
        parts: Some(parts.into_iter().map(part_entry).collect()),
        ..ListPartsOutput::default()
    }))
}

fn upload_entry(info: UploadInfo, encoding: &Encoding) -> MultipartUpload {
    MultipartUpload {
        initiated: Some(timestamp(info.initiated_ns)),
        key: Some(encoding.name(info.key)),
        owner: Some(owner()),
        storage_class: Some(StorageClass::from(info.storage_class.unwrap_or_else(|| StorageClass::STANDARD.into()))),
        upload_id: Some(info.id),
        ..MultipartUpload::default()
    }
}

pub async fn list_multipart_uploads(
    endpoint: &Endpoint,
    request: S3Request<ListMultipartUploadsInput>,
) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
    let input = request.input;
    let encoding = Encoding::new(input.encoding_type.as_ref())?;
    let limit = limit(input.max_uploads)?;
    let query = UploadQuery {
        prefix: input.prefix.clone().unwrap_or_default(),
        delimiter: input.delimiter.clone(),
        key_marker: input.key_marker.clone(),
        id_marker: input.upload_id_marker.clone(),
        limit,
    };
    let page = endpoint.local.list_uploads(&input.bucket, &query).await.map_err(s3)?;
    let is_truncated = page.next.is_some();
    let (next_key, next_id) = page.next.map_or((None, None), |(key, id)| (Some(key), id));
    Ok(S3Response::new(ListMultipartUploadsOutput {
        bucket: Some(input.bucket),
        common_prefixes: encoding.prefixes(page.prefixes),
        delimiter: encoding.optional(input.delimiter),
        encoding_type: input.encoding_type,
        is_truncated: Some(is_truncated),
        key_marker: Some(encoding.name(input.key_marker.unwrap_or_default())),
        max_uploads: Some(limit.cast_signed()),
        next_key_marker: encoding.optional(next_key),
        next_upload_id_marker: next_id,
        prefix: Some(encoding.name(query.prefix)),
        upload_id_marker: Some(input.upload_id_marker.unwrap_or_default()),
        uploads: Some(page.uploads.into_iter().map(|info| upload_entry(info, &encoding)).collect()),
        ..ListMultipartUploadsOutput::default()
    }))
}

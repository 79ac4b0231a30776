//! S3's words to the store's and back: times, ETags, conditions, headers, tags, checksums.

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::percent_decode_str;
use s3s::S3Result;
use s3s::dto::{
    ChecksumType, CopySource, ETag, ETagCondition, Metadata, ObjectCannedACL, StorageClass, Timestamp, TimestampFormat,
};

use super::error::{invalid, not_implemented, s3};
use crate::store::object::local::{Algorithm, Checksums, Conditions, Requirement, Source, VersionId};
use crate::store::object::s3::text::to_header;

/// The checksums of a request that has the five fields.
macro_rules! sent_checksums {
    ($input:expr) => {{
        use $crate::store::object::local::Algorithm;
        let fields = [
            (Algorithm::Crc32, &$input.checksum_crc32),
            (Algorithm::Crc32c, &$input.checksum_crc32c),
            (Algorithm::Crc64Nvme, &$input.checksum_crc64nvme),
            (Algorithm::Sha1, &$input.checksum_sha1),
            (Algorithm::Sha256, &$input.checksum_sha256),
        ];
        fields.into_iter().filter_map(|(algorithm, value)| Some((algorithm, value.clone()?))).collect::<Vec<_>>()
    }};
}

/// Tells checksums in an answer that has the five fields.
macro_rules! tell_checksums {
    ($output:expr, $checksums:expr) => {{
        use $crate::store::object::local::Algorithm;
        let checksums = $checksums;
        $output.checksum_crc32 = checksums.get(Algorithm::Crc32).cloned();
        $output.checksum_crc32c = checksums.get(Algorithm::Crc32c).cloned();
        $output.checksum_crc64nvme = checksums.get(Algorithm::Crc64Nvme).cloned();
        $output.checksum_sha1 = checksums.get(Algorithm::Sha1).cloned();
        $output.checksum_sha256 = checksums.get(Algorithm::Sha256).cloned();
    }};
}

/// The headers that a request wants kept with an object, from a request that has all the fields; refuses what is not built.
macro_rules! sent_headers {
    ($input:expr) => {{
        use $crate::protocol::s3::{convert, error};
        if $input.server_side_encryption.is_some() || $input.sse_customer_algorithm.is_some() || $input.ssekms_key_id.is_some() {
            return Err(error::not_implemented("server-side encryption"));
        }
        if $input.object_lock_mode.is_some() || $input.object_lock_legal_hold_status.is_some() {
            return Err(error::not_implemented("object lock"));
        }
        if [&$input.grant_full_control, &$input.grant_read, &$input.grant_read_acp, &$input.grant_write_acp]
            .iter()
            .any(|grant| grant.is_some())
        {
            return Err(error::not_implemented("access control lists"));
        }
        convert::check_acl($input.acl.as_ref())?;
        $crate::store::object::local::Headers {
            content_type: $input.content_type.clone(),
            cache_control: $input.cache_control.clone(),
            content_disposition: $input.content_disposition.clone(),
            content_encoding: convert::content_encoding($input.content_encoding.as_deref()),
            content_language: $input.content_language.clone(),
            expires: $input.expires.as_ref().map(convert::http_date).transpose()?,
            website_redirect: $input.website_redirect_location.clone(),
            storage_class: convert::storage_class($input.storage_class.as_ref()),
            metadata: convert::metadata($input.metadata.clone()),
        }
    }};
}

/// Tells an object's headers in an answer to GET or HEAD, but for its metadata.
macro_rules! tell_headers {
    ($output:expr, $info:expr) => {{
        use s3s::dto::{StorageClass, Timestamp, TimestampFormat};
        let headers = &$info.headers;
        let default = $crate::store::object::local::CONTENT_TYPE_DEFAULT;
        $output.content_type = Some(headers.content_type.clone().unwrap_or_else(|| default.into()));
        $output.cache_control = headers.cache_control.clone();
        $output.content_disposition = headers.content_disposition.clone();
        $output.content_encoding = headers.content_encoding.clone();
        $output.content_language = headers.content_language.clone();
        $output.expires = headers.expires.as_deref().and_then(|text| Timestamp::parse(TimestampFormat::HttpDate, text).ok());
        $output.website_redirect_location = headers.website_redirect.clone();
        $output.storage_class = headers.storage_class.clone().map(StorageClass::from);
        $output.accept_ranges = Some("bytes".into());
        $output.e_tag = Some($crate::protocol::s3::convert::etag(&$info.etag));
        $output.last_modified = Some($crate::protocol::s3::convert::timestamp($info.modified_ns));
        $output.version_id = $info.version.map(|version| version.to_string());
    }};
}

pub(super) use {sent_checksums, sent_headers, tell_checksums, tell_headers};

/// A time of the store.
pub fn timestamp(ns: i64) -> Timestamp {
    (UNIX_EPOCH + Duration::from_nanos(ns.max(0).cast_unsigned())).into()
}

/// A time of a request, in nanoseconds since the Unix epoch.
pub fn nanoseconds(timestamp: &Timestamp) -> Option<i64> {
    let mut text = Vec::new();
    timestamp.format(TimestampFormat::EpochSeconds, &mut text).ok()?;
    let seconds: f64 = std::str::from_utf8(&text).ok()?.parse().ok()?;
    (seconds as i64).checked_mul(1_000_000_000)
}

/// RFC 9110 §5.6.7.
pub fn http_date(timestamp: &Timestamp) -> S3Result<String> {
    let mut text = Vec::new();
    let formatted = timestamp.format(TimestampFormat::HttpDate, &mut text);
    formatted.ok().and_then(|()| String::from_utf8(text).ok()).ok_or_else(|| invalid("not a date"))
}

/// An ETag of the store.
pub fn etag(text: &str) -> ETag {
    ETag::Strong(text.into())
}

/// An ETag or `*`, as the store takes it.
pub fn condition(condition: Option<&ETagCondition>) -> Option<String> {
    condition.map(|condition| match condition {
        ETagCondition::Any => "*".into(),
        ETagCondition::ETag(etag) => etag.value().into(),
    })
}

/// Conditions of a reader.
pub fn conditions(
    matches: Option<&ETagCondition>,
    none_matches: Option<&ETagCondition>,
    modified_since: Option<&Timestamp>,
    unmodified_since: Option<&Timestamp>,
) -> Conditions {
    Conditions {
        matches: condition(matches),
        none_matches: condition(none_matches),
        modified_since_ns: modified_since.and_then(nanoseconds),
        unmodified_since_ns: unmodified_since.and_then(nanoseconds),
    }
}

/// Conditions of a writer: `If-None-Match` can only be `*`.
pub fn requirement(matches: Option<&ETagCondition>, none_matches: Option<&ETagCondition>) -> S3Result<Requirement> {
    match none_matches {
        Some(ETagCondition::ETag(_)) => Err(not_implemented("If-None-Match of an ETag on a write")),
        none => Ok(Requirement { absent: none.is_some(), matches: condition(matches) }),
    }
}

/// A version in a request.
pub fn version(text: Option<&str>) -> S3Result<Option<VersionId>> {
    text.filter(|text| !text.is_empty()).map(str::parse).transpose().map_err(s3)
}

/// The source of a copy.
pub fn source(source: &CopySource, conditions: Conditions) -> S3Result<Source> {
    match source {
        CopySource::Bucket { bucket, key, version_id } => {
            let version = version(version_id.as_deref())?;
            Ok(Source { bucket: bucket.to_string(), key: key.to_string(), version, conditions })
        }
        _ => Err(not_implemented("access points")),
    }
}

/// There is one owner: the canned lists that say so are fine, the others would be a lie.
pub fn check_acl(acl: Option<&ObjectCannedACL>) -> S3Result<()> {
    match acl.map(ObjectCannedACL::as_str) {
        None | Some("private" | "bucket-owner-full-control" | "bucket-owner-read") => Ok(()),
        Some(_) => Err(not_implemented("access control lists")),
    }
}

/// `aws-chunked` is of the transfer, not of the object.
pub fn content_encoding(text: Option<&str>) -> Option<String> {
    let kept: Vec<_> = text?.split(',').map(str::trim).filter(|coding| !coding.is_empty() && *coding != "aws-chunked").collect();
    (!kept.is_empty()).then(|| kept.join(","))
}

/// `STANDARD` is what no class means.
pub fn storage_class(class: Option<&StorageClass>) -> Option<String> {
    class.map(|class| class.as_str().to_owned()).filter(|class| class != "STANDARD")
}

/// User metadata; names are not case-sensitive.
pub fn metadata(metadata: Option<Metadata>) -> BTreeMap<String, String> {
    metadata.unwrap_or_default().into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value)).collect()
}

/// User metadata in an answer. The library decodes encoded words (RFC 2047) in requests, but does not encode what would be
/// taken for them in answers.
pub fn metadata_headers(metadata: &BTreeMap<String, String>) -> S3Result<HeaderMap> {
    let header = |(name, value): (&String, &String)| {
        let name = HeaderName::try_from(format!("x-amz-meta-{name}")).map_err(|_| invalid("not a name of metadata"))?;
        let value = HeaderValue::try_from(to_header(value)).map_err(|_| invalid("not a value of metadata"))?;
        Ok((name, value))
    };
    metadata.iter().map(header).collect()
}

/// `x-amz-tagging`: a query string.
pub fn tags(header: Option<&str>) -> S3Result<BTreeMap<String, String>> {
    let decode = |text: &str| {
        let spaced = text.replace('+', " ");
        let decoded = percent_decode_str(&spaced).decode_utf8().map(|text| text.into_owned());
        decoded.map_err(|_| invalid("x-amz-tagging is not UTF-8"))
    };
    let pairs = header.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(key, value)| Ok((decode(key)?, decode(value)?))).collect()
}

/// An algorithm by S3's name.
pub fn algorithm(name: Option<&str>) -> S3Result<Option<Algorithm>> {
    name.map(|name| Algorithm::from_name(name).ok_or_else(|| invalid("no such checksum algorithm"))).transpose()
}

/// `x-amz-checksum-type`, where there are checksums.
pub fn checksum_type(checksums: &Checksums) -> Option<ChecksumType> {
    let name = if checksums.composite { ChecksumType::COMPOSITE } else { ChecksumType::FULL_OBJECT };
    (!checksums.values.is_empty()).then(|| ChecksumType::from_static(name))
}

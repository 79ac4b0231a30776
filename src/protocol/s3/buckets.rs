//! Operations on buckets.

use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result};

use super::Endpoint;
use super::convert::timestamp;
use super::error::{invalid, not_implemented, s3};
use crate::store::object::local::Versioning;

/// The one owner of everything.
pub fn owner() -> Owner {
    Owner { display_name: Some("tidegate".into()), id: Some("tidegate".into()) }
}

pub async fn create_bucket(
    endpoint: &Endpoint,
    request: S3Request<CreateBucketInput>,
) -> S3Result<S3Response<CreateBucketOutput>> {
    let input = request.input;
    if input.object_lock_enabled_for_bucket == Some(true) {
        return Err(not_implemented("object lock"));
    }
    if input.acl.as_ref().is_some_and(|acl| acl.as_str() != BucketCannedACL::PRIVATE) {
        return Err(not_implemented("access control lists"));
    }
    endpoint.local.create_bucket(&input.bucket).await.map_err(s3)?;
    Ok(S3Response::new(CreateBucketOutput { location: Some(format!("/{}", input.bucket)) }))
}

pub async fn delete_bucket(
    endpoint: &Endpoint,
    request: S3Request<DeleteBucketInput>,
) -> S3Result<S3Response<DeleteBucketOutput>> {
    endpoint.local.delete_bucket(&request.input.bucket).await.map_err(s3)?;
    Ok(S3Response::new(DeleteBucketOutput::default()))
}

pub async fn head_bucket(endpoint: &Endpoint, request: S3Request<HeadBucketInput>) -> S3Result<S3Response<HeadBucketOutput>> {
    endpoint.local.bucket_info(&request.input.bucket).map_err(s3)?;
    let output = HeadBucketOutput { bucket_region: Some(endpoint.region.clone()), ..HeadBucketOutput::default() };
    Ok(S3Response::new(output))
}

pub async fn list_buckets(endpoint: &Endpoint, request: S3Request<ListBucketsInput>) -> S3Result<S3Response<ListBucketsOutput>> {
    let input = request.input;
    let prefix = input.prefix.clone().unwrap_or_default();
    let after = input.continuation_token.unwrap_or_default();
    let limit = usize::try_from(input.max_buckets.unwrap_or(10_000)).map_err(|_| invalid("max-buckets is negative"))?;
    let all = endpoint.local.buckets();
    let mut wanted = all.iter().filter(|bucket| bucket.name.starts_with(&prefix) && bucket.name > after);
    let bucket = |bucket: &crate::store::object::local::BucketInfo| Bucket {
        bucket_region: Some(endpoint.region.clone()),
        creation_date: Some(timestamp(bucket.created_ns)),
        name: Some(bucket.name.clone()),
    };
    let buckets: Vec<_> = wanted.by_ref().take(limit).map(bucket).collect();
    let more = wanted.next().is_some();
    let continuation_token = buckets.last().and_then(|bucket| bucket.name.clone()).filter(|_| more);
    Ok(S3Response::new(ListBucketsOutput {
        buckets: Some(buckets),
        continuation_token,
        owner: Some(owner()),
        prefix: input.prefix,
    }))
}

pub async fn get_bucket_location(
    endpoint: &Endpoint,
    request: S3Request<GetBucketLocationInput>,
) -> S3Result<S3Response<GetBucketLocationOutput>> {
    endpoint.local.bucket_info(&request.input.bucket).map_err(s3)?;
    // S3 says nothing for its first region.
    let region = Some(endpoint.region.clone()).filter(|region| region != "us-east-1");
    Ok(S3Response::new(GetBucketLocationOutput { location_constraint: region.map(BucketLocationConstraint::from) }))
}

pub async fn get_bucket_versioning(
    endpoint: &Endpoint,
    request: S3Request<GetBucketVersioningInput>,
) -> S3Result<S3Response<GetBucketVersioningOutput>> {
    let status = match endpoint.local.bucket_info(&request.input.bucket).map_err(s3)?.versioning {
        Versioning::Off => None,
        Versioning::Enabled => Some(BucketVersioningStatus::from_static(BucketVersioningStatus::ENABLED)),
        Versioning::Suspended => Some(BucketVersioningStatus::from_static(BucketVersioningStatus::SUSPENDED)),
    };
    Ok(S3Response::new(GetBucketVersioningOutput { mfa_delete: None, status }))
}

pub async fn put_bucket_versioning(
    endpoint: &Endpoint,
    request: S3Request<PutBucketVersioningInput>,
) -> S3Result<S3Response<PutBucketVersioningOutput>> {
    let input = request.input;
    if input.versioning_configuration.mfa_delete.as_ref().is_some_and(|mfa| mfa.as_str() == MFADelete::ENABLED) {
        return Err(not_implemented("MFA delete"));
    }
    let enabled = match input.versioning_configuration.status.as_ref().map(BucketVersioningStatus::as_str) {
        Some(BucketVersioningStatus::ENABLED) => true,
        Some(BucketVersioningStatus::SUSPENDED) => false,
        _ => return Err(invalid("the versioning status is Enabled or Suspended")),
    };
    endpoint.local.set_versioning(&input.bucket, enabled).await.map_err(s3)?;
    Ok(S3Response::new(PutBucketVersioningOutput::default()))
}

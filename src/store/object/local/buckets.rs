//! Verbs of buckets.

use super::index::{CreateBucket, DeleteBucket, SetVersioning};
use super::types::BucketInfo;
use super::{Local, LocalError, name};

impl Local {
    /// All buckets, by name.
    pub fn buckets(&self) -> Vec<BucketInfo> {
        self.index.buckets()
    }

    /// A bucket.
    ///
    /// # Errors
    /// `NoSuchBucket`.
    pub fn bucket_info(&self, bucket: &str) -> Result<BucketInfo, LocalError> {
        self.index.bucket(bucket)
    }

    /// Creates a bucket.
    ///
    /// # Errors
    /// `InvalidBucketName`, `BucketExists`, or the index's.
    pub async fn create_bucket(&self, bucket: &str) -> Result<(), LocalError> {
        name::check_bucket(bucket)?;
        self.index.change(CreateBucket { name: bucket.into(), created_ns: self.now_ns() }).await
    }

    /// Creates a bucket unless it is there.
    ///
    /// # Errors
    /// `InvalidBucketName`, or the index's.
    pub async fn ensure_bucket(&self, bucket: &str) -> Result<(), LocalError> {
        match self.create_bucket(bucket).await {
            Err(LocalError::BucketExists(_)) => Ok(()),
            result => result,
        }
    }

    /// Removes an empty bucket.
    ///
    /// # Errors
    /// `NoSuchBucket`, `BucketNotEmpty`, or the index's.
    pub async fn delete_bucket(&self, bucket: &str) -> Result<(), LocalError> {
        self.index.change(DeleteBucket(bucket.into())).await
    }

    /// Enables versions, or suspends them.
    ///
    /// # Errors
    /// `NoSuchBucket`, or the index's.
    pub async fn set_versioning(&self, bucket: &str, enabled: bool) -> Result<(), LocalError> {
        self.index.change(SetVersioning { bucket: bucket.into(), enabled }).await
    }
}

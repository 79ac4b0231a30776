//! The words of the store's interface: what a bucket, an object and a version are to those who ask.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::LocalError;
use super::digest::Checksums;

/// Whether a bucket keeps versions. Once enabled it can only be suspended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Versioning {
    /// Never enabled.
    Off,
    /// Each write adds a version.
    Enabled,
    /// Writes replace the version `null` and leave the others alone.
    Suspended,
}

/// A bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketInfo {
    /// Its number in the index, never given twice.
    pub id: i64,
    /// Its name.
    pub name: String,
    /// When it was created, nanoseconds since the Unix epoch.
    pub created_ns: i64,
    /// Whether it keeps versions.
    pub versioning: Versioning,
}

/// The name of one version of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VersionId {
    /// `null`: written while versions were off or suspended.
    Null,
    /// The number of a version, in hexadecimal on the wire.
    Id(i64),
}

impl fmt::Display for VersionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Id(id) => write!(f, "{id:016x}"),
        }
    }
}

impl FromStr for VersionId {
    type Err = LocalError;

    fn from_str(text: &str) -> Result<Self, LocalError> {
        if text == "null" {
            return Ok(Self::Null);
        }
        let id = i64::from_str_radix(text, 16).ok().filter(|id| *id > 0 && text.len() == 16);
        id.map(Self::Id).ok_or_else(|| LocalError::InvalidArgument("not a version id".into()))
    }
}

/// What is kept with an object's bytes and given back with them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Headers {
    /// `Content-Type`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// `Cache-Control`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_control: Option<String>,
    /// `Content-Disposition`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_disposition: Option<String>,
    /// `Content-Encoding`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_encoding: Option<String>,
    /// `Content-Language`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_language: Option<String>,
    /// `Expires`, verbatim.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
    /// `x-amz-website-redirect-location`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub website_redirect: Option<String>,
    /// `x-amz-storage-class`; `None` is `STANDARD`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_class: Option<String>,
    /// User metadata, names in lower case without their prefix.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

impl Headers {
    /// Refuses more user metadata than S3's 2 KiB.
    pub(super) fn check(&self) -> Result<(), LocalError> {
        let bytes: usize = self.metadata.iter().map(|(name, value)| name.len() + value.len()).sum();
        if bytes > 2048 { Err(LocalError::MetadataTooLarge) } else { Ok(()) }
    }
}

/// A version of an object, without its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Length in bytes.
    pub size_bytes: u64,
    /// ETag without quotes.
    pub etag: String,
    /// Whole seconds, as nanoseconds since the Unix epoch.
    pub modified_ns: i64,
    /// Its version, where the bucket has or had versions.
    pub version: Option<VersionId>,
    /// What is kept with the bytes.
    pub headers: Headers,
    /// Checksums that are kept.
    pub checksums: Checksums,
    /// Tags.
    pub tags: BTreeMap<String, String>,
    /// Number of parts, for an object that was a multipart upload.
    pub parts: Option<u32>,
}

/// What a write requires of the object that is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requirement {
    /// `If-None-Match: *`.
    pub absent: bool,
    /// `If-Match`: an ETag, or `*` for any object.
    pub matches: Option<String>,
}

/// What a write made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// ETag of the new object.
    pub etag: String,
    /// Its version, where the bucket keeps versions.
    pub version: Option<VersionId>,
    /// Its length in bytes.
    pub size_bytes: u64,
    /// When, nanoseconds since the Unix epoch.
    pub modified_ns: i64,
    /// Checksums that are kept.
    pub checksums: Checksums,
}

/// What a delete did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deleted {
    /// The version that was deleted, or the marker that was made.
    pub version: Option<VersionId>,
    /// Whether `version` is a delete marker.
    pub marker: bool,
}

/// An object that is copied from.
#[derive(Clone, Debug, Default)]
pub struct Source {
    /// Its bucket.
    pub bucket: String,
    /// Its key.
    pub key: String,
    /// A version of it, else the latest.
    pub version: Option<VersionId>,
    /// `x-amz-copy-source-if-…`.
    pub conditions: super::Conditions,
}

/// Where a copy's headers come from.
#[derive(Clone, Debug)]
pub enum MetadataDirective {
    /// The source's.
    Copy,
    /// These. A storage class is set in either case.
    Replace(Box<Headers>),
}

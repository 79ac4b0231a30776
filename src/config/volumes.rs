//! `[volumes]` and `[iscsi]`: where disks are kept, and where they are served.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{S3Config, Size, Span};

/// `[volumes]` of `tidegate.toml`.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct VolumesConfig {
    /// The bucket that volumes are in.
    pub bucket: String,
    /// Before all of their keys: empty, or ending in "/".
    pub prefix: String,
    /// The endpoint, where it is not the gateway's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3Config>,
    /// How old what is new on a volume may get before it goes to S3.
    pub upload_interval: Span,
    /// What each volume may have of the cache for bytes that are not uploaded; three quarters of it where it is not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_maximum: Option<Size>,
}

impl Default for VolumesConfig {
    fn default() -> Self {
        let upload_interval = Span(Duration::from_secs(10));
        Self { bucket: "volumes".into(), prefix: String::new(), s3: None, upload_interval, cache_maximum: None }
    }
}

impl VolumesConfig {
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        if self.bucket.is_empty() {
            return Err(("bucket", "must not be empty".into()));
        }
        if !self.prefix.is_empty() && (!self.prefix.ends_with('/') || self.prefix.starts_with('/')) {
            return Err(("prefix", "must be empty, or end in \"/\" and not begin with it".into()));
        }
        if self.upload_interval.0 < Duration::from_secs(1) {
            return Err(("upload_interval", "must be at least a second: each upload is two requests".into()));
        }
        Ok(())
    }
}

/// `[iscsi]` of `tidegate.toml`.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct IscsiConfig {
    /// Where targets are served; an empty list is nowhere.
    pub listen: Vec<SocketAddr>,
    /// What the names of targets begin with; the volume's name follows.
    pub name: String,
}

impl Default for IscsiConfig {
    fn default() -> Self {
        Self { listen: vec![SocketAddr::from(([127, 0, 0, 1], 3260))], name: "iqn.2026-01.org.tidegate".into() }
    }
}

impl IscsiConfig {
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.' | ':');
        let begins = ["iqn.", "eui.", "naa."].iter().any(|kind| self.name.starts_with(kind));
        if begins && self.name.len() <= 150 && self.name.chars().all(is_plain) {
            return Ok(());
        }
        Err(("name", format!("\"{}\" is no beginning of an iSCSI name: one is like iqn.2026-01.org.example", self.name)))
    }
}

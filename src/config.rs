//! The files that an operator writes: `tidegate.toml` and `shares/NAME.toml`.
//!
//! What lives here: [`Config`], which composes what the modules' settings need and cross-checks it; `config/share.rs` is one share's file,
//! `config/parse.rs` turns a mistake into file, line, field and reason, `config/value.rs` has sizes and durations as people write them.
//!
//! Invariants:
//! - Every field has a default that is safe: no file at all is a whole gateway that listens on loopback only.
//! - A field that is not known is an error, never ignored. What is read is checked here, once, before anything is started.
//! - Relative paths are relative to the directory of the file that has them (without a file: the working directory).

mod nfs;
mod parse;
mod share;
mod smb;
mod value;
mod volumes;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use nfs::{NfsConfig, NfsShareConfig};
pub use share::{NamedShare, ShareConfig, share_name};
pub use smb::{Case, Demand, SmbConfig, SmbShareConfig};
pub use value::{Size, Span};
pub use volumes::{IscsiConfig, VolumesConfig};

/// A mistake in a file, as an operator needs it: where, which field, what is wrong and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1; `None` where it is about the whole file.
    pub line: Option<usize>,
    /// The field, dotted; empty where it is about the whole file.
    pub field: String,
    /// In words.
    pub reason: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.field.is_empty() {
            write!(f, ": {}", self.field)?;
        }
        write!(f, ": {}", self.reason)
    }
}

impl std::error::Error for ConfigError {}

/// `tidegate.toml`.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Database, embedded endpoint, keys.
    pub data_dir: PathBuf,
    /// Where the shares' files are.
    pub shares_dir: PathBuf,
    /// The local log.
    pub cache: CacheConfig,
    /// The endpoint of shares that name none of their own.
    pub s3: S3Config,
    /// The embedded endpoint.
    pub embedded: EmbeddedConfig,
    /// Status, metrics and control.
    pub admin: AdminConfig,
    /// NFS, for all shares.
    pub nfs: NfsConfig,
    /// Disks.
    pub volumes: VolumesConfig,
    /// Where disks are served.
    pub iscsi: IscsiConfig,
    /// SMB, for all shares.
    pub smb: SmbConfig,
    /// Uploads of all shares.
    pub upload: UploadConfig,
    /// The file that this was read from; `tidegate.toml` where there was none.
    #[serde(skip)]
    pub file: PathBuf,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: "tidegate-data".into(),
            shares_dir: "shares".into(),
            cache: CacheConfig::default(),
            s3: S3Config::default(),
            embedded: EmbeddedConfig::default(),
            admin: AdminConfig::default(),
            nfs: NfsConfig::default(),
            volumes: VolumesConfig::default(),
            iscsi: IscsiConfig::default(),
            smb: SmbConfig::default(),
            upload: UploadConfig::default(),
            file: "tidegate.toml".into(),
        }
    }
}

/// `[cache]`.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct CacheConfig {
    /// Where the log's segments are; `data_dir/cache` where it is not given.
    pub dir: Option<PathBuf>,
    /// All of the log, in bytes; 10 GiB or a tenth of the free disk where it is not given, whichever is less.
    pub size: Option<Size>,
    /// How long a write waits where the cache is full of bytes that are not uploaded, before it fails with "no space".
    pub wait: Span,
    /// For extent maps.
    pub memory: Size,
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self { dir: None, size: None, wait: Span::seconds(300), memory: Size(256 << 20) }
    }
}

/// `[s3]`, of the gateway or of one share.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct S3Config {
    /// `embedded`, `aws`, or a URL.
    pub endpoint: String,
    /// AWS region; needed by most endpoints for signatures only.
    pub region: String,
    /// A profile of the AWS configuration; the default chain (environment, files, instance) where it is not given.
    pub profile: Option<String>,
    /// A credentials file in AWS's format, instead of the chain's.
    pub credentials_file: Option<PathBuf>,
    /// Requests under way at a time.
    pub concurrency: usize,
    /// The most that is sent to this endpoint, in bytes a second; no limit where it is not given.
    pub upload_limit: Option<Size>,
    /// The most that is fetched, in bytes a second.
    pub download_limit: Option<Size>,
}

impl Default for S3Config {
    fn default() -> Self {
        Self {
            endpoint: "embedded".into(),
            region: "us-east-1".into(),
            profile: None,
            credentials_file: None,
            concurrency: 64,
            upload_limit: None,
            download_limit: None,
        }
    }
}

/// Which endpoint an [`S3Config`] means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// The gateway's own.
    Embedded,
    /// AWS, by region.
    Aws,
    /// Any other, by URL.
    Url(String),
}

impl S3Config {
    /// See [`Endpoint`].
    pub fn kind(&self) -> Endpoint {
        match self.endpoint.as_str() {
            "embedded" => Endpoint::Embedded,
            "aws" => Endpoint::Aws,
            url => Endpoint::Url(url.to_owned()),
        }
    }

    /// Where its buckets are, in words that stay the same however it is written: two that are equal are one place.
    pub fn site(&self) -> String {
        match self.kind() {
            Endpoint::Embedded => "embedded".to_owned(),
            Endpoint::Aws => "aws".to_owned(),
            Endpoint::Url(url) => site_of_url(&url),
        }
    }

    fn check(&self) -> Result<(), (&'static str, String)> {
        match self.kind() {
            Endpoint::Url(url) if !url.starts_with("http://") && !url.starts_with("https://") => {
                return Err((
                    "endpoint",
                    format!("\"{url}\" is neither \"embedded\", \"aws\" nor a URL with http:// or https://"),
                ));
            }
            _ => {}
        }
        if self.region.is_empty() {
            return Err(("region", "must not be empty; any name does for an endpoint that has no regions".into()));
        }
        if self.concurrency == 0 || self.concurrency > 1024 {
            return Err(("concurrency", "must be from 1 to 1024".into()));
        }
        for (field, limit) in [("upload_limit", self.upload_limit), ("download_limit", self.download_limit)] {
            if limit.is_some_and(|limit| limit.0 < 64 << 10) {
                return Err((field, "must be at least 64 KiB a second".into()));
            }
        }
        Ok(())
    }
}

/// A URL without what makes no difference: case, the scheme's own port, a slash at the end. AWS's regions are one site: a bucket's name is
/// given only once in all of them.
fn site_of_url(url: &str) -> String {
    let url = url.trim_end_matches('/').to_ascii_lowercase();
    if url.ends_with(".amazonaws.com") {
        return "aws".to_owned();
    }
    let usual = if url.starts_with("https://") { ":443" } else { ":80" };
    url.strip_suffix(usual).unwrap_or(&url).to_owned()
}

/// `[embedded]`: the S3 endpoint that the gateway itself serves.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct EmbeddedConfig {
    /// Where it listens.
    pub listen: SocketAddr,
}

impl Default for EmbeddedConfig {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 9000)) }
    }
}

/// `[admin]`.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct AdminConfig {
    /// Where it listens.
    pub listen: SocketAddr,
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 9080)) }
    }
}

/// `[upload]`.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct UploadConfig {
    /// Uploads of one share at a time.
    pub concurrency: usize,
    /// Parts of one upload at a time.
    pub part_concurrency: usize,
    /// The size of a part, from 5 MiB to 5 GiB.
    pub part_size: Size,
    /// Bodies in memory.
    pub memory: Size,
}

impl Default for UploadConfig {
    fn default() -> Self {
        Self { concurrency: 16, part_concurrency: 4, part_size: Size(8 << 20), memory: Size(256 << 20) }
    }
}

impl Config {
    /// Reads `file`; `None`: `tidegate.toml` in the working directory if there is one, else the defaults.
    ///
    /// # Errors
    /// Where the file cannot be read or is wrong.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        let implied = Path::new("tidegate.toml");
        let file = match file {
            Some(file) => file,
            None if implied.exists() => implied,
            None => return Ok(Self::default().rooted(Path::new(""))),
        };
        let text = parse::read(file)?;
        let config = Self { file: file.to_path_buf(), ..parse::parse(file, &text)? };
        config.check().map_err(|(field, reason)| parse::at_field(file, &text, field, reason))?;
        Ok(config.rooted(file.parent().unwrap_or(Path::new(""))))
    }

    fn check(&self) -> Result<(), (String, String)> {
        let own = |section: &str, result: Result<(), (&'static str, String)>| {
            result.map_err(|(field, reason)| (format!("{section}.{field}"), reason))
        };
        own("s3", self.s3.check())?;
        own("volumes", self.volumes.check())?;
        own("iscsi", self.iscsi.check())?;
        if let Some(s3) = &self.volumes.s3 {
            own("volumes.s3", s3.check())?;
        }
        own("smb", self.smb.check())?;
        let fail = |field: &str, reason: &str| Err((field.to_owned(), reason.to_owned()));
        if self.data_dir.as_os_str().is_empty() {
            return fail("data_dir", "must not be empty");
        }
        if self.cache.size.is_some_and(|size| size.0 < 64 << 20) {
            return fail("cache.size", "must be at least 64 MiB");
        }
        if self.cache.memory.0 < 16 << 20 {
            return fail("cache.memory", "must be at least 16 MiB");
        }
        if self.upload.concurrency == 0 || self.upload.concurrency > 256 {
            return fail("upload.concurrency", "must be from 1 to 256");
        }
        if self.upload.part_concurrency == 0 || self.upload.part_concurrency > 64 {
            return fail("upload.part_concurrency", "must be from 1 to 64");
        }
        if self.upload.part_size.0 < 5 << 20 || self.upload.part_size.0 > 5 << 30 {
            return fail("upload.part_size", "must be from 5 MiB to 5 GiB (S3's limits of a part)");
        }
        if self.upload.memory.0 < 2 * self.upload.part_size.0 {
            return fail("upload.memory", "must have room for at least two parts (upload.part_size)");
        }
        if self.embedded.listen == self.admin.listen && self.admin.listen.port() != 0 {
            return fail("admin.listen", "is the embedded endpoint's address too (embedded.listen); choose another port");
        }
        Ok(())
    }

    fn rooted(mut self, base: &Path) -> Self {
        self.data_dir = base.join(&self.data_dir);
        self.shares_dir = base.join(&self.shares_dir);
        self.cache.dir = Some(self.cache.dir.map_or_else(|| self.data_dir.join("cache"), |dir| base.join(dir)));
        self.s3.credentials_file = self.s3.credentials_file.map(|file| base.join(file));
        if let Some(s3) = &mut self.volumes.s3 {
            s3.credentials_file = s3.credentials_file.take().map(|file| base.join(file));
        }
        self
    }

    /// Where the log's segments are.
    pub fn cache_dir(&self) -> PathBuf {
        self.cache.dir.clone().unwrap_or_else(|| self.data_dir.join("cache"))
    }

    /// Where the users of SMB are.
    pub fn users_dir(&self) -> PathBuf {
        self.data_dir.join("smb")
    }

    /// Reads every `NAME.toml` of the shares' directory, in the order of the names: a share or why it is none.
    ///
    /// # Errors
    /// Where the directory cannot be read (then nothing is known, which is not the same as no shares).
    pub fn load_shares(&self) -> Result<Vec<NamedShare>, ConfigError> {
        let directory = &self.shares_dir;
        let unreadable = |error: std::io::Error| ConfigError {
            file: directory.clone(),
            line: None,
            field: String::new(),
            reason: format!("the directory of the shares cannot be read: {error}"),
        };
        let mut files = Vec::new();
        for entry in std::fs::read_dir(directory).map_err(unreadable)? {
            let path = entry.map_err(unreadable)?.path();
            if path.extension().is_some_and(|extension| extension == "toml") {
                files.push(path);
            }
        }
        files.sort();
        let shares: Vec<_> = files.iter().map(|file| (share_name(file), ShareConfig::load(file, self))).collect();
        let shares = share::without_overlaps(shares, &files, self);
        Ok(match self.cache.size {
            Some(size) => share::within_the_cache(shares, &files, size),
            // A gateway that starts settles it first.
            None => shares,
        })
    }
}

#[cfg(test)]
mod tests;

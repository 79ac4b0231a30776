//! One share's file, `shares/NAME.toml`: the file's name is the share's.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Config, ConfigError, NfsShareConfig, S3Config, Size, SmbShareConfig, Span, parse};
use crate::engine::file::share::{ConflictPolicy, Durability, Settings};
use crate::protocol::fuse;

/// The longest name of a share, in bytes (it is a directory's name in places).
const NAME_BYTES_MAX: usize = 80;

/// `shares/NAME.toml`.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct ShareConfig {
    /// The bucket.
    pub bucket: String,
    /// Only keys that begin with this; ends in "/".
    #[serde(default)]
    pub prefix: String,
    /// How long a file is quiet before it is uploaded.
    #[serde(default = "upload_delay")]
    pub upload_delay: Span,
    /// Publish a file that is held open once its oldest change is this old; never where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload_max_age: Option<Span>,
    /// After how long a directory is looked at again for what others wrote.
    #[serde(default = "refresh")]
    pub refresh: Span,
    /// What fsync waits for: the local disk, or S3.
    #[serde(default)]
    pub durability: DurabilityName,
    /// What happens where somebody else changed the object of a file that was changed here.
    #[serde(default)]
    pub conflict: ConflictName,
    /// `x-amz-storage-class` of new objects; the bucket's default where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_class: Option<String>,
    /// Canned ACL of new objects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acl: Option<String>,
    /// Server-side encryption of new objects: `AES256`, `aws:kms`, `aws:kms:dsse`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<String>,
    /// The KMS key of `encryption`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kms_key: Option<String>,
    /// Whether requests say that the requester pays.
    #[serde(default)]
    pub requester_pays: bool,
    /// Nothing can be changed through the share.
    #[serde(default)]
    pub read_only: bool,
    /// Permission bits of files that others wrote without any.
    #[serde(default = "file_mode")]
    pub file_mode: String,
    /// As `file_mode`, of directories.
    #[serde(default = "directory_mode")]
    pub directory_mode: String,
    /// Owner of files that others wrote without one.
    #[serde(default)]
    pub uid: u32,
    /// Group of files that others wrote without one.
    #[serde(default)]
    pub gid: u32,
    /// `Content-Type` from the file's name.
    #[serde(default = "yes")]
    pub guess_content_type: bool,
    /// The longest that a client's call waits for S3.
    #[serde(default = "remote_timeout")]
    pub remote_timeout: Span,
    /// Bytes in the cache that are not uploaded: always this share's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_guaranteed: Option<Size>,
    /// As `cache_guaranteed`: never more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_maximum: Option<Size>,
    /// An endpoint of the share's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3Config>,
    /// Its mount on this machine; none where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fuse: Option<FuseConfig>,
    /// How it is offered through NFS; to this machine alone where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nfs: Option<NfsShareConfig>,
    /// How it is offered through SMB; to every user where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub smb: Option<SmbShareConfig>,
}

/// `[fuse]` of a share.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct FuseConfig {
    /// The mount point.
    pub mount: PathBuf,
    /// How long the kernel may believe what nobody told it to forget; never longer than the share's `refresh`.
    #[serde(default = "kernel_cache")]
    pub cache: Span,
}

/// See [`Durability`].
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum DurabilityName {
    /// On the cache disk.
    #[default]
    Local,
    /// In S3.
    Remote,
}

/// See [`ConflictPolicy`]. The other policies are refused until they exist.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum ConflictName {
    /// Ours is kept beside theirs.
    #[default]
    KeepBoth,
}

fn upload_delay() -> Span {
    Span::seconds(2)
}

fn refresh() -> Span {
    Span::seconds(60)
}

fn remote_timeout() -> Span {
    Span::seconds(30)
}

fn kernel_cache() -> Span {
    Span(fuse::Settings::at("").cache)
}

fn file_mode() -> String {
    "0644".into()
}

fn directory_mode() -> String {
    "0755".into()
}

fn yes() -> bool {
    true
}

/// A share's name, and the share or why it is none.
pub type NamedShare = (String, Result<ShareConfig, ConfigError>);

/// A share's name: its file's name without `.toml`.
pub fn share_name(file: &Path) -> String {
    file.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

impl ShareConfig {
    /// Reads and checks one share's file.
    ///
    /// # Errors
    /// Where it cannot be read or is wrong.
    pub fn load(file: &Path, gateway: &Config) -> Result<Self, ConfigError> {
        let text = parse::read(file)?;
        let mut share: Self = parse::parse(file, &text)?;
        check_name(&share_name(file)).map_err(|reason| parse::at_field(file, &text, String::new(), reason))?;
        share.check().map_err(|(field, reason)| parse::at_field(file, &text, field, reason))?;
        // The mount point is relative to where the gateway's file is, so that `mnt/demo` is beside it.
        let base = gateway.shares_dir.parent().unwrap_or(Path::new(""));
        if let Some(fuse) = &mut share.fuse {
            fuse.mount = base.join(&fuse.mount);
        }
        if let Some(credentials) = share.s3.as_mut().and_then(|s3| s3.credentials_file.as_mut()) {
            *credentials = base.join(&*credentials);
        }
        Ok(share)
    }

    fn check(&self) -> Result<(), (String, String)> {
        let fail = |field: &str, reason: String| Err((field.to_owned(), reason));
        if let Err(reason) = check_bucket(&self.bucket) {
            return fail("bucket", reason);
        }
        if let Err(reason) = check_prefix(&self.prefix) {
            return fail("prefix", reason);
        }
        for (field, mode) in [("file_mode", &self.file_mode), ("directory_mode", &self.directory_mode)] {
            if parse_mode(mode).is_none() {
                return fail(field, format!("\"{mode}\" is not a mode; write it in octal, like \"0644\""));
            }
        }
        if self.kms_key.is_some() && !self.encryption.as_deref().is_some_and(|encryption| encryption.starts_with("aws:kms")) {
            return fail("kms_key", "needs encryption = \"aws:kms\" or \"aws:kms:dsse\"".into());
        }
        if self.encryption.as_deref().is_some_and(|encryption| !["AES256", "aws:kms", "aws:kms:dsse"].contains(&encryption)) {
            return fail("encryption", "must be \"AES256\", \"aws:kms\" or \"aws:kms:dsse\"".into());
        }
        if self.storage_class.as_deref().is_some_and(|class| {
            class.is_empty() || !class.bytes().all(|b| b.is_ascii_uppercase() || b"_0123456789".contains(&b))
        }) {
            return fail("storage_class", "must be in S3's spelling, like \"STANDARD_IA\"".into());
        }
        if let (Some(guaranteed), Some(maximum)) = (self.cache_guaranteed, self.cache_maximum)
            && guaranteed > maximum
        {
            return fail("cache_guaranteed", "is more than cache_maximum".into());
        }
        if let Some(smb) = &self.smb {
            smb.check().map_err(|(field, reason)| (format!("smb.{field}"), reason))?;
        }
        if let Some(s3) = &self.s3 {
            s3.check().map_err(|(field, reason)| (format!("s3.{field}"), reason))?;
        }
        if self.fuse.as_ref().is_some_and(|fuse| fuse.mount.as_os_str().is_empty()) {
            return fail("fuse.mount", "must not be empty".into());
        }
        if let Some(nfs) = &self.nfs {
            nfs.check().map_err(|(field, reason)| (format!("nfs.{field}"), reason))?;
        }
        Ok(())
    }

    /// What is wrong where the share `name` has its files elsewhere: `part` (`endpoint`, `bucket`, `prefix`) of its place is `kept`. The file
    /// and the field are those that the part is said in.
    pub fn moved(&self, name: &str, gateway: &Config, part: &str, kept: &str, given: &str) -> ConfigError {
        let file = match (part, &self.s3) {
            ("endpoint", None) => gateway.file.clone(),
            _ => gateway.shares_dir.join(format!("{name}.toml")),
        };
        let field = if part == "endpoint" { "s3.endpoint" } else { part };
        let reason = format!(
            "the share \"{name}\" has its files at \"{kept}\", this says \"{given}\": bucket, prefix and endpoint of a share cannot change; \
             put \"{kept}\" back, or give the new place a share of another name"
        );
        parse::at_field(&file, &std::fs::read_to_string(&file).unwrap_or_default(), field.to_owned(), reason)
    }

    /// As [`Self::moved`] where two files of one name mean different places.
    pub fn moved_from(&self, before: &Self, name: &str, gateway: &Config) -> Option<ConfigError> {
        let place = |share: &Self| {
            [("endpoint", share.s3(gateway).site()), ("bucket", share.bucket.clone()), ("prefix", share.prefix.clone())]
        };
        let differs = |((part, kept), (_, given)): ((&'static str, String), (&'static str, String))| {
            (kept != given).then(|| self.moved(name, gateway, part, &kept, &given))
        };
        place(before).into_iter().zip(place(self)).find_map(differs)
    }

    /// The endpoint that it uses.
    pub fn s3<'a>(&'a self, gateway: &'a Config) -> &'a S3Config {
        self.s3.as_ref().unwrap_or(&gateway.s3)
    }

    /// As the engine takes it.
    pub fn settings(&self, gateway: &Config) -> Settings {
        Settings {
            bucket: self.bucket.clone(),
            prefix: self.prefix.clone(),
            endpoint: self.s3(gateway).site(),
            upload_delay: self.upload_delay.0,
            stateless_delay: self.nfs.clone().unwrap_or_default().upload_delay.0,
            refresh: self.refresh.0,
            durability: match self.durability {
                DurabilityName::Local => Durability::Local,
                DurabilityName::Remote => Durability::Remote,
            },
            read_only: self.read_only,
            file_mode: parse_mode(&self.file_mode).unwrap_or(0o644),
            dir_mode: parse_mode(&self.directory_mode).unwrap_or(0o755),
            uid: self.uid,
            gid: self.gid,
            storage_class: self.storage_class.clone(),
            acl: self.acl.clone(),
            encryption: self.encryption.clone(),
            kms_key: self.kms_key.clone(),
            conflict: match self.conflict {
                ConflictName::KeepBoth => ConflictPolicy::KeepBoth,
            },
            guess_mime: self.guess_content_type,
            upload_max_age: self.upload_max_age.map(|age| age.0),
            remote_timeout: self.remote_timeout.0,
        }
    }
}

fn parse_mode(text: &str) -> Option<u32> {
    u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777)
}

fn check_name(name: &str) -> Result<(), String> {
    let fits = !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && !name.starts_with('.')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    if fits { Ok(()) } else { Err(format!("a share's name (its file's name) is 1 to {NAME_BYTES_MAX} of a-z A-Z 0-9 - . _")) }
}

/// S3's rules for bucket names (general purpose buckets).
fn check_bucket(name: &str) -> Result<(), String> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
    let edge = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let bytes = name.as_bytes();
    if (3..=63).contains(&bytes.len())
        && bytes.iter().all(|byte| allowed(*byte))
        && edge(bytes.first())
        && edge(bytes.last())
        && !name.contains("..")
    {
        Ok(())
    } else {
        Err(format!("\"{name}\" is not a bucket's name: 3 to 63 of a-z 0-9 - . with a letter or digit at both ends"))
    }
}

fn check_prefix(prefix: &str) -> Result<(), String> {
    if prefix.is_empty() {
        return Ok(());
    }
    if !prefix.ends_with('/') {
        return Err(format!("\"{prefix}\" must end in \"/\""));
    }
    if prefix.len() > 512 || prefix.trim_end_matches('/').split('/').any(|part| part.is_empty() || part == "." || part == "..") {
        return Err(format!(
            "\"{prefix}\" must be parts with \"/\" after each, none of them empty, \".\" or \"..\", at most 512 bytes"
        ));
    }
    Ok(())
}

/// Refuses every share whose keys another one has too (same endpoint and bucket, one prefix inside the other), and mount points that are
/// given twice: the later by name goes.
pub(super) fn without_overlaps(mut shares: Vec<NamedShare>, files: &[PathBuf], gateway: &Config) -> Vec<NamedShare> {
    // A URL of the embedded endpoint is the embedded endpoint.
    let site = |share: &ShareConfig| {
        let site = share.s3(gateway).site();
        let address = site.strip_prefix("http://").map(|host| host.replace("localhost", "127.0.0.1"));
        if address == Some(gateway.embedded.listen.to_string()) { "embedded".to_owned() } else { site }
    };
    for (later, file) in files.iter().enumerate().skip(1) {
        let (earlier, rest) = shares.split_at_mut(later);
        let (_, Ok(share)) = &rest[0] else { continue };
        let clash = earlier.iter().find_map(|(name, other)| {
            let other = other.as_ref().ok()?;
            let same_bucket = other.bucket == share.bucket && site(other) == site(share);
            if same_bucket && (other.prefix.starts_with(&share.prefix) || share.prefix.starts_with(&other.prefix)) {
                return Some((
                    "prefix",
                    format!("overlaps the share \"{name}\": both would write the same keys of bucket \"{}\"", share.bucket),
                ));
            }
            let mount = |share: &ShareConfig| share.fuse.as_ref().map(|fuse| fuse.mount.clone());
            (mount(other).is_some() && mount(other) == mount(share))
                .then(|| ("fuse.mount", format!("is the mount point of the share \"{name}\" too")))
        });
        if let Some((field, reason)) = clash {
            let text = std::fs::read_to_string(file).unwrap_or_default();
            rest[0].1 = Err(parse::at_field(file, &text, field.to_owned(), reason));
        }
    }
    shares
}

/// Refuses every share with whose guarantee the shares are promised more than half of the cache: the rest is needed to turn round in.
pub(super) fn within_the_cache(mut shares: Vec<NamedShare>, files: &[PathBuf], cache: Size) -> Vec<NamedShare> {
    let mut promised = 0_u64;
    for ((_, share), file) in shares.iter_mut().zip(files) {
        let Some(guaranteed) = share.as_ref().ok().and_then(|share| share.cache_guaranteed) else { continue };
        let after = promised.saturating_add(guaranteed.0);
        if after <= cache.0 / 2 {
            promised = after;
            continue;
        }
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let reason = format!(
            "{guaranteed} with the {} that other shares are guaranteed is more than half of the cache ({cache}): give it less, or the cache more",
            Size(promised)
        );
        *share = Err(parse::at_field(file, &text, "cache_guaranteed".to_owned(), reason));
    }
    shares
}

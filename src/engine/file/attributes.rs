//! What a node is besides its bytes, as the attributes of its object: the object contract's metadata, both ways. Pure.
//!
//! Written (user metadata, `x-amz-meta-` left out; the `file-` names are the schema that AWS DataSync, FSx and File Gateway share):
//!
//! | name | value |
//! |---|---|
//! | `file-permissions` | `st_mode` in octal, type bits too: `0100644`, `0040755`, `0120777` |
//! | `file-owner`, `file-group` | numbers |
//! | `file-mtime`, `file-atime` | `1595002920000000000ns` |
//! | `tidegate-birthtime` | as `file-mtime`, where it is not the modification time |
//! | `tidegate-rdev` | `MAJOR:MINOR` of a device |
//! | `tidegate-xattrs` | `NAME=VALUE,…`, each in unpadded URL-safe base64, ordered by name |
//! | `tidegate-overflow` | the object under `<prefix>.tidegate/overflow/` that has the extended attributes which do not fit here |
//! | `tidegate-link` | the link group that the object is one name of, see `linkgroup.rs` |
//! | `tidegate-open` | `1`: published while somebody still had the file open for writing |
//! | `tidegate-generation` | added by the upload engine |
//!
//! Read besides: permissions without type bits (`0644`); times without `ns` (milliseconds) and with a fraction (`1595002920.5`, seconds); and where
//! there is no `file-` name, rclone's and s3fs's `mtime` (seconds) and s3fs's `mode` (decimal), `uid`, `gid`. What is absent has the share's defaults.
//! Metadata and a `Content-Type` that somebody else gave an object are kept, as the extended attributes `user.s3.meta.NAME` and
//! `user.s3.content-type`; setting those sets the object's.
//!
//! Invariants: `decode(encode(x)) == x` for all that an object can carry; what does not fit is in the overflow, never dropped.
//! The digest leaves out the access time and the generation mark, which never cause a request.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::engine::file::NodeKind;
use crate::store::object::Attributes;
use crate::store::upload::GENERATION_MARK;

use super::overflow;

/// The most that S3 keeps of names and values of user metadata, in bytes, less what the upload engine's mark may need.
pub const METADATA_BYTES_MAX: usize = 2048 - 192;
/// `Content-Type` of a directory's marker.
pub const DIRECTORY_TYPE: &str = "application/x-directory";
/// Extended attributes of this prefix are user metadata of the object.
pub const XATTR_METADATA: &[u8] = b"user.s3.meta.";
/// The extended attribute that is the object's `Content-Type`, where it does not follow from the name.
pub const XATTR_CONTENT_TYPE: &[u8] = b"user.s3.content-type";

const PERMISSIONS: &str = "file-permissions";
const OWNER: &str = "file-owner";
const GROUP: &str = "file-group";
const MTIME: &str = "file-mtime";
const ATIME: &str = "file-atime";
const BIRTH: &str = "tidegate-birthtime";
const RDEV: &str = "tidegate-rdev";
const XATTRS: &str = "tidegate-xattrs";
const OVERFLOW: &str = "tidegate-overflow";
const LINK: &str = "tidegate-link";
const OPEN: &str = "tidegate-open";
/// Names of other tools that are read, and those that say only who wrote: none is kept as an extended attribute.
const FOREIGN_READ: [&str; 6] = ["mtime", "mode", "uid", "gid", "user-agent", "user-agent-id"];

/// What a node is besides its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Posix {
    /// Type.
    pub kind: NodeKind,
    /// Permission bits, `0o7777`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number, as `makedev` of Linux.
    pub rdev: u32,
    /// Nanoseconds since the Unix epoch.
    pub mtime_ns: i64,
    /// See `mtime_ns`.
    pub atime_ns: i64,
    /// See `mtime_ns`.
    pub birth_ns: i64,
    /// Extended attributes by their whole names.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The link group of a node with several names.
    pub link: Option<String>,
    /// Published while it was open for writing.
    pub open: bool,
}

/// What a share gives objects that say nothing, and all that it writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Permission bits of files.
    pub file_mode: u32,
    /// Permission bits of directories.
    pub dir_mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// `Content-Type` from the name.
    pub guess_mime: bool,
    /// Storage class, canned ACL, encryption and key of what is written; the rest of it is empty.
    pub dress: Attributes,
}

/// A node's attributes as they are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// With the object.
    pub attributes: Attributes,
    /// The name under `.tidegate/overflow/` and the body of what did not fit.
    pub overflow: Option<(String, Bytes)>,
}

/// An object's attributes as they were read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// The node's.
    pub posix: Posix,
    /// The name under `.tidegate/overflow/` of more extended attributes.
    pub overflow: Option<String>,
}

/// The attributes to write for a node whose last name is `name`. `unique` names its overflow: gateway and node.
pub fn encode(posix: &Posix, name: &str, unique: &str, rules: &Rules) -> Encoded {
    let mut out = rules.dress.clone();
    out.content_type = content_type(posix, name, rules);
    let mut fit = Fit { metadata: BTreeMap::new(), used_bytes: 0 };
    fit.force(PERMISSIONS, permissions(posix.kind, posix.mode));
    fit.force(OWNER, posix.uid.to_string());
    fit.force(GROUP, posix.gid.to_string());
    fit.force(MTIME, format!("{}ns", posix.mtime_ns));
    fit.force(ATIME, format!("{}ns", posix.atime_ns));
    if posix.birth_ns != posix.mtime_ns {
        fit.force(BIRTH, format!("{}ns", posix.birth_ns));
    }
    if matches!(posix.kind, NodeKind::BlockDevice | NodeKind::CharDevice) {
        fit.force(RDEV, format!("{}:{}", libc::major(posix.rdev.into()), libc::minor(posix.rdev.into())));
    }
    if let Some(link) = &posix.link {
        fit.force(LINK, link.clone());
    }
    if posix.open {
        fit.force(OPEN, "1".into());
    }
    let overflow = fit.add_xattrs(posix, out.content_type.as_deref(), unique);
    out.metadata = fit.metadata;
    Encoded { attributes: out, overflow }
}

/// What an object's attributes say of a node whose last name is `name`; `modified_ns` is its `LastModified`, `marker` whether
/// its key ends in "/".
pub fn decode(attributes: &Attributes, modified_ns: i64, name: &str, marker: bool, rules: &Rules) -> Decoded {
    let get = |name: &str| attributes.metadata.get(name).map(String::as_str);
    let number = |ours: &str, theirs: &str| get(ours).or_else(|| get(theirs)).and_then(|value| value.trim().parse::<u32>().ok());
    let (kind, mode) = kind_and_mode(get(PERMISSIONS), get("mode"), marker);
    let mtime = get(MTIME).and_then(parse_time).or_else(|| get("mtime").and_then(parse_seconds)).unwrap_or(modified_ns);
    let mut posix = Posix {
        kind,
        mode: mode.unwrap_or(if kind == NodeKind::Directory { rules.dir_mode } else { rules.file_mode }),
        uid: number(OWNER, "uid").unwrap_or(rules.uid),
        gid: number(GROUP, "gid").unwrap_or(rules.gid),
        rdev: get(RDEV).and_then(parse_rdev).unwrap_or(0),
        mtime_ns: mtime,
        atime_ns: get(ATIME).and_then(parse_time).unwrap_or(mtime),
        birth_ns: get(BIRTH).and_then(parse_time).unwrap_or(mtime),
        xattrs: get(XATTRS).map(parse_xattrs).unwrap_or_default(),
        link: get(LINK).map(str::to_owned),
        open: get(OPEN).is_some(),
    };
    keep_foreign(attributes, name, rules, &mut posix);
    Decoded { posix, overflow: get(OVERFLOW).map(str::to_owned) }
}

/// Whether the object says that it was published while it was open.
pub fn is_open(attributes: &Attributes) -> bool {
    attributes.metadata.contains_key(OPEN)
}

/// A digest of everything in `attributes` that a change of makes a request worth its price; never 0.
pub fn digest(attributes: &Attributes) -> u64 {
    let mut hash = Sha256::new();
    hash.update(attributes.content_type.as_deref().unwrap_or(""));
    for (name, value) in attributes.metadata.iter().filter(|(name, _)| *name != ATIME && *name != GENERATION_MARK) {
        hash.update([0]);
        hash.update(name);
        hash.update([1]);
        hash.update(value);
    }
    let digest = hash.finalize();
    u64::from_le_bytes(std::array::from_fn(|at| digest[at])).max(1)
}

/// Whether `name` or a value like this can be user metadata as it is.
fn is_header_safe(name: &str, value: &[u8]) -> bool {
    let token = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
    let edge = |byte: Option<&u8>| byte.is_none_or(|byte| *byte != b' ');
    !name.is_empty()
        && name.bytes().all(token)
        && !name.starts_with("file-")
        && !name.starts_with("tidegate-")
        && !FOREIGN_READ.contains(&name)
        && value.iter().all(|byte| (b' '..=b'~').contains(byte))
        && edge(value.first())
        && edge(value.last())
}

/// The metadata under construction, and its size as S3 counts it.
struct Fit {
    metadata: BTreeMap<String, String>,
    used_bytes: usize,
}

impl Fit {
    fn force(&mut self, name: &str, value: String) {
        self.used_bytes += name.len() + value.len();
        self.metadata.insert(name.to_owned(), value);
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.used_bytes + bytes <= METADATA_BYTES_MAX
    }

    /// Adds the extended attributes that fit; the others become an overflow.
    fn add_xattrs(&mut self, posix: &Posix, content_type: Option<&str>, unique: &str) -> Option<(String, Bytes)> {
        let reference_bytes = OVERFLOW.len() + overflow::NAME_BYTES_MAX;
        let mut list = String::new();
        let mut rest = BTreeMap::new();
        for (name, value) in &posix.xattrs {
            if name == XATTR_CONTENT_TYPE && content_type.is_some_and(|is| is.as_bytes() == value.as_slice()) {
                continue;
            }
            if let Some(plain) = metadata_name(name, value)
                && self.has_room(plain.len() + value.len() + XATTRS.len() + list.len() + reference_bytes)
            {
                self.force(plain, String::from_utf8_lossy(value).into_owned());
                continue;
            }
            let item = format!("{}={}", BASE64.encode(name), BASE64.encode(value));
            if self.has_room(XATTRS.len() + list.len() + 1 + item.len() + reference_bytes) {
                if !list.is_empty() {
                    list.push(',');
                }
                list.push_str(&item);
            } else {
                rest.insert(name.clone(), value.clone());
            }
        }
        if !list.is_empty() {
            self.force(XATTRS, list);
        }
        if rest.is_empty() {
            return None;
        }
        let (name, body) = overflow::encode(unique, &rest);
        self.force(OVERFLOW, name.clone());
        Some((name, body))
    }
}

/// The name of the user metadata that an extended attribute stands for.
fn metadata_name<'a>(xattr: &'a [u8], value: &[u8]) -> Option<&'a str> {
    let name = std::str::from_utf8(xattr.strip_prefix(XATTR_METADATA)?).ok()?;
    is_header_safe(name, value).then_some(name)
}

fn content_type(posix: &Posix, name: &str, rules: &Rules) -> Option<String> {
    if posix.kind == NodeKind::Directory {
        return Some(DIRECTORY_TYPE.into());
    }
    let set = posix.xattrs.get(XATTR_CONTENT_TYPE).filter(|value| !value.is_empty() && is_header_safe("x", value));
    match set {
        Some(value) => Some(String::from_utf8_lossy(value).into_owned()),
        None if rules.guess_mime && posix.kind == NodeKind::File => Some(guess(name)),
        None => None,
    }
}

fn guess(name: &str) -> String {
    mime_guess::from_path(name).first_or_octet_stream().essence_str().to_owned()
}

fn permissions(kind: NodeKind, mode: u32) -> String {
    format!("0{:06o}", (kind as u32) << 12 | mode & 0o7777)
}

/// The kind of the type bits of an `st_mode`.
pub fn kind_of(mode: u32) -> Option<NodeKind> {
    use NodeKind as Is;
    [Is::Fifo, Is::CharDevice, Is::Directory, Is::BlockDevice, Is::File, Is::Symlink, Is::Socket]
        .into_iter()
        .find(|kind| *kind as u32 == mode >> 12)
}

/// What `file-permissions`, or s3fs's `mode`, says. The key decides what is a directory.
fn kind_and_mode(ours: Option<&str>, s3fs: Option<&str>, marker: bool) -> (NodeKind, Option<u32>) {
    let octal = ours.and_then(|text| u32::from_str_radix(text.trim().trim_start_matches("0o"), 8).ok());
    let st_mode = octal.or_else(|| s3fs.and_then(|text| text.trim().parse().ok())).filter(|mode| *mode <= 0o177_777);
    let kind = match st_mode.and_then(kind_of) {
        _ if marker => NodeKind::Directory,
        None | Some(NodeKind::Directory) => NodeKind::File,
        Some(kind) => kind,
    };
    (kind, st_mode.map(|mode| mode & 0o7777))
}

/// `…ns`, seconds with a fraction, or milliseconds.
fn parse_time(text: &str) -> Option<i64> {
    let text = text.trim();
    if let Some(nanoseconds) = text.strip_suffix("ns") {
        return nanoseconds.trim().parse().ok();
    }
    if text.contains('.') {
        return parse_seconds(text);
    }
    text.parse::<i64>().ok()?.checked_mul(1_000_000)
}

/// Seconds, with or without a fraction.
fn parse_seconds(text: &str) -> Option<i64> {
    let text = text.trim();
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = if matches!(whole, "" | "-") { 0 } else { whole.parse().ok()? };
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let digits: String = fraction.chars().chain(std::iter::repeat('0')).take(9).collect();
    let part: i64 = digits.parse().ok()?;
    seconds.checked_mul(1_000_000_000)?.checked_add(if text.starts_with('-') { -part } else { part })
}

fn parse_rdev(text: &str) -> Option<u32> {
    let (major, minor) = text.split_once(':')?;
    u32::try_from(libc::makedev(major.parse().ok()?, minor.parse().ok()?)).ok()
}

/// Items that are not what we write are skipped: somebody else's words never make a file unreadable.
fn parse_xattrs(text: &str) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let item = |item: &str| {
        let (name, value) = item.split_once('=')?;
        let name = BASE64.decode(name.trim()).ok()?;
        (!name.is_empty() && name.len() <= 255).then_some((name, BASE64.decode(value.trim()).ok()?))
    };
    text.split(',').filter_map(item).collect()
}

/// Keeps what others wrote beside the contract as extended attributes.
fn keep_foreign(attributes: &Attributes, name: &str, rules: &Rules, posix: &mut Posix) {
    for (meta, value) in &attributes.metadata {
        let ours = meta.starts_with("tidegate-") || [PERMISSIONS, OWNER, GROUP, MTIME, ATIME].contains(&meta.as_str());
        if !ours && !FOREIGN_READ.contains(&meta.as_str()) {
            posix.xattrs.insert([XATTR_METADATA, meta.as_bytes()].concat(), value.clone().into_bytes());
        }
    }
    let Some(is) = attributes.content_type.as_deref() else { return };
    let plain = matches!(is, "" | "binary/octet-stream" | "application/octet-stream");
    if posix.kind != NodeKind::Directory && !plain && content_type(posix, name, rules).as_deref() != Some(is) {
        posix.xattrs.insert(XATTR_CONTENT_TYPE.to_vec(), is.as_bytes().to_vec());
    }
}

#[cfg(test)]
mod tests;

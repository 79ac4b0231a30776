//! Paths and keys: key = prefix + path, byte for byte.
//!
//! What lives here: the rules, pure; where the gateway's own small objects are; which keys a node is to have ([`Share::desired`]); and
//! [`Strange`], the keys that were seen and that no path can name.
//!
//! | key, after the share's prefix | is |
//! |---|---|
//! | `a/b` | a file, symlink or special file |
//! | `a/b/` | a directory's marker: zero bytes, the directory's attributes |
//! | (the prefix itself) | the root's marker; with an empty prefix `.tidegate/root` |
//! | `.tidegate/overflow/…` | extended attributes that do not fit, see `overflow.rs` |
//! | `.tidegate/links/…` | link groups, see `linkgroup.rs` |
//! | `.tidegate/long/…` | the object of a path that is over S3's 1,024 bytes: `<gateway>-<node>-<digest of the path>` |
//! | `.tidegate/moving/…` | a file's object on its way round a circle of renames, see `settle.rs` |
//!
//! Invariants: a name and a key are the same bytes (UTF-8, no normalisation); `.tidegate/` is never shown; a key that no path can name is skipped
//! and kept in [`Strange`] for `status`, never touched. (Showing such keys under escaped names is for later; this is their place.)

use std::collections::BTreeMap;

use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use crate::base::id::NodeId;
use crate::engine::file::{NodeKind, VfsError};
use crate::store::meta::{EntryRow, NodeRow};

use super::share::Share;

/// Where the gateway's own objects are, after the share's prefix.
pub const HIDDEN: &str = ".tidegate/";
/// The longest key of S3, in bytes.
pub const KEY_BYTES_MAX: usize = 1024;
/// The longest name, in bytes.
pub const NAME_BYTES_MAX: usize = 255;
/// Names of one node that are considered: Linux's limit of links.
pub const NAMES_MAX: usize = 65_536;
/// Keys that are kept for `status`.
const STRANGE_MAX: usize = 1000;

/// What a listed key is to the directory whose prefix was listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Child<'a> {
    /// The directory's own marker.
    Marker,
    /// A file's name.
    File(&'a str),
    /// A directory's name.
    Directory(&'a str),
    /// The gateway's own.
    Hidden,
    /// No path can name it, and why.
    Strange(&'static str),
}

/// What `key`, listed below `prefix` with the delimiter "/", is. `root` is the share's prefix.
pub fn child<'a>(root: &str, prefix: &str, key: &'a str) -> Child<'a> {
    let Some(rest) = key.strip_prefix(prefix) else { return Child::Strange("not below its directory") };
    if rest.is_empty() {
        return Child::Marker;
    }
    if prefix == root && (rest == HIDDEN || rest.starts_with(HIDDEN)) {
        return Child::Hidden;
    }
    let (name, directory) = rest.strip_suffix('/').map_or((rest, false), |name| (name, true));
    match refuse_name(name) {
        Some(why) => Child::Strange(why),
        None if directory => Child::Directory(name),
        None => Child::File(name),
    }
}

/// Why no path can have this name; `None` where one can.
pub fn refuse_name(name: &str) -> Option<&'static str> {
    match name {
        "" => Some("an empty name"),
        "." | ".." => Some("the name of a directory itself or of the one above"),
        name if name.len() > NAME_BYTES_MAX => Some("a name over 255 bytes"),
        name if name.contains('/') => Some("a name with a slash"),
        name if name.contains('\0') => Some("a name with a NUL"),
        _ => None,
    }
}

/// The key of a name below a directory's prefix. `None` where it is not UTF-8.
pub fn key(dir_prefix: &str, name: &[u8], kind: NodeKind) -> Option<String> {
    let slash = if kind == NodeKind::Directory { "/" } else { "" };
    Some(format!("{dir_prefix}{}{slash}", std::str::from_utf8(name).ok()?))
}

/// The key of the root's attributes.
pub fn root_key(prefix: &str) -> String {
    if prefix.is_empty() { format!("{HIDDEN}root") } else { prefix.to_owned() }
}

/// The key of an overflow object.
pub fn overflow_key(prefix: &str, name: &str) -> String {
    format!("{prefix}{HIDDEN}overflow/{name}")
}

/// The key of a link group.
pub fn link_key(prefix: &str, group: &str) -> String {
    format!("{prefix}{HIDDEN}links/{group}.json")
}

/// Where a node's object is while it steps aside.
pub fn moving_key(prefix: &str, gateway: &str, node: NodeId) -> String {
    format!("{prefix}{HIDDEN}moving/{gateway}-{node}")
}

/// Where the object of a path is that S3 cannot hold. Its bytes are safe there; a gateway that knows nothing does not find the path again.
pub fn long_key(prefix: &str, gateway: &str, node: NodeId, key: &str) -> String {
    let digest = hex::encode(&Sha256::digest(key)[..8]);
    format!("{prefix}{HIDDEN}long/{gateway}-{node}-{digest}")
}

/// Whether a key is one of the gateway's own.
pub fn is_hidden(prefix: &str, key: &str) -> bool {
    key.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(HIDDEN))
}

/// Whether a name in the root is the gateway's own.
pub fn is_reserved(name: &[u8]) -> bool {
    HIDDEN.as_bytes().strip_suffix(b"/") == Some(name)
}

/// Which of a node's keys its bytes are taken from, the smallest first: one that it stepped aside to is nobody else's; `None` for what has
/// no bytes of it.
pub fn content_rank(prefix: &str, key: &str) -> Option<u8> {
    let Some(hidden) = key.strip_prefix(prefix).and_then(|rest| rest.strip_prefix(HIDDEN)) else { return Some(1) };
    match hidden.split_once('/') {
        Some(("moving", _)) => Some(0),
        Some(("long", _)) => Some(2),
        _ => None,
    }
}

/// Keys that were seen in the bucket and that no path can name, with the reason.
#[derive(Default)]
pub struct Strange(Mutex<BTreeMap<String, &'static str>>);

impl Strange {
    pub(super) fn note(&self, key: &str, why: &'static str) {
        let mut keys = self.0.lock();
        if keys.len() < STRANGE_MAX && keys.insert(key.to_owned(), why).is_none() {
            tracing::warn!(key, why, "a key that no path can name is not shown");
        }
    }

    /// The first thousand of them.
    pub fn list(&self) -> Vec<(String, &'static str)> {
        self.0.lock().iter().map(|(key, why)| (key.clone(), *why)).collect()
    }
}

/// A key that a node is to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Desired {
    /// The whole key.
    pub(super) key: String,
    /// The entry, for conflicts; `None` for the root.
    pub(super) entry: Option<EntryRow>,
}

impl Desired {
    /// The last name, for the `Content-Type`.
    pub(super) fn name(&self) -> &str {
        self.entry.as_ref().and_then(|entry| std::str::from_utf8(&entry.name).ok()).unwrap_or("")
    }
}

impl Share {
    /// The key prefix of a directory: empty, or ending in "/".
    ///
    /// # Errors
    /// `Stale` where it, or one above it, is removed; `BadName` where S3 cannot hold its path.
    pub(super) async fn dir_prefix(&self, dir: NodeId) -> Result<String, VfsError> {
        let path = self.path_of(dir).await?;
        let path = std::str::from_utf8(&path).map_err(|_| VfsError::BadName)?;
        let slash = if path.is_empty() { "" } else { "/" };
        Ok(format!("{}{path}{slash}", self.prefix))
    }

    /// The key of an entry.
    ///
    /// # Errors
    /// As [`Self::dir_prefix`].
    pub(super) async fn key_of(&self, entry: &EntryRow) -> Result<String, VfsError> {
        let prefix = self.dir_prefix(entry.parent).await?;
        key(&prefix, &entry.name, entry.kind).ok_or(VfsError::BadName)
    }

    /// The keys that a node's names give it, in the order of the keys. Names in removed directories count for nothing.
    ///
    /// # Errors
    /// `BadName` where S3 cannot hold one of them.
    pub(super) async fn named_keys(&self, node: &NodeRow) -> Result<Vec<Desired>, VfsError> {
        if node.node == self.root {
            return Ok(vec![Desired { key: root_key(&self.prefix), entry: None }]);
        }
        let mut keys = Vec::new();
        for entry in self.meta().names_of(node.node, NAMES_MAX).await? {
            match self.key_of(&entry).await {
                Ok(key) if key.len() > KEY_BYTES_MAX => {
                    let key = long_key(&self.prefix, &self.gateway, node.node, &key);
                    keys.push(Desired { key, entry: Some(entry) });
                }
                Ok(key) => keys.push(Desired { key, entry: Some(entry) }),
                Err(VfsError::Stale) => {}
                Err(error) => return Err(error),
            }
        }
        keys.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(keys)
    }

    /// The entry that a key is the object of, if there is such an entry now.
    pub(super) async fn entry_at(&self, key: &str) -> Result<Option<EntryRow>, VfsError> {
        let Some(path) = key.strip_prefix(&self.prefix) else { return Ok(None) };
        let (path, directory) = path.strip_suffix('/').map_or((path, false), |path| (path, true));
        let mut parent = self.root;
        let mut found: Option<EntryRow> = None;
        for name in path.split('/') {
            if let Some(above) = found.take() {
                if above.kind != NodeKind::Directory {
                    return Ok(None);
                }
                parent = above.node;
            }
            found = self.entry(parent, name.as_bytes()).await?;
            if found.is_none() {
                return Ok(None);
            }
        }
        Ok(found.filter(|entry| (entry.kind == NodeKind::Directory) == directory))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_listed_key_is() {
        let of = |key| child("p/", "p/d/", key);
        assert_eq!(of("p/d/"), Child::Marker);
        assert_eq!(of("p/d/x"), Child::File("x"));
        assert_eq!(of("p/d/x/"), Child::Directory("x"));
        assert_eq!(of("p/d/ä b"), Child::File("ä b"));
        assert_eq!(of("p/d/.tidegate/"), Child::Directory(".tidegate"));
        assert_eq!(child("p/", "p/", "p/.tidegate/"), Child::Hidden);
        assert_eq!(child("", "", ".tidegate/"), Child::Hidden);
        assert_eq!(child("", "", ".tidegate"), Child::File(".tidegate"));
    }

    #[test]
    fn keys_that_no_path_can_name() {
        for key in ["p//", "p/.", "p/..", "p/../", "p/a\0b", "q/x"] {
            assert!(matches!(child("p/", "p/", key), Child::Strange(_)), "{key:?}");
        }
        let long = format!("p/{}", "x".repeat(256));
        assert!(matches!(child("p/", "p/", &long), Child::Strange(_)));
        assert_eq!(child("p/", "p/", &long[..long.len() - 1]), Child::File(&long[2..long.len() - 1]));
    }

    #[test]
    fn a_name_and_its_key_are_the_same_bytes() {
        assert_eq!(key("p/", "x y+%/".trim_end_matches('/').as_bytes(), NodeKind::File).as_deref(), Some("p/x y+%"));
        assert_eq!(key("", b"d", NodeKind::Directory).as_deref(), Some("d/"));
        assert_eq!(key("", b"\xff", NodeKind::File), None);
        assert_eq!(root_key("p/"), "p/");
        assert!(is_hidden("p/", &root_key("p/").replace("p/", "p/.tidegate/")));
        assert!(is_hidden("", &root_key("")));
    }
}

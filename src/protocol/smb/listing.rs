//! Listing a directory.
//!
//! Invariants: a listing has every name that was there all the time, or it fails: no name is left out because S3 did not answer. The crate takes a
//! listing in one piece, so a directory of more than [`ENTRIES_MAX`] names cannot be listed whole; a name in it can still be looked up.

use futures_util::{StreamExt, TryStreamExt, stream};
use smb_server::DirEntry;

use super::pattern::Pattern;
use super::tree::{Place, Tree};
use super::{convert, names};
use crate::base::id::NodeId;
use crate::engine::file::{AccessMask, Attr, NodeKind, VfsError};

/// Entries that one listing may hold.
const ENTRIES_MAX: usize = 1_000_000;
/// Entries that are taken from the share at a time.
const BATCH: usize = 1024;
/// Attributes that are asked for at a time where the share has to ask S3.
const ASKED_MAX: usize = 32;
/// Read permission, as `access` has it.
const READ: AccessMask = AccessMask(4);

/// An entry before its attributes are known.
struct Entry {
    shown: String,
    node: NodeId,
    attr: Option<Attr>,
}

/// The entries that match, without "." and "..".
pub(super) async fn list(tree: &Tree, dir: NodeId, pattern: Option<&str>) -> Result<Vec<DirEntry>, VfsError> {
    let entries = match pattern {
        Some(name) if Pattern::is_name(name) => one(tree, dir, name).await?,
        _ => all(tree, dir, pattern.map(|pattern| Pattern::new(pattern, !tree.rules.case_sensitive))).await?,
    };
    let shown = stream::iter(entries.into_iter().map(|entry| shown(tree, dir, entry))).buffered(ASKED_MAX);
    shown.try_filter_map(|entry| async { Ok(entry) }).try_collect().await
}

/// Whether a directory has no entries, hidden ones included.
pub(super) async fn is_empty(tree: &Tree, dir: NodeId) -> Result<bool, VfsError> {
    let mut is_empty = true;
    let mut sink = |entry: crate::engine::file::DirEntry| {
        is_empty &= is_dots(&entry.name);
        is_empty
    };
    tree.vfs.readdir(&tree.who, dir, 0, false, &mut sink).await?;
    Ok(is_empty)
}

fn is_dots(name: &[u8]) -> bool {
    name == b"." || name == b".."
}

/// A client asks for one name by listing it.
async fn one(tree: &Tree, dir: NodeId, name: &str) -> Result<Vec<Entry>, VfsError> {
    let found = tree.find(&Place { parent: dir, shown: name }).await?;
    let entry = found.and_then(|found| {
        let shown = names::encode(std::str::from_utf8(&found.name).ok()?).into_owned();
        Some(Entry { shown, node: found.attr.node, attr: Some(found.attr) })
    });
    Ok(entry.into_iter().collect())
}

async fn all(tree: &Tree, dir: NodeId, pattern: Option<Pattern>) -> Result<Vec<Entry>, VfsError> {
    let mut entries = Vec::new();
    let mut cookie = 0;
    loop {
        let (mut taken, from) = (0, cookie);
        let mut sink = |entry: crate::engine::file::DirEntry| {
            if taken == BATCH {
                return false;
            }
            taken += 1;
            cookie = entry.cookie;
            if let Ok(name) = std::str::from_utf8(&entry.name)
                && !is_dots(&entry.name)
            {
                let shown = names::encode(name);
                if pattern.as_ref().is_none_or(|pattern| pattern.matches(&shown)) {
                    entries.push(Entry { shown: shown.into_owned(), node: entry.node, attr: entry.attr });
                }
            }
            true
        };
        let is_end = tree.vfs.readdir(&tree.who, dir, from, true, &mut sink).await?;
        if is_end || taken == 0 {
            return Ok(entries);
        }
        if entries.len() > ENTRIES_MAX {
            return Err(VfsError::Io(format!("a directory of more than {ENTRIES_MAX} names cannot be listed over SMB")));
        }
    }
}

/// An entry with what is known of it; none where it is gone, or is not to be shown.
async fn shown(tree: &Tree, dir: NodeId, entry: Entry) -> Result<Option<DirEntry>, VfsError> {
    let known = match entry.attr {
        Some(attr) => Ok(attr),
        None => tree.getattr(entry.node).await,
    };
    let attr = match known {
        Ok(attr) => attr,
        Err(VfsError::NotFound | VfsError::Stale) => return Ok(None),
        Err(error) => return Err(error),
    };
    if tree.rules.hide_unreadable && attr.kind != NodeKind::Symlink && tree.vfs.access(&tree.who, attr.node, READ).await? != READ
    {
        return Ok(None);
    }
    let attr = tree.followed(dir, attr).await?;
    Ok(Some(DirEntry { info: convert::info(&entry.shown, &attr) }))
}

//! The tree in rows: nodes, entries, paths; what every verb and the bucket's side read and change it with.
//!
//! Invariants: `links` and `cookie_next` of a directory are changed here alone, in the batch that changes the entry; a directory's
//! place is cached by [`Share::place_of`] and forgotten in the verb that moves it.

use std::sync::Arc;

use crate::base::id::NodeId;
use crate::engine::file::{NodeKind, VfsError};
use crate::store::blob::{Batch, BlobError, FetchError};
use crate::store::meta::{EntryRow, Key, MetaError, NodeRow, Row};
use crate::store::object::ObjectError;

use super::share::Share;

/// The longest path from the share's root, in bytes (POSIX `PATH_MAX` without its NUL).
pub(super) const PATH_BYTES_MAX: usize = 4095;

/// The first cookie of an entry; 1 and 2 are after "." and "..".
pub(super) const COOKIE_FIRST: u64 = 3;

/// Where directories are, for paths: parent and name, of those that were asked for lately.
pub(super) struct Places(moka::sync::Cache<NodeId, (NodeId, Arc<[u8]>)>);

impl Places {
    pub(super) fn new() -> Self {
        Self(moka::sync::Cache::new(100_000))
    }

    /// A directory was moved or removed.
    pub(super) fn forget(&self, dir: NodeId) {
        self.0.invalidate(&dir);
    }
}

impl Share {
    /// Where a directory is: its parent and its name there. `None` for the root.
    ///
    /// # Errors
    /// `Stale` where it is removed.
    pub(super) async fn place_of(&self, dir: NodeId) -> Result<Option<(NodeId, Arc<[u8]>)>, VfsError> {
        if dir == self.root {
            return Ok(None);
        }
        if let Some(place) = self.places.0.get(&dir) {
            return Ok(Some(place));
        }
        let name = self.meta().names_of(dir, 1).await?.pop().ok_or(VfsError::Stale)?;
        let place = (name.parent, Arc::from(name.name));
        self.places.0.insert(dir, place.clone());
        Ok(Some(place))
    }

    /// The path of a directory from the share's root: names joined by "/", empty for the root.
    ///
    /// # Errors
    /// `Stale` where it, or a directory above it, is removed.
    pub(super) async fn path_of(&self, dir: NodeId) -> Result<Vec<u8>, VfsError> {
        let mut names = Vec::new();
        let mut at = dir;
        while let Some((parent, name)) = self.place_of(at).await? {
            names.push(name);
            at = parent;
            if names.len() > PATH_BYTES_MAX {
                return Err(VfsError::Io("directories form a circle".into()));
            }
        }
        names.reverse();
        Ok(names.join(&b'/'))
    }

    /// A node's row.
    ///
    /// # Errors
    /// `Stale` where it is gone.
    pub(super) async fn node(&self, node: NodeId) -> Result<NodeRow, VfsError> {
        match self.try_node(node) {
            Some(known) => known,
            None => match self.meta().get(&Key::Node(node)).await? {
                Some(Row::Node(row)) if row.owner == self.owner => Ok(row),
                _ => Err(VfsError::Stale),
            },
        }
    }

    /// As [`Self::node`] where the row is in memory.
    pub(super) fn try_node(&self, node: NodeId) -> Option<Result<NodeRow, VfsError>> {
        match self.meta().try_get(&Key::Node(node))? {
            Some(Row::Node(row)) if row.owner == self.owner => Some(Ok(row)),
            _ => Some(Err(VfsError::Stale)),
        }
    }

    /// An entry of a directory, as far as it is known here: does not ask the bucket.
    pub(super) async fn entry(&self, parent: NodeId, name: &[u8]) -> Result<Option<EntryRow>, VfsError> {
        let key = Key::Entry(parent, name.to_vec());
        let row = match self.meta().try_get(&key) {
            Some(known) => known,
            None => self.meta().get(&key).await?,
        };
        Ok(row.and_then(|row| if let Row::Entry(entry) = row { Some(entry) } else { None }))
    }

    /// Puts a name into a directory: the entry, and the cookie and links of `parent`, which the caller puts into the batch itself (once,
    /// after all changes and with its new times). Under the parent's guard.
    pub(super) fn add_entry(&self, batch: &mut Batch, parent: &mut NodeRow, name: &[u8], node: NodeId, kind: NodeKind) {
        let cookie = parent.cookie_next.max(COOKIE_FIRST);
        parent.cookie_next = cookie + 1;
        if kind == NodeKind::Directory {
            parent.links += 1;
        }
        batch.put(Row::Entry(EntryRow { parent: parent.node, name: name.to_vec(), node, kind, cookie }));
    }

    /// Takes a name out of a directory; as [`Self::add_entry`].
    pub(super) fn drop_entry(&self, batch: &mut Batch, parent: &mut NodeRow, entry: &EntryRow) {
        if entry.kind == NodeKind::Directory {
            parent.links = parent.links.saturating_sub(1);
        }
        batch.drop(Key::Entry(entry.parent, entry.name.clone()));
    }
}

impl From<MetaError> for VfsError {
    fn from(error: MetaError) -> Self {
        Self::Io(error.to_string())
    }
}

impl From<BlobError> for VfsError {
    fn from(error: BlobError) -> Self {
        match error {
            BlobError::NoSpace => Self::NoSpace,
            BlobError::NotFound => Self::Stale,
            BlobError::TooLong => Self::TooLarge,
            BlobError::Fetch(FetchError::Object(error)) => error.into(),
            BlobError::Fetch(FetchError::Changed) => Self::Stale,
            BlobError::Damaged(_) | BlobError::Log(_) | BlobError::Meta(_) => Self::Io(error.to_string()),
        }
    }
}

impl From<ObjectError> for VfsError {
    fn from(error: ObjectError) -> Self {
        match error {
            ObjectError::NotFound => Self::NotFound,
            ObjectError::Archived => Self::Offline,
            ObjectError::Denied(_) => Self::Io(error.to_string()),
            error if error.is_transient() => Self::Unavailable(error.to_string()),
            error => Self::Io(error.to_string()),
        }
    }
}

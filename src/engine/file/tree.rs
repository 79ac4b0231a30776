//! The tree in rows: nodes, entries, paths; what every verb and the bucket's side read and change it with.
//!
//! Invariants: `links` and `cookie_next` of a directory are changed here alone, in the batch that changes the entry; a directory's
//! place is cached by [`Share::place_of`] and forgotten in the verb that moves it.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::base::id::{BlobId, NodeId, Seq};
use crate::engine::file::{Caller, NodeKind, VfsError};
use crate::store::blob::{Batch, BlobError, BlobInfo, FetchError};
use crate::store::meta::{EntryRow, Key, MetaError, NodeRow, Row};
use crate::store::object::ObjectError;

use super::keys;
use super::permit;
use super::share::{FLAG_ATTRIBUTES_UNKNOWN, Share};
use super::watch::{EndsBy, watched};
use super::witness::{self, Step};

/// The longest path from the share's root, in bytes (POSIX `PATH_MAX` without its NUL).
pub(super) const PATH_BYTES_MAX: usize = 4095;

/// The first cookie of an entry; 1 and 2 are after "." and "..".
pub(super) const COOKIE_FIRST: u64 = 3;

/// The longest name, in bytes (POSIX `NAME_MAX`).
pub(super) const NAME_BYTES_MAX: usize = 255;

/// What may wait in memory for a database without room while files are removed, in bytes.
const STAGED_BYTES_MAX: u64 = 64 << 20;

/// A name that is to be made.
///
/// # Errors
/// `NameTooLong`; `BadName` where it is not UTF-8; `Invalid` where it is none.
pub(super) fn check_name(name: &[u8]) -> Result<(), VfsError> {
    if name.len() > NAME_BYTES_MAX {
        return Err(VfsError::NameTooLong);
    }
    if name.is_empty() || name.iter().any(|byte| matches!(byte, b'/' | 0)) {
        return Err(VfsError::Invalid);
    }
    if matches!(name, b"." | b"..") {
        return Err(VfsError::Exists);
    }
    if std::str::from_utf8(name).is_err() { Err(VfsError::BadName) } else { Ok(()) }
}

/// Where directories are, for paths: parent and name, of those that were asked for lately.
pub(super) struct Places {
    known: moka::sync::Cache<NodeId, (NodeId, Arc<[u8]>)>,
    /// Counts what was forgotten, so that nobody puts back what was read before.
    forgotten: AtomicU64,
}

impl Places {
    pub(super) fn new() -> Self {
        Self { known: moka::sync::Cache::new(100_000), forgotten: AtomicU64::new(0) }
    }

    /// A directory was moved or removed.
    pub(super) fn forget(&self, dir: NodeId) {
        self.forgotten.fetch_add(1, Ordering::SeqCst);
        self.known.invalidate(&dir);
    }
}

/// What a guarded verb knows of a node: the row, with times brought up to date, and its blob's state.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) row: NodeRow,
    pub(super) info: Option<BlobInfo>,
}

impl Known {
    /// Modification and change time as they are.
    pub(super) fn times(&self) -> (i64, i64) {
        match &self.info {
            Some(info) if info.modified_seq > self.row.times_seq => (info.modified_ns, self.row.ctime_ns.max(info.modified_ns)),
            _ => (self.row.mtime_ns, self.row.ctime_ns),
        }
    }

    /// Brings the row's times up to date with the blob, so that one of them can be changed.
    fn settle_times(&mut self) {
        (self.row.mtime_ns, self.row.ctime_ns) = self.times();
        if let Some(info) = &self.info {
            self.row.times_seq = self.row.times_seq.max(info.modified_seq);
        }
    }

    /// The node was changed at `now_ns`: its change time, which never stands still.
    pub(super) fn changed(&mut self, now_ns: i64) {
        self.settle_times();
        let before_ctime_ns = self.row.ctime_ns;
        self.row.ctime_ns = now_ns.max(before_ctime_ns + 1);
        noted(&self.row, self.row.mtime_ns, before_ctime_ns);
    }

    /// The node's content was changed at `now_ns`: both times.
    pub(super) fn modified(&mut self, now_ns: i64) {
        self.changed(now_ns);
        self.row.mtime_ns = self.row.ctime_ns;
    }
}

/// An entry of it was changed: a directory's times. (A directory has no blob.)
pub(super) fn touch(dir: &mut NodeRow, now_ns: i64) {
    let (before_mtime_ns, before_ctime_ns) = (dir.mtime_ns, dir.ctime_ns);
    dir.ctime_ns = now_ns.max(before_ctime_ns + 1);
    dir.mtime_ns = dir.ctime_ns;
    noted(dir, before_mtime_ns, before_ctime_ns);
}

/// Tells whoever wants to know of a change what was before it.
fn noted(row: &NodeRow, before_mtime_ns: i64, before_ctime_ns: i64) {
    witness::note(Step { node: row.node, before_mtime_ns, before_ctime_ns, after_ctime_ns: row.ctime_ns });
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
        if let Some(place) = self.places.known.get(&dir) {
            return Ok(Some(place));
        }
        let before = self.places.forgotten.load(Ordering::SeqCst);
        let name = self.meta().names_of(dir, 1).await?.pop().ok_or(VfsError::Stale)?;
        let place = (name.parent, Arc::from(name.name));
        self.places.known.insert(dir, place.clone());
        if self.places.forgotten.load(Ordering::SeqCst) != before {
            self.places.known.invalidate(&dir);
        }
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

    /// As [`Self::try_node`], without a copy of the row; `None` also where there is no such node.
    pub(super) fn node_in_memory(&self, node: NodeId) -> Option<Arc<Row>> {
        let row = self.meta().in_memory(&Key::Node(node))??;
        matches!(&*row, Row::Node(row) if row.owner == self.owner).then_some(row)
    }

    /// As [`Self::node`] where the row is in memory.
    pub(super) fn try_node(&self, node: NodeId) -> Option<Result<NodeRow, VfsError>> {
        match self.meta().try_get(&Key::Node(node))? {
            Some(Row::Node(row)) if row.owner == self.owner => Some(Ok(row)),
            _ => Some(Err(VfsError::Stale)),
        }
    }

    /// A node with its blob's state.
    ///
    /// # Errors
    /// As [`Self::node`].
    pub(super) async fn known(&self, node: NodeId) -> Result<Known, VfsError> {
        let row = self.node(node).await?;
        self.known_row(row).await
    }

    /// As [`Self::known`] for a row.
    ///
    /// # Errors
    /// `Stale` where the blob is gone.
    pub(super) async fn known_row(&self, row: NodeRow) -> Result<Known, VfsError> {
        let info = match row.blob {
            BlobId(0) => None,
            blob => Some(match self.blobs.try_info(blob) {
                Some(info) => info,
                None => self.blobs.info(blob).await?,
            }),
        };
        Ok(Known { row, info })
    }

    /// A node whose attributes are known: asks the bucket where they are not. Without guards.
    ///
    /// # Errors
    /// `Stale`, `Unavailable`, `Interrupted`.
    pub(super) async fn attributed(&self, who: &Caller, node: NodeId) -> Result<NodeRow, VfsError> {
        let row = self.node(node).await?;
        if row.flags & FLAG_ATTRIBUTES_UNKNOWN == 0 {
            return Ok(row);
        }
        self.ask(who, self.ensure_attributes(node)).await?;
        self.node(node).await
    }

    /// Sees to it that a directory's entries are those of the bucket. Without guards.
    ///
    /// # Errors
    /// As [`Self::attributed`].
    pub(super) async fn listed(&self, who: &Caller, dir: &NodeRow) -> Result<(), VfsError> {
        if self.is_fresh(dir) { Ok(()) } else { self.ask(who, self.ensure_listed(dir.node)).await }
    }

    /// Awaits an answer of the bucket, for no longer than the share allows and the caller lives.
    async fn ask<T>(&self, who: &Caller, question: impl Future<Output = Result<T, VfsError>>) -> Result<T, VfsError> {
        watched(who, Some(self.settings().remote_timeout), EndsBy::Death, question).await?
    }

    /// A directory that the caller may search.
    ///
    /// # Errors
    /// `NotDirectory`, `AccessDenied`; as [`Self::attributed`].
    pub(super) async fn searchable(&self, who: &Caller, dir: NodeId) -> Result<NodeRow, VfsError> {
        let row = self.attributed(who, dir).await?;
        if row.kind != NodeKind::Directory {
            return Err(VfsError::NotDirectory);
        }
        permit::check(&row, who, permit::EXECUTE)?;
        Ok(row)
    }

    /// An entry, after the bucket was asked where what is known of the directory is old. Without guards.
    ///
    /// # Errors
    /// As [`Self::listed`].
    pub(super) async fn resolve(&self, who: &Caller, dir: &NodeRow, name: &[u8]) -> Result<Option<EntryRow>, VfsError> {
        self.listed(who, dir).await?;
        self.entry(dir.node, name).await
    }

    /// The path of `name` in `dir` from the share's root, if it is short enough, and nobody's own.
    ///
    /// # Errors
    /// `NameTooLong`; `NotPermitted` for the gateway's own folder in the root.
    pub(super) async fn check_path(&self, dir: NodeId, name: &[u8]) -> Result<Vec<u8>, VfsError> {
        if dir == self.root && keys::is_reserved(name) {
            return Err(VfsError::NotPermitted);
        }
        let mut path = self.path_of(dir).await?;
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        if path.len() > PATH_BYTES_MAX { Err(VfsError::NameTooLong) } else { Ok(path) }
    }

    /// Whether the disk of the gateway's database has too little room to take anything on.
    pub fn is_short_of_disk(&self) -> bool {
        self.meta().is_below_floor()
    }

    /// By its settings, or for want of disk.
    pub(super) fn is_read_only(&self) -> bool {
        self.settings().read_only || self.is_short_of_disk()
    }

    /// # Errors
    /// `ReadOnly`.
    pub(super) fn check_writable(&self) -> Result<(), VfsError> {
        if self.is_read_only() { Err(VfsError::ReadOnly) } else { Ok(()) }
    }

    /// As [`Self::check_writable`], for what gives room back: that is done below the floor of free disk too, since nobody could get above it otherwise.
    /// The log takes it from the reserve that is kept for it, and says when that is used up; what the database cannot take now is bounded here.
    ///
    /// # Errors
    /// `ReadOnly`.
    pub(super) fn check_removable(&self) -> Result<(), VfsError> {
        let is_too_much = self.is_short_of_disk() && self.meta().staged_bytes() > STAGED_BYTES_MAX;
        if self.settings().read_only || is_too_much { Err(VfsError::ReadOnly) } else { Ok(()) }
    }

    /// Applies a batch of this share.
    ///
    /// # Errors
    /// What the blob store says.
    pub(super) async fn apply(&self, batch: Batch) -> Result<Seq, VfsError> {
        Ok(self.blobs.apply(self.owner, batch).await?)
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
            ObjectError::Denied(_) | ObjectError::Credentials(_) => Self::Io(error.to_string()),
            error if error.is_transient() => Self::Unavailable(error.to_string()),
            error => Self::Io(error.to_string()),
        }
    }
}

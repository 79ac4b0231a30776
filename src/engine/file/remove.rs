//! Removing names, and with the last name the node, unless it is open.

use crate::base::id::{BlobId, NodeId};
use crate::engine::file::{Caller, Changed, NodeKind, Remove, VfsError};
use crate::store::blob::{Batch, BlobChange};
use crate::store::meta::{EntryRow, Key, NodeRow, Row};

use super::permit;
use super::share::{FLAG_XATTRS, Share, Why};
use super::tree::{Known, touch};

/// How often a name may change its node while it is being removed.
pub(super) const RACES_MAX: usize = 64;

impl Share {
    pub(super) async fn do_remove(&self, who: &Caller, parent: NodeId, name: &[u8], what: Remove) -> Result<(), VfsError> {
        match (name, what) {
            (b".", Remove::Directory) => return Err(VfsError::Invalid),
            (b"..", Remove::Directory) => return Err(VfsError::NotEmpty),
            (b"." | b"..", Remove::File) => return Err(VfsError::IsDirectory),
            _ => {}
        }
        for _ in 0..RACES_MAX {
            let dir = self.searchable(who, parent).await?;
            let entry = self.resolve_known(who, &dir, name).await?.ok_or(VfsError::NotFound)?;
            if entry.kind == NodeKind::Directory {
                let child = self.node(entry.node).await?;
                self.listed(who, &child).await?;
            }
            let _guard = self.guards.lock(&[parent, entry.node]).await;
            if self.entry(parent, name).await?.as_ref() == Some(&entry) {
                return self.remove_entry(who, &entry, what).await;
            }
        }
        Err(VfsError::Stale)
    }

    /// As `resolve`, for a name that may be too long, and with the attributes of what it names.
    pub(super) async fn resolve_known(&self, who: &Caller, dir: &NodeRow, name: &[u8]) -> Result<Option<EntryRow>, VfsError> {
        if name.len() > super::tree::NAME_BYTES_MAX {
            return Err(VfsError::NameTooLong);
        }
        let entry = self.resolve(who, dir, name).await?;
        if let Some(entry) = &entry {
            match self.attributed(who, entry.node).await {
                Err(VfsError::Stale) => return Ok(None),
                other => other?,
            };
        }
        Ok(entry)
    }

    /// Under the guards of the directory and the node.
    async fn remove_entry(&self, who: &Caller, entry: &EntryRow, what: Remove) -> Result<(), VfsError> {
        let mut dir = self.node(entry.parent).await?;
        let known = self.known(entry.node).await?;
        self.check_removable()?;
        permit::check_unlink(&dir, &known.row, who)?;
        match (what, entry.kind) {
            (Remove::File, NodeKind::Directory) => return Err(VfsError::IsDirectory),
            (Remove::Directory, NodeKind::Directory) | (Remove::File, _) => {}
            (Remove::Directory, _) => return Err(VfsError::NotDirectory),
        }
        if entry.kind == NodeKind::Directory && !self.is_empty(entry.node).await? {
            return Err(VfsError::NotEmpty);
        }
        if self.handles.denies_delete(entry.node) {
            return Err(VfsError::ShareViolation);
        }
        let now = self.now_ns();
        let mut batch = Batch::new();
        self.drop_entry(&mut batch, &mut dir, entry);
        touch(&mut dir, now);
        batch.put(Row::Node(dir.clone()));
        self.unname(&mut batch, known, now).await?;
        self.unsettle(&mut batch, &dir, Why::Implicit);
        self.apply(batch).await?;
        if entry.kind == NodeKind::Directory {
            self.places.forget(entry.node);
        }
        self.settle_soon(entry.node);
        self.settle_soon(entry.parent);
        let (parent, name) = (entry.parent, entry.name.clone());
        self.tell(who.origin, Changed::Entry { parent, name, before: entry.node, after: NodeId(0) });
        Ok(())
    }

    /// Whether a directory has no entry, as far as is known here.
    pub(super) async fn is_empty(&self, dir: NodeId) -> Result<bool, VfsError> {
        Ok(self.meta().entries(dir, 0, 1).await?.is_empty())
    }

    /// Adds to a batch what a node becomes that loses a name: one link less, an open node without a name, or nothing. Under its guard.
    pub(super) async fn unname(&self, batch: &mut Batch, mut known: Known, now_ns: i64) -> Result<(), VfsError> {
        let is_directory = known.row.kind == NodeKind::Directory;
        known.row.links = if is_directory { 0 } else { known.row.links.saturating_sub(1) };
        known.changed(now_ns);
        if known.row.links == 0 && self.handles.opens(known.row.node).handles == 0 {
            self.remove_node(batch, &known.row).await
        } else {
            batch.put(Row::Node(known.row.clone()));
            self.unsettle(batch, &known.row, Why::Names);
            Ok(())
        }
    }

    /// Adds to a batch the end of a node without names: its row, attributes and bytes go, its objects follow by its job.
    pub(super) async fn remove_node(&self, batch: &mut Batch, row: &NodeRow) -> Result<(), VfsError> {
        if row.flags & FLAG_XATTRS != 0 {
            for xattr in self.meta().xattrs(row.node).await? {
                batch.drop(Key::Xattr(row.node, xattr.name));
            }
        }
        if row.blob != BlobId(0) {
            batch.blob(BlobChange::Remove { id: row.blob });
        }
        batch.drop(Key::Node(row.node));
        self.unsettle(batch, row, Why::Names);
        self.atimes.forget(row.node);
        Ok(())
    }
}

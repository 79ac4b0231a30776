//! Opening and closing: the one place where existence, creation, truncation and sharing meet.
//!
//! Invariant: a handle is registered under its node's guard, after the row was seen there.

use crate::base::id::NodeId;
use crate::engine::file::{Caller, Changed, HandleId, NodeKind, OpenHow, Opened, Remove, Target, VfsError};
use crate::store::blob::Batch;
use crate::store::meta::{Key, NodeRow, Row};

use super::create::{New, VERIFIER};
use super::handle::Handle;
use super::permit;
use super::share::Share;

/// How often a name may come and go while it is being opened.
const RACES_MAX: usize = 16;

impl Handle {
    pub(super) fn of(row: &NodeRow, how: &OpenHow, who: &Caller, name: Option<(NodeId, &[u8])>) -> Self {
        let name = name.filter(|_| how.delete_on_close).map(|(parent, name)| (parent, name.to_vec()));
        Self { node: row.node, kind: row.kind, how: how.clone(), origin: who.origin, name }
    }
}

impl Share {
    pub(super) async fn do_open(&self, who: &Caller, target: Target<'_>, how: &OpenHow) -> Result<Opened, VfsError> {
        let (parent, name) = match target {
            Target::Node(node) => return self.open_node(who, node, how, None).await,
            Target::Child(parent, name) => (parent, name),
        };
        for _ in 0..RACES_MAX {
            let dir = self.searchable(who, parent).await?;
            match self.resolve(who, &dir, name).await? {
                Some(entry) => match self.open_existing(who, (parent, name), entry.node, how).await {
                    Err(VfsError::Stale) => {}
                    other => return other,
                },
                None => match self.open_new(who, (parent, name), how).await {
                    Err(VfsError::Exists) if !how.exclusive || how.verifier.is_some() => {}
                    other => return other,
                },
            }
        }
        Err(VfsError::Stale)
    }

    async fn open_existing(&self, who: &Caller, name: (NodeId, &[u8]), node: NodeId, how: &OpenHow) -> Result<Opened, VfsError> {
        if how.create.is_some() && how.exclusive && !self.was_made_with(node, how.verifier).await? {
            return Err(VfsError::Exists);
        }
        self.open_node(who, node, how, Some(name)).await
    }

    async fn open_new(&self, who: &Caller, (parent, name): (NodeId, &[u8]), how: &OpenHow) -> Result<Opened, VfsError> {
        let create = how.create.ok_or(VfsError::NotFound)?;
        let new = New { verifier: how.verifier, ..New::of(NodeKind::File, create.mode) };
        let (row, handle) = self.make(who, parent, name, new, Some(how)).await?;
        let handle = handle.ok_or(VfsError::BadHandle)?;
        Ok(Opened { handle, attr: self.attr_now(row.node).await?, created: true })
    }

    /// Whether an exclusive create with this verifier made the node.
    async fn was_made_with(&self, node: NodeId, verifier: Option<u64>) -> Result<bool, VfsError> {
        let Some(verifier) = verifier else { return Ok(false) };
        let kept = self.meta().get(&Key::Xattr(node, VERIFIER.to_vec())).await?;
        Ok(matches!(kept, Some(Row::Xattr(row)) if row.value == verifier.to_be_bytes()))
    }

    async fn open_node(
        &self,
        who: &Caller,
        node: NodeId,
        how: &OpenHow,
        name: Option<(NodeId, &[u8])>,
    ) -> Result<Opened, VfsError> {
        self.attributed(who, node).await?;
        let guard = self.guards.lock(&[node]).await;
        let known = self.known(node).await?;
        self.check_open(who, &known.row, how)?;
        let handle = self.handles.open(Handle::of(&known.row, how, who, name))?;
        if how.truncate {
            if let Err(error) = self.set_size(who, known, 0).await {
                let _ = self.handles.close(handle);
                return Err(error);
            }
            drop(guard);
            self.settle_soon(node);
            self.tell(who.origin, Changed::Data(node, 0..u64::MAX));
        }
        Ok(Opened { handle, attr: self.attr_now(node).await?, created: false })
    }

    /// Whether the node may be opened so.
    fn check_open(&self, who: &Caller, row: &NodeRow, how: &OpenHow) -> Result<(), VfsError> {
        let writes = how.write || how.truncate;
        match row.kind {
            NodeKind::Directory if writes || how.create.is_some() => return Err(VfsError::IsDirectory),
            NodeKind::File | NodeKind::Directory => {}
            NodeKind::Symlink => return Err(VfsError::Invalid),
            NodeKind::Fifo | NodeKind::Socket | NodeKind::CharDevice | NodeKind::BlockDevice => {
                return Err(VfsError::NoSuchAddress);
            }
        }
        if writes {
            self.check_writable()?;
        }
        let mut wanted = if writes { permit::WRITE } else { 0 };
        if how.execute {
            wanted |= permit::EXECUTE;
        } else if how.read {
            wanted |= permit::READ;
        }
        permit::check(row, who, wanted)
    }

    pub(super) async fn do_close(&self, handle: HandleId) -> Result<(), VfsError> {
        let node = self.handles.get(handle)?.node;
        let guard = self.guards.lock(&[node]).await;
        let (closed, left) = self.handles.close(handle)?;
        if closed.how.write && left.writers == 0 {
            self.settle_soon(node);
        }
        if left.handles > 0 {
            return Ok(());
        }
        let doomed = self.handles.take_doomed(node);
        let row = match self.node(node).await {
            Err(VfsError::Stale) => return Ok(()),
            row => row?,
        };
        if row.links == 0 {
            let mut batch = Batch::new();
            self.remove_node(&mut batch, &row).await?;
            self.apply(batch).await?;
            self.settle_soon(node);
        }
        drop(guard);
        if let Some((parent, name)) = doomed {
            self.remove_doomed(closed.origin, node, parent, &name).await;
        }
        Ok(())
    }

    /// The name of a node that was opened with `delete_on_close`, if it still is its name.
    async fn remove_doomed(&self, origin: crate::engine::file::Origin, node: NodeId, parent: NodeId, name: &[u8]) {
        let who = Caller::root(origin);
        if let Ok(Some(entry)) = self.entry(parent, name).await
            && entry.node == node
        {
            let what = if entry.kind == NodeKind::Directory { Remove::Directory } else { Remove::File };
            if let Err(error) = self.do_remove(&who, parent, name, what).await {
                tracing::warn!(share = %self.name, %node, %error, "a file that was to go at its close stays");
            }
        }
    }
}

//! New nodes: files, directories, symbolic links, FIFOs, sockets and devices.
//!
//! Invariant: node, entry, the directory's new times and the jobs are one batch, made under the directory's guard.

use crate::base::id::{BlobId, NodeId};
use crate::engine::file::{Attr, Caller, Changed, Create, HandleId, NodeKind, OpenHow, VfsError};
use crate::store::blob::{Batch, BlobChange};
use crate::store::meta::{NodeRow, Row, XattrRow};

use super::handle::Handle;
use super::permit;
use super::share::{FLAG_LISTED, FLAG_XATTRS, Share, Why};
use super::tree::{COOKIE_FIRST, check_name, touch};

/// The hidden attribute that keeps the verifier of an exclusive create.
pub(super) const VERIFIER: &[u8] = b"\0verifier";

/// The longest target of a symbolic link, in bytes.
const TARGET_BYTES_MAX: usize = 4095;

/// What is to be made.
#[derive(Clone, Debug)]
pub(super) struct New {
    pub(super) kind: NodeKind,
    pub(super) mode: u32,
    pub(super) rdev: u32,
    pub(super) target: Vec<u8>,
    pub(super) verifier: Option<u64>,
}

impl New {
    pub(super) fn of(kind: NodeKind, mode: u32) -> Self {
        Self { kind, mode, rdev: 0, target: Vec::new(), verifier: None }
    }
}

impl Share {
    pub(super) async fn do_mkdir(&self, who: &Caller, parent: NodeId, name: &[u8], create: Create) -> Result<Attr, VfsError> {
        let (row, _) = self.make(who, parent, name, New::of(NodeKind::Directory, create.mode), None).await?;
        self.attr_now(row.node).await
    }

    pub(super) async fn do_mknod(
        &self,
        who: &Caller,
        parent: NodeId,
        name: &[u8],
        kind: NodeKind,
        rdev: u32,
        create: Create,
    ) -> Result<Attr, VfsError> {
        match kind {
            NodeKind::Directory | NodeKind::Symlink => return Err(VfsError::Invalid),
            NodeKind::CharDevice | NodeKind::BlockDevice if who.uid != 0 => return Err(VfsError::NotPermitted),
            _ => {}
        }
        let rdev = if matches!(kind, NodeKind::CharDevice | NodeKind::BlockDevice) { rdev } else { 0 };
        let (row, _) = self.make(who, parent, name, New { rdev, ..New::of(kind, create.mode) }, None).await?;
        self.attr_now(row.node).await
    }

    pub(super) async fn do_symlink(&self, who: &Caller, parent: NodeId, name: &[u8], target: &[u8]) -> Result<Attr, VfsError> {
        if target.is_empty() {
            return Err(VfsError::NotFound);
        }
        if target.len() > TARGET_BYTES_MAX {
            return Err(VfsError::NameTooLong);
        }
        let new = New { target: target.to_vec(), ..New::of(NodeKind::Symlink, 0o777) };
        let (row, _) = self.make(who, parent, name, new, None).await?;
        self.attr_now(row.node).await
    }

    pub(super) async fn do_readlink(&self, who: &Caller, node: NodeId) -> Result<Vec<u8>, VfsError> {
        let row = self.attributed(who, node).await?;
        if row.kind != NodeKind::Symlink {
            return Err(VfsError::Invalid);
        }
        self.accessed(&row, row.mtime_ns, row.ctime_ns);
        Ok(row.target)
    }

    /// Whether something new may be put into a directory.
    ///
    /// # Errors
    /// `NotFound` where the directory was removed; `ReadOnly`, `AccessDenied`.
    pub(super) fn check_insert(&self, who: &Caller, dir: &NodeRow) -> Result<(), VfsError> {
        if dir.links == 0 {
            return Err(VfsError::NotFound);
        }
        self.check_writable()?;
        permit::check(dir, who, permit::WRITE | permit::EXECUTE)
    }

    /// Makes a node with its name. With `open` it is opened before anybody else can remove it.
    ///
    /// # Errors
    /// `Exists` and whatever else POSIX says of mkdir, mknod, open and symlink.
    pub(super) async fn make(
        &self,
        who: &Caller,
        parent: NodeId,
        name: &[u8],
        new: New,
        open: Option<&OpenHow>,
    ) -> Result<(NodeRow, Option<HandleId>), VfsError> {
        let dir = self.searchable(who, parent).await?;
        check_name(name)?;
        if self.resolve(who, &dir, name).await?.is_some() {
            return Err(VfsError::Exists);
        }
        self.check_insert(who, &dir)?;
        let path = self.check_path(parent, name).await?;
        let node = self.blobs.new_node_id().await?;
        let blob = if new.kind == NodeKind::File { self.blobs.new_blob_id().await? } else { BlobId(0) };

        let _guard = self.guards.lock(&[parent]).await;
        let mut dir = self.node(parent).await?;
        if self.entry(parent, name).await?.is_some() {
            return Err(VfsError::Exists);
        }
        self.check_insert(who, &dir)?;
        let now = self.now_ns();
        let row = new_row(who, &dir, node, blob, &new, now);
        let mut batch = Batch::new();
        if blob != BlobId(0) {
            batch.blob(BlobChange::Create { id: blob, owner: self.owner, len_bytes: 0, source: bytes::Bytes::new() });
        }
        if let Some(verifier) = new.verifier {
            batch.put(Row::Xattr(XattrRow { node, name: VERIFIER.to_vec(), value: verifier.to_be_bytes().to_vec() }));
        }
        self.add_entry(&mut batch, &mut dir, name, node, new.kind);
        touch(&mut dir, now);
        batch.put(Row::Node(row.clone())).put(Row::Node(dir.clone()));
        self.unsettle(&mut batch, &row, Why::Names);
        self.unsettle(&mut batch, &dir, Why::Implicit);
        self.apply(batch).await?;
        if blob != BlobId(0) {
            // What is only here is to be found by its name, also without the database.
            self.blobs.set_hint(blob, &[self.prefix.as_bytes(), &path].concat());
        }
        let handle = open.map(|how| self.handles.open(Handle::of(&row, how, who, Some((parent, name))))).transpose()?;
        self.settle_soon(node);
        self.settle_soon(parent);
        self.tell(who.origin, Changed::Entry { parent, name: name.to_vec(), before: NodeId(0), after: node });
        Ok((row, handle))
    }
}

/// The row of a new node in `dir`.
fn new_row(who: &Caller, dir: &NodeRow, node: NodeId, blob: BlobId, new: &New, now_ns: i64) -> NodeRow {
    let (mode, gid) = permit::inherit(dir, who, new.kind, new.mode);
    let is_directory = new.kind == NodeKind::Directory;
    NodeRow {
        node,
        owner: dir.owner,
        kind: new.kind,
        mode,
        uid: who.uid,
        gid,
        links: if is_directory { 2 } else { 1 },
        rdev: new.rdev,
        atime_ns: now_ns,
        mtime_ns: now_ns,
        ctime_ns: now_ns,
        birth_ns: now_ns,
        times_seq: crate::base::id::Seq(0),
        blob,
        parent: if is_directory { dir.node } else { NodeId(0) },
        target: new.target.clone(),
        flags: if is_directory { FLAG_LISTED } else { 0 } | if new.verifier.is_some() { FLAG_XATTRS } else { 0 },
        listed_ns: if is_directory { dir.listed_ns } else { 0 },
        source_prefix: None,
        cookie_next: COOKIE_FIRST,
    }
}

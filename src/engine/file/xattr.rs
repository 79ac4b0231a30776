//! Extended attributes: `user.` on files and directories, `trusted.` for root, `security.` (set by root). At most 255 bytes of name, 64 KiB of
//! value (Linux: `XATTR_NAME_MAX`, `XATTR_SIZE_MAX`) and 1 MiB a node. POSIX ACLs (`system.posix_acl_*`) are not supported.

use crate::base::id::NodeId;
use crate::engine::file::{Caller, Changed, NodeKind, SetXattr, VfsError};
use crate::store::blob::Batch;
use crate::store::meta::{Key, NodeRow, Row, XattrRow};

use super::permit;
use super::share::{FLAG_XATTRS, Share, Why};

/// The longest name, in bytes.
const NAME_BYTES_MAX: usize = 255;
/// The longest value, in bytes.
const VALUE_BYTES_MAX: usize = 64 << 10;
/// Names and values of a node together, in bytes.
const TOTAL_BYTES_MAX: usize = 1 << 20;

/// What a name says about who may use it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Space {
    User,
    Trusted,
    Security,
}

fn space(name: &[u8]) -> Result<Space, VfsError> {
    if name.len() > NAME_BYTES_MAX {
        return Err(VfsError::RangeTooSmall);
    }
    for (prefix, space) in [(&b"user."[..], Space::User), (b"trusted.", Space::Trusted), (b"security.", Space::Security)] {
        if let Some(rest) = name.strip_prefix(prefix) {
            return if rest.is_empty() || rest.contains(&0) { Err(VfsError::Invalid) } else { Ok(space) };
        }
    }
    Err(VfsError::Unsupported)
}

/// Whether the caller may read it. What is hidden is as if it were not there (Linux: `xattr_permission`).
fn check_read(row: &NodeRow, who: &Caller, space: Space) -> Result<(), VfsError> {
    match space {
        Space::User if !matches!(row.kind, NodeKind::File | NodeKind::Directory) => Err(VfsError::NoAttribute),
        Space::User => permit::check(row, who, permit::READ),
        Space::Trusted if who.uid != 0 => Err(VfsError::NoAttribute),
        Space::Trusted | Space::Security => Ok(()),
    }
}

fn check_write(row: &NodeRow, who: &Caller, space: Space) -> Result<(), VfsError> {
    match space {
        Space::User if !matches!(row.kind, NodeKind::File | NodeKind::Directory) => Err(VfsError::NotPermitted),
        Space::User if row.kind == NodeKind::Directory && row.mode & permit::STICKY != 0 => permit::check_owner(row, who),
        Space::User => permit::check(row, who, permit::WRITE),
        Space::Trusted | Space::Security if who.uid != 0 => Err(VfsError::NotPermitted),
        Space::Trusted | Space::Security => Ok(()),
    }
}

impl Share {
    async fn xattr(&self, node: NodeId, name: &[u8]) -> Result<Option<XattrRow>, VfsError> {
        let key = Key::Xattr(node, name.to_vec());
        let row = match self.meta().try_get(&key) {
            Some(known) => known,
            None => self.meta().get(&key).await?,
        };
        Ok(row.and_then(|row| if let Row::Xattr(xattr) = row { Some(xattr) } else { None }))
    }

    pub(super) async fn do_getxattr(&self, who: &Caller, node: NodeId, name: &[u8]) -> Result<Vec<u8>, VfsError> {
        let space = space(name)?;
        let row = self.attributed(who, node).await?;
        check_read(&row, who, space)?;
        if row.flags & FLAG_XATTRS == 0 {
            return Err(VfsError::NoAttribute);
        }
        Ok(self.xattr(node, name).await?.ok_or(VfsError::NoAttribute)?.value)
    }

    pub(super) async fn do_listxattr(&self, who: &Caller, node: NodeId) -> Result<Vec<Vec<u8>>, VfsError> {
        let row = self.attributed(who, node).await?;
        if row.flags & FLAG_XATTRS == 0 {
            return Ok(Vec::new());
        }
        let shown = |name: &[u8]| !name.starts_with(b"\0") && (who.uid == 0 || !name.starts_with(b"trusted."));
        Ok(self.meta().xattrs(node).await?.into_iter().map(|xattr| xattr.name).filter(|name| shown(name)).collect())
    }

    pub(super) async fn do_setxattr(
        &self,
        who: &Caller,
        node: NodeId,
        name: &[u8],
        value: &[u8],
        how: SetXattr,
    ) -> Result<(), VfsError> {
        let space = space(name)?;
        if value.len() > VALUE_BYTES_MAX {
            return Err(VfsError::RangeTooSmall);
        }
        self.attributed(who, node).await?;
        let _guard = self.guards.lock(&[node]).await;
        let row = self.node(node).await?;
        self.check_writable()?;
        check_write(&row, who, space)?;
        match (how, self.xattr(node, name).await?) {
            (SetXattr::Create, Some(_)) => return Err(VfsError::Exists),
            (SetXattr::Replace, None) => return Err(VfsError::NoAttribute),
            _ => {}
        }
        if row.flags & FLAG_XATTRS != 0 {
            let others = self.meta().xattrs(node).await?.into_iter().filter(|xattr| xattr.name != name);
            let total: usize = others.map(|xattr| xattr.name.len() + xattr.value.len()).sum();
            if total + name.len() + value.len() > TOTAL_BYTES_MAX {
                return Err(VfsError::NoSpace);
            }
        }
        let mut batch = Batch::new();
        batch.put(Row::Xattr(XattrRow { node, name: name.to_vec(), value: value.to_vec() }));
        self.xattrs_changed(who, row, batch).await
    }

    pub(super) async fn do_removexattr(&self, who: &Caller, node: NodeId, name: &[u8]) -> Result<(), VfsError> {
        let space = space(name)?;
        self.attributed(who, node).await?;
        let _guard = self.guards.lock(&[node]).await;
        let row = self.node(node).await?;
        self.check_writable()?;
        check_write(&row, who, space)?;
        if self.xattr(node, name).await?.is_none() {
            return Err(VfsError::NoAttribute);
        }
        let mut batch = Batch::new();
        batch.drop(Key::Xattr(node, name.to_vec()));
        self.xattrs_changed(who, row, batch).await
    }

    /// The node's side of a change of its extended attributes.
    async fn xattrs_changed(&self, who: &Caller, mut row: NodeRow, mut batch: Batch) -> Result<(), VfsError> {
        row.flags |= FLAG_XATTRS;
        let mut known = self.known_row(row).await?;
        known.changed(self.now_ns());
        let node = known.row.node;
        batch.put(Row::Node(known.row.clone()));
        self.unsettle(&mut batch, &known.row, Why::Attributes);
        self.apply(batch).await?;
        self.settle_soon(node);
        self.tell(who.origin, Changed::Attr(node));
        Ok(())
    }
}

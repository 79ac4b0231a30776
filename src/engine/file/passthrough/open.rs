//! Opening nodes and names of a kernel directory.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::{self, Mode, OFlags};

use super::convert::{attr_of, name_of, told};
use super::who::As;
use super::{Open, Passthrough, io};
use crate::base::id::NodeId;
use crate::engine::file::{Caller, HandleId, NodeKind, OpenHow, Opened, VfsError};

/// Attributes of an exclusive create are kept here, as NFS asks it.
pub(super) const VERIFIER: &str = "trusted.tidegate.verifier";

impl Passthrough {
    fn open_how(how: &OpenHow) -> OFlags {
        let mut flags = OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        flags |= match (how.read || how.execute, how.write) {
            (true, true) => OFlags::RDWR,
            (false, true) => OFlags::WRONLY,
            _ => OFlags::RDONLY,
        };
        if how.append {
            flags |= OFlags::APPEND;
        }
        if how.truncate {
            flags |= OFlags::TRUNC;
        }
        flags
    }

    fn opened(&self, file: OwnedFd, how: &OpenHow, created: bool) -> Result<Opened, VfsError> {
        let attr = attr_of(&fs::fstat(&file).map_err(told)?);
        let handle = HandleId(self.next_handle.fetch_add(1, Ordering::Relaxed));
        self.handles.lock().insert(handle, Arc::new(Open { node: attr.node, how: how.clone(), file }));
        Ok(Opened { handle, attr, created })
    }

    /// Opens a node that is known: through `/proc`, because it may have no name.
    pub(super) fn open_node(&self, who: &Caller, node: NodeId, how: &OpenHow) -> Result<Opened, VfsError> {
        let path = self.at(node)?;
        match self.attr(node)?.kind {
            NodeKind::Symlink => return Err(VfsError::Invalid),
            NodeKind::Directory if how.write || how.truncate || how.create.is_some() => return Err(VfsError::IsDirectory),
            NodeKind::File | NodeKind::Directory => {}
            _ => return Err(VfsError::NoSuchAddress),
        }
        let flags = Self::open_how(how) - OFlags::NOFOLLOW;
        let file = As::run(who, || fs::open(io::through(&path), flags, Mode::empty()).map_err(told))?;
        self.opened(file, how, false)
    }

    pub(super) fn open_child(&self, who: &Caller, parent: NodeId, name: &[u8], how: &OpenHow) -> Result<Opened, VfsError> {
        let (dir, at) = (self.at(parent)?, name_of(name)?);
        let found = As::run(who, || self.find(&dir, at));
        match (found, how.create) {
            (Ok((_, attr)), Some(_)) if how.exclusive && !self.was_made_with(attr.node, how.verifier) => Err(VfsError::Exists),
            (Ok((_, attr)), _) => self.open_node(who, attr.node, how),
            (Err(VfsError::NotFound), Some(create)) => {
                let flags = Self::open_how(how) | OFlags::CREATE | OFlags::EXCL;
                let mode = Mode::from_raw_mode(create.mode & 0o7777);
                let file = As::run(who, || fs::openat(&*dir, at, flags, mode).map_err(told))?;
                let (_, attr) = self.find(&dir, at)?;
                if let Some(verifier) = how.verifier {
                    fs::fsetxattr(&file, VERIFIER, &verifier.to_be_bytes(), fs::XattrFlags::empty()).map_err(told)?;
                }
                self.tell_entry(who, parent, name, NodeId(0), attr.node);
                self.opened(file, how, true)
            }
            (Err(error), _) => Err(error),
        }
    }

    /// Whether an exclusive create with this verifier made the node.
    fn was_made_with(&self, node: NodeId, verifier: Option<u64>) -> bool {
        let (Some(verifier), Ok(path)) = (verifier, self.at(node)) else { return false };
        let mut kept = [0; 8];
        fs::getxattr(io::through(&path), VERIFIER, &mut kept).is_ok_and(|len| len == 8 && kept == verifier.to_be_bytes())
    }
}

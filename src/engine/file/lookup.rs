//! Names to nodes.

use crate::base::id::NodeId;
use crate::engine::file::{Attr, Caller, NodeKind, VfsError};
use crate::store::meta::{Key, Row};

use super::permit;
use super::share::Share;
use super::tree::NAME_BYTES_MAX;

impl Share {
    pub(super) async fn do_lookup(&self, who: &Caller, parent: NodeId, name: &[u8]) -> Result<Attr, VfsError> {
        let dir = self.searchable(who, parent).await?;
        let node = match name {
            b"." => parent,
            b".." => dir.parent,
            _ if name.len() > NAME_BYTES_MAX => return Err(VfsError::NameTooLong),
            _ if std::str::from_utf8(name).is_err() => return Err(VfsError::NotFound),
            _ => self.resolve(who, &dir, name).await?.ok_or(VfsError::NotFound)?.node,
        };
        match self.do_getattr(who, node).await {
            // Removed between the two looks.
            Err(VfsError::Stale) => Err(VfsError::NotFound),
            other => other,
        }
    }

    /// As `do_lookup` where directory, entry and node are in memory and nothing has to be asked.
    pub(super) fn lookup_in_memory(&self, who: &Caller, parent: NodeId, name: &[u8]) -> Option<Result<Attr, VfsError>> {
        let dir = self.try_node(parent)?.ok()?;
        if dir.kind != NodeKind::Directory || !self.is_fresh(&dir) || name.len() > NAME_BYTES_MAX || matches!(name, b"." | b"..")
        {
            return None;
        }
        if let Err(denied) = permit::check(&dir, who, permit::EXECUTE) {
            return Some(Err(denied));
        }
        match self.meta().try_get(&Key::Entry(parent, name.to_vec()))? {
            Some(Row::Entry(entry)) => self.attr_in_memory(self.try_node(entry.node)?.ok()?).map(Ok),
            _ => Some(Err(VfsError::NotFound)),
        }
    }
}

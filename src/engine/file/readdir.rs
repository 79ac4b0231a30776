//! Listing a directory: in the order of the cookies, which never change, so that a listing goes on where it stopped while names come and go.

use crate::base::id::NodeId;
use crate::engine::file::{Attr, Caller, DirEntry, NodeKind, VfsError};
use crate::store::meta::NodeRow;

use super::permit;
use super::share::{FLAG_ATTRIBUTES_UNKNOWN, Share};

/// Entries that are read at a time.
const PAGE: usize = 256;

impl Share {
    pub(super) async fn do_readdir(
        &self,
        who: &Caller,
        dir: NodeId,
        cookie: u64,
        plus: bool,
        sink: &mut (dyn FnMut(DirEntry) -> bool + Send),
    ) -> Result<bool, VfsError> {
        let row = self.attributed(who, dir).await?;
        if row.kind != NodeKind::Directory {
            return Err(VfsError::NotDirectory);
        }
        permit::check(&row, who, permit::READ)?;
        self.listed(who, &row).await?;
        self.accessed(&row, row.mtime_ns, row.ctime_ns);
        for (number, name, node) in [(1, b".".as_slice(), dir), (2, b"..".as_slice(), row.parent)] {
            if cookie < number {
                let attr = if plus { self.attr_here(node).await } else { None };
                let entry = DirEntry { name: name.to_vec(), node, kind: NodeKind::Directory, cookie: number, attr };
                if !sink(entry) {
                    return Ok(false);
                }
            }
        }
        let mut after = cookie.max(2);
        loop {
            let page = self.meta().entries(dir, after, PAGE).await?;
            let is_last = page.len() < PAGE;
            for entry in page {
                after = entry.cookie;
                let attr = if plus { self.attr_here(entry.node).await } else { None };
                let entry = DirEntry { name: entry.name, node: entry.node, kind: entry.kind, cookie: entry.cookie, attr };
                if !sink(entry) {
                    return Ok(false);
                }
            }
            if is_last {
                return Ok(true);
            }
        }
    }

    /// Attributes where S3 need not be asked.
    async fn attr_here(&self, node: NodeId) -> Option<Attr> {
        let row: NodeRow = self.node(node).await.ok()?;
        if row.flags & FLAG_ATTRIBUTES_UNKNOWN != 0 {
            return None;
        }
        let known = self.known_row(row).await.ok()?;
        Some(self.attr_of(&known))
    }
}

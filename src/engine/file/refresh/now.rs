//! A refresh because somebody asks for it, instead of waiting until a directory is looked at.

use crate::base::id::NodeId;
use crate::engine::file::{NodeKind, VfsError};

use super::super::share::{FLAG_LISTED, Share};

/// Entries that are read at a time.
const PAGE: usize = 1000;

impl Share {
    /// Lists a directory ("" is the root; names separated by "/") and every directory below it that was listed before, now.
    ///
    /// # Errors
    /// `NotFound` or `NotDirectory` of the path, and what listing the bucket says.
    pub async fn refresh(&self, path: &str) -> Result<(), VfsError> {
        let mut waiting = vec![self.directory_at(path).await?];
        while let Some(dir) = waiting.pop() {
            match self.list_shared(dir).await {
                // It went while this was on its way to it.
                Err(VfsError::Stale) => {}
                listed => {
                    listed?;
                    self.listed_below(dir, &mut waiting).await?;
                }
            }
        }
        Ok(())
    }

    async fn directory_at(&self, path: &str) -> Result<NodeId, VfsError> {
        let mut dir = self.root;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            self.ensure_listed(dir).await?;
            let entry = self.entry(dir, name.as_bytes()).await?.ok_or(VfsError::NotFound)?;
            if entry.kind != NodeKind::Directory {
                return Err(VfsError::NotDirectory);
            }
            dir = entry.node;
        }
        Ok(dir)
    }

    /// The directories in `dir` that were listed before.
    async fn listed_below(&self, dir: NodeId, found: &mut Vec<NodeId>) -> Result<(), VfsError> {
        let mut after = 0;
        loop {
            let entries = self.meta().entries(dir, after, PAGE).await?;
            let Some(last) = entries.last() else { return Ok(()) };
            after = last.cookie;
            for entry in entries.iter().filter(|entry| entry.kind == NodeKind::Directory) {
                match self.node(entry.node).await {
                    Ok(row) if row.flags & FLAG_LISTED != 0 => found.push(entry.node),
                    Ok(_) | Err(VfsError::Stale) => {}
                    Err(error) => return Err(error),
                }
            }
        }
    }
}

//! Another name for a node.

use crate::base::id::NodeId;
use crate::engine::file::{Attr, Caller, Changed, NodeKind, VfsError};
use crate::store::blob::Batch;
use crate::store::meta::Row;

use super::share::{Share, Why};
use super::tree::{check_name, touch};

/// Names that a node may have.
const LINKS_MAX: u32 = 65_000;

impl Share {
    pub(super) async fn do_link(&self, who: &Caller, node: NodeId, parent: NodeId, name: &[u8]) -> Result<Attr, VfsError> {
        let dir = self.searchable(who, parent).await?;
        check_name(name)?;
        if self.resolve(who, &dir, name).await?.is_some() {
            return Err(VfsError::Exists);
        }
        if self.attributed(who, node).await?.kind == NodeKind::Directory {
            return Err(VfsError::NotPermitted);
        }
        self.check_insert(who, &dir)?;
        self.check_path(parent, name).await?;

        let _guard = self.guards.lock(&[node, parent]).await;
        let mut dir = self.node(parent).await?;
        if self.entry(parent, name).await?.is_some() {
            return Err(VfsError::Exists);
        }
        self.check_insert(who, &dir)?;
        let mut known = self.known(node).await?;
        match known.row.links {
            0 => return Err(VfsError::NotFound),
            LINKS_MAX.. => return Err(VfsError::TooManyLinks),
            _ => {}
        }
        let now = self.now_ns();
        known.row.links += 1;
        known.changed(now);
        let mut batch = Batch::new();
        self.add_entry(&mut batch, &mut dir, name, node, known.row.kind);
        touch(&mut dir, now);
        batch.put(Row::Node(known.row.clone())).put(Row::Node(dir.clone()));
        self.unsettle(&mut batch, &known.row, Why::Names);
        self.unsettle(&mut batch, &dir, Why::Implicit);
        self.apply(batch).await?;
        self.settle_soon(node);
        self.settle_soon(parent);
        self.tell(who.origin, Changed::Entry { parent, name: name.to_vec(), before: NodeId(0), after: node });
        self.tell(who.origin, Changed::Attr(node));
        Ok(self.attr_of(&known))
    }
}

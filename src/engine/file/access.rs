//! Which permissions the caller has.

use crate::base::id::NodeId;
use crate::engine::file::{AccessMask, Caller, NodeKind, VfsError};

use super::permit;
use super::share::Share;

impl Share {
    pub(super) async fn do_access(&self, who: &Caller, node: NodeId, mask: AccessMask) -> Result<AccessMask, VfsError> {
        let row = self.attributed(who, node).await?;
        let mut granted = permit::granted(&row, who);
        // Below the floor of free disk too: who may not write to a directory may not remove either, as a client sees it.
        if self.settings().read_only && matches!(row.kind, NodeKind::File | NodeKind::Directory | NodeKind::Symlink) {
            granted &= !permit::WRITE;
        }
        Ok(AccessMask(granted & mask.0))
    }
}

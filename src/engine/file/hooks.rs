//! What the verbs call where the bucket is concerned.

use crate::base::id::NodeId;
use crate::engine::file::VfsError;
use crate::store::blob::Batch;
use crate::store::meta::NodeRow;

use super::share::{Share, Why};

/// The hooks to the bucket's side, until it lands them.
#[allow(unused_variables, clippy::unused_async)]
impl Share {
    /// Before a lookup's miss, a readdir, or a check for emptiness, in a directory that is not freshly listed: lists it.
    /// Called without guards.
    pub(super) async fn ensure_listed(&self, dir: NodeId) -> Result<(), VfsError> {
        Ok(())
    }

    /// Before attributes or permissions of a node with [`FLAG_ATTRIBUTES_UNKNOWN`] are told or used: one HEAD per ETag.
    /// Called without guards.
    pub(super) async fn ensure_attributes(&self, node: NodeId) -> Result<(), VfsError> {
        Ok(())
    }

    /// Adds the node's job to a batch that changes it.
    pub(super) fn unsettle(&self, batch: &mut Batch, node: &NodeRow, why: Why) {}

    /// After the batch was applied, or the last writer closed: the uploader looks at the node's job.
    pub(super) fn settle_soon(&self, node: NodeId) {}

    /// Before the first write that makes a clean file dirty: its job is in the log before its data.
    pub(super) async fn unsettle_content(&self, node: NodeId) -> Result<(), VfsError> {
        Ok(())
    }

    /// In the batch that renames a directory: objects below it are still at `old_prefix` (whole key prefix, ending in "/").
    pub(super) fn begin_move(&self, batch: &mut Batch, dir: &NodeRow, old_prefix: String) {}
}

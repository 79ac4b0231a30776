//! What the verbs call where the bucket is concerned.

use std::sync::Arc;

use crate::base::id::NodeId;
use crate::engine::file::VfsError;
use crate::store::blob::{Batch, Portion};
use crate::store::meta::NodeRow;

use super::share::{Share, Why};

/// The hooks to the bucket's side, until it lands them.
#[allow(unused_variables, clippy::unused_async)]
impl Share {
    /// Whether what is known of a directory's entries may be told without asking the bucket. Called often: rows in hand, nothing awaited.
    pub(super) fn is_fresh(&self, dir: &NodeRow) -> bool {
        true
    }

    /// Before a lookup, a readdir, or a check for emptiness, in a directory that is not [`Self::is_fresh`]: lists it. Called without guards,
    /// may be dropped. Where it was listed once and S3 does not answer now, what is known stands: no failure.
    pub(super) async fn ensure_listed(&self, dir: NodeId) -> Result<(), VfsError> {
        Ok(())
    }

    /// Before attributes, permissions or bytes of a node with `FLAG_ATTRIBUTES_UNKNOWN` are told or used: one HEAD per ETag. Afterwards the
    /// node has its attributes and, where it is a file, its blob. Called without guards, may be dropped.
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

    /// A read found that the object is not the one that was known (`FetchError::Changed`): look again, so that the read can be tried again.
    pub(super) async fn content_changed(&self, node: NodeId) -> Result<(), VfsError> {
        Ok(())
    }

    /// At the end of [`Share::open`]: tells the blob store how bytes are fetched, and the uploader who plans.
    pub(super) async fn attach(self: &Arc<Self>, portion: Portion) -> Result<(), VfsError> {
        Ok(())
    }
}

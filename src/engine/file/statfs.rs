//! Space: a bucket has no end, so what is free is what is used subtracted from a round number.

use crate::engine::file::{StatFs, VfsError};

use super::share::Share;

/// The size that a share shows, in bytes: 1 PiB.
const TOTAL_BYTES: u64 = 1 << 50;

/// The nodes that a share shows.
const TOTAL_NODES: u64 = 1 << 32;

impl Share {
    pub(super) async fn do_statfs(&self) -> Result<StatFs, VfsError> {
        let counts = self.meta().counts(self.owner).await?;
        let used = counts.object_bytes.saturating_add(self.blobs.usage(self.owner).dirty_bytes);
        Ok(StatFs {
            total_bytes: TOTAL_BYTES,
            free_bytes: TOTAL_BYTES.saturating_sub(used),
            nodes: counts.nodes,
            free_nodes: TOTAL_NODES.saturating_sub(counts.nodes),
            file_bytes_max: self.bucket.capabilities().object_bytes_max,
        })
    }
}

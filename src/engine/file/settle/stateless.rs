//! Files that are written by clients which open and close nothing (NFSv3): nobody says when they are complete, so they are left alone longer,
//! and the longer the more often they were uploaded and written again.
//!
//! Invariant: bounded, and needed by nothing: a file that is forgotten, as all are at a restart, waits as short as any other.

use std::time::Duration;

use crate::base::id::NodeId;

/// The longest that such a file is left alone.
const STATELESS_DELAY_MAX: Duration = Duration::from_secs(15 * 60);
/// Files that are remembered.
const FILES_MAX: u64 = 100_000;
/// A file that was not written for so long is forgotten.
const IDLE_MAX: Duration = Duration::from_secs(3600);

/// How often each such file was uploaded since it is written so.
pub(in crate::engine::file) struct Stateless(moka::sync::Cache<NodeId, u32>);

impl Default for Stateless {
    fn default() -> Self {
        Self(moka::sync::Cache::builder().max_capacity(FILES_MAX).time_to_idle(IDLE_MAX).build())
    }
}

impl Stateless {
    /// The file is written without a handle.
    pub(in crate::engine::file) fn written(&self, node: NodeId) {
        if self.0.get(&node).is_none() {
            self.0.insert(node, 0);
        }
    }

    /// It was uploaded.
    pub(in crate::engine::file) fn uploaded(&self, node: NodeId) {
        if let Some(uploads) = self.0.get(&node) {
            self.0.insert(node, uploads.saturating_add(1));
        }
    }

    /// All that are remembered.
    pub(in crate::engine::file) fn files(&self) -> Vec<NodeId> {
        self.0.iter().map(|(node, _)| *node).collect()
    }

    /// How long it is to be quiet; `None` where it is not one of these. `first` is the delay of its first upload.
    pub(in crate::engine::file) fn delay(&self, node: NodeId, first: Duration) -> Option<Duration> {
        let uploads = self.0.get(&node)?;
        let factor = 1_u32.checked_shl(uploads.min(31)).unwrap_or(u32::MAX);
        Some(first.saturating_mul(factor).min(STATELESS_DELAY_MAX.max(first)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_doubles_to_its_limit() {
        let (files, first, node) = (Stateless::default(), Duration::from_secs(15), NodeId(7));
        assert_eq!(files.delay(node, first), None);
        files.uploaded(node);
        assert_eq!(files.delay(node, first), None, "an upload alone is nobody's write");
        let mut delays = Vec::new();
        for _ in 0..40 {
            files.written(node);
            delays.extend(files.delay(node, first).map(|delay| delay.as_secs()));
            files.uploaded(node);
        }
        assert_eq!(delays[..8], [15, 30, 60, 120, 240, 480, 900, 900]);
        assert_eq!(delays[39], 900);
    }
}

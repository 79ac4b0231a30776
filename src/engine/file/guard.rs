//! Who may change a node's rows: one asynchronous lock per node, in stripes, and one for the shape of the tree.
//!
//! Invariants:
//! - A verb takes all its nodes at once, in the order of the stripes, so two verbs never wait for each other.
//! - The tree lock is taken first, by whatever moves a directory to another parent (Linux: `s_vfs_rename_mutex`).
//! - Nobody awaits S3 under a guard.

use tokio::sync::{Mutex, MutexGuard};

use crate::base::id::NodeId;

/// Stripes: more than could ever be wanted at once.
const STRIPES: usize = 1024;

/// The locks of a share.
pub(super) struct Guards {
    stripes: Box<[Mutex<()>]>,
    tree: Mutex<()>,
}

/// The right to change some nodes, until dropped.
pub(super) struct Guard<'a> {
    _held: Vec<MutexGuard<'a, ()>>,
}

impl Guards {
    pub(super) fn new() -> Self {
        Self { stripes: (0..STRIPES).map(|_| Mutex::new(())).collect(), tree: Mutex::new(()) }
    }

    /// Waits until nobody else changes any of these nodes.
    pub(super) async fn lock(&self, nodes: &[NodeId]) -> Guard<'_> {
        let mut wanted: Vec<usize> = nodes.iter().map(|node| stripe(*node)).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let mut held = Vec::with_capacity(wanted.len());
        for index in wanted {
            held.push(self.stripes[index].lock().await);
        }
        Guard { _held: held }
    }

    /// Waits until nobody else moves a directory. Before [`Self::lock`].
    pub(super) async fn tree(&self) -> MutexGuard<'_, ()> {
        self.tree.lock().await
    }
}

/// Neighbouring nodes are in different stripes.
fn stripe(node: NodeId) -> usize {
    usize::try_from(node.0 % STRIPES as u64).unwrap_or(0)
}

//! Open instances: what a handle may do, and which nodes are open.
//!
//! Invariants:
//! - A handle is registered under its node's guard, and a node's last name is removed under the same guard: no handle is ever on a
//!   node that was removed meanwhile.
//! - Open counts are exact: whoever registers calls `close` once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

use crate::base::id::{IdMap, NodeId};
use crate::engine::file::{HandleId, NodeKind, OpenHow, Origin, VfsError};

/// Shards of the table: a lookup takes one of them, for reading.
const SHARDS: usize = 16;

/// An open instance.
#[derive(Clone, Debug)]
pub(super) struct Handle {
    pub(super) node: NodeId,
    pub(super) kind: NodeKind,
    pub(super) how: OpenHow,
    pub(super) origin: Origin,
    /// With `delete_on_close`: the name that goes.
    pub(super) name: Option<(NodeId, Vec<u8>)>,
}

/// How often a node is open, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Opens {
    /// Handles.
    pub(super) handles: u32,
    /// Of them for writing, and writes without a handle that are under way.
    pub(super) writers: u32,
    /// Of them for reading, writing.
    readers: u32,
    deny_read: u32,
    deny_write: u32,
    deny_delete: u32,
}

/// All handles of a share.
pub(super) struct Handles {
    next: AtomicU64,
    shards: [RwLock<IdMap<HandleId, Arc<Handle>>>; SHARDS],
    nodes: Mutex<IdMap<NodeId, Opens>>,
    /// Names that go when the last handle of their node closes.
    doomed: Mutex<IdMap<NodeId, (NodeId, Vec<u8>)>>,
}

impl Handles {
    pub(super) fn new() -> Self {
        Self { next: AtomicU64::new(1), shards: Default::default(), nodes: Mutex::default(), doomed: Mutex::default() }
    }

    fn shard(&self, id: HandleId) -> &RwLock<IdMap<HandleId, Arc<Handle>>> {
        &self.shards[usize::try_from(id.0 % SHARDS as u64).unwrap_or(0)]
    }

    /// Registers a handle, under its node's guard.
    ///
    /// # Errors
    /// `ShareViolation` where another handle denies it, or it denies what another has.
    pub(super) fn open(&self, handle: Handle) -> Result<HandleId, VfsError> {
        let how = &handle.how;
        {
            let mut nodes = self.nodes.lock();
            let opens = nodes.get(&handle.node).copied().unwrap_or_default();
            let denied = (how.read && opens.deny_read > 0) || (how.write && opens.deny_write > 0);
            let denies = (how.deny_read && opens.readers > 0) || (how.deny_write && opens.writers > 0);
            if denied || denies || (how.delete_on_close && opens.deny_delete > 0) {
                return Err(VfsError::ShareViolation);
            }
            nodes.insert(handle.node, opens.plus(how));
        }
        let id = HandleId(self.next.fetch_add(1, Ordering::Relaxed));
        self.shard(id).write().insert(id, Arc::new(handle));
        Ok(id)
    }

    /// A handle.
    ///
    /// # Errors
    /// `BadHandle` where it is not open.
    pub(super) fn get(&self, id: HandleId) -> Result<Arc<Handle>, VfsError> {
        self.shard(id).read().get(&id).cloned().ok_or(VfsError::BadHandle)
    }

    /// Takes a handle out, under its node's guard; returns it with what is still open of its node.
    ///
    /// # Errors
    /// `BadHandle` where it is not open.
    pub(super) fn close(&self, id: HandleId) -> Result<(Arc<Handle>, Opens), VfsError> {
        let handle = self.shard(id).write().remove(&id).ok_or(VfsError::BadHandle)?;
        let left = self.change(handle.node, |opens| opens.minus(&handle.how));
        if let Some(name) = handle.name.clone() {
            self.doomed.lock().insert(handle.node, name);
        }
        Ok((handle, left))
    }

    /// The name that goes with the node's last handle, if a handle said so.
    pub(super) fn take_doomed(&self, node: NodeId) -> Option<(NodeId, Vec<u8>)> {
        self.doomed.lock().remove(&node)
    }

    /// How a node is open.
    pub(super) fn opens(&self, node: NodeId) -> Opens {
        self.nodes.lock().get(&node).copied().unwrap_or_default()
    }

    /// Nodes that are open for writing.
    pub(super) fn written(&self) -> Vec<NodeId> {
        self.nodes.lock().iter().filter(|(_, opens)| opens.writers > 0).map(|(node, _)| *node).collect()
    }

    /// Whether somebody forbids that the node loses a name.
    pub(super) fn denies_delete(&self, node: NodeId) -> bool {
        self.opens(node).deny_delete > 0
    }

    /// Counts a write without a handle as a writer, until the answer is dropped.
    pub(super) fn writing(&self, node: NodeId) -> Writing<'_> {
        self.change(node, |opens| Opens { writers: opens.writers + 1, ..opens });
        Writing { handles: self, node }
    }

    fn change(&self, node: NodeId, with: impl FnOnce(Opens) -> Opens) -> Opens {
        let mut nodes = self.nodes.lock();
        let opens = with(nodes.get(&node).copied().unwrap_or_default());
        if opens == Opens::default() {
            nodes.remove(&node);
        } else {
            nodes.insert(node, opens);
        }
        opens
    }
}

impl Opens {
    fn plus(self, how: &OpenHow) -> Self {
        Self {
            handles: self.handles + 1,
            writers: self.writers + u32::from(how.write),
            readers: self.readers + u32::from(how.read),
            deny_read: self.deny_read + u32::from(how.deny_read),
            deny_write: self.deny_write + u32::from(how.deny_write),
            deny_delete: self.deny_delete + u32::from(how.deny_delete),
        }
    }

    fn minus(self, how: &OpenHow) -> Self {
        Self {
            handles: self.handles.saturating_sub(1),
            writers: self.writers.saturating_sub(u32::from(how.write)),
            readers: self.readers.saturating_sub(u32::from(how.read)),
            deny_read: self.deny_read.saturating_sub(u32::from(how.deny_read)),
            deny_write: self.deny_write.saturating_sub(u32::from(how.deny_write)),
            deny_delete: self.deny_delete.saturating_sub(u32::from(how.deny_delete)),
        }
    }
}

/// A write without a handle that is under way.
pub(super) struct Writing<'a> {
    handles: &'a Handles,
    node: NodeId,
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.handles.change(self.node, |opens| Opens { writers: opens.writers.saturating_sub(1), ..opens });
    }
}

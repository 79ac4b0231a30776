//! Pages of READDIR and READDIRPLUS that were answered and are still true: a directory that many clients walk is encoded once.
//!
//! Invariants:
//! - A page is kept where nothing changed in the share while it was made, and given out while the generation of its nodes stays (the
//!   directory; with attributes, all that it names) and the listing needs no look into the bucket. Who asks is checked each time.
//! - The pages of all directories together are bounded ([`LISTINGS_BYTES_MAX`]).

use std::sync::Arc;

use moka::sync::Cache;

use crate::base::id::NodeId;
use crate::engine::file::Vfs;

/// Memory for pages, in bytes.
const LISTINGS_BYTES_MAX: u64 = 32 << 20;

/// See the file's header.
pub(super) struct Listings(Cache<Asked, Arc<Page>>);

/// What a page answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Asked {
    pub(super) export: u64,
    pub(super) dir: NodeId,
    pub(super) cookie: u64,
    pub(super) names_bytes_max: u32,
    pub(super) bytes_max: u32,
    pub(super) plus: bool,
}

/// Entries from a cookie on, as they are sent.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) bytes: Vec<u8>,
    nodes: Vec<NodeId>,
    generation: u64,
}

/// A page is being made.
#[derive(Debug)]
pub(super) struct Making {
    /// Of the share, before; `None`: it keeps no count.
    before: Option<u64>,
    nodes: Vec<NodeId>,
}

impl Default for Listings {
    fn default() -> Self {
        let weigh =
            |_: &Asked, page: &Arc<Page>| u32::try_from(200 + page.bytes.len() + 8 * page.nodes.len()).unwrap_or(u32::MAX);
        Self(Cache::builder().max_capacity(LISTINGS_BYTES_MAX).weigher(weigh).build())
    }
}

impl Listings {
    /// A page that is still true.
    pub(super) fn get(&self, asked: &Asked, vfs: &dyn Vfs) -> Option<Arc<Page>> {
        let page = self.0.get(asked)?;
        let is_true = vfs.generation(Some(&page.nodes)) == Some(page.generation) && vfs.is_listing_current(asked.dir);
        is_true.then_some(page)
    }

    /// Pages that are kept, true or not.
    #[cfg(test)]
    pub(super) fn kept(&self) -> u64 {
        self.0.run_pending_tasks();
        self.0.entry_count()
    }

    /// Before the directory is read.
    pub(super) fn make(&self, asked: &Asked, vfs: &dyn Vfs) -> Making {
        Making { before: vfs.generation(None), nodes: vec![asked.dir] }
    }

    /// After it was.
    pub(super) fn keep(&self, asked: Asked, making: Making, bytes: &[u8], vfs: &dyn Vfs) {
        // Of the nodes first: what changes in between is seen in that of the share.
        let Some(generation) = vfs.generation(Some(&making.nodes)) else { return };
        if making.before == vfs.generation(None) {
            self.0.insert(asked, Arc::new(Page { bytes: bytes.to_vec(), nodes: making.nodes, generation }));
        }
    }
}

impl Making {
    /// The attributes of a node are in the page.
    pub(super) fn names(&mut self, node: NodeId) {
        self.nodes.push(node);
    }
}

//! One mount, as the session threads of `fuser` see it.
//!
//! What lives here: [`Filesystem`], what is agreed with the kernel at the start, and what a request says of its caller, its node and its lock;
//! `filesystem/operations.rs` has the operations.

mod operations;

use std::sync::Arc;
use std::time::Duration;

use fuser::{INodeNo, InitFlags, KernelConfig, LockOwner, Request};
use tokio::runtime::Handle;

use super::answer::{Asked, Failures};
use super::convert;
use super::kept::Kept;
use crate::base::id::NodeId;
use crate::engine::file::{self, Caller, Lock, LockKind, Origin, Vfs};

/// The largest write and read-ahead that is asked for; the kernel cuts it to its own limit (1 MiB by default).
pub(super) const TRANSFER_BYTES_MAX: u32 = 1 << 20;

/// Requests that the kernel may have under way in the background: S3 is far away.
const BACKGROUND_MAX: u16 = 256;

/// A share at one mount point.
pub(super) struct Filesystem {
    vfs: Arc<dyn Vfs>,
    origin: Origin,
    root: NodeId,
    cache: Duration,
    kept: Arc<Kept>,
    failures: Arc<Failures>,
    /// Reads that were answered at once.
    reads: metrics::Counter,
    runtime: Handle,
}

impl Filesystem {
    /// `name`: the share's, in the log.
    pub(super) fn new(name: &str, vfs: Arc<dyn Vfs>, origin: Origin, cache: Duration, kept: Arc<Kept>, runtime: Handle) -> Self {
        let root = vfs.root();
        let reads = metrics::counter!("tidegate_fuse_operations_total", "operation" => "read");
        Self { vfs, origin, root, cache, kept, failures: Failures::new(name), reads, runtime }
    }

    /// Counts a request about `node`.
    fn asked(&self, operation: &'static str, request: &Request, node: NodeId) -> Asked {
        metrics::counter!("tidegate_fuse_operations_total", "operation" => operation).increment(1);
        self.counted(operation, request, node)
    }

    /// As [`Self::asked`], of a request that is counted.
    fn counted(&self, operation: &'static str, request: &Request, node: NodeId) -> Asked {
        Asked { failures: self.failures.clone(), operation, node, uid: request.uid(), pid: request.pid() }
    }

    /// How long the kernel may keep names and attributes from now on.
    fn cache(&self) -> Duration {
        self.cache.min(self.vfs.unseen_max())
    }

    fn node(&self, inode: INodeNo) -> NodeId {
        convert::node(inode, self.root)
    }

    /// The caller of an operation that checks no permission of its own.
    fn caller(&self, request: &Request) -> Caller {
        convert::caller(request, self.origin)
    }

    /// The caller with all groups, for operations where the share decides by them.
    fn checked_caller(&self, request: &Request) -> Caller {
        convert::with_groups(convert::caller(request, self.origin))
    }

    /// A listing from its beginning: what the kernel keeps of it is of now.
    fn note_listed(&self, inode: INodeNo, offset: u64) {
        if offset == 0 {
            self.kept.list(inode);
        }
    }

    fn lock(&self, owner: LockOwner, pid: u32, start: u64, end: u64, kind: LockKind) -> Lock {
        // The kernel's ranges are inclusive, and end at i64::MAX for "to the end" (OFFSET_MAX).
        let end = if end >= i64::MAX as u64 { u64::MAX } else { end + 1 };
        Lock { owner: self.lock_owner(owner, pid), range: start..end, kind, flock: false }
    }

    fn lock_owner(&self, owner: LockOwner, pid: u32) -> file::LockOwner {
        file::LockOwner { origin: self.origin, owner: owner.0, pid }
    }
}

/// Says what this file system can, of what the kernel offers.
fn negotiate(config: &mut KernelConfig) {
    // Without FUSE_ATOMIC_O_TRUNC: with it an open that truncates reaches us before the kernel looks whether the file is a program that
    // runs (ETXTBSY), which is then cut all the same.
    let wanted = InitFlags::FUSE_POSIX_LOCKS
        | InitFlags::FUSE_EXPORT_SUPPORT
        | InitFlags::FUSE_DO_READDIRPLUS
        | InitFlags::FUSE_READDIRPLUS_AUTO
        | InitFlags::FUSE_ASYNC_DIO
        | InitFlags::FUSE_PARALLEL_DIROPS
        | InitFlags::FUSE_CACHE_SYMLINKS
        | InitFlags::FUSE_EXPLICIT_INVAL_DATA
        | InitFlags::FUSE_HANDLE_KILLPRIV_V2;
    let offered = config.capabilities();
    for flag in wanted.iter().filter(|flag| offered.contains(*flag)) {
        let _ = config.add_capabilities(flag);
    }
    // Each answers a refusal with the nearest value that the kernel takes.
    let _ = config.set_max_write(TRANSFER_BYTES_MAX).or_else(|nearest| config.set_max_write(nearest));
    let _ = config.set_max_readahead(TRANSFER_BYTES_MAX).or_else(|nearest| config.set_max_readahead(nearest));
    let _ = config.set_max_background(BACKGROUND_MAX).or_else(|nearest| config.set_max_background(nearest));
}

//! Tells the kernel what changed behind the mount's back.
//!
//! Invariant: runs on a thread of its own, since the kernel may block the call until a request on the same inode was answered.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::thread;

use fuser::{INodeNo, Notifier};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use super::convert::inode;
use crate::base::id::NodeId;
use crate::engine::file::{Changed, Event, Origin};

/// Starts the thread; it ends with the share (no more events) or the mount (the kernel refuses).
pub(super) fn spawn(notifier: Notifier, mut changes: Receiver<Event>, origin: Origin, root: NodeId) {
    let run = move || {
        loop {
            match changes.blocking_recv() {
                Ok(event) if event.origin == origin => {}
                Ok(event) => {
                    if let Err(error) = tell(&notifier, &event.what, root)
                        && !is_unknown(&error)
                    {
                        tracing::debug!(%error, "the mount is gone, invalidations end");
                        return;
                    }
                }
                // What was missed expires by itself, after `Settings::cache`.
                Err(RecvError::Lagged(missed)) => tracing::warn!(missed, "the kernel's cache may be stale for a moment"),
                Err(RecvError::Closed) => return,
            }
        }
    };
    if let Err(error) = thread::Builder::new().name("fuse-invalidate".into()).spawn(run) {
        tracing::error!(%error, "no thread for invalidations: changes by others show late");
    }
}

fn tell(notifier: &Notifier, what: &Changed, root: NodeId) -> io::Result<()> {
    match what {
        Changed::Mark(_) => Ok(()),
        // A negative offset: attributes only.
        Changed::Attr(node) => notifier.inval_inode(inode(*node, root), -1, 0),
        Changed::Data(node, range) => {
            let offset = i64::try_from(range.start).unwrap_or(0);
            let length = i64::try_from(range.end.saturating_sub(range.start)).unwrap_or(0);
            notifier.inval_inode(inode(*node, root), offset, length)
        }
        Changed::Entry { parent, name, before, after } => {
            let (parent, name) = (inode(*parent, root), OsStr::from_bytes(name));
            let told = if after.0 == 0 && before.0 != 0 {
                // Tells the kernel of an unlink, so that watchers hear of it; busy directories are only forgotten.
                notifier.delete(parent, inode(*before, root), name).or_else(|_| notifier.inval_entry(parent, name))
            } else {
                notifier.inval_entry(parent, name)
            };
            told.or_else(ignore_unknown)?;
            // From 0 on: also the listing that the kernel keeps.
            notifier.inval_inode(parent, 0, 0).or_else(ignore_unknown)?;
            if before.0 != 0 { notifier.inval_inode(INodeNo(inode(*before, root).0), -1, 0) } else { Ok(()) }
        }
    }
}

fn ignore_unknown(error: io::Error) -> io::Result<()> {
    if is_unknown(&error) { Ok(()) } else { Err(error) }
}

/// The kernel does not have it, so there is nothing to forget.
fn is_unknown(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::ENOTEMPTY | libc::EBUSY))
}

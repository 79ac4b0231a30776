//! Tells the kernel what changed behind the mount's back.
//!
//! Invariants:
//! - Runs on a thread of its own, since the kernel may block the call until a request on the same inode was answered.
//! - Nothing is missed: where more changed than can be told one by one, all content is dropped at once ([`Kept::forget_all`]). Names and
//!   attributes that the kernel has then are believed for `Settings::cache` at most.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::thread;

use fuser::{INodeNo, Notifier};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::convert::inode;
use super::kept::Kept;
use crate::base::id::NodeId;
use crate::engine::file::{Changed, Changes};

/// What of an inode is dropped: attributes, and bytes from `offset` on; negative: none. Of `length` 0: to the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    offset: i64,
    length: i64,
}

impl Span {
    const ATTRIBUTES: Self = Self { offset: -1, length: 0 };
    /// Of a directory: also the listing that the kernel keeps.
    const WHOLE: Self = Self { offset: 0, length: 0 };
}

/// Names and inodes of which the kernel is told, each once.
#[derive(Debug, Default, PartialEq, Eq)]
struct Notices {
    /// Directory, name, and the node that it had where it has none now.
    names: Vec<(INodeNo, Vec<u8>, Option<INodeNo>)>,
    inodes: BTreeMap<INodeNo, Span>,
}

/// Starts the thread; it ends with the share (no more changes), by `stop`, or with the mount (the kernel refuses).
pub(super) fn spawn(
    notifier: Notifier,
    mut changes: Changes,
    kept: Arc<Kept>,
    root: NodeId,
    runtime: Handle,
    stop: CancellationToken,
) {
    let run = move || {
        while let Some(Some(changed)) = runtime.block_on(stop.run_until_cancelled(changes.next())) {
            if let Err(error) = tell(&notifier, &Notices::of(&changed, &kept, root)) {
                tracing::debug!(%error, "the mount is gone, invalidations end");
                return;
            }
        }
    };
    if let Err(error) = thread::Builder::new().name("fuse-invalidate".into()).spawn(run) {
        tracing::error!(%error, "no thread for invalidations: changes by others show late");
    }
}

impl Notices {
    fn of(changed: &[Changed], kept: &Kept, root: NodeId) -> Self {
        let mut notices = Self::default();
        for what in changed {
            match what {
                Changed::Attr(node) => notices.drop(inode(*node, root), Span::ATTRIBUTES),
                Changed::Data(node, range) => {
                    let offset = i64::try_from(range.start).unwrap_or(0);
                    let length = i64::try_from(range.end.saturating_sub(range.start)).unwrap_or(0);
                    notices.drop(inode(*node, root), Span { offset, length });
                }
                Changed::Entry { parent, name, before, after } => {
                    let (parent, before) = (inode(*parent, root), Some(inode(*before, root)).filter(|inode| inode.0 != 0));
                    notices.names.push((parent, name.clone(), before.filter(|_| after.0 == 0)));
                    notices.drop(parent, Span::WHOLE);
                    if let Some(before) = before {
                        notices.drop(before, Span::ATTRIBUTES);
                    }
                }
                Changed::Everything => {
                    let all = kept.forget_all();
                    tracing::info!(nodes = all.len(), "more changed than can be told one by one: the kernel's cache is dropped");
                    all.into_iter().chain([INodeNo::ROOT]).for_each(|inode| notices.drop(inode, Span::WHOLE));
                }
            }
        }
        notices
    }

    fn drop(&mut self, inode: INodeNo, span: Span) {
        let known = self.inodes.entry(inode).or_insert(span);
        if *known == Span::ATTRIBUTES || span == Span::WHOLE {
            *known = span;
        }
    }
}

/// # Errors
/// Only where the mount is gone.
fn tell(notifier: &Notifier, notices: &Notices) -> io::Result<()> {
    for (parent, name, before) in &notices.names {
        let name = OsStr::from_bytes(name);
        let told = match before {
            // Tells the kernel of an unlink, so that watchers hear of it; busy directories are only forgotten.
            Some(before) => notifier.delete(*parent, *before, name).or_else(|_| notifier.inval_entry(*parent, name)),
            None => notifier.inval_entry(*parent, name),
        };
        told.or_else(go_on)?;
    }
    for (inode, span) in &notices.inodes {
        notifier.inval_inode(*inode, span.offset, span.length).or_else(go_on)?;
    }
    Ok(())
}

/// Mostly the kernel does not have it, so there is nothing to forget.
fn go_on(error: io::Error) -> io::Result<()> {
    match error.raw_os_error() {
        Some(libc::ENODEV | libc::ENOTCONN | libc::EPERM | libc::EBADF) => Err(error),
        Some(libc::ENOENT | libc::ENOTDIR | libc::ENOTEMPTY | libc::EBUSY) => Ok(()),
        _ => {
            tracing::warn!(%error, "the kernel could not be told of a change");
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_inode_is_told_once_and_of_all_that_changed() {
        let (kept, root) = (Kept::new(std::time::Duration::from_secs(1)), NodeId(50));
        let entry = |name: &[u8], before, after| Changed::Entry {
            parent: root,
            name: name.to_vec(),
            before: NodeId(before),
            after: NodeId(after),
        };
        let changed = [
            entry(b"new", 0, 7),
            entry(b"gone", 8, 0),
            Changed::Attr(root),
            Changed::Data(NodeId(8), 4096..8192),
            entry(b"replaced", 8, 9),
            Changed::Attr(NodeId(9)),
        ];
        let notices = Notices::of(&changed, &kept, root);
        let names = [(&b"new"[..], None), (b"gone", Some(INodeNo(8))), (b"replaced", None)];
        assert_eq!(notices.names, names.map(|(name, before)| (INodeNo::ROOT, name.to_vec(), before)));
        let inodes = [(1, Span::WHOLE), (8, Span { offset: 4096, length: 4096 }), (9, Span::ATTRIBUTES)];
        assert_eq!(notices.inodes, inodes.map(|(inode, span)| (INodeNo(inode), span)).into());
    }
}

//! From a request to its answer: the task that runs it, the forms that answers have, and the line where it failed.
//!
//! Invariants: every request is counted, once, and so is every failure. A failure that is the gateway's or S3's and not the client's ordinary
//! business is one line in the log, with share, operation, node and caller; at most [`LINES_MAX`] a second, and what was left out is told.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fuser::{Errno, FopenFlags, Generation, ReplyData, ReplyEntry, ReplyXattr};
use parking_lot::Mutex;

use super::convert;
use crate::base::id::NodeId;
use crate::engine::file::{NodeKind, VfsError};

/// How long a missing name may be believed missing.
const NEGATIVE_CACHE: Duration = Duration::from_secs(1);

/// Failures of a mount that are logged in a second.
const LINES_MAX: u32 = 10;

/// Where the failures of a mount are told.
pub(super) struct Failures {
    share: String,
    lines: Mutex<Lines>,
}

/// Lines of this second, and what was left out since the last line.
struct Lines {
    since: Instant,
    written: u32,
    left_out: u64,
}

/// A request on its way to its answer.
pub(super) struct Asked {
    pub(super) failures: Arc<Failures>,
    pub(super) operation: &'static str,
    /// The node, or the directory where it is about a name.
    pub(super) node: NodeId,
    pub(super) uid: u32,
    pub(super) pid: u32,
}

impl Failures {
    pub(super) fn new(share: &str) -> Arc<Self> {
        Arc::new(Self { share: share.to_owned(), lines: Mutex::new(Lines { since: Instant::now(), written: 0, left_out: 0 }) })
    }
}

impl Lines {
    /// Whether a line may be written; then, how many were not since the last.
    fn take(&mut self, now: Instant) -> Option<u64> {
        if now.saturating_duration_since(self.since) >= Duration::from_secs(1) {
            (self.since, self.written) = (now, 0);
        }
        if self.written == LINES_MAX {
            self.left_out += 1;
            return None;
        }
        self.written += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

impl Asked {
    /// Counts a failure, tells an operator where it concerns one, and has the errno.
    pub(super) fn failed(&self, error: &VfsError) -> Errno {
        let Self { failures, operation, node, uid, pid } = self;
        metrics::counter!("tidegate_fuse_errors_total", "operation" => *operation).increment(1);
        let share = &failures.share;
        let line = if is_fault(error) { failures.lines.lock().take(Instant::now()) } else { None };
        match line {
            Some(left_out) => {
                tracing::warn!(%share, operation, %node, uid, pid, %error, left_out, "a client's operation failed");
            }
            None => tracing::debug!(%share, operation, %node, uid, pid, %error, "a client's operation failed"),
        }
        convert::errno(error)
    }
}

/// Whether an operator wants to know. The rest is what a local disk answers every day.
fn is_fault(error: &VfsError) -> bool {
    match error {
        VfsError::Io(_) | VfsError::Unavailable(_) | VfsError::NoSpace | VfsError::Stale | VfsError::BadHandle => true,
        VfsError::NotFound
        | VfsError::Exists
        | VfsError::NotDirectory
        | VfsError::IsDirectory
        | VfsError::NotEmpty
        | VfsError::AccessDenied
        | VfsError::NotPermitted
        | VfsError::ReadOnly
        | VfsError::NameTooLong
        | VfsError::BadName
        | VfsError::Invalid
        | VfsError::TooLarge
        | VfsError::TooManyLinks
        | VfsError::CrossShare
        | VfsError::NoAttribute
        | VfsError::RangeTooSmall
        | VfsError::WouldBlock
        | VfsError::Deadlock
        | VfsError::ShareViolation
        | VfsError::Interrupted
        | VfsError::NotSync
        | VfsError::NoSuchAddress
        | VfsError::Unsupported
        | VfsError::Offline => false,
    }
}

/// Runs a call as a task and answers with its result: `answer!(self, "name", (request, node), reply, vfs => call, value => reply.…)`.
macro_rules! answer {
    ($self:ident, $operation:literal, ($request:ident, $node:expr), $reply:ident, $vfs:ident => $call:expr, $value:pat => $send:expr) => {{
        let asked = $self.asked($operation, $request, $node);
        let $vfs = $self.vfs.clone();
        $self.runtime.spawn(async move {
            match $call.await {
                Ok($value) => $send,
                Err(error) => $reply.error(asked.failed(&error)),
            }
        });
    }};
}

/// As `answer!` for a call that gives attributes which go out as an entry.
macro_rules! answer_entry {
    ($self:ident, $operation:literal, ($request:ident, $node:expr), $reply:ident, $vfs:ident => $call:expr) => {{
        let (cache, root) = ($self.cache(), $self.root);
        answer!($self, $operation, ($request, $node), $reply, $vfs => $call, attr => {
            $reply.entry(&cache, &convert::file_attr(&attr, root), Generation(0));
        })
    }};
}

pub(in crate::protocol::fuse) use {answer, answer_entry};

/// Sends slices as one piece, copying only where there is more than one.
pub(super) fn send_data(reply: ReplyData, mut slices: Vec<Bytes>) {
    match slices.len() {
        0 => reply.data(&[]),
        1 => reply.data(&slices.remove(0)),
        _ => reply.data(&slices.concat()),
    }
}

pub(super) fn send_xattr(reply: ReplyXattr, value: &[u8], size: u32) {
    // size 0 asks for the length only (getxattr(2)).
    match (size as usize, u32::try_from(value.len())) {
        (_, Err(_)) => reply.error(Errno::E2BIG),
        (0, Ok(length)) => reply.size(length),
        (room, Ok(_)) if room < value.len() => reply.error(Errno::ERANGE),
        _ => reply.data(value),
    }
}

/// Whether an open leaves the kernel the bytes that it has.
pub(super) fn keep(is_kept: bool) -> FopenFlags {
    if is_kept { FopenFlags::FOPEN_KEEP_CACHE } else { FopenFlags::empty() }
}

/// An entry with inode 0: the name does not exist, and the kernel may remember that for a moment.
pub(super) fn send_missing(reply: ReplyEntry) {
    let nothing = convert::unknown_attr(NodeId(0), NodeKind::File, NodeId(u64::MAX));
    reply.entry(&NEGATIVE_CACHE, &nothing, Generation(0));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_bounded_and_what_was_left_out_is_told() {
        let start = Instant::now();
        let mut lines = Lines { since: start, written: 0, left_out: 0 };
        let written = (0..100).filter_map(|_| lines.take(start)).count();
        assert_eq!(written, 10);
        let later = start + Duration::from_secs(1);
        assert_eq!([lines.take(later), lines.take(later)], [Some(90), Some(0)]);
    }
}

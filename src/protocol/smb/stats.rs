//! What SMB clients did on a share, counted since the share was offered.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of one share.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) open_files: AtomicU64,
    pub(super) opens: AtomicU64,
    pub(super) read_bytes: AtomicU64,
    pub(super) written_bytes: AtomicU64,
    pub(super) errors: AtomicU64,
}

/// What `status` and metrics show of a share.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShareStats {
    /// The share.
    pub name: String,
    /// Files and directories that clients have open.
    pub open_files: u64,
    /// How often something was opened.
    pub opens: u64,
    /// Bytes that clients read.
    pub read_bytes: u64,
    /// Bytes that clients wrote.
    pub written_bytes: u64,
    /// Requests that the share answered with an error.
    pub errors: u64,
}

impl Counts {
    pub(super) fn snapshot(&self, name: &str) -> ShareStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ShareStats {
            name: name.to_owned(),
            open_files: get(&self.open_files),
            opens: get(&self.opens),
            read_bytes: get(&self.read_bytes),
            written_bytes: get(&self.written_bytes),
            errors: get(&self.errors),
        }
    }
}

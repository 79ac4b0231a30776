//! Byte-range and whole-file locks.

/// All locks of a share.
#[derive(Default)]
pub(super) struct LockTable {}

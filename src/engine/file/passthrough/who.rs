//! One call with the caller's user, group and groups.
//!
//! Invariant: credentials are the thread's alone, and the process's own again before anything else runs on it, also after a panic.

use rustix::process::{Gid, Uid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::convert::told;
use crate::engine::file::{Caller, VfsError};

/// The thread is somebody else until this is dropped.
pub(super) struct As(());

impl As {
    /// Runs `call` as `who`. It must not wait.
    pub(super) fn run<T>(who: &Caller, call: impl FnOnce() -> Result<T, VfsError>) -> Result<T, VfsError> {
        if who.uid == 0 && who.gid == 0 && who.groups.is_empty() {
            return call();
        }
        let groups: Vec<Gid> = who.groups.iter().map(|group| Gid::from_raw(*group)).collect();
        let _back = Self(());
        set_thread_groups(&groups).map_err(told)?;
        set_thread_res_gid(None, Gid::from_raw(who.gid), None).map_err(told)?;
        set_thread_res_uid(None, Uid::from_raw(who.uid), None).map_err(told)?;
        call()
    }
}

impl Drop for As {
    fn drop(&mut self) {
        let back = set_thread_res_uid(None, Uid::ROOT, None)
            .and_then(|()| set_thread_res_gid(None, Gid::ROOT, None))
            .and_then(|()| set_thread_groups(&[]));
        assert!(back.is_ok() || !rustix::process::getuid().is_root(), "the thread is somebody else for ever: {back:?}");
    }
}

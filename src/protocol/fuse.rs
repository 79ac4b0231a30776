//! FUSE: a share as a file system of this machine, on the crate `fuser`.
//!
//! What lives here: [`mount`], which serves one share at one mount point, and its [`Settings`] and [`MountError`].
//! `fuse/filesystem.rs` turns requests of the kernel into calls of the [`Vfs`] (it is deliberately dumb), `fuse/answer.rs` sends answers and
//! tells of failures, `fuse/convert.rs` holds every mapping of values, flags and errors, `fuse/invalidate.rs` tells the kernel what changed
//! behind its back, `fuse/kept.rs` knows what content it may have, `fuse/mountpoint.rs` looks at the mount point before, and clears a dead
//! one away.
//!
//! Invariants:
//! - A session thread of `fuser` never waits: what the share can answer from memory is answered inline, everything else is a task of the
//!   runtime that carries the reply with it. Many requests are in flight.
//! - The kernel checks permissions (`default_permissions`: it knows all groups and capabilities of the caller), and the share checks again.
//! - The kernel's writeback cache is off: it would ignore sizes and times that other front ends change. Its read cache and its entries are
//!   kept across opens, since every change by somebody else is told to it.
//! - Invalidations are sent from a thread of their own, never inside a request (the kernel may hold the inode's lock meanwhile), and before
//!   another front end's client hears that its change is done; a second later where a request of the kernel is in the way.
//! - `fuser` answers INTERRUPT with ENOSYS: so every wait of the share has a deadline or watches the caller's process.
//! - `flock` stays in the kernel, since `fuser` does not tell it from a POSIX lock; byte-range locks come to the share.

mod answer;
mod convert;
mod filesystem;
mod invalidate;
mod kept;
mod mountpoint;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fuser::{Config, MountOption, SessionACL};
use tokio::runtime::Handle;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::engine::file::{Origin, Vfs};
use filesystem::Filesystem;
use kept::Kept;
pub use mountpoint::recover as recover_mount_point;

/// Plain values of a FUSE mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where; created where it does not exist.
    pub mount: PathBuf,
    /// For how long the kernel may believe attributes and entries that nobody told it to forget.
    pub cache: Duration,
    /// Threads that read requests from the kernel.
    pub threads: usize,
}

impl Settings {
    /// The settings of a mount at `mount`.
    pub fn at(mount: impl Into<PathBuf>) -> Self {
        Self { mount: mount.into(), cache: Duration::from_secs(10), threads: 4 }
    }
}

/// Why a share could not be mounted; the text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// There is no FUSE here.
    #[error(
        "{0} cannot be opened: {1}; load the kernel's fuse module, or pass the device into the container (--device /dev/fuse --cap-add SYS_ADMIN)"
    )]
    NoDevice(&'static str, io::Error),
    /// Something else is mounted there.
    #[error("the mount point {0} is in use by {1}; unmount it, or choose another for this share ([fuse] mount)")]
    InUse(PathBuf, String),
    /// It would hide files.
    #[error("the mount point {0} is not an empty directory; choose another for this share ([fuse] mount)")]
    NotEmpty(PathBuf),
    /// The rest.
    #[error("mounting at {0} failed: {1}")]
    Failed(PathBuf, io::Error),
}

/// A share that is mounted. Dropping it unmounts.
#[derive(Debug)]
pub struct Mount {
    session: Option<fuser::BackgroundSession>,
    path: PathBuf,
    /// Ends the invalidations.
    _invalidates: DropGuard,
}

impl Mount {
    /// Where.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Unmounts: lazily, so that it succeeds while files are open, then waits for the requests that are running.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn unmount(mut self) -> io::Result<()> {
        match self.session.take() {
            Some(session) => session.umount_and_join(),
            None => Ok(()),
        }
    }

    /// Whether the kernel still serves the mount (somebody may have run `umount`).
    pub fn is_alive(&self) -> bool {
        mountpoint::mounted_source(&self.path).is_ok_and(|source| source.is_some())
    }
}

/// Mounts `vfs` and serves it until the [`Mount`] goes. `name` shows in `mount` and `df`.
///
/// # Errors
/// See [`MountError`].
pub fn mount(name: &str, vfs: Arc<dyn Vfs>, origin: Origin, settings: &Settings, runtime: &Handle) -> Result<Mount, MountError> {
    let path = mountpoint::prepare(&settings.mount)?;
    let changes = vfs.changes(Some(origin));
    let (kept, stop) = (Arc::new(Kept::new(settings.cache)), CancellationToken::new());
    let filesystem = Filesystem::new(name, vfs.clone(), origin, settings.cache, kept.clone(), runtime.clone());
    let config = config(name, settings);
    let session = fuser::Session::new(filesystem, &path, &config)
        .and_then(fuser::Session::spawn)
        .map_err(|error| MountError::Failed(path.clone(), error))?;
    if let Err(error) = mountpoint::set_read_ahead(&path, u64::from(filesystem::TRANSFER_BYTES_MAX)) {
        tracing::debug!(%error, "the kernel reads ahead by its default");
    }
    invalidate::spawn(session.notifier(), changes, kept, vfs.root(), runtime.clone(), stop.clone());
    Ok(Mount { session: Some(session), path, _invalidates: stop.drop_guard() })
}

fn config(name: &str, settings: &Settings) -> Config {
    let root = rustix::process::geteuid().is_root();
    let mut options = vec![
        MountOption::FSName(format!("tidegate:{name}")),
        MountOption::Subtype("tidegate".into()),
        MountOption::DefaultPermissions,
    ];
    if root {
        options.extend([MountOption::Dev, MountOption::Suid]);
    }
    let mut config = Config::default();
    config.mount_options = options;
    config.acl = if root || mountpoint::allow_other() { SessionACL::All } else { SessionACL::Owner };
    config.n_threads = Some(settings.threads.max(1));
    config.clone_fd = true;
    config
}

#[cfg(test)]
mod tests;

//! A file tree: one share is one bucket (or a prefix of it), each file one object.
//!
//! What lives here: [`Vfs`], the seam under every front end (FUSE, NFS, SMB), and its errors; `file/values.rs` has its values; `file/share.rs` is the
//! share, with one file per verb or family of verbs beside it; `file/passthrough.rs` is a kernel directory behind the same seam, for differential tests of front ends.
//!
//! Invariants of the seam:
//! - Names are bytes; a node's identity is its [`NodeId`], which is never reused and survives restarts.
//! - Permissions are checked here, for the [`Caller`] of each call, by POSIX rules; a front end checks nothing. A call through a
//!   [`Io::Handle`] was checked at `open`.
//! - `open` is the one place where existence, creation, truncation and sharing meet.
//! - A mutation that returned is visible to every front end and survives the process; `commit` makes it survive power loss, names included.
//! - Every change is told on `changes` before the call that made it returns.

mod access;
mod atime;
mod attr;
pub mod attributes;
pub mod changes;
mod conflict;
mod copy;
mod create;
mod guard;
mod handle;
mod io;
pub mod keys;
pub mod layout;
mod link;
mod linkgroup;
mod lock;
mod locks;
mod lookup;
mod moves;
mod open;
mod overflow;
#[cfg(test)]
pub(crate) mod passthrough;
mod permit;
mod readdir;
pub mod refresh;
mod remote;
mod remove;
mod rename;
mod settle;
pub mod share;
mod space;
pub mod start;
mod statfs;
mod tree;
mod values;
mod watch;
pub mod witness;
mod xattr;

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::base::id::NodeId;
pub use crate::store::meta::NodeKind;
pub use changes::Changes;
pub use values::{
    AccessMask, Allocate, Attr, Caller, Changed, Create, DirEntry, HandleId, Io, Lock, LockKind, LockOwner, OpenHow, Opened,
    Origin, Remove, Rename, Seek, SetAttr, SetTime, SetXattr, StatFs, Target,
};

/// Why a call failed; each has one errno, nfsstat3, NTSTATUS in its front end's table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VfsError {
    /// No such name.
    #[error("no such file or directory")]
    NotFound,
    /// The node is gone (removed while the caller still knew it).
    #[error("the file is gone")]
    Stale,
    /// The name is taken.
    #[error("file exists")]
    Exists,
    /// A directory was needed.
    #[error("not a directory")]
    NotDirectory,
    /// Anything but a directory was needed.
    #[error("is a directory")]
    IsDirectory,
    /// The directory has entries.
    #[error("directory not empty")]
    NotEmpty,
    /// Permission bits say no (EACCES).
    #[error("permission denied")]
    AccessDenied,
    /// Only an owner or root may (EPERM).
    #[error("operation not permitted")]
    NotPermitted,
    /// The share is read-only, by configuration or because its disk is short.
    #[error("read-only share")]
    ReadOnly,
    /// Over 255 bytes, or a path over S3's 1,024.
    #[error("name too long")]
    NameTooLong,
    /// A name that S3 cannot hold (not UTF-8), or bytes that no name has (EILSEQ).
    #[error("the name cannot be kept in S3")]
    BadName,
    /// A value out of range.
    #[error("invalid argument")]
    Invalid,
    /// Larger than a file of the share can be (EFBIG).
    #[error("file too large")]
    TooLarge,
    /// The cache is full of bytes that are not uploaded, for as long as the caller would wait.
    #[error("no space left: the cache is full of bytes that are not uploaded yet")]
    NoSpace,
    /// Link count (65,000) reached.
    #[error("too many links")]
    TooManyLinks,
    /// Another share or device (EXDEV).
    #[error("not in the same share")]
    CrossShare,
    /// No such attribute.
    #[error("no such attribute")]
    NoAttribute,
    /// An attribute's value or list does not fit the caller's buffer or our limits.
    #[error("attribute too large")]
    RangeTooSmall,
    /// A lock is held by somebody else.
    #[error("locked by somebody else")]
    WouldBlock,
    /// Waiting for this lock would wait for itself.
    #[error("deadlock")]
    Deadlock,
    /// A share mode forbids it.
    #[error("open elsewhere in a way that forbids this")]
    ShareViolation,
    /// The caller was killed or gave up while waiting.
    #[error("interrupted")]
    Interrupted,
    /// The guard of a `setattr` did not hold.
    #[error("changed meanwhile")]
    NotSync,
    /// A handle that is not open, or not for this.
    #[error("bad handle")]
    BadHandle,
    /// Past the last data (`SEEK_DATA`), or no such device (ENXIO).
    #[error("no such device or address")]
    NoSuchAddress,
    /// Not possible here (EOPNOTSUPP).
    #[error("not supported")]
    Unsupported,
    /// The object is archived: a restore was begun; later.
    #[error("the object is archived and is being restored")]
    Offline,
    /// S3 did not answer in time; later.
    #[error("S3 does not answer: {0}")]
    Unavailable(String),
    /// Bytes are damaged, or S3 refuses for good.
    #[error("input/output error: {0}")]
    Io(String),
}

/// One share, under every front end. All calls are cancel-safe: dropping the future gives up the wait, never half a change.
#[async_trait]
pub trait Vfs: Send + Sync + 'static {
    /// The root directory.
    fn root(&self) -> NodeId;

    /// A name in a directory ("." and ".." too).
    async fn lookup(&self, who: &Caller, parent: NodeId, name: &[u8]) -> Result<Attr, VfsError>;

    /// Attributes. Needs no permission.
    async fn getattr(&self, who: &Caller, node: NodeId) -> Result<Attr, VfsError>;

    /// As `getattr` where nothing has to be awaited; `None` otherwise.
    fn try_getattr(&self, who: &Caller, node: NodeId) -> Option<Result<Attr, VfsError>> {
        let _ = (who, node);
        None
    }

    /// As `lookup` where nothing has to be awaited; `None` otherwise.
    fn try_lookup(&self, who: &Caller, parent: NodeId, name: &[u8]) -> Option<Result<Attr, VfsError>> {
        let _ = (who, parent, name);
        None
    }

    /// Whether a readdir now would tell what an earlier one told, but for what [`Self::changes`] said since: a front end may answer from what it
    /// kept. False where that takes more than memory to know.
    fn is_listing_current(&self, dir: NodeId) -> bool {
        let _ = dir;
        false
    }

    /// For so long what others change behind the share may go unseen: a front end lets clients keep names and attributes no longer.
    fn unseen_max(&self) -> Duration {
        Duration::MAX
    }

    /// A number that is another one once a change of one of these nodes (a directory's names are its own) was told on [`Self::changes`], or of any
    /// where none are named: what a front end keeps is true as long as it stays. It may also be another one without. `None`: keep nothing.
    fn generation(&self, nodes: Option<&[NodeId]>) -> Option<u64> {
        let _ = nodes;
        None
    }

    /// As `read` where nothing has to be awaited; `None` otherwise.
    fn try_read(&self, who: &Caller, io: Io, offset: u64, len_bytes: u32) -> Option<Result<Vec<Bytes>, VfsError>> {
        let _ = (who, io, offset, len_bytes);
        None
    }

    /// Changes attributes; `handle`: through an open handle (`ftruncate`, `fchmod`).
    async fn setattr(&self, who: &Caller, node: NodeId, handle: Option<HandleId>, set: &SetAttr) -> Result<Attr, VfsError>;

    /// Which of the bits the caller has.
    async fn access(&self, who: &Caller, node: NodeId, mask: AccessMask) -> Result<AccessMask, VfsError>;

    /// Opens a file or directory.
    async fn open(&self, who: &Caller, target: Target<'_>, how: &OpenHow) -> Result<Opened, VfsError>;

    /// Closes a handle; releases what hangs on it.
    async fn close(&self, handle: HandleId) -> Result<(), VfsError>;

    /// Bytes from `offset` on: fewer than `len_bytes` only at the end of the file.
    async fn read(&self, who: &Caller, io: Io, offset: u64, len_bytes: u32) -> Result<Vec<Bytes>, VfsError>;

    /// Writes all of `data`; on an `append` handle at the end, whatever `offset` says. Returns attributes after it.
    async fn write(&self, who: &Caller, io: Io, offset: u64, data: Bytes) -> Result<Attr, VfsError>;

    /// Everything acknowledged so far is durable as the share promises (`local`: survives power loss here; `remote`: this node is in S3).
    async fn commit(&self, who: &Caller, node: NodeId) -> Result<(), VfsError>;

    /// Everything acknowledged so far, names and attributes too, survives power loss here, whatever the share's durability is.
    async fn sync(&self) -> Result<(), VfsError>;

    /// Changes whenever bytes that were written and not committed may be lost: at every start, and where a flush failed (RFC 1813 §3.3.7).
    fn write_verifier(&self) -> u64;

    /// Changes what a range occupies.
    async fn allocate(&self, who: &Caller, io: Io, offset: u64, len_bytes: u64, how: Allocate) -> Result<(), VfsError>;

    /// `SEEK_DATA`, `SEEK_HOLE`.
    async fn seek(&self, who: &Caller, io: Io, offset: u64, what: Seek) -> Result<u64, VfsError>;

    /// Copies bytes between files of the share (`copy_file_range`); returns how many.
    async fn copy_range(
        &self,
        who: &Caller,
        from: Io,
        from_offset: u64,
        to: Io,
        to_offset: u64,
        len_bytes: u64,
    ) -> Result<u64, VfsError>;

    /// A new directory.
    async fn mkdir(&self, who: &Caller, parent: NodeId, name: &[u8], create: Create) -> Result<Attr, VfsError>;

    /// A new file, FIFO, socket or device.
    async fn mknod(
        &self,
        who: &Caller,
        parent: NodeId,
        name: &[u8],
        kind: NodeKind,
        rdev: u32,
        create: Create,
    ) -> Result<Attr, VfsError>;

    /// A new symbolic link.
    async fn symlink(&self, who: &Caller, parent: NodeId, name: &[u8], target: &[u8]) -> Result<Attr, VfsError>;

    /// A symbolic link's target.
    async fn readlink(&self, who: &Caller, node: NodeId) -> Result<Vec<u8>, VfsError>;

    /// Another name for a node that is no directory.
    async fn link(&self, who: &Caller, node: NodeId, parent: NodeId, name: &[u8]) -> Result<Attr, VfsError>;

    /// Renames atomically.
    async fn rename(&self, who: &Caller, from: (NodeId, &[u8]), to: (NodeId, &[u8]), how: Rename) -> Result<(), VfsError>;

    /// Removes a name.
    async fn remove(&self, who: &Caller, parent: NodeId, name: &[u8], what: Remove) -> Result<(), VfsError>;

    /// Hands out entries after `cookie` until `sink` says `false` (the entry was then not taken) or there are no more. Returns whether the
    /// end was reached. With `plus` entries carry attributes where they are known. Cookies stay valid while the directory changes.
    async fn readdir(
        &self,
        who: &Caller,
        dir: NodeId,
        cookie: u64,
        plus: bool,
        sink: &mut (dyn FnMut(DirEntry) -> bool + Send),
    ) -> Result<bool, VfsError>;

    /// Takes, changes or gives up a lock. Waits up to `wait` (`None`: does not wait).
    async fn lock(&self, who: &Caller, node: NodeId, lock: &Lock, wait: Option<Duration>) -> Result<(), VfsError>;

    /// A lock that stands in the way of `lock`, if any.
    async fn test_lock(&self, who: &Caller, node: NodeId, lock: &Lock) -> Result<Option<Lock>, VfsError>;

    /// Gives up all locks of an owner on a node (a POSIX close), in both tables.
    async fn release_locks(&self, node: NodeId, owner: LockOwner);

    /// An extended attribute's value.
    async fn getxattr(&self, who: &Caller, node: NodeId, name: &[u8]) -> Result<Vec<u8>, VfsError>;

    /// Sets one.
    async fn setxattr(&self, who: &Caller, node: NodeId, name: &[u8], value: &[u8], how: SetXattr) -> Result<(), VfsError>;

    /// All names.
    async fn listxattr(&self, who: &Caller, node: NodeId) -> Result<Vec<Vec<u8>>, VfsError>;

    /// Removes one.
    async fn removexattr(&self, who: &Caller, node: NodeId, name: &[u8]) -> Result<(), VfsError>;

    /// Space.
    async fn statfs(&self) -> Result<StatFs, VfsError>;

    /// From now on, every change. `except` is a front end that keeps a cache: it is not told its own changes.
    fn changes(&self, except: Option<Origin>) -> Changes;

    /// Returns when all other front ends that keep caches are through with what was told on [`Self::changes`] so far, or a second later where
    /// one is stuck. A front end that answers a change after this is not contradicted by their caches.
    async fn told(&self, origin: Origin) {
        let _ = origin;
    }
}

#[cfg(test)]
pub(crate) mod tests;

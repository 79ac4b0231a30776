//! A file tree: one share is one bucket (or a prefix of it), each file one object.
//!
//! What lives here: [`Vfs`], the seam under every front end (FUSE, NFS, SMB), its values and its errors; `file/share.rs` is the
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
mod watch;
pub mod witness;
mod xattr;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::base::id::NodeId;
pub use crate::store::meta::NodeKind;
pub use changes::Changes;

/// Which front end a call comes from, so that it is not told its own changes. 0: the share itself (a refresh, an upload).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Origin(pub u32);

/// On whose behalf a call is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Arc<[u32]>,
    /// The process, where it is of this machine: a wait ends soon after it has a fatal signal pending.
    pub pid: Option<u32>,
    /// The front end.
    pub origin: Origin,
}

impl Caller {
    /// uid 0, gid 0.
    pub fn root(origin: Origin) -> Self {
        Self { uid: 0, gid: 0, groups: Arc::from([]), pid: None, origin }
    }

    /// Whether the caller is in group `gid`.
    pub fn in_group(&self, gid: u32) -> bool {
        self.gid == gid || self.groups.contains(&gid)
    }
}

/// What `stat` tells of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attr {
    /// Inode.
    pub node: NodeId,
    /// Type.
    pub kind: NodeKind,
    /// Permission bits, `0o7777`.
    pub mode: u32,
    /// Links (for a directory 2 + its subdirectories).
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device node.
    pub rdev: u32,
    /// Length in bytes.
    pub size_bytes: u64,
    /// Bytes that it occupies (`st_blocks` × 512).
    pub allocated_bytes: u64,
    /// Times, nanoseconds since the Unix epoch.
    pub atime_ns: i64,
    /// See `atime_ns`.
    pub mtime_ns: i64,
    /// See `atime_ns`.
    pub ctime_ns: i64,
    /// See `atime_ns`.
    pub birth_ns: i64,
    /// Grows with every change of the node (NFSv4 change attribute, SMB change time order).
    pub change: u64,
}

/// A time to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// The gateway's clock.
    Now,
    /// Nanoseconds since the Unix epoch.
    At(i64),
}

/// What to change of a node; `None` leaves it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Length in bytes.
    pub size_bytes: Option<u64>,
    /// Access time.
    pub atime: Option<SetTime>,
    /// Modification time.
    pub mtime: Option<SetTime>,
    /// Birth time (SMB).
    pub birth_ns: Option<i64>,
    /// Only if the change time is still this (NFSv3 SETATTR guard); else `Stale` in the sense of `NotSync`.
    pub guard_ctime_ns: Option<i64>,
}

/// Access bits: read 4, write 2, execute or search 1 (POSIX `access`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AccessMask(pub u8);

/// How a file is to be opened. `create: None`: it must exist; `exclusive`: it must not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenHow {
    /// May read.
    pub read: bool,
    /// May write.
    pub write: bool,
    /// Every write goes to the end.
    pub append: bool,
    /// Cut to 0 bytes.
    pub truncate: bool,
    /// Create with these attributes where it does not exist.
    pub create: Option<Create>,
    /// With `create`: fail where it exists.
    pub exclusive: bool,
    /// For EXCLUSIVE create of NFS: kept with the node; where it exists with the same verifier, that is success.
    pub verifier: Option<u64>,
    /// Others may not open for read / write / delete while this is open (SMB share modes); checked among handles that say so.
    pub deny_read: bool,
    /// See `deny_read`.
    pub deny_write: bool,
    /// See `deny_read`.
    pub deny_delete: bool,
    /// The name is removed when the last handle closes.
    pub delete_on_close: bool,
    /// Opened for execution: execute permission suffices for reading.
    pub execute: bool,
}

/// Attributes of something new. The caller's umask is applied by its front end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Create {
    /// Permission bits.
    pub mode: u32,
}

/// What `open` opens.
#[derive(Clone, Copy, Debug)]
pub enum Target<'a> {
    /// A node that is known.
    Node(NodeId),
    /// A name in a directory.
    Child(NodeId, &'a [u8]),
}

/// An open instance. Unique in the share for the life of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HandleId(pub u64);

/// What `open` did.
#[derive(Clone, Debug)]
pub struct Opened {
    /// For `close` and [`Io::Handle`].
    pub handle: HandleId,
    /// Attributes after it.
    pub attr: Attr,
    /// Whether it was created.
    pub created: bool,
}

/// Through what bytes are read and written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Io {
    /// An open handle.
    Handle(HandleId),
    /// A node without an open (NFSv3): permission is checked for the caller; the owner may always read and write.
    Node(NodeId),
    /// Pages of a mapping that a kernel writes back: it checked the permission when the file was mapped, and closes the file after them.
    Mapped(NodeId),
}

/// One entry that `readdir` hands out.
#[derive(Clone, Debug)]
pub struct DirEntry {
    /// The name.
    pub name: Vec<u8>,
    /// The node.
    pub node: NodeId,
    /// Its type.
    pub kind: NodeKind,
    /// Where to go on after this entry. 0 is the beginning, 1 and 2 are after "." and "..".
    pub cookie: u64,
    /// With `plus`, where they are known without asking S3.
    pub attr: Option<Attr>,
}

/// How `allocate` changes a range (`fallocate(2)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allocate {
    /// Reserve; grow the file where the range ends past it.
    Extend,
    /// Reserve, keep the length.
    KeepSize,
    /// Punch a hole, keep the length.
    Punch,
    /// Zero the range, growing the file.
    Zero,
    /// Zero the range, keep the length.
    ZeroKeepSize,
    /// Take the range out (`FALLOC_FL_COLLAPSE_RANGE`).
    Collapse,
    /// Insert a hole of the range's length (`FALLOC_FL_INSERT_RANGE`).
    Insert,
}

/// `SEEK_DATA` or `SEEK_HOLE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seek {
    /// The next data at or after the offset.
    Data,
    /// The next hole at or after the offset; the end of the file is one.
    Hole,
}

/// How `rename` treats a name that exists (`renameat2(2)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rename {
    /// Replace it.
    Replace,
    /// Fail with `Exists`.
    NoReplace,
    /// Swap the two.
    Exchange,
}

/// What `remove` may remove.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remove {
    /// Anything but a directory.
    File,
    /// An empty directory.
    Directory,
}

/// Whose lock it is: locks of one owner never conflict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LockOwner {
    /// The front end (and, for NFS, client) it is of.
    pub origin: Origin,
    /// The front end's own number for it.
    pub owner: u64,
    /// The process, where it is of this machine.
    pub pid: u32,
}

/// A kind of byte-range lock. Whole-file locks (`flock`) are a table of their own, as in Linux.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockKind {
    /// Many may have it.
    Shared,
    /// One may have it.
    Exclusive,
    /// Give up the range.
    Unlock,
}

/// A lock or a request for one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lock {
    /// Whose.
    pub owner: LockOwner,
    /// Bytes; to `u64::MAX` for "to the end".
    pub range: Range<u64>,
    /// What.
    pub kind: LockKind,
    /// In the table of `flock` locks.
    pub flock: bool,
}

/// How `setxattr` treats a name that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetXattr {
    /// Either.
    Any,
    /// `XATTR_CREATE`.
    Create,
    /// `XATTR_REPLACE`.
    Replace,
}

/// `statvfs`: bytes and nodes in all and free. A bucket has no end, so the free space shown is a large round number; see `share.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatFs {
    /// In all.
    pub total_bytes: u64,
    /// Free.
    pub free_bytes: u64,
    /// Nodes in use.
    pub nodes: u64,
    /// Nodes that could still be made.
    pub free_nodes: u64,
    /// The longest that a file can be.
    pub file_bytes_max: u64,
}

/// What changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changed {
    /// Attributes of a node.
    Attr(NodeId),
    /// Bytes of a node (and its attributes).
    Data(NodeId, Range<u64>),
    /// A name in a directory: made, gone, or another node.
    Entry {
        /// The directory.
        parent: NodeId,
        /// The name.
        name: Vec<u8>,
        /// The node it had (removed or replaced), 0: none.
        before: NodeId,
        /// The node it has, 0: none.
        after: NodeId,
    },
    /// More than can be told one by one: whoever keeps something of the share forgets it.
    Everything,
}

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

//! The values of the seam [`Vfs`](super::Vfs): who calls, what a node is, how something is opened, what changed.
//!
//! Invariants: plain values, of no protocol; lengths in bytes, times in nanoseconds since the Unix epoch.

use std::ops::Range;
use std::sync::Arc;

use crate::base::id::NodeId;
use crate::store::meta::NodeKind;

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

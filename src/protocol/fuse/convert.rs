//! Every mapping between the kernel's values and the share's: inode numbers, attributes, flags, errors. Pure.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{Errno, FileAttr, FileType, INodeNo, OpenFlags, Request, TimeOrNow};

use crate::base::id::NodeId;
use crate::engine::file::{
    Allocate, Attr, Caller, Create, LockKind, NodeKind, OpenHow, Origin, Rename, SetTime, SetXattr, VfsError,
};

/// What `st_blksize` says: the size of the buffers of most programs, so that their writes are few.
const BLOCK_SIZE_BYTES: u32 = 64 << 10;

/// `__FMODE_EXEC` (linux/fs.h), which the kernel passes on in the flags of OPEN: the file is opened to be run.
const FMODE_EXEC: i32 = 0x20;

/// The kernel's number of a node: the root is 1 (`FUSE_ROOT_ID`), the others have their own.
pub(super) fn inode(node: NodeId, root: NodeId) -> INodeNo {
    if node == root { INodeNo::ROOT } else { INodeNo(node.0) }
}

/// The reverse of [`inode`].
pub(super) fn node(inode: INodeNo, root: NodeId) -> NodeId {
    if inode == INodeNo::ROOT { root } else { NodeId(inode.0) }
}

/// The caller of a request, without supplementary groups: the kernel checks those itself (`default_permissions`); see [`with_groups`].
pub(super) fn caller(request: &Request, origin: Origin) -> Caller {
    Caller {
        uid: request.uid(),
        gid: request.gid(),
        groups: Arc::from([]),
        pid: Some(request.pid()).filter(|pid| *pid != 0),
        origin,
    }
}

/// Adds the supplementary groups of the calling process (`/proc/PID/status`, proc(5)); for everybody but root, who needs none.
pub(super) fn with_groups(mut caller: Caller) -> Caller {
    if caller.uid == 0 {
        return caller;
    }
    let Some(pid) = caller.pid else { return caller };
    if let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status"))
        && let Some(line) = status.lines().find_map(|line| line.strip_prefix("Groups:"))
    {
        caller.groups = line.split_whitespace().filter_map(|gid| gid.parse().ok()).collect();
    }
    caller
}

pub(super) fn file_type(kind: NodeKind) -> FileType {
    match kind {
        NodeKind::Fifo => FileType::NamedPipe,
        NodeKind::CharDevice => FileType::CharDevice,
        NodeKind::Directory => FileType::Directory,
        NodeKind::BlockDevice => FileType::BlockDevice,
        NodeKind::File => FileType::RegularFile,
        NodeKind::Symlink => FileType::Symlink,
        NodeKind::Socket => FileType::Socket,
    }
}

/// The kind in the type bits of a mode (POSIX `S_IFMT`); no bits: a regular file, as `mknod(2)` has it.
pub(super) fn kind(mode: u32) -> Option<NodeKind> {
    Some(match mode & libc::S_IFMT {
        libc::S_IFREG | 0 => NodeKind::File,
        libc::S_IFIFO => NodeKind::Fifo,
        libc::S_IFCHR => NodeKind::CharDevice,
        libc::S_IFBLK => NodeKind::BlockDevice,
        libc::S_IFSOCK => NodeKind::Socket,
        _ => return None,
    })
}

pub(super) fn create(mode: u32) -> Create {
    Create { mode: mode & 0o7777 }
}

pub(super) fn file_attr(attr: &Attr, root: NodeId) -> FileAttr {
    FileAttr {
        ino: inode(attr.node, root),
        size: attr.size_bytes,
        blocks: attr.allocated_bytes.div_ceil(512),
        atime: time(attr.atime_ns),
        mtime: time(attr.mtime_ns),
        ctime: time(attr.ctime_ns),
        crtime: time(attr.birth_ns),
        kind: file_type(attr.kind),
        perm: (attr.mode & 0o7777) as u16,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: BLOCK_SIZE_BYTES,
        flags: 0,
    }
}

/// What an entry of a listing shows while its attributes are unknown: no permission, and it must not be cached.
pub(super) fn unknown_attr(node: NodeId, kind: NodeKind, root: NodeId) -> FileAttr {
    FileAttr {
        ino: inode(node, root),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: file_type(kind),
        perm: 0,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: BLOCK_SIZE_BYTES,
        flags: 0,
    }
}

fn time(ns: i64) -> SystemTime {
    let distance = Duration::from_nanos(ns.unsigned_abs());
    if ns >= 0 { UNIX_EPOCH + distance } else { UNIX_EPOCH - distance }
}

pub(super) fn set_time(value: TimeOrNow) -> SetTime {
    match value {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(time) => SetTime::At(match time.duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_nanos()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |ns| -ns),
        }),
    }
}

/// The flags of open(2) as a way to open.
pub(super) fn open_how(flags: OpenFlags) -> OpenHow {
    let flags = flags.0;
    let access = flags & libc::O_ACCMODE;
    OpenHow {
        read: access == libc::O_RDONLY || access == libc::O_RDWR,
        write: access == libc::O_WRONLY || access == libc::O_RDWR,
        append: flags & libc::O_APPEND != 0,
        truncate: flags & libc::O_TRUNC != 0,
        exclusive: flags & libc::O_EXCL != 0,
        execute: flags & FMODE_EXEC != 0,
        ..OpenHow::default()
    }
}

/// The flags of `renameat2(2)`; `RENAME_WHITEOUT` is not offered.
pub(super) fn rename(flags: u32) -> Option<Rename> {
    match flags {
        0 => Some(Rename::Replace),
        libc::RENAME_NOREPLACE => Some(Rename::NoReplace),
        libc::RENAME_EXCHANGE => Some(Rename::Exchange),
        _ => None,
    }
}

/// The mode of `fallocate(2)`.
pub(super) fn allocate(mode: i32) -> Option<Allocate> {
    const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
    Some(match mode {
        0 => Allocate::Extend,
        KEEP => Allocate::KeepSize,
        _ if mode == libc::FALLOC_FL_PUNCH_HOLE | KEEP => Allocate::Punch,
        libc::FALLOC_FL_ZERO_RANGE => Allocate::Zero,
        _ if mode == libc::FALLOC_FL_ZERO_RANGE | KEEP => Allocate::ZeroKeepSize,
        libc::FALLOC_FL_COLLAPSE_RANGE => Allocate::Collapse,
        libc::FALLOC_FL_INSERT_RANGE => Allocate::Insert,
        _ => return None,
    })
}

/// The flags of `setxattr(2)`.
pub(super) fn set_xattr(flags: i32) -> Option<SetXattr> {
    match flags {
        0 => Some(SetXattr::Any),
        libc::XATTR_CREATE => Some(SetXattr::Create),
        libc::XATTR_REPLACE => Some(SetXattr::Replace),
        _ => None,
    }
}

/// The kind of `struct flock`.
pub(super) fn lock_kind(kind: i32) -> Option<LockKind> {
    match kind {
        libc::F_RDLCK => Some(LockKind::Shared),
        libc::F_WRLCK => Some(LockKind::Exclusive),
        libc::F_UNLCK => Some(LockKind::Unlock),
        _ => None,
    }
}

/// The reverse of [`lock_kind`].
pub(super) fn kernel_kind(kind: LockKind) -> i32 {
    match kind {
        LockKind::Shared => libc::F_RDLCK,
        LockKind::Exclusive => libc::F_WRLCK,
        LockKind::Unlock => libc::F_UNLCK,
    }
}

/// Inclusive, and at most `OFFSET_MAX`, as the kernel has it.
pub(super) fn kernel_range(range: &Range<u64>) -> (u64, u64) {
    (range.start, range.end.saturating_sub(1).min(i64::MAX as u64))
}

/// The one map from the share's errors to errno.
pub(super) fn errno(error: &VfsError) -> Errno {
    match error {
        VfsError::NotFound => Errno::ENOENT,
        VfsError::Stale => Errno::ESTALE,
        VfsError::Exists => Errno::EEXIST,
        VfsError::NotDirectory => Errno::ENOTDIR,
        VfsError::IsDirectory => Errno::EISDIR,
        VfsError::NotEmpty => Errno::ENOTEMPTY,
        VfsError::AccessDenied => Errno::EACCES,
        VfsError::NotPermitted => Errno::EPERM,
        VfsError::ReadOnly => Errno::EROFS,
        VfsError::NameTooLong => Errno::ENAMETOOLONG,
        VfsError::BadName => Errno::EILSEQ,
        VfsError::Invalid => Errno::EINVAL,
        VfsError::TooLarge => Errno::EFBIG,
        VfsError::NoSpace => Errno::ENOSPC,
        VfsError::TooManyLinks => Errno::EMLINK,
        VfsError::CrossShare => Errno::EXDEV,
        VfsError::NoAttribute => Errno::ENODATA,
        VfsError::RangeTooSmall => Errno::ERANGE,
        VfsError::WouldBlock | VfsError::Offline => Errno::EAGAIN,
        VfsError::Deadlock => Errno::EDEADLK,
        VfsError::ShareViolation => Errno::ETXTBSY,
        VfsError::Interrupted => Errno::EINTR,
        VfsError::NotSync => Errno::EAGAIN,
        VfsError::BadHandle => Errno::EBADF,
        VfsError::NoSuchAddress => Errno::ENXIO,
        VfsError::Unsupported => Errno::EOPNOTSUPP,
        VfsError::Unavailable(_) => Errno::EIO,
        VfsError::Io(_) => Errno::EIO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_one_and_the_others_keep_their_number() {
        let root = NodeId(77);
        assert_eq!(inode(root, root), INodeNo::ROOT);
        assert_eq!(node(INodeNo::ROOT, root), root);
        assert_eq!(node(inode(NodeId(5), root), root), NodeId(5));
    }

    #[test]
    fn times_before_the_epoch_and_after_survive() {
        for ns in [0, 1, -1, 1_595_002_920_123_456_789, -62_135_596_800_000_000] {
            assert_eq!(set_time(TimeOrNow::SpecificTime(time(ns))), SetTime::At(ns));
        }
    }

    #[test]
    fn modes_of_fallocate_and_rename() {
        assert_eq!(allocate(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE), Some(Allocate::Punch));
        assert_eq!(allocate(libc::FALLOC_FL_PUNCH_HOLE), None);
        assert_eq!(rename(libc::RENAME_EXCHANGE), Some(Rename::Exchange));
        assert_eq!(rename(4), None);
    }
}

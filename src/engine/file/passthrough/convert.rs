//! What the kernel says, in our words: errors, types, attributes, names.

use std::io;

use rustix::fs::{FileType, Stat};
use rustix::io::Errno;

use crate::base::id::NodeId;
use crate::engine::file::{Attr, NodeKind, VfsError};

/// The answer of the kernel in our words; those that it never gives here are input/output errors.
pub(super) fn told(error: Errno) -> VfsError {
    match error {
        Errno::NOENT => VfsError::NotFound,
        Errno::STALE => VfsError::Stale,
        Errno::EXIST => VfsError::Exists,
        Errno::NOTDIR => VfsError::NotDirectory,
        Errno::ISDIR => VfsError::IsDirectory,
        Errno::NOTEMPTY => VfsError::NotEmpty,
        Errno::ACCESS => VfsError::AccessDenied,
        Errno::PERM => VfsError::NotPermitted,
        Errno::ROFS => VfsError::ReadOnly,
        Errno::NAMETOOLONG => VfsError::NameTooLong,
        Errno::ILSEQ => VfsError::BadName,
        // A symlink that is opened without being followed.
        Errno::INVAL | Errno::LOOP => VfsError::Invalid,
        Errno::FBIG => VfsError::TooLarge,
        Errno::NOSPC | Errno::DQUOT => VfsError::NoSpace,
        Errno::MLINK => VfsError::TooManyLinks,
        Errno::XDEV => VfsError::CrossShare,
        Errno::NODATA => VfsError::NoAttribute,
        Errno::RANGE | Errno::TOOBIG => VfsError::RangeTooSmall,
        Errno::BADF => VfsError::BadHandle,
        Errno::NXIO => VfsError::NoSuchAddress,
        Errno::OPNOTSUPP => VfsError::Unsupported,
        error => VfsError::Io(io::Error::from(error).to_string()),
    }
}

pub(super) fn kind_of(stat: &Stat) -> NodeKind {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => NodeKind::Directory,
        FileType::Symlink => NodeKind::Symlink,
        FileType::Fifo => NodeKind::Fifo,
        FileType::Socket => NodeKind::Socket,
        FileType::CharacterDevice => NodeKind::CharDevice,
        FileType::BlockDevice => NodeKind::BlockDevice,
        FileType::RegularFile | FileType::Unknown => NodeKind::File,
    }
}

pub(super) fn attr_of(stat: &Stat) -> Attr {
    let ns = |seconds: i64, nanoseconds: u64| seconds * 1_000_000_000 + i64::try_from(nanoseconds).unwrap_or(0);
    let ctime_ns = ns(stat.st_ctime, stat.st_ctime_nsec);
    Attr {
        node: NodeId(stat.st_ino),
        kind: kind_of(stat),
        mode: stat.st_mode & 0o7777,
        nlink: u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
        uid: stat.st_uid,
        gid: stat.st_gid,
        rdev: u32::try_from(stat.st_rdev).unwrap_or(0),
        size_bytes: u64::try_from(stat.st_size).unwrap_or(0),
        allocated_bytes: u64::try_from(stat.st_blocks).unwrap_or(0) * 512,
        atime_ns: ns(stat.st_atime, stat.st_atime_nsec),
        mtime_ns: ns(stat.st_mtime, stat.st_mtime_nsec),
        ctime_ns,
        birth_ns: 0,
        change: u64::try_from(ctime_ns).unwrap_or(0),
    }
}

/// A name as system calls take it: one component.
pub(super) fn name_of(name: &[u8]) -> Result<&std::ffi::OsStr, VfsError> {
    use std::os::unix::ffi::OsStrExt;
    match name {
        [] => Err(VfsError::NotFound),
        name if name.contains(&b'/') || name.contains(&0) => Err(VfsError::Invalid),
        name => Ok(std::ffi::OsStr::from_bytes(name)),
    }
}

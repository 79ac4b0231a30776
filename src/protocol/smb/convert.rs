//! Every mapping of values and errors between the share and SMB.
//!
//! Invariants: the map of errors is exhaustive, so that a new one fails to compile here. A read-only file is one that nobody may write by its
//! permission bits; a directory is never read-only (Windows means something else by it).

use std::io;

use smb_server::{FileInfo, SmbError};

use crate::engine::file::{Attr, NodeKind, VfsError};

/// FILETIME of the Unix epoch: 100 ns since 1601 (MS-DTYP 2.3.3).
const EPOCH: i64 = 116_444_736_000_000_000;
/// All write bits of a mode.
pub(super) const WRITE_BITS: u32 = 0o222;
/// The owner's.
pub(super) const OWNER_WRITE: u32 = 0o200;

/// FILETIME of nanoseconds since 1970.
pub(super) fn filetime(ns: i64) -> u64 {
    u64::try_from(ns.div_euclid(100) + EPOCH).unwrap_or(0)
}

/// Nanoseconds since 1970 of a FILETIME, as near as there are (1677 to 2262).
pub(super) fn nanoseconds(filetime: u64) -> i64 {
    let ticks = i64::try_from(filetime).unwrap_or(i64::MAX) - EPOCH;
    ticks.saturating_mul(100)
}

/// Whether nobody may write it.
pub(super) fn is_read_only(attr: &Attr) -> bool {
    attr.kind != NodeKind::Directory && attr.mode & WRITE_BITS == 0
}

/// A node as clients see it under `name`.
pub(super) fn info(name: &str, attr: &Attr) -> FileInfo {
    let mut info = FileInfo::new(name);
    if attr.kind == NodeKind::File {
        (info.end_of_file, info.allocation_size) = (attr.size_bytes, attr.allocated_bytes);
    }
    info.creation_time = filetime(attr.birth_ns);
    info.last_access_time = filetime(attr.atime_ns);
    info.last_write_time = filetime(attr.mtime_ns);
    info.change_time = filetime(attr.ctime_ns);
    info.is_directory = attr.kind == NodeKind::Directory;
    info.read_only = is_read_only(attr);
    info.file_index = attr.node.0;
    info
}

/// What a client is told. The crate has 14 errors: where none says it, the nearest.
pub(super) fn error(error: VfsError) -> SmbError {
    match error {
        VfsError::NotFound | VfsError::Stale => SmbError::NotFound,
        VfsError::Exists => SmbError::Exists,
        VfsError::NotDirectory => SmbError::NotADirectory,
        VfsError::IsDirectory => SmbError::IsDirectory,
        VfsError::NotEmpty => SmbError::NotEmpty,
        VfsError::AccessDenied | VfsError::NotPermitted | VfsError::ReadOnly | VfsError::TooManyLinks => SmbError::AccessDenied,
        VfsError::NameTooLong | VfsError::BadName => SmbError::NameInvalid,
        VfsError::TooLarge | VfsError::NoSpace => SmbError::DiskFull,
        VfsError::CrossShare => SmbError::NotSameDevice,
        VfsError::WouldBlock | VfsError::Deadlock | VfsError::ShareViolation => SmbError::Sharing,
        VfsError::NoAttribute | VfsError::RangeTooSmall | VfsError::NoSuchAddress | VfsError::Unsupported => {
            SmbError::NotSupported
        }
        VfsError::Invalid | VfsError::BadHandle | VfsError::NotSync => {
            SmbError::Io(io::Error::new(io::ErrorKind::InvalidInput, error))
        }
        VfsError::Interrupted => SmbError::Io(io::Error::new(io::ErrorKind::Interrupted, error)),
        VfsError::Offline | VfsError::Unavailable(_) | VfsError::Io(_) => SmbError::Io(io::Error::other(error)),
    }
}

/// Whether an operator should hear of it.
pub(super) fn is_trouble(error: &VfsError) -> bool {
    matches!(error, VfsError::Unavailable(_) | VfsError::Io(_) | VfsError::BadHandle | VfsError::NoSpace)
}

#[cfg(test)]
mod tests {
    use super::*;
    use smb_server::ntstatus;

    #[test]
    fn times_are_units_of_100_ns_since_1601() {
        assert_eq!(filetime(0), 116_444_736_000_000_000);
        assert_eq!(filetime(1_700_000_000_123_456_789), 133_444_736_001_234_567);
        assert_eq!(nanoseconds(133_444_736_001_234_567), 1_700_000_000_123_456_700);
        // Before 1970, and what no nanosecond counter holds.
        assert_eq!(nanoseconds(filetime(-1_000)), -1_000);
        assert_eq!(filetime(-50), EPOCH as u64 - 1);
        assert_eq!((nanoseconds(0), nanoseconds(u64::MAX)), (i64::MIN, i64::MAX));
    }

    #[test]
    fn errors_have_the_status_that_clients_act_on() {
        for (told, status) in [
            (VfsError::NotFound, ntstatus::STATUS_OBJECT_NAME_NOT_FOUND),
            (VfsError::Exists, ntstatus::STATUS_OBJECT_NAME_COLLISION),
            (VfsError::ReadOnly, ntstatus::STATUS_ACCESS_DENIED),
            (VfsError::NoSpace, ntstatus::STATUS_DISK_FULL),
            (VfsError::NotEmpty, ntstatus::STATUS_DIRECTORY_NOT_EMPTY),
            (VfsError::ShareViolation, ntstatus::STATUS_SHARING_VIOLATION),
            (VfsError::Io("x".into()), ntstatus::STATUS_UNEXPECTED_IO_ERROR),
        ] {
            assert_eq!(error(told).to_nt_status(), status);
        }
    }
}

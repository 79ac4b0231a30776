//! Bytes and attributes of a kernel directory's nodes.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use rustix::fs::{self, FallocateFlags, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::io::pread;

use super::convert::told;
use super::who::As;
use super::{Open, Passthrough};
use crate::base::id::NodeId;
use crate::engine::file::{Allocate, Attr, Caller, Changed, HandleId, Io, NodeKind, SetAttr, SetTime, VfsError};

/// A path to what a descriptor is open on, whatever its name is now.
pub(super) fn through(file: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// A file that may be read or written: through a handle, or opened for this call.
pub(super) enum Opening {
    Handle(Arc<Open>),
    Now(NodeId, OwnedFd),
}

impl Opening {
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Handle(open) => open.file.as_fd(),
            Self::Now(_, file) => file.as_fd(),
        }
    }

    fn node(&self) -> NodeId {
        match self {
            Self::Handle(open) => open.node,
            Self::Now(node, _) => *node,
        }
    }
}

impl Passthrough {
    /// A node's bytes without an open, as NFSv3 does it: the owner may whatever the bits say.
    fn open_now(&self, who: &Caller, node: NodeId, flags: OFlags) -> Result<Opening, VfsError> {
        let (path, attr) = (self.at(node)?, self.attr(node)?);
        match attr.kind {
            NodeKind::File => {}
            NodeKind::Directory => return Err(VfsError::IsDirectory),
            _ => return Err(VfsError::Invalid),
        }
        let open = || fs::open(through(&path), flags | OFlags::CLOEXEC, Mode::empty()).map_err(told);
        let file = if who.uid == attr.uid { open() } else { As::run(who, open) };
        Ok(Opening::Now(node, file?))
    }

    pub(super) fn readable(&self, who: &Caller, io: Io) -> Result<Opening, VfsError> {
        match io {
            Io::Node(node) | Io::Mapped(node) => self.open_now(who, node, OFlags::RDONLY),
            Io::Handle(handle) => {
                let open = self.handle(handle)?;
                if !open.how.read && !open.how.execute {
                    return Err(VfsError::BadHandle);
                }
                Ok(Opening::Handle(open))
            }
        }
    }

    pub(super) fn writable(&self, who: &Caller, io: Io) -> Result<Opening, VfsError> {
        match io {
            Io::Node(node) | Io::Mapped(node) => self.open_now(who, node, OFlags::WRONLY),
            Io::Handle(handle) => {
                let open = self.handle(handle)?;
                if !open.how.write {
                    return Err(VfsError::BadHandle);
                }
                Ok(Opening::Handle(open))
            }
        }
    }

    pub(super) fn read_at(&self, who: &Caller, io: Io, offset: u64, len_bytes: u32) -> Result<Vec<Bytes>, VfsError> {
        let open = self.readable(who, io)?;
        let size = fs::fstat(open.as_fd()).map_err(told)?.st_size;
        let left = u64::try_from(size).unwrap_or(0).saturating_sub(offset).min(u64::from(len_bytes));
        let mut bytes = vec![0; usize::try_from(left).unwrap_or(0)];
        let mut done = 0;
        while done < bytes.len() {
            match pread(open.as_fd(), &mut bytes[done..], offset + done as u64).map_err(told)? {
                0 => break,
                count => done += count,
            }
        }
        bytes.truncate(done);
        // A directory's descriptor says so only when it is read.
        if bytes.is_empty() {
            pread(open.as_fd(), &mut [0], offset).map_err(told)?;
        }
        Ok(vec![bytes.into()])
    }

    pub(super) fn write_at(&self, who: &Caller, io: Io, offset: u64, data: &[u8]) -> Result<Attr, VfsError> {
        let open = self.writable(who, io)?;
        let mut done = 0;
        while done < data.len() {
            // As the caller: what it may not keep of set-uid and set-gid goes with the write.
            let count = As::run(who, || rustix::io::pwrite(open.as_fd(), &data[done..], offset + done as u64).map_err(told))?;
            done += count;
        }
        self.tell(who, Changed::Data(open.node(), offset..offset + data.len() as u64));
        self.attr(open.node())
    }

    pub(super) fn change_range(&self, who: &Caller, io: Io, offset: u64, len: u64, how: Allocate) -> Result<(), VfsError> {
        let open = self.writable(who, io)?;
        let flags = match how {
            Allocate::Extend => FallocateFlags::empty(),
            Allocate::KeepSize => FallocateFlags::KEEP_SIZE,
            Allocate::Punch => FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
            Allocate::Zero => FallocateFlags::ZERO_RANGE,
            Allocate::ZeroKeepSize => FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE,
            Allocate::Collapse => FallocateFlags::COLLAPSE_RANGE,
            Allocate::Insert => FallocateFlags::INSERT_RANGE,
        };
        As::run(who, || fs::fallocate(open.as_fd(), flags, offset, len).map_err(told))?;
        self.tell(who, Changed::Data(open.node(), 0..u64::MAX));
        Ok(())
    }

    pub(super) fn set(&self, who: &Caller, node: NodeId, handle: Option<HandleId>, set: &SetAttr) -> Result<Attr, VfsError> {
        let (path, before) = (self.at(node)?, self.attr(node)?);
        if set.guard_ctime_ns.is_some_and(|guard| guard != before.ctime_ns) {
            return Err(VfsError::NotSync);
        }
        if set.birth_ns.is_some() {
            return Err(VfsError::Unsupported);
        }
        if let Some(size_bytes) = set.size_bytes {
            self.set_size(who, node, handle, size_bytes)?;
        }
        let at = through(&path);
        let is_link = before.kind == NodeKind::Symlink;
        As::run(who, || {
            if set.uid.is_some() || set.gid.is_some() {
                let (uid, gid) = (set.uid.map(Uid::from_raw), set.gid.map(Gid::from_raw));
                fs::chownat(&*path, "", uid, gid, fs::AtFlags::EMPTY_PATH).map_err(told)?;
            }
            if let Some(mode) = set.mode.filter(|_| !is_link) {
                fs::chmodat(fs::CWD, &at, Mode::from_raw_mode(mode & 0o7777), fs::AtFlags::empty()).map_err(told)?;
            }
            if set.atime.is_some() || set.mtime.is_some() {
                let times = Timestamps { last_access: time(set.atime), last_modification: time(set.mtime) };
                fs::utimensat(fs::CWD, &at, &times, fs::AtFlags::empty()).map_err(told)?;
            }
            Ok(())
        })?;
        self.tell(who, if set.size_bytes.is_some() { Changed::Data(node, 0..u64::MAX) } else { Changed::Attr(node) });
        self.attr(node)
    }

    fn set_size(&self, who: &Caller, node: NodeId, handle: Option<HandleId>, size_bytes: u64) -> Result<(), VfsError> {
        let through_handle = match handle {
            Some(handle) => Some(self.handle(handle)?).filter(|open| open.node == node && open.how.write),
            None => None,
        };
        match self.attr(node)?.kind {
            NodeKind::File => {}
            NodeKind::Directory => return Err(VfsError::IsDirectory),
            _ => return Err(VfsError::Invalid),
        }
        let path = self.at(node)?;
        As::run(who, || match through_handle {
            Some(open) => fs::ftruncate(&open.file, size_bytes).map_err(told),
            None => {
                let file = fs::open(through(&path), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()).map_err(told)?;
                fs::ftruncate(&file, size_bytes).map_err(told)
            }
        })
    }
}

fn time(set: Option<SetTime>) -> Timespec {
    match set {
        None => Timespec { tv_sec: 0, tv_nsec: fs::UTIME_OMIT },
        Some(SetTime::Now) => Timespec { tv_sec: 0, tv_nsec: fs::UTIME_NOW },
        Some(SetTime::At(ns)) => Timespec { tv_sec: ns.div_euclid(1_000_000_000), tv_nsec: ns.rem_euclid(1_000_000_000) },
    }
}

//! Requests of the kernel as calls of the [`Vfs`]: one method per operation of fuse(4), in the order of the trait.
//!
//! Invariant: a method either answers from memory (within the runtime's context, since the share may start a task on the way) or hands its
//! reply to a task; it never waits. Failures are logged here, once.

use std::ffi::OsStr;
use std::io;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, FopenFlags, Generation, INodeNo, InitFlags, KernelConfig,
    LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyLock, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use tokio::runtime::Handle;

use super::convert;
use super::kept::Kept;
use crate::base::id::NodeId;
use crate::engine::file::{
    self, Attr, Caller, HandleId, Io, Lock, LockKind, NodeKind, Origin, Remove, Seek, SetAttr, Target, Vfs, VfsError,
};

/// The largest write and read-ahead that is asked for; the kernel cuts it to its own limit (1 MiB by default).
pub(super) const TRANSFER_BYTES_MAX: u32 = 1 << 20;

/// Requests that the kernel may have under way in the background: S3 is far away.
const BACKGROUND_MAX: u16 = 256;

/// How long a missing name may be believed missing.
const NEGATIVE_CACHE: Duration = Duration::from_secs(1);

/// How long a waiting lock may wait: for ever, by the standards of a process. Its caller's death ends the wait earlier.
const LOCK_WAIT: Duration = Duration::from_secs(365 * 24 * 3600);

/// The block size of `statfs`.
const STATFS_BLOCK_BYTES: u64 = 4096;

pub(super) struct Filesystem {
    vfs: Arc<dyn Vfs>,
    origin: Origin,
    root: NodeId,
    cache: Duration,
    kept: Arc<Kept>,
    runtime: Handle,
}

impl Filesystem {
    pub(super) fn new(vfs: Arc<dyn Vfs>, origin: Origin, cache: Duration, kept: Arc<Kept>, runtime: Handle) -> Self {
        let root = vfs.root();
        Self { vfs, origin, root, cache, kept, runtime }
    }

    fn node(&self, inode: INodeNo) -> NodeId {
        convert::node(inode, self.root)
    }

    /// The caller of an operation that checks no permission of its own.
    fn caller(&self, request: &Request) -> Caller {
        convert::caller(request, self.origin)
    }

    /// The caller with all groups, for operations where the share decides by them.
    fn checked_caller(&self, request: &Request) -> Caller {
        convert::with_groups(convert::caller(request, self.origin))
    }

    fn entry(&self, reply: ReplyEntry, attr: &Attr) {
        reply.entry(&self.cache, &convert::file_attr(attr, self.root), Generation(0));
    }

    /// A listing from its beginning: what the kernel keeps of it is of now.
    fn note_listed(&self, inode: INodeNo, offset: u64) {
        if offset == 0 {
            self.kept.list(inode);
        }
    }

    fn lock(&self, owner: LockOwner, pid: u32, start: u64, end: u64, kind: LockKind) -> Lock {
        // The kernel's ranges are inclusive, and end at i64::MAX for "to the end" (OFFSET_MAX).
        let end = if end >= i64::MAX as u64 { u64::MAX } else { end + 1 };
        Lock { owner: self.lock_owner(owner, pid), range: start..end, kind, flock: false }
    }

    fn lock_owner(&self, owner: LockOwner, pid: u32) -> file::LockOwner {
        file::LockOwner { origin: self.origin, owner: owner.0, pid }
    }
}

/// Counts and, where something is wrong that is not the client's ordinary business, logs.
fn failed(operation: &'static str, error: &VfsError) -> Errno {
    metrics::counter!("tidegate_fuse_errors_total", "operation" => operation).increment(1);
    match error {
        VfsError::Io(_) | VfsError::Unavailable(_) | VfsError::NoSpace => tracing::warn!(operation, %error, "a request failed"),
        _ => tracing::debug!(operation, %error, "a request failed"),
    }
    convert::errno(error)
}

fn counted(operation: &'static str) {
    metrics::counter!("tidegate_fuse_operations_total", "operation" => operation).increment(1);
}

/// Runs a call as a task and answers with its result: `answer!(self, "name", reply, who, future => |value| reply.…)`.
macro_rules! answer {
    ($self:ident, $operation:literal, $reply:ident, $vfs:ident => $call:expr, $value:pat => $send:expr) => {{
        counted($operation);
        let $vfs = $self.vfs.clone();
        $self.runtime.spawn(async move {
            match $call.await {
                Ok($value) => $send,
                Err(error) => $reply.error(failed($operation, &error)),
            }
        });
    }};
}

/// As `answer!` for a call that gives attributes which go out as an entry.
macro_rules! answer_entry {
    ($self:ident, $operation:literal, $reply:ident, $vfs:ident => $call:expr) => {{
        let (cache, root) = ($self.cache, $self.root);
        answer!($self, $operation, $reply, $vfs => $call, attr => {
            $reply.entry(&cache, &convert::file_attr(&attr, root), Generation(0));
        })
    }};
}

/// Sends slices as one piece, copying only where there is more than one.
fn send_data(reply: ReplyData, mut slices: Vec<Bytes>) {
    match slices.len() {
        0 => reply.data(&[]),
        1 => reply.data(&slices.remove(0)),
        _ => reply.data(&slices.concat()),
    }
}

fn send_xattr(reply: ReplyXattr, value: &[u8], size: u32) {
    // size 0 asks for the length only (getxattr(2)).
    match (size as usize, u32::try_from(value.len())) {
        (_, Err(_)) => reply.error(Errno::E2BIG),
        (0, Ok(length)) => reply.size(length),
        (room, Ok(_)) if room < value.len() => reply.error(Errno::ERANGE),
        _ => reply.data(value),
    }
}

impl fuser::Filesystem for Filesystem {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let wanted = InitFlags::FUSE_POSIX_LOCKS
            | InitFlags::FUSE_ATOMIC_O_TRUNC
            | InitFlags::FUSE_EXPORT_SUPPORT
            | InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_READDIRPLUS_AUTO
            | InitFlags::FUSE_ASYNC_DIO
            | InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_CACHE_SYMLINKS
            | InitFlags::FUSE_EXPLICIT_INVAL_DATA
            | InitFlags::FUSE_HANDLE_KILLPRIV_V2;
        let offered = config.capabilities();
        for flag in wanted.iter().filter(|flag| offered.contains(*flag)) {
            let _ = config.add_capabilities(flag);
        }
        // Each answers a refusal with the nearest value that the kernel takes.
        let _ = config.set_max_write(TRANSFER_BYTES_MAX).or_else(|nearest| config.set_max_write(nearest));
        let _ = config.set_max_readahead(TRANSFER_BYTES_MAX).or_else(|nearest| config.set_max_readahead(nearest));
        let _ = config.set_max_background(BACKGROUND_MAX).or_else(|nearest| config.set_max_background(nearest));
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (who, parent) = (self.caller(request), self.node(parent));
        // The kernel has checked that the caller may search the directory.
        let who = Caller { uid: 0, gid: 0, ..who };
        let _runtime = self.runtime.enter();
        if let Some(answer) = self.vfs.try_lookup(&who, parent, name.as_bytes()) {
            counted("lookup");
            return match answer {
                Ok(attr) => self.entry(reply, &attr),
                Err(VfsError::NotFound) => missing(reply),
                Err(error) => reply.error(failed("lookup", &error)),
            };
        }
        let (name, cache, root, vfs) = (name.as_bytes().to_vec(), self.cache, self.root, self.vfs.clone());
        counted("lookup");
        self.runtime.spawn(async move {
            match vfs.lookup(&who, parent, &name).await {
                Ok(attr) => reply.entry(&cache, &convert::file_attr(&attr, root), Generation(0)),
                Err(VfsError::NotFound) => missing(reply),
                Err(error) => reply.error(failed("lookup", &error)),
            }
        });
    }

    fn forget(&self, _request: &Request, inode: INodeNo, _lookups: u64) {
        self.kept.forget(inode);
    }

    fn getattr(&self, request: &Request, inode: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        let (who, node) = (self.caller(request), self.node(inode));
        let (cache, root) = (self.cache, self.root);
        let _runtime = self.runtime.enter();
        if let Some(answer) = self.vfs.try_getattr(&who, node) {
            counted("getattr");
            return match answer {
                Ok(attr) => reply.attr(&cache, &convert::file_attr(&attr, root)),
                Err(error) => reply.error(failed("getattr", &error)),
            };
        }
        answer!(self, "getattr", reply, vfs => vfs.getattr(&who, node), attr => reply.attr(&cache, &convert::file_attr(&attr, root)));
    }

    fn setattr(
        &self,
        request: &Request,
        inode: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let (who, node) = (self.checked_caller(request), self.node(inode));
        let set = SetAttr {
            mode: mode.map(|mode| mode & 0o7777),
            uid,
            gid,
            size_bytes: size,
            atime: atime.map(convert::set_time),
            mtime: mtime.map(convert::set_time),
            ..SetAttr::default()
        };
        let handle = handle.map(|handle| HandleId(handle.0));
        let (cache, root) = (self.cache, self.root);
        answer!(self, "setattr", reply, vfs => vfs.setattr(&who, node, handle, &set), attr => {
            reply.attr(&cache, &convert::file_attr(&attr, root));
        });
    }

    fn readlink(&self, request: &Request, inode: INodeNo, reply: ReplyData) {
        let (who, node) = (self.caller(request), self.node(inode));
        self.kept.read_link(inode);
        answer!(self, "readlink", reply, vfs => vfs.readlink(&who, node), target => reply.data(&target));
    }

    fn mknod(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, _umask: u32, rdev: u32, reply: ReplyEntry) {
        let Some(kind) = convert::kind(mode) else { return reply.error(Errno::EINVAL) };
        let (who, parent, name) = (self.checked_caller(request), self.node(parent), name.as_bytes().to_vec());
        answer_entry!(self, "mknod", reply, vfs => vfs.mknod(&who, parent, &name, kind, rdev, convert::create(mode)));
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, _umask: u32, reply: ReplyEntry) {
        let (who, parent, name) = (self.checked_caller(request), self.node(parent), name.as_bytes().to_vec());
        answer_entry!(self, "mkdir", reply, vfs => vfs.mkdir(&who, parent, &name, convert::create(mode)));
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (who, parent, name) = (self.checked_caller(request), self.node(parent), name.as_bytes().to_vec());
        answer!(self, "unlink", reply, vfs => vfs.remove(&who, parent, &name, Remove::File), () => reply.ok());
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (who, parent, name) = (self.checked_caller(request), self.node(parent), name.as_bytes().to_vec());
        answer!(self, "rmdir", reply, vfs => vfs.remove(&who, parent, &name, Remove::Directory), () => reply.ok());
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let (who, parent, name) = (self.checked_caller(request), self.node(parent), name.as_bytes().to_vec());
        let target = target.as_os_str().as_bytes().to_vec();
        answer_entry!(self, "symlink", reply, vfs => vfs.symlink(&who, parent, &name, &target));
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let Some(how) = convert::rename(flags.bits()) else { return reply.error(Errno::EINVAL) };
        let who = self.checked_caller(request);
        let (parent, name) = (self.node(parent), name.as_bytes().to_vec());
        let (new_parent, new_name) = (self.node(new_parent), new_name.as_bytes().to_vec());
        answer!(self, "rename", reply, vfs => vfs.rename(&who, (parent, &name), (new_parent, &new_name), how), () => reply.ok());
    }

    fn link(&self, request: &Request, inode: INodeNo, new_parent: INodeNo, new_name: &OsStr, reply: ReplyEntry) {
        let (who, node) = (self.checked_caller(request), self.node(inode));
        let (parent, name) = (self.node(new_parent), new_name.as_bytes().to_vec());
        answer_entry!(self, "link", reply, vfs => vfs.link(&who, node, parent, &name));
    }

    fn open(&self, request: &Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let (who, node, how) = (self.checked_caller(request), self.node(inode), convert::open_how(flags));
        let kept = self.kept.clone();
        answer!(self, "open", reply, vfs => vfs.open(&who, Target::Node(node), &how), opened => {
            reply.opened(FileHandle(opened.handle.0), keep(kept.open(inode)));
        });
    }

    fn read(
        &self,
        request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let (who, io) = (self.caller(request), Io::Handle(HandleId(handle.0)));
        let _runtime = self.runtime.enter();
        if let Some(answer) = self.vfs.try_read(&who, io, offset, size) {
            counted("read");
            return match answer {
                Ok(slices) => send_data(reply, slices),
                Err(error) => reply.error(failed("read", &error)),
            };
        }
        answer!(self, "read", reply, vfs => vfs.read(&who, io, offset, size), slices => send_data(reply, slices));
    }

    fn write(
        &self,
        request: &Request,
        inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let data = Bytes::copy_from_slice(data);
        let Ok(size) = u32::try_from(data.len()) else { return reply.error(Errno::EINVAL) };
        // A page of a shared mapping goes where it is mapped, whatever handle the kernel found for it, also one that appends.
        let (who, io) = if write_flags.contains(WriteFlags::FUSE_WRITE_CACHE) {
            (Caller::root(self.origin), Io::Node(self.node(inode)))
        } else {
            (self.caller(request), Io::Handle(HandleId(handle.0)))
        };
        answer!(self, "write", reply, vfs => vfs.write(&who, io, offset, data), _ => reply.written(size));
    }

    fn flush(&self, request: &Request, inode: INodeNo, _handle: FileHandle, owner: LockOwner, reply: ReplyEmpty) {
        // Sent at each close(2): POSIX gives up all of the process's locks on the file then (fcntl(2)).
        let (node, owner, vfs) = (self.node(inode), self.lock_owner(owner, request.pid()), self.vfs.clone());
        counted("flush");
        self.runtime.spawn(async move {
            vfs.release_locks(node, owner).await;
            reply.ok();
        });
    }

    fn release(
        &self,
        _request: &Request,
        inode: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let handle = HandleId(handle.0);
        self.kept.close(inode);
        answer!(self, "release", reply, vfs => vfs.close(handle), () => reply.ok());
    }

    fn fsync(&self, request: &Request, inode: INodeNo, _handle: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        let (who, node) = (self.caller(request), self.node(inode));
        answer!(self, "fsync", reply, vfs => vfs.commit(&who, node), () => reply.ok());
    }

    fn opendir(&self, _request: &Request, inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let mut flags = FopenFlags::FOPEN_CACHE_DIR;
        if self.kept.is_listed(inode) && self.vfs.is_listing_current(self.node(inode)) {
            flags |= FopenFlags::FOPEN_KEEP_CACHE;
        }
        reply.opened(FileHandle(0), flags);
    }

    fn readdir(&self, request: &Request, inode: INodeNo, _handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        self.note_listed(inode, offset);
        let (who, node, root, vfs) = (self.caller(request), self.node(inode), self.root, self.vfs.clone());
        counted("readdir");
        self.runtime.spawn(async move {
            let mut sink = |entry: file::DirEntry| {
                !reply.add(
                    convert::inode(entry.node, root),
                    entry.cookie,
                    convert::file_type(entry.kind),
                    OsStr::from_bytes(&entry.name),
                )
            };
            match vfs.readdir(&who, node, offset, false, &mut sink).await {
                // A directory that was removed while it was open is empty.
                Ok(_) | Err(VfsError::Stale) => reply.ok(),
                Err(error) => reply.error(failed("readdir", &error)),
            }
        });
    }

    fn readdirplus(&self, request: &Request, inode: INodeNo, _handle: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        self.note_listed(inode, offset);
        let (who, node, root, cache, vfs) = (self.caller(request), self.node(inode), self.root, self.cache, self.vfs.clone());
        counted("readdirplus");
        self.runtime.spawn(async move {
            let mut sink = |entry: file::DirEntry| {
                let known = entry.attr.as_ref().map(|attr| convert::file_attr(attr, root));
                // Without attributes the entry must not be believed for a moment: the kernel asks when it needs them.
                let cache =
                    if known.is_some() && !matches!(entry.name.as_slice(), b"." | b"..") { cache } else { Duration::ZERO };
                let attr = known.unwrap_or_else(|| convert::unknown_attr(entry.node, entry.kind, root));
                let inode = convert::inode(entry.node, root);
                !reply.add(inode, entry.cookie, OsStr::from_bytes(&entry.name), &cache, &attr, Generation(0))
            };
            match vfs.readdir(&who, node, offset, true, &mut sink).await {
                Ok(_) | Err(VfsError::Stale) => reply.ok(),
                Err(error) => reply.error(failed("readdirplus", &error)),
            }
        });
    }

    fn fsyncdir(&self, request: &Request, inode: INodeNo, _handle: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        let (who, node) = (self.caller(request), self.node(inode));
        answer!(self, "fsyncdir", reply, vfs => vfs.commit(&who, node), () => reply.ok());
    }

    fn statfs(&self, _request: &Request, _inode: INodeNo, reply: ReplyStatfs) {
        answer!(self, "statfs", reply, vfs => vfs.statfs(), space => {
            let blocks = |bytes: u64| bytes / STATFS_BLOCK_BYTES;
            let block_size = STATFS_BLOCK_BYTES as u32;
            let (total, free) = (blocks(space.total_bytes), blocks(space.free_bytes));
            reply.statfs(total, free, free, space.nodes.saturating_add(space.free_nodes), space.free_nodes, block_size, 255, block_size);
        });
    }

    fn setxattr(
        &self,
        request: &Request,
        inode: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let Some(how) = convert::set_xattr(flags) else { return reply.error(Errno::EINVAL) };
        let (who, node) = (self.checked_caller(request), self.node(inode));
        let (name, value) = (name.as_bytes().to_vec(), value.to_vec());
        answer!(self, "setxattr", reply, vfs => vfs.setxattr(&who, node, &name, &value, how), () => reply.ok());
    }

    fn getxattr(&self, request: &Request, inode: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let (who, node, name) = (self.checked_caller(request), self.node(inode), name.as_bytes().to_vec());
        answer!(self, "getxattr", reply, vfs => vfs.getxattr(&who, node, &name), value => send_xattr(reply, &value, size));
    }

    fn listxattr(&self, request: &Request, inode: INodeNo, size: u32, reply: ReplyXattr) {
        let (who, node) = (self.checked_caller(request), self.node(inode));
        answer!(self, "listxattr", reply, vfs => vfs.listxattr(&who, node), names => {
            let list: Vec<u8> = names.iter().flat_map(|name| name.iter().copied().chain([0])).collect();
            send_xattr(reply, &list, size);
        });
    }

    fn removexattr(&self, request: &Request, inode: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (who, node, name) = (self.checked_caller(request), self.node(inode), name.as_bytes().to_vec());
        answer!(self, "removexattr", reply, vfs => vfs.removexattr(&who, node, &name), () => reply.ok());
    }

    fn access(&self, _request: &Request, _inode: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        // The kernel checks it (`default_permissions`) and asks no more after this answer.
        reply.error(Errno::ENOSYS);
    }

    fn create(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, _umask: u32, flags: i32, reply: ReplyCreate) {
        let (who, parent, name) = (self.checked_caller(request), self.node(parent), name.as_bytes().to_vec());
        let how = file::OpenHow { create: Some(convert::create(mode)), ..convert::open_how(OpenFlags(flags)) };
        let (cache, root, kept) = (self.cache, self.root, self.kept.clone());
        answer!(self, "create", reply, vfs => vfs.open(&who, Target::Child(parent, &name), &how), opened => {
            let attr = convert::file_attr(&opened.attr, root);
            let flags = keep(kept.open(attr.ino) || opened.created);
            reply.created(&cache, &attr, Generation(0), FileHandle(opened.handle.0), flags);
        });
    }

    fn getlk(
        &self,
        request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        owner: LockOwner,
        start: u64,
        end: u64,
        kind: i32,
        pid: u32,
        reply: ReplyLock,
    ) {
        let Some(kind) = lock_kind(kind) else { return reply.error(Errno::EINVAL) };
        let (who, node, lock) = (self.caller(request), self.node(inode), self.lock(owner, pid, start, end, kind));
        answer!(self, "getlk", reply, vfs => vfs.test_lock(&who, node, &lock), found => match found {
            None => reply.locked(start, end, libc::F_UNLCK, 0),
            Some(other) => {
                let (start, end) = kernel_range(&other.range);
                reply.locked(start, end, kernel_kind(other.kind), other.owner.pid);
            }
        });
    }

    fn setlk(
        &self,
        request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        owner: LockOwner,
        start: u64,
        end: u64,
        kind: i32,
        pid: u32,
        sleep: bool,
        reply: ReplyEmpty,
    ) {
        let Some(kind) = lock_kind(kind) else { return reply.error(Errno::EINVAL) };
        let (who, node, lock) = (self.caller(request), self.node(inode), self.lock(owner, pid, start, end, kind));
        let wait = sleep.then_some(LOCK_WAIT);
        answer!(self, "setlk", reply, vfs => vfs.lock(&who, node, &lock, wait), () => reply.ok());
    }

    fn fallocate(
        &self,
        request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let Some(how) = convert::allocate(mode) else { return reply.error(Errno::EOPNOTSUPP) };
        let (who, io) = (self.caller(request), Io::Handle(HandleId(handle.0)));
        answer!(self, "fallocate", reply, vfs => vfs.allocate(&who, io, offset, length, how), () => reply.ok());
    }

    fn lseek(&self, request: &Request, _inode: INodeNo, handle: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let what = match whence {
            libc::SEEK_DATA => Seek::Data,
            libc::SEEK_HOLE => Seek::Hole,
            _ => return reply.error(Errno::EINVAL),
        };
        let Ok(offset) = u64::try_from(offset) else { return reply.error(Errno::ENXIO) };
        let (who, io) = (self.caller(request), Io::Handle(HandleId(handle.0)));
        answer!(self, "lseek", reply, vfs => vfs.seek(&who, io, offset, what), found => {
            reply.offset(i64::try_from(found).unwrap_or(i64::MAX));
        });
    }

    fn copy_file_range(
        &self,
        request: &Request,
        _inode_in: INodeNo,
        handle_in: FileHandle,
        offset_in: u64,
        _inode_out: INodeNo,
        handle_out: FileHandle,
        offset_out: u64,
        length: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let who = self.caller(request);
        let (from, to) = (Io::Handle(HandleId(handle_in.0)), Io::Handle(HandleId(handle_out.0)));
        // The answer has room for 32 bits.
        let length = length.min(u64::from(u32::MAX) & !(STATFS_BLOCK_BYTES - 1));
        answer!(self, "copy_file_range", reply, vfs => vfs.copy_range(&who, from, offset_in, to, offset_out, length), copied => {
            reply.written(u32::try_from(copied).unwrap_or(u32::MAX));
        });
    }
}

/// Whether an open leaves the kernel the bytes that it has.
fn keep(is_kept: bool) -> FopenFlags {
    if is_kept { FopenFlags::FOPEN_KEEP_CACHE } else { FopenFlags::empty() }
}

/// An entry with inode 0: the name does not exist, and the kernel may remember that for a moment.
fn missing(reply: ReplyEntry) {
    let nothing = convert::unknown_attr(NodeId(0), NodeKind::File, NodeId(u64::MAX));
    reply.entry(&NEGATIVE_CACHE, &nothing, Generation(0));
}

fn lock_kind(kind: i32) -> Option<LockKind> {
    match kind {
        libc::F_RDLCK => Some(LockKind::Shared),
        libc::F_WRLCK => Some(LockKind::Exclusive),
        libc::F_UNLCK => Some(LockKind::Unlock),
        _ => None,
    }
}

fn kernel_kind(kind: LockKind) -> i32 {
    match kind {
        LockKind::Shared => libc::F_RDLCK,
        LockKind::Exclusive => libc::F_WRLCK,
        LockKind::Unlock => libc::F_UNLCK,
    }
}

/// Inclusive, and at most `OFFSET_MAX`, as the kernel has it.
fn kernel_range(range: &Range<u64>) -> (u64, u64) {
    (range.start, range.end.saturating_sub(1).min(i64::MAX as u64))
}

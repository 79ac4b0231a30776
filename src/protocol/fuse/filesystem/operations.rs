//! Requests of the kernel as calls of the [`Vfs`](file::Vfs): one method per operation of fuse(4), in the order of the trait.
//!
//! Invariant: a method either answers from memory (within the runtime's context, since the share may start a task on the way) or hands its
//! reply to a task; it never waits (`answer.rs`).

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, FopenFlags, Generation, INodeNo, IoctlFlags, KernelConfig,
    LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyIoctl, ReplyLock, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow,
    WriteFlags,
};

use super::{Filesystem, negotiate};
use crate::base::buffers::Buffer;
use crate::engine::file::{self, Caller, HandleId, Io, Remove, Seek, SetAttr, Target, VfsError};
use crate::protocol::fuse::answer::{answer, answer_entry, keep, send_data, send_missing, send_xattr};
use crate::protocol::fuse::convert;

/// How long a waiting lock may wait: for ever, by the standards of a process. Its caller's death ends the wait earlier.
const LOCK_WAIT: Duration = Duration::from_secs(365 * 24 * 3600);

/// The block size of `statfs`.
const STATFS_BLOCK_BYTES: u64 = 4096;

impl fuser::Filesystem for Filesystem {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        negotiate(config);
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (who, parent) = (self.caller(request), self.node(parent));
        // The kernel has checked that the caller may search the directory.
        let who = Caller { uid: 0, gid: 0, ..who };
        let asked = self.asked("lookup", request, parent);
        let _runtime = self.runtime.enter();
        if let Some(answer) = self.vfs.try_lookup(&who, parent, name.as_bytes()) {
            return match answer {
                Ok(attr) => reply.entry(&self.cache(), &convert::file_attr(&attr, self.root), Generation(0)),
                Err(VfsError::NotFound) => send_missing(reply),
                Err(error) => reply.error(asked.failed(&error)),
            };
        }
        let (name, cache, root, vfs) = (name.as_bytes().to_vec(), self.cache(), self.root, self.vfs.clone());
        self.runtime.spawn(async move {
            match vfs.lookup(&who, parent, &name).await {
                Ok(attr) => reply.entry(&cache, &convert::file_attr(&attr, root), Generation(0)),
                Err(VfsError::NotFound) => send_missing(reply),
                Err(error) => reply.error(asked.failed(&error)),
            }
        });
    }

    fn forget(&self, _request: &Request, inode: INodeNo, _lookups: u64) {
        self.kept.forget(inode);
    }

    fn getattr(&self, request: &Request, inode: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        let (who, node) = (self.caller(request), self.node(inode));
        let (cache, root) = (self.cache(), self.root);
        let _runtime = self.runtime.enter();
        if let Some(answer) = self.vfs.try_getattr(&who, node) {
            let asked = self.asked("getattr", request, node);
            return match answer {
                Ok(attr) => reply.attr(&cache, &convert::file_attr(&attr, root)),
                Err(error) => reply.error(asked.failed(&error)),
            };
        }
        answer!(self, "getattr", (request, node), reply, vfs => vfs.getattr(&who, node), attr => reply.attr(&cache, &convert::file_attr(&attr, root)));
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
        let (cache, root) = (self.cache(), self.root);
        answer!(self, "setattr", (request, node), reply, vfs => vfs.setattr(&who, node, handle, &set), attr => {
            reply.attr(&cache, &convert::file_attr(&attr, root));
        });
    }

    fn readlink(&self, request: &Request, inode: INodeNo, reply: ReplyData) {
        let (who, node) = (self.caller(request), self.node(inode));
        self.kept.read_link(inode);
        answer!(self, "readlink", (request, node), reply, vfs => vfs.readlink(&who, node), target => reply.data(&target));
    }

    fn mknod(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, _umask: u32, rdev: u32, reply: ReplyEntry) {
        let Some(kind) = convert::kind(mode) else { return reply.error(Errno::EINVAL) };
        let (who, parent, name) = (self.checked_caller(request), self.node(parent), name.as_bytes().to_vec());
        answer_entry!(self, "mknod", (request, parent), reply, vfs => vfs.mknod(&who, parent, &name, kind, rdev, convert::create(mode)));
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, _umask: u32, reply: ReplyEntry) {
        let (who, parent, name) = (self.checked_caller(request), self.node(parent), name.as_bytes().to_vec());
        answer_entry!(self, "mkdir", (request, parent), reply, vfs => vfs.mkdir(&who, parent, &name, convert::create(mode)));
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (who, parent, name) = (self.checked_caller(request), self.node(parent), name.as_bytes().to_vec());
        answer!(self, "unlink", (request, parent), reply, vfs => vfs.remove(&who, parent, &name, Remove::File), () => reply.ok());
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (who, parent, name) = (self.checked_caller(request), self.node(parent), name.as_bytes().to_vec());
        answer!(self, "rmdir", (request, parent), reply, vfs => vfs.remove(&who, parent, &name, Remove::Directory), () => reply.ok());
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let (who, parent, name) = (self.checked_caller(request), self.node(parent), name.as_bytes().to_vec());
        let target = target.as_os_str().as_bytes().to_vec();
        answer_entry!(self, "symlink", (request, parent), reply, vfs => vfs.symlink(&who, parent, &name, &target));
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
        answer!(self, "rename", (request, parent), reply, vfs => vfs.rename(&who, (parent, &name), (new_parent, &new_name), how), () => reply.ok());
    }

    fn link(&self, request: &Request, inode: INodeNo, new_parent: INodeNo, new_name: &OsStr, reply: ReplyEntry) {
        let (who, node) = (self.checked_caller(request), self.node(inode));
        let (parent, name) = (self.node(new_parent), new_name.as_bytes().to_vec());
        answer_entry!(self, "link", (request, node), reply, vfs => vfs.link(&who, node, parent, &name));
    }

    fn open(&self, request: &Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let (who, node, how) = (self.checked_caller(request), self.node(inode), convert::open_how(flags));
        let kept = self.kept.clone();
        answer!(self, "open", (request, node), reply, vfs => vfs.open(&who, Target::Node(node), &how), opened => {
            reply.opened(FileHandle(opened.handle.0), keep(kept.open(inode)));
        });
    }

    fn read(
        &self,
        request: &Request,
        inode: INodeNo,
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
            self.reads.increment(1);
            return match answer {
                Ok(slices) => send_data(reply, slices),
                Err(error) => reply.error(self.counted("read", request, self.node(inode)).failed(&error)),
            };
        }
        answer!(self, "read", (request, self.node(inode)), reply, vfs => vfs.read(&who, io, offset, size), slices => send_data(reply, slices));
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
        let data = Buffer::copied(data).freeze();
        let Ok(size) = u32::try_from(data.len()) else { return reply.error(Errno::EINVAL) };
        // A page of a shared mapping goes where it is mapped, whatever handle the kernel found for it, also one that appends.
        let is_mapped = write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        let io = if is_mapped { Io::Mapped(self.node(inode)) } else { Io::Handle(HandleId(handle.0)) };
        let who = self.caller(request);
        answer!(self, "write", (request, self.node(inode)), reply, vfs => vfs.write(&who, io, offset, data), _ => reply.written(size));
    }

    fn flush(&self, request: &Request, inode: INodeNo, _handle: FileHandle, owner: LockOwner, reply: ReplyEmpty) {
        // Sent at each close(2): POSIX gives up all of the process's locks on the file then (fcntl(2)).
        let (node, owner, vfs) = (self.node(inode), self.lock_owner(owner, request.pid()), self.vfs.clone());
        self.asked("flush", request, node);
        self.runtime.spawn(async move {
            vfs.release_locks(node, owner).await;
            reply.ok();
        });
    }

    fn release(
        &self,
        request: &Request,
        inode: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let handle = HandleId(handle.0);
        self.kept.close(inode);
        answer!(self, "release", (request, self.node(inode)), reply, vfs => vfs.close(handle), () => reply.ok());
    }

    fn fsync(&self, request: &Request, inode: INodeNo, _handle: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        let (who, node) = (self.caller(request), self.node(inode));
        answer!(self, "fsync", (request, node), reply, vfs => vfs.commit(&who, node), () => reply.ok());
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
        let asked = self.asked("readdir", request, node);
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
                Err(error) => reply.error(asked.failed(&error)),
            }
        });
    }

    fn readdirplus(&self, request: &Request, inode: INodeNo, _handle: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        self.note_listed(inode, offset);
        let (who, node, root, cache, vfs) = (self.caller(request), self.node(inode), self.root, self.cache(), self.vfs.clone());
        let asked = self.asked("readdirplus", request, node);
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
                Err(error) => reply.error(asked.failed(&error)),
            }
        });
    }

    fn fsyncdir(&self, request: &Request, inode: INodeNo, _handle: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        let (who, node) = (self.caller(request), self.node(inode));
        answer!(self, "fsyncdir", (request, node), reply, vfs => vfs.commit(&who, node), () => reply.ok());
    }

    fn statfs(&self, request: &Request, inode: INodeNo, reply: ReplyStatfs) {
        answer!(self, "statfs", (request, self.node(inode)), reply, vfs => vfs.statfs(), space => {
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
        answer!(self, "setxattr", (request, node), reply, vfs => vfs.setxattr(&who, node, &name, &value, how), () => reply.ok());
    }

    fn getxattr(&self, request: &Request, inode: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let (who, node, name) = (self.checked_caller(request), self.node(inode), name.as_bytes().to_vec());
        answer!(self, "getxattr", (request, node), reply, vfs => vfs.getxattr(&who, node, &name), value => send_xattr(reply, &value, size));
    }

    fn listxattr(&self, request: &Request, inode: INodeNo, size: u32, reply: ReplyXattr) {
        let (who, node) = (self.checked_caller(request), self.node(inode));
        answer!(self, "listxattr", (request, node), reply, vfs => vfs.listxattr(&who, node), names => {
            let list: Vec<u8> = names.iter().flat_map(|name| name.iter().copied().chain([0])).collect();
            send_xattr(reply, &list, size);
        });
    }

    fn removexattr(&self, request: &Request, inode: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (who, node, name) = (self.checked_caller(request), self.node(inode), name.as_bytes().to_vec());
        answer!(self, "removexattr", (request, node), reply, vfs => vfs.removexattr(&who, node, &name), () => reply.ok());
    }

    fn ioctl(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        _flags: IoctlFlags,
        _command: u32,
        _data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        // Many programs ask each file whether it is a terminal: it is not.
        reply.error(Errno::ENOTTY);
    }

    fn access(&self, _request: &Request, _inode: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        // The kernel checks it (`default_permissions`) and asks no more after this answer.
        reply.error(Errno::ENOSYS);
    }

    fn create(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, _umask: u32, flags: i32, reply: ReplyCreate) {
        let (who, parent, name) = (self.checked_caller(request), self.node(parent), name.as_bytes().to_vec());
        let how = file::OpenHow { create: Some(convert::create(mode)), ..convert::open_how(OpenFlags(flags)) };
        let (cache, root, kept) = (self.cache(), self.root, self.kept.clone());
        answer!(self, "create", (request, parent), reply, vfs => vfs.open(&who, Target::Child(parent, &name), &how), opened => {
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
        let Some(kind) = convert::lock_kind(kind) else { return reply.error(Errno::EINVAL) };
        let (who, node, lock) = (self.caller(request), self.node(inode), self.lock(owner, pid, start, end, kind));
        answer!(self, "getlk", (request, node), reply, vfs => vfs.test_lock(&who, node, &lock), found => match found {
            None => reply.locked(start, end, libc::F_UNLCK, 0),
            Some(other) => {
                let (start, end) = convert::kernel_range(&other.range);
                reply.locked(start, end, convert::kernel_kind(other.kind), other.owner.pid);
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
        let Some(kind) = convert::lock_kind(kind) else { return reply.error(Errno::EINVAL) };
        let (who, node, lock) = (self.caller(request), self.node(inode), self.lock(owner, pid, start, end, kind));
        let wait = sleep.then_some(LOCK_WAIT);
        answer!(self, "setlk", (request, node), reply, vfs => vfs.lock(&who, node, &lock, wait), () => reply.ok());
    }

    fn fallocate(
        &self,
        request: &Request,
        inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let Some(how) = convert::allocate(mode) else { return reply.error(Errno::EOPNOTSUPP) };
        let (who, io) = (self.caller(request), Io::Handle(HandleId(handle.0)));
        answer!(self, "fallocate", (request, self.node(inode)), reply, vfs => vfs.allocate(&who, io, offset, length, how), () => reply.ok());
    }

    fn lseek(&self, request: &Request, inode: INodeNo, handle: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let what = match whence {
            libc::SEEK_DATA => Seek::Data,
            libc::SEEK_HOLE => Seek::Hole,
            _ => return reply.error(Errno::EINVAL),
        };
        let Ok(offset) = u64::try_from(offset) else { return reply.error(Errno::ENXIO) };
        let (who, io) = (self.caller(request), Io::Handle(HandleId(handle.0)));
        answer!(self, "lseek", (request, self.node(inode)), reply, vfs => vfs.seek(&who, io, offset, what), found => {
            reply.offset(i64::try_from(found).unwrap_or(i64::MAX));
        });
    }

    fn copy_file_range(
        &self,
        request: &Request,
        _inode_in: INodeNo,
        handle_in: FileHandle,
        offset_in: u64,
        inode_out: INodeNo,
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
        answer!(self, "copy_file_range", (request, self.node(inode_out)), reply, vfs => vfs.copy_range(&who, from, offset_in, to, offset_out, length), copied => {
            reply.written(u32::try_from(copied).unwrap_or(u32::MAX));
        });
    }
}

//! A kernel directory behind the [`Vfs`] seam: what Linux itself answers, for differential tests of the share and of front ends.
//!
//! What lives here: [`Passthrough`] and the verbs on names; `passthrough/open.rs` opens, `passthrough/io.rs` has the verbs on bytes and attributes,
//! `passthrough/convert.rs` says what the kernel says in our words, `passthrough/who.rs` is the caller.
//! Only for tests: calls block their thread, and nothing is bounded.
//!
//! Invariants:
//! - A node is its inode number (one file system; another one below the root is [`VfsError::CrossShare`]). A node that was told once is held open
//!   (`O_PATH`) for ever, so its number is never reused and it stays reachable without a name.
//! - Each call runs with the caller's user, group and groups, on its own thread: the kernel checks permissions, not this file.
//! - Every system call is relative to a directory's descriptor, or goes through `/proc/self/fd`; no path is ever walked.

mod convert;
mod io;
mod open;
#[cfg(test)]
pub(crate) mod tests;
mod who;

use std::collections::HashMap;
use std::io as std_io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, RawDir, RenameFlags};
use rustix::io::Errno;

use super::changes::Hub;
use super::locks::{Locks, Outcome};
use super::{
    AccessMask, Allocate, Attr, Caller, Changed, Changes, Create, DirEntry, HandleId, Io, Lock, LockKind, LockOwner, NodeKind,
    OpenHow, Opened, Origin, Remove, Rename, Seek, SetAttr, SetXattr, StatFs, Target, Vfs, VfsError,
};
use crate::base::id::NodeId;
use convert::{attr_of, name_of, told};
use open::VERIFIER;
use who::As;

/// An open file or directory.
struct Open {
    node: NodeId,
    how: OpenHow,
    file: OwnedFd,
}

/// A directory of this machine.
pub(crate) struct Passthrough {
    root: NodeId,
    device: u64,
    nodes: Mutex<HashMap<NodeId, Arc<OwnedFd>>>,
    handles: Mutex<HashMap<HandleId, Arc<Open>>>,
    next_handle: AtomicU64,
    locks: Mutex<Locks>,
    pub(crate) changes: Hub,
    /// Nobody changes the directory but through this: what was listed is kept true by what is told.
    pub(crate) is_alone: AtomicBool,
    verifier: u64,
}

impl Passthrough {
    /// A directory that exists. The process must be root for callers other than itself, and have no umask.
    pub(crate) fn new(root: &Path) -> std_io::Result<Arc<Self>> {
        let file = fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let stat = fs::fstat(&file)?;
        let root = NodeId(stat.st_ino);
        Ok(Arc::new(Self {
            root,
            device: stat.st_dev,
            nodes: Mutex::new(HashMap::from([(root, Arc::new(file))])),
            handles: Mutex::default(),
            next_handle: AtomicU64::new(1),
            locks: Mutex::default(),
            changes: Hub::default(),
            is_alone: AtomicBool::new(false),
            verifier: fastrand::u64(..),
        }))
    }

    /// Handles that are open.
    pub(crate) fn open_count(&self) -> usize {
        self.handles.lock().len()
    }

    fn at(&self, node: NodeId) -> Result<Arc<OwnedFd>, VfsError> {
        self.nodes.lock().get(&node).cloned().ok_or(VfsError::Stale)
    }

    fn handle(&self, handle: HandleId) -> Result<Arc<Open>, VfsError> {
        self.handles.lock().get(&handle).cloned().ok_or(VfsError::BadHandle)
    }

    /// Opens what is there, however it may be used later.
    fn find(&self, dir: &OwnedFd, name: &std::ffi::OsStr) -> Result<(Arc<OwnedFd>, Attr), VfsError> {
        let file = fs::openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()).map_err(told)?;
        let stat = fs::fstat(&file).map_err(told)?;
        if stat.st_dev != self.device {
            return Err(VfsError::CrossShare);
        }
        let attr = attr_of(&stat);
        Ok((self.nodes.lock().entry(attr.node).or_insert_with(|| Arc::new(file)).clone(), attr))
    }

    fn attr(&self, node: NodeId) -> Result<Attr, VfsError> {
        let stat = fs::fstat(&*self.at(node)?).map_err(told)?;
        Ok(attr_of(&stat))
    }

    /// The node at a name, 0 for none: for events.
    fn peek(&self, dir: &OwnedFd, name: &std::ffi::OsStr) -> NodeId {
        self.find(dir, name).map_or(NodeId(0), |(_, attr)| attr.node)
    }

    fn tell(&self, who: &Caller, what: Changed) {
        self.changes.tell(who.origin, what);
    }

    fn tell_entry(&self, who: &Caller, parent: NodeId, name: &[u8], before: NodeId, after: NodeId) {
        self.tell(who, Changed::Entry { parent, name: name.to_vec(), before, after });
    }

    /// Makes something at a name with the whole mode, and tells.
    fn make(
        &self,
        who: &Caller,
        parent: NodeId,
        name: &[u8],
        make: impl FnOnce(&OwnedFd, &std::ffi::OsStr) -> Result<(), Errno>,
    ) -> Result<Attr, VfsError> {
        let (dir, at) = (self.at(parent)?, name_of(name)?);
        As::run(who, || make(&dir, at).map_err(told))?;
        let (_, attr) = self.find(&dir, at)?;
        self.tell_entry(who, parent, name, NodeId(0), attr.node);
        Ok(attr)
    }
}

#[async_trait]
impl Vfs for Passthrough {
    fn root(&self) -> NodeId {
        self.root
    }

    fn is_listing_current(&self, _dir: NodeId) -> bool {
        self.is_alone.load(Ordering::Relaxed)
    }

    async fn lookup(&self, who: &Caller, parent: NodeId, name: &[u8]) -> Result<Attr, VfsError> {
        if self.attr(parent)?.kind != NodeKind::Directory {
            return Err(VfsError::NotDirectory);
        }
        let dir = self.at(parent)?;
        if parent == self.root && name == b".." {
            return self.attr(parent);
        }
        As::run(who, || self.find(&dir, name_of(name)?)).map(|(_, attr)| attr)
    }

    async fn getattr(&self, _who: &Caller, node: NodeId) -> Result<Attr, VfsError> {
        self.attr(node)
    }

    async fn setattr(&self, who: &Caller, node: NodeId, handle: Option<HandleId>, set: &SetAttr) -> Result<Attr, VfsError> {
        self.set(who, node, handle, set)
    }

    async fn access(&self, who: &Caller, node: NodeId, mask: AccessMask) -> Result<AccessMask, VfsError> {
        let path = self.at(node)?;
        let has = |bit: u8| {
            let access = fs::Access::from_bits_truncate(u32::from(bit));
            As::run(who, || fs::accessat(fs::CWD, io::through(&path), access, AtFlags::EACCESS).map_err(told)).is_ok()
        };
        let granted = [4, 2, 1].into_iter().filter(|bit| mask.0 & bit != 0 && has(*bit)).sum();
        Ok(AccessMask(granted))
    }

    async fn open(&self, who: &Caller, target: Target<'_>, how: &OpenHow) -> Result<Opened, VfsError> {
        match target {
            Target::Node(node) => self.open_node(who, node, how),
            Target::Child(parent, name) => self.open_child(who, parent, name, how),
        }
    }

    async fn close(&self, handle: HandleId) -> Result<(), VfsError> {
        self.handles.lock().remove(&handle).map(drop).ok_or(VfsError::BadHandle)
    }

    async fn read(&self, who: &Caller, io: Io, offset: u64, len_bytes: u32) -> Result<Vec<Bytes>, VfsError> {
        self.read_at(who, io, offset, len_bytes)
    }

    async fn write(&self, who: &Caller, io: Io, offset: u64, data: Bytes) -> Result<Attr, VfsError> {
        self.write_at(who, io, offset, &data)
    }

    async fn commit(&self, _who: &Caller, node: NodeId) -> Result<(), VfsError> {
        self.at(node)?;
        self.sync().await
    }

    async fn sync(&self) -> Result<(), VfsError> {
        let root = self.at(self.root)?;
        let file = fs::open(io::through(&root), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(told)?;
        fs::syncfs(&file).map_err(told)
    }

    fn write_verifier(&self) -> u64 {
        self.verifier
    }

    async fn allocate(&self, who: &Caller, io: Io, offset: u64, len_bytes: u64, how: Allocate) -> Result<(), VfsError> {
        self.change_range(who, io, offset, len_bytes, how)
    }

    async fn seek(&self, who: &Caller, io: Io, offset: u64, what: Seek) -> Result<u64, VfsError> {
        let open = self.readable(who, io)?;
        let from = match what {
            Seek::Data => fs::SeekFrom::Data(offset),
            Seek::Hole => fs::SeekFrom::Hole(offset),
        };
        fs::seek(open.as_fd(), from).map_err(told)
    }

    async fn copy_range(
        &self,
        who: &Caller,
        from: Io,
        from_offset: u64,
        to: Io,
        to_offset: u64,
        len_bytes: u64,
    ) -> Result<u64, VfsError> {
        let (source, target) = (self.readable(who, from)?, self.writable(who, to)?);
        let (mut from_offset, mut to_offset) = (from_offset, to_offset);
        let len = usize::try_from(len_bytes).unwrap_or(usize::MAX);
        let copied = fs::copy_file_range(source.as_fd(), Some(&mut from_offset), target.as_fd(), Some(&mut to_offset), len);
        Ok(copied.map_err(told)? as u64)
    }

    async fn mkdir(&self, who: &Caller, parent: NodeId, name: &[u8], create: Create) -> Result<Attr, VfsError> {
        let mode = Mode::from_raw_mode(create.mode & 0o7777);
        self.make(who, parent, name, |dir, at| {
            fs::mkdirat(dir, at, mode)?;
            // mkdir(2) leaves set-uid and set-gid of the mode out.
            let stat = fs::statat(dir, at, AtFlags::SYMLINK_NOFOLLOW)?;
            let whole = Mode::from_raw_mode((stat.st_mode | create.mode) & 0o7777);
            if whole == Mode::from_raw_mode(stat.st_mode & 0o7777) {
                Ok(())
            } else {
                fs::chmodat(dir, at, whole, AtFlags::empty())
            }
        })
    }

    async fn mknod(
        &self,
        who: &Caller,
        parent: NodeId,
        name: &[u8],
        kind: NodeKind,
        rdev: u32,
        create: Create,
    ) -> Result<Attr, VfsError> {
        let mode = Mode::from_raw_mode(create.mode & 0o7777);
        let kind = FileType::from_raw_mode(u32::from(kind as u8) << 12);
        self.make(who, parent, name, |dir, at| fs::mknodat(dir, at, kind, mode, u64::from(rdev)))
    }

    async fn symlink(&self, who: &Caller, parent: NodeId, name: &[u8], target: &[u8]) -> Result<Attr, VfsError> {
        self.make(who, parent, name, |dir, at| fs::symlinkat(target, dir, at))
    }

    async fn readlink(&self, _who: &Caller, node: NodeId) -> Result<Vec<u8>, VfsError> {
        // Of nothing but a descriptor the kernel says "no such file" for what is no symlink.
        let no_link = |error| if error == Errno::NOENT { VfsError::Invalid } else { told(error) };
        Ok(fs::readlinkat(&*self.at(node)?, "", Vec::new()).map_err(no_link)?.into_bytes())
    }

    async fn link(&self, who: &Caller, node: NodeId, parent: NodeId, name: &[u8]) -> Result<Attr, VfsError> {
        let (file, dir, at) = (self.at(node)?, self.at(parent)?, name_of(name)?);
        As::run(who, || fs::linkat(fs::CWD, io::through(&file), &*dir, at, AtFlags::SYMLINK_FOLLOW).map_err(told))?;
        self.tell_entry(who, parent, name, NodeId(0), node);
        self.attr(node)
    }

    async fn rename(&self, who: &Caller, from: (NodeId, &[u8]), to: (NodeId, &[u8]), how: Rename) -> Result<(), VfsError> {
        let (from_dir, to_dir) = (self.at(from.0)?, self.at(to.0)?);
        let (from_name, to_name) = (name_of(from.1)?, name_of(to.1)?);
        let (moved, replaced) = (self.peek(&from_dir, from_name), self.peek(&to_dir, to_name));
        let flags = match how {
            Rename::Replace => RenameFlags::empty(),
            Rename::NoReplace => RenameFlags::NOREPLACE,
            Rename::Exchange => RenameFlags::EXCHANGE,
        };
        As::run(who, || fs::renameat_with(&*from_dir, from_name, &*to_dir, to_name, flags).map_err(told))?;
        let left = if how == Rename::Exchange { replaced } else { NodeId(0) };
        self.tell_entry(who, from.0, from.1, moved, left);
        self.tell_entry(who, to.0, to.1, replaced, moved);
        Ok(())
    }

    async fn remove(&self, who: &Caller, parent: NodeId, name: &[u8], what: Remove) -> Result<(), VfsError> {
        let (dir, at) = (self.at(parent)?, name_of(name)?);
        let before = self.peek(&dir, at);
        let flags = if what == Remove::Directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        As::run(who, || fs::unlinkat(&*dir, at, flags).map_err(told))?;
        self.tell_entry(who, parent, name, before, NodeId(0));
        Ok(())
    }

    async fn readdir(
        &self,
        _who: &Caller,
        dir: NodeId,
        cookie: u64,
        plus: bool,
        sink: &mut (dyn FnMut(DirEntry) -> bool + Send),
    ) -> Result<bool, VfsError> {
        let (path, own) = (self.at(dir)?, self.attr(dir)?);
        if own.kind != NodeKind::Directory {
            return Err(VfsError::NotDirectory);
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let file = fs::open(io::through(&path), flags, Mode::empty()).map_err(told)?;
        let above = if dir == self.root { own.clone() } else { self.find(&path, std::ffi::OsStr::new(".."))?.1 };
        for (at, name, attr) in [(1, ".", own), (2, "..", above)] {
            let entry = DirEntry { name: name.into(), node: attr.node, kind: attr.kind, cookie: at, attr: plus.then_some(attr) };
            if cookie < at && !sink(entry) {
                return Ok(false);
            }
        }
        // The kernel's cookies go through as they are, above ours; a directory of a test never has one of the largest.
        if cookie > 2 {
            fs::seek(&file, fs::SeekFrom::Start(cookie - 3)).map_err(told)?;
        }
        let mut buffer = Vec::with_capacity(32 << 10);
        let mut entries = RawDir::new(&file, buffer.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            let entry = entry.map_err(told)?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            let Ok((_, attr)) = self.find(&path, name_of(name)?) else { continue };
            let next = DirEntry {
                name: name.to_vec(),
                node: attr.node,
                kind: attr.kind,
                cookie: entry.next_entry_cookie() + 3,
                attr: plus.then_some(attr),
            };
            if !sink(next) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn lock(&self, _who: &Caller, node: NodeId, lock: &Lock, wait: Option<Duration>) -> Result<(), VfsError> {
        if lock.range.start >= lock.range.end {
            return Err(VfsError::Invalid);
        }
        let deadline = tokio::time::Instant::now() + wait.unwrap_or_default();
        loop {
            let outcome = self.locks.lock().take(node, lock, None);
            match outcome {
                Outcome::Taken => return Ok(()),
                Outcome::Deadlock => return Err(VfsError::Deadlock),
                Outcome::Blocked if lock.kind == LockKind::Unlock || tokio::time::Instant::now() >= deadline => {
                    return Err(VfsError::WouldBlock);
                }
                Outcome::Blocked => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }

    async fn test_lock(&self, _who: &Caller, node: NodeId, lock: &Lock) -> Result<Option<Lock>, VfsError> {
        Ok(self.locks.lock().test(node, lock))
    }

    async fn release_locks(&self, node: NodeId, owner: LockOwner) {
        self.locks.lock().release(node, &owner);
    }

    async fn getxattr(&self, who: &Caller, node: NodeId, name: &[u8]) -> Result<Vec<u8>, VfsError> {
        let path = self.at(node)?;
        let mut value = vec![0; 64 << 10];
        let len = As::run(who, || fs::getxattr(io::through(&path), name, &mut value).map_err(told))?;
        value.truncate(len);
        Ok(value)
    }

    async fn setxattr(&self, who: &Caller, node: NodeId, name: &[u8], value: &[u8], how: SetXattr) -> Result<(), VfsError> {
        let path = self.at(node)?;
        let flags = match how {
            SetXattr::Any => fs::XattrFlags::empty(),
            SetXattr::Create => fs::XattrFlags::CREATE,
            SetXattr::Replace => fs::XattrFlags::REPLACE,
        };
        As::run(who, || fs::setxattr(io::through(&path), name, value, flags).map_err(told))?;
        self.tell(who, Changed::Attr(node));
        Ok(())
    }

    async fn listxattr(&self, who: &Caller, node: NodeId) -> Result<Vec<Vec<u8>>, VfsError> {
        let path = self.at(node)?;
        let mut names = vec![0; 64 << 10];
        let len = As::run(who, || fs::listxattr(io::through(&path), &mut names).map_err(told))?;
        let names = names[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty() && *name != VERIFIER.as_bytes());
        Ok(names.map(<[u8]>::to_vec).collect())
    }

    async fn removexattr(&self, who: &Caller, node: NodeId, name: &[u8]) -> Result<(), VfsError> {
        let path = self.at(node)?;
        As::run(who, || fs::removexattr(io::through(&path), name).map_err(told))?;
        self.tell(who, Changed::Attr(node));
        Ok(())
    }

    async fn statfs(&self) -> Result<StatFs, VfsError> {
        let space = fs::fstatvfs(&*self.at(self.root)?).map_err(told)?;
        Ok(StatFs {
            total_bytes: space.f_blocks * space.f_frsize,
            free_bytes: space.f_bavail * space.f_frsize,
            nodes: space.f_files - space.f_ffree,
            free_nodes: space.f_ffree,
            file_bytes_max: i64::MAX as u64,
        })
    }

    fn changes(&self, except: Option<Origin>) -> Changes {
        self.changes.listen(except)
    }

    async fn told(&self, origin: Origin) {
        self.changes.told(origin).await;
    }
}

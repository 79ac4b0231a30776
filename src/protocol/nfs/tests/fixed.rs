//! A share that never changes: every verb has one answer, so that a call's answer is the same bytes each time.
//!
//! What it is asked is noted in words, getattr and lookup excepted: a test sees what the server understood, and whether it waited for the
//! disk before it answered.
//!
//! ```text
//! 1 root/          owner 0:0, mode 755          13 root/sub/   nobody may change anything in it
//! ├── 2 f          owner 1000:100, "hello"      99             is gone
//! ├── 3 l ─► to/f  a symbolic link              5, 6, 3, 4     are what is newly created: file, directory, symlink, device
//! └── 4 null       character device 1:3
//! ```

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use crate::base::id::NodeId;
use crate::engine::file::changes::Hub;
use crate::engine::file::*;

/// See the module.
pub(super) struct Fixed {
    /// What was asked.
    pub(super) asked: Mutex<Vec<String>>,
    changes: Hub,
}

const LOCKED: NodeId = NodeId(13);
/// Locks from this byte on are somebody else's.
const HELD_FROM: u64 = 1000;

fn attr_of(node: NodeId) -> Result<Attr, VfsError> {
    let (kind, mode, nlink, uid, gid, size_bytes) = match node.0 {
        1 => (NodeKind::Directory, 0o755, 3, 0, 0, 4096),
        2 => (NodeKind::File, 0o644, 1, 1000, 100, 5),
        3 => (NodeKind::Symlink, 0o777, 1, 1000, 100, 4),
        4 => (NodeKind::CharDevice, 0o600, 1, 0, 0, 0),
        5 => (NodeKind::File, 0o640, 1, 0, 0, 0),
        6 => (NodeKind::Directory, 0o750, 2, 0, 0, 0),
        13 => (NodeKind::Directory, 0o555, 2, 0, 0, 0),
        _ => return Err(VfsError::Stale),
    };
    let second = i64::try_from(node.0).unwrap_or(0) * 0x100;
    let at = |time: i64| (second + time) * 1_000_000_000 + time;
    Ok(Attr {
        node,
        kind,
        mode,
        nlink,
        uid,
        gid,
        rdev: if node.0 == 4 { 0x103 } else { 0 },
        size_bytes,
        allocated_bytes: size_bytes.next_multiple_of(4096),
        atime_ns: at(1),
        mtime_ns: at(2),
        ctime_ns: at(3),
        birth_ns: 0,
        change: 1,
    })
}

/// Whether names in the directory may be changed.
fn changeable(dir: NodeId) -> Result<(), VfsError> {
    let attr = attr_of(dir)?;
    match attr.kind {
        _ if dir == LOCKED => Err(VfsError::AccessDenied),
        NodeKind::Directory => Ok(()),
        _ => Err(VfsError::NotDirectory),
    }
}

/// As [`changeable`]; the name may be anything but `f`, which exists.
fn creatable(dir: NodeId, name: &[u8]) -> Result<(), VfsError> {
    changeable(dir)?;
    match name {
        b"f" => Err(VfsError::Exists),
        name if name.len() > 255 => Err(VfsError::NameTooLong),
        _ => Ok(()),
    }
}

fn words(set: &SetAttr) -> String {
    let mut words = String::new();
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            words += &format!(" {name}={value}");
        }
    };
    add("mode", set.mode.map(|mode| format!("{mode:o}")));
    add("uid", set.uid.map(|uid| uid.to_string()));
    add("gid", set.gid.map(|gid| gid.to_string()));
    add("size", set.size_bytes.map(|size| size.to_string()));
    add("atime", set.atime.map(|time| format!("{time:?}")));
    add("mtime", set.mtime.map(|time| format!("{time:?}")));
    add("guard", set.guard_ctime_ns.map(|ns| ns.to_string()));
    words
}

impl Fixed {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { asked: Mutex::default(), changes: Hub::default() })
    }

    /// Notes a question. Bounded, so that a test may ask without end.
    fn note(&self, words: String) {
        let mut asked = self.asked.lock();
        if asked.len() < 1000 {
            asked.push(words);
        }
    }
}

fn text(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

fn node_of(io: Io) -> NodeId {
    match io {
        Io::Node(node) | Io::Mapped(node) => node,
        Io::Handle(_) => NodeId(0),
    }
}

#[async_trait]
impl Vfs for Fixed {
    fn root(&self) -> NodeId {
        NodeId(1)
    }

    async fn lookup(&self, _: &Caller, parent: NodeId, name: &[u8]) -> Result<Attr, VfsError> {
        if attr_of(parent)?.kind != NodeKind::Directory {
            return Err(VfsError::NotDirectory);
        }
        match name {
            b"." | b".." => attr_of(NodeId(1)),
            b"f" => attr_of(NodeId(2)),
            b"l" => attr_of(NodeId(3)),
            b"null" => attr_of(NodeId(4)),
            b"sub" => attr_of(LOCKED),
            _ => Err(VfsError::NotFound),
        }
    }

    async fn getattr(&self, _: &Caller, node: NodeId) -> Result<Attr, VfsError> {
        attr_of(node)
    }

    async fn setattr(&self, _: &Caller, node: NodeId, _: Option<HandleId>, set: &SetAttr) -> Result<Attr, VfsError> {
        self.note(format!("setattr {node}{}", words(set)));
        let attr = attr_of(node)?;
        match set.guard_ctime_ns {
            _ if node == LOCKED => Err(VfsError::NotPermitted),
            Some(guard) if guard != attr.ctime_ns => Err(VfsError::NotSync),
            _ => Ok(attr),
        }
    }

    async fn access(&self, who: &Caller, node: NodeId, mask: AccessMask) -> Result<AccessMask, VfsError> {
        self.note(format!("access {node} {} by {}:{} {:?}", mask.0, who.uid, who.gid, who.groups));
        let granted = if attr_of(node)?.kind == NodeKind::Directory { 7 } else { 6 };
        Ok(AccessMask(mask.0 & granted))
    }

    async fn open(&self, _: &Caller, target: Target<'_>, how: &OpenHow) -> Result<Opened, VfsError> {
        let opened = |node, created| Ok(Opened { handle: HandleId(8), attr: attr_of(node)?, created });
        match target {
            Target::Node(node) => {
                let words =
                    [(how.read, " read"), (how.write, " write"), (how.deny_read, " deny-read"), (how.deny_write, " deny-write")];
                let words: String = words.iter().filter(|(is, _)| *is).map(|(_, word)| *word).collect();
                self.note(format!("open {node}{words}"));
                opened(node, false)
            }
            Target::Child(dir, name) => {
                let mode = how.create.map_or(0, |create| create.mode);
                let exclusive = if how.exclusive { " exclusive" } else { "" };
                let verifier = how.verifier.map_or_else(String::new, |verifier| format!(" verifier={verifier:x}"));
                self.note(format!("create {dir}/{} mode={mode:o}{exclusive}{verifier}", text(name)));
                match creatable(dir, name) {
                    Err(VfsError::Exists) if !how.exclusive => opened(NodeId(2), false),
                    Err(error) => Err(error),
                    Ok(()) => opened(NodeId(5), true),
                }
            }
        }
    }

    async fn close(&self, _: HandleId) -> Result<(), VfsError> {
        Ok(())
    }

    async fn read(&self, _: &Caller, io: Io, offset: u64, len_bytes: u32) -> Result<Vec<Bytes>, VfsError> {
        let node = node_of(io);
        self.note(format!("read {node} {offset}+{len_bytes}"));
        if attr_of(node)?.kind != NodeKind::File {
            return Err(VfsError::IsDirectory);
        }
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(5);
        let end = start.saturating_add(len_bytes as usize).min(5);
        // In slices, as a share has them.
        Ok((start..end).map(|at| Bytes::from_static(b"hello").slice(at..at + 1)).collect())
    }

    async fn write(&self, _: &Caller, io: Io, offset: u64, data: Bytes) -> Result<Attr, VfsError> {
        let node = node_of(io);
        self.note(format!("write {node} {offset} {}", text(&data)));
        let attr = attr_of(node)?;
        if offset > 1 << 40 {
            return Err(VfsError::TooLarge);
        }
        if attr.kind == NodeKind::File { Ok(attr) } else { Err(VfsError::Invalid) }
    }

    async fn commit(&self, _: &Caller, node: NodeId) -> Result<(), VfsError> {
        self.note(format!("commit {node}"));
        attr_of(node).map(drop)
    }

    async fn sync(&self) -> Result<(), VfsError> {
        self.note("sync".into());
        Ok(())
    }

    fn write_verifier(&self) -> u64 {
        0x1122_3344_5566_7788
    }

    async fn allocate(&self, _: &Caller, _: Io, _: u64, _: u64, _: Allocate) -> Result<(), VfsError> {
        Err(VfsError::Unsupported)
    }

    async fn seek(&self, _: &Caller, _: Io, _: u64, _: Seek) -> Result<u64, VfsError> {
        Err(VfsError::Unsupported)
    }

    async fn copy_range(&self, _: &Caller, _: Io, _: u64, _: Io, _: u64, _: u64) -> Result<u64, VfsError> {
        Err(VfsError::Unsupported)
    }

    async fn mkdir(&self, _: &Caller, parent: NodeId, name: &[u8], create: Create) -> Result<Attr, VfsError> {
        self.note(format!("mkdir {parent}/{} mode={:o}", text(name), create.mode));
        creatable(parent, name)?;
        attr_of(NodeId(6))
    }

    async fn mknod(
        &self,
        _: &Caller,
        parent: NodeId,
        name: &[u8],
        kind: NodeKind,
        rdev: u32,
        create: Create,
    ) -> Result<Attr, VfsError> {
        self.note(format!("mknod {parent}/{} {kind:?} {rdev:x} mode={:o}", text(name), create.mode));
        creatable(parent, name)?;
        attr_of(NodeId(4))
    }

    async fn symlink(&self, _: &Caller, parent: NodeId, name: &[u8], target: &[u8]) -> Result<Attr, VfsError> {
        self.note(format!("symlink {parent}/{} {}", text(name), text(target)));
        creatable(parent, name)?;
        attr_of(NodeId(3))
    }

    async fn readlink(&self, _: &Caller, node: NodeId) -> Result<Vec<u8>, VfsError> {
        if attr_of(node)?.kind == NodeKind::Symlink { Ok(b"to/f".to_vec()) } else { Err(VfsError::Invalid) }
    }

    async fn link(&self, _: &Caller, node: NodeId, parent: NodeId, name: &[u8]) -> Result<Attr, VfsError> {
        self.note(format!("link {node} {parent}/{}", text(name)));
        let attr = attr_of(node)?;
        creatable(parent, name)?;
        Ok(attr)
    }

    async fn rename(&self, _: &Caller, from: (NodeId, &[u8]), to: (NodeId, &[u8]), _: Rename) -> Result<(), VfsError> {
        self.note(format!("rename {}/{} {}/{}", from.0, text(from.1), to.0, text(to.1)));
        changeable(from.0)?;
        changeable(to.0)
    }

    async fn remove(&self, _: &Caller, parent: NodeId, name: &[u8], what: Remove) -> Result<(), VfsError> {
        self.note(format!("remove {parent}/{} {what:?}", text(name)));
        changeable(parent)?;
        match name {
            b"none" => Err(VfsError::NotFound),
            b"sub" if what == Remove::Directory => Err(VfsError::NotEmpty),
            _ => Ok(()),
        }
    }

    async fn readdir(
        &self,
        _: &Caller,
        dir: NodeId,
        cookie: u64,
        plus: bool,
        sink: &mut (dyn FnMut(DirEntry) -> bool + Send),
    ) -> Result<bool, VfsError> {
        self.note(format!("readdir {dir} after {cookie}{}", if plus { " plus" } else { "" }));
        match attr_of(dir)?.kind {
            _ if dir == LOCKED => return Err(VfsError::AccessDenied),
            NodeKind::Directory => {}
            _ => return Err(VfsError::NotDirectory),
        }
        let all: [(&[u8], u64, bool); 4] = [(b".", 1, true), (b"..", 1, true), (b"f", 2, true), (b"sub", 13, false)];
        for (number, (name, node, known)) in (1..).zip(all) {
            if number <= cookie {
                continue;
            }
            let attr = attr_of(NodeId(node))?;
            let kind = attr.kind;
            let attr = (plus && known).then_some(attr);
            if !sink(DirEntry { name: name.to_vec(), node: NodeId(node), kind, cookie: number, attr }) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn lock(&self, _: &Caller, node: NodeId, lock: &Lock, wait: Option<Duration>) -> Result<(), VfsError> {
        self.note(format!("{:?} {node} {}..{}", lock.kind, lock.range.start, lock.range.end));
        attr_of(node)?;
        let free = lock.kind == LockKind::Unlock || lock.range.end <= HELD_FROM;
        match wait {
            _ if free => Ok(()),
            Some(_) => std::future::pending().await,
            None => Err(VfsError::WouldBlock),
        }
    }

    async fn test_lock(&self, _: &Caller, node: NodeId, lock: &Lock) -> Result<Option<Lock>, VfsError> {
        attr_of(node)?;
        let owner = LockOwner { origin: Origin(1), owner: 3, pid: 77 };
        let held = Lock { owner, range: HELD_FROM..HELD_FROM + 16, kind: LockKind::Exclusive, flock: false };
        Ok((lock.range.end > HELD_FROM).then_some(held))
    }

    async fn release_locks(&self, node: NodeId, _: LockOwner) {
        self.note(format!("release {node}"));
    }

    async fn getxattr(&self, _: &Caller, _: NodeId, _: &[u8]) -> Result<Vec<u8>, VfsError> {
        Err(VfsError::Unsupported)
    }

    async fn setxattr(&self, _: &Caller, _: NodeId, _: &[u8], _: &[u8], _: SetXattr) -> Result<(), VfsError> {
        Err(VfsError::Unsupported)
    }

    async fn listxattr(&self, _: &Caller, _: NodeId) -> Result<Vec<Vec<u8>>, VfsError> {
        Err(VfsError::Unsupported)
    }

    async fn removexattr(&self, _: &Caller, _: NodeId, _: &[u8]) -> Result<(), VfsError> {
        Err(VfsError::Unsupported)
    }

    async fn statfs(&self) -> Result<StatFs, VfsError> {
        Ok(StatFs { total_bytes: 1 << 50, free_bytes: 1 << 49, nodes: 10, free_nodes: 1 << 32, file_bytes_max: 5 << 40 })
    }

    fn changes(&self, except: Option<Origin>) -> Changes {
        self.changes.listen(except)
    }
}

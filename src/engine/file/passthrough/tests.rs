//! The share against the kernel: the same random verbs by several callers on both, the same answers and the same trees.

use std::collections::BTreeMap;

use super::*;
use crate::base::seeds;
use crate::engine::file::SetTime;
use crate::engine::file::tests::{World, root, settings, user};

/// A share and a kernel directory.
struct Pair {
    world: World,
    kernel: Arc<Passthrough>,
    _directory: tempfile::TempDir,
}

/// What both must agree on: kind, mode, owner, group, and of anything but a directory links and length.
pub(crate) type Told = (NodeKind, u32, u32, u32, Option<(u32, u64)>);

fn told_of(attr: &Attr) -> Told {
    let more = (attr.kind != NodeKind::Directory).then_some((attr.nlink, attr.size_bytes));
    (attr.kind, attr.mode, attr.uid, attr.gid, more)
}

/// One verb, on paths.
#[derive(Clone, Debug)]
pub(crate) enum Verb {
    Mkdir(String, u32),
    Create(String, u32),
    Fifo(String, u32),
    Symlink(String),
    Link(String, String),
    Rename(String, String, Rename),
    Remove(String, Remove),
    Set(String, SetAttr),
    Write(String, u64, usize),
    Punch(String, u64, u64),
    Read(String),
    Readlink(String),
    Xattr(String, usize),
    Unxattr(String),
    OpenWrite(String, bool),
    Look(String),
}

async fn walk(vfs: &dyn Vfs, who: &Caller, path: &str) -> Result<Attr, VfsError> {
    let mut attr = vfs.getattr(who, vfs.root()).await?;
    for name in path.split('/').filter(|name| !name.is_empty()) {
        attr = vfs.lookup(who, attr.node, name.as_bytes()).await?;
    }
    Ok(attr)
}

async fn place<'a>(vfs: &dyn Vfs, who: &Caller, path: &'a str) -> Result<(NodeId, &'a [u8]), VfsError> {
    let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
    Ok((walk(vfs, who, dir).await?.node, name.as_bytes()))
}

/// Runs a verb. What it answers, as far as both must answer the same.
pub(crate) async fn run(vfs: &dyn Vfs, who: &Caller, verb: &Verb) -> Result<(Option<Told>, Vec<u8>), VfsError> {
    let attr = |attr: Attr| (Some(told_of(&attr)), Vec::new());
    let nothing = |()| (None, Vec::new());
    match verb {
        Verb::Mkdir(path, mode) => {
            let (dir, name) = place(vfs, who, path).await?;
            vfs.mkdir(who, dir, name, Create { mode: *mode }).await.map(attr)
        }
        Verb::Create(path, mode) => {
            let (dir, name) = place(vfs, who, path).await?;
            let how = OpenHow { write: true, create: Some(Create { mode: *mode }), exclusive: true, ..OpenHow::default() };
            let opened = vfs.open(who, Target::Child(dir, name), &how).await?;
            vfs.close(opened.handle).await?;
            Ok(attr(opened.attr))
        }
        Verb::Fifo(path, mode) => {
            let (dir, name) = place(vfs, who, path).await?;
            vfs.mknod(who, dir, name, NodeKind::Fifo, 0, Create { mode: *mode }).await.map(attr)
        }
        Verb::Symlink(path) => {
            let (dir, name) = place(vfs, who, path).await?;
            vfs.symlink(who, dir, name, b"to/where").await.map(attr)
        }
        Verb::Link(from, to) => {
            let node = walk(vfs, who, from).await?.node;
            let (dir, name) = place(vfs, who, to).await?;
            vfs.link(who, node, dir, name).await.map(attr)
        }
        Verb::Rename(from, to, how) => {
            let (from, to) = (place(vfs, who, from).await?, place(vfs, who, to).await?);
            vfs.rename(who, from, to, *how).await.map(nothing)
        }
        Verb::Remove(path, what) => {
            let (dir, name) = place(vfs, who, path).await?;
            vfs.remove(who, dir, name, *what).await.map(nothing)
        }
        Verb::Set(path, set) => {
            let found = walk(vfs, who, path).await?;
            if found.kind == NodeKind::Symlink && set.mode.is_some() {
                // Linux never asks a file system for that.
                return Err(VfsError::Unsupported);
            }
            vfs.setattr(who, found.node, None, set).await.map(attr)
        }
        Verb::Write(path, offset, len) => {
            let node = walk(vfs, who, path).await?.node;
            vfs.write(who, Io::Node(node), *offset, vec![7; *len].into()).await.map(attr)
        }
        Verb::Punch(path, offset, len) => {
            let node = walk(vfs, who, path).await?.node;
            vfs.allocate(who, Io::Node(node), *offset, *len, Allocate::Punch).await.map(nothing)
        }
        Verb::Read(path) => {
            let node = walk(vfs, who, path).await?.node;
            Ok((None, vfs.read(who, Io::Node(node), 100, 50_000).await?.concat()))
        }
        Verb::Readlink(path) => Ok((None, vfs.readlink(who, walk(vfs, who, path).await?.node).await?)),
        Verb::Xattr(path, len) => {
            let node = walk(vfs, who, path).await?.node;
            vfs.setxattr(who, node, b"user.x", &vec![1; *len], SetXattr::Any).await?;
            Ok((None, vfs.getxattr(who, node, b"user.x").await.unwrap_or_default()))
        }
        Verb::Unxattr(path) => vfs.removexattr(who, walk(vfs, who, path).await?.node, b"user.x").await.map(nothing),
        Verb::OpenWrite(path, truncate) => {
            let (dir, name) = place(vfs, who, path).await?;
            let how = OpenHow { read: true, write: true, append: true, truncate: *truncate, ..OpenHow::default() };
            let opened = vfs.open(who, Target::Child(dir, name), &how).await?;
            let written = vfs.write(who, Io::Handle(opened.handle), 0, Bytes::from_static(b"at the end")).await;
            vfs.close(opened.handle).await?;
            written.map(attr)
        }
        Verb::Look(path) => {
            let found = walk(vfs, who, path).await?;
            let access = vfs.access(who, found.node, AccessMask(7)).await?;
            Ok((Some(told_of(&found)), vec![access.0]))
        }
    }
}

pub(crate) fn any_verb(random: &mut fastrand::Rng) -> Verb {
    let mut path = || {
        let depth = random.usize(1..4);
        let names: Vec<&str> = (0..depth).map(|_| ["a", "b", "c"][random.usize(0..3)]).collect();
        names.join("/")
    };
    let (from, to) = (path(), path());
    let mode = [0o755, 0o777, 0o700, 0o644, 0o2775, 0o1777, 0o4755, 0o000, 0o070][random.usize(0..9)];
    let offset = random.u64(0..40_000);
    let set = |set: SetAttr| Verb::Set(from.clone(), set);
    match random.usize(0..26) {
        // mkdir(2) knows no set-uid; the chmod(2) that gives it on the kernel's side may cost the set-gid bit that was handed down.
        0..=2 => Verb::Mkdir(from, mode & !0o4000),
        3..=5 => Verb::Create(from, mode),
        6 => Verb::Symlink(from),
        7 => Verb::Fifo(from, mode),
        8 => Verb::Link(from, to),
        9..=11 => Verb::Rename(from, to, [Rename::Replace, Rename::NoReplace, Rename::Exchange][random.usize(0..3)]),
        12 => Verb::Remove(from, Remove::File),
        13 => Verb::Remove(from, Remove::Directory),
        14 => set(SetAttr { mode: Some(mode), ..SetAttr::default() }),
        15 => {
            let uid = [None, Some(0), Some(1001), Some(1002)][random.usize(0..4)];
            let gid = [Some(50), Some(60), Some(1001)][random.usize(0..3)];
            set(SetAttr { uid, gid, ..SetAttr::default() })
        }
        16 => set(SetAttr { size_bytes: Some(offset), ..SetAttr::default() }),
        17 => set(SetAttr { mtime: Some(SetTime::Now), atime: Some(SetTime::Now), ..SetAttr::default() }),
        18 => set(SetAttr { mtime: Some(SetTime::At(5_000_000_007)), ..SetAttr::default() }),
        19 => Verb::Write(from, offset, random.usize(1..5_000)),
        20 => Verb::Punch(from, offset, 5_000),
        21 => Verb::Read(from),
        22 => Verb::Readlink(from),
        23 => {
            if random.bool() {
                Verb::Xattr(from, random.usize(0..100))
            } else {
                Verb::Unxattr(from)
            }
        }
        24 => Verb::OpenWrite(from, random.bool()),
        _ => Verb::Look(from),
    }
}

/// All that root can see, by path: attributes, bytes or target, and the first path of the same node.
pub(crate) async fn tree(vfs: &dyn Vfs) -> BTreeMap<String, (Told, Vec<u8>, String)> {
    let who = root();
    let (mut tree, mut first, mut todo) = (BTreeMap::new(), BTreeMap::new(), vec![String::new()]);
    let mut found = BTreeMap::new();
    while let Some(path) = todo.pop() {
        let attr = walk(vfs, &who, &path).await.unwrap();
        if attr.kind == NodeKind::Directory {
            let mut cookie = 0;
            loop {
                // A few at a time, so that cookies count.
                let (mut taken, from) = (0, cookie);
                let mut sink = |entry: DirEntry| {
                    taken += 1;
                    if taken > 2 {
                        return false;
                    }
                    cookie = entry.cookie;
                    if !matches!(entry.name.as_slice(), b"." | b"..") {
                        todo.push(format!("{path}/{}", String::from_utf8(entry.name).unwrap()));
                    }
                    true
                };
                if vfs.readdir(&who, attr.node, from, true, &mut sink).await.unwrap() {
                    break;
                }
            }
        }
        found.insert(path, attr);
    }
    for (path, attr) in found {
        let bytes = match attr.kind {
            NodeKind::File => vfs.read(&who, Io::Node(attr.node), 0, u32::MAX).await.unwrap().concat(),
            NodeKind::Symlink => vfs.readlink(&who, attr.node).await.unwrap(),
            _ => Vec::new(),
        };
        let same = first.entry(attr.node).or_insert_with(|| path.clone()).clone();
        tree.insert(path, (told_of(&attr), bytes, same));
    }
    tree
}

/// Whether the kernel lets only owners link (a sysctl, not POSIX).
pub(crate) fn protects_links() -> bool {
    std::fs::read_to_string("/proc/sys/fs/protected_hardlinks").is_ok_and(|text| text.trim() != "0")
}

#[test]
fn the_share_answers_as_the_kernel_does() {
    rustix::process::umask(Mode::empty());
    let is_root = rustix::process::getuid().is_root();
    let callers = if is_root { vec![root(), user(1001, &[1001, 50]), user(1002, &[1002, 50, 60])] } else { vec![root()] };
    seeds::worlds(10, 2_000, async |seed| {
        let directory = tempfile::tempdir().unwrap();
        let pair = Pair {
            world: World::with(settings()).await,
            kernel: Passthrough::new(directory.path()).unwrap(),
            _directory: directory,
        };
        let (share, kernel): (&dyn Vfs, &dyn Vfs) = (&*pair.world.share, &*pair.kernel);
        let open = SetAttr { mode: Some(0o777), ..SetAttr::default() };
        for vfs in [share, kernel] {
            vfs.setattr(&root(), vfs.root(), None, &open).await.unwrap();
        }
        let mut random = fastrand::Rng::with_seed(seed);
        let mut differ = Vec::new();
        for step in 0..500 {
            let verb = any_verb(&mut random);
            let mut who = callers[random.usize(..callers.len())].clone();
            if matches!(verb, Verb::Link(..)) && protects_links() {
                who = root();
            }
            let (here, there) = (run(share, &who, &verb).await, run(kernel, &who, &verb).await);
            if here != there {
                differ.push(format!("step {step}: {verb:?} by {}: share {here:?}, kernel {there:?}", who.uid));
            }
            // From here on the trees are different ones.
            if here.is_ok() != there.is_ok() {
                break;
            }
        }
        assert!(differ.is_empty(), "seed {seed}: {differ:#?}");
        assert_eq!(tree(share).await, tree(kernel).await, "seed {seed}");
    });
}

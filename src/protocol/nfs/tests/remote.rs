//! A share as a client of the server sees it, behind the seam that the server serves: what is written for a share runs over NFS.
//!
//! What NFSv3 has no word for is [`VfsError::Unsupported`]. Opening is what a kernel's client does: look, ask ACCESS, cut.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use super::client::Client;
use crate::base::id::NodeId;
use crate::engine::file::changes::Hub;
use crate::engine::file::*;
use crate::protocol::nfs::v3::PROGRAM;
use crate::protocol::nfs::xdr::{Decoder, Encode};

/// The longest READ or WRITE that it sends, in bytes.
const TRANSFER_BYTES: usize = 32 << 10;

/// See the module.
pub(super) struct Remote {
    client: tokio::sync::Mutex<Client>,
    root: NodeId,
    handles: Mutex<HashMap<NodeId, Bytes>>,
    opens: Mutex<HashMap<HandleId, (NodeId, bool)>>,
    next: AtomicU64,
    changes: Hub,
}

/// The error of a status: of those that become the same status, the first. ([`canonical`] does the same to an error of a share.)
fn error_of(status: u32) -> VfsError {
    use VfsError as E;
    match status {
        1 => E::NotPermitted,
        2 => E::NotFound,
        6 => E::NoSuchAddress,
        13 => E::AccessDenied,
        17 => E::Exists,
        18 => E::CrossShare,
        20 => E::NotDirectory,
        21 => E::IsDirectory,
        22 => E::Invalid,
        27 => E::TooLarge,
        30 => E::ReadOnly,
        31 => E::TooManyLinks,
        63 => E::NameTooLong,
        66 => E::NotEmpty,
        70 => E::Stale,
        10001 => E::BadHandle,
        10002 => E::NotSync,
        10004 => E::Unsupported,
        10008 => E::NoSpace,
        status => E::Io(format!("status {status}")),
    }
}

/// An error as it is after it went over the wire.
pub(super) fn canonical(error: VfsError) -> VfsError {
    match error {
        VfsError::Io(_) => VfsError::Io("status 5".into()),
        error => error_of(crate::protocol::nfs::convert::status(&error) as u32),
    }
}

fn time(results: &mut Decoder) -> i64 {
    let (seconds, nanoseconds) = (results.u32().unwrap(), results.u32().unwrap());
    i64::from(seconds) * 1_000_000_000 + i64::from(nanoseconds)
}

fn fattr(results: &mut Decoder) -> Attr {
    let mut word = || results.u32().unwrap();
    let kind = match word() {
        1 => NodeKind::File,
        2 => NodeKind::Directory,
        3 => NodeKind::BlockDevice,
        4 => NodeKind::CharDevice,
        5 => NodeKind::Symlink,
        6 => NodeKind::Socket,
        7 => NodeKind::Fifo,
        other => panic!("ftype3 {other}"),
    };
    let (mode, nlink, uid, gid) = (word(), word(), word(), word());
    let (size_bytes, allocated_bytes) = (results.u64().unwrap(), results.u64().unwrap());
    let (major, minor) = (results.u32().unwrap(), results.u32().unwrap());
    let (_fsid, node) = (results.u64().unwrap(), NodeId(results.u64().unwrap()));
    let (atime_ns, mtime_ns, ctime_ns) = (time(results), time(results), time(results));
    let rdev = major << 8 | minor;
    Attr {
        node,
        kind,
        mode,
        nlink,
        uid,
        gid,
        rdev,
        size_bytes,
        allocated_bytes,
        atime_ns,
        mtime_ns,
        ctime_ns,
        birth_ns: 0,
        change: 0,
    }
}

fn post_attr(results: &mut Decoder) -> Option<Attr> {
    results.boolean().unwrap().then(|| fattr(results))
}

/// `wcc_data`: what is after.
fn wcc(results: &mut Decoder) -> Option<Attr> {
    if results.boolean().unwrap() {
        results.fixed(24).unwrap();
    }
    post_attr(results)
}

/// `sattr3`.
fn put_set(args: &mut Vec<u8>, set: &SetAttr) {
    for value in [set.mode, set.uid, set.gid] {
        args.boolean(value.is_some());
        value.iter().for_each(|value| Encode::u32(args, *value));
    }
    args.boolean(set.size_bytes.is_some());
    set.size_bytes.iter().for_each(|size| Encode::u64(args, *size));
    for time in [set.atime, set.mtime] {
        match time {
            None => Encode::u32(args, 0),
            Some(SetTime::Now) => Encode::u32(args, 1),
            Some(SetTime::At(ns)) => {
                Encode::u32(args, 2);
                Encode::u32(args, u32::try_from(ns / 1_000_000_000).unwrap());
                Encode::u32(args, u32::try_from(ns % 1_000_000_000).unwrap());
            }
        }
    }
}

fn mode(mode: u32) -> SetAttr {
    SetAttr { mode: Some(mode), ..SetAttr::default() }
}

impl Remote {
    /// Mounts an export.
    pub(super) async fn mount(address: SocketAddr, path: &str) -> Arc<Self> {
        let mut client = Client::connect(address).await;
        let handle = client.mount(path).await.unwrap();
        Self::with(client, Bytes::copy_from_slice(&handle.data)).await
    }

    /// Goes on with a handle that was had before.
    pub(super) async fn with(client: Client, root: Bytes) -> Arc<Self> {
        let remote = Self {
            client: tokio::sync::Mutex::new(client),
            root: NodeId(0),
            handles: Mutex::new(HashMap::from([(NodeId(0), root.clone())])),
            opens: Mutex::default(),
            next: AtomicU64::new(1),
            changes: Hub::default(),
        };
        let attr = remote.getattr(&Caller::root(Origin(0)), NodeId(0)).await.unwrap();
        remote.handles.lock().insert(attr.node, root);
        Arc::new(Self { root: attr.node, ..remote })
    }

    pub(super) fn root_handle(&self) -> Bytes {
        self.handles.lock()[&self.root].clone()
    }

    fn known(&self, node: NodeId, handle: Bytes) {
        self.handles.lock().insert(node, handle);
    }

    /// Arguments that begin with a node's handle.
    fn at(&self, node: NodeId) -> Result<Vec<u8>, VfsError> {
        let handle = self.handles.lock().get(&node).cloned().ok_or(VfsError::Stale)?;
        let mut args = Vec::new();
        args.opaque(&handle);
        Ok(args)
    }

    fn place(&self, parent: NodeId, name: &[u8]) -> Result<Vec<u8>, VfsError> {
        let mut args = self.at(parent)?;
        args.opaque(name);
        Ok(args)
    }

    /// Results of a success. One of whose failures says "come again" is asked again, as clients do.
    async fn call(&self, who: &Caller, procedure: u32, args: &[u8]) -> Result<Decoder, VfsError> {
        let mut client = self.client.lock().await;
        (client.uid, client.gid, client.groups) = (who.uid, who.gid, who.groups.to_vec());
        for _ in 0..100 {
            let answer = client.raw(PROGRAM, 3, procedure, args).await;
            assert_eq!(answer[..20], [&[0, 0, 0, 1], [0; 16].as_slice()].concat(), "procedure {procedure} was not accepted");
            let mut results = Decoder::new(Bytes::from(answer).slice(20..));
            match results.u32().unwrap() {
                0 => return Ok(results),
                10008 => tokio::time::sleep(Duration::from_millis(50)).await,
                status => return Err(error_of(status)),
            }
        }
        Err(VfsError::NoSpace)
    }

    /// What CREATE, MKDIR, SYMLINK and MKNOD answer.
    async fn make(&self, who: &Caller, procedure: u32, args: &[u8]) -> Result<Attr, VfsError> {
        let mut results = self.call(who, procedure, args).await?;
        assert!(results.boolean().unwrap(), "a handle");
        let handle = results.opaque(64).unwrap();
        let attr = post_attr(&mut results).unwrap();
        wcc(&mut results);
        assert!(results.rest().is_empty());
        self.known(attr.node, handle);
        Ok(attr)
    }

    async fn opened(&self, who: &Caller, attr: Attr, how: &OpenHow) -> Result<Opened, VfsError> {
        let attr = match attr.kind {
            NodeKind::File => attr,
            NodeKind::Directory if how.write => return Err(VfsError::IsDirectory),
            NodeKind::Directory => attr,
            NodeKind::Symlink => return Err(VfsError::Invalid),
            _ => return Err(VfsError::NoSuchAddress),
        };
        let wanted = AccessMask(if how.read { 4 } else { 0 } | if how.write { 2 } else { 0 });
        if self.access(who, attr.node, wanted).await? != wanted {
            return Err(VfsError::AccessDenied);
        }
        let cut = SetAttr { size_bytes: Some(0), ..SetAttr::default() };
        let attr = if how.truncate { self.setattr(who, attr.node, None, &cut).await? } else { attr };
        let handle = HandleId(self.next.fetch_add(1, Ordering::Relaxed));
        self.opens.lock().insert(handle, (attr.node, how.append));
        Ok(Opened { handle, attr, created: false })
    }

    fn node_of(&self, io: Io) -> Result<(NodeId, bool), VfsError> {
        match io {
            Io::Node(node) | Io::Mapped(node) => Ok((node, false)),
            Io::Handle(handle) => self.opens.lock().get(&handle).copied().ok_or(VfsError::BadHandle),
        }
    }
}

#[async_trait]
impl Vfs for Remote {
    fn root(&self) -> NodeId {
        self.root
    }

    async fn lookup(&self, who: &Caller, parent: NodeId, name: &[u8]) -> Result<Attr, VfsError> {
        let mut results = self.call(who, 3, &self.place(parent, name)?).await?;
        let handle = results.opaque(64).unwrap();
        let attr = post_attr(&mut results).unwrap();
        post_attr(&mut results);
        assert!(results.rest().is_empty());
        self.known(attr.node, handle);
        Ok(attr)
    }

    async fn getattr(&self, who: &Caller, node: NodeId) -> Result<Attr, VfsError> {
        let mut results = self.call(who, 1, &self.at(node)?).await?;
        Ok(fattr(&mut results))
    }

    async fn setattr(&self, who: &Caller, node: NodeId, _: Option<HandleId>, set: &SetAttr) -> Result<Attr, VfsError> {
        let mut args = self.at(node)?;
        put_set(&mut args, set);
        args.boolean(false);
        let mut results = self.call(who, 2, &args).await?;
        Ok(wcc(&mut results).unwrap())
    }

    async fn access(&self, who: &Caller, node: NodeId, mask: AccessMask) -> Result<AccessMask, VfsError> {
        let mut args = self.at(node)?;
        Encode::u32(&mut args, 0x3f);
        let mut results = self.call(who, 4, &args).await?;
        let is_directory = post_attr(&mut results).unwrap().kind == NodeKind::Directory;
        let bits = results.u32().unwrap();
        let execute = if is_directory { 0x02 } else { 0x20 };
        let granted =
            [(0x01, 4), (0x04, 2), (execute, 1)].iter().filter(|(bit, _)| bits & bit != 0).map(|(_, mask)| mask).sum::<u8>();
        Ok(AccessMask(granted & mask.0))
    }

    async fn open(&self, who: &Caller, target: Target<'_>, how: &OpenHow) -> Result<Opened, VfsError> {
        let (parent, name) = match target {
            Target::Node(node) => return self.opened(who, self.getattr(who, node).await?, how).await,
            Target::Child(parent, name) => (parent, name),
        };
        let Some(create) = how.create else { return self.opened(who, self.lookup(who, parent, name).await?, how).await };
        let mut args = self.place(parent, name)?;
        Encode::u32(&mut args, u32::from(how.exclusive));
        put_set(&mut args, &mode(create.mode));
        let attr = self.make(who, 8, &args).await?;
        let handle = HandleId(self.next.fetch_add(1, Ordering::Relaxed));
        self.opens.lock().insert(handle, (attr.node, how.append));
        Ok(Opened { handle, attr, created: true })
    }

    async fn close(&self, handle: HandleId) -> Result<(), VfsError> {
        self.opens.lock().remove(&handle).map(drop).ok_or(VfsError::BadHandle)
    }

    async fn read(&self, who: &Caller, io: Io, offset: u64, len_bytes: u32) -> Result<Vec<Bytes>, VfsError> {
        let (node, _) = self.node_of(io)?;
        let (mut offset, mut left, mut slices) = (offset, len_bytes as usize, Vec::new());
        loop {
            let mut args = self.at(node)?;
            Encode::u64(&mut args, offset);
            Encode::u32(&mut args, u32::try_from(left.min(TRANSFER_BYTES)).unwrap());
            let mut results = self.call(who, 6, &args).await?;
            post_attr(&mut results).unwrap();
            let (count, is_end) = (results.u32().unwrap() as usize, results.boolean().unwrap());
            let data = results.opaque(TRANSFER_BYTES).unwrap();
            assert_eq!(data.len(), count);
            assert!(results.rest().is_empty());
            (offset, left) = (offset + count as u64, left - count);
            slices.push(data);
            if is_end || left == 0 {
                return Ok(slices);
            }
            assert!(count > 0, "a READ of nothing that is not the end");
        }
    }

    async fn write(&self, who: &Caller, io: Io, offset: u64, data: Bytes) -> Result<Attr, VfsError> {
        let (node, is_append) = self.node_of(io)?;
        let mut offset = if is_append { self.getattr(who, node).await?.size_bytes } else { offset };
        let mut last = None;
        for part in data.chunks(TRANSFER_BYTES) {
            let mut args = self.at(node)?;
            Encode::u64(&mut args, offset);
            Encode::u32(&mut args, u32::try_from(part.len()).unwrap());
            Encode::u32(&mut args, 0);
            args.opaque(part);
            let mut results = self.call(who, 7, &args).await?;
            last = wcc(&mut results);
            assert_eq!(results.u32().unwrap() as usize, part.len());
            offset += part.len() as u64;
        }
        match last {
            Some(attr) => Ok(attr),
            None => self.getattr(who, node).await,
        }
    }

    async fn commit(&self, who: &Caller, node: NodeId) -> Result<(), VfsError> {
        let mut args = self.at(node)?;
        Encode::u64(&mut args, 0);
        Encode::u32(&mut args, 0);
        self.call(who, 21, &args).await.map(drop)
    }

    async fn sync(&self) -> Result<(), VfsError> {
        Ok(())
    }

    fn write_verifier(&self) -> u64 {
        0
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

    async fn mkdir(&self, who: &Caller, parent: NodeId, name: &[u8], create: Create) -> Result<Attr, VfsError> {
        let mut args = self.place(parent, name)?;
        put_set(&mut args, &mode(create.mode));
        self.make(who, 9, &args).await
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
        let mut args = self.place(parent, name)?;
        let kind = crate::protocol::nfs::convert::file_type(kind) as u32;
        Encode::u32(&mut args, kind);
        put_set(&mut args, &mode(create.mode));
        if matches!(kind, 3 | 4) {
            Encode::u32(&mut args, rdev >> 8);
            Encode::u32(&mut args, rdev & 0xff);
        }
        self.make(who, 11, &args).await
    }

    async fn symlink(&self, who: &Caller, parent: NodeId, name: &[u8], target: &[u8]) -> Result<Attr, VfsError> {
        let mut args = self.place(parent, name)?;
        put_set(&mut args, &SetAttr::default());
        args.opaque(target);
        self.make(who, 10, &args).await
    }

    async fn readlink(&self, who: &Caller, node: NodeId) -> Result<Vec<u8>, VfsError> {
        let mut results = self.call(who, 5, &self.at(node)?).await?;
        post_attr(&mut results);
        Ok(results.opaque(4096).unwrap().to_vec())
    }

    async fn link(&self, who: &Caller, node: NodeId, parent: NodeId, name: &[u8]) -> Result<Attr, VfsError> {
        let mut args = self.at(node)?;
        args.extend(self.place(parent, name)?);
        let mut results = self.call(who, 15, &args).await?;
        Ok(post_attr(&mut results).unwrap())
    }

    async fn rename(&self, who: &Caller, from: (NodeId, &[u8]), to: (NodeId, &[u8]), how: Rename) -> Result<(), VfsError> {
        if how != Rename::Replace {
            return Err(VfsError::Unsupported);
        }
        let mut args = self.place(from.0, from.1)?;
        args.extend(self.place(to.0, to.1)?);
        self.call(who, 14, &args).await.map(drop)
    }

    async fn remove(&self, who: &Caller, parent: NodeId, name: &[u8], what: Remove) -> Result<(), VfsError> {
        let procedure = if what == Remove::File { 12 } else { 13 };
        self.call(who, procedure, &self.place(parent, name)?).await.map(drop)
    }

    async fn readdir(
        &self,
        who: &Caller,
        dir: NodeId,
        cookie: u64,
        plus: bool,
        sink: &mut (dyn FnMut(DirEntry) -> bool + Send),
    ) -> Result<bool, VfsError> {
        let mut cookie = cookie;
        loop {
            let mut args = self.at(dir)?;
            Encode::u64(&mut args, cookie);
            Encode::u64(&mut args, 0);
            // So small that a few entries are several pages.
            if plus {
                Encode::u32(&mut args, 512);
            }
            Encode::u32(&mut args, 1024);
            let mut results = self.call(who, if plus { 17 } else { 16 }, &args).await?;
            post_attr(&mut results);
            assert_eq!(results.u64(), Ok(0));
            while results.boolean().unwrap() {
                let node = NodeId(results.u64().unwrap());
                let name = results.opaque(255).unwrap().to_vec();
                cookie = results.u64().unwrap();
                let mut attr = None;
                if plus {
                    attr = post_attr(&mut results);
                    let handle = results.option(|results| results.opaque(64)).unwrap();
                    handle.into_iter().for_each(|handle| self.known(node, handle));
                }
                let kind = attr.as_ref().map_or(NodeKind::File, |attr| attr.kind);
                if !sink(DirEntry { name, node, kind, cookie, attr }) {
                    return Ok(false);
                }
            }
            if results.boolean().unwrap() {
                return Ok(true);
            }
        }
    }

    async fn lock(&self, _: &Caller, _: NodeId, _: &Lock, _: Option<Duration>) -> Result<(), VfsError> {
        Err(VfsError::Unsupported)
    }

    async fn test_lock(&self, _: &Caller, _: NodeId, _: &Lock) -> Result<Option<Lock>, VfsError> {
        Err(VfsError::Unsupported)
    }

    async fn release_locks(&self, _: NodeId, _: LockOwner) {}

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
        let mut results = self.call(&Caller::root(Origin(0)), 18, &self.at(self.root)?).await?;
        post_attr(&mut results);
        let mut number = || results.u64().unwrap();
        let (total_bytes, free_bytes, _) = (number(), number(), number());
        let (all, free_nodes) = (number(), number());
        Ok(StatFs { total_bytes, free_bytes, nodes: all - free_nodes, free_nodes, file_bytes_max: 0 })
    }

    fn changes(&self, except: Option<Origin>) -> Changes {
        self.changes.listen(except)
    }
}

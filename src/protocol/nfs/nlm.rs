//! The network lock manager, version 4 (RFC 1813 Appendix II; X/Open XNFS, chapter 10), over the share's locks: those of FUSE and SMB.
//!
//! What lives here: the calls; `nlm/table.rs` knows whose number is whose and who holds something; `nlm/blocked.rs` waits for a lock on a
//! client's behalf and calls it back; `nlm/message.rs` are the calls whose answer is a call.
//!
//! ```text
//!  LOCK ─► free? ─ yes ─► GRANTED                        ┌─ CANCEL, UNLOCK, client restarted ─► given up
//!            └─ no ─► block? ─ no ─► DENIED              │
//!                       └─ yes ─► BLOCKED ─► waits ──────┴─ has it ─► GRANTED call ─► accepted, or given back
//! ```
//!
//! Invariants: a client is remembered on disk before its first lock is granted, and for [`GRACE`] after a restart only reclaims are granted
//! where anybody had a lock; locks of a client go when it says that it restarted (see `nsm.rs`) or frees them all.

mod blocked;
mod message;
mod table;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::base::id::NodeId;
use crate::engine::file::{AccessMask, Caller, HandleId, Lock, LockKind, LockOwner, OpenHow, Target, Vfs, VfsError};

use super::convert::HANDLE_BYTES_MAX;
use super::rpc::{Refusal, Reply, Request};
use super::v3::Outcome;
use super::xdr::{Decoder, Encode};
use super::{Nfs, ORIGIN};
pub(super) use message::Messages;
pub(super) use table::Table;
use table::{Held, Owner};

pub(super) const PROGRAM: u32 = 100_021;
const VERSION: u32 = 4;
/// How long after a restart only locks that were held before are granted.
pub(super) const GRACE: Duration = Duration::from_secs(45);
/// `LM_MAXSTRLEN`, `MAXNETOBJ_SZ`.
const OBJECT_BYTES_MAX: usize = 1024;

/// `nlm4_stats` (Appendix II §5.1.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Granted = 0,
    Denied = 1,
    NoLocks = 2,
    Blocked = 3,
    Grace = 4,
    Deadlock = 5,
    ReadOnly = 6,
    StaleHandle = 7,
    TooLarge = 8,
    Failed = 9,
}

/// The one map of errors to `nlm4_stats`.
fn status(error: &VfsError) -> Status {
    match error {
        VfsError::WouldBlock | VfsError::ShareViolation => Status::Denied,
        VfsError::NoSpace => Status::NoLocks,
        VfsError::Deadlock => Status::Deadlock,
        VfsError::ReadOnly => Status::ReadOnly,
        VfsError::Stale | VfsError::NotFound | VfsError::BadHandle => Status::StaleHandle,
        VfsError::TooLarge => Status::TooLarge,
        _ => Status::Failed,
    }
}

/// `nlm4_lock`.
struct Wanted {
    client: String,
    handle: Bytes,
    owner: Owner,
    range: Range<u64>,
}

impl Wanted {
    fn read(args: &mut Decoder) -> Result<Self, Refusal> {
        let client = args.opaque(OBJECT_BYTES_MAX)?;
        let handle = args.opaque(OBJECT_BYTES_MAX)?;
        let client = String::from_utf8_lossy(&client).into_owned();
        let oh = args.opaque(OBJECT_BYTES_MAX)?;
        let owner = Owner { client: client.clone(), oh: oh.to_vec(), svid: args.u32()? };
        let (offset, len) = (args.u64()?, args.u64()?);
        // 0 is "to the end", and so is what would go beyond it.
        let end = if len == 0 { u64::MAX } else { offset.saturating_add(len) };
        Ok(Self { client, handle, owner, range: offset..end })
    }
}

/// A file that is locked.
struct File {
    export: u64,
    node: NodeId,
    vfs: Arc<dyn Vfs>,
    who: Caller,
}

impl Nfs {
    /// The file of a lock, if the client may have it and its caller may read or write it.
    async fn lockable(&self, request: &Request, handle: &[u8]) -> Result<File, Status> {
        if handle.len() > HANDLE_BYTES_MAX {
            return Err(Status::StaleHandle);
        }
        let at = self.at(request, handle).map_err(|_| Status::StaleHandle)?;
        let granted = at.vfs.access(&at.who, at.node, AccessMask(6)).await.map_err(|error| status(&error))?;
        let owns = at.vfs.getattr(&at.who, at.node).await.is_ok_and(|attr| attr.uid == at.who.uid);
        if granted.0 == 0 && !owns {
            return Err(Status::Failed);
        }
        Ok(File { export: at.export.id, node: at.node, vfs: at.vfs, who: at.who })
    }
}

/// Carries out a call.
pub(super) async fn call(server: &Arc<Nfs>, request: &Request) -> Outcome {
    if request.version != VERSION {
        return Err(Refusal::Version(VERSION, VERSION));
    }
    match request.procedure {
        // Of messages nothing is answered here; results of calls that we made as messages (we make none) are for nobody.
        6..=9 => message::take(server, request),
        0 | 10..=15 => {}
        _ => return ask(server, request).await,
    }
    Ok(request.reply())
}

/// Carries out a call that is answered with its result.
async fn ask(server: &Arc<Nfs>, request: &Request) -> Outcome {
    let mut args = request.args.clone();
    match request.procedure {
        1 => test(server, request, args).await,
        2 | 22 => {
            let cookie = args.opaque(OBJECT_BYTES_MAX)?;
            let (block, exclusive) = (args.boolean()?, args.boolean()?);
            let wanted = Wanted::read(&mut args)?;
            let (reclaim, _state) = (args.boolean()?, args.u32()?);
            let status = lock(server, request, &cookie, wanted, exclusive, block, reclaim).await;
            Ok(answer(request, &cookie, status))
        }
        3 => {
            let cookie = args.opaque(OBJECT_BYTES_MAX)?;
            let (_block, exclusive) = (args.boolean()?, args.boolean()?);
            let wanted = Wanted::read(&mut args)?;
            let status = cancel(server, request, &wanted, exclusive).await;
            Ok(answer(request, &cookie, status))
        }
        4 => {
            let cookie = args.opaque(OBJECT_BYTES_MAX)?;
            let wanted = Wanted::read(&mut args)?;
            let status = unlock(server, request, &wanted).await;
            Ok(answer(request, &cookie, status))
        }
        20 | 21 => share(server, request, args).await,
        23 => {
            let name = args.opaque(OBJECT_BYTES_MAX)?;
            let name = String::from_utf8_lossy(&name).into_owned();
            if server.monitor.address_of(&name) == Some(request.peer.ip().to_canonical()) {
                release_client(server, &name).await;
            }
            Ok(request.reply())
        }
        _ => Err(Refusal::Procedure),
    }
}

/// `nlm4_res`.
fn answer(request: &Request, cookie: &[u8], status: Status) -> Reply {
    let mut reply = request.reply();
    reply.opaque(cookie);
    reply.u32(status as u32);
    // Waiting and being refused are what locks are for.
    let is_error = !matches!(status, Status::Granted | Status::Denied | Status::Blocked | Status::Grace);
    reply.status = if is_error { status as u32 } else { 0 };
    reply
}

fn lock_of(owner: LockOwner, range: &Range<u64>, kind: LockKind) -> Lock {
    Lock { owner, range: range.clone(), kind, flock: false }
}

fn kind(exclusive: bool) -> LockKind {
    if exclusive { LockKind::Exclusive } else { LockKind::Shared }
}

async fn test(server: &Nfs, request: &Request, mut args: Decoder) -> Outcome {
    let cookie = args.opaque(OBJECT_BYTES_MAX)?;
    let exclusive = args.boolean()?;
    let wanted = Wanted::read(&mut args)?;
    if server.in_grace() {
        return Ok(answer(request, &cookie, Status::Grace));
    }
    let file = match server.lockable(request, &wanted.handle).await {
        Ok(file) => file,
        Err(status) => return Ok(answer(request, &cookie, status)),
    };
    let owner = server.locks.number(&wanted.owner).unwrap_or(LockOwner { origin: ORIGIN, owner: 0, pid: 0 });
    let found = file.vfs.test_lock(&file.who, file.node, &lock_of(owner, &wanted.range, kind(exclusive))).await;
    let holder = match found {
        Ok(None) => return Ok(answer(request, &cookie, Status::Granted)),
        Ok(Some(holder)) => holder,
        Err(error) => return Ok(answer(request, &cookie, status(&error))),
    };
    let mut reply = answer(request, &cookie, Status::Denied);
    let (oh, svid) = server.locks.owner(&holder.owner).map_or((Vec::new(), holder.owner.pid), |owner| (owner.oh, owner.svid));
    reply.boolean(holder.kind == LockKind::Exclusive);
    reply.u32(svid);
    reply.opaque(&oh);
    reply.u64(holder.range.start);
    reply.u64(if holder.range.end == u64::MAX { 0 } else { holder.range.end - holder.range.start });
    Ok(reply)
}

async fn lock(
    server: &Arc<Nfs>,
    request: &Request,
    cookie: &[u8],
    wanted: Wanted,
    exclusive: bool,
    block: bool,
    reclaim: bool,
) -> Status {
    if server.in_grace() != reclaim {
        return Status::Grace;
    }
    let file = match server.lockable(request, &wanted.handle).await {
        Ok(file) => file,
        Err(status) => return status,
    };
    let address = request.peer.ip().to_canonical();
    if !server.monitor.remember(&wanted.client, address).await {
        return Status::NoLocks;
    }
    let held = Held { export: file.export, node: file.node, vfs: file.vfs.clone() };
    let Some(owner) = server.locks.hold(&wanted.owner, held) else { return Status::NoLocks };
    let lock = lock_of(owner, &wanted.range, kind(exclusive));
    match file.vfs.lock(&file.who, file.node, &lock, None).await {
        Ok(()) => {
            server.locks.stop_waiting(&blocked::Key::of(file.export, file.node, &lock));
            Status::Granted
        }
        Err(VfsError::WouldBlock) if block => blocked::wait(server, &file, &wanted, cookie, lock, address).await,
        Err(error) => status(&error),
    }
}

async fn cancel(server: &Arc<Nfs>, request: &Request, wanted: &Wanted, exclusive: bool) -> Status {
    let file = match server.lockable(request, &wanted.handle).await {
        Ok(file) => file,
        Err(status) => return status,
    };
    let Some(owner) = server.locks.number(&wanted.owner) else { return Status::Granted };
    let lock = lock_of(owner, &wanted.range, kind(exclusive));
    let is_given_up = server.locks.cancel(&blocked::Key::of(file.export, file.node, &lock));
    if is_given_up { Status::Granted } else { Status::Denied }
}

async fn unlock(server: &Arc<Nfs>, request: &Request, wanted: &Wanted) -> Status {
    let file = match server.lockable(request, &wanted.handle).await {
        Ok(file) => file,
        // What is gone is not locked.
        Err(Status::StaleHandle) => return Status::Granted,
        Err(status) => return status,
    };
    let Some(owner) = server.locks.number(&wanted.owner) else { return Status::Granted };
    server.locks.stop_waiting_within(file.export, file.node, owner, &wanted.range);
    let lock = lock_of(owner, &wanted.range, LockKind::Unlock);
    if let Err(error) = file.vfs.lock(&file.who, file.node, &lock, None).await {
        return status(&error);
    }
    if wanted.range == (0..u64::MAX) && server.locks.let_go(owner, file.export, file.node) {
        server.monitor.forget(&wanted.client);
    }
    Status::Granted
}

/// Releases everything of a client.
pub(super) async fn release_client(server: &Nfs, client: &str) {
    let gone = server.locks.forget_client(client);
    for (owner, held) in gone.locks {
        held.vfs.release_locks(held.node, owner).await;
    }
    for (vfs, handle) in gone.shares {
        let _ = vfs.close(handle).await;
    }
    server.monitor.forget(client);
}

/// SHARE and UNSHARE: share modes are opens of the share, held until they are given back.
async fn share(server: &Arc<Nfs>, request: &Request, mut args: Decoder) -> Outcome {
    let cookie = args.opaque(OBJECT_BYTES_MAX)?;
    let client = args.opaque(OBJECT_BYTES_MAX)?;
    let (handle, oh) = (args.opaque(OBJECT_BYTES_MAX)?, args.opaque(OBJECT_BYTES_MAX)?);
    let (mode, access, reclaim) = (args.u32()?, args.u32()?, args.boolean()?);
    if mode > 3 || access > 3 {
        return Err(Refusal::Arguments);
    }
    let client = String::from_utf8_lossy(&client).into_owned();
    let done = async {
        let file = server.lockable(request, &handle).await?;
        let key = (client.clone(), oh.to_vec(), file.export, file.node);
        if request.procedure == 21 {
            if let Some((vfs, handle)) = server.locks.take_share(&key) {
                vfs.close(handle).await.map_err(|error| status(&error))?;
            }
            return Ok(());
        }
        if server.in_grace() != reclaim {
            return Err(Status::Grace);
        }
        if !server.monitor.remember(&client, request.peer.ip().to_canonical()).await {
            return Err(Status::NoLocks);
        }
        let opened = open_share(&file, mode, access).await.map_err(|error| status(&error))?;
        match server.locks.put_share(key, (file.vfs.clone(), opened)) {
            Ok(None) => Ok(()),
            // The one before, or this one where there are too many.
            Ok(Some((vfs, handle))) => vfs.close(handle).await.map_err(|error| status(&error)),
            Err((vfs, handle)) => vfs.close(handle).await.map_or(Err(Status::NoLocks), |()| Err(Status::NoLocks)),
        }
    };
    let result = done.await.err().unwrap_or(Status::Granted);
    let mut reply = answer(request, &cookie, result);
    reply.u32(0);
    Ok(reply)
}

async fn open_share(file: &File, mode: u32, access: u32) -> Result<HandleId, VfsError> {
    let how = OpenHow {
        read: access & 1 != 0,
        write: access & 2 != 0,
        deny_read: mode & 1 != 0,
        deny_write: mode & 2 != 0,
        ..OpenHow::default()
    };
    Ok(file.vfs.open(&file.who, Target::Node(file.node), &how).await?.handle)
}

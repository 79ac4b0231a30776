//! NFS version 3 (RFC 1813): the 22 procedures, over the [`Vfs`].
//!
//! What lives here: the table of the procedures, and [`At`], a node that a handle names with the caller that its export makes of the
//! credential. The procedures are in `v3/`, one file per family.
//!
//! How a procedure works: read all arguments; resolve the handle; attributes before; the share's verb; attributes after; answer. Its answer
//! is sent when what RFC 1813 §1.1.2 wants durable is durable: names and attributes by [`At::settled`], data by COMMIT and `stable_how`.
//!
//! `wcc_data` is the call's own doing or nothing: what the share tells of the state right before its change, and only where nobody else changed
//! the node since.
//!
//! Invariants: permissions are the share's to check, for the caller of each call; the export's `read_only` is checked here. A call that waits
//! for room in the cache is answered JUKEBOX after [`ROOM_WAIT_MAX`]; its future is dropped, which by the seam's promise leaves nothing half done.

mod attr;
mod create;
mod fs;
mod io;
mod names;
mod readdir;

use std::future::Future;
use std::sync::Arc;

use nfs3_types::nfs3::nfsstat3;
use parking_lot::Mutex;

use crate::base::id::NodeId;
use crate::engine::file::witness::{Step, witnessed};
use crate::engine::file::{Attr, Caller, NodeKind, Vfs, VfsError};

use super::export::{DURABLE_WAIT_MAX, Export, Namespace, ROOM_WAIT_MAX};
use super::rpc::{Refusal, Reply, Request};
use super::xdr::{Decoder, Encode};
use super::{Nfs, ORIGIN, convert};

pub(super) const PROGRAM: u32 = nfs3_types::nfs3::PROGRAM;
const VERSION: u32 = nfs3_types::nfs3::VERSION;

/// Numbers of the procedures that others here need to know.
pub(super) const READ: u32 = 6;
pub(super) const WRITE: u32 = 7;

pub(super) type Outcome = Result<Reply, Refusal>;

/// Carries out a call.
pub(super) async fn call(server: &Nfs, request: &Request) -> Outcome {
    if request.version != VERSION {
        return Err(Refusal::Version(VERSION, VERSION));
    }
    let args = request.args.clone();
    match request.procedure {
        0 => Ok(request.reply()),
        1 => attr::getattr(server, request, args).await,
        2 => attr::setattr(server, request, args).await,
        3 => names::lookup(server, request, args).await,
        4 => attr::access(server, request, args).await,
        5 => names::readlink(server, request, args).await,
        READ => io::read(server, request, args).await,
        WRITE => io::write(server, request, args).await,
        8 => create::create(server, request, args).await,
        9 => create::mkdir(server, request, args).await,
        10 => create::symlink(server, request, args).await,
        11 => create::mknod(server, request, args).await,
        12 => names::remove(server, request, args, crate::engine::file::Remove::File).await,
        13 => names::remove(server, request, args, crate::engine::file::Remove::Directory).await,
        14 => names::rename(server, request, args).await,
        15 => names::link(server, request, args).await,
        16 => readdir::readdir(server, request, args).await,
        17 => readdir::readdirplus(server, request, args).await,
        18 => fs::fsstat(server, request, args).await,
        19 => fs::fsinfo(server, request, args).await,
        20 => fs::pathconf(server, request, args).await,
        21 => io::commit(server, request, args).await,
        _ => Err(Refusal::Procedure),
    }
}

/// Whether doing it twice is not the same as doing it once: its answers are kept.
pub(super) fn changes_something(procedure: u32) -> bool {
    matches!(procedure, 2 | 7..=15)
}

/// Whether it moves so much that it is better done beside the other calls of its connection.
pub(super) fn is_heavy(request: &Request) -> bool {
    const HEAVY_BYTES: usize = 64 << 10;
    match request.procedure {
        READ => reads_bytes(request) > HEAVY_BYTES,
        WRITE => request.args.rest().len() > HEAVY_BYTES,
        16 | 17 => true,
        _ => false,
    }
}

/// What a READ asks for, in bytes; 0 for everything else.
pub(super) fn reads_bytes(request: &Request) -> usize {
    if request.procedure != READ {
        return 0;
    }
    let mut args = request.args.clone();
    let asked = args.opaque(convert::HANDLE_BYTES_MAX).and_then(|_| args.u64()).and_then(|_| args.u32());
    asked.map_or(0, |count| count.min(super::record::PAYLOAD_BYTES_MAX) as usize)
}

/// A node that a handle names, and who asks for it.
pub(super) struct At<'a> {
    server: &'a Nfs,
    pub(super) export: Arc<Export>,
    pub(super) vfs: Arc<dyn Vfs>,
    pub(super) node: NodeId,
    pub(super) who: Caller,
    /// What the call changed, with the times before.
    changed: Mutex<Vec<Step>>,
}

impl Nfs {
    /// What a handle names, if the client may have it.
    pub(super) fn at(&self, request: &Request, handle: &[u8]) -> Result<At<'_>, nfsstat3> {
        let (export, node) = self.sealer.open(handle).ok_or(nfsstat3::NFS3ERR_BADHANDLE)?;
        let export = self.exports.get(export).ok_or(nfsstat3::NFS3ERR_STALE)?;
        if !export.rules.admits(request.peer) {
            self.denied(request.peer, &export.name);
            return Err(nfsstat3::NFS3ERR_ACCES);
        }
        let vfs = export.vfs.clone().ok_or(nfsstat3::NFS3ERR_JUKEBOX)?;
        let who = export.rules.caller(&request.credential, ORIGIN);
        Ok(At { server: self, export, vfs, node, who, changed: Mutex::default() })
    }
}

impl At<'_> {
    /// The attributes of a node of the same export.
    async fn attr_of(&self, node: NodeId) -> Result<Attr, VfsError> {
        match self.vfs.try_getattr(&self.who, node) {
            Some(known) => known,
            None => self.vfs.getattr(&self.who, node).await,
        }
    }

    /// Its attributes, for `pre_op_attr` and `post_op_attr`, which may be missing.
    async fn attr(&self) -> Option<Attr> {
        self.attr_of(self.node).await.ok()
    }

    /// Whether the export lets anything be changed.
    fn writable(&self) -> Result<(), VfsError> {
        if self.export.rules.read_only { Err(VfsError::ReadOnly) } else { Ok(()) }
    }

    /// Carries out what changes something: on an export that allows it, and for no longer than a client should wait.
    async fn change<T>(&self, work: impl Future<Output = Result<T, VfsError>>) -> Result<T, VfsError> {
        self.writable()?;
        let (done, steps) = witnessed(tokio::time::timeout(ROOM_WAIT_MAX, work)).await;
        let mut changed = self.changed.lock();
        changed.retain(|other| steps.iter().all(|step| step.node != other.node));
        changed.extend(steps);
        done.unwrap_or(Err(VfsError::NoSpace))
    }

    /// What was changed through `other` counts here too.
    fn also_changed(&self, other: &Self) {
        let steps = other.changed.lock().clone();
        *self.changed.lock() = steps;
    }

    /// What the node was right before the call changed it, where nothing but the call changed it until `after`; `before` is what it was some
    /// time before. Nothing, where that is not known: the client then takes what it knew for old (RFC 1813 §2.6).
    fn right_before(&self, before: Option<&Attr>, after: Option<&Attr>) -> Option<Attr> {
        let (before, after) = (before?, after?);
        let step = self.changed.lock().iter().find(|step| step.node == self.node).copied();
        match step {
            Some(step) if step.after_ctime_ns != after.ctime_ns => None,
            // The size of a directory does not change with its entries.
            Some(step) if before.kind == NodeKind::Directory || step.before_ctime_ns == before.ctime_ns => {
                Some(Attr { mtime_ns: step.before_mtime_ns, ctime_ns: step.before_ctime_ns, ..before.clone() })
            }
            Some(_) => None,
            None => (before.ctime_ns == after.ctime_ns).then(|| before.clone()),
        }
    }

    /// Returns when names and attributes that were changed are durable, where the export promises it, and other front ends know of them.
    async fn settled(&self) -> Result<(), VfsError> {
        let durable = async {
            match self.export.rules.namespace {
                Namespace::Sync => self.vfs.sync().await,
                Namespace::Async => Ok(()),
            }
        };
        tokio::join!(durable, self.told()).0
    }

    /// Returns when the bytes of the file are durable, as far as the share promises it, and other front ends know of them.
    async fn committed(&self) -> Result<(), VfsError> {
        let commit = tokio::time::timeout(DURABLE_WAIT_MAX, self.vfs.commit(&self.who, self.node));
        tokio::join!(commit, self.told()).0.unwrap_or(Err(VfsError::WouldBlock))
    }

    /// Returns when other front ends know of what was changed.
    async fn told(&self) {
        self.vfs.told(ORIGIN).await;
    }

    fn handle_of(&self, node: NodeId) -> super::handle::Handle {
        self.server.sealer.seal(self.export.id, node)
    }

    /// `post_op_attr`.
    fn put_after(&self, reply: &mut Reply, after: Option<&Attr>) {
        reply.boolean(after.is_some());
        if let Some(attr) = after {
            convert::put_attr(reply, attr, self.export.id);
        }
    }

    /// `wcc_data`.
    fn put_wcc(&self, reply: &mut Reply, before: Option<&Attr>, after: Option<&Attr>) {
        reply.boolean(before.is_some());
        if let Some(attr) = before {
            convert::put_before(reply, attr);
        }
        self.put_after(reply, after);
    }

    /// `wcc_data` with the attributes as they are now, and those of before where they are certain.
    async fn put_wcc_now(&self, reply: &mut Reply, before: Option<&Attr>) {
        let after = self.attr().await;
        self.put_wcc(reply, self.right_before(before, after.as_ref()).as_ref(), after.as_ref());
    }
}

/// The beginning of an answer with its status.
fn answer(request: &Request, status: nfsstat3) -> Reply {
    let mut reply = request.reply();
    reply.u32(status as u32);
    reply.status = status as u32;
    reply
}

/// An answer of a status and so many absent values: nothing is known of the objects.
fn failed(request: &Request, status: nfsstat3, absent: usize) -> Reply {
    let mut reply = answer(request, status);
    reply.absent(absent);
    reply
}

/// The answer of a result: OK, or the error's status.
fn status_of<T>(result: &Result<T, VfsError>) -> nfsstat3 {
    result.as_ref().map_or_else(convert::status, |_| nfsstat3::NFS3_OK)
}

/// `diropargs3`: a directory's handle and a name.
fn place(args: &mut Decoder) -> Result<(bytes::Bytes, bytes::Bytes), Refusal> {
    Ok((args.opaque(convert::HANDLE_BYTES_MAX)?, args.opaque(convert::NAME_BYTES_MAX)?))
}

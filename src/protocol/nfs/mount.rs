//! MOUNT version 3 (RFC 1813 Appendix I), on the port of NFS: exports are named `/<share>`, and a directory below one can be mounted too.
//!
//! The list of mounts (DUMP) is what clients said and no more: it grants nothing, is bounded, and is empty after a start.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use parking_lot::Mutex;

use crate::base::id::NodeId;
use crate::engine::file::{Caller, NodeKind, Vfs, VfsError};

use super::rpc::{AUTH_SYS, Refusal, Reply, Request};
use super::v3::Outcome;
use super::xdr::Encode;
use super::{Nfs, ORIGIN};

pub(super) const PROGRAM: u32 = 100_005;
const VERSION: u32 = 3;
/// `MNTPATHLEN` (Appendix I §5.1).
const PATH_BYTES_MAX: usize = 1024;
/// Mounts that are remembered.
const MOUNTS_MAX: usize = 4096;

/// `mountstat3` (Appendix I §5.1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    Ok = 0,
    NoEntry = 2,
    Io = 5,
    Access = 13,
    NotDirectory = 20,
    NameTooLong = 63,
    ServerFault = 10006,
}

/// Who said that they mounted what.
#[derive(Default)]
pub(super) struct Mounts(Mutex<BTreeSet<(IpAddr, String)>>);

impl Mounts {
    /// Client and path of each, in order.
    pub(super) fn list(&self) -> Vec<(IpAddr, String)> {
        self.0.lock().iter().cloned().collect()
    }

    fn add(&self, client: IpAddr, path: String) {
        let mut mounts = self.0.lock();
        if mounts.len() < MOUNTS_MAX {
            mounts.insert((client, path));
        }
    }
}

/// Carries out a call.
pub(super) async fn call(server: &Nfs, request: &Request) -> Outcome {
    if request.version != VERSION {
        return Err(Refusal::Version(VERSION, VERSION));
    }
    let client = request.peer.ip().to_canonical();
    let mut reply = request.reply();
    match request.procedure {
        0 => {}
        1 => mount(server, request, &mut reply).await?,
        2 => dump(server, &mut reply),
        3 => {
            let path = path(request)?;
            server.mounts.0.lock().remove(&(client, path));
        }
        4 => server.mounts.0.lock().retain(|(other, _)| *other != client),
        5 => exports(server, &mut reply),
        _ => return Err(Refusal::Procedure),
    }
    Ok(reply)
}

fn path(request: &Request) -> Result<String, Refusal> {
    let path = request.args.clone().opaque(PATH_BYTES_MAX)?;
    Ok(String::from_utf8_lossy(&path).into_owned())
}

/// MNT: a handle, and the flavors of credentials that the export takes.
async fn mount(server: &Nfs, request: &Request, reply: &mut Reply) -> Result<(), Refusal> {
    let path = path(request)?;
    let found = find(server, request.peer, &path).await;
    let client = request.peer.ip().to_canonical();
    match found {
        Ok((export, node)) => {
            reply.u32(Status::Ok as u32);
            reply.opaque(&server.sealer.seal(export, node));
            reply.u32(1);
            reply.u32(AUTH_SYS);
            tracing::info!(%client, export = path, "mounted");
            server.mounts.add(client, path);
        }
        Err(status) => {
            tracing::warn!(%client, export = path, ?status, "a mount was refused");
            reply.u32(status as u32);
            reply.status = status as u32;
        }
    }
    Ok(())
}

/// The directory that a path names: the export's root, or one below it.
async fn find(server: &Nfs, peer: SocketAddr, path: &str) -> Result<(u64, NodeId), Status> {
    let mut names = path.split('/').filter(|name| !name.is_empty());
    let export = names.next().and_then(|name| server.exports.named(name)).ok_or(Status::NoEntry)?;
    if !export.rules.admits(peer) {
        return Err(Status::Access);
    }
    let vfs = export.vfs.as_ref().ok_or(Status::ServerFault)?;
    let node = walk(&**vfs, names).await.map_err(|error| match error {
        VfsError::NotFound | VfsError::Stale => Status::NoEntry,
        VfsError::NotDirectory => Status::NotDirectory,
        VfsError::NameTooLong => Status::NameTooLong,
        VfsError::AccessDenied => Status::Access,
        _ => Status::Io,
    })?;
    Ok((export.id, node))
}

/// Which directories there are is not secret to those who may mount: the way down is looked up as root; what is in them is checked later.
async fn walk(vfs: &dyn Vfs, names: impl Iterator<Item = &str>) -> Result<NodeId, VfsError> {
    let who = Caller::root(ORIGIN);
    let mut node = vfs.root();
    for name in names {
        if name == "." || name == ".." {
            return Err(VfsError::NotFound);
        }
        let attr = vfs.lookup(&who, node, name.as_bytes()).await?;
        if attr.kind != NodeKind::Directory {
            return Err(VfsError::NotDirectory);
        }
        node = attr.node;
    }
    Ok(node)
}

/// DUMP: a list of host and directory.
fn dump(server: &Nfs, reply: &mut Reply) {
    for (client, path) in server.mounts.list() {
        reply.boolean(true);
        reply.opaque(client.to_string().as_bytes());
        reply.opaque(path.as_bytes());
    }
    reply.boolean(false);
}

/// EXPORT: a list of directory and who may mount it.
fn exports(server: &Nfs, reply: &mut Reply) {
    for export in server.exports.all() {
        reply.boolean(true);
        reply.opaque(format!("/{}", export.name).as_bytes());
        for network in &export.rules.clients {
            reply.boolean(true);
            reply.opaque(network.to_string().as_bytes());
        }
        reply.boolean(false);
    }
    reply.boolean(false);
}

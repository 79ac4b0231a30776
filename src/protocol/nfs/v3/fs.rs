//! FSSTAT, FSINFO and PATHCONF (RFC 1813 §3.3.18 to 3.3.20): what the share can do, and has.

use nfs3_types::nfs3::{FSF3_CANSETTIME, FSF3_HOMOGENEOUS, FSF3_LINK, FSF3_SYMLINK, nfsstat3};

use super::{At, Outcome, answer, failed, status_of};
use crate::engine::file::{StatFs, VfsError};
use crate::protocol::nfs::record::PAYLOAD_BYTES_MAX;
use crate::protocol::nfs::rpc::{Reply, Request};
use crate::protocol::nfs::xdr::{Decoder, Encode};
use crate::protocol::nfs::{Nfs, convert};

/// The preferred READDIR, in bytes.
const DIRECTORY_BYTES: u32 = 64 << 10;
/// What reads and writes are best multiples of: the log's unit of checksums.
const MULTIPLE_BYTES: u32 = 4096;
/// Names that a node may have, and bytes of a name.
const LINKS_MAX: u32 = 65_000;
const NAME_BYTES_MAX: u32 = 255;

pub(super) async fn fsstat(server: &Nfs, request: &Request, args: Decoder) -> Outcome {
    about(server, request, args, |space, reply| {
        for bytes in [space.total_bytes, space.free_bytes, space.free_bytes] {
            reply.u64(bytes);
        }
        for nodes in [space.nodes.saturating_add(space.free_nodes), space.free_nodes, space.free_nodes] {
            reply.u64(nodes);
        }
        // It may change at once.
        reply.u32(0);
    })
    .await
}

pub(super) async fn fsinfo(server: &Nfs, request: &Request, args: Decoder) -> Outcome {
    about(server, request, args, |space, reply| {
        for _ in ["read", "write"] {
            reply.u32(PAYLOAD_BYTES_MAX);
            reply.u32(PAYLOAD_BYTES_MAX);
            reply.u32(MULTIPLE_BYTES);
        }
        reply.u32(DIRECTORY_BYTES);
        reply.u64(space.file_bytes_max);
        // Times are exact to a nanosecond.
        reply.u32(0);
        reply.u32(1);
        reply.u32(FSF3_LINK | FSF3_SYMLINK | FSF3_HOMOGENEOUS | FSF3_CANSETTIME);
    })
    .await
}

pub(super) async fn pathconf(server: &Nfs, request: &Request, args: Decoder) -> Outcome {
    about(server, request, args, |_, reply| {
        reply.u32(LINKS_MAX);
        reply.u32(NAME_BYTES_MAX);
        // Names that are too long are refused; only root gives files away; names are told apart by case and keep it.
        for fact in [true, true, false, true] {
            reply.boolean(fact);
        }
    })
    .await
}

/// An answer about a share, with the attributes of the node that was asked with.
async fn about(server: &Nfs, request: &Request, mut args: Decoder, put: impl FnOnce(&StatFs, &mut Reply)) -> Outcome {
    let handle = args.opaque(convert::HANDLE_BYTES_MAX)?;
    let at = match server.at(request, &handle) {
        Ok(at) => at,
        Err(status) => return Ok(failed(request, status, 1)),
    };
    let known = look(&at).await;
    let mut reply = answer(request, status_of(&known));
    if let Ok((attr, space)) = known {
        at.put_after(&mut reply, Some(&attr));
        put(&space, &mut reply);
    } else {
        debug_assert_ne!(reply.status, nfsstat3::NFS3_OK as u32);
        reply.absent(1);
    }
    Ok(reply)
}

async fn look(at: &At<'_>) -> Result<(crate::engine::file::Attr, StatFs), VfsError> {
    Ok((at.attr_of(at.node).await?, at.vfs.statfs().await?))
}

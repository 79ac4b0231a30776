//! LOOKUP, READLINK, REMOVE, RMDIR, RENAME and LINK (RFC 1813 §3.3.3, 3.3.5, 3.3.12 to 3.3.15).

use nfs3_types::nfs3::nfsstat3;

use super::{At, Outcome, answer, failed, place, status_of};
use crate::engine::file::{Remove, Rename, VfsError};
use crate::protocol::nfs::rpc::Request;
use crate::protocol::nfs::xdr::{Decoder, Encode};
use crate::protocol::nfs::{Nfs, convert};

pub(super) async fn lookup(server: &Nfs, request: &Request, mut args: Decoder) -> Outcome {
    let (handle, name) = place(&mut args)?;
    let at = match server.at(request, &handle) {
        Ok(at) => at,
        Err(status) => return Ok(failed(request, status, 1)),
    };
    let found = match at.vfs.try_lookup(&at.who, at.node, &name) {
        Some(known) => known,
        None => at.vfs.lookup(&at.who, at.node, &name).await,
    };
    let dir = at.attr().await;
    let mut reply = answer(request, status_of(&found));
    if let Ok(attr) = found {
        reply.opaque(&at.handle_of(attr.node));
        at.put_after(&mut reply, Some(&attr));
    }
    at.put_after(&mut reply, dir.as_ref());
    Ok(reply)
}

pub(super) async fn readlink(server: &Nfs, request: &Request, mut args: Decoder) -> Outcome {
    let handle = args.opaque(convert::HANDLE_BYTES_MAX)?;
    let at = match server.at(request, &handle) {
        Ok(at) => at,
        Err(status) => return Ok(failed(request, status, 1)),
    };
    let target = at.vfs.readlink(&at.who, at.node).await;
    let attr = at.attr().await;
    let mut reply = answer(request, status_of(&target));
    at.put_after(&mut reply, attr.as_ref());
    if let Ok(target) = target {
        reply.opaque(&target);
    }
    Ok(reply)
}

pub(super) async fn remove(server: &Nfs, request: &Request, mut args: Decoder, what: Remove) -> Outcome {
    let (handle, name) = place(&mut args)?;
    let at = match server.at(request, &handle) {
        Ok(at) => at,
        Err(status) => return Ok(failed(request, status, 2)),
    };
    let before = at.attr().await;
    let mut result = at.change(at.vfs.remove(&at.who, at.node, &name, what)).await;
    if result.is_ok() {
        result = at.settled().await;
    }
    let mut reply = answer(request, status_of(&result));
    at.put_wcc_now(&mut reply, before.as_ref()).await;
    Ok(reply)
}

pub(super) async fn rename(server: &Nfs, request: &Request, mut args: Decoder) -> Outcome {
    let (from_handle, from_name) = place(&mut args)?;
    let (to_handle, to_name) = place(&mut args)?;
    let (from, to) = match (server.at(request, &from_handle), server.at(request, &to_handle)) {
        (Ok(from), Ok(to)) => (from, to),
        (Err(status), _) | (_, Err(status)) => return Ok(failed(request, status, 4)),
    };
    let (from_before, to_before) = (from.attr().await, to.attr().await);
    let mut result = if from.export.id == to.export.id {
        from.change(from.vfs.rename(&from.who, (from.node, &from_name), (to.node, &to_name), Rename::Replace)).await
    } else {
        Err(VfsError::CrossShare)
    };
    if result.is_ok() {
        result = from.settled().await;
    }
    let mut reply = answer(request, status_of(&result));
    to.also_changed(&from);
    from.put_wcc_now(&mut reply, from_before.as_ref()).await;
    to.put_wcc_now(&mut reply, to_before.as_ref()).await;
    Ok(reply)
}

pub(super) async fn link(server: &Nfs, request: &Request, mut args: Decoder) -> Outcome {
    let file_handle = args.opaque(convert::HANDLE_BYTES_MAX)?;
    let (dir_handle, name) = place(&mut args)?;
    let (file, dir) = match (server.at(request, &file_handle), server.at(request, &dir_handle)) {
        (Ok(file), Ok(dir)) => (file, dir),
        (Err(status), _) | (_, Err(status)) => return Ok(failed(request, status, 3)),
    };
    let before = dir.attr().await;
    let result = add_link(&file, &dir, &name).await;
    let after = file.attr().await;
    let mut reply = answer(request, result.as_ref().map_or_else(convert::status, |()| nfsstat3::NFS3_OK));
    file.put_after(&mut reply, after.as_ref());
    dir.put_wcc_now(&mut reply, before.as_ref()).await;
    Ok(reply)
}

async fn add_link(file: &At<'_>, dir: &At<'_>, name: &[u8]) -> Result<(), VfsError> {
    if file.export.id != dir.export.id {
        return Err(VfsError::CrossShare);
    }
    dir.change(dir.vfs.link(&dir.who, file.node, dir.node, name)).await?;
    dir.settled().await
}

//! CREATE, MKDIR, SYMLINK and MKNOD (RFC 1813 §3.3.8 to 3.3.11).
//!
//! Invariant: what is made has its mode from the beginning; owner, length and times that the client asks for are set before the answer. An
//! EXCLUSIVE create keeps its verifier with the file, so a call that is sent again finds its own work, also after a restart.

use nfs3_types::nfs3::nfsstat3;

use super::{At, Outcome, answer, failed, place};
use crate::engine::file::{Attr, Create, NodeKind, OpenHow, SetAttr, Target, VfsError};
use crate::protocol::nfs::rpc::{Refusal, Request};
use crate::protocol::nfs::xdr::{Decoder, Encode};
use crate::protocol::nfs::{Nfs, convert};

/// The mode of something new where the client says none; of an exclusively created file until its client's SETATTR comes.
const FILE_MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o700;

pub(super) async fn create(server: &Nfs, request: &Request, mut args: Decoder) -> Outcome {
    let (handle, name) = place(&mut args)?;
    let (mode, set, verifier) = match args.u32()? {
        mode @ (0 | 1) => (mode, convert::set_attr(&mut args)?, None),
        2 => (2, SetAttr::default(), Some(args.u64()?)),
        _ => return Err(Refusal::Arguments),
    };
    let at = match server.at(request, &handle) {
        Ok(at) => at,
        Err(status) => return Ok(failed(request, status, 2)),
    };
    let how = OpenHow {
        create: Some(Create { mode: set.mode.unwrap_or(FILE_MODE) }),
        exclusive: mode != 0,
        verifier,
        ..OpenHow::default()
    };
    let before = at.attr().await;
    let made = open_and_set(&at, &name, &how, &set).await;
    made_answer(request, &at, before, made).await
}

async fn open_and_set(at: &At<'_>, name: &[u8], how: &OpenHow, set: &SetAttr) -> Result<Attr, VfsError> {
    let opened = at.change(at.vfs.open(&at.who, Target::Child(at.node, name), how)).await?;
    at.vfs.close(opened.handle).await?;
    if opened.created {
        at.change(dress(at, opened.attr, set)).await
    } else {
        // Of a file that was there only the length is set, as everybody does it.
        let length = SetAttr { size_bytes: set.size_bytes, ..SetAttr::default() };
        at.change(dress(at, opened.attr, &length)).await
    }
}

/// Sets what creation itself does not.
async fn dress(at: &At<'_>, attr: Attr, set: &SetAttr) -> Result<Attr, VfsError> {
    let set = SetAttr {
        mode: None,
        uid: set.uid.filter(|uid| *uid != attr.uid),
        gid: set.gid.filter(|gid| *gid != attr.gid),
        size_bytes: set.size_bytes.filter(|size| attr.kind == NodeKind::File && *size != attr.size_bytes),
        ..set.clone()
    };
    if set == SetAttr::default() { Ok(attr) } else { at.vfs.setattr(&at.who, attr.node, None, &set).await }
}

pub(super) async fn mkdir(server: &Nfs, request: &Request, mut args: Decoder) -> Outcome {
    let (handle, name) = place(&mut args)?;
    let set = convert::set_attr(&mut args)?;
    let at = match server.at(request, &handle) {
        Ok(at) => at,
        Err(status) => return Ok(failed(request, status, 2)),
    };
    let before = at.attr().await;
    let made = at.change(async {
        let create = Create { mode: set.mode.unwrap_or(DIRECTORY_MODE) };
        let attr = at.vfs.mkdir(&at.who, at.node, &name, create).await?;
        dress(&at, attr, &set).await
    });
    let made = made.await;
    made_answer(request, &at, before, made).await
}

pub(super) async fn symlink(server: &Nfs, request: &Request, mut args: Decoder) -> Outcome {
    let (handle, name) = place(&mut args)?;
    let set = convert::set_attr(&mut args)?;
    let target = args.opaque(convert::NAME_BYTES_MAX)?;
    let at = match server.at(request, &handle) {
        Ok(at) => at,
        Err(status) => return Ok(failed(request, status, 2)),
    };
    let before = at.attr().await;
    let made = at.change(async {
        let attr = at.vfs.symlink(&at.who, at.node, &name, &target).await?;
        dress(&at, attr, &set).await
    });
    let made = made.await;
    made_answer(request, &at, before, made).await
}

pub(super) async fn mknod(server: &Nfs, request: &Request, mut args: Decoder) -> Outcome {
    let (handle, name) = place(&mut args)?;
    let kind = match args.u32()? {
        3 => NodeKind::BlockDevice,
        4 => NodeKind::CharDevice,
        6 => NodeKind::Socket,
        7 => NodeKind::Fifo,
        _ => return Ok(failed(request, nfsstat3::NFS3ERR_BADTYPE, 2)),
    };
    let set = convert::set_attr(&mut args)?;
    let rdev = match kind {
        NodeKind::BlockDevice | NodeKind::CharDevice => convert::device(args.u32()?, args.u32()?),
        _ => 0,
    };
    let at = match server.at(request, &handle) {
        Ok(at) => at,
        Err(status) => return Ok(failed(request, status, 2)),
    };
    let before = at.attr().await;
    let made = at.change(async {
        let create = Create { mode: set.mode.unwrap_or(FILE_MODE) };
        let attr = at.vfs.mknod(&at.who, at.node, &name, kind, rdev, create).await?;
        dress(&at, attr, &set).await
    });
    let made = made.await;
    made_answer(request, &at, before, made).await
}

/// `post_op_fh3`, `post_op_attr`, and the directory's `wcc_data`, once what was made is durable.
async fn made_answer(request: &Request, at: &At<'_>, before: Option<Attr>, made: Result<Attr, VfsError>) -> Outcome {
    let made = match made {
        Ok(attr) => at.settled().await.map(|()| attr),
        Err(error) => Err(error),
    };
    let mut reply = answer(request, super::status_of(&made));
    if let Ok(attr) = made {
        reply.boolean(true);
        reply.opaque(&at.handle_of(attr.node));
        at.put_after(&mut reply, Some(&attr));
    }
    at.put_wcc_now(&mut reply, before.as_ref()).await;
    Ok(reply)
}

//! READ, WRITE and COMMIT (RFC 1813 §3.3.6, 3.3.7, 3.3.21).
//!
//! Invariant: the verifier of a WRITE is taken before its bytes are written, that of a COMMIT after they are durable: whatever is lost in
//! between, the client sees two verifiers and sends its bytes again.

use nfs3_types::nfs3::{nfsstat3, stable_how};

use super::{Outcome, answer, failed, status_of};
use crate::engine::file::{Io, VfsError};
use crate::protocol::nfs::record::PAYLOAD_BYTES_MAX;
use crate::protocol::nfs::rpc::{Refusal, Request};
use crate::protocol::nfs::xdr::{Decoder, Encode};
use crate::protocol::nfs::{Nfs, convert};

pub(super) async fn read(server: &Nfs, request: &Request, mut args: Decoder) -> Outcome {
    let handle = args.opaque(convert::HANDLE_BYTES_MAX)?;
    let (offset, count) = (args.u64()?, args.u32()?.min(PAYLOAD_BYTES_MAX));
    let at = match server.at(request, &handle) {
        Ok(at) => at,
        Err(status) => return Ok(failed(request, status, 1)),
    };
    let result = match at.vfs.try_read(&at.who, Io::Node(at.node), offset, count) {
        Some(known) => known,
        None => at.vfs.read(&at.who, Io::Node(at.node), offset, count).await,
    };
    let attr = at.attr().await;
    let mut reply = answer(request, status_of(&result));
    at.put_after(&mut reply, attr.as_ref());
    if let Ok(slices) = result {
        let len: usize = slices.iter().map(bytes::Bytes::len).sum();
        let end = offset.saturating_add(len as u64);
        reply.u32(u32::try_from(len).unwrap_or(u32::MAX));
        // Fewer bytes than asked for are there at the end of the file alone.
        reply.boolean(len < count as usize || attr.is_some_and(|attr| end >= attr.size_bytes));
        reply.payload(slices);
    }
    Ok(reply)
}

pub(super) async fn write(server: &Nfs, request: &Request, mut args: Decoder) -> Outcome {
    let handle = args.opaque(convert::HANDLE_BYTES_MAX)?;
    let (offset, count, stable) = (args.u64()?, args.u32()?, args.u32()?);
    let mut data = args.opaque(PAYLOAD_BYTES_MAX as usize)?;
    let unstable = match stable {
        0 => true,
        1 | 2 => false,
        _ => return Err(Refusal::Arguments),
    };
    if data.len() < count as usize {
        return Err(Refusal::Arguments);
    }
    data.truncate(count as usize);
    let at = match server.at(request, &handle) {
        Ok(at) => at,
        Err(status) => return Ok(failed(request, status, 2)),
    };
    let before = at.attr().await;
    let verifier = server.verifier(&*at.vfs);
    let mut result = at.change(at.vfs.write(&at.who, Io::Node(at.node), offset, data)).await;
    if result.is_ok() {
        if unstable {
            at.told().await;
        } else if let Err(error) = at.committed().await {
            result = Err(error);
        }
    }
    let mut reply = answer(request, status_of(&result));
    match result {
        Ok(after) => {
            at.put_wcc(&mut reply, before.as_ref(), Some(&after));
            reply.u32(count);
            let committed = if unstable { stable_how::UNSTABLE } else { stable_how::FILE_SYNC };
            reply.u32(committed as u32);
            reply.u64(verifier);
        }
        Err(_) => at.put_wcc_now(&mut reply, before.as_ref()).await,
    }
    Ok(reply)
}

pub(super) async fn commit(server: &Nfs, request: &Request, mut args: Decoder) -> Outcome {
    let handle = args.opaque(convert::HANDLE_BYTES_MAX)?;
    let (_offset, _count) = (args.u64()?, args.u32()?);
    let at = match server.at(request, &handle) {
        Ok(at) => at,
        Err(status) => return Ok(failed(request, status, 2)),
    };
    let before = at.attr_of(at.node).await;
    let result: Result<(), VfsError> = match &before {
        Ok(_) => at.committed().await,
        Err(error) => Err(error.clone()),
    };
    let status = status_of(&result);
    let mut reply = answer(request, status);
    at.put_wcc_now(&mut reply, before.as_ref().ok()).await;
    if status == nfsstat3::NFS3_OK {
        reply.u64(server.verifier(&*at.vfs));
    }
    Ok(reply)
}

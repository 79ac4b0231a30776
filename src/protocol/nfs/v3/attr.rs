//! GETATTR, SETATTR and ACCESS (RFC 1813 §3.3.1, 3.3.2, 3.3.4).

use nfs3_types::nfs3::nfsstat3;

use super::{Outcome, answer, failed, status_of};
use crate::engine::file::SetAttr;
use crate::protocol::nfs::rpc::Request;
use crate::protocol::nfs::xdr::{Decoder, Encode};
use crate::protocol::nfs::{Nfs, convert};

pub(super) async fn getattr(server: &Nfs, request: &Request, mut args: Decoder) -> Outcome {
    let handle = args.opaque(convert::HANDLE_BYTES_MAX)?;
    let at = match server.at(request, &handle) {
        Ok(at) => at,
        Err(status) => return Ok(failed(request, status, 0)),
    };
    match at.attr_of(at.node).await {
        Ok(attr) => {
            let mut reply = answer(request, nfsstat3::NFS3_OK);
            convert::put_attr(&mut reply, &attr, at.export.id);
            Ok(reply)
        }
        Err(error) => Ok(failed(request, convert::status(&error), 0)),
    }
}

pub(super) async fn setattr(server: &Nfs, request: &Request, mut args: Decoder) -> Outcome {
    let handle = args.opaque(convert::HANDLE_BYTES_MAX)?;
    let mut set = convert::set_attr(&mut args)?;
    set.guard_ctime_ns = convert::guard(&mut args)?;
    let at = match server.at(request, &handle) {
        Ok(at) => at,
        Err(status) => return Ok(failed(request, status, 2)),
    };
    let before = at.attr().await;
    // A change time beyond what the wire can say is compared as the wire says it.
    if let (Some(guard), Some(before)) = (set.guard_ctime_ns, &before)
        && guard == convert::on_wire(before.ctime_ns)
    {
        set.guard_ctime_ns = Some(before.ctime_ns);
    }
    let mut result = at.change(at.vfs.setattr(&at.who, at.node, None, &set)).await.map(drop);
    if result.is_ok() {
        result = at.settled().await;
    }
    let mut reply = answer(request, status_of(&result));
    let after = at.attr().await;
    let right_before = match (&before, &set) {
        // A length is not a node's row: what was read before is the best that is known.
        (Some(before), SetAttr { size_bytes: Some(_), .. }) if result.is_ok() => Some(before.clone()),
        (before, _) => at.right_before(before.as_ref(), after.as_ref()),
    };
    at.put_wcc(&mut reply, right_before.as_ref(), after.as_ref());
    Ok(reply)
}

pub(super) async fn access(server: &Nfs, request: &Request, mut args: Decoder) -> Outcome {
    let handle = args.opaque(convert::HANDLE_BYTES_MAX)?;
    let access = args.u32()?;
    let at = match server.at(request, &handle) {
        Ok(at) => at,
        Err(status) => return Ok(failed(request, status, 1)),
    };
    let granted = async {
        let attr = at.attr_of(at.node).await?;
        let granted = at.vfs.access(&at.who, at.node, convert::access_wanted(access, attr.kind)).await?;
        Ok((convert::access_granted(access, attr.kind, granted, at.export.rules.read_only), attr))
    };
    let granted = granted.await;
    let mut reply = answer(request, status_of(&granted));
    at.put_after(&mut reply, granted.as_ref().ok().map(|(_, attr)| attr));
    if let Ok((bits, _)) = granted {
        reply.u32(bits);
    }
    Ok(reply)
}

//! READDIR and READDIRPLUS (RFC 1813 §3.3.16, 3.3.17).
//!
//! Cookies are the share's: they stay valid while the directory changes, and across restarts, so the cookie verifier is always zero and never
//! wrong. READDIRPLUS leaves out attributes that only a request to S3 would tell. Pages are kept as long as they are true (`nfs/listings.rs`).

use nfs3_types::nfs3::nfsstat3;

use super::{At, Outcome, answer, failed, status_of};
use crate::engine::file::{AccessMask, Attr, DirEntry};
use crate::protocol::nfs::handle::HANDLE_BYTES;
use crate::protocol::nfs::listings::{Asked, Making};
use crate::protocol::nfs::rpc::{Reply, Request};
use crate::protocol::nfs::xdr::{Decoder, Encode, opaque_bytes};
use crate::protocol::nfs::{Nfs, convert};

/// The longest answer, in bytes.
const ANSWER_BYTES_MAX: u32 = 256 << 10;
/// What listing a directory takes.
const READ: AccessMask = AccessMask(4);
/// What ends a list: no more entries, and whether it is the end of the directory.
const END_BYTES: usize = 8;

pub(super) async fn readdir(server: &Nfs, request: &Request, mut args: Decoder) -> Outcome {
    let handle = args.opaque(convert::HANDLE_BYTES_MAX)?;
    let (cookie, _verifier, count) = (args.u64()?, args.u64()?, args.u32()?);
    list(server, request, &handle, cookie, u32::MAX, count, false).await
}

pub(super) async fn readdirplus(server: &Nfs, request: &Request, mut args: Decoder) -> Outcome {
    let handle = args.opaque(convert::HANDLE_BYTES_MAX)?;
    let (cookie, _verifier) = (args.u64()?, args.u64()?);
    let (names_bytes, bytes) = (args.u32()?, args.u32()?);
    list(server, request, &handle, cookie, names_bytes, bytes, true).await
}

async fn list(
    server: &Nfs,
    request: &Request,
    handle: &[u8],
    cookie: u64,
    names_bytes_max: u32,
    bytes_max: u32,
    plus: bool,
) -> Outcome {
    let at = match server.at(request, handle) {
        Ok(at) => at,
        Err(status) => return Ok(failed(request, status, 1)),
    };
    let dir = at.attr().await;
    let mut reply = answer(request, nfsstat3::NFS3_OK);
    at.put_after(&mut reply, dir.as_ref());
    reply.u64(0);
    let asked = Asked { export: at.export.id, dir: at.node, cookie, names_bytes_max, bytes_max, plus };
    if let Some(kept) = server.listings.get(&asked, &*at.vfs)
        && at.vfs.access(&at.who, at.node, READ).await == Ok(READ)
    {
        reply.bytes(&kept.bytes);
        return Ok(reply);
    }
    let begin = reply.results_bytes();
    let mut page = Page {
        at: &at,
        plus,
        making: server.listings.make(&asked, &*at.vfs),
        bytes_max: bytes_max.min(ANSWER_BYTES_MAX) as usize + 4,
        names_bytes_max: names_bytes_max as usize,
        names_bytes: 0,
        entries: 0,
        reply,
    };
    let listed = at.vfs.readdir(&at.who, at.node, cookie, plus, &mut |entry| page.take(&entry)).await;
    match listed {
        Ok(is_end) if is_end || page.entries > 0 => {
            page.reply.boolean(false);
            page.reply.boolean(is_end);
            server.listings.keep(asked, page.making, &page.reply.results()[begin..], &*at.vfs);
            Ok(page.reply)
        }
        Ok(_) => Ok(refused(request, &at, nfsstat3::NFS3ERR_TOOSMALL, dir.as_ref())),
        Err(_) => Ok(refused(request, &at, status_of(&listed), dir.as_ref())),
    }
}

fn refused(request: &Request, at: &At<'_>, status: nfsstat3, dir: Option<&Attr>) -> Reply {
    let mut reply = answer(request, status);
    at.put_after(&mut reply, dir);
    reply
}

/// An answer that fills up. Its limit is of the whole results but the status (RFC 1813: "the maximum size of the READDIR3resok structure").
struct Page<'a> {
    at: &'a At<'a>,
    plus: bool,
    making: Making,
    bytes_max: usize,
    names_bytes_max: usize,
    names_bytes: usize,
    entries: usize,
    reply: Reply,
}

impl Page<'_> {
    /// Whether the entry had room.
    fn take(&mut self, entry: &DirEntry) -> bool {
        let names_bytes = 4 + 8 + opaque_bytes(entry.name.len()) + 8;
        let plus_bytes = match (self.plus, &entry.attr) {
            (false, _) => 0,
            (true, None) => 8 + opaque_bytes(HANDLE_BYTES),
            (true, Some(_)) => 8 + opaque_bytes(HANDLE_BYTES) + convert::ATTR_BYTES,
        };
        let fits = self.reply.results_bytes() + names_bytes + plus_bytes + END_BYTES <= self.bytes_max
            && (self.entries == 0 || self.names_bytes + names_bytes <= self.names_bytes_max);
        if !fits {
            return false;
        }
        self.reply.boolean(true);
        self.reply.u64(entry.node.0);
        self.reply.opaque(&entry.name);
        self.reply.u64(entry.cookie);
        if self.plus {
            self.at.put_after(&mut self.reply, entry.attr.as_ref());
            self.reply.boolean(true);
            self.reply.opaque(&self.at.handle_of(entry.node));
            self.making.names(entry.node);
        }
        self.names_bytes += names_bytes;
        self.entries += 1;
        true
    }
}

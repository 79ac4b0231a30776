//! Waiting for a lock on a client's behalf: the client was answered BLOCKED, and is called back when it has the lock.
//!
//! Invariant: a lock that the client could not be told of is given back: nobody holds what it does not know.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::base::id::NodeId;
use crate::engine::file::{Lock, LockKind, LockOwner, VfsError};
use crate::protocol::nfs::Nfs;
use crate::protocol::nfs::caller::{self, Procedure};
use crate::protocol::nfs::xdr::Encode;

use super::{File, PROGRAM, Status, VERSION, Wanted, lock_of, status};

/// GRANTED.
const GRANTED: u32 = 5;
/// How long a request waits in all. Clients ask again every half minute.
const WAIT_MAX: Duration = Duration::from_secs(24 * 3600);
/// How often a client is called back, and how long lies between.
const CALLS_MAX: u32 = 5;
const CALL_PAUSE: Duration = Duration::from_secs(5);

/// A request that waits: asked again, it is the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    export: u64,
    node: NodeId,
    pub(super) owner: u64,
    pub(super) range: (u64, u64),
    is_exclusive: bool,
}

impl Key {
    pub(super) fn of(export: u64, node: NodeId, lock: &Lock) -> Self {
        let range = (lock.range.start, lock.range.end);
        Self { export, node, owner: lock.owner.owner, range, is_exclusive: lock.kind == LockKind::Exclusive }
    }

    pub(super) fn is_of(&self, export: u64, node: NodeId, owner: LockOwner) -> bool {
        self.export == export && self.node == node && self.owner == owner.owner
    }
}

/// Begins to wait, unless somebody waits for the same already.
pub(super) async fn wait(server: &Arc<Nfs>, file: &File, wanted: &Wanted, cookie: &[u8], lock: Lock, address: IpAddr) -> Status {
    let key = Key::of(file.export, file.node, &lock);
    let Some(stop) = server.locks.begin_waiting(&key) else { return Status::Blocked };
    let (vfs, who, node) = (file.vfs.clone(), file.who.clone(), file.node);
    let asked = lock.clone();
    let mut waiting = Box::pin(async move { vfs.lock(&who, node, &asked, Some(WAIT_MAX)).await });
    // A deadlock is seen at once.
    let first = std::future::poll_fn(|context| std::task::Poll::Ready(waiting.as_mut().poll(context))).await;
    match first {
        std::task::Poll::Ready(result) => {
            server.locks.stop_waiting(&key);
            return result.map_or_else(|error| status(&error), |()| Status::Granted);
        }
        std::task::Poll::Pending => {}
    }
    let granted = granted_args(wanted, cookie, &lock);
    let (server, vfs, who) = (server.clone(), file.vfs.clone(), file.who.clone());
    let (done, stopped) = (server.stop.clone(), stop.clone());
    server.clone().tasks.spawn(async move {
        let result = tokio::select! {
            result = waiting => result,
            () = stop.cancelled() => Err(VfsError::Interrupted),
            () = done.cancelled() => Err(VfsError::Interrupted),
        };
        if result.is_ok() {
            server.locks.granted(&key);
        }
        if result.is_ok() && !tell(server.portmap_port(), address, &granted, &stopped, &done).await {
            let release = lock_of(lock.owner, &lock.range, LockKind::Unlock);
            let _ = vfs.lock(&who, node, &release, None).await;
        }
        server.locks.stop_waiting(&key);
    });
    Status::Blocked
}

/// `nlm4_testargs` of the GRANTED call.
fn granted_args(wanted: &Wanted, cookie: &[u8], lock: &Lock) -> Vec<u8> {
    let mut args = Vec::new();
    args.opaque(cookie);
    args.boolean(lock.kind == LockKind::Exclusive);
    args.opaque(wanted.client.as_bytes());
    args.opaque(&wanted.handle);
    args.opaque(&wanted.owner.oh);
    Encode::u32(&mut args, wanted.owner.svid);
    Encode::u64(&mut args, lock.range.start);
    Encode::u64(&mut args, if lock.range.end == u64::MAX { 0 } else { lock.range.end - lock.range.start });
    args
}

/// Whether the client took the lock. One that asked again meanwhile and was told so has it too (`stopped`).
async fn tell(
    portmap_port: u16,
    address: IpAddr,
    args: &[u8],
    stopped: &tokio_util::sync::CancellationToken,
    done: &tokio_util::sync::CancellationToken,
) -> bool {
    for _ in 0..CALLS_MAX {
        let called = async {
            let to = caller::find(portmap_port, address, PROGRAM, VERSION).await?;
            let mut results =
                caller::call(to, Procedure { program: PROGRAM, version: VERSION, procedure: GRANTED }, args).await?;
            let answer = results.opaque(super::OBJECT_BYTES_MAX).and_then(|_| results.u32());
            Ok::<_, std::io::Error>(answer == Ok(Status::Granted as u32))
        };
        match called.await {
            Ok(is_taken) => return is_taken,
            Err(error) => tracing::debug!(client = %address, %error, "a client cannot be told that it has its lock"),
        }
        tokio::select! {
            () = tokio::time::sleep(CALL_PAUSE) => {}
            () = stopped.cancelled() => return true,
            () = done.cancelled() => return false,
        }
    }
    tracing::warn!(client = %address, "a client cannot be called back: the lock that it waited for is given to others");
    false
}

//! Calls over UDP, of everything but NFS: lock managers and status monitors call so, and `mount` of some kernels.
//!
//! Invariants: at most [`CALLS_MAX`] datagrams are being answered at a time, what comes beyond is dropped, and its client sends it again; an
//! answer is one datagram or none. No procedure that is served here does harm when a datagram comes twice.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::net::UdpSocket;
use tokio::sync::Semaphore;

use super::rpc::{Refusal, Reply, Request};
use super::{ACCEPT_PAUSE, Nfs, v3};

/// Datagrams that are being answered at a time.
const CALLS_MAX: usize = 256;
/// The longest datagram, in or out, in bytes: what RPC over UDP is good for (RFC 1831 says nothing; everybody's limit is 8 KiB and a header).
const DATAGRAM_BYTES_MAX: usize = 8800;

impl Nfs {
    /// Answers datagrams until the server stops.
    pub(super) async fn serve_datagrams(self: Arc<Self>, socket: UdpSocket) {
        let socket = Arc::new(socket);
        let calls = Arc::new(Semaphore::new(CALLS_MAX));
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX + 1];
        loop {
            let received = tokio::select! {
                received = socket.recv_from(&mut buffer) => received,
                () = self.stop.cancelled() => return,
            };
            let (len, peer) = match received {
                Ok((len, _)) if len > DATAGRAM_BYTES_MAX => continue,
                Ok(received) => received,
                Err(error) => {
                    tracing::debug!(%error, "no datagram could be received");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(permit) = calls.clone().try_acquire_owned() else { continue };
            let (server, socket, datagram) = (self.clone(), socket.clone(), Bytes::copy_from_slice(&buffer[..len]));
            self.tasks.spawn(async move {
                if let Some(answer) = server.answer_datagram(datagram, peer).await {
                    let _ = socket.send_to(&answer, peer).await;
                }
                drop(permit);
            });
        }
    }

    /// The answer, without a record mark; `None` where there is none, or it is too long for a datagram.
    async fn answer_datagram(self: &Arc<Self>, datagram: Bytes, peer: SocketAddr) -> Option<Vec<u8>> {
        let reply = match Request::parse(datagram, peer) {
            Ok(Ok(request)) if request.program == v3::PROGRAM => Reply::refused(request.xid, Refusal::Program),
            Ok(Ok(request)) => self.answer(&request, Instant::now()).await,
            Ok(Err(refused)) => refused,
            Err(_) => return None,
        };
        let answer = reply.finish().0.split_off(4);
        (answer.len() <= DATAGRAM_BYTES_MAX).then_some(answer)
    }
}

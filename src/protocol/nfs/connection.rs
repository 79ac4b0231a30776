//! One connection: records in, calls carried out side by side, replies out as they are ready.
//!
//! ```text
//!              ┌ ready at once ────────────────┐
//!  socket ─► Records ─► Request ─┤             ├─► Outbox ─► socket
//!              └ has to wait: a task of its own┘
//! ```
//!
//! Invariants:
//! - At most [`CALLS_MAX`] calls of a connection wait at a time, and what they hold in memory is within the budget of the client's address;
//!   beyond either nothing more is read from the socket.
//! - A call that was begun is finished and its answer kept for a duplicate, also where the connection is over before.
//! - A client that begins a record has [`RECORD_TIME_MAX`] to end it; one that says nothing is left alone for [`IDLE_MAX`].

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use super::budget::{Admitted, Session};
use super::outbox::Outbox;
use super::record::{RecordError, Records};
use super::rpc::Request;
use super::{Nfs, Record};
use crate::base::purse::Held;

/// Calls of one connection that wait at a time.
const CALLS_MAX: usize = 128;
/// How long a record may take from its first byte to its last.
const RECORD_TIME_MAX: Duration = Duration::from_secs(60);
/// How long a connection may say nothing; clients close theirs after five minutes.
const IDLE_MAX: Duration = Duration::from_secs(600);
/// How long calls may go on after the connection's end, or the server's.
const DRAIN_MAX: Duration = Duration::from_secs(20);
/// A record up to this is held in the connection's own buffer and not counted, in bytes.
const UNCOUNTED_BYTES: usize = 64 << 10;

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("the client closed it")]
    Closed,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Record(#[from] RecordError),
    #[error("what it sends are no calls")]
    NotACall,
    #[error("a record took over a minute")]
    Slow,
    #[error("it was idle")]
    Idle,
    #[error("the server makes room, or stops")]
    Told,
}

struct Connection {
    server: Arc<Nfs>,
    session: Arc<Session>,
    socket: TcpStream,
    peer: SocketAddr,
    outbox: Outbox,
    calls: Arc<Semaphore>,
}

/// Serves a connection until it ends.
pub(super) async fn serve(server: Arc<Nfs>, socket: TcpStream, peer: SocketAddr, admitted: Admitted) {
    if let Err(error) = socket.set_nodelay(true) {
        tracing::debug!(%peer, %error, "TCP_NODELAY");
    }
    let session = admitted.0.clone();
    let calls = Arc::new(Semaphore::new(CALLS_MAX));
    let connection = Arc::new(Connection { server, session, socket, peer, outbox: Outbox::default(), calls });
    let writer = {
        let connection = connection.clone();
        tokio::spawn(async move { connection.outbox.run(&connection.socket).await })
    };
    let end = connection.read().await;
    match &end {
        End::Record(_) | End::NotACall | End::Slow => tracing::warn!(client = %peer, reason = %end, "a connection was closed"),
        _ => tracing::debug!(client = %peer, reason = %end, "a connection ended"),
    }
    // All permits are back when all calls are answered.
    let answered = connection.calls.acquire_many(CALLS_MAX as u32);
    if tokio::time::timeout(DRAIN_MAX, answered).await.is_err() {
        tracing::debug!(client = %peer, "calls go on after their connection");
    }
    connection.outbox.complete();
    if let Ok(Err(error)) = writer.await {
        tracing::debug!(client = %peer, %error, "writing");
    }
    drop(admitted);
}

impl Connection {
    /// Reads and carries out calls; returns why there are no more.
    async fn read(self: &Arc<Self>) -> End {
        let mut records = Records::default();
        let mut begun: Option<Instant> = None;
        // For the large record that is being received.
        let mut held: Option<Held> = None;
        let mut evicted = std::pin::pin!(self.session.evicted.cancelled());
        let mut stopped = std::pin::pin!(self.server.stop.cancelled());
        loop {
            let deadline = begun.map_or_else(|| Instant::now() + IDLE_MAX, |begun| begun + RECORD_TIME_MAX);
            let received = tokio::select! {
                biased;
                () = &mut evicted => Err(End::Told),
                () = &mut stopped => Err(End::Told),
                received = timeout_at(deadline, self.receive(&mut records)) => match received {
                    Ok(received) => received,
                    Err(_) if begun.is_some() => Err(End::Slow),
                    Err(_) if self.calls.available_permits() == CALLS_MAX => Err(End::Idle),
                    Err(_) => continue,
                },
            };
            let taken = match received {
                Ok(()) => self.take_all(&mut records, &mut held).await,
                Err(end) => Err(end),
            };
            self.outbox.flush();
            match taken {
                Ok(_) if records.is_empty() => begun = None,
                Ok(true) => begun = Some(Instant::now()),
                Ok(false) => begun = begun.or_else(|| Some(Instant::now())),
                Err(end) => return end,
            }
            let pending_bytes = records.pending_bytes();
            if pending_bytes > UNCOUNTED_BYTES && held.is_none() {
                match self.hold(pending_bytes).await {
                    Ok(more) => held = more,
                    Err(end) => return end,
                }
            }
        }
    }

    /// Receives something. Memory is taken when something is there.
    async fn receive(&self, records: &mut Records) -> Result<(), End> {
        loop {
            records.rest();
            self.socket.readable().await?;
            match self.socket.try_read_buf(records.room()) {
                Ok(0) => return Err(End::Closed),
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Carries out, or begins, every call that is here whole. Returns whether there was one.
    async fn take_all(self: &Arc<Self>, records: &mut Records, held: &mut Option<Held>) -> Result<bool, End> {
        let mut any = false;
        while let Some(record) = records.next()? {
            any = true;
            self.outbox.room().await;
            let mut held = if record.len() > UNCOUNTED_BYTES { held.take() } else { None };
            if record.len() > UNCOUNTED_BYTES && held.is_none() {
                held = self.hold(record.len()).await?;
            }
            // A client that waits for one answer at a time gets it from here: a task of its own would be two switches more.
            let is_alone = records.is_empty() && self.calls.available_permits() == CALLS_MAX;
            self.take(record, held, is_alone).await?;
        }
        Ok(any)
    }

    /// `held` is for the record: its bytes live until it is answered.
    async fn take(self: &Arc<Self>, record: Bytes, mut held: Option<Held>, is_alone: bool) -> Result<(), End> {
        let request = match Request::parse(record, self.peer) {
            Ok(Ok(request)) => request,
            Ok(Err(refused)) => {
                self.server.refused(self.peer, "its version of RPC or its credential is not one of ours");
                self.outbox.push(refused.finish(), None);
                return Ok(());
            }
            Err(_) => return Err(End::NotACall),
        };
        self.session.is_active();
        let is_heavy = super::is_heavy(&request);
        let answer_bytes = if is_heavy { super::v3::reads_bytes(&request) } else { 0 };
        if answer_bytes > 0 {
            held = self.hold(answer_bytes).await?;
        }
        let mut call = Box::pin(self.server.clone().carry_out(request));
        if (!is_heavy || is_alone)
            && let Poll::Ready(answered) = poll_once(call.as_mut()).await
        {
            if let Some(record) = answered {
                self.outbox.push(record, held);
            }
            return Ok(());
        }
        self.outbox.flush();
        self.begin(call, held).await
    }

    async fn hold(&self, bytes: usize) -> Result<Option<Held>, End> {
        tokio::select! {
            held = self.session.hold(bytes) => Ok(held),
            () = self.server.stop.cancelled() => Err(End::Told),
        }
    }

    /// Goes on with a call in a task of its own.
    async fn begin(
        self: &Arc<Self>,
        call: Pin<Box<impl Future<Output = Option<Record>> + Send + 'static>>,
        held: Option<Held>,
    ) -> Result<(), End> {
        let permit = self.calls.clone().acquire_owned().await.map_err(|_| End::Told)?;
        self.session.busy.fetch_add(1, Ordering::Relaxed);
        let connection = self.clone();
        self.server.tasks.spawn(async move {
            if let Some(record) = call.await {
                connection.outbox.push(record, held);
                connection.outbox.flush();
            }
            connection.session.busy.fetch_sub(1, Ordering::Relaxed);
            drop(permit);
        });
        Ok(())
    }
}

/// Looks once whether a future is ready. Whoever polls it next registers anew, so nothing is lost where it is not.
async fn poll_once<F: Future>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await
}

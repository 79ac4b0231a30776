//! NFS: shares as network file systems. NFS version 3, MOUNT version 3 and NLM version 4 (RFC 1813) over ONC RPC (RFC 5531) over TCP, on
//! one port.
//!
//! What lives here: [`Nfs`], the server, its [`Settings`], and how a call finds its program. From the wire up: `nfs/xdr.rs` (values),
//! `nfs/rpc.rs` (calls and replies), `nfs/record.rs` (a stream into records), `nfs/outbox.rs` (replies into a stream), `nfs/connection.rs`,
//! `nfs/budget.rs` (what clients may make us hold), `nfs/duplicate.rs` (calls that are sent twice), `nfs/listings.rs` (pages of directories); `nfs/export.rs` and `nfs/network.rs` (who
//! may), `nfs/handle.rs` (file handles), `nfs/convert.rs` (every mapping of values and errors); the programs: `nfs/v3.rs`,
//! `nfs/mount.rs`, `nfs/nlm.rs` (locks), `nfs/nsm.rs` (whose locks are gone); `nfs/datagram.rs` (calls over UDP); `nfs/caller.rs`
//! and `nfs/rpcbind.rs` are calls of our own.
//!
//! Invariants:
//! - What COMMIT, a FILE_SYNC write or a change of names was answered for survives power loss (an export may say `namespace = "async"`).
//! - The write verifier changes whenever bytes that were not committed may be lost: at every start, and when a flush failed.
//! - Nothing that a client sends is believed before it is checked; no client makes the server hold more than its share.
//! - A handle means the same file for ever, also after a restart, and cannot be made by guessing.
//!
//! Why a server of our own: `nfsserve` 0.11 has no COMMIT and answers every write FILE_SYNC, so a client's fsync cannot reach a write-back
//! cache; it passes no caller on, ignores READDIR's cookie, and scans a table at each call (18,000 GETATTR/s fall to 1,500 in 12 s).
//! `nfs3_server` 0.11 ties the write verifier to the handles' generation, so either handles die with a restart or unsynced bytes are lost
//! silently; no LINK, no MKNOD, no caller in its seam. `nfs-mamont` 0.2 has no duplicate-request cache and takes no record of several fragments.

mod budget;
mod caller;
mod connection;
mod convert;
mod datagram;
mod duplicate;
mod export;
mod handle;
mod listings;
mod mount;
mod network;
mod nlm;
mod nsm;
mod outbox;
mod record;
mod rpc;
mod rpcbind;
mod stats;
mod v3;
mod xdr;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use nfs3_types::nfs3::nfsstat3;
use parking_lot::Mutex;
use tokio::net::{TcpListener, UdpSocket};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::engine::file::{Origin, Vfs};
use budget::{Budget, Limits};
use duplicate::{Duplicates, Known};
pub use export::{ANONYMOUS, Namespace, Rules, Squash};
use handle::Sealer;
use listings::Listings;
pub use network::Network;
use rpc::{Refusal, Reply, Request};
use stats::Stats;
pub use stats::{LATENCY_BOUNDS_US, ProcedureStats};

/// The front end number of all NFS clients.
pub const ORIGIN: Origin = Origin(2);

/// How long calls may take to finish when the server stops.
const DRAIN_MAX: Duration = Duration::from_secs(25);
/// How long the listener rests where the process has no more descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The same refusal of the same client is logged once in so long.
const LOG_INTERVAL: Duration = Duration::from_secs(60);
/// Clients whose refusals are told apart in the log.
const LOGGED_MAX: usize = 1024;

/// A record that is ready to be sent: head and payload.
type Record = (Vec<u8>, Vec<Bytes>);

/// The server. Exports come and go while it runs.
pub struct Nfs {
    sealer: Sealer,
    exports: export::Exports,
    duplicates: Duplicates,
    listings: Listings,
    budget: Arc<Budget>,
    stats: Stats,
    mounts: mount::Mounts,
    locks: nlm::Table,
    messages: nlm::Messages,
    monitor: nsm::Monitor,
    started: Instant,
    /// Where clients tell on which ports their own programs are.
    portmap_port: std::sync::atomic::AtomicU16,
    /// rpcbind knows of this server.
    is_registered: std::sync::atomic::AtomicBool,
    /// What was logged lately, so that a client that is refused a thousand times a second is one line a minute.
    logged: Mutex<std::collections::HashMap<(IpAddr, String), Instant>>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// What `status` shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NfsStatus {
    /// Connections that are open.
    pub connections: usize,
    /// Addresses that they come from.
    pub clients: Vec<IpAddr>,
    /// Client and path of each mount that was told.
    pub mounts: Vec<(IpAddr, String)>,
    /// Calls by procedure.
    pub procedures: Vec<ProcedureStats>,
    /// Calls that were refused, and records that were none.
    pub refused: u64,
}

impl Nfs {
    /// A server without exports. `key` makes file handles: the same after a restart, and secret. Clients with locks are remembered in
    /// `directory`, where one is given.
    ///
    /// # Errors
    /// Where the directory cannot be used.
    pub fn new(key: &[u8; 32], directory: Option<&Path>) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            sealer: Sealer::new(key),
            exports: export::Exports::default(),
            duplicates: Duplicates::default(),
            listings: Listings::default(),
            budget: Budget::new(Limits::of_process()),
            stats: Stats::default(),
            mounts: mount::Mounts::default(),
            locks: nlm::Table::default(),
            messages: nlm::Messages::default(),
            monitor: nsm::Monitor::open(directory)?,
            started: Instant::now(),
            portmap_port: nfs3_types::portmap::PMAP_PORT.into(),
            is_registered: std::sync::atomic::AtomicBool::new(false),
            logged: Mutex::default(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }))
    }

    /// Whether only locks that were held before the restart are granted.
    fn in_grace(&self) -> bool {
        self.monitor.had_clients() && self.started.elapsed() < nlm::GRACE
    }

    fn portmap_port(&self) -> u16 {
        self.portmap_port.load(Ordering::Relaxed)
    }

    /// Tells this machine's rpcbind on which port the programs are, and clients that held locks to reclaim them. Where the port can be had
    /// for UDP too, everything but NFS is served there.
    ///
    /// # Errors
    /// In words, why rpcbind does not know of this server: its clients have to name the port, and have no locks between machines.
    pub async fn announce(self: &Arc<Self>, address: SocketAddr) -> Result<(), String> {
        let udp = UdpSocket::bind(address).await.ok();
        rpcbind::register(address, udp.is_some()).await?;
        self.is_registered.store(true, Ordering::Relaxed);
        if let Some(socket) = udp {
            let server = self.clone();
            self.tasks.spawn(server.serve_datagrams(socket));
        }
        let server = self.clone();
        self.tasks.spawn(async move {
            server.stop.run_until_cancelled(server.monitor.notify(server.portmap_port())).await.unwrap_or(())
        });
        Ok(())
    }

    /// Offers a share, or changes how it is offered. `None`: it is configured but does not run now; clients wait for it.
    pub fn export(&self, name: &str, rules: Rules, vfs: Option<Arc<dyn Vfs>>) {
        self.exports.put(name, rules, vfs);
    }

    /// Offers a share no longer: its handles are stale.
    pub fn unexport(&self, name: &str) {
        self.exports.remove(name);
    }

    /// Accepts connections until [`Self::drain`].
    ///
    /// # Errors
    /// None that a pause would not cure: those are waited out.
    pub async fn serve(self: Arc<Self>, listener: TcpListener) -> io::Result<()> {
        let server = self.clone();
        self.tasks.spawn(async move {
            if server.stop.run_until_cancelled(tokio::time::sleep(nlm::GRACE)).await.is_some() {
                server.monitor.end_grace();
            }
        });
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.stop.cancelled() => return Ok(()),
            };
            match accepted {
                Ok((socket, peer)) => match self.budget.admit(peer.ip().to_canonical()) {
                    Some(admitted) => drop(self.tasks.spawn(connection::serve(self.clone(), socket, peer, admitted))),
                    None => self.refused(peer, "too many of its connections are busy"),
                },
                Err(error) => {
                    tracing::warn!(%error, "no connection could be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Ends: no more calls are taken, those that run are answered.
    pub async fn drain(&self) {
        self.stop.cancel();
        if self.is_registered.swap(false, Ordering::Relaxed) {
            rpcbind::unregister().await;
        }
        self.tasks.close();
        if tokio::time::timeout(DRAIN_MAX, self.tasks.wait()).await.is_err() {
            tracing::warn!("NFS calls still ran when the server ended");
        }
    }

    /// For `status` and metrics.
    pub fn status(&self) -> NfsStatus {
        NfsStatus {
            connections: self.budget.connections(),
            clients: self.budget.addresses(),
            mounts: self.mounts.list(),
            procedures: self.stats.snapshot(),
            refused: self.stats.refused.load(Ordering::Relaxed),
        }
    }

    /// The write verifier of a share.
    fn verifier(&self, vfs: &dyn Vfs) -> u64 {
        vfs.write_verifier()
    }

    /// Carries out a call, once: a duplicate gets the first one's answer. `None`: there is no answer.
    async fn carry_out(self: Arc<Self>, request: Request) -> Option<Record> {
        let begin = Instant::now();
        if !(request.program == v3::PROGRAM && v3::changes_something(request.procedure)) {
            return Some(self.answer(&request, begin).await.finish());
        }
        match self.duplicates.begin(&request) {
            Known::Duplicate(answer) => duplicate::answer_of(answer).await.map(|record| (record.to_vec(), Vec::new())),
            Known::New(running) => {
                let record = self.answer(&request, begin).await.finish();
                running.answered(&record.0);
                Some(record)
            }
        }
    }

    async fn answer(self: &Arc<Self>, request: &Request, begin: Instant) -> Reply {
        let (counter, outcome) = match request.program {
            v3::PROGRAM => (self.stats.nfs.get(request.procedure as usize), v3::call(self, request).await),
            mount::PROGRAM => (Some(&self.stats.mount), mount::call(self, request).await),
            nlm::PROGRAM => (Some(&self.stats.nlm), nlm::call(self, request).await),
            nsm::PROGRAM => (None, nsm::call(self, request).await),
            _ => (None, Err(Refusal::Program)),
        };
        let reply = outcome.unwrap_or_else(|refusal| {
            self.refused(request.peer, &refusal_words(request, refusal));
            Reply::refused(request.xid, refusal)
        });
        if let Some(counter) = counter {
            counter.count(reply.status != 0, begin.elapsed());
        }
        if request.program == v3::PROGRAM && is_trouble(reply.status) {
            let procedure = stats::NFS_PROCEDURES.get(request.procedure as usize).copied().unwrap_or("?");
            tracing::warn!(client = %request.peer.ip().to_canonical(), procedure, status = reply.status, "an NFS call failed");
        }
        reply
    }

    /// Counts a refusal, and logs it where the same was not logged just now.
    fn refused(&self, peer: SocketAddr, reason: &str) {
        self.stats.refused.fetch_add(1, Ordering::Relaxed);
        let client = peer.ip().to_canonical();
        if self.is_news(client, reason) {
            tracing::warn!(%client, reason, "a call was refused");
        }
    }

    /// A client without the right to an export.
    fn denied(&self, peer: SocketAddr, export: &str) {
        self.stats.refused.fetch_add(1, Ordering::Relaxed);
        let client = peer.ip().to_canonical();
        if self.is_news(client, export) {
            tracing::warn!(%client, port = peer.port(), export, "the client is not in the export's list, or its port is not privileged");
        }
    }

    fn is_news(&self, client: IpAddr, what: &str) -> bool {
        let mut logged = self.logged.lock();
        let now = Instant::now();
        if logged.len() >= LOGGED_MAX {
            logged.retain(|_, at| now.duration_since(*at) < LOG_INTERVAL);
        }
        if logged.len() >= LOGGED_MAX
            || logged.get(&(client, what.to_owned())).is_some_and(|at| now.duration_since(*at) < LOG_INTERVAL)
        {
            return false;
        }
        logged.insert((client, what.to_owned()), now);
        true
    }
}

/// Whether a call is better carried out beside the others of its connection.
fn is_heavy(request: &Request) -> bool {
    request.program == v3::PROGRAM && v3::is_heavy(request)
}

/// Statuses that an operator should hear of.
fn is_trouble(status: u32) -> bool {
    status == nfsstat3::NFS3ERR_IO as u32 || status == nfsstat3::NFS3ERR_SERVERFAULT as u32
}

fn refusal_words(request: &Request, refusal: Refusal) -> String {
    let Request { program, version, procedure, .. } = request;
    match refusal {
        Refusal::Program => format!("program {program} is not served here"),
        Refusal::Version(low, high) => format!("version {version} of program {program}: served are {low} to {high}"),
        Refusal::Procedure => format!("program {program} has no procedure {procedure}"),
        Refusal::Arguments => format!("arguments of procedure {procedure} of program {program} that cannot be read"),
        Refusal::RpcVersion | Refusal::Auth(_) => format!("{refusal:?}"),
    }
}

#[cfg(test)]
mod tests;

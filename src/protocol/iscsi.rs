//! iSCSI (RFC 7143): SCSI targets for initiators on the network.
//!
//! What lives here: [`Iscsi`], the server. From the wire up: `iscsi/pdu.rs` (units), `iscsi/inbox.rs` (a stream into units),
//! `iscsi/outbox.rs` (units into a stream), `iscsi/text.rs`, `iscsi/keys.rs` (the table of negotiation), `iscsi/chap.rs`,
//! `iscsi/login.rs` (the login phase), `iscsi/door.rs` (a socket's life), `iscsi/connection.rs` (one connection, one task: async select, synchronous apply) with its parts
//! `connection/command.rs`, `connection/data.rs` (Data-Out and R2T), `connection/manage.rs` (task management), `connection/text.rs`;
//! `iscsi/window.rs` (command numbers), `iscsi/target.rs` (targets, their sessions), `iscsi/budget.rs` (what initiators may make us hold).
//!
//! Invariants:
//! - A fault on the wire ends that connection and nothing else (error recovery level 0).
//! - Nothing that an initiator sends is believed before it is checked; no initiator makes the server hold more than its share.
//! - A session is one connection. An initiator that wants several paths opens several sessions, each a nexus of its own.
//! - When a session has ended, nothing of its commands is under way.
//!
//! Why a target of our own: `iscsi-target` 1.0 serves one request at a time, never sets `TCP_NODELAY` (22 to 44 operations a second),
//! aborts nothing, and can be made to panic by an initiator.

mod budget;
mod chap;
mod connection;
mod door;
mod inbox;
mod keys;
mod login;
mod outbox;
mod pdu;
mod target;
mod text;
mod window;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::scsi;
use budget::{Budget, Limits};
pub use chap::{Chap, Credential};
pub use target::Admission;
use target::Offer;

/// How long sessions may take to end when the server stops.
const DRAIN_MAX: Duration = Duration::from_secs(25);
/// How long the listener rests where the process has no more descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The longest iSCSI name (RFC 7143 §4.2.7.1), in bytes.
const NAME_BYTES_MAX: usize = 223;

/// The server. Targets come and go while it runs.
pub struct Iscsi {
    targets: Mutex<BTreeMap<String, Arc<Offer>>>,
    discovery: Mutex<Option<Chap>>,
    budget: Arc<Budget>,
    next_session: AtomicU16,
    /// Initiators are asked to log out, and none is let in.
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// A session, for `status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionStatus {
    /// The name of the target.
    pub target: String,
    /// The name of the initiator.
    pub initiator: String,
    /// Where it comes from.
    pub peer: SocketAddr,
}

/// What `status` shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IscsiStatus {
    /// Names of the targets.
    pub targets: Vec<String>,
    /// Sessions with targets.
    pub sessions: Vec<SessionStatus>,
    /// Logins under way.
    pub logins: usize,
}

impl Default for Iscsi {
    fn default() -> Self {
        Self::with(Limits::default())
    }
}

impl Iscsi {
    /// A server without targets.
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    fn with(limits: Limits) -> Self {
        Self {
            targets: Mutex::default(),
            discovery: Mutex::default(),
            budget: Budget::new(limits),
            next_session: AtomicU16::new(1),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }
    }

    /// Offers a target without units; put units into what is returned. A target of the same name is replaced, its sessions end.
    ///
    /// # Errors
    /// In words, where the name is not an iSCSI name.
    pub fn offer(&self, name: &str, admission: Admission) -> Result<Arc<scsi::Target>, String> {
        let name = iscsi_name(name)?;
        let target = scsi::Target::new(&name, &format!("{name},t,0x0001"));
        let offer = Arc::new(Offer::new(&name, target.clone(), admission));
        if let Some(old) = self.targets.lock().insert(name, offer) {
            old.stop();
        }
        Ok(target)
    }

    /// Changes who may reach a target. Sessions that were made with other credentials, or are not admitted any more, end.
    pub fn admit(&self, name: &str, admission: Admission) {
        if let Some(offer) = self.find(name) {
            offer.admit(admission);
        }
    }

    /// What initiators have to prove before they are told of targets.
    pub fn protect_discovery(&self, chap: Option<Chap>) {
        *self.discovery.lock() = chap;
    }

    /// Offers a target no longer; returns when its sessions have ended.
    pub async fn withdraw(&self, name: &str) {
        let Some(offer) = self.targets.lock().remove(&name.to_ascii_lowercase()) else { return };
        offer.stop();
        for session in offer.sessions() {
            session.done.cancelled().await;
        }
    }

    /// Accepts connections until [`Self::drain`].
    ///
    /// # Errors
    /// None that a pause would not cure: those are waited out.
    pub async fn serve(self: Arc<Self>, listener: TcpListener) -> io::Result<()> {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.stop.cancelled() => return Ok(()),
            };
            match accepted {
                Ok((socket, peer)) => {
                    let knock = self.budget.knock(peer.ip().to_canonical());
                    self.tasks.spawn(door::serve(self.clone(), socket, peer, knock));
                }
                Err(error) => {
                    tracing::warn!(%error, "no connection could be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Ends: initiators are asked to log out, commands under way are answered, sessions end.
    pub async fn drain(&self) {
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(DRAIN_MAX, self.tasks.wait()).await.is_err() {
            tracing::warn!("iSCSI commands still ran when the server ended");
        }
    }

    /// For `status` and metrics.
    pub fn status(&self) -> IscsiStatus {
        let targets = self.targets.lock();
        let sessions = targets.values().flat_map(|offer| {
            offer.sessions().into_iter().map(|session| SessionStatus {
                target: offer.name.clone(),
                initiator: session.initiator.clone(),
                peer: session.peer,
            })
        });
        IscsiStatus { sessions: sessions.collect(), targets: targets.keys().cloned().collect(), logins: self.budget.counts().0 }
    }

    fn find(&self, name: &str) -> Option<Arc<Offer>> {
        self.targets.lock().get(&name.to_ascii_lowercase()).cloned()
    }

    /// Targets that an initiator may know of.
    fn targets_for(&self, initiator: &str) -> Vec<String> {
        self.targets.lock().values().filter(|offer| offer.admits(initiator)).map(|offer| offer.name.clone()).collect()
    }

    fn discovery_chap(&self) -> Option<Chap> {
        self.discovery.lock().clone()
    }

    /// A TSIH: not zero.
    fn session_handle(&self) -> u16 {
        match self.next_session.fetch_add(1, Ordering::Relaxed) {
            0 => self.next_session.fetch_add(1, Ordering::Relaxed),
            handle => handle,
        }
    }
}

/// An iSCSI name in its normal form (RFC 7143 §4.2.7): `iqn.`, `eui.` or `naa.`, lower case, of few characters.
fn iscsi_name(name: &str) -> Result<String, String> {
    let name = name.to_ascii_lowercase();
    let is_known = ["iqn.", "eui.", "naa."].iter().any(|kind| name.starts_with(kind));
    let is_plain = name.chars().all(|c| c.is_alphanumeric() || matches!(c, '-' | '.' | ':'));
    if is_known && is_plain && name.len() <= NAME_BYTES_MAX {
        return Ok(name);
    }
    Err(format!(
        "\"{name}\" is no iSCSI name: one begins with \"iqn.\", as iqn.2026-01.org.example:disk1, and has letters, digits, '-', '.' and ':' only"
    ))
}

#[cfg(test)]
mod tests;

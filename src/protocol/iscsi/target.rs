//! A target as iSCSI offers it: a name, who may reach it, and its sessions.
//!
//! Invariants:
//! - There is at most one session of an initiator port (name and ISID) with a target: a new one ends the old one first, and begins when
//!   nothing of it is under way (session reinstatement, RFC 7143 §6.3.5).
//! - New credentials end all sessions that were made with the old ones.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::chap::Chap;
use super::login::Accepted;
use crate::protocol::scsi;

/// Who may reach a target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admission {
    /// Names of initiators; empty: all.
    pub initiators: HashSet<String>,
    /// What they have to prove.
    pub chap: Option<Chap>,
}

/// See the module.
pub(super) struct Offer {
    pub(super) name: String,
    pub(super) scsi: Arc<scsi::Target>,
    admission: Mutex<Admission>,
    sessions: Mutex<Vec<Arc<Session>>>,
}

/// A session: one connection, one nexus.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) initiator: String,
    pub(super) isid: [u8; 6],
    pub(super) peer: SocketAddr,
    /// The session is to end, now.
    pub(super) stop: CancellationToken,
    /// Nothing of the session is under way any more.
    pub(super) done: CancellationToken,
}

impl Session {
    pub(super) fn new(accepted: &Accepted, peer: SocketAddr, stop: CancellationToken) -> Self {
        let (initiator, isid) = (accepted.initiator.clone(), accepted.isid);
        Self { initiator, isid, peer, stop, done: CancellationToken::new() }
    }
}

impl Offer {
    pub(super) fn new(name: &str, scsi: Arc<scsi::Target>, admission: Admission) -> Self {
        Self { name: name.to_owned(), scsi, admission: Mutex::new(admission), sessions: Mutex::default() }
    }

    pub(super) fn admits(&self, initiator: &str) -> bool {
        let admission = self.admission.lock();
        admission.initiators.is_empty() || admission.initiators.iter().any(|name| name.eq_ignore_ascii_case(initiator))
    }

    pub(super) fn chap(&self) -> Option<Chap> {
        self.admission.lock().chap.clone()
    }

    /// Changes who may reach it; sessions that would not be admitted so end.
    pub(super) fn admit(&self, admission: Admission) {
        let has_new_chap = admission.chap != self.admission.lock().chap;
        *self.admission.lock() = admission;
        for session in self.sessions.lock().iter() {
            if has_new_chap || !self.admits(&session.initiator) {
                session.stop.cancel();
            }
        }
    }

    pub(super) fn sessions(&self) -> Vec<Arc<Session>> {
        self.sessions.lock().clone()
    }

    /// Begins a session, when that of the same initiator port has ended.
    pub(super) async fn establish(&self, accepted: &Accepted, peer: SocketAddr) -> Arc<Session> {
        let session = Arc::new(Session::new(accepted, peer, CancellationToken::new()));
        loop {
            let old = {
                let mut sessions = self.sessions.lock();
                let same = |old: &&Arc<Session>| old.isid == accepted.isid && old.initiator == accepted.initiator;
                match sessions.iter().find(same) {
                    Some(old) => old.clone(),
                    None => {
                        sessions.push(session.clone());
                        return session;
                    }
                }
            };
            tracing::info!(target = self.name, initiator = old.initiator, "a session is reinstated");
            old.stop.cancel();
            old.done.cancelled().await;
            self.forget(&old);
        }
    }

    pub(super) fn forget(&self, session: &Arc<Session>) {
        self.sessions.lock().retain(|other| !Arc::ptr_eq(other, session));
    }

    /// Ends all sessions.
    pub(super) fn stop(&self) {
        for session in self.sessions.lock().iter() {
            session.stop.cancel();
        }
    }
}

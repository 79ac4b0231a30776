//! Exports: which share is offered to whom, and how.
//!
//! Invariants: an export is named by its share's name, and its number (in file handles, and as `fsid`) is derived from the name: both are
//! the same after a restart. The table changes while the server runs; a call uses what is in it when it comes.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use sha2::{Digest, Sha256};

use crate::engine::file::{Caller, Origin, Vfs};

use super::network::Network;
use super::rpc::Credential;

/// The highest port that only privileged programs may use.
const PRIVILEGED_PORT_MAX: u16 = 1023;
/// Where nobody said otherwise: `nobody`, `nogroup`.
pub const ANONYMOUS: u32 = 65_534;

/// Whose identity is not believed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Squash {
    /// Nobody's is changed.
    None,
    /// uid 0 and gid 0 become the anonymous ones.
    #[default]
    Root,
    /// Everybody is anonymous.
    All,
}

/// When namespace operations are answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Namespace {
    /// When they are durable.
    #[default]
    Sync,
    /// When they are done; a power loss may take the last of them back.
    Async,
}

/// Plain values of an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Who may.
    pub clients: Vec<Network>,
    /// Nothing can be changed through NFS.
    pub read_only: bool,
    /// See [`Squash`].
    pub squash: Squash,
    /// Who anonymous callers are.
    pub anonymous_uid: u32,
    /// See `anonymous_uid`.
    pub anonymous_gid: u32,
    /// Only clients that call from a port below 1024.
    pub privileged_ports: bool,
    /// See [`Namespace`].
    pub namespace: Namespace,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            clients: Network::LOOPBACK.to_vec(),
            read_only: false,
            squash: Squash::Root,
            anonymous_uid: ANONYMOUS,
            anonymous_gid: ANONYMOUS,
            privileged_ports: false,
            namespace: Namespace::Sync,
        }
    }
}

impl Rules {
    /// Whether a client may use the export at all.
    pub(super) fn admits(&self, peer: SocketAddr) -> bool {
        self.clients.iter().any(|network| network.contains(peer.ip()))
            && (!self.privileged_ports || peer.port() <= PRIVILEGED_PORT_MAX)
    }

    /// Whom a credential stands for.
    pub(super) fn caller(&self, credential: &Credential, origin: Origin) -> Caller {
        let anonymous = Caller { uid: self.anonymous_uid, gid: self.anonymous_gid, groups: Arc::from([]), pid: None, origin };
        let Credential::Sys { uid, gid, groups } = credential else { return anonymous };
        match self.squash {
            Squash::All => anonymous,
            Squash::None => Caller { uid: *uid, gid: *gid, groups: Arc::from(groups.as_slice()), ..anonymous },
            Squash::Root => {
                let group = |gid: u32| if gid == 0 { self.anonymous_gid } else { gid };
                let groups = groups.iter().map(|gid| group(*gid)).collect();
                let uid = if *uid == 0 { self.anonymous_uid } else { *uid };
                Caller { uid, gid: group(*gid), groups, ..anonymous }
            }
        }
    }
}

/// A share that is offered.
pub(super) struct Export {
    pub(super) name: String,
    pub(super) id: u64,
    pub(super) rules: Rules,
    /// `None`: the share is configured but does not run now; its clients are asked to wait.
    pub(super) vfs: Option<Arc<dyn Vfs>>,
}

/// An export's number: the first eight bytes of the SHA-256 of its name.
pub(super) fn export_id(name: &str) -> u64 {
    let digest = Sha256::digest(name.as_bytes());
    digest.first_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// All exports.
#[derive(Default)]
pub(super) struct Exports(RwLock<HashMap<u64, Arc<Export>>>);

impl Exports {
    pub(super) fn put(&self, name: &str, rules: Rules, vfs: Option<Arc<dyn Vfs>>) {
        let export = Export { name: name.to_owned(), id: export_id(name), rules, vfs };
        self.0.write().insert(export.id, Arc::new(export));
    }

    pub(super) fn remove(&self, name: &str) {
        self.0.write().remove(&export_id(name));
    }

    pub(super) fn get(&self, id: u64) -> Option<Arc<Export>> {
        self.0.read().get(&id).cloned()
    }

    pub(super) fn named(&self, name: &str) -> Option<Arc<Export>> {
        self.get(export_id(name)).filter(|export| export.name == name)
    }

    /// By name.
    pub(super) fn all(&self) -> Vec<Arc<Export>> {
        let mut all: Vec<_> = self.0.read().values().cloned().collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }
}

/// The longest that a call which changes something waits for room, before the client is told to come again (JUKEBOX).
pub(super) const ROOM_WAIT_MAX: Duration = Duration::from_secs(8);

/// The longest that bytes may take to become durable before the client is told to come again: S3 may be slow, or gone, where the share's
/// durability is `remote`. Shorter than the minute after which clients send a call again.
pub(super) const DURABLE_WAIT_MAX: Duration = Duration::from_secs(25);

#[cfg(test)]
mod tests {
    use super::*;

    fn sys(uid: u32, gid: u32, groups: &[u32]) -> Credential {
        Credential::Sys { uid, gid, groups: groups.to_vec() }
    }

    #[test]
    fn identities_are_squashed_as_the_rules_say() {
        let rules = |squash| Rules { squash, anonymous_uid: 99, anonymous_gid: 98, ..Rules::default() };
        let who = |squash, credential: Credential| {
            let caller = rules(squash).caller(&credential, Origin(2));
            (caller.uid, caller.gid, caller.groups.to_vec())
        };
        assert_eq!(who(Squash::None, sys(0, 0, &[0, 4])), (0, 0, vec![0, 4]));
        assert_eq!(who(Squash::Root, sys(0, 0, &[0, 4])), (99, 98, vec![98, 4]));
        assert_eq!(who(Squash::Root, sys(1000, 0, &[0])), (1000, 98, vec![98]));
        assert_eq!(who(Squash::Root, sys(1000, 100, &[27])), (1000, 100, vec![27]));
        assert_eq!(who(Squash::All, sys(1000, 100, &[27])), (99, 98, vec![]));
        for squash in [Squash::None, Squash::Root, Squash::All] {
            assert_eq!(who(squash, Credential::None), (99, 98, vec![]));
        }
    }

    #[test]
    fn only_who_is_listed_may_and_by_the_port_that_is_asked_for() {
        let rules = Rules { clients: vec!["10.0.0.0/8".parse().unwrap()], ..Rules::default() };
        let from = |address: [u8; 4], port: u16| SocketAddr::from((address, port));
        assert!(rules.admits(from([10, 1, 2, 3], 40_000)) && !rules.admits(from([11, 1, 2, 3], 700)));
        let rules = Rules { privileged_ports: true, ..rules };
        assert!(rules.admits(from([10, 1, 2, 3], 1023)) && !rules.admits(from([10, 1, 2, 3], 1024)));
        assert!(Rules::default().admits(from([127, 0, 0, 1], 5)) && !Rules::default().admits(from([10, 0, 0, 1], 5)));
    }
}

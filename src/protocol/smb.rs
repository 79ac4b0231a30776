//! SMB: shares as network drives. SMB 2.0.2, 2.1, 3.0, 3.0.2 and 3.1.1 by the crate `smb-server`, which has the wire, sessions, share modes, byte-range
//! locks and the list of shares; here is what it stands on.
//!
//! What lives here: [`Smb`], the server. `smb/backend.rs` is the crate's seam over a share, with `smb/tree.rs` (who acts, how a path finds its node),
//! `smb/index.rs` (names that are spelled otherwise), `smb/names.rs` (names that Windows cannot hold), `smb/open.rs`, `smb/file.rs` (what is open),
//! `smb/listing.rs`, `smb/pattern.rs`, `smb/watch.rs` (changes) and `smb/convert.rs` (every mapping of values and errors); `smb/users.rs` (who may log on),
//! `smb/rules.rs` (to whom a share is offered), `smb/sessions.rs` (who is connected), `smb/stats.rs`.
//!
//! Invariants:
//! - Nobody gets in without a password: no share is ever public in the crate's sense, and the guest is a user.
//! - What was answered survives the process; what FLUSH (or a write-through write) was answered for is durable as the share promises.
//! - A client sees what other front ends did as soon as they were answered: nothing is cached here that the share's changes do not keep true,
//!   and leases, which the crate cannot break for others, are off unless a share says so.
//! - A share is withdrawn, and all that is open in it closed, before it is closed or opened anew.
//!
//! # What the crate (`=0.8.0`) does not let us do, and so is not there
//!
//! - *Callers*: its seam is one per share, and says nothing of the user. So all users of a share act as one uid and gid; what a user may is given per
//!   share (nothing, reading, everything), and there is no user who is root on a share that others are not.
//! - *NT hashes*: it takes passwords only, so `users.rs` keeps passwords (encrypted) and not their MD4.
//! - *Share modes and byte-range locks* are its own tables: they hold among SMB clients, and NFS and FUSE do not see them, nor it theirs. They
//!   would not hold between two of its servers either: so there is one address to listen on. `LOCK` never waits.
//! - *Leases* are broken by its own opens only, there are no oplocks, and durable handles need leases. With leases off a client caches nothing.
//! - *Attributes*: archive, hidden, system, offline cannot be reported; they are taken and dropped. Read-only is the write bits of the mode.
//! - *No* streams, extended attributes, security descriptors, quotas, reparse points (symbolic links are followed here), server-side copy,
//!   previous versions, multichannel, AES-GMAC, Kerberos, short (8.3) names (smbclient's `allinfo` ends there).
//! - *One request at a time* of a connection: a read that waits for S3 holds up all others of that client, its keep-alives too. Read-ahead and the
//!   log (a write is answered from it) keep sequential copies going: 128 MiB that only S3 has, 20 ms away, are read in 1.5 to 2.0 s, through FUSE
//!   in 2.6 to 3.5 s in the same run; a put of 256 MiB takes 1.2 times what `cp` to the mount takes. Many cold reads at a time do not overlap.
//! - *Errors*: it has 14; "try again later" and "offline" are none of them, and come out as an I/O error.
//! - *A listing* is one piece: `listing.rs` bounds it. *Sessions* cannot be asked for: `sessions.rs` reads its log. A session is closed only
//!   by its user's, all of them. A failed logon's user is not told, only the address.

mod backend;
mod convert;
mod file;
mod index;
mod listing;
mod names;
mod open;
mod pattern;
mod rules;
pub mod sessions;
mod stats;
#[cfg(test)]
mod tests;
mod tree;
pub mod users;
mod watch;

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use smb_server::{Access, ConfigError, ConfigHandle, Share, ShutdownHandle, SmbServer};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::engine::file::{Origin, Vfs};
use backend::Backend;
pub use rules::Rules;
pub use stats::ShareStats;
use tree::Tree;
use users::User;

/// The front end number of all SMB clients.
pub const ORIGIN: Origin = Origin(3);

/// Connections at a time; each may hold a frame of [`IO_BYTES_MAX`] and its answer.
const CONNECTIONS_MAX: usize = 512;
/// The most that one request reads or writes.
const IO_BYTES_MAX: u32 = 1 << 20;
/// Logons of a name that may fail before it is locked out, and for how long.
const LOGON_FAILURES_MAX: u32 = 5;
const LOCKOUT: Duration = Duration::from_secs(30);
/// How long requests may take to finish when what they use is taken away.
const CUT_OFF_MAX: Duration = Duration::from_secs(5);
/// How long requests may take to finish when the server stops.
const DRAIN_MAX: Duration = Duration::from_secs(15);

/// Plain values of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Clients that do not sign are refused.
    pub must_sign: bool,
}

/// The server. Shares and users come and go while it runs.
pub struct Smb {
    /// Until it serves.
    server: tokio::sync::Mutex<Option<SmbServer>>,
    config: ConfigHandle,
    shutdown: ShutdownHandle,
    known: tokio::sync::Mutex<Known>,
    /// For `status`, which waits for nobody.
    trees: Mutex<BTreeMap<String, Arc<Tree>>>,
    tasks: TaskTracker,
    /// Requests that did not end in time are given up.
    abandoned: CancellationToken,
}

/// What the crate was told.
#[derive(Default)]
struct Known {
    users: Vec<User>,
    shares: BTreeMap<String, Offered>,
}

struct Offered {
    tree: Arc<Tree>,
    rules: Rules,
    granted: BTreeMap<String, Access>,
}

impl Smb {
    /// A server without users and shares, not listening yet.
    ///
    /// # Errors
    /// Where the crate refuses the settings.
    pub fn new(settings: &Settings) -> io::Result<Arc<Self>> {
        let server = SmbServer::builder()
            .listen(settings.listen)
            .require_signing(settings.must_sign)
            .logon_throttle(LOGON_FAILURES_MAX, LOCKOUT)
            .max_connections(CONNECTIONS_MAX)
            .max_read_size(IO_BYTES_MAX)
            .max_write_size(IO_BYTES_MAX)
            .build()
            .map_err(io::Error::other)?;
        Ok(Arc::new(Self {
            config: server.config_handle(),
            shutdown: server.shutdown_handle(),
            server: tokio::sync::Mutex::new(Some(server)),
            known: tokio::sync::Mutex::default(),
            trees: Mutex::default(),
            tasks: TaskTracker::new(),
            abandoned: CancellationToken::new(),
        }))
    }

    /// Binds the address; may be tried again.
    ///
    /// # Errors
    /// What the system says.
    pub async fn bind(&self) -> io::Result<SocketAddr> {
        match &*self.server.lock().await {
            Some(server) => server.bind().await,
            None => Err(io::Error::other("it serves already")),
        }
    }

    /// Accepts connections until [`Self::drain`].
    ///
    /// # Errors
    /// Where the address cannot be bound.
    pub async fn serve(self: Arc<Self>) -> io::Result<()> {
        let Some(server) = self.server.lock().await.take() else { return Ok(()) };
        let served = self.tasks.track_future(server.serve());
        tokio::select! {
            served = served => served,
            () = self.abandoned.cancelled() => Ok(()),
        }
    }

    /// Ends: no more requests are taken, those that run are answered, what is open is closed.
    pub async fn drain(&self) {
        self.shutdown.shutdown();
        self.tasks.close();
        if tokio::time::timeout(DRAIN_MAX, self.tasks.wait()).await.is_err() {
            tracing::warn!("SMB requests still ran when the server ended");
        }
        self.abandoned.cancel();
    }

    /// Offers a share, or changes how it is offered. `None`: it does not run now; its clients are told that there is no such share, and connect again.
    pub async fn offer(&self, name: &str, rules: Rules, vfs: Option<Arc<dyn Vfs>>) {
        let mut known = self.known.lock().await;
        let is_it = |tree: &Tree| vfs.as_ref().is_some_and(|vfs| std::ptr::addr_eq(Arc::as_ptr(vfs), Arc::as_ptr(&tree.vfs)));
        let granted = granted(&rules, &known.users);
        match known.shares.get_mut(name) {
            Some(offered) if offered.rules.serves_alike(&rules) && is_it(&offered.tree) => {
                offered.rules = rules;
                self.grant(name, &mut offered.granted, granted).await;
                return;
            }
            Some(_) => self.withdraw(&mut known, name).await,
            None => {}
        }
        let Some(vfs) = vfs else { return };
        let tree = Arc::new(Tree::new(name, rules.clone(), vfs));
        match self.config.add_share(share(&tree, &granted)).await {
            Ok(()) => {
                self.trees.lock().insert(name.to_owned(), tree.clone());
                known.shares.insert(name.to_owned(), Offered { tree, rules, granted });
            }
            Err(error) => tracing::error!(share = name, %error, "the share is not offered through SMB"),
        }
    }

    /// Offers a share no longer: what is open in it is closed.
    pub async fn unoffer(&self, name: &str) {
        self.withdraw(&mut *self.known.lock().await, name).await;
    }

    async fn withdraw(&self, known: &mut Known, name: &str) {
        self.trees.lock().remove(name);
        if known.shares.remove(name).is_some()
            && let Err(error) = cut_off(self.config.remove_share(name)).await
        {
            tracing::warn!(share = name, %error, "an SMB share was gone already");
        }
    }

    /// Makes what users may agree with what they should.
    async fn grant(&self, share: &str, granted: &mut BTreeMap<String, Access>, wanted: BTreeMap<String, Access>) {
        for (user, access) in wanted.iter().filter(|(user, access)| granted.get(*user) != Some(access)) {
            if let Err(error) = cut_off(self.config.grant_share_user(share, user, *access)).await {
                tracing::error!(share, user, %error, "a user does not get what the share's file says");
            }
        }
        for user in granted.keys().filter(|user| !wanted.contains_key(*user)) {
            if let Err(error) = cut_off(self.config.revoke_share_user(share, user)).await {
                tracing::debug!(share, user, %error, "a user was gone already");
            }
        }
        *granted = wanted;
    }

    /// From now on these users may log on, and no others. Sessions of who is gone, disabled, or has another password end.
    pub async fn set_users(&self, users: Vec<User>) {
        let mut known = self.known.lock().await;
        let wanted: Vec<User> = users.into_iter().filter(|user| !user.disabled).collect();
        let before = std::mem::replace(&mut known.users, wanted);
        for user in &known.users {
            if !before.iter().any(|old| (&old.name, &old.password) == (&user.name, &user.password))
                && let Err(error) = cut_off(self.config.add_user(&user.name, &user.password)).await
            {
                tracing::error!(user = user.name, %error, "the user cannot log on");
            }
        }
        let Known { users, shares } = &mut *known;
        for (name, offered) in shares {
            let wanted = granted(&offered.rules, users);
            self.grant(name, &mut offered.granted, wanted).await;
        }
        for gone in before.iter().filter(|old| !users.iter().any(|user| user.name == old.name)) {
            if let Err(error) = cut_off(self.config.remove_user(&gone.name)).await {
                tracing::debug!(user = gone.name, %error, "a user was gone already");
            }
        }
    }

    /// Ends all sessions of a user, who may log on again; `false`: there is no such user.
    pub async fn end_sessions(&self, name: &str) -> bool {
        let users = self.known.lock().await.users.clone();
        let Some(user) = users.iter().find(|user| user.name.to_lowercase() == name.to_lowercase()) else { return false };
        self.set_users(users.iter().filter(|other| other.name != user.name).cloned().collect()).await;
        self.set_users(users).await;
        true
    }

    /// For `status` and metrics: shares by name.
    pub fn shares(&self) -> Vec<ShareStats> {
        self.trees.lock().iter().map(|(name, tree)| tree.counts.snapshot(name)).collect()
    }
}

/// The crate takes a right away at once, and then waits for requests that still use it: not for one that hangs. What is open there is closed when it ends.
async fn cut_off(change: impl Future<Output = Result<(), ConfigError>>) -> Result<(), ConfigError> {
    tokio::time::timeout(CUT_OFF_MAX, change).await.unwrap_or(Ok(()))
}

fn granted(rules: &Rules, users: &[User]) -> BTreeMap<String, Access> {
    users.iter().filter_map(|user| Some((user.name.clone(), rules.access(user)?))).collect()
}

/// A share as the crate takes it.
fn share(tree: &Arc<Tree>, granted: &BTreeMap<String, Access>) -> Share {
    let rules = &tree.rules;
    let share = Share::new(&tree.name, Backend(tree.clone())).leases(rules.leases).listed(!rules.hidden).remark(&rules.comment);
    let share = if rules.must_encrypt { share.encrypt_data() } else { share };
    granted.iter().fold(share, |share, (user, access)| share.user(user, *access))
}

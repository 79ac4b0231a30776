//! The network status monitor, version 1 (X/Open XNFS, chapter 11), as far as a server of locks needs it: clients that held locks are
//! remembered over a restart and told of it; a client that says that it restarted loses its locks.
//!
//! One small file per client in a directory of the gateway's: its name and address. It is durable before the client's first lock is granted.
//!
//! Invariants: a notice is believed only from the address that the client's locks came from; files are bounded by the clients that lock.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use super::caller::{self, Procedure};
use super::rpc::{Refusal, Request};
use super::v3::Outcome;
use super::xdr::Encode;
use super::{Nfs, nlm};

pub(super) const PROGRAM: u32 = 100_024;
const VERSION: u32 = 1;
const NOTIFY: u32 = 6;
/// `SM_MAXSTRLEN`.
const NAME_BYTES_MAX: usize = 1024;
/// Clients that are remembered.
const CLIENTS_MAX: usize = 4096;
/// How often a client is told that the server restarted, and how long lies between.
const NOTICES_MAX: u32 = 5;
const NOTICE_PAUSE: Duration = Duration::from_secs(4);

/// Clients with locks, by name: where they are.
pub(super) struct Monitor {
    directory: Option<PathBuf>,
    clients: Mutex<HashMap<String, IpAddr>>,
    /// Clients of the life before.
    before: Vec<(String, IpAddr)>,
    /// Odd, and higher at each start.
    state: u32,
}

impl Monitor {
    /// Reads who held locks when the gateway ended. Without a directory nothing is remembered.
    ///
    /// # Errors
    /// Where the directory cannot be made, read or written.
    pub(super) fn open(directory: Option<&Path>) -> io::Result<Self> {
        let Some(directory) = directory else {
            return Ok(Self { directory: None, clients: Mutex::default(), before: Vec::new(), state: 1 });
        };
        fs::create_dir_all(directory)?;
        let mut before = Vec::new();
        for entry in fs::read_dir(directory)?.flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|extension| extension == "client")
                && let Ok(text) = fs::read_to_string(&path)
                && let Some((address, name)) = text.trim_end().split_once(' ')
                && let Ok(address) = address.parse()
            {
                before.push((name.to_owned(), address));
            }
        }
        let file = directory.join("state");
        let last: u32 = fs::read_to_string(&file).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        let state = (last.wrapping_add(1)) | 1;
        write_durably(directory, "state", &state.to_string())?;
        Ok(Self { directory: Some(directory.to_path_buf()), clients: Mutex::default(), before, state })
    }

    /// Whether anybody has locks to reclaim.
    pub(super) fn had_clients(&self) -> bool {
        !self.before.is_empty()
    }

    /// Clients of the life before that took nothing back are forgotten; until then another restart is told to them too.
    pub(super) fn end_grace(&self) {
        let Some(directory) = &self.directory else { return };
        for (name, _) in &self.before {
            if self.address_of(name).is_none() {
                let _ = fs::remove_file(directory.join(file_name(name)));
            }
        }
    }

    /// Sees to it that the client is told after a restart. Before its first lock is granted.
    ///
    /// # Errors
    /// `false` where it cannot be remembered.
    pub(super) async fn remember(&self, name: &str, address: IpAddr) -> bool {
        {
            let clients = self.clients.lock();
            if clients.get(name) == Some(&address) {
                return true;
            }
            if clients.len() >= CLIENTS_MAX && !clients.contains_key(name) {
                return false;
            }
        }
        if let Some(directory) = self.directory.clone() {
            let (file, text) = (file_name(name), format!("{address} {name}\n"));
            let written = tokio::task::spawn_blocking(move || write_durably(&directory, &file, &text)).await;
            if let Ok(Err(error)) = &written {
                tracing::error!(client = name, %error, "a client with locks cannot be remembered: it gets none");
            }
            if !matches!(written, Ok(Ok(()))) {
                return false;
            }
        }
        self.clients.lock().insert(name.to_owned(), address);
        true
    }

    /// Where a client with locks is.
    pub(super) fn address_of(&self, name: &str) -> Option<IpAddr> {
        self.clients.lock().get(name).copied()
    }

    /// The client has no locks any more.
    pub(super) fn forget(&self, name: &str) {
        self.clients.lock().remove(name);
        if let Some(directory) = &self.directory {
            // Where that fails the client is told of a restart for nothing.
            let _ = fs::remove_file(directory.join(file_name(name)));
        }
    }

    /// Tells every client of the life before that its locks are to be reclaimed.
    pub(super) async fn notify(&self, portmap_port: u16) {
        let own_name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let notices = self.before.iter().map(|(name, address)| self.notify_one(portmap_port, own_name.trim(), name, *address));
        futures_util::future::join_all(notices).await;
    }

    /// A client knows the server by name or by address, depending on how it mounted: it is told both.
    async fn notify_one(&self, portmap_port: u16, own_name: &str, name: &str, address: IpAddr) {
        for _ in 0..NOTICES_MAX {
            let told = async {
                let to = caller::find(portmap_port, address, PROGRAM, VERSION).await?;
                let what = Procedure { program: PROGRAM, version: VERSION, procedure: NOTIFY };
                let own_address = own_address_towards(address)?.to_string();
                for own in [own_name, &own_address] {
                    let mut args = Vec::new();
                    args.opaque(own.as_bytes());
                    Encode::u32(&mut args, self.state);
                    caller::call(to, what, &args).await?;
                }
                Ok::<_, io::Error>(())
            };
            match told.await {
                Ok(_) => return tracing::info!(client = name, "told to reclaim its locks"),
                Err(error) => tracing::debug!(client = name, %error, "cannot be told to reclaim its locks"),
            }
            tokio::time::sleep(NOTICE_PAUSE).await;
        }
        tracing::warn!(client = name, %address, "held locks before the restart and cannot be told to reclaim them");
    }
}

/// Which of this machine's addresses a client sees. (Connecting a UDP socket sends nothing.)
fn own_address_towards(client: IpAddr) -> io::Result<IpAddr> {
    let any: IpAddr = if client.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
    let socket = std::net::UdpSocket::bind((any, 0))?;
    socket.connect((client, 111))?;
    Ok(socket.local_addr()?.ip())
}

fn file_name(client: &str) -> String {
    let digest = Sha256::digest(client.as_bytes());
    format!("{}.client", hex::encode(&digest[..16]))
}

fn write_durably(directory: &Path, name: &str, text: &str) -> io::Result<()> {
    let (new, path) = (directory.join(format!("{name}.new")), directory.join(name));
    let mut file = fs::File::create(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(new, path)?;
    fs::File::open(directory)?.sync_all()
}

/// Carries out a call.
pub(super) async fn call(server: &Arc<Nfs>, request: &Request) -> Outcome {
    if request.version != VERSION {
        return Err(Refusal::Version(VERSION, VERSION));
    }
    match request.procedure {
        0 => {}
        NOTIFY => {
            let mut args = request.args.clone();
            let name = args.opaque(NAME_BYTES_MAX)?;
            let _state = args.u32()?;
            let name = String::from_utf8_lossy(&name).into_owned();
            let from = request.peer.ip().to_canonical();
            if server.monitor.address_of(&name) == Some(from) {
                tracing::info!(client = name, "restarted: its locks are released");
                nlm::release_client(server, &name).await;
            }
        }
        _ => return Err(Refusal::Procedure),
    }
    Ok(request.reply())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn clients_with_locks_are_remembered_over_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let open = || Monitor::open(Some(directory.path())).unwrap();
        let first = open();
        assert!(!first.had_clients());
        let address = IpAddr::from([10, 0, 0, 5]);
        assert!(first.remember("ana", address).await && first.remember("ben", address).await);
        first.forget("ben");
        assert_eq!((first.address_of("ana"), first.address_of("ben")), (Some(address), None));
        let second = open();
        assert_eq!(second.before, [("ana".to_owned(), address)]);
        assert!(second.state > first.state && second.state % 2 == 1);
        let third = open();
        assert!(third.had_clients(), "the gateway died again before anybody took a lock back");
        assert!(third.remember("ana", address).await);
        third.end_grace();
        let fourth = open();
        assert!(fourth.had_clients(), "who took its locks back is remembered anew");
        fourth.end_grace();
        assert!(!open().had_clients(), "who did not is forgotten");
    }
}

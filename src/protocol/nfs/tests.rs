//! The server over TCP on 127.0.0.1, with a share in a simulated world behind it, and a client whose XDR is `nfs3_types`'.

mod client;
mod conformance;
mod fixed;
mod fuzz;
mod golden;
mod hostile;
mod listing;
mod locking;
mod messages;
mod mounting;
mod procedures;
mod remote;
mod together;

use std::sync::Arc;

use nfs3_types::nfs3::{self, nfs_fh3, nfsstat3};
use tokio::net::TcpListener;

use super::*;
use crate::engine::file::tests::World;
use client::Client;

pub(super) const KEY: [u8; 32] = [42; 32];

/// A gateway with one share, `demo`, that is exported.
pub(super) struct Served {
    pub(super) world: World,
    pub(super) nfs: Arc<Nfs>,
    pub(super) address: std::net::SocketAddr,
}

/// Everybody of this machine, as root where they say so.
pub(super) fn open_rules() -> Rules {
    Rules { squash: Squash::None, ..Rules::default() }
}

impl Served {
    pub(super) async fn new() -> Self {
        Self::over(World::new().await, open_rules()).await
    }

    pub(super) async fn over(world: World, rules: Rules) -> Self {
        Self::with(world, rules, None).await
    }

    pub(super) async fn with(world: World, rules: Rules, directory: Option<&std::path::Path>) -> Self {
        let nfs = Nfs::new(&KEY, directory).unwrap();
        nfs.export("demo", rules, Some(world.share.clone()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(nfs.clone().serve(listener));
        Self { world, nfs, address }
    }

    pub(super) async fn client(&self) -> Client {
        Client::connect(self.address).await
    }

    /// A client, and the handle of the export's root.
    pub(super) async fn mounted(&self) -> (Client, nfs_fh3) {
        let mut client = self.client().await;
        let root = client.mount("/demo").await.unwrap();
        (client, root)
    }
}

/// Whether the full figures are asked for, which take long.
pub(super) fn soak() -> bool {
    crate::base::seeds::is_soak()
}

/// What a failed call says.
pub(super) fn error<T, E>(result: nfs3::Nfs3Result<T, E>) -> nfsstat3 {
    match result {
        nfs3::Nfs3Result::Ok(_) => nfsstat3::NFS3_OK,
        nfs3::Nfs3Result::Err((status, _)) => status,
    }
}

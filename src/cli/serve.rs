//! `tidegate serve`: a whole gateway, from the first directory to the last sync.

use std::net::SocketAddr;
use std::sync::Arc;

use sd_notify::NotifyState;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::stop::Stop;
use super::{Exit, fail};
use crate::config::Config;
use crate::gateway::{Gateway, watch};
use crate::protocol::admin::{self, Control};
use crate::protocol::s3;

/// Clients, segments and requests to S3 all take descriptors: the process takes as many as it may.
fn raise_descriptors() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let limits = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, rustix::process::Rlimit { current: limits.maximum, ..limits }) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

pub(super) async fn run(config: Config) -> Exit {
    raise_descriptors();
    let signals = match Stop::catch() {
        Ok(signals) => signals,
        Err(exit) => return exit,
    };
    let gateway = match Gateway::start(config).await {
        Ok(gateway) => gateway,
        Err(error) => return fail(Exit::Failed, &error.to_string()),
    };
    let stop = CancellationToken::new();
    let servers = TaskTracker::new();
    let admin = serve_admin(&gateway, &servers, &stop).await;
    let endpoint = serve_endpoint(&gateway, &servers, &stop).await;
    gateway.reload().await;
    // After the shares: a client's handle of one that is not there yet would be stale.
    let nfs = serve_nfs(&gateway, &servers).await;
    servers.spawn(watch::run(gateway.clone()));
    announce(&gateway, admin, endpoint, &nfs).await;
    let _ = sd_notify::notify(&[NotifyState::Ready]);

    signals.asked().await;
    println!("tidegate: stopping; what is not uploaded yet is kept and goes on at the next start");
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
    let drained = gateway.drain().await;
    stop.cancel();
    servers.close();
    servers.wait().await;
    match drained {
        Ok(()) => Exit::Ok,
        Err(error) => fail(Exit::Failed, &format!("the last sync failed: {error}")),
    }
}

/// Binds; where that fails one line says so, and the rest of the gateway runs.
async fn bind(what: &str, address: SocketAddr) -> Option<TcpListener> {
    match TcpListener::bind(address).await {
        Ok(listener) => Some(listener),
        Err(error) => {
            eprintln!("tidegate: {what} cannot listen on {address}: {error}; choose another address or stop who has it");
            None
        }
    }
}

async fn serve_admin(gateway: &Arc<Gateway>, servers: &TaskTracker, stop: &CancellationToken) -> Option<SocketAddr> {
    let listener = bind("the admin address ([admin] listen)", gateway.config().admin.listen).await?;
    let address = listener.local_addr().ok();
    let (control, stop) = (gateway.clone() as Arc<dyn Control>, stop.clone());
    servers.spawn(async move {
        if let Err(error) = admin::serve(listener, control, stop).await {
            tracing::error!(%error, "the admin address ended");
        }
    });
    address
}

async fn serve_endpoint(gateway: &Arc<Gateway>, servers: &TaskTracker, stop: &CancellationToken) -> Option<SocketAddr> {
    let (local, settings) = gateway.embedded()?;
    let listener = bind("the embedded S3 endpoint ([embedded] listen)", gateway.config().embedded.listen).await?;
    let address = listener.local_addr().ok();
    let stop = stop.clone();
    servers.spawn(async move {
        if let Err(error) = s3::serve(listener, local, settings, stop).await {
            tracing::error!(%error, "the embedded S3 endpoint ended");
        }
    });
    address
}

/// Listens wherever NFS is to be served; the addresses that could be had.
async fn serve_nfs(gateway: &Arc<Gateway>, servers: &TaskTracker) -> Vec<SocketAddr> {
    let mut served = Vec::new();
    for (address, otherwise) in gateway.config().nfs.addresses() {
        let listener = match (TcpListener::bind(address).await, otherwise) {
            (Ok(listener), _) => Some(listener),
            (Err(_), Some(otherwise)) => bind("NFS ([nfs] listen)", otherwise).await,
            (Err(_), None) => bind("NFS ([nfs] listen)", address).await,
        };
        let Some(listener) = listener else { continue };
        served.extend(listener.local_addr());
        let nfs = gateway.nfs().clone();
        servers.spawn(async move {
            if let Err(error) = nfs.serve(listener).await {
                tracing::error!(%error, "the NFS server ended");
            }
        });
    }
    if let Some(address) = served.first().filter(|_| gateway.config().nfs.rpcbind)
        && let Err(reason) = gateway.nfs().announce(*address).await
    {
        tracing::info!(reason, "NFS clients have to name the port, and have no locks between machines (nolock)");
    }
    served
}

/// How Linux mounts a share, without rpcbind.
fn mount_command(address: SocketAddr, share: &str) -> String {
    let (host, port) = (address.ip(), address.port());
    format!("mount -t nfs -o vers=3,tcp,nolock,port={port},mountport={port},mountproto=tcp {host}:/{share} /mnt")
}

/// Says what is served, and the exact command for each.
async fn announce(gateway: &Gateway, admin: Option<SocketAddr>, endpoint: Option<SocketAddr>, nfs: &[SocketAddr]) {
    println!("tidegate {} is running", env!("CARGO_PKG_VERSION"));
    if let Some(address) = endpoint {
        let file = gateway.config().data_dir.join("s3/credentials");
        println!("  s3       http://{address}   keys in {}", file.display());
        println!("           AWS_SHARED_CREDENTIALS_FILE={} aws --endpoint-url http://{address} s3 ls", file.display());
    }
    if let Some(address) = admin {
        println!("  admin    http://{address}/metrics   tidegate status");
    }
    for share in gateway.status().await.shares {
        println!("  share    {:<12} s3://{}/{}", share.name, share.bucket, share.prefix);
        if !share.mount.is_empty() {
            println!("           files   {}", share.mount);
        }
        if let Some(address) = nfs.first() {
            println!("           nfs     {}", mount_command(*address, &share.name));
        }
        if !share.reason.is_empty() {
            println!("           {}", share.reason);
        }
    }
}

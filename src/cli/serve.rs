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

pub(super) async fn run(config: Config) -> Exit {
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
    servers.spawn(watch::run(gateway.clone()));
    announce(&gateway, admin, endpoint).await;
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

/// Says what is served, and the exact command for each.
async fn announce(gateway: &Gateway, admin: Option<SocketAddr>, endpoint: Option<SocketAddr>) {
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
        if !share.reason.is_empty() {
            println!("           {}", share.reason);
        }
    }
}

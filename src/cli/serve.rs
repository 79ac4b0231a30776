//! `tidegate serve`: a whole gateway, from the first directory to the last sync.

use std::net::SocketAddr;
use std::sync::Arc;

use sd_notify::NotifyState;
use tokio::net::TcpListener;

use super::listen::{self, Servers};
use super::stop::Stop;
use super::{Exit, fail, out};
use crate::config::Config;
use crate::gateway::{Gateway, disk, mend, watch};
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
    let servers = Servers::default();
    let admin = serve_admin(&gateway, &servers).await;
    let endpoint = serve_endpoint(&gateway, &servers).await;
    gateway.reload().await;
    // After the shares: a client's handle of one that is not there yet would be stale.
    let nfs = serve_nfs(&gateway, &servers).await;
    gateway.open_volumes().await;
    let iscsi = serve_iscsi(&gateway, &servers).await;
    let smb = serve_smb(&gateway, &servers).await;
    servers.tasks.spawn(watch::run(gateway.clone()));
    servers.tasks.spawn(mend::run(gateway.clone()));
    servers.tasks.spawn(disk::run(gateway.clone()));
    announce(&gateway, admin, endpoint, &nfs, &iscsi, smb).await;
    let _ = sd_notify::notify(&[NotifyState::Ready]);

    signals.asked().await;
    out::say("tidegate: stopping; what is not uploaded yet is kept and goes on at the next start".into());
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
    let drained = gateway.drain().await;
    servers.stop.cancel();
    servers.tasks.close();
    servers.tasks.wait().await;
    match drained {
        Ok(()) => Exit::Ok,
        Err(error) => fail(Exit::Failed, &format!("the last sync failed: {error}")),
    }
}

async fn serve_admin(gateway: &Arc<Gateway>, servers: &Servers) -> Option<SocketAddr> {
    let (control, stop) = (gateway.clone() as Arc<dyn Control>, servers.stop.clone());
    let wanted = vec![gateway.config().admin.listen];
    listen::serve(gateway, servers, "the admin address ([admin] listen)", wanted, move |listener| {
        admin::serve(listener, control.clone(), stop.clone())
    })
    .await
}

/// At once where a share or the gateway uses it, else as soon as the first one does.
async fn serve_endpoint(gateway: &Arc<Gateway>, servers: &Servers) -> Option<SocketAddr> {
    if gateway.embedded().is_some() {
        return listen_endpoint(gateway, servers).await;
    }
    let (gateway, again) = (gateway.clone(), servers.clone());
    servers.tasks.spawn(async move {
        tokio::select! {
            () = again.stop.cancelled() => {}
            () = gateway.embedded_opened() => if let Some(address) = listen_endpoint(&gateway, &again).await {
                tracing::info!(%address, "the embedded S3 endpoint is used from now on");
            },
        }
    });
    None
}

async fn listen_endpoint(gateway: &Arc<Gateway>, servers: &Servers) -> Option<SocketAddr> {
    let (local, settings) = gateway.embedded()?;
    let stop = servers.stop.clone();
    let wanted = vec![gateway.config().embedded.listen];
    listen::serve(gateway, servers, "the embedded S3 endpoint ([embedded] listen)", wanted, move |listener| {
        s3::serve(listener, local.clone(), settings.clone(), stop.clone())
    })
    .await
}

/// Listens wherever NFS is to be served; the addresses that could be had at once.
async fn serve_nfs(gateway: &Arc<Gateway>, servers: &Servers) -> Vec<SocketAddr> {
    let mut served = Vec::new();
    for (address, otherwise) in gateway.config().nfs.addresses() {
        let nfs = gateway.nfs().clone();
        let wanted = std::iter::once(address).chain(otherwise).collect();
        let run = move |listener: TcpListener| {
            let nfs = nfs.clone();
            async move { nfs.serve(listener).await }
        };
        served.extend(listen::serve(gateway, servers, "NFS ([nfs] listen)", wanted, run).await);
    }
    if let Some(address) = served.first().filter(|_| gateway.config().nfs.rpcbind)
        && let Err(reason) = gateway.nfs().announce(*address).await
    {
        tracing::info!(reason, "NFS clients have to name the port, and have no locks between machines (nolock)");
    }
    served
}

/// Listens wherever iSCSI is to be served, as soon as there is something to serve; the addresses that could be had at once.
async fn serve_iscsi(gateway: &Arc<Gateway>, servers: &Servers) -> Vec<SocketAddr> {
    if !gateway.status().await.volumes.is_empty() {
        return listen_iscsi(gateway, servers).await;
    }
    let (gateway, again) = (gateway.clone(), servers.clone());
    servers.tasks.spawn(async move {
        tokio::select! {
            () = again.stop.cancelled() => {}
            () = gateway.iscsi_used() => {
                let served = listen_iscsi(&gateway, &again).await;
                tracing::info!(?served, "volumes are served by iSCSI from now on");
            }
        }
    });
    Vec::new()
}

async fn listen_iscsi(gateway: &Arc<Gateway>, servers: &Servers) -> Vec<SocketAddr> {
    let mut served = Vec::new();
    for address in gateway.config().iscsi.listen.clone() {
        let iscsi = gateway.iscsi().clone();
        let run = move |listener: TcpListener| {
            let iscsi = iscsi.clone();
            async move { iscsi.serve(listener).await }
        };
        served.extend(listen::serve(gateway, servers, "iSCSI ([iscsi] listen)", vec![address], run).await);
    }
    served
}

/// Listens for SMB, where that is wanted: now, and then the address is returned, or later.
async fn serve_smb(gateway: &Arc<Gateway>, servers: &Servers) -> Option<SocketAddr> {
    // Where that fails it is a notice, and is looked at again.
    let _ = gateway.reload_users().await;
    let wanted = gateway.config().smb.address()?;
    let (smb, run) = (gateway.smb().clone(), gateway.smb().clone());
    let bind = move || {
        let smb = smb.clone();
        async move { smb.bind().await }
    };
    listen::serve_own(gateway, servers, "SMB ([smb] listen)", wanted, bind, run.serve()).await
}

/// How Linux mounts a share, without rpcbind.
fn mount_command(address: SocketAddr, share: &str) -> String {
    let (host, port) = (address.ip(), address.port());
    format!("mount -t nfs -o vers=3,tcp,nolock,port={port},mountport={port},mountproto=tcp {host}:/{share} /mnt")
}

/// How Linux mounts a share as a user of `tidegate user add`.
fn smb_command(address: SocketAddr, share: &str) -> String {
    format!("mount -t cifs -o vers=3.1.1,port={},username=USER //{}/{share} /mnt", address.port(), address.ip())
}

/// Says what is served, and the exact command for each.
async fn announce(
    gateway: &Gateway,
    admin: Option<SocketAddr>,
    endpoint: Option<SocketAddr>,
    nfs: &[SocketAddr],
    iscsi: &[SocketAddr],
    smb: Option<SocketAddr>,
) {
    let mut lines = vec![format!("tidegate {} is running", env!("CARGO_PKG_VERSION"))];
    if let Some(address) = endpoint {
        let file = gateway.config().data_dir.join("s3/credentials");
        lines.push(format!("  s3       http://{address}   keys in {}", file.display()));
        lines
            .push(format!("           AWS_SHARED_CREDENTIALS_FILE={} aws --endpoint-url http://{address} s3 ls", file.display()));
    }
    if let Some(address) = admin {
        lines.push(format!("  admin    http://{address}/metrics   tidegate status"));
    }
    let status = gateway.status().await;
    for volume in &status.volumes {
        lines.push(format!("  volume   {:<12} {}", volume.name, volume.target));
        if let Some(address) = iscsi.first() {
            lines.push(format!("           iscsiadm -m discovery -t sendtargets -p {address} --login"));
        }
    }
    for share in status.shares {
        lines.push(format!("  share    {:<12} s3://{}/{}", share.name, share.bucket, share.prefix));
        if !share.mount.is_empty() {
            lines.push(format!("           files   {}", share.mount));
        }
        if let Some(address) = nfs.first() {
            lines.push(format!("           nfs     {}", mount_command(*address, &share.name)));
        }
        if let Some(address) = smb {
            lines.push(format!("           smb     {}", smb_command(address, &share.name)));
        }
        if !share.reason.is_empty() {
            lines.push(format!("           {}", share.reason));
        }
    }
    let _ = out::write(&lines);
}

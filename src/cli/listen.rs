//! Listeners: bound now, or as soon as they can be.
//!
//! Invariant: an address that is taken, or a server that ends by itself, is told in one line, stays in `status`, and is tried again until
//! it works or the gateway stops; nothing else waits for it.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::gateway::Gateway;
use crate::gateway::mend::Backoff;
use crate::gateway::notices::About;

/// The servers of a gateway, and how they are asked to end.
#[derive(Clone, Default)]
pub(super) struct Servers {
    pub(super) tasks: TaskTracker,
    pub(super) stop: CancellationToken,
}

/// Runs a server on the first of the `wanted` addresses that can be had: now, and then the address is returned, or later.
pub(super) async fn serve<F, R>(
    gateway: &Arc<Gateway>,
    servers: &Servers,
    what: &'static str,
    wanted: Vec<SocketAddr>,
    run: F,
) -> Option<SocketAddr>
where
    F: Fn(TcpListener) -> R + Send + Sync + 'static,
    R: Future<Output = io::Result<()>> + Send + 'static,
{
    let about = About::Listen(format!("{what} {wanted:?}"));
    let first = bind(gateway, &about, what, &wanted).await;
    let address = first.as_ref().and_then(|listener| listener.local_addr().ok());
    let (gateway, stop) = (gateway.clone(), servers.stop.clone());
    servers.tasks.spawn(async move {
        let mut listener = first;
        let mut retry = Backoff::new();
        while !stop.is_cancelled() {
            if let Some(listener) = listener.take() {
                gateway.mended(&about);
                retry = Backoff::new();
                match run(listener).await {
                    Ok(()) => return,
                    Err(error) => gateway.notice(about.clone(), format!("{what} ended: {error}; it is started again")),
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(retry.left()) => retry.again(),
            }
            listener = bind(&gateway, &about, what, &wanted).await;
        }
    });
    address
}

/// Runs a server that binds its one address itself, once it could: now, and then the address is returned, or later.
pub(super) async fn serve_own<F, B, R>(
    gateway: &Arc<Gateway>,
    servers: &Servers,
    what: &'static str,
    wanted: SocketAddr,
    bind: F,
    run: R,
) -> Option<SocketAddr>
where
    F: Fn() -> B + Send + Sync + 'static,
    B: Future<Output = io::Result<SocketAddr>> + Send + 'static,
    R: Future<Output = io::Result<()>> + Send + 'static,
{
    let about = About::Listen(format!("{what} {wanted}"));
    let first = bind().await;
    let address = first.as_ref().ok().copied();
    let (gateway, stop) = (gateway.clone(), servers.stop.clone());
    servers.tasks.spawn(async move {
        let mut retry = Backoff::new();
        let mut bound = first;
        while let Err(error) = bound {
            refused(&gateway, &about, what, wanted, &error);
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(retry.left()) => retry.again(),
            }
            bound = bind().await;
        }
        gateway.mended(&about);
        if let Err(error) = run.await {
            gateway.notice(about, format!("{what} ended: {error}; restart the gateway"));
        }
    });
    address
}

/// Binds; where that fails one line says so.
async fn bind(gateway: &Gateway, about: &About, what: &str, wanted: &[SocketAddr]) -> Option<TcpListener> {
    let mut failed = None;
    for address in wanted {
        match TcpListener::bind(address).await {
            Ok(listener) => return Some(listener),
            Err(error) => failed = Some((address, error)),
        }
    }
    if let Some((address, error)) = failed {
        refused(gateway, about, what, *address, &error);
    }
    None
}

fn refused(gateway: &Gateway, about: &About, what: &str, address: SocketAddr, error: &io::Error) {
    gateway.notice(
        about.clone(),
        format!("{what} cannot listen on {address}: {error}; choose another address or stop who has it (it is tried again)"),
    );
}

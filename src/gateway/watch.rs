//! Notices when the shares' files change, and reloads. The file of SMB's users is read again then too; `tidegate user` says itself that it changed it.
//!
//! Invariant: an event is only a reason to look; what is in force is always read from the files. So a lost or doubled event does no harm:
//! files are also looked at now and then.

use std::sync::Arc;
use std::time::Duration;

use notify::{RecursiveMode, Watcher};
use tokio::sync::mpsc;

use super::Gateway;

/// Editors write a file in several steps: it is read when it was quiet for so long.
const QUIET: Duration = Duration::from_millis(200);
/// Where the kernel tells nothing (a network file system, an overflow), the files are read this often.
const LOOK_INTERVAL: Duration = Duration::from_secs(30);

/// Reloads on changes until the gateway stops.
pub async fn run(gateway: Arc<Gateway>) {
    let (hint, mut hints) = mpsc::channel::<()>(1);
    // A full channel already says all there is to say.
    let watcher = notify::recommended_watcher(move |_| {
        let _ = hint.try_send(());
    });
    let watched = watcher.and_then(|mut watcher| {
        watcher.watch(&gateway.config().shares_dir, RecursiveMode::NonRecursive)?;
        Ok(watcher)
    });
    if let Err(error) = &watched {
        tracing::warn!(%error, directory = %gateway.config().shares_dir.display(), "changes of shares are noticed late");
    }
    // What changed after the first read and before there was a watch.
    gateway.reload().await;
    loop {
        tokio::select! {
            () = gateway.stop.cancelled() => return,
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
            Some(()) = hints.recv() => {
                tokio::time::sleep(QUIET).await;
                while hints.try_recv().is_ok() {}
            }
        }
        gateway.reload().await;
        // Where that fails it is a notice.
        let _ = gateway.reload_users().await;
    }
}

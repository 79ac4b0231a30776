//! Watches the disk of the database: below a floor of free room every share is read-only, but for what is removed, and says so, until there is more.
//!
//! Invariant: what was taken on before stays safe: the database keeps a ballast that it gives up to write down what was acknowledged.

use std::sync::Arc;
use std::time::Duration;

use indicatif::HumanBytes;

use super::Gateway;
use super::notices::About;

/// How often it is looked.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Watches until the gateway stops.
pub async fn run(gateway: Arc<Gateway>) {
    loop {
        let meta = gateway.blobs.meta().clone();
        let Ok(wanted_bytes) = tokio::task::spawn_blocking(move || meta.look_at_disk()).await else { return };
        match wanted_bytes {
            None => gateway.mended(&About::Disk),
            Some(wanted_bytes) => gateway.notice(
                About::Disk,
                format!(
                    "the disk of {} is nearly full: all shares are read-only, but for the removal of files, until {} are free \
                     there; delete something, or make the disk larger",
                    gateway.config.data_dir.display(),
                    HumanBytes(wanted_bytes)
                ),
            ),
        }
        tokio::select! {
            () = gateway.stop.cancelled() => return,
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
        }
    }
}

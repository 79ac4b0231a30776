//! Objects of volumes that nothing names any more are looked for once a day, and at an operator's word.

use std::sync::Arc;
use std::time::Duration;

use super::Gateway;
use super::notices::About;
use crate::protocol::admin::volumes::CollectionStatus;

/// How often there is a pass: two of them, so far apart, remove something.
const INTERVAL: Duration = Duration::from_secs(24 * 3600);
/// How soon after a start, at the earliest: a start has better to do.
const DELAY: Duration = Duration::from_secs(600);
/// How long after one that failed.
const RETRY: Duration = Duration::from_secs(3600);
/// What the notice of a pass that failed is under; no share has such a name.
const NAME: &str = "[volumes] collection";

/// Collects each day until the gateway stops.
pub(super) async fn run(gateway: Arc<Gateway>) {
    let mut wait = DELAY;
    loop {
        tokio::select! {
            () = gateway.stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
        wait = match gateway.until_collection().await {
            Some(left) if left > Duration::ZERO => left,
            _ => match gateway.collect_volumes(false).await {
                Ok(found) => {
                    tracing::info!(
                        unreferenced = found.unreferenced,
                        removed = found.removed,
                        "objects of volumes were collected"
                    );
                    gateway.mended(&About::File(NAME.into()));
                    INTERVAL
                }
                Err(reason) => {
                    let text =
                        format!("objects of volumes that nothing names could not be collected, which is tried again: {reason}");
                    gateway.notice(About::File(NAME.into()), text);
                    RETRY
                }
            },
        };
    }
}

impl Gateway {
    /// How long until a pass is due; `None`: there was none yet.
    async fn until_collection(self: &Arc<Self>) -> Option<Duration> {
        let last_ns = self.home().await.ok()?.last_collection_ns().await.ok()??;
        let age = Duration::from_nanos(u64::try_from(self.clock.now_ns() - last_ns).unwrap_or(0));
        Some(INTERVAL.saturating_sub(age))
    }

    /// One pass over the bucket of volumes.
    pub(super) async fn collect_volumes(self: &Arc<Self>, dry_run: bool) -> Result<CollectionStatus, String> {
        let _one = self.volumes.collecting.lock().await;
        let found = self.home().await?.collect(&self.served_volumes(), dry_run).await.map_err(|error| error.to_string())?;
        Ok(CollectionStatus {
            dry_run,
            objects: found.objects,
            bytes: found.bytes,
            unreferenced: found.unreferenced,
            unreferenced_bytes: found.unreferenced_bytes,
            removed: found.removed,
            removed_bytes: found.removed_bytes,
            keys: found.keys,
        })
    }
}

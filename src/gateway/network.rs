//! The network front ends of a gateway's shares: what is offered follows what runs and what the shares' files say.
//!
//! Invariant: a share that is configured and does not run (it is being reopened, or cannot be opened) stays exported, and its NFS clients are
//! told to wait; only one that is gone from the configuration is stale. SMB has no word for it: there it is gone meanwhile.

use std::fs::File;
use std::io::Read;
use std::sync::Arc;

use crate::base::id::OwnerId;
use crate::config::ShareConfig;
use crate::engine::file::Vfs;
use crate::engine::file::share::Share;
use crate::protocol::admin::{NfsStatus, ProcedureStatus};
use crate::protocol::nfs::{LATENCY_BOUNDS_US, Nfs};
use crate::store::blob::{Batch, BlobError, BlobStore};
use crate::store::meta::{Key, Row, ValueRow};

use super::Gateway;

/// The row that holds the key of NFS file handles.
const NFS_KEY: &str = "nfs.key";

impl Gateway {
    /// The NFS server.
    pub fn nfs(&self) -> &Arc<Nfs> {
        &self.nfs
    }

    /// Offers a share as its file says; without `share` its clients wait.
    pub(super) async fn offer(&self, name: &str, config: &ShareConfig, share: Option<&Arc<Share>>) {
        let vfs = share.map(|share| share.clone() as Arc<dyn Vfs>);
        self.nfs.export(name, config.nfs.clone().unwrap_or_default().rules(), vfs.clone());
        self.smb.offer(name, config.smb_rules(&self.config), vfs).await;
    }

    pub(super) fn nfs_status(&self) -> NfsStatus {
        let status = self.nfs.status();
        NfsStatus {
            connections: status.connections,
            clients: status.clients.iter().map(ToString::to_string).collect(),
            mounts: status.mounts.iter().map(|(client, path)| format!("{client}:{path}")).collect(),
            refused: status.refused,
            procedures: status
                .procedures
                .iter()
                .map(|procedure| ProcedureStatus {
                    name: procedure.name.to_owned(),
                    calls: procedure.calls,
                    errors: procedure.errors,
                    mean_us: procedure.total_us.checked_div(procedure.calls).unwrap_or(0),
                })
                .collect(),
        }
    }

    pub(super) fn nfs_metrics(&self) {
        let status = self.nfs.status();
        metrics::gauge!("tidegate_nfs_connections").set(status.connections as f64);
        metrics::gauge!("tidegate_nfs_clients").set(status.clients.len() as f64);
        metrics::gauge!("tidegate_nfs_mounts").set(status.mounts.len() as f64);
        metrics::counter!("tidegate_nfs_refused_total").absolute(status.refused);
        for procedure in &status.procedures {
            let name = procedure.name;
            metrics::counter!("tidegate_nfs_calls_total", "procedure" => name).absolute(procedure.calls);
            metrics::counter!("tidegate_nfs_errors_total", "procedure" => name).absolute(procedure.errors);
            metrics::counter!("tidegate_nfs_microseconds_total", "procedure" => name).absolute(procedure.total_us);
            let bounds = LATENCY_BOUNDS_US.iter().map(ToString::to_string).chain(["+Inf".to_owned()]);
            let mut below = 0;
            for (bound, count) in bounds.zip(procedure.buckets) {
                below += count;
                metrics::counter!("tidegate_nfs_latency_microseconds_bucket", "procedure" => name, "le" => bound).absolute(below);
            }
        }
    }
}

/// The key of NFS file handles: made at the first start, from the system's entropy, and kept, so that handles survive a restart.
pub(super) async fn nfs_key(blobs: &Arc<BlobStore>) -> Result<[u8; 32], BlobError> {
    if let Some(Row::Value(row)) = blobs.meta().get(&Key::Value(NFS_KEY.into())).await?
        && let Ok(key) = row.value.try_into()
    {
        return Ok(key);
    }
    let mut key = [0; 32];
    let read = File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut key));
    if let Err(error) = read {
        tracing::error!(%error, "/dev/urandom cannot be read: NFS file handles could be guessed, so they are made for this start only");
        use std::hash::{BuildHasher, RandomState};
        for part in key.chunks_mut(8) {
            part.copy_from_slice(&RandomState::new().hash_one(0_u8).to_le_bytes());
        }
        return Ok(key);
    }
    let mut batch = Batch::new();
    batch.put(Row::Value(ValueRow { name: NFS_KEY.into(), value: key.to_vec() }));
    blobs.apply(OwnerId(0), batch).await?;
    blobs.sync().await?;
    Ok(key)
}

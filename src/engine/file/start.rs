//! How a share begins and ends.
//!
//! Invariants: a share's name stands for one place (endpoint, bucket, prefix) for ever; its owner id is never given to another. Nodes that were open
//! without a name when the gateway died are removed before anybody looks.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;

use crate::base::id::{BlobId, NodeId, OwnerId, Seq};
use crate::engine::file::{NodeKind, VfsError};
use crate::store::blob::{Batch, BlobError, BlobStore, Portion};
use crate::store::meta::{NodeRow, OwnerRow, Row};
use crate::store::object::SharedStore;
use crate::store::upload::Uploader;

use super::atime::AccessTimes;
use super::changes::Hub;
use super::guard::Guards;
use super::handle::Handles;
use super::lock::LockTable;
use super::remote::Remote;
use super::share::{Settings, Share};
use super::tree::{COOKIE_FIRST, Places};

/// What `OwnerRow::kind` says of a share.
const KIND: &str = "share";

/// How often access times are written.
const ATIME_FLUSH: Duration = Duration::from_secs(300);

/// Why a share does not start.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StartError {
    /// The name stands for another place: this part of it differs.
    #[error("the {part} of a share cannot change: this one's files are at {kept:?}, not at {given:?}")]
    Moved {
        /// `endpoint`, `bucket` or `prefix`.
        part: &'static str,
        /// What the name stands for.
        kept: String,
        /// What the configuration says.
        given: String,
    },
    /// Reading or writing what it has failed.
    #[error(transparent)]
    Failed(#[from] VfsError),
}

impl From<BlobError> for StartError {
    fn from(error: BlobError) -> Self {
        Self::Failed(error.into())
    }
}

/// The parts that a share is built on.
pub struct Parts {
    /// The gateway's blobs.
    pub blobs: Arc<BlobStore>,
    /// The gateway's uploads.
    pub uploader: Arc<Uploader>,
    /// The share's bucket.
    pub bucket: SharedStore,
    /// The gateway's id.
    pub gateway: String,
    /// How many dirty bytes it may have.
    pub portion: Portion,
}

impl Share {
    /// Opens a share, the first time with an empty root. `settings.prefix` is empty or ends in "/".
    ///
    /// # Errors
    /// `Moved` where the name stands for another place.
    pub async fn open(name: &str, settings: Settings, parts: Parts) -> Result<Arc<Self>, StartError> {
        let (owner, root) = owner_of(name, &settings, &parts.blobs).await?;
        let Parts { blobs, uploader, bucket, gateway, portion } = parts;
        let share = Arc::new_cyclic(|this| Self {
            this: this.clone(),
            owner,
            name: name.to_owned(),
            root,
            prefix: settings.prefix.clone(),
            settings: RwLock::new(Arc::new(settings)),
            blobs,
            uploader,
            bucket,
            gateway,
            changes: Hub::default(),
            handles: Handles::new(),
            locks: LockTable::default(),
            guards: Guards::new(),
            places: Places::new(),
            atimes: AccessTimes::default(),
            remote: Remote::new(),
        });
        share.remove_orphans().await?;
        share.attach(portion).await?;
        share.flush_atimes_sometimes();
        Ok(share)
    }

    /// Stops uploading after what is under way, and writes what is only in memory. Jobs stay for the next start.
    pub async fn stop(&self) {
        self.flush_atimes().await;
        self.detach().await;
    }

    async fn remove_orphans(&self) -> Result<(), VfsError> {
        for row in self.meta().orphans(self.owner).await? {
            let mut batch = Batch::new();
            self.remove_node(&mut batch, &row).await?;
            self.apply(batch).await?;
        }
        Ok(())
    }

    fn flush_atimes_sometimes(&self) {
        let this = self.this.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(ATIME_FLUSH).await;
                let Some(share) = this.upgrade() else { return };
                share.flush_atimes().await;
            }
        });
    }
}

/// Refuses a share whose name stands for another place, before anything is done at the new one.
///
/// # Errors
/// As [`Share::open`].
pub async fn check_place(name: &str, settings: &Settings, blobs: &BlobStore) -> Result<(), StartError> {
    let owners = blobs.meta().owners().await.map_err(BlobError::from)?;
    owners.iter().find(|row| row.kind == KIND && row.name == name).map_or(Ok(()), |known| same_place(known, settings))
}

fn same_place(known: &OwnerRow, settings: &Settings) -> Result<(), StartError> {
    let parts = [
        ("endpoint", &known.endpoint, &settings.endpoint),
        ("bucket", &known.bucket, &settings.bucket),
        ("prefix", &known.prefix, &settings.prefix),
    ];
    // A row from before the endpoint was kept takes the one that it is opened with.
    let is_said = |part: &str| part != "endpoint" || !(known.endpoint.is_empty() || settings.endpoint.is_empty());
    match parts.into_iter().find(|(part, kept, given)| kept != given && is_said(part)) {
        Some((part, kept, given)) => Err(StartError::Moved { part, kept: kept.clone(), given: given.clone() }),
        None => Ok(()),
    }
}

/// The owner and root of a share; made where the name is new.
async fn owner_of(name: &str, settings: &Settings, blobs: &Arc<BlobStore>) -> Result<(OwnerId, NodeId), StartError> {
    let owners = blobs.meta().owners().await.map_err(BlobError::from)?;
    if let Some(known) = owners.iter().find(|row| row.kind == KIND && row.name == name) {
        same_place(known, settings)?;
        if known.endpoint != settings.endpoint && known.endpoint.is_empty() {
            let mut batch = Batch::new();
            batch.put(Row::Owner(OwnerRow { endpoint: settings.endpoint.clone(), ..known.clone() }));
            blobs.apply(known.owner, batch).await?;
            blobs.sync().await?;
        }
        return Ok((known.owner, known.root));
    }
    let owner = blobs.new_owner_id().await?;
    let root = blobs.new_node_id().await?;
    let mut batch = Batch::new();
    batch.put(Row::Owner(OwnerRow {
        owner,
        kind: KIND.to_owned(),
        name: name.to_owned(),
        bucket: settings.bucket.clone(),
        prefix: settings.prefix.clone(),
        root,
        endpoint: settings.endpoint.clone(),
    }));
    batch.put(Row::Node(root_row(owner, root, settings, blobs.clock().now_ns())));
    blobs.apply(owner, batch).await?;
    blobs.sync().await?;
    Ok((owner, root))
}

fn root_row(owner: OwnerId, root: NodeId, settings: &Settings, now_ns: i64) -> NodeRow {
    NodeRow {
        node: root,
        owner,
        kind: NodeKind::Directory,
        mode: settings.dir_mode,
        uid: settings.uid,
        gid: settings.gid,
        links: 2,
        rdev: 0,
        atime_ns: now_ns,
        mtime_ns: now_ns,
        ctime_ns: now_ns,
        birth_ns: now_ns,
        times_seq: Seq(0),
        blob: BlobId(0),
        parent: root,
        target: Vec::new(),
        flags: 0,
        listed_ns: 0,
        source_prefix: None,
        cookie_next: COOKIE_FIRST,
    }
}

//! What a gateway keeps of a volume that it has: one row of the metadata, one for each snapshot, and one that lists them.
//!
//! What lives here: [`Local`], [`Snapshot`] and their rows (JSON; a new field needs a default). Invariant: the row of a volume changes with what the
//! upload engine records, in the same batch, and by nothing else while the volume is served.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::manifest::{Manifest, State};
use super::names::VolumeId;
use crate::base::id::{BlobId, OwnerId};
use crate::store::blob::BlobError;
use crate::store::meta::{Key, Meta, MetaError, Row, ValueRow};

/// An object of a batch that is not published yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    /// Its key.
    pub key: String,
    /// Its ETag.
    pub etag: String,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Local {
    /// As it was published last.
    pub manifest: Manifest,
    /// The ETag that it has.
    pub etag: String,
    /// The volume's bytes here.
    pub blob: BlobId,
    /// How often it was opened here since it was attached: the upper half of the numbers of what is written.
    pub life: u32,
    /// Objects that no manifest names yet.
    #[serde(default)]
    pub made: Vec<Made>,
    /// Somebody else attached it: nothing of it may be changed any more.
    #[serde(default)]
    pub is_fenced: bool,
}

/// How far a snapshot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum SnapshotStatus {
    /// Not in S3 yet: lost, if the gateway is.
    Pending,
    /// In S3.
    Completed,
    /// The gateway ended before it was in S3.
    Error,
}

impl fmt::Display for SnapshotStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pending => "PENDING",
            Self::Completed => "COMPLETED",
            Self::Error => "ERROR",
        })
    }
}

/// A snapshot that was asked for here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Which.
    pub snapshot: VolumeId,
    /// What its user wrote.
    pub description: String,
    /// When it was asked for, nanoseconds since the Unix epoch.
    pub created_ns: i64,
    /// How far it is.
    pub status: SnapshotStatus,
    /// What it has, as soon as that is published.
    #[serde(default)]
    pub state: Option<State>,
}

/// Where a volume's row is.
fn key(owner: OwnerId) -> String {
    format!("volume.{owner}")
}

/// Where the row of a snapshot is.
fn snapshot_key(owner: OwnerId, snapshot: VolumeId) -> String {
    format!("volume.{owner}.snapshot.{snapshot}")
}

/// Where the list of a volume's snapshots is.
fn list_key(owner: OwnerId) -> String {
    format!("volume.{owner}.snapshots")
}

fn row(name: String, value: &impl Serialize) -> Row {
    // Plain structs of numbers and texts: they have a JSON form.
    Row::Value(ValueRow { name, value: serde_json::to_vec(value).unwrap_or_default() })
}

fn unreadable(name: &str) -> BlobError {
    BlobError::Meta(MetaError::Refused(format!(
        "the database's value {name} is damaged: restore the database, or attach the volume anew"
    )))
}

impl Local {
    /// The row of an owner's volume.
    pub fn row(&self, owner: OwnerId) -> Row {
        row(key(owner), self)
    }

    /// The key of that row.
    pub fn key(owner: OwnerId) -> Key {
        Key::Value(key(owner))
    }

    /// What the metadata has.
    ///
    /// # Errors
    /// `Meta`.
    pub async fn load(meta: &Meta, owner: OwnerId) -> Result<Option<Self>, BlobError> {
        let Some(Row::Value(row)) = meta.get(&Self::key(owner)).await? else { return Ok(None) };
        Ok(Some(serde_json::from_slice(&row.value).map_err(|_| unreadable(&row.name))?))
    }
}

impl Snapshot {
    /// Its row.
    pub fn row(&self, owner: OwnerId) -> Row {
        row(snapshot_key(owner, self.snapshot), self)
    }

    /// The key of that row.
    pub fn key(owner: OwnerId, snapshot: VolumeId) -> Key {
        Key::Value(snapshot_key(owner, snapshot))
    }

    /// The row that lists those of a volume.
    pub fn list_row(owner: OwnerId, all: &[VolumeId]) -> Row {
        row(list_key(owner), &all)
    }

    /// The key of that row.
    pub fn list_key(owner: OwnerId) -> Key {
        Key::Value(list_key(owner))
    }

    /// All that were asked for of a volume, the oldest first.
    ///
    /// # Errors
    /// `Meta`.
    pub async fn load_all(meta: &Meta, owner: OwnerId) -> Result<Vec<Self>, BlobError> {
        let Some(Row::Value(list)) = meta.get(&Self::list_key(owner)).await? else { return Ok(Vec::new()) };
        let listed: Vec<VolumeId> = serde_json::from_slice(&list.value).map_err(|_| unreadable(&list.name))?;
        let mut all = Vec::new();
        for snapshot in listed {
            if let Some(Row::Value(row)) = meta.get(&Self::key(owner, snapshot)).await? {
                all.push(serde_json::from_slice(&row.value).map_err(|_| unreadable(&row.name))?);
            }
        }
        Ok(all)
    }
}

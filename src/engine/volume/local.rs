//! What a gateway keeps of a volume that it has: one row of the metadata, one for each snapshot, and one that lists them.
//!
//! What lives here: [`Local`], [`Snapshot`] and their rows (JSON; a new field needs a default), and [`Unreferenced`], what the last collection found. Invariant: the row of a volume changes with what the
//! upload engine records, in the same batch, and by nothing else while the volume is served.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::manifest::{Manifest, State};
use super::names::VolumeId;
use crate::base::id::{BlobId, OwnerId};
use crate::store::blob::BlobError;
use crate::store::meta::{Key, Meta, MetaError, Row, ValueRow};

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

/// Keys of one row: a row and what it changes are one record of the log, of at most a mebibyte.
const KEYS_OF_A_ROW: usize = 2_000;
/// Rows that are kept; what is found beyond that is found again when these are gone.
const ROWS_MAX: usize = 50;

/// Objects that a collection found unreferenced, and when for the first time, nanoseconds since the Unix epoch: some of them, in one row.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unreferenced {
    /// When the last pass was.
    pass_ns: i64,
    keys: BTreeMap<String, i64>,
}

impl Unreferenced {
    fn key(index: usize) -> String {
        format!("volumes.unreferenced.{index}")
    }

    async fn row(meta: &Meta, index: usize) -> Result<Option<Self>, BlobError> {
        let Some(Row::Value(row)) = meta.get(&Key::Value(Self::key(index))).await? else { return Ok(None) };
        // What is not known is found again: it only takes a day longer.
        Ok(serde_json::from_slice(&row.value).ok())
    }

    /// All that are remembered.
    ///
    /// # Errors
    /// `Meta`.
    pub async fn load(meta: &Meta) -> Result<BTreeMap<String, i64>, BlobError> {
        let mut all = BTreeMap::new();
        for index in 0..ROWS_MAX {
            all.extend(Self::row(meta, index).await?.unwrap_or_default().keys);
        }
        Ok(all)
    }

    /// When the last pass was.
    ///
    /// # Errors
    /// `Meta`.
    pub async fn last_pass_ns(meta: &Meta) -> Result<Option<i64>, BlobError> {
        Ok(Self::row(meta, 0).await?.map(|row| row.pass_ns))
    }

    /// The rows that remember these, and the keys of rows that are not needed: those that were found first come first.
    pub fn rows(pass_ns: i64, unreferenced: BTreeMap<String, i64>) -> Vec<Result<Row, Key>> {
        let mut by_age: Vec<(String, i64)> = unreferenced.into_iter().collect();
        by_age.sort_by_key(|(_, since_ns)| *since_ns);
        let mut parts = by_age.chunks(KEYS_OF_A_ROW);
        let change = |index: usize| match parts.next() {
            None if index > 0 => Err(Key::Value(Self::key(index))),
            part => {
                let keys = part.unwrap_or_default().iter().cloned().collect();
                Ok(row(Self::key(index), &Self { pass_ns, keys }))
            }
        };
        (0..ROWS_MAX).map(change).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unreferenced_is_remembered_in_bounded_rows() {
        let found = |count: usize| (0..count).map(|at| (format!("{at:07}"), -(at as i64))).collect::<BTreeMap<_, _>>();
        let kept = |changes: &[Result<Row, Key>]| {
            let mut kept = BTreeMap::new();
            for change in changes {
                let Ok(Row::Value(row)) = change else { continue };
                assert!(row.value.len() < 400 << 10);
                kept.extend(serde_json::from_slice::<Unreferenced>(&row.value).unwrap().keys);
            }
            kept
        };
        for count in [0, 1, 2_000, 2_001, 100_000] {
            let changes = Unreferenced::rows(7, found(count));
            assert_eq!((changes.len(), kept(&changes)), (ROWS_MAX, found(count)), "rows of before go");
            assert!(matches!(&changes[0], Ok(Row::Value(row)) if row.name == "volumes.unreferenced.0"));
        }
        let kept = kept(&Unreferenced::rows(7, found(100_001)));
        assert!(kept.len() == 100_000 && !kept.contains_key("0000000"), "the last that was found is found again");
    }
}

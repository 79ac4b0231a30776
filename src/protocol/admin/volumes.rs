//! What the admin address is asked about volumes, and what it answers.

use serde::{Deserialize, Serialize};

/// What to do with volumes. Names are those of this gateway; ids are 32 hexadecimal digits, the same everywhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "command")]
pub enum VolumeCommand {
    /// A new volume.
    Create {
        /// Its name.
        name: String,
        /// In bytes; `None`: as long as what it is cloned from.
        len_bytes: Option<u64>,
        /// Bytes of a logical block.
        block_bytes: u32,
        /// Whether writes are acknowledged before they survive power loss.
        write_cache: bool,
        /// A clone: of a volume, by its name here or its id.
        from: Option<String>,
        /// Of this snapshot of it; `None`: of what S3 has of it now.
        snapshot: Option<String>,
    },
    /// All volumes that this gateway has.
    List,
    /// All volumes in the bucket.
    ListBucket,
    /// Looks for objects in the bucket that nothing names, and removes those that were found so a day before.
    Collect {
        /// Only says what there is.
        dry_run: bool,
    },
    /// Makes a volume larger.
    Grow {
        /// Its name.
        name: String,
        /// To, in bytes.
        len_bytes: u64,
    },
    /// Takes over a volume of the bucket.
    Attach {
        /// Its id.
        id: String,
        /// What it is called from now on; `None`: as before.
        name: Option<String>,
        /// Also from a gateway that did not give it up.
        force: bool,
    },
    /// Gives a volume up, for another gateway.
    Detach {
        /// Its name.
        name: String,
        /// How long its upload may take, in milliseconds.
        limit_ms: u64,
    },
    /// Removes a volume, here and in S3.
    Delete {
        /// Its name.
        name: String,
    },
    /// Which initiators may reach it; none: all.
    Initiators {
        /// The volume's name.
        name: String,
        /// Their iSCSI names.
        initiators: Vec<String>,
    },
    /// What initiators have to prove, and what they are proved.
    Chap {
        /// The volume's name.
        name: String,
        /// Name and secret of the initiator; `None`: nothing is asked.
        initiator: Option<(String, String)>,
        /// Name and secret of the target (mutual CHAP).
        target: Option<(String, String)>,
    },
    /// Whether writes are acknowledged before they survive power loss.
    WriteCache {
        /// The volume's name.
        name: String,
        /// Whether.
        on: bool,
    },
    /// Takes a snapshot.
    Snapshot {
        /// The volume's name.
        name: String,
        /// In words.
        description: String,
    },
    /// Snapshots of a volume.
    Snapshots {
        /// The volume's name.
        name: String,
    },
    /// Removes a snapshot.
    DeleteSnapshot {
        /// The volume's name.
        name: String,
        /// The snapshot's id.
        id: String,
    },
}

/// A volume, as it is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeStatus {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: String,
    /// As AWS names them: `AVAILABLE`, `IRRECOVERABLE` (another gateway has it).
    pub status: String,
    /// Its length in bytes.
    pub len_bytes: u64,
    /// Bytes of a logical block.
    pub block_bytes: u32,
    /// The name of its iSCSI target, whose unit 0 it is; empty where it is not served.
    pub target: String,
    /// Initiators that are connected.
    pub sessions: Vec<String>,
    /// Which initiators may; empty: all.
    pub initiators: Vec<String>,
    /// Whether initiators have to prove who they are.
    pub chap: bool,
    /// Whether writes are acknowledged before they survive power loss.
    pub write_cache: bool,
    /// Bytes that S3 does not have yet.
    pub dirty_bytes: u64,
    /// The moment that S3 has of it, seconds since the Unix epoch; 0: nothing was uploaded yet.
    pub recovery_point_s: i64,
    /// The gateway that has it; in lists of the bucket.
    pub gateway: String,
}

/// A snapshot, as it is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotStatus {
    /// Its id.
    pub id: String,
    /// The volume's name.
    pub volume: String,
    /// `PENDING`, `COMPLETED` or `ERROR`.
    pub status: String,
    /// What its user wrote.
    pub description: String,
    /// When it was taken, seconds since the Unix epoch.
    pub created_s: i64,
    /// The volume's length then, in bytes; 0 while it is not in S3.
    pub len_bytes: u64,
}

/// What came of a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VolumeAnswer {
    /// It is done.
    Done,
    /// Volumes.
    Volumes(Vec<VolumeStatus>),
    /// Snapshots.
    Snapshots(Vec<SnapshotStatus>),
    /// What a collection found.
    Collected(CollectionStatus),
}

/// What a collection found and did, as it is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectionStatus {
    /// Whether it changed nothing.
    pub dry_run: bool,
    /// Objects with bytes or maps of volumes.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Those that nothing names.
    pub unreferenced: u64,
    /// Their bytes.
    pub unreferenced_bytes: u64,
    /// Those of them that were found so a day before, and are removed; by a dry run: that would be.
    pub removed: u64,
    /// Their bytes.
    pub removed_bytes: u64,
    /// The keys of what nothing names, the first thousand.
    pub keys: Vec<String>,
}

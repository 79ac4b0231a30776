//! The rows of the metadata: what each table holds. Plain values; the meaning of most is their engine's.
//!
//! Invariant: a row is its whole after-image. A field is added with a default and a version of the codec, never reused.

use crate::base::id::{BlobId, NodeId, OwnerId, Seq};

/// What a node is. The numbers are those of `st_mode >> 12` (POSIX `S_IFMT`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum NodeKind {
    /// A named pipe.
    Fifo = 0o01,
    /// A character device.
    CharDevice = 0o02,
    /// A directory.
    Directory = 0o04,
    /// A block device.
    BlockDevice = 0o06,
    /// A regular file.
    File = 0o10,
    /// A symbolic link.
    Symlink = 0o12,
    /// A socket.
    Socket = 0o14,
}

impl NodeKind {
    /// The kind of a number; `None` for numbers of no kind.
    pub const fn of(number: u8) -> Option<Self> {
        Some(match number {
            0o01 => Self::Fifo,
            0o02 => Self::CharDevice,
            0o04 => Self::Directory,
            0o06 => Self::BlockDevice,
            0o10 => Self::File,
            0o12 => Self::Symlink,
            0o14 => Self::Socket,
            _ => return None,
        })
    }
}

/// An inode of a share.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeRow {
    /// Its number.
    pub node: NodeId,
    /// Its share.
    pub owner: OwnerId,
    /// What it is.
    pub kind: NodeKind,
    /// Permission bits, `0o7777`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Names; for a directory 2 + its subdirectories. 0: no name any more, kept while it is open.
    pub links: u32,
    /// Device number of a device node.
    pub rdev: u32,
    /// Access, modification, change and birth time, nanoseconds since the Unix epoch.
    pub atime_ns: i64,
    /// Set explicitly as of `times_seq`; a later write to the blob is newer (see `BlobRow::modified_ns`).
    pub mtime_ns: i64,
    /// As `mtime_ns`.
    pub ctime_ns: i64,
    /// When the node was made.
    pub birth_ns: i64,
    /// The number that the log had given when `mtime_ns` and `ctime_ns` were set: a blob modified above it is newer.
    pub times_seq: Seq,
    /// The bytes of a file; 0 for none.
    pub blob: BlobId,
    /// The directory that a directory is in (itself for the root); 0 for others.
    pub parent: NodeId,
    /// Target of a symlink.
    pub target: Vec<u8>,
    /// Bits that the engine defines (`engine/file`): listed, attributes unknown, damaged, …
    pub flags: u64,
    /// When a directory was last listed from the bucket, nanoseconds since the Unix epoch; 0 never.
    pub listed_ns: i64,
    /// Where a directory's not yet moved objects are: a key prefix that ends in "/"; `None`: where its path says.
    pub source_prefix: Option<String>,
    /// The next cookie of a directory.
    pub cookie_next: u64,
}

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryRow {
    /// The directory.
    pub parent: NodeId,
    /// The name, bytes without "/" and NUL.
    pub name: Vec<u8>,
    /// What it names.
    pub node: NodeId,
    /// What the node is (a node's kind never changes).
    pub kind: NodeKind,
    /// The entry's place in listings: unique in the directory, never changed; above 2 ("." and "..").
    pub cookie: u64,
}

/// An object in the bucket that we believe in: remote identity of a node's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectRow {
    /// The share.
    pub owner: OwnerId,
    /// The whole key.
    pub key: String,
    /// The node that it is (a name of).
    pub node: NodeId,
    /// Its ETag.
    pub etag: String,
    /// Its version, where the bucket has versions.
    pub version: Option<String>,
    /// Its length in bytes.
    pub size_bytes: u64,
    /// Its `LastModified`, nanoseconds since the Unix epoch.
    pub modified_ns: i64,
    /// A digest of the attributes that were written with it (0: unknown), to see whether they differ from the node's.
    pub attributes_digest: u64,
    /// The content that it has: the blob's clean-through number when it was written, or when a blob was made of it (0: unknown).
    pub content_seq: Seq,
    /// A digest of its bytes as `upload` computes it (empty: unknown), so that unchanged content is not sent again.
    pub content_digest: Vec<u8>,
    /// Storage class, where it is not the share's.
    pub storage_class: Option<String>,
}

/// Something to do in the bucket for a subject; see [`crate::store::upload`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobRow {
    /// Whose.
    pub owner: OwnerId,
    /// What: a node, a volume's batch, a tape; the owner's business. One job a subject.
    pub subject: u64,
    /// Since when there is something to do, nanoseconds since the Unix epoch.
    pub since_ns: i64,
    /// Not before, nanoseconds since the Unix epoch.
    pub not_before_ns: i64,
    /// Failed attempts since the last success.
    pub attempts: u32,
    /// The last failure in words, empty for none.
    pub error: String,
    /// A multipart upload under way, as `upload` encodes it; empty for none.
    pub multipart: Vec<u8>,
    /// What the owner keeps with the job.
    pub note: Vec<u8>,
}

/// A directory that was renamed while objects of it are at the old prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MoveRow {
    /// The share.
    pub owner: OwnerId,
    /// The directory.
    pub node: NodeId,
    /// The old prefix, ending in "/".
    pub prefix: String,
    /// The log's number of the rename: moves are worked off in this order.
    pub seq: Seq,
}

/// An extended attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XattrRow {
    /// The node.
    pub node: NodeId,
    /// The whole name, with its namespace (`user.…`).
    pub name: Vec<u8>,
    /// The value.
    pub value: Vec<u8>,
}

/// A share, volume or library that has rows or bytes here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnerRow {
    /// Its number.
    pub owner: OwnerId,
    /// `share`, `volume`, `library`.
    pub kind: String,
    /// Its name, unique by kind.
    pub name: String,
    /// Where its bytes are: endpoint, bucket and prefix; the same name with another place is refused.
    pub bucket: String,
    /// Key prefix, empty or ending in "/".
    pub prefix: String,
    /// Its root node, for a share.
    pub root: NodeId,
    /// The endpoint that the bucket is at, as the configuration names it; empty in a row from before version 2, which did not keep it.
    pub endpoint: String,
}

/// A value of the gateway itself, by name: high-water marks (`ids.node`, `ids.blob`), the gateway's id, keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValueRow {
    /// Its name.
    pub name: String,
    /// The value.
    pub value: Vec<u8>,
}

/// A blob's row in a checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlobRow {
    /// Whose.
    pub owner: OwnerId,
    /// Length in bytes.
    pub len_bytes: u64,
    /// Bytes from here on that no page names are zeros; below they are in `source`.
    pub remote_len_bytes: u64,
    /// S3 has everything up to this number.
    pub clean_through: Seq,
    /// The last number that changed bytes or length; above `clean_through`: the blob is dirty.
    pub modified_seq: Seq,
    /// When that was, nanoseconds since the Unix epoch.
    pub modified_ns: i64,
    /// The length's own number: the last `SetLength` or extending write.
    pub len_seq: Seq,
    /// What S3 has, as the layout encodes it; empty: nothing.
    pub source: Vec<u8>,
    /// The last name, for the log's footers.
    pub hint: Vec<u8>,
    /// Bits: damaged, …
    pub flags: u64,
}

/// How much an owner has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Nodes.
    pub nodes: u64,
    /// Objects known.
    pub objects: u64,
    /// Their bytes.
    pub object_bytes: u64,
    /// Jobs.
    pub jobs: u64,
}

/// Any row that is changed through the log.
#[derive(Clone, Debug, PartialEq)]
pub enum Row {
    /// See [`NodeRow`].
    Node(NodeRow),
    /// See [`EntryRow`].
    Entry(EntryRow),
    /// See [`ObjectRow`].
    Object(ObjectRow),
    /// See [`JobRow`].
    Job(JobRow),
    /// See [`MoveRow`].
    Move(MoveRow),
    /// See [`XattrRow`].
    Xattr(XattrRow),
    /// See [`OwnerRow`].
    Owner(OwnerRow),
    /// See [`ValueRow`].
    Value(ValueRow),
}

/// The key of a [`Row`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    /// A node.
    Node(NodeId),
    /// A name in a directory.
    Entry(NodeId, Vec<u8>),
    /// An object.
    Object(OwnerId, String),
    /// A job.
    Job(OwnerId, u64),
    /// A move: the directory and its old prefix.
    Move(OwnerId, NodeId, String),
    /// An attribute of a node.
    Xattr(NodeId, Vec<u8>),
    /// An owner.
    Owner(OwnerId),
    /// A value.
    Value(String),
}

impl Row {
    /// The row's key.
    pub fn key(&self) -> Key {
        match self {
            Self::Node(row) => Key::Node(row.node),
            Self::Entry(row) => Key::Entry(row.parent, row.name.clone()),
            Self::Object(row) => Key::Object(row.owner, row.key.clone()),
            Self::Job(row) => Key::Job(row.owner, row.subject),
            Self::Move(row) => Key::Move(row.owner, row.node, row.prefix.clone()),
            Self::Xattr(row) => Key::Xattr(row.node, row.name.clone()),
            Self::Owner(row) => Key::Owner(row.owner),
            Self::Value(row) => Key::Value(row.name.clone()),
        }
    }

    /// The entry that it is.
    pub(super) fn entry(&self) -> Option<EntryRow> {
        if let Self::Entry(row) = self { Some(row.clone()) } else { None }
    }

    /// The object that it is.
    pub(super) fn object(&self) -> Option<ObjectRow> {
        if let Self::Object(row) = self { Some(row.clone()) } else { None }
    }

    /// Bytes that the row keeps outside itself.
    pub(super) fn heap_bytes(&self) -> usize {
        let optional = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        match self {
            Self::Node(row) => row.target.len() + optional(&row.source_prefix),
            Self::Entry(row) => row.name.len(),
            Self::Object(row) => {
                let texts = optional(&row.version) + optional(&row.storage_class);
                row.key.len() + row.etag.len() + row.content_digest.len() + texts
            }
            Self::Job(row) => row.error.len() + row.multipart.len() + row.note.len(),
            Self::Move(row) => row.prefix.len(),
            Self::Xattr(row) => row.name.len() + row.value.len(),
            Self::Owner(row) => row.kind.len() + row.name.len() + row.bucket.len() + row.prefix.len(),
            Self::Value(row) => row.name.len() + row.value.len(),
        }
    }
}

impl Key {
    /// Bytes that the key keeps outside itself.
    pub(super) const fn heap_bytes(&self) -> usize {
        match self {
            Self::Entry(_, name) | Self::Xattr(_, name) => name.len(),
            Self::Object(_, text) | Self::Move(_, _, text) | Self::Value(text) => text.len(),
            Self::Node(_) | Self::Job(..) | Self::Owner(_) => 0,
        }
    }
}

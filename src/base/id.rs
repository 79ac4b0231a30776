//! The names of things as numbers. Each kind is its own type, so that a node is never taken for a blob.
//!
//! Invariant: an id is never given twice, not after a crash either: ids come from a high-water mark that is durable
//! before the first of them is used.

use std::collections::HashMap;
use std::fmt;

/// A map whose keys this gateway gave: nobody outside can choose them so that they fall together.
pub type IdMap<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $repr:ty) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize)]
        pub struct $name(pub $repr);

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// The sequence number of a record of the log: given once, kept when the record is moved. The first is 1.
    Seq, u64
);
id!(
    /// A mutable byte space of the gateway. The first is 1; 0 stands for none.
    BlobId, u64
);
id!(
    /// An inode of a share. Unique in the whole gateway; the first is 1; 0 stands for none.
    NodeId, u64
);
id!(
    /// Who owns blobs, jobs and a portion of the dirty bytes: a share, a volume or a tape library. 0 is the gateway itself.
    OwnerId, u32
);

/// A place in the order of the log's write head: the segment's ordinal (upper 32 bits) and the byte offset in it (lower 32).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u64);

impl Position {
    /// The byte `offset` of the segment `ordinal`.
    pub fn new(ordinal: u64, offset: u32) -> Self {
        Self(ordinal << 32 | u64::from(offset))
    }

    /// The order of its segment in the write head, from 1.
    pub fn ordinal(self) -> u64 {
        self.0 >> 32
    }

    /// The byte offset in the segment.
    pub fn offset(self) -> u32 {
        self.0 as u32
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.ordinal(), self.offset())
    }
}

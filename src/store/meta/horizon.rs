//! What the database cannot know: rows about ids that were given after its last transaction, and names in directories that were made meanwhile.
//! Most questions about a new file are of that kind, and are answered without asking the database.
//!
//! Invariants:
//! 1. *Ids.* No row, blob or page of the database is about an id above the horizon. It is raised before a transaction begins, under the lock
//!    of the overlay; so who finds an id above it, under that lock, finds everything about the id in the overlay.
//! 2. *Names.* A directory whose id was above the horizon when it was first staged has a set with every name that was ever put into it: a name
//!    that is not in the set is in neither the overlay nor the database. The sets are a bounded cache: without one the database is asked.

use std::collections::HashSet;
use std::collections::hash_map::{DefaultHasher, HashMap};
use std::hash::{Hash, Hasher};

use super::Checkpoint;
use super::order::Range;
use super::rows::{Key, NodeKind, Row};
use crate::base::id::{BlobId, NodeId};

/// Names in all sets together; past it all sets are dropped. A name costs about 16 bytes.
const NAMES_MAX: usize = 1 << 20;

/// See the file's header.
#[derive(Debug, Default)]
pub(super) struct Horizon {
    highest: Highest,
    names: HashMap<NodeId, NameSet>,
    names_len: usize,
    /// The highest directory that was staged.
    newest: u64,
    /// Directories up to here get no set any more: theirs was dropped, and a new one would lack names.
    dropped: u64,
}

/// Hashes of names. Two names of one hash are taken for one: then the database is asked once more.
type NameSet = HashSet<u64>;

/// The highest ids that a database knows.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Highest {
    pub node: u64,
    pub blob: u64,
    /// Of jobs.
    pub subject: u64,
}

impl Highest {
    /// Takes in what a row is about.
    pub fn add(&mut self, row: &Row) {
        match row {
            Row::Node(row) => self.add_node(row.node),
            Row::Entry(row) => {
                self.add_node(row.parent);
                self.add_node(row.node);
            }
            Row::Object(row) => self.add_node(row.node),
            Row::Move(row) => self.add_node(row.node),
            Row::Xattr(row) => self.add_node(row.node),
            Row::Job(row) => self.subject = self.subject.max(row.subject),
            Row::Owner(row) => self.add_node(row.root),
            Row::Value(_) => {}
        }
    }

    /// Takes in a blob or its pages.
    pub fn add_blob(&mut self, blob: BlobId) {
        self.blob = self.blob.max(blob.0);
    }

    fn add_node(&mut self, node: NodeId) {
        self.node = self.node.max(node.0);
    }
}

impl Horizon {
    /// That of a database which was opened.
    pub fn new(highest: Highest) -> Self {
        Self { highest, ..Self::default() }
    }

    /// A transaction is about to make the database know this.
    pub fn raise<'a>(&mut self, rows: impl Iterator<Item = &'a Row>, checkpoint: &Checkpoint) {
        rows.for_each(|row| self.highest.add(row));
        checkpoint.blobs.iter().for_each(|(blob, _)| self.highest.add_blob(*blob));
        checkpoint.pages.iter().for_each(|(blob, ..)| self.highest.add_blob(*blob));
    }

    /// A row is staged.
    pub fn staged(&mut self, row: &Row) {
        match row {
            Row::Node(row) if row.kind == NodeKind::Directory => {
                self.set_of(row.node);
            }
            Row::Entry(row) => {
                let is_added = self.set_of(row.parent).is_some_and(|set| set.insert(hash(&row.name)));
                self.names_len += usize::from(is_added);
            }
            _ => {}
        }
        if self.names_len + self.names.len() > NAMES_MAX {
            self.names.clear();
            self.names_len = 0;
            self.dropped = self.newest;
        }
    }

    /// The set of a directory that is staged, if it has one.
    fn set_of(&mut self, dir: NodeId) -> Option<&mut NameSet> {
        self.newest = self.newest.max(dir.0);
        if dir.0 > self.highest.node.max(self.dropped) {
            return Some(self.names.entry(dir).or_default());
        }
        self.names.get_mut(&dir)
    }

    /// Whether the database has no such row, and never had one that is gone only in the overlay.
    pub fn is_beyond(&self, key: &Key) -> bool {
        match key {
            Key::Entry(parent, name) => {
                parent.0 > self.highest.node || self.names.get(parent).is_some_and(|names| !names.contains(&hash(name)))
            }
            Key::Node(node) | Key::Xattr(node, _) | Key::Move(_, node, _) => node.0 > self.highest.node,
            Key::Job(_, subject) => *subject > self.highest.subject,
            Key::Object(..) | Key::Owner(_) | Key::Value(_) => false,
        }
    }

    /// Whether the database has no row in a range.
    pub fn is_range_beyond(&self, range: &Range) -> bool {
        match range {
            Range::Entries(node) | Range::NamesOf(node) | Range::ObjectsOf(node) | Range::Xattrs(node) => {
                node.0 > self.highest.node
            }
            Range::Objects(..) | Range::Jobs(_) | Range::Moves(_) | Range::Orphans(_) | Range::Owners => false,
        }
    }

    /// Whether the database knows neither a blob nor pages of it.
    pub fn is_blob_beyond(&self, blob: BlobId) -> bool {
        blob.0 > self.highest.blob
    }
}

fn hash(name: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::meta::EntryRow;

    fn entry(parent: u64, name: &str, node: u64) -> Row {
        let (parent, name, node) = (NodeId(parent), name.as_bytes().to_vec(), NodeId(node));
        Row::Entry(EntryRow { parent, name, node, kind: NodeKind::File, cookie: 3 })
    }

    fn key(parent: u64, name: &str) -> Key {
        Key::Entry(NodeId(parent), name.as_bytes().to_vec())
    }

    #[test]
    fn what_a_transaction_is_about_is_not_beyond() {
        let mut horizon = Horizon::new(Highest { node: 5, blob: 2, subject: 4 });
        assert!(!horizon.is_beyond(&Key::Node(NodeId(5))) && horizon.is_beyond(&Key::Node(NodeId(6))));
        assert!(horizon.is_blob_beyond(BlobId(3)) && horizon.is_range_beyond(&Range::NamesOf(NodeId(9))));
        let checkpoint = Checkpoint { pages: vec![(BlobId(3), 0, None)], ..Checkpoint::default() };
        horizon.raise([entry(6, "a", 9)].iter(), &checkpoint);
        assert!(!horizon.is_beyond(&Key::Node(NodeId(9))) && !horizon.is_range_beyond(&Range::NamesOf(NodeId(9))));
        assert!(!horizon.is_blob_beyond(BlobId(3)) && horizon.is_blob_beyond(BlobId(4)));
    }

    #[test]
    fn names_of_a_new_directory_are_known_also_when_the_database_has_it() {
        let mut horizon = Horizon::new(Highest { node: 5, ..Highest::default() });
        horizon.staged(&entry(6, "a", 7));
        horizon.staged(&entry(5, "old", 8));
        horizon.raise([entry(6, "a", 7)].iter(), &Checkpoint::default());
        assert!(!horizon.is_beyond(&key(6, "a")) && horizon.is_beyond(&key(6, "b")));
        assert!(!horizon.is_beyond(&key(5, "new")), "a directory that was there before has names that nobody counted");
        horizon.staged(&entry(6, "b", 9));
        assert!(!horizon.is_beyond(&key(6, "b")));
    }

    #[test]
    fn the_sets_are_bounded() {
        let mut horizon = Horizon::default();
        for number in 0..=NAMES_MAX as u64 {
            horizon.staged(&entry(1, &number.to_string(), 2));
        }
        assert!(horizon.names_len < NAMES_MAX && horizon.names.len() <= 1);
        // What was dropped is not begun again, for it would lack names.
        horizon.staged(&entry(1, "one more", 3));
        horizon.raise([entry(1, "1", 2)].iter(), &Checkpoint::default());
        assert!(!horizon.is_beyond(&key(1, "1")) && !horizon.is_beyond(&key(1, "unknown")));
        horizon.staged(&entry(4, "a", 5));
        assert!(horizon.is_beyond(&key(4, "b")));
    }
}

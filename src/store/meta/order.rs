//! The orders in which rows are read by range, shared by the overlay and the memory back end; `sqlite` has an index for
//! each of them.
//!
//! Invariants: a [`Place`] names one row, and [`Place::key`] says which; the places of a [`Range`] are contiguous.

use std::collections::BTreeSet;

use super::rows::{Key, Row};
use crate::base::id::{NodeId, OwnerId, Seq};

/// Where a row stands in one of the orders. A row may stand in several.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// Directory, cookie, name.
    Entry(NodeId, u64, Vec<u8>),
    /// Node, directory, name.
    NameOf(NodeId, NodeId, Vec<u8>),
    /// Owner, key.
    Object(OwnerId, String),
    /// Node, owner, key.
    ObjectOf(NodeId, OwnerId, String),
    /// Owner, since, subject.
    Job(OwnerId, i64, u64),
    /// Owner, number of the rename, directory, old prefix.
    Move(OwnerId, Seq, NodeId, String),
    /// Node, name.
    Xattr(NodeId, Vec<u8>),
    /// Owner, node without a name.
    Orphan(OwnerId, NodeId),
    /// Owner.
    Owner(OwnerId),
}

impl Place {
    /// The row that stands here.
    pub fn key(&self) -> Key {
        match self {
            Self::Entry(parent, _, name) | Self::NameOf(_, parent, name) => Key::Entry(*parent, name.clone()),
            Self::Object(owner, key) | Self::ObjectOf(_, owner, key) => Key::Object(*owner, key.clone()),
            Self::Job(owner, _, subject) => Key::Job(*owner, *subject),
            Self::Move(owner, _, node, prefix) => Key::Move(*owner, *node, prefix.clone()),
            Self::Xattr(node, name) => Key::Xattr(*node, name.clone()),
            Self::Orphan(_, node) => Key::Node(*node),
            Self::Owner(owner) => Key::Owner(*owner),
        }
    }

    /// The first place after this one.
    pub fn next(mut self) -> Self {
        match &mut self {
            Self::Entry(_, _, name) | Self::NameOf(_, _, name) | Self::Xattr(_, name) => name.push(0),
            Self::Object(_, text) | Self::ObjectOf(_, _, text) | Self::Move(_, _, _, text) => text.push('\0'),
            Self::Job(_, _, number) | Self::Orphan(_, NodeId(number)) => *number = number.saturating_add(1),
            Self::Owner(owner) => owner.0 = owner.0.saturating_add(1),
        }
        self
    }

    /// All places of a row.
    fn of(row: &Row) -> [Option<Self>; 2] {
        match row {
            Row::Node(row) => [(row.links == 0).then_some(Self::Orphan(row.owner, row.node)), None],
            Row::Entry(row) => [
                Some(Self::Entry(row.parent, row.cookie, row.name.clone())),
                Some(Self::NameOf(row.node, row.parent, row.name.clone())),
            ],
            Row::Object(row) => {
                [Some(Self::Object(row.owner, row.key.clone())), Some(Self::ObjectOf(row.node, row.owner, row.key.clone()))]
            }
            Row::Job(row) => [Some(Self::Job(row.owner, row.since_ns, row.subject)), None],
            Row::Move(row) => [Some(Self::Move(row.owner, row.seq, row.node, row.prefix.clone())), None],
            Row::Xattr(row) => [Some(Self::Xattr(row.node, row.name.clone())), None],
            Row::Owner(row) => [Some(Self::Owner(row.owner)), None],
            Row::Value(_) => [None, None],
        }
    }
}

/// What a range read asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Range {
    /// The entries of a directory by cookie.
    Entries(NodeId),
    /// The entries that name a node.
    NamesOf(NodeId),
    /// The objects of an owner whose key begins so.
    Objects(OwnerId, String),
    /// The objects of a node.
    ObjectsOf(NodeId),
    /// The jobs of an owner, longest waiting first.
    Jobs(OwnerId),
    /// The moves of an owner, oldest first.
    Moves(OwnerId),
    /// The attributes of a node.
    Xattrs(NodeId),
    /// The nodes of an owner without a name.
    Orphans(OwnerId),
    /// All owners.
    Owners,
}

impl Range {
    /// The lowest place that the range may hold.
    pub fn start(&self) -> Place {
        match self {
            Self::Entries(parent) => Place::Entry(*parent, 0, Vec::new()),
            Self::NamesOf(node) => Place::NameOf(*node, NodeId(0), Vec::new()),
            Self::Objects(owner, prefix) => Place::Object(*owner, prefix.clone()),
            Self::ObjectsOf(node) => Place::ObjectOf(*node, OwnerId(0), String::new()),
            Self::Jobs(owner) => Place::Job(*owner, i64::MIN, 0),
            Self::Moves(owner) => Place::Move(*owner, Seq(0), NodeId(0), String::new()),
            Self::Xattrs(node) => Place::Xattr(*node, Vec::new()),
            Self::Orphans(owner) => Place::Orphan(*owner, NodeId(0)),
            Self::Owners => Place::Owner(OwnerId(0)),
        }
    }

    /// Whether a place belongs to the range.
    pub fn holds(&self, place: &Place) -> bool {
        match (self, place) {
            (Self::Entries(range), Place::Entry(parent, ..)) => range == parent,
            (Self::NamesOf(range), Place::NameOf(node, ..)) => range == node,
            (Self::Objects(range, prefix), Place::Object(owner, key)) => range == owner && key.starts_with(prefix),
            (Self::ObjectsOf(range), Place::ObjectOf(node, ..)) => range == node,
            (Self::Jobs(range), Place::Job(owner, ..))
            | (Self::Moves(range), Place::Move(owner, ..))
            | (Self::Orphans(range), Place::Orphan(owner, _)) => range == owner,
            (Self::Xattrs(range), Place::Xattr(node, _)) => range == node,
            (Self::Owners, Place::Owner(_)) => true,
            _ => false,
        }
    }

    /// Where a row stands in the range; `None` where it does not.
    pub fn place(&self, row: &Row) -> Option<Place> {
        Place::of(row).into_iter().flatten().find(|place| self.holds(place))
    }
}

/// The places of many rows.
#[derive(Clone, Debug, Default)]
pub(super) struct Places(BTreeSet<Place>);

impl Places {
    /// Adds the places of a row.
    pub fn insert(&mut self, row: &Row) {
        self.0.extend(Place::of(row).into_iter().flatten());
    }

    /// Removes the places of a row.
    pub fn remove(&mut self, row: &Row) {
        for place in Place::of(row).into_iter().flatten() {
            self.0.remove(&place);
        }
    }

    /// The places of a range at or after `from`, in order.
    pub fn scan<'a>(&'a self, range: &'a Range, from: &Place) -> impl Iterator<Item = &'a Place> {
        let from = from.max(&range.start()).clone();
        self.0.range(from..).take_while(|place| range.holds(place))
    }
}

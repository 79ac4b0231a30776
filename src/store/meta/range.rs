//! Reads of many rows in order: directories, names, objects, jobs.
//!
//! Invariant: what one call returns is of one moment: the database's rows with what is staged over them, read again where something was
//! applied in between.

use std::sync::Arc;

use super::order::{Place as Spot, Range};
use super::{EntryRow, JobRow, Meta, MetaError, MoveRow, NodeRow, ObjectRow, OwnerRow, Row, XattrRow};
use crate::base::id::{NodeId, OwnerId};

impl Meta {
    /// The rows of a range at or after `from`, at most `limit`, of one moment. Tries again at most once for each apply.
    async fn range(&self, range: Range, from: Spot, limit: usize) -> Result<Vec<Arc<Row>>, MetaError> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        'moment: loop {
            let epoch = {
                let overlay = self.overlay.read();
                if overlay.horizon.is_range_beyond(&range)
                    && let Some(staged) = overlay.merge(&range, &from, &[], false, limit)
                {
                    return Ok(staged);
                }
                overlay.epoch
            };
            let mut stored: Vec<Arc<Row>> = Vec::new();
            let mut next = from.clone();
            let mut portion = limit;
            loop {
                let rows = self.backend.range(&range, &next, portion).await?;
                let more = rows.len() >= portion;
                stored.extend(rows);
                let overlay = self.overlay.read();
                if overlay.epoch != epoch {
                    continue 'moment;
                }
                if let Some(merged) = overlay.merge(&range, &from, &stored, more, limit) {
                    return Ok(merged);
                }
                let Some(last) = stored.last().and_then(|row| range.place(row)) else { return Ok(Vec::new()) };
                next = last.next();
                portion = portion.saturating_mul(2);
            }
        }
    }

    /// A whole range, or its first rows.
    async fn rows<T>(&self, range: Range, limit: usize, of: impl Fn(&Row) -> Option<T>) -> Result<Vec<T>, MetaError> {
        let from = range.start();
        let rows = self.range(range, from, limit).await?;
        Ok(rows.iter().filter_map(|row| of(row)).collect())
    }

    /// Entries of a directory with a cookie above `after`, ordered by cookie, at most `limit`.
    ///
    /// # Errors
    /// `Failed`.
    pub async fn entries(&self, parent: NodeId, after: u64, limit: usize) -> Result<Vec<EntryRow>, MetaError> {
        let Some(first) = after.checked_add(1) else { return Ok(Vec::new()) };
        let rows = self.range(Range::Entries(parent), Spot::Entry(parent, first, Vec::new()), limit).await?;
        Ok(rows.iter().filter_map(|row| row.entry()).collect())
    }

    /// Entries (names) of a node, at most `limit`: more than one for hard links.
    ///
    /// # Errors
    /// `Failed`.
    pub async fn names_of(&self, node: NodeId, limit: usize) -> Result<Vec<EntryRow>, MetaError> {
        self.rows(Range::NamesOf(node), limit, Row::entry).await
    }

    /// Objects that belong to a node.
    ///
    /// # Errors
    /// `Failed`.
    pub async fn objects_of(&self, node: NodeId) -> Result<Vec<ObjectRow>, MetaError> {
        self.rows(Range::ObjectsOf(node), usize::MAX, Row::object).await
    }

    /// Objects of an owner whose key is at or after `from` and begins with `prefix`, ordered by key, at most `limit`.
    ///
    /// # Errors
    /// `Failed`.
    pub async fn objects(&self, owner: OwnerId, prefix: &str, from: &str, limit: usize) -> Result<Vec<ObjectRow>, MetaError> {
        let first = Spot::Object(owner, from.max(prefix).to_owned());
        let rows = self.range(Range::Objects(owner, prefix.to_owned()), first, limit).await?;
        Ok(rows.iter().filter_map(|row| row.object()).collect())
    }

    /// All jobs of the upload queue, ordered by `since_ns`. Called at start, and by `status`.
    ///
    /// # Errors
    /// `Failed`.
    pub async fn jobs(&self, owner: OwnerId) -> Result<Vec<JobRow>, MetaError> {
        let of = |row: &Row| if let Row::Job(row) = row { Some(row.clone()) } else { None };
        self.rows(Range::Jobs(owner), usize::MAX, of).await
    }

    /// All moves of an owner (background renames of directories), oldest first.
    ///
    /// # Errors
    /// `Failed`.
    pub async fn moves(&self, owner: OwnerId) -> Result<Vec<MoveRow>, MetaError> {
        let of = |row: &Row| if let Row::Move(row) = row { Some(row.clone()) } else { None };
        self.rows(Range::Moves(owner), usize::MAX, of).await
    }

    /// Extended attributes of a node, ordered by name.
    ///
    /// # Errors
    /// `Failed`.
    pub async fn xattrs(&self, node: NodeId) -> Result<Vec<XattrRow>, MetaError> {
        let of = |row: &Row| if let Row::Xattr(row) = row { Some(row.clone()) } else { None };
        self.rows(Range::Xattrs(node), usize::MAX, of).await
    }

    /// Nodes of an owner that have no name any more but are not removed yet (they were open when the gateway died): those
    /// whose `links` is 0.
    ///
    /// # Errors
    /// `Failed`.
    pub async fn orphans(&self, owner: OwnerId) -> Result<Vec<NodeRow>, MetaError> {
        let of = |row: &Row| if let Row::Node(row) = row { Some(row.clone()) } else { None };
        self.rows(Range::Orphans(owner), usize::MAX, of).await
    }

    /// All owners.
    ///
    /// # Errors
    /// `Failed`.
    pub async fn owners(&self) -> Result<Vec<OwnerRow>, MetaError> {
        let of = |row: &Row| if let Row::Owner(row) = row { Some(row.clone()) } else { None };
        self.rows(Range::Owners, usize::MAX, of).await
    }
}

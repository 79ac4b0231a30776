//! Renaming: atomic to everybody, whatever has to move in the bucket afterwards.
//!
//! Invariants:
//! - Both entries, both directories, the node and what it replaces change in one batch, under all their guards.
//! - A directory changes its parent only under the tree lock, so the walk up that looks for circles sees a tree that stands still.
//! - A directory's descendants are not touched: a `MoveRow` says where their objects still are.

use crate::base::id::NodeId;
use crate::engine::file::{Caller, Changed, NodeKind, Rename, VfsError};
use crate::store::blob::Batch;
use crate::store::meta::{EntryRow, NodeRow, Row};

use super::permit;
use super::remove::RACES_MAX;
use super::share::{Share, Why};
use super::tree::{Known, check_name, touch};

/// A place for a name.
type Place<'a> = (NodeId, &'a [u8]);

/// What is renamed, as it was seen: the entry that moves, and the one that is in its way.
#[derive(PartialEq, Eq)]
struct Seen {
    from: EntryRow,
    to: Option<EntryRow>,
}

impl Seen {
    fn nodes(&self) -> Vec<NodeId> {
        let mut nodes = vec![self.from.node];
        nodes.extend(self.to.as_ref().map(|to| to.node));
        nodes
    }

    /// Whether the shape of the tree of directories changes.
    fn moves_directory(&self, how: Rename, parents_differ: bool) -> bool {
        let swapped = how == Rename::Exchange && self.to.as_ref().is_some_and(|to| to.kind == NodeKind::Directory);
        parents_differ && (self.from.kind == NodeKind::Directory || swapped)
    }
}

impl Share {
    pub(super) async fn do_rename(&self, who: &Caller, from: Place<'_>, to: Place<'_>, how: Rename) -> Result<(), VfsError> {
        if [from.1, to.1].iter().any(|name| matches!(*name, b"." | b"..")) {
            return Err(VfsError::Invalid);
        }
        let (from_dir, to_dir) = (self.searchable(who, from.0).await?, self.searchable(who, to.0).await?);
        check_name(to.1)?;
        for _ in 0..RACES_MAX {
            let seen = self.see(who, (&from_dir, from.1), (&to_dir, to.1)).await?;
            if how == Rename::NoReplace && seen.to.is_some() {
                return Err(VfsError::Exists);
            }
            if how == Rename::Exchange && seen.to.is_none() {
                return Err(VfsError::NotFound);
            }
            if seen.to.as_ref().is_some_and(|to| to.node == seen.from.node) {
                return Ok(());
            }
            if let Some(to) = seen.to.as_ref().filter(|to| to.kind == NodeKind::Directory) {
                let row = self.node(to.node).await?;
                self.listed(who, &row).await?;
            }
            self.check_path(to.0, to.1).await?;
            let _tree = if seen.moves_directory(how, from.0 != to.0) { Some(self.guards.tree().await) } else { None };
            let mut nodes = seen.nodes();
            nodes.extend([from.0, to.0]);
            let _guard = self.guards.lock(&nodes).await;
            let now =
                Seen { from: self.entry(from.0, from.1).await?.ok_or(VfsError::NotFound)?, to: self.entry(to.0, to.1).await? };
            if now == seen {
                return self.rename_seen(who, seen, to, how).await;
            }
        }
        Err(VfsError::Stale)
    }

    async fn see(&self, who: &Caller, from: (&NodeRow, &[u8]), to: (&NodeRow, &[u8])) -> Result<Seen, VfsError> {
        let moved = self.resolve_known(who, from.0, from.1).await?.ok_or(VfsError::NotFound)?;
        let target = self.resolve_known(who, to.0, to.1).await?;
        Ok(Seen { from: moved, to: target })
    }

    /// Under all guards: checks, and applies.
    async fn rename_seen(&self, who: &Caller, seen: Seen, to: Place<'_>, how: Rename) -> Result<(), VfsError> {
        let from_dir = self.node(seen.from.parent).await?;
        let to_dir = self.node(to.0).await?;
        let moved = self.known(seen.from.node).await?;
        let target = match &seen.to {
            Some(entry) => Some(self.known(entry.node).await?),
            None => None,
        };
        self.check_rename(who, (&from_dir, &moved.row), (&to_dir, target.as_ref().map(|known| &known.row)), how).await?;
        let mut change = Change { share: self, from_dir, to_dir, batch: Batch::new(), now_ns: self.now_ns() };
        match (how, target, &seen.to) {
            (Rename::Exchange, Some(target), Some(entry)) => change.exchange(&seen.from, moved, entry, target).await?,
            (_, target, entry) => change.replace(&seen.from, moved, to, entry.as_ref().zip(target)).await?,
        }
        let batch = change.finish();
        self.apply(batch).await?;
        self.after_rename(who, &seen, to, how);
        Ok(())
    }

    /// Everything that rename(2) and renameat2(2) refuse.
    async fn check_rename(
        &self,
        who: &Caller,
        (from_dir, moved): (&NodeRow, &NodeRow),
        (to_dir, target): (&NodeRow, Option<&NodeRow>),
        how: Rename,
    ) -> Result<(), VfsError> {
        if to_dir.links == 0 {
            return Err(VfsError::NotFound);
        }
        // The walks first, as Linux does (`lock_rename`).
        if moved.kind == NodeKind::Directory && self.is_within(to_dir.node, moved.node).await? {
            return Err(VfsError::Invalid);
        }
        if let Some(target) = target.filter(|target| target.kind == NodeKind::Directory)
            && self.is_within(from_dir.node, target.node).await?
        {
            return Err(if how == Rename::Exchange { VfsError::Invalid } else { VfsError::NotEmpty });
        }
        self.check_writable()?;
        permit::check_unlink(from_dir, moved, who)?;
        match target {
            Some(target) => permit::check_unlink(to_dir, target, who)?,
            None => permit::check(to_dir, who, permit::WRITE | permit::EXECUTE)?,
        }
        let is_directory = |row: &NodeRow| row.kind == NodeKind::Directory;
        let replaced = target.filter(|_| how != Rename::Exchange);
        match replaced.map(|target| (is_directory(moved), is_directory(target))) {
            Some((true, false)) => return Err(VfsError::NotDirectory),
            Some((false, true)) => return Err(VfsError::IsDirectory),
            _ => {}
        }
        // Its ".." changes: that is a write to it.
        if from_dir.node != to_dir.node {
            for row in [Some(moved), target.filter(|_| how == Rename::Exchange)].into_iter().flatten() {
                if is_directory(row) {
                    permit::check(row, who, permit::WRITE)?;
                }
            }
        }
        if let Some(target) = replaced.filter(|target| is_directory(target))
            && !self.is_empty(target.node).await?
        {
            return Err(VfsError::NotEmpty);
        }
        let touched = [Some(moved), target].into_iter().flatten();
        if touched.into_iter().any(|row| self.handles.denies_delete(row.node)) {
            return Err(VfsError::ShareViolation);
        }
        Ok(())
    }

    /// Whether `dir` is `above` or below it.
    async fn is_within(&self, dir: NodeId, above: NodeId) -> Result<bool, VfsError> {
        let mut at = dir;
        loop {
            if at == above {
                return Ok(true);
            }
            if at == self.root {
                return Ok(false);
            }
            let parent = self.node(at).await?.parent;
            if parent == at || parent == NodeId(0) {
                return Ok(false);
            }
            at = parent;
        }
    }

    /// Tells everybody.
    fn after_rename(&self, who: &Caller, seen: &Seen, to: Place<'_>, how: Rename) {
        for (node, kind) in
            [Some((seen.from.node, seen.from.kind)), seen.to.as_ref().map(|to| (to.node, to.kind))].into_iter().flatten()
        {
            if kind == NodeKind::Directory {
                self.places.forget(node);
            }
            self.settle_soon(node);
        }
        self.settle_soon(seen.from.parent);
        self.settle_soon(to.0);
        let before = seen.to.as_ref().map_or(NodeId(0), |entry| entry.node);
        let left = if how == Rename::Exchange { before } else { NodeId(0) };
        let (parent, name) = (seen.from.parent, seen.from.name.clone());
        self.tell(who.origin, Changed::Entry { parent, name, before: seen.from.node, after: left });
        let (parent, name) = (to.0, to.1.to_vec());
        self.tell(who.origin, Changed::Entry { parent, name, before, after: seen.from.node });
    }
}

/// The batch of one rename, as it grows.
struct Change<'a> {
    share: &'a Share,
    from_dir: NodeRow,
    /// Where both are the same directory, only this one counts.
    to_dir: NodeRow,
    batch: Batch,
    now_ns: i64,
}

impl Change<'_> {
    fn same_dir(&self) -> bool {
        self.from_dir.node == self.to_dir.node
    }

    /// The directory that a name is taken out of.
    fn source(&mut self) -> &mut NodeRow {
        if self.same_dir() { &mut self.to_dir } else { &mut self.from_dir }
    }

    async fn replace(
        &mut self,
        from: &EntryRow,
        moved: Known,
        to: Place<'_>,
        replaced: Option<(&EntryRow, Known)>,
    ) -> Result<(), VfsError> {
        let share = self.share;
        let mut batch = std::mem::take(&mut self.batch);
        let old_prefix = self.prefix_of(from).await?;
        share.drop_entry(&mut batch, self.source(), from);
        if let Some((entry, target)) = replaced {
            share.drop_entry(&mut batch, &mut self.to_dir, entry);
            share.unname(&mut batch, target, self.now_ns).await?;
        }
        share.add_entry(&mut batch, &mut self.to_dir, to.1, from.node, from.kind);
        self.batch = batch;
        self.place(moved, self.to_dir.node, old_prefix);
        Ok(())
    }

    async fn exchange(&mut self, from: &EntryRow, moved: Known, to: &EntryRow, target: Known) -> Result<(), VfsError> {
        let (old_from, old_to) = (self.prefix_of(from).await?, self.prefix_of(to).await?);
        if !self.same_dir() {
            let won = i32::from(to.kind == NodeKind::Directory) - i32::from(from.kind == NodeKind::Directory);
            self.from_dir.links = self.from_dir.links.saturating_add_signed(won);
            self.to_dir.links = self.to_dir.links.saturating_add_signed(-won);
        }
        // Each place keeps its cookie.
        self.batch.put(Row::Entry(EntryRow { node: to.node, kind: to.kind, ..from.clone() }));
        self.batch.put(Row::Entry(EntryRow { node: from.node, kind: from.kind, ..to.clone() }));
        self.place(moved, to.parent, old_from);
        self.place(target, from.parent, old_to);
        Ok(())
    }

    /// Where the objects below a directory are that nobody has listed.
    async fn prefix_of(&self, entry: &EntryRow) -> Result<Option<String>, VfsError> {
        if entry.kind != NodeKind::Directory {
            return Ok(None);
        }
        self.share.listing_prefix(entry.node).await.map(Some)
    }

    /// The row of a node that is in `parent` now.
    fn place(&mut self, mut known: Known, parent: NodeId, old_prefix: Option<String>) {
        known.changed(self.now_ns);
        if known.row.kind == NodeKind::Directory {
            known.row.parent = parent;
        }
        if let Some(old_prefix) = old_prefix {
            self.share.begin_move(&mut self.batch, &mut known.row, old_prefix);
        }
        self.batch.put(Row::Node(known.row.clone()));
        self.share.unsettle(&mut self.batch, &known.row, Why::Names);
    }

    /// The directories, with their new times.
    fn finish(mut self) -> Batch {
        let both = if self.same_dir() { vec![self.to_dir] } else { vec![self.from_dir, self.to_dir] };
        for mut dir in both {
            touch(&mut dir, self.now_ns);
            self.batch.put(Row::Node(dir.clone()));
            self.share.unsettle(&mut self.batch, &dir, Why::Implicit);
        }
        self.batch
    }
}

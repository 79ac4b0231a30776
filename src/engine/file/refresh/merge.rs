//! How a listing becomes entries.
//!
//! Invariants: what is merged at a time is bounded, so a directory of a million files takes little memory and keeps nobody out for long; rows
//! are changed under the directory's guard, after another look at them there. Of a file and a directory of one name the one that is known stays.
//! What a page has is compared with what was done since *that page* was asked for: a listing may take longer than the uploader remembers. A page
//! that took longer fails the listing, since nothing can be told of its keys; so a directory that counts as listed has all that was found.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::base::id::{BlobId, NodeId, Seq};
use crate::engine::file::keys::{self, Child};
use crate::engine::file::share::{FLAG_ATTRIBUTES_UNKNOWN, FLAG_LISTED, Share};
use crate::engine::file::tree::{COOKIE_FIRST, touch};
use crate::engine::file::{Changed, NodeKind, Origin, VfsError};
use crate::store::blob::Batch;
use crate::store::meta::{EntryRow, NodeRow, ObjectRow, Row};
use crate::store::object::{ListPage, Listed};

use super::FLAG_IMPLIED;

/// Names that are merged under one guard, in one batch: three rows each.
const CHUNK: usize = 256;
/// Object rows that are read at a time.
const ROWS: usize = 512;

/// A listing on its way into a directory.
pub(super) struct Merge<'a> {
    share: &'a Arc<Share>,
    dir: NodeId,
    prefix: String,
    /// Never listed before: nothing can be gone.
    is_first: bool,
    /// When the listing began.
    asked_ns: i64,
    /// When the page was asked for.
    page_asked_ns: i64,
    /// Everything up to here (whole keys) was compared.
    compared: String,
    directories: HashSet<String>,
    has_marker: bool,
    has_hidden: bool,
    changed: bool,
    /// As long as the directory's next cookie is this one, its entries are those that this listing added, and a file's name is
    /// new without a look: each comes once, and before a directory's of the same name.
    fresh_until: Option<u64>,
}

impl<'a> Merge<'a> {
    pub(super) fn new(share: &'a Arc<Share>, dir: NodeId, prefix: String, is_first: bool) -> Self {
        let asked_ns = share.now_ns();
        Self {
            share,
            dir,
            compared: prefix.clone(),
            prefix,
            is_first,
            asked_ns,
            page_asked_ns: asked_ns,
            directories: HashSet::new(),
            has_marker: false,
            has_hidden: false,
            changed: false,
            fresh_until: Some(COOKIE_FIRST),
        }
    }

    /// The next page is about to be asked for.
    pub(super) fn ask(&mut self) {
        self.page_asked_ns = self.share.now_ns();
    }

    /// One page: objects and directories, each ordered.
    pub(super) async fn page(&mut self, page: ListPage) -> Result<(), VfsError> {
        for objects in page.objects.chunks(CHUNK) {
            self.files(objects).await?;
        }
        for prefixes in page.prefixes.chunks(CHUNK) {
            self.prefixes(prefixes).await?;
        }
        if !self.is_first {
            let last = page.objects.last().map(|object| &object.key).max(page.prefixes.last());
            let until = if page.next.is_some() { last.cloned() } else { None };
            if page.next.is_none() || until.is_some() {
                let listed = page.objects.iter().map(|object| object.key.as_str()).collect();
                self.compare(&listed, until).await?;
            }
        }
        if self.share.uploader.remembers(self.share.owner, self.page_asked_ns) {
            return Ok(());
        }
        Err(VfsError::Unavailable("the endpoint takes too long for a page of a listing".into()))
    }

    fn is_touched(&self, key: &str) -> bool {
        self.share.uploader.touched_since(self.share.owner, key, self.page_asked_ns)
    }

    async fn files(&mut self, objects: &[Listed]) -> Result<(), VfsError> {
        let mut changed = Vec::new();
        let share = self.share;
        let guard = share.guards.lock(&[self.dir]).await;
        let mut dir = share.node(self.dir).await?;
        let rows = self.known(objects).await?;
        let (mut batch, mut events) = (Batch::new(), Vec::new());
        for object in objects {
            match keys::child(&share.prefix, &self.prefix, &object.key) {
                _ if self.is_touched(&object.key) => self.has_marker |= object.key == self.prefix,
                Child::Marker => {
                    self.has_marker = true;
                    self.marker(&mut dir, object, &mut batch).await?;
                }
                Child::File(name) => {
                    let known = match &rows {
                        Some(rows) => rows.get(&object.key).cloned(),
                        None => share.object(&object.key).await?,
                    };
                    if known.as_ref().is_some_and(|known| known.etag == object.etag.0) {
                        continue;
                    }
                    let entry = self.entry(&dir, name).await?;
                    match (known, entry) {
                        (Some(known), Some(entry)) if known.node == entry.node => changed.push((entry, object)),
                        (None, None) => events.push(self.new_file(&mut dir, name, object, &mut batch).await?),
                        (None, Some(entry)) if entry.kind == NodeKind::Directory => {
                            share.remote.strange.note(&object.key, "a file and a directory have the same name");
                        }
                        // Of a node that has something to do with this key: its job finds out.
                        _ => {}
                    }
                }
                Child::Strange(why) => share.remote.strange.note(&object.key, why),
                Child::Hidden | Child::Directory(_) => {}
            }
        }
        self.end(dir, batch, events).await?;
        drop(guard);
        for (entry, object) in changed {
            self.changed |= share.adopt(&entry, object).await?;
        }
        Ok(())
    }

    async fn prefixes(&mut self, prefixes: &[String]) -> Result<(), VfsError> {
        let share = self.share;
        let _guard = share.guards.lock(&[self.dir]).await;
        let mut dir = share.node(self.dir).await?;
        let (mut batch, mut events) = (Batch::new(), Vec::new());
        for prefix in prefixes {
            match keys::child(&share.prefix, &self.prefix, prefix) {
                Child::Directory(name) => {
                    self.directories.insert(name.to_owned());
                    // Always by a look: this listing may have had a file of that name.
                    match share.entry(self.dir, name.as_bytes()).await? {
                        Some(entry) if entry.kind != NodeKind::Directory => {
                            share.remote.strange.note(prefix, "a file and a directory have the same name");
                        }
                        None if !self.is_explained(prefix).await? => {
                            events.push(self.new_directory(&mut dir, name, &mut batch).await?);
                        }
                        _ => {}
                    }
                }
                Child::Hidden => self.has_hidden = true,
                Child::Strange(why) => share.remote.strange.note(prefix, why),
                Child::Marker | Child::File(_) => {}
            }
        }
        self.end(dir, batch, events).await
    }

    /// Whether what is below a prefix is ours on its way elsewhere, and no new directory.
    async fn is_explained(&self, prefix: &str) -> Result<bool, VfsError> {
        let remote = &self.share.remote;
        // What was never listed is listed at the old prefix of a move: there all is the directory's, but what was moved out of it.
        let is_moving = if self.is_first { remote.moves.begins_below(prefix) } else { remote.moves.touches(prefix) };
        let uploader = &self.share.uploader;
        let is_written = self.is_touched(prefix) || uploader.touches_below(self.share.owner, prefix);
        if remote.deleted.since(prefix, self.page_asked_ns) || is_moving || is_written {
            return Ok(true);
        }
        Ok(!self.share.meta().objects(self.share.owner, prefix, prefix, 1).await?.is_empty())
    }

    async fn end(&mut self, mut dir: NodeRow, mut batch: Batch, events: Vec<Changed>) -> Result<(), VfsError> {
        if batch.changes.is_empty() {
            return Ok(());
        }
        if !events.is_empty() {
            self.changed = true;
            if !self.is_first {
                touch(&mut dir, self.share.now_ns());
            }
        }
        batch.put(Row::Node(dir));
        self.share.apply(batch).await?;
        for event in events {
            self.share.tell(Origin(0), event);
        }
        Ok(())
    }

    /// The rows of a chunk's objects by key, by one range read; `None` where too many other keys lie between them.
    async fn known(&self, objects: &[Listed]) -> Result<Option<HashMap<String, ObjectRow>>, VfsError> {
        let [Some(first), Some(last)] = [objects.first(), objects.last()] else { return Ok(None) };
        let rows = self.share.meta().objects(self.share.owner, &self.prefix, &first.key, ROWS).await?;
        let is_whole = rows.len() < ROWS || rows.last().is_some_and(|row| row.key >= last.key);
        Ok(is_whole.then(|| rows.into_iter().map(|row| (row.key.clone(), row)).collect()))
    }

    async fn entry(&self, dir: &NodeRow, name: &str) -> Result<Option<EntryRow>, VfsError> {
        if self.fresh_until == Some(dir.cookie_next) {
            return Ok(None);
        }
        self.share.entry(self.dir, name.as_bytes()).await
    }

    fn add_entry(&mut self, dir: &mut NodeRow, name: &str, row: &NodeRow, batch: &mut Batch) {
        let is_fresh = self.fresh_until == Some(dir.cookie_next);
        self.share.add_entry(batch, dir, name.as_bytes(), row.node, row.kind);
        self.fresh_until = is_fresh.then_some(dir.cookie_next);
    }

    async fn new_file(&mut self, dir: &mut NodeRow, name: &str, object: &Listed, batch: &mut Batch) -> Result<Changed, VfsError> {
        let share = self.share;
        let row = share.unknown_row(NodeKind::File, object.modified_ns).await?;
        self.add_entry(dir, name, &row, batch);
        batch.put(Row::Object(share.foreign_object(row.node, object)));
        let event = Changed::Entry { parent: self.dir, name: name.as_bytes().to_vec(), before: NodeId(0), after: row.node };
        batch.put(Row::Node(row));
        Ok(event)
    }

    async fn new_directory(&mut self, dir: &mut NodeRow, name: &str, batch: &mut Batch) -> Result<Changed, VfsError> {
        let share = self.share;
        let row = share.unknown_row(NodeKind::Directory, self.asked_ns).await?;
        let row = NodeRow { parent: self.dir, flags: row.flags | FLAG_IMPLIED, links: 2, ..row };
        self.add_entry(dir, name, &row, batch);
        let event = Changed::Entry { parent: self.dir, name: name.as_bytes().to_vec(), before: NodeId(0), after: row.node };
        batch.put(Row::Node(row));
        Ok(event)
    }

    /// The directory's own marker, where it is another one than was known.
    async fn marker(&self, dir: &mut NodeRow, object: &Listed, batch: &mut Batch) -> Result<(), VfsError> {
        let share = self.share;
        let known = share.object(&object.key).await?;
        let is_same = known.is_some_and(|known| known.etag == object.etag.0 || known.node != self.dir);
        if is_same || share.has_job(self.dir).await? {
            return Ok(());
        }
        dir.flags = dir.flags & !FLAG_IMPLIED | FLAG_ATTRIBUTES_UNKNOWN;
        batch.put(Row::Object(share.foreign_object(self.dir, object)));
        Ok(())
    }

    /// Names of ours between what was compared and `until` whose objects are not in the listing any more.
    async fn compare(&mut self, listed: &HashSet<&str>, until: Option<String>) -> Result<(), VfsError> {
        let share = self.share;
        let mut from = self.compared.clone();
        'rows: loop {
            let rows = share.meta().objects(share.owner, &self.prefix, &from, ROWS).await?;
            let is_last = rows.len() < ROWS;
            let mut next = None;
            for row in rows {
                if until.as_ref().is_some_and(|until| row.key > *until) {
                    break 'rows;
                }
                if next.as_ref().is_some_and(|next| row.key < *next) {
                    continue;
                }
                let rest = &row.key[self.prefix.len()..];
                // Below a directory: go on after it.
                next = Some(match rest.find('/') {
                    Some(slash) => format!("{}{}0", self.prefix, &rest[..slash]),
                    None => format!("{}\0", row.key),
                });
                let is_gone = !rest.is_empty() && !rest.contains('/') && !listed.contains(row.key.as_str());
                if is_gone && !self.is_touched(&row.key) {
                    self.gone(&row).await?;
                }
            }
            match next {
                Some(next) if !is_last => from = next,
                _ => break,
            }
        }
        if let Some(until) = until {
            self.compared = until + "\0";
        }
        Ok(())
    }

    async fn gone(&mut self, row: &ObjectRow) -> Result<(), VfsError> {
        let name = &row.key.as_bytes()[self.prefix.len()..];
        if let Some(entry) = self.share.entry(self.dir, name).await?.filter(|entry| entry.node == row.node) {
            self.changed |= self.share.vanish(&entry, row).await?;
        }
        Ok(())
    }

    /// Everything was listed: directories that are gone, the marker, and when this was.
    pub(super) async fn finish(mut self) -> Result<(), VfsError> {
        // What no page had, any of them may have missed.
        self.page_asked_ns = self.asked_ns;
        if !self.is_first {
            self.gone_directories().await?;
        }
        let share = self.share;
        let guard = share.guards.lock(&[self.dir]).await;
        let mut dir = share.node(self.dir).await?;
        let known_marker = share.object(&self.prefix).await?.filter(|object| object.node == self.dir);
        let mut batch = Batch::new();
        if !self.has_marker && self.dir != share.root {
            if known_marker.is_none() && dir.flags & FLAG_IMPLIED != 0 {
                // That there is no marker is known without a HEAD.
                dir.flags &= !FLAG_ATTRIBUTES_UNKNOWN;
            } else if let Some(marker) = known_marker
                && !self.is_touched(&self.prefix)
                && !share.has_job(self.dir).await?
            {
                dir.flags |= FLAG_IMPLIED;
                batch.drop(Row::Object(marker).key());
            }
        }
        if self.is_first && self.dir == share.root && self.has_hidden && share.prefix.is_empty() {
            dir.flags |= FLAG_ATTRIBUTES_UNKNOWN;
        }
        dir.flags |= FLAG_LISTED;
        dir.listed_ns = self.asked_ns;
        batch.put(Row::Node(dir));
        share.apply(batch).await?;
        share.remote.listings.expired.lock().remove(&self.dir);
        drop(guard);
        if self.changed {
            share.tell(Origin(0), Changed::Attr(self.dir));
        }
        Ok(())
    }

    /// Directories below which the bucket has nothing any more: what is clean in them goes, and they with it where nothing is left.
    async fn gone_directories(&mut self) -> Result<(), VfsError> {
        let share = self.share;
        let mut after = 0;
        loop {
            let entries = share.meta().entries(self.dir, after, ROWS).await?;
            let is_last = entries.len() < ROWS;
            for entry in entries {
                after = entry.cookie;
                let name = std::str::from_utf8(&entry.name).unwrap_or("");
                if entry.kind == NodeKind::Directory && !self.directories.contains(name) {
                    self.changed |= self.gone_directory(&entry).await?;
                }
            }
            if is_last {
                return Ok(());
            }
        }
    }

    async fn gone_directory(&self, entry: &EntryRow) -> Result<bool, VfsError> {
        let share = self.share;
        let key = share.key_of(entry).await?;
        let row = share.node(entry.node).await?;
        let was_there =
            row.flags & FLAG_IMPLIED != 0 || share.object(&key).await?.is_some_and(|object| object.node == entry.node);
        if !was_there || self.is_touched(&key) || share.has_job(entry.node).await? || share.remote.moves.touches(&key) {
            return Ok(false);
        }
        if row.flags & FLAG_LISTED != 0 {
            Box::pin(share.list(entry.node)).await?;
        }
        share.vanish_directory(entry).await
    }
}

impl Share {
    /// The row of a node that was found in a listing.
    pub(in crate::engine::file) async fn unknown_row(&self, kind: NodeKind, modified_ns: i64) -> Result<NodeRow, VfsError> {
        let node = self.blobs.new_node_id().await?;
        let settings = &*self.settings();
        let is_directory = kind == NodeKind::Directory;
        Ok(NodeRow {
            node,
            owner: self.owner,
            kind,
            mode: if is_directory { settings.dir_mode } else { settings.file_mode },
            uid: settings.uid,
            gid: settings.gid,
            links: 1,
            rdev: 0,
            atime_ns: modified_ns,
            mtime_ns: modified_ns,
            ctime_ns: modified_ns,
            birth_ns: modified_ns,
            times_seq: Seq(0),
            blob: BlobId(0),
            parent: NodeId(0),
            target: Vec::new(),
            flags: FLAG_ATTRIBUTES_UNKNOWN,
            listed_ns: 0,
            source_prefix: None,
            cookie_next: COOKIE_FIRST,
        })
    }

    /// The row of an object that somebody else wrote.
    pub(in crate::engine::file) fn foreign_object(&self, node: NodeId, object: &Listed) -> ObjectRow {
        ObjectRow {
            owner: self.owner,
            key: object.key.clone(),
            node,
            etag: object.etag.0.clone(),
            version: None,
            size_bytes: object.size_bytes,
            modified_ns: object.modified_ns,
            attributes_digest: 0,
            content_seq: Seq(0),
            content_digest: Vec::new(),
            storage_class: object.storage_class.clone().filter(|class| class != "STANDARD"),
        }
    }
}

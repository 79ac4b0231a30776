//! What a plan is made from: a node, its names, its objects, its blob; and which of the objects its bytes are in.
//!
//! Invariant: a *twin* of the source has its content by number, and a number that is not known (0) equals none. So a blob never reads from an object
//! of which it is not known that its bytes are the blob's.

use crate::base::id::{NodeId, Seq};
use crate::engine::file::handle::Opens;
use crate::engine::file::keys::{self, Desired};
use crate::engine::file::layout::Source;
use crate::engine::file::refresh::FLAG_IMPLIED;
use crate::engine::file::share::{FLAG_ATTRIBUTES_UNKNOWN, FLAG_XATTRS, Share};
use crate::engine::file::{NodeKind, VfsError};
use crate::store::blob::{Batch, BlobChange, BlobError, BlobInfo};
use crate::store::meta::{NodeRow, ObjectRow};

use super::source_of;

/// Everything about a node that a plan is made from.
pub(in crate::engine::file) struct View {
    pub(in crate::engine::file) id: NodeId,
    /// `None`: it is gone.
    pub(in crate::engine::file) row: Option<NodeRow>,
    /// The keys that its names give it; of a directory only where it needs a marker.
    pub(in crate::engine::file) desired: Vec<Desired>,
    /// What the bucket has of it.
    pub(in crate::engine::file) objects: Vec<ObjectRow>,
    /// Its bytes.
    pub(in crate::engine::file) info: Option<BlobInfo>,
    pub(in crate::engine::file) opens: Opens,
}

impl View {
    /// Whether it has a name.
    pub(in crate::engine::file) fn is_alive(&self) -> bool {
        self.row.as_ref().is_some_and(|row| row.links > 0)
    }

    pub(in crate::engine::file) fn is_dirty(&self) -> bool {
        self.info.as_ref().is_some_and(BlobInfo::is_dirty)
    }

    pub(in crate::engine::file) fn object(&self, key: &str) -> Option<&ObjectRow> {
        self.objects.iter().find(|object| object.key == key)
    }

    pub(in crate::engine::file) fn desires(&self, key: &str) -> bool {
        self.desired.iter().any(|desired| desired.key == key)
    }

    /// Whether the blob reads from an object at `key`, known or not.
    pub(in crate::engine::file) fn reads_from(&self, key: &str) -> bool {
        self.info.as_ref().and_then(|info| Source::decode(&info.source)).is_some_and(|source| source.key == key)
    }

    /// The number of the content that S3 has of the blob.
    pub(in crate::engine::file) fn content(&self, prefix: &str) -> Option<Seq> {
        let info = self.info.as_ref()?;
        let known = self.source(prefix).map(|source| source.content_seq).filter(|seq| *seq != Seq(0));
        Some(known.unwrap_or(info.clean_through)).filter(|seq| *seq != Seq(0))
    }

    /// Another object with the content of the blob's source: at a key that the names give, if there is one.
    pub(in crate::engine::file) fn twin(&self, prefix: &str) -> Option<&ObjectRow> {
        let content = self.content(prefix)?;
        let has_it = |object: &&ObjectRow| {
            let has_bytes = keys::content_rank(prefix, &object.key).is_some();
            object.content_seq == content && has_bytes && !self.reads_from(&object.key)
        };
        self.objects.iter().filter(has_it).min_by_key(|object| !self.desires(&object.key))
    }

    /// The change by which the blob reads from the twin, where there is one.
    pub(in crate::engine::file) fn read_from_twin(&self, prefix: &str) -> Option<BlobChange> {
        let (row, info) = (self.row.as_ref()?, self.info.as_ref()?);
        let source = source_of(self.twin(prefix)?).encode();
        Some(BlobChange::Rebase { id: row.blob, instead_of: info.source.clone(), source })
    }

    pub(super) fn attributes_unknown(&self) -> bool {
        self.row.as_ref().is_some_and(|row| row.flags & FLAG_ATTRIBUTES_UNKNOWN != 0)
    }

    /// The object that the node's bytes (or, while they are unknown, its attributes) are in.
    pub(in crate::engine::file) fn source(&self, prefix: &str) -> Option<&ObjectRow> {
        match &self.info {
            Some(info) => {
                let source = Source::decode(&info.source)?;
                self.objects.iter().find(|object| object.key == source.key && object.etag == source.etag)
            }
            None if self.attributes_unknown() => self.main_object(prefix),
            None => None,
        }
    }

    /// The object that a node is best known by: at a key that its names give, else where it stepped aside to, else where it was.
    pub(in crate::engine::file) fn main_object(&self, prefix: &str) -> Option<&ObjectRow> {
        let rank = |object: &&ObjectRow| match keys::content_rank(prefix, &object.key) {
            Some(_) if self.desires(&object.key) => Some(0),
            rank => rank.map(|rank| rank + 1),
        };
        self.objects.iter().filter(|object| rank(object).is_some()).min_by_key(rank)
    }

    /// Whether what the node is can only be had from the object at `key`.
    pub(in crate::engine::file) fn reads(&self, key: &str, prefix: &str) -> bool {
        let needed = self.is_alive() || (self.row.is_some() && self.opens.handles > 0);
        needed && self.source(prefix).is_some_and(|source| source.key == key)
    }
}

impl Share {
    /// Gathers what a plan is made from.
    pub(in crate::engine::file) async fn view(&self, id: NodeId) -> Result<View, VfsError> {
        let row = match self.node(id).await {
            Ok(row) => Some(row),
            Err(VfsError::Stale) => None,
            Err(error) => return Err(error),
        };
        let objects = self.meta().objects_of(id).await?;
        let mut view = View { id, row, desired: Vec::new(), objects, info: None, opens: self.handles.opens(id) };
        let Some(row) = &view.row else { return Ok(view) };
        if row.blob.0 != 0 {
            view.info = match self.blobs.info(row.blob).await {
                Ok(info) => Some(info),
                Err(BlobError::NotFound) => None,
                Err(error) => return Err(error.into()),
            };
        }
        if row.links > 0 {
            let named = self.named_keys(row).await?;
            if let Some(desired) = named.first().filter(|_| view.is_dirty()) {
                // What is only here is to be found by its name, also without the database.
                self.blobs.set_hint(row.blob, desired.key.as_bytes());
            }
            if row.kind != NodeKind::Directory || self.wants_marker(&view, row, &named).await? {
                view.desired = named;
            }
        }
        Ok(view)
    }

    /// A directory has a marker where it was made or changed here, has one already, or is empty.
    async fn wants_marker(&self, view: &View, row: &NodeRow, named: &[Desired]) -> Result<bool, VfsError> {
        let own = view.objects.iter().any(|object| !keys::is_hidden(&self.prefix, &object.key));
        if row.node == self.root {
            let has = named.iter().any(|root| view.object(&root.key).is_some());
            return Ok(has || self.is_changed_directory(row));
        }
        if own || row.flags & FLAG_IMPLIED == 0 || self.is_changed_directory(row) {
            return Ok(true);
        }
        Ok(self.meta().entries(row.node, 0, 1).await?.is_empty())
    }

    /// Whether somebody gave the directory attributes of its own. An entry made in it sets both times alike, and a rename sets the change time:
    /// neither is such a change.
    fn is_changed_directory(&self, row: &NodeRow) -> bool {
        let settings = &*self.settings();
        (row.mode, row.uid, row.gid) != (settings.dir_mode, settings.uid, settings.gid)
            || row.flags & FLAG_XATTRS != 0
            || (row.mtime_ns != row.ctime_ns && row.mtime_ns != row.birth_ns)
    }

    /// Before anything else: a blob whose source no name keeps, or nobody knows, reads from one that a name keeps, where that has the same bytes.
    pub(super) async fn read_from_a_name(&self, view: View) -> Result<View, VfsError> {
        let prefix = &self.prefix;
        if view.source(prefix).is_some_and(|source| view.desires(&source.key)) {
            return Ok(view);
        }
        let Some(change) = view.read_from_twin(prefix).filter(|_| view.twin(prefix).is_some_and(|twin| view.desires(&twin.key)))
        else {
            return Ok(view);
        };
        let mut batch = Batch::new();
        batch.blob(change);
        self.apply(batch).await?;
        self.view(view.id).await
    }
}

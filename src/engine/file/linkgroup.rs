//! Hard links in the bucket: every name is an object with the full bytes, and a small object ties them.
//!
//! Form, version 1: each object of a node with several names has the metadata `tidegate-link: <group>`; the object
//! `<prefix>.tidegate/links/<group>.json` is `{"version":1,"names":["a/x","b/y",…]}`, paths after the share's prefix in the order of their
//! bytes. A group's id is `<gateway>-<node>` of the gateway that made it, and is kept by gateways that find it.
//!
//! Invariants: the group is written before the objects that name it, and deleted after they no longer do. A name is
//! taken into a group only if its object has the bytes of the group's, by ETag: a stale group ties nothing, and metadata alone proves nothing,
//! since who overwrites an object may keep it. The ETag of what was sent in parts, or encrypted with a key, is not that of its copies:
//! there the group, the length and the modification time (to the nanosecond) decide.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::base::id::NodeId;
use crate::engine::file::{Changed, NodeKind, Origin, VfsError};
use crate::store::blob::Batch;
use crate::store::meta::{EntryRow, Key, ObjectRow, Row};
use crate::store::object::{ETag, ObjectError};
use crate::store::upload::{Expected, Op};

use super::attributes::{self, Posix};
use super::keys;
use super::overflow;
use super::settle::{View, new_object};
use super::share::{FLAG_ATTRIBUTES_UNKNOWN, Share};

/// The most that a link group may have when it is read, in bytes.
const BODY_BYTES_MAX: u64 = 64 << 20;
/// Names of a group that are looked up when it is found; more are tied as they are met.
const NAMES_LOOKED_UP_MAX: usize = 1000;

#[derive(Serialize, Deserialize)]
struct Document {
    version: u32,
    names: Vec<String>,
}

/// The body of a group.
pub fn encode(mut names: Vec<String>) -> Bytes {
    names.sort_unstable();
    serde_json::to_vec(&Document { version: 1, names }).unwrap_or_default().into()
}

/// The names of a body; `None` where it is not one of ours, or of a later version.
pub fn decode(body: &[u8]) -> Option<Vec<String>> {
    let document: Document = serde_json::from_slice(body).ok()?;
    (document.version == 1).then_some(document.names)
}

/// Whether `group` can be a group's id: it comes from an object's metadata, so it must not lead elsewhere.
pub fn is_group(group: &str) -> bool {
    overflow::is_name(group)
}

/// The digest that tells one small body from another.
pub(super) fn digest(body: &[u8]) -> Vec<u8> {
    Sha256::digest(body)[..16].to_vec()
}

impl Share {
    /// The group of a node that has several names.
    pub(super) fn group_of(&self, view: &View) -> Option<String> {
        let linked = view.desired.len() > 1 && view.row.as_ref().is_some_and(|row| row.kind != NodeKind::Directory);
        linked.then(|| {
            let folder = keys::link_key(&self.prefix, "");
            let folder = folder.trim_end_matches(".json");
            let known = view.objects.iter().find_map(|object| object.key.strip_prefix(folder)?.strip_suffix(".json"));
            known.map_or_else(|| format!("{}-{}", self.gateway, view.id), str::to_owned)
        })
    }

    /// The group's object, where it is not what the names are.
    pub(super) async fn plan_group(&self, view: &View, posix: &Posix) -> Result<Option<Op>, VfsError> {
        let Some(group) = &posix.link else { return Ok(None) };
        let prefix = &self.prefix;
        let names = view.desired.iter().filter_map(|desired| desired.key.strip_prefix(prefix)).map(str::to_owned).collect();
        let body = encode(names);
        let key = keys::link_key(prefix, group);
        let there = self.object(&key).await?;
        if there.as_ref().is_some_and(|there| there.content_digest == digest(&body)) {
            return Ok(None);
        }
        let expected = there.map_or(Expected::Absent, |there| Expected::Object(ETag(there.etag)));
        Ok(Some(Op::PutBytes { key, body, attributes: self.small_attributes(overflow::CONTENT_TYPE), expected }))
    }

    /// A node was found to be a name of `group`: ties it with the others that are known, and looks for those that the group names.
    /// Called without guards.
    pub(super) async fn tie(&self, node: NodeId, group: &str) -> Result<(), VfsError> {
        if !is_group(group) {
            return Ok(());
        }
        let key = keys::link_key(&self.prefix, group);
        if let Some(there) = self.object(&key).await?
            && there.node != node
            && self.node(there.node).await.is_ok_and(|row| row.links > 0)
        {
            let mtime_ns = self.node(node).await?.mtime_ns;
            return self.merge(there.node, node, Some(mtime_ns)).await;
        }
        let (head, body) = match self.bucket.get(&key, Some(0..BODY_BYTES_MAX), None).await {
            Ok(found) => found,
            Err(ObjectError::NotFound) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let (Some(etag), Some(names)) = (&head.etag, decode(&body)) else { return Ok(()) };
        let mut row = new_object(self, node, &key, etag, head.version.as_ref(), head.size_bytes);
        row.content_digest = digest(&body);
        let mut batch = Batch::new();
        batch.put(Row::Object(row));
        self.blobs.apply(self.owner, batch).await?;
        for name in names.iter().take(NAMES_LOOKED_UP_MAX) {
            if let Some(other) = self.find_name(name).await? {
                self.tie_if_copy(node, &other, group).await?;
            }
        }
        Ok(())
    }

    /// The entry of a path, listing the directories on its way.
    async fn find_name(&self, path: &str) -> Result<Option<EntryRow>, VfsError> {
        let mut parent = self.root;
        let mut names = path.split('/').peekable();
        while let Some(name) = names.next() {
            Box::pin(self.ensure_listed(parent)).await?;
            let Some(entry) = self.entry(parent, name.as_bytes()).await? else { return Ok(None) };
            if names.peek().is_none() {
                return Ok(Some(entry));
            }
            if entry.kind != NodeKind::Directory {
                return Ok(None);
            }
            parent = entry.node;
        }
        Ok(None)
    }

    /// Ties a name that the group has with `node`, if its object belongs to the group and nobody has looked at it yet.
    async fn tie_if_copy(&self, node: NodeId, other: &EntryRow, group: &str) -> Result<(), VfsError> {
        let Ok(row) = self.node(other.node).await else { return Ok(()) };
        if other.node == node || row.flags & FLAG_ATTRIBUTES_UNKNOWN == 0 {
            return Ok(());
        }
        let Some(object) = self.main_object(other.node).await? else { return Ok(()) };
        let Some(own) = self.main_object(node).await? else { return Ok(()) };
        if object.etag == own.etag {
            return self.merge(node, other.node, None).await;
        }
        let head = self.bucket.head(&object.key).await?;
        let same_group = head.attributes.metadata.get("tidegate-link").map(String::as_str) == Some(group);
        let is_seen = head.etag.as_ref().is_some_and(|etag| etag.0 == object.etag);
        if !same_group || !is_seen {
            return Ok(());
        }
        let decoded = attributes::decode(&head.attributes, head.modified_ns, "", false, &self.rules());
        self.merge(node, other.node, Some(decoded.posix.mtime_ns)).await
    }

    /// The object that a node is best known by.
    pub(super) async fn main_object(&self, node: NodeId) -> Result<Option<ObjectRow>, VfsError> {
        Ok(self.view(node).await?.main_object(&self.prefix).cloned())
    }

    /// Makes all names of `from`, which nobody has changed here, names of `into`, if it has the same bytes. `mtime_ns`: the modification time of
    /// `from`, where its object says that it is of the same group.
    async fn merge(&self, into: NodeId, from: NodeId, mtime_ns: Option<i64>) -> Result<(), VfsError> {
        let names = self.meta().names_of(from, keys::NAMES_MAX).await?;
        let mut guarded: Vec<NodeId> = names.iter().map(|name| name.parent).collect();
        guarded.extend([into, from]);
        let guard = self.guards.lock(&guarded).await;
        let (mut kept, gone) = match (self.node(into).await, self.node(from).await) {
            (Ok(kept), Ok(gone)) if kept.links > 0 => (kept, gone),
            _ => return Ok(()),
        };
        if self.has_job(from).await?
            || self.handles.opens(from).handles > 0
            || names != self.meta().names_of(from, keys::NAMES_MAX).await?
        {
            return Ok(());
        }
        let (view, seen) = (self.view(into).await?, self.main_object(from).await?);
        let kept_mtime_ns = self.posix(&view, &kept).await?.mtime_ns;
        let alike = |seen: &ObjectRow| {
            let bytes = || view.objects.iter().filter(|object| keys::content_rank(&self.prefix, &object.key).is_some());
            let same = bytes().find(|object| object.etag == seen.etag);
            same.or_else(|| bytes().find(|object| self.may_be_copies(object, seen)).filter(|_| mtime_ns == Some(kept_mtime_ns)))
        };
        let Some((seen, content)) = seen.as_ref().and_then(|seen| Some((seen, alike(seen)?))) else { return Ok(()) };
        let mut batch = Batch::new();
        for name in &names {
            batch.put(Row::Entry(EntryRow { node: into, kind: kept.kind, ..name.clone() }));
            kept.links += 1;
        }
        for mut object in self.meta().objects_of(from).await? {
            object.node = into;
            object.attributes_digest = content.attributes_digest;
            if object.key == seen.key {
                object.content_seq = content.content_seq;
                object.content_digest.clone_from(&content.content_digest);
            }
            batch.put(Row::Object(object));
        }
        batch.put(Row::Node(kept));
        batch.drop(Key::Node(from));
        if gone.blob.0 != 0 {
            batch.blob(crate::store::blob::BlobChange::Remove { id: gone.blob });
        }
        self.blobs.apply(self.owner, batch).await?;
        drop(guard);
        for name in names {
            self.tell(Origin(0), Changed::Entry { parent: name.parent, name: name.name, before: from, after: into });
        }
        self.tell(Origin(0), Changed::Attr(into));
        Ok(())
    }

    /// Whether two objects of different ETags can have the same bytes.
    fn may_be_copies(&self, one: &ObjectRow, other: &ObjectRow) -> bool {
        let is_opaque = |object: &ObjectRow| object.etag.contains('-') || self.settings().encryption.is_some();
        one.size_bytes == other.size_bytes && (is_opaque(one) || is_opaque(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_read_back() {
        let body = encode(vec!["b/ü".into(), "a".into()]);
        assert_eq!(body, r#"{"version":1,"names":["a","b/ü"]}"#);
        assert_eq!(decode(&body), Some(vec!["a".to_owned(), "b/ü".to_owned()]));
        assert_eq!(decode(br#"{"version":2,"names":[]}"#), None);
        assert_eq!(decode(b"x"), None);
    }

    #[test]
    fn a_group_cannot_lead_elsewhere() {
        assert!(is_group("gw-7"));
        for group in ["", "../x", "a/b", ".hidden"] {
            assert!(!is_group(group));
        }
    }
}

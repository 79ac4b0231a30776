//! What is to be uploaded: the difference between what a node is and what the bucket has of it, one operation at a time.
//!
//! What lives here: [`Settler`], the planner of the upload queue for files; the order of the steps.
//! Beside it: `settle/view.rs` (from what), `settle/quiet.rs` (when), `settle/occupied.rs` (whose key it is), `settle/outcome.rs` (what follows from an operation).
//!
//! A plan depends on rows alone: the node, its names, its objects, its blob. The steps, each only where something is missing:
//! 1. nothing while the node is not quiet, or its bytes are dirty and somebody has it open for writing;
//! 2. what the object will refer to: overflow, link group;
//! 3. dirty bytes, or bytes that S3 has nowhere: `PutBlob` at a key that the names give (its attributes go along);
//! 4. the other keys that the names give: `Copy` from the node's own object;
//! 5. attributes that differ: `Copy` in place, or `PutBytes` for what has no bytes of its own;
//! 6. objects at keys that the names do not give: `Delete`. Where the node's bytes are in one of them, a twin is their source before anything else.
//!
//! So a rename is 4 and 6, a new file 3, a chmod 5, a removed file 6, and create + write + chmod + rename within the delay is 3 at the final key.
//!
//! Invariants:
//! - The *source* of a node is the object that its blob's remote bytes are in. It is overwritten, deleted or given up only when the blob reads from
//!   another: a *twin*, which has the same content at another key, or the log (`conflict.rs`).
//! - `content_seq` and `content_digest` of an object's row belong to its ETag: they are set with it or copied from a row with it, else unknown. What is
//!   unknown equals nothing.
//! - A key that another node's source is at is waited for. Where nodes wait in a circle (a swap of names) the one with the
//!   smallest number copies itself to `.tidegate/moving/` first.
//! - A node that is removed while it is open keeps its source; its objects are deleted after the last close.
//! - An object is overwritten or deleted only after it is durable here that its bytes are elsewhere, or nobody's (the uploader makes durable
//!   what a plan was made from before it sends anything): a power loss never leaves a row that takes another file's object for its own.
//! - A node's job is not over while bytes are on their way into its blob.
//! - A node created anew at the key of a removed one overwrites its object: one version, no delete.

mod occupied;
mod outcome;
mod quiet;
mod stateless;
mod view;

use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::base::id::{NodeId, Seq};
use crate::engine::file::{NodeKind, VfsError};
use crate::store::blob::{Batch, BlobError, FetchError};
use crate::store::meta::{Key, NodeRow, ObjectRow, Row};
use crate::store::object::{Attributes, CopySource, ETag, ObjectError, Outcome};
use crate::store::upload::{Done, Expected, Op, Plan, Planner};

use super::attributes::{self, Posix, Rules};
use super::keys::{self, Desired};
use super::layout::Source;
use super::overflow;
use super::share::{FLAG_XATTRS, Settings, Share};
use occupied::Spot;
pub(super) use stateless::Stateless;
pub(super) use view::View;

/// How long a directory whose entries change is left alone before its marker is written again.
pub(super) const DIRECTORY_QUIET: Duration = Duration::from_secs(15);

/// How long a job that has nothing left is kept for a write that is under way.
const WRITING_NS: i64 = 200_000_000;

/// The planner of one share.
pub(super) struct Settler(Weak<Share>);

impl Settler {
    pub(super) fn new(share: &Arc<Share>) -> Self {
        Self(Arc::downgrade(share))
    }
}

#[async_trait]
impl Planner for Settler {
    async fn plan(&self, subject: u64) -> Result<Plan, BlobError> {
        match self.0.upgrade() {
            Some(share) => share.plan(NodeId(subject)).await.map_err(words),
            None => Ok(Plan::Wait(i64::MAX)),
        }
    }

    async fn done(&self, subject: u64, op: &Op, done: &Done, batch: &mut Batch) -> Result<(), BlobError> {
        match self.0.upgrade() {
            Some(share) => share.record(NodeId(subject), op, done, batch).await.map_err(words),
            None => Err(words(VfsError::Stale)),
        }
    }

    fn applied(&self, subject: u64, op: &Op, done: &Done) {
        if let Some(share) = self.0.upgrade() {
            share.recorded(NodeId(subject), op, done);
        }
    }
}

/// A failed plan in the words that `status` shows.
fn words(error: VfsError) -> BlobError {
    let reason = error.to_string();
    BlobError::Fetch(FetchError::Object(ObjectError::Unavailable { reason, outcome: Outcome::Refused }))
}

/// A desired key and the attributes that its object is to have.
struct Dressed<'a> {
    desired: &'a Desired,
    attributes: Attributes,
    digest: u64,
}

impl Share {
    /// What names and dresses this share's objects.
    pub(super) fn rules(&self) -> Rules {
        let settings = &*self.settings();
        Rules {
            file_mode: settings.file_mode,
            dir_mode: settings.dir_mode,
            uid: settings.uid,
            gid: settings.gid,
            guess_mime: settings.guess_mime,
            dress: Attributes {
                storage_class: settings.storage_class.clone(),
                acl: settings.acl.clone(),
                encryption: settings.encryption.clone(),
                kms_key: settings.kms_key.clone(),
                ..Attributes::default()
            },
        }
    }

    pub(super) async fn plan(&self, id: NodeId) -> Result<Plan, VfsError> {
        // Asked on both sides of the plan: a write that ends while the plan is made may have come too late for it.
        let was_writing = self.remote.writing.has(id);
        let plan = self.plan_now(id).await?;
        // Bytes that wait for room come in a moment, and must find their job there, whatever dies in between.
        let is_early = plan == Plan::Settled && (was_writing || self.remote.writing.has(id));
        Ok(if is_early { Plan::Wait(self.now_ns() + WRITING_NS) } else { plan })
    }

    async fn plan_now(&self, id: NodeId) -> Result<Plan, VfsError> {
        if let Some(until_ns) = self.left_alone_until(id).await? {
            return Ok(Plan::Wait(until_ns));
        }
        let view = self.read_from_a_name(self.view(id).await?).await?;
        let Some(row) = view.row.as_ref().filter(|_| view.is_alive()) else {
            return self.plan_removed(&view).await;
        };
        if let Some(until_ns) = self.not_before(&view, row).await? {
            return Ok(Plan::Wait(until_ns));
        }
        if view.is_dirty() && view.opens.writers > 0 && !self.remote.is_published(id) {
            let aside = self.step_aside_if_wanted(&view).await?;
            return Ok(aside.unwrap_or(Plan::Wait(self.held_until(id).await?)));
        }
        let is_new_key = |desired: &Desired| view.object(&desired.key).is_none();
        if view.attributes_unknown() && view.desired.iter().any(is_new_key) {
            // A copy keeps neither the time of its source nor its storage class: they must be known.
            if let Err(error) = self.ensure_attributes(id).await {
                self.follow_what_is_gone(&view, error).await?;
                return Ok(Plan::Wait(self.now_ns() + WRITING_NS));
            }
            return Ok(Plan::Wait(self.now_ns()));
        }
        let posix = self.posix(&view, row).await?;
        let op = match &row.kind {
            NodeKind::File => self.plan_file(&view, row, &posix).await?,
            _ => self.plan_small(&view, row, &posix).await?,
        };
        match op {
            Some(Plan::Run(op)) => self.first_what_it_refers_to(&view, &posix, op).await,
            Some(plan) => Ok(plan),
            None => match self.plan_group(&view, &posix).await? {
                Some(op) => Ok(Plan::Run(op)),
                None => self.plan_deletes(&view, &posix).await,
            },
        }
    }

    /// An object that cannot be looked at may have been deleted by somebody else: then so is the file, and its job is no reason to keep it.
    async fn follow_what_is_gone(&self, view: &View, error: VfsError) -> Result<(), VfsError> {
        match (view.main_object(&self.prefix), &error) {
            (Some(object), VfsError::Unavailable(_)) => self.check_source_now(view.id, object, true).await,
            _ => Err(error),
        }
    }

    /// Steps 3 to 5 of a file.
    async fn plan_file(&self, view: &View, row: &NodeRow, posix: &Posix) -> Result<Option<Plan>, VfsError> {
        let prefix = &self.prefix;
        let source = view.source(prefix);
        let dressed = self.dress(view, posix);
        let Some(source) = source.filter(|_| !view.is_dirty()) else {
            let at = dressed.iter().find(|one| source.is_some_and(|source| source.key == one.desired.key));
            let Some(at) = at.or(dressed.first()) else { return Ok(None) };
            let expected = match self.spot(view, &at.desired.key).await? {
                Spot::Free(expected) => expected,
                Spot::Taken(plan) => return Ok(Some(*plan)),
            };
            let same = source.filter(|source| source.key == at.desired.key && !source.content_digest.is_empty());
            return Ok(Some(Plan::Run(Op::PutBlob {
                key: at.desired.key.clone(),
                blob: row.blob,
                attributes: at.attributes.clone(),
                expected,
                base: source.map(copy_source),
                unless_digest: same.map(|source| source.content_digest.clone()),
            })));
        };
        let content = view.content(prefix);
        for one in &dressed {
            let have = view.object(&one.desired.key);
            if have.is_some_and(|have| have.key == source.key || Some(have.content_seq) == content) {
                continue;
            }
            let expected = match self.spot(view, &one.desired.key).await? {
                Spot::Free(expected) => expected,
                Spot::Taken(plan) => return Ok(Some(*plan)),
            };
            let keep = source.attributes_digest == one.digest && !self.is_dressed(source);
            let attributes = (!view.attributes_unknown() && !keep).then(|| one.attributes.clone());
            return Ok(Some(Plan::Run(copy(source, &one.desired.key, attributes, expected))));
        }
        if view.attributes_unknown() {
            return Ok(None);
        }
        let differs = |one: &&Dressed| view.object(&one.desired.key).is_some_and(|have| have.attributes_digest != one.digest);
        Ok(dressed.iter().find(differs).and_then(|one| {
            let have = view.object(&one.desired.key)?;
            let expected = Expected::Object(ETag(have.etag.clone()));
            Some(Plan::Run(copy(have, &one.desired.key, Some(one.attributes.clone()), expected)))
        }))
    }

    /// Steps 3 to 5 of what has no blob: a symlink's target, the zero bytes of everything else.
    async fn plan_small(&self, view: &View, row: &NodeRow, posix: &Posix) -> Result<Option<Plan>, VfsError> {
        for one in &self.dress(view, posix) {
            let key = &one.desired.key;
            let have = view.object(key);
            if have.is_some_and(|have| view.attributes_unknown() || have.attributes_digest == one.digest) {
                continue;
            }
            let expected = match self.spot(view, key).await? {
                Spot::Free(expected) => expected,
                Spot::Taken(plan) => return Ok(Some(*plan)),
            };
            let unknown = view.source(&self.prefix).filter(|_| view.attributes_unknown());
            return Ok(Some(Plan::Run(match unknown {
                Some(source) => copy(source, key, None, expected),
                None => {
                    let (body, attributes) = (Bytes::from(row.target.clone()), one.attributes.clone());
                    Op::PutBytes { key: key.clone(), body, attributes, expected }
                }
            })));
        }
        Ok(None)
    }

    /// Step 2: an overflow that `op`'s attributes name comes first.
    async fn first_what_it_refers_to(&self, view: &View, posix: &Posix, op: Op) -> Result<Plan, VfsError> {
        if let Some(group) = self.plan_group(view, posix).await? {
            return Ok(Plan::Run(group));
        }
        let attributes = match &op {
            Op::PutBlob { attributes, .. } | Op::PutBytes { attributes, .. } | Op::Copy { attributes: Some(attributes), .. } => {
                attributes
            }
            _ => return Ok(Plan::Run(op)),
        };
        let Some((name, body)) = self.encode(view.id, posix, "").overflow else { return Ok(Plan::Run(op)) };
        let key = keys::overflow_key(&self.prefix, &name);
        if view.object(&key).is_some() || !attributes.metadata.values().any(|value| *value == name) {
            return Ok(Plan::Run(op));
        }
        let attributes = self.small_attributes(overflow::CONTENT_TYPE);
        Ok(Plan::Run(Op::PutBytes { key, body, attributes, expected: Expected::Absent }))
    }

    /// Step 6. Where somebody else is about to write a key, its object is left to be overwritten.
    async fn plan_deletes(&self, view: &View, posix: &Posix) -> Result<Plan, VfsError> {
        let overflow = self.encode(view.id, posix, "").overflow.map(|(name, _)| keys::overflow_key(&self.prefix, &name));
        let group = posix.link.as_ref().map(|group| keys::link_key(&self.prefix, group));
        let kept = |key: &str| view.desires(key) || overflow.as_deref() == Some(key) || group.as_deref() == Some(key);
        self.delete_first(view, |object| !kept(&object.key)).await
    }

    /// A node without a name: its objects go, once nobody has it open.
    async fn plan_removed(&self, view: &View) -> Result<Plan, VfsError> {
        if view.row.is_some() && view.opens.handles > 0 {
            // The last close gives it another job.
            return Ok(self.step_aside_if_wanted(view).await?.unwrap_or(Plan::Settled));
        }
        self.delete_first(view, |_| true).await
    }

    async fn delete_first(&self, view: &View, surplus: impl Fn(&ObjectRow) -> bool) -> Result<Plan, VfsError> {
        let mut wait = Plan::Settled;
        for object in view.objects.iter().filter(|object| surplus(object) && !view.reads(&object.key, &self.prefix)) {
            match self.wanted_by(view.id, &object.key).await? {
                Some(heir) => wait = self.after(heir).await?,
                None => {
                    let expected = Expected::Object(ETag(object.etag.clone()));
                    return Ok(Plan::Run(Op::Delete { key: object.key.clone(), expected }));
                }
            }
        }
        Ok(wait)
    }

    /// Whether copies of an object must be told what they are to be stored as.
    fn is_dressed(&self, object: &ObjectRow) -> bool {
        let Settings { storage_class, acl, encryption, .. } = &*self.settings();
        object.storage_class.is_some() || storage_class.is_some() || acl.is_some() || encryption.is_some()
    }

    /// The attributes that the names give the node's objects.
    fn dress<'a>(&self, view: &'a View, posix: &Posix) -> Vec<Dressed<'a>> {
        let dress = |desired: &'a Desired| {
            let attributes = self.encode(view.id, posix, desired.name()).attributes;
            Dressed { desired, digest: attributes::digest(&attributes), attributes }
        };
        view.desired.iter().map(dress).collect()
    }

    pub(super) fn encode(&self, node: NodeId, posix: &Posix, name: &str) -> attributes::Encoded {
        attributes::encode(posix, name, &format!("{}-{node}", self.gateway), &self.rules())
    }

    /// Attributes of the gateway's own small objects.
    pub(super) fn small_attributes(&self, content_type: &str) -> Attributes {
        Attributes { content_type: Some(content_type.to_owned()), ..self.rules().dress }
    }

    /// What the node is besides its bytes, as of now.
    pub(super) async fn posix(&self, view: &View, row: &NodeRow) -> Result<Posix, VfsError> {
        let mtime_ns = match &view.info {
            Some(info) if info.modified_seq > row.times_seq => info.modified_ns,
            _ => row.mtime_ns,
        };
        let mut posix = Posix {
            kind: row.kind,
            mode: row.mode,
            uid: row.uid,
            gid: row.gid,
            rdev: row.rdev,
            mtime_ns,
            atime_ns: self.atimes.of(row),
            birth_ns: row.birth_ns,
            xattrs: std::collections::BTreeMap::new(),
            link: self.group_of(view),
            open: view.opens.writers > 0 && (view.is_dirty() || self.remote.marked_open.lock().contains(&view.id)),
        };
        if row.flags & FLAG_XATTRS != 0 {
            let visible = |name: &[u8]| name.first() != Some(&0);
            let rows = self.meta().xattrs(row.node).await?;
            posix.xattrs = rows.into_iter().filter(|row| visible(&row.name)).map(|row| (row.name, row.value)).collect();
        }
        Ok(posix)
    }

    /// What is known of the object at a key.
    pub(super) async fn object(&self, key: &str) -> Result<Option<ObjectRow>, VfsError> {
        let key = Key::Object(self.owner, key.to_owned());
        let row = match self.meta().try_get(&key) {
            Some(known) => known,
            None => self.meta().get(&key).await?,
        };
        Ok(row.and_then(|row| if let Row::Object(object) = row { Some(object) } else { None }))
    }
}

pub(super) fn copy_source(object: &ObjectRow) -> CopySource {
    CopySource { key: object.key.clone(), etag: Some(ETag(object.etag.clone())), version: object.version.clone() }
}

pub(super) fn source_of(object: &ObjectRow) -> Source {
    let ObjectRow { key, etag, version, size_bytes, .. } = object.clone();
    Source { key, etag, version, size_bytes }
}

/// A copy; it has the storage class of its source where the share has none of its own.
fn copy(source: &ObjectRow, key: &str, mut attributes: Option<Attributes>, expected: Expected) -> Op {
    if let Some(attributes) = attributes.as_mut().filter(|attributes| attributes.storage_class.is_none()) {
        attributes.storage_class.clone_from(&source.storage_class);
    }
    Op::Copy { source: copy_source(source), size_bytes: source.size_bytes, key: key.to_owned(), attributes, expected }
}

/// The row of an object that was just written.
pub(super) fn new_object(
    share: &Share,
    node: NodeId,
    key: &str,
    etag: &ETag,
    version: Option<&String>,
    size_bytes: u64,
) -> ObjectRow {
    ObjectRow {
        owner: share.owner(),
        key: key.to_owned(),
        node,
        etag: etag.0.clone(),
        version: version.cloned(),
        size_bytes,
        modified_ns: share.now_ns(),
        attributes_digest: 0,
        content_seq: Seq(0),
        content_digest: Vec::new(),
        storage_class: None,
    }
}

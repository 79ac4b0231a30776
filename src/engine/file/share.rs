//! One share: a bucket (or a prefix of it) as a file tree, behind the [`Vfs`] seam.
//!
//! What lives here: [`Share`], its [`Settings`], and the `Vfs` implementation, which only hands each call to its verb's file
//! (`lookup`, `attr`, `access`, `open`, `io`, `create`, `link`, `rename`, `remove`, `readdir`, `lock`, `xattr`, `statfs`).
//! The bucket's side is in `keys`, `attributes`, `layout`, `settle` (what is to be uploaded), `refresh` (what others wrote), `moves`,
//! `linkgroup` and `conflict`.
//!
//! How a verb works: resolve names and ask the bucket what has to be asked ([`Share::ensure_listed`], [`Share::ensure_attributes`])
//! without any lock; lock the nodes that it changes ([`Guards`]); look again; check permissions; put every row that changes into ONE
//! [`Batch`] with the jobs that follow from it ([`Share::unsettle`]); apply it; tell front ends; wake the uploader.
//!
//! Invariants:
//! - A row of a node or of an entry in a directory changes only under that node's guard. Several guards are taken at once, in one
//!   order. No guard is held across a request to S3. Data is written without a guard: the blob has its own order.
//! - The rows and blob changes of one verb are one batch: it happened, or it did not.
//! - A `File` has a blob, unless its attributes are unknown ([`FLAG_ATTRIBUTES_UNKNOWN`]: [`Share::ensure_attributes`] makes both known);
//!   no other kind has one.
//! - `links` of a directory is 2 + its subdirectories, kept in step by [`Share::add_entry`], [`Share::drop_entry`] and an exchanging rename alone, with
//!   `cookie_next`; 0 once it is removed. `parent` of a directory is right at any time; the root's is the root.
//! - Modification and change time of a file: the row's where `times_seq` is at or above the blob's `modified_seq`, else the blob's.
//! - A node with no name is kept (`links` 0) while it is open; what is left of such at a start is removed. The objects that its remote
//!   bytes are in must stay until its row is gone.
//! - Names are UTF-8 up to 255 bytes, paths up to 4,095 bytes. A key over S3's 1,024 bytes is the bucket side's to keep elsewhere.

use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::RwLock;

use crate::base::id::{NodeId, OwnerId};
use crate::engine::file::{
    AccessMask, Allocate, Attr, Caller, Changed, Changes, Create, DirEntry, HandleId, Io, Lock, LockOwner, NodeKind, OpenHow,
    Opened, Origin, Remove, Rename, Seek, SetAttr, SetXattr, StatFs, Target, Vfs, VfsError,
};
use crate::store::blob::BlobStore;
use crate::store::meta::Meta;
use crate::store::object::SharedStore;
use crate::store::upload::Uploader;

use super::atime::AccessTimes;
use super::changes::Hub;
use super::guard::Guards;
use super::handle::Handles;
use super::lock::LockTable;
use super::remote::Remote;
use super::tree::Places;

/// Flag of a directory row: it was listed from the bucket (at `listed_ns`), or is our own and the bucket had nothing below it.
pub const FLAG_LISTED: u64 = 1 << 0;
/// Flag of a node row: found in a listing; mode, owner and times in the row are the share's defaults until a HEAD told the object's.
pub const FLAG_ATTRIBUTES_UNKNOWN: u64 = 1 << 1;
/// Flag of a node row: bytes that only this gateway had were damaged.
pub const FLAG_DAMAGED: u64 = 1 << 2;
/// Flag of a node row: it has rows of extended attributes (names that begin with NUL are ours and hidden).
pub const FLAG_XATTRS: u64 = 1 << 3;

/// Which durability `commit` (fsync) acknowledges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// On the cache disk.
    #[default]
    Local,
    /// In S3.
    Remote,
}

/// What happens to a dirty file of ours whose object somebody else changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConflictPolicy {
    /// Ours is stored beside it under a conflict name.
    #[default]
    KeepBoth,
    /// Ours replaces theirs.
    LocalWins,
    /// Theirs replaces ours.
    RemoteWins,
}

/// Plain values of a share.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The bucket's name, for messages and the owner's row.
    pub bucket: String,
    /// Key prefix, empty or ending in "/".
    pub prefix: String,
    /// The endpoint that the bucket is at, in words that stay the same, for the owner's row; empty where nobody says.
    pub endpoint: String,
    /// How long a file is quiet before it is uploaded.
    pub upload_delay: Duration,
    /// How long a file is quiet that is written without having been opened (NFSv3 tells no close); doubles with each upload of the same
    /// file, to 15 minutes.
    pub stateless_delay: Duration,
    /// After how long a listing is looked at again.
    pub refresh: Duration,
    /// What fsync acknowledges.
    pub durability: Durability,
    /// Nothing can be changed.
    pub read_only: bool,
    /// Permission bits of foreign objects without any of their own.
    pub file_mode: u32,
    /// As `file_mode`, of directories.
    pub dir_mode: u32,
    /// Owner of foreign objects without one.
    pub uid: u32,
    /// Group of foreign objects without one.
    pub gid: u32,
    /// `x-amz-storage-class`; `None` is the bucket's default.
    pub storage_class: Option<String>,
    /// Canned ACL.
    pub acl: Option<String>,
    /// Server-side encryption.
    pub encryption: Option<String>,
    /// The KMS key of `encryption`.
    pub kms_key: Option<String>,
    /// See [`ConflictPolicy`].
    pub conflict: ConflictPolicy,
    /// `Content-Type` from the name.
    pub guess_mime: bool,
    /// Publish a file that is held open once its oldest change is this old.
    pub upload_max_age: Option<Duration>,
    /// The longest that a call waits for S3.
    pub remote_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            bucket: String::new(),
            prefix: String::new(),
            endpoint: String::new(),
            upload_delay: Duration::from_secs(2),
            stateless_delay: Duration::from_secs(15),
            refresh: Duration::from_secs(60),
            durability: Durability::Local,
            read_only: false,
            file_mode: 0o644,
            dir_mode: 0o755,
            uid: 0,
            gid: 0,
            storage_class: None,
            acl: None,
            encryption: None,
            kms_key: None,
            conflict: ConflictPolicy::KeepBoth,
            guess_mime: true,
            upload_max_age: None,
            remote_timeout: Duration::from_secs(30),
        }
    }
}

/// Why a node is no longer what S3 has: the delay differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Its bytes.
    Content,
    /// Its mode, owner, times or extended attributes.
    Attributes,
    /// Its names: new, renamed, linked or removed (the row may be gone afterwards: objects without a node are deleted).
    Names,
    /// A directory whose times or emptiness changed because of an entry in it.
    Implicit,
}

/// One share. Made by [`Share::open`]; shared by reference.
pub struct Share {
    pub(super) this: Weak<Share>,
    pub(super) owner: OwnerId,
    pub(super) name: String,
    pub(super) root: NodeId,
    /// Key prefix, empty or ending in "/": where the share is, for ever.
    pub(super) prefix: String,
    pub(super) settings: RwLock<Arc<Settings>>,
    pub(super) blobs: Arc<BlobStore>,
    pub(super) uploader: Arc<Uploader>,
    pub(super) bucket: SharedStore,
    /// The gateway's id, as marks, link groups and conflict names carry it.
    pub(super) gateway: String,
    pub(super) changes: Hub,
    pub(super) handles: Handles,
    pub(super) locks: LockTable,
    pub(super) guards: Guards,
    pub(super) places: Places,
    pub(super) atimes: AccessTimes,
    pub(super) remote: Remote,
}

impl Share {
    /// Its owner id.
    pub fn owner(&self) -> OwnerId {
        self.owner
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its settings, as of now.
    pub fn settings(&self) -> Arc<Settings> {
        self.settings.read().clone()
    }

    /// Changes what an operator may change while the share runs: everything but its place. Jobs that wait look at it again.
    pub fn change(&self, settings: Settings) {
        let now = self.settings();
        let (bucket, prefix, endpoint) = (now.bucket.clone(), now.prefix.clone(), now.endpoint.clone());
        *self.settings.write() = Arc::new(Settings { bucket, prefix, endpoint, ..settings });
        self.uploader.look_again(self.owner);
    }

    pub(super) fn meta(&self) -> &Arc<Meta> {
        self.blobs.meta()
    }

    pub(super) fn now_ns(&self) -> i64 {
        self.blobs.clock().now_ns()
    }

    /// Tells front ends. Nobody listening is fine.
    pub(super) fn tell(&self, origin: Origin, what: Changed) {
        self.changes.tell(origin, what);
    }
}

#[async_trait]
impl Vfs for Share {
    fn root(&self) -> NodeId {
        self.root
    }

    async fn lookup(&self, who: &Caller, parent: NodeId, name: &[u8]) -> Result<Attr, VfsError> {
        self.do_lookup(who, parent, name).await
    }

    async fn getattr(&self, who: &Caller, node: NodeId) -> Result<Attr, VfsError> {
        self.do_getattr(who, node).await
    }

    fn try_getattr(&self, _who: &Caller, node: NodeId) -> Option<Result<Attr, VfsError>> {
        self.attr_in_memory(self.try_node(node)?.ok()?).map(Ok)
    }

    fn try_lookup(&self, who: &Caller, parent: NodeId, name: &[u8]) -> Option<Result<Attr, VfsError>> {
        self.lookup_in_memory(who, parent, name)
    }

    fn is_listing_current(&self, dir: NodeId) -> bool {
        matches!(self.try_node(dir), Some(Ok(row)) if self.is_fresh(&row))
    }

    fn generation(&self, nodes: Option<&[NodeId]>) -> Option<u64> {
        Some(self.changes.generation(nodes))
    }

    fn unseen_max(&self) -> Duration {
        self.settings().refresh
    }

    fn try_read(&self, _who: &Caller, io: Io, offset: u64, len_bytes: u32) -> Option<Result<Vec<Bytes>, VfsError>> {
        self.read_in_memory(io, offset, len_bytes)
    }

    async fn setattr(&self, who: &Caller, node: NodeId, handle: Option<HandleId>, set: &SetAttr) -> Result<Attr, VfsError> {
        self.do_setattr(who, node, handle, set).await
    }

    async fn access(&self, who: &Caller, node: NodeId, mask: AccessMask) -> Result<AccessMask, VfsError> {
        self.do_access(who, node, mask).await
    }

    async fn open(&self, who: &Caller, target: Target<'_>, how: &OpenHow) -> Result<Opened, VfsError> {
        self.do_open(who, target, how).await
    }

    async fn close(&self, handle: HandleId) -> Result<(), VfsError> {
        self.do_close(handle).await
    }

    async fn read(&self, who: &Caller, io: Io, offset: u64, len_bytes: u32) -> Result<Vec<Bytes>, VfsError> {
        self.do_read(who, io, offset, len_bytes).await
    }

    async fn write(&self, who: &Caller, io: Io, offset: u64, data: Bytes) -> Result<Attr, VfsError> {
        self.do_write(who, io, offset, data).await
    }

    async fn commit(&self, who: &Caller, node: NodeId) -> Result<(), VfsError> {
        self.do_commit(who, node).await
    }

    async fn sync(&self) -> Result<(), VfsError> {
        self.blobs.sync().await?;
        Ok(())
    }

    fn write_verifier(&self) -> u64 {
        self.blobs.verifier()
    }

    async fn allocate(&self, who: &Caller, io: Io, offset: u64, len_bytes: u64, how: Allocate) -> Result<(), VfsError> {
        self.do_allocate(who, io, offset, len_bytes, how).await
    }

    async fn seek(&self, who: &Caller, io: Io, offset: u64, what: Seek) -> Result<u64, VfsError> {
        self.do_seek(who, io, offset, what).await
    }

    async fn copy_range(
        &self,
        who: &Caller,
        from: Io,
        from_offset: u64,
        to: Io,
        to_offset: u64,
        len_bytes: u64,
    ) -> Result<u64, VfsError> {
        self.do_copy_range(who, from, from_offset, to, to_offset, len_bytes).await
    }

    async fn mkdir(&self, who: &Caller, parent: NodeId, name: &[u8], create: Create) -> Result<Attr, VfsError> {
        self.do_mkdir(who, parent, name, create).await
    }

    async fn mknod(
        &self,
        who: &Caller,
        parent: NodeId,
        name: &[u8],
        kind: NodeKind,
        rdev: u32,
        create: Create,
    ) -> Result<Attr, VfsError> {
        self.do_mknod(who, parent, name, kind, rdev, create).await
    }

    async fn symlink(&self, who: &Caller, parent: NodeId, name: &[u8], target: &[u8]) -> Result<Attr, VfsError> {
        self.do_symlink(who, parent, name, target).await
    }

    async fn readlink(&self, who: &Caller, node: NodeId) -> Result<Vec<u8>, VfsError> {
        self.do_readlink(who, node).await
    }

    async fn link(&self, who: &Caller, node: NodeId, parent: NodeId, name: &[u8]) -> Result<Attr, VfsError> {
        self.do_link(who, node, parent, name).await
    }

    async fn rename(&self, who: &Caller, from: (NodeId, &[u8]), to: (NodeId, &[u8]), how: Rename) -> Result<(), VfsError> {
        self.do_rename(who, from, to, how).await
    }

    async fn remove(&self, who: &Caller, parent: NodeId, name: &[u8], what: Remove) -> Result<(), VfsError> {
        self.do_remove(who, parent, name, what).await
    }

    async fn readdir(
        &self,
        who: &Caller,
        dir: NodeId,
        cookie: u64,
        plus: bool,
        sink: &mut (dyn FnMut(DirEntry) -> bool + Send),
    ) -> Result<bool, VfsError> {
        self.do_readdir(who, dir, cookie, plus, sink).await
    }

    async fn lock(&self, who: &Caller, node: NodeId, lock: &Lock, wait: Option<Duration>) -> Result<(), VfsError> {
        self.do_lock(who, node, lock, wait).await
    }

    async fn test_lock(&self, _who: &Caller, node: NodeId, lock: &Lock) -> Result<Option<Lock>, VfsError> {
        Ok(self.do_test_lock(node, lock))
    }

    async fn release_locks(&self, node: NodeId, owner: LockOwner) {
        self.do_release_locks(node, &owner);
    }

    async fn getxattr(&self, who: &Caller, node: NodeId, name: &[u8]) -> Result<Vec<u8>, VfsError> {
        self.do_getxattr(who, node, name).await
    }

    async fn setxattr(&self, who: &Caller, node: NodeId, name: &[u8], value: &[u8], how: SetXattr) -> Result<(), VfsError> {
        self.do_setxattr(who, node, name, value, how).await
    }

    async fn listxattr(&self, who: &Caller, node: NodeId) -> Result<Vec<Vec<u8>>, VfsError> {
        self.do_listxattr(who, node).await
    }

    async fn removexattr(&self, who: &Caller, node: NodeId, name: &[u8]) -> Result<(), VfsError> {
        self.do_removexattr(who, node, name).await
    }

    async fn statfs(&self) -> Result<StatFs, VfsError> {
        self.do_statfs().await
    }

    fn changes(&self, except: Option<Origin>) -> Changes {
        self.changes.listen(except)
    }

    async fn told(&self, origin: Origin) {
        self.changes.told(origin).await;
    }
}

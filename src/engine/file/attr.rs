//! Attributes: what `stat` tells, and who may set what (POSIX chmod, chown, truncate, utimensat; Linux where POSIX leaves a choice).
//!
//! Invariants: a change of attributes sets the change time; a change of length the modification time too; losing ownership or bytes to
//! somebody without privilege takes set-uid and set-gid away.

use crate::base::id::NodeId;
use crate::engine::file::{Attr, Caller, Changed, HandleId, NodeKind, SetAttr, SetTime, VfsError};
use crate::store::blob::{Batch, BlobChange};
use crate::store::meta::{NodeRow, Row};

use super::permit;
use super::share::{FLAG_ATTRIBUTES_UNKNOWN, Share, Why};
use super::tree::Known;

/// What a directory shows as its length.
const DIRECTORY_BYTES: u64 = 4096;

/// The unit of `allocated_bytes`: `st_blocks` counts these.
const SECTOR_BYTES: u64 = 512;

impl Share {
    /// What `stat` tells of a node.
    pub(super) fn attr_of(&self, known: &Known) -> Attr {
        let row = &known.row;
        let allocated_bytes = match row.kind {
            NodeKind::Directory => DIRECTORY_BYTES,
            _ => known.info.as_ref().map_or(0, |info| info.allocated_bytes.next_multiple_of(SECTOR_BYTES)),
        };
        let (mtime_ns, ctime_ns) = known.times();
        let size_bytes = match row.kind {
            NodeKind::File => known.info.as_ref().map_or(0, |info| info.len_bytes),
            NodeKind::Directory => DIRECTORY_BYTES,
            NodeKind::Symlink => row.target.len() as u64,
            _ => 0,
        };
        Attr {
            node: row.node,
            kind: row.kind,
            mode: row.mode,
            nlink: row.links,
            uid: row.uid,
            gid: row.gid,
            rdev: row.rdev,
            size_bytes,
            allocated_bytes,
            atime_ns: self.atimes.of(row),
            mtime_ns,
            ctime_ns,
            birth_ns: row.birth_ns,
            change: u64::try_from(ctime_ns).unwrap_or(0),
        }
    }

    /// The attributes of a node after a change.
    pub(super) async fn attr_now(&self, node: NodeId) -> Result<Attr, VfsError> {
        Ok(self.attr_of(&self.known(node).await?))
    }

    pub(super) async fn do_getattr(&self, who: &Caller, node: NodeId) -> Result<Attr, VfsError> {
        let row = self.attributed(who, node).await?;
        Ok(self.attr_of(&self.known_row(row).await?))
    }

    /// Attributes, where all that they need is in memory.
    pub(super) fn attr_in_memory(&self, row: NodeRow) -> Option<Attr> {
        if row.flags & FLAG_ATTRIBUTES_UNKNOWN != 0 {
            return None;
        }
        let info = if row.blob.0 == 0 { None } else { Some(self.blobs.try_info(row.blob)?) };
        Some(self.attr_of(&Known { row, info }))
    }

    pub(super) async fn do_setattr(
        &self,
        who: &Caller,
        node: NodeId,
        handle: Option<HandleId>,
        set: &SetAttr,
    ) -> Result<Attr, VfsError> {
        self.attributed(who, node).await?;
        let through = handle.map(|handle| self.handles.get(handle)).transpose()?;
        let writable = through.is_some_and(|handle| handle.node == node && handle.how.write);
        let _guard = self.guards.lock(&[node]).await;
        let known = self.known(node).await?;
        if set.guard_ctime_ns.is_some_and(|guard| guard != known.times().1) {
            return Err(VfsError::NotSync);
        }
        match gives_room_back(&known, set) {
            true => self.check_removable()?,
            false => self.check_writable()?,
        }
        self.check_setattr(who, &known.row, set, writable)?;
        if let Some(size_bytes) = set.size_bytes {
            self.set_size(who, known, size_bytes).await?;
        }
        if *set != (SetAttr { size_bytes: set.size_bytes, guard_ctime_ns: set.guard_ctime_ns, ..SetAttr::default() }) {
            self.set_rest(who, self.known(node).await?, set).await?;
        }
        self.settle_soon(node);
        let changed = match set.size_bytes {
            Some(_) => Changed::Data(node, 0..u64::MAX),
            None => Changed::Attr(node),
        };
        self.tell(who.origin, changed);
        self.attr_now(node).await
    }

    /// Whether the caller may set all of this.
    fn check_setattr(&self, who: &Caller, row: &NodeRow, set: &SetAttr, writable: bool) -> Result<(), VfsError> {
        if set.mode.is_some() || set.birth_ns.is_some() {
            permit::check_owner(row, who)?;
        }
        if who.uid != 0 && set.uid.is_some_and(|uid| who.uid != row.uid || uid != row.uid) {
            return Err(VfsError::NotPermitted);
        }
        if who.uid != 0 && set.gid.is_some_and(|gid| who.uid != row.uid || (gid != row.gid && !who.in_group(gid))) {
            return Err(VfsError::NotPermitted);
        }
        self.check_times(who, row, set)?;
        if let Some(size_bytes) = set.size_bytes {
            match row.kind {
                NodeKind::File => {}
                NodeKind::Directory => return Err(VfsError::IsDirectory),
                _ => return Err(VfsError::Invalid),
            }
            if !writable {
                permit::check(row, who, permit::WRITE)?;
            }
            if size_bytes > self.bucket.capabilities().object_bytes_max {
                return Err(VfsError::TooLarge);
            }
        }
        Ok(())
    }

    /// utimensat(2): "now" for all that is set needs write permission, anything else ownership. A time that comes with a length is the length's.
    fn check_times(&self, who: &Caller, row: &NodeRow, set: &SetAttr) -> Result<(), VfsError> {
        let now = Some(SetTime::Now);
        match (set.atime, set.mtime) {
            (None, None) => Ok(()),
            _ if permit::owns(row, who) => Ok(()),
            (atime, mtime) if atime == now && mtime == now => permit::check(row, who, permit::WRITE),
            (None, mtime) if mtime == now && set.size_bytes.is_some() => Ok(()),
            _ => Err(VfsError::NotPermitted),
        }
    }

    /// Truncates or extends: one batch with the job, so that the job is known before the change.
    pub(super) async fn set_size(&self, who: &Caller, mut known: Known, size_bytes: u64) -> Result<(), VfsError> {
        let mut batch = Batch::new();
        let same = known.info.as_ref().is_some_and(|info| info.len_bytes == size_bytes);
        let mode = if who.uid == 0 { known.row.mode } else { permit::without_privileges(&known.row) };
        let why = if same { Why::Attributes } else { Why::Content };
        if same {
            known.modified(self.now_ns());
        } else {
            batch.blob(BlobChange::SetLength { id: known.row.blob, len_bytes: size_bytes });
        }
        if same || mode != known.row.mode {
            known.row.mode = mode;
            batch.put(Row::Node(known.row.clone()));
        }
        self.unsettle(&mut batch, &known.row, why);
        self.apply(batch).await?;
        Ok(())
    }

    /// Everything but the length.
    async fn set_rest(&self, who: &Caller, mut known: Known, set: &SetAttr) -> Result<(), VfsError> {
        let now = self.now_ns();
        known.changed(now);
        let row = &mut known.row;
        if set.uid.is_some() || set.gid.is_some() {
            row.mode = permit::without_privileges(row);
            row.uid = set.uid.unwrap_or(row.uid);
            row.gid = set.gid.unwrap_or(row.gid);
        }
        if let Some(mode) = set.mode {
            row.mode = mode & 0o7777;
            if who.uid != 0 && !who.in_group(row.gid) {
                row.mode &= !permit::SET_GID;
            }
        }
        let at = |time: SetTime, now: i64| if let SetTime::At(ns) = time { ns } else { now };
        if let Some(mtime) = set.mtime {
            row.mtime_ns = at(mtime, row.ctime_ns);
        }
        if let Some(birth_ns) = set.birth_ns {
            row.birth_ns = birth_ns;
        }
        row.atime_ns = match set.atime {
            Some(atime) => at(atime, row.ctime_ns),
            None => self.atimes.of(row),
        };
        let mut batch = Batch::new();
        batch.put(Row::Node(row.clone()));
        self.unsettle(&mut batch, row, Why::Attributes);
        self.apply(batch).await?;
        self.atimes.forget(known.row.node);
        Ok(())
    }

    /// Before bytes of a file change by somebody without privilege: takes set-uid and set-gid away.
    pub(super) async fn drop_privileges(&self, who: &Caller, row: &NodeRow) -> Result<(), VfsError> {
        if who.uid == 0 || permit::without_privileges(row) == row.mode {
            return Ok(());
        }
        let _guard = self.guards.lock(&[row.node]).await;
        let mut known = self.known(row.node).await?;
        known.row.mode = permit::without_privileges(&known.row);
        known.changed(self.now_ns());
        let mut batch = Batch::new();
        batch.put(Row::Node(known.row.clone()));
        self.unsettle(&mut batch, &known.row, Why::Attributes);
        self.apply(batch).await?;
        Ok(())
    }
}

/// Whether a file is made shorter, and nothing else is changed but its time.
fn gives_room_back(known: &Known, set: &SetAttr) -> bool {
    let SetAttr { size_bytes, guard_ctime_ns, mtime, .. } = *set;
    let shorter = known.info.as_ref().zip(size_bytes).is_some_and(|(info, size_bytes)| size_bytes < info.len_bytes);
    let alone = SetAttr { size_bytes, guard_ctime_ns, mtime, ..SetAttr::default() };
    shorter && *set == alone && mtime.is_none_or(|time| time == SetTime::Now)
}

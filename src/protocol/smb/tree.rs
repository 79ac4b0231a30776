//! A share as its SMB clients see it: who acts, and how a path finds its node.
//!
//! Invariants:
//! - A name that is there as it is spelled is the one that is meant; only else is one looked for that clients cannot tell from it.
//! - Symbolic links are followed here, within the share only. One that leads nowhere, or out of the share, is a thing of its own that can be
//!   renamed and removed, and has no bytes.
//! - Two clients that make one name in two spellings at a time make one of it (among the clients of SMB).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use smb_server::{SmbError, SmbPath, SmbResult};

use super::index::Index;
use super::stats::Counts;
use super::{ORIGIN, Rules, convert, names};
use crate::base::id::NodeId;
use crate::engine::file::{Attr, Caller, NodeKind, Vfs, VfsError};

/// Symbolic links that one path may lead through, as in Linux.
const LINKS_MAX: usize = 40;
/// Locks among which names that are made are divided.
const MAKERS: usize = 64;

/// See the file's header.
pub(super) struct Tree {
    pub(super) name: String,
    pub(super) vfs: Arc<dyn Vfs>,
    pub(super) who: Caller,
    pub(super) rules: Rules,
    pub(super) counts: Counts,
    index: Index,
    making: [tokio::sync::Mutex<()>; MAKERS],
}

/// A name that is there.
#[derive(Clone, Debug)]
pub(super) struct Found {
    /// As the share has it.
    pub(super) name: Vec<u8>,
    pub(super) attr: Attr,
}

/// The directory that a path's last name is in, and that name as the client spells it.
pub(super) struct Place<'a> {
    pub(super) parent: NodeId,
    pub(super) shown: &'a str,
}

impl Tree {
    pub(super) fn new(name: &str, rules: Rules, vfs: Arc<dyn Vfs>) -> Self {
        Self {
            name: name.to_owned(),
            who: Caller { uid: rules.uid, gid: rules.gid, groups: Arc::from([]), pid: None, origin: ORIGIN },
            counts: Counts::default(),
            index: Index::new(&*vfs, !rules.case_sensitive),
            making: std::array::from_fn(|_| tokio::sync::Mutex::default()),
            rules,
            vfs,
        }
    }

    /// What a client is told of a failure; counted, and logged where an operator should hear of it.
    pub(super) fn failed(&self, what: &'static str, error: VfsError) -> SmbError {
        self.counts.errors.fetch_add(1, Ordering::Relaxed);
        if convert::is_trouble(&error) {
            tracing::warn!(share = self.name, what, %error, "an SMB request failed");
        }
        convert::error(error)
    }

    /// Returns when other front ends know of what was changed.
    pub(super) async fn told(&self) {
        self.vfs.told(ORIGIN).await;
    }

    /// One at a time for names that clients cannot tell apart.
    pub(super) async fn making(&self, place: &Place<'_>) -> tokio::sync::MutexGuard<'_, ()> {
        use std::hash::{DefaultHasher, Hash, Hasher};
        let mut hasher = DefaultHasher::new();
        (place.parent, names::key(place.shown, true)).hash(&mut hasher);
        self.making[hasher.finish() as usize % MAKERS].lock().await
    }

    pub(super) async fn lookup(&self, parent: NodeId, name: &[u8]) -> Result<Attr, VfsError> {
        match self.vfs.try_lookup(&self.who, parent, name) {
            Some(known) => known,
            None => self.vfs.lookup(&self.who, parent, name).await,
        }
    }

    pub(super) async fn getattr(&self, node: NodeId) -> Result<Attr, VfsError> {
        match self.vfs.try_getattr(&self.who, node) {
            Some(known) => known,
            None => self.vfs.getattr(&self.who, node).await,
        }
    }

    /// The name of a directory that a client means; a symbolic link as itself.
    pub(super) async fn find(&self, place: &Place<'_>) -> Result<Option<Found>, VfsError> {
        let exact = names::decode(place.shown);
        match self.lookup(place.parent, exact.as_bytes()).await {
            Ok(attr) => return Ok(Some(Found { name: exact.into_owned().into_bytes(), attr })),
            Err(VfsError::NotFound) => {}
            Err(error) => return Err(error),
        }
        if self.rules.case_sensitive && !names::has_private(place.shown) {
            return Ok(None);
        }
        let Some(name) = self.index.find(&*self.vfs, &self.who, place.parent, place.shown).await? else { return Ok(None) };
        match self.lookup(place.parent, &name).await {
            Ok(attr) => Ok(Some(Found { name, attr })),
            // Gone since.
            Err(VfsError::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The directory of a path's last name. Not for the root.
    pub(super) async fn place<'a>(&self, path: &'a SmbPath) -> SmbResult<Place<'a>> {
        let (shown, above) = path.components().split_last().ok_or(SmbError::AccessDenied)?;
        let mut parent = self.vfs.root();
        for shown in above {
            let step = async {
                match self.find(&Place { parent, shown }).await? {
                    Some(found) => self.followed(parent, found.attr).await,
                    None => Err(VfsError::NotFound),
                }
            };
            let attr = match step.await {
                Ok(attr) if attr.kind == NodeKind::Directory => attr,
                Ok(_) | Err(VfsError::NotFound | VfsError::Stale | VfsError::NotDirectory) => return Err(SmbError::PathNotFound),
                Err(error) => return Err(self.failed("lookup", error)),
            };
            parent = attr.node;
        }
        Ok(Place { parent, shown })
    }

    /// What a symbolic link leads to; the link where that is nothing of the share. Anything else is itself.
    pub(super) async fn followed(&self, parent: NodeId, attr: Attr) -> Result<Attr, VfsError> {
        if attr.kind != NodeKind::Symlink {
            return Ok(attr);
        }
        Ok(self.target(parent, attr.node).await?.unwrap_or(attr))
    }

    async fn target(&self, parent: NodeId, link: NodeId) -> Result<Option<Attr>, VfsError> {
        let root = self.vfs.root();
        let mut at = self.getattr(parent).await?;
        let mut dirs = parent;
        // Names still to go, the next one last.
        let Some(mut pending) = self.parts(link).await? else { return Ok(None) };
        let mut links = 1;
        while let Some(name) = pending.pop() {
            if name == b".." && dirs == root {
                return Ok(None);
            }
            at = match self.lookup(dirs, &name).await {
                Ok(attr) => attr,
                Err(VfsError::NotFound | VfsError::NotDirectory | VfsError::Stale) => return Ok(None),
                Err(error) => return Err(error),
            };
            match at.kind {
                NodeKind::Directory => dirs = at.node,
                NodeKind::Symlink if links < LINKS_MAX => {
                    links += 1;
                    let Some(more) = self.parts(at.node).await? else { return Ok(None) };
                    pending.extend(more);
                    // A link to nothing but "." leads to where it is.
                    at = self.getattr(dirs).await?;
                }
                NodeKind::Symlink => return Ok(None),
                _ if !pending.is_empty() => return Ok(None),
                _ => {}
            }
        }
        Ok(Some(at))
    }

    /// The parts of a link's target, the first one last; none where it leads out of the share.
    async fn parts(&self, link: NodeId) -> Result<Option<Vec<Vec<u8>>>, VfsError> {
        let target = self.vfs.readlink(&self.who, link).await?;
        if target.first() == Some(&b'/') {
            return Ok(None);
        }
        let parts = target.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".");
        Ok(Some(parts.rev().map(<[u8]>::to_vec).collect()))
    }
}

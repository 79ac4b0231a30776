//! The crate's seam over a share: opening, removing, renaming by path, and what the volume is.
//!
//! Invariants: every name of a path is found as `tree.rs` says. A rename is the share's one rename; only where a file is replaced that is spelled
//! otherwise it is two, the second of which changes the spelling.

use std::sync::Arc;

use async_trait::async_trait;
use smb_server::{BackendCapabilities, Handle, OpenAction, OpenOptions, ShareBackend, SmbError, SmbPath, SmbResult, VolumeInfo};

use super::tree::{Found, Place, Tree};
use super::{names, open};
use crate::engine::file::{NodeKind, Remove, Rename, VfsError};

/// Allocation units as Windows has them on its own disks.
const SECTOR_BYTES: u32 = 512;
const UNIT_SECTORS: u32 = 8;

/// A share behind the crate's seam.
pub(super) struct Backend(pub(super) Arc<Tree>);

impl Backend {
    async fn find(&self, place: &Place<'_>) -> SmbResult<Option<Found>> {
        self.0.find(place).await.map_err(|error| self.0.failed("lookup", error))
    }

    async fn remove(&self, place: &Place<'_>, found: &Found) -> Result<(), VfsError> {
        let what = if found.attr.kind == NodeKind::Directory { Remove::Directory } else { Remove::File };
        self.0.vfs.remove(&self.0.who, place.parent, &found.name, what).await
    }

    async fn rename_found(&self, from: (&Place<'_>, &Found), to: (&Place<'_>, Option<&Found>), replace: bool) -> SmbResult<()> {
        let (tree, wanted) = (&self.0, names::decode(to.0.shown));
        let rename = async |old: (_, &[u8]), new: (_, &[u8]), how| {
            tree.vfs.rename(&tree.who, old, new, how).await.map_err(|error| tree.failed("rename", error))
        };
        let old = (from.0.parent, from.1.name.as_slice());
        let new = (to.0.parent, wanted.as_bytes());
        let Some(there) = to.1.filter(|there| (to.0.parent, &there.name) != (from.0.parent, &from.1.name)) else {
            // Nothing is there, or the same name in another spelling.
            return if old == new { Ok(()) } else { rename(old, new, Rename::NoReplace).await };
        };
        match there.attr.kind {
            _ if !replace => return Err(SmbError::Exists),
            NodeKind::Directory => return Err(SmbError::AccessDenied),
            // Two names of one file: POSIX would leave both.
            _ if there.attr.node == from.1.attr.node => {
                self.remove(from.0, from.1).await.map_err(|error| tree.failed("rename", error))?;
            }
            _ => rename(old, (to.0.parent, &there.name), Rename::Replace).await?,
        }
        if there.name == wanted.as_bytes() { Ok(()) } else { rename((to.0.parent, &there.name), new, Rename::NoReplace).await }
    }
}

#[async_trait]
impl ShareBackend for Backend {
    async fn open(&self, path: &SmbPath, options: OpenOptions) -> SmbResult<(Box<dyn Handle>, OpenAction)> {
        open::open(&self.0, path, options).await
    }

    async fn unlink(&self, path: &SmbPath) -> SmbResult<()> {
        let place = self.0.place(path).await?;
        let found = self.find(&place).await?.ok_or(SmbError::NotFound)?;
        self.remove(&place, &found).await.map_err(|error| self.0.failed("remove", error))?;
        self.0.told().await;
        Ok(())
    }

    async fn rename(&self, from: &SmbPath, to: &SmbPath, replace_if_exists: bool) -> SmbResult<()> {
        if from.is_root() || to.is_root() {
            return Err(SmbError::NameInvalid);
        }
        let (old, new) = (self.0.place(from).await?, self.0.place(to).await?);
        let found = self.find(&old).await?.ok_or(SmbError::NotFound)?;
        let _guard = self.0.making(&new).await;
        let there = self.find(&new).await?;
        self.rename_found((&old, &found), (&new, there.as_ref()), replace_if_exists).await?;
        self.0.told().await;
        Ok(())
    }

    fn capabilities(&self) -> BackendCapabilities {
        let mut capabilities = BackendCapabilities::default();
        capabilities.case_sensitive = self.0.rules.case_sensitive;
        capabilities
    }

    async fn volume_info(&self) -> SmbResult<VolumeInfo> {
        let space = self.0.vfs.statfs().await.map_err(|error| self.0.failed("statfs", error))?;
        let unit_bytes = u64::from(SECTOR_BYTES * UNIT_SECTORS);
        let mut volume = VolumeInfo::default();
        volume.total_allocation_units = space.total_bytes / unit_bytes;
        volume.caller_available_allocation_units = space.free_bytes / unit_bytes;
        volume.actual_available_allocation_units = space.free_bytes / unit_bytes;
        volume.sectors_per_allocation_unit = UNIT_SECTORS;
        volume.bytes_per_sector = SECTOR_BYTES;
        volume.serial_number = crc32c::crc32c(self.0.name.as_bytes());
        Ok(volume)
    }
}

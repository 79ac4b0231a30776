//! Reading a log without its database: every whole record of every segment that can still be read, and who it belonged to.
//!
//! A segment that the disk cannot read keeps no other from being read.
//!
//! What lives here: [`Salvage`], for `tidegate check --salvage`. It opens files for reading only in effect: nothing is
//! written, nothing is decided. Segments that were freed and not used again yet are read too, so their records may be
//! outdated: the highest number counts, as in any replay.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::base::disk::Disk;
use crate::base::id::{BlobId, OwnerId};
use crate::store::log::format::NotASegment;
use crate::store::log::segment::{self, Segment};
use crate::store::log::{Location, LogError, Scanned, format, scan};

/// The segments of a log that nobody has open.
pub struct Salvage {
    segments: BTreeMap<u32, Segment>,
    unreadable: Vec<String>,
}

impl Salvage {
    /// Opens every segment file that says what it is.
    ///
    /// # Errors
    /// `Disk`.
    pub fn open(disk: &Arc<dyn Disk>) -> Result<Self, LogError> {
        let (mut segments, mut unreadable) = (BTreeMap::new(), Vec::new());
        for (name, _) in disk.list()? {
            let Some(slot) = segment::slot_of(&name) else { continue };
            match Segment::load(disk.open(&name)?) {
                Ok(Ok(segment)) => drop(segments.insert(slot, segment)),
                Ok(Err(NotASegment::Unused)) => {}
                Ok(Err(_)) | Err(_) => unreadable.push(name),
            }
        }
        Ok(Self { segments, unreadable })
    }

    /// Files that look like segments and say nothing, for the operator.
    pub fn unreadable(&self) -> &[String] {
        &self.unreadable
    }

    /// Visits every whole record, write head first in its order, then the read head's; bodies of `Data` are left out.
    pub fn visit(&self, visit: &mut dyn FnMut(Scanned)) {
        let mut ordered: Vec<&Segment> = self.segments.values().collect();
        ordered.sort_by_key(|segment| (segment.header.read_head, segment.header.ordinal));
        for segment in ordered {
            match scan::scan(segment, u32::MAX) {
                Ok(records) => records.into_iter().for_each(&mut *visit),
                Err(error) => tracing::warn!(slot = segment.slot(), %error, "a segment cannot be read, and is passed over"),
            }
        }
    }

    /// What the footers say of each blob: its owner and its last name, the newest footer winning.
    pub fn names(&self) -> BTreeMap<BlobId, (OwnerId, Vec<u8>)> {
        let mut ordered: Vec<&Segment> = self.segments.values().filter(|segment| !segment.header.read_head).collect();
        ordered.sort_by_key(|segment| segment.header.ordinal);
        let mut names = BTreeMap::new();
        for segment in ordered {
            let footer =
                scan::footer(segment).unwrap_or_default().and_then(|body| format::decode_footer(&body)).unwrap_or_default();
            names.extend(footer.into_iter().map(|(blob, owner, name)| (blob, (owner, name))));
        }
        names
    }

    /// As [`super::Log::read`].
    ///
    /// # Errors
    /// `Corrupt`, `Disk`.
    pub fn read(&self, location: Location, skip_bytes: u32, buf: &mut [u8]) -> Result<(), LogError> {
        let found = self.segments.get(&location.slot).filter(|segment| segment.short_life() == location.life);
        let segment = found.ok_or_else(|| LogError::Corrupt {
            slot: location.slot,
            offset_bytes: location.offset_bytes,
            reason: "the segment is gone or lives another life".into(),
        })?;
        segment.read(location.offset_bytes, skip_bytes, buf, None)
    }
}

//! How full the log is: for admission, for reclaim and for `status`.

use super::slots::Used;
use super::{Class, Log, Position, write};

/// How full the log is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Segment files that the size allows.
    pub segments: u32,
    /// Of them not in use.
    pub segments_free: u32,
    /// Bytes appended and not yet flushed.
    pub unflushed_bytes: u64,
    /// What `Class::Write` may still append before `Full`, in bytes.
    pub writable_bytes: u64,
}

/// One segment as reclaim sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Which file.
    pub slot: u32,
    /// The life's short id.
    pub life: u32,
    /// Whether it belongs to the read head.
    pub read_head: bool,
    /// Whether it is sealed (only sealed ones can be victims).
    pub sealed: bool,
    /// A flush of it failed, and what was not durable is elsewhere: the first to be a victim.
    pub retired: bool,
    /// Bytes used by records.
    pub used_bytes: u64,
    /// The position of its end (write head), to compare with a checkpoint's.
    pub end: Position,
}

impl Log {
    /// How full the log is.
    pub fn usage(&self) -> Usage {
        let inner = self.shared.inner.lock();
        let open = inner.write.as_ref().filter(|head| inner.slots.may_share(Class::Write, head.opened_for));
        let open = open.map_or(0, |head| head.limit().saturating_sub(u64::from(head.tail)));
        let each = write::batch_bytes_max(inner.slots.segment_bytes());
        Usage {
            segments: inner.slots.limit(),
            segments_free: u32::try_from(inner.slots.free_count()).unwrap_or(u32::MAX),
            unflushed_bytes: inner.unflushed_bytes,
            writable_bytes: open + inner.slots.writable() as u64 * each,
        }
    }

    /// All segments in use.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        let read_tail = self.shared.read_head.lock().as_ref().map(|head| (head.segment.slot(), head.end));
        let inner = self.shared.inner.lock();
        let write_tail = inner.write.as_ref().map(|head| (head.segment.slot(), head.end));
        let info = |used: &Used| {
            let slot = used.segment.slot();
            let open = [read_tail, write_tail].into_iter().flatten().find(|(open, _)| *open == slot);
            let tail = open.map_or(used.tail, |(_, end)| end);
            let read_head = used.segment.header.read_head;
            SegmentInfo {
                slot,
                life: used.segment.short_life(),
                read_head,
                sealed: used.sealed,
                retired: used.retired,
                used_bytes: u64::from(tail),
                end: if read_head { Position::default() } else { used.segment.position(tail) },
            }
        };
        inner.slots.used().filter(|used| !used.free_later).map(info).collect()
    }
}

//! Reading a segment's records in order: at a start, for reclaim, and to write again what a flush did not take.
//!
//! Invariant: what is damaged is passed over or told, never made up; a batch counts whole or not at all.

use bytes::Bytes;

use super::format::{self, HEADER_BYTES, RecordHeader};
use super::segment::{Segment, Walk};
use super::state::Unflushed;
use super::{Kind, Log, LogError, Position, Record, Scanned};
use crate::base::id::{BlobId, OwnerId};

impl Log {
    /// The records of one segment, in order, bodies of `Data` and footers left out; damaged ones are passed over.
    ///
    /// # Errors
    /// `Disk`.
    pub fn scan(&self, slot: u32) -> Result<Vec<Scanned>, LogError> {
        let Some(info) = self.segments().into_iter().find(|info| info.slot == slot) else { return Ok(Vec::new()) };
        let Some(segment) = self.shared.table.read().get(&slot).cloned() else { return Ok(Vec::new()) };
        // Of a retired segment only what was durable before is believed; the rest is known by where it went.
        let moved = self.shared.redirects.of_slot(slot);
        let tail = moved.first().map_or(info.used_bytes, |first| u64::from(first.location.offset_bytes));
        let mut found = scan(&segment, u32::try_from(tail).unwrap_or(u32::MAX))?;
        found.extend(moved);
        Ok(found)
    }

    /// What the footer of a sealed segment says: blobs with records there, each with its owner and its last name then.
    /// Empty where there is none.
    ///
    /// # Errors
    /// `Disk`.
    pub fn footer(&self, slot: u32) -> Result<Vec<(BlobId, OwnerId, Vec<u8>)>, LogError> {
        let Some(segment) = self.shared.table.read().get(&slot).cloned() else { return Ok(Vec::new()) };
        let body = footer(&segment)?;
        Ok(body.and_then(|body| format::decode_footer(&body)).unwrap_or_default())
    }
}

/// The records of a batch. Bodies of data are checked, not kept, and that only where they may have been lost.
pub fn read_batch(segment: &Segment, headers: &[RecordHeader], end: Position, durable: bool) -> Result<Vec<Scanned>, LogError> {
    let mut batch = Vec::with_capacity(headers.len());
    let mut scratch = Vec::new();
    for header in headers {
        let is_data = header.kind == Kind::Data;
        scratch.resize(header.body_len as usize, 0);
        if !is_data || !durable {
            segment.read(header.at, 0, &mut scratch, None)?;
        }
        let body = if is_data { Bytes::new() } else { Bytes::copy_from_slice(&scratch) };
        batch.push(scanned(segment, header, end, body));
    }
    Ok(batch)
}

fn scanned(segment: &Segment, header: &RecordHeader, end: Position, body: Bytes) -> Scanned {
    let record = Record {
        kind: header.kind,
        seq: Some(header.seq),
        owner: header.owner,
        blob: header.blob,
        offset: header.offset,
        len: header.len,
        time_ns: header.time_ns,
        body,
    };
    Scanned { record, seq: header.seq, location: segment.location(header.at), end }
}

/// The body of a segment's footer.
pub fn footer(segment: &Segment) -> Result<Option<Bytes>, LogError> {
    let all = scan_all(segment, u32::MAX)?;
    Ok(all.into_iter().rev().find(|found| found.record.kind == Kind::Footer).map(|found| found.record.body))
}

/// The records of one segment up to `tail`, as far as they are whole; without the footer.
pub fn scan(segment: &Segment, tail: u32) -> Result<Vec<Scanned>, LogError> {
    let mut found = scan_all(segment, tail)?;
    found.retain(|found| found.record.kind != Kind::Footer);
    Ok(found)
}

fn scan_all(segment: &Segment, tail: u32) -> Result<Vec<Scanned>, LogError> {
    let mut walk = Walk::new(segment, tail);
    let (mut at, mut headers, mut found) = (HEADER_BYTES, Vec::new(), Vec::new());
    while walk.next_batch(at, &mut headers)? {
        let Some(last) = headers.last() else { break };
        at = last.end();
        let end = if segment.header.read_head { Position::default() } else { segment.position(at) };
        match read_batch(segment, &headers, end, true) {
            Ok(batch) => found.extend(batch),
            Err(LogError::Corrupt { .. } | LogError::Disk(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// The batch at `at` with its bodies, as if it had just been appended. `None` for a segment's header.
pub fn read_again(segment: &Segment, at: u32) -> Result<Option<Unflushed>, LogError> {
    let mut headers = Vec::new();
    if at >= HEADER_BYTES {
        Walk::new(segment, u32::MAX).batch_at(at, &mut headers)?;
    }
    let Some(last) = headers.last() else { return Ok(None) };
    let end = segment.position(last.end());
    let bytes = u64::from(last.end() - at);
    let mut batch = Vec::with_capacity(headers.len());
    for header in &headers {
        let mut body = vec![0; header.body_len as usize];
        segment.read(header.at, 0, &mut body, None)?;
        let table = format::table_of(&body);
        batch.push((scanned(segment, header, end, Bytes::from(body)).record, table));
    }
    let seqs = headers.iter().map(|header| header.seq).collect();
    let locations = headers.iter().map(|header| segment.location(header.at)).collect();
    Ok(Some(Unflushed { batch, seqs, locations, end, bytes }))
}

//! Row changes as bytes: the body of the log's `Name` records.
//!
//! ```text
//! body    = version (1 byte, now 2), change*                        up to the end of the body
//! change  = tag (1 byte), length (number), payload (length bytes)
//! tag     = table, 1..=8 as in `Table`; with the high bit: the row is dropped, and the payload is its key alone
//! payload = the fields of the row in the order of `rows.rs`, its key's fields where they stand there
//!
//! number  = LEB128 of at most 64 bits: ids, sequence numbers, lengths, counts, flags, mode, uid, gid
//! fixed   = 8 bytes little-endian: attributes_digest, and every time as two's complement
//! bytes   = number of bytes, then the bytes          text = bytes that are UTF-8
//! option  = 0, or the length plus one, then the bytes
//! kind    = 1 byte, `NodeKind`
//! ```
//!
//! Rules by which this may change:
//! 1. The version is the oldest reader's: whatever is added raises it, and a reader refuses a version that it does not
//!    know rather than lose a field of it.
//! 2. A field is only added, at the end of its payload. A reader of version n takes the default of version n's new
//!    fields from a body of an older version, and from no other. No field is removed or reused.
//! 3. A payload that is shorter or longer than its fields is malformed, as is an unknown tag.
//! 4. Changes apply in order; a later one of the same key wins.
//!
//! Versions: 1 the first; 2 the owner's endpoint.

mod field;
#[cfg(test)]
mod tests;

use bytes::Bytes;

use super::Change;
use super::rows::{EntryRow, JobRow, Key, MoveRow, NodeKind, NodeRow, ObjectRow, OwnerRow, Row, ValueRow, XattrRow};
use crate::base::id::{BlobId, NodeId, OwnerId, Seq};
use field::{Reader, Writer};

/// The version that is written, and the newest that is read; all from 1 on are.
const VERSION: u8 = 2;

/// In a tag: the row is dropped.
const DROPPED: u8 = 0x80;

/// The numbers of the tables in tags.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Table {
    Node = 1,
    Entry = 2,
    Object = 3,
    Job = 4,
    Move = 5,
    Xattr = 6,
    Owner = 7,
    Value = 8,
}

/// Why bytes are not row changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("row changes are malformed at byte {at}: {what}")]
pub struct Malformed {
    /// Where, in bytes from the beginning.
    pub at: usize,
    /// What is wrong there.
    pub what: &'static str,
}

/// Changes as bytes, in their order.
pub fn encode(changes: &[Change]) -> Bytes {
    let mut body = Writer(Vec::with_capacity(1 + 96 * changes.len()));
    let mut payload = Writer::default();
    body.byte(VERSION);
    for change in changes {
        payload.0.clear();
        let tag = match change {
            Change::Put(row) => put_row(&mut payload, row) as u8,
            Change::Drop(key) => put_key(&mut payload, key) as u8 | DROPPED,
        };
        body.byte(tag);
        body.bytes(&payload.0);
    }
    body.0.into()
}

/// The changes that [`encode`] wrote.
///
/// # Errors
/// What it did not write: another version, or damage.
pub fn decode(body: &[u8]) -> Result<Vec<Change>, Malformed> {
    let mut body = Reader::new(body, 0);
    let version = body.byte()?;
    if !(1..=VERSION).contains(&version) {
        return Err(Malformed { at: 0, what: "a version that this program does not know" });
    }
    let mut changes = Vec::new();
    while !body.is_empty() {
        let table = body.malformed("an unknown table");
        let tag = body.byte()?;
        let len = body.number()?;
        let mut payload = body.part(len)?;
        let table = Table::of(tag & !DROPPED).ok_or(table)?;
        changes.push(match tag & DROPPED {
            0 => Change::Put(take_row(&mut payload, table, version)?),
            _ => Change::Drop(take_key(&mut payload, table)?),
        });
        if !payload.is_empty() {
            return Err(payload.malformed("more than the row's fields"));
        }
    }
    Ok(changes)
}

impl Table {
    const fn of(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Node,
            2 => Self::Entry,
            3 => Self::Object,
            4 => Self::Job,
            5 => Self::Move,
            6 => Self::Xattr,
            7 => Self::Owner,
            8 => Self::Value,
            _ => return None,
        })
    }
}

fn put_key(to: &mut Writer, key: &Key) -> Table {
    match key {
        Key::Node(node) => {
            to.number(node.0);
            Table::Node
        }
        Key::Entry(parent, name) => {
            to.number(parent.0);
            to.bytes(name);
            Table::Entry
        }
        Key::Object(owner, key) => {
            to.number(owner.0.into());
            to.bytes(key.as_bytes());
            Table::Object
        }
        Key::Job(owner, subject) => {
            to.number(owner.0.into());
            to.number(*subject);
            Table::Job
        }
        Key::Move(owner, node, prefix) => {
            to.number(owner.0.into());
            to.number(node.0);
            to.bytes(prefix.as_bytes());
            Table::Move
        }
        Key::Xattr(node, name) => {
            to.number(node.0);
            to.bytes(name);
            Table::Xattr
        }
        Key::Owner(owner) => {
            to.number(owner.0.into());
            Table::Owner
        }
        Key::Value(name) => {
            to.bytes(name.as_bytes());
            Table::Value
        }
    }
}

fn take_key(from: &mut Reader<'_>, table: Table) -> Result<Key, Malformed> {
    Ok(match table {
        Table::Node => Key::Node(NodeId(from.number()?)),
        Table::Entry => Key::Entry(NodeId(from.number()?), from.bytes()?),
        Table::Object => Key::Object(OwnerId(from.number_u32()?), from.text()?),
        Table::Job => Key::Job(OwnerId(from.number_u32()?), from.number()?),
        Table::Move => Key::Move(OwnerId(from.number_u32()?), NodeId(from.number()?), from.text()?),
        Table::Xattr => Key::Xattr(NodeId(from.number()?), from.bytes()?),
        Table::Owner => Key::Owner(OwnerId(from.number_u32()?)),
        Table::Value => Key::Value(from.text()?),
    })
}

fn put_row(to: &mut Writer, row: &Row) -> Table {
    match row {
        Row::Node(row) => put_node(to, row),
        Row::Entry(row) => put_entry(to, row),
        Row::Object(row) => put_object(to, row),
        Row::Job(row) => put_job(to, row),
        Row::Move(row) => {
            to.number(row.owner.0.into());
            to.number(row.node.0);
            to.bytes(row.prefix.as_bytes());
            to.number(row.seq.0);
            Table::Move
        }
        Row::Xattr(row) => {
            to.number(row.node.0);
            to.bytes(&row.name);
            to.bytes(&row.value);
            Table::Xattr
        }
        Row::Owner(row) => put_owner(to, row),
        Row::Value(row) => {
            to.bytes(row.name.as_bytes());
            to.bytes(&row.value);
            Table::Value
        }
    }
}

fn take_row(from: &mut Reader<'_>, table: Table, version: u8) -> Result<Row, Malformed> {
    Ok(match table {
        Table::Node => Row::Node(take_node(from)?),
        Table::Entry => Row::Entry(take_entry(from)?),
        Table::Object => Row::Object(take_object(from)?),
        Table::Job => Row::Job(take_job(from)?),
        Table::Move => Row::Move(MoveRow {
            owner: OwnerId(from.number_u32()?),
            node: NodeId(from.number()?),
            prefix: from.text()?,
            seq: Seq(from.number()?),
        }),
        Table::Xattr => Row::Xattr(XattrRow { node: NodeId(from.number()?), name: from.bytes()?, value: from.bytes()? }),
        Table::Owner => Row::Owner(take_owner(from, version)?),
        Table::Value => Row::Value(ValueRow { name: from.text()?, value: from.bytes()? }),
    })
}

fn put_node(to: &mut Writer, row: &NodeRow) -> Table {
    to.number(row.node.0);
    to.number(row.owner.0.into());
    to.byte(row.kind as u8);
    for number in [row.mode, row.uid, row.gid, row.links, row.rdev] {
        to.number(number.into());
    }
    for time_ns in [row.atime_ns, row.mtime_ns, row.ctime_ns, row.birth_ns] {
        to.time(time_ns);
    }
    to.number(row.times_seq.0);
    to.number(row.blob.0);
    to.number(row.parent.0);
    to.bytes(&row.target);
    to.number(row.flags);
    to.time(row.listed_ns);
    to.optional(row.source_prefix.as_deref());
    to.number(row.cookie_next);
    Table::Node
}

fn take_node(from: &mut Reader<'_>) -> Result<NodeRow, Malformed> {
    Ok(NodeRow {
        node: NodeId(from.number()?),
        owner: OwnerId(from.number_u32()?),
        kind: take_kind(from)?,
        mode: from.number_u32()?,
        uid: from.number_u32()?,
        gid: from.number_u32()?,
        links: from.number_u32()?,
        rdev: from.number_u32()?,
        atime_ns: from.time()?,
        mtime_ns: from.time()?,
        ctime_ns: from.time()?,
        birth_ns: from.time()?,
        times_seq: Seq(from.number()?),
        blob: BlobId(from.number()?),
        parent: NodeId(from.number()?),
        target: from.bytes()?,
        flags: from.number()?,
        listed_ns: from.time()?,
        source_prefix: from.optional()?,
        cookie_next: from.number()?,
    })
}

fn take_kind(from: &mut Reader<'_>) -> Result<NodeKind, Malformed> {
    let malformed = from.malformed("an unknown kind of node");
    NodeKind::of(from.byte()?).ok_or(malformed)
}

fn put_entry(to: &mut Writer, row: &EntryRow) -> Table {
    to.number(row.parent.0);
    to.bytes(&row.name);
    to.number(row.node.0);
    to.byte(row.kind as u8);
    to.number(row.cookie);
    Table::Entry
}

fn take_entry(from: &mut Reader<'_>) -> Result<EntryRow, Malformed> {
    Ok(EntryRow {
        parent: NodeId(from.number()?),
        name: from.bytes()?,
        node: NodeId(from.number()?),
        kind: take_kind(from)?,
        cookie: from.number()?,
    })
}

fn put_object(to: &mut Writer, row: &ObjectRow) -> Table {
    to.number(row.owner.0.into());
    to.bytes(row.key.as_bytes());
    to.number(row.node.0);
    to.bytes(row.etag.as_bytes());
    to.optional(row.version.as_deref());
    to.number(row.size_bytes);
    to.time(row.modified_ns);
    to.fixed(row.attributes_digest);
    to.number(row.content_seq.0);
    to.bytes(&row.content_digest);
    to.optional(row.storage_class.as_deref());
    Table::Object
}

fn take_object(from: &mut Reader<'_>) -> Result<ObjectRow, Malformed> {
    Ok(ObjectRow {
        owner: OwnerId(from.number_u32()?),
        key: from.text()?,
        node: NodeId(from.number()?),
        etag: from.text()?,
        version: from.optional()?,
        size_bytes: from.number()?,
        modified_ns: from.time()?,
        attributes_digest: from.fixed()?,
        content_seq: Seq(from.number()?),
        content_digest: from.bytes()?,
        storage_class: from.optional()?,
    })
}

fn put_job(to: &mut Writer, row: &JobRow) -> Table {
    to.number(row.owner.0.into());
    to.number(row.subject);
    to.time(row.since_ns);
    to.time(row.not_before_ns);
    to.number(row.attempts.into());
    to.bytes(row.error.as_bytes());
    to.bytes(&row.multipart);
    to.bytes(&row.note);
    Table::Job
}

fn take_job(from: &mut Reader<'_>) -> Result<JobRow, Malformed> {
    Ok(JobRow {
        owner: OwnerId(from.number_u32()?),
        subject: from.number()?,
        since_ns: from.time()?,
        not_before_ns: from.time()?,
        attempts: from.number_u32()?,
        error: from.text()?,
        multipart: from.bytes()?,
        note: from.bytes()?,
    })
}

fn put_owner(to: &mut Writer, row: &OwnerRow) -> Table {
    to.number(row.owner.0.into());
    for text in [&row.kind, &row.name, &row.bucket, &row.prefix] {
        to.bytes(text.as_bytes());
    }
    to.number(row.root.0);
    to.bytes(row.endpoint.as_bytes());
    Table::Owner
}

fn take_owner(from: &mut Reader<'_>, version: u8) -> Result<OwnerRow, Malformed> {
    Ok(OwnerRow {
        owner: OwnerId(from.number_u32()?),
        kind: from.text()?,
        name: from.text()?,
        bucket: from.text()?,
        prefix: from.text()?,
        root: NodeId(from.number()?),
        endpoint: if version >= 2 { from.text()? } else { String::new() },
    })
}

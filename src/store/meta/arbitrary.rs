//! Random rows for tests: of a small world, so that they meet.

use fastrand::Rng;

use super::Change;
use super::rows::*;
use crate::base::id::{BlobId, NodeId, OwnerId, Seq};

const KINDS: [NodeKind; 7] = [
    NodeKind::Fifo,
    NodeKind::CharDevice,
    NodeKind::Directory,
    NodeKind::BlockDevice,
    NodeKind::File,
    NodeKind::Symlink,
    NodeKind::Socket,
];

/// A row of any table, or its removal.
pub(super) fn change(random: &mut Rng) -> Change {
    let row = row(random);
    if random.u8(..4) == 0 { Change::Drop(row.key()) } else { Change::Put(row) }
}

/// A row of any table.
pub(super) fn row(random: &mut Rng) -> Row {
    match random.u8(..12) {
        0..3 => Row::Node(node(random)),
        3..6 => Row::Entry(entry(random)),
        6..8 => Row::Object(object(random)),
        8 => Row::Job(job(random)),
        9 => Row::Move(MoveRow { owner: owner(random), node: node_id(random), prefix: key(random), seq: Seq(random.u64(..9)) }),
        10 => Row::Xattr(XattrRow { node: node_id(random), name: bytes(random, 2), value: bytes(random, 9) }),
        _ if random.bool() => Row::Value(ValueRow { name: key(random), value: bytes(random, 9) }),
        _ => Row::Owner(OwnerRow {
            owner: owner(random),
            kind: "share".to_owned(),
            name: key(random),
            bucket: key(random),
            prefix: key(random),
            root: node_id(random),
            endpoint: key(random),
        }),
    }
}

pub(super) fn node_id(random: &mut Rng) -> NodeId {
    // The higher the rarer, so that some are new after every transaction.
    let most = random.u64(1..12);
    NodeId(random.u64(1..=most))
}

pub(super) fn owner(random: &mut Rng) -> OwnerId {
    OwnerId(random.u32(1..4))
}

/// A key of a few, with what orders badly.
pub(super) fn key(random: &mut Rng) -> String {
    let parts = ["", "a", "a/", "a0", "ü", "\u{d7ff}", "\u{e000}", "\u{10ffff}", "a/b"];
    format!("{}{}", random.choice(parts).unwrap_or_default(), random.choice(parts).unwrap_or_default())
}

fn bytes(random: &mut Rng, len_max: usize) -> Vec<u8> {
    let len = random.usize(..=len_max);
    (0..len).map(|_| random.choice([0, b'a', b'b', 0x7f, 0xff]).unwrap_or(0)).collect()
}

/// A number whose size varies, below 2^63.
fn number(random: &mut Rng) -> u64 {
    let bits = random.u32(1..64);
    random.u64(..) >> bits
}

fn option(random: &mut Rng) -> Option<String> {
    random.bool().then(|| key(random))
}

pub(super) fn node(random: &mut Rng) -> NodeRow {
    NodeRow {
        node: node_id(random),
        owner: owner(random),
        kind: random.choice(KINDS).unwrap_or(NodeKind::File),
        mode: random.u32(..0o10000),
        uid: random.u32(..),
        gid: random.u32(..),
        links: random.u32(..3),
        rdev: random.u32(..),
        atime_ns: random.i64(..),
        mtime_ns: random.i64(..),
        ctime_ns: random.i64(..),
        birth_ns: random.i64(..),
        times_seq: Seq(number(random)),
        blob: BlobId(number(random)),
        parent: node_id(random),
        target: bytes(random, 30),
        flags: random.u64(..),
        listed_ns: random.i64(..),
        source_prefix: option(random),
        cookie_next: number(random),
    }
}

fn entry(random: &mut Rng) -> EntryRow {
    EntryRow {
        parent: node_id(random),
        name: bytes(random, 2),
        node: node_id(random),
        kind: random.choice(KINDS).unwrap_or(NodeKind::File),
        cookie: random.u64(3..40),
    }
}

fn object(random: &mut Rng) -> ObjectRow {
    ObjectRow {
        owner: owner(random),
        key: key(random),
        node: node_id(random),
        etag: key(random),
        version: option(random),
        size_bytes: number(random) >> 12,
        modified_ns: random.i64(..),
        attributes_digest: random.u64(..),
        content_seq: Seq(number(random)),
        content_digest: bytes(random, 20),
        storage_class: option(random),
    }
}

fn job(random: &mut Rng) -> JobRow {
    JobRow {
        owner: owner(random),
        subject: random.u64(..9),
        since_ns: random.i64(-3..9),
        not_before_ns: random.i64(..),
        attempts: random.u32(..),
        error: key(random),
        multipart: bytes(random, 20),
        note: bytes(random, 20),
    }
}

/// A blob's row; dirty as often as not.
pub(super) fn blob(random: &mut Rng) -> BlobRow {
    BlobRow {
        owner: owner(random),
        len_bytes: number(random),
        remote_len_bytes: number(random),
        clean_through: Seq(random.u64(..9)),
        modified_seq: Seq(random.u64(..9)),
        modified_ns: random.i64(..),
        len_seq: Seq(number(random)),
        source: bytes(random, 20),
        hint: bytes(random, 20),
        flags: random.u64(..),
    }
}

//! The tables of the rows, as `migrations/` makes them: their statements, and rows as columns there and back.
//!
//! Invariant: everything that goes into a statement's text is a name from here; values are bound.

use std::fmt::Write;
use std::sync::LazyLock;

use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{AssertSqlSafe, Row as _, Sqlite};

use super::super::rows::*;
use crate::base::id::{BlobId, NodeId, OwnerId, Seq};

/// A statement with its bound values.
pub(super) type Query<'q> = sqlx::query::Query<'q, Sqlite, SqliteArguments>;

/// How many rows one statement may write, largest first. Few sizes, so that the statements stay prepared.
pub(super) const PORTIONS: [usize; 3] = [64, 8, 1];

/// A table: its key, and its other columns.
struct Table {
    name: &'static str,
    key: &'static [&'static str],
    rest: &'static [&'static str],
}

/// In the order of [`index`].
const TABLES: [Table; 8] = [
    Table {
        name: "node",
        key: &["node"],
        rest: &[
            "owner",
            "kind",
            "mode",
            "uid",
            "gid",
            "links",
            "rdev",
            "atime_ns",
            "mtime_ns",
            "ctime_ns",
            "birth_ns",
            "times_seq",
            "blob",
            "parent",
            "target",
            "flags",
            "listed_ns",
            "source_prefix",
            "cookie_next",
        ],
    },
    Table { name: "entry", key: &["parent", "name"], rest: &["node", "kind", "cookie"] },
    Table {
        name: "object",
        key: &["owner", "key"],
        rest: &[
            "node",
            "etag",
            "version",
            "size_bytes",
            "modified_ns",
            "attributes_digest",
            "content_seq",
            "content_digest",
            "storage_class",
        ],
    },
    Table {
        name: "job",
        key: &["owner", "subject"],
        rest: &["since_ns", "not_before_ns", "attempts", "error", "multipart", "note"],
    },
    Table { name: "move", key: &["owner", "node", "prefix"], rest: &["seq"] },
    Table { name: "xattr", key: &["node", "name"], rest: &["value"] },
    Table { name: "owner", key: &["owner"], rest: &["kind", "name", "bucket", "prefix", "root", "endpoint"] },
    Table { name: "value", key: &["name"], rest: &["value"] },
];

/// The statements of one table.
pub(super) struct Statements {
    /// All columns of all rows, for a `WHERE` to follow.
    pub select: String,
    /// All columns by key.
    pub get: String,
    /// Insert or replace, for each of [`PORTIONS`].
    pub put: [String; PORTIONS.len()],
    /// Remove by key, for each of [`PORTIONS`].
    pub drop: [String; PORTIONS.len()],
}

static STATEMENTS: LazyLock<[Statements; 8]> = LazyLock::new(|| TABLES.each_ref().map(Statements::of));

/// Blobs.
pub(super) static BLOB: LazyLock<Statements> = LazyLock::new(|| {
    Statements::of(&Table {
        name: "blob",
        key: &["blob"],
        rest: &[
            "owner",
            "len_bytes",
            "remote_len_bytes",
            "clean_through",
            "modified_seq",
            "modified_ns",
            "len_seq",
            "source",
            "hint",
            "flags",
        ],
    })
});

/// Pages of extent maps.
pub(super) static PAGE: LazyLock<Statements> =
    LazyLock::new(|| Statements::of(&Table { name: "page", key: &["blob", "page"], rest: &["body"] }));

/// All pages of blobs, to remove them.
pub(super) static PAGES_OF_BLOB: LazyLock<Statements> =
    LazyLock::new(|| Statements::of(&Table { name: "page", key: &["blob"], rest: &["page", "body"] }));

/// The place of a key's table in [`TABLES`].
const fn index(key: &Key) -> usize {
    match key {
        Key::Node(_) => 0,
        Key::Entry(..) => 1,
        Key::Object(..) => 2,
        Key::Job(..) => 3,
        Key::Move(..) => 4,
        Key::Xattr(..) => 5,
        Key::Owner(_) => 6,
        Key::Value(_) => 7,
    }
}

/// The statements of a key's table.
pub(super) fn statements(key: &Key) -> &'static Statements {
    &STATEMENTS[index(key)]
}

/// A statement of this module or of `range.rs` as a query.
pub(super) fn query(statement: &'static str) -> Query<'static> {
    sqlx::query(AssertSqlSafe(statement))
}

impl Statements {
    fn of(table: &Table) -> Self {
        let Table { name, key, rest } = table;
        let columns = key.iter().chain(*rest).copied().collect::<Vec<_>>().join(", ");
        let keys = key.join(", ");
        let set = rest.iter().map(|column| format!("{column} = excluded.{column}")).collect::<Vec<_>>().join(", ");
        let row = tuple(key.len() + rest.len());
        let where_key = key.iter().map(|column| format!("{column} = ?")).collect::<Vec<_>>().join(" AND ");
        Self {
            select: format!("SELECT {columns} FROM {name}"),
            get: format!("SELECT {columns} FROM {name} WHERE {where_key}"),
            put: PORTIONS.map(|count| {
                let rows = list(&row, count);
                format!("INSERT INTO {name} ({columns}) VALUES {rows} ON CONFLICT ({keys}) DO UPDATE SET {set}")
            }),
            drop: PORTIONS.map(|count| match (key.len(), count) {
                (_, 1) => format!("DELETE FROM {name} WHERE {where_key}"),
                (1, _) => format!("DELETE FROM {name} WHERE {keys} IN {}", tuple(count)),
                (len, _) => format!("DELETE FROM {name} WHERE ({keys}) IN (VALUES {})", list(&tuple(len), count)),
            }),
        }
    }
}

/// `(?, ?, …)`.
fn tuple(len: usize) -> String {
    format!("({})", list("?", len))
}

/// `item, item, …`.
fn list(item: &str, count: usize) -> String {
    let mut text = item.to_owned();
    for _ in 1..count {
        let _ = write!(text, ", {item}");
    }
    text
}

/// A 64-bit number as SQLite has it: the same bits.
pub(super) const fn bits(number: u64) -> i64 {
    number.cast_signed()
}

/// Binds the columns of a key.
pub(super) fn bind_key<'q>(query: Query<'q>, key: &Key) -> Query<'q> {
    match key {
        Key::Node(node) => query.bind(bits(node.0)),
        Key::Entry(parent, name) => query.bind(bits(parent.0)).bind(name.clone()),
        Key::Object(owner, key) => query.bind(owner.0).bind(key.clone()),
        Key::Job(owner, subject) => query.bind(owner.0).bind(bits(*subject)),
        Key::Move(owner, node, prefix) => query.bind(owner.0).bind(bits(node.0)).bind(prefix.clone()),
        Key::Xattr(node, name) => query.bind(bits(node.0)).bind(name.clone()),
        Key::Owner(owner) => query.bind(owner.0),
        Key::Value(name) => query.bind(name.clone()),
    }
}

/// Binds all columns of a row, its key's first.
pub(super) fn bind_row<'q>(query: Query<'q>, row: &Row) -> Query<'q> {
    match row {
        Row::Node(row) => bind_node(query, row),
        Row::Entry(row) => query
            .bind(bits(row.parent.0))
            .bind(row.name.clone())
            .bind(bits(row.node.0))
            .bind(row.kind as u8)
            .bind(bits(row.cookie)),
        Row::Object(row) => bind_object(query, row),
        Row::Job(row) => query
            .bind(row.owner.0)
            .bind(bits(row.subject))
            .bind(row.since_ns)
            .bind(row.not_before_ns)
            .bind(row.attempts)
            .bind(row.error.clone())
            .bind(row.multipart.clone())
            .bind(row.note.clone()),
        Row::Move(row) => query.bind(row.owner.0).bind(bits(row.node.0)).bind(row.prefix.clone()).bind(bits(row.seq.0)),
        Row::Xattr(row) => query.bind(bits(row.node.0)).bind(row.name.clone()).bind(row.value.clone()),
        Row::Owner(row) => query
            .bind(row.owner.0)
            .bind(row.kind.clone())
            .bind(row.name.clone())
            .bind(row.bucket.clone())
            .bind(row.prefix.clone())
            .bind(bits(row.root.0))
            .bind(row.endpoint.clone()),
        Row::Value(row) => query.bind(row.name.clone()).bind(row.value.clone()),
    }
}

fn bind_node<'q>(query: Query<'q>, row: &NodeRow) -> Query<'q> {
    query
        .bind(bits(row.node.0))
        .bind(row.owner.0)
        .bind(row.kind as u8)
        .bind(row.mode)
        .bind(row.uid)
        .bind(row.gid)
        .bind(row.links)
        .bind(row.rdev)
        .bind(row.atime_ns)
        .bind(row.mtime_ns)
        .bind(row.ctime_ns)
        .bind(row.birth_ns)
        .bind(bits(row.times_seq.0))
        .bind(bits(row.blob.0))
        .bind(bits(row.parent.0))
        .bind(row.target.clone())
        .bind(bits(row.flags))
        .bind(row.listed_ns)
        .bind(row.source_prefix.clone())
        .bind(bits(row.cookie_next))
}

fn bind_object<'q>(query: Query<'q>, row: &ObjectRow) -> Query<'q> {
    query
        .bind(row.owner.0)
        .bind(row.key.clone())
        .bind(bits(row.node.0))
        .bind(row.etag.clone())
        .bind(row.version.clone())
        .bind(bits(row.size_bytes))
        .bind(row.modified_ns)
        .bind(bits(row.attributes_digest))
        .bind(bits(row.content_seq.0))
        .bind(row.content_digest.clone())
        .bind(row.storage_class.clone())
}

/// Takes columns from the left to the right.
struct Columns<'r> {
    row: &'r SqliteRow,
    next: usize,
}

impl<'r> Columns<'r> {
    fn take<T: sqlx::Decode<'r, Sqlite> + sqlx::Type<Sqlite>>(&mut self) -> sqlx::Result<T> {
        self.next += 1;
        self.row.try_get(self.next - 1)
    }

    fn u64(&mut self) -> sqlx::Result<u64> {
        self.take::<i64>().map(i64::cast_unsigned)
    }

    fn node(&mut self) -> sqlx::Result<NodeId> {
        self.u64().map(NodeId)
    }

    fn owner(&mut self) -> sqlx::Result<OwnerId> {
        self.take().map(OwnerId)
    }

    fn kind(&mut self) -> sqlx::Result<NodeKind> {
        let number: u8 = self.take()?;
        NodeKind::of(number).ok_or_else(|| sqlx::Error::Decode(format!("{number} is no kind of node").into()))
    }
}

/// The row of a table (of `key`'s, whose values do not matter) that [`bind_row`] bound.
pub(super) fn read_row(key: &Key, row: &SqliteRow) -> sqlx::Result<Row> {
    let mut columns = Columns { row, next: 0 };
    let c = &mut columns;
    Ok(match key {
        Key::Node(_) => Row::Node(read_node(c)?),
        Key::Entry(..) => {
            Row::Entry(EntryRow { parent: c.node()?, name: c.take()?, node: c.node()?, kind: c.kind()?, cookie: c.u64()? })
        }
        Key::Object(..) => Row::Object(read_object(c)?),
        Key::Job(..) => Row::Job(JobRow {
            owner: c.owner()?,
            subject: c.u64()?,
            since_ns: c.take()?,
            not_before_ns: c.take()?,
            attempts: c.take()?,
            error: c.take()?,
            multipart: c.take()?,
            note: c.take()?,
        }),
        Key::Move(..) => Row::Move(MoveRow { owner: c.owner()?, node: c.node()?, prefix: c.take()?, seq: Seq(c.u64()?) }),
        Key::Xattr(..) => Row::Xattr(XattrRow { node: c.node()?, name: c.take()?, value: c.take()? }),
        Key::Owner(_) => Row::Owner(OwnerRow {
            owner: c.owner()?,
            kind: c.take()?,
            name: c.take()?,
            bucket: c.take()?,
            prefix: c.take()?,
            root: c.node()?,
            endpoint: c.take()?,
        }),
        Key::Value(_) => Row::Value(ValueRow { name: c.take()?, value: c.take()? }),
    })
}

fn read_node(c: &mut Columns<'_>) -> sqlx::Result<NodeRow> {
    Ok(NodeRow {
        node: c.node()?,
        owner: c.owner()?,
        kind: c.kind()?,
        mode: c.take()?,
        uid: c.take()?,
        gid: c.take()?,
        links: c.take()?,
        rdev: c.take()?,
        atime_ns: c.take()?,
        mtime_ns: c.take()?,
        ctime_ns: c.take()?,
        birth_ns: c.take()?,
        times_seq: Seq(c.u64()?),
        blob: BlobId(c.u64()?),
        parent: c.node()?,
        target: c.take()?,
        flags: c.u64()?,
        listed_ns: c.take()?,
        source_prefix: c.take()?,
        cookie_next: c.u64()?,
    })
}

fn read_object(c: &mut Columns<'_>) -> sqlx::Result<ObjectRow> {
    Ok(ObjectRow {
        owner: c.owner()?,
        key: c.take()?,
        node: c.node()?,
        etag: c.take()?,
        version: c.take()?,
        size_bytes: c.u64()?,
        modified_ns: c.take()?,
        attributes_digest: c.u64()?,
        content_seq: Seq(c.u64()?),
        content_digest: c.take()?,
        storage_class: c.take()?,
    })
}

/// Binds the columns of a blob's row, without its id.
pub(super) fn bind_blob<'q>(query: Query<'q>, row: &BlobRow) -> Query<'q> {
    query
        .bind(row.owner.0)
        .bind(bits(row.len_bytes))
        .bind(bits(row.remote_len_bytes))
        .bind(bits(row.clean_through.0))
        .bind(bits(row.modified_seq.0))
        .bind(row.modified_ns)
        .bind(bits(row.len_seq.0))
        .bind(row.source.clone())
        .bind(row.hint.clone())
        .bind(bits(row.flags))
}

/// A blob's id and row.
pub(super) fn read_blob(row: &SqliteRow) -> sqlx::Result<(BlobId, BlobRow)> {
    let mut columns = Columns { row, next: 0 };
    let c = &mut columns;
    let blob = BlobId(c.u64()?);
    let row = BlobRow {
        owner: c.owner()?,
        len_bytes: c.u64()?,
        remote_len_bytes: c.u64()?,
        clean_through: Seq(c.u64()?),
        modified_seq: Seq(c.u64()?),
        modified_ns: c.take()?,
        len_seq: Seq(c.u64()?),
        source: c.take()?,
        hint: c.take()?,
        flags: c.u64()?,
    };
    Ok((blob, row))
}

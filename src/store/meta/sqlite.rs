//! The database on disk: SQLite in WAL mode through sqlx. The only SQL of the program is here and in `migrations/`.
//!
//! What lives here: [`Database`], one writer connection and a few that only read. `sqlite/open.rs` is what happens
//! before anything is written; `sqlite/table.rs` the statements and columns of rows; `sqlite/range.rs` of range reads.
//!
//! Invariants:
//! 1. An apply is one transaction of the one writer.
//! 2. *Durability.* Ordinary applies run with `synchronous = NORMAL`: they survive the process, not power loss, and the
//!    file stays whole. A durable one runs with `FULL`, whose commit syncs the WAL file, and with it every frame that
//!    was written to it before; frames of an earlier round of the WAL are in the database file, which SQLite synced
//!    before it began the WAL anew (<https://sqlite.org/pragma.html#pragma_synchronous>, <https://sqlite.org/wal.html>).
//!    The transaction always writes the checkpoint's row, so there is always something to sync.
//! 3. A read is one statement, so one moment, and no transaction stays open after it.
//! 4. On a full disk the ballast is given up so that the apply can go on; see `ballast.rs`.

mod open;
mod range;
mod table;

use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use sqlx::{Connection, Row as _, SqliteConnection};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::backend::{Backend, Loaded, Staged};
use super::ballast::Ballast;
use super::order::{Place, Range};
use super::rows::{BlobRow, Counts, Key, Row};
use super::tally::Tallies;
use super::{Checkpoint, MetaError, Position};
use crate::base::id::{BlobId, OwnerId, Seq};
use table::{PORTIONS, Query, bits, query};

/// How many reads may run at the same time.
const READERS: usize = 4;

/// What is kept free for SQLite when the disk is full, in bytes.
const BALLAST_BYTES: u64 = 16 << 20;

/// See the file's header.
pub(super) struct Database {
    path: PathBuf,
    writer: tokio::sync::Mutex<Option<Writer>>,
    readers: Readers,
    ballast: Ballast,
}

/// The connection that writes.
struct Writer {
    connection: SqliteConnection,
    /// Whether `synchronous` is `FULL`; `None` where that is not known.
    full: Option<bool>,
}

/// The connections that read.
struct Readers {
    permits: Semaphore,
    idle: parking_lot::Mutex<Vec<SqliteConnection>>,
}

/// A connection that is given back when it is dropped.
struct Reader<'a> {
    readers: &'a Readers,
    connection: Option<SqliteConnection>,
    _permit: SemaphorePermit<'a>,
}

impl Readers {
    async fn take(&self) -> Result<Reader<'_>, MetaError> {
        let closed = || MetaError::Failed("it is closed".to_owned());
        let permit = self.permits.acquire().await.map_err(|_| closed())?;
        let connection = Some(self.idle.lock().pop().ok_or_else(closed)?);
        Ok(Reader { readers: self, connection, _permit: permit })
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        self.readers.idle.lock().extend(self.connection.take());
    }
}

impl Deref for Reader<'_> {
    type Target = SqliteConnection;

    fn deref(&self) -> &SqliteConnection {
        self.connection.as_ref().expect("taken only when dropped")
    }
}

impl DerefMut for Reader<'_> {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        self.connection.as_mut().expect("taken only when dropped")
    }
}

/// An error of SQLite as ours.
fn failed(error: sqlx::Error) -> MetaError {
    if is_damage(&error) {
        return MetaError::Failed(format!("{error}: stop the gateway and run `tidegate check --salvage`"));
    }
    MetaError::Failed(error.to_string())
}

/// SQLite's primary result code (<https://sqlite.org/rescode.html>).
fn code(error: &sqlx::Error) -> Option<i32> {
    let code: i32 = error.as_database_error()?.code()?.parse().ok()?;
    Some(code & 0xff)
}

/// `SQLITE_CORRUPT`, `SQLITE_NOTADB`, or a value that no row of ours has.
fn is_damage(error: &sqlx::Error) -> bool {
    matches!(code(error), Some(11 | 26)) || matches!(error, sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_))
}

/// `SQLITE_FULL`, or an `SQLITE_IOERR` that may come of it.
fn is_full(error: &sqlx::Error) -> bool {
    matches!(code(error), Some(13 | 10))
}

impl Database {
    /// Opens, or makes, the database at `path`.
    pub async fn open(path: &Path) -> Result<(Self, Loaded), MetaError> {
        let mut connection = open::writer(path).await?;
        let loaded = load(&mut connection).await.map_err(failed)?;
        let mut idle = Vec::with_capacity(READERS);
        for _ in 0..READERS {
            idle.push(open::reader(path).await?);
        }
        let database = Self {
            path: path.to_owned(),
            writer: tokio::sync::Mutex::new(Some(Writer { connection, full: None })),
            readers: Readers { permits: Semaphore::new(READERS), idle: parking_lot::Mutex::new(idle) },
            ballast: Ballast::open(open::beside(path, ".ballast"), BALLAST_BYTES),
        };
        Ok((database, loaded))
    }

    async fn one(&self, query: Query<'_>) -> Result<Option<sqlx::sqlite::SqliteRow>, MetaError> {
        query.fetch_optional(&mut *self.readers.take().await?).await.map_err(failed)
    }

    async fn all(&self, query: Query<'_>) -> Result<Vec<sqlx::sqlite::SqliteRow>, MetaError> {
        query.fetch_all(&mut *self.readers.take().await?).await.map_err(failed)
    }
}

async fn load(connection: &mut SqliteConnection) -> sqlx::Result<Loaded> {
    let row = query("SELECT position, applied FROM checkpoint WHERE id = 1").fetch_one(&mut *connection).await?;
    let position = Position(row.try_get::<i64, _>(0)?.cast_unsigned());
    let applied = Seq(row.try_get::<i64, _>(1)?.cast_unsigned());
    Ok(Loaded { position, applied, tallies: tallies(connection).await? })
}

async fn tallies(connection: &mut SqliteConnection) -> sqlx::Result<Tallies> {
    let mut tallies = Tallies::default();
    let rows = query("SELECT owner, nodes, objects, object_bytes, jobs FROM tally").fetch_all(connection).await?;
    for row in rows {
        let count = |index: usize| row.try_get::<i64, _>(index).map(i64::cast_unsigned);
        let counts = Counts { nodes: count(1)?, objects: count(2)?, object_bytes: count(3)?, jobs: count(4)? };
        tallies.set(OwnerId(row.try_get(0)?), counts);
    }
    Ok(tallies)
}

impl Writer {
    /// One transaction.
    async fn apply(&mut self, changes: &[Staged], checkpoint: &Checkpoint, durable: bool) -> sqlx::Result<Tallies> {
        if self.full != Some(durable) {
            self.full = None;
            let pragma = if durable { "PRAGMA synchronous = FULL" } else { "PRAGMA synchronous = NORMAL" };
            query(pragma).execute(&mut self.connection).await?;
            self.full = Some(durable);
        }
        let mut transaction = self.connection.begin_with("BEGIN IMMEDIATE").await?;
        write_rows(&mut transaction, changes).await?;
        write_blobs(&mut transaction, checkpoint).await?;
        query("UPDATE checkpoint SET position = ?, applied = ?, applies = applies + 1 WHERE id = 1")
            .bind(bits(checkpoint.position.0))
            .bind(bits(checkpoint.applied.0))
            .execute(&mut *transaction)
            .await?;
        let tallies = tallies(&mut transaction).await?;
        transaction.commit().await?;
        Ok(tallies)
    }
}

/// Many rows a statement, tables one after the other (`changes` is in the order of keys).
async fn write_rows(connection: &mut SqliteConnection, changes: &[Staged]) -> sqlx::Result<()> {
    let same_table = |(a, _): &Staged, (b, _): &Staged| std::mem::discriminant(a) == std::mem::discriminant(b);
    for table in changes.chunk_by(same_table) {
        let statements = table::statements(&table[0].0);
        let dropped: Vec<&Key> = table.iter().filter(|(_, row)| row.is_none()).map(|(key, _)| key).collect();
        write(connection, &statements.drop, &dropped, |query, key| table::bind_key(query, key)).await?;
        let put: Vec<&Row> = table.iter().filter_map(|(_, row)| row.as_deref()).collect();
        write(connection, &statements.put, &put, |query, row| table::bind_row(query, row)).await?;
    }
    Ok(())
}

/// Runs a statement for all `items`, in the largest portions that there are.
async fn write<T>(
    connection: &mut SqliteConnection,
    statements: &'static [String; PORTIONS.len()],
    mut items: &[T],
    bind: impl Fn(Query<'static>, &T) -> Query<'static>,
) -> sqlx::Result<()> {
    for (portion, statement) in PORTIONS.into_iter().zip(statements) {
        while let Some((now, later)) = items.split_at_checked(portion) {
            now.iter().fold(query(statement), &bind).execute(&mut *connection).await?;
            items = later;
        }
    }
    Ok(())
}

async fn write_blobs(connection: &mut SqliteConnection, checkpoint: &Checkpoint) -> sqlx::Result<()> {
    for (blob, row) in &checkpoint.blobs {
        match row {
            Some(row) => {
                let put = query(
                    "INSERT OR REPLACE INTO blob (blob, owner, len_bytes, remote_len_bytes, clean_through, modified_seq, \
                     modified_ns, len_seq, source, hint, flags) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                );
                table::bind_blob(put.bind(bits(blob.0)), row).execute(&mut *connection).await?;
            }
            None => {
                query("DELETE FROM page WHERE blob = ?").bind(bits(blob.0)).execute(&mut *connection).await?;
                query("DELETE FROM blob WHERE blob = ?").bind(bits(blob.0)).execute(&mut *connection).await?;
            }
        }
    }
    for (blob, page, body) in &checkpoint.pages {
        let change = match body {
            Some(_) => query("INSERT OR REPLACE INTO page (blob, page, body) VALUES (?, ?, ?)"),
            None => query("DELETE FROM page WHERE blob = ? AND page = ?"),
        };
        let change = change.bind(bits(blob.0)).bind(bits(*page));
        let change = if let Some(body) = body { change.bind(body.clone()) } else { change };
        change.execute(&mut *connection).await?;
    }
    Ok(())
}

#[async_trait]
impl Backend for Database {
    async fn apply(&self, changes: &[Staged], checkpoint: &Checkpoint, durable: bool) -> Result<Tallies, MetaError> {
        let mut writer = self.writer.lock().await;
        let writer = writer.as_mut().ok_or_else(|| MetaError::Failed("it is closed".to_owned()))?;
        let mut applied = writer.apply(changes, checkpoint, durable).await;
        if applied.as_ref().is_err_and(is_full) && self.ballast.release() {
            applied = writer.apply(changes, checkpoint, durable).await;
        }
        self.ballast.restore();
        applied.map_err(failed)
    }

    async fn get(&self, key: &Key) -> Result<Option<Row>, MetaError> {
        let row = self.one(table::bind_key(query(&table::statements(key).get), key)).await?;
        row.map(|row| table::read_row(key, &row)).transpose().map_err(failed)
    }

    async fn range(&self, range: &Range, from: &Place, limit: usize) -> Result<Vec<Arc<Row>>, MetaError> {
        let (query, key) = range::select(range, from, limit);
        let rows = self.all(query).await?;
        rows.iter().map(|row| table::read_row(key, row).map(Arc::new).map_err(failed)).collect()
    }

    async fn blob(&self, blob: BlobId) -> Result<Option<BlobRow>, MetaError> {
        let row = self.one(query("SELECT * FROM blob WHERE blob = ?").bind(bits(blob.0))).await?;
        row.map(|row| table::read_blob(&row).map(|(_, row)| row)).transpose().map_err(failed)
    }

    async fn page(&self, blob: BlobId, page: u64) -> Result<Option<Vec<u8>>, MetaError> {
        let select = query("SELECT body FROM page WHERE blob = ? AND page = ?").bind(bits(blob.0)).bind(bits(page));
        self.one(select).await?.map(|row| row.try_get(0)).transpose().map_err(failed)
    }

    async fn blobs(&self, after: BlobId, limit: usize, only_dirty: bool) -> Result<Vec<(BlobId, BlobRow)>, MetaError> {
        let statement = if only_dirty {
            "SELECT * FROM blob WHERE modified_seq > clean_through AND blob > ? ORDER BY blob LIMIT ?"
        } else {
            "SELECT * FROM blob WHERE blob > ? ORDER BY blob LIMIT ?"
        };
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = self.all(query(statement).bind(bits(after.0)).bind(limit)).await?;
        rows.iter().map(|row| table::read_blob(row).map_err(failed)).collect()
    }

    fn below_floor(&self) -> bool {
        self.ballast.below_floor()
    }

    async fn check(&self) -> Result<(), MetaError> {
        open::check(&self.path, &mut *self.readers.take().await?).await
    }

    async fn close(&self) {
        let permits = self.readers.permits.acquire_many(READERS as u32).await;
        self.readers.permits.close();
        drop(permits);
        let idle = std::mem::take(&mut *self.readers.idle.lock());
        for reader in idle {
            let _ = reader.close().await;
        }
        // The last to close, and the only one that may fold the WAL into the database.
        if let Some(writer) = self.writer.lock().await.take() {
            let _ = writer.connection.close().await;
        }
    }
}

//! The database on disk: SQLite in WAL mode through sqlx. The only SQL of the program is here and in `migrations/`.
//!
//! What lives here: [`Database`], one writer connection and a few that only read. `sqlite/open.rs` is what happens
//! before anything is written; `sqlite/writer.rs` applies; `sqlite/table.rs` has the statements and columns of rows,
//! `sqlite/range.rs` those of range reads.
//!
//! Invariants:
//! 1. An apply is one transaction of the one writer.
//! 2. *Durability.* Ordinary applies run with `synchronous = NORMAL`: they survive the process, not power loss, and the
//!    file stays whole. A durable one runs with `FULL`, whose commit syncs the WAL file, and with it every frame that
//!    was written to it before; frames of an earlier round of the WAL are in the database file, which SQLite synced
//!    before it began the WAL anew (<https://sqlite.org/pragma.html#pragma_synchronous>, <https://sqlite.org/wal.html>).
//!    The transaction always writes the checkpoint's row, so there is always something to sync.
//! 3. *A failed sync.* The kernel may drop what a failed `fsync` should have written and let the next one succeed. So
//!    after an I/O error nothing is promised again before the WAL is folded into the database file whole, which writes
//!    its frames anew, into another file, and syncs that. Folding is done here and not by SQLite on its own (which
//!    does it after a commit and keeps quiet about errors).
//! 4. A read is one statement, so one moment, and no transaction stays open after it.
//! 5. On a full disk the ballast is given up so that the apply can go on; see `ballast.rs`.

mod open;
mod range;
mod table;
#[cfg(test)]
mod tests;
mod writer;

use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use sqlx::{Connection, Row as _, SqliteConnection};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::backend::{Backend, Loaded, Staged};
use super::ballast::Ballast;
use super::horizon::Highest;
use super::order::{Place, Range};
use super::rows::{BlobRow, Key, Row};
use super::tally::Tallies;
use super::{Checkpoint, MetaError, Position};
use crate::base::id::{BlobId, Seq};
use table::{Query, bits, query};
use writer::{Writer, tallies};

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

/// `SQLITE_IOERR`.
fn is_io(error: &sqlx::Error) -> bool {
    code(error) == Some(10)
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
            writer: tokio::sync::Mutex::new(Some(Writer::new(connection))),
            readers: Readers { permits: Semaphore::new(READERS), idle: parking_lot::Mutex::new(idle) },
            ballast: Ballast::open(open::beside(path, ".ballast"), BALLAST_BYTES),
        };
        Ok((database, loaded))
    }

    /// Makes the disk full after so many pages.
    #[cfg(test)]
    pub async fn limit_pages(&self, pages: u32) {
        let mut writer = self.writer.lock().await;
        let pragma = sqlx::AssertSqlSafe(format!("PRAGMA max_page_count = {pages}"));
        sqlx::query(pragma).execute(&mut writer.as_mut().unwrap().connection).await.unwrap();
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
    Ok(Loaded { position, applied, tallies: tallies(connection).await?, highest: highest(connection).await? })
}

/// Ids are given from 1 upwards and stay far below 2^63, so the database's signed order is theirs.
async fn highest(connection: &mut SqliteConnection) -> sqlx::Result<Highest> {
    let row = query(
        "SELECT max(ifnull((SELECT max(node) FROM node), 0), ifnull((SELECT max(parent) FROM entry), 0),
                    ifnull((SELECT max(node) FROM entry), 0), ifnull((SELECT max(node) FROM object), 0),
                    ifnull((SELECT max(node) FROM xattr), 0), ifnull((SELECT max(node) FROM move), 0),
                    ifnull((SELECT max(root) FROM owner), 0)),
                max(ifnull((SELECT max(blob) FROM blob), 0), ifnull((SELECT max(blob) FROM page), 0)),
                ifnull((SELECT max(subject) FROM job), 0)",
    );
    let row = row.fetch_one(&mut *connection).await?;
    let column = |index| row.try_get::<i64, _>(index).map(i64::cast_unsigned);
    Ok(Highest { node: column(0)?, blob: column(1)?, subject: column(2)? })
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

    fn below_floor(&self) -> Option<u64> {
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

//! The files' side of the index: id blocks, reference counts, files that are to be removed.

use std::collections::BTreeMap;

use async_trait::async_trait;
use sqlx::SqliteConnection;

use super::super::LocalError;
use super::super::extent::Extents;
use super::{Change, Index, Writer, failed, refused, schema};

/// What the start of a process has to know.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// Files without a name can only be in the blocks from this one…
    pub scan_from: u64,
    /// … to before this one, the next to be reserved.
    pub next_block: u64,
}

/// Refuses a store of another format, before anything is written to it.
pub async fn check_format(conn: &mut SqliteConnection) -> Result<(), LocalError> {
    let sql = "SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE name = 'counters')";
    let known: bool = sqlx::query_scalar(sql).fetch_one(&mut *conn).await.map_err(refused)?;
    match known {
        false => Ok(()),
        true => match counter(conn, "format").await? {
            None | Some(schema::FORMAT) => Ok(()),
            Some(format) => {
                Err(LocalError::Damaged(format!("the store has format {format}; this program knows {}", schema::FORMAT)))
            }
        },
    }
}

/// Notes the format; tells where the last run's ids are.
pub async fn start(conn: &mut SqliteConnection) -> Result<Start, LocalError> {
    let next_block = counter(conn, "block").await?.unwrap_or(0).cast_unsigned();
    let scan_from = counter(conn, "run_block").await?.unwrap_or(0).cast_unsigned();
    set(conn, "format", schema::FORMAT).await?;
    Ok(Start { scan_from, next_block })
}

async fn counter(conn: &mut SqliteConnection, name: &'static str) -> Result<Option<i64>, LocalError> {
    let query = sqlx::query_scalar("SELECT value FROM counters WHERE name = ?").bind(name);
    query.fetch_optional(conn).await.map_err(refused)
}

async fn set(conn: &mut SqliteConnection, name: &'static str, value: i64) -> Result<(), LocalError> {
    let sql = "INSERT INTO counters (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value";
    sqlx::query(sql).bind(name).bind(value).execute(conn).await.map_err(failed)?;
    Ok(())
}

/// Reserves the next block of ids. `run` also marks it as the first of this run: the blocks before were scanned.
pub struct Reserve {
    pub block: u64,
    pub run: bool,
}

#[async_trait]
impl Change for Reserve {
    type Answer = ();

    async fn apply(self, writer: &mut Writer) -> Result<(), LocalError> {
        set(&mut writer.conn, "block", self.block.cast_signed() + 1).await?;
        if self.run {
            set(&mut writer.conn, "run_block", self.block.cast_signed()).await?;
        }
        Ok(())
    }
}

/// Forgets files that were removed from the disk.
pub struct Forget(pub Vec<u64>);

#[async_trait]
impl Change for Forget {
    type Answer = ();

    async fn apply(self, writer: &mut Writer) -> Result<(), LocalError> {
        for file in self.0 {
            let sql = "DELETE FROM files WHERE id = ? AND refs = 0";
            sqlx::query(sql).bind(file.cast_signed()).execute(&mut writer.conn).await.map_err(failed)?;
        }
        Ok(())
    }
}

impl Writer {
    /// Counts the extents of `acquired` in and those of `released` out. Files that were not known become so; files that
    /// nothing names any more are garbage once the transaction is committed.
    pub(super) async fn rebalance(&mut self, acquired: &[Extents], released: &[Extents]) -> Result<(), LocalError> {
        let mut changes = BTreeMap::<u64, i64>::new();
        for (file, refs) in acquired.iter().flat_map(Extents::references) {
            *changes.entry(file).or_default() += refs;
        }
        for (file, refs) in released.iter().flat_map(Extents::references) {
            *changes.entry(file).or_default() -= refs;
        }
        for (file, change) in changes {
            match change {
                0 => {}
                1.. => self.count_in(file, change).await?,
                _ => self.count_out(file, -change).await?,
            }
        }
        Ok(())
    }

    async fn count_in(&mut self, file: u64, refs: i64) -> Result<(), LocalError> {
        let sql = "INSERT INTO files (id, refs) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET refs = refs + excluded.refs";
        sqlx::query(sql).bind(file.cast_signed()).bind(refs).execute(&mut self.conn).await.map_err(failed)?;
        Ok(())
    }

    async fn count_out(&mut self, file: u64, refs: i64) -> Result<(), LocalError> {
        let sql = "UPDATE files SET refs = refs - ?1 WHERE id = ?2 AND refs >= ?1 RETURNING refs";
        let query = sqlx::query_scalar::<_, i64>(sql).bind(refs).bind(file.cast_signed());
        match query.fetch_optional(&mut self.conn).await.map_err(failed)? {
            Some(0) => self.freed.push(file),
            Some(_) => {}
            None => return Err(LocalError::Damaged(format!("file {file:x} has fewer references than extents"))),
        }
        Ok(())
    }
}

impl Index {
    /// Files that nothing names, at most `limit`.
    pub async fn dead_files(&self, limit: u32) -> Result<Vec<u64>, LocalError> {
        let sql = "SELECT id FROM files INDEXED BY files_dead WHERE refs = 0 ORDER BY id LIMIT ?";
        let ids: Vec<i64> = sqlx::query_scalar(sql).bind(limit).fetch_all(&self.readers).await.map_err(failed)?;
        Ok(ids.into_iter().map(i64::cast_unsigned).collect())
    }

    /// The files of a range of ids that the index knows.
    pub async fn known_files(&self, ids: std::ops::Range<u64>) -> Result<Vec<u64>, LocalError> {
        let sql = "SELECT id FROM files WHERE id >= ? AND id < ? ORDER BY id";
        let query = sqlx::query_scalar(sql).bind(ids.start.cast_signed()).bind(ids.end.cast_signed());
        let ids: Vec<i64> = query.fetch_all(&self.readers).await.map_err(failed)?;
        Ok(ids.into_iter().map(i64::cast_unsigned).collect())
    }
}

//! The one connection that writes: a transaction for each apply, and the folding of the WAL; see the rules in `sqlite.rs`.

use sqlx::{Connection, Row as _, SqliteConnection};

use super::super::Checkpoint;
use super::super::backend::Staged;
use super::super::rows::{Counts, Key, Row};
use super::super::tally::Tallies;
use super::is_io;
use super::table::{self, PORTIONS, Query, bits, query};
use crate::base::id::{BlobId, OwnerId};

/// After about how many written pages the WAL is folded into the database file.
const FOLD_PAGES: u64 = 4000;

/// The connection that writes.
pub(super) struct Writer {
    pub connection: SqliteConnection,
    /// Whether `synchronous` is `FULL`; `None` where that is not known.
    full: Option<bool>,
    /// About how many pages were written to the WAL since it was last folded.
    unfolded_pages: u64,
    /// What is in the WAL may not be on the disk, whatever a sync says.
    pub suspect: bool,
}

impl Writer {
    pub const fn new(connection: SqliteConnection) -> Self {
        Self { connection, full: None, unfolded_pages: 0, suspect: false }
    }

    /// One transaction, and what is due after it.
    pub async fn apply(&mut self, changes: &[Staged], checkpoint: &Checkpoint, durable: bool) -> sqlx::Result<Tallies> {
        if self.suspect {
            self.fold("PRAGMA wal_checkpoint(TRUNCATE)").await?;
            self.suspect = false;
        }
        // Also where this future is dropped before it knows.
        self.suspect = true;
        let applied = self.transact(changes, checkpoint, durable).await;
        self.suspect = applied.as_ref().is_err_and(is_io);
        self.unfolded_pages += 4 + 2 * (changes.len() + checkpoint.blobs.len() + checkpoint.pages.len()) as u64;
        if applied.is_ok() && self.unfolded_pages > FOLD_PAGES {
            // A reader may be in the way of some of it; then the next time does it.
            match self.fold("PRAGMA wal_checkpoint(PASSIVE)").await {
                Ok(()) => {}
                Err(error) if is_io(&error) => self.suspect = true,
                Err(error) => tracing::warn!(%error, "folding the WAL of the metadata failed"),
            }
        }
        applied
    }

    /// Folds the WAL into the database file. `TRUNCATE` fails where it cannot fold all.
    async fn fold(&mut self, pragma: &'static str) -> sqlx::Result<()> {
        let row = query(pragma).fetch_one(&mut self.connection).await?;
        if pragma.contains("TRUNCATE") && row.try_get::<i64, _>(0)? != 0 {
            return Err(sqlx::Error::Protocol("the database is busy".to_owned()));
        }
        self.unfolded_pages = 0;
        Ok(())
    }

    async fn transact(&mut self, changes: &[Staged], checkpoint: &Checkpoint, durable: bool) -> sqlx::Result<Tallies> {
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

/// As [`write_rows`]. What is removed goes first: a blob with all its pages.
async fn write_blobs(connection: &mut SqliteConnection, checkpoint: &Checkpoint) -> sqlx::Result<()> {
    let (blobs, pages) = (&checkpoint.blobs, &checkpoint.pages);
    let gone: Vec<BlobId> = blobs.iter().filter(|(_, row)| row.is_none()).map(|(blob, _)| *blob).collect();
    write(connection, &table::PAGES_OF_BLOB.drop, &gone, |query, blob| query.bind(bits(blob.0))).await?;
    write(connection, &table::BLOB.drop, &gone, |query, blob| query.bind(bits(blob.0))).await?;
    let gone: Vec<(BlobId, u64)> =
        pages.iter().filter(|(.., body)| body.is_none()).map(|(blob, page, _)| (*blob, *page)).collect();
    write(connection, &table::PAGE.drop, &gone, |query, (blob, page)| query.bind(bits(blob.0)).bind(bits(*page))).await?;
    let put: Vec<_> = blobs.iter().filter_map(|(blob, row)| Some((*blob, row.as_ref()?))).collect();
    write(connection, &table::BLOB.put, &put, |query, (blob, row)| table::bind_blob(query.bind(bits(blob.0)), row)).await?;
    let put: Vec<_> = pages.iter().filter_map(|(blob, page, body)| Some((*blob, *page, body.as_ref()?))).collect();
    let bind = |query: Query<'static>, (blob, page, body): &(BlobId, u64, &Vec<u8>)| {
        query.bind(bits(blob.0)).bind(bits(*page)).bind((*body).clone())
    };
    write(connection, &table::PAGE.put, &put, bind).await
}

/// How much each owner has.
pub(super) async fn tallies(connection: &mut SqliteConnection) -> sqlx::Result<Tallies> {
    let mut tallies = Tallies::default();
    let rows = query("SELECT owner, nodes, objects, object_bytes, jobs FROM tally").fetch_all(connection).await?;
    for row in rows {
        let count = |index: usize| row.try_get::<i64, _>(index).map(i64::cast_unsigned);
        let counts = Counts { nodes: count(1)?, objects: count(2)?, object_bytes: count(3)?, jobs: count(4)? };
        tallies.set(OwnerId(row.try_get(0)?), counts);
    }
    Ok(tallies)
}

//! The index: an SQLite database that knows every bucket, version, upload and part, and which files hold their bytes.
//!
//! What lives here: [`Index`], its one writer task and its readers. Beside it: `index/schema.rs` (the tables), `index/row.rs`
//! (rows to values), and the changes and questions by subject. This folder is the one place outside of `store/meta` with SQL.
//!
//! Invariants:
//! - Only the writer task changes the database. A [`Change`] either refuses before it wrote anything, or applies wholly.
//! - Changes that queue up while one transaction commits share the next one; each is answered after its commit was flushed
//!   (`synchronous = FULL`). If the database fails, all changes of the transaction fail and are rolled back.
//! - Reads see committed transactions only and never wait for the writer (WAL).

mod buckets;
mod files;
mod list;
mod objects;
mod row;
mod schema;
mod uploads;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::RwLock;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, SqliteConnection};
use tokio::sync::{mpsc, oneshot};

use super::LocalError;
use super::files::Fresh;
use super::garbage::Garbage;
use super::types::BucketInfo;

pub use buckets::{CreateBucket, DeleteBucket, SetVersioning};
pub use files::{Forget, Reserve, Start};
pub use list::{Kind, Position, Shown};
pub use objects::{DeleteObject, NewObject, PutObject, Retag};
pub use row::{Held, ObjectRow};
pub use uploads::{AbortUpload, BeginUpload, CompleteUpload, NamedPart, NewPart, PartRow, PutPart};

const READERS: u32 = 4;
const QUEUE: usize = 256;
const BATCH: usize = 256;

/// Buckets by name. There are few of them (at most [`BUCKETS_MAX`](buckets::BUCKETS_MAX)), so they are all in memory.
type Buckets = BTreeMap<String, BucketInfo>;

/// To the writer task.
type Queue = mpsc::Sender<Box<dyn Job>>;

/// The index of a store. A clone is the same index.
#[derive(Clone)]
pub struct Index {
    readers: SqlitePool,
    queue: Arc<RwLock<Option<Queue>>>,
    buckets: Arc<RwLock<Buckets>>,
    stopped: Arc<tokio::sync::Mutex<Option<tokio::task::JoinHandle<()>>>>,
    /// How many scans were made: a listing must not walk what it folds.
    #[cfg(test)]
    pub(super) scans: Arc<std::sync::atomic::AtomicU32>,
}

/// One change of the database.
#[async_trait]
pub trait Change: Send + 'static {
    /// What the one who asks is told.
    type Answer: Send + 'static;

    /// Applies the change. `Err` of any kind but [`LocalError::Disk`] and [`LocalError::Damaged`] is a refusal, before the
    /// first write.
    async fn apply(self, writer: &mut Writer) -> Result<Self::Answer, LocalError>;
}

/// What a change works on: the writer's connection and what it has to remember until the commit.
pub struct Writer {
    conn: SqliteConnection,
    /// The buckets as of this transaction.
    buckets: Buckets,
    /// Whether `buckets` differs from what readers see.
    buckets_changed: bool,
    /// Files that nothing names any more, once the transaction is committed.
    freed: Vec<u64>,
    /// New files that have a name, once the transaction is committed.
    fresh: Vec<Fresh>,
    garbage: Arc<Garbage>,
}

impl Writer {
    fn new(conn: SqliteConnection, buckets: Buckets, garbage: Arc<Garbage>) -> Self {
        Self { conn, buckets, buckets_changed: false, freed: Vec::new(), fresh: Vec::new(), garbage }
    }

    /// What has to happen outside of the database after a transaction.
    fn settle(&mut self, result: &Result<(), LocalError>, shared: &RwLock<Buckets>) {
        let freed = std::mem::take(&mut self.freed);
        let fresh = std::mem::take(&mut self.fresh);
        match result {
            Ok(()) => {
                if self.buckets_changed {
                    *shared.write() = self.buckets.clone();
                }
                fresh.into_iter().for_each(Fresh::keep);
                self.garbage.release(freed);
            }
            // The next start finds out which of them have a name.
            Err(LocalError::CommitUnknown(_)) => fresh.into_iter().for_each(Fresh::keep),
            Err(_) => drop(fresh),
        }
        if result.is_err() {
            self.buckets = shared.read().clone();
        }
        self.buckets_changed = false;
    }

    fn bucket(&self, name: &str) -> Result<BucketInfo, LocalError> {
        self.buckets.get(name).cloned().ok_or_else(|| LocalError::NoSuchBucket(name.into()))
    }
}

impl Index {
    /// Opens or creates `index.db` in `dir` and starts its writer.
    pub async fn open(dir: &Path, garbage: Arc<Garbage>) -> Result<(Self, Start), LocalError> {
        let options = SqliteConnectOptions::new()
            .filename(dir.join("index.db"))
            .create_if_missing(true)
            .page_size(8192)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .pragma("cache_size", "-16384")
            .busy_timeout(Duration::from_secs(30));
        let mut conn = options.clone().disable_statement_logging().connect().await.map_err(refused)?;
        files::check_format(&mut conn).await?;
        for table in schema::TABLES {
            sqlx::query(*table).execute(&mut conn).await.map_err(refused)?;
        }
        let start = files::start(&mut conn).await?;
        let buckets = buckets::load(&mut conn).await?;
        let readers = options.read_only(true).disable_statement_logging();
        let readers = SqlitePoolOptions::new().max_connections(READERS).connect_with(readers).await.map_err(failed)?;
        let shared = Arc::new(RwLock::new(buckets.clone()));
        let (sender, receiver) = mpsc::channel(QUEUE);
        let writer = Writer::new(conn, buckets, garbage);
        let task = tokio::spawn(run(writer, receiver, shared.clone()));
        let queue = Arc::new(RwLock::new(Some(sender)));
        let stopped = Arc::new(tokio::sync::Mutex::new(Some(task)));
        let index = Self {
            readers,
            queue,
            buckets: shared,
            stopped,
            #[cfg(test)]
            scans: Arc::default(),
        };
        Ok((index, start))
    }

    /// Applies a change and returns when it is durable.
    pub async fn change<C: Change>(&self, change: C) -> Result<C::Answer, LocalError> {
        let queue = self.queue.read().clone().ok_or(LocalError::Closed)?;
        let (reply, answer) = oneshot::channel();
        let job = Box::new(Pending { change: Some(change), answer: None, reply: Some(reply) });
        queue.send(job).await.map_err(|_| LocalError::Closed)?;
        drop(queue);
        answer.await.map_err(|_| LocalError::CommitUnknown("the writer stopped".into()))?
    }

    /// Finishes the changes that are queued and closes the database.
    pub async fn close(&self) {
        self.queue.write().take();
        if let Some(task) = self.stopped.lock().await.take() {
            // A writer that panicked has closed its connection as well.
            let _ = task.await;
        }
        self.readers.close().await;
    }

    /// All buckets, by name.
    pub fn buckets(&self) -> Vec<BucketInfo> {
        self.buckets.read().values().cloned().collect()
    }

    /// One bucket.
    pub fn bucket(&self, name: &str) -> Result<BucketInfo, LocalError> {
        self.buckets.read().get(name).cloned().ok_or_else(|| LocalError::NoSuchBucket(name.into()))
    }
}

/// The writer task: async select, one transaction per round.
async fn run(mut writer: Writer, mut queue: mpsc::Receiver<Box<dyn Job>>, shared: Arc<RwLock<Buckets>>) {
    let mut jobs: Vec<Box<dyn Job>> = Vec::with_capacity(BATCH);
    while queue.recv_many(&mut jobs, BATCH).await > 0 {
        let result = transaction(&mut writer, &mut jobs).await;
        writer.settle(&result, &shared);
        jobs.drain(..).for_each(|job| job.answer(&result));
    }
    if let Err(error) = writer.conn.close().await {
        tracing::warn!(%error, "the embedded S3 store's index did not close cleanly");
    }
}

async fn transaction(writer: &mut Writer, jobs: &mut [Box<dyn Job>]) -> Result<(), LocalError> {
    sqlx::query("BEGIN IMMEDIATE").execute(&mut writer.conn).await.map_err(failed)?;
    for job in jobs {
        if let Err(error) = job.run(writer).await {
            // If even this fails, so does the next BEGIN, and every change is refused.
            let _ = sqlx::query("ROLLBACK").execute(&mut writer.conn).await;
            return Err(error);
        }
    }
    if let Err(error) = sqlx::query("COMMIT").execute(&mut writer.conn).await {
        let _ = sqlx::query("ROLLBACK").execute(&mut writer.conn).await;
        return Err(LocalError::CommitUnknown(error.to_string()));
    }
    Ok(())
}

/// A [`Change`] of any type, on its way through the writer.
#[async_trait]
trait Job: Send {
    /// Applies the change; an error is the database's and fails the whole transaction.
    async fn run(&mut self, writer: &mut Writer) -> Result<(), LocalError>;
    /// Answers after the transaction.
    fn answer(self: Box<Self>, transaction: &Result<(), LocalError>);
}

struct Pending<C: Change> {
    change: Option<C>,
    answer: Option<Result<C::Answer, LocalError>>,
    reply: Option<oneshot::Sender<Result<C::Answer, LocalError>>>,
}

#[async_trait]
impl<C: Change> Job for Pending<C> {
    async fn run(&mut self, writer: &mut Writer) -> Result<(), LocalError> {
        let Some(change) = self.change.take() else { return Ok(()) };
        match change.apply(writer).await {
            Err(error @ (LocalError::Disk(_) | LocalError::Damaged(_))) => Err(error),
            answer => {
                self.answer = Some(answer);
                Ok(())
            }
        }
    }

    fn answer(mut self: Box<Self>, transaction: &Result<(), LocalError>) {
        let answer = match (transaction, self.answer.take()) {
            (Ok(()), Some(answer)) => answer,
            (Ok(()), None) => Err(LocalError::Closed),
            (Err(error), _) => Err(error.clone()),
        };
        if let Some(reply) = self.reply.take() {
            // Who asked may have gone away; the change stands.
            let _ = reply.send(answer);
        }
    }
}

/// A database error before a commit.
fn failed(error: sqlx::Error) -> LocalError {
    match &error {
        sqlx::Error::PoolClosed => LocalError::Closed,
        sqlx::Error::Database(cause) if matches!(cause.code().as_deref(), Some("11" | "26")) => {
            LocalError::Damaged(cause.to_string())
        }
        _ => LocalError::Disk(error.to_string()),
    }
}

/// A database error at the start.
fn refused(error: sqlx::Error) -> LocalError {
    match failed(error) {
        LocalError::Damaged(what) => LocalError::Damaged(format!("index.db: {what}; restore it from a copy, it was not changed")),
        other => other,
    }
}

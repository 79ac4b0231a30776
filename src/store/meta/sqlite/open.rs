//! Opening: what is there is looked at without a trace, and only what is ours and whole is opened for writing.
//!
//! Invariant: nothing is written to a file that is refused. A database whose WAL is absent or empty is looked at as
//! immutable (no locks, no `-shm`); one with a WAL is opened read-only, which reads the WAL but writes neither.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, Row as _, SqliteConnection};

use super::super::MetaError;
use super::{failed, is_damage};

/// `application_id` of our databases: "TIDE".
const APPLICATION_ID: i64 = 0x5449_4445;

/// A whole database is looked through at every start up to this size; at hundreds of MiB a second nobody notices.
const CHECK_ALWAYS_BYTES: u64 = 64 << 20;

/// A database that was not closed is looked through up to this size.
const CHECK_UNCLEAN_BYTES: u64 = 1 << 30;

static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");

/// The newest version that this program knows.
fn version_known() -> i64 {
    MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or(0)
}

fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .foreign_keys(false)
        .busy_timeout(Duration::from_secs(10))
        .row_buffer_size(512)
        .thread_name(|id| format!("meta-{id}"))
        .disable_statement_logging()
}

/// The file beside a database: `-wal`, `.ballast`.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// A refusal, with what to do.
fn refused(path: &Path, what: &str) -> MetaError {
    let path = path.display();
    MetaError::Refused(format!(
        "{path}: {what}. Nothing was changed. Put the right file back, or move this one away and rescue the files that are \
         in the cache with `tidegate check --salvage`"
    ))
}

fn len_of(path: &Path) -> io::Result<u64> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(metadata.len()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    }
}

/// Opens the writer, after everything that might speak against it; makes the database where there is none.
pub(super) async fn writer(path: &Path) -> Result<SqliteConnection, MetaError> {
    let unreadable = |error: io::Error| MetaError::Failed(format!("{}: {error}", path.display()));
    let len = len_of(path).map_err(unreadable)?;
    let wal_len = len_of(&beside(path, "-wal")).map_err(unreadable)?;
    if len > 0 {
        inspect(path, len, wal_len > 0).await?;
    } else if wal_len > 0 {
        return Err(refused(path, "the database is gone, though its `-wal` is there"));
    }
    let options = options(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Normal)
        .pragma("wal_autocheckpoint", "0")
        .pragma("journal_size_limit", "67108864")
        .pragma("cache_size", "-16384");
    let mut connection = options.connect().await.map_err(failed)?;
    MIGRATIONS.run(&mut connection).await.map_err(|error| match error {
        MigrateError::VersionMismatch(version) => {
            refused(path, &format!("its migration {version} is not the one that this program has"))
        }
        MigrateError::VersionMissing(version) => newer(path, version),
        error => MetaError::Failed(error.to_string()),
    })?;
    Ok(connection)
}

/// A connection that only reads.
pub(super) async fn reader(path: &Path) -> Result<SqliteConnection, MetaError> {
    options(path).read_only(true).pragma("cache_size", "-8192").connect().await.map_err(failed)
}

/// Looks at a database that exists, without a trace.
async fn inspect(path: &Path, len: u64, has_wal: bool) -> Result<(), MetaError> {
    header(path, len, has_wal)?;
    let options = options(path).read_only(true).immutable(!has_wal);
    let mut connection = options.connect().await.map_err(|error| unusable(path, &error))?;
    let found = ours(path, &mut connection).await;
    let limit = if has_wal { CHECK_UNCLEAN_BYTES } else { CHECK_ALWAYS_BYTES };
    let found = match found {
        Ok(()) if len <= limit => check(path, &mut connection).await,
        found => found,
    };
    let _ = connection.close().await;
    found
}

/// The file's first bytes: SQLite's database file format, §1.3.
fn header(path: &Path, len: u64, has_wal: bool) -> Result<(), MetaError> {
    let mut bytes = Vec::new();
    let read = fs::File::open(path).and_then(|file| file.take(100).read_to_end(&mut bytes));
    read.map_err(|error| MetaError::Failed(format!("{}: {error}", path.display())))?;
    if bytes.len() < 100 || !bytes.starts_with(b"SQLite format 3\0") {
        return Err(refused(path, "this is not a SQLite database"));
    }
    let page_bytes = match u16::from_be_bytes([bytes[16], bytes[17]]) {
        1 => 65536,
        bytes => u64::from(bytes),
    };
    let pages = u64::from(u32::from_be_bytes([bytes[28], bytes[29], bytes[30], bytes[31]]));
    if !has_wal && pages * page_bytes > len {
        return Err(refused(path, "the database is damaged: the file is cut short"));
    }
    Ok(())
}

/// Whether it is ours, and of a version that we know.
async fn ours(path: &Path, connection: &mut SqliteConnection) -> Result<(), MetaError> {
    let mut number = async |statement: &'static str| {
        let row = sqlx::query(statement).fetch_one(&mut *connection).await;
        row.and_then(|row| row.try_get::<i64, _>(0)).map_err(|error| unusable(path, &error))
    };
    let application = number("PRAGMA application_id").await?;
    let version = number("PRAGMA user_version").await?;
    let tables = number("SELECT count(*) FROM sqlite_schema WHERE name <> '_sqlx_migrations'").await?;
    match (application, version) {
        // The program ended before its first migration.
        (0, 0) if tables == 0 => Ok(()),
        (APPLICATION_ID, version) if version > version_known() => Err(newer(path, version)),
        (APPLICATION_ID, _) => Ok(()),
        _ => Err(refused(path, "this is another program's database")),
    }
}

fn newer(path: &Path, version: i64) -> MetaError {
    let known = version_known();
    refused(path, &format!("it is of a newer Tidegate (version {version}; this program knows {known}): start that one"))
}

/// Looks through the whole database for damage.
pub(super) async fn check(path: &Path, connection: &mut SqliteConnection) -> Result<(), MetaError> {
    let rows = sqlx::query("PRAGMA quick_check(1)").fetch_all(connection).await;
    let found = rows.and_then(|rows| rows.first().map(|row| row.try_get::<String, _>(0)).transpose());
    match found.map_err(|error| unusable(path, &error))? {
        Some(words) if words != "ok" => Err(refused(path, &format!("the database is damaged: {}", words.trim()))),
        _ => Ok(()),
    }
}

/// An error while looking at a database.
fn unusable(path: &Path, error: &sqlx::Error) -> MetaError {
    if is_damage(error) {
        refused(path, &format!("the database is damaged: {error}"))
    } else {
        MetaError::Failed(format!("{}: {error}", path.display()))
    }
}

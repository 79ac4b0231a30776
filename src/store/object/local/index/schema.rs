//! The index's tables, format 1.
//!
//! - `objects`: one row per version and delete marker. `live` is 1 on a key's latest version unless that is a marker: listings
//!   walk the index over live rows only. `content` of small objects is in the row, last, so that other reads don't touch it.
//! - `files.refs`: how many extents (of objects and parts) name the file. 0: it is to be removed.
//! - `counters`: `format`; `block`, the next unreserved block of file ids; `run_block`, the first of the running process.

/// Makes the tables where they are absent.
pub const TABLES: &[&str] = &[
    "CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS buckets (
        id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, created_ns INTEGER NOT NULL,
        versioning INTEGER NOT NULL)",
    "CREATE TABLE IF NOT EXISTS objects (
        id INTEGER PRIMARY KEY AUTOINCREMENT, bucket INTEGER NOT NULL, key BLOB NOT NULL,
        live INTEGER NOT NULL, is_null INTEGER NOT NULL, marker INTEGER NOT NULL,
        size_bytes INTEGER NOT NULL, etag TEXT NOT NULL, modified_ns INTEGER NOT NULL, class TEXT,
        headers TEXT NOT NULL, checksums TEXT NOT NULL, tags TEXT NOT NULL, extents BLOB, content BLOB)",
    "CREATE UNIQUE INDEX IF NOT EXISTS objects_live ON objects (bucket, key) WHERE live = 1",
    "CREATE UNIQUE INDEX IF NOT EXISTS objects_versions ON objects (bucket, key, id DESC)",
    "CREATE TABLE IF NOT EXISTS uploads (
        id INTEGER PRIMARY KEY AUTOINCREMENT, bucket INTEGER NOT NULL, key BLOB NOT NULL, initiated_ns INTEGER NOT NULL,
        class TEXT, headers TEXT NOT NULL, tags TEXT NOT NULL, algorithm TEXT, full_object INTEGER NOT NULL)",
    "CREATE UNIQUE INDEX IF NOT EXISTS uploads_key ON uploads (bucket, key, id)",
    "CREATE TABLE IF NOT EXISTS parts (
        upload INTEGER NOT NULL, number INTEGER NOT NULL, size_bytes INTEGER NOT NULL, etag TEXT NOT NULL,
        modified_ns INTEGER NOT NULL, checksums TEXT NOT NULL, extents BLOB NOT NULL,
        PRIMARY KEY (upload, number)) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS files (id INTEGER PRIMARY KEY, refs INTEGER NOT NULL)",
    "CREATE INDEX IF NOT EXISTS files_dead ON files (id) WHERE refs = 0",
];

/// The format of these tables and of the directory.
pub const FORMAT: i64 = 1;

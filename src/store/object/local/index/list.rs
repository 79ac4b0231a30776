//! Ordered scans for listings: of live objects, of versions, of uploads. Each answers rows of one bucket from a
//! [`Position`] to the end of a prefix, straight from an index in that order.

use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::super::LocalError;
use super::super::types::{BucketInfo, VersionId};
use super::{Index, failed, row};

/// Where a scan begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Keys from this one, as bytes: the successor of a prefix need not be text.
    pub from: Vec<u8>,
    /// Before them, the entries of this key that come after this id.
    pub inside: Option<(String, i64)>,
}

/// A row of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    pub key: String,
    /// Of the version, or of the upload.
    pub id: i64,
    pub is_null: bool,
    pub marker: bool,
    pub size_bytes: u64,
    pub etag: String,
    /// Last modified, or initiated.
    pub modified_ns: i64,
    pub class: Option<String>,
}

impl Shown {
    pub fn version(&self) -> VersionId {
        row::version(self.id, self.is_null)
    }
}

fn shown(row: &SqliteRow) -> Result<Shown, LocalError> {
    Ok(Shown {
        key: row::key(row.try_get(0).map_err(failed)?)?,
        id: row.try_get(1).map_err(failed)?,
        is_null: row.try_get(2).map_err(failed)?,
        marker: row.try_get(3).map_err(failed)?,
        size_bytes: row.try_get::<i64, _>(4).map_err(failed)?.cast_unsigned(),
        etag: row.try_get(5).map_err(failed)?,
        modified_ns: row.try_get(6).map_err(failed)?,
        class: row.try_get(7).map_err(failed)?,
    })
}

/// Two statements of a kind: over keys from a bound on, and inside one key.
struct Scan {
    keys: &'static str,
    inside: &'static str,
}

const LIVE: &str = "SELECT key, id, is_null, marker, size_bytes, etag, modified_ns, class FROM objects INDEXED BY objects_live
    WHERE bucket = ? AND key >= ? AND key < ? AND live = 1 ORDER BY key LIMIT ?";
const VERSIONS: Scan = Scan {
    keys: "SELECT key, id, is_null, marker, size_bytes, etag, modified_ns, class FROM objects INDEXED BY objects_versions
        WHERE bucket = ? AND key >= ? AND key < ? ORDER BY key, id DESC LIMIT ?",
    inside: "SELECT key, id, is_null, marker, size_bytes, etag, modified_ns, class FROM objects INDEXED BY objects_versions
        WHERE bucket = ? AND key = ? AND id < ? ORDER BY id DESC LIMIT ?",
};
const UPLOADS: Scan = Scan {
    keys: "SELECT key, id, 0, 0, 0, '', initiated_ns, class FROM uploads INDEXED BY uploads_key
        WHERE bucket = ? AND key >= ? AND key < ? ORDER BY key, id LIMIT ?",
    inside: "SELECT key, id, 0, 0, 0, '', initiated_ns, class FROM uploads INDEXED BY uploads_key
        WHERE bucket = ? AND key = ? AND id > ? ORDER BY id LIMIT ?",
};

/// What is scanned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Latest versions that are not markers.
    Live,
    /// All versions and markers, the latest of a key first.
    Versions,
    /// Uploads under way, the oldest of a key first.
    Uploads,
}

impl Index {
    /// Rows from a position to before the key `to`, at most `limit`.
    pub async fn scan(
        &self,
        kind: Kind,
        bucket: &BucketInfo,
        at: &Position,
        to: &[u8],
        limit: u32,
    ) -> Result<Vec<Shown>, LocalError> {
        #[cfg(test)]
        self.scans.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let scan = match kind {
            Kind::Live => Scan { keys: LIVE, inside: "" },
            Kind::Versions => VERSIONS,
            Kind::Uploads => UPLOADS,
        };
        let mut rows = Vec::new();
        if let Some((key, id)) = at.inside.as_ref().filter(|_| kind != Kind::Live) {
            let query = sqlx::query(scan.inside).bind(bucket.id).bind(key.as_bytes()).bind(id).bind(limit);
            rows = query.fetch_all(&self.readers).await.map_err(failed)?;
        }
        let left = limit.saturating_sub(rows.len() as u32);
        if left > 0 {
            let query = sqlx::query(scan.keys).bind(bucket.id).bind(&at.from[..]).bind(to).bind(left);
            rows.extend(query.fetch_all(&self.readers).await.map_err(failed)?);
        }
        rows.iter().map(shown).collect()
    }
}

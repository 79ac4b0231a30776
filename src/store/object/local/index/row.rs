//! Rows of `objects` as values.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::super::LocalError;
use super::super::digest::Checksums;
use super::super::extent::Extents;
use super::super::types::{Headers, VersionId};
use super::failed;

/// Where a version's bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Held {
    /// In the index.
    Inline(Bytes),
    /// In files.
    Files(Extents),
}

/// A row of `objects` whole.
#[derive(Clone, Debug)]
pub struct ObjectRow {
    pub id: i64,
    pub is_null: bool,
    pub marker: bool,
    pub size_bytes: u64,
    pub etag: String,
    pub modified_ns: i64,
    pub headers: Headers,
    pub checksums: Checksums,
    pub tags: BTreeMap<String, String>,
    pub held: Held,
}

impl ObjectRow {
    pub fn version(&self) -> VersionId {
        version(self.id, self.is_null)
    }
}

/// The name of a version by its row.
pub fn version(id: i64, is_null: bool) -> VersionId {
    if is_null { VersionId::Null } else { VersionId::Id(id) }
}

/// Reads the columns `id, is_null, marker, size_bytes, etag, modified_ns, class, headers, checksums, tags, extents, content`.
pub fn object(row: &SqliteRow) -> Result<ObjectRow, LocalError> {
    let mut headers: Headers = json(&row.try_get::<String, _>(7).map_err(failed)?)?;
    headers.storage_class = row.try_get(6).map_err(failed)?;
    let extents: Option<Vec<u8>> = row.try_get(10).map_err(failed)?;
    let held = match extents {
        Some(extents) => Held::Files(Extents::decode(&extents)?),
        None => Held::Inline(row.try_get::<Option<Vec<u8>>, _>(11).map_err(failed)?.unwrap_or_default().into()),
    };
    Ok(ObjectRow {
        id: row.try_get(0).map_err(failed)?,
        is_null: row.try_get(1).map_err(failed)?,
        marker: row.try_get(2).map_err(failed)?,
        size_bytes: row.try_get::<i64, _>(3).map_err(failed)?.cast_unsigned(),
        etag: row.try_get(4).map_err(failed)?,
        modified_ns: row.try_get(5).map_err(failed)?,
        headers,
        checksums: json(&row.try_get::<String, _>(8).map_err(failed)?)?,
        tags: json(&row.try_get::<String, _>(9).map_err(failed)?)?,
        held,
    })
}

/// Reads a column that holds JSON; empty text is the default value.
pub fn json<T: DeserializeOwned + Default>(text: &str) -> Result<T, LocalError> {
    if text.is_empty() {
        return Ok(T::default());
    }
    serde_json::from_str(text).map_err(|error| LocalError::Damaged(format!("the index holds no JSON: {error}")))
}

/// The text of a value; empty where it is the default.
pub fn to_json<T: Serialize + Default + PartialEq>(value: &T) -> Result<String, LocalError> {
    if *value == T::default() {
        return Ok(String::new());
    }
    serde_json::to_string(value).map_err(|error| LocalError::InvalidArgument(error.to_string()))
}

/// A key column.
pub fn key(bytes: Vec<u8>) -> Result<String, LocalError> {
    String::from_utf8(bytes).map_err(|_| LocalError::Damaged("a key is not UTF-8".into()))
}

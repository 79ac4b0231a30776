//! Versions of objects: put, delete, tag, find.

use std::collections::BTreeMap;

use async_trait::async_trait;
use sqlx::Row;

use super::super::LocalError;
use super::super::digest::Checksums;
use super::super::extent::Extents;
use super::super::files::Fresh;
use super::super::types::{BucketInfo, Deleted, Headers, Requirement, VersionId, Versioning};
use super::row::{self, Held, ObjectRow};
use super::{Change, Index, Writer, failed};

/// The columns that [`row::object`] reads, of one version.
macro_rules! select_object {
    ($condition:literal) => {
        concat!(
            "SELECT id, is_null, marker, size_bytes, etag, modified_ns, class, headers, checksums, tags, extents, content ",
            "FROM objects WHERE ",
            $condition
        )
    };
}

/// An object to be.
pub struct NewObject {
    pub bucket: String,
    pub key: String,
    pub size_bytes: u64,
    pub etag: String,
    pub modified_ns: i64,
    pub headers: Headers,
    pub checksums: Checksums,
    pub tags: BTreeMap<String, String>,
    pub held: Held,
}

/// Puts an object, if the one that is there is as required.
pub struct PutObject {
    pub object: NewObject,
    pub requirement: Requirement,
    /// The new file that `object` names.
    pub fresh: Option<Fresh>,
    /// The version whose extents `object` names; [`LocalError::SourceChanged`] where it is gone.
    pub source: Option<i64>,
}

/// The latest version of a key, unless it is a marker.
struct Live {
    id: i64,
    is_null: bool,
    etag: String,
}

#[async_trait]
impl Change for PutObject {
    type Answer = Option<VersionId>;

    async fn apply(self, writer: &mut Writer) -> Result<Self::Answer, LocalError> {
        let bucket = writer.bucket(&self.object.bucket)?;
        let live = writer.live(&bucket, &self.object.key).await?;
        check(&self.requirement, live.as_ref())?;
        if let Some(source) = self.source {
            writer.check_source(source).await?;
        }
        writer.insert_object(&bucket, live, self.object, self.fresh, Vec::new()).await
    }
}

fn check(requirement: &Requirement, live: Option<&Live>) -> Result<(), LocalError> {
    match (&requirement.matches, live) {
        (Some(_), None) => Err(LocalError::NoSuchKey { marker: false }),
        (Some(etag), Some(live)) if etag != "*" && *etag != live.etag => Err(LocalError::PreconditionFailed),
        (_, Some(_)) if requirement.absent => Err(LocalError::PreconditionFailed),
        _ => Ok(()),
    }
}

impl Writer {
    async fn live(&mut self, bucket: &BucketInfo, key: &str) -> Result<Option<Live>, LocalError> {
        let sql = "SELECT id, is_null, etag FROM objects INDEXED BY objects_live WHERE bucket = ? AND key = ? AND live = 1";
        let query = sqlx::query(sql).bind(bucket.id).bind(key.as_bytes());
        let row = query.fetch_optional(&mut self.conn).await.map_err(failed)?;
        let read =
            |row: sqlx::sqlite::SqliteRow| Ok(Live { id: row.try_get(0)?, is_null: row.try_get(1)?, etag: row.try_get(2)? });
        row.map(read).transpose().map_err(failed)
    }

    /// Refuses where the version that is copied from is gone: its files may be on their way out.
    pub(super) async fn check_source(&mut self, id: i64) -> Result<(), LocalError> {
        let sql = "SELECT EXISTS (SELECT 1 FROM objects WHERE id = ?)";
        let there: bool = sqlx::query_scalar(sql).bind(id).fetch_one(&mut self.conn).await.map_err(failed)?;
        if there { Ok(()) } else { Err(LocalError::SourceChanged) }
    }

    /// Checks the requirement, then inserts; for a completed upload, whose parts' extents are `released`.
    pub(super) async fn complete_object(
        &mut self,
        bucket: &BucketInfo,
        requirement: &Requirement,
        object: NewObject,
        released: Vec<Extents>,
    ) -> Result<Option<VersionId>, LocalError> {
        let live = self.live(bucket, &object.key).await?;
        check(requirement, live.as_ref())?;
        self.insert_object(bucket, live, object, None, released).await
    }

    async fn insert_object(
        &mut self,
        bucket: &BucketInfo,
        live: Option<Live>,
        object: NewObject,
        fresh: Option<Fresh>,
        mut released: Vec<Extents>,
    ) -> Result<Option<VersionId>, LocalError> {
        let is_null = bucket.versioning != Versioning::Enabled;
        released.extend(self.make_room(bucket, &object.key, live).await?);
        let acquired = match &object.held {
            Held::Files(extents) => std::slice::from_ref(extents),
            Held::Inline(_) => &[],
        };
        self.rebalance(acquired, &released).await?;
        let (extents, content) = match &object.held {
            Held::Files(extents) => (Some(extents.encode()), None),
            Held::Inline(bytes) => (None, Some(&bytes[..])),
        };
        let sql = "INSERT INTO objects (bucket, key, live, is_null, marker, size_bytes, etag, modified_ns, class, headers,
            checksums, tags, extents, content) VALUES (?, ?, 1, ?, 0, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id";
        let mut headers = object.headers;
        let class = headers.storage_class.take();
        let id = sqlx::query_scalar::<_, i64>(sql)
            .bind(bucket.id)
            .bind(object.key.as_bytes())
            .bind(is_null)
            .bind(object.size_bytes.cast_signed())
            .bind(&object.etag)
            .bind(object.modified_ns)
            .bind(class)
            .bind(row::to_json(&headers)?)
            .bind(row::to_json(&object.checksums)?)
            .bind(row::to_json(&object.tags)?)
            .bind(extents)
            .bind(content)
            .fetch_one(&mut self.conn)
            .await
            .map_err(failed)?;
        self.fresh.extend(fresh);
        Ok((bucket.versioning != Versioning::Off).then(|| row::version(id, is_null)))
    }

    /// Before a new latest version: the old one is live no more, and where versions are not kept it goes. Returns the
    /// extents of what went.
    async fn make_room(&mut self, bucket: &BucketInfo, key: &str, live: Option<Live>) -> Result<Option<Extents>, LocalError> {
        let null = match (bucket.versioning, &live) {
            (Versioning::Enabled, _) => None,
            (_, Some(live)) if live.is_null => Some(live.id),
            (Versioning::Off, _) => None,
            (Versioning::Suspended, _) => self.null_version(bucket, key).await?,
        };
        if let Some(live) = live.filter(|live| Some(live.id) != null) {
            self.set_live(live.id, false).await?;
        }
        match null {
            Some(id) => self.remove_version(id).await,
            None => Ok(None),
        }
    }

    async fn null_version(&mut self, bucket: &BucketInfo, key: &str) -> Result<Option<i64>, LocalError> {
        let sql = "SELECT id FROM objects WHERE bucket = ? AND key = ? AND is_null = 1";
        let query = sqlx::query_scalar(sql).bind(bucket.id).bind(key.as_bytes());
        query.fetch_optional(&mut self.conn).await.map_err(failed)
    }

    async fn set_live(&mut self, id: i64, live: bool) -> Result<(), LocalError> {
        let sql = "UPDATE objects SET live = ? WHERE id = ?";
        sqlx::query(sql).bind(live).bind(id).execute(&mut self.conn).await.map_err(failed)?;
        Ok(())
    }

    async fn remove_version(&mut self, id: i64) -> Result<Option<Extents>, LocalError> {
        let sql = "DELETE FROM objects WHERE id = ? RETURNING extents";
        let extents: Option<Option<Vec<u8>>> =
            sqlx::query_scalar(sql).bind(id).fetch_optional(&mut self.conn).await.map_err(failed)?;
        extents.flatten().map(|bytes| Extents::decode(&bytes)).transpose()
    }

    /// Makes the highest version that is left the live one, unless it is a marker.
    async fn promote(&mut self, bucket: &BucketInfo, key: &str) -> Result<(), LocalError> {
        let sql = "UPDATE objects SET live = 1 WHERE marker = 0 AND live = 0
            AND id = (SELECT max(id) FROM objects WHERE bucket = ? AND key = ?)";
        sqlx::query(sql).bind(bucket.id).bind(key.as_bytes()).execute(&mut self.conn).await.map_err(failed)?;
        Ok(())
    }

    async fn insert_marker(&mut self, bucket: &BucketInfo, key: &str, now_ns: i64) -> Result<VersionId, LocalError> {
        let is_null = bucket.versioning != Versioning::Enabled;
        let sql =
            "INSERT INTO objects (bucket, key, live, is_null, marker, size_bytes, etag, modified_ns, headers, checksums, tags)
            VALUES (?, ?, 0, ?, 1, 0, '', ?, '', '', '') RETURNING id";
        let query = sqlx::query_scalar(sql).bind(bucket.id).bind(key.as_bytes()).bind(is_null).bind(now_ns);
        let id: i64 = query.fetch_one(&mut self.conn).await.map_err(failed)?;
        Ok(row::version(id, is_null))
    }
}

/// Deletes a version, or the latest by what the bucket's versioning makes of that.
pub struct DeleteObject {
    pub bucket: String,
    pub key: String,
    pub version: Option<VersionId>,
    /// The ETag that the object must have, if there is one (`*`: any).
    pub expect: Option<String>,
    pub now_ns: i64,
}

#[async_trait]
impl Change for DeleteObject {
    type Answer = Deleted;

    async fn apply(self, writer: &mut Writer) -> Result<Deleted, LocalError> {
        let bucket = writer.bucket(&self.bucket)?;
        if let Some(version) = self.version {
            return delete_version(writer, &bucket, &self, version).await;
        }
        let live = writer.live(&bucket, &self.key).await?;
        if let (Some(expect), Some(live)) = (&self.expect, &live) {
            expected(expect, &live.etag)?;
        }
        let released: Vec<_> = writer.make_room(&bucket, &self.key, live).await?.into_iter().collect();
        writer.rebalance(&[], &released).await?;
        if bucket.versioning == Versioning::Off {
            return Ok(Deleted::default());
        }
        let marker = writer.insert_marker(&bucket, &self.key, self.now_ns).await?;
        Ok(Deleted { version: Some(marker), marker: true })
    }
}

fn expected(expect: &str, etag: &str) -> Result<(), LocalError> {
    if expect == "*" || expect == etag { Ok(()) } else { Err(LocalError::PreconditionFailed) }
}

async fn delete_version(
    writer: &mut Writer,
    bucket: &BucketInfo,
    request: &DeleteObject,
    version: VersionId,
) -> Result<Deleted, LocalError> {
    let key = request.key.as_bytes();
    let sql = "SELECT id, marker, etag FROM objects WHERE bucket = ?1 AND key = ?2 AND (id = ?3 AND is_null = 0 OR ?3 = 0 AND is_null = 1)";
    let id = if let VersionId::Id(id) = version { id } else { 0 };
    let query = sqlx::query(sql).bind(bucket.id).bind(key).bind(id);
    let deleted = |marker| Deleted { version: Some(version), marker };
    let Some(row) = query.fetch_optional(&mut writer.conn).await.map_err(failed)? else { return Ok(deleted(false)) };
    let (id, marker): (i64, bool) = (row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?);
    if let Some(expect) = &request.expect {
        expected(expect, &row.try_get::<String, _>(2).map_err(failed)?)?;
    }
    let released: Vec<_> = writer.remove_version(id).await?.into_iter().collect();
    writer.rebalance(&[], &released).await?;
    writer.promote(bucket, &request.key).await?;
    Ok(deleted(marker))
}

/// Replaces the tags of a version, which stays the same version.
pub struct Retag {
    pub id: i64,
    pub tags: BTreeMap<String, String>,
}

#[async_trait]
impl Change for Retag {
    type Answer = ();

    async fn apply(self, writer: &mut Writer) -> Result<(), LocalError> {
        let sql = "UPDATE objects SET tags = ? WHERE id = ? AND marker = 0";
        let query = sqlx::query(sql).bind(row::to_json(&self.tags)?).bind(self.id);
        match query.execute(&mut writer.conn).await.map_err(failed)?.rows_affected() {
            0 => Err(LocalError::NoSuchKey { marker: false }),
            _ => Ok(()),
        }
    }
}

impl Index {
    /// A version of a key, else the latest; markers too.
    pub async fn find(
        &self,
        bucket: &BucketInfo,
        key: &str,
        version: Option<VersionId>,
    ) -> Result<Option<ObjectRow>, LocalError> {
        let query = match version {
            None => sqlx::query(select_object!("bucket = ? AND key = ? ORDER BY id DESC LIMIT 1")),
            Some(VersionId::Null) => sqlx::query(select_object!("bucket = ? AND key = ? AND is_null = 1")),
            Some(VersionId::Id(_)) => sqlx::query(select_object!("bucket = ? AND key = ? AND id = ? AND is_null = 0")),
        };
        let query = query.bind(bucket.id).bind(key.as_bytes());
        let query = if let Some(VersionId::Id(id)) = version { query.bind(id) } else { query };
        let row = query.fetch_optional(&self.readers).await.map_err(failed)?;
        row.as_ref().map(row::object).transpose()
    }
}

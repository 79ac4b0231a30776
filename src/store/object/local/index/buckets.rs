//! Buckets in the index.

use async_trait::async_trait;
use sqlx::{Row, SqliteConnection};

use super::super::LocalError;
use super::super::types::{BucketInfo, Versioning};
use super::{Buckets, Change, Writer, failed, refused};

/// The most buckets of a store: all of them are kept in memory.
pub const BUCKETS_MAX: usize = 10_000;

/// Reads all buckets.
pub async fn load(conn: &mut SqliteConnection) -> Result<Buckets, LocalError> {
    let sql = "SELECT id, name, created_ns, versioning FROM buckets";
    let mut buckets = Buckets::new();
    for row in sqlx::query(sql).fetch_all(conn).await.map_err(refused)? {
        let versioning = match row.try_get::<i64, _>(3).map_err(failed)? {
            0 => Versioning::Off,
            1 => Versioning::Enabled,
            _ => Versioning::Suspended,
        };
        let name: String = row.try_get(1).map_err(failed)?;
        let (id, created_ns) = (row.try_get(0).map_err(failed)?, row.try_get(2).map_err(failed)?);
        buckets.insert(name.clone(), BucketInfo { id, name, created_ns, versioning });
    }
    Ok(buckets)
}

/// Creates a bucket.
pub struct CreateBucket {
    pub name: String,
    pub created_ns: i64,
}

#[async_trait]
impl Change for CreateBucket {
    type Answer = ();

    async fn apply(self, writer: &mut Writer) -> Result<(), LocalError> {
        if writer.buckets.contains_key(&self.name) {
            return Err(LocalError::BucketExists(self.name));
        }
        if writer.buckets.len() >= BUCKETS_MAX {
            return Err(LocalError::InvalidArgument("the store has as many buckets as it can".into()));
        }
        let sql = "INSERT INTO buckets (name, created_ns, versioning) VALUES (?, ?, 0) RETURNING id";
        let query = sqlx::query_scalar(sql).bind(&self.name).bind(self.created_ns);
        let id = query.fetch_one(&mut writer.conn).await.map_err(failed)?;
        let bucket = BucketInfo { id, name: self.name.clone(), created_ns: self.created_ns, versioning: Versioning::Off };
        writer.buckets.insert(self.name, bucket);
        writer.buckets_changed = true;
        Ok(())
    }
}

/// Removes a bucket that has no object, version, marker or upload.
pub struct DeleteBucket(pub String);

#[async_trait]
impl Change for DeleteBucket {
    type Answer = ();

    async fn apply(self, writer: &mut Writer) -> Result<(), LocalError> {
        let bucket = writer.bucket(&self.0)?;
        let sql = "SELECT EXISTS (SELECT 1 FROM objects WHERE bucket = ?1) OR EXISTS (SELECT 1 FROM uploads WHERE bucket = ?1)";
        let used: bool = sqlx::query_scalar(sql).bind(bucket.id).fetch_one(&mut writer.conn).await.map_err(failed)?;
        if used {
            return Err(LocalError::BucketNotEmpty);
        }
        sqlx::query("DELETE FROM buckets WHERE id = ?").bind(bucket.id).execute(&mut writer.conn).await.map_err(failed)?;
        writer.buckets.remove(&self.0);
        writer.buckets_changed = true;
        Ok(())
    }
}

/// Enables or suspends versions.
pub struct SetVersioning {
    pub bucket: String,
    pub enabled: bool,
}

#[async_trait]
impl Change for SetVersioning {
    type Answer = ();

    async fn apply(self, writer: &mut Writer) -> Result<(), LocalError> {
        let id = writer.bucket(&self.bucket)?.id;
        let (versioning, number) = if self.enabled { (Versioning::Enabled, 1) } else { (Versioning::Suspended, 2) };
        let sql = "UPDATE buckets SET versioning = ? WHERE id = ?";
        sqlx::query(sql).bind(number).bind(id).execute(&mut writer.conn).await.map_err(failed)?;
        if let Some(bucket) = writer.buckets.get_mut(&self.bucket) {
            bucket.versioning = versioning;
        }
        writer.buckets_changed = true;
        Ok(())
    }
}

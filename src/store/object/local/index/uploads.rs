//! Multipart uploads and their parts.

use std::collections::BTreeMap;

use async_trait::async_trait;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::super::LocalError;
use super::super::digest::{Algorithm, Checksums, combine, multipart_etag};
use super::super::extent::Extents;
use super::super::files::Fresh;
use super::super::types::{BucketInfo, Headers, Requirement, Stored};
use super::super::{PART_BYTES_MIN, PARTS_MAX};
use super::objects::NewObject;
use super::row::{self, Held};
use super::{Change, Index, Writer, failed};

/// An upload that is under way.
#[derive(Clone, Debug)]
pub struct UploadRow {
    pub id: i64,
    pub headers: Headers,
    pub tags: BTreeMap<String, String>,
    pub algorithm: Option<Algorithm>,
    /// The object's checksum is to be that of all its bytes.
    pub full_object: bool,
}

/// A part.
#[derive(Clone, Debug)]
pub struct PartRow {
    pub number: u32,
    pub size_bytes: u64,
    pub etag: String,
    pub modified_ns: i64,
    pub checksums: Checksums,
    pub extents: Extents,
}

const SELECT_UPLOAD: &str = "SELECT id, class, headers, tags, algorithm, full_object FROM uploads
    WHERE bucket = ? AND key = ? AND id = ?";
const SELECT_PARTS: &str = "SELECT number, size_bytes, etag, modified_ns, checksums, extents FROM parts
    WHERE upload = ? AND number > ? ORDER BY number LIMIT ?";

fn upload(row: &SqliteRow) -> Result<UploadRow, LocalError> {
    let mut headers: Headers = row::json(&row.try_get::<String, _>(2).map_err(failed)?)?;
    headers.storage_class = row.try_get(1).map_err(failed)?;
    let algorithm: Option<String> = row.try_get(4).map_err(failed)?;
    Ok(UploadRow {
        id: row.try_get(0).map_err(failed)?,
        headers,
        tags: row::json(&row.try_get::<String, _>(3).map_err(failed)?)?,
        algorithm: algorithm.as_deref().and_then(Algorithm::from_name),
        full_object: row.try_get(5).map_err(failed)?,
    })
}

fn part(row: &SqliteRow) -> Result<PartRow, LocalError> {
    Ok(PartRow {
        number: row.try_get(0).map_err(failed)?,
        size_bytes: row.try_get::<i64, _>(1).map_err(failed)?.cast_unsigned(),
        etag: row.try_get(2).map_err(failed)?,
        modified_ns: row.try_get(3).map_err(failed)?,
        checksums: row::json(&row.try_get::<String, _>(4).map_err(failed)?)?,
        extents: Extents::decode(&row.try_get::<Vec<u8>, _>(5).map_err(failed)?)?,
    })
}

impl Writer {
    async fn upload(&mut self, bucket: &BucketInfo, key: &str, id: i64) -> Result<UploadRow, LocalError> {
        let query = sqlx::query(SELECT_UPLOAD).bind(bucket.id).bind(key.as_bytes()).bind(id);
        let row = query.fetch_optional(&mut self.conn).await.map_err(failed)?;
        row.as_ref().map_or(Err(LocalError::NoSuchUpload), upload)
    }

    async fn parts(&mut self, id: i64) -> Result<Vec<PartRow>, LocalError> {
        let query = sqlx::query(SELECT_PARTS).bind(id).bind(0).bind(PARTS_MAX);
        query.fetch_all(&mut self.conn).await.map_err(failed)?.iter().map(part).collect()
    }

    async fn remove_upload(&mut self, id: i64) -> Result<(), LocalError> {
        for sql in ["DELETE FROM parts WHERE upload = ?", "DELETE FROM uploads WHERE id = ?"] {
            sqlx::query(sql).bind(id).execute(&mut self.conn).await.map_err(failed)?;
        }
        Ok(())
    }
}

/// Begins an upload and answers its id.
pub struct BeginUpload {
    pub bucket: String,
    pub key: String,
    pub initiated_ns: i64,
    pub headers: Headers,
    pub tags: BTreeMap<String, String>,
    pub algorithm: Option<Algorithm>,
    pub full_object: bool,
}

#[async_trait]
impl Change for BeginUpload {
    type Answer = i64;

    async fn apply(self, writer: &mut Writer) -> Result<i64, LocalError> {
        let bucket = writer.bucket(&self.bucket)?;
        let mut headers = self.headers;
        let class = headers.storage_class.take();
        let sql = "INSERT INTO uploads (bucket, key, initiated_ns, class, headers, tags, algorithm, full_object)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?) RETURNING id";
        sqlx::query_scalar(sql)
            .bind(bucket.id)
            .bind(self.key.as_bytes())
            .bind(self.initiated_ns)
            .bind(class)
            .bind(row::to_json(&headers)?)
            .bind(row::to_json(&self.tags)?)
            .bind(self.algorithm.map(Algorithm::name))
            .bind(self.full_object)
            .fetch_one(&mut writer.conn)
            .await
            .map_err(failed)
    }
}

/// A part to be.
pub struct NewPart {
    pub bucket: String,
    pub key: String,
    pub upload: i64,
    pub part: PartRow,
}

/// Puts a part, in the place of one of the same number.
pub struct PutPart {
    pub new: NewPart,
    /// The new file that the part names.
    pub fresh: Option<Fresh>,
    /// The version whose extents the part names.
    pub source: Option<i64>,
}

#[async_trait]
impl Change for PutPart {
    type Answer = ();

    async fn apply(self, writer: &mut Writer) -> Result<(), LocalError> {
        let NewPart { bucket, key, upload, part: new } = self.new;
        let bucket = writer.bucket(&bucket)?;
        writer.upload(&bucket, &key, upload).await?;
        if let Some(source) = self.source {
            writer.check_source(source).await?;
        }
        let sql = "DELETE FROM parts WHERE upload = ? AND number = ? RETURNING extents";
        let query = sqlx::query_scalar::<_, Vec<u8>>(sql).bind(upload).bind(new.number);
        let old = query.fetch_optional(&mut writer.conn).await.map_err(failed)?;
        let old: Vec<_> = old.map(|bytes| Extents::decode(&bytes)).transpose()?.into_iter().collect();
        writer.rebalance(std::slice::from_ref(&new.extents), &old).await?;
        let sql =
            "INSERT INTO parts (upload, number, size_bytes, etag, modified_ns, checksums, extents) VALUES (?, ?, ?, ?, ?, ?, ?)";
        let query = sqlx::query(sql).bind(upload).bind(new.number).bind(new.size_bytes.cast_signed()).bind(&new.etag);
        let query = query.bind(new.modified_ns).bind(row::to_json(&new.checksums)?).bind(new.extents.encode());
        query.execute(&mut writer.conn).await.map_err(failed)?;
        writer.fresh.extend(self.fresh);
        Ok(())
    }
}

/// A part as a completion names it.
#[derive(Clone, Debug)]
pub struct NamedPart {
    pub number: u32,
    pub etag: String,
    /// Checksums that the part must have.
    pub checksums: Vec<(Algorithm, String)>,
}

/// Makes an object of the named parts; the others go.
pub struct CompleteUpload {
    pub bucket: String,
    pub key: String,
    pub upload: i64,
    pub parts: Vec<NamedPart>,
    pub requirement: Requirement,
    pub modified_ns: i64,
    /// What the object's length must be, in bytes.
    pub size_bytes: Option<u64>,
    /// What the object's checksums must be.
    pub checksums: Vec<(Algorithm, String)>,
}

#[async_trait]
impl Change for CompleteUpload {
    type Answer = Stored;

    async fn apply(self, writer: &mut Writer) -> Result<Stored, LocalError> {
        let bucket = writer.bucket(&self.bucket)?;
        let upload = writer.upload(&bucket, &self.key, self.upload).await?;
        let sent = writer.parts(self.upload).await?;
        let chosen = choose(&self.parts, &sent)?;
        let etag = multipart_etag(chosen.iter().map(|part| part.etag.as_str()));
        let checksums = object_checksums(&upload, &chosen);
        let size_bytes = chosen.iter().map(|part| part.size_bytes).sum();
        self.check(size_bytes, &checksums)?;
        let mut extents = Extents::default();
        chosen.iter().for_each(|part| extents.append(&part.extents));
        let object = NewObject {
            bucket: self.bucket,
            key: self.key,
            size_bytes,
            etag: etag.clone(),
            modified_ns: self.modified_ns,
            headers: upload.headers,
            checksums: checksums.clone(),
            tags: upload.tags,
            held: Held::Files(extents),
        };
        let released = sent.into_iter().map(|part| part.extents).collect();
        let version = writer.complete_object(&bucket, &self.requirement, object, released).await?;
        writer.remove_upload(self.upload).await?;
        Ok(Stored { etag, version, size_bytes, modified_ns: self.modified_ns, checksums })
    }
}

impl CompleteUpload {
    fn check(&self, size_bytes: u64, checksums: &Checksums) -> Result<(), LocalError> {
        if self.size_bytes.is_some_and(|want| want != size_bytes) {
            return Err(LocalError::InvalidArgument("the object has another length than the request says".into()));
        }
        for (algorithm, want) in &self.checksums {
            let bare = |value: &str| value.split('-').next().unwrap_or_default().to_owned();
            if checksums.get(*algorithm).is_none_or(|have| bare(have) != bare(want)) {
                return Err(LocalError::BadDigest(algorithm.name()));
            }
        }
        Ok(())
    }
}

fn choose<'a>(named: &[NamedPart], sent: &'a [PartRow]) -> Result<Vec<&'a PartRow>, LocalError> {
    if named.is_empty() {
        return Err(LocalError::InvalidArgument("an upload is completed with at least one part".into()));
    }
    if !named.is_sorted_by(|a, b| a.number < b.number) {
        return Err(LocalError::InvalidPartOrder);
    }
    let mut chosen = Vec::with_capacity(named.len());
    for name in named {
        let found = sent.binary_search_by_key(&name.number, |part| part.number).ok().map(|at| &sent[at]);
        let matches = |part: &&PartRow| {
            part.etag == name.etag && name.checksums.iter().all(|(algorithm, want)| part.checksums.get(*algorithm) == Some(want))
        };
        chosen.push(found.filter(matches).ok_or(LocalError::InvalidPart(name.number))?);
    }
    match chosen[..chosen.len() - 1].iter().find(|part| part.size_bytes < PART_BYTES_MIN) {
        Some(small) => Err(LocalError::EntityTooSmall(small.number)),
        None => Ok(chosen),
    }
}

fn object_checksums(upload: &UploadRow, parts: &[&PartRow]) -> Checksums {
    let Some(algorithm) = upload.algorithm else { return Checksums::default() };
    let values: Vec<_> = parts.iter().map(|part| (part.checksums.get(algorithm), part.size_bytes)).collect();
    let value = combine(algorithm, upload.full_object, &values);
    Checksums {
        composite: value.is_some() && !upload.full_object,
        values: value.map(|value| (algorithm, value)).into_iter().collect(),
    }
}

/// Forgets an upload and its parts.
pub struct AbortUpload {
    pub bucket: String,
    pub key: String,
    pub upload: i64,
}

#[async_trait]
impl Change for AbortUpload {
    type Answer = ();

    async fn apply(self, writer: &mut Writer) -> Result<(), LocalError> {
        let bucket = writer.bucket(&self.bucket)?;
        writer.upload(&bucket, &self.key, self.upload).await?;
        let released: Vec<_> = writer.parts(self.upload).await?.into_iter().map(|part| part.extents).collect();
        writer.rebalance(&[], &released).await?;
        writer.remove_upload(self.upload).await
    }
}

impl Index {
    /// An upload that is under way.
    pub async fn upload(&self, bucket: &BucketInfo, key: &str, id: i64) -> Result<UploadRow, LocalError> {
        let query = sqlx::query(SELECT_UPLOAD).bind(bucket.id).bind(key.as_bytes()).bind(id);
        let row = query.fetch_optional(&self.readers).await.map_err(failed)?;
        row.as_ref().map_or(Err(LocalError::NoSuchUpload), upload)
    }

    /// The parts after one, at most `limit`.
    pub async fn parts(&self, upload: i64, after: u32, limit: u32) -> Result<Vec<PartRow>, LocalError> {
        let query = sqlx::query(SELECT_PARTS).bind(upload).bind(after).bind(limit);
        query.fetch_all(&self.readers).await.map_err(failed)?.iter().map(part).collect()
    }
}

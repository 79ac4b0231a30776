//! Listings: keys (v1 and v2), versions and uploads, in the order of keys' bytes, folded at a delimiter.
//!
//! One walk serves all three. It reads rows from a position; when it meets a key that folds into a prefix, it gives the
//! prefix once and goes on behind it by a seek, however many keys are below.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;

use super::index::{Kind, Position, Shown};
use super::types::{BucketInfo, VersionId};
use super::{Local, LocalError};

/// The most entries of a page.
pub const PAGE_MAX: u32 = 1000;
/// The rows of the first scan after a prefix was skipped: often the next row folds, too.
const SKIP_ROWS: u32 = 8;

/// Which keys to list.
#[derive(Clone, Debug, Default)]
pub struct KeyQuery {
    /// Only keys that begin with this.
    pub prefix: String,
    /// Fold at the first of these after the prefix.
    pub delimiter: Option<String>,
    /// Only what comes after this key or folded prefix.
    pub after: Option<String>,
    /// [`KeyPage::next`] of the page before; overrides `after`.
    pub token: Option<String>,
    /// At most so many entries, up to 1,000.
    pub limit: u32,
}

/// A page of keys.
#[derive(Clone, Debug, Default)]
pub struct KeyPage {
    /// Objects, by key.
    pub objects: Vec<Version>,
    /// Folded prefixes.
    pub prefixes: Vec<String>,
    /// The token of the next page; `None` on the last.
    pub next: Option<String>,
    /// The last key or prefix of this page, where there is a next one: v1's `NextMarker`.
    pub last: Option<String>,
}

/// Which versions to list.
#[derive(Clone, Debug, Default)]
pub struct VersionQuery {
    /// Only keys that begin with this.
    pub prefix: String,
    /// Fold at the first of these after the prefix.
    pub delimiter: Option<String>,
    /// Only what comes after this key…
    pub key_marker: Option<String>,
    /// … or after this version of it.
    pub version_marker: Option<VersionId>,
    /// At most so many entries, up to 1,000.
    pub limit: u32,
}

/// One version in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Its key.
    pub key: String,
    /// Its name.
    pub version: VersionId,
    /// It is the latest of its key.
    pub latest: bool,
    /// It is a delete marker.
    pub marker: bool,
    /// Length in bytes.
    pub size_bytes: u64,
    /// ETag without quotes.
    pub etag: String,
    /// Nanoseconds since the Unix epoch.
    pub modified_ns: i64,
    /// Storage class; `None` is `STANDARD`.
    pub storage_class: Option<String>,
}

/// A page of versions.
#[derive(Clone, Debug, Default)]
pub struct VersionPage {
    /// Versions and markers, by key, the latest first.
    pub versions: Vec<Version>,
    /// Folded prefixes.
    pub prefixes: Vec<String>,
    /// Key and version markers of the next page.
    pub next: Option<(String, Option<VersionId>)>,
}

/// The last entry of a page that is not the last page.
pub(super) enum Last {
    Row(Shown),
    Prefix(String),
}

pub(super) struct Walked {
    pub rows: Vec<Shown>,
    pub prefixes: Vec<String>,
    pub last: Option<Last>,
}

/// What is walked, and how keys fold.
pub(super) struct Walk<'a> {
    pub kind: Kind,
    pub bucket: &'a BucketInfo,
    pub prefix: &'a str,
    pub delimiter: Option<&'a str>,
}

impl Walk<'_> {
    /// The prefix that `key` folds into.
    fn fold<'k>(&self, key: &'k str) -> Option<&'k str> {
        let delimiter = self.delimiter.filter(|delimiter| !delimiter.is_empty())?;
        let at = key.strip_prefix(self.prefix)?.find(delimiter)?;
        Some(&key[..self.prefix.len() + at + delimiter.len()])
    }

    /// The first position after a key (all of its rows) or folded prefix.
    pub fn after(&self, entry: &str) -> Position {
        let from = match self.fold(entry) {
            Some(folded) => successor(folded),
            None => [entry.as_bytes(), &[0]].concat(),
        };
        Position { from, inside: None }
    }

    fn after_row(&self, row: &Shown) -> Position {
        let inside = (self.kind != Kind::Live).then(|| (row.key.clone(), row.id));
        Position { from: [row.key.as_bytes(), &[0]].concat(), inside }
    }

    pub async fn run(&self, local: &Local, start: Position, limit: u32) -> Result<Walked, LocalError> {
        let limit = limit.min(PAGE_MAX) as usize;
        let to = successor(self.prefix);
        let mut walked = Walked { rows: Vec::new(), prefixes: Vec::new(), last: None };
        let mut last = None;
        let mut at = Position { from: start.from.max(self.prefix.as_bytes().to_vec()), inside: start.inside };
        let mut count = limit as u32 + 1;
        if limit == 0 {
            return Ok(walked);
        }
        loop {
            let rows = local.index.scan(self.kind, self.bucket, &at, &to, count).await?;
            let more = rows.len() == count as usize;
            for row in rows {
                let folded = self.fold(&row.key);
                if folded.is_some() && folded == walked.prefixes.last().map(String::as_str) {
                    continue;
                }
                if walked.rows.len() + walked.prefixes.len() == limit {
                    walked.last = last;
                    return Ok(walked);
                }
                if let Some(folded) = folded {
                    walked.prefixes.push(folded.to_owned());
                    last = Some(Last::Prefix(folded.to_owned()));
                } else {
                    last = Some(Last::Row(row.clone()));
                    walked.rows.push(row);
                }
            }
            (at, count) = match &last {
                Some(Last::Row(row)) if more => (self.after_row(row), (count * 4).min(PAGE_MAX)),
                Some(Last::Prefix(prefix)) if more => (Position { from: successor(prefix), inside: None }, SKIP_ROWS),
                _ => return Ok(walked),
            };
        }
    }
}

/// The least byte string above everything that begins with `prefix`.
fn successor(prefix: &str) -> Vec<u8> {
    // The last byte of UTF-8 is never 0xff; nothing of UTF-8 is above 0xff.
    let mut bytes = prefix.as_bytes().to_vec();
    match bytes.last_mut() {
        Some(last) => *last += 1,
        None => bytes.push(0xff),
    }
    bytes
}

impl Version {
    fn new(row: Shown, latest: bool) -> Self {
        Self {
            version: row.version(),
            key: row.key,
            latest,
            marker: row.marker,
            size_bytes: row.size_bytes,
            etag: row.etag,
            modified_ns: row.modified_ns,
            storage_class: row.class,
        }
    }
}

impl Local {
    /// A page of a bucket's objects.
    ///
    /// # Errors
    /// `NoSuchBucket`, `InvalidArgument` for a token that is not ours, or the index's.
    pub async fn list_keys(&self, bucket: &str, query: &KeyQuery) -> Result<KeyPage, LocalError> {
        let bucket = self.index.bucket(bucket)?;
        let walk = Walk { kind: Kind::Live, bucket: &bucket, prefix: &query.prefix, delimiter: query.delimiter.as_deref() };
        let start = match (&query.token, &query.after) {
            (Some(token), _) => Position { from: decode(token)?, inside: None },
            (None, Some(after)) if !after.is_empty() => walk.after(after),
            _ => Position::default(),
        };
        let walked = walk.run(self, start, query.limit).await?;
        let (next, last) = match &walked.last {
            Some(Last::Row(row)) => (Some(walk.after(&row.key)), Some(row.key.clone())),
            Some(Last::Prefix(prefix)) => (Some(walk.after(prefix)), Some(prefix.clone())),
            None => (None, None),
        };
        let objects = walked.rows.into_iter().map(|row| Version::new(row, true)).collect();
        Ok(KeyPage { objects, prefixes: walked.prefixes, next: next.map(|at| BASE64URL.encode(at.from)), last })
    }

    /// A page of a bucket's versions and delete markers.
    ///
    /// # Errors
    /// `NoSuchBucket`, or the index's.
    pub async fn list_versions(&self, bucket: &str, query: &VersionQuery) -> Result<VersionPage, LocalError> {
        let bucket = self.index.bucket(bucket)?;
        let walk = Walk { kind: Kind::Versions, bucket: &bucket, prefix: &query.prefix, delimiter: query.delimiter.as_deref() };
        let start = match (&query.key_marker, query.version_marker) {
            (Some(key), version) if !key.is_empty() => {
                let mut start = walk.after(key);
                start.inside = match version {
                    Some(version) => Some((key.clone(), self.version_row(&bucket, key, version).await?)),
                    None => None,
                };
                start
            }
            _ => Position::default(),
        };
        let mut last_key = start.inside.as_ref().map(|(key, _)| key.clone());
        let walked = walk.run(self, start, query.limit).await?;
        let next = walked.last.map(|last| match last {
            Last::Row(row) => (row.key.clone(), Some(row.version())),
            Last::Prefix(prefix) => (prefix, None),
        });
        let version = |row: Shown| {
            let latest = last_key.replace(row.key.clone()).as_ref() != Some(&row.key);
            Version::new(row, latest)
        };
        Ok(VersionPage { versions: walked.rows.into_iter().map(version).collect(), prefixes: walked.prefixes, next })
    }

    /// The row of a version marker; one that is gone since begins its key again rather than leaving any out.
    async fn version_row(&self, bucket: &BucketInfo, key: &str, version: VersionId) -> Result<i64, LocalError> {
        match version {
            VersionId::Id(id) => Ok(id),
            VersionId::Null => Ok(self.index.find(bucket, key, Some(version)).await?.map_or(i64::MAX, |row| row.id)),
        }
    }
}

fn decode(token: &str) -> Result<Vec<u8>, LocalError> {
    BASE64URL.decode(token).map_err(|_| LocalError::InvalidArgument("the continuation token is not ours".into()))
}

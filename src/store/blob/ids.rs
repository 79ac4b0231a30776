//! Ids that are never given twice: taken from blocks whose end is durable before the first of them is used.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{BlobError, BlobStore};
use crate::base::id::OwnerId;
use crate::store::meta::{Change, Key, Meta, MetaError, Row, ValueRow};

/// Ids per block.
const BLOCK: u64 = 65_536;

/// One kind of id.
pub struct Ids {
    /// The name of its mark in the metadata.
    name: &'static str,
    /// The next one.
    next: AtomicU64,
    /// Those below are durable.
    mark: AtomicU64,
    raising: tokio::sync::Mutex<()>,
}

impl Ids {
    /// Ids with a mark of this name.
    pub fn new(name: &'static str) -> Self {
        Self { name, next: AtomicU64::new(1), mark: AtomicU64::new(1), raising: tokio::sync::Mutex::new(()) }
    }

    /// Goes on at the mark that was reached before.
    pub async fn load(&self, meta: &Meta) -> Result<(), MetaError> {
        let Some(Row::Value(row)) = meta.get(&Key::Value(self.name.to_owned())).await? else { return Ok(()) };
        let Ok(value) = row.value.as_slice().try_into() else {
            let name = self.name;
            return Err(MetaError::Refused(format!("the value {name} in the database is damaged: restore the database")));
        };
        self.mark.store(u64::from_le_bytes(value), Ordering::Release);
        self.next.store(u64::from_le_bytes(value), Ordering::Release);
        Ok(())
    }

    fn take(&self) -> Option<u64> {
        let mark = self.mark.load(Ordering::Acquire);
        let more = |next| (next < mark).then_some(next + 1);
        self.next.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok()
    }
}

impl BlobStore {
    /// One more owner: above all that have a row, and all that were given before by this process.
    pub(super) async fn next_owner(&self) -> Result<OwnerId, BlobError> {
        let mut last = self.last_owner.lock().await;
        let known = self.meta.owners().await?.iter().map(|row| row.owner.0).max().unwrap_or(0);
        *last = known.max(*last) + 1;
        Ok(OwnerId(*last))
    }

    /// One more id.
    pub(super) async fn new_id(&self, ids: &Ids) -> Result<u64, BlobError> {
        loop {
            if let Some(id) = ids.take() {
                return Ok(id);
            }
            let _raising = ids.raising.lock().await;
            let mark = ids.mark.load(Ordering::Acquire);
            if ids.next.load(Ordering::Acquire) < mark {
                continue;
            }
            let raised = mark + BLOCK;
            let row = ValueRow { name: ids.name.to_owned(), value: raised.to_le_bytes().to_vec() };
            let batch = super::Batch { changes: vec![Change::Put(Row::Value(row))], ..super::Batch::default() };
            self.apply_batch(OwnerId(0), batch).await?;
            self.log.commit().await?;
            ids.mark.store(raised, Ordering::Release);
        }
    }
}

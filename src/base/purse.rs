//! What one client may make a server hold in memory, of what all of them may.
//!
//! What lives here: [`Purse`]. Invariant: bytes are bounded for each purse and in all; who is slow to send or to take uses up its own purse only.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The unit of the bounds, in bytes.
const UNIT_BYTES: usize = 1024;

/// One client's part of what all may hold. Its clones are the same part.
#[derive(Clone, Debug)]
pub struct Purse {
    own: Arc<Semaphore>,
    all: Arc<Semaphore>,
    bytes_max: usize,
}

/// Bytes that are held, until dropped.
#[derive(Debug)]
pub struct Held {
    _own: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
}

/// What all purses of a server hold together, in bytes; for [`Purse::new`].
pub fn all(bytes_max: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(bytes_max / UNIT_BYTES))
}

impl Purse {
    /// A purse of so many bytes of `all`.
    pub fn new(all: &Arc<Semaphore>, bytes_max: usize) -> Self {
        Self { own: self::all(bytes_max), all: all.clone(), bytes_max }
    }

    /// What wants more than the whole purse is given the whole.
    fn units(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.min(self.bytes_max).div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX)
    }

    /// Holds bytes where that is possible now.
    pub fn try_hold(&self, bytes: usize) -> Option<Held> {
        let units = self.units(bytes);
        let own = self.own.clone().try_acquire_many_owned(units).ok()?;
        let all = self.all.clone().try_acquire_many_owned(units).ok()?;
        Some(Held { _own: own, _all: all })
    }

    /// Waits until so many bytes may be held.
    pub async fn hold(self, bytes: usize) -> Option<Held> {
        let units = self.units(bytes);
        let own = self.own.acquire_many_owned(units).await.ok()?;
        let all = self.all.acquire_many_owned(units).await.ok()?;
        Some(Held { _own: own, _all: all })
    }
}

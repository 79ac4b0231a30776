//! Reading one record, wherever it is by now.
//!
//! Invariants: what is not flushed is in memory, and is read from there where a failed flush took it from the file; a body that was just put into the
//! read head is in memory for a moment too. The place that a caller knows stays good for the life of the process ([`Log::resolve`]).

use std::ops::Range;

use bytes::Bytes;

use super::{Location, Log, LogError};

impl Log {
    /// Fills `buf` with the body of the `Data` record at `location` from `skip_bytes` on, verifying only the checksum
    /// units that it touches.
    ///
    /// # Errors
    /// `Corrupt`, `Disk`.
    pub fn read(&self, location: Location, skip_bytes: u32, buf: &mut [u8]) -> Result<(), LogError> {
        let location = self.resolve(location);
        let error = match self.shared.segment(location)?.read(location.offset_bytes, skip_bytes, buf, Some(&self.shared.heads)) {
            Err(error @ (LogError::Corrupt { .. } | LogError::Disk(_))) => error,
            done => return done,
        };
        let inner = self.shared.inner.lock();
        let location = self.resolve(location);
        if inner.read_unflushed(location, skip_bytes as usize, buf) { Ok(()) } else { Err(error) }
    }

    /// A part of the body of a record that [`Self::append_fetched`] took just now, while memory still has it.
    pub fn fetched(&self, location: Location, range: Range<usize>) -> Option<Bytes> {
        self.shared.fetched.read(location, range)
    }

    /// Where the record at `location` is now: elsewhere if a flush of its segment failed (invariant 3). Reads do this by themselves.
    /// A checkpoint must write down what this says, since the old place does not outlive the process.
    pub fn resolve(&self, location: Location) -> Location {
        self.shared.redirects.resolve(location)
    }
}

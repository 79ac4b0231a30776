//! Large buffers that are used again: for the bytes on their way between clients, the log and S3.
//!
//! An allocator hands memory of this size back to the system when it is freed, and then each new buffer is faulted in page by page: where machines are
//! virtual that costs more than what is done with the bytes (measured: a fifth of the processor time of a read through an empty cache).
//!
//! Invariants: what a buffer held before is seen through [`Buffer::stale`] alone, whose caller overwrites all of it; at most [`IDLE_BYTES_MAX`] wait for their next use.

use std::ops::{Deref, DerefMut};

use bytes::Bytes;
use parking_lot::Mutex;

/// Smaller buffers are the allocator's business.
const BYTES_MIN: usize = 128 << 10;
/// So are larger ones.
const BYTES_MAX: usize = 4 << 20;
/// What may wait, of all sizes, in bytes.
const IDLE_BYTES_MAX: usize = 32 << 20;

static IDLE: Mutex<Idle> = Mutex::new(Idle { buffers: Vec::new(), bytes: 0 });

struct Idle {
    /// Each with a power of two as its capacity, and with what it held.
    buffers: Vec<Vec<u8>>,
    bytes: usize,
}

/// A vector of bytes that is used again when it is dropped.
#[derive(Debug, Default)]
pub struct Buffer(Vec<u8>);

impl Buffer {
    /// An empty one that takes so many bytes without growing.
    pub fn with_capacity(bytes: usize) -> Self {
        let mut buffer = Self::used(bytes);
        buffer.clear();
        buffer
    }

    /// So many bytes of any value, for a caller that overwrites all of them before anybody else sees one.
    pub fn stale(bytes: usize) -> Self {
        let mut buffer = Self::used(bytes);
        buffer.resize(bytes, 0);
        buffer
    }

    /// As it was left.
    fn used(bytes: usize) -> Self {
        if !(BYTES_MIN..=BYTES_MAX).contains(&bytes) {
            return Self(Vec::with_capacity(bytes));
        }
        let capacity = bytes.next_power_of_two();
        let mut idle = IDLE.lock();
        // What was used last is the warmest.
        if let Some(at) = idle.buffers.iter().rposition(|buffer| buffer.capacity() == capacity) {
            idle.bytes -= capacity;
            return Self(idle.buffers.remove(at));
        }
        drop(idle);
        Self(Vec::with_capacity(capacity))
    }

    /// So many zeros.
    pub fn zeroed(bytes: usize) -> Self {
        if bytes < BYTES_MIN {
            return Self(vec![0; bytes]);
        }
        let mut buffer = Self::with_capacity(bytes);
        buffer.resize(bytes, 0);
        buffer
    }

    /// A copy.
    pub fn copied(bytes: &[u8]) -> Self {
        let mut buffer = Self::with_capacity(bytes.len());
        buffer.extend_from_slice(bytes);
        buffer
    }

    /// Its bytes, shared; the buffer is used again when the last of them is dropped.
    pub fn freeze(mut self) -> Bytes {
        if is_kept(self.0.capacity()) { Bytes::from_owner(self) } else { std::mem::take(&mut self.0).into() }
    }
}

impl Deref for Buffer {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.0
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let capacity = self.0.capacity();
        if !is_kept(capacity) {
            return;
        }
        let buffer = std::mem::take(&mut self.0);
        let mut idle = IDLE.lock();
        if idle.bytes + capacity <= IDLE_BYTES_MAX {
            idle.bytes += capacity;
            idle.buffers.push(buffer);
        }
    }
}

fn is_kept(capacity: usize) -> bool {
    (BYTES_MIN..=BYTES_MAX).contains(&capacity) && capacity.is_power_of_two()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_used_again_and_tell_nothing() {
        let bytes = Buffer::copied(&[7; 200_000]).freeze();
        let (part, at) = (bytes.slice(100..200), bytes.as_ptr());
        drop(bytes);
        assert_eq!(part, [7; 100][..], "it is not used again while somebody has a part of it");
        drop(part);
        assert!(IDLE.lock().buffers.iter().any(|buffer| buffer.as_ptr() == at), "then it waits for its next use");
        let all: Vec<Buffer> = (0..300).map(|_| Buffer::zeroed(200_000)).collect();
        assert!(all.iter().all(|buffer| buffer.iter().all(|byte| *byte == 0)));
        drop(all);
        assert!(IDLE.lock().bytes <= IDLE_BYTES_MAX);
        assert!(Buffer::with_capacity(200_000).is_empty());
        drop(Buffer::copied(&[9; 200_000]));
        assert_eq!((Buffer::stale(250_000).len(), Buffer::stale(150_000).len(), Buffer::stale(10).len()), (250_000, 150_000, 10));
        assert!(Buffer::zeroed(250_000).iter().all(|byte| *byte == 0));
        assert_eq!((Buffer::zeroed(10).capacity(), Buffer::zeroed(5 << 20).len()), (10, 5 << 20));
    }
}

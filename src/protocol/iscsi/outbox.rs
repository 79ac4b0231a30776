//! Units on their way out of one connection, in order.
//!
//! Invariants: headers are gathered in one buffer, payloads are written from where they are (`writev`); what a unit holds of the budget is
//! given back when it was written, or the connection is over.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use bytes::{Buf, Bytes, BytesMut};
use tokio::net::TcpStream;

use super::inbox::{Digests, digest};
use super::pdu::Header;
use crate::base::purse::Held;

/// Slices of one `writev`.
const SLICES_MAX: usize = 64;
/// Data up to this is gathered with the headers, in bytes.
const SMALL_BYTES: usize = 512;

#[derive(Debug)]
struct Chunk {
    bytes: Bytes,
    _held: Option<Held>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    chunks: VecDeque<Chunk>,
    /// After `chunks`: headers and small data.
    tail: BytesMut,
    bytes: usize,
    digests: Digests,
}

impl Outbox {
    pub(super) fn new(digests: Digests) -> Self {
        Self { digests, ..Self::default() }
    }

    /// Adds a unit. Its data is in pieces; `held` is given back when it is written.
    pub(super) fn push(&mut self, mut header: Header, data: Vec<Bytes>, held: Option<Held>) {
        let data_bytes: usize = data.iter().map(Bytes::len).sum();
        header.set_data_bytes(data_bytes);
        self.add(&header.0);
        if self.digests.header {
            self.add(&digest(&[&header.0]));
        }
        let padding = [0; 3];
        let padding = &padding[..data_bytes.next_multiple_of(4) - data_bytes];
        let checksum = (self.digests.data && data_bytes > 0).then(|| {
            let mut parts: Vec<&[u8]> = data.iter().map(|piece| &piece[..]).collect();
            parts.push(padding);
            digest(&parts)
        });
        for piece in data {
            if piece.len() <= SMALL_BYTES {
                self.add(&piece);
            } else {
                self.seal();
                self.bytes += piece.len();
                self.chunks.push_back(Chunk { bytes: piece, _held: None });
            }
        }
        self.add(padding);
        if let Some(checksum) = checksum {
            self.add(&checksum);
        }
        if held.is_some() {
            self.seal();
            if let Some(last) = self.chunks.back_mut() {
                last._held = held;
            }
        }
    }

    fn add(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len();
        self.tail.extend_from_slice(bytes);
    }

    fn seal(&mut self) {
        if !self.tail.is_empty() {
            self.chunks.push_back(Chunk { bytes: self.tail.split().freeze(), _held: None });
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// What waits, in bytes.
    pub(super) fn len(&self) -> usize {
        self.bytes
    }

    /// Writes what the socket takes now.
    ///
    /// # Errors
    /// `WouldBlock`, and what ends the connection.
    pub(super) fn write(&mut self, socket: &TcpStream) -> io::Result<()> {
        while !self.is_empty() {
            self.seal();
            let slices: Vec<IoSlice<'_>> = self.chunks.iter().take(SLICES_MAX).map(|chunk| IoSlice::new(&chunk.bytes)).collect();
            match socket.try_write_vectored(&slices)? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                written => self.advance(written),
            }
        }
        Ok(())
    }

    fn advance(&mut self, mut written: usize) {
        self.bytes -= written;
        while let Some(first) = self.chunks.front_mut() {
            if first.bytes.len() > written {
                first.bytes.advance(written);
                return;
            }
            written -= first.bytes.len();
            self.chunks.pop_front();
        }
    }

    #[cfg(test)]
    pub(super) fn take_all(&mut self) -> Vec<u8> {
        self.seal();
        self.bytes = 0;
        self.chunks.drain(..).flat_map(|chunk| chunk.bytes).collect()
    }
}

//! Replies on their way out of one connection: many finish, one task writes, in the order in which they were finished.
//!
//! Invariants: small replies are gathered in one buffer, payloads are written from where they are (`writev`); what a reply holds of the
//! budget is given back when it was written, or the connection is over; a client that does not read is cut off after [`STALL_MAX`].

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::time::Duration;

use bytes::{Buf, Bytes};
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::base::purse::Held;

/// How long a client may take no byte of what waits for it.
const STALL_MAX: Duration = Duration::from_secs(60);
/// Slices of one `writev`.
const SLICES_MAX: usize = 64;
/// Replies that may wait before no more calls are taken from the connection, in bytes.
const WAITING_BYTES_MAX: usize = 4 << 20;
/// A head up to this is gathered with its neighbours, in bytes.
const SMALL_BYTES: usize = 4096;

struct Chunk {
    bytes: Bytes,
    _held: Option<Held>,
}

#[derive(Default)]
struct Waiting {
    chunks: VecDeque<Chunk>,
    /// After `chunks`: small replies.
    tail: Vec<u8>,
    bytes: usize,
    /// Nothing more will be written.
    is_over: bool,
    /// Nothing more will come.
    is_complete: bool,
}

impl Waiting {
    fn seal_tail(&mut self) {
        if !self.tail.is_empty() {
            let bytes = std::mem::take(&mut self.tail).into();
            self.chunks.push_back(Chunk { bytes, _held: None });
        }
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct Outbox {
    waiting: Mutex<Waiting>,
    /// There is something to write.
    filled: Notify,
    /// There is room again.
    emptied: Notify,
}

impl Outbox {
    /// Adds a record; [`Self::flush`] sees to its going out.
    pub(super) fn push(&self, (head, payload): (Vec<u8>, Vec<Bytes>), held: Option<Held>) {
        let mut waiting = self.waiting.lock();
        if waiting.is_over {
            return;
        }
        waiting.bytes += head.len() + payload.iter().map(Bytes::len).sum::<usize>();
        if payload.is_empty() && head.len() <= SMALL_BYTES {
            waiting.tail.extend_from_slice(&head);
            return;
        }
        waiting.seal_tail();
        waiting.chunks.push_back(Chunk { bytes: head.into(), _held: None });
        waiting.chunks.extend(payload.into_iter().map(|bytes| Chunk { bytes, _held: None }));
        if let Some(last) = waiting.chunks.back_mut() {
            last._held = held;
        }
    }

    pub(super) fn flush(&self) {
        self.filled.notify_one();
    }

    /// What was added is all: the writer ends when it is written.
    pub(super) fn complete(&self) {
        self.waiting.lock().is_complete = true;
        self.filled.notify_one();
    }

    /// Waits until a reader may take another call.
    pub(super) async fn room(&self) {
        loop {
            let mut emptied = std::pin::pin!(self.emptied.notified());
            emptied.as_mut().enable();
            {
                let waiting = self.waiting.lock();
                if waiting.is_over || waiting.bytes < WAITING_BYTES_MAX {
                    return;
                }
            }
            self.flush();
            emptied.await;
        }
    }

    /// Writes until all is written and no more will come, or the client is gone.
    ///
    /// # Errors
    /// What the socket says; `TimedOut` where the client does not read.
    pub(super) async fn run(&self, socket: &TcpStream) -> io::Result<()> {
        let result = self.write_all(socket).await;
        let mut waiting = self.waiting.lock();
        waiting.is_over = true;
        waiting.chunks.clear();
        waiting.tail = Vec::new();
        drop(waiting);
        self.emptied.notify_waiters();
        result
    }

    async fn write_all(&self, socket: &TcpStream) -> io::Result<()> {
        let mut writing: VecDeque<Chunk> = VecDeque::new();
        loop {
            let is_complete = {
                let mut waiting = self.waiting.lock();
                waiting.seal_tail();
                std::mem::swap(&mut writing, &mut waiting.chunks);
                waiting.is_complete
            };
            if writing.is_empty() {
                if is_complete {
                    return Ok(());
                }
                self.filled.notified().await;
                continue;
            }
            while !writing.is_empty() {
                let written = write_some(socket, &writing).await?;
                advance(&mut writing, written);
                self.waiting.lock().bytes -= written;
                self.emptied.notify_waiters();
            }
        }
    }
}

async fn write_some(socket: &TcpStream, chunks: &VecDeque<Chunk>) -> io::Result<usize> {
    let slices: Vec<IoSlice<'_>> = chunks.iter().take(SLICES_MAX).map(|chunk| IoSlice::new(&chunk.bytes)).collect();
    loop {
        match socket.try_write_vectored(&slices) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            other => return other,
        }
        tokio::time::timeout(STALL_MAX, socket.writable()).await.map_err(|_| io::ErrorKind::TimedOut)??;
    }
}

fn advance(chunks: &mut VecDeque<Chunk>, mut written: usize) {
    while let Some(first) = chunks.front_mut() {
        if first.bytes.len() > written {
            first.bytes.advance(written);
            return;
        }
        written -= first.bytes.len();
        chunks.pop_front();
    }
}

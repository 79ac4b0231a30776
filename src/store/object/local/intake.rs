//! A body on its way in: counted, digested and written as it comes, in bounded memory.
//!
//! Small bodies stay in memory and go into the index; others go to a new file, one block being written and digested on a
//! thread while the next arrives. Nothing names the file until the change that takes the [`Content`] is committed.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{Bytes, BytesMut};
use tokio::task::JoinHandle;

use super::digest::{Algorithm, Checksums, Digester};
use super::extent::Extents;
use super::files::{Files, Fresh, blocking};
use super::index::Held;
use super::{BODY_BYTES_MAX, INLINE_BYTES_MAX, Local, LocalError};

/// Bytes that are collected before they are handed to a thread.
const BLOCK_BYTES: usize = 1 << 20;

/// What the sender says of the body.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    /// Its length in bytes.
    pub len_bytes: Option<u64>,
    /// `Content-MD5`, in base64.
    pub md5: Option<String>,
    /// Additional checksums, in base64.
    pub checksums: Vec<(Algorithm, String)>,
}

/// A body that is being received.
pub struct Intake {
    files: Arc<Files>,
    inline: bool,
    size_bytes: u64,
    block: Vec<Bytes>,
    block_bytes: usize,
    work: Work,
}

enum Work {
    Idle(Sink),
    Busy(JoinHandle<Result<Sink, LocalError>>),
    Failed,
}

struct Sink {
    digester: Digester,
    file: Option<Fresh>,
}

/// A body that was received whole and checked, and that nothing names yet.
pub struct Content {
    pub(super) size_bytes: u64,
    pub(super) md5: String,
    pub(super) checksums: Checksums,
    pub(super) held: Held,
    pub(super) fresh: Option<Fresh>,
}

impl Content {
    /// The body's additional checksums.
    pub fn checksums(&self) -> &Checksums {
        &self.checksums
    }
}

impl Local {
    /// Begins to receive an object's body, of which `algorithms` are to be computed.
    pub fn intake(&self, algorithms: &[Algorithm]) -> Intake {
        self.intake_of(algorithms, true)
    }

    /// Begins to receive a part's body.
    pub fn intake_part(&self, algorithms: &[Algorithm]) -> Intake {
        self.intake_of(algorithms, false)
    }

    fn intake_of(&self, algorithms: &[Algorithm], inline: bool) -> Intake {
        let sink = Sink { digester: Digester::new(algorithms), file: None };
        let files = self.files.clone();
        Intake { files, inline, size_bytes: 0, block: Vec::new(), block_bytes: 0, work: Work::Idle(sink) }
    }
}

impl Intake {
    /// Takes the next bytes; waits while the disk is behind.
    ///
    /// # Errors
    /// `EntityTooLarge`, or the disk's.
    pub async fn push(&mut self, bytes: Bytes) -> Result<(), LocalError> {
        self.size_bytes += bytes.len() as u64;
        if self.size_bytes > BODY_BYTES_MAX {
            return Err(LocalError::EntityTooLarge);
        }
        self.block_bytes += bytes.len();
        self.block.push(bytes);
        if self.block_bytes >= BLOCK_BYTES {
            self.flush(false).await?;
        }
        Ok(())
    }

    async fn sink(&mut self) -> Result<Sink, LocalError> {
        match std::mem::replace(&mut self.work, Work::Failed) {
            Work::Idle(sink) => Ok(sink),
            Work::Busy(work) => work.await.map_err(|error| LocalError::Disk(error.to_string()))?,
            Work::Failed => Err(LocalError::Disk("an earlier write failed".into())),
        }
    }

    async fn flush(&mut self, last: bool) -> Result<(), LocalError> {
        let mut sink = self.sink().await?;
        if sink.file.is_none() {
            sink.file = Some(self.files.create().await?);
        }
        let block = std::mem::take(&mut self.block);
        self.block_bytes = 0;
        self.work = Work::Busy(tokio::spawn(blocking(move || {
            block.iter().for_each(|bytes| sink.digester.update(bytes));
            if let Some(file) = &mut sink.file {
                file.append(&block)?;
                if last {
                    file.sync()?;
                }
            }
            Ok(sink)
        })));
        Ok(())
    }

    /// Ends the body, checks it, and makes its bytes durable.
    ///
    /// # Errors
    /// `IncompleteBody`, `BadDigest`, or the disk's.
    pub async fn finish(mut self, expected: &Expected) -> Result<Content, LocalError> {
        if expected.len_bytes.is_some_and(|len| len != self.size_bytes) {
            return Err(LocalError::IncompleteBody);
        }
        let small = self.inline && self.size_bytes <= INLINE_BYTES_MAX as u64;
        if !small && self.size_bytes > 0 {
            self.flush(true).await?;
        }
        let mut sink = self.sink().await?;
        self.block.iter().for_each(|bytes| sink.digester.update(bytes));
        let (md5, checksums) = sink.digester.finish();
        check(expected, &md5, &checksums)?;
        let held = match &sink.file {
            Some(file) => Held::Files(Extents::whole(file.id(), self.size_bytes)),
            None if small => Held::Inline(concat(self.block)),
            None => Held::Files(Extents::default()),
        };
        Ok(Content { size_bytes: self.size_bytes, md5: hex::encode(md5), checksums, held, fresh: sink.file })
    }
}

fn concat(pieces: Vec<Bytes>) -> Bytes {
    // Always a copy: a slice would keep the whole buffer that it was received in.
    let mut all = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
    pieces.iter().for_each(|piece| all.extend_from_slice(piece));
    all.freeze()
}

fn check(expected: &Expected, md5: &[u8; 16], checksums: &Checksums) -> Result<(), LocalError> {
    if expected.md5.as_ref().is_some_and(|want| *want != BASE64.encode(md5)) {
        return Err(LocalError::BadDigest("Content-MD5"));
    }
    for (algorithm, want) in &expected.checksums {
        if checksums.get(*algorithm) != Some(want) {
            return Err(LocalError::BadDigest(algorithm.name()));
        }
    }
    Ok(())
}

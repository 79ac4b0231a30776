//! Finding and fetching bytes by the map.
//!
//! Invariant: what is handed out was verified, frame by frame. A request reads frames that lie near each other in a segment, and each frame once.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::load::gone;
use super::{PagePlace, REQUESTS_MAX, Remote, damaged, overlaid};
use crate::base::buffers::Buffer;
use crate::base::id::BlobId;
use crate::engine::volume::map::{PAGE_SPAN_BYTES, Page, Piece, page_of};
use crate::engine::volume::names::ObjectName;
use crate::engine::volume::segment::{FRAME_BYTES_MAX, Frame};
use crate::store::blob::{FetchError, Layout};
use crate::store::object::ObjectError;

/// Stored bytes in between that are read rather than asked for twice, in bytes.
const GAP_BYTES_MAX: u64 = 64 << 10;
/// The longest request, in bytes.
const REQUEST_BYTES_MAX: u64 = 4 << 20;

/// One request: frames of a segment, with the pieces that are wanted of each.
struct Request {
    segment: ObjectName,
    range: Range<u64>,
    frames: Vec<Wanted>,
}

/// A frame, and what is wanted of it.
type Wanted = (Frame, Vec<Range<u64>>);

impl Remote {
    /// What the state has for a range, in order; what is between reads as zeroes.
    ///
    /// # Errors
    /// What loading the map says.
    pub async fn pieces(&self, range: Range<u64>) -> Result<Vec<Piece>, FetchError> {
        loop {
            self.load().await?;
            let numbers = page_of(range.start)..range.end.div_ceil(PAGE_SPAN_BYTES).max(page_of(range.start));
            let parts = |number: u64| range.start.max(number * PAGE_SPAN_BYTES)..range.end.min((number + 1) * PAGE_SPAN_BYTES);
            let (places, over) = {
                let inner = self.inner.read();
                let Some(map) = &inner.map else { continue };
                let places: BTreeMap<u64, PagePlace> =
                    numbers.clone().filter_map(|number| Some((number, map.place(number)?))).collect();
                let over: BTreeMap<u64, Page> =
                    map.over.range(numbers.clone()).map(|(number, page)| (*number, page.part(parts(*number)))).collect();
                (places, over)
            };
            let base = self.base_pages(&places).await?;
            let none = Page::default();
            let touched = numbers.filter(|number| base.contains_key(number) || over.contains_key(number));
            let page = |number: u64| base.get(&number).map_or(&none, |page| &**page);
            return Ok(touched.flat_map(|number| overlaid(page(number), over.get(&number), parts(number))).collect());
        }
    }

    /// The bytes of a range.
    ///
    /// # Errors
    /// What S3 says; `Changed` where an object is gone.
    pub async fn read(&self, range: Range<u64>) -> Result<Bytes, FetchError> {
        loop {
            let state = self.state();
            match self.read_once(range.clone()).await {
                // What was found by the state before may be gone.
                Err(FetchError::Changed) if self.state() != state => {}
                answer => return answer,
            }
        }
    }

    async fn read_once(&self, range: Range<u64>) -> Result<Bytes, FetchError> {
        let pieces = self.pieces(range.clone()).await?;
        let mut buffer = Buffer::zeroed((range.end - range.start) as usize);
        let running: Vec<_> = requests(pieces).into_iter().map(|request| self.run(request)).collect();
        let mut answers = std::pin::pin!(stream::iter(running).buffer_unordered(REQUESTS_MAX));
        while let Some(parts) = answers.try_next().await? {
            for (part, bytes) in parts {
                buffer[(part.start - range.start) as usize..(part.end - range.start) as usize].copy_from_slice(&bytes);
            }
        }
        Ok(buffer.freeze())
    }

    async fn run(&self, request: Request) -> Result<Vec<(Range<u64>, Bytes)>, FetchError> {
        let key = self.names.segment(request.segment);
        let (_, bytes) = self.bucket.get(&key, Some(request.range.clone()), None).await.map_err(gone)?;
        if bytes.len() as u64 != request.range.end - request.range.start {
            return Err(ObjectError::Corrupt(format!("{key} is shorter than its table says")).into());
        }
        let mut parts = Vec::new();
        for (frame, wanted) in request.frames {
            let Some(stored) = &frame.stored else { continue };
            let stored = (stored.range.start - request.range.start) as usize..(stored.range.end - request.range.start) as usize;
            let opened = frame.open(&bytes.slice(stored)).map_err(|error| damaged(&key, &error))?;
            for part in wanted {
                let within = (part.start - frame.range.start) as usize..(part.end - frame.range.start) as usize;
                parts.push((part, opened.slice(within)));
            }
        }
        Ok(parts)
    }
}

/// What to ask for, so that each frame comes once and neighbours come together.
fn requests(pieces: Vec<Piece>) -> Vec<Request> {
    let mut frames: BTreeMap<(ObjectName, u64), Wanted> = BTreeMap::new();
    for piece in pieces {
        let Some(stored) = &piece.frame.stored else { continue };
        let frame = frames.entry((piece.segment, stored.range.start)).or_insert_with(|| (piece.frame.clone(), Vec::new()));
        frame.1.push(piece.range);
    }
    let mut requests: Vec<Request> = Vec::new();
    for ((segment, _), (frame, wanted)) in frames {
        let Some(range) = frame.stored.as_ref().map(|stored| stored.range.clone()) else { continue };
        match requests.last_mut() {
            Some(last)
                if last.segment == segment
                    && range.start <= last.range.end + GAP_BYTES_MAX
                    && range.end - last.range.start <= REQUEST_BYTES_MAX =>
            {
                last.range.end = last.range.end.max(range.end);
                last.frames.push((frame, wanted));
            }
            _ => requests.push(Request { segment, range, frames: vec![(frame, wanted)] }),
        }
    }
    requests
}

/// How the blob store finds a volume's bytes. Whatever `source` says, the newest state answers: what is fetched was not dirty when it was planned, so only
/// a write at the same time could make a difference, and then either answer is right.
#[async_trait]
impl Layout for Remote {
    async fn fetch(&self, _: BlobId, _source: &[u8], range: Range<u64>) -> Result<Bytes, FetchError> {
        self.read(range).await
    }

    fn block_bytes(&self) -> u64 {
        FRAME_BYTES_MAX as u64
    }

    fn is_thin(&self) -> bool {
        true
    }
}

impl Remote {
    /// Itself, as the blob store wants it.
    pub fn layout(self: &Arc<Self>) -> Arc<dyn Layout> {
        self.clone()
    }
}

//! What is being uploaded of a volume: a frozen generation cut into segments, live bytes of segments that are mostly dead, or a checkpoint of the map.
//!
//! What lives here: [`Batch`] and [`Part`], [`Fold`]. Pure but for reading: `upload.rs` says what is done with them, and when.
//!
//! Invariant: the same part is made of the same bytes however often it is made, since a generation and a map that is folded do not change.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parking_lot::Mutex;

use super::checkpoint::{Checkpoint, PagePlace};
use super::manifest::State;
use super::map::Page;
use super::named::objects_below;
use super::names::{Kind, Object, ObjectName, VolumeId};
use super::remote::{Folding, Remote};
use super::segment::{About, Builder, FRAME_BYTES_MAX, HEADER_BYTES, ROW_BYTES, Segment};
use crate::base::id::Seq;
use crate::store::blob::{BlobError, FetchError, Generation, Held};

/// Bytes of a volume that become one segment, before compression.
pub const SEGMENT_BYTES: u64 = if cfg!(test) { 256 << 10 } else { 8 << 20 };
/// Frames of a segment: its table is read in one request.
const FRAMES_MAX: u64 = 2_000;
/// What is read of a generation before others get their turn, in bytes.
const STEP_BYTES: u64 = 1 << 20;
/// Pages of the map that become one object, in bytes (at most, but for one page).
const PACK_BYTES: u64 = 8 << 20;

/// Ranges of the volume, in order, and whether each is zeroes.
type Pieces = Vec<(Range<u64>, bool)>;

/// A stretch of a batch that becomes one segment.
pub struct Part {
    /// Its segment.
    pub name: ObjectName,
    pieces: Pieces,
    /// The longest that the object can be, in bytes.
    pub bytes_max: u64,
}

/// Where a batch has its bytes from.
enum Source {
    /// New ones.
    Generation(Generation),
    /// What S3 has, in this state: they are written anew.
    Map(Arc<Remote>, State),
}

/// Segments on their way.
pub struct Batch {
    source: Source,
    /// When the generation was frozen, nanoseconds since the Unix epoch.
    at_ns: i64,
    /// The snapshot that it is.
    pub snapshot: Option<VolumeId>,
    /// Its segments, in the order in which they become part of the volume.
    pub parts: Vec<Part>,
    /// What was made of them.
    made: Mutex<BTreeMap<ObjectName, Segment>>,
}

impl Batch {
    /// Cuts what a generation changed into segments with names from `name` on.
    ///
    /// # Errors
    /// `Meta`.
    pub async fn new(
        generation: Generation,
        at_ns: i64,
        snapshot: Option<VolumeId>,
        name: ObjectName,
    ) -> Result<Self, BlobError> {
        let mut cutter = Cutter::default();
        for range in generation.changed().await? {
            for (range, held) in generation.stretches(range).await? {
                cutter.add(range, held == Held::Zeros);
            }
        }
        Ok(Self::of(Source::Generation(generation), at_ns, snapshot, cutter, name))
    }

    /// Ranges, in order, whose bytes are written anew, with names from `name` on; as of the state that the map has now, which stays as it is until then.
    pub fn relocation(remote: &Arc<Remote>, ranges: Vec<Range<u64>>, name: ObjectName) -> Self {
        let mut cutter = Cutter::default();
        ranges.into_iter().for_each(|range| cutter.add(range, false));
        let state = remote.state();
        let at_ns = state.at_ns;
        Self::of(Source::Map(remote.clone(), state), at_ns, None, cutter, name)
    }

    fn of(source: Source, at_ns: i64, snapshot: Option<VolumeId>, cutter: Cutter, mut name: ObjectName) -> Self {
        let mut parts = Vec::new();
        for (pieces, bytes_max) in cutter.finish() {
            parts.push(Part { name, pieces, bytes_max });
            name.number += 1;
        }
        Self { source, at_ns, snapshot, parts, made: Mutex::default() }
    }

    /// Whether it has nothing that is new.
    pub fn is_relocation(&self) -> bool {
        matches!(self.source, Source::Map(..))
    }

    /// The generation that it makes of the volume.
    pub fn seq(&self) -> Seq {
        match &self.source {
            Source::Generation(generation) => generation.seq,
            Source::Map(_, state) => Seq(state.generation),
        }
    }

    /// What the volume is, which was `before`, when it is published. The generation is `pad_bytes` longer than the volume.
    pub fn state(&self, before: &State, pad_bytes: u64) -> State {
        let mut state = before.clone();
        if let Source::Generation(generation) = &self.source {
            state.generation = generation.seq.0;
            state.len_bytes = generation.len_bytes - pad_bytes;
            state.at_ns = self.at_ns;
        }
        self.parts.iter().for_each(|part| state.push(part.name));
        state
    }

    /// The segments that were made.
    pub fn made(&self) -> Vec<(ObjectName, Segment)> {
        self.made.lock().iter().map(|(name, segment)| (*name, segment.clone())).collect()
    }

    async fn read(&self, range: Range<u64>) -> Result<Vec<Bytes>, BlobError> {
        match &self.source {
            Source::Generation(generation) => generation.read(range).await,
            Source::Map(remote, _) => Ok(vec![remote.read(range).await?]),
        }
    }

    /// The object of a part.
    ///
    /// # Errors
    /// As `Generation::read`; `NotFound` where there is no such part.
    pub async fn make(&self, name: ObjectName, len_bytes: u64) -> Result<Vec<Bytes>, BlobError> {
        let index = self.parts.iter().position(|part| part.name == name).ok_or(BlobError::NotFound)?;
        let mut builder = Builder::new(About {
            volume: name.volume,
            epoch: name.epoch,
            number: name.number,
            through: self.seq(),
            len_bytes,
            part: index as u32,
            parts: self.parts.len() as u32,
        });
        for (range, is_zero) in &self.parts[index].pieces {
            if *is_zero {
                builder.add_zeroes(range.clone());
                continue;
            }
            // A step ends where a frame does.
            let mut at = range.start;
            while at < range.end {
                let end = range.end.min((at / STEP_BYTES + 1) * STEP_BYTES);
                builder.add(at, &self.read(at..end).await?);
                at = end;
                tokio::task::yield_now().await;
            }
        }
        let (bytes, segment) = builder.finish();
        self.made.lock().insert(name, segment);
        Ok(bytes)
    }
}

/// Cuts ranges into parts.
#[derive(Default)]
struct Cutter {
    parts: Vec<(Pieces, u64)>,
    open: Pieces,
    bytes: u64,
    frames: u64,
}

impl Cutter {
    fn add(&mut self, range: Range<u64>, is_zero: bool) {
        let mut at = range.start;
        while at < range.end {
            if self.bytes >= SEGMENT_BYTES || self.frames >= FRAMES_MAX {
                self.close();
            }
            // Frames end at multiples of their length.
            let room = (SEGMENT_BYTES - self.bytes).min((FRAMES_MAX - self.frames) * FRAME_BYTES_MAX as u64);
            let end = if is_zero {
                range.end
            } else {
                range.end.min(at - at % FRAME_BYTES_MAX as u64 + room.next_multiple_of(FRAME_BYTES_MAX as u64))
            };
            if is_zero {
                self.frames += 1;
            } else {
                self.bytes += end - at;
                self.frames += end.div_ceil(FRAME_BYTES_MAX as u64) - at / FRAME_BYTES_MAX as u64;
            }
            self.open.push((at..end, is_zero));
            at = end;
        }
    }

    fn close(&mut self) {
        if !self.open.is_empty() {
            // What does not compress is stored as it is; what is partly zeroes may take a frame more for each change.
            let bytes_max = self.bytes + HEADER_BYTES as u64 + (self.frames + 1) * 2 * ROW_BYTES as u64;
            self.parts.push((std::mem::take(&mut self.open), bytes_max));
        }
        (self.bytes, self.frames) = (0, 0);
    }

    fn finish(mut self) -> Vec<(Pieces, u64)> {
        self.close();
        self.parts
    }
}

/// Some pages of a fold that become one object.
pub struct Pack {
    /// Its object.
    pub name: ObjectName,
    /// By number.
    pages: Vec<u64>,
    /// The longest that the object can be, in bytes.
    pub bytes_max: u64,
}

/// A checkpoint on its way.
pub struct Fold {
    folding: Folding,
    /// The objects with the pages.
    pub packs: Vec<Pack>,
    /// The checkpoint's object.
    pub name: ObjectName,
    /// The state that it is of.
    pub of: State,
    /// What was made: by page, where it is and what it reads of each segment.
    places: Mutex<BTreeMap<u64, (Option<PagePlace>, Live)>>,
    /// What comes of it all.
    checkpoint: OnceLock<Arc<Checkpoint>>,
}

/// Bytes of the volume that are read from each segment, before and now.
type Live = BTreeMap<ObjectName, (u64, u64)>;

impl Fold {
    /// Of the map as it is now, with names from `name` on.
    ///
    /// # Errors
    /// What loading the map says.
    pub async fn new(remote: &Remote, mut name: ObjectName) -> Result<Self, FetchError> {
        let folding = remote.folding().await?;
        let of = remote.state();
        let (mut packs, mut open, mut bytes) = (Vec::new(), Vec::new(), 0);
        for (number, over) in &folding.over {
            let before = folding.checkpoint.pages.get(number).map_or(0, |place| place.pieces as usize);
            // Each piece that lies over others can cut one of them in two.
            let page_bytes = Page::encoded_bytes_max(before + 2 * over.len());
            if bytes > 0 && bytes + page_bytes > PACK_BYTES {
                packs.push((std::mem::take(&mut open), std::mem::take(&mut bytes)));
            }
            open.push(*number);
            bytes += page_bytes;
        }
        packs.push((open, bytes));
        let packs = packs
            .into_iter()
            .filter(|(pages, _)| !pages.is_empty())
            .map(|(pages, bytes_max)| {
                let pack = Pack { name, pages, bytes_max };
                name.number += 1;
                pack
            })
            .collect();
        Ok(Self { folding, packs, name, of, places: Mutex::default(), checkpoint: OnceLock::new() })
    }

    /// The object of a pack of pages.
    ///
    /// # Errors
    /// What loading pages says; `NotFound` where there is no such pack.
    pub async fn make_pack(&self, remote: &Remote, name: ObjectName) -> Result<Vec<u8>, BlobError> {
        let pack = self.packs.iter().find(|pack| pack.name == name).ok_or(BlobError::NotFound)?;
        let mut bytes = Vec::new();
        for number in &pack.pages {
            let base = match self.folding.checkpoint.pages.get(number) {
                Some(place) => remote.page(*number, *place).await?,
                None => Arc::default(),
            };
            let mut page = Page::clone(&base);
            if let Some(over) = self.folding.over.get(number) {
                page.merge(over);
            }
            let mut live = Live::new();
            for (segment, bytes) in base.live_bytes() {
                live.entry(segment).or_default().0 = bytes;
            }
            for (segment, bytes) in page.live_bytes() {
                live.entry(segment).or_default().1 = bytes;
            }
            let encoded = if page.is_empty() { Vec::new() } else { page.encode(*number) };
            let place = PagePlace {
                object: name,
                at_bytes: bytes.len() as u64,
                len_bytes: encoded.len() as u32,
                pieces: page.len() as u32,
            };
            bytes.extend_from_slice(&encoded);
            self.places.lock().insert(*number, (Some(place).filter(|_| !page.is_empty()), live));
            tokio::task::yield_now().await;
        }
        Ok(bytes)
    }

    /// The checkpoint that comes of it. Asked for when all packs were made.
    pub fn checkpoint(&self, volume: VolumeId) -> Arc<Checkpoint> {
        self.checkpoint.get_or_init(|| Arc::new(self.make_checkpoint(volume))).clone()
    }

    fn make_checkpoint(&self, volume: VolumeId) -> Checkpoint {
        let mut checkpoint = Checkpoint { volume, generation: self.of.generation, ..(*self.folding.checkpoint).clone() };
        checkpoint.segments.extend(self.folding.since.iter().map(|(name, usage)| (*name, *usage)));
        for (number, (place, live)) in &*self.places.lock() {
            match place {
                Some(place) => checkpoint.pages.insert(*number, *place),
                None => checkpoint.pages.remove(number),
            };
            for (segment, (before, now)) in live {
                if let Some(usage) = checkpoint.segments.get_mut(segment) {
                    usage.live_bytes = (usage.live_bytes + now).saturating_sub(*before);
                }
            }
        }
        checkpoint.segments.retain(|_, usage| usage.live_bytes > 0);
        checkpoint
    }

    /// How long the checkpoint can be, in bytes.
    pub fn checkpoint_bytes_max(&self) -> u64 {
        let pages = self.folding.checkpoint.pages.len() + self.folding.over.len();
        let segments = self.folding.checkpoint.segments.len() + self.folding.since.len();
        Checkpoint::encoded_bytes(pages, segments)
    }

    /// What the volume is when the checkpoint is in force.
    pub fn state(&self) -> State {
        State { checkpoint: Some(self.name), since: Vec::new(), ..self.of.clone() }
    }

    /// What the state before it named, and this one does not.
    pub fn dropped(&self, now: &Checkpoint) -> Vec<Object> {
        let since = self.folding.since.keys().map(|name| (Kind::Segments, *name));
        let before = objects_below(&self.folding.checkpoint).chain(since);
        let before: BTreeSet<Object> = before.chain(self.of.checkpoint.map(|name| (Kind::Checkpoints, name))).collect();
        before.difference(&objects_below(now).collect()).copied().collect()
    }
}

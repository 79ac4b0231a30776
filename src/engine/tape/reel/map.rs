//! Where the objects of a reel are: its indexes, and what is behind the last of them.
//!
//! Invariants: the groups are adjacent and only the last may list fewer than [`INDEX_ENTRIES_MAX`] objects; between two groups is exactly the
//! frame of the first one's index.

use super::frame::{FRAME_BYTES, Frame, FrameKind};
use super::index::{INDEX_ENTRIES_MAX, Index};
use super::{Damage, HEADER_BYTES, Header, Mark};

/// Where an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spot {
    /// The place of its frame in the reel, in bytes.
    pub place: u64,
    /// Bytes of the frame.
    pub len_bytes: u64,
    /// Whether it is a filemark.
    pub is_filemark: bool,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReelMap {
    /// Full ones, each followed by its index in the reel, and the open one.
    groups: Vec<Index>,
}

impl Default for ReelMap {
    fn default() -> Self {
        Self { groups: vec![Index::new(0, 0, HEADER_BYTES as u64, 0)] }
    }
}

/// Bytes of the frame of a full index.
fn index_frame_bytes(index: &Index) -> u64 {
    (FRAME_BYTES + 32 + 4 * index.len()) as u64
}

impl ReelMap {
    fn open(&self) -> &Index {
        // There is always one.
        &self.groups[self.groups.len() - 1]
    }

    /// Objects on the reel.
    pub fn objects(&self) -> u64 {
        self.open().first + self.open().len() as u64
    }

    /// Filemarks on the reel.
    pub fn filemarks(&self) -> u64 {
        self.open().filemarks + self.open().filemarks_among(self.open().len())
    }

    /// Bytes of the reel: where the next frame goes.
    pub fn end(&self) -> u64 {
        self.open().place + self.open().bytes_of(self.open().len())
    }

    /// Bytes of the frames of objects: without the header and the indexes.
    pub fn used_bytes(&self) -> u64 {
        let full = &self.groups[..self.groups.len() - 1];
        self.end() - HEADER_BYTES as u64 - full.iter().map(index_frame_bytes).sum::<u64>()
    }

    /// The place of the last index; 0: there is none.
    pub fn index_place(&self) -> u64 {
        self.open().previous
    }

    fn group_of(&self, number: u64) -> &Index {
        let after = self.groups.partition_point(|group| group.first <= number);
        &self.groups[after.saturating_sub(1)]
    }

    /// Where an object is; `None` behind the end.
    pub fn find(&self, number: u64) -> Option<Spot> {
        let group = self.group_of(number);
        let at = usize::try_from(number.checked_sub(group.first)?).ok()?;
        let (is_filemark, len_bytes) = group.get(at)?;
        Some(Spot { place: group.place + group.bytes_of(at), len_bytes, is_filemark })
    }

    /// Filemarks before an object, or before the end.
    pub fn filemarks_before(&self, number: u64) -> u64 {
        let group = self.group_of(number);
        let at = usize::try_from(number.saturating_sub(group.first)).unwrap_or(usize::MAX);
        group.filemarks + group.filemarks_among(at)
    }

    /// The number of a filemark, which are counted from 0.
    pub fn filemark(&self, filemark: u64) -> Option<u64> {
        let after = self.groups.partition_point(|group| group.filemarks <= filemark);
        let group = &self.groups[after.saturating_sub(1)];
        group.filemark(filemark - group.filemarks).map(|at| group.first + at as u64)
    }

    /// An object was added at the end. The index that has to follow it, where one has to: its frame goes to [`Self::end`], and then
    /// [`Self::indexed`] is called.
    pub fn push(&mut self, is_filemark: bool, frame_bytes: u64) -> Option<&Index> {
        let last = self.groups.len() - 1;
        let open = &mut self.groups[last];
        open.push(is_filemark, frame_bytes);
        (open.len() >= INDEX_ENTRIES_MAX).then_some(&*open)
    }

    /// The frame of the open group's index was added.
    pub fn indexed(&mut self) {
        let (objects, filemarks, place) = (self.objects(), self.filemarks(), self.end());
        let next = place + index_frame_bytes(self.open());
        self.groups.push(Index::new(objects, filemarks, next, place));
    }

    /// The reel was cut before an object: where it ends now.
    pub fn cut(&mut self, number: u64) -> u64 {
        while self.groups.len() > 1 && self.open().first > number {
            self.groups.pop();
        }
        let last = self.groups.len() - 1;
        let open = &mut self.groups[last];
        open.truncate(usize::try_from(number.saturating_sub(open.first)).unwrap_or(usize::MAX));
        self.end()
    }

    /// What a mark says of it.
    pub fn mark(&self, id: [u8; 16], life: u64) -> Mark {
        Mark {
            id,
            life,
            objects: self.objects(),
            filemarks: self.filemarks(),
            len_bytes: self.end(),
            index_place: self.index_place(),
        }
    }

    /// Reads a whole reel by walking: its header, where its objects are, and the last frame's life. It ends where something is wrong, which is
    /// told, too.
    ///
    /// # Errors
    /// Where the header is wrong.
    pub fn walk(reel: &[u8]) -> Result<(Header, Self, u64, Option<Damage>), Damage> {
        let header = Header::parse(reel)?;
        let (mut map, mut life) = (Self::default(), 0);
        loop {
            let rest = usize::try_from(map.end()).ok().and_then(|end| reel.get(end..)).unwrap_or_default();
            if rest.is_empty() {
                return Ok((header, map, life, None));
            }
            if let Err(damage) = map.step(rest, &header.id, &mut life) {
                return Ok((header, map, life, Some(damage)));
            }
        }
    }

    /// Takes the frame that comes next.
    fn step(&mut self, rest: &[u8], id: &[u8; 16], life: &mut u64) -> Result<(), Damage> {
        let frame = Frame::parse(rest, id)?;
        let payload = frame.payload(rest)?;
        if frame.number != self.objects() || frame.life < *life {
            return Err(Damage::Order);
        }
        match frame.kind {
            FrameKind::Index if Index::parse(payload)? == *self.open() && self.open().len() == INDEX_ENTRIES_MAX => {
                self.indexed()
            }
            FrameKind::Index => return Err(Damage::Order),
            _ if self.open().len() == INDEX_ENTRIES_MAX => return Err(Damage::Order),
            kind => {
                self.push(kind == FrameKind::Filemark, frame.len_bytes());
            }
        }
        *life = frame.life;
        Ok(())
    }
}

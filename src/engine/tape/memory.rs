//! A reel in memory, for tests of drives and for their benchmarks: the bytes of [`reel`](super::reel), and what a power loss leaves of them.
//!
//! Invariants: the bytes are a reel at any time, and the map is what a walk over them finds; what was synced and is cut off later is kept until
//! the next sync, since a power loss may bring it back.

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use super::reel::{FRAME_BYTES, Frame, FrameKind, Header, ReelMap};
use super::{Chip, Extent, Medium, MediumError, Object, Properties};

/// See the module.
pub struct MemoryReel {
    header: Header,
    state: Mutex<State>,
}

struct State {
    bytes: Vec<u8>,
    map: ReelMap,
    life: u64,
    is_protected: bool,
    chip: Chip,
    /// Bytes that are synced.
    synced_bytes: u64,
    /// Objects that are.
    synced_objects: u64,
    /// What was synced behind that, and cut off since.
    cut: Vec<u8>,
    /// What the next call fails with.
    fault: Option<MediumError>,
}

impl MemoryReel {
    /// An empty reel.
    pub fn new(id: [u8; 16], capacity_bytes: u64, is_worm: bool) -> Self {
        let header = Header { id, is_worm, capacity_bytes };
        let bytes = header.to_bytes().to_vec();
        let state = State {
            synced_bytes: bytes.len() as u64,
            bytes,
            map: ReelMap::default(),
            life: 0,
            is_protected: false,
            chip: Chip::default(),
            synced_objects: 0,
            cut: Vec::new(),
            fault: None,
        };
        Self { header, state: Mutex::new(state) }
    }

    /// Takes no more changes from now on, or takes them again.
    pub fn set_protected(&self, on: bool) {
        self.state.lock().is_protected = on;
    }

    /// The next call that reads or changes something fails so.
    pub fn fail_next(&self, error: MediumError) {
        self.state.lock().fault = Some(error);
    }

    /// The reel, as bytes.
    pub fn bytes(&self) -> Vec<u8> {
        self.state.lock().bytes.clone()
    }

    /// The power goes, and comes back. Of what was cut since the last sync everything is there again (`is_back`), or nothing.
    ///
    /// # Panics
    /// Where the bytes are no reel.
    pub fn lose_power(&self, is_back: bool) {
        let mut state = self.state.lock();
        let end = state.synced_bytes as usize;
        state.bytes.truncate(end);
        let cut = std::mem::take(&mut state.cut);
        if is_back {
            state.bytes.extend(cut);
        }
        let (_, map, life, damage) = ReelMap::walk(&state.bytes).expect("a header");
        assert_eq!(damage, None, "a torn reel");
        state.synced_bytes = map.end();
        state.synced_objects = map.objects();
        // A cut that was not durable is made good by the next: its life is higher than any that is there.
        state.life = state.life.max(life) + 1;
        state.map = map;
    }
}

impl State {
    fn faulty(&mut self) -> Result<(), MediumError> {
        self.fault.take().map_or(Ok(()), Err)
    }

    fn add(&mut self, frame: Frame, id: &[u8; 16], payload: &[u8]) {
        self.bytes.extend(frame.to_bytes(id));
        self.bytes.extend(payload);
    }
}

#[async_trait]
impl Medium for MemoryReel {
    fn properties(&self) -> Properties {
        let Header { capacity_bytes, is_worm, .. } = self.header;
        Properties { capacity_bytes, is_worm, is_protected: self.state.lock().is_protected }
    }

    fn extent(&self) -> Extent {
        let state = self.state.lock();
        let (map, synced) = (&state.map, state.synced_bytes);
        Extent {
            objects: map.objects(),
            filemarks: map.filemarks(),
            used_bytes: map.used_bytes(),
            synced_objects: state.synced_objects,
            unsynced_bytes: map.end().saturating_sub(synced),
        }
    }

    async fn read(&self, number: u64) -> Result<Object, MediumError> {
        let mut state = self.state.lock();
        state.faulty()?;
        let spot = state.map.find(number).ok_or(MediumError::OutOfRange(number))?;
        let bytes = &state.bytes[spot.place as usize..(spot.place + spot.len_bytes) as usize];
        let damaged = |_| MediumError::Damaged(number);
        let frame = Frame::parse(bytes, &self.header.id).map_err(damaged)?;
        match frame.kind {
            FrameKind::Record => Ok(Object::Record(Bytes::copy_from_slice(frame.payload(bytes).map_err(damaged)?))),
            FrameKind::Filemark => Ok(Object::Filemark),
            FrameKind::Index => Err(MediumError::Damaged(number)),
        }
    }

    async fn append(&self, object: Object, _: bool) -> Result<(), MediumError> {
        let mut state = self.state.lock();
        state.faulty()?;
        let (number, life) = (state.map.objects(), state.life);
        let (frame, payload) = match &object {
            Object::Record(record) => (Frame::record(number, life, record), &record[..]),
            Object::Filemark => (Frame::filemark(number, life), &[][..]),
        };
        state.add(frame, &self.header.id, payload);
        let due = state.map.push(object == Object::Filemark, FRAME_BYTES as u64 + payload.len() as u64);
        if let Some(index) = due.map(|index| (index.to_bytes(), index.len() as u32)) {
            let (payload, count) = index;
            let frame = Frame::new(FrameKind::Index, number + 1, life, count, &payload);
            state.add(frame, &self.header.id, &payload);
            state.map.indexed();
        }
        Ok(())
    }

    async fn truncate(&self, number: u64) -> Result<(), MediumError> {
        let mut state = self.state.lock();
        state.faulty()?;
        if number > state.map.objects() {
            return Err(MediumError::OutOfRange(number));
        }
        let (end, synced) = (state.map.cut(number) as usize, state.synced_bytes as usize);
        if end < synced {
            let mut cut = state.bytes[end..synced].to_vec();
            cut.append(&mut state.cut);
            state.cut = cut;
            state.synced_bytes = end as u64;
            state.synced_objects = number;
        }
        state.bytes.truncate(end);
        state.life += 1;
        Ok(())
    }

    async fn sync(&self) -> Result<(), MediumError> {
        let mut state = self.state.lock();
        state.faulty()?;
        state.synced_bytes = state.map.end();
        state.synced_objects = state.map.objects();
        state.cut.clear();
        Ok(())
    }

    async fn filemarks_before(&self, number: u64) -> Result<u64, MediumError> {
        Ok(self.state.lock().map.filemarks_before(number))
    }

    async fn filemark(&self, filemark: u64) -> Result<Option<u64>, MediumError> {
        Ok(self.state.lock().map.filemark(filemark))
    }

    fn chip(&self) -> Chip {
        self.state.lock().chip.clone()
    }

    async fn set_chip(&self, chip: Chip) -> Result<(), MediumError> {
        self.state.lock().chip = chip;
        Ok(())
    }
}

//! Commands to units in memory through a target, as a transport gives them.

mod blocks;
mod changer;
mod fuzz;
mod sharing;
mod tape;

use std::sync::Arc;

use super::*;
use crate::engine::volume::RamDisk;

pub(super) const BLOCKS: u64 = 2048;
pub(super) const LUN0: [u8; 8] = [0; 8];

/// A target with one disk.
pub(super) struct World {
    pub(super) ram: Arc<RamDisk>,
    pub(super) lun: Arc<Lun>,
    pub(super) target: Arc<Target>,
}

impl World {
    pub(super) async fn new() -> Self {
        Self::with(Keeper::forgetful()).await
    }

    pub(super) async fn with(keeper: Keeper) -> Self {
        let ram = Arc::new(RamDisk::new(BLOCKS, 512));
        let (target, lun) = serve(Arc::new(Disk::new(ram.clone(), "DISK", "serial-1")), keeper).await;
        Self { ram, lun, target }
    }

    /// An initiator that has heard of the power-on.
    pub(super) fn initiator(&self, name: &str) -> Initiator {
        Initiator::new(&self.target, &self.lun, name)
    }
}

/// A target with one unit.
pub(super) async fn serve(unit: Arc<dyn LogicalUnit>, keeper: Keeper) -> (Arc<Target>, Arc<Lun>) {
    let lun = Lun::open(unit, keeper).await.unwrap();
    let target = Target::new("iqn.2026-01.org.example:t", "iqn.2026-01.org.example:t,t,0x0001");
    target.put(LogicalUnitNumber::new(0).unwrap(), lun.clone());
    (target, lun)
}

pub(super) struct Initiator {
    target: Arc<Target>,
    pub(super) nexus: Arc<Nexus>,
}

impl Initiator {
    /// One that has heard of the power-on.
    fn new(target: &Arc<Target>, lun: &Lun, name: &str) -> Self {
        let nexus = target.connect(&format!("iqn.{name},i,0x000000000001"));
        lun.shared.lock().attentions.take(nexus.id);
        Self { target: target.clone(), nexus }
    }

    pub(super) fn task(&self, attribute: Attribute, cdb: &[u8]) -> Task {
        self.target.begin(&self.nexus, LUN0, attribute, Cdb::new(cdb))
    }

    pub(super) async fn send(&self, cdb: &[u8], data: &[u8]) -> Completion {
        let task = self.task(Attribute::Simple, cdb);
        task.execute(Bytes::copy_from_slice(data), data.len() as u64).await.unwrap()
    }

    /// A command that has to end well: its data.
    pub(super) async fn ok(&self, cdb: &[u8], data: &[u8]) -> Vec<u8> {
        let completion = self.send(cdb, data).await;
        assert_eq!(completion.status, Status::Good, "{cdb:02x?}: {:02x?}", completion.sense);
        completion.data.concat()
    }

    /// A command that has to fail: sense key, code, qualifier.
    pub(super) async fn fails(&self, cdb: &[u8], data: &[u8]) -> (u8, u8, u8) {
        let completion = self.send(cdb, data).await;
        assert_eq!(completion.status, Status::CheckCondition, "{cdb:02x?}");
        let sense = &completion.sense;
        if sense[0] & 0x7f == 0x70 { (sense[2], sense[12], sense[13]) } else { (sense[1], sense[2], sense[3]) }
    }
}

pub(super) fn triple(condition: Condition) -> (u8, u8, u8) {
    (condition.key as u8, condition.asc, condition.ascq)
}

/// READ(10), WRITE(10) and their kin.
pub(super) fn ten(code: u8, flags: u8, lba: u32, blocks: u16) -> Vec<u8> {
    [&[code, flags][..], &lba.to_be_bytes(), &[0], &blocks.to_be_bytes(), &[0]].concat()
}

/// READ(16), WRITE(16) and their kin.
pub(super) fn sixteen(code: u8, flags: u8, lba: u64, blocks: u32) -> Vec<u8> {
    [&[code, flags][..], &lba.to_be_bytes(), &blocks.to_be_bytes(), &[0, 0]].concat()
}

pub(super) const READY: [u8; 6] = [0; 6];

#[tokio::test]
async fn units_that_do_not_exist_answer_as_the_standard_says() {
    let world = World::new().await;
    let initiator = world.initiator("a");
    let send = async |cdb: &[u8]| {
        let task = world.target.begin(&initiator.nexus, [0, 9, 0, 0, 0, 0, 0, 0], Attribute::Simple, Cdb::new(cdb));
        task.execute(Bytes::new(), 0).await.unwrap()
    };
    assert_eq!(send(&[0x12, 0, 0, 0, 96, 0]).await.data.concat()[0], 0x7f);
    assert_eq!(send(&READY).await, Completion::failed(Condition::LOGICAL_UNIT_NOT_SUPPORTED));
    let list = send(&[0xa0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]).await.data.concat();
    assert_eq!(list, [&[0, 0, 0, 8][..], &[0; 12]].concat());
    assert_eq!(send(&[0x03, 0, 0, 0, 18, 0]).await.data.concat()[12], 0x25);
}

#[tokio::test]
async fn inquiry_and_its_pages() {
    let world = World::new().await;
    let a = world.initiator("a");
    let standard = a.ok(&[0x12, 0, 0, 0, 255, 0], &[]).await;
    assert_eq!((standard.len(), &standard[8..20]), (96, &b"TIDEGATEDISK"[..]));
    assert_eq!(a.ok(&[0x12, 0, 0, 0, 5, 0], &[]).await.len(), 5);
    let pages = a.ok(&[0x12, 1, 0, 0, 255, 0], &[]).await;
    assert_eq!(pages[4..], [0, 0x80, 0x83, 0x86, 0xb0, 0xb1, 0xb2]);
    for page in &pages[4..] {
        let data = a.ok(&[0x12, 1, *page, 1, 0, 0], &[]).await;
        assert_eq!((data[1], data.len()), (*page, 4 + usize::from(u16::from_be_bytes([data[2], data[3]]))));
    }
    assert_eq!(a.ok(&[0x12, 1, 0x80, 0, 255, 0], &[]).await[4..], *b"serial-1");
    let invalid = triple(Condition::INVALID_FIELD_IN_CDB);
    assert_eq!(a.fails(&[0x12, 0, 0x80, 0, 255, 0], &[]).await, invalid);
    assert_eq!(a.fails(&[0x12, 1, 0x99, 0, 255, 0], &[]).await, invalid);
}

#[tokio::test]
async fn opcodes_are_reported_as_they_are_served() {
    let world = World::new().await;
    let a = world.initiator("a");
    let all = a.ok(&[0xa3, 0x0c, 0, 0, 0, 0, 0, 0, 255, 255, 0, 0], &[]).await;
    assert_eq!(all.len() - 4, world.lun.opcodes().len() * 8);
    for opcode in world.lun.opcodes() {
        let action = opcode.action().unwrap_or(0);
        let cdb = [0xa3, 0x0c, 3, opcode.code(), 0, action, 0, 0, 1, 0, 0, 0];
        let one = a.ok(&cdb, &[]).await;
        assert_eq!((one[1] & 7, &one[4..]), (3, opcode.usage), "{}", opcode.name);
    }
    assert_eq!(a.ok(&[0xa3, 0x0c, 1, 0xee, 0, 0, 0, 0, 1, 0, 0, 0], &[]).await[1], 1);
    assert_eq!(a.fails(&[0xee; 6], &[]).await, triple(Condition::INVALID_COMMAND_OPERATION_CODE));
    assert_eq!(a.fails(&[0x5e, 0x1f, 0, 0, 0, 0, 0, 0, 8, 0], &[]).await, triple(Condition::INVALID_FIELD_IN_CDB));
}

#[tokio::test]
async fn modes_are_sensed_and_selected() {
    let world = World::new().await;
    let (a, b) = (world.initiator("a"), world.initiator("b"));
    let caching = a.ok(&[0x1a, 8, 8, 0, 255, 0], &[]).await;
    assert_eq!((caching[4], caching[5], caching[6]), (8, 18, 4));
    let mut off = caching.clone();
    off[0] = 0;
    off[6] = 0;
    a.ok(&[0x15, 0x10, 0, 0, off.len() as u8, 0], &off).await;
    assert_eq!(a.ok(&[0x1a, 8, 8, 0, 255, 0], &[]).await[6], 0);
    assert_eq!(b.fails(&READY, &[]).await, triple(Condition::MODE_PARAMETERS_CHANGED));
    assert_eq!(b.send(&READY, &[]).await.status, Status::Good);
    off[7] = 1;
    let wrong = triple(Condition::INVALID_FIELD_IN_PARAMETER_LIST);
    assert_eq!(a.fails(&[0x15, 0x10, 0, 0, off.len() as u8, 0], &off).await, wrong);
    let short = triple(Condition::PARAMETER_LIST_LENGTH_ERROR);
    assert_eq!(a.fails(&[0x15, 0x10, 0, 0, 12, 0], &off[..12]).await, short);

    // Software write protect, and sense as descriptors.
    let mut control = a.ok(&[0x1a, 8, 0x0a, 0, 255, 0], &[]).await;
    control[0] = 0;
    control[6] |= 4;
    control[8] |= 8;
    a.ok(&[0x15, 0x10, 0, 0, control.len() as u8, 0], &control).await;
    let completion = a.send(&ten(0x2a, 0, 0, 1), &[1; 512]).await;
    assert_eq!(completion.sense[..4], [0x72, 7, 0x27, 2]);
    assert_eq!(a.ok(&[0x1a, 8, 0x3f, 0, 255, 0], &[]).await[2] & 0x80, 0x80);
    world.lun.reset().await;
    a.send(&READY, &[]).await;
    a.ok(&ten(0x2a, 0, 0, 1), &[1; 512]).await;
}

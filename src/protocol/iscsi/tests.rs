//! The server over TCP on 127.0.0.1, with disks in memory behind it, and an initiator that can also do what it must not.

mod aborting;
mod hostile;
mod initiator;
mod logins;
mod moving;

use std::sync::atomic::{AtomicUsize, Ordering as Atomic};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::Semaphore;

use super::*;
use crate::engine::volume::{BlockDevice, DeviceError, Extent, Geometry, RamDisk, Stability};
use crate::protocol::scsi::{Disk, Keeper, LogicalUnitNumber, Lun};
use initiator::Initiator;

pub(super) const NAME: &str = "iqn.2026-01.org.example:disk";
pub(super) const BLOCKS: u64 = 65_536;

/// A disk in memory whose operations wait for a gate where one is closed.
pub(super) struct Gated {
    ram: RamDisk,
    gate: Semaphore,
    pub(super) begun: AtomicUsize,
    pub(super) done: AtomicUsize,
}

const OPEN: usize = 1 << 20;

impl Gated {
    fn new() -> Self {
        Self { ram: RamDisk::new(BLOCKS, 512), gate: Semaphore::new(OPEN), begun: AtomicUsize::new(0), done: AtomicUsize::new(0) }
    }

    pub(super) fn close(&self) {
        self.gate.forget_permits(OPEN);
    }

    pub(super) fn open(&self) {
        self.gate.add_permits(OPEN);
    }

    async fn pass<T: Send>(&self, work: impl Future<Output = T> + Send) -> T {
        self.begun.fetch_add(1, Atomic::SeqCst);
        drop(self.gate.acquire().await);
        let done = work.await;
        self.done.fetch_add(1, Atomic::SeqCst);
        done
    }
}

#[async_trait]
impl BlockDevice for Gated {
    fn geometry(&self) -> Geometry {
        self.ram.geometry()
    }

    fn is_read_only(&self) -> bool {
        self.ram.is_read_only()
    }

    fn has_write_cache(&self) -> bool {
        self.ram.has_write_cache()
    }

    async fn set_write_cache(&self, on: bool) -> Result<(), DeviceError> {
        self.ram.set_write_cache(on).await
    }

    async fn read(&self, range: std::ops::Range<u64>) -> Result<Vec<Bytes>, DeviceError> {
        self.pass(self.ram.read(range)).await
    }

    async fn write(&self, offset: u64, data: Bytes, stability: Stability) -> Result<(), DeviceError> {
        self.pass(self.ram.write(offset, data, stability)).await
    }

    async fn compare_and_write(
        &self,
        offset: u64,
        old: Bytes,
        new: Bytes,
        stability: Stability,
    ) -> Result<Option<usize>, DeviceError> {
        self.pass(self.ram.compare_and_write(offset, old, new, stability)).await
    }

    async fn unmap(&self, ranges: &[std::ops::Range<u64>], stability: Stability) -> Result<(), DeviceError> {
        self.ram.unmap(ranges, stability).await
    }

    async fn flush(&self) -> Result<(), DeviceError> {
        self.ram.flush().await
    }

    async fn extents(&self, range: std::ops::Range<u64>, extents_max: usize) -> Result<Vec<Extent>, DeviceError> {
        self.ram.extents(range, extents_max).await
    }
}

/// A server with one target, which has one disk.
pub(super) struct Served {
    pub(super) server: Arc<Iscsi>,
    pub(super) disk: Arc<Gated>,
    pub(super) address: SocketAddr,
}

impl Served {
    pub(super) async fn new() -> Self {
        Self::with(Limits::default(), Admission::default()).await
    }

    pub(super) async fn with(limits: Limits, admission: Admission) -> Self {
        let server = Arc::new(Iscsi::with(limits));
        let disk = Arc::new(Gated::new());
        let target = server.offer(NAME, admission).unwrap();
        let lun = Lun::open(Arc::new(Disk::new(disk.clone(), "DISK", "serial")), Keeper::forgetful()).await.unwrap();
        target.put(LogicalUnitNumber::new(0).unwrap(), lun);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(server.clone().serve(listener));
        Self { server, disk, address }
    }

    /// An initiator that is logged in and has heard of the power-on.
    pub(super) async fn initiator(&self, name: &str) -> Initiator {
        let mut initiator = Initiator::connect(self.address).await;
        initiator.log_in(name, &[]).await.unwrap();
        initiator.settle().await;
        initiator
    }

    /// Waits until something is so; it has to be, soon.
    pub(super) async fn until(what: impl Fn() -> bool) {
        for _ in 0..2000 {
            if what() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("it did not come to be");
    }
}

#[test]
fn names_are_names() {
    assert_eq!(iscsi_name("IQN.2026-01.org.example:Disk").as_deref(), Ok("iqn.2026-01.org.example:disk"));
    for wrong in ["disk", "iqn.a b", "iqn.a/b", "", &format!("iqn.{}", "a".repeat(230))] {
        assert!(iscsi_name(wrong).is_err(), "{wrong}");
    }
}

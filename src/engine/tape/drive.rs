//! A drive: what is in it, and where its head stands.
//!
//! ```text
//!              insert                  unload                        remove
//!   Empty ───────────────► Ready ◄───────────────► Parked ─────────────────────► Empty
//!     resume (a restart)     │ ▲       load       (or Held)
//!   Empty ──────► Ready,     │ └── rewind, locate, end of data
//!                 lost  ◄────┘ reset, a sync that failed
//! ```
//!
//! What lives here: [`Drive`] with what everybody may ask of it, and its ways into those states. `drive/head.rs` reads, writes and moves.
//!
//! Invariants:
//! - One thing after the other: a [`Head`] is a command's from its begin to its end, a [`Door`] the robot's.
//! - Before the head goes elsewhere, and before a cartridge leaves, what was written is synced.
//! - A head that is lost reads and writes nothing.
//! - The status is a copy that needs no waiting; it is what the seat is when nothing is under way.

mod head;

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::MutexGuard;

use super::{Barcode, Cartridge, MediumError, Properties};
pub use head::{Head, Place, Short};

/// Why a drive stopped. Not all of them are faults.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stop {
    /// There is no cartridge, or it is unloaded.
    #[error("no medium is loaded")]
    NoMedium,
    /// The cartridge is unloaded and held.
    #[error("the medium is held, and not loaded")]
    Held,
    /// The head does not know where it stands.
    #[error("the position is lost")]
    PositionLost,
    /// A filemark came: the head is behind it, on the way it went.
    #[error("a filemark was met")]
    Filemark,
    /// The reel has nothing more.
    #[error("the end of data was met")]
    EndOfData,
    /// The reel begins here.
    #[error("the beginning of the medium was met")]
    Beginning,
    /// It does not fit any more.
    #[error("the medium is full")]
    EndOfMedium,
    /// The medium takes no changes.
    #[error("the medium is write-protected")]
    Protected,
    /// A WORM medium takes additions only.
    #[error("a WORM medium is not overwritten")]
    WormOverwrite,
    /// Somebody forbade that it be taken out.
    #[error("the removal of the medium is prevented")]
    Prevented,
    /// What is asked for is done at the beginning only.
    #[error("the head is not at the beginning")]
    NotAtBeginning,
    /// The medium failed.
    #[error("{0}")]
    Medium(#[from] MediumError),
}

/// What passed the head since the cartridge was put in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Bytes of records.
    pub written_bytes: u64,
    /// Bytes of records.
    pub read_bytes: u64,
    /// Writes and syncs that failed.
    pub write_errors: u64,
    /// Reads that failed.
    pub read_errors: u64,
}

/// What a drive is, now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DriveStatus {
    /// What is in it.
    pub barcode: Option<Barcode>,
    /// It can be read and written.
    pub is_ready: bool,
    /// It is unloaded, and held.
    pub is_held: bool,
    /// Nobody may take it out.
    pub is_prevented: bool,
    /// What is in it, where something is.
    pub properties: Option<Properties>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Thread {
    Parked,
    Held,
    Ready,
}

/// A cartridge in the drive.
#[derive(Debug)]
struct Seat {
    cartridge: Arc<Cartridge>,
    thread: Thread,
    /// The number of the next object; `None`: lost.
    position: Option<u64>,
    /// Something may not be synced.
    is_ahead: bool,
}

#[derive(Debug, Default)]
struct Facts {
    status: DriveStatus,
    counters: Counters,
    /// Another medium is in than hosts know of.
    is_changed: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Drive {
    serial: String,
    seat: tokio::sync::Mutex<Option<Seat>>,
    facts: Mutex<Facts>,
}

impl Drive {
    /// An empty drive. `serial` names it for ever.
    pub fn new(serial: &str) -> Arc<Self> {
        Arc::new(Self { serial: serial.to_owned(), seat: tokio::sync::Mutex::default(), facts: Mutex::default() })
    }

    /// Its name.
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// What it is now. Waits for nothing.
    pub fn status(&self) -> DriveStatus {
        self.facts.lock().status.clone()
    }

    /// What passed since the cartridge was put in.
    pub fn counters(&self) -> Counters {
        self.facts.lock().counters
    }

    /// Whether another medium is in since this was last asked.
    pub fn take_change(&self) -> bool {
        std::mem::take(&mut self.facts.lock().is_changed)
    }

    /// Forbids that the cartridge be taken out, or allows it.
    pub fn prevent(&self, on: bool) {
        self.facts.lock().status.is_prevented = on;
    }

    /// A command begins: nobody else uses the drive until the head is dropped.
    ///
    /// # Errors
    /// Where nothing is loaded.
    pub async fn head(&self) -> Result<Head<'_>, Stop> {
        Head::of(self, self.seat.lock().await)
    }

    /// Loads what is in the drive, and goes to its beginning.
    ///
    /// # Errors
    /// Where there is nothing, or the reel could not be synced.
    pub async fn load(&self) -> Result<(), Stop> {
        let mut seat = self.seat.lock().await;
        let seat = seat.as_mut().ok_or(Stop::NoMedium)?;
        self.settle(seat).await?;
        if seat.thread != Thread::Ready {
            self.facts.lock().counters = Counters::default();
        }
        seat.thread = Thread::Ready;
        seat.position = Some(0);
        self.tell(Some(seat));
        Ok(())
    }

    /// Unloads it; it stays in the drive. With `is_held` it could be loaded again at once.
    ///
    /// # Errors
    /// Where that is prevented, or the reel could not be synced.
    pub async fn unload(&self, is_held: bool) -> Result<(), Stop> {
        let mut seat = self.seat.lock().await;
        let seat = seat.as_mut().ok_or(Stop::NoMedium)?;
        if !is_held && self.status().is_prevented {
            return Err(Stop::Prevented);
        }
        self.park(seat, if is_held { Thread::Held } else { Thread::Parked }).await
    }

    async fn park(&self, seat: &mut Seat, thread: Thread) -> Result<(), Stop> {
        self.settle(seat).await?;
        if seat.thread == Thread::Ready {
            self.note_usage(seat).await;
        }
        seat.thread = thread;
        self.tell(Some(seat));
        Ok(())
    }

    /// A reset: nothing is prevented any more, and the head is lost.
    pub async fn reset(&self) {
        self.prevent(false);
        if let Some(seat) = self.seat.lock().await.as_mut() {
            seat.position = None;
        }
    }

    /// What was written becomes durable. Where it does not, nobody knows any more what is on the reel: the head is lost.
    async fn settle(&self, seat: &mut Seat) -> Result<(), Stop> {
        if seat.is_ahead {
            if let Err(error) = seat.cartridge.medium.sync().await {
                seat.position = None;
                self.facts.lock().counters.write_errors += 1;
                return Err(error.into());
            }
            seat.is_ahead = false;
        }
        Ok(())
    }

    /// Writes on the chip what the cartridge went through. It is no reason to keep the cartridge, where it fails.
    async fn note_usage(&self, seat: &Seat) {
        let counters = self.counters();
        let mut chip = seat.cartridge.medium.chip();
        chip.written_bytes += counters.written_bytes;
        chip.read_bytes += counters.read_bytes;
        if let Err(error) = seat.cartridge.medium.set_chip(chip).await {
            tracing::warn!(drive = self.serial, cartridge = %seat.cartridge.barcode, %error, "usage was not noted");
        }
    }

    fn tell(&self, seat: Option<&Seat>) {
        let mut facts = self.facts.lock();
        facts.status.barcode = seat.map(|seat| seat.cartridge.barcode.clone());
        facts.status.is_ready = seat.is_some_and(|seat| seat.thread == Thread::Ready);
        facts.status.is_held = seat.is_some_and(|seat| seat.thread == Thread::Held);
        facts.status.properties = seat.map(|seat| seat.cartridge.medium.properties());
    }

    /// The robot comes: nobody else uses the drive until the door is dropped.
    pub(super) async fn door(&self) -> Door<'_> {
        Door { drive: self, seat: self.seat.lock().await }
    }
}

/// What the robot does at a drive.
pub(super) struct Door<'a> {
    drive: &'a Drive,
    seat: MutexGuard<'a, Option<Seat>>,
}

impl Door<'_> {
    /// Makes the cartridge ready to be taken.
    pub(super) async fn release(&mut self) -> Result<(), Stop> {
        let seat = self.seat.as_mut().ok_or(Stop::NoMedium)?;
        if self.drive.status().is_prevented {
            return Err(Stop::Prevented);
        }
        self.drive.park(seat, Thread::Parked).await
    }

    /// Takes the cartridge out, which was released.
    pub(super) fn take(&mut self) -> Option<Arc<Cartridge>> {
        let seat = self.seat.take();
        self.drive.tell(None);
        seat.map(|seat| seat.cartridge)
    }

    /// Puts a cartridge in, which is loaded at once.
    pub(super) async fn put(&mut self, cartridge: Arc<Cartridge>) {
        let mut chip = cartridge.medium.chip();
        chip.loaded(&self.drive.serial);
        if let Err(error) = cartridge.medium.set_chip(chip).await {
            tracing::warn!(drive = self.drive.serial, cartridge = %cartridge.barcode, %error, "the load was not noted");
        }
        self.seat(cartridge, Some(0));
        self.drive.facts.lock().is_changed = true;
    }

    /// The cartridge that was in the drive when the process ended.
    pub(super) fn resume(&mut self, cartridge: Arc<Cartridge>) {
        self.seat(cartridge, None);
    }

    fn seat(&mut self, cartridge: Arc<Cartridge>, position: Option<u64>) {
        *self.seat = Some(Seat { cartridge, thread: Thread::Ready, position, is_ahead: false });
        self.drive.facts.lock().counters = Counters::default();
        self.drive.tell(self.seat.as_ref());
    }
}

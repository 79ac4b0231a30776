//! A library: elements that hold cartridges, and a robot that carries them from one to another.
//!
//! What lives here: [`Layout`] (which elements there are, and their addresses), [`Library`] (what is in them), [`Ledger`] (the seam through
//! which moves are kept). `library/moves.rs` moves.
//!
//! Invariants:
//! - A cartridge is in one element, an element holds one cartridge, a barcode is there once.
//! - One move after the other. A move is in the ledger before it is answered; one that is refused or not kept changes nothing, but that the
//!   cartridge of a drive is unloaded.
//! - What a drive holds is what its element says.

mod moves;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;

use super::{Barcode, Cartridge, Drive, Stop};

/// What an element is for (SMC-3 §4.2, with the standard's codes).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// The robot's hand: medium transport.
    Robot = 1,
    /// A storage slot.
    Storage = 2,
    /// An import/export slot: what is put there leaves the library.
    Port = 3,
    /// A drive: data transfer.
    Drive = 4,
}

/// Which elements there are: addresses of each kind, adjacent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The robot's hand.
    pub robot: u16,
    /// Drives.
    pub drives: Range<u16>,
    /// Storage slots.
    pub slots: Range<u16>,
    /// Import/export slots.
    pub ports: Range<u16>,
}

/// Where the kinds begin: room for 768 drives and 15,360 storage slots before the next.
const ROBOT: u16 = 0;
const DRIVES: u16 = 0x0100;
const SLOTS: u16 = 0x0400;
const PORTS: u16 = 0x4000;
/// Import/export slots that an address can name.
const PORTS_MAX: u16 = 0x8000;

impl Layout {
    /// The elements of a library of this size.
    ///
    /// # Errors
    /// In words, where there would be none of a kind, or too many.
    pub fn new(drives: u16, slots: u16, ports: u16) -> Result<Self, String> {
        for (what, count, most) in [
            ("drives", drives, SLOTS - DRIVES),
            ("storage slots", slots, PORTS - SLOTS),
            ("import/export slots", ports, PORTS_MAX),
        ] {
            if count == 0 || count > most {
                return Err(format!("a library has 1 to {most} {what}, not {count}"));
            }
        }
        let run = |first: u16, count: u16| first..first + count;
        Ok(Self { robot: ROBOT, drives: run(DRIVES, drives), slots: run(SLOTS, slots), ports: run(PORTS, ports) })
    }

    /// What an address is.
    pub fn kind(&self, address: u16) -> Option<Kind> {
        let kinds = [Kind::Robot, Kind::Drive, Kind::Storage, Kind::Port];
        kinds.into_iter().find(|kind| self.range(*kind).contains(&address))
    }

    /// The addresses of a kind.
    pub fn range(&self, kind: Kind) -> Range<u16> {
        match kind {
            Kind::Robot => self.robot..self.robot + 1,
            Kind::Drive => self.drives.clone(),
            Kind::Storage => self.slots.clone(),
            Kind::Port => self.ports.clone(),
        }
    }
}

impl Default for Layout {
    /// What AWS has: 10 drives, 1,600 storage slots, 1,600 import/export slots.
    fn default() -> Self {
        let run = |first: u16, count: u16| first..first + count;
        Self { robot: ROBOT, drives: run(DRIVES, 10), slots: run(SLOTS, 1600), ports: run(PORTS, 1600) }
    }
}

/// Why a library did not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LibraryError {
    /// No element has this address, or none of a kind that can hold a cartridge.
    #[error("the library has no element {0:#06x} for this")]
    NoElement(u16),
    /// There is nothing to take.
    #[error("element {0:#06x} is empty")]
    SourceEmpty(u16),
    /// There is no room.
    #[error("element {0:#06x} is full")]
    DestinationFull(u16),
    /// There is no empty import/export slot.
    #[error("all import/export slots are full")]
    Full,
    /// The import/export door is locked by an initiator.
    #[error("the import/export slots are locked: the backup software has prevented removal, and can allow it")]
    Locked,
    /// A barcode is there already.
    #[error("the library has a cartridge {0}")]
    Duplicate(Barcode),
    /// The drive does not give it up.
    #[error("drive {0:#06x}: {1}")]
    Drive(u16, #[source] Stop),
    /// The move could not be kept.
    #[error("the move was not kept: {0}")]
    Ledger(String),
}

/// Where moves are kept, so that a restart finds every cartridge where it was put.
#[async_trait]
pub trait Ledger: Send + Sync + 'static {
    /// Keeps that cartridges are now in these elements, all of them or none; durable when this returned.
    ///
    /// # Errors
    /// In words.
    async fn keep(&self, moves: &[(Barcode, u16)]) -> Result<(), String>;
}

/// Keeps nothing: for tests, and for libraries in memory.
pub struct Forgetful;

#[async_trait]
impl Ledger for Forgetful {
    async fn keep(&self, _: &[(Barcode, u16)]) -> Result<(), String> {
        Ok(())
    }
}

/// An element, as READ ELEMENT STATUS tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    /// Its address.
    pub address: u16,
    /// What it is for.
    pub kind: Kind,
    /// What is in it.
    pub barcode: Option<Barcode>,
    /// The storage or import/export slot that it came from.
    pub source: Option<u16>,
    /// An operator put it there, not the robot.
    pub is_import: bool,
    /// The robot can come here as it is: a drive has nothing loaded.
    pub is_accessible: bool,
}

#[derive(Clone, Debug)]
struct Content {
    cartridge: Arc<Cartridge>,
    source: Option<u16>,
    is_import: bool,
}

#[derive(Debug, Default)]
struct Facts {
    contents: BTreeMap<u16, Content>,
    is_locked: bool,
    /// An operator put something in, or took something out, since this was last asked.
    is_visited: bool,
}

/// See the module.
pub struct Library {
    layout: Layout,
    drives: Vec<Arc<Drive>>,
    ledger: Arc<dyn Ledger>,
    facts: Mutex<Facts>,
    moving: tokio::sync::Mutex<()>,
}

impl Library {
    /// An empty library; its drives are called `<serial>-01` and so on.
    pub fn new(layout: Layout, serial: &str, ledger: Arc<dyn Ledger>) -> Arc<Self> {
        let drives = (1..=layout.drives.len()).map(|number| Drive::new(&format!("{serial}-{number:02}"))).collect();
        Arc::new(Self { layout, drives, ledger, facts: Mutex::default(), moving: tokio::sync::Mutex::default() })
    }

    /// Which elements there are.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The drives, by address.
    pub fn drives(&self) -> &[Arc<Drive>] {
        &self.drives
    }

    fn drive(&self, address: u16) -> Option<&Arc<Drive>> {
        self.drives.get(usize::from(address.checked_sub(self.layout.drives.start)?))
    }

    /// Where a cartridge was when the process ended. One that was in a drive is loaded there, and the drive does not know where it stands.
    ///
    /// # Errors
    /// Where the element cannot hold it, or the barcode is there.
    pub async fn resume(&self, address: u16, cartridge: Arc<Cartridge>) -> Result<(), LibraryError> {
        let _moving = self.moving.lock().await;
        self.admit(address, &cartridge.barcode)?;
        self.facts.lock().contents.insert(address, Content { cartridge: cartridge.clone(), source: None, is_import: false });
        if let Some(drive) = self.drive(address) {
            drive.door().await.resume(cartridge);
        }
        Ok(())
    }

    /// Whether an element could hold a new cartridge.
    fn admit(&self, address: u16, barcode: &Barcode) -> Result<(), LibraryError> {
        match self.layout.kind(address) {
            None | Some(Kind::Robot) => return Err(LibraryError::NoElement(address)),
            Some(_) => {}
        }
        let facts = self.facts.lock();
        if facts.contents.values().any(|content| content.cartridge.barcode == *barcode) {
            return Err(LibraryError::Duplicate(barcode.clone()));
        }
        if facts.contents.contains_key(&address) { Err(LibraryError::DestinationFull(address)) } else { Ok(()) }
    }

    /// Elements of a kind, or of all kinds by kind, from an address on: so many at most.
    pub fn elements(&self, kind: Option<Kind>, from: u16, count_max: usize) -> Vec<Element> {
        let kinds = [Kind::Robot, Kind::Storage, Kind::Port, Kind::Drive];
        let chosen = kinds.into_iter().filter(|of| kind.is_none_or(|kind| kind == *of));
        let facts = self.facts.lock();
        let addresses = chosen.flat_map(|kind| self.layout.range(kind).filter(|at| *at >= from).map(move |at| (at, kind)));
        addresses.take(count_max).map(|(address, kind)| self.element(&facts, address, kind)).collect()
    }

    fn element(&self, facts: &Facts, address: u16, kind: Kind) -> Element {
        let content = facts.contents.get(&address);
        Element {
            address,
            kind,
            barcode: content.map(|content| content.cartridge.barcode.clone()),
            source: content.and_then(|content| content.source),
            is_import: content.is_some_and(|content| content.is_import),
            is_accessible: self.drive(address).is_none_or(|drive| !drive.status().is_ready),
        }
    }

    /// Forbids that an operator put something in or take something out, or allows it.
    pub fn lock(&self, on: bool) {
        self.facts.lock().is_locked = on;
    }

    /// Whether that is forbidden.
    pub fn is_locked(&self) -> bool {
        self.facts.lock().is_locked
    }

    /// Whether an operator was there since this was last asked.
    pub fn take_visit(&self) -> bool {
        std::mem::take(&mut self.facts.lock().is_visited)
    }
}

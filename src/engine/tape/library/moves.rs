//! What moves: by the robot from element to element, by an operator through the import/export slots.
//!
//! Invariant: the checks are made and the move is kept before anything changes place.

use std::sync::Arc;

use super::{Cartridge, Content, Kind, Library, LibraryError};
use crate::engine::tape::drive::Door;

/// The end of a move that is a drive, with its door open.
type Gate<'a> = Option<Door<'a>>;

impl Library {
    /// The robot carries what is in `from` to `to`.
    ///
    /// # Errors
    /// See [`LibraryError`].
    pub async fn carry(&self, from: u16, to: u16) -> Result<(), LibraryError> {
        let _moving = self.moving.lock().await;
        self.holds(from)?;
        self.holds(to)?;
        let content = self.content(from).ok_or(LibraryError::SourceEmpty(from))?;
        if from == to {
            return Ok(());
        }
        if self.content(to).is_some() {
            return Err(LibraryError::DestinationFull(to));
        }
        let mut source = self.release(from).await?;
        let mut target = self.gate(to).await;
        self.keep(&[(&content, to)]).await?;
        self.lift(from, &mut source);
        self.place(to, from, content, &mut target).await;
        Ok(())
    }

    /// The robot carries what is in `from` to `to`, and what was in `to` to `onto`, which may be `from`.
    ///
    /// # Errors
    /// See [`LibraryError`].
    pub async fn exchange(&self, from: u16, to: u16, onto: u16) -> Result<(), LibraryError> {
        let _moving = self.moving.lock().await;
        for address in [from, to, onto] {
            self.holds(address)?;
        }
        let content = self.content(from).ok_or(LibraryError::SourceEmpty(from))?;
        let other = self.content(to).ok_or(LibraryError::SourceEmpty(to))?;
        if from == to || onto == to || onto != from && self.content(onto).is_some() {
            return Err(LibraryError::DestinationFull(onto));
        }
        let mut source = self.release(from).await?;
        let mut middle = self.release(to).await?;
        let mut last = if onto == from { None } else { self.gate(onto).await };
        self.keep(&[(&content, to), (&other, onto)]).await?;
        self.lift(from, &mut source);
        self.lift(to, &mut middle);
        self.place(onto, to, other, if onto == from { &mut source } else { &mut last }).await;
        self.place(to, from, content, &mut middle).await;
        Ok(())
    }

    /// An operator puts a cartridge in: into which import/export slot.
    ///
    /// # Errors
    /// See [`LibraryError`].
    pub async fn import(&self, cartridge: Arc<Cartridge>) -> Result<u16, LibraryError> {
        let _moving = self.moving.lock().await;
        if self.is_locked() {
            return Err(LibraryError::Locked);
        }
        let empty = self.layout.ports.clone().find(|port| self.content(*port).is_none()).ok_or(LibraryError::Full)?;
        self.admit(empty, &cartridge.barcode)?;
        let content = Content { cartridge, source: None, is_import: true };
        self.keep(&[(&content, empty)]).await?;
        let mut facts = self.facts.lock();
        facts.contents.insert(empty, content);
        facts.is_visited = true;
        Ok(empty)
    }

    /// An operator takes the cartridge out of an import/export slot. That it is gone is kept by whoever takes it.
    ///
    /// # Errors
    /// See [`LibraryError`].
    pub async fn take(&self, port: u16) -> Result<Arc<Cartridge>, LibraryError> {
        let _moving = self.moving.lock().await;
        if self.layout.kind(port) != Some(Kind::Port) {
            return Err(LibraryError::NoElement(port));
        }
        if self.is_locked() {
            return Err(LibraryError::Locked);
        }
        let mut facts = self.facts.lock();
        let content = facts.contents.remove(&port).ok_or(LibraryError::SourceEmpty(port))?;
        facts.is_visited = true;
        Ok(content.cartridge)
    }

    fn content(&self, address: u16) -> Option<Content> {
        self.facts.lock().contents.get(&address).cloned()
    }

    /// Whether an element can hold cartridges: the robot's hand is for a move only.
    fn holds(&self, address: u16) -> Result<(), LibraryError> {
        match self.layout.kind(address) {
            None | Some(Kind::Robot) => Err(LibraryError::NoElement(address)),
            Some(_) => Ok(()),
        }
    }

    async fn gate(&self, address: u16) -> Gate<'_> {
        match self.drive(address) {
            Some(drive) => Some(drive.door().await),
            None => None,
        }
    }

    /// Makes what is in an element ready to be taken: a drive unloads it.
    async fn release(&self, address: u16) -> Result<Gate<'_>, LibraryError> {
        let mut gate = self.gate(address).await;
        if let Some(door) = &mut gate {
            door.release().await.map_err(|stop| LibraryError::Drive(address, stop))?;
        }
        Ok(gate)
    }

    async fn keep(&self, moves: &[(&Content, u16)]) -> Result<(), LibraryError> {
        let moves: Vec<_> = moves.iter().map(|(content, to)| (content.cartridge.barcode.clone(), *to)).collect();
        self.ledger.keep(&moves).await.map_err(LibraryError::Ledger)
    }

    fn lift(&self, from: u16, gate: &mut Gate<'_>) {
        if let Some(door) = gate {
            door.take();
        }
        self.facts.lock().contents.remove(&from);
    }

    async fn place(&self, to: u16, from: u16, mut content: Content, gate: &mut Gate<'_>) {
        // The source is the last element that is no drive (SMC-3 §6.12.4, SOURCE STORAGE ELEMENT ADDRESS).
        if self.layout.kind(from) != Some(Kind::Drive) {
            content.source = Some(from);
        }
        content.is_import = false;
        let cartridge = content.cartridge.clone();
        self.facts.lock().contents.insert(to, content);
        if let Some(door) = gate {
            door.put(cartridge).await;
        }
    }
}

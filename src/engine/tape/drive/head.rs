//! The head of a drive: it reads, writes, and goes elsewhere (SSC-4 §4.2.6 has the model).
//!
//! Invariants: a position is the number of the object that comes next; after a [`Stop`] the head stands where the standard says it does for
//! that condition, and [`Short`] says how much of what was asked for was not done.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::MutexGuard;

use super::{Drive, Seat, Stop, Thread};
use crate::engine::tape::reel::FRAME_BYTES;
use crate::engine::tape::{Extent, Medium, Object, Properties};

/// Where writers are warned that the end comes: so much of the capacity before it, within these bounds, in bytes.
const WARNING_PART: u64 = 16;
const WARNING_BYTES_MIN: u64 = 2 << 20;
const WARNING_BYTES_MAX: u64 = 256 << 20;

/// See the module. It holds the drive until it is dropped.
pub struct Head<'a> {
    drive: &'a Drive,
    seat: MutexGuard<'a, Option<Seat>>,
    medium: Arc<dyn Medium>,
}

/// Where a head stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The number of the next object.
    pub object: u64,
    /// Filemarks before it.
    pub file: u64,
    /// Writers are warned here that the end comes.
    pub is_past_warning: bool,
    /// How far the reel goes.
    pub extent: Extent,
}

/// A motion that ended early.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Short {
    /// Why.
    pub stop: Stop,
    /// How many of what was to be passed were not.
    pub left: u64,
}

impl<'a> Head<'a> {
    pub(super) fn of(drive: &'a Drive, seat: MutexGuard<'a, Option<Seat>>) -> Result<Self, Stop> {
        let medium = match seat.as_ref() {
            Some(Seat { thread: Thread::Ready, cartridge, .. }) => cartridge.medium.clone(),
            Some(Seat { thread: Thread::Held, .. }) => return Err(Stop::Held),
            _ => return Err(Stop::NoMedium),
        };
        Ok(Self { drive, seat, medium })
    }

    /// The reel.
    pub fn medium(&self) -> &Arc<dyn Medium> {
        &self.medium
    }

    /// The number of the next object.
    ///
    /// # Errors
    /// [`Stop::PositionLost`].
    pub fn position(&self) -> Result<u64, Stop> {
        self.seat.as_ref().and_then(|seat| seat.position).ok_or(Stop::PositionLost)
    }

    fn go(&mut self, to: u64) {
        if let Some(seat) = self.seat.as_mut() {
            seat.position = Some(to);
        }
    }

    /// Everything that was written becomes durable.
    ///
    /// # Errors
    /// Where it does not; the head is lost then.
    pub async fn sync(&mut self) -> Result<(), Stop> {
        match self.seat.as_mut() {
            Some(seat) => self.drive.settle(seat).await,
            None => Ok(()),
        }
    }

    /// Reads the record that comes, and goes behind it. Behind a filemark, too, but not behind the end of data.
    ///
    /// # Errors
    /// See [`Stop`]; what cannot be read is not passed.
    pub async fn read(&mut self) -> Result<Bytes, Stop> {
        let at = self.position()?;
        self.sync().await?;
        if at >= self.medium.extent().objects {
            return Err(Stop::EndOfData);
        }
        match self.medium.read(at).await {
            Ok(Object::Record(record)) => {
                self.go(at + 1);
                self.drive.facts.lock().counters.read_bytes += record.len() as u64;
                Ok(record)
            }
            Ok(Object::Filemark) => {
                self.go(at + 1);
                Err(Stop::Filemark)
            }
            Err(error) => {
                self.drive.facts.lock().counters.read_errors += 1;
                Err(error.into())
            }
        }
    }

    /// Whether something may be written here.
    ///
    /// # Errors
    /// See [`Stop`].
    pub fn writable(&self) -> Result<(), Stop> {
        let (at, Properties { is_protected, is_worm, .. }) = (self.position()?, self.medium.properties());
        if is_protected {
            return Err(Stop::Protected);
        }
        if is_worm && at < self.medium.extent().objects { Err(Stop::WormOverwrite) } else { Ok(()) }
    }

    /// Writes a record, or a filemark, in place of everything from here on, and goes behind it.
    ///
    /// # Errors
    /// See [`Stop`]; then nothing was written, but what is overwritten may be gone.
    pub async fn write(&mut self, object: Object, squeeze: bool) -> Result<(), Stop> {
        self.writable()?;
        let at = self.position()?;
        self.cut(at).await?;
        let record_bytes = if let Object::Record(record) = &object { record.len() as u64 } else { 0 };
        let needed_bytes = FRAME_BYTES as u64 + record_bytes;
        if self.medium.extent().used_bytes.saturating_add(needed_bytes) > self.medium.properties().capacity_bytes {
            return Err(Stop::EndOfMedium);
        }
        let appended = self.medium.append(object, squeeze).await;
        self.note(appended)?;
        self.drive.facts.lock().counters.written_bytes += record_bytes;
        self.go(at + 1);
        Ok(())
    }

    /// Forgets what is from here on.
    ///
    /// # Errors
    /// See [`Stop`].
    pub async fn erase(&mut self) -> Result<(), Stop> {
        self.writable()?;
        let at = self.position()?;
        self.cut(at).await?;
        self.sync().await
    }

    async fn cut(&mut self, at: u64) -> Result<(), Stop> {
        if at < self.medium.extent().objects {
            let cut = self.medium.truncate(at).await;
            self.note(cut)?;
        }
        Ok(())
    }

    fn note(&mut self, changed: Result<(), crate::engine::tape::MediumError>) -> Result<(), Stop> {
        if changed.is_err() {
            self.drive.facts.lock().counters.write_errors += 1;
        } else if let Some(seat) = self.seat.as_mut() {
            seat.is_ahead = true;
        }
        Ok(changed?)
    }

    /// Whether writers are warned here that the end comes.
    pub fn is_past_warning(&self) -> bool {
        let capacity_bytes = self.medium.properties().capacity_bytes;
        let warning_bytes = (capacity_bytes / WARNING_PART).clamp(WARNING_BYTES_MIN, WARNING_BYTES_MAX);
        let extent = self.medium.extent();
        self.position() == Ok(extent.objects) && extent.used_bytes.saturating_add(warning_bytes) >= capacity_bytes
    }

    /// Where the head stands.
    ///
    /// # Errors
    /// Where it does not know.
    pub async fn place(&self) -> Result<Place, Stop> {
        let object = self.position()?;
        let file = self.medium.filemarks_before(object).await?;
        Ok(Place { object, file, is_past_warning: self.is_past_warning(), extent: self.medium.extent() })
    }

    /// To the beginning. This finds a head that is lost.
    ///
    /// # Errors
    /// Where what was written could not be synced.
    pub async fn rewind(&mut self) -> Result<(), Stop> {
        self.locate(0).await
    }

    /// To an object. This finds a head that is lost.
    ///
    /// # Errors
    /// Where there is none: the head is then at the end.
    pub async fn locate(&mut self, object: u64) -> Result<(), Stop> {
        self.sync().await?;
        let objects = self.medium.extent().objects;
        self.go(object.min(objects));
        if object > objects { Err(Stop::EndOfData) } else { Ok(()) }
    }

    /// To the first object behind so many filemarks. This finds a head that is lost.
    ///
    /// # Errors
    /// Where there are fewer: the head is then at the end.
    pub async fn locate_file(&mut self, file: u64) -> Result<(), Stop> {
        self.sync().await?;
        let Some(before) = file.checked_sub(1) else { return self.locate(0).await };
        match self.medium.filemark(before).await? {
            Some(at) => self.locate(at + 1).await,
            None => self.locate(u64::MAX).await,
        }
    }

    /// Behind everything. This finds a head that is lost.
    ///
    /// # Errors
    /// Where what was written could not be synced.
    pub async fn end_of_data(&mut self) -> Result<(), Stop> {
        self.locate(self.medium.extent().objects).await
    }

    /// Over records, forwards or backwards (SSC-4 §7.7).
    ///
    /// # Errors
    /// At a filemark the head is behind it, on the way that it went; at an end it is there.
    pub async fn space_records(&mut self, count: i64) -> Result<(), Short> {
        let (at, before) = self.ready().await?;
        let left = |stop, done: u64| Short { stop, left: count.unsigned_abs() - done };
        let far = at.saturating_add_signed(count);
        if count >= 0 {
            let mark = self.medium.filemark(before).await.map_err(|error| left(error.into(), 0))?;
            let objects = self.medium.extent().objects;
            match mark {
                Some(mark) if mark < far => {
                    self.go(mark + 1);
                    return Err(left(Stop::Filemark, mark - at));
                }
                _ if far > objects => {
                    self.go(objects);
                    return Err(left(Stop::EndOfData, objects - at));
                }
                _ => self.go(far),
            }
            return Ok(());
        }
        let mark = match before.checked_sub(1) {
            Some(last) => self.medium.filemark(last).await.map_err(|error| left(error.into(), 0))?,
            None => None,
        };
        match mark {
            Some(mark) if mark >= far => {
                self.go(mark);
                Err(left(Stop::Filemark, at - mark - 1))
            }
            _ if count.unsigned_abs() > at => {
                self.go(0);
                Err(left(Stop::Beginning, at))
            }
            _ => {
                self.go(far);
                Ok(())
            }
        }
    }

    /// Over filemarks: forwards behind the last of them, backwards before it.
    ///
    /// # Errors
    /// At an end the head is there.
    pub async fn space_filemarks(&mut self, count: i64) -> Result<(), Short> {
        let (_, before) = self.ready().await?;
        let left = |stop, done: u64| Short { stop, left: count.unsigned_abs() - done };
        if count == 0 {
            return Ok(());
        }
        if count < 0 && count.unsigned_abs() > before {
            self.go(0);
            return Err(left(Stop::Beginning, before));
        }
        let wanted = if count > 0 { before.saturating_add_signed(count - 1) } else { before - count.unsigned_abs() };
        match self.medium.filemark(wanted).await.map_err(|error| left(error.into(), 0))? {
            Some(mark) => {
                self.go(if count > 0 { mark + 1 } else { mark });
                Ok(())
            }
            None => {
                let extent = self.medium.extent();
                self.go(extent.objects);
                Err(left(Stop::EndOfData, extent.filemarks - before))
            }
        }
    }

    /// What spacing begins with: where the head is, and the filemarks before it.
    async fn ready(&mut self) -> Result<(u64, u64), Short> {
        let all = |stop| Short { stop, left: 0 };
        let at = self.position().map_err(all)?;
        self.sync().await.map_err(all)?;
        let before = self.medium.filemarks_before(at).await.map_err(|error| all(error.into()))?;
        Ok((at, before))
    }
}

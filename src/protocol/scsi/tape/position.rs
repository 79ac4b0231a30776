//! READ POSITION in all forms (SSC-4 §7.5).
//!
//! What is not synced yet is told as what is in the drive's buffer: the last object location is where the durable part ends.

use super::{Cdb, Failure, Tape};
use crate::engine::tape::{Place, Stop};
use crate::protocol::scsi::Answer;

/// Byte 0 of the forms.
const BOP: u8 = 0x80;
const EOP: u8 = 0x40;
/// MPU and LONU of the long form: the mark and the object number are not known.
const LONG_UNKNOWN: u8 = 0x08 | 0x04;
/// LOCU, BYCU and LOLU of the others: neither the location nor the counts are.
const UNKNOWN: u8 = 0x20 | 0x10 | 0x04;
/// PERR: a number does not fit its field.
const OVERFLOW: u8 = 0x02;

impl Tape {
    pub(super) async fn read_position(&self, cdb: &Cdb) -> Result<Answer, Failure> {
        let head = self.head().await?;
        let place = match head.place().await {
            Ok(place) => Some(place),
            Err(Stop::PositionLost) => None,
            Err(stop) => return Err(self.failure(&stop)),
        };
        Ok(match cdb.action() {
            0x06 => Answer::parameters(long(place.as_ref()), 32),
            0x08 => Answer::parameters(extended(place.as_ref()), cdb.length(7, 2)),
            _ => Answer::parameters(short(place.as_ref()), 20),
        })
    }
}

fn ends(place: &Place) -> u8 {
    (if place.object == 0 { BOP } else { 0 }) | if place.is_past_warning { EOP } else { 0 }
}

/// Objects and bytes that are written and not synced, where the head stands behind them.
fn buffered(place: &Place) -> (u64, u64) {
    let objects = place.object.saturating_sub(place.extent.synced_objects);
    (objects, if objects == 0 { 0 } else { place.extent.unsynced_bytes })
}

/// The short form, table 52.
fn short(place: Option<&Place>) -> Vec<u8> {
    let mut data = vec![0; 20];
    let Some(place) = place else {
        data[0] = UNKNOWN;
        return data;
    };
    let (objects, bytes) = buffered(place);
    let (first, last) = (u32::try_from(place.object), u32::try_from(place.object - objects));
    let (Ok(first), Ok(last), Ok(bytes)) = (first, last, u32::try_from(bytes)) else {
        data[0] = ends(place) | OVERFLOW;
        return data;
    };
    data[0] = ends(place);
    data[4..8].copy_from_slice(&first.to_be_bytes());
    data[8..12].copy_from_slice(&last.to_be_bytes());
    data[13..16].copy_from_slice(&(objects.min(0xff_ffff) as u32).to_be_bytes()[1..]);
    data[16..20].copy_from_slice(&bytes.to_be_bytes());
    data
}

/// The long form, table 53.
fn long(place: Option<&Place>) -> Vec<u8> {
    let mut data = vec![0; 32];
    let Some(place) = place else {
        data[0] = LONG_UNKNOWN;
        return data;
    };
    data[0] = ends(place);
    data[8..16].copy_from_slice(&place.object.to_be_bytes());
    data[16..24].copy_from_slice(&place.file.to_be_bytes());
    data
}

/// The extended form, table 54.
fn extended(place: Option<&Place>) -> Vec<u8> {
    let mut data = vec![0; 32];
    // ADDITIONAL LENGTH.
    data[3] = 28;
    let Some(place) = place else {
        data[0] = UNKNOWN;
        return data;
    };
    let (objects, bytes) = buffered(place);
    data[0] = ends(place);
    data[5..8].copy_from_slice(&(objects.min(0xff_ffff) as u32).to_be_bytes()[1..]);
    data[8..16].copy_from_slice(&place.object.to_be_bytes());
    data[16..24].copy_from_slice(&(place.object - objects).to_be_bytes());
    data[24..32].copy_from_slice(&bytes.to_be_bytes());
    data
}

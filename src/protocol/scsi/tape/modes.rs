//! The mode parameters of tape drives (SSC-4 §8.5): header, block descriptor, and pages.
//!
//! Invariant: a block length is one that READ BLOCK LIMITS allows, or 0: records of any length.

use super::{Failure, Ordering, Sense, Tape};
use crate::engine::tape::RECORD_BYTES_MAX;
use crate::protocol::scsi::mode::{Header, Page};

const RECOVERY: u8 = 0x01;
const DISCONNECT: u8 = 0x02;
const COMPRESSION: u8 = 0x0f;
const DEVICE: u8 = 0x10;
const PARTITION: u8 = 0x11;
const EXCEPTIONS: u8 = 0x1c;
const MEDIUM: u8 = 0x1d;

/// DCE, and DCC, of the compression page.
const DCE: u8 = 0x80;
const DCC: u8 = 0x40;
/// DDE: what is compressed is always decompressed.
const DDE: u8 = 0x80;
/// DENSITY CODE of MODE SELECT: the one that is set.
const SAME_DENSITY: u8 = 0x7f;

/// What MODE SELECT sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Modes {
    /// Of a record in fixed mode, in bytes; 0: there is no fixed mode.
    pub(super) block_bytes: u32,
    /// Writes are answered before they are durable.
    pub(super) is_buffered: bool,
    /// Records may be kept compressed.
    pub(super) squeezes: bool,
}

impl Default for Modes {
    fn default() -> Self {
        Self { block_bytes: 0, is_buffered: true, squeezes: true }
    }
}

impl Tape {
    pub(super) fn header_of_modes(&self) -> Header {
        let modes = *self.modes.lock();
        let properties = self.drive.status().properties;
        let is_protected = self.is_protected.load(Ordering::Relaxed) || properties.is_some_and(|medium| medium.is_protected);
        let device = u8::from(is_protected) << 7 | u8::from(modes.is_buffered) << 4;
        let mut descriptor = vec![self.model.density.code, 0, 0, 0, 0];
        descriptor.extend(&modes.block_bytes.to_be_bytes()[1..]);
        // A WORM cartridge is of another medium type.
        let is_worm = properties.is_some_and(|medium| medium.is_worm);
        let medium = properties.map_or(0, |_| self.model.density.medium | if is_worm { 0x04 } else { 0 });
        Header { medium, device, descriptor }
    }

    /// The speed and the medium type of a list are not looked at; the density is the drive's, or the default.
    pub(super) fn take_mode_header(&self, header: &Header, at: u16) -> Result<bool, Failure> {
        let mut modes = *self.modes.lock();
        modes.is_buffered = match header.device >> 4 & 7 {
            0 => false,
            1 => true,
            _ => return Err(Sense::invalid_parameter(2).into()),
        };
        match header.descriptor[..] {
            [] => {}
            [density, _, _, _, _, high, middle, low] => {
                let block_bytes = u32::from_be_bytes([0, high, middle, low]);
                if ![0, SAME_DENSITY, self.model.density.code].contains(&density) {
                    return Err(Sense::invalid_parameter(at).into());
                }
                if block_bytes as usize > RECORD_BYTES_MAX {
                    return Err(Sense::invalid_parameter(at + 5).into());
                }
                modes.block_bytes = block_bytes;
            }
            _ => return Err(Sense::invalid_parameter(3).into()),
        }
        Ok(std::mem::replace(&mut *self.modes.lock(), modes) != modes)
    }

    pub(super) fn pages_of_modes(&self) -> Vec<Page> {
        let modes = *self.modes.lock();
        let medium = self.drive.status().properties;
        vec![
            fixed(RECOVERY, vec![0; 10]),
            fixed(DISCONNECT, vec![0; 14]),
            switched(COMPRESSION, compression, modes.squeezes, &[(0, DCE), (5, 0xff)]),
            switched(DEVICE, device_configuration, modes.squeezes, &[(12, 0xff)]),
            fixed(PARTITION, partition(medium.map_or(0, |medium| medium.capacity_bytes))),
            // DEXCPT: exceptions are told by TapeAlert only.
            fixed(EXCEPTIONS, [vec![0x08], vec![0; 9]].concat()),
            // WORMM.
            fixed(MEDIUM, [vec![u8::from(medium.is_some_and(|medium| medium.is_worm))], vec![0; 29]].concat()),
        ]
    }

    /// Both pages have the one switch; the algorithm is the drive's own.
    pub(super) fn take_mode_page(&self, page: &Page) {
        let squeezes = match page.code {
            COMPRESSION => page.body[0] & DCE != 0,
            DEVICE => page.body[12] != 0,
            _ => return,
        };
        self.modes.lock().squeezes = squeezes;
    }
}

fn fixed(code: u8, body: Vec<u8>) -> Page {
    Page { code, changeable: vec![0; body.len()], default: body.clone(), body }
}

/// A page that tells whether records are compressed, with the bits that switch it.
fn switched(code: u8, make: fn(bool) -> Vec<u8>, is_on: bool, switches: &[(usize, u8)]) -> Page {
    let (body, default) = (make(is_on), make(Modes::default().squeezes));
    let mut changeable = vec![0; body.len()];
    for (at, bits) in switches {
        changeable[*at] = *bits;
    }
    Page { code, body, changeable, default }
}

/// Data compression, §8.5.2. The algorithms are "the default".
fn compression(is_on: bool) -> Vec<u8> {
    let (switch, algorithm) = if is_on { (DCE, 1) } else { (0, 0) };
    vec![switch | DCC, DDE, 0, 0, 0, algorithm, 0, 0, 0, 1, 0, 0, 0, 0]
}

/// Device configuration, §8.5.3.
fn device_configuration(is_on: bool) -> Vec<u8> {
    let mut body = vec![0; 14];
    // LOIS: objects are numbered.
    body[6] = 0x40;
    // EEG: the end of data is kept by the drive.
    body[8] = 0x10;
    body[12] = u8::from(is_on);
    body
}

/// Medium partition, §8.5.4: one partition, in megabytes.
fn partition(capacity_bytes: u64) -> Vec<u8> {
    let megabytes = u16::try_from(capacity_bytes >> 20).unwrap_or(u16::MAX);
    // PSUM 10b; formats and partitions are recognized.
    let mut body = vec![0, 0, 0x10, 0x03, 0, 0];
    body.extend(megabytes.to_be_bytes());
    body
}

//! A cartridge: a reel with a barcode outside and a chip inside.
//!
//! Invariants: a barcode is what AWS takes (5 to 16 of `A-Z0-9`), so that its volume tag fits every changer; a chip's attributes are at most
//! [`CHIP_BYTES_MAX`] together.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Medium;

/// Bytes of all attributes on a chip, each with five for its header: the medium auxiliary memory's capacity.
pub const CHIP_BYTES_MAX: usize = 16 << 10;
/// Drives that a chip remembers.
const DRIVES_MAX: usize = 4;

/// The name on the outside.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Barcode(String);

impl Barcode {
    /// `None` where it is none: 5 to 16 capital letters and digits.
    pub fn new(text: &str) -> Option<Self> {
        let is_plain = text.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit());
        ((5..=16).contains(&text.len()) && is_plain).then(|| Self(text.to_owned()))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Barcode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// What is remembered of a cartridge beside its reel: what hosts wrote, and what it went through.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chip {
    /// Attributes that hosts wrote: identifier, format, value.
    pub attributes: BTreeMap<u16, (u8, Vec<u8>)>,
    /// Times it was put into a drive.
    pub loads: u64,
    /// Bytes of records that were ever written to it, as of its last unload.
    pub written_bytes: u64,
    /// Bytes of records that were ever read from it, as of its last unload.
    pub read_bytes: u64,
    /// Serial numbers of the drives that it was in, the last first.
    pub drives: Vec<String>,
}

impl Chip {
    /// Bytes that attributes may still take.
    pub fn room_bytes(&self) -> usize {
        let used: usize = self.attributes.values().map(|(_, value)| 5 + value.len()).sum();
        CHIP_BYTES_MAX.saturating_sub(used)
    }

    /// It was put into a drive.
    pub fn loaded(&mut self, drive: &str) {
        self.loads += 1;
        self.drives.insert(0, drive.to_owned());
        self.drives.truncate(DRIVES_MAX);
    }
}

/// See the module.
#[derive(Clone)]
pub struct Cartridge {
    /// What it is called.
    pub barcode: Barcode,
    /// Its reel.
    pub medium: Arc<dyn Medium>,
}

impl Cartridge {
    /// A reel with a name.
    pub fn new(barcode: Barcode, medium: Arc<dyn Medium>) -> Arc<Self> {
        Arc::new(Self { barcode, medium })
    }
}

impl fmt::Debug for Cartridge {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Cartridge({})", self.barcode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn barcodes_are_of_few_letters() {
        for good in ["TST001L5", "AAAAA", "0123456789ABCDEF"] {
            assert_eq!(Barcode::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "AAAA", "0123456789ABCDEF0", "tst001l5", "TST 01", "TST-01", "\u{c4}BCDEF"] {
            assert_eq!(Barcode::new(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_chip_remembers_the_last_drives_and_knows_its_room() {
        let mut chip = Chip::default();
        for drive in ["a", "b", "c", "d", "e"] {
            chip.loaded(drive);
        }
        assert_eq!((chip.loads, chip.drives.join("")), (5, "edcb".to_owned()));
        chip.attributes.insert(0x0801, (1, vec![0; 32]));
        assert_eq!(chip.room_bytes(), CHIP_BYTES_MAX - 37);
    }
}

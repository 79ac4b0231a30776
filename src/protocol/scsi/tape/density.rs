//! REPORT DENSITY SUPPORT (SSC-4 §7.6) and the vital product data of tape drives (§8.6).

use super::{Cdb, Failure, Tape};
use crate::protocol::scsi::Answer;
use crate::protocol::scsi::inquiry::padded;
use crate::protocol::scsi::personality::{ORGANIZATION, WIDTH};

/// WRTOK, DEFLT.
const WRITABLE_DEFAULT: u8 = 0x80 | 0x20;
/// The length of an Ultrium tape, in metres.
const LENGTH: u16 = 846;

impl Tape {
    /// One density, of the drive as of every cartridge; with MEDIUM TYPE one medium type.
    pub(super) fn density_support(&self, cdb: &Cdb) -> Result<Answer, Failure> {
        let (of_medium, as_types) = (cdb.bit(1, 0), cdb.bit(1, 1));
        let properties = self.drive.status().properties;
        if of_medium {
            self.ready_now()?;
        }
        let descriptor = if as_types { self.medium_type() } else { self.density(properties.filter(|_| of_medium)) };
        let mut data = ((descriptor.len() + 2) as u16).to_be_bytes().to_vec();
        data.extend([0, 0]);
        data.extend(descriptor);
        Ok(Answer::parameters(data, cdb.length(7, 2)))
    }

    fn ready_now(&self) -> Result<(), Failure> {
        crate::protocol::scsi::LogicalUnit::ready(self)
    }

    /// A density support data block, table 62; the capacity is the cartridge's where one is meant.
    fn density(&self, properties: Option<crate::engine::tape::Properties>) -> Vec<u8> {
        let density = &self.model.density;
        let own_mb = properties.map(|properties| u32::try_from(properties.capacity_bytes / 1_000_000).unwrap_or(u32::MAX));
        let mut data = vec![density.code, density.code, WRITABLE_DEFAULT, 0, 0];
        data.extend(&density.bits_per_mm.to_be_bytes()[1..]);
        data.extend(WIDTH.to_be_bytes());
        data.extend(density.tracks.to_be_bytes());
        data.extend(own_mb.unwrap_or(density.capacity_mb).to_be_bytes());
        data.extend(padded(ORGANIZATION, 8));
        data.extend(padded(density.name, 8));
        data.extend(padded(density.description, 20));
        data
    }

    /// A medium type descriptor, table 64.
    fn medium_type(&self) -> Vec<u8> {
        let density = &self.model.density;
        let mut data = vec![density.medium, 0, 0, 52, 1, density.code, 0, 0, 0, 0, 0, 0, 0, 0];
        data.extend(WIDTH.to_be_bytes());
        data.extend(LENGTH.to_be_bytes());
        data.extend([0, 0]);
        data.extend(padded(ORGANIZATION, 8));
        data.extend(padded(density.name, 8));
        data.extend(padded(density.description, 20));
        data
    }

    /// B0h: WORM media are served. B1h: the maker's serial number. B2h: the TapeAlert flags that are ever set.
    pub(super) fn pages_of_streams(&self) -> Vec<(u8, Vec<u8>)> {
        let serial = self.drive.serial().as_bytes().to_vec();
        vec![(0xb0, vec![1, 0]), (0xb1, serial), (0xb2, super::logs::supported_alerts().to_vec())]
    }
}

//! The medium's memory: READ ATTRIBUTE and WRITE ATTRIBUTE (SPC-4 §6.17, §6.44, §7.4).
//!
//! Invariants: what the device and the medium say of themselves is read-only; what hosts write is kept on the cartridge, durable when it is
//! answered, and a list with something wrong in it changes nothing.

use bytes::Bytes;

use super::{Cdb, Condition, Failure, Sense, Tape};
use crate::engine::tape::{CHIP_BYTES_MAX, Chip, Medium};
use crate::protocol::scsi::Answer;
use crate::protocol::scsi::cdb::number;
use crate::protocol::scsi::inquiry::padded;
use crate::protocol::scsi::personality::{ORGANIZATION, WIDTH};

/// FORMAT of a value.
const BINARY: u8 = 0;
const ASCII: u8 = 1;
const TEXT: u8 = 2;
const READ_ONLY: u8 = 0x80;

/// Attributes that hosts may write (table 360): identifier, format, the longest value in bytes; `true`: exactly so long.
const HOSTS: &[(u16, u8, usize, bool)] = &[
    (0x0800, ASCII, 8, true),
    (0x0801, ASCII, 32, true),
    (0x0802, ASCII, 8, true),
    (0x0803, TEXT, 160, true),
    (0x0804, ASCII, 12, true),
    (0x0805, BINARY, 1, true),
    (0x0806, ASCII, 32, true),
    (0x0807, TEXT, 80, true),
    (0x0808, TEXT, 160, true),
    (0x0809, ASCII, 16, true),
    (0x080a, BINARY, 1, true),
    (0x080b, ASCII, 16, true),
    (0x080c, BINARY, 1023, false),
    (0x0820, BINARY, 36, true),
    (0x0821, BINARY, 36, true),
];
/// And those of vendors, which may be anything.
const VENDOR: std::ops::Range<u16> = 0x1400..0x1800;
const VENDOR_BYTES_MAX: usize = 1024;

/// Identifier, format with READ ONLY, value.
type Attribute = (u16, u8, Vec<u8>);

impl Tape {
    pub(super) async fn read_attribute(&self, cdb: &Cdb) -> Result<Answer, Failure> {
        let action = cdb.action();
        let head = self.head().await?;
        // There is one volume with one partition.
        for at in [5, 7] {
            if cdb.byte(at) != 0 {
                return Err(Sense::invalid_cdb(at as u16).into());
            }
        }
        let from = cdb.number(8, 2) as u16;
        let body: Vec<u8> = match action {
            0x02 | 0x03 => return Ok(Answer::parameters(vec![0, 2, 0, 1], cdb.length(10, 4))),
            0x05 => supported(from).into_iter().flat_map(u16::to_be_bytes).collect(),
            _ => {
                let mut attributes = self.attributes(head.medium().as_ref());
                attributes.retain(|(id, ..)| *id >= from);
                if action == 0x01 {
                    attributes.iter().flat_map(|(id, ..)| id.to_be_bytes()).collect()
                } else {
                    if attributes.is_empty() {
                        return Err(Sense::invalid_cdb(8).into());
                    }
                    attributes.iter().flat_map(encoded).collect()
                }
            }
        };
        Ok(Answer::parameters([&(body.len() as u32).to_be_bytes()[..], &body].concat(), cdb.length(10, 4)))
    }

    /// All that there are now, by identifier.
    fn attributes(&self, medium: &dyn Medium) -> Vec<Attribute> {
        let (chip, extent, properties) = (medium.chip(), medium.extent(), medium.properties());
        let density = &self.model.density;
        let (written, read) = (self.drive.counters().written_bytes, self.drive.counters().read_bytes);
        let number = |id: u16, value: u64, len: usize| (id, BINARY | READ_ONLY, value.to_be_bytes()[8 - len..].to_vec());
        let text = |id: u16, value: &str, len: usize| (id, ASCII | READ_ONLY, padded(value, len));
        let barcode = self.drive.status().barcode.map(|barcode| barcode.to_string()).unwrap_or_default();
        let mut all = vec![
            number(0x0000, properties.capacity_bytes.saturating_sub(extent.used_bytes) >> 20, 8),
            number(0x0001, properties.capacity_bytes >> 20, 8),
            number(0x0002, self.alerts().reverse_bits(), 8),
            number(0x0003, chip.loads, 8),
            number(0x0004, chip.room_bytes() as u64, 8),
            text(0x0005, ORGANIZATION, 8),
            number(0x0006, density.code.into(), 1),
        ];
        for (id, drive) in (0x020a..).zip(&chip.drives) {
            all.push(text(id, &format!("{:8}{drive}", self.model.vendor), 40));
        }
        all.extend([
            number(0x0220, (chip.written_bytes + written) >> 20, 8),
            number(0x0221, (chip.read_bytes + read) >> 20, 8),
            number(0x0222, written >> 20, 8),
            number(0x0223, read >> 20, 8),
            text(0x0400, self.model.vendor, 8),
            text(0x0401, &barcode, 32),
            number(0x0402, 846, 4),
            number(0x0403, WIDTH.into(), 4),
            text(0x0404, ORGANIZATION, 8),
            number(0x0405, density.code.into(), 1),
            number(0x0407, CHIP_BYTES_MAX as u64, 8),
            number(0x0408, if properties.is_worm { 0x80 } else { 0 }, 1),
        ]);
        let format = |id: &u16| HOSTS.iter().find(|(known, ..)| known == id).map(|(_, format, ..)| *format);
        all.extend(chip.attributes.iter().map(|(id, (written, value))| (*id, format(id).unwrap_or(*written), value.clone())));
        if !chip.attributes.contains_key(&0x0806) {
            let at = all.iter().position(|(id, ..)| *id > 0x0806).unwrap_or(all.len());
            all.insert(at, (0x0806, ASCII, padded(&barcode, 32)));
        }
        all
    }

    pub(super) async fn write_attribute(&self, cdb: &Cdb, data: &Bytes) -> Result<Answer, Failure> {
        let head = self.head().await?;
        for at in [5, 7] {
            if cdb.byte(at) != 0 {
                return Err(Sense::invalid_cdb(at as u16).into());
            }
        }
        let len = cdb.length(10, 4);
        if len == 0 {
            return Ok(Answer::none());
        }
        let list = data.get(..len).ok_or(Condition::PARAMETER_LIST_LENGTH_ERROR)?;
        let told = list.get(4..).ok_or(Condition::PARAMETER_LIST_LENGTH_ERROR)?.len() as u64;
        if number(list, 0, 4) != told {
            return Err(Condition::PARAMETER_LIST_LENGTH_ERROR.into());
        }
        let mut chip = head.medium().chip();
        take(&mut chip, &list[4..])?;
        head.medium().set_chip(chip).await.map_err(|error| self.failure(&error.into()))?;
        Ok(Answer::none())
    }
}

/// As READ ATTRIBUTE has it, table 357.
fn encoded((id, format, value): &Attribute) -> Vec<u8> {
    let mut bytes = id.to_be_bytes().to_vec();
    bytes.push(*format);
    bytes.extend((value.len() as u16).to_be_bytes());
    bytes.extend(value);
    bytes
}

/// The identifiers that can be there at all.
fn supported(from: u16) -> Vec<u16> {
    let own = (0x0000..=0x0006).chain(0x020a..=0x020d).chain(0x0220..=0x0223).chain(0x0400..=0x0405).chain(0x0407..=0x0408);
    let hosts = HOSTS.iter().map(|(id, ..)| *id);
    own.chain(hosts).filter(|id| *id >= from).collect()
}

/// Changes a chip as a list of attributes says. One without a value is removed.
fn take(chip: &mut Chip, list: &[u8]) -> Result<(), Failure> {
    let mut at = 0;
    while at < list.len() {
        // Places are told from the begin of the parameters, which have four bytes before the list.
        let wrong = |byte: usize| Failure::from(Sense::invalid_parameter((4 + at + byte) as u16));
        let (Some(header), len) = (list.get(at..at + 5), number(list, at + 3, 2) as usize) else {
            return Err(Condition::PARAMETER_LIST_LENGTH_ERROR.into());
        };
        let value = list.get(at + 5..at + 5 + len).ok_or(Condition::PARAMETER_LIST_LENGTH_ERROR)?;
        let (id, format) = (number(header, 0, 2) as u16, header[2] & 0x03);
        let (wanted, most, is_exact) = match HOSTS.iter().find(|(known, ..)| *known == id) {
            Some((_, format, most, is_exact)) => (*format, *most, *is_exact),
            None if VENDOR.contains(&id) => (format, VENDOR_BYTES_MAX, false),
            None => return Err(wrong(0)),
        };
        if value.is_empty() {
            chip.attributes.remove(&id);
        } else {
            if format != wanted {
                return Err(wrong(2));
            }
            // A shorter text is padded by the host; a longer one does not fit.
            if value.len() > most || is_exact && format == BINARY && value.len() != most {
                return Err(wrong(3));
            }
            chip.attributes.insert(id, (format, value.to_vec()));
        }
        if chip.room_bytes() == 0 {
            return Err(wrong(0));
        }
        at += 5 + len;
    }
    Ok(())
}

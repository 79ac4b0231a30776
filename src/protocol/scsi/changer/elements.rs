//! READ ELEMENT STATUS (SMC-3 §6.11).
//!
//! Invariant: an answer has whole descriptors only, as many as fit; its counts are of all that were asked for, whatever fits.

use super::{Cdb, Changer, Condition, Failure, Sense};
use crate::engine::tape::{Element, Kind};
use crate::protocol::scsi::Answer;
use crate::protocol::scsi::inquiry::padded;

/// Bytes before the descriptors: of the answer, and of each page.
const HEADER_BYTES: usize = 8;
/// A volume tag: an identifier of 32, two reserved, a sequence number.
const TAG_BYTES: usize = 36;

/// Flags of a descriptor, byte 2.
const FULL: u8 = 0x01;
const IMPORTED: u8 = 0x02;
const ACCESS: u8 = 0x08;
const CAN_EXPORT: u8 = 0x10;
const CAN_IMPORT: u8 = 0x20;
/// Byte 9: the source element address is valid.
const SOURCE_VALID: u8 = 0x80;
/// PVOLTAG of a page.
const TAGGED: u8 = 0x80;

/// What descriptors have beside the address.
#[derive(Clone, Copy)]
pub(super) struct Detail {
    /// VOLTAG.
    pub(super) has_tags: bool,
    /// DVCID.
    pub(super) has_names: bool,
}

/// ELEMENT TYPE CODE: `None` is all.
pub(super) fn kind_of(code: u8) -> Result<Option<Kind>, Failure> {
    match code {
        0 => Ok(None),
        1 => Ok(Some(Kind::Robot)),
        2 => Ok(Some(Kind::Storage)),
        3 => Ok(Some(Kind::Port)),
        4 => Ok(Some(Kind::Drive)),
        _ => Err(Sense::invalid_cdb_bit(1, 3).into()),
    }
}

impl Changer {
    pub(super) fn element_status(&self, cdb: &Cdb) -> Result<Answer, Failure> {
        let kind = kind_of(cdb.byte(1) & 0x0f)?;
        let (first, count) = (cdb.number(2, 2) as u16, cdb.number(4, 2) as usize);
        let mut elements = self.library.elements(kind, first, usize::MAX);
        if elements.is_empty() {
            return Err(Condition::INVALID_ELEMENT_ADDRESS.into());
        }
        elements.truncate(count);
        let detail = Detail { has_tags: cdb.bit(1, 4), has_names: cdb.bit(6, 0) };
        Ok(self.report(&elements, detail, 0, cdb.length(7, 3)))
    }

    /// The answer: a header, and a page for each kind. `action` is REQUEST VOLUME ELEMENT ADDRESS's.
    pub(super) fn report(&self, elements: &[Element], detail: Detail, action: u8, allocation_bytes: usize) -> Answer {
        let pages: Vec<_> = elements.chunk_by(|one, other| one.kind == other.kind).collect();
        let bytes_of = |page: &[Element]| HEADER_BYTES + page.len() * self.descriptor_bytes(page[0].kind, detail);
        let available: usize = pages.iter().map(|page| bytes_of(page)).sum();
        let first = elements.iter().map(|element| element.address).min().unwrap_or(0);
        let mut data = first.to_be_bytes().to_vec();
        data.extend((elements.len() as u16).to_be_bytes());
        data.push(action);
        data.extend(&(available as u32).to_be_bytes()[1..]);
        for page in pages {
            if data.len() + HEADER_BYTES > allocation_bytes {
                break;
            }
            let (kind, each) = (page[0].kind, self.descriptor_bytes(page[0].kind, detail));
            data.extend([kind as u8, if detail.has_tags { TAGGED } else { 0 }]);
            data.extend((each as u16).to_be_bytes());
            data.extend(((page.len() * each) as u32).to_be_bytes());
            let fitting = (allocation_bytes - data.len()) / each;
            for element in page.iter().take(fitting) {
                data.extend(self.descriptor(element, detail));
            }
        }
        Answer::parameters(data, allocation_bytes)
    }

    /// All descriptors of a page are as long as its longest.
    fn descriptor_bytes(&self, kind: Kind, detail: Detail) -> usize {
        let longest = self.drives.iter().map(Vec::len).max().unwrap_or(0);
        let name = if detail.has_names && kind == Kind::Drive { longest } else { 0 };
        12 + if detail.has_tags { TAG_BYTES } else { 0 } + 4 + name
    }

    /// Tables 43, 45, 46 and 47.
    fn descriptor(&self, element: &Element, detail: Detail) -> Vec<u8> {
        let mut data = element.address.to_be_bytes().to_vec();
        let full = if element.barcode.is_some() { FULL } else { 0 };
        let access = if element.is_accessible { ACCESS } else { 0 };
        data.push(match element.kind {
            Kind::Robot => full,
            Kind::Port => CAN_IMPORT | CAN_EXPORT | access | if element.is_import { IMPORTED } else { 0 } | full,
            Kind::Storage | Kind::Drive => access | full,
        });
        data.extend([0; 6]);
        data.push(if element.source.is_some() { SOURCE_VALID } else { 0 });
        data.extend(element.source.unwrap_or(0).to_be_bytes());
        if detail.has_tags {
            data.extend(tag(element));
        }
        data.extend(self.name(element, detail));
        data.resize(self.descriptor_bytes(element.kind, detail), 0);
        data
    }

    /// Code set ASCII, T10 vendor identification: as the drive's own page 83h says.
    fn name(&self, element: &Element, detail: Detail) -> Vec<u8> {
        let number = element.address.wrapping_sub(self.library.layout().drives.start);
        match self.drives.get(usize::from(number)) {
            Some(name) if detail.has_names && element.kind == Kind::Drive => {
                [&[0x02, 0x01, 0, name.len() as u8][..], name].concat()
            }
            _ => vec![0; 4],
        }
    }
}

/// A volume tag (§6.11.8); zeroes where there is no volume.
fn tag(element: &Element) -> Vec<u8> {
    let Some(barcode) = &element.barcode else { return vec![0; TAG_BYTES] };
    let mut tag = padded(barcode.as_str(), 32);
    tag.resize(TAG_BYTES, 0);
    tag
}

//! INQUIRY (SPC-4 §6.6) and the vital product data pages that every device type has (§7.8).
//!
//! Invariant: what is said here is what the unit does: the bits are set by what is served, not by hope.

use super::cdb::Cdb;
use super::lun::Lun;
use super::sense::Sense;
use super::target::Target;
use super::{Answer, Failure};

/// Claimed standards (SPC-4 table 146): SAM-5, SPC-4, iSCSI; the device type adds its own.
const VERSIONS: [u16; 3] = [0x00a0, 0x0460, 0x0960];
/// SPC-4.
const VERSION: u8 = 0x06;

/// What INQUIRY says of a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// PERIPHERAL DEVICE TYPE: 0 a disk, 1 a tape drive, 8 a changer.
    pub device_type: u8,
    /// T10 VENDOR IDENTIFICATION, at most 8 characters.
    pub vendor: String,
    /// PRODUCT IDENTIFICATION, at most 16 characters.
    pub product: String,
    /// PRODUCT REVISION LEVEL, at most 4 characters.
    pub revision: String,
    /// UNIT SERIAL NUMBER: never changes, never used twice.
    pub serial: String,
    /// RMB: the medium can be taken out.
    pub is_removable: bool,
    /// The standard of the device type, as a version descriptor (SBC-3: 0x04c0).
    pub standard: u16,
    /// EXTENDED COPY is served.
    pub copies: bool,
}

impl Identity {
    /// A name of 60 bits, made from the serial number: the locally assigned NAA identifier.
    pub(super) fn local_id(&self) -> [u8; 8] {
        // FNV-1a, 64 bits: a fixed function, so that the name is the same for ever.
        let hash = self
            .serial
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        (hash >> 4 | 3 << 60).to_be_bytes()
    }

    /// The T10 vendor identification designator (§7.8.5.4).
    pub(super) fn vendor_id(&self) -> Vec<u8> {
        [padded(&self.vendor, 8), padded(&self.product, 16), self.serial.bytes().take(200).collect()].concat()
    }
}

/// Left-aligned ASCII, padded with blanks.
pub(super) fn padded(text: &str, len: usize) -> Vec<u8> {
    let printable = text.bytes().map(|byte| if (0x20..0x7f).contains(&byte) { byte } else { b'?' });
    let mut bytes: Vec<u8> = printable.take(len).collect();
    bytes.resize(len, b' ');
    bytes
}

pub(super) fn answer(lun: &Lun, target: &Target, cdb: &Cdb) -> Result<Answer, Failure> {
    let allocation_bytes = cdb.length(3, 2);
    let identity = lun.unit.identity();
    if !cdb.bit(1, 0) {
        return match cdb.byte(2) {
            0 => Ok(Answer::parameters(standard(identity), allocation_bytes)),
            _ => Err(Sense::invalid_cdb(2).into()),
        };
    }
    let code = cdb.byte(2);
    let mut pages =
        vec![(0x80, padded(&identity.serial, identity.serial.len())), (0x83, names(identity, target)), (0x86, extended())];
    pages.extend(lun.unit.vital_pages());
    let body = match pages.iter().find(|(page, _)| *page == code) {
        Some((_, body)) => body.clone(),
        None if code == 0 => [0].into_iter().chain(pages.iter().map(|(page, _)| *page)).collect(),
        None => return Err(Sense::invalid_cdb(2).into()),
    };
    let mut data = vec![identity.device_type, code];
    data.extend((body.len() as u16).to_be_bytes());
    data.extend(body);
    Ok(Answer::parameters(data, allocation_bytes))
}

/// What a unit number without a unit answers: no device can be here.
pub(super) fn answer_nowhere(cdb: &Cdb) -> Result<Answer, Failure> {
    if cdb.bit(1, 0) || cdb.byte(2) != 0 {
        return Err(Sense::invalid_cdb(1).into());
    }
    let mut data = vec![0; 36];
    data[0] = 0x7f;
    data[2] = VERSION;
    data[3] = 2;
    data[4] = 31;
    data[8..].fill(b' ');
    Ok(Answer::parameters(data, cdb.length(3, 2)))
}

fn standard(identity: &Identity) -> Vec<u8> {
    let mut data = vec![0; 96];
    data[0] = identity.device_type;
    data[1] = u8::from(identity.is_removable) << 7;
    data[2] = VERSION;
    // HISUP, response data format 2.
    data[3] = 0x12;
    data[4] = 91;
    // TPGS: implicit asymmetric access; 3PC.
    data[5] = 0x10 | u8::from(identity.copies) << 3;
    // CMDQUE.
    data[7] = 0x02;
    data[8..16].copy_from_slice(&padded(&identity.vendor, 8));
    data[16..32].copy_from_slice(&padded(&identity.product, 16));
    data[32..36].copy_from_slice(&padded(&identity.revision, 4));
    for (at, version) in VERSIONS.into_iter().chain([identity.standard]).enumerate() {
        data[58 + 2 * at..60 + 2 * at].copy_from_slice(&version.to_be_bytes());
    }
    data
}

/// Device identification: of the unit (T10 vendor, NAA), of the port (number, group, name), of the target device.
fn names(identity: &Identity, target: &Target) -> Vec<u8> {
    let mut data = Vec::new();
    let mut name = |protocol_and_code_set: u8, association_and_type: u8, body: &[u8]| {
        data.extend([protocol_and_code_set, association_and_type, 0, body.len() as u8]);
        data.extend(body);
    };
    name(0x02, 0x01, &identity.vendor_id());
    name(0x01, 0x03, &identity.local_id());
    name(0x51, 0x94, &[0, 0, 0, 1]);
    name(0x51, 0x95, &[0, 0, 0, 1]);
    name(0x53, 0x98, &scsi_name(&target.port));
    name(0x53, 0xa8, &scsi_name(&target.name));
    data
}

/// A SCSI name string (§7.8.5.11): UTF-8, closed by a zero, a multiple of four.
fn scsi_name(name: &str) -> Vec<u8> {
    let mut bytes: Vec<u8> = name.bytes().take(247).collect();
    bytes.push(0);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// Extended INQUIRY data: head of queue, ordered and simple tasks; a volatile cache may be there; attentions are per nexus.
fn extended() -> Vec<u8> {
    let mut body = vec![0; 60];
    body[1] = 0x07;
    body[2] = 0x01;
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_the_standard_says() {
        let identity = Identity {
            device_type: 0,
            vendor: "TIDEGATE".to_owned(),
            product: "DISK".to_owned(),
            revision: "1".to_owned(),
            serial: "vol-1".to_owned(),
            is_removable: false,
            standard: 0x04c0,
            copies: true,
        };
        assert_eq!(identity.local_id()[0] >> 4, 3);
        let other = Identity { serial: "vol-2".to_owned(), ..identity.clone() };
        assert_ne!(identity.local_id(), other.local_id());
        let data = standard(&identity);
        assert_eq!((data.len(), &data[8..36]), (96, &b"TIDEGATEDISK            1   "[..]));
        assert_eq!(scsi_name("abc"), b"abc\0");
        assert_eq!(scsi_name("abcd"), b"abcd\0\0\0\0");
        assert_eq!(padded("a\u{e4}\n", 6), b"a???  ");
    }
}

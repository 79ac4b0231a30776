//! Log pages: LOG SENSE and LOG SELECT (SPC-4 §6.6, §6.7, §7.3), for the types that have them.
//!
//! Invariants: only cumulative values are told (PC 01b), which nobody sets but by clearing all; the list of supported pages is the list of pages.

use super::cdb::Cdb;
use super::sense::{Condition, Sense};
use super::{Answer, Failure};

/// SUPPORTED LOG PAGES.
const SUPPORTED: u8 = 0x00;
/// TapeAlert.
pub(super) const TAPE_ALERT: u8 = 0x2e;
/// FORMAT AND LINKING: a binary list.
const LIST: u8 = 0x03;

/// A parameter of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Parameter {
    code: u16,
    control: u8,
    value: Vec<u8>,
}

impl Parameter {
    /// A counter of so many bytes (a bounded data counter).
    pub(super) fn counter(code: u16, value: u64, len: usize) -> Self {
        Self { code, control: 0, value: value.to_be_bytes()[8 - len..].to_vec() }
    }

    /// Fields.
    pub(super) fn list(code: u16, value: &[u8]) -> Self {
        Self { code, control: LIST, value: value.to_vec() }
    }
}

/// A page without subpages; the parameters by code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) code: u8,
    pub(super) parameters: Vec<Parameter>,
}

/// The TapeAlert page (SSC-4 §8.3.3, SMC-3 §7.2.2): flag 1 is bit 0.
pub(super) fn tape_alert(flags: u64) -> Page {
    let parameters = (1..=64_u16).map(|flag| Parameter::list(flag, &[(flags >> (flag - 1) & 1) as u8])).collect();
    Page { code: TAPE_ALERT, parameters }
}

/// What a LOG SENSE asks for: the code of the page.
///
/// # Errors
/// Where it is in no way served.
pub(super) fn asked(cdb: &Cdb) -> Result<u8, Failure> {
    if cdb.byte(2) >> 6 != 1 {
        return Err(Sense::invalid_cdb_bit(2, 7).into());
    }
    Ok(cdb.byte(2) & 0x3f)
}

/// LOG SENSE.
pub(super) fn sense(pages: &[Page], cdb: &Cdb) -> Result<Answer, Failure> {
    let (code, subpage) = (asked(cdb)?, cdb.byte(3));
    let codes = || std::iter::once(SUPPORTED).chain(pages.iter().map(|page| page.code));
    let body = match (code, subpage) {
        (SUPPORTED, 0) => codes().collect(),
        // Pages and subpages: none has another than 0, but this.
        (SUPPORTED, 0xff) => [SUPPORTED, 0xff].into_iter().chain(codes().flat_map(|code| [code, 0])).collect(),
        (_, 0) => {
            let page = pages.iter().find(|page| page.code == code).ok_or_else(|| Sense::invalid_cdb(2))?;
            parameters(page, cdb.number(5, 2) as u16)?
        }
        _ => return Err(Sense::invalid_cdb(3).into()),
    };
    let mut data = vec![code | u8::from(subpage != 0) << 6, subpage];
    data.extend((body.len() as u16).to_be_bytes());
    data.extend(body);
    Ok(Answer::parameters(data, cdb.length(7, 2)))
}

fn parameters(page: &Page, from: u16) -> Result<Vec<u8>, Failure> {
    if page.parameters.last().is_none_or(|last| last.code < from) {
        return Err(Sense::invalid_cdb(5).into());
    }
    let mut body = Vec::new();
    for parameter in page.parameters.iter().filter(|parameter| parameter.code >= from) {
        body.extend(parameter.code.to_be_bytes());
        body.extend([parameter.control, parameter.value.len() as u8]);
        body.extend(&parameter.value);
    }
    Ok(body)
}

/// LOG SELECT: whether everything is to be cleared. Nothing else can be done.
pub(super) fn select(cdb: &Cdb) -> Result<bool, Failure> {
    if cdb.length(7, 2) != 0 {
        return Err(Condition::PARAMETER_LIST_LENGTH_ERROR.into());
    }
    Ok(cdb.bit(1, 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages() -> Vec<Page> {
        let counters = vec![Parameter::counter(2, 0x0102, 4), Parameter::counter(5, 9, 8)];
        vec![Page { code: 0x0c, parameters: counters }, tape_alert(1 << 2)]
    }

    fn ask(page: u8, subpage: u8, from: u8) -> Result<Vec<u8>, Failure> {
        let cdb = Cdb::new(&[0x4d, 0, page, subpage, 0, 0, from, 4, 0, 0]);
        sense(&pages(), &cdb).map(|answer| answer.data.concat())
    }

    #[test]
    fn golden_pages() {
        assert_eq!(ask(0x40, 0, 0).unwrap(), [0, 0, 0, 3, 0, 0x0c, 0x2e]);
        assert_eq!(ask(0x40, 0xff, 0).unwrap(), [0x40, 0xff, 0, 8, 0, 0xff, 0, 0, 0x0c, 0, 0x2e, 0]);
        let counters = [0x0c, 0, 0, 20, 0, 2, 0, 4, 0, 0, 1, 2, 0, 5, 0, 8, 0, 0, 0, 0, 0, 0, 0, 9];
        assert_eq!(ask(0x4c, 0, 0).unwrap(), counters);
        assert_eq!(ask(0x4c, 0, 3).unwrap()[4..], counters[12..]);
        let alerts = ask(0x6e, 0, 0).unwrap();
        assert_eq!((alerts.len(), &alerts[4..9], &alerts[14..19]), (4 + 64 * 5, &[0, 1, 3, 1, 0][..], &[0, 3, 3, 1, 1][..]));
    }

    #[test]
    fn what_is_not_there_is_refused() {
        for (page, subpage, from, byte) in [(0x41, 0, 0, 2), (0x4c, 1, 0, 3), (0x4c, 0, 6, 5)] {
            assert_eq!(ask(page, subpage, from), Err(Sense::invalid_cdb(byte).into()));
        }
        assert_eq!(ask(0x0c, 0, 0), Err(Sense::invalid_cdb_bit(2, 7).into()));
        assert_eq!(select(&Cdb::new(&[0x4c, 2, 0x40, 0, 0, 0, 0, 0, 0, 0])), Ok(true));
        assert!(select(&Cdb::new(&[0x4c, 2, 0x40, 0, 0, 0, 0, 0, 8, 0])).is_err());
    }
}

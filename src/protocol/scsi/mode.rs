//! Mode pages: MODE SENSE and MODE SELECT (SPC-4 §6.13, §7.5), and the control mode page, which every type has.
//!
//! Invariant: only bits that are changeable change, and a list with anything else in it changes nothing.

use super::cdb::{Cdb, number};
use super::lun::Lun;
use super::sense::{Condition, Sense};
use super::task::Task;
use super::{Answer, Failure};

const CONTROL: u8 = 0x0a;
const ALL_PAGES: u8 = 0x3f;
/// PERIPHERAL DEVICE TYPE of sequential-access devices.
const TAPE: u8 = 1;

/// The header of mode parameters, with the block descriptor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// MEDIUM TYPE.
    pub medium: u8,
    /// DEVICE-SPECIFIC PARAMETER.
    pub device: u8,
    /// The block descriptor: 8 bytes, 16 in the long form, or none.
    pub descriptor: Vec<u8>,
}

/// A mode page without subpages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// PAGE CODE.
    pub code: u8,
    /// What follows the page's two-byte header, as it is now.
    pub body: Vec<u8>,
    /// The bits of it that MODE SELECT may change.
    pub changeable: Vec<u8>,
    /// What it is without MODE SELECT.
    pub default: Vec<u8>,
}

/// What the control mode page says that may be changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Control {
    /// Sense in descriptor format.
    pub(super) d_sense: bool,
    /// Software write protect.
    pub(super) swp: bool,
}

impl Control {
    fn page(self) -> Page {
        // D_SENSE; QUEUE ALGORITHM MODIFIER 1: unrestricted reordering of simple tasks; SWP.
        let body = |control: Self| vec![u8::from(control.d_sense) << 2, 0x10, u8::from(control.swp) << 3, 0, 0, 0, 0, 0, 0, 0];
        Page {
            code: CONTROL,
            body: body(self),
            changeable: vec![0x04, 0, 0x08, 0, 0, 0, 0, 0, 0, 0],
            default: body(Self::default()),
        }
    }

    fn of(body: &[u8]) -> Self {
        Self { d_sense: body[0] & 0x04 != 0, swp: body[2] & 0x08 != 0 }
    }
}

fn pages(lun: &Lun) -> Vec<Page> {
    let mut pages = lun.unit.mode_pages();
    pages.push(lun.shared.lock().control.page());
    pages.sort_by_key(|page| page.code);
    pages
}

/// MODE SENSE(6) and (10).
pub(super) fn sense(lun: &Lun, cdb: &Cdb) -> Result<Answer, Failure> {
    let is_long = cdb.code() == 0x5a;
    let (control, code, subpage) = (cdb.byte(2) >> 6, cdb.byte(2) & 0x3f, cdb.byte(3));
    if control == 3 {
        return Err(Condition::SAVING_PARAMETERS_NOT_SUPPORTED.into());
    }
    if subpage != 0 && !(code == ALL_PAGES && subpage == 0xff) {
        return Err(Sense::invalid_cdb(3).into());
    }
    let mut list = Vec::new();
    for page in pages(lun).into_iter().filter(|page| code == ALL_PAGES || page.code == code) {
        let body = match control {
            0 => page.body,
            1 => page.changeable,
            _ => page.default,
        };
        list.extend([page.code, body.len() as u8]);
        list.extend(body);
    }
    // Hosts ask tapes for page 0 to be told the header and the block descriptor alone.
    if list.is_empty() && (code != 0 || lun.unit.identity().device_type != TAPE) {
        return Err(Sense::invalid_cdb(2).into());
    }
    let Header { medium, device, mut descriptor } = lun.unit.mode_header(is_long && cdb.bit(1, 4));
    if cdb.bit(1, 3) {
        descriptor.clear();
    }
    let rest_bytes = descriptor.len() + list.len();
    let mut data = if is_long {
        let [high, low] = (rest_bytes as u16 + 6).to_be_bytes();
        vec![high, low, medium, device, u8::from(descriptor.len() == 16), 0, 0, descriptor.len() as u8]
    } else {
        vec![rest_bytes as u8 + 3, medium, device, descriptor.len() as u8]
    };
    data.extend(descriptor);
    data.extend(list);
    let allocation_bytes = if is_long { cdb.length(7, 2) } else { cdb.length(4, 1) };
    Ok(Answer::parameters(data, allocation_bytes))
}

/// MODE SELECT(6) and (10).
pub(super) async fn select(lun: &Lun, task: &Task, data: &[u8]) -> Result<Answer, Failure> {
    let is_long = task.cdb.code() == 0x55;
    let len = if is_long { task.cdb.length(7, 2) } else { task.cdb.length(4, 1) };
    if task.cdb.bit(1, 0) {
        return Err(Sense::invalid_cdb_bit(1, 0).into());
    }
    if len == 0 {
        return Ok(Answer::none());
    }
    let header_bytes = if is_long { 8 } else { 4 };
    let data = data.get(..len).ok_or(Condition::PARAMETER_LIST_LENGTH_ERROR)?;
    if len < header_bytes {
        return Err(Condition::PARAMETER_LIST_LENGTH_ERROR.into());
    }
    let descriptor_bytes = if is_long { number(data, 6, 2) } else { number(data, 3, 1) } as usize;
    let list_at = header_bytes + descriptor_bytes;
    let descriptor = data.get(header_bytes..list_at).ok_or(Condition::PARAMETER_LIST_LENGTH_ERROR)?.to_vec();
    if !task.cdb.bit(1, 4) && list_at < len {
        // Without PF pages are in a vendor's format.
        return Err(Sense::invalid_cdb_bit(1, 4).into());
    }
    let (medium, device) = if is_long { (data[2], data[3]) } else { (data[1], data[2]) };
    let changed = changed_pages(lun, &data[list_at..], list_at)?;
    let is_header_new = lun.unit.set_mode_header(&Header { medium, device, descriptor }, header_bytes as u16).await?;
    for page in &changed {
        if page.code == CONTROL {
            let control = Control::of(&page.body);
            lun.shared.lock().control = control;
            lun.unit.set_write_protect(control.swp);
        } else {
            lun.unit.set_mode_page(page).await?;
        }
    }
    if is_header_new || !changed.is_empty() {
        lun.shared.lock().attentions.raise(Condition::MODE_PARAMETERS_CHANGED, Some(task.nexus.id));
    }
    Ok(Answer::none())
}

/// For units that change nothing of it: a block descriptor may be there, and has to say what is so.
pub(super) fn check_descriptor(given: &Header, own: [Header; 2], at: u16) -> Result<(), Failure> {
    let given = &given.descriptor[..];
    let is_same = |own: &[u8]| own.len() == given.len() && own.ends_with(&given[given.len().saturating_sub(3)..]);
    if given.is_empty() || own.iter().any(|own| is_same(&own.descriptor)) {
        return Ok(());
    }
    Err(Sense::invalid_parameter(at).into())
}

/// The pages of a list that differ from what they are now.
fn changed_pages(lun: &Lun, mut list: &[u8], mut at: usize) -> Result<Vec<Page>, Failure> {
    let own = pages(lun);
    let mut changed: Vec<Page> = Vec::new();
    while !list.is_empty() {
        let [first, len, ..] = *list else { return Err(Condition::PARAMETER_LIST_LENGTH_ERROR.into()) };
        let body = list.get(2..2 + usize::from(len)).ok_or(Condition::PARAMETER_LIST_LENGTH_ERROR)?;
        // PS is reserved here; SPF has no page of ours.
        let page = own.iter().find(|page| first & 0x40 == 0 && page.code == first & 0x3f);
        let page = page.ok_or_else(|| Sense::invalid_parameter(at as u16))?;
        if page.body.len() != body.len() {
            return Err(Sense::invalid_parameter(at as u16 + 1).into());
        }
        let differs = |number: &usize| (page.body[*number] ^ body[*number]) & !page.changeable[*number] != 0;
        if let Some(wrong) = (0..body.len()).find(differs) {
            return Err(Sense::invalid_parameter((at + 2 + wrong) as u16).into());
        }
        if page.body != body {
            changed.push(Page { body: body.to_vec(), ..page.clone() });
        }
        at += 2 + body.len();
        list = &list[2 + body.len()..];
    }
    Ok(changed)
}

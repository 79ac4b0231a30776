//! Reports about the target itself: REPORT LUNS, SUPPORTED OPERATION CODES, SUPPORTED TASK MANAGEMENT FUNCTIONS, TARGET PORT GROUPS
//! (SPC-4 §6.33 to §6.37).

use super::cdb::Cdb;
use super::opcode::Opcode;
use super::sense::Sense;
use super::target::Target;
use super::{Answer, Failure};

/// REPORT LUNS: all units, or none of the well-known ones.
pub(super) fn luns(target: &Target, cdb: &Cdb) -> Result<Answer, Failure> {
    let allocation_bytes = cdb.length(6, 4);
    let units = match cdb.byte(2) {
        0x00 | 0x02 => target.units(),
        0x01 => Vec::new(),
        _ => return Err(Sense::invalid_cdb(2).into()),
    };
    if allocation_bytes < 16 {
        return Err(Sense::invalid_cdb(6).into());
    }
    let list: Vec<u8> = units.iter().flat_map(|(number, _)| number.to_wire()).collect();
    let data = [&(list.len() as u32).to_be_bytes()[..], &[0; 4], &list].concat();
    Ok(Answer::parameters(data, allocation_bytes))
}

/// One group with one port, active and optimized: all portals of a target lead to the same unit at the same cost.
pub(super) fn target_port_groups(cdb: &Cdb) -> Answer {
    let group = [0x00, 0x01, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1];
    let data = [&(group.len() as u32).to_be_bytes()[..], &group].concat();
    Answer::parameters(data, cdb.length(6, 4))
}

/// ABORT TASK, ABORT TASK SET, CLEAR TASK SET, LOGICAL UNIT RESET, TARGET RESET; I_T NEXUS RESET is not.
pub(super) fn task_management(cdb: &Cdb) -> Answer {
    let extended = cdb.bit(2, 7);
    let mut data = vec![0x80 | 0x40 | 0x10 | 0x08 | 0x02, 0, 0, if extended { 12 } else { 0 }];
    data.resize(if extended { 16 } else { 4 }, 0);
    Answer::parameters(data, cdb.length(6, 4))
}

/// REPORT SUPPORTED OPERATION CODES: all, or one of them.
pub(super) fn opcodes(table: &[&Opcode], cdb: &Cdb) -> Result<Answer, Failure> {
    let with_timeouts = cdb.bit(2, 7);
    let (code, action) = (cdb.byte(3), cdb.number(4, 2));
    let of_code = || table.iter().filter(move |opcode| opcode.code() == code);
    let with_action = || of_code().find(|opcode| opcode.action().map(u64::from) == Some(action));
    let data = match cdb.byte(2) & 7 {
        0 => all(table, with_timeouts),
        1 if of_code().any(|opcode| opcode.has_action) => return Err(Sense::invalid_cdb_bit(2, 2).into()),
        1 => one(of_code().next().copied(), with_timeouts),
        2 if of_code().any(|opcode| !opcode.has_action) => return Err(Sense::invalid_cdb_bit(2, 2).into()),
        2 => one(with_action().copied(), with_timeouts),
        3 => one(with_action().or_else(|| of_code().find(|opcode| !opcode.has_action && action == 0)).copied(), with_timeouts),
        _ => return Err(Sense::invalid_cdb_bit(2, 2).into()),
    };
    Ok(Answer::parameters(data, cdb.length(6, 4)))
}

/// No time is promised: all timeouts are zero.
const TIMEOUTS: [u8; 12] = [0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fn all(table: &[&Opcode], with_timeouts: bool) -> Vec<u8> {
    let mut list = Vec::new();
    for opcode in table {
        let flags = u8::from(with_timeouts) << 1 | u8::from(opcode.has_action);
        list.extend([opcode.code(), 0, 0, opcode.action().unwrap_or(0), 0, flags, 0, opcode.usage.len() as u8]);
        if with_timeouts {
            list.extend(TIMEOUTS);
        }
    }
    [&(list.len() as u32).to_be_bytes()[..], &list].concat()
}

fn one(opcode: Option<&Opcode>, with_timeouts: bool) -> Vec<u8> {
    let Some(opcode) = opcode else { return vec![0, 1, 0, 0] };
    let mut data = vec![0, u8::from(with_timeouts) << 7 | 3];
    data.extend((opcode.usage.len() as u16).to_be_bytes());
    data.extend(opcode.usage);
    if with_timeouts {
        data.extend(TIMEOUTS);
    }
    data
}

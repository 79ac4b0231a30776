//! Task management (RFC 7143 §11.5, §11.6): aborts that really abort.
//!
//! Invariants:
//! - A function is answered when none of the tasks that it meant is under way, and none of them is answered after it.
//! - A task that changes something and runs is waited for, its response is left out.

use std::collections::HashSet;
use std::sync::Arc;

use super::super::pdu::{Header, at, response};
use super::{Connection, Done};
use crate::protocol::scsi::{Lun, Nexus, Target};

const COMPLETE: u8 = 0;
const TASK_DOES_NOT_EXIST: u8 = 1;
const LUN_DOES_NOT_EXIST: u8 = 2;
const ALLEGIANCE_NOT_SUPPORTED: u8 = 4;
const NOT_SUPPORTED: u8 = 5;
const REJECTED: u8 = 255;

const ABORT_TASK: u8 = 1;
const ABORT_TASK_SET: u8 = 2;
const CLEAR_TASK_SET: u8 = 4;
const LOGICAL_UNIT_RESET: u8 = 5;
const TARGET_WARM_RESET: u8 = 6;
const TARGET_COLD_RESET: u8 = 7;
const TASK_REASSIGN: u8 = 8;

/// Functions of one connection that are under way.
const MANAGED_MAX: usize = 16;

/// A function under way.
pub(super) struct Managed {
    task: u32,
    /// Tasks of this connection that have to end first.
    meant: HashSet<u32>,
    /// The units have done their part.
    is_done: bool,
    /// All sessions of the target end with it.
    is_cold: bool,
}

/// What units have to do.
enum Work {
    Abort(Arc<Lun>, Arc<Nexus>),
    Clear(Arc<Lun>, Arc<Nexus>),
    Reset(Vec<Arc<Lun>>),
}

impl Work {
    async fn run(self) {
        match self {
            Self::Abort(lun, nexus) => lun.abort_of(&nexus).await,
            Self::Clear(lun, nexus) => lun.clear(&nexus).await,
            Self::Reset(luns) => {
                for lun in luns {
                    lun.reset().await;
                }
            }
        }
    }
}

fn all_units(target: &Target) -> Vec<Arc<Lun>> {
    target.units().into_iter().map(|(_, lun)| lun).collect()
}

impl Connection {
    pub(super) fn manage(&mut self, request: &Header) {
        let function = request.flags() & 0x7f;
        match self.work(function, request) {
            Ok((work, meant)) => self.begin_managing(request.task(), function, work, meant),
            Err(response) => self.managed_response(request.task(), response),
        }
    }

    /// What a function comes to: work for units, and the tasks of this connection that it means.
    fn work(&self, function: u8, request: &Header) -> Result<(Option<Work>, HashSet<u32>), u8> {
        let Some((target, nexus)) = &self.target else { return Err(NOT_SUPPORTED) };
        if self.managed.len() >= MANAGED_MAX {
            return Err(REJECTED);
        }
        let on_lun = || self.slots.iter().filter(|(_, slot)| slot.lun == request.lun()).map(|(tag, _)| *tag).collect();
        let unit = || target.scsi.unit(request.lun()).ok_or(LUN_DOES_NOT_EXIST);
        match function {
            ABORT_TASK => {
                let tag = request.word(at::TRANSFER);
                self.slots.get(&tag).filter(|slot| slot.lun == request.lun()).ok_or(TASK_DOES_NOT_EXIST)?;
                Ok((None, HashSet::from([tag])))
            }
            ABORT_TASK_SET => Ok((Some(Work::Abort(unit()?, nexus.clone())), on_lun())),
            CLEAR_TASK_SET => Ok((Some(Work::Clear(unit()?, nexus.clone())), on_lun())),
            LOGICAL_UNIT_RESET => Ok((Some(Work::Reset(vec![unit()?])), on_lun())),
            TARGET_WARM_RESET | TARGET_COLD_RESET => {
                Ok((Some(Work::Reset(all_units(&target.scsi))), self.slots.keys().copied().collect()))
            }
            TASK_REASSIGN => Err(ALLEGIANCE_NOT_SUPPORTED),
            _ => Err(NOT_SUPPORTED),
        }
    }

    fn begin_managing(&mut self, task: u32, function: u8, work: Option<Work>, meant: HashSet<u32>) {
        for tag in &meant {
            if let Some(slot) = self.slots.get_mut(tag) {
                slot.is_aborted = true;
                slot.cancel.cancel();
            }
        }
        let is_cold = function == TARGET_COLD_RESET;
        self.managed.push(Managed { task, meant, is_done: work.is_none(), is_cold });
        if let Some(work) = work {
            self.running.spawn(async move {
                work.run().await;
                Done::Managed(task)
            });
        }
        self.sweep();
        self.answer_managed();
    }

    pub(super) fn managed_is_done(&mut self, task: u32) {
        for managed in self.managed.iter_mut().filter(|managed| managed.task == task) {
            managed.is_done = true;
        }
        self.answer_managed();
    }

    /// A task has ended.
    pub(super) fn managed_lost(&mut self, tag: u32) {
        if self.managed.is_empty() {
            return;
        }
        for managed in &mut self.managed {
            managed.meant.remove(&tag);
        }
        self.answer_managed();
    }

    fn answer_managed(&mut self) {
        while let Some(at) = self.managed.iter().position(|managed| managed.is_done && managed.meant.is_empty()) {
            let managed = self.managed.remove(at);
            self.managed_response(managed.task, COMPLETE);
            if managed.is_cold
                && let Some((target, _)) = &self.target
            {
                target.stop();
            }
        }
    }

    fn managed_response(&mut self, task: u32, response: u8) {
        let mut header = Header::new(response::TASK_MANAGEMENT, task);
        header.0[2] = response;
        self.answer(header, Vec::new(), None);
    }
}

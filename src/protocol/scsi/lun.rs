//! One logical unit as initiators see it: what every device type has in common, around a [`LogicalUnit`].
//!
//! Invariants:
//! - The order of checks is fixed: is there such a command → unit attention → reservation → bits of the CDB → the command itself.
//! - No lock is held while a command runs.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::attention::Attentions;
use super::keeper::Keeper;
use super::mode::Control;
use super::opcode::{Access, Opcode, PRIMARY, Verb};
use super::reservation::{Effects, Reservations};
use super::target::Nexus;
use super::task::{Task, TaskSet};
use super::{Answer, Cdb, Command, Completion, Condition, Failure, LogicalUnit, Sense, Status};

/// What all nexuses share.
#[derive(Default)]
pub(super) struct Shared {
    pub(super) attentions: Attentions,
    pub(super) reservations: Reservations,
    /// RESERVE(6): the nexus that holds the unit.
    pub(super) reserved: Option<u64>,
    pub(super) control: Control,
    /// PREVENT ALLOW MEDIUM REMOVAL: the nexuses that prevent.
    preventing: HashSet<u64>,
}

/// See the module.
pub struct Lun {
    pub(super) unit: Arc<dyn LogicalUnit>,
    pub(super) tasks: TaskSet,
    pub(super) shared: Mutex<Shared>,
    opcodes: Vec<&'static Opcode>,
    pub(super) keeper: Keeper,
    /// Persistent reservations change one after the other, each kept before the next.
    pub(super) reserving: tokio::sync::Mutex<()>,
}

impl Lun {
    /// A unit, with the persistent reservations that the keeper has.
    ///
    /// # Errors
    /// Where those cannot be read.
    pub async fn open(unit: Arc<dyn LogicalUnit>, keeper: Keeper) -> std::io::Result<Arc<Self>> {
        let reservations = keeper.load().await?;
        let opcodes = PRIMARY.iter().chain(unit.opcodes()).collect();
        let shared = Mutex::new(Shared { reservations, ..Shared::default() });
        Ok(Arc::new(Self { unit, tasks: TaskSet::default(), shared, opcodes, keeper, reserving: tokio::sync::Mutex::default() }))
    }

    /// The commands that are served.
    pub(super) fn opcodes(&self) -> &[&'static Opcode] {
        &self.opcodes
    }

    pub(super) fn find(&self, cdb: &Cdb) -> Option<&'static Opcode> {
        self.opcodes.iter().find(|opcode| opcode.is(cdb)).copied()
    }

    pub(super) fn attach(&self, nexus: &Nexus) {
        self.shared.lock().attentions.attach(nexus.id, &nexus.port);
    }

    pub(super) fn detach(&self, nexus: &Nexus) {
        let mut shared = self.shared.lock();
        shared.attentions.detach(nexus.id);
        if shared.reserved == Some(nexus.id) {
            shared.reserved = None;
        }
        drop(shared);
        self.prevent(nexus.id, false);
    }

    /// PREVENT ALLOW MEDIUM REMOVAL (SPC-4 §6.14): in force while any nexus prevents it.
    fn prevent(&self, nexus: u64, on: bool) {
        let mut shared = self.shared.lock();
        let is_new = if on { shared.preventing.insert(nexus) } else { shared.preventing.remove(&nexus) };
        let is_first_or_last = shared.preventing.len() == usize::from(on);
        if is_new && is_first_or_last {
            self.unit.set_prevented(on);
        }
    }

    /// Tells all initiators.
    pub fn raise(&self, condition: Condition) {
        self.shared.lock().attentions.raise(condition, None);
    }

    /// Commands under way.
    pub fn tasks(&self) -> usize {
        self.tasks.len()
    }

    /// ABORT TASK SET: the tasks of one nexus. Returns when they have ended.
    pub async fn abort_of(&self, nexus: &Nexus) {
        self.tasks.abort(|other| other.id == nexus.id, None).await;
    }

    /// CLEAR TASK SET: the tasks of all; the others hear of it.
    pub async fn clear(&self, nexus: &Nexus) {
        let losers = self.tasks.abort(|_| true, None).await;
        let mut shared = self.shared.lock();
        for loser in losers.into_iter().filter(|loser| *loser != nexus.id) {
            shared.attentions.raise_one(loser, Condition::COMMANDS_CLEARED_BY_ANOTHER_INITIATOR);
        }
    }

    /// LOGICAL UNIT RESET: all tasks end, RESERVE(6) is over, all initiators hear of it (SAM-5 §6.3.3). Persistent reservations stay.
    pub async fn reset(&self) {
        self.tasks.abort(|_| true, None).await;
        {
            let mut shared = self.shared.lock();
            shared.reserved = None;
            shared.control = Control::default();
            shared.preventing.clear();
            shared.attentions.raise(Condition::BUS_DEVICE_RESET_FUNCTION_OCCURRED, None);
        }
        self.unit.set_write_protect(false);
        self.unit.set_prevented(false);
        self.unit.reset().await;
    }

    pub(super) async fn execute(&self, task: &Task, number: u64, data: Bytes, announced_bytes: u64) -> Completion {
        match self.checked(task, number, data, announced_bytes).await {
            Ok(answer) => {
                let status = if answer.is_met { Status::ConditionMet } else { Status::Good };
                Completion { status, sense: Vec::new(), data: answer.data }
            }
            Err(Failure::Status(status)) => Completion::of(status),
            Err(Failure::Sense(sense)) => self.check_condition(&sense, Vec::new()),
            Err(Failure::Partial(data, sense)) => self.check_condition(&sense, data),
        }
    }

    fn check_condition(&self, sense: &Sense, data: Vec<Bytes>) -> Completion {
        let as_descriptors = self.shared.lock().control.d_sense;
        Completion { status: Status::CheckCondition, sense: sense.bytes(as_descriptors), data }
    }

    async fn checked(&self, task: &Task, number: u64, data: Bytes, announced_bytes: u64) -> Result<Answer, Failure> {
        let opcode = task.opcode.ok_or_else(|| self.unknown(&task.cdb))?;
        self.admit(task, opcode)?;
        opcode.check(&task.cdb)?;
        if PRIMARY.iter().any(|primary| std::ptr::eq(primary, opcode)) {
            return self.primary(opcode.verb, task, number, &data).await;
        }
        if opcode.verb == Verb::PreventRemoval {
            // Bit 1 is about a second door, which no unit has (SPC-4 table 203).
            self.prevent(task.nexus.id, task.cdb.bit(4, 0));
            return Ok(Answer::none());
        }
        self.unit.execute(Command { nexus: task.nexus.id, opcode, cdb: task.cdb, data, announced_bytes }).await
    }

    fn unknown(&self, cdb: &Cdb) -> Failure {
        if self.opcodes.iter().any(|opcode| opcode.code() == cdb.code()) {
            return Sense::invalid_cdb_bit(1, 4).into();
        }
        Condition::INVALID_COMMAND_OPERATION_CODE.into()
    }

    /// Unit attentions and reservations.
    fn admit(&self, task: &Task, opcode: &Opcode) -> Result<(), Failure> {
        let mut shared = self.shared.lock();
        if let Some(changed) = self.unit.attention() {
            shared.attentions.raise(changed, None);
        }
        if !matches!(opcode.verb, Verb::Inquiry | Verb::ReportLuns | Verb::RequestSense)
            && let Some(condition) = shared.attentions.take(task.nexus.id)
        {
            return Err(condition.into());
        }
        let reserved_by_another = shared.reserved.is_some_and(|holder| holder != task.nexus.id);
        let may_pass = match opcode.verb {
            Verb::Inquiry | Verb::ReportLuns | Verb::RequestSense | Verb::Release => true,
            // Removal may be allowed, not prevented, by others than the holder.
            Verb::PreventRemoval if task.cdb.byte(4) == 0 => true,
            Verb::PreventRemoval => !reserved_by_another && shared.reservations.allows(&task.nexus.port, Access::Write),
            // What is only told, and moves nothing (SMC-3 table 7).
            Verb::ElementStatus if task.cdb.bit(6, 1) => true,
            _ => !reserved_by_another && shared.reservations.allows(&task.nexus.port, opcode.access),
        };
        if may_pass { Ok(()) } else { Err(Failure::Status(Status::ReservationConflict)) }
    }

    /// What a change of reservations brings for others; returns when aborted tasks have ended.
    pub(super) async fn spread(&self, effects: Effects, nexus: &Nexus, number: u64) {
        {
            let mut shared = self.shared.lock();
            for (port, condition) in &effects.attentions {
                shared.attentions.raise_for(port, *condition, Some(nexus.id));
            }
        }
        if !effects.aborted.is_empty() {
            self.tasks.abort(|other| effects.aborted.contains(&other.port), Some(number)).await;
        }
    }
}

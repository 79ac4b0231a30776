//! Commands of every device type (SPC-4 §6), but for INQUIRY, mode pages and reports, which have files of their own.

use bytes::Bytes;

use super::cdb::Cdb;
use super::lun::Lun;
use super::opcode::{Moves, PRIMARY, Verb};
use super::reservation::{self, Parameters};
use super::sense::{Condition, Sense};
use super::task::Task;
use super::{Answer, Completion, Failure, Status, inquiry, mode, report};

impl Lun {
    pub(super) async fn primary(&self, verb: Verb, task: &Task, number: u64, data: &Bytes) -> Result<Answer, Failure> {
        match verb {
            Verb::TestUnitReady => self.unit.ready().map(|()| Answer::none()),
            Verb::RequestSense => Ok(self.request_sense(task)),
            Verb::Inquiry => inquiry::answer(self, &task.target, &task.cdb),
            Verb::ModeSense => mode::sense(self, &task.cdb),
            Verb::ModeSelect => mode::select(self, task, data).await,
            Verb::Reserve => self.reserve(task),
            Verb::Release => Ok(self.release(task)),
            Verb::ReportLuns => report::luns(&task.target, &task.cdb),
            Verb::ReportTargetPortGroups => Ok(report::target_port_groups(&task.cdb)),
            Verb::ReportOpcodes => report::opcodes(self.opcodes(), &task.cdb),
            Verb::ReportTaskManagement => Ok(report::task_management(&task.cdb)),
            Verb::ReservationsIn => self.reservations_in(&task.cdb),
            Verb::ReservationsOut => self.reservations_out(task, number, data).await,
            _ => Err(Condition::INVALID_COMMAND_OPERATION_CODE.into()),
        }
    }

    /// A pending attention is given as parameter data, and is told then (SAM-5 §5.14.2).
    fn request_sense(&self, task: &Task) -> Answer {
        let pending = self.shared.lock().attentions.take(task.nexus.id);
        let sense = Sense::from(pending.unwrap_or(Condition::NO_ADDITIONAL_SENSE_INFORMATION));
        Answer::parameters(sense.bytes(task.cdb.bit(1, 0)), task.cdb.length(4, 1))
    }

    /// RESERVE(6) (SPC-2): for a unit without persistent reservations.
    fn reserve(&self, task: &Task) -> Result<Answer, Failure> {
        let mut shared = self.shared.lock();
        if !shared.reservations.is_empty() {
            return Err(Failure::Status(Status::ReservationConflict));
        }
        shared.reserved = Some(task.nexus.id);
        Ok(Answer::none())
    }

    fn release(&self, task: &Task) -> Answer {
        let mut shared = self.shared.lock();
        if shared.reserved == Some(task.nexus.id) {
            shared.reserved = None;
        }
        Answer::none()
    }

    fn reservations_in(&self, cdb: &Cdb) -> Result<Answer, Failure> {
        let state = &self.shared.lock().reservations;
        let data = match cdb.action() {
            0 => reservation::keys(state),
            1 => reservation::reservation(state),
            2 => reservation::capabilities(state),
            3 => reservation::full_status(state),
            _ => return Err(Sense::invalid_cdb_bit(1, 4).into()),
        };
        Ok(Answer::parameters(data, cdb.length(7, 2)))
    }

    async fn reservations_out(&self, task: &Task, number: u64, data: &Bytes) -> Result<Answer, Failure> {
        let cdb = &task.cdb;
        let parameters = Parameters::parse(cdb.action(), cdb.length(5, 4), data)?;
        let effects = {
            // One change after the other; tasks that wait here hold no lock of the unit.
            let _turn = self.reserving.lock().await;
            let mut state = self.shared.lock().reservations.clone();
            let effects = state.change(&task.nexus.port, cdb.action(), cdb.byte(2), &parameters)?;
            if let Err(error) = self.keeper.store(&state).await {
                tracing::error!(%error, "persistent reservations could not be kept");
                return Err(Condition::INTERNAL_TARGET_FAILURE.into());
            }
            self.shared.lock().reservations = state;
            effects
        };
        self.spread(effects, &task.nexus, number).await;
        Ok(Answer::none())
    }
}

fn find(cdb: &Cdb) -> Option<Verb> {
    PRIMARY.iter().find(|opcode| opcode.is(cdb)).map(|opcode| opcode.verb)
}

/// What a command to a unit that does not exist moves.
pub(super) fn moves_nowhere(cdb: &Cdb) -> Moves {
    let opcode = PRIMARY.iter().find(|opcode| opcode.is(cdb));
    opcode.map_or(Moves::Nothing, |opcode| opcode.moves(cdb, 0))
}

/// The answer of a unit that does not exist (SPC-4 §6.6.2, SAM-5 §5.11).
pub(super) fn answer_nowhere(task: &Task) -> Completion {
    let answer = match find(&task.cdb) {
        Some(Verb::Inquiry) => inquiry::answer_nowhere(&task.cdb),
        Some(Verb::ReportLuns) => report::luns(&task.target, &task.cdb),
        Some(Verb::RequestSense) => {
            let sense = Sense::from(Condition::LOGICAL_UNIT_NOT_SUPPORTED);
            Ok(Answer::parameters(sense.bytes(task.cdb.bit(1, 0)), task.cdb.length(4, 1)))
        }
        _ => Err(Condition::LOGICAL_UNIT_NOT_SUPPORTED.into()),
    };
    match answer {
        Ok(answer) => Completion { status: Status::Good, sense: Vec::new(), data: answer.data },
        Err(Failure::Sense(sense) | Failure::Partial(_, sense)) => {
            Completion { status: Status::CheckCondition, sense: sense.fixed(), data: Vec::new() }
        }
        Err(Failure::Status(status)) => Completion::of(status),
    }
}

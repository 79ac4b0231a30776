//! Tasks: commands under way in one unit, the order in which they may run, and their abort (SAM-5 §8).
//!
//! ```text
//!   Target::begin ──► waiting for data ──► waiting for its turn ──► running ──► done
//!                          └──────────────────────┴── abort ──────────┴──────► done, unanswered
//! ```
//!
//! Invariants:
//! - A task is in its unit's set from its arrival until it is dropped; the numbers of the set are the order of arrival.
//! - An ordered task runs when all that came before it are done, and none that came after it runs before it is done. Others run at once.
//! - An abort returns when none of the tasks that it meant is in the set. A task that runs and changes something is not torn off: it comes
//!   to its end, unanswered.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::lun::Lun;
use super::target::{Nexus, Target};
use super::{Cdb, Completion, Moves, Opcode, primary};

/// Tasks of one unit, of all initiators.
const TASKS_MAX: usize = 4096;

/// How a task is ordered among others (SAM-5 §8.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attribute {
    /// In any order.
    Simple,
    /// After all that came before, before all that come after.
    Ordered,
    /// At once.
    Head,
}

#[derive(Debug)]
struct Entry {
    nexus: Arc<Nexus>,
    attribute: Attribute,
    /// The task is to end, unanswered.
    cancel: CancellationToken,
    /// The task has ended.
    done: CancellationToken,
}

#[derive(Debug, Default)]
struct Tasks {
    next: u64,
    ordered: usize,
    entries: BTreeMap<u64, Entry>,
}

/// The tasks of one unit.
#[derive(Debug, Default)]
pub(super) struct TaskSet {
    tasks: Mutex<Tasks>,
    /// Something left the set while something waited for its turn.
    changed: Notify,
}

impl TaskSet {
    fn enter(&self, nexus: Arc<Nexus>, attribute: Attribute) -> Option<(u64, CancellationToken)> {
        let mut tasks = self.tasks.lock();
        if tasks.entries.len() >= TASKS_MAX {
            return None;
        }
        let number = tasks.next;
        tasks.next += 1;
        tasks.ordered += usize::from(attribute == Attribute::Ordered);
        let cancel = CancellationToken::new();
        let entry = Entry { nexus, attribute, cancel: cancel.clone(), done: CancellationToken::new() };
        tasks.entries.insert(number, entry);
        Some((number, cancel))
    }

    fn leave(&self, number: u64) {
        let mut tasks = self.tasks.lock();
        let ordered = tasks.ordered;
        let Some(entry) = tasks.entries.remove(&number) else { return };
        tasks.ordered -= usize::from(entry.attribute == Attribute::Ordered);
        drop(tasks);
        entry.done.cancel();
        if ordered > 0 {
            self.changed.notify_waiters();
        }
    }

    fn may_run(&self, number: u64) -> bool {
        let tasks = self.tasks.lock();
        if tasks.ordered == 0 {
            return true;
        }
        let mut before = tasks.entries.range(..number).map(|(_, entry)| entry.attribute);
        match tasks.entries.get(&number).map(|entry| entry.attribute) {
            Some(Attribute::Ordered) => before.next().is_none(),
            Some(Attribute::Simple) => before.all(|attribute| attribute != Attribute::Ordered),
            _ => true,
        }
    }

    /// Waits until a task may run.
    async fn turn(&self, number: u64) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if self.may_run(number) {
                return;
            }
            changed.await;
        }
    }

    /// Ends the tasks of the nexuses that `whose` takes, but one task; returns when they have ended, and whose they were.
    pub(super) async fn abort(&self, whose: impl Fn(&Nexus) -> bool, except: Option<u64>) -> Vec<u64> {
        let meant: Vec<_> = {
            let tasks = self.tasks.lock();
            let meant = tasks.entries.iter().filter(|(number, entry)| Some(**number) != except && whose(&entry.nexus));
            meant.map(|(_, entry)| (entry.nexus.clone(), entry.cancel.clone(), entry.done.clone())).collect()
        };
        for (nexus, cancel, _) in &meant {
            cancel.cancel();
            nexus.wake.notify_one();
        }
        for (_, _, done) in &meant {
            done.cancelled().await;
        }
        let mut nexuses: Vec<_> = meant.iter().map(|(nexus, ..)| nexus.id).collect();
        nexuses.sort_unstable();
        nexuses.dedup();
        nexuses
    }

    pub(super) fn len(&self) -> usize {
        self.tasks.lock().entries.len()
    }
}

/// A command that arrived. Dropping it ends it.
pub struct Task {
    pub(super) target: Arc<Target>,
    pub(super) nexus: Arc<Nexus>,
    pub(super) cdb: Cdb,
    /// The row of the table, where there is one.
    pub(super) opcode: Option<&'static Opcode>,
    place: Place,
    cancel: CancellationToken,
}

enum Place {
    /// In a unit's set, with its number there.
    Lun(Arc<Lun>, u64),
    /// The unit does not exist.
    Nowhere,
    /// The unit's set is full.
    Full,
}

impl Task {
    pub(super) fn new(target: Arc<Target>, nexus: Arc<Nexus>, lun: Option<Arc<Lun>>, attribute: Attribute, cdb: Cdb) -> Self {
        let opcode = lun.as_ref().and_then(|lun| lun.find(&cdb));
        let entered = lun.as_ref().map(|lun| lun.tasks.enter(nexus.clone(), attribute));
        let (place, cancel) = match (lun, entered) {
            (Some(lun), Some(Some((number, cancel)))) => (Place::Lun(lun, number), cancel),
            (Some(_), _) => (Place::Full, CancellationToken::new()),
            (None, _) => (Place::Nowhere, CancellationToken::new()),
        };
        Self { target, nexus, cdb, opcode, place, cancel }
    }

    /// What data the command moves, by its CDB.
    pub fn moves(&self) -> Moves {
        match &self.place {
            Place::Lun(lun, _) => self.opcode.map_or(Moves::Nothing, |opcode| opcode.moves(&self.cdb, lun.unit.block_bytes())),
            _ => primary::moves_nowhere(&self.cdb),
        }
    }

    /// Whether the task was aborted: what holds it drops it then.
    pub fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// Ends the task, unanswered, as soon as that can be.
    pub fn cancel(&self) -> CancellationToken {
        self.cancel.clone()
    }

    /// Carries the command out, with its Data-Out, of which the initiator announced so many bytes. `None`: it was aborted.
    pub async fn execute(self, data: Bytes, announced_bytes: u64) -> Option<Completion> {
        let (lun, number) = match &self.place {
            Place::Lun(lun, number) => (lun.clone(), *number),
            Place::Nowhere => return Some(primary::answer_nowhere(&self)),
            Place::Full => return Some(Completion::of(super::Status::TaskSetFull)),
        };
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => return None,
            () = lun.tasks.turn(number) => {}
        }
        let completion = if self.opcode.is_none_or(|opcode| opcode.access.reads_only()) {
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => return None,
                completion = lun.execute(&self, number, data, announced_bytes) => completion,
            }
        } else {
            lun.execute(&self, number, data, announced_bytes).await
        };
        (!self.is_cancelled()).then_some(completion)
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if let Place::Lun(lun, number) = &self.place {
            lun.tasks.leave(*number);
        }
    }
}

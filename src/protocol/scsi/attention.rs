//! Unit attention conditions (SAM-5 §5.14): what an initiator has to be told before its next command.
//!
//! Invariants: each nexus hears of each condition once; at most [`PENDING_MAX`] wait for a nexus, the oldest are kept (one of them says that
//! everything may have changed).

use std::collections::{HashMap, HashSet};

use super::sense::Condition;

/// Conditions that wait for one nexus.
const PENDING_MAX: usize = 16;
/// Initiator ports that are remembered after their nexus was lost.
const KNOWN_MAX: usize = 1024;

/// The conditions of one unit, by nexus.
#[derive(Debug, Default)]
pub(super) struct Attentions {
    pending: HashMap<u64, (String, Vec<Condition>)>,
    /// Ports that heard of the power-on.
    known: HashSet<String>,
}

impl Attentions {
    /// A nexus begins: the unit was powered on, or the nexus was lost, before.
    pub(super) fn attach(&mut self, nexus: u64, port: &str) {
        if self.known.len() >= KNOWN_MAX {
            self.known.clear();
        }
        let first = if self.known.insert(port.to_owned()) {
            Condition::POWER_ON_RESET_OR_BUS_DEVICE_RESET_OCCURRED
        } else {
            Condition::I_T_NEXUS_LOSS_OCCURRED
        };
        self.pending.insert(nexus, (port.to_owned(), vec![first]));
    }

    pub(super) fn detach(&mut self, nexus: u64) {
        self.pending.remove(&nexus);
    }

    /// Tells every nexus but one.
    pub(super) fn raise(&mut self, condition: Condition, except: Option<u64>) {
        for (nexus, (_, pending)) in &mut self.pending {
            if Some(*nexus) != except {
                push(pending, condition);
            }
        }
    }

    /// Tells one nexus.
    pub(super) fn raise_one(&mut self, nexus: u64, condition: Condition) {
        if let Some((_, pending)) = self.pending.get_mut(&nexus) {
            push(pending, condition);
        }
    }

    /// Tells the nexuses of a port, but one.
    pub(super) fn raise_for(&mut self, port: &str, condition: Condition, except: Option<u64>) {
        for (nexus, (own, pending)) in &mut self.pending {
            if own == port && Some(*nexus) != except {
                push(pending, condition);
            }
        }
    }

    /// The condition that a nexus hears of next.
    pub(super) fn take(&mut self, nexus: u64) -> Option<Condition> {
        let (_, pending) = self.pending.get_mut(&nexus)?;
        (!pending.is_empty()).then(|| pending.remove(0))
    }
}

fn push(pending: &mut Vec<Condition>, condition: Condition) {
    if pending.len() < PENDING_MAX && !pending.contains(&condition) {
        pending.push(condition);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_nexus_hears_once_and_in_order() {
        let mut attentions = Attentions::default();
        attentions.attach(1, "a");
        attentions.attach(2, "b");
        let changed = Condition::MODE_PARAMETERS_CHANGED;
        attentions.raise(changed, Some(1));
        attentions.raise(changed, Some(1));
        let power_on = Condition::POWER_ON_RESET_OR_BUS_DEVICE_RESET_OCCURRED;
        assert_eq!([attentions.take(1), attentions.take(1)], [Some(power_on), None]);
        assert_eq!([attentions.take(2), attentions.take(2), attentions.take(2)], [Some(power_on), Some(changed), None]);
        attentions.detach(1);
        attentions.attach(3, "a");
        assert_eq!(attentions.take(3), Some(Condition::I_T_NEXUS_LOSS_OCCURRED));
        attentions.raise_for("b", changed, None);
        assert_eq!([attentions.take(3), attentions.take(2)], [None, Some(changed)]);
    }
}

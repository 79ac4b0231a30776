//! How much each owner has, kept by adding and taking away rows.

use std::collections::HashMap;

use super::rows::{Counts, Row};
use crate::base::id::OwnerId;

/// Signed counts: a sum of differences.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    nodes: i64,
    objects: i64,
    object_bytes: i64,
    jobs: i64,
}

impl Tally {
    /// What one row counts for, and for whom.
    fn of(row: &Row) -> Option<(OwnerId, Self)> {
        match row {
            Row::Node(row) => Some((row.owner, Self { nodes: 1, ..Self::default() })),
            Row::Object(row) => {
                let object_bytes = row.size_bytes.cast_signed();
                Some((row.owner, Self { objects: 1, object_bytes, ..Self::default() }))
            }
            Row::Job(row) => Some((row.owner, Self { jobs: 1, ..Self::default() })),
            Row::Entry(_) | Row::Move(_) | Row::Xattr(_) | Row::Owner(_) | Row::Value(_) => None,
        }
    }

    fn plus(self, other: Self, sign: i64) -> Self {
        Self {
            nodes: self.nodes.wrapping_add(other.nodes.wrapping_mul(sign)),
            objects: self.objects.wrapping_add(other.objects.wrapping_mul(sign)),
            object_bytes: self.object_bytes.wrapping_add(other.object_bytes.wrapping_mul(sign)),
            jobs: self.jobs.wrapping_add(other.jobs.wrapping_mul(sign)),
        }
    }
}

/// The tallies of all owners.
#[derive(Clone, Debug, Default)]
pub(super) struct Tallies(HashMap<OwnerId, Tally>);

impl Tallies {
    /// One row is replaced by another; either may be absent.
    pub fn replace(&mut self, old: Option<&Row>, new: Option<&Row>) {
        for (row, sign) in [(old, -1), (new, 1)] {
            if let Some((owner, tally)) = row.and_then(Tally::of) {
                let sum = self.0.entry(owner).or_default();
                *sum = sum.plus(tally, sign);
                if *sum == Tally::default() {
                    self.0.remove(&owner);
                }
            }
        }
    }

    /// Sets what an owner has.
    pub fn set(&mut self, owner: OwnerId, counts: Counts) {
        let tally = Tally {
            nodes: counts.nodes.cast_signed(),
            objects: counts.objects.cast_signed(),
            object_bytes: counts.object_bytes.cast_signed(),
            jobs: counts.jobs.cast_signed(),
        };
        self.0.insert(owner, tally);
    }

    /// What an owner has according to this and `more`.
    pub fn sum(&self, more: &Self, owner: OwnerId) -> Counts {
        let of = |tallies: &Self| tallies.0.get(&owner).copied().unwrap_or_default();
        let sum = of(self).plus(of(more), 1);
        let positive = |count: i64| u64::try_from(count).unwrap_or(0);
        Counts {
            nodes: positive(sum.nodes),
            objects: positive(sum.objects),
            object_bytes: positive(sum.object_bytes),
            jobs: positive(sum.jobs),
        }
    }
}

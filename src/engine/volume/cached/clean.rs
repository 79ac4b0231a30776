//! The cleaner: what is live of segments that are mostly dead is written anew, so that they can go.
//!
//! A checkpoint says how much of each segment is in use. After one, segments of which at most half is are looked for; what is live in them, by the map, becomes
//! segments of the epoch in force, which are published like a batch, but without a new generation. The next checkpoint names the old ones no more, and they are
//! removed, unless a snapshot or a clone names them.
//!
//! Invariants:
//! - For each byte that is written anew another one is dead: over all, the cleaner writes no more than was written.
//! - What a snapshot or a clone keeps is not written anew, since nothing would become free: whatever of the volume is live in a segment that was there when the snapshot
//!   was taken was live in it then.
//! - What is new comes first: between two rounds of the cleaner there is a batch, if there is anything for one; and a round is short ([`ROUND_BYTES`]).

use std::collections::BTreeMap;
use std::ops::Range;

use super::CachedVolume;
use super::work::Work;
use crate::engine::volume::batch::{Batch, Fold, SEGMENT_BYTES};
use crate::engine::volume::checkpoint::Usage;
use crate::engine::volume::manifest::State;
use crate::engine::volume::names::{ObjectName, VolumeId};
use crate::store::blob::{BlobError, FetchError};

/// Live bytes that are written anew in one round.
const ROUND_BYTES: u64 = 8 * SEGMENT_BYTES;
/// Segments of one round.
const ROUND_SEGMENTS: usize = 64;
/// Dead bytes for which a round is worth it: a checkpoint is written for it.
const GAIN_BYTES_MIN: u64 = SEGMENT_BYTES;
/// Bytes that changed since the last checkpoint which call for another when there is nothing else to do, at least.
const REST_BYTES_MIN: u64 = 2 * SEGMENT_BYTES;
/// And as a part of all bytes of the volume.
const REST_PART: u64 = 8;
/// Frames that lie nearer to each other are looked up in the map together, in bytes.
const LOOK_GAP_BYTES: u64 = 1 << 20;

/// Whether there may be something to clean.
#[derive(Debug, Default)]
pub(super) struct Cleaning {
    /// Something died since nothing was found.
    may_find: bool,
    /// A batch was published since the last round.
    is_turn: bool,
    /// A round was published, and the checkpoint that makes use of it is not.
    wants_fold: bool,
}

impl Cleaning {
    /// Something that was in use is not any more.
    pub(super) fn something_died(&mut self) {
        self.may_find = true;
    }

    /// A batch was published.
    pub(super) fn batch_published(&mut self, batch: &Batch) {
        self.is_turn = !batch.is_relocation();
        self.wants_fold |= batch.is_relocation();
    }

    /// A checkpoint was published.
    pub(super) fn fold_published(&mut self) {
        (self.may_find, self.wants_fold) = (true, false);
    }

    /// What was found cannot be read: until the next checkpoint nothing is looked for.
    pub(super) fn give_up(&mut self) {
        self.may_find = false;
    }

    /// Whether a checkpoint is owed.
    pub(super) fn wants_fold(&self) -> bool {
        self.wants_fold
    }
}

/// The last name of a volume that a state can have: what was there when it was made.
fn boundary(own: VolumeId, state: &State) -> Option<(u64, u64)> {
    let last = state.since.last().map(|run| ObjectName { number: run.first.number + run.count - 1, ..run.first });
    let names = last.into_iter().chain(state.checkpoint);
    names.filter(|name| name.volume == own).map(|name| (name.epoch, name.number)).max()
}

/// Which segments to write anew, the deadest first, within what one round may write.
fn victims(segments: &BTreeMap<ObjectName, Usage>, own: VolumeId, kept: Option<(u64, u64)>) -> Vec<ObjectName> {
    let is_free = |name: &ObjectName| name.volume == own && Some((name.epoch, name.number)) > kept;
    let mut dead: Vec<(&ObjectName, &Usage)> =
        segments.iter().filter(|(name, usage)| is_free(name) && usage.is_mostly_dead()).collect();
    dead.sort_by_key(|(_, usage)| usage.live_bytes * 1_000 / usage.whole_bytes.max(1));
    let mut live_bytes = 0;
    let is_within = |(_, usage): &&(&ObjectName, &Usage)| {
        live_bytes += usage.live_bytes;
        live_bytes <= ROUND_BYTES
    };
    let dead: Vec<_> = dead.iter().take(ROUND_SEGMENTS).take_while(is_within).collect();
    let gain_bytes: u64 = dead.iter().map(|(_, usage)| usage.dead_bytes()).sum();
    if gain_bytes >= GAIN_BYTES_MIN { dead.into_iter().map(|(name, _)| **name).collect() } else { Vec::new() }
}

impl CachedVolume {
    /// A round of the cleaner, if one is due: with nothing else to do (`is_idle`), or in its turn. What is new never waits for what cannot be cleaned.
    pub(super) async fn clean(&self, is_idle: bool) -> Option<Work> {
        {
            let cleaning = self.cleaning.lock();
            if !cleaning.may_find || !(is_idle || cleaning.is_turn) {
                return None;
            }
        }
        self.round().await.unwrap_or_else(|error| {
            tracing::warn!(volume = %self.name(), %error, "segments that are mostly dead are not looked for until the next checkpoint");
            self.cleaning.lock().give_up();
            None
        })
    }

    async fn round(&self) -> Result<Option<Work>, BlobError> {
        let victims = self.victims().await?;
        if victims.is_empty() {
            self.cleaning.lock().may_find = false;
            return Ok(None);
        }
        let live = self.live_in(&victims).await?;
        if live.is_empty() {
            self.cleaning.lock().may_find = false;
            // They died altogether since the checkpoint: the next one does not name them.
            let has_changed = self.remote.state().since_count() > 0;
            return if has_changed { Ok(Some(self.fold().await?)) } else { Ok(None) };
        }
        let batch = Batch::relocation(&self.remote, live, self.next_name());
        self.take_names(batch.parts.len() as u64);
        Ok(Some(Work::Batch(batch.into())))
    }

    /// The next checkpoint.
    pub(super) async fn fold(&self) -> Result<Work, BlobError> {
        let fold = Fold::new(&self.remote, self.next_name()).await?;
        self.take_names(fold.packs.len() as u64 + 1);
        Ok(Work::Fold(fold.into()))
    }

    /// Whether so much changed since the last checkpoint that another one may free something.
    pub(super) async fn is_fold_worth_it(&self) -> bool {
        match self.remote.covered_bytes().await {
            Ok((covered_bytes, live_bytes)) => covered_bytes >= (live_bytes / REST_PART).max(REST_BYTES_MIN),
            Err(error) => {
                tracing::warn!(volume = %self.name(), %error, "what changed of the map is not known; it is looked at after the next upload");
                false
            }
        }
    }

    async fn victims(&self) -> Result<Vec<ObjectName>, FetchError> {
        let Some(checkpoint) = self.remote.checkpoint().await? else { return Ok(Vec::new()) };
        let own = self.id();
        // What cannot be kept by anybody need not be asked for.
        if victims(&checkpoint.segments, own, None).is_empty() {
            return Ok(Vec::new());
        }
        let mut states = self.snapshot_states().await?;
        states.extend(self.snapshots.lock().iter().filter_map(|known| known.state.clone()));
        let kept = states.iter().filter_map(|state| boundary(own, state)).max();
        Ok(victims(&checkpoint.segments, own, kept))
    }

    /// Ranges of the volume, in order, that these segments have.
    async fn live_in(&self, segments: &[ObjectName]) -> Result<Vec<Range<u64>>, FetchError> {
        let mut live: Vec<Range<u64>> = Vec::new();
        for name in segments {
            let segment = self.remote.head(*name).await?;
            let mut looks: Vec<Range<u64>> = Vec::new();
            for frame in segment.frames.iter().filter(|frame| frame.stored.is_some()) {
                match looks.last_mut() {
                    Some(last) if frame.range.start <= last.end + LOOK_GAP_BYTES => last.end = frame.range.end,
                    _ => looks.push(frame.range.clone()),
                }
            }
            for look in looks {
                let pieces = self.remote.pieces(look).await?;
                live.extend(pieces.into_iter().filter(|piece| piece.segment == *name).map(|piece| piece.range));
            }
        }
        live.sort_by_key(|range| range.start);
        let mut merged: Vec<Range<u64>> = Vec::new();
        for range in live {
            match merged.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => merged.push(range),
            }
        }
        Ok(merged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::volume::manifest::Run;

    const OWN: VolumeId = VolumeId([1; 16]);

    fn name(volume: VolumeId, epoch: u64, number: u64) -> ObjectName {
        ObjectName { volume, epoch, number }
    }

    fn usage(live: u64) -> Usage {
        Usage { len_bytes: SEGMENT_BYTES, live_bytes: SEGMENT_BYTES * live / 100, whole_bytes: SEGMENT_BYTES }
    }

    #[test]
    fn the_deadest_of_ones_own_that_nobody_keeps_are_cleaned_first_and_not_for_little() {
        let segments: BTreeMap<ObjectName, Usage> = [
            (name(OWN, 1, 1), usage(1)),
            (name(OWN, 1, 2), usage(40)),
            (name(OWN, 2, 1), usage(10)),
            (name(OWN, 2, 2), usage(51)),
            (name(OWN, 2, 3), usage(50)),
            (name(VolumeId([2; 16]), 9, 1), usage(1)),
        ]
        .into();
        let numbers = |kept| victims(&segments, OWN, kept).iter().map(|name| (name.epoch, name.number)).collect::<Vec<_>>();
        assert_eq!(numbers(None), [(1, 1), (2, 1), (1, 2), (2, 3)]);
        assert_eq!(numbers(Some((1, 1))), [(2, 1), (1, 2), (2, 3)]);
        assert!(numbers(Some((2, 1))).is_empty(), "half a segment is too little");
        let many: BTreeMap<ObjectName, Usage> = (0..100).map(|at| (name(OWN, 1, at), usage(30))).collect();
        assert_eq!(victims(&many, OWN, None).len(), 26, "a round writes at most eight segments");
        let empty: BTreeMap<ObjectName, Usage> = (0..100).map(|at| (name(OWN, 1, at), usage(0))).collect();
        assert_eq!(victims(&empty, OWN, None).len(), ROUND_SEGMENTS);
    }

    #[test]
    fn a_state_keeps_what_was_there_when_it_was_made() {
        let run = |first, count| Run { first, count };
        let state = |checkpoint, since: &[Run]| State { checkpoint, since: since.to_vec(), ..State::default() };
        assert_eq!(boundary(OWN, &state(None, &[])), None);
        assert_eq!(boundary(OWN, &state(Some(name(OWN, 1, 9)), &[])), Some((1, 9)));
        assert_eq!(
            boundary(OWN, &state(Some(name(OWN, 1, 9)), &[run(name(OWN, 2, 1), 1), run(name(OWN, 2, 4), 3)])),
            Some((2, 6))
        );
        assert_eq!(boundary(OWN, &state(Some(name(VolumeId([2; 16]), 5, 9)), &[run(name(OWN, 1, 1), 1)])), Some((1, 1)));
    }
}

//! Plans for reading: where each byte of a range is, as of one moment under the blob's lock.

use std::ops::Range;

use super::fetch::Remote;
use super::kept::KeptPlace;
use super::map::{Piece, Place};
use super::state::State;
use crate::store::log::Location;

/// Where the bytes of a range are.
#[derive(Clone, Debug)]
pub enum Part {
    /// In a record of the log.
    Log { range: Range<u64>, location: Location, skip_bytes: u32, clean: bool },
    /// Zeros.
    Zero(u64),
    /// In S3.
    Remote(Remote),
}

impl Part {
    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Log { range, .. } => range.end - range.start,
            Self::Zero(len) => *len,
            Self::Remote(remote) => remote.range.end - remote.range.start,
        }
    }

    /// Whether nothing has to be fetched for it.
    pub fn is_here(&self) -> bool {
        !matches!(self, Self::Remote(_))
    }
}

/// Where a stretch of a blob is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// In the log.
    Here,
    /// Nowhere: it is zeros.
    Zeros,
    /// In S3.
    Remote,
}

/// Where the stretches of a range are that begins at `at`; neighbours of the same kind are one.
pub fn stretches(mut at: u64, parts: &[Part]) -> Vec<(Range<u64>, Held)> {
    let mut stretches: Vec<(Range<u64>, Held)> = Vec::new();
    for part in parts {
        let held = match part {
            Part::Log { .. } => Held::Here,
            Part::Zero(_) => Held::Zeros,
            Part::Remote(_) => Held::Remote,
        };
        let end = at + part.len();
        match stretches.last_mut() {
            Some((last, kind)) if *kind == held => last.end = end,
            _ => stretches.push((at..end, held)),
        }
        at = end;
    }
    stretches
}

/// What reads a range, or the pages that have to be loaded first.
pub type Plan = Result<Vec<Part>, Vec<u64>>;

impl State {
    /// Where the bytes of a range are now.
    pub fn plan(&self, range: Range<u64>) -> Plan {
        let missing = self.missing(&range);
        if !missing.is_empty() {
            return Err(missing);
        }
        let mut parts = Vec::new();
        self.add_parts(range, &mut parts);
        Ok(parts)
    }

    /// As [`Self::plan`], where one extent that is in memory has all of the range (which is not empty): what most small reads find.
    pub fn plan_one(&self, range: &Range<u64>) -> Option<Part> {
        let extent = self.whole(range)?;
        Some(local(extent.range(), extent.place, !self.is_dirty(&extent)))
    }

    /// Where the bytes of a generation are now.
    pub fn plan_frozen(&self, generation: u64, range: Range<u64>) -> Plan {
        let frozen = self.generations.iter().find(|frozen| frozen.id == generation);
        let kept = match frozen {
            Some(frozen) => frozen.kept.pieces(range),
            None => vec![(range, None)],
        };
        let mut parts = Vec::new();
        for (range, place) in kept {
            match place {
                None => {
                    let missing = self.missing(&range);
                    if !missing.is_empty() {
                        return Err(missing);
                    }
                    self.add_parts(range, &mut parts);
                }
                Some(KeptPlace::Local(place)) => parts.push(local(range, place, false)),
                Some(KeptPlace::Remote(source)) => {
                    parts.push(Part::Remote(Remote { limit: range.end, range, source, epoch: None }));
                }
            }
        }
        Ok(parts)
    }

    fn add_parts(&self, range: Range<u64>, parts: &mut Vec<Part>) {
        let limit = self.row().remote_len_bytes;
        for piece in self.pieces(range) {
            match piece {
                Piece::Extent(extent) => parts.push(local(extent.range(), extent.place, !self.is_dirty(&extent))),
                Piece::Gap(from, to) => {
                    let middle = limit.clamp(from, to);
                    if from < middle {
                        let source = self.source.clone();
                        parts.push(Part::Remote(Remote { range: from..middle, limit, source, epoch: Some(self.source_epoch) }));
                    }
                    if middle < to {
                        parts.push(Part::Zero(to - middle));
                    }
                }
            }
        }
    }
}

fn local(range: Range<u64>, place: Place, clean: bool) -> Part {
    match place {
        Place::Hole => Part::Zero(range.end - range.start),
        Place::Log { location, skip_bytes } => Part::Log { range, location, skip_bytes, clean },
    }
}

/// Goes on with the first range of data at `at`. Returns it when it has ended.
pub fn extend(found: &mut Option<Range<u64>>, mut at: u64, parts: &[Part]) -> Option<Range<u64>> {
    for part in parts {
        let (len, is_data) = (part.len(), !matches!(part, Part::Zero(_)));
        match found {
            Some(range) if is_data => range.end = at + len,
            Some(range) => return Some(range.clone()),
            None if is_data => *found = Some(at..at + len),
            None => {}
        }
        at += len;
    }
    None
}

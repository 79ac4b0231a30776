//! What can be rescued from a log whose database is gone: blobs with bytes that S3 does not have, and what they were called.
//!
//! What lives here: [`Salvage`], for `tidegate check --salvage`. It replays every record that is still readable, in the order of
//! the numbers, with the functions that writers use ([`State`]), into memory; nothing is written anywhere.
//!
//! A blob's name is what the name records in the log say, as far as they still lead to its share's root; else what the last footer
//! says. What was freed and not used again is read too, so something may come back that was removed long ago, or that S3 has:
//! more than is needed, never less than there is.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::map::{Extent, Piece, Place};
use super::page::Head;
use super::record::{self, Tag};
use super::state::State;
use crate::base::disk::Disk;
use crate::base::id::{BlobId, NodeId, OwnerId, Seq};
use crate::store::log::{self, BLOCK_BYTES, Kind, Location, LogError, Position, Scanned};
use crate::store::meta::{BlobRow, Change, Key, OwnerRow, Row, codec};

/// The deepest directory that a path is followed to.
const DEPTH_MAX: usize = 4096;
/// How much is read at once, in bytes.
const PIECE_BYTES: u64 = 1 << 20;

/// Why bytes cannot be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Missing {
    /// The log does not have them: they are in S3, if anywhere.
    Remote,
    /// They are damaged, and were nowhere else.
    Damaged,
}

/// A blob with bytes that S3 does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rescued {
    /// Its number.
    pub blob: BlobId,
    /// Whose it was.
    pub owner: OwnerId,
    /// The owner's name, where the log still says it.
    pub owner_name: Option<String>,
    /// Its path in its share, or its last key; names joined by "/".
    pub path: Option<Vec<u8>>,
    /// Length in bytes.
    pub len_bytes: u64,
    /// When it was last changed, nanoseconds since the Unix epoch.
    pub modified_ns: i64,
}

/// Ranges of a blob that cannot be given.
pub type Holes = Vec<(Range<u64>, Missing)>;
/// Takes bytes at an offset.
pub type Sink<'a> = dyn FnMut(u64, &[u8]) -> io::Result<()> + 'a;
/// Where data is, and of which range.
type Copies = Vec<(Range<u64>, Location)>;

/// A log that nobody has open.
pub struct Salvage {
    log: log::salvage::Salvage,
    blobs: BTreeMap<BlobId, State>,
    /// Those of which the log still says what S3 has.
    known: HashSet<BlobId>,
    /// Where else the data of a record is, by blob and number.
    copies: HashMap<(BlobId, Seq), Copies>,
    names: Names,
    hints: BTreeMap<BlobId, (OwnerId, Vec<u8>)>,
}

impl Salvage {
    /// Reads the whole log on `disk`.
    ///
    /// # Errors
    /// `Disk`.
    pub fn open(disk: &Arc<dyn Disk>) -> Result<Self, LogError> {
        let log = log::salvage::Salvage::open(disk)?;
        let mut records = Vec::new();
        // The read head has only what S3 has too.
        log.visit(&mut |scanned| records.extend((scanned.end != Position::default()).then_some(scanned)));
        records.sort_by_key(|scanned| scanned.seq);
        let hints = log.names();
        let (blobs, known, copies) = (BTreeMap::new(), HashSet::new(), HashMap::new());
        let mut salvage = Self { log, blobs, known, copies, names: Names::default(), hints };
        for scanned in records {
            salvage.replay(&scanned);
        }
        Ok(salvage)
    }

    fn replay(&mut self, scanned: &Scanned) {
        let record = &scanned.record;
        match record.kind {
            Kind::Footer => return,
            Kind::Name => return self.names.replay(codec::decode(&record.body).unwrap_or_default()),
            _ => {}
        }
        if let Some((Tag::Create, len_bytes, source)) = record::decode(&record.body)
            && record.kind == Kind::CleanThrough
        {
            let state = State::create(record.owner, len_bytes, source, scanned.seq, record.time_ns);
            self.blobs.insert(record.blob, state);
            self.known.insert(record.blob);
            return;
        }
        let unknown = || State::load(BlobRow { owner: record.owner, ..BlobRow::default() }, Head::default());
        let state = self.blobs.entry(record.blob).or_insert_with(unknown);
        if state.removed {
            return;
        }
        let mut delta = state.delta();
        if record.kind == Kind::Data {
            state.write(scanned.seq, scanned.location, record.offset, record.len, record.time_ns, &mut delta);
            let range = record.offset..record.offset.saturating_add(record.len);
            self.copies.entry((record.blob, scanned.seq)).or_default().push((range, scanned.location));
        } else {
            state.expect_frozen();
            state.replay(scanned.seq, record, &mut delta);
            if record.kind == Kind::CleanThrough {
                self.known.insert(record.blob);
            }
        }
    }

    /// Segment files that say nothing any more.
    pub fn unreadable(&self) -> &[String] {
        self.log.unreadable()
    }

    /// What S3 does not have, or not all of.
    pub fn rescued(&self) -> Vec<Rescued> {
        let dirty = self.blobs.iter().filter(|(_, state)| !state.removed && state.info().is_dirty());
        let rescued = dirty.map(|(id, state)| {
            let (owner, info) = (state.row().owner, state.info());
            let hint = || self.hints.get(id).map(|(_, name)| name.clone());
            Rescued {
                blob: *id,
                owner,
                owner_name: self.names.owners.get(&owner).map(|row| row.name.clone()),
                path: self.names.path(*id).or_else(hint),
                len_bytes: info.len_bytes,
                modified_ns: info.modified_ns,
            }
        });
        // An empty one without a name is nothing to anybody.
        rescued.filter(|found| found.len_bytes > 0 || found.path.is_some()).collect()
    }

    /// Gives the bytes of a blob that are not zeros to `sink`, in order. Returns what is missing.
    ///
    /// # Errors
    /// Whatever `sink` says.
    pub fn read(&self, blob: BlobId, sink: &mut Sink<'_>) -> io::Result<Holes> {
        let Some(state) = self.blobs.get(&blob) else { return Ok(Vec::new()) };
        let len = state.info().len_bytes;
        let remote = if self.known.contains(&blob) { state.row().remote_len_bytes } else { len };
        let mut missing = Vec::new();
        for piece in state.pieces(0..len) {
            match piece {
                Piece::Gap(from, to) => note(&mut missing, from..to.min(remote), Missing::Remote),
                Piece::Extent(extent) => self.read_extent(blob, &extent, sink, &mut missing)?,
            }
        }
        Ok(missing)
    }

    fn read_extent(&self, blob: BlobId, extent: &Extent, sink: &mut Sink<'_>, missing: &mut Holes) -> io::Result<()> {
        let Place::Log { location, skip_bytes } = extent.place else { return Ok(()) };
        let base = extent.offset - u64::from(skip_bytes).min(extent.offset);
        let end = extent.end();
        let (mut at, mut buf, mut step) = (extent.offset, Vec::new(), PIECE_BYTES);
        while at < end {
            let len = step.min(end - at);
            buf.resize(usize::try_from(len).unwrap_or(0), 0);
            if self.read_anywhere(blob, extent.seq, (base, location), at, &mut buf) {
                sink(at, &buf)?;
            } else if step > BLOCK_BYTES as u64 {
                // What is damaged is a few blocks of it.
                step = BLOCK_BYTES as u64;
                continue;
            } else {
                note(missing, at..at + len, Missing::Damaged);
            }
            at += len;
        }
        Ok(())
    }

    /// From where the map says, or from another copy of the same record: one is made when a record is moved, or a flush fails.
    fn read_anywhere(&self, blob: BlobId, seq: Seq, (base, location): (u64, Location), at: u64, buf: &mut [u8]) -> bool {
        let end = at + buf.len() as u64;
        let others = self.copies.get(&(blob, seq)).into_iter().flatten();
        let others = others.filter(|(range, _)| range.start <= at && end <= range.end).map(|(range, at)| (range.start, *at));
        let mut places = std::iter::once((base, location)).chain(others);
        places.any(|(base, location)| {
            u32::try_from(at - base).is_ok_and(|skip_bytes| self.log.read(location, skip_bytes, buf).is_ok())
        })
    }
}

/// Adds a range; one that goes on with the last is one with it.
fn note(missing: &mut Holes, range: Range<u64>, why: Missing) {
    match missing.last_mut() {
        _ if range.start >= range.end => {}
        Some((last, before)) if last.end == range.start && *before == why => last.end = range.end,
        _ => missing.push((range, why)),
    }
}

/// What the name records say in the end.
#[derive(Default)]
struct Names {
    owners: HashMap<OwnerId, OwnerRow>,
    roots: HashSet<NodeId>,
    nodes: HashMap<BlobId, NodeId>,
    entries: HashMap<(NodeId, Vec<u8>), NodeId>,
    /// The names of a node: name and directory.
    names: HashMap<NodeId, BTreeSet<(Vec<u8>, NodeId)>>,
}

impl Names {
    fn replay(&mut self, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::Put(Row::Node(row)) => {
                    if row.parent == row.node {
                        self.roots.insert(row.node);
                    } else if row.blob != BlobId(0) {
                        self.nodes.insert(row.blob, row.node);
                    }
                }
                Change::Put(Row::Entry(row)) => {
                    self.drop_entry(row.parent, &row.name);
                    self.names.entry(row.node).or_default().insert((row.name.clone(), row.parent));
                    self.entries.insert((row.parent, row.name), row.node);
                }
                Change::Drop(Key::Entry(parent, name)) => self.drop_entry(parent, &name),
                Change::Put(Row::Owner(row)) => {
                    self.roots.insert(row.root);
                    self.owners.insert(row.owner, row);
                }
                _ => {}
            }
        }
    }

    fn drop_entry(&mut self, parent: NodeId, name: &[u8]) {
        if let Some(node) = self.entries.remove(&(parent, name.to_vec()))
            && let Some(names) = self.names.get_mut(&node)
        {
            names.remove(&(name.to_vec(), parent));
        }
    }

    /// The path of a blob's node, as far as it is known up to a root.
    fn path(&self, blob: BlobId) -> Option<Vec<u8>> {
        let mut at = *self.nodes.get(&blob)?;
        let mut path = Vec::new();
        while !self.roots.contains(&at) {
            let (name, parent) = self.names.get(&at)?.first()?;
            path.push(name.clone());
            at = *parent;
            if path.len() > DEPTH_MAX {
                return None;
            }
        }
        path.reverse();
        Some(path.join(&b'/'))
    }
}

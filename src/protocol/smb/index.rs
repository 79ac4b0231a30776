//! The names of directories by what clients cannot tell apart: how a name that is spelled otherwise is found without reading the directory each time.
//!
//! What lives here: [`Index`]. A directory is read when a name is first asked for that is not there as it is spelled; from then on the share's own
//! change stream keeps what was read true.
//!
//! Invariants:
//! - What is answered was true at some time during the call, as far as the share knows (a directory whose listing is due again is read again).
//!   It is a hint all the same: who gets a name looks it up.
//! - What changes while a directory is read is noted and applied after it; where that is too much, what was read is used once and not kept.
//! - Names of all directories together are bounded ([`NAMES_MAX`]); the one that was not asked for the longest goes first.

use std::collections::HashMap;

use futures_util::FutureExt;
use parking_lot::Mutex;

use super::names;
use crate::base::id::NodeId;
use crate::engine::file::{Caller, Changed, Changes, Vfs, VfsError};

/// Names that are kept.
const NAMES_MAX: usize = 262_144;
/// Changes of a directory that may be noted while it is read.
const NOTED_MAX: usize = 16_384;
/// Entries that are taken from the share at a time.
const BATCH: usize = 1024;

/// See the file's header.
pub(super) struct Index {
    folds: bool,
    state: Mutex<State>,
}

struct State {
    changes: Changes,
    dirs: HashMap<NodeId, Dir>,
    /// Names of all that are known.
    names: usize,
    /// Counts what is asked, for the order in which directories go.
    asked: u64,
}

enum Dir {
    /// Being read by so many; what changed meanwhile: a name, and whether it is there.
    Reading {
        readers: usize,
        noted: Vec<(Vec<u8>, bool)>,
    },
    Known {
        names: Names,
        asked: u64,
    },
}

/// Names of a directory by key. Several share one where another front end made `a` and `A`.
#[derive(Default)]
struct Names {
    by_key: HashMap<String, Vec<Vec<u8>>>,
    count: usize,
}

/// The key of a name that the share has; none where clients cannot be shown it.
fn key_of(name: &[u8], folds: bool) -> Option<String> {
    let name = std::str::from_utf8(name).ok()?;
    Some(names::key(&names::encode(name), folds).into_owned())
}

impl Names {
    fn set(&mut self, name: &[u8], is_there: bool, folds: bool) {
        let Some(key) = key_of(name, folds) else { return };
        let spelled = self.by_key.entry(key).or_default();
        let known = spelled.iter().position(|other| other == name);
        match (known, is_there) {
            (None, true) => {
                spelled.push(name.to_vec());
                self.count += 1;
            }
            (Some(at), false) => {
                spelled.remove(at);
                self.count -= 1;
            }
            _ => {}
        }
    }

    /// The first by the order of bytes, so that it is always the same one.
    fn get(&self, key: &str) -> Option<Vec<u8>> {
        self.by_key.get(key)?.iter().min().cloned()
    }
}

impl Index {
    /// Of a share.
    pub(super) fn new(vfs: &dyn Vfs, folds: bool) -> Self {
        let state = State { changes: vfs.changes(None), dirs: HashMap::new(), names: 0, asked: 0 };
        Self { folds, state: Mutex::new(state) }
    }

    /// The name in `dir` that clients cannot tell from `shown`.
    pub(super) async fn find(&self, vfs: &dyn Vfs, who: &Caller, dir: NodeId, shown: &str) -> Result<Option<Vec<u8>>, VfsError> {
        let key = names::key(shown, self.folds);
        if let Some(known) = self.state.lock().known(vfs, dir, &key, self.folds) {
            return Ok(known);
        }
        let reading = Reading { index: self, dir };
        let mut read = Names::default();
        for_each(vfs, who, dir, |name| read.set(name, true, self.folds)).await?;
        let mut state = self.state.lock();
        state.drain(self.folds);
        let found = state.finish(dir, read, &key, self.folds);
        drop(state);
        drop(reading);
        Ok(found)
    }
}

/// A directory that is being read, also where the one who reads gives up.
struct Reading<'a> {
    index: &'a Index,
    dir: NodeId,
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        let mut state = self.index.state.lock();
        if let Some(Dir::Reading { readers, .. }) = state.dirs.get_mut(&self.dir) {
            *readers -= 1;
            if *readers == 0 {
                state.dirs.remove(&self.dir);
            }
        }
    }
}

/// Hands out all names of a directory.
async fn for_each(vfs: &dyn Vfs, who: &Caller, dir: NodeId, mut take: impl FnMut(&[u8]) + Send) -> Result<(), VfsError> {
    let mut cookie = 0;
    loop {
        let (mut taken, from) = (0, cookie);
        let mut sink = |entry: crate::engine::file::DirEntry| {
            if taken == BATCH {
                return false;
            }
            taken += 1;
            cookie = entry.cookie;
            if entry.name != b"." && entry.name != b".." {
                take(&entry.name);
            }
            true
        };
        if vfs.readdir(who, dir, from, false, &mut sink).await? || taken == 0 {
            return Ok(());
        }
    }
}

impl State {
    /// What is known of a key; `None`: the directory has to be read, and is noted as being read.
    fn known(&mut self, vfs: &dyn Vfs, dir: NodeId, key: &str, folds: bool) -> Option<Option<Vec<u8>>> {
        self.drain(folds);
        self.asked += 1;
        match self.dirs.get_mut(&dir) {
            Some(Dir::Known { names, asked }) if vfs.is_listing_current(dir) => {
                *asked = self.asked;
                return Some(names.get(key));
            }
            Some(Dir::Reading { readers, .. }) => *readers += 1,
            Some(Dir::Known { names, .. }) => {
                self.names -= names.count;
                self.dirs.insert(dir, Dir::Reading { readers: 1, noted: Vec::new() });
            }
            None => drop(self.dirs.insert(dir, Dir::Reading { readers: 1, noted: Vec::new() })),
        }
        None
    }

    /// Applies what changed since the last time.
    fn drain(&mut self, folds: bool) {
        while let Some(Some(told)) = self.changes.next().now_or_never() {
            for change in told {
                match change {
                    Changed::Entry { parent, name, after, .. } => self.set(parent, &name, after.0 != 0, folds),
                    Changed::Everything => {
                        self.dirs.retain(|_, dir| matches!(dir, Dir::Reading { .. }));
                        self.names = 0;
                        self.overflow();
                    }
                    Changed::Attr(_) | Changed::Data(..) => {}
                }
            }
        }
    }

    fn set(&mut self, dir: NodeId, name: &[u8], is_there: bool, folds: bool) {
        match self.dirs.get_mut(&dir) {
            Some(Dir::Known { names, .. }) => {
                self.names -= names.count;
                names.set(name, is_there, folds);
                self.names += names.count;
            }
            Some(Dir::Reading { noted, .. }) if noted.len() <= NOTED_MAX => noted.push((name.to_vec(), is_there)),
            _ => {}
        }
    }

    /// What is being read cannot be kept.
    fn overflow(&mut self) {
        for dir in self.dirs.values_mut() {
            if let Dir::Reading { noted, .. } = dir {
                noted.resize(NOTED_MAX + 1, (Vec::new(), false));
            }
        }
    }

    /// A directory was read: answers from it, and keeps it where it is true.
    fn finish(&mut self, dir: NodeId, mut read: Names, key: &str, folds: bool) -> Option<Vec<u8>> {
        match self.dirs.get(&dir) {
            Some(Dir::Reading { noted, .. }) if noted.len() <= NOTED_MAX => {
                for (name, is_there) in noted {
                    read.set(name, *is_there, folds);
                }
            }
            // Another reader was first, and what it read is kept true.
            Some(Dir::Known { names, .. }) => return names.get(key),
            _ => return read.get(key),
        }
        let found = read.get(key);
        if read.count <= NAMES_MAX {
            self.names += read.count;
            self.dirs.insert(dir, Dir::Known { names: read, asked: self.asked });
            self.evict();
        }
        found
    }

    fn evict(&mut self) {
        while self.names > NAMES_MAX {
            let known = self.dirs.iter().filter_map(|(dir, kept)| match kept {
                Dir::Known { asked, .. } => Some((*asked, *dir)),
                Dir::Reading { .. } => None,
            });
            let Some((_, oldest)) = known.min() else { return };
            if let Some(Dir::Known { names, .. }) = self.dirs.remove(&oldest) {
                self.names -= names.count;
            }
        }
    }
}

//! Changes of a directory as the share tells them, whichever front end made them: what Explorer and the Finder show at once.
//!
//! Invariants: what was told is kept until it was handed on, so dropping a wait loses nothing. The names of a watched directory are known up to
//! [`NAMES_MAX`]; of the others appearing and going is told, and no change of their bytes and attributes. The crate leaves out what came through itself.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use async_trait::async_trait;
use smb_server::{DirChange, DirChangeKind, DirWatch};

use super::names;
use super::tree::Tree;
use crate::base::id::NodeId;
use crate::engine::file::{Changed, Changes, NodeKind, VfsError};

/// Names of a directory that are known by their node.
const NAMES_MAX: usize = 16_384;

/// See the file's header.
pub(super) struct Watch {
    tree: Arc<Tree>,
    dir: NodeId,
    changes: Changes,
    /// Of entries: their shown name and whether they are directories.
    known: HashMap<NodeId, (String, bool)>,
    /// Told and not translated yet.
    pending: VecDeque<Step>,
    /// Translated and not handed on yet.
    ready: Vec<DirChange>,
}

/// One change that concerns the directory.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// A name is a node's now; `from`: the one that it had in the same directory until now; `replaced`: the node that had the name.
    Gained { name: String, node: NodeId, from: Option<String>, replaced: NodeId },
    /// A name is gone.
    Lost { name: String, node: NodeId },
    /// A node that may be one of the directory's.
    Changed(NodeId, DirChangeKind),
    /// The directory has lost its own name.
    Own,
    /// Nobody knows what changed.
    Everything,
}

impl Watch {
    pub(super) async fn new(tree: Arc<Tree>, dir: NodeId) -> Result<Self, VfsError> {
        // Before the names are read: what changes in between is told.
        let changes = tree.vfs.changes(None);
        let mut known = HashMap::new();
        let mut sink = |entry: crate::engine::file::DirEntry| {
            if let Some(shown) = shown(&entry.name) {
                known.insert(entry.node, (shown, entry.kind == NodeKind::Directory));
            }
            known.len() < NAMES_MAX
        };
        tree.vfs.readdir(&tree.who, dir, 0, false, &mut sink).await?;
        Ok(Self { tree, dir, changes, known, pending: VecDeque::new(), ready: Vec::new() })
    }

    /// Translates one step. What has to be asked is asked before anything is changed here.
    async fn apply(&mut self, step: &Step) {
        match step {
            Step::Gained { name, node, from, replaced } => {
                let is_directory = match self.known.get(node) {
                    Some((_, is_directory)) => *is_directory,
                    None => self.tree.getattr(*node).await.is_ok_and(|attr| attr.kind == NodeKind::Directory),
                };
                if let Some((_, was_directory)) = self.known.remove(replaced) {
                    self.tell(name, DirChangeKind::Removed, was_directory);
                }
                let kind = from.clone().map_or(DirChangeKind::Added, |from| DirChangeKind::Renamed { from });
                self.tell(name, kind, is_directory);
                if self.known.len() < NAMES_MAX || self.known.contains_key(node) {
                    self.known.insert(*node, (name.clone(), is_directory));
                }
            }
            Step::Lost { name, node } => {
                // The node of a hard link may keep another name here.
                let is_it = self.known.get(node).is_some_and(|(known, _)| known == name);
                let is_directory = self.known.get(node).is_some_and(|(_, is_directory)| *is_directory);
                if is_it {
                    self.known.remove(node);
                }
                self.tell(name, DirChangeKind::Removed, is_directory);
            }
            Step::Changed(node, kind) => {
                if let Some((name, is_directory)) = self.known.get(node).cloned() {
                    self.tell(&name, kind.clone(), is_directory);
                }
            }
            Step::Own => {
                let is_there = self.tree.getattr(self.dir).await.is_ok_and(|attr| attr.nlink > 0);
                self.tell("", if is_there { DirChangeKind::Moved } else { DirChangeKind::Deleted }, true);
            }
            Step::Everything => self.tell("", DirChangeKind::Lost, false),
        }
    }

    fn tell(&mut self, name: &str, kind: DirChangeKind, is_directory: bool) {
        self.ready.push(DirChange::new(name, kind, is_directory));
    }
}

#[async_trait]
impl DirWatch for Watch {
    async fn next(&mut self) -> Option<Vec<DirChange>> {
        loop {
            while let Some(step) = self.pending.pop_front() {
                // Dropped while it asks: the step is put back, and nothing of it was done.
                let mut undone = Undone { watch: self, step: Some(step) };
                undone.run().await;
            }
            if !self.ready.is_empty() {
                return Some(std::mem::take(&mut self.ready));
            }
            self.pending = steps(self.dir, self.changes.next().await?);
        }
    }
}

/// A step that is put back where the wait for it is dropped.
struct Undone<'a> {
    watch: &'a mut Watch,
    step: Option<Step>,
}

impl Undone<'_> {
    async fn run(&mut self) {
        if let Some(step) = &self.step {
            self.watch.apply(step).await;
        }
        self.step = None;
    }
}

impl Drop for Undone<'_> {
    fn drop(&mut self) {
        if let Some(step) = self.step.take() {
            self.watch.pending.push_front(step);
        }
    }
}

/// A name as clients see it.
fn shown(name: &[u8]) -> Option<String> {
    Some(names::encode(std::str::from_utf8(name).ok()?).into_owned())
}

/// What of a batch concerns a directory: a node that lost one of its names and has another one is one rename.
fn steps(dir: NodeId, told: Vec<Changed>) -> VecDeque<Step> {
    let mut lost: HashMap<NodeId, String> = HashMap::new();
    let mut gained: HashSet<NodeId> = HashSet::new();
    for change in &told {
        if let Changed::Entry { parent, name, before, after } = change
            && *parent == dir
        {
            if after.0 != 0 {
                gained.insert(*after);
            } else if let Some(name) = shown(name).filter(|_| before.0 != 0) {
                lost.insert(*before, name);
            }
        }
    }
    let renamed: HashMap<NodeId, String> = lost.into_iter().filter(|(node, _)| gained.contains(node)).collect();
    let step = |change: Changed| match change {
        Changed::Entry { parent, name, before, after } if parent == dir => {
            let name = shown(&name)?;
            match (before.0, after.0) {
                (0, 0) => None,
                (_, 0) if renamed.get(&before) == Some(&name) => None,
                (_, 0) => Some(Step::Lost { name, node: before }),
                _ if before == after => None,
                _ => Some(Step::Gained { name, node: after, from: renamed.get(&after).cloned(), replaced: before }),
            }
        }
        Changed::Entry { before, after, .. } => (before == dir && after != dir).then_some(Step::Own),
        Changed::Attr(node) => Some(Step::Changed(node, DirChangeKind::AttributesChanged)),
        Changed::Data(node, _) => Some(Step::Changed(node, DirChangeKind::Modified)),
        Changed::Everything => Some(Step::Everything),
    };
    told.into_iter().filter_map(step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, before: u64, after: u64) -> Changed {
        Changed::Entry { parent: NodeId(1), name: name.as_bytes().to_vec(), before: NodeId(before), after: NodeId(after) }
    }

    fn gained(name: &str, node: u64, from: Option<&str>, replaced: u64) -> Step {
        Step::Gained { name: name.into(), node: NodeId(node), from: from.map(str::to_owned), replaced: NodeId(replaced) }
    }

    #[test]
    fn a_loss_and_a_gain_of_one_node_are_a_rename_in_either_order() {
        let lost = |name: &str, node| Step::Lost { name: name.into(), node: NodeId(node) };
        for (told, expected) in [
            (vec![entry("a", 5, 0), entry("b", 0, 5)], vec![gained("b", 5, Some("a"), 0)]),
            (vec![entry("b", 7, 5), entry("a", 5, 0)], vec![gained("b", 5, Some("a"), 7)]),
            (vec![entry("a", 5, 0), entry("b", 0, 6)], vec![lost("a", 5), gained("b", 6, None, 0)]),
            (vec![entry("a:", 0, 5), entry("x", 0, 0)], vec![gained("a\u{f022}", 5, None, 0)]),
        ] {
            assert_eq!(steps(NodeId(1), told), expected);
        }
        let elsewhere = Changed::Entry { parent: NodeId(9), name: b"dir".to_vec(), before: NodeId(1), after: NodeId(0) };
        assert_eq!(steps(NodeId(1), vec![elsewhere, Changed::Everything]), [Step::Own, Step::Everything]);
    }
}

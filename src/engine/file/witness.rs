//! What was right before a change and right after it, for whoever made it: a front end asked for both before and after the call would take the
//! changes of others in between for its own (RFC 1813 §2.6, `wcc_data`: "atomically").
//!
//! Invariants: a step is noted under the node's guard, where its old times are read and its new ones made; nothing is noted unless somebody
//! asked, in the task that makes the change. A call that failed may have noted what was not done.

use std::cell::RefCell;
use std::future::Future;

use crate::base::id::NodeId;

/// Nodes of one call: two directories, what is moved and what it replaces, and one more.
const STEPS_MAX: usize = 8;

/// The times of a node before and after its last change. Change times of a node never repeat, so they tell its states apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// What was changed.
    pub node: NodeId,
    /// Modification time before it, nanoseconds since the Unix epoch.
    pub before_mtime_ns: i64,
    /// Change time before it.
    pub before_ctime_ns: i64,
    /// Change time after it.
    pub after_ctime_ns: i64,
}

tokio::task_local! {
    static STEPS: RefCell<Vec<Step>>;
}

/// Carries out a call; tells the last change that it made to each node, as far as that went through a node's row (bytes alone do not).
pub async fn witnessed<F: Future>(call: F) -> (F::Output, Vec<Step>) {
    STEPS
        .scope(RefCell::default(), async {
            let output = call.await;
            (output, STEPS.with(RefCell::take))
        })
        .await
}

/// Notes a change, where somebody asked.
pub(super) fn note(step: Step) {
    let _ = STEPS.try_with(|steps| {
        let mut steps = steps.borrow_mut();
        steps.retain(|other| other.node != step.node);
        if steps.len() < STEPS_MAX {
            steps.push(step);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::file::tests::{World, root};
    use crate::engine::file::{Remove, Rename, Vfs};

    #[tokio::test(start_paused = true)]
    async fn a_change_is_told_with_what_was_before_it() {
        let world = World::new().await;
        world.mkdir(&root(), "a", 0o755).await.unwrap();
        world.mkdir(&root(), "b", 0o755).await.unwrap();
        world.put("a/f", b"x").await.unwrap();
        let [a, b] = [world.stat("a").await.unwrap(), world.stat("b").await.unwrap()];
        let (who, share) = (root(), &world.share);
        let step_of = |steps: &[Step], node| *steps.iter().find(|step| step.node == node).unwrap();
        let (moved, steps) = witnessed(share.rename(&who, (a.node, b"f"), (b.node, b"f"), Rename::Replace)).await;
        moved.unwrap();
        for (path, before) in [("a", &a), ("b", &b)] {
            let after = world.stat(path).await.unwrap();
            let expected = Step {
                node: before.node,
                before_mtime_ns: before.mtime_ns,
                before_ctime_ns: before.ctime_ns,
                after_ctime_ns: after.ctime_ns,
            };
            assert_eq!(step_of(&steps, before.node), expected, "{path}");
        }
        // Of two changes in one call the last is told: what came before it may have been somebody else's.
        let between = async {
            world.mkdir(&root(), "b/d", 0o755).await.unwrap();
            let between = world.stat("b").await.unwrap();
            share.remove(&who, b.node, b"f", Remove::File).await.unwrap();
            between
        };
        let (between, steps) = witnessed(between).await;
        assert_eq!(step_of(&steps, b.node).before_ctime_ns, between.ctime_ns);
        assert_eq!(step_of(&steps, b.node).after_ctime_ns, world.stat("b").await.unwrap().ctime_ns);
    }
}

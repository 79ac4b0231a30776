//! Whose key it is: may a node write it now, and whom does it wait for.
//!
//! Invariants: a key that another node's bytes are in is never written; who waits in a circle gets out of it, because exactly the
//! smallest of the circle steps aside.

use crate::base::id::NodeId;
use crate::engine::file::VfsError;
use crate::engine::file::keys;
use crate::engine::file::share::Share;
use crate::store::object::ETag;
use crate::store::upload::{Expected, Op, Plan};

use super::{View, copy_source};

/// How many nodes that wait for each other are followed. A longer chain is taken for a circle: one copy too many, never a standstill.
const CHAIN_MAX: usize = 1024;
/// How long until a key is looked at again that a directory being moved may still hide something at.
const LOOK_AGAIN_NS: i64 = 200_000_000;

/// Whether a key can be written.
pub(super) enum Spot {
    /// Now, instead of this.
    Free(Expected),
    /// Not before this.
    Taken(Box<Plan>),
}

impl Share {
    /// Whether the node may write `key` now.
    pub(super) async fn spot(&self, view: &View, key: &str) -> Result<Spot, VfsError> {
        if let Some(own) = view.object(key) {
            return Ok(Spot::Free(Expected::Object(ETag(own.etag.clone()))));
        }
        let Some(there) = self.object(key).await? else {
            let hidden = self.remote.moves.may_hide(key);
            return Ok(if hidden {
                Spot::Taken(Box::new(Plan::Wait(self.now_ns() + LOOK_AGAIN_NS)))
            } else {
                Spot::Free(Expected::Absent)
            });
        };
        let holder = self.view(there.node).await?;
        if holder.is_alive() && holder.desires(key) {
            // Both cannot be: one of the two views is of an earlier moment.
            return Ok(Spot::Taken(Box::new(Plan::Wait(self.now_ns() + LOOK_AGAIN_NS))));
        }
        if !holder.reads(key, &self.prefix) {
            return Ok(Spot::Free(Expected::Object(ETag(there.etag))));
        }
        if self.is_circle(view.id, holder.id).await?
            && let Some(aside) = self.step_aside(view)
        {
            return Ok(Spot::Taken(Box::new(Plan::Run(aside))));
        }
        Ok(Spot::Taken(Box::new(self.after(holder.id).await?)))
    }

    /// Whether `start`, which waits for `next`, is the smallest of a circle.
    async fn is_circle(&self, start: NodeId, next: NodeId) -> Result<bool, VfsError> {
        let mut at = next;
        for _ in 0..CHAIN_MAX {
            if at <= start {
                return Ok(at == start);
            }
            let Some(blocker) = self.blocker(at).await? else { return Ok(false) };
            at = blocker;
        }
        Ok(true)
    }

    /// The node whose bytes are at the first key that `node` wants and has not.
    async fn blocker(&self, node: NodeId) -> Result<Option<NodeId>, VfsError> {
        let view = self.view(node).await?;
        for desired in view.desired.iter().filter(|desired| view.object(&desired.key).is_none()) {
            if let Some(there) = self.object(&desired.key).await? {
                let holder = self.view(there.node).await?;
                if holder.reads(&desired.key, &self.prefix) {
                    return Ok(Some(holder.id));
                }
            }
        }
        Ok(None)
    }

    /// The living node whose name `key` is, if it is not `node`.
    pub(super) async fn wanted_by(&self, node: NodeId, key: &str) -> Result<Option<NodeId>, VfsError> {
        if keys::is_hidden(&self.prefix, key) {
            return Ok(None);
        }
        let Some(entry) = self.entry_at(key).await?.filter(|entry| entry.node != node) else { return Ok(None) };
        let heir = self.view(entry.node).await?;
        Ok(heir.desires(key).then_some(heir.id))
    }

    /// Where somebody wants the key that this node's bytes are at: copy them aside.
    pub(super) async fn step_aside_if_wanted(&self, view: &View) -> Result<Option<Plan>, VfsError> {
        let Some(source) = view.source(&self.prefix) else { return Ok(None) };
        if self.wanted_by(view.id, &source.key).await?.is_none() {
            return Ok(None);
        }
        Ok(self.step_aside(view).map(Plan::Run))
    }

    /// The copy of the node's own object to `.tidegate/moving/`.
    pub(super) fn step_aside(&self, view: &View) -> Option<Op> {
        let source = view.source(&self.prefix)?;
        let key = keys::moving_key(&self.prefix, &self.gateway, view.id);
        if source.key == key {
            return None;
        }
        let expected = view.object(&key).map_or(Expected::Absent, |there| Expected::Object(ETag(there.etag.clone())));
        Some(Op::Copy { source: copy_source(source), size_bytes: source.size_bytes, key, attributes: None, expected })
    }

    /// After another node's job. One that has none is given one, so that nobody waits for nothing.
    pub(super) async fn after(&self, node: NodeId) -> Result<Plan, VfsError> {
        if self.has_job(node).await? {
            return Ok(Plan::After(node.0));
        }
        self.kick(node);
        Ok(Plan::Wait(self.now_ns() + LOOK_AGAIN_NS))
    }
}

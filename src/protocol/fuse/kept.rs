//! What of a share's content the kernel keeps by our leave: bytes of files, targets of symbolic links, listings.
//!
//! Invariants:
//! - The kernel may keep bytes over an open only where every change since they came was told to it: since an open that dropped all it had. That
//!   is what being in `held` means. Whoever is not in it drops what it has at its next open.
//! - `held` has all that is open, and is no larger than what is open and what the kernel knows: it tells when it forgets a node.
//! - [`Kept::forget_all`] ends all of it: what is open now has to be told node by node, what is not by its next open.

use std::collections::HashMap;
use std::time::Duration;

use fuser::INodeNo;
use parking_lot::Mutex;

/// Directories that are remembered as just listed.
const LISTED_MAX: u64 = 1 << 16;

/// See the module.
pub(super) struct Kept {
    /// How often each is open.
    held: Mutex<HashMap<INodeNo, u32>>,
    /// Directories whose listing the kernel got from us no longer ago than it may believe anything: it may keep it while the share has
    /// nothing to look up in the bucket.
    listed: moka::sync::Cache<INodeNo, ()>,
}

impl Kept {
    /// `cache`: how long the kernel may believe a listing.
    pub(super) fn new(cache: Duration) -> Self {
        let listed = moka::sync::Cache::builder().max_capacity(LISTED_MAX).time_to_live(cache).build();
        Self { held: Mutex::default(), listed }
    }

    /// A file was opened; says whether the kernel may keep what it has of its bytes. Before the answer to the open.
    pub(super) fn open(&self, inode: INodeNo) -> bool {
        let mut is_kept = true;
        *self.held.lock().entry(inode).or_insert_with(|| {
            is_kept = false;
            0
        }) += 1;
        is_kept
    }

    /// The end of one [`Self::open`].
    pub(super) fn close(&self, inode: INodeNo) {
        if let Some(opens) = self.held.lock().get_mut(&inode) {
            *opens = opens.saturating_sub(1);
        }
    }

    /// The target of a symbolic link is about to be read: the kernel keeps it, and asks at no open.
    pub(super) fn read_link(&self, inode: INodeNo) {
        self.held.lock().entry(inode).or_insert(0);
    }

    /// The kernel has forgotten a node, or less of it than it knew.
    pub(super) fn forget(&self, inode: INodeNo) {
        let mut held = self.held.lock();
        if held.get(&inode) == Some(&0) {
            held.remove(&inode);
        }
    }

    /// A listing is read from its beginning: what the kernel keeps of it is of now.
    pub(super) fn list(&self, inode: INodeNo) {
        self.listed.insert(inode, ());
    }

    /// Whether the kernel may keep the listing that it has.
    pub(super) fn is_listed(&self, inode: INodeNo) -> bool {
        self.listed.contains_key(&inode)
    }

    /// Something changed, and nobody knows what. Returns all nodes whose content the kernel may have, to be told one by one.
    pub(super) fn forget_all(&self) -> Vec<INodeNo> {
        self.listed.invalidate_all();
        let mut held = self.held.lock();
        let all = held.keys().copied().collect();
        held.retain(|_, opens| *opens > 0);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_stay_from_open_to_open_until_all_is_forgotten() {
        let kept = Kept::new(Duration::from_secs(10));
        let (closed, open, link) = (INodeNo(2), INodeNo(3), INodeNo(4));
        assert!(!kept.open(closed));
        kept.close(closed);
        assert!(kept.open(closed));
        kept.close(closed);
        kept.open(open);
        kept.read_link(link);
        kept.list(INodeNo(5));
        let mut all = kept.forget_all();
        all.sort_unstable();
        assert_eq!(all, [closed, open, link]);
        assert!(!kept.is_listed(INodeNo(5)));
        assert!(!kept.open(closed));
        // It was open all the time: what it had was dropped there and then.
        assert!(kept.open(open));
    }

    #[test]
    fn what_the_kernel_forgot_is_not_remembered_unless_it_is_open() {
        let kept = Kept::new(Duration::from_secs(10));
        kept.open(INodeNo(2));
        kept.read_link(INodeNo(3));
        kept.forget(INodeNo(2));
        kept.forget(INodeNo(3));
        assert_eq!(kept.forget_all(), [INodeNo(2)]);
        kept.close(INodeNo(2));
        kept.forget(INodeNo(2));
        assert!(kept.held.lock().is_empty());
    }
}

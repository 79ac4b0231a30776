//! Who may do what: POSIX permission bits, ownership, the sticky bit, and which bits a change takes away. Pure.
//!
//! Invariants: only the first class that fits (owner, group, others) decides; uid 0 may everything but execute what nobody may execute.

use crate::engine::file::{Caller, NodeKind, VfsError};
use crate::store::meta::NodeRow;

/// May read.
pub(super) const READ: u8 = 4;
/// May write.
pub(super) const WRITE: u8 = 2;
/// May execute, or search a directory.
pub(super) const EXECUTE: u8 = 1;

/// `S_ISUID`.
pub(super) const SET_UID: u32 = 0o4000;
/// `S_ISGID`.
pub(super) const SET_GID: u32 = 0o2000;
/// `S_ISVTX`.
pub(super) const STICKY: u32 = 0o1000;

/// The bits of read, write, execute that the caller has.
pub(super) fn granted(node: &NodeRow, who: &Caller) -> u8 {
    if who.uid == 0 {
        let executable = node.kind == NodeKind::Directory || node.mode & 0o111 != 0;
        return READ | WRITE | if executable { EXECUTE } else { 0 };
    }
    let shift = if who.uid == node.uid {
        6
    } else if who.in_group(node.gid) {
        3
    } else {
        0
    };
    ((node.mode >> shift) & 7) as u8
}

/// # Errors
/// `AccessDenied` where the caller lacks one of the bits.
pub(super) fn check(node: &NodeRow, who: &Caller, wanted: u8) -> Result<(), VfsError> {
    if granted(node, who) & wanted == wanted { Ok(()) } else { Err(VfsError::AccessDenied) }
}

/// Whether the caller is the node's owner, or root.
pub(super) fn owns(node: &NodeRow, who: &Caller) -> bool {
    who.uid == 0 || who.uid == node.uid
}

/// # Errors
/// `NotPermitted` where only the owner may.
pub(super) fn check_owner(node: &NodeRow, who: &Caller) -> Result<(), VfsError> {
    if owns(node, who) { Ok(()) } else { Err(VfsError::NotPermitted) }
}

/// Whether the caller may take the name of `node` out of `dir`.
///
/// # Errors
/// `AccessDenied` by the directory's bits; `NotPermitted` by its sticky bit.
pub(super) fn check_unlink(dir: &NodeRow, node: &NodeRow, who: &Caller) -> Result<(), VfsError> {
    check(dir, who, WRITE | EXECUTE)?;
    if dir.mode & STICKY != 0 && !owns(dir, who) && who.uid != node.uid {
        return Err(VfsError::NotPermitted);
    }
    Ok(())
}

/// The mode after a change of bytes or owner: no set-uid, and no set-gid where it meant a group (Linux: `setattr_should_drop_suidgid`).
pub(super) fn without_privileges(node: &NodeRow) -> u32 {
    if node.kind == NodeKind::Directory {
        return node.mode;
    }
    let mut mode = node.mode & !SET_UID;
    if mode & 0o010 != 0 {
        mode &= !SET_GID;
    }
    mode
}

/// Mode and group of something new in `dir`: a set-gid directory hands down its group, and to directories the bit.
pub(super) fn inherit(dir: &NodeRow, who: &Caller, kind: NodeKind, mode: u32) -> (u32, u32) {
    let mut mode = mode & 0o7777;
    if dir.mode & SET_GID == 0 {
        return (mode, who.gid);
    }
    if kind == NodeKind::Directory {
        mode |= SET_GID;
    } else if mode & (SET_GID | 0o010) == (SET_GID | 0o010) && who.uid != 0 && !who.in_group(dir.gid) {
        mode &= !SET_GID;
    }
    (mode, dir.gid)
}

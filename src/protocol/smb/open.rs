//! Opening: the crate's create dispositions as the one `open` of the share.
//!
//! Invariants: what is opened is held open in the share too, so that NFS and FUSE see it open and its bytes outlive its name; a directory, and what has no
//! bytes, is not. A read-only file is opened for writing by nobody, as Windows has it, also where SMB acts as root.

use std::sync::Arc;

use smb_server::{Handle, OpenAction, OpenIntent, OpenOptions, SmbError, SmbPath, SmbResult};

use super::convert;
use super::file::Open;
use super::names;
use super::tree::{Place, Tree};
use crate::engine::file::{Attr, Create, HandleId, NodeKind, OpenHow, Target, VfsError};

/// How often a name may come and go while it is opened.
const RACES_MAX: usize = 8;

/// What was opened.
struct Opened {
    attr: Attr,
    handle: Option<HandleId>,
    action: OpenAction,
}

/// See the file's header.
pub(super) async fn open(tree: &Arc<Tree>, path: &SmbPath, options: OpenOptions) -> SmbResult<(Box<dyn Handle>, OpenAction)> {
    let name = path.file_name().unwrap_or(&tree.name);
    let opened = if path.is_root() {
        let attr = tree.getattr(tree.vfs.root()).await.map_err(|error| tree.failed("open", error))?;
        existing(tree, attr, options).await
    } else {
        child(tree, &tree.place(path).await?, options).await
    };
    let opened = opened.map_err(|failure| match failure {
        Failure::Told(error) => error,
        Failure::Share(error) => tree.failed("open", error),
    })?;
    if opened.action != OpenAction::Opened {
        tree.told().await;
    }
    let action = opened.action;
    Ok((Box::new(Open::new(tree.clone(), name, &opened.attr, opened.handle)), action))
}

/// Why something is not opened.
enum Failure {
    /// It is as the client is told.
    Told(SmbError),
    /// The share said so.
    Share(VfsError),
}

impl From<VfsError> for Failure {
    fn from(error: VfsError) -> Self {
        Self::Share(error)
    }
}

async fn child(tree: &Arc<Tree>, place: &Place<'_>, options: OpenOptions) -> Result<Opened, Failure> {
    for _ in 0..RACES_MAX {
        let outcome = match tree.find(place).await? {
            Some(found) => {
                let attr = tree.followed(place.parent, found.attr).await?;
                existing(tree, attr, options).await
            }
            None if matches!(options.intent, OpenIntent::Open | OpenIntent::Truncate) => {
                return Err(Failure::Told(SmbError::NotFound));
            }
            None => create(tree, place, options).await,
        };
        match outcome {
            Err(Failure::Share(VfsError::Stale | VfsError::NotFound)) => {}
            Err(Failure::Share(VfsError::Exists)) if options.intent != OpenIntent::Create => {}
            other => return other,
        }
    }
    Err(Failure::Told(SmbError::Sharing))
}

async fn existing(tree: &Arc<Tree>, attr: Attr, options: OpenOptions) -> Result<Opened, Failure> {
    let truncate = matches!(options.intent, OpenIntent::OverwriteOrCreate | OpenIntent::Truncate);
    let told = |error| Err(Failure::Told(error));
    match attr.kind {
        _ if options.intent == OpenIntent::Create => return told(SmbError::Exists),
        NodeKind::Directory if options.non_directory => return told(SmbError::IsDirectory),
        NodeKind::Directory if truncate => return told(SmbError::Exists),
        NodeKind::Directory => return Ok(Opened { attr, handle: None, action: OpenAction::Opened }),
        _ if options.directory => return told(SmbError::NotADirectory),
        NodeKind::File => {}
        // A link to nowhere, a FIFO, a socket, a device: to look at, rename and remove.
        _ if options.write || truncate => return told(SmbError::AccessDenied),
        _ => return Ok(Opened { attr, handle: None, action: OpenAction::Opened }),
    }
    if (options.write || truncate) && convert::is_read_only(&attr) {
        return told(SmbError::AccessDenied);
    }
    let how = OpenHow { read: options.read, write: options.write, truncate, ..OpenHow::default() };
    match tree.vfs.open(&tree.who, Target::Node(attr.node), &how).await {
        Ok(opened) => {
            let action = if truncate { OpenAction::Overwritten } else { OpenAction::Opened };
            Ok(Opened { attr: opened.attr, handle: Some(opened.handle), action })
        }
        // The crate asks for reading where a client wants no bytes at all: then it may.
        Err(VfsError::AccessDenied) if !options.write && !truncate => {
            Ok(Opened { attr, handle: None, action: OpenAction::Opened })
        }
        Err(error) => Err(error.into()),
    }
}

async fn create(tree: &Arc<Tree>, place: &Place<'_>, options: OpenOptions) -> Result<Opened, Failure> {
    let _guard = tree.making(place).await;
    if tree.find(place).await?.is_some() {
        return Err(VfsError::Exists.into());
    }
    let (name, action) = (names::decode(place.shown), OpenAction::Created);
    if options.directory {
        let create = Create { mode: tree.rules.directory_mode };
        let attr = tree.vfs.mkdir(&tree.who, place.parent, name.as_bytes(), create).await?;
        return Ok(Opened { attr, handle: None, action });
    }
    let create = Some(Create { mode: tree.rules.file_mode });
    let how = OpenHow { read: options.read, write: options.write, create, exclusive: true, ..OpenHow::default() };
    let opened = tree.vfs.open(&tree.who, Target::Child(place.parent, name.as_bytes()), &how).await?;
    Ok(Opened { attr: opened.attr, handle: Some(opened.handle), action })
}

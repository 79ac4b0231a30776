//! What of a unit's reservations survives power loss (APTPL, SPC-4 §5.13.5): one small JSON file per unit.
//!
//! Format, version 1: `{"version": 1, "reservations": {"registrants": [{"port", "key"}], "reservation": {"kind", "holder"} | null, "aptpl"}}`.
//!
//! Invariants: a change is answered after the file with it is durable; a file is replaced as a whole (write, flush, rename, flush of the
//! directory); reservations without APTPL are not written, and remove what was.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::reservation::Reservations;

const VERSION: u32 = 1;
/// A file over this is none of ours, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

#[derive(Serialize, Deserialize)]
struct Kept {
    version: u32,
    reservations: Reservations,
}

/// Where the reservations of a unit are kept.
#[derive(Clone, Debug)]
pub struct Keeper {
    path: Option<PathBuf>,
}

impl Keeper {
    /// Keeps nothing: for tests, and units that do not outlive the process.
    pub fn forgetful() -> Self {
        Self { path: None }
    }

    /// Keeps in a file, which nobody else uses.
    pub fn file(path: PathBuf) -> Self {
        Self { path: Some(path) }
    }

    pub(super) async fn load(&self) -> io::Result<Reservations> {
        match self.path.clone() {
            Some(path) => blocking(move || load(&path)).await,
            None => Ok(Reservations::default()),
        }
    }

    /// Keeps what has to be kept of a new state.
    pub(super) async fn store(&self, state: &Reservations) -> io::Result<()> {
        let Some(path) = self.path.clone() else { return Ok(()) };
        let kept = (state.aptpl && !state.is_empty()).then(|| Kept { version: VERSION, reservations: state.clone() });
        blocking(move || match kept {
            Some(kept) => replace(&path, &serde_json::to_vec(&kept)?),
            None => remove(&path),
        })
        .await
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

fn load(path: &Path) -> io::Result<Reservations> {
    match path.metadata() {
        Ok(metadata) if metadata.len() > FILE_BYTES_MAX => {
            return Err(io::Error::other(format!("{} is too large", path.display())));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Reservations::default()),
        Err(error) => return Err(error),
        Ok(_) => {}
    }
    let kept: Kept = serde_json::from_slice(&std::fs::read(path)?)?;
    if kept.version != VERSION {
        return Err(io::Error::other(format!("{}: version {} is not known", path.display(), kept.version)));
    }
    Ok(kept.reservations)
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    settle(path)
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Ok(()) => settle(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn settle(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}

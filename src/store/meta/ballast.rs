//! A file that holds room on the disk for the database: when the disk is full it is given up, so that what is
//! acknowledged can still be written down, and it is taken again when there is room.
//!
//! Invariant: nothing here fails; without its file the ballast is only not held, and [`Ballast::below_floor`] says so.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FallocateFlags, fallocate, statvfs};

/// Shares go read-only below this much free disk, or below a hundredth of the disk where that is less, in bytes.
const FLOOR_BYTES_MAX: u64 = 64 << 20;

/// See the file's header.
#[derive(Debug)]
pub(super) struct Ballast {
    path: PathBuf,
    len_bytes: u64,
    held: AtomicBool,
    /// It was below the floor at the last look.
    below: AtomicBool,
}

impl Ballast {
    /// Takes the ballast where there is room for it.
    pub fn open(path: PathBuf, len_bytes: u64) -> Self {
        let held = fs::metadata(&path).is_ok_and(|metadata| metadata.len() == len_bytes);
        let ballast = Self { path, len_bytes, held: held.into(), below: false.into() };
        ballast.restore();
        ballast
    }

    /// Gives the ballast up. Whether there was any.
    pub fn release(&self) -> bool {
        self.held.swap(false, Ordering::Relaxed) && fs::remove_file(&self.path).is_ok()
    }

    /// Takes the ballast again if it was given up and if the floor stays free beside it.
    pub fn restore(&self) {
        if self.held.load(Ordering::Relaxed) || self.free_bytes() < self.floor_bytes().saturating_add(self.len_bytes) {
            return;
        }
        match allocate(&self.path, self.len_bytes) {
            Ok(()) => self.held.store(true, Ordering::Relaxed),
            Err(_) => drop(fs::remove_file(&self.path)),
        }
    }

    /// `Some` where the disk has so little room that nothing more should be taken on: until so many bytes are free. That is more than the
    /// floor below which it begins, so that it does not begin and end with every write.
    pub fn below_floor(&self) -> Option<u64> {
        self.restore();
        let below = !self.held.load(Ordering::Relaxed) || self.free_bytes() < self.wanted_bytes();
        self.below.store(below, Ordering::Relaxed);
        below.then(|| self.wanted_bytes())
    }

    /// How much has to be free for it to be enough.
    fn wanted_bytes(&self) -> u64 {
        let floor = self.floor_bytes();
        if !self.held.load(Ordering::Relaxed) {
            floor.saturating_add(self.len_bytes)
        } else if self.below.load(Ordering::Relaxed) {
            floor.saturating_mul(2)
        } else {
            floor
        }
    }

    fn directory(&self) -> &Path {
        match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        }
    }

    fn free_bytes(&self) -> u64 {
        statvfs(self.directory()).map_or(0, |disk| disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    fn floor_bytes(&self) -> u64 {
        let disk_bytes = statvfs(self.directory()).map_or(0, |disk| disk.f_blocks.saturating_mul(disk.f_frsize));
        (disk_bytes / 100).min(FLOOR_BYTES_MAX)
    }
}

/// A file whose blocks are really taken.
fn allocate(path: &Path, len_bytes: u64) -> io::Result<()> {
    let mut file = File::create(path)?;
    match fallocate(&file, FallocateFlags::empty(), 0, len_bytes) {
        Ok(()) => {}
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
            // Not zeros, which a file system that compresses would not store.
            let mut random = fastrand::Rng::with_seed(len_bytes);
            let mut left = len_bytes;
            while left > 0 {
                let portion: Vec<u8> = (0..left.min(1 << 20)).map(|_| random.u8(..)).collect();
                file.write_all(&portion)?;
                left -= portion.len() as u64;
            }
        }
        Err(error) => return Err(error.into()),
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_room_and_gives_it_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("meta.db.ballast");
        let ballast = Ballast::open(path.clone(), 1 << 20);
        assert_eq!(ballast.below_floor(), None);
        let blocks = std::os::unix::fs::MetadataExt::blocks(&fs::metadata(&path).unwrap());
        assert!(blocks * 512 >= 1 << 20, "its blocks are taken");
        assert!(ballast.release());
        assert!(!path.exists());
        assert!(!ballast.release(), "only once");
        ballast.restore();
        assert!(path.exists());
        drop(ballast);
        assert!(Ballast::open(path, 1 << 20).release(), "an earlier one is taken over");
    }

    /// What it asks for is more than what it began at: no share flaps at the edge.
    #[test]
    fn it_ends_above_where_it_begins() {
        let directory = tempfile::tempdir().unwrap();
        let ballast = Ballast::open(directory.path().join("meta.db.ballast"), 1 << 20);
        assert_eq!(ballast.below_floor(), None);
        // As if it had been below: there is more than twice the floor here, so it ends.
        ballast.below.store(true, Ordering::Relaxed);
        assert_eq!(ballast.wanted_bytes(), 2 * ballast.floor_bytes());
        assert_eq!(ballast.below_floor(), None);
        assert_eq!(ballast.wanted_bytes(), ballast.floor_bytes());
        assert!(ballast.release());
        assert_eq!(ballast.wanted_bytes(), ballast.floor_bytes() + (1 << 20));
    }

    #[test]
    fn it_does_not_take_the_last_room() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("meta.db.ballast");
        let ballast = Ballast::open(path.clone(), 1 << 60);
        assert!(!path.exists());
        assert!(ballast.below_floor().is_some_and(|wanted| wanted >= 1 << 60));
        assert!(!ballast.release());
    }
}

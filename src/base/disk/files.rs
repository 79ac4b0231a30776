//! [`Disk`] over one directory of the machine's file system.
//!
//! What lives here: [`FilesDisk`]. Files are preallocated with `fallocate`, so that a full disk is met when a file is
//! created and never in the middle of a write; data is flushed with `fdatasync`, names with an `fsync` of the directory.
//!
//! Invariant: a name in the directory is only ever a plain file that [`Disk::create`] made; sub-directories are not seen.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, IoSliceMut};
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Advice, FallocateFlags};
use rustix::io::{Errno, ReadWriteFlags};

use super::{Disk, DiskFile, pieces};

/// A directory as a disk.
#[derive(Debug)]
pub struct FilesDisk {
    dir: PathBuf,
    handle: File,
}

impl FilesDisk {
    /// Uses `dir`, which is made (readable by its owner only) where it does not exist.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn new(dir: impl Into<PathBuf>) -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        let dir = dir.into();
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        let handle = File::open(&dir)?;
        Ok(Self { dir, handle })
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn path(&self, name: &str) -> io::Result<PathBuf> {
        if name.is_empty() || name.contains('/') || name.starts_with('.') {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a name of a file on this disk"));
        }
        Ok(self.dir.join(name))
    }

    fn allocate(file: &File, len_bytes: u64) -> io::Result<()> {
        match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, len_bytes) {
            Ok(()) => Ok(()),
            // Not every file system can; a sparse file is the next best thing.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => file.set_len(len_bytes),
            Err(error) => Err(error.into()),
        }
    }
}

impl Disk for FilesDisk {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if let (true, Ok(name)) = (metadata.is_file(), entry.file_name().into_string()) {
                files.push((name, metadata.len()));
            }
        }
        Ok(files)
    }

    fn create(&self, name: &str, len_bytes: u64) -> io::Result<Arc<dyn DiskFile>> {
        use std::os::unix::fs::OpenOptionsExt;
        let path = self.path(name)?;
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        // The length is part of what `fdatasync` keeps, but flush it now: later syncs then write data only.
        let made = Self::allocate(&file, len_bytes).and_then(|()| file.sync_all()).and_then(|()| self.handle.sync_all());
        if let Err(error) = made {
            let _ = std::fs::remove_file(&path);
            return Err(error);
        }
        Ok(Arc::new(OpenFile(file)))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).open(self.path(name)?)?;
        Ok(Arc::new(OpenFile(file)))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.path(name)?)?;
        self.handle.sync_all()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::fstatvfs(&self.handle)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn blocks(&self) -> bool {
        true
    }
}

struct OpenFile(File);

/// A small read that waits for the disk brings so many bytes around it along, in bytes: they cost next to nothing more, and what
/// is asked for next is often among them.
const AROUND_BYTES: u64 = 16 << 10;

impl OpenFile {
    /// Asks the kernel for what is around a small read, where the read would wait.
    fn read_around(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let wanted = buf.len();
        match rustix::io::preadv2(&self.0, &mut [IoSliceMut::new(buf)], offset, ReadWriteFlags::NOWAIT) {
            Ok(read) if read == wanted => return Ok(()),
            Err(Errno::AGAIN) => {
                let start = offset - offset % AROUND_BYTES;
                let end = (offset + wanted as u64).next_multiple_of(AROUND_BYTES);
                // A hint: a kernel that does not take it reads what is asked for.
                let _ = rustix::fs::fadvise(&self.0, start, NonZeroU64::new(end - start), Advice::WillNeed);
            }
            // Part of it is there, or the file system cannot say.
            _ => {}
        }
        self.0.read_exact_at(buf, offset)
    }
}

impl DiskFile for OpenFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        if (buf.len() as u64) < AROUND_BYTES { self.read_around(buf, offset) } else { self.0.read_exact_at(buf, offset) }
    }

    fn will_read(&self, offset: u64, len_bytes: u64) {
        // Otherwise a disk is asked for 128 KiB at a time.
        let _ = rustix::fs::fadvise(&self.0, offset, NonZeroU64::new(len_bytes), Advice::WillNeed);
    }

    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        pieces::write_all_at(&self.0, parts, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_created_written_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let disk = FilesDisk::new(dir.path().join("cache")).unwrap();
        let file = disk.create("a", 300_000).unwrap();
        assert_eq!(disk.create("a", 1).err().map(|e| e.kind()), Some(io::ErrorKind::AlreadyExists));
        assert_eq!(disk.open("b").err().map(|e| e.kind()), Some(io::ErrorKind::NotFound));
        assert_eq!(disk.open("../a").err().map(|e| e.kind()), Some(io::ErrorKind::InvalidInput));

        // Over many slices, empty ones among them, and over ends of pieces.
        let many: Vec<Vec<u8>> = (0..3000).map(|i| vec![i as u8; if i == 1500 { 200_000 } else { i % 3 }]).collect();
        let len_bytes = many.iter().map(Vec::len).sum::<usize>();
        let parts: Vec<IoSlice<'_>> = many.iter().map(|part| IoSlice::new(part)).collect();
        file.write_at(&parts, 100).unwrap();
        file.sync().unwrap();
        let mut back = vec![0; len_bytes];
        disk.open("a").unwrap().read_at(&mut back, 100).unwrap();
        assert_eq!(back, many.concat());
        assert_eq!(file.read_at(&mut back, 299_000).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(file.len_bytes().unwrap(), 300_000);
        assert_eq!(disk.list().unwrap(), [("a".to_owned(), 300_000)]);
        assert!(disk.free_bytes().unwrap() > 0 && disk.blocks());

        disk.remove("a").unwrap();
        file.read_at(&mut back, 100).unwrap();
        assert!(disk.list().unwrap().is_empty());
    }

    /// How many of the bytes from `at` on are in the kernel's cache.
    fn cached_bytes(file: &File, at: u64, len: usize) -> usize {
        let mut bytes = vec![0; len];
        rustix::io::preadv2(file, &mut [IoSliceMut::new(&mut bytes)], at, ReadWriteFlags::NOWAIT).unwrap_or(0)
    }

    #[test]
    fn a_small_read_from_the_disk_brings_its_neighbours() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let disk = FilesDisk::new(dir.path()).unwrap();
        let file = disk.create("a", 1 << 20).unwrap();
        file.write_at(&[IoSlice::new(&vec![7; 1 << 20])], 0).unwrap();
        file.sync().unwrap();
        let plain = File::open(dir.path().join("a")).unwrap();
        rustix::fs::fadvise(&plain, 0, None, Advice::DontNeed).unwrap();
        let mut block = [0; 4096];
        file.read_at(&mut block, (64 << 10) + 4096).unwrap();
        assert_eq!(block, [7; 4096]);
        // The kernel does it beside us.
        let is_there = (0..500).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            cached_bytes(&plain, 64 << 10, 16 << 10) == 16 << 10
        });
        assert!(is_there);
    }
}

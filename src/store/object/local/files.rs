//! The directory of immutable files: ids, creation, reading, removal.
//!
//! Invariants: a file's id is from a block that the index had reserved durably before; its block's directory was made and
//! synced before its first file. A [`Fresh`] file removes itself unless the index came to name it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::LocalError;
use super::extent::Extents;
use super::garbage::Garbage;
use super::index::{Forget, Index, Reserve, Start};
use crate::base::disk::pieces::write_all_at;

/// Objects leave so much of their disk free, or a fiftieth of it where that is less, in bytes: the index here, and a gateway's database
/// beside it, go on where objects cannot.
const KEPT_FREE_BYTES_MAX: u64 = 128 << 20;
/// Ids per block, which is a directory.
const BLOCK_FILES: u64 = 4096;
/// The most files that are removed in one round.
const REAP_BATCH: usize = 512;

/// The files of a store.
pub struct Files {
    data: PathBuf,
    index: Index,
    garbage: Arc<Garbage>,
    ids: Mutex<Ids>,
    /// Held for as long as the process may write.
    _lock: File,
}

struct Ids {
    next: u64,
    end: u64,
}

/// Makes sure that this process alone serves `dir`.
pub fn lock(dir: &Path) -> Result<File, LocalError> {
    fs::create_dir_all(dir.join("data"))?;
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(dir.join("lock"))?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            return Err(LocalError::Disk(format!("{} is served by another process", dir.display())));
        }
        Err(error) => return Err(io::Error::from(error).into()),
    }
    sync_dir(dir)?;
    Ok(file)
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Whether `len_bytes` may be added to a file.
fn check_room(file: &File, len_bytes: u64) -> io::Result<()> {
    let disk = rustix::fs::fstatvfs(file)?;
    let free_bytes = disk.f_bavail.saturating_mul(disk.f_frsize);
    let kept_bytes = (disk.f_blocks.saturating_mul(disk.f_frsize) / 50).min(KEPT_FREE_BYTES_MAX);
    if free_bytes >= kept_bytes.saturating_add(len_bytes) {
        return Ok(());
    }
    let reason =
        format!("the disk of the embedded S3 endpoint is nearly full (the last {} MiB of it are kept free)", kept_bytes >> 20);
    Err(io::Error::new(io::ErrorKind::StorageFull, reason))
}

impl Files {
    /// Removes what the last run left without a name, and reserves the first block of this run.
    pub async fn open(
        dir: &Path,
        lock: File,
        index: Index,
        garbage: Arc<Garbage>,
        start: &Start,
    ) -> Result<Arc<Self>, LocalError> {
        let ids = Mutex::new(Ids { next: start.next_block * BLOCK_FILES, end: start.next_block * BLOCK_FILES });
        let files = Self { data: dir.join("data"), index, garbage, ids, _lock: lock };
        let blocks = fs::read_dir(&files.data)?;
        for entry in blocks {
            let Some(block) = entry?.file_name().to_str().and_then(|name| u64::from_str_radix(name, 16).ok()) else { continue };
            if (start.scan_from..start.next_block).contains(&block) {
                files.remove_nameless(block).await?;
            }
            // Only an empty directory goes.
            let _ = fs::remove_dir(files.block_dir(block));
        }
        files.sweep().await?;
        files.reserve(start.next_block, true).await?;
        files.ids.lock().await.end += BLOCK_FILES;
        Ok(Arc::new(files))
    }

    fn block_dir(&self, block: u64) -> PathBuf {
        self.data.join(format!("{block:06x}"))
    }

    fn path(&self, id: u64) -> PathBuf {
        self.block_dir(id / BLOCK_FILES).join(format!("{id:09x}"))
    }

    async fn reserve(&self, block: u64, run: bool) -> Result<(), LocalError> {
        self.index.change(Reserve { block, run }).await?;
        fs::create_dir_all(self.block_dir(block))?;
        sync_dir(&self.data)?;
        Ok(())
    }

    /// Removes the files of a block that the index does not know: a crash came before their transaction.
    async fn remove_nameless(&self, block: u64) -> Result<(), LocalError> {
        let known = self.index.known_files(block * BLOCK_FILES..(block + 1) * BLOCK_FILES).await?;
        let Ok(entries) = fs::read_dir(self.block_dir(block)) else { return Ok(()) };
        for entry in entries {
            let entry = entry?;
            let id = entry.file_name().to_str().and_then(|name| u64::from_str_radix(name, 16).ok());
            if id.is_some_and(|id| known.binary_search(&id).is_err()) {
                fs::remove_file(entry.path())?;
                tracing::debug!(path = %entry.path().display(), "removed a file that a crash left");
            }
        }
        Ok(())
    }

    /// A new id, durable as such.
    async fn allocate(&self) -> Result<u64, LocalError> {
        let mut ids = self.ids.lock().await;
        if ids.next == ids.end {
            self.reserve(ids.end / BLOCK_FILES, false).await?;
            ids.end += BLOCK_FILES;
        }
        ids.next += 1;
        Ok(ids.next - 1)
    }

    /// Creates an empty file that nothing names yet.
    pub async fn create(&self) -> Result<Fresh, LocalError> {
        let id = self.allocate().await?;
        let path = self.path(id);
        let file = OpenOptions::new().write(true).create_new(true).open(&path)?;
        Ok(Fresh { id, path, file, len_bytes: 0, keep: false })
    }

    /// Opens a file to read.
    pub fn open_file(&self, id: u64) -> Result<File, LocalError> {
        File::open(self.path(id)).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => LocalError::Damaged(format!("file {id:09x} is missing")),
            _ => error.into(),
        })
    }

    /// Reads all of `extents`, which the caller keeps small. Blocks; `last` keeps the file that the next call may need.
    pub fn read(&self, extents: &Extents, last: &mut Option<(u64, File)>) -> Result<Bytes, LocalError> {
        let mut buffer = BytesMut::zeroed(usize::try_from(extents.len_bytes()).unwrap_or(usize::MAX));
        let mut rest = &mut buffer[..];
        for extent in extents.iter() {
            if last.as_ref().is_none_or(|(id, _)| *id != extent.file) {
                *last = Some((extent.file, self.open_file(extent.file)?));
            }
            let Some((id, file)) = last else { continue };
            let (piece, tail) = rest.split_at_mut(usize::try_from(extent.len_bytes).unwrap_or(usize::MAX));
            file.read_exact_at(piece, extent.offset).map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => LocalError::Damaged(format!("file {id:09x} is cut")),
                _ => error.into(),
            })?;
            rest = tail;
        }
        Ok(buffer.freeze())
    }

    /// Removes garbage until `stop`.
    pub async fn reaper(self: Arc<Self>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = self.garbage.changed() => {}
                () = stop.cancelled() => return,
            }
            if let Err(error) = self.reap().await {
                tracing::warn!(%error, "cannot remove files of deleted objects; the next start tries again");
            }
        }
    }

    /// Removes the garbage that nobody reads.
    pub async fn reap(&self) -> Result<(), LocalError> {
        loop {
            let ids = self.garbage.take(REAP_BATCH);
            if ids.is_empty() {
                break;
            }
            self.remove(ids).await?;
        }
        if self.garbage.take_overflow() { self.sweep().await } else { Ok(()) }
    }

    /// Removes every file that the index counts as dead.
    async fn sweep(&self) -> Result<(), LocalError> {
        loop {
            let ids = self.index.dead_files(REAP_BATCH as u32).await?;
            if ids.is_empty() {
                return Ok(());
            }
            self.remove(ids).await?;
        }
    }

    async fn remove(&self, ids: Vec<u64>) -> Result<(), LocalError> {
        let paths: Vec<_> = ids.iter().map(|id| self.path(*id)).collect();
        blocking(move || {
            for path in paths {
                match fs::remove_file(&path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
                    _ => {}
                }
            }
            Ok(())
        })
        .await?;
        self.index.change(Forget(ids)).await
    }
}

/// A new file, which removes itself unless [`Fresh::keep`] is called.
pub struct Fresh {
    id: u64,
    path: PathBuf,
    file: File,
    len_bytes: u64,
    keep: bool,
}

impl Fresh {
    /// Its id.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Appends, unless that leaves the disk too little room. Blocks.
    pub fn append(&mut self, pieces: &[Bytes]) -> io::Result<()> {
        let len_bytes = pieces.iter().map(|piece| piece.len() as u64).sum();
        check_room(&self.file, len_bytes)?;
        let slices: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        write_all_at(&self.file, &slices, self.len_bytes)?;
        self.len_bytes += len_bytes;
        Ok(())
    }

    /// Makes bytes and directory entry durable. Blocks.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()?;
        self.path.parent().map_or(Ok(()), sync_dir)
    }

    /// The index names it, or may name it: it stays.
    pub fn keep(mut self) {
        self.keep = true;
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        let path = std::mem::take(&mut self.path);
        // A large file takes its time; and a failure leaves what the next start removes.
        let remove = move || drop(fs::remove_file(path));
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

/// Runs what blocks on a thread of its own.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, LocalError> + Send + 'static) -> Result<T, LocalError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(LocalError::Disk(error.to_string())),
    }
}

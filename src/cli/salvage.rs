//! `tidegate check --salvage DIR`: every file with bytes that S3 does not have, out of the cache directory alone.
//!
//! Invariants: cache and database are only read; nothing is written outside of DIR, whatever the names in the log say; a file is
//! told as whole only where all of its bytes were there. The report is `DIR/REPORT.txt`, and what is printed.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use super::{Exit, fail, out};
use crate::base::disk::Disk;
use crate::base::disk::files::FilesDisk;
use crate::config::Config;
use crate::gateway;
use crate::store::blob::salvage::{Holes, Missing, Rescued, Salvage};

/// The report's name in DIR.
const REPORT: &str = "REPORT.txt";
/// Where files go whose name nothing says.
const UNNAMED: &str = "unnamed";
/// Ranges that a report names of one file.
const RANGES_MAX: usize = 100;

pub(super) fn run(config: &Config, target: &Path) -> Exit {
    match rescue(config, target) {
        Ok(exit) => exit,
        Err(reason) => fail(Exit::Failed, &reason),
    }
}

fn rescue(config: &Config, target: &Path) -> Result<Exit, String> {
    let cache = config.cache_dir();
    if !cache.is_dir() {
        return Err(format!("{} is no directory: there is nothing to rescue; set cache.dir or data_dir", cache.display()));
    }
    let _lock = match config.data_dir.is_dir() {
        true => Some(gateway::lock(&config.data_dir).map_err(|error| error.to_string())?),
        false => None,
    };
    let target = empty_directory(target, &cache)?;
    let open = |error: &dyn std::fmt::Display| format!("{}: {error}", cache.display());
    let disk: Arc<dyn Disk> = Arc::new(FilesDisk::new(&cache).map_err(|error| open(&error))?);
    let salvage = Salvage::open(&disk).map_err(|error| open(&error))?;
    let mut report = Report::create(&target)?;
    for name in salvage.unreadable() {
        report.line(&format!("{name}: not readable as a part of the log; what was in it is not here"), true)?;
    }
    let mut found: Vec<(PathBuf, Rescued)> = salvage.rescued().into_iter().map(|file| (place(&file), file)).collect();
    found.sort_by(|a, b| (&a.0, a.1.blob).cmp(&(&b.0, b.1.blob)));
    for (path, file) in found {
        let failed = |error: io::Error| format!("{}: {error}", target.join(&path).display());
        let (written, missing) = write(&salvage, &file, &target, &path).map_err(failed)?;
        let damaged = missing.iter().any(|(_, why)| *why == Missing::Damaged);
        report.line(&sentence(&written, &file, &missing), damaged)?;
    }
    report.finish()
}

/// Makes DIR, or takes it where it is empty.
fn empty_directory(target: &Path, cache: &Path) -> Result<PathBuf, String> {
    let failed = |error: io::Error| format!("{} cannot be used: {error}", target.display());
    fs::create_dir_all(target).map_err(failed)?;
    if fs::read_dir(target).map_err(failed)?.next().is_some() {
        return Err(format!("{} is not empty: name an empty or a new directory", target.display()));
    }
    let target = target.canonicalize().map_err(failed)?;
    if cache.canonicalize().is_ok_and(|cache| target.starts_with(cache)) {
        return Err(format!("{} is in the cache directory: name one elsewhere", target.display()));
    }
    Ok(target)
}

/// Where a file goes below DIR: share, then path; without anything that leads elsewhere.
fn place(file: &Rescued) -> PathBuf {
    let mut path = match &file.owner_name {
        Some(name) => component(name.as_bytes()),
        None => PathBuf::from(format!("owner-{}", file.owner.0)),
    };
    match &file.path {
        Some(name) => path.extend(name.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).map(component)),
        None => path.extend([PathBuf::from(UNNAMED), PathBuf::from(format!("blob-{}", file.blob.0))]),
    }
    path
}

/// One name of a path, harmless.
fn component(name: &[u8]) -> PathBuf {
    match name {
        b"" | b"." | b".." => PathBuf::from("_"),
        name => PathBuf::from(OsStr::from_bytes(
            &name.iter().map(|byte| if matches!(byte, 0 | b'/') { b'_' } else { *byte }).collect::<Vec<u8>>(),
        )),
    }
}

/// Writes one file. Returns its path below DIR, and what it lacks.
fn write(salvage: &Salvage, rescued: &Rescued, target: &Path, path: &Path) -> io::Result<(PathBuf, Holes)> {
    let (path, file) = create(target, path, rescued)?;
    file.set_len(rescued.len_bytes)?;
    let missing = salvage.read(rescued.blob, &mut |at, bytes| file.write_all_at(bytes, at))?;
    let modified = UNIX_EPOCH + Duration::from_nanos(u64::try_from(rescued.modified_ns).unwrap_or(0));
    file.set_modified(modified)?;
    file.sync_all()?;
    Ok((path, missing))
}

/// A new file; where the name is taken (by a file that it was, or by one that has become a directory) with the blob's number.
fn create(target: &Path, path: &Path, rescued: &Rescued) -> io::Result<(PathBuf, File)> {
    let mut named = path.as_os_str().to_owned();
    named.push(format!(".blob-{}", rescued.blob.0));
    let unnamed = Path::new(UNNAMED).join(format!("blob-{}", rescued.blob.0));
    let mut last = io::Error::from(io::ErrorKind::AlreadyExists);
    for path in [path.to_path_buf(), PathBuf::from(named), unnamed] {
        let whole = target.join(&path);
        let made = fs::create_dir_all(whole.parent().unwrap_or(target)).and_then(|()| File::create_new(&whole));
        match made {
            Ok(file) => return Ok((path, file)),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn sentence(path: &Path, file: &Rescued, missing: &Holes) -> String {
    let mut line = format!("{}: {} bytes", path.display(), file.len_bytes);
    if missing.is_empty() {
        return line + ", whole";
    }
    for (range, why) in missing.iter().take(RANGES_MAX) {
        let why = match why {
            Missing::Remote => "are not in the cache (look in S3)",
            Missing::Damaged => "are damaged",
        };
        line += &format!("; bytes {}-{} {why}", range.start, range.end - 1);
    }
    if missing.len() > RANGES_MAX {
        line += &format!("; and {} ranges more", missing.len() - RANGES_MAX);
    }
    line
}

/// Lines on standard output and in the report.
struct Report {
    file: File,
    path: PathBuf,
    lines: u64,
    damaged: bool,
}

impl Report {
    fn create(target: &Path) -> Result<Self, String> {
        let path = target.join(REPORT);
        let file = File::create_new(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Self { file, path, lines: 0, damaged: false })
    }

    fn line(&mut self, line: &str, damaged: bool) -> Result<(), String> {
        out::say(line.to_owned());
        self.lines += 1;
        self.damaged |= damaged;
        writeln!(self.file, "{line}").map_err(|error| format!("{}: {error}", self.path.display()))
    }

    fn finish(mut self) -> Result<Exit, String> {
        if self.lines == 0 {
            self.line("nothing is in the cache that S3 does not have", false)?;
        }
        self.file.sync_all().map_err(|error| format!("{}: {error}", self.path.display()))?;
        Ok(if self.damaged { fail(Exit::Failed, &format!("some bytes are lost: see {}", self.path.display())) } else { Exit::Ok })
    }
}

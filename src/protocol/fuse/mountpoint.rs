//! The mount point before and after: is it free, is it the corpse of an earlier mount, and clearing such a corpse away.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::MountError;

/// Makes `path` ready to be mounted on: creates the directory, clears a dead mount away, refuses one that is in use. Returns the
/// absolute path.
pub(super) fn prepare(path: &Path) -> Result<PathBuf, MountError> {
    let failed = |error| MountError::Failed(path.to_path_buf(), error);
    fs::File::options().read(true).write(true).open("/dev/fuse").map_err(|error| MountError::NoDevice("/dev/fuse", error))?;
    recover(path).map_err(failed)?;
    fs::create_dir_all(path).map_err(failed)?;
    let path = path.canonicalize().map_err(failed)?;
    if let Some(source) = mounted_source(&path).map_err(failed)? {
        return Err(MountError::InUse(path, source));
    }
    if fs::read_dir(&path).map_err(failed)?.next().is_some() {
        return Err(MountError::NotEmpty(path));
    }
    Ok(path)
}

/// Unmounts `path` where it is a FUSE mount whose server died (every access then says "not connected"). Does nothing otherwise.
///
/// # Errors
/// Where it is dead and cannot be unmounted.
pub fn recover(path: &Path) -> io::Result<()> {
    match fs::metadata(path) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOTCONN | libc::ECONNABORTED)) => {
            tracing::info!(path = %path.display(), "unmounting what an earlier gateway left behind");
            detach(path)
        }
        _ => Ok(()),
    }
}

fn detach(path: &Path) -> io::Result<()> {
    if let Err(error) = rustix::mount::unmount(path, rustix::mount::UnmountFlags::DETACH) {
        // Without privileges only the set-uid helper may unmount.
        let helped = Command::new("fusermount3").arg("-u").arg("-z").arg(path).status();
        if !helped.is_ok_and(|status| status.success()) {
            return Err(error.into());
        }
    }
    Ok(())
}

/// What is mounted exactly at `path` (absolute), by `/proc/self/mountinfo` (proc(5)): fields 5 (mount point) and, after " - ", type and source.
pub(super) fn mounted_source(path: &Path) -> io::Result<Option<String>> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let wanted = path.to_string_lossy();
    Ok(table.lines().rev().find_map(|line| {
        let (mount, source) = line.split_once(" - ")?;
        let point = unescape(mount.split(' ').nth(4)?);
        (point == wanted).then(|| source.split(' ').nth(1).unwrap_or("another file system").to_owned())
    }))
}

/// Lets the kernel read ahead of a sequential reader by `bytes`. Its own default of 128 KiB is all that `INIT` can lower and nothing that
/// it can raise; this takes root, and without it only speed is lost.
pub(super) fn set_read_ahead(path: &Path, bytes: u64) -> io::Result<()> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let wanted = path.to_string_lossy();
    let device = table.lines().rev().find_map(|line| {
        let mut fields = line.split(' ').skip(2);
        let (device, point) = (fields.next()?, fields.nth(1)?);
        (unescape(point) == wanted).then_some(device)
    });
    let device = device.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
    fs::write(format!("/sys/class/bdi/{device}/read_ahead_kb"), (bytes >> 10).to_string())
}

/// Undoes the octal escapes of mountinfo (space, tab, newline, backslash).
fn unescape(field: &str) -> String {
    field.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

/// Whether users other than root may let others into their mounts (`user_allow_other` in `/etc/fuse.conf`).
pub(super) fn allow_other() -> bool {
    fs::read_to_string("/etc/fuse.conf").is_ok_and(|text| text.lines().any(|line| line.trim() == "user_allow_other"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_mounted_and_a_fresh_directory_is_not() {
        assert!(mounted_source(Path::new("/proc")).unwrap().is_some());
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(mounted_source(directory.path()).unwrap(), None);
    }

    #[test]
    fn a_directory_with_files_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("precious"), b"x").unwrap();
        if Path::new("/dev/fuse").exists() {
            assert!(matches!(prepare(directory.path()), Err(MountError::NotEmpty(_))));
        }
    }

    #[test]
    fn escapes_of_mountinfo() {
        assert_eq!(unescape("/a\\040b\\134c"), "/a b\\c");
    }
}

//! The endpoint's keys in a file of the AWS credentials format, readable by the owner only, so that
//! `AWS_SHARED_CREDENTIALS_FILE=tidegate-data/s3/credentials aws --endpoint-url …` works.
//!
//! Invariant: a file that is there is never replaced.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use super::Settings;

/// The characters of generated keys: 64 of them, so that 6 random bits choose one without bias.
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789xz";
/// The length of a generated secret, as AWS's; 6 bits each.
const SECRET_CHARS: usize = 40;
const ACCESS_CHARS: usize = 16;

/// Reads the keys of the profile `default` in `path`, or makes a pair and writes it there.
///
/// # Errors
/// Where the file cannot be read or made, or has no such profile.
pub fn load_or_create(path: &Path) -> io::Result<Settings> {
    match fs::read_to_string(path) {
        Ok(text) => {
            restrict(path)?;
            parse(&text).ok_or_else(|| {
                let what = format!("{}: no [default] profile with aws_access_key_id and aws_secret_access_key", path.display());
                io::Error::new(io::ErrorKind::InvalidData, what)
            })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => create(path),
        Err(error) => Err(error),
    }
}

/// Takes the file away from everybody but its owner.
fn restrict(path: &Path) -> io::Result<()> {
    let mode = fs::metadata(path)?.permissions().mode();
    if mode & 0o077 != 0 {
        tracing::warn!(path = %path.display(), "others could read the S3 keys; the file is now its owner's only");
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    }
    Ok(())
}

fn parse(text: &str) -> Option<Settings> {
    let mut profile = "";
    let (mut access, mut secret) = (None, None);
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            profile = name.trim();
        } else if let Some((name, value)) = line.split_once('=').filter(|_| profile == "default") {
            match name.trim() {
                "aws_access_key_id" => access = Some(value.trim()),
                "aws_secret_access_key" => secret = Some(value.trim()),
                _ => {}
            }
        }
    }
    Some(Settings::new(access.filter(|key| !key.is_empty())?, secret.filter(|key| !key.is_empty())?))
}

fn create(path: &Path) -> io::Result<Settings> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let settings = Settings::new(&format!("TIDE{}", random(ACCESS_CHARS)?.to_uppercase()), &random(SECRET_CHARS)?);
    let text =
        format!("[default]\naws_access_key_id = {}\naws_secret_access_key = {}\n", settings.access_key, settings.secret_key);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    File::open(folder)?.sync_all()?;
    Ok(settings)
}

fn random(chars: usize) -> io::Result<String> {
    let mut bytes = vec![0; chars];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.into_iter().map(|byte| char::from(ALPHABET[usize::from(byte & 63)])).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_made_once_and_are_the_owners() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s3/credentials");
        let made = load_or_create(&path).unwrap();
        assert_eq!((made.access_key.len(), made.secret_key.len()), (20, SECRET_CHARS));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let read = load_or_create(&path).unwrap();
        assert_eq!((read.access_key, read.secret_key), (made.access_key, made.secret_key));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_file_of_another_profile_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("credentials");
        let text = "[other]\naws_access_key_id = a\naws_secret_access_key = b\n";
        fs::write(&path, text).unwrap();
        assert_eq!(load_or_create(&path).err().map(|error| error.kind()), Some(io::ErrorKind::InvalidData));
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
}

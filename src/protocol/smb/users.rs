//! The users of SMB, in a file of the data directory that its owner alone may read.
//!
//! ```toml
//! # tidegate-data/smb/users.toml, written by `tidegate user`
//! [[users]]
//! name = "ana"
//! secret = "…"             # her password: nonce and AES-256-GCM, with the key in `key` beside it, bound to the name; base64
//! groups = ["staff"]       # for lists of shares, as "@staff"
//! disabled = true          # may not log on
//! ```
//!
//! NTLM needs the password, or its MD4, as it is: it cannot be kept as a one-way hash. The crate takes passwords only and makes the MD4 itself, so the
//! password is what is encrypted here. Invariants: a password is in no log, no answer and no argument of a command; file and key are replaced as a whole
//! and never by halves; two commands at a time do not lose each other's change.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use aes_gcm::aead::{Aead, Payload};
use aes_gcm::{Aes256Gcm, KeyInit, Nonce};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

/// The user that a share lets in by `guest = true`.
pub const GUEST: &str = "smbguest";
/// Names of the file and its key.
const FILE: &str = "users.toml";
const KEY: &str = "key";
const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 12;
/// The longest name, and the shortest and longest password, in characters.
const NAME_CHARS_MAX: usize = 64;
const PASSWORD_CHARS_MIN: usize = 6;
const PASSWORD_CHARS_MAX: usize = 512;
/// What begins the file.
const HEAD: &str =
    "# The users of SMB. Passwords are encrypted with the key beside this file; change them by `tidegate user`.\n\n";

/// Who may log on.
#[derive(Clone, PartialEq, Eq)]
pub struct User {
    /// As it is shown; case makes no difference.
    pub name: String,
    /// In the clear.
    pub password: String,
    /// For lists of shares.
    pub groups: Vec<String>,
    /// May not log on for now.
    pub disabled: bool,
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User")
            .field("name", &self.name)
            .field("groups", &self.groups)
            .field("disabled", &self.disabled)
            .finish_non_exhaustive()
    }
}

/// Why the users cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum UsersError {
    /// The disk.
    #[error("{0}: {1}")]
    Io(PathBuf, io::Error),
    /// The file is not one of ours any more.
    #[error("{0}: {1}")]
    Broken(PathBuf, String),
    /// What was asked for cannot be.
    #[error("{0}")]
    Refused(String),
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    #[serde(default)]
    users: Vec<KeptUser>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptUser {
    name: String,
    secret: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    groups: Vec<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    disabled: bool,
}

/// Reads all users, in the order of the file. No file is no users.
///
/// # Errors
/// See [`UsersError`].
pub fn load(directory: &Path) -> Result<Vec<User>, UsersError> {
    let path = directory.join(FILE);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(UsersError::Io(path, error)),
    };
    restrict(&path).map_err(|error| UsersError::Io(path.clone(), error))?;
    let broken = |reason: String| UsersError::Broken(path.clone(), reason);
    // Without the line's text: it may be a secret.
    let kept: Kept = toml::from_str(&text).map_err(|error: toml::de::Error| {
        let line = error.span().map_or(1, |span| text.bytes().take(span.start).filter(|byte| *byte == b'\n').count() + 1);
        broken(format!("line {line}: {}", error.message().trim().replace('\n', " ")))
    })?;
    if kept.users.is_empty() {
        return Ok(Vec::new());
    }
    let cipher = cipher(directory, false)?;
    let mut users: Vec<User> = Vec::new();
    for kept in kept.users {
        check_name(&kept.name).map_err(broken)?;
        if users.iter().any(|user| is_named(user, &kept.name)) {
            return Err(broken(format!("the user \"{}\" is there twice", kept.name)));
        }
        let unreadable = || broken(format!("the password of \"{}\" cannot be decrypted with the key beside the file", kept.name));
        let password = decrypt(&cipher, &kept).ok_or_else(unreadable)?;
        users.push(User { name: kept.name, password, groups: kept.groups, disabled: kept.disabled });
    }
    Ok(users)
}

/// Changes the users: reads, lets `change` have them, writes. One process at a time.
///
/// # Errors
/// See [`UsersError`]; where `change` refuses, nothing is written.
pub fn change(directory: &Path, change: impl FnOnce(&mut Vec<User>) -> Result<(), String>) -> Result<(), UsersError> {
    let at = |error: io::Error| UsersError::Io(directory.to_path_buf(), error);
    fs::create_dir_all(directory).and_then(|()| fs::set_permissions(directory, fs::Permissions::from_mode(0o700))).map_err(at)?;
    let lock = File::open(directory).map_err(at)?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).map_err(|error| at(error.into()))?;
    let mut users = load(directory)?;
    change(&mut users).map_err(UsersError::Refused)?;
    let cipher = cipher(directory, true)?;
    let kept: Result<Vec<_>, _> = users.iter().map(|user| encrypt(&cipher, user)).collect();
    let kept = Kept { users: kept.map_err(at)? };
    let text = toml::to_string(&kept).map_err(|error| UsersError::Refused(error.to_string()))?;
    replace(directory, FILE, format!("{HEAD}{text}").as_bytes()).map_err(at)
}

/// A user by name, in any case.
pub fn find<'a>(users: &'a mut [User], name: &str) -> Option<&'a mut User> {
    users.iter_mut().find(|user| is_named(user, name))
}

fn is_named(user: &User, name: &str) -> bool {
    user.name.to_lowercase() == name.to_lowercase()
}

/// Whether a user may be called so (MS-SAMR's forbidden characters).
///
/// # Errors
/// Why not.
pub fn check_name(name: &str) -> Result<(), String> {
    let fits = !name.is_empty()
        && name.chars().count() <= NAME_CHARS_MAX
        && name.trim() == name
        && !name.chars().any(|c| c.is_control() || "\"/\\[]:;|=,+*?<>@".contains(c));
    if !fits {
        return Err(format!(
            "\"{name}\" is not a user's name: 1 to {NAME_CHARS_MAX} characters, without control characters and \"/\\[]:;|=,+*?<>@"
        ));
    }
    if ["anonymous", "guest"].contains(&name.to_lowercase().as_str()) {
        return Err(format!(
            "\"{name}\" means somebody without a password, and there is no such access; a guest with a password is \"{GUEST}\""
        ));
    }
    Ok(())
}

/// Whether a password will do.
///
/// # Errors
/// Why not.
pub fn check_password(password: &str) -> Result<(), String> {
    let chars = password.chars().count();
    if !(PASSWORD_CHARS_MIN..=PASSWORD_CHARS_MAX).contains(&chars) || password.chars().any(char::is_control) {
        return Err(format!("a password has {PASSWORD_CHARS_MIN} to {PASSWORD_CHARS_MAX} characters, and no control characters"));
    }
    Ok(())
}

fn encrypt(cipher: &Aes256Gcm, user: &User) -> io::Result<KeptUser> {
    let nonce: [u8; NONCE_BYTES] = random()?;
    let name = user.name.to_lowercase();
    let payload = Payload { msg: user.password.as_bytes(), aad: name.as_bytes() };
    let sealed =
        cipher.encrypt(Nonce::from_slice(&nonce), payload).map_err(|_| io::Error::other("a password cannot be encrypted"))?;
    let secret = STANDARD.encode([&nonce[..], &sealed].concat());
    Ok(KeptUser { name: user.name.clone(), secret, groups: user.groups.clone(), disabled: user.disabled })
}

fn decrypt(cipher: &Aes256Gcm, kept: &KeptUser) -> Option<String> {
    let secret = STANDARD.decode(&kept.secret).ok()?;
    let (nonce, sealed) = secret.split_at_checked(NONCE_BYTES)?;
    let name = kept.name.to_lowercase();
    let password = cipher.decrypt(Nonce::from_slice(nonce), Payload { msg: sealed, aad: name.as_bytes() }).ok()?;
    String::from_utf8(password).ok()
}

/// The key, made where there is none and it may be.
fn cipher(directory: &Path, may_make: bool) -> Result<Aes256Gcm, UsersError> {
    let path = directory.join(KEY);
    let key = match fs::read(&path) {
        Ok(key) => restrict(&path).map(|()| key),
        Err(error) if error.kind() == io::ErrorKind::NotFound && may_make => {
            random::<KEY_BYTES>().and_then(|key| replace(directory, KEY, &key).map(|()| key.to_vec()))
        }
        Err(error) => Err(error),
    };
    let key = key.map_err(|error| UsersError::Io(path.clone(), error))?;
    Aes256Gcm::new_from_slice(&key).map_err(|_| UsersError::Broken(path, format!("is not a key of {KEY_BYTES} bytes")))
}

fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Takes a file away from everybody but its owner.
fn restrict(path: &Path) -> io::Result<()> {
    if fs::metadata(path)?.permissions().mode() & 0o077 != 0 {
        tracing::warn!(path = %path.display(), "others could read the file; it is now its owner's only");
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    }
    Ok(())
}

/// Writes a file as a whole: whoever reads, also after a power loss, sees the old one or the new one.
fn replace(directory: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let new = directory.join(format!(".{name}.new"));
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, directory.join(name))?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str, password: &str) -> User {
        User { name: name.into(), password: password.into(), groups: vec!["staff".into()], disabled: false }
    }

    fn with(directory: &Path, user: User) {
        change(directory, |users| {
            users.push(user);
            Ok(())
        })
        .unwrap();
    }

    #[test]
    fn users_come_back_and_their_passwords_are_not_in_the_file() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = temporary.path().join("smb");
        assert_eq!(load(&directory).unwrap(), []);
        with(&directory, user("Ana", "sesame, open"));
        with(&directory, User { disabled: true, groups: Vec::new(), ..user("bob", "sesame, open") });
        let users = load(&directory).unwrap();
        assert_eq!(
            users,
            [user("Ana", "sesame, open"), User { disabled: true, groups: Vec::new(), ..user("bob", "sesame, open") }]
        );
        for name in [FILE, KEY] {
            let path = directory.join(name);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
            assert!(!String::from_utf8_lossy(&fs::read(&path).unwrap()).contains("sesame"));
        }
        assert_eq!(fs::metadata(&directory).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(!format!("{users:?}").contains("sesame"));
        let text = fs::read_to_string(directory.join(FILE)).unwrap();
        let secrets: Vec<_> = text.lines().filter(|line| line.starts_with("secret")).collect();
        assert_ne!(secrets[0], secrets[1], "the same password is not seen to be the same");
    }

    #[test]
    fn a_refused_change_changes_nothing() {
        let temporary = tempfile::tempdir().unwrap();
        with(temporary.path(), user("ana", "secret"));
        let refused = change(temporary.path(), |users| {
            users.clear();
            Err("no".into())
        });
        assert!(matches!(refused, Err(UsersError::Refused(_))));
        assert_eq!(load(temporary.path()).unwrap().len(), 1);
    }

    #[test]
    fn a_file_that_is_not_ours_any_more_says_why() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = temporary.path();
        with(directory, user("ana", "secret"));
        let text = fs::read_to_string(directory.join(FILE)).unwrap();
        let told = |text: &str| {
            fs::write(directory.join(FILE), text).unwrap();
            load(directory).expect_err(text).to_string()
        };
        // A password is its user's: it cannot be given to another one.
        assert!(told(&text.replace("ana", "eve")).contains("\"eve\" cannot be decrypted"));
        assert!(told(&text.replace("groups", "group")).contains("line 6: unknown field `group`"));
        assert!(told(&text.replace("name = \"ana\"", "name = \"a/b\"")).contains("a/b"));
        assert!(told(&format!("{text}\n{}", text.replace(HEAD, ""))).contains("twice"));
        fs::write(directory.join(FILE), &text).unwrap();
        fs::write(directory.join(KEY), [0; KEY_BYTES]).unwrap();
        assert!(load(directory).unwrap_err().to_string().contains("cannot be decrypted"));
        fs::remove_file(directory.join(KEY)).unwrap();
        assert!(load(directory).unwrap_err().to_string().contains("key"));
        // What is open to others is closed.
        fs::set_permissions(directory.join(FILE), fs::Permissions::from_mode(0o644)).unwrap();
        let _ = load(directory);
        assert_eq!(fs::metadata(directory.join(FILE)).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn names_and_passwords_are_checked() {
        for name in ["ana", "Ana Müller", "smbguest", "svc-1$"] {
            assert_eq!(check_name(name), Ok(()));
        }
        for name in ["", " a", "a/b", "DOMAIN\\a", "a@b", "Guest", "ANONYMOUS", "a\nb", &"x".repeat(65)] {
            assert!(check_name(name).is_err(), "{name}");
        }
        assert!(check_password("secret").is_ok());
        for password in ["short", "new\nline", &"x".repeat(513)] {
            assert!(check_password(password).is_err());
        }
    }
}

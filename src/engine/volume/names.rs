//! What a volume's objects in S3 are called.
//!
//! What lives here: [`VolumeId`], [`ObjectName`] (which of a volume's numbered objects), [`Kind`] (what it is), [`Names`] (their keys).
//!
//! ```text
//! <prefix>volumes/<volume>/manifest                          what the volume is now (JSON): the one object that changes
//! <prefix>volumes/<volume>/segments/<epoch>-<number>         history (`segment.rs`)
//! <prefix>volumes/<volume>/pages/<epoch>-<number>            pages of the map, one after the other (`map.rs`)
//! <prefix>volumes/<volume>/checkpoints/<epoch>-<number>      which pages, and how much of each segment is in use (`checkpoint.rs`)
//! <prefix>volumes/<volume>/snapshots/<snapshot>              a state that is kept (JSON)
//! ```
//!
//! Ids are 32 hexadecimal digits, epochs and numbers 16. Invariant: numbers rise within an epoch, and an epoch has one writer, so that no two
//! writers ever have the same key.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::segment::word64;

/// A volume, wherever it is attached; also what identifies a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeId(pub [u8; 16]);

/// One of a volume's numbered objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectName {
    /// The volume that it was written for: a clone names objects of another.
    pub volume: VolumeId,
    /// Which attachment of the volume wrote it.
    pub epoch: u64,
    /// Within the epoch.
    pub number: u64,
}

/// What a numbered object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A segment.
    Segments,
    /// Pages of the map.
    Pages,
    /// A checkpoint.
    Checkpoints,
}

/// A numbered object, and what it is.
pub type Object = (Kind, ObjectName);

/// The keys of all volumes below a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    prefix: String,
}

impl VolumeId {
    /// One that nobody has.
    pub fn random() -> Self {
        Self(std::array::from_fn(|_| fastrand::u8(..)))
    }
}

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl FromStr for VolumeId {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut id = [0; 16];
        hex::decode_to_slice(text, &mut id).map_err(|_| "an id has 32 hexadecimal digits")?;
        Ok(Self(id))
    }
}

impl Serialize for VolumeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for VolumeId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl ObjectName {
    /// How many bytes it takes in a table.
    pub const BYTES: usize = 32;

    /// Volume (16), epoch (8), number (8).
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.volume.0);
        out.extend_from_slice(&self.epoch.to_le_bytes());
        out.extend_from_slice(&self.number.to_le_bytes());
    }

    /// Of at least [`Self::BYTES`] bytes.
    pub(super) fn decode(row: &[u8]) -> Self {
        Self { volume: VolumeId(std::array::from_fn(|at| row[at])), epoch: word64(row, 16), number: word64(row, 24) }
    }
}

impl Kind {
    /// The folder of a volume that has them.
    fn folder(self) -> &'static str {
        match self {
            Self::Segments => "segments",
            Self::Pages => "pages",
            Self::Checkpoints => "checkpoints",
        }
    }
}

impl Names {
    /// Below a prefix: empty, or ending in "/".
    pub fn new(prefix: &str) -> Self {
        Self { prefix: format!("{prefix}volumes/") }
    }

    /// Where all volumes are.
    pub fn all(&self) -> &str {
        &self.prefix
    }

    /// Where everything of a volume is.
    pub fn volume(&self, volume: VolumeId) -> String {
        format!("{}{volume}/", self.prefix)
    }

    /// What the volume is now.
    pub fn manifest(&self, volume: VolumeId) -> String {
        format!("{}{volume}/manifest", self.prefix)
    }

    /// A segment.
    pub fn segment(&self, name: ObjectName) -> String {
        self.key((Kind::Segments, name))
    }

    /// Pages of the map.
    pub fn pages(&self, name: ObjectName) -> String {
        self.key((Kind::Pages, name))
    }

    /// A checkpoint.
    pub fn checkpoint(&self, name: ObjectName) -> String {
        self.key((Kind::Checkpoints, name))
    }

    /// A snapshot of a volume.
    pub fn snapshot(&self, volume: VolumeId, snapshot: VolumeId) -> String {
        format!("{}{volume}/snapshots/{snapshot}", self.prefix)
    }

    /// A numbered object.
    pub fn key(&self, (kind, ObjectName { volume, epoch, number }): Object) -> String {
        format!("{}{volume}/{}/{epoch:016x}-{number:016x}", self.prefix, kind.folder())
    }

    /// The numbered object that a key is of, if it is one's.
    pub fn object(&self, key: &str) -> Option<Object> {
        let (_, kind, name) = self.parse(key)?;
        let kind = [Kind::Segments, Kind::Pages, Kind::Checkpoints].into_iter().find(|known| known.folder() == kind)?;
        Some((kind, name?))
    }

    /// The volume and, for a numbered object, its kind and name, of a key; `None` for keys that are no volume's.
    pub fn parse<'a>(&self, key: &'a str) -> Option<(VolumeId, &'a str, Option<ObjectName>)> {
        let (volume, rest) = key.strip_prefix(&self.prefix)?.split_once('/')?;
        let volume: VolumeId = volume.parse().ok()?;
        let Some((kind, name)) = rest.split_once('/') else { return Some((volume, rest, None)) };
        let numbered = name.split_once('-').and_then(|(epoch, number)| {
            let hex = |text: &str| u64::from_str_radix(text, 16).ok().filter(|_| text.len() == 16);
            Some(ObjectName { volume, epoch: hex(epoch)?, number: hex(number)? })
        });
        Some((volume, kind, numbered))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_tell_what_they_are() {
        let names = Names::new("disks/");
        let volume = VolumeId([0xAB; 16]);
        let name = ObjectName { volume, epoch: 3, number: 0x1F };
        let id = "ab".repeat(16);
        assert_eq!(names.segment(name), format!("disks/volumes/{id}/segments/0000000000000003-000000000000001f"));
        assert_eq!(names.parse(&names.segment(name)), Some((volume, "segments", Some(name))));
        assert_eq!(names.object(&names.pages(name)), Some((Kind::Pages, name)));
        assert_eq!((names.object(&names.manifest(volume)), names.object(&names.snapshot(volume, volume))), (None, None));
        assert_eq!(names.parse(&names.pages(name)), Some((volume, "pages", Some(name))));
        assert_eq!(names.parse(&names.checkpoint(name)), Some((volume, "checkpoints", Some(name))));
        assert_eq!(names.parse(&names.manifest(volume)), Some((volume, "manifest", None)));
        assert_eq!(names.parse(&names.snapshot(volume, volume)), Some((volume, "snapshots", None)));
        assert_eq!((names.parse("disks/volumes/x/manifest"), names.parse("photo.jpg")), (None, None));
        assert_eq!(serde_json::from_str::<VolumeId>(&serde_json::to_string(&volume).unwrap()).unwrap(), volume);
        assert!("ab".parse::<VolumeId>().is_err());
    }
}

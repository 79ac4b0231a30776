//! Extended attributes that do not fit S3's 2 KiB of user metadata: one small object for a node that has such. Pure.
//!
//! Form, version 1: the object `<prefix>.tidegate/overflow/<gateway>-<node>-<digest>`, `application/json`:
//! `{"version":1,"xattrs":{"<name>":"<value>",…}}`, names and values in unpadded URL-safe base64. The digest is the first 16 hex digits of the
//! body's SHA-256, so a name never has two contents: whoever reads an object's `tidegate-overflow` reads the attributes that belong to it.
//!
//! Invariant: it is written before the object that refers to it and deleted after nothing of ours refers to it.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The longest name of an overflow object (without its prefix), in bytes.
pub const NAME_BYTES_MAX: usize = 128;
/// The most that an overflow object may have when it is read, in bytes: far above what Linux lets a file have.
pub const BODY_BYTES_MAX: u64 = 4 << 20;
/// `Content-Type` of the objects under `.tidegate/`.
pub const CONTENT_TYPE: &str = "application/json";

#[derive(Serialize, Deserialize)]
struct Document {
    version: u32,
    xattrs: BTreeMap<String, String>,
}

/// The object's name and body. `unique` is the gateway and the node.
pub fn encode(unique: &str, xattrs: &BTreeMap<Vec<u8>, Vec<u8>>) -> (String, Bytes) {
    let xattrs = xattrs.iter().map(|(name, value)| (BASE64.encode(name), BASE64.encode(value))).collect();
    let body = serde_json::to_vec(&Document { version: 1, xattrs }).unwrap_or_default();
    let digest = hex::encode(&Sha256::digest(&body)[..8]);
    let kept = NAME_BYTES_MAX - 1 - digest.len();
    let unique = &unique[..unique.floor_char_boundary(kept)];
    (format!("{unique}-{digest}"), body.into())
}

/// The extended attributes of a body; `None` where it is not one of ours, or of a later version.
pub fn decode(body: &[u8]) -> Option<BTreeMap<Vec<u8>, Vec<u8>>> {
    let document: Document = serde_json::from_slice(body).ok()?;
    if document.version != 1 {
        return None;
    }
    document.xattrs.iter().map(|(name, value)| Some((BASE64.decode(name).ok()?, BASE64.decode(value).ok()?))).collect()
}

/// Whether `name` can be an overflow's: it comes from an object's metadata, so it must not lead elsewhere.
pub fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && !name.starts_with('.')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

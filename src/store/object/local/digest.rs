//! Checksums of bodies: MD5 for ETags, and S3's additional checksums ("Checking object integrity").
//!
//! A multipart object's checksum is either composite (the checksum of its parts' checksums, with `-N`), or, for the CRCs,
//! of the full object, combined from the parts' without reading a byte.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use crc_fast::CrcAlgorithm;
use md5::{Digest, Md5};
use serde::{Deserialize, Serialize};
use sha1::Sha1;
use sha2::Sha256;

/// An additional checksum's algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Algorithm {
    /// CRC-32 (ISO HDLC).
    Crc32,
    /// CRC-32C (Castagnoli).
    Crc32c,
    /// CRC-64/NVME.
    Crc64Nvme,
    /// SHA-1.
    Sha1,
    /// SHA-256.
    Sha256,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Crc32, Self::Crc32c, Self::Crc64Nvme, Self::Sha1, Self::Sha256];

    /// S3's spelling.
    pub fn name(self) -> &'static str {
        match self {
            Self::Crc32 => "CRC32",
            Self::Crc32c => "CRC32C",
            Self::Crc64Nvme => "CRC64NVME",
            Self::Sha1 => "SHA1",
            Self::Sha256 => "SHA256",
        }
    }

    /// Reads S3's spelling.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }

    fn crc(self) -> Option<CrcAlgorithm> {
        match self {
            Self::Crc32 => Some(CrcAlgorithm::Crc32IsoHdlc),
            Self::Crc32c => Some(CrcAlgorithm::Crc32Iscsi),
            Self::Crc64Nvme => Some(CrcAlgorithm::Crc64Nvme),
            Self::Sha1 | Self::Sha256 => None,
        }
    }

    /// Whether the parts' checksums combine to that of the full object.
    pub fn combines(self) -> bool {
        self.crc().is_some()
    }

    fn crc_bytes(self, crc: u64) -> Vec<u8> {
        match self {
            Self::Crc64Nvme => crc.to_be_bytes().to_vec(),
            _ => (crc as u32).to_be_bytes().to_vec(),
        }
    }
}

/// The additional checksums of an object or part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Checksums {
    /// Base64 of each, with `-N` where composite.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub values: BTreeMap<Algorithm, String>,
    /// They are checksums of the parts' checksums.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub composite: bool,
}

impl Checksums {
    /// The value of one algorithm.
    pub fn get(&self, algorithm: Algorithm) -> Option<&String> {
        self.values.get(&algorithm)
    }
}

enum Hasher {
    Crc(Box<crc_fast::Digest>),
    Sha1(Sha1),
    Sha256(Sha256),
}

impl Hasher {
    fn new(algorithm: Algorithm) -> Self {
        match algorithm.crc() {
            Some(crc) => Self::Crc(Box::new(crc_fast::Digest::new(crc))),
            None if algorithm == Algorithm::Sha1 => Self::Sha1(Sha1::new()),
            None => Self::Sha256(Sha256::new()),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Crc(digest) => digest.update(bytes),
            Self::Sha1(digest) => digest.update(bytes),
            Self::Sha256(digest) => digest.update(bytes),
        }
    }

    fn finish(self, algorithm: Algorithm) -> Vec<u8> {
        match self {
            Self::Crc(digest) => algorithm.crc_bytes(digest.finalize()),
            Self::Sha1(digest) => digest.finalize().to_vec(),
            Self::Sha256(digest) => digest.finalize().to_vec(),
        }
    }
}

/// Checksums of a body that is passing by.
pub struct Digester {
    md5: Md5,
    others: Vec<(Algorithm, Hasher)>,
}

impl Digester {
    /// MD5 and `algorithms`.
    pub fn new(algorithms: &[Algorithm]) -> Self {
        Self { md5: Md5::new(), others: algorithms.iter().map(|&algorithm| (algorithm, Hasher::new(algorithm))).collect() }
    }

    /// The next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.md5.update(bytes);
        for (_, hasher) in &mut self.others {
            hasher.update(bytes);
        }
    }

    /// MD5 of all, and the others.
    pub fn finish(self) -> ([u8; 16], Checksums) {
        let finish = |(algorithm, hasher): (Algorithm, Hasher)| (algorithm, BASE64.encode(hasher.finish(algorithm)));
        let values = self.others.into_iter().map(finish).collect();
        (self.md5.finalize().into(), Checksums { values, composite: false })
    }
}

/// The ETag of a multipart object: MD5 of its parts' MD5s, and their number.
pub fn multipart_etag<'a>(parts: impl ExactSizeIterator<Item = &'a str>) -> String {
    let count = parts.len();
    let mut md5 = Md5::new();
    for etag in parts {
        // Parts' ETags are our own MD5s; another form would only make another opaque ETag.
        md5.update(hex::decode(etag).unwrap_or_else(|_| etag.as_bytes().to_vec()));
    }
    format!("{}-{count}", hex::encode(md5.finalize()))
}

/// The checksum of a multipart object from its parts' (base64, length in bytes). `None` where a part has none.
pub fn combine(algorithm: Algorithm, full: bool, parts: &[(Option<&String>, u64)]) -> Option<String> {
    let raw = parts.iter().map(|(value, len)| Some((BASE64.decode(value.as_ref()?).ok()?, *len)));
    let raw = raw.collect::<Option<Vec<_>>>()?;
    let Some(crc) = algorithm.crc().filter(|_| full) else {
        let mut hasher = Hasher::new(algorithm);
        raw.iter().for_each(|(bytes, _)| hasher.update(bytes));
        return Some(format!("{}-{}", BASE64.encode(hasher.finish(algorithm)), parts.len()));
    };
    let number = |bytes: &[u8]| bytes.iter().fold(0u64, |number, byte| number << 8 | u64::from(*byte));
    let combined = raw.iter().map(|(bytes, len)| (number(bytes), *len));
    let combined = combined.reduce(|(a, a_len), (b, b_len)| (crc_fast::checksum_combine(crc, a, b, b_len), a_len + b_len));
    combined.map(|(crc, _)| BASE64.encode(algorithm.crc_bytes(crc)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(bytes: &[u8]) -> ([u8; 16], Checksums) {
        let mut digester = Digester::new(&Algorithm::ALL);
        bytes.chunks(3).for_each(|chunk| digester.update(chunk));
        digester.finish()
    }

    #[test]
    fn known_check_values() {
        let (md5, sums) = digest(b"123456789");
        assert_eq!(hex::encode(md5), "25f9e794323b453885f5181f1b624d0b");
        let raw = |algorithm| BASE64.decode(sums.get(algorithm).unwrap()).unwrap();
        assert_eq!(raw(Algorithm::Crc32), 0xcbf4_3926u32.to_be_bytes());
        assert_eq!(raw(Algorithm::Crc32c), 0xe306_9283u32.to_be_bytes());
        assert_eq!(raw(Algorithm::Crc64Nvme), 0xae8b_1486_0a79_9888u64.to_be_bytes());
        assert_eq!(hex::encode(raw(Algorithm::Sha1)), "f7c3bc1d808e04732adf679965ccc34ca7ae3441");
    }

    #[test]
    fn full_object_crcs_combine_from_parts() {
        let body: Vec<u8> = (0..1000u32).map(|i| (i * 7) as u8).collect();
        let (_, whole) = digest(&body);
        let parts: Vec<_> = body.chunks(300).map(|part| (digest(part).1, part.len() as u64)).collect();
        for algorithm in Algorithm::ALL.into_iter().filter(|a| a.combines()) {
            let values: Vec<_> = parts.iter().map(|(sums, len)| (sums.get(algorithm), *len)).collect();
            assert_eq!(combine(algorithm, true, &values).as_ref(), whole.get(algorithm), "{algorithm:?}");
            assert!(combine(algorithm, false, &values).unwrap().ends_with("-4"));
        }
    }
}

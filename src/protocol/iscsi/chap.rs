//! CHAP (RFC 1994, RFC 7143 §12.1.3): an initiator proves that it knows a secret, and so does the target where it is asked to.
//!
//! Invariants: a challenge is used once; a response to our own challenge, reflected, is refused; secrets are compared in constant time and
//! never shown.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};

use base64::Engine;
use md5::Md5;
use sha1::Sha1;
use sha2::{Digest, Sha256};

/// The longest challenge or response that is taken (§12.1.3), in bytes.
const BINARY_BYTES_MAX: usize = 1024;
/// Our challenges, in bytes.
const CHALLENGE_BYTES: usize = 32;

/// A name with its secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    /// CHAP_N.
    pub name: String,
    /// Known to both sides; 12 bytes at least, or it can be guessed.
    pub secret: Vec<u8>,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Who has to prove what at a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chap {
    /// What the initiator proves.
    pub initiator: Credential,
    /// What the target proves, to initiators that ask for it.
    pub target: Option<Credential>,
}

/// CHAP_A (§12.1.3, and IANA's numbers of PPP authentication algorithms).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Algorithm {
    Md5 = 5,
    Sha1 = 6,
    Sha256 = 7,
}

impl Algorithm {
    /// The first of a list that we have.
    pub(super) fn choose(list: &str) -> Option<Self> {
        list.split(',').find_map(|choice| match choice {
            "5" => Some(Self::Md5),
            "6" => Some(Self::Sha1),
            "7" => Some(Self::Sha256),
            _ => None,
        })
    }

    fn response(self, id: u8, secret: &[u8], challenge: &[u8]) -> Vec<u8> {
        let message = [&[id], secret, challenge].concat();
        match self {
            Self::Md5 => Md5::digest(message).to_vec(),
            Self::Sha1 => Sha1::digest(message).to_vec(),
            Self::Sha256 => Sha256::digest(message).to_vec(),
        }
    }
}

/// A challenge that waits for its response.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Challenge {
    pub(super) algorithm: Algorithm,
    pub(super) id: u8,
    pub(super) bytes: Vec<u8>,
}

impl Challenge {
    /// A new one, from the machine's randomness.
    pub(super) fn new(algorithm: Algorithm) -> io::Result<Self> {
        let mut random = [0; CHALLENGE_BYTES + 1];
        File::open("/dev/urandom")?.read_exact(&mut random)?;
        Ok(Self { algorithm, id: random[CHALLENGE_BYTES], bytes: random[..CHALLENGE_BYTES].to_vec() })
    }

    /// Whether a response was made by who knows the secret.
    pub(super) fn is_met(&self, credential: &Credential, name: &str, response: &str) -> bool {
        let expected = self.algorithm.response(self.id, &credential.secret, &self.bytes);
        let response = from_text(response).unwrap_or_default();
        let same = expected.len() == response.len() && expected.iter().zip(&response).fold(0, |all, (a, b)| all | (a ^ b)) == 0;
        same & (credential.name == name)
    }

    /// Our response to the initiator's challenge. `None` where it is malformed, or our own.
    pub(super) fn answer(&self, credential: &Credential, id: &str, challenge: &str) -> Option<String> {
        let id: u8 = number(id)?;
        let challenge = from_text(challenge).filter(|challenge| !challenge.is_empty() && *challenge != self.bytes)?;
        Some(to_text(&self.algorithm.response(id, &credential.secret, &challenge)))
    }
}

fn number(text: &str) -> Option<u8> {
    match text.strip_prefix("0x") {
        Some(digits) => u8::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// A binary value (§6.1): hexadecimal.
pub(super) fn to_text(bytes: &[u8]) -> String {
    format!("0x{}", hex::encode(bytes))
}

/// A binary value (§6.1): hexadecimal or base64.
fn from_text(text: &str) -> Option<Vec<u8>> {
    if text.len() > 2 * BINARY_BYTES_MAX + 2 || !text.is_ascii() {
        return None;
    }
    let (kind, digits) = text.split_at_checked(2)?;
    let bytes = match kind {
        "0x" | "0X" if digits.len() % 2 == 1 => hex::decode(format!("0{digits}")).ok()?,
        "0x" | "0X" => hex::decode(digits).ok()?,
        "0b" | "0B" => base64::engine::general_purpose::STANDARD.decode(digits).ok()?,
        _ => return None,
    };
    (bytes.len() <= BINARY_BYTES_MAX).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_are_the_digests_of_id_secret_and_challenge() {
        let hex = |algorithm: Algorithm| hex::encode(algorithm.response(0x2a, b"secret", b"challenge"));
        // By coreutils: printf '\x2asecretchallenge' | md5sum (sha1sum, sha256sum).
        assert_eq!(hex(Algorithm::Md5), MD5);
        assert_eq!(hex(Algorithm::Sha1), SHA1);
        assert_eq!(hex(Algorithm::Sha256), SHA256);
    }

    const MD5: &str = "e0ec1941e1eedd79ada1647680474f79";
    const SHA1: &str = "48942eb0eb4b087342ac19b5b17e3e05637a561f";
    const SHA256: &str = "1158c594749053d078dd5c57913c525a5a45e4f4bebd152672f09597f3cf37a5";

    #[test]
    fn only_who_knows_the_secret_meets_a_challenge() {
        let credential = Credential { name: "ana".to_owned(), secret: b"a long secret".to_vec() };
        for list in ["5", "9,6", "7,5"] {
            let algorithm = Algorithm::choose(list).unwrap();
            let challenge = Challenge::new(algorithm).unwrap();
            let right = to_text(&algorithm.response(challenge.id, &credential.secret, &challenge.bytes));
            assert!(challenge.is_met(&credential, "ana", &right));
            assert!(!challenge.is_met(&credential, "bob", &right));
            let wrong = to_text(&algorithm.response(challenge.id, b"another secret", &challenge.bytes));
            for response in [wrong.as_str(), "", "0x", "0xzz", "0b!", "\u{e4}\u{e4}", &right[..10], &"0x00".repeat(2000)] {
                assert!(!challenge.is_met(&credential, "ana", response), "{response}");
            }
        }
        assert_eq!(Algorithm::choose("8,x"), None);
    }

    #[test]
    fn our_own_challenge_is_not_answered() {
        let credential = Credential { name: "gw".to_owned(), secret: b"another secret".to_vec() };
        let challenge = Challenge { algorithm: Algorithm::Md5, id: 1, bytes: vec![7; 32] };
        assert_eq!(challenge.answer(&credential, "3", &to_text(&[7; 32])), None);
        assert_eq!(challenge.answer(&credential, "300", &to_text(&[8; 32])), None);
        let expected = to_text(&Algorithm::Md5.response(3, b"another secret", &[8; 16]));
        assert_eq!(challenge.answer(&credential, "3", &to_text(&[8; 16])), Some(expected));
    }

    #[test]
    fn binary_values_are_read_in_both_forms() {
        assert_eq!(from_text("0x0aff"), Some(vec![0x0a, 0xff]));
        assert_eq!(from_text("0xaff"), Some(vec![0x0a, 0xff]));
        assert_eq!(from_text("0bCv8="), Some(vec![0x0a, 0xff]));
        assert_eq!(from_text("12"), None);
    }

    #[test]
    fn secrets_are_not_shown() {
        let credential = Credential { name: "ana".to_owned(), secret: b"hidden".to_vec() };
        assert!(!format!("{credential:?}").contains("hidden") && !format!("{credential:?}").contains("104"));
    }
}

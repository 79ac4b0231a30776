//! Which names S3 allows ("Bucket naming rules", "Object key naming guidelines").

use super::LocalError;

/// The longest key in bytes.
pub const KEY_BYTES_MAX: usize = 1024;

/// Refuses a bucket name that S3's rules forbid.
pub fn check_bucket(name: &str) -> Result<(), LocalError> {
    let allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-' || c == b'.';
    let bytes = name.as_bytes();
    let ends = |c: Option<&u8>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let reserved = ["xn--", "sthree-", "amzn-s3-demo-"].iter().any(|prefix| name.starts_with(prefix))
        || ["-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3"].iter().any(|suffix| name.ends_with(suffix));
    let good = (3..=63).contains(&bytes.len())
        && bytes.iter().copied().all(allowed)
        && ends(bytes.first())
        && ends(bytes.last())
        && !name.contains("..")
        && name.parse::<std::net::Ipv4Addr>().is_err()
        && !reserved;
    if good { Ok(()) } else { Err(LocalError::InvalidBucketName(name.into())) }
}

/// Refuses an empty key and one above [`KEY_BYTES_MAX`].
pub fn check_key(key: &str) -> Result<(), LocalError> {
    if key.is_empty() || key.len() > KEY_BYTES_MAX { Err(LocalError::InvalidKey) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bucket_names() {
        for good in ["abc", "my-bucket.v2", "0a1", &"a".repeat(63)] {
            assert_eq!(check_bucket(good), Ok(()), "{good}");
        }
        for bad in ["ab", "Abc", "a_b", "-ab", "ab-", "a..b", "192.168.1.1", "xn--abc", "abc-s3alias", "a/b", "", &"a".repeat(64)]
        {
            assert!(check_bucket(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn keys_are_bounded_in_bytes() {
        assert_eq!(check_key(&"é".repeat(512)), Ok(()));
        assert_eq!(check_key(&"é".repeat(513)), Err(LocalError::InvalidKey));
        assert_eq!(check_key(""), Err(LocalError::InvalidKey));
    }
}

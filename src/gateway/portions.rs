//! How the cache is divided: what each share and each volume may have of the bytes that are not uploaded.
//!
//! Invariant: what is guaranteed by default leaves half of the cache to whoever needs it, however many shares and volumes there are. (What files say is
//! checked where they are read.)

use crate::config::ShareConfig;
use crate::store::blob::Portion;

/// The most that a share is guaranteed where its file says nothing: this part of the cache.
const DEFAULT_PART: u64 = 16;

/// The most that a volume is guaranteed: this part of the cache.
const VOLUME_PART: u64 = 32;

/// What a share is guaranteed where its file says nothing, in bytes, where these are all shares, and there are so many volumes.
pub(super) fn default_guarantee<'a>(shares: impl IntoIterator<Item = &'a ShareConfig>, volumes: usize, cache_bytes: u64) -> u64 {
    let (mut said, mut silent) = (0_u64, volumes as u64);
    for share in shares {
        match share.cache_guaranteed {
            Some(size) => said = said.saturating_add(size.0),
            None => silent += 1,
        }
    }
    let left = (cache_bytes / 2).saturating_sub(said);
    (left / silent.max(1)).min(cache_bytes / DEFAULT_PART)
}

/// What a volume may have.
pub(super) fn volume_portion(maximum: Option<u64>, default_guarantee: u64, cache_bytes: u64) -> Portion {
    let maximum_bytes = maximum.map_or(cache_bytes / 4 * 3, |bytes| bytes.min(cache_bytes));
    Portion { guaranteed_bytes: default_guarantee.min(cache_bytes / VOLUME_PART).min(maximum_bytes), maximum_bytes }
}

/// What a share may have.
pub(super) fn portion(share: &ShareConfig, default_guarantee: u64, cache_bytes: u64) -> Portion {
    let maximum_bytes = share.cache_maximum.map_or(cache_bytes / 4 * 3, |size| size.0.min(cache_bytes));
    let guaranteed_bytes = share.cache_guaranteed.map_or(default_guarantee, |size| size.0).min(maximum_bytes);
    Portion { guaranteed_bytes, maximum_bytes }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(text: &str) -> ShareConfig {
        toml::from_str(&format!("bucket = \"b\"\n{text}")).unwrap()
    }

    #[test]
    fn however_many_shares_half_of_the_cache_is_nobodys() {
        let cache_bytes = 16 << 30;
        for (count, expected) in [(1, 1 << 30), (8, 1 << 30), (14, (8 << 30) / 14), (100, (8 << 30) / 100)] {
            let shares = vec![share(""); count];
            assert_eq!(default_guarantee(&shares, 0, cache_bytes), expected, "{count} shares");
            let sum: u64 = shares.iter().map(|share| portion(share, expected, cache_bytes).guaranteed_bytes).sum();
            assert!(sum <= cache_bytes / 2);
            for volumes in [1, 17, 1_000] {
                let default = default_guarantee(&shares, volumes, cache_bytes);
                let shares: u64 = shares.iter().map(|share| portion(share, default, cache_bytes).guaranteed_bytes).sum();
                let volume = volume_portion(None, default, cache_bytes).guaranteed_bytes;
                assert!(shares + volume * volumes as u64 <= cache_bytes / 2, "{count} shares, {volumes} volumes");
                assert!(0 < volume && volume <= cache_bytes / 32);
            }
        }
    }

    #[test]
    fn what_files_say_is_taken_from_what_is_divided() {
        let shares = [share("cache_guaranteed = \"7 GiB\""), share(""), share(""), share("cache_maximum = \"1 MiB\"")];
        let default = default_guarantee(&shares, 0, 16 << 30);
        assert_eq!(default, (1 << 30) / 3);
        let portions = shares.each_ref().map(|share| portion(share, default, 16 << 30));
        assert_eq!(portions.map(|portion| portion.guaranteed_bytes), [7 << 30, default, default, 1 << 20]);
        assert_eq!(portions[0].maximum_bytes, 12 << 30);
        assert_eq!(volume_portion(Some(1 << 20), default, 16 << 30).guaranteed_bytes, 1 << 20);
        let greedy = [share("cache_guaranteed = \"12 GiB\""), share("")];
        assert_eq!(default_guarantee(&greedy, 0, 16 << 30), 0);
    }
}

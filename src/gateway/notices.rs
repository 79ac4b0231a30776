//! What an operator should know: kept for `status` by what it is about, and said in the log when it changes.
//!
//! Invariants: one notice for each [`About`]: a newer one replaces it, success clears it. There are at most [`NOTICES_MAX`]; where there
//! are more, the oldest are in the log only, and `status` says so.

use parking_lot::Mutex;

/// Notices that are kept.
const NOTICES_MAX: usize = 100;
/// The longest text that is kept, in bytes.
const TEXT_BYTES_MAX: usize = 2048;

/// What a notice is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum About {
    /// The so-many-th damage that the start found. Nothing clears it.
    Damage(usize),
    /// The directory of the shares' files.
    Shares,
    /// A share's file, by the share's name.
    File(String),
    /// Whether a share's endpoint answers, by the share's name.
    Endpoint(String),
    /// What a share's endpoint lacks, by the share's name.
    Lacks(String),
    /// An address that could not be listened on.
    Listen(String),
    /// The embedded endpoint's directory.
    Embedded,
    /// The data directory's disk.
    Disk,
    /// The users of SMB.
    Users,
}

/// See the file's header.
#[derive(Debug, Default)]
pub(super) struct Notices(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    /// Oldest first.
    notices: Vec<(About, String)>,
    /// Some were given up for newer ones.
    is_overfull: bool,
}

impl Notices {
    /// Says `text` in the log, if that is news, and keeps it.
    pub fn say(&self, about: About, mut text: String) {
        if text.len() > TEXT_BYTES_MAX {
            text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
        }
        let mut kept = self.0.lock();
        let before = kept.notices.iter().position(|(other, _)| *other == about);
        if before.is_some_and(|index| kept.notices[index].1 == text) {
            return;
        }
        tracing::warn!("{text}");
        match before {
            Some(index) => kept.notices[index].1 = text,
            None => kept.notices.push((about, text)),
        }
        if kept.notices.len() > NOTICES_MAX {
            kept.notices.remove(0);
            kept.is_overfull = true;
        }
    }

    /// It is well again. Whether there was something.
    pub fn clear(&self, about: &About) -> bool {
        let mut kept = self.0.lock();
        let before = kept.notices.len();
        kept.notices.retain(|(other, _)| other != about);
        kept.is_overfull &= !kept.notices.is_empty();
        kept.notices.len() < before
    }

    /// Whether there is one.
    pub fn has(&self, about: &About) -> bool {
        self.0.lock().notices.iter().any(|(other, _)| other == about)
    }

    /// Forgets what is about files and endpoints of shares that are not among `names` any more.
    pub fn keep_shares(&self, is_there: impl Fn(&str) -> bool) {
        self.0.lock().notices.retain(|(about, _)| match about {
            About::File(name) | About::Endpoint(name) | About::Lacks(name) => is_there(name),
            _ => true,
        });
    }

    /// All of them, oldest first.
    pub fn all(&self) -> Vec<String> {
        let kept = self.0.lock();
        let mut all: Vec<String> = kept.notices.iter().map(|(_, text)| text.clone()).collect();
        if kept.is_overfull {
            all.push("there were more notices than are kept; the older ones are in the log".to_owned());
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str) -> About {
        About::File(name.to_owned())
    }

    #[test]
    fn a_newer_one_replaces_and_success_clears() {
        let notices = Notices::default();
        notices.say(file("a"), "line 1 is wrong".into());
        notices.say(file("b"), "b is wrong".into());
        notices.say(file("a"), "line 2 is wrong".into());
        assert_eq!(notices.all(), ["line 2 is wrong", "b is wrong"]);
        assert!(notices.clear(&file("a")));
        assert!(!notices.clear(&file("a")));
        assert_eq!(notices.all(), ["b is wrong"]);
        notices.say(About::Shares, "no share".into());
        notices.keep_shares(|name| name != "b");
        assert_eq!(notices.all(), ["no share"]);
    }

    #[test]
    fn there_are_never_more_than_so_many() {
        let notices = Notices::default();
        for number in 0..3 * NOTICES_MAX {
            notices.say(file(&number.to_string()), "ä".repeat(TEXT_BYTES_MAX));
        }
        let all = notices.all();
        assert_eq!(all.len(), NOTICES_MAX + 1);
        assert!(all[NOTICES_MAX].contains("in the log"));
        assert!(all.iter().all(|text| text.len() <= TEXT_BYTES_MAX));
        for number in 0..3 * NOTICES_MAX {
            notices.clear(&file(&number.to_string()));
        }
        assert!(notices.all().is_empty());
    }
}

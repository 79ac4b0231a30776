//! Names as the share keeps them and as SMB clients see them.
//!
//! A Windows client can neither show nor ask for some names that other front ends make: those with `" * : < > ? \ |` or control characters, a space
//! or a full stop at the end, and device names (`AUX`, `aux.c`). They are shown with characters of Unicode's private use area, the ones of Apple's
//! Services for Macintosh (U+F001 to U+F029) that macOS and Linux (`mapposix`) turn back into the real ones. A device name has no form there: the
//! last character of its stem is shown as U+F000 and its ASCII code.
//!
//! Invariants:
//! - `decode(encode(name))` is `name` for every name without such characters; one that has them is found by [`key`], as what it is shown as.
//! - Both ways keep the number of UTF-16 units, so a name that fits in the share fits in the protocol.

use std::borrow::Cow;

use unicode_normalization::{UnicodeNormalization, is_nfc};

/// The first character of the private area.
const AREA: u32 = 0xF000;
/// What U+F020 and the following stand for; the last two only at the end of a name.
const SPECIAL: [char; 10] = ['"', '*', ':', '<', '>', '?', '\\', '|', ' ', '.'];
const SPECIAL_FIRST: u32 = AREA + 0x20;
/// Devices of Windows, with any extension.
const DEVICES: [&str; 6] = ["CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"];
/// Devices that a digit follows.
const NUMBERED_DEVICES: [&str; 2] = ["COM", "LPT"];

/// A name as clients see it.
pub(super) fn encode(name: &str) -> Cow<'_, str> {
    let device = device_end(name);
    let is_plain = device.is_none() && !name.ends_with([' ', '.']) && !name.chars().any(|c| special(c, false).is_some());
    if is_plain {
        return Cow::Borrowed(name);
    }
    let last = name.char_indices().last().map_or(0, |(at, _)| at);
    let shown = name.char_indices().map(|(at, c)| {
        let escaped = match device {
            Some(end) if at == end && c.is_ascii() => Some(AREA + c as u32),
            _ => special(c, at == last),
        };
        escaped.and_then(char::from_u32).unwrap_or(c)
    });
    Cow::Owned(shown.collect())
}

/// The name that a client means, where it is not one that exists as it is (see [`key`]).
pub(super) fn decode(shown: &str) -> Cow<'_, str> {
    if !has_private(shown) {
        return Cow::Borrowed(shown);
    }
    let name: String = shown.chars().map(|c| plain(c).unwrap_or(c)).collect();
    if encode(&name) == shown { Cow::Owned(name) } else { Cow::Borrowed(shown) }
}

/// Whether a name that clients ask for may stand for another one than its own characters.
pub(super) fn has_private(shown: &str) -> bool {
    shown.chars().any(|c| plain(c).is_some())
}

/// What two names have in common that clients cannot tell apart. With `folds`: in Unicode's composed form and without case.
pub(super) fn key(shown: &str, folds: bool) -> Cow<'_, str> {
    match (folds, shown.is_ascii()) {
        (false, _) => Cow::Borrowed(shown),
        (true, true) if !shown.bytes().any(|byte| byte.is_ascii_uppercase()) => Cow::Borrowed(shown),
        (true, true) => Cow::Owned(shown.to_ascii_lowercase()),
        (true, false) if is_nfc(shown) => Cow::Owned(shown.to_lowercase()),
        (true, false) => Cow::Owned(shown.nfc().collect::<String>().to_lowercase()),
    }
}

/// The private character of one that Windows cannot hold.
fn special(c: char, is_last: bool) -> Option<u32> {
    match c {
        '\u{1}'..='\u{1f}' => Some(AREA + c as u32),
        ' ' | '.' if !is_last => None,
        _ => SPECIAL.iter().position(|special| *special == c).and_then(|at| u32::try_from(at).ok()).map(|at| SPECIAL_FIRST + at),
    }
}

/// What a private character stands for.
fn plain(c: char) -> Option<char> {
    let code = (c as u32).checked_sub(AREA)?;
    match code {
        0x01..=0x1f | 0x30..=0x39 | 0x41..=0x5a | 0x61..=0x7a => char::from_u32(code),
        0x20..=0x29 => SPECIAL.get(code as usize - 0x20).copied(),
        _ => None,
    }
}

/// Where the last character of a device's name is, if the name is one.
fn device_end(name: &str) -> Option<usize> {
    let stem = name.split('.').next().unwrap_or(name).trim_end_matches(' ');
    let upper = stem.to_ascii_uppercase();
    let is_numbered = || {
        let digit = upper.strip_prefix(NUMBERED_DEVICES[0]).or_else(|| upper.strip_prefix(NUMBERED_DEVICES[1]));
        digit.is_some_and(|digit| matches!(digit, "1" | "2" | "3" | "4" | "5" | "6" | "7" | "8" | "9"))
    };
    if !(DEVICES.contains(&upper.as_str()) || is_numbered()) {
        return None;
    }
    // The `$` of CONIN$ is U+F024, which is `>`: the letter before it is taken.
    Some(stem.len() - if stem.ends_with('$') { 2 } else { 1 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_windows_cannot_hold_is_shown_as_apple_does() {
        for (name, shown) in [
            ("plain.txt", "plain.txt"),
            ("a:b", "a\u{f022}b"),
            ("what?", "what\u{f025}"),
            ("\"*<>\\|", "\u{f020}\u{f021}\u{f023}\u{f024}\u{f026}\u{f027}"),
            ("line\nfeed", "line\u{f00a}feed"),
            ("ends. ", "ends.\u{f028}"),
            ("ends .", "ends \u{f029}"),
            (".hidden", ".hidden"),
            ("AUX", "AU\u{f058}"),
            ("aux.tar.gz", "au\u{f078}.tar.gz"),
            ("com7", "com\u{f037}"),
            ("con .txt", "co\u{f06e} .txt"),
            ("CONOUT$", "CONOU\u{f054}$"),
            ("COM10", "COM10"),
            ("auxiliary", "auxiliary"),
        ] {
            assert_eq!(encode(name), shown);
            assert_eq!(decode(shown), name);
        }
    }

    #[test]
    fn a_private_character_that_stands_for_nothing_is_itself() {
        for name in ["x\u{f058}", "\u{f028}a", "\u{f8ff}", "au\u{f078}x"] {
            assert_eq!(decode(name), name);
        }
    }

    #[test]
    fn keys_forget_case_and_composition() {
        assert_eq!(key("Straße.TXT", true), key("straße.txt", true));
        assert_eq!(key("Cafe\u{301}", true), key("CAFÉ", true));
        assert_ne!(key("a", false), key("A", false));
        assert_eq!(key("abc", true), "abc");
    }

    proptest! {
        #[test]
        fn what_is_shown_is_a_name_for_windows_and_means_the_same(name in "[ -~\u{1}-\u{1f}äéß€]{1,12}|(?i)(con|prn|aux|nul|com[0-9]|lpt[0-9])[ .a-z]{0,4}") {
            let shown = encode(&name);
            prop_assert_eq!(decode(&shown), name.as_str());
            prop_assert_eq!(shown.encode_utf16().count(), name.encode_utf16().count());
            prop_assert!(!shown.ends_with([' ', '.']));
            prop_assert!(!shown.chars().any(|c| c < ' ' || "\"*:<>?\\|".contains(c)), "{}", shown);
            prop_assert!(device_end(&shown).is_none(), "{}", shown);
        }
    }
}

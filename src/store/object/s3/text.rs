//! Text that a header, a URL or XML would bend.
//!
//! - *User metadata.* A header holds ASCII. A value of other characters is written as encoded words (RFC 2047, UTF-8, base64), as S3
//!   itself answers with for such values; so is a value that would be taken for encoded words, or that HTTP would trim. All else is
//!   written as it is. What is read is decoded wherever it has encoded words that are understood, and else left as it is. (Endpoints
//!   that decode by themselves, and answer in plain ASCII, make one value ambiguous: the one that is an encoded word in earnest.)
//! - *Keys in a copy source* are percent-encoded by the caller, says S3; `/` stays.
//! - *Keys in listings* are asked for percent-encoded, since XML 1.0 cannot hold all of them; a space may come as `+`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// RFC 3986 "unreserved", and `/`.
const ENCODED_IN_KEYS: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');

/// The most bytes of text in one encoded word, which has 75 characters at most (RFC 2047 §2).
const WORD_BYTES: usize = 45;

/// A metadata value as a header can hold it.
pub fn to_header(value: &str) -> String {
    let plain = value.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    if plain && value.trim() == value && !value.contains("=?") {
        return value.to_owned();
    }
    let mut words = Vec::new();
    let mut rest = value;
    while !rest.is_empty() {
        let (word, after) = rest.split_at(floor(rest, WORD_BYTES));
        words.push(format!("=?UTF-8?B?{}?=", BASE64.encode(word)));
        rest = after;
    }
    words.join(" ")
}

/// The last character boundary at or before `at`.
fn floor(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|index| text.is_char_boundary(*index)).unwrap_or(0)
}

/// A metadata value as it was meant.
pub fn from_header(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    let mut rest = value;
    let mut after_word = false;
    while let Some(start) = rest.find("=?") {
        let before = &rest[..start];
        let Some((word, after)) = encoded_word(&rest[start..]) else {
            text.push_str(&rest[..start + 2]);
            rest = &rest[start + 2..];
            after_word = false;
            continue;
        };
        // White space between two encoded words is not part of the text (RFC 2047 §6.2).
        if !(after_word && before.trim().is_empty()) {
            text.push_str(before);
        }
        text.push_str(&word);
        rest = after;
        after_word = true;
    }
    text + rest
}

/// Decodes `=?charset?encoding?text?=` at the beginning of `input`, and says what follows.
fn encoded_word(input: &str) -> Option<(String, &str)> {
    let mut fields = input.strip_prefix("=?")?.splitn(3, '?');
    let (charset, encoding, rest) = (fields.next()?, fields.next()?, fields.next()?);
    let (encoded, after) = rest.split_once("?=")?;
    let bytes = match encoding {
        "B" | "b" => BASE64.decode(encoded).ok()?,
        "Q" | "q" => from_q(encoded)?,
        _ => return None,
    };
    let text = if charset.eq_ignore_ascii_case("UTF-8") || charset.eq_ignore_ascii_case("US-ASCII") {
        String::from_utf8(bytes).ok()?
    } else if charset.eq_ignore_ascii_case("ISO-8859-1") {
        bytes.into_iter().map(char::from).collect()
    } else {
        return None;
    };
    Some((text, after))
}

/// The "Q" encoding (RFC 2047 §4.2).
fn from_q(encoded: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut input = encoded.bytes();
    while let Some(byte) = input.next() {
        bytes.push(match byte {
            b'_' => b' ',
            b'=' => {
                let digits = [input.next()?, input.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            other => other,
        });
    }
    Some(bytes)
}

/// `x-amz-copy-source`.
pub fn copy_source(bucket: &str, key: &str, version: Option<&str>) -> String {
    let key = utf8_percent_encode(key, ENCODED_IN_KEYS);
    match version {
        Some(version) => format!("{bucket}/{key}?versionId={}", utf8_percent_encode(version, ENCODED_IN_KEYS)),
        None => format!("{bucket}/{key}"),
    }
}

/// A key of a listing with `encoding-type=url`.
pub fn from_listing(encoded: &str) -> String {
    let spaced = encoded.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
}

/// Whether XML 1.0 can hold a text, and gives it back as it is (carriage returns come back as line feeds).
pub fn fits_xml(text: &str) -> bool {
    text.chars().all(|c| matches!(c, '\t' | '\n' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_a_header_can_hold_is_left_alone() {
        for plain in ["", "0100644", "two words", "100%25", "a=b?c", "?="] {
            assert_eq!(to_header(plain), plain);
            assert_eq!(from_header(plain), plain);
        }
    }

    #[test]
    fn other_values_are_encoded_words() {
        assert_eq!(to_header("grün"), "=?UTF-8?B?Z3LDvG4=?=");
        assert_eq!(to_header("=?"), "=?UTF-8?B?PT8=?=");
        assert_eq!(to_header(" padded"), "=?UTF-8?B?IHBhZGRlZA==?=");
        for word in to_header(&"🌊".repeat(40)).split(' ') {
            assert!(word.len() <= 75, "{word}");
        }
    }

    #[test]
    fn encoded_words_of_others_are_read() {
        for (header, text) in [
            ("=?UTF-8?Q?gr=C3=BCn_und_blau?=", "grün und blau"),
            ("=?iso-8859-1?q?gr=FCn?=", "grün"),
            ("before =?utf-8?b?Z3LDvG4=?= after", "before grün after"),
            ("=?UTF-8?B?Z3I=?= \t =?UTF-8?B?w7xu?=", "grün"),
            ("=?KOI8-R?B?8A==?=", "=?KOI8-R?B?8A==?="),
            ("=?UTF-8?B?not base64?=", "=?UTF-8?B?not base64?="),
            ("=?UTF-8?Q?=Z?=", "=?UTF-8?Q?=Z?="),
            ("=?=?=?", "=?=?=?"),
        ] {
            assert_eq!(from_header(header), text, "{header}");
        }
    }

    #[test]
    fn keys_in_urls() {
        assert_eq!(copy_source("b", "a b/ü+%?", None), "b/a%20b/%C3%BC%2B%25%3F");
        assert_eq!(copy_source("b", "k", Some("v/1")), "b/k?versionId=v/1");
        assert_eq!(from_listing("a+b%2B%C3%BC/"), "a b+ü/");
        assert!(fits_xml("a\nü\u{10ffff}") && !fits_xml("bell\u{7}") && !fits_xml("\r"));
    }

    proptest! {
        #[test]
        fn every_value_comes_back(value in any::<String>()) {
            let header = to_header(&value);
            prop_assert!(header.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{header:?}");
            prop_assert_eq!(header.trim(), &header);
            prop_assert_eq!(from_header(&header), value);
        }

        #[test]
        fn reading_never_fails(header in any::<String>()) {
            let _ = from_header(&header);
        }
    }
}

//! Text: `key=value` pairs, closed by zeroes (RFC 7143 §6.1).
//!
//! Invariant: what is read is bounded in all before it is looked at; a text that goes on over several units is put together here.

use bytes::Bytes;

/// The longest text of several units, in bytes.
const TEXT_BYTES_MAX: usize = 64 << 10;
/// Pairs of one text.
const PAIRS_MAX: usize = 256;
/// The longest key (§6.1), in bytes.
const KEY_BYTES_MAX: usize = 63;

/// A text that is none, or one beyond the limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("text that is no list of key=value pairs")]
pub(super) struct NotText;

/// The pairs of a text, in order.
pub(super) type Pairs = Vec<(String, String)>;

/// Text that goes on.
#[derive(Debug, Default)]
pub(super) struct Gathered(Vec<u8>);

impl Gathered {
    /// Adds a unit's data; the pairs where it was the last.
    ///
    /// # Errors
    /// Where it is too long, or no text.
    pub(super) fn add(&mut self, data: &Bytes, goes_on: bool) -> Result<Option<Pairs>, NotText> {
        if self.0.len() + data.len() > TEXT_BYTES_MAX {
            return Err(NotText);
        }
        self.0.extend_from_slice(data);
        if goes_on {
            return Ok(None);
        }
        parse(&std::mem::take(&mut self.0)).map(Some)
    }
}

/// Reads pairs.
///
/// # Errors
/// Where there is something else.
pub(super) fn parse(data: &[u8]) -> Result<Pairs, NotText> {
    let text = std::str::from_utf8(data).map_err(|_| NotText)?;
    let mut pairs = Vec::new();
    for pair in text.split('\0').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').ok_or(NotText)?;
        if key.is_empty() || key.len() > KEY_BYTES_MAX || pairs.len() >= PAIRS_MAX {
            return Err(NotText);
        }
        pairs.push((key.to_owned(), value.to_owned()));
    }
    Ok(pairs)
}

/// Writes pairs.
pub(super) fn write<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Vec<u8> {
    pairs.into_iter().flat_map(|(key, value)| [key.as_bytes(), b"=", value.as_bytes(), b"\0"].concat()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read_and_written() {
        let text = b"InitiatorName=iqn.x\0Empty=\0A=b=c\0";
        let pairs = parse(text).unwrap();
        let named: Vec<_> = pairs.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert_eq!(named, [("InitiatorName", "iqn.x"), ("Empty", ""), ("A", "b=c")]);
        assert_eq!(write(named), text);
        assert!(parse(b"").unwrap().is_empty());
        assert_eq!(parse(b"A=b").unwrap().len(), 1);
        for wrong in [&b"A"[..], b"=b\0", b"\xff=\0", &[b'a'; 100], &b"k=v\0".repeat(PAIRS_MAX + 1)] {
            assert_eq!(parse(wrong), Err(NotText));
        }
    }

    #[test]
    fn a_text_goes_on_within_bounds() {
        let mut gathered = Gathered::default();
        assert_eq!(gathered.add(&Bytes::from_static(b"Key=va"), true), Ok(None));
        let whole = gathered.add(&Bytes::from_static(b"lue\0"), false).unwrap().unwrap();
        assert_eq!(whole, [("Key".to_owned(), "value".to_owned())]);
        let piece = Bytes::from(vec![b'a'; 8192]);
        let refused = (0..100).find(|_| gathered.add(&piece, true).is_err());
        assert_eq!(refused, Some(8));
    }
}

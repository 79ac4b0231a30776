//! Range reads: a statement for each order, along its index.

use std::sync::LazyLock;

use super::super::order::{Place, Range};
use super::super::rows::Key;
use super::table::{Query, bits, query, statements};
use crate::base::id::{NodeId, OwnerId};

/// What follows the columns, in the order of [`index`]. The last value is always the limit.
const CONDITIONS: [&str; 9] = [
    "WHERE parent = ? AND (cookie, name) >= (?, ?) ORDER BY cookie, name LIMIT ?",
    "WHERE node = ? AND (parent, name) >= (?, ?) ORDER BY parent, name LIMIT ?",
    "WHERE owner = ? AND key >= ? AND key < ifnull(?, x'') ORDER BY key LIMIT ?",
    "WHERE node = ? AND (owner, key) >= (?, ?) ORDER BY owner, key LIMIT ?",
    "WHERE owner = ? AND (since_ns, subject) >= (?, ?) ORDER BY since_ns, subject LIMIT ?",
    "WHERE owner = ? AND (seq, node, prefix) >= (?, ?, ?) ORDER BY seq, node, prefix LIMIT ?",
    "WHERE node = ? AND name >= ? ORDER BY name LIMIT ?",
    "WHERE links = 0 AND owner = ? AND node >= ? ORDER BY node LIMIT ?",
    "WHERE owner >= ? ORDER BY owner LIMIT ?",
];

static RANGES: LazyLock<[String; 9]> = LazyLock::new(|| {
    let mut index = 0;
    CONDITIONS.map(|condition| {
        index += 1;
        format!("{} {condition}", statements(&KEYS[index - 1]).select)
    })
});

/// A key of each range's table; its values do not matter.
const KEYS: [Key; 9] = [
    Key::Entry(NodeId(0), Vec::new()),
    Key::Entry(NodeId(0), Vec::new()),
    Key::Object(OwnerId(0), String::new()),
    Key::Object(OwnerId(0), String::new()),
    Key::Job(OwnerId(0), 0),
    Key::Move(OwnerId(0), NodeId(0), String::new()),
    Key::Xattr(NodeId(0), Vec::new()),
    Key::Node(NodeId(0)),
    Key::Owner(OwnerId(0)),
];

/// The statement of a range from a place on, and a key that tells the table.
pub(super) fn select(range: &Range, from: &Place, limit: usize) -> (Query<'static>, &'static Key) {
    let from = from.max(&range.start()).clone();
    let (index, bound) = match from {
        Place::Entry(parent, cookie, name) => {
            let query = query(&RANGES[0]).bind(bits(parent.0)).bind(bits(cookie.min(i64::MAX as u64))).bind(name);
            (0, query)
        }
        Place::NameOf(node, parent, name) => (1, query(&RANGES[1]).bind(bits(node.0)).bind(bits(parent.0)).bind(name)),
        Place::Object(owner, key) => {
            let end = if let Range::Objects(_, prefix) = range { prefix_end(prefix) } else { None };
            (2, query(&RANGES[2]).bind(owner.0).bind(key).bind(end))
        }
        Place::ObjectOf(node, owner, key) => (3, query(&RANGES[3]).bind(bits(node.0)).bind(owner.0).bind(key)),
        Place::Job(owner, since_ns, subject) => (4, query(&RANGES[4]).bind(owner.0).bind(since_ns).bind(bits(subject))),
        Place::Move(owner, seq, node, prefix) => {
            let query = query(&RANGES[5]).bind(owner.0).bind(bits(seq.0)).bind(bits(node.0)).bind(prefix);
            (5, query)
        }
        Place::Xattr(node, name) => (6, query(&RANGES[6]).bind(bits(node.0)).bind(name)),
        Place::Orphan(owner, node) => (7, query(&RANGES[7]).bind(owner.0).bind(bits(node.0))),
        Place::Owner(owner) => (8, query(&RANGES[8]).bind(owner.0)),
    };
    static TABLES: [Key; 9] = KEYS;
    (bound.bind(i64::try_from(limit).unwrap_or(i64::MAX)), &TABLES[index])
}

/// The least text above all that begin with `prefix`; `None` where there is none. (In SQLite every blob is above every
/// text, so an empty blob stands for none.)
fn prefix_end(prefix: &str) -> Option<String> {
    let mut end = prefix.to_owned();
    while let Some(last) = end.pop() {
        let next = (u32::from(last) + 1..=u32::from(char::MAX)).find_map(char::from_u32);
        if let Some(next) = next {
            end.push(next);
            return Some(end);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix() {
        assert_eq!(prefix_end("a/").as_deref(), Some("a0"));
        assert_eq!(prefix_end("a\u{d7ff}").as_deref(), Some("a\u{e000}"));
        assert_eq!(prefix_end("a\u{10ffff}\u{10ffff}").as_deref(), Some("b"));
        assert_eq!(prefix_end("\u{10ffff}"), None);
        assert_eq!(prefix_end(""), None);
    }
}

//! Which names a search pattern matches (MS-FSA 2.1.4.4).
//!
//! `*` is any characters, `?` one; the forms of DOS: `<` any characters before the last full stop, `>` one character or nothing at a full stop or at
//! the end, `"` a full stop or nothing at the end. Invariant: a name costs its length times the pattern's, whatever the pattern is.

use super::names;

/// A pattern of QUERY_DIRECTORY.
pub(super) struct Pattern {
    wanted: Vec<char>,
    folds: bool,
}

impl Pattern {
    /// With `folds` case makes no difference.
    pub(super) fn new(text: &str, folds: bool) -> Self {
        Self { wanted: names::key(text, folds).chars().collect(), folds }
    }

    /// Whether it is one name.
    pub(super) fn is_name(text: &str) -> bool {
        !text.contains(['*', '?', '<', '>', '"'])
    }

    /// Whether all of `name`, as clients see it, matches.
    pub(super) fn matches(&self, name: &str) -> bool {
        let name: Vec<char> = names::key(name, self.folds).chars().collect();
        let last_stop = name.iter().rposition(|c| *c == '.');
        // Places of the pattern that what was read of the name may have reached.
        let mut reached = vec![false; self.wanted.len() + 1];
        reached[0] = true;
        for (at, c) in name.iter().enumerate() {
            self.skip(&mut reached, *c == '.', false);
            let mut next = vec![false; reached.len()];
            for (place, wanted) in self.wanted.iter().enumerate().filter(|(place, _)| reached[*place]) {
                match wanted {
                    '*' => next[place] = true,
                    '<' => next[place] |= Some(at) != last_stop,
                    '?' => next[place + 1] = true,
                    '>' => next[place + 1] |= *c != '.',
                    '"' => next[place + 1] |= *c == '.',
                    wanted => next[place + 1] |= wanted == c,
                }
            }
            reached = next;
        }
        self.skip(&mut reached, false, true);
        reached.last() == Some(&true)
    }

    /// Passes what may stand for nothing here.
    fn skip(&self, reached: &mut [bool], at_stop: bool, at_end: bool) {
        for (place, wanted) in self.wanted.iter().enumerate() {
            let may_be_nothing = match wanted {
                '*' | '<' => true,
                '>' => at_stop || at_end,
                '"' => at_end,
                _ => false,
            };
            if reached[place] && may_be_nothing {
                reached[place + 1] = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_the_specification_says() {
        for (pattern, yes, no) in [
            ("*", &["", "a", "a.b"][..], &[][..]),
            ("*.txt", &["a.txt", ".txt", "a.b.TXT"], &["a.txt2", "txt"]),
            ("a?c", &["abc", "A.c"], &["ac", "abbc"]),
            ("<.txt", &["a.txt", "a.b.txt"], &["a.txt.b"]),
            ("<\"*", &["a", "a.b", "a.b.c"], &[]),
            ("a>>", &["a", "ab", "abc"], &["abcd", "b"]),
            ("a>>.c", &["a.c", "ab.c", "abc.c"], &["abcd.c"]),
            ("a\"", &["a", "a."], &["ab"]),
            ("*a*a*a*a*b", &["xaaaab"], &["aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"]),
        ] {
            for (names, expected) in [(yes, true), (no, false)] {
                for name in names {
                    assert_eq!(Pattern::new(pattern, true).matches(name), expected, "{pattern} {name}");
                }
            }
        }
        assert!(!Pattern::new("A*", false).matches("abc"));
        assert!(Pattern::is_name("a b.c") && !Pattern::is_name("a*"));
    }
}

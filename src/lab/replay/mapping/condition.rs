//! Conditions on lines.

use memchr::memmem;

use super::{Expression, Line};
use crate::engine::rules::{Expression as Regex, Glob};

/// Condition on a line.
#[derive(Clone, Debug)]
pub(in crate::lab::replay) enum Condition {
    /// Every one holds; true without any.
    All(Vec<Self>),
    /// One of them holds; false without any.
    Any(Vec<Self>),
    /// It does not hold.
    Not(Box<Self>),
    /// A value is as wanted.
    Is(Expression, Matcher),
}

/// Test of a value.
#[derive(Clone, Debug)]
pub(in crate::lab::replay) enum Matcher {
    /// Present.
    Present,
    /// Like the pattern, in which `*` stands for any text.
    Glob(Glob),
    /// An item of a list that commas separate.
    ListItem(Box<[u8]>),
    /// This text; the flag ignores the case of ASCII.
    Exact(Box<[u8]>, bool),
    /// Begins with it.
    Prefix(Box<[u8]>, bool),
    /// Ends with it.
    Suffix(Box<[u8]>, bool),
    /// Contains it.
    Contains(Box<[u8]>, bool),
    /// The whole value matches.
    Regex(Regex),
    /// A number from the first one on and below the second one.
    Range(i64, i64),
}

impl Default for Condition {
    fn default() -> Self {
        Self::All(Vec::new())
    }
}

impl Condition {
    /// True if it holds for `line`. A value that is absent is nothing that is wanted.
    pub(in crate::lab::replay) fn holds(&self, line: Line<'_>, scratch: &mut Vec<u8>) -> bool {
        match self {
            Self::All(all) => all.iter().all(|one| one.holds(line, scratch)),
            Self::Any(any) => any.iter().any(|one| one.holds(line, scratch)),
            Self::Not(other) => !other.holds(line, scratch),
            Self::Is(value, matcher) => value.text(line, scratch).is_some_and(|text| matcher.matches(text)),
        }
    }
}

impl Matcher {
    fn matches(&self, text: &[u8]) -> bool {
        let folded = |ignore_case: bool, wanted: &[u8], matches: fn(&[u8], &[u8]) -> bool| {
            if ignore_case {
                matches(&text.to_ascii_lowercase(), &wanted.to_ascii_lowercase())
            } else {
                matches(text, wanted)
            }
        };
        match self {
            Self::Present => true,
            Self::Glob(glob) => glob.matches(text),
            Self::ListItem(item) => text.split(|byte| *byte == b',').any(|found| *found == **item),
            Self::Exact(wanted, fold) => folded(*fold, wanted, |text, wanted| text == wanted),
            Self::Prefix(wanted, fold) => folded(*fold, wanted, |text, wanted| text.starts_with(wanted)),
            Self::Suffix(wanted, fold) => folded(*fold, wanted, |text, wanted| text.ends_with(wanted)),
            Self::Contains(wanted, fold) => {
                folded(*fold, wanted, |text, wanted| memmem::find(text, wanted).is_some())
            }
            Self::Regex(regex) => regex.matches(text),
            Self::Range(start, end) => {
                let number = std::str::from_utf8(text).ok().and_then(|text| text.trim().parse::<i64>().ok());
                number.is_some_and(|number| (*start..*end).contains(&number))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_matcher_matches_its_texts_and_no_others() {
        let bytes = |text: &str| Box::from(text.as_bytes());
        for (matcher, taken, refused) in [
            (Matcher::Present, "x", None),
            (Matcher::Glob(Glob::new("/a/*")), "/a/b", Some("/b")),
            (Matcher::ListItem(bytes("RL")), "UF,RL", Some("RLSE")),
            (Matcher::Exact(bytes("a"), true), "A", Some("b")),
            (Matcher::Exact(bytes("a"), false), "a", Some("A")),
            (Matcher::Prefix(bytes("a"), false), "ab", Some("ba")),
            (Matcher::Suffix(bytes("a"), false), "ba", Some("ab")),
            (Matcher::Contains(bytes("A"), true), "bab", Some("bb")),
            (Matcher::Regex(Regex::new("a+").expect("a regex")), "aa", Some("aab")),
            (Matcher::Range(-1, 5), "4", Some("5")),
        ] {
            assert!(matcher.matches(taken.as_bytes()), "{matcher:?}");
            assert!(!refused.is_some_and(|text| matcher.matches(text.as_bytes())), "{matcher:?}");
        }
    }
}

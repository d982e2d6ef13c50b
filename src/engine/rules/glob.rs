//! Patterns with `*`, which matches any bytes, including none. Matching is linear in the text: the pieces
//! between stars are searched once, from left to right.

use memchr::memmem;

/// Pattern with stars.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob {
    text: Box<str>,
}

impl Glob {
    /// Pattern `text`. Without a star it matches only itself.
    pub fn new(text: &str) -> Self {
        Self { text: text.into() }
    }

    /// Text of the pattern, as written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// True if the pattern matches the whole `text`.
    pub fn matches(&self, text: &[u8]) -> bool {
        let Some((head, rest)) = self.text.split_once('*') else { return text == self.text.as_bytes() };
        let (middle, tail) = rest.rsplit_once('*').unwrap_or(("", rest));
        let Some(text) = text.strip_prefix(head.as_bytes()) else { return false };
        let Some(mut text) = text.strip_suffix(tail.as_bytes()) else { return false };
        middle.split('*').all(|piece| match memmem::find(text, piece.as_bytes()) {
            Some(at) => {
                text = &text[at + piece.len()..];
                true
            }
            None => false,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, text: &str) -> bool {
        Glob::new(pattern).matches(text.as_bytes())
    }

    #[test]
    fn a_star_matches_any_text_including_none() {
        for (pattern, taken, refused) in [
            ("foo*", &["foo", "foo1", "foo2"][..], &["bar", "fo", "xfoo"][..]),
            ("bar*b", &["barab", "bar123b", "barb"], &["bara", "xbarb", "bar"]),
            ("foo*bar*baz", &["foobarbaz", "foo123bar456baz"], &["foo123baz", "bar456baz", "foobaz"]),
            ("*", &["", "x"], &[]),
            ("*.php", &[".php", "a.php"], &["a.php5", "php"]),
            ("a**b", &["ab", "axb"], &["a", "b"]),
            ("aba*aba", &["abaaba"], &["aba", "ababa"]),
        ] {
            taken.iter().for_each(|text| assert!(matches(pattern, text), "{pattern} matches {text}"));
            refused
                .iter()
                .for_each(|text| assert!(!matches(pattern, text), "{pattern} does not match {text}"));
        }
        assert!(matches("foo", "foo") && !matches("foo", "foo1"), "a text without a star matches itself");
    }

    /// Definition: a star matches nothing, or one byte and then the rest.
    fn naive(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern.split_first(), text.split_first()) {
            (None, None) => true,
            (Some((b'*', rest)), _) => {
                naive(rest, text) || text.split_first().is_some_and(|(_, later)| naive(pattern, later))
            }
            (Some((p, pattern)), Some((t, text))) => p == t && naive(pattern, text),
            _ => false,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(5_000))]

        #[test]
        fn it_matches_the_same_texts_as_the_definition(pattern in "[ab*]{0,6}", text in "[ab]{0,8}") {
            prop_assert_eq!(matches(&pattern, &text), naive(pattern.as_bytes(), text.as_bytes()));
        }
    }
}

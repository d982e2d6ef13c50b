//! Escaping of text from outside for logs, errors and answers.

use std::borrow::Cow;

/// Upper bound, in bytes, on an error message that goes to a caller.
pub const MAX_MESSAGE_BYTES: usize = 200;

/// Longest name that is compared with known ones: the comparison takes quadratic time.
const MAX_COMPARED_BYTES: usize = 64;

/// Mark of a cut.
const ELLIPSIS: char = '…';

/// `text` on one line: control characters, and characters that break or reorder lines, are escaped as in Rust
/// (`\n`, `\u{1b}`). Cut at `max_bytes` with an ellipsis.
pub fn one_line(text: &str, max_bytes: usize) -> Cow<'_, str> {
    if text.len() <= max_bytes && !text.chars().any(must_escape) {
        return Cow::Borrowed(text);
    }
    let mut line = String::new();
    for c in text.chars() {
        let len = line.len();
        if must_escape(c) {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
        if line.len() > max_bytes {
            line.truncate(len);
            line.push(ELLIPSIS);
            break;
        }
    }
    Cow::Owned(line)
}

/// [`one_line()`] of bytes. Those that are not UTF-8 are shown as `\xff`.
pub fn one_line_of_bytes(bytes: &[u8], max_bytes: usize) -> String {
    // A character has at most four bytes, so nothing that fits is lost.
    let head = bytes.get(..max_bytes.saturating_add(4)).unwrap_or(bytes);
    one_line(&with_byte_escapes(head), max_bytes).into_owned()
}

fn with_byte_escapes(bytes: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = str::from_utf8(bytes) {
        return Cow::Borrowed(text);
    }
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    Cow::Owned(text)
}

/// `bytes` as text without escapes, cut at `max_bytes` with an ellipsis, for formats that escape by themselves.
pub fn cut(bytes: &[u8], max_bytes: usize) -> Cow<'_, str> {
    match bytes.get(..max_bytes) {
        Some(head) if head.len() < bytes.len() => {
            let mut text = String::from_utf8_lossy(head).into_owned();
            text.push(ELLIPSIS);
            Cow::Owned(text)
        }
        _ => String::from_utf8_lossy(bytes),
    }
}

/// True if `c` could end a line, move the cursor, or make a terminal reorder the text.
fn must_escape(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// The one of `known` that `name` is probably meant to be.
pub fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    if name.len() > MAX_COMPARED_BYTES {
        return None;
    }
    let nearest = known
        .iter()
        .map(|known| (strsim::normalized_damerau_levenshtein(name, known), *known))
        .filter(|(likeness, _)| *likeness > 0.5)
        .max_by(|(a, _), (b, _)| a.total_cmp(b));
    nearest.map(|(_, nearest)| nearest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn characters_that_could_forge_a_line_are_escaped() {
        for (text, expected) in [
            ("", ""),
            ("größe \\n", "größe \\n"),
            ("a\nb\r\tc", "a\\nb\\r\\tc"),
            ("\u{1b}[31m", "\\u{1b}[31m"),
            ("\u{7f}\u{9b}0\u{0}", "\\u{7f}\\u{9b}0\\u{0}"),
            ("a\u{2028}b\u{202e}c", "a\\u{2028}b\\u{202e}c"),
        ] {
            assert_eq!(one_line(text, 200), expected);
        }
        assert_eq!(one_line_of_bytes(b"a\xff\n", 200), "a\\xff\\n");
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        assert_eq!(one_line("abcdef", 5), "abcde…");
        assert_eq!(one_line("äää", 5), "ää…");
        assert_eq!(one_line("ab\n\n", 5), "ab\\n…");
        assert_eq!(one_line_of_bytes(&[b'x'; 10_000], 3), "xxx…");
    }

    proptest! {
        #[test]
        fn no_text_leaves_its_line_or_its_bound(bytes in prop::collection::vec(any::<u8>(), 0..300), max in 0..250usize) {
            let shown = one_line_of_bytes(&bytes, max);
            prop_assert!(shown.len() <= max + ELLIPSIS.len_utf8());
            prop_assert!(!shown.chars().any(must_escape));
        }
    }
}

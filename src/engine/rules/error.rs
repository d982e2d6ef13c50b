//! Errors in rules, with source, position and excerpt.

use std::collections::BTreeSet;
use std::fmt;

use super::span::SourceSpan;

/// Upper bound on excerpts, in characters: a generated file is often one long line.
const EXCERPT_CHARS_MAX: usize = 120;

/// Error or warning in a source of rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleError {
    /// Name of the source: the path of a file.
    pub source: String,
    /// Position in the source.
    pub span: SourceSpan,
    /// The position as a path, for a source that is not text.
    pub path: Option<String>,
    /// Part of the line around the position; `None` for an error of the source as a whole.
    pub excerpt: Option<Excerpt>,
    /// Problem and remedy.
    pub message: String,
}

/// Part of a line of up to 120 characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excerpt {
    /// Text, with `…` where it is cut.
    pub text: String,
    /// Characters of the text before the position.
    pub caret: usize,
}

/// Errors of one load in the order of sources and lines, up to [`super::MAX_REPORTED`] of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleErrors {
    /// Errors that are reported.
    pub reported: Vec<RuleError>,
    /// Number of errors that are not.
    pub omitted: usize,
    /// Names of the sources of those.
    pub omitted_sources: BTreeSet<String>,
}

impl RuleError {
    /// Error of a source as a whole, such as an unreadable file.
    pub fn of_source(source: &str, message: impl Into<String>) -> Self {
        Self {
            source: source.to_owned(),
            span: SourceSpan::default(),
            path: None,
            excerpt: None,
            message: message.into(),
        }
    }
}

impl Excerpt {
    /// Part of `line` around the character `column`, counted from 1.
    pub(super) fn around(line: &str, column: u32) -> Self {
        let before = usize::try_from(column).unwrap_or(usize::MAX).saturating_sub(1);
        let (mut start, mut cut_end) = (0, false);
        let mut chars: Vec<char> = line.chars().take(EXCERPT_CHARS_MAX + 1).collect();
        if chars.len() > EXCERPT_CHARS_MAX {
            start = before.saturating_sub(EXCERPT_CHARS_MAX / 2);
            chars = line.chars().skip(start).take(EXCERPT_CHARS_MAX - 1).collect();
            cut_end = line.chars().nth(start + chars.len()).is_some();
        }
        let shown = |c: &char| if c.is_control() && *c != '\t' { char::REPLACEMENT_CHARACTER } else { *c };
        let mut text: String = chars.iter().map(shown).collect();
        let mut caret = before - start;
        if start > 0 {
            // The mark replaces the first character.
            text.replace_range(..text.chars().next().map_or(0, char::len_utf8), "…");
            caret = caret.max(1);
        }
        if cut_end {
            text.push('…');
        }
        Self { text, caret }
    }
}

impl RuleErrors {
    /// Number of errors, reported or not.
    pub fn count(&self) -> usize {
        self.reported.len() + self.omitted
    }

    /// True if there is no error.
    pub fn is_empty(&self) -> bool {
        self.reported.is_empty()
    }

    /// Names of the sources that have errors, whether they are reported or not.
    pub fn sources(&self) -> impl Iterator<Item = &str> {
        let reported = self.reported.iter().map(|error| error.source.as_str());
        reported.chain(self.omitted_sources.iter().map(String::as_str))
    }

    /// Adds the errors of another load, up to the bound.
    pub fn extend(&mut self, other: Self) {
        self.omitted += other.omitted;
        self.omitted_sources.extend(other.omitted_sources);
        for error in other.reported {
            self.push(error);
        }
    }

    /// Adds an error, up to the bound.
    pub fn push(&mut self, error: RuleError) {
        if self.reported.len() < super::MAX_REPORTED {
            self.reported.push(error);
        } else {
            self.omitted += 1;
            self.omitted_sources.insert(error.source);
        }
    }

    /// The first `max` errors and the number of the others.
    pub fn first(&self, max: usize) -> Self {
        let (reported, others) = self.reported.split_at(max.min(self.reported.len()));
        let omitted_sources = others.iter().map(|error| &error.source).chain(&self.omitted_sources);
        Self {
            reported: reported.to_vec(),
            omitted: others.len() + self.omitted,
            omitted_sources: omitted_sources.cloned().collect(),
        }
    }
}

impl From<RuleError> for RuleErrors {
    fn from(error: RuleError) -> Self {
        Self { reported: vec![error], ..Self::default() }
    }
}

impl fmt::Display for RuleError {
    /// `source:line:column: message`, and below it the excerpt with a caret under the position;
    /// `source: path: message` for a source that is not text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SourceSpan { line, column } = self.span;
        if let Some(path) = &self.path {
            return write!(f, "{}: {path}: {}", self.source, self.message);
        }
        if line == 0 {
            return write!(f, "{}: {}", self.source, self.message);
        }
        write!(f, "{}:{line}:{column}: {}", self.source, self.message)?;
        let Some(Excerpt { text, caret }) = &self.excerpt else { return Ok(()) };
        let indent: String = text.chars().take(*caret).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        write!(f, "\n{line:>6} | {text}\n       | {indent}^")
    }
}

impl fmt::Display for RuleErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.reported.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{error}")?;
        }
        if self.omitted > 0 {
            write!(f, "\nand {} more", self.omitted)?;
        }
        Ok(())
    }
}

impl std::error::Error for RuleError {}
impl std::error::Error for RuleErrors {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_shows_the_position_within_its_bound() {
        for (line, column) in [
            ("short".to_owned(), 1),
            ("short".to_owned(), 6),
            ("x".repeat(120), 120),
            (format!("{}MARK{}", "ü".repeat(1_000), "z".repeat(1_000)), 1_001),
            (format!("MARK{}", "z".repeat(1_000)), 1),
            (format!("{}MARK", "z".repeat(1_000)), 1_001),
            (format!("{}M", "\u{1b}".repeat(130)), 131),
        ] {
            let excerpt = Excerpt::around(&line, column);
            assert!(excerpt.text.chars().count() <= EXCERPT_CHARS_MAX, "{excerpt:?}");
            assert!(!excerpt.text.contains('\u{1b}'), "{excerpt:?}");
            if line.contains('M') {
                assert_eq!(excerpt.text.chars().nth(excerpt.caret), Some('M'), "{excerpt:?}");
            }
        }
    }
}

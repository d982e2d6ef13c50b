//! Problems found in rules, bounded in number and length: a generated file may have one for each entry.

use std::borrow::Cow;

use super::span::SourceSpan;

/// Most problems that a load reports; further ones are counted.
pub const MAX_REPORTED: usize = 100;
/// Longest message, in characters: messages quote values.
const MESSAGE_CHARS_MAX: usize = 500;
/// Longest value that a message quotes, in characters.
const VALUE_CHARS_MAX: usize = 100;

/// Problem and its position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Position in its source.
    pub span: SourceSpan,
    /// Problem and remedy.
    pub message: String,
}

/// Up to [`MAX_REPORTED`] problems, and the number of the others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnostics {
    kept: Vec<Diagnostic>,
    omitted: usize,
}

impl Diagnostics {
    /// The one problem at `span`.
    pub fn of(span: SourceSpan, message: impl Into<String>) -> Self {
        let mut one = Self::default();
        one.push(span, message);
        one
    }

    /// Adds a problem.
    pub fn push(&mut self, span: SourceSpan, message: impl Into<String>) {
        if self.kept.len() < MAX_REPORTED {
            let message = cut(&message.into(), MESSAGE_CHARS_MAX).into_owned();
            self.kept.push(Diagnostic { span, message });
        } else {
            self.omitted += 1;
        }
    }

    /// Adds every problem of `others`.
    pub fn append(&mut self, others: Self) {
        self.omitted += others.omitted;
        for Diagnostic { span, message } in others.kept {
            self.push(span, message);
        }
    }

    /// True if there is no problem.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// Number of problems, reported or not.
    pub fn count(&self) -> usize {
        self.kept.len() + self.omitted
    }

    /// Number of problems that are only counted.
    pub fn omitted(&self) -> usize {
        self.omitted
    }

    /// Reported problems.
    pub fn into_kept(self) -> Vec<Diagnostic> {
        self.kept
    }

    /// `good`, unless there is a problem.
    pub(super) fn or<T>(self, good: T) -> Result<T, Self> {
        if self.is_empty() { Ok(good) } else { Err(self) }
    }
}

/// Beginning of a value, for a message.
pub(super) fn shortened(value: &str) -> Cow<'_, str> {
    cut(value, VALUE_CHARS_MAX)
}

fn cut(text: &str, chars_max: usize) -> Cow<'_, str> {
    match text.char_indices().nth(chars_max) {
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
        None => Cow::Borrowed(text),
    }
}

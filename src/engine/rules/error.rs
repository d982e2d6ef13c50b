//! What is wrong with rules as written, and where.

use std::fmt;

/// A position in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct SourceSpan {
    /// Counted from 1; 0 where the file as a whole is meant.
    pub line: u32,
    /// In characters, counted from 1.
    pub column: u32,
}

/// One mistake, or something that is probably one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleError {
    /// The file, as its loader names it.
    pub file: String,
    /// Where in it.
    pub span: SourceSpan,
    /// The line itself.
    pub source_line: String,
    /// What is wrong, and what would be right.
    pub message: String,
}

/// Every mistake found, in the order of files and lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleErrors(pub Vec<RuleError>);

impl RuleError {
    /// A mistake that is the whole file's: it cannot be read, for one.
    pub fn of_file(file: &str, message: String) -> Self {
        Self { file: file.to_owned(), span: SourceSpan::default(), source_line: String::new(), message }
    }

    /// A mistake at `span` in the file called `file`, whose text is `text`.
    pub(super) fn new(file: &str, text: &str, span: SourceSpan, message: String) -> Self {
        let line = usize::try_from(span.line).unwrap_or_default();
        let source_line = line.checked_sub(1).and_then(|above| text.lines().nth(above)).unwrap_or_default();
        Self { file: file.to_owned(), span, source_line: source_line.to_owned(), message }
    }
}

impl fmt::Display for RuleError {
    /// `file:line:column: message`, and below it the line with a mark under the column.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SourceSpan { line, column } = self.span;
        if line == 0 {
            return write!(f, "{}: {}", self.file, self.message);
        }
        writeln!(f, "{}:{line}:{column}: {}", self.file, self.message)?;
        writeln!(f, "{line:>6} | {}", self.source_line)?;
        let before = self.source_line.chars().take(usize::try_from(column).unwrap_or(1).saturating_sub(1));
        let indent: String = before.map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        write!(f, "       | {indent}^")
    }
}

impl fmt::Display for RuleErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for RuleError {}
impl std::error::Error for RuleErrors {}

//! What is wrong with rules as written.

/// One mistake, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleError {
    /// The file, as its loader names it.
    pub file: String,
    /// Line, counted from 1; 0 where the mistake is the whole file's.
    pub line: usize,
    /// Column in characters, counted from 1.
    pub column: usize,
    /// The line itself.
    pub source_line: String,
    /// What is wrong, and what would be right.
    pub message: String,
}

/// Every mistake found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleErrors(pub Vec<RuleError>);

//! Positions in sources of rules.

/// Position in a source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct SourceSpan {
    /// Line, counted from 1; 0 for the source as a whole.
    pub line: u32,
    /// Column in characters, counted from 1.
    pub column: u32,
}

/// Value and its position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Located<T> {
    pub(super) value: T,
    pub(super) span: SourceSpan,
}

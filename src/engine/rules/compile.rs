//! From rules as written to rules in force.

use super::{RuleErrors, Rules, SourceFile};

/// How files are put together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CompileOptions {
    /// Files of one domain are joined; otherwise the second one is an error.
    pub merge_domains: bool,
}

/// Compiles `files` into one rule set. Rules that `previous` had under the same stats path keep
/// their counts.
///
/// # Errors
/// Every mistake in every file.
pub fn compile(
    _files: &[SourceFile],
    _options: CompileOptions,
    _previous: Option<&Rules>,
) -> Result<Rules, RuleErrors> {
    unimplemented!()
}

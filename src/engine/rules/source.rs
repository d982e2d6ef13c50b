//! Rules as written.

/// One rule file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// The name to use in errors: the path as the operator knows it.
    pub name: String,
    /// The YAML; one document or several.
    pub text: String,
}

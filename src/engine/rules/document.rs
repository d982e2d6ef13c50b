//! Document tree: rules as written, independent of the format of the source.

use std::borrow::Cow;
use std::fmt;

use serde_json::{Map, Number, Value};

use super::diagnostics::{Diagnostics, shortened};
use super::span::{NodePaths, SourceSpan};

/// Source of rules that load or fail together, such as a file.
pub trait RuleSource {
    /// Name in errors.
    fn name(&self) -> &str;

    /// Documents, each the rules of one domain or a part of them.
    fn documents(&self) -> Documents;

    /// Text that positions refer to; errors quote it. `None` for a source that is not text.
    fn text(&self) -> Option<&str> {
        None
    }

    /// True if a source without rules is one that is meant to have none: its sender has no other way to say
    /// so. A file says `descriptors: []`.
    fn may_be_empty(&self) -> bool {
        false
    }
}

/// Documents of a source, and the problems found while reading them.
#[derive(Debug, Default)]
pub struct Documents {
    /// Documents that are not empty, in order.
    pub nodes: Vec<SourceNode>,
    /// Reasons not to load the source.
    pub errors: Diagnostics,
    /// Probable mistakes in a source that loads.
    pub warnings: Diagnostics,
    /// Paths that positions refer to; `None` for a text.
    pub paths: Option<NodePaths>,
}

/// Value in a document and its position.
#[derive(Clone, Debug)]
pub struct SourceNode {
    /// Value.
    pub value: SourceValue,
    /// Position of the value where it is used, not where an alias defines it.
    pub span: SourceSpan,
    /// Spelling of a number or a boolean, if it is not the canonical one: `007`.
    literal: Option<Box<str>>,
}

/// Value in a document.
#[derive(Clone, Debug)]
pub enum SourceValue {
    /// Nothing.
    Null,
    /// Boolean.
    Bool(bool),
    /// Finite number.
    Number(Number),
    /// Text.
    Text(String),
    /// List.
    List(Vec<SourceNode>),
    /// Map in the order of the document; keys are unique.
    Map(Vec<(SourceNode, SourceNode)>),
}

impl SourceNode {
    /// Node with the canonical spelling of its value.
    pub const fn new(value: SourceValue, span: SourceSpan) -> Self {
        Self { value, span, literal: None }
    }

    /// Number or boolean that is spelt `literal`.
    pub fn with_literal(value: SourceValue, span: SourceSpan, literal: &str) -> Self {
        Self { value, span, literal: Some(literal.into()) }
    }

    /// Text of a scalar as spelt: `007` stays `007`. `None` for lists, maps and null.
    pub fn text(&self) -> Option<Cow<'_, str>> {
        match (&self.value, &self.literal) {
            (SourceValue::Text(text), _) => Some(Cow::Borrowed(text)),
            (SourceValue::Bool(_) | SourceValue::Number(_), Some(literal)) => Some(Cow::Borrowed(literal)),
            (SourceValue::Bool(truth), None) => Some(Cow::Owned(truth.to_string())),
            (SourceValue::Number(number), None) => Some(Cow::Owned(number.to_string())),
            (SourceValue::Null | SourceValue::List(_) | SourceValue::Map(_), _) => None,
        }
    }

    /// Value as JSON. Keys that are not text become text.
    pub fn json(&self) -> Value {
        match &self.value {
            SourceValue::Null => Value::Null,
            SourceValue::Bool(truth) => Value::Bool(*truth),
            SourceValue::Number(number) => Value::Number(number.clone()),
            SourceValue::Text(text) => Value::String(text.clone()),
            SourceValue::List(items) => items.iter().map(Self::json).collect(),
            SourceValue::Map(entries) => Value::Object(json_map(entries)),
        }
    }
}

impl fmt::Display for SourceNode {
    /// Value in an error, shortened.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            SourceValue::Null => f.write_str("nothing"),
            SourceValue::List(_) => f.write_str("a list"),
            SourceValue::Map(_) => f.write_str("a map"),
            SourceValue::Bool(_) | SourceValue::Number(_) | SourceValue::Text(_) => {
                write!(f, "'{}'", shortened(&self.text().unwrap_or_default()))
            }
        }
    }
}

/// Map as JSON.
pub(super) fn json_map(entries: &[(SourceNode, SourceNode)]) -> Map<String, Value> {
    let name = |key: &SourceNode| key.text().map_or_else(|| key.to_string(), Cow::into_owned);
    entries.iter().map(|(key, value)| (name(key), value.json())).collect()
}

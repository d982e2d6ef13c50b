//! Positions in sources of rules.

/// Position in a source: line and column of a text, or node and field of a tree ([`NodePaths`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct SourceSpan {
    /// Line or node, counted from 1; 0 for the source as a whole.
    pub line: u32,
    /// Column in characters, counted from 1, or field of the node; 0 for the node itself.
    pub column: u32,
}

/// Value and its position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Located<T> {
    pub(super) value: T,
    pub(super) span: SourceSpan,
}

/// Paths of the nodes of a source that is not text, such as `descriptors[3 "user"].rate_limit`. A path is put
/// together when it is shown: a source has many nodes, and few of them are ever reported.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodePaths {
    /// Names of fields; those of a span are counted from 1.
    fields: &'static [&'static str],
    nodes: Vec<PathNode>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct PathNode {
    /// Node that this one is a part of; 0 for the source.
    parent: u32,
    name: Box<str>,
}

impl NodePaths {
    /// Paths of a tree whose nodes have these fields.
    pub const fn new(fields: &'static [&'static str]) -> Self {
        Self { fields, nodes: Vec::new() }
    }

    /// Adds a node that `parent` calls `name`, and returns its position. Nodes are added in the order of the
    /// source, parents before their parts.
    pub fn add(&mut self, parent: SourceSpan, name: impl Into<Box<str>>) -> SourceSpan {
        self.nodes.push(PathNode { parent: parent.line, name: name.into() });
        SourceSpan { line: u32::try_from(self.nodes.len()).unwrap_or(u32::MAX), column: 0 }
    }

    /// Position of the field `name` of the node at `span`.
    pub fn field(&self, span: SourceSpan, name: &str) -> SourceSpan {
        let index = self.fields.iter().position(|field| *field == name);
        let column = index.and_then(|index| u32::try_from(index + 1).ok());
        SourceSpan { column: column.unwrap_or_default(), ..span }
    }

    /// Path of the position; empty for the source as a whole.
    pub(super) fn path(&self, span: SourceSpan) -> String {
        let index = |number: u32| usize::try_from(number).ok()?.checked_sub(1);
        let field = index(span.column).and_then(|index| self.fields.get(index)).copied();
        let mut names: Vec<&str> = field.into_iter().collect();
        let mut next = span.line;
        while let Some(node) = index(next).and_then(|index| self.nodes.get(index)) {
            names.push(&node.name);
            // A node stands after its parent, so the way up ends.
            next = node.parent.min(next - 1);
        }
        names.reverse();
        names.join(".")
    }
}

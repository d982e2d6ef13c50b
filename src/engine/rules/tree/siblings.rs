//! Nodes with the same key and parent, found by value: exact value, first glob, longest network, first regular
//! expression, bare key.

use hashbrown::HashMap;

use super::{Node, Pattern};
use crate::engine::rules::cidr::NetworkMap;
use crate::engine::rules::glob::Glob;
use crate::engine::rules::normalize::{Normalize, Text};
use crate::engine::rules::pattern::Expression;
use crate::engine::rules::text_map::TextMap;

/// Nodes for one key.
#[derive(Debug, Default)]
pub(in crate::engine::rules) struct Siblings {
    /// Normalization of values.
    normalize: Option<Box<Normalize>>,
    /// Nodes; the other fields are indexes into them.
    nodes: Vec<Node>,
    exact: TextMap<Exact>,
    /// Boxed: most keys have no patterns, and the struct stays small.
    patterns: Option<Box<Patterns>>,
    bare: Option<u32>,
}

/// Nodes with other patterns than exact values.
#[derive(Debug, Default)]
struct Patterns {
    globs: Vec<(Glob, u32)>,
    /// Globs and expressions by text, for the compiler's search for duplicates.
    by_text: HashMap<(PatternKind, Box<str>), u32>,
    networks: NetworkMap,
    expressions: Vec<(Box<Expression>, u32)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum PatternKind {
    Glob,
    Regex,
}

/// Nodes of one value. A rule with this `value` takes precedence over a list that contains it.
#[derive(Clone, Copy, Debug, Default)]
struct Exact {
    alone: Option<u32>,
    listed: Option<u32>,
}

/// Conflict of a node with earlier nodes, which are identified by [`Node::order`].
#[derive(Debug, PartialEq, Eq)]
pub(in crate::engine::rules) enum Conflict {
    /// Another node has the same pattern.
    Node(u32),
    /// Other nodes have some of its items, as written in their lists.
    Items(Vec<(String, u32)>),
}

impl Siblings {
    /// Value to match.
    pub(in crate::engine::rules) fn normalized<'a>(&self, value: &'a [u8]) -> Text<'a> {
        match &self.normalize {
            None => Text::Borrowed(value),
            Some(normalize) => normalize.matched(value),
        }
    }

    /// Value to count, from the matched value.
    pub(in crate::engine::rules) fn counted<'a>(&self, matched: Text<'a>) -> Text<'a> {
        match &self.normalize {
            None => matched,
            Some(normalize) => normalize.counted(matched),
        }
    }

    pub(in crate::engine::rules) fn exact(&self, value: &[u8]) -> Option<&Node> {
        let found = self.exact.get(value)?;
        self.node(found.alone.or(found.listed)?)
    }

    pub(in crate::engine::rules) fn first_glob(&self, value: &[u8]) -> Option<&Node> {
        let (_, index) = self.patterns.as_ref()?.globs.iter().find(|(glob, _)| glob.matches(value))?;
        self.node(*index)
    }

    /// Match after all globs.
    pub(in crate::engine::rules) fn network_expression_or_bare(&self, value: &[u8]) -> Option<&Node> {
        let pattern = self.patterns.as_ref().and_then(|patterns| patterns.network_or_expression(value));
        self.node(pattern.or(self.bare)?)
    }

    fn node(&self, index: u32) -> Option<&Node> {
        self.nodes.get(index as usize)
    }

    /// Normalization of values.
    pub(in crate::engine::rules) fn normalize(&self) -> Option<&Normalize> {
        self.normalize.as_deref()
    }

    pub(in crate::engine::rules) fn set_normalize(&mut self, normalize: Normalize) {
        self.normalize = Some(Box::new(normalize));
    }

    /// Nodes in the order of insertion.
    pub(in crate::engine::rules) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Inserts `node`.
    ///
    /// # Errors
    /// [`Conflict`] with earlier nodes; `node` is dropped.
    pub(in crate::engine::rules) fn insert(&mut self, node: Node) -> Result<(), Conflict> {
        let index = u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
        match &node.pattern {
            Pattern::Any => self.free(self.bare)?,
            Pattern::Exact(value) => {
                self.free(self.exact.get(value.as_bytes()).and_then(|exact| exact.alone))?
            }
            Pattern::OneOf(one_of) => {
                let listed = |value: &str| self.exact.get(value.as_bytes()).and_then(|exact| exact.listed);
                self.none(
                    one_of.values.iter().filter_map(|value| Some((value.to_string(), listed(value)?))),
                )?;
            }
            Pattern::Glob(glob) => self.free(self.by_text(PatternKind::Glob, glob.text()))?,
            Pattern::Cidr(cidr) => {
                let known = |network| self.patterns.as_ref().and_then(|known| known.networks.exact(network));
                let networks = cidr.networks.iter();
                self.none(networks.filter_map(|network| Some((network.to_string(), known(network)?))))?;
            }
            Pattern::Regex(expression) => {
                self.free(self.by_text(PatternKind::Regex, expression.written()))?
            }
        }
        self.index(&node.pattern, index);
        self.nodes.push(node);
        Ok(())
    }

    /// Indexes the node at `index` by its `pattern`.
    fn index(&mut self, pattern: &Pattern, index: u32) {
        match pattern {
            Pattern::Any => self.bare = Some(index),
            Pattern::Exact(value) => self.exact.entry(value.as_bytes()).alone = Some(index),
            Pattern::OneOf(one_of) => {
                for value in &one_of.values {
                    self.exact.entry(value.as_bytes()).listed = Some(index);
                }
            }
            Pattern::Glob(glob) => {
                let patterns = self.patterns.get_or_insert_default();
                patterns.by_text.insert((PatternKind::Glob, glob.text().into()), index);
                patterns.globs.push((glob.clone(), index));
            }
            Pattern::Cidr(cidr) => {
                let map = &mut self.patterns.get_or_insert_default().networks;
                cidr.networks.iter().for_each(|network| map.insert(*network, index));
            }
            Pattern::Regex(expression) => {
                let patterns = self.patterns.get_or_insert_default();
                patterns.by_text.insert((PatternKind::Regex, expression.written().into()), index);
                patterns.expressions.push((expression.clone(), index));
            }
        }
    }

    fn by_text(&self, kind: PatternKind, text: &str) -> Option<u32> {
        self.patterns.as_ref()?.by_text.get(&(kind, text.into())).copied()
    }

    /// Fails if there is a node `before`.
    fn free(&self, before: Option<u32>) -> Result<(), Conflict> {
        match before.and_then(|index| self.node(index)) {
            Some(node) => Err(Conflict::Node(node.order)),
            None => Ok(()),
        }
    }

    /// Fails if items are `taken`.
    fn none(&self, taken: impl Iterator<Item = (String, u32)>) -> Result<(), Conflict> {
        let taken: Vec<_> = taken.filter_map(|(item, index)| Some((item, self.node(index)?.order))).collect();
        if taken.is_empty() { Ok(()) } else { Err(Conflict::Items(taken)) }
    }
}

impl Patterns {
    fn network_or_expression(&self, value: &[u8]) -> Option<u32> {
        let expression = || {
            let (_, index) = self.expressions.iter().find(|(expression, _)| expression.matches(value))?;
            Some(*index)
        };
        self.networks.find(value).or_else(expression)
    }
}

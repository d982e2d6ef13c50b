//! The nodes of one key below one node, found by a value: the exact one, else the first pattern with a
//! star, the longest network, the first expression, and at last the bare key.

use super::cidr::NetworkMap;
use super::glob::Glob;
use super::normalize::{Normalize, Text};
use super::pattern::Expression;
use super::text_map::TextMap;
use super::tree::{Node, Pattern};

/// The nodes for one key.
#[derive(Debug, Default)]
pub(super) struct Siblings {
    /// What is done to values first; `None` where no rule says anything.
    normalize: Option<Box<Normalize>>,
    /// Everything below leads here by index.
    nodes: Vec<Node>,
    exact: TextMap<Exact>,
    /// Most keys have none: without them there is less to fetch from memory.
    patterns: Option<Box<Patterns>>,
    bare: Option<u32>,
}

/// The nodes that take other values than exact ones.
#[derive(Debug, Default)]
struct Patterns {
    globs: Vec<(Glob, u32)>,
    networks: NetworkMap,
    expressions: Vec<(Box<Expression>, u32)>,
}

/// What one value leads to. A rule for it alone goes before a list that has it.
#[derive(Clone, Copy, Debug, Default)]
struct Exact {
    alone: Option<u32>,
    listed: Option<u32>,
}

/// Why a node has no place.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Clash {
    /// Another takes the same.
    Node,
    /// Others take some of what it takes: these, as their patterns write them.
    Items(Vec<String>),
}

impl Siblings {
    /// The value that nodes are found by.
    pub(super) fn normalized<'a>(&self, value: &'a [u8]) -> Text<'a> {
        match &self.normalize {
            None => Text::Borrowed(value),
            Some(normalize) => normalize.matched(value),
        }
    }

    /// The value that is counted, where `matched` found a node.
    pub(super) fn counted<'a>(&self, matched: Text<'a>) -> Text<'a> {
        match &self.normalize {
            None => matched,
            Some(normalize) => normalize.counted(matched),
        }
    }

    pub(super) fn exact(&self, value: &[u8]) -> Option<&Node> {
        let found = self.exact.get(value)?;
        self.node(found.alone.or(found.listed)?)
    }

    pub(super) fn first_glob(&self, value: &[u8]) -> Option<&Node> {
        let (_, index) = self.patterns.as_ref()?.globs.iter().find(|(glob, _)| glob.takes(value))?;
        self.node(*index)
    }

    /// What comes after every pattern with a star.
    pub(super) fn network_expression_or_bare(&self, value: &[u8]) -> Option<&Node> {
        let pattern = self.patterns.as_ref().and_then(|patterns| patterns.network_or_expression(value));
        self.node(pattern.or(self.bare)?)
    }

    fn node(&self, index: u32) -> Option<&Node> {
        self.nodes.get(index as usize)
    }

    /// What is done to values first.
    pub(super) fn normalize(&self) -> Option<&Normalize> {
        self.normalize.as_deref()
    }

    pub(super) fn set_normalize(&mut self, normalize: Normalize) {
        self.normalize = Some(Box::new(normalize));
    }

    /// The nodes, in the order they came.
    pub(super) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Puts `node` in its place.
    ///
    /// # Errors
    /// The place is taken, in whole or in part. The siblings are of no use then.
    pub(super) fn insert(&mut self, node: Node) -> Result<(), Clash> {
        let index = u32::try_from(self.nodes.len()).map_err(|_| Clash::Node)?;
        match &node.pattern {
            Pattern::Any => free(self.bare.replace(index))?,
            Pattern::Exact(value) => {
                free(self.exact.entry(value.as_bytes()).alone.replace(index))?;
            }
            Pattern::OneOf(one_of) => {
                let is_taken = |value: &&str| {
                    self.exact.get(value.as_bytes()).is_some_and(|exact| exact.listed.is_some())
                };
                let values = one_of.values.iter().map(AsRef::as_ref);
                none(values.filter(is_taken).map(str::to_owned))?;
                for value in &one_of.values {
                    self.exact.entry(value.as_bytes()).listed = Some(index);
                }
            }
            Pattern::Glob(glob) => {
                let globs = &mut self.patterns.get_or_insert_default().globs;
                free(globs.iter().find(|(known, _)| known == glob))?;
                globs.push((glob.clone(), index));
            }
            Pattern::Cidr(cidr) => {
                let map = &mut self.patterns.get_or_insert_default().networks;
                none(cidr.networks.iter().filter(|network| map.contains(network)).map(ToString::to_string))?;
                cidr.networks.iter().for_each(|network| map.insert(*network, index));
            }
            Pattern::Regex(expression) => {
                let expressions = &mut self.patterns.get_or_insert_default().expressions;
                free(expressions.iter().find(|(known, _)| known == expression))?;
                expressions.push((expression.clone(), index));
            }
        }
        self.nodes.push(node);
        Ok(())
    }
}

impl Patterns {
    fn network_or_expression(&self, value: &[u8]) -> Option<u32> {
        let expression = || {
            let (_, index) = self.expressions.iter().find(|(expression, _)| expression.takes(value))?;
            Some(*index)
        };
        self.networks.find(value).or_else(expression)
    }
}

/// Whether nothing was there.
fn free<T>(before: Option<T>) -> Result<(), Clash> {
    before.map_or(Ok(()), |_| Err(Clash::Node))
}

/// Whether there are none.
fn none(taken: impl Iterator<Item = String>) -> Result<(), Clash> {
    let taken: Vec<_> = taken.collect();
    if taken.is_empty() { Ok(()) } else { Err(Clash::Items(taken)) }
}

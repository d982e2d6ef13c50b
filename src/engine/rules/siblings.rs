//! The nodes of one key below one node, found by a value: the exact one, else the first pattern with a
//! star, the longest network, the first expression, and at last the bare key.

use hashbrown::HashMap;

use super::cidr::NetworkMap;
use super::glob::Glob;
use super::normalize::{Normalize, Text};
use super::pattern::Expression;
use super::tree::{Node, Pattern};

/// The nodes for one key.
#[derive(Debug, Default)]
pub(super) struct Siblings {
    /// What is done to values first; `None` where no rule says anything.
    normalize: Option<Box<Normalize>>,
    /// Everything below leads here by index.
    nodes: Vec<Node>,
    exact: HashMap<Box<[u8]>, Exact, foldhash::fast::RandomState>,
    globs: Vec<(Glob, u32)>,
    networks: Option<Box<NetworkMap>>,
    expressions: Vec<(Box<Expression>, u32)>,
    bare: Option<u32>,
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
        let (_, index) = self.globs.iter().find(|(glob, _)| glob.takes(value))?;
        self.node(*index)
    }

    /// What comes after every pattern with a star.
    pub(super) fn network_expression_or_bare(&self, value: &[u8]) -> Option<&Node> {
        let network = || self.networks.as_ref()?.find(value);
        let expression = || {
            self.expressions.iter().find(|(expression, _)| expression.takes(value)).map(|(_, index)| *index)
        };
        self.node(network().or_else(expression).or(self.bare)?)
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
                free(self.exact.entry(value.as_bytes().into()).or_default().alone.replace(index))?;
            }
            Pattern::OneOf(one_of) => {
                let is_taken = |value: &&str| {
                    self.exact.get(value.as_bytes()).is_some_and(|exact| exact.listed.is_some())
                };
                let values = one_of.values.iter().map(AsRef::as_ref);
                none(values.filter(is_taken).map(str::to_owned))?;
                for value in &one_of.values {
                    self.exact.entry(value.as_bytes().into()).or_default().listed = Some(index);
                }
            }
            Pattern::Glob(glob) => {
                free(self.globs.iter().find(|(known, _)| known == glob))?;
                self.globs.push((glob.clone(), index));
            }
            Pattern::Cidr(cidr) => {
                let map = self.networks.get_or_insert_default();
                none(cidr.networks.iter().filter(|network| map.contains(network)).map(ToString::to_string))?;
                cidr.networks.iter().for_each(|network| map.insert(*network, index));
            }
            Pattern::Regex(expression) => {
                free(self.expressions.iter().find(|(known, _)| known == expression))?;
                self.expressions.push((expression.clone(), index));
            }
        }
        self.nodes.push(node);
        Ok(())
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

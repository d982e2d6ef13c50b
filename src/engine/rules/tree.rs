//! The matcher: an immutable tree, one level of it for each entry of a descriptor.
//!
//! Lookup borrows from the request and allocates nothing for descriptors of up to eight entries.

use std::borrow::Cow;

use hashbrown::HashMap;
use smallvec::SmallVec;

use super::Rule;
use super::glob::Glob;
use crate::engine::Entry;
use crate::engine::tally::StatsPath;

type Map<V> = HashMap<Box<[u8]>, V, foldhash::fast::RandomState>;

/// The rules of one domain.
#[derive(Debug)]
pub struct Domain {
    pub(super) name: Box<str>,
    pub(super) hash_tag: bool,
    pub(super) children: Children,
}

/// The nodes below a node, found by an entry in this order: its exact value, the first pattern in
/// the file that takes it, the bare key.
#[derive(Debug, Default)]
pub(super) struct Children {
    by_key: Map<KeyChildren>,
    /// Nodes whose *key* has a star: the pattern is held against `key_value`.
    key_patterns: Vec<(Glob, Node)>,
}

/// The nodes for one key.
#[derive(Debug, Default)]
struct KeyChildren {
    exact: Map<Node>,
    value_patterns: Vec<(Glob, Node)>,
    bare: Option<Box<Node>>,
}

/// One level of a rule: a key, with or without a value.
#[derive(Debug)]
pub struct Node {
    /// The key as written.
    pub key: Box<str>,
    /// Which values it takes.
    pub pattern: Pattern,
    /// Every value that the pattern takes counts as one.
    pub share_threshold: bool,
    /// The level appears in metrics with the request's value.
    pub value_to_metric: bool,
    /// For rules that end here: every level appears in metrics with the request's value.
    pub detailed_metric: bool,
    /// What applies to requests that end here.
    pub rule: Option<Rule>,
    /// Where it stands among all nodes, in the order they were written.
    pub(super) order: u32,
    pub(super) children: Children,
}

/// Which values a node takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Every value.
    Any,
    /// This one.
    Exact(Box<str>),
    /// Those that the pattern takes.
    Glob(Glob),
}

/// The rule that applies to a descriptor, and the levels that led to it, one for each entry.
#[derive(Debug)]
pub struct Match<'r> {
    /// The rule.
    pub rule: &'r Rule,
    /// The nodes, outermost first; at least one.
    pub path: SmallVec<[&'r Node; 8]>,
}

impl Domain {
    /// The domain's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether all of its counters carry one hash tag, and so lie in one slot of a Redis Cluster. Of
    /// several files of one domain, one that asks for it is enough.
    pub fn hash_tag(&self) -> bool {
        self.hash_tag
    }

    /// The rule at exactly the depth of the last entry, if there is one there.
    pub fn find(&self, entries: &[Entry<'_>]) -> Option<Match<'_>> {
        let mut path = SmallVec::<[&Node; 8]>::new();
        let mut children = &self.children;
        for entry in entries {
            let node = children.find(entry)?;
            path.push(node);
            children = &node.children;
        }
        let rule = path.last()?.rule.as_ref()?;
        Some(Match { rule, path })
    }
}

impl Children {
    fn find(&self, entry: &Entry<'_>) -> Option<&Node> {
        let of_key = self.by_key.get(entry.key);
        if let Some(exact) = of_key.and_then(|key| key.exact.get(entry.value)) {
            return Some(exact);
        }
        let by_value = of_key.and_then(|key| first(&key.value_patterns, entry.value));
        let by_key = if self.key_patterns.is_empty() { None } else { self.find_by_key_pattern(entry) };
        match (by_value, by_key) {
            (Some(value), Some(key)) => Some(if value.order < key.order { value } else { key }),
            (Some(node), None) | (None, Some(node)) => Some(node),
            (None, None) => of_key.and_then(|key| key.bare.as_deref()),
        }
    }

    fn find_by_key_pattern(&self, entry: &Entry<'_>) -> Option<&Node> {
        let mut composite = SmallVec::<[u8; 256]>::from_slice(entry.key);
        composite.push(b'_');
        composite.extend_from_slice(entry.value);
        first(&self.key_patterns, &composite)
    }

    /// Puts `node` in its place, unless there is one already: says whether it did.
    pub(super) fn insert(&mut self, node: Node) -> bool {
        if node.key.contains('*') {
            return push(&mut self.key_patterns, Glob::new(&node.composite()), node);
        }
        let of_key = self.by_key.entry(node.key.as_bytes().into()).or_default();
        match &node.pattern {
            Pattern::Any => {
                let is_new = of_key.bare.is_none();
                of_key.bare.get_or_insert(Box::new(node));
                is_new
            }
            Pattern::Exact(value) => of_key.exact.try_insert(value.as_bytes().into(), node).is_ok(),
            Pattern::Glob(glob) => push(&mut of_key.value_patterns, glob.clone(), node),
        }
    }

    /// The nodes, in no order.
    pub(super) fn nodes(&self) -> impl Iterator<Item = &Node> {
        let of_keys = self.by_key.values().flat_map(|key| {
            let patterns = key.value_patterns.iter().map(|(_, node)| node);
            key.exact.values().chain(patterns).chain(key.bare.as_deref())
        });
        of_keys.chain(self.key_patterns.iter().map(|(_, node)| node))
    }
}

fn first<'n>(patterns: &'n [(Glob, Node)], text: &[u8]) -> Option<&'n Node> {
    patterns.iter().find(|(glob, _)| glob.takes(text)).map(|(_, node)| node)
}

fn push(patterns: &mut Vec<(Glob, Node)>, glob: Glob, node: Node) -> bool {
    let is_new = patterns.iter().all(|(known, _)| *known != glob);
    if is_new {
        patterns.push((glob, node));
    }
    is_new
}

impl Node {
    /// `key` or `key_value`, as written: the node's name in errors, dumps and metrics.
    pub(super) fn composite(&self) -> Cow<'_, str> {
        match &self.pattern {
            Pattern::Any => Cow::Borrowed(&self.key),
            Pattern::Exact(value) => Cow::Owned(format!("{}_{value}", self.key)),
            Pattern::Glob(glob) => Cow::Owned(format!("{}_{}", self.key, glob.text())),
        }
    }

    /// The pattern that the values count under in place of their own.
    fn shared_pattern(&self) -> Option<&str> {
        match &self.pattern {
            Pattern::Glob(glob) if self.share_threshold => Some(glob.text()),
            Pattern::Any | Pattern::Exact(_) | Pattern::Glob(_) => None,
        }
    }
}

impl Match<'_> {
    /// The pattern that the entry at `level` counts under in place of its own value.
    pub fn shared_pattern(&self, level: usize) -> Option<&str> {
        self.path.get(level)?.shared_pattern()
    }

    /// The name in metrics, for a rule that wants the request's values in it: at every level where
    /// its last node has `detailed_metric`, else at those with `value_to_metric`. A shared pattern
    /// stays a pattern.
    pub fn stats_path(&self, domain: &str, entries: &[Entry<'_>]) -> StatsPath {
        let detailed = self.path.last().is_some_and(|leaf| leaf.detailed_metric);
        let part = |(node, entry): (&&Node, &Entry<'_>)| {
            let as_asked = (detailed || node.value_to_metric) && node.shared_pattern().is_none();
            if as_asked { StatsPath::value_part(entry) } else { node.composite().into() }
        };
        StatsPath { domain: domain.into(), parts: self.path.iter().zip(entries).map(part).collect() }
    }
}
